"""Tables of a dataset folder, read from parquet or csv into one canonical form and checked against the schema.

Canonical means: whatever the file format, a text, categorical, id or label cell is a string, a number is a float64,
a moment is a float64 of seconds since 1970 (UTC), and an absent cell is null. An empty string is an absent cell,
because csv cannot tell the two apart. So the same data as csv and as parquet gives the same tensors.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmtab.data import files
from mmtab.data.digests import Digest, digest_of
from mmtab.data.schema import ColumnType, Schema, TaskKind
from mmtab.utils.errors import DataError

BadCells = Literal["error", "missing"]
OnError = Callable[[DataError], None]


def stop(error: DataError) -> None:
    """What reading does with a fault unless told otherwise."""
    raise error


@dataclass(frozen=True)
class Table:
    """Rows with their features; ``labels`` is None where the file has none. ``first_row``: of a batch, in its table."""

    dataset: str
    name: str
    folder: Path
    ids: pa.Array
    columns: dict[str, pa.Array]
    labels: pa.Array | None = None
    n_bad_cells: int = 0
    first_row: int = 0

    def __len__(self) -> int:
        return len(self.ids)

    def batches(self) -> Iterator[Table]:
        """Itself, so that what reads a ``Stream`` reads a table too."""
        yield self

    @functools.cached_property
    def digests(self) -> dict[str, str]:
        """By column, a digest of its cells."""
        return {name: digest_of(values) for name, values in self.columns.items()}

    def error(self, problem: str, *, row: int | None = None, **where: object) -> DataError:
        """A DataError placed in this table; ``row`` is the index from 0."""
        if row is not None:
            where |= {"row": self.first_row + row + 1, "row_id": self.ids[row].as_py()}
        return DataError(self.dataset, problem, table=self.name, **where)  # type: ignore[arg-type]


class Stream:
    """A table on disk, read in batches of bounded size as often as asked, so that it may be larger than memory; one of at
    most ``KEEP`` bytes is read once and kept. Batches and errors are those of ``read_batches``. ``labels`` False leaves
    the labels out."""

    KEEP = 64 << 20

    def __init__(
        self, path: Path, schema: Schema, folder: Path, bad_cells: BadCells = "error", labels: bool = True
    ) -> None:
        self.path, self.schema, self.folder, self.bad_cells, self.labels = path, schema, folder, bad_cells, labels
        self._kept: list[Table] | None = None
        self._facts: _Facts | None = None

    def batches(self) -> Iterator[Table]:
        """From the first row on. ``labels`` is None in all batches where no row of the table has one."""
        if self._kept is not None:
            yield from self._kept
            return
        label = self.schema.label
        labelled = self.labels and label is not None and _filled(self.path, self.schema.name, label)
        facts, kept, n_bytes, digests = _Facts(), list[Table](), 0, dict[str, list[Digest]]()
        for batch in read_batches(self.path, self.schema, folder=self.folder, bad_cells=self.bad_cells):
            batch = batch if labelled else replace(batch, labels=None)
            n_bytes += sum(values.nbytes for values in (batch.ids, *batch.columns.values()))
            kept = [*kept, batch] if n_bytes <= self.KEEP else []
            facts.n_rows += len(batch)
            facts.n_bad_cells += batch.n_bad_cells
            for name, values in batch.columns.items() if self._facts is None else ():
                found = digests.setdefault(name, [Digest()])
                try:
                    found[-1].add(values)
                except TypeError:  # shards may store pictures in different ways
                    found.append(Digest())
                    found[-1].add(values)
            yield batch
        if self._facts is None:
            facts.digests = {name: "+".join(part.hexdigest() for part in parts) for name, parts in digests.items()}
            self._facts = facts
        self._kept = kept if n_bytes <= self.KEEP else None

    def __len__(self) -> int:
        return self._known.n_rows

    @property
    def digests(self) -> dict[str, str]:
        """By column, a digest of its cells: that of the same table in memory."""
        return self._known.digests

    @property
    def n_bad_cells(self) -> int:
        return self._known.n_bad_cells

    @property
    def name(self) -> str:
        return self.path.stem

    @property
    def _known(self) -> _Facts:
        """What the first whole reading told."""
        if self._facts is None:
            for _ in self.batches():
                pass
        assert self._facts is not None
        return self._facts


@dataclass
class _Facts:
    n_rows: int = 0
    n_bad_cells: int = 0
    digests: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Pairs:
    """Pairs as row numbers into ``Records.table``. ``relations``: for each label column that the file fills, 1 where the
    relation holds and 0 where not."""

    name: str
    left: np.ndarray  # [n] int64
    right: np.ndarray  # [n] int64
    left_ids: pa.Array
    right_ids: pa.Array
    relations: dict[str, pa.Array]  # int8

    def __len__(self) -> int:
        return len(self.left)

    @property
    def labels(self) -> pa.Array | None:
        """Those of the first relation that has any."""
        return next(iter(self.relations.values()), None)


@dataclass(frozen=True)
class Records:
    """The rows that pairs speak of: ``left`` and ``right`` stacked, or the one ``records`` table."""

    table: Table
    n_left: int | None  # None: one table, either side

    def row_of(self, ids: pa.Array, side: str) -> pa.Array:
        """Row numbers of ids on one side ("left" or "right"), null where the id is unknown."""
        start, stop = 0, len(self.table)
        if self.n_left is not None:
            start, stop = (0, self.n_left) if side == "left" else (self.n_left, stop)
        found = pc.index_in(ids, value_set=self.table.ids.slice(start, stop - start))
        return pc.add(pc.cast(found, pa.int64()), start)


def read_split(folder: Path, schema: Schema, split: str, bad_cells: BadCells = "error") -> Table:
    """One split of a k-way dataset."""
    return read_table(find_table(folder, schema, split), schema, folder=folder, bad_cells=bad_cells)


def read_records(folder: Path, schema: Schema, bad_cells: BadCells = "error") -> Records:
    """The record table(s) of a matching dataset."""
    if files.exists(folder, "records"):
        return Records(read_split(folder, schema, "records", bad_cells), None)
    sides = [_read_side(folder, schema, side, bad_cells) for side in ("left", "right")]
    unseen = [c.name for c in schema.columns if not any(c.name in side.columns for side in sides)]
    if unseen:
        raise DataError(schema.name, "column of dataset.yaml is in neither left nor right", column=unseen[0])
    return stack_sides(sides[0], sides[1], schema)


def stack_sides(left: Table, right: Table, schema: Schema) -> Records:
    """Left rows over right rows. A column that one side lacks is missing in all rows of that side."""
    columns: dict[str, pa.Array] = {}
    for column in schema.columns:
        parts = [side.columns.get(column.name) for side in (left, right)]
        kind = next((part.type for part in parts if part is not None), pa.null())
        sides = zip(parts, (left, right), strict=True)
        columns[column.name] = join([pa.nulls(len(side), kind) if part is None else part for part, side in sides])
    ids = join([left.ids, right.ids])
    table = Table(
        schema.name, "left+right", left.folder, ids, columns, n_bad_cells=left.n_bad_cells + right.n_bad_cells
    )
    return Records(table, len(left))


def read_pairs(folder: Path, schema: Schema, split: str, records: Records) -> Pairs:
    """``pairs_<split>`` with both ids found in the records."""
    return read_pairs_file(find_table(folder, schema, f"pairs_{split}"), schema, records)


def read_pairs_file(path: Path, schema: Schema, records: Records) -> Pairs:
    """Read left_id, right_id and, where present, the labels of the relations; raises DataError naming an unknown id or label."""
    raw = files.read(path, schema.name)
    table = Table(schema.name, path.stem, path.parent, pa.nulls(raw.num_rows, pa.string()), {})
    if raw.num_rows == 0:
        raise table.error("the table is empty", fix="give it at least one pair")
    rows, ids = {}, {}
    for side in ("left", "right"):
        key = f"{side}_id"
        if key not in raw.column_names:
            raise table.error("the file lacks this column", column=key, found=f"columns {raw.column_names}")
        ids[side] = _names(table, raw, key)
        rows[side] = records.row_of(ids[side], side)
        if rows[side].null_count:
            row = first(pc.is_null(rows[side]))
            raise table.error(
                "a pair names an unknown id",
                row=row,
                column=key,
                expected=f"an id of {'records' if records.n_left is None else side}",
                found=ids[side][row].as_py(),
                fix="correct the id, or add the record",
            )
    relations = {}
    for name in schema.relations:
        if name not in raw.column_names or raw[name].null_count == raw.num_rows:
            continue
        relations[name] = pair_labels(table, name, _names(table, raw, name))
    return Pairs(path.stem, np.asarray(rows["left"]), np.asarray(rows["right"]), ids["left"], ids["right"], relations)


def pair_labels(table: Table, column: str, names: pa.Array) -> pa.Array:
    """[n] int8 of a relation's column as strings; raises DataError for one that is no label, or missing."""
    found = bits(names)
    if found.null_count:
        row = first(pc.is_null(found))
        raise table.error(
            "not a pair label", row=row, column=column, expected="0 or 1", found=names[row].as_py(),
            fix="correct the label; a test table may leave the whole column empty",
        )  # fmt: skip
    return found


