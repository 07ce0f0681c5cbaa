"""The one canonical form of a column's cells, whatever the file and the way it was stored.

Text, categories, ids and labels are strings, each value in one spelling (``data.spelling``); a number is a float64; a
moment is a float64 of seconds since 1970 (UTC); an absent cell is null. An empty string is an absent cell, because csv
cannot tell the two apart. So the same data as csv and as parquet gives the same tensors. Every reader of tables passes
its columns through ``canonical``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmtab.data.formats import NUMERIC_DATE, full_year, iso, parsed_moment
from mmtab.data.schema import ColumnType
from mmtab.data.spelling import MOMENT, TEXT, ZONE, is_bytes, is_narrow, is_text, respelt, spelling

DAY_MONTH_YEAR = r"^(\d{1,2})[\s./-]*([^\W\d_]{3,9})[\s.,/-]*(\d\d)(?![\d:])"  # 12-Apr-24
LONGEST = 16 << 20  # bytes of a cell of text: reading more takes minutes and gigabytes
EXPECTED = {
    ColumnType.TEXT: f"text of at most {LONGEST >> 20} MiB",
    ColumnType.CATEGORICAL: f"text of at most {LONGEST >> 20} MiB, a number or true/false",
    ColumnType.NUMERIC: "a number",
    ColumnType.DATETIME: "a date or time, such as 2024-05-18 or 2024-05-18T10:00:00Z",
    ColumnType.IMAGE: "a path, bytes, or a struct of bytes and path",
}


def canonical(values: pa.Array, kind: ColumnType, stored: pa.DataType | None = None) -> tuple[pa.Array, list[int]]:
    """The column in canonical form, and the row numbers of cells that do not fit (null in the result). ``stored``: the
    type of the column's values where it is known, which those of another type are taken for."""
    if kind is ColumnType.NUMERIC:
        return _numbers(values)
    zoned = None if stored is None else has_zone(stored)
    if kind is ColumnType.DATETIME:
        return _moments(values, zoned)
    if kind is ColumnType.IMAGE:
        return _images(values)
    if pa.types.is_nested(values.type) or is_bytes(values.type):
        return pa.nulls(len(values), pa.large_string()), _rows(pc.is_valid(values))
    text = _strings(values, stored)
    bad = pc.fill_null(pc.greater(pc.binary_length(text), LONGEST), False)
    if zoned is not None:
        bad = pc.or_(bad, _with_other_zone(values, zoned))
    return (pc.if_else(bad, pa.scalar(None, TEXT), text), _rows(bad)) if pc.any(bad).as_py() else (text, [])


def expected_of(kind: ColumnType, stored: pa.DataType | None = None) -> str:
    """What ``canonical`` takes, in words."""
    zoned = None if stored is None else has_zone(stored)
    if zoned is None:
        return EXPECTED[kind]
    how = f"{'with' if zoned else 'without'} a time zone as train has"
    return f"{EXPECTED[kind]}, {how}" + (" (pandas: .dt.tz_localize('UTC'))" if zoned else "")


def has_zone(kind: pa.DataType) -> bool | None:
    """Whether moments of a type are those of a time zone; None for other types. One without a zone is taken for UTC,
    so that among moments with zones it would be shifted by hours, and neither is taken for the other."""
    if pa.types.is_timestamp(kind):
        return kind.tz is not None
    return False if pa.types.is_date(kind) else None


def moment_type(cells: pa.Array) -> pa.DataType | None:
    """A type of moments that has a time zone where the first cell of text that is a moment has one; None for none."""
    for text in cells.drop_null().to_pylist():
        if (moment := _moment(text)) is not None:
            return pa.timestamp("us", None if moment.tzinfo is None else "UTC")
    return None


def _with_other_zone(values: pa.Array, zoned: bool) -> pa.Array:
    """[n] bool: moments, also as text, that have a time zone where they should not, or lack it."""
    if (own := has_zone(values.type)) is not None:
        return pc.is_valid(values) if own != zoned else pa.repeat(False, len(values))
    if not is_text(values.type):
        return pa.repeat(False, len(values))
    zones = pc.match_substring_regex(values, ZONE)
    return pc.fill_null(pc.and_(pc.match_substring_regex(values, MOMENT), pc.xor(zones, zoned)), False)


