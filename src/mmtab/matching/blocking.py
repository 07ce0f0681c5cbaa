"""Blocking: which pairs of records are worth scoring. Two kinds of neighbours, whose union is scored: records that share
rare words, and records whose vectors lie near each other."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import scipy.sparse as sp

from mmtab.utils.machine import usable_cores
from mmtab.utils.neighbours import Index

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

    hashing = HashingVectorizer(analyzer=words_of, n_features=N_WORDS, norm=None, alternate_sign=False, binary=True, dtype=np.float32)  # fmt: skip
    return hashing.transform(texts)


@dataclass(frozen=True)
class Side:
    """Records of one side as blocking sees them: ``words`` [n, N_WORDS], ``vectors`` [n, d] of length 1."""

    words: sp.csr_matrix
    vectors: np.ndarray

    def __len__(self) -> int:
        return len(self.vectors)

    def __getitem__(self, rows: np.ndarray) -> Side:
        return Side(self.words[rows], self.vectors[rows])


class Blocker:
    """Finds for each ``asking`` record its nearest among the ``others``, or in its own table where there are no others.

    By words: the cosine of tf-idf over the words that at most MAX_RECORDS records of a side have, so that the time grows
    with the records and not with their square. By vectors: cosine, through ``neighbours.Index``.
    """

    def __init__(self, asking: Side, others: Side | None = None) -> None:
        self.asking, self.same = asking, others is None
        self.others = asking if others is None else others
        sides = [asking] if others is None else [asking, others]
        counts = [np.bincount(side.words.indices, minlength=N_WORDS) for side in sides]
        known = np.all([(n > (1 if self.same else 0)) & (n <= MAX_RECORDS) for n in counts], 0)
        self._columns = np.where(known, known.cumsum() - 1, -1)
        n_records = sum(map(len, sides))
        self._idf = (np.log((1 + n_records) / (1 + np.sum(counts, 0)[known])) + 1).astype(np.float32)
        self._words = self._weighted(self.others.words).T.tocsr()
        self._index = Index(self.others.vectors)

    def neighbours(self, k: int) -> tuple[np.ndarray, np.ndarray]:
        """By words and by vectors, the nearest first: [n, k] row numbers, -1 where there are no more."""
        parts = []
        for found in (self._by_words(self.asking, k + self.same)[0], self._by_vectors(self.asking, k + self.same)[0]):
            if self.same:  # itself goes last, wherever it stands
                own = found == np.arange(len(found))[:, None]
                found = np.take_along_axis(np.where(own, -1, found), np.argsort(own, axis=1, kind="stable"), 1)
            parts.append(found[:, :k])
        return parts[0], parts[1]

    def places(self, asking: Side, partner: Side, k: int, own: np.ndarray | None = None) -> np.ndarray:
        """[n, 2]: the place, by words and by vectors, that each asking record's partner would have (or has) among the
        others; ``k`` where it would not be among the first so many. ``own``: the asking records' own row numbers in the
        table, where they are in it. This tells how many neighbours these tables need, though the pairs be of smaller ones.
        """
        out = []
        a, b = self._weighted(asking.words), self._weighted(partner.words)
        scores = [np.asarray(a.multiply(b).sum(1)).ravel(), (asking.vectors * partner.vectors).sum(1)]
        for search, score in zip((self._by_words, self._by_vectors), scores, strict=True):
            found, near = search(asking, k + 1)
            nearer = (found >= 0) & (near > score[:, None] + 1e-6)
            if own is not None:
                nearer &= found != own[:, None]
            # sharing no word at all, it would never be found
            out.append(np.where(score > 0, np.minimum(nearer.sum(1), k), k))
        return np.stack(out, 1)

    def _by_words(self, asking: Side, k: int) -> tuple[np.ndarray, np.ndarray]:
        from sparse_dot_topn import sp_matmul_topn

        near = sp_matmul_topn(self._weighted(asking.words), self._words, top_n=k, sort=True, n_threads=usable_cores())
        row = np.repeat(np.arange(len(asking)), np.diff(near.indptr))
        place = np.arange(len(row)) - near.indptr[row]
        found, score = np.full((len(asking), k), -1, np.int64), np.zeros((len(asking), k), np.float32)
        found[row, place], score[row, place] = near.indices, near.data
        return found, score

    def _by_vectors(self, asking: Side, k: int) -> tuple[np.ndarray, np.ndarray]:
        found, score = np.full((len(asking), k), -1, np.int64), np.zeros((len(asking), k), np.float32)
        for start in range(0, len(asking), 8192):
            rows = slice(start, start + 8192)
            numbers, similarity = self._index.search(asking.vectors[rows], k)
            found[rows, : numbers.shape[1]], score[rows, : numbers.shape[1]] = numbers, similarity
        return found, score

    def _weighted(self, words: sp.csr_matrix) -> sp.csr_matrix:
        """Only the words that count, weighted, with rows of length 1."""
        from sklearn.preprocessing import normalize

        kept = self._columns[words.indices] >= 0
        before = np.concatenate([[0], kept.cumsum()])
        indices = self._columns[words.indices[kept]]
        shape = (words.shape[0], len(self._idf))
        return normalize(sp.csr_matrix((self._idf[indices], indices, before[words.indptr]), shape=shape))


def pairs(
    by_words: np.ndarray, by_vectors: np.ndarray, choice: Choice, same: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """The union of the first so many neighbours of both kinds: asking and other row numbers, each pair once, in order."""
    parts = [by_words[:, : choice.k_words], by_vectors[:, : choice.k_vectors]]
    a = np.concatenate([np.repeat(np.arange(len(part)), part.shape[1]) for part in parts])
    b = np.concatenate([part.ravel() for part in parts])
    a, b = a[b >= 0], b[b >= 0]
    if same:
        a, b = np.minimum(a, b), np.maximum(a, b)
    n = int(b.max(initial=0)) + 1
    both = np.unique(a.astype(np.int64) * n + b)
    return both // n, both % n


@dataclass(frozen=True)
class Choice:
    """How many neighbours of each kind, and the recall that they reach on the matches they were chosen with, if any."""

    k_words: int
    k_vectors: int
    recall: float | None


def choose(places: np.ndarray, max_k: int, wanted: float) -> Choice:
    """The fewest neighbours in all that reach the wanted recall of known matches, or else those that reach most.
    ``places`` [n, 2]: see ``Blocker.places``. Among as many, the better recall, then more by words, which cost less."""

    def recall(k_words: int, k_vectors: int) -> float:
        return float(((places[:, 0] < k_words) | (places[:, 1] < k_vectors)).mean()) if len(places) else 0.0

    ks = range(max_k + 1)
    options = [(recall(words, vectors), words, vectors) for words in ks for vectors in ks]
    reached = [option for option in options if option[0] >= wanted]
    best = max(r for r, *_ in options)
    r, words, vectors = min(
        reached or [option for option in options if option[0] == best], key=lambda o: (o[1] + o[2], -o[0], o[2])
    )
    return Choice(words, vectors, r)
