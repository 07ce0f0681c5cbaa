"""What the columns of raw tables are, judged by their values, with a reason for each and how sure it is."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmtab import files
from mmtab.errors import DataError
from mmtab.schema import METRICS, Column, ColumnType, Schema, TaskKind
from mmtab.table import canonical, hashes, image_sources

IGNORE, ID, LABEL = "ignore", "id", "label"
MAX_DISTINCT = 50_000  # values of a column that are remembered; beyond, distinct values are estimated by their hashes
MAX_PATHS = 50  # cells whose pictures are looked for on disk

NUMBER = r"^\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*$|^(?i:inf|infinity|nan|-inf)$"
WHOLE = r"^\s*[+-]?\d+(\.0+)?\s*$"
CODE = r"^[+-]?0\d"  # 01234: a number would lose its zero
DATE = (
    r"^\s*(\d{4}[-/.]\d{1,2}[-/.]\d{1,2}|\d{1,2}[-/.]\d{1,2}[-/.](19|20)\d{2}|"
    r"\d{1,2}\W{1,2}(?i:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*\W{1,2}(\d{4}|\d{2})|"
    r"(?i:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*\W{1,2}\d{1,2}\W{1,2}\d{4})([T ,].{0,40})?$"
)
PICTURE = r"(?i)\.(png|jpe?g|gif|bmp|webp|tiff?)\s*(;|$)"
TRUTHS = {"true", "false", "yes", "no", "t", "f", "y", "n"}
MISSING = {"na", "n/a", "null", "none", "-", "?", "nan", "missing", "unknown", "."}
CODE_NAMES = {"zip", "zipcode", "postcode", "postal", "plz", "phone", "tel", "fax", "ean", "gtin", "upc", "isbn", "issn", "asin", "sku", "code", "barcode", "ssn", "iban"}  # fmt: skip
ID_NAMES = {"id", "uuid", "guid", "key", "index", "rowid", "identifier", "sku", "asin", "ean"}
COUNT_NAMES = {"n", "num", "number", "count", "counts", "qty", "quantity", "total", "days", "age", "years", "size", "score", "rating", "year", "price", "cost", "attack", "health", "popularity", "amount", "weight", "height", "width", "length", "duration", "version"}  # fmt: skip
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
    """Propose a schema for raw tables, read once in batches.

    ``tables`` maps what a table is (rows; train, valid, test; left, right or records, and pairs …) to its file. What the
    user says (``task``, ``id``, ``label``, ``types`` by column) wins. A proposed type can be read: every cell of a
    numeric or datetime column parses, but for a few markers of missing cells, which a note tells.

    Raises DataError for a column that the user names and no table has, and where no label can be guessed.
    """
    rows = {stem: path for stem, path in tables.items() if not stem.startswith("pairs")}
    kind = TaskKind(task) if task in list(TaskKind) else TaskKind.MATCHING if {"left", "records"} & set(rows) else TaskKind.KWAY  # fmt: skip
    if task is not None and task not in list(TaskKind):
        raise DataError(name, "task", expected="kway or matching", found=task)
    if not rows:
        raise DataError(name, "no table of rows", expected="one beside the pairs", found=sorted(tables))
    found: dict[str, _Facts] = {}
    for path in rows.values():
        root = image_root or path.parent
        for column, facts in _look(path, name, dialect, root).items():
            found[column] = found[column].merged(facts) if column in found else facts
    for column in [c for c in (id, label, *(types or {})) if c is not None]:
        if column not in found:
            raise DataError(
                name, "no table has this column", table=", ".join(rows), column=column, found=f"columns {list(found)}",
                fix="correct id, label or types",
            )  # fmt: skip
    for column, wanted in (types or {}).items():
        if wanted not in (*ColumnType, IGNORE):
            raise DataError(name, "unknown column type", column=column, expected=f"one of {[*map(str, ColumnType), IGNORE]}", found=wanted)  # fmt: skip

    guesses: dict[str, Guess] = {column: _guess(facts) for column, facts in found.items()}
    for column, wanted in (types or {}).items():
        guesses[column] = Guess(column, wanted, "you said so", 1.0)
    notes: list[str] = []
    taken = _find_id(found, guesses, id, set(types or {}))
    if taken is None:
        taken = Guess(
            "id" if "id" not in found else "row_id", ID, "no column names each row once: rows are numbered", 0.9
        )
        notes.append(f"no column names each row once: a column {taken.name!r} numbers them")
    else:
        guesses[taken.name] = taken
    if kind is TaskKind.KWAY:
        answer = _find_label(found, guesses, label, set(types or {}), name, ", ".join(rows))
        guesses[answer.name] = answer
        if answer.confidence < 0.8:
            notes.append(f"the label is a guess: {answer.name!r}. Say label=COLUMN if it is another")
    for column, facts in found.items():
        odd = facts.n_filled - facts.n_number
        if guesses[column].role == ColumnType.NUMERIC and odd and facts.stored != "number":
            notes.append(f"{column}: {odd} cells such as {facts.odd!r} are not numbers: empty them, or set dataset.bad_cells=missing")  # fmt: skip
    columns = tuple(Column(g.name, ColumnType(g.role)) for g in guesses.values() if g.role in list(ColumnType))
    if not columns:
        raise DataError(
            name, "no column is left to learn from", found=f"columns {list(found)}", fix="give more columns"
        )
    schema = Schema(
        name, kind, columns, id=taken.name, metric=METRICS[kind][0],
        label=next((g.name for g in guesses.values() if g.role == LABEL), None),
    )  # fmt: skip
    return Proposal(Schema.from_dict(schema.to_dict()), tuple(guesses.values()), tuple(notes))


# --- what is in a column ---------------------------------------------------------------------------------------------


@dataclass
class _Facts:
    """Counts over all rows; the distinct values, or so many of them. ``stored``: what the file's own type says."""

    name: str
    stored: str = "text"  # text, number, truth, moment, picture, other
    n: int = 0
    n_filled: int = 0
    n_number: int = 0
    n_whole: int = 0
    n_code: int = 0
    n_date: int = 0
    n_path: int = 0
    n_there: int = 0
    n_characters: int = 0
    n_words: int = 0
    n_marker: int = 0
    odd: str = ""
    example: str = ""
    values: dict[str, int] = field(default_factory=dict)
    full: bool = False
    unique: bool = False  # within each table: left and right may number their rows alike
    seen: list[np.ndarray] = field(default_factory=list)  # hashes, for the number of distinct values

    @property
    def n_distinct(self) -> int:
        return len(np.unique(np.concatenate(self.seen))) if self.seen else 0

    def merged(self, other: _Facts) -> _Facts:
        """Of two tables. Where they are stored in different ways, text holds both."""
        whole = replace(self, stored=self.stored if self.stored == other.stored else "text", values=dict(self.values))
        for name in ("n", "n_filled", "n_number", "n_whole", "n_code", "n_date", "n_path", "n_there", "n_characters", "n_words", "n_marker"):  # fmt: skip
            setattr(whole, name, getattr(self, name) + getattr(other, name))
        for value, times in other.values.items():
            whole.values[value] = whole.values.get(value, 0) + times
        whole.unique = self.unique and other.unique
        whole.full, whole.seen = self.full or other.full, [*self.seen, *other.seen]
        whole.odd = self.odd or other.odd
        return whole

    def share(self, count: int) -> float:
        return count / self.n_filled if self.n_filled else 0.0

    def add(self, cells: pa.Array, root: Path) -> None:
        self.n += len(cells)
        if self.stored == "picture":
            self.n_filled += sum(bool(image_sources(cell)) for cell in cells.to_pylist())
            return
        text, _ = canonical(cells, ColumnType.CATEGORICAL)
        counted = pc.value_counts(text.drop_null())
        values, times = counted.field("values"), np.asarray(counted.field("counts"))
        if len(values) == 0:
            return
        self.n_filled += int(times.sum())

        def matching(pattern: str) -> int:
            return int(times[np.asarray(pc.match_substring_regex(values, pattern))].sum())

        number = np.asarray(pc.match_substring_regex(values, NUMBER))
        self.n_number += int(times[number].sum())
        self.n_whole += matching(WHOLE)
        self.n_code += matching(CODE)
        if self.n_date == self.n_filled - int(times.sum()):  # every cell so far was a date that mmtab can read
            dates = values.filter(pc.match_substring_regex(values, DATE))
            unread = canonical(dates, ColumnType.DATETIME)[1]
            self.n_date += matching(DATE) - int(times[unread].sum() if len(dates) == len(values) else 0)
        self.n_characters += int((np.asarray(pc.utf8_length(values)) * times).sum())
        self.n_words += int(((np.asarray(pc.count_substring_regex(values, r"\S+"))) * times).sum())
        strings = values.to_pylist()
        for i in np.flatnonzero(~number).tolist():
            if strings[i].strip().lower() in MISSING:
                self.n_marker += int(times[i])
                self.odd = self.odd or strings[i]
            elif len(self.values) > 200 and self.odd:
                break
        self.odd = self.odd or next((strings[i] for i in np.flatnonzero(~number)[:1].tolist()), "")
        self.example = self.example or strings[0]
        paths = np.asarray(pc.match_substring_regex(values, PICTURE))
        self.n_path += int(times[paths].sum())
        for i in np.flatnonzero(paths)[: max(0, MAX_PATHS - self.n_there)].tolist():
            self.n_there += all(_is_there(root, source.path) for source in image_sources(strings[i]))
        self.seen.append(np.unique(hashes(values)))
        if len(self.seen) > 32:
            self.seen = [np.unique(np.concatenate(self.seen))]
        for value, count in zip(strings, times.tolist(), strict=True):
            if value in self.values or len(self.values) < MAX_DISTINCT:
                self.values[value] = self.values.get(value, 0) + count
            else:
                self.full = True


