"""What the base of a model of rows is fitted by."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
from sklearn.linear_model import LogisticRegression

from mmtab.model.solvers import Logistic, Problem
from mmtab.utils.cache import Store

K = 4


def rows(n: int = 300, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Of inputs, many of them 0 and on different scales, on which the class depends."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 30)) * (rng.random((n, 30)) < 0.4) * np.geomspace(0.1, 3, 30)
    weight = np.random.default_rng(9).normal(size=(30, K))
    return x.astype(np.float32), (x @ weight + rng.gumbel(size=(n, K))).argmax(1)


def fit(x: Any, y: np.ndarray, *penalties: float) -> tuple[np.ndarray, np.ndarray]:
    """The last of the fits by these penalties."""
    return list(Logistic(K).fits(x, y, penalties))[-1]


def probabilities(x: Any, found: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    return np.exp(Logistic(K).output(x @ found[0] + found[1]))


def penalised(x: np.ndarray, y: np.ndarray, weight: np.ndarray, bias: np.ndarray, c: float) -> float:
    """What a fit makes small."""
    own = probabilities(x, (weight, bias))[np.arange(len(y)), y]
    return float(np.square(weight).sum() / 2 / c - np.log(own).sum())


@pytest.mark.parametrize("form", [np.asarray, sp.csr_array], ids=["dense", "sparse"])
@pytest.mark.parametrize("c", [0.1, 10.0])
def test_the_fit_is_nearly_the_best(form: Any, c: float) -> None:
    x, y = rows()
    best = LogisticRegression(C=c, tol=1e-8, max_iter=10_000).fit(x, y)
    least = penalised(x, y, best.coef_.T, best.intercept_, c)
    once = fit(form(x), y, c)
    assert least * 0.999 < penalised(x, y, *once, c) < least * 1.005
    again = fit(form(x), y, c / 3, c)
    assert least * 0.999 < penalised(x, y, *again, c) < least * 1.005
    other, _ = rows(seed=1)
    np.testing.assert_allclose(probabilities(other, once), best.predict_proba(other), atol=0.1)


def test_a_class_without_rows_is_very_unlikely() -> None:
    x, y = rows()
    some = y != 2
    assert probabilities(x, fit(x[some], y[some], 1.0))[:, 2].max() < 0.01
    one = probabilities(x, fit(x, np.full(len(y), 3), 1.0))
    assert one[:, 3].min() > 0.95 and np.isfinite(fit(x[:0], y[:0], 1.0)[1]).all()


def test_rows_are_predicted_by_fits_to_other_folds(tmp_path: Any) -> None:
    (x, y), (x_valid, y_valid) = rows(), rows(seed=1)
    y_valid[:20] = -1  # unknown
    solver, folds = Logistic(K), np.arange(len(y)) % 3
    problem = Problem(solver, (0.1, 1.0, 10.0), sp.csr_array(x), y, sp.csr_array(x_valid), y_valid)
    solved = problem.solve(Store(tmp_path))
    losses = [solver.loss(np.log(probabilities(x_valid, fit(x, y, c)))[20:], y_valid[20:]) for c in (0.1, 10.0)]
    assert solver.loss(solved["output"][20:], y_valid[20:]) <= min(losses) + 0.01
    said = problem.out_of_fold(folds, 1.0, Store(tmp_path))
    y[folds == 1] = 0  # which its own rows have no part in
    changed = Problem(solver, (1.0,), sp.csr_array(x), y, sp.csr_array(x_valid), y_valid)
    again = changed.out_of_fold(folds, 1.0, Store(tmp_path))
    np.testing.assert_array_equal(said[folds == 1], again[folds == 1])
    assert not np.allclose(said[folds == 0], again[folds == 0], atol=0.1)


@pytest.mark.parametrize("n", [2_000, 40_000])
def test_inputs_that_few_rows_have_are_learned_from(n: int) -> None:
    """However many rows there are, and by each penalty of a path as by itself."""
    ids = np.arange(n) % 1_000
    x = sp.csr_array((np.ones(n, np.float32), ids, np.arange(n + 1)), shape=(n, 1_000))
    y = np.random.default_rng(0).integers(0, K, 1_000)[ids]
    solver = Logistic(K)
    for c, found in zip(path := (0.3, 1.0, 3.0, 10.0), solver.fits(x, y, path), strict=True):
        best = LogisticRegression(C=c, tol=1e-8, max_iter=10_000).fit(x, y)
        least = penalised(x, y, best.coef_.T, best.intercept_, c)
        loss = -best.predict_log_proba(x)[range(n), y].mean()
        for weight, bias in (found, fit(x, y, c)):
            assert penalised(x, y, weight, bias, c) < least * 1.01
            assert solver.loss(solver.output(x @ weight + bias), y) < loss * 1.03
