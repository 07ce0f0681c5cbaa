"""The task of regression: a number, and the interval in which the label is likely to lie."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from mmtab.data.schema import TaskKind
from mmtab.features.batches import is_known
from mmtab.features.target import Target
from mmtab.model.heads import NumberScores
from mmtab.training.metrics import MIN_ROWS, number_metrics
from mmtab.training.predictions import Predictions
from mmtab.training.tasks import PERCENT, Calibration, chosen_by

LEVEL = 0.9  # of intervals, where nothing else is asked for
ERROR_WEIGHT = 0.2  # in the loss, of the size of errors, which is to follow the prediction and not to change it
LEAST_ERROR = 0.05  # standard deviations of the label, below which no error is predicted


class RegressionTask(Calibration):
    """The label is learned on the scale of ``target``. Beside it the model predicts how far off it is; intervals are
    that many times ``margins``, which are fitted on valid by split conformal prediction (Papadopoulos et al. 2002; Lei
    et al. 2018), so that as many labels lie within them as they say, whatever the model is.

    target  the scale, fitted on train
    loss    huber, which is squared up to one standard deviation of the label, or squared
    metric  the metric that training maximises

    ``errors`` [101]: quantiles on valid of the label less the prediction, on the scale of the target, by which a
    prediction there becomes the expected label; none where that errs no less on valid than the label of the prediction.
    ``margins`` [m]: by percent of the labels within, from 0 on, how many times its predicted error a prediction may be
    off; as far as the rows of valid suffice.
    """

    STATE = (*Calibration.STATE, "errors", "margins")

    def __init__(self, target: Target, loss: str = "huber", metric: str = "r2") -> None:
        super().__init__(1)
        self.target, self.metric = target, metric
        self.chosen_by = chosen_by(TaskKind.REGRESSION, metric)
        self._distance = F.huber_loss if loss == "huber" else F.mse_loss
        self.errors: np.ndarray | None = None
        self.margins: np.ndarray | None = None

    def loss(self, value: Float[Tensor, " b"], label: Float[Tensor, " b"]) -> Float[Tensor, ""]:
        return self._distance(value.float(), self.target.scaled(label).float())

    def loss_of(self, scores: NumberScores, label: Float[Tensor, " b"]) -> Float[Tensor, ""]:
        """With a base, a number that does without it counts as much."""
        z, value = self.target.scaled(label).float(), scores.value.float()
        off = (z - value.detach()).abs()
        loss = self._distance(value, z) + ERROR_WEIGHT * F.smooth_l1_loss(_size(scores.error), off)
        return loss if scores.alone is None else loss + self._distance(scores.alone.float(), z)

    def predict(self, scores: NumberScores, label: Float[Tensor, " b"], row: Int[Tensor, " b"]) -> Predictions:
        value = torch.stack([scores.value.float(), _size(scores.error)], 1).double()
        return Predictions(row.cpu().numpy(), label.double().cpu().numpy(), value=value.cpu().numpy())

    def no_predictions(self) -> Predictions:
        return Predictions(np.zeros(0, np.int64), np.zeros(0), value=np.zeros((0, 2)))

    def calibrate(self, predictions: Predictions, train: np.ndarray) -> None:
        """Fit ``errors`` and ``margins``."""
        known = is_known(predictions.label)
        few = f"valid has {known.sum()} labelled rows, fewer than {MIN_ROWS}" if known.sum() < MIN_ROWS else ""
        if self.leave_out("intervals", few):
            return
        z, size = _value(predictions)[known].T
        error = self.target.transform(predictions.label[known]) - z
        self.errors, n = self._errors(z, error, predictions.label[known]), len(error)
        rank = np.ceil((n + 1) * PERCENT - 1e-9).astype(int)
        self.margins = np.sort(np.abs(error) / size)[np.maximum(rank[rank <= n], 1) - 1]

    def _errors(self, z: np.ndarray, error: np.ndarray, label: np.ndarray) -> np.ndarray | None:
        quantiles = np.quantile(error, PERCENT)
        expected, plain = self.target.expected(z, quantiles), self.target.inverse(z)
        return quantiles if np.square(expected - label).sum() < np.square(plain - label).sum() else None

    def fit_threshold(self, predictions: Predictions) -> None:
        """There is none."""

    def fit_confidence(self, predictions: Predictions, train: np.ndarray) -> None:
        if not self.leave_out("confidence quantiles", self.left_out.get("intervals", "")):
            self.confidence_quantiles = np.quantile(self.confidence(predictions), PERCENT, axis=0)

    def y_pred(self, predictions: Predictions) -> np.ndarray:
        """[n, 1] float64: the expected label."""
        return self.target.expected(_value(predictions)[:, 0], self._likely_errors)[:, None]

    def output(self, scores: NumberScores) -> Float[Tensor, " b"]:
        return self.target.expected_labels(scores.value.double(), self._likely_errors)

    @property
    def _likely_errors(self) -> np.ndarray:
        return np.zeros(0) if self.errors is None else self.errors

    def interval(self, predictions: Predictions, level: float | None = None) -> tuple[np.ndarray, np.ndarray] | None:
        """Bounds [n] and [n] within which the share ``level`` of the labels lies; None where they were not fitted.
        Raises ValueError for a level for which valid had too few rows."""
        if self.margins is None:
            return None
        place = math.ceil((LEVEL if level is None else level) * 100 - 1e-9)
        if place >= len(self.margins):
            most = (len(self.margins) - 1) / 100
            raise ValueError(f"expected at most {most:g}, for more valid would need more rows")
        return self._bounds(predictions, float(self.margins[place]))

    def _bounds(self, predictions: Predictions, margin: float) -> tuple[np.ndarray, np.ndarray]:
        z, size = _value(predictions).T
        return self.target.inverse(z - margin * size), self.target.inverse(z + margin * size)

    def confidence(self, predictions: Predictions) -> np.ndarray:
        """[n, 1] from 0 to 1, the higher the narrower the interval."""
        low, high = self.interval(predictions) or self._bounds(predictions, 1.0)
        return 1 / (1 + (high - low) / (self.target.high_ - self.target.low_))[:, None]

    def metrics_of(self, predictions: Predictions) -> dict[str, float]:
        """R² and, in the unit of the label, RMSE and MAE; of intervals the share of labels within and mean width."""
        label, y_pred = predictions.label, self.y_pred(predictions)[:, 0]
        if not np.isfinite(y_pred).all():
            row = predictions.row[~np.isfinite(y_pred)][0]
            raise FloatingPointError(f"not all predictions are finite, first at row {row}")
        return number_metrics(label, y_pred, self.interval(predictions))

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """[n, 1] numbers on the scale of the target -> [n, 1] labels; numbers have no probabilities."""
        return self.target.inverse(logits)

    def metrics(self, probabilities: np.ndarray, label: np.ndarray) -> dict[str, float]:
        """Of predicted labels [n, 1], without intervals."""
        return number_metrics(label, probabilities[:, 0])


def _size(error: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
    return F.softplus(error.float()) + LEAST_ERROR


def _value(predictions: Predictions) -> np.ndarray:
    assert predictions.value is not None
    return predictions.value
