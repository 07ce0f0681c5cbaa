"""The doors for notebooks: datasets by name, folder or frame."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import toy_data
from PIL import Image

import mmtab
from mmtab.config.compose import dataset_place
from mmtab.config.types import DatasetConfig
from mmtab.data.dataset import Picture, chosen_schema, summary
from mmtab.data.schema import Schema
from mmtab.utils.errors import DataError, MmtabError


def frame(n: int = 60) -> dict[str, list[Any]]:
    return {
        "title": [f"{toy_data.NOUNS[i % 3]} number {i} of many, with a café" for i in range(n)],
        "price": [i * 1.5 if i % 7 else None for i in range(n)],
        "colour": [toy_data.COLOURS[i % 4] for i in range(n)],
        "kind": ["abc"[i % 3] for i in range(n)],
    }


@pytest.mark.parametrize("make", [pd.DataFrame, pl.DataFrame, pa.table], ids=["pandas", "polars", "arrow"])
def test_a_frame_becomes_a_dataset(make: Any, tmp_path: Path) -> None:
    dataset = mmtab.Dataset.from_frame(make(frame()), label="kind", folder=tmp_path / "mine")
    assert {c.name: str(c.type) for c in dataset.schema.columns} == {
        "title": "text",
        "price": "numeric",
        "colour": "categorical",
    }
    assert [len(dataset[name]) for name in ("train", "valid", "test")] == [42, 6, 12]
    rows = [row for name in ("train", "valid", "test") for row in dataset[name]]
    found = sorted((row["title"], row["price"], row["colour"], row["kind"]) for row in rows)
    assert found == sorted(zip(*frame().values(), strict=True))
    assert mmtab.load_dataset(tmp_path / "mine") == dataset


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_pandas_and_rows_say_the_same(suffix: str, tmp_path: Path) -> None:
    dataset = mmtab.load_dataset(toy_data.write_kway(tmp_path / "toys", suffix=suffix))
    assert dataset.tables == ["test", "train", "valid"]
    frames = dataset.to_pandas()
    rows = list(dataset["train"])
    assert len(frames["train"]) == len(dataset["train"]) == len(rows) == 36
    assert [None if pd.isna(v) else v for v in frames["train"]["size"]] == [row["size"] for row in rows]
    assert frames["train"]["label"].tolist() == [row["label"] for row in rows]


def test_pictures_are_opened_when_asked_for(tmp_path: Path) -> None:
    folder = toy_data.write_kway(tmp_path / "toys")
    toy_data.change_cell(folder / "train.parquet", 0, "photo", "images/none.png")
    rows = list(mmtab.load_dataset(folder)["train"])  # reads on past a picture that nobody opened
    with pytest.raises(DataError, match=r"table train, row 1 .*column photo: image missing"):
        rows[0]["photo"][0].open()
    picture = next(row["photo"][0] for row in rows[1:] if row["photo"])
    assert isinstance(picture, Picture) and isinstance(picture.open(), Image.Image) and picture.open().mode == "RGB"


def test_matching_frames_become_a_dataset(tmp_path: Path) -> None:
    toys = mmtab.load_dataset(toy_data.write_pairs(tmp_path / "toys", n=60, images=False))
    frames = toys.to_pandas()
    pairs = pd.concat([frames.pop(f"pairs_{name}") for name in ("train", "valid", "test")])
    dataset = mmtab.Dataset.from_frames({**frames, "pairs": pairs}, method="random")
    assert (
        str(dataset.schema.task) == "matching"
        and sum(len(dataset[f"pairs_{s}"]) for s in ("train", "valid", "test")) == 60
    )


@pytest.mark.slow
def test_the_shipped_catalogue_loads_by_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MMTAB_CACHE", str(tmp_path))
    dataset = mmtab.load_dataset("catalogue_variants")
    assert str(dataset.schema.task) == "matching" and "pairs_train" in dataset.tables


@pytest.mark.parametrize(
    "make, says",
    [
        (lambda: mmtab.load_dataset("no_such_thing"), "nor a name of configs/dataset"),
        (lambda: mmtab.load_dataset("wine_reviews"), "mmtab prepare import wine_reviews"),
        (
            lambda: mmtab.Dataset.from_frame(pd.DataFrame({"x": [1, "a", {}], "y": list("aba")}), label="y"),
            "column x: the column mixes",
        ),
        (
            lambda: mmtab.Dataset.from_frame(pd.DataFrame([[1, 2]], columns=["x", "x"]), label="x"),
            "names a column twice",
        ),
        (lambda: mmtab.Dataset.from_frame(pd.DataFrame({"x": [1], "y": [2]}), label="z"), "z"),
    ],
)
def test_mistakes_are_named(make: Any, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMTAB_DATA", str(tmp_path))
    with pytest.raises(MmtabError, match=says):
        make()


def test_what_is_in_a_dataset_is_said_in_two_lines(tmp_path: Path) -> None:
    toy_data.write_kway(tmp_path / "toy", n=40, images=False)
    schema = chosen_schema(DatasetConfig(name="toy", drop=["numeric"]), tmp_path / "toy")
    first, second = summary(tmp_path / "toy", schema)
    assert first.startswith("toy: k-way classification, columns: 1 text, 1 categorical")
    assert re.fullmatch(r"rows: train \d+, valid \d+, test \d+; 3 classes", second)
    toy_data.write_pairs(tmp_path / "pairs")
    first, second = summary(tmp_path / "pairs", Schema.read(tmp_path / "pairs"))
    assert "matching" in first
    assert re.fullmatch(r"rows: left \d+, right \d+, pairs_train \d+, pairs_valid \d+, pairs_test \d+", second)


def test_a_name_means_the_same_to_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name of configs/dataset/, else a folder here, else one of the data root; a path is a folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MMTAB_DATA", str(tmp_path / "root"))
    monkeypatch.setenv("MMTAB_CACHE", str(tmp_path / "cache"))
    for folder in ("catalogue", "root/toys", "root/both", "both"):
        toy_data.write_kway(tmp_path / folder, images=False)
    for name, folder in (("toys", "root/toys"), ("both", "both"), ("./catalogue", "catalogue")):
        place = f"dataset.path={tmp_path / folder}"
        assert mmtab.load_dataset(name).folder == tmp_path / folder and dataset_place(name)[1][1] == place
    assert mmtab.load_dataset(Path("catalogue")).folder == tmp_path / "catalogue"
    assert dataset_place("catalogue") == ("catalogue", ("dataset=catalogue",))
    assert mmtab.load_dataset("catalogue").folder.is_relative_to(tmp_path / "cache")
