"""Files as they stand: csv and parquet read and written in Arrow record batches, so that none need fit into memory.

A table is one file, or a folder of shards (``train/*.parquet``) that together are the table, in the order of their names.
Cells of a csv are strings: a schema, not a guess from the first rows, decides what they mean.
"""

from __future__ import annotations

import collections
import csv
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from mmtab.utils.atomic import replacing
from mmtab.utils.errors import DataError

FORMATS = (".parquet", ".csv")
BATCH_ROWS, BATCH_BYTES = 1 << 16, 32 << 20
CSV_BLOCK, CSV_LONGEST_ROW = 8 << 20, 1 << 30


@dataclass(frozen=True)
class Dialect:
    """How a csv is written. The standard's own is the default."""

    encoding: str = "utf-8"
    delimiter: str = ","


STANDARD = Dialect()


def find(folder: Path, dataset: str, stem: str) -> Path:
    """The table's file, or its folder of shards; raises DataError when it is absent or exists twice."""
    found = _candidates(folder, stem)
    if len(found) != 1:
        raise DataError(
            dataset,
            "the table is missing" if not found else "the table exists twice",
            table=stem,
            expected=f"one of {stem}.parquet, {stem}.csv, or a folder {stem}/ of either, in {folder}",
            found=[path.name for path in found],
        )
    return found[0]


def exists(folder: Path, stem: str) -> bool:
    """Whether the folder has this table."""
    return bool(_candidates(folder, stem))


def _candidates(folder: Path, stem: str) -> list[Path]:
    paths = [folder / f"{stem}{suffix}" for suffix in FORMATS if (folder / f"{stem}{suffix}").is_file()]
    shards = folder / stem
    return [*paths, shards] if shards.is_dir() and any(p.suffix in FORMATS for p in shards.iterdir()) else paths


def parts(path: Path, dataset: str) -> list[Path]:
    """The files that hold a table: itself, or its shards. Raises DataError for what is no table."""
    if path.is_dir():
        shards = sorted(shard for shard in path.iterdir() if shard.suffix in FORMATS and not shard.name.startswith("."))
        if not shards:
            raise DataError(dataset, f"no shards in {path}", table=path.name, expected="*.parquet or *.csv")
        if len({shard.suffix for shard in shards}) > 1:
            raise DataError(
                dataset,
                "shards of two formats",
                table=path.name,
                expected="all .parquet or all .csv",
                found=[shard.name for shard in shards[:5]],
            )
        return shards
    if not path.is_file():
        raise DataError(dataset, f"no file {path}", table=path.stem)
    if path.suffix not in FORMATS:
        raise DataError(dataset, f"cannot read {path.name}", table=path.stem, expected=" or ".join(FORMATS))
    return [path]


# --- reading ---------------------------------------------------------------------------------------------------------


def header(path: Path, dataset: str, dialect: Dialect = STANDARD) -> pa.Schema:
    """Column names and how they are stored (csv: text), the same in all shards but for storage.

    Raises DataError for an unreadable file, a column without a name or named twice, and shards that differ in columns.
    """
    whole: pa.Schema | None = None
    for part in parts(path, dataset):
        with _readable(part, dataset):
            schema = _parquet_schema(part) if part.suffix == ".parquet" else _csv_schema(part, dataset, dialect)
        _check_names(schema.names, part, dataset)
        if whole is None:
            whole = schema
        elif set(schema.names) != set(whole.names):
            odd = sorted(set(schema.names) ^ set(whole.names))
            raise DataError(
                dataset,
                f"shard {part.name} has other columns than those before it",
                table=path.stem,
                column=odd[0],
                expected=f"columns {whole.names}",
                found=f"columns {schema.names}",
            )
    assert whole is not None
    return whole


def scan(
    path: Path, dataset: str, *, columns: list[str] | None = None, encoding: str = "utf-8", delimiter: str = ","
) -> Iterator[pa.RecordBatch]:
    """Cells as stored, in batches of bounded size. ``columns``: only these, in this order.

    Raises DataError as ``header`` does, and for a ragged row, an unclosed quote, and bytes that are not ``encoding``.
    """
    dialect = Dialect(encoding, delimiter)
    names = columns if columns is not None else header(path, dataset, dialect).names
    first_row = 0
    for part in parts(path, dataset):
        with _readable(part, dataset):
            batches = (
                _scan_parquet(part, names)
                if part.suffix == ".parquet"
                else _scan_csv(part, dataset, names, dialect, first_row)
            )
            for batch in batches:
                first_row += batch.num_rows
                yield batch


