"""Row vectors to logits, or to a number."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn


@dataclass
class ClassScores:
    """One logit a class, as products of row vectors with class vectors. Those of 100,000 classes may be too many to
    hold for all rows at once, so whoever reads them can ask for some rows or some classes. ``base``: logits that these
    are added to; never with very many classes. ``alone``: in training, logits that are to do without the base.
    ``others``: in training, those of further models, each of which learns by itself."""

    x: Float[Tensor, "b d"]
    weight: Float[Tensor, "k d"]
    bias: Float[Tensor, " k"]
    base: Float[Tensor, "b k"] | None = None
    alone: Float[Tensor, "b k"] | None = None
    others: Sequence[ClassScores] = ()

    @classmethod
    def mean(cls, each: Sequence[ClassScores]) -> ClassScores:
        """The mean logits of several models, which are products too: of their row vectors and class vectors end to
        end. The probabilities are then the geometric mean of theirs."""
        x, weight = (torch.cat(parts, 1) for parts in zip(*((s.x, s.weight) for s in each), strict=True))
        return cls(x, weight / len(each), torch.stack([s.bias for s in each]).mean(0))

    @property
    def logits(self) -> Float[Tensor, "b k"]:
        logits = F.linear(self.x, self.weight, self.bias)
        return logits if self.base is None else logits.float() + self.base

    def on(self, base: Float[Tensor, "b k"], alone: ClassScores | None) -> ClassScores:
        """These logits, added to those of a base."""
        return ClassScores(self.x, self.weight, self.bias, base, None if alone is None else alone.logits)

    def rows(self, rows: slice) -> ClassScores:
        return ClassScores(self.x[rows], self.weight, self.bias, None if self.base is None else self.base[rows])

    def classes(self, classes: Int[Tensor, " s"]) -> ClassScores:
        return ClassScores(self.x, self.weight[classes], self.bias[classes])

    def split(self, *sizes: int) -> list[ClassScores]:
        """Of the first classes, of the next ones, and so on."""
        parts = zip(self.weight.split(sizes), self.bias.split(sizes), strict=True)
        return [ClassScores(self.x, weight, bias) for weight, bias in parts]

    def sums(
        self, label: Int[Tensor, " b"], class_weight: Float[Tensor, " k"], size: int
    ) -> tuple[Float[Tensor, " b"], Float[Tensor, " b"], Float[Tensor, " b"]]:
        """All that a cross-entropy needs to know of a row's logits: the logarithm of the sum of their exponentials, the
        label's own, and their weighted sum. Neither this nor its gradient holds those of more than ``size`` classes."""
        return _Sums.apply(self.x, self.weight, self.bias, label, class_weight, size)


