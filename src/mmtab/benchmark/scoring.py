"""Scores of predictions, the same for mmtab's own runs, controls, rivals and submissions."""

from __future__ import annotations

import numpy as np

from mmtab.benchmark.predictions import CheckedPredictions
from mmtab.benchmark.truth import Truth
from mmtab.data.schema import TaskKind
from mmtab.training.metrics import class_metrics, means_over_relations, pair_metrics
from mmtab.utils.errors import DataError


def metrics(truth: Truth, predictions: CheckedPredictions, rows: np.ndarray | None = None) -> dict[str, float]:
    """By scikit-learn, of all rows or some: k-way accuracy, macro_f1, log_loss; matching f1, precision, recall, pr_auc,
    roc_auc, log_loss, each the mean over relations. Those that take probabilities are left out where there are none."""
    label, given = (truth.label, predictions) if rows is None else (truth.label[rows], predictions.take(rows))
    y_pred, p = given.prediction, given.probability
    if truth.schema.task is TaskKind.KWAY:
        return class_metrics(label[:, 0], y_pred[:, 0], p)
    return means_over_relations(
        [pair_metrics(label[:, r], y_pred[:, r], None if p is None else p[:, r]) for r in range(label.shape[1])]
    )


def ranked_by(truth: Truth, values: dict[str, float]) -> float:
    """The dataset's own metric; raises DataError where it takes probabilities and there were none."""
    metric = truth.schema.metric
    if metric not in values:
        problem = f"it is ranked by {metric}, which takes probabilities"
        raise DataError(truth.dataset, problem, fix="write the column probability")
    return values[metric]
