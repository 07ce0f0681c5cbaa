"""Every record of the tables encoded once, in shards on disk."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.ipc
import torch

from mmtab.config.types import MatchConfig
from mmtab.data.digests import digest_of
from mmtab.data.pairs import Pairs, Records, read_pairs, read_records
from mmtab.data.table import Table
from mmtab.features.batches import Rows, Tokens
from mmtab.features.text import Sequences
from mmtab.matching.keep import NO_NAMES, Keep, names_of
from mmtab.model.matcher import Matcher
from mmtab.runs.inputs import data_folder
from mmtab.runs.session import Session
from mmtab.utils.cache import Arrays, Store
from mmtab.utils.engine import SERIAL, Engine, Shared, Work
from mmtab.utils.progress import steps

BATCH = 512  # pairs, or rows, in one forward pass
CELLS = "cells.arrow"


@dataclass(frozen=True)
class Context:
    """What all steps of matching share.

    store: where finished shards lie until the end
    key: digest of the run and the tables, by which shards of other inputs are told apart
    engine: where shards are computed
    keep: where finished shards lie instead that outlive the command, and are found by what they hold

    To the workers of an engine it goes as the names of files: of the run, and of the records, which are then written
    into the store for all of them to map.
    """

    session: Session
    records: Records
    store: Store
    config: MatchConfig
    key: str
    engine: Engine = SERIAL
    keep: Keep | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        table = self.records.table
        file = self.store.named("cells", digest_of(self.key), functools.partial(_write_cells, table)) / CELLS
        parts = (table.take(np.zeros(0, np.int64)), self.records.n_left, self.session, self.config, self.key, self.keep)
        return _in_worker, (Shared(self.store.root), file.absolute(), *parts)

    def part(self, rows: np.ndarray) -> Context:
        """Of some of the records alone, by their sorted numbers."""
        table, n_left = self.records.table, self.records.n_left
        if len(rows) == len(table):
            return self
        table = replace(table.take(rows), name=f"{table.name} (new records)")  # of which errors name the row
        of_part = Records(table, None if n_left is None else int((rows < n_left).sum()))
        return replace(self, records=of_part, key=digest_of(f"{self.key} {digest_of(rows)}"))

    def shard(self, key: dict[str, Any], names: np.ndarray) -> tuple[Store, dict[str, Any], Arrays]:
        """Where a shard lies, by which key, and what else it holds; ``names``: by which its content is kept."""
        if self.keep is None:
            return self.store, {"key": self.key} | key, {}
        return self.keep.store, self.keep.key(names), {"names": names}

    @functools.cached_property
    def cross(self) -> Sequences | None:
        """The text of all records as token sequences, for a cross-encoder."""
        return self.session.encode_cross(self.records.table, self.store)

    @functools.cached_property
    def dataset(self) -> tuple[Path, Records]:
        """The folder of the run's own dataset, and its records. Raises MmtabError where they cannot be read."""
        config = self.session.config
        folder = data_folder(config)
        return folder, read_records(folder, self.session.schema, config.dataset.bad_cells)  # type: ignore[arg-type]

    def labelled(self, split: str) -> Pairs:
        """The pairs of a split of the run's own dataset. Raises MmtabError as ``dataset``."""
        folder, records = self.dataset
        return read_pairs(folder, self.session.schema, split, records)

    @property
    def model(self) -> Matcher:
        model = self.session.model
        assert isinstance(model, Matcher)
        return model