class _Sums(torch.autograd.Function):
    """Written out, because what torch would derive keeps every logit or, recomputing them part by part, adds up a
    gradient of all classes for each part: twice the time and memory."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, label: Tensor, class_weight: Tensor, size: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        kind = x.device.type
        ctx.size, ctx.dtype = size, torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
        log_sums, own = [], x.new_zeros(len(x), dtype=torch.float32)
        total = torch.zeros_like(own)
        with torch.autocast(kind, enabled=False):
            for part, logits, rows, places in _parts(ctx, x, weight, bias, label):
                log_sums.append(logits.logsumexp(1))
                own[rows] = logits[rows, places]
                total += logits @ class_weight[part]
        log_sum = torch.stack(log_sums).logsumexp(0)
        ctx.save_for_backward(x, weight, bias, label, class_weight, log_sum)
        return log_sum, own, total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, label, class_weight, log_sum = ctx.saved_tensors
        of_log_sum, of_own, of_total = grads
        of_x = torch.zeros_like(x, dtype=torch.float32)
        of_weight, of_bias = torch.empty_like(weight), torch.empty_like(bias)
        with torch.autocast(x.device.type, enabled=False):
            for part, logits, rows, places in _parts(ctx, x, weight, bias, label):
                of_logits = logits.sub_(log_sum[:, None]).exp_().mul_(of_log_sum[:, None])
                of_logits.addr_(of_total, class_weight[part])
                of_logits[rows, places] += of_own[rows]
                of_bias[part] = of_logits.sum(0)
                of_logits = of_logits.to(ctx.dtype)
                of_weight[part] = of_logits.T @ x.to(ctx.dtype)
                of_x += of_logits @ weight[part].to(ctx.dtype)
        return of_x.to(x.dtype), of_weight, of_bias, None, None, None


def _parts(
    ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, label: Tensor
) -> Iterator[tuple[slice, Tensor, Tensor, Tensor]]:
    """Some classes after others: which, their logits, the rows whose labels are among them, and where."""
    for start in range(0, len(bias), ctx.size):
        part = slice(start, start + ctx.size)
        rows = ((label >= start) & (label < start + ctx.size)).nonzero()[:, 0]
        logits = F.linear(x.to(ctx.dtype), weight[part].to(ctx.dtype), bias[part].to(ctx.dtype)).float()
        yield part, logits, rows, label[rows] - start


class KWayHead(nn.Module):
    """One logit per class."""

    def __init__(self, d_model: int, n_classes: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Dropout(dropout), nn.Linear(d_model, n_classes))

    def forward(self, x: Float[Tensor, "b d"]) -> ClassScores:
        dropout, output = self.layers
        assert isinstance(output, nn.Linear)
        return ClassScores(dropout(x), output.weight, output.bias)


@dataclass
class NumberScores:
    """A number on the scale of the task's target, and how far off it is likely to be, as ``softplus(error)``.
    ``alone``: in training, a number that is to do without the base. ``others``: as of ``ClassScores``."""

    value: Float[Tensor, " b"]
    error: Float[Tensor, " b"]
    alone: Float[Tensor, " b"] | None = None
    others: Sequence[NumberScores] = ()

    @classmethod
    def mean(cls, each: Sequence[NumberScores]) -> NumberScores:
        return cls(torch.stack([s.value for s in each]).mean(0), torch.stack([s.error for s in each]).mean(0))

    def on(self, base: Float[Tensor, "b 1"], alone: NumberScores | None) -> NumberScores:
        """This number, added to that of a base."""
        return NumberScores(self.value.float() + base[:, 0], self.error, None if alone is None else alone.value)


class NumberHead(nn.Module):
    """A number, and the size of its error."""

    def __init__(self, d_model: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Dropout(dropout), nn.Linear(d_model, 2))

    def forward(self, x: Float[Tensor, "b d"]) -> NumberScores:
        value, error = self.layers(x).unbind(1)
        return NumberScores(value, error)


def symmetric(a: Float[Tensor, "... d"], b: Float[Tensor, "... d"]) -> Float[Tensor, "... d3"]:
    """Sum, distance and product, the same for (a, b) and (b, a): they determine both values, not their sides."""
    return torch.cat([a + b, (a - b).abs(), a * b], -1)


class PairHead(nn.Module):
    """Compares two row vectors by what is the same from either side: so the score of (a, b) is the score of (b, a) to
    the last bit. One logit a relation."""

    def __init__(self, d_model: int, n_relations: int = 1, d_hidden: int = 128, dropout: float = 0.1) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.LayerNorm(3 * d_model),
            nn.Linear(3 * d_model, d_hidden),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(d_hidden, n_relations),
        )

    def forward(self, left: Float[Tensor, "b d"], right: Float[Tensor, "b d"]) -> Float[Tensor, "b r"]:
        return self.layers(symmetric(left, right))


class JointPairHead(nn.Module):
    """One logit a relation from the vector of a pair whose rows met in the fusion transformer."""

    def __init__(self, d_model: int, n_relations: int = 1, dropout: float = 0.1) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Dropout(dropout), nn.Linear(d_model, n_relations))

    def forward(self, x: Float[Tensor, "b d"]) -> Float[Tensor, "b r"]:
        return self.layers(x)
