"""A challenge of regression: numbers that are handed in are scored by R² on public and private rows; what is no number
is refused in one line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import r2_score
from toy_data import write_numbers, write_table

from mmtab.benchmark.challenge import Challenge, open_challenge, ranked, standings, submit
from mmtab.data.schema import Schema
from mmtab.data.table import has_labels
from mmtab.utils.errors import DataError

Columns = dict[str, list[Any]]


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("sources")
    return {name: write_numbers(root / name, n=n, images=False) for name, n in (("prices", 1000), ("scores", 400))}


@pytest.fixture
def challenge(tmp_path: Path, sources: dict[str, Path]) -> Challenge:
    return open_challenge(tmp_path / "challenge", sources, {"regression": list(sources)}, title="Numbers", seed=1)


def predictions(challenge: Challenge, dataset: str, noise: float) -> Columns:
    truth = challenge.truth(dataset)
    errors = np.random.default_rng(0).normal(0, noise * truth.label.std(), len(truth))
    return {"id": truth.ids["id"], "prediction": (truth.label[:, 0] + errors).tolist()}


def test_from_handout_to_final_standings(challenge: Challenge, tmp_path: Path) -> None:
    for dataset in challenge.datasets:
        handout = challenge.folder / "handout" / dataset
        labelled = [split for split in ("train", "valid", "test") if has_labels(handout, Schema.read(handout), split)]
        assert labelled == ["train", "valid"]
        label = challenge.truth(dataset).label[:, 0]
        public = np.isin(np.arange(len(label)), challenge.rows(dataset, public=True))
        for tenth in np.array_split(np.argsort(label, kind="stable"), 10):
            assert abs(public[tenth].mean() - 0.5) <= 2 / len(tenth), "every tenth of the numbers is on both sides"
    teams = {"Good": 0.2, "Fair": 0.6, "Wild": 3.0}
    shown, private = {}, {}
    for team, noise in teams.items():
        for dataset in challenge.datasets:
            answers = predictions(challenge, dataset, noise)
            path = write_table(tmp_path / f"{team}-{dataset}.csv", answers)
            (receipt,) = submit(challenge.folder, team, {dataset: path})
            assert receipt.metric == "r2"
            label = challenge.truth(dataset).label[:, 0]
            exact = {}
            for public in (True, False):
                rows = challenge.rows(dataset, public)
                exact[public] = r2_score(label[rows], np.array(answers["prediction"])[rows])
            step = challenge.step(dataset)
            assert abs(receipt.public - exact[True]) <= step / 2 + 1e-9
            assert receipt.public == pytest.approx(round(receipt.public / step) * step), "a multiple of the step"
            shown[team, dataset], private[team, dataset] = receipt.public, exact[False]
    for final, scores in ((False, shown), (True, private)):
        lines = ranked(standings(challenge.folder, final=final), "regression")
        assert [(place, entry.name) for place, entry, _ in lines] == [(1, "Good"), (2, "Fair"), (3, "Wild")]
        for _, entry, mean in lines:
            assert mean == pytest.approx(np.mean([scores[entry.name, dataset] for dataset in challenge.datasets]))
    assert private["Wild", "prices"] < 0
    final_scores = standings(challenge.folder, final=True).entries[0].of("prices")[0]
    assert final_scores.prediction is not None and final_scores.prediction.dtype == np.float64
    for path in (challenge.folder / "files").glob("*.npy"):  # made again from the accepted files
        path.write_bytes(b"damaged")
    again = standings(challenge.folder, final=True).entries[0].of("prices")[0]
    np.testing.assert_array_equal(again.prediction, final_scores.prediction)


def _with(value: Any) -> Callable[[Columns], Columns]:
    return lambda columns: columns | {"prediction": [value, *map(str, columns["prediction"][1:])]}


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (_with("inf"), "row 1, column prediction: not a prediction; expected a number within ±1e+100; found inf"),
        (_with("-inf"), "not a prediction"),
        (_with("NaN"), "not a prediction"),
        (_with("1e200"), "not a prediction"),
        (_with("dear"), "row 1, column prediction: not a prediction"),
        (_with(""), "not a prediction"),
        (lambda columns: {name: cells[1:] for name, cells in columns.items()}, "not one row for each of the split"),
        (lambda columns: columns | {"id": [columns["id"][1], *columns["id"][1:]]}, "an id that was answered before"),
        (lambda columns: {"id": columns["id"], "price": columns["prediction"]}, "the file answers nothing"),
    ],
)
def test_bad_submissions(
    challenge: Challenge, tmp_path: Path, change: Callable[[Columns], Columns], problem: str
) -> None:
    path = write_table(tmp_path / "prices.csv", change(predictions(challenge, "prices", 0.5)))
    with pytest.raises(DataError) as caught:
        submit(challenge.folder, "Team", {"prices": path})
    assert problem in str(caught.value) and "prices" in str(caught.value) and "\n" not in str(caught.value)
    board = standings(challenge.folder)
    assert not board.entries or not board.entries[0].scores


def test_numbers_that_are_all_equal_cannot_be_divided(tmp_path: Path) -> None:
    folder = write_numbers(tmp_path / "same", n=100, images=False)
    table = pq.read_table(folder / "test.parquet")
    place = table.column_names.index("label")
    pq.write_table(table.set_column(place, "label", pa.array([5.0] * len(table))), folder / "test.parquet")
    with pytest.raises(DataError, match="the public part would have one number"):
        open_challenge(tmp_path / "challenge", {"same": folder}, {"all": ["same"]}, title="Same")