def read(path: Path, dataset: str, columns: list[str] | None = None) -> pa.Table:
    """All of a table at once, as stored."""
    batches = list(scan(path, dataset, columns=columns))
    if not batches:
        schema = header(path, dataset)
        return pa.schema([schema.field(name) for name in columns or schema.names]).empty_table()
    return pa.concat_tables([pa.table(batch) for batch in batches], promote_options="permissive")


def count(path: Path, dataset: str, dialect: Dialect = STANDARD) -> int:
    """How many rows a table has."""
    total = 0
    for part in parts(path, dataset):
        with _readable(part, dataset):
            if part.suffix == ".parquet":
                total += pa.parquet.read_metadata(part).num_rows
            else:
                total += sum(batch.num_rows for batch in _scan_csv(part, dataset, [], dialect, 0))
    return total


class _readable:
    """What Arrow says of a damaged file, as a DataError."""

    def __init__(self, path: Path, dataset: str) -> None:
        self.path, self.dataset = path, dataset

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        # KeyError, IndexError: what some damaged footers end in
        if isinstance(error, pa.ArrowException | OSError | KeyError | IndexError) and not isinstance(error, DataError):
            raise DataError(
                self.dataset,
                f"{self.path.name} is not a readable {self.path.suffix[1:]} file ({' '.join(str(error).split())[:200]})",
                table=self.path.stem,
                fix="it may be cut short or damaged: write or copy it again",
            ) from error


def _check_names(names: list[str], path: Path, dataset: str) -> None:
    for number, name in enumerate(names, 1):
        if not name.strip():
            raise DataError(
                dataset,
                f"column {number} has no name",
                table=path.stem,
                found=f"columns {names}",
                fix="name it in the header (pandas: to_csv(index=False) leaves its row numbers out)",
            )
        if "\0" in name:  # which some libraries take for the name's end
            raise DataError(
                dataset,
                f"the name of column {number} has a null character",
                table=path.stem,
                column=name,
                fix="rename it",
            )
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(
            dataset, "the header names a column twice", table=path.stem, column=twice[0], fix="rename one of them"
        )


def _parquet_schema(path: Path) -> pa.Schema:
    schema = pa.parquet.ParquetFile(path).schema_arrow
    return pa.schema([pa.field(field.name, _plain_type(field.type)) for field in schema])


def _scan_parquet(path: Path, columns: list[str]) -> Iterator[pa.RecordBatch]:
    # Nothing read ahead and small buffers: a row group may be larger than memory allows.
    with pa.parquet.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20) as file:
        groups = [file.metadata.row_group(i) for i in range(file.metadata.num_row_groups)]
        wide = max((group.total_byte_size / max(group.num_rows, 1) for group in groups), default=0)
        size = max(1, min(BATCH_ROWS, int(BATCH_BYTES / max(wide, 1))))
        for batch in file.iter_batches(size, columns=columns):
            yield pa.record_batch([_plain(batch.column(name)) for name in columns], names=columns)


def _plain_type(kind: pa.DataType) -> pa.DataType:
    if isinstance(kind, pa.UuidType):
        return pa.string()
    if isinstance(kind, pa.BaseExtensionType):
        return _plain_type(kind.storage_type)
    if pa.types.is_dictionary(kind):
        return _plain_type(kind.value_type)
    if kind == pa.string_view():
        return pa.large_string()
    if kind == pa.binary_view() or pa.types.is_fixed_size_binary(kind):
        return pa.large_binary()
    return kind


def _plain(values: pa.Array) -> pa.Array:
    """The same cells in the ordinary type: storage forms such as dictionaries and views are not the standard's concern."""
    if isinstance(values.type, pa.UuidType):
        return pa.array([None if v is None else str(v) for v in values.to_pylist()], pa.string())
    if isinstance(values.type, pa.BaseExtensionType):
        return _plain(values.storage)
    kind = _plain_type(values.type)
    if pa.types.is_dictionary(values.type):
        return _plain(values.dictionary_decode())
    return values if kind == values.type else pc.cast(values, kind)


def _csv_schema(path: Path, dataset: str, dialect: Dialect) -> pa.Schema:
    return pa.schema([(name, pa.string()) for name in _csv_names(path, dataset, dialect)])


