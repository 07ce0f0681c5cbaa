"""Who is better, and how sure that is: ranks, intervals and tests over the datasets of a track.

Letters of shapes: n rows, r relations, s predictions, e entries (those that are ranked first, best first), q ranked
entries, d datasets, m draws. Scores are such that more is better.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import combinations

import numpy as np
from scipy import stats

from mmtab.benchmark.types import Board, Entry, Score
from mmtab.training.metrics import N_DRAWS, bootstrap

ALPHA = 0.05
ALL = "all"  # the track of every dataset
_DIGITS = 12  # beyond which two scores are equal: means of the same numbers in another order differ in the last bit

Draws = Mapping[str, Mapping[str, np.ndarray]]


# --- one dataset -----------------------------------------------------------------------------------------------------


def draws(board: Board, n_draws: int = N_DRAWS, seed: int = 0) -> Draws:
    """By dataset and entry [m]: its score, averaged over its seeds, when the rows of the test split are drawn anew (the
    same for all entries) and its seeds too (for each entry by itself). Seeds of three understate what a fourth would
    bring, and one seed brings no estimate of it. Entries without predictions have none."""
    samples: dict[str, dict[str, np.ndarray]] = {}
    for name, dataset in board.datasets.items():
        samples[name] = {}
        of = {entry.name: finite(entry.of(name)) for entry in board.entries}
        of = {entry: scores for entry, scores in of.items() if scores and all(x.prediction is not None for x in scores)}
        if dataset.label is None or not of:
            continue
        predictions = np.stack([x.prediction for scores in of.values() for x in scores if x.prediction is not None])
        n_classes = int(max(dataset.label.max(initial=0), predictions.max(initial=0))) + 1
        drawn = bootstrap(
            dataset.label, predictions, dataset.metric, n_classes, n_draws, zlib.crc32(name.encode()) + seed
        )
        if drawn is None:
            continue
        start = 0
        for entry, scores in of.items():
            n = len(scores)
            generator = np.random.default_rng([seed, zlib.crc32(name.encode()), zlib.crc32(entry.encode())])
            often = generator.multinomial(n, np.full(n, 1 / n), n_draws)
            samples[name][entry] = (drawn[:, start : start + n] * often).sum(1) / n
            start += n
    return samples


def finite(scores: Sequence[Score]) -> list[Score]:
    return [score for score in scores if math.isfinite(score.value)]


# --- several datasets ------------------------------------------------------------------------------------------------


def ranks(scores: np.ndarray) -> np.ndarray:
    """[q, d] of scores [q, d]: 1 is the best, those that are equal share the middle of their ranks."""
    return stats.rankdata(-np.round(scores, _DIGITS), axis=0) if scores.size else np.zeros(scores.shape)


def places(average: np.ndarray) -> np.ndarray:
    """[q] int: 1 is the best; of two that are equal both have the better place."""
    return stats.rankdata(-np.round(average, _DIGITS), method="min").astype(int)


def is_best(scores: np.ndarray) -> np.ndarray:
    """[e, d] bool: nobody is better there; NaN, which is no score, never is."""
    rounded = np.round(np.where(np.isnan(scores), -np.inf, scores), _DIGITS)
    return np.isfinite(rounded) & (rounded == rounded.max(0, initial=-np.inf))


def normalised(scores: np.ndarray, floor: np.ndarray) -> np.ndarray:
    """[e]: the mean over datasets of scores [e, d], by which 0 is the floor [d] (NaN: the worst entry) and 1 the
    best."""
    with np.errstate(invalid="ignore", divide="ignore"):
        best = np.nanmax(scores, 0)
        low = np.where(np.isnan(floor), np.nanmin(scores, 0), floor)
        scaled = (scores - low) / (best - low)
    flat = np.round(best - low, _DIGITS) <= 0
    return np.where(flat, is_best(scores), scaled).mean(1)


def friedman(scores: np.ndarray) -> tuple[float, float] | None:
    """Chi-squared and p of "all are equally good" (Friedman 1937) from scores [q, d]; None for fewer than three entries
    or two datasets, or where all are equal everywhere."""
    rounded = np.round(scores, _DIGITS)
    if len(scores) < 3 or scores.shape[1] < 2 or (rounded == rounded[:1]).all():
        return None
    test = stats.friedmanchisquare(*rounded)
    return float(test.statistic), float(test.pvalue)


def wilcoxon(one: np.ndarray, other: np.ndarray) -> float:
    """The two-sided p of the signed-rank test (Wilcoxon 1945) over datasets, scores [d] each; equal ones do not
    count."""
    apart = np.round(one - other, _DIGITS)
    apart = apart[apart != 0]
    return float(stats.wilcoxon(apart, method="exact" if len(apart) <= 25 else "auto").pvalue) if len(apart) else 1.0


def smallest_p(n_datasets: int) -> float:
    """The least that ``wilcoxon`` can say: all differences have one sign."""
    return min(1.0, 2.0 ** (1 - n_datasets))


def holm(p: np.ndarray) -> np.ndarray:
    """p-values of several tests, such that one below alpha keeps the chance of any false alarm below alpha (Holm
    1979)."""
    order = np.argsort(p, kind="stable")
    stepped = np.minimum(1, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)))
    adjusted = np.empty(len(p))
    adjusted[order] = stepped
    return adjusted


@lru_cache
def critical_difference(n_entries: int, n_datasets: int) -> float:
    """How far two average ranks must be apart to differ at .05 by Nemenyi's test (Demšar 2006, JMLR 7)."""
    q = stats.studentized_range.ppf(1 - ALPHA, n_entries, np.inf) / math.sqrt(2)
    return float(q) * math.sqrt(n_entries * (n_entries + 1) / (6 * n_datasets))


