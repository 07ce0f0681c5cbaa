"""Files as people have them: the one place where a raw file of any kind becomes a table of the standard.

.csv, .tsv and .txt with any delimiter and encoding, also as .gz; .parquet; .jsonl; .xlsx; a folder of shards; a folder
of pictures, by class (``cup/1.jpg``). What is not certain is refused, with the option that settles it.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import json
import math
import re
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from mmtab.data import files
from mmtab.data.csv_files import FOUND_OUT, Dialect, column_names, scan_csv
from mmtab.data.objects import Wanted, as_table, from_columns, from_dicts
from mmtab.utils.errors import DataError
from mmtab.utils.optional import require

TEXTS = (".csv", ".tsv", ".tab", ".txt")
FORMATS = (*TEXTS, *(f"{suffix}.gz" for suffix in TEXTS), ".parquet", ".pq", ".jsonl", ".ndjson", ".xlsx")
PICTURES = {".png", ".jpg", ".jpeg", ".jfif", ".gif", ".bmp", ".webp", ".tif", ".tiff"}
DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}
EXACT = 10**15  # numbers below have all their digits in a spreadsheet
SAMPLE = 1 << 17  # characters from which the delimiter is found out


def suffix_of(path: Path) -> str:
    """In lower case, ``.csv.gz`` as one; empty for what is no table."""
    return next((suffix for suffix in FORMATS if path.name.lower().endswith(suffix)), "")


def stem_of(path: Path) -> str:
    """The name of the table, without its suffix."""
    return path.name[: len(path.name) - len(suffix_of(path))] if path.is_file() else path.name


def is_raw(path: Path) -> bool:
    """Whether it is a table, and no dataset folder."""
    return bool(suffix_of(path) and path.is_file()) or (
        path.is_dir() and not (path / "dataset.yaml").is_file() and (_has_shards(path) or any(_pictures(path)))
    )


def root_of(source: Any) -> Path:
    """Where the paths of a table's pictures start: the folder of a file, or the current one."""
    if not isinstance(source, str | Path):
        return Path.cwd()
    path = Path(source).expanduser().absolute()
    return path if path.is_dir() and not _has_shards(path) else path.parent


def standard_file(
    path: Path, scratch: Path, dataset: str, dialect: Dialect = FOUND_OUT, notes: list[str] | None = None
) -> Path:
    """The table as .csv or .parquet of the standard: the file itself, or one of the same name in ``scratch``. Into
    ``notes`` goes how the file is written, where that was found out.

    Raises DataError for what is no table, and for an encoding or a delimiter that is not certain.
    """
    path, suffix, stem = path.expanduser(), suffix_of(path), stem_of(path)
    if path.is_dir():
        if _has_shards(path):
            files.check_links(path, files.parts(path, dataset), dataset)
            return path
        rows = [{"image": str(file.relative_to(path)), **label} for file, label in _pictures(path)]
        if not rows:
            expected = "tables of one form, or folders of pictures by class"
            raise DataError(dataset, f"no table in the folder {path}", table=stem, expected=expected)
        table = from_dicts(rows, dataset, stem)
    elif not path.is_file():
        raise DataError(dataset, f"no file {path}", table=path.stem, fix="correct the path")
    elif suffix.removesuffix(".gz") in TEXTS:
        return _text(path, scratch, dataset, dialect, [] if notes is None else notes)
    elif suffix in (".parquet", ".pq"):
        if path.suffix == ".parquet":
            return path
        (scratch / f"{stem}.parquet").symlink_to(path.resolve())
        return scratch / f"{stem}.parquet"
    elif suffix:
        table = _excel(path, dataset) if suffix == ".xlsx" else _json_lines(path, dataset, dialect, notes)
    else:
        fix = "save it as .csv or .xlsx" if path.suffix.lower() in (".xls", ".ods") else "save it as one of these"
        expected = f"one of {', '.join(FORMATS)}"
        raise DataError(dataset, f"cannot read {path.name}", table=path.stem, expected=expected, fix=fix)
    files.write_table(scratch / f"{stem}.parquet", table)
    return scratch / f"{stem}.parquet"


def table_file(
    source: Any,
    scratch: Path,
    dataset: str,
    table: str,
    dialect: Dialect = FOUND_OUT,
    notes: list[str] | None = None,
    wanted: Wanted = lambda column: True,
) -> Path:
    """A table in memory, or the path of a raw one, as a file of the standard; ``table`` names it in errors. Of those in
    memory only the columns that are ``wanted``."""
    if isinstance(source, str | Path):
        return standard_file(Path(source), scratch, dataset, dialect, notes)
    files.write_table(scratch / f"{table}.parquet", as_table(source, dataset, table, wanted))
    return scratch / f"{table}.parquet"


def _has_shards(folder: Path) -> bool:
    return any(path.suffix in files.FORMATS for path in folder.iterdir())


def _pictures(folder: Path) -> Iterator[tuple[Path, dict[str, str]]]:
    """Pictures with their class, the folder that they lie in; of a flat folder without."""
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in PICTURES and path.is_file():
            parts = path.relative_to(folder).parts
            yield path, {"label": parts[0]} if len(parts) > 1 else {}