def _is_there(root: Path, path: str | None) -> bool:
    try:
        return path is not None and (root / path).is_file()
    except (OSError, ValueError):
        return False


def _look(path: Path, dataset: str, dialect: files.Dialect, root: Path) -> dict[str, _Facts]:
    header = files.header(path, dataset, dialect)
    facts = {f.name: _Facts(f.name, _stored(f.type)) for f in header}
    for batch in files.scan(path, dataset, encoding=dialect.encoding, delimiter=dialect.delimiter):
        for column in facts.values():
            if column.stored == "bytes":  # whether they are pictures, their first bytes tell
                column.stored = "picture" if _pictures(batch[column.name]) else "bytes"
            column.add(batch[column.name], root)
    for column in facts.values():
        column.unique = column.n_filled == column.n == column.n_distinct
    return facts


def _stored(kind: pa.DataType) -> str:
    if pa.types.is_boolean(kind):
        return "truth"
    if pa.types.is_integer(kind):
        return "whole"
    if pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return "number"
    if pa.types.is_temporal(kind):
        return "moment" if pa.types.is_timestamp(kind) or pa.types.is_date(kind) else "text"
    item = kind.value_type if pa.types.is_list(kind) or pa.types.is_large_list(kind) else kind
    if pa.types.is_struct(item):
        return "picture" if {f.name for f in item} <= {"bytes", "path"} else "other"
    if pa.types.is_binary(item) or pa.types.is_large_binary(item):
        return "bytes"
    return "other" if pa.types.is_nested(kind) else "text"


