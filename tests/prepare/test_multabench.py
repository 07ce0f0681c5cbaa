"""Datasets in the form of MulTaBench become datasets of the standard, fold by fold."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from commands import script
from PIL import Image
from toy_data import draw_picture, read_rows

from mmtab.data.schema import ColumnType, Schema, TaskKind
from mmtab.prepare.check import check
from mmtab.prepare.importers import import_dataset, multabench
from mmtab.utils.errors import ConfigError, DataError

N = 90
IDS = "multabench_row"


def write_double(folder: Path, task: str, shards: bool = False, **changes: Any) -> Path:
    """A table, its metadata and pictures as the source lays them out."""
    rng = np.random.default_rng(0)
    kinds = rng.integers(2, size=N)
    (folder / "images").mkdir(parents=True)
    names = [f"images/p{i}.jpg" for i in range(N)]
    for name, kind in zip(names, kinds, strict=True):
        draw_picture(folder / name, int(kind))
    names[3] = "images/none.jpg"  # a picture that the source lacks
    if shards:
        for i in range(2):
            with zipfile.ZipFile(folder / f"images-{i}.zip", "w") as archive:
                for path in sorted((folder / "images").iterdir())[i::2]:
                    archive.write(path, f"images/{path.name}")
        for path in (folder / "images").iterdir():
            path.unlink()
        (folder / "images").rmdir()
    words = np.array(["a calm garden by the sea", "loud streets of a big town at night"])
    columns = {
        "about": [f"{words[kind]}, number {i}" for i, kind in enumerate(kinds)],
        "size": rng.normal(kinds, 1.0).tolist(),
        "photo": names,
        "target": (kinds * 10 + rng.normal(0, 1, N)).tolist() if task == "reg" else [["no", "yes"][k] for k in kinds],
    }
    pq.write_table(pa.table(columns), folder / "data.parquet")
    about = {"target": "target", "image_col": "photo", "task_type": task} | changes
    (folder / "metadata.json").write_text(json.dumps(about))
    return folder


def test_a_regression_of_pictures(tmp_path: Path) -> None:
    source = write_double(tmp_path / "hub" / "core-img-reg-toys", "reg")
    raw = pq.read_table(source / "data.parquet").to_pylist()
    folder = import_dataset("multabench:core-img-reg-toys/4", tmp_path / "out", source=tmp_path / "hub")
    schema = Schema.read(folder)
    assert (schema.task, schema.metric, schema.label, schema.id) == (TaskKind.REGRESSION, "r2", "target", IDS)
    assert {c.name: c.type for c in schema.columns} == {
        "about": ColumnType.TEXT,
        "size": ColumnType.NUMERIC,
        "photo": ColumnType.IMAGE,
    }
    assert schema.split["fold"] == 4 and "rmse" in schema.source
    rows = {split: read_rows(folder / f"{split}.parquet") for split in ("train", "valid", "test")}
    assert {split: len(table) for split, table in rows.items()} == {"train": 51, "valid": 9, "test": 30}
    everything = [row for table in rows.values() for row in table]
    assert sorted(int(row[IDS]) for row in everything) == list(range(N))
    for row in everything:
        of_source = raw[int(row[IDS])]
        assert (row["target"], row["size"], row["about"]) == tuple(
            of_source[name] for name in ("target", "size", "about")
        )
        if of_source["photo"] == "images/none.jpg":
            assert row["photo"] is None
        else:
            assert Image.open(folder / row["photo"]).size == Image.open(source / of_source["photo"]).size


def test_two_classes_and_packed_pictures(tmp_path: Path) -> None:
    source = write_double(tmp_path / "core-img-cls-toys", "cls", shards=True)
    before = sorted(path.name for path in source.iterdir())
    done = script("prepare_data", "import", "multabench:core-img-cls-toys", "-o", tmp_path / "out", "--source", source)
    assert done.returncode == 0, done.stderr
    assert "1 pictures are named but not there" in done.stderr
    assert not [alarm for alarm in check(tmp_path / "out") if alarm.severity == "error"]
    schema = Schema.read(tmp_path / "out")
    assert schema.task is TaskKind.KWAY and "roc_auc" in schema.source and schema.split["fold"] == 0
    rows = {split: read_rows(tmp_path / "out" / f"{split}.parquet") for split in ("train", "valid", "test")}
    labels = {split: [row["target"] for row in table] for split, table in rows.items()}
    share = np.mean([label == "yes" for table in labels.values() for label in table])
    for table in labels.values():
        assert abs(np.mean([label == "yes" for label in table]) - share) < 0.1
    shown = [row["photo"] for table in rows.values() for row in table if row["photo"]]
    assert len(shown) == N - 1 and all((tmp_path / "out" / name).is_file() for name in shown)
    assert sorted(path.name for path in source.iterdir()) == before


def test_a_picture_outside_is_refused(tmp_path: Path) -> None:
    source = write_double(tmp_path / "toys", "reg")
    table = pq.read_table(source / "data.parquet")
    draw_picture(tmp_path / "secret.jpg", 1)
    cells = pa.array(["../secret.jpg", *table["photo"].to_pylist()[1:]])
    pq.write_table(table.set_column(table.column_names.index("photo"), "photo", cells), source / "data.parquet")
    with pytest.raises(DataError, match=r"row 1, .*photo: the picture's path leaves the folder; found \.\./secret"):
        import_dataset("multabench:toys", tmp_path / "out", source=source)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("of_classes", [True, False])
def test_folds_are_parts_of_repeats(monkeypatch: pytest.MonkeyPatch, of_classes: bool) -> None:
    label = np.random.default_rng(0).integers(5, size=301)
    folds = [multabench.divide(label, fold, of_classes) for fold in range(6)]
    for repeat in (folds[:3], folds[3:]):
        assert sorted(np.concatenate([test for _, test in repeat])) == list(range(301))
        assert all(set(train) == set(range(301)) - set(test) for train, test in repeat)
    assert (folds[0][1][:50] != folds[3][1][:50]).any()
    monkeypatch.setattr(multabench, "MAX_TRAIN", 100)
    monkeypatch.setattr(multabench, "MAX_TEST", 50)
    train, test = multabench.divide(label, 0, of_classes)
    assert len(train) == 100 and len(test) == 50 and set(train) < set(folds[0][0]) and set(test) < set(folds[0][1])


@pytest.mark.parametrize(
    ("name", "changes", "error", "message"),
    [
        ("multabench:toys/6", {}, ConfigError, "with a fold of 0, 1, 2, 3, 4, 5"),
        ("multabench:../toys", {}, ConfigError, "expected multabench:NAME"),
        ("multabench:others", {"gone": True}, ConfigError, "expected data.parquet there or in others/"),
        ("multabench:toys", {"target": "price"}, DataError, "data.parquet lacks the target; .*found price"),
        ("multabench:toys", {"image_col": "picture"}, DataError, "lacks the image_col"),
        ("multabench:toys", {"task_type": "rank"}, DataError, "task_type; expected reg or cls; found rank"),
    ],
)
def test_what_is_not_of_this_form(
    tmp_path: Path, name: str, changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    source = tmp_path if changes.pop("gone", False) else write_double(tmp_path / "toys", "reg", **changes)
    with pytest.raises(error, match=message):
        import_dataset(name, tmp_path / "out", source=source)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("task", "labels", "message"),
    [
        ("reg", ["a", "b", "c"] * 9, "column target: the label; expected numbers; found string"),
        ("reg", [1.0, 2.0, float("nan")] * 9, "column target: a row without a label"),
        ("cls", [[1], [2], [3]] * 9, "column target: the label; expected classes; found list"),
        ("cls", ["a", "b"], "too few rows to divide; found 2"),
        ("cls", list("abcdefghi"), "no row would be in valid"),
    ],
)
def test_labels_that_cannot_be_divided(tmp_path: Path, task: str, labels: list[Any], message: str) -> None:
    table = pa.table({"size": np.arange(len(labels)) * 1.5, "target": labels})
    pq.write_table(table, tmp_path / "data.parquet")
    (tmp_path / "metadata.json").write_text(json.dumps({"target": "target", "task_type": task}))
    with pytest.raises(DataError, match=message):
        import_dataset("multabench:toys", tmp_path / "out", source=tmp_path)
    assert not (tmp_path / "out").exists()
