"""The records and pairs of a matching dataset as the checks look at them: cells as hashes, rows with their names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from mmtab.data.pairs import Pairs, Records
from mmtab.data.schema import Schema
from mmtab.prepare.check.alarms import N_EXAMPLES, Cells, Usage, mix, name_row


class PairData:
    """``columns`` and ``present``: [n_records] int64 hashes and bool of each column; ``pairs`` by split."""

    def __init__(self, records: Records, pairs: dict[str, Pairs], schema: Schema, cells: Cells) -> None:
        self.records, self.pairs = records, pairs
        self.types = {column.name: column.type for column in schema.columns}
        self.sides, n_left = [records.table], records.n_left
        if n_left is not None:
            left, right = records.table.slice(0, n_left), records.table.slice(n_left, len(records.table) - n_left)
            self.sides = [replace(left, name="left"), replace(right, name="right", first_row=0)]
        self.usage: dict[str, dict[str, Usage]] = {side.name: {} for side in self.sides}
        self.columns: dict[str, np.ndarray] = {}
        self.present: dict[str, np.ndarray] = {}
        self.shared: list[str] = []  # columns that both sides fill
        for column, kind in self.types.items():
            hashed = [cells.hashes(side, column, kind) for side in self.sides]
            for side, (values, filled) in zip(self.sides, hashed, strict=True):
                self.usage[side.name][column] = usage = Usage()
                usage.add(values, filled)
            self.columns[column], self.present[column] = (np.concatenate(parts) for parts in zip(*hashed, strict=True))
            self.shared += [column] if all(filled.any() for _, filled in hashed) else []

    def record(self, row: int) -> str:
        table = self.records.side_of(row)
        start = self.records.n_left or 0 if table == "right" else 0
        return name_row(table, row - start, self.records.table.ids[row].as_py())

    def pair(self, split: str, row: int) -> str:
        pairs = self.pairs[split]
        names = f"({pairs.left_ids[row]}, {pairs.right_ids[row]})"
        label = "" if pairs.labels is None else f", label {pairs.labels[row]}"
        return f"pairs_{split} row {row + 1} {names}{label}"

    def names(self, split: str, rows: np.ndarray) -> tuple[str, ...]:
        """Of the first of these pairs."""
        return tuple(self.pair(split, int(row)) for row in rows[:N_EXAMPLES])

    def labels(self, split: str) -> np.ndarray:
        """[n] int8, -1 where the table has none."""
        labels = self.pairs[split].labels
        return np.full(len(self.pairs[split]), -1, np.int8) if labels is None else np.asarray(labels)

    def keys(self, split: str) -> np.ndarray:
        """[n] int64: one number for a pair, whichever way round it is."""
        left, right = self.pairs[split].left, self.pairs[split].right
        return np.minimum(left, right) * len(self.records.table) + np.maximum(left, right)

    @cached_property
    def labelled(self) -> LabelledPairs:
        rows = {split: np.flatnonzero(self.labels(split) >= 0) for split in self.pairs}

        def join(values: Callable[[str], np.ndarray]) -> np.ndarray:
            return np.concatenate([np.zeros(0, np.int64), *(values(split)[chosen] for split, chosen in rows.items())])

        left, right = join(lambda split: self.pairs[split].left), join(lambda split: self.pairs[split].right)
        places = [(split, int(row)) for split, chosen in rows.items() for row in chosen]
        return LabelledPairs(left, right, join(self.labels), join(self.keys), places)

    def content(self) -> tuple[np.ndarray, np.ndarray]:
        """[n] int64, equal for records equal in all shared columns, and [n] bool, whether they fill any."""
        n = len(self.records.table)
        if not self.shared:
            return np.arange(n), np.zeros(n, bool)
        return mix([self.columns[c] for c in self.shared]), np.any([self.present[c] for c in self.shared], 0)


@dataclass(frozen=True)
class LabelledPairs:
    """The labelled pairs of all splits: rows of records, label, key, and (split, row) of each."""

    left: np.ndarray
    right: np.ndarray
    labels: np.ndarray
    keys: np.ndarray
    places: list[tuple[str, int]]
