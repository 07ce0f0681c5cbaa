"""All column types of a row as tokens of one width, each knowing which column it came from."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from mmtab.features.batches import TensorTable, Tokens
from mmtab.model.encoders import ColumnEncoder


class RowTokenizer(nn.Module):
    """Runs the encoders side by side, normalises their tokens and adds a learned embedding of the column.

    ``encoders``: by column type, in a fixed order. In training each token is left out with probability
    ``token_dropout`` (a row keeps its CLS in fusion), so that no column becomes indispensable.
    """

    def __init__(self, encoders: Mapping[str, ColumnEncoder], d_model: int, token_dropout: float = 0.0) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict(encoders)  # type: ignore[arg-type]
        self.token_dropout = token_dropout
        self.n_tokens = sum(e.n_columns * e.tokens_per_column for e in encoders.values())
        self.norm = nn.ModuleDict({kind: nn.LayerNorm(d_model) for kind in encoders})
        self.column = nn.Parameter(torch.randn(self.n_tokens, d_model) * 0.1)

    def forward(self, table: TensorTable) -> Tokens:
        parts = []
        for kind, encoder in self.encoders.items():
            tokens = encoder(table)
            parts.append(Tokens(self.norm[kind](tokens.x.float()), tokens.mask))
        tokens = Tokens.concat(*parts)
        mask = tokens.mask
        if self.training and self.token_dropout > 0:
            mask = mask & (torch.rand(mask.shape, device=mask.device) >= self.token_dropout)
        return Tokens(tokens.x + self.column, mask)
