"""Scores of plain arrays, without torch: what tasks, baselines and whole matchings share."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np


def macro_f1(predicted: np.ndarray, label: np.ndarray, n_classes: int) -> float:
    """The mean over the classes that occur, as label or as prediction. scikit-learn's, which would warn of so many."""
    said, there = (np.bincount(x, minlength=n_classes) for x in (predicted, label))
    both = np.bincount(label[predicted == label], minlength=n_classes)
    occurs = said + there > 0
    return float((2 * both[occurs] / (said + there)[occurs]).mean())


def best_threshold(probability: np.ndarray, label: np.ndarray) -> float:
    """The threshold with the best F1; half-way to the next lower score, so that it does not hang on one pair."""
    from sklearn.metrics import precision_recall_curve

    if label.min() == label.max():
        return 0.5
    precision, recall, scores = precision_recall_curve(label, probability)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    best = int(f1[:-1].argmax())
    below = scores[best - 1] if best > 0 else scores[best]
    half_way = (scores[best] + below) / 2  # neighbouring floats have nothing between them
    return float(half_way if half_way > below else scores[best])


def pair_metrics(probability: np.ndarray, label: np.ndarray, threshold: float) -> dict[str, float]:
    """The metrics of one relation."""
    from sklearn import metrics

    predicted = probability >= threshold
    rates: dict[str, Callable[..., float]] = {
        "f1": metrics.f1_score,
        "precision": metrics.precision_score,
        "recall": metrics.recall_score,
    }
    values = {name: score(label, predicted, zero_division=0) for name, score in rates.items()}
    if label.min() < label.max():  # ranking needs both kinds
        values["pr_auc"] = metrics.average_precision_score(label, probability)
        values["roc_auc"] = metrics.roc_auc_score(label, probability)
    values["log_loss"] = metrics.log_loss(label, probability, labels=[0, 1])
    return {name: float(value) for name, value in values.items()}


def best_temperature(logits: np.ndarray, label: np.ndarray) -> float:
    """The divisor of logits [n, k] that makes labels [n] likeliest (Guo et al. 2017), from e^-3 to e^3."""
    from scipy.optimize import minimize_scalar
    from scipy.special import log_softmax

    rows = np.arange(len(label))

    def loss(log_temperature: float) -> float:
        return float(-log_softmax(logits / np.exp(log_temperature), 1)[rows, label].mean())

    found = minimize_scalar(loss, bounds=(-3.0, 3.0), method="bounded", options={"xatol": 1e-4})
    return float(np.exp(found.x)) if loss(found.x) < loss(0.0) else 1.0
