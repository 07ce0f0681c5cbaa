"""Trees in the base of a model of rows: they say what LightGBM says, and have a part where linear models do not do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import pytest
import torch
from toy_data import write_kway

from mmtab.features.target import Target
from mmtab.model.row_trees import BOOSTING, PATIENCE, RowTrees
from mmtab.model.solvers import LeastSquares, Logistic, Solver
from mmtab.runs.setup import prepare
from mmtab.utils.cache import Store

N_ROUNDS, K = 40, 3
Rows = tuple[torch.Tensor, torch.Tensor, torch.Tensor, np.ndarray]


def rows(n: int, seed: int, numbers: bool) -> Rows:
    """Vectors, dense inputs, ids and labels, which two dense inputs tell together, but neither alone."""
    rng = np.random.default_rng(seed)
    vectors, dense = rng.normal(size=(n, 6)), rng.normal(size=(n, 4))
    product = dense[:, 0] * dense[:, 1]
    label = product if numbers else np.digitize(product, [-0.3, 0.3])
    ids = torch.from_numpy(rng.integers(0, 5, (n, 2)))
    return torch.from_numpy(vectors).float(), torch.from_numpy(dense).float(), ids, label


def fit(folder: Path, numbers: bool, kept: tuple[int, ...] = (0, 1)) -> tuple[RowTrees, Any, Rows]:
    """Beside linear parts that say nothing."""
    train, valid = rows(400, 0, numbers), rows(200, 1, numbers)
    solver: Solver = LeastSquares(Target.fit("identity", train[3])) if numbers else Logistic(K)
    n_outputs = 1 if numbers else K
    said = [solver.output(np.zeros((n, n_outputs))) for n in (400, 200)]
    trees = RowTrees(n_outputs, 6, 2, 0 if numbers else 3, N_ROUNDS)
    folds = np.arange(400) % 5
    mixed = trees.fit(solver, train, valid, np.array(kept), (said[0], said[1]), folds, 0, Store(folder))
    return trees, (solver, mixed), valid


@pytest.mark.parametrize("numbers", [False, True], ids=["classes", "numbers"])
def test_they_say_what_lightgbm_says(tmp_path: Path, numbers: bool) -> None:
    trees, (solver, mixed), valid = fit(tmp_path, numbers)
    assert trees.weight > 0 and mixed.shape == (400, trees.n_outputs)
    train = rows(400, 0, numbers)

    def table(part: Rows) -> np.ndarray:
        return torch.cat([part[1], part[0] @ trees.directions, part[2].float()], 1).numpy()

    settings = BOOSTING | solver.boosting | {"seed": 0}
    data = lightgbm.Dataset(table(train), solver.scaled(train[3]), params=settings)
    stop = lightgbm.Dataset(table(valid), solver.scaled(valid[3]), reference=data)
    early = lightgbm.early_stopping(PATIENCE, verbose=False)
    expected = lightgbm.train(settings, data, N_ROUNDS, [stop], callbacks=[early]).predict(table(valid), raw_score=True)
    np.testing.assert_allclose(trees(*valid[:3]).numpy(), np.reshape(expected, (200, -1)), atol=1e-4)


def test_a_column_that_valid_does_not_share_moves_nothing(tmp_path: Path) -> None:
    trees, _, valid = fit(tmp_path, False, kept=(1,))
    other = valid[2].clone()
    other[:, 0] = 9
    assert torch.equal(trees(*valid[:3]), trees(valid[0], valid[1], other))


def test_where_they_add_nothing_they_have_no_part(tmp_path: Path) -> None:
    train, valid = rows(400, 0, False), rows(200, 1, False)
    sure = [np.log(np.full((n, K), 0.01) + 0.97 * np.eye(K)[part[3]]) for n, part in ((400, train), (200, valid))]
    trees = RowTrees(K, 6, 2, 3, N_ROUNDS)
    said = trees.fit(
        Logistic(K), train, valid, np.arange(2), (sure[0], sure[1]), np.arange(400) % 5, 0, Store(tmp_path)
    )
    assert trees.weight == 0 and said is sure[0]


@pytest.mark.parametrize("setting", ["base.n_rounds=null", "base.n_rounds=20"])
def test_a_base_may_have_none(configure: Callable[..., Any], tmp_path: Path, setting: str) -> None:
    config = configure(write_kway(tmp_path / "toys", images=False), "text.n_tuned_layers=0", setting)
    base = prepare(config).session.model.base
    assert (base.trees is None) == (setting == "base.n_rounds=null")
