"""A csv file read strictly, in record batches of strings: what is written wrongly is refused with its place."""

from __future__ import annotations

import collections
import csv
import functools
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from mmtab.utils.errors import DataError

CSV_BLOCK, CSV_LONGEST_ROW = 8 << 20, 64 << 20  # bytes


@dataclass(frozen=True)
class Dialect:
    """How a csv is written. The standard's own is the default; what is empty is to be found out (``data.raw``)."""

    encoding: str = "utf-8"
    delimiter: str = ","


STANDARD, FOUND_OUT = Dialect(), Dialect("", "")


def column_names(path: Path, dataset: str, dialect: Dialect) -> list[str]:
    with path.open("rb") as file:
        start = file.read(2)
    if not start:
        raise DataError(dataset, "the file is empty", table=path.stem, fix="give it a header and at least one row")
    block = CSV_BLOCK
    while True:
        try:
            with pa.csv.open_csv(path, *_csv_options(path, dialect, block, ragged=lambda row: "skip")) as reader:
                return reader.schema.names
        except pa.ArrowInvalid as error:
            if not _row_too_long(error, block, path, dataset):
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


def _row_too_long(error: pa.ArrowInvalid, block: int, path: Path, dataset: str) -> bool:
    """Whether a bigger block, in which a row must fit, would help. Raises DataError for a row that is too long."""
    if "straddl" not in str(error) or block >= path.stat().st_size:
        return False
    if block >= CSV_LONGEST_ROW:
        raise _too_long(path, dataset, "a row") from error
    return True


def _too_long(path: Path, dataset: str, what: str) -> DataError:
    expected, fix = f"at most {CSV_LONGEST_ROW >> 20} MiB", "cut its cells, or close the quote that made them one"
    return DataError(dataset, f"{what} is too long", table=path.stem, expected=expected, fix=fix)


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


def scan_csv(
    path: Path, dataset: str, columns: list[str], dialect: Dialect, first_row: int
) -> Iterator[pa.RecordBatch]:
    names = column_names(path, dataset, dialect)
    stat = path.stat()
    fault = _quoting_fault(path, dialect, stat.st_size, stat.st_mtime_ns)
    if fault and "field limit" in fault[1]:
        raise _too_long(path, dataset, f"the row that ends in line {fault[0]}")
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
            if not _row_too_long(error, block, path, dataset):
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
        with pa.csv.open_csv(path, read, parse, convert) as reader:
            for batch in itertools.chain(reader, [None]):
                if ragged:
                    bad = ragged[0]
                    raise DataError(
                        dataset,
                        "ragged row",
                        table=path.stem,
                        row=None if bad.number is None else bad.number - 1 + first_row,
                        expected=f"{bad.expected_columns} cells",
                        found=f"{bad.actual_columns}: {' '.join(bad.text.split())}",
                        fix="quote cells that hold commas or line breaks",
                    )
                if batch is not None:
                    cells = [_decoded(batch.column(name), path, dataset, dialect, name, row) for name in columns]
                    row += batch.num_rows
                    yield pa.record_batch(cells, names=columns) if columns else batch
    except UnicodeError as error:
        raise _wrong_encoding(path, dataset, dialect, row=row + 1) from error


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
