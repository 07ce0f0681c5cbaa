"""Row vectors to logits."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn


class KWayHead(nn.Module):
    """One logit a class."""

    def __init__(self, d_model: int, n_classes: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Dropout(dropout), nn.Linear(d_model, n_classes))

    def forward(self, x: Float[Tensor, "b d"]) -> Float[Tensor, "b k"]:
        return self.layers(x)


class PairHead(nn.Module):
    """Compares two row vectors by their sum, distance and product, each the same from either side: so the score of
    (a, b) is the score of (b, a) to the last bit. One logit a relation."""

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
        return self.layers(torch.cat([left + right, (left - right).abs(), left * right], -1))


class JointPairHead(nn.Module):
    """One logit a relation from the vector of a pair whose rows met in the fusion transformer."""

    def __init__(self, d_model: int, n_relations: int = 1, dropout: float = 0.1) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Dropout(dropout), nn.Linear(d_model, n_relations))

    def forward(self, x: Float[Tensor, "b d"]) -> Float[Tensor, "b r"]:
        return self.layers(x)
