"""Public benchmarks brought into the dataset standard: fetched by recipe, or taken from files that the user has.

>>> folder = import_dataset("wine_reviews", Path("data/wine_reviews"))
>>> archive = Path("petfinder-adoption-prediction.zip")
>>> folder = import_dataset("petfinder_kaggle", Path("data/petfinder"), source=archive)
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import re
import shutil
import tempfile
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from rich.console import Console

from mmtab.data import splits
from mmtab.data.files import write_table
from mmtab.data.pairs import read_pairs, read_records
from mmtab.data.schema import Column, ColumnType, Schema, TaskKind
from mmtab.data.spelling import is_text
from mmtab.data.table import read_split
from mmtab.prepare.importers.archives import is_archive
from mmtab.prepare.importers.download import DownloadError, download
from mmtab.prepare.importers.forms import FORMS, Tables
from mmtab.prepare.importers.multabench import PREFIX, import_multabench
from mmtab.prepare.importers.raw import Raw
from mmtab.prepare.importers.recipes import ROW_TABLES, RawColumn, Recipe, recipes
from mmtab.utils.cache import Store
from mmtab.utils.errors import ConfigError, DataError

ROW_ID = "\0id"  # no raw column is called so

__all__ = ["DownloadError", "Recipe", "import_dataset", "recipes"]


def import_dataset(
    name: str, output: Path, *, source: Path | None = None, cache: Path | None = None, seed: int = 0
) -> Path:
    """Write the dataset of recipe ``name``, or of ``multabench:NAME/FOLD``, to the new folder ``output``, whole or not
    at all, and read it back to check it.

    ``source``: a folder or an archive that holds the raw files; then nothing is fetched. ``cache``: where fetched files
    are kept. ``seed``: of splits that the source does not have. Raises ConfigError for an unknown name or an output
    that exists, DownloadError for what cannot be had, DataError for raw files that are not as the recipe says.
    """
    if output.exists():
        raise ConfigError(f"output {output} exists. Fix: remove it, or name another folder")
    if name.startswith(PREFIX):
        folder, notes = import_multabench(name, output, source, seed)
        for note in notes:
            _say(f"note: {note}")
        return folder
    by_name = recipes()
    if name not in by_name:
        near = [other for other in sorted(by_name) if name.split("_")[0] in other]
        raise ConfigError(f"no recipe {name!r}: expected one of {', '.join(near or sorted(by_name))}")
    recipe = by_name[name]
    if recipe.form not in FORMS:
        raise ConfigError(f"{name}: form {recipe.form!r}: expected one of {', '.join(FORMS)}")
    if source is None and recipe.obtain:
        raise ConfigError(f"{name} has no address that is open to all. Fix: {recipe.obtain} and give source=PATH")
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".importing-", dir=output.parent) as scratch:
        raw = Raw(name, Path(scratch))
        if source is None:
            origin = _fetch(recipe, raw, cache or _default_cache())
        else:
            origin = f"from local files ({source.name})"
            raw.add(source)
            for file in recipe.files:  # a folder of archives as they were fetched
                path = raw.look(file.name) if file.unpack else None
                if path is not None and path != source and is_archive(path):
                    raw.add(path)
        for archive in recipe.archives:
            if path := raw.look(archive):
                raw.add(path)
        tables = FORMS[recipe.form](recipe, raw, seed)
        Store.place(output, lambda folder: _Standard(recipe, raw, folder, seed, origin).write(tables))
    return output


def _default_cache() -> Path:
    store = Store(Path(os.environ.get("MMTAB_CACHE") or "~/.cache/mmtab").expanduser())
    store.claim()
    return store.root / "downloads"


def _fetch(recipe: Recipe, raw: Raw, cache: Path) -> str:
    """Fetch what the recipe names and add it to ``raw``; where it came from, in words."""
    origins = []
    _say(f"{recipe.name}: licence: {recipe.licence}")
    for file in recipe.files:
        path = cache / hashlib.sha256(file.url.encode()).hexdigest()[:16] / file.name  # recipes may share a file
        try:
            sha256 = download(file.url, path, checksum=file.checksum, size=file.size)
        except DownloadError as error:
            raise DownloadError(f"{recipe.name}: {error}") from error
        if file.checksum is None:
            published = f"no checksum is published for {file.name}"
            _say(f"{recipe.name}: {published}; what came has sha256 {sha256}, which is kept")
        origins.append(f"{file.url} (sha256 {sha256})")
        raw.add(path)
    return f"from {', '.join(origins)}"


def _say(text: str) -> None:
    Console(stderr=True, soft_wrap=True, highlight=False).print(text, markup=False)


class _Standard:
    """Tables with raw columns into a folder of the standard."""

    def __init__(self, recipe: Recipe, raw: Raw, folder: Path, seed: int, origin: str) -> None:
        self.recipe, self.raw, self.folder, self.seed = recipe, raw, folder, seed
        self.source = f"{recipe.source}; imported {origin}"
        self.split: dict[str, Any] = {"method": "as published"}
        self.numbers = recipe.task is TaskKind.REGRESSION
        self.present: dict[str, RawColumn] = {}
        self.n_absent = 0
        self.placed: dict[str, Path] = {}  # the raw picture of each one in the folder

    def write(self, tables: Tables) -> None:
        if self.recipe.label is not None:
            tables = self._labelled(tables)
        for stem, table in tables.items():
            mapped = table if stem.startswith("pairs_") else self._mapped(stem, table)
            write_table(self.folder / f"{stem}.parquet", mapped)
        if self.n_absent:
            _say(f"{self.recipe.name}: {self.n_absent} pictures are named but not there; their cells were left empty")
        self._schema().write(self.folder)
        self._read_back()

    def _schema(self) -> Schema:
        recipe = self.recipe
        if recipe.task is TaskKind.MATCHING and recipe.split is not None:
            self.split = {"method": "grouped by family", "seed": self.seed, "fractions": recipe.split.fractions}
        columns = tuple(Column(c.name, c.type) for c in recipe.columns if c.name in self.present)
        return Schema(
            recipe.name,
            recipe.task,
            columns,
            "id",
            recipe.label,
            recipe.metric,
            recipe.title,
            recipe.licence,
            self.source,
            split=self.split,
        )

    def _read_back(self) -> None:
        """What cannot be read as the standard says must not be left behind."""
        schema = Schema.read(self.folder)
        if schema.of_rows:
            for split in sorted(ROW_TABLES):
                read_split(self.folder, schema, split)
        else:
            records = read_records(self.folder, schema)
            for split in sorted(ROW_TABLES):
                read_pairs(self.folder, schema, split, records)

    # --- labels and splits -------------------------------------------------------------------------------------------

    def _labelled(self, tables: Tables) -> Tables:
        """Every row with a label and an id, the recipe's split made."""
        recipe, label = self.recipe, self.recipe.label
        assert label is not None
        for stem, table in tables.items():
            self._require(label, stem, table)
            if self.numbers:
                place = table.column_names.index(label)
                table = table.set_column(place, label, self._numbers(table[label], label, stem))
            values = table[label]
            labelled = pc.is_valid(values)
            if is_text(values.type):
                labelled = pc.and_(labelled, pc.not_equal(values, ""))
            if n_bare := len(table) - pc.sum(labelled).as_py():
                _say(f"{recipe.name}: {stem}: {n_bare} rows without a label were left out")
            table = table.filter(labelled)
            if recipe.id is None:
                ids = pa.array([f"{stem}-{i}" for i in range(len(table))])
            else:
                self._require(recipe.id, stem, table)
                ids = pc.cast(table[recipe.id], pa.string())
            tables[stem] = table.append_column(ROW_ID, ids)
        return tables if recipe.split is None else self._divided(tables)

    def _divided(self, tables: Tables) -> Tables:
        recipe, split = self.recipe, self.recipe.split
        assert split is not None and recipe.label is not None
        table = tables.pop(split.of)
        labels, groups = table[recipe.label], None
        kinds = splits.strata(labels.to_numpy()) if self.numbers else _codes(labels)
        if split.group:
            self._require(split.group, split.of, table)
            groups = _codes(table[split.group])
        places = splits.assign(len(table), split.fractions, self.seed, labels=kinds, groups=groups)
        method = {"method": "grouped", "group": split.group} if split.group else {"method": "stratified"}
        self.split = {**method, "of": split.of, "seed": self.seed, "fractions": split.fractions}
        return tables | {stem: table.filter(pa.array(places == i)) for i, stem in enumerate(split.fractions)}

    def _numbers(self, cells: pa.ChunkedArray, column: str, stem: str) -> pa.ChunkedArray:
        """Float64; null where a cell is empty or NaN."""
        if is_text(cells.type):
            cells = pc.if_else(pc.equal(cells, ""), None, cells)
        try:
            values = pc.cast(cells, pa.float64())
        except pa.ArrowException as error:
            raise DataError(self.recipe.name, f"not all are numbers ({error})", table=stem, column=column) from error
        return pc.if_else(pc.is_nan(values), None, values)

    def _require(self, column: str, stem: str, table: pa.Table) -> None:
        if column not in table.column_names:
            raise self.raw.lacks(column, stem, [name for name in table.column_names if name != ROW_ID])

    # --- cells -------------------------------------------------------------------------------------------------------

    def _mapped(self, stem: str, table: pa.Table) -> pa.Table:
        recipe = self.recipe
        out = {"id": table[ROW_ID if recipe.label else "id"]}
        for column in recipe.columns:
            if column.raw not in table.column_names and column.optional:
                continue
            self._require(column.raw, stem, table)
            self.present[column.name] = column
            cells = table[column.raw]
            if column.type is ColumnType.IMAGE:
                cells = pa.array([self._pictures(cell, column, stem) for cell in cells.to_pylist()], pa.string())
            elif column.clean == "number":
                cells = pa.array([_first_number(cell) for cell in cells.to_pylist()], pa.float64())
            elif column.type is ColumnType.NUMERIC:
                with contextlib.suppress(pa.ArrowException):  # reading back says which cells are no numbers
                    cells = pc.cast(cells, pa.float64())
            out[column.name] = cells
        return pa.table(out | ({recipe.label: table[recipe.label]} if recipe.label else {}))

    def _pictures(self, cell: str | None, column: RawColumn, stem: str) -> str | None:
        """Copy a cell's pictures into the folder; the cell that names them there."""
        names = [name.strip() for name in (cell or "").split(";") if name.strip()][: column.most]
        kept = []
        for name in names:
            if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
                raise DataError(
                    self.recipe.name, "the picture's path leaves the folder", table=stem, column=column.name, found=name
                )
            path = self.raw.look(name) if column.optional else self.raw.find(name)
            if path is None:
                self.n_absent += 1
                continue
            place = f"images/{name.removeprefix('images/')}"
            if self.placed.setdefault(place, path) != path:  # x.png and images/x.png
                place = f"images/{name}"
            if not (self.folder / place).exists():
                (self.folder / place).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, self.folder / place)
            kept.append(place)
        return ";".join(kept) or None


def _codes(values: pa.ChunkedArray) -> np.ndarray:
    return np.unique(np.asarray(pc.cast(values, pa.string()).fill_null("")).astype(str), return_inverse=True)[1]


def _first_number(cell: object) -> float | None:
    """12.5 of ``12.5``, 1299.0 of ``$ 1,299.00``; None where there is no number."""
    if cell is None or isinstance(cell, float):
        return None if cell is None or math.isnan(cell) else cell
    number = re.search(r"-?(?:\d[\d,]*)?\.?\d+(?:[eE][-+]?\d+)?", str(cell))
    return float(number.group().replace(",", "")) if number else None
