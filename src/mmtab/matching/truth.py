"""Matches scored against what is known: labelled pairs, or the entity of each record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmtab.data import files
from mmtab.data.pairs import Records, read_pairs_file
from mmtab.data.schema import LABEL, Schema
from mmtab.data.spelling import places_in, spelling
from mmtab.matching.clustering import evaluate
from mmtab.matching.labels import find_pairs
from mmtab.matching.result import Matches
from mmtab.training.metrics import pair_metrics
from mmtab.utils.errors import RunError


def scores_against(
    path: Path, matches: Matches, alone: Mapping[int, np.ndarray] = MappingProxyType({})
) -> dict[str, float]:
    """Of labelled pairs: recall of blocking, F1 of scores and of clusters; of entities: recall of blocking and the
    scores of clusters. Keys begin with the relation where there are several. Raises RunError for another table.

    Where truth tells enough matches, and no record has two, ``partner_*`` count all pairs of records whose partner is
    known, the unlabelled ones too: of a catalogue's many look-alikes labels name but a few.

    alone  by number of each relation whose probabilities were weighed, [n] bool: the candidates that the pair model
           calls matches by itself, whose F1 stands beside that of the weighed
    """
    n = matches.n_blocked
    blocked = BlockedPairs(matches.schema, matches.records, matches.left[:n], matches.right[:n])
    names = files.header(path, matches.schema.name).names
    if "left_id" in names:
        return _against_pairs(path, matches, blocked, alone)
    return _against_entities(path, matches, blocked)


def labels_by(path: Path, matches: Matches) -> np.ndarray:
    """[n, r] int8: what truth says of the candidates, 1, 0 or -1 where it is silent."""
    schema, n = matches.schema, len(matches.records.table)
    labels = np.full((len(matches.left), len(schema.relations)), -1, np.int8)
    names = list(schema.relations)
    if "left_id" in files.header(path, schema.name).names:
        pairs = read_pairs_file(path, schema, matches.records)
        place = find_pairs(matches.left, matches.right, pairs.left, pairs.right, n)
        for name, label in pairs.relations.items():
            labels[place[place >= 0], names.index(name)] = np.asarray(label)[place >= 0]
        return labels
    blocked = BlockedPairs(schema, matches.records, matches.left, matches.right)
    for name, entities in _read_entities(path, blocked).items():
        left, right = entities[matches.left], entities[matches.right]
        labels[:, names.index(name)] = np.where((left >= 0) & (right >= 0), left == right, -1)
    return labels


def f1_against(path: Path, matches: Matches) -> np.ndarray:
    """[r] F1 of pairs in one cluster, NaN of a relation that truth does not tell."""
    scores = scores_against(path, matches)
    of_entities = any(name.endswith("pair_f1") for name in scores)
    key = "pair_f1" if of_entities else "cluster_f1"
    return np.array([scores.get(f"{_prefix(name)}{key}", np.nan) for name in matches.schema.relations])


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
        return find_pairs(self.left, self.right, left, right, len(self.records.table))

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


def _against_pairs(
    path: Path, matches: Matches, blocked: BlockedPairs, alone: Mapping[int, np.ndarray]
) -> dict[str, float]:
    schema = matches.schema
    pairs = read_pairs_file(path, schema, matches.records)
    single = pairs.one_to_one() if matches.records.n_left is not None else []
    place = find_pairs(matches.left, matches.right, pairs.left, pairs.right, len(matches.records.table))
    found, found_at = blocked.find(pairs.left, pairs.right) >= 0, place >= 0
    scores: dict[str, float] = {}
    for r, name in enumerate(schema.relations):
        if name not in pairs.relations:
            continue
        label, prefix = np.asarray(pairs.relations[name]), _prefix(name)
        clusters = matches.clusters[r]
        above = matches.above_threshold[:, r]
        called = {"score": alone[r], "weighed": above} if r in alone else {"score": above}
        given = {kind: found_at & chosen[place] if len(chosen) else found_at for kind, chosen in called.items()}
        given["cluster"] = clusters[pairs.left] == clusters[pairs.right]
        scores[f"{prefix}blocking_recall"] = _recall(found, label)
        for kind, y_pred in given.items():
            metrics = pair_metrics(label, y_pred)
            scores |= {f"{prefix}{kind}_{m}": metrics[m] for m in ("f1", "precision", "recall")}
        if name in single:
            true = np.unique([pairs.left[label == 1], pairs.right[label == 1]], axis=1)  # truth may name a pair twice
            for kind, chosen in (called | {"cluster": matches.together[:, r]}).items():
                ends = matches.left[chosen], matches.right[chosen]
                values = _partners(*ends, true[0], true[1], len(matches.records.table))
                scores |= {f"{prefix}{kind}_partner_{m}": value for m, value in values.items()}
    return scores


def _partners(
    left: np.ndarray, right: np.ndarray, true_left: np.ndarray, true_right: np.ndarray, n: int
) -> dict[str, float]:
    """F1, precision and recall of pairs among all of the ``n`` records whose one partner is known."""
    partner = np.full(n, -1)
    partner[true_left], partner[true_right] = true_right, true_left
    n_called = int(((partner[left] >= 0) | (partner[right] >= 0)).sum())
    n_right = int((partner[left] == right).sum())
    rates = {"precision": n_right / max(n_called, 1), "recall": n_right / max(len(true_left), 1)}
    return {"f1": 2 * n_right / max(n_called + len(true_left), 1)} | rates


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
