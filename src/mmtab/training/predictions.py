"""The scores of rows or pairs as plain arrays: what a task returns for a batch, and of a whole split."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np


@dataclass  # not frozen: Lightning takes it apart
class Predictions:
    """Scores of a batch and, after ``gather``, of a whole split in row order. n rows or pairs, k classes, r relations.

    K-way has the ``best`` classes of each row, the likeliest first, and what the row's label got: ``rank`` 0 is the
    likeliest class. ``probability`` is None for more than tasks.DENSE_CLASSES classes. Regression has ``value``: the
    prediction and the size of its error, on the scale of the task's target.
    """

    row: np.ndarray  # [n] int64
    label: np.ndarray  # [n] int64 (pairs: [n, r]), -1 where unknown; of regression [n] float64, NaN where unknown
    probability: np.ndarray | None = None  # [n, k] float32 (pairs: [n, r] float64)
    best: np.ndarray | None = None  # [n, m] int64
    best_probability: np.ndarray | None = None  # [n, m] float64
    label_probability: np.ndarray | None = None  # [n] float64, NaN where unknown
    rank: np.ndarray | None = None  # [n] int64, -1 where unknown
    value: np.ndarray | None = None  # [n, 2] float64


def stack(parts: Iterable[Predictions]) -> Predictions:
    """The predictions of blocks of rows that follow each other, each with its rows numbered from 0."""
    numbered, first = list[Predictions](), 0
    for part in parts:
        numbered.append(replace(part, row=part.row + first))
        first += len(part.row)
    return gather(numbered)


def gather(parts: Sequence[Predictions]) -> Predictions:
    """The predictions of all batches in row order; each row once, also where several processes scored it."""
    _, order = np.unique(np.concatenate([part.row for part in parts]), return_index=True)
    columns = {field.name: [getattr(part, field.name) for part in parts] for field in fields(Predictions)}
    arrays: dict[str, Any] = {
        name: None if column[0] is None else np.concatenate(column)[order] for name, column in columns.items()
    }
    return Predictions(**arrays)
