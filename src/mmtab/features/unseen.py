"""Columns of which nearly all cells are new to a model: other units, other codes, another language."""

from __future__ import annotations

import warnings

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmtab.data.schema import ColumnType, Schema
from mmtab.data.streams import Stream
from mmtab.data.table import Table
from mmtab.features.encoded import EncodedTable
from mmtab.features.preprocess import MISSING, N_SPECIAL_IDS, UNSEEN, Fitted, Preprocessor

NEARLY_ALL, ENOUGH = 0.9, 10  # share of a column's cells, and how many there have to be
ON_VALID = 0.5  # share from which on a column, such as one of names, is taken for one of which most cells are new


def unseen_columns(
    table: Table | Stream,
    encoded: EncodedTable,
    fitted: Preprocessor,
    schema: Schema,
    rows: np.ndarray | None = None,
    share: float = NEARLY_ALL,
) -> dict[str, str]:
    """By column of which the ``share`` of the cells is unlike those of train, what came and what train had. A category
    is unlike where train had it seldom or never; a number where it lies outside the range of train, most of them by
    more than its width; and any column that train had is where all cells are missing. ``rows``: the rows to look at;
    default all."""
    suspects, take = dict[str, str](), slice(None) if rows is None else rows
    empty = _empty_columns(table, fitted, schema, rows)
    for (name, coder), ids in zip(fitted.coders_.items(), encoded.categorical[take].T, strict=True):
        known = N_SPECIAL_IDS + len(coder.vocabulary_)
        if coder.vocabulary_ and _reaches(share, (ids == UNSEEN) | (ids >= known), ids != MISSING):
            suspects[name] = ", ".join(map(repr, coder.vocabulary_[:3]))
    for (name, scaler), x in zip(fitted.scalers_.items(), encoded.numeric[take].T, strict=True):
        low, high = scaler.transform(np.array([-np.inf, np.inf]))
        if name in schema.of_type(ColumnType.NUMERIC) and _reaches(share, (x <= low) | (x >= high), ~np.isnan(x)):
            suspects[name] = ""
    found = dict.fromkeys(empty, "all cells are missing, which train had")
    if not suspects:
        return found
    first = next(iter(table.batches()))  # for examples, and numbers as they are; of a large table not all
    compared = {name: _compared(first, name, had, fitted) for name, had in suspects.items()}
    return found | {name: text for name, text in compared.items() if text}


def _empty_columns(table: Table | Stream, fitted: Preprocessor, schema: Schema, rows: np.ndarray | None) -> list[str]:
    """Those with cells in train, and none in as many rows as are enough."""
    unknown = {name for name, coder in fitted.coders_.items() if not coder.vocabulary_}
    unknown |= {name.removesuffix(":time") for name, scaler in fitted.scalers_.items() if not scaler.quantiles_}
    unknown |= {*schema.absent.get(table.name, ())}
    empty, n_rows = [column.name for column in schema.columns if column.name not in unknown], 0
    for batch in table.batches() if empty else ():
        take = slice(None) if rows is None else rows
        empty = [name for name in empty if not np.asarray(batch.columns[name].is_valid())[take].any()]
        n_rows += len(batch) if rows is None else len(rows)
        if not empty:
            break
    return empty if n_rows >= ENOUGH else []


def unseen_shares(train: EncodedTable, table: EncodedTable) -> np.ndarray:
    """[c_cat] by column, the share of the categories in ``table`` that ``train`` never had; of those not missing."""
    shares = []
    for known, ids in zip(train.categorical.T, table.categorical.T, strict=True):
        present = ids[ids != MISSING]
        strange = (present == UNSEEN) | ~np.isin(present, np.unique(known))
        shares.append(strange.mean() if len(present) else 0.0)
    return np.array(shares)


def warn_of_unseen(table: Table | Stream, encoded: EncodedTable, fitted: Fitted, schema: Schema) -> None:
    """Of columns that did not look like that on valid, which train was not to know either."""
    if fitted.unseen is None:  # a run of before
        return
    columns = unseen_columns(table, encoded, fitted.preprocessor, schema)
    texts = [f"column {name}: {text}" for name, text in columns.items() if name not in fitted.unseen]
    if texts:
        warnings.warn(
            f"dataset {schema.name}, table {table.name}: nearly all cells are unlike those of train in "
            f"{'; '.join(texts)}. Predictions hardly know these columns. Fix: write them as train has them, or train "
            "on such rows",
            stacklevel=4,
        )


def _reaches(share: float, unlike: np.ndarray, present: np.ndarray) -> bool:
    n = int(present.sum())
    return n >= ENOUGH and int((unlike & present).sum()) >= share * n


def _compared(batch: Table, name: str, had: str, fitted: Preprocessor) -> str:
    cells = batch.columns[name].drop_null()
    if name in fitted.coders_:
        values = pc.unique(cells)
        values = values.filter(pc.invert(pc.is_in(values, pa.array(fitted.coders_[name].vocabulary_, values.type))))
        return f"found {', '.join(map(repr, values[:3].to_pylist()))}, train had {had}"
    numbers, quantiles = np.asarray(cells, np.float64), fitted.scalers_[name].quantiles_
    if not quantiles or not len(numbers):
        return ""
    low, high = quantiles[0], quantiles[-1]
    width = max(high - low, 0.1 * max(abs(low), abs(high)))
    outside, far = (numbers < low) | (numbers > high), (numbers < low - width) | (numbers > high + width)
    if outside.mean() < NEARLY_ALL or far.mean() < 0.5:
        return ""
    return f"found {numbers.min():g} to {numbers.max():g}, train had {low:g} to {high:g}"
