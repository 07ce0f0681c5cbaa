"""Tables of a dataset folder, read from parquet or csv into one canonical form and checked against the schema.

Canonical means: whatever the file format, a text, categorical, id or label cell is a string, a number is a float64,
a moment is a float64 of seconds since 1970 (UTC), and an absent cell is null. An empty string is an absent cell,
because csv cannot tell the two apart. So the same data as csv and as parquet gives the same tensors.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from mmtab.errors import DataError
from mmtab.schema import ColumnType, Schema, TaskKind

FORMATS = (".parquet", ".csv")
BadCells = Literal["error", "missing"]


@dataclass(frozen=True)
class Table:
    """Rows with their features; ``labels`` is None where the file has none."""

    dataset: str
    name: str
    folder: Path
    ids: pa.Array
    columns: dict[str, pa.Array]
    labels: pa.Array | None = None
    n_bad_cells: int = 0

    def __len__(self) -> int:
        return len(self.ids)

    def error(self, problem: str, *, row: int | None = None, **where: object) -> DataError:
        """A DataError placed in this table; ``row`` is the index from 0."""
        if row is not None:
            where |= {"row": row + 1, "row_id": self.ids[row].as_py()}
        return DataError(self.dataset, problem, table=self.name, **where)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Pairs:
    """Pairs as row numbers into ``Records.table``; labels are 1 match, 0 not."""

    name: str
    left: np.ndarray  # [n] int64
    right: np.ndarray  # [n] int64
    left_ids: pa.Array
    right_ids: pa.Array
    labels: pa.Array | None  # int8

    def __len__(self) -> int:
        return len(self.left)


@dataclass(frozen=True)
class Records:
    """The rows that pairs speak of: ``left`` and ``right`` stacked, or the one ``records`` table."""

    table: Table
    n_left: int | None  # None: one table, either side

    def row_of(self, ids: pa.Array, side: str) -> pa.Array:
        """Row numbers of ids on one side ("left" or "right"), null where the id is unknown."""
        start, stop = 0, len(self.table)
        if self.n_left is not None:
            start, stop = (0, self.n_left) if side == "left" else (self.n_left, stop)
        found = pc.index_in(ids, value_set=self.table.ids.slice(start, stop - start))
        return pc.add(pc.cast(found, pa.int64()), start)


def read_split(folder: Path, schema: Schema, split: str, bad_cells: BadCells = "error") -> Table:
    """One split of a k-way dataset."""
    return read_table(find_table(folder, schema, split), schema, folder=folder, bad_cells=bad_cells)


def read_records(folder: Path, schema: Schema, bad_cells: BadCells = "error") -> Records:
    """The record table(s) of a matching dataset."""
    if any((folder / f"records{suffix}").exists() for suffix in FORMATS):
        return Records(read_split(folder, schema, "records", bad_cells), None)
    sides = [_read_side(folder, schema, side, bad_cells) for side in ("left", "right")]
    unseen = [c.name for c in schema.columns if not any(c.name in side.columns for side in sides)]
    if unseen:
        raise DataError(schema.name, "column of dataset.yaml is in neither left nor right", column=unseen[0])
    return stack_sides(sides[0], sides[1], schema)


def stack_sides(left: Table, right: Table, schema: Schema) -> Records:
    """Left rows over right rows. A column that one side lacks is missing in all rows of that side."""
    columns: dict[str, pa.Array] = {}
    for column in schema.columns:
        parts = [side.columns.get(column.name) for side in (left, right)]
        kind = next((part.type for part in parts if part is not None), pa.null())
        if column.type is ColumnType.IMAGE and len({part.type for part in parts if part is not None}) > 1:
            parts = [part if part is None else _as_image_structs(part) for part in parts]
            kind = next(part.type for part in parts if part is not None)
        filled = [
            part if part is not None else pa.nulls(len(side), kind)
            for part, side in zip(parts, (left, right), strict=True)
        ]
        columns[column.name] = _one_chunk(pa.chunked_array(filled))
    ids = _one_chunk(pa.chunked_array([left.ids, right.ids]))
    table = Table(
        schema.name, "left+right", left.folder, ids, columns, n_bad_cells=left.n_bad_cells + right.n_bad_cells
    )
    return Records(table, len(left))


def read_pairs(folder: Path, schema: Schema, split: str, records: Records) -> Pairs:
    """``pairs_<split>`` with both ids found in the records."""
    return read_pairs_file(find_table(folder, schema, f"pairs_{split}"), schema, records)


def read_pairs_file(path: Path, schema: Schema, records: Records) -> Pairs:
    """Read left_id, right_id and, where present, label; raises DataError naming an unknown id or label."""
    raw = _read_raw(path, schema.name)
    table = Table(schema.name, path.stem, path.parent, pa.nulls(raw.num_rows, pa.string()), {})
    if raw.num_rows == 0:
        raise table.error("the table is empty", fix="give it at least one pair")
    rows, ids = {}, {}
    for side in ("left", "right"):
        key = f"{side}_id"
        if key not in raw.column_names:
            raise table.error("the file lacks this column", column=key, found=f"columns {raw.column_names}")
        ids[side] = _names(table, raw, key)
        rows[side] = records.row_of(ids[side], side)
        if rows[side].null_count:
            row = _first(pc.is_null(rows[side]))
            raise table.error(
                "a pair names an unknown id",
                row=row,
                column=key,
                expected=f"an id of {'records' if records.n_left is None else side}",
                found=ids[side][row].as_py(),
                fix="correct the id, or add the record",
            )
    labels = None
    if "label" in raw.column_names and raw["label"].null_count < raw.num_rows:
        known = pa.array(["0", "1", "false", "true", "0.0", "1.0"], pa.large_string())
        texts = pc.utf8_lower(_names(table, raw, "label"))
        where = pc.index_in(texts, value_set=known)
        if where.null_count:
            row = _first(pc.is_null(where))
            raise table.error(
                "not a pair label", row=row, column="label", expected="0 or 1", found=raw["label"][row].as_py(),
                fix="correct the label; a test table may leave the whole column empty",
            )  # fmt: skip
        labels = pa.array(np.asarray(where) % 2, pa.int8())
    return Pairs(path.stem, np.asarray(rows["left"]), np.asarray(rows["right"]), ids["left"], ids["right"], labels)


def has_labels(folder: Path, schema: Schema, split: str) -> bool:
    """Whether a split is there and says the answers."""
    stem, label = (split, schema.label or "") if schema.task is TaskKind.KWAY else (f"pairs_{split}", "label")
    if not any((folder / f"{stem}{suffix}").is_file() for suffix in FORMATS):
        return False
    raw = _read_raw(find_table(folder, schema, stem), schema.name)
    table = Table(schema.name, stem, folder, pa.nulls(raw.num_rows, pa.string()), {})
    return label in raw.column_names and _names(table, raw, label).null_count < raw.num_rows


def find_table(folder: Path, schema: Schema, stem: str) -> Path:
    """The table's file; raises DataError when it is absent or exists twice."""
    found = [folder / f"{stem}{suffix}" for suffix in FORMATS if (folder / f"{stem}{suffix}").is_file()]
    if len(found) != 1:
        problem = "the table is missing" if not found else "the table exists twice"
        raise DataError(
            schema.name,
            problem,
            table=stem,
            expected=f"one of {stem}.parquet, {stem}.csv in {folder}",
            found=[p.name for p in found],
        )
    return found[0]


