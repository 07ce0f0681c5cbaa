"""How long the sequences of a table's text are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from toy_data import write_kway

from mmtab.data.schema import ColumnType, Schema
from mmtab.data.table import read_split
from mmtab.features.backbones import TextSpec
from mmtab.features.text import fitting_length, tokenize
from mmtab.runs.setup import prepare
from mmtab.utils.cache import Store


def long_texts(folder: Path, words: int, share: float = 1.0, n: int = 200) -> Path:
    """A table whose titles have so many words in a share of rows, and else one."""
    path = write_kway(folder, n=n, images=False) / "train.parquet"
    table = pa.parquet.read_table(path)
    n_long = round(share * len(table))
    titles = pa.array(["red lamp " * (words // 2)] * n_long + ["lamp"] * (len(table) - n_long))
    pa.parquet.write_table(table.set_column(table.column_names.index("title"), "title", titles), path)
    return folder


def length_of(folder: Path, backbone: Any, layout: Any = "joint", limit: int = 256) -> int:
    schema = Schema.read(folder)
    spec = TextSpec.load(backbone, layout, limit)
    return fitting_length(read_split(folder, schema, "train"), schema.of_type(ColumnType.TEXT), spec)


@pytest.mark.parametrize(
    ("words", "share", "expected"),
    [(2, 1.0, 128), (180, 1.0, 192), (400, 1.0, 256), (400, 0.03, 128), (400, 0.07, 256)],
)
def test_it_is_what_most_rows_need(tmp_path: Path, backbone: Any, words: int, share: float, expected: int) -> None:
    assert length_of(long_texts(tmp_path, words, share), str(backbone)) == expected


def test_no_token_of_most_rows_is_cut(tmp_path: Path, backbone: Any) -> None:
    folder = long_texts(tmp_path / "data", 180)
    schema = Schema.read(folder)
    table, columns = read_split(folder, schema, "train"), schema.of_type(ColumnType.TEXT)
    spec = TextSpec.load(str(backbone), max_length=length_of(folder, str(backbone)))
    whole = TextSpec.load(str(backbone), max_length=256)
    cut, uncut = (tokenize(table, columns, each, Store(tmp_path / "cache")).lengths for each in (spec, whole))
    assert (cut == uncut).mean() >= 0.95 and cut.max() > 126


@pytest.mark.parametrize(("settings", "expected"), [((), 128), (("text.max_length=24",), 24)])
def test_a_run_says_the_number(
    configure: Any, tmp_path: Path, backbone: Any, settings: tuple[str, ...], expected: int
) -> None:
    """The tiny network reads 128 tokens at most."""
    folder = long_texts(tmp_path / "data", 400, n=60)
    config = configure(folder, "text.max_length=auto", "base=none", *settings)
    assert prepare(config).session.config.text["max_length"] == expected
