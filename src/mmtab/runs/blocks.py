"""Rows and pairs predicted on an engine: a table is read here, and goes to its workers in blocks."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from mmtab.data.pairs import Pairs, Records
from mmtab.data.streams import slices
from mmtab.runs.session import SLICE, Rows, Session
from mmtab.training.predictions import Predictions, stack
from mmtab.utils.engine import Engine, Serial, Work
from mmtab.utils.memory import MemoryStore
from mmtab.utils.progress import Stage, under_way


def predict_rows(
    session: Session, rows: Rows, engine: Engine, labels: np.ndarray | None = None
) -> tuple[Predictions, float]:
    """The predictions of all rows, or pairs, in their order, and the seconds they took. In one process their features
    are kept in the cache; the workers of a cluster keep them in memory, for a block at a time. ``labels``: as for
    ``Session.batches``."""
    if isinstance(engine, Serial):
        return session.predictions(session.batches(rows, labels=labels))
    parts = list[Predictions]()
    with under_way(Stage("predictions", _n_rows(rows))) as stage:
        for part in engine.map(functools.partial(_predictor, session), _blocks(session, rows)):
            parts.append(part)
            stage.done += len(part.row)
    return stack(parts), stage.clock() - stage.began


def _n_rows(rows: Rows) -> int:
    return len(rows[1] if isinstance(rows, tuple) else rows)


def _predictor(session: Session) -> Work[Rows, Predictions]:
    def work(block: Rows) -> Callable[[], Predictions]:
        return lambda: session.predictions(session.batches(block, MemoryStore(), is_new=False))[0]

    return work


def _blocks(session: Session, rows: Rows) -> Iterator[Rows]:
    """Of ``SLICE`` rows or pairs, those with the records that they are of; with warnings of what is unlike train."""
    if isinstance(rows, tuple):
        yield from _blocks_of_pairs(session, *rows)
        return
    session.warn_of_bad_cells(rows)
    for part in slices(rows, SLICE):
        block = part.take(np.arange(len(part)))  # copied: Arrow would pickle all of the table that a slice is of
        if not block.first_row:
            session.compare_with_train(block)
        yield block


def _blocks_of_pairs(session: Session, records: Records, pairs: Pairs) -> Iterator[tuple[Records, Pairs]]:
    session.warn_of_bad_cells(records.table)
    session.compare_with_train(records.table)
    for start in range(0, len(pairs), SLICE):
        block = pairs.take(np.arange(start, min(start + SLICE, len(pairs))))
        rows, places = np.unique(np.concatenate([block.left, block.right]), return_inverse=True)
        block = replace(block, left=places[: len(block)], right=places[len(block) :])
        yield Records(records.table.take(rows), None), block
