"""Reports: what a model uses, checked where it is known; the pages of a run and of several; what they say in words."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pages import Seen
from toy_data import write_kway, write_pairs

import mmtab
from mmtab.data.synthetic import Channel, Recipe, ceilings, write_catalogue
from mmtab.data.table import Table, read_split
from mmtab.reports.ablation import _shapley, ablate, ranking
from mmtab.reports.run_page import report_after, write_report
from mmtab.reports.runs_page import write_comparison
from mmtab.runs.evaluate import evaluate
from mmtab.runs.predictions import read_scored, scored_splits
from mmtab.runs.session import open_run
from mmtab.runs.train import train
from mmtab.training.metrics import best_temperature, bootstrap
from mmtab.utils.errors import RunError

MODALITIES = ("image", "text", "numeric", "categorical")
KNOWN = Recipe(image=Channel(0.985, 0.015), text=Channel(0.9, 0.05), numeric=Channel(0.97, 0.01), categorical=Channel(0.85, 0.05), named_shape=0.0)  # fmt: skip


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of which each modality tells another amount; without pictures' text of shapes."""
    folder = tmp_path_factory.mktemp("catalogue")
    write_catalogue(folder, "product_type", n_rows=2000, image_size=32, recipe=KNOWN)
    return folder


def known_ranking() -> list[str]:
    score = ceilings("product_type", KNOWN) | {"": 1 / 48}
    return sorted(MODALITIES, key=lambda name: -_shapley(score, MODALITIES, name))


def trained(data: Path, folder: Path) -> mmtab.Run:
    settings = {"max_epochs": 8, "lr": 0.002, "progress": False}
    return mmtab.fit(data, recipe="frozen", output=folder, trainer=settings, image={"size": 32, "grid": 1}, d_model=64)


def test_modalities_are_ranked_as_the_generator_knows(catalogue: Path, tmp_path: Path) -> None:
    trained_run = trained(catalogue, tmp_path / "run")
    found = ablate(open_run(trained_run.folder), catalogue)
    assert ranking(found) == known_ranking() == ["image", "text", "numeric", "categorical"]
    assert {found["modalities"][name]["verdict"] for name in ("image", "text", "numeric")} == {"used"}
    total = sum(each["shapley"] for each in found["modalities"].values())
    assert total == pytest.approx(found["score"] - found["nothing"])
    assert found["columns"]["department"]["loss"] > 0.1 > abs(found["columns"]["price"]["loss"])
    image = found["missingness"]["scores"]["image"]
    assert (
        image[0] == found["score"] and image[-1] == found["subsets"]["text+numeric+categorical"] < image[2] < image[0]
    )


