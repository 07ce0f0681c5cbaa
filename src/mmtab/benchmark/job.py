"""One system on one dataset with one seed: a process of its own, so that its time and memory are its own.

``python -m mmtab.benchmark.job FOLDER`` runs the job.json there, and at the end writes scored_test.parquet and,
last, result.json.
"""

from __future__ import annotations

import ctypes
import dataclasses
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pyarrow as pa

from mmtab.config.ranking import SystemConfig
from mmtab.config.types import LocalSettings
from mmtab.data import files
from mmtab.data.schema import Schema
from mmtab.runs import provenance
from mmtab.runs.folder import METRICS, read_facts, read_run_file, reading
from mmtab.utils import manifest
from mmtab.utils.atomic import write_json
from mmtab.utils.cache import Store
from mmtab.utils.errors import ConfigError, RunError
from mmtab.utils.exits import friendly
from mmtab.utils.locks import alone_in
from mmtab.utils.machine import usable_cores
from mmtab.utils.paths import check_inside
from mmtab.utils.plain import Unfit, anything, line, listed, mapping, maybe, number, record, texts
from mmtab.utils.processes import follow_parent, last_error

SPLITS = ("valid", "test")
FOREIGN = Path(__file__).parent / "foreign"
DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG of linux/prctl.h
SCORED = "scored_test.parquet"  # labels and predictions of the test rows
SCORED_BEFORE = "answers_test.parquet"  # the name in benchmark folders of earlier versions


@dataclass(frozen=True)
class Job:
    system: str  # its name
    settings: dict[str, Any]  # its SystemConfig
    dataset: str
    seed: int
    place: list[str]  # the overrides of train.py that choose the dataset
    data: str  # the dataset's folder
    handout: str  # the folder of the dataset without test labels, which baselines and programs get
    cache: str
    fingerprint: str  # of the data
    overrides: list[str] = field(default_factory=list)  # of train.py
    members: dict[str, str] = field(default_factory=dict)  # the job folders of an ensemble's members, by system
    weights: str = "none"  # whether to keep checkpoints: all or none

    @property
    def config(self) -> SystemConfig:
        return SystemConfig(**self.settings)

    @property
    def title(self) -> str:
        return f"{self.system}  {self.dataset}  seed {self.seed}"

    @property
    def definition(self) -> dict[str, Any]:
        """The settings that its numbers depend on."""
        described = ("title", "about", "kind", "tasks", "needs")
        settings = {name: value for name, value in self.settings.items() if name not in described and value}
        overrides = self.overrides if self.config.train is not None else []
        return settings | {"overrides": overrides, "data": self.fingerprint}

    def write(self, folder: Path) -> None:
        write_json(folder / "job.json", dataclasses.asdict(self))

    @staticmethod
    def read(folder: Path) -> Job:
        return Job(**json.loads((folder / "job.json").read_text(encoding="utf-8")))


@dataclass(frozen=True)
class Cost:
    """Seconds of training include preparing; None where a figure is not known."""

    train_seconds: float
    predict_rows_per_second: float | None = None
    n_parameters: int | None = None
    peak_memory_mib: float | None = None


def is_done(folder: Path) -> bool:
    return (folder / "result.json").exists()


def run_job(folder: Path) -> None:
    """Train, predict valid and test, score both. What was finished is not done again."""
    for place in (folder / "run", folder / "predictions"):
        check_inside(folder, place)
    job = Job.read(folder)
    with alone_in(folder):
        if is_done(folder):
            return
        config, predictions = job.config, folder / "predictions"
        if config.train is not None:
            cost = _train(job, folder / "run")
            if config.in_tables:
                cost = _in_tables(job, folder / "run", predictions, cost)
            predictions = _predictions(folder)
        elif config.baseline is not None:
            cost = _baseline(job, config.baseline, predictions)
        elif config.command is not None:
            cost = _program(job, folder, predictions)
        else:
            cost = _ensemble(job, predictions)
        if cost.peak_memory_mib is None:
            cost = dataclasses.replace(cost, peak_memory_mib=provenance.peak_memory_mib())
        if job.weights == "none":  # before the result, which tells that the job is done
            shutil.rmtree(folder / "run" / "checkpoints", ignore_errors=True)
        _score(job, folder, predictions, cost)


