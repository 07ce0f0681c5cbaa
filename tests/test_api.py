"""``mmtab.fit`` and ``mmtab.load_run``: the scripts' path, from tables in memory."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet
import pytest
from toy_data import write_kway, write_pairs

import mmtab
from mmtab.config.compose import compose
from mmtab.data.schema import ColumnType
from mmtab.runs.folder import open_config
from mmtab.runs.train import train
from mmtab.utils.errors import ConfigError, DataError, MmtabError, RunError


@pytest.fixture
def small(backbone: Path) -> dict[str, Any]:
    """Settings of a run that is small enough for a test."""
    return {
        "text": {"backbone": str(backbone), "max_length": 24},
        "image": {"size": 32},
        "d_model": 16,
        "trainer": {"max_epochs": 1, "progress": False, "precision": "fp32"},
    }


def frame_of(folder: Path, *stems: str) -> pd.DataFrame:
    return pd.concat(
        [pa.parquet.read_table(folder / f"{stem}.parquet").to_pandas() for stem in stems], ignore_index=True
    )


def test_rows_of_any_kind_of_table(tmp_path: Path, small: dict[str, Any]) -> None:
    data = write_kway(tmp_path / "data", n=100)  # fewer rows of valid tell nothing of confidence
    train, valid, test = (frame_of(data, stem) for stem in ("train", "valid", "test"))
    types = {"title": "text", "colour": "categorical", "photo": "image"}
    found = mmtab.fit(train, valid, test, label="label", types=types, image_root=data, output=tmp_path / "run", **small)
    assert isinstance(found, mmtab.Run) and found.folder == tmp_path / "run"
    assert found.schema.of_type(ColumnType.IMAGE) == ["photo"] and found.metrics["valid"]["accuracy"] >= 0
    scores = found.evaluate()
    assert found.metrics["test"]["accuracy"] == scores["accuracy"]
    before = json.dumps(found.metrics)
    assert found.evaluate(test, image_root=data) == pytest.approx(scores, abs=1e-6)
    assert json.dumps(found.metrics) == before, "rows at hand are not the run's own test split"

    rows = test.drop(columns=["label", "id"])
    path = data / "rows.csv"  # whose pictures are found from where it lies
    rows.to_csv(path, index=False)
    stored = pa.parquet.read_table(tmp_path / "run" / "predictions_test.parquet")
    for each in (rows, pl.from_pandas(rows), pa.Table.from_pandas(rows), path):
        said = found.predict(each, image_root=None if each is path else data)
        assert said.tolist() == stored["prediction"].to_pylist()
    p = found.predict_proba(rows.set_index(np.arange(100, 100 + len(rows))), image_root=data)
    assert isinstance(p, pd.DataFrame) and p.index[0] == 100 and list(p.columns) == ["kind 0", "kind 1", "kind 2"]
    np.testing.assert_allclose(p.to_numpy().sum(1), 1, atol=1e-5)
    assert isinstance(found.predict_proba(pl.from_pandas(rows), image_root=data), pl.DataFrame)
    assert isinstance(found.predict_proba(pa.Table.from_pandas(rows), image_root=data), pa.Table)
    assert any(each is None for each in found.predict(rows, image_root=data, coverage=0.5))
    with pytest.raises(DataError, match="no labels"):
        found.evaluate(rows, image_root=data)
    again = mmtab.load_run(str(tmp_path / "run"))
    assert again == found and again.facts["seed"] == 0 and len(again.dataset["train"]) == len(train)


def test_it_is_what_the_script_does(tmp_path: Path, small: dict[str, Any]) -> None:
    data = write_kway(tmp_path / "data")
    found = mmtab.fit(data, output=tmp_path / "a", seed=3, fusion="mean", **small)
    script = [
        "dataset=custom",
        f"dataset.path={data}",
        "seed=3",
        "fusion=mean",
        f"text.backbone={small['text']['backbone']}",
        "text.max_length=24",
        "image.size=32",
        "d_model=16",
        "trainer.max_epochs=1",
        "trainer.progress=false",
        "trainer.precision=fp32",
    ]
    assert train(compose(*script, f"output={tmp_path / 'b'}"), tmp_path / "b") == found.metrics["valid"]


def test_a_part_of_ones_own_has_its_own_settings(tmp_path: Path, small: dict[str, Any]) -> None:
    """Not those of the leaf that it replaces (a transformer's n_layers)."""
    data = write_kway(tmp_path / "data", images=False)
    own = {"_target_": "mmtab.model.fusion.MeanPoolFusion", "d_hidden": 24, "dropout": 0.0}
    found = mmtab.fit(data, output=tmp_path / "run", fusion=own, **small)
    kept = open_config(found.folder).fusion
    assert kept == {"_partial_": True, "d_model": 16, **own} and "accuracy" in found.evaluate()
    with pytest.raises(ConfigError, match=r"fusion\.n_heads: no such setting"):
        mmtab.fit(data, output=tmp_path / "no", fusion=own | {"n_heads": 2}, **small)


def test_one_table_is_divided_scored_on_test_and_reported(tmp_path: Path, small: dict[str, Any]) -> None:
    data = write_kway(tmp_path / "data", n=60, images=False)
    rows = frame_of(data, "train", "valid", "test")
    name = {"dataset": {"name": "mine"}}
    found = mmtab.fit(rows, label="label", output=tmp_path / "run", test=True, report=True, **small, **name)
    place = open_config(found.folder).dataset
    assert place.name == "mine" and place.path == str((tmp_path / "run-data").resolve())
    assert [len(found.dataset[split]) for split in ("train", "valid", "test")] == pytest.approx([42, 6, 12], abs=2)
    tested = found.metrics["test"]
    assert "accuracy" in tested and found.evaluate().items() <= tested.items()
    assert (tmp_path / "run" / "report" / "report.html").is_file()


def test_fit_wants_something_to_learn_from() -> None:
    sides = {"left": pd.DataFrame({"id": [1]}), "right": pd.DataFrame({"id": [2]})}
    for given in ({}, {"train": None}):
        with pytest.raises(ConfigError, match=r"nothing to learn from\. Fix: give a table, or a dataset"):
            mmtab.fit(**given, label="kind")
        with pytest.raises(ConfigError, match=r"Fix: give labelled pairs \(left_id, right_id, label\), first"):
            mmtab.fit(**given, **sides)


def test_a_call_that_fails_removes_only_what_it_made(tmp_path: Path, small: dict[str, Any]) -> None:
    one_class = pd.DataFrame({"a": [1.0, 2.0, 3.0] * 20, "kind": ["x"] * 60})
    said = {"label": "kind", "task": "kway", **small}
    with pytest.raises(MmtabError, match="one class"):
        mmtab.fit(one_class, output=tmp_path / "new", **said)
    assert not (tmp_path / "new-data").exists()
    mmtab.Dataset.from_frame(one_class, label="kind", task="kway", folder=tmp_path / "run-data")
    (tmp_path / "run-data" / "notes.txt").write_text("mine")
    with pytest.raises(MmtabError, match="one class"):
        mmtab.fit(one_class, output=tmp_path / "run", **said)
    assert (tmp_path / "run-data" / "notes.txt").exists()
    (tmp_path / "own" / ".building").mkdir(parents=True)
    (tmp_path / "own" / ".building" / "keep.txt").write_text("mine")
    with pytest.raises(MmtabError, match=r"\.building holds keep\.txt, which fit has not written"):
        mmtab.fit(one_class, output=tmp_path / "own", **said)
    assert (tmp_path / "own" / ".building" / "keep.txt").exists()


def test_tables_beside_a_dataset_are_refused_by_name(tmp_path: Path) -> None:
    data = write_kway(tmp_path / "data", n=30, images=False)
    for name in ("valid", "test", "left", "records"):
        with pytest.raises(ConfigError, match=f"fit: {name} goes with a table"):
            mmtab.fit(data, output=tmp_path / "run", **{name: frame_of(data, "test")})
    assert not (tmp_path / "run").exists()


def test_public_names_are_listed() -> None:
    """That to import them loads no optional library is seen in tests/cli/test_mistakes.py."""
    assert {"Dataset", "Run", "fit", "load_dataset", "load_run"} <= set(dir(mmtab))


def test_pairs(tmp_path: Path, small: dict[str, Any]) -> None:
    data = write_pairs(tmp_path / "data", n=60)
    sides = {side: frame_of(data, side) for side in ("left", "right")}
    pairs = frame_of(data, "pairs_train", "pairs_valid", "pairs_test")
    types = {"title": "text", "colour": "categorical", "photo": "image"}
    found = mmtab.fit(pairs, label="label", types=types, image_root=data, output=tmp_path / "run", **sides, **small)
    assert "f1" in found.evaluate()
    asked = pairs[["left_id", "right_id"]].head(9)
    said = found.predict(asked, image_root=data, **sides)
    p = found.predict_proba(asked, image_root=data, **sides)
    assert set(said) <= {0, 1} and list(p.columns) == ["label"] and p["label"].between(0, 1).all()
    assert (found.predict(asked, image_root=data, cost=1e9, **sides) == 0).all()
    assert "f1" in found.evaluate(pairs.head(20), image_root=data, **sides)
    with pytest.raises(RunError, match="left=TABLE"):
        found.predict(asked)


def test_mistakes_are_one_line(tmp_path: Path, small: dict[str, Any]) -> None:
    data = write_kway(tmp_path / "data", images=False)
    train, valid = frame_of(data, "train"), frame_of(data, "valid")
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"test": valid}, "there has to be valid"),
        ({"left": valid, "task": "kway"}, "other tasks want neither"),
        ({"task": "matching"}, "matching wants left and right"),
        ({"left": valid}, "left is given without right. Fix: give right= too"),
        ({"tiem_limit": 60}, "no setting tiem_limit; did you mean time_limit?"),
        ({"lable": "label"}, "no setting lable; did you mean label?"),
        ({"recipe": "frozn"}, "frozn"),
        ({"trainer": {"max_epoch": 1}}, "max_epoch"),
        ({"label": "nothing"}, "nothing"),
    ]
    for number, (settings, said) in enumerate(wrong):
        with pytest.raises((MmtabError, ConfigError), match=said):
            mmtab.fit(train, output=tmp_path / f"run{number}", **{"label": "label"} | settings)
    with pytest.raises(RunError, match="not a finished run"):
        mmtab.load_run(tmp_path)


def test_a_notebook_shows_the_score_and_what_comes_next(kway_run: tuple[Path, Path], tmp_path: Path) -> None:
    run = mmtab.load_run(kway_run[1])
    html = run._repr_html_()
    score = run.metrics["test"]["accuracy"]
    assert f"<b>accuracy on test: {score:.3f}</b> (95 % interval " in html and ", 20 rows)" in html
    low, high = map(float, re.search(r"interval (\S+) to (\S+),", html).groups())  # type: ignore[union-attr]
    assert low < score <= high <= 1 and "run.export(&quot;MODEL&quot;)" in html
    strange = tmp_path / "<script>alert(1)</script>"
    shutil.copytree(kway_run[1], strange)
    html = mmtab.load_run(strange)._repr_html_()
    assert "<script>" not in html and "&lt;script&gt;" in html
    shutil.rmtree(strange)
    assert "there is no run" in mmtab.api.Run(strange)._repr_html_()
