"""Rows to scores, of classes or of a number: base, tokenizer, fusion, head."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mmtab.features.batches import RowBatch, TensorTable
from mmtab.model.base import LinearBase
from mmtab.model.feature_tokenizer import RowTokenizer
from mmtab.model.heads import ClassScores, KWayHead, NumberHead, NumberScores


class RowModel(nn.Module):
    """Row -> tokens -> row vector -> one logit per class, or a number, which is added to that of the base.

    Before training the head adds next to nothing: the model is its base. In training a second head reads the same row
    vector and has to do without the base. What the base leaves open may be too little to find by itself: where a class
    hangs on two columns at once, fusion without this head learns noise instead (catalogue, valid: .76 for .92).

    tokenizer  rows to tokens
    fusion     tokens to row vectors
    head       row vectors to scores
    base       scores to begin from; None: the head's are all
    alone      the second head, with a base
    """

    def __init__(
        self,
        tokenizer: RowTokenizer,
        fusion: nn.Module,
        head: KWayHead | NumberHead,
        base: LinearBase | None = None,
        alone: KWayHead | NumberHead | None = None,
    ) -> None:
        super().__init__()
        self.tokenizer, self.fusion, self.head, self.base, self.alone = tokenizer, fusion, head, base, alone
        if base is not None:  # of 0 the layers below would learn nothing at first
            with torch.no_grad():
                for parameter in head.parameters():
                    parameter.mul_(0.01)

    def row_vectors(self, table: TensorTable) -> Float[Tensor, "b d"]:
        """What the head reads."""
        return self.fusion(self.tokenizer(table))

    def forward(self, batch: RowBatch) -> ClassScores | NumberScores:
        x = self.row_vectors(batch.table)
        scores = self.head(x)
        if self.base is None:
            return scores
        alone = self.alone(x) if self.training and self.alone is not None else None
        return scores.on(self.base(batch.table) if batch.base is None else batch.base, alone)
