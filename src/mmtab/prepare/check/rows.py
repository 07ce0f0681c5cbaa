"""Alarms of a dataset whose question is about rows; its tables may be larger than memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from mmtab.config.types import SPLITS
from mmtab.data import files
from mmtab.data.cells import hashes
from mmtab.data.schema import ColumnType, Schema
from mmtab.data.spelling import seeming_same
from mmtab.data.table import find_table, read_column
from mmtab.prepare.check.alarms import (
    N_EXAMPLES,
    Alarm,
    Severity,
    attempt,
    counted,
    id_like,
    name_row,
    percent,
    usage_alarms,
)
from mmtab.prepare.check.duplicates import across_splits, near_duplicates, within_splits
from mmtab.prepare.check.leaks import leaks
from mmtab.prepare.check.pictures import near_pictures, picture_print
from mmtab.prepare.check.reader import Finding, Ref, Split, SplitReader
from mmtab.utils.errors import DataError

ERROR, SEVERE, WARNING, NOTE = Severity

MISSING_DIFFERS = 0.3
FEW_ROWS, LARGEST_CLASS = 5, 0.5
FAR = 10.0  # times the width of the middle half of the labels


def check_rows(folder: Path, schema: Schema, images: bool) -> list[Alarm]:
    """All alarms, in no order."""
    missing = [name for name in SPLITS if not files.exists(folder, name)]
    if len(missing) == len(SPLITS) and files.exists(folder, "rows"):
        message = "the rows are not divided yet: run 'mmtab prepare split', then check again"
        return [Alarm(ERROR, "not_split", message, "rows")]
    needs = "mmtab needs train, valid and test ('mmtab prepare split' divides rows)"
    alarms = [Alarm(ERROR, "missing_table", f"the table {name} is missing: {needs}", name) for name in missing]
    reader = SplitReader(folder, schema, images, alarms, picture_print)
    # Held-out rows first: they are the index that the rows of train are then looked up in.
    read = {name: reader.read(name) for name in ("test", "valid", "train") if name not in missing}
    splits = {name: split for name in SPLITS if (split := read.get(name)) is not None}
    alarms += reader.cells.alarms()
    if not splits:
        return alarms
    types, classes = reader.types, list(reader.classes)
    alarms += usage_alarms(types, {name: split.usage for name, split in splits.items()})
    findings = [
        *across_splits(splits, types, classes),
        *near_duplicates(splits, reader, classes),
        *near_pictures(reader.cells.prints),
        *within_splits(splits, types, classes),
        *(_labels(splits, classes) if schema.label_type is ColumnType.CATEGORICAL else _numbers(splits, classes)),
        *leaks(*_in_classes(splits, classes, schema), types),
        *_columns(splits, types),
    ]
    alarms += _with_ids(folder, schema, findings)
    alarms += attempt(alarms, lambda: list(_declared_split(folder, schema, [*splits]))) or []
    return alarms


def _labels(splits: dict[str, Split], classes: list[str]) -> Iterator[Finding]:
    train = splits.get("train")
    if train is None or not (train.labels >= 0).any():
        return
    counts = np.bincount(train.labels[train.labels >= 0], minlength=len(classes))
    for name, split in splits.items():
        labels = split.labels
        rows = np.flatnonzero((labels >= 0) & (counts[labels] == 0))
        if len(rows):
            unseen = ", ".join(sorted({classes[label] for label in labels[rows]})[:N_EXAMPLES])
            message = (
                f"{len(rows):,} rows of {name} have a label that train lacks ({unseen}): mmtab cannot learn it; split"
                " again with method stratified, or leave these rows out"
            )
            share = len(rows) / len(labels)
            alarm = Alarm(ERROR, "label_not_in_train", message, name, None, (), len(rows), share)
            yield Finding(alarm, [(split.ref(row, classes),) for row in rows[:N_EXAMPLES]])
    alike = seeming_same(classes)
    if alike:
        shown = "; ".join(" and ".join(f"{name!a}" for name in group) for group in alike[:N_EXAMPLES])
        message = f"classes that differ only in case, spacing or characters that do not show: {shown}; write them alike"
        yield Finding(Alarm(WARNING, "labels_alike", message, "train", None, (), len(alike), len(alike) / len(classes)))
    present = np.flatnonzero(counts)
    few = [i for i in present if counts[i] < FEW_ROWS]
    if few:
        shown = ", ".join(f"{classes[i]} ({counts[i]})" for i in few[:N_EXAMPLES])
        message = f"{len(few)} of {len(present)} classes have fewer than {FEW_ROWS} rows in train: {shown}"
        yield Finding(Alarm(NOTE, "small_class", message, "train", None, (), len(few), len(few) / len(present)))
    largest, share = classes[int(counts.argmax())], float(counts.max() / counts.sum())
    if len(present) == 1:
        message = f"all rows of train have the label {largest}: there is nothing to tell apart"
        yield Finding(Alarm(ERROR, "one_class", message, "train", None, (), int(counts.max()), 1.0))
    elif share >= LARGEST_CLASS:
        message = f"the largest class, {largest}, has {percent(share)} of the rows of train: compare accuracy with that"
        message += " share, or rank by macro_f1"
        yield Finding(Alarm(NOTE, "imbalance", message, "train", None, (), int(counts.max()), share))


def _numbers(splits: dict[str, Split], values: list[Any]) -> Iterator[Finding]:
    """Of labels that are numbers, which ``values`` lists."""
    train = splits.get("train")
    if train is None or not (train.labels >= 0).any():
        return
    numbers = np.array(values, np.float64)
    known = numbers[train.labels[train.labels >= 0]]
    if known.min() == known.max():
        message = f"all rows of train have the label {known[0]:g}: there is nothing to tell apart"
        yield Finding(Alarm(ERROR, "one_label", message, "train", None, (), len(known), 1.0))
        return
    low, middle, high = np.quantile(known, [0.25, 0.5, 0.75])
    for name, split in splits.items():
        labels = np.where(split.labels >= 0, numbers[split.labels], middle)
        far = np.maximum(low - labels, labels - high) > FAR * (high - low)
        rows = np.flatnonzero(far)
        if len(rows) and high > low:
            message = (
                f"{len(rows):,} labels of {name} are far from the others (the middle half is {low:g} to {high:g}), the"
                f" farthest {labels[rows[np.argmax(abs(labels[rows] - middle))]]:g}: look for other units and missing"
                " values that are written as numbers; R² hangs on such rows"
            )
            alarm = Alarm(NOTE, "far_label", message, name, None, (), len(rows), len(rows) / len(labels))
            yield Finding(alarm, [(split.ref(row, values),) for row in rows[:N_EXAMPLES]])


def _in_classes(splits: dict[str, Split], values: list[Any], schema: Schema) -> tuple[dict[str, Split], list[str]]:
    """Splits with labels that are classes: of numbers, tenths of those of train. And the names of the classes."""
    train = splits.get("train")
    if schema.label_type is ColumnType.CATEGORICAL or train is None or not (train.labels >= 0).any():
        return splits, values
    numbers = np.array([*values, np.nan], np.float64)
    bounds = np.unique(np.quantile(numbers[train.labels[train.labels >= 0]], np.linspace(0, 1, 11)[1:-1]))
    codes = np.append(np.searchsorted(bounds, numbers[:-1]), -1).astype(np.int32)
    names = [f"part {i + 1} of the labels" for i in range(len(bounds) + 1)]
    coded = {
        name: replace(split, labels=codes[split.labels], sample_labels=codes[split.sample_labels])
        for name, split in splits.items()
    }
    return coded, names


def _columns(splits: dict[str, Split], types: dict[str, ColumnType]) -> Iterator[Finding]:
    train, test = splits.get("train"), splits.get("test")
    if train is None:
        return
    for column, kind in types.items():
        if kind is ColumnType.CATEGORICAL:
            yield from map(Finding, id_like(column, "train", train.sample[column]))
            asked = [] if test is None else [value for value in test.sample[column] if value is not None]
            if test is not None and asked and set(train.sample[column]).isdisjoint(asked):
                message = (
                    f"column {column}: no value of test is among those of train, so nothing learnt from it holds there:"
                    " take it out of dataset.yaml, or split otherwise"
                )
                n, share = len(asked), len(asked) / len(test.sample[column])
                yield Finding(Alarm(WARNING, "unseen_values", message, "test", column, (), n, share))
        if test is None or column not in train.usage or column not in test.usage:
            continue
        a, b = train.usage[column].missing, test.usage[column].missing
        if abs(a - b) > MISSING_DIFFERS:
            message = (
                f"column {column} is missing in {percent(a)} of train but {percent(b)} of test: what is learnt from it"
                " will not hold; find out why, or take it out"
            )
            n_missing = test.usage[column].n - test.usage[column].n_present
            yield Finding(Alarm(WARNING, "missing_differs", message, "test", column, (), n_missing, b))


def _with_ids(folder: Path, schema: Schema, findings: list[Finding]) -> list[Alarm]:
    """The findings with the ids of their rows, which are read only now."""
    rows_of: dict[str, set[int]] = {}
    for table, row, _ in [ref for finding in findings for example in finding.examples for ref in example]:
        rows_of.setdefault(table, set()).add(row)
    ids: dict[tuple[str, int], object] = {}
    for table, rows in rows_of.items():
        try:
            path = find_table(folder, schema, table)
            for start, values in read_column(path, schema.name, schema.id, ColumnType.CATEGORICAL):
                inside = [row for row in rows if start <= row < start + len(values)]
                ids |= {(table, row): values[row - start].as_py() for row in inside}
                if start + len(values) > max(rows):
                    break
        except DataError:
            pass  # a table without ids is an alarm already: its rows go by their number

    def say(example: tuple[Ref, ...]) -> str:
        return " = ".join(name_row(table, row, ids.get((table, row))) + more for table, row, more in example)

    return [replace(finding.alarm, rows=tuple(map(say, finding.examples))) for finding in findings]


# --- whether the splits are what dataset.yaml says --------------------------------------------------------------------


def _declared_split(folder: Path, schema: Schema, names: list[str]) -> Iterator[Alarm]:
    """Splits that dataset.yaml says are grouped by a column, or in the order of time, and are not."""
    method, by = schema.split.get("method"), schema.split.get("by")
    if method not in ("grouped", "time") or not isinstance(by, str):
        return
    kind = ColumnType.CATEGORICAL if method == "grouped" else ColumnType.DATETIME
    columns: dict[str, pa.ChunkedArray] = {}
    for name in names:
        path = find_table(folder, schema, name)
        if by in files.header(path, schema.name).names:
            columns[name] = pa.chunked_array([cells for _, cells in read_column(path, schema.name, by, kind)])
    yield from (_groups if method == "grouped" else _times)(by, columns)


def _groups(by: str, columns: dict[str, pa.ChunkedArray]) -> Iterator[Alarm]:
    seen: dict[str, np.ndarray] = {}
    for name, values in columns.items():
        keys = np.concatenate([hashes(chunk) for chunk in values.chunks])
        filled = ~np.asarray(values.is_null())
        for other, others in seen.items():
            spans = np.flatnonzero(filled & np.isin(keys, others))
            if len(spans):
                groups, first = np.unique(keys[spans], return_index=True)
                examples = [int(row) for row in sorted(spans[first])[:N_EXAMPLES]]
                rows = tuple(f"{name_row(name, row, None)}: {by} = {values[row]}" for row in examples)
                message = (
                    f"{len(groups):,} groups of {by} are in {other} and in {name} ({len(spans):,} rows of {name}),"
                    " though dataset.yaml says split by group: split again, or correct 'split'"
                )
                share = len(spans) / len(keys)
                yield Alarm(SEVERE, "group_spans_splits", message, name, by, rows, len(groups), share)
        seen[name] = np.unique(keys[filled])


def _times(by: str, columns: dict[str, pa.ChunkedArray]) -> Iterator[Alarm]:
    moments = {name: values.to_numpy() for name, values in columns.items()}
    latest = np.nanmax(np.append(moments.pop("train", []), -np.inf))
    for name, values in moments.items():
        early = np.flatnonzero(values <= latest)
        rest = f"are not later than all of train by {by}, though dataset.yaml says split by time: split again, or"
        rest += " correct 'split'"
        rows = (name_row(name, row, None) for row in early[:N_EXAMPLES].tolist())
        for alarm in counted(
            SEVERE, "time_overlap", f"rows of {name}", rest, len(early), len(values), rows, table=name
        ):
            yield replace(alarm, column=by)
