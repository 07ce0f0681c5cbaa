"""The charts of a scoreboard, as SVG within its page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from markupsafe import Markup

from mmtab.benchmark.scoreboard.formats import KINDS
from mmtab.benchmark.statistics import Standing, pareto
from mmtab.benchmark.types import Entry
from mmtab.reports.svg import FAINT, INK, canvas, svg
from mmtab.utils.text import one_line, short

MAX_SHOWN = 20  # entries

COLOURS = {kind: f"#0708{9 + i:02x}" for i, kind in enumerate(KINDS)}
SIZE = 10.0  # points, which are pixels on a screen of 390
WIDTH = 5.2  # inches


def ranks_chart(standing: Standing, name: str) -> Markup:
    """A critical-difference diagram (Demšar 2006), one line an entry so that names have room; "" for fewer than two."""
    n = min(standing.n_ranked, MAX_SHOWN)
    if n < 2 or standing.critical is None:
        return Markup()
    rank = standing.average_rank
    order = np.argsort(rank, kind="stable")[:n]
    row = {int(i): place for place, i in enumerate(order)}
    height = 0.8 + 0.235 * n
    figure = canvas(WIDTH, height)
    axes = figure.add_axes((0.45, 0.05 / height, 0.54, 1 - 0.35 / height))
    joined = [[row[i] for i in group if i in row] for group in standing.groups]
    joined = [rows for rows in joined if len(rows) > 1]
    low, high = 1, max(float(rank[order].max()), 1 + min(standing.critical, standing.n_ranked - 1))
    step = 0.035 * (high - low)  # between the lines that join
    axes.set(xlim=(low - 0.04 * (high - low), high + (1.5 + len(joined)) * step), ylim=(n - 0.4, -1.8))
    for i, place in row.items():
        axes.plot([low, rank[i]], [place, place], color=FAINT, linewidth=0.7)
        axes.plot([rank[i]], [place], "o", color=_colour(standing.entries[i]), markersize=5.5)
        _left_of(axes, place, _label(standing.entries[i].title, 27), SIZE)
    for k, rows in enumerate(joined):
        x = high + (1 + k) * step
        axes.plot([x, x], [rows[0] - 0.2, rows[-1] + 0.2], color=INK, linewidth=2.2, solid_capstyle="round")
    if standing.critical <= standing.n_ranked - 1:
        axes.plot([low, low + standing.critical], [-1, -1], color=INK, linewidth=1.6, marker="|", markersize=7)
        _left_of(axes, -1, f"critical difference {standing.critical:.2f}", SIZE - 1)
    axes.xaxis.tick_top()
    _tidy(axes, "top")
    axes.set_yticks([])
    return _svg(figure, name, f"average ranks of {n} entries")


def _left_of(axes: Any, y: float, text: str, size: float) -> None:
    place = {"transform": axes.get_yaxis_transform(), "ha": "right", "va": "center"}
    axes.text(-0.03, y, text, fontsize=size, color=INK, parse_math=False, **place)


def pareto_chart(standing: Standing, name: str) -> Markup:
    """Average against seconds of training of ranked entries; "" where fewer than two say how long they took. A few that
    are far below the others would flatten those, so they are named at the lower edge."""
    seconds, n = standing.seconds, min(standing.n_ranked, MAX_SHOWN)
    timed = np.flatnonzero(np.isfinite(seconds[:n]) & (seconds[:n] > 0))
    if len(timed) < 2:
        return Markup()
    upper = standing.average[timed][: max(math.ceil(0.6 * len(timed)), 2)]
    shown = timed[standing.average[timed] >= upper[-1] - 1.5 * max(np.ptp(upper), 0.01)]
    below = [f"{_label(standing.entries[i].title, 20)} {standing.average[i]:.2f}" for i in timed if i not in shown]
    x, y = seconds[shown], standing.average[shown]
    front = pareto(standing.average, seconds)[shown]
    foot = 0.2 * math.ceil(len(below) / 2)
    figure = canvas(WIDTH, 4.1 + foot)
    axes = figure.add_axes((0.125, (0.48 + foot) / (4.1 + foot), 0.865, 3.57 / (4.1 + foot)))
    axes.set_xscale("log")
    wide, tall = math.log10(x.max() / x.min()) or 1, float(np.ptp(y)) or 0.1
    axes.set_xlim(x.min() / 10 ** (0.08 * wide), x.max() * 10 ** (0.08 * wide))
    axes.set_ylim(y.min() - 0.08 * tall, y.max() + 0.1 * tall)
    steps = sorted(zip(x[front], y[front], strict=True))
    axes.step([a for a, _ in steps], [b for _, b in steps], where="post", color=FAINT, linewidth=1.2, zorder=1)
    for place, i in enumerate(shown):
        axes.plot([x[place]], [y[place]], "o", color=_colour(standing.entries[i]), markersize=7 if front[place] else 5)
    axes.set_xlabel("training, seconds in all", fontsize=SIZE, color=INK)
    axes.set_ylabel("average", fontsize=SIZE, color=INK)
    _tidy(axes, "left", "bottom")
    for line in range(0, len(below), 2):
        text, y_text = ", ".join(below[line : line + 2]), (foot - 0.1 * line) / (4.1 + foot)
        text = text if line else f"below: {text}"
        figure.text(0.99, y_text, text, ha="right", va="top", fontsize=SIZE - 1, color=INK, parse_math=False)
    names = [(_label(standing.entries[i].title, 22), str(standing.place[i])) for i in shown]
    _name_points(axes, x, y, steps, names, front)
    return _svg(figure, name, "average against seconds of training")


Box = tuple[float, float, float, float]  # left, bottom, right, top; in points, as the sizes of text are


def _name_points(
    axes: Any,
    x: np.ndarray,
    y: np.ndarray,
    steps: Sequence[tuple[float, float]],
    names: Sequence[Sequence[str]],
    first: np.ndarray,
) -> None:
    """Names beside points where they hide no other name, point or step, or a little away with a line to theirs; else
    their numbers. ``names``: of each point what to try. ``first`` [s] bool: those that choose before others."""
    scale = 72 / axes.figure.dpi
    points = (axes.transData.transform(np.stack([x, y], 1)) * scale).tolist()
    extent = axes.get_window_extent()
    left, bottom, right, top = (float(v) * scale for v in (extent.x0, extent.y0, extent.x1, extent.y1))
    taken: list[Box] = [(a - 4, b - 4, a + 4, b + 4) for a, b in points]
    corners = (axes.transData.transform(steps) * scale).tolist() if steps else []
    for (a, b), (c, d) in pairwise(corners):
        taken += [(a, b - 1, c, b + 1), (c - 1, min(b, d), c + 1, max(b, d))]
    units = {"xycoords": "figure points", "textcoords": "figure points"}
    for i in np.lexsort((-y, ~first)):
        a, b = points[i]
        for name, distance, way in ((n, far, way) for n in names[i] for far in (0, 7, 13, 19, 25) for way in WAYS):
            box = _box(name, (a, b), distance, way, (left, right))
            if box[1] <= bottom or box[3] >= top or any(_overlap(box, other) for other in taken):
                continue
            taken.append(box)
            if distance > 13:
                end = (min(max(a, box[0] + 3), box[2] - 3), box[1] if way[1] > 0 else box[3])
                line = {"arrowstyle": "-", "color": FAINT, "linewidth": 0.7, "shrinkA": 0, "shrinkB": 3}
                axes.annotate("", end, (a, b), arrowprops=line, **units)
            text = {"fontsize": SIZE - 1, "va": "center", "color": INK, "parse_math": False}
            axes.annotate(name, (box[0], (box[1] + box[3]) / 2), xycoords="figure points", **text)
            break


def _box(
    name: str, point: tuple[float, float], distance: float, way: tuple[int, int], ends: tuple[float, float]
) -> Box:
    """Where a name would stand, within the left and right ends of the chart."""
    (a, b), (right, up) = point, way
    height, width = SIZE + 1, (SIZE - 1) * (0.6 * len(name) + 0.3)
    left = min(max(a + right * (6 + width / 2 + 0.3 * distance) - width / 2, ends[0] + 1), ends[1] - width)
    bottom = b - height / 2 + up * max(distance, 11 if not right else 0)
    return left, bottom, left + width, bottom + height


WAYS = ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, 1))  # of a name from its point


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _label(text: str, limit: int) -> str:
    return short(one_line(text), limit)


def _colour(entry: Entry) -> str:
    return COLOURS.get(entry.kind, COLOURS["team"])


def _tidy(axes: Any, *shown: str) -> None:
    axes.patch.set_visible(False)
    for side, spine in axes.spines.items():
        spine.set_visible(side in shown)
        spine.set_color(FAINT)
    axes.tick_params(which="both", color=FAINT, labelcolor=INK, labelsize=SIZE - 1)


def _svg(figure: Any, name: str, about: str) -> Markup:
    return svg(figure, name, about, {COLOURS[kind]: f"var(--{kind})" for kind in KINDS})
