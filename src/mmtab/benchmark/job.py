"""One system on one dataset with one seed: a process of its own, so that its time and memory are its own.

``python -m mmtab.benchmark.job FOLDER`` does what cell.json there says, and at the end writes answers_test.parquet and,
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
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import pyarrow as pa

from mmtab.benchmark.scoring import Answers, Truth, metrics, ranked_by, read_answers, without_labels
from mmtab.config.types import SystemConfig
from mmtab.data.files import write_table
from mmtab.data.schema import Schema
from mmtab.runs import provenance
from mmtab.utils.atomic import write_json
from mmtab.utils.cache import Store
from mmtab.utils.errors import ConfigError, RunError
from mmtab.utils.exits import friendly
from mmtab.utils.locks import alone_in
from mmtab.utils.machine import usable_cores
from mmtab.utils.processes import follow_parent, last_error

SPLITS = ("valid", "test")
FOREIGN = Path(__file__).parent / "foreign"
DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG of linux/prctl.h


@dataclass(frozen=True)
class Cell:
    """``place``: the overrides of train.py that say the dataset. ``data``: its folder, ``handout``: what a program that is
    not ours gets of it. ``members``: the cells of an ensemble's members. ``fingerprint``: of the data."""

    system: str
    settings: dict[str, Any]
    dataset: str
    seed: int
    place: list[str]
    data: str
    handout: str
    cache: str
    fingerprint: str
    overrides: list[str] = field(default_factory=list)
    members: dict[str, str] = field(default_factory=dict)
    weights: str = "none"

    @property
    def config(self) -> SystemConfig:
        return SystemConfig(**self.settings)

    @property
    def definition(self) -> dict[str, Any]:
        """What its numbers hang on."""
        kept = {k: v for k, v in self.settings.items() if k not in ("title", "about", "kind", "tasks", "needs") and v}
        return kept | {"overrides": self.overrides if self.config.train is not None else [], "data": self.fingerprint}

    def write(self, folder: Path) -> None:
        write_json(folder / "cell.json", dataclasses.asdict(self))

    @staticmethod
    def read(folder: Path) -> Cell:
        return Cell(**json.loads((folder / "cell.json").read_text(encoding="utf-8")))


@dataclass(frozen=True)
class Cost:
    """Seconds of training with whatever goes before it; None where nothing tells."""

    train_seconds: float
    predict_rows_per_second: float | None = None
    n_parameters: int | None = None
    peak_memory_mib: float | None = None


def is_done(folder: Path) -> bool:
    return (folder / "result.json").exists()


def run_cell(folder: Path) -> None:
    """Train, predict valid and test, score both. What was finished is not done again."""
    cell = Cell.read(folder)
    with alone_in(folder):
        if is_done(folder):
            return
        config, predictions = cell.config, folder / "predictions"
        if config.train is not None:
            predictions, cost = folder / "run", _train(cell, folder / "run")
        elif config.baseline is not None:
            from mmtab.benchmark.baselines import run_baseline

            fit = run_baseline(
                config.baseline, _handed_out(cell), predictions, cell.seed, Path(cell.cache), config.keep
            )
            cost = Cost(fit.train_seconds, fit.predict_rows_per_second, fit.n_parameters)
        elif config.command is not None:
            cost = _call(cell, folder, predictions)
        else:
            cost = _ensemble(cell, predictions)
        if cost.peak_memory_mib is None:
            cost = dataclasses.replace(cost, peak_memory_mib=provenance.peak_memory_mib())
        _score(cell, folder, predictions, cost)
        if cell.weights == "none":
            shutil.rmtree(folder / "run" / "checkpoints", ignore_errors=True)


def _score(cell: Cell, folder: Path, predictions: Path, cost: Cost) -> None:
    found, value = {}, 0.0
    for split in SPLITS:
        path = next((p for p in (predictions / f"predictions_{split}{suffix}" for suffix in (".parquet", ".csv")) if p.exists()), None)  # fmt: skip
        if path is None:
            raise RunError(f"{cell.system} on {cell.dataset} wrote no predictions_{split}.parquet or .csv")
        truth = Truth.read(Path(cell.data), split)
        answers = read_answers(path, truth)
        found[split] = metrics(truth, answers)
        value = ranked_by(truth, found[split])
    n = range(truth.label.shape[1])
    columns = {f"label_{r}": truth.label[:, r] for r in n} | {f"prediction_{r}": answers.prediction[:, r] for r in n}
    write_table(folder / "answers_test.parquet", pa.table(columns))
    write_json(
        folder / "result.json",
        {
            "system": cell.system,
            "dataset": truth.dataset,
            "seed": cell.seed,
            "task": str(truth.schema.task),
            "metric": truth.schema.metric,
            "value": value,
            "metrics": found,
            **dataclasses.asdict(cost),
            **{key: value for key, value in provenance.facts().items() if key in ("time", "git_commit", "git_dirty", "hardware")},
            "n_threads": usable_cores(),
            "data_fingerprint": cell.fingerprint,
            "definition": cell.definition,
        },
    )  # fmt: skip


# --- what a system may be --------------------------------------------------------------------------------------------


