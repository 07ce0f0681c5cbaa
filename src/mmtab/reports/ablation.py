"""What a model uses: its scores on valid with columns or whole modalities taken away, without training again.

A cell that is taken away is a missing cell, as if the table had been read without it. Intervals are of a paired bootstrap
over rows (pairs), which says how much of a difference is noise of the split.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
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
from mmtab.features.encoded import KWayBatches, PairBatches
from mmtab.features.similarity import EVERYTHING, Comparison
from mmtab.runs.session import Batches, Session
from mmtab.training.metrics import bootstrap
from mmtab.training.predictions import Predictions
from mmtab.training.tasks import PairTask

MAX_ROWS = 1_000  # scored in each condition; rows or pairs, at random beyond
SHARES = (0.25, 0.5, 0.75)  # of rows that lose a modality, between none and all
SURE = (2.5, 97.5)  # percentiles that bound an interval
LEAST = 0.002  # a contribution below it is nothing to speak of, however sure
EVERY = "every modality"

Gone = dict[str, np.ndarray]


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
    session: Session, folder: Path, split: str = "valid", *, n_rows: int = MAX_ROWS, seed: int = 0,
    progress: Progress = no_progress,
) -> dict[str, Any]:  # fmt: skip
    """Score a labelled split with every subset of the modalities, without each column, and under growing missingness.

    Of each modality: the score ``without`` it and with it ``alone``; ``loss``, what is lost without it; its Shapley value
    (Shapley 1953; of scores: Covert et al. 2020), by which modalities are ranked, for what two modalities both know is lost
    with neither alone; ``changed``, the share of predictions that are others without it; and a ``verdict``: used, replaceable
    (others know it too) or unused. Of each column the ``loss`` and by how many nats the label's log-likelihood falls.
    ``low`` and ``high`` bound 95 % intervals. Plain values, for JSON.
    """
    started = time.perf_counter()
    work = _Work.of(session, folder, split, n_rows, seed)
    groups = modalities(session.schema)
    names = list(groups)
    conditions: dict[str, Gone] = {}
    for kept in _all(names):
        conditions[_subset(kept)] = work.all_of(column for name in names if name not in kept for column in groups[name])
    for column in session.schema.columns:
        conditions[f"without {column.name}"] = work.all_of([column.name])
    lots = np.random.default_rng(seed).random((len(names), work.n_rows_of_table))
    for share in SHARES:
        lost = [{column: lot < share for column in groups[name]} for name, lot in zip(names, lots, strict=True)]
        for name, gone in zip(names, lost, strict=True):
            conditions[f"{share} {name}"] = gone
        conditions[f"{share} {EVERY}"] = {column: rows for gone in lost for column, rows in gone.items()}

    found = {
        name: work.score(conditions[name]) for name in progress(iter(conditions), len(conditions), "without columns")
    }
    values = {name: session.task.metrics_of(each) for name, each in found.items()}
    label, said = work.answers(list(found.values()))
    metric = session.task.metric if session.task.metric in ("accuracy", "macro_f1", "f1") else work.plain_metric
    drawn = bootstrap(label, said, metric, int(max(label.max(), said.max())) + 1, seed=seed)
    assert drawn is not None
    score = {name: values[name][metric] for name in found}
    draws = dict(zip(found, drawn.T, strict=True))
    whole = _subset(names)

    def between(difference: np.ndarray) -> dict[str, float]:
        low, high = np.percentile(difference, SURE)
        return {"low": float(low), "high": float(high)}

    order = list(found)
    by_modality = {}
    for name in names:
        others = _subset([n for n in names if n != name])
        value = _shapley(score, names, name)
        bounds = between(_shapley(draws, names, name))
        loss = between(draws[whole] - draws[others])
        used = "used" if loss["low"] > 0 and score[whole] - score[others] >= LEAST else None
        used = used or ("replaceable" if bounds["low"] > 0 and value >= LEAST else "unused")
        by_modality[name] = {
            "columns": groups[name], "without": score[others], "alone": score[name],
            "loss": score[whole] - score[others], **loss,
            "shapley": value, "shapley_low": bounds["low"], "shapley_high": bounds["high"],
            "changed": float((said[order.index(whole)] != said[order.index(others)]).any(1).mean()), "verdict": used,
        }  # fmt: skip
    of_column = {column: name for name, columns in groups.items() for column in columns}
    base = work.log_likelihood(found[whole])
    by_column = {
        name: {
            "modality": of_column[name], "without": score[f"without {name}"],
            "loss": score[whole] - score[f"without {name}"], **between(draws[whole] - draws[f"without {name}"]),
            "nats": float((base - work.log_likelihood(found[f"without {name}"])).mean()),
        }
        for name in (column.name for column in session.schema.columns)
    }  # fmt: skip
    curves = {
        name: [
            score[whole],
            *(score[f"{share} {name}"] for share in SHARES),
            score[_subset([n for n in names if n != name] if name != EVERY else [])],
        ]
        for name in [*names, EVERY]
    }
    return {
        "split": split, "n_rows": len(label), "n_rows_of_split": work.n_in_split, "metric": metric, "score": score[whole],
        "nothing": score[_subset(())], "subsets": {n: score[n] for n in score if n in map(_subset, _all(names))},
        "modalities": by_modality, "columns": by_column,
        "missingness": {"shares": [0.0, *SHARES, 1.0], "scores": curves}, "seconds": time.perf_counter() - started,
    }  # fmt: skip


def ranking(found: Mapping[str, Any]) -> list[str]:
    """The modalities of ``ablate``'s answer, what contributes most first."""
    return sorted(found["modalities"], key=lambda name: -found["modalities"][name]["shapley"])


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

    def all_of(self, columns: Iterable[str]) -> Gone:
        return {name: np.ones(self.n_rows_of_table, bool) for name in columns}

    def score(self, gone: Gone) -> Predictions:
        batches = self.batches.without(gone) if gone else self.batches
        if isinstance(batches, PairBatches) and gone:
            self._compare_all(batches, gone)
        return self.session.predictions(batches)[0]

    def _compare_all(self, batches: PairBatches, gone: Gone) -> None:
        """What compares all texts of a row at once is computed anew, of rows that lack cells."""
        comparison, fitted = batches.comparison, self.session.fitted
        if comparison is None or fitted.comparison is None or self.records is None:
            return
        own = np.array([owner == EVERYTHING for owner in fitted.comparison.owners])
        if not own.any() or not set(gone) & set(self.session.schema.written):
            return
        table: Table = self.records.table
        columns = {
            name: pc.if_else(pa.array(gone[name]), pa.scalar(None, cells.type), cells) if name in gone else cells
            for name, cells in table.columns.items()
            if name in self.session.schema.written
        }
        at_once = Comparison(fitted.comparison.schema, [EVERYTHING], fitted.comparison.idf_)
        features = at_once(replace(table, columns=columns), batches.left, batches.right)
        scalers = [scaler for scaler, mine in zip(fitted.comparison_scalers, own, strict=True) if mine]
        batches.comparison = comparison.copy()
        batches.comparison[:, own] = replace(fitted, comparison_scalers=tuple(scalers)).scale(features)

    def answers(self, found: Sequence[Predictions]) -> tuple[np.ndarray, np.ndarray]:
        """[n, r] labels and [s, n, r] predictions, of k-way r is 1."""
        task = self.session.task
        if isinstance(task, PairTask):
            return found[0].label, np.stack([(_p(each) >= task.thresholds).astype(np.int64) for each in found])
        return found[0].label[:, None], np.stack([each.best[:, :1] for each in found if each.best is not None])

    def log_likelihood(self, found: Predictions) -> np.ndarray:
        """[n] of the label, in nats; the mean over relations."""
        if isinstance(self.session.task, PairTask):
            p = _p(found).clip(1e-12, 1 - 1e-12)
            return np.log(np.where(found.label == 1, p, 1 - p)).mean(1)
        assert found.label_probability is not None
        return np.log(found.label_probability.clip(1e-12))


def _p(found: Predictions) -> np.ndarray:
    assert found.probability is not None
    return found.probability


def _all(names: Sequence[str]) -> list[tuple[str, ...]]:
    return [some for n in range(len(names) + 1) for some in combinations(names, n)]


def _subset(names: Iterable[str]) -> str:
    """As in ``catalogue.ceilings``; "" is nothing."""
    return "+".join(names)


def _shapley(score: Mapping[str, Any], names: Sequence[str], name: str) -> Any:
    """What a modality adds to the score, averaged over all orders in which modalities could come together."""
    others, n = [other for other in names if other != name], len(names)
    total: Any = 0.0
    for some in _all(others):
        weight = factorial(len(some)) * factorial(n - len(some) - 1) / factorial(n)
        with_it = [each for each in names if each in (*some, name)]
        total = total + weight * (score[_subset(with_it)] - score[_subset(some)])
    return total
