"""Matches scored against what is known: labelled pairs, or the entity of each record."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmtab.data import files
from mmtab.data.pairs import read_pairs_file
from mmtab.data.schema import LABEL
from mmtab.data.spelling import places_in, spelling
from mmtab.matching.clustering import evaluate
from mmtab.matching.result import Matches
from mmtab.training.metrics import pair_metrics
from mmtab.utils.errors import RunError


def scores_against(path: Path, matches: Matches) -> dict[str, float]:
    """Of labelled pairs: recall of blocking, F1 of scores and of clusters; of entities: recall of blocking and the
    scores of clusters. Keys begin with the relation where there are several. Raises RunError for another table."""
    names = files.header(path, matches.schema.name).names
    if "left_id" in names:
        return _against_pairs(path, matches)
    return _against_entities(path, matches, names)


def _against_pairs(path: Path, matches: Matches) -> dict[str, float]:
    schema, records = matches.schema, matches.records
    pairs = read_pairs_file(path, schema, records)
    candidates = _keys(matches.left, matches.right, len(records.table))
    labelled = _keys(pairs.left, pairs.right, len(records.table))
    if len(candidates):
        order = np.argsort(candidates)
        place = order[np.minimum(np.searchsorted(candidates, labelled, sorter=order), len(candidates) - 1)]
        blocked = candidates[place] == labelled
    else:
        place, blocked = np.zeros(len(labelled), np.int64), np.zeros(len(labelled), bool)
    scores: dict[str, float] = {}
    for r, name in enumerate(schema.relations):
        if name not in pairs.relations:
            continue
        label, prefix = np.asarray(pairs.relations[name]), _prefix(name)
        score = np.where(blocked, matches.probability[place, r] if len(candidates) else 0.0, 0.0)
        clusters = matches.clusters[r]
        together = (clusters[pairs.left] == clusters[pairs.right]).astype(float)
        scores[f"{prefix}blocking_recall"] = float(blocked[label == 1].mean()) if (label == 1).any() else 1.0
        for kind, value, threshold in (("score", score, matches.thresholds[r]), ("cluster", together, 0.5)):
            metrics = pair_metrics(label, value >= threshold, value)
            scores |= {f"{prefix}{kind}_{m}": metrics[m] for m in ("f1", "precision", "recall")}
    return scores


def _against_entities(path: Path, matches: Matches, names: list[str]) -> dict[str, float]:
    schema, ids = matches.schema, matches.records.table.ids
    if schema.id not in names or not {"entity", *schema.relations} & set(names):
        raise RunError(
            f"truth={path}: expected left_id, right_id and labels, or {schema.id} and an entity for each relation; "
            f"found {names}"
        )
    table = files.read(path, schema.name)
    place = places_in(ids, spelling(table[schema.id].combine_chunks()))
    if len(pc.unique(ids)) < len(ids):
        raise RunError(
            f"truth={path}: an id names a record on either side, so entities by id are unclear; give labelled pairs"
        )
    scores: dict[str, float] = {}
    for r, name in enumerate(schema.relations):
        column = name if name in names else "entity"
        if column not in names:
            continue
        codes: pa.Array = table[column].combine_chunks().dictionary_encode().indices
        entities = np.asarray(pc.fill_null(codes.take(place), -1)).astype(np.int64)
        values = evaluate(matches.clusters[r], entities)
        scores |= {f"{_prefix(name)}{key}": float(value) for key, value in values.items()}
        scores[f"{_prefix(name)}blocking_recall"] = _recall_of_entities(matches, entities)
    return scores


def _recall_of_entities(matches: Matches, entities: np.ndarray) -> float:
    """The share of the true pairs (across the sides, where there are two) that are candidates.

    ``entities`` [n_records]: -1 where unknown.
    """
    n_left, side = matches.records.n_left, np.zeros(len(entities), np.int64)
    if n_left is not None:
        side[n_left:] = 1
    is_known, m = entities >= 0, int(entities.max(initial=-1)) + 1
    counts = np.stack([np.bincount(entities[is_known & (side == s)], minlength=m) for s in (0, 1)])
    n_true = (counts[0] * (counts[0] - 1) // 2).sum() if n_left is None else (counts[0] * counts[1]).sum()
    hits = (entities[matches.left] == entities[matches.right]) & is_known[matches.left]
    return float(hits.sum() / n_true) if n_true else 1.0


def _prefix(relation: str) -> str:
    return "" if relation == LABEL else f"{relation}/"


def _keys(left: np.ndarray, right: np.ndarray, n: int) -> np.ndarray:
    """[n_pairs] int64: one number a pair, whatever the order of its records."""
    return np.minimum(left, right) * n + np.maximum(left, right)
