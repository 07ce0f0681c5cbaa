"""The records and pairs of a matching dataset as the checks look at them: cells as hashes, rows with their names."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from mmtab.data.pairs import Pairs, Records
from mmtab.data.schema import ColumnType, Schema
from mmtab.data.table import Table
from mmtab.prepare.check.alarms import Cells, Usage, mix, name_row


@dataclass(frozen=True)
class PairData:
    records: Records
    pairs: dict[str, Pairs]  # by split
    columns: dict[str, np.ndarray]  # [n_records] int64 hashes
    present: dict[str, np.ndarray]  # [n_records] bool
    types: dict[str, ColumnType]
    shared: list[str]  # columns that both sides fill

    def record(self, row: int) -> str:
        n_left = self.records.n_left
        table = "records" if n_left is None else "left" if row < n_left else "right"
        return name_row(
            table, row - (n_left if table == "right" and n_left else 0), self.records.table.ids[row].as_py()
        )

    def pair(self, split: str, row: int) -> str:
        pairs = self.pairs[split]
        names = f"({pairs.left_ids[row]}, {pairs.right_ids[row]})"
        label = "" if pairs.labels is None else f", label {pairs.labels[row]}"
        return f"pairs_{split} row {row + 1} {names}{label}"

    def labels(self, split: str) -> np.ndarray:
        """[n] int8, -1 where the table has none."""
        labels = self.pairs[split].labels
        return np.full(len(self.pairs[split]), -1, np.int8) if labels is None else np.asarray(labels)

    def keys(self, split: str) -> np.ndarray:
        """[n] int64: one number for a pair, whichever way round it is."""
        left, right = self.pairs[split].left, self.pairs[split].right
        return np.minimum(left, right) * len(self.records.table) + np.maximum(left, right)


def sides_of(records: Records) -> list[Table]:
    """The record tables as they are in files."""
    if records.n_left is None:
        return [records.table]
    cuts = {"left": slice(0, records.n_left), "right": slice(records.n_left, None)}
    table = records.table
    return [
        replace(table, name=name, ids=table.ids[cut], columns={c: values[cut] for c, values in table.columns.items()})
        for name, cut in cuts.items()
    ]


def hash_cells(
    records: Records, pairs: dict[str, Pairs], schema: Schema, cells: Cells
) -> tuple[PairData, dict[str, dict[str, Usage]]]:
    types = {column.name: column.type for column in schema.columns}
    values: dict[str, list[np.ndarray]] = {column: [] for column in types}
    present: dict[str, list[np.ndarray]] = {column: [] for column in types}
    usage: dict[str, dict[str, Usage]] = {}
    for side in sides_of(records):
        for column, kind in types.items():
            hashed, filled = cells.hashes(side, column, kind)
            values[column].append(hashed)
            present[column].append(filled)
            usage.setdefault(side.name, {})[column] = use = Usage()
            use.add(hashed, filled)
    shared = [column for column in types if all(filled.any() for filled in present[column])]
    join = np.concatenate
    data = PairData(
        records, pairs, {c: join(v) for c, v in values.items()}, {c: join(v) for c, v in present.items()}, types, shared
    )
    return data, usage


def labelled_pairs(data: PairData) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, list[tuple[str, int]]]:
    """Left, right, label, key and name of all labelled pairs of all splits."""
    parts: list[list[np.ndarray]] = [[], [], [], []]
    names: list[tuple[str, int]] = []
    for split, pairs in data.pairs.items():
        labels = data.labels(split)
        rows = np.flatnonzero(labels >= 0)
        for part, values in zip(parts, (pairs.left, pairs.right, labels, data.keys(split)), strict=True):
            part.append(values[rows])
        names += [(split, int(row)) for row in rows]
    left, right, labels, keys = (np.concatenate(part) if part else np.zeros(0, np.int64) for part in parts)
    return left, right, labels, keys, names


def content_of(data: PairData) -> tuple[np.ndarray, np.ndarray]:
    """[n] int64, equal for records equal in all shared columns, and [n] bool, whether they fill any."""
    n = len(data.records.table)
    if not data.shared:
        return np.arange(n), np.zeros(n, bool)
    return mix([data.columns[c] for c in data.shared]), np.any([data.present[c] for c in data.shared], 0)
