"""The controls by name, each a function of a problem that returns a fitted model; and one on one dataset, timed, its
predictions written."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

from mmtab.benchmark.baselines.features import (
    Directions,
    FrozenVectors,
    Tfidf,
    differences,
    raw_numbers,
    similarities,
    sparse_plain,
    standardised,
)
from mmtab.benchmark.baselines.learners import Model, gradient_boosting, linear_model
from mmtab.benchmark.baselines.problem import NOT_IMAGE, Problem, listed
from mmtab.benchmark.scoring import write_predictions
from mmtab.benchmark.truth import Truth
from mmtab.data.schema import ColumnType, Schema
from mmtab.training.metrics import best_threshold
from mmtab.utils.cache import Store
from mmtab.utils.errors import ConfigError
from mmtab.utils.machine import usable_cores

N_COMPONENTS = 64  # at most, of a text or picture vector for trees, which read each number on its own; N_TOPICS of all
N_TOPICS = 240  # of tf-idf for trees: of all text columns together
PENALTIES = (0.001, 0.01, 0.1, 1.0)  # C of a logistic regression on standardised features
SPARSE_PENALTIES = (1.0, 10.0, 100.0)  # and on tf-idf, whose numbers are small
VECTOR_LENGTH = 3.0  # of all standardised vectors of a row together, which stand beside ones and zeros of categories
VECTOR_PENALTIES = (0.03, 0.1, 0.3, 1.0, 3.0)  # C with such vectors


def majority(problem: Problem) -> Model:
    """The shares of the classes among the training rows, or that of matches among the training pairs, or the mean
    label, for every row."""
    label = problem.label("train")
    answer = np.bincount(label) / len(label) if label.dtype.kind == "i" and problem.of_rows else label.mean()

    def predict(split: str) -> np.ndarray:
        n = len(problem.table(split) if problem.of_rows else problem.pairs(split))
        return np.tile(answer, (n, 1)) if answer.ndim else np.full(n, answer)

    return Model(predict("valid"), lambda: predict("test"))


def tfidf_linear(problem: Problem) -> Model:
    """Of rows: logistic (of numbers, ridge) regression on tf-idf of words and of parts of words, categories one-hot,
    numbers by rank. Matching: on the similarities that ``SimilarityFeatures`` has without pictures."""
    problem.needs(*NOT_IMAGE)
    if not problem.of_rows:
        return linear_model(problem, standardised(similarities(problem)), PENALTIES)
    texts = Tfidf(problem)

    def features(split: str) -> sp.csr_array:
        table = problem.table(split)
        return sp.csr_array(sp.hstack([*texts(table), *sparse_plain(problem, table)], "csr", np.float32))

    return linear_model(problem, features, SPARSE_PENALTIES)


def tfidf_gbm(problem: Problem) -> Model:
    """Of rows: LightGBM on the main directions of tf-idf, categories, numbers. Matching: on what ``tfidf_linear``
    reads."""
    from sklearn.decomposition import TruncatedSVD

    problem.needs(*NOT_IMAGE)
    if not problem.of_rows:
        return gradient_boosting(problem, similarities(problem))
    texts = Tfidf(problem)
    reducers: list[Any] = []
    for block in (blocks := texts(problem.table("train"))):
        n = min(N_TOPICS // len(blocks), *(side - 1 for side in block.shape))
        reducers.append(TruncatedSVD(max(n, 1), random_state=problem.seed).fit(block))

    def features(split: str) -> np.ndarray:
        table = problem.table(split)
        topics = [reducer.transform(block) for reducer, block in zip(reducers, texts(table), strict=True)]
        return np.concatenate([problem.plain.categorical(table), *topics, raw_numbers(table, problem.schema)], 1)

    return gradient_boosting(problem, features, len(problem.plain.coders_))


def fuzzy(problem: Problem) -> Model:
    """How alike the text and categories of two records are as strings, and nothing else; matching only."""
    from rapidfuzz import fuzz, process

    if problem.of_rows:
        raise ConfigError(f"dataset {problem.schema.name}: fuzzy compares two records, so it is for matching only")
    problem.needs(ColumnType.TEXT, ColumnType.CATEGORICAL)
    cells = zip(*(problem.records.columns[name].to_pylist() for name in problem.schema.written), strict=True)
    texts = [" ".join(cell for cell in row if cell).lower() for row in cells]

    def features(split: str) -> np.ndarray:
        pairs = problem.pairs(split)
        sides = ([texts[row] for row in side] for side in (pairs.left, pairs.right))
        scores = process.cpdist(*sides, scorer=fuzz.token_set_ratio, workers=usable_cores())
        return scores.astype(np.float64)[:, None] / 100

    return linear_model(problem, features, (1.0,))


def embeddings_linear(problem: Problem) -> Model:
    """Logistic (of numbers, ridge) regression on vectors of frozen networks: MiniLM of text, EfficientNet-Lite0 of
    pictures; of rows with numbers and categories beside them, matching on how the vectors of two records differ."""
    if not problem.of_rows:
        problem.needs(ColumnType.TEXT, ColumnType.CATEGORICAL, ColumnType.IMAGE)
        vectors = FrozenVectors(problem)(problem.records)
        return linear_model(problem, standardised(lambda split: differences(vectors, problem.pairs(split))), PENALTIES)
    vectors_of = FrozenVectors(problem)

    def side_by_side(split: str) -> np.ndarray:
        table = problem.table(split)
        return np.concatenate([np.zeros((len(table), 0), np.float32), *vectors_of(table)], 1)

    scaled = standardised(side_by_side)

    def features(split: str) -> np.ndarray:
        others, vectors = sparse_plain(problem, problem.table(split)), scaled(split)
        vectors *= VECTOR_LENGTH / np.sqrt(max(vectors.shape[1], 1))
        return np.concatenate([vectors, *(part.toarray() for part in others)], 1, dtype=np.float32)

    return linear_model(problem, features, VECTOR_PENALTIES)


def embeddings_gbm(problem: Problem) -> Model:
    """LightGBM on the main directions of those vectors; matching with all that ``SimilarityFeatures`` has."""
    if not problem.of_rows:
        vectors = FrozenVectors(problem)(problem.records)
        reduce = [Directions(block[problem.seen], problem.seed, N_COMPONENTS) for block in vectors]
        short = [directions(block) for directions, block in zip(reduce, vectors, strict=True)]
        images = problem.schema.of_type(ColumnType.IMAGE)
        pictures = dict(zip(images, vectors[len(vectors) - len(images) :], strict=True))
        compared = similarities(problem, pictures)
        return gradient_boosting(
            problem, lambda split: np.concatenate([compared(split), differences(short, problem.pairs(split))], 1)
        )
    vectors_of = FrozenVectors(problem)
    blocks = vectors_of(problem.table("train"))
    width = min(N_COMPONENTS, N_TOPICS // max(len(blocks), 1))
    reduce = [Directions(block, problem.seed, width) for block in blocks]

    def features(split: str) -> np.ndarray:
        table = problem.table(split)
        short = [directions(block) for directions, block in zip(reduce, vectors_of(table), strict=True)]
        return np.concatenate([problem.plain.categorical(table), *short, raw_numbers(table, problem.schema)], 1)

    return gradient_boosting(problem, features, len(problem.plain.coders_))


BASELINES: dict[str, Callable[[Problem], Model]] = {
    "majority": majority,
    "fuzzy": fuzzy,
    "tfidf_linear": tfidf_linear,
    "tfidf_gbm": tfidf_gbm,
    "embeddings_linear": embeddings_linear,
    "embeddings_gbm": embeddings_gbm,
}


@dataclass(frozen=True)
class Fit:
    """What a control cost. ``train_seconds``: reading train and valid, their features, fitting, choosing.
    ``predict_rows_per_second``: reading test, its features, predicting. Vectors of frozen networks come from the cache
    where it has them; of a matching dataset those of all records count as training."""

    train_seconds: float
    predict_rows_per_second: float
    n_parameters: int | None


def run_baseline(name: str, data: Path, output: Path, seed: int, cache: Path, keep: Sequence[str] = ()) -> Fit:
    """Fit a control of BASELINES and write ``predictions_valid.parquet`` and ``predictions_test.parquet`` to
    ``output``. ``keep``: types of columns to use, all if empty."""
    if name not in BASELINES:
        raise ConfigError(f"no control {name!r}; expected one of {', '.join(BASELINES)}")
    schema, store = _with_types(Schema.read(data), keep), Store(cache)
    of_rows = schema.of_rows
    schemas = [schema] if of_rows else [_of_relation(schema, relation) for relation in schema.relations]
    train_seconds = predict_seconds = 0.0
    models: list[Model] = []
    thresholds: list[float] = []
    tests: list[np.ndarray] = []
    for schema in schemas:
        start = time.perf_counter()
        problem = Problem(data, schema, seed, store)
        models.append(BASELINES[name](problem))
        if not of_rows:
            thresholds.append(best_threshold(models[-1].valid, problem.label("valid")))
        fitted = time.perf_counter()
        tests.append(models[-1].test())
        train_seconds, predict_seconds = train_seconds + fitted - start, predict_seconds + time.perf_counter() - fitted
    for split, parts in (("valid", [model.valid for model in models]), ("test", tests)):
        p = parts[0] if of_rows else np.stack(parts, 1)
        write_predictions(
            output / f"predictions_{split}.parquet", Truth.read(data, split, labelled=False), p, thresholds
        )
    sizes = [model.n_parameters for model in models if model.n_parameters is not None]
    return Fit(train_seconds, len(tests[0]) / max(predict_seconds, 1e-9), sum(sizes) if sizes else None)


def _with_types(schema: Schema, keep: Sequence[str]) -> Schema:
    types = {str(column.type) for column in schema.columns}
    for kind in keep:
        if kind not in types:
            problem = f"no columns of type {kind!r} to keep; it has {listed(sorted(types))}"
            raise ConfigError(f"dataset {schema.name}: {problem}")
    return schema.without(sorted(types - set(keep))) if keep and types - set(keep) else schema


def _of_relation(schema: Schema, relation: str) -> Schema:
    """With one relation, without the columns that it ignores: as if the dataset had no other."""
    ignored = schema.relations[relation]
    if len(ignored) == len(schema.columns):
        problem = f"it ignores all columns that were kept ({listed(ignored)})"
        raise ConfigError(f"dataset {schema.name}, relation {relation}: {problem}")
    return schema.choose([relation], [])
