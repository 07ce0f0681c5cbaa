"""What a model uses: its scores on valid with columns or whole modalities taken away, without training again.

A cell that is taken away is a missing cell, as if the table had been read without it. Intervals are of a paired
bootstrap over rows (pairs), which says how much of a difference is noise of the split.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from math import factorial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmtab.data.pairs import Records, read_records
from mmtab.data.pictures import Progress, no_progress
from mmtab.data.schema import ColumnType, Schema
from mmtab.data.table import Table
from mmtab.features.loader import KWayBatches, PairBatches
from mmtab.features.similarity import EVERYTHING, Comparison
from mmtab.runs.session import Batches, Session
from mmtab.training.metrics import bootstrap
from mmtab.training.predictions import Predictions
from mmtab.training.tasks import PairTask

MAX_ROWS = 1_000  # scored in each condition; rows or pairs, at random beyond
SHARES = (0.25, 0.5, 0.75)  # of rows that lose a modality, between none and all
BOUNDS = (2.5, 97.5)  # percentiles that bound an interval
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


def ablate(
    session: Session,
    folder: Path,
    split: str = "valid",
    *,
    n_rows: int = MAX_ROWS,
    seed: int = 0,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Score a labelled split with every subset of the modalities, without each column, and under growing missingness.

    Of each modality: the score ``without`` it and with it ``alone``; ``loss``, what is lost without it; its Shapley
    value (Shapley 1953; of scores: Covert et al. 2020), by which modalities are ranked, because what two modalities
    have in common is lost with neither alone; ``changed``, the share of predictions that differ without it; and a
    ``verdict``: used, replaceable (others have the same information) or unused. Of each column the ``loss``, and by how
    many nats the label's log-likelihood falls. ``low`` and ``high`` bound 95 % intervals. Plain values, for JSON.
    """
    started = time.perf_counter()
    work = _Work.of(session, folder, split, n_rows, seed)
    groups = modalities(session.schema)
    conditions = _conditions(work, groups, [column.name for column in session.schema.columns], seed)
    scores = _Scores.of(work, conditions, progress, seed)
    names = list(groups)
    everything = _subset(names)
    curves = {
        name: [
            scores.score[everything],
            *(scores.score[f"{share} {name}"] for share in SHARES),
            scores.score[_subset([n for n in names if n != name] if name != EVERY else [])],
        ]
        for name in [*names, EVERY]
    }
    return {
        "split": split,
        "n_rows": scores.y_pred.shape[1],
        "n_rows_of_split": work.n_in_split,
        "metric": scores.metric,
        "score": scores.score[everything],
        "nothing": scores.score[_subset(())],
        "subsets": {_subset(subset): scores.score[_subset(subset)] for subset in _subsets(names)},
        "modalities": {name: _modality(scores, groups, name) for name in names},
        "columns": _columns(work, scores, groups),
        "missingness": {"shares": [0.0, *SHARES, 1.0], "scores": curves},
        "seconds": time.perf_counter() - started,
    }


def _conditions(work: _Work, groups: Mapping[str, list[str]], columns: Sequence[str], seed: int) -> dict[str, Removed]:
    """By name: every subset of the modalities, without each column, and with a share of each modality missing."""
    names = list(groups)
    conditions = {
        _subset(subset): work.everywhere(column for name in names if name not in subset for column in groups[name])
        for subset in _subsets(names)
    }
    conditions |= {f"without {column}": work.everywhere([column]) for column in columns}
    draws = np.random.default_rng(seed).random((len(names), work.n_rows_of_table))
    for share in SHARES:
        removed = {
            name: {column: draw < share for column in groups[name]} for name, draw in zip(names, draws, strict=True)
        }
        conditions |= {f"{share} {name}": cells for name, cells in removed.items()}
        conditions[f"{share} {EVERY}"] = {column: rows for cells in removed.values() for column, rows in cells.items()}
    return conditions


