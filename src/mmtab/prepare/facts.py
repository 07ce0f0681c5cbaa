"""What is in the columns of raw tables: counts over all rows and samples of bounded size, read in one pass."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmtab.data import files
from mmtab.data.cells import canonical, hashes, image_sources
from mmtab.data.formats import AMOUNT, NUMERIC_DATE, ORDERS, STYLES, standard
from mmtab.data.pictures import find_picture
from mmtab.data.schema import ColumnType
from mmtab.data.spelling import is_bytes

MAX_VALUES = 1000  # values of a column that are remembered with how often they come
MAX_HASHES = 1 << 16  # distinct values that are counted exactly; beyond, their number is an estimate (0.4 % off)
MAX_PATHS = 50  # cells whose pictures are looked for on disk

MONTH = r"(?i:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*"
# dateutil takes "12" and "Mon" for moments, so a date must look like one: a year, a month and a day.
DATE = (
    r"^\s*(\d{4}[-/.]\d{1,2}[-/.]\d{1,2}|\d{1,2}[-/.]\s?\d{1,2}[-/.]\s?(19|20)\d{2}|\d{1,2}/\d{1,2}/\d{2}|\d\d\.\d\d\.\d\d"
    rf"|((?i:mon|tue|wed|thu|fri|sat|sun)[a-z]*, )?\d{{1,2}}\W{{1,3}}{MONTH}\W{{1,3}}(\d{{4}}|\d{{2}})"
    rf"|{MONTH}\W{{1,3}}\d{{1,2}}\W{{1,3}}\d{{4}})([T ,].{{0,40}})?$"
)
PATTERNS = {
    "whole": r"^\s*[+-]?\d+(\.0+)?\s*$",
    "code": r"^\s*[+-]?0\d",  # 01234: a number would lose its zero
    "long": r"^\s*[+-]?\d{16,}",  # more digits than a float64 holds
    "barcode": r"^\s*\d{12,14}\s*$",
    "compact": r"^\s*(19|20)\d\d(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])\s*$",  # 20240518
    "year": r"^\s*(1[5-9]|20)\d\d\s*$",
    "dotted": r"^\s*\d{1,2}\.\s?\d{1,2}\.\s?\d",
    "clock": r"^\s*\d{1,3}:[0-5]\d(:[0-5]\d)?(\.\d+)?\s*$",
    "amount": AMOUNT,
}
NUMBER = r"^\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*$|^\s*[+-]?(?i:inf|infinity|nan)\s*$"
PICTURE = r"(?i)\.(png|jpe?g|gif|bmp|webp|tiff?)\s*(;|$)"
MAGIC = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"BM", b"RIFF", b"II*\0", b"MM\0*")
MISSING = {"na", "n/a", "n.a.", "null", "none", "-", "--", "?", "nan", "missing", "unknown", "."}


@dataclass
class Facts:
    """A column's counts of cells over all rows, and samples of bounded size."""

    name: str
    stored: str = "text"  # what the file's own type says: text, number, whole, truth, moment, picture, bytes, other
    n: int = 0
    tally: Counter[str] = field(default_factory=Counter)
    affixes: set[tuple[str, str]] = field(default_factory=set)  # currencies and units about numbers, two at the most
    odd: str = ""  # a cell that is no number where most are, best a marker of a missing one
    example: str = ""
    values: dict[str, int] = field(default_factory=dict)  # all of them, with how often they come, unless there are many
    many: bool = False
    smallest: np.ndarray = field(default_factory=lambda: np.empty(0, np.uint64))  # hashes of distinct values, sorted

    @property
    def n_filled(self) -> int:
        return self.tally["filled"]

    @property
    def counted(self) -> bool:
        """Whether the number of distinct values is exact."""
        return len(self.smallest) < MAX_HASHES

    @property
    def n_distinct(self) -> int:
        # Hashes are spread evenly: how far the k smallest reach tells how many there are
        return len(self.smallest) if self.counted else round(MAX_HASHES / (float(self.smallest[-1]) / 2.0**64))

    def share(self, *counts: str) -> float:
        return sum(self.tally[count] for count in counts) / self.n_filled if self.n_filled else 0.0

    @property
    def formats(self) -> list[str]:
        """How the text of all cells may be read as numbers other than the standard's, or else as dates, the likeliest
        first; none where the standard's reading is the one."""
        if self.stored != "text" or not self.n_filled:
            return []
        if self.tally["amount"] == self.n_filled > self.tally["number"] and len(self.affixes) == 1:
            [(prefix, suffix)] = self.affixes
            styles = [style for style in STYLES if self.tally[style] == self.n_filled]
            same = styles[:1] if styles and styles[0] != "1,234.5" else styles[:2]
            return [f"{prefix.strip()} {style} {suffix.strip()}".strip() for style in same]
        if not self.tally["numeric date"]:
            return []
        fits = [order for order in ORDERS if self.tally[order] == self.tally["moment"]]
        return sorted(fits, key=lambda order: order != "day first") if self.tally["dotted"] else fits

    def merged(self, other: Facts) -> Facts:
        """Of two tables. Where they are stored in different ways, text holds both."""
        kinds = {self.stored, other.stored}
        if len(kinds) == 1:
            stored = self.stored
        else:
            stored = "picture" if "picture" in kinds else "number" if kinds == {"number", "whole"} else "text"
        both = Facts(
            self.name,
            stored,
            self.n + other.n,
            self.tally + other.tally,
            set(sorted(self.affixes | other.affixes)[:2]),
            self.odd or other.odd,
            self.example or other.example,
        )
        both.remember(dict(self.values), self.many)
        both.remember(other.values, other.many)
        both.count(np.concatenate([self.smallest, other.smallest]))
        both.tally["moment"] = max(both.tally[order] for order in ORDERS)
        return both

    def remember(self, values: dict[str, int], many: bool) -> None:
        for value, times in values.items():
            self.values[value] = self.values.get(value, 0) + times
        self.many = self.many or many or len(self.values) > MAX_VALUES
        if self.many:
            self.values = {}

    def count(self, fresh: np.ndarray) -> None:
        self.smallest = np.unique(np.concatenate([self.smallest, fresh]))[:MAX_HASHES]

    def add(self, cells: pa.Array, root: Path) -> None:
        """The next rows. ``root``: where paths of pictures start."""
        self.n += len(cells)
        if self.stored == "bytes" and _pictures(cells):
            self.stored = "picture"
        if self.stored == "picture":
            self.tally["filled"] += sum(bool(image_sources(cell)) for cell in cells.to_pylist())
            return
        counted = pc.value_counts(canonical(cells, ColumnType.CATEGORICAL)[0].drop_null())
        values, times = counted.field("values"), np.asarray(counted.field("counts"))
        if len(values) == 0:
            return
        strings = values.to_pylist()
        self.example = self.example or strings[0]
        self._tally_values(values, times)
        self._tally_paths(values, strings, times, root)
        self.count(hashes(values).view(np.uint64))
        if not self.many:
            self.remember(dict(zip(strings[: MAX_VALUES + 1], times.tolist(), strict=False)), len(strings) > MAX_VALUES)

    def _tally_values(self, values: pa.Array, times: np.ndarray) -> None:
        """``values``: distinct ones, each with how often it comes."""
        strings = values.to_pylist()
        self.tally["filled"] += int(times.sum())
        self.tally["characters"] += int((np.asarray(pc.utf8_length(values)) * times).sum())
        self.tally["words"] += int((np.asarray(pc.count_substring_regex(values, r"\S+")) * times).sum())
        for key, pattern in PATTERNS.items():
            self.tally[key] += int(times[_match(values, pattern)].sum())
        number = reads_as(values, _match(values, NUMBER), ColumnType.NUMERIC)
        self.tally["number"] += int(times[number].sum())
        self._tally_amounts(values, times)
        dates = _match(values, DATE)
        self.tally["date"] += int(times[dates].sum())
        compact = _match(values, PATTERNS["compact"])
        if (dates | compact).mean() > 0.5:  # some write only the year; parsing is slow, and in a column of texts vain
            numeric = _match(values, NUMERIC_DATE) & ~_match(values, r"^\s*\d{4}")
            likely = dates | compact | _match(values, PATTERNS["year"])
            self.tally["numeric date"] += int(times[numeric].sum())
            reads = reads_as(values, likely, ColumnType.DATETIME) if not numeric.any() else dates
            for order in ORDERS:
                if numeric.any():
                    reads = reads_as(standard(values, ColumnType.DATETIME, order), likely, ColumnType.DATETIME)
                self.tally[order] += int(times[reads].sum())
                dates |= reads
            self.tally["moment"] = max(self.tally[order] for order in ORDERS)
        markers = np.array([text.strip().lower() in MISSING for text in strings]) & ~number
        self.tally["marker"] += int(times[markers].sum())
        for fits in (markers, ~number & ~dates):
            self.odd = self.odd or next((strings[i] for i in np.flatnonzero(fits)[:1]), "")

    def _tally_amounts(self, values: pa.Array, times: np.ndarray) -> None:
        if self.stored != "text":
            return
        amounts = pc.extract_regex(values, AMOUNT)
        written = amounts.drop_null()
        prefix, suffix = (pc.utf8_trim_whitespace(written.field(part)) for part in ("prefix", "suffix"))
        affixes = pc.binary_join_element_wise(prefix, pc.utf8_lower(suffix), pa.scalar("\t", prefix.type))
        for both in affixes.unique().to_pylist():
            if len(self.affixes) < 2:
                self.affixes.add(tuple(both.split("\t")))
        for style, pattern in STYLES.items() if len(self.affixes) == 1 else ():
            fits = pc.fill_null(pc.match_substring_regex(amounts.field("number"), f"^({pattern})$"), False)
            self.tally[style] += int(times[np.asarray(fits)].sum())

    def _tally_paths(self, values: pa.Array, strings: list[str], times: np.ndarray, root: Path) -> None:
        paths = _match(values, PICTURE)
        self.tally["path"] += int(times[paths].sum())
        for i in np.flatnonzero(paths)[: MAX_PATHS - self.tally["looked"]]:
            self.tally["looked"] += 1
            self.tally["exists"] += all(
                find_picture(root.resolve(), str(source.path))[0] is not None
                for source in image_sources(strings[i], root)
            )


