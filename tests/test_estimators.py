"""``mmtab.Classifier``, ``Regressor`` and ``Matcher``: the conventions of scikit-learn."""

from __future__ import annotations

import gc
import pickle
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import polars as pl
import pyarrow.parquet
import pytest
from sklearn.base import clone, is_classifier, is_regressor
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.estimator_checks import parametrize_with_checks
from toy_data import write_kway, write_numbers, write_pairs

import mmtab
from mmtab.utils.errors import MmtabError

FAST = {"trainer": {"max_epochs": 1, "progress": False, "precision": "fp32"}, "d_model": 16}


@pytest.fixture
def settings(backbone: Path) -> dict[str, Any]:
    return FAST | {"text": {"backbone": str(backbone), "max_length": 24}, "image": {"size": 32}}


def frame_of(folder: Path, *stems: str) -> pd.DataFrame:
    return pd.concat([pyarrow.parquet.read_table(folder / f"{stem}.parquet").to_pandas() for stem in stems])


def test_a_classifier_of_tables_with_pictures(tmp_path: Path, settings: dict[str, Any]) -> None:
    rows = frame_of(write_kway(tmp_path / "data", n=80), "train", "valid", "test").reset_index(drop=True)
    X, y = rows.drop(columns="label"), rows["label"]
    model = mmtab.Classifier(image_root=tmp_path / "data", settings=settings, types={"title": "text"})
    assert is_classifier(model) and clone(model).get_params() == model.get_params()
    assert model.set_output(transform="pandas").fit(X, y) is model
    assert model.classes_.tolist() == ["kind 0", "kind 1", "kind 2"] and model.n_features_in_ == X.shape[1]
    assert model.feature_names_in_.tolist() == list(X) and model.run_.schema.label_type == "categorical"
    assert model.score(X, y) > 0.9
    p = model.predict_proba(X)
    assert (model.classes_[p.argmax(1)] == model.predict(X)).all() and np.allclose(p.sum(1), 1, rtol=0, atol=1e-12)
    twice = pl.from_pandas(pd.concat([X.head(3), X.head(3)]))  # whose ids are not unique: they are not features
    assert np.allclose(model.predict_proba(twice), np.tile(p[:3], (2, 1)), atol=1e-5)
    vectors = model.transform(X.head(3))
    assert list(vectors) == [f"classifier{i}" for i in range(16)] and (vectors.index == X.index[:3]).all()
    with pytest.raises(ValueError, match="feature names"):
        model.predict(X.drop(columns="colour"))

    folder = model.run_.folder
    assert folder.is_dir() and not (Path.cwd() / "runs" / "fit").exists()
    sent, run = pickle.dumps(model), model.run_
    del model
    gc.collect()
    assert run.predict(X).shape == (len(X),)  # of an estimator that is gone
    del run
    gc.collect()
    assert not folder.exists()
    again = pickle.loads(sent)
    assert np.array_equal(again.predict_proba(X), p) and again.run_.folder != folder

    kept = make_pipeline(FunctionTransformer(), mmtab.Classifier(output=tmp_path / "kept", settings=FAST))
    scores = cross_val_score(kept, X[["size", "colour", "made"]], y, cv=2)
    assert (scores > 0.5).all() and len(list((tmp_path / "kept").glob("run-*/run/metrics.json"))) == 2