@dataclass(frozen=True)
class EncodedRecords:
    """What the model makes of each record, as one folder of arrays for each shard of records.

    Arrays are mapped only while they are read, so that memory does not fill with what was read before.

    n       how many there are
    starts  [n_shards] the place of each shard's first record
    places  [n] where each record is; None: in order
    names   [n, 2] by which they are kept; empty where they are not
    n_kept  how many were there before
    """

    shards: list[Path]
    n: int
    starts: np.ndarray
    places: np.ndarray | None = None
    names: np.ndarray = field(default_factory=lambda: NO_NAMES)
    n_kept: int = 0

    def has(self, name: str) -> bool:
        return (self.shards[0] / f"{name}.npy").is_file()

    def read(self, name: str) -> np.ndarray:
        """[n_records, ...]"""
        if self.places is not None:
            return self.take(name, np.arange(self.n))
        return np.concatenate([np.load(shard / f"{name}.npy", allow_pickle=False) for shard in self.shards])

    def take(self, name: str, rows: np.ndarray) -> np.ndarray:
        """[len(rows), ...]"""
        place, out = rows if self.places is None else self.places[rows], None
        shard_of = np.searchsorted(self.starts, place, "right") - 1
        order = np.argsort(shard_of, kind="stable")
        for here in np.split(order, np.flatnonzero(np.diff(shard_of[order])) + 1):
            i = shard_of[here[0]]
            array = np.load(self.shards[i] / f"{name}.npy", mmap_mode="r", allow_pickle=False)
            out = np.empty((len(rows), *array.shape[1:]), array.dtype) if out is None else out
            out[here] = array[place[here] - self.starts[i]]
        assert out is not None
        return out

    def part(self, rows: np.ndarray) -> EncodedRecords:
        """As ``Context.part``."""
        place = rows if self.places is None else self.places[rows]
        return replace(self, n=len(rows), places=place, names=self.names[rows])

    def load(self, rows: np.ndarray, cross: Sequences | None) -> RecordsInMemory:
        """``rows``: sorted row numbers; ``cross``: that of the context."""
        names = [name for name in ("tokens", "mask", "summary") if self.has(name)]
        return RecordsInMemory(rows, {name: self.take(name, rows) for name in names}, cross)


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
    """Every record once, a shard at a time; shards that an earlier, killed run has finished are taken up, and records
    that are kept."""
    n, size = len(context.records.table), context.config.shard
    if context.keep is None:
        return EncodedRecords(_encoded(context, NO_NAMES), n, np.arange(0, n, size))
    names = names_of(context.session, context.records)
    found = context.keep.find("rows", names)
    shards = [*found.entries, *(_encoded(context.part(found.new), names[found.new]) if len(found.new) else [])]
    ends = np.cumsum([0, *found.entries.values()])
    starts = np.append(ends[:-1], ends[-1] + np.arange(0, len(found.new), size))
    return EncodedRecords(shards, n, starts, found.place, names, found.n_kept)


def _encoded(context: Context, names: np.ndarray) -> list[Path]:
    starts = range(0, len(context.records.table), context.config.shard)
    shards = context.engine.map(functools.partial(_encoder, context, names), starts)
    return list(steps(shards, len(starts), "encoding records"))


def _encoder(context: Context, names: np.ndarray) -> Work[int, Path]:
    def work(start: int) -> Callable[[], Path]:
        store, key, more = context.shard({"first": start}, names[start : start + context.config.shard])
        return functools.partial(store.folder, "rows", key, lambda _: encode_shard(context, start, _) | more)

    return work


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


def _write_cells(table: Table, scratch: Path) -> None:
    """All cells as one batch, the ids first, so that whoever maps the file has whole columns without a copy."""
    arrays, names = [table.ids, *table.columns.values()], [str(i) for i in range(len(table.columns) + 1)]
    batch = pa.record_batch(arrays, names)
    with pa.OSFile(str(scratch / CELLS), "wb") as file, pa.ipc.new_file(file, batch.schema) as writer:
        writer.write_batch(batch)


def _in_worker(
    root: Path,
    file: Path,
    described: Table,
    n_left: int | None,
    session: Session,
    config: MatchConfig,
    key: str,
    keep: Keep | None,
) -> Context:
    """The context in another process, with the cells of ``file``. ``described``: the table without its cells."""
    ids, *columns = pa.ipc.open_file(pa.memory_map(str(file))).get_batch(0).columns
    table = replace(described, ids=ids, columns=dict(zip(described.columns, columns, strict=True)))
    return Context(session, Records(table, n_left), Store(root), config, key, keep=keep)
