"""Search towers: small networks that give each record a vector which lies near those of its matches, for blocking."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from mmtab.features.backbones import Backbones
from mmtab.features.batches import TensorTable
from mmtab.features.preprocess import MISSING
from mmtab.model.inputs import RowInputs


class SearchTowers(RowInputs):
    """A record to a vector of length 1. Two tables of other columns have a tower each, which learn to say the same of
    two records that match; otherwise there is one.

    They read what the feature store holds, learn apart from the pair model (``training.towers``) and are fixed while
    that one trains. Columns that some relation ignores are hidden from them, or blocking would miss its matches.

    n_ids      ids of each categorical column
    backbones  what makes vectors of text and pictures; only frozen layers are read
    hidden     of each column that is encoded as text, image, numeric or categorical, whether it is hidden
    two_sides  a tower for each of two tables
    n_members  towers of a side that begin with other weights and learn apart; their vectors stand side by side, so that
               the cosine is the mean of theirs (an ensemble)
    d_vector   width of a member's vectors
    d_hidden   width of the hidden layer
    dropout    of the inputs, and of the hidden layer
    """

    hidden_vectors: Tensor
    hidden_numbers: Tensor
    hidden_ids: Tensor

    def __init__(
        self,
        n_ids: Sequence[int],
        backbones: Backbones,
        hidden: Mapping[str, Sequence[bool]],
        two_sides: bool,
        n_members: int = 1,
        d_vector: int = 128,
        d_hidden: int = 512,
        dropout: float = 0.5,
    ) -> None:
        super().__init__(n_ids, len(hidden["text"]), len(hidden["image"]), backbones)
        self.two_sides, self.n_members, self.d_vector, self.dropout = two_sides, n_members, d_vector, dropout
        n_numeric = len(hidden["numeric"])
        vectors = [*hidden["text"][: self.n_texts], *hidden["image"][: self.n_images]]
        widths = torch.tensor(self.vector_widths, dtype=torch.long)
        masks = {
            "vectors": torch.tensor(vectors, dtype=torch.bool).repeat_interleave(widths),
            "numbers": torch.tensor(hidden["numeric"], dtype=torch.bool),
            "ids": torch.tensor(hidden["categorical"], dtype=torch.bool),
        }
        for name, mask in masks.items():
            self.register_buffer(f"hidden_{name}", mask, persistent=False)
        n_dense = len(self.mean) + self.n_texts + self.n_images + 2 * n_numeric
        sizes = n_dense, sum(self.n_ids), d_vector, d_hidden
        n_towers = n_members * (2 if two_sides else 1)
        self.towers = nn.ModuleList(Tower(*sizes, dropout) for _ in range(n_towers))
        self.requires_grad_(False)

    def forward(self, table: TensorTable, right: Bool[Tensor, " b"] | None) -> Float[Tensor, "b d"]:
        """``right``: which of the records are on the right side; None: they are all of one table."""
        with torch.autocast(self.mean.device.type, enabled=False):
            return self.vectors(*self.read(table), right)

    def read(self, table: TensorTable) -> tuple[Float[Tensor, "b f"], Int[Tensor, "b c"]]:
        """What the towers read of records: numbers, and places of categories."""
        return torch.cat(self.inputs(self.raw_vectors(table), table.numeric), 1), self.ids(table)

    def inputs(
        self, raw: Float[Tensor, "b d"], numeric: Float[Tensor, "b c"] | None
    ) -> tuple[Float[Tensor, "b d"], Float[Tensor, "b m"]]:
        shown = None if numeric is None else numeric.masked_fill(self.hidden_numbers, torch.nan)
        return super().inputs(raw.masked_fill(self.hidden_vectors, torch.nan), shown)

    def ids(self, table: TensorTable) -> Int[Tensor, "b c"]:
        places = super().ids(table)
        return torch.where(self.hidden_ids, self.offset + MISSING, places) if places.shape[1] else places

    def vectors(
        self, x: Float[Tensor, "b f"], ids: Int[Tensor, "b c"], right: Bool[Tensor, " b"] | None
    ) -> Float[Tensor, "b d"]:
        """Of what ``read`` gives. Records of one table, where there are two towers, have the sum of both vectors."""
        if not self.two_sides:
            return self.of_side(x, ids, 0)
        if right is None:
            return F.normalize(self.of_side(x, ids, 0) + self.of_side(x, ids, 1), dim=1)
        vectors, right = x.new_zeros(len(x), self.n_members * self.d_vector), right.to(x.device)
        for side, rows in enumerate((~right, right)):
            vectors[rows] = self.of_side(x[rows], ids[rows], side)
        return vectors

    def of_side(self, x: Float[Tensor, "b f"], ids: Int[Tensor, "b c"], side: int) -> Float[Tensor, "b d"]:
        """``side``: 0 left, 1 right."""
        members = [self.towers[i](x, ids) for i in self.members(side)]
        return torch.cat(members, 1) / math.sqrt(len(members))

    def members(self, side: int) -> range:
        """Numbers of the towers of a side."""
        first = side * self.n_members if self.two_sides else 0
        return range(first, first + self.n_members)


class Tower(nn.Module):
    """A linear map, and beside it a hidden layer. All weights are zeros until ``start``."""

    def __init__(self, n_dense: int, n_ids: int, d_vector: int, d_hidden: int, dropout: float) -> None:
        super().__init__()
        self.n_dense, self.d_vector, self.dropout = n_dense, d_vector, dropout
        self.first = nn.Parameter(torch.zeros(n_dense + n_ids, d_vector + d_hidden))
        self.bias = nn.Parameter(torch.zeros(d_vector + d_hidden))
        self.second = nn.Parameter(torch.zeros(d_hidden, d_vector))

    def start(self, generator: torch.Generator) -> None:
        """Random weights."""
        for weight in (self.first, self.second):
            drawn = torch.randn(weight.shape, generator=generator) / math.sqrt(self.d_vector)
            weight.data.copy_(drawn)

    def forward(self, x: Float[Tensor, "b f"], ids: Int[Tensor, "b c"]) -> Float[Tensor, "b d"]:
        own, of_ids = self.first.split([self.n_dense, len(self.first) - self.n_dense])
        z = F.dropout(x, self.dropout, self.training) @ own + self.bias
        if ids.shape[1]:
            z = z + F.embedding_bag(ids, of_ids, mode="sum")
        skip, hidden = z.split([self.d_vector, z.shape[1] - self.d_vector], 1)
        hidden = F.dropout(F.gelu(hidden), self.dropout, self.training)
        return F.normalize(skip + hidden @ self.second, dim=1)
