"""What is kept of a table of a k-way dataset, and findings whose rows are still numbers."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from mmtab.prepare.check.alarms import Alarm, Usage

Ref = tuple[str, int, str]  # (table, row, what to say of it)


@dataclass(frozen=True)
class Finding:
    """An alarm whose rows are still numbers. Each example's rows are joined by `` = ``."""

    alarm: Alarm
    examples: list[tuple[Ref, ...]] = field(default_factory=list)


@dataclass(frozen=True)
class Split:
    """What is kept of a table: a few numbers for each row, and a sample of its cells."""

    name: str
    key: np.ndarray  # [n] int64, equal for rows of equal features
    ids: np.ndarray  # [n] int64
    labels: np.ndarray  # [n] int32, -1 = none
    usage: dict[str, Usage]
    sample: dict[str, list]  # normalised text, category or number of the sampled rows
    sample_rows: np.ndarray  # [n_sampled] int64
    sample_labels: np.ndarray  # [n_sampled] int32


def find_first(haystack: np.ndarray, needles: np.ndarray) -> np.ndarray:
    """[n] int64: for each needle the first place in the haystack where it is, or -1."""
    order = np.argsort(haystack, kind="stable")
    place = np.searchsorted(haystack, needles, sorter=order).clip(0, max(len(haystack) - 1, 0))
    if len(haystack) == 0:
        return np.full(len(needles), -1)
    return np.where(haystack[order[place]] == needles, order[place], -1)


def ref_of(split: Split, row: int | np.integer, classes: list[str]) -> Ref:
    label = split.labels[row]
    return split.name, int(row), f", label {classes[label]}" if label >= 0 else ""
