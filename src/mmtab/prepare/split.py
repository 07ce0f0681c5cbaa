"""Rows or pairs divided into train, valid and test."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmtab.config.types import SPLITS
from mmtab.data import files
from mmtab.data.cells import first, hashes
from mmtab.data.pairs import Pairs, read_pairs_file, read_records
from mmtab.data.schema import ColumnType, Schema
from mmtab.data.splits import FRACTIONS, assign, components, strata
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
    """Divide ``rows`` into train, valid and test, or ``pairs`` into pairs_train, pairs_valid and pairs_test. A split
    whose fraction is 0 is not written.

    ``stratified`` (auto, of rows): each class, or each tenth of the numbers, by ``fractions``; ``grouped``: no value of
    column ``by`` in two splits; ``time``: by column ``by``, the earliest for training; ``random``; ``component`` (auto,
    matching): no entity in two splits, each with its share of the matches. If all pairs hang together, entities are
    taken from the matches alone and non-matches across splits are left out; if that leaves a split without its matches,
    pairs are divided at random; a warning says so. The column of ``grouped`` is no feature any more, for train has none
    of test's values. What was done is recorded in dataset.yaml, whose schema is returned. The undivided table stays.

    Raises ConfigError for a method that does not fit, DataError for rows that cannot be placed.
    """
    schema = Schema.read(folder)
    stem = "rows" if schema.of_rows else "pairs"
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
    if method == "grouped" and by in {column.name for column in schema.columns}:
        if len(schema.columns) == 1:
            problem = f"method grouped: {by} would be no feature, and is the only one"
            raise ConfigError(f"{problem}. Fix: add others, or divide by another")
        warnings.warn(f"{schema.name}: column {by} groups the splits, so it is left out of the features", stacklevel=2)
        schema = schema.without([str(by)])
    path = files.find(folder, schema.name, stem)
    shares = dict(zip(SPLITS, fractions, strict=True))
    note: dict[str, object] = {"method": method} | ({"by": by} if by else {})
    note |= {"fractions": list(fractions), "seed": seed}
    try:
        if stem == "rows":
            place = _place_rows(path, schema, method, by, shares, seed)
        else:
            place, note["method"], problem = _place_pairs(folder, path, schema, method, shares, seed)
            if problem:
                warnings.warn(f"{schema.name}: {problem}", stacklevel=2)
            if n_left_out := int((place < 0).sum()):
                note["left_out"] = n_left_out
    except ValueError as error:
        raise ConfigError(f"cannot divide {path.name}: {error}") from error
    chosen = {target: place == i for i, target in enumerate(targets) if fractions[i]}
    for target, rows in chosen.items():
        if not rows.any():
            raise DataError(
                schema.name,
                f"no row would be in {target}",
                table=stem,
                found=f"{len(place)} rows, fractions {fractions}",
                fix="give more rows, other fractions, or another method",
            )
    header, suffix = files.header(path, schema.name), files.parts(path, schema.name)[0].suffix
    for target, rows in chosen.items():
        files.write_table(folder / f"{target}{suffix}", _chosen(path, schema.name, rows), header)
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
    labels = _column(path, schema, schema.label, schema.label_type)
    if schema.label_type is ColumnType.NUMERIC:
        labels = strata(labels)
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
) -> tuple[np.ndarray, str, str]:
    """[n] int8, -1 for a pair that is left out; how it was done; and what the user should know of it."""
    records = read_records(folder, schema)
    pairs = read_pairs_file(path, schema, records)
    if pairs.labels is None:
        raise DataError(schema.name, "no labels to divide by", table=path.stem, column="label")
    if pairs.labels.null_count:
        row = first(pc.is_null(pairs.labels))
        raise DataError(schema.name, "a pair without a label", table=path.stem, row=row + 1, column="label")
    relations = np.stack([np.asarray(labels).astype(np.int64) for labels in pairs.relations.values()])
    match, labels = relations.max(0) > 0, np.unique(relations, axis=1, return_inverse=True)[1].reshape(-1)
    if method == "random":
        return assign(len(pairs), fractions, seed, labels=labels), method, ""
    n = len(records.table)
    entity = components(n, pairs.left, pairs.right)[pairs.left]
    if np.bincount(entity).max() <= max(fractions.values()) * len(pairs):
        place = assign(len(pairs), fractions, seed, labels=labels, groups=entity)
        if not _is_uneven(place, match, fractions):
            return place, method, ""
    place = _by_matches(n, pairs, match, fractions, seed)
    if not _is_uneven(place, match, fractions):
        rates = ", ".join(f"{name} {match[place == s].mean():.0%}" for s, name in enumerate(fractions))
        left_out = f"{(place < 0).sum():,} non-matches between splits are left out"
        problem = f"nearly all pairs hang together, so splits share no entity only as {left_out} (matches: {rates})"
        return place, method, problem
    # Rather a record in two splits than a split without matches; a pair that is there twice is still in one
    twins = np.minimum(pairs.left, pairs.right) * n + np.maximum(pairs.left, pairs.right)
    place = assign(len(pairs), fractions, seed, labels=labels, groups=twins)
    place[match] = _one_each(place[match], twins[match], fractions)
    problem = "entities are too large, or matches too few, for each split to have its share of them, so pairs were"
    problem += " divided at random and records are in several splits"
    lacking = [name for s, name in enumerate(fractions) if fractions[name] and not match[place == s].any()]
    return place, "random", problem + (f"; {', '.join(lacking)} has no match" if lacking else "")


def _is_uneven(place: np.ndarray, match: np.ndarray, fractions: dict[str, float]) -> bool:
    """Whether some split has less than half of its share of the matches, or hardly any others beside them."""
    for split, fraction in enumerate(fractions.values()):
        n_matches, n_others = int(match[place == split].sum()), int((~match[place == split]).sum())
        expected = fraction * (~match).sum()
        if fraction and (n_matches < max(1, fraction * match.sum() // 2) or n_others < min(n_matches, expected) / 4):
            return True
    return False


def _by_matches(n: int, pairs: Pairs, match: np.ndarray, fractions: dict[str, float], seed: int) -> np.ndarray:
    """[n_pairs] int8: entities, of ``n`` records, are those that matches join. Other records go where a record is that
    they are paired with, drawn at random, which keeps most of their pairs; -1 for pairs between two splits."""
    rng = np.random.default_rng(seed)
    entity = components(n, pairs.left[match], pairs.right[match])
    left, right = entity[pairs.left], entity[pairs.right]
    place = np.full(n, -1, np.int8)
    if match.any():
        groups = left[match]
        place[groups] = _one_each(assign(len(groups), fractions, seed, groups=groups), groups, fractions)
    for a, b in zip(*rng.permutation([left, right], axis=1), strict=True):
        if (place[a] < 0) != (place[b] < 0):
            place[a] = place[b] = max(place[a], place[b])
    rest = np.setdiff1d(np.concatenate([left, right]), np.flatnonzero(place >= 0))
    if len(rest):
        place[rest] = assign(len(rest), fractions, seed)
    return np.where(place[left] == place[right], place[left], -1).astype(np.int8)


def _one_each(place: np.ndarray, groups: np.ndarray, fractions: dict[str, float]) -> np.ndarray:
    """The places of matches; a split that would have none gets the smallest group of the one that has the most."""
    for split, fraction in enumerate(fractions.values()):
        if fraction and len(place) and not (place == split).any():
            names, sizes = np.unique(groups[place == np.bincount(place).argmax()], return_counts=True)
            if len(names) > 1:
                place = np.where(groups == names[sizes.argmin()], split, place).astype(np.int8)
    return place
