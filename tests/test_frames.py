"""Tables of other libraries, as ``fit`` and open runs take them and give them back."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet
import pytest
from PIL import Image

import mmtab
from mmtab.data import objects
from mmtab.utils.errors import ConfigError, DataError


class Stream:
    """What DuckDB, Ibis and others give: a table that is known by one method."""

    def __init__(self, table: pa.Table) -> None:
        self.table = table

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        return self.table.__arrow_c_stream__(requested_schema)


@pytest.fixture
def rows(kway_run: tuple[Path, Path]) -> pa.Table:
    return pa.parquet.read_table(kway_run[0] / "test.parquet").drop_columns(["label"]).slice(0, 8)


def opened(folder: Path, cells: list[str | None]) -> list[list[Image.Image] | None]:
    """The pictures of each cell."""
    return [None if cell is None else [Image.open(folder / path).copy() for path in cell.split(";")] for cell in cells]


def test_predictions_of_every_kind_of_table(kway_run: tuple[Path, Path], rows: pa.Table) -> None:
    data, folder = kway_run
    run = mmtab.load_run(folder)
    predictor, expected = run.predictor(image_root=data), run.predict(rows, image_root=data).tolist()
    p = run.predict_proba(rows, image_root=data)
    hugging = datasets.Dataset(pa.table(rows))
    reversed_ = hugging.select(range(7, -1, -1))  # which Arrow does not see: the order is apart from the table
    kinds: list[tuple[Any, type]] = [
        (hugging, datasets.Dataset),
        (pl.from_arrow(rows).lazy(), pl.LazyFrame),
        (pa.RecordBatchReader.from_batches(rows.schema, rows.to_batches()), pa.Table),
        (rows.to_pylist(), list),
        (rows.to_pydict(), dict),
        (Stream(rows), pa.Table),
    ]
    for table, kind in kinds:
        found = predictor(table)
        assert isinstance(found, kind), kind
        table = found.collect() if kind is pl.LazyFrame else found
        column = [row["prediction"] for row in table] if kind is list else list(table["prediction"])
        assert [getattr(cell, "as_py", lambda c=cell: c)() for cell in column] == expected
    assert run.predict(reversed_, image_root=data).tolist() == expected[::-1]
    found = run.predict_proba(hugging, image_root=data)
    assert isinstance(found, datasets.Dataset) and list(found["kind 1"]) == p["kind 1"].to_pylist()
    assert run.predict_proba(pl.from_arrow(rows).lazy(), image_root=data).collect().equals(pl.from_arrow(p))


def test_pictures_of_pil_are_cells(kway_run: tuple[Path, Path], rows: pa.Table) -> None:
    data, folder = kway_run
    run = mmtab.load_run(folder)
    pictures = opened(data, rows["photo"].to_pylist())
    assert max(len(cell or ()) for cell in pictures) == 2 and None in pictures
    frame = rows.to_pandas().assign(photo=pictures)
    expected = run.predict_proba(rows, image_root=data)["kind 0"].to_numpy()
    np.testing.assert_allclose(run.predict_proba(frame)["kind 0"], expected, atol=1e-5)
    first = pa.array([cell and cell.split(";")[0] for cell in rows["photo"].to_pylist()])
    plain = rows.set_column(rows.column_names.index("photo"), "photo", first)
    expected = run.predict_proba(plain, image_root=data)["kind 0"].to_numpy()
    pictures = [cell and cell[0] for cell in pictures]
    frame = rows.to_pandas().assign(photo=pictures)
    plain = rows.set_column(rows.column_names.index("photo"), "photo", pa.nulls(len(rows), pa.string()))
    features = datasets.Dataset(pa.table(plain.drop_columns(["photo"]))).features | {"photo": datasets.Image()}
    hugging = datasets.Dataset.from_list(
        [row | {"photo": picture} for row, picture in zip(plain.to_pylist(), pictures, strict=True)],
        features=datasets.Features(features),
    )
    for table in (frame, hugging, frame.to_dict("records")):
        np.testing.assert_allclose(run.predict_proba(table)["kind 0"], expected, atol=1e-5)
    with pytest.raises(DataError, match="column photo: cells that no table holds"):
        run.predict(rows.to_pandas().assign(photo=[[object()]] * len(rows)))


def test_classes_and_splits_of_hugging_face(tmp_path: Path, backbone: Path) -> None:
    names = ["cat", "dog"]

    def part(n: int, seed: int) -> datasets.Dataset:
        label = np.random.default_rng(seed).integers(0, 2, n)
        values = {"x": label + np.linspace(0, 0.1, n), "label": label}
        features = datasets.Features({"x": datasets.Value("float64"), "label": datasets.ClassLabel(names=names)})
        return datasets.Dataset.from_dict(values, features=features)

    splits = datasets.DatasetDict(train=part(60, 0), validation=part(30, 1), test=part(20, 2))
    small = {"trainer": {"max_epochs": 1, "progress": False}, "d_model": 16}
    run = mmtab.fit(splits, label="label", test=True, output=tmp_path / "run", **small)
    assert [len(run.dataset[split]) for split in ("train", "valid", "test")] == [60, 30, 20]
    assert "test" in run.metrics and set(run.predict(splits["test"])) <= set(names)
    dataset = mmtab.Dataset.from_frames(splits, label="label")
    assert dataset.tables == ["test", "train", "valid"]
    missing = objects.as_table(
        datasets.Dataset.from_dict(
            {"label": [1, -1]}, features=datasets.Features({"label": splits["train"].features["label"]})
        ),
        "d",
        "t",
    )
    assert missing["label"].to_pylist() == ["dog", None]
    with pytest.raises(ConfigError, match="train, valid, test beside valid"):
        mmtab.fit(splits, splits["test"], label="label")
    with pytest.raises(ConfigError, match="found extra"):
        mmtab.fit(datasets.DatasetDict(extra=splits["train"]), label="label")


def test_what_is_no_table_says_what_is(rows: pa.Table) -> None:
    streamed = datasets.Dataset(pa.table(rows)).to_iterable_dataset()
    for source in (streamed, 3, object(), np.zeros((2, 2)), datasets.DatasetDict()):
        with pytest.raises(DataError, match="a Hugging Face dataset, a dict of columns"):
            objects.as_table(source, "data", "rows")


def test_hugging_face_is_not_imported() -> None:
    code = "import sys, pandas as pd, mmtab.data.objects as r; r.as_table(pd.DataFrame({'a': [1]}), 'd', 't')"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}; print('datasets' in sys.modules)"], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"
