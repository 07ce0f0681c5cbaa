"""The whole benchmark: every system on every dataset of the tracks, for all seeds, run, resumed and collected.

Its ledger is the folders themselves, ``OUTPUT/cells/SYSTEM/DATASET/seedN``: what is finished has a result.json. So a
benchmark can grow by a dataset, a system or a seed at any time, and several processes may work on one.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import yaml

from mmtab.benchmark.job import Cell, command_of, dropped_types, is_done
from mmtab.benchmark.types import Board, Entry, Failure, RankedDataset, Score
from mmtab.config.compose import compose_run, dataset_place
from mmtab.config.overrides import written
from mmtab.config.types import CONFIGS, BenchmarkConfig, SystemConfig
from mmtab.data import files, table
from mmtab.data.dataset import dataset_folder
from mmtab.data.schema import Schema, TaskKind
from mmtab.reports.results import refresh
from mmtab.utils.atomic import write_json
from mmtab.utils.errors import ConfigError, RunError
from mmtab.utils.locks import is_held
from mmtab.utils.pool import Pool, Task

KINDS = ["mmtab", "control", "rival"]
TASKS = [str(task) for task in TaskKind]


class Source(NamedTuple):
    """A dataset and the overrides of train.py that say it."""

    name: str
    place: list[str]
    folder: Path
    schema: Schema
    fingerprint: str


def run_benchmark(config: BenchmarkConfig) -> Board:
    """Do what is left, write results.parquet and the scoreboard; returns that. Raises ConfigError for settings that fit
    nothing, before anything runs, and RunError where nothing was finished; what fails is named on the scoreboard."""
    from mmtab.benchmark.scoreboard import markdown, write_scoreboard

    output = Path(config.output)
    sources, tracks = find_datasets(config)
    cells = plan_cells(config, sources)
    failures = Work(config, cells).run()
    board = collect(output, config, sources, tracks, failures)
    write_scoreboard(board, output)
    if config.refresh:
        refresh(Path(config.refresh), "scoreboard", markdown(board))
    return board


def seeds_of(value: Any) -> list[int]:
    """A number of seeds, or the seeds."""
    seeds = list(range(value)) if isinstance(value, int) and not isinstance(value, bool) else value
    if not isinstance(seeds, list) or not seeds or not all(isinstance(s, int) and s >= 0 for s in seeds) or len(set(seeds)) < len(seeds):  # fmt: skip
        raise ConfigError(f"seeds={value}: expected a number from 1, or a list of seeds")
    return seeds


def find_datasets(config: BenchmarkConfig) -> tuple[dict[str, Source], dict[str, list[str]]]:
    """All datasets of the tracks, and their names by track."""
    sources: dict[str, Source] = {}
    tracks: dict[str, list[str]] = {}
    for track, about in config.track.items():
        if not about.datasets:
            raise ConfigError(f"track.{track}: it lists no dataset")
        for entry in about.datasets:
            name, place = dataset_place(entry, f"track.{track}")
            found = compose_run(f"track.{track}, {name}", place, [f"data_root={written(config.data_root)}"])
            folder = dataset_folder(found.dataset, config.data_root, Path(config.cache).expanduser())
            if name in sources and sources[name].folder != folder:
                raise ConfigError(f"track.{track}: two datasets are called {name}; rename one of the folders")
            schema = Schema.read(folder)
            stem = "test" if schema.task is TaskKind.KWAY else "pairs_test"
            if not table.has_labels(folder, schema, "test"):
                raise ConfigError(f"track.{track}: {name} has no labelled test split, so nothing can be ranked on it")
            if name not in sources:
                read = [*table.training_files(folder, schema), table.find_table(folder, schema, stem)]
                sources[name] = Source(name, list(place), folder, schema, table.fingerprint(read))
            tracks.setdefault(track, []).append(name)
    if not sources:
        raise ConfigError("track: none is chosen; expected one of configs/track/, or all")
    return sources, tracks


def applies(system: SystemConfig, schema: Schema) -> bool:
    """Whether a system can do a dataset at all, and says more there than the same system with all columns would."""
    kinds = {str(column.type) for column in schema.columns}
    kept = set(system.keep) <= kinds and (not system.keep or bool(dropped_types(schema, system.keep)))
    return str(schema.task) in system.tasks and kept and set(system.needs) <= kinds


def plan_cells(config: BenchmarkConfig, sources: dict[str, Source]) -> dict[Path, Cell]:
    """By their folders, in the order in which they are to be run: a dataset's cheap first seeds before further ones."""
    if not config.system:
        raise ConfigError("system: none is chosen; expected some of configs/system/, such as system=[frozen,majority]")
    if config.weights not in ("all", "none"):
        raise ConfigError(f"weights={config.weights}: expected all or none")
    for name, least in (("n_jobs", 1), ("retries", 0)):
        if getattr(config, name) < least:
            raise ConfigError(f"{name}={getattr(config, name)}: expected at least {least}")
    output, cells = Path(config.output).resolve(), {}
    for name, system in config.system.items():
        check_system(name, system, config)
    ordered = sorted(config.system.items(), key=lambda item: item[1].members is not None)
    for seed in seeds_of(config.seeds):
        for name, system in ordered:
            for source in sources.values():
                place = _folder(output, name, system, source, seed)
                if not applies(system, source.schema) or place in cells:
                    continue
                members = {
                    each: str(_folder(output, each, config.system[each], source, seed))
                    for each in system.members or []
                    if applies(config.system[each], source.schema)
                }
                cells[place] = Cell(
                    name, dataclasses.asdict(system), source.name, 0 if system.deterministic else seed, source.place, str(source.folder),
                    str(output / "handout" / f"{source.name}-{source.fingerprint[:12]}"), str(Path(config.cache).expanduser()),
                    source.fingerprint, list(config.overrides), members, config.weights,
                )  # fmt: skip
    for folder, cell in cells.items():
        if is_done(folder):
            there = json.loads((folder / "result.json").read_text())["definition"]
            off = sorted(k for k in there.keys() | cell.definition.keys() if there.get(k) != cell.definition.get(k))
            if off:
                raise ConfigError(
                    f"{folder} was run with another {', '.join(off)} ({there.get(off[0])} there, {cell.definition.get(off[0])} here); "
                    "give another output=FOLDER, or remove that one"
                )
    return cells


