"""The results of a benchmark's finished jobs: a table of all, and what the scoreboard shows of them."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import yaml

from mmtab.benchmark.job import check_files, read_labels_and_predictions, read_result
from mmtab.benchmark.plan import JOBS, Source
from mmtab.benchmark.types import Board, Entry, Failure, RankedDataset, Score
from mmtab.config.ranking import BenchmarkConfig, SystemConfig
from mmtab.config.types import CONFIGS, SPLITS
from mmtab.data import files, table
from mmtab.utils import manifest
from mmtab.utils.atomic import write_json
from mmtab.utils.errors import RunError
from mmtab.utils.plain import Unfit, choice, line, record, text

# The columns of results.parquet
SCORE = ["system", "dataset", "task", "seed", "split", "metric", "value", "ranked_by"]
SHARED = ["train_seconds", "predict_rows_per_second", "peak_memory_mib", "n_parameters", "n_threads", "git_commit"]
SYSTEM = record({"title": line, "about": text, "kind": choice("mmtab", "control", "rival")})
COLUMNS = [*SCORE, *SHARED, "data_fingerprint", "time"]


def read_results(output: Path) -> list[tuple[Path, dict[str, Any]]]:
    """The result.json of every finished job of a benchmark, with its folder."""
    paths = sorted((output / JOBS).glob("*/*/seed*/result.json"))
    return [(path.parent, read_result(path.parent)) for path in paths]


def write_results(path: Path, results: Sequence[dict[str, Any]]) -> None:
    """A table with a row for each system, dataset, seed, split and metric."""
    rows = [
        result | {"split": split, "metric": metric, "value": value, "ranked_by": metric == result["metric"]}
        for result in results
        for split, values in result["metrics"].items()
        for metric, value in values.items()
    ]
    files.write_table(path, pa.Table.from_pylist([{name: row[name] for name in COLUMNS} for row in rows]))


def collect(
    output: Path,
    config: BenchmarkConfig,
    sources: Mapping[str, Source],
    tracks: Mapping[str, Sequence[str]],
    failures: Sequence[Failure],
) -> Board:
    """The scoreboard of all finished jobs in a benchmark's folder, also those of earlier calls with other systems."""
    results = read_results(output)
    if not results:
        raise RunError(f"nothing was finished: {failures[0].error}" if failures else f"no result in {output}")
    write_results(output / "results.parquet", [result for _, result in results])
    labels: dict[str, np.ndarray] = {}
    scores: dict[str, list[Score]] = {}
    for folder, result in results:
        name = result["dataset"]
        if name in sources and result["data_fingerprint"] == sources[name].fingerprint:
            check_files(folder, result)
            label, prediction = read_labels_and_predictions(folder, name)
            if not np.array_equal(labels.setdefault(name, label), label):
                fix = f"remove {folder}, and the same command runs it again"
                raise RunError(f"{folder} has other labels of {name} than the jobs before it. Fix: {fix}")
            scores.setdefault(result["system"], []).append(
                Score(
                    dataset=name,
                    seed=result["seed"],
                    value=result["value"],
                    train_seconds=result["train_seconds"],
                    predict_rows_per_second=result["predict_rows_per_second"],
                    peak_memory_mib=result["peak_memory_mib"],
                    n_parameters=result["n_parameters"],
                    prediction=prediction,
                )
            )
    references = yaml.safe_load((CONFIGS / "reference.yaml").read_text(encoding="utf-8"))
    datasets = {
        name: RankedDataset(
            name,
            title=source.schema.title or name,
            task=str(source.schema.task),
            metric=source.schema.metric,
            label=labels.get(name),
            facts=card_of(source),
            references=references.get(str(source.schema.task), {}).get(name, {}),
        )
        for name, source in sources.items()
    }
    systems = _all_systems(output, config, scores.keys())
    entries = [
        Entry(name, systems[name].title, systems[name].kind, systems[name].about, of) for name, of in scores.items()
    ]
    title = " and ".join(track.title for track in config.track.values())
    return Board(title, tracks, datasets, entries, failures, _facts([result for _, result in results]))


def _facts(results: Sequence[dict[str, Any]]) -> dict[str, str]:
    hardware = results[-1]["hardware"]
    commits = {(result["git_commit"] or "unknown")[:8] + ("+" if result["git_dirty"] else "") for result in results}
    threads = sorted({result["n_threads"] for result in results})
    return {
        "machine": f"{hardware['cpu']}, {hardware['cores']} cores" + "".join(f", {gpu}" for gpu in hardware["gpus"]),
        "threads a run": ", ".join(map(str, threads)),
        "runs": f"{len(results)}, {results[0]['time'][:10]} to {max(result['time'] for result in results)[:10]}",
        "code": ", ".join(sorted(commits)),
    }


def card_of(source: Source) -> dict[str, str]:
    """The facts of a dataset's card."""
    schema = source.schema
    tables = [table.find_table(source.folder, schema, schema.table_of(split)) for split in SPLITS]
    counts = [f"{files.count(path, schema.name):,}" for path in tables]
    types = Counter(str(column.type) for column in schema.columns)
    facts = {
        "rows" if schema.of_rows else "pairs": " / ".join(counts) + " (train / valid / test)",
        "columns": ", ".join(f"{n} {kind}" for kind, n in types.items()),
        "relations": ", ".join(schema.relations if schema.names_relations else ()),
        "source": schema.source,
        "licence": schema.licence,
        "ceiling": f"{schema.ceiling:.3f}" if schema.ceiling is not None else "",
        "data fingerprint": source.fingerprint,
    }
    return {name: value for name, value in facts.items() if value}


def _all_systems(output: Path, config: BenchmarkConfig, names: Set[str]) -> dict[str, SystemConfig]:
    """Of this call and of earlier ones, as systems.json remembers them; ``names``: of those with results."""
    path = output / "systems.json"
    fix = "remove it, and name all systems again"
    systems = manifest.read_sealed(path, fix) if path.exists() else {}
    known: dict[str, SystemConfig] = {}
    for name, system in systems.items():
        try:
            SYSTEM(system, name)
            known[name] = SystemConfig(**system)
        except (TypeError, Unfit) as error:
            raise RunError(f"{path} does not fit ({error}). Fix: {fix}") from error
    known |= config.system
    write_json(path, manifest.sealed({name: dataclasses.asdict(system) for name, system in known.items()}))
    if absent := sorted(names - known.keys()):
        fix = f"name it too, system=[…,{absent[0]}], or remove {output / JOBS / absent[0]}"
        raise RunError(f"{path} lacks {absent[0]}, of which there are results. Fix: {fix}")
    return known
