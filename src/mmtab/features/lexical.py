"""Words and parts of words of text cells, weighted by tf-idf: what the linear base of a model reads beside vectors.

N-grams are hashed, so that what is stored of a table is the same for every model; a model keeps the commonest of train.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import pyarrow.compute as pc
import torch

from mmtab.data.digests import digest_of
from mmtab.data.schema import ColumnType, Schema
from mmtab.data.streams import Stream
from mmtab.data.table import Table
from mmtab.features.batches import LexicalBatch
from mmtab.utils.cache import Arrays, Store
from mmtab.utils.npy import Appended, Scratch

N_BUCKETS = 1 << 20
Part = tuple[np.ndarray, np.ndarray, np.ndarray]  # of some rows the ids, their values, and to where each row goes
MAX_CHARACTERS = (2_000, 500)  # of a cell, of which words and parts of words are read


@dataclass(frozen=True)
class SparseRows:
    """A sparse matrix by rows: row i has ``ids[offsets[i] : offsets[i + 1]]``, with ``values`` alike."""

    offsets: np.ndarray  # [n + 1] int64
    ids: np.ndarray  # [m] int32
    values: np.ndarray  # [m] float16 or uint16
    starts: np.ndarray  # [c + 1] the first id of each column

    def rows(self, rows: np.ndarray) -> LexicalBatch:
        length = self.offsets[rows + 1] - self.offsets[rows]
        end = length.cumsum()
        places = np.arange(end[-1] if len(end) else 0) + np.repeat(self.offsets[rows] - (end - length), length)
        ids = self.ids[places]
        return LexicalBatch(
            row=torch.from_numpy(np.repeat(np.arange(len(rows)), length)),
            id=torch.from_numpy(ids.astype(np.int64)),
            value=torch.from_numpy(self.values[places].astype(np.float32)),
            column=torch.from_numpy(np.searchsorted(self.starts, ids, "right") - 1),
        )


@dataclass(frozen=True)
class Lexicon:
    """The n-grams of text columns that train has in two rows at least, and how rare each is (Spärck Jones 1972).

    Each column has two blocks: words with pairs of words, and parts of words of 2 to 4 characters.

    columns    names of the columns
    buckets_   by column and block, ascending hashed n-grams
    idf_       by column and block, the weight of each
    """

    columns: list[str]
    buckets_: list[list[int]]
    idf_: list[list[float]]

    ANALYZERS: ClassVar[tuple[dict[str, Any], ...]] = (
        {"analyzer": "word", "ngram_range": (1, 2)},
        {"analyzer": "char_wb", "ngram_range": (2, 4)},
    )

    @staticmethod
    def fit(train: Table | Stream, schema: Schema, store: Store, max_ngrams: int = 10_000) -> Lexicon:
        """``max_ngrams``: the commonest of a block that are kept. With 30,000 a fit takes twice as long and is not
        better on valid (airbnb, fashion, hearthstone)."""
        columns = schema.of_type(ColumnType.TEXT)
        ngrams, n = _hashed(train, columns, store), len(train)
        size = len(columns) * len(Lexicon.ANALYZERS) * N_BUCKETS
        n_rows, n_times = (np.bincount(ngrams.ids, weights, size) for weights in (None, ngrams.values))
        buckets, idf = [], []
        for start in range(0, size, N_BUCKETS):
            df, times = n_rows[start : start + N_BUCKETS], n_times[start : start + N_BUCKETS]
            often = np.flatnonzero(df >= 2)
            kept = np.sort(often[np.argsort(-times[often], kind="stable")[:max_ngrams]])
            buckets.append(kept.tolist())
            idf.append((np.log((1 + n) / (1 + df[kept])) + 1).round(4).tolist())
        return Lexicon(columns, buckets, idf)

    @property
    def n_ngrams(self) -> int:
        return sum(map(len, self.buckets_))

    @cached_property
    def _starts(self) -> np.ndarray:
        return np.cumsum([0, *map(len, self.buckets_)])

    @cached_property
    def _known(self) -> tuple[np.ndarray, np.ndarray]:
        """[n] n-grams of all blocks, ascending, and their weights."""
        known = [np.asarray(buckets, np.int64) + i * N_BUCKETS for i, buckets in enumerate(self.buckets_)]
        return np.concatenate(known), np.concatenate(self.idf_)

    def __call__(self, table: Table | Stream, store: Store) -> SparseRows:
        """Weights of the kept n-grams, each block of a row of length 1."""
        starts = self._starts[:: len(self.ANALYZERS)]

        def key() -> dict[str, Any]:
            fitted = digest_of(repr((self.buckets_, self.idf_)))
            return {"columns": [table.digests[name] for name in self.columns], "fitted": fitted}

        def build(scratch: Scratch) -> Arrays:
            return _stored(scratch, np.float16, self._weights(_hashed(table, self.columns, store), len(table)))

        arrays = store.arrays("lexical", key, build)
        return SparseRows(arrays["offsets"], arrays["ids"], arrays["values"], starts)

    def _weights(self, ngrams: SparseRows, n_rows: int) -> Iterator[Part]:
        (known, idf), offsets = self._known, ngrams.offsets
        for first in range(0, n_rows, 1 << 12):
            last = min(first + (1 << 12), n_rows)
            cells = slice(offsets[first], offsets[last])
            row = np.repeat(np.arange(last - first), np.diff(offsets[first : last + 1]))
            place = np.minimum(np.searchsorted(known, ngrams.ids[cells]), max(len(known) - 1, 0))
            kept = known[place] == ngrams.ids[cells] if len(known) else np.zeros(len(place), bool)
            row, place = row[kept], place[kept]
            weight = (1 + np.log(ngrams.values[cells][kept].astype(np.float32))) * idf[place]
            block = np.searchsorted(self._starts, place, "right") - 1
            cell = row * len(self.buckets_) + block
            length = np.sqrt(np.bincount(cell, weight**2))[cell] if len(cell) else weight
            yield place, weight / length, np.bincount(row, minlength=last - first).cumsum()


def _hashed(table: Table | Stream, columns: Sequence[str], store: Store) -> SparseRows:
    """How often each hashed n-gram stands in a row; those of block i begin at i * N_BUCKETS."""
    from scipy.sparse import hstack
    from sklearn.feature_extraction.text import HashingVectorizer

    options: dict[str, Any] = {"n_features": N_BUCKETS, "alternate_sign": False, "norm": None, "dtype": np.float32}
    vectorizers = [HashingVectorizer(**analyzer, **options) for analyzer in Lexicon.ANALYZERS]

    def key() -> dict[str, Any]:
        return {"columns": [table.digests[name] for name in columns], "characters": MAX_CHARACTERS}

    def counts() -> Iterator[Part]:
        for batch in filter(len, table.batches()):
            cells = (pc.fill_null(batch.columns[name], "").to_pylist() for name in columns)
            blocks = [
                vectorizer.transform([cell[:size] for cell in of_column])
                for of_column in cells
                for vectorizer, size in zip(vectorizers, MAX_CHARACTERS, strict=True)
            ]
            rows = hstack(blocks, "csr")
            rows.sort_indices()
            yield rows.indices, rows.data.clip(max=65_535), rows.indptr[1:].astype(np.int64)

    arrays = store.arrays("ngrams", key, lambda scratch: _stored(scratch, np.uint16, counts()))
    return SparseRows(arrays["offsets"], arrays["ids"], arrays["values"], np.zeros(1))


def _stored(scratch: Scratch, dtype: type[np.generic], parts: Iterable[Part]) -> Arrays:
    with (
        Appended(scratch / "ids.npy", np.int32) as ids,
        Appended(scratch / "values.npy", dtype) as values,
        Appended(scratch / "offsets.npy", np.int64) as offsets,
    ):
        offsets.append(np.zeros(1, np.int64))
        for part_ids, part_values, ends in parts:
            offsets.append(ids.n_rows + ends)
            ids.append(part_ids.astype(np.int32))
            values.append(part_values.astype(dtype))
    return {}