def check_system(name: str, system: SystemConfig, config: BenchmarkConfig) -> None:
    """Raises ConfigError for a system that cannot be run, before any is."""
    where = f"system.{name}"
    ways = [way for way in ("train", "baseline", "command", "members") if getattr(system, way) is not None]
    if len(ways) != 1:
        raise ConfigError(
            f"{where}: expected one of train, baseline, command, members; found {', '.join(ways) or 'none'}"
        )
    if system.kind not in KINDS:
        raise ConfigError(f"{where}.kind={system.kind}: expected one of {', '.join(KINDS)}")
    for task in system.tasks:
        if task not in TASKS:
            raise ConfigError(f"{where}.tasks: expected some of {', '.join(TASKS)}; found {task}")
    if system.command is not None:
        command_of(name, system.command, Path(), Path(), 0)
    if system.baseline is not None:
        from mmtab.benchmark.baselines import BASELINES

        if system.baseline not in BASELINES:
            raise ConfigError(f"{where}.baseline={system.baseline}: expected one of {', '.join(BASELINES)}")
    for member in system.members or []:
        if member not in config.system:
            raise ConfigError(f"{where}: its member {member} is not among the systems; add it, system=[…,{member}]")
        if config.system[member].members is not None:
            raise ConfigError(f"{where}: its member {member} is an ensemble itself")
    if system.train is not None:
        compose_run(where, ("dataset=custom",), [*system.train, *config.overrides])


