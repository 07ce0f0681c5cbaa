"""Alarms, faults of the standard as alarms, and cells as numbers that are equal where the cells are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from hashlib import blake2b
from typing import TypeVar

import numpy as np
import pyarrow.compute as pc
from PIL import Image

from mmtab.data.cells import ImageSource, hashes, image_sources
from mmtab.data.pictures import open_picture, read_picture
from mmtab.data.schema import ColumnType
from mmtab.data.spelling import seeming
from mmtab.data.table import Table
from mmtab.utils.errors import DataError

T = TypeVar("T")
N_EXAMPLES = 5
ID_LIKE, ID_LIKE_ROWS = 0.95, 20
MAX_PRINTS = 100_000  # of a column, 3 KB each
KNOWN_PICTURES = 1 << 20  # paths whose bytes are remembered, so that this memory stays bounded


class Severity(StrEnum):
    """Worst first."""

    ERROR = "error"  # breaks the standard: mmtab cannot use the dataset so
    SEVERE = "severe"  # a score on this benchmark would not mean what it says
    WARNING = "warning"  # look at it
    NOTE = "note"  # good to know


@dataclass(frozen=True)
class Alarm:
    """One finding. ``rows`` names up to five examples; ``count`` and ``share`` speak of all that were looked at."""

    severity: Severity
    kind: str
    message: str
    table: str | None = None
    column: str | None = None
    rows: tuple[str, ...] = ()
    count: int = 0
    share: float = 0.0


def ranked(alarms: Iterable[Alarm]) -> list[Alarm]:
    """Worst first; of one severity, what concerns most first."""
    order = list(Severity)
    return sorted(alarms, key=lambda a: (order.index(a.severity), -a.share, a.kind, a.table or "", a.column or ""))


def percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def counted(
    grades: Severity | tuple[tuple[float, Severity], ...],
    kind: str,
    things: str,
    rest: str,
    count: int,
    total: int,
    examples: Iterable[str] = (),
    *,
    unit: str = "",
    table: str | None = None,
) -> Iterator[Alarm]:
    """The alarm "3 THINGS (2 %) REST", or none where the count is 0.

    ``grades``: the severity, or steps of (least share, severity), the highest first. ``unit``: what the share is of.
    """
    if count:
        share = count / total
        severity = grades if isinstance(grades, Severity) else next(s for least, s in grades if share >= least)
        message = f"{count:,} {things} ({percent(share)}{unit}) {rest}"
        yield Alarm(severity, kind, message, table, None, tuple(examples), count, share)


def fault(error: DataError) -> Alarm:
    """A fault of the standard as an alarm."""
    rows = () if error.row is None else (name_row(error.table or "table", error.row - 1, error.row_id),)
    return Alarm(Severity.ERROR, "standard", str(error), error.table, error.column, rows, 1)


def noting(alarms: list[Alarm]) -> Callable[[DataError], None]:
    """What reading does with a fault: it goes on, and there is an alarm more."""
    return lambda error: alarms.append(fault(error))


def name_row(table: str, row: int, row_id: object) -> str:
    """A row as errors name it, counted from 1."""
    return f"{table} row {row + 1}" + ("" if row_id is None else f" (id {row_id})")


def mix(parts: Iterable[np.ndarray]) -> np.ndarray:
    """[n] int64: one number for each row of several hashes; their order counts."""
    out: np.ndarray | None = None
    with np.errstate(over="ignore"):
        for part in parts:
            x = part.astype(np.int64).view(np.uint64) + (np.uint64(0) if out is None else out)
            x = (x + np.uint64(0x9E3779B97F4A7C15)) * np.uint64(0xBF58476D1CE4E5B9)  # splitmix64
            x = (x ^ (x >> np.uint64(30))) * np.uint64(0x94D049BB133111EB)
            out = x ^ (x >> np.uint64(31))
    assert out is not None
    return out.view(np.int64)


@dataclass(frozen=True)
class Print:
    """What a picture of a row looks like. ``content``: equal for equal pictures."""

    table: str
    row: int
    name: str
    content: int
    look: bytes


class Cells:
    """Columns as [n] int64 hashes: equal cells, equal hashes. Opens every picture and notes those at fault.

    ``look`` says what a picture looks like, None where it shows nothing; of each image column that is kept in
    ``prints``, of MAX_PRINTS pictures at most."""

    def __init__(self, images: bool, look: Callable[[Image.Image], bytes | None] | None = None) -> None:
        self.images, self.look = images, look
        self.prints: dict[str, list[Print]] = {}
        self._known: dict[str, tuple[int, bytes | None]] = {}
        self._faulty: dict[tuple[str, str], tuple[str, list[str], int]] = {}

    def hashes(self, table: Table, column: str, kind: ColumnType) -> tuple[np.ndarray, np.ndarray]:
        """[n] int64 and [n] bool, True = present."""
        values = table.columns[column]
        present = np.asarray(pc.is_valid(values))
        if kind is ColumnType.IMAGE:
            return self._pictures(table, column), present
        if kind in (ColumnType.NUMERIC, ColumnType.DATETIME):
            numbers = pc.fill_null(values, 0.0).to_numpy(zero_copy_only=False).astype(np.float64) + 0.0  # -0 is 0
            return np.where(present, mix([numbers.view(np.int64)]), 0), present
        if kind is ColumnType.TEXT:
            texts = (0 if v is None else hash(seeming(v)) for v in values.to_pylist())
            return np.fromiter(texts, np.int64, len(values)), present
        coded = values.dictionary_encode()
        of_value = np.append(hashes(coded.dictionary), 0)
        return of_value[pc.fill_null(coded.indices, len(of_value) - 1).to_numpy(zero_copy_only=False)], present

    def alarms(self) -> list[Alarm]:
        """The pictures at fault so far, an alarm for each column of each table."""
        what = "picture(s) cannot be used, the first:"
        return [
            Alarm(Severity.ERROR, "picture", f"{count} {what} {first}", table, column, tuple(rows), count)
            for (table, column), (first, rows, count) in self._faulty.items()
        ]

    def _pictures(self, table: Table, column: str) -> np.ndarray:
        values = table.columns[column].to_pylist()
        cells = [[(_name(source), source) for source in image_sources(v, table.folder)] for v in values]
        if len(self._known) > KNOWN_PICTURES:
            self._known.clear()
        rows = reversed(list(enumerate(cells)))
        unknown = {name: (source, row) for row, cell in rows for name, source in cell if name not in self._known}

        def look(where: tuple[ImageSource, int]) -> tuple[int, bytes | None] | DataError:
            source, row = where
            if not self.images:
                return hash(source.data or source.path), None
            try:
                picture = open_picture(table, source, row, column)
                data = read_picture(table, source, row, column) or b""
                bits = None if self.look is None else self.look(picture)
                return hash(blake2b(data, digest_size=16).digest()), bits
            except DataError as error:
                return error

        with ThreadPoolExecutor(4) as pool:
            looked = dict(zip(unknown, pool.map(look, unknown.values()), strict=True))
        wrong = {name: seen for name, seen in looked.items() if isinstance(seen, DataError)}
        self._known |= {name: seen for name, seen in looked.items() if not isinstance(seen, DataError)}
        for row, cell in enumerate(cells):
            error = next((wrong[name] for name, _ in cell if name in wrong), None)
            if error is not None:
                first, examples, count = self._faulty.get((table.name, column), (str(error), [], 0))
                if count < N_EXAMPLES:
                    examples = [*examples, name_row(table.name, table.first_row + row, table.ids[row].as_py())]
                self._faulty[table.name, column] = first, examples, count + 1
        prints = self.prints.setdefault(column, [])
        for row, cell in enumerate(cells):
            for name, source in cell:
                content, look_ = self._known.get(name, (0, None))
                if look_ is not None and len(prints) < MAX_PRINTS:
                    where = source.path or f"embedded picture {name[:8]}"
                    prints.append(Print(table.name, table.first_row + row, where, content, look_))
        keys = ([self._known.get(name, (hash(name), None))[0] for name, _ in cell] for cell in cells)
        return np.fromiter((hash(tuple(key)) if key else 0 for key in keys), np.int64, len(cells))


def _name(source: ImageSource) -> str:
    return f"file {source.path}" if source.data is None else blake2b(source.data, digest_size=16).hexdigest()


@dataclass
class Usage:
    """What a stream of one column's hashes tells of its use."""

    n: int = 0
    n_present: int = 0
    only: int | None = None
    constant: bool = True

    def add(self, values: np.ndarray, present: np.ndarray) -> None:
        self.n += len(values)
        filled = values[present]
        self.n_present += len(filled)
        if len(filled):
            self.only = int(filled[0]) if self.only is None else self.only
            self.constant = self.constant and bool((filled == self.only).all())

    @property
    def missing(self) -> float:
        return 1 - self.n_present / max(self.n, 1)