def test_a_regressor_of_arrays_and_frames(tmp_path: Path, settings: dict[str, Any]) -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 3))
    y = 3 * X[:, 0] + 10 + rng.normal(0, 0.1, 200)
    X[::9, 2] = np.nan
    model = mmtab.Regressor(random_state=np.random.RandomState(1), settings=FAST, time_limit=60)
    assert is_regressor(model) and model.fit(X, y).score(X, y) > 0.8
    assert model.run_.facts["seed"] > 0 and not hasattr(model, "feature_names_in_")
    assert [column.name for column in model.run_.schema.columns] == ["x0", "x1", "x2"]
    bounds = model.predict(X, interval=0.8)
    assert (bounds[:, 0] == model.predict(X)).all() and ((bounds[:, 1] <= y) & (y <= bounds[:, 2])).mean() > 0.5
    named = pd.DataFrame(X, columns=["x2", "x0", "other"])  # an estimator of arrays takes columns by their place
    with pytest.warns(UserWarning, match="feature names"):
        assert (model.predict(named) == bounds[:, 0]).all()
    rows = frame_of(write_numbers(tmp_path / "data", images=False), "train", "valid", "test")
    X, y = rows.drop(columns="label"), rows["label"]
    model = mmtab.Regressor(settings=settings, random_state=np.int64(3)).fit(X.to_dict("list"), y.tolist())
    assert model.score(X.to_dict("records"), y) > 0.5 and model.run_.facts["seed"] == 3
    hugging = datasets.Dataset.from_pandas(X.iloc[::-1], preserve_index=False)
    np.testing.assert_allclose(model.predict(hugging), model.predict(X)[::-1], rtol=1e-4)
    with pytest.warns(UserWarning, match="feature names"):
        assert model.score(X.to_numpy(), y) == pytest.approx(model.score(X, y))
    (model.run_.folder / "task.json").unlink()
    with pytest.raises(MmtabError, match=r"task\.json is missing"):
        pickle.dumps(model)
    with pytest.raises(ValueError, match="expected numbers; found datetime64"):
        model.fit(X, pd.date_range("2020", periods=len(X)))
    with pytest.raises(NotFittedError):  # and nothing of the fit before
        model.predict(X)


def test_a_matcher_of_pairs(tmp_path: Path, settings: dict[str, Any]) -> None:
    data = write_pairs(tmp_path / "data", n=100, images=False)
    left, right = frame_of(data, "left"), frame_of(data, "right")
    pairs = frame_of(data, "pairs_train", "pairs_valid", "pairs_test").reset_index(drop=True)
    X, y = pairs.drop(columns="label"), pairs["label"]
    model = mmtab.Matcher(left=left, right=right, settings=settings).fit(X, y)
    assert model.classes_.tolist() == [0, 1] and model.score(X, y) > 0.6
    p = model.predict_proba(X)
    assert p.shape == (len(X), 2) and np.allclose(p.sum(1), 1)
    assert (model.predict(X, cost=3) == (p[:, 1] >= 0.75)).all()
    assert model.transform(left, side="left").shape == (100, model.run_.width)
    assert np.array_equal(pickle.loads(pickle.dumps(model)).predict_proba(X), p)
    with pytest.raises(ValueError, match="X has no column left_id"):
        clone(model).fit(X[["right_id"]], y)
    for strange in (y / 2, y.map({0: "0", 1: "1"}), 2 * y - 1):
        with pytest.raises(ValueError, match="y: expected 1 for a match and 0 for none"):
            clone(model).fit(X, strange)


def test_what_is_refused_is_a_value_error_of_mmtab(tmp_path: Path) -> None:
    X = pd.DataFrame({"a": [1.0, 2.0, 3.0] * 10})
    for y, message in [(["x"] * 30, "one class"), (["x", "y"], "inconsistent numbers of samples")]:
        with pytest.raises(ValueError, match=message):
            mmtab.Classifier(settings=FAST).fit(X, y)
    (tmp_path / "file").touch()
    for options, message in [
        ({"settings": {"label": "a"}}, "Classifier sets this itself"),
        ({"settings": "frozen"}, "expected a dict by setting"),
        ({"types": ["text"]}, "expected a dict by column"),
        ({"output": tmp_path / "file"}, "File exists"),
    ]:
        with pytest.raises(ValueError, match=message):
            mmtab.Classifier(**options).fit(X, ["x", "y", "z"] * 10)
    with pytest.raises(ValueError, match="frozn") as caught:
        mmtab.Classifier(recipe="frozn").fit(X, ["x", "y", "z"] * 10)
    assert isinstance(caught.value, MmtabError)


