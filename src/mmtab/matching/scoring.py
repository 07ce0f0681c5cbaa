"""Candidates scored by the pair model, in shards on disk."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import torch

from mmtab.data.digests import digest_of
from mmtab.data.schema import ColumnType
from mmtab.features.text import without_text
from mmtab.matching import encoding
from mmtab.matching.encoding import Context, EncodedRecords, RecordsInMemory
from mmtab.matching.keep import NO_NAMES
from mmtab.utils.cache import Arrays
from mmtab.utils.engine import Work
from mmtab.utils.progress import steps

# The context; encoded records; left and right row numbers [n] and similarity features [n, f] of pairs -> [n, width]
PairFunction = Callable[[Context, RecordsInMemory, np.ndarray, np.ndarray, np.ndarray | None], np.ndarray]
Shard = tuple[np.ndarray, np.ndarray]  # left and right row numbers


def score(context: Context, encoded: EncodedRecords, left: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, int]:
    """[n, r] probabilities of the candidates, and how many were scored before."""
    pairs, width = (left, right), len(context.session.schema.relations)
    logits, n_kept = map_pairs(context, encoded, pairs, logits_of, width, kind="scores", title="scoring pairs")
    return context.session.task.probabilities(logits.astype(np.float64)), n_kept


def map_pairs(
    context: Context, encoded: EncodedRecords, pairs: Shard, compute: PairFunction, width: int, *, kind: str, title: str
) -> tuple[np.ndarray, int]:
    """[n, width]: ``compute`` of pairs, in shards that are each kept under ``kind`` once finished; and of how many it
    was kept before."""
    (left, right), size, found = pairs, 8 * context.config.shard, None
    if context.keep is not None:
        found = context.keep.find(kind, encoded.names[left] + encoded.names[right])
        left, right = left[found.new], right[found.new]
        rows = np.unique([left, right])
        if 2 * len(rows) > encoded.n:  # then what is made of all text for a cross-encoder is made once
            rows = np.arange(encoded.n)
        context, encoded = context.part(rows), encoded.part(rows)
        left, right = np.searchsorted(rows, left), np.searchsorted(rows, right)
    starts = range(0, len(left), size)
    shards = ((left[i : i + size], right[i : i + size]) for i in starts)
    out = np.zeros((len(left), width), np.float32)
    if len(left):
        results = context.engine.map(functools.partial(_computer, context, encoded, compute, kind), shards)
        for start, result in zip(starts, steps(results, len(starts), title), strict=True):
            out[start : start + size] = result
    if found is None:
        return out, 0
    kept = [np.load(entry / "out.npy") for entry in found.entries]
    return np.concatenate([*kept, out])[found.place], found.n_kept


def _computer(context: Context, encoded: EncodedRecords, compute: PairFunction, kind: str) -> Work[Shard, np.ndarray]:
    """Prepares the similarity features of a shard, which takes no model, unless the shard is finished already."""

    def work(shard: Shard) -> Callable[[], np.ndarray]:
        names = NO_NAMES if context.keep is None else encoded.names[shard[0]] + encoded.names[shard[1]]
        store, key, more = context.shard({"pairs": digest_of(np.stack(shard))}, names)
        similarity = None if store.has(kind, key) else _similarity(context, encoded, *shard)

        def build(_: object) -> Arrays:
            records = encoded.load(np.unique(np.concatenate(shard)), context.cross)
            return {"out": compute(context, records, *shard, similarity)} | more

        return lambda: np.array(store.arrays(kind, key, build)["out"])

    return work


def logits_of(
    context: Context,
    records: RecordsInMemory,
    left: np.ndarray,
    right: np.ndarray,
    similarity: np.ndarray | None,
    hidden: torch.Tensor | None = None,
    column: str | None = None,
) -> np.ndarray:
    """[n, r] float32 logits of pairs. ``hidden`` [t] bool: token places left out, those of ``column``."""
    session, model, device = context.session, context.model, context.session.compute.device
    parts = [np.zeros((0, len(session.schema.relations)), np.float32)]
    hidden = None if hidden is None else hidden.to(device)
    with session.evaluating():
        for start in range(0, len(left), encoding.BATCH):
            batch = slice(start, start + encoding.BATCH)
            rows = [records(side, device) for side in (left[batch], right[batch])]
            if hidden is not None and hidden.any():
                rows = [model.summarise(side.tokens, hidden) for side in rows]
            features = None if similarity is None else torch.from_numpy(similarity[batch]).to(device)
            text = None
            if records.cross is not None:
                text = records.cross.double(*records.cross.ordered(left[batch], right[batch]))
                if column in session.cross_columns:
                    text = without_text(text, session.cross_columns.index(column), records.cross.n_columns)
                text = text.to(device)
            parts.append(model.score(rows[0], rows[1], features, text, hidden).float().cpu().numpy())
    return np.concatenate(parts)


def _similarity(context: Context, encoded: EncodedRecords, left: np.ndarray, right: np.ndarray) -> np.ndarray | None:
    """[n, f] similarity features of pairs, None where the model reads none."""
    if context.model.comparison is None:
        return None
    rows, places = np.unique(np.concatenate([left, right]), return_inverse=True)
    pictures: dict[str, np.ndarray] = {}
    if len(rows) and encoded.has("pictures"):
        features = encoded.take("pictures", rows)
        columns = context.session.schema.of_type(ColumnType.IMAGE)
        pictures = {name: features[:, c] for c, name in enumerate(columns)}
    table = context.records.table.take(rows)
    return context.session.compare(table, places[: len(left)], places[len(left) :], pictures)
