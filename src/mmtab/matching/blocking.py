"""Blocking: which pairs of records are worth scoring: the nearest neighbours by words and vectors, in one score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmtab.data.digests import digest_of
from mmtab.data.pairs import Records
from mmtab.data.schema import Schema
from mmtab.data.table import Table
from mmtab.matching.encoding import Context, EncodedRecords, encode_records
from mmtab.matching.search import Searcher, Side, word_vectors
from mmtab.utils.cache import Arrays
from mmtab.utils.errors import DataError, MmtabError

WEIGHTS = tuple(np.linspace(0, 1, 11).round(1).tolist())
K, WEIGHT = 20, 0.5  # where there is nothing to choose them by
AT_ONCE = 4096  # records whose tokens are in memory


@dataclass(frozen=True)
class Neighbourhood:
    """Each record gets the ``k`` others of the highest score, in which vectors have the ``weight`` and words the rest;
    ``recall``: the share of known matches that they retrieve, None where there are none to choose by."""

    k: int
    weight: float
    recall: float | None


@dataclass(frozen=True)
class Candidates:
    """Pairs worth scoring: left and right row numbers [n], sorted, each pair once, and the score by which they were
    found [n]."""

    neighbourhood: Neighbourhood
    left: np.ndarray
    right: np.ndarray
    score: np.ndarray

    @staticmethod
    def none() -> Candidates:
        return Candidates(Neighbourhood(0, 0.0, None), *(np.zeros(0, np.int64),) * 2, np.zeros(0, np.float32))


def block(context: Context, encoded: EncodedRecords) -> Candidates:
    """The candidates among the records, and the neighbourhood that they are found in.

    The smaller side asks: each of its records gets the nearest of the other side.
    """
    sides, n_left, shard = _side(context, encoded), context.records.n_left, context.config.index_shard
    rows = np.arange(len(sides))
    if n_left is None:
        searcher, query_rows, other_rows, left_asks = Searcher(sides, None, shard), rows, rows, True
    else:
        query_rows, other_rows = sorted((rows[:n_left], rows[n_left:]), key=len)
        searcher, left_asks = Searcher(sides[query_rows], sides[other_rows], shard), int(query_rows[0]) == 0
    size = _choose_on_valid(context, searcher, left_asks)

    def build(_: object) -> Arrays:
        queries, others, score = candidate_pairs(*searcher.neighbours(size.k, size.weight), n_left is None)
        queries, others = query_rows[queries], other_rows[others]
        left, right = (queries, others) if left_asks else (others, queries)
        order = np.lexsort((right, left))  # so that a shard of pairs needs few shards of records
        return {"left": left[order], "right": right[order], "score": score[order]}

    key = {"key": context.key, "k": size.k, "weight": size.weight, "index_shard": shard}
    candidates = context.store.arrays("candidates", key, build)
    return Candidates(size, *(np.array(candidates[name]) for name in ("left", "right", "score")))


def candidate_pairs(
    nearest: np.ndarray, scores: np.ndarray, same: bool = False
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Neighbours [n, k] (-1: none) as query and other row numbers, each pair once, in order, with their scores.

    ``same``: both are rows of one table, so that (a, b) and (b, a) are one pair.
    """
    a, b = np.repeat(np.arange(len(nearest)), nearest.shape[1]), nearest.ravel()
    a, b, scores = a[b >= 0], b[b >= 0], scores.ravel()[b >= 0]
    if same:
        a, b = np.minimum(a, b), np.maximum(a, b)
    n = int(b.max(initial=0)) + 1
    pairs, first = np.unique(a.astype(np.int64) * n + b, return_index=True)
    return pairs // n, pairs % n, scores[first]


