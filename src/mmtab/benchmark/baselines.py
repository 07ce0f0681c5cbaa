"""The controls that keep a benchmark honest: what little is needed to answer a dataset. A model that does not beat them
has learnt nothing of its own, and a dataset on which nothing beats them does not tell models apart.

Everything is fitted on train; valid only chooses (a penalty, when to stop, a threshold). The test table is read once, when
the model is fixed, and its labels never: the folder has none.
"""

from __future__ import annotations

import contextlib
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

from mmtab.benchmark.scoring import Truth, write_answers
from mmtab.config.types import CategoryRules
from mmtab.data.pairs import Pairs, Records, read_pairs, read_records
from mmtab.data.schema import ColumnType, Schema, TaskKind
from mmtab.data.table import Table, read_split
from mmtab.features.preprocess import LabelCoder, Preprocessor, numeric_columns
from mmtab.features.similarity import Comparison
from mmtab.training.metrics import best_threshold
from mmtab.utils.cache import Store
from mmtab.utils.errors import ConfigError, DataError
from mmtab.utils.machine import native_bf16, usable_cores
from mmtab.utils.optional import require

Features = Callable[[str], Any]  # of a split: [n, f], dense or sparse
RULES = CategoryRules(max_values=1_000, n_hash=256)  # so that one-hot stays narrow enough to be dense
N_COMPONENTS = 64  # at most, of a text or picture vector for trees, which read each number on its own; N_TOPICS of all
N_TOPICS = 240  # of tf-idf for trees: of all text columns together
# Trees of two sizes. Categories with thousands of values let trees learn single rows: the second smooths them, the third
# has none of them.
SMALL = {"num_leaves": 7, "feature_fraction": 0.3, "lambda_l2": 5.0, "cat_smooth": 50.0, "cat_l2": 50.0}
TREES = (({"num_leaves": 15, "feature_fraction": 0.5}, True), (SMALL, True), (SMALL, False))
PENALTIES = (0.001, 0.01, 0.1, 1.0)  # C of a logistic regression on standardised features
SPARSE_PENALTIES = (1.0, 10.0, 100.0)  # and on tf-idf, whose numbers are small
LIMIT = 6.0  # standard deviations
VECTOR_LENGTH = 3.0  # of all standardised vectors of a row together, which stand beside ones and zeros of categories
VECTOR_PENALTIES = (0.03, 0.1, 0.3, 1.0, 3.0)  # C with such vectors


@dataclass(frozen=True)
class Fit:
    """What a control cost. ``train_seconds``: reading train and valid, their features, fitting, choosing.
    ``predict_rows_per_second``: reading test, its features, answering. Vectors of frozen networks come from the cache where
    it has them; of a matching dataset those of all records count as training."""

    train_seconds: float
    predict_rows_per_second: float
    n_parameters: int | None


@dataclass(frozen=True)
class Model:
    """``valid``: [n, k] probabilities of the classes, or [n] of a match. ``test`` reads the test table and answers it."""

    valid: np.ndarray
    test: Callable[[], np.ndarray]
    n_parameters: int | None = None


