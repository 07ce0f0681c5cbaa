"""Predictions beside their labels, read from a predictions file of a run folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmtab.data import files
from mmtab.data.schema import Schema, TaskKind
from mmtab.data.spelling import spelling
from mmtab.runs.folder import FITTED, METRICS, read_run_file, read_schema, read_task_state, reading
from mmtab.runs.manifest import verified
from mmtab.runs.predictions import (
    LABEL,
    PAIR_IDS,
    PREDICTION,
    PROBABILITY,
    TOP,
    TOP_PROBABILITY,
    class_columns,
    free_name,
    predictions_path,
    readable,
    relation_suffixes,
)
from mmtab.runs.scored_numbers import ScoredNumbers, scored_numbers
from mmtab.training.metrics import N_BINS, unscaled
from mmtab.utils.errors import RunError


@dataclass
class ScoredPredictions:
    """Predictions of a split beside their labels; of pairs those of one relation, as two classes. Rows without a label
    are left out: n rows, k classes.

    schema:      of the run
    split:       its name
    relation:    its name, where there are several
    row:         [n] place in the split
    id_columns:  id, or left_id and right_id, of each row
    ids:         [n] the same for people to read
    classes:     names
    y_true:      [n] int64
    y_pred:      [n] int64
    p_pred:      [n] probability of the predicted class
    p_true:      [n] probability of the label (of very many classes: 0 where it is not among the likeliest)
    confidence:  [n] k-way p_pred; of pairs the distance to the threshold, as a share of that to 0 or 1
    probability: [n, k] of every class; None where there are too many
    temperature: by which the logits were divided
    bias:        which was added to them
    threshold:   of pairs, the probability from which they match
    """

    schema: Schema
    split: str
    relation: str | None
    row: np.ndarray
    id_columns: pa.Table
    ids: list[str]
    classes: list[str]
    y_true: np.ndarray
    y_pred: np.ndarray
    p_pred: np.ndarray
    p_true: np.ndarray
    confidence: np.ndarray
    probability: np.ndarray | None
    temperature: float = 1.0
    bias: float = 0.0
    threshold: float | None = None

    @property
    def correct(self) -> np.ndarray:
        """[n] bool."""
        return self.y_true == self.y_pred

    @property
    def p_match(self) -> np.ndarray:
        """[n] of pairs."""
        assert self.probability is not None
        return self.probability[:, 1]

    def surest_mistakes(self, n: int) -> np.ndarray:
        """Places of at most ``n`` wrong predictions: those with the most probability for the wrong class first."""
        wrong = np.flatnonzero(~self.correct)
        return wrong[np.argsort(-self.p_pred[wrong], kind="stable")][:n]

    @property
    def of_relation(self) -> str:
        """To be put after a name."""
        return f", {self.relation}" if self.relation else ""

    @property
    def scaling(self) -> str:
        return f"temperature {self.temperature:.2f}" + (f" and bias {self.bias:+.2f}" if self.bias else "")

    @property
    def score_name(self) -> str:
        return "accuracy" if self.threshold is None else "F1"

    def score(self, rows: np.ndarray | None = None) -> float:
        """Accuracy, or of pairs F1, of all rows or of some, [n] bool."""
        y_true, y_pred = (x if rows is None else x[rows] for x in (self.y_true, self.y_pred))
        if self.threshold is None:
            return float((y_true == y_pred).mean()) if len(y_true) else float("nan")
        total = (y_true == 1).sum() + (y_pred == 1).sum()
        return float(2 * ((y_true == 1) & (y_pred == 1)).sum() / total) if total else float("nan")

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

    def by_class(self) -> list[dict[str, Any]]:
        """Of each class that occurs: rows, precision, recall, F1 and the class that it is taken for most often."""
        from sklearn.metrics import precision_recall_fscore_support

        taken: dict[int, str] = {}
        for y_true, y_pred, n in self.confusions():
            taken.setdefault(y_true, f"{self.classes[y_pred]} ({n})")
        classes = np.union1d(self.y_true, self.y_pred).tolist()
        rates = precision_recall_fscore_support(self.y_true, self.y_pred, labels=classes, zero_division=np.nan)
        return [
            {
                "class": self.classes[i],
                "rows": n,
                "precision": precision,
                "recall": recall,
                "F1": f1,
                "taken for": taken.get(i, ""),
            }
            for i, precision, recall, f1, n in zip(classes, *(values.tolist() for values in rates), strict=True)
        ]

    def confusions(self) -> list[tuple[int, int, int]]:
        """Label, wrong prediction, and number of rows, the most frequent first."""
        wrong = np.stack([self.y_true, self.y_pred], 1)[~self.correct]
        kinds, counts = np.unique(wrong, axis=0, return_counts=True)
        order = np.argsort(-counts, kind="stable")
        return [(int(kinds[i, 0]), int(kinds[i, 1]), int(counts[i])) for i in order]


Scored = ScoredPredictions | ScoredNumbers
Predictions = Mapping[str, Sequence[Scored]]  # by run, one a relation


def scored_splits(folder: Path) -> list[str]:
    """Labelled splits of which the run folder has predictions: test, where it was scored, comes first."""
    scored = read_run_file(folder, "metrics.json")
    return [s for s in sorted(scored, key=lambda s: (s != "test", s)) if predictions_path(folder, s).is_file()]


def chosen_split(folder: Path, split: str | None = None) -> str:
    """The split, or the first of ``scored_splits``; raises RunError where it was not scored."""
    splits = scored_splits(folder)
    if split is None and not splits:
        raise RunError(f"{folder}: no split was scored; run mmtab evaluate run={folder}")
    if split is not None and split not in splits:
        problem = f"{folder} has no scored predictions of {split!r}"
        raise RunError(f"{problem}; run mmtab evaluate run={folder} split={split}")
    return split or splits[0]


def read_scored(folder: Path, split: str) -> list[ScoredPredictions] | list[ScoredNumbers]:
    """The predictions of a run, one for each relation; raises RunError where the split was not scored."""
    chosen_split(folder, split)
    schema, state = read_schema(folder), read_task_state(folder)
    path = verified(folder, predictions_path(folder, split).name)
    with reading(path):
        table = files.read(path, schema.name)
        predictions: list[Any]
        if schema.task is TaskKind.REGRESSION:
            predictions = [scored_numbers(table, schema, split)]
        elif schema.task is TaskKind.MATCHING:
            predictions = [scored_pairs(table, schema, split, relation, state) for relation in schema.relations]
        else:
            classes = list(read_run_file(folder, FITTED)["preprocessor"]["labels_"]["classes_"])
            predictions = [scored_rows(table, schema, split, classes, state)]
    metrics = read_run_file(folder, METRICS)[split]
    for relation in predictions:
        name = relation.score_name.lower()
        known = metrics.get(f"{relation.relation}/{name}" if relation.relation else name)
        if isinstance(known, float) and abs(known - relation.score()) > 1e-6:
            raise RunError(
                f"{path} does not fit {METRICS}: {name} is {relation.score():.4f} here, {known:.4f} there. "
                f"Fix: mmtab evaluate run={folder} split={split}"
            )
    return predictions


def read_runs(folders: Sequence[Path], split: str | None = None) -> tuple[dict[str, Path], str, Predictions]:
    """The runs by a short name, the split, and their predictions on it. Raises RunError where
    they are of different datasets, share no scored split, or one is named twice."""
    runs = dict(zip(_names(folders), folders, strict=True))
    if split is None:
        common = [s for s in scored_splits(folders[0]) if all(s in scored_splits(folder) for folder in folders)]
        if not common:
            fix = f"mmtab evaluate run={folders[0]} split=valid, and so of each"
            raise RunError(f"these runs have no scored split in common. Fix: {fix}")
        split = common[0]
    predictions = {name: read_scored(folder, split) for name, folder in runs.items()}
    kinds: dict[str, str] = {}
    for name, relations in predictions.items():
        schema = relations[0].schema
        of_pairs = "" if schema.of_rows else f" of {', '.join(schema.relations)}"
        kinds.setdefault(f"{schema.name} ({schema.task}{of_pairs})", name)
    if len(kinds) > 1:
        found = ", ".join(f"{kind} of {name}" for kind, name in kinds.items())
        fix = "name runs of one dataset; mmtab results FOLDER… has a table of all"
        raise RunError(f"runs of different datasets cannot be compared row by row: {found}. Fix: {fix}")
    return runs, split, predictions


def _names(folders: Sequence[Path]) -> list[str]:
    """As little of each path as tells them apart."""
    parts = [folder.resolve().parts for folder in folders]
    for n in range(1, max(map(len, parts)) + 1):
        names = ["/".join(path[-n:]) for path in parts]
        if len(set(names)) == len(names):
            return names
    raise RunError(f"the same run is named twice: {', '.join(map(str, folders))}")


def scored_rows(
    table: pa.Table, schema: Schema, split: str, classes: Sequence[str], state: dict[str, Any]
) -> ScoredPredictions:
    """``table``: a predictions file of rows; ``state``: of the task."""
    ids, columns = [schema.id], class_columns(classes, [schema.id])
    label, prediction, probability, top, top_probability = (
        free_name(name, ids) for name in (LABEL, PREDICTION, PROBABILITY, TOP, TOP_PROBABILITY)
    )
    labelled = np.flatnonzero(np.asarray(pc.is_valid(table[label])))
    table = table.take(labelled)
    known = pa.array(classes, pa.large_string())
    y_true, y_pred = (
        np.asarray(pc.index_in(spelling(table[name].combine_chunks()), known)).astype(np.int64)
        for name in (label, prediction)
    )
    rows = np.arange(len(table))
    if columns[classes[0]] in table.column_names:
        p = np.stack([table[columns[name]].to_numpy() for name in classes], 1).astype(np.float64)
        p_pred, p_true = p[rows, y_pred], p[rows, y_true]
    else:
        p, p_pred = None, table[probability].to_numpy().astype(np.float64)
        likeliest = zip(
            table[top].to_pylist(), table[top_probability].to_pylist(), table[label].to_pylist(), strict=True
        )
        p_true = np.array([dict(zip(names, ps, strict=True)).get(own, 0.0) for names, ps, own in likeliest])
    return ScoredPredictions(
        schema=schema,
        split=split,
        relation=None,
        row=labelled,
        id_columns=table.select([schema.id]),
        ids=readable(table.select([schema.id])),
        classes=list(classes),
        y_true=y_true,
        y_pred=y_pred,
        p_pred=p_pred,
        p_true=p_true,
        confidence=p_pred,
        probability=p,
        temperature=float((state.get("temperatures") or [1.0])[0]),
    )


def scored_pairs(
    table: pa.Table, schema: Schema, split: str, relation: str, state: dict[str, Any]
) -> ScoredPredictions:
    """``table``: a predictions file of pairs; ``state``: of the task."""
    relations = list(schema.relations)
    r = relations.index(relation)
    suffix = relation_suffixes(relations)[r]
    labelled = np.flatnonzero(np.asarray(pc.is_valid(table[f"{LABEL}{suffix}"])))
    table = table.take(labelled)
    match = table[f"{PROBABILITY}{suffix}"].to_numpy().astype(np.float64)
    y_true, y_pred = (table[f"{name}{suffix}"].to_numpy().astype(np.int64) for name in (LABEL, PREDICTION))
    p, rows = np.stack([1 - match, match], 1), np.arange(len(table))
    threshold = float(state["thresholds"][r])
    bound = min(max(threshold, 1e-12), 1 - 1e-12)
    return ScoredPredictions(
        schema=schema,
        split=split,
        relation=relation if len(relations) > 1 else None,
        row=labelled,
        id_columns=table.select(PAIR_IDS),
        ids=readable(table.select(PAIR_IDS)),
        classes=["no match", "match"],
        y_true=y_true,
        y_pred=y_pred,
        p_pred=p[rows, y_pred],
        p_true=p[rows, y_true],
        confidence=np.where(match >= threshold, (match - bound) / (1 - bound), (bound - match) / bound),
        probability=p,
        temperature=float((state.get("temperatures") or [1.0] * len(relations))[r]),
        bias=float((state.get("biases") or [0.0] * len(relations))[r]),
        threshold=threshold,
    )