def _csv_names(path: Path, dataset: str, dialect: Dialect) -> list[str]:
    with path.open("rb") as file:
        start = file.read(2)
    if not start:
        raise DataError(dataset, "the file is empty", table=path.stem, fix="give it a header and at least one row")
    block, size = CSV_BLOCK, path.stat().st_size
    while True:
        try:
            with pa.csv.open_csv(path, *_csv_options(path, dialect, block, ragged=lambda row: "skip")) as reader:
                return reader.schema.names
        except pa.ArrowInvalid as error:
            if not _row_too_long(error, block, size):
                raise
            block *= 8
        except (UnicodeError, LookupError) as error:
            raise _wrong_encoding(path, dataset, dialect, utf16=start in (b"\xff\xfe", b"\xfe\xff")) from error


def _wrong_encoding(path: Path, dataset: str, dialect: Dialect, utf16: bool = False, **where: object) -> DataError:
    likely = "utf-16" if utf16 else "cp1252"
    return DataError(
        dataset,
        f"the {'cell' if where else 'header'} is not {dialect.encoding.upper()}",
        table=path.stem,
        fix=f"save the file as UTF-8, or prepare it with the encoding it has, such as --encoding {likely}",
        **where,  # type: ignore[arg-type]
    )


def _row_too_long(error: pa.ArrowInvalid, block: int, size: int) -> bool:
    """Whether a bigger block, in which a row must fit, would help."""
    return "straddl" in str(error) and block < min(size, CSV_LONGEST_ROW)


def _csv_options(
    path: Path,
    dialect: Dialect,
    block: int,
    one: bool = False,
    ragged: Callable[[pa.csv.InvalidRow], str] | None = None,
) -> tuple[pa.csv.ReadOptions, pa.csv.ParseOptions]:
    # One thread, because only then does Arrow know the number of a ragged row. In a table of one column an empty line
    # is a missing cell, in others it is nothing.
    size = max(1 << 16, min(block, path.stat().st_size + 1))
    return (
        pa.csv.ReadOptions(use_threads=False, block_size=size, encoding=dialect.encoding),
        pa.csv.ParseOptions(
            newlines_in_values=True, invalid_row_handler=ragged, delimiter=dialect.delimiter, ignore_empty_lines=not one
        ),
    )


def _scan_csv(
    path: Path, dataset: str, columns: list[str], dialect: Dialect, first_row: int
) -> Iterator[pa.RecordBatch]:
    names = _csv_names(path, dataset, dialect)
    stat = path.stat()
    fault = _quoting_fault(path, dialect, stat.st_size, stat.st_mtime_ns)
    if fault:
        raise DataError(
            dataset,
            f"the quotes of line {fault[0]} do not match ({fault[1]})",
            table=path.stem,
            expected="a cell in quotes ends with a quote before the comma, and quotes inside it are doubled",
            fix="quote the cell anew; most csv writers do it right",
        )
    done, block = 0, CSV_BLOCK
    while True:
        seen = 0
        try:
            for batch in _csv_batches(path, dataset, names, columns, dialect, block, first_row):
                fresh = batch.slice(max(done - seen, 0))  # the rest was handed out before the block had to grow
                seen += batch.num_rows
                if fresh.num_rows:
                    yield fresh
            return
        except pa.ArrowInvalid as error:
            if not _row_too_long(error, block, stat.st_size):
                raise
            done, block = max(done, seen), block * 8


def _csv_batches(
    path: Path, dataset: str, names: list[str], columns: list[str], dialect: Dialect, block: int, first_row: int
) -> Iterator[pa.RecordBatch]:
    ragged: list[pa.csv.InvalidRow] = []

    def note(row: pa.csv.InvalidRow) -> str:
        ragged.append(row)
        return "skip"

    read, parse = _csv_options(path, dialect, block, one=len(names) == 1, ragged=note)
    convert = pa.csv.ConvertOptions(
        column_types={name: pa.binary() for name in names},
        strings_can_be_null=True,
        quoted_strings_can_be_null=False,  # "" is an empty string, nothing at all is null
        null_values=[""],
    )
    row = first_row
    try:
        reader = pa.csv.open_csv(path, read, parse, convert)
    except UnicodeError as error:
        raise _wrong_encoding(path, dataset, dialect, row=row + 1) from error
    with reader:
        while True:
            try:
                batch = reader.read_next_batch()
            except StopIteration:
                batch = None
            except UnicodeError as error:
                raise _wrong_encoding(path, dataset, dialect, row=row + 1) from error
            if ragged:
                bad = ragged[0]
                place = None if bad.number is None else bad.number - 1 + first_row
                raise DataError(
                    dataset,
                    "ragged row",
                    table=path.stem,
                    row=place,
                    expected=f"{bad.expected_columns} cells",
                    found=f"{bad.actual_columns}: {' '.join(bad.text.split())}",
                    fix="quote cells that hold commas or line breaks",
                )
            if batch is None:
                return
            cells = [_decoded(batch.column(name), path, dataset, dialect, name, row) for name in columns]
            row += batch.num_rows
            yield pa.RecordBatch.from_struct_array(pa.StructArray.from_arrays(cells, columns)) if columns else batch


