"""Tables: csv and parquet mean the same, and whatever breaks the standard is told with its place."""

from __future__ import annotations

import datetime as dt
import math
import uuid
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from toy_data import change_cell, read_rows, write_kway, write_pairs, write_table

from mmtab.data.cells import image_sources
from mmtab.data.pairs import read_pairs, read_pairs_file, read_records
from mmtab.data.schema import ColumnType, Schema
from mmtab.data.table import Table, fingerprint, has_labels, read_split, read_table
from mmtab.utils.errors import DataError

SUFFIXES = [".parquet", ".csv"]
COLUMNS = {"title": "text", "size": "numeric", "colour": "categorical", "photo": "image", "made": "datetime"}
SCHEMA = Schema.from_dict({"name": "toys", "task": "kway", "label": "label", "columns": COLUMNS})
HEADER = "id,label,title,size,colour,photo,made\n"


def csv(folder: Path, *rows: str, header: str = HEADER) -> Path:
    path = folder / "train.csv"
    path.write_bytes((header + "".join(f"{row}\n" for row in rows)).encode())
    return path


def one_column(folder: Path, kind: str, values: Any, suffix: str = ".parquet", bad_cells: Any = "error") -> Table:
    """A table with one column ``x`` and as many rows as values."""
    schema = Schema.from_dict({"name": "toys", "task": "kway", "label": "label", "columns": {"x": kind}})
    array = values if isinstance(values, pa.Array) else pa.array(values)
    ids = pa.array([f"i{i}" for i in range(len(array))])
    path = write_table(folder / f"train{suffix}", {"id": ids, "label": ids, "x": array})
    return read_table(path, schema, bad_cells=bad_cells)


def told(call: Callable[[], object], *parts: str) -> str:
    """The message of the DataError that the call raises, which must hold all parts, on one line."""
    with pytest.raises(DataError) as error:
        call()
    message = str(error.value)
    for part in parts:
        assert part in message
    assert "\n" not in message
    return message


def same(a: Table, b: Table) -> None:
    assert a.ids.equals(b.ids) and list(a.columns) == list(b.columns)
    for name in a.columns:
        assert a.columns[name].equals(b.columns[name]), name
    assert (a.labels is None) == (b.labels is None) and (a.labels is None or a.labels.equals(b.labels))


# --- the same data in both formats -----------------------------------------------------------------------------------


def test_toy_datasets_are_the_same_in_both_formats(tmp_path: Path) -> None:
    schema = Schema.read(write_kway(tmp_path / "toys"))
    write_kway(tmp_path / "csv", suffix=".csv")
    for split, n in (("train", 36), ("valid", 12), ("test", 12)):
        table = read_split(tmp_path / "toys", schema, split)
        same(table, read_split(tmp_path / "csv", schema, split))
        assert len(table) == n and len(set(table.labels.to_pylist())) == 3  # type: ignore[union-attr]
        for name, values in table.columns.items():
            assert 0 < values.null_count < n, name


def test_toy_pairs_are_the_same_in_both_formats(tmp_path: Path) -> None:
    schema = Schema.read(write_pairs(tmp_path / "toys"))
    write_pairs(tmp_path / "csv", suffix=".csv")
    records = [read_records(tmp_path / kind, schema) for kind in ("toys", "csv")]
    same(records[0].table, records[1].table)
    for split, n in (("train", 24), ("valid", 8), ("test", 8)):
        a, b = (read_pairs(tmp_path / k, schema, split, r) for k, r in zip(("toys", "csv"), records, strict=True))
        assert len(a) == n and np.array_equal(a.left, b.left) and np.array_equal(a.right, b.right)
        assert a.labels.equals(b.labels) and set(a.labels.to_pylist()) == {0, 1}  # type: ignore[union-attr]
        assert (a.left < 40).all() and (a.right >= 40).all()


