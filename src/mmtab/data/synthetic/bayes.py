"""The best score that any model can reach on the catalogue, for every subset of the modalities."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from math import log, prod

import numpy as np

from mmtab.data.synthetic.attributes import (
    BAND_SPAN,
    PRICE_FACTORS,
    SHAPES,
    TYPE_GRID,
    TYPE_NAMES,
    WEIGHT_POWER,
)
from mmtab.data.synthetic.recipe import (
    DEFAULT,
    FACTS,
    IMAGE,
    MODALITIES,
    NUMERIC,
    RELATIONS,
    SHOWN_BY,
    TEXT,
    Bools,
    Floats,
    Recipe,
    check_task,
)


def ceilings(task: str, recipe: Recipe = DEFAULT) -> dict[str, float]:
    """The best reachable score of every non-empty subset of the modalities, such as "image+text".

    product_type: the accuracy of the Bayes classifier. price: R² of the expected price given the subset's signals.
    Pairs: the best F1, 2TP / (2TP + FP + FN) of the expected counts, over the thresholds on the posterior given the
    subset's signals; offers: the mean of both relations' best F1.
    """
    check_task(task)
    if task == "product_type":
        joints = _subsets(*_type_signals(recipe))
        return {subset: float(joint.max(axis=0).sum()) for subset, joint in joints}  # calling the most probable type
    if task == "price":
        return _price_r2(recipe)
    scores = list(relation_ceilings(task, recipe).values())
    return {subset: float(np.mean([best[subset] for best in scores])) for subset in scores[0]}


def relation_ceilings(task: str = "offers", recipe: Recipe = DEFAULT) -> dict[str, dict[str, float]]:
    """For each relation of a task of pairs, its best reachable F1 with every subset of the modalities."""
    prior, _, holds = hypotheses(task, recipe)
    joints = list(_subsets(prior, _pair_signals(task, recipe)))
    return {
        relation: {subset: _best_f1(joint, holding) for subset, joint in joints}
        for relation, holding in zip(RELATIONS[task], holds.T, strict=True)
    }


_SUBSETS = [subset for n in range(1, 5) for subset in combinations(range(4), n)]


def _named(subset: tuple[int, ...]) -> str:
    return "+".join(MODALITIES[m] for m in subset)


def _price_r2(recipe: Recipe) -> dict[str, float]:
    """The price is a product of independent factors, one to a modality, and noise. So the mean square of the price, and
    that of its expectation given some signals, are products too; all are in units of the squared mean."""
    mean_squares, told = [], []
    for m, (factor, channel) in enumerate(zip(PRICE_FACTORS, recipe.channels, strict=True)):
        # Of each value shown, for all are as likely
        expected = factor @ _shown_given_true(len(factor), channel.reliability)
        within = 1.0
        if m == NUMERIC:  # the place in the band, whichever band is shown
            steps = WEIGHT_POWER * log(BAND_SPAN)
            first, second = ((np.exp(power * steps) - 1) / (power * steps) for power in (1, 2))
            within = second / first**2
        mean_squares.append(within * np.square(factor).mean() / factor.mean() ** 2)
        shown = within * np.square(expected).mean() / factor.mean() ** 2
        told.append(channel.missing + (1 - channel.missing) * shown)
    variance = prod(mean_squares) * np.exp(recipe.price_noise**2) - 1
    return {_named(subset): float((prod(told[m] for m in subset) - 1) / variance) for subset in _SUBSETS}


def _subsets(prior: Floats, likelihoods: list[Floats]) -> Iterator[tuple[str, Floats]]:
    """P(hypothesis, signals), (hypotheses, combinations of signals), for every subset of the modalities."""
    for subset in _SUBSETS:
        joint = prior[:, None]
        for m in subset:
            joint = _joint(joint, likelihoods[m])
        yield _named(subset), joint


def _joint(one: Floats, other: Floats) -> Floats:
    """P(both signals | hypothesis) of two independent ones, (hypotheses, combinations)."""
    return (one[:, :, None] * other[:, None, :]).reshape(len(one), -1)


def _best_f1(joint: Floats, held: Bools) -> float:
    """Best F1 over thresholds on the posterior that one of the `held` hypotheses, (hypotheses,), is true."""
    positive, total = joint[held].sum(axis=0), joint.sum(axis=0)
    possible = total > 0
    order = np.argsort(-positive[possible] / total[possible])
    true, called = positive[possible][order].cumsum(), total[possible][order].cumsum()
    return float((2 * true / (called + positive.sum())).max())


def _shown_given_true(n: int, reliability: float) -> Floats:
    """P(shown value | true value), (n, n)."""
    return np.where(np.eye(n, dtype=bool), reliability, (1 - reliability) / (n - 1))


def _with_missing(given_present: Floats, missing: float) -> Floats:
    """P(signal | hypothesis), with one more signal for missing, (hypotheses, signals + 1)."""
    return np.hstack([given_present * (1 - missing), np.full((len(given_present), 1), missing)])


def _type_signals(recipe: Recipe) -> tuple[Floats, list[Floats]]:
    """P(type), (48,), and for each modality P(signal | type), (48, signals)."""
    likelihoods = []
    true = np.unravel_index(np.arange(len(TYPE_NAMES)), TYPE_GRID)
    for m, (n, channel) in enumerate(zip(TYPE_GRID, recipe.channels, strict=True)):
        shown = _shown_given_true(n, channel.reliability)[true[m]]
        if m == TEXT:
            named = _shown_given_true(len(SHAPES), recipe.named_shape_reliability)[true[IMAGE]]
            named = _with_missing(named, 1 - recipe.named_shape)
            shown = _joint(shown, named)
        likelihoods.append(_with_missing(shown, channel.missing))
    return np.full(len(TYPE_NAMES), 1 / len(TYPE_NAMES)), likelihoods


def hypotheses(task: str, recipe: Recipe) -> tuple[Floats, Bools, Bools]:
    """All that can be true of a pair: probabilities, (h,), facts that differ, (h, facts), relations, (h, relations)."""
    duplicates, others = recipe.positive_share, 1 - recipe.positive_share
    sets, weights = recipe.negatives()
    differs = np.vstack([np.zeros(4, dtype=bool), sets])
    if task != "offers":
        return np.append(duplicates, others * weights), differs, np.stack([~differs.any(axis=1)], axis=1)
    same = duplicates + others * recipe.variant_share  # P(one product)
    products = np.append(same, (1 - same) * weights)
    # Colour and size differ as often between two products as within one: they tell nothing of the product.
    colour_size = np.array([[False, False], [True, False], [False, True], [True, True]])
    looks = np.append(duplicates, np.full(3, (same - duplicates) / 3)) / same
    differs = np.hstack([differs.repeat(4, axis=0), np.tile(colour_size, (len(differs), 1))])
    holds = np.stack([~differs.any(axis=1), ~differs[:, :4].any(axis=1)], axis=1)
    return np.outer(products, looks).ravel(), differs, holds


def kinds_of(holds: Bools) -> Bools:
    """The combinations of relations that occur, (kinds, relations), those that most hold in first."""
    return np.unique(holds, axis=0)[::-1]


def _pair_signals(task: str, recipe: Recipe) -> list[Floats]:
    """For each modality P(signal | hypothesis), (hypotheses, signals); a signal is all facts that it shows."""
    _, differs, _ = hypotheses(task, recipe)
    likelihoods = []
    for m, channel in enumerate(recipe.channels):
        shown = np.ones((len(differs), 1))
        for fact, differ in zip(FACTS[task], differs.T.astype(np.int64), strict=True):
            if SHOWN_BY[fact] == m:
                shown = _joint(shown, _shown_given_true(2, channel.reliability)[differ])
        likelihoods.append(_with_missing(shown, 1 - (1 - channel.missing) ** 2))  # either side suffices
    return likelihoods
