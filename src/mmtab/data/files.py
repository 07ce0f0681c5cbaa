"""Files as they stand: csv and parquet read and written in Arrow record batches, so that none need fit into memory.

A table is one file, or a folder of shards (``train/*.parquet``) that together are the table, in the order of names.
Cells of a csv are strings: a schema, not a guess from the first rows, decides what they mean.
"""

from __future__ import annotations

import contextlib
import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from mmtab.data.csv_files import STANDARD, column_names, scan_csv
from mmtab.data.spelling import is_bytes, spelling
from mmtab.utils.atomic import replacing
from mmtab.utils.errors import DataError, one_line
from mmtab.utils.paths import leads_out

FORMATS = (".parquet", ".csv")
MOST_COLUMNS = 10_000
BATCH_ROWS, BATCH_BYTES = 1 << 16, 32 << 20


@dataclass(frozen=True)
class InMemory:
    """A table that is read as a file is; ``stem`` names it in errors, and its pictures are in its cells."""

    stem: str
    table: pa.Table
    parent: Path = Path(os.devnull)  # where no picture is


Source = Path | InMemory


def find(folder: Path, dataset: str, stem: str) -> Path:
    """The table's file, or its folder of shards; raises DataError when it is absent or exists twice."""
    paths = _candidates(folder, stem)
    for path in paths:
        check_links(folder, parts(path, dataset), dataset)
    if len(paths) != 1:
        raise DataError(
            dataset,
            "the table is missing" if not paths else "the table exists twice",
            table=stem,
            expected=f"one of {stem}.parquet, {stem}.csv, or a folder {stem}/ of either, in {folder}",
            found=[path.name for path in paths],
        )
    return paths[0]


def check_links(folder: Path, paths: Iterable[Path], dataset: str) -> None:
    """Raise DataError for a file of a dataset that is a link out of its folder."""
    for path in paths:
        if leads_out(folder, path):
            raise DataError(
                dataset,
                f"{path.name} is a link out of the folder",
                table=path.stem,
                expected=f"a file inside {folder}",
                found=os.path.realpath(path),
                fix="copy the file into the folder (cp -L)",
            )


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


def header(path: Source, dataset: str) -> pa.Schema:
    """Column names and how they are stored (csv: text), the same in all shards but for storage.

    Raises DataError for an unreadable file, a column without a name or named twice, and shards that differ in columns.
    """
    if isinstance(path, InMemory):
        check_names(path.table.column_names, path.stem, dataset)
        return _plain_schema(path.table.schema)
    first: pa.Schema | None = None
    for part in parts(path, dataset):
        with _readable(part, dataset):
            if part.suffix == ".parquet":
                schema = _plain_schema(pa.parquet.read_schema(part))
            else:
                schema = pa.schema([(name, pa.string()) for name in column_names(part, dataset, STANDARD)])
        check_names(schema.names, part.stem, dataset)
        if first is None:
            first = schema
        elif set(schema.names) != set(first.names):
            odd = sorted(set(schema.names) ^ set(first.names))
            raise DataError(
                dataset,
                f"shard {part.name} has other columns than those before it",
                table=path.stem,
                column=odd[0],
                expected=f"columns {first.names}",
                found=f"columns {schema.names}",
            )
    assert first is not None
    return first


