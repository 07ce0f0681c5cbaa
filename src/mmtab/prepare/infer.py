"""What the columns of raw tables are, judged by their values, with a reason for each and how sure it is.

The tables are read once, in batches; what is kept of a column is of bounded size (``_Facts``), whatever the rows. Only a
column that may be the id is read a second time, should its distinct values be too many to have been counted exactly.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmtab.data import files
from mmtab.data.cells import canonical, hashes, image_sources
from mmtab.data.schema import METRICS, Column, ColumnType, Schema, TaskKind
from mmtab.utils.errors import DataError

IGNORE, ID, LABEL = "ignore", "id", "label"
MAX_VALUES = 1000  # values of a column that are remembered with how often they come
MAX_HASHES = 1 << 16  # distinct values that are counted exactly; beyond, their number is an estimate (0.4 % off)
MAX_PATHS = 50  # cells whose pictures are looked for on disk
READABLE = 0.98  # share of numbers or dates from which the odd rest is to be emptied, not the type given up

MONTH = r"(?i:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*"
# dateutil takes "12" and "Mon" for moments, so a date must look like one: a year, a month and a day.
DATE = (
    r"^\s*(\d{4}[-/.]\d{1,2}[-/.]\d{1,2}|\d{1,2}[-/.]\d{1,2}[-/.](19|20)\d{2}|((?i:mon|tue|wed|thu|fri|sat|sun)[a-z]*, )?"
    rf"\d{{1,2}}\W{{1,3}}{MONTH}\W{{1,3}}(\d{{4}}|\d{{2}})|{MONTH}\W{{1,3}}\d{{1,2}}\W{{1,3}}\d{{4}})([T ,].{{0,40}})?$"
)
PATTERNS = {
    "whole": r"^\s*[+-]?\d+(\.0+)?\s*$",
    "code": r"^\s*[+-]?0\d",  # 01234: a number would lose its zero
    "long": r"^\s*[+-]?\d{16,}",  # more digits than a float64 holds
    "barcode": r"^\s*\d{12,14}\s*$",
    "compact": r"^\s*(19|20)\d\d(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])\s*$",  # 20240518
    "year": r"^\s*(1[5-9]|20)\d\d\s*$",
    "day first": r"^\s*(1[3-9]|2\d|3[01])[-/.]\d{1,2}[-/.]\d{4}",
    "clock": r"^\s*\d{1,3}:[0-5]\d(:[0-5]\d)?(\.\d+)?\s*$",
    "amount": r"^\s*([^\w\s.,-]|[A-Z]{2,3} )?\s*[+-]?(\d{1,3}([,. ']\d{3})+|\d+)([.,]\d+)?\s*([^\W\d]{1,6}|[^\w\s.,-]{1,2})?\s*$",  # $1,299.00; 12 kg
}
NUMBER = r"^\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*$|^\s*[+-]?(?i:inf|infinity|nan)\s*$"
PICTURE = r"(?i)\.(png|jpe?g|gif|bmp|webp|tiff?)\s*(;|$)"
MAGIC = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"BM", b"RIFF", b"II*\0", b"MM\0*")
TRUTHS = {"true", "false", "yes", "no", "t", "f", "y", "n"}
MISSING = {"na", "n/a", "n.a.", "null", "none", "-", "--", "?", "nan", "missing", "unknown", "."}
CODE_NAMES = {"zip", "zipcode", "postcode", "postal", "plz", "phone", "telephone", "tel", "mobile", "fax", "ean", "gtin", "upc", "isbn", "issn", "asin", "sku", "code", "barcode", "ssn", "iban"}  # fmt: skip
KEY_NAMES = {"id", "ids", "uuid", "guid", "key", "index", "rowid", "identifier", "unnamed"}
ID_NAMES = KEY_NAMES | {"sku", "asin", "ean", "isbn", "gtin", "upc"}
COUNT_NAMES = {"n", "num", "number", "count", "counts", "qty", "quantity", "total", "days", "age", "years", "size", "score", "rating", "stars", "year", "price", "cost", "attack", "health", "popularity", "amount", "weight", "height", "width", "length", "duration", "version"}  # fmt: skip
TIME_NAMES = {"time", "timestamp", "ts", "date", "epoch", "at"}
LABEL_NAMES = ["label", "target", "class", "y", "category", "genre", "type", "kind", "group", "outcome", "species"]


@dataclass(frozen=True)
class Guess:
    """One column. ``role``: id, label, ignore, or a column type; ``confidence`` in [0, 1]; ``alternatives``: the second choice."""

    name: str
    role: str
    why: str
    confidence: float
    alternatives: str | None = None


@dataclass(frozen=True)
class Proposal:
    """A schema, why, and what else the user should know."""

    schema: Schema
    guesses: tuple[Guess, ...]
    notes: tuple[str, ...]


def infer(
    tables: dict[str, Path],
    *,
    name: str,
    task: str | None = None,
    id: str | None = None,
    label: str | None = None,
    types: dict[str, str] | None = None,
    dialect: files.Dialect = files.STANDARD,
    image_root: Path | None = None,
) -> Proposal:
    """Propose a schema for raw tables.

    ``tables`` maps what a table is (rows; train, valid, test; left, right or records, and pairs …) to its file. What the
    user says (``task``, ``id``, ``label``, ``types`` by column) wins. A proposed type can be read: every cell of a
    numeric or datetime column parses, or a note says which do not and what to do. ``image_root``: where paths of
    pictures start; by default the folder of the table.

    Raises DataError for a column that the user names and no table has, and where no label can be guessed.
    """
    said = dict(types or {})
    rows = {stem: path for stem, path in tables.items() if not stem.startswith("pairs")}
    fail = partial(DataError, name, table=", ".join(rows or tables))
    if task is not None and task not in list(TaskKind):
        raise fail("task", expected="kway or matching", found=task, fix="say one of them")
    if not rows:
        raise fail("no table of rows beside the pairs", fix="add rows, or left and right, or records")
    kind = TaskKind(task) if task else TaskKind.MATCHING if len(rows) < len(tables) or {"left", "right", "records"} & set(rows) else TaskKind.KWAY  # fmt: skip
    looks = {stem: _look(path, name, dialect, image_root or path.parent) for stem, path in rows.items()}
    found: dict[str, _Facts] = {}
    for look in looks.values():
        for column, facts in look.items():
            found[column] = found[column].merged(facts) if column in found else facts
    if kind is TaskKind.MATCHING and label not in (None, "label"):
        raise fail(
            "the answers of a matching dataset are in its pairs, as 'label'", column=label, fix="leave label out"
        )
    label = label if kind is TaskKind.KWAY else None
    for column in [c for c in (id, label, *said) if c is not None]:
        if column not in found:
            raise fail("no table has this column", column=column, found=f"columns {list(found)}", fix="correct id, label or types")  # fmt: skip
    roles = [*map(str, ColumnType), IGNORE]
    for column, wanted in said.items():
        if wanted not in roles:
            raise fail("unknown column type", column=column, found=wanted, expected=f"one of {roles}", fix="correct types")  # fmt: skip

    guesses: dict[str, Guess] = {}
    for column, facts in found.items():
        guesses[column] = _guess(facts)
        if kind is TaskKind.MATCHING and len(looks) > 1:
            sides = {stem: _guess(look[column]).role for stem, look in looks.items() if column in look}
            guesses[column] = _agreed(guesses[column], sides, len(looks))
    guesses |= {column: Guess(column, wanted, "you said so", 1.0) for column, wanted in said.items()}
    notes: list[str] = []

    def unique(column: str) -> bool:
        return all(column in looks[s] and _is_unique(looks[s][column], path, name, dialect) for s, path in rows.items())

    free = next(c for c in ("id", "row_id", *(f"row_id_{i}" for i in range(len(found)))) if c not in found)
    if id is None:
        candidates = (g for g in _ids(found, guesses) if g.name != label and g.name not in said)
        key = next((guess for guess in candidates if unique(guess.name)), Guess(free, ID, "", 0.0))
    else:
        key = Guess(id, ID, "you said so", 1.0)
        notes += [] if unique(id) else [f"{id}: you said it is the id, but some row lacks it or repeats it"]
    if key.name in found:
        guesses[key.name] = key
    else:
        told = ": write it into the pairs too" if kind is TaskKind.MATCHING else ""
        notes.append(f"no column names each row once, so a column {key.name!r} numbers them{told}")
    if kind is TaskKind.KWAY:
        answer = _find_label(found, guesses, label, set(said), fail)
        guesses[answer.name] = answer
        if answer.confidence < 0.8:
            notes.append(f"the label is a guess: {answer.name!r}. Say label=COLUMN if it is another")
    for guess in guesses.values():
        notes += _warnings(found[guess.name], guess)
    columns = tuple(Column(g.name, ColumnType(g.role)) for g in guesses.values() if g.role in list(ColumnType))
    if not columns:
        raise fail("no column is left to learn from", found=f"columns {list(found)}", fix="give more columns, or types")
    schema = Schema(
        name, kind, columns, id=key.name, metric=METRICS[kind][0],
        label=next((g.name for g in guesses.values() if g.role == LABEL), None),
    )  # fmt: skip
    return Proposal(Schema.from_dict(schema.to_dict()), tuple(guesses.values()), tuple(notes))


def _agreed(guess: Guess, sides: dict[str, str], n_sides: int) -> Guess:
    """Say where the tables differ. The guess comes from the cells of all, so that it reads in each of them."""
    if len(set(sides.values()) - {IGNORE}) > 1:
        told = ", ".join(f"{stem} alone {role}" for stem, role in sides.items())
        return replace(guess, why=f"{guess.why}; {told}", confidence=min(guess.confidence, 0.6))
    if len(sides) < n_sides:
        return replace(guess, why=f"{guess.why}; only in {', '.join(sides)}")
    return guess


def _warnings(facts: _Facts, guess: Guess) -> Iterator[str]:
    kind = {ColumnType.NUMERIC: "number", ColumnType.DATETIME: "moment"}.get(guess.role)  # type: ignore[call-overload]
    odd = facts.n_filled - facts.tally[kind] if kind else 0
    # Where the user chose the type, cells may read that no pattern here expects: truths as numbers, "May 2014" as a date
    expected = (
        facts.tally[kind] or (kind == "number" and facts.example.strip().lower() not in TRUTHS) if kind else False
    )
    if odd and expected and facts.stored == "text":
        yield f"{facts.name}: {odd:,} cells such as {facts.odd!r} are no {kind}s: empty them, or set dataset.bad_cells=missing"
    elif guess.alternatives in ("numeric", "datetime") and facts.tally["marker"] and guess.role != ColumnType.NUMERIC:
        yield f"{facts.name}: empty the cells such as {facts.odd!r}, and it is {guess.alternatives}"
    if guess.role == ColumnType.DATETIME and facts.tally["day first"] and facts.stored == "text":
        yield f"{facts.name}: the day comes first, but 03/04/2020 is read as March 4: write 2020-04-03"
    if guess.role == ColumnType.IMAGE and facts.tally["there"] < facts.tally["looked"]:
        yield f"{facts.name}: {facts.tally['looked'] - facts.tally['there']} of {facts.tally['looked']} pictures looked for are not there"
    if guess.role == LABEL and len(facts.values) == 1:
        yield f"{facts.name}: the label has one class only"


# --- what is in a column ---------------------------------------------------------------------------------------------


@dataclass
class _Facts:
    """Counts of cells over all rows, and samples of bounded size. ``stored``: what the file's own type says."""

    name: str
    stored: str = "text"  # text, number, whole, truth, moment, picture, bytes, other
    n: int = 0
    tally: Counter[str] = field(default_factory=Counter)
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

    def merged(self, other: _Facts) -> _Facts:
        """Of two tables. Where they are stored in different ways, text holds both."""
        kinds = {self.stored, other.stored}
        stored = self.stored if len(kinds) == 1 else "picture" if "picture" in kinds else "number" if kinds == {"number", "whole"} else "text"  # fmt: skip
        whole = _Facts(self.name, stored, self.n + other.n, self.tally + other.tally, self.odd or other.odd, self.example or other.example)  # fmt: skip
        whole.remember(dict(self.values), self.many)
        whole.remember(other.values, other.many)
        whole.count(np.concatenate([self.smallest, other.smallest]))
        return whole

    def remember(self, values: dict[str, int], many: bool) -> None:
        for value, times in values.items():
            self.values[value] = self.values.get(value, 0) + times
        self.many = self.many or many or len(self.values) > MAX_VALUES
        if self.many:
            self.values = {}

    def count(self, fresh: np.ndarray) -> None:
        self.smallest = np.unique(np.concatenate([self.smallest, fresh]))[:MAX_HASHES]

    def add(self, cells: pa.Array, root: Path) -> None:
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
        self.tally["filled"] += int(times.sum())
        self.tally["characters"] += int((np.asarray(pc.utf8_length(values)) * times).sum())
        self.tally["words"] += int((np.asarray(pc.count_substring_regex(values, r"\S+")) * times).sum())
        for key, pattern in PATTERNS.items():
            self.tally[key] += int(times[_match(values, pattern)].sum())
        number = _reads(values, _match(values, NUMBER), ColumnType.NUMERIC)
        self.tally["number"] += int(times[number].sum())
        dates = _match(values, DATE)
        self.tally["date"] += int(times[dates].sum())
        compact = _match(values, PATTERNS["compact"])
        if (dates | compact).mean() > 0.5:  # some write only the year; parsing is slow, and in a column of texts vain
            dates = _reads(values, dates | compact | _match(values, PATTERNS["year"]), ColumnType.DATETIME)
            self.tally["moment"] += int(times[dates].sum())
        markers = [text.strip().lower() in MISSING for text in strings]
        self.tally["marker"] += int(times[np.array(markers) & ~number].sum())
        for fits in (np.array(markers) & ~number, ~number & ~dates):
            self.odd = self.odd or next((strings[i] for i in np.flatnonzero(fits)[:1]), "")
        self.example = self.example or strings[0]
        paths = _match(values, PICTURE)
        self.tally["path"] += int(times[paths].sum())
        for i in np.flatnonzero(paths)[: MAX_PATHS - self.tally["looked"]]:
            self.tally["looked"] += 1
            self.tally["there"] += all(_is_there(root, source.path) for source in image_sources(strings[i]))
        self.count(hashes(values).view(np.uint64))
        if not self.many:
            self.remember(dict(zip(strings[: MAX_VALUES + 1], times.tolist(), strict=False)), len(strings) > MAX_VALUES)


