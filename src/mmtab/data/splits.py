"""Which rows are for training, choosing and testing. Seeded: the same rows and seed, the same splits on any machine."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

FRACTIONS = {"train": 0.7, "valid": 0.1, "test": 0.2}
N_STRATA = 10  # quantiles of a number that are divided alike


def assign(
    n: int,
    fractions: Mapping[str, float],
    seed: int,
    *,
    labels: np.ndarray | None = None,
    groups: np.ndarray | None = None,
    times: np.ndarray | None = None,
) -> np.ndarray:
    """[n] int8: the place in ``fractions`` of each row's split.

    By default at random. ``labels`` [n] (codes): each class is dealt out by itself, so that splits have the same
    balance, and a class of one row goes to the first split. ``groups`` [n] (codes): all rows of a group go to one
    split; with ``labels`` too, groups are placed so that the classes stay balanced. ``times`` [n]: the earliest rows
    go to the first split, rows of one moment are not parted.

    Raises ValueError for fractions that do not sum to one, and for more than the data can be divided into.
    """
    shares = np.array(list(fractions.values()), float)
    if (shares < 0).any() or not np.isclose(shares.sum(), 1):
        raise ValueError(f"the fractions {dict(fractions)} do not sum to 1")
    rng = np.random.default_rng(seed)
    if times is not None:
        if groups is not None or labels is not None:
            raise ValueError("a split by time is neither stratified nor grouped")
        return _by_time(times, shares)
    if groups is not None:
        return _by_group(groups, labels, shares, rng)
    out = np.zeros(n, np.int8)
    kinds = np.zeros(n, np.int64) if labels is None else labels
    order = rng.permutation(n)
    order = order[np.argsort(kinds[order], kind="stable")]
    starts = np.flatnonzero(np.diff(kinds[order], prepend=-1))
    owed = np.zeros(len(shares))  # what rounding kept from a split is made good with the next class
    for start, stop in zip(starts, [*starts[1:], n], strict=True):
        size = stop - start
        exact = shares * size
        counts = np.floor(exact).astype(int)
        owed += exact - counts
        for _ in range(size - counts.sum()):
            # The first split comes first: a class that training lacks cannot be learnt.
            chosen = 0 if counts[0] == 0 and shares[0] > 0 else int(np.argmax(np.where(shares > 0, owed, -np.inf)))
            counts[chosen] += 1
            owed[chosen] -= 1
        out[order[start:stop]] = np.repeat(np.arange(len(shares)), counts)
    return out


def strata(numbers: np.ndarray) -> np.ndarray:
    """[n] int64: the tenth of the numbers [n] in which each is, as ``labels`` of ``assign``."""
    n_strata = N_STRATA if len(numbers) >= 2 * N_STRATA else 1  # of one row all would go to train
    return np.searchsorted(np.quantile(numbers, np.linspace(0, 1, n_strata + 1)[1:-1]), numbers)


def _by_time(times: np.ndarray, shares: np.ndarray) -> np.ndarray:
    order = np.argsort(times, kind="stable")
    ranked = times[order]
    out = np.zeros(len(times), np.int8)
    for split, end in enumerate(np.cumsum(shares)[:-1], 1):
        cut = round(end * len(times))
        # Rows of the same moment belong together, on the later side: a model must not see the present
        cut = int(np.searchsorted(ranked, ranked[cut], "left")) if cut < len(times) else cut
        out[order[cut:]] = split
    return out


def _by_group(
    groups: np.ndarray, labels: np.ndarray | None, shares: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Greedy: the largest groups first, each to the split that then is nearest to its due in rows and in each class."""
    names, group, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    place = np.zeros(len(names), np.int8)
    shuffled = rng.permutation(len(names))
    order = shuffled[np.argsort(-sizes[shuffled], kind="stable")]
    if labels is None:
        room = shares * len(groups)
        for g in order:
            best = int(np.argmax(np.where(shares > 0, room, -np.inf)))
            place[g] = best
            room[best] -= sizes[g]
        return place[group]
    rows = np.argsort(group, kind="stable")
    starts = np.concatenate([[0], sizes.cumsum()])
    due = shares[:, None] * np.bincount(labels)[None, :]  # [splits, classes]
    room = due.astype(float)
    weight = 1 / np.maximum(np.bincount(labels), 1)  # a rare class counts as much as a common one
    for g in order:
        kinds, counts = np.unique(labels[rows[starts[g] : starts[g + 1]]], return_counts=True)
        # How much nearer to its due does the group bring a split: rows it still wants, less rows too many
        gain = (np.clip(room[:, kinds], -counts, counts) * weight[kinds]).sum(1)
        want = room.sum(1) / np.maximum(shares, 1e-9)
        best = max(np.flatnonzero(shares > 0).tolist(), key=lambda s: (gain[s], want[s]))
        place[g] = best
        room[best, kinds] -= counts
    return place[group]


def components(n: int, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """[n] int64: the number of each record's connected component, where pairs (``left``, ``right``) are the edges."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    edges = coo_array((np.ones(len(left), np.int8), (left, right)), shape=(n, n))
    return connected_components(edges, directed=False)[1].astype(np.int64)