def _strings(values: pa.Array, stored: pa.DataType | None = None) -> pa.Array:
    text = spelling(values)
    if values.type != stored:
        text = respelt(text, stored)
    return pc.if_else(pc.equal(text, ""), pa.scalar(None, TEXT), text)


def _numbers(values: pa.Array) -> tuple[pa.Array, list[int]]:
    if is_bytes(values.type):
        return pa.nulls(len(values), pa.float64()), _rows(pc.is_valid(values))
    if is_narrow(values.type) or pa.types.is_decimal(values.type):
        values = pc.cast(values, pa.string())  # 0.1 stored as float32 or decimal means 0.1, as in csv
    if pa.types.is_boolean(values.type):
        values = pc.cast(values, pa.int8())
    if is_text(values.type):
        return _parse(values, _parse_number, lambda text: pc.cast(text, pa.float64()))
    try:
        return _nan_to_null(pc.cast(values, pa.float64(), safe=False)), []
    except pa.ArrowException:
        return pa.nulls(len(values), pa.float64()), _rows(pc.is_valid(values))


def _moments(values: pa.Array, zoned: bool | None = None) -> tuple[pa.Array, list[int]]:
    """``zoned``: whether they have to have a time zone; None: all the same."""
    if zoned is not None and has_zone(values.type) not in (None, zoned):
        return pa.nulls(len(values), pa.float64()), _rows(pc.is_valid(values))
    if pa.types.is_date(values.type):
        values = pc.cast(values, pa.timestamp("ms"))
    if pa.types.is_timestamp(values.type):
        if values.type.unit == "ns":  # a moment in a csv ends at microseconds
            values = pc.cast(values, pa.timestamp("us", values.type.tz), safe=False)
        ticks = pc.cast(pc.cast(values, pa.int64()), pa.float64(), safe=False)
        return pc.divide(ticks, {"s": 1.0, "ms": 1e3, "us": 1e6}[values.type.unit]), []
    if is_text(values.type):
        return _parse(values, partial(_parse_moment, zoned=zoned), None)
    return pa.nulls(len(values), pa.float64()), _rows(pc.is_valid(values))


def _images(values: pa.Array) -> tuple[pa.Array, list[int]]:
    kind = values.type
    item = kind.value_type if pa.types.is_list(kind) or pa.types.is_large_list(kind) else kind
    if is_text(item) and item is kind:
        return _strings(values), []
    if pa.types.is_struct(item):
        parts = {field.name: field.type for field in item}
        fits = bool({"bytes", "path"} & set(parts))
        fits &= is_bytes(parts.get("bytes", pa.binary())) or pa.types.is_null(parts["bytes"])
        fits &= is_text(parts.get("path", pa.string())) or pa.types.is_null(parts["path"])
    else:
        fits = is_bytes(item) or is_text(item) or pa.types.is_null(item)
    if fits:
        return values, []
    values = _nan_to_null(values) if pa.types.is_floating(item) else values
    return pa.nulls(len(values), pa.string()), _rows(pc.is_valid(values))


@dataclass(frozen=True)
class ImageSource:
    """One picture: embedded bytes, or a path relative to the dataset folder. ``joined``: the text that names this
    picture among others."""

    data: bytes | None
    path: str | None
    joined: str | None = None


def image_sources(cell: object, root: Path | None = None) -> list[ImageSource]:
    """The pictures of one cell, in order; empty for a missing cell. Bytes of which there are none are a damaged
    picture. ``root``: where paths start; a text with ";" that as a whole is a file there is that file."""
    if cell is None:
        return []
    if isinstance(cell, str):
        parts = [part.strip() for part in cell.split(";") if part.strip()]
        if ";" not in cell:
            return [ImageSource(None, part) for part in parts]
        if root is not None and os.path.isfile(os.path.join(root, cell.strip())):  # noqa: PTH113, PTH118
            return [ImageSource(None, cell.strip())]
        return [ImageSource(None, part, cell) for part in parts]
    if isinstance(cell, bytes):
        return [ImageSource(cell, None)]
    if isinstance(cell, dict):
        data, path = cell.get("bytes"), cell.get("path")
        return image_sources(path, root) if data is None or (not data and path) else [ImageSource(data, path)]
    assert isinstance(cell, list), type(cell)
    return [source for item in cell for source in image_sources(item, root)]


