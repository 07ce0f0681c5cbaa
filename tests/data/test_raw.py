"""Files as people have them become the same table of the standard, or one line says what settles it."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import re
import zipfile
from collections.abc import Callable
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import openpyxl
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from PIL import Image
from toy_data import draw_picture

import mmtab
from mmtab.data import files, formats, objects, raw
from mmtab.data.csv_files import FOUND_OUT, Dialect
from mmtab.data.schema import ColumnType
from mmtab.utils.errors import DataError, MmtabError

FRAME = pd.DataFrame({"name": ["Café", "Müller", 'a "b"'] * 4, "price": ["2,5", "3,25", "4,0"] * 4, "n": range(12)})


def csv(separator: str = ",", **options: Any) -> Callable[[Path], None]:
    return lambda path: FRAME.to_csv(path, sep=separator, index=False, **options)


def written(text: str, encoding: str = "utf-8") -> Callable[[Path], object]:
    return lambda path: path.write_bytes(text.encode(encoding))


def named(separator: str, newline: str = "\n") -> str:
    return f"sep={separator}{newline}{FRAME.to_csv(sep=separator, index=False)}"


def json_lines(path: Path, encoding: str, end: str = "\n") -> None:
    lines = (json.dumps(row, ensure_ascii=False) for row in FRAME.to_dict("records"))
    path.write_bytes(end.join(lines).encode(encoding))


def rows_of(path: Path, scratch: Path, dialect: Dialect = FOUND_OUT) -> list[dict[str, Any]]:
    table = files.read(raw.standard_file(path, scratch, "toys", dialect), "toys")
    return [{name: str(cell) for name, cell in row.items()} for row in table.to_pylist()]


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("a.csv", csv()),
        ("A.CSV", csv()),
        ("a.tsv", csv("\t")),
        ("a.txt", csv("|")),
        ("a.csv", csv(";")),
        ("a.csv", csv("\t")),
        ("a.csv.gz", csv()),
        ("a.TSV.gz", csv("\t")),
        ("a.csv.gz", csv(";", encoding="cp1252")),
        ("a.csv", csv(encoding="utf-8-sig")),
        ("a.csv", csv(";", encoding="cp1252")),
        ("a.csv", csv(encoding="utf-16")),
        ("a.csv", csv(";", encoding="utf-16-le")),
        ("a.csv", csv(";", encoding="utf-32")),
        ("a.csv", written(named(";"))),
        ("a.csv", written(named(";", "\r\n"), "utf-8-sig")),
        ("a.csv", written(named(","), "utf-16")),
        ("a.pq", lambda path: FRAME.to_parquet(path)),
        ("a.PARQUET", lambda path: FRAME.to_parquet(path)),
        ("a.jsonl", lambda path: FRAME.to_json(path, orient="records", lines=True)),
        ("a.ndjson", lambda path: FRAME.to_json(path, orient="records", lines=True, force_ascii=False)),
        ("a.jsonl", lambda path: json_lines(path, "cp1252")),
        ("a.jsonl", lambda path: json_lines(path, "utf-16")),
        ("a.jsonl", lambda path: json_lines(path, "utf-8-sig", "\r\n")),
        ("a.xlsx", lambda path: FRAME.to_excel(path, index=False)),
    ],
)
def test_a_table_is_the_same_however_it_is_written(name: str, write: Callable[[Path], object], tmp_path: Path) -> None:
    write(tmp_path / name)
    (tmp_path / "scratch").mkdir()
    expected = [{key: str(cell) for key, cell in row.items()} for row in FRAME.to_dict("records")]
    assert rows_of(tmp_path / name, tmp_path / "scratch") == expected
    assert raw.is_raw(tmp_path / name) and raw.stem_of(tmp_path / name).lower() == "a"


@pytest.mark.parametrize(
    ("name", "write", "says"),
    [
        ("a.csv", written("x\n" + "Привет\n" * 3, "cp1251"), "encoding="),
        ("a.csv", written("x\n" + "Złoty, łódź\n" * 3, "cp1250"), "encoding="),
        ("a.csv", written("x\n" + "東京\n" * 3, "shift-jis"), "encoding="),
        ("a.csv", written("a;b,c\n" + "1;2,3\n" * 3), "delimiter="),
        ("a.csv", written("a;b;c\n1;2;3\n1;2;3;4\n"), "row 2: ragged row; expected 3 cells"),
        ("a.csv", written(""), "the file is empty"),
        ("a.csv.gz", written("a,b\n"), "not a readable csv.gz file"),
        ("a.csv.gz", lambda path: path.write_bytes(gzip.compress(b"a,b\n" * 999)[:20]), "not a readable csv.gz file"),
        ("a.jsonl", written('{"a": 1}\n{"a":\n'), "line 2 cannot be read as JSON"),
        ("a.jsonl", written('{"a": 1}\n{"a": 1, "b": 2, "a": 3}\n'), "the key 'a' comes twice"),
        ("a.jsonl", written("[1]\n"), "line 1; expected one object"),
        ("a.jsonl", written(""), "the table is empty"),
        ("a.xlsx", written("PK"), "not a readable xlsx file"),
        ("a.xls", written("x"), "cannot read a.xls; expected one of .csv"),
        ("a.pkl", lambda path: path.write_bytes(pickle.dumps(FRAME)), "cannot read a.pkl"),
        ("a.none", lambda path: None, "no file"),
        ("folder", lambda path: path.mkdir(), "no table in the folder"),
    ],
)
def test_what_is_not_certain_is_refused_by_one_line(
    name: str, write: Callable[[Path], object], says: str, tmp_path: Path
) -> None:
    write(tmp_path / name)
    with pytest.raises(DataError, match="dataset toys") as caught:
        rows_of(tmp_path / name, tmp_path)
    assert says in str(caught.value) and "\n" not in str(caught.value)


def test_what_is_said_settles_it(tmp_path: Path) -> None:
    cases = [
        ("a;b\nПривет;1\n", Dialect("cp1251", "")),
        ("a;b,c\n1;2,3\n", Dialect("", ";")),
        ("a;b\n1;2\n", Dialect("", ",")),
    ]
    for i, (text, dialect) in enumerate(cases):
        (folder := tmp_path / str(i)).mkdir()
        (tmp_path / "a.csv").write_bytes(text.encode(dialect.encoding or "utf-8"))
        first = rows_of(tmp_path / "a.csv", folder, dialect)[0]
        assert first == [{"a": "Привет", "b": "1"}, {"a": "1", "b,c": "2,3"}, {"a;b": "1;2"}][i]
    for wrong in (Dialect("nonsense", ""), Dialect("ascii", ""), Dialect("", ";;")):
        with pytest.raises(DataError, match="say which"):
            written("é,b\n")(tmp_path / "a.csv")
            raw.standard_file(tmp_path / "a.csv", tmp_path, "toys", wrong)


def test_sheets_and_mixed_cells_of_excel(tmp_path: Path) -> None:
    cells = pd.DataFrame({"x": [1, "N/A", 2.5], "day": pd.to_datetime(["2021-01-02"] * 3), "empty": [None] * 3})
    cells.to_excel(tmp_path / "a.xlsx", index=False)
    table = files.read(raw.standard_file(tmp_path / "a.xlsx", tmp_path, "toys"), "toys")
    assert table["x"].to_pylist() == ["1", "N/A", "2.5"] and pa.types.is_timestamp(table["day"].type)
    assert table["empty"].null_count == 3
    with pd.ExcelWriter(tmp_path / "b.xlsx") as book:
        for sheet in ("one", "two"):
            cells.to_excel(book, sheet_name=sheet)
    with pytest.raises(DataError, match=r"expected one sheet with cells; found \['one', 'two'\]"):
        raw.standard_file(tmp_path / "b.xlsx", tmp_path, "toys")


def test_lines_of_json_end_with_a_newline_alone(tmp_path: Path) -> None:
    texts = ["a\u2028b", "c\x85d", "e\x0bf"]
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(json.dumps({"t": text}, ensure_ascii=False) for text in texts[:2]), encoding="utf-8")
    (tmp_path / "scratch").mkdir()
    notes: list[str] = []
    read = raw.standard_file(path, tmp_path / "scratch", "toys", notes=notes)
    assert files.read(read, "toys")["t"].to_pylist() == texts[:2] and notes == []
    path.write_bytes(json.dumps({"kind": "M\u00fcr"}, ensure_ascii=False).encode("cp1252"))
    (tmp_path / "other").mkdir()
    read = raw.standard_file(path, tmp_path / "other", "toys", notes=notes)
    assert files.read(read, "toys")["kind"].to_pylist() == ["M\u00fcr"]
    assert notes == ["a.jsonl: read with encoding cp1252"]
    path.write_bytes('{"t": "Привет, мир"}'.encode("cp1251"))
    with pytest.raises(DataError, match="no other encoding is certain"):
        raw.standard_file(path, tmp_path, "toys")
    assert rows_of(path, tmp_path, Dialect("cp1251", "")) == [{"t": "Привет, мир"}]


def test_a_formula_that_no_spreadsheet_has_computed_is_no_missing_cell(tmp_path: Path) -> None:
    book = openpyxl.Workbook()
    for row in (["a", "b"], [1, "x"], [None, "y"], ["=A2*2", "z"]):
        book.active.append(row)
    book.save(tmp_path / "a.xlsx")
    with pytest.raises(DataError, match=r"a\.xlsx, cell A4 is a formula whose value the file does not have"):
        raw.standard_file(tmp_path / "a.xlsx", tmp_path, "toys")


def test_workbooks_that_are_damaged_or_say_that_they_are_huge(tmp_path: Path) -> None:
    FRAME.to_excel(tmp_path / "good.xlsx", index=False)
    with zipfile.ZipFile(tmp_path / "good.xlsx") as book:
        parts = {name: book.read(name) for name in book.namelist()}
    sheet = "xl/worksheets/sheet1.xml"

    def save(name: str, part: str, content: bytes) -> Path:
        with zipfile.ZipFile(tmp_path / name, "w") as book:
            for other, old in parts.items():
                book.writestr(other, content if other == part else old)
        return tmp_path / name

    wide = re.sub(rb'<dimension ref="[^"]*"', b'<dimension ref="A1:XFD1048576"', parts[sheet])
    assert rows_of(save("wide.xlsx", sheet, wide), tmp_path) == rows_of(tmp_path / "good.xlsx", tmp_path)
    for part, content in ((sheet, parts[sheet][:200]), ("xl/styles.xml", b"<no"), ("xl/workbook.xml", b"")):
        with pytest.raises(DataError, match="is not a readable xlsx file"):
            rows_of(save("bad.xlsx", part, content), tmp_path)


def test_a_key_a_line_is_too_many_columns(tmp_path: Path) -> None:
    lines = "\n".join(f'{{"key{i}": 1}}' for i in range(10_001))
    (tmp_path / "wide.jsonl").write_text(lines)
    with pytest.raises(DataError, match="too many columns"):
        rows_of(tmp_path / "wide.jsonl", tmp_path)


def test_folders_of_pictures_are_a_dataset_with_their_classes(tmp_path: Path) -> None:
    for k, kind in enumerate(("cup", "hat")):
        for i in range(10):
            draw_picture(tmp_path / "pictures" / kind / f"{i}.{'JPG' if i % 2 else 'png'}", k, i)
    dataset = mmtab.Dataset.from_frame(tmp_path / "pictures")
    assert dataset.schema.label == "label" and dataset.schema.of_type(ColumnType.IMAGE) == ["image"]
    row = next(iter(dataset["train"]))
    assert row["image"][0].open().size == (20, 20) and row["label"] in ("cup", "hat")


@pytest.mark.parametrize(
    "table",
    [
        FRAME.to_dict("list"),
        FRAME.to_dict("records"),
        {name: FRAME[name].to_numpy() for name in FRAME},
        pl.from_pandas(FRAME),
        pa.Table.from_pandas(FRAME),
        pa.RecordBatch.from_pandas(FRAME),
        FRAME.to_records(index=False),
    ],
)
def test_what_holds_a_table_is_one(table: Any) -> None:
    assert objects.as_table(table, "toys", "rows").to_pylist() == FRAME.to_dict("records")


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        ([Path("a/b.png"), None], ["a/b.png", None]),
        ([Decimal("Infinity"), Decimal("1.5"), None], [np.inf, 1.5, None]),
        ([2**70, 1], [2.0**70, 1.0]),
        ([np.datetime64("2020-01-01"), np.datetime64("NaT")], [datetime(2020, 1, 1), None]),
        ([1 + 2j], "cells that no table holds.* found complex"),
        ([10**400], "cells that no table holds.* found int"),
        ([1, "a"], "mixes kinds of values.* found int, str"),
        ([b"a", date(2020, 1, 1)], "mixes kinds of values.* found bytes, datetime.date"),
    ],
)
def test_cells_of_any_python_type_are_held_or_named(cells: list[Any], expected: Any) -> None:
    for column in (cells, pd.Series(cells, dtype=object)):
        if isinstance(expected, list):
            assert objects.as_table({"a": column}, "toys", "rows")["a"].to_pylist() == expected
        else:
            with pytest.raises(DataError, match=expected):
                objects.as_table({"a": column}, "toys", "rows")


def test_pictures_of_pillow_are_cells() -> None:
    for mode in ("1", "L", "P", "RGB", "RGBA", "CMYK", "F", "I;16"):
        (cell,) = objects.as_table({"a": [Image.new(mode, (3, 2))]}, "toys", "rows")["a"].to_pylist()
        with Image.open(io.BytesIO(cell)) as image:
            assert image.mode == mode and image.size == (3, 2)


@pytest.mark.parametrize(
    "table",
    [
        None,
        5,
        {},
        [],
        {1, 2},
        b"abc",
        FRAME.n,
        FRAME[["n"]].to_numpy(),
        FRAME.to_numpy().tolist(),
        (row for row in [{"a": 1}]),
        pl.from_pandas(FRAME).lazy(),
        pl.Series("a", [1]),
        pd.DataFrame(),
        {"a": [1, 2], "b": [1]},
        {"a": 1},
        FRAME.assign(n=[1, "x"] * 6),
        "no/such/file",
        Path("none.csv"),
    ],
    ids=lambda table: type(table).__name__,
)
def test_what_holds_none_is_one_line(table: Any) -> None:
    with pytest.raises(MmtabError) as caught:
        mmtab.Dataset.from_frame(table, label="n")
    assert "\n" not in str(caught.value) and "configs/dataset" not in str(caught.value)


def test_a_spreadsheet_warns_of_digits_that_it_does_not_keep(tmp_path: Path) -> None:
    path = tmp_path / "codes.xlsx"
    pd.DataFrame({"code": [2**61 + i for i in range(3)], "n": [10**14, 2, 3]}).to_excel(path, index=False)
    with pytest.warns(UserWarning, match=r"codes.xlsx, column code: 23\d{17} has more digits.* Fix: ") as caught:
        raw.standard_file(path, tmp_path / "scratch", "toys")
    assert len(caught) == 1


def test_numbers_of_one_column_written_in_two_ways_are_told_of() -> None:
    """113.513 fits 1.234,5, in which 113.5 is nothing: a csv of floats."""
    table = pa.table({"a": ["113,5", "1.234,25", "99,0", "12,5"] * 10, "k": ["x", "y"] * 20})
    run = mmtab.Dataset.from_frame(table, label="k", types={"a": "numeric"})
    assert run.schema.formats == {"a": "1.234,5"}

    def read(cells: list[str]) -> list[Any]:
        batch = pa.record_batch({"a": cells})
        return formats.standard_batch(batch, run.schema)["a"].to_pylist()

    assert read(["1.234", "12,5"]) == ["1234", "12.5"] and read(["113.5", "7"]) == ["113.5", "7"]
    with pytest.raises(DataError, match=r"column a.*1\.234,5, reads 113\.513 as 113513, and does not fit 113\.5"):
        read(["113.513", "113.5"])