def _pictures(cells: pa.Array) -> bool:
    magic = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"BM", b"RIFF", b"II*\0", b"MM\0*")
    filled = cells.drop_null().slice(0, 20).to_pylist()
    return bool(filled) and all(isinstance(cell, bytes) and cell.startswith(magic) for cell in filled)


# --- what it is ------------------------------------------------------------------------------------------------------


def _words(name: str) -> set[str]:
    """itemCount, item_count -> {item, count}"""
    return set(re.split(r"[\W_]+", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower())) - {""}


def _guess(facts: _Facts) -> Guess:
    """The type of one column: the first rule that fits, the surest first."""
    name, n, filled = facts.name, facts.n, facts.n_filled

    def guess(role: str, confidence: float, why: str, alternatives: str | None = None) -> Guess:
        gap = f", {1 - filled / n:.0%} missing" if n and filled < n else ""
        return Guess(name, role, why + gap, confidence, alternatives)

    if facts.stored in ("other", "bytes"):
        return guess(IGNORE, 0.9, "stored as lists, structs or bytes that are no pictures")
    if facts.stored == "picture":
        return guess("image", 0.99, f"{filled:,} cells hold pictures")
    if filled == 0:
        return guess(IGNORE, 0.9, "every cell is missing")
    distinct = facts.n_distinct
    few = f"{distinct:,} distinct among {filled:,}"
    if facts.stored == "moment":
        return guess("datetime", 0.99, "stored as dates or times")
    if facts.stored == "truth" or {value.lower() for value in facts.values} <= TRUTHS:
        return guess("categorical", 0.97, f"true or false ({few})")
    if facts.share(facts.n_path) > 0.9 and facts.n_there:
        return guess(
            "image", 0.97, f"{facts.share(facts.n_path):.0%} are paths of pictures, and those looked for exist"
        )
    if facts.share(facts.n_date) == 1.0:
        return guess("datetime", 0.95, f"every cell is a date, such as {facts.example!r}")
    words = _words(name)
    if facts.share(facts.n_number + facts.n_marker) == 1.0 and facts.share(facts.n_number) >= 0.95:
        sure = 0.95 if facts.n_number == filled else 0.7
        if facts.n_code and facts.share(facts.n_code) > 0.01:
            return guess(
                "categorical",
                0.85,
                f"digits with leading zeros, such as {facts.example!r}: codes, not quantities",
                "text",
            )
        if words & CODE_NAMES and facts.n_whole == facts.n_number:
            return guess("categorical", 0.8, f"whole numbers under a name of codes ({few})", "numeric")
        whole = facts.n_whole == facts.n_number
        if whole and facts.stored != "number" and not words & COUNT_NAMES:
            if distinct > 0.98 * filled and filled > 20 and words & ID_NAMES:
                return guess(IGNORE, 0.7, f"whole numbers under a name of keys, {few}", "numeric")
            if distinct == 2 and filled > 20:
                return guess("categorical", 0.75, "two whole numbers only: a yes or no", "numeric")
            if distinct <= 8 and filled > 50 * distinct and _unordered(facts):
                return guess(
                    "categorical", 0.6, f"few whole numbers with no order in how often they come ({few})", "numeric"
                )
        return guess("numeric", sure, f"{facts.share(facts.n_number):.0%} are numbers, {few}")
    length, n_words = facts.n_characters / filled, facts.n_words / filled
    repeated = 1 - distinct / filled
    # A category is said again and again in the same few words; a text seldom, or at length.
    often = filled / max(distinct, 1)
    if length > 60 or n_words > 9:
        if distinct <= 30 and often > 50:
            return guess("categorical", 0.6, f"long, but only {few}", "text")
        return guess("text", 0.95, f"{n_words:.0f} words a cell, {few}")
    if distinct <= max(50, 0.02 * filled) and often >= 2:
        return guess("categorical", 0.95, few)
    if n_words <= 2.5 and repeated > 0.35:
        return guess("categorical", 0.8, f"{n_words:.1f} words a cell, {few}", "text")
    if repeated > 0.75 and n_words <= 5:
        return guess("categorical", 0.7, f"{n_words:.1f} words a cell, {few}", "text")
    return guess("text", 0.85 if n_words > 3 else 0.65, f"{n_words:.1f} words a cell, {few}", "categorical")


