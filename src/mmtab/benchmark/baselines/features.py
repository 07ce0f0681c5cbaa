"""The features of baselines: tf-idf, numbers and categories, similarities of pairs, vectors of frozen networks.

Letters of shapes: n rows, c columns, f features.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import scipy.sparse as sp

from mmtab.benchmark.baselines.problem import Problem
from mmtab.data.pairs import Pairs
from mmtab.data.schema import ColumnType, Schema
from mmtab.data.table import Table
from mmtab.features.preprocess import numeric_columns
from mmtab.features.similarity import SimilarityFeatures
from mmtab.utils.machine import native_bf16

Features = Callable[[str], Any]  # of a split: [n, f], dense or sparse
LIMIT = 6.0  # standard deviations


class Tfidf:
    """Tf-idf of words and pairs of words of each text column, and of parts of words; a block for each that is not
    empty."""

    def __init__(self, problem: Problem) -> None:
        from sklearn.feature_extraction.text import TfidfVectorizer

        self._fitted: list[tuple[str, Any]] = []
        for name in problem.schema.of_type(ColumnType.TEXT):
            cells = _texts(problem.table("train"), name)
            for chars in (False, True):
                options = {"analyzer": "char_wb", "ngram_range": (2, 4)} if chars else {"ngram_range": (1, 2)}
                vectorizer = TfidfVectorizer(
                    min_df=2, max_features=30_000, sublinear_tf=True, dtype=np.float32, **options
                )
                with contextlib.suppress(ValueError):  # no word stands in two rows
                    self._fitted.append((name, vectorizer.fit(cells)))

    def __call__(self, table: Table) -> list[sp.csr_array]:
        return [sp.csr_array(vectorizer.transform(_texts(table, name))) for name, vectorizer in self._fitted]


def _texts(table: Table, name: str) -> list[str]:
    return [cell or "" for cell in table.columns[name].to_pylist()]


def raw_numbers(table: Table, schema: Schema) -> np.ndarray:
    """[n, c] numbers and dates as they are; NaN for missing."""
    columns = list(numeric_columns(table, schema).values())
    return np.stack(columns, 1) if columns else np.zeros((len(table), 0))


def sparse_plain(problem: Problem, table: Table) -> list[sp.csr_array]:
    """Numbers by rank, which of them are missing, and categories one-hot."""
    fitted, n = problem.plain, len(table)
    numbers, ids = fitted.numeric(table, problem.schema), fitted.categorical(table)
    parts = [sp.csr_array(np.nan_to_num(numbers)), sp.csr_array(np.isnan(numbers).astype(np.float32))]
    for coder, column in zip(fitted.coders_.values(), ids.T, strict=True):
        parts.append(sp.csr_array((np.ones(n, np.float32), column, np.arange(n + 1)), shape=(n, coder.n_ids)))
    return [part for part in parts if part.shape[1]]


def similarities(problem: Problem, pictures: dict[str, np.ndarray] | None = None) -> Features:
    """Similarities of pairs, those of pictures where these are given by column."""
    schema, train = problem.schema, problem.pairs("train")
    if pictures is None and schema.of_type(ColumnType.IMAGE):
        schema = schema.without([str(ColumnType.IMAGE)])
    comparison = SimilarityFeatures.fit(problem.records, problem.seen, train, schema)

    def features(split: str) -> np.ndarray:
        pairs = problem.pairs(split)
        return comparison(problem.records, pairs.left, pairs.right, pictures)

    return features


def standardised(features: Features) -> Features:
    """To the mean and spread of train, within LIMIT. A missing number is the mean, and has an indicator where train
    misses it too; neighbours that are always missing together, such as the numbers of a vector, share one."""
    x = features("train")
    x = np.where(np.isinf(x), np.nan, x)
    with warnings.catch_warnings():  # of columns that are missing everywhere
        warnings.simplefilter("ignore", RuntimeWarning)
        mean, spread = np.nan_to_num(np.nanmean(x, 0)), np.nan_to_num(np.nanstd(x, 0))
    missing: np.ndarray = np.isnan(x)
    indicated: np.ndarray = np.logical_and(missing.any(0), ~missing.all(0))
    indicated[1:] &= (missing[:, 1:] != missing[:, :-1]).any(0)

    def scaled(split: str) -> np.ndarray:
        rows = features(split)
        z = np.nan_to_num(((rows - mean) / np.where(spread > 1e-9, spread, 1)).clip(-LIMIT, LIMIT))
        return np.concatenate([z, np.isnan(rows[:, indicated])], 1, dtype=np.float32)

    return scaled


class Directions:
    """The main directions of vectors [n, f], of which some are missing (NaN)."""

    def __init__(self, train: np.ndarray, seed: int, width: int) -> None:
        from sklearn.decomposition import PCA

        present = train[~np.isnan(train[:, 0])]
        n = min(width, *(side - 1 for side in present.shape))
        self._fitted = PCA(n, svd_solver="randomized", random_state=seed).fit(present) if n > 0 else None

    def __call__(self, vectors: np.ndarray) -> np.ndarray:
        present = ~np.isnan(vectors[:, 0])
        out = np.full((len(vectors), 0 if self._fitted is None else self._fitted.n_components_), np.nan, np.float32)
        if present.any() and self._fitted is not None:
            out[present] = self._fitted.transform(vectors[present])
        return out


def differences(vectors: list[np.ndarray], pairs: Pairs) -> np.ndarray:
    """Of each vector the distance and product by place, and the cosine; NaN where a side has none."""
    parts: list[np.ndarray] = [np.zeros((len(pairs), 0), np.float32)]
    for vector in vectors:
        a, b = vector[pairs.left], vector[pairs.right]
        size = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
        parts += [np.abs(a - b), a * b, ((a * b).sum(1) / np.maximum(size, 1e-9))[:, None]]
    return np.concatenate(parts, 1)


class FrozenVectors:
    """Vectors of frozen networks, [n, f] float32 each, NaN where there is none: of each column of text (matching: the
    mean over all text and categories of a row) and of pictures. Computed once by mmtab's own backbones, and cached."""

    def __init__(self, problem: Problem) -> None:
        # With torch, which the other controls do without
        from mmtab.features.backbones import Backbones, ImageBackbone, TextBackbone, TextSpec

        self._problem, schema = problem, problem.schema
        # The two sides of a pair may write the same thing in different columns; k-way has categories beside the text.
        also = () if problem.of_rows else (str(ColumnType.CATEGORICAL),)
        texts = schema.of_type(ColumnType.TEXT, *map(ColumnType, also))
        self._images = schema.of_type(ColumnType.IMAGE)
        text = TextBackbone(TextSpec.load(also=also), n_tuned_layers=0) if texts else None
        self._image = ImageBackbone() if self._images else None
        self._backbones = Backbones(text, self._image)

    def __call__(self, table: Table) -> list[np.ndarray]:
        problem = self._problem
        if self._backbones.text is None and self._image is None:
            return []
        import torch

        from mmtab.features.cache import FeatureCache
        from mmtab.features.encoded import encode_table

        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        bf16 = native_bf16(device)

        def autocast() -> contextlib.AbstractContextManager[object]:
            return torch.autocast(device.type, torch.bfloat16) if bf16 else contextlib.nullcontext()

        cache = FeatureCache(problem.store, autocast, device)
        encoded = encode_table(table, problem.schema, problem.plain, self._backbones, cache)
        vectors: list[np.ndarray] = []
        if encoded.text_features is not None and encoded.text_present is not None:
            cells = np.where(encoded.text_present[..., None], encoded.text_features, np.nan).astype(np.float32)
            if problem.of_rows:
                vectors += list(cells.transpose(1, 0, 2))
            else:
                n = encoded.text_present.sum(1, keepdims=True)
                vectors.append(np.where(n > 0, np.nansum(cells, 1) / np.maximum(n, 1), np.nan).astype(np.float32))
        if self._image is not None and encoded.image_features is not None:
            last = replace(encoded, image_features=encoded.image_features[:, self._image.last_mean])
            vectors += [last.pictures[name].astype(np.float32) for name in self._images]
        return vectors
