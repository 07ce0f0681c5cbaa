"""Dataset folders from tables in memory."""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from mmtab.data import files
from mmtab.data.dataset import Dataset
from mmtab.data.table import BadCells
from mmtab.prepare.propose import propose
from mmtab.prepare.split import Method, split
from mmtab.utils.errors import ConfigError, DataError


def from_frames(
    frames: Mapping[str, Any],
    *,
    label: str | None = None,
    folder: Path | str | None = None,
    name: str = "frame",
    id: str | None = None,
    types: Mapping[str, str] | None = None,
    image_root: Path | str | Mapping[str, Path] = ".",
    bad_cells: BadCells = "error",
    method: Method = "auto",
    by: str | None = None,
    fractions: tuple[float, float, float] = (0.7, 0.1, 0.2),
    seed: int = 0,
) -> Dataset:
    """Write a new dataset folder from frames of pandas or polars, or Arrow tables.

    ``frames``: ``rows``, or ``train``, ``valid`` and ``test``; for matching ``left`` and ``right`` (or ``records``)
    with ``pairs`` (left_id, right_id, label), or ``pairs_train`` and so on. What is not divided yet is, as
    ``mmtab.prepare.split`` says. Column types are inferred from the values; ``types`` overrules. Image cells are paths
    from ``image_root`` (of all frames, or by frame), bytes, or {bytes, path}; ``bad_cells`` is that of ``propose``.
    ``folder``: a new folder to keep it in, written whole or not at all; by default a temporary one, which goes when the
    process ends. Raises DataError or ConfigError, as ``mmtab.prepare.propose`` and ``mmtab.prepare.split`` do.
    """
    target = Path(folder) if folder is not None else _temporary() / name
    if target.exists():
        raise ConfigError(f"folder {target} exists. Fix: remove it, or name another one")
    ignored = {column for column, role in (types or {}).items() if role == "ignore"}
    tables = {stem: as_arrow(frame, name, stem, lambda column: column not in ignored) for stem, frame in frames.items()}
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".building-", dir=target.parent) as scratch:
        paths = [Path(scratch) / f"{stem}.parquet" for stem in tables]
        for path, table in zip(paths, tables.values(), strict=True):
            files.write_table(path, table)
        made = Path(scratch) / "dataset"
        roots = image_root if isinstance(image_root, Mapping) else Path(image_root)
        options: dict[str, Any] = {"id": id, "label": label, "types": dict(types or {}), "bad_cells": bad_cells}
        propose(paths, made, name=name, image_root=roots, **options)
        if {"rows", "pairs"} & set(tables):
            split(made, method=method, by=by, fractions=fractions, seed=seed)
        made.rename(target)
    return Dataset.read(target)


def _temporary() -> Path:
    folder, owner = Path(tempfile.mkdtemp(prefix="mmtab-")), os.getpid()
    atexit.register(lambda: shutil.rmtree(folder, ignore_errors=True) if os.getpid() == owner else None)
    return folder


def as_arrow(frame: Any, dataset: str, stem: str, wanted: Callable[[str], bool] = lambda name: True) -> pa.Table:
    """Column by column, to name the one that mixes what Arrow cannot hold together. ``frame``: of pandas or polars, an
    Arrow table, arrays by name, an array of numpy with names, or a list of dicts. ``wanted``: whether a column is of
    use; others are not looked at."""
    pairs = [(str(name), values) for name, values in _columns(frame) if wanted(str(name))]
    names = [name for name, _ in pairs]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(
            dataset, "the frame names a column twice", table=stem, column=twice[0], fix="rename one of them"
        )
    columns = []
    for name, values in pairs:
        try:
            columns.append(_arrow(values() if callable(values) else values))
        except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
            raise DataError(
                dataset,
                f"the column mixes kinds of values ({' '.join(str(error).split())[:160]})",
                table=stem,
                column=name,
                fix="make it one kind, for instance with .astype(str)",
            ) from error
    return pa.table(columns, names=names)


def _columns(frame: Any) -> list[tuple[Any, Any]]:
    if isinstance(frame, pa.Table | pa.RecordBatch):
        return list(zip(frame.schema.names, frame.columns, strict=True))
    if isinstance(frame, Mapping):
        return list(frame.items())
    if isinstance(frame, list) and all(isinstance(row, Mapping) for row in frame):
        names = dict.fromkeys(name for row in frame for name in row)
        return [(name, [row.get(name) for row in frame]) for name in names]
    keys = frame.columns if hasattr(frame, "columns") else frame.dtype.names
    return [(name, functools.partial(frame.__getitem__, name)) for name in keys]


def _arrow(values: Any) -> pa.Array | pa.ChunkedArray:
    """Values that only their own library knows, such as intervals and periods of pandas, are text as it writes them."""
    if hasattr(values, "to_arrow"):
        values = values.to_arrow()
    if hasattr(values, "sparse"):
        values = values.sparse.to_dense()
    arrow = isinstance(values, pa.Array | pa.ChunkedArray)
    column = values if arrow else pa.array(values, from_pandas=True)
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if not isinstance(kind, pa.ExtensionType) or isinstance(kind, pa.UuidType):
        return column
    own = pa.chunked_array(column).to_pandas() if arrow else values
    return pa.array([None if absent else str(v) for v, absent in zip(own, own.isna(), strict=True)], pa.string())