def _as_image_structs(values: pa.Array) -> pa.Array:
    """Any image column as lists of {bytes, path}, so that two sides stored differently can be stacked."""
    kind = pa.list_(pa.struct([("bytes", pa.binary()), ("path", pa.string())]))

    def struct(item: Any) -> dict[str, Any]:
        return item if isinstance(item, dict) else {"path" if isinstance(item, str) else "bytes": item}

    lists = ([cell] if isinstance(cell, str | bytes | dict) else cell for cell in values.to_pylist())
    cells = [None if items is None else [struct(item) for item in items if item is not None] for items in lists]
    return pa.array(cells, kind)


def _parse(
    values: pa.Array, parse_one: Callable[[str], float | None], fast: Callable[[pa.Array], pa.Array] | None
) -> tuple[pa.Array, list[int]]:
    text = pc.utf8_trim_whitespace(_strings(values))
    text = pc.if_else(pc.equal(text, ""), pa.scalar(None, text.type), text)
    if fast is not None:
        try:
            return _nan_to_null(fast(text)), []
        except pa.ArrowException:
            pass  # some cell does not fit: find out which
    distinct = text.dictionary_encode()
    parsed = [parse_one(value) for value in distinct.dictionary.to_pylist()]
    numbers = pa.array(parsed, pa.float64()).take(distinct.indices)
    return _nan_to_null(numbers), _rows(pc.and_(pc.is_valid(text), pc.is_null(numbers)))


def _parse_number(text: str) -> float | None:
    if text.lower() in ("true", "false"):  # as in a boolean parquet column
        return float(text.lower() == "true")
    try:
        return pc.cast(pa.scalar(text), pa.float64()).as_py()
    except pa.ArrowException:
        return None


def _parse_moment(text: str, zoned: bool | None) -> float | None:
    moment = _moment(text)
    if moment is None or zoned not in (None, moment.tzinfo is not None):
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _moment(text: str) -> datetime | None:
    try:
        try:
            return datetime.fromisoformat(text)
        except ValueError:
            if match := re.match(NUMERIC_DATE, text):  # day or month first? ``data.formats`` knows, for a whole column
                text = (iso(text, "year first") if len(match[1]) == 4 else None) or ""
            elif match := re.match(DAY_MONTH_YEAR, text):
                text = f"{match[1]} {match[2]} {full_year(match[3])}{text[match.end() :]}"
            moment = parsed_moment(text)
            # Of text that names no year, or with two digits that may be a day, any reading is a guess
            return moment if f"{moment.year:04}" in text else None
    except (ValueError, OverflowError):
        return None


def _nan_to_null(values: pa.Array) -> pa.Array:
    return pc.if_else(pc.is_nan(values), pa.scalar(None, pa.float64()), values)


def _rows(mask: pa.Array) -> list[int]:
    return np.flatnonzero(np.asarray(mask)).tolist()


def first(mask: pa.Array) -> int:
    return _rows(mask)[0]


def join(parts: list[pa.Array], kind: pa.DataType | None = None) -> pa.Array:
    """Arrays end to end as one, where they need be of one kind but for pictures stored in different ways."""
    if len({part.type for part in parts}) > 1:
        parts = [_as_image_structs(part) for part in parts]
    if len(parts) == 1:
        return parts[0]
    return pa.concat_arrays(parts) if parts else pa.array([], kind)


def rounded(values: np.ndarray, kind: pa.DataType) -> np.ndarray:
    """[n] float64: the numbers of a floating-point type that are the nearest to values; its largest for larger ones."""
    dtype = kind.to_pandas_dtype()
    most = float(np.finfo(dtype).max)
    return np.clip(values, -most, most).astype(dtype).astype(np.float64)


def hashes(values: pa.Array) -> np.ndarray:
    """[n] int64 of Python's own hash: the same value, the same hash, within this process."""
    return np.fromiter(map(hash, values.to_pylist()), np.int64, len(values))