# --- text ------------------------------------------------------------------------------------------------------------


def _text(path: Path, scratch: Path, dataset: str, dialect: Dialect, notes: list[str]) -> Path:
    suffix, stem = suffix_of(path), stem_of(path)
    zipped, target = suffix.endswith(".gz"), scratch / f"{stem}.csv"
    try:
        encoding, reading = _codec(path, zipped, dataset, dialect)
        with _open(path, zipped) as raw, codecs.getreader(reading)(raw) as text:
            sample = text.read(SAMPLE, SAMPLE)
        says = re.match(r"sep=([,;\t|])\r?\n", sample)  # as Excel writes it
        delimiter = dialect.delimiter or (says[1] if says else "")
        delimiter = delimiter or ("\t" if suffix[:4] in (".tsv", ".tab") else _delimiter(sample, dataset, stem))
        if (encoding, delimiter) not in [("utf-8", ","), ("utf-8", "\t")]:
            notes.append(f"{path.name}: read with encoding {encoding} and delimiter {delimiter!r}")
        if zipped or says:
            plain = scratch / f"{stem}.txt"
            with _open(path, zipped) as raw, codecs.getreader(reading)(raw) as text, plain.open("wb") as out:
                if says:
                    text.readline()
                while block := text.read(1 << 20):
                    out.write(block.encode())
            path, encoding = plain, "utf-8"
    except (UnicodeError, LookupError) as error:
        raise _other_encoding(path, dataset, dialect) from error
    except (OSError, EOFError, zlib.error) as error:
        problem = f"{path.name} is not a readable {suffix[1:]} file ({error})"
        raise DataError(dataset, problem, table=stem, fix="write or copy it again") from error
    if len(delimiter) != 1:
        raise _uncertain(dataset, stem, "delimiter", ";", f"{delimiter!r} is no delimiter, which is one character")
    found = Dialect(encoding, delimiter)
    if found == Dialect() and path.suffix == ".csv":
        return path
    names = column_names(path, dataset, found)
    files.check_names(names, stem, dataset)
    fields = pa.schema([(name, pa.string()) for name in names])
    files.write_table(target, scan_csv(path, dataset, names, found, 0), fields)
    return target


def _open(path: Path, zipped: bool) -> Any:
    return gzip.open(path) if zipped else path.open("rb")


def _codec(path: Path, zipped: bool, dataset: str, dialect: Dialect) -> tuple[str, str]:
    """The encoding of a text file, and the codec that also reads over a mark of byte order."""
    encoding = dialect.encoding or _encoding(path, zipped, dataset)
    return encoding, "utf-8-sig" if encoding.lower() in ("utf-8", "utf8") else encoding


def _other_encoding(path: Path, dataset: str, dialect: Dialect) -> DataError:
    problem = f"the file is not {dialect.encoding or 'UTF-8, and no other encoding is certain'}"
    return _uncertain(dataset, stem_of(path), "encoding", "cp1252", problem)


def _encoding(path: Path, zipped: bool, dataset: str) -> str:
    """UTF-8; UTF-16; or cp1252, where accents stand alone among plain letters, as in no other script."""
    with _open(path, zipped) as raw:
        start = raw.read(4)
        if start in (b"\xff\xfe\0\0", b"\0\0\xfe\xff"):
            return "utf-32"
        if start[:2] in (b"\xff\xfe", b"\xfe\xff"):
            return "utf-16"
        if len(start) == 4 and 0 in start:
            return "utf-16-le" if start[1] == 0 else "utf-16-be"
        raw.seek(0)
        strict = codecs.getincrementaldecoder("utf-8")()
        try:
            for block in iter(lambda: raw.read(1 << 20), b""):
                strict.decode(block)
            strict.decode(b"", final=True)
            return "utf-8"
        except UnicodeDecodeError:
            raw.seek(0)
        for block in iter(lambda: raw.read(1 << 20), b""):
            try:
                text = block.decode("cp1252")
            except UnicodeDecodeError:
                text = "???"
            if re.search(r"[^\x00-\x7f]{3}|\?\?\?|[^\W\d_][¡-©«-¬®-´¶-¹»-¿][^\W\d_]", text):
                problem = "the file is not UTF-8, and no other encoding is certain"
                raise _uncertain(dataset, stem_of(path), "encoding", "cp1250", problem)
    return "cp1252"


def _delimiter(sample: str, dataset: str, table: str) -> str:
    """The one that gives all rows of the sample the width of the header; else the one that gives the widest header."""
    widths: dict[str, list[int]] = {}
    for delimiter in DELIMITERS:
        rows = [len(row) for row in csv.reader(sample.splitlines(keepends=True), delimiter=delimiter) if row]
        widths[delimiter] = rows[:-1] if len(sample) == SAMPLE and len(rows) > 1 else rows or [0]
    fits = [delimiter for delimiter, width in widths.items() if width[0] > 1 and len(set(width)) == 1]
    if len(fits) > 1:
        problem = f"the delimiter may be a {' or a '.join(DELIMITERS[delimiter] for delimiter in fits)}"
        raise _uncertain(dataset, table, "delimiter", fits[0], problem)
    return fits[0] if fits else max(DELIMITERS, key=lambda delimiter: widths[delimiter][0])


