"""One spelling for each value, whatever type or program wrote it, and the way back to values of a type.

true and false; a whole number without a point (3, not 3.0), as far as a float holds it exactly; a decimal without zeros
at its end; a moment in UTC, at midnight as its date alone. Text stays as it is, until it is compared with values that a
column is known to hold: then "True" of pandas and "TRUE" of R are true, "3.0" is 3, and "007" stays "007".
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, time
from decimal import Decimal, InvalidOperation
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc

from mmtab.utils.errors import DataError

WHOLE = 9e18  # whole floats below are written as integers, which int64 holds
# What writers of floats write. 1e5 and 3.10 may be names, for they write 1e+05 and 3.1.
FLOAT = r"^-?(0|[1-9]\d*)(\.0+|\.\d*[1-9])?([eE][+-]\d+)?$"
NUMBER = r"^\s*[+-]?(0|[1-9]\d*)(\.\d*)?([eE][+-]?\d+)?\s*$"  # in a column that is known to hold numbers
MOMENT = r"^\d{4}-\d\d-\d\d[ T]\d\d:\d\d"
ZONE = r"\d(Z|[+-]\d\d(:?\d\d){0,2})\s*$"  # at the end of a MOMENT
CLOCK = r"^\d\d:\d\d:\d\d(\.\d+)?$"
DURATION = r"(-?\d+) days(?: \+?(\d\d):(\d\d):(\d\d)(?:\.(\d+))?)?"
TICKS = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}  # a second
HIDDEN = "[\u00ad\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufe00-\ufe0f\ufeff]"  # they have no width
TEXT = pa.large_string()


def seeming(text: str) -> str:
    """The text without what hides that two are the same to a reader: case, spacing, and characters that do not show."""
    return " ".join(re.sub(HIDDEN, "", unicodedata.normalize("NFKC", text).casefold()).split())


def seeming_same(values: Iterable[str]) -> list[list[str]]:
    """Groups of two and more different values that seem the same."""
    groups = defaultdict[str, list[str]](list)
    for value in values:
        groups[seeming(value)].append(value)
    return [sorted(group) for group in groups.values() if len(group) > 1]


def spelling(values: pa.Array) -> pa.Array:
    """[n] large_string: the values by their type; NaN is null."""
    kind = values.type
    if pa.types.is_floating(kind):
        return _of_floats(values)
    if pa.types.is_decimal(kind):
        return _by_distinct(values, _of_decimal)
    if pa.types.is_duration(kind):
        return _by_distinct(pc.cast(values, pa.int64()), partial(_of_duration, ticks=TICKS[kind.unit]))
    if pa.types.is_timestamp(kind):
        text = pc.cast(pc.cast(values, pa.timestamp(kind.unit)), TEXT)
        return pc.replace_substring_regex(text, r"( 00:00:00)?\.0+$|(\.\d*[1-9])0+$| 00:00:00$", r"\2")
    if pa.types.is_time(kind):
        return _without_zeros(pc.cast(values, TEXT))
    return pc.cast(values, TEXT)


def _without_zeros(text: pa.Array) -> pa.Array:
    return pc.replace_substring_regex(text, r"\.0+$|(\.\d*[1-9])0+$", r"\1")


def _of_floats(values: pa.Array) -> pa.Array:
    if pa.types.is_float16(values.type):
        values = pc.cast(values, pa.float32())
    values = pc.if_else(pc.is_nan(values), pa.scalar(None, values.type), values)
    whole = pc.and_(pc.equal(pc.floor(values), values), pc.less(pc.abs(values), WHOLE))
    if not pc.any(whole).as_py():
        return pc.cast(values, TEXT)
    integers = pc.cast(pc.cast(pc.if_else(whole, values, pa.scalar(None, values.type)), pa.int64()), TEXT)
    return integers if pc.all(whole).as_py() else pc.if_else(whole, integers, pc.cast(values, TEXT))


def _of_decimal(value: Decimal) -> str:
    return f"{value:f}".rstrip("0").rstrip(".") if "." in f"{value:f}" else f"{value:f}"


def _of_duration(value: int, ticks: int) -> str:
    """``ticks``: of a second."""
    days, rest = divmod(value, 86400 * ticks)
    seconds, part = divmod(rest, ticks)
    micros, nanos = divmod(part * (10**9 // ticks), 1000)
    fraction = f".{micros:06}" + (f"{nanos:03}" if nanos else "") if part else ""
    sign = "+" if days < 0 else ""  # as pandas has it: -1 days +23:00:00 is an hour less than nothing
    return f"{days} days {sign}{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}{fraction}"


def _by_distinct(values: pa.Array, spell: Callable[..., str]) -> pa.Array:
    distinct = values.dictionary_encode()
    texts = [None if value is None else spell(value) for value in distinct.dictionary.to_pylist()]
    return pa.array(texts, TEXT).take(distinct.indices)


# --- text that may be a value ----------------------------------------------------------------------------------------


def respelt(text: pa.Array, kind: pa.DataType | None) -> pa.Array:
    """[n] large_string: text of a column that holds values of this type, in their spelling; what is no such value stays
    as it is. ``kind`` None or a type of text: all of it."""
    if kind is None:
        return text
    if pa.types.is_boolean(kind):
        return _where(pc.cast(pc.cast(bits(text), pa.bool_()), TEXT), text)
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        truths = pc.index_in(pc.utf8_lower(text), value_set=pa.array(["false", "true"], TEXT))
        text = _where(pc.cast(truths, TEXT), text)
        if is_narrow(kind):  # of which text may show more digits than they have
            fits = pc.match_substring_regex(text, NUMBER)
            cells = pc.if_else(fits, pc.utf8_trim_whitespace(text), pa.scalar(None, TEXT))
            return _where(_of_floats(pc.cast(pc.cast(cells, pa.float64()), pa.float32())), text)
        return _by_distinct(text, _decimal_of) if pa.types.is_decimal(kind) else _numbers(text, NUMBER)
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return _by_distinct(text, _moment_of)
    if pa.types.is_time(kind):
        return pc.if_else(pc.match_substring_regex(text, CLOCK), _without_zeros(text), text)
    if pa.types.is_duration(kind):
        return _by_distinct(text, partial(_duration_of, ticks=TICKS[kind.unit]))
    return text


def meaning(text: pa.Array) -> pa.Array:
    """[n] large_string: text of a column of any kind, in the spelling of the value that it surely is, or as it is."""
    lower = pc.utf8_lower(text)
    text = pc.if_else(pc.is_in(lower, value_set=pa.array(["false", "true"], TEXT)), lower, text)
    if pc.any(pc.match_substring_regex(text, MOMENT)).as_py():
        text = pc.if_else(pc.match_substring_regex(text, MOMENT), _by_distinct(text, _moment_of), text)
    text = pc.if_else(pc.match_substring_regex(text, CLOCK), _without_zeros(text), text)
    return _numbers(text, FLOAT)


def places_in(values: pa.Array, vocabulary: pa.Array | Sequence[str]) -> pa.Array:
    """[n] int32 place of each string in the vocabulary, null for others: where it is, else where what it means is."""
    known = vocabulary if isinstance(vocabulary, pa.Array) else pa.array(vocabulary, TEXT)
    known, values = pc.cast(known, TEXT), pc.cast(values, TEXT)
    places = pc.index_in(values, value_set=known, skip_nulls=True)
    others = values.filter(pc.and_(pc.is_null(places), pc.is_valid(values))).unique()
    if not len(others) or not len(known):
        return places
    meanings, kind = _typewritten(meaning(known)), _kind_of(known)
    wanted = _typewritten(meaning(others) if kind is None else respelt(others, kind))
    if width := _width_of_codes(known):  # pandas reads 007 of a csv as 7
        digits = pc.match_substring_regex(wanted, r"^\d+$")
        wanted = pc.if_else(digits, pc.utf8_lpad(wanted, width, padding="0"), wanted)
    if kind is not None:
        meanings = respelt(meanings, kind)
    again = pc.index_in(wanted, value_set=meanings, skip_nulls=True)
    return pc.coalesce(places, again.take(pc.index_in(values, value_set=others, skip_nulls=True)))


def _width_of_codes(known: pa.Array) -> int:
    """The digits that all of the text has, some with zeros before; 0 for what is no code of one width."""
    widths = pc.utf8_length(known).unique()
    if len(widths) != 1 or not pc.all(pc.match_substring_regex(known, r"^\d+$")).as_py():
        return 0
    return widths[0].as_py() if pc.any(pc.starts_with(known, "0")).as_py() and widths[0].as_py() > 1 else 0


def _typewritten(text: pa.Array) -> pa.Array:
    """Text without spaces around it and with accents in one form: macOS writes é as two characters."""
    return pc.utf8_normalize(pc.utf8_trim_whitespace(text), "NFC")


def _kind_of(known: pa.Array) -> pa.DataType | None:
    """What all of the text surely is: truths, 0 and 1, or decimals with the same number of places; None for others."""
    lower = pc.utf8_lower(known)
    if pc.all(pc.is_in(lower, value_set=pa.array(["false", "true"], TEXT))).as_py():
        return pa.bool_()
    if pc.all(pc.is_in(known, value_set=pa.array(["0", "1", "0.0", "1.0"], TEXT))).as_py():
        return pa.int64()
    places = pc.subtract(pc.utf8_length(known), pc.find_substring(known, "."))
    fixed = pc.all(pc.match_substring_regex(known, r"^-?(0|[1-9]\d*)\.\d\d+$")).as_py()
    return pa.decimal128(38, 9) if fixed and len(places.unique()) == 1 else None


def _numbers(text: pa.Array, pattern: str) -> pa.Array:
    fits = pc.fill_null(pc.match_substring_regex(text, pattern), False)
    if not pc.any(fits).as_py():
        return text
    trimmed = pc.replace_substring_regex(pc.utf8_trim_whitespace(text), r"^\+|\.0*$", "")
    trimmed = pc.if_else(pc.equal(trimmed, "-0"), "0", trimmed)
    broken = pc.and_(fits, pc.match_substring_regex(trimmed, r"[.eE]"))
    numbers = _of_floats(pc.cast(pc.if_else(broken, trimmed, pa.scalar(None, TEXT)), pa.float64()))
    return pc.if_else(broken, numbers, pc.if_else(fits, trimmed, text))


def _decimal_of(text: str) -> str:
    try:
        return _of_decimal(Decimal(text.strip())) if re.match(NUMBER, text) else text
    except InvalidOperation:
        return text


def _moment_of(text: str) -> str:
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError:
        return text
    moment = moment.astimezone(UTC).replace(tzinfo=None) if moment.tzinfo else moment
    written = spelling(pa.array([moment], pa.timestamp("us")))[0].as_py()
    nanos = re.search(r"\.\d{6}(\d{1,3})", text)  # which datetime cuts off
    if nanos is None or not nanos[1].strip("0"):
        return written
    whole = written if " " in written else f"{written} 00:00:00"
    return f"{whole.partition('.')[0]}.{moment.microsecond:06}{nanos[1].rstrip('0')}"


def _nanoseconds(text: str) -> int | None:
    match = re.fullmatch(DURATION, text)
    if match is None:
        return None
    days, hours, minutes, seconds = (int(group or 0) for group in match.groups()[:4])
    whole = ((days * 24 + hours) * 60 + minutes) * 60 + seconds
    return whole * 10**9 + int((match[5] or "")[:9].ljust(9, "0"))


def _duration_of(text: str, ticks: int) -> str:
    """As pandas writes it, or as Arrow does: a whole number of ticks, of which a second has so many."""
    if re.fullmatch(r"-?\d+", text):
        return _of_duration(int(text), ticks)
    value = _nanoseconds(text)
    return text if value is None else _of_duration(value, 10**9)


def _where(values: pa.Array, otherwise: pa.Array) -> pa.Array:
    return pc.if_else(pc.is_valid(values), values, otherwise)


def bits(names: pa.Array) -> pa.Array:
    """[n] int8: the labels 0 and 1 as csv and parquet may write them; null where it is something else."""
    spellings = pa.array(["0", "1", "false", "true", "0.0", "1.0"], TEXT)
    place = pc.index_in(pc.utf8_lower(pc.cast(names, TEXT)), value_set=spellings)
    return pc.cast(pc.bit_wise_and(place, 1), pa.int8())


# --- and back --------------------------------------------------------------------------------------------------------


def keeps_its_type(kind: pa.DataType) -> bool:
    """Whether values of the type can be had back from their spelling; text needs no way back."""
    of = (pa.types.is_boolean, pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal, pa.types.is_temporal)
    return any(fits(kind) for fits in of) and not pa.types.is_interval(kind)


def is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def is_bytes(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def is_narrow(kind: pa.DataType) -> bool:
    """Whether it holds numbers with fewer digits than float64."""
    return bool(pa.types.is_float16(kind) or pa.types.is_float32(kind))


def typed(text: pa.Array, *kinds: pa.DataType | None) -> pa.Array:
    """The values that are spelt so, in the first of the types that holds all of them; text where there is none."""
    for kind in kinds:
        if kind is None or not keeps_its_type(kind):
            continue
        try:
            values = pc.cast(_parsed(text, kind), kind)
        except (pa.ArrowException, ValueError, OverflowError):
            continue
        if spelling(values).equals(pc.cast(text, TEXT)):
            return values
    return text


def _parsed(text: pa.Array, kind: pa.DataType) -> pa.Array:
    """The values in a type that can be cast into theirs."""
    if pa.types.is_timestamp(kind):
        return pc.cast(text, pa.timestamp(kind.unit))
    if pa.types.is_duration(kind):
        values = (None if cell is None else _nanoseconds(cell) for cell in text.to_pylist())
        unit = 10**9 // TICKS[kind.unit]
        return pa.array([None if value is None else value // unit for value in values], pa.int64())
    if pa.types.is_time(kind):
        return pa.array([None if cell is None else time.fromisoformat(cell) for cell in text.to_pylist()])
    return pc.cast(text, kind)


def as_given(text: pa.Array, given: pa.DataType, known: pa.DataType | None) -> pa.Array:
    """The values that are spelt so, in the type they were given in; where this says nothing of them, or is that of
    integers with gaps, in the type that they are known to have."""
    gaps = known is not None and pa.types.is_integer(known) and pa.types.is_floating(given)
    return typed(text, *((given, known) if keeps_its_type(given) and not gaps else (known, given)))


def type_named(text: str, dataset: str, column: str) -> pa.DataType:
    """An Arrow type from how it prints; raises DataError for what is none."""
    if match := re.fullmatch(r"timestamp\[(\w+), tz=([^\]]+)\]", text):
        return pa.timestamp(match[1], match[2])
    if match := re.fullmatch(r"decimal(32|64|128|256)\((\d+), (-?\d+)\)", text):
        return getattr(pa, f"decimal{match[1]}")(int(match[2]), int(match[3]))
    try:
        return pa.type_for_alias(text)
    except ValueError as error:
        raise DataError(dataset, f"dataset.yaml: storage {text!r} is no type of Arrow", column=column) from error
