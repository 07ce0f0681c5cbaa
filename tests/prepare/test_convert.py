"""Converting: other files, the same values."""

from __future__ import annotations

import datetime
import math
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest
import toy_data
from hypothesis import given, settings
from hypothesis import strategies as st

from mmtab.data import files
from mmtab.data.cells import image_sources
from mmtab.data.files import table_stems
from mmtab.data.pictures import read_picture
from mmtab.data.schema import ColumnType, Schema
from mmtab.data.table import read_table
from mmtab.prepare.convert import convert
from mmtab.utils.errors import ConfigError, DataError

TEXT = st.text(st.characters(codec="utf-8"), max_size=8) | st.sampled_from(["", '"', "a,b", "\r\n", "\0", "007", "nan"])
CELLS: dict[str, tuple[pa.DataType, st.SearchStrategy[Any]]] = {
    "text": (pa.string(), TEXT),
    "long": (pa.large_string(), TEXT),
    "integer": (pa.int64(), st.integers(-(2**63), 2**63 - 1)),
    "small": (pa.int8(), st.integers(-128, 127)),
    "unsigned": (pa.uint64(), st.integers(0, 2**64 - 1)),
    "real": (pa.float64(), st.floats()),
    "half": (pa.float32(), st.floats(width=32)),
    "truth": (pa.bool_(), st.booleans()),
    "day": (pa.date32(), st.dates(datetime.date(1, 1, 1))),
    "moment": (pa.timestamp("us"), st.datetimes(datetime.datetime(1700, 1, 1))),
    "there": (
        pa.timestamp("ms", tz="Europe/Berlin"),
        st.datetimes(datetime.datetime(1950, 1, 1), datetime.datetime(2050, 1, 1)).map(
            lambda d: d.replace(microsecond=0, tzinfo=datetime.UTC)
        ),
    ),
    "money": (pa.decimal128(12, 2), st.integers(-(10**9), 10**9).map(lambda i: Decimal(i) / 100)),
}


@st.composite
def frames(draw: st.DrawFn) -> pa.Table:
    n = draw(st.integers(1, 4))
    names = draw(st.lists(st.sampled_from(sorted(CELLS)), min_size=1, unique=True))
    columns = {
        name: pa.array(draw(st.lists(st.none() | CELLS[name][1], min_size=n, max_size=n)), CELLS[name][0])
        for name in names
    }
    return pa.table({"id": [f"r{i}" for i in range(n)]} | columns)


def dataset(folder: Path, table: pa.Table, **entries: Any) -> Path:
    columns = {name: "text" for name in table.column_names if name not in ("id", "label")}
    raw = {
        "name": "any",
        "task": "kway",
        "label": "label",
        "id": "id",
        "columns": columns or {"text": "text"},
    } | entries
    Schema.from_dict(raw).write(folder)
    files.write_table(folder / "train.parquet", table)
    return folder


def same(a: pa.Table, b: pa.Table) -> bool:
    def plain(rows: list[dict[str, Any]]) -> str:
        return repr(
            [{k: "nan" if isinstance(v, float) and math.isnan(v) else v for k, v in row.items()} for row in rows]
        )

    return a.schema.equals(b.schema) and plain(a.to_pylist()) == plain(b.to_pylist())


@settings(max_examples=60, deadline=None)
@given(frames())
def test_parquet_to_csv_and_back_keeps_types_nulls_and_values(table: pa.Table) -> None:
    with TemporaryDirectory() as scratch:
        first = dataset(Path(scratch) / "a", table)
        middle = convert(first, Path(scratch) / "b", "csv")
        last = convert(middle, Path(scratch) / "c", "parquet")
        again = convert(last, Path(scratch) / "d", "csv")
        assert same(files.read(last / "train.parquet", "any"), table)
        assert (middle / "train.csv").read_bytes() == (again / "train.csv").read_bytes()
        assert Schema.read(last) == Schema.read(first)


@pytest.mark.parametrize("write", [toy_data.write_kway, toy_data.write_pairs])
def test_every_way_round_gives_the_same_rows_and_pictures(tmp_path: Path, write: Callable[..., Path]) -> None:
    first = write(tmp_path / "toys")
    steps: list[tuple[str, str, str]] = [
        ("csv", "csv", "keep"),
        ("parquet", "parquet", "keep"),
        ("one", "parquet", "embed"),
        ("apart", "csv", "keep"),
        ("again", "parquet", "embed"),
        ("files", "parquet", "files"),
    ]
    folder = first
    for name, to, images in steps:
        folder = convert(folder, tmp_path / name, to, images)  # type: ignore[arg-type]
        assert values(folder) == values(first), name
        assert (folder / "images").exists() == (images != "embed"), name