def bits(names: pa.Array) -> pa.Array:
    """[n] int8: 0 and 1 as csv and parquet may say them; null where it is something else."""
    known = pa.array(["0", "1", "false", "true", "0.0", "1.0"], pa.large_string())
    place = pc.index_in(pc.utf8_lower(pc.cast(names, pa.large_string())), value_set=known)
    return pc.cast(pc.bit_wise_and(place, 1), pa.int8())


def has_labels(folder: Path, schema: Schema, split: str) -> bool:
    """Whether a split is there and says the answers."""
    kway = schema.task is TaskKind.KWAY
    stem, labels = (split, [schema.label or ""]) if kway else (f"pairs_{split}", list(schema.relations))
    if not files.exists(folder, stem):
        return False
    path = find_table(folder, schema, stem)
    return all(_filled(path, schema.name, label) for label in labels)


def _filled(path: Path, dataset: str, column: str) -> bool:
    """Whether the table has the column and some cell of it is not missing."""
    return column in files.header(path, dataset).names and any(
        canonical(raw[column], ColumnType.CATEGORICAL)[0].null_count < raw.num_rows
        for raw in files.scan(path, dataset, columns=[column])
    )


def find_table(folder: Path, schema: Schema, stem: str) -> Path:
    """The table's file or folder of shards; raises DataError when it is absent or exists twice."""
    return files.find(folder, schema.name, stem)


