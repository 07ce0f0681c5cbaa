"""What a model uses: its scores on valid with columns or whole modalities taken away, without training again.

A cell that is taken away is a missing cell, as if the table had been read without it. Intervals are of a paired
bootstrap over rows (pairs), which says how much of a difference is noise of the split.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from math import comb
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmtab.data.pairs import read_records
from mmtab.data.schema import ColumnType, Schema
from mmtab.features.batches import is_known
from mmtab.features.loader import PairBatches, RowBatches
from mmtab.features.similarity import EVERYTHING, SimilarityFeatures
from mmtab.runs.session import Session
from mmtab.training.metrics import bootstrap
from mmtab.training.predictions import Predictions
from mmtab.training.regression import RegressionTask
from mmtab.training.tasks import PairTask
from mmtab.utils.progress import steps

MAX_ROWS = 1_000  # scored in each condition; rows or pairs, at random beyond
SHARES = (0.25, 0.5, 0.75)  # of rows that lose a modality, between none and all
BOUNDS = (2.5, 97.5)  # percentiles that bound an interval
CHANGE = 0.1  # standard deviations of a label by which a predicted number has to move to count as another
MIN_GAIN = 0.002  # of a score; less is negligible, also where it is beyond noise
EVERY = "every modality"

Removed = dict[str, np.ndarray]  # by column, [n] bool: rows of the table whose cell is taken away


def modalities(schema: Schema) -> dict[str, list[str]]:
    """Columns by modality, in the order image, text, numeric, categorical; moments are numbers."""
    of = {
        "image": schema.of_type(ColumnType.IMAGE),
        "text": schema.of_type(ColumnType.TEXT),
        "numeric": schema.of_type(ColumnType.NUMERIC, ColumnType.DATETIME),
        "categorical": schema.of_type(ColumnType.CATEGORICAL),
    }
    return {name: columns for name, columns in of.items() if columns}


def ablate(session: Session, folder: Path, *, n_rows: int = MAX_ROWS) -> dict[str, Any]:
    """Score valid with every subset of the modalities, without each column, and under growing missingness.

    Of each modality: the score ``without`` it and with it ``alone``; ``loss``, what is lost without it; its Shapley
    value (Shapley 1953; of scores: Covert et al. 2020), by which modalities are ranked, because what two modalities
    have in common is lost with neither alone; ``changed``, the share of predictions that differ without it; and a
    ``verdict``: used, replaceable (others have the same information) or unused. Of each column the ``loss``, and by how
    many nats the label's log-likelihood falls. ``low`` and ``high`` bound 95 % intervals. Plain values, for JSON.
    """
    started = time.perf_counter()
    work, groups = _Work(session, folder, n_rows), modalities(session.schema)
    scores, names = _Scores(work, _conditions(work, groups)), list(groups)
    everything, score = _subset(names), scores.score
    none = {name: score[_subset(other for other in names if other != name)] for name in names} | {EVERY: score[""]}
    curves = {
        name: [score[everything], *(score[f"{share} {name}"] for share in SHARES), last] for name, last in none.items()
    }
    return {
        "split": "valid",
        "n_rows": scores.n_rows,
        "n_rows_of_split": work.n_in_split,
        "metric": scores.metric,
        "score": score[everything],
        "nothing": score[""],
        "subsets": {_subset(subset): score[_subset(subset)] for subset in _subsets(names)},
        "modalities": {name: _modality(scores, groups, name) for name in names},
        "columns": {column: _column(work, scores, groups, column) for column in work.columns},
        "missingness": {"shares": [0.0, *SHARES, 1.0], "scores": curves},
        "seconds": time.perf_counter() - started,
    }


def contributions(session: Session, folder: Path, *, n_rows: int = MAX_ROWS) -> dict[str, float]:
    """By modality its Shapley value, as ``ablate`` has it."""
    work, groups = _Work(session, folder, n_rows), modalities(session.schema)
    scores = _Scores(work, _without_modalities(work, groups))
    return {name: _shapley(scores.score, list(groups), name) for name in groups}


def _without_modalities(work: _Work, groups: Mapping[str, list[str]]) -> dict[str, Removed]:
    """By name every subset of the modalities, all others being missing."""
    return {
        _subset(subset): work.everywhere(column for name in groups if name not in subset for column in groups[name])
        for subset in _subsets(list(groups))
    }


def _conditions(work: _Work, groups: Mapping[str, list[str]]) -> dict[str, Removed]:
    """By name: every subset of the modalities, without each column, and with a share of each modality missing."""
    conditions = _without_modalities(work, groups)
    conditions |= {f"without {column}": work.everywhere([column]) for column in work.columns}
    draws = np.random.default_rng(0).random((len(groups), work.batches.table.n_rows))
    for share in SHARES:
        for name, draw in zip(groups, draws, strict=True):
            conditions[f"{share} {name}"] = {column: draw < share for column in groups[name]}
        cells = [conditions[f"{share} {name}"] for name in groups]
        conditions[f"{share} {EVERY}"] = {column: rows for removed in cells for column, rows in removed.items()}
    return conditions


class _Scores:
    """By condition: ``predictions``, ``y_pred`` [n, r], ``score``, and ``draws``, the scores of a paired bootstrap."""

    def __init__(self, work: _Work, conditions: Mapping[str, Removed]) -> None:
        names, task = steps(conditions, len(conditions), "scoring without columns"), work.session.task
        self.predictions = {name: work.score(conditions[name]) for name in names}
        y_true, y_pred = work.labels_and_predictions(list(self.predictions.values()))
        plain = "f1" if isinstance(task, PairTask) else "accuracy"
        self.metric = task.metric if task.metric in ("accuracy", "macro_f1", "f1", "r2") else plain
        draws = bootstrap(y_true, y_pred, self.metric, int(max(y_true.max(), y_pred.max())) + 1)
        assert draws is not None
        self.n_rows = len(y_true)
        self.y_pred = dict(zip(self.predictions, y_pred, strict=True))
        self.tolerance = CHANGE * y_true.std() if isinstance(task, RegressionTask) else 0.0
        self.draws = dict(zip(self.predictions, draws.T, strict=True))
        self.score = {name: task.metrics_of(values)[self.metric] for name, values in self.predictions.items()}

    def loss(self, everything: str, without: str) -> dict[str, float]:
        low, high = np.percentile(self.draws[everything] - self.draws[without], BOUNDS).tolist()
        return {"loss": self.score[everything] - self.score[without], "low": low, "high": high}


def _modality(scores: _Scores, groups: Mapping[str, list[str]], name: str) -> dict[str, Any]:
    names = list(groups)
    everything, others = _subset(names), _subset(other for other in names if other != name)
    loss, value = scores.loss(everything, others), _shapley(scores.score, names, name)
    low, high = np.percentile(_shapley(scores.draws, names, name), BOUNDS).tolist()
    if loss["low"] > 0 and loss["loss"] >= MIN_GAIN:
        verdict = "used"
    else:
        verdict = "replaceable" if low > 0 and value >= MIN_GAIN else "unused"
    return {
        "columns": groups[name],
        "without": scores.score[others],
        "alone": scores.score[name],
        **loss,
        "shapley": value,
        "shapley_low": low,
        "shapley_high": high,
        "changed": float((abs(scores.y_pred[everything] - scores.y_pred[others]) > scores.tolerance).any(1).mean()),
        "verdict": verdict,
    }


def _column(work: _Work, scores: _Scores, groups: Mapping[str, list[str]], column: str) -> dict[str, Any]:
    everything, without = _subset(groups), f"without {column}"
    before, after = (work.log_likelihood(scores.predictions[name]) for name in (everything, without))
    return {
        "modality": next(name for name, columns in groups.items() if column in columns),
        "without": scores.score[without],
        **scores.loss(everything, without),
        "nats": float((before - after).mean()),
    }


def ranking(ablation: Mapping[str, Any]) -> list[str]:
    """The modalities of ``ablate``'s result, by falling contribution."""
    return sorted(ablation["modalities"], key=lambda name: -ablation["modalities"][name]["shapley"])


