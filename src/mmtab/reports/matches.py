"""A page that shows candidate pairs of record matching side by side, with what spoke for and against each."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from mmtab.config.types import MatchConfig
from mmtab.data.cells import image_sources
from mmtab.data.digests import digest_of
from mmtab.data.schema import LABEL, Column, ColumnType, Schema
from mmtab.data.table import Table
from mmtab.matching.explain import column_title
from mmtab.matching.pipeline import find_candidates, match
from mmtab.matching.result import Matches
from mmtab.reports.clusters import ShownCluster, shown_clusters
from mmtab.reports.figures import label_curve
from mmtab.reports.html import TEMPLATES, render
from mmtab.reports.rows import MAX_PICTURES, as_text, one_row, thumbnails, value_of
from mmtab.reports.svg import svg
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
    path: Path,
    schema: Schema,
    pairs: Sequence[ShownPair],
    title: str,
    facts: Sequence[tuple[str, str]],
    given: Sequence[tuple[str, str, str, int]] = (),
    key: str = "",
    charts: Sequence[Markup] = (),
    clusters: Sequence[ShownCluster] = (),
) -> None:
    """Write one HTML page that needs no other file and no network, at once or not at all.

    ``facts`` and ``charts`` stand above the pairs, ``clusters`` below. Groups keep the order in which they first come.
    ``given``: the pairs labelled before (left id, right id, relation, label), which the page saves with the new ones;
    ``key``: says with the relations which labels of those that the browser keeps are of this page.
    """
    relations = list(dict.fromkeys(relation for pair in pairs for relation in pair.scores))
    relations = relations or [*dict.fromkeys(cluster.relation for cluster in clusters)]
    # One scale for the whole page, which a few extreme columns do not flatten
    values = [abs(v) for pair in pairs for reasons in pair.reasons.values() for v in reasons.values() if np.isfinite(v)]
    scale = max(float(np.quantile(values, 0.95)), 0.1) if values else 1.0
    groups: dict[str, list[dict[str, Any]]] = {}
    for pair in pairs:
        groups.setdefault(pair.group, []).append(_card(schema, relations, scale, pair))
    names = {i: f"{relation}: " if len(relations) > 1 else "" for i, relation in enumerate(relations)}
    page = render(
        TEMPLATES / "matches.html.jinja",
        title=title,
        facts=facts,
        groups=groups,
        relations=relations,
        nameless=relations == [LABEL],
        names=names,
        id=schema.id,
        given=given,
        key=[key or title, *relations],
        charts=charts,
        clusters=clusters,
    )
    write_text(path, page)


def write_result(config: MatchConfig) -> dict[str, dict[str, Any]]:
    """Match as configured and write the page beside the output; returns figures to print, by relation."""
    if config.stop == "blocking":
        report = find_candidates(config)
        return {"blocking": _whole(report) | report.get("scores", {})}
    result, output = match(config), Path(config.output)
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
    for name in relations:
        if found := report["relations"][name].get("contradicted"):
            fix = "look whether 1 stands for a match, or leave the labels out"
            where = f", relation {name}" if len(relations) > 1 else ""
            warnings.warn(
                f"labels={config.labels}{where}: {found}, of which next to nothing is left. Fix: {fix}", stacklevel=2
            )
    facts = _facts(report, relations, scores)
    write_page(
        output.with_suffix(".html"),
        result.schema,
        pairs,
        f"Matches: {output.name}",
        facts,
        given=_labelled(result),
        key=digest_of(result.records.table.ids),
        charts=_curves(report),
        clusters=shown_clusters(result) if config.n_shown else (),
    )
    columns: dict[str, dict[str, Any]] = {}
    for name in relations:
        told = scores[name] | report["relations"][name]
        untold = {"contradicted"} if told["weighed_by"] else {"contradicted", "weighed_by"}
        columns["match" if name == LABEL else name] = {key: told[key] for key in told if key not in untold}
    columns["whole"] = _whole(report)
    return columns


def _labelled(result: Matches) -> list[tuple[str, str, str, int]]:
    ids, relations = result.records.table.ids, list(result.schema.relations)
    places = zip(*np.nonzero(result.known >= 0), strict=True)
    return [
        (str(ids[result.left[i]]), str(ids[result.right[i]]), relations[r], int(result.known[i, r])) for i, r in places
    ]


def _curves(report: Mapping[str, Any]) -> list[Markup]:
    curves = report.get("label_curve", {})
    return [svg(label_curve(of), f"curve{i}", f"{name}: F1 by labels") for i, (name, of) in enumerate(curves.items())]


def _whole(report: Mapping[str, Any]) -> dict[str, Any]:
    total = {"seconds": report["seconds"]["total"], "peak_memory_mib": report["peak_memory_mib"]}
    return {"n_records": report["n_records"], **report["blocking"], **total}


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
        several = f"{counts['n_clusters_of_several']:,} clusters of several ({counts['clustering']})"
        text = f"{counts['n_matches']:,} in {several}"
        if counts["weighed_by"]:
            text += f"; scores weighed against those of rivals, by {counts['weighed_by']:,} known matches"
        facts.append(("matches" if len(relations) == 1 else f"matches, {name}", text))
        if "n_labels" in counts:
            facts.append((f"labels, {name}" if len(relations) > 1 else "labels", _learned(counts)))
    facts.append(("seconds", ", ".join(f"{stage} {value:.0f}" for stage, value in report["seconds"].items())))
    for name in relations:
        shown = {key: value for key, value in scores[name].items() if key.endswith(("f1", "blocking_recall"))}
        if scores[name]:
            text = ", ".join(f"{key.replace('_', ' ')} {value:.3f}" for key, value in shown.items())
            facts.append((f"scores, {name}", text))
    return facts


def _learned(counts: Mapping[str, Any]) -> str:
    """What labels changed of a relation."""
    given = f"{counts['n_labels']:,}, {counts['n_labelled_matches']:,} of them matches"
    changed = f"{counts['n_changed']:,} candidates joined or parted"
    if counts["not_learned"]:
        return f"{given}: taken as given, but nothing was learned ({counts['not_learned']}); {changed}"
    moved = f"threshold {counts['threshold_of_run']:.3f} to {counts['threshold']:.3f}"
    if counts["contradicted"]:
        given += f"; {counts['contradicted']}, so that next to nothing is left of the scores"
    scale = f"log-odds divided by {counts['temperature']:.2f}, {counts['bias']:+.2f} added"
    return f"{given}; {moved}; {scale}; {changed}"


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


def _card(schema: Schema, relations: Sequence[str], scale: float, pair: ShownPair) -> dict[str, Any]:
    """A pair as the template shows it.

    ``lines``: name, reasons and both cells (None where missing), or no cells where the name is no column. ``absent``:
    columns that are missing on both sides. ``matches`` and ``scores`` are by relation, for the filters of the page;
    ``scale``: log-odds of a full bar.
    """

    def contributions(name: str) -> list[tuple[int, float | None, float]]:
        """Of each relation its number, log-odds and width of the bar, in percent; no log-odds where it may differ."""
        values: list[tuple[int, float | None, float]] = []
        for i, relation in enumerate(relations):
            value = pair.reasons.get(relation, {}).get(name)
            if value is not None and not np.isnan(value):
                values.append((i, value, 50 * min(abs(value) / scale, 1)))
            elif name in schema.relations.get(relation, ()):
                values.append((i, None, 0))
        return values

    sides = pair.left, pair.right
    lines: list[tuple[str, list[tuple[int, float | None, float]], list[dict[str, Any] | None]]] = []
    absent = []
    for column in sorted(schema.columns, key=lambda column: column.type is not ColumnType.IMAGE):
        values = [value_of(table, row, column.name) for table, row in sides]
        if values == [None, None] and not any(reasons.get(column.name) for reasons in pair.reasons.values()):
            absent.append(column.name)
        else:
            cells = [_cell(*side, column, *x) for side, x in zip(sides, (values, values[::-1]), strict=True)]
            lines.append((column.name, contributions(column.name), cells))
    columns = {column.name for column in schema.columns}
    names = dict.fromkeys(name for reasons in pair.reasons.values() for name in reasons)
    lines += [(name, contributions(name), []) for name in names if name not in columns]  # of whole records
    return {
        "pair": pair,
        "ids": [str(table.ids[row].as_py()) for table, row in sides],
        "matches": " ".join(str(int(pair.matches(name))) if name in pair.scores else "-" for name in relations),
        "scores": " ".join(f"{pair.scores[name]:.6g}" if name in pair.scores else "-" for name in relations),
        "lines": lines,
        "absent": absent,
    }


def _cell(table: Table, row: int, column: Column, value: object, other: object) -> dict[str, Any] | None:
    """A cell, with what that of the other side lacks marked; None where it is missing."""
    if value is None:
        return None
    if column.type is ColumnType.IMAGE:
        n_more = max(len(image_sources(value, table.folder)) - MAX_PICTURES, 0)
        return {"pictures": thumbnails(table, row, column.name, THUMBNAIL), "n_more": n_more}
    if column.type is ColumnType.TEXT:
        return _folded(str(value), None if other is None else str(other))
    text = short(as_text(column.type, value), LONG)
    return {"text": [(text, other is not None and other != value)], "rest": [], "apart": False}


def _folded(text: str, other: str | None) -> dict[str, Any]:
    """Runs of text; words that the other text lacks are marked, or where those are most words, the cell is apart. Of a
    long text the ``rest`` unfolds."""
    text = short(text, LONGEST)
    own, others = _words(text), _words(other or "")
    apart = other is not None and 3 * len(own & others) < len(own)
    lacking = set() if apart or other is None else own - others
    cut = len(text) if len(text) <= LONG * 1.3 else text.rfind(" ", LONG // 2, LONG) + 1 or LONG
    return {"text": _marked(text[:cut], lacking), "rest": _marked(text[cut:], lacking), "apart": apart}


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
