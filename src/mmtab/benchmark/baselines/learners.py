"""The learners of baselines: fitted on train, chosen on valid by the dataset's metric."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmtab.benchmark.baselines.features import Features
from mmtab.benchmark.baselines.problem import Problem
from mmtab.training.metrics import best_threshold
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


@dataclass(frozen=True)
class Model:
    """``valid``: [n, k] probabilities of the classes, or [n] of a match. ``test`` reads the test table and predicts
    it."""

    valid: np.ndarray
    test: Callable[[], np.ndarray]
    n_parameters: int | None = None


def logistic_regression(problem: Problem, features: Features, penalties: Sequence[float]) -> Model:
    """The penalty is that with the best metric of the dataset on valid, of equal ones the strongest."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    x, x_valid, y, y_valid = features("train"), features("valid"), problem.label("train"), problem.label("valid")
    model = LogisticRegression(max_iter=150, tol=1e-3, warm_start=True)  # from the penalty before: half the steps
    best, chosen, valid = -np.inf, (model.C, model.C), np.zeros(0)

    def probability(rows: Any, weights: tuple[Any, Any]) -> np.ndarray:
        model.coef_, model.intercept_ = weights
        p = np.zeros((rows.shape[0], max(2, len(problem.classes)) if problem.kway else 2))
        p[:, model.classes_] = model.predict_proba(rows)
        p /= p.sum(1, keepdims=True)
        return p if problem.kway else p[:, 1]

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

    if metric == "accuracy":
        return float((p.argmax(1) == label).mean())
    if metric == "macro_f1":
        return metrics.f1_score(label, p.argmax(1), average="macro", zero_division=0)
    if label.min() == label.max():
        return -metrics.log_loss(label, p, labels=[0, 1])
    if metric == "f1":
        return metrics.f1_score(label, p >= best_threshold(p, label))
    return metrics.average_precision_score(label, p) if metric == "pr_auc" else metrics.roc_auc_score(label, p)


def gradient_boosting(problem: Problem, features: Features, n_categorical: int = 0) -> Model:
    """LightGBM that stops early by its loss on valid; of TREES those with the best metric of the dataset there.
    ``n_categorical``: so many of the first features are numbers of categories."""
    import lightgbm

    objective = "multiclass" if problem.kway else "binary"
    fixed = BOOSTING | {"objective": objective, "seed": problem.seed, "num_threads": usable_cores()}
    if problem.kway:
        fixed["num_class"] = len(problem.classes)
    x, x_valid, y, y_valid = features("train"), features("valid"), problem.label("train"), problem.label("valid")
    best: tuple[float, np.ndarray, Any, int] | None = None
    for parameters, with_categories in TREES:
        skipped = 0 if with_categories else n_categorical
        if not with_categories and (not n_categorical or n_categorical == x.shape[1]):
            continue  # as the one before, or nothing would be left
        settings = fixed | parameters
        names = list(range(n_categorical - skipped))
        data = lightgbm.Dataset(x[:, skipped:], y, categorical_feature=names, params=settings)
        stop = lightgbm.Dataset(x_valid[:, skipped:], y_valid, reference=data, params=settings)
        model = lightgbm.train(settings, data, 300, [stop], callbacks=[lightgbm.early_stopping(20, verbose=False)])
        p_valid = np.asarray(model.predict(x_valid[:, skipped:]))
        score = _score(problem.schema.metric, y_valid, p_valid)
        if best is None or score > best[0]:
            best = score, p_valid, model, skipped
    assert best is not None
    _, valid, chosen, start = best
    return Model(valid, lambda: np.asarray(chosen.predict(features("test")[:, start:])))
