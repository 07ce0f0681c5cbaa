"""Clusters of matched records on a page, where their records can be labelled apart, or together with one outside."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from mmtab.matching.result import Matches
from mmtab.reports.rows import Cell, cells_of

N_CLUSTERS, N_MEMBERS = 20, 12  # shown at most, of a relation and of a cluster


@dataclass(frozen=True)
class ShownRecord:
    id: str
    side: str
    cells: list[Cell]  # without the id


@dataclass(frozen=True)
class ShownCluster:
    """``weakest``: the least probability of a candidate within it, None where only others hold it together.
    ``outside``: the record elsewhere that is likeliest to be the same, the member that it is like, and how likely."""

    relation: str
    number: int
    n_members: int
    weakest: float | None
    members: list[ShownRecord]
    outside: tuple[ShownRecord, ShownRecord, float] | None


def shown_clusters(matches: Matches) -> list[ShownCluster]:
    """Clusters of several records, those with the weakest link first."""
    return [cluster for r in range(len(matches.thresholds)) for cluster in _of_relation(matches, r)]


def _of_relation(matches: Matches, r: int) -> Iterator[ShownCluster]:
    clusters, p, within = matches.clusters[r], matches.probability[:, r], matches.together[:, r]
    sizes = np.bincount(clusters, minlength=1)
    weakest = np.full(len(sizes), np.inf)
    np.minimum.at(weakest, clusters[matches.left[within]], p[within])
    several = np.flatnonzero(sizes > 1)
    for number in several[np.argsort(weakest[several], kind="stable")][:N_CLUSTERS].tolist():
        members = np.flatnonzero(clusters == number)[:N_MEMBERS].tolist()
        yield ShownCluster(
            list(matches.schema.relations)[r],
            number,
            int(sizes[number]),
            float(weakest[number]) if np.isfinite(weakest[number]) else None,
            [_record(matches, row) for row in members],
            _outside(matches, r, number),
        )


def _outside(matches: Matches, r: int, number: int) -> tuple[ShownRecord, ShownRecord, float] | None:
    ends = matches.left, matches.right
    inside = [matches.clusters[r][end] == number for end in ends]
    (places,) = np.nonzero((inside[0] != inside[1]) & (matches.known[:, r] < 0))
    if not len(places):
        return None
    place = places[matches.probability[places, r].argmax()]
    member, other = (int(end[place]) for end in (ends if inside[0][place] else ends[::-1]))
    return _record(matches, other), _record(matches, member), float(matches.probability[place, r])


def _record(matches: Matches, row: int) -> ShownRecord:
    (_, id_), *cells = cells_of(matches.schema, matches.records.table, row)
    assert isinstance(id_, str)
    return ShownRecord(id_, matches.records.side_of(row), cells)
