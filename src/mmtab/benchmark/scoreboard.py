"""The scoreboard: a page that needs no other file and no network, the same as Markdown, and its figures as csv."""

from __future__ import annotations

import csv
import io
import math
import re
import warnings
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, SupportsFloat

import numpy as np

from mmtab.benchmark.statistics import ALPHA, Standing, pareto, smallest_p, standings
from mmtab.benchmark.types import Board, Entry, RankedDataset
from mmtab.reports import html
from mmtab.reports.html import printable, safe, short
from mmtab.utils.atomic import write_text

MAX_NAMED = 4  # entries in one place of a sentence
MAX_SHOWN = 20  # entries in charts and in the matrix of pairs
KINDS = ("mmtab", "control", "rival", "team")
NONE = "–"


def write_scoreboard(board: Board, output: Path) -> None:
    """Write scoreboard.html, .md and .csv to the folder, each at once or not at all."""
    found = standings(board)
    write_text(output / "scoreboard.csv", table(board, found))
    write_text(output / "scoreboard.md", f"# {_plain(board.title)}\n\n{markdown(board, found)}\n")
    write_text(output / "scoreboard.html", page(board, found))


# --- csv -------------------------------------------------------------------------------------------------------------


def table(board: Board, found: Sequence[Standing]) -> str:
    """One line an entry and dataset. ``low`` and ``high`` bound 95 % of what the mean would be on other rows and seeds."""
    sink = io.StringIO()
    writer = csv.writer(sink, lineterminator="\n")
    writer.writerow(
        ["entry", "title", "kind", "dataset", "task", "metric", "mean", "std", "low", "high", "n_seeds", "train_seconds",
         "predict_rows_per_second", "peak_memory_mib", "n_parameters", "rank"]
    )  # fmt: skip
    done = set()
    for standing in found:
        for j, name in enumerate(standing.datasets):
            dataset = board.datasets[name]
            if name in done:
                continue
            done.add(name)
            column = np.round(standing.scores[:, j], 12)
            for i in sorted(np.flatnonzero(~np.isnan(column)), key=lambda i: -column[i]):
                entry, (low, high) = standing.entries[i], standing.interval[i, j]
                scores = entry.of(name)
                costs = [
                    [v for v in (getattr(score, what) for score in scores) if v is not None]
                    for what in ("train_seconds", "predict_rows_per_second", "peak_memory_mib", "n_parameters")
                ]
                figures = [column[i], standing.spread[i, j], low, high]
                writer.writerow(
                    [*map(_cell, (entry.name, entry.title, entry.kind, name, dataset.task, dataset.metric)),
                     *("" if math.isnan(x) else f"{x:.6f}" for x in figures), standing.n_seeds[i, j],
                     *(f"{np.mean(known):.6g}" if known else "" for known in costs), 1 + int((column > column[i]).sum())]
                )  # fmt: skip
    return sink.getvalue()


def _cell(text: str) -> str:
    """A spreadsheet would compute what begins like a formula."""
    text = " ".join(printable(text).split())
    return f"'{text}" if text[:1] in tuple("=+-@") else text


# --- markdown --------------------------------------------------------------------------------------------------------


def markdown(board: Board, found: Sequence[Standing] | None = None) -> str:
    """For each track a table and what it says. ``found``: the standings, where they are known already."""
    parts = []
    found = standings(board) if found is None else found
    for standing in found:
        if len(found) > 1:
            parts.append(f"**{_plain(standing.name)}**")
        parts += [
            _table_of(board, standing, standing.name in board.tracks),
            "\n".join(f"- {said}" for said in sentences(board, standing, _plain, "**{}**")),
        ]
    if board.failures:
        lines = [f"- {_plain(f.entry)} on {_plain(f.dataset)}, seed {f.seed}: {_plain(short(f.error, 200))}" for f in board.failures]  # fmt: skip
        parts.append("Failed:\n\n" + "\n".join(lines))
    return "\n\n".join(part for part in parts if part)


def _table_of(board: Board, standing: Standing, whole: bool) -> str:
    """``whole``: with a column a dataset and what others published; else they stand in the tables of the tracks."""
    names = standing.datasets if whole else []
    lines = [
        ["rank", "system", "average", "average rank", "wins", "training, min", "predicted rows/s", *map(_plain, names)]
    ]
    for i, entry in enumerate(standing.entries):
        cells = [_spread(standing, i, j) for j in range(len(names))]
        cells = [f"**{cell}**" if standing.best[i, j] else cell for j, cell in enumerate(cells)]
        if i < standing.n_ranked:
            low, high = standing.average_interval[i]
            average = _figure(standing.average[i]) + ("" if math.isnan(low) else f" ({_range(low, high)})")
            first = [str(standing.place[i]), _plain(entry.title), average, f"{standing.average_rank[i]:.1f}"]
        else:
            n = int((standing.n_seeds[i] > 0).sum())
            first = [NONE, _plain(entry.title), f"{n} of {len(standing.datasets)} datasets", ""]
        seconds, rate = standing.cost[i].train_seconds, standing.cost[i].predict_rows_per_second
        lines.append([*first, str(standing.wins[i]), _amount(None if seconds is None else seconds / 60), _amount(rate), *cells])  # fmt: skip
    for name in _references(board, standing) if whole else []:
        figures = [board.datasets[x].references.get(name) for x in names]
        lines.append(["", f"*{_plain(name)}, published*", *[""] * 5, *("" if x is None else f"*{x:.3f}*" for x in figures)])  # fmt: skip
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _plain(text: str) -> str:
    """Text of any origin for Markdown: one line, and no mark-up of its own."""
    return re.sub(r"([\\`*\[\]<>|$~])", r"\\\1", " ".join(printable(text).split()))


# --- words -----------------------------------------------------------------------------------------------------------


