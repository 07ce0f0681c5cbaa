"""Tables of a dataset folder, read from parquet or csv into canonical cells and checked against the schema."""

from __future__ import annotations

import functools
import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmtab.data import files
from mmtab.data.cells import EXPECTED, canonical, expected_of, first, hashes, join, moment_type
from mmtab.data.digests import digest_of
from mmtab.data.formats import standard
from mmtab.data.schema import Column, ColumnType, Schema
from mmtab.data.spelling import is_narrow
from mmtab.utils.errors import DataError

BadCells = Literal["error", "missing"]
OnError = Callable[[DataError], None]


def stop(error: DataError) -> None:
    """What reading does with a fault by default."""
    raise error


@dataclass(frozen=True)
class Table:
    """Rows with their features; ``labels`` is None where the file has none. ``first_row``: the place
    of a batch's first row in its table. ``narrow``: the types of numbers that are stored, here or in train, with fewer
    digits than float64."""

    dataset: str
    name: str
    folder: Path
    ids: pa.Array
    columns: dict[str, pa.Array]
    labels: pa.Array | None = None
    n_bad_cells: int = 0
    first_row: int = 0
    narrow: dict[str, pa.DataType] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ids)

    def slice(self, start: int, n: int) -> Table:
        """``n`` rows, fewer at the end; their bad cells count as those of the whole."""
        return replace(self._each(lambda cells: cells.slice(start, n)), first_row=self.first_row + start)

    def take(self, rows: np.ndarray) -> Table:
        """The rows of these numbers, copied; their bad cells count as those of the whole."""
        return self._each(lambda cells: cells.take(pa.array(rows)))

    def _each(self, part: Callable[[pa.Array], pa.Array]) -> Table:
        return replace(
            self,
            ids=part(self.ids),
            columns={name: part(cells) for name, cells in self.columns.items()},
            labels=None if self.labels is None else part(self.labels),
            n_bad_cells=0,
        )

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


# --- which tables there are ------------------------------------------------------------------------------------------


def find_table(folder: Path, schema: Schema, stem: str) -> Path:
    """The table's file or folder of shards; raises DataError when it is absent or exists twice."""
    return files.find(folder, schema.name, stem)


def has_labels(folder: Path, schema: Schema, split: str) -> bool:
    """Whether the folder has this split, with labels."""
    labels = [schema.label or ""] if schema.of_rows else list(schema.relations)
    if not files.exists(folder, schema.table_of(split)):
        return False
    path = find_table(folder, schema, schema.table_of(split))
    return all(has_values(path, schema.name, label, schema.label_type) for label in labels)


def has_values(path: files.Source, dataset: str, column: str, kind: ColumnType) -> bool:
    """Whether the table has the column and some cell of it is not missing; one that does not fit the kind is not."""

    def has(cells: pa.Array) -> bool:
        values, bad = canonical(cells, kind)
        return values.null_count - len(bad) < len(cells)

    named = column in files.header(path, dataset).names
    return named and any(has(raw[column]) for raw in files.scan(path, dataset, columns=[column]))


def training_files(folder: Path, schema: Schema) -> list[Path]:
    """Those of a dataset that training reads, of which ``fingerprint`` tells whether they are still the same."""
    if schema.of_rows:
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


def with_storage(schema: Schema, paths: list[Path]) -> Schema:
    """``Schema.with_storage`` of the headers of tables; of moments that are text, whether they have time zones."""
    headers = {path: files.header(path, schema.name) for path in paths}
    schema = schema.with_storage(*headers.values())
    storage = dict(schema.storage)
    for name in schema.of_type(ColumnType.DATETIME):
        for path in (path for path, header in headers.items() if name not in storage and name in header.names):
            for batch in files.scan(path, schema.name, columns=[name]):
                kind = moment_type(standard(batch[name], ColumnType.DATETIME, schema.formats.get(name)))
                if kind is not None:
                    storage[name] = str(kind)
                    break
    return replace(schema, storage=storage)


# --- reading ---------------------------------------------------------------------------------------------------------


def read_split(folder: Path, schema: Schema, split: str, bad_cells: BadCells = "error") -> Table:
    """One split of a dataset whose question is about rows."""
    return read_table(find_table(folder, schema, split), schema, folder=folder, bad_cells=bad_cells)


def read_table(path: files.Source, schema: Schema, **options: Any) -> Table:
    """A table in memory; options and errors are those of ``read_batches``."""
    batches = list(read_batches(path, schema, **options))
    columns = {name: join([batch.columns[name] for batch in batches]) for name in batches[0].columns}
    labels = None if batches[0].labels is None else join([batch.labels for batch in batches])
    return replace(
        batches[0],
        ids=join([batch.ids for batch in batches]),
        columns=columns,
        labels=None if labels is None or labels.null_count == len(labels) else labels,
        n_bad_cells=sum(batch.n_bad_cells for batch in batches),
        narrow={name: kind for batch in batches for name, kind in batch.narrow.items()},
    )