@pytest.mark.parametrize(
    ("kind", "values", "canonical"),
    [
        ("numeric", pa.array([1, None, -(2**40)]), [1.0, None, -(2.0**40)]),
        ("numeric", pa.array([0.1, None, 3e-5], pa.float32()), [0.1, None, 3e-5]),
        ("numeric", pa.array([0.1, None, math.nan, math.inf, -math.inf]), [0.1, None, None, math.inf, -math.inf]),
        ("numeric", pa.array([5e-324, 1.7976931348623157e308]), [5e-324, 1.7976931348623157e308]),
        ("numeric", pa.array([True, None, False]), [1.0, None, 0.0]),
        ("numeric", pa.array(["4", None, " -1.5e3 "]).dictionary_encode(), [4.0, None, -1500.0]),
        ("numeric", pa.array([2**53 + 1, 2**63], pa.uint64()), [2.0**53, 2.0**63]),
        ("numeric", pa.array([Decimal("1.50"), None]), [1.5, None]),
        ("numeric", pa.array([None, None], pa.float64()), [None, None]),
        ("categorical", pa.array([4, None]), ["4", None]),
        ("categorical", pa.array([4.0, None, 0.25], pa.float32()), ["4", None, "0.25"]),
        ("categorical", pa.array([True, None, False]), ["true", None, "false"]),
        ("categorical", pa.array(["é", None, "é"]).dictionary_encode(), ["é", None, "é"]),
        ("categorical", pa.array([2024, None]).dictionary_encode(), ["2024", None]),
        ("categorical", pa.array([dt.date(2024, 5, 18), None]), ["2024-05-18", None]),
        (
            "text",
            pa.array(['"hi", ok?', "a\nb\r\nc", "日本 ☂ é", "", None]),
            ['"hi", ok?', "a\nb\r\nc", "日本 ☂ é", None, None],
        ),
        ("text", pa.array([" x ", ";", "'"], pa.large_string()), [" x ", ";", "'"]),
        ("image", pa.array(["images/a.png;images/b.png", "", None]), ["images/a.png;images/b.png", None, None]),
        ("image", pa.array(["a.png", None]).dictionary_encode(), ["a.png", None]),
        ("datetime", pa.array([dt.date(1970, 1, 2), None, dt.date(9999, 12, 31)]), [86400.0, None, 253402214400.0]),
        ("datetime", pa.array([1_500_000, None], pa.timestamp("us")), [1.5, None]),
        ("datetime", pa.array([1500, -1], pa.timestamp("ms")), [1.5, -0.001]),
        ("datetime", pa.array([1_500_000_000, None], pa.timestamp("ns")), [1.5, None]),
        ("datetime", pa.array([dt.datetime(1500, 1, 1)], pa.timestamp("us")), [-14831769600.0]),
        ("datetime", pa.array([3600, None], pa.timestamp("s", tz="Europe/Berlin")), [3600.0, None]),
        ("datetime", pa.array(["1970-01-02", "1970-01-01T02:00:00+01:00", ""]), [86400.0, 3600.0, None]),
        ("datetime", pa.array(["2 Jan 1970", None]).dictionary_encode(), [86400.0, None]),
        (
            "datetime",
            pa.array(["Jan 2, 1970 01:00", "2-Jan-70", "02 JAN 70", "Jan 1970"]),
            [90000.0, 86400.0, 86400.0, 0.0],
        ),
    ],
)
def test_types_are_the_same_in_both_formats(tmp_path: Path, kind: str, values: pa.Array, canonical: list[Any]) -> None:
    tables = [one_column(tmp_path, kind, values, suffix) for suffix in SUFFIXES]
    same(*tables)
    for table in tables:
        assert table.columns["x"].to_pylist() == canonical
        assert table.columns["x"].type == (pa.float64() if kind in ("numeric", "datetime") else pa.large_string())
        assert table.n_bad_cells == 0


@pytest.mark.parametrize("kind", ["text", "categorical", "image", "datetime"])
def test_storage_forms_of_text_do_not_matter(tmp_path: Path, kind: str) -> None:
    cells = ["2024-05-18", None]
    expected = one_column(tmp_path, kind, pa.array(cells)).columns["x"]
    for form in (pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())):
        assert one_column(tmp_path, kind, pa.array(cells).cast(form)).columns["x"].equals(expected)