def usage_alarms(columns: dict[str, ColumnType], tables: dict[str, dict[str, Usage]]) -> Iterator[Alarm]:
    """Columns that say nothing, in all tables together."""
    for column in columns:
        parts = [table[column] for table in tables.values() if column in table]
        n_present, n = sum(p.n_present for p in parts), sum(p.n for p in parts)
        if n and n_present == 0:
            message = f"column {column} is missing in all {n:,} rows: take it out of dataset.yaml"
            yield Alarm(Severity.WARNING, "all_missing_column", message, None, column, (), n, 1.0)
        elif n_present > 1 and len({p.only for p in parts if p.n_present}) == 1 and all(p.constant for p in parts):
            rows = f"in all {n_present:,} filled rows"
            message = f"column {column} has the same value {rows}: it tells nothing, take it out"
            yield Alarm(Severity.WARNING, "constant_column", message, None, column, (), n_present, n_present / n)


def id_like(column: str, table: str, values: Iterable[object]) -> Iterator[Alarm]:
    """Whether a categorical column looks like a name for each row."""
    filled = [value for value in values if value is not None]
    distinct = len(set(filled)) / max(len(filled), 1)
    if len(filled) >= ID_LIKE_ROWS and distinct > ID_LIKE:
        message = (
            f"categorical column {column}: {percent(distinct)} of {len(filled):,} filled cells are distinct, so hardly"
            " a value is seen twice: make it text, or take it out if it is an id"
        )
        yield Alarm(Severity.WARNING, "id_like_column", message, table, column, (), len(set(filled)), distinct)


def attempt(alarms: list[Alarm], action: Callable[[], T]) -> T | None:
    """The result, or None and an alarm where the data is at fault."""
    try:
        return action()
    except DataError as error:
        alarms.append(fault(error))
        return None
