"""What a scoreboard says in words: who leads, who wins where, and what the statistical tests can tell."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from mmtab.benchmark.scoreboard.formats import (
    count,
    interval,
    listed,
    p_value,
    points,
    references,
    significance,
    without_zero,
)
from mmtab.benchmark.statistics import ALPHA, Standing, smallest_p
from mmtab.benchmark.types import Board

MAX_NAMED = 4  # entries in one place of a sentence
MAX_GROUPS = 6


def sentences(board: Board, standing: Standing, quote: Callable[[str], str], strong: str) -> list[str]:
    """Who leads, who is best where, and where somebody beats the best mmtab entry. ``quote`` makes text of any origin
    safe, in ``strong`` stand the names of entries."""
    entries, datasets = standing.entries, [quote(name) for name in standing.datasets]
    names = [strong.format(quote(entry.title)) for entry in entries]
    texts = [_leader(standing, names), _winners(standing, datasets, names)]
    own = next((i for i, entry in enumerate(entries) if entry.kind == "mmtab"), None)
    if own is not None:
        texts += [_rivals(standing, own, datasets, names, kinds) for kinds in (("rival", "team"), ("control",))]
        above = [
            f"{quote(name)} on {quote(x)} ({value:.3f} against {standing.scores[own, j]:.3f})"
            for name in references(board, standing)
            for j, x in enumerate(standing.datasets)
            if (value := board.datasets[x].references.get(name)) is not None and value > standing.scores[own, j]
        ]
        texts.append(f"Figures for reference above {names[own]}: {listed(above)}." if above else "")
    return [text for text in texts if text]


def _leader(standing: Standing, names: Sequence[str]) -> str:
    if not standing.n_ranked:
        return ""
    low, high = standing.average_interval[0]
    text = f"{names[0]} leads with an average of {standing.average[0]:.3f}"
    text += "" if math.isnan(low) else f" (95 % interval {interval(low, high)})"
    if standing.n_ranked > 1:
        lead = points(standing.difference[0, 1]).lstrip("+")
        text += f", {lead} points before {names[1]}, {significance(standing.apart(0, 1))}"
    return f"{text}."


def _winners(standing: Standing, datasets: Sequence[str], names: Sequence[str]) -> str:
    n_best = standing.best.sum(0)
    few = standing.best & (n_best <= MAX_NAMED)
    winners = [i for i in sorted(range(len(names)), key=lambda i: -standing.wins[i]) if few[i].any()]
    wins = [f"{names[i]} on {listed([datasets[j] for j in np.flatnonzero(few[i]).tolist()])}" for i in winners]
    wins += [f"{n_best[j]} entries alike on {datasets[j]}" for j in np.flatnonzero(n_best > MAX_NAMED).tolist()]
    return f"Best: {'; '.join(wins)}." if wins else ""


def _rivals(standing: Standing, own: int, datasets: Sequence[str], names: Sequence[str], kinds: Sequence[str]) -> str:
    """Where entries of some kinds beat the best mmtab entry, dataset by dataset."""
    who, scores = kinds[0], standing.scores
    others = [i for i, entry in enumerate(standing.entries) if entry.kind in kinds]
    beaten = []
    for j, dataset in enumerate(datasets):
        ahead = [i for i in others if round(scores[i, j] - scores[own, j], 12) > 0]  # which NaN is not
        ahead.sort(key=lambda i: -scores[i, j])
        winners = []
        for i in ahead[:MAX_NAMED]:
            noise = " (within noise)" if standing.apart_on(i, own, j) is False else ""
            winners.append(f"{names[i]} {scores[i, j]:.3f}{noise}")
        if len(ahead) > MAX_NAMED:
            winners.append(f"{len(ahead) - MAX_NAMED} more")
        if ahead:
            beaten.append(f"on {dataset} {listed(winners)} against {scores[own, j]:.3f}")
    best = f"{names[own]}, the best mmtab entry, on"
    if beaten:
        return f"A {who} beats {best} {len(beaten)} of {count(len(datasets), 'dataset')}: {'; '.join(beaten)}."
    return f"No {who} beats {best} any dataset where both have a score." if others else ""


def tests_in_words(standing: Standing) -> list[str]:
    """What the tests say, what they cannot say, and how the intervals were made."""
    texts = [*_friedman(standing), *_wilcoxon(standing)]
    if lacking := standing.no_interval():
        why = "the metric takes probabilities, or predictions are not at hand, so rows cannot be drawn anew"
        texts.append(f"No interval on {listed(lacking)}: {why}; hence none of the average either.")
    single = int((standing.n_seeds[: standing.n_ranked] == 1).any(1).sum())
    seeds = "few seeds understate the noise of seeds"
    if single:
        seeds += (
            f", and {count(single, 'entry has', 'entries have')} one seed on some dataset, which says nothing of it"
        )
    texts.append(
        "Intervals hold 95 % of 1,000 draws of the test rows, the same rows for all entries, and of each entry's seeds,"
        f" with replacement. They are not corrected for the number of comparisons; {seeds}."
    )
    return texts


def _friedman(standing: Standing) -> list[str]:
    """With Nemenyi's test, which follows it."""
    n, datasets = standing.n_ranked, count(len(standing.datasets), "dataset")
    texts = []
    if standing.friedman is not None:
        value, p = standing.friedman
        verdict = "so not all are equally good" if p < ALPHA else "so that all are equally good is not ruled out"
        test = f"Friedman's test of {n} entries on {len(standing.datasets)} datasets"
        texts.append(f"{test}: chi-squared {value:.1f}, {p_value(p)}, {verdict}.")
    elif n:
        entries = count(n, "ranked entry", "ranked entries")
        needs = "three entries, two datasets and a difference"
        texts.append(f"Friedman's test needs {needs}; here are {entries} and {datasets}.")
    if standing.critical is not None:
        rule = f"two average ranks differ at .05 when they are more than {standing.critical:.2f} apart"
        result = "No two entries can be told apart by it." if standing.critical >= n - 1 else _groups(standing)
        texts.append(f"Nemenyi's test: {rule} (ranks go from 1 to {n}). {result}")
    return texts