def test_names_may_be_numbers_dates_or_uuids(tmp_path: Path) -> None:
    value = uuid.UUID(int=7)
    cells = {"id": pa.array([value.bytes], pa.uuid()), "label": pa.array([3]), "x": pa.array(["a"])}
    path = write_table(tmp_path / "train.parquet", cells)
    schema = Schema.from_dict({"name": "toys", "task": "kway", "label": "label", "columns": {"x": "text"}})
    table = read_table(path, schema)
    assert table.ids.to_pylist() == [str(value)] and table.labels.to_pylist() == ["3"]  # type: ignore[union-attr]


def test_labels_left_empty_are_no_labels(tmp_path: Path) -> None:
    table = read_table(csv(tmp_path, "1,,a,1,red,,2024", "2,,a,1,red,,2024"), SCHEMA)
    assert table.labels is None and not has_labels(tmp_path, SCHEMA, "train")
    csv(tmp_path, "1,,a,1,red,,2024", "2,x,a,1,red,,2024")
    assert has_labels(tmp_path, SCHEMA, "train") and not has_labels(tmp_path, SCHEMA, "test")


def test_other_habits_of_csv_writers(tmp_path: Path) -> None:
    path = csv(tmp_path, '1,a,"b\r\nc",1,red,,2024\r', "", '2,a,d "e,TRUE,red,,2024\r', header="\ufeff" + HEADER)
    table = read_table(path, SCHEMA)
    assert table.columns["title"].to_pylist() == ["b\r\nc", 'd "e']
    assert table.columns["size"].to_pylist() == [1.0, 1.0]


def test_a_cell_of_megabytes(tmp_path: Path) -> None:
    long = "word " * 600_000
    assert one_column(tmp_path, "text", [None, long], ".csv").columns["x"][1].as_py() == long


def test_a_folder_named_like_a_partition_adds_nothing(tmp_path: Path) -> None:
    folder = write_kway(tmp_path / "size=3")
    assert read_split(folder, Schema.read(folder), "train").columns["size"].null_count > 0


# --- cells that do not fit -------------------------------------------------------------------------------------------


def test_text_in_a_numeric_column(tmp_path: Path) -> None:
    path = csv(tmp_path, "a,x,t,1,red,,2024", "b,x,t,1.5 kg,red,,2024", "c,x,t,,red,,2024", "d,x,t,huge,red,,2024")
    told(
        lambda: read_table(path, SCHEMA),
        "dataset toys, table train, row 2 (id b), column size: 2 cell(s) are not numeric",
        "expected a number",
        "found 1.5 kg",
        "Fix: correct the cells",
        "dataset.bad_cells=missing",
    )
    table = read_table(path, SCHEMA, bad_cells="missing")
    assert table.columns["size"].to_pylist() == [1.0, None, None, None] and table.n_bad_cells == 2


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_text_in_a_numeric_column_of_either_format(tmp_path: Path, suffix: str) -> None:
    folder = write_kway(tmp_path / "toys", suffix=suffix)
    change_cell(folder / f"train{suffix}", 4, "size", "huge")
    schema = Schema.read(folder)
    told(lambda: read_split(folder, schema, "train"), "row 5 (id train-4), column size", "found huge")
    assert read_split(folder, schema, "train", "missing").n_bad_cells == 1