def read_batches(
    path: files.Source,
    schema: Schema,
    *,
    folder: Path | None = None,
    bad_cells: BadCells = "error",
    partial: bool = False,
    labels: bool = True,
    allow_empty: bool = False,
    on_error: OnError = stop,
) -> Iterator[Table]:
    """Read a file, a folder of shards or a table in memory, a bounded number of rows at a time; at least one batch.

    ``folder`` is where image paths start; ``partial`` allows columns of the schema to be absent, and ``allow_empty``
    all rows. ``labels`` of a batch are there when they are asked for and the file has the column, filled or not.

    Raises DataError for an unreadable or empty file, an absent column, an absent or repeated id (once all is read), and
    a cell that does not fit its column's type; with ``bad_cells="missing"`` such cells become null and are counted
    instead. ``on_error`` may note a fault and return: then a cell at fault is null and a column at fault is left out.
    """
    types = files.header(path, schema.name)
    header = types.names
    empty = Table(schema.name, path.stem, folder or path.parent, pa.array([], pa.large_string()), {})
    described = not isinstance(path, files.InMemory) and (path.parent / "dataset.yaml").is_file()
    _report_absent_columns(empty, schema, header, partial, described, on_error)
    columns = [column for column in schema.columns if column.name in header]
    label = schema.label if labels and schema.of_rows and schema.label in header else None
    names = dict.fromkeys(n for n in (schema.id, *(c.name for c in columns), label) if n is not None and n in header)
    ids, n_rows, faulty = list[np.ndarray](), 0, set[str]()
    no_rows = pa.RecordBatch.from_pylist([], pa.schema([types.field(name) for name in names]))
    for raw in itertools.chain(files.scan(path, schema.name, columns=list(names)), [no_rows] if allow_empty else []):
        if n_rows and not raw.num_rows:
            continue
        table = replace(empty, ids=pa.nulls(raw.num_rows, pa.large_string()), first_row=n_rows)
        n_rows += raw.num_rows
        if schema.id in names:
            table = replace(table, ids=names_in(table, raw, schema.id, on_error, schema.stored(schema.id)))
            if table.ids.null_count:
                row = first(pc.is_null(table.ids))
                on_error(table.error("a row without an id", row=row, column=schema.id, fix="give every row an id"))
            ids.append(hashes(table.ids))
        table = _with_columns(table, raw, columns, schema, bad_cells, faulty, on_error)
        if label is not None:
            table = replace(table, labels=_labels_in(table, raw, label, schema, on_error))
        yield table
    if n_rows == 0 and not allow_empty:
        on_error(empty.error("the table is empty", fix="give it at least one row"))
    elif n_rows and schema.id in names:
        scan, stored = files.scan(path, schema.name, columns=[schema.id]), schema.stored(schema.id)
        again = (names_in(empty, raw, schema.id, stored=stored) for raw in scan)
        _check_unique(ids, again, empty, schema.id, on_error)


def read_column(path: Path, dataset: str, name: str, kind: ColumnType) -> Iterator[tuple[int, pa.Array]]:
    """One column in canonical form, in batches, each with the number of its first row.

    Raises DataError as ``read_batches`` does.
    """
    header = files.header(path, dataset).names
    table = Table(dataset, path.stem, path.parent, pa.nulls(0), {})
    if name not in header:
        fix = "add the column, or correct its name"
        raise table.error("the file lacks this column", column=name, found=f"columns {header}", fix=fix)
    row = 0
    for raw in files.scan(path, dataset, columns=[name]):
        values, bad = canonical(raw[name], kind)
        if bad:
            raise DataError(
                dataset,
                f"the cell is not {kind}",
                table=path.stem,
                row=row + bad[0] + 1,
                column=name,
                expected=EXPECTED[kind],
                found=raw[name][bad[0]].as_py(),
                fix="correct the cell",
            )
        yield row, values
        row += len(values)


def names_in(
    table: Table,
    raw: pa.RecordBatch | pa.Table,
    column: str,
    on_error: OnError = stop,
    stored: pa.DataType | None = None,
) -> pa.Array:
    """The strings of an id or label column; ``stored`` as in ``canonical``."""
    cells = raw[column] if isinstance(raw, pa.RecordBatch) else join(raw[column].chunks, raw[column].type)
    names, bad = canonical(cells, ColumnType.CATEGORICAL, stored)
    if bad:
        expected, cell = expected_of(ColumnType.CATEGORICAL, stored), cells[bad[0]].as_py()
        fix = "make it text, a number or a date"
        problem = "the cell cannot be a name"
        on_error(table.error(problem, row=bad[0], column=column, expected=expected, found=cell, fix=fix))
    return names


