"""Alarms of a k-way dataset, whose tables may be larger than memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from mmtab.data import files
from mmtab.data.schema import ColumnType, Schema
from mmtab.data.splits import SPLITS
from mmtab.data.table import find_table, read_column
from mmtab.prepare.check.alarms import (
    N_EXAMPLES,
    Alarm,
    Severity,
    attempt,
    id_like,
    name_row,
    percent,
    usage_alarms,
)
from mmtab.prepare.check.declared import declared_split
from mmtab.prepare.check.duplicates import across_splits, near_duplicates, within_splits
from mmtab.prepare.check.findings import Finding, Ref, Split, ref_of
from mmtab.prepare.check.leaks import leaks
from mmtab.prepare.check.reader import SplitReader
from mmtab.utils.errors import DataError

ERROR, SEVERE, WARNING, NOTE = Severity

MISSING_DIFFERS, ID_LIKE, ID_LIKE_ROWS = 0.3, 0.95, 20
FEW_ROWS, LARGEST_CLASS = 5, 0.5


def check_kway(folder: Path, schema: Schema, seed: int, images: bool) -> list[Alarm]:
    """All alarms, in no order."""
    alarms: list[Alarm] = []
    missing = [name for name in SPLITS if not files.exists(folder, name)]
    if len(missing) == len(SPLITS) and files.exists(folder, "rows"):
        return [
            Alarm(
                ERROR,
                "not_split",
                "the rows are not divided yet: run 'mmtab prepare split', then check again",
                "rows",
            )
        ]
    for name in missing:
        message = f"the table {name} is missing: mmtab needs train, valid and test ('mmtab prepare split' divides rows)"
        alarms.append(Alarm(ERROR, "missing_table", message, name))
    reader = SplitReader(folder, schema, seed, images, alarms)
    # Held-out rows first: they are the index that the rows of train are then looked up in.
    read = {name: reader.read(name) for name in ("test", "valid", "train") if name not in missing}
    splits = {name: split for name in SPLITS if (split := read.get(name)) is not None}
    alarms += reader.cells.alarms()
    if not splits:
        return alarms
    types = {column.name: column.type for column in schema.columns}
    alarms += usage_alarms(types, {split.name: split.usage for split in splits.values()})
    classes = list(reader.classes)
    findings: list[Finding] = [*across_splits(splits, types, classes), *near_duplicates(splits, reader, classes)]
    findings += [
        *within_splits(splits, types, classes),
        *_labels(splits, classes),
        *leaks(splits, types, classes, seed),
    ]
    findings += _columns(splits, types)
    alarms += _with_ids(folder, schema, findings)
    alarms += attempt(alarms, lambda: declared_split(folder, schema, [*splits])) or []
    return alarms


def _labels(splits: dict[str, Split], classes: list[str]) -> Iterator[Finding]:
    train = splits.get("train")
    if train is None or not (train.labels >= 0).any():
        return
    counts = np.bincount(train.labels[train.labels >= 0], minlength=len(classes))
    for name in ("valid", "test"):
        if name in splits:
            labels = splits[name].labels
            rows = np.flatnonzero((labels >= 0) & (counts[labels] == 0))
            if len(rows):
                unseen = sorted({classes[label] for label in labels[rows]})
                yield Finding(
                    Alarm(
                        ERROR,
                        "label_not_in_train",
                        f"{len(rows):,} rows of {name} have a label that train lacks"
                        f" ({', '.join(unseen[:N_EXAMPLES])}): mmtab"
                        " cannot learn it; split again with method stratified, or leave these rows out",
                        name,
                        None,
                        (),
                        len(rows),
                        len(rows) / len(labels),
                    ),
                    [(ref_of(splits[name], r, classes),) for r in rows[:N_EXAMPLES]],
                )
    present = np.flatnonzero(counts)
    few = [i for i in present if counts[i] < FEW_ROWS]
    if few:
        shown = ", ".join(f"{classes[i]} ({counts[i]})" for i in few[:N_EXAMPLES])
        message = f"{len(few)} of {len(present)} classes have fewer than {FEW_ROWS} rows in train: {shown}"
        yield Finding(Alarm(NOTE, "small_class", message, "train", None, (), len(few), len(few) / len(present)))
    share = float(counts.max() / counts.sum())
    if len(present) == 1:
        message = f"all rows of train have the label {classes[present[0]]}: there is nothing to tell apart"
        yield Finding(Alarm(ERROR, "one_class", message, "train", None, (), int(counts.max()), 1.0))
    elif share >= LARGEST_CLASS:
        message = (
            f"the largest class, {classes[int(counts.argmax())]}, has {percent(share)} of the rows of train: compare"
            " accuracy with that share, or rank by macro_f1"
        )
        yield Finding(Alarm(NOTE, "imbalance", message, "train", None, (), int(counts.max()), share))


def _columns(splits: dict[str, Split], types: dict[str, ColumnType]) -> Iterator[Finding]:
    train, test = splits.get("train"), splits.get("test")
    if train is None:
        return
    for column, kind in types.items():
        if kind is ColumnType.CATEGORICAL:
            for alarm in id_like(column, "train", train.sample[column], ID_LIKE, ID_LIKE_ROWS):
                yield Finding(alarm)
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
        left = np.array(sorted(rows))
        try:
            for start, values in read_column(
                find_table(folder, schema, table), schema.name, schema.id, ColumnType.CATEGORICAL
            ):
                here = left[(left >= start) & (left < start + len(values))]
                ids |= {(table, int(row)): values[int(row) - start].as_py() for row in here}
                if start + len(values) > left[-1]:
                    break
        except DataError:
            pass  # a table without ids is an alarm already: its rows go by their number

    def say(example: tuple[Ref, ...]) -> str:
        return " = ".join(name_row(table, row, ids.get((table, row))) + more for table, row, more in example)

    return [
        Alarm(
            **{**vars(finding.alarm), "rows": tuple(say(example) for example in finding.examples) or finding.alarm.rows}
        )
        for finding in findings
    ]
