"""Scores of many runs in one table, beside the figures others have reached on the same data."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import yaml

from mmtab.config.types import CONFIGS
from mmtab.runs.export import is_export
from mmtab.runs.folder import APART, CONFIG, METRICS, flat, read_facts, read_run_file, read_schema, reading, without
from mmtab.runs.manifest import verified
from mmtab.runs.predictions import predictions_path
from mmtab.utils.errors import RunError
from mmtab.utils.text import count, markdown_table, markdown_text

CEILING = "ceiling of its modalities"
N_NAMED = 3  # settings at most by which a row is told from another

COSTS = {"minutes": ".1f", "train rows/s": ".0f", "predict rows/s": ".0f", "GiB": ".1f"}  # how a mean is written


@dataclass
class Row:
    """All runs of one dataset with the same settings but for seeds: their scores, and figures as COSTS names them.

    settings  those that the numbers hang on
    ceiling   the best reachable score, where it is known
    differs   the settings by which it is told from other rows of the dataset
    scores    by seed; several where a run was repeated
    """

    dataset: str
    dropped: str
    metric: str
    settings: dict[str, Any]
    ceiling: float | None = None
    differs: str = ""
    scores: dict[int, list[float]] = field(default_factory=dict)
    costs: list[tuple[float, ...]] = field(default_factory=list)

    @property
    def score(self) -> float:
        """The mean over seeds."""
        return mean(map(mean, self.scores.values()))

    def cells(self, references: Mapping[str, float], names: list[str]) -> list[str]:
        """A line of the table; ``names``: columns for ``references``, the figures of others."""
        costs, n = zip(*self.costs, strict=True), len(self.costs)
        seeds = [mean(scores) for scores in self.scores.values()]
        return [
            markdown_text(" ".join(filter(None, (self.dataset, self.dropped, self.differs)))),
            markdown_text(self.metric),
            f"**{self.score:.3f}**" + (f" ± {stdev(seeds):.3f}" if len(seeds) > 1 else ""),
            *(f"{references[name]:.3f}" if name in references else "" for name in names),
            str(n) if n == len(seeds) else f"{n} of {count(len(seeds), 'seed')}",
            *(format(mean(values), how) for values, how in zip(costs, COSTS.values(), strict=True)),
        ]


def collect(folders: list[Path], split: str) -> dict[str, list[Row]]:
    """Finished runs at or below the folders, by task; raises RunError when there are none."""
    tasks: dict[str, dict[str, Row]] = defaultdict(dict)
    if absent := [folder for folder in folders if not folder.exists()]:
        raise RunError(f"no folder {absent[0]}; expected run folders, or folders that hold some")
    for path in sorted({p for folder in folders for p in folder.rglob("provenance.json")}):
        metrics = read_run_file(path.parent, METRICS)
        if split not in metrics or (path.parent / "reproduction.json").exists():  # which repeats another run
            continue
        schema, facts, config = read_schema(path.parent), read_facts(path.parent), read_run_file(path.parent, CONFIG)
        if is_export(path.parent, config):  # of a run
            continue
        verified(path.parent, predictions_path(path.parent, split).name)
        dropped = " ".join(f"− {name}" for name in config["dataset"]["drop"])
        settings = without(flat(config), APART | {"seed", "dataset.drop"})
        row = Row(schema.name, dropped, schema.metric, settings, schema.ceiling)
        key = json.dumps([schema.name, dropped, settings], sort_keys=True)
        row = tasks[schema.task].setdefault(key, row)
        with reading(path.parent / METRICS):
            row.scores.setdefault(config["seed"], []).append(metrics[split][schema.metric])
        minutes, gib = facts["seconds"]["total"] / 60, facts["peak_memory_mib"] / 1024
        row.costs.append((minutes, facts["train_rows_per_second"], metrics[split]["predict_rows_per_second"], gib))
    if not tasks:
        raise RunError(f"no run with a score on {split!r} below {', '.join(map(str, folders))}")
    tables = {task: sorted(rows.values(), key=lambda row: (row.dataset, row.dropped)) for task, rows in tasks.items()}
    for row in (rows := [row for table in tables.values() for row in table]):
        others = [other for other in rows if (other.dataset, other.dropped) == (row.dataset, row.dropped)]
        row.differs = _differing(row.settings, [other.settings for other in others])
    return tables


def differing(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """The names that do not have the same value in all of these settings."""
    names = dict.fromkeys(name for values in settings for name in values)
    return [name for name in names if len({str(values.get(name)) for values in settings}) > 1]


def _differing(settings: dict[str, Any], others: list[dict[str, Any]]) -> str:
    """The settings that are not the same in all the others, as they are written."""
    differ = differing(others)
    more = " …" if len(differ) > N_NAMED else ""
    return " ".join(f"{name}={settings.get(name)}" for name in differ[:N_NAMED]) + more


def markdown(tables: dict[str, list[Row]]) -> str:
    """One table a task, with the reference figures of configs/reference.yaml."""
    published = yaml.safe_load((CONFIGS / "reference.yaml").read_text())
    parts = []
    for task, rows in sorted(tables.items()):
        references = [
            {CEILING: row.ceiling} if row.ceiling else published.get(task, {}).get(row.dataset + row.dropped, {})
            for row in rows
        ]
        names = list(dict.fromkeys(name for reference in references for name in reference))
        head = ["dataset", "metric", "mmtab", *names, "runs", *COSTS]
        body = [row.cells(reference, names) for row, reference in zip(rows, references, strict=True)]
        if not any(row.dropped for row in rows) and max(Counter(row.dataset for row in rows).values()) == 1:
            average = mean(row.score for row in rows)
            body.append(["**average**", "", f"**{average:.3f}**", *[""] * (len(head) - 3)])
        parts.append(markdown_table(head, body))
    return "\n\n".join(parts)


def refresh(path: Path, mark: str, text: str) -> None:
    """Replace what stands between ``<!-- mark -->`` and ``<!-- /mark -->``; raises RunError when they are not there."""
    begin, end = f"<!-- {mark} -->", f"<!-- /{mark} -->"
    page = path.read_text()
    if begin not in page or end not in page:
        raise RunError(f"{path} has no {begin} … {end} to fill")
    before, after = page.split(begin, 1)[0], page.split(end, 1)[1]
    path.write_text(f"{before}{begin}\n{text}\n{end}{after}")
