"""Blocking: which pairs of records are worth scoring, as the union of two kinds of nearest neighbours."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmtab.data.dataset import dataset_folder
from mmtab.data.digests import digest_of
from mmtab.data.pairs import Records, read_pairs, read_records
from mmtab.data.schema import Schema
from mmtab.data.table import Table
from mmtab.matching.encoding import Context, EncodedRecords, encode_records, take_rows
from mmtab.matching.search import Searcher, Side, word_vectors
from mmtab.runs.inputs import cache_of
from mmtab.utils.cache import Arrays
from mmtab.utils.errors import MmtabError


@dataclass(frozen=True)
class Neighbourhood:
    """How many neighbours of each kind a record gets; ``recall``: the share of known matches that they retrieve, None
    where there are none to choose by."""

    k_words: int
    k_vectors: int
    recall: float | None


def block(context: Context, encoded: EncodedRecords) -> tuple[Neighbourhood, np.ndarray, np.ndarray]:
    """The size of the neighbourhood, and the candidates as left and right row numbers, sorted, each pair once.

    The smaller side asks: each of its records gets the nearest of the other side.
    """
    sides, n_left = _side(context, encoded), context.records.n_left
    rows = np.arange(len(sides))
    if n_left is None:
        searcher, query_rows, other_rows, left_asks = Searcher(sides), rows, rows, True
    else:
        query_rows, other_rows = sorted((rows[:n_left], rows[n_left:]), key=len)
        searcher, left_asks = Searcher(sides[query_rows], sides[other_rows]), int(query_rows[0]) == 0
    if context.config.k is not None:
        k = min(context.config.k, len(sides))
        size = Neighbourhood(k, k, None)
    else:
        size = _choose_on_valid(context, searcher, left_asks)

    def build(_: object) -> Arrays:
        nearest = searcher.neighbours(max(size.k_words, size.k_vectors, 1))
        queries, others = candidate_pairs(*nearest, size, n_left is None)
        queries, others = query_rows[queries], other_rows[others]
        left, right = (queries, others) if left_asks else (others, queries)
        order = np.lexsort((right, left))  # so that a shard of pairs needs few shards of records
        return {"left": left[order], "right": right[order]}

    key = {"key": context.key, "k_words": size.k_words, "k_vectors": size.k_vectors}
    candidates = context.store.arrays("candidates", key, build)
    return size, np.array(candidates["left"]), np.array(candidates["right"])


def candidate_pairs(
    by_words: np.ndarray, by_vectors: np.ndarray, size: Neighbourhood, same: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """The union of both kinds of neighbours [n, k] as query and other row numbers, each pair once, in order.

    ``same``: both are rows of one table, so that (a, b) and (b, a) are one pair.
    """
    parts = [by_words[:, : size.k_words], by_vectors[:, : size.k_vectors]]
    a = np.concatenate([np.repeat(np.arange(len(part)), part.shape[1]) for part in parts])
    b = np.concatenate([part.ravel() for part in parts])
    a, b = a[b >= 0], b[b >= 0]
    if same:
        a, b = np.minimum(a, b), np.maximum(a, b)
    n = int(b.max(initial=0)) + 1
    pairs = np.unique(a.astype(np.int64) * n + b)
    return pairs // n, pairs % n


def choose_neighbourhood(ranks: np.ndarray, max_k: int, recall: float) -> Neighbourhood:
    """The smallest neighbourhood that retrieves the share ``recall`` of the known matches, or else the most of them.

    ``ranks`` [n, 2]: of known partners, by words and by vectors (``Searcher.partner_ranks``). Among neighbourhoods of
    one size the better recall wins, then more neighbours by words, which cost less.
    """

    def recall_of(k_words: int, k_vectors: int) -> float:
        return float(((ranks[:, 0] < k_words) | (ranks[:, 1] < k_vectors)).mean()) if len(ranks) else 0.0

    ks = range(max_k + 1)
    options = [(recall_of(words, vectors), words, vectors) for words in ks for vectors in ks]
    best = max(reached for reached, *_ in options)
    sufficient = [option for option in options if option[0] >= min(recall, best)]
    reached, words, vectors = min(sufficient, key=lambda option: (option[1] + option[2], -option[0], option[2]))
    return Neighbourhood(words, vectors, reached)


def _side(context: Context, encoded: EncodedRecords) -> Side:
    table = context.records.table
    if encoded.has("vector"):
        vectors = encoded.read("vector")
    else:  # no bi-encoder: the mean of the row's tokens, untrained for this but better than nothing
        shards = np.array_split(np.arange(len(table)), len(encoded.shards))
        means = [encoded.take("tokens", rows).astype(np.float32).mean(1) for rows in shards]
        vectors = np.concatenate([x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-9) for x in means])
    return Side(word_vectors(_texts(table, context.session.schema)), vectors)


def _choose_on_valid(context: Context, searcher: Searcher, left_asks: bool) -> Neighbourhood:
    """By the valid matches of the run's dataset: the ranks that their partners would have among the records at hand."""
    session, max_k = context.session, context.config.max_k
    dataset = session.config.dataset
    try:
        folder = dataset_folder(dataset, session.config.data_root, cache_of(session.config))
        records = read_records(folder, session.schema, dataset.bad_cells)  # type: ignore[arg-type]
        pairs = read_pairs(folder, session.schema, "valid", records)
    except MmtabError as error:
        print(f"k={max_k}, since the valid pairs of the run's dataset cannot be read to choose it ({error})")
        return Neighbourhood(max_k, max_k, None)
    is_match = np.any([np.asarray(labels) == 1 for labels in pairs.relations.values()], 0)
    left, right = pairs.left[is_match], pairs.right[is_match]
    rows, places = np.unique(np.concatenate([left, right]), return_inverse=True)
    matched = Records(take_rows(records.table, rows), None)
    valid = replace(context, records=matched, key=digest_of(f"{context.key} valid"))
    side = _side(valid, encode_records(valid))
    queries, partners = places[: len(left)], places[len(left) :]
    query_rows = None
    if searcher.same:  # in a table that holds both, a record is not its own neighbour
        query_rows = pc.index_in(matched.table.ids.take(pa.array(queries)), value_set=context.records.table.ids)
        query_rows = np.asarray(pc.fill_null(query_rows, -1)).astype(np.int64)
    if not left_asks:
        queries, partners = partners, queries
    ranks = searcher.partner_ranks(side[queries], side[partners], max_k, query_rows)
    return choose_neighbourhood(ranks, max_k, context.config.recall)


def _texts(table: Table, schema: Schema) -> list[str]:
    """All text of each row, without the columns that some relation ignores."""
    if not schema.written:
        return [""] * len(table)
    cells = [pc.fill_null(table.columns[name].cast(pa.large_string()), "") for name in schema.written]
    return pc.binary_join_element_wise(*cells, pa.scalar(" ", pa.large_string())).to_pylist()
