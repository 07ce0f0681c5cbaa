"""How a raw table writes the numbers and dates of a column: ``1.234,5 €``, ``13.01.2021``. The standard has 1234.5 and
2021-01-13.

One format holds for a whole column, because a cell alone may be read in several ways (1,234; 03/04/2021). It is found
in all cells of the training tables, is kept in the schema, and rewrites the cells of every raw table that is read.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import date, datetime, timedelta, timezone
from functools import partial

import pyarrow as pa

from mmtab.data.schema import ColumnType, Schema
from mmtab.data.spelling import is_text
from mmtab.utils.errors import DataError

ORDERS = {"month first": "mdy", "day first": "dmy", "year first": "ymd"}  # what a date of three numbers begins with
_SPACE, _APOSTROPHE = "[ \u00a0\u202f\u2009]", "['’]"


def _style(thousands: str, point: str) -> str:
    grouped = rf"[1-9]\d{{0,2}}({thousands}\d{{3}})+|" if thousands else ""
    return rf"({grouped}0|[1-9]\d*)({point}\d+)?|{point}\d+"


# By an example: what separates thousands, and what the fraction. Numbers with leading zeros are codes
STYLES = {
    "1234.5": _style("", r"\."),
    "1,234.5": _style(",", r"\."),
    "1.234,5": _style(r"\.", ","),
    "1 234.5": _style(_SPACE, r"\."),
    "1 234,5": _style(_SPACE, ","),
    "1'234.5": _style(_APOSTROPHE, r"\."),
}
# $1,299.00; SR 1,395; 12 kg; 5,0 °C: a currency before or a unit behind the number
AMOUNT = (
    r"^\s*[+−-]?\s*(?:(?P<prefix>[^\w\s.,+−()-]|[A-Z]{1,3}[^\w\s.,+−()-]|[A-Z]{2,3} |Rs\.? ?)\s*[+−-]?)?\s*"
    rf"(?P<number>\d{{1,3}}(?:(?:[.,'’]|{_SPACE})\d{{3}})+(?:[.,]\d+)?|\d*[.,]?\d+)\s*"
    r"(?P<suffix>[^\d\s.,+−()-][^\d.,+−()-]{0,11}?)?\s*$"
)
POINTED = r"\s*[+−-]?\d+\.\d+\s*"
NUMERIC_DATE = r"^\s*(\d{1,4})\s?[-/.]\s?(\d{1,2})\s?[-/.]\s?(\d{1,4})(?:[T,\s]+(\S.*))?\s*$"


def style_of(written: str) -> str:
    """What columns of one table have in common: the order of dates, or the separators of numbers."""
    return next((style for style in STYLES if style in written), written)


def check_format(dataset: str, column: str, kind: ColumnType | None, written: object) -> None:
    """Raises DataError for what is no format of such a column."""
    choices = ORDERS if kind is ColumnType.DATETIME else STYLES if kind is ColumnType.NUMERIC else ()
    if not choices or not isinstance(written, str) or style_of(written) not in choices:
        expected = " or ".join(map(repr, choices)) + (", with a unit" if choices is STYLES else "")
        raise DataError(
            dataset,
            "no such format" if choices else "a format is for numbers and dates",
            column=column,
            expected=expected or "a numeric or datetime column",
            found=written,
            fix="correct formats",
        )


def standard(cells: pa.Array, kind: ColumnType, written: str | None) -> pa.Array:
    """The cells as the standard writes them; those that do not fit the format stay, and so do stored numbers and
    dates."""
    if not written or not is_text(cells.type):
        return cells
    if kind is ColumnType.NUMERIC:
        read: Callable[[str], str | None] = _number_reader(written)
    else:
        read = partial(iso, order=written)
    distinct = cells.dictionary_encode()
    texts = [read(text) or text for text in distinct.dictionary.to_pylist()]
    return pa.array(texts, cells.type).take(distinct.indices)


def standard_batch(batch: pa.RecordBatch, schema: Schema) -> pa.RecordBatch:
    """A batch of a raw table, with the cells of columns that have a format as the standard writes them. Raises
    DataError where a column has cells that fit its format by what others, which do not fit it, have as their point."""
    columns = {column.name: column.type for column in schema.columns} | {schema.label: schema.label_type}
    kinds = {name: kind for name, kind in columns.items() if name in schema.formats}
    for name in kinds.keys() & set(batch.schema.names):
        _check_points(batch[name], schema, name)
    cells = {
        name: standard(batch[name], kinds[name], schema.formats[name]) if name in kinds else batch[name]
        for name in batch.schema.names
    }
    return pa.record_batch(list(cells.values()), names=list(cells))


def _check_points(cells: pa.Array, schema: Schema, name: str) -> None:
    """113.513 is 113513 in the format 1.234,5, in which 113.5 is nothing: both in one column were written otherwise."""
    written = schema.formats[name]
    if style_of(written) != "1.234,5" or not is_text(cells.type):
        return
    read = _number_reader(written)
    texts = [text for text in cells.unique().to_pylist() if text is not None and re.fullmatch(POINTED, text)]
    thousands, pointed = (next((t for t in texts if (read(t) is not None) == fits), None) for fits in (True, False))
    if thousands is not None and pointed is not None:
        problem = f"the format of train, {written}, reads {thousands} as {read(thousands)}, and does not fit {pointed}"
        fix = "write all numbers of the column as train has them, or give them as numbers"
        raise DataError(
            schema.name, problem, column=name, expected=f"numbers such as {written}", found=pointed, fix=fix
        )


def _number_reader(written: str) -> Callable[[str], str | None]:
    style = style_of(written)
    prefix, suffix = (re.escape(part.strip()) for part in written.split(style, 1))
    pattern = re.compile(rf"\s*(?:{prefix})?\s*([+−-]?)\s*(?:{prefix})?\s*({STYLES[style]})\s*(?:{suffix})?\s*", re.I)

    def read(text: str) -> str | None:
        match = pattern.fullmatch(text)
        if match is None:
            return None
        digits = re.sub(r"[^\d,]" if style.endswith(",5") else r"[^\d.]", "", match[2])
        return match[1].replace("−", "-") + digits.replace(",", ".")

    return read


def parsed_moment(text: str) -> datetime:
    """Of text in any usual form; what it leaves open is midnight, and the first of January 2000. Raises ValueError for
    what is no moment, and for a time zone by a name, such as EST, which stands for several."""
    from dateutil import parser

    def zone(name: str | None, offset: int | None) -> timezone | None:
        if name is not None and offset is None:
            raise ValueError(f"{name} is no certain time zone")
        return None if offset is None else timezone(timedelta(seconds=offset))

    # A fixed default, else dateutil fills absent parts from the clock and a run depends on its day.
    return parser.parse(text, default=datetime(2000, 1, 1), tzinfos=zone)


def full_year(digits: str) -> int:
    """Of two digits, as POSIX has it: from 69 on of the last century."""
    return int(digits) + (0 if len(digits) > 2 else 2000 if int(digits) < 69 else 1900)


def iso(text: str, order: str) -> str | None:
    """A date of three numbers in this order as ISO 8601; None for any other text, and for a day that never was."""
    match = re.match(NUMERIC_DATE, text)
    if match is None:
        return None
    order = "ymd" if len(match[1]) > 2 else ORDERS[order]
    parts = dict(zip(order, match.groups()[:3], strict=True))
    if len(parts["y"]) not in (2, 4) or max(len(parts["m"]), len(parts["d"])) > 2:
        return None
    try:
        day = date(full_year(parts["y"]), int(parts["m"]), int(parts["d"])).isoformat()
        if not match[4]:
            return day
        try:  # dateutil is slow
            return datetime.fromisoformat(f"{day} {match[4].strip()}").isoformat()
        except ValueError:
            return parsed_moment(f"{day} {match[4]}").isoformat()
    except (ValueError, OverflowError):
        return None
