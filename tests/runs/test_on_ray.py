"""What an engine promises, and predictions that are made on one."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from mmtab.config.types import EngineConfig
from mmtab.runs import blocks
from mmtab.runs.evaluate import evaluate
from mmtab.runs.predict import predict
from mmtab.utils.engine import Engine, running
from mmtab.utils.errors import DataError, MmtabError

pytestmark = [pytest.mark.ray, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def engine(on_ray: EngineConfig) -> Iterator[Engine]:
    with running(**asdict(on_ray)) as engine:
        yield engine


def work(what: Callable[[int], Any]) -> Callable[[], Any]:
    """What ``Engine.map`` takes, of a function; without names of this module, which workers cannot import."""
    return lambda: lambda item: lambda: what(item)


def test_results_come_in_order_and_items_as_they_are_needed(engine: Engine) -> None:
    def slow_if_first(i: int) -> int:
        time.sleep(1.0 * (i == 0))
        return i * i

    taken = []
    results = engine.map(work(slow_if_first), (taken.append(i) or i for i in range(30)))  # type: ignore[func-returns-value]
    assert next(results) == 0 and len(taken) < 20
    assert [*results] == [i * i for i in range(1, 30)]
    assert [*engine.map(work(str), [])] == []


def test_an_error_of_a_worker_is_that_of_one_process(engine: Engine) -> None:
    def refuse(i: int) -> None:
        if i == 1:
            raise DataError("toys", "a cell is bad", table="left", row=3, column="size", fix="mend it")
        raise ZeroDivisionError("by zero")

    with pytest.raises(DataError, match=r"^dataset toys, table left, row 3, column size: a cell is bad. Fix") as caught:
        [*engine.map(work(refuse), [1])]
    assert type(caught.value) is DataError and caught.value.row == 3 and caught.value.__cause__ is None
    with pytest.raises(MmtabError, match=r"^the worker on node \S+ failed \(ZeroDivisionError: by zero\)"):
        [*engine.map(work(refuse), [2])]


@pytest.mark.parametrize("task", ["kway", "numbers", "pairs"])
def test_predictions_are_those_of_one_process(
    task: str, engine: Engine, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "SLICE", 7)  # of the 20 rows of test
    data, trained = request.getfixturevalue(f"{task}_run")
    sides = {side: data / f"{side}.parquet" for side in ("left", "right")} if task == "pairs" else {}
    rows = data / ("pairs_test.parquet" if sides else "test.parquet")
    predict(trained, rows, tmp_path / "here.parquet", **sides)
    predict(trained, rows, tmp_path / "there.parquet", **sides, engine=engine)
    assert_near(tmp_path / "here.parquet", tmp_path / "there.parquet")
    scores = {}
    for name, on in (("here", None), ("there", engine)):
        shutil.copytree(trained, tmp_path / name)
        scores[name] = evaluate(tmp_path / name, "test") if on is None else evaluate(tmp_path / name, "test", engine=on)
    assert scores["there"] == pytest.approx(scores["here"], abs=1e-3)
    assert_near(*(tmp_path / name / "predictions_test.parquet" for name in ("here", "there")))


def assert_near(here: Path, there: Path) -> None:
    """Tables of the same columns and rows, in whose numbers there is a difference of 1e-3 at most."""
    tables = [pa.parquet.read_table(path) for path in (here, there)]
    assert tables[0].schema == tables[1].schema and len(tables[0]) == 20
    for name in tables[0].column_names:
        cells = [np.asarray(table[name]) for table in tables]
        if cells[0].dtype.kind == "f":
            np.testing.assert_allclose(*cells, rtol=0, atol=1e-3)
        else:
            np.testing.assert_array_equal(*cells)


def test_workers_that_die_of_every_item_are_not_started_for_ever(engine: Engine) -> None:
    with pytest.raises(MmtabError, match=r"^\d+ workers in a row were lost, the last one so: "):
        [*engine.map(work(lambda _: os._exit(1)), [1])]
