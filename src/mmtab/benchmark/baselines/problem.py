"""What a baseline has to answer: a dataset of rows, or one relation of a matching dataset."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np

from mmtab.config.types import CategoryRules
from mmtab.data.pairs import Pairs, Records, read_pairs, read_records
from mmtab.data.schema import ColumnType, Schema, TaskKind
from mmtab.data.table import Table, read_split
from mmtab.features.preprocess import LabelCoder, Preprocessor, numbers_of
from mmtab.utils.cache import Store
from mmtab.utils.errors import ConfigError, DataError

RULES = CategoryRules(max_values=1_000, n_hash=256)  # so that one-hot stays narrow enough to be dense
NOT_IMAGE = (ColumnType.TEXT, ColumnType.CATEGORICAL, ColumnType.NUMERIC, ColumnType.DATETIME)


class Problem:
    """A k-way or regression dataset, or one relation of a matching one with the columns that count for it. Tables are
    read when first used."""

    def __init__(self, folder: Path, schema: Schema, seed: int, store: Store) -> None:
        self.folder, self.schema, self.seed, self.store = folder, schema, seed, store
        self.of_rows, self.numbers = schema.of_rows, schema.task is TaskKind.REGRESSION
        self._tables: dict[str, Table] = {}
        self._pairs: dict[str, Pairs] = {}

    @property
    def relation(self) -> str:
        return next(iter(self.schema.relations))

    def table(self, split: str) -> Table:
        if split not in self._tables:
            table = read_split(self.folder, self.schema, split)
            self._tables[split] = replace(table, labels=None) if split == "test" else table
        return self._tables[split]

    @property
    def records(self) -> Table:
        return self._all_records.table

    @cached_property
    def _all_records(self) -> Records:
        return read_records(self.folder, self.schema)

    def pairs(self, split: str) -> Pairs:
        if split not in self._pairs:
            self._pairs[split] = read_pairs(self.folder, self.schema, split, self._all_records)
        return self._pairs[split]

    @cached_property
    def seen(self) -> np.ndarray:
        """The records of training pairs."""
        pairs = self.pairs("train")
        return np.unique(np.concatenate([pairs.left, pairs.right]))

    @cached_property
    def plain(self) -> Preprocessor:
        """How numbers scale and which categories there are, by what training may see."""
        if self.of_rows:
            return Preprocessor.fit(self.table("train"), self.schema, RULES)
        return Preprocessor.fit(self.records, self.schema, RULES, self.seen)

    @cached_property
    def classes(self) -> list[str]:
        assert self.schema.label is not None
        return LabelCoder.fit(self.table("train"), self.schema.label, self.schema.classes).classes_

    def label(self, split: str) -> np.ndarray:
        """[n] int64: the place among ``classes``, or whether the relation holds; or float64 numbers."""
        if self.of_rows:
            assert self.schema.label is not None
            if self.numbers and self.table(split).labels is not None:
                return numbers_of(self.table(split), self.schema.label)
            places = LabelCoder(self.classes).transform(self.table(split), self.schema.label)
            if (places >= 0).all():
                return places
            raise self.table(split).error("no labels to learn from or choose by", column=self.schema.label)
        labels = self.pairs(split).relations.get(self.relation)
        if labels is None or (split == "train" and len(labels.unique()) < 2):
            raise DataError(
                self.schema.name,
                "no labels" if labels is None else "only one class",
                table=f"pairs_{split}",
                column=self.relation,
                expected="matches (1) and others (0)",
            )
        return np.asarray(labels).astype(np.int64)

    def needs(self, *types: ColumnType) -> None:
        """Raises ConfigError where no column has one of the types."""
        if not self.schema.of_type(*types):
            relation = f", relation {self.relation}" if self.schema.names_relations else ""
            columns = listed([f"{column.name} ({column.type})" for column in self.schema.columns])
            problem = f"this control reads {listed(types)} columns, and there are none: {columns}"
            raise ConfigError(f"dataset {self.schema.name}{relation}: {problem}")


def listed(names: Sequence[str]) -> str:
    return ", ".join(map(str, names)) or "none"