def _predictions(folder: Path) -> Path:
    """Where the predictions of a job's folder are."""
    return folder / "predictions" if (folder / "predictions").exists() else folder / "run"


# --- scores ----------------------------------------------------------------------------------------------------------


def _score(job: Job, folder: Path, predictions: Path, cost: Cost) -> None:
    from mmtab.benchmark.scoring import metrics, ranked_by, read_predictions
    from mmtab.benchmark.truth import Truth

    scores: dict[str, dict[str, float]] = {}
    used = []
    for split in SPLITS:
        paths = [predictions / f"predictions_{split}{suffix}" for suffix in (".parquet", ".csv")]
        path = next((path for path in paths if path.exists()), None)
        if path is None:
            raise RunError(f"{job.system} on {job.dataset} wrote no predictions_{split}.parquet or .csv")
        truth = Truth.read(Path(job.data), split)
        checked = read_predictions(path, truth)
        used.append(path)
        scores[split] = metrics(truth, checked)
    columns = {f"label_{r}": column for r, column in enumerate(truth.label.T)}
    columns |= {f"prediction_{r}": column for r, column in enumerate(checked.prediction.T)}
    files.write_table(folder / SCORED, pa.table(columns))
    facts = provenance.facts()
    result = {
        "system": job.system,
        "dataset": job.dataset,  # as the track names it: dataset.yaml may have another name
        "seed": job.seed,
        "task": str(truth.schema.task),
        "metric": truth.schema.metric,
        "value": ranked_by(truth, scores["test"]),
        "metrics": scores,
        **dataclasses.asdict(cost),
        **{name: facts[name] for name in ("time", "git_commit", "git_dirty", "hardware")},
        "n_threads": usable_cores(),
        "data_fingerprint": job.fingerprint,
        "definition": job.definition,
        "files": manifest.record(folder, [folder / SCORED, *used]),
    }
    write_json(folder / "result.json", manifest.sealed(result))


AMOUNTS = ("predict_rows_per_second", "peak_memory_mib", "n_parameters")
RESULT = record(
    dict.fromkeys(("system", "dataset", "task", "metric", "time", "data_fingerprint"), line)
    | {"seed": number(0, whole=True), "value": number(), "metrics": mapping(mapping(number(nan=True)))}
    | {"train_seconds": number(0), **dict.fromkeys(AMOUNTS, maybe(number(0)))}
    | {"git_commit": maybe(line), "git_dirty": anything, "n_threads": number(0), "definition": mapping(anything)}
    | {"hardware": record({"cpu": line, "cores": maybe(number(0)), "gpus": texts()})},
    {"files": mapping(listed(anything))},
)


def read_result(folder: Path) -> dict[str, Any]:
    """The result.json of a finished job; raises RunError for one that is damaged, of another job, or not as a job
    writes it."""
    path = folder / "result.json"
    for place in (path, folder / "run", folder / "predictions"):
        check_inside(folder, place)
    result = manifest.read_sealed(path, _again(folder), since="files")
    try:
        RESULT(result, "")
        for name, own in zip(("system", "dataset", "seed"), folder.absolute().parts[-3:], strict=True):
            if own != (f"seed{result[name]}" if name == "seed" else result[name]):
                raise Unfit(name, f"that of the folder, {own}", result[name])
    except Unfit as error:
        raise RunError(f"{path}, {error}. Fix: {_again(folder)}") from error
    return result


def check_files(folder: Path, result: dict[str, Any]) -> None:
    """Raise RunError where the predictions that a job was scored by are not as they were."""
    if problem := manifest.compare(folder, result.get("files", {})):  # those of before have no record
        raise RunError(f"{folder} is damaged ({problem}). Fix: {_again(folder)}")


