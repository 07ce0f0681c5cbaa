"""The files of a run folder, which may come from anybody: each is checked when it is read (see SECURITY.md)."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from mmtab.config.parts import check_targets, with_current_targets
from mmtab.config.saved import settings_of
from mmtab.config.types import SCALES, LocalSettings, RunConfig, WandbConfig
from mmtab.data.checked import ALARMS_RULE
from mmtab.data.schema import PARTS, Schema
from mmtab.runs.manifest import MANIFEST, recording, verified
from mmtab.runs.provenance import REPORT, is_finished
from mmtab.training.places import LAST
from mmtab.utils.addresses import check_here
from mmtab.utils.atomic import write_json, write_text
from mmtab.utils.errors import MmtabError, RunError
from mmtab.utils.paths import FOLDERS, check_run_links
from mmtab.utils.plain import (
    Rule,
    Unfit,
    amounts,
    anything,
    choice,
    either,
    line,
    listed,
    mapping,
    maybe,
    number,
    numbers,
    read_plain,
    record,
    text,
    texts,
)

if TYPE_CHECKING:
    from mmtab.training.tasks import Task

FORMAT = 3
READABLE = (2, 3)  # 2 has the calibration of the task in provenance.json
CONFIG, SCHEMA, FITTED, TASK, METRICS = "config.yaml", "schema.yaml", "fitted.json", "task.json", "metrics.json"
PROVENANCE, CURVES = "provenance.json", "metrics.csv"
GRAPH = "graph.json"  # of an export that has the model as a graph
STEPS, CHOSEN = "steps", "ladder.json"  # of a run that is the best of several recipes
TEXT_LENGTH = "text_length.json"  # in STEPS, while they are trained: the tokens that there is time for
ABLATION = str(REPORT.parent / "ablation.json")
MORE_ROWS = str(REPORT.parent / "more_rows.json")
# Files as patterns of the manifest: what describes a run before it trains, and what it ends with
DESCRIPTION = (CONFIG, SCHEMA, FITTED, "text_backbone/*", "cross_backbone/*")
RESULTS = (TASK, METRICS, CURVES, PROVENANCE, "predictions_valid.parquet", "checkpoints/*.ckpt")
# Settings that leave the numbers of a run as they are
APART = {
    "output",
    "data_root",
    "cache",
    "cache_gb",
    "resume",
    "logger",
    "wandb",
    "test",
    "report",
    "trainer.progress",
    "trainer.n_workers",
    "trainer.checkpoint_seconds",
    "trainer.keep",
    "trainer.on_oom",
    "dataset.name",
    "dataset.path",
    "dataset.image_root",
}


def differences(there: RunConfig, here: RunConfig, settled: bool = True) -> list[str]:
    """Settings that the numbers of a run depend on and that are not the same. ``settled`` false: ``here`` still leaves
    settings open (null, auto), and these agree with whatever was chosen."""
    old, new = deciding(there), deciding(here)
    return [
        f"{name}={old.get(name)} there, {new.get(name)} here"
        for name in sorted(old | new)
        if old.get(name) != new.get(name) and (settled or new.get(name) not in (None, "auto"))
    ]


def deciding(config: RunConfig, apart: set[str] = APART) -> dict[str, Any]:
    """The settings that the numbers of a run depend on: all but those ``apart`` and their parts."""
    return without(flat(dataclasses.asdict(config)), apart)


def without(settings: dict[str, Any], apart: set[str]) -> dict[str, Any]:
    """Settings by their dotted names, but those ``apart`` and their parts."""
    return {
        name: value
        for name, value in settings.items()
        if not any(name == prefix or name.startswith(f"{prefix}.") for prefix in apart)
    }


def flat(config: dict[str, Any]) -> dict[str, Any]:
    """Settings by their dotted names, as on the command line."""

    def walk(value: Any, name: str) -> Iterator[tuple[str, Any]]:
        if isinstance(value, dict) and value:
            for key, inner in value.items():
                yield from walk(inner, f"{name}.{key}" if name else key)
        else:
            yield name, value

    return dict(walk(config, ""))


def check_same(config: RunConfig, folder: Path, settled: bool) -> None:
    """Raise RunError where the run of the folder has other settings; ``settled`` as for ``differences``."""
    different = differences(open_config(folder), config, settled)
    if different:
        finished = is_finished(folder)
        raise RunError(
            f"{folder} already holds {'a finished' if finished else 'an unfinished'} run with other settings "
            f"({'; '.join(different)}); give another output=FOLDER"
            + ("" if finished else ", or resume=never to begin anew")
        )


def check_run_folder(config: RunConfig, folder: Path) -> None:
    """Raise RunError, at once, for a folder that cannot get the run: it holds a finished one of other settings, or what
    no run has written. Of a ladder, whose settings are those of one recipe in the end, training tells."""
    if is_finished(folder):
        if not config.ladder:
            check_same(config, folder, settled=False)
    else:
        check_unclaimed(folder, config.ladder)


def check_unclaimed(folder: Path, ladder: Sequence[str] = ()) -> None:
    """Raise RunError for a folder without a run that holds what a run would overwrite or remove. ``ladder``: recipes
    whose runs may lie in ``steps``."""
    if any((folder / name).exists() for name in (MANIFEST, CHOSEN)):
        return
    with contextlib.suppress(RunError):  # a run that was killed before it had a manifest
        if (folder / CONFIG).exists() and "trainer" in read_plain(folder / CONFIG, anything):
            return
    names = [CONFIG, SCHEMA, FITTED, *RESULTS[:-1], *FOLDERS]
    found = [name for name in names if (folder / name).exists() or (folder / name).is_symlink()]
    steps = folder / STEPS
    known = {*ladder, TEXT_LENGTH} if ladder else set()
    inside = [path.name for path in steps.iterdir()] if steps.is_dir() else []
    found += [f"{STEPS}/{name}" for name in inside if name not in known]
    if found:
        problem = f"{folder} holds {', '.join(found[:3])}, which no run has written and a run would overwrite"
        raise RunError(f"{problem}. Fix: give another output=FOLDER")


# --- what the files may hold -----------------------------------------------------------------------------------------

RATES = ("accuracy", "macro_f1", "top5", "ece", "ece_unscaled", "f1", "precision", "recall", "pr_auc", "roc_auc")
ROUNDING = 1e-9  # by which a rate of an earlier version may exceed 1
AMOUNTS = (
    "n_parameters",
    "n_trained_parameters",
    "peak_memory_mib",
    "train_rows_per_second",
    "predict_rows_per_second",
)
COUNTS = ("n_train", "n_epochs", "seed")
LATER_COUNTS = ("n_threads", "n_processes")  # which the first versions did not write
TEXTS = ("time", "device", "precision", "data_fingerprint")
QUANTILES = numbers(ascending=True, most=1_000_000)


def _metric(value: Any, where: str) -> None:
    rate = where.rpartition("/")[2].rpartition(".")[2] in RATES
    either(text, number(0, 1 + ROUNDING, nan=True) if rate else number(nan=True))(value, where)


def _lexicon(value: Any, where: str) -> None:
    buckets = numbers(0, 1 << 20, ascending=True, whole=True)
    record({"columns": texts(once=True), "buckets_": listed(buckets), "idf_": listed(numbers(0, 1e3))})(value, where)
    if [*map(len, value["buckets_"])] != [*map(len, value["idf_"])] or len(value["idf_"]) != 2 * len(value["columns"]):
        raise Unfit(where, "a weight for each n-gram, and two blocks of them for each column", "others")


def _target(value: Any, where: str) -> None:
    bounds = {name: number() for name in ("mean_", "low_", "high_")} | {"spread_": number(1e-300)}
    record({"kind": text, "knots_": listed(QUANTILES)} | bounds)(value, where)
    n_knots = [*map(len, value["knots_"])]
    if value["kind"] not in SCALES or value["low_"] >= value["high_"]:
        raise Unfit(where, f"one of {', '.join(SCALES)}, from a low to a high label", value["kind"])
    if value["kind"] == "log" and value["low_"] <= 0:
        raise Unfit(f"{where}.low_", "a number above 0", value["low_"])
    if (value["kind"] == "rank") != (len(n_knots) == 2) or len(set(n_knots)) > 1 or min(n_knots, default=2) < 2:
        raise Unfit(f"{where}.knots_", "labels and as many quantiles, of ranks alone", f"{n_knots} of {value['kind']}")


def _facts(value: Any, where: str) -> None:
    """Of versions that this one reads; what others wrote is not looked at."""
    if value.get("format") in READABLE:
        times = {name: number(0) for name in ("prepare", "train", "total")}
        record(
            {name: number(0) for name in AMOUNTS}
            | {name: number(0, whole=True) for name in COUNTS}
            | {name: line for name in TEXTS}
            | {"seconds": record(times)},
            {name: number(0, 1 << 16, whole=True) for name in LATER_COUNTS}
            | {"versions": mapping(maybe(text)), "left_out": mapping(text), "git_commit": maybe(line)}
            | {"base": maybe(mapping(maybe(mapping(_metric)))), "alarms": maybe(ALARMS_RULE)},
        )(value, where)


def _ablation(value: Any, where: str) -> None:
    score, names = number(nan=True), ("loss", "low", "high", "without")
    modality = dict.fromkeys([*names, "alone", "shapley", "shapley_low", "shapley_high", "changed"], score)
    column = dict.fromkeys([*names, "nats"], score) | {"modality": text}
    rules = dict.fromkeys(["n_rows", "n_rows_of_split"], number(0, whole=True))
    rules |= {"split": line, "metric": line, "score": score, "nothing": score, "subsets": mapping(score)}
    rules |= {"modalities": mapping(record(modality | {"columns": texts(), "verdict": text}))}
    rules |= {"columns": mapping(record(column))}
    rules |= {"missingness": record({"shares": numbers(0, 1, ascending=True), "scores": mapping(listed(score))})}
    record(rules)(value, where)
    for name, of_column in value["columns"].items():
        if of_column["modality"] not in value["modalities"]:
            raise Unfit(f"columns.{name}.modality", f"one of {', '.join(value['modalities'])}", of_column["modality"])
    for name, scores in value["missingness"]["scores"].items():
        if len(scores) != len(value["missingness"]["shares"]):
            raise Unfit(f"missingness.scores.{name}", "a score for each share", scores)


def _more_rows(value: Any, where: str) -> None:
    rules = {"metric": line, "rows": numbers(1, ascending=True, whole=True), "scores": numbers(high=1)}
    record(rules, {"modalities": mapping(numbers())})(value, where)
    by_rows = {"scores": value["scores"]} | {f"modalities.{k}": v for k, v in value.get("modalities", {}).items()}
    for name, scores in by_rows.items():
        if not len(value["rows"]) == len(scores) > 1:
            raise Unfit(name, "a score for each number of rows, of which there are several", scores)


SCALER, CODER = (
    record({"quantiles_": QUANTILES}),
    record({"vocabulary_": texts(once=True), "n_hash_": number(0, 1 << 24, whole=True)}),
)
STATE: dict[str, Rule] = {
    "temperatures": numbers(1e-6, 1e6),
    "thresholds": maybe(numbers(0, 1)),
    "biases": maybe(numbers(-1e6, 1e6)),
    "confidence_quantiles": maybe(listed(numbers(0, 1))),
    "errors": maybe(numbers(ascending=True)),
    "margins": maybe(numbers(0, ascending=True)),
}
TENSOR = record({"dtype": line, "shape": listed(either(number(0, whole=True), line))})
TEXT_OF_GRAPH = record(
    {"backbone": line, "layout": choice("joint", "column"), "max_length": number(2, 1 << 20, whole=True)}
    | {"also": texts(), "column_prefix": text}
)
IMAGE_OF_GRAPH = record(
    {"size": number(1, 1 << 11, whole=True), "fit": choice("pad", "squash", "crop"), "crop_pct": number(0.1, 1)}
    | {"interpolation": choice("nearest", "box", "bilinear", "hamming", "bicubic", "lanczos")}
)
RULES: dict[str, Rule] = {
    CONFIG: record({"dataset": record({"drop": texts()})}),
    SCHEMA: record({"task": text, "metric": text}, {"columns": mapping(text)} | PARTS),
    FITTED: record(
        {
            "preprocessor": record(
                {
                    "scalers_": mapping(SCALER),
                    "coders_": mapping(CODER),
                    "labels_": maybe(record({"classes_": texts(least=2, once=True)})),
                }
            ),
            "comparison": maybe(record({"columns": texts(once=True), "idf_": mapping(amounts(0, 1e3))})),
            "comparison_scalers": listed(QUANTILES),
        },
        {"lexicon": maybe(_lexicon), "unseen": maybe(texts()), "one_to_one": texts(), "target": maybe(_target)}
        | {"n_matches": number(0, whole=True), "columns": texts(once=True), "relations": texts(once=True)},
    ),
    TASK: record({"temperatures": STATE["temperatures"]}, STATE),
    METRICS: mapping(mapping(_metric)),
    PROVENANCE: _facts,
    ABLATION: _ablation,
    MORE_ROWS: _more_rows,
    GRAPH: record(
        {"file": choice("model.onnx", "model.pt2"), "inputs": mapping(TENSOR), "outputs": mapping(TENSOR)}
        | {"text": maybe(TEXT_OF_GRAPH), "cross": maybe(TEXT_OF_GRAPH), "image": maybe(IMAGE_OF_GRAPH)}
        | {"bad_cells": choice("error", "missing")}
    ),
}


# --- reading and writing ---------------------------------------------------------------------------------------------


def read_run_file(folder: Path, name: str) -> dict[str, Any]:
    """One of the files of RULES, or another mapping; raises RunError that names the file and the key."""
    if not (folder / name).is_file():
        if not folder.is_dir():
            raise RunError(f"there is no run {folder}: {'it is a file' if folder.exists() else 'no such folder'}")
        within = sorted(folder.glob(f"*/{PROVENANCE}"), key=lambda path: path.stat().st_mtime)
        hint = f" (but it holds runs, the last of them {within[-1].parent})" if within else ""
        if (folder / LAST).exists():
            hint = " (it holds one that was stopped: train again with the same settings to go on)"
        raise RunError(f"{folder} is not a finished run: it has no {name}{hint}")
    return read_plain(verified(folder, name), RULES.get(name, anything))


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Whatever goes wrong with what a file says is an error that names the file."""
    try:
        yield
    except RunError:
        raise
    except MmtabError as error:
        raise RunError(f"{path}, {error}") from error
    except Exception as error:  # a damaged file may raise anything
        reason = (str(error).strip().splitlines() or [""])[0]
        raise RunError(f"{path} does not fit ({type(error).__name__}: {reason})") from error


