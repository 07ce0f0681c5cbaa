"""Ranks, intervals and tests of a scoreboard: against slow loops, scipy and published tables."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
import scipy.stats
from sklearn.metrics import accuracy_score, f1_score

from mmtab.benchmark import statistics
from mmtab.benchmark.types import Board, Entry, RankedDataset, Score
from mmtab.training import metrics


def slow(label: np.ndarray, predictions: np.ndarray, metric: str, n_draws: int, seed: int) -> np.ndarray:
    """By scikit-learn, on rows repeated as often as they were drawn."""
    found = []
    for weights in metrics._weights(len(label), n_draws, seed):
        for often in weights.astype(int):
            rows = np.repeat(np.arange(len(label)), often)
            found.append([_metric(label[rows], said[rows], metric) for said in predictions])
    return np.array(found)


def _metric(label: np.ndarray, said: np.ndarray, metric: str) -> float:
    if metric == "accuracy":
        return accuracy_score(label[:, 0], said[:, 0])
    if metric == "macro_f1":
        return f1_score(label[:, 0], said[:, 0], average="macro", zero_division=0)
    return float(np.mean([f1_score(y, s, zero_division=0) for y, s in zip(label.T, said.T, strict=True)]))


@pytest.mark.parametrize(
    ("metric", "n_classes", "relations"), [("accuracy", 4, 1), ("macro_f1", 15, 1), ("f1", 2, 1), ("f1", 2, 3)]
)
def test_draws_equal_a_loop_over_resampled_rows(metric: str, n_classes: int, relations: int) -> None:
    rng = np.random.default_rng(1)
    label = rng.integers(0, n_classes, (37, relations))
    predictions = np.where(rng.random((3, *label.shape)) < 0.6, label, rng.integers(0, n_classes, (3, *label.shape)))
    predictions[2] = 0  # says always the same: classes that occur only as a label, and no hits of f1
    found = statistics.bootstrap(label, predictions, metric, n_classes, n_draws=70, seed=5)
    assert found is not None and found.shape == (70, 3) and found.dtype == np.float64
    np.testing.assert_allclose(found, slow(label, predictions, metric, 70, 5), atol=1e-6)


def test_draws_are_paired_and_the_same_whatever_else_is_measured() -> None:
    rng = np.random.default_rng(2)
    label = rng.integers(0, 5, (400, 1))
    one = np.where(rng.random(label.shape) < 0.7, label, 0)
    other = one.copy()
    other[:3] = label[:3]  # as good, or better in up to three rows
    both = statistics.bootstrap(label, np.stack([one, other]), "accuracy", 5, 200)
    alone = statistics.bootstrap(label, other[None], "accuracy", 5, 200)
    assert both is not None and alone is not None
    assert (both[:, 1] >= both[:, 0]).all() and 0.025 > both.std(0).max() > 5 * (both[:, 1] - both[:, 0]).std()
    np.testing.assert_array_equal(both[:, 1:], alone)
    assert both.mean(0) == pytest.approx([(x == label).mean() for x in (one, other)], abs=0.005)
    assert both.std(0)[0] == pytest.approx(np.sqrt(0.7 * 0.3 / 400), rel=0.2)


def test_weights_count_every_row_that_was_drawn() -> None:
    blocks = list(metrics._weights(9, 120, 0))
    assert sum(map(len, blocks)) == 120 and all((block.sum(1) == 9).all() for block in blocks)


def test_metrics_of_probabilities_have_no_draws() -> None:
    label = np.zeros((5, 1), np.int64)
    assert statistics.bootstrap(label, label[None], "pr_auc", 2) is None
    assert statistics.bootstrap(label[:0], label[None, :0], "f1", 2) is None


def test_ranks_places_and_wins_of_ties() -> None:
    scores = np.array([[0.5, 0.1 + 0.2], [0.9, 0.3], [0.5, 0.1]])  # 0.1 + 0.2 is not 0.3 in the last bit
    assert statistics.ranks(scores).tolist() == [[2.5, 1.5], [1.0, 1.5], [2.5, 3.0]]
    assert statistics.is_best(scores).tolist() == [[False, True], [True, True], [False, False]]
    assert statistics.places(np.array([0.5, 0.9, 0.5, 0.1])).tolist() == [2, 1, 2, 4]
    assert not statistics.is_best(np.full((2, 1), math.nan)).any()


def test_normalised_goes_from_the_floor_to_the_best() -> None:
    scores = np.array([[0.9, 0.5], [0.5, 0.5], [0.1, 0.3]])
    assert statistics.normalised(scores, np.full(2, math.nan)) == pytest.approx([1, 0.75, 0])
    assert statistics.normalised(scores, np.array([0.5, 0.4])) == pytest.approx([1, 0.5, -1])
    assert statistics.normalised(np.full((2, 1), 0.4), np.array([math.nan])) == pytest.approx([1, 1])  # nobody is worse


def test_holm_by_hand() -> None:
    # sorted .005 .01 .03 .04, times 4 3 2 1, and never less than the one before
    assert statistics.holm(np.array([0.01, 0.04, 0.03, 0.005])) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert statistics.holm(np.array([0.5, 0.9])) == pytest.approx([1, 1]) and not len(statistics.holm(np.zeros(0)))


def test_wilcoxon_is_that_of_scipy() -> None:
    rng = np.random.default_rng(3)
    for n in (5, 8, 13):
        one, other = rng.random((2, n))
        assert statistics.wilcoxon(one, other) == scipy.stats.wilcoxon(one, other).pvalue
    better = np.array([0.1, 0.25, 0.31, 0.44, 0.58])
    assert statistics.wilcoxon(better, np.zeros(5)) == statistics.smallest_p(5) == 0.0625
    assert statistics.wilcoxon(np.append(better, 1), np.append(np.zeros(5), 1)) == 0.0625  # an equal one says nothing
    assert statistics.wilcoxon(better, better) == 1 and statistics.smallest_p(6) == 0.03125


@pytest.mark.parametrize(
    ("k", "q"), [(2, 1.960), (3, 2.343), (4, 2.569), (5, 2.728), (6, 2.850), (7, 2.949), (10, 3.164)]
)
def test_critical_differences_are_those_of_the_table(k: int, q: float) -> None:
    """Table 5a of Demšar 2006."""
    assert statistics.critical_difference(k, 14) / math.sqrt(k * (k + 1) / (6 * 14)) == pytest.approx(q, abs=1e-3)


def test_the_example_of_the_paper() -> None:
    """Demšar 2006, 3.2.2: four variants of C4.5 on 14 datasets; the test "is not powerful enough" to tell them
    apart."""
    average_ranks = np.array([3.143, 2.000, 2.893, 1.964])
    assert statistics.critical_difference(4, 14) == pytest.approx(1.25, abs=0.005)
    assert statistics.groups(average_ranks, statistics.critical_difference(4, 14)) == [[3, 1, 2, 0]]
    assert statistics.groups(average_ranks, 1.12) == [[3, 1, 2], [2, 0]]  # at .10 the first and the last differ


def test_friedman_is_that_of_ranks() -> None:
    rng = np.random.default_rng(4)
    scores = rng.random((4, 9))
    found, ranks = statistics.friedman(scores), statistics.ranks(scores).mean(1)
    assert found is not None and found[0] == pytest.approx(12 * 9 / (4 * 5) * ((ranks**2).sum() - 4 * 25 / 4))
    assert found[1] == pytest.approx(scipy.stats.chi2.sf(found[0], 3))
    assert statistics.friedman(scores[:2]) is None and statistics.friedman(np.ones((3, 4))) is None


def test_groups_are_the_widest_ones() -> None:
    assert statistics.groups(np.array([1.0, 1.5, 2.2, 4.0, 4.1]), 1.0) == [[0, 1], [1, 2], [3, 4]]
    assert statistics.groups(np.array([1.0, 3.0]), 1.0) == []


def test_the_front_has_what_nobody_beats_in_both() -> None:
    score, seconds = np.array([0.9, 0.8, 0.7, 0.9, 0.95, 0.99]), np.array([10.0, 5.0, 6.0, 10.0, 100.0, math.nan])
    assert statistics.pareto(score, seconds).tolist() == [True, True, False, True, True, False]


# --- a whole board ---------------------------------------------------------------------------------------------------


def made(
    right: float, label: np.ndarray, rng: np.random.Generator, seeds: Sequence[int] = (0,), dataset: str = "a"
) -> list[Score]:
    found = []
    for seed in seeds:
        said = np.where(rng.random(label.shape) < right, label, (label + 1) % 3)
        found.append(Score(dataset, seed, float((said == label).mean()), 60.0, 100.0, 1024.0, 10, said))
    return found


@pytest.fixture
def board() -> Board:
    rng = np.random.default_rng(0)
    label = {name: rng.integers(0, 3, (300, 1)) for name in "abc"}
    datasets = {name: RankedDataset(name, name, "kway", "accuracy", label[name]) for name in "abc"}

    def entry(name: str, kind: str, right: float, seeds: Sequence[int] = (0,), datasets: str = "abc") -> Entry:
        return Entry(name, name, kind, "", [s for d in datasets for s in made(right, label[d], rng, seeds, d)])

    entries = [
        entry("majority", "control", 0.3),
        entry("weak", "rival", 0.6),
        entry("good", "mmtab", 0.8, (0, 1, 2)),
        entry("twin", "rival", 0.8),
        entry("partial", "rival", 0.95, datasets="ab"),
        Entry("none", "none", "team"),
        entry("less", "rival", 0.9, datasets="a"),
    ]
    return Board("toys", {"t": ["a", "b", "c"]}, datasets, entries)


def test_entries_with_all_datasets_are_ranked_and_others_listed(board: Board) -> None:
    (found,) = statistics.standings(board)
    names = [entry.name for entry in found.entries]
    assert set(names[:2]) == {"good", "twin"} and names[2:] == ["weak", "majority", "partial", "less"]
    assert found.n_ranked == 4 and found.n_seeds.tolist()[names.index("good")] == [3, 3, 3]
    assert found.wins.tolist() == [*[int(x) for x in found.best[:2].sum(1)], 0, 0, 2, 0]
    assert found.average == pytest.approx(found.scores[:4].mean(1)) and (np.diff(found.average) < 0).all()
    assert found.normalised[3] == pytest.approx(0) and found.ranks.shape == (4, 3)
    assert found.cost[0].train_seconds == pytest.approx(180) and found.cost[0].n_parameters == 10
    assert found.p.shape == (4, 4) and found.p[0, 1] == found.p[1, 0] and not found.no_interval()


def test_intervals_hold_the_average_and_tell_what_is_noise(board: Board) -> None:
    (found,) = statistics.standings(board)
    low, high = found.average_interval.T
    assert ((low < found.average) & (found.average < high)).all()
    names = [entry.name for entry in found.entries]
    good, twin, weak = (names.index(name) for name in ("good", "twin", "weak"))
    assert not found.apart(good, twin) and found.apart(good, weak) and found.above[good, weak] > 0.999
    assert found.above[good, twin] + found.above[twin, good] == pytest.approx(1)
    np.testing.assert_allclose(found.difference_interval[good, weak], -found.difference_interval[weak, good][::-1])
    partial = names.index("partial")
    assert found.tied[partial, :2].all() and found.best[partial, :2].all() and not found.tied[weak].any()
    assert found.apart_on(partial, weak, 0) and found.apart_on(partial, weak, 2) is None


def test_seeds_are_noise_too(board: Board) -> None:
    good = next(entry for entry in board.entries if entry.name == "good")
    drawn = statistics.draws(board)["a"]["good"]
    rows = board.datasets["a"].label
    assert rows is not None
    scores = good.of("a")
    wide = [Score("a", i, v, prediction=p) for i, (v, p) in enumerate([(1.0, rows), (0.0, rows + 1)])]
    apart = Board("x", {"t": ["a"]}, {"a": board.datasets["a"]}, [Entry("good", "good", "mmtab", "", wide)])
    values = statistics.draws(apart)["a"]["good"]
    assert set(values) == {0.0, 0.5, 1.0}  # the rows say the same; which seeds were drawn does not
    assert values.mean() == pytest.approx(0.5, abs=0.05) and drawn.mean() == pytest.approx(
        np.mean([s.value for s in scores]), abs=0.01
    )
    assert (statistics.draws(board)["a"]["good"] == drawn).all()


def test_a_track_of_all_is_made_of_several(board: Board) -> None:
    split = Board("toys", {"x": ["a"], "y": ["b", "c"]}, board.datasets, board.entries)
    assert [(s.name, s.datasets) for s in statistics.standings(split, 50)] == [
        ("all", ["a", "b", "c"]),
        ("x", ["a"]),
        ("y", ["b", "c"]),
    ]
    same = Board("toys", {"x": ["a"], "every": ["a", "b", "c"]}, board.datasets, board.entries)
    assert [s.name for s in statistics.standings(same, 50)] == ["x", "every"]


def test_without_predictions_there_are_ranks_but_no_intervals(board: Board) -> None:
    entries = [
        Entry(e.name, e.title, e.kind, "", [Score(s.dataset, s.seed, s.value) for s in e.scores]) for e in board.entries
    ]
    bare = Board("toys", board.tracks, board.datasets, entries)
    (found,) = statistics.standings(bare)
    (full,) = statistics.standings(board, 20)
    assert found.no_interval() == ["a", "b", "c"] and np.isnan(found.average_interval).all()
    assert found.apart(0, 1) is None and (found.tied == found.best).all() and (found.ranks == full.ranks).all()
    assert found.cost[0].train_seconds is None and np.isnan(found.seconds).all()


def test_nothing_to_rank(board: Board) -> None:
    assert statistics.standings(Board("x", {}, {}, [])) == []
    (found,) = statistics.standings(Board("x", {"t": ["a"]}, board.datasets, []))
    assert found.n_ranked == 0 and found.scores.shape == (0, 1) and found.critical is None
    broken = [Entry("e", "e", "team", "", [Score("a", 0, math.nan)])]
    (found,) = statistics.standings(Board("x", {"t": ["a"]}, board.datasets, broken))
    assert not found.entries
    one = Board("x", {"t": ["a"]}, board.datasets, board.entries[-1:])
    (found,) = statistics.standings(one)
    assert found.n_ranked == 1 and found.groups == [] and found.friedman is None and found.place.tolist() == [1]
