"""Whole runs through the scripts and through mmtab.runs, on toy data and tiny backbones."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
from commands import SCRIPTS, script
from toy_data import write_kway, write_pairs

from mmtab.config.compose import compose
from mmtab.config.types import LocalSettings
from mmtab.runs.evaluate import evaluate
from mmtab.runs.predict import predict
from mmtab.runs.scored import read_scored
from mmtab.runs.session import open_run
from mmtab.runs.train import train
from mmtab.utils.errors import ConfigError, DataError, RunError

KWAY_VARIANTS = [
    [],
    ["text.layout=column", "numeric=periodic"],
    ["text.n_tuned_layers=0", "text.also=[categorical,numeric]"],
    ["fusion=mean", "kway_head.class_weights=true"],
    ["image.tuned=true", "image.augment=true"],
    ["dataset.drop=[image,text]"],
]


@pytest.mark.parametrize("overrides", KWAY_VARIANTS, ids=lambda o: ",".join(o) or "default")
def test_kway_run_tells_everything(tmp_path: Path, configure, overrides: list[str]) -> None:
    data, folder = tmp_path / "data", tmp_path / "run"
    write_kway(data)
    metrics = train(configure(data, "trainer.max_epochs=1", *overrides), folder)
    assert {"accuracy", "macro_f1", "log_loss", "ece"} <= set(metrics)
    for name in (
        "config.yaml",
        "schema.yaml",
        "fitted.json",
        "metrics.json",
        "metrics.csv",
        "provenance.json",
        "task.json",
        "checkpoints/best.ckpt",
        "predictions_valid.parquet",
    ):
        assert (folder / name).is_file(), name
    facts = json.loads((folder / "provenance.json").read_text())
    assert facts["data_fingerprint"] and facts["seconds"]["total"] > 0 and facts["versions"]["torch"]
    tested = evaluate(folder, "test")
    stored = pa.parquet.read_table(folder / "predictions_test.parquet")
    assert np.mean(np.array(stored["prediction"]) == np.array(stored["label"])) == pytest.approx(tested["accuracy"])
    probabilities = np.stack([np.array(stored[n]) for n in stored.column_names if n.startswith("p_")])
    np.testing.assert_allclose(probabilities.sum(0), 1, atol=1e-5)


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["pair_head=two_tower", "fusion=mean"],
        ["pair_head=cross"],
        ["pair_head=fusion", "pair_head.compare=null"],
        ["pair_head.cross_text=true"],
        ["text.n_tuned_layers=0", "pair_head.hard_negatives=0.5"],
        ["text.layout=column"],
    ],
    ids=lambda o: ",".join(o) or "default",
)
def test_matching_run_keeps_its_threshold(tmp_path: Path, configure, overrides: list[str]) -> None:
    data, folder = tmp_path / "data", tmp_path / "run"
    write_pairs(data)
    metrics = train(configure(data, "trainer.max_epochs=1", *overrides), folder)
    assert {"f1", "precision", "recall", "pr_auc", "roc_auc"} <= set(metrics)
    (threshold,) = json.loads((folder / "task.json").read_text())["thresholds"]
    evaluate(folder, "test")
    stored = pa.parquet.read_table(folder / "predictions_test.parquet")
    assert ((np.array(stored["probability"]) >= threshold) == np.array(stored["prediction"]).astype(bool)).all()


@pytest.mark.parametrize("run", ["kway_run", "pairs_run"])
def test_a_run_with_its_calibration_in_provenance_still_opens(
    tmp_path: Path, run: str, request: pytest.FixtureRequest
) -> None:
    """As runs of format 2 have it."""
    data, trained = request.getfixturevalue(run)
    folder = shutil.copytree(trained, tmp_path / "run")
    (folder / "manifest.json").unlink()  # else it has changed
    state = json.loads((folder / "task.json").read_text())
    shifted = {name: (np.array(values) * 0.9).tolist() for name, values in state.items()}
    (folder / "task.json").write_text(json.dumps(shifted))
    expected, opened = evaluate(folder, "test"), open_run(folder).task.state_dict()
    assert opened == shifted, "task.json is what counts"
    (scored,) = read_scored(folder, "test")
    (folder / "task.json").unlink()
    facts = json.loads((folder / "provenance.json").read_text())
    assert not {"temperatures", "thresholds", "biases", "confidence"} & set(facts)
    old = {"thresholds": None, "biases": None} | shifted | {"confidence": shifted["confidence_quantiles"], "format": 2}
    del old["confidence_quantiles"]
    (folder / "provenance.json").write_text(json.dumps(facts | old))
    assert open_run(folder).task.state_dict() == shifted and evaluate(folder, "test") == expected
    (again,) = read_scored(folder, "test")
    assert (again.temperature, again.threshold) == (scored.temperature, scored.threshold)
    (folder / "provenance.json").write_text(json.dumps(facts | old | {"confidence": None}))
    given: Any = {} if run == "kway_run" else {side: data / f"{side}.parquet" for side in ("left", "right")}
    table = data / ("test.parquet" if run == "kway_run" else "pairs_test.parquet")
    with pytest.raises(RunError, match="of an earlier mmtab"):
        predict(folder, table, tmp_path / "out.csv", coverage=0.5, **given)


@pytest.mark.parametrize("write", [write_kway, write_pairs])
def test_same_seed_same_metrics_and_csv_equals_parquet(tmp_path: Path, configure, write) -> None:
    metrics = []
    for suffix in (".parquet", ".csv"):
        data, run = write(tmp_path / suffix / "data", suffix=suffix), tmp_path / suffix / "run"
        valid = train(configure(data, "trainer.max_epochs=1"), run)
        metrics.append((valid, evaluate(run, "test")))
    assert metrics[0] == metrics[1]
    other = train(configure(data, "trainer.max_epochs=1", "seed=1"), tmp_path / "other")
    assert other != metrics[0][0]


def test_training_never_opens_test(tmp_path: Path, configure) -> None:
    data = tmp_path / "data"
    write_kway(data)
    (data / "test.parquet").write_bytes(b"whoever reads this fails")
    train(configure(data, "trainer.max_epochs=1", "dataset.drop=[image]"), tmp_path / "run")
    with pytest.raises(DataError, match="table test"):
        evaluate(tmp_path / "run", "test")


def test_run_folder_is_enough_elsewhere(tmp_path: Path, configure, backbone: Path) -> None:
    """Without the training data, the text weights and the old path; for rows in another format, without labels."""
    data, elsewhere, copy = tmp_path / "data", tmp_path / "elsewhere", tmp_path / "backbone-copy"
    write_kway(data)
    write_kway(elsewhere, seed=0)
    shutil.copytree(backbone, copy)
    train(configure(data, f"text.backbone={copy}", "trainer.max_epochs=1"), tmp_path / "run")
    evaluate(tmp_path / "run", "test")
    shutil.move(tmp_path / "run", tmp_path / "moved")
    shutil.rmtree(data)
    shutil.rmtree(copy)
    rows = pa.parquet.read_table(elsewhere / "test.parquet").drop_columns(["label"])
    pa.parquet.write_table(rows, elsewhere / "rows.parquet")
    n = predict(tmp_path / "moved", elsewhere / "rows.parquet", tmp_path / "out.csv")
    assert n == rows.num_rows
    predicted = pa.csv.read_csv(tmp_path / "out.csv")
    before = pa.parquet.read_table(tmp_path / "moved" / "predictions_test.parquet")
    assert predicted["prediction"].to_pylist() == before["prediction"].to_pylist()
    for name in (n for n in before.column_names if n.startswith("p_")):
        np.testing.assert_allclose(np.array(predicted[name]), np.array(before[name]), atol=1e-6)


def test_pairs_are_predicted_from_tables(tmp_path: Path, pairs_run: tuple[Path, Path]) -> None:
    data, folder = pairs_run
    pairs, tables = data / "pairs_test.parquet", {side: data / f"{side}.parquet" for side in ("left", "right")}
    n = predict(folder, pairs, tmp_path / "out.parquet", **tables)
    predicted, before = (
        pa.parquet.read_table(path) for path in (tmp_path / "out.parquet", folder / "predictions_test.parquet")
    )
    assert n == before.num_rows
    np.testing.assert_allclose(np.array(predicted["probability"]), np.array(before["probability"]), atol=1e-6)
    with pytest.raises(RunError, match="left=TABLE"):
        predict(folder, pairs, tmp_path / "x.parquet")
    for cost in (0.25, 4.0):
        predict(folder, pairs, tmp_path / "cost.csv", **tables, cost=cost)
        stored = pa.csv.read_csv(tmp_path / "cost.csv")
        assert (np.array(stored["prediction"]) == (np.array(stored["probability"]) >= cost / (1 + cost))).all()
    with pytest.raises(RunError, match="cost=-1"):
        predict(folder, pairs, tmp_path / "x.csv", **tables, cost=-1)


def test_pictures_lie_where_image_root_says_and_bad_cells_may_be_missing(
    kway_run: tuple[Path, Path], tmp_path: Path
) -> None:
    data, run = kway_run
    rows = pa.parquet.read_table(data / "test.parquet")
    pa.parquet.write_table(rows, tmp_path / "rows.parquet")
    predict(run, tmp_path / "rows.parquet", tmp_path / "out.parquet", image_root=data)
    stored = pa.parquet.read_table(run / "predictions_test.parquet")
    found = pa.parquet.read_table(tmp_path / "out.parquet")
    assert found["prediction"].to_pylist() == stored["prediction"].to_pylist()
    with pytest.raises(DataError, match="give image_root, empty the cell, or set dataset"):
        predict(run, tmp_path / "rows.parquet", tmp_path / "no.parquet")
    with pytest.warns(UserWarning, match="pictures are absent or damaged"):
        predict(run, tmp_path / "rows.parquet", tmp_path / "few.parquet", local=LocalSettings(bad_cells="missing"))
    without = rows.set_column(rows.column_names.index("photo"), "photo", pa.nulls(len(rows), pa.string()))
    pa.parquet.write_table(without, tmp_path / "without.parquet")
    predict(run, tmp_path / "without.parquet", tmp_path / "none.parquet")
    assert pa.parquet.read_table(tmp_path / "few.parquet").equals(pa.parquet.read_table(tmp_path / "none.parquet"))


@pytest.mark.parametrize("run", ["kway_run", "pairs_run"])
def test_predictions_below_the_confidence_of_a_coverage_are_left_out(
    tmp_path: Path, run: str, request: pytest.FixtureRequest
) -> None:
    (data, folder), out, kway = request.getfixturevalue(run), tmp_path / "out.csv", run == "kway_run"
    tables = {} if kway else {side: data / f"{side}.parquet" for side in ("left", "right")}
    split = data / ("valid.parquet" if kway else "pairs_valid.parquet")  # on which it was measured
    all_predictions = pa.parquet.read_table(folder / "predictions_valid.parquet")["prediction"].to_pylist()
    for coverage in (1.0, 0.8, 0.5):
        predict(folder, split, out, **tables, coverage=coverage)
        stored = pa.csv.read_csv(out, convert_options=pa.csv.ConvertOptions(strings_can_be_null=True))
        predictions, confidence = stored["prediction"].to_pylist(), np.array(stored["confidence"])
        covered = np.array([prediction is not None for prediction in predictions])
        assert covered.mean() == pytest.approx(coverage, abs=0.051)
        assert all(a == b for a, b in zip(predictions, all_predictions, strict=True) if a is not None)
        assert covered.all() or confidence[covered].min() >= confidence[~covered].max()
    for wrong in ({"coverage": 0.0}, {"coverage": 1.2}, *([{"cost": 2.0}] if kway else [])):
        with pytest.raises(RunError, match=r"coverage=|cost is for matching"):
            predict(folder, split, out, **tables, **wrong)


def test_bad_runs_are_named(tmp_path: Path, configure, kway_run: tuple[Path, Path]) -> None:
    data, trained = kway_run
    with pytest.raises(RunError, match=r"there is no run .*: no such folder"):
        evaluate(tmp_path / "nothing")
    folder = shutil.copytree(trained, tmp_path / "run")
    with pytest.raises(RunError, match="already holds a finished run with other settings"):
        train(configure(data, "seed=1"), folder)
    facts = json.loads((folder / "provenance.json").read_text())
    (folder / "manifest.json").unlink()
    (folder / "provenance.json").write_text(json.dumps(facts | {"format": 99}))
    with pytest.raises(RunError, match="format 99"):
        evaluate(folder)
    (folder / "provenance.json").write_text(json.dumps(facts))
    weights = folder / "checkpoints" / "best.ckpt"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    with pytest.raises(RunError, match=r"best\.ckpt"):
        evaluate(folder)


def test_settings_that_do_not_fit(tmp_path: Path, configure) -> None:
    data = tmp_path / "data"
    write_kway(data)
    for override, message in (
        (("image.augment=true",), "augment"),
        (("text.n_tuned_layers=9",), "layers"),
        (("text.max_length=9999",), "at most"),
        (("text.backbone=/nowhere",), "cannot be loaded"),
        (("dataset.drop=[nonsense]",), "nonsense"),
    ):
        with pytest.raises((ConfigError, DataError), match=message):
            train(configure(data, *override), tmp_path / "run")


@pytest.mark.slow
def test_scripts_from_training_to_prediction(tmp_path: Path, backbone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Multirun over two seeds, in a process of its own; then evaluate and predict on one of the run folders; wandb
    offline."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("WANDB_MODE", "offline")
    data, sweep = tmp_path / "data", tmp_path / "sweep"
    write_kway(data)
    small = [f"text.backbone={backbone}", "text.max_length=16", "image.size=32", "d_model=16", "trainer.max_epochs=1"]
    train_both = ["-m", "dataset=custom", f"dataset.path={data}", "seed=0,1", f"hydra.sweep.dir={sweep}"]
    command = [sys.executable, str(SCRIPTS / "train.py"), *train_both, "wandb.mode=offline", "report=false", *small]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    folders = sorted(sweep.glob("*_seed*"))
    assert [f.name for f in folders] == ["0_data_seed0", "1_data_seed1"]
    assert "test" in json.loads((folders[0] / "metrics.json").read_text())
    assert any((folders[0] / "wandb").glob("offline-run*"))
    done = script("evaluate", f"run={folders[0]}", "split=valid")
    assert done.returncode == 0 and "accuracy" in done.stdout, done.stderr
    done = script("predict", f"run={folders[0]}", f"input={data / 'test.parquet'}", f"output={tmp_path / 'out.csv'}")
    assert done.returncode == 0 and (tmp_path / "out.csv").is_file(), done.stderr
    done = script("results", sweep)
    assert done.returncode == 0 and "| data |" in done.stdout, done.stderr


def test_a_broken_table_is_one_line(tmp_path: Path) -> None:
    data = write_kway(tmp_path / "data")
    (data / "train.parquet").write_bytes((data / "train.parquet").read_bytes()[:200])
    done = script("train", "dataset=custom", f"dataset.path={data}", f"output={tmp_path / 'broken'}")
    assert done.returncode == 1 and "Traceback" not in done.stderr + done.stdout
    assert "table train" in done.stderr


@pytest.mark.slow
def test_real_data_trains(data_root: Path, tmp_path: Path) -> None:
    """The default model on the smallest real dataset, one epoch."""
    settings = ["trainer.max_epochs=1", "image.size=64", f"output={tmp_path}"]
    config = compose("dataset=openmoji", f"data_root={data_root}", *settings)
    metrics = train(config, tmp_path / "run")
    assert metrics["accuracy"] > 0.5
