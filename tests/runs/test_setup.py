"""What training begins with: the metric that was asked for, and pairs whose labels contradict one another."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from toy_data import read_rows, write_kway, write_numbers, write_pairs, write_table

import mmtab
from mmtab.data.pairs import Pairs
from mmtab.runs.folder import open_config
from mmtab.runs.setup import prepare
from mmtab.utils.errors import ConfigError, DataError, MmtabError


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 1), st.integers(0, 1)), max_size=12))
def test_contradictions_are_pairs_with_both_labels_in_some_relation(rows: list[tuple[int, int, int, int]]) -> None:
    left, right, *labels = (np.array([row[i] for row in rows], np.int64) for i in range(4))
    ids = pa.array([str(i) for i in range(len(rows))])
    relations = {name: pa.array(values, pa.int8()) for name, values in zip("ab", labels, strict=True)}
    found = Pairs("pairs_train", left, right, ids, ids, relations).contradictions()
    groups: dict[frozenset[int], list[int]] = {}
    for i, row in enumerate(rows):
        groups.setdefault(frozenset(row[:2]), []).append(i)
    expected = [g for g in groups.values() if any(len({rows[i][r] for i in g}) > 1 for r in (2, 3))]
    assert [group.tolist() for group in found] == expected


def contradicting(folder: Path) -> Path:
    """Pairs of train of which the first comes again with the other label."""
    data = write_pairs(folder, images=False)
    rows = read_rows(data / "pairs_train.parquet")
    again = rows[0] | {"label": 1 - rows[0]["label"]}
    rows.append(again)
    write_table(data / "pairs_train.parquet", {name: [row[name] for row in rows] for name in rows[0]})
    return data


def test_contradicting_pairs_are_kept_and_said_or_left_out_or_refused(
    tmp_path: Path, configure: Callable[..., Any]
) -> None:
    data, none_mined = contradicting(tmp_path / "data"), "pair_head.hard_negatives=0"
    with pytest.warns(UserWarning, match=r"pairs_train: 1 pair.*1 and 0 .*l0 and .*rows 1 and 25\): kept; .*=drop"):
        kept = prepare(configure(data, none_mined))
    with pytest.warns(UserWarning, match="left out"):
        dropped = prepare(configure(data, none_mined, "dataset.contradictions=drop"))
    assert len(kept.train) == 25 and len(dropped.train) == 23
    assert dropped.ids_of([0]) == kept.ids_of([1])
    with pytest.raises(DataError, match=r"table pairs_train, row 1: 1 pair.*l0 and.*rows 1 and 25.*Fix: correct"):
        prepare(configure(data, "dataset.contradictions=error"))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        prepare(configure(write_pairs(tmp_path / "clean", images=False), "dataset.contradictions=error"))


def test_the_metric_is_that_of_the_settings_or_of_the_folder(tmp_path: Path, configure: Callable[..., Any]) -> None:
    data = write_kway(tmp_path / "data", images=False, metric="macro_f1")
    for overrides, metric in (((), "macro_f1"), (("dataset.metric=accuracy",), "accuracy")):
        session = prepare(configure(data, *overrides)).session
        assert session.schema.metric == session.task.metric == metric
    with pytest.raises(ConfigError, match=r"dataset.metric=f1: expected accuracy or macro_f1"):
        prepare(configure(data, "dataset.metric=f1"))
    with pytest.raises(ConfigError, match=r"dataset\.contradictions is for matching"):
        prepare(configure(data, "dataset.contradictions=drop"))


def test_fit_takes_both_as_arguments(tmp_path: Path) -> None:
    n = 60
    rng = np.random.default_rng(0)
    left = pd.DataFrame({"id": [f"l{i}" for i in range(n)], "size": rng.normal(size=n).round(2)})
    right = left.assign(id=[f"r{i}" for i in range(n)])
    ids = {"left_id": [*left.id] * 2 + ["l0"], "right_id": [*right.id, *np.roll(right.id, 1), "r0"]}
    pairs = pd.DataFrame(ids | {"label": [1] * n + [0] * n + [0]})
    options: dict[str, Any] = {"left": left, "right": right, "recipe": "frozen", "metric": "pr_auc", "d_model": 16}
    options |= {"trainer": {"max_epochs": 1, "progress": False}, "output": tmp_path / "run"}
    options["pair_head"] = {"hard_negatives": 0}
    with pytest.raises(MmtabError, match="labelled both 1 and 0"):
        mmtab.fit(pairs, pairs, contradictions="error", **options)
    with pytest.warns(UserWarning, match="1 pair.*: left out"):
        run = mmtab.fit(pairs, pairs, contradictions="drop", **options)
    assert run.schema.metric == "pr_auc" and "pr_auc" in run.metrics["valid"]
    settings = open_config(run.folder).dataset
    assert (settings.metric, settings.contradictions) == ("pr_auc", "drop") and run.facts["n_train"] == 2 * n - 1


@pytest.mark.parametrize("write", [write_kway, write_numbers, write_pairs])
def test_a_share_of_train_has_each_class_and_grows(write: Any, configure: Callable[..., Any], tmp_path: Path) -> None:
    data, small = write(tmp_path / "data", n=90), ["dataset.drop=[image,text]", "base=none"]
    of = {share: prepare(configure(data, *small, f"dataset.train_share={share}")) for share in (0.2, 0.5, 1.0)}
    ids = {share: set(prepared.ids_of(range(len(prepared.train)))) for share, prepared in of.items()}
    assert ids[0.2] < ids[0.5] < ids[1.0] and len(ids[0.2]) == pytest.approx(0.2 * len(ids[1.0]), abs=2)
    classes = [len(np.unique(of[share].train.labels)) for share in (0.2, 1.0)]
    assert write is write_numbers or classes[0] == classes[1]
