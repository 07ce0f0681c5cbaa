"""The one door to scores: what a split says of itself (Truth), and what a predictions file says of it (Answers).

mmtab's own runs, rivals, controls and what strangers hand in all come through here. A predictions file is data: its
columns are read by name as plain values, and it is checked before anything is computed from it.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import yaml

from mmtab.data import files
from mmtab.data.cells import bits, canonical, first, image_sources, join
from mmtab.data.pairs import pair_labels
from mmtab.data.schema import ColumnType, Schema, TaskKind
from mmtab.data.table import Table, find_table, has_labels, read_column, training_files
from mmtab.features.preprocess import LabelCoder
from mmtab.utils.atomic import write_text
from mmtab.utils.errors import DataError

SUM_TOLERANCE = 1e-3  # of the probabilities of a row; float32 softmax over a thousand classes stays well below
MAX_BYTES_A_ROW = 1 << 16  # of a predictions file
PAIR = ["left_id", "right_id"]


@dataclass(frozen=True)
class Truth:
    """The rows of a split and their answers. ``label`` [n, r] int64: k-way (r = 1) the place among ``classes``, those of
    train, sorted; matching 0 or 1 for each relation."""

    schema: Schema
    split: str
    ids: dict[str, list[str]]
    classes: list[str]
    label: np.ndarray = field(repr=False)

    def __len__(self) -> int:
        return len(self.label)

    @property
    def dataset(self) -> str:
        return self.schema.name

    @property
    def relations(self) -> list[str]:
        return list(self.schema.relations)

    @cached_property
    def keys(self) -> list[tuple[str, ...]]:
        return list(zip(*self.ids.values(), strict=True))

    @staticmethod
    def read(folder: Path, split: str, labelled: bool = True) -> Truth:
        """Of a dataset folder; raises DataError where the split has no labels, or a label that train never had.
        ``labelled`` false: the labels are not looked at, and are all -1; with it answers can be checked, not scored."""
        schema = Schema.read(folder)
        if labelled and not has_labels(folder, schema, split):
            raise DataError(schema.name, "the split has no labels, so nothing can be scored on it", table=split)
        if schema.task is TaskKind.KWAY:
            assert schema.label is not None
            coder = LabelCoder.fit(_labelled(folder, schema, "train"), schema.label)
            rows = _labelled(folder, schema, split, labelled)
            ids = {schema.id: rows.ids.to_pylist()}
            return Truth(schema, split, ids, coder.classes_, coder.transform(rows, schema.label)[:, None])
        path = find_table(folder, schema, f"pairs_{split}")
        ids = {name: _cells(path, schema, name).to_pylist() for name in PAIR}
        if not labelled:
            return Truth(schema, split, ids, [], np.full((len(ids[PAIR[0]]), len(schema.relations)), -1, np.int64))
        pairs = Table(schema.name, path.stem, folder, pa.nulls(len(ids[PAIR[0]]), pa.string()), {})
        label = [pair_labels(pairs, relation, _cells(path, schema, relation)) for relation in schema.relations]
        return Truth(schema, split, ids, [], np.stack(label, 1).astype(np.int64))

    def write(self, folder: Path) -> None:
        """To a folder of its own, which ``kept`` reads again."""
        columns = self.ids | {f"label_{i}": self.label[:, i].tolist() for i in range(self.label.shape[1])}
        files.write_table(folder / "truth.parquet", pa.table(columns))
        about = {"schema": self.schema.to_dict(), "split": self.split, "classes": self.classes}
        write_text(folder / "truth.yaml", yaml.safe_dump(about, sort_keys=False, allow_unicode=True))

    @staticmethod
    def kept(folder: Path) -> Truth:
        about = yaml.safe_load((folder / "truth.yaml").read_text(encoding="utf-8"))
        schema = Schema.from_dict(about["schema"])
        table = files.read(folder / "truth.parquet", schema.name)
        names = [schema.id] if schema.task is TaskKind.KWAY else PAIR
        labels = [np.asarray(table[name]) for name in table.column_names if name not in names]
        ids = {name: table[name].to_pylist() for name in names}
        return Truth(schema, about["split"], ids, about["classes"], np.stack(labels, 1).astype(np.int64))


@dataclass(frozen=True)
class Answers:
    """Predictions in the order of the truth's rows. ``prediction`` [n, r] int64, as Truth.label; ``probability`` [n, k] of
    the classes, or [n, r] of a match; None where the file says none."""

    prediction: np.ndarray
    probability: np.ndarray | None

    def of(self, rows: np.ndarray) -> Answers:
        return Answers(self.prediction[rows], None if self.probability is None else self.probability[rows])


def read_answers(path: Path, truth: Truth) -> Answers:
    """Read and check a predictions file, csv or parquet: the ids of the split, each once and in any order; k-way
    ``prediction`` and/or a ``p_<class>`` for every class (without ``prediction`` the likeliest counts); matching
    ``prediction`` (0 or 1) and/or ``probability`` (without ``prediction``, from 0.5 on), with several relations
    ``prediction_<relation>`` and so on. Raises DataError for whatever does not fit, with row and column."""
    name, kway = truth.dataset, truth.schema.task is TaskKind.KWAY
    if path.suffix not in files.FORMATS or not path.is_file():
        raise DataError(name, f"no predictions file {path}", expected="a .parquet or .csv file")
    if path.stat().st_size > MAX_BYTES_A_ROW * (len(truth) + 1):
        raise DataError(name, "the file is too large to be predictions", table=path.name, found=f"{path.stat().st_size} bytes for {len(truth)} rows")  # fmt: skip
    there = files.header(path, name).names
    suffixes = [""] if kway or len(truth.relations) == 1 else [f"_{relation}" for relation in truth.relations]
    answers = [f"{kind}{suffix}" for kind in ("prediction", *([] if kway else ["probability"])) for suffix in suffixes]
    classes = [column for column in there if kway and column.startswith("p_")]
    for column in truth.ids:
        if column not in there:
            raise DataError(name, "the file lacks this column", table=path.name, column=column, found=f"columns {there[:20]}")  # fmt: skip
    _check_classes(path, truth, classes)
    for suffix in suffixes:
        kinds = {f"{kind}{suffix}" for kind in ("prediction", "probability")}
        if not kinds & set(there) and not classes:
            raise DataError(
                name, "the file answers nothing", table=path.name, found=f"columns {there[:20]}",
                expected="prediction or p_<class> of every class" if kway else " or ".join(sorted(kinds)),
            )  # fmt: skip
    _check_rows(path, truth, files.count(path, name))  # before they are read: a small file may claim very many
    wanted = [*truth.ids, *(column for column in answers if column in there), *classes]
    table = files.read(path, name, columns=wanted)
    _check_rows(path, truth, table.num_rows)  # what a file says of itself need not be so
    order = _aligned(path, truth, table)
    if kway:
        probability = _of_classes(path, truth, table) if classes else None
        if "prediction" in there:
            return Answers(_named(path, truth, table), probability).of(order)
        assert probability is not None
        return Answers(probability.argmax(1)[:, None], probability).of(order)
    p = {suffix: _numbers(path, truth, table, f"probability{suffix}") for suffix in suffixes if f"probability{suffix}" in there}  # fmt: skip
    said = [
        _bits(path, truth, table, f"prediction{suffix}") if f"prediction{suffix}" in there else (p[suffix] >= 0.5).astype(np.int64)
        for suffix in suffixes
    ]  # fmt: skip
    whole = np.stack(list(p.values()), 1) if len(p) == len(suffixes) else None
    return Answers(np.stack(said, 1), whole).of(order)


def write_answers(path: Path, truth: Truth, p: np.ndarray, thresholds: Sequence[float] = ()) -> None:
    """[n, k] of classes, or [n, r] of matches with a threshold each, as ``read_answers`` reads them."""
    columns: dict[str, object] = dict(truth.ids)
    if truth.classes:
        columns |= {f"p_{name}": p[:, i] for i, name in enumerate(truth.classes)}
        columns["prediction"] = pa.array(truth.classes).take(pa.array(p.argmax(1)))
    else:
        for r, relation in enumerate(truth.relations):
            suffix = "" if len(truth.relations) == 1 else f"_{relation}"
            columns[f"probability{suffix}"] = p[:, r]
            columns[f"prediction{suffix}"] = (p[:, r] >= thresholds[r]).astype(np.int8)
    files.write_table(path, pa.table(columns))


def metrics(truth: Truth, answers: Answers, rows: np.ndarray | None = None) -> dict[str, float]:
    """By scikit-learn, of all rows or some: k-way accuracy, macro_f1, log_loss; matching f1, precision, recall, pr_auc,
    roc_auc, log_loss, each the mean over relations. Those that take probabilities are left out where there are none."""
    from sklearn import metrics as score

    label, given = (truth.label, answers) if rows is None else (truth.label[rows], answers.of(rows))
    p = given.probability
    if truth.schema.task is TaskKind.KWAY:
        found = {
            "accuracy": score.accuracy_score(label[:, 0], given.prediction[:, 0]),
            "macro_f1": score.f1_score(label[:, 0], given.prediction[:, 0], average="macro", zero_division=0),
        }
        if p is not None:
            found["log_loss"] = score.log_loss(label[:, 0], p / p.sum(1, keepdims=True), labels=range(p.shape[1]))
        return {name: float(value) for name, value in found.items()}
    each = []
    for r in range(label.shape[1]):
        y, said = label[:, r], given.prediction[:, r]
        three = score.precision_recall_fscore_support(y, said, average="binary", zero_division=0)[:3]
        values = dict(zip(("precision", "recall", "f1"), map(float, three), strict=True))
        if p is not None:
            if y.min() < y.max():
                values["pr_auc"] = score.average_precision_score(y, p[:, r])
                values["roc_auc"] = score.roc_auc_score(y, p[:, r])
            values["log_loss"] = score.log_loss(y, p[:, r], labels=[0, 1])
        each.append(values)
    return {name: float(np.mean([v[name] for v in each])) for name in each[0] if all(name in v for v in each)}


def ranked_by(truth: Truth, found: dict[str, float]) -> float:
    """The dataset's own metric; raises DataError where it takes probabilities and there were none."""
    if truth.schema.metric not in found:
        raise DataError(truth.dataset, f"it is ranked by {truth.schema.metric}, which takes probabilities", fix="write the column probability")  # fmt: skip
    return found[truth.schema.metric]


