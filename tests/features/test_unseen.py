"""A column that is all at once unlike that of train is said, once and with examples; others are not."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import mmtab

N = 120


def rows(seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "colour": rng.choice(["red", "green", "blue"], N),
            "size": rng.uniform(1, 20, N),
            "count": np.where(rng.random(N) < 0.95, 0, 7),
            "artist": [f"artist {i}" for i in rng.integers(0, 10**6, N - 4)] + ["known"] * 4,
            "year": rng.integers(2010, 2020, N),
            "title": [f"a thing of {i} words" for i in rng.integers(0, 10**6, N)],
            "made": pd.Timestamp("2020-01-01") + pd.to_timedelta(rng.integers(0, 900, N), "D"),
            "kind": np.where(np.arange(N) % 2, "cup", "hat"),
        }
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> mmtab.Run:
    folder, types = (
        tmp_path_factory.mktemp("unseen"),
        {"artist": "categorical", "year": "numeric", "count": "numeric", "title": "text"},
    )
    settings = {"recipe": "frozen", "trainer": {"max_epochs": 1, "progress": False}}
    return mmtab.fit(rows(), label="kind", types=types, output=folder / "run", **settings)  # type: ignore[arg-type]


def warned(run: mmtab.Run, table: pd.DataFrame) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run.predict(table)
    return [str(w.message) for w in caught if "unlike those of train" in str(w.message)]


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (lambda t: t.assign(colour=t.colour.str.upper()), ["column colour: found '", "'RED'", "train had '"]),
        (lambda t: t.assign(size=t["size"] * 10 + 100), ["column size: found 1", "train had 1.", "to 19."]),
        (lambda t: t.assign(year=t.year % 100), ["column year: found 10 to 19, train had 2010 to 2019"]),
        (lambda t: t.assign(colour="x", year=0), ["column colour: found 'x'", "; column year: found 0 to 0"]),
        (
            lambda t: t.assign(colour=None, size=np.nan, title=None, made=pd.NaT),
            [f"column {name}: all cells are missing, which train had" for name in ("colour", "size", "title", "made")],
        ),
    ],
)
def test_a_column_that_is_all_at_once_unlike_train_is_said_once(
    run: mmtab.Run, change: Callable[[pd.DataFrame], pd.DataFrame], parts: list[str]
) -> None:
    (message,) = warned(run, change(rows(1)))
    assert all(part in message for part in parts) and "artist" not in message and "Fix: " in message


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t,
        lambda t: t.assign(year=t.year + 8),  # the next years
        lambda t: t.assign(colour=np.where(np.arange(N) % 5, "mauve", t.colour)),  # four of five
        lambda t: t.assign(colour="mauve").head(9),  # too few to say so
        lambda t: t.assign(colour=None, size=np.nan).head(9),
        lambda t: t.assign(count=0),
        lambda t: t.assign(count=7),
    ],
)
def test_other_columns_are_not(run: mmtab.Run, change: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    assert warned(run, change(rows(1))) == []


def test_evaluation_says_it_too(run: mmtab.Run, tmp_path: Path) -> None:
    table = rows(1).assign(colour="x")
    with pytest.warns(UserWarning, match="table test: .*column colour: found 'x'"):
        run.evaluate(table)
