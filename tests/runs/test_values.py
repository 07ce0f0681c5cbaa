"""Values keep their meaning and their type from training to prediction, whoever hands a table over."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
import yaml

import mmtab
from mmtab import Dataset
from mmtab.config.types import MatchConfig
from mmtab.data import files
from mmtab.data.spelling import spelling
from mmtab.reports.matches import write_result
from mmtab.runs.predict import predict
from mmtab.runs.predictions import class_columns, free_name, prediction_columns, predictions_table
from mmtab.runs.scored import read_scored
from mmtab.training.predictions import Predictions
from mmtab.utils.errors import DataError, RunError

BERLIN = ZoneInfo("Europe/Berlin")
QUICK: dict[str, Any] = {"recipe": "frozen", "trainer": {"max_epochs": 1, "progress": False}}
LONG = partial(pytest.param, marks=pytest.mark.slow)
N = 240  # of which valid has enough for confidence to be measured


def frame(**columns: Any) -> pd.DataFrame:
    rng, y = np.random.default_rng(0), np.arange(N) % 2
    return pd.DataFrame({"a": rng.normal(size=N) + 3 * y, "b": rng.normal(size=N)} | columns)


def fitted(folder: Path, rows: pd.DataFrame, label: str = "kind", **options: Any) -> mmtab.Run:
    return mmtab.fit(rows, label=label, output=folder / "run", **QUICK, **options)


# --- labels and ids --------------------------------------------------------------------------------------------------

LABELS: dict[str, list[Any]] = {
    "int": [3, 12],
    "bool": [False, True],
    "float": [1.0, 2.0],
    "decimal": [Decimal("1.50"), Decimal("3.00")],
    "date": [date(2024, 1, 1), date(2023, 5, 6)],
    "moment": [datetime(2024, 1, 1), datetime(2024, 1, 1, 10, 30)],
    "moment with a zone": [datetime(2024, 1, 1, 9, tzinfo=BERLIN), datetime(2024, 7, 1, 9, tzinfo=BERLIN)],
    "duration": [timedelta(hours=1), timedelta(days=-2, seconds=5)],
    "time": [time(9, 30), time(23)],
    "text": ["True", "False"],
    "digits": ["007", "7"],
}


@pytest.mark.parametrize("kind", LABELS)
def test_labels_come_back_in_their_type(tmp_path: Path, kind: str) -> None:
    classes = LABELS[kind]
    label = pd.Series([classes[i % 2] for i in range(N)])
    rows = frame(key=np.arange(N) + 100, kind=label)
    run = fitted(tmp_path, rows, id="key")
    new = rows.drop(columns="kind")
    predicted = run.predict(new)
    assert predicted.dtype == label.to_numpy().dtype and set(predicted.tolist()) <= set(label.to_numpy().tolist())
    assert (predicted == label.to_numpy()).mean() > 0.2, "values that compare equal to the labels"
    p = run.predict_proba(new)
    assert set(p.columns) == set(label) and p.idxmax(axis=1).tolist() == pd.Series(predicted).tolist()
    names = run.predict_proba(pa.Table.from_pandas(new)).column_names
    assert run.predict_proba(pl.from_pandas(new)).columns == names == spelling(pa.array(classes)).sort().to_pylist()
    assert any(cell is None for cell in run.predict(new, coverage=0.3))

    pyarrow.parquet.write_table(pa.Table.from_pandas(new), tmp_path / "new.parquet")
    for suffix in (".parquet", ".csv"):
        predict(run.folder, tmp_path / "new.parquet", tmp_path / f"out{suffix}")
    stored = pyarrow.parquet.read_table(tmp_path / "out.parquet")
    assert stored["prediction"].type == pa.array(classes).type
    assert stored["key"].to_pylist() == list(range(100, 100 + N))
    assert (stored["prediction"].to_pandas().to_numpy() == predicted).all()
    csv = pd.read_csv(tmp_path / "out.csv", dtype={"prediction": str} if kind == "digits" else None)
    assert csv["key"].dtype == np.int64 and csv["prediction"].nunique() == len(set(predicted.tolist()))

    run.evaluate()  # on the test split, whose file has the same types
    (scored,) = read_scored(run.folder, "test")
    assert scored.score() == run.metrics["test"]["accuracy"]
    rows.to_csv(tmp_path / "labelled.csv", index=False)
    assert run.evaluate(tmp_path / "labelled.csv") == pytest.approx(run.evaluate(rows))


UNTYPED: dict[str, tuple[list[Any], str]] = {
    "periods": ([pd.Period("2024-01"), pd.Period("2024-02")], r"found .*Period\. Fix: .*to_timestamp"),
    "intervals": ([pd.Interval(0, 1), pd.Interval(1, 2)], r"found .*Interval\. Fix: .*astype\(str\)"),
    "uuids": ([UUID(int=1), UUID(int=2)], r"found uuid\.UUID\. Fix: "),
    "paths": ([Path("a"), Path("b")], r"found pathlib\. Fix: "),
    "bytes": ([b"a", b"b"], r"Fix: "),
    "enums": (list(Enum("Shade", ["DARK", "LIGHT"])), r"Fix: "),
    "lists": ([[1], [2]], r"Fix: "),
    "times of day with a zone": ([time(1, tzinfo=BERLIN), time(2, tzinfo=BERLIN)], r"with a time zone\. Fix: "),
    "dates and moments": ([date(2024, 1, 1), datetime(2024, 1, 1, 9)], r"mixes kinds.*date, datetime\.datetime\. Fix"),
    "moments with and without a zone": (
        [datetime(2024, 1, 1, 9), datetime(2024, 1, 1, 9, tzinfo=BERLIN)],
        r"mixes kinds .*datetime\.datetime, datetime\.datetime with a time zone\. Fix",
    ),
    "truths and numbers": ([1.5, True], r"mixes kinds .*bool, float\. Fix"),
}


@pytest.mark.parametrize("kind", UNTYPED)
@pytest.mark.parametrize("order", [1, -1])
def test_labels_that_could_not_come_back_are_refused(tmp_path: Path, kind: str, order: int) -> None:
    classes, words = UNTYPED[kind]
    label = pd.Series(
        [classes[::order][i % 2] for i in range(N)], dtype=None if kind in ("periods", "intervals") else object
    )
    with pytest.raises(DataError, match=rf"column kind: .*{words}"):
        fitted(tmp_path, frame(kind=label))
    with pytest.raises(DataError, match=r"column kind: .*Fix: "):
        fitted(tmp_path, frame().to_dict("list") | {"kind": label.tolist()})
    if kind in ("periods", "intervals", "uuids", "paths"):  # which are categories like others
        Dataset.from_frame(frame(kind=label, label=[*"xy"] * (N // 2)), label="label")


def test_classes_keep_their_order(tmp_path: Path) -> None:
    levels = ["low", "middle", "high"]
    kind = pd.Categorical([levels[i % 3] for i in range(N)], [*levels, "never"], ordered=True)
    run = fitted(tmp_path, frame(kind=kind))
    assert list(run.predict_proba(frame()).columns) == levels
    right = run.predict(frame()) == np.asarray(kind)
    copy = tmp_path / "copy"
    shutil.copytree(run.folder, copy, ignore=shutil.ignore_patterns("manifest.json"))
    assert (mmtab.load_run(copy).predict(frame()) == np.asarray(kind)).tolist() == right.tolist()
    text = (copy / "fitted.json").read_text()
    (copy / "fitted.json").write_text(text.replace('"low", "middle"', '"middle", "low"'))
    with pytest.raises(RunError, match="classes_: expected sorted texts, or the order of the schema"):
        mmtab.load_run(copy).predict(frame())


def test_a_run_that_recorded_no_types_opens_and_gives_text(tmp_path: Path) -> None:
    rows = frame(kind=np.arange(N) % 2)
    run = fitted(tmp_path, rows)
    schema = yaml.safe_load((run.folder / "schema.yaml").read_text())
    assert schema["storage"]["kind"] == "int64"
    (run.folder / "manifest.json").unlink()  # which runs of then do not have either
    (run.folder / "schema.yaml").write_text(yaml.safe_dump(schema | {"storage": {}}))
    assert set(run.predict(rows)) <= {"0", "1"}
    assert run.evaluate(rows)["accuracy"] >= 0


def test_very_many_classes_keep_their_type(tmp_path: Path) -> None:
    """Of which a predictions file holds the likeliest as lists."""
    classes = [date(2020, 1, 1) + timedelta(days=i) for i in range(3)]
    ids, best = pa.table({"top": [7, 8]}), np.array([[2, 0], [1, 2]])
    p = np.array([[0.75, 0.25], [0.5, 0.25]])
    found = Predictions(np.arange(2), np.array([2, 0]), best=best, best_probability=p)
    for suffix in (".parquet", ".csv"):
        options = {"classes": ["a", "b", "c"], "values": pa.array(classes), "labels": np.array([2, 0])}
        options["as_text"] = suffix == ".csv"
        table = predictions_table(ids, found, best[:, :1], **options)  # type: ignore[arg-type]
        files.write_table(tmp_path / f"out{suffix}", table)
    out = pyarrow.parquet.read_table(tmp_path / "out.parquet").to_pydict()
    assert out["prediction"] == [classes[2], classes[1]] and out["label"] == [classes[2], classes[0]]
    assert out["top"] == [7, 8] and out["top_"] == [[classes[2], classes[0]], [classes[1], classes[2]]]
    assert pd.read_csv(tmp_path / "out.csv").iloc[0].tolist() == [
        *(7, "2020-01-03", 0.75, "2020-01-03;2020-01-01", "0.75;0.25", "2020-01-03")
    ]


@pytest.mark.parametrize("cell", ["nan", "NA", "None", "null", np.inf])
def test_what_is_hardly_a_label_is_refused_with_its_row(tmp_path: Path, cell: Any) -> None:
    kinds = pd.Series([1.0, 2.0] if isinstance(cell, float) else ["x", "y"]).repeat(N // 2).reset_index(drop=True)
    rows = {name: frame(id=[f"{name}{i}" for i in range(N)], kind=kinds) for name in ("train", "valid")}
    rows["train"].loc[[7, 9], "kind"] = cell
    with pytest.raises(
        DataError, match=r"table train, row 8 \(id train7\), column kind: .*2 row.*; found .*Fix: "
    ) as error:
        fitted(tmp_path, rows["train"], valid=rows["valid"])
    assert "rename" in str(error.value)


SPELT_ALIKE = {
    "a space": ["cup", "cup ", "hat"],
    "accents": ["caf\u00e9", "cafe\u0301", "hat"],
    "nothing but a space": [" ", "cup", "hat"],
    "a null character": ["cu\0p", "hat", "cap"],
}


@pytest.mark.parametrize("kind", SPELT_ALIKE)
def test_labels_that_look_alike_are_told_before_training(tmp_path: Path, kind: str) -> None:
    with pytest.raises(
        DataError, match=r"table train, column kind: labels that differ only .*; found .* Fix: "
    ) as error:
        fitted(tmp_path, frame(kind=SPELT_ALIKE[kind] * (N // 3)))
    assert str(error.value).isascii() and not (tmp_path / "run").exists()


KEYS = ["prediction", "label", "p_x_", *map(LONG, ["confidence", "p_x", "probability", "top"])]


@pytest.mark.parametrize("key", KEYS)
def test_output_columns_are_never_called_like_the_id(tmp_path: Path, key: str) -> None:
    rows = frame(kind=np.where(np.arange(N) % 2, "x", "x_"), **{key: [f"r{i}" for i in range(N)]})
    run = fitted(tmp_path, rows, id=key)
    new = rows.drop(columns="kind")
    predicted = run.predict(new)
    assert predicted.shape == (N,) and set(predicted) <= {"x", "x_"}
    assert list(run.predict_proba(new).columns) == ["x", "x_"]
    run.evaluate()
    (scored,) = read_scored(run.folder, "test")
    assert scored.score() == run.metrics["test"]["accuracy"] and set(scored.ids) <= set(rows[key])
    new.to_csv(tmp_path / "new.csv", index=False)
    predict(run.folder, tmp_path / "new.csv", tmp_path / "out.csv", coverage=1)
    out = pd.read_csv(tmp_path / "out.csv")
    assert out[key].tolist() == rows[key].tolist()
    assert out[prediction_columns(run.schema)[0]].tolist() == predicted.tolist()
    assert set(class_columns(["x", "x_"], [key]).values()) | {free_name("confidence", [key])} <= set(out.columns)


# --- the same table in other hands -----------------------------------------------------------------------------------


def mixed() -> pd.DataFrame:
    """A column of each type, of which the classes are told by all."""
    y = np.arange(N) % 2
    return pd.DataFrame(
        {
            "number": np.where(y, 4.006e12, 1.5),
            "truth": y == 1,
            "code": np.where(y, 3, 7),
            "large": np.where(y, 4.006e12, 5e11),
            "price": [Decimal("1.50") if i else Decimal("3.00") for i in y],
            "day": [date(2024, 1, 2) if i else date(2023, 1, 2) for i in y],
            "digits": np.where(y, "007", "7"),
            "shade": pd.Categorical(np.where(y, "dark", "light"), ["light", "dark"], ordered=True),
            "title": np.where(y, 12, 34),
        }
    )


TYPES = {
    "number": "numeric",
    **dict.fromkeys(["truth", "code", "large", "price", "day", "digits", "shade"], "categorical"),
    "title": "text",
}


def by_pandas(rows: pd.DataFrame, folder: Path) -> Path:
    rows.to_csv(folder / "rows.csv", index=False)
    return folder / "rows.csv"


def by_arrow(rows: pd.DataFrame, folder: Path) -> Path:
    table = pa.Table.from_pandas(rows.astype({"shade": str}), preserve_index=False)
    pyarrow.csv.write_csv(table, folder / "rows.csv")
    return folder / "rows.csv"


def by_r(rows: pd.DataFrame, folder: Path) -> Path:
    other = rows.assign(
        truth=rows.truth.map({True: "TRUE", False: "FALSE"}), large=["4.006e+12", "5e+11"][::-1] * (N // 2)
    )
    return by_pandas(other, folder)


def parquet(rows: pd.DataFrame, folder: Path) -> Path:
    rows.to_parquet(folder / "rows.parquet")
    return folder / "rows.parquet"


def with_gaps(rows: pd.DataFrame) -> pd.DataFrame:
    """As pandas has them once a row without these cells was among them."""
    return rows.astype({"code": float, "truth": object, "title": float})


FORMS: dict[str, Callable[[pd.DataFrame, Path], Any]] = {
    "a csv of pandas": by_pandas,
    "a csv of Arrow": by_arrow,
    "a csv of R": by_r,
    "parquet": parquet,
    "Arrow": lambda rows, _: pa.Table.from_pandas(rows),
    "polars": lambda rows, _: pl.from_pandas(rows.astype({"shade": str})),
    "a dict of lists": lambda rows, _: {name: rows[name].tolist() for name in rows},
    "a dict of numpy": lambda rows, _: {name: rows[name].to_numpy() for name in rows},
    "a structured array": lambda rows, _: rows.to_records(index=False),
    "a list of dicts": lambda rows, _: rows.to_dict("records"),
    "integers as floats": lambda rows, _: with_gaps(rows),
    "integers as floats, in csv": lambda rows, folder: by_pandas(with_gaps(rows).assign(title=rows.title), folder),
    "truths as integers": lambda rows, _: rows.assign(truth=rows.truth.astype(int)),
    "truths as text": lambda rows, _: rows.assign(truth=rows.truth.astype(str)),
    "nullable": lambda rows, _: rows.astype({"truth": "boolean", "code": "Int64", "large": "Float64"}),
    "categories": lambda rows, _: rows.astype(dict.fromkeys(["truth", "code", "large", "digits"], "category")),
    "one row at a time": lambda rows, _: rows,
}  # fmt: skip


@pytest.fixture(scope="module", params=["values", "text"])
def run_of(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, backbone: Path) -> mmtab.Run:
    """Trained on typed values, and on the csv that pandas made of them."""
    folder = tmp_path_factory.mktemp(request.param)
    rows: Any = mixed().assign(kind=np.where(np.arange(N) % 2, "cup", "hat"))
    rows = rows if request.param == "values" else by_pandas(rows, folder)
    small = {"text": {"backbone": str(backbone), "max_length": 24}, "d_model": 16}
    return mmtab.fit(rows, label="kind", types=TYPES, output=folder / "run", **small, trainer=QUICK["trainer"])


@pytest.mark.parametrize("form", FORMS)
def test_the_same_table_gives_the_same_predictions(run_of: mmtab.Run, form: str, tmp_path: Path) -> None:
    rows = mixed()
    expected = np.asarray(run_of.predict_proba(pa.Table.from_pandas(rows)))
    if form == "one row at a time":
        found = np.concatenate([run_of.predict_proba(rows.iloc[[i]]).to_numpy() for i in range(4)])
        np.testing.assert_allclose(found, expected[:4], atol=1e-5)
        return
    found = run_of.predict_proba(FORMS[form](rows, tmp_path))
    np.testing.assert_allclose(np.asarray(found), expected, atol=1e-5)


# --- tables without rows, and files that are read ---------------------------------------------------------------------


def test_no_rows_give_no_predictions(run_of: mmtab.Run, tmp_path: Path) -> None:
    rows = mixed().head(0)
    for table in (rows, rows.astype(object), pa.Table.from_pandas(mixed()).slice(0, 0), by_pandas(rows, tmp_path)):
        assert run_of.predict(table).shape == (0,)
        p = run_of.predict_proba(table)
        assert len(p) == 0 and list(getattr(p, "column_names", None) or p.columns) == ["cup", "hat"]
    assert predict(run_of.folder, by_pandas(rows.assign(id=[]), tmp_path), tmp_path / "out.parquet") == 0
    assert pyarrow.parquet.read_table(tmp_path / "out.parquet").schema.field("prediction").type == pa.string()
    with pytest.raises(DataError, match="no labels"):
        run_of.evaluate(rows.assign(kind=[]))


def test_no_pairs_give_no_predictions(pairs_run: tuple[Path, Path], tmp_path: Path) -> None:
    data, folder = pairs_run
    sides = {side: pyarrow.parquet.read_table(data / f"{side}.parquet") for side in ("left", "right")}
    run, pairs = mmtab.load_run(folder), pyarrow.parquet.read_table(data / "pairs_test.parquet").slice(0, 0)
    for tables in (sides, {side: table.slice(0, 0) for side, table in sides.items()}):
        assert run.predict(pairs, image_root=data, **tables).shape == (0,)
        assert run.predict_proba(pairs, image_root=data, **tables).num_rows == 0

    for side, table in sides.items():
        pyarrow.parquet.write_table(table.slice(0, 0 if side == "right" else 5), tmp_path / f"{side}.parquet")
    sides_of = {side: str(tmp_path / f"{side}.parquet") for side in sides}
    write_result(MatchConfig(run=str(folder), output=str(tmp_path / "out.csv"), **sides_of))
    assert len(pd.read_csv(tmp_path / "out.csv")) == 0 and len(pd.read_csv(tmp_path / "out_clusters.csv")) == 5


@pytest.mark.parametrize("spelt", ["rows.csv", "sub/../rows.csv", "link.csv", "other/rows.csv", "hard.csv"])
def test_a_table_that_is_read_is_not_overwritten(run_of: mmtab.Run, tmp_path: Path, spelt: str) -> None:
    path = by_pandas(mixed(), tmp_path)
    before = path.read_bytes()
    (tmp_path / "sub").mkdir()
    (tmp_path / "link.csv").symlink_to(path)
    (tmp_path / "hard.csv").hardlink_to(path)
    (tmp_path / "other").symlink_to(tmp_path)
    with pytest.raises(RunError, match=r"would overwrite .*rows\.csv, which is read"):
        predict(run_of.folder, path, tmp_path / spelt)
    assert path.read_bytes() == before


def test_ids_of_pairs_are_found_in_whatever_type(pairs_run: tuple[Path, Path], tmp_path: Path) -> None:
    data, folder = pairs_run
    sides = {side: pd.read_parquet(data / f"{side}.parquet").assign(id=np.arange(100)) for side in ("left", "right")}
    run, asked = mmtab.load_run(folder), pd.DataFrame({"left_id": [3, 4, 5], "right_id": [3, 9, 0]})
    expected = run.predict_proba(asked, image_root=data, **sides)
    asked.astype(float).to_csv(tmp_path / "pairs.csv", index=False)
    others = (asked.astype(float), asked.astype(str), asked.astype("Int64"), tmp_path / "pairs.csv")
    for other in others:
        np.testing.assert_allclose(np.asarray(run.predict_proba(other, image_root=data, **sides)), expected)