def groups(average_rank: np.ndarray, critical: float) -> list[list[int]]:
    """Places in average_rank [q] of those that no two of differ by more than ``critical``, two at least; the widest
    only."""
    order = np.argsort(average_rank, kind="stable")
    joined: list[list[int]] = []
    reached = 0
    for i in range(len(order)):
        within = [int(j) for j in order[i:] if average_rank[j] - average_rank[order[i]] <= critical + 1e-9]
        if len(within) > 1 and i + len(within) > reached:
            joined.append(within)
            reached = i + len(within)
    return joined


def pareto(score: np.ndarray, seconds: np.ndarray) -> np.ndarray:
    """[e] bool: no other is as good and as fast, and better in one of the two. NaN never is."""
    timed = np.isfinite(score) & np.isfinite(seconds)
    better = (score[:, None] >= score) & (seconds[:, None] <= seconds)
    strictly = (score[:, None] > score) | (seconds[:, None] < seconds)
    return timed & ~(better & strictly & timed[:, None]).any(0)


@dataclass(frozen=True)
class Cost:
    """Of an entry over datasets: seconds of training in all, rows a second where each dataset has as many rows (the
    harmonic mean), the largest memory and model. None where a dataset does not say it."""

    train_seconds: float | None
    predict_rows_per_second: float | None
    peak_memory_mib: float | None
    n_parameters: int | None

    @staticmethod
    def of(scores: Sequence[Sequence[Score]]) -> Cost:
        """``scores``: by dataset those of its seeds."""

        def means(name: str) -> list[float] | None:
            values = [[getattr(score, name) for score in of_seeds] for of_seeds in scores]
            present = [[v for v in of_seeds if v is not None] for of_seeds in values]
            return [float(np.mean(v)) for v in present] if present and all(present) else None

        seconds, rates, memory, size = (
            means(name) for name in ("train_seconds", "predict_rows_per_second", "peak_memory_mib", "n_parameters")
        )
        return Cost(
            sum(seconds) if seconds else None,
            len(rates) / sum(1 / rate for rate in rates) if rates and min(rates) > 0 else None,
            max(memory) if memory else None,
            round(max(size)) if size else None,
        )


