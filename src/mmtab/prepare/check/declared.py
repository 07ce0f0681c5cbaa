"""Whether the splits of a k-way dataset are what dataset.yaml says: grouped by a column, or in the order of time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from mmtab.data import files
from mmtab.data.cells import hashes
from mmtab.data.schema import ColumnType, Schema
from mmtab.data.table import find_table, read_column
from mmtab.prepare.check.alarms import N_EXAMPLES, Alarm, Severity, name_row, percent

SEVERE = Severity.SEVERE
Column = Callable[[str, ColumnType], pa.ChunkedArray]


def declared_split(folder: Path, schema: Schema, names: list[str]) -> list[Alarm]:
    """Whether the splits are what dataset.yaml says: grouped by a column, or in the order of time."""
    method, by = schema.split.get("method"), schema.split.get("by")
    if method not in ("grouped", "time") or not isinstance(by, str):
        return []
    paths = {name: find_table(folder, schema, name) for name in names}
    paths = {name: path for name, path in paths.items() if by in files.header(path, schema.name).names}

    def column(name: str, kind: ColumnType) -> pa.ChunkedArray:
        parts = [values for _, values in read_column(paths[name], schema.name, by, kind)]
        return pa.chunked_array(parts)

    rule = _groups if method == "grouped" else _times
    return list(rule(by, [*paths], column))


def _groups(by: str, names: list[str], column: Column) -> Iterator[Alarm]:
    seen: dict[str, np.ndarray] = {}
    for name in names:
        values = column(name, ColumnType.CATEGORICAL)
        keys = np.concatenate([hashes(chunk) for chunk in values.chunks])
        filled = ~np.asarray(values.is_null())
        for other, others in seen.items():
            spans = np.flatnonzero(filled & np.isin(keys, others))
            if len(spans):
                groups, first = np.unique(keys[spans], return_index=True)
                rows = [
                    f"{name_row(name, int(r), None)}: {by} = {values[int(r)]}"
                    for r in sorted(spans[first])[:N_EXAMPLES]
                ]
                yield Alarm(
                    SEVERE,
                    "group_spans_splits",
                    f"{len(groups):,} groups of {by} are in {other} and in {name} ({len(spans):,} rows of {name}),"
                    f" though dataset.yaml says split by group: split again, or correct 'split'",
                    name,
                    by,
                    tuple(rows),
                    len(groups),
                    len(spans) / len(keys),
                )
        seen[name] = np.unique(keys[filled])


def _times(by: str, names: list[str], column: Column) -> Iterator[Alarm]:
    if "train" not in names:
        return
    moments = {name: column(name, ColumnType.DATETIME).to_numpy() for name in names}
    latest = np.nanmax(np.append(moments["train"], -np.inf))
    for name in names:
        early = np.flatnonzero(moments[name] <= latest)
        if name != "train" and len(early):
            share = len(early) / len(moments[name])
            rows = tuple(name_row(name, int(r), None) for r in early[:N_EXAMPLES])
            yield Alarm(
                SEVERE,
                "time_overlap",
                f"{len(early):,} rows of {name} ({percent(share)}) are not later than all of train by {by}, though"
                " dataset.yaml says split by time: split again, or correct 'split'",
                name,
                by,
                rows,
                len(early),
                share,
            )