def sentences(board: Board, standing: Standing, quote: Callable[[str], str], strong: str) -> list[str]:
    """Who leads, who is best where, and where somebody beats the best mmtab entry. ``quote`` makes text of any origin safe, in
    ``strong`` stand the names of entries."""
    said = []
    entries, datasets, q = standing.entries, [quote(name) for name in standing.datasets], standing.n_ranked
    names = [strong.format(quote(entry.title)) for entry in entries]
    if q:
        low, high = standing.average_interval[0]
        lead = f"{names[0]} leads with an average of {_figure(standing.average[0])}"
        lead += "" if math.isnan(low) else f" (95 % interval {_range(low, high)})"
        if q > 1:
            lead += f", {_points(standing.difference[0, 1]).lstrip('+')} points before {names[1]}, {_sure(standing.apart(0, 1))}"
        said.append(f"{lead}.")
    n_best = standing.best.sum(0)
    few = standing.best & (n_best <= MAX_NAMED)
    winners = [i for i in sorted(range(len(entries)), key=lambda i: -standing.wins[i]) if few[i].any()]
    wins = [f"{names[i]} on {_listed([datasets[j] for j in np.flatnonzero(few[i])])}" for i in winners]
    wins += [f"{n_best[j]} entries alike on {datasets[j]}" for j in np.flatnonzero(n_best > MAX_NAMED)]
    if wins:
        said.append(f"Best: {'; '.join(wins)}.")
    own = next((i for i, entry in enumerate(entries) if entry.kind == "mmtab"), None)
    if own is not None:
        said += _rivals(standing, own, datasets, names)
        mine = standing.scores[own]
        above = [
            f"{quote(name)} on {quote(x)} ({value:.3f} against {mine[j]:.3f})"
            for name in _references(board, standing)
            for j, x in enumerate(standing.datasets)
            if (value := board.datasets[x].references.get(name)) is not None and value > mine[j]
        ]
        if above:
            said.append(f"Published figures above {names[own]}: {_listed(above)}.")
    return said


def _rivals(standing: Standing, own: int, datasets: Sequence[str], names: Sequence[str]) -> list[str]:
    """Where others beat the best mmtab entry, dataset by dataset."""
    entries, mine = standing.entries, standing.scores[own]
    said = []
    for kinds, who in ((("rival", "team"), "rival"), (("control",), "control")):
        others = [i for i, entry in enumerate(entries) if entry.kind in kinds]
        beaten = []
        for j, dataset in enumerate(datasets):
            ahead = [i for i in others if not math.isnan(mine[j]) and round(standing.scores[i, j] - mine[j], 12) > 0]
            ahead.sort(key=lambda i: -standing.scores[i, j])
            if ahead:
                each = [f"{names[i]} {standing.scores[i, j]:.3f}{'' if standing.apart_on(i, own, j) is not False else ' (within noise)'}" for i in ahead[:MAX_NAMED]]  # fmt: skip
                each += [f"{len(ahead) - MAX_NAMED} more"] if len(ahead) > MAX_NAMED else []
                beaten.append(f"on {dataset} {_listed(each)} against {mine[j]:.3f}")
        if beaten:
            said.append(f"A {who} beats {names[own]}, the best mmtab entry, on {len(beaten)} of {_count(len(datasets), 'dataset')}: {'; '.join(beaten)}.")  # fmt: skip
        elif others:
            said.append(f"No {who} beats {names[own]}, the best mmtab entry, on any dataset where both have a score.")
    return said


def tests_in_words(standing: Standing) -> list[str]:
    """What the tests say, what they cannot say, and how the intervals were made."""
    q, d, pairs = standing.n_ranked, len(standing.datasets), standing.n_pairs
    said = []
    if standing.friedman is not None:
        value, p = standing.friedman
        verdict = "so not all are equally good" if p < ALPHA else "so that all are equally good is not ruled out"
        said.append(f"Friedman's test of {q} entries on {d} datasets: chi-squared {value:.1f}, {_p(p)}, {verdict}.")
    elif q:
        said.append(f"Friedman's test needs three entries, two datasets and a difference; here are {_count(q, 'ranked entry', 'ranked entries')} and {_count(d, 'dataset')}.")  # fmt: skip
    if standing.critical is not None:
        critical = standing.critical
        said.append(
            f"Nemenyi's test: two average ranks differ at .05 when they are more than {critical:.2f} apart (ranks go from 1 to {q}). "
            + ("No two entries can be told apart by it." if critical >= q - 1 else _grouped(standing))
        )
    if pairs:
        least = smallest_p(d)
        if least > ALPHA:
            said.append(f"Wilcoxon's signed-rank test can never reach .05 with {_count(d, 'dataset')}: the smallest two-sided p is {_short(least)}, even for an entry that wins everywhere.")  # fmt: skip
        elif least * pairs > ALPHA:
            said.append(f"Wilcoxon's signed-rank test of {pairs:,} pairs, by Holm, can never reach .05 with {_count(d, 'dataset')}: the smallest p of a pair is {_short(least)}, which Holm multiplies by {pairs:,}.")  # fmt: skip
        else:
            apart = int((standing.p[np.triu_indices(q, 1)] < ALPHA).sum())
            said.append(f"Wilcoxon's signed-rank test over datasets: {apart:,} of {pairs:,} pairs differ at .05 after Holm's correction.")  # fmt: skip
        sure = [standing.apart(i, j) for i in range(q) for j in range(i)]
        if None not in sure:
            said.append(f"Test rows and seeds drawn anew: {sum(map(bool, sure)):,} of {pairs:,} pairs have an average difference whose 95 % interval excludes 0. That is about these datasets; the tests above ask about datasets in general.")  # fmt: skip
    if lacking := standing.no_interval():
        said.append(f"No interval on {_listed(lacking)}: the metric takes probabilities, or predictions are not at hand, so rows cannot be drawn anew; hence none of the average either.")  # fmt: skip
    single = int((standing.n_seeds[:q] == 1).any(1).sum())
    said.append(
        "Intervals hold 95 % of 1,000 draws of the test rows, the same rows for all entries, and of each entry's seeds, "
        "with replacement. They are not corrected for the number of comparisons; few seeds understate the noise of seeds"
        + (f", and {_count(single, 'entry has', 'entries have')} one seed on some dataset, which says nothing of it." if single else ".")
    )  # fmt: skip
    return said