def read_table(
    path: Path, schema: Schema, *, folder: Path | None = None, bad_cells: BadCells = "error", partial: bool = False
) -> Table:
    """A whole table, as ``read_batches`` reads it."""
    batches = list(read_batches(path, schema, folder=folder, bad_cells=bad_cells, partial=partial))
    columns = {name: join([batch.columns[name] for batch in batches]) for name in batches[0].columns}
    labels = None if batches[0].labels is None else join([batch.labels for batch in batches])
    return replace(
        batches[0],
        ids=join([batch.ids for batch in batches]),
        columns=columns,
        labels=None if labels is None or labels.null_count == len(labels) else labels,
        n_bad_cells=sum(batch.n_bad_cells for batch in batches),
    )


def read_batches(
    path: Path,
    schema: Schema,
    *,
    folder: Path | None = None,
    bad_cells: BadCells = "error",
    partial: bool = False,
    on_error: OnError = stop,
) -> Iterator[Table]:
    """Read a file, or a folder of shards, a bounded number of rows at a time; at least one row in all.

    ``folder`` is where image paths start; ``partial`` allows columns of the schema to be absent. ``labels`` of a batch
    are there when the file has the column, filled or not.

    Raises DataError for an unreadable or empty file, an absent column, an absent or repeated id (once all is read), and
    a cell that does not fit its column's type; with ``bad_cells="missing"`` such cells become null and are counted
    instead. ``on_error`` may note a fault and return: then a cell at fault is null and a column at fault is left out.
    """
    found = files.header(path, schema.name).names
    empty = Table(schema.name, path.stem, folder or path.parent, pa.array([], pa.large_string()), {})
    for name, kind, fix in [
        (schema.id, "the id column named in dataset.yaml", "add the column, or correct 'id' in dataset.yaml"),
        *((c.name, f"a {c.type} column, as dataset.yaml says", "add the column, or take it out of dataset.yaml") for c in schema.columns),
    ]:  # fmt: skip
        if name not in found and not (partial and name != schema.id):
            on_error(
                empty.error("the file lacks this column", column=name, expected=kind, found=f"columns {found}", fix=fix)
            )
    columns = [column for column in schema.columns if column.name in found]
    label = schema.label if schema.task is TaskKind.KWAY and schema.label in found else None
    wanted = dict.fromkeys([n for n in (schema.id, *(c.name for c in columns), label) if n is not None and n in found])
    unique, n_rows, faulty = UniqueIds(), 0, set[str]()
    for raw in files.scan(path, schema.name, columns=list(wanted)):
        table = replace(empty, ids=pa.nulls(raw.num_rows, pa.large_string()), first_row=n_rows)
        n_rows += raw.num_rows
        if schema.id in wanted:
            table = replace(table, ids=_names(table, raw, schema.id, on_error))
            if table.ids.null_count:
                on_error(
                    table.error(
                        "a row without an id", row=first(pc.is_null(table.ids)), column=schema.id,
                        fix="give every row an id",
                    )
                )  # fmt: skip
            unique.add(table.ids)
        values: dict[str, pa.Array] = {}
        n_bad = 0
        for column in columns:
            values[column.name], bad = canonical(raw[column.name], column.type)
            n_bad += len(bad)
            if bad and bad_cells == "error" and column.name not in faulty:
                faulty.add(column.name)
                on_error(
                    table.error(
                        f"{len(bad)} cell(s) are not {column.type}", row=bad[0], column=column.name,
                        expected=_EXPECTED[column.type], found=raw[column.name][bad[0]].as_py(),
                        fix="correct the cells, change the type in dataset.yaml, or set dataset.bad_cells=missing",
                    )
                )  # fmt: skip
        labels = None if label is None else _names(table, raw, label, on_error)
        yield replace(table, columns=values, labels=labels, n_bad_cells=n_bad)
    if n_rows == 0:
        on_error(empty.error("the table is empty", fix="give it at least one row"))
    elif schema.id in wanted:
        unique.check(empty, schema.id, lambda: (_names(empty, raw, schema.id) for raw in files.scan(path, schema.name, columns=[schema.id])), on_error)  # fmt: skip


