"""Scored candidate pairs -> entities: one cluster number a record, and how good the clusters are.

A pair model judges two records at a time, and its calls need not agree: a = b and b = c, but not a = c.
``components`` believes every link. ``correlation`` weighs the links of a component against each other. ``unique`` gives
a record of two tables one partner at most. To all of them, ``known`` [n_pairs] says of which pairs the answer is known:
1 a match, 0 none, -1 unknown. Known matches share a cluster and known non-matches do not, as long as they do not
contradict each other.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heapify, heappop, heappush

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import min_weight_full_bipartite_matching
from scipy.special import logit

from mmtab.data import splits

ABSENT = 0.5  # see correlation()
LIMIT = 10.0  # log-odds; a score that has saturated (float32's sigmoid is 1 from 17 on) must not outvote all others
ROUNDS = 10  # of _settle at most; it mostly comes to rest sooner
CERTAIN = 1e6  # log-odds of what is known
EPSILON = 1e-9  # what a move must gain, so that rounding does not send a record back and forth


def components(
    n_records: int,
    left: np.ndarray,
    right: np.ndarray,
    probability: np.ndarray,
    threshold: float,
    known: np.ndarray | None = None,
) -> np.ndarray:
    """[n_records] int64 cluster numbers: what pairs of at least ``threshold`` connect. The control.

    ``left``, ``right`` [n_pairs] are record numbers, ``probability`` [n_pairs] is the pair model's. Clusters are
    numbered by their first record. Where a known non-match is connected, ``correlation`` says how the component falls
    apart.
    """
    given = left, right, probability, threshold
    left, right, probability = _checked(n_records, *given, known)
    link = probability >= threshold
    labels = splits.components(n_records, left[link], right[link])
    parted = np.unique(labels[left[(probability == 0) & (labels[left] == labels[right])]])
    if len(parted):
        labels = np.where(np.isin(labels, parted), n_records + correlation(n_records, *given, known=known), labels)
    return renumber(labels)


def correlation(
    n_records: int,
    left: np.ndarray,
    right: np.ndarray,
    probability: np.ndarray,
    threshold: float,
    absent: float = ABSENT,
    known: np.ndarray | None = None,
) -> np.ndarray:
    """[n_records] int64 cluster numbers: correlation clustering (Bansal, Blum and Chawla 2004).

    A pair weighs logit(probability) - logit(threshold), at most 10 either way; a pair that was no candidate weighs
    -``absent``. Inside each cluster of ``components`` the weight within clusters is maximised: by greedy contraction
    (GAEC, Keuper et al. 2015), then by moving single records. The result may not be the optimum, but never weighs less
    than the component as one cluster or as single records. A pair that comes twice, in either order, counts with its
    higher probability, as in ``components``; a record paired with itself is ignored.

    ``absent`` is the evidence that lies in blocking not proposing a pair. If blocking finds the share r of the matches
    and little else, the likelihood ratio is 1 - r: -1.6 in log-odds for r = 0.8. Its misses are correlated, though (an
    entity may be larger than k), and counted in full they would tear such entities apart, so the default is 0.5. At
    threshold 0.5 a record then joins a pair by one link of 0.63 or more, and two groups of three join by one of 0.983.
    Raise it where blocking finds nearly all matches and entities are small.
    """
    left, right, probability = _checked(n_records, left, right, probability, threshold, known)
    if not 0 < absent < np.inf:
        raise ValueError(f"absent is {absent}; it takes a number above 0")
    link = probability >= threshold
    whole = renumber(splits.components(n_records, left[link], right[link]))
    size = np.bincount(whole)

    # A component of one or two is decided, and a pair across components has no say
    doubtful = (size > 2)[whole]
    inside = np.flatnonzero((whole[left] == whole[right]) & (left != right) & doubtful[left])
    left, right, probability = _distinct(left[inside], right[inside], probability[inside])
    weight = np.clip(logit(probability) - logit(threshold), -LIMIT, LIMIT)
    weight = np.where(np.isin(probability, (0, 1)), CERTAIN * np.sign(weight), weight)
    # and so is one in which every pair is a link
    links = np.bincount(whole[left], weight >= 0, minlength=len(size))
    doubtful &= (links < size * (size - 1) / 2)[whole]
    inside = np.flatnonzero(doubtful[left])

    # From here on only the doubtful records, numbered among themselves. A cluster of s records holds the weight of its
    # pairs, each plus ``absent``, less ``absent`` for all s(s - 1)/2: no one needs to ask which pairs were scored.
    number = np.cumsum(doubtful) - 1
    left, right, weight = number[left[inside]], number[right[inside]], weight[inside] + absent
    start = _contract(int(doubtful.sum()), left, right, weight, absent)
    whole[doubtful] = len(size) + _settle(start, left, right, weight, absent)
    return renumber(whole)


def unique(
    n_records: int,
    n_left: int,
    left: np.ndarray,
    right: np.ndarray,
    probability: np.ndarray,
    threshold: float,
    known: np.ndarray | None = None,
) -> np.ndarray:
    """[n_records] int64 cluster numbers, of one record or of one on each side: those links that together weigh most,
    logit(probability) - logit(threshold), where each record has one at most (an assignment, Jonker and Volgenant 1987).

    Records below ``n_left`` are on the left. Raises ValueError for a pair within one side.
    """
    left, right, probability = _checked(n_records, left, right, probability, threshold, known)
    link, is_match = probability >= threshold, probability == 1
    taken = np.concatenate([left[is_match], right[is_match]])  # of which the one partner is known
    link &= is_match | ~(np.isin(left, taken) | np.isin(right, taken))
    low, high, probability = _distinct(left[link], right[link], probability[link])
    if bad := np.flatnonzero((low >= n_left) | (high < n_left)).tolist():
        raise ValueError(f"records {low[bad[0]]} and {high[bad[0]]} are on one side")
    labels = np.arange(n_records)
    if not len(low):
        return labels
    weight = np.clip(logit(probability) - logit(threshold), 0, LIMIT)
    rows, row = np.unique(low, return_inverse=True)
    columns, column = np.unique(high, return_inverse=True)
    # A place of its own for each record on the left, at the cost of no link. Costs are raised alike, for 0 is no edge
    n, spare = len(rows), np.arange(len(rows))
    cost = np.concatenate([LIMIT + 1 - weight, np.full(n, LIMIT + 1 + EPSILON)])
    edges = np.concatenate([row, spare]), np.concatenate([column, len(columns) + spare])
    chosen, partner = min_weight_full_bipartite_matching(coo_array((cost, edges), (n, len(columns) + n)).tocsr())
    linked = partner < len(columns)
    labels[columns[partner[linked]]] = rows[chosen[linked]]
    return renumber(labels)


METHODS: dict[str, Callable[..., np.ndarray]] = {"components": components, "correlation": correlation}


def renumber(labels: np.ndarray) -> np.ndarray:
    """[n] int64: the same clusters, numbered 0, 1, ... in the order of their first records."""
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    number = np.empty(len(first), np.int64)
    number[np.argsort(first)] = np.arange(len(first))
    return number[inverse]


def evaluate(labels: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """How ``labels`` [n] agree with the true clusters ``truth`` [n], whose -1 (unknown) is left out.

    ``pair_*`` counts pairs of records in one cluster, ``cluster_*`` clusters that are found exactly, ``bcubed_*``
    (Bagga and Baldwin 1998) asks of each record how much of its cluster is right, and averages. Precision is the share
    of what was found, recall of what is true; where neither holds a pair, pairs are perfect. ``n_clusters`` counts
    those of ``labels``, unknown records included. Without any known record the scores are NaN.
    """
    if labels.shape != truth.shape or labels.ndim != 1:
        raise ValueError(f"labels {labels.shape} and truth {truth.shape}: expected one number a record in both")
    if len(truth) and truth.min() < -1:
        raise ValueError(f"truth holds {truth.min()}; a cluster is a number from 0 on, or -1 where unknown")
    names, rates = ("pair", "cluster", "bcubed"), ("precision", "recall", "f1")
    values = {f"{name}_{rate}": float("nan") for name in names for rate in rates}
    values["n_clusters"] = float(len(np.unique(labels)))
    known = truth >= 0
    if not known.any():
        return values
    found, true = (np.unique(of[known], return_inverse=True)[1] for of in (labels, truth))
    found_size, true_size = np.bincount(found), np.bincount(true)
    # The contingency table without its empty cells: how many records each found and true cluster share
    cell, shared = np.unique(found * len(true_size) + true, return_counts=True)
    in_found, in_true = found_size[cell // len(true_size)], true_size[cell % len(true_size)]

    pairs, found_pairs, true_pairs = (int((size * (size - 1) // 2).sum()) for size in (shared, found_size, true_size))
    exact = int(np.count_nonzero((shared == in_found) & (shared == in_true)))
    scores = (
        (_share(pairs, found_pairs, true_pairs), _share(pairs, true_pairs, found_pairs)),
        (exact / len(found_size), exact / len(true_size)),
        (float((shared**2 / in_found).sum() / len(found)), float((shared**2 / in_true).sum() / len(found))),
    )
    for name, (precision, recall) in zip(names, scores, strict=True):
        f1 = 2 * precision * recall / max(precision + recall, 1e-12)
        values.update(zip((f"{name}_{rate}" for rate in rates), (precision, recall, f1), strict=True))
    return values


def _share(hits: int, of: int, other: int) -> float:
    """``hits / of``; where there are none, 1 if there are no others either."""
    return hits / of if of else float(other == 0)


def _checked(
    n_records: int,
    left: np.ndarray,
    right: np.ndarray,
    probability: np.ndarray,
    threshold: float,
    known: np.ndarray | None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The pairs as int64, int64 and float64, of which only those that are ``known`` have the probability 0 or 1;
    ValueError for what cannot be clustered."""
    if not 0 < threshold < 1:
        raise ValueError(f"the threshold is {threshold}; it takes a probability between 0 and 1")
    if not left.shape == right.shape == probability.shape or left.ndim != 1:
        raise ValueError(
            f"left {left.shape}, right {right.shape} and probability {probability.shape}: expected one number a pair"
        )
    for name, side in (("left", left), ("right", right)):
        if side.size and not np.issubdtype(side.dtype, np.integer):
            raise ValueError(f"{name} holds {side.dtype}; expected record numbers")
        if bad := np.flatnonzero((side < 0) | (side >= n_records)).tolist():
            raise ValueError(f"{name}[{bad[0]}] is {side[bad[0]]}, but there are {n_records} records, numbered from 0")
    if bad := np.flatnonzero(~((probability >= 0) & (probability <= 1))).tolist():  # NaN too
        raise ValueError(f"probability[{bad[0]}] is {probability[bad[0]]}; expected a number from 0 to 1")
    probability = np.clip(probability.astype(np.float64), np.finfo(float).tiny, 1 - np.finfo(float).epsneg)
    if known is not None:
        probability = np.where(known >= 0, known, probability)
    return left.astype(np.int64), right.astype(np.int64), probability


