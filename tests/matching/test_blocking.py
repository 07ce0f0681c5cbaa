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


def test_neighbours_by_words_are_those_of_brute_force() -> None:
    rng = np.random.default_rng(3)
    vocabulary = [f"w{i}" for i in range(40)]
    texts = [" ".join(rng.choice(vocabulary, 6)) for _ in range(60)]
    left, right = side(texts[:25]), side(texts[25:])
    found, _ = Searcher(left, right).neighbours(4)
    used = np.unique(np.concatenate([left.words.indices, right.words.indices]))
    a, b = (part.words[:, used].toarray() for part in (left, right))
    idf = np.log((1 + 60) / (1 + a.sum(0) + b.sum(0))) + 1
    idf[(a.sum(0) == 0) | (b.sum(0) == 0)] = 0
    a, b = a * idf, b * idf
    norm = np.linalg.norm(a, axis=1)[:, None] * np.linalg.norm(b, axis=1)
    cosine = a @ b.T / np.maximum(norm, 1e-9)
    for row, others in enumerate(found):
        kept = others[others >= 0]
        best = np.sort(cosine[row])[::-1][: len(kept)]
        np.testing.assert_allclose(cosine[row, kept], best, atol=1e-5)
        assert len(kept) == min(4, (cosine[row] > 0).sum())


def test_a_word_of_many_records_makes_no_neighbours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "MAX_RECORDS", 5)
    common = [f"the only{i}" for i in range(10)]
    found, _ = Searcher(side(common), side([*common[:3], *(f"the other{i}" for i in range(7))])).neighbours(3)
    assert found[:3, 0].tolist() == [0, 1, 2] and (found[3:] == -1).all() and (found[:3, 1:] == -1).all()


def test_in_one_table_no_record_is_its_own_neighbour() -> None:
    texts = ["red lamp one", "red lamp one", "blue chair", "blue chair two"]
    vectors = unit(np.random.default_rng(0), 4)
    vectors[1] = vectors[0]
    by_words, by_vectors = Searcher(side(texts, vectors)).neighbours(3)
    for found in (by_words, by_vectors):
        assert found.shape == (4, 3) and (found != np.arange(4)[:, None]).all()
    assert by_words[:, 0].tolist() == [1, 0, 3, 2] and by_vectors[:2, 0].tolist() == [1, 0]


# --- candidates ------------------------------------------------------------------------------------------------------


def test_candidates_are_the_union_each_once() -> None:
    words, vectors = np.array([[1, 2], [0, -1]]), np.array([[1, 3], [2, 0]])
    a, b = candidate_pairs(words, vectors, Neighbourhood(1, 1, 1.0))
    assert list(zip(a.tolist(), b.tolist(), strict=True)) == [(0, 1), (1, 0), (1, 2)]
    a, b = candidate_pairs(words, vectors, Neighbourhood(2, 2, 1.0), same=True)
    assert list(zip(a.tolist(), b.tolist(), strict=True)) == [(0, 1), (0, 2), (0, 3), (1, 2)]
    assert all(len(x) == 0 for x in candidate_pairs(words, vectors, Neighbourhood(0, 0, 0.0)))


def test_places_say_where_a_partner_is_found_or_would_be() -> None:
    rng = np.random.default_rng(4)
    texts = [f"thing{i % 20} kind{i % 7} n{i}" for i in range(80)]
    whole = side(texts, unit(rng, 80))
    left, right = whole[np.arange(30)], whole[np.arange(30, 80)]
    searcher = Searcher(left, right)
    asked, partner = np.arange(30), rng.integers(0, 50, 30)
    ranks = searcher.partner_ranks(left, right[partner], 5)
    for kind, found in enumerate(searcher.neighbours(5)):
        hit = found == partner[:, None]
        assert (
            np.where(hit.any(1), hit.argmax(1), 5) >= ranks[:, kind]
        ).all()  # at most as far, for ties share a place
        assert ((ranks[:, kind] < 5) >= hit.any(1)).all()
    # without the partner among the others it has the place that it would have
    others = np.setdiff1d(np.arange(50), [0])
    fewer = Searcher(left, right[others]).partner_ranks(left[asked[:3]], right[np.zeros(3, np.int64)], 5)
    assert np.array_equal(fewer[:, 1], searcher.partner_ranks(left[asked[:3]], right[np.zeros(3, np.int64)], 5)[:, 1])


def test_the_fewest_neighbours_that_reach_the_recall() -> None:
    ranks = np.array([[0, 5], [1, 5], [5, 0], [5, 5]])
    assert choose_neighbourhood(ranks[:3], 5, 1.0) == Neighbourhood(2, 1, 1.0)
    assert choose_neighbourhood(ranks[:2], 5, 1.0) == Neighbourhood(2, 0, 1.0)
    assert choose_neighbourhood(ranks, 5, 0.5) == Neighbourhood(2, 0, 0.5)
    assert choose_neighbourhood(ranks, 5, 1.0) == Neighbourhood(2, 1, 0.75)  # more does not help
    assert choose_neighbourhood(ranks[:0], 3, 0.9).recall == 0


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