def _match(values: pa.Array, pattern: str) -> np.ndarray:
    return np.asarray(pc.match_substring_regex(values, pattern))


def _reads(values: pa.Array, likely: np.ndarray, kind: ColumnType) -> np.ndarray:
    """Which of the likely cells mmtab itself can read as this type."""
    places = np.flatnonzero(likely)
    reads = likely.copy()
    reads[places[canonical(values.take(pa.array(places)), kind)[1]]] = False
    return reads


def _is_there(root: Path, path: str | None) -> bool:
    try:
        return path is not None and (root / path).is_file()
    except (OSError, ValueError):
        return False


def _look(path: Path, dataset: str, dialect: files.Dialect, root: Path) -> dict[str, _Facts]:
    facts = {f.name: _Facts(f.name, _stored(f.type)) for f in files.header(path, dataset, dialect)}
    for batch in files.scan(path, dataset, encoding=dialect.encoding, delimiter=dialect.delimiter):
        for column in facts.values():
            column.add(batch[column.name], root)
    return facts


def _is_unique(facts: _Facts, path: Path, dataset: str, dialect: files.Dialect) -> bool:
    surely_fewer = facts.n_distinct < (1 - 5 / math.sqrt(MAX_HASHES)) * facts.n  # five standard errors of the estimate
    if facts.n_filled < facts.n or facts.counted or surely_fewer:
        return facts.n_filled == facts.n == facts.n_distinct
    scan = files.scan(path, dataset, columns=[facts.name], encoding=dialect.encoding, delimiter=dialect.delimiter)
    whole = np.sort(np.concatenate([hashes(canonical(batch[0], ColumnType.CATEGORICAL)[0]) for batch in scan]))
    return not bool((whole[1:] == whole[:-1]).any())