def choose_neighbourhood(ranks: np.ndarray, weights: Sequence[float], max_k: int, recall: float) -> Neighbourhood:
    """The smallest neighbourhood that retrieves the share ``recall`` of the known matches, or else the most of them.

    ``ranks`` [n, weights]: of known partners, by each weight (``Searcher.partner_ranks``). Among neighbourhoods of one
    size the better recall wins, then the weight by which partners rank best.
    """
    if not len(ranks):
        return Neighbourhood(min(max_k, K), WEIGHT, None)
    ks = np.arange(1, max_k + 1)
    recalls = np.stack([np.searchsorted(np.sort(column), ks) for column in ranks.T], 1) / len(ranks)  # [k, weights]
    enough = recalls >= min(recall, recalls.max()) - 1e-9
    k = int(enough.any(1).argmax())
    order = np.lexsort((np.log1p(ranks).mean(0), -recalls[k]))
    return Neighbourhood(k + 1, float(weights[order[0]]), float(recalls[k, order[0]]))


def search_vectors(encoded: EncodedRecords) -> np.ndarray:
    """[n_records, d] float32, of length 1."""
    if encoded.has("vector"):
        return encoded.read("vector")
    # Neither towers nor bi-encoder: the mean of the row's tokens, untrained for this but better than nothing
    slices = (np.arange(i, min(i + AT_ONCE, encoded.n)) for i in range(0, encoded.n, AT_ONCE))
    parts = (encoded.take("tokens", rows).astype(np.float32).mean(1) for rows in slices)
    return np.concatenate([x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-9) for x in parts])


def _side(context: Context, encoded: EncodedRecords) -> Side:
    return Side(word_vectors(_texts(context.records.table, context.session.schema)), search_vectors(encoded))


def _choose_on_valid(context: Context, searcher: Searcher, left_asks: bool) -> Neighbourhood:
    """By the valid matches of the run's dataset: the ranks that their partners would have among the records at hand."""
    config = context.config
    n_queries, n_others = len(searcher.queries), len(searcher.others)
    max_k = min(config.k or max(1, min(config.max_k, config.max_candidates // n_queries)), n_others)
    try:
        pairs, records = context.labelled("valid"), context.dataset[1]
        left, right = pairs.matches
        if not len(left):
            raise DataError(context.session.schema.name, "no pair has label 1", table=pairs.name)
        rows = np.unique(np.concatenate([left, right]))
        n_left = None if records.n_left is None or searcher.same else int((rows < records.n_left).sum())
        matched = Records(records.table.take(rows), n_left)
        valid = replace(context, records=matched, key=digest_of(f"{context.key} valid"))
        side = _side(valid, encode_records(valid))  # which wants their pictures, too
    except MmtabError as error:
        k = max_k if config.k else min(max_k, K)
        print(f"k={k}, since the valid pairs of the run's dataset cannot be read to choose it ({error})")
        return Neighbourhood(k, WEIGHT, None)
    queries, partners = np.searchsorted(rows, left), np.searchsorted(rows, right)
    query_rows = None
    if searcher.same:  # in a table that holds both, a record is not its own neighbour
        query_rows = pc.index_in(matched.table.ids.take(pa.array(queries)), value_set=context.records.table.ids)
        query_rows = np.asarray(pc.fill_null(query_rows, -1)).astype(np.int64)
    if not left_asks:
        queries, partners = partners, queries
    ranks = searcher.partner_ranks(side[queries], side[partners], WEIGHTS, max_k, query_rows)
    if config.k is None:
        return choose_neighbourhood(ranks, WEIGHTS, max_k, config.recall)
    best = int(np.log1p(ranks).mean(0).argmin())
    return Neighbourhood(max_k, WEIGHTS[best], float((ranks[:, best] < max_k).mean()))


def _texts(table: Table, schema: Schema) -> list[str]:
    """All text of each row, without the columns that some relation ignores."""
    if not schema.written:
        return [""] * len(table)
    cells = [pc.fill_null(table.columns[name].cast(pa.large_string()), "") for name in schema.written]
    return pc.binary_join_element_wise(*cells, pa.scalar(" ", pa.large_string())).to_pylist()
