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
from toy_data import write_kway

import mmtab
from mmtab.cli import main
from mmtab.data.synthetic import Channel, Recipe, ceilings, write_catalogue
from mmtab.data.table import Table, read_split
from mmtab.reports import figures
from mmtab.reports.ablation import _shapley, _Work, ablate, ranking
from mmtab.reports.more_rows import in_words, of_twice_as_many
from mmtab.reports.run_page import report_after, write_report
from mmtab.reports.runs_page import write_comparison
from mmtab.reports.svg import svg
from mmtab.runs.evaluate import evaluate
from mmtab.runs.scored import read_scored, scored_splits
from mmtab.runs.session import open_run
from mmtab.runs.train import train
from mmtab.training.metrics import best_temperature, bootstrap
from mmtab.utils.atomic import write_json
from mmtab.utils.errors import RunError

MODALITIES = ("image", "text", "numeric", "categorical")
HEADINGS = (
    "Did it learn?",
    "Where is it wrong?",
    "Can its probabilities be trusted?",
    "What does it use?",
    "Worst mistakes",
    "Time, memory, provenance",
)
RECIPE = Recipe(
    image=Channel(0.985, 0.015),
    text=Channel(0.9, 0.05),
    numeric=Channel(0.97, 0.01),
    categorical=Channel(0.85, 0.05),
    named_shape=0.0,
)


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Each modality tells another amount of the class; no text names the shape in the picture."""
    folder = tmp_path_factory.mktemp("catalogue")
    write_catalogue(folder, "product_type", n_rows=2000, image_size=32, recipe=RECIPE)
    return folder


def ranking_of_the_recipe() -> list[str]:
    score = ceilings("product_type", RECIPE) | {"": 1 / 48}
    return sorted(MODALITIES, key=lambda name: -_shapley(score, MODALITIES, name))


def trained(data: Path, folder: Path, base: str = "linear") -> mmtab.Run:
    settings = {"max_epochs": 10, "lr": 0.002, "progress": False}
    image, text = {"size": 32, "grid": 1}, {"n_depths": 1}  # few features, of which ten epochs learn enough
    parts: dict[str, Any] = {"base": base, "trainer": settings, "image": image, "text": text, "d_model": 64}
    return mmtab.fit(data, recipe="frozen", output=folder, **parts)


@pytest.mark.slow
def test_modalities_are_ranked_as_the_generator_knows(catalogue: Path, tmp_path: Path) -> None:
    trained_run = trained(catalogue, tmp_path / "run")
    ablation = ablate(open_run(trained_run.folder), catalogue)
    assert ranking(ablation) == ranking_of_the_recipe() == ["image", "text", "numeric", "categorical"]
    assert {ablation["modalities"][name]["verdict"] for name in ("image", "text", "numeric")} == {"used"}
    total = sum(values["shapley"] for values in ablation["modalities"].values())
    assert total == pytest.approx(ablation["score"] - ablation["nothing"])
    assert ablation["columns"]["department"]["loss"] > 0.1 > abs(ablation["columns"]["price"]["loss"])
    image = ablation["missingness"]["scores"]["image"]
    assert (
        image[0] == ablation["score"]
        and image[-1] == ablation["subsets"]["text+numeric+categorical"] < image[2] < image[0]
    )


@pytest.mark.slow
def test_a_modality_that_tells_nothing_is_named_as_not_used(catalogue: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(catalogue, data)
    for i, split in enumerate(("train", "valid", "test")):
        table = pq.read_table(data / f"{split}.parquet")
        order = np.random.default_rng(i).permutation(len(table))
        for column in ("department", "brand"):
            table = table.set_column(table.column_names.index(column), column, table[column].take(order))
        pq.write_table(table, data / f"{split}.parquet")
    trained_run = trained(data, tmp_path / "run", base="none")  # a base leans a little on noise too
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
        missing = np.arange(len(table)) % 2 == 0
        cells = table.columns[column]
        lacking = pa.array(
            [None if lost else cell.as_py() for lost, cell in zip(missing, cells, strict=True)], cells.type
        )
        read = session.batches(replace_column(table, column, lacking))
        expected, _ = session.predictions(read)
        predictions, _ = session.predictions(batches.without({column: missing}))
        np.testing.assert_allclose(predictions.probability, expected.probability, atol=2e-3, err_msg=column)


def replace_column(table: Table, name: str, cells: pa.Array) -> Table:
    return replace(table, columns=table.columns | {name: cells})


def test_pairs_lose_their_comparison_too(tmp_path: Path, pairs_run: tuple[Path, Path]) -> None:
    data, folder = pairs_run[0], Path(shutil.copytree(pairs_run[1], tmp_path / "run"))
    page = Seen(write_report(folder).read_text(encoding="utf-8"))
    ablation = json.loads((folder / "report" / "ablation.json").read_text())
    assert ablation["metric"] == "f1" and ablation["subsets"][""] == ablation["nothing"]
    session = open_run(folder)
    work = _Work(session, data, 1000)
    probability = work.score(work.everywhere(column.name for column in session.schema.columns)).probability
    assert probability is not None and len(np.unique(probability.round(6))) == 1  # without any cell all pairs are alike
    assert {"precision by recall", "reliability diagram"} <= {str(svg["aria-label"]) for svg in page.having("svg")}


def test_the_page_of_a_run(kway: tuple[Path, Path]) -> None:
    data, folder = kway
    facts = json.loads((folder / "provenance.json").read_text())
    (folder / "manifest.json").unlink()  # else the folder is taken for damaged
    write_json(folder / "provenance.json", facts | {"left_out": {"threshold": "valid has <7> rows"}})
    path = write_report(folder)
    text = path.read_text(encoding="utf-8")
    page = Seen(text)
    for heading in HEADINGS:
        assert heading in page.text
    assert "Threshold not fitted: valid has <7> rows" in page.text
    assert all(str(img["src"]).startswith("data:image/") for img in page.having("img"))
    assert "95 % interval" in page.text and "the commonest class for all, test" in page.text
    charts = [str(svg["aria-label"]) for svg in page.having("svg")]
    assert {"losses and score by epoch", "reliability diagram"} <= set(charts) and "#000000" not in text
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids)), "each chart has ids of its own"
    assert "http" not in {str(a.get("href", ""))[:4] for a in page.having("a")}
    for name in ("learning", "confusion", "reliability", "risk_coverage", "modalities", "columns", "missingness"):
        assert (path.parent / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    scored = read_scored(folder, "test")[0]
    metrics = json.loads((folder / "metrics.json").read_text())["test"]
    assert scored.score() == pytest.approx(metrics["accuracy"])
    assert scored.ece() == pytest.approx(metrics["ece"], abs=1e-4)
    coverage, risk = scored.risk_coverage()
    assert coverage[-1] == 1 and risk[-1] == pytest.approx(1 - scored.score())
    assert sum(row["rows"] for row in scored.by_class()) == len(scored.y_true)
    elsewhere = data.rename(data.with_name("elsewhere"))
    again = write_report(folder, "valid")  # without the data a page is left, and earlier measurements are on it
    elsewhere.rename(data)
    assert (
        "could not be read" in Seen(again.read_text(encoding="utf-8")).text and "What does it use?" in again.read_text()
    )


@pytest.mark.slow
def test_the_page_says_what_more_rows_would_bring(kway: tuple[Path, Path], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(kway[1], folder)
    before = {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()}
    main.run("report", [str(folder), "more_rows=true", "ablation=false"])
    curve = json.loads((folder / "report" / "more_rows.json").read_text())
    n = json.loads((folder / "provenance.json").read_text())["n_train"]
    assert curve["rows"] == [pytest.approx(n / 4, abs=4), pytest.approx(n / 2, abs=4), n]
    assert curve["scores"][-1] == json.loads((folder / "metrics.json").read_text())["valid"]["accuracy"]
    assert {len(worth) for worth in curve["modalities"].values()} == {3}
    after = {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()} - before
    assert {path.parts[0] for path in after} == {"report"} and not (folder / "report" / "parts_of_train").exists()
    main.run("report", [str(folder)])  # what was measured stays on the page
    ablation = json.loads((folder / "report" / "ablation.json").read_text())["modalities"]
    assert {name: worth[-1] for name, worth in curve["modalities"].items()} == {
        name: pytest.approx(of["shapley"], abs=1e-6) for name, of in ablation.items()
    }
    page = Seen((folder / "report" / "report.html").read_text(encoding="utf-8"))
    assert "What would more rows bring?" in page.text and f"with {n:,} rows of train; if it goes on so" in page.text
    drawn = {str(svg["aria-label"]) for svg in page.having("svg")}
    assert drawn >= {"score on valid by rows of train", "worth of each modality by rows of train"}


def test_what_a_modality_is_worth_by_rows_is_said_beyond_noise() -> None:
    curve = {"metric": "accuracy", "rows": [100, 200, 400], "scores": [0.6, 0.7, 0.75]}
    assert "modality" not in in_words(curve, 0.02) and "the model" not in in_words(curve, 0.02)
    worth = {"image": [0.01, 0.02, 0.1], "text": [0.3, 0.3, 0.31], "numeric": [0.2, 0.15, 0.1]}
    said = in_words(curve | {"modalities": worth}, 0.02)
    assert "makes more of image (+0.010 to +0.100)." in said and "relies less on numeric (+0.200 to +0.100)." in said
    assert "text" not in said
    of_noise = in_words(curve | {"modalities": worth}, 0.2)
    assert of_noise.endswith("What each modality is worth hardly depends on the rows.")


@pytest.mark.parametrize(
    ("scores", "expected"), [((0.6, 0.8, 0.9), 0.95), ((0.9, 0.8, 0.7), 0.7), ((0.9, 1.0, 1.0), 1.0)]
)
def test_the_trend_of_more_rows_is_carried_on(scores: tuple[float, ...], expected: float) -> None:
    curve = {"metric": "accuracy", "rows": [100, 200, 400], "scores": list(scores)}
    assert of_twice_as_many(curve) == pytest.approx(expected)


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


def test_a_confusion_matrix_shows_the_classes_that_are_confused(kway: tuple[Path, Path]) -> None:
    """Of 48 classes three are mistaken for each other, and one for a fourth."""
    y_true = np.repeat(np.arange(48), 20)
    y_pred = y_true.copy()
    y_pred[np.flatnonzero((y_true < 3) & (np.arange(len(y_true)) % 2 == 0))] = 1
    y_pred[-1] = 30
    names = [f"class {i}" for i in range(46)] + ["漢字", "$x_1$"]
    confused = replace(read_scored(kway[1], "test")[0], y_true=y_true, y_pred=y_pred, classes=names)
    shown = svg(figures.confusion(confused), "chart", "confusion")
    drawn = [i for i, name in enumerate(names) if f">{name}<" in shown]
    assert {0, 1, 2, 30, 47} <= set(drawn) and len(drawn) == figures.FEW_CLASSES
    few = replace(confused, y_true=y_true % 4, y_pred=y_pred % 4, classes=["漢字", "a", "b", "c"])
    assert all(f">{name}<" in svg(figures.confusion(few), "chart", "") for name in few.classes), "of few classes all"


def test_no_report_is_no_failure_of_the_run(tmp_path: Path) -> None:
    assert report_after(tmp_path).startswith("no report: ")


def test_a_temperature_is_only_for_what_is_beyond_noise() -> None:
    rng = np.random.default_rng(0)
    y_true = rng.integers(0, 4, 400)
    logits = rng.normal(size=(400, 4))
    logits[np.arange(400), y_true] += 1.0
    assert best_temperature(logits * 8, y_true) > 4
    assert best_temperature(logits / 4, y_true) < 0.5
    probability = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    assert best_temperature(logits, np.array([rng.choice(4, p=p) for p in probability])) == 1.0


def test_the_bootstrap_is_paired() -> None:
    rng = np.random.default_rng(0)
    y_true = rng.integers(0, 3, (200, 1))
    y_pred = np.stack([y_true, y_true, np.roll(y_true, 1, 0)])
    draws = bootstrap(y_true, y_pred, "accuracy", 3)
    assert draws is not None and (draws[:, 0] == draws[:, 1]).all() and (draws[:, 0] >= draws[:, 2]).all()