def open_config(folder: Path, local: LocalSettings | None = None) -> RunConfig:
    """The configuration of a run, as data: nothing in it is resolved. Where this machine reads and writes is ``local``
    (default: as the environment says), not what the run says, and also what becomes of bad cells where ``local`` says
    it; wandb is disabled. Raises RunError for a part that is neither of mmtab nor trusted (``config.parts``), and for a
    link that leads out of the folder."""
    check_run_links(folder)
    raw = with_current_targets(read_run_file(folder, CONFIG))
    local = local or LocalSettings()
    with reading(folder / CONFIG):
        config = settings_of(RunConfig, raw)
        check_targets(dataclasses.asdict(config))
    dataset = config.dataset
    if local.bad_cells is not None:
        dataset = dataclasses.replace(dataset, bad_cells=local.bad_cells)
    return dataclasses.replace(
        config,
        dataset=dataset,
        output=str(folder),
        data_root=local.data_root,
        cache=local.cache,
        cache_gb=local.cache_gb,
        logger=["csv"],
        wandb=WandbConfig(mode="disabled"),
    )


def write_config(folder: Path, config: RunConfig) -> None:
    raw = dataclasses.asdict(config)
    write_text(folder / CONFIG, yaml.safe_dump(raw, sort_keys=False, allow_unicode=True))


