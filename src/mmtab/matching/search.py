"""The search for candidates: records that share rare words, and records whose vectors lie near each other."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import scipy.sparse as sp

from mmtab.utils.machine import usable_cores
from mmtab.utils.neighbours import Index
from mmtab.utils.optional import require

WORD = re.compile(r"\w+")
CODE = re.compile(r"\w[\w\-/.]*\w")
MAX_RECORDS = 1_000  # a word in more records of a side than this tells too little for what its block would cost
N_WORDS = 1 << 22  # hashed


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


class Searcher:
    """Finds the nearest ``others`` of each query record, or the nearest of its own table where there are no others.

    By words: the cosine of tf-idf over the words that at most MAX_RECORDS records of a side have, so that the time is
    linear in the records. By vectors: cosine, through ``neighbours.Index``.
    """

    def __init__(self, queries: Side, others: Side | None = None) -> None:
        self.queries, self.same = queries, others is None
        self.others = queries if others is None else others
        sides = [queries] if others is None else [queries, others]
        counts = [np.bincount(side.words.indices, minlength=N_WORDS) for side in sides]
        useful = np.all([(n > (1 if self.same else 0)) & (n <= MAX_RECORDS) for n in counts], 0)
        self._columns = np.where(useful, useful.cumsum() - 1, -1)
        n_records = sum(map(len, sides))
        self._idf = (np.log((1 + n_records) / (1 + np.sum(counts, 0)[useful])) + 1).astype(np.float32)
        self._words = self._weighted(self.others.words).T.tocsr()
        self._index = Index(self.others.vectors)

    def neighbours(self, k: int) -> tuple[np.ndarray, np.ndarray]:
        """By words and by vectors, the nearest first: [n, k] row numbers, -1 where there are no more."""
        results = []
        for search in (self._by_words, self._by_vectors):
            rows, _ = search(self.queries, k + self.same)
            if self.same:  # a record is its own nearest neighbour: it goes last
                is_self = rows == np.arange(len(rows))[:, None]
                order = np.argsort(is_self, axis=1, kind="stable")
                rows = np.take_along_axis(np.where(is_self, -1, rows), order, 1)
            results.append(rows[:, :k])
        return results[0], results[1]

    def partner_ranks(
        self, queries: Side, partners: Side, max_k: int, query_rows: np.ndarray | None = None
    ) -> np.ndarray:
        """[n, 2]: the rank, by words and by vectors, that each query's known partner has (or would have) among the
        records that are searched; ``max_k`` where it is not among the first so many.

        ``query_rows``: row numbers of the queries in the searched table, where they are in it. The ranks tell how many
        neighbours these tables need even if the known matches come from smaller ones.
        """
        ranks = []
        a, b = self._weighted(queries.words), self._weighted(partners.words)
        scores = [np.asarray(a.multiply(b).sum(1)).ravel(), (queries.vectors * partners.vectors).sum(1)]
        for search, score in zip((self._by_words, self._by_vectors), scores, strict=True):
            rows, similarity = search(queries, max_k + 1)
            nearer = (rows >= 0) & (similarity > score[:, None] + 1e-6)
            if query_rows is not None:
                nearer &= rows != query_rows[:, None]
            # a partner that shares no word at all is never retrieved
            ranks.append(np.where(score > 0, np.minimum(nearer.sum(1), max_k), max_k))
        return np.stack(ranks, 1)

    def _by_words(self, queries: Side, k: int) -> tuple[np.ndarray, np.ndarray]:
        sp_matmul_topn = require("sparse_dot_topn", extra="matching").sp_matmul_topn

        nearest = sp_matmul_topn(
            self._weighted(queries.words), self._words, top_n=k, sort=True, n_threads=usable_cores()
        )
        query = np.repeat(np.arange(len(queries)), np.diff(nearest.indptr))
        rank = np.arange(len(query)) - nearest.indptr[query]
        rows, similarity = _no_neighbours(len(queries), k)
        rows[query, rank], similarity[query, rank] = nearest.indices, nearest.data
        return rows, similarity

    def _by_vectors(self, queries: Side, k: int) -> tuple[np.ndarray, np.ndarray]:
        rows, similarity = _no_neighbours(len(queries), k)
        for start in range(0, len(queries), 8192):
            batch = slice(start, start + 8192)
            numbers, cosine = self._index.search(queries.vectors[batch], k)
            rows[batch, : numbers.shape[1]], similarity[batch, : numbers.shape[1]] = numbers, cosine
        return rows, similarity

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


def _no_neighbours(n: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    return np.full((n, k), -1, np.int64), np.zeros((n, k), np.float32)