def facts_of(path: Path, dataset: str, root: Path) -> dict[str, Facts]:
    """By column, the facts of a table. ``root``: where paths of pictures start."""
    facts = {f.name: Facts(f.name, _stored(f.type)) for f in files.header(path, dataset)}
    for batch in files.scan(path, dataset):
        for column in facts.values():
            column.add(batch[column.name], root)
    return facts


def is_unique(facts: Facts, path: Path, dataset: str) -> bool:
    """Whether the column names each row once; reads it again where its distinct values were too many to count."""
    surely_fewer = facts.n_distinct < (1 - 5 / math.sqrt(MAX_HASHES)) * facts.n  # five standard errors of the estimate
    if facts.n_filled < facts.n or facts.counted or surely_fewer:
        return facts.n_filled == facts.n == facts.n_distinct
    scan = files.scan(path, dataset, columns=[facts.name])
    names = np.sort(np.concatenate([hashes(canonical(batch[0], ColumnType.CATEGORICAL)[0]) for batch in scan]))
    return not bool((names[1:] == names[:-1]).any())


def reads_as(values: pa.Array, likely: np.ndarray, kind: ColumnType) -> np.ndarray:
    """[n] bool: which of the likely cells can be read as this type."""
    places = np.flatnonzero(likely)
    reads = likely.copy()
    reads[places[canonical(values.take(pa.array(places)), kind)[1]]] = False
    return reads


def _match(values: pa.Array, pattern: str) -> np.ndarray:
    return np.asarray(pc.match_substring_regex(values, pattern))


def _stored(kind: pa.DataType) -> str:
    item = kind.value_type if pa.types.is_list(kind) or pa.types.is_large_list(kind) else kind
    if pa.types.is_struct(item):
        return "picture" if {f.name for f in item} <= {"bytes", "path"} else "other"
    if is_bytes(item):
        return "bytes"
    rules = {
        pa.types.is_boolean: "truth",
        pa.types.is_integer: "whole",
        pa.types.is_floating: "number",
        lambda of: pa.types.is_decimal(of) and of.scale <= 0: "whole",  # of any length, as ids have
        pa.types.is_decimal: "number",
        pa.types.is_timestamp: "moment",
        pa.types.is_date: "moment",
        pa.types.is_nested: "other",
        pa.types.is_duration: "other",
    }
    return next((stored for fits, stored in rules.items() if fits(kind)), "text")


def _pictures(cells: pa.Array) -> bool:
    data = [source.data for cell in cells.drop_null().slice(0, 20).to_pylist() for source in image_sources(cell)]
    return bool(data) and all(content is not None and content.startswith(MAGIC) for content in data)
