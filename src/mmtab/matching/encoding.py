"""Every record of the tables encoded once, in shards on disk."""

from __future__ import annotations

import functools
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from mmtab.config.types import MatchConfig
from mmtab.data.pairs import Records
from mmtab.data.table import Table
from mmtab.features.batches import Rows, Tokens
from mmtab.features.text import Sequences, cross_sequences
from mmtab.model.matcher import Matcher
from mmtab.runs.session import Session
from mmtab.utils.cache import Arrays, Store
from mmtab.utils.progress import steps

BATCH = 512  # pairs, or rows, in one forward pass


@dataclass(frozen=True)
class Context:
    """What all steps of matching share.

    store: where finished shards lie until the end
    key: digest of the run and the tables, by which shards of other inputs are told apart
    """

    session: Session
    records: Records
    store: Store
    config: MatchConfig
    key: str

    @property
    def model(self) -> Matcher:
        model = self.session.model
        assert isinstance(model, Matcher)
        return model


@dataclass(frozen=True)
class EncodedRecords:
    """What the model makes of each record, as one folder of arrays for each shard of ``size`` records.

    Arrays are mapped only while they are read, so that memory does not fill with what was read before.
    ``cross``: the text of all records as token sequences, for a cross-encoder.
    """

    shards: list[Path]
    size: int
    cross: Sequences | None = None

    def has(self, name: str) -> bool:
        return (self.shards[0] / f"{name}.npy").is_file()

    def read(self, name: str) -> np.ndarray:
        """[n_records, ...]"""
        return np.concatenate([np.load(shard / f"{name}.npy", allow_pickle=False) for shard in self.shards])

    def take(self, name: str, rows: np.ndarray) -> np.ndarray:
        """[len(rows), ...]"""
        shard_of, out = rows // self.size, None
        for i in np.unique(shard_of):
            array = np.load(self.shards[i] / f"{name}.npy", mmap_mode="r", allow_pickle=False)
            out = np.empty((len(rows), *array.shape[1:]), array.dtype) if out is None else out
            here = shard_of == i
            out[here] = array[rows[here] - i * self.size]
        assert out is not None
        return out

    def load(self, rows: np.ndarray) -> RecordsInMemory:
        """``rows``: sorted row numbers."""
        names = [name for name in ("tokens", "mask", "summary") if self.has(name)]
        return RecordsInMemory(rows, {name: self.take(name, rows) for name in names}, self.cross)


@dataclass(frozen=True)
class RecordsInMemory:
    """Encoded records of the sorted row numbers ``rows``; ``cross`` is of all records."""

    rows: np.ndarray
    arrays: Arrays
    cross: Sequences | None

    def __call__(self, rows: np.ndarray, device: torch.device) -> Rows:
        """As the model's ``rows`` gave them."""
        places = np.searchsorted(self.rows, rows)
        values = {name: torch.from_numpy(array[places]).to(device) for name, array in self.arrays.items()}
        tokens = Tokens(values["tokens"].float(), values["mask"])
        return Rows(tokens, values.get("summary"))


def encode_records(context: Context) -> EncodedRecords:
    """Every record once, a shard at a time; shards that an earlier, killed run has finished are taken up."""
    table, size = context.records.table, context.config.shard
    starts = range(0, len(table), size)
    shards = [
        context.store.folder(
            "rows", {"key": context.key, "first": start}, functools.partial(encode_shard, context, start)
        )
        for start in steps(starts, len(starts), "encoding records")
    ]
    cross = None
    spec = context.session.backbones.cross_spec
    if spec is not None:
        cross = cross_sequences(table, context.session.cross_columns, spec, context.store)
    return EncodedRecords(shards, size, cross)


def encode_shard(context: Context, start: int, _: object) -> Arrays:
    """tokens [n, t, d] float16, mask [n, t], with a bi-encoder summary [n, d], with it or search towers vector [n, d],
    and picture features."""
    records, session, model = context.records.table, context.session, context.model
    n = min(context.config.shard, len(records) - start)
    table, n_left = records.slice(start, n), context.records.n_left
    context.store.root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".encoding-", dir=context.store.root) as scratch:
        # Pixels and token ids are of no further use
        encoded = session.encode(table, Store(Path(scratch)))
        parts: dict[str, list[np.ndarray]] = {"tokens": [], "mask": []}
        with session.evaluating():
            for first in range(0, n, BATCH):
                batch = encoded.rows(np.arange(first, min(first + BATCH, n))).to(session.compute.device)
                right = None if n_left is None else torch.arange(batch.n_rows) + start + first >= n_left
                rows = model.rows(batch)
                vector = model.vectors(batch, rows, right)
                parts["tokens"].append(rows.tokens.x.to(torch.float16).cpu().numpy())
                parts["mask"].append(rows.tokens.mask.cpu().numpy())
                for name, x in (("summary", rows.summary), ("vector", vector)):
                    if x is not None:
                        parts.setdefault(name, []).append(x.float().cpu().numpy())
        arrays = {name: np.concatenate(values) for name, values in parts.items()}
        if model.comparison is not None and encoded.pictures:
            arrays["pictures"] = np.stack(list(encoded.pictures.values()), 1)
    return arrays


def take_rows(table: Table, rows: np.ndarray) -> Table:
    indices = pa.array(rows)
    columns = {name: cells.take(indices) for name, cells in table.columns.items()}
    return replace(table, ids=table.ids.take(indices), columns=columns)
