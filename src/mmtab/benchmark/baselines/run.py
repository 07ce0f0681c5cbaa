"""One control on one dataset: fitted, timed, its predictions written."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mmtab.benchmark.baselines.controls import BASELINES
from mmtab.benchmark.baselines.learners import Model
from mmtab.benchmark.baselines.problem import Problem, listed
from mmtab.benchmark.scoring import write_predictions
from mmtab.benchmark.truth import Truth
from mmtab.data.schema import Schema, TaskKind
from mmtab.training.metrics import best_threshold
from mmtab.utils.cache import Store
from mmtab.utils.errors import ConfigError


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
    kway = schema.task is TaskKind.KWAY
    schemas = [schema] if kway else [_of_relation(schema, relation) for relation in schema.relations]
    train_seconds = predict_seconds = 0.0
    models: list[Model] = []
    thresholds: list[float] = []
    tests: list[np.ndarray] = []
    for schema in schemas:
        start = time.perf_counter()
        problem = Problem(data, schema, seed, store)
        models.append(BASELINES[name](problem))
        if not kway:
            thresholds.append(best_threshold(models[-1].valid, problem.label("valid")))
        fitted = time.perf_counter()
        tests.append(models[-1].test())
        train_seconds, predict_seconds = train_seconds + fitted - start, predict_seconds + time.perf_counter() - fitted
    for split, parts in (("valid", [model.valid for model in models]), ("test", tests)):
        p = parts[0] if kway else np.stack(parts, 1)
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