def scan(path: Source, dataset: str, *, columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
    """Cells as stored, in batches of bounded size. ``columns``: only these, in this order.

    Raises DataError as ``header`` does, and for a ragged row, an unclosed quote, and bytes that are not UTF-8.
    """
    names = columns if columns is not None else header(path, dataset).names
    if isinstance(path, InMemory):
        for batch in path.table.select(names).to_batches(BATCH_ROWS):
            yield pa.record_batch([_plain(cells) for cells in batch.columns], names=names)
        return
    first_row = 0
    for part in parts(path, dataset):
        with _readable(part, dataset):
            batches = (
                _scan_parquet(part, names)
                if part.suffix == ".parquet"
                else scan_csv(part, dataset, names, STANDARD, first_row)
            )
            for batch in batches:
                first_row += batch.num_rows
                yield batch


def read(path: Source, dataset: str, columns: list[str] | None = None) -> pa.Table:
    """All of a table at once, as stored."""
    batches = list(scan(path, dataset, columns=columns))
    if not batches:
        schema = header(path, dataset)
        return pa.schema([schema.field(name) for name in columns or schema.names]).empty_table()
    return pa.concat_tables([pa.table(batch) for batch in batches], promote_options="permissive")


def order_of(path: Path, column: str | None) -> list[str]:
    """The values of an ordered categorical column of a parquet file, in their order; nothing for other columns."""
    if path.suffix != ".parquet" or not path.is_file() or column not in (schema := pa.parquet.read_schema(path)).names:
        return []
    kind = schema.field(column).type
    if not pa.types.is_dictionary(kind) or not kind.ordered:
        return []
    cells = pa.parquet.read_table(path, columns=[column])[column].unify_dictionaries()
    return spelling(_plain(cells.chunk(0).dictionary)).to_pylist() if cells.num_chunks else []


def count(path: Path, dataset: str) -> int:
    """How many rows a table has."""
    total = 0
    for part in parts(path, dataset):
        with _readable(part, dataset):
            if part.suffix == ".parquet":
                total += pa.parquet.read_metadata(part).num_rows
            else:
                total += sum(batch.num_rows for batch in scan_csv(part, dataset, [], STANDARD, 0))
    return total


@contextlib.contextmanager
def _readable(path: Path, dataset: str) -> Iterator[None]:
    """What Arrow says of a damaged file, as a DataError."""
    try:
        yield
    except (pa.ArrowException, OSError, KeyError, IndexError) as error:  # the last two: of some damaged footers
        problem = f"{path.name} is not a readable {path.suffix[1:]} file ({one_line(error)})"
        fix = "it may be cut short or damaged: write or copy it again"
        raise DataError(dataset, problem, table=path.stem, fix=fix) from error


def check_names(names: list[str], table: str, dataset: str) -> None:
    """Raises DataError for a column without a name, or named twice, and for more columns than any table has."""
    if len(names) > MOST_COLUMNS:
        expected, fix = f"at most {MOST_COLUMNS}", "keep those that matter"
        raise DataError(dataset, "too many columns", table=table, expected=expected, found=len(names), fix=fix)
    for number, name in enumerate(names, 1):
        if not name.strip():
            raise DataError(
                dataset,
                f"column {number} has no name",
                table=table,
                found=f"columns {names}",
                fix="name it in the header (pandas: to_csv(index=False) leaves its row numbers out)",
            )
        if "\0" in name:  # which some libraries take for the name's end
            problem = f"the name of column {number} has a null character"
            raise DataError(dataset, problem, table=table, column=name, fix="rename it")
    twice = sorted(name for name, n in Counter(names).items() if n > 1)
    if twice:
        problem, fix = "the header names a column twice", "rename one of them"
        raise DataError(dataset, problem, table=table, column=twice[0], fix=fix)
    looks = Counter(map(alike, names))
    if same := [name for name in names if looks[alike(name)] > 1]:
        raise DataError(
            dataset,
            "the header has columns that differ only in spaces around their names or in how accents are composed",
            table=table,
            column=same[0],
            found=", ".join(map(ascii, same)),
            fix="rename or drop one of them",
        )


def alike(name: str) -> str:
    """The same for names of columns that look the same."""
    return unicodedata.normalize("NFC", name.strip())


def _plain_schema(schema: pa.Schema) -> pa.Schema:
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
    if isinstance(kind, pa.Bool8Type):
        return pa.bool_()
    if isinstance(kind, pa.BaseExtensionType):
        return _plain_type(kind.storage_type)
    if pa.types.is_run_end_encoded(kind):
        return _plain_type(kind.value_type)
    if pa.types.is_dictionary(kind):
        return _plain_type(kind.value_type)
    if kind == pa.string_view():
        return pa.large_string()
    if kind == pa.binary_view() or pa.types.is_fixed_size_binary(kind):
        return pa.large_binary()
    return kind


def _plain(values: pa.Array) -> pa.Array:
    """The same cells in the ordinary type, whether they are stored as dictionaries, views or otherwise."""
    if isinstance(values.type, pa.UuidType):
        return pa.array([None if v is None else str(v) for v in values.to_pylist()], pa.string())
    if isinstance(values.type, pa.Bool8Type):
        return pc.cast(values.storage, pa.bool_())
    if isinstance(values.type, pa.BaseExtensionType):
        return _plain(values.storage)
    if pa.types.is_run_end_encoded(values.type):
        return _plain(pc.run_end_decode(values))
    kind = _plain_type(values.type)
    if pa.types.is_dictionary(values.type):
        return _plain(values.dictionary_decode())
    return values if kind == values.type else pc.cast(values, kind)


# --- writing ---------------------------------------------------------------------------------------------------------


def write_table(path: Path, table: pa.Table | Iterable[pa.RecordBatch], schema: pa.Schema | None = None) -> None:
    """Write one file as its suffix says, batch by batch, and put it in place by one rename.

    ``schema``: of batches, which are cast to it. Raises DataError for cells that a csv cannot hold, such as embedded
    pictures.
    """
    schema, batches = (table.schema, table.to_batches(BATCH_ROWS)) if isinstance(table, pa.Table) else (schema, table)
    assert schema is not None
    check_names(schema.names, path.stem, path.parent.name)
    with replacing(path) as scratch, _writer(scratch, path, schema) as writer:
        waiting: list[pa.RecordBatch] = []  # small ones share a row group
        for batch in batches:
            waiting.append(batch if batch.schema.equals(schema) else batch.cast(schema))
            if sum(b.num_rows for b in waiting) >= BATCH_ROWS or sum(b.nbytes for b in waiting) >= BATCH_BYTES:
                writer.write_table(pa.Table.from_batches(waiting).combine_chunks())
                waiting.clear()
        if waiting:
            writer.write_table(pa.Table.from_batches(waiting).combine_chunks())


def _writer(scratch: Path, path: Path, schema: pa.Schema) -> pa.parquet.ParquetWriter | pa.csv.CSVWriter:
    if path.suffix == ".parquet":
        return pa.parquet.ParquetWriter(scratch, schema, compression="zstd")
    for field in schema:
        if pa.types.is_nested(field.type) or is_bytes(field.type):
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