def _grouped(standing: Standing) -> str:
    if not standing.groups:
        return "All entries differ by it."
    said = [f"{standing.entries[group[0]].title} to {standing.entries[group[-1]].title} ({len(group)} entries)" if len(group) > 2 else f"{standing.entries[group[0]].title} and {standing.entries[group[1]].title}" for group in standing.groups[:6]]  # fmt: skip
    more = f"; and {len(standing.groups) - 6} more groups" if len(standing.groups) > 6 else ""
    return f"Not told apart, in the order of ranks: {'; '.join(said)}{more}."


# --- the page --------------------------------------------------------------------------------------------------------


def page(board: Board, found: Sequence[Standing]) -> str:
    """The whole page as HTML."""
    known = {entry.kind for standing in found for entry in standing.entries}
    kinds = [*(kind for kind in KINDS if kind in known), *sorted(known - set(KINDS))]
    boxes = "".join(f'<label class="box"><input type="checkbox" name="kind" value="{safe(kind)}" checked>{_badge(kind)}</label>' for kind in kinds)  # fmt: skip
    tabs = "".join(f'<button type="button" data-track="{i}">{safe(s.name)} <small>{_count(len(s.datasets), "dataset")}</small></button>' for i, s in enumerate(found))  # fmt: skip
    facts = "".join(f"<div><dt>{safe(name)}</dt><dd>{safe(fact)}</dd></div>" for name, fact in board.facts.items())
    parts = [
        f"<h1>{safe(board.title)}</h1>",
        f'<dl class="facts">{facts}</dl>' if facts else "",
        '<form hidden><label class="find">find <input type="search" name="words" placeholder="entry" autocomplete="off"></label>'
        + (f'<span class="boxes" role="group" aria-label="kinds">{boxes}</span>' if len(kinds) > 1 else "")
        + '<output role="status"></output></form>',
        f'<nav hidden aria-label="tracks">{tabs}</nav>' if len(found) > 1 else "",
        *(_section(board, standing, i, len(found) > 1) for i, standing in enumerate(found)),
        "" if found else "<p>no scores</p>",
        _failures(board),
        *_cards(board, found),
    ]
    return html.document(board.title, f"<main>{''.join(parts)}</main>", STYLE, SCRIPT)


def _section(board: Board, standing: Standing, number: int, titled: bool) -> str:
    charts = "".join(
        f'<figure><figcaption>{said}</figcaption><div class="scroll">{chart}</div></figure>'
        for said, chart in ((RANKS_SAID, ranks_chart(standing, f"r{number}")), (PARETO_SAID, pareto_chart(standing, f"p{number}")))
        if chart
    )  # fmt: skip
    said = "".join(f"<li>{sentence}</li>" for sentence in sentences(board, standing, safe, "<b>{}</b>"))
    tests = "".join(f"<li>{safe(sentence)}</li>" for sentence in tests_in_words(standing))
    return (
        f'<section data-track="{number}">{f"<h2 class=track>{safe(standing.name)}</h2>" if titled else ""}'
        f'<ul class="said">{said}</ul><h2>Ranking</h2>{_ranking(standing)}{_unranked(standing)}<h2>Scores</h2>{SCORES_SAID}{_matrix(board, standing)}'
        + (f'<h2>Differences</h2>{_pairs(standing)}' if standing.n_ranked > 1 else "")
        + (f'<h2>Ranks and costs</h2><div class="charts">{charts}</div>' if charts else "")
        + f'<h2>Tests</h2><ul class="tests">{tests}</ul></section>'
    )  # fmt: skip


def _badge(kind: str) -> str:
    return f'<span class="kind {kind if kind in KINDS else "team"}">{safe(kind)}</span>'


def _row(entry: Entry) -> str:
    return f'<tr data-kind="{safe(entry.kind)}" data-name="{safe(f"{entry.name} {entry.title}".lower())}">'


def _entry(entry: Entry) -> str:
    about = f' title="{safe(entry.about)}"' if entry.about else ""
    return f'<th scope="row"{about}><span class="{entry.kind if entry.kind in KINDS else "team"} dot" aria-hidden="true"></span>{safe(entry.title)}</th>'  # fmt: skip


def _cell_of(text: str, value: SupportsFloat | None, kind: str = "") -> str:
    """With what it is sorted by; nothing sorts after everything."""
    key = "" if value is None or not math.isfinite(float(value)) else f"{float(value):.8g}"
    return f'<td data-v="{key}"{f" class={kind}" if kind else ""}>{text}</td>'


def _sorting(title: str, down: bool = True, note: str = "", more: str = "") -> str:
    """A column's head, which sorts; ``down``: the largest first."""
    about = f' title="{safe(note)}"' if note else ""
    return (
        f'<th scope="col"{about}>{more}<button type="button" class="sort" data-down="{int(down)}">{title}</button></th>'
    )


