"""What is learned and how it is scored: loss, probabilities, metrics, and what a prediction file holds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from mmtab.model.heads import ClassScores
from mmtab.model.models import Scores
from mmtab.training.metrics import best_sigmoid, best_temperature, best_threshold, macro_f1, pair_metrics, unscaled

DENSE_CLASSES = 1_000  # beyond so many, evaluation keeps only the likeliest of a row
N_BEST = 10
MAX_LOGITS = 1 << 22  # held at once


@dataclass  # not frozen: Lightning takes it apart
class Predictions:
    """What is kept of scored rows (or pairs): of a batch and, after ``gather``, of a whole split in row order.

    ``probability``: of every class (of every relation); None for more than DENSE_CLASSES. K-way has besides, of each
    row, the ``best`` classes, the likeliest first, and what its label got: ``rank`` 0 is the likeliest class.
    """

    row: np.ndarray  # [n] int64
    label: np.ndarray  # [n] int64 (pairs: [n, r]), -1 where unknown
    probability: np.ndarray | None = None  # [n, k] float32 (pairs: [n, r] float64)
    best: np.ndarray | None = None  # [n, m] int64
    best_probability: np.ndarray | None = None  # [n, m] float64
    label_probability: np.ndarray | None = None  # [n] float64, NaN where unknown
    rank: np.ndarray | None = None  # [n] int64, -1 where unknown


def gather(parts: Sequence[Predictions]) -> Predictions:
    """Those of all batches, in row order; each row once, also where several processes scored it."""
    _, order = np.unique(np.concatenate([part.row for part in parts]), return_index=True)
    columns = {field.name: [getattr(part, field.name) for part in parts] for field in fields(Predictions)}
    whole: dict[str, Any] = {n: None if c[0] is None else np.concatenate(c)[order] for n, c in columns.items()}
    return Predictions(**whole)


@runtime_checkable
class Task(Protocol):
    """``metric`` is the one that training maximises on valid. ``scores``: what the task's model makes of a batch.
    ``temperatures``: what logits are divided by, of the classes or of each relation."""

    metric: str
    temperatures: np.ndarray

    def loss_of(self, scores: Any, label: Tensor) -> Tensor: ...

    def predict(self, scores: Any, label: Tensor, row: Tensor) -> Predictions: ...

    def calibrate(self, predictions: Predictions) -> None: ...

    def fit_threshold(self, predictions: Predictions) -> None: ...

    def metrics_of(self, predictions: Predictions) -> dict[str, float]: ...

    def probabilities(self, logits: np.ndarray) -> np.ndarray: ...

    def confidence(self, predictions: Predictions) -> np.ndarray: ...


class KWayTask:
    """Cross-entropy with label smoothing (Szegedy et al. 2016) and, where asked, weights that balance the classes.

    ``n_sampled``: the loss of a step is estimated from so many classes, drawn at random. Predictions are always over all
    classes. Of very many classes neither holds more than MAX_LOGITS logits at once.
    """

    def __init__(
        self,
        n_classes: int,
        label_smoothing: float = 0.0,
        class_counts: np.ndarray | None = None,
        metric: str = "accuracy",
        n_sampled: int | None = None,
    ) -> None:
        self.n_classes, self.label_smoothing, self.metric = n_classes, label_smoothing, metric
        self.n_sampled = n_sampled
        self.temperatures = np.ones(1)
        self.weight = None
        if class_counts is not None:  # "balanced", as scikit-learn defines it
            self.weight = torch.tensor(
                class_counts.sum() / (n_classes * np.maximum(class_counts, 1)), dtype=torch.float32
            )

    def loss(self, logits: Float[Tensor, "b k"], label: Int[Tensor, " b"]) -> Float[Tensor, ""]:
        weight = None if self.weight is None else self.weight.to(logits.device)
        return F.cross_entropy(logits.float(), label, weight=weight, label_smoothing=self.label_smoothing)

    def loss_of(self, scores: ClassScores, label: Int[Tensor, " b"]) -> Float[Tensor, ""]:
        """``loss``, as it is, by parts of the classes, or estimated."""
        if self.n_sampled is not None:
            return self._estimated(scores, label, torch.randperm(self.n_classes, device=label.device)[: self.n_sampled])
        if len(label) * self.n_classes <= MAX_LOGITS:
            return self.loss(scores.logits, label)
        sums = scores.sums(label, self._weight(label.device), max(1, MAX_LOGITS // len(label)))
        return self._cross_entropy(*sums, label)

    def _estimated(self, scores: ClassScores, label: Int[Tensor, " b"], drawn: Int[Tensor, " s"]) -> Float[Tensor, ""]:
        """From each label's own logit and those of ``drawn`` classes (Bengio and Senécal 2008; Jean et al. 2015). Every
        class other than the label is drawn with the same probability s/k, so k/s times the sum of those drawn (of
        exponentials, or of logits for the smoothing) has the expectation of the sum over all."""
        looked_at = scores.classes(torch.cat([label, drawn]))  # at once: each time costs a gradient of all classes
        mine, rest = looked_at.split(len(label), len(drawn))
        own = (mine.x * mine.weight).sum(1).float() + mine.bias
        others, again, scale = rest.logits.float(), drawn == label[:, None], self.n_classes / len(drawn)
        exponents = (others + math.log(scale)).masked_fill(again, -torch.inf)
        weight = self._weight(label.device)
        total = weight[label] * own + scale * (others * weight[drawn]).masked_fill(again, 0).sum(1)
        return self._cross_entropy(torch.cat([own[:, None], exponents], 1).logsumexp(1), own, total, label)

    def _cross_entropy(
        self,
        log_sum: Float[Tensor, " b"],
        own: Float[Tensor, " b"],
        total: Float[Tensor, " b"],
        label: Int[Tensor, " b"],
    ) -> Float[Tensor, ""]:
        """What ``loss`` gives, from sums over the logits of each row."""
        weight, smoothing = self._weight(label.device), self.label_smoothing
        right, even = weight[label] * (log_sum - own), (weight.sum() * log_sum - total) / self.n_classes
        return ((1 - smoothing) * right + smoothing * even).sum() / weight[label].sum()

    def _weight(self, device: torch.device) -> Float[Tensor, " k"]:
        return torch.ones(self.n_classes, device=device) if self.weight is None else self.weight.to(device)

    def predict(self, scores: ClassScores, label: Int[Tensor, " b"], row: Int[Tensor, " b"]) -> Predictions:
        n = max(1, MAX_LOGITS // self.n_classes)
        parts = [slice(start, start + n) for start in range(0, len(label), n)]
        return gather([self._summary(self._scaled(scores.rows(part).logits), label[part], row[part]) for part in parts])

    def _scaled(self, logits: Float[Tensor, "b k"]) -> Float[Tensor, "b k"]:
        temperature = float(self.temperatures[0])
        return logits if temperature == 1 else logits.float() / temperature

    def _summary(self, logits: Float[Tensor, "b k"], label: Int[Tensor, " b"], row: Int[Tensor, " b"]) -> Predictions:
        """Made where the logits are: not worth moving are those of 100,000 classes."""
        rest = logits.float() if logits.dtype.itemsize < 4 else logits.clone()
        rest = rest.cpu() if rest.device.type == "mps" else rest  # which has no float64
        label, k = label.to(rest.device), self.n_classes
        known, own = label >= 0, rest.gather(1, label.clamp(min=0)[:, None])
        # Of equal logits the first is likelier, as for argmax. NaN is below nothing: its label has the last rank.
        later = torch.arange(k, device=rest.device) > label[:, None]
        below = (rest < own).sum(1) + ((rest == own) & later).sum(1)
        log_sum = rest.double().logsumexp(1, keepdim=True)
        whole = (rest.double() - log_sum).exp().float() if k <= DENSE_CLASSES else None
        best, values = [], []
        for _ in range(min(N_BEST, k)):  # not topk, which puts equal ones in any order
            place = rest.argmax(1, keepdim=True)
            best.append(place)
            values.append(rest.gather(1, place))
            rest.scatter_(1, place, -torch.inf)
        return Predictions(
            row=row.cpu().numpy(),
            label=label.cpu().numpy(),
            probability=None if whole is None else whole.cpu().numpy(),
            best=torch.cat(best, 1).cpu().numpy(),
            best_probability=(torch.cat(values, 1).double() - log_sum).exp().cpu().numpy(),
            label_probability=(own.double() - log_sum).exp()[:, 0].where(known, torch.nan).cpu().numpy(),
            rank=(k - 1 - below).where(known, -1).cpu().numpy(),
        )

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """[n, k] logits -> [n, k]."""
        scaled = logits / self.temperatures[0]
        shifted = np.exp(scaled - scaled.max(1, keepdims=True))
        return shifted / shifted.sum(1, keepdims=True)

    def calibrate(self, predictions: Predictions) -> None:
        """Fit the temperature to predictions without one. Of more than DENSE_CLASSES not all probabilities are at hand, so
        there is none."""
        p, known = predictions.probability, predictions.label >= 0
        if p is not None and known.any():
            logits = np.log(p[known].astype(np.float64).clip(np.finfo(np.float32).tiny))
            self.temperatures = np.array([best_temperature(logits, predictions.label[known])])

    def fit_threshold(self, predictions: Predictions) -> None:
        """K-way takes the likeliest class; there is nothing to choose."""

    def confidence(self, predictions: Predictions) -> np.ndarray:
        """[n, 1]: the probability of the likeliest class."""
        assert predictions.best_probability is not None
        return predictions.best_probability[:, :1]

    def metrics(self, probabilities: np.ndarray, label: np.ndarray) -> dict[str, float]:
        """``metrics_of`` [n, k] probabilities and [n] labels."""
        logits, labels = torch.from_numpy(probabilities).log(), torch.from_numpy(label).long()
        return self.metrics_of(self._summary(logits, labels, torch.arange(len(label))))

    def metrics_of(self, predictions: Predictions) -> dict[str, float]:
        """Accuracy, macro-F1, log-loss, top-5 accuracy, expected calibration error (15 bins, Guo et al. 2017), and what the
        latter would be without the temperature."""
        from torchmetrics.functional.classification import binary_calibration_error

        p, label, rank = predictions.label_probability, predictions.label, predictions.rank
        assert predictions.best is not None and predictions.best_probability is not None
        assert p is not None and rank is not None
        if not np.isfinite(p).all():
            raise FloatingPointError(f"not all logits are numbers, first at row {predictions.row[~np.isfinite(p)][0]}")
        predicted, confidence = predictions.best[:, 0], predictions.best_probability[:, 0]
        right, least = predicted == label, np.finfo(np.float64).eps  # scikit-learn's bound
        values = {
            "accuracy": right.mean(),
            "macro_f1": macro_f1(predicted, label, self.n_classes),
            "log_loss": -np.log(p.clip(least, 1 - least)).mean(),
        }
        if self.n_classes > 5:
            values["top5"] = (rank < 5).mean()

        def ece(confidence: np.ndarray) -> float:
            # Of two classes, right and wrong, it is what it is of many: only the likeliest counts.
            said, so = torch.from_numpy(confidence).float(), torch.from_numpy(right).long()
            return binary_calibration_error(said, so, n_bins=15).item()

        values["ece"] = ece(confidence)
        if self.temperatures[0] != 1 and predictions.probability is not None:
            before = unscaled(predictions.probability, self.temperatures[0])
            values["ece_unscaled"] = ece(before[np.arange(len(before)), predicted])
        return {name: float(value) for name, value in values.items()}


class PairTask:
    """Binary cross-entropy for each relation, whose logits are divided by ``temperatures``, to which ``biases`` are added; a
    pair is called a match from ``thresholds`` on, chosen for F1 on valid and then kept. With several relations each metric is the mean over them, and each relation's own stands beside it as
    ``<relation>/<metric>``."""

    def __init__(
        self, relations: Sequence[str] = ("label",), pos_weight: float | None = None, metric: str = "f1"
    ) -> None:
        self.relations, self.pos_weight, self.metric = tuple(relations), pos_weight, metric
        self.thresholds = np.full(len(self.relations), 0.5)
        self.temperatures, self.biases = np.ones(len(self.relations)), np.zeros(len(self.relations))

    def loss(self, logits: Float[Tensor, "b r"], label: Int[Tensor, "b r"]) -> Float[Tensor, ""]:
        weight = None if self.pos_weight is None else torch.tensor(self.pos_weight, device=logits.device)
        return F.binary_cross_entropy_with_logits(logits.float(), label.float(), pos_weight=weight)

    def loss_of(self, scores: Scores, label: Int[Tensor, "b r"]) -> Float[Tensor, ""]:
        loss = self.loss(scores.logits, label)
        return loss if scores.loss is None else loss + scores.loss.float()

    def predict(self, scores: Scores, label: Int[Tensor, "b r"], row: Int[Tensor, " b"]) -> Predictions:
        logits = scores.logits.float().cpu().double().numpy()
        return Predictions(row.cpu().numpy(), label.cpu().numpy(), self.probabilities(logits))

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """[n, r] logits -> [n, r] probability of a match."""
        return np.exp(-np.logaddexp(0, -(logits / self.temperatures + self.biases)))  # the sigmoid, without overflow

    def calibrate(self, predictions: Predictions) -> None:
        """Fit temperature and bias of each relation to predictions without; one kind of label says nothing."""
        from scipy.special import logit

        assert predictions.probability is not None
        logits = logit(predictions.probability.clip(1e-15, 1 - 1e-15))
        found = [
            best_sigmoid(z, y) if y.min() < y.max() else (1.0, 0.0)
            for z, y in zip(logits.T, predictions.label.T, strict=True)
        ]
        self.temperatures, self.biases = np.array(found).T

    def fit_threshold(self, predictions: Predictions) -> None:
        """For each relation the threshold with the best F1."""
        assert predictions.probability is not None
        columns = zip(predictions.probability.T, predictions.label.T, strict=True)
        self.thresholds = np.array([best_threshold(p, y) for p, y in columns])

    def confidence(self, predictions: Predictions) -> np.ndarray:
        """[n, r]: how far a probability is from its threshold, of the way to 0 or 1."""
        p, t = predictions.probability, self.thresholds.clip(1e-12, 1 - 1e-12)
        assert p is not None
        return np.where(p >= self.thresholds, (p - t) / (1 - t), (t - p) / t)

    def metrics_of(self, predictions: Predictions) -> dict[str, float]:
        assert predictions.probability is not None
        return self.metrics(predictions.probability, predictions.label)

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
