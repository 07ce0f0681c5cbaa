"""Text: a vector of each cell, to one token."""

from __future__ import annotations

import torch
from torch import nn

from mmtab.features.backbones import TextBackbone
from mmtab.features.batches import TensorTable, Tokens


class TextEncoder(nn.Module):
    """One token a text cell: the backbone's vector of the cell, projected."""

    tokens_per_column = 1

    def __init__(self, n_columns: int, d_model: int, backbone: TextBackbone) -> None:
        super().__init__()
        self.n_columns, self.backbone = n_columns, backbone
        self.project = nn.Sequential(nn.LayerNorm(backbone.d_hidden), nn.Linear(backbone.d_hidden, d_model))
        self.missing = nn.Parameter(torch.randn(n_columns, d_model) * 0.02)

    def forward(self, table: TensorTable) -> Tokens:
        assert table.text is not None
        cells, present = self.backbone(table.text, table.n_rows, self.n_columns)
        x = self.project(cells)
        x = torch.where(present[..., None], x, self.missing.to(x.dtype))
        return Tokens(x, torch.ones_like(present))