def _distinct(
    left: np.ndarray, right: np.ndarray, probability: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Each pair once, lower record first, with its highest probability; sorted, so that the order given has no say."""
    low, high = np.minimum(left, right), np.maximum(left, right)
    order = np.lexsort((-probability, high, low))
    low, high, probability = low[order], high[order], probability[order]
    new = (np.diff(low, prepend=-1) != 0) | (np.diff(high, prepend=-1) != 0)
    return low[new], high[new], probability[new]


def _contract(n: int, left: np.ndarray, right: np.ndarray, weight: np.ndarray, absent: float) -> np.ndarray:
    """[n] labels: join the two clusters that gain most, until none gain. Ties: the lower records first.

    A join moves the edges of the cluster that has fewer, and a gain that shrank because a cluster grew is noticed only
    when its turn comes, at most ``LIMIT / absent`` times an edge: neither a chain nor a hub makes the work quadratic.
    """
    edges = list(zip(left.tolist(), right.tolist(), weight.tolist(), strict=True))
    near: list[dict[int, float]] = [{} for _ in range(n)]  # what a cluster's records hold with each cluster it touches
    for a, b, w in edges:
        near[a][b] = near[b][a] = w
    size, into = [1] * n, list(range(n))
    heap = [(absent - w, a, b) for a, b, w in edges if w >= absent]
    heapify(heap)
    while heap:
        loss, a, b = heappop(heap)
        if b not in near[a]:  # one of them has gone into another
            continue
        now = absent * size[a] * size[b] - near[a][b]
        if now > loss:
            if now <= 0:
                heappush(heap, (now, a, b))
            continue
        if len(near[a]) < len(near[b]):
            a, b = b, a
        gone, near[b] = near[b], {}
        del near[a][b], gone[a]
        size[a] += size[b]
        into[b] = a
        for c, w in gone.items():
            del near[c][b]
            near[a][c] = near[c][a] = total = near[a].get(c, 0.0) + w
            now = absent * size[a] * size[c] - total
            if now <= 0:
                heappush(heap, (now, min(a, c), max(a, c)))
    return splits.components(n, np.arange(n), np.array(into, np.int64))


def _settle(labels: np.ndarray, left: np.ndarray, right: np.ndarray, weight: np.ndarray, absent: float) -> np.ndarray:
    """[n] labels after single records moved to where they gain most, another cluster or alone, while any does."""
    n = len(labels)
    source = np.concatenate([left, right])
    order = np.argsort(source, kind="stable")
    start = np.searchsorted(source[order], np.arange(n + 1)).tolist()
    other = np.concatenate([right, left])[order].tolist()
    held = np.concatenate([weight, weight])[order].tolist()
    place, size = labels.tolist(), np.bincount(labels, minlength=n).tolist()
    free = [cluster for cluster in range(n) if size[cluster] == 0]
    for _ in range(ROUNDS):
        moved = False
        for record in range(n):
            pull: dict[int, float] = {}
            for at in range(start[record], start[record + 1]):
                cluster = place[other[at]]
                pull[cluster] = pull.get(cluster, 0.0) + held[at]
            here = place[record]
            stay = pull.pop(here, 0.0) - absent * (size[here] - 1)
            best, there = max(((w - absent * size[c], -c) for c, w in pull.items()), default=(-np.inf, 0))
            if max(best, 0.0) <= stay + EPSILON:
                continue
            size[here] -= 1
            if size[here] == 0:
                free.append(here)
            place[record] = -there if best >= 0 else free.pop()
            size[place[record]] += 1
            moved = True
        if not moved:
            break
    return np.array(place, np.int64)
