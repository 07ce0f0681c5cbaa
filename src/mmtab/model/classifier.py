"""Rows to classes: tokenizer, fusion, head."""

from __future__ import annotations

from torch import nn

from mmtab.features.batches import KWayBatch
from mmtab.model.feature_tokenizer import RowTokenizer
from mmtab.model.heads import ClassScores, KWayHead


class Classifier(nn.Module):
    """Row -> tokens -> row vector -> one logit a class."""

    def __init__(self, tokenizer: RowTokenizer, fusion: nn.Module, head: KWayHead) -> None:
        super().__init__()
        self.tokenizer, self.fusion, self.head = tokenizer, fusion, head

    def forward(self, batch: KWayBatch) -> ClassScores:
        return self.head(self.fusion(self.tokenizer(batch.table)))
