"""The one canonical form of a column's cells, whatever the file and the way it was stored.

Text, categories, ids and labels are strings, each value in one spelling (``data.spelling``); a number is a float64; a
moment is a float64 of seconds since 1970 (UTC); an absent cell is null. An empty string is an absent cell, because csv
cannot tell the two apart. So the same data as csv and as parquet gives the same tensors. Every reader of tables passes
its columns through ``canonical``.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmtab.data.formats import NUMERIC_DATE, iso
from mmtab.data.schema import ColumnType
from mmtab.data.spelling import TEXT, respelt, spelling

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
    if kind is ColumnType.DATETIME:
        return _moments(values)
    if kind is ColumnType.IMAGE:
        return _images(values)
    if pa.types.is_nested(values.type) or _is_bytes(values.type):
        return pa.nulls(len(values), pa.large_string()), _rows(pc.is_valid(values))
    text = _strings(values, stored)
    long = pc.greater(pc.binary_length(text), LONGEST)
    return (pc.if_else(long, pa.scalar(None, TEXT), text), _rows(long)) if pc.any(long).as_py() else (text, [])


def _strings(values: pa.Array, stored: pa.DataType | None = None) -> pa.Array:
    text = spelling(values)
    if values.type != stored:
        text = respelt(text, stored)
    return pc.if_else(pc.equal(text, ""), pa.scalar(None, TEXT), text)


def _numbers(values: pa.Array) -> tuple[pa.Array, list[int]]:
    if pa.types.is_floating(values.type) and values.type != pa.float64():
        values = pc.cast(values, pa.string())  # 0.1 stored as float32 means 0.1, as in csv
    if pa.types.is_boolean(values.type):
        values = pc.cast(values, pa.int8())
    if _is_text(values.type):
        return _parse(values, _parse_number, lambda text: pc.cast(text, pa.float64()))
    try:
        return _nan_to_null(pc.cast(values, pa.float64(), safe=False)), []
    except pa.ArrowException:
        return pa.nulls(len(values), pa.float64()), _rows(pc.is_valid(values))


def _moments(values: pa.Array) -> tuple[pa.Array, list[int]]:
    if pa.types.is_date(values.type):
        values = pc.cast(values, pa.timestamp("ms"))
    if pa.types.is_timestamp(values.type):
        if values.type.unit == "ns":  # a moment in a csv ends at microseconds
            values = pc.cast(values, pa.timestamp("us", values.type.tz), safe=False)
        ticks = pc.cast(pc.cast(values, pa.int64()), pa.float64(), safe=False)
        return pc.divide(ticks, {"s": 1.0, "ms": 1e3, "us": 1e6}[values.type.unit]), []
    if _is_text(values.type):
        return _parse(values, _parse_moment, None)
    return pa.nulls(len(values), pa.float64()), _rows(pc.is_valid(values))


def _images(values: pa.Array) -> tuple[pa.Array, list[int]]:
    kind = values.type
    item = kind.value_type if pa.types.is_list(kind) or pa.types.is_large_list(kind) else kind
    if _is_text(item) and item is kind:
        return _strings(values), []
    if pa.types.is_struct(item):
        parts = {field.name: field.type for field in item}
        fits = bool({"bytes", "path"} & set(parts))
        fits &= _is_bytes(parts.get("bytes", pa.binary())) or pa.types.is_null(parts["bytes"])
        fits &= _is_text(parts.get("path", pa.string())) or pa.types.is_null(parts["path"])
    else:
        fits = _is_bytes(item) or _is_text(item) or pa.types.is_null(item)
    if fits:
        return values, []
    values = _nan_to_null(values) if pa.types.is_floating(item) else values
    return pa.nulls(len(values), pa.string()), _rows(pc.is_valid(values))


@dataclass(frozen=True)
class ImageSource:
    """One picture: embedded bytes, or a path relative to the dataset folder."""

    data: bytes | None
    path: str | None


def image_sources(cell: object) -> list[ImageSource]:
    """The pictures of one cell, in order; empty for a missing cell."""
    if cell is None:
        return []
    if isinstance(cell, str):
        return [ImageSource(None, part.strip()) for part in cell.split(";") if part.strip()]
    if isinstance(cell, bytes):
        return [ImageSource(cell, None)] if cell else []
    if isinstance(cell, dict):
        if cell.get("bytes"):
            return [ImageSource(cell["bytes"], cell.get("path"))]
        return image_sources(cell.get("path"))
    assert isinstance(cell, list), type(cell)
    return [source for item in cell for source in image_sources(item)]


def _as_image_structs(values: pa.Array) -> pa.Array:
    """Any image column as lists of {bytes, path}, so that two sides stored differently can be stacked."""
    kind = pa.list_(pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    return pa.array(
        [
            None if cell is None else [{"bytes": s.data, "path": s.path} for s in image_sources(cell)]
            for cell in values.to_pylist()
        ],
        kind,
    )


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


def _parse_moment(text: str) -> float | None:
    from dateutil import parser

    try:
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            if re.match(NUMERIC_DATE, text):  # day or month first? ``data.formats`` knows, for a whole column
                text = iso(text, "year first") or ""
            # A fixed default, else dateutil fills absent parts from the clock and a run depends on its day.
            moment = parser.parse(text, default=datetime(2000, 1, 1))
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None


def _nan_to_null(values: pa.Array) -> pa.Array:
    return pc.if_else(pc.is_nan(values), pa.scalar(None, pa.float64()), values)


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _is_bytes(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


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


def hashes(values: pa.Array) -> np.ndarray:
    """[n] int64 of Python's own hash: the same value, the same hash, within this process."""
    return np.fromiter(map(hash, values.to_pylist()), np.int64, len(values))