@dataclass(frozen=True)
class Standing:
    """A track. Entries that have a score on each of its datasets are ranked, by the average; the others come after
    them, by how many they have. Wins and what counts as best or worst are of all entries that have a score there.

    ``scores`` [e, d] are means over seeds and ``spread`` their standard deviation, NaN where there is none;
    ``interval`` [e, d, 2] of the scores, ``average_interval`` [q, 2], ``difference_interval`` [q, q, 2] of row minus
    column; NaN where no rows could be drawn. ``above`` [q, q]: the share of draws in which row is above column, equal
    ones counting half. ``tied`` [e, d]: the best, or no further from it than noise. ``p`` [q, q]: Wilcoxon's, by Holm.
    ``samples`` [e, d, m]: what ``draws`` returned."""

    name: str
    datasets: list[str]
    entries: list[Entry]
    n_ranked: int
    scores: np.ndarray = field(repr=False)
    spread: np.ndarray = field(repr=False)
    n_seeds: np.ndarray = field(repr=False)
    samples: np.ndarray = field(repr=False)
    interval: np.ndarray = field(repr=False)
    best: np.ndarray = field(repr=False)
    tied: np.ndarray = field(repr=False)
    wins: np.ndarray = field(repr=False)
    cost: list[Cost] = field(repr=False)
    place: np.ndarray = field(repr=False)
    average: np.ndarray = field(repr=False)
    average_interval: np.ndarray = field(repr=False)
    ranks: np.ndarray = field(repr=False)
    normalised: np.ndarray = field(repr=False)
    above: np.ndarray = field(repr=False)
    difference: np.ndarray = field(repr=False)
    difference_interval: np.ndarray = field(repr=False)
    friedman: tuple[float, float] | None
    p: np.ndarray = field(repr=False)
    critical: float | None
    groups: list[list[int]]

    @property
    def average_rank(self) -> np.ndarray:
        return self.ranks.mean(1)

    @property
    def seconds(self) -> np.ndarray:
        """[q], NaN where unknown."""
        return np.array([math.nan if c.train_seconds is None else c.train_seconds for c in self.cost[: self.n_ranked]])

    @property
    def n_pairs(self) -> int:
        return self.n_ranked * (self.n_ranked - 1) // 2

    def apart(self, one: int, other: int) -> bool | None:
        """Whether two ranked entries differ beyond noise; None where that is not known."""
        low, high = self.difference_interval[one, other]
        return None if math.isnan(low) else bool(low > 0 or high < 0)

    def apart_on(self, one: int, other: int, dataset: int) -> bool | None:
        """As ``apart``, of two entries on one dataset."""
        low, high = _middle(self.samples[one, dataset] - self.samples[other, dataset])
        return None if math.isnan(low) else bool(low > 0 or high < 0)

    def no_interval(self) -> list[str]:
        """Datasets on which a ranked entry has none."""
        lacks = np.isnan(self.interval[: self.n_ranked, :, 0]).any(0)
        return [name for name, lack in zip(self.datasets, lacks, strict=True) if lack]


def standings(board: Board, n_draws: int = N_DRAWS, seed: int = 0) -> list[Standing]:
    """Of each track, and of all datasets together where there are several tracks."""
    drawn = draws(board, n_draws, seed)
    tracks = {name: list(dict.fromkeys(datasets)) for name, datasets in board.tracks.items()}
    every = list(dict.fromkeys(name for datasets in tracks.values() for name in datasets))
    if len(tracks) > 1 and ALL not in tracks and all(set(datasets) != set(every) for datasets in tracks.values()):
        tracks = {ALL: every, **tracks}
    return [standing(board, name, datasets, drawn) for name, datasets in tracks.items() if datasets]


