"""The records and pairs of a matching dataset: pairs are row numbers into the records, with labels by relation."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmtab.data import files
from mmtab.data.cells import first, join
from mmtab.data.schema import ColumnType, Schema
from mmtab.data.spelling import as_given, bits, places_in
from mmtab.data.table import BadCells, Table, find_table, names_in, read_split, read_table
from mmtab.utils.errors import DataError

ENOUGH_MATCHES = 50  # to believe that records have one partner each


@dataclass(frozen=True)
class Pairs:
    """Pairs as row numbers into ``Records.table``, and their ids in the type that the file has them in. ``relations``:
    for each label column that the file fills, 1 where the relation holds and 0 where not."""

    name: str
    left: np.ndarray  # [n] int64
    right: np.ndarray  # [n] int64
    left_ids: pa.Array
    right_ids: pa.Array
    relations: dict[str, pa.Array]  # int8

    def __len__(self) -> int:
        return len(self.left)

    @property
    def labels(self) -> pa.Array | None:
        """Those of the first relation that has any."""
        return next(iter(self.relations.values()), None)

    @property
    def is_match(self) -> np.ndarray:
        """[n] bool: pairs of which some relation holds."""
        return np.any([np.zeros(len(self)), *(np.asarray(labels) == 1 for labels in self.relations.values())], 0)

    @property
    def matches(self) -> tuple[np.ndarray, np.ndarray]:
        """Left and right row numbers of the pairs of which some relation holds."""
        is_match = self.is_match
        return self.left[is_match], self.right[is_match]

    def take(self, rows: np.ndarray) -> Pairs:
        """The pairs of some rows."""
        ids = self.left_ids.take(pa.array(rows)), self.right_ids.take(pa.array(rows))
        relations = {name: labels.take(pa.array(rows)) for name, labels in self.relations.items()}
        return Pairs(self.name, self.left[rows], self.right[rows], *ids, relations)

    def labelled(self, relation: str, label: int) -> tuple[np.ndarray, np.ndarray]:
        """Left and right row numbers of the pairs that have this label."""
        labels = self.relations.get(relation)
        chosen = np.zeros(len(self), bool) if labels is None else np.asarray(labels) == label
        return self.left[chosen], self.right[chosen]

    def single_share(self, relation: str) -> float:
        """The share of the matches neither of whose records has another partner on the other side; 0 where matches are
        too few to tell."""
        matches = np.unique(np.stack(self.labelled(relation, 1), 1), axis=0)
        if len(matches) < ENOUGH_MATCHES:
            return 0.0
        times = [np.unique(side, return_inverse=True, return_counts=True)[1:] for side in matches.T]
        return float(np.all([counts[place] == 1 for place, counts in times], 0).mean())

    def one_to_one(self) -> list[str]:
        """Relations in which no record has two partners on the other side, as far as matches are enough to tell."""
        return [name for name in self.relations if self.single_share(name) == 1]

    def contradictions(self) -> list[np.ndarray]:
        """The rows of each pair that some relation labels both 1 and 0, swapped or not, in the order of the table."""
        if not len(self) or not self.relations:
            return []
        low, high = np.minimum(self.left, self.right), np.maximum(self.left, self.right)
        _, place, times = np.unique(low * (high.max() + 1) + high, return_inverse=True, return_counts=True)
        matches = [np.bincount(place, np.asarray(labels)) for labels in self.relations.values()]
        both = np.any([(n > 0) & (n < times) for n in matches], 0)
        rows = np.flatnonzero(both[place])
        rows = rows[np.argsort(place[rows], kind="stable")]
        groups = np.split(rows, np.flatnonzero(np.diff(place[rows])) + 1) if len(rows) else []
        return sorted(groups, key=lambda group: int(group[0]))


@dataclass(frozen=True)
class Records:
    """The rows that pairs are made of: ``left`` and ``right`` stacked, or the one ``records`` table."""

    table: Table
    n_left: int | None  # None: one table, either side

    @property
    def sides(self) -> dict[str, np.ndarray]:
        """By name, the row numbers of each table."""
        rows, n = np.arange(len(self.table)), self.n_left
        return {"records": rows} if n is None else {"left": rows[:n], "right": rows[n:]}

    def side_of(self, row: int) -> str:
        """The name of the table that a row is of."""
        return "records" if self.n_left is None else "left" if row < self.n_left else "right"

    def row_of(self, ids: pa.Array, side: str) -> pa.Array:
        """Row numbers of ids on one side ("left" or "right"), null where the id is unknown."""
        start, stop = 0, len(self.table)
        if self.n_left is not None:
            start, stop = (0, self.n_left) if side == "left" else (self.n_left, stop)
        places = places_in(ids, self.table.ids.slice(start, stop - start))
        return pc.add(pc.cast(places, pa.int64()), start)


def read_records(folder: Path, schema: Schema, bad_cells: BadCells = "error") -> Records:
    """The record table(s) of a matching dataset."""
    if files.exists(folder, "records"):
        return Records(read_split(folder, schema, "records", bad_cells), None)
    left, right = (
        read_side(find_table(folder, schema, side), side, schema, bad_cells, folder) for side in ("left", "right")
    )
    return stack_sides(left, right, schema)


def read_side(
    path: files.Source, side: str, schema: Schema, bad_cells: BadCells, folder: Path, allow_empty: bool = False
) -> Table:
    """One table of records. Left and right may each lack columns; where a run knows which they lacked in training, no
    others."""
    if schema.absent:
        columns = tuple(column for column in schema.columns if column.name not in schema.absent.get(side, ()))
        schema = replace(schema, columns=columns)
    partial = side != "records" and not schema.absent
    options: dict[str, Any] = {"bad_cells": bad_cells, "partial": partial, "allow_empty": allow_empty}
    return read_table(path, schema, folder=folder, **options)


def with_absent_columns(side: Table, schema: Schema) -> Table:
    """The columns that one side lacks, all missing."""
    numbers = (ColumnType.NUMERIC, ColumnType.DATETIME)
    kinds = {c.name: pa.float64() if c.type in numbers else pa.large_string() for c in schema.columns}
    columns = {name: side.columns.get(name, pa.nulls(len(side), kind)) for name, kind in kinds.items()}
    return replace(side, columns=columns)


def stack_sides(left: Table, right: Table, schema: Schema) -> Records:
    """Left rows over right rows. A column that one side lacks is missing in all rows of that side. Raises DataError for
    one that both lack."""
    unseen = [c.name for c in schema.columns if not any(c.name in side.columns for side in (left, right))]
    if unseen:
        fix = "add the column, or leave it out of the dataset"
        raise DataError(schema.name, "the column is in neither left nor right", column=unseen[0], fix=fix)
    columns: dict[str, pa.Array] = {}
    for column in schema.columns:
        parts = [side.columns.get(column.name) for side in (left, right)]
        kind = next((part.type for part in parts if part is not None), pa.null())
        sides = zip(parts, (left, right), strict=True)
        columns[column.name] = join([pa.nulls(len(side), kind) if part is None else part for part, side in sides])
    ids = join([left.ids, right.ids])
    table = Table(
        schema.name,
        "left+right",
        left.folder,
        ids,
        columns,
        n_bad_cells=left.n_bad_cells + right.n_bad_cells,
        narrow=left.narrow | right.narrow,
    )
    return Records(table, len(left))


def read_pairs(folder: Path, schema: Schema, split: str, records: Records) -> Pairs:
    """``pairs_<split>`` with both ids found in the records."""
    return read_pairs_file(find_table(folder, schema, f"pairs_{split}"), schema, records)


def read_pairs_file(path: files.Source, schema: Schema, records: Records, allow_empty: bool = False) -> Pairs:
    """Read left_id, right_id and, where present, the labels of the relations; other columns are not looked at.

    Raises DataError naming an unknown id or label.
    """
    wanted = {"left_id", "right_id", *schema.relations}
    raw = files.read(path, schema.name, [name for name in files.header(path, schema.name).names if name in wanted])
    table = Table(schema.name, path.stem, path.parent, pa.nulls(raw.num_rows, pa.string()), {})
    if raw.num_rows == 0 and not allow_empty:
        raise table.error("the table is empty", fix="give it at least one pair")
    rows, ids = {}, {}
    for side in ("left", "right"):
        key = f"{side}_id"
        if key not in raw.column_names:
            raise table.error("the file lacks this column", column=key, found=f"columns {raw.column_names}")
        ids[side] = names_in(table, raw, key, stored=schema.stored(schema.id))
        rows[side] = records.row_of(ids[side], side)
        if rows[side].null_count:
            row = first(pc.is_null(rows[side]))
            raise table.error(
                "a pair names an unknown id",
                row=row,
                column=key,
                expected=f"an id of {'records' if records.n_left is None else side}",
                found=ids[side][row].as_py(),
                fix="correct the id, or add the record",
            )
    filled = (n for n in schema.relations if n in raw.column_names and raw[n].null_count < raw.num_rows)
    relations = {name: pair_labels(table, name, names_in(table, raw, name)) for name in filled}
    known = schema.stored(schema.id)
    left_ids, right_ids = (as_given(ids[side], raw[f"{side}_id"].type, known) for side in ("left", "right"))
    return Pairs(path.stem, np.asarray(rows["left"]), np.asarray(rows["right"]), left_ids, right_ids, relations)


def pair_labels(table: Table, column: str, names: pa.Array) -> pa.Array:
    """[n] int8 of a relation's column as strings; raises DataError for one that is no label, or missing."""
    labels = bits(names)
    if labels.null_count:
        row = first(pc.is_null(labels))
        fix = "correct the label; a test table may leave the whole column empty"
        cell = names[row].as_py()
        raise table.error("not a pair label", row=row, column=column, expected="0 or 1", found=cell, fix=fix)
    return labels
