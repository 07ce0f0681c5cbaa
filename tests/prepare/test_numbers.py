"""Labels that are numbers: proposed, divided and checked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toy_data import change_cell, read_rows, write_numbers, write_table

from mmtab.data.schema import Schema
from mmtab.prepare.check import check
from mmtab.prepare.infer import infer
from mmtab.prepare.propose import propose
from mmtab.prepare.split import split
from mmtab.reports.card import describe, markdown, page
from mmtab.utils.errors import DataError

N = 300


def table(folder: Path, label: list[Any], name: str = "rows.csv") -> Path:
    return write_table(folder / name, {"x": [str(i % 7) for i in range(len(label))], "y": label})


@pytest.mark.parametrize(
    ("label", "task"),
    [
        ([i % 50 + 0.5 for i in range(N)], "regression"),
        (list(range(N)), "regression"),
        ([i % 50 for i in range(N)], "kway"),
        ([i % 5 + 0.5 for i in range(N)], "kway"),
        ([f"kind {i % 50}" for i in range(N)], "kway"),
    ],
)
def test_a_label_of_many_numbers_is_a_quantity(tmp_path: Path, label: list[Any], task: str) -> None:
    path = table(tmp_path, label)
    proposal = infer({"rows": path}, name="toys", label="y")
    assert proposal.schema.task == task
    told = any("say task=kway" in note for note in proposal.notes)
    assert told == (label == list(range(N)))  # fractions are no names of classes
    assert infer({"rows": path}, name="toys", label="y", task="kway").schema.task == "kway"
    if isinstance(label[0], str):
        with pytest.raises(DataError, match="the label of regression; expected numbers"):
            infer({"rows": path}, name="toys", label="y", task="regression")
    else:
        schema = infer({"rows": path}, name="toys", label="y", task="regression").schema
        assert schema.task == "regression" and schema.metric == "r2"


def test_splits_have_labels_alike(tmp_path: Path) -> None:
    label = np.exp(np.random.default_rng(0).normal(0, 1, N)).round(4).tolist()
    propose([table(tmp_path, label)], tmp_path / "toys", label="y")
    split(tmp_path / "toys")
    parts = {name: [float(r["y"]) for r in read_rows(tmp_path / "toys" / f"{name}.csv")] for name in SPLITS}
    assert sorted(value for part in parts.values() for value in part) == sorted(label)
    for part in parts.values():
        for q in (0.1, 0.5, 0.9):
            assert np.mean(np.array(part) <= np.quantile(label, q)) == pytest.approx(q, abs=0.05)


SPLITS = ("train", "valid", "test")


def test_amounts_of_money_are_numbers(tmp_path: Path) -> None:
    amounts = [f"€ {i // 10}.{i % 10}00,50" for i in range(10, N)]
    propose([table(tmp_path, amounts)], tmp_path / "toys", label="y")
    rows = read_rows(tmp_path / "toys" / "rows.csv")
    assert [float(row["y"]) for row in rows[:3]] == [1000.5, 1100.5, 1200.5]


def test_checks_of_labels(tmp_path: Path) -> None:
    folder = write_numbers(tmp_path / "toys", n=200, images=False)
    assert {alarm.kind for alarm in check(folder)} <= {"near_duplicates", "near_duplicate", "id_like"}
    change_cell(folder / "valid.parquet", 3, "label", 9999.0)
    far = [alarm for alarm in check(folder) if alarm.kind == "far_label"]
    assert [alarm.table for alarm in far] == ["valid"] and "9999" in far[0].message
    change_cell(folder / "valid.parquet", 3, "label", float("inf"))
    assert any(alarm.severity == "error" and "no finite number" in alarm.message for alarm in check(folder))
    same = write_numbers(tmp_path / "same", n=40, images=False)
    for row in range(24):
        change_cell(same / "train.parquet", row, "label", 5.0)
    assert any(alarm.kind == "one_label" for alarm in check(same))


def test_a_column_that_gives_the_number_away(tmp_path: Path) -> None:
    folder = write_numbers(tmp_path / "toys", n=300, images=False)
    for name in SPLITS:
        rows = read_rows(folder / f"{name}.parquet")
        cells = {column: [row[column] for row in rows] for column in rows[0]}
        write_table(folder / f"{name}.parquet", cells | {"size": [2 * label for label in cells["label"]]})
    assert any(alarm.column == "size" and "alone gets" in alarm.message for alarm in check(folder))


def test_the_card_of_a_dataset(tmp_path: Path) -> None:
    folder = write_numbers(tmp_path / "toys", n=60)
    facts = describe(folder, Schema.read(folder))
    assert "numbers in column label" in markdown(facts) and "| median |" in markdown(facts)
    assert "labels" in page(facts)
