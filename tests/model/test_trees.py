"""The base of a pair model: what its trees say, what they are fitted to, and what they add."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import pytest
import torch
from toy_data import write_pairs

import mmtab
from mmtab.features.encoded import EncodedTable
from mmtab.features.loader import PairBatches
from mmtab.model.matcher import Matcher
from mmtab.model.trees import BOOSTING, SIZES, BoostedTrees
from mmtab.runs.session import open_run
from mmtab.runs.setup import prepare
from mmtab.runs.train import train
from mmtab.utils.cache import Store

FROZEN = ("text.n_tuned_layers=0", "trainer.max_epochs=1", "pair_head=combined")


def problem(n: int = 400, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Five features of which some cells are missing, and labels that two of them tell."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 5)).astype(np.float32)
    x[:, 4] = rng.normal(size=n)  # never missing
    x[rng.random((n, 5)) < [0.2, 0.1, 0.1, 0.1, 0]] = np.nan
    y = (np.nan_to_num(x[:, 0], nan=1.0) * x[:, 4] > 0).astype(np.int64)
    return x, y[:, None]


def pairs_of(x: np.ndarray, y: np.ndarray) -> PairBatches:
    """The trees read nothing of them but features and labels."""
    table = EncodedTable(1, np.zeros((1, 0), np.float32), np.zeros((1, 0), np.int64))
    return PairBatches(table, np.zeros(len(x), np.int64), np.zeros(len(x), np.int64), y, x)


def fit(trees: BoostedTrees, folder: Path, x: np.ndarray, y: np.ndarray) -> None:
    x_valid, y_valid = problem(200, 1)
    trees.fit(pairs_of(x, y), pairs_of(x_valid, np.repeat(y_valid, y.shape[1], 1)), 0, Store(folder))


def test_the_trees_say_what_lightgbm_says(tmp_path: Path) -> None:
    (x, y), (x_valid, y_valid) = problem(), problem(200, 1)
    trees = BoostedTrees([[True] * 5])
    fit(trees, tmp_path, x, y)
    best = []
    for size in SIZES:
        settings = BOOSTING | size | {"seed": 0}
        data = lightgbm.Dataset(x, y[:, 0], params=settings)
        stop = lightgbm.Dataset(x_valid, y_valid[:, 0], reference=data)
        model = lightgbm.train(settings, data, 300, [stop], callbacks=[lightgbm.early_stopping(20, verbose=False)])
        best.append((model.best_score["valid_0"]["binary_logloss"], model.predict(x_valid, raw_score=True)))
    expected = min(best, key=lambda pair: pair[0])[1]
    np.testing.assert_allclose(trees(torch.from_numpy(x_valid))[:, 0].numpy(), expected, atol=1e-5)
    without = x_valid.copy()
    without[:, 4] = np.nan  # which train never misses: LightGBM takes it for 0
    zero = np.where(np.isnan(without) & (np.arange(5) == 4), 0, without).astype(np.float32)
    assert torch.equal(trees(torch.from_numpy(without)), trees(torch.from_numpy(zero)))


def test_a_relation_reads_its_own_features_alone(tmp_path: Path) -> None:
    x, y = problem()
    trees = BoostedTrees([[True] * 5, [False, True, True, True, True]])
    fit(trees, tmp_path, x, np.repeat(y, 2, 1))
    other = x.copy()
    other[:, 0] = 9
    before, after = trees(torch.from_numpy(x)), trees(torch.from_numpy(other))
    assert torch.equal(before[:, 1], after[:, 1]) and not torch.equal(before[:, 0], after[:, 0])


@pytest.mark.parametrize("y", [np.zeros((40, 1), np.int64), np.arange(40)[:, None] % 2])
def test_few_pairs_or_labels_are_enough(tmp_path: Path, y: np.ndarray) -> None:
    trees = BoostedTrees([[True] * 5])
    fit(trees, tmp_path, problem(40)[0], y)
    assert torch.isfinite(trees(torch.from_numpy(problem(40)[0]))).all()


def test_a_prediction_is_the_mean_of_the_base_and_the_other_views(
    configure: Callable[..., Any], tmp_path: Path
) -> None:
    prepared = prepare(configure(write_pairs(tmp_path / "data", n=60), *FROZEN))
    model, valid = prepared.session.model, prepared.valid
    assert isinstance(model, Matcher) and model.base is not None and isinstance(valid, PairBatches)
    batch = valid.__getitems__(list(range(len(valid))))
    assert batch.similarity is not None
    with prepared.session.evaluating():
        logits, base, weight = model(batch).logits, model.base(batch.similarity), model.base.weight.item()
        model.base = None
        others = model(batch).logits
    assert (base != 0).any() and weight == 0.5
    torch.testing.assert_close(logits, (base + others) / 2)


def test_trees_that_tell_nothing_have_no_part_in_it(tmp_path: Path) -> None:
    (x, y), trees = problem(), BoostedTrees([[True] * 5] * 2)
    noise = np.random.default_rng(3).integers(0, 2, len(y))[:, None]
    fit(trees, tmp_path, x, np.concatenate([y, noise], 1))
    assert trees.weight[0] == 0.5 and trees.weight[1] < 0.1


def test_a_run_keeps_its_base_and_says_what_it_adds(configure: Callable[..., Any], tmp_path: Path) -> None:
    config = configure(write_pairs(tmp_path / "data", n=120), *FROZEN)
    train(config, tmp_path / "run")
    run = mmtab.load_run(tmp_path / "run")
    assert set(run.facts["base"]["valid"]) >= {"f1", "log_loss"}
    again, prepared = open_run(tmp_path / "run"), prepare(config)
    first, second = again.model.base.state_dict(), prepared.session.model.base.state_dict()  # type: ignore[union-attr]
    assert first and all(torch.equal(first[name], second[name]) for name in first)
    assert "the base alone has" in run.report().read_text()


def test_there_is_none_without_similarity_features(configure: Callable[..., Any], tmp_path: Path) -> None:
    data = write_pairs(tmp_path / "data")
    for settings in (("pair_head.base=null",), ("pair_head=two_tower",), ("pair_head.compare=null",)):
        prepared = prepare(configure(data, *FROZEN, *settings))
        assert prepared.session.model.base is None
