"""Tables of a dataset of rows, each read once as a stream; what is kept of a row are a few numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mmtab.config.types import SPLITS
from mmtab.data import files
from mmtab.data.cells import hashes
from mmtab.data.schema import ColumnType, Schema
from mmtab.data.spelling import seeming
from mmtab.data.table import Table, find_table, read_batches
from mmtab.prepare.check import alarms
from mmtab.prepare.check.alarms import N_EXAMPLES, Alarm, Severity, Usage, mix, name_row
from mmtab.prepare.check.near import NearIndex, row_tokens

Ref = tuple[str, int, str]  # (table, row, what to say of it)

# Bounds on what is looked at in big data; ordinary tables are below them and so looked at in full.
SAMPLE_ROWS, SAMPLE_CHARACTERS, NEAR_HELD_OUT, NEAR_TRAIN = 20_000, 1_000, 5_000, 200_000
TOKEN_ROWS = 1024  # whose words are in memory at once


@dataclass(frozen=True)
class Finding:
    """An alarm whose rows are still numbers. Each example's rows are joined by `` = ``."""

    alarm: Alarm
    examples: list[tuple[Ref, ...]] = field(default_factory=list)


@dataclass(frozen=True)
class Split:
    """What is kept of a table: a few numbers for each row, and a sample of its cells."""

    name: str
    key: np.ndarray  # [n] int64, equal for rows of equal features
    ids: np.ndarray  # [n] int64
    labels: np.ndarray  # [n] int32, -1 = none
    usage: dict[str, Usage]
    sample: dict[str, list]  # normalised text, category or number of the sampled rows
    sample_rows: np.ndarray  # [n_sampled] int64
    sample_labels: np.ndarray  # [n_sampled] int32

    def ref(self, row: int | np.integer, classes: list[Any]) -> Ref:
        label = self.labels[row]
        return self.name, int(row), f", label {classes[label]}" if label >= 0 else ""


class SplitReader:
    """Reads tables into splits and notes what is wrong with them on the way."""

    def __init__(
        self,
        folder: Path,
        schema: Schema,
        images: bool,
        collected: list[Alarm],
        look: Callable[[Image.Image], bytes | None] | None = None,
    ) -> None:
        self.folder, self.schema, self.alarms = folder, schema, collected
        self.cells = alarms.Cells(images, look)
        self.types = {column.name: column.type for column in schema.columns}
        self.classes: dict[Any, int] = {}  # or numbers
        self.near = NearIndex()
        self.n_near: dict[str, int] = {}

    def read(self, name: str) -> Split | None:
        """None, and an alarm, where the file cannot be read to its end."""
        return alarms.attempt(self.alarms, lambda: self._read(name))

    def _read(self, name: str) -> Split | None:
        path = find_table(self.folder, self.schema, name)
        n = files.count(path, self.schema.name)
        rng = np.random.default_rng([0, SPLITS.index(name)])
        sampled = choose(rng, np.arange(n), SAMPLE_ROWS)
        near = choose(rng, np.arange(n), NEAR_TRAIN if name == "train" else NEAR_HELD_OUT)
        self.n_near[name] = 0
        keys, ids, labels = [], [], []
        usage = {column: Usage() for column in self.types}
        sample: dict[str, list] = {column: [] for column, kind in self.types.items() if kind is not ColumnType.IMAGE}
        has_labels = False
        for batch in read_batches(path, self.schema, folder=self.folder, on_error=alarms.noting(self.alarms)):
            hashed: dict[str, np.ndarray] = {}
            for column in batch.columns:
                hashed[column], present = self.cells.hashes(batch, column, self.types[column])
                usage[column].add(hashed[column], present)
            zero = np.zeros(len(batch), np.int64)  # a column that the file lacks is missing in all rows
            key = mix([hashed.get(column, zero) for column in self.types])
            keys.append(key)
            ids.append(np.where(np.asarray(batch.ids.is_null()), 0, hashes(batch.ids)))
            has_labels |= batch.labels is not None
            labels.append(self._codes(batch))
            self._sample(batch, _inside(sampled, batch), sample)
            self._look_up(name, batch, _inside(near, batch), key, hashed)
        if not sum(map(len, keys)):
            return None
        all_labels = np.concatenate(labels)
        self._label_faults(name, has_labels, all_labels)
        usage = {column: use for column, use in usage.items() if use.n}
        return Split(
            name, np.concatenate(keys), np.concatenate(ids), all_labels, usage, sample, sampled, all_labels[sampled]
        )

    def _look_up(
        self, name: str, batch: Table, rows: np.ndarray, key: np.ndarray, hashed: dict[str, np.ndarray]
    ) -> None:
        for start in range(0, len(rows), TOKEN_ROWS):
            chunk = rows[start : start + TOKEN_ROWS]
            for row, tokens in zip(chunk.tolist(), row_tokens(batch, chunk, self.types, hashed), strict=True):
                to = self.near.ask if name == "train" else self.near.add
                self.n_near[name] += to((name, batch.first_row + row), int(key[row]), tokens)

    def _codes(self, batch: Table) -> np.ndarray:
        if batch.labels is None:
            return np.full(len(batch), -1, np.int32)
        coded = batch.labels.dictionary_encode()
        codes = [self.classes.setdefault(value, len(self.classes)) for value in coded.dictionary.to_pylist()]
        return np.array([*codes, -1], np.int32)[coded.indices.fill_null(-1).to_numpy(zero_copy_only=False)]

    def _sample(self, batch: Table, rows: np.ndarray, sample: dict[str, list]) -> None:
        for column, out in sample.items():
            values = batch.columns[column].take(rows).to_pylist() if column in batch.columns else [None] * len(rows)
            if self.types[column] is ColumnType.TEXT:
                values = [None if text is None else seeming(text[:SAMPLE_CHARACTERS]) for text in values]
            out += values

    def _label_faults(self, name: str, has_labels: bool, labels: np.ndarray) -> None:
        missing = np.flatnonzero(labels < 0)
        n, n_rows = len(missing), len(labels)
        if not n or (name == "test" and n == n_rows):
            return
        what = f"{n:,} of {n_rows:,} rows have no label" if has_labels else "the file has no label column"
        may = ", or empty the whole column" if name == "test" else ""
        rows = tuple(name_row(name, row, None) for row in missing[:N_EXAMPLES].tolist()) if has_labels else ()
        label = self.schema.label
        message = f"{name}: {what}: fill {label} in, or leave these rows out{may}"
        self.alarms.append(Alarm(Severity.ERROR, "missing_labels", message, name, label, rows, n, n / n_rows))


def choose(rng: np.random.Generator, rows: np.ndarray, most: int) -> np.ndarray:
    return rows if len(rows) <= most else rows[np.sort(rng.choice(len(rows), most, replace=False))]


def _inside(rows: np.ndarray, batch: Table) -> np.ndarray:
    """Which of these row numbers of the table are in the batch, as rows of the batch."""
    start, stop = np.searchsorted(rows, [batch.first_row, batch.first_row + len(batch)])
    return rows[start:stop] - batch.first_row
