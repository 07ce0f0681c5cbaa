"""Blocking and nearest neighbours against brute force; mined negatives come from training records that do not match."""

from __future__ import annotations

import numpy as np
import pytest

from mmtab.matching import search
from mmtab.matching.blocking import Neighbourhood, candidate_pairs, choose_neighbourhood
from mmtab.matching.search import Searcher, Side, word_vectors, words_of
from mmtab.training.mining import hard_negatives, passes
from mmtab.utils import neighbours
from mmtab.utils.neighbours import Index


def unit(rng: np.random.Generator, n: int, d: int = 16) -> np.ndarray:
    x = rng.normal(size=(n, d)).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def side(texts: list[str], vectors: np.ndarray | None = None) -> Side:
    return Side(word_vectors(texts), unit(np.random.default_rng(0), len(texts)) if vectors is None else vectors)


# --- neighbours ------------------------------------------------------------------------------------------------------


def test_few_vectors_are_searched_exactly() -> None:
    rng = np.random.default_rng(1)
    base, asked = unit(rng, 300), unit(rng, 40)
    found, similarity = Index(base).search(asked, 5)
    exact = np.argsort(-asked @ base.T, 1)[:, :5]
    assert np.array_equal(found, exact)
    np.testing.assert_allclose(similarity, np.take_along_axis(asked @ base.T, exact, 1), atol=1e-5)


def test_many_vectors_are_searched_nearly_exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(2)
    base, asked = unit(rng, 3000), unit(rng, 200)
    exact, _ = Index(base).search(asked, 10)
    monkeypatch.setattr(neighbours, "EXACT", 100)
    near, _ = Index(base).search(asked, 10)
    shared = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(exact.tolist(), near.tolist(), strict=True)])
    assert shared > 0.95


def test_fewer_vectors_than_asked_for() -> None:
    found, _ = Index(unit(np.random.default_rng(0), 3)).search(unit(np.random.default_rng(1), 2), 10)
    assert found.shape == (2, 3)


# --- words -----------------------------------------------------------------------------------------------------------


def test_words_are_words_neighbours_and_codes_without_their_punctuation() -> None:
    assert set(words_of("Sony MX-450/B radio")) == {
        "sony",
        "mx",
        "450",
        "b",
        "radio",
        "sony mx",
        "mx 450",
        "450 b",
        "b radio",
        "mx450b",
    }
    assert list(words_of("")) == []


def cosines(left: Side, right: Side) -> tuple[np.ndarray, np.ndarray]:
    """By words, weighted as in both tables, and by vectors, of all with all."""
    used = np.unique(np.concatenate([left.words.indices, right.words.indices]))
    a, b = (part.words[:, used].toarray() for part in (left, right))
    idf = np.log((1 + len(a) + len(b)) / (1 + a.sum(0) + b.sum(0))) + 1
    idf[(a.sum(0) == 0) | (b.sum(0) == 0)] = 0
    a, b = a * idf, b * idf
    norm = np.linalg.norm(a, axis=1)[:, None] * np.linalg.norm(b, axis=1)
    return a @ b.T / np.maximum(norm, 1e-9), left.vectors @ right.vectors.T


