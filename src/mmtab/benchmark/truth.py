"""The rows of a split and their labels, without its other columns."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import yaml

from mmtab.data import files
from mmtab.data.cells import join
from mmtab.data.pairs import pair_labels
from mmtab.data.schema import ColumnType, Schema, TaskKind
from mmtab.data.table import Table, find_table, has_labels, read_column
from mmtab.features.preprocess import LabelCoder, numbers_of
from mmtab.runs.folder import reading
from mmtab.runs.predictions import PAIR_IDS
from mmtab.utils.atomic import write_text
from mmtab.utils.errors import DataError
from mmtab.utils.plain import anything, choice, mapping, read_plain, record, texts

ABOUT = record({"schema": mapping(anything), "split": choice("train", "valid", "test"), "classes": texts(once=True)})
NUMBERS = {TaskKind.KWAY: pa.int64(), TaskKind.MATCHING: pa.int64(), TaskKind.REGRESSION: pa.float64()}  # of labels


@dataclass(frozen=True)
class Truth:
    """The rows of a split and their labels. ``label`` [n, r] int64: k-way (r = 1) the place among ``classes``, those of
    train, sorted; matching 0 or 1 for each relation. Of regression (r = 1) float64."""

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
    def kway(self) -> bool:
        return self.schema.task is TaskKind.KWAY

    @property
    def numbers(self) -> bool:
        return self.schema.task is TaskKind.REGRESSION

    @property
    def relations(self) -> list[str]:
        return list(self.schema.relations)

    @cached_property
    def keys(self) -> list[tuple[str, ...]]:
        return list(zip(*self.ids.values(), strict=True))

    @staticmethod
    def read(folder: Path, split: str, labelled: bool = True) -> Truth:
        """Of a dataset folder; raises DataError where the split has no labels, or a label that train never had.
        ``labelled`` false: the labels are not looked at, and are all -1; with that, predictions can be checked but not
        scored."""
        schema = Schema.read(folder)
        if labelled and not has_labels(folder, schema, split):
            raise DataError(schema.name, "the split has no labels, so nothing can be scored on it", table=split)
        if schema.task is TaskKind.REGRESSION:
            rows = _labelled(folder, schema, split, labelled)
            numbers = numbers_of(rows, schema.label or "")
            return Truth(schema, split, {schema.id: rows.ids.to_pylist()}, [], numbers[:, None])
        if schema.task is TaskKind.KWAY:
            assert schema.label is not None
            coder = LabelCoder.fit(_labelled(folder, schema, "train"), schema.label, schema.classes)
            rows = _labelled(folder, schema, split, labelled)
            ids = {schema.id: rows.ids.to_pylist()}
            return Truth(schema, split, ids, coder.classes_, coder.transform(rows, schema.label)[:, None])
        path = find_table(folder, schema, f"pairs_{split}")
        ids = {name: _cells(path, schema, name).to_pylist() for name in PAIR_IDS}
        if not labelled:
            return Truth(schema, split, ids, [], np.full((len(ids[PAIR_IDS[0]]), len(schema.relations)), -1, np.int64))
        pairs = Table(schema.name, path.stem, folder, pa.nulls(len(ids[PAIR_IDS[0]]), pa.string()), {})
        label = [pair_labels(pairs, relation, _cells(path, schema, relation)) for relation in schema.relations]
        return Truth(schema, split, ids, [], np.stack(label, 1).astype(np.int64))

    def write(self, folder: Path) -> None:
        """To a folder of its own, which ``load`` reads."""
        columns = self.ids | {f"label_{i}": self.label[:, i].tolist() for i in range(self.label.shape[1])}
        files.write_table(folder / "truth.parquet", pa.table(columns))
        about = {"schema": self.schema.to_dict(), "split": self.split, "classes": self.classes}
        write_text(folder / "truth.yaml", yaml.safe_dump(about, sort_keys=False, allow_unicode=True))

    @staticmethod
    def load(folder: Path) -> Truth:
        """Raises RunError for files that are damaged, or hold what ``write`` does not write."""
        about = read_plain(folder / "truth.yaml", ABOUT)
        with reading(folder / "truth.yaml"):
            schema = Schema.from_dict(about["schema"])
        with reading(folder / "truth.parquet"):
            table, n = files.read(folder / "truth.parquet", schema.name), 1 if schema.of_rows else len(schema.relations)
            ids = {name: table[name].to_pylist() for name in ([schema.id] if schema.of_rows else PAIR_IDS)}
            labels = [np.asarray(table[f"label_{i}"].cast(NUMBERS[schema.task])) for i in range(n)]
            truth = Truth(schema, about["split"], ids, about["classes"], np.stack(labels, 1))
            if not all(isinstance(key, str) for column in ids.values() for key in column):
                raise ValueError("an id is no text")
            low, high = (-np.inf, np.inf) if truth.numbers else (0, len(truth.classes) - 1 if truth.kway else 1)
            if not ((truth.label >= low) & (truth.label <= high) & np.isfinite(truth.label)).all():
                raise ValueError("a label is missing, or is none of its task")
        return truth


def _cells(path: Path, schema: Schema, column: str, kind: ColumnType = ColumnType.CATEGORICAL) -> pa.Array:
    return join([cells for _, cells in read_column(path, schema.name, column, kind)])


def _labelled(folder: Path, schema: Schema, stem: str, labelled: bool = True) -> Table:
    """A table of ids and labels, without its other columns."""
    path = find_table(folder, schema, stem)
    labels = _cells(path, schema, schema.label or "", schema.label_type) if labelled else None
    return Table(schema.name, path.stem, folder, _cells(path, schema, schema.id), {}, labels)
