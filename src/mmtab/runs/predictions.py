"""The predictions file, written and read: ``predictions_<split>.parquet`` of a run folder and what predict.py writes.

    k-way      id · p_<class> of every class · prediction · label
               of more than 1,000 classes, instead of p_<class>: probability (of the prediction) ·
               top, top_probability (lists, the likeliest class first)
    regression id · prediction · low, high (of an interval that the label is likely to lie in) · label
    matching   left_id, right_id · probability (of a match) · prediction (0 or 1) · label
               with several relations: probability_<relation> and so on

``confidence`` follows the prediction where predictions below a confidence are left out; ``label`` is absent where there
is none. Ids and classes have the type that they had in the tables. A column that would be called like the id gets an
underscore more. In csv, lists are joined by semicolons.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmtab.data.schema import Schema
from mmtab.data.spelling import spelling
from mmtab.training.predictions import Predictions

PREDICTION, PROBABILITY, CONFIDENCE, LABEL = "prediction", "probability", "confidence", "label"
TOP, TOP_PROBABILITY = "top", "top_probability"
LOW, HIGH = "low", "high"
PAIR_IDS = ("left_id", "right_id")
_CLASS = "p_"


def predictions_path(folder: Path, split: str) -> Path:
    return folder / f"predictions_{split}.parquet"


def id_columns(schema: Schema) -> list[str]:
    """The columns that say which row, or pair, a prediction is of."""
    return [schema.id] if schema.of_rows else list(PAIR_IDS)


def free_name(name: str, taken: Collection[str]) -> str:
    """The name, or where it is taken, with underscores until it is not."""
    while name in taken:
        name += "_"
    return name


def class_columns(classes: Sequence[str], ids: Collection[str] = ()) -> dict[str, str]:
    """By class, the column with its probability. ``ids``: the columns that are called otherwise."""
    names = {name: f"{_CLASS}{name}" for name in classes}
    taken = {*ids, *names.values()} if set(ids) & set(names.values()) else set(ids)
    return {name: free_name(column, taken) if column in ids else column for name, column in names.items()}


def probability_columns(columns: Sequence[str], ids: Collection[str] = ()) -> list[str]:
    """Those that look like the probabilities of classes."""
    return [name for name in columns if name.startswith(_CLASS) and name not in ids]


def relation_suffixes(relations: Sequence[str]) -> list[str]:
    """What the names of a relation's columns end in."""
    return [""] if len(relations) == 1 else [f"_{relation}" for relation in relations]


def prediction_columns(schema: Schema, bounds: bool = False) -> list[str]:
    """The columns that hold predictions, one for each relation; with ``bounds`` those of the interval of a number."""
    suffixes = [""] if schema.of_rows else relation_suffixes(list(schema.relations))
    names = [*(f"{PREDICTION}{suffix}" for suffix in suffixes), *((LOW, HIGH) if bounds else ())]
    return [free_name(name, id_columns(schema)) for name in names]


# --- writing ---------------------------------------------------------------------------------------------------------


def kway_columns(
    classes: Sequence[str],
    probability: np.ndarray,
    y_pred: np.ndarray,
    ids: Collection[str] = (),
    values: pa.Array | None = None,
) -> dict[str, pa.Array]:
    """Columns of probabilities [n, k] and predicted classes [n]. ``ids``: the columns beside them; ``values`` [k]: the
    classes in their own type."""
    values = pa.array(classes, pa.string()) if values is None else values
    columns = class_columns(classes, ids)
    probabilities = {columns[name]: pa.array(p) for name, p in zip(classes, probability.T, strict=True)}
    return probabilities | {free_name(PREDICTION, ids): values.take(pa.array(y_pred))}


def pair_columns(relations: Sequence[str], probability: np.ndarray, y_pred: np.ndarray) -> dict[str, pa.Array]:
    """Columns of probabilities [n, r] of a match and predictions [n, r], 0 or 1."""
    columns: dict[str, pa.Array] = {}
    for r, suffix in enumerate(relation_suffixes(relations)):
        columns[f"{PROBABILITY}{suffix}"] = pa.array(probability[:, r])
        columns[f"{PREDICTION}{suffix}"] = pa.array(y_pred[:, r].astype(np.int8))
    return columns


def number_columns(
    y_pred: np.ndarray, interval: tuple[np.ndarray, np.ndarray] | None = None, ids: Collection[str] = ()
) -> dict[str, pa.Array]:
    """Columns of predicted numbers [n] and, where there are some, of the bounds of their intervals."""
    columns = {PREDICTION: y_pred} | ({} if interval is None else dict(zip((LOW, HIGH), interval, strict=True)))
    return {free_name(name, ids): pa.array(values) for name, values in columns.items()}