def _uncertain(dataset: str, table: str, option: str, example: str, problem: str) -> DataError:
    fix = f"say which, such as {option}={example!r} (mmtab prepare: --{option} {example!r})"
    return DataError(dataset, problem, table=table, fix=fix)


# --- values ----------------------------------------------------------------------------------------------------------


def _json_lines(path: Path, dataset: str, dialect: Dialect, notes: list[str] | None) -> pa.Table:
    try:
        encoding, codec = _codec(path, False, dataset, dialect)
        text = path.read_text(codec)
    except (UnicodeError, LookupError) as error:
        raise _other_encoding(path, dataset, dialect) from error
    if encoding != "utf-8" and notes is not None:
        notes.append(f"{path.name}: read with encoding {encoding}")
    rows = []
    for number, line in enumerate(text.removeprefix("\ufeff").split("\n"), 1):  # others end no line of JSON
        try:
            if line.strip():
                rows.append(json.loads(line, object_pairs_hook=_keys_once))
        except (ValueError, RecursionError) as error:
            problem, fix = f"line {number} cannot be read as JSON ({error})", "write one object a line"
            raise DataError(dataset, problem, table=stem_of(path), fix=fix) from error
        if rows and not isinstance(rows[-1], dict):
            expected = 'one object, such as {"price": 1.5}'
            raise DataError(dataset, f"line {number}", table=stem_of(path), expected=expected, found=line.strip())
    return from_dicts(rows, dataset, stem_of(path), mixed=True)


def _keys_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    if len(set(names)) < len(names):
        raise ValueError(f"the key {next(name for name in names if names.count(name) > 1)!r} comes twice")
    return dict(pairs)


def _excel(path: Path, dataset: str) -> pa.Table:
    """The one sheet that has cells; the first row is the header."""
    openpyxl, stem = require("openpyxl", extra="excel"), stem_of(path)
    try:
        book = openpyxl.load_workbook(path, read_only=True, data_only=True)
        for sheet in book.worksheets:
            sheet.reset_dimensions()  # a file may say of a cell that it is a million rows of 16,384
        most = files.MOST_COLUMNS + 1
        sheets = {sheet.title: [row[:most] for row in sheet.iter_rows(values_only=True)] for sheet in book.worksheets}
        book.close()
        formula = _formula_without_value(openpyxl, path, sheets)
    except (zipfile.BadZipFile, KeyError, ValueError, IndexError, TypeError, SyntaxError, OSError) as error:
        problem, fix = f"{path.name} is not a readable xlsx file ({error})", "save it again, or as .csv"
        raise DataError(dataset, problem, table=stem, fix=fix) from error
    if formula:
        problem = f"{path.name}, cell {formula} is a formula whose value the file does not have"
        raise DataError(dataset, problem, table=stem, fix="open it in a spreadsheet and save it, or save it as .csv")
    filled = {title: rows for title, rows in sheets.items() if any(c is not None for row in rows for c in row)}
    if len(filled) != 1:
        fix = "keep the one sheet that is the table, or save it as .csv"
        raise DataError(dataset, "expected one sheet with cells", table=stem, found=list(filled), fix=fix)
    header, *rows = [row for row in next(iter(filled.values())) if any(cell is not None for cell in row)]
    width = max(i + 1 for row in [header, *rows] for i, cell in enumerate(row) if cell is not None)
    names = ["" if name is None else str(name) for name in (*header, *[None] * width)[:width]]
    columns = list(zip(*((*row, *[None] * width)[:width] for row in rows), strict=True)) or [()] * width
    for name, cells in zip(names, columns, strict=True):
        long = next((c for c in cells if isinstance(c, int | float) and EXACT <= abs(c) < math.inf), None)
        if long is not None:
            problem = f"{path.name}, column {name}: {long:.0f} has more digits than a spreadsheet keeps in a number"
            warnings.warn(f"{problem}, so the last ones may be others. Fix: codes and ids as text", stacklevel=2)
    return from_columns(names, columns, dataset, stem, mixed=True)


def _formula_without_value(openpyxl: Any, path: Path, sheets: dict[str, list[tuple[Any, ...]]]) -> str:
    """The first cell of a formula that no spreadsheet has computed, such as B7 of a file that a library wrote; empty
    where there is none."""
    if not any(cell is None for rows in sheets.values() for row in rows for cell in row):
        return ""
    book = openpyxl.load_workbook(path, read_only=True)
    try:
        for sheet in book.worksheets:
            sheet.reset_dimensions()
            for cells, values in zip(sheet.iter_rows(), sheets[sheet.title], strict=False):
                for cell, value in zip(cells, values, strict=False):
                    if value is None and getattr(cell, "data_type", "") == "f":
                        return str(cell.coordinate)
    finally:
        book.close()
    return ""
