"""What is learned and how it is scored: loss, probabilities, metrics, and what a prediction file holds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor


@dataclass  # not frozen: Lightning moves its tensors in place
class StepOutput:
    """``label`` is -1 where unknown; ``row`` counts rows (or pairs) of the table."""

    loss: Float[Tensor, ""]
    logits: Float[Tensor, "b k"]
    label: Int[Tensor, " *b"]
    row: Int[Tensor, " b"]


@runtime_checkable
class Task(Protocol):
    """``metric`` is the one that training maximises on valid."""

    metric: str

    def loss(self, logits: Tensor, label: Tensor) -> Tensor: ...

    def probabilities(self, logits: np.ndarray) -> np.ndarray: ...

    def fit_threshold(self, probabilities: np.ndarray, label: np.ndarray) -> None: ...

    def metrics(self, probabilities: np.ndarray, label: np.ndarray) -> dict[str, float]: ...


class KWayTask:
    """Cross-entropy with label smoothing (Szegedy et al. 2016) and, where asked, weights that balance the classes."""

    def __init__(
        self,
        n_classes: int,
        label_smoothing: float = 0.0,
        class_counts: np.ndarray | None = None,
        metric: str = "accuracy",
    ) -> None:
        self.n_classes, self.label_smoothing, self.metric = n_classes, label_smoothing, metric
        self.weight = None
        if class_counts is not None:  # "balanced", as scikit-learn defines it
            self.weight = torch.tensor(
                class_counts.sum() / (n_classes * np.maximum(class_counts, 1)), dtype=torch.float32
            )

    def loss(self, logits: Float[Tensor, "b k"], label: Int[Tensor, " b"]) -> Float[Tensor, ""]:
        weight = None if self.weight is None else self.weight.to(logits.device)
        return F.cross_entropy(logits.float(), label, weight=weight, label_smoothing=self.label_smoothing)

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """[n, k] logits -> [n, k]."""
        shifted = np.exp(logits - logits.max(1, keepdims=True))
        return shifted / shifted.sum(1, keepdims=True)

    def fit_threshold(self, probabilities: np.ndarray, label: np.ndarray) -> None:
        """K-way takes the likeliest class; there is nothing to choose."""

    def metrics(self, probabilities: np.ndarray, label: np.ndarray) -> dict[str, float]:
        """Accuracy, macro-F1, log-loss, top-5 accuracy, expected calibration error (15 bins, Guo et al. 2017)."""
        from sklearn import metrics
        from torchmetrics.functional.classification import multiclass_calibration_error

        predicted, classes = probabilities.argmax(1), np.arange(self.n_classes)
        values = {
            "accuracy": metrics.accuracy_score(label, predicted),
            "macro_f1": metrics.f1_score(label, predicted, average="macro", zero_division=0),
            "log_loss": metrics.log_loss(label, probabilities, labels=classes),
        }
        if self.n_classes > 5:
            values["top5"] = metrics.top_k_accuracy_score(label, probabilities, k=5, labels=classes)
        values["ece"] = multiclass_calibration_error(
            torch.tensor(probabilities), torch.tensor(label), num_classes=self.n_classes, n_bins=15
        ).item()
        return {name: float(value) for name, value in values.items()}


class PairTask:
    """Binary cross-entropy for each relation; a pair is called a match from ``thresholds`` on, chosen for F1 on valid and
    then kept. With several relations each metric is the mean over them, and each relation's own stands beside it as
    ``<relation>/<metric>``."""

    def __init__(
        self, relations: Sequence[str] = ("label",), pos_weight: float | None = None, metric: str = "f1"
    ) -> None:
        self.relations, self.pos_weight, self.metric = tuple(relations), pos_weight, metric
        self.thresholds = np.full(len(self.relations), 0.5)

    def loss(self, logits: Float[Tensor, "b r"], label: Int[Tensor, "b r"]) -> Float[Tensor, ""]:
        weight = None if self.pos_weight is None else torch.tensor(self.pos_weight, device=logits.device)
        return F.binary_cross_entropy_with_logits(logits.float(), label.float(), pos_weight=weight)

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """[n, r] logits -> [n, r] probability of a match."""
        return np.exp(-np.logaddexp(0, -logits))  # the sigmoid, without overflow

    def fit_threshold(self, probabilities: np.ndarray, label: np.ndarray) -> None:
        """For each relation the threshold with the best F1."""
        self.thresholds = np.array([best_threshold(p, y) for p, y in zip(probabilities.T, label.T, strict=True)])

    def metrics(self, probabilities: np.ndarray, label: np.ndarray) -> dict[str, float]:
        """F1, precision and recall at the threshold, area under the precision-recall and ROC curves, log-loss."""
        each = [pair_metrics(p, y, t) for p, y, t in zip(probabilities.T, label.T, self.thresholds, strict=True)]
        if len(each) == 1:
            return each[0]
        names = [name for name in each[0] if all(name in values for values in each)]
        means = {name: float(np.mean([values[name] for values in each])) for name in names}
        return means | {
            f"{relation}/{name}": value
            for relation, values in zip(self.relations, each, strict=True)
            for name, value in values.items()
        }


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
