"""Recipes: what configs/import/*.yaml say of a public dataset: where it is, what it may be used for, how it maps."""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from mmtab.config.types import CONFIGS
from mmtab.data.schema import METRICS, ColumnType, TaskKind
from mmtab.prepare.importers.download import ALGORITHMS, Checksum
from mmtab.utils.errors import ConfigError, one_line

RECIPES = CONFIGS / "import"
ROW_TABLES, RECORD_TABLES = {"train", "valid", "test"}, {"left", "right", "records"}
PAIR_TABLES = {f"pairs_{split}" for split in ROW_TABLES}
CLEANINGS = ("number",)


@dataclass(frozen=True)
class RawFile:
    """One address. ``checksum`` None: none is published. ``unpack``: it is an archive of the raw files."""

    name: str
    url: str
    checksum: Checksum | None = None
    size: int | None = None
    unpack: bool = False


@dataclass(frozen=True)
class RawColumn:
    """``raw``: its name at the source. ``clean: number`` takes the first number of a text such as ``$ 1,299.00``.
    ``optional``: the source may lack it, or for pictures some of their files. ``most``: keep so many pictures a
    cell."""

    name: str
    type: ColumnType
    raw: str
    clean: str | None = None
    optional: bool = False
    most: int | None = None


@dataclass(frozen=True)
class Split:
    """How the table ``of`` is divided where the source does not: shares of rows, with the same balance of classes or
    tenths of the numbers, or with all rows that agree in the raw column ``group`` in one split."""

    of: str
    fractions: dict[str, float]
    group: str | None = None


@dataclass(frozen=True)
class Recipe:
    """``form`` names the reader in ``forms.py``, ``settings`` is what it wants to know. ``tables``: where the raw form
    has which table. ``id``: the raw column, or null for row numbers. ``obtain``: how to get the files where no address
    is open to all."""

    name: str
    title: str
    task: TaskKind
    metric: str
    licence: str
    source: str
    form: str
    columns: tuple[RawColumn, ...]
    files: tuple[RawFile, ...] = ()
    tables: dict[str, str] = field(default_factory=dict)
    archives: tuple[str, ...] = ()
    id: str | None = None
    label: str | None = None
    split: Split | None = None
    obtain: str = ""
    settings: dict[str, Any] = field(default_factory=dict)


@functools.lru_cache(maxsize=8)
def recipes(folder: Path = RECIPES) -> dict[str, Recipe]:
    """Every recipe by its name; raises ConfigError for a file at fault, naming it and the entry."""
    by_name: dict[str, Recipe] = {}
    for path in sorted(folder.glob("*.yaml")):
        try:
            raw = yaml.safe_load(path.read_text(encoding="utf-8"))
        except yaml.YAMLError as error:
            raise ConfigError(f"{path.name}: not valid YAML: {one_line(error)}") from error
        for variant in _variants(raw, path.name):
            recipe = read_recipe(variant, path.name)
            if recipe.name in by_name:
                raise ConfigError(f"{path.name}: name {recipe.name}: another recipe has it")
            by_name[recipe.name] = recipe
    return by_name


def _variants(raw: Any, where: str) -> list[Any]:
    """A recipe with ``variants: {size: [small, large]}`` is one for each value, put in place of ``{size}``."""
    if not isinstance(raw, dict) or "variants" not in raw:
        return [raw]
    choices = raw["variants"]
    if not isinstance(choices, dict) or not all(isinstance(values, list) for values in choices.values()):
        raise ConfigError(f"{where}: variants: expected a mapping of name: [values], found {choices!r}")
    rest = {key: value for key, value in raw.items() if key != "variants"}
    return [_filled(rest, dict(zip(choices, values, strict=True))) for values in itertools.product(*choices.values())]


def _filled(value: Any, chosen: Mapping[str, Any]) -> Any:
    if isinstance(value, dict):
        return {_filled(key, chosen): _filled(item, chosen) for key, item in value.items()}
    if isinstance(value, list):
        return [_filled(item, chosen) for item in value]
    if isinstance(value, str):
        for name, choice in chosen.items():
            value = value.replace(f"{{{name}}}", str(choice))
    return value


class _Entries:
    """The entries of a mapping, taken one by one, each of the type that it should have; what is left is unknown."""

    def __init__(self, raw: Any, where: str) -> None:
        self.where = where
        if not isinstance(raw, dict):
            raise self.error("expected a mapping", raw)
        self.rest = dict(raw)

    def take(self, key: str, kind: type, default: Any = ...) -> Any:
        value = self.rest.pop(key, None)
        if value is None:
            if default is ...:
                raise ConfigError(f"{self.where}: {key}: missing")
            return default
        if not isinstance(value, kind) or (kind is not bool and isinstance(value, bool)) or value == "":
            raise ConfigError(f"{self.where}: {key}: expected {kind.__name__}, found {value!r}")
        return value

    def error(self, problem: str, found: Any) -> ConfigError:
        return ConfigError(f"{self.where}: {problem}, found {found!r}")

    def done(self) -> None:
        if self.rest:
            raise ConfigError(f"{self.where}: unknown entries {sorted(map(str, self.rest))}")