def _labels_in(table: Table, raw: pa.RecordBatch, label: str, schema: Schema, on_error: OnError) -> pa.Array:
    """Names of classes, or numbers (float64); null where there is none. A label is never taken as missing because it
    does not fit."""
    if schema.label_type is ColumnType.CATEGORICAL:
        return names_in(table, raw, label, on_error, schema.stored(label))
    numbers, bad = canonical(raw[label], ColumnType.NUMERIC)
    infinite = np.flatnonzero(np.asarray(pc.fill_null(pc.is_inf(numbers), False)))
    if faults := sorted([*bad, *infinite.tolist()]):
        on_error(
            table.error(
                f"{len(faults)} label(s) are no finite number",
                row=faults[0],
                column=label,
                expected="a finite number",
                found=raw[label][faults[0]].as_py(),
                fix="correct the cells, or leave these rows out",
            )
        )
    return pc.if_else(pc.is_inf(numbers), pa.scalar(None, pa.float64()), numbers)


def _report_absent_columns(
    table: Table, schema: Schema, header: list[str], partial: bool, described: bool, on_error: OnError
) -> None:
    """``described``: whether the table lies in a dataset folder."""
    where, or_else = ("dataset.yaml says", ", or correct 'id' in dataset.yaml") if described else ("train has it", "")
    expected = {schema.id: (f"the id column, as {where}", f"add the column{or_else}")}
    if not partial:
        fix = "add the column" + (", or take it out of dataset.yaml" if described else "")
        expected |= {c.name: (f"a {c.type} column, as {where}", fix) for c in schema.columns}
    for name, (kind, fix) in expected.items():
        if name not in header:
            if len(header) <= 2 and any(name in other for other in header):  # perhaps with an id that was added
                fix = "say what divides the columns, such as delimiter='^'"
            near = next((ascii(other) for other in header if files.alike(other) == files.alike(name)), None)
            fix = fix if near is None else f"rename {near}, which only looks like {name!a}"
            found = f"columns {header}"
            on_error(table.error("the file lacks this column", column=name, expected=kind, found=found, fix=fix))


def _with_columns(
    table: Table,
    raw: pa.RecordBatch,
    columns: list[Column],
    schema: Schema,
    bad_cells: BadCells,
    faulty: set[str],
    on_error: OnError,
) -> Table:
    """The batch with its columns in canonical form. ``faulty``: columns of which a cell was reported; one is enough."""
    values: dict[str, pa.Array] = {}
    narrow: dict[str, pa.DataType] = {}
    n_bad = 0
    for column in columns:
        cells, written, stored = raw[column.name], schema.formats.get(column.name), schema.stored(column.name)
        if column.type is ColumnType.NUMERIC:
            kinds = [kind for kind in (cells.type, stored) if kind is not None and is_narrow(kind)]
            if kinds:
                narrow[column.name] = kinds[0]
        if column.type is ColumnType.DATETIME:  # numbers of a dataset folder are the standard's
            cells = standard(cells, column.type, written)
        values[column.name], bad = canonical(cells, column.type, stored)
        n_bad += len(bad)
        if bad and bad_cells == "error" and column.name not in faulty:
            faulty.add(column.name)
            on_error(
                table.error(
                    f"{len(bad)} cell(s) are not {column.type}",
                    row=bad[0],
                    column=column.name,
                    expected=expected_of(column.type, stored) + (f", or as in {written!r}" if written else ""),
                    found=raw[column.name][bad[0]].as_py(),
                    fix="correct the cells, change the type (in dataset.yaml, or types= of fit), or set "
                    "dataset.bad_cells=missing (of a run: bad_cells)",
                )
            )
    return replace(table, columns=values, n_bad_cells=n_bad, narrow=narrow)


def _check_unique(
    ids: list[np.ndarray], again: Iterable[pa.Array], table: Table, column: str, on_error: OnError
) -> None:
    """Whether ids are distinct, by their hashes; those with equal ones are read ``again`` and compared."""
    in_order = np.sort(np.concatenate(ids))
    suspects = np.unique(in_order[1:][in_order[1:] == in_order[:-1]])
    seen: dict[str, int] = {}
    start = 0
    for part in again if len(suspects) else ():
        for row in np.flatnonzero(np.isin(hashes(part), suspects)).tolist():
            value = part[row].as_py()
            if value in seen and value is not None:
                error = replace(table, ids=part, first_row=start).error(
                    "duplicate id",
                    row=row,
                    column=column,
                    expected="ids that name one row each",
                    found=f"{value!r}, also in row {seen[value] + 1}",
                    fix="make the ids unique",
                )
                return on_error(error)
            seen[value] = start + row
        start += len(part)
