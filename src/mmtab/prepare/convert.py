"""A dataset in another form with the same values: csv or parquet, pictures as files or embedded in parquet cells.

Embedded pictures follow the convention of Hugging Face datasets: a struct of ``bytes`` and ``path``.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc

from mmtab.data import files
from mmtab.data.cells import ImageSource, image_sources
from mmtab.data.files import table_stems
from mmtab.data.pictures import read_picture
from mmtab.data.schema import ColumnType, Schema
from mmtab.data.spelling import type_named
from mmtab.data.table import Table
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
}
ORDINARY = {".png", ".jpg", ".jpeg", ".gif", ".bmp", ".webp", ".tif", ".tiff"}


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
    stems = table_stems(folder)
    embedded = [
        name
        for stem in stems
        for name in _nested(files.header(files.find(folder, schema.name, stem), schema.name), schema)
    ]
    if to == "csv" and images == "embed":
        raise ConfigError("a csv cannot hold embedded pictures; embed them in parquet")
    if to == "csv" and embedded and images == "keep":
        images = "files"
    Store.place(output, lambda scratch: Conversion(folder, scratch, schema, f".{to}", images).run(stems))
    return output


def _nested(header: pa.Schema, schema: Schema) -> list[str]:
    """Image columns whose cells hold bytes."""
    return [
        name
        for name in schema.of_type(ColumnType.IMAGE)
        if name in header.names and not _is_text(header.field(name).type)
    ]


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind)


class Conversion:
    """From the tables of one folder to those of another, pictures included."""

    def __init__(self, folder: Path, output: Path, schema: Schema, suffix: str, images: Images) -> None:
        self.folder, self.output, self.schema, self.suffix, self.images = folder, output, schema, suffix, images
        self.storage = dict(schema.storage)
        self.written: dict[str, bytes] = {}  # digests of the pictures put into files, by path

    def run(self, stems: list[str]) -> None:
        if self.suffix == ".csv":
            self._record(stems)
        for stem in stems:
            self._table(stem, files.find(self.folder, self.schema.name, stem))
        raw = self.schema.to_dict() | {"storage": self.storage if self.suffix == ".csv" else {}}
        Schema.from_dict(raw).write(self.output)

    def _record(self, stems: list[str]) -> None:
        """Note the types that a csv lacks; those of a table that differs from the others under ``table/column``."""
        for stem in stems:
            path = files.find(self.folder, self.schema.name, stem)
            if files.parts(path, self.schema.name)[0].suffix == ".csv":
                continue
            for field in files.header(path, self.schema.name):
                kind = str(field.type)
                if pa.types.is_nested(field.type) or kind == "string":
                    kind = "string"
                if self.storage.setdefault(field.name, kind) != kind:
                    self.storage[f"{stem}/{field.name}"] = kind
        self.storage = {name: kind for name, kind in self.storage.items() if kind != "string" or "/" in name}

    def _table(self, stem: str, path: Path) -> None:
        header = files.header(path, self.schema.name)
        from_csv = files.parts(path, self.schema.name)[0].suffix == ".csv"
        changes: dict[str, Callable[[Table, pa.Array], pa.Array]] = {}
        fields = {field.name: field.type for field in header}
        if from_csv and self.suffix == ".parquet":
            for name, kind in self._kinds(stem, path, header).items():
                fields[name] = kind
                changes[name] = lambda _, cells, kind=kind: _typed(cells, kind)  # type: ignore[misc]
        for name in self.schema.of_type(ColumnType.IMAGE):
            if name not in fields:
                continue
            if self.images == "embed":
                many = any(
                    len(image_sources(cell)) > 1
                    for batch in files.scan(path, self.schema.name, columns=[name])
                    for cell in batch[name].to_pylist()
                )
                fields[name] = pa.list_(PICTURE) if many else PICTURE
                changes[name] = lambda table, cells, name=name, many=many: self._embedded(table, name, cells, many)  # type: ignore[misc]
            elif self.images == "files" and not _is_text(header.field(name).type):
                fields[name] = pa.string()
                changes[name] = lambda table, cells, name=name: self._filed(table, name, cells)  # type: ignore[misc]
            elif _is_text(header.field(name).type):
                changes[name] = lambda table, cells, name=name: self.copied(table, name, cells)  # type: ignore[misc]

        def batches() -> Iterator[pa.RecordBatch]:
            row = 0
            for batch in files.scan(path, self.schema.name):
                ids = (
                    pc.cast(batch[self.schema.id], pa.large_string())
                    if self.schema.id in batch.schema.names
                    else pa.nulls(batch.num_rows)
                )
                table = Table(self.schema.name, stem, self.folder, ids, {}, first_row=row)
                row += batch.num_rows
                cells = [changes[name](table, batch[name]) if name in changes else batch[name] for name in fields]
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

    def _embedded(self, table: Table, name: str, cells: pa.Array, many: bool) -> pa.Array:
        out: list[object] = []
        for row, cell in enumerate(cells.to_pylist()):
            pictures = [
                {"bytes": read_picture(table, source, row, name), "path": source.path} for source in image_sources(cell)
            ]
            out.append(None if not pictures else pictures if many else pictures[0])
        return pa.array(out, pa.list_(PICTURE) if many else PICTURE)

    def _filed(self, table: Table, name: str, cells: pa.Array) -> pa.Array:
        rows = enumerate(cells.to_pylist())
        return pa.array(
            [
                ";".join(self._file(table, source, row, name) for source in image_sources(cell)) or None
                for row, cell in rows
            ],
            pa.string(),
        )

    def copied(self, table: Table, name: str, cells: pa.Array) -> pa.Array:
        """The cells as they are, their pictures copied beside them."""
        self._filed(table, name, cells)
        return cells

    def _file(self, table: Table, source: ImageSource, row: int, name: str) -> str:
        """Put a picture where its path says, or, should that lead elsewhere or be taken, under its digest."""
        data = read_picture(table, source, row, name)
        digest = hashlib.blake2b(data, digest_size=16).digest()
        path = source.path or ""
        if source.data is not None and (not _tame(path) or self.written.get(path, digest) != digest):
            suffix = next((s for magic, s in SUFFIXES.items() if data.startswith(magic)), ".img")
            path = f"images/{digest.hex()}{suffix}"
        if path not in self.written:
            self.written[path] = digest
            target = self.output / path
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.data is None:
                shutil.copyfile(self.folder / path, target)
            else:
                target.write_bytes(data)
        return path


def _tame(path: str) -> bool:
    """Whether a path that came with embedded bytes may be written to: inside the folder, and a picture's name."""
    parts = PurePosixPath(path).parts
    return (
        bool(re.fullmatch(r"[^\x00-\x1f;\\:]{1,200}", path))
        and path == path.strip()
        and not path.startswith("/")
        and ".." not in parts
        and all(len(part.encode()) < 200 for part in parts)
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
