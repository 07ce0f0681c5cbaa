"""Rows to scores, of classes or of a number: base, tokenizer, fusion, head."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mmtab.features.batches import RowBatch, TensorTable
from mmtab.model.base import LinearBase
from mmtab.model.feature_tokenizer import RowTokenizer
from mmtab.model.heads import ClassScores, KWayHead, NumberHead, NumberScores
from mmtab.model.sharing import borrow


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
    others     further models without a base, whose scores are averaged with these (deep ensembles, Lakshminarayanan et
               al. 2017); each learns by itself, but what they share with this one (pretrained networks) is one
    """

    def __init__(
        self,
        tokenizer: RowTokenizer,
        fusion: nn.Module,
        head: KWayHead | NumberHead,
        base: LinearBase | None = None,
        alone: KWayHead | NumberHead | None = None,
        others: Sequence[RowModel] = (),
    ) -> None:
        super().__init__()
        self.tokenizer, self.fusion, self.head, self.base, self.alone = tokenizer, fusion, head, base, alone
        borrow(others, [tokenizer])
        self.others: Any = nn.ModuleList(others)
        if base is not None:  # of 0 the layers below would learn nothing at first
            with torch.no_grad():
                for parameter in itertools.chain(*(model.head.parameters() for model in (self, *others))):
                    parameter.mul_(0.01)

    def row_vectors(self, table: TensorTable) -> Float[Tensor, "b d"]:
        """What the head reads, of several models end to end."""
        return torch.cat([model.fusion(model.tokenizer(table)) for model in (self, *self.others)], 1)

    def forward(self, batch: RowBatch) -> ClassScores | NumberScores:
        models = [self, *self.others]
        x = [model.fusion(model.tokenizer(batch.table)) for model in models]
        each = [model.head(vectors) for model, vectors in zip(models, x, strict=True)]
        if not self.training:  # before the base, which is theirs in common
            each = [type(each[0]).mean(each)] if self.others else each
        if self.base is not None:
            base = self.base(batch.table) if batch.base is None else batch.base
            alone = [model.alone if self.training else None for model in models]
            each = [s.on(base, None if a is None else a(v)) for s, a, v in zip(each, alone, x, strict=False)]
        return replace(each[0], others=each[1:])
