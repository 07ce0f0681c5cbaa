"""Reading what a run scores: records, labels, and the ids of rows and pairs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from mmtab.config.types import RunConfig
from mmtab.data import files
from mmtab.data import table as tables
from mmtab.data.cells import join
from mmtab.data.dataset import dataset_folder
from mmtab.data.pairs import Pairs, Records, stack_sides
from mmtab.data.schema import Schema
from mmtab.data.spelling import as_given
from mmtab.data.streams import Stream
from mmtab.data.table import Table
from mmtab.features.preprocess import Fitted
from mmtab.utils.cache import Store
from mmtab.utils.errors import RunError


def records_to_match(
    schema: Schema,
    bad_cells: Any,
    *,
    left: Path | None = None,
    right: Path | None = None,
    records: Path | None = None,
) -> Records:
    """Tables to match: two, or one. Image paths start at the folder of the table that names them."""
    if records is not None:
        return Records(tables.read_table(records, schema, bad_cells=bad_cells), None)
    if left is None or right is None:
        raise RunError("matching wants left=TABLE and right=TABLE, or records=TABLE")
    if left.resolve().parent != right.resolve().parent:
        raise RunError("left and right must lie in one folder, where the paths of their pictures start")
    sides = [tables.read_table(side, schema, bad_cells=bad_cells, partial=True) for side in (left, right)]
    return stack_sides(sides[0], sides[1], schema)


def labels_of(fitted: Fitted, table: Table | Stream, schema: Schema) -> np.ndarray:
    """[n] int64, -1 where the table has no labels."""
    coder = fitted.preprocessor.labels_
    assert coder is not None and schema.label is not None
    return np.concatenate([coder.transform(batch, schema.label) for batch in table.batches()])


def row_ids(table: Stream) -> pa.Table:
    """In the type that the table stores them in, or train did where the table says none."""
    name = table.schema.id
    given = files.header(table.path, table.schema.name).field(name).type
    ids = join([batch.ids for batch in table.batches()])
    return pa.table({name: as_given(ids, given, table.schema.stored(name))})


def pair_ids(pairs: Pairs) -> pa.Table:
    return pa.table({"left_id": pairs.left_ids, "right_id": pairs.right_ids})


def data_folder(config: RunConfig) -> Path:
    """The dataset folder of the settings."""
    return dataset_folder(config.dataset, config.data_root, cache_of(config))


def cache_of(config: RunConfig) -> Path:
    return Path(config.cache).expanduser()


def store_of(config: RunConfig) -> Store:
    return Store(cache_of(config), None if config.cache_gb is None else int(config.cache_gb * 1e9))
