"""Several systems as one: their probabilities, averaged with weights that are chosen on valid."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mmtab.benchmark.scoring import Answers, Truth, write_answers
from mmtab.training.metrics import best_threshold
from mmtab.utils.errors import RunError

ROUNDS = 25


def average(valid: Truth, test: Truth, answers: dict[str, dict[str, Answers]], output: Path) -> dict[str, float]:
    """Choose weights on valid, write predictions_valid and predictions_test; returns the weights by member.

    Greedy selection with replacement (Caruana et al. 2004). What it goes by is not the dataset's own metric, which on a
    thousand rows moves in steps, but the log-loss, and for matching the average precision. ``answers``: by member and split.
    """
    names = list(answers)
    for name in names:
        if any(answers[name][split].probability is None for split in ("valid", "test")):
            raise RunError(f"{name} wrote no probabilities, so it cannot be a member of an ensemble")
    p = {split: np.stack([answers[name][split].probability for name in names]) for split in ("valid", "test")}  # type: ignore[misc]
    counts = np.zeros(len(names))
    total = np.zeros_like(p["valid"][0])
    for n in range(1, ROUNDS + 1):
        best = max(range(len(names)), key=lambda i: _quality(valid, (total + p["valid"][i]) / n))
        counts[best] += 1
        total += p["valid"][best]
    weights = counts / counts.sum()
    mixed = {split: np.tensordot(weights, each, 1) for split, each in p.items()}
    thresholds = [] if valid.classes else [best_threshold(mixed["valid"][:, r], valid.label[:, r]) for r in range(valid.label.shape[1])]  # fmt: skip
    for truth in (valid, test):
        write_answers(output / f"predictions_{truth.split}.parquet", truth, mixed[truth.split], thresholds)
    return dict(zip(names, weights.tolist(), strict=True))


def _quality(truth: Truth, p: np.ndarray) -> float:
    if truth.classes:
        own = p[np.arange(len(truth)), truth.label[:, 0]]
        return float(np.log(own.clip(1e-12)).mean())
    from sklearn.metrics import average_precision_score

    columns = list(zip(truth.label.T, p.T, strict=True))
    if any(label.min() == label.max() for label, _ in columns):  # ranking needs both kinds
        return 0.0
    return float(np.mean([average_precision_score(label, each) for label, each in columns]))