def read_column(path: Path, dataset: str, name: str, kind: ColumnType) -> Iterator[tuple[int, pa.Array]]:
    """One column in canonical form, in batches, each with the number of its first row. Raises DataError as ``read_batches``."""
    found = files.header(path, dataset).names
    if name not in found:
        raise DataError(
            dataset, "the file lacks this column", table=path.stem, column=name, found=f"columns {found}",
            fix="add the column, or correct its name",
        )  # fmt: skip
    row = 0
    for raw in files.scan(path, dataset, columns=[name]):
        values, bad = canonical(raw[name], kind)
        if bad:
            raise DataError(
                dataset, f"the cell is not {kind}", table=path.stem, row=row + bad[0] + 1, column=name,
                expected=_EXPECTED[kind], found=raw[name][bad[0]].as_py(), fix="correct the cell",
            )  # fmt: skip
        yield row, values
        row += len(values)


class UniqueIds:
    """Whether names in a stream are distinct, at eight bytes a name: equal hashes are looked at again."""

    def __init__(self) -> None:
        self._hashes: list[np.ndarray] = []

    def add(self, ids: pa.Array) -> None:
        self._hashes.append(hashes(ids))

    def check(self, table: Table, column: str, again: Callable[[], Iterable[pa.Array]], on_error: OnError) -> None:
        """``again`` reads the names once more, should two hashes be equal."""
        sorted_ = np.sort(np.concatenate(self._hashes))
        suspects = np.unique(sorted_[1:][sorted_[1:] == sorted_[:-1]])
        if len(suspects) == 0:
            return
        seen: dict[str, int] = {}
        start = 0
        for ids in again():
            for row in np.flatnonzero(np.isin(hashes(ids), suspects)).tolist():
                value = ids[row].as_py()
                if value in seen and value is not None:
                    place = replace(table, ids=ids, first_row=start)
                    return on_error(
                        place.error(
                            "duplicate id", row=row, column=column, expected="ids that name one row each",
                            found=f"{value!r}, also in row {seen[value] + 1}", fix="make the ids unique",
                        )
                    )  # fmt: skip
                seen[value] = start + row
            start += len(ids)


def hashes(values: pa.Array) -> np.ndarray:
    """[n] int64 of Python's own hash: the same value, the same hash, within this process."""
    return np.fromiter(map(hash, values.to_pylist()), np.int64, len(values))