def _ranking(standing: Standing) -> str:
    if not standing.n_ranked:
        return "<p>No entry has a score on every dataset.</p>"
    scale = _Scale(standing)
    heads = [
        _sorting("rank", False), _sorting("entry", False), _sorting("kind", False), _sorting("average"),
        _sorting("95 % interval", note="of the average, when test rows and seeds are drawn anew; the band is that of the first")
        if scale.known else "",
        _sorting("average rank", False), _sorting("normalised", note="per dataset 0 is the majority class, or the worst entry, and 1 the best; averaged"),
        _sorting("wins", note="datasets where nobody is better"), _sorting("training, min", False, "in all, a seed of each dataset"),
        _sorting("rows/s", note="predicted; as if each dataset had as many rows"), _sorting("memory, GiB", False, "the largest"),
        _sorting("parameters", False, "the largest"),
    ]  # fmt: skip
    lines = []
    for i in range(standing.n_ranked):
        entry, cost = standing.entries[i], standing.cost[i]
        minutes = None if cost.train_seconds is None else cost.train_seconds / 60
        memory = None if cost.peak_memory_mib is None else cost.peak_memory_mib / 1024
        cells = [
            _cell_of(str(standing.place[i]), standing.place[i]), _entry(entry), f"<td>{_badge(entry.kind)}</td>",
            _cell_of(f"<b>{standing.average[i]:.3f}</b>", standing.average[i]),
            _cell_of(scale.whisker(i), standing.average_interval[i, 0]) if scale.known else "",
            _cell_of(f"{standing.average_rank[i]:.2f}", standing.average_rank[i]),
            _cell_of(f"{standing.normalised[i]:.2f}".replace("-", "−"), standing.normalised[i]),
            _cell_of(str(standing.wins[i]), standing.wins[i]),
            _cell_of(_amount(minutes), minutes), _cell_of(_amount(cost.predict_rows_per_second), cost.predict_rows_per_second),
            _cell_of(_amount(memory), memory), _cell_of(_size(cost.n_parameters), cost.n_parameters),
        ]  # fmt: skip
        lines.append(f"{_row(entry)}{''.join(cells)}</tr>")
    return f'<div class="scroll" tabindex="0" role="region" aria-label="ranking"><table class="ranking"><thead><tr>{"".join(heads)}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'  # fmt: skip


class _Scale:
    """Where averages stand, in percent of a bar's width. It spans the better half: far below, a few would flatten the rest."""

    def __init__(self, standing: Standing) -> None:
        self.standing, self.known = standing, bool(np.isfinite(standing.average_interval).any())
        if self.known:
            upper = standing.average_interval[: max(math.ceil(standing.n_ranked * 0.6), min(standing.n_ranked, 3))]
            self.low, self.high = float(np.nanmin(upper)), float(np.nanmax(standing.average_interval))
            pad = 0.04 * max(self.high - self.low, 1e-6)
            self.low, self.high = self.low - pad, self.high + pad

    def at(self, value: float) -> float:
        return 100 * min(max((value - self.low) / (self.high - self.low), 0), 1)

    def whisker(self, i: int) -> str:
        low, high = self.standing.average_interval[i]
        if math.isnan(low):
            return NONE
        first, last = (self.at(x) for x in self.standing.average_interval[0]) if not math.isnan(self.standing.average_interval[0, 0]) else (0, 0)  # fmt: skip
        inside = f'<s style="left:{first:.1f}%;width:{last - first:.1f}%"></s>'
        if self.standing.average[i] < self.low:
            inside += "<em>◂</em>"
        else:
            inside += f'<i style="left:{self.at(low):.1f}%;width:{self.at(high) - self.at(low):.1f}%"></i><u style="left:{self.at(self.standing.average[i]):.1f}%"></u>'  # fmt: skip
        return f'<span class="whisker" aria-hidden="true">{inside}</span><small>{_range(low, high)}</small>'


def _unranked(standing: Standing) -> str:
    rest = range(standing.n_ranked, len(standing.entries))
    if not rest:
        return ""
    lines = []
    for i in rest:
        entry, n = standing.entries[i], int((standing.n_seeds[i] > 0).sum())
        cells = f"{_entry(entry)}<td>{_badge(entry.kind)}</td>{_cell_of(f'{n} of {len(standing.datasets)} datasets', n)}{_cell_of(str(standing.wins[i]), standing.wins[i])}"  # fmt: skip
        lines.append(f"{_row(entry)}{cells}</tr>")
    heads = [_sorting("not ranked", False), _sorting("kind", False), _sorting("scores on"), _sorting("wins")]
    return f'<div class="scroll"><table class="rest"><thead><tr>{"".join(heads)}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'


def _matrix(board: Board, standing: Standing) -> str:
    heads = [_sorting("entry", False)]
    for name in standing.datasets:
        shown = safe(name).replace("_", "_<wbr>")
        card = f'<button type="button" class="open" data-card="{safe(name)}">{shown}</button>'
        heads.append(_sorting(f'<span class="heard">sort by {safe(name)}</span>', note=board.datasets[name].metric, more=card))  # fmt: skip
    lines = []
    for i, entry in enumerate(standing.entries):
        cells = []
        for j in range(len(standing.datasets)):
            value, spread = standing.scores[i, j], standing.spread[i, j]
            small = "" if math.isnan(spread) else f"<small>±{_spread_of(spread)}</small>"
            kind = "best" if standing.best[i, j] else "tied" if standing.tied[i, j] else ""
            cells.append(_cell_of(NONE if math.isnan(value) else f"{value:.3f}{small}", value, kind))
        lines.append(f"{_row(entry)}{_entry(entry)}{''.join(cells)}</tr>")
    others = []
    for name in _references(board, standing):
        figures = [board.datasets[x].references.get(name) for x in standing.datasets]
        cells = ["<td></td>" if x is None else f"<td>{x:.3f}</td>" for x in figures]
        others.append(f'<tr><th scope="row">{safe(name)} <small>published</small></th>{"".join(cells)}</tr>')
    published = f'<tbody class="published">{"".join(others)}</tbody>' if others else ""
    return f'<div class="scroll" tabindex="0" role="region" aria-label="scores"><table class="scores"><thead><tr>{"".join(heads)}</tr></thead><tbody>{"".join(lines)}</tbody>{published}</table></div>'  # fmt: skip


