"""What each column adds to the score of a pair: the log-odds of the pair less those without the column."""

from __future__ import annotations

import functools

import numpy as np
import torch

from mmtab.features.similarity import EVERYTHING
from mmtab.matching.encoding import Context, EncodedRecords, RecordsInMemory
from mmtab.matching.scoring import logits_of, map_pairs


def explained_columns(context: Context) -> list[str]:
    """The columns, and all texts taken together where similarity features compare them."""
    names = [column.name for column in context.session.schema.columns]
    similarity = context.session.fitted.similarity
    return [*names, EVERYTHING] if context.model.comparison is not None and similarity is not None else names


def explain(
    context: Context, encoded: EncodedRecords, left: np.ndarray, right: np.ndarray, columns: list[str]
) -> np.ndarray:
    """[n, r, columns]: the contributions of columns to the log-odds of pairs, given by left and right row numbers."""
    shape = (len(context.session.schema.relations), len(columns))
    compute = functools.partial(_contributions, columns)
    width = shape[0] * shape[1]
    flat, _ = map_pairs(context, encoded, (left, right), compute, width, kind="reasons", title="explaining pairs")
    return flat.reshape(len(left), *shape)


def contributions_text(contributions: np.ndarray, columns: list[str], sign: int) -> str:
    """Columns that speak for (1) or against (-1) a match, the strongest first, such as "title +3.2; brand +0.8"."""
    order = [i for i in np.argsort(-sign * contributions, kind="stable") if sign * contributions[i] >= 0.05]
    return "; ".join(f"{column_title(columns[i])} {contributions[i]:+.1f}" for i in order)


def column_title(column: str) -> str:
    return "texts together" if column == EVERYTHING else column


def _contributions(
    columns: list[str],
    context: Context,
    records: RecordsInMemory,
    left: np.ndarray,
    right: np.ndarray,
    similarity: np.ndarray | None,
) -> np.ndarray:
    """[n, r * columns]"""
    owners, fitted = np.array(context.model.owners, object), context.session.fitted.similarity
    logits, differences = logits_of(context, records, left, right, similarity), []
    for name in columns:
        features = similarity
        if similarity is not None and fitted is not None:
            of_column = np.array([owner == name for owner in fitted.owners])
            features = np.where(of_column, np.float32(np.nan), similarity)
        hidden = torch.from_numpy((owners == name).astype(bool))
        differences.append(logits - logits_of(context, records, left, right, features, hidden, name))
    return np.stack(differences, 2).reshape(len(left), -1)
