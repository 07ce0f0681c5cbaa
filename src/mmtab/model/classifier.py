"""Rows to classes: base, tokenizer, fusion, head."""

from __future__ import annotations

from torch import nn

from mmtab.features.batches import KWayBatch
from mmtab.model.base import LinearBase
from mmtab.model.feature_tokenizer import RowTokenizer
from mmtab.model.heads import ClassScores, KWayHead


class Classifier(nn.Module):
    """Row -> tokens -> row vector -> one logit per class, which is added to that of the base.

    Before training the head adds next to nothing: the model is its base. ``base`` None: the head's logits are all.
    """

    def __init__(
        self, tokenizer: RowTokenizer, fusion: nn.Module, head: KWayHead, base: LinearBase | None = None
    ) -> None:
        super().__init__()
        self.tokenizer, self.fusion, self.head, self.base = tokenizer, fusion, head, base
        if base is not None:
            head.start_small()

    def forward(self, batch: KWayBatch) -> ClassScores:
        scores = self.head(self.fusion(self.tokenizer(batch.table)))
        if self.base is None:
            return scores
        return scores.on(self.base(batch.table) if batch.base is None else batch.base)