def _decoded(cells: pa.Array, path: Path, dataset: str, dialect: Dialect, column: str, first_row: int) -> pa.Array:
    try:
        return pc.cast(cells, pa.string())
    except pa.ArrowInvalid as error:
        for row, cell in enumerate(cells.to_pylist()):
            try:
                (cell or b"").decode()
            except UnicodeDecodeError:
                raise _wrong_encoding(
                    path, dataset, dialect, row=first_row + row + 1, column=column, found=cell
                ) from error
        raise


@functools.lru_cache(maxsize=256)
def _quoting_fault(path: Path, dialect: Dialect, size: int, changed: int) -> tuple[int, str] | None:
    """The line, and what is wrong with its quotes. Arrow reads on past an unclosed quote, and drops a closing one that
    text follows, without a word; the standard library's reader is strict, though slow, so that files without quotes are
    spared it. ``size`` and ``changed`` are there to forget a file that was written anew."""
    with path.open("rb") as raw:
        if not any(b'"' in block for block in iter(functools.partial(raw.read, 1 << 20), b"")):
            return None
    before = csv.field_size_limit(CSV_LONGEST_ROW)
    try:
        with path.open(encoding=dialect.encoding, errors="replace", newline="") as file:
            reader = csv.reader(file, delimiter=dialect.delimiter, strict=True)
            try:
                collections.deque(reader, maxlen=0)
            except csv.Error as error:
                return reader.line_num, str(error)
    finally:
        csv.field_size_limit(before)
    return None


# --- writing ---------------------------------------------------------------------------------------------------------


def write_table(path: Path, batches: pa.Table | Iterable[pa.RecordBatch], schema: pa.Schema | None = None) -> int:
    """Write one file as its suffix says, batch by batch, and put it in place by one rename; returns the rows written.

    ``schema`` is needed where there may be no batch; batches are cast to it. Raises DataError for cells that a csv
    cannot hold, such as embedded pictures.
    """
    if isinstance(batches, pa.Table):
        schema, batches = schema or batches.schema, batches.to_batches(BATCH_ROWS)
    if schema is not None:
        _check_names(schema.names, path, path.parent.name)
    rows = 0
    with replacing(path) as scratch:
        writer: pa.parquet.ParquetWriter | pa.csv.CSVWriter | None = None
        waiting: list[pa.RecordBatch] = []

        def flush() -> None:
            # Small batches share a row group
            if writer is not None and waiting:
                writer.write_table(pa.Table.from_batches(waiting).combine_chunks())
                waiting.clear()

        for batch in itertools.chain(batches, [None]):
            if batch is None and schema is None:
                raise ValueError(f"nothing to write to {path}, not even a schema")
            if writer is None:
                assert batch is not None or schema is not None
                schema = schema or batch.schema
                writer = _writer(scratch, path, schema)
            if batch is None:
                break
            assert schema is not None
            waiting.append(batch if batch.schema.equals(schema) else batch.cast(schema))
            rows += batch.num_rows
            if sum(b.num_rows for b in waiting) >= BATCH_ROWS or sum(b.nbytes for b in waiting) >= BATCH_BYTES:
                flush()
        flush()
        assert writer is not None
        writer.close()
    return rows


def _writer(scratch: Path, path: Path, schema: pa.Schema) -> pa.parquet.ParquetWriter | pa.csv.CSVWriter:
    if path.suffix == ".parquet":
        return pa.parquet.ParquetWriter(scratch, schema, compression="zstd")
    for field in schema:
        if pa.types.is_nested(field.type) or pa.types.is_binary(field.type) or pa.types.is_large_binary(field.type):
            raise DataError(
                path.parent.name,
                "a csv cannot hold these cells",
                table=path.stem,
                column=field.name,
                found=str(field.type),
                fix="write parquet, or put pictures into files first",
            )
    return pa.csv.CSVWriter(scratch, schema, write_options=pa.csv.WriteOptions(quoting_style="needed"))


def table_stems(folder: Path) -> list[str]:
    """Names of all tables in a dataset folder."""
    names = {path.stem for path in folder.iterdir() if path.is_file() and path.suffix in FORMATS}
    names |= {path.name for path in folder.iterdir() if path.is_dir() and exists(folder, path.name)}
    return sorted(name for name in names if not name.startswith("."))