@pytest.mark.parametrize(
    "text",
    [
        *("soon", "2024-13-01", "2024-01-01T25:00", "99999-01-01", "1e400", "9" * 40, "2024-01-01 10:00 +9999", "("),
        *("nan", "13/04/24", "24-04-13", "240413", "200105", "Aug 23", "09:30", "09:30 +0100", "12", "Mon", "3.5"),
        "12 May 10:00",
    ],
)
def test_not_a_moment(tmp_path: Path, text: str) -> None:
    told(
        lambda: one_column(tmp_path, "datetime", ["2024-05-18", text]),
        "row 2 (id i1), column x: 1 cell(s) are not datetime",
        "expected a date or time, such as 2024-05-18",
        text[:20],
    )
    assert one_column(tmp_path, "datetime", ["2024-05-18", text], bad_cells="missing").n_bad_cells == 1


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("text", pa.array([b"\xff\xfe", None])),
        ("text", pa.array([b"ab", None], pa.binary(2))),
        ("categorical", pa.array([b"\xff", None]).dictionary_encode()),
        ("categorical", pa.array([[1], None])),
        ("numeric", pa.array([[1.0], None])),
        ("numeric", pa.array([dt.date(2024, 1, 1), None])),
        ("numeric", pa.array([{"a": 1}, None])),
        ("datetime", pa.array([20240518, None])),
        ("datetime", pa.array([dt.time(12), None])),
        ("image", pa.array([3, None])),
        ("image", pa.array([[3], None])),
        ("image", pa.array([{"url": "x"}, None])),
        ("image", pa.array([{"bytes": "x", "path": "y"}, None])),
        ("image", pa.array([{"bytes": b"x", "path": 3}, None])),
    ],
)
def test_parquet_types_that_do_not_fit(tmp_path: Path, kind: str, values: pa.Array) -> None:
    told(lambda: one_column(tmp_path, kind, values), f"row 1 (id i0), column x: 1 cell(s) are not {kind}", "expected ")
    table = one_column(tmp_path, kind, values, bad_cells="missing")
    assert table.n_bad_cells == 1 and table.columns["x"].to_pylist() == [None, None]


@pytest.mark.parametrize("column", ["id", "label"])
def test_lists_and_bytes_are_no_names(tmp_path: Path, column: str) -> None:
    for values in (pa.array([["a"]]), pa.array([b"\xff"])):
        cells = {"id": ["1"], "label": ["x"], "x": ["t"]} | {column: values}
        path = write_table(tmp_path / "train.parquet", cells)
        schema = Schema.from_dict({"name": "toys", "task": "kway", "label": "label", "columns": {"x": "text"}})
        told(lambda p=path, s=schema: read_table(p, s), "table train, row 1", f"column {column}", "expected text")  # type: ignore[misc]


# --- tables that break the standard ----------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_column_of_the_schema_that_the_file_lacks(tmp_path: Path, suffix: str) -> None:
    folder = write_kway(tmp_path / "toys", suffix=suffix, columns=COLUMNS | {"weight": "numeric"})
    told(
        lambda: read_split(folder, Schema.read(folder), "valid"),
        "dataset toys, table valid, column weight: the file lacks this column",
        "expected a numeric column",
        "found columns ['id', 'title'",
        "Fix: add the column, or take it out of dataset.yaml",
    )


def test_no_id_column(tmp_path: Path) -> None:
    told(lambda: read_table(csv(tmp_path, "1", header="name\n"), SCHEMA), "table train, column id", "found columns")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_ids_missing_or_twice(tmp_path: Path, suffix: str) -> None:
    folder = write_kway(tmp_path / "toys", suffix=suffix)
    schema, path = Schema.read(folder), folder / f"train{suffix}"
    change_cell(path, 6, "id", "train-2")
    told(
        lambda: read_split(folder, schema, "train"),
        "dataset toys, table train, row 7 (id train-2), column id: duplicate id",
        "expected ids that name one row each",
        "found 'train-2', also in row 3",
        "Fix: make the ids unique",
    )
    change_cell(path, 6, "id", None)
    told(lambda: read_split(folder, schema, "train"), "table train, row 7, column id: a row without an id", "Fix:")


@pytest.mark.parametrize("content", ["", HEADER, HEADER.strip(), "\n\n"])
def test_empty_csv(tmp_path: Path, content: str) -> None:
    (tmp_path / "train.csv").write_text(content)
    told(lambda: read_split(tmp_path, SCHEMA, "train"), "dataset toys, table train: ", "mpty", "Fix: ")


