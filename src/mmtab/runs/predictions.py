"""The predictions file, written and read: ``predictions_<split>.parquet`` of a run folder and what predict.py writes.

    k-way      id · p_<class> of every class · prediction · label
               of more than 1,000 classes, instead of p_<class>: probability (of the prediction) ·
               top, top_probability (lists, the likeliest class first)
    matching   left_id, right_id · probability (of a match) · prediction (0 or 1) · label
               with several relations: probability_<relation> and so on

``confidence`` follows the prediction where predictions below a confidence are left out; ``label`` is absent where there
is none. Ids and classes have the type that they had in the tables. A column that would be called like the id gets an
underscore more. In csv, lists are joined by semicolons.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
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
from mmtab.training.metrics import N_BINS, unscaled
from mmtab.training.predictions import Predictions
from mmtab.utils.errors import RunError

PREDICTION, PROBABILITY, CONFIDENCE, LABEL = "prediction", "probability", "confidence", "label"
TOP, TOP_PROBABILITY = "top", "top_probability"
PAIR_IDS = ("left_id", "right_id")
_CLASS = "p_"


def predictions_path(folder: Path, split: str) -> Path:
    return folder / f"predictions_{split}.parquet"


def id_columns(schema: Schema) -> list[str]:
    """The columns that say which row, or pair, a prediction is of."""
    return [schema.id] if schema.task is TaskKind.KWAY else list(PAIR_IDS)


def free_name(name: str, taken: Collection[str]) -> str:
    """The name, or where it is taken, with underscores until it is not."""
    while name in taken:
        name += "_"
    return name


def class_columns(classes: Sequence[str], ids: Collection[str] = ()) -> dict[str, str]:
    """By class, the column with its probability. ``ids``: the columns that are called otherwise."""
    names = {name: f"{_CLASS}{name}" for name in classes}
    taken = {*ids, *names.values()} if set(ids) & set(names.values()) else set(ids)
    return {name: free_name(column, taken) if column in ids else column for name, column in names.items()}


def probability_columns(columns: Sequence[str], ids: Collection[str] = ()) -> list[str]:
    """Those that look like the probabilities of classes."""
    return [name for name in columns if name.startswith(_CLASS) and name not in ids]


def relation_suffixes(relations: Sequence[str]) -> list[str]:
    """What the names of a relation's columns end in."""
    return [""] if len(relations) == 1 else [f"_{relation}" for relation in relations]


def prediction_columns(schema: Schema) -> list[str]:
    """The columns that hold predictions, one for each relation."""
    suffixes = [""] if schema.task is TaskKind.KWAY else relation_suffixes(list(schema.relations))
    return [free_name(f"{PREDICTION}{suffix}", id_columns(schema)) for suffix in suffixes]


# --- writing ---------------------------------------------------------------------------------------------------------


def kway_columns(
    classes: Sequence[str],
    probability: np.ndarray,
    y_pred: np.ndarray,
    ids: Collection[str] = (),
    values: pa.Array | None = None,
) -> dict[str, pa.Array]:
    """Columns of probabilities [n, k] and predicted classes [n]. ``ids``: the columns beside them; ``values`` [k]: the
    classes in their own type."""
    values = pa.array(classes, pa.string()) if values is None else values
    columns = class_columns(classes, ids)
    probabilities = {columns[name]: pa.array(p) for name, p in zip(classes, probability.T, strict=True)}
    return probabilities | {free_name(PREDICTION, ids): values.take(pa.array(y_pred))}


def pair_columns(relations: Sequence[str], probability: np.ndarray, y_pred: np.ndarray) -> dict[str, pa.Array]:
    """Columns of probabilities [n, r] of a match and predictions [n, r], 0 or 1."""
    columns: dict[str, pa.Array] = {}
    for r, suffix in enumerate(relation_suffixes(relations)):
        columns[f"{PROBABILITY}{suffix}"] = pa.array(probability[:, r])
        columns[f"{PREDICTION}{suffix}"] = pa.array(y_pred[:, r].astype(np.int8))
    return columns


