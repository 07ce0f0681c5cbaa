"""Clusters from scored pairs: consistent links stay together, doubtful ones are cut, and scores equal known ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment
from sklearn.metrics.cluster import pair_confusion_matrix

from mmtab.matching.clustering import ABSENT, METHODS, components, correlation, evaluate, renumber, unique

LIMITS = settings(max_examples=80, deadline=None)
ODDS = st.floats(0, 1)
Pairs = list[tuple[int, int, float]]


def arrays(pairs: Pairs) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    left, right, probability = zip(*pairs, strict=True) if pairs else ((), (), ())
    return np.array(left, np.int64), np.array(right, np.int64), np.array(probability, float)


@st.composite
def graphs(draw: st.DrawFn, most: int = 9) -> tuple[int, Pairs]:
    n = draw(st.integers(1, most))
    record = st.integers(0, n - 1)
    return n, draw(st.lists(st.tuples(record, record, ODDS), max_size=3 * n))


def random_graph(rng: np.random.Generator, n: int) -> Pairs:
    return [(a, b, rng.random()) for a, b in combinations(range(n), 2) if rng.random() < 0.7]


def groups(labels: np.ndarray) -> list[list[int]]:
    return [np.flatnonzero(labels == label).tolist() for label in range(labels.max() + 1)]


def held(labels: np.ndarray, pairs: Pairs, threshold: float, absent: float = ABSENT) -> float:
    """The objective, pair by pair."""
    best: dict[tuple[int, int], float] = {}
    for a, b, p in pairs:
        best[min(a, b), max(a, b)] = max(p, best.get((min(a, b), max(a, b)), 0.0))
    total = 0.0
    for pair in combinations(range(len(labels)), 2):
        if labels[pair[0]] == labels[pair[1]]:
            p = best.get(pair)
            with np.errstate(divide="ignore"):
                odds = -absent if p is None else np.log(p) - np.log1p(-p) - np.log(threshold / (1 - threshold))
            total += float(np.clip(odds, -10, 10))
    return total


def partitions(n: int) -> Iterator[list[int]]:
    if n == 0:
        yield []
        return
    for labels in partitions(n - 1):
        for label in range(max(labels, default=-1) + 2):
            yield [*labels, label]


@pytest.mark.parametrize("method", METHODS)
@LIMITS
@given(graphs(), st.floats(0.05, 0.95))
def test_each_record_is_in_one_cluster_inside_its_component(
    method: str, graph: tuple[int, Pairs], threshold: float
) -> None:
    n, pairs = graph
    labels, whole = METHODS[method](n, *arrays(pairs), threshold), components(n, *arrays(pairs), threshold)
    assert labels.shape == (n,) and labels.dtype == np.int64
    assert (labels == renumber(labels)).all()
    assert all(len(set(whole[group])) == 1 for group in groups(labels))


@LIMITS
@given(graphs(30), st.floats(0.05, 0.95))
def test_components_are_those_of_a_union_find(graph: tuple[int, Pairs], threshold: float) -> None:
    n, pairs = graph
    parent = list(range(n))

    def find(a: int) -> int:
        return a if parent[a] == a else find(parent[a])

    for a, b, p in pairs:
        if p >= threshold:
            parent[find(a)] = find(b)
    assert (components(n, *arrays(pairs), threshold) == renumber(np.array([find(a) for a in range(n)]))).all()


def test_clusters_are_numbered_by_their_first_record() -> None:
    assert renumber(np.array([7, 3, 7, -1, 3])).tolist() == [0, 1, 0, 2, 1]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("n", [0, 1, 4])
def test_without_pairs_each_record_is_alone(method: str, n: int) -> None:
    assert METHODS[method](n, *arrays([]), 0.5).tolist() == list(range(n))
    assert METHODS[method](n, *arrays([(a, a, 1.0) for a in range(n)]), 0.5).tolist() == list(range(n))


@pytest.mark.parametrize("method", METHODS)
def test_a_pair_counts_by_its_highest_score_however_often_it_comes(method: str) -> None:
    assert METHODS[method](2, *arrays([(0, 1, 0.1), (1, 0, 0.6), (0, 1, 0.2)]), 0.5).tolist() == [0, 0]
    assert METHODS[method](2, *arrays([(0, 1, 0.5)] * 256), 0.5).tolist() == [0, 0]
    triangle = [(0, 1, 0.9), (1, 2, 0.9), (0, 2, 0.1), (2, 0, 0.7)]
    assert METHODS[method](3, *arrays(triangle), 0.5).tolist() == [0, 0, 0]


def test_a_chain_breaks_at_its_doubtful_link() -> None:
    chain = [(0, 1, 0.95), (1, 2, 0.55), (0, 2, 0.02)]
    assert components(3, *arrays(chain), 0.5).tolist() == [0, 0, 0]
    assert correlation(3, *arrays(chain), 0.5).tolist() == [0, 0, 1]
    sure = [(0, 1, 0.95), (1, 2, 0.95), (0, 2, 0.4)]
    assert correlation(3, *arrays(sure), 0.5).tolist() == [0, 0, 0]


def test_a_record_goes_to_the_group_that_holds_it_most() -> None:
    """Contraction takes 2-3 first, its best pair; 3 is then better off with 4 and 5, and moves."""
    pairs = [(0, 1, 0.9), (0, 2, 0.9), (1, 2, 0.9), (2, 3, 0.97), (3, 4, 0.95), (3, 5, 0.95), (4, 5, 0.9)]
    pairs += [(a, b, 0.02) for a in (0, 1) for b in (3, 4, 5)] + [(2, 4, 0.02), (2, 5, 0.02)]
    assert correlation(6, *arrays(pairs), 0.5).tolist() == [0, 0, 0, 1, 1, 1]


@pytest.mark.parametrize(("link", "joined"), [(0.6, False), (0.95, False), (0.99, True)])
def test_groups_join_by_a_link_as_sure_as_the_absent_pairs_are_many(link: float, joined: bool) -> None:
    pairs = [(a, b, 0.95) for group in (range(3), range(3, 6)) for a, b in combinations(group, 2)]
    bridged = [*pairs, (2, 3, link)]
    assert components(6, *arrays(bridged), 0.5).tolist() == [0] * 6
    assert correlation(6, *arrays(bridged), 0.5).tolist() == ([0] * 6 if joined else [0, 0, 0, 1, 1, 1])
    assert correlation(6, *arrays(bridged), 0.5, absent=5.0).tolist() == [0, 0, 0, 1, 1, 1]
    assert correlation(6, *arrays(bridged), 0.5, absent=0.01).tolist() == [0] * 6


@pytest.mark.parametrize("method", METHODS)
@LIMITS
@given(graphs(), st.randoms(use_true_random=False))
def test_neither_the_order_of_pairs_nor_their_sides_count(method: str, graph: tuple[int, Pairs], chance) -> None:  # type: ignore[no-untyped-def]
    n, pairs = graph
    turned = [(b, a, p) if chance.random() < 0.5 else (a, b, p) for a, b, p in pairs]
    chance.shuffle(turned)
    assert (METHODS[method](n, *arrays(pairs), 0.5) == METHODS[method](n, *arrays(turned), 0.5)).all()


@settings(max_examples=200, deadline=None)
@given(graphs(), st.floats(0.05, 0.95), st.floats(0.01, 5))
def test_correlation_holds_no_less_than_components_nor_than_all_apart(
    graph: tuple[int, Pairs], threshold: float, absent: float
) -> None:
    n, pairs = graph
    found = held(correlation(n, *arrays(pairs), threshold, absent), pairs, threshold, absent)
    whole = held(components(n, *arrays(pairs), threshold), pairs, threshold, absent)
    assert found >= max(whole, 0.0) - 1e-6


def test_correlation_is_near_the_best_of_all_clusterings() -> None:
    rng = np.random.default_rng(0)
    best, found, exact = 0.0, 0.0, 0
    for graph in range(120):
        n = 3 + graph % 4
        pairs = random_graph(rng, n)
        values = [held(np.array(labels), pairs, 0.4) for labels in partitions(n)]
        value = held(correlation(n, *arrays(pairs), 0.4), pairs, 0.4)
        best, found, exact = best + max(values), found + value, exact + (value > max(values) - 1e-6)
    assert found > 0.99 * best and exact >= 0.95 * 120, (found, best, exact)


@pytest.mark.parametrize("shape", ["chain", "star"])
def test_one_huge_component_is_not_quadratic(shape: str) -> None:
    n = 20_000  # quadratic work would take minutes, and the test's time limit ends it
    right = np.arange(1, n)
    left = right - 1 if shape == "chain" else np.zeros(n - 1, np.int64)
    labels = correlation(n, left, right, np.full(n - 1, 0.9), 0.5)
    assert 2 <= np.bincount(labels).max() < 12


@LIMITS
@given(st.integers(1, 5), st.integers(1, 5), st.data())
def test_unique_gives_each_record_the_partner_that_is_best_for_all(
    n_left: int, n_right: int, data: st.DataObject
) -> None:
    cell = st.tuples(st.integers(0, n_left - 1), st.integers(n_left, n_left + n_right - 1), ODDS)
    pairs, threshold = data.draw(st.lists(cell, max_size=20)), data.draw(st.floats(0.05, 0.95))
    labels = unique(n_left + n_right, n_left, *arrays(pairs), threshold)
    assert (labels == renumber(labels)).all()
    gain = np.zeros((n_left, n_right))
    for a, b, p in pairs:
        if p >= threshold:
            with np.errstate(divide="ignore"):
                odds = np.log(p) - np.log1p(-p) - np.log(threshold / (1 - threshold))
            gain[a, b - n_left] = max(gain[a, b - n_left], min(odds, 10), 1e-9)
    joined = [group for group in groups(labels) if len(group) > 1]
    assert all(len(group) == 2 and group[0] < n_left <= group[1] for group in joined)
    assert all(gain[a, b - n_left] > 0 for a, b in joined), "only what the model calls a match"
    total = sum(gain[a, b - n_left] for a, b in joined)
    assert total == pytest.approx(gain[linear_sum_assignment(gain, maximize=True)].sum(), abs=1e-6)


BAD: dict[str, tuple[Callable[[], object], str]] = {
    "lengths": (lambda: components(3, np.array([0, 1]), np.array([1]), np.array([0.5]), 0.5), "one number a pair"),
    "below": (lambda: components(3, np.array([-1]), np.array([1]), np.array([0.5]), 0.5), r"left\[0\] is -1"),
    "above": (lambda: correlation(3, np.array([0]), np.array([3]), np.array([0.5]), 0.5), r"right\[0\] is 3.* 3 rec"),
    "not numbers": (lambda: components(3, np.array([0.5]), np.array([1]), np.array([0.5]), 0.5), "record numbers"),
    "nan": (lambda: correlation(3, np.array([0]), np.array([1]), np.array([np.nan]), 0.5), r"probability\[0\] is nan"),
    "score": (lambda: components(3, np.array([0]), np.array([1]), np.array([2.5]), 0.5), r"2.5; expected .* 0 to 1"),
    "threshold": (lambda: components(3, *arrays([]), 1.0), "threshold is 1.0"),
    "threshold nan": (lambda: correlation(3, *arrays([]), float("nan")), "threshold is nan"),
    "absent": (lambda: correlation(3, *arrays([]), 0.5, absent=0.0), "absent is 0.0"),
    "one side": (lambda: unique(3, 2, *arrays([(0, 1, 0.9)]), 0.5), "records 0 and 1 are on one side"),
    "truth": (lambda: evaluate(np.array([0, 1]), np.array([0])), "one number a record"),
    "truth below": (lambda: evaluate(np.array([0, 1]), np.array([0, -2])), "truth holds -2"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_named(case: str) -> None:
    call, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        call()


@LIMITS
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(-1, 6)), min_size=1, max_size=60))
def test_scores_are_the_known_ones(records: list[tuple[int, int]]) -> None:
    labels, truth = np.array(records).T
    values = evaluate(labels, truth)
    assert values["n_clusters"] == len(set(labels.tolist()))
    labels, truth = labels[truth >= 0], truth[truth >= 0]
    if len(truth) == 0:
        assert all(np.isnan(value) for name, value in values.items() if name != "n_clusters")
        return
    (_, false), (missed, right) = pair_confusion_matrix(truth, labels).tolist()
    if right:
        assert values["pair_precision"] == pytest.approx(right / (right + false))
        assert values["pair_recall"] == pytest.approx(right / (right + missed))
        assert values["pair_f1"] == pytest.approx(2 * right / (2 * right + false + missed))
    else:
        assert values["pair_f1"] == (0.0 if false or missed else 1.0)

    precision = [np.mean(truth[labels == a] == b) for a, b in zip(labels, truth, strict=True)]
    recall = [np.mean(labels[truth == b] == a) for a, b in zip(labels, truth, strict=True)]
    assert values["bcubed_precision"] == pytest.approx(np.mean(precision))
    assert values["bcubed_recall"] == pytest.approx(np.mean(recall))
    harmonic = 2 / (1 / np.mean(precision) + 1 / np.mean(recall))
    assert values["bcubed_f1"] == pytest.approx(harmonic)

    found, true = ({tuple(np.flatnonzero(of == label)) for label in set(of.tolist())} for of in (labels, truth))
    assert values["cluster_precision"] == pytest.approx(len(found & true) / len(found))
    assert values["cluster_recall"] == pytest.approx(len(found & true) / len(true))
    assert values["cluster_f1"] == pytest.approx(2 * len(found & true) / (len(found) + len(true)))


@pytest.mark.parametrize("truth", [[0, 0, 1, 2, 2], [4, 3, 2, 1, 0], [5, 5, 5, 5, 5], [0]])
def test_the_truth_itself_is_perfect(truth: list[int]) -> None:
    values = evaluate(renumber(np.array(truth)), np.array(truth))
    assert values.pop("n_clusters") == len(set(truth))
    assert set(values.values()) == {1.0}


def test_without_known_records_there_is_no_score() -> None:
    nothing = np.array([], np.int64)
    for labels, truth, n_clusters in ((nothing, nothing, 0), (np.array([0, 1, 1]), np.array([-1, -1, -1]), 2)):
        values = evaluate(labels, truth)
        assert values.pop("n_clusters") == n_clusters
        assert np.isnan(list(values.values())).all() and len(values) == 9
