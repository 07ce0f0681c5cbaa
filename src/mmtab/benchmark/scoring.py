"""Predictions files as anybody may write them, checked against the rows of a split, and their scores: the same for
mmtab's own runs, controls, rivals and submissions.

Such a file is data: its columns are read by name as plain values, and it is checked before anything is computed from
it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmtab.benchmark.truth import Truth
from mmtab.data import files
from mmtab.data.cells import canonical, first
from mmtab.data.schema import ColumnType
from mmtab.data.spelling import bits, places_in
from mmtab.runs.predictions import (
    class_columns,
    free_name,
    kway_columns,
    number_columns,
    pair_columns,
    probability_columns,
    relation_suffixes,
)
from mmtab.training.metrics import best_threshold, class_metrics, means_over_relations, number_metrics, pair_metrics
from mmtab.utils.errors import DataError

SUM_TOLERANCE = 1e-3  # of the probabilities of a row; float32 softmax over a thousand classes stays well below
LARGEST_NUMBER = 1e100  # that may be predicted: its square, over all rows, is still a number
MAX_BYTES_A_ROW = 1 << 16  # of a predictions file


@dataclass(frozen=True)
class CheckedPredictions:
    """Predictions in the order of the truth's rows: n rows, r relations, k classes.

    prediction:  [n, r], as Truth.label
    probability: [n, k] of the classes, or [n, r] of a match; None where the file holds none
    """

    prediction: np.ndarray
    probability: np.ndarray | None

    def take(self, rows: np.ndarray) -> CheckedPredictions:
        return CheckedPredictions(self.prediction[rows], None if self.probability is None else self.probability[rows])


def metrics(truth: Truth, predictions: CheckedPredictions, rows: np.ndarray | None = None) -> dict[str, float]:
    """By scikit-learn, of all rows or some: k-way accuracy, macro_f1, log_loss; regression r2, rmse, mae; matching f1,
    precision, recall, pr_auc, roc_auc, log_loss, each the mean over relations. Those that take probabilities are left
    out where there are none."""
    label, scored = (truth.label, predictions) if rows is None else (truth.label[rows], predictions.take(rows))
    y_pred, p = scored.prediction, scored.probability
    if truth.numbers:
        return number_metrics(label[:, 0], y_pred[:, 0])
    if truth.kway:
        return class_metrics(label[:, 0], y_pred[:, 0], p)
    return means_over_relations(
        [pair_metrics(label[:, r], y_pred[:, r], None if p is None else p[:, r]) for r in range(label.shape[1])]
    )


def ranked_by(truth: Truth, values: dict[str, float]) -> float:
    """The dataset's own metric; raises DataError where it takes probabilities and there were none."""
    metric = truth.schema.metric
    if metric not in values:
        problem = f"it is ranked by {metric}, which takes probabilities"
        raise DataError(truth.dataset, problem, fix="write the column probability")
    return values[metric]


def write_predictions(path: Path, truth: Truth, p: np.ndarray, thresholds: Sequence[float] = ()) -> None:
    """Probabilities [n, k] of classes, or [n, r] of matches with a threshold each, or numbers [n], as
    ``read_predictions`` reads them."""
    if truth.numbers:
        columns = number_columns(p, None, truth.ids)
    elif truth.classes:
        columns = kway_columns(truth.classes, p, p.argmax(1), truth.ids)
    else:
        columns = pair_columns(truth.relations, p, p >= np.asarray(thresholds))
    files.write_table(path, pa.table(truth.ids | columns))


def write_splits(output: Path, valid: Truth, test: Truth, p: Mapping[str, np.ndarray]) -> None:
    """Write predictions_valid and predictions_test of probabilities or numbers ``p`` of each split; thresholds of
    matches are chosen on valid."""
    relations = [] if valid.schema.of_rows else range(valid.label.shape[1])
    thresholds = [best_threshold(p["valid"][:, r], valid.label[:, r]) for r in relations]
    for truth in (valid, test):
        write_predictions(output / f"predictions_{truth.split}.parquet", truth, p[truth.split], thresholds)