def read_table(
    path: Path, schema: Schema, *, folder: Path | None = None, bad_cells: BadCells = "error", partial: bool = False
) -> Table:
    """Read one file. ``folder`` is where image paths start; ``partial`` allows columns of the schema to be absent.

    Raises DataError for an unreadable or empty file, an absent column, an absent or repeated id, and a cell that
    does not fit its column's type; with ``bad_cells="missing"`` such cells become null and are counted instead.
    """
    raw = _read_raw(path, schema.name)
    if schema.id not in raw.column_names:
        raise DataError(
            schema.name, "the file lacks this column", table=path.stem, column=schema.id,
            expected="the id column named in dataset.yaml", found=f"columns {raw.column_names}",
            fix="add the column, or correct 'id' in dataset.yaml",
        )  # fmt: skip
    table = Table(schema.name, path.stem, folder or path.parent, pa.nulls(raw.num_rows, pa.string()), {})
    if len(table) == 0:
        raise table.error("the table is empty", fix="give it at least one row")
    table = replace(table, ids=_names(table, raw, schema.id))
    _check_ids(table, schema.id)
    columns: dict[str, pa.Array] = {}
    n_bad = 0
    for column in schema.columns:
        if column.name not in raw.column_names:
            if partial:
                continue
            raise table.error(
                "the file lacks this column", column=column.name,
                expected=f"a {column.type} column, as dataset.yaml says", found=f"columns {raw.column_names}",
                fix="add the column, or take it out of dataset.yaml",
            )  # fmt: skip
        columns[column.name], bad = _canonical(raw[column.name], column.type)
        if bad:
            if bad_cells == "error":
                row = bad[0]
                raise table.error(
                    f"{len(bad)} cell(s) are not {column.type}", row=row, column=column.name,
                    expected=_EXPECTED[column.type], found=raw[column.name][row].as_py(),
                    fix="correct the cells, change the type in dataset.yaml, or set dataset.bad_cells=missing",
                )  # fmt: skip
            n_bad += len(bad)
    labels = None
    if schema.task is TaskKind.KWAY and schema.label and schema.label in raw.column_names:
        labels = _names(table, raw, schema.label)
        labels = None if labels.null_count == len(labels) else labels
    return replace(table, columns=columns, labels=labels, n_bad_cells=n_bad)