def _train(cell: Cell, folder: Path) -> Cost:
    """A recipe of mmtab. Training never opens test; its predictions are made once the model is fixed."""
    from mmtab.config.compose import compose
    from mmtab.config.overrides import written
    from mmtab.runs import run

    schema = Schema.read(Path(cell.data))
    dropped = dropped_types(schema, cell.config.keep)
    places = {"dataset.path": cell.data, "cache": cell.cache, "output": str(folder)}
    settings = [*(f"{name}={written(place)}" for name, place in places.items()), f"seed={cell.seed}", "test=false"]
    settings += ["trainer.progress=false", *([f"dataset.drop={written(dropped)}"] if dropped else [])]
    run.train(compose(*cell.place, *(cell.config.train or []), *cell.overrides, *settings), folder)
    if "test" not in json.loads((folder / "metrics.json").read_text()):
        run.evaluate(folder, "test", Path(cell.data))
    facts, scores = (json.loads((folder / name).read_text()) for name in ("provenance.json", "metrics.json"))
    return Cost(
        facts["seconds"]["prepare"] + facts["seconds"]["train"], scores["test"]["predict_rows_per_second"],
        facts["n_parameters"], facts["peak_memory_mib"],
    )  # fmt: skip


def dropped_types(schema: Schema, keep: list[str]) -> list[str]:
    """The column types of a dataset that a system does not get to see."""
    return sorted({str(column.type) for column in schema.columns} - set(keep)) if keep else []


def _handed_out(cell: Cell) -> Path:
    """The dataset without the labels of test, made once for all."""
    target = Path(cell.handout)
    return Store(target.parents[1]).named(target.parent.name, target.name, lambda scratch: without_labels(Path(cell.data), scratch))  # fmt: skip


def _call(cell: Cell, folder: Path, predictions: Path) -> Cost:
    """A program that reads a dataset folder and writes predictions_valid and predictions_test. It may say what it cost in
    facts.json (train_seconds, predict_rows_per_second, n_parameters), else the whole call counts as training."""
    if cell.config.keep:
        raise ConfigError(f"system.{cell.system}: keep is for mmtab's own systems; a command drops columns itself")
    handout = _handed_out(cell)
    shutil.rmtree(predictions, ignore_errors=True)
    predictions.mkdir()
    command = command_of(cell.system, cell.config.command or [], handout, predictions, cell.seed)
    log = folder / "log.txt"  # where our own output goes, and so the program's
    began, offset = time.perf_counter(), log.stat().st_size if log.exists() else 0
    # It shares our process group, which ends as a whole; of our own sudden death Linux tells it.
    signal.signal(signal.SIGTERM, _end_group)
    done = subprocess.run(command, stdin=subprocess.DEVNULL, preexec_fn=_die_with_parent, check=False)
    seconds = time.perf_counter() - began
    if done.returncode:
        said = last_error(log, offset) if log.exists() else ""
        raise RunError(f"{cell.system} on {cell.dataset} ended with status {done.returncode}: {said}")
    facts = json.loads((predictions / "facts.json").read_text()) if (predictions / "facts.json").exists() else {}
    unit = 1 << 20 if sys.platform == "darwin" else 1 << 10
    return Cost(
        facts.get("train_seconds", seconds), facts.get("predict_rows_per_second"), facts.get("n_parameters"),
        resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // unit,
    )  # fmt: skip


def command_of(system: str, words: list[str], data: Path, output: Path, seed: int) -> list[str]:
    """A command with what stands for something filled in; raises ConfigError for a variable that is not set."""
    known = {"{data}": str(data), "{output}": str(output), "{seed}": str(seed), "{threads}": str(usable_cores()), "{python}": sys.executable, "{foreign}": str(FOREIGN)}  # fmt: skip
    filled = []
    for word in words:
        if word.startswith("$"):
            if not os.environ.get(word[1:]):
                raise ConfigError(f"system.{system}: the environment variable {word[1:]} is not set; see CONTRIBUTING.md, Add a system")  # fmt: skip
            word = os.environ[word[1:]]
        for name, value in known.items():
            word = word.replace(name, value)
        filled.append(word)
    return filled


def _die_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(DIE_WITH_PARENT, signal.SIGKILL)


def _end_group(number: int, frame: FrameType | None) -> None:
    os.killpg(os.getpgid(0), signal.SIGKILL)


def _ensemble(cell: Cell, predictions: Path) -> Cost:
    from mmtab.benchmark.ensemble import average

    folders = {name: Path(folder) for name, folder in cell.members.items()}
    results = {name: json.loads((folder / "result.json").read_text()) for name, folder in folders.items()}
    began = time.perf_counter()
    answers: dict[str, dict[str, Answers]] = {}
    valid = Truth.read(Path(cell.data), "valid")
    test = Truth.read(Path(cell.data), "test", labelled=False)
    for split in SPLITS:
        truth = valid if split == "valid" else test
        for name, folder in folders.items():
            place = folder / "run" if (folder / "run").exists() else folder / "predictions"
            answers.setdefault(name, {})[split] = read_answers(place / f"predictions_{split}.parquet", truth)
    weights = average(valid, test, answers, predictions)
    write_json(predictions / "weights.json", weights)
    used = [results[name] for name, weight in weights.items() if weight]
    rates = [result["predict_rows_per_second"] for result in used]
    return Cost(
        sum(result["train_seconds"] for result in results.values()) + time.perf_counter() - began,
        1 / sum(1 / rate for rate in rates) if all(rates) else None,
        sum(result["n_parameters"] or 0 for result in used) or None,
        max(result["peak_memory_mib"] or 0 for result in results.values()),
    )


def main() -> None:
    with friendly():
        follow_parent()
        run_cell(Path(sys.argv[1]))


if __name__ == "__main__":
    main()
