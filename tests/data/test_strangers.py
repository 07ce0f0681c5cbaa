"""Datasets of strangers: what lies in a folder leads nowhere else, and what is absurdly large ends in one line."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
from toy_data import write_kway

import mmtab
from mmtab.data import csv_files, files
from mmtab.data.cells import LONGEST, canonical
from mmtab.data.dataset import Dataset
from mmtab.data.pictures import FORMATS
from mmtab.data.schema import ColumnType, Schema
from mmtab.reports.card import describe
from mmtab.utils.errors import DataError, RunError
from mmtab.utils.locks import alone_in, lock


@pytest.fixture
def toys(tmp_path: Path) -> Path:
    return write_kway(tmp_path / "toys", n=30, suffix=".csv", images=False)


def move_out_and_link(path: Path) -> Path:
    """The file or folder, now outside of its folder."""
    outside = path.parents[1] / "outside"
    outside.mkdir(exist_ok=True)
    path.rename(outside / path.name)
    path.symlink_to(outside / path.name)
    return outside / path.name


@pytest.mark.parametrize("name", ["train.csv", "dataset.yaml", "train"])
def test_a_link_out_of_a_dataset_is_refused(toys: Path, name: str) -> None:
    if name == "train":
        (toys / "train").mkdir()
        (toys / "train.csv").rename(toys / "train" / "part.csv")
    move_out_and_link(toys / name)
    for reads in (
        lambda: list(Dataset.read(toys)["train"]),
        lambda: mmtab.load_dataset(toys)["train"].to_pandas(),
        lambda: describe(toys),
    ):
        with pytest.raises(DataError, match=r"is a link out of .*outside.*copy the file into the folder \(cp -L\)"):
            reads()


def test_links_to_a_dataset_and_within_it_are_followed(toys: Path) -> None:
    (toys / "train.csv").rename(toys / "train-v2.csv")
    (toys / "train.csv").symlink_to("train-v2.csv")
    (toys.parent / "link").symlink_to(toys)
    assert len(list(mmtab.load_dataset(toys.parent / "link")["train"])) == 18


@pytest.mark.parametrize("name", ["checkpoints", "config.yaml", "report/report.html"])
def test_nobody_writes_through_a_link_out_of_a_run(tmp_path: Path, name: str) -> None:
    run, victim = tmp_path / "run", tmp_path / "victim"
    (run / "report").mkdir(parents=True)
    victim.mkdir()
    (victim / "thesis").write_text("mine")
    (run / name).symlink_to(victim)
    with pytest.raises(RunError, match=rf"{name} is a link to {victim}, .*Fix: replace the link"), alone_in(run):
        pytest.fail("it may be written to")
    assert (victim / "thesis").read_text() == "mine"


def test_a_run_with_linked_weights_is_not_opened(kway_run: tuple[Path, Path], tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(kway_run[1], run)
    best = run / "checkpoints" / "best.ckpt"
    best.rename(tmp_path / "best.ckpt")
    best.symlink_to(tmp_path / "best.ckpt")
    with pytest.raises(RunError, match=r"best\.ckpt is a link to .*outside the run"):
        mmtab.load_run(run).evaluate()


def test_a_lock_is_no_link(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("mine")
    (tmp_path / ".lock").symlink_to(tmp_path / "victim")
    with pytest.raises(RunError, match=r"the lock .* is a link"):
        lock(tmp_path / ".lock")
    with pytest.raises(RunError, match="is a link"), alone_in(tmp_path):
        pass
    assert (tmp_path / "victim").read_text() == "mine"


# --- what is absurdly large or deep ----------------------------------------------------------------------------------


def brackets(toys: Path) -> None:
    with (toys / "dataset.yaml").open("a") as file:
        file.write(f"split: {'[' * 20_000}")


def long_yaml(toys: Path) -> None:
    with (toys / "dataset.yaml").open("a") as file:
        file.write("#" * (1 << 20))


def many_columns(toys: Path) -> None:
    (toys / "train.csv").write_text(",".join(f"c{i}" for i in range(20_000)) + "\n")


def long_cell(toys: Path, quote: str = "") -> None:
    rows = (toys / "train.csv").read_text().splitlines()
    (toys / "train.csv").write_text("\n".join([*rows, f"{quote}{'a' * (5 << 20)}{quote}{',' * rows[0].count(',')}"]))


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (brackets, "dataset.yaml is nested too deeply"),
        (long_yaml, "dataset.yaml is too large"),
        (many_columns, "too many columns; expected at most 10000; found 20000"),
        (long_cell, "is too long; expected at most 4 MiB"),
        (lambda toys: long_cell(toys, '"'), "is too long; expected at most 4 MiB"),
    ],
    ids=["brackets", "yaml", "columns", "cell", "quoted cell"],
)
def test_it_ends_in_one_line_within_seconds(
    toys: Path, change: Callable[[Path], None], problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(csv_files, "CSV_LONGEST_ROW", 4 << 20)
    monkeypatch.setattr(csv_files, "CSV_BLOCK", 1 << 20)
    change(toys)
    began = time.monotonic()
    with pytest.raises(DataError) as caught:
        list(Dataset.read(toys)["train"])
    assert problem in str(caught.value) and "\n" not in str(caught.value) and len(str(caught.value)) < 1000
    assert time.monotonic() - began < 20


def test_a_cell_of_text_has_a_longest_length() -> None:
    cells = pa.array(["a", "b" * (LONGEST + 1), None])
    for kind in (ColumnType.TEXT, ColumnType.CATEGORICAL):
        values, bad = canonical(cells, kind)
        assert values.to_pylist() == ["a", None, None] and bad == [1]


def test_brackets_in_lines_of_json(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(f'{{"a": {"[" * 20_000}')
    with pytest.raises(DataError, match="line 1 cannot be read as JSON"):
        mmtab.Dataset.from_frame(tmp_path / "rows.jsonl", label="a")


def test_pictures_are_opened_by_readers_that_only_decode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_kway(tmp_path / "toys", n=30)
    first = next(path for path in sorted((folder / "images").iterdir()) if path.name.startswith("train-"))
    first.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n")
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *_: pytest.fail("a program was started"))
    pictures = [row["photo"] for row in mmtab.load_dataset(folder)["train"]]
    with pytest.raises(DataError, match=r"not an image; expected a readable picture \(BMP, .*PNG"):
        [picture.open() for cell in pictures for picture in cell]
    assert not {"EPS", "WMF", "EMF", "PDF"} & set(FORMATS)
    assert Schema.read(folder).of_type(ColumnType.IMAGE) == ["photo"] and files.exists(folder, "train")
