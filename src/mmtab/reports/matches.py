"""A page that shows candidate pairs of record matching side by side, with what spoke for and against each."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmtab.config.types import MatchConfig
from mmtab.data.cells import image_sources
from mmtab.data.pictures import Progress
from mmtab.data.schema import LABEL, Column, ColumnType, Schema
from mmtab.data.table import Table
from mmtab.matching.explain import column_title
from mmtab.matching.pipeline import match
from mmtab.matching.result import Matches
from mmtab.reports.html import TEMPLATES, render
from mmtab.reports.rows import MAX_PICTURES, Picture, as_text, one_row, thumbnails, value_of
from mmtab.runs.session import progress_of
from mmtab.utils.atomic import write_text
from mmtab.utils.text import short

LONG = 220  # characters of a text before it folds
LONGEST = 4000  # … and before it is cut
THUMBNAIL = 200  # pixels


@dataclass(frozen=True)
class ShownPair:
    """One candidate pair. Of a side only its row is read; ``rows.one_row`` makes one that keeps no large table."""

    left: tuple[Table, int]
    right: tuple[Table, int]
    scores: dict[str, float]  # probability by relation
    thresholds: dict[str, float]  # by relation, from which probability it is a match
    reasons: dict[str, dict[str, float]]  # by relation and column, log-odds that the column added
    group: str  # a heading of the page
    clusters: dict[str, int]  # by relation, the number of the cluster of both records, -1 where they are in two

    def matches(self, relation: str) -> bool:
        return self.scores[relation] >= self.thresholds[relation]


def write_page(
    path: Path, schema: Schema, pairs: Sequence[ShownPair], title: str, facts: Sequence[tuple[str, str]]
) -> None:
    """Write one HTML page that needs no other file and no network, at once or not at all.

    ``facts`` stand in a table above the pairs. Groups keep the order in which they first come.
    """
    relations = list(dict.fromkeys(relation for pair in pairs for relation in pair.scores))
    groups: dict[str, list[Card]] = {}
    layout = Layout(schema, relations, _scale(pairs))
    for pair in pairs:
        groups.setdefault(pair.group, []).append(layout.card(pair))
    names = {i: f"{relation}: " if len(relations) > 1 else "" for i, relation in enumerate(relations)}
    page = render(TEMPLATES / "matches.html.jinja", title=title, facts=facts, groups=groups, names=names, id=schema.id)
    write_text(path, page)


def write_result(config: MatchConfig, progress: Progress = progress_of) -> dict[str, dict[str, Any]]:
    """Match as configured and write the page beside the output; returns figures to print, by relation."""
    result, output = match(config, progress), Path(config.output)
    report, relations = result.report, list(result.schema.relations)
    samples = result.samples(config.n_shown)
    pairs = [_shown(result, place, group) for group, places in samples.items() for place in places]
    scores = {
        name: {
            key.removeprefix(f"{name}/"): value
            for key, value in report.get("scores", {}).items()
            if len(relations) == 1 or key.startswith(f"{name}/")
        }
        for name in relations
    }
    facts = _facts(report, relations, scores)
    write_page(output.with_suffix(".html"), result.schema, pairs, f"Matches: {output.name}", facts)
    columns: dict[str, dict[str, Any]] = {}
    for name in relations:
        columns["match" if name == LABEL else name] = scores[name] | report["relations"][name]
    total = {"seconds": report["seconds"]["total"], "peak_memory_mib": report["peak_memory_mib"]}
    columns["whole"] = {"n_records": report["n_records"], **report["blocking"], **total}
    return columns


def _facts(
    report: Mapping[str, Any], relations: Sequence[str], scores: Mapping[str, Mapping[str, float]]
) -> list[tuple[str, str]]:
    blocking = report["blocking"]
    facts = [
        ("records", f"{report['n_records']:,}"),
        ("candidates", f"{blocking['n_candidates']:,}, {blocking['candidates_per_record']:.1f} a record"),
    ]
    for name in relations:
        counts = report["relations"][name]
        text = f"{counts['n_matches']:,} in {counts['n_clusters_of_several']:,} clusters of several"
        facts.append(("matches" if len(relations) == 1 else f"matches, {name}", text))
    facts.append(("seconds", ", ".join(f"{stage} {value:.0f}" for stage, value in report["seconds"].items())))
    for name in relations:
        shown = {key: value for key, value in scores[name].items() if key.endswith(("f1", "blocking_recall"))}
        if scores[name]:
            text = ", ".join(f"{key.replace('_', ' ')} {value:.3f}" for key, value in shown.items())
            facts.append((f"scores, {name}", text))
    return facts


def _shown(result: Matches, place: int, group: str) -> ShownPair:
    relations, records = result.schema.relations, result.records.table
    left, right = int(result.left[place]), int(result.right[place])
    reasons: dict[str, dict[str, float]] = {}
    if place in result.contributions:
        for name, values in zip(relations, result.contributions[place], strict=True):
            by_column = {column_title(c): float(value) for c, value in zip(result.columns, values, strict=True)}
            reasons[name] = {c: value for c, value in by_column.items() if c not in relations[name]}
    together = result.together[place]
    return ShownPair(
        left=(one_row(records, left), 0),
        right=(one_row(records, right), 0),
        scores=dict(zip(relations, result.probability[place].tolist(), strict=True)),
        thresholds=dict(zip(relations, result.thresholds.tolist(), strict=True)),
        reasons=reasons,
        group=group,
        clusters={name: int(result.clusters[r][left]) if together[r] else -1 for r, name in enumerate(relations)},
    )


def _scale(pairs: Sequence[ShownPair]) -> float:
    """The log-odds of a full bar: one for the whole page, which a few extreme columns do not flatten."""
    values = [abs(v) for pair in pairs for reasons in pair.reasons.values() for v in reasons.values() if np.isfinite(v)]
    return max(float(np.quantile(values, 0.95)), 0.1) if values else 1.0


# --- a pair as its card shows it -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Meter:
    """The probability of a relation, beside the threshold and in words."""

    relation: str  # empty for the one relation without a name
    score: float
    threshold: float
    match: bool
    cluster: str


@dataclass(frozen=True)
class Reason:
    """What a column contributes to a relation's score; ``place``: of the relation among those of the page. ``log_odds``
    is None where the relation lets the column differ. ``width``: of its bar, in percent."""

    place: int
    relation: str  # empty where there is only one
    log_odds: float | None
    width: float = 0.0


@dataclass(frozen=True)
class SideCell:
    """A cell as runs of text that the other side has or lacks. A long text has ``rest``, which unfolds; ``apart``: most
    words differ."""

    text: list[tuple[str, bool]]
    rest: list[tuple[str, bool]]
    apart: bool = False
    pictures: tuple[Picture, ...] = ()
    n_more_pictures: int = 0


@dataclass(frozen=True)
class Card:
    """``lines``: name, reasons, and both cells (None where missing), or no cells where it is no column. ``absent``:
    columns that are missing on both sides. ``called`` and ``scores`` are by relation, for the filters of the page."""

    ids: tuple[str, str]
    called: str
    scores: str
    meters: list[Meter]
    lines: list[tuple[str, list[Reason], list[SideCell | None]]]
    absent: list[str]


@dataclass(frozen=True)
class Layout:
    """What all cards of a page share; ``scale``: log-odds of a full bar."""

    schema: Schema
    relations: Sequence[str]
    scale: float

    def card(self, pair: ShownPair) -> Card:
        called = [str(int(pair.matches(name))) if name in pair.scores else "-" for name in self.relations]
        scores = [f"{pair.scores[name]:.6g}" if name in pair.scores else "-" for name in self.relations]
        lines: list[tuple[str, list[Reason], list[SideCell | None]]] = []
        absent = []
        for column in sorted(self.schema.columns, key=lambda column: column.type is not ColumnType.IMAGE):
            values = [value_of(table, row, column.name) for table, row in (pair.left, pair.right)]
            if values == [None, None] and not any(reasons.get(column.name) for reasons in pair.reasons.values()):
                absent.append(column.name)
            else:
                lines.append((column.name, self.reasons(pair, column.name), list(_cells(pair, column, values))))
        columns = {column.name for column in self.schema.columns}
        for name in dict.fromkeys(name for reasons in pair.reasons.values() for name in reasons):
            if name not in columns:  # but of the records as a whole
                lines.append((name, self.reasons(pair, name), []))
        ids = tuple(str(table.ids[row].as_py()) for table, row in (pair.left, pair.right))
        meters = [self.meter(pair, relation) for relation in self.relations if relation in pair.scores]
        return Card((ids[0], ids[1]), " ".join(called), " ".join(scores), meters, lines, absent)

    def meter(self, pair: ShownPair, relation: str) -> Meter:
        cluster = pair.clusters.get(relation)
        place = "" if cluster is None else "two clusters" if cluster < 0 else f"cluster {cluster}"
        name = "" if list(self.relations) == [LABEL] else relation
        return Meter(name, pair.scores[relation], pair.thresholds[relation], pair.matches(relation), place)

    def reasons(self, pair: ShownPair, name: str) -> list[Reason]:
        reasons = []
        for i, relation in enumerate(self.relations):
            title = relation if len(self.relations) > 1 else ""
            value = pair.reasons.get(relation, {}).get(name)
            if value is not None and not np.isnan(value):
                reasons.append(Reason(i, title, value, 50 * min(abs(value) / self.scale, 1)))
            elif name in self.schema.relations.get(relation, ()):
                reasons.append(Reason(i, title, None))
        return reasons


def _cells(pair: ShownPair, column: Column, values: list[object]) -> Iterator[SideCell | None]:
    """Both cells of a column, with what the other one lacks marked."""
    for (table, row), value, other in zip((pair.left, pair.right), values, reversed(values), strict=True):
        if value is None:
            yield None
        elif column.type is ColumnType.IMAGE:
            pictures = thumbnails(table, row, column.name, THUMBNAIL)
            yield SideCell([], [], False, pictures, max(len(image_sources(value)) - MAX_PICTURES, 0))
        elif column.type is ColumnType.TEXT:
            yield _folded(str(value), None if other is None else str(other))
        else:
            yield SideCell([(short(as_text(column.type, value), LONG), other is not None and other != value)], [])


def _folded(text: str, other: str | None) -> SideCell:
    """Words that the other text lacks are marked; where those are most words, the cell is apart."""
    text = short(text, LONGEST)
    own, others = _words(text), _words(other or "")
    apart = other is not None and 3 * len(own & others) < len(own)
    lacking = set() if apart or other is None else own - others
    if len(text) <= LONG * 1.3:
        return SideCell(_marked(text, lacking), [], apart)
    cut = text.rfind(" ", LONG // 2, LONG) + 1 or LONG
    return SideCell(_marked(text[:cut], lacking), _marked(text[cut:], lacking), apart)


def _words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.casefold()))


def _marked(text: str, lacking: set[str]) -> list[tuple[str, bool]]:
    """Runs of text, and whether their words are among those that the other text lacks; spaces join marked words."""
    pieces = re.split(r"(\w+)", text)  # words at odd places
    marks = [i % 2 == 1 and piece.casefold() in lacking for i, piece in enumerate(pieces)]
    for i in range(2, len(pieces) - 1, 2):
        marks[i] = pieces[i].isspace() and marks[i - 1] and marks[i + 1]
    runs: list[tuple[str, bool]] = []
    for piece, mark in zip(pieces, marks, strict=True):
        if runs and runs[-1][1] == mark:
            runs[-1] = (runs[-1][0] + piece, mark)
        elif piece:
            runs.append((piece, mark))
    return runs
