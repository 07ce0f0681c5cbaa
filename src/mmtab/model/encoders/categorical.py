"""Categories: an embedding a value."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmtab.features.batches import TensorTable, Tokens
from mmtab.features.preprocess import UNSEEN


class CategoricalEncoder(nn.Module):
    """One token a category: a row of one embedding table over all columns.

    ``n_ids``: ids of each column (0 missing, 1 unseen). In training a known value is shown as unseen with probability
    ``unseen_dropout``: so the unseen embedding is learned, and the model does not lean on values that will not recur.
    """

    tokens_per_column = 1
    offset: Tensor

    def __init__(self, n_ids: list[int], d_model: int, unseen_dropout: float = 0.1) -> None:
        super().__init__()
        self.n_columns = len(n_ids)
        self.unseen_dropout = unseen_dropout
        self.register_buffer("offset", torch.tensor([0, *n_ids[:-1]]).cumsum(0), persistent=False)
        self.embedding = nn.Embedding(sum(n_ids), d_model)
        nn.init.normal_(self.embedding.weight, std=0.5)

    def forward(self, table: TensorTable) -> Tokens:
        ids = table.categorical
        assert ids is not None
        if self.training and self.unseen_dropout > 0:
            hidden = torch.rand(ids.shape, device=ids.device) < self.unseen_dropout
            ids = torch.where(hidden & (ids > UNSEEN), UNSEEN, ids)
        x = self.embedding(ids + self.offset)
        return Tokens(x, torch.ones_like(ids, dtype=torch.bool))