def _stored(kind: pa.DataType) -> str:
    item = kind.value_type if pa.types.is_list(kind) or pa.types.is_large_list(kind) else kind
    if pa.types.is_struct(item):
        return "picture" if {f.name for f in item} <= {"bytes", "path"} else "other"
    if pa.types.is_binary(item) or pa.types.is_large_binary(item):
        return "bytes"
    rules = [
        (pa.types.is_boolean, "truth"), (pa.types.is_integer, "whole"), (pa.types.is_floating, "number"),
        (pa.types.is_decimal, "number"), (pa.types.is_timestamp, "moment"), (pa.types.is_date, "moment"),
        (pa.types.is_nested, "other"), (pa.types.is_duration, "other"),
    ]  # fmt: skip
    return next((stored for fits, stored in rules if fits(kind)), "text")


def _pictures(cells: pa.Array) -> bool:
    filled = [source.data for cell in cells.drop_null().slice(0, 20).to_pylist() for source in image_sources(cell)]
    return bool(filled) and all(data is not None and data.startswith(MAGIC) for data in filled)


# --- what it is ------------------------------------------------------------------------------------------------------


def _words(name: str) -> list[str]:
    """itemCount, item_count -> [item, count]"""
    return [w for w in re.split(r"[\W_]+", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()) if w]


