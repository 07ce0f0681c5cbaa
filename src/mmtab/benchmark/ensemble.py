"""Several systems as one: their probabilities or numbers, averaged with weights that are chosen on valid."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mmtab.benchmark.scoring import CheckedPredictions, write_splits
from mmtab.benchmark.truth import Truth
from mmtab.training.metrics import average_precision
from mmtab.utils.errors import RunError

ROUNDS = 25


def average(
    valid: Truth, test: Truth, predictions: dict[str, dict[str, CheckedPredictions]], output: Path
) -> dict[str, float]:
    """Choose weights on valid, write predictions_valid and predictions_test; returns the weights by member.

    Greedy selection with replacement (Caruana et al. 2004). Its criterion is not the dataset's own metric, which on a
    thousand rows moves in steps, but the log-loss, for matching the average precision, of equal ones the log-loss, and
    for regression the squared error. Averaged numbers have no intervals: valid, which would tell how wide these must
    be, has chosen the weights. ``predictions``: by member and split.
    """
    names, p = list(predictions), {}
    for split in ("valid", "test"):
        p[split] = np.stack([_averaged(name, predictions[name][split], valid) for name in names])
    counts = np.zeros(len(names))
    total = np.zeros_like(p["valid"][0])
    for n in range(1, ROUNDS + 1):
        best = max(range(len(names)), key=lambda i: _quality(valid, (total + p["valid"][i]) / n))
        counts[best] += 1
        total += p["valid"][best]
    weights = counts / counts.sum()
    mixed = {split: np.tensordot(weights, of_members, 1) for split, of_members in p.items()}
    write_splits(output, valid, test, mixed)
    return dict(zip(names, weights.tolist(), strict=True))


def _averaged(member: str, predictions: CheckedPredictions, truth: Truth) -> np.ndarray:
    """[n, k] or [n, r] probabilities, or [n] numbers."""
    if truth.numbers:
        return predictions.prediction[:, 0]
    if predictions.probability is None:
        raise RunError(f"{member} wrote no probabilities, so it cannot be a member of an ensemble")
    return predictions.probability


def _quality(truth: Truth, p: np.ndarray) -> tuple[float, float]:
    """Better ones are larger: average precision, and minus the log-loss, by which members that rank all pairs right
    still differ; of numbers minus the squared error."""
    if truth.numbers:
        return 0.0, -float(np.square(p - truth.label[:, 0]).mean())
    if truth.classes:
        own = p[np.arange(len(truth)), truth.label[:, 0]]
        return 0.0, _log_likelihood(own)
    likelihood = _log_likelihood(np.where(truth.label > 0, p, 1 - p)[truth.label >= 0])
    columns = list(zip(truth.label.T, p.T, strict=True))
    if any(label.min() == label.max() for label, _ in columns):  # ranking needs both kinds
        return 0.0, likelihood
    return float(np.mean([average_precision(label, column) for label, column in columns])), likelihood


def _log_likelihood(p: np.ndarray) -> float:
    return float(np.log(p.clip(1e-12)).mean())
