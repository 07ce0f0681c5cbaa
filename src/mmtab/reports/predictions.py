"""Predictions of a labelled split, read back from a run folder, and the figures that a report shows of them."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmtab.data import files
from mmtab.data.schema import Schema, TaskKind
from mmtab.runs.folder import read_facts, read_run_file
from mmtab.training.metrics import unscaled
from mmtab.utils.errors import RunError

N_BINS = 15  # of confidence, as for the metric


@dataclass
class ScoredPredictions:
    """Predictions of a split beside their labels; of pairs those of one relation, as two classes. Rows without a label
    are left out."""

    schema: Schema
    split: str
    relation: str | None  # its name, where there are several
    row: np.ndarray  # [n] place in the split
    ids: list[str]
    classes: list[str]
    y_true: np.ndarray  # [n] int64
    y_pred: np.ndarray  # [n] int64
    p_true: np.ndarray  # [n] float64, probability of the label
    p_pred: np.ndarray  # [n] float64, probability of the prediction
    confidence: (
        np.ndarray
    )  # [n] float64, p_pred; of pairs the way from the threshold to 0 or 1, as ``predict coverage=``
    probability: np.ndarray | None  # [n, k] float64; None where there are too many classes
    temperature: float
    bias: float = 0.0
    threshold: float | None = None  # of pairs, from which probability they match

    @property
    def correct(self) -> np.ndarray:
        return self.y_true == self.y_pred

    @property
    def p_match(self) -> np.ndarray:
        """[n] of pairs."""
        assert self.probability is not None
        return self.probability[:, 1]

    @property
    def of_relation(self) -> str:
        """To be put after a name."""
        return f", {self.relation}" if self.relation else ""

    @property
    def scaling(self) -> str:
        return f"temperature {self.temperature:.2f}" + (f" and bias {self.bias:+.2f}" if self.bias else "")

    def confusion(self, classes: np.ndarray) -> np.ndarray:
        """[c, c] int64: labels by predictions, of some classes."""
        place = np.full(len(self.classes), -1)
        place[classes] = np.arange(len(classes))
        y_true, y_pred = place[self.y_true], place[self.y_pred]
        both = (y_true >= 0) & (y_pred >= 0)
        c = len(classes)
        return np.bincount(y_true[both] * c + y_pred[both], minlength=c * c).reshape(c, c)

    def reliability(self, scaled: bool = True) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of each bin that is not empty: mean confidence, share of correct predictions, and number of rows. Of pairs it
        is the probability of a match, and the share of matches. ``scaled`` false: without temperature and bias."""
        if self.probability is None:
            confidence, correct = self.p_pred, self.correct
        else:
            p = self.probability if scaled else unscaled(self.probability, self.temperature, self.bias)
            if self.threshold is None:
                confidence, correct = p[np.arange(len(p)), self.y_pred], self.correct
            else:
                confidence, correct = p[:, 1], self.y_true == 1
        bins = np.minimum((confidence * N_BINS).astype(int), N_BINS - 1)
        n = np.bincount(bins, minlength=N_BINS)
        means = [np.bincount(bins, weights=x, minlength=N_BINS)[n > 0] / n[n > 0] for x in (confidence, correct)]
        return means[0], means[1], n[n > 0]

    def ece(self, scaled: bool = True) -> float:
        """Expected calibration error (Guo et al. 2017); of pairs that of the probability of a match."""
        confidence, correct, n = self.reliability(scaled)
        return float((np.abs(confidence - correct) * n).sum() / n.sum())

    def risk_coverage(self) -> tuple[np.ndarray, np.ndarray]:
        """[n] share of rows that are predicted, by falling confidence, and [n] share of mistakes among those (El-Yaniv
        and Wiener 2010)."""
        wrong = ~self.correct[np.argsort(-self.confidence, kind="stable")]
        n = np.arange(1, len(wrong) + 1)
        return n / len(wrong), wrong.cumsum() / n

    def score(self, rows: np.ndarray | None = None) -> float:
        """Accuracy, or of pairs F1, of all rows or of some, [n] bool."""
        y_true, y_pred = (x if rows is None else x[rows] for x in (self.y_true, self.y_pred))
        if self.threshold is None:
            return float((y_true == y_pred).mean()) if len(y_true) else float("nan")
        total = (y_true == 1).sum() + (y_pred == 1).sum()
        return float(2 * ((y_true == 1) & (y_pred == 1)).sum() / total) if total else float("nan")

    @property
    def score_name(self) -> str:
        return "accuracy" if self.threshold is None else "F1"

    def by_class(self) -> list[dict[str, Any]]:
        """Of each class that occurs: rows, precision, recall, F1 and the class that it is taken for most often."""
        k = len(self.classes)
        n_true, n_pred, hits = (
            np.bincount(x, minlength=k) for x in (self.y_true, self.y_pred, self.y_true[self.correct])
        )
        taken: dict[int, str] = {}
        for y_true, y_pred, n in self.confusions():
            taken.setdefault(y_true, f"{self.classes[y_pred]} ({n})")
        return [
            {
                "class": self.classes[i],
                "rows": int(n_true[i]),
                "precision": hits[i] / n_pred[i] if n_pred[i] else float("nan"),
                "recall": hits[i] / n_true[i] if n_true[i] else float("nan"),
                "F1": 2 * hits[i] / (n_true[i] + n_pred[i]),
                "taken for": taken.get(int(i), ""),
            }
            for i in np.flatnonzero(n_true + n_pred)
        ]

    def confusions(self) -> list[tuple[int, int, int]]:
        """Label, wrong prediction, and number of rows, the most frequent first."""
        wrong = np.stack([self.y_true, self.y_pred], 1)[~self.correct]
        kinds, counts = np.unique(wrong, axis=0, return_counts=True)
        order = np.argsort(-counts, kind="stable")
        return [(int(kinds[i, 0]), int(kinds[i, 1]), int(counts[i])) for i in order]

    def worst(self, n: int) -> np.ndarray:
        """[n] mistakes whose labels have the least probability, the worst first."""
        wrong = np.flatnonzero(~self.correct)
        return wrong[np.argsort(self.p_true[wrong], kind="stable")][:n]


