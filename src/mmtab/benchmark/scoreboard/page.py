"""The page of a scoreboard: what its template shows of standings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup, escape

from mmtab.benchmark.scoreboard import formats
from mmtab.benchmark.scoreboard.charts import MAX_SHOWN, pareto_chart, ranks_chart
from mmtab.benchmark.scoreboard.sentences import sentences, tests_in_words
from mmtab.benchmark.statistics import Standing
from mmtab.benchmark.types import Board, Entry, RankedDataset
from mmtab.reports.html import render
from mmtab.utils.text import printable, short

TEMPLATE = Path(__file__).with_name("templates") / "scoreboard.html.jinja"
MAX_ERROR = 500  # characters


def page(board: Board, tracks: Sequence[Standing]) -> str:
    """The page as HTML."""
    kinds = {entry.kind for standing in tracks for entry in standing.entries}
    titles = {entry.name: entry.title for entry in board.entries}
    datasets = {name: (standing, j) for standing in reversed(tracks) for j, name in enumerate(standing.datasets)}
    names = dict.fromkeys(name for standing in tracks for name in standing.datasets)
    return render(
        TEMPLATE,
        title=board.title,
        facts=board.facts,
        kinds=[*(kind for kind in formats.KINDS if kind in kinds), *sorted(kinds - set(formats.KINDS))],
        tracks=[_track(board, standing, i) for i, standing in enumerate(tracks)],
        failures=[[titles.get(f.entry, f.entry), f.dataset, f.seed, short(f.error, MAX_ERROR)] for f in board.failures],
        cards=[(board.datasets[name], _bars(board.datasets[name], *datasets[name])) for name in names],
        formats=formats,
    )


def _track(board: Board, standing: Standing, number: int) -> dict[str, Any]:
    published = {
        name: [board.datasets[x].references.get(name) for x in standing.datasets]
        for name in formats.references(board, standing)
    }
    return {
        "standing": standing,
        "sentences": list(map(Markup, sentences(board, standing, lambda text: escape(printable(text)), "<b>{}</b>"))),
        "whiskers": _whiskers(standing),
        "metrics": {name: board.datasets[name].metric for name in standing.datasets},
        "published": published,
        "pairs": _pairs(standing),
        "ranks_chart": ranks_chart(standing, f"r{number}"),
        "pareto_chart": pareto_chart(standing, f"p{number}"),
        "tests": tests_in_words(standing),
    }


@dataclass(frozen=True)
class Whisker:
    """The interval of an average, in percent of a bar's width: ``band`` is that of the first entry, ``line`` its own
    (left end and width), ``dot`` the average; both None where that lies below the scale."""

    text: str
    band: tuple[float, float]
    line: tuple[float, float] | None
    dot: float | None


def _whiskers(standing: Standing) -> list[Whisker | None]:
    """Of the ranked entries; none at all where no interval is known. The scale spans the better part of the entries: a
    few that are far below would flatten the rest."""
    intervals = standing.average_interval
    if not np.isfinite(intervals).any():
        return []
    upper = intervals[: max(math.ceil(standing.n_ranked * 0.6), min(standing.n_ranked, 3))]
    bottom, top = float(np.nanmin(upper)), float(np.nanmax(intervals))
    margin = 0.04 * max(top - bottom, 1e-6)
    bottom, top = bottom - margin, top + margin

    def at(value: float) -> float:
        return 100 * min(max((value - bottom) / (top - bottom), 0), 1)

    def span(low: float, high: float) -> tuple[float, float]:
        return (0.0, 0.0) if math.isnan(low) else (at(low), at(high) - at(low))

    whiskers: list[Whisker | None] = []
    for average, (low, high) in zip(standing.average[: standing.n_ranked], intervals, strict=False):
        inside = average >= bottom
        line, dot = (span(low, high), at(average)) if inside else (None, None)
        whisker = Whisker(formats.interval(low, high), span(*intervals[0]), line, dot)
        whiskers.append(None if math.isnan(low) else whisker)
    return whiskers


@dataclass(frozen=True)
class Difference:
    """Of two averages, in points; ``kind``: up, down or noise, empty where the noise is not known."""

    text: str
    kind: str
    note: str


def _pairs(standing: Standing) -> list[list[Difference | None]]:
    """Of the first entries, each row minus each column; None on the diagonal."""
    n = min(standing.n_ranked, MAX_SHOWN)
    return [[None if i == j else _difference(standing, i, j) for j in range(n)] for i in range(n)]


def _difference(standing: Standing, i: int, j: int) -> Difference:
    apart, difference = standing.apart(i, j), standing.difference[i, j]
    if apart is None:
        return Difference(formats.points(difference), "", "")
    low, high = map(formats.points, standing.difference_interval[i, j])
    kind = "noise" if not apart else "up" if difference > 0 else "down"
    return Difference(formats.points(difference), kind, f"{low} to {high}; above in {100 * standing.above[i, j]:.0f} %")


@dataclass(frozen=True)
class Bar:
    """A score on a dataset's card, of an entry or published; ``interval`` in percent: left end and width."""

    name: str
    entry: Entry | None
    value: float
    spread: str = ""
    interval: tuple[float, float] | None = None

    @property
    def width(self) -> float:
        return 100 * min(max(self.value, 0), 1)


def _bars(dataset: RankedDataset, standing: Standing, j: int) -> list[Bar]:
    """The greatest first."""
    bars = []
    for i in np.flatnonzero(~np.isnan(standing.scores[:, j])):
        entry, (low, high) = standing.entries[i], standing.interval[i, j]
        spread = f"±{standing.spread[i, j]:.3f}" if standing.n_seeds[i, j] > 1 else ""
        interval = None if math.isnan(low) else (100 * low, 100 * (high - low))
        bars.append(Bar(entry.title, entry, standing.scores[i, j], spread, interval))
    bars += [Bar(name, None, value) for name, value in dataset.references.items()]
    return sorted(bars, key=lambda bar: -bar.value)