def training_files(folder: Path, schema: Schema) -> list[Path]:
    """Those of a dataset that training reads, of which ``fingerprint`` tells whether they are still the same."""
    if schema.task is TaskKind.KWAY:
        stems = ["train", "valid"]
    else:
        sides = ["records"] if files.exists(folder, "records") else ["left", "right"]
        stems = [*sides, "pairs_train", "pairs_valid"]
    return [folder / "dataset.yaml", *(find_table(folder, schema, stem) for stem in stems)]


def fingerprint(paths: list[Path]) -> str:
    """A digest of the files' names and bytes; a folder counts as the files in it."""
    digest = hashlib.blake2b(digest_size=16)
    single = [part for path in paths for part in ([path] if path.is_file() else files.parts(path, path.name))]
    for path in sorted(single):
        digest.update(path.name.encode())
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def _read_side(folder: Path, schema: Schema, side: str, bad_cells: BadCells) -> Table:
    return read_table(find_table(folder, schema, side), schema, folder=folder, bad_cells=bad_cells, partial=True)


def _names(table: Table, raw: pa.RecordBatch | pa.Table, column: str, on_error: OnError = stop) -> pa.Array:
    """The strings of an id or label column."""
    cells = raw[column] if isinstance(raw, pa.RecordBatch) else join(raw[column].chunks, raw[column].type)
    names, bad = canonical(cells, ColumnType.CATEGORICAL)
    if bad:
        on_error(
            table.error(
                "the cell cannot be a name", row=bad[0], column=column,
                expected=_EXPECTED[ColumnType.CATEGORICAL], found=cells[bad[0]].as_py(),
            )
        )  # fmt: skip
    return names


# --- cells -----------------------------------------------------------------------------------------------------------

_EXPECTED = {
    ColumnType.TEXT: "text",
    ColumnType.CATEGORICAL: "text, a number or true/false",
    ColumnType.NUMERIC: "a number",
    ColumnType.DATETIME: "a date or time, such as 2024-05-18 or 2024-05-18T10:00:00Z",
    ColumnType.IMAGE: "a path, bytes, or a struct of bytes and path",
}


def canonical(values: pa.Array, kind: ColumnType) -> tuple[pa.Array, list[int]]:
    """The column in canonical form, and the row numbers of cells that do not fit (null in the result)."""
    if kind is ColumnType.NUMERIC:
        return _numbers(values)
    if kind is ColumnType.DATETIME:
        return _moments(values)
    if kind is ColumnType.IMAGE:
        return _images(values)
    if pa.types.is_nested(values.type) or _is_bytes(values.type):
        return pa.nulls(len(values), pa.large_string()), _rows(pc.is_valid(values))
    return _strings(values), []


def _strings(values: pa.Array) -> pa.Array:
    if pa.types.is_floating(values.type):
        values = pc.if_else(pc.is_nan(values), pa.scalar(None, values.type), values)
    # Arrow's cast writes numbers as its csv writer does (4.0 as "4"), so both formats agree.
    text = pc.cast(values, pa.large_string())
    return pc.if_else(pc.equal(text, ""), pa.scalar(None, text.type), text)


def _numbers(values: pa.Array) -> tuple[pa.Array, list[int]]:
    if pa.types.is_floating(values.type) and values.type != pa.float64():
        values = pc.cast(values, pa.string())  # 0.1 stored as float32 means 0.1, as in csv
    if pa.types.is_boolean(values.type):
        values = pc.cast(values, pa.int8())
    if _is_text(values.type):
        return _parse(values, _parse_number, lambda text: pc.cast(text, pa.float64()))
    try:
        return _nan_to_null(pc.cast(values, pa.float64(), safe=False)), []
    except pa.ArrowException:
        return pa.nulls(len(values), pa.float64()), _rows(pc.is_valid(values))


def _moments(values: pa.Array) -> tuple[pa.Array, list[int]]:
    if pa.types.is_date(values.type):
        values = pc.cast(values, pa.timestamp("ms"))
    if pa.types.is_timestamp(values.type):
        if values.type.unit == "ns":  # a moment in a csv ends at microseconds
            values = pc.cast(values, pa.timestamp("us", values.type.tz), safe=False)
        ticks = pc.cast(pc.cast(values, pa.int64()), pa.float64(), safe=False)
        return pc.divide(ticks, {"s": 1.0, "ms": 1e3, "us": 1e6}[values.type.unit]), []
    if _is_text(values.type):
        return _parse(values, _parse_moment, None)
    return pa.nulls(len(values), pa.float64()), _rows(pc.is_valid(values))