def _pairs(standing: Standing) -> str:
    n = min(standing.n_ranked, MAX_SHOWN)
    heads = "".join(f'<th scope="col" title="{safe(standing.entries[j].title)}">{j + 1}</th>' for j in range(n))
    lines = []
    for i in range(n):
        cells = []
        for j in range(n):
            if i == j:
                cells.append("<td></td>")
                continue
            sure, gap = standing.apart(i, j), standing.difference[i, j]
            kind = "" if sure is None else "noise" if not sure else "up" if gap > 0 else "down"
            low, high = standing.difference_interval[i, j]
            note = "" if sure is None else f' title="{_points(low)} to {_points(high)}; above in {100 * standing.above[i, j]:.0f} %"'  # fmt: skip
            cells.append(f"<td{f' class={kind}' if kind else ''}{note}>{_points(gap)}</td>")
        entry = standing.entries[i]
        lines.append(f"{_row(entry)}{_entry(entry).replace('</span>', f'</span>{i + 1} ', 1)}{''.join(cells)}</tr>")
    cut = f", the first {n}" if n < standing.n_ranked else ""
    legend = (
        f'<p class="legend">Average of the row minus that of the column, in points{cut}: <span class="up">row is better</span> '
        '<span class="down">column is better</span> <span class="noise">within noise</span></p>'
    )
    return f'{legend}<div class="scroll" tabindex="0" role="region" aria-label="differences"><table class="pairs"><thead><tr><th scope="col">row minus column</th>{heads}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'  # fmt: skip


def _failures(board: Board) -> str:
    if not board.failures:
        return ""
    titles = {entry.name: entry.title for entry in board.entries}
    lines = [[titles.get(f.entry, f.entry), f.dataset, str(f.seed), short(f.error, 500)] for f in board.failures]
    return f'<h2>Failures</h2><div class="failures">{html.plain_table(["entry", "dataset", "seed", "reason"], lines)}</div>'


def _cards(board: Board, found: Sequence[Standing]) -> Iterable[str]:
    """A dialog a dataset, of what it is and how everybody does there."""
    done: set[str] = set()
    for standing in found:
        for j, name in enumerate(standing.datasets):
            if name not in done:
                done.add(name)
                yield _card(board.datasets[name], standing, j)


def _card(dataset: RankedDataset, standing: Standing, j: int) -> str:
    bars = []
    for i in np.flatnonzero(~np.isnan(standing.scores[:, j])):
        entry, value, (low, high) = standing.entries[i], standing.scores[i, j], standing.interval[i, j]
        seeds = f"±{_spread_of(standing.spread[i, j])}" if standing.n_seeds[i, j] > 1 else ""
        range_ = "" if math.isnan(low) else f'<u style="left:{100 * low:.1f}%;width:{100 * (high - low):.1f}%"></u>'
        bars.append((
            value,
            f"{_row(entry)}{_entry(entry)}<td><span class=\"bar {entry.kind if entry.kind in KINDS else 'team'}\"><i style=\"width:{100 * max(value, 0):.1f}%\"></i>{range_}</span></td><td>{value:.3f}<small>{seeds}</small></td></tr>",
        ))  # fmt: skip
    for name, value in dataset.references.items():
        bars.append((value, f'<tr class="published"><th scope="row">{safe(name)} <small>published</small></th><td><span class="bar"><i style="width:{100 * min(max(value, 0), 1):.1f}%"></i></span></td><td>{value:.3f}</td></tr>'))  # fmt: skip
    facts = {"task": dataset.task, "metric": dataset.metric, **dataset.facts}
    lines = "".join(f"<div><dt>{safe(key)}</dt><dd>{safe(fact)}</dd></div>" for key, fact in facts.items())
    rows = "".join(bar for _, bar in sorted(bars, key=lambda bar: -bar[0]))
    return (
        f'<dialog data-card="{safe(dataset.name)}" aria-label="{safe(dataset.title)}"><header><h2>{safe(dataset.title)}</h2>'
        f'<button type="button" class="close" aria-label="close">✕</button></header><p class="legend">{safe(dataset.name)}</p>'
        f'<dl class="facts">{lines}</dl><table class="bars"><tbody>{rows}</tbody></table></dialog>'
    )


# --- charts ----------------------------------------------------------------------------------------------------------

INK, FAINT = "#010203", "#040506"  # become colours of the page, light or dark
COLOURS = {kind: f"#0708{9 + i:02x}" for i, kind in enumerate(KINDS)}
SIZE = 10.0  # points, which are pixels on a screen of 390
RANKS_SAID = "Average rank (left is better). Entries that one line joins are not told apart by Nemenyi's test."
PARETO_SAID = (
    "Average against seconds of training. Nobody is better and quicker than those on the line; numbers are ranks."
)
WIDTH = 5.2  # inches


def ranks_chart(standing: Standing, name: str) -> str:
    """A critical-difference diagram (Demšar 2006), one line an entry so that names have room; "" for fewer than two."""
    n = min(standing.n_ranked, MAX_SHOWN)
    if n < 2 or standing.critical is None:
        return ""
    rank = standing.average_rank
    order = np.argsort(rank, kind="stable")[:n]
    row = {int(i): place for place, i in enumerate(order)}
    height = 0.8 + 0.235 * n
    figure = _canvas(WIDTH, height)
    axes = figure.add_axes((0.45, 0.05 / height, 0.54, 1 - 0.35 / height))
    joined = [[row[i] for i in group if i in row] for group in standing.groups]
    joined = [rows for rows in joined if len(rows) > 1]
    low, high = 1, max(float(rank[order].max()), 1 + min(standing.critical, standing.n_ranked - 1))
    step = 0.035 * (high - low)  # between the lines that join
    axes.set(xlim=(low - 0.04 * (high - low), high + (1.5 + len(joined)) * step), ylim=(n - 0.4, -1.8))
    for i, place in row.items():
        axes.plot([low, rank[i]], [place, place], color=FAINT, linewidth=0.7)
        axes.plot([rank[i]], [place], "o", color=_colour(standing.entries[i]), markersize=5.5)
        axes.text(-0.03, place, _label(f"{standing.entries[i].title}", 27), transform=axes.get_yaxis_transform(), ha="right", va="center", fontsize=SIZE, color=INK, parse_math=False)  # fmt: skip
    for k, rows in enumerate(joined):
        x = high + (1 + k) * step
        axes.plot([x, x], [rows[0] - 0.2, rows[-1] + 0.2], color=INK, linewidth=2.2, solid_capstyle="round")
    if standing.critical <= standing.n_ranked - 1:
        axes.plot([low, low + standing.critical], [-1, -1], color=INK, linewidth=1.6, marker="|", markersize=7)
        axes.text(-0.03, -1, f"critical difference {standing.critical:.2f}", transform=axes.get_yaxis_transform(), ha="right", va="center", fontsize=SIZE - 1, color=INK)  # fmt: skip
    axes.xaxis.tick_top()
    _tidy(axes, "top")
    axes.set_yticks([])
    return _svg(figure, name, f"average ranks of {n} entries")


