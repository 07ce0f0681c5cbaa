"""Scores of predictions, the same for mmtab's own runs, controls, rivals and submissions."""

from __future__ import annotations

import numpy as np

from mmtab.benchmark.predictions import CheckedPredictions
from mmtab.benchmark.truth import Truth
from mmtab.data.schema import TaskKind
from mmtab.utils.errors import DataError


def metrics(truth: Truth, predictions: CheckedPredictions, rows: np.ndarray | None = None) -> dict[str, float]:
    """By scikit-learn, of all rows or some: k-way accuracy, macro_f1, log_loss; matching f1, precision, recall, pr_auc,
    roc_auc, log_loss, each the mean over relations. Those that take probabilities are left out where there are none."""
    from sklearn import metrics as score

    label, given = (truth.label, predictions) if rows is None else (truth.label[rows], predictions.take(rows))
    y_pred, p = given.prediction, given.probability
    if truth.schema.task is TaskKind.KWAY:
        values = {
            "accuracy": score.accuracy_score(label[:, 0], y_pred[:, 0]),
            "macro_f1": score.f1_score(label[:, 0], y_pred[:, 0], average="macro", zero_division=0),
        }
        if p is not None:
            values["log_loss"] = score.log_loss(label[:, 0], p / p.sum(1, keepdims=True), labels=range(p.shape[1]))
        return {name: float(value) for name, value in values.items()}
    relations = [
        _pair_metrics(label[:, r], y_pred[:, r], None if p is None else p[:, r]) for r in range(label.shape[1])
    ]
    names = [name for name in relations[0] if all(name in values for values in relations)]
    return {name: float(np.mean([values[name] for values in relations])) for name in names}


def _pair_metrics(y_true: np.ndarray, y_pred: np.ndarray, p: np.ndarray | None) -> dict[str, float]:
    """Of one relation."""
    from sklearn import metrics as score

    three = score.precision_recall_fscore_support(y_true, y_pred, average="binary", zero_division=0)[:3]
    values = dict(zip(("precision", "recall", "f1"), map(float, three), strict=True))
    if p is not None:
        if y_true.min() < y_true.max():  # ranking needs both kinds
            values["pr_auc"] = score.average_precision_score(y_true, p)
            values["roc_auc"] = score.roc_auc_score(y_true, p)
        values["log_loss"] = score.log_loss(y_true, p, labels=[0, 1])
    return values


def ranked_by(truth: Truth, values: dict[str, float]) -> float:
    """The dataset's own metric; raises DataError where it takes probabilities and there were none."""
    metric = truth.schema.metric
    if metric not in values:
        problem = f"it is ranked by {metric}, which takes probabilities"
        raise DataError(truth.dataset, problem, fix="write the column probability")
    return values[metric]