def scored_splits(folder: Path) -> list[str]:
    """Labelled splits of which the run folder has predictions: test, where it was scored, comes first."""
    splits = sorted(read_run_file(folder, "metrics.json"), key=lambda split: (split != "test", split))
    return [split for split in splits if (folder / f"predictions_{split}.parquet").is_file()]


def read_scored(folder: Path, split: str) -> list[ScoredPredictions]:
    """One, or of several relations one each; raises RunError where the split was not scored."""
    if split not in scored_splits(folder):
        command = f"scripts/evaluate.py run={folder} split={split}"
        raise RunError(f"{folder} has no scored predictions of {split!r}; run {command}")
    schema, facts = Schema.from_dict(read_run_file(folder, "schema.yaml")), read_facts(folder)
    table = files.read(folder / f"predictions_{split}.parquet", schema.name)
    if schema.task is TaskKind.MATCHING:
        return [_of_pairs(table, schema, split, r, facts) for r in range(len(schema.relations))]
    return [_of_rows(table, schema, split, facts, folder)]


def _of_rows(table: pa.Table, schema: Schema, split: str, facts: dict[str, Any], folder: Path) -> ScoredPredictions:
    names = [name for name in table.column_names if name.startswith("p_")]
    classes = [name.removeprefix("p_") for name in names]
    if not classes:
        classes = list(read_run_file(folder, "fitted.json")["preprocessor"]["labels_"]["classes_"])
    row = np.flatnonzero(np.asarray(pc.is_valid(table["label"])))
    table = table.take(row)
    y_true, y_pred = (
        np.asarray(pc.index_in(table[name].combine_chunks().cast(pa.string()), pa.array(classes))).astype(np.int64)
        for name in ("label", "prediction")
    )
    if names:
        p = np.stack([table[name].to_numpy() for name in names], 1).astype(np.float64)
        p_pred, p_true = (p[np.arange(len(p)), y] for y in (y_pred, y_true))
    else:  # the likeliest ten
        p, p_pred = None, table["probability"].to_numpy().astype(np.float64)
        top = zip(table["top"].to_pylist(), table["top_probability"].to_pylist(), y_true, strict=True)
        p_true = np.array([dict(zip(names, values, strict=True)).get(classes[i], 0.0) for names, values, i in top])
    return ScoredPredictions(
        schema=schema,
        split=split,
        relation=None,
        row=row,
        ids=table[schema.id].cast(pa.string()).to_pylist(),
        classes=classes,
        y_true=y_true,
        y_pred=y_pred,
        p_true=p_true,
        p_pred=p_pred,
        confidence=p_pred,
        probability=p,
        temperature=float(facts.get("temperatures", [1.0])[0]),
    )


def _of_pairs(table: pa.Table, schema: Schema, split: str, r: int, facts: dict[str, Any]) -> ScoredPredictions:
    n = len(schema.relations)
    relation = list(schema.relations)[r] if n > 1 else None
    suffix = f"_{relation}" if relation else ""
    row = np.flatnonzero(np.asarray(pc.is_valid(table[f"label{suffix}"])))
    table = table.take(row)
    p = table[f"probability{suffix}"].to_numpy().astype(np.float64)
    y_true, y_pred = (table[f"{name}{suffix}"].to_numpy().astype(np.int64) for name in ("label", "prediction"))
    threshold = float(facts["thresholds"][r])
    t = min(max(threshold, 1e-12), 1 - 1e-12)
    ids = (table[side].cast(pa.string()).to_pylist() for side in ("left_id", "right_id"))
    return ScoredPredictions(
        schema=schema,
        split=split,
        relation=relation,
        row=row,
        ids=[f"{left} and {right}" for left, right in zip(*ids, strict=True)],
        classes=["no match", "match"],
        y_true=y_true,
        y_pred=y_pred,
        p_true=np.where(y_true == 1, p, 1 - p),
        p_pred=np.where(y_pred == 1, p, 1 - p),
        confidence=np.where(p >= threshold, (p - t) / (1 - t), (t - p) / t),
        probability=np.stack([1 - p, p], 1),
        temperature=facts.get("temperatures", [1.0] * n)[r],
        bias=facts.get("biases", [0.0] * n)[r],
        threshold=threshold,
    )


def learning_curves(folder: Path) -> list[dict[str, float]]:
    """metrics.csv, a dictionary a line, without its empty fields."""
    path = folder / "metrics.csv"
    if not path.is_file():
        return []
    with path.open(newline="") as lines:
        return [{name: float(value) for name, value in line.items() if value} for line in csv.DictReader(lines)]
