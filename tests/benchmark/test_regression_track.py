"""A track of regression: controls and mmtab, scored alike."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from sklearn.metrics import r2_score
from toy_data import read_rows, write_numbers

from mmtab.benchmark.baselines import run_baseline
from mmtab.benchmark.runner import run_benchmark
from mmtab.benchmark.scoring import metrics, read_predictions
from mmtab.benchmark.truth import Truth
from mmtab.config.types import BenchmarkConfig, SystemConfig, TrackConfig
from mmtab.utils.errors import DataError


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_numbers(tmp_path_factory.mktemp("data") / "prices", n=150, images=False)


@pytest.mark.parametrize(("name", "least"), [("majority", -0.2), ("tfidf_linear", 0.9), ("tfidf_gbm", 0.8)])
def test_controls(data: Path, tmp_path: Path, name: str, least: float) -> None:
    run_baseline(name, data, tmp_path, 0, Path(os.environ["MMTAB_CACHE"]))
    truth = Truth.read(data, "test")
    found = metrics(truth, read_predictions(tmp_path / "predictions_test.parquet", truth))
    y_true = [row["label"] for row in read_rows(data / "test.parquet")]
    y_pred = [row["prediction"] for row in read_rows(tmp_path / "predictions_test.parquet")]
    assert found["r2"] == pytest.approx(r2_score(y_true, y_pred))
    assert found["r2"] > least and (name != "majority" or found["r2"] <= 0)


def test_a_board(data: Path, backbone: Path, tmp_path: Path) -> None:
    systems = {
        "mean": SystemConfig(title="mean", deterministic=True, baseline="majority"),
        "ours": SystemConfig(title="ours", kind="mmtab", train=["recipe=frozen", "trainer.max_epochs=1"]),
        "others": SystemConfig(title="others", tasks=["kway"], baseline="majority"),
    }
    board = run_benchmark(
        BenchmarkConfig(
            output=str(tmp_path / "bench"),
            track={"regression": TrackConfig("Regression", [str(data)])},
            system=systems,
            overrides=[f"text.backbone={backbone}"],
            cache=os.environ["MMTAB_CACHE"],
        )
    )
    assert not board.failures and {entry.name for entry in board.entries} == {"mean", "ours"}
    scores = {entry.name: entry.of("prices")[0].value for entry in board.entries}
    assert scores["ours"] > 0.9 > 0 >= scores["mean"]


@pytest.mark.parametrize(
    ("column", "value", "problem"),
    [("prediction", "dear", "not a prediction"), ("prediction", None, "not a prediction"), ("id", "x", "not in test")],
)
def test_what_is_refused(data: Path, tmp_path: Path, column: str, value: object, problem: str) -> None:
    truth = Truth.read(data, "test")
    columns = {"id": truth.ids["id"], "prediction": truth.label[:, 0].astype(object).tolist()}
    columns[column] = [value, *columns[column][1:]]
    cells = {name: [None if cell is None else str(cell) for cell in values] for name, values in columns.items()}
    pa.parquet.write_table(pa.table(cells), tmp_path / "predictions.parquet")
    with pytest.raises(DataError, match=problem):
        read_predictions(tmp_path / "predictions.parquet", truth)


def test_a_truth_that_is_written_is_read_again(data: Path, tmp_path: Path) -> None:
    truth = Truth.read(data, "test")
    truth.write(tmp_path)
    assert (Truth.load(tmp_path).label == truth.label).all() and truth.label.dtype == np.float64
