"""Pairs of rows to logits. Everything up to the row vector is as in classification."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from mmtab.features.batches import PairBatch, Rows, TensorTable, TextBatch, Tokens
from mmtab.model.encoders import ColumnEncoder
from mmtab.model.encoders.similarity import SimilarityEncoder
from mmtab.model.feature_tokenizer import RowTokenizer
from mmtab.model.heads import JointPairHead, PairHead, symmetric
from mmtab.model.sharing import borrow
from mmtab.model.towers import SearchTowers
from mmtab.model.trees import BoostedTrees


@dataclass
class PairScores:
    """What a matcher makes of a batch. In training, ``loss`` is added to the task's, and ``others`` are those of
    further models, each of which learns by itself."""

    logits: Float[Tensor, "b r"]
    loss: Float[Tensor, ""] | None = None
    others: Sequence[PairScores] = ()


@dataclass(frozen=True)
class RelationViews:
    """What each relation may look at. Relations that look at the same share one pass.

    owners    [t] the column of each token place of a row
    reads     [r, t] the token places that a relation reads
    compares  [r, g] the groups of similarity features that it reads; empty where there are none
    """

    owners: tuple[str, ...]
    reads: Sequence[Sequence[bool]]
    compares: Sequence[Sequence[bool]] = ()

    def groups(self) -> dict[tuple[tuple[bool, ...], tuple[bool, ...]], list[int]]:
        """Relations by what they read and compare."""
        groups: dict[tuple[tuple[bool, ...], tuple[bool, ...]], list[int]] = {}
        for r, read in enumerate(self.reads):
            compares = tuple(self.compares[r]) if self.compares else ()
            groups.setdefault((tuple(read), compares), []).append(r)
        return groups


@dataclass(frozen=True)
class MatcherParts:
    """The ways in which a matcher looks at a pair; None for those it does without.

    tower       bi-encoder: compares the two row vectors; beside ``joint`` that is a token instead
    joint       token fusion: reads the vector of a pair whose rows' tokens met in the fusion transformer
    cross       cross-encoder: tokens of both rows' text, read in one sequence (Ditto, Li et al. 2020); needs ``joint``
    similarity  similarity features, as tokens for ``joint`` and as logits of their own
    base        logits of the similarity features, fitted before all others learn
    search      what blocking searches, apart from the scores; None: the vectors of the bi-encoder
    """

    tower: PairHead | None = None
    joint: JointPairHead | None = None
    cross: ColumnEncoder | None = None
    similarity: SimilarityEncoder | None = None
    base: BoostedTrees | None = None
    search: SearchTowers | None = None


class Matcher(nn.Module):
    """Two rows to one logit a relation, the same from either side to the last bit.

    Token fusion reads, for each token place of a row, one token made of the sum, distance and product of the two rows'
    tokens, none of which tells left from right. Beside them it reads that of the row vectors, those of the
    cross-encoder (whose batch decides by content which row comes first) and those of the similarity features.

    With a base, a prediction is the mean of its logits and of the others', weighted by ``BoostedTrees.weight``. The
    others learn by themselves: trained to complete the base, they fit what it leaves open of train, not of valid
    (amazon_google, area under the precision-recall curve on valid: .742, with half of it .765, by the mean .771, and
    .732 by the base alone).

    tokenizer        rows to tokens
    fusion           tokens to a vector: of a row, and of a pair
    d_model          width of tokens and vectors
    relations        what each relation may look at
    parts            the ways of looking at a pair
    towers           whether each row becomes a vector on its own, trained to lie near those of its matches (InfoNCE,
                     van den Oord et al. 2018, over the rows of the batch); blocking searches among these
    branch_dropout   in training, the probability that one of the two sets of logits (similarity features', and the
                     others') is left out, so that neither leans on the other
    contrast_weight  weight of InfoNCE in the loss
    temperature      of InfoNCE
    others           further matchers, whose logits are averaged with these (deep ensembles, Lakshminarayanan et al.
                     2017); each learns by itself, but pretrained networks and the base are one. Tokens, summary and
                     vector of a row are then those of all of them, side by side
    """

    reads: Tensor

    def __init__(
        self,
        tokenizer: RowTokenizer,
        fusion: nn.Module,
        d_model: int,
        relations: RelationViews,
        parts: MatcherParts,
        towers: bool = False,
        branch_dropout: float = 0.3,
        contrast_weight: float = 0.1,
        temperature: float = 0.1,
        others: Sequence[Matcher] = (),
    ) -> None:
        super().__init__()
        self.tokenizer, self.fusion, self.towers = tokenizer, fusion, towers
        self.tower, self.joint, self.cross, self.comparison = parts.tower, parts.joint, parts.cross, parts.similarity
        self.base, self.search = parts.base, parts.search
        self.branch_dropout, self.contrast_weight, self.temperature = branch_dropout, contrast_weight, temperature
        self.owners, self.views = relations.owners, relations.groups()
        reads = torch.tensor([list(read) for read in relations.reads], dtype=torch.bool)
        self.register_buffer("reads", reads, persistent=False)
        self.read_by_all = np.flatnonzero(reads.all(0)).tolist()
        if towers:
            self.to_vector = nn.Linear(d_model, d_model)
        if self.joint is not None:
            self.meet = _symmetric_to_token(d_model)
            if towers:
                self.meet_rows = _symmetric_to_token(d_model)
            self.place = nn.Parameter(torch.randn(tokenizer.n_tokens, d_model) * 0.1)
        if self.cross is not None:
            self.cross_norm = nn.LayerNorm(d_model)
            n_tokens = 2 * self.cross.n_columns * self.cross.tokens_per_column
            self.cross_place = nn.Parameter(torch.randn(n_tokens, d_model) * 0.1)
        borrow(others, [tokenizer, self.cross, self.base])
        self.others: Any = nn.ModuleList(others)

    @property
    def models(self) -> list[Matcher]:
        return [self, *self.others]

    def forward(self, batch: PairBatch) -> PairScores:
        rows = self.rows(batch.table) if batch.rows is None else batch.rows
        if not self.training:
            return PairScores(self.score(rows[batch.left], rows[batch.right], batch.similarity, batch.cross))
        each = [model._learn(own, batch) for model, own in zip(self.models, self._apart(rows), strict=True)]
        return replace(each[0], others=each[1:])

    def rows(self, table: TensorTable) -> Rows:
        """Everything about rows that does not depend on other rows."""
        return self.summarise(Tokens.concat(*(model.tokenizer(table) for model in self.models)))

    def summarise(self, tokens: Tokens, hidden: Bool[Tensor, " t"] | None = None) -> Rows:
        """The rows of these tokens. ``hidden``: token places that the row vector leaves out."""
        each = [m._summary(own.tokens, hidden) for m, own in zip(self.models, self._apart(Rows(tokens)), strict=True)]
        if not self.others:
            return each[0]
        vector = _side_by_side([own.vector for own in each])
        vector = None if vector is None else F.normalize(vector, dim=-1)
        return Rows(tokens, _side_by_side([own.summary for own in each]), vector)

    def _apart(self, rows: Rows) -> list[Rows]:
        """Those of each of the models."""
        n = len(self.models)
        if n == 1:
            return [rows]
        tokens = map(Tokens, rows.tokens.x.chunk(n, 1), rows.tokens.mask.chunk(n, 1))
        summaries = [None] * n if rows.summary is None else rows.summary.chunk(n, 1)
        vectors = [None] * n if rows.vector is None else [F.normalize(x, dim=-1) for x in rows.vector.chunk(n, 1)]
        return list(map(Rows, tokens, summaries, vectors))

    def _learn(self, rows: Rows, batch: PairBatch) -> PairScores:
        """In training, what this one of the models says."""
        logits = self._logits(rows[batch.left], rows[batch.right], batch.similarity, batch.cross)
        learns = rows.vector is not None and self.contrast_weight > 0
        return PairScores(logits, self.contrast_weight * self._info_nce(rows, batch) if learns else None)

    def _summary(self, tokens: Tokens, hidden: Bool[Tensor, " t"] | None) -> Rows:
        if not self.towers:
            return Rows(tokens)
        # The vector reads nothing that some relation ignores, or else blocking would miss its matches.
        mask = tokens.mask if hidden is None else tokens.mask & ~hidden
        summary = self.fusion(Tokens(tokens.x[:, self.read_by_all], mask[:, self.read_by_all]))
        return Rows(tokens, summary, F.normalize(self.to_vector(summary).float(), dim=-1))

    def vectors(
        self, table: TensorTable, rows: Rows | None = None, right: Bool[Tensor, " b"] | None = None
    ) -> Float[Tensor, "b d"] | None:
        """What is searched: the vectors of the search towers, else those of the bi-encoder; None without either.

        rows   of the table, where they are encoded already
        right  which of them are on the right side; None: they are all of one table
        """
        if self.search is not None:
            return self.search(table, right)
        return (rows or self.rows(table)).vector

    def score(
        self,
        left: Rows,
        right: Rows,
        similarity: Float[Tensor, "b f"] | None = None,
        cross: TextBatch | None = None,
        hidden: Bool[Tensor, " t"] | None = None,
    ) -> Float[Tensor, "b r"]:
        """Logits of pairs.

        left, right  the rows of each pair
        similarity   its similarity features, scaled
        cross        both rows' text in one sequence a pair
        hidden       token places that token fusion leaves out
        """
        sides = zip(self._apart(left), self._apart(right), strict=True)
        each = [m._logits(*rows, similarity, cross, hidden) for m, rows in zip(self.models, sides, strict=True)]
        return torch.stack(each).mean(0) if self.others else each[0]

    def _logits(
        self,
        left: Rows,
        right: Rows,
        similarity: Float[Tensor, "b f"] | None = None,
        cross: TextBatch | None = None,
        hidden: Bool[Tensor, " t"] | None = None,
    ) -> Float[Tensor, "b r"]:
        """Those of this one of the models."""
        branches: list[Tensor] = []
        similarity_tokens: list[Tokens] = []
        if self.comparison is not None and similarity is not None:
            similarity_tokens, direct = self._compare(similarity)
            branches.append(direct)
        if self.joint is not None:
            branches.insert(0, self._fuse(left, right, similarity_tokens, cross, hidden))
        elif self.tower is not None:
            assert left.summary is not None and right.summary is not None
            branches.insert(0, self.tower(left.summary, right.summary))
        if self.base is not None and similarity is not None and not self.training:
            return torch.lerp(torch.stack(branches).sum(0).float(), self.base(similarity), self.base.weight)
        if len(branches) == 1 or not self.training or self.branch_dropout == 0:
            return torch.stack(branches).sum(0)
        draw = torch.rand(len(branches[0]), 1, device=branches[0].device) * len(branches) / self.branch_dropout
        return torch.stack([logits * (draw.floor() != i) for i, logits in enumerate(branches)]).sum(0)

    def _fuse(
        self,
        left: Rows,
        right: Rows,
        similarity_tokens: list[Tokens],
        cross: TextBatch | None,
        hidden: Bool[Tensor, " t"] | None,
    ) -> Float[Tensor, "b r"]:
        assert self.joint is not None
        met = self.meet(symmetric(left.tokens.x, right.tokens.x)) + self.place
        mask = left.tokens.mask & right.tokens.mask
        if hidden is not None:
            mask = mask & ~hidden
        further, n = [], met.shape[0]
        if left.summary is not None and right.summary is not None:
            x = self.meet_rows(symmetric(left.summary, right.summary))[:, None]
            further.append(Tokens(x, torch.ones(n, 1, dtype=torch.bool, device=x.device)))
        if self.cross is not None and cross is not None:
            cells = self.cross(TensorTable(2 * n, text=cross))
            x, present = self.cross_norm(cells.x.float()), cells.mask
            x = torch.cat([x[:n], x[n:]], 1) + self.cross_place
            further.append(Tokens(x, torch.cat([present[:n], present[n:]], 1)))
        logits = met.new_zeros(n, len(self.reads))
        for i, ((reads, _), relations) in enumerate(self.views.items()):
            places = slice(None) if all(reads) else np.flatnonzero(reads).tolist()
            tokens = [Tokens(met[:, places], mask[:, places]), *further, *similarity_tokens[i : i + 1]]
            logits[:, relations] = self.joint(self.fusion(Tokens.concat(*tokens)))[:, relations].to(logits.dtype)
        return logits

    def _compare(self, features: Float[Tensor, "b f"]) -> tuple[list[Tokens], Float[Tensor, "b r"]]:
        """Tokens for each group of relations that read alike, and the logits."""
        assert self.comparison is not None
        logits = features.new_zeros(features.shape[0], len(self.reads))
        tokens = []
        for (_, compares), relations in self.views.items():
            token, direct = self.comparison(features, compares)
            tokens.append(token)
            logits[:, relations] = direct[:, relations].to(logits.dtype)
        return tokens, logits

    def _info_nce(self, rows: Rows, batch: PairBatch) -> Float[Tensor, ""]:
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


def _side_by_side(parts: Sequence[Tensor | None]) -> Tensor | None:
    present = [x for x in parts if x is not None]
    return torch.cat(present, 1) if present else None


def _symmetric_to_token(d_model: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(3 * d_model, d_model), nn.GELU(), nn.Linear(d_model, d_model), nn.LayerNorm(d_model))
