"""Raw files as their source left them: found by name wherever they lie, read into Arrow tables."""

from __future__ import annotations

import csv
import gzip
import json
import os
import shutil
from collections.abc import Collection, Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet

from mmtab.data import files
from mmtab.prepare.importers.archives import is_archive, unpack
from mmtab.utils.errors import ConfigError, DataError, one_line


class Raw:
    """The folders that hold a dataset's raw files, whatever folders an archive or a user put around them."""

    def __init__(self, dataset: str, scratch: Path) -> None:
        self.dataset, self.scratch = dataset, scratch
        self.folders: list[Path] = []
        self._index: dict[str, list[Path]] = {}

    def add(self, source: Path) -> None:
        """A folder, an archive, which is unpacked first, or one file."""
        if is_archive(source):
            folder = self.scratch / f"{len(self.folders)}-{source.name.partition('.')[0]}"
            unpack(source, folder, self.dataset)
            source = folder
        elif not source.exists():
            raise ConfigError(f"source={source}: no such file or folder. Fix: correct source=")
        self.folders.append(source)
        paths = [source]
        if source.is_dir():
            paths = [Path(at) / name for at, _, names in os.walk(source) if "__MACOSX" not in at for name in names]
        for path in paths:
            self._index.setdefault(path.name, []).append(path)

    def look(self, name: str) -> Path | None:
        """The file whose path ends with ``name``, the outermost first; raises DataError where two are as near."""
        parts = Path(name).parts
        paths = [path for path in self._index.get(parts[-1], []) if path.parts[-len(parts) :] == parts]
        paths.sort(key=lambda path: len(path.parts))
        if len(paths) > 1 and len(paths[0].parts) == len(paths[1].parts):
            raise DataError(
                self.dataset,
                f"{name} is there {len(paths)} times",
                found=", ".join(map(str, paths[:3])),
                fix="give the folder of this dataset alone as source=PATH",
            )
        return paths[0] if paths else None

    def find(self, name: str) -> Path:
        """As ``look``; raises DataError where there is none."""
        path = self.look(name)
        if path is None:
            names = sorted(self._index)
            raise DataError(
                self.dataset,
                f"the raw files lack {name}",
                expected=f"{name}, at any depth",
                found=f"{len(names)} names, such as {names[:8]}",
                fix="give the right folder or archive as source=PATH; if the source has changed, correct the recipe",
            )
        return path

    def match(self, pattern: str) -> list[Path]:
        """Files whose name fits the pattern, by name."""
        return sorted(path for name, paths in self._index.items() if fnmatch(name, pattern) for path in paths)

    def table(self, name: str, columns: list[str] | None = None, optional: Collection[str] = ()) -> pa.Table:
        """A csv, a parquet (.pq), or lines of JSON (.json.gz) as stored, all or only ``columns``.

        Raises DataError for an unreadable file, and for a column that it lacks, unless that is ``optional``.
        """
        path = self.find(name)
        if path.name.endswith(".json.gz"):
            lines = list(self.json_lines(path))
            return rows_of(lines, self._wanted(sorted(set().union(*lines)), name, columns, optional))
        if path.name.endswith(".csv.gz"):
            packed, path = path, self.scratch / path.name.removesuffix(".gz")
            with gzip.open(packed) as source, path.open("wb") as target:
                shutil.copyfileobj(source, target)
        if path.suffix == ".csv":
            with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:  # scan tells of other encodings
                header = next(csv.reader(file), [])
            header = [column for column in header if column.strip()]  # without: the row numbers that pandas writes
            names = self._wanted(header, name, columns, optional)
            batches = list(files.scan(path, self.dataset, columns=names))
            return pa.Table.from_batches(batches, pa.schema([(column, pa.string()) for column in names]))
        try:
            names = self._wanted(pa.parquet.read_schema(path).names, name, columns, optional)
            return pa.parquet.read_table(path, columns=names)
        except (pa.ArrowException, OSError) as error:
            raise DataError(
                self.dataset, f"{path.name} is not a readable parquet file ({one_line(error)})", fix="fetch it again"
            ) from error

    def _wanted(self, header: list[str], name: str, columns: list[str] | None, optional: Collection[str]) -> list[str]:
        for column in columns or []:
            if column not in header and column not in optional:
                raise self.lacks(column, name, header)
        return [column for column in header if columns is None or column in columns]

    def lacks(self, column: str, name: str, found: list[str]) -> DataError:
        """The error of a table without a column that the recipe names."""
        return DataError(
            self.dataset,
            "the raw file lacks this column",
            table=name,
            column=column,
            found=f"columns {found}",
            fix="give the right folder or archive as source=PATH; if the source has changed, correct the recipe",
        )

    def json_lines(self, path: Path) -> Iterator[dict[str, Any]]:
        """The objects of a file with one in each line; raises DataError for any other."""
        try:
            with gzip.open(path, "rt", encoding="utf-8") as file:
                yield from (json.loads(line) for line in file if line.strip())
        except (ValueError, EOFError, OSError, RecursionError) as error:
            raise DataError(
                self.dataset, f"{path.name} is not lines of JSON, gzipped ({error})", fix="fetch it again"
            ) from error


def rows_of(rows: list[dict[str, Any]], columns: list[str]) -> pa.Table:
    """Rows as strings; an absent entry is null."""
    return pa.table(
        {c: pa.array([None if r.get(c) is None else str(r[c]) for r in rows], pa.string()) for c in columns}
    )