def _guess(facts: _Facts) -> Guess:
    """The type of one column: the first rule that fits, the surest first."""
    n, filled, tally, distinct = facts.n, facts.n_filled, facts.tally, facts.n_distinct
    words = _words(facts.name)
    n_distinct = f"{distinct:,}" if facts.counted else f"about {float(f'{distinct:.2g}'):,.0f}"
    few = f"{n_distinct} distinct among {filled:,}" if distinct > 1 else f"the same in all {filled:,}"

    def guess(role: str, confidence: float, why: str, alternatives: str | None = None) -> Guess:
        why += f", {1 - filled / n:.1%} missing" if 0 < filled < n else ""
        few_rows = 0 < filled < 20 and facts.stored in ("text", "whole")
        return Guess(facts.name, role, why, min(confidence, 0.6) if few_rows else confidence, alternatives)

    if facts.stored == "picture":
        return guess("image", 0.99, f"{filled:,} cells hold pictures")
    if facts.stored in ("other", "bytes"):
        return guess(IGNORE, 0.9, "stored as lists, structs, durations or bytes, which are no pictures")
    if filled == 0:
        return guess(IGNORE, 0.9, "every cell is missing")
    if facts.stored == "moment":
        return guess("datetime", 0.99, "stored as dates or times")
    if facts.stored == "truth" or (not facts.many and {value.strip().lower() for value in facts.values} <= TRUTHS):
        return guess("categorical", 0.97, f"true or false ({few})")
    if facts.share("path") > READABLE and tally["there"]:
        sure = 0.97 if tally["there"] == tally["looked"] else 0.7
        return guess("image", sure, f"{facts.share('path'):.0%} are paths of pictures; {tally['there']} of {tally['looked']} looked for exist", "text")  # fmt: skip
    aside = " that end like pictures, of which none is found" if facts.share("path") > 0.9 else ""
    unique, key = distinct > 0.98 * filled and filled >= 20, bool(words) and words[-1] in KEY_NAMES
    if tally["number"] == filled or (facts.share("number") >= READABLE and (tally["number"] + tally["marker"] == filled or tally["whole"] < tally["number"])):  # fmt: skip
        return _guess_number(facts, guess, few, set(words), key, unique)
    if facts.share("date") > 0.8 and facts.share("moment") >= READABLE and tally["moment"] + tally["marker"] == filled:
        if tally["day first"]:
            return guess("datetime", 0.5, f"dates with the day first, such as {facts.example!r}", "text")
        some = "every cell is a date" if tally["moment"] == filled else f"{facts.share('moment'):.1%} are dates"
        return guess("datetime", 0.95 if tally["moment"] == filled else 0.7, f"{some}, such as {facts.example!r}", "text")  # fmt: skip
    length, n_words = tally["characters"] / filled, tally["words"] / filled
    cleaned: str | None = None
    if tally["marker"] and facts.share("number", "marker") == 1 and tally["number"]:
        cleaned = "numeric"
        aside = f"; {tally['number']:,} are numbers, but {tally['marker']:,} cells such as {facts.odd!r} would have to be emptied"  # fmt: skip
    elif facts.share("amount", "marker") > 0.95 and facts.share("number") < 0.9 and facts.share("clock") == 0:
        cleaned = "numeric"
        aside = f"; amounts such as {facts.odd!r}, which do not read as numbers before sign, unit and commas are removed"  # fmt: skip
    if facts.share("clock") > 0.95:
        # As categories 3:45 and 3:46 share nothing, and without a date they are no moments
        return guess("text", 0.7, f"times such as {facts.example!r}, without a date ({few})", "categorical")
    if key and unique and n_words < 1.01:
        return guess(IGNORE, 0.6, f"a name of its own for each row, {few}", "text")
    # A category is said again and again in the same few words; a text seldom, or at length.
    often, repeated = filled / max(distinct, 1), 1 - distinct / filled
    what = f"{n_words:.1f} words a cell, {few}{aside}"
    if length > 60 or n_words > 9:
        if distinct <= 30 and often > 50:
            return guess("categorical", 0.6, f"long, but only {few}", "text")
        return guess("text", 0.95, what)
    if distinct <= max(50, 0.02 * filled) and often >= 2:
        return guess("categorical", 0.95, few + aside, cleaned)
    if (n_words <= 2.5 and repeated > 0.35) or (n_words <= 5 and repeated > 0.75):
        near = n_words > 2 and repeated < 0.5  # names of persons and products are on the fence
        return guess("categorical", 0.6 if near else 0.8 if n_words <= 2.5 else 0.7, what, cleaned or "text")
    return guess("text", 0.85 if n_words > 3 else 0.65, what, cleaned or "categorical")