FLAGS = [i % 2 == 0 for i in range(40)]
KINDS = {
    "boolean": (pd.array(FLAGS, dtype="boolean"), [False, True]),
    "Int64": (pd.array([2**60 + flag for flag in FLAGS], dtype="Int64"), [2**60, 2**60 + 1]),
    "int64[pyarrow]": (pd.Series(FLAGS).astype("int64[pyarrow]"), [0, 1]),
    "category": (pd.Series(FLAGS).astype("category"), [False, True]),
    "days": (np.array(["2024-01-01", "2025-01-01"], "datetime64[D]")[np.array(FLAGS, int)], None),
}


@pytest.mark.parametrize("kind", KINDS)
def test_labels_keep_their_type(kind: str) -> None:
    y, classes = KINDS[kind]
    model = mmtab.Classifier(recipe="frozen", settings=FAST).fit({"a": [*map(float, FLAGS)]}, y)
    p = model.predict({"a": [0.0, 1.0]})
    assert p.dtype == model.classes_.dtype and set(p) <= set(model.classes_)
    assert classes is None or [*map(type, model.classes_.tolist())] == [*map(type, classes)]
    assert classes is None or model.classes_.tolist() == classes


@pytest.mark.parametrize("dtype", ["int64", "Int64", "str"])
def test_labels_may_be_a_frame_of_one_column(dtype: str) -> None:
    y = pd.DataFrame({"kind": pd.Series(FLAGS).astype("int64").astype(dtype)})
    model = mmtab.Classifier(recipe="frozen", settings=FAST).fit({"a": [*map(float, FLAGS)]}, y)
    assert model.classes_.tolist() == sorted(y["kind"].unique().tolist())


@pytest.mark.parametrize(
    "y", [np.array([b"a", b"b"] * 20), np.arange(40).astype("timedelta64[h]")], ids=["S1", "m8[h]"]
)
def test_labels_that_no_table_holds(y: Any) -> None:
    with pytest.raises(ValueError, match=r"y: expected text, numbers or truths; found .* Fix: convert it") as caught:
        mmtab.Classifier(settings=FAST).fit({"a": [*map(float, FLAGS)]}, y)
    assert isinstance(caught.value, MmtabError)


BY_BATCH = "check_methods_subset_invariance"  # to 1e-7, where sums of single precision depend on the batch by more


@pytest.mark.slow
@parametrize_with_checks(
    [mmtab.Classifier(settings=FAST), mmtab.Regressor(settings=FAST)],
    expected_failed_checks=lambda _: {BY_BATCH: "the next test has it, to 1e-5"},
)
def test_the_checks_of_scikit_learn(estimator: Any, check: Any) -> None:
    """All others pass, for arrays of numbers; those of the array API skip themselves. They do not apply to ``Matcher``,
    whose X names records."""
    check(estimator)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [mmtab.Classifier, mmtab.Regressor])
def test_a_row_is_predicted_alike_by_itself_and_among_others(kind: Any) -> None:
    X = 3 * np.random.RandomState(0).uniform(size=(20, 3))
    model = kind(settings=FAST, random_state=1).fit(X, X[:, 0].astype(int) if kind is mmtab.Classifier else X[:, 0])
    for method in ("predict", "transform", "predict_proba"):
        if hasattr(model, method):
            ask = getattr(model, method)
            np.testing.assert_allclose(ask(X), np.concatenate([ask(row[None]) for row in X]), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_cross_validation_in_processes(data_root: Path) -> None:
    """Of real rows with pictures, as in a tutorial."""
    folder = data_root / "kway" / "openmoji"
    rows = frame_of(folder, "train").groupby("group").head(20)
    model = mmtab.Classifier(time_limit=60, recipe="frozen", image_root=folder, settings=FAST)
    scores = cross_val_score(make_pipeline(model), rows.drop(columns="group"), rows["group"], cv=3, n_jobs=2)
    assert (scores > 2 / rows["group"].nunique()).all()
