"""Dropout whose random numbers cost little: on CPU torch's own takes a tenth of a step on frozen features."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class FeatureDropout(nn.Module):
    """Drops each feature with probability ``p`` (Srivastava et al. 2014). On CPU a random byte decides, so ``p`` is
    rounded to 1/256."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Float[Tensor, "m f"]) -> Float[Tensor, "m f"]:
        n_dropped = round(256 * self.p)
        if not self.training or n_dropped == 0:
            return x
        if x.device.type != "cpu":
            return F.dropout(x, self.p)
        drawn = torch.empty(-(-x.numel() // 8), dtype=torch.int64).random_(-(2**63), None)  # eight at a time
        kept = drawn.view(torch.uint8)[: x.numel()].view(x.shape) >= n_dropped
        return x * (kept.to(x.dtype) * (256 / (256 - n_dropped)))


class TokenwiseDropout(nn.Module):
    """Drops the same features in all tokens of a row (Gal and Ghahramani 2016)."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Float[Tensor, "b t d"]) -> Float[Tensor, "b t d"]:
        if not self.training or self.p == 0:
            return x
        kept = torch.rand(len(x), 1, x.shape[2], device=x.device) >= self.p
        return x * (kept.to(x.dtype) / (1 - self.p))