class Work:
    """One process at work on the cells that are not finished."""

    def __init__(self, config: BenchmarkConfig, cells: dict[Path, Cell]) -> None:
        self.config, self.cells = config, cells
        self.waiting = [folder for folder in cells if not is_done(folder)]
        self.attempts: dict[Path, int] = {}
        self.failures: dict[Path, str] = {}
        self.began, self.n_ended = time.monotonic(), 0
        self.pool = Pool(config.n_jobs, lambda text: print(text, flush=True))

    def run(self) -> list[Failure]:
        with self.pool.stoppable():
            self.pool.drive(self._next, lambda: not self.waiting)
        return [
            Failure(c.system, c.dataset, c.seed, e) for c, e in ((self.cells[f], e) for f, e in self.failures.items())
        ]

    def _next(self) -> Task | None:
        for folder in list(self.waiting):
            members = {name: Path(each) for name, each in self.cells[folder].members.items()}
            lost = [name for name, each in members.items() if each in self.failures]
            if is_done(folder):  # by another process
                self.waiting.remove(folder)
            elif lost:
                self.waiting.remove(folder)
                self._lose(folder, f"its member {lost[0]} failed")
            elif all(is_done(each) for each in members.values()) and not is_held(folder / ".lock"):
                self.waiting.remove(folder)
                return self._task(folder)
        return None

    def _lose(self, folder: Path, failure: str) -> None:
        self.failures[folder] = failure
        self.n_ended += 1
        self.pool.tell(f"{_title(self.cells[folder])}  FAILED: {failure}")

    def _task(self, folder: Path) -> Task:
        folder.mkdir(parents=True, exist_ok=True)
        self.cells[folder].write(folder)

        def ended(seconds: float, failure: str) -> None:
            self._ended(folder, seconds, failure)

        return Task([sys.executable, "-m", "mmtab.benchmark.job", str(folder)], folder, lambda: is_done(folder), ended)

    def _ended(self, folder: Path, seconds: float, failure: str) -> None:
        where = _title(self.cells[folder])
        if failure:
            self.attempts[folder] = self.attempts.get(folder, 0) + 1
            if self.attempts[folder] <= self.config.retries:
                self.pool.tell(f"{where}  FAILED: {failure}; once more")
                self.waiting.append(folder)
            else:
                self._lose(folder, failure)
            return
        self.n_ended += 1
        result = json.loads((folder / "result.json").read_text())
        done = sum(is_done(each) for each in self.cells)
        left = len(self.waiting) + len(self.pool.children)
        minutes = (time.monotonic() - self.began) / self.n_ended * left / 60
        self.pool.tell(
            f"{where}  {result['metric']} {result['value']:.4f}  {seconds:.0f} s  ({done} of {len(self.cells)}"
            + (f", about {minutes:.0f} min to go)" if left else ")")
        )


def _title(cell: Cell) -> str:
    return f"{cell.system}  {cell.dataset}  seed {cell.seed}"


# --- results ---------------------------------------------------------------------------------------------------------


def read_results(output: Path) -> list[tuple[Path, dict[str, Any]]]:
    """What every finished cell of a benchmark says, with its folder."""
    found = sorted((output / "cells").glob("*/*/seed*/result.json"))
    return [(path.parent, json.loads(path.read_text())) for path in found]


def write_results(path: Path, results: Sequence[dict[str, Any]]) -> None:
    """One row a system, dataset, seed, split and metric."""
    shared = ["system", "dataset", "task", "seed", "train_seconds", "predict_rows_per_second", "peak_memory_mib", "n_parameters",
              "n_threads", "git_commit", "data_fingerprint", "time"]  # fmt: skip
    rows = [
        {"split": split, "metric": metric, "value": value, "ranked_by": metric == result["metric"]}
        | {name: result[name] for name in shared}
        for result in results
        for split, values in result["metrics"].items()
        for metric, value in values.items()
    ]
    order = ["system", "dataset", "task", "seed", "split", "metric", "value", "ranked_by", *shared[4:]]
    files.write_table(path, pa.Table.from_pylist(rows).select(order))


