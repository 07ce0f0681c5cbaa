"""Scores of parts of a split beside the rest of it: which rows does a model do worse on?"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc

from mmtab.data.pairs import Pairs, read_pairs, read_records
from mmtab.data.schema import ColumnType, Schema
from mmtab.data.streams import Stream
from mmtab.data.table import Table, find_table
from mmtab.runs.scored import Scored
from mmtab.runs.scored_numbers import ScoredNumbers

MIN_ROWS = 20  # of a slice and of its rest; a score of fewer says nothing
Z = 1.96  # standard errors to either side of a 95 % interval


class Source:
    """The rows (or pairs) of a split, where the dataset still is; cells that do not fit count as missing."""

    def __init__(self, folder: Path, schema: Schema, split: str) -> None:
        self.schema = schema
        self.pairs: Pairs | None = None
        self.batches: Callable[[], Iterator[Table]]
        if schema.of_rows:
            self.batches = Stream(find_table(folder, schema, split), schema, folder, "missing").batches
        else:
            records = read_records(folder, schema, "missing")
            self.pairs, self.batches = read_pairs(folder, schema, split, records), lambda: iter([records.table])

    def rows(self, places: np.ndarray) -> dict[int, list[tuple[Table, int]]]:
        """By place in the split: the row, or both rows of the pair, each as its table and its number there."""
        if self.pairs is not None:
            (table,), left, right = self.batches(), self.pairs.left, self.pairs.right
            return {int(i): [(table, int(left[i])), (table, int(right[i]))] for i in places}
        rows: dict[int, list[tuple[Table, int]]] = {}
        for batch in self.batches():
            for i in places[(places >= batch.first_row) & (places < batch.first_row + len(batch))]:
                rows[int(i)] = [(batch, int(i) - batch.first_row)]
        return rows

    @cached_property
    def missing_and_length(self) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """By column, [n] whether its cell is missing (of pairs, that of either row), and [n] characters of all text (of
        pairs, of both rows)."""
        batches = list(self.batches())
        missing = {
            column.name: np.concatenate([np.asarray(pc.is_null(batch.columns[column.name])) for batch in batches])
            for column in self.schema.columns
        }
        length = np.zeros(sum(map(len, batches)), np.int64)
        for name in self.schema.of_type(ColumnType.TEXT):
            parts = [pc.fill_null(pc.utf8_length(batch.columns[name]), 0) for batch in batches]
            length += np.concatenate([np.asarray(part) for part in parts])
        if self.pairs is None:
            return missing, length
        left, right = self.pairs.left, self.pairs.right
        return {name: null[left] | null[right] for name, null in missing.items()}, length[left] + length[right]


def slices(predictions: Scored, source: Source) -> list[dict[str, Any]]:
    """Rows that lack a cell, short and long texts, rare classes: the score of each slice beside that of the rest.

    ``low`` and ``high`` bound 95 % of the difference to the rest. Slices of fewer than MIN_ROWS rows are left out.
    """
    scores = []
    for name, rows in _slices(predictions, source):
        n = int(rows.sum())
        if n < MIN_ROWS or n > len(rows) - MIN_ROWS:
            continue
        score, rest = predictions.score(rows), predictions.score(~rows)
        error = Z * float(np.hypot(standard_error(predictions, rows), standard_error(predictions, ~rows)))
        bounds = {"low": score - rest - error, "high": score - rest + error}
        scores.append({"slice": f"{name}{predictions.of_relation}", "rows": n, "score": score, "rest": rest, **bounds})
    return scores


def _slices(predictions: Scored, source: Source) -> list[tuple[str, np.ndarray]]:
    """Names, and [n] bool which rows belong to it."""
    missing, length = source.missing_and_length
    parts = [(f"{name} missing", null[predictions.row]) for name, null in missing.items()]
    if source.schema.of_type(ColumnType.TEXT) and len(np.unique(length)) > 2:
        n = length[predictions.row]
        low, high = np.quantile(n, [1 / 3, 2 / 3])
        parts.append((f"text of at most {low:.0f} characters", n <= low))
        parts.append((f"text of more than {high:.0f} characters", n > high))
    if isinstance(predictions, ScoredNumbers):
        return [*parts, *predictions.slices()]
    if predictions.threshold is None and len(predictions.classes) > 2:
        counts = np.bincount(predictions.y_true, minlength=len(predictions.classes))
        order = np.argsort(counts, kind="stable")
        rare = order[counts[order].cumsum() <= len(predictions.y_true) * 0.1]
        name = f"the {len(rare)} rarest classes (a tenth of the rows)"
        parts.append((name, np.isin(predictions.y_true, rare)))
    return parts


def standard_error(predictions: Scored, rows: np.ndarray) -> float:
    """Of the score of some rows, [n] bool: of accuracy that of a mean, of F1 by the delta method; NaN where F1 has no
    value."""
    if isinstance(predictions, ScoredNumbers):
        return predictions.standard_error(rows)
    n, score = int(rows.sum()), predictions.score(rows)
    if predictions.threshold is None:
        return float(np.sqrt(max(score * (1 - score), 1 / n) / n))
    y_true, y_pred = predictions.y_true[rows] == 1, predictions.y_pred[rows] == 1
    total = y_true.astype(int) + y_pred
    if not total.any():
        return float("nan")
    return float(np.std(2 * (y_true & y_pred) - score * total) / total.mean() / np.sqrt(n))