def read_recipe(raw: Any, where: str) -> Recipe:
    """Check and convert what a file (``where``) holds."""
    entries = _Entries(raw, where)
    task, metric = entries.take("task", str), entries.take("metric", str)
    if task not in list(TaskKind):
        raise entries.error(f"task: expected {' or '.join(TaskKind)}", task)
    kind = TaskKind(task)
    if metric not in METRICS[kind]:
        raise entries.error(f"metric: expected one of {METRICS[kind]}", metric)
    label = entries.take("label", str, None)
    if (kind is not TaskKind.MATCHING) != (label is not None):
        raise entries.error("label: a k-way or regression task has one, a matching task none", label)
    columns = tuple(
        _column(name, spec, f"{where}: columns: {name}") for name, spec in entries.take("columns", dict).items()
    )
    if label in {name for column in columns for name in (column.name, column.raw)}:
        raise entries.error("label: also among the columns", label)
    tables = entries.take("tables", dict, {})
    allowed = RECORD_TABLES | PAIR_TABLES if kind is TaskKind.MATCHING else ROW_TABLES | {"all"}
    if not set(tables) <= allowed:
        raise entries.error(f"tables: expected some of {sorted(allowed)}", sorted(tables))
    split = entries.take("split", dict, None)
    recipe = Recipe(
        name=entries.take("name", str),
        title=entries.take("title", str),
        task=kind,
        metric=metric,
        licence=entries.take("licence", str),
        source=entries.take("source", str),
        form=entries.take("form", str),
        columns=columns,
        files=tuple(
            _file(name, spec, f"{where}: files: {name}") for name, spec in entries.take("files", dict, {}).items()
        ),
        tables={str(name): str(path) for name, path in tables.items()},
        archives=tuple(entries.take("archives", list, [])),
        id=entries.take("id", str, None),
        label=label,
        split=_split(split, f"{where}: split") if split is not None else None,
        obtain=entries.take("obtain", str, ""),
        settings=entries.take("settings", dict, {}),
    )
    entries.done()
    if not re.fullmatch(r"[a-z0-9_]+", recipe.name):
        raise entries.error("name: expected small letters, digits and _", recipe.name)
    if not recipe.files and not recipe.obtain:
        raise entries.error("files: expected an address, or obtain: how to get the files", None)
    return recipe


def _column(name: str, spec: Any, where: str) -> RawColumn:
    entries = _Entries({"type": spec} if isinstance(spec, str) else spec, where)
    kind = entries.take("type", str)
    if kind not in list(ColumnType):
        raise entries.error(f"type: expected one of {[str(t) for t in ColumnType]}", kind)
    column = RawColumn(
        name,
        ColumnType(kind),
        entries.take("from", str, name),
        entries.take("clean", str, None),
        entries.take("optional", bool, False),
        entries.take("most", int, None),
    )
    entries.done()
    if column.clean not in (None, *CLEANINGS):
        raise entries.error(f"clean: expected one of {CLEANINGS}", column.clean)
    return column


def _file(name: str, spec: Any, where: str) -> RawFile:
    entries = _Entries(spec, where)
    url = entries.take("url", str)
    if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
        raise entries.error("url: expected http:// or https://", url)
    algorithms = [algorithm for algorithm in ALGORITHMS if algorithm in entries.rest]
    if len(algorithms) != 1:
        raise entries.error(
            f"checksum: expected one of {list(ALGORITHMS)} (sha256: null where none is published)", algorithms
        )
    digest = entries.take(algorithms[0], str, None)
    if digest is not None and not re.fullmatch(rf"[0-9a-f]{{{ALGORITHMS[algorithms[0]]}}}", digest):
        raise entries.error(f"{algorithms[0]}: expected {ALGORITHMS[algorithms[0]]} digits 0-9 a-f", digest)
    checksum = Checksum(algorithms[0], digest) if digest is not None else None
    file = RawFile(name, url, checksum, entries.take("size", int, None), entries.take("unpack", bool, False))
    entries.done()
    return file


def _split(raw: Any, where: str) -> Split:
    entries = _Entries(raw, where)
    fractions = entries.take("fractions", dict)
    split = Split(entries.take("of", str), fractions, entries.take("group", str, None))
    entries.done()
    if not set(fractions) <= ROW_TABLES or abs(sum(fractions.values()) - 1) > 1e-6 or min(fractions.values()) <= 0:
        raise entries.error("fractions: expected shares of train, valid and test that add up to 1", fractions)
    return split
