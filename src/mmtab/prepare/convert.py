"""A dataset in another form with the same values: csv or parquet, pictures as files or embedded in parquet cells.

Embedded pictures follow the convention of Hugging Face datasets: a struct of ``bytes`` and ``path``.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc

from mmtab.data import files
from mmtab.data.cells import EXPECTED, ImageSource, canonical, image_sources
from mmtab.data.files import table_stems
from mmtab.data.pictures import find_picture, read_picture
from mmtab.data.raw import PICTURES
from mmtab.data.schema import ColumnType, Schema
from mmtab.data.spelling import is_text, type_named
from mmtab.data.table import BadCells, Table
from mmtab.utils.cache import Store
from mmtab.utils.errors import ConfigError

Images = Literal["keep", "embed", "files"]
PICTURE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
SUFFIXES = {
    b"\x89PNG": ".png",
    b"\xff\xd8\xff": ".jpg",
    b"GIF8": ".gif",
    b"BM": ".bmp",
    b"II*\0": ".tif",
    b"MM\0*": ".tif",
    b"RIFF": ".webp",
}
ORDINARY = PICTURES | {".img"}


def convert(folder: Path, output: Path, to: Literal["parquet", "csv"], images: Images = "keep") -> Path:
    """Write the dataset of ``folder`` to the new folder ``output``, whole or not at all, a batch of rows at a time.

    Every table of the folder is converted; shards become one file. A csv says nothing of types, so dataset.yaml records
    how columns were stored (``storage``), and the way back restores them. From a csv without that record a numeric
    column is stored as numbers, and a datetime one as dates where each is written as ISO 8601, as long as every cell
    can be; all else stays text.

    Raises ConfigError for an output that exists or pictures embedded in csv, DataError for what cannot be read or held.
    """
    if output.exists():
        raise ConfigError(f"output {output} exists. Fix: remove it, or name another folder")
    schema = Schema.read(folder)
    headers = [files.header(files.find(folder, schema.name, stem), schema.name) for stem in table_stems(folder)]
    pictures = [field for header in headers for field in header if field.name in schema.of_type(ColumnType.IMAGE)]
    if to == "csv" and images == "embed":
        raise ConfigError("a csv cannot hold embedded pictures; embed them in parquet")
    if to == "csv" and images == "keep" and not all(_is_text(field.type) for field in pictures):
        images = "files"
    Store.place(output, lambda scratch: Conversion(scratch, schema, f".{to}", images).run(folder))
    return output


def stored_within(kind: pa.DataType) -> pa.DataType:
    """How cells with pictures are stored in a folder that they do not leave."""
    return kind if not pa.types.is_nested(kind) else PICTURE if pa.types.is_struct(kind) else pa.list_(PICTURE)


def _is_text(kind: pa.DataType) -> bool:
    return is_text(kind) or pa.types.is_null(kind)


class Conversion:
    """From the tables of one folder to those of another, pictures included."""

    def __init__(
        self, output: Path, schema: Schema, suffix: str = "", images: Images = "keep", bad_cells: BadCells = "error"
    ) -> None:
        self.output, self.schema, self.suffix = output, schema, suffix
        self.images, self.bad_cells = images, bad_cells
        self.storage = dict(schema.storage)
        self.written: dict[str, bytes] = {}  # digests of the pictures put into files, by path

    def run(self, folder: Path) -> None:
        """Convert every table of a dataset folder."""
        paths = {stem: files.find(folder, self.schema.name, stem) for stem in table_stems(folder)}
        if self.suffix == ".csv":
            self._record(paths)
        for stem, path in paths.items():
            self._table(folder, stem, path)
        raw = self.schema.to_dict() | {"storage": self.storage if self.suffix == ".csv" else {}}
        Schema.from_dict(raw).write(self.output)

    def _record(self, paths: dict[str, Path]) -> None:
        """Note the types that a csv lacks; those of a table that differs from the others under ``table/column``."""
        for stem, path in paths.items():
            if files.parts(path, self.schema.name)[0].suffix == ".csv":
                continue
            for field in files.header(path, self.schema.name):
                kind = str(field.type)
                if pa.types.is_nested(field.type) or kind == "string":
                    kind = "string"
                if self.storage.setdefault(field.name, kind) != kind:
                    self.storage[f"{stem}/{field.name}"] = kind
        self.storage = {name: kind for name, kind in self.storage.items() if kind != "string" or "/" in name}

    def _table(self, folder: Path, stem: str, path: Path) -> None:
        header = files.header(path, self.schema.name)
        from_csv = files.parts(path, self.schema.name)[0].suffix == ".csv"
        changes: dict[str, Callable[[Table, str, pa.Array], pa.Array]] = {}
        fields = {field.name: field.type for field in header}
        if from_csv and self.suffix == ".parquet":
            for name, kind in self._kinds(stem, path, header).items():
                fields[name] = kind
                changes[name] = lambda _table, _name, cells, kind=kind: _typed(cells, kind)  # type: ignore[misc]
        for name in self.schema.of_type(ColumnType.IMAGE):
            if name not in fields:
                continue
            if self.images == "embed":
                many = any(
                    len(image_sources(cell, folder)) > 1
                    for batch in files.scan(path, self.schema.name, columns=[name])
                    for cell in batch[name].to_pylist()
                )
                fields[name] = pa.list_(PICTURE) if many else PICTURE
                changes[name] = partial(self.embedded, many=many)
            elif self.images == "files" and not _is_text(header.field(name).type):
                fields[name] = pa.string()
                changes[name] = self.filed
            else:
                fields[name] = stored_within(fields[name])
                changes[name] = self.within

        def batches() -> Iterator[pa.RecordBatch]:
            row = 0
            for batch in files.scan(path, self.schema.name):
                has_ids = self.schema.id in batch.schema.names
                ids = pc.cast(batch[self.schema.id], pa.large_string()) if has_ids else pa.nulls(batch.num_rows)
                table = Table(self.schema.name, stem, folder, ids, {}, first_row=row)
                row += batch.num_rows
                cells = [changes[name](table, name, batch[name]) if name in changes else batch[name] for name in fields]
                yield pa.record_batch(cells, names=list(fields))

        files.write_table(self.output / f"{stem}{self.suffix}", batches(), pa.schema(list(fields.items())))

    # --- types

    def _kinds(self, stem: str, path: Path, header: pa.Schema) -> dict[str, pa.DataType]:
        """Columns of a csv to be stored as other than text: those whose every cell can be without a change of value."""
        wanted: dict[str, list[pa.DataType]] = {}
        roles = {column.name: column.type for column in self.schema.columns}
        for name in header.names:
            recorded = self.storage.get(f"{stem}/{name}", self.storage.get(name))
            if recorded is not None and recorded != "string":
                wanted[name] = [type_named(recorded, self.schema.name, name)]
            elif recorded is None and roles.get(name) is ColumnType.NUMERIC:
                wanted[name] = [pa.int64(), pa.float64()]
            elif recorded is None and roles.get(name) is ColumnType.DATETIME:
                wanted[name] = [pa.date32(), pa.timestamp("s"), pa.timestamp("us")]
            elif recorded is None and name in self.schema.relations and stem.startswith("pairs"):
                wanted[name] = [pa.int64()]
        if not wanted:
            return {}
        for batch in files.scan(path, self.schema.name, columns=list(wanted)):
            for name in wanted:
                wanted[name] = [kind for kind in wanted[name] if _fits(batch[name], kind)]
        return {name: kinds[0] for name, kinds in wanted.items() if kinds}

    # --- pictures

    def embedded(self, table: Table, name: str, cells: pa.Array, many: bool) -> pa.Array:
        """The cells with their pictures in them, as PICTURE, or as lists of it where a cell may have ``many``."""
        out: list[object] = []
        for row, sources in enumerate(self._sources(table, name, cells)):
            data = [read_picture(table, source, row, name, self.bad_cells) for source in sources]
            pictures = [{"bytes": part, "path": source.path} for part, source in zip(data, sources, strict=True)]
            out.append(None if not pictures else pictures if many else pictures[0])
        return pa.array(out, pa.list_(PICTURE) if many else PICTURE)

    def _sources(self, table: Table, name: str, cells: pa.Array) -> list[list[ImageSource]]:
        """The pictures of each cell; raises DataError for a cell that is none."""
        values, bad = canonical(cells, ColumnType.IMAGE)
        if bad and self.bad_cells == "error":
            expected, found = EXPECTED[ColumnType.IMAGE], cells[bad[0]].as_py()
            raise table.error("the cell is no picture", row=bad[0], column=name, expected=expected, found=found)
        return [image_sources(cell, table.folder) for cell in values.to_pylist()]

    def within(self, table: Table, name: str, cells: pa.Array) -> pa.Array:
        """The cells as ``stored_within`` says, the pictures that they name copied beside them, or into them where they
        are structs."""
        if _is_text(cells.type):
            return self.filed(table, name, cells)
        kind, sources = stored_within(cells.type), self._sources(table, name, cells)
        if not any(sources):
            return pa.nulls(len(cells), kind)
        if cells.type == kind and all(source.data is not None for pictures in sources for source in pictures):
            return cells
        return self.embedded(table, name, cells, many=kind != PICTURE)

    def filed(self, table: Table, name: str, cells: pa.Array) -> pa.Array:
        """The cells as paths of their pictures, which are put into the output folder. A cell of paths stays as it is,
        unless one leads out of the folder or is that of another picture."""
        out: list[str | None] = []
        for row, (cell, sources) in enumerate(zip(cells.to_pylist(), self._sources(table, name, cells), strict=True)):
            paths = [self._file(table, source, row, name) for source in sources]
            same = isinstance(cell, str) and paths == [source.path for source in sources]
            out.append(cell if same else ";".join(paths) or None)
        return pa.array(out, cells.type if _is_text(cells.type) else pa.string())

    def _file(self, table: Table, source: ImageSource, row: int, name: str) -> str:
        """Put a picture into the output folder: where its path says, from the folder of the table, or, should that lead
        elsewhere or be taken, under its digest. Returns its path."""
        data, path = read_picture(table, source, row, name, self.bad_cells), source.path or ""
        if data is None:
            return path
        if source.data is None and not _tame(path):
            file, _ = find_picture(table.folder.resolve(), path)
            assert file is not None
            path = file.relative_to(table.folder.resolve()).as_posix()
        digest, n = hashlib.blake2b(data, digest_size=16).digest(), 0
        while not (_tame(path) and self._is_free(path, digest)):
            suffix = next((s for magic, s in SUFFIXES.items() if data.startswith(magic)), ".img")
            path, n = f"images/{digest.hex()}{f'-{n}' if n else ''}{suffix}", n + 1
        if path not in self.written:
            self.written[path] = digest
            target = self.output / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
        return path

    def _is_free(self, path: str, digest: bytes) -> bool:
        """Whether the picture may lie there, or does."""
        taken = {str(parent) for parent in PurePosixPath(path).parents} & self.written.keys()
        return not taken and not (self.output / path).is_dir() and self.written.get(path, digest) == digest


def _tame(path: str) -> bool:
    """Whether a picture may be written to this path of a new folder: inside it, and under a picture's name."""
    return (
        bool(re.fullmatch(r"[^\x00-\x1f;\\:]{1,200}", path))
        and path == path.strip() == str(PurePosixPath(path))
        and not path.startswith("/")
        and ".." not in PurePosixPath(path).parts
        and all(len(part.encode()) < 200 for part in PurePosixPath(path).parts)
        and PurePosixPath(path).suffix.lower() in ORDINARY
    )


def _typed(cells: pa.Array, kind: pa.DataType) -> pa.Array:
    """Text as values of a type; the empty string, which is no number, is missing."""
    filled = cells if _is_text(kind) else pc.if_else(pc.equal(cells, ""), pa.scalar(None, cells.type), cells)
    return pc.cast(filled, kind)


def _fits(cells: pa.Array, kind: pa.DataType) -> bool:
    try:
        values = _typed(cells, kind)
        if pa.types.is_floating(kind):
            return True
        # Written out again it must be the same text: 007 is no integer, 18.5.2024 no date.
        same = pc.equal(pc.cast(values, pa.string()), cells)
        return bool(pc.all(same, min_count=0).as_py())
    except pa.ArrowException:
        return False