def values(folder: Path) -> dict[str, Any]:
    schema = Schema.read(folder)
    out: dict[str, Any] = {}
    for stem in table_stems(folder):
        path = files.find(folder, schema.name, stem)
        if stem.startswith("pairs"):
            out[stem] = [[str(cell) for cell in row.values()] for row in files.read(path, schema.name).to_pylist()]
            continue
        table = read_table(path, schema, folder=folder, partial=True)
        out[stem] = {"id": table.ids.to_pylist(), "label": table.labels and table.labels.to_pylist()}
        for name, cells in table.columns.items():
            rows = cells.to_pylist()
            if name in schema.of_type(ColumnType.IMAGE):
                rows = [[read_picture(table, s, i, name) for s in image_sources(cell)] for i, cell in enumerate(rows)]
            out[stem][name] = rows
    return out


def test_the_public_datasets_go_round_unchanged(real_dataset: Path, tmp_path: Path) -> None:
    csv = convert(real_dataset, tmp_path / "csv", "csv")
    back = convert(csv, tmp_path / "back", "parquet", "embed")
    assert values(back) == values(real_dataset)


def test_a_csv_becomes_typed_only_where_no_cell_changes(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    columns = {"n": "numeric", "x": "numeric", "zip": "categorical", "on": "datetime", "said": "datetime"}
    Schema.from_dict({"name": "a", "task": "kway", "label": "label", "columns": columns}).write(folder)
    (folder / "train.csv").write_text("id,n,x,zip,on,said,label\n1,3,2.50,01234,2024-05-18,18 May 2024,a\n2,,,,,,b\n")
    table = files.read(convert(folder, tmp_path / "b", "parquet") / "train.parquet", "a")
    kinds = {"n": "int64", "x": "double", "zip": "string", "on": "date32[day]", "said": "string"}
    assert {name: str(table.schema.field(name).type) for name in columns} == kinds
    assert table["zip"].to_pylist() == ["01234", None]


def test_embedded_paths_write_nothing_but_pictures_inside_the_folder(tmp_path: Path) -> None:
    picture = toy_data.draw_picture(tmp_path / "p.png", 1).read_bytes()
    other = toy_data.draw_picture(tmp_path / "q.png", 2).read_bytes()
    names = ["../evil.png", "/tmp/evil.png", "train.parquet", "a/../../b.png", "x.png", "x.png", None, "ok/y.png"]
    cells = [{"bytes": other if i == 5 else picture, "path": name} for i, name in enumerate(names)]
    table = pa.table({"id": [str(i) for i in range(8)], "photo": cells, "label": ["a"] * 8})
    folder = dataset(tmp_path / "in", table, columns={"photo": "image"})
    out = convert(folder, tmp_path / "out", "csv")
    paths = [row["photo"] for row in files.read(out / "train.csv", "any").to_pylist()]
    assert [(out / path).read_bytes() for path in paths] == [other if i == 5 else picture for i in range(8)]
    assert (paths[4], paths[7]) == ("x.png", "ok/y.png") and all((out / p).resolve().is_relative_to(out) for p in paths)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in", "out", "p.png", "q.png"]


def test_what_cannot_be_done_is_said(tmp_path: Path) -> None:
    folder = toy_data.write_kway(tmp_path / "toys")
    with pytest.raises(ConfigError, match="csv cannot hold embedded"):
        convert(folder, tmp_path / "x", "csv", "embed")
    with pytest.raises(ConfigError, match="exists"):
        convert(folder, folder, "csv")
    toy_data.change_cell(folder / "train.parquet", 3, "photo", "images/none.png")
    with pytest.raises(DataError, match=r"toys, table train, row 4 .*column photo: image missing"):
        convert(folder, tmp_path / "x", "parquet", "embed")
    assert not (tmp_path / "x").exists()


def test_shards_become_one_file(tmp_path: Path) -> None:
    folder = toy_data.write_kway(tmp_path / "toys", images=False)
    whole = files.read(folder / "train.parquet", "toys")
    (folder / "train.parquet").unlink()
    for i in range(3):
        files.write_table(folder / "train" / f"{i}.parquet", whole.slice(i * 12, 12))
    assert files.read(convert(folder, tmp_path / "one", "parquet") / "train.parquet", "toys").equals(whole)