def read_schema(folder: Path) -> Schema:
    raw = read_run_file(folder, SCHEMA)
    with reading(folder / SCHEMA):
        schema = Schema.from_dict(raw)
        for column in schema.storage:
            schema.stored(column)  # which tells of a type that there is not
    return schema


def read_facts(folder: Path) -> dict[str, Any]:
    """provenance.json, of which the format is checked. Raises RunError also for a link that leads out of the folder."""
    check_here(folder, "run")
    check_run_links(folder)
    facts = read_run_file(folder, PROVENANCE)
    if facts.get("format") not in READABLE:
        versions = facts.get("versions")
        version = versions.get("mmtab", "?") if isinstance(versions, dict) else "?"
        raise RunError(
            f"{folder} was written by mmtab {version} in run format {facts.get('format')}; this version reads formats "
            f"{' and '.join(map(str, READABLE))}. Train again, or use that version of mmtab"
        )
    return facts


def write_task_state(folder: Path, task: Task) -> None:
    write_json(folder / TASK, task.state_dict())


def read_task_state(folder: Path) -> dict[str, Any]:
    """What ``task.load_state_dict`` takes: temperatures, thresholds and so on."""
    if verified(folder, TASK).is_file():
        return read_run_file(folder, TASK)
    facts = read_facts(folder)
    state = facts | {"confidence_quantiles": facts.get("confidence")}
    with reading(folder / PROVENANCE):
        record({}, STATE)(state, "")
    return state


def write_metrics(folder: Path, split: str, metrics: dict[str, Any]) -> None:
    """Beside those of other splits."""
    others = read_run_file(folder, METRICS) if (folder / METRICS).exists() else {}
    with recording(folder, METRICS):
        write_json(folder / METRICS, others | {split: metrics})


def learning_curves(folder: Path) -> list[dict[str, float]]:
    """metrics.csv, a dictionary a line, without its empty fields; none where it is not there."""
    if not (folder / CURVES).is_file():
        return []
    path = verified(folder, CURVES)
    with reading(path), path.open(encoding="utf-8", newline="") as lines:
        return [{name: float(value) for name, value in line.items() if value} for line in csv.DictReader(lines)]
