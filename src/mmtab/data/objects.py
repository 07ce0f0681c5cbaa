"""Tables that callers hold in memory, as Arrow tables: frames of pandas and polars, datasets of Hugging Face, lists and
dicts. What Arrow would hold only in part is refused."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmtab.data import files
from mmtab.utils.errors import DataError, one_line

Wanted = Callable[[str], bool]  # whether a column is of use
SPLITS = {"train": "train", "valid": "valid", "test": "test"}  # what people call them, and the standard
SPLITS |= {"val": "valid", "validation": "valid", "dev": "valid"}


def as_table(source: Any, dataset: str, table: str, wanted: Wanted = lambda column: True) -> pa.Table:
    """What holds a table in memory. Raises DataError for what does not, and for a column that mixes kinds of values;
    columns that are not ``wanted`` are not looked at."""
    rows = _with_columns(source)
    keys = list(_keys(rows))
    if not keys or hasattr(rows, "collect"):
        shape = getattr(source, "shape", None)
        raise DataError(
            dataset,
            "this is no table",
            table=table,
            expected="a frame of pandas or polars, an Arrow table, a Hugging Face dataset, a dict of columns, "
            "a list of dicts, or a path",
            found=f"{type(source).__module__}.{type(source).__name__}{f' of shape {shape}' if shape else ''}",
            fix="call .collect()" if hasattr(rows, "collect") else "name its columns: pandas.DataFrame(…, columns=[…])",
        )
    names = [str(key) for key in keys]
    files.check_names(names, table, dataset)
    keys = [key for key, name in zip(keys, names, strict=True) if wanted(name)]
    if not keys:
        problem = "the table has none of the columns that are read"
        raise DataError(dataset, problem, table=table, found=f"columns {names}", fix="name its columns as train did")
    names = [str(key) for key in keys]
    if isinstance(rows, list):
        return from_columns(names, [[row.get(key) for row in rows] for key in keys], dataset, table)
    columns = [rows[key] for key in keys]
    sizes = [len(cells) if hasattr(cells, "__len__") and not isinstance(cells, str) else None for cells in columns]
    if len(set(sizes)) > 1 or None in sizes:
        shown = zip(names, sizes, strict=True)
        found = ", ".join(f"{name}: {'no list' if size is None else f'{size} cells'}" for name, size in shown)
        raise DataError(dataset, "columns of different lengths", table=table, found=found, fix="give each row a cell")
    return from_columns(names, columns, dataset, table)


def rows_in(source: Any) -> Any:
    """What holds the columns of a table in memory, for ``as_table``; None for what has no columns, such as an array."""
    rows = _with_columns(source)
    return rows if list(_keys(rows)) else None


def splits_in(source: Any) -> dict[str, Any] | None:
    """The tables of a DatasetDict of Hugging Face, under the names of the standard; None for anything else."""
    if not isinstance(source, Mapping) or not source or not all(map(_is_hugging_face, source.values())):
        return None
    return {SPLITS.get(str(name), str(name)): table for name, table in source.items()}


def _is_hugging_face(source: Any) -> bool:
    """A dataset of their ``datasets``, recognised without importing it; not one that is streamed."""
    return all(hasattr(source, name) for name in ("features", "with_format", "column_names", "__len__"))


def _with_columns(source: Any) -> Any:
    """Tables of other libraries as those whose columns can be taken one by one."""
    library = type(source).__module__.partition(".")[0]
    if _is_hugging_face(source):
        return _named_classes(source.with_format("arrow")[:], source.features)
    if library == "polars" and hasattr(source, "collect"):
        return source.collect()
    if hasattr(source, "to_arrow") and not hasattr(source, "columns"):
        return source.to_arrow()
    if hasattr(source, "__arrow_c_stream__") and library not in ("pandas", "polars"):
        return source if isinstance(source, pa.Table) else pa.table(source)
    return source


def _named_classes(table: pa.Table, features: Mapping[str, Any]) -> pa.Table:
    """Columns of class numbers with the names of the classes; -1 is a missing one."""
    for i, name in enumerate(table.column_names):
        names = getattr(features[name], "names", None)
        if names and pa.types.is_integer(table.schema.types[i]):
            number = table[name].cast(pa.int64())
            number = pc.if_else(pc.less(number, 0), pa.scalar(None, pa.int64()), number)
            table = table.set_column(i, name, pa.array(names, pa.string()).take(number))
    return table


def _keys(rows: Any) -> Iterable[Any]:
    """What its columns are called; nothing for what is no table."""
    if isinstance(rows, pa.Table | pa.RecordBatch):
        return rows.schema.names
    if isinstance(rows, list) and all(isinstance(row, Mapping) for row in rows):
        return dict.fromkeys(name for row in rows for name in row)
    if isinstance(rows, Mapping):
        return rows
    names = getattr(rows, "columns", getattr(getattr(rows, "dtype", None), "names", None))
    return [] if names is None or callable(names) else list(names)


def from_dicts(rows: list[dict[str, Any]], dataset: str, table: str, mixed: bool = False) -> pa.Table:
    """Rows as dicts; a key that a row lacks is a missing cell."""
    names = list(dict.fromkeys(str(name) for row in rows for name in row))
    files.check_names(names, table, dataset)  # before rows x names cells are made
    rows = [{str(name): cell for name, cell in row.items()} for row in rows]
    return from_columns(names, [[row.get(name) for row in rows] for name in names], dataset, table, mixed)


def from_columns(names: list[str], columns: Any, dataset: str, table: str, mixed: bool = False) -> pa.Table:
    """Column by column, to name the one that mixes what Arrow cannot hold together; with ``mixed`` that is text."""
    if not names:
        raise DataError(dataset, "the table is empty", table=table, fix="give it columns, and at least one row")
    arrays = []
    for name, values in zip(names, columns, strict=True):
        try:
            arrays.append(_arrow(values))
        except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
            if mixed:
                arrays.append(pa.array([None if cell is None else str(cell) for cell in values], pa.string()))
                continue
            kinds = _kinds(values)
            if convert := CONVERSIONS.get(kinds[0]) if len(kinds) == 1 else None:
                with contextlib.suppress(pa.ArrowException, ValueError, OverflowError):
                    arrays.append(pa.array([None if _absent(cell) else convert(cell) for cell in values]))
                    continue
            several = len(kinds) > 1
            raise DataError(
                dataset,
                "the column mixes kinds of values" if several else f"cells that no table holds ({one_line(error)})",
                table=table,
                column=name,
                expected="one kind" if several else "text, numbers, truths, dates or pictures",
                found=", ".join(kinds),
                fix="make it one kind, for instance with .astype(str)" if several else "convert or drop the column",
            ) from error
    files.check_names(names, table, dataset)
    return pa.table(arrays, names=names)


def _picture_file(picture: Any) -> bytes:
    if not hasattr(picture, "save"):
        raise ValueError(f"{type(picture).__name__} is no picture")
    stream = io.BytesIO()
    picture.save(stream, "PNG" if picture.mode in ("1", "L", "LA", "P", "RGB", "RGBA") else "TIFF")
    return stream.getvalue()


ZONED = " with a time zone"
AS_TEXT = ("pathlib", ".Period", ".Interval", "uuid.UUID")  # cells that ``_arrow`` and ``CONVERSIONS`` make text of
# Of cells that Arrow does not know, by the library of their type and its name
CONVERSIONS: dict[str, Callable[[Any], Any]] = {
    "pathlib": str,
    "PIL": _picture_file,
    "list": lambda cell: [_picture_file(picture) for picture in cell],
    "decimal.Decimal": float,  # infinite ones; others it knows
    "int": Decimal,  # beyond 64 bits
    "numpy.datetime64": lambda cell: cell.astype("datetime64[us]").item(),
}


def _kinds(values: Any) -> list[str]:
    """What its cells are, each as CONVERSIONS calls it."""
    kinds = {(type(cell), getattr(cell, "tzinfo", None) is not None) for cell in values if not _absent(cell)}
    names = (f"{kind.__module__}.{kind.__name__}{ZONED if zoned else ''}" for kind, zoned in kinds)
    shown = {name.removeprefix("builtins.") for name in names}
    return sorted({next((n for n in ("pathlib", "PIL") if name.startswith(f"{n}.")), name) for name in shown})


def _absent(cell: Any) -> bool:
    missing = cell is None or type(cell).__name__ in ("NAType", "NaTType")  # of pandas
    return missing or (isinstance(cell, float | np.datetime64) and bool(cell != cell))


def _arrow(values: Any) -> pa.Array | pa.ChunkedArray:
    """Values that only their own library knows, such as intervals and periods of pandas, are text as it writes them.
    Raises ValueError for cells that Arrow would hold with a part of them left out."""
    if hasattr(values, "to_arrow"):
        values = values.to_arrow()
    if hasattr(values, "sparse"):
        values = values.sparse.to_dense()
    arrow = isinstance(values, pa.Array | pa.ChunkedArray)
    column = values if arrow else _exact(values, pa.array(values, from_pandas=True))
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if pa.types.is_interval(kind):
        raise ValueError(f"{kind} has months of any length")
    if not isinstance(kind, pa.ExtensionType) or isinstance(kind, pa.UuidType):
        return column
    own = pa.chunked_array(column).to_pandas() if arrow else values
    return pa.array([None if absent else str(v) for v, absent in zip(own, own.isna(), strict=True)], pa.string())


def _exact(values: Any, column: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """What Arrow made of objects, if nothing is lost that tells them apart: a date beside moments would cut these, a
    zone that only some have would shift the others, True would be 1. Raises ValueError otherwise."""
    kind = column.type
    plain = str(getattr(values, "dtype", "object")) != "object"
    if plain or not (pa.types.is_temporal(kind) or pa.types.is_floating(kind)):
        return column
    names = _kinds(values)
    zoned = [name for name in names if name.endswith(ZONED)]
    if 0 < len(zoned) < len(names) or (len(names) > 1 and {"datetime.date", "bool", "numpy.bool"} & {*names}):
        raise ValueError("several kinds")
    if zoned and pa.types.is_time(kind):
        raise ValueError("a time of day with a time zone")
    fine = pa.timestamp("ns", kind.tz) if pa.types.is_timestamp(kind) else pa.duration("ns")
    if any(getattr(cell, "nanosecond", 0) or getattr(cell, "nanoseconds", 0) for cell in values):  # of pandas
        return pa.array(values, fine, from_pandas=True)
    return column


def check_label(source: Any, column: str | None, dataset: str, table: str) -> None:
    """Raise DataError for labels in memory that a table holds as text though they are none, such as periods of pandas:
    predictions would be text."""
    rows: Any = [] if isinstance(source, str | Path) else _with_columns(source)
    key = next((key for key in _keys(rows) if str(key) == column), None)
    if key is None:
        return
    cells = [row.get(key) for row in rows] if isinstance(rows, list) else rows[key]
    kinds = _kinds(cells.to_pylist() if isinstance(cells, pa.Array | pa.ChunkedArray) else cells)
    if odd := [kind for kind in kinds if kind.endswith(AS_TEXT)]:
        raise DataError(
            dataset,
            "labels of a kind that no table holds, so that predictions would be text",
            table=table,
            column=column,
            expected="text, numbers, truths, dates or times",
            found=", ".join(odd),
            fix="convert them, for instance with .astype(str), or periods with .dt.to_timestamp()",
        )
