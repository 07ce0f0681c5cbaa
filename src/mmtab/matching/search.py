"""The search for candidates: records that share rare words and whose vectors lie near each other, in one score."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import scipy.sparse as sp

from mmtab.utils import neighbours
from mmtab.utils.machine import usable_cores
from mmtab.utils.neighbours import Index
from mmtab.utils.optional import require

WORD = re.compile(r"\w+")
CODE = re.compile(r"\w[\w\-/.]*\w")
MAX_RECORDS = 1_000  # a word in more records of a side than this tells too little for what its block would cost
N_WORDS = 1 << 22  # hashed
SCORED_AT_ONCE = 1 << 21  # pairs whose scores are in memory


def words_of(text: str) -> Iterator[str]:
    """Words, neighbouring words together, and codes without their punctuation ("MX-450/B" and "mx450b" are one)."""
    text = text.lower()
    words = WORD.findall(text)
    yield from words
    yield from map(" ".join, pairwise(words))
    for code in CODE.findall(text):
        if any(c.isdigit() for c in code) and not code.isalnum():
            yield "".join(WORD.findall(code))


def word_vectors(texts: list[str]) -> sp.csr_matrix:
    """[n, N_WORDS] float32, 1 for each word that a text has."""
    from sklearn.feature_extraction.text import HashingVectorizer

    hashing = HashingVectorizer(
        analyzer=words_of, n_features=N_WORDS, norm=None, alternate_sign=False, binary=True, dtype=np.float32
    )
    return hashing.transform(texts)


@dataclass(frozen=True)
class Side:
    """Records of one side as the search sees them: ``words`` [n, N_WORDS], ``vectors`` [n, d] of length 1."""

    words: sp.csr_matrix
    vectors: np.ndarray

    def __len__(self) -> int:
        return len(self.vectors)

    def __getitem__(self, rows: np.ndarray) -> Side:
        return Side(self.words[rows], self.vectors[rows])


@dataclass(frozen=True)
class _Scored:
    """For some queries, the others that come into question: numbers [q, c] (-1: none), and both kinds of cosine."""

    rows: np.ndarray
    words: np.ndarray
    vectors: np.ndarray

    def score(self, weight: float) -> np.ndarray:
        """[q, c], -inf where there is none."""
        score = (1 - weight) * self.words + weight * self.vectors
        absent = self.rows < 0 if weight else (self.rows < 0) | (self.words <= 0)
        return np.where(absent, -np.inf, score)


class _Shard:
    """Others that are searched together, from row number ``start`` on: weighted words [n, useful words], vectors
    [n, d]."""

    def __init__(self, start: int, words: sp.csr_matrix, vectors: np.ndarray) -> None:
        self.start, self.words, self.vectors = start, words, vectors
        self.close()

    def close(self) -> None:
        """Give back the memory of the indexes, which are made again when they are needed."""
        self._by_word: sp.csr_matrix | None = None
        self._index: Index | None = None

    @property
    def by_word(self) -> sp.csr_matrix:
        if self._by_word is None:
            self._by_word = self.words.T.tocsr()
        return self._by_word

    def all(self, words: sp.csr_matrix, vectors: np.ndarray) -> _Scored:
        """All others, for queries of these words and vectors."""
        by_words = (words @ self.by_word).toarray()
        rows = np.broadcast_to(self.start + np.arange(len(self.vectors)), by_words.shape)
        return _Scored(rows, by_words, vectors @ self.vectors.T)

    def nearest(self, words: sp.csr_matrix, vectors: np.ndarray, m: int) -> _Scored:
        """The ``m`` nearest by words and by vectors."""
        rows = self._union(words, vectors, m)
        query, place = np.nonzero(rows >= 0)
        by_words, by_vectors = np.zeros(rows.shape, np.float32), np.zeros(rows.shape, np.float32)
        other = rows[query, place]
        by_words[query, place] = np.asarray(words[query].multiply(self.words[other]).sum(1)).ravel()
        by_vectors[query, place] = np.einsum("nd,nd->n", vectors[query], self.vectors[other])
        return _Scored(np.where(rows >= 0, rows + self.start, -1), by_words, by_vectors)

    def _union(self, words: sp.csr_matrix, vectors: np.ndarray, m: int) -> np.ndarray:
        """[q, 2 m]: the ``m`` nearest by words and by vectors, each once, -1 where there are no more."""
        sp_matmul_topn = require("sparse_dot_topn", extra="matching").sp_matmul_topn

        if self._index is None:
            self._index = Index(self.vectors)
        nearest = sp_matmul_topn(words, self.by_word, top_n=m, sort=True, n_threads=usable_cores())
        query = np.repeat(np.arange(len(vectors)), np.diff(nearest.indptr))
        rows = np.full((len(vectors), 2 * m), -1, np.int64)
        rows[query, np.arange(len(query)) - nearest.indptr[query]] = nearest.indices
        by_vectors, _ = self._index.search(vectors, m)
        rows[:, m : m + by_vectors.shape[1]] = by_vectors
        rows.sort(1)
        rows[:, 1:][rows[:, 1:] == rows[:, :-1]] = -1
        return rows


class Searcher:
    """Finds the nearest ``others`` of each query record, or the nearest of its own table where there are no others.

    The score of two records is ``1 - weight`` times the cosine of their words plus ``weight`` times that of their
    vectors. Words are weighted by tf-idf, and count where at most MAX_RECORDS records of a side have them, so that the
    time is linear in the records. Few others are all scored. Of many, those that are near in words or in vectors
    (through ``neighbours.Index``) are: what is far in both cannot have a high score (Fagin, Lotem and Naor 2003).

    ``shard``: the others are indexed so many at a time, and the best of each shard are compared; None: in one index.
    """

    def __init__(self, queries: Side, others: Side | None = None, shard: int | None = None) -> None:
        self.queries, self.same = queries, others is None
        self.others = queries if others is None else others
        sides = [queries] if others is None else [queries, others]
        counts = [np.bincount(side.words.indices, minlength=N_WORDS) for side in sides]
        useful = np.all([(n > (1 if self.same else 0)) & (n <= MAX_RECORDS) for n in counts], 0)
        self._columns = np.where(useful, useful.cumsum() - 1, -1)
        n_records = sum(map(len, sides))
        self._idf = (np.log((1 + n_records) / (1 + np.sum(counts, 0)[useful])) + 1).astype(np.float32)
        words, vectors = self._weighted(self.others.words), self.others.vectors
        size = shard or max(1, len(vectors))
        self._shards = [
            _Shard(start, words[start : start + size], vectors[start : start + size])
            for start in range(0, len(vectors), size)
        ]

    def neighbours(self, k: int, weight: float) -> tuple[np.ndarray, np.ndarray]:
        """[n, k]: row numbers of the others with the highest scores, the best first, -1 where there are no more; and
        these scores."""
        nearest = np.full((len(self.queries), k), -1, np.int64)
        scores = np.zeros((len(self.queries), k), np.float32)
        for part, scored in self._scored(self.queries, k + self.same):
            score, rows = scored.score(weight), scored.rows
            if self.same:  # a record is its own nearest neighbour
                score[rows == np.arange(len(self.queries))[part, None]] = -np.inf
            if (nearest[part] >= 0).any():  # in earlier shards
                rows = np.concatenate([nearest[part], rows], 1)
                score = np.concatenate([np.where(nearest[part] >= 0, scores[part], -np.inf), score], 1)
            n = min(k, score.shape[1])
            places = np.argpartition(-score, n - 1, 1)[:, :n] if n < score.shape[1] else np.argsort(-score, 1)
            best, rows = (np.take_along_axis(x, places, 1) for x in (score, rows))
            order = np.lexsort((rows, -best), axis=1)[:, :k]
            best, rows = (np.take_along_axis(x, order, 1) for x in (best, rows))
            nearest[part, : rows.shape[1]] = np.where(np.isfinite(best), rows, -1)
            scores[part, : rows.shape[1]] = np.where(np.isfinite(best), best, 0)
        return nearest, scores

    def partner_ranks(
        self, queries: Side, partners: Side, weights: Sequence[float], max_k: int, query_rows: np.ndarray | None = None
    ) -> np.ndarray:
        """[n, weights]: the rank that each query's known partner has (or would have) among the records that are
        searched, by each weight; ``max_k`` where it is not among the first so many.

        ``query_rows``: row numbers of the queries in the searched table, where they are in it. The ranks tell how many
        neighbours these tables need even if the known matches come from smaller ones.
        """
        a, b = self._weighted(queries.words), self._weighted(partners.words)
        words = np.asarray(a.multiply(b).sum(1)).ravel()
        vectors = (queries.vectors * partners.vectors).sum(1)
        ranks = np.zeros((len(queries), len(weights)), np.int64)
        for part, scored in self._scored(queries, max_k + 1):
            for w, weight in enumerate(weights):
                own = (1 - weight) * words[part] + weight * vectors[part]
                nearer = scored.score(weight) > own[:, None] + 1e-6
                if query_rows is not None:
                    nearer &= scored.rows != query_rows[part, None]
                # by words alone a partner that shares none is never retrieved
                found = (words[part] > 0) | (weight > 0)
                ranks[part, w] += np.where(found, nearer.sum(1), max_k)
        return np.minimum(ranks, max_k)

    def _scored(self, queries: Side, k: int) -> Iterator[tuple[slice, _Scored]]:
        """Of each shard, some queries after others, with all that may be among the ``k`` best of each."""
        words = self._weighted(queries.words)
        for shard in self._shards:
            n = len(shard.vectors)
            is_small = n <= neighbours.EXACT
            size = max(1, SCORED_AT_ONCE // n) if is_small else max(1, SCORED_AT_ONCE // (256 * k))
            for start in range(0, len(queries), size):
                part = slice(start, start + size)
                score = shard.all if is_small else functools.partial(shard.nearest, m=max(2 * k, 50))
                yield part, score(words[part], queries.vectors[part])
            if len(self._shards) > 1:
                shard.close()

    def _weighted(self, words: sp.csr_matrix) -> sp.csr_matrix:
        """[n, useful words]: tf-idf with rows of length 1."""
        from sklearn.preprocessing import normalize

        useful = self._columns[words.indices] >= 0
        n_useful_before = np.concatenate([[0], useful.cumsum()])
        indices = self._columns[words.indices[useful]]
        shape = (words.shape[0], len(self._idf))
        if not shape[1]:
            return sp.csr_matrix(shape, dtype=self._idf.dtype)
        return normalize(sp.csr_matrix((self._idf[indices], indices, n_useful_before[words.indptr]), shape=shape))
