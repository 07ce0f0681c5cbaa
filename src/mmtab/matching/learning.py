"""Matches that learn from labels; and how much F1 labels would bring, simulated from truth."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from mmtab.matching.clustering import METHODS, unique
from mmtab.matching.labels import Learned, learn
from mmtab.matching.result import Matches
from mmtab.matching.truth import f1_against, labels_by

SIZES = (0, 20, 40, 60, 120, 240)
SEEDS = tuple(range(6))
THRESHOLDS = tuple(np.linspace(0.1, 0.8, 15).round(2).tolist())


def clustered(matches: Matches, methods: Sequence[str]) -> Matches:
    """The matches with clusters by methods of ``matching.clustering``, one for each relation."""
    thresholds = enumerate(matches.thresholds.tolist())
    return replace(matches, clusters=np.stack([_clusters(matches, methods[r], r, t) for r, t in thresholds]))


def _clusters(matches: Matches, method: str, r: int, threshold: float) -> np.ndarray:
    """[n_records] cluster numbers of relation number r."""
    cluster: Callable[..., np.ndarray] = METHODS.get(method, unique)
    if method == "unique":
        cluster = functools.partial(unique, n_left=matches.records.n_left)  # type: ignore[arg-type]
    pairs = {"left": matches.left, "right": matches.right, "probability": matches.probability[:, r]}
    return cluster(len(matches.records.table), **pairs, threshold=threshold, known=matches.known[:, r])


def with_labels(matches: Matches, methods: Sequence[str], known: np.ndarray) -> tuple[Matches, list[Learned]]:
    """The matches after they learned from the labels ``known`` [n, r], which they take as given, and what was learned,
    by relation."""
    learned = [learn(p, labels) for p, labels in zip(matches.probability.T, known.T, strict=True)]
    probability, thresholds = np.stack([of.probability for of in learned], 1), matches.thresholds.copy()
    matches = replace(matches, probability=probability, known=known)
    for r, of_relation in enumerate(learned):
        if not of_relation.left_out:
            thresholds[r], _ = best_threshold(matches, methods[r], r)
    return clustered(replace(matches, thresholds=thresholds), methods), learned


def best_threshold(
    matches: Matches,
    method: str,
    r: int,
    thresholds: Sequence[float] = THRESHOLDS,
    chances: np.ndarray | None = None,
) -> tuple[float, float]:
    """That of some thresholds with the best expected F1 of clusters, and this F1. ``chances`` [n] say how likely each
    candidate is a match, NaN of candidates by which it is not measured. None: calibrated probabilities, and labels as 1
    and 0, say how many matches there are, for labels alone are too few to count them."""
    if chances is None:
        known = matches.known[:, r]
        chances = np.where(known >= 0, known, matches.probability[:, r])
    counts, f1 = ~np.isnan(chances), []
    n_matches = chances[counts].sum()
    for threshold in thresholds:
        clusters = _clusters(matches, method, r, threshold)
        together = (clusters[matches.left] == clusters[matches.right]) & counts
        f1.append(float(2 * chances[together].sum() / max(together.sum() + n_matches, 1e-12)))
    best = [t for t, score in zip(thresholds, f1, strict=True) if score >= max(f1) - 1e-12]
    # of equally good ones that which was there before
    return min(best, key=lambda t: abs(t - matches.thresholds[r])), max(f1)


def changes(before: Matches, after: Matches, r: int, learned: Learned) -> dict[str, Any]:
    """What labels changed of relation number r."""
    known = after.known[:, r]
    return {
        "n_labels": int((known >= 0).sum()),
        "n_labelled_matches": int((known == 1).sum()),
        "threshold_of_run": float(before.thresholds[r]),
        "temperature": learned.temperature,
        "bias": learned.bias,
        "n_changed": int((before.together[:, r] != after.together[:, r]).sum()),
        "not_learned": learned.left_out,
        "contradicted": learned.contradicted,
    }


def label_curve(
    path: Path, matches: Matches, methods: Sequence[str], sizes: Sequence[int] = SIZES, seeds: Sequence[int] = SEEDS
) -> dict[str, dict[str, Any]]:
    """By relation: "labels" [sizes], and by who chose them, "page" and "random", F1 [sizes][seeds] of the matches.

    Labels are what the table ``path`` says of candidates; of those that it says nothing of, none is chosen.
    """
    truth = labels_by(path, matches)
    curves: dict[str, dict[str, Any]] = {}
    for r, name in enumerate(matches.schema.relations):
        open_ = (truth[:, r] >= 0) & (matches.known[:, r] < 0)
        curves[name] = {"labels": list(sizes), "page": [[] for _ in sizes], "random": [[] for _ in sizes]}
        for seed in seeds:
            orders: dict[str, Any] = {
                "page": matches.worth_labelling(r, max(sizes), seed, open_),
                "random": np.random.default_rng(seed).permutation(np.flatnonzero(open_)),
            }
            for who, order in orders.items():
                for place, size in enumerate(sizes):
                    known = matches.known.copy()
                    known[order[:size], r] = truth[order[:size], r]
                    curves[name][who][place].append(float(f1_against(path, with_labels(matches, methods, known)[0])[r]))
    return curves
