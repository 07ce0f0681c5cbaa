"""A track of regression: controls and mmtab, scored alike."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from sklearn.metrics import r2_score
from toy_data import read_rows, write_numbers

from mmtab.benchmark.baselines import run_baseline
from mmtab.benchmark.ensemble import average
from mmtab.benchmark.runner import run_benchmark
from mmtab.benchmark.scoring import CheckedPredictions, metrics, read_predictions
from mmtab.benchmark.truth import Truth
from mmtab.config.ranking import BenchmarkConfig, SystemConfig, TrackConfig
from mmtab.utils.errors import DataError

CONTROLS = [
    *(("majority", -0.2), ("tfidf_linear", 0.9), ("tfidf_gbm", 0.8)),
    *(("embeddings_linear", 0.9), ("embeddings_gbm", 0.8)),
]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_numbers(tmp_path_factory.mktemp("data") / "prices", n=150, images=False)


@pytest.mark.parametrize(("name", "least"), CONTROLS)
def test_controls(data: Path, tmp_path: Path, name: str, least: float) -> None:
    run_baseline(name, data, tmp_path, 0, Path(os.environ["MMTAB_CACHE"]))
    truth = Truth.read(data, "test")
    found = metrics(truth, read_predictions(tmp_path / "predictions_test.parquet", truth))
    y_true = [row["label"] for row in read_rows(data / "test.parquet")]
    y_pred = [row["prediction"] for row in read_rows(tmp_path / "predictions_test.parquet")]
    assert found["r2"] == pytest.approx(r2_score(y_true, y_pred))
    assert found["r2"] > least and (name != "majority" or found["r2"] <= 0)


@pytest.mark.slow
def test_a_board(data: Path, backbone: Path, tmp_path: Path) -> None:
    systems = {
        "mean": SystemConfig(title="mean", deterministic=True, baseline="majority"),
        "ours": SystemConfig(title="ours", kind="mmtab", train=["recipe=frozen", "trainer.max_epochs=1"]),
        "others": SystemConfig(title="others", tasks=["kway"], baseline="majority"),
        "linear": SystemConfig(title="linear", deterministic=True, baseline="tfidf_linear"),
        "average": SystemConfig(title="average", members=["mean", "linear", "others"]),
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
    assert not board.failures and {entry.name for entry in board.entries} == {"mean", "ours", "linear", "average"}
    scores = {entry.name: entry.of("prices")[0].value for entry in board.entries}
    assert scores["ours"] > 0.9 > 0 >= scores["mean"]
    jobs = tmp_path / "bench" / "jobs"
    weights = json.loads((jobs / "average" / "prices" / "seed0" / "predictions" / "weights.json").read_text())
    assert weights.keys() == {"mean", "linear"} and sum(weights.values()) == pytest.approx(1)

    def predicted(system: str, split: str) -> np.ndarray:
        rows = read_rows(jobs / system / "prices" / "seed0" / "predictions" / f"predictions_{split}.parquet")
        assert rows[0].keys() == {"id", "prediction"}, "no interval"
        return np.array([row["prediction"] for row in rows])

    for split in ("valid", "test"):
        mixed = sum(weight * predicted(member, split) for member, weight in weights.items())
        np.testing.assert_allclose(predicted("average", split), mixed)
    y_valid = np.array([row["label"] for row in read_rows(data / "valid.parquet")])
    errors = [np.square(predicted(system, "valid") - y_valid).mean() for system in ("average", "linear", "mean")]
    assert errors[0] <= min(errors[1:])


def test_members_that_err_in_opposite_ways(data: Path, tmp_path: Path) -> None:
    truths = {split: Truth.read(data, split) for split in ("valid", "test")}
    error = {split: np.resize([1.0, -2.0, 0.5], len(truth))[:, None] for split, truth in truths.items()}
    members = {
        name: {split: CheckedPredictions(truth.label + share * error[split], None) for split, truth in truths.items()}
        for name, share in (("over", 1.0), ("under", -0.5), ("worse", -9.0))
    }
    weights = average(truths["valid"], truths["test"], members, tmp_path)
    assert weights == pytest.approx({"over": 1 / 3, "under": 2 / 3, "worse": 0}, abs=0.03)


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