def _again(folder: Path) -> str:
    return f"remove {folder}, and the same command runs it again"


def read_labels_and_predictions(folder: Path, dataset: str) -> tuple[np.ndarray, np.ndarray]:
    """Label and prediction, [n, r] each, of the test rows that a finished job was scored on."""
    path = folder / SCORED if (folder / SCORED).exists() else folder / SCORED_BEFORE
    check_inside(folder, path)

    def columns(prefix: str) -> np.ndarray:
        found = [np.asarray(table[name]) for name in table.column_names if name.startswith(prefix)]
        return np.stack(found, 1).astype(np.float64 if found[0].dtype.kind == "f" else np.int64, casting="same_kind")

    with reading(path):
        table = files.read(path, dataset)
        label, prediction = columns("label_"), columns("prediction_")
        if label.shape != prediction.shape or not (np.isfinite(label) & np.isfinite(prediction)).all():
            raise ValueError("expected as many labels as predictions, all of them numbers")
    return label, prediction


# --- what a system may be --------------------------------------------------------------------------------------------


def _train(job: Job, folder: Path) -> Cost:
    """A recipe of mmtab. Training never opens test; its predictions are made once the model is fixed."""
    from mmtab.config.compose import compose
    from mmtab.config.overrides import written
    from mmtab.runs.evaluate import evaluate
    from mmtab.runs.train import train

    settings: dict[str, Any] = {"dataset.path": job.data, "cache": job.cache, "output": str(folder)}
    if dropped := dropped_types(Schema.read(Path(job.data)), job.config.keep):
        settings["dataset.drop"] = dropped
    overrides = [*job.place, *(job.config.train or []), *job.overrides]
    overrides += [f"{name}={written(value)}" for name, value in settings.items()]
    config = compose(*overrides, f"seed={job.seed}", "test=false", "trainer.progress=false")
    train(config, folder)
    if "test" not in read_run_file(folder, METRICS):
        evaluate(folder, "test", Path(job.data), local=LocalSettings.of(config), wandb=config.wandb)
    facts, scores = read_facts(folder), read_run_file(folder, METRICS)
    return Cost(
        train_seconds=facts["seconds"]["prepare"] + facts["seconds"]["train"],
        predict_rows_per_second=scores["test"]["predict_rows_per_second"],
        n_parameters=facts["n_parameters"],
        peak_memory_mib=facts["peak_memory_mib"],
    )


def _in_tables(job: Job, run: Path, predictions: Path, cost: Cost) -> Cost:
    from mmtab.benchmark.in_tables import predict_in_tables

    began = time.perf_counter()
    n = predict_in_tables(run, Path(job.data), predictions)
    return dataclasses.replace(
        cost, predict_rows_per_second=n / (time.perf_counter() - began), peak_memory_mib=provenance.peak_memory_mib()
    )


def dropped_types(schema: Schema, keep: list[str]) -> list[str]:
    """The column types of a dataset that a system does not get to see."""
    return sorted({str(column.type) for column in schema.columns} - set(keep)) if keep else []


def _handout(job: Job) -> Path:
    """The dataset without the labels of test, made once for all jobs."""
    from mmtab.benchmark.handout import without_labels

    target, data = Path(job.handout), Path(job.data)
    store = Store(target.parents[1])
    return store.named(target.parent.name, target.name, lambda scratch: without_labels(data, scratch))


def _baseline(job: Job, name: str, predictions: Path) -> Cost:
    from mmtab.benchmark.baselines import run_baseline

    fit = run_baseline(name, _handout(job), predictions, job.seed, Path(job.cache), job.config.keep)
    return Cost(fit.train_seconds, fit.predict_rows_per_second, fit.n_parameters)


