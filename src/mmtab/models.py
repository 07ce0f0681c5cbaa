"""The parts put together: tokenizer, fusion, head. K-way and matching share everything up to the row vector."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mmtab.encoders.numeric import PiecewiseLinear
from mmtab.heads import JointPairHead, KWayHead, PairHead
from mmtab.row_tokenizer import RowTokenizer
from mmtab.tensors import KWayBatch, PairBatch, Tokens


class KWayModel(nn.Module):
    """Row -> tokens -> row vector -> one logit a class."""

    def __init__(self, tokenizer: RowTokenizer, fusion: nn.Module, head: KWayHead) -> None:
        super().__init__()
        self.tokenizer, self.fusion, self.head = tokenizer, fusion, head

    def forward(self, batch: KWayBatch) -> Float[Tensor, "b k"]:
        return self.head(self.fusion(self.tokenizer(batch.table)))


class TwoTowerModel(nn.Module):
    """Each row to a vector on its own; the two vectors compared. Every row is encoded once, however many pairs it is in."""

    def __init__(self, tokenizer: RowTokenizer, fusion: nn.Module, head: PairHead) -> None:
        super().__init__()
        self.tokenizer, self.fusion, self.head = tokenizer, fusion, head

    def forward(self, batch: PairBatch) -> Float[Tensor, " b"]:
        rows = self.fusion(self.tokenizer(batch.table))
        return self.head(rows[batch.left], rows[batch.right])


class PairFusionModel(nn.Module):
    """The tokens of both rows, marked by side, and those of their comparison meet in one fusion transformer.

    ``shared``: the places of tokens whose column both sides have; each adds a token made of the distance and the
    product of the two. ``comparison`` reads hand-made features; what these decide by themselves is a logit of its own,
    added to that of fusion. In training one of the two logits is left out with probability ``branch_dropout``, so that
    neither leans on the other.

    The order of the two rows matters inside; a batch that carries its mirror image (``batch.mirror``) is scored from
    both sides and averaged, so that the score of (a, b) is the score of (b, a) to the last bit.
    """

    shared: Tensor

    def __init__(
        self,
        tokenizer: RowTokenizer,
        fusion: nn.Module,
        head: JointPairHead,
        d_model: int,
        shared: Sequence[int] = (),
        comparison: ComparisonEncoder | None = None,
        branch_dropout: float = 0.3,
    ) -> None:
        super().__init__()
        self.tokenizer, self.fusion, self.head, self.comparison = tokenizer, fusion, head, comparison
        self.branch_dropout = branch_dropout
        self.side = nn.Parameter(torch.randn(2, d_model) * 0.1)
        self.register_buffer("shared", torch.tensor(list(shared), dtype=torch.long), persistent=False)
        self.contrast = nn.Sequential(
            nn.Linear(2 * d_model, d_model), nn.GELU(), nn.Linear(d_model, d_model), nn.LayerNorm(d_model)
        )
        self.place = nn.Parameter(torch.randn(len(shared), d_model) * 0.1)

    def forward(self, batch: PairBatch) -> Float[Tensor, " b"]:
        logits = self._one_way(batch)
        if batch.mirror is None:
            return logits
        return (logits + self._one_way(batch.mirror)) / 2

    def _one_way(self, batch: PairBatch) -> Float[Tensor, " b"]:
        rows = self.tokenizer(batch.table)
        left, right = rows[batch.left], rows[batch.right]
        parts = [Tokens(left.x + self.side[0], left.mask), Tokens(right.x + self.side[1], right.mask)]
        if len(self.shared):
            a, b = left.x[:, self.shared], right.x[:, self.shared]
            contrast = self.contrast(torch.cat([(a - b).abs(), a * b], -1)) + self.place
            parts.append(Tokens(contrast, left.mask[:, self.shared] & right.mask[:, self.shared]))
        if self.comparison is None or batch.comparison is None:
            return self.head(self.fusion(Tokens.concat(*parts)))
        tokens, direct = self.comparison(batch.comparison)
        fused = self.head(self.fusion(Tokens.concat(*parts, tokens)))
        if not self.training or self.branch_dropout == 0:
            return fused + direct
        draw = torch.rand(len(fused), device=fused.device)
        return fused * (draw >= self.branch_dropout / 2) + direct * (draw < 1 - self.branch_dropout / 2)


class ComparisonEncoder(nn.Module):
    """Comparison features (scaled by rank, NaN for missing) as one token a column, and as a logit of their own.

    ``groups``: how many features each column has.
    """

    def __init__(
        self, groups: list[int], d_model: int, n_bins: int = 8, d_hidden: int = 128, dropout: float = 0.1
    ) -> None:
        super().__init__()
        n = sum(groups)
        self.embed = PiecewiseLinear(n, d_model, n_bins)
        self.missing = nn.Parameter(torch.randn(n, d_model) * 0.02)
        column = torch.arange(len(groups)).repeat_interleave(torch.tensor(groups))
        member = (column == torch.arange(len(groups))[:, None]).float()
        self.register_buffer("member", member / member.sum(1, keepdim=True).sqrt(), persistent=False)
        self.column = nn.Parameter(torch.randn(len(groups), d_model) * 0.1)
        self.norm = nn.LayerNorm(d_model)
        self.direct = nn.Sequential(
            nn.Dropout(dropout),
            nn.Linear(n * (n_bins + 1), d_hidden),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(d_hidden, 1),
        )

    def forward(self, features: Float[Tensor, "b f"]) -> tuple[Tokens, Float[Tensor, " b"]]:
        absent = features.isnan()
        filled = self.embed.fill(features.nan_to_num(0.0)) * ~absent[..., None]
        x = torch.where(absent[..., None], self.missing, self.embed.combine(filled))
        x = self.norm(torch.relu(torch.einsum("bfd,gf->bgd", x, self.member))) + self.column
        direct = self.direct(torch.cat([filled, absent[..., None].to(filled.dtype)], -1).flatten(1))
        return Tokens(x, torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)), direct.squeeze(-1)
