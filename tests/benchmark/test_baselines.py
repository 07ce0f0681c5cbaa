"""The controls of a benchmark on toy data: each answers what it can, learns what is there, and sees no test label."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from toy_data import read_rows, write_kway, write_pairs, write_table

from mmtab.benchmark.baselines import BASELINES, Fit, run_baseline
from mmtab.benchmark.handout import without_labels
from mmtab.benchmark.scoring import metrics, read_predictions
from mmtab.benchmark.truth import Truth
from mmtab.utils.errors import ConfigError, DataError, MmtabError

TASKS = {"kway": lambda folder: write_kway(folder, n=90), "pairs": lambda folder: write_pairs(folder, n=80)}
Answered = Callable[[str, str], tuple[Path, Fit]]
MATCHING_ONLY = {"fuzzy"}
CASES = [(name, task) for name in BASELINES for task in TASKS if task == "pairs" or name not in MATCHING_ONLY]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path]]:
    """By task the whole dataset, and what a participant gets of it."""
    root = tmp_path_factory.mktemp("toys")
    found = {}
    for task, write in TASKS.items():
        found[task] = write(root / task), root / f"{task}-given"
        without_labels(*found[task])
    return found


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def answered(folders: dict[str, tuple[Path, Path]], cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Answered:
    """What a control makes of a toy folder without test labels, computed once."""
    root = tmp_path_factory.mktemp("answers")

    @functools.cache
    def run(name: str, task: str) -> tuple[Path, Fit]:
        output = root / f"{name}-{task}"
        return output, run_baseline(name, folders[task][1], output, 0, cache)

    return run


def scores(whole: Path, output: Path, split: str = "test") -> dict[str, float]:
    truth = Truth.read(whole, split)
    return metrics(truth, read_predictions(output / f"predictions_{split}.parquet", truth))


def files(output: Path) -> list[bytes]:
    return [(output / f"predictions_{split}.parquet").read_bytes() for split in ("valid", "test")]


@pytest.mark.parametrize(("name", "task"), CASES)
def test_a_control_answers_both_splits_and_beats_the_majority(
    name: str, task: str, folders: dict[str, tuple[Path, Path]], answered: Answered, cache: Path, tmp_path: Path
) -> None:
    whole = folders[task][0]
    output, fit = answered(name, task)
    assert isinstance(fit, Fit) and fit.train_seconds > 0 and fit.predict_rows_per_second > 0
    assert (fit.n_parameters is not None) == (name.endswith("linear") or name == "fuzzy")
    majority = answered("majority", task)[0]
    for split in ("valid", "test"):
        mine, least = scores(whole, output, split), scores(whole, majority, split)
        assert len(mine) >= 3
        if name != "majority":
            which = "accuracy" if task == "kway" else "pr_auc"
            assert mine[which] > least[which] + 0.1, (split, mine, least)
    run_baseline(name, whole, tmp_path / "b", 0, cache)  # given the labels by mistake, it answers the same
    assert files(output) == files(tmp_path / "b")


@pytest.mark.parametrize(("name", "task"), CASES)
def test_only_columns_that_are_kept_are_read(
    name: str, task: str, folders: dict[str, tuple[Path, Path]], answered: Answered, cache: Path, tmp_path: Path
) -> None:
    """Without some columns the answers are others, and shuffling the cells of those changes nothing."""
    whole, given = folders[task]
    keep = ["text", "categorical"] if name == "fuzzy" else ["numeric", "text"]
    run_baseline(name, given, tmp_path / "kept", 0, cache, keep)
    reads_others = name not in ("majority", "fuzzy")
    assert (files(tmp_path / "kept") != files(answered(name, task)[0])) == reads_others
    left_out = {"title", "size", "colour", "made"} - ({"title", "colour"} if name == "fuzzy" else {"title", "size"})
    other = tmp_path / "other"
    without_labels(whole, other)
    for stem in ("train", "valid", "test") if task == "kway" else ("left", "right"):
        path, rng = other / f"{stem}.parquet", np.random.default_rng(1)
        table = pa.parquet.read_table(path)
        path.unlink()  # a link
        columns = {
            n: c.take(pa.array(rng.permutation(len(c)))) if n in left_out else c
            for n, c in zip(table.column_names, table.columns, strict=True)
        }
        write_table(path, pa.table(columns))
    run_baseline(name, other, tmp_path / "shuffled", 0, cache, keep)
    assert files(tmp_path / "kept") == files(tmp_path / "shuffled")


@pytest.mark.parametrize("name", BASELINES)
def test_what_a_control_cannot_use_is_one_line(
    name: str, folders: dict[str, tuple[Path, Path]], cache: Path, tmp_path: Path
) -> None:
    plain = write_pairs(tmp_path / "plain", images=False)
    with pytest.raises(ConfigError, match="dataset plain: no columns of type 'image' to keep"):
        run_baseline(name, plain, tmp_path / "out", 0, cache, ["image", "text"])
    for task, kind in (("kway", "image"), ("pairs", "image"), ("pairs", "numeric")):
        if (name, task) in CASES:
            try:
                run_baseline(name, folders[task][1], tmp_path / "out", 0, cache, [kind])
            except ConfigError as error:
                assert "this control reads" in str(error) and "\n" not in str(error)
    if name in MATCHING_ONLY:
        with pytest.raises(ConfigError, match="for matching only"):
            run_baseline(name, folders["kway"][1], tmp_path / "out", 0, cache)


def test_the_control_that_needs_text_says_so(
    folders: dict[str, tuple[Path, Path]], cache: Path, tmp_path: Path
) -> None:
    for name, task, kind in (
        ("tfidf_gbm", "kway", "image"),
        ("tfidf_linear", "pairs", "image"),
        ("fuzzy", "pairs", "numeric"),
        ("embeddings_linear", "pairs", "datetime"),
    ):
        with pytest.raises(ConfigError, match=r"this control reads .* columns, and there are none"):
            run_baseline(name, folders[task][1], tmp_path, 0, cache, [kind])
    with pytest.raises(ConfigError, match="no control 'nothing'; expected one of majority"):
        run_baseline("nothing", folders["kway"][1], tmp_path, 0, cache)
    assert not list(tmp_path.glob("*.parquet"))


@pytest.fixture(scope="module")
def two_relations(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """``duplicate`` is what the toy pairs say; ``other`` its opposite, which ignores the title."""
    root = tmp_path_factory.mktemp("relations")
    whole = write_pairs(root / "whole", n=80, images=False, relations={"duplicate": {}, "other": {"ignore": ["title"]}})
    for split in ("train", "valid", "test"):
        rows = read_rows(whole / f"pairs_{split}.parquet")
        cells: dict[str, Any] = {name: [row[name] for row in rows] for name in ("left_id", "right_id")}
        cells |= {"duplicate": [row["label"] for row in rows], "other": [1 - row["label"] for row in rows]}
        write_table(whole / f"pairs_{split}.parquet", cells)
    without_labels(whole, root / "given")
    return whole, root / "given"


@pytest.mark.parametrize("name", BASELINES)
def test_each_relation_has_a_model_that_leaves_out_what_it_ignores(
    name: str, two_relations: tuple[Path, Path], cache: Path, tmp_path: Path
) -> None:
    whole, given = two_relations
    fit = run_baseline(name, given, tmp_path / "a", 0, cache)
    assert scores(whole, tmp_path / "a")["f1"] > 0.3
    rows = read_rows(tmp_path / "a" / "predictions_test.parquet")
    assert list(rows[0]) == [
        "left_id",
        "right_id",
        "probability_duplicate",
        "prediction_duplicate",
        "probability_other",
        "prediction_other",
    ]
    assert fit.n_parameters is None or fit.n_parameters >= 4
    other = tmp_path / "other"
    without_labels(whole, other)
    table = pa.parquet.read_table(other / "left.parquet")
    (other / "left.parquet").unlink()
    titles = pa.array(["something else entirely"] * len(table))
    write_table(other / "left.parquet", table.set_column(table.column_names.index("title"), "title", titles))
    run_baseline(name, other, tmp_path / "b", 0, cache)
    changed = read_rows(tmp_path / "b" / "predictions_test.parquet")
    assert [row["probability_other"] for row in rows] == [row["probability_other"] for row in changed]
    if name != "majority":
        assert [row["probability_duplicate"] for row in rows] != [row["probability_duplicate"] for row in changed]


def test_train_that_has_one_answer_only_is_an_error(cache: Path, tmp_path: Path) -> None:
    folder = write_pairs(tmp_path / "same", images=False)
    rows = read_rows(folder / "pairs_train.parquet")
    write_table(folder / "pairs_train.parquet", {n: [1 if n == "label" else row[n] for row in rows] for n in rows[0]})
    with pytest.raises(DataError, match="dataset same, table pairs_train, column label: only one class"):
        run_baseline("tfidf_gbm", folder, tmp_path, 0, cache)


@pytest.mark.parametrize("name", sorted({name for name, task in CASES if task == "kway"}))
def test_cells_that_are_all_missing_do_no_harm(name: str, cache: Path, tmp_path: Path) -> None:
    folder = write_kway(tmp_path / "holes", n=45, images=False)
    for split in ("train", "valid", "test"):
        table = pa.parquet.read_table(folder / f"{split}.parquet")
        for column in ("title", "size"):
            place = table.column_names.index(column)
            table = table.set_column(place, column, pa.nulls(len(table), table.schema.field(column).type))
        write_table(folder / f"{split}.parquet", table)
    try:
        run_baseline(name, folder, tmp_path / "out", 0, cache)
    except MmtabError as error:
        pytest.fail(str(error))
    assert scores(folder, tmp_path / "out")["accuracy"] > (0.3 if name == "majority" else 0.5)