def test_a_modality_scrambled_in_training_is_named_as_not_used(catalogue: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(catalogue, data)
    table = pq.read_table(data / "train.parquet")
    order = np.random.default_rng(0).permutation(len(table))
    pq.write_table(table.set_column(table.column_names.index("department"), "department", table["department"].take(order)).set_column(table.column_names.index("brand"), "brand", table["brand"].take(order)), data / "train.parquet")  # fmt: skip
    trained_run = trained(data, tmp_path / "run")
    page = Seen(trained_run.report("valid").read_text(encoding="utf-8"))
    assert "categorical is not used" in page.text
    for name in ("image", "text", "numeric"):
        assert f"{name} is not used" not in page.text


@pytest.fixture(scope="module")
def kway(tmp_path_factory: pytest.TempPathFactory, small_config: Callable[..., Any]) -> tuple[Path, Path]:
    """A dataset and the folder of a run that scored test."""
    data, folder = tmp_path_factory.mktemp("toys") / "data", tmp_path_factory.mktemp("runs") / "run"
    write_kway(data)
    train(small_config(folder, data), folder)
    evaluate(folder, "test")
    return data, folder


@pytest.mark.parametrize(
    ("layout", "tuned"),
    [
        ("text.layout=joint", "text.n_tuned_layers=0"),
        ("text.layout=column", "text.n_tuned_layers=1"),
        pytest.param("text.layout=joint", "text.n_tuned_layers=1", marks=pytest.mark.slow),
        pytest.param("text.layout=column", "text.n_tuned_layers=0", marks=pytest.mark.slow),
    ],
)
def test_a_cell_taken_away_is_a_missing_cell(
    tmp_path: Path, configure: Callable[..., Any], layout: str, tuned: str
) -> None:
    data, folder = tmp_path / "data", tmp_path / "run"
    write_kway(data)
    train(configure(data, layout, tuned, "trainer.max_epochs=1", "text.also=[categorical]"), folder)
    session = open_run(folder)
    batches, _, _ = session.load("valid", data)
    table = read_split(data, session.schema, "valid")
    for column in table.columns:
        gone = np.arange(len(table)) % 2 == 0
        cells = table.columns[column]
        lacking = pa.array([None if lost else cell.as_py() for lost, cell in zip(gone, cells, strict=True)], cells.type)
        read = session.kway(replace_column(table, column, lacking))
        expected, _ = session.predictions(read)
        found, _ = session.predictions(batches.without({column: gone}))
        np.testing.assert_allclose(found.probability, expected.probability, atol=2e-3, err_msg=column)


def replace_column(table: Table, name: str, cells: pa.Array) -> Table:
    return replace(table, columns=table.columns | {name: cells})


def test_pairs_lose_their_comparison_too(tmp_path: Path, configure: Callable[..., Any]) -> None:
    data, folder = tmp_path / "data", tmp_path / "run"
    write_pairs(data)
    train(configure(data), folder)
    evaluate(folder, "test")
    page = Seen(write_report(folder).read_text(encoding="utf-8"))
    found = json.loads((folder / "report" / "ablation.json").read_text())
    assert found["metric"] == "f1" and found["subsets"][""] == found["nothing"]
    nothing = ablate_all(folder, data)
    assert len(np.unique(nothing.round(6))) == 1  # without any cell all pairs are alike
    assert {"precision by recall", "reliability diagram"} <= {str(img["alt"]) for img in page.having("img")}


def ablate_all(folder: Path, data: Path) -> np.ndarray:
    from mmtab.reports.ablation import _Work

    session = open_run(folder)
    work = _Work(session, data, "valid", 1000, 0)
    found = work.score(work.everywhere(column.name for column in session.schema.columns)).probability
    assert found is not None
    return found


def test_the_page_of_a_run(kway: tuple[Path, Path]) -> None:
    data, folder = kway
    path = write_report(folder)
    text = path.read_text(encoding="utf-8")
    page = Seen(text)
    for heading in ("Did it learn?", "Where is it wrong?", "Can its probabilities be trusted?", "What does it use?", "Worst mistakes", "Time, memory, provenance"):  # fmt: skip
        assert heading in page.text
    assert all(str(img["src"]).startswith("data:image/") for img in page.having("img"))
    assert "http" not in {str(a.get("href", ""))[:4] for a in page.having("a")}
    for name in ("learning", "confusion", "reliability", "risk_coverage", "modalities", "columns", "missingness"):
        assert (path.parent / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    scored = read_scored(folder, "test")[0]
    metrics = json.loads((folder / "metrics.json").read_text())["test"]
    assert scored.score() == pytest.approx(metrics["accuracy"])
    assert scored.ece() == pytest.approx(metrics["ece"], abs=1e-4)
    coverage, risk = scored.risk_coverage()
    assert coverage[-1] == 1 and risk[-1] == pytest.approx(1 - scored.score())
    assert sum(each["rows"] for each in scored.by_class()) == len(scored.y_true)
    elsewhere = data.rename(data.with_name("elsewhere"))
    again = write_report(folder, "valid")  # without the data a page is left, and earlier measurements are on it
    elsewhere.rename(data)
    assert (
        "could not be read" in Seen(again.read_text(encoding="utf-8")).text and "What does it use?" in again.read_text()
    )


def test_several_runs_are_compared(kway: tuple[Path, Path], configure: Callable[..., Any], tmp_path: Path) -> None:
    data, folder = kway
    other = tmp_path / "other"
    train(configure(data, "fusion=mean", "seed=1"), other)
    assert scored_splits(folder) == ["test", "valid"] and scored_splits(other) == ["valid"]
    path = write_comparison([folder, other], tmp_path / "both.html")
    page = Seen(path.read_text(encoding="utf-8"))
    assert "fusion._target_" in page.text and "some on" in page.text and "below the best" in page.text
    with pytest.raises(RunError, match="no scored predictions of 'test'"):
        write_comparison([folder, other], tmp_path / "both.html", "test")
    with pytest.raises(RunError, match="named twice"):
        write_comparison([folder, folder], tmp_path / "both.html")


def test_no_report_is_no_failure_of_the_run(tmp_path: Path) -> None:
    assert report_after(tmp_path).startswith("no report: ")


def test_a_temperature_is_only_for_what_is_beyond_noise() -> None:
    rng = np.random.default_rng(0)
    label = rng.integers(0, 4, 400)
    sure = rng.normal(size=(400, 4))
    sure[np.arange(400), label] += 1.0
    assert best_temperature(sure * 8, label) > 4
    assert best_temperature(sure / 4, label) < 0.5
    assert best_temperature(sure, np.array([rng.choice(4, p=p) for p in np.exp(sure) / np.exp(sure).sum(1, keepdims=True)])) == 1.0  # fmt: skip


def test_the_bootstrap_is_paired() -> None:
    rng = np.random.default_rng(0)
    label = rng.integers(0, 3, (200, 1))
    said = np.stack([label, label, np.roll(label, 1, 0)])
    drawn = bootstrap(label, said, "accuracy", 3)
    assert drawn is not None and (drawn[:, 0] == drawn[:, 1]).all() and (drawn[:, 0] >= drawn[:, 2]).all()