# --- columns of a predictions file -----------------------------------------------------------------------------------


def _cells(path: Path, schema: Schema, column: str) -> pa.Array:
    return join([cells for _, cells in read_column(path, schema.name, column, ColumnType.CATEGORICAL)])


def _labelled(folder: Path, schema: Schema, stem: str, labelled: bool = True) -> Table:
    """A table of ids and labels, without its other columns."""
    path = find_table(folder, schema, stem)
    labels = _cells(path, schema, schema.label or "") if labelled else None
    return Table(schema.name, path.stem, folder, _cells(path, schema, schema.id), {}, labels)


def _check_rows(path: Path, truth: Truth, n_rows: int) -> None:
    if n_rows != len(truth):
        raise DataError(truth.dataset, "not one row for each of the split", table=path.name, expected=f"{len(truth)} rows", found=f"{n_rows} rows")  # fmt: skip


def _check_classes(path: Path, truth: Truth, columns: Sequence[str]) -> None:
    if not columns:
        return
    wanted = {f"p_{name}" for name in truth.classes}
    for problem, names in (
        ("probabilities of unknown classes", set(columns) - wanted),
        ("probabilities of some classes are missing", wanted - set(columns)),
    ):
        if names:
            raise DataError(
                truth.dataset, problem, table=path.name, found=", ".join(sorted(names)[:5]),
                expected=f"a column p_<class> for each of the {len(wanted)} classes of train, such as {min(wanted)}",
            )  # fmt: skip


