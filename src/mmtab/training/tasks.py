"""What is learned and how it is scored: loss, probabilities, metrics, and what a prediction file holds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from mmtab.data.schema import TaskKind
from mmtab.model.heads import ClassScores
from mmtab.model.matcher import PairScores
from mmtab.training.metrics import (
    best_sigmoid,
    best_temperature,
    best_threshold,
    calibration_error,
    fewest_errors,
    macro_f1,
    means_over_relations,
    pair_metrics,
    too_few,
    too_few_errors,
    too_few_matches,
    unscaled,
)
from mmtab.training.predictions import Predictions, gather

DENSE_CLASSES = 1_000  # of more classes, evaluation keeps only the likeliest of a row
N_BEST = 10
MAX_LOGITS = 1 << 22  # in memory at once
PERCENT = np.linspace(0, 1, 101)


def chosen_by(kind: TaskKind, metric: str) -> str:
    """The metric of valid by which epochs, and the recipes of a ladder, are chosen: of a few hundred rows the log-loss
    says more than how many are right, and of pairs the area under the precision-recall curve more than the F1 at some
    threshold. ``metric``: the dataset's."""
    return {TaskKind.KWAY: "log_loss", TaskKind.MATCHING: "pr_auc"}.get(kind, metric)


@runtime_checkable
class Task(Protocol):
    """``metric`` is the dataset's, and ``chosen_by`` the one by which training chooses its best epoch, both on valid.
    ``scores``: the output of the task's model for a batch. ``state_dict``: what was fitted on valid and prediction
    needs, as plain finite JSON. ``left_out``: what was not, for valid does not tell it, by name with the reason.
    ``train``: the labels of training."""

    metric: str
    chosen_by: str
    temperatures: np.ndarray
    left_out: dict[str, str]

    def loss_of(self, scores: Any, label: Tensor) -> Tensor: ...

    def predict(self, scores: Any, label: Tensor, row: Tensor) -> Predictions: ...

    def output(self, scores: Any) -> Tensor:
        """Calibrated probabilities, of classes or of a match for each relation, or numbers."""

    def no_predictions(self) -> Predictions: ...

    def calibrate(self, predictions: Predictions, train: np.ndarray) -> None: ...

    def fit_threshold(self, predictions: Predictions) -> None: ...

    def fit_confidence(self, predictions: Predictions, train: np.ndarray) -> None: ...

    def metrics_of(self, predictions: Predictions) -> dict[str, float]: ...

    def metrics(self, probabilities: np.ndarray, label: np.ndarray) -> dict[str, float]: ...

    def probabilities(self, logits: np.ndarray) -> np.ndarray: ...

    def y_pred(self, predictions: Predictions) -> np.ndarray: ...

    def confidence(self, predictions: Predictions) -> np.ndarray: ...

    def least_confidence(self, coverage: float) -> np.ndarray | None: ...

    def interval(
        self, predictions: Predictions, level: float | None = None
    ) -> tuple[np.ndarray, np.ndarray] | None: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class Calibration:
    """The state of a task that is fitted on valid once the model is trained; n rows, r relations (k-way: 1).

    ``temperatures`` [r]: divisors of the logits. ``confidence_quantiles`` [101, r]: of the confidence of predictions on
    valid, in steps of one percent; None where they were not measured.
    """

    STATE: ClassVar[tuple[str, ...]] = ("temperatures", "confidence_quantiles")

    def __init__(self, n_relations: int) -> None:
        self.temperatures = np.ones(n_relations)
        self.confidence_quantiles: np.ndarray | None = None
        self.left_out: dict[str, str] = {}

    def leave_out(self, what: str, why: str) -> bool:
        """Whether ``what`` is not fitted; notes the reason."""
        self.left_out.pop(what, None)
        if why:
            self.left_out[what] = why
        return bool(why)

    def confidence(self, predictions: Predictions) -> np.ndarray:
        """[n, r] from 0 to 1."""
        raise NotImplementedError

    def interval(self, predictions: Predictions, level: float | None = None) -> tuple[np.ndarray, np.ndarray] | None:
        """Only numbers have intervals."""
        return None

    def fit_confidence(self, predictions: Predictions, train: np.ndarray) -> None:
        """Measure ``confidence_quantiles`` on predictions of valid."""
        labels = predictions.label.reshape(len(predictions.label), -1).T, train.reshape(len(train), -1).T
        reasons = (too_few(label[label >= 0], among) for label, among in zip(*labels, strict=True))
        if self.leave_out("confidence quantiles", next(filter(None, reasons), "")):
            return
        self.confidence_quantiles = np.quantile(self.confidence(predictions), PERCENT, axis=0)

    def least_confidence(self, coverage: float) -> np.ndarray | None:
        """[r] the confidence that the share ``coverage`` of valid reaches; None where it was not measured."""
        if self.confidence_quantiles is None:
            return None
        if coverage == 1:
            return np.full(self.confidence_quantiles.shape[1], -math.inf)
        return np.array([np.interp(1 - coverage, PERCENT, quantiles) for quantiles in self.confidence_quantiles.T])

    def state_dict(self) -> dict[str, Any]:
        values = {name: getattr(self, name) for name in self.STATE}
        return {name: None if value is None else value.tolist() for name, value in values.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """What ``state_dict`` returned; names that are absent or None stay as they are. Raises ValueError for another
        number of relations."""
        n_relations = len(self.temperatures)
        shapes: dict[str, tuple[int, ...]] = {"confidence_quantiles": (len(PERCENT), n_relations)}
        shapes |= {"errors": (len(PERCENT),), "margins": (len(state.get("margins") or ()),)}
        for name in self.STATE:
            if state.get(name) is not None:
                value, shape = np.array(state[name], np.float64), shapes.get(name, (n_relations,))
                if value.shape != shape:
                    raise ValueError(f"{name}: expected an array {shape}, found {value.shape}")
                setattr(self, name, value)


class KWayTask(Calibration):
    """Cross-entropy with label smoothing (Szegedy et al. 2016) and, where asked, weights that balance the classes.

    ``n_sampled``: the loss of a step is estimated from so many classes, drawn at random. Predictions are always over
    all classes. Of very many classes neither holds more than MAX_LOGITS logits at once.
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
        self.n_sampled, self.chosen_by = n_sampled, chosen_by(TaskKind.KWAY, metric)
        super().__init__(1)
        self.weight = None
        if class_counts is not None:  # "balanced", as scikit-learn defines it
            self.weight = torch.tensor(
                class_counts.sum() / (n_classes * np.maximum(class_counts, 1)), dtype=torch.float32
            )

    def loss(
        self, logits: Float[Tensor, "b k"], label: Int[Tensor, " b"], smoothing: float | None = None
    ) -> Float[Tensor, ""]:
        weight = None if self.weight is None else self.weight.to(logits.device)
        smoothing = self.label_smoothing if smoothing is None else smoothing
        return F.cross_entropy(logits.float(), label, weight=weight, label_smoothing=smoothing)

    def loss_of(self, scores: ClassScores, label: Int[Tensor, " b"]) -> Float[Tensor, ""]:
        """``loss``, as it is, by parts of the classes, or estimated. With a base there is no smoothing, which it would
        have to unlearn, and the logits that do without it count as much."""
        if scores.alone is not None:
            return self.loss(scores.logits, label, 0.0) + self.loss(scores.alone, label)
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

    def output(self, scores: ClassScores) -> Float[Tensor, "b k"]:
        return self._scaled(scores.logits).float().softmax(1)

    def _scaled(self, logits: Float[Tensor, "b k"]) -> Float[Tensor, "b k"]:
        temperature = float(self.temperatures[0])
        return logits if temperature == 1 else logits.float() / temperature

    def _summary(self, logits: Float[Tensor, "b k"], label: Int[Tensor, " b"], row: Int[Tensor, " b"]) -> Predictions:
        """Computed on the device of the logits, since moving those of 100,000 classes is slow."""
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

    def calibrate(self, predictions: Predictions, train: np.ndarray) -> None:
        """Fit the temperature to predictions without one. Of more than DENSE_CLASSES not all probabilities are at
        hand, so there is none."""
        p, known = predictions.probability, predictions.label >= 0
        if p is None:
            return
        label = predictions.label[known]
        n_errors = int((p[known].argmax(1) != label).sum())
        if not self.leave_out("temperature", too_few(label, train) or too_few_errors(n_errors)):
            logits = np.log(p[known].astype(np.float64).clip(np.finfo(np.float32).tiny))
            self.temperatures = np.array([best_temperature(logits, label)])

    def no_predictions(self) -> Predictions:
        none = torch.zeros(0, dtype=torch.long)
        return self._summary(torch.zeros(0, self.n_classes), none, none)

    def fit_threshold(self, predictions: Predictions) -> None:
        """K-way takes the likeliest class; there is nothing to choose."""

    def y_pred(self, predictions: Predictions) -> np.ndarray:
        """[n, 1] int64: the likeliest class."""
        assert predictions.best is not None
        return predictions.best[:, :1]

    def confidence(self, predictions: Predictions) -> np.ndarray:
        """[n, 1]: the probability of the likeliest class."""
        assert predictions.best_probability is not None
        return predictions.best_probability[:, :1]

    def metrics(self, probabilities: np.ndarray, label: np.ndarray) -> dict[str, float]:
        """``metrics_of`` [n, k] probabilities and [n] labels."""
        logits, labels = torch.from_numpy(probabilities).log(), torch.from_numpy(label).long()
        return self.metrics_of(self._summary(logits, labels, torch.arange(len(label))))

    def metrics_of(self, predictions: Predictions) -> dict[str, float]:
        """Accuracy, macro-F1, log-loss, top-5 accuracy, expected calibration error (15 bins, Guo et al. 2017), and
        what the latter would be without the temperature."""
        p, label, rank = predictions.label_probability, predictions.label, predictions.rank
        assert predictions.best is not None and predictions.best_probability is not None
        assert p is not None and rank is not None
        if not np.isfinite(p).all():
            raise FloatingPointError(f"not all logits are numbers, first at row {predictions.row[~np.isfinite(p)][0]}")
        predicted, confidence = predictions.best[:, 0], predictions.best_probability[:, 0]
        correct, least = predicted == label, np.finfo(np.float64).eps  # scikit-learn's bound
        values = {
            "accuracy": correct.mean(),
            "macro_f1": macro_f1(predicted, label, self.n_classes),
            "log_loss": -np.log(p.clip(least, 1 - least)).mean(),
        }
        if self.n_classes > 5:
            values["top5"] = (rank < 5).mean()

        values["ece"] = calibration_error(confidence, correct)
        if self.temperatures[0] != 1 and predictions.probability is not None:
            before = unscaled(predictions.probability, self.temperatures[0])
            values["ece_unscaled"] = calibration_error(before[np.arange(len(before)), predicted], correct)
        return {name: float(value) for name, value in values.items()}


class PairTask(Calibration):
    """Binary cross-entropy for each relation. A pair is predicted to match from ``thresholds`` on, which are chosen for
    F1 on valid. With several relations each metric is the mean over them, beside those of each as
    ``<relation>/<metric>``.

    relations:  names of the label columns
    pos_weight: weight of matches in the loss; None: 1
    metric:     the metric of the dataset, by which runs are ranked
    """

    STATE = (*Calibration.STATE, "biases", "thresholds")

    def __init__(
        self, relations: Sequence[str] = ("label",), pos_weight: float | None = None, metric: str = "f1"
    ) -> None:
        super().__init__(len(relations))
        self.relations, self.pos_weight = tuple(relations), pos_weight
        self.metric, self.chosen_by = metric, chosen_by(TaskKind.MATCHING, metric)
        self.thresholds, self.biases = np.full(len(relations), 0.5), np.zeros(len(relations))

    def loss(self, logits: Float[Tensor, "b r"], label: Int[Tensor, "b r"]) -> Float[Tensor, ""]:
        weight = None if self.pos_weight is None else torch.tensor(self.pos_weight, device=logits.device)
        return F.binary_cross_entropy_with_logits(logits.float(), label.float(), pos_weight=weight)

    def loss_of(self, scores: PairScores, label: Int[Tensor, "b r"]) -> Float[Tensor, ""]:
        loss = self.loss(scores.logits, label)
        return loss if scores.loss is None else loss + scores.loss.float()

    def predict(self, scores: PairScores, label: Int[Tensor, "b r"], row: Int[Tensor, " b"]) -> Predictions:
        logits = scores.logits.float().cpu().double().numpy()
        return Predictions(row.cpu().numpy(), label.cpu().numpy(), self.probabilities(logits))

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """[n, r] logits -> [n, r] probability of a match."""
        return np.exp(-np.logaddexp(0, -(logits / self.temperatures + self.biases)))  # the sigmoid, without overflow

    def output(self, scores: PairScores) -> Float[Tensor, "b r"]:
        temperature, bias = (torch.from_numpy(x).float() for x in (self.temperatures, self.biases))
        return (scores.logits.float() / temperature + bias).sigmoid()

    def _name(self, what: str, relation: str) -> str:
        return what if len(self.relations) == 1 else f"{what} of {relation}"

    def calibrate(self, predictions: Predictions, train: np.ndarray) -> None:
        """Fit temperature and bias of each relation to uncalibrated predictions."""
        from scipy.special import logit

        assert predictions.probability is not None
        columns = logit(predictions.probability.clip(1e-15, 1 - 1e-15)).T, predictions.label.T
        for r, (relation, z, y) in enumerate(zip(self.relations, *columns, strict=True)):
            few = too_few_matches(y) or too_few_errors(fewest_errors(z, y))
            left_out = self.leave_out(self._name("temperature", relation), few)
            self.temperatures[r], self.biases[r] = (1.0, 0.0) if left_out else best_sigmoid(z, y)

    def no_predictions(self) -> Predictions:
        none = np.zeros((0, len(self.relations)))
        return Predictions(np.zeros(0, np.int64), none.astype(np.int64), none)

    def fit_threshold(self, predictions: Predictions) -> None:
        """For each relation the threshold with the best F1."""
        assert predictions.probability is not None
        columns = predictions.probability.T, predictions.label.T
        for r, (relation, p, y) in enumerate(zip(self.relations, *columns, strict=True)):
            left_out = self.leave_out(self._name("threshold", relation), too_few_matches(y))
            self.thresholds[r] = 0.5 if left_out else best_threshold(p, y)

    def use_cost(self, cost: float) -> None:
        """Choose thresholds for a false match that costs ``cost`` times a missed one (Elkan 2001); the probabilities
        are calibrated."""
        self.thresholds = np.full(len(self.relations), cost / (1 + cost))

    def y_pred(self, predictions: Predictions) -> np.ndarray:
        """[n, r] int64: 1 for a match."""
        assert predictions.probability is not None
        return (predictions.probability >= self.thresholds).astype(np.int64)

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
        columns = zip(self.relations, label.T, (probabilities >= self.thresholds).T, probabilities.T, strict=True)
        values = {relation: pair_metrics(y_true, y_pred, p) for relation, y_true, y_pred, p in columns}
        if len(values) == 1:
            return values[self.relations[0]]
        parts = {f"{relation}/{name}": x for relation, metrics in values.items() for name, x in metrics.items()}
        return means_over_relations(list(values.values())) | parts
