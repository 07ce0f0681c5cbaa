"""Datasets by name, folder or frame: where one is, and what a notebook asks of it."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import yaml

from mmtab import files, prepare
from mmtab.config import CONFIGS, DatasetConfig, GenerateConfig
from mmtab.convert import table_stems
from mmtab.errors import ConfigError, DataError
from mmtab.images import open_picture
from mmtab.schema import ColumnType, Schema
from mmtab.store import Store
from mmtab.table import ImageSource, Table, image_sources, read_batches

if TYPE_CHECKING:
    import pandas as pd
    from PIL import Image


@dataclass(frozen=True)
class Picture:
    """A picture of a cell, not opened yet."""

    table: Table
    source: ImageSource
    row: int
    column: str

    def open(self) -> Image.Image:
        """Decode it to RGB; raises DataError naming row and column for a picture that is missing or damaged."""
        return open_picture(self.table, self.source, self.row, self.column)


@dataclass(frozen=True)
class Rows:
    """One table of a dataset, read when asked.

    Iterating gives a dict a row, of the cells in canonical form (``mmtab.table``; image cells are lists of ``Picture``),
    and holds a bounded number of rows in memory.
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
                        row[name] = [Picture(batch, source, i, name) for source in image_sources(row[name])]
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

    >>> dataset = load_dataset("catalogue")
    >>> dataset.schema.of_type(ColumnType.IMAGE), len(dataset["train"])
    >>> for row in dataset["train"]: ...
    """

    folder: Path
    schema: Schema

    @staticmethod
    def read(folder: Path) -> Dataset:
        return Dataset(folder, Schema.read(folder))

    @property
    def tables(self) -> list[str]:
        """Names of the tables that are there, such as train or pairs_valid."""
        return table_stems(self.folder)

    def __getitem__(self, table: str) -> Rows:
        return Rows(files.find(self.folder, self.schema.name, table), self.folder, self.schema)

    def to_pandas(self) -> dict[str, pd.DataFrame]:
        """Every table as a DataFrame."""
        return {name: self[name].to_pandas() for name in self.tables}

    @staticmethod
    def from_frame(frame: Any, **options: Any) -> Dataset:
        """A k-way dataset of the rows of one frame, divided into train, valid and test; options as ``from_frames``."""
        return Dataset.from_frames({"rows": frame}, **options)

    @staticmethod
    def from_frames(
        frames: Mapping[str, Any],
        *,
        label: str | None = None,
        folder: Path | str | None = None,
        name: str = "frame",
        id: str | None = None,
        types: Mapping[str, str] | None = None,
        image_root: Path | str = ".",
        method: prepare.Method = "auto",
        by: str | None = None,
        fractions: tuple[float, float, float] = (0.7, 0.1, 0.2),
        seed: int = 0,
    ) -> Dataset:
        """Write a new dataset folder from frames of pandas or polars, or Arrow tables.

        ``frames``: ``rows``, or ``train``, ``valid`` and ``test``; for matching ``left`` and ``right`` (or ``records``)
        with ``pairs`` (left_id, right_id, label), or ``pairs_train`` and so on. What is not divided yet is, as
        ``prepare.split`` says. Column types are inferred from the values; ``types`` overrules. Image cells are paths from
        ``image_root``, bytes, or {bytes, path}. ``folder``: a new folder to keep it in; by default a temporary one.
        Raises DataError or ConfigError, as ``prepare.propose`` and ``prepare.split`` do.
        """
        target = Path(folder) if folder is not None else Path(tempfile.mkdtemp(prefix="mmtab-")) / name
        tables = {stem: as_arrow(frame, name, stem) for stem, frame in frames.items()}
        with tempfile.TemporaryDirectory(prefix="mmtab-") as scratch:
            paths = [Path(scratch) / f"{stem}.parquet" for stem in tables]
            for path, table in zip(paths, tables.values(), strict=True):
                files.write_table(path, table)
            prepare.propose(
                paths, target, name=name, id=id, label=label, types=dict(types or {}), image_root=Path(image_root)
            )
        if {"rows", "pairs"} & set(tables):
            prepare.split(target, method=method, by=by, fractions=fractions, seed=seed)
        return Dataset.read(target)


def load_dataset(name: str | Path, data_root: str | Path | None = None) -> Dataset:
    """A dataset by folder, by a name of configs/dataset/ (``catalogue`` is made on the spot), or by that of a folder
    under ``data_root`` (default: MMTAB_DATA, else ``data``). Raises DataError when there is none."""
    path = Path(name).expanduser()
    if (path / "dataset.yaml").is_file():
        return Dataset.read(path)
    root = str(data_root or os.environ.get("MMTAB_DATA", "data"))
    described = CONFIGS / "dataset" / f"{name}.yaml"
    dataset = DatasetConfig(name=str(name), path=str(name))
    if described.is_file() and name != "custom":
        raw = yaml.safe_load(described.read_text(encoding="utf-8"))
        generate = GenerateConfig(**raw["generate"]) if raw.get("generate") else None
        dataset = DatasetConfig(name=raw["name"], path=raw.get("path"), generate=generate)
    try:
        return Dataset.read(dataset_folder(dataset, root, Path(os.environ.get("MMTAB_CACHE", "~/.cache/mmtab")).expanduser()))  # fmt: skip
    except DataError as error:
        if (CONFIGS / "import" / f"{name}.yaml").is_file():
            fix = f"python scripts/prepare_data.py import {name} -o {root}/{name}"
            raise DataError(str(name), "it is not here, but there is a recipe for it", fix=fix) from error
        raise


def as_arrow(frame: Any, dataset: str, stem: str) -> pa.Table:
    """Column by column, to name the one that mixes what Arrow cannot hold together."""
    if isinstance(frame, pa.Table):
        return frame
    if not hasattr(frame, "columns"):
        return pa.table(frame)
    names = [str(name) for name in frame.columns]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(
            dataset, "the frame names a column twice", table=stem, column=twice[0], fix="rename one of them"
        )
    columns = []
    for name, key in zip(names, frame.columns, strict=True):
        values = frame[key]
        try:
            columns.append(values.to_arrow() if hasattr(values, "to_arrow") else pa.array(values, from_pandas=True))
        except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
            raise DataError(
                dataset, f"the column mixes kinds of values ({' '.join(str(error).split())[:160]})", table=stem,
                column=name, fix="make it one kind, for instance with .astype(str)",
            ) from error  # fmt: skip
    return pa.table(columns, names=names)


# --- where it is -----------------------------------------------------------------------------------------------------


def dataset_folder(dataset: DatasetConfig, data_root: str, cache: Path) -> Path:
    """The dataset's folder; a generated one is written to the cache first."""
    if dataset.generate is not None:
        return _generated(dataset, cache)
    if not dataset.path:
        raise ConfigError("dataset.path is not set: dataset=custom wants dataset.path=FOLDER")
    path = Path(dataset.path).expanduser()
    places = [(Path(data_root).expanduser() / path).resolve(), path.resolve()]
    for folder in places:
        if folder.is_dir():
            return folder
    where = " nor ".join(dict.fromkeys(map(str, places)))
    raise DataError(
        dataset.name, f"no folder {where}", fix="correct dataset.path, or set data_root=FOLDER (or MMTAB_DATA)"
    )


def _generated(dataset: DatasetConfig, cache: Path) -> Path:
    from mmtab import catalogue

    wanted = dataset.generate
    assert wanted is not None
    if wanted.task not in catalogue.TASKS:
        raise ConfigError(f"dataset.generate.task={wanted.task}: expected one of {', '.join(catalogue.TASKS)}")
    recipe = hashlib.blake2b(
        Path(catalogue.__file__).read_bytes(), digest_size=4
    ).hexdigest()  # a new generator, new data
    name = f"{wanted.task}-{wanted.n_rows}-{wanted.seed}-{recipe}"

    def write(scratch: Path) -> None:
        catalogue.write_catalogue(scratch, wanted.task, wanted.n_rows, wanted.seed)

    try:
        return Store(cache).named("catalogue", name, write)
    except ValueError as error:
        raise ConfigError(f"dataset.generate: {error}") from error