def write_predictions(
    path: Path,
    ids: pa.Table,
    predictions: Predictions,
    y_pred: np.ndarray,
    *,
    relations: Sequence[str] = (),
    classes: Sequence[str] = (),
    values: pa.Array | None = None,
    labels: np.ndarray | None = None,
    confidence: np.ndarray | None = None,
    least_confidence: np.ndarray | None = None,
) -> None:
    """Write predictions of rows, or of pairs where there are no ``classes``.

    ids:              id columns
    predictions:      their probabilities
    y_pred:           [n, r] class, or 1 for a match
    relations:        names of the relations of pairs
    classes:          names of the classes
    values:           [k] the classes in their own type
    labels:           [n] class, or [n, r] of pairs; None: unknown
    confidence:       [n, r], written where ``least_confidence`` is given
    least_confidence: [r] predictions with less confidence are left out
    """
    columns, taken = {name: ids[name] for name in ids.column_names}, ids.column_names
    values = pa.array(classes, pa.string()) if values is None else values
    suffixes = [""] if classes else relation_suffixes(relations)
    if not classes:
        assert predictions.probability is not None
        columns |= pair_columns(relations, predictions.probability, y_pred)
    elif predictions.probability is not None:
        columns |= kway_columns(classes, predictions.probability, y_pred[:, 0], taken, values)
    else:
        likeliest = _likeliest_columns(values, predictions, as_text=path.suffix == ".csv")
        columns |= {free_name(name, taken): column for name, column in likeliest.items()}
    if labels is not None and classes:
        columns[free_name(LABEL, taken)] = values.take(pa.array(labels))
    for r, suffix in enumerate(suffixes):
        prediction = free_name(f"{PREDICTION}{suffix}", taken)
        if labels is not None and not classes:
            columns = _insert_after(columns, prediction, f"{LABEL}{suffix}", pa.array(labels[:, r].astype(np.int8)))
        if least_confidence is not None and confidence is not None:
            values, sufficient = columns[prediction], pa.array(confidence[:, r] >= least_confidence[r])
            columns[prediction] = pc.if_else(sufficient, values, pa.scalar(None, values.type))
            name = free_name(f"{CONFIDENCE}{suffix}", taken)
            columns = _insert_after(columns, prediction, name, pa.array(confidence[:, r]))
    files.write_table(path, pa.table(list(columns.values()), names=list(columns)))


def _insert_after(columns: dict[str, Any], before: str, name: str, values: pa.Array) -> dict[str, Any]:
    items = list(columns.items())
    place = list(columns).index(before) + 1
    return dict([*items[:place], (name, values), *items[place:]])


def _likeliest_columns(names: pa.Array, predictions: Predictions, as_text: bool) -> dict[str, pa.Array]:
    """Columns of very many classes: the likeliest [n, m] of each row."""
    best, p = predictions.best, predictions.best_probability
    assert best is not None and p is not None
    p = p.astype(np.float32)
    return {
        PREDICTION: names.take(pa.array(best[:, 0])),
        PROBABILITY: pa.array(p[:, 0]),
        TOP: _lists(names.take(pa.array(best.ravel())), best.shape[1], as_text),
        TOP_PROBABILITY: _lists(pa.array(p.ravel()), best.shape[1], as_text),
    }


def _lists(values: pa.Array, size: int, as_text: bool) -> pa.Array:
    """Values as lists of ``size`` each, or as text with semicolons."""
    if as_text:
        values = spelling(values).cast(pa.string())
    lists = pa.ListArray.from_arrays(pa.array(range(0, len(values) + 1, size), pa.int32()), values)
    return pc.binary_join(lists, ";") if as_text else lists


# --- reading ---------------------------------------------------------------------------------------------------------


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


def scored_splits(folder: Path) -> list[str]:
    """Labelled splits of which the run folder has predictions: test, where it was scored, comes first."""
    scored = read_run_file(folder, "metrics.json")
    return [s for s in sorted(scored, key=lambda s: (s != "test", s)) if predictions_path(folder, s).is_file()]


def read_scored(folder: Path, split: str) -> list[ScoredPredictions]:
    """The predictions of a run, one for each relation; raises RunError where the split was not scored."""
    if split not in scored_splits(folder):
        raise RunError(
            f"{folder} has no scored predictions of {split!r}; run mmtab evaluate run={folder} split={split}"
        )
    schema, state = read_schema(folder), read_task_state(folder)
    path = verified(folder, predictions_path(folder, split).name)
    with reading(path):
        table = files.read(path, schema.name)
        if schema.task is TaskKind.MATCHING:
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
        ids=_readable(table.select([schema.id])),
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
        ids=_readable(table.select(PAIR_IDS)),
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


def _readable(ids: pa.Table) -> list[str]:
    columns = [spelling(ids[name].combine_chunks()).to_pylist() for name in ids.column_names]
    return [" and ".join(row) for row in zip(*columns, strict=True)]
