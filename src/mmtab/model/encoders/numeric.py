"""Numbers: embeddings of scaled values, after Gorishniy, Rubachev and Babenko, "On Embeddings for Numerical Features in
Tabular Deep Learning" (NeurIPS 2022)."""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mmtab.features.batches import TensorTable, Tokens


class PiecewiseLinear(nn.Module):
    """Each number as how far it fills each of ``n_bins`` bins, then a linear map a column.

    Values arrive scaled by rank, so that bins of equal width are the paper's bins at quantiles.
    """

    edges: Tensor

    def __init__(self, n_columns: int, d_out: int, n_bins: int) -> None:
        super().__init__()
        self.register_buffer("edges", torch.linspace(-1, 1, n_bins + 1)[:-1], persistent=False)
        self.n_bins = n_bins
        self.weight = nn.Parameter(torch.empty(n_columns, n_bins, d_out))
        self.bias = nn.Parameter(torch.zeros(n_columns, d_out))
        nn.init.normal_(self.weight, std=1 / math.sqrt(n_bins))

    def forward(self, x: Float[Tensor, "b c"]) -> Float[Tensor, "b c d"]:
        return self.combine(self.fill(x))

    def combine(self, filled: Float[Tensor, "b c n"]) -> Float[Tensor, "b c d"]:
        return torch.einsum("bcn,cnd->bcd", filled, self.weight) + self.bias

    def fill(self, x: Float[Tensor, "b c"]) -> Float[Tensor, "b c n"]:
        """0 for bins above the value, 1 for bins below, the fraction reached in its own."""
        return ((x[..., None] - self.edges) * (self.n_bins / 2)).clamp(0, 1)


class Periodic(nn.Module):
    """Each number as sines and cosines of learned frequencies, then a linear map a column."""

    def __init__(self, n_columns: int, d_out: int, n_frequencies: int, sigma: float) -> None:
        super().__init__()
        self.frequency = nn.Parameter(torch.randn(n_columns, n_frequencies) * sigma)
        self.weight = nn.Parameter(torch.randn(n_columns, 2 * n_frequencies, d_out) / math.sqrt(2 * n_frequencies))
        self.bias = nn.Parameter(torch.zeros(n_columns, d_out))

    def forward(self, x: Float[Tensor, "b c"]) -> Float[Tensor, "b c d"]:
        angle = 2 * math.pi * self.frequency * x[..., None]
        return torch.einsum("bcn,cnd->bcd", torch.cat([angle.sin(), angle.cos()], -1), self.weight) + self.bias


class NumericEncoder(nn.Module):
    """One token a number: embedding, then an MLP shared by the columns.

    ``embedding``: ``piecewise`` with ``n_bins``, or ``periodic`` with ``n_frequencies`` and their initial spread
    ``sigma``. Input: scaled to [-1, 1], NaN for missing.
    """

    tokens_per_column = 1

    def __init__(
        self,
        n_columns: int,
        d_model: int,
        embedding: Literal["piecewise", "periodic"] = "piecewise",
        n_bins: int = 32,
        n_frequencies: int = 24,
        sigma: float = 0.3,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.n_columns = n_columns
        self.embed: nn.Module
        if embedding == "piecewise":
            self.embed = PiecewiseLinear(n_columns, d_model, n_bins)
        else:
            self.embed = Periodic(n_columns, d_model, n_frequencies, sigma)
        self.mlp = nn.Sequential(nn.ReLU(), nn.Dropout(dropout), nn.Linear(d_model, d_model))
        self.missing = nn.Parameter(torch.randn(n_columns, d_model) * 0.02)

    def forward(self, table: TensorTable) -> Tokens:
        assert table.numeric is not None
        return self.encode(table.numeric)

    def encode(self, values: Float[Tensor, "b c"]) -> Tokens:
        absent = values.isnan()
        x = self.mlp(self.embed(values.nan_to_num(0.0)))
        x = torch.where(absent[..., None], self.missing.to(x.dtype), x)
        return Tokens(x, torch.ones_like(absent))
