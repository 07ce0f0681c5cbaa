"""The parts put together: tokenizer, fusion, head. K-way and matching share everything up to the row vector."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from mmtab.features.batches import KWayBatch, PairBatch, Rows, TensorTable, TextBatch, Tokens
from mmtab.model.encoders.numeric import PiecewiseLinear
from mmtab.model.encoders.text import TextEncoder
from mmtab.model.feature_tokenizer import RowTokenizer
from mmtab.model.heads import ClassScores, JointPairHead, KWayHead, PairHead


@dataclass
class Scores:
    """What a pair model makes of a batch. ``loss`` is added to the task's in training."""

    logits: Float[Tensor, "b k"]
    loss: Float[Tensor, ""] | None = None


class KWayModel(nn.Module):
    """Row -> tokens -> row vector -> one logit a class."""

    def __init__(self, tokenizer: RowTokenizer, fusion: nn.Module, head: KWayHead) -> None:
        super().__init__()
        self.tokenizer, self.fusion, self.head = tokenizer, fusion, head

    def forward(self, batch: KWayBatch) -> ClassScores:
        return self.head(self.fusion(self.tokenizer(batch.table)))


class PairModel(nn.Module):
    """Two rows to one logit a relation, the same from either side to the last bit.

    A configuration leaves out the parts that it gives as None or false.

    ``towers``: each row becomes a vector on its own, trained to lie near those of its matches (InfoNCE, van den Oord et al.
    2018, over the rows of the batch) with ``contrast_weight`` and ``temperature``; blocking searches among them. ``tower``
    compares the two vectors; beside ``joint`` their comparison is a token instead.

    ``joint``: the fusion transformer reads, for each token place of a row, one token made of the sum, distance and product
    of the two rows' tokens, none of which knows left from right. Beside them it reads those of the towers, of ``cross``,
    which has both rows' text in one sequence (Ditto, Li et al. 2020; the batch decides which row comes first, by content),
    and of ``comparison``.

    ``comparison``: hand-made features, whose encoder also gives logits of its own, which are added. In training one of the
    two sets of logits is left out with probability ``branch_dropout``, so that neither leans on the other.
    ``owners`` names the column of each token place of a row. ``reads`` says which places each relation may look at,
    ``compares`` the same of comparison groups: relations that read alike share one pass.
    """

    reads: Tensor
    compares: Tensor

    def __init__(
        self,
        tokenizer: RowTokenizer,
        fusion: nn.Module,
        d_model: int,
        owners: Sequence[str],
        reads: Sequence[Sequence[bool]],
        compares: Sequence[Sequence[bool]] = (),
        towers: bool = False,
        tower: PairHead | None = None,
        joint: JointPairHead | None = None,
        cross: TextEncoder | None = None,
        comparison: ComparisonEncoder | None = None,
        branch_dropout: float = 0.3,
        contrast_weight: float = 0.1,
        temperature: float = 0.1,
    ) -> None:
        super().__init__()
        self.tokenizer, self.fusion, self.towers, self.tower, self.joint = tokenizer, fusion, towers, tower, joint
        self.cross, self.comparison, self.owners = cross, comparison, tuple(owners)
        self.branch_dropout, self.contrast_weight, self.temperature = branch_dropout, contrast_weight, temperature
        self.register_buffer("reads", torch.tensor([list(r) for r in reads], dtype=torch.bool), persistent=False)
        self.register_buffer("compares", torch.tensor([list(c) for c in compares], dtype=torch.bool), persistent=False)
        self.views: dict[tuple[tuple[bool, ...], tuple[bool, ...]], list[int]] = {}  # relations by what they read
        for r, read in enumerate(reads):
            self.views.setdefault((tuple(read), tuple(compares[r] if compares else ())), []).append(r)
        if towers:
            self.to_vector = nn.Linear(d_model, d_model)
        if joint is not None:
            self.meet = _meeting(d_model)
            if towers:
                self.meet_rows = _meeting(d_model)
            self.place = nn.Parameter(torch.randn(tokenizer.n_tokens, d_model) * 0.1)
        if cross is not None:
            self.cross_norm = nn.LayerNorm(d_model)
            self.cross_place = nn.Parameter(torch.randn(2 * cross.n_columns, d_model) * 0.1)

    def forward(self, batch: PairBatch) -> Scores:
        rows = self.rows(batch.table) if batch.rows is None else batch.rows
        logits = self.score(rows[batch.left], rows[batch.right], batch.comparison, batch.cross)
        learns = self.training and rows.vector is not None and self.contrast_weight > 0
        return Scores(logits, self.contrast_weight * self._contrast(rows, batch) if learns else None)

    def rows(self, table: TensorTable) -> Rows:
        """Everything about rows that no other row has a say in."""
        return self.summarise(self.tokenizer(table))

    def summarise(self, tokens: Tokens, hidden: Bool[Tensor, " t"] | None = None) -> Rows:
        """The rows of these tokens. ``hidden``: token places that the tower does not look at."""
        if not self.towers:
            return Rows(tokens)
        # Of what some relation ignores the vector knows nothing, or else blocking would miss its matches.
        seen = self.reads.all(0)
        mask = tokens.mask if hidden is None else tokens.mask & ~hidden
        summary = self.fusion(Tokens(tokens.x[:, seen], mask[:, seen]))
        return Rows(tokens, summary, F.normalize(self.to_vector(summary).float(), dim=-1))

    def score(
        self,
        left: Rows,
        right: Rows,
        comparison: Float[Tensor, "b f"] | None = None,
        cross: TextBatch | None = None,
        hidden: Bool[Tensor, " t"] | None = None,
    ) -> Float[Tensor, "b r"]:
        """Logits of pairs. ``hidden``: token places to leave out of the joint view."""
        ways = []
        beside: list[Tokens] = []
        if self.comparison is not None and comparison is not None:
            beside, direct = self._compare(comparison)
            ways.append(direct)
        if self.joint is not None:
            ways.insert(0, self._joint(left, right, beside, cross, hidden))
        elif self.tower is not None:
            assert left.summary is not None and right.summary is not None
            ways.insert(0, self.tower(left.summary, right.summary))
        if len(ways) == 1 or not self.training or self.branch_dropout == 0:
            return torch.stack(ways).sum(0)
        draw = torch.rand(len(ways[0]), 1, device=ways[0].device) * len(ways) / self.branch_dropout
        return torch.stack([way * (draw.floor() != i) for i, way in enumerate(ways)]).sum(0)

    def _joint(
        self,
        left: Rows,
        right: Rows,
        beside: list[Tokens],
        cross: TextBatch | None,
        hidden: Bool[Tensor, " t"] | None,
    ) -> Float[Tensor, "b r"]:
        assert self.joint is not None
        met = self.meet(_contrast(left.tokens.x, right.tokens.x)) + self.place
        mask = left.tokens.mask & right.tokens.mask
        if hidden is not None:
            mask = mask & ~hidden
        also, n = [], len(met)
        if left.summary is not None and right.summary is not None:
            x = self.meet_rows(_contrast(left.summary, right.summary))[:, None]
            also.append(Tokens(x, torch.ones(n, 1, dtype=torch.bool, device=x.device)))
        if self.cross is not None and cross is not None:
            cells = self.cross(TensorTable(2 * n, text=cross))
            x = torch.cat(self.cross_norm(cells.x.float()).split(n), 1) + self.cross_place
            also.append(Tokens(x, torch.cat(cells.mask.split(n), 1)))
        logits = met.new_zeros(n, len(self.reads))
        for i, ((reads, _), relations) in enumerate(self.views.items()):
            seen = slice(None) if all(reads) else torch.tensor(reads, device=mask.device)
            parts = [Tokens(met[:, seen], mask[:, seen]), *also, *(beside[i : i + 1])]
            logits[:, relations] = self.joint(self.fusion(Tokens.concat(*parts)))[:, relations].to(logits.dtype)
        return logits

    def _compare(self, features: Float[Tensor, "b f"]) -> tuple[list[Tokens], Float[Tensor, "b r"]]:
        """Tokens for each group of relations that read alike, and the logits."""
        assert self.comparison is not None
        logits = features.new_zeros(len(features), len(self.reads))
        tokens = []
        for (_, compares), relations in self.views.items():
            token, direct = self.comparison(features, torch.tensor(compares, device=features.device))
            tokens.append(token)
            logits[:, relations] = direct[:, relations].to(logits.dtype)
        return tokens, logits

    def _contrast(self, rows: Rows, batch: PairBatch) -> Float[Tensor, ""]:
        """Each row of a match should be nearest its partner among all rows of the batch; its other partners do not
        count."""
        assert rows.vector is not None
        match = (batch.label == 1).any(1)
        left, right = batch.left[match], batch.right[match]
        if len(left) == 0:
            return rows.vector.sum() * 0
        n = len(rows.vector)
        partners = torch.eye(n, dtype=torch.bool, device=left.device)
        partners[left, right] = True
        partners[right, left] = True
        anchor, partner = torch.cat([left, right]), torch.cat([right, left])
        near = rows.vector[anchor] @ rows.vector.T / self.temperature
        others = partners[anchor].scatter(1, partner[:, None], False)
        return F.cross_entropy(near.masked_fill(others, -torch.inf), partner)


