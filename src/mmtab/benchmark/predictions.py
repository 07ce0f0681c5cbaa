"""Predictions files as anybody may write them, checked against the rows of a split.

Such a file is data: its columns are read by name as plain values, and it is checked before anything is computed from
it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmtab.benchmark.truth import Truth
from mmtab.data import files
from mmtab.data.cells import bits, canonical, first
from mmtab.data.schema import ColumnType, TaskKind
from mmtab.runs.predictions import class_column, classes_of, kway_columns, pair_columns
from mmtab.utils.errors import DataError

SUM_TOLERANCE = 1e-3  # of the probabilities of a row; float32 softmax over a thousand classes stays well below
MAX_BYTES_A_ROW = 1 << 16  # of a predictions file


@dataclass(frozen=True)
class CheckedPredictions:
    """Predictions in the order of the truth's rows: n rows, r relations, k classes.

    prediction:  [n, r] int64, as Truth.label
    probability: [n, k] of the classes, or [n, r] of a match; None where the file holds none
    """

    prediction: np.ndarray
    probability: np.ndarray | None

    def take(self, rows: np.ndarray) -> CheckedPredictions:
        return CheckedPredictions(self.prediction[rows], None if self.probability is None else self.probability[rows])


def read_predictions(path: Path, truth: Truth) -> CheckedPredictions:
    """Read and check a predictions file, csv or parquet: the ids of the split, each once and in any order; k-way
    ``prediction`` and/or a ``p_<class>`` for every class (without ``prediction`` the likeliest counts); matching
    ``prediction`` (0 or 1) and/or ``probability`` (without ``prediction``, from 0.5 on), with several relations
    ``prediction_<relation>`` and so on. Raises DataError for whatever does not fit, with row and column."""
    name, kway = truth.dataset, truth.schema.task is TaskKind.KWAY
    if path.suffix not in files.FORMATS or not path.is_file():
        raise DataError(name, f"no predictions file {path}", expected="a .parquet or .csv file")
    if path.stat().st_size > MAX_BYTES_A_ROW * (len(truth) + 1):
        size = f"{path.stat().st_size} bytes for {len(truth)} rows"
        raise DataError(name, "the file is too large to be predictions", table=path.name, found=size)
    header = files.header(path, name).names
    suffixes = _suffixes(truth)
    classes = [class_column(name) for name in classes_of(header)] if kway else []
    for column in truth.ids:
        if column not in header:
            raise DataError(
                name, "the file lacks this column", table=path.name, column=column, found=f"columns {header[:20]}"
            )
    _check_classes(path, truth, classes)
    for suffix in suffixes:
        names = {f"prediction{suffix}", f"probability{suffix}"}
        if not names & set(header) and not classes:
            expected = "prediction or p_<class> of every class" if kway else " or ".join(sorted(names))
            raise DataError(
                name, "the file answers nothing", table=path.name, found=f"columns {header[:20]}", expected=expected
            )
    _check_rows(path, truth, files.count(path, name))  # before they are read: a small file may claim very many
    columns = [f"{kind}{suffix}" for kind in ("prediction", "probability")[: 1 if kway else 2] for suffix in suffixes]
    columns = [*truth.ids, *(column for column in columns if column in header), *classes]
    table = files.read(path, name, columns=columns)
    _check_rows(path, truth, table.num_rows)  # the number of rows that a file claims may be wrong
    order = _aligned(path, truth, table)
    read = _read_classes if kway else _read_pairs
    return read(path, truth, table).take(order)


def _read_classes(path: Path, truth: Truth, table: pa.Table) -> CheckedPredictions:
    probability = None
    if any(name.startswith("p_") for name in table.column_names if name not in truth.ids):
        probability = _of_classes(path, truth, table)
    if "prediction" in table.column_names:
        return CheckedPredictions(_named(path, truth, table), probability)
    assert probability is not None
    return CheckedPredictions(probability.argmax(1)[:, None], probability)


def _read_pairs(path: Path, truth: Truth, table: pa.Table) -> CheckedPredictions:
    suffixes, columns = _suffixes(truth), table.column_names
    p = {s: _numbers(path, truth, table, f"probability{s}") for s in suffixes if f"probability{s}" in columns}
    predictions = [
        _bits(path, truth, table, f"prediction{s}") if f"prediction{s}" in columns else (p[s] >= 0.5).astype(np.int64)
        for s in suffixes
    ]
    probability = np.stack(list(p.values()), 1) if len(p) == len(suffixes) else None
    return CheckedPredictions(np.stack(predictions, 1), probability)


def _suffixes(truth: Truth) -> list[str]:
    """What the names of a relation's columns end in."""
    return [""] if len(truth.relations) <= 1 else [f"_{relation}" for relation in truth.relations]


