"""Hard negatives: pairs of training records that lie near each other and do not match."""

from __future__ import annotations

import numpy as np

from mmtab.data.splits import components
from mmtab.utils.neighbours import Index


def hard_negatives(
    vectors: np.ndarray, left: np.ndarray, right: np.ndarray, match: np.ndarray, k: int = 8
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Candidates among the records of the training pairs, and of no others: for each left record whose match is known, its
    ``k`` nearest right ones that are neither its match, nor tied to it by a chain of matches, nor paired with it already.

    A record whose match nobody told may have it among its neighbours, so it gets none (and ``passes`` drops what the
    model takes for a likelier match than the known one). ``vectors`` [n_records, d] of length 1; ``match`` [n_pairs] bool.

    Returns left and right row numbers of the candidates, and for each the place of its anchor's match in the pairs.
    """
    entity = components(len(vectors), left[match], right[match])
    known = np.flatnonzero(match)
    anchors, first = np.unique(left[known], return_index=True)
    others = np.unique(right)
    if not len(anchors) or not len(others):
        return tuple(np.zeros(0, np.int64) for _ in range(3))  # type: ignore[return-value]
    found, _ = Index(vectors[others]).search(vectors[anchors], k)
    a = np.repeat(anchors, found.shape[1])
    b = np.where(found.ravel() >= 0, others[found.ravel()], -1)
    n = len(vectors)
    paired = np.concatenate([left * n + right, right * n + left])
    fits = (b >= 0) & (a != b) & (entity[a] != entity[b]) & ~np.isin(a * n + b, paired)
    return a[fits], b[fits], np.repeat(known[first], found.shape[1])[fits]


def passes(candidate: np.ndarray, known: np.ndarray, share: float = 0.95) -> np.ndarray:
    """[n] bool: candidates that the model scores below ``share`` of their anchor's match; one above may be a match that the
    labels lack (Moreira et al. 2024, "NV-Retriever": positive-aware mining). Probabilities [n]."""
    return candidate < share * known
