"""Prediction reads raw tables as training did: their formats, their columns, their ids."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet
import pytest

import mmtab
from mmtab.runs.predict import predict
from mmtab.utils.errors import DataError, MmtabError

SMALL: dict[str, Any] = {"recipe": "frozen", "d_model": 16, "trainer": {"max_epochs": 1, "progress": False}}


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    days = pd.date_range("2021-01-02", periods=90, freq="3D")
    cells = {
        "price": [f"{i % 7 + 1}.000,{125 * (i % 4):03}" for i in range(90)],
        "lasts": [f"{90 + i % 5} min" for i in range(90)],
        "day": days.strftime("%d.%m.%Y"),
        "kind": ["cup", "hat", "pan"] * 30,
    }
    return pd.DataFrame(cells)


@pytest.fixture(scope="module")
def run(rows: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> mmtab.Run:
    folder = tmp_path_factory.mktemp("formats")
    rows.assign(nothing="").to_csv(folder / "rows.csv", sep=";", index=False)
    with pytest.warns(UserWarning, match=r"delimiter ';'; nothing: left out"):
        return mmtab.fit(folder / "rows.csv", label="kind", output=folder / "run", **SMALL)


def test_prediction_reads_cells_as_training_did(run: mmtab.Run, rows: pd.DataFrame, tmp_path: Path) -> None:
    assert run.schema.formats == {"price": "1.234,5", "lasts": "1234.5 min", "day": "day first"}
    asked = rows.drop(columns="kind")
    expected = run.predict_proba(asked).to_numpy()
    prices = asked.price.str.replace(".", "", regex=False).str.replace(",", ".").astype(float)
    plain = {"price": prices, "lasts": asked.lasts.str[:2].astype(int), "day": pd.to_datetime(asked.day, dayfirst=True)}
    asked.to_csv(tmp_path / "asked.tsv", sep="\t", index=False)
    asked.to_excel(tmp_path / "asked.xlsx", index=False)
    for same in (pd.DataFrame(plain), asked.to_dict("list"), tmp_path / "asked.tsv", tmp_path / "asked.xlsx"):
        probabilities = run.predict_proba(same)  # pandas for pandas, else Arrow
        np.testing.assert_allclose(np.column_stack([probabilities[name] for name in ("cup", "hat", "pan")]), expected)
    assert predict(run.folder, tmp_path / "asked.tsv", tmp_path / "out.csv") == 90  # nobody has to know the ids
    assert pd.read_csv(tmp_path / "out.csv").iloc[:, 0].tolist() == list(range(1, 91))
    test = run.dataset["test"]
    assert predict(run.folder, test.path, tmp_path / "test.csv") == len(test)
    assert run.evaluate(rows)["accuracy"] >= 0


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"lasts": "2 h"}, "column lasts: 90 .* or as in '1234.5 min'; found 2 h"),
        ({"day": "01.13.2021"}, "column day: 90 .* or as in 'day first'; found 01.13.2021"),
        ({"price": None}, "column price: the file lacks this column"),
    ],
)
def test_what_training_did_not_read_is_named(
    run: mmtab.Run, rows: pd.DataFrame, change: dict[str, Any], says: str
) -> None:
    name, cell = next(iter(change.items()))
    with pytest.raises(DataError, match=says):
        run.predict(rows.drop(columns=name) if cell is None else rows.assign(**change))
    with pytest.raises(MmtabError, match="no such table"):
        run.predict(rows, left=rows)


@pytest.mark.parametrize("delimiter", ["^", ":", "~"])
def test_a_delimiter_that_nobody_expects_is_asked_for(
    run: mmtab.Run, rows: pd.DataFrame, delimiter: str, tmp_path: Path
) -> None:
    rows.assign(price=1).to_csv(tmp_path / "rows.csv", index=False, sep=delimiter)
    with pytest.raises(DataError, match=r"Fix: say what divides the columns, such as delimiter='\^'"):
        run.predict(tmp_path / "rows.csv")


def test_a_frame_is_not_told_to_edit_a_file(run: mmtab.Run, rows: pd.DataFrame) -> None:
    for name in (column.name for column in run.schema.columns):
        with pytest.raises(
            DataError, match=f"column {name}: the file lacks this column; .*, as train has it"
        ) as caught:
            run.predict(rows.drop(columns=name))
        assert "dataset.yaml" not in str(caught.value)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("both", [False, True])
def test_a_column_of_pairs_is_missed_by_name(
    pairs_run: tuple[Path, Path], side: str, both: bool, tmp_path: Path
) -> None:
    data, run = pairs_run
    shutil.copytree(data / "images", tmp_path / "images")
    sides = {name: tmp_path / f"{name}.csv" for name in ("left", "right")}
    for name, path in sides.items():
        frame = pyarrow.parquet.read_table(data / f"{name}.parquet").to_pandas()
        (frame.drop(columns="size") if both or name == side else frame).to_csv(path, index=False)
    asked = pyarrow.parquet.read_table(data / "pairs_test.parquet").select(["left_id", "right_id"])
    asked.to_pandas().to_csv(tmp_path / "asked.csv", index=False)
    with pytest.raises(DataError, match=rf"table {'left' if both else side}, column size: the file lacks this column"):
        predict(run, tmp_path / "asked.csv", tmp_path / "out.csv", **sides)


def test_an_id_of_pairs_that_repeats_is_called_so(tmp_path: Path) -> None:
    left = pd.DataFrame({"code": [f"l{i}" for i in range(30)], "x": np.arange(30) / 7})
    right = left.assign(code=[f"r{i}" for i in range(30)])
    pairs = pd.DataFrame({"left_id": left.code, "right_id": right.code, "label": [0, 1] * 15})
    frames = {"left": pd.concat([left, left.tail(1)]), "right": right, "pairs": pairs}
    with pytest.raises(DataError, match=r"table left, row 31 \(id l29\), column code: duplicate id.*also in row 30"):
        mmtab.Dataset.from_frames(frames)
    assert mmtab.Dataset.from_frames(frames | {"left": left}).schema.id == "code"


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"trainer": {"lr": -1}}, "trainer.lr=-1.0: expected at least 0"),
        ({"trainer": {"lr": float("inf")}}, "trainer.lr=inf"),
        ({"trainer": {"max_epochs": "x"}}, "trainer.max_epochs=x: expected a whole number"),
        ({"trainer": {"accelerator": "x"}}, "accelerator=x"),
        ({"trainer": 5}, r"trainer=5: expected a name of configs/trainer/"),
        ({"recipe": 5}, r"recipe=5: expected a name of configs/recipe/"),
        ({"seed": -1}, "seed=-1: expected at least 0"),
        ({"d_model": 0}, "d_model=0: expected at least 1"),
        ({"token_dropout": 1}, "token_dropout=1.0: expected at least 0, and below 1"),
        ({"text": {"max_length": 0}}, "text.max_length=0: expected at least 1"),
        ({"numeric": {"n_bins": 0}}, "numeric.n_bins=0: expected at least 1"),
        ({"numeric": {"_target_": 5}}, "numeric._target_=5: expected the name of a class"),
        ({"fusion": {"n_heads": 0}}, "fusion.n_heads=0: expected at least 1"),
        ({"fusion": {"dropout": 2}}, "fusion.dropout=2: expected at least 0, and below 1"),
        ({"task": "x"}, "task='x': expected kway or regression or matching"),
        ({"output": 5}, "output=5: expected text"),
        ({"types": ["kind"]}, "types; expected a dict by column"),
        ({"formats": {"day": "d.m.y"}}, "column day: no such format; expected 'month first' or 'day first'"),
        ({"label": 5}, "column 5: no table has this column"),
    ],
    ids=str,
)
def test_an_argument_that_cannot_be_is_one_line(
    settings: dict[str, Any], says: str, rows: pd.DataFrame, tmp_path: Path
) -> None:
    with pytest.raises(MmtabError, match=says) as caught:
        mmtab.fit(rows, **{"label": "kind", "output": tmp_path / "run"} | SMALL | settings)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("train", ["nowhere/at_all", "none.csv", "fashon", "."])
def test_a_path_that_leads_nowhere_is_called_so(train: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        MmtabError, match=r"there is no .*at_all|no file none.csv|did you mean fashion|no dataset.yaml in"
    ):
        mmtab.fit(train)