def fingerprint(paths: list[Path]) -> str:
    """A digest of the files' names and bytes."""
    digest = hashlib.blake2b(digest_size=16)
    for path in sorted(paths):
        digest.update(path.name.encode())
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


# --- reading ---------------------------------------------------------------------------------------------------------


def _read_raw(path: Path, dataset: str) -> pa.Table:
    where = {"table": path.stem}
    if not path.is_file():
        raise DataError(dataset, f"no file {path}", **where)  # type: ignore[arg-type]
    if path.suffix not in FORMATS:
        raise DataError(dataset, f"cannot read {path.name}", expected=" or ".join(FORMATS), **where)  # type: ignore[arg-type]
    try:
        raw = pa.parquet.ParquetFile(path).read() if path.suffix == ".parquet" else _read_csv(path, dataset)
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            dataset, f"{path.name} is not a readable {path.suffix[1:]} file ({_one_line(error)})",
            table=path.stem, fix="it may be cut short or damaged: write or copy it again",
        ) from error  # fmt: skip
    twice = {name for name in raw.column_names if raw.column_names.count(name) > 1}
    if twice:
        raise DataError(
            dataset,
            "the header names a column twice",
            table=path.stem,
            column=sorted(twice)[0],
            fix="rename one of them",
        )
    return pa.table({name: _plain(values) for name, values in zip(raw.column_names, raw.columns, strict=True)})