def _wilcoxon(standing: Standing) -> list[str]:
    """With what drawing rows and seeds anew says of the same pairs."""
    n, n_pairs, datasets = standing.n_ranked, standing.n_pairs, count(len(standing.datasets), "dataset")
    if not n_pairs:
        return []
    least = smallest_p(len(standing.datasets))
    if least > ALPHA:
        why = f"the smallest two-sided p is {without_zero(least)}, even for an entry that wins everywhere"
        texts = [f"Wilcoxon's signed-rank test can never reach .05 with {datasets}: {why}."]
    elif least * n_pairs > ALPHA:
        why = f"the smallest p of a pair is {without_zero(least)}, which Holm multiplies by {n_pairs:,}"
        test = f"Wilcoxon's signed-rank test of {n_pairs:,} pairs, by Holm,"
        texts = [f"{test} can never reach .05 with {datasets}: {why}."]
    else:
        apart = int((standing.p[np.triu_indices(n, 1)] < ALPHA).sum())
        result = f"{apart:,} of {n_pairs:,} pairs differ at .05 after Holm's correction"
        texts = [f"Wilcoxon's signed-rank test over datasets: {result}."]
    verdicts = [standing.apart(i, j) for i in range(n) for j in range(i)]
    if None not in verdicts:
        pairs = f"{sum(map(bool, verdicts)):,} of {n_pairs:,} pairs"
        texts.append(
            f"Test rows and seeds drawn anew: {pairs} have an average difference whose 95 % interval excludes 0. "
            "That is about these datasets; the tests above ask about datasets in general."
        )
    return texts


def _groups(standing: Standing) -> str:
    """Entries that Nemenyi's test does not tell apart."""
    if not standing.groups:
        return "All entries differ by it."
    texts = []
    for group in standing.groups[:MAX_GROUPS]:
        first, last = standing.entries[group[0]].title, standing.entries[group[-1]].title
        texts.append(f"{first} to {last} ({len(group)} entries)" if len(group) > 2 else f"{first} and {last}")
    more = len(standing.groups) - MAX_GROUPS
    rest = f"; and {more} more groups" if more > 0 else ""
    return f"Not told apart, in the order of ranks: {'; '.join(texts)}{rest}."