class Question:
    """A k-way dataset, or one relation of a matching one with the columns that it minds. Tables are read when asked for."""

    def __init__(self, folder: Path, schema: Schema, seed: int, store: Store) -> None:
        self.folder, self.schema, self.seed, self.store = folder, schema, seed, store
        self.kway = schema.task is TaskKind.KWAY
        self._tables: dict[str, Table] = {}
        self._pairs: dict[str, Pairs] = {}

    @property
    def relation(self) -> str:
        return next(iter(self.schema.relations))

    def table(self, split: str) -> Table:
        if split not in self._tables:
            table = read_split(self.folder, self.schema, split)
            self._tables[split] = replace(table, labels=None) if split == "test" else table
        return self._tables[split]

    @property
    def records(self) -> Table:
        return self._all_records.table

    @cached_property
    def _all_records(self) -> Records:
        return read_records(self.folder, self.schema)

    def pairs(self, split: str) -> Pairs:
        if split not in self._pairs:
            self._pairs[split] = read_pairs(self.folder, self.schema, split, self._all_records)
        return self._pairs[split]

    @cached_property
    def seen(self) -> np.ndarray:
        """The records of training pairs."""
        pairs = self.pairs("train")
        return np.unique(np.concatenate([pairs.left, pairs.right]))

    @cached_property
    def plain(self) -> Preprocessor:
        """How numbers scale and which categories there are, by what training may see."""
        if self.kway:
            return Preprocessor.fit(self.table("train"), self.schema, RULES)
        return Preprocessor.fit(self.records, self.schema, RULES, self.seen)

    @cached_property
    def classes(self) -> list[str]:
        assert self.schema.label is not None
        return LabelCoder.fit(self.table("train"), self.schema.label).classes_

    def label(self, split: str) -> np.ndarray:
        """[n] int64: the place among ``classes``, or whether the relation holds."""
        if self.kway:
            assert self.schema.label is not None
            found = LabelCoder(self.classes).transform(self.table(split), self.schema.label)
            if (found >= 0).all():
                return found
            raise self.table(split).error("no labels to learn from or choose by", column=self.schema.label)
        told = self.pairs(split).relations.get(self.relation)
        if told is None or (split == "train" and len(told.unique()) < 2):
            raise DataError(
                self.schema.name, "no labels" if told is None else "only one class", table=f"pairs_{split}",
                column=self.relation, expected="matches (1) and others (0)",
            )  # fmt: skip
        return np.asarray(told).astype(np.int64)

    def needs(self, *types: ColumnType) -> None:
        if not self.schema.of_type(*types):
            there = ", ".join(f"{column.name} ({column.type})" for column in self.schema.columns)
            raise ConfigError(f"{self._name}: this control reads {_listed(types)} columns, and there are none: {there}")

    @property
    def _name(self) -> str:
        return f"dataset {self.schema.name}" + (f", relation {self.relation}" if self.schema.names_relations else "")


def run_baseline(name: str, data: Path, output: Path, seed: int, cache: Path, keep: Sequence[str] = ()) -> Fit:
    """Fit a control of BASELINES and write ``predictions_valid.parquet`` and ``predictions_test.parquet`` to ``output``.
    ``keep``: types of columns to use, all if empty."""
    if name not in BASELINES:
        raise ConfigError(f"no control {name!r}; expected one of {', '.join(BASELINES)}")
    schema, store = _kept(Schema.read(data), keep), Store(cache)
    kway = schema.task is TaskKind.KWAY
    schemas = [schema] if kway else [_of_relation(schema, relation) for relation in schema.relations]
    train_seconds, predict_seconds, n_parameters = 0.0, 0.0, list[int | None]()
    found: dict[str, list[np.ndarray]] = {"valid": [], "test": []}
    thresholds = list[float]()
    for each in schemas:
        start = time.perf_counter()
        question = Question(data, each, seed, store)
        model = BASELINES[name](question)
        if not kway:
            thresholds.append(best_threshold(model.valid, question.label("valid")))
        middle = time.perf_counter()
        found["valid"].append(model.valid)
        found["test"].append(model.test())
        end = time.perf_counter()
        train_seconds, predict_seconds = train_seconds + middle - start, predict_seconds + end - middle
        n_parameters.append(model.n_parameters)
    for split, parts in found.items():
        p = parts[0] if kway else np.stack(parts, 1)
        write_answers(output / f"predictions_{split}.parquet", Truth.read(data, split, labelled=False), p, thresholds)
    n_test = len(found["test"][0])
    known = [n for n in n_parameters if n is not None]
    return Fit(train_seconds, n_test / max(predict_seconds, 1e-9), sum(known) if known else None)


def _kept(schema: Schema, keep: Sequence[str]) -> Schema:
    there = {str(column.type) for column in schema.columns}
    for kind in keep:
        if kind not in there:
            raise ConfigError(
                f"dataset {schema.name}: no columns of type {kind!r} to keep; it has {_listed(sorted(there))}"
            )
    return schema.without(sorted(there - set(keep))) if keep and there - set(keep) else schema


def _of_relation(schema: Schema, relation: str) -> Schema:
    """With one relation, without the columns that it ignores: as if the dataset asked nothing else."""
    ignored = schema.relations[relation]
    if len(ignored) == len(schema.columns):
        raise ConfigError(f"dataset {schema.name}, relation {relation}: it ignores all columns that were kept ({_listed(ignored)})")  # fmt: skip
    return schema.choose([relation], [])


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(str, names)) or "none"