def test_empty_parquet(tmp_path: Path) -> None:
    path = write_table(
        tmp_path / "train.parquet", {name: pa.array([], pa.string()) for name in ["id", "label", *COLUMNS]}
    )
    told(lambda: read_table(path, SCHEMA), "dataset toys, table train: the table is empty", "Fix: ")
    path.write_bytes(b"")
    told(lambda: read_table(path, SCHEMA), "dataset toys, table train: train.parquet is not a readable parquet file")


@pytest.mark.parametrize(
    ("rows", "number", "n_cells"),
    [
        (["1,a,t,1,red,,2024", "2,a,t,1,red,,2024", "3,a,t"], 3, 3),
        (["1,a,t", "2,a,t,1,red,,2024"], 1, 3),
        (['1,a,"t\nu\nv",1,red,,2024', "2,a,t,1,red,,2024,more"], 2, 8),
        ([f"{i},a,{'t' * 100},1,red,,2024" for i in range(30_000)] + ["x,a"], 30_001, 2),
    ],
)
def test_a_ragged_row(tmp_path: Path, rows: list[str], number: int, n_cells: int) -> None:
    told(
        lambda: read_table(csv(tmp_path, *rows), SCHEMA),
        f"dataset toys, table train, row {number}: ragged row; expected 7 cells; found {n_cells}: ",
        "Fix: quote cells",
    )


def test_a_quote_left_open(tmp_path: Path) -> None:
    told(lambda: read_table(csv(tmp_path, '1,a,"t,1,red,,2024', "2,a,t,1,red,,2024"), SCHEMA), "table train", "Fix: ")


def test_a_parquet_cut_in_half(tmp_path: Path) -> None:
    folder = write_kway(tmp_path / "toys")
    path = folder / "train.parquet"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    told(lambda: read_split(folder, Schema.read(folder), "train"), "dataset toys, table train", "cut short or damaged")
    whole = write_kway(tmp_path / "other") / "train.parquet"
    data = bytearray(whole.read_bytes())
    data[40:200] = bytes(160)  # damage inside, with the footer whole
    whole.write_bytes(data)
    told(lambda: read_table(whole, Schema.read(folder)), "dataset toys, table train")


def test_a_table_in_both_formats_or_in_none(tmp_path: Path) -> None:
    folder = write_kway(tmp_path / "toys")
    write_kway(tmp_path / "toys", suffix=".csv")
    schema = Schema.read(folder)
    told(
        lambda: read_split(folder, schema, "train"), "table train: the table exists twice", "train.parquet", "train.csv"
    )
    told(lambda: read_split(folder, schema, "dev"), "table dev: the table is missing", "expected one of dev.parquet")
    told(lambda: read_table(folder / "dev.csv", schema), "table dev: no file")
    told(lambda: read_table(folder / "dataset.yaml", schema), "cannot read dataset.yaml", "expected .parquet or .csv")


def test_a_header_that_names_a_column_twice(tmp_path: Path) -> None:
    path = csv(tmp_path, "1,a,t,1,red,,2024,2", header=HEADER.strip() + ",size\n")
    told(lambda: read_table(path, SCHEMA), "dataset toys, table train, column size: the header names a column twice")
    cells = pa.table([pa.array(["1"])] * 3, names=["id", "size", "size"])
    pq.write_table(cells, tmp_path / "other.parquet")
    told(lambda: read_table(tmp_path / "other.parquet", SCHEMA), "table other, column size: the header names")


def test_wrong_encoding(tmp_path: Path) -> None:
    path = tmp_path / "train.csv"
    path.write_bytes((HEADER + "1,a,t,1,red,,2024\n2,a,café,1,red,,2024\n").encode("latin-1"))
    told(
        lambda: read_table(path, SCHEMA),
        "dataset toys, table train, row 2, column title",
        "UTF-8",
        "Fix: save the file",
    )
    path.write_bytes((HEADER.strip() + ",größe\n1,a,t,1,red,,2024,1\n").encode("latin-1"))
    told(lambda: read_table(path, SCHEMA), "dataset toys, table train: the header is not UTF-8")
    path.write_bytes((HEADER + "1,a,t,1,red,,2024\n").encode("utf-16"))
    told(lambda: read_table(path, SCHEMA), "dataset toys, table train: the header is not UTF-8")


