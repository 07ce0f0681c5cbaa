"""Labels that are numbers, on the scale on which a model learns them, and back."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from statistics import NormalDist

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mmtab.config.types import SCALES

MAX_KNOTS = 1_000
LIMIT = 1.0  # standard deviations beyond the labels of train that a logarithm may reach


@dataclass(frozen=True)
class Target:
    """Labels of train have mean 0 and variance 1 on the scale that a model learns; fitted on train.

    kind     identity; log, of positive labels; or rank, the normal quantile of the rank among the labels of train,
             between which it is linear and beyond which nothing is predicted
    mean_    of the labels of train, on the scale of ``kind``
    spread_  their standard deviation there
    low_     the lowest label of train
    high_    the highest
    knots_   rank: labels of train and their normal quantiles, both ascending
    """

    kind: str
    mean_: float
    spread_: float
    low_: float
    high_: float
    knots_: list[list[float]]

    @staticmethod
    def fit(kind: str, label: np.ndarray) -> Target:
        """``label`` [n] float64, at least two of them different. Raises ValueError where they do not fit the kind."""
        if kind == "log" and label.min() <= 0:
            raise ValueError("expected labels above 0")
        knots = _knots(label) if kind == "rank" else []
        target = Target(kind, 0.0, 1.0, float(label.min()), float(label.max()), knots)
        scaled = target.transform(label)
        return Target(kind, float(scaled.mean()), float(scaled.std()), target.low_, target.high_, knots)

    @staticmethod
    def possible(label: np.ndarray) -> list[str]:
        """The kinds that fit labels [n]."""
        return [kind for kind in SCALES if kind != "log" or label.min() > 0]

    def scaled(self, label: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """Labels as a model learns them."""
        if self.kind == "log":  # later labels may have none
            label = label.clamp(min=self.low_ * math.exp(-LIMIT)).log()
        elif self.kind == "rank":
            label = _interpolated(label, *self._tensors)
        return (label - self.mean_) / self.spread_

    def transform(self, label: np.ndarray) -> np.ndarray:
        """``scaled`` of labels [n] as an array of float64."""
        return self.scaled(torch.from_numpy(label.astype(np.float64))).numpy()

    def labels(self, z: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        """What ``scaled`` made -> labels."""
        z = z * self.spread_ + self.mean_
        if self.kind == "log":
            margin = LIMIT * self.spread_
            return z.clamp(math.log(self.low_) - margin, math.log(self.high_) + margin).exp()
        return _interpolated(z, *reversed(self._tensors)) if self.kind == "rank" else z

    def inverse(self, z: np.ndarray) -> np.ndarray:
        """What ``transform`` made, of any shape -> labels."""
        return self.labels(torch.from_numpy(z.astype(np.float64))).numpy()

    def expected_labels(self, z: Float[Tensor, " n"], errors: np.ndarray) -> Float[Tensor, " n"]:
        """The mean label of rows whose z is that of a prediction plus an error, for errors [m] that are as likely
        as each other (Duan, "Smearing Estimate", 1983); of a skewed label it is not the label of the mean z."""
        if self.kind == "identity" or not len(errors):
            return self.labels(z)
        return self.labels(z[:, None] + torch.from_numpy(errors).to(z)).mean(1)

    def expected(self, z: np.ndarray, errors: np.ndarray) -> np.ndarray:
        """``expected_labels`` of arrays."""
        parts = torch.from_numpy(z.astype(np.float64)).split(1 << 14)  # for each is held as often as there are errors
        return torch.cat([self.expected_labels(part, errors) for part in parts]).numpy()

    @cached_property
    def _tensors(self) -> tuple[Tensor, Tensor]:
        values, quantiles = (torch.tensor(knots, dtype=torch.float64) for knots in self.knots_)
        return values, quantiles


def _interpolated(x: Float[Tensor, "*n"], xs: Float[Tensor, " k"], ys: Float[Tensor, " k"]) -> Float[Tensor, "*n"]:
    """Between knots, of which ``xs`` ascend; beyond the last ones their values."""
    xs, ys = xs.to(x.device), ys.to(x.device)
    place = torch.searchsorted(xs, x).clamp(1, len(xs) - 1)
    share = ((x - xs[place - 1]) / (xs[place] - xs[place - 1])).clamp(0, 1)
    return ys[place - 1] + share * (ys[place] - ys[place - 1])


def _knots(label: np.ndarray) -> list[list[float]]:
    """Ties have the middle of their ranks."""
    values, counts = np.unique(label, return_counts=True)
    share = (counts.cumsum() - counts / 2) / len(label)
    if len(values) > MAX_KNOTS:
        kept = np.unique(np.searchsorted(share, np.linspace(share[0], share[-1], MAX_KNOTS)))
        values, share = values[kept], share[kept]
    return [values.tolist(), [NormalDist().inv_cdf(p) for p in share.tolist()]]
