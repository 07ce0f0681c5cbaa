"""Numbers and lists as a scoreboard writes them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from mmtab.benchmark.statistics import Standing
from mmtab.benchmark.types import Board
from mmtab.utils.text import count as count

NONE = "–"
KINDS = ("mmtab", "control", "rival", "team")


def references(board: Board, standing: Standing) -> list[str]:
    """Names of the published figures on the datasets of a track."""
    return list(dict.fromkeys(name for x in standing.datasets for name in board.datasets[x].references))


def interval(low: float, high: float) -> str:
    return f"{low:.3f}–{high:.3f}"


def score(standing: Standing, i: int, j: int) -> str:
    """Of an entry on a dataset, with the standard deviation over seeds."""
    value, spread = standing.scores[i, j], standing.spread[i, j]
    return "" if math.isnan(value) else f"{value:.3f}" + ("" if math.isnan(spread) else f" ± {spread:.3f}")


def points(difference: float) -> str:
    """Of a hundred, with its sign."""
    text = f"{100 * difference:+.1f}"
    return "0.0" if float(text) == 0 else text.replace("-", "−")


def significance(apart: bool | None) -> str:
    return "of which the noise is not known" if apart is None else "beyond noise" if apart else "within noise"


def amount(value: float | None) -> str:
    if value is None:
        return NONE
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 0.1 else f"{value:.2g}"


def size(value: int | None) -> str:
    """With the unit's letter: 1.5 M."""
    if value is None:
        return NONE
    for unit, name in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if value >= unit:
            return f"{value / unit:.3g}{name}" if value / unit < 999.5 else f"{value / unit:,.0f}{name}"
    return str(value)


def p_value(value: float) -> str:
    return "p < .0001" if value < 1e-4 else f"p = {without_zero(value)}"


def without_zero(value: float) -> str:
    """.0625"""
    return f"{value:.4g}".removeprefix("0") if value < 1 else "1"


def listed(parts: Sequence[str]) -> str:
    return f"{', '.join(parts[:-1])} and {parts[-1]}" if len(parts) > 1 else "".join(parts)