@dataclass(frozen=True)
class _Scores:
    """By condition; ``draws`` are the scores of a paired bootstrap."""

    metric: str
    predictions: dict[str, Predictions]
    y_pred: np.ndarray  # [conditions, n, r] int64
    score: dict[str, float]
    draws: dict[str, np.ndarray]

    @staticmethod
    def of(work: _Work, conditions: Mapping[str, Removed], progress: Progress, seed: int) -> _Scores:
        names = progress(iter(conditions), len(conditions), "without columns")
        predictions = {name: work.score(conditions[name]) for name in names}
        task = work.session.task
        y_true, y_pred = work.labels_and_predictions(list(predictions.values()))
        metric = task.metric if task.metric in ("accuracy", "macro_f1", "f1") else work.plain_metric
        draws = bootstrap(y_true, y_pred, metric, int(max(y_true.max(), y_pred.max())) + 1, seed=seed)
        assert draws is not None
        score = {name: task.metrics_of(values)[metric] for name, values in predictions.items()}
        return _Scores(metric, predictions, y_pred, score, dict(zip(predictions, draws.T, strict=True)))

    def loss(self, whole: str, without: str) -> dict[str, float]:
        bounds = _bounds(self.draws[whole] - self.draws[without])
        return {"loss": self.score[whole] - self.score[without], **bounds}


def _bounds(differences: np.ndarray) -> dict[str, float]:
    low, high = np.percentile(differences, BOUNDS)
    return {"low": float(low), "high": float(high)}


def _modality(scores: _Scores, groups: Mapping[str, list[str]], name: str) -> dict[str, Any]:
    names = list(groups)
    everything, others = _subset(names), _subset([n for n in names if n != name])
    loss = scores.loss(everything, others)
    value, bounds = _shapley(scores.score, names, name), _bounds(_shapley(scores.draws, names, name))
    if loss["low"] > 0 and loss["loss"] >= MIN_GAIN:
        verdict = "used"
    else:
        verdict = "replaceable" if bounds["low"] > 0 and value >= MIN_GAIN else "unused"
    order = list(scores.predictions)
    differs = scores.y_pred[order.index(everything)] != scores.y_pred[order.index(others)]
    return {
        "columns": groups[name],
        "without": scores.score[others],
        "alone": scores.score[name],
        **loss,
        "shapley": value,
        "shapley_low": bounds["low"],
        "shapley_high": bounds["high"],
        "changed": float(differs.any(1).mean()),
        "verdict": verdict,
    }


def _columns(work: _Work, scores: _Scores, groups: Mapping[str, list[str]]) -> dict[str, dict[str, Any]]:
    modality = {column: name for name, columns in groups.items() for column in columns}
    everything = _subset(groups)
    likelihood = work.log_likelihood(scores.predictions[everything])
    return {
        column.name: {
            "modality": modality[column.name],
            "without": scores.score[f"without {column.name}"],
            **scores.loss(everything, f"without {column.name}"),
            "nats": float((likelihood - work.log_likelihood(scores.predictions[f"without {column.name}"])).mean()),
        }
        for column in work.session.schema.columns
    }


def ranking(ablation: Mapping[str, Any]) -> list[str]:
    """The modalities of ``ablate``'s result, by falling contribution."""
    return sorted(ablation["modalities"], key=lambda name: -ablation["modalities"][name]["shapley"])


