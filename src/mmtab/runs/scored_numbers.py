"""Predicted numbers beside their labels, as a predictions file has them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmtab.data.schema import Schema
from mmtab.runs.predictions import HIGH, LABEL, LOW, PREDICTION, free_name, readable
from mmtab.training.metrics import number_metrics


@dataclass
class ScoredNumbers:
    """Predictions of a split of a regression dataset beside their labels. Rows without a label are left out: n rows.

    schema:     of the run
    split:      its name
    row:        [n] place in the split
    id_columns: id of each row
    ids:        [n] the same for people to read
    y_true:     [n] float64
    y_pred:     [n] float64
    interval:   bounds [n] and [n]; None where none were fitted
    """

    schema: Schema
    split: str
    row: np.ndarray
    id_columns: pa.Table
    ids: list[str]
    y_true: np.ndarray
    y_pred: np.ndarray
    interval: tuple[np.ndarray, np.ndarray] | None

    relation, of_relation, score_name = None, "", "r2"

    @property
    def error(self) -> np.ndarray:
        """[n] prediction less label."""
        return self.y_pred - self.y_true

    @cached_property
    def row_scores(self) -> np.ndarray:
        """[n] of which the mean is R²: 1 less the squared error over the variance of all labels."""
        variance = np.square(self.y_true - self.y_true.mean()).mean()
        return 1 - np.square(self.error) / max(variance, np.finfo(np.float64).tiny)

    def score(self, rows: np.ndarray | None = None) -> float:
        """R² of all rows, or what some, [n] bool, have of it: by the variance of all."""
        scores = self.row_scores if rows is None else self.row_scores[rows]
        return float(scores.mean()) if len(scores) else float("nan")

    def standard_error(self, rows: np.ndarray) -> float:
        """Of the score of some rows, [n] bool."""
        return float(self.row_scores[rows].std() / np.sqrt(rows.sum()))

    def slices(self) -> list[tuple[str, np.ndarray]]:
        """Rows of low and of high labels, [n] bool by name."""
        low, high = np.quantile(self.y_true, [0.1, 0.9])
        return [
            (f"label of at most {low:.4g}", self.y_true <= low),
            (f"label of at least {high:.4g}", self.y_true >= high),
        ]

    def worst(self, n: int) -> np.ndarray:
        """Places of the ``n`` largest errors, the largest first."""
        return np.argsort(-np.abs(self.error), kind="stable")[:n]

    @property
    def metrics(self) -> dict[str, float]:
        return number_metrics(self.y_true, self.y_pred, self.interval)


def scored_numbers(table: pa.Table, schema: Schema, split: str) -> ScoredNumbers:
    """``table``: a predictions file of numbers."""
    label, prediction, low, high = (free_name(name, [schema.id]) for name in (LABEL, PREDICTION, LOW, HIGH))
    labelled = np.flatnonzero(np.asarray(pc.is_valid(table[label])))
    table = table.take(labelled)
    columns = {name: table[name].to_numpy().astype(np.float64) for name in table.column_names if name != schema.id}
    return ScoredNumbers(
        schema,
        split,
        labelled,
        table.select([schema.id]),
        readable(table.select([schema.id])),
        columns[label],
        columns[prediction],
        (columns[low], columns[high]) if low in columns else None,
    )
