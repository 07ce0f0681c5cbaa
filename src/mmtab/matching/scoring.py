"""Candidates scored by the pair model, in shards on disk."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch

from mmtab.data.digests import digest_of
from mmtab.data.schema import ColumnType
from mmtab.features.text import without_text
from mmtab.matching import encoding
from mmtab.matching.encoding import Context, EncodedRecords, RecordsInMemory, take_rows
from mmtab.utils.cache import Arrays
from mmtab.utils.progress import steps

# Encoded records; left and right row numbers [n] and similarity features [n, f] of pairs -> [n, width]
PairFunction = Callable[[RecordsInMemory, np.ndarray, np.ndarray, np.ndarray | None], np.ndarray]
Shard = tuple[np.ndarray, np.ndarray]  # left and right row numbers


def score(context: Context, encoded: EncodedRecords, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """[n, r] probabilities of the candidates."""
    n_relations = len(context.session.schema.relations)
    compute = functools.partial(logits_of, context)
    logits = map_shards(context, encoded, (left, right), compute, n_relations, kind="scores", title="scoring pairs")
    return context.session.task.probabilities(logits.astype(np.float64))


def map_shards(
    context: Context,
    encoded: EncodedRecords,
    pairs: Shard,
    compute: PairFunction,
    width: int,
    *,
    kind: str,
    title: str,
) -> np.ndarray:
    """[n, width]: ``compute`` on shards of pairs, each kept under ``kind`` once finished.

    The similarity features of the next shard are computed in a thread while the model reads this one.
    """
    (left, right), size = pairs, 8 * context.config.shard
    shards = [(left[i : i + size], right[i : i + size]) for i in range(0, len(left), size)]
    keys = [{"key": context.key, "pairs": digest_of(np.stack(shard))} for shard in shards]
    results = [np.zeros((0, width), np.float32)]
    with ThreadPoolExecutor(1) as pool:
        unfinished = [None if context.store.has(kind, key) else shard for key, shard in zip(keys, shards, strict=True)]
        similarities = _similarities(context, encoded, unfinished, pool)
        zipped = zip(keys, shards, similarities, strict=True)
        for key, shard, similarity in steps(zipped, len(shards), title):
            build = functools.partial(_compute_shard, compute, encoded, shard, similarity)
            results.append(context.store.arrays(kind, key, build)["out"])
    return np.concatenate(results)


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


def _compute_shard(
    compute: PairFunction, encoded: EncodedRecords, shard: Shard, similarity: np.ndarray | None, _: object
) -> Arrays:
    records = encoded.load(np.unique(np.concatenate(shard)))
    return {"out": compute(records, *shard, similarity)}


def _similarities(
    context: Context, encoded: EncodedRecords, shards: Sequence[Shard | None], pool: ThreadPoolExecutor
) -> Iterator[np.ndarray | None]:
    """Similarity features of each shard, always one shard ahead of what is asked for; None for a finished shard."""

    def start(i: int) -> Future[np.ndarray | None] | None:
        shard = shards[i] if i < len(shards) else None
        return None if shard is None else pool.submit(_similarity, context, encoded, *shard)

    future = start(0)
    for i in range(len(shards)):
        features = None if future is None else future.result()
        future = start(i + 1)
        yield features


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
    table = take_rows(context.records.table, rows)
    return context.session.compare(table, places[: len(left)], places[len(left) :], pictures)