def _aligned(path: Path, truth: Truth, table: pa.Table) -> np.ndarray:
    """Which row of the file answers each row of the truth. A pair that the split itself has twice is wanted twice."""
    columns = []
    for name in truth.ids:
        column = table[name].combine_chunks()
        texts, bad = canonical(column, ColumnType.CATEGORICAL)
        if bad or texts.null_count:
            row = bad[0] if bad else first(pc.is_null(texts))
            raise DataError(truth.dataset, "an id is missing or cannot be one", table=path.name, row=row + 1, column=name, found=column[row].as_py())  # fmt: skip
        columns.append(texts.to_pylist())
    places: dict[tuple[str, ...], list[int]] = {}
    for row, key in enumerate(truth.keys):
        places.setdefault(key, []).append(row)
    order = np.full(len(truth), -1)
    taken: dict[tuple[str, ...], int] = {}
    for row, key in enumerate(zip(*columns, strict=True)):
        n = taken.get(key, 0)
        where = {"table": path.name, "row": row + 1, "found": " and ".join(map(str, key))}
        if key not in places:
            raise DataError(truth.dataset, f"an id that is not in {truth.split}", **where)  # type: ignore[arg-type]
        if n == len(places[key]):
            raise DataError(truth.dataset, "an id that was answered before", fix="answer each once", **where)  # type: ignore[arg-type]
        order[places[key][n]] = row
        taken[key] = n + 1
    return order