def read_predictions(path: Path, truth: Truth) -> CheckedPredictions:
    """Read and check a predictions file, csv or parquet: the ids of the split, each once and in any order; k-way
    ``prediction`` and/or a ``p_<class>`` for every class (without ``prediction`` the likeliest counts); matching
    ``prediction`` (0 or 1) and/or ``probability`` (without ``prediction``, from 0.5 on), with several relations
    ``prediction_<relation>`` and so on; regression ``prediction``, a number. Raises DataError for whatever does not
    fit, with row and column."""
    if path.suffix not in files.FORMATS or not path.is_file():
        raise DataError(truth.dataset, f"no predictions file {path}", expected="a .parquet or .csv file")
    file = _File(path, truth)
    file.check_size()
    file.read()
    order = file.order()
    if truth.numbers:
        return file.of_numbers().take(order)
    return (file.of_classes() if truth.kway else file.of_pairs()).take(order)


class _File:
    """A predictions file while it is checked."""

    def __init__(self, path: Path, truth: Truth) -> None:
        self.path, self.truth = path, truth
        self.suffixes = [""] if truth.schema.of_rows else relation_suffixes(truth.relations)
        self.columns, self.prediction = class_columns(truth.classes, truth.ids), free_name("prediction", truth.ids)

    def error(self, problem: str, **parts: Any) -> DataError:
        return DataError(self.truth.dataset, problem, table=self.path.name, **parts)

    def bad_cell(self, column: str, row: int, problem: str, expected: str | None = None) -> DataError:
        found = self.table[column][row].as_py()
        return self.error(problem, row=row + 1, column=column, expected=expected, found=found)

    def check_size(self) -> None:
        size, n = self.path.stat().st_size, len(self.truth)
        if size > MAX_BYTES_A_ROW * (n + 1):
            raise self.error("the file is too large to be predictions", found=f"{size} bytes for {n} rows")

    def read(self) -> None:
        header = files.header(self.path, self.truth.dataset).names
        self.classes = probability_columns(header, self.truth.ids) if self.truth.kway else []
        self._check_columns(header)
        self._check_n_rows(files.count(self.path, self.truth.dataset))  # a small file may claim very many
        kinds = (self.prediction,) if self.truth.schema.of_rows else ("prediction", "probability")
        columns = [f"{kind}{suffix}" for kind in kinds for suffix in self.suffixes]
        columns = [*self.truth.ids, *(column for column in columns if column in header), *self.classes]
        self.table = files.read(self.path, self.truth.dataset, columns=columns)
        self._check_n_rows(self.table.num_rows)  # the number of rows that a file claims may be wrong

    def _check_n_rows(self, n: int) -> None:
        if n != len(self.truth):
            expected = f"{len(self.truth)} rows"
            raise self.error("not one row for each of the split", expected=expected, found=f"{n} rows")

    def _check_columns(self, header: Sequence[str]) -> None:
        found = f"columns {header[:20]}"
        for column in self.truth.ids:
            if column not in header:
                raise self.error("the file lacks this column", column=column, found=found)
        classes = set(self.columns.values())
        unknown, missing = set(self.classes) - classes, classes - set(self.classes) if self.classes else set()
        if unknown or missing:
            problem = "probabilities of unknown classes" if unknown else "probabilities of some classes are missing"
            expected = f"a column p_<class> for each of {len(classes)} classes of train, such as {min(classes)}"
            raise self.error(problem, expected=expected, found=", ".join(sorted(unknown or missing)[:5]))
        for suffix in self.suffixes:
            names = {f"{self.prediction}{suffix}"} | (set() if self.truth.numbers else {f"probability{suffix}"})
            if not names & set(header) and not self.classes:
                expected = "prediction or p_<class> of every class" if self.truth.kway else " or ".join(sorted(names))
                raise self.error("the file answers nothing", found=found, expected=expected)

    def order(self) -> np.ndarray:
        """The row of the file for each row of the truth. A pair that stands twice in the split is expected twice."""
        columns = []
        for name in self.truth.ids:
            texts, bad = canonical(self.table[name].combine_chunks(), ColumnType.CATEGORICAL)
            if bad or texts.null_count:
                row = bad[0] if bad else first(pc.is_null(texts))
                raise self.bad_cell(name, row, "an id is missing or cannot be one")
            columns.append(texts.to_pylist())
        places = {numbered: row for row, numbered in enumerate(_numbered(self.truth.keys))}
        order = np.full(len(self.truth), -1)
        for row, (key, n) in enumerate(_numbered(zip(*columns, strict=True))):
            if (key, n) not in places:
                found, fix = " and ".join(map(str, key)), "answer each once" if n else None
                problem = "an id that was answered before" if n else f"an id that is not in {self.truth.split}"
                raise self.error(problem, row=row + 1, found=found, fix=fix)
            order[places[key, n]] = row
        return order

    def of_classes(self) -> CheckedPredictions:
        probability = self._class_probabilities() if self.classes else None
        if self.prediction not in self.table.column_names:
            assert probability is not None
            return CheckedPredictions(probability.argmax(1)[:, None], probability)
        classes = self.truth.classes
        texts, _ = canonical(self.table[self.prediction].combine_chunks(), ColumnType.CATEGORICAL)
        places = places_in(texts, classes)
        if places.null_count:
            expected = f"one of {json.dumps(classes[:5], ensure_ascii=False)} …"
            raise self.bad_cell(self.prediction, first(pc.is_null(places)), "not a class of train", expected)
        return CheckedPredictions(np.asarray(places, np.int64)[:, None], probability)

    def of_numbers(self) -> CheckedPredictions:
        values, bad = canonical(self.table[self.prediction].combine_chunks(), ColumnType.NUMERIC)
        numbers = np.asarray(pc.fill_null(values, float("nan")), np.float64)
        if wrong := bad or np.flatnonzero(~(np.abs(numbers) <= LARGEST_NUMBER)).tolist():
            raise self.bad_cell(self.prediction, wrong[0], "not a prediction", f"a number within ±{LARGEST_NUMBER:g}")
        return CheckedPredictions(numbers[:, None], None)

    def _class_probabilities(self) -> np.ndarray:
        p = np.stack([self._probabilities(self.columns[name]) for name in self.truth.classes], 1)
        sums = p.sum(1)
        if len(off := np.flatnonzero(abs(sums - 1) > SUM_TOLERANCE)):
            problem, row = "the probabilities of a row do not add up to 1", int(off[0])
            raise self.error(problem, row=row + 1, found=f"{sums[row]:.6g}")
        return p

    def of_pairs(self) -> CheckedPredictions:
        names = self.table.column_names
        p = {s: self._probabilities(f"probability{s}") for s in self.suffixes if f"probability{s}" in names}
        predictions = [
            self._bits(f"prediction{s}") if f"prediction{s}" in names else (p[s] >= 0.5).astype(np.int64)
            for s in self.suffixes
        ]
        probability = np.stack(list(p.values()), 1) if len(p) == len(self.suffixes) else None
        return CheckedPredictions(np.stack(predictions, 1), probability)

    def _probabilities(self, column: str) -> np.ndarray:
        values, bad = canonical(self.table[column].combine_chunks(), ColumnType.NUMERIC)
        p = np.asarray(pc.fill_null(values, float("nan")), np.float64)
        if wrong := bad or np.flatnonzero(~((p >= 0) & (p <= 1 + SUM_TOLERANCE))).tolist():
            raise self.bad_cell(column, wrong[0], "not a probability", "a number from 0 to 1")
        return p.clip(0, 1)

    def _bits(self, column: str) -> np.ndarray:
        values = bits(canonical(self.table[column].combine_chunks(), ColumnType.CATEGORICAL)[0])
        if values.null_count:
            raise self.bad_cell(column, first(pc.is_null(values)), "not a prediction", "0 or 1")
        return np.asarray(values).astype(np.int64)


def _numbered(keys: Iterable[tuple[str, ...]]) -> Iterator[tuple[tuple[str, ...], int]]:
    """Each key with how often it came before."""
    seen: Counter[tuple[str, ...]] = Counter()
    for key in keys:
        yield key, seen[key]
        seen[key] += 1