class _Work:
    """A sample of a split, scored again and again."""

    def __init__(self, session: Session, batches: Batches, records: Records | None, n_in_split: int) -> None:
        self.session, self.batches, self.records, self.n_in_split = session, batches, records, n_in_split
        self.n_rows_of_table = batches.table.n_rows
        self.plain_metric = "f1" if isinstance(session.task, PairTask) else "accuracy"

    @staticmethod
    def of(session: Session, folder: Path, split: str, n_rows: int, seed: int) -> _Work:
        batches, _, _ = session.load(split, folder)
        n = len(batches)
        chosen = np.sort(np.random.default_rng(seed).permutation(n)[:n_rows])
        if isinstance(batches, KWayBatches):
            chosen = chosen[batches.labels[chosen] >= 0]
            return _Work(session, KWayBatches(batches.table, batches.labels, chosen), None, n)
        bad: Any = session.config.dataset.bad_cells
        return _Work(session, batches.some(chosen), read_records(folder, session.schema, bad), n)

    def everywhere(self, columns: Iterable[str]) -> Removed:
        return {name: np.ones(self.n_rows_of_table, bool) for name in columns}

    def score(self, removed: Removed) -> Predictions:
        batches = self.batches.without(removed) if removed else self.batches
        if isinstance(batches, PairBatches) and removed:
            self._compare_all(batches, removed)
        return self.session.predictions(batches)[0]

    def _compare_all(self, batches: PairBatches, removed: Removed) -> None:
        """What compares all texts of a row at once is computed anew, of rows that lack cells."""
        comparison, fitted = batches.comparison, self.session.fitted
        if comparison is None or fitted.comparison is None or self.records is None:
            return
        own = np.array([owner == EVERYTHING for owner in fitted.comparison.owners])
        if not own.any() or not set(removed) & set(self.session.schema.written):
            return
        table: Table = self.records.table
        columns = {
            name: pc.if_else(pa.array(removed[name]), pa.scalar(None, cells.type), cells) if name in removed else cells
            for name, cells in table.columns.items()
            if name in self.session.schema.written
        }
        at_once = Comparison(fitted.comparison.schema, [EVERYTHING], fitted.comparison.idf_)
        features = at_once(replace(table, columns=columns), batches.left, batches.right)
        scalers = [scaler for scaler, mine in zip(fitted.comparison_scalers, own, strict=True) if mine]
        batches.comparison = comparison.copy()
        batches.comparison[:, own] = replace(fitted, comparison_scalers=tuple(scalers)).scale(features)

    def labels_and_predictions(self, predictions: Sequence[Predictions]) -> tuple[np.ndarray, np.ndarray]:
        """[n, r] labels and [s, n, r] predictions, of k-way r is 1."""
        task = self.session.task
        if isinstance(task, PairTask):
            return predictions[0].label, np.stack([(_p(p) >= task.thresholds).astype(np.int64) for p in predictions])
        return predictions[0].label[:, None], np.stack([p.best[:, :1] for p in predictions if p.best is not None])

    def log_likelihood(self, predictions: Predictions) -> np.ndarray:
        """[n] of the label, in nats; the mean over relations."""
        if isinstance(self.session.task, PairTask):
            p = _p(predictions).clip(1e-12, 1 - 1e-12)
            return np.log(np.where(predictions.label == 1, p, 1 - p)).mean(1)
        assert predictions.label_probability is not None
        return np.log(predictions.label_probability.clip(1e-12))


def _p(predictions: Predictions) -> np.ndarray:
    assert predictions.probability is not None
    return predictions.probability


def _subsets(names: Sequence[str]) -> list[tuple[str, ...]]:
    return [subset for n in range(len(names) + 1) for subset in combinations(names, n)]


def _subset(names: Iterable[str]) -> str:
    """As in ``synthetic.ceilings``; "" is nothing."""
    return "+".join(names)


def _shapley(score: Mapping[str, Any], names: Sequence[str], name: str) -> Any:
    """What a modality adds to the score, averaged over all orders in which modalities could come together."""
    others, n = [other for other in names if other != name], len(names)
    total: Any = 0.0
    for subset in _subsets(others):
        weight = factorial(len(subset)) * factorial(n - len(subset) - 1) / factorial(n)
        with_it = [other for other in names if other in (*subset, name)]
        total = total + weight * (score[_subset(with_it)] - score[_subset(subset)])
    return total
