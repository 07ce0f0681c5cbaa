"""Regression: metrics, scales and intervals against plain definitions; and a run from a table to its predictions."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
from commands import script
from sklearn import metrics as sk
from toy_data import change_cell, read_rows, write_numbers

import mmtab
from mmtab.config.types import SCALES
from mmtab.features.target import Target
from mmtab.model.heads import NumberScores
from mmtab.runs.setup import prepare
from mmtab.runs.train import train
from mmtab.training.metrics import bootstrap, number_metrics
from mmtab.training.regression import RegressionTask
from mmtab.utils.errors import ConfigError, DataError, RunError

LABELS = {
    "skewed": np.exp(np.random.default_rng(0).normal(4, 1, 5000)),
    "tied": np.random.default_rng(1).integers(1, 8, 500).astype(np.float64),
    "negative": np.random.default_rng(2).normal(-3, 10, 400),
}


# --- values ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_metrics_are_those_of_scikit_learn(seed: int) -> None:
    rng = np.random.default_rng(seed)
    y_true = rng.normal(5, 3, 90)
    y_pred = y_true + rng.normal(0, 2, 90)
    found = number_metrics(y_true, y_pred, (y_pred - 2, y_pred + 2))
    assert found["r2"] == pytest.approx(sk.r2_score(y_true, y_pred))
    assert found["rmse"] == pytest.approx(sk.root_mean_squared_error(y_true, y_pred))
    assert found["mae"] == pytest.approx(sk.mean_absolute_error(y_true, y_pred))
    assert found["interval_coverage"] == np.mean(np.abs(y_true - y_pred) <= 2)
    assert found["interval_width"] == pytest.approx(4)
    draws = bootstrap(y_true[:, None], y_pred[None, :, None], "r2", 0, n_draws=200)
    assert draws is not None and draws.shape == (200, 1)
    assert abs(draws.mean() - found["r2"]) < 0.05 and 0.01 < draws.std() < 0.2


def test_metrics_of_labels_that_are_all_equal_are_those_of_scikit_learn() -> None:
    same = np.full(5, 2.0)
    assert number_metrics(same, same)["r2"] == sk.r2_score(same, same) == 1
    assert number_metrics(same, same + 1)["r2"] == sk.r2_score(same, same + 1) == 0


@pytest.mark.parametrize("name", LABELS)
@pytest.mark.parametrize("kind", SCALES)
def test_a_scale_leads_back_to_the_label(name: str, kind: str) -> None:
    label = LABELS[name]
    if kind not in Target.possible(label):
        with pytest.raises(ValueError, match="above 0"):
            Target.fit(kind, label)
        return
    target = Target.fit(kind, label)
    z = target.transform(label)
    assert target.inverse(z) == pytest.approx(label, rel=1e-9)
    assert z.mean() == pytest.approx(0, abs=1e-2) and z.std() == pytest.approx(1, abs=2e-2)
    assert (np.diff(z[np.argsort(label)]) >= 0).all()
    assert torch.equal(target.scaled(torch.from_numpy(label)), torch.from_numpy(z))
    saved = json.loads(json.dumps(target.__dict__ | {"_tensors": None}))
    del saved["_tensors"]
    assert (Target(**saved).transform(label) == z).all()
    new = np.array([label.min() - 100, label.max() + 1e6])
    assert np.isfinite(target.inverse(target.transform(new))).all() and np.isfinite(target.inverse(z * 1e3)).all()


def test_the_expected_label_of_a_logarithm_is_above_that_of_the_mean_logarithm() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(0, 1, 4000)
    label = np.exp(x + rng.normal(0, 1, 4000))
    target = Target.fit("log", label)
    z = (x - target.mean_) / target.spread_
    expected = target.expected(z, np.quantile(target.transform(label) - z, np.linspace(0, 1, 101)))
    assert expected == pytest.approx(np.exp(x + 0.5), rel=0.1)
    assert (target.expected(z, np.zeros(0)) == target.inverse(z)).all()


def scored(task: RegressionTask, z: np.ndarray, size: np.ndarray, label: np.ndarray) -> Any:
    error = torch.from_numpy(size).float().expm1().log()  # the inverse of softplus
    return task.predict(NumberScores(torch.from_numpy(z).float(), error), torch.from_numpy(label), torch.arange(len(z)))


@pytest.mark.parametrize("kind", SCALES)
def test_intervals_hold_as_many_labels_as_they_say(kind: str) -> None:
    """Whatever errors the model predicts; where it knows them, intervals follow."""
    rng = np.random.default_rng(0)
    x, size = rng.normal(0, 1, 6000), rng.uniform(0.2, 1, 6000)
    label = np.exp(0.5 * (x + size * rng.normal(0, 1, 6000)) + 3)
    target = Target.fit(kind, label[:2000])
    task = RegressionTask(target)
    z = target.transform(np.exp(0.5 * x + 3))
    valid, test = (scored(task, z[part], size[part], label[part]) for part in (slice(2000, 4000), slice(4000, None)))
    task.calibrate(valid, label[:2000])
    for level in (0.5, 0.8, 0.9, 0.99):
        low, high = task.interval(test, level)
        assert np.mean((low <= test.label) & (test.label <= high)) == pytest.approx(level, abs=0.03)
    low, high = task.interval(test)
    assert task.metrics_of(test)["interval_coverage"] == np.mean((low <= test.label) & (test.label <= high))
    y_pred = task.y_pred(test)[:, 0]
    assert number_metrics(test.label, y_pred)["r2"] == task.metrics_of(test)["r2"]
    with pytest.raises(ValueError, match=r"at most 0\.99"):
        task.interval(test, 0.999)
    again = RegressionTask(target)
    again.load_state_dict(json.loads(json.dumps(task.state_dict())))
    assert (again.interval(test)[0] == low).all() and (again.y_pred(test)[:, 0] == y_pred).all()
    assert task.confidence(test).min() > 0 and task.confidence(test).max() < 1


def test_too_few_rows_of_valid_give_no_intervals() -> None:
    label = np.arange(10.0)
    task = RegressionTask(Target.fit("identity", label))
    predictions = scored(task, task.target.transform(label), np.ones(10), label)
    task.calibrate(predictions, label)
    assert task.interval(predictions) is None and "10 labelled rows" in task.left_out["intervals"]
    assert set(task.metrics_of(predictions)) == {"r2", "rmse", "mae"}


@pytest.mark.parametrize(("loss", "expected"), [("huber", "0.5"), ("squared", "1.0")])
def test_losses(loss: str, expected: str) -> None:
    label = np.array([0.0, 2.0])
    task = RegressionTask(Target.fit("identity", label), loss)
    value = torch.from_numpy(task.target.transform(label) + 1).float()
    assert task.loss(value, torch.from_numpy(label)).item() == pytest.approx(float(expected))


# --- runs ------------------------------------------------------------------------------------------------------------


def test_a_run(numbers_run: tuple[Path, Path], tmp_path: Path) -> None:
    data, folder = numbers_run
    scores = json.loads((folder / "metrics.json").read_text())
    rows = read_rows(folder / "predictions_test.parquet")
    y_true, y_pred, low, high = (np.array([r[n] for r in rows]) for n in ("label", "prediction", "low", "high"))
    assert list(rows[0]) == ["id", "prediction", "low", "high", "label"]
    assert scores["test"]["r2"] == pytest.approx(sk.r2_score(y_true, y_pred)) and scores["test"]["r2"] > 0.9
    assert (low < y_pred).all() and (y_pred < high).all()
    run = mmtab.load_run(folder)
    table = pa.parquet.read_table(data / "test.parquet").drop_columns(["label"])
    options = {"image_root": data}
    assert run.predict(table, **options) == pytest.approx(y_pred)
    wider = run.predict(table, interval=0.95, **options)
    assert wider[:, 0] == pytest.approx(y_pred) and (wider[:, 2] - wider[:, 1] >= high - low - 1e-9).all()
    assert sum(value is None for value in run.predict(table, coverage=0.5, **options)) > 2
    assert run.evaluate(pa.parquet.read_table(data / "test.parquet"), image_root=data) == pytest.approx(
        {name: value for name, value in scores["test"].items() if name in run.metrics["valid"]}
    )
    with pytest.raises(RunError, match="regression, without probabilities"):
        run.predict_proba(table, **options)
    with pytest.raises(RunError, match="cost is for matching"):
        run.predict(table, cost=2, **options)
    with pytest.raises(RunError, match=r"at most 0\.9"):
        run.predict(table, interval=0.999, **options)


def test_intervals_are_for_numbers(kway_run: tuple[Path, Path]) -> None:
    table = pa.parquet.read_table(kway_run[0] / "test.parquet")
    with pytest.raises(RunError, match="interval is for regression"):
        mmtab.load_run(kway_run[1]).predict(table, interval=0.9, image_root=kway_run[0])


def test_the_page_of_a_run(numbers_run: tuple[Path, Path], tmp_path: Path) -> None:
    page = mmtab.load_run(numbers_run[1]).report("test").read_text()
    for text in ("It learnt: test R²", "lie within their intervals", "predicted as", "Can its intervals be trusted?"):
        assert text in page
    assert (numbers_run[1] / "report" / "predicted.png").is_file()
    table = script("results", str(numbers_run[1]))
    assert "r2" in table.stdout


@pytest.mark.parametrize("settings", [("base=none",), ("regression_head.scale=log", "regression_head.loss=squared")])
def test_two_runs_of_a_seed_agree(configure: Callable[..., Any], tmp_path: Path, settings: tuple[str, ...]) -> None:
    data = write_numbers(tmp_path / "data", images=False)
    first, second = (train(configure(data, f"output={tmp_path / name}", *settings), tmp_path / name) for name in "ab")
    assert first == second and first["r2"] > (0 if settings == ("base=none",) else 0.9)


def test_training_begins_from_the_base(configure: Callable[..., Any], tmp_path: Path) -> None:
    prepared = prepare(configure(write_numbers(tmp_path / "data"), "text.n_tuned_layers=0"))
    session, batch = prepared.session, next(prepared.valid.in_order())
    with session.evaluating():
        alone, together = session.model.base(batch.table), session.model(batch).value
    assert torch.allclose(alone[:, 0], together, atol=0.1)
    assert session.base_metrics(prepared.valid)["r2"] > 0.9
    assert prepared.train.base.shape == (60, 1)


@pytest.mark.parametrize("value", [None, float("nan"), float("inf"), "dear"])
@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_a_label_that_is_no_number_is_refused(
    configure: Callable[..., Any], tmp_path: Path, value: object, suffix: str
) -> None:
    data = write_numbers(tmp_path / "data", images=False, suffix=suffix)
    change_cell(data / f"train{suffix}", 3, "label", value)
    with pytest.raises(DataError, match=r"row 4 \(id train-3\), column label"):
        prepare(configure(data, "dataset.bad_cells=missing"))


def test_labels_that_teach_nothing_are_refused(configure: Callable[..., Any], tmp_path: Path) -> None:
    data = write_numbers(tmp_path / "data", images=False)
    with pytest.raises(ConfigError, match=r"dataset.metric=accuracy: expected r2"):
        prepare(configure(data, "dataset.metric=accuracy"))
    for i in range(60):
        change_cell(data / "train.parquet", i, "label", -2.0 if i else -3.0)
    with pytest.raises(ConfigError, match="scale=log: expected labels above 0, found -3 in train"):
        prepare(configure(data, "regression_head.scale=log"))
    change_cell(data / "train.parquet", 0, "label", -2.0)
    with pytest.raises(DataError, match="all labels of train are the same number"):
        prepare(configure(data))


@pytest.mark.parametrize("unit", [1e-299, 1e-160, 1e154, 1e299])
def test_labels_that_no_float_can_square_are_refused(tmp_path: Path, unit: float) -> None:
    rows = {"x": [float(i) for i in range(40)], "y": [(i + 1) * unit for i in range(40)]}
    with pytest.raises(DataError, match=r"column y: labels that differ by too little or too much.* Fix: give them in"):
        mmtab.fit(rows, label="y", task="regression", output=tmp_path / "run", trainer={"progress": False})


def test_fit_takes_many_different_numbers_for_regression(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x = rng.uniform(0, 1, 200)
    price = 1000 * x + rng.normal(0, 10, 200)
    frame = {"x": x, "y": rng.uniform(0, 1, 200), "price": price.round().astype(int)}
    with pytest.warns(UserWarning, match="so the task is regression"):  # whole numbers may be names of classes
        run = mmtab.fit(frame, label="price", output=tmp_path / "run", trainer={"max_epochs": 1, "progress": False})
    assert run.schema.task == "regression" and run.metrics["valid"]["r2"] > 0.9
    assert run.predict({"x": [0.5], "y": [0.5]}) == pytest.approx([500], abs=50)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert mmtab.Dataset.from_frame(frame | {"price": price}, label="price").schema.task == "regression"
    with pytest.raises(DataError, match="column kind: the label of regression"):
        kinds = {"x": x, "kind": ["a", "b"] * 100}
        mmtab.fit(kinds, kinds, label="kind", task="regression", output=tmp_path / "other")
