"""A table on disk, or in memory, as a stream of batches, so that it may be larger than memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from mmtab.data.digests import Digest
from mmtab.data.files import Source
from mmtab.data.schema import Schema
from mmtab.data.table import BadCells, Table, has_values, read_batches


def slices(table: Table | Stream, size: int) -> Iterator[Table]:
    """The rows of a table, at most ``size`` at a time, which are of one batch."""
    for batch in table.batches():
        for start in range(0, len(batch), size):
            yield batch.slice(start, size)


@dataclass
class _Facts:
    n_rows: int = 0
    n_bad_cells: int = 0
    digests: dict[str, str] = field(default_factory=dict)
    narrow: dict[str, pa.DataType] = field(default_factory=dict)


class Stream:
    """A table on disk, read in batches of bounded size as often as asked; one of at most ``KEEP`` bytes is read once
    and then kept in memory. Batches and errors are those of ``read_batches``. ``labels`` False leaves the labels
    out; ``allow_empty``: it may have no rows."""

    KEEP = 64 << 20

    def __init__(
        self,
        path: Source,
        schema: Schema,
        folder: Path,
        bad_cells: BadCells = "error",
        labels: bool = True,
        allow_empty: bool = False,
    ) -> None:
        self.path, self.schema, self.folder, self.labels = path, schema, folder, labels
        self._options: dict[str, Any] = {"bad_cells": bad_cells, "labels": labels, "allow_empty": allow_empty}
        self._batches: list[Table] | None = None  # of a small table, once it was read
        self._facts: _Facts | None = None

    def batches(self) -> Iterator[Table]:
        """From the first row on. ``labels`` is None in all batches where no row of the table has one."""
        if self._batches is not None:
            yield from self._batches
            return
        label = self.schema.label
        labelled = (
            self.labels and label is not None and has_values(self.path, self.schema.name, label, self.schema.label_type)
        )
        facts, batches, n_bytes, digests = _Facts(), list[Table](), 0, dict[str, list[Digest]]()
        for batch in read_batches(self.path, self.schema, folder=self.folder, **self._options):
            batch = batch if labelled else replace(batch, labels=None)
            n_bytes += sum(values.nbytes for values in (batch.ids, *batch.columns.values()))
            batches = [*batches, batch] if n_bytes <= self.KEEP else []
            facts.n_rows += len(batch)
            facts.n_bad_cells += batch.n_bad_cells
            facts.narrow |= batch.narrow
            for name, values in batch.columns.items() if self._facts is None else ():
                parts = digests.setdefault(name, [Digest()])
                try:
                    parts[-1].add(values)
                except TypeError:  # shards may store pictures in different ways
                    parts.append(Digest())
                    parts[-1].add(values)
            yield batch
        if self._facts is None:
            facts.digests = {name: "+".join(part.hexdigest() for part in parts) for name, parts in digests.items()}
            self._facts = facts
        self._batches = batches if n_bytes <= self.KEEP else None

    def __len__(self) -> int:
        return self._read_facts().n_rows

    @property
    def digests(self) -> dict[str, str]:
        """By column, a digest of its cells: that of the same table in memory."""
        return self._read_facts().digests

    @property
    def n_bad_cells(self) -> int:
        return self._read_facts().n_bad_cells

    @property
    def narrow(self) -> dict[str, pa.DataType]:
        return self._read_facts().narrow

    @property
    def name(self) -> str:
        return self.path.stem

    def _read_facts(self) -> _Facts:
        """Those of the first complete reading, which happens now unless it did before."""
        if self._facts is None:
            for _ in self.batches():
                pass
        assert self._facts is not None
        return self._facts
