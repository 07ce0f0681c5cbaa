"""What a scoreboard shows, of benchmark runs and of what teams handed in alike. Plain values: nothing here computes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Score:
    """Of one entry on one dataset with one seed. ``prediction`` [n, r] int64 in the order of ``RankedDataset.label``.
    Seconds are those of training, preparing included; figures that are not known are None."""

    dataset: str
    seed: int
    value: float
    train_seconds: float | None = None
    predict_rows_per_second: float | None = None
    peak_memory_mib: float | None = None
    n_parameters: int | None = None
    prediction: np.ndarray | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Entry:
    """Who is ranked: a system or a team. ``kind``: mmtab, control, rival or team."""

    name: str
    title: str
    kind: str
    about: str = ""
    scores: Sequence[Score] = ()

    def of(self, dataset: str) -> list[Score]:
        return [score for score in self.scores if score.dataset == dataset]


@dataclass(frozen=True)
class RankedDataset:
    """A dataset to be ranked on. ``label`` [n, r] int64 of the test rows, as ``Truth.label``; None where only scores
    are known. ``facts`` are those of its card; ``references`` what others reached on the same test split, by name."""

    name: str
    title: str
    task: str
    metric: str
    label: np.ndarray | None = field(default=None, repr=False)
    facts: Mapping[str, str] = field(default_factory=dict)
    references: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Failure:
    entry: str
    dataset: str
    seed: int
    error: str


@dataclass(frozen=True)
class Board:
    """``tracks``: names of datasets by the name of the track. ``facts``: where and how the scores were made."""

    title: str
    tracks: Mapping[str, Sequence[str]]
    datasets: Mapping[str, RankedDataset]
    entries: Sequence[Entry]
    failures: Sequence[Failure] = ()
    facts: Mapping[str, str] = field(default_factory=dict)
