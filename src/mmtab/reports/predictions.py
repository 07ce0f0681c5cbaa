"""Predictions of a labelled split, read back from a run folder, and the figures that a report shows of them."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np

from mmtab.runs import predictions
from mmtab.training.metrics import N_BINS, unscaled


class ScoredPredictions(predictions.ScoredPredictions):
    """Predictions of a labelled split, of pairs those of one relation, with the figures that a report shows."""

    @property
    def of_relation(self) -> str:
        """To be put after a name."""
        return f", {self.relation}" if self.relation else ""

    @property
    def scaling(self) -> str:
        return f"temperature {self.temperature:.2f}" + (f" and bias {self.bias:+.2f}" if self.bias else "")

    def confusion(self, classes: np.ndarray) -> np.ndarray:
        """[c, c] int64: labels by predictions, of some classes."""
        place = np.full(len(self.classes), -1)
        place[classes] = np.arange(len(classes))
        y_true, y_pred = place[self.y_true], place[self.y_pred]
        both = (y_true >= 0) & (y_pred >= 0)
        c = len(classes)
        return np.bincount(y_true[both] * c + y_pred[both], minlength=c * c).reshape(c, c)

    def reliability(self, scaled: bool = True) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of each bin that is not empty: mean confidence, share of correct predictions, and number of rows. Of pairs it
        is the probability of a match, and the share of matches. ``scaled`` false: without temperature and bias."""
        if self.probability is None:
            confidence, correct = self.p_pred, self.correct
        else:
            p = self.probability if scaled else unscaled(self.probability, self.temperature, self.bias)
            if self.threshold is None:
                confidence, correct = p[np.arange(len(p)), self.y_pred], self.correct
            else:
                confidence, correct = p[:, 1], self.y_true == 1
        bins = np.minimum((confidence * N_BINS).astype(int), N_BINS - 1)
        n = np.bincount(bins, minlength=N_BINS)
        means = [np.bincount(bins, weights=x, minlength=N_BINS)[n > 0] / n[n > 0] for x in (confidence, correct)]
        return means[0], means[1], n[n > 0]

    def ece(self, scaled: bool = True) -> float:
        """Expected calibration error (Guo et al. 2017); of pairs that of the probability of a match."""
        confidence, correct, n = self.reliability(scaled)
        return float((np.abs(confidence - correct) * n).sum() / n.sum())

    def risk_coverage(self) -> tuple[np.ndarray, np.ndarray]:
        """[n] share of rows that are predicted, by falling confidence, and [n] share of mistakes among those (El-Yaniv
        and Wiener 2010)."""
        wrong = ~self.correct[np.argsort(-self.confidence, kind="stable")]
        n = np.arange(1, len(wrong) + 1)
        return n / len(wrong), wrong.cumsum() / n

    def score(self, rows: np.ndarray | None = None) -> float:
        """Accuracy, or of pairs F1, of all rows or of some, [n] bool."""
        y_true, y_pred = (x if rows is None else x[rows] for x in (self.y_true, self.y_pred))
        if self.threshold is None:
            return float((y_true == y_pred).mean()) if len(y_true) else float("nan")
        total = (y_true == 1).sum() + (y_pred == 1).sum()
        return float(2 * ((y_true == 1) & (y_pred == 1)).sum() / total) if total else float("nan")

    @property
    def score_name(self) -> str:
        return "accuracy" if self.threshold is None else "F1"

    def by_class(self) -> list[dict[str, Any]]:
        """Of each class that occurs: rows, precision, recall, F1 and the class that it is taken for most often."""
        k = len(self.classes)
        n_true, n_pred, hits = (
            np.bincount(x, minlength=k) for x in (self.y_true, self.y_pred, self.y_true[self.correct])
        )
        taken: dict[int, str] = {}
        for y_true, y_pred, n in self.confusions():
            taken.setdefault(y_true, f"{self.classes[y_pred]} ({n})")
        return [
            {
                "class": self.classes[i],
                "rows": int(n_true[i]),
                "precision": hits[i] / n_pred[i] if n_pred[i] else float("nan"),
                "recall": hits[i] / n_true[i] if n_true[i] else float("nan"),
                "F1": 2 * hits[i] / (n_true[i] + n_pred[i]),
                "taken for": taken.get(int(i), ""),
            }
            for i in np.flatnonzero(n_true + n_pred)
        ]

    def confusions(self) -> list[tuple[int, int, int]]:
        """Label, wrong prediction, and number of rows, the most frequent first."""
        wrong = np.stack([self.y_true, self.y_pred], 1)[~self.correct]
        kinds, counts = np.unique(wrong, axis=0, return_counts=True)
        order = np.argsort(-counts, kind="stable")
        return [(int(kinds[i, 0]), int(kinds[i, 1]), int(counts[i])) for i in order]


def read_scored(folder: Path, split: str) -> list[ScoredPredictions]:
    """One, or of several relations one each; raises RunError where the split was not scored."""
    return [ScoredPredictions(**vars(scored)) for scored in predictions.read_scored(folder, split)]


def learning_curves(folder: Path) -> list[dict[str, float]]:
    """metrics.csv, a dictionary a line, without its empty fields."""
    path = folder / "metrics.csv"
    if not path.is_file():
        return []
    with path.open(newline="") as lines:
        return [{name: float(value) for name, value in line.items() if value} for line in csv.DictReader(lines)]
