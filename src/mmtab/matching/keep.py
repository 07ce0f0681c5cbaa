"""What a matching leaves in a folder that outlives it, so that the next one computes only what is new to it.

A record has a digest of its cells for a name, a pair the sum of its records' names, the same from either side: ids, and
places in a table, may change.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

import mmtab
from mmtab.config.types import MatchConfig
from mmtab.data.cells import image_sources
from mmtab.data.digests import digest_of
from mmtab.data.pairs import Records
from mmtab.data.pictures import read_picture
from mmtab.data.schema import ColumnType
from mmtab.data.streams import slices
from mmtab.data.table import Table
from mmtab.runs.inputs import check_outside
from mmtab.runs.session import Session
from mmtab.utils.cache import Store
from mmtab.utils.engine import Shared
from mmtab.utils.errors import ConfigError

ROWS_AT_ONCE = 256  # whose pictures may be in memory
NO_NAMES = np.zeros((0, 2), np.uint64)


@dataclass(frozen=True)
class Found:
    """Which of some records, or pairs, are kept.

    entries  folders of what is kept, and how much each holds
    new      [m] numbers of those that are not kept, of equal ones the first
    place    [n] where each is, among what the entries hold, one after the other, and then the new ones
    n_kept   of the n how many are kept
    """

    entries: dict[Path, int]
    new: np.ndarray
    place: np.ndarray
    n_kept: int


@dataclass(frozen=True)
class Keep:
    """store: the folder, whose entries have the names of what they hold
    of: digest of all that results depend on beside the records: the run, and how it is computed

    To a worker it goes as the name of the folder.
    """

    store: Store
    of: str

    def __reduce__(self) -> tuple[Any, ...]:
        return _in_worker, (Shared(self.store.root), self.of)

    def key(self, names: np.ndarray) -> dict[str, str]:
        """Of the entry for these records, or pairs."""
        return {"of": self.of, "names": digest_of(names)}

    def find(self, kind: str, names: np.ndarray) -> Found:
        entries = dict(self._entries(kind))
        known = np.concatenate([NO_NAMES, *entries.values()])
        first, old = _places(names, names), _places(names, known)
        new = np.flatnonzero((old < 0) & (first == np.arange(len(names))))
        place = np.where(old < 0, len(known) + np.searchsorted(new, first), old)
        return Found({entry: len(part) for entry, part in entries.items()}, new, place, int((old >= 0).sum()))

    def _entries(self, kind: str) -> Iterator[tuple[Path, np.ndarray]]:
        """Those that are whole and of this run, with the names of what they hold."""
        for entry in sorted((self.store.root / kind).glob("[0-9a-f]*")):
            with contextlib.suppress(OSError, ValueError, LookupError, TypeError):  # damaged, or removed just now
                key = json.loads((entry / "key.json").read_bytes())
                names = np.load(entry / "names.npy", allow_pickle=False)
                if key == self.key(names) and names.shape[1:] == NO_NAMES.shape[1:] and self.store.has(kind, key):
                    yield entry, names
                    os.utime(entry)  # by which others may see what is not used any more


def keep_of(config: MatchConfig, session: Session, run_digest: str, parts: Path) -> Keep | None:
    """Where ``config.keep`` says; None where it says nothing. Raises ConfigError for a folder that is none of its own:
    that of the run or of another program, or that in which lies what is half done."""
    if config.keep is None:
        return None
    root = Path(config.keep).expanduser().absolute()
    check_outside(root, Path(config.run), "keep")
    if root.resolve().is_relative_to(parts.resolve()):
        raise ConfigError(f"keep={root} lies in {parts}, which is removed in the end. Fix: name another folder")
    try:
        Store(root).claim()
    except ConfigError as error:
        raise ConfigError(str(error).replace("cache=", "keep=").replace(" (or MMTAB_CACHE)", "")) from error
    compute, engine = session.compute, config.engine
    on_gpu = compute.device.type != "cpu" if engine.name == "serial" else engine.gpus > 0
    said = [mmtab.__version__, run_digest, session.config.dataset.bad_cells, compute.precision, on_gpu]
    return Keep(Store(root), digest_of(json.dumps(said)))


def names_of(session: Session, records: Records) -> np.ndarray:
    """[n, 2] uint64: digests of the cells of each record, of pictures by their content, and of what else is made of
    them: their side, and how many digits numbers were stored with. Raises DataError for a picture that is not there."""
    table, n_left, row = records.table, records.n_left, 0
    narrow = sorted((name, str(kind)) for name, kind in table.narrow.items())
    digests, known = [], dict[str, str]()
    for part in slices(table, ROWS_AT_ONCE):
        columns = [
            _pictures(part, column.name, session, known)
            if column.type is ColumnType.IMAGE
            else part.columns[column.name].to_pylist()
            for column in session.schema.columns
        ]
        for cells in zip(*columns, strict=True):
            said = repr((None if n_left is None else row >= n_left, narrow, cells))
            digests.append(hashlib.blake2b(said.encode(), digest_size=16).digest())
            row += 1
    return np.frombuffer(b"".join(digests), np.uint64).reshape(-1, 2)


def _pictures(part: Table, column: str, session: Session, known: dict[str, str]) -> Iterator[list[str | None]]:
    """Digests of the pictures of each cell, None for one that is missing; ``known``: those of files that were read."""
    bad_cells: Any = session.config.dataset.bad_cells
    for row, cell in enumerate(part.columns[column].to_pylist()):
        found = []
        for source in image_sources(cell, part.folder):
            path = source.path if source.data is None else None
            digest = known.get(path) if path is not None else None
            if digest is None and (data := read_picture(part, source, row, column, bad_cells)) is not None:
                digest = hashlib.blake2b(data, digest_size=16).hexdigest()
                known |= {} if path is None else {path: digest}
            found.append(digest)
        yield found


def _places(wanted: np.ndarray, among: np.ndarray) -> np.ndarray:
    """[n] int64: where each name is first ``among`` others, -1 where it is not."""
    names = [
        pa.FixedSizeBinaryArray.from_buffers(
            pa.binary(16), len(names), [None, pa.py_buffer(np.ascontiguousarray(names))]
        )
        for names in (wanted, among)
    ]
    return np.asarray(pc.fill_null(pc.index_in(names[0], value_set=names[1]), -1)).astype(np.int64)


def _in_worker(root: Path, of: str) -> Keep:
    return Keep(Store(root), of)