@pytest.mark.parametrize("weight", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("exact", [20_000, 1])
def test_neighbours_are_those_of_brute_force(weight: float, exact: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where all are scored, and where those near in words or vectors are."""
    monkeypatch.setattr(neighbours, "EXACT", exact)
    rng = np.random.default_rng(3)
    vocabulary = [f"w{i}" for i in range(40)]
    texts = [" ".join(rng.choice(vocabulary, 6)) for _ in range(60)]
    left, right = side(texts[:25]), side(texts[25:], unit(rng, 35))
    by_words, by_vectors = cosines(left, right)
    score = (1 - weight) * by_words + weight * by_vectors
    if weight == 0:
        score[by_words <= 0] = -np.inf
    found, scores = Searcher(left, right).neighbours(4, weight)
    best = -np.sort(-score, 1)[:, :4]
    assert np.array_equal(found >= 0, np.isfinite(best))
    np.testing.assert_allclose(scores[found >= 0], best[found >= 0], atol=1e-5)
    np.testing.assert_allclose(np.take_along_axis(score, found.clip(0), 1)[found >= 0], scores[found >= 0], atol=1e-5)


def test_from_either_side_a_pair_has_one_score() -> None:
    rng = np.random.default_rng(6)
    texts = [" ".join(rng.choice([f"w{i}" for i in range(30)], 5)) for _ in range(50)]
    left, right = side(texts[:20], unit(rng, 20)), side(texts[20:], unit(rng, 30))
    there, back = Searcher(left, right).neighbours(30, 0.6), Searcher(right, left).neighbours(20, 0.6)
    tables = []
    for (found, scores), shape in ((there, (20, 30)), (back, (30, 20))):
        table = np.zeros(shape, np.float32)
        np.put_along_axis(table, found, scores, 1)
        tables.append(table)
    np.testing.assert_allclose(tables[0], tables[1].T, atol=1e-6)


def test_a_word_of_many_records_makes_no_neighbours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "MAX_RECORDS", 5)
    common = [f"the only{i}" for i in range(10)]
    searcher = Searcher(side(common), side([*common[:3], *(f"the other{i}" for i in range(7))]))
    found, _ = searcher.neighbours(3, 0.0)
    assert found[:3, 0].tolist() == [0, 1, 2] and (found[3:] == -1).all() and (found[:3, 1:] == -1).all()


@pytest.mark.parametrize("exact", [20_000, 1])
@pytest.mark.parametrize("same", [False, True])
def test_three_indexes_find_what_one_finds(exact: int, same: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "EXACT", exact)
    rng, weights = np.random.default_rng(5), (0.0, 0.6, 1.0)
    texts = [f"thing{i % 20} kind{i % 7} n{i % 11} m{i % 13}" for i in range(130)]
    whole = side(texts, unit(rng, 130))
    sides = [whole] if same else [whole[np.arange(30)], whole[np.arange(30, 130)]]
    one, three = Searcher(*sides), Searcher(*sides, shard=len(sides[-1]) // 3 + 1)
    partners = sides[-1][rng.integers(0, len(sides[-1]), len(sides[0]))]
    ranks = [searcher.partner_ranks(sides[0], partners, weights, 5) for searcher in (one, three)]
    assert np.array_equal(*ranks)
    for weight in weights:
        (rows, scores), (rows_of_three, scores_of_three) = one.neighbours(5, weight), three.neighbours(4, weight)
        np.testing.assert_allclose(scores[:, :4], scores_of_three, atol=1e-6)
        untied = (np.diff(scores, axis=1) < -1e-6).all(1)
        assert np.array_equal(rows[untied, :4], rows_of_three[untied]) and (untied.sum() > 20 or not weight)


@pytest.mark.parametrize("exact", [20_000, 1])
def test_in_one_table_no_record_is_its_own_neighbour(exact: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "EXACT", exact)
    texts = ["red lamp one", "red lamp one", "blue chair", "blue chair two"]
    vectors = unit(np.random.default_rng(0), 4)
    vectors[1] = vectors[0]
    searcher = Searcher(side(texts, vectors))
    for weight in (0.0, 1.0):
        found, _ = searcher.neighbours(3, weight)
        assert found.shape == (4, 3) and (found != np.arange(4)[:, None]).all() and found[:2, 0].tolist() == [1, 0]
    assert searcher.neighbours(3, 0.0)[0][:, 0].tolist() == [1, 0, 3, 2]


# --- candidates ------------------------------------------------------------------------------------------------------


def test_candidates_are_each_pair_once() -> None:
    nearest, scores = np.array([[1, 2, -1], [0, -1, -1]]), np.array([[0.5, 0.4, 0.0], [0.5, 0.0, 0.0]], np.float32)
    a, b, score = candidate_pairs(nearest, scores)
    assert list(zip(a.tolist(), b.tolist(), strict=True)) == [(0, 1), (0, 2), (1, 0)]
    assert score.tolist() == scores[[0, 0, 1], [0, 1, 0]].tolist()
    a, b, score = candidate_pairs(nearest, scores, same=True)
    assert list(zip(a.tolist(), b.tolist(), strict=True)) == [(0, 1), (0, 2)] and len(score) == 2
    assert all(len(x) == 0 for x in candidate_pairs(nearest[:, :0], scores[:, :0]))


@pytest.mark.parametrize("exact", [20_000, 1])
def test_ranks_say_where_a_partner_is_found_or_would_be(exact: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "EXACT", exact)
    rng, weights = np.random.default_rng(4), (0.0, 0.5, 1.0)
    texts = [f"thing{i % 20} kind{i % 7} n{i}" for i in range(80)]
    whole = side(texts, unit(rng, 80))
    left, right = whole[np.arange(30)], whole[np.arange(30, 80)]
    searcher, partner = Searcher(left, right), rng.integers(0, 50, 30)
    ranks = searcher.partner_ranks(left, right[partner], weights, 5)
    for w, weight in enumerate(weights):
        hit = searcher.neighbours(5, weight)[0] == partner[:, None]
        # at most as far, for ties share a place
        assert (np.where(hit.any(1), hit.argmax(1), 5) >= ranks[:, w]).all() and ((ranks[:, w] < 5) >= hit.any(1)).all()
    # without the partner among the others it has the place that it would have
    fewer, first = Searcher(left, right[np.arange(1, 50)]), np.zeros(3, np.int64)
    there, not_there = (s.partner_ranks(left[np.arange(3)], right[first], (1.0,), 5) for s in (searcher, fewer))
    assert np.array_equal(there, not_there)


def test_the_fewest_neighbours_that_reach_the_recall() -> None:
    ranks = np.array([[0, 5], [1, 0], [5, 1], [5, 3]])
    assert choose_neighbourhood(ranks[:2], (0.0, 1.0), 5, 1.0) == Neighbourhood(2, 0.0, 1.0)
    assert choose_neighbourhood(ranks, (0.0, 1.0), 5, 0.5) == Neighbourhood(2, 1.0, 0.5)  # whose partners rank better
    assert choose_neighbourhood(ranks, (0.0, 1.0), 5, 1.0) == Neighbourhood(4, 1.0, 0.75)  # more does not help
    assert choose_neighbourhood(ranks[1:], (0.0, 1.0), 3, 1.0) == Neighbourhood(2, 1.0, 2 / 3)
    assert choose_neighbourhood(ranks[:0], (0.0, 1.0), 3, 0.9).recall is None


# --- mining ----------------------------------------------------------------------------------------------------------


def test_hard_negatives_are_near_training_records_that_no_match_ties() -> None:
    rng = np.random.default_rng(5)
    vectors = unit(rng, 60, 4)
    left, right = rng.integers(0, 30, 50), rng.integers(30, 50, 50)  # records 50 to 59 are in no training pair
    match = rng.random(50) < 0.3
    a, b, known = hard_negatives(vectors, left, right, match, k=4)
    assert len(a) > 10 and np.isin(a, left[match]).all() and np.isin(b, right).all()
    assert match[known].all() and (left[known] == a).all()
    tied = {tuple(pair) for pair in zip(left, right, strict=True)}
    assert not tied & set(zip(a, b, strict=True))
    partners: dict[int, set[int]] = {}
    for i, j in zip(left[match].tolist(), right[match].tolist(), strict=True):
        partners.setdefault(i, set()).add(j)
    for i, j in zip(a.tolist(), b.tolist(), strict=True):  # no chain of two links either
        assert not any(j in partners[k] for k in partners if partners[k] & partners[i])
    near = (vectors @ vectors.T)[a, b]
    assert near.mean() > (vectors @ vectors.T)[np.ix_(left, right)].mean() + 0.3


def test_without_matches_nothing_is_mined() -> None:
    none = hard_negatives(unit(np.random.default_rng(0), 6), np.array([0, 1]), np.array([3, 4]), np.zeros(2, bool))
    assert all(len(x) == 0 for x in none)


def test_what_looks_more_like_a_match_than_the_known_one_is_left_out() -> None:
    assert passes(np.array([0.2, 0.9, 0.97]), np.array([0.9, 0.99, 0.98])).tolist() == [True, True, False]
