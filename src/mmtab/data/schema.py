"""What a dataset says of itself: columns and their types, the task, the label. Read from ``dataset.yaml``."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

import pyarrow as pa
import yaml

from mmtab.data.spelling import is_narrow, keeps_its_type, type_named
from mmtab.utils.atomic import write_text
from mmtab.utils.errors import DataError, one_line
from mmtab.utils.paths import leads_out
from mmtab.utils.plain import Unfit, mapping, number, record, text, texts


class ColumnType(StrEnum):
    TEXT = "text"
    NUMERIC = "numeric"
    CATEGORICAL = "categorical"
    IMAGE = "image"
    DATETIME = "datetime"


class TaskKind(StrEnum):
    KWAY = "kway"
    REGRESSION = "regression"
    MATCHING = "matching"


LABEL = "label"  # the column of pairs that says whether they match, unless dataset.yaml names several relations

LARGEST = 1 << 20  # bytes of dataset.yaml: ten thousand columns need half of it
# Of dataset.yaml and of a run's schema.yaml
PARTS = {"ceilings": mapping(number(0, 1)), "storage": mapping(text), "formats": mapping(text)}
PARTS |= {"absent": mapping(texts()), "classes": texts(once=True)}
# What a dataset may be ranked by, the default first; more is better in all of them.
METRICS = {
    TaskKind.KWAY: ("accuracy", "macro_f1"),
    TaskKind.REGRESSION: ("r2",),
    TaskKind.MATCHING: ("f1", "pr_auc", "roc_auc"),
}


@dataclass(frozen=True)
class Column:
    name: str
    type: ColumnType


@dataclass(frozen=True)
class Schema:
    """``ceilings``, where known, gives the best reachable score for modality subsets such as ``image+text``. ``split``
    records how the splits were made. ``storage`` says how columns were stored in parquet, should they be in csv now; in
    a run folder, how train stored them. ``formats``: how raw tables write numbers and dates (``data.formats``), by
    column. ``classes``: labels in their order, where they have one. ``absent``: in a run folder, the columns that left
    or right did not have in training.

    ``relations``: what may hold between two records, each with the columns it ignores (in which the two may differ),
    such as ``{"duplicate": (), "variant": ("colour", "size")}``. Each is a 0/1 column of the pairs. None given: the one
    relation of the column ``label``; datasets of other tasks have none.
    """

    name: str
    task: TaskKind
    columns: tuple[Column, ...]
    id: str = "id"
    label: str | None = None
    metric: str = ""
    title: str = ""
    licence: str = ""
    source: str = ""
    ceilings: dict[str, float] = field(default_factory=dict)
    split: dict[str, Any] = field(default_factory=dict)
    storage: dict[str, str] = field(default_factory=dict)
    formats: dict[str, str] = field(default_factory=dict)
    classes: tuple[str, ...] = ()
    absent: dict[str, list[str]] = field(default_factory=dict)
    relations: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.task is TaskKind.MATCHING and not self.relations:
            object.__setattr__(self, "relations", {LABEL: ()})

    @property
    def of_rows(self) -> bool:
        """Whether the question is about single rows, in tables train, valid and test; else it is about pairs."""
        return self.task is not TaskKind.MATCHING

    def table_of(self, split: str) -> str:
        """The name of the table that a split is, of rows or of pairs."""
        return split if self.of_rows else f"pairs_{split}"

    @property
    def label_type(self) -> ColumnType:
        """How the cells of the label are read: names of classes, or numbers."""
        return ColumnType.NUMERIC if self.task is TaskKind.REGRESSION else ColumnType.CATEGORICAL

    @property
    def names_relations(self) -> bool:
        """Whether dataset.yaml lists relations; without, a matching dataset has the one of the column ``label``."""
        return self.relations not in ({}, {LABEL: ()})

    @property
    def ignored_by_some(self) -> set[str]:
        """Columns that at least one relation ignores."""
        return {name for names in self.relations.values() for name in names}

    @property
    def written(self) -> list[str]:
        """Text and categories that no relation ignores."""
        return [n for n in self.of_type(ColumnType.TEXT, ColumnType.CATEGORICAL) if n not in self.ignored_by_some]

    def stored(self, column: str | None) -> pa.DataType | None:
        """The type of the column's values that ``storage`` names; None: text, or not known."""
        named = self.storage.get(column or "", "string")
        return None if named == "string" else type_named(named, self.name, column or "")

    def with_storage(self, *headers: pa.Schema) -> Schema:
        """The schema that knows the types of its ids, classes, categories, text and moments, and of numbers that have
        fewer digits than float64: those of the first table of which the header has one, for in another the same values
        may be text."""
        classes = self.label if self.label_type is ColumnType.CATEGORICAL else None
        fits = dict.fromkeys([self.id, classes, *self.of_type(ColumnType.TEXT, ColumnType.CATEGORICAL)], keeps_its_type)
        fits |= dict.fromkeys(self.of_type(ColumnType.NUMERIC), is_narrow)
        fits |= dict.fromkeys(self.of_type(ColumnType.DATETIME), pa.types.is_temporal)
        storage = dict(self.storage)
        for field_ in (field_ for header in headers for field_ in header):
            if field_.name in fits and fits[field_.name](field_.type):
                storage.setdefault(field_.name, str(field_.type))
        return replace(self, storage=storage)

    def of_type(self, *types: ColumnType) -> list[str]:
        """Names of the columns of these types, in schema order."""
        return [column.name for column in self.columns if column.type in types]

    @property
    def ceiling(self) -> float | None:
        """The best reachable value of the metric with these columns, where the dataset says it."""
        kinds = {str(column.type) for column in self.columns}
        present = (kind for kind in ("image", "text", "numeric", "categorical") if kind in kinds)
        return self.ceilings.get("+".join(present))

    def without(self, names: list[str]) -> Schema:
        """The schema with some columns left out. A name may also be a column type, such as ``image``."""
        types = {str(t) for t in ColumnType}
        for name in names:
            if name not in types and name not in {c.name for c in self.columns}:
                raise DataError(
                    self.name,
                    f"cannot drop {name!r}",
                    expected=f"a column type or one of {[c.name for c in self.columns]}",
                    fix="correct dataset.drop",
                )
        columns = tuple(c for c in self.columns if c.name not in names and str(c.type) not in names)
        if not columns:
            raise DataError(self.name, "dropping these columns leaves none", found=names, fix="correct dataset.drop")
        left = {c.name for c in columns}
        relations = {name: tuple(c for c in ignored if c in left) for name, ignored in self.relations.items()}
        return replace(self, columns=columns, relations=relations)

    def choose(self, relations: list[str], ignore: list[str]) -> Schema:
        """The schema with some of its relations, all if none are named, which ignore further columns. Columns that
        every relation ignores are left out."""
        if self.task is not TaskKind.MATCHING:
            if relations or ignore:
                fix = "correct dataset.relations or dataset.ignore"
                raise DataError(self.name, "relations and ignored columns are for matching", fix=fix)
            return self
        for name in relations:
            if name not in self.relations:
                raise DataError(
                    self.name,
                    "no such relation",
                    expected=f"one of {list(self.relations)}",
                    found=name,
                    fix="correct dataset.relations",
                )
        for name in ignore:
            if name not in {c.name for c in self.columns}:
                raise DataError(
                    self.name,
                    "an ignored column is none of the dataset's",
                    column=name,
                    expected=f"one of {[c.name for c in self.columns]}",
                    fix="correct dataset.ignore",
                )
        chosen = {
            name: tuple(dict.fromkeys([*self.relations[name], *ignore])) for name in (relations or self.relations)
        }
        everywhere = [c.name for c in self.columns if all(c.name in ignored for ignored in chosen.values())]
        schema = replace(self, relations=chosen)
        return schema.without(everywhere) if everywhere else schema

    def to_dict(self) -> dict[str, Any]:
        """Plain values only, as in ``dataset.yaml``."""
        raw = asdict(self)
        raw["task"] = str(self.task)
        raw["columns"] = {column.name: str(column.type) for column in self.columns}
        raw["classes"] = list(self.classes)
        relations = self.relations if self.names_relations else {}
        raw["relations"] = {name: {"ignore": list(ignored)} for name, ignored in relations.items()}
        return raw

    @staticmethod
    def from_dict(raw: dict[str, Any], where: str | None = None) -> Schema:
        """Check and convert what ``dataset.yaml`` holds; raises DataError naming the entry at fault."""
        name = where or "?"
        if raw.get("name") and not isinstance(raw["name"], dict | list):
            name = str(raw["name"])
        for key in ("name", "task", "columns"):
            if not raw.get(key):
                raise DataError(name, f"dataset.yaml has no {key!r}", fix=f"add a line '{key}: …'")
        if "ignore" in raw:  # short for the one relation
            if raw.get("relations"):
                raise DataError(name, "dataset.yaml: ignore stands beside relations", fix="say it in each relation")
            raw = raw | {"relations": {LABEL: {"ignore": raw["ignore"]}}}
            del raw["ignore"]
        unknown = set(raw) - set(Schema.__dataclass_fields__)
        if unknown:
            raise DataError(
                name,
                f"dataset.yaml has unknown entries {sorted(map(str, unknown))}",
                expected=f"some of {sorted(Schema.__dataclass_fields__)}",
            )
        if raw["task"] not in list(TaskKind):
            raise DataError(name, "dataset.yaml: task", expected=" or ".join(TaskKind), found=raw["task"])
        if not isinstance(raw["columns"], dict):
            raise DataError(name, "dataset.yaml: columns", expected="a mapping of name: type", found=raw["columns"])
        for column, kind in raw["columns"].items():
            if kind not in list(ColumnType):
                raise DataError(
                    name,
                    "unknown column type",
                    column=str(column),
                    expected=f"one of {[str(t) for t in ColumnType]}",
                    found=kind,
                )
        names = [str(column) for column in raw["columns"]]
        if len(set(names)) < len(names):
            raise DataError(name, "dataset.yaml: columns", expected="each name once", found=names)
        values: dict[str, Any] = {}
        for key in ("ceilings", "split", "storage", "formats", "absent"):
            if not isinstance(raw.get(key) or {}, dict):
                raise DataError(name, f"dataset.yaml: {key}", expected="a mapping", found=raw[key])
            values[key] = {str(entry): value for entry, value in (raw.get(key) or {}).items()}
        values["relations"] = _relations(raw.get("relations"), names, name, TaskKind(raw["task"]))
        if not isinstance(raw.get("classes") or [], list | tuple):
            raise DataError(name, "dataset.yaml: classes", expected="a list of labels", found=raw["classes"])
        values["classes"] = [*map(str, raw.get("classes") or ())]
        try:
            record({}, PARTS)(values, "")
        except Unfit as error:
            raise DataError(name, f"dataset.yaml: {error}", fix="correct it, or leave it out") from error
        values["classes"] = tuple(values["classes"])
        for key in set(raw) - {"columns", "task", *values}:
            if isinstance(raw[key], dict | list):
                raise DataError(name, f"dataset.yaml: {key}", expected="one value", found=raw[key])
            if raw[key] not in (None, ""):
                values[key] = str(raw[key])
        metrics = METRICS[TaskKind(raw["task"])]
        if values.setdefault("metric", metrics[0]) not in metrics:
            raise DataError(name, "dataset.yaml: metric", expected=" or ".join(metrics), found=raw["metric"])
        columns = tuple(Column(str(c), ColumnType(t)) for c, t in raw["columns"].items())
        schema = Schema(task=TaskKind(raw["task"]), columns=columns, **values)
        if schema.of_rows and not schema.label:
            problem = f"a {schema.task} dataset names its label"
            raise DataError(name, problem, fix="add a line 'label: COLUMN' to dataset.yaml")
        for role, column in (("id", schema.id), ("label", schema.label)):
            if column in {c.name for c in schema.columns}:
                problem = f"the {role} is also listed as a feature"
                raise DataError(name, problem, column=column, fix="take it out of columns")
        return schema

    def write(self, folder: Path) -> None:
        """Write ``folder/dataset.yaml``, at once or not at all; what is empty is left out."""
        raw = {key: value for key, value in self.to_dict().items() if value not in (None, "", {}, [])}
        order = ["name", "title", "task", "metric", "licence", "source", "split", "id", "label", "columns", "relations"]
        raw = {key: raw[key] for key in [*order, *raw] if key in raw}
        write_text(folder / "dataset.yaml", yaml.safe_dump(raw, sort_keys=False, allow_unicode=True, width=100))

    @staticmethod
    def read(folder: Path) -> Schema:
        """Read ``folder/dataset.yaml``."""
        path = folder / "dataset.yaml"
        if not path.is_file():
            fix = "check the path, or describe the dataset there"
            raise DataError(folder.name, f"no dataset.yaml in {folder}", fix=fix)
        if leads_out(folder, path):
            problem, fix = f"dataset.yaml is a link out of {folder}", "copy the file into the folder (cp -L)"
            raise DataError(folder.name, problem, found=os.path.realpath(path), fix=fix)
        if path.stat().st_size > LARGEST:
            raise DataError(folder.name, "dataset.yaml is too large", expected=f"at most {LARGEST >> 10} KiB")
        try:
            raw = yaml.safe_load(path.read_text(encoding="utf-8"))
        except RecursionError as error:
            raise DataError(folder.name, "dataset.yaml is nested too deeply", expected="a mapping") from error
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise DataError(folder.name, f"dataset.yaml is not valid YAML: {one_line(error)}") from error
        if not isinstance(raw, dict):
            raise DataError(folder.name, "dataset.yaml", expected="a mapping", found=raw)
        return Schema.from_dict(raw, folder.name)


