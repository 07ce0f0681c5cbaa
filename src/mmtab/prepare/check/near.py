"""Near duplicates: rows whose sets of tokens overlap by nine tenths. Exact, without a sketch.

Two sets that alike must share one of their few rarest tokens ("prefix filtering", Chaudhuri et al. 2006), so an index
of those finds every candidate, and each candidate is then compared in full. At so high a threshold this is as quick as
MinHash, misses nothing, and needs no further library.
"""

from __future__ import annotations

import heapq
from collections import Counter

import numpy as np

from mmtab.data.schema import ColumnType
from mmtab.data.table import Table

# At least NUMBER of 10 tokens in common: with one word of ten changed a row still counts as the same.
TENTHS = 9
# A row of fewer tokens cannot be near another without being equal to it.
N_TOKENS = 10
# Where all rows share their rarest tokens, comparing would go on for minutes: stop and say so.
MAX_COMPARISONS = 3_000_000
# Of each table in the index: about 100 MB. Long texts fill it before all rows are in.
MAX_TOKENS = 1_500_000


def row_tokens(
    table: Table, rows: np.ndarray, types: dict[str, ColumnType], cells: dict[str, np.ndarray]
) -> list[set[int]]:
    """Of each row: its words with their column, and its other cells as a token each. ``cells``: hashes of columns."""
    out: list[set[int]] = [set() for _ in rows]
    for number, column in enumerate(table.columns):
        salt = hash((number, "column"))
        if types[column] is ColumnType.TEXT:
            for tokens, text in zip(out, table.columns[column].take(rows).to_pylist(), strict=True):
                if text is not None:
                    tokens.update([hash(word) ^ salt for word in text.casefold().split()])
        else:
            for tokens, cell in zip(out, cells[column][rows].tolist(), strict=True):
                if cell:  # 0 is a missing cell
                    tokens.add(cell ^ salt)
    return out


class NearIndex:
    """Rows to be found again. Add all, then ask."""

    def __init__(self) -> None:
        self.refs: list[tuple[str, int]] = []  # (table, row)
        self.found: dict[int, tuple[str, int]] = {}  # by place in refs: the first row near it
        self._n_tokens: Counter[str] = Counter()
        self._sets: list[set[int]] = []
        self._keys: list[int] = []
        self._postings: dict[int, list[int]] | None = None
        self._rank: dict[int, int] = {}
        self._left = MAX_COMPARISONS

    def add(self, ref: tuple[str, int], key: int, tokens: set[int]) -> bool:
        """``key``: equal for rows that are equal, which are not looked for here. False: the index is full."""
        self._n_tokens[ref[0]] += len(tokens)
        if self._n_tokens[ref[0]] > MAX_TOKENS:
            return False
        self.refs.append(ref)
        self._keys.append(key)
        self._sets.append(tokens)
        return True

    def ask(self, ref: tuple[str, int], key: int, tokens: set[int]) -> bool:
        """Note all rows of the index that this one is near to. False: too much was compared already."""
        if self._postings is None:
            self._build()
        assert self._postings is not None
        if self._left <= 0:
            return False
        indexed = [token for token in tokens if token in self._rank]
        n_rarest = _prefix(len(tokens)) - (len(tokens) - len(indexed))  # a token that the index lacks is rarer still
        if n_rarest <= 0 or len(tokens) < N_TOKENS:
            return True
        near = {
            i for t in heapq.nsmallest(n_rarest, indexed, key=self._rank.__getitem__) for i in self._postings.get(t, ())
        }
        self._left -= len(near)
        for i in near:
            other = self._sets[i]
            shared = len(tokens & other)
            if 10 * shared >= TENTHS * (len(tokens) + len(other) - shared) and key != self._keys[i]:
                self.found.setdefault(i, ref)
        return True

    def _build(self) -> None:
        counts = Counter(token for tokens in self._sets for token in tokens)
        self._rank = {token: rank for rank, (token, _) in enumerate(sorted(counts.items(), key=lambda item: item[1]))}
        self._postings = {}
        for i, tokens in enumerate(self._sets):
            if len(tokens) >= N_TOKENS:
                for token in heapq.nsmallest(_prefix(len(tokens)), tokens, key=self._rank.__getitem__):
                    self._postings.setdefault(token, []).append(i)


def _prefix(size: int) -> int:
    """How many of a set's rarest tokens suffice."""
    return size + (-TENTHS * size // 10) + 1
