"""Reading and writing tables: whatever cells hold comes back as it was, or an error says what is wrong."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmtab.data import csv_files, files
from mmtab.utils.errors import DataError

TEXT = st.text(st.characters(codec="utf-8"), max_size=12) | st.sampled_from(
    ["", " ", '"', '""', ",", "\n", "\r", "\r\n", "\0", "a\n\nb", 'x"y', "NA", "nan", "007", "\ufeff", "é́☂", "=1+1"]
)
NAMES = TEXT.filter(lambda name: name.strip() and "\0" not in name)
LIMITS = settings(max_examples=100, deadline=None)


@st.composite
def string_tables(draw: st.DrawFn) -> pa.Table:
    names = draw(st.lists(NAMES, min_size=1, max_size=4, unique=True))
    n = draw(st.integers(1, 5))
    cells = st.lists(st.none() | TEXT, min_size=n, max_size=n)
    return pa.table({name: pa.array(draw(cells), pa.string()) for name in names})


@LIMITS
@given(string_tables())
def test_text_of_any_kind_survives_csv_and_parquet(table: pa.Table) -> None:
    with TemporaryDirectory() as folder:
        for suffix in files.FORMATS:
            path = Path(folder) / f"rows{suffix}"
            files.write_table(path, table)
            assert len(table) == files.count(path, "any")
            assert files.read(path, "any").equals(table)


@LIMITS
@given(st.binary(max_size=40) | st.text('a,"\n\r é', max_size=30).map(str.encode))
def test_any_bytes_as_csv_are_read_faithfully_or_refused_by_name(data: bytes) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "rows.csv"
        path.write_bytes(data)
        try:
            read = files.read(path, "any")
        except DataError as error:
            assert "dataset any, table rows" in str(error)
            return
        text = data.decode().removeprefix("\ufeff")
        rows = [row for row in csv.reader(io.StringIO(text, newline=""), strict=True) if row or read.num_columns == 1]
        while read.num_columns == 1 and rows and not rows[0]:  # empty lines before the header
            rows.pop(0)
        assert read.column_names == rows[0]
        found = [[cell or "" for cell in row.values()] for row in read.to_pylist()]
        assert found == [row or [""] for row in rows[1:]]


@pytest.mark.parametrize(
    "data, says",
    [
        (b"", "the file is empty"),
        (b"a,,c\n1,2,3\n", "column 2 has no name"),
        (b"a,b,a\n1,2,3\n", "column a: the header names a column twice"),
        (b"a,b\n1,2\n1,2,3\n", "row 2: ragged row; expected 2 cells; found 3"),
        (b'a,b\n1,"x\n2,y\n', "the quotes of line 3 do not match"),
        (b'a,b\n1,"x"y\n', "the quotes of line 2 do not match"),
        (b"a,b\n1,2\n3,\xe9\n", "row 2, column b: the cell is not UTF-8"),
        (b"a\xe9,b\n1,2\n", "the header is not UTF-8"),
        ("a,b\n1,2\n".encode("utf-16"), "--encoding utf-16"),
    ],
)
def test_a_faulty_csv_is_refused_by_name(tmp_path: Path, data: bytes, says: str) -> None:
    (tmp_path / "rows.csv").write_bytes(data)
    with pytest.raises(DataError) as caught:
        files.read(tmp_path / "rows.csv", "toys")
    assert says in str(caught.value)


def test_rows_longer_than_a_block_are_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_files, "CSV_BLOCK", 1 << 16)
    texts = ["x\n," * (60_000 if i % 50 == 7 else 2) for i in range(200)]
    files.write_table(tmp_path / "rows.csv", pa.table({"id": [str(i) for i in range(200)], "text": texts}))
    read = files.read(tmp_path / "rows.csv", "toys")
    assert read["id"].to_pylist() == [str(i) for i in range(200)] and read["text"].to_pylist() == texts


@pytest.mark.parametrize("suffix", files.FORMATS)
def test_a_folder_of_shards_is_one_table(tmp_path: Path, suffix: str) -> None:
    for shard in range(3):
        rows = {"id": [f"{shard}-{i}" for i in range(4)], "x": [float(shard)] * 4}
        files.write_table(tmp_path / "train" / f"part-{shard}{suffix}", pa.table(rows))
    path = files.find(tmp_path, "toys", "train")
    assert path.is_dir() and files.count(path, "toys") == 12
    assert files.read(path, "toys", ["id"])["id"].to_pylist() == [f"{s}-{i}" for s in range(3) for i in range(4)]
    files.write_table(path / f"part-9{suffix}", pa.table({"id": ["z"]}))
    with pytest.raises(DataError, match=r"shard part-9.* has other columns"):
        files.read(path, "toys")


def test_a_table_is_read_in_batches_of_bounded_size(tmp_path: Path) -> None:
    table = pa.table(
        {
            "id": [str(i) for i in range(3000)],
            "blob": [bytes([i % 256]) * 3 + os.urandom(8) * 5000 for i in range(3000)],
        }
    )
    files.write_table(tmp_path / "rows.parquet", table)
    sizes = [batch.nbytes for batch in files.scan(tmp_path / "rows.parquet", "toys")]
    assert max(sizes) < 2 * files.BATCH_BYTES and sum(sizes) > 3 * files.BATCH_BYTES


def test_a_failed_write_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    files.write_table(path, pa.table({"x": ["old"]}))

    def batches() -> Iterator[pa.RecordBatch]:
        yield pa.record_batch({"x": ["new"]})
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError):
        files.write_table(path, batches(), pa.schema({"x": pa.string()}))
    assert files.read(path, "toys").to_pylist() == [{"x": "old"}] and list(tmp_path.iterdir()) == [path]


def test_csv_refuses_cells_it_cannot_hold(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="column photo: a csv cannot hold"):
        files.write_table(tmp_path / "rows.csv", pa.table({"photo": [b"\x89PNG"]}))