def _guess_number(
    facts: _Facts, guess: Callable[..., Guess], few: str, words: set[str], key: bool, unique: bool
) -> Guess:
    """A column of numbers: are they quantities, or names written in digits?"""
    filled, tally, distinct = facts.n_filled, facts.tally, facts.n_distinct
    # A float column with gaps may be one of integers: pandas has no other way to store their missing cells
    whole = tally["whole"] == tally["number"] and (facts.stored != "number" or filled < facts.n)
    counted = bool(words & COUNT_NAMES) or tally["year"] == filled  # years have an order, whatever they are called
    code = "text" if unique and tally["characters"] > 5 * filled else "categorical"  # its digits, or its repetitions
    compact = tally["compact"] == tally["moment"] == filled and facts.stored == "text"
    if compact and (filled >= 20 or words & TIME_NAMES):
        return guess("datetime", 0.8, f"every cell is a date without separators, such as {facts.example!r}", "numeric")
    barcodes = facts.share("barcode") == 1 and not words & (TIME_NAMES | COUNT_NAMES)
    for fits, sure, why in [
        (facts.share("code") > 0.01, 0.85, "digits with leading zeros: codes, not quantities"),
        (facts.share("long") > 0.01, 0.8, "more digits than a number holds exactly"),
        (words & CODE_NAMES, 0.8, "whole numbers under a name of codes"),
        (barcodes, 0.6, "12 to 14 digits in every cell, as in barcodes"),
    ]:
        if whole and fits:
            return guess(code, sure, f"{why}, such as {facts.example!r} ({few})", "numeric")
    if whole and key and not words & COUNT_NAMES:
        if unique:
            return guess(IGNORE, 0.7, f"whole numbers under a name of keys, {few}", "numeric")
        return guess("categorical", 0.6, f"whole numbers under a name of keys, said again and again ({few})", "numeric")
    if whole and not counted and 1 < distinct <= 12:
        if not facts.many and {value.strip() for value in facts.values} <= {"0", "1"}:
            return guess("categorical", 0.8, f"0 or 1: no or yes ({few})", "numeric")
        if distinct == 2 and filled > 20:
            return guess("categorical", 0.7, f"two whole numbers only ({few})", "numeric")
        if filled > 50 * distinct and (reason := _coded(facts)):
            return guess("categorical", 0.6, f"few whole numbers, {reason} ({few})", "numeric")
    if tally["number"] < filled:
        sure = 0.7 if tally["number"] + tally["marker"] == filled else 0.55
        return guess("numeric", sure, f"{facts.share('number'):.1%} are numbers, {few}; {filled - tally['number']:,} cells such as {facts.odd!r} are not", "text")  # fmt: skip
    near = whole and distinct <= 12 and filled > 50 * distinct and not counted
    return guess("numeric", 0.75 if near else 0.95, f"every cell is a number, {few}", "categorical" if near else None)