def _contrast(a: Float[Tensor, "... d"], b: Float[Tensor, "... d"]) -> Float[Tensor, "... d3"]:
    """Sum, distance and product: together they tell two vectors from two others, but not which of them is which."""
    return torch.cat([a + b, (a - b).abs(), a * b], -1)


def _meeting(d_model: int) -> nn.Sequential:
    """A contrast to a token."""
    return nn.Sequential(nn.Linear(3 * d_model, d_model), nn.GELU(), nn.Linear(d_model, d_model), nn.LayerNorm(d_model))


class ComparisonEncoder(nn.Module):
    """Comparison features (scaled by rank, NaN for missing) as one token a column, and as logits of their own.

    ``groups``: how many features each column has.
    """

    member: Tensor
    owner: Tensor

    def __init__(
        self,
        groups: list[int],
        d_model: int,
        n_relations: int = 1,
        n_bins: int = 8,
        d_hidden: int = 128,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        n = sum(groups)
        self.embed = PiecewiseLinear(n, d_model, n_bins)
        self.missing = nn.Parameter(torch.randn(n, d_model) * 0.02)
        column = torch.arange(len(groups)).repeat_interleave(torch.tensor(groups))
        member = (column == torch.arange(len(groups))[:, None]).float()
        self.register_buffer("owner", column, persistent=False)
        self.register_buffer("member", member / member.sum(1, keepdim=True).sqrt(), persistent=False)
        self.column = nn.Parameter(torch.randn(len(groups), d_model) * 0.1)
        self.norm = nn.LayerNorm(d_model)
        self.direct = nn.Sequential(
            nn.Dropout(dropout),
            nn.Linear(n * (n_bins + 1), d_hidden),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(d_hidden, n_relations),
        )

    def forward(self, features: Float[Tensor, "b f"], reads: Bool[Tensor, " g"]) -> tuple[Tokens, Float[Tensor, "b r"]]:
        """``reads``: the groups to look at; the others' tokens are absent and their features zero."""
        absent = features.isnan()
        filled = self.embed.fill(features.nan_to_num(0.0)) * ~absent[..., None]
        x = torch.where(absent[..., None], self.missing, self.embed.combine(filled))
        x = self.norm(torch.relu(torch.einsum("bfd,gf->bgd", x, self.member))) + self.column
        inputs = torch.cat([filled, absent[..., None].to(filled.dtype)], -1) * reads[self.owner][:, None]
        x = x[:, reads]
        return Tokens(x, torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)), self.direct(inputs.flatten(1))