def _relations(raw: Any, columns: list[str], dataset: str, task: TaskKind) -> dict[str, tuple[str, ...]]:
    """Check and convert the entry ``relations``; raises DataError for a wrong form, and where the task is another."""
    if not raw:
        return {}
    form = "a mapping such as {duplicate: {ignore: []}, variant: {ignore: [colour, size]}}"
    if task is not TaskKind.MATCHING or not isinstance(raw, dict):
        raise DataError(dataset, "dataset.yaml: relations", expected=f"of a matching dataset, {form}", found=raw)
    relations: dict[str, tuple[str, ...]] = {}
    for relation, entry in raw.items():
        ignored = (entry or {}).get("ignore") or [] if isinstance(entry, dict | None) else None
        if not isinstance(ignored, list | tuple) or set(entry or {}) - {"ignore"}:
            raise DataError(dataset, f"dataset.yaml: relations: {relation}", expected=form, found=entry)
        for column in ignored:
            if str(column) not in columns:
                raise DataError(
                    dataset,
                    f"dataset.yaml: relation {relation} ignores a column that is not there",
                    column=str(column),
                    expected=f"some of {columns}",
                )
        if len(ignored) == len(columns):
            raise DataError(dataset, f"dataset.yaml: relation {relation} ignores all columns", fix="leave it some")
        relations[str(relation)] = tuple(map(str, ignored))
    return relations