def write_predictions(path: Path, truth: Truth, p: np.ndarray, thresholds: Sequence[float] = ()) -> None:
    """Probabilities [n, k] of classes, or [n, r] of matches with a threshold each, as ``read_predictions`` reads
    them."""
    columns: dict[str, object] = dict(truth.ids)
    if truth.classes:
        columns |= kway_columns(truth.classes, p, p.argmax(1))
    else:
        columns |= pair_columns(truth.relations, p, (p >= np.asarray(thresholds)).astype(np.int8))
    files.write_table(path, pa.table(columns))


# --- columns ----------------------------------------------------------------------------------------------------------


def _check_rows(path: Path, truth: Truth, n_rows: int) -> None:
    if n_rows != len(truth):
        expected, found = f"{len(truth)} rows", f"{n_rows} rows"
        raise DataError(
            truth.dataset, "not one row for each of the split", table=path.name, expected=expected, found=found
        )


def _check_classes(path: Path, truth: Truth, columns: Sequence[str]) -> None:
    expected = {class_column(name) for name in truth.classes}
    unknown, missing = set(columns) - expected, expected - set(columns) if columns else set()
    for problem, names in (
        ("probabilities of unknown classes", unknown),
        ("probabilities of some classes are missing", missing),
    ):
        if names:
            raise DataError(
                truth.dataset,
                problem,
                table=path.name,
                found=", ".join(sorted(names)[:5]),
                expected=f"a column p_<class> for each of {len(expected)} classes of train, such as {min(expected)}",
            )


def _aligned(path: Path, truth: Truth, table: pa.Table) -> np.ndarray:
    """The row of the file for each row of the truth. A pair that stands twice in the split is expected twice."""
    columns = []
    for name in truth.ids:
        texts, bad = canonical(table[name].combine_chunks(), ColumnType.CATEGORICAL)
        if bad or texts.null_count:
            row = bad[0] if bad else first(pc.is_null(texts))
            raise _bad_cell(path, truth, table, name, row, "an id is missing or cannot be one")
        columns.append(texts.to_pylist())
    places: dict[tuple[str, ...], list[int]] = {}
    for row, key in enumerate(truth.keys):
        places.setdefault(key, []).append(row)
    order = np.full(len(truth), -1)
    n_used: dict[tuple[str, ...], int] = {}
    for row, key in enumerate(zip(*columns, strict=True)):
        n, found = n_used.get(key, 0), " and ".join(map(str, key))
        if key not in places:
            problem = f"an id that is not in {truth.split}"
            raise DataError(truth.dataset, problem, table=path.name, row=row + 1, found=found)
        if n == len(places[key]):
            problem, fix = "an id that was answered before", "answer each once"
            raise DataError(truth.dataset, problem, table=path.name, row=row + 1, found=found, fix=fix)
        order[places[key][n]] = row
        n_used[key] = n + 1
    return order


def _bad_cell(
    path: Path, truth: Truth, table: pa.Table, column: str, row: int, problem: str, expected: str | None = None
) -> DataError:
    return DataError(
        truth.dataset,
        problem,
        table=path.name,
        row=row + 1,
        column=column,
        expected=expected,
        found=table[column][row].as_py(),
    )


def _numbers(path: Path, truth: Truth, table: pa.Table, column: str) -> np.ndarray:
    values, bad = canonical(table[column].combine_chunks(), ColumnType.NUMERIC)
    p = np.asarray(pc.fill_null(values, float("nan")), np.float64)
    wrong = bad or np.flatnonzero(~((p >= 0) & (p <= 1 + SUM_TOLERANCE))).tolist()
    if wrong:
        raise _bad_cell(path, truth, table, column, wrong[0], "not a probability", "a number from 0 to 1")
    return p.clip(0, 1)


def _of_classes(path: Path, truth: Truth, table: pa.Table) -> np.ndarray:
    p = np.stack([_numbers(path, truth, table, class_column(name)) for name in truth.classes], 1)
    sums = p.sum(1)
    if len(off := np.flatnonzero(abs(sums - 1) > SUM_TOLERANCE)):
        problem, row = "the probabilities of a row do not add up to 1", int(off[0])
        raise DataError(truth.dataset, problem, table=path.name, row=row + 1, found=f"{sums[row]:.6g}")
    return p


def _named(path: Path, truth: Truth, table: pa.Table) -> np.ndarray:
    texts, _ = canonical(table["prediction"].combine_chunks(), ColumnType.CATEGORICAL)
    places = pc.index_in(texts, value_set=pa.array(truth.classes, texts.type))
    if places.null_count:
        expected = f"one of {json.dumps(truth.classes[:5], ensure_ascii=False)} …"
        raise _bad_cell(path, truth, table, "prediction", first(pc.is_null(places)), "not a class of train", expected)
    return np.asarray(places, np.int64)[:, None]


def _bits(path: Path, truth: Truth, table: pa.Table, column: str) -> np.ndarray:
    values = bits(canonical(table[column].combine_chunks(), ColumnType.CATEGORICAL)[0])
    if values.null_count:
        raise _bad_cell(path, truth, table, column, first(pc.is_null(values)), "not a prediction", "0 or 1")
    return np.asarray(values).astype(np.int64)