def _unordered(facts: _Facts) -> bool:
    """Whether frequencies of whole numbers rise and fall at random, as those of codes do; of quantities they have a slope."""
    if facts.full or len(facts.values) < 3:
        return False
    order = sorted(facts.values, key=float)
    counts = [facts.values[value] for value in order]
    turns = sum((b - a) * (c - b) < 0 for a, b, c in zip(counts, counts[1:], counts[2:], strict=False))
    return turns >= max(2, math.ceil((len(counts) - 2) / 2))


def _find_id(found: dict[str, _Facts], guesses: dict[str, Guess], said: str | None, fixed: set[str]) -> Guess | None:
    if said is not None:
        return Guess(said, ID, "you said so", 1.0)
    best: tuple[float, Guess] | None = None
    for place, (column, facts) in enumerate(found.items()):
        if (
            column in fixed
            or facts.n_filled < facts.n
            or facts.n == 0
            or facts.stored in ("number", "picture", "other")
        ):
            continue
        named = bool(_words(column) & ID_NAMES)
        if not facts.unique or (not named and (place > 0 or guesses[column].role not in ("text", "numeric", IGNORE))):
            continue
        texts = facts.n_words / facts.n
        if not named and (texts > 1.01 or facts.n < 3 or facts.n_number not in (0, facts.n)):
            continue
        if not named and facts.n_number == facts.n and not _counts_rows(facts):
            continue
        score = 2.0 * (column.lower() == "id") + named + (place == 0)
        guess = Guess(column, ID, f"{facts.n:,} cells, all different" + (", and its name says so" if named else ""), 0.95 if named else 0.7)  # fmt: skip
        if best is None or score > best[0]:
            best = score, guess
    return None if best is None else best[1]


