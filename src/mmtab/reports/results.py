"""Scores of many runs in one table, beside the figures others have reached on the same data."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, stdev

import yaml

from mmtab.config.types import CONFIGS
from mmtab.data.schema import Schema
from mmtab.utils.errors import RunError


@dataclass
class Row:
    """All runs of one dataset with the same columns. ``ceiling``: the best reachable score, where it is known."""

    dataset: str
    dropped: str
    metric: str
    ceiling: float | None = None
    scores: list[float] = field(default_factory=list)
    minutes: list[float] = field(default_factory=list)
    train_rows_per_second: list[float] = field(default_factory=list)
    predict_rows_per_second: list[float] = field(default_factory=list)
    memory_gib: list[float] = field(default_factory=list)


def collect(folders: list[Path], split: str) -> dict[str, list[Row]]:
    """Finished runs at or below the folders, by task; raises RunError when there are none."""
    found: dict[str, dict[str, Row]] = defaultdict(dict)
    for path in sorted({p for folder in folders for p in folder.rglob("provenance.json")}):
        metrics = json.loads((path.parent / "metrics.json").read_text())
        if split not in metrics or (path.parent / "reproduction.json").exists():  # which is a run that is there already
            continue
        schema = yaml.safe_load((path.parent / "schema.yaml").read_text())
        facts = json.loads(path.read_text())
        config = yaml.safe_load((path.parent / "config.yaml").read_text())
        dropped = " ".join(f"− {name}" for name in config["dataset"]["drop"])
        row = found[schema["task"]].setdefault(schema["name"] + dropped, Row(schema["name"], dropped, schema["metric"]))
        row.ceiling = Schema.from_dict(schema).ceiling
        row.scores.append(metrics[split][schema["metric"]])
        row.minutes.append(facts["seconds"]["total"] / 60)
        row.train_rows_per_second.append(facts["train_rows_per_second"])
        row.predict_rows_per_second.append(metrics[split]["predict_rows_per_second"])
        row.memory_gib.append(facts["peak_memory_mib"] / 1024)
    if not found:
        raise RunError(f"no run with a score on {split!r} below {', '.join(map(str, folders))}")
    return {task: sorted(rows.values(), key=lambda row: (row.dataset, row.dropped)) for task, rows in found.items()}


def markdown(tables: dict[str, list[Row]]) -> str:
    """One table a task, with the reference figures of configs/reference.yaml."""
    references = yaml.safe_load((CONFIGS / "reference.yaml").read_text())
    title = "ceiling of its modalities"
    parts = []
    for task, rows in sorted(tables.items()):
        known = references.get(task, {}) | {
            row.dataset + row.dropped: {title: row.ceiling} for row in rows if row.ceiling
        }
        names = list(dict.fromkeys(name for row in rows for name in known.get(row.dataset + row.dropped, {})))
        head = ["dataset", "metric", "mmtab", *names, "runs", "minutes", "train rows/s", "predict rows/s", "GiB"]
        lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
        for row in rows:
            figures_of_others = known.get(row.dataset + row.dropped, {})
            others = [f"{figures_of_others[name]:.3f}" if name in figures_of_others else "" for name in names]
            score = f"**{mean(row.scores):.3f}**" + (f" ± {stdev(row.scores):.3f}" if len(row.scores) > 1 else "")
            figures = [f"{mean(row.minutes):.1f}", f"{mean(row.train_rows_per_second):.0f}",
                       f"{mean(row.predict_rows_per_second):.0f}", f"{mean(row.memory_gib):.1f}"]  # fmt: skip
            lines.append(
                "| "
                + " | ".join(
                    [f"{row.dataset} {row.dropped}".strip(), row.metric, score, *others, str(len(row.scores)), *figures]
                )
                + " |"
            )
        if not any(row.dropped for row in rows):
            average = mean(mean(row.scores) for row in rows)
            lines.append(f"| **average** | | **{average:.3f}** |" + " |" * (len(head) - 3))
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def refresh(path: Path, mark: str, text: str) -> None:
    """Replace what stands between ``<!-- mark -->`` and ``<!-- /mark -->``; raises RunError when they are not there."""
    begin, end = f"<!-- {mark} -->", f"<!-- /{mark} -->"
    whole = path.read_text()
    if begin not in whole or end not in whole:
        raise RunError(f"{path} has no {begin} … {end} to fill")
    before, after = whole.split(begin, 1)[0], whole.split(end, 1)[1]
    path.write_text(f"{before}{begin}\n{text}\n{end}{after}")