def _read_csv(path: Path, dataset: str) -> pa.Table:
    ragged: list[pa.csv.InvalidRow] = []

    def note(row: pa.csv.InvalidRow) -> str:
        ragged.append(row)
        return "skip"

    with path.open("rb") as file:
        if not file.read(1):
            raise DataError(dataset, "the file is empty", table=path.stem, fix="give it a header and at least one row")
    # Every column is read as text: the schema, not a guess from the first rows, decides what a cell means.
    # One thread, because only then does Arrow know the number of a ragged row.
    # No row may be longer than a block.
    read_options = pa.csv.ReadOptions(use_threads=False, block_size=min(max(path.stat().st_size, 1 << 20), 1 << 30))
    parse_options = pa.csv.ParseOptions(newlines_in_values=True, invalid_row_handler=note)
    try:
        names = pa.csv.open_csv(path, read_options, parse_options).schema.names
    except UnicodeDecodeError as error:
        raise DataError(dataset, "the header is not UTF-8", table=path.stem, fix="save the file as UTF-8") from error
    ragged.clear()
    table = pa.csv.read_csv(
        path,
        read_options,
        parse_options,
        pa.csv.ConvertOptions(
            column_types={name: pa.binary() for name in names},
            strings_can_be_null=True,
            quoted_strings_can_be_null=True,
            null_values=[""],
        ),
    )
    if ragged:
        row = ragged[0]
        raise DataError(
            dataset, "ragged row", table=path.stem, row=row.number - 1 if row.number is not None else None,
            expected=f"{row.expected_columns} cells", found=f"{row.actual_columns}: {' '.join(row.text.split())}",
            fix="quote cells that hold commas or line breaks",
        )  # fmt: skip
    return pa.table([_decoded(table[i], path, dataset, name) for i, name in enumerate(names)], names)


def _decoded(cells: pa.ChunkedArray, path: Path, dataset: str, column: str) -> pa.ChunkedArray:
    try:
        return pc.cast(cells, pa.string())
    except pa.ArrowInvalid as error:
        for row, cell in enumerate(cells.to_pylist()):
            try:
                (cell or b"").decode()
            except UnicodeDecodeError:
                raise DataError(
                    dataset, "the cell is not UTF-8", table=path.stem, row=row + 1, column=column, found=cell,
                    fix="save the file as UTF-8",
                ) from error  # fmt: skip
        raise