# --- the controls ----------------------------------------------------------------------------------------------------


def majority(question: Question) -> Model:
    """The shares of the classes among the training rows, or that of matches among the training pairs, for every row."""
    label = question.label("train")
    share = np.bincount(label) / len(label) if question.kway else label.mean()

    def answer(split: str) -> np.ndarray:
        n = len(question.table(split) if question.kway else question.pairs(split))
        return np.tile(share, (n, 1)) if question.kway else np.full(n, share)

    return Model(answer("valid"), lambda: answer("test"))


def tfidf_linear(question: Question) -> Model:
    """K-way: logistic regression on tf-idf of words and of parts of words, categories one-hot, numbers by rank. Matching:
    on the similarities that ``Comparison`` has without pictures."""
    question.needs(*_NOT_IMAGE)
    if not question.kway:
        return _logistic(question, _standardised(_compared(question)), PENALTIES)
    texts = _Tfidf(question)

    def features(split: str) -> sp.csr_array:
        table = question.table(split)
        return sp.csr_array(sp.hstack([*texts(table), *_plain(question, table)], "csr", np.float32))

    return _logistic(question, features, SPARSE_PENALTIES)


def tfidf_gbm(question: Question) -> Model:
    """K-way: LightGBM on the main directions of tf-idf, categories, numbers. Matching: on what ``tfidf_linear`` reads."""
    from sklearn.decomposition import TruncatedSVD

    question.needs(*_NOT_IMAGE)
    if not question.kway:
        return _boosted(question, _compared(question))
    texts = _Tfidf(question)
    reducers: list[Any] = []
    for block in (blocks := texts(question.table("train"))):
        n = min(N_TOPICS // len(blocks), *(side - 1 for side in block.shape))
        reducers.append(TruncatedSVD(max(n, 1), random_state=question.seed).fit(block))

    def features(split: str) -> np.ndarray:
        table = question.table(split)
        topics = [reducer.transform(block) for reducer, block in zip(reducers, texts(table), strict=True)]
        return np.concatenate([question.plain.categorical(table), *topics, _raw(table, question.schema)], 1)

    return _boosted(question, features, len(question.plain.coders_))


def fuzzy(question: Question) -> Model:
    """How alike the text and categories of two records are as strings, and nothing else; matching only."""
    from rapidfuzz import fuzz, process

    if question.kway:
        raise ConfigError(f"dataset {question.schema.name}: fuzzy compares two records, so it is for matching only")
    question.needs(ColumnType.TEXT, ColumnType.CATEGORICAL)
    cells = zip(*(question.records.columns[name].to_pylist() for name in question.schema.written), strict=True)
    texts = [" ".join(cell for cell in row if cell).lower() for row in cells]

    def features(split: str) -> np.ndarray:
        pairs = question.pairs(split)
        sides = ([texts[row] for row in side] for side in (pairs.left, pairs.right))
        scores = process.cpdist(*sides, scorer=fuzz.token_set_ratio, workers=usable_cores())
        return scores.astype(np.float64)[:, None] / 100

    return _logistic(question, features, (1.0,))


def embeddings_linear(question: Question) -> Model:
    """Logistic regression on vectors of frozen networks: MiniLM of text, EfficientNet-Lite0 of pictures; k-way with numbers
    and categories beside them, matching on how the vectors of two records differ."""
    if not question.kway:
        question.needs(ColumnType.TEXT, ColumnType.CATEGORICAL, ColumnType.IMAGE)
        vectors = _Vectors(question)(question.records)
        return _logistic(question, _standardised(lambda split: _differences(vectors, question.pairs(split))), PENALTIES)
    vectors_of = _Vectors(question)

    def side_by_side(split: str) -> np.ndarray:
        table = question.table(split)
        return np.concatenate([np.zeros((len(table), 0), np.float32), *vectors_of(table)], 1)

    scaled = _standardised(side_by_side)

    def features(split: str) -> np.ndarray:
        others, vectors = _plain(question, question.table(split)), scaled(split)
        vectors *= VECTOR_LENGTH / np.sqrt(max(vectors.shape[1], 1))
        return np.concatenate([vectors, *(part.toarray() for part in others)], 1, dtype=np.float32)

    return _logistic(question, features, VECTOR_PENALTIES)


def embeddings_gbm(question: Question) -> Model:
    """LightGBM on the main directions of those vectors; matching with all that ``Comparison`` has."""
    if not question.kway:
        vectors = _Vectors(question)(question.records)
        reduce = [_Directions(block[question.seen], question.seed, N_COMPONENTS) for block in vectors]
        short = [directions(block) for directions, block in zip(reduce, vectors, strict=True)]
        images = question.schema.of_type(ColumnType.IMAGE)
        pictures = dict(zip(images, vectors[len(vectors) - len(images) :], strict=True))
        compared = _compared(question, pictures)
        return _boosted(question, lambda split: np.concatenate([compared(split), _differences(short, question.pairs(split))], 1))  # fmt: skip
    vectors_of = _Vectors(question)
    blocks = vectors_of(question.table("train"))
    width = min(N_COMPONENTS, N_TOPICS // max(len(blocks), 1))
    reduce = [_Directions(block, question.seed, width) for block in blocks]

    def features(split: str) -> np.ndarray:
        table = question.table(split)
        short = [directions(block) for directions, block in zip(reduce, vectors_of(table), strict=True)]
        return np.concatenate([question.plain.categorical(table), *short, _raw(table, question.schema)], 1)

    return _boosted(question, features, len(question.plain.coders_))


BASELINES: dict[str, Callable[[Question], Model]] = {
    "majority": majority,
    "fuzzy": fuzzy,
    "tfidf_linear": tfidf_linear,
    "tfidf_gbm": tfidf_gbm,
    "embeddings_linear": embeddings_linear,
    "embeddings_gbm": embeddings_gbm,
}

# --- learners --------------------------------------------------------------------------------------------------------


def _logistic(question: Question, features: Features, penalties: Sequence[float]) -> Model:
    """The penalty is that with the best metric of the dataset on valid, of equal ones the strongest."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    x, x_valid, y, y_valid = features("train"), features("valid"), question.label("train"), question.label("valid")
    model = LogisticRegression(max_iter=150, tol=1e-3, warm_start=True)  # from the penalty before: half the steps
    best, chosen, valid = -np.inf, (model.C, model.C), np.zeros(0)

    def probability(rows: Any, weights: tuple[Any, Any]) -> np.ndarray:
        model.coef_, model.intercept_ = weights
        p = np.zeros((rows.shape[0], max(2, len(question.classes)) if question.kway else 2))
        p[:, model.classes_] = model.predict_proba(rows)
        p /= p.sum(1, keepdims=True)
        return p if question.kway else p[:, 1]

    for penalty in penalties:
        with warnings.catch_warnings():  # a control need not end on the last digit
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.set_params(C=penalty).fit(x, y)
        weights = model.coef_.copy(), model.intercept_.copy()
        found = probability(x_valid, weights)
        score = _score(question.schema.metric, y_valid, found)
        if score > best:
            best, chosen, valid = score, weights, found
    return Model(valid, lambda: probability(features("test"), chosen), sum(part.size for part in chosen))


def _score(metric: str, label: np.ndarray, p: np.ndarray) -> float:
    from sklearn import metrics

    if metric == "accuracy":
        return float((p.argmax(1) == label).mean())
    if metric == "macro_f1":
        return metrics.f1_score(label, p.argmax(1), average="macro", zero_division=0)
    if label.min() == label.max():
        return -metrics.log_loss(label, p, labels=[0, 1])
    if metric == "f1":
        return metrics.f1_score(label, p >= best_threshold(p, label))
    return metrics.average_precision_score(label, p) if metric == "pr_auc" else metrics.roc_auc_score(label, p)


def _boosted(question: Question, features: Features, n_categorical: int = 0) -> Model:
    """LightGBM that stops early by its loss on valid; of TREES those with the best metric of the dataset there.
    ``n_categorical``: so many of the first features are numbers of categories."""
    lightgbm = require("lightgbm", extra="benchmark")

    fixed: dict[str, Any] = {
        "objective": "multiclass" if question.kway else "binary", "learning_rate": 0.1, "max_bin": 63, "min_data_in_leaf": 10,
        "seed": question.seed, "deterministic": True, "force_row_wise": True, "num_threads": usable_cores(), "verbosity": -1,
    }  # fmt: skip
    if question.kway:
        fixed["num_class"] = len(question.classes)
    x, x_valid, y, y_valid = features("train"), features("valid"), question.label("train"), question.label("valid")
    best: tuple[float, np.ndarray, Any, int] | None = None
    for parameters, with_categories in TREES:
        skipped = 0 if with_categories else n_categorical
        if not with_categories and (not n_categorical or n_categorical == x.shape[1]):
            continue  # as the one before, or nothing would be left
        settings = fixed | parameters
        names = list(range(n_categorical - skipped))
        data = lightgbm.Dataset(x[:, skipped:], y, categorical_feature=names, params=settings)
        stop = lightgbm.Dataset(x_valid[:, skipped:], y_valid, reference=data, params=settings)
        model = lightgbm.train(settings, data, 300, [stop], callbacks=[lightgbm.early_stopping(20, verbose=False)])
        found = np.asarray(model.predict(x_valid[:, skipped:]))
        score = _score(question.schema.metric, y_valid, found)
        if best is None or score > best[0]:
            best = score, found, model, skipped
    assert best is not None
    _, valid, chosen, start = best
    return Model(valid, lambda: np.asarray(chosen.predict(features("test")[:, start:])))


# --- features --------------------------------------------------------------------------------------------------------

_NOT_IMAGE = (ColumnType.TEXT, ColumnType.CATEGORICAL, ColumnType.NUMERIC, ColumnType.DATETIME)


class _Tfidf:
    """Words and pairs of words of each text column, and parts of words; blocks of columns that are not empty."""

    def __init__(self, question: Question) -> None:
        from sklearn.feature_extraction.text import TfidfVectorizer

        self._fitted: list[tuple[str, Any]] = []
        for name in question.schema.of_type(ColumnType.TEXT):
            cells = _texts(question.table("train"), name)
            for chars in (False, True):
                how = {"analyzer": "char_wb", "ngram_range": (2, 4)} if chars else {"ngram_range": (1, 2)}
                vectorizer = TfidfVectorizer(min_df=2, max_features=30_000, sublinear_tf=True, dtype=np.float32, **how)
                with contextlib.suppress(ValueError):  # no word stands in two rows
                    self._fitted.append((name, vectorizer.fit(cells)))

    def __call__(self, table: Table) -> list[sp.csr_array]:
        return [sp.csr_array(vectorizer.transform(_texts(table, name))) for name, vectorizer in self._fitted]


def _texts(table: Table, name: str) -> list[str]:
    return [cell or "" for cell in table.columns[name].to_pylist()]


def _raw(table: Table, schema: Schema) -> np.ndarray:
    """[n, c] numbers and dates as they are; NaN for missing."""
    columns = list(numeric_columns(table, schema).values())
    return np.stack(columns, 1) if columns else np.zeros((len(table), 0))


def _plain(question: Question, table: Table) -> list[sp.csr_array]:
    """Numbers by rank, which of them are missing, and categories one-hot."""
    fitted, n = question.plain, len(table)
    numbers, ids = fitted.numeric(table, question.schema), fitted.categorical(table)
    parts = [sp.csr_array(np.nan_to_num(numbers)), sp.csr_array(np.isnan(numbers).astype(np.float32))]
    for coder, column in zip(fitted.coders_.values(), ids.T, strict=True):
        parts.append(sp.csr_array((np.ones(n, np.float32), column, np.arange(n + 1)), shape=(n, coder.n_ids)))
    return [part for part in parts if part.shape[1]]


def _compared(question: Question, pictures: dict[str, np.ndarray] | None = None) -> Features:
    """Similarities of pairs, those of pictures where these are given by column."""
    schema, train = question.schema, question.pairs("train")
    if pictures is None and schema.of_type(ColumnType.IMAGE):
        schema = schema.without([str(ColumnType.IMAGE)])
    comparison = Comparison.fit(question.records, question.seen, train, schema)

    def features(split: str) -> np.ndarray:
        pairs = question.pairs(split)
        return comparison(question.records, pairs.left, pairs.right, pictures)

    return features


def _standardised(features: Features) -> Features:
    """To the mean and spread of train, within LIMIT. A missing number is the mean, and has an indicator where train misses
    it too; neighbours that are always missing together, such as the numbers of a vector, share one."""
    x = features("train")
    x = np.where(np.isinf(x), np.nan, x)
    with warnings.catch_warnings():  # of columns that are missing everywhere
        warnings.simplefilter("ignore", RuntimeWarning)
        mean, spread = np.nan_to_num(np.nanmean(x, 0)), np.nan_to_num(np.nanstd(x, 0))
    missing: np.ndarray = np.isnan(x)
    told: np.ndarray = np.logical_and(missing.any(0), ~missing.all(0))
    told[1:] &= (missing[:, 1:] != missing[:, :-1]).any(0)

    def scaled(split: str) -> np.ndarray:
        rows = features(split)
        z = np.nan_to_num(((rows - mean) / np.where(spread > 1e-9, spread, 1)).clip(-LIMIT, LIMIT))
        return np.concatenate([z, np.isnan(rows[:, told])], 1, dtype=np.float32)

    return scaled


class _Directions:
    """The main directions of vectors [n, f], of which some are missing (NaN)."""

    def __init__(self, train: np.ndarray, seed: int, width: int) -> None:
        from sklearn.decomposition import PCA

        there = train[~np.isnan(train[:, 0])]
        n = min(width, *(side - 1 for side in there.shape))
        self._fitted = PCA(n, svd_solver="randomized", random_state=seed).fit(there) if n > 0 else None

    def __call__(self, vectors: np.ndarray) -> np.ndarray:
        there = ~np.isnan(vectors[:, 0])
        out = np.full((len(vectors), 0 if self._fitted is None else self._fitted.n_components_), np.nan, np.float32)
        if there.any() and self._fitted is not None:
            out[there] = self._fitted.transform(vectors[there])
        return out


def _differences(vectors: list[np.ndarray], pairs: Pairs) -> np.ndarray:
    """Of each vector the distance and product by place, and the cosine; NaN where a side has none."""
    parts: list[np.ndarray] = [np.zeros((len(pairs), 0), np.float32)]
    for vector in vectors:
        a, b = vector[pairs.left], vector[pairs.right]
        size = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
        parts += [np.abs(a - b), a * b, ((a * b).sum(1) / np.maximum(size, 1e-9))[:, None]]
    return np.concatenate(parts, 1)


class _Vectors:
    """What frozen networks make of a table: [n, f] float32 each, NaN where there is none, of each column of text (matching:
    of all that is written in a row, the mean over its cells) and of pictures. Computed by mmtab's own encoders, once, and
    kept in its store."""

    def __init__(self, question: Question) -> None:
        from mmtab.model.encoders.image import ImageEncoder  # with torch, which the other controls do without
        from mmtab.model.encoders.text import TextEncoder

        self._question, schema = question, question.schema
        # The two sides of a pair may write the same thing in different columns; k-way has categories beside the text.
        also = () if question.kway else (str(ColumnType.CATEGORICAL),)
        texts = schema.of_type(ColumnType.TEXT, *map(ColumnType, also))
        self._images = schema.of_type(ColumnType.IMAGE)
        self._text = TextEncoder(len(texts), 8, n_tuned_layers=0, also=also).eval() if texts else None
        self._image = ImageEncoder(len(self._images), 8).eval() if self._images else None

    def __call__(self, table: Table) -> list[np.ndarray]:
        question = self._question
        if self._text is None and self._image is None:
            return []
        import torch

        from mmtab.features.encoded import encode_table

        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        bf16 = native_bf16(device)
        encoded = encode_table(
            table, question.schema, question.plain, self._text, self._image,
            question.store, device=device,
            autocast=lambda: torch.autocast(device.type, torch.bfloat16) if bf16 else contextlib.nullcontext(),
        )  # fmt: skip
        found = list[np.ndarray]()
        if encoded.text_features is not None and encoded.text_present is not None:
            cells = np.where(encoded.text_present[..., None], encoded.text_features, np.nan).astype(np.float32)
            if question.kway:
                found += list(cells.transpose(1, 0, 2))
            else:
                n = encoded.text_present.sum(1, keepdims=True)
                found.append(np.where(n > 0, np.nansum(cells, 1) / np.maximum(n, 1), np.nan).astype(np.float32))
        if self._image is not None and encoded.image_features is not None:
            late, n = self._image.backbone.groups[0], int(self._image.backbone.net.num_features)
            last = replace(encoded, image_features=encoded.image_features[:, late - n : late])  # the last layer's mean
            found += [last.pictures[name].astype(np.float32) for name in self._images]
        return found