def standing(board: Board, name: str, datasets: Sequence[str], drawn: Draws) -> Standing:
    """Of a track with these datasets; ``drawn`` is what ``draws`` returned."""
    by_entry = {entry.name: [finite(entry.of(dataset)) for dataset in datasets] for entry in board.entries}
    means = {entry: np.array([_mean(seeds) for seeds in of]) for entry, of in by_entry.items()}

    def order(entry: Entry) -> tuple[bool, int, float, str]:
        n_lacking = int(np.isnan(means[entry.name]).sum())
        average = 0.0 if n_lacking else round(float(means[entry.name].mean()), _DIGITS)
        return n_lacking > 0, n_lacking, -average, entry.name

    entries = sorted((e for e in board.entries if not np.isnan(means[e.name]).all()), key=order)
    shape = len(entries), len(datasets)
    scores = np.array([means[e.name] for e in entries]).reshape(shape)
    q = int((~np.isnan(scores)).all(1).sum())
    values = [[[score.value for score in seeds] for seeds in by_entry[e.name]] for e in entries]
    spread = [[np.std(seeds, ddof=1) if len(seeds) > 1 else math.nan for seeds in of] for of in values]
    n_draws = next((len(of) for of_dataset in drawn.values() for of in of_dataset.values()), 0)
    no_draws = np.full(n_draws, math.nan)
    samples = np.array([[drawn.get(d, {}).get(e.name, no_draws) for d in datasets] for e in entries])
    samples = samples.reshape(*shape, n_draws)
    average_samples, average, ranked = samples[:q].mean(1), scores[:q].mean(1), ranks(scores[:q])
    above, difference_interval = _compared(average_samples)
    best = is_best(scores)
    critical = critical_difference(q, len(datasets)) if q > 1 else None
    return Standing(
        name=name,
        datasets=list(datasets),
        entries=entries,
        n_ranked=q,
        scores=scores,
        spread=np.array(spread).reshape(shape),
        n_seeds=np.array([[len(seeds) for seeds in of] for of in values]).reshape(shape),
        samples=samples,
        interval=_middle(samples),
        best=best,
        tied=_tied(samples, best),
        wins=best.sum(1),
        cost=[Cost.of([seeds for seeds in by_entry[e.name] if seeds]) for e in entries],
        place=places(average),
        average=average,
        average_interval=_middle(average_samples),
        ranks=ranked,
        normalised=normalised(scores, _floor(entries, scores))[:q] if q else np.zeros(0),
        above=above,
        difference=average[:, None] - average,
        difference_interval=difference_interval,
        friedman=friedman(scores[:q]),
        p=_pairwise_p(scores[:q]),
        critical=critical,
        groups=[] if critical is None else groups(ranked.mean(1), critical),
    )


def _tied(samples: np.ndarray, best: np.ndarray) -> np.ndarray:
    """[e, d] of samples [e, d, m]: the best, or no further from the first of these than noise."""
    tied = best.copy()
    for j in range(best.shape[1]):
        if best[:, j].any():
            low, high = _middle(samples[best[:, j].argmax(), j] - samples[:, j]).T
            tied[:, j] |= (low <= 0) & (high >= 0)
    return tied


def _compared(samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of samples [q, m] of averages, ``Standing.above`` and ``Standing.difference_interval``."""
    q, n_draws = samples.shape
    above, interval = np.full((q, q), math.nan), np.full((q, q, 2), math.nan)
    for i in range(q):
        if n_draws and not np.isnan(samples[i]).any():
            gap = samples[i] - samples
            drawn = ~np.isnan(gap).any(1)
            above[i, drawn] = ((gap > 0).mean(1) + 0.5 * (gap == 0).mean(1))[drawn]
            interval[i] = _middle(gap)
    return above, interval


def _pairwise_p(scores: np.ndarray) -> np.ndarray:
    """[q, q] of scores [q, d]: Wilcoxon's p of each pair, by Holm."""
    p = np.full((len(scores), len(scores)), math.nan)
    pairs = list(combinations(range(len(scores)), 2))
    for (i, j), value in zip(pairs, holm(np.array([wilcoxon(scores[i], scores[j]) for i, j in pairs])), strict=True):
        p[i, j] = p[j, i] = value
    return p


def _mean(scores: Sequence[Score]) -> float:
    return float(np.mean([score.value for score in scores])) if scores else math.nan


def _middle(samples: np.ndarray) -> np.ndarray:
    """[..., 2] of samples [..., m]: between which 95 % of them lie; NaN where one is."""
    if not samples.shape[-1]:
        return np.full((*samples.shape[:-1], 2), math.nan)
    return np.moveaxis(np.quantile(samples, [ALPHA / 2, 1 - ALPHA / 2], axis=-1), 0, -1)


def _floor(entries: Sequence[Entry], scores: np.ndarray) -> np.ndarray:
    """[d]: the lowest control that predicts the majority; NaN where there is none."""
    simple = np.array([e.kind == "control" and "majority" in e.name.lower() for e in entries], bool)
    padded = np.where(np.isnan(scores[simple]), np.inf, scores[simple]).min(0, initial=np.inf)
    return np.where(np.isfinite(padded), padded, math.nan)