def _coded(facts: _Facts) -> str:
    """Why the few whole numbers look like codes, if they do. How often a quantity comes has a slope, or a peak with two."""
    counts: Counter[int] = Counter()
    for value, times in facts.values.items():
        if _reads(pa.array([value]), np.array([True]), ColumnType.NUMERIC)[0] and re.match(PATTERNS["whole"], value):
            counts[int(float(value))] += times
    order = [counts[number] for number in sorted(counts)]
    turns = sum((b - a) * (c - b) < 0 for a, b, c in zip(order, order[1:], order[2:], strict=False))
    if len(order) > 3 and turns >= max(2, (len(order) - 1) // 2):
        return "with no order in how often they come"
    common = [number for number in sorted(counts) if counts[number] >= 0.005 * facts.n_filled]
    if len(common) > 2 and common[-1] - common[0] < 20 and len(range(common[0], common[-1])) > len(common) - 1:
        return f"of which {', '.join(map(str, common))} are common and those between never come or hardly"
    return ""


def _ids(found: dict[str, _Facts], guesses: dict[str, Guess]) -> list[Guess]:
    """Columns that may name the rows, the likeliest first: by their names, then by their places."""
    scored: list[tuple[float, Guess]] = []
    for place, (column, facts) in enumerate(found.items()):
        if facts.n_filled < facts.n or facts.n == 0 or facts.stored not in ("text", "whole") or guesses[column].role in ("image", "datetime"):  # fmt: skip
            continue
        words = _words(column)
        named = bool(set(words) & ID_NAMES)
        if not named:  # the first column may do, if it is one word each, or numbers the rows
            numbers = sorted(float(value) for value in facts.values) if facts.tally["whole"] == facts.n else []
            counts = not numbers or (numbers[0] in (0.0, 1.0) and numbers[-1] - numbers[0] == len(numbers) - 1)
            words_only = facts.tally["number"] == 0 and facts.tally["words"] <= 1.01 * facts.n
            if place > 0 or facts.n < 3 or not (words_only or (counts and facts.tally["whole"] == facts.n)):
                continue
        why = f"{facts.n:,} cells, all different" + (", and its name says so" if named else "")
        score = 4.0 * (column.lower() == "id") + 2 * named + (words[-1:] == ["id"]) + (place == 0) - 2 * ("unnamed" in words) - place / len(found)  # fmt: skip
        scored.append((score, Guess(column, ID, why, 0.95 if named else 0.7)))
    return [guess for _, guess in sorted(scored, key=lambda pair: -pair[0])]


def _find_label(
    found: dict[str, _Facts],
    guesses: dict[str, Guess],
    said: str | None,
    fixed: set[str],
    fail: Callable[..., DataError],
) -> Guess:
    if said is not None:
        if guesses[said].role == ID:
            raise fail("the id cannot be the label", column=said, fix="choose another label")
        return Guess(said, LABEL, f"you said so; {found[said].n_distinct:,} classes", 1.0)
    places = list(found)
    best: tuple[float, Guess] | None = None
    for place, (column, facts) in enumerate(found.items()):
        distinct, words, last = facts.n_distinct, _words(column), column == places[-1]
        if column in fixed or guesses[column].role in (ID, IGNORE, "image", "datetime") or not 2 <= distinct <= max(2, min(1000, facts.n_filled // 3)):  # fmt: skip
            continue
        rank = LABEL_NAMES.index(column.lower()) if column.lower() in LABEL_NAMES else None
        part = next((i for i, word in enumerate(LABEL_NAMES) if word in words), None)
        if rank is None and part is None and guesses[column].role in ("numeric", "text"):
            continue
        by_name = 20 - rank if rank is not None else 5 - part / 10 if part is not None else 0
        score = by_name + 3 * last + place / len(places)
        sure = 0.9 if rank == 0 or (rank is not None and last) else 0.7 if rank is not None or (part is not None and last) else 0.4  # fmt: skip
        reasons = [*(["its name"] if by_name else []), *(["it comes last"] if last else [])]
        why = f"{distinct:,} classes; {' and '.join(reasons) or 'no name or place speaks for it, but nothing better was found'}"
        if best is None or score > best[0]:
            best = score, Guess(column, LABEL, why, sure, guesses[column].role)
    if best is None:
        raise fail("no column looks like a label", found=f"columns {places}", fix="say label=COLUMN")
    return best[1]