def _program(job: Job, folder: Path, predictions: Path) -> Cost:
    """A program that reads a dataset folder and writes predictions_valid and predictions_test. It may report its cost
    in facts.json (train_seconds, predict_rows_per_second, n_parameters), else the whole call counts as training."""
    if job.config.keep:
        raise ConfigError(f"system.{job.system}: keep is for mmtab's own systems; a command drops columns itself")
    handout = _handout(job)
    shutil.rmtree(predictions, ignore_errors=True)
    predictions.mkdir()
    command = fill_in(job.system, job.config.command or [], handout, predictions, job.seed)
    seconds, memory = _call(command, folder / "log.txt", f"{job.system} on {job.dataset}")
    facts = json.loads((predictions / "facts.json").read_text()) if (predictions / "facts.json").exists() else {}
    return Cost(
        facts.get("train_seconds", seconds), facts.get("predict_rows_per_second"), facts.get("n_parameters"), memory
    )


def _call(command: Sequence[str], log: Path, name: str) -> tuple[float, int]:
    """Run a program whose output goes to ``log``, as that of this process does; returns its seconds and MiB. Raises
    RunError with its last error where it fails."""
    began, offset = time.perf_counter(), log.stat().st_size if log.exists() else 0
    # It shares our process group, which ends as a whole; if this process is killed, Linux kills the program too.
    signal.signal(signal.SIGTERM, _end_group)
    done = subprocess.run(command, stdin=subprocess.DEVNULL, preexec_fn=_die_with_parent, check=False)
    if done.returncode:
        error = last_error(log, offset) if log.exists() else ""
        raise RunError(f"{name} ended with status {done.returncode}: {error}")
    unit = 1 << 20 if sys.platform == "darwin" else 1 << 10
    return time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // unit


def fill_in(system: str, words: Sequence[str], data: Path, output: Path, seed: int) -> list[str]:
    """A command with its placeholders filled in; raises ConfigError for a variable that is not set."""
    values = {
        "{data}": str(data),
        "{output}": str(output),
        "{seed}": str(seed),
        "{threads}": str(usable_cores()),
        "{python}": sys.executable,
        "{foreign}": str(FOREIGN),
    }
    command = []
    for word in words:
        if word.startswith("$"):
            if not os.environ.get(word[1:]):
                problem = f"the environment variable {word[1:]} is not set; see CONTRIBUTING.md, Add a system"
                raise ConfigError(f"system.{system}: {problem}")
            word = os.environ[word[1:]]
        for name, value in values.items():
            word = word.replace(name, value)
        command.append(word)
    return command


def _die_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(DIE_WITH_PARENT, signal.SIGKILL)


def _end_group(number: int, frame: FrameType | None) -> None:
    os.killpg(os.getpgid(0), signal.SIGKILL)


def _ensemble(job: Job, predictions: Path) -> Cost:
    from mmtab.benchmark.ensemble import average
    from mmtab.benchmark.scoring import read_predictions
    from mmtab.benchmark.truth import Truth

    began, data = time.perf_counter(), Path(job.data)
    folders = {name: Path(folder) for name, folder in job.members.items()}
    results = {name: read_result(folder) for name, folder in folders.items()}
    for name, folder in folders.items():
        check_files(folder, results[name])
    truths = (Truth.read(data, "valid"), Truth.read(data, "test", labelled=False))
    of_members = {
        name: {t.split: read_predictions(_predictions(folder) / f"predictions_{t.split}.parquet", t) for t in truths}
        for name, folder in folders.items()
    }
    weights = average(*truths, of_members, predictions)
    write_json(predictions / "weights.json", weights)
    used = [results[name] for name, weight in weights.items() if weight]
    rates = [result["predict_rows_per_second"] for result in used]
    return Cost(
        train_seconds=sum(result["train_seconds"] for result in results.values()) + time.perf_counter() - began,
        predict_rows_per_second=1 / sum(1 / rate for rate in rates) if all(rates) else None,
        n_parameters=sum(result["n_parameters"] or 0 for result in used) or None,
        peak_memory_mib=max(result["peak_memory_mib"] or 0 for result in results.values()),
    )


def main() -> None:
    with friendly():
        follow_parent()
        run_job(Path(sys.argv[1]))


if __name__ == "__main__":
    main()
