"""The scoreboard as csv and as Markdown."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence

import numpy as np

from mmtab.benchmark.scoreboard.formats import NONE, amount, interval, references, score
from mmtab.benchmark.scoreboard.sentences import sentences
from mmtab.benchmark.statistics import Standing, standings
from mmtab.benchmark.types import Board
from mmtab.utils.text import markdown_table, markdown_text, one_line, short

COSTS = ("train_seconds", "predict_rows_per_second", "peak_memory_mib", "n_parameters")  # of a Score
HEAD = ("entry", "title", "kind", "dataset", "task", "metric", "mean", "std", "low", "high", "n_seeds", *COSTS, "rank")


def table(board: Board, tracks: Sequence[Standing]) -> str:
    """csv of one line an entry and dataset. ``low`` and ``high`` bound 95 % of what the mean would be on other rows and
    seeds."""
    sink = io.StringIO()
    writer = csv.writer(sink, lineterminator="\n")
    writer.writerow(HEAD)
    columns = {name: (standing, j) for standing in reversed(tracks) for j, name in enumerate(standing.datasets)}
    for name in dict.fromkeys(name for standing in tracks for name in standing.datasets):
        writer.writerows(_lines(board, name, *columns[name]))
    return sink.getvalue()


def _lines(board: Board, name: str, standing: Standing, j: int) -> list[list[object]]:
    """Of a dataset, which is column ``j`` of a track; the best entry first."""
    dataset = board.datasets[name]
    scores = np.round(standing.scores[:, j], 12)
    lines = []
    for i in sorted(np.flatnonzero(~np.isnan(scores)), key=lambda i: -scores[i]):
        entry = standing.entries[i]
        values = [scores[i], standing.spread[i, j], *standing.interval[i, j]]
        costs = [[v for run in entry.of(name) if (v := getattr(run, cost)) is not None] for cost in COSTS]
        lines.append(
            [
                *map(_cell, (entry.name, entry.title, entry.kind, name, dataset.task, dataset.metric)),
                *("" if math.isnan(x) else f"{x:.6f}" for x in values),
                standing.n_seeds[i, j],
                *(f"{np.mean(numbers):.6g}" if numbers else "" for numbers in costs),
                1 + int((scores > scores[i]).sum()),
            ]
        )
    return lines


def _cell(text: str) -> str:
    """A spreadsheet would compute what begins like a formula."""
    text = one_line(text)
    return f"'{text}" if text[:1] in tuple("=+-@") else text


def markdown(board: Board, tracks: Sequence[Standing] | None = None) -> str:
    """For each track a table and sentences about it. ``tracks``: their standings, where they are computed already."""
    parts = []
    tracks = standings(board) if tracks is None else tracks
    for standing in tracks:
        if len(tracks) > 1:
            parts.append(f"**{markdown_text(standing.name)}**")
        parts.append(_track(board, standing, standing.name in board.tracks))
        parts.append("\n".join(f"- {text}" for text in sentences(board, standing, markdown_text, "**{}**")))
    if board.failures:
        lines = [
            f"- {markdown_text(failure.entry)} on {markdown_text(failure.dataset)}, seed {failure.seed}: "
            f"{markdown_text(short(failure.error, 200))}"
            for failure in board.failures
        ]
        parts.append("Failed:\n\n" + "\n".join(lines))
    return "\n\n".join(part for part in parts if part)


def _track(board: Board, standing: Standing, datasets: bool) -> str:
    """``datasets``: with a column a dataset and the published figures; of all tracks together these stand elsewhere."""
    names = standing.datasets if datasets else []
    columns = ("rank", "system", "average", "average rank", "wins", "training, min", "predicted rows/s")
    lines = []
    for i, entry in enumerate(standing.entries):
        cells = [score(standing, i, j) for j in range(len(names))]
        cells = [f"**{cell}**" if standing.best[i, j] else cell for j, cell in enumerate(cells)]
        if i < standing.n_ranked:
            low, high = standing.average_interval[i]
            place, rank = str(standing.place[i]), f"{standing.average_rank[i]:.1f}"
            average = f"{standing.average[i]:.3f}" + ("" if math.isnan(low) else f" ({interval(low, high)})")
        else:
            n = int((standing.n_seeds[i] > 0).sum())
            place, average, rank = NONE, f"{n} of {len(standing.datasets)} datasets", ""
        cost, wins = standing.cost[i], str(standing.wins[i])
        minutes = None if cost.train_seconds is None else cost.train_seconds / 60
        rates = amount(minutes), amount(cost.predict_rows_per_second)
        lines.append([place, markdown_text(entry.title), average, rank, wins, *rates, *cells])
    for name in references(board, standing) if datasets else []:
        values = [board.datasets[x].references.get(name) for x in names]
        cells = ["" if x is None else f"*{x:.3f}*" for x in values]
        lines.append(["", f"*{markdown_text(name)}, for reference*", *[""] * 5, *cells])
    return markdown_table([*columns, *map(markdown_text, names)], lines)