def predictions_table(
    ids: pa.Table,
    predictions: Predictions,
    y_pred: np.ndarray,
    *,
    relations: Sequence[str] = (),
    classes: Sequence[str] = (),
    values: pa.Array | None = None,
    interval: tuple[np.ndarray, np.ndarray] | None = None,
    labels: np.ndarray | None = None,
    confidence: np.ndarray | None = None,
    least_confidence: np.ndarray | None = None,
    as_text: bool = False,
) -> pa.Table:
    """Predictions of pairs where there are ``relations``, of rows as classes where there are ``classes``, else as
    numbers.

    ids:              id columns
    predictions:      their probabilities
    y_pred:           [n, r] class, number, or 1 for a match
    relations:        names of the relations of pairs
    classes:          names of the classes
    values:           [k] the classes in their own type
    interval:         bounds [n] and [n] of numbers
    labels:           [n] class or number, or [n, r] of pairs; None: unknown
    confidence:       [n, r], written where ``least_confidence`` is given
    least_confidence: [r] predictions with less confidence are left out
    as_text:          lists are joined by semicolons, as a csv has them
    """
    columns, taken = {name: ids[name] for name in ids.column_names}, ids.column_names
    values = pa.array(classes, pa.string()) if values is None else values
    suffixes = relation_suffixes(relations) if relations else [""]
    if relations:
        assert predictions.probability is not None
        columns |= pair_columns(relations, predictions.probability, y_pred)
    elif not classes:
        columns |= number_columns(y_pred[:, 0], interval, taken)
    elif predictions.probability is not None:
        columns |= kway_columns(classes, predictions.probability, y_pred[:, 0], taken, values)
    else:
        likeliest = _likeliest_columns(values, predictions, as_text)
        columns |= {free_name(name, taken): column for name, column in likeliest.items()}
    if labels is not None and not relations:
        columns[free_name(LABEL, taken)] = values.take(pa.array(labels)) if classes else pa.array(labels)
    for r, suffix in enumerate(suffixes):
        prediction = free_name(f"{PREDICTION}{suffix}", taken)
        if labels is not None and relations:
            columns = _insert_after(columns, prediction, f"{LABEL}{suffix}", pa.array(labels[:, r].astype(np.int8)))
        if least_confidence is not None and confidence is not None:
            values, sufficient = columns[prediction], pa.array(confidence[:, r] >= least_confidence[r])
            columns[prediction] = pc.if_else(sufficient, values, pa.scalar(None, values.type))
            name = free_name(f"{CONFIDENCE}{suffix}", taken)
            columns = _insert_after(columns, prediction, name, pa.array(confidence[:, r]))
    return pa.table(list(columns.values()), names=list(columns))


def _insert_after(columns: dict[str, Any], before: str, name: str, values: pa.Array) -> dict[str, Any]:
    items = list(columns.items())
    place = list(columns).index(before) + 1
    return dict([*items[:place], (name, values), *items[place:]])


def _likeliest_columns(names: pa.Array, predictions: Predictions, as_text: bool) -> dict[str, pa.Array]:
    """Columns of very many classes: the likeliest [n, m] of each row."""
    best, p = predictions.best, predictions.best_probability
    assert best is not None and p is not None
    p = p.astype(np.float32)
    return {
        PREDICTION: names.take(pa.array(best[:, 0])),
        PROBABILITY: pa.array(p[:, 0]),
        TOP: _lists(names.take(pa.array(best.ravel())), best.shape[1], as_text),
        TOP_PROBABILITY: _lists(pa.array(p.ravel()), best.shape[1], as_text),
    }


def _lists(values: pa.Array, size: int, as_text: bool) -> pa.Array:
    """Values as lists of ``size`` each, or as text with semicolons."""
    if as_text:
        values = spelling(values).cast(pa.string())
    lists = pa.ListArray.from_arrays(pa.array(range(0, len(values) + 1, size), pa.int32()), values)
    return pc.binary_join(lists, ";") if as_text else lists


def readable(ids: pa.Table) -> list[str]:
    """Ids, or those of both rows of pairs, for people to read."""
    columns = [spelling(ids[name].combine_chunks()).to_pylist() for name in ids.column_names]
    return [" and ".join(row) for row in zip(*columns, strict=True)]
