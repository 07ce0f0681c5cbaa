"""Matches scored against what is known: labelled pairs, or the entity of each record."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmtab.data import files
from mmtab.data.pairs import Records, read_pairs_file
from mmtab.data.schema import LABEL, Schema
from mmtab.data.spelling import places_in, spelling
from mmtab.matching.clustering import evaluate
from mmtab.matching.result import Matches
from mmtab.training.metrics import pair_metrics
from mmtab.utils.errors import RunError


def scores_against(path: Path, matches: Matches) -> dict[str, float]:
    """Of labelled pairs: recall of blocking, F1 of scores and of clusters; of entities: recall of blocking and the
    scores of clusters. Keys begin with the relation where there are several. Raises RunError for another table."""
    blocked = BlockedPairs(matches.schema, matches.records, matches.left, matches.right)
    names = files.header(path, matches.schema.name).names
    if "left_id" in names:
        return _against_pairs(path, matches, blocked)
    return _against_entities(path, matches, blocked)


def blocking_against(path: Path, blocked: BlockedPairs) -> dict[str, float]:
    """``scores_against`` of blocking alone."""
    if "left_id" not in files.header(path, blocked.schema.name).names:
        entities = _read_entities(path, blocked)
        return {f"{_prefix(name)}blocking_recall": blocked.recall_of_entities(e) for name, e in entities.items()}
    pairs = read_pairs_file(path, blocked.schema, blocked.records)
    found = blocked.find(pairs.left, pairs.right) >= 0
    labels = {name: np.asarray(label) for name, label in pairs.relations.items()}
    return {f"{_prefix(name)}blocking_recall": _recall(found, label) for name, label in labels.items()}


@dataclass(frozen=True)
class BlockedPairs:
    """Candidates of two tables, or of one, as left and right row numbers [n]."""

    schema: Schema
    records: Records
    left: np.ndarray
    right: np.ndarray

    def find(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        """[m]: the place of each pair among the candidates, -1 where it is none."""
        n = len(self.records.table)
        candidates, pairs = _keys(self.left, self.right, n), _keys(left, right, n)
        if not len(candidates):
            return np.full(len(pairs), -1)
        order = np.argsort(candidates)
        place = order[np.minimum(np.searchsorted(candidates, pairs, sorter=order), len(candidates) - 1)]
        return np.where(candidates[place] == pairs, place, -1)

    def recall_of_entities(self, entities: np.ndarray) -> float:
        """The share of the true pairs (across the sides, where there are two) that are candidates.

        ``entities`` [n_records]: -1 where unknown.
        """
        n_left, side = self.records.n_left, np.zeros(len(entities), np.int64)
        if n_left is not None:
            side[n_left:] = 1
        is_known, m = entities >= 0, int(entities.max(initial=-1)) + 1
        counts = np.stack([np.bincount(entities[is_known & (side == s)], minlength=m) for s in (0, 1)])
        n_true = (counts[0] * (counts[0] - 1) // 2).sum() if n_left is None else (counts[0] * counts[1]).sum()
        hits = (entities[self.left] == entities[self.right]) & is_known[self.left]
        return float(hits.sum() / n_true) if n_true else 1.0


def _against_pairs(path: Path, matches: Matches, blocked: BlockedPairs) -> dict[str, float]:
    schema = matches.schema
    pairs = read_pairs_file(path, schema, matches.records)
    place = blocked.find(pairs.left, pairs.right)
    scores: dict[str, float] = {}
    for r, name in enumerate(schema.relations):
        if name not in pairs.relations:
            continue
        label, prefix = np.asarray(pairs.relations[name]), _prefix(name)
        score = np.where(place >= 0, matches.probability[place, r] if len(matches.left) else 0.0, 0.0)
        clusters = matches.clusters[r]
        together = (clusters[pairs.left] == clusters[pairs.right]).astype(float)
        scores[f"{prefix}blocking_recall"] = _recall(place >= 0, label)
        for kind, value, threshold in (("score", score, matches.thresholds[r]), ("cluster", together, 0.5)):
            metrics = pair_metrics(label, value >= threshold, value)
            scores |= {f"{prefix}{kind}_{m}": metrics[m] for m in ("f1", "precision", "recall")}
    return scores


def _against_entities(path: Path, matches: Matches, blocked: BlockedPairs) -> dict[str, float]:
    scores: dict[str, float] = {}
    for name, entities in _read_entities(path, blocked).items():
        values = evaluate(matches.clusters[list(matches.schema.relations).index(name)], entities)
        scores |= {f"{_prefix(name)}{key}": float(value) for key, value in values.items()}
        scores[f"{_prefix(name)}blocking_recall"] = blocked.recall_of_entities(entities)
    return scores


def _read_entities(path: Path, blocked: BlockedPairs) -> dict[str, np.ndarray]:
    """By relation, [n_records] numbers of entities, -1 where unknown."""
    schema, ids = blocked.schema, blocked.records.table.ids
    names = files.header(path, schema.name).names
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
    entities = {}
    for name in schema.relations:
        column = name if name in names else "entity"
        if column in names:
            codes: pa.Array = table[column].combine_chunks().dictionary_encode().indices
            entities[name] = np.asarray(pc.fill_null(codes.take(place), -1)).astype(np.int64)
    return entities


def _recall(found: np.ndarray, label: np.ndarray) -> float:
    return float(found[label == 1].mean()) if (label == 1).any() else 1.0


def _prefix(relation: str) -> str:
    return "" if relation == LABEL else f"{relation}/"


def _keys(left: np.ndarray, right: np.ndarray, n: int) -> np.ndarray:
    """[n_pairs] int64: one number a pair, whatever the order of its records."""
    return np.minimum(left, right) * n + np.maximum(left, right)