def _images(values: pa.Array) -> tuple[pa.Array, list[int]]:
    kind = values.type
    item = kind.value_type if pa.types.is_list(kind) or pa.types.is_large_list(kind) else kind
    if _is_text(item) and item is kind:
        return _strings(values), []
    if pa.types.is_struct(item):
        parts = {field.name: field.type for field in item}
        fits = bool({"bytes", "path"} & set(parts))
        fits &= _is_bytes(parts.get("bytes", pa.binary())) or pa.types.is_null(parts["bytes"])
        fits &= _is_text(parts.get("path", pa.string())) or pa.types.is_null(parts["path"])
    else:
        fits = _is_bytes(item) or _is_text(item) or pa.types.is_null(item)
    if fits:
        return values, []
    return pa.nulls(len(values), pa.string()), _rows(pc.is_valid(values))


def _as_image_structs(values: pa.Array) -> pa.Array:
    """Any image column as lists of {bytes, path}, so that two sides stored differently can be stacked."""
    kind = pa.list_(pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    return pa.array(
        [
            None if cell is None else [{"bytes": s.data, "path": s.path} for s in image_sources(cell)]
            for cell in values.to_pylist()
        ],
        kind,
    )


@dataclass(frozen=True)
class ImageSource:
    """One picture: embedded bytes, or a path relative to the dataset folder."""

    data: bytes | None
    path: str | None


def image_sources(cell: object) -> list[ImageSource]:
    """The pictures of one cell, in order; empty for a missing cell."""
    if cell is None:
        return []
    if isinstance(cell, str):
        return [ImageSource(None, part.strip()) for part in cell.split(";") if part.strip()]
    if isinstance(cell, bytes):
        return [ImageSource(cell, None)] if cell else []
    if isinstance(cell, dict):
        if cell.get("bytes"):
            return [ImageSource(cell["bytes"], cell.get("path"))]
        return image_sources(cell.get("path"))
    assert isinstance(cell, list), type(cell)
    return [source for item in cell for source in image_sources(item)]


def _parse(
    values: pa.Array, parse_one: Callable[[str], float | None], fast: Callable[[pa.Array], pa.Array] | None
) -> tuple[pa.Array, list[int]]:
    text = pc.utf8_trim_whitespace(_strings(values))
    text = pc.if_else(pc.equal(text, ""), pa.scalar(None, text.type), text)
    if fast is not None:
        try:
            return _nan_to_null(fast(text)), []
        except pa.ArrowException:
            pass  # some cell does not fit: find out which
    distinct = text.dictionary_encode()
    parsed = [parse_one(value) for value in distinct.dictionary.to_pylist()]
    numbers = pa.array(parsed, pa.float64()).take(distinct.indices)
    return _nan_to_null(numbers), _rows(pc.and_(pc.is_valid(text), pc.is_null(numbers)))


def _parse_number(text: str) -> float | None:
    if text.lower() in ("true", "false"):  # as in a boolean parquet column
        return float(text.lower() == "true")
    try:
        return pc.cast(pa.scalar(text), pa.float64()).as_py()
    except pa.ArrowException:
        return None


def _parse_moment(text: str) -> float | None:
    from dateutil import parser

    try:
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            # A fixed default, else dateutil fills absent parts from the clock and a run depends on its day.
            moment = parser.parse(text, default=datetime(2000, 1, 1))
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None


def _nan_to_null(values: pa.Array) -> pa.Array:
    return pc.if_else(pc.is_nan(values), pa.scalar(None, pa.float64()), values)


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _is_bytes(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _rows(mask: pa.Array) -> list[int]:
    return np.flatnonzero(np.asarray(mask)).tolist()


def first(mask: pa.Array) -> int:
    return _rows(mask)[0]


def join(parts: list[pa.Array], kind: pa.DataType | None = None) -> pa.Array:
    """Arrays end to end as one, where they need be of one kind but for pictures stored in different ways."""
    if len({part.type for part in parts}) > 1:
        parts = [_as_image_structs(part) for part in parts]
    if len(parts) == 1:
        return parts[0]
    return pa.concat_arrays(parts) if parts else pa.array([], kind)