def _plain(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """The same cells in the ordinary type: storage forms such as dictionaries and views are not the standard's concern."""
    kind = values.type
    if isinstance(kind, pa.UuidType):
        return pa.chunked_array([pa.array([None if v is None else str(v) for v in values.to_pylist()], pa.string())])
    if isinstance(kind, pa.BaseExtensionType):
        return _plain(pc.cast(values, kind.storage_type))
    if pa.types.is_dictionary(kind):
        return _plain(pc.cast(values, kind.value_type))
    if kind == pa.string_view():
        return pc.cast(values, pa.large_string())
    if kind == pa.binary_view() or pa.types.is_fixed_size_binary(kind):
        return pc.cast(values, pa.large_binary())
    return values


def _read_side(folder: Path, schema: Schema, side: str, bad_cells: BadCells) -> Table:
    return read_table(find_table(folder, schema, side), schema, folder=folder, bad_cells=bad_cells, partial=True)


def _names(table: Table, raw: pa.Table, column: str) -> pa.Array:
    """The strings of an id or label column."""
    names, bad = _canonical(raw[column], ColumnType.CATEGORICAL)
    if bad:
        raise table.error(
            "the cell cannot be a name", row=bad[0], column=column,
            expected=_EXPECTED[ColumnType.CATEGORICAL], found=raw[column][bad[0]].as_py(),
        )  # fmt: skip
    return names


def _check_ids(table: Table, column: str) -> None:
    if table.ids.null_count:
        raise table.error(
            "a row without an id", row=_first(pc.is_null(table.ids)), column=column, fix="give every row an id"
        )
    if len(pc.unique(table.ids)) < len(table):
        seen: dict[str, int] = {}
        for row, value in enumerate(table.ids.to_pylist()):
            if value in seen:
                raise table.error(
                    "duplicate id", row=row, column=column, expected="ids that name one row each",
                    found=f"{value!r}, also in row {seen[value] + 1}", fix="make the ids unique",
                )  # fmt: skip
            seen[value] = row


# --- cells -----------------------------------------------------------------------------------------------------------

_EXPECTED = {
    ColumnType.TEXT: "text",
    ColumnType.CATEGORICAL: "text, a number or true/false",
    ColumnType.NUMERIC: "a number",
    ColumnType.DATETIME: "a date or time, such as 2024-05-18 or 2024-05-18T10:00:00Z",
    ColumnType.IMAGE: "a path, bytes, or a struct of bytes and path",
}


def _canonical(values: pa.ChunkedArray, kind: ColumnType) -> tuple[pa.Array, list[int]]:
    """The column in canonical form, and the row numbers of cells that do not fit (null in the result)."""
    if kind is ColumnType.NUMERIC:
        return _numbers(values)
    if kind is ColumnType.DATETIME:
        return _moments(values)
    if kind is ColumnType.IMAGE:
        return _images(values)
    if pa.types.is_nested(values.type) or _is_bytes(values.type):
        return pa.nulls(len(values), pa.large_string()), _rows(pc.is_valid(values))
    return _strings(values), []


def _strings(values: pa.ChunkedArray) -> pa.Array:
    if pa.types.is_floating(values.type):
        values = pc.if_else(pc.is_nan(values), pa.scalar(None, values.type), values)
    # Arrow's cast writes numbers as its csv writer does (4.0 as "4"), so both formats agree.
    text = _one_chunk(pc.cast(values, pa.large_string()))
    return pc.if_else(pc.equal(text, ""), pa.scalar(None, text.type), text)


def _numbers(values: pa.ChunkedArray) -> tuple[pa.Array, list[int]]:
    if pa.types.is_floating(values.type) and values.type != pa.float64():
        values = pc.cast(values, pa.string())  # 0.1 stored as float32 means 0.1, as in csv
    if pa.types.is_boolean(values.type):
        values = pc.cast(values, pa.int8())
    if _is_text(values.type):
        return _parse(values, _parse_number, lambda text: pc.cast(text, pa.float64()))
    try:
        return _nan_to_null(_one_chunk(pc.cast(values, pa.float64(), safe=False))), []
    except pa.ArrowException:
        return pa.nulls(len(values), pa.float64()), _rows(pc.is_valid(values))


def _moments(values: pa.ChunkedArray) -> tuple[pa.Array, list[int]]:
    if pa.types.is_date(values.type):
        values = pc.cast(values, pa.timestamp("ms"))
    if pa.types.is_timestamp(values.type):
        if values.type.unit == "ns":  # a moment in a csv ends at microseconds
            values = pc.cast(values, pa.timestamp("us", values.type.tz), safe=False)
        ticks = pc.cast(pc.cast(values, pa.int64()), pa.float64(), safe=False)
        return _one_chunk(pc.divide(ticks, {"s": 1.0, "ms": 1e3, "us": 1e6}[values.type.unit])), []
    if _is_text(values.type):
        return _parse(values, _parse_moment, None)
    return pa.nulls(len(values), pa.float64()), _rows(pc.is_valid(values))


def _images(values: pa.ChunkedArray) -> tuple[pa.Array, list[int]]:
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
        return _one_chunk(values), []
    return pa.nulls(len(values), pa.string()), _rows(pc.is_valid(values))


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


def _parse(
    values: pa.ChunkedArray, parse_one: Callable[[str], float | None], fast: Callable[[pa.Array], pa.Array] | None
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


def _rows(mask: pa.Array | pa.ChunkedArray) -> list[int]:
    return np.flatnonzero(np.asarray(mask)).tolist()


def _first(mask: pa.Array | pa.ChunkedArray) -> int:
    return _rows(mask)[0]


def _one_chunk(values: pa.Array | pa.ChunkedArray) -> pa.Array:
    if isinstance(values, pa.ChunkedArray):
        return values.combine_chunks() if values.num_chunks != 1 else values.chunk(0)
    return values


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
