"""What a report says and shows of predicted numbers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from mmtab.reports.rows import cells_of
from mmtab.reports.slices import Source, Z
from mmtab.runs.scored_numbers import ScoredNumbers
from mmtab.training.regression import LEVEL

FEW = 0.05  # of the rows, whose share of all squared errors is told
N_WORST = 12


def scores(predictions: ScoredNumbers) -> str:
    """The score and the errors, in words."""
    metrics = predictions.metrics
    text = f"{predictions.split} R² is {metrics['r2']:.3f}; always predicting the mean gives 0. Errors are"
    return f"{text} {metrics['mae']:.4g} on average (mean absolute), and {metrics['rmse']:.4g} by their squares."


def sentences(predictions: ScoredNumbers) -> Iterator[tuple[bool, str]]:
    """Whether something is as it should be, and what."""
    n = len(predictions.y_true)
    if predictions.interval is not None:
        share, width = (predictions.metrics[f"interval_{name}"] for name in ("coverage", "width"))
        text = f"{share:.1%} of the labels lie within their intervals, of which {LEVEL:.0%} are to; on average these"
        yield abs(share - LEVEL) <= max(0.02, Z * np.sqrt(LEVEL * (1 - LEVEL) / n)), f"{text} are {width:.4g} wide."
    squares = np.sort(np.square(predictions.error))[::-1]
    part = squares[: max(1, int(FEW * n))].sum() / max(squares.sum(), np.finfo(np.float64).tiny)
    yield True, f"The {FEW:.0%} of the rows with the largest errors make {part:.0%} of all squared errors."


def worst(predictions: ScoredNumbers, source: Source) -> list[dict[str, Any]]:
    """The largest errors, each with the cells of its row."""
    places = predictions.worst(N_WORST).tolist()
    rows = source.rows(np.unique(predictions.row[places]))
    return [
        {
            "y_true": predictions.y_true[i],
            "y_pred": predictions.y_pred[i],
            "interval": None if predictions.interval is None else [bound[i] for bound in predictions.interval],
            "sides": [cells_of(predictions.schema, *place) for place in rows[int(predictions.row[i])]],
            "example": None,
        }
        for i in places
    ]
