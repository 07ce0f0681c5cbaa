"""Tables that callers hold, as a run reads them, and results of the kind that they came in."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from mmtab.data import files, objects, raw, remote
from mmtab.data.cells import join
from mmtab.data.csv_files import Dialect
from mmtab.data.schema import ColumnType
from mmtab.data.spelling import spelling
from mmtab.data.table import Table
from mmtab.prepare.convert import Conversion
from mmtab.runs.predictions import PAIR_IDS
from mmtab.runs.session import Session
from mmtab.utils.addresses import check_here


def in_memory(
    session: Session, frame: Any, stem: str, image_root: str | Path | None, dialect: Dialect, labels: bool = False
) -> files.InMemory:
    """A table that needs no file: pictures are embedded, and columns that the run does not read left out.

    frame       any table that ``fit`` takes
    stem        names it in errors
    image_root  where the paths of pictures start; None: where those of train did, else where the table lies
    labels      keep the label, or those of the relations
    """
    schema, trained_on = session.schema, session.config.dataset
    if image_root is None and trained_on.image_root and Path(trained_on.image_root).is_dir():
        image_root = trained_on.image_root
    wanted = {schema.id, *(column.name for column in schema.columns), *PAIR_IDS}
    wanted |= {schema.label or "", *schema.relations} if labels else set()
    looks = set(map(files.alike, wanted))  # others that look like one of them are told of where that is missed
    if isinstance(frame, str | Path):
        with tempfile.TemporaryDirectory(prefix="mmtab-") as scratch:
            frame = remote.fetched(frame, Path(scratch))
            rows = _read(raw.standard_file(Path(frame), Path(scratch), schema.name, dialect), schema.name, looks)
    else:
        table = objects.as_table(frame, schema.name, stem, lambda name: files.alike(name) in looks)
        rows = _read(files.InMemory(stem, table), schema.name, looks)
    ids = pa.array([str(i + 1) for i in range(len(rows))], pa.large_string())  # as they will be numbered
    if schema.id in rows.column_names:
        ids = spelling(join(rows[schema.id].chunks, rows[schema.id].type))
    named = Table(schema.name, stem, root_of(frame, image_root), ids, {})
    conversion = Conversion(Path(), schema, bad_cells=trained_on.bad_cells)  # type: ignore[arg-type]
    for name in set(schema.of_type(ColumnType.IMAGE)) & set(rows.column_names):
        cells = conversion.embedded(named, name, join(rows[name].chunks, rows[name].type), many=True)
        rows = rows.set_column(rows.column_names.index(name), name, cells)
    return files.InMemory(stem, rows)


def _read(source: files.Source, dataset: str, looks: set[str]) -> pa.Table:
    names = files.header(source, dataset).names
    return files.read(source, dataset, [name for name in names if files.alike(name) in looks])


def root_of(frame: Any, image_root: str | Path | None) -> Path:
    """Where the paths of a table's pictures start, for ``fit`` as for ``Run``."""
    if image_root is not None:
        check_here(image_root, "image_root")
        return Path(image_root).expanduser().absolute()
    return raw.root_of(frame)


def dialect_of(options: dict[str, Any]) -> Dialect:
    """How text files are written; taken out of the options, which else are tables."""
    return Dialect(options.pop("encoding", None) or "", options.pop("delimiter", None) or "")


def values_of(column: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """[n] in their own type; dates, moments with a time zone and values of which some are missing as objects, for numpy
    has none of them."""
    if column.null_count or pa.types.is_date(column.type) or getattr(column.type, "tz", None):
        return np.array([*column.to_pylist(), ...], object)[:-1]
    return column.to_numpy(zero_copy_only=False)


def like(frame: Any, table: pa.Table, titles: pa.Array | None = None) -> Any:
    """The table as the kind of ``frame``: pandas with its index, polars, a dataset of Hugging Face, a record batch,
    else an Arrow table. ``titles``: values that name the columns of pandas. Without them also as a list or dict."""
    kind = type(frame).__module__.partition(".")[0]
    if kind == "pandas":
        result = table.to_pandas().set_index(frame.index)
        return result if titles is None else result.set_axis(values_of(titles), axis=1)
    if kind == "polars":
        import polars

        polars_frame: Any = polars.from_arrow(table)
        return polars_frame.lazy() if hasattr(frame, "collect") else polars_frame
    if kind == "datasets":
        return type(frame).from_dict(table.to_pydict())
    if isinstance(frame, list | Mapping) and titles is None:
        return table.to_pylist() if isinstance(frame, list) else table.to_pydict()
    if isinstance(frame, pa.RecordBatch):
        return pa.record_batch([join(column.chunks, column.type) for column in table.columns], schema=table.schema)
    return table