def collect(
    output: Path, config: BenchmarkConfig, sources: dict[str, Source], tracks: dict[str, list[str]], failures: list[Failure]
) -> Board:  # fmt: skip
    """The scoreboard of all that is finished in a benchmark's folder, also by earlier calls with other systems."""
    results = read_results(output)
    if not results:
        raise RunError(f"nothing was finished: {failures[0].error}" if failures else f"no result in {output}")
    write_results(output / "results.parquet", [result for _, result in results])
    about = _known_systems(output, config)
    references = yaml.safe_load((CONFIGS / "reference.yaml").read_text(encoding="utf-8"))
    labels: dict[str, np.ndarray] = {}
    entries: dict[str, list[Score]] = {}
    for folder, result in results:
        name = result["dataset"]
        if name not in sources or result["data_fingerprint"] != sources[name].fingerprint:
            continue
        answers = files.read(folder / "answers_test.parquet", name)
        labels[name] = _columns(answers, "label_")
        entries.setdefault(result["system"], []).append(
            Score(
                name, result["seed"], result["value"], result["train_seconds"], result["predict_rows_per_second"],
                result["peak_memory_mib"], result["n_parameters"], _columns(answers, "prediction_"),
            )
        )  # fmt: skip
    datasets = {
        name: RankedDataset(
            name, source.schema.title or name, str(source.schema.task), source.schema.metric, labels.get(name),
            card_of(source), references.get(str(source.schema.task), {}).get(name, {}),
        )
        for name, source in sources.items()
    }  # fmt: skip
    hardware = results[-1][1]["hardware"]
    commits = sorted({(result["git_commit"] or "unknown")[:8] + ("+" if result["git_dirty"] else "") for _, result in results})  # fmt: skip
    threads = sorted({result["n_threads"] for _, result in results})
    facts = {
        "machine": f"{hardware['cpu']}, {hardware['cores']} cores" + "".join(f", {gpu}" for gpu in hardware["gpus"]),
        "threads a run": ", ".join(map(str, threads)),
        "runs": f"{len(results)}, {results[0][1]['time'][:10]} to {max(result['time'] for _, result in results)[:10]}",
        "code": ", ".join(commits),
    }
    known = [
        Entry(name, about[name].title, about[name].kind, about[name].about, scores) for name, scores in entries.items()
    ]
    title = " and ".join(track.title for track in config.track.values())
    return Board(title, tracks, datasets, known, failures, facts)


def card_of(source: Source) -> dict[str, str]:
    """The facts of a dataset's card."""
    schema = source.schema
    stems = ["train", "valid", "test"] if schema.task is TaskKind.KWAY else ["pairs_train", "pairs_valid", "pairs_test"]
    counts = [f"{files.count(table.find_table(source.folder, schema, stem), schema.name):,}" for stem in stems]
    kinds: dict[str, int] = {}
    for column in schema.columns:
        kinds[str(column.type)] = kinds.get(str(column.type), 0) + 1
    facts = {
        "rows" if schema.task is TaskKind.KWAY else "pairs": " / ".join(counts) + " (train / valid / test)",
        "columns": ", ".join(f"{n} {kind}" for kind, n in kinds.items()),
        "relations": ", ".join(schema.relations if schema.names_relations else ()),
        "source": schema.source,
        "licence": schema.licence,
        "ceiling": f"{schema.ceiling:.3f}" if schema.ceiling is not None else "",
        "data fingerprint": source.fingerprint,
    }
    return {name: value for name, value in facts.items() if value}


def _known_systems(output: Path, config: BenchmarkConfig) -> dict[str, SystemConfig]:
    """Of this call and of earlier ones."""
    path = output / "systems.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    known |= {name: dataclasses.asdict(system) for name, system in config.system.items()}
    write_json(path, known)
    return {name: SystemConfig(**system) for name, system in known.items()}


def _columns(answers: pa.Table, prefix: str) -> np.ndarray:
    return np.stack([np.asarray(answers[name]) for name in answers.column_names if name.startswith(prefix)], 1)


def _folder(output: Path, name: str, system: SystemConfig, source: Source, seed: int) -> Path:
    """Of a cell; what is deterministic has the one seed 0."""
    return output / "cells" / name / source.name / f"seed{0 if system.deterministic else seed}"
