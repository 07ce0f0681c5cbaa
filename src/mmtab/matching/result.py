"""What matching gives: candidates with their probabilities, and the clusters of the records."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from scipy.special import logit

from mmtab.data import files
from mmtab.data.pairs import Records
from mmtab.data.schema import Schema
from mmtab.data.spelling import typed
from mmtab.matching.asked import clusters_path, vectors_path
from mmtab.matching.blocking import Candidates
from mmtab.matching.explain import contributions_text
from mmtab.matching.labels import worth_labelling
from mmtab.runs.predictions import free_name, relation_suffixes
from mmtab.utils.atomic import write_json

DOUBTFUL = "doubtful pairs, whose labels say most"


def write_candidates(
    output: Path, schema: Schema, records: Records, candidates: Candidates, vectors: np.ndarray
) -> None:
    """Write ``output`` (candidates, with the score of blocking) and ``<output>_vectors.parquet`` (the vectors [n, d] of
    the records)."""
    output.parent.mkdir(parents=True, exist_ok=True)
    ids = typed(records.table.ids, schema.stored(schema.id))
    ends = {"left_id": ids.take(pa.array(candidates.left)), "right_id": ids.take(pa.array(candidates.right))}
    files.write_table(output, pa.table(ends | {"score": pa.array(candidates.score)}))
    cells = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1])
    columns = _names(schema, records, ids) | {free_name("vector", [schema.id]): cells}
    files.write_table(vectors_path(output), pa.table(columns))


def _names(schema: Schema, records: Records, ids: pa.Array) -> dict[str, pa.Array]:
    """Of all records, the table that they are in, and the id."""
    sides = np.repeat(list(records.sides), [len(rows) for rows in records.sides.values()])
    return {free_name("table", [schema.id]): pa.array(sides, pa.string()), schema.id: ids}


@dataclass
class Matches:
    """Candidates, scored and clustered.

    schema, records: of the tables that were matched
    left, right: [n] row numbers of the candidates
    probability: [n, r] of each candidate, by relation
    clusters: [r, n_records] the cluster of each record
    thresholds: [r] probabilities from which on a pair counts as a match
    known: [n, r] 1 and 0 of pairs that a person labelled, -1 of others
    n_blocked: so many of the candidates come from blocking; the others were labelled
    columns: what ``contributions`` are given for
    contributions: place among the candidates -> [r, columns] log-odds
    report: counts, blocking, seconds, memory and, given truth, scores
    """

    schema: Schema
    records: Records
    left: np.ndarray
    right: np.ndarray
    probability: np.ndarray
    clusters: np.ndarray
    thresholds: np.ndarray
    known: np.ndarray
    n_blocked: int
    columns: list[str]
    contributions: dict[int, np.ndarray] = field(default_factory=dict)
    report: dict[str, Any] = field(default_factory=dict)

    @property
    def together(self) -> np.ndarray:
        """[n, r] bool: candidates whose records are in one cluster."""
        return (self.clusters[:, self.left] == self.clusters[:, self.right]).T

    @property
    def above_threshold(self) -> np.ndarray:
        """[n, r] bool: candidates that score as matches, or are known to be some."""
        return np.where(self.known >= 0, self.known == 1, self.probability >= self.thresholds)

    def worth_labelling(self, relation: int, n: int, seed: int = 0, among: np.ndarray | None = None) -> list[int]:
        """Up to n candidates without a label whose labels say most; ``among`` [n_candidates] bool: of which."""
        p, t = self.probability[:, relation].clip(1e-15, 1 - 1e-15), self.thresholds[relation]
        open_ = self.known[:, relation] < 0 if among is None else among
        margin = np.where(open_, logit(p) - logit(t), np.nan)
        pairs = self.left, self.right
        return worth_labelling(pairs, margin, self.clusters[relation], n, np.random.default_rng(seed))

    def samples(self, n: int, seed: int = 0) -> dict[str, list[int]]:
        """Candidates worth a person's look, by group, ``n`` in all where there are enough; each stands in one group."""
        relations, above = range(self.known.shape[1]), self.above_threshold
        agreed, few = np.flatnonzero((self.together & above & (self.known < 0)).any(1)), n // 8
        candidates = {
            DOUBTFUL: (n - 2 * few, [self.worth_labelling(r, n, seed) for r in relations]),
            "scored as a match, parted by clustering": (
                few,
                [np.flatnonzero(above[:, r] & ~self.together[:, r]).tolist() for r in relations],
            ),
            "matches at random": (few, [np.random.default_rng(seed).permutation(agreed).tolist()]),
        }
        taken, groups = set[int](), dict[str, list[int]]()
        for group, (room, lists) in candidates.items():
            for places in lists:
                free = [place for place in places if place not in taken][: room // len(lists)]
                groups.setdefault(group, []).extend(free)
                taken.update(free)
        return {group: places for group, places in groups.items() if places}

    def write(self, output: Path) -> None:
        """Write ``output`` (pairs above a threshold or in one cluster), ``<output>_clusters`` (records) and the report,
        ``<output>.json``."""
        output.parent.mkdir(parents=True, exist_ok=True)
        files.write_table(output, self._pairs())
        files.write_table(clusters_path(output), self._members())
        write_json(output.with_suffix(".json"), self.report)

    def _pairs(self) -> pa.Table:
        ids, together, relations = self._ids, self.together, list(self.schema.relations)
        places = np.flatnonzero((together | self.above_threshold).any(1))
        left, right = self.left[places], self.right[places]
        columns: dict[str, pa.Array] = {"left_id": ids.take(pa.array(left)), "right_id": ids.take(pa.array(right))}
        for r, suffix in enumerate(relation_suffixes(relations)):
            columns[f"probability{suffix}"] = pa.array(self.probability[places, r])
            columns[f"prediction{suffix}"] = pa.array(together[places, r].astype(np.int8))
            columns[f"cluster{suffix}"] = pa.array(self.clusters[r][left], mask=~together[places, r])
            if self.contributions:
                for title, sign in (("for", 1), ("against", -1)):
                    texts = [contributions_text(self.contributions[int(i)][r], self.columns, sign) for i in places]
                    columns[f"spoke_{title}{suffix}"] = pa.array(texts, pa.string())
        return pa.table(columns)

    def _members(self) -> pa.Table:
        key, relations = self.schema.id, list(self.schema.relations)
        columns = _names(self.schema, self.records, self._ids)
        for r, suffix in enumerate(relation_suffixes(relations)):
            columns[free_name(f"cluster{suffix}", [key])] = pa.array(self.clusters[r])
        return pa.table(columns)

    @property
    def _ids(self) -> pa.Array:
        """[n_records] in the type that train had them in."""
        return typed(self.records.table.ids, self.schema.stored(self.schema.id))