def pareto_chart(standing: Standing, name: str) -> str:
    """Average against seconds of training of ranked entries; "" where fewer than two say how long they took. Few that are far
    below the others would flatten those, so they are named at the lower edge."""
    seconds, n = standing.seconds, min(standing.n_ranked, MAX_SHOWN)
    timed = np.flatnonzero(np.isfinite(seconds[:n]) & (seconds[:n] > 0))
    if len(timed) < 2:
        return ""
    upper = standing.average[timed][: max(math.ceil(0.6 * len(timed)), 2)]
    shown = timed[standing.average[timed] >= upper[-1] - 1.5 * max(np.ptp(upper), 0.01)]
    below = [f"{_label(standing.entries[i].title, 20)} {standing.average[i]:.2f}" for i in timed if i not in shown]
    x, y = seconds[shown], standing.average[shown]
    front = pareto(standing.average, seconds)[shown]
    foot = 0.2 * math.ceil(len(below) / 2)
    figure = _canvas(WIDTH, 4.1 + foot)
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
        said = f"{'' if line else 'below: '}{', '.join(below[line : line + 2])}"
        figure.text(0.99, (foot - 0.1 * line) / (4.1 + foot), said, ha="right", va="top", fontsize=SIZE - 1, color=INK, parse_math=False)  # fmt: skip
    _name_points(
        axes, x, y, steps, [(_label(standing.entries[i].title, 22), str(standing.place[i])) for i in shown], front
    )
    return _svg(figure, name, "average against seconds of training")


def _name_points(axes: Any, x: np.ndarray, y: np.ndarray, steps: Sequence[tuple[float, float]], names: Sequence[Sequence[str]], first: np.ndarray) -> None:  # fmt: skip
    """Names beside points where they hide no other name, point or step, or a little away with a line to theirs; else their
    numbers. ``names``: of each point what to try. ``first`` [s] bool: those that choose before others."""
    dpi = axes.figure.dpi
    points = (axes.transData.transform(np.stack([x, y], 1)) * 72 / dpi).tolist()  # in points, as the sizes of text are
    frame = axes.get_window_extent()
    left, bottom, right, top = (float(v) * 72 / dpi for v in (frame.x0, frame.y0, frame.x1, frame.y1))
    taken = [(a - 4, b - 4, a + 4, b + 4) for a, b in points]
    corners = (axes.transData.transform(steps) * 72 / dpi).tolist() if steps else []
    for (a, b), (c, d) in pairwise(corners):
        taken += [(a, b - 1, c, b + 1), (c - 1, min(b, d), c + 1, max(b, d))]
    height = SIZE + 1
    for i in np.lexsort((-y, ~first)):
        a, b = points[i]
        offers = [(name, far, way) for name in names[i] for far in (0, 7, 13, 19, 25) for way in range(6)]
        for name, far, (right_, up) in ((name, far, WAYS[way]) for name, far, way in offers):
            width = (SIZE - 1) * (0.6 * len(name) + 0.3)
            u = min(max(a + right_ * (6 + width / 2 + 0.3 * far) - width / 2, left + 1), right - width)
            v = b - height / 2 + up * max(far, 11 if not right_ else 0)
            box = (u, v, u + width, v + height)
            if v > bottom and v + height < top and not any(_overlap(box, other) for other in taken):
                taken.append(box)
                if far > 13:
                    end = (min(max(a, u + 3), u + width - 3), v if up > 0 else v + height)
                    axes.annotate("", end, (a, b), xycoords="figure points", textcoords="figure points", arrowprops={"arrowstyle": "-", "color": FAINT, "linewidth": 0.7, "shrinkA": 0, "shrinkB": 3})  # fmt: skip
                axes.annotate(name, (u, v + height / 2), xycoords="figure points", fontsize=SIZE - 1, va="center", color=INK, parse_math=False)  # fmt: skip
                break


WAYS = ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, 1))  # of a name from its point