def _numbers(path: Path, truth: Truth, table: pa.Table, column: str) -> np.ndarray:
    cells = table[column].combine_chunks()
    values, bad = canonical(cells, ColumnType.NUMERIC)
    found = np.asarray(pc.fill_null(values, float("nan")), np.float64)
    wrong = bad or np.flatnonzero(~((found >= 0) & (found <= 1 + SUM_TOLERANCE))).tolist()
    if wrong:
        raise DataError(truth.dataset, "not a probability", table=path.name, row=wrong[0] + 1, column=column, expected="a number from 0 to 1", found=cells[wrong[0]].as_py())  # fmt: skip
    return found.clip(0, 1)


def _of_classes(path: Path, truth: Truth, table: pa.Table) -> np.ndarray:
    p = np.stack([_numbers(path, truth, table, f"p_{each}") for each in truth.classes], 1)
    sums = p.sum(1)
    if len(off := np.flatnonzero(abs(sums - 1) > SUM_TOLERANCE)):
        raise DataError(truth.dataset, "the probabilities of a row do not add up to 1", table=path.name, row=int(off[0]) + 1, found=f"{sums[off[0]]:.6g}")  # fmt: skip
    return p


def _named(path: Path, truth: Truth, table: pa.Table) -> np.ndarray:
    cells = table["prediction"].combine_chunks()
    texts, _ = canonical(cells, ColumnType.CATEGORICAL)
    places = pc.index_in(texts, value_set=pa.array(truth.classes, texts.type))
    if places.null_count:
        row = first(pc.is_null(places))
        raise DataError(truth.dataset, "not a class of train", table=path.name, row=row + 1, column="prediction", found=cells[row].as_py(), expected=f"one of {json.dumps(truth.classes[:5], ensure_ascii=False)} …")  # fmt: skip
    return np.asarray(places, np.int64)[:, None]


def _bits(path: Path, truth: Truth, table: pa.Table, column: str) -> np.ndarray:
    cells = table[column].combine_chunks()
    found = bits(canonical(cells, ColumnType.CATEGORICAL)[0])
    if found.null_count:
        row = first(pc.is_null(found))
        raise DataError(truth.dataset, "not a prediction", table=path.name, row=row + 1, column=column, expected="0 or 1", found=cells[row].as_py())  # fmt: skip
    return np.asarray(found).astype(np.int64)


def without_labels(source: Path, target: Path, split: str = "test", copy: bool = False) -> None:
    """Write a dataset folder as a participant gets it: the split has no labels, and there is nothing but the tables of the
    standard and the pictures that they name. Files are hard links, or copies where those cannot be and with
    ``copy``: through a symbolic link a program would find the labels."""
    schema = Schema.read(source)
    kway = schema.task is TaskKind.KWAY
    path = find_table(source, schema, split if kway else f"pairs_{split}")
    labels = [schema.label] if kway else list(schema.relations)
    target.mkdir(parents=True, exist_ok=True)
    replace(schema, ceilings={}).write(target)
    tables = training_files(source, schema)[1:]
    for table in tables:
        for part in files.parts(table, schema.name):
            _link(part, target / part.relative_to(source), copy)
    pictures: set[str] = set()
    for table in [path, *tables]:
        for name in set(schema.of_type(ColumnType.IMAGE)) & set(files.header(table, schema.name).names):
            for _, cells in read_column(table, schema.name, name, ColumnType.IMAGE):
                pictures |= {s.path for cell in cells.to_pylist() for s in image_sources(cell) if s.path and not s.data}
    for picture in sorted(pictures):
        there = (source / picture).resolve()
        if there.is_relative_to(source.resolve()) and there.is_file():  # others are errors wherever they are read
            _link(there, target / picture, copy)
    kept = [name for name in files.header(path, schema.name).names if name not in labels]
    files.write_table(target / f"{path.stem}{path.suffix or '.parquet'}", files.read(path, schema.name, columns=kept))


def _link(source: Path, target: Path, copy: bool) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    if not copy:
        with contextlib.suppress(OSError):  # another disk, or somebody else's file
            return target.hardlink_to(source.resolve())
    shutil.copyfile(source, target)