# --- records and pairs -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_pair_that_names_an_unknown_id(tmp_path: Path, side: str, suffix: str) -> None:
    folder = write_pairs(tmp_path / "toys", suffix=suffix)
    schema = Schema.read(folder)
    records = read_records(folder, schema)
    other_side = "r3" if side == "left" else "l3"  # known, but on the other side
    change_cell(folder / f"pairs_valid{suffix}", 2, f"{side}_id", other_side)
    told(
        lambda: read_pairs(folder, schema, "valid", records),
        f"dataset toys, table pairs_valid, row 3, column {side}_id: a pair names an unknown id",
        f"expected an id of {side}",
        f"found {other_side}",
        "Fix: correct the id, or add the record",
    )
    change_cell(folder / f"pairs_valid{suffix}", 2, f"{side}_id", None)
    told(lambda: read_pairs(folder, schema, "valid", records), f"row 3, column {side}_id")


@pytest.mark.parametrize("value", [2, "maybe", None, 0.5])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_bad_pair_label(tmp_path: Path, suffix: str, value: Any) -> None:
    folder = write_pairs(tmp_path / "toys", suffix=suffix)
    schema = Schema.read(folder)
    change_cell(folder / f"pairs_train{suffix}", 4, "label", value)
    told(
        lambda: read_pairs(folder, schema, "train", read_records(folder, schema)),
        "dataset toys, table pairs_train, row 5, column label: not a pair label",
        "expected 0 or 1",
        "Fix: ",
        "" if value is None else f"found {value}",
    )


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("labels", [[1, 0], [True, False], ["1", "0"], ["True", "False"], [1.0, 0.0], ["1.0", "0.0"]])
def test_pair_labels_as_they_are_written(tmp_path: Path, suffix: str, labels: list[Any]) -> None:
    folder = write_pairs(tmp_path / "toys")
    schema = Schema.read(folder)
    cells = {"left_id": ["l0", "l1"], "right_id": ["r0", "r1"], "label": labels}
    pairs = read_pairs_file(write_table(tmp_path / f"mine{suffix}", cells), schema, read_records(folder, schema))
    assert pairs.labels.to_pylist() == [1, 0]  # type: ignore[union-attr]


def test_pairs_without_labels_columns_or_rows(tmp_path: Path) -> None:
    folder = write_pairs(tmp_path / "toys")
    schema = Schema.read(folder)
    records = read_records(folder, schema)
    path = write_table(tmp_path / "mine.csv", {"left_id": ["l0"], "right_id": ["r3"]})
    assert read_pairs_file(path, schema, records).labels is None
    write_table(path, {"left_id": ["l0"], "right": ["r3"]})
    told(lambda: read_pairs_file(path, schema, records), "table mine, column right_id: the file lacks this column")
    write_table(path, {"left_id": pa.array([], pa.string()), "right_id": pa.array([], pa.string())})
    told(lambda: read_pairs_file(path, schema, records), "table mine: the table is empty")


def test_one_table_of_records(tmp_path: Path) -> None:
    folder = write_pairs(tmp_path / "toys")
    rows = read_rows(folder / "left.parquet") + read_rows(folder / "right.parquet")
    write_table(folder / "records.parquet", pa.Table.from_pylist(rows))
    schema = Schema.read(folder)
    both = read_records(folder, schema)
    assert both.n_left is None
    (folder / "records.parquet").unlink()
    same(both.table, read_records(folder, schema).table)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_column_of_one_side_only(tmp_path: Path, suffix: str) -> None:
    folder = write_pairs(tmp_path / "toys", suffix=suffix)
    for side, column in (("left", "size"), ("right", "photo")):
        rows = read_rows(folder / f"{side}{suffix}")
        cells = {name: pa.array([row[name] for row in rows]) for name in rows[0] if name != column}
        write_table(folder / f"{side}{suffix}", cells)
    schema = Schema.read(folder)
    table = read_records(folder, schema).table
    assert table.columns["size"].slice(0, 40).null_count == 40 and table.columns["size"].slice(40).null_count < 40
    assert table.columns["photo"].slice(40).null_count == 40
    wanted = Schema.from_dict(schema.to_dict() | {"columns": COLUMNS | {"weight": "numeric"}})
    told(lambda: read_records(folder, wanted), "column weight", "neither left nor right")