def _overlap(one: Sequence[float], other: Sequence[float]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _label(text: str, limit: int) -> str:
    return short(" ".join(printable(text).split()), limit)


def _colour(entry: Entry) -> str:
    return COLOURS.get(entry.kind, COLOURS["team"])


def _canvas(width: float, height: float) -> Any:
    from matplotlib.figure import Figure  # heavy, and only needed here; this class needs no screen

    return Figure(figsize=(width, height), dpi=72)


def _tidy(axes: Any, *kept: str) -> None:
    axes.patch.set_visible(False)
    for side, spine in axes.spines.items():
        spine.set_visible(side in kept)
        spine.set_color(FAINT)
    axes.tick_params(which="both", color=FAINT, labelcolor=INK, labelsize=SIZE - 1)


def _svg(figure: Any, name: str, about: str) -> str:
    """As part of a page: its colours and its letters, ids that no other chart has, and nothing that changes from run to run."""
    import matplotlib as mpl

    figure.patch.set_visible(False)
    sink = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*[Gg]lyph")  # whose widths are guessed; the browser has them
        figure.savefig(sink, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = sink.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<style[^>]*>.*?</style>|<!--.*?-->|<defs>\s*</defs>", "", text, flags=re.S)
    text = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", text).replace("xlink:href", "href")
    text = re.sub(r'\bid="([^"]*)"', rf'id="{name}-\1"', text)
    text = re.sub(r'(href="|url\()#', rf"\1#{name}-", text)
    text = re.sub(r"font: ([\d.]+px)[^;\"]*", r"font-size: \1", text)
    for colour, meant in {
        INK: "CanvasText",
        FAINT: "var(--faint)",
        **{c: f"var(--{k})" for k, c in COLOURS.items()},
    }.items():
        text = text.replace(colour, meant)
    view = re.search(r'viewBox="[^"]*"', text)
    assert view is not None
    return re.sub(r"<svg[^>]*>", f'<svg class="chart" {view[0]} role="img" aria-label="{safe(about)}">', text, count=1)


# --- figures as text -------------------------------------------------------------------------------------------------


def _references(board: Board, standing: Standing) -> list[str]:
    return list(dict.fromkeys(name for x in standing.datasets for name in board.datasets[x].references))


def _figure(value: float) -> str:
    return f"{value:.3f}"


def _range(low: float, high: float) -> str:
    return f"{low:.3f}–{high:.3f}"


def _spread_of(value: float) -> str:
    return f"{value:.3f}"


def _spread(standing: Standing, i: int, j: int) -> str:
    value, spread = standing.scores[i, j], standing.spread[i, j]
    return "" if math.isnan(value) else f"{value:.3f}" + ("" if math.isnan(spread) else f" ± {_spread_of(spread)}")


def _points(gap: float) -> str:
    """Of a hundred, with its sign."""
    text = f"{100 * gap:+.1f}"
    return "0.0" if float(text) == 0 else text.replace("-", "−")


def _sure(apart: bool | None) -> str:
    return "of which the noise is not known" if apart is None else "beyond noise" if apart else "within noise"


def _amount(value: float | None) -> str:
    return NONE if value is None else f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 0.1 else f"{value:.2g}"  # fmt: skip


def _size(value: int | None) -> str:
    if value is None:
        return NONE
    for unit, name in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if value >= unit:
            return f"{value / unit:.3g}{name}" if value / unit < 999.5 else f"{value / unit:,.0f}{name}"
    return str(value)


def _p(value: float) -> str:
    return "p < .0001" if value < 1e-4 else f"p = {_short(value)}"


def _short(value: float) -> str:
    """.0625"""
    return f"{value:.4g}".removeprefix("0") if value < 1 else "1"


def _count(n: int, one: str, several: str = "") -> str:
    return f"{n:,} {one if n == 1 else several or one + 's'}"


def _listed(parts: Sequence[str]) -> str:
    return f"{', '.join(parts[:-1])} and {parts[-1]}" if len(parts) > 1 else "".join(parts)


# --- style and script ------------------------------------------------------------------------------------------------

SCORES_SAID = (
    '<p class="legend"><span class="best">best</span> <span class="tied">within noise of the best</span> ± over seeds. '
    "A dataset's name opens its card, the arrow below it sorts.</p>"
)

STYLE = """
:root{--mmtab:#1f6fb5;--control:#77797d;--rival:#c05a12;--team:#26804a;--faint:#8b8f96;--dim:#5d6066;--good:#1f6fb526;--best:#1f6fb540;
--bad:#c05a1226}
@media(prefers-color-scheme:dark){:root{--mmtab:#62aef0;--control:#a3a6ab;--rival:#ee944f;--team:#5fc98a;--faint:#777b82;--dim:#a9adb3;
--good:#62aef02e;--best:#62aef052;--bad:#ee944f2e}}
[hidden]{display:none!important}body{max-width:86rem}h1,h2,th,td,dd,li,p{overflow-wrap:anywhere}.failures td{min-width:6rem}h2.track{font-size:1.35rem}
small,.legend,dt{color:var(--dim)}small{font-size:.75em;font-weight:400}
.facts{display:flex;flex-wrap:wrap;gap:.2rem 1.5rem;font-size:.85rem}.facts div{min-width:0}
form{display:flex;flex-wrap:wrap;gap:.4rem 1.2rem;align-items:center;margin:1rem 0 .6rem;font-size:.9rem}
input[type=search]{font:inherit;font-size:1rem;width:12rem;max-width:60vw;height:2.1rem;box-sizing:border-box;padding:0 .5rem}
.boxes{display:flex;flex-wrap:wrap;gap:.3rem .9rem}.box{display:inline-flex;align-items:center;gap:.3rem;min-height:2rem}output{color:var(--dim)}
button:focus-visible,.scroll:focus-visible{outline:2px solid var(--mmtab);outline-offset:1px}
nav{display:flex;flex-wrap:wrap;border-bottom:1px solid #8886;gap:0 .3rem}nav button{padding:.5rem .9rem;border-bottom:3px solid transparent}
nav button[aria-pressed=true]{border-color:var(--mmtab);font-weight:600}
.said,.tests{padding-left:1.1rem;font-size:.9rem;max-width:62rem}.said li,.tests li{margin:.2rem 0}
.legend{font-size:.82rem;margin:.3rem 0 .5rem}.legend span{padding:.05rem .35rem;border-radius:.2rem}
table{font-variant-numeric:tabular-nums;border-collapse:separate;border-spacing:0}td,th,td:last-child,td:nth-child(2):nth-last-child(2){padding:.28rem .55rem;min-width:0;vertical-align:middle}
thead th{font-weight:600;vertical-align:bottom;font-size:.8rem;overflow-wrap:normal}
th[scope=row]{font-weight:500;min-width:12rem;max-width:17rem;position:sticky;left:0;background:Canvas;z-index:1}
.ranking td,.scores td,.pairs td,.rest td{text-align:right;white-space:nowrap}.ranking td:nth-child(3),.rest td:nth-child(2){text-align:left}
.ranking thead th,.scores thead th{text-align:right}.ranking thead th:nth-child(2),.ranking thead th:nth-child(3),.scores thead th:first-child{text-align:left}
.ranking thead th:nth-child(2),.scores thead th:first-child,.pairs thead th:first-child{position:sticky;left:0;background:Canvas;z-index:2}
.sort:hover,.open:hover{color:var(--mmtab)}
.scores thead th{max-width:5.4rem}.scores .open{display:block;width:100%;text-align:right;text-decoration:underline dotted;text-underline-offset:.2em}
.scores .sort{min-width:1.6rem;min-height:1.4rem;text-align:right}.scores td{line-height:1.15}.scores td small{display:block}
.best,.tied{background:var(--good);font-weight:600}.best{background:var(--best);font-weight:700}
.published,.published th{color:var(--dim);font-style:italic;font-weight:400}
.scroll{position:relative}.rest{margin-top:1.2rem}.ranking td:nth-child(5),.ranking thead th:nth-child(5){text-align:left}.ranking td,.ranking th,.ranking td:last-child{padding-inline:.38rem}.pairs td{font-size:.8rem;padding:.22rem .4rem}.pairs thead th{text-align:right}.pairs thead th:first-child{text-align:left}
.up{background:var(--good)}.down{background:var(--bad)}.noise{color:var(--faint)}
.dot{display:inline-block;width:.6em;height:.6em;border-radius:50%;background:currentColor;margin-right:.45em}
.kind::before{content:"";display:inline-block;width:.6em;height:.6em;border-radius:50%;background:currentColor;margin-right:.35em}
.kind{font-size:.85em;white-space:nowrap}.mmtab{color:var(--mmtab)}.control{color:var(--control)}.rival{color:var(--rival)}.team{color:var(--team)}
.whisker{position:relative;display:inline-block;width:9rem;height:1.1rem;vertical-align:middle;background:#8881;margin-right:.5rem}
.whisker s{position:absolute;top:-.35rem;bottom:-.35rem;background:var(--good)}.whisker i{position:absolute;top:50%;height:2px;margin-top:-1px;background:CanvasText}
.whisker u{position:absolute;top:50%;width:.5rem;height:.5rem;margin:-.25rem 0 0 -.25rem;border-radius:50%;background:CanvasText}
.whisker em{position:absolute;left:.1rem;line-height:1.1rem;font-style:normal;color:var(--faint)}
.charts{display:flex;flex-wrap:wrap;gap:1rem 2rem;align-items:flex-start}figure{margin:0;flex:1 1 20rem;min-width:0;max-width:34rem}
figcaption{font-size:.82rem;color:var(--dim);margin-bottom:.3rem}.chart{display:block;width:100%;height:auto;font-family:system-ui,sans-serif}
.failures td{vertical-align:top}.failures td:last-child{min-width:12rem}
dialog{width:min(44rem,calc(100vw - 1.5rem));max-height:calc(100dvh - 2rem);box-sizing:border-box;border:1px solid #8888;border-radius:.6rem;padding:1rem;overflow:auto}
dialog::backdrop{background:#0007}dialog header{display:flex;justify-content:space-between;gap:1rem;align-items:start}dialog h2{margin:0}
.close{min-width:2.2rem;min-height:2.2rem;text-align:center;border-radius:.3rem}.bars{width:100%;margin-top:.8rem;table-layout:fixed}
.bars th[scope=row]{width:38%;min-width:0;max-width:none}.bars td:last-child{text-align:right;white-space:nowrap;width:4.2rem;line-height:1.1}.bars td small{display:block}.bar{position:relative;display:block;height:.9rem;background:#8882;border-radius:.15rem}
.bar i{position:absolute;inset:0 auto 0 0;background:currentColor;border-radius:.15rem;opacity:.75}.published .bar i{opacity:.35}
.bar u{position:absolute;top:50%;height:2px;margin-top:-1px;background:CanvasText}
.heard{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%);white-space:nowrap}
@media(max-width:44rem){body{padding:.7rem}th[scope=row]{min-width:7rem;max-width:8.5rem;font-size:.82rem}.said,.tests{font-size:.85rem}
nav button{padding:.5rem .6rem}nav small{display:none}
td,th,td:last-child,td:nth-child(2):nth-last-child(2){padding:.28rem .4rem}.whisker{width:6rem;display:block}.ranking small{display:block}
.ranking td:nth-child(3),.ranking th:nth-child(3){display:none}.ranking th:first-child,.ranking td:first-child{padding-inline:.1rem}.sort{white-space:nowrap}}
"""

SCRIPT = (
    html.SORT
    + """
const form = document.forms[0], nav = document.querySelector('nav'), sections = every('section');
const rows = every('tr[data-kind]').map(row => ({row, kind: row.dataset.kind, name: row.dataset.name}));
for (const table of every('table.pairs')) for (const [i, row] of every('tbody tr', table).entries()) row.column = i + 1;

function filter() {
  const wanted = form.elements.words.value.toLowerCase().split(/\\s+/).filter(Boolean);
  const boxes = every('[name=kind]', form), kinds = new Set(boxes.filter(box => box.checked).map(box => box.value));
  const names = new Set(), all = new Set();
  for (const {row, kind, name} of rows) {
    row.hidden = !((!boxes.length || kinds.has(kind)) && wanted.every(word => name.includes(word)));
    all.add(name);
    if (!row.hidden) names.add(name);
  }
  for (const table of every('table.pairs')) {
    const gone = new Set(every('tbody tr', table).filter(row => row.hidden).map(row => row.column));
    for (const row of table.rows) for (const [i, cell] of [...row.cells].entries()) cell.hidden = gone.has(i);
  }
  form.querySelector('output').value = names.size < all.size ? `${names.size} of ${all.size} entries` : '';
}

function track(number) {
  for (const section of sections) section.hidden = section.dataset.track !== number;
  for (const button of every('button', nav)) button.setAttribute('aria-pressed', button.dataset.track === number);
}

document.addEventListener('click', event => {
  const button = event.target.closest('button');
  if (!button) { if (event.target.matches('dialog')) event.target.close(); }
  else if (button.matches('.sort')) sort(button);
  else if (button.matches('.open')) every('dialog').find(card => card.dataset.card === button.dataset.card).showModal();
  else if (button.matches('.close')) button.closest('dialog').close();
  else if (button.matches('nav button')) track(button.dataset.track);
});
form.addEventListener('input', filter);
form.addEventListener('submit', event => event.preventDefault());
form.hidden = false;
filter();
if (nav) {
  nav.hidden = false;
  for (const head of every('h2.track')) head.hidden = true;
  track('0');
}
"""
)
