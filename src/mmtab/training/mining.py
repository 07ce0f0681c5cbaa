"""The vectors of single rows while a pair model trains, and hard negatives: training records that lie near each other
and do not match."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from mmtab.data.splits import components
from mmtab.features.batches import Rows
from mmtab.features.encoded import EncodedTable
from mmtab.features.loader import PairBatches
from mmtab.training.compute import Compute
from mmtab.training.tasks import PairTask
from mmtab.utils.neighbours import Index

ROWS_IN_MEMORY = 1 << 30  # bytes
SCORED_AT_ONCE = 256  # pairs


@dataclass(frozen=True)
class RowEncoder:
    """What a pair model makes of each row on its own, ``batch_size`` rows at a time."""

    model: nn.Module
    compute: Compute
    batch_size: int

    def vectors(self, table: EncodedTable) -> np.ndarray:
        """[n, d] float32: the bi-encoder's vectors of all rows, of length 1."""
        numbers, vectors = [], []
        with self.compute.evaluating(self.model):
            for batch, rows in self._batches(table, np.arange(table.n_rows)):  # whose tokens are not kept
                assert rows.vector is not None
                numbers.append(batch)
                vectors.append(rows.vector.float().numpy())
        return np.concatenate(vectors)[np.argsort(np.concatenate(numbers))]

    def encode_rows(self, batches: PairBatches) -> None:
        """Encode each row of the pairs once instead of in each batch that it occurs in. Rows that would take more than
        ``ROWS_IN_MEMORY`` bytes are left to the batches."""
        batches.use_encoded(None)
        rows = np.unique(np.concatenate([batches.left, batches.right]))
        model: Any = self.model
        tokens = model.tokenizer.column
        if len(rows) * tokens.numel() * tokens.element_size() * len(model.models) > ROWS_IN_MEMORY:
            return
        place = np.full(batches.table.n_rows, -1)
        with self.compute.evaluating(self.model):
            parts = list(self._batches(batches.table, rows))
        place[np.concatenate([numbers for numbers, _ in parts])] = np.arange(len(rows))
        batches.use_encoded(Rows.concat([encoded for _, encoded in parts]), place)

    def _batches(self, table: EncodedTable, rows: np.ndarray) -> Iterator[tuple[np.ndarray, Rows]]:
        """Row numbers and encoded rows, those of similar length together."""
        rows = rows[np.argsort(-table.text_lengths[rows], kind="stable")]
        for start in range(0, len(rows), self.batch_size):
            numbers = rows[start : start + self.batch_size]
            batch = table.rows(numbers).to(self.compute.device)
            yield numbers, self.model.rows(batch).to("cpu")  # type: ignore[operator, union-attr]


@dataclass(frozen=True)
class HardNegativeMiner:
    """Fills the places for mined non-matches in ``batches`` with pairs that the model confuses now.

    ``compare``: similarity features [n, f] of pairs, given left and right row numbers [n]; None where there are none.
    """

    batches: PairBatches
    rows: RowEncoder
    task: PairTask
    compare: Callable[[np.ndarray, np.ndarray], np.ndarray | None]

    def __call__(self) -> None:
        batches, table = self.batches, self.batches.table
        n = len(batches) - batches.n_mined
        left, right, match = batches.left[:n], batches.right[:n], (batches.labels[:n] == 1).any(1)
        a, b, matches = hard_negatives(self.rows.vectors(table), left, right, match)
        matches, anchor = np.unique(matches, return_inverse=True)
        pairs = np.concatenate([a, left[matches]]), np.concatenate([b, right[matches]])
        similarity = self.compare(*pairs)
        unlabelled = np.full((len(pairs[0]), batches.labels.shape[1]), -1)
        probability = self._score(PairBatches(table, *pairs, unlabelled, similarity)).max(1)
        fitting = np.flatnonzero(passes(probability[: len(a)], probability[len(a) :][anchor]))
        hardest = fitting[np.argsort(-probability[fitting], kind="stable")][: batches.n_mined]
        batches.mined(a[hardest], b[hardest], None if similarity is None else similarity[hardest])

    def _score(self, pairs: PairBatches) -> np.ndarray:
        """[n, r] probability of a match."""
        starts = range(0, len(pairs), SCORED_AT_ONCE)
        batches = [pairs.__getitems__(list(range(i, min(i + SCORED_AT_ONCE, len(pairs))))) for i in starts]
        model, compute = self.rows.model, self.rows.compute
        with compute.evaluating(model):
            logits = [model(batch.to(compute.device)).logits.float().cpu().numpy() for batch in batches]
        return self.task.probabilities(np.concatenate([np.zeros((0, pairs.labels.shape[1]), np.float32), *logits]))


def hard_negatives(
    vectors: np.ndarray, left: np.ndarray, right: np.ndarray, match: np.ndarray, k: int = 8
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Candidates among the records of the training pairs: for each left record whose match is known, its ``k`` nearest
    right records that are neither its match, nor tied to it by a chain of matches, nor paired with it already.

    A record without a known match may have it among its neighbours and gets no candidates; ``passes`` drops those that
    the model scores higher than the known match. ``vectors`` [n_records, d] of length 1; ``match`` [n_pairs] bool.

    Returns left and right row numbers of the candidates, and for each the place of its anchor's match in the pairs.
    """
    entity = components(len(vectors), left[match], right[match])
    matches = np.flatnonzero(match)
    anchors, first = np.unique(left[matches], return_index=True)
    others = np.unique(right)
    if not len(anchors) or not len(others):
        return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.int64)
    neighbours, _ = Index(vectors[others]).search(vectors[anchors], k)
    a = np.repeat(anchors, neighbours.shape[1])
    b = np.where(neighbours.ravel() >= 0, others[neighbours.ravel()], -1)
    n = len(vectors)
    paired = np.concatenate([left * n + right, right * n + left])
    fits = (b >= 0) & (a != b) & (entity[a] != entity[b]) & ~np.isin(a * n + b, paired)
    return a[fits], b[fits], np.repeat(matches[first], neighbours.shape[1])[fits]


def passes(candidate: np.ndarray, match: np.ndarray, share: float = 0.95) -> np.ndarray:
    """[n] bool: candidates that the model scores below ``share`` of their anchor's match; one above may be a match that
    the labels lack (Moreira et al. 2024, "NV-Retriever": positive-aware mining). Probabilities [n]."""
    return candidate < share * match