def test_images_stored_differently_on_each_side_are_stacked(tmp_path: Path) -> None:
    folder = write_pairs(tmp_path / "toys")
    rows = read_rows(folder / "right.parquet")
    cells = {name: pa.array([row[name] for row in rows]) for name in rows[0]}
    photos = [None if r["photo"] is None else [(folder / p).read_bytes() for p in r["photo"].split(";")] for r in rows]
    write_table(folder / "right.parquet", cells | {"photo": pa.array(photos)})
    values = read_records(folder, Schema.read(folder)).table.columns["photo"].to_pylist()
    sources = [image_sources(cell) for cell in values]
    assert sources[0][0].path == "images/l0.png" and sources[0][0].data is None
    assert sources[41][0].data == (folder / "images/r1.png").read_bytes()
    assert [len(s) for s in sources[:40]].count(2) > 3


# --- the rest --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        (None, []),
        ("", []),
        (b"", [(b"", None)]),
        ({"bytes": b"", "path": None}, [(b"", None)]),
        ({"bytes": b"", "path": "a.png"}, [(None, "a.png")]),
        ("a.png; b.png ;", [(None, "a.png"), (None, "b.png")]),
        (b"xyz", [(b"xyz", None)]),
        ({"bytes": b"x", "path": "a.png"}, [(b"x", "a.png")]),
        ({"bytes": None, "path": "a.png;b.png"}, [(None, "a.png"), (None, "b.png")]),
        ({"bytes": None, "path": None}, []),
        (["a.png", None, "b.png"], [(None, "a.png"), (None, "b.png")]),
        ([{"bytes": b"x", "path": None}, {"bytes": None, "path": "b.png"}], [(b"x", None), (None, "b.png")]),
    ],
)
def test_pictures_of_a_cell(cell: object, expected: list[tuple[bytes | None, str | None]]) -> None:
    assert [(source.data, source.path) for source in image_sources(cell)] == expected


def test_fingerprint_follows_the_content(tmp_path: Path) -> None:
    a, b = csv(tmp_path, "1"), write_table(tmp_path / "b.csv", {"id": ["1"]})
    first = fingerprint([a, b])
    assert fingerprint([b, a]) == first
    b.write_text("id\n2\n")
    assert fingerprint([a, b]) != first


def test_toys_are_the_same_for_the_same_seed(tmp_path: Path) -> None:
    folders = [write_kway(tmp_path / str(i) / "toys", seed=seed) for i, seed in enumerate((0, 0, 1))]
    prints = [fingerprint([p for p in folder.rglob("*.*") if p.is_file()]) for folder in folders]
    assert prints[0] == prints[1] != prints[2]


def test_real_datasets_load(real_dataset: Path) -> None:
    schema = Schema.read(real_dataset)
    if schema.of_rows:
        tables = [read_split(real_dataset, schema, split) for split in ("train", "valid", "test")]
        assert tables[0].labels is not None and tables[0].labels.null_count == 0
    else:
        records = read_records(real_dataset, schema)
        tables = [records.table]
        for split in ("train", "valid", "test"):
            pairs = read_pairs(real_dataset, schema, split, records)
            assert len(pairs) > 50 and 0 < np.asarray(pairs.labels).mean() < 0.5
    for table in tables:
        assert list(table.columns) == [column.name for column in schema.columns] and table.n_bad_cells == 0
        for name in schema.of_type(ColumnType.NUMERIC, ColumnType.DATETIME):
            assert table.columns[name].type == pa.float64()
