"""Similarity features of a pair: a token a column, and logits of their own."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from mmtab.features.batches import Tokens
from mmtab.model.encoders.numeric import PiecewiseLinear


class SimilarityEncoder(nn.Module):
    """Similarity features (scaled by rank, NaN for missing) as one token a column, and as logits of their own.

    groups       how many features each column has
    d_model      width of a token
    n_relations  logits a pair
    n_bins       of the piecewise linear embedding of a feature
    d_hidden     width of the layer before the logits
    dropout      before and after that layer
    """

    member: Tensor
    owner: Tensor

    def __init__(
        self,
        groups: list[int],
        d_model: int,
        n_relations: int = 1,
        n_bins: int = 8,
        d_hidden: int = 128,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        n = sum(groups)
        self.embed = PiecewiseLinear(n, d_model, n_bins)
        self.missing = nn.Parameter(torch.randn(n, d_model) * 0.02)
        column = torch.arange(len(groups)).repeat_interleave(torch.tensor(groups))
        member = (column == torch.arange(len(groups))[:, None]).float()
        self.register_buffer("owner", column, persistent=False)
        self.register_buffer("member", member / member.sum(1, keepdim=True).sqrt(), persistent=False)
        self.column = nn.Parameter(torch.randn(len(groups), d_model) * 0.1)
        self.norm = nn.LayerNorm(d_model)
        self.direct = nn.Sequential(
            nn.Dropout(dropout),
            nn.Linear(n * (n_bins + 1), d_hidden),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(d_hidden, n_relations),
        )

    def forward(self, features: Float[Tensor, "b f"], reads: Sequence[bool]) -> tuple[Tokens, Float[Tensor, "b r"]]:
        """``reads``: the groups to look at; the others' tokens are absent and their features zero."""
        absent = features.isnan()
        filled = self.embed.fill(features.nan_to_num(0.0)) * ~absent[..., None]
        x = torch.where(absent[..., None], self.missing, self.embed.combine(filled))
        x = self.norm(torch.relu(torch.einsum("bfd,gf->bgd", x, self.member))) + self.column
        is_read = torch.tensor(reads, device=x.device)[self.owner]
        inputs = torch.cat([filled, absent[..., None].to(filled.dtype)], -1) * is_read[:, None]
        x = x[:, np.flatnonzero(reads).tolist()]
        return Tokens(x, torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)), self.direct(inputs.flatten(1))
