"""Datasets by name, folder or frame: where one is, and what a notebook asks of it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, Self

import pyarrow as pa
import pyarrow.compute as pc
import yaml

from mmtab.config.compose import locate, names_in
from mmtab.config.types import CONFIGS, SPLITS, DatasetConfig, GenerateConfig, LocalSettings
from mmtab.data import files
from mmtab.data.cells import ImageSource, image_sources
from mmtab.data.files import table_stems
from mmtab.data.pictures import open_picture
from mmtab.data.schema import METRICS, ColumnType, Schema, TaskKind
from mmtab.data.table import Table, read_batches
from mmtab.utils.addresses import check_here
from mmtab.utils.cache import Store
from mmtab.utils.errors import ConfigError, DataError, did_you_mean

if TYPE_CHECKING:
    import pandas as pd
    from PIL import Image


@dataclass(frozen=True)
class Picture:
    """A picture of a cell, not opened yet."""

    table: Table = field(repr=False)
    source: ImageSource
    row: int
    column: str

    def open(self) -> Image.Image:
        """Decode it to RGB; raises DataError naming row and column for a picture that is missing or damaged."""
        return open_picture(self.table, self.source, self.row, self.column)


@dataclass(frozen=True)
class Rows:
    """One table of a dataset, read when asked.

    Iterating gives a dict a row, of the cells in canonical form (``mmtab.data.cells``), where image cells are lists of
    ``Picture``, and holds a bounded number of rows in memory.
    """

    path: Path
    folder: Path
    schema: Schema

    def __len__(self) -> int:
        return files.count(self.path, self.schema.name)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        if self.path.stem.startswith("pairs"):
            for raw in files.scan(self.path, self.schema.name):
                yield from raw.to_pylist()
            return
        images = self.schema.of_type(ColumnType.IMAGE)
        for batch in read_batches(self.path, self.schema, folder=self.folder, partial=True):
            columns = {self.schema.id: batch.ids} | batch.columns
            if batch.labels is not None and self.schema.label:
                columns[self.schema.label] = batch.labels
            for i, cells in enumerate(zip(*(column.to_pylist() for column in columns.values()), strict=True)):
                row = dict(zip(columns, cells, strict=True))
                for name in images:
                    if name in row:
                        sources = image_sources(row[name], batch.folder)
                        row[name] = [Picture(batch, source, i, name) for source in sources]
                yield row

    def to_arrow(self) -> pa.Table:
        """The cells as stored."""
        return files.read(self.path, self.schema.name)

    def to_pandas(self) -> pd.DataFrame:
        """The cells as stored, but those of a csv as the types of dataset.yaml say; needs pandas."""
        table = self.to_arrow()
        if files.parts(self.path, self.schema.name)[0].suffix == ".csv" and not self.path.stem.startswith("pairs"):
            batches = list(read_batches(self.path, self.schema, folder=self.folder, partial=True))
            for i, name in enumerate(table.column_names):
                if name in self.schema.of_type(ColumnType.NUMERIC):
                    table = table.set_column(i, name, pa.chunked_array([batch.columns[name] for batch in batches]))
        return table.to_pandas()


@dataclass(frozen=True)
class Dataset:
    """A dataset folder.

    >>> dataset = mmtab.load_dataset("catalogue")
    >>> dataset.schema.of_type(ColumnType.IMAGE), len(dataset["train"])
    >>> for row in dataset["train"]: ...
    """

    folder: Path
    schema: Schema

    @classmethod
    def read(cls, folder: Path) -> Self:
        return cls(folder, Schema.read(folder))

    @property
    def tables(self) -> list[str]:
        """Names of the tables that are there, such as train or pairs_valid."""
        return table_stems(self.folder)

    def __getitem__(self, table: str) -> Rows:
        if table not in self.tables:
            hint = did_you_mean(table, self.tables)
            raise DataError(self.schema.name, f"no table {table}; {hint}")
        return Rows(files.find(self.folder, self.schema.name, table), self.folder, self.schema)

    def to_pandas(self) -> dict[str, pd.DataFrame]:
        """Every table as a DataFrame."""
        return {name: self[name].to_pandas() for name in self.tables}


def find_dataset(name: str | Path, data_root: str | Path | None = None) -> Path:
    """The folder of a dataset. ``name``: a name of configs/dataset/ (``catalogue`` is made on the spot), a folder, or
    one under ``data_root`` (default: MMTAB_DATA, else ``data``). Raises DataError when there is none."""
    if not isinstance(name, str | PurePath):
        raise ConfigError(f"dataset {name!r}: expected a name or a folder")
    check_here(name, "dataset")
    local, entry = LocalSettings(), str(name)
    root, place = str(data_root or local.data_root), locate(name, data_root)
    if isinstance(place, Path):
        if place.is_file():
            fix = "mmtab.Dataset.from_frame(path, label=…) makes a dataset of a table"
            raise DataError(entry, "this is a file, not a dataset folder", fix=fix)
        dataset = DatasetConfig(name=entry, path=str(place) if place.exists() else entry)
    else:
        raw = yaml.safe_load((CONFIGS / "dataset" / f"{name}.yaml").read_text(encoding="utf-8"))
        generate = GenerateConfig(**raw["generate"]) if raw.get("generate") else None
        dataset = DatasetConfig(name=raw["name"], path=raw.get("path"), generate=generate)
    try:
        return dataset_folder(dataset, root, Path(local.cache).expanduser())
    except DataError as error:
        if entry in names_in("import"):
            fix = f"mmtab prepare import {name} -o {Path(root) / (dataset.path or entry)}"
            raise DataError(entry, "it is not here, but there is a recipe for it", fix=fix) from error
        if isinstance(place, str) or Path(entry).name != entry:
            raise
        hint = did_you_mean(entry, set(names_in("dataset")) - {"custom"})
        problem = f"neither a dataset folder, nor one in {root} (MMTAB_DATA), nor a name of configs/dataset/; {hint}"
        raise DataError(entry, problem) from error


# --- what training chooses of it -----------------------------------------------------------------------------------


def chosen_schema(settings: DatasetConfig, folder: Path) -> Schema:
    """The schema of a dataset folder with the columns, relations and metric that the settings choose; raises DataError
    or ConfigError for those that it does not have."""
    schema = Schema.read(folder)
    if settings.drop:
        schema = schema.without(list(settings.drop))
    schema = schema.choose(settings.relations, settings.ignore)
    if (metric := settings.metric) is not None:
        if metric not in METRICS[schema.task]:
            expected = " or ".join(METRICS[schema.task])
            raise ConfigError(f"dataset.metric={metric}: expected {expected}, for {schema.name} is {schema.task}")
        schema = replace(schema, metric=metric)
    if schema.of_rows and settings.contradictions != "keep":
        raise ConfigError(f"dataset.contradictions is for matching; {schema.name} is {schema.task}")
    return schema


def summary(folder: Path, schema: Schema) -> Iterator[str]:
    """Lines that say what is in a dataset: its task, columns by type, rows by table, classes; the cheapest first."""
    words = {TaskKind.KWAY: "k-way classification", TaskKind.REGRESSION: "regression", TaskKind.MATCHING: "matching"}
    counts = {kind: len(schema.of_type(kind)) for kind in ColumnType}
    columns = ", ".join(f"{n} {kind}" for kind, n in counts.items() if n)
    yield f"{schema.name}: {words[schema.task]}, columns: {columns}; {folder}"
    stems = [stem for stem in table_stems(folder) if (stem in SPLITS) == schema.of_rows]
    order = {stem: place for place, stem in enumerate(SPLITS)}
    stems.sort(key=lambda stem: order.get(stem.removeprefix("pairs_"), -1))  # records come first
    rows = {stem: files.count(files.find(folder, schema.name, stem), schema.name) for stem in stems}
    text = ", ".join(f"{stem} {n:,}" for stem, n in rows.items())
    if schema.task is TaskKind.KWAY and schema.label is not None:
        labels = files.read(files.find(folder, schema.name, "train"), schema.name, [schema.label])
        text += f"; {pc.count_distinct(labels[schema.label]).as_py():,} classes"
    yield f"rows: {text}"


# --- where it is -----------------------------------------------------------------------------------------------------


def dataset_folder(dataset: DatasetConfig, data_root: str, cache: Path) -> Path:
    """The dataset's folder; a generated one is written to the cache first."""
    if dataset.generate is not None:
        if dataset.path:
            problem = f"dataset.path={dataset.path} is not read, for dataset={dataset.name} is generated"
            raise ConfigError(f"{problem}. Fix: add dataset=custom")
        return _generated(dataset, cache)
    if not dataset.path:
        raise ConfigError("dataset.path is not set: dataset=custom wants dataset.path=FOLDER")
    check_here(dataset.path, "dataset.path")
    path = Path(dataset.path).expanduser()
    places = [(Path(data_root).expanduser() / path).resolve(), path.resolve()]
    for folder in places:
        if folder.is_dir():
            return folder
        if folder.is_file():
            fix = f"mmtab prepare all {folder} -o FOLDER makes a dataset of a table"
            raise DataError(dataset.name, f"{folder} is a file, not a dataset folder", fix=fix)
    where = " nor ".join(dict.fromkeys(map(str, places)))
    fix = "correct dataset.path, or set data_root=FOLDER (or MMTAB_DATA)"
    raise DataError(dataset.name, f"no folder {where}", fix=fix)


def _generated(dataset: DatasetConfig, cache: Path) -> Path:
    from mmtab.data import synthetic

    settings = dataset.generate
    assert settings is not None
    if settings.task not in synthetic.TASKS:
        raise ConfigError(f"dataset.generate.task={settings.task}: expected one of {', '.join(synthetic.TASKS)}")
    # The generator's own source is part of the name: a new generator makes new data.
    source = b"".join(path.read_bytes() for path in sorted(Path(synthetic.__file__).parent.glob("*.py")))
    digest = hashlib.blake2b(source, digest_size=4).hexdigest()
    name = f"{settings.task}-{settings.n_rows}-{settings.seed}-{digest}"

    def write(scratch: Path) -> None:
        synthetic.write_catalogue(scratch, settings.task, settings.n_rows, settings.seed)

    try:
        return Store(cache).named("catalogue", name, write)
    except ValueError as error:
        raise ConfigError(f"dataset.generate: {error}") from error
