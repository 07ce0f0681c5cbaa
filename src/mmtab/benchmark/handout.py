"""The handout of a dataset: what participants and programs get, without the labels of a split."""

from __future__ import annotations

import contextlib
import shutil
from dataclasses import replace
from pathlib import Path

from mmtab.data import files
from mmtab.data.cells import image_sources
from mmtab.data.pictures import find_picture
from mmtab.data.schema import ColumnType, Schema
from mmtab.data.table import find_table, read_column, training_files
from mmtab.utils.errors import DataError


def without_labels(source: Path, target: Path, split: str = "test", copy: bool = False) -> None:
    """Write a dataset folder as a participant gets it: the split has no labels, and there is nothing but the tables of
    the standard and the pictures that they name. Files are hard links, or copies where those cannot be and with
    ``copy``: through a symbolic link a program would find the labels."""
    schema = Schema.read(source)
    path = find_table(source, schema, schema.table_of(split))
    labels = [schema.label] if schema.of_rows else list(schema.relations)
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
                sources = (s for cell in cells.to_pylist() for s in image_sources(cell, source))
                pictures |= {s.path for s in sources if s.path and s.data is None}
    for picture in sorted(pictures):
        file, _ = find_picture(source.resolve(), picture)
        if file is None:
            continue  # an error wherever it is read
        if Path(picture).is_absolute() or ".." in Path(picture).parts:
            problem, fix = "a picture's path would lead out of the handout", f"mmtab prepare convert {source} -o NEW"
            raise DataError(schema.name, problem, expected="a path within the dataset folder", found=picture, fix=fix)
        _link(file, target / picture, copy)
    columns = [name for name in files.header(path, schema.name).names if name not in labels]
    files.write_table(
        target / f"{path.stem}{path.suffix or '.parquet'}", files.read(path, schema.name, columns=columns)
    )


def _link(source: Path, target: Path, copy: bool) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    if not copy:
        with contextlib.suppress(OSError):  # another disk, or somebody else's file
            return target.hardlink_to(source.resolve())
    shutil.copyfile(source, target)