class _Work:
    """A sample of valid, scored again and again."""

    def __init__(self, session: Session, folder: Path, n_rows: int) -> None:
        self.session, self.columns = session, [column.name for column in session.schema.columns]
        batches, _, _ = session.load("valid", folder)
        self.n_in_split = len(batches)
        chosen = np.sort(np.random.default_rng(0).permutation(len(batches))[:n_rows])
        if isinstance(batches, RowBatches):
            self.batches: RowBatches | PairBatches = RowBatches(
                batches.table, batches.labels, chosen[is_known(batches.labels[chosen])]
            )
        else:
            bad: Any = session.config.dataset.bad_cells
            self.batches, self.records = batches.some(chosen), read_records(folder, session.schema, bad).table

    def everywhere(self, columns: Iterable[str]) -> Removed:
        return {name: np.ones(self.batches.table.n_rows, bool) for name in columns}

    def score(self, removed: Removed) -> Predictions:
        batches = self.batches.without(removed) if removed else self.batches
        if isinstance(batches, PairBatches) and removed:
            batches = self._compare_all(batches, removed)
        return self.session.predictions(batches)[0]

    def _compare_all(self, batches: PairBatches, removed: Removed) -> PairBatches:
        """With similarity features of all texts of a row at once computed anew, of rows that lack cells."""
        similarity, fitted, written = batches.similarity, self.session.fitted, self.session.schema.written
        if similarity is None or fitted.similarity is None:
            return batches
        own = np.array([owner == EVERYTHING for owner in fitted.similarity.owners])
        if not own.any() or not set(removed) & set(written):
            return batches
        columns = {name: cells for name, cells in self.records.columns.items() if name in written}
        for name in removed.keys() & columns.keys():
            missing = pa.scalar(None, columns[name].type)
            columns[name] = pc.if_else(pa.array(removed[name]), missing, columns[name])
        at_once = SimilarityFeatures(fitted.similarity.schema, [EVERYTHING], fitted.similarity.idf_)
        features = at_once(replace(self.records, columns=columns), batches.left, batches.right)
        scalers = [scaler for scaler, mine in zip(fitted.similarity_scalers, own, strict=True) if mine]
        similarity = similarity.copy()
        similarity[:, own] = replace(fitted, similarity_scalers=tuple(scalers)).scale(features)
        return batches.with_similarity(similarity)

    def labels_and_predictions(self, predictions: Sequence[Predictions]) -> tuple[np.ndarray, np.ndarray]:
        """[n, r] labels and [s, n, r] predictions, of k-way r is 1."""
        task = self.session.task
        if isinstance(task, RegressionTask):
            return predictions[0].label[:, None], np.stack([task.y_pred(p) for p in predictions])
        if isinstance(task, PairTask):
            matches = [p.probability >= task.thresholds for p in predictions if p.probability is not None]
            return predictions[0].label, np.stack(matches).astype(np.int64)
        return predictions[0].label[:, None], np.stack([p.best[:, :1] for p in predictions if p.best is not None])

    def log_likelihood(self, predictions: Predictions) -> np.ndarray:
        """[n] of the label, in nats; the mean over relations. Of numbers as if errors were distributed by Laplace."""
        task = self.session.task
        if isinstance(task, RegressionTask):
            off = np.abs(task.y_pred(predictions)[:, 0] - predictions.label)
            return -off / max(float(predictions.label.std()), np.finfo(np.float64).tiny)
        if isinstance(task, PairTask):
            assert predictions.probability is not None
            p = predictions.probability.clip(1e-12, 1 - 1e-12)
            return np.log(np.where(predictions.label == 1, p, 1 - p)).mean(1)
        assert predictions.label_probability is not None
        return np.log(predictions.label_probability.clip(1e-12))


def _subsets(names: Sequence[str]) -> list[tuple[str, ...]]:
    return [subset for n in range(len(names) + 1) for subset in combinations(names, n)]


def _subset(names: Iterable[str]) -> str:
    """As in ``synthetic.ceilings``; "" is nothing."""
    return "+".join(names)


def _shapley(score: Mapping[str, Any], names: Sequence[str], name: str) -> Any:
    """What a modality adds to the score, averaged over all orders in which modalities could come together."""
    total: Any = 0.0
    for subset in _subsets([other for other in names if other != name]):
        weight = 1 / (len(names) * comb(len(names) - 1, len(subset)))
        with_it = _subset(other for other in names if other in (*subset, name))
        total = total + weight * (score[with_it] - score[_subset(subset)])
    return total
