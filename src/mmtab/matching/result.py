"""What matching gives: candidates with their probabilities, and the clusters of the records."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from mmtab.data import files
from mmtab.data.pairs import Records
from mmtab.data.schema import Schema
from mmtab.data.spelling import typed
from mmtab.matching.blocking import Candidates
from mmtab.matching.explain import contributions_text
from mmtab.runs.predictions import free_name, relation_suffixes
from mmtab.utils.atomic import write_json


def clusters_path(output: Path) -> Path:
    return output.with_name(f"{output.stem}_clusters{output.suffix}")


def vectors_path(output: Path) -> Path:
    return output.with_name(f"{output.stem}_vectors.parquet")


def paths_beside(output: Path) -> list[Path]:
    """What may be written beside ``output``."""
    return [clusters_path(output), vectors_path(output), output.with_suffix(".json"), output.with_suffix(".html")]


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
    columns: list[str]
    contributions: dict[int, np.ndarray] = field(default_factory=dict)
    report: dict[str, Any] = field(default_factory=dict)

    @property
    def together(self) -> np.ndarray:
        """[n, r] bool: candidates whose records are in one cluster."""
        return (self.clusters[:, self.left] == self.clusters[:, self.right]).T

    @property
    def above_threshold(self) -> np.ndarray:
        """[n, r] bool: candidates that score as matches."""
        return self.probability >= self.thresholds

    def samples(self, n: int, seed: int = 0) -> dict[str, list[int]]:
        """Candidates worth a person's look, by group, ``n`` in all where there are enough; each stands in one group."""
        rng, groups = np.random.default_rng(seed), dict[str, list[int]]()
        above, margin = self.above_threshold, (self.probability - self.thresholds).T
        below_lists, doubtful_lists, parted_lists = [], [], []
        for r, of_relation in enumerate(margin):
            below, matching = np.flatnonzero(~above[:, r]), np.flatnonzero(above[:, r])
            below_lists.append(below[np.argsort(-of_relation[below])])
            doubtful_lists.append(matching[np.argsort(of_relation[matching])])
            parted_lists.append(np.flatnonzero(above[:, r] & ~self.together[:, r]))
        agreed = np.flatnonzero((self.together & above).any(1))
        candidates = {
            "just below the threshold": below_lists,
            "doubtful matches": doubtful_lists,
            "scored as a match, parted by clustering": parted_lists,
            "matches at random": [rng.permutation(agreed)],
        }
        taken: set[int] = set()
        for group, lists in candidates.items():
            room = n // len(candidates)
            for places in lists:
                free = [int(place) for place in places[: 4 * room] if int(place) not in taken]
                groups.setdefault(group, []).extend(free[: room // len(lists)])
                taken.update(groups[group])
        return {group: groups[group] for group in reversed(candidates) if groups[group]}

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
