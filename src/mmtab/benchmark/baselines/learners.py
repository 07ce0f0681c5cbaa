"""The learners of baselines: fitted on train, chosen on valid by the dataset's metric."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp

from mmtab.benchmark.baselines.features import Features
from mmtab.benchmark.baselines.problem import Problem
from mmtab.training.metrics import average_precision, best_threshold
from mmtab.utils.machine import usable_cores

# Trees of two sizes. Categories with thousands of values let trees learn single rows: the second smooths them, the
# third has none of them.
SMALL = {"num_leaves": 7, "feature_fraction": 0.3, "lambda_l2": 5.0, "cat_smooth": 50.0, "cat_l2": 50.0}
TREES = (({"num_leaves": 15, "feature_fraction": 0.5}, True), (SMALL, True), (SMALL, False))
BOOSTING: dict[str, Any] = {
    "learning_rate": 0.1,
    "max_bin": 63,
    "min_data_in_leaf": 10,
    "deterministic": True,
    "force_row_wise": True,
    "verbosity": -1,
}


ALPHAS = (300.0, 100.0, 30.0, 10.0, 3.0, 1.0)  # of ridge regression


@dataclass(frozen=True)
class Model:
    """``valid``: [n, k] probabilities of the classes, or [n] of a match, or [n] numbers. ``test`` reads the test table
    and predicts it."""

    valid: np.ndarray
    test: Callable[[], np.ndarray]
    n_parameters: int | None = None


def linear_model(problem: Problem, features: Features, penalties: Sequence[float]) -> Model:
    """Logistic regression, or ridge regression of numbers. The penalty is that with the best metric of the dataset on
    valid, of equal ones the strongest."""
    return _ridge(problem, features) if problem.numbers else _logistic_regression(problem, features, penalties)


def _ridge(problem: Problem, features: Features) -> Model:
    from sklearn.linear_model import Ridge

    x, x_valid, y, y_valid = features("train"), features("valid"), problem.label("train"), problem.label("valid")
    best: tuple[float, np.ndarray, Any, Scale] | None = None
    for scale in _scales(y):
        for alpha in ALPHAS:
            model = Ridge(alpha, solver="sparse_cg" if sp.issparse(x) else "auto", tol=1e-3)
            model.fit(x, scale.transform(y))
            valid = scale.inverse(model.predict(x_valid))
            score = _score(problem.schema.metric, y_valid, valid)
            if best is None or score > best[0]:
                best = score, valid, model, scale
    assert best is not None
    _, valid, chosen, of_chosen = best
    return Model(valid, lambda: of_chosen.inverse(chosen.predict(features("test"))), chosen.coef_.size + 1)


class Scale(NamedTuple):
    """What is learned of numbers, and back."""

    transform: Callable[[np.ndarray], np.ndarray]
    inverse: Callable[[np.ndarray], np.ndarray]


def _scales(label: np.ndarray) -> list[Scale]:
    """Numbers as they are and, of those above 0, their logarithm, up to the largest of train."""
    identity, low, high = Scale(np.asarray, np.asarray), label.min(), label.max()
    if low <= 0:
        return [identity]
    return [identity, Scale(np.log, lambda z: np.exp(z.clip(np.log(low), np.log(high))))]


def _logistic_regression(problem: Problem, features: Features, penalties: Sequence[float]) -> Model:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    x, x_valid, y, y_valid = features("train"), features("valid"), problem.label("train"), problem.label("valid")
    model = LogisticRegression(max_iter=150, tol=1e-3, warm_start=True)  # from the penalty before: half the steps
    best, chosen, valid = -np.inf, (model.C, model.C), np.zeros(0)

    def probability(rows: Any, weights: tuple[Any, Any]) -> np.ndarray:
        model.coef_, model.intercept_ = weights
        p = np.zeros((rows.shape[0], max(2, len(problem.classes)) if problem.of_rows else 2))
        p[:, model.classes_] = model.predict_proba(rows)
        p /= p.sum(1, keepdims=True)
        return p if problem.of_rows else p[:, 1]

    for penalty in penalties:
        with warnings.catch_warnings():  # a control need not end on the last digit
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.set_params(C=penalty).fit(x, y)
        weights = model.coef_.copy(), model.intercept_.copy()
        p_valid = probability(x_valid, weights)
        score = _score(problem.schema.metric, y_valid, p_valid)
        if score > best:
            best, chosen, valid = score, weights, p_valid
    return Model(valid, lambda: probability(features("test"), chosen), sum(part.size for part in chosen))


def _score(metric: str, label: np.ndarray, p: np.ndarray) -> float:
    from sklearn import metrics

    if metric == "r2":
        return metrics.r2_score(label, p)
    if metric == "accuracy":
        return float((p.argmax(1) == label).mean())
    if metric == "macro_f1":
        return metrics.f1_score(label, p.argmax(1), average="macro", zero_division=0)
    if label.min() == label.max():
        return -metrics.log_loss(label, p, labels=[0, 1])
    if metric == "f1":
        return metrics.f1_score(label, p >= best_threshold(p, label))
    return average_precision(label, p) if metric == "pr_auc" else metrics.roc_auc_score(label, p)


def gradient_boosting(problem: Problem, features: Features, n_categorical: int = 0) -> Model:
    """LightGBM that stops early by its loss on valid; of TREES those with the best metric of the dataset there.
    ``n_categorical``: so many of the first features are numbers of categories."""
    import lightgbm

    objective = "regression" if problem.numbers else "multiclass" if problem.of_rows else "binary"
    fixed = BOOSTING | {"objective": objective, "seed": problem.seed, "num_threads": usable_cores()}
    if objective == "multiclass":
        fixed["num_class"] = len(problem.classes)
    x, x_valid, y, y_valid = features("train"), features("valid"), problem.label("train"), problem.label("valid")
    scales = _scales(y) if problem.numbers else [Scale(np.asarray, np.asarray)]
    best: tuple[float, np.ndarray, Any, int, Scale] | None = None
    for (parameters, with_categories), scale in itertools.product(TREES, scales):
        skipped = 0 if with_categories else n_categorical
        if not with_categories and (not n_categorical or n_categorical == x.shape[1]):
            continue  # as the one before, or nothing would be left
        settings = fixed | parameters
        names = list(range(n_categorical - skipped))
        data = lightgbm.Dataset(x[:, skipped:], scale.transform(y), categorical_feature=names, params=settings)
        stop = lightgbm.Dataset(
            x_valid[:, skipped:],
            scale.transform(y_valid.clip(y.min()) if problem.numbers else y_valid),
            reference=data,
            params=settings,
        )
        model = lightgbm.train(settings, data, 300, [stop], callbacks=[lightgbm.early_stopping(20, verbose=False)])
        p_valid = scale.inverse(np.asarray(model.predict(x_valid[:, skipped:])))
        score = _score(problem.schema.metric, y_valid, p_valid)
        if best is None or score > best[0]:
            best = score, p_valid, model, skipped, scale
    assert best is not None
    _, valid, chosen, start, of_chosen = best
    return Model(valid, lambda: of_chosen.inverse(np.asarray(chosen.predict(features("test")[:, start:]))))
