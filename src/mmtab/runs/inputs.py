"""Reading what a run scores: records, labels, and the ids of rows and pairs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from mmtab.config.types import RunConfig
from mmtab.data import files, raw
from mmtab.data.cells import join
from mmtab.data.csv_files import FOUND_OUT, Dialect
from mmtab.data.dataset import dataset_folder
from mmtab.data.formats import standard_batch
from mmtab.data.pairs import Pairs, Records, read_side, stack_sides
from mmtab.data.schema import ColumnType, Schema
from mmtab.data.spelling import as_given
from mmtab.data.streams import Stream
from mmtab.data.table import Table
from mmtab.utils.cache import Store
from mmtab.utils.errors import ConfigError, DataError, RunError

if TYPE_CHECKING:
    from mmtab.features.preprocess import Fitted


def standard_table(path: files.Source, schema: Schema, scratch: Path, dialect: Dialect = FOUND_OUT) -> files.Source:
    """A raw table as training would have read it, with numbers and dates as the standard writes them, and rows numbered
    where they have no ids. What lies in a dataset folder is in the standard already."""
    if (path.parent / "dataset.yaml").is_file():
        return path
    file = path if isinstance(path, files.InMemory) else raw.standard_file(path, scratch, schema.name, dialect)
    header = files.header(file, schema.name)
    numbered = schema.of_rows and schema.id not in header.names
    if not numbered and not any(name in schema.formats for name in header.names):
        return file

    def batches() -> Iterator[pa.RecordBatch]:
        row = 0
        for batch in files.scan(file, schema.name):
            batch = standard_batch(batch, schema)
            if numbered:
                ids = pa.array([str(row + i) for i in range(1, len(batch) + 1)], pa.string())
                batch = pa.record_batch([ids, *batch.columns], names=[schema.id, *batch.schema.names])
            row += len(batch)
            yield batch

    fields = pa.schema([(schema.id, pa.string()), *header]) if numbered else header
    if isinstance(path, files.InMemory):
        return replace(path, table=pa.Table.from_batches(batches(), fields))
    (target := scratch / "standard" / f"{raw.stem_of(path)}.parquet").parent.mkdir()
    files.write_table(target, batches(), fields)
    return target


def records_to_match(
    schema: Schema,
    bad_cells: Any,
    scratch: Path,
    *,
    left: files.Source | None = None,
    right: files.Source | None = None,
    records: files.Source | None = None,
    image_root: Path | None = None,
    dialect: Dialect = FOUND_OUT,
) -> Records:
    """Tables to match: two, or one. Image paths start at ``image_root``, or at the folder of the table that names
    them."""
    paths = {"left": left, "right": right} if records is None else {"records": records}
    given = {name: path for name, path in paths.items() if path is not None}
    if len(given) < len(paths):
        raise RunError("matching wants left=TABLE and right=TABLE, or records=TABLE")
    roots = {name: picture_root(path, image_root) for name, path in given.items()}
    if len(set(roots.values())) > 1 and schema.of_type(ColumnType.IMAGE):
        fix = "Fix: image_root=FOLDER, or put both into one folder"
        raise RunError(f"left and right lie in different folders, so paths of pictures start at none. {fix}")
    sides = []
    for name, path in given.items():
        if isinstance(path, Path):
            (scratch / name).mkdir()
        table = standard_table(path, schema, scratch / name, dialect)
        sides.append(read_side(table, name, schema, bad_cells, roots[name], allow_empty=True))
    return Records(sides[0], None) if records is not None else stack_sides(sides[0], sides[1], schema)


def picture_root(table: files.Source, image_root: Path | None = None) -> Path:
    """Where the paths of its pictures start; ``image_root``: what the user says."""
    if image_root is not None:
        return image_root.expanduser().resolve()
    return table.parent if isinstance(table, files.InMemory) else raw.root_of(table.expanduser().resolve())


def check_output(output: Path, inputs: Iterable[Path | None]) -> None:
    """Raise RunError where writing would change a table that is read, by whatever path it is named."""
    output = output.expanduser()
    for table in (path.expanduser() for path in inputs if path is not None):
        within = table.resolve() in (output.resolve(), *output.resolve().parents)  # it may be a folder of shards
        if within or (table.exists() and output.exists() and output.samefile(table)):
            raise RunError(f"output={output} would overwrite {table}, which is read. Fix: name another file")


def check_outside(output: Path, run: Path, name: str = "output") -> None:
    """Raise ConfigError where writing would change a run that is read."""
    if output.expanduser().resolve().is_relative_to(run.expanduser().resolve()):
        raise ConfigError(f"{name}={output} lies in the run folder, which is read. Fix: name another folder")


def labels_of(fitted: Fitted, table: Table | Stream, schema: Schema) -> np.ndarray:
    """[n] int64 classes, -1 where the table has no labels; or float64 numbers, NaN where it has none."""
    from mmtab.features.preprocess import numbers_of  # which imports torch

    if schema.label_type is ColumnType.NUMERIC:
        return np.concatenate([numbers_of(batch, schema.label or "") for batch in table.batches()])
    coder = fitted.preprocessor.labels_
    assert coder is not None and schema.label is not None
    return np.concatenate([coder.transform(batch, schema.label) for batch in table.batches()])


def row_ids(table: Stream) -> pa.Table:
    """In the type that the table stores them in, or train did where the table says none."""
    name = table.schema.id
    ids = join([batch.ids for batch in table.batches()])  # first, for it says so where there are none
    given = files.header(table.path, table.schema.name).field(name).type
    return pa.table({name: as_given(ids, given, table.schema.stored(name))})


def pair_ids(pairs: Pairs) -> pa.Table:
    return pa.table({"left_id": pairs.left_ids, "right_id": pairs.right_ids})


def data_folder(config: RunConfig) -> Path:
    """The dataset folder of the settings."""
    return dataset_folder(config.dataset, config.data_root, cache_of(config))


def trained_on(folder: Path, config: RunConfig) -> Path:
    """The dataset folder that a run was trained on; raises RunError where it is no longer there."""
    try:
        return data_folder(config)
    except DataError as error:
        problem = f"{folder} was trained on {config.dataset.path}, which is not here"
        raise RunError(f"{problem}. Fix: name its folder by path=FOLDER, or in Python give rows to score") from error


def cache_of(config: RunConfig) -> Path:
    return Path(config.cache).expanduser()


def store_of(config: RunConfig) -> Store:
    return Store(cache_of(config), None if config.cache_gb is None else int(config.cache_gb * 1e9))