def _counts_rows(facts: _Facts) -> bool:
    """Whether whole numbers are those of the rows, from 0 or 1 on without a gap."""
    if facts.n_whole < facts.n or facts.full:
        return facts.n_whole == facts.n
    numbers = sorted(float(value) for value in facts.values)
    return numbers[0] in (0.0, 1.0) and numbers[-1] - numbers[0] == len(numbers) - 1


def _find_label(
    found: dict[str, _Facts], guesses: dict[str, Guess], said: str | None, fixed: set[str], dataset: str, table: str
) -> Guess:
    if said is not None:
        if guesses[said].role == ID:
            raise DataError(dataset, "the id cannot be the label", table=table, column=said, fix="choose another label")
        return Guess(said, LABEL, f"you said so; {found[said].n_distinct:,} classes", 1.0)
    places = list(found)
    best: tuple[float, Guess] | None = None
    for column, facts in found.items():
        distinct = facts.n_distinct
        if column in fixed or guesses[column].role in (ID, IGNORE, "image", "datetime") or not 2 <= distinct <= max(2, min(1000, facts.n_filled // 3)):  # fmt: skip
            continue
        words = _words(column)
        rank = next((i for i, word in enumerate(LABEL_NAMES) if word == column.lower()), None)
        part = next((i for i, word in enumerate(LABEL_NAMES) if word in words), None)
        if rank is None and part is None and guesses[column].role == "numeric":
            continue
        score = (20 - rank if rank is not None else 5 - part / 10 if part is not None else 0) + (column == places[-1]) * 3 + places.index(column) / len(places)  # fmt: skip
        sure = 0.9 if rank == 0 or (rank is not None and column == places[-1]) else 0.7 if rank is not None or (part is not None and column == places[-1]) else 0.4  # fmt: skip
        named = "its name" if rank is not None or part is not None else ""
        where = "it comes last" if column == places[-1] else ""
        why = f"{distinct:,} classes; " + (" and ".join(filter(None, [named, where])) or "nothing better was found")
        if best is None or score > best[0]:
            best = score, Guess(column, LABEL, why, sure)
    if best is None:
        raise DataError(
            dataset, "no column looks like a label", table=table, found=f"columns {places}", fix="say label=COLUMN"
        )
    return best[1]
