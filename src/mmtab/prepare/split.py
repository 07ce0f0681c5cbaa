"""Rows or pairs divided into train, valid and test."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmtab.data import files
from mmtab.data.cells import first, hashes
from mmtab.data.pairs import read_pairs_file, read_records
from mmtab.data.schema import ColumnType, Schema, TaskKind
from mmtab.data.splits import FRACTIONS, SPLITS, assign, components
from mmtab.data.table import read_column
from mmtab.utils.errors import ConfigError, DataError

Method = Literal["auto", "random", "stratified", "grouped", "time", "component"]


def split(
    folder: Path,
    *,
    method: Method = "auto",
    by: str | None = None,
    fractions: tuple[float, float, float] = tuple(FRACTIONS.values()),  # type: ignore[assignment]
    seed: int = 0,
) -> Schema:
    """Divide ``rows`` into train, valid and test, or ``pairs`` into pairs_train, pairs_valid and pairs_test.

    ``stratified`` (auto, k-way): each class by ``fractions``; ``grouped``: no value of column ``by`` in two splits;
    ``time``: by column ``by``, the earliest for training; ``random``; ``component`` (auto, matching): no entity in two
    splits. If all pairs hang together, entities are taken from the matches alone and non-matches across splits are left
    out. What was done is recorded in dataset.yaml, whose schema is returned. The undivided table stays.

    Raises ConfigError for a method that does not fit, DataError for rows that cannot be placed.
    """
    schema = Schema.read(folder)
    stem = "rows" if schema.task is TaskKind.KWAY else "pairs"
    allowed = ("random", "stratified", "grouped", "time") if stem == "rows" else ("random", "component")
    if method == "auto":
        method = "stratified" if stem == "rows" else "component"
    if method not in allowed:
        raise ConfigError(f"method {method}: expected one of {', '.join(allowed)} for a {schema.task} dataset")
    if (by is not None) != (method in ("grouped", "time")):
        raise ConfigError(f"method {method} {'needs' if by is None else 'takes no'} column: by={by}")
    targets = [split if stem == "rows" else f"pairs_{split}" for split in SPLITS]
    existing = [target for target in targets if files.exists(folder, target)]
    if existing:
        raise ConfigError(f"{folder} is divided already ({', '.join(existing)}). Fix: remove them to divide it anew")
    path = files.find(folder, schema.name, stem)
    shares = dict(zip(SPLITS, fractions, strict=True))
    note: dict[str, object] = {
        "method": method,
        **({"by": by} if by else {}),
        "fractions": list(fractions),
        "seed": seed,
    }
    try:
        if stem == "rows":
            place = _place_rows(path, schema, method, by, shares, seed)
        else:
            place, n_left_out = _place_pairs(folder, path, schema, method, shares, seed)
            note |= {"left_out": n_left_out} if n_left_out else {}
    except ValueError as error:
        raise ConfigError(f"cannot divide {path.name}: {error}") from error
    for number, target in enumerate(targets):
        if not (place == number).any():
            raise DataError(
                schema.name,
                f"no row would be in {target}",
                table=stem,
                found=f"{len(place)} rows, fractions {fractions}",
                fix="give more rows, other fractions, or another method",
            )
    header = files.header(path, schema.name)
    for number, target in enumerate(targets):
        suffix = files.parts(path, schema.name)[0].suffix
        files.write_table(folder / f"{target}{suffix}", _chosen(path, schema.name, place == number), header)
    schema = replace(schema, split=note)
    schema.write(folder)
    return schema


def _chosen(path: Path, dataset: str, keep: np.ndarray) -> Iterator[pa.RecordBatch]:
    start = 0
    for batch in files.scan(path, dataset):
        yield batch.filter(pa.array(keep[start : start + batch.num_rows]))
        start += batch.num_rows


def _place_rows(
    path: Path, schema: Schema, method: str, by: str | None, fractions: dict[str, float], seed: int
) -> np.ndarray:
    n = files.count(path, schema.name)
    if method == "random":
        return assign(n, fractions, seed)
    assert schema.label is not None
    if method == "time":
        return assign(n, fractions, seed, times=_column(path, schema, str(by), ColumnType.DATETIME))
    labels = _column(path, schema, schema.label, ColumnType.CATEGORICAL)
    if method == "stratified":
        return assign(n, fractions, seed, labels=labels)
    return assign(n, fractions, seed, labels=labels, groups=_column(path, schema, str(by), ColumnType.CATEGORICAL))


def _column(path: Path, schema: Schema, name: str, kind: ColumnType) -> np.ndarray:
    """[n] of a column that divides rows: codes of its values in the order of their first appearance, or moments."""
    declared = {c.name: c.type for c in schema.columns}.get(name)
    if kind is ColumnType.DATETIME and declared is ColumnType.NUMERIC:
        kind = declared  # a year, or a count of days
    parts = []
    for row, cells in read_column(path, schema.name, name, kind):
        if cells.null_count:
            raise DataError(
                schema.name,
                "a row without this cell cannot be placed",
                table=path.stem,
                row=row + first(pc.is_null(cells)) + 1,
                column=name,
                fix="fill the cell, leave the row out, or divide by another column",
            )
        parts.append(hashes(cells) if kind is ColumnType.CATEGORICAL else np.asarray(cells))
    values = np.concatenate(parts)
    if kind is not ColumnType.CATEGORICAL:
        return values
    _, start, codes = np.unique(values, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(start))[codes]


def _place_pairs(
    folder: Path, path: Path, schema: Schema, method: str, fractions: dict[str, float], seed: int
) -> tuple[np.ndarray, int]:
    """[n] int8, -1 for a pair that is left out, and how many are."""
    records = read_records(folder, schema)
    pairs = read_pairs_file(path, schema, records)
    if pairs.labels is None:
        raise DataError(schema.name, "no labels to divide by", table=path.stem, column="label")
    if pairs.labels.null_count:
        row = first(pc.is_null(pairs.labels))
        raise DataError(schema.name, "a pair without a label", table=path.stem, row=row + 1, column="label")
    labels = np.asarray(pairs.labels).astype(np.int64)
    if method == "random":
        return assign(len(pairs), fractions, seed, labels=labels), 0
    n = len(records.table)
    entity = components(n, pairs.left, pairs.right)
    if np.bincount(entity[pairs.left]).max() <= max(fractions.values()) * len(pairs):
        return assign(len(pairs), fractions, seed, labels=labels, groups=entity[pairs.left]), 0
    # Nearly all pairs hang together: only matches tie records, and non-matches between splits go.
    match = labels == 1
    entity = components(n, pairs.left[match], pairs.right[match])
    used = np.unique(np.concatenate([pairs.left, pairs.right]))
    place = np.full(n, -1, np.int8)
    place[used] = assign(len(used), fractions, seed, groups=entity[used])
    inside = place[pairs.left] == place[pairs.right]
    return np.where(inside, place[pairs.left], -1).astype(np.int8), int((~inside).sum())
