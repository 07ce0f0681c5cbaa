"""A page that shows candidate pairs of record matching side by side, with what spoke for and against each."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
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
from mmtab.reports import html
from mmtab.reports.html import safe, words
from mmtab.runs.session import progress_of
from mmtab.utils.atomic import write_text

LONG = 220  # characters of a text before it folds
LONGEST = 4000  # … and before it is cut
THUMBNAIL = 200


@dataclass(frozen=True)
class Shown:
    """One candidate pair. Of a side only its row is read; ``html.one_row`` makes one that keeps no large table.

    By relation: ``scores`` are probabilities, matches from ``thresholds`` on. ``reasons`` say what each column added to
    the log-odds. ``clusters`` number the cluster of both records, -1 where they are in two. ``group``: a heading.
    """

    left: tuple[Table, int]
    right: tuple[Table, int]
    scores: dict[str, float]
    thresholds: dict[str, float]
    reasons: dict[str, dict[str, float]]
    group: str
    clusters: dict[str, int]

    def matches(self, relation: str) -> bool:
        return self.scores[relation] >= self.thresholds[relation]


def write_page(
    path: Path, schema: Schema, shown: Sequence[Shown], title: str, facts: Sequence[tuple[str, str]]
) -> None:
    """Write one HTML page that needs no other file and no network, at once or not at all.

    ``facts`` stand in a table above the pairs. Groups keep the order in which they first come.
    """
    relations = list(dict.fromkeys(relation for pair in shown for relation in pair.scores))
    groups = {group: [pair for pair in shown if pair.group == group] for group in dict.fromkeys(p.group for p in shown)}
    scale = _scale(shown)
    parts = [f"<h1>{safe(title)}</h1>"]
    if facts:
        lines = (f'<tr><th scope="row">{safe(name)}</th><td>{safe(fact)}</td></tr>' for name, fact in facts)
        parts.append(f'<table class="facts"><tbody>{"".join(lines)}</tbody></table>')
    if shown:
        parts += [_controls(relations, groups), LEGEND]
    else:
        parts.append("<p>no pairs</p>")
    for i, (group, pairs) in enumerate(groups.items()):
        cards = "".join(_card(schema, pair, relations, scale) for pair in pairs)
        parts.append(f'<section data-group="{i}"><h2>{safe(group)} <small>{len(pairs):,}</small></h2>{cards}</section>')
    write_text(path, html.document(title, "".join(parts), STYLE, SCRIPT if shown else ""))


def write_result(config: MatchConfig, progress: Progress = progress_of) -> dict[str, dict[str, Any]]:
    """Match as configured and write the page beside the output; returns figures to print, by relation."""
    result, output = match(config, progress), Path(config.output)
    report, relations = result.report, list(result.schema.relations)
    shown = [
        _shown(result, place, group) for group, places in result.samples(config.n_shown).items() for place in places
    ]
    blocking, seconds = report["blocking"], report["seconds"]
    scores = {
        name: {k.removeprefix(f"{name}/"): v for k, v in report.get("scores", {}).items() if len(relations) == 1 or k.startswith(f"{name}/")}
        for name in relations
    }  # fmt: skip
    facts = [
        ("records", f"{report['n_records']:,}"),
        ("candidates", f"{blocking['n_candidates']:,}, {blocking['candidates_per_record']:.1f} a record"),
        *((f"matches{'' if len(relations) == 1 else f', {name}'}", f"{report['relations'][name]['n_matches']:,} in {report['relations'][name]['n_clusters_of_several']:,} clusters of several") for name in relations),
        ("seconds", ", ".join(f"{stage} {value:.0f}" for stage, value in seconds.items())),
        *((f"scores, {name}", ", ".join(f"{key.replace('_', ' ')} {value:.3f}" for key, value in scores[name].items() if key.endswith(("f1", "blocking_recall")))) for name in relations if scores[name]),
    ]  # fmt: skip
    write_page(output.with_suffix(".html"), result.schema, shown, f"Matches: {output.name}", facts)
    columns: dict[str, dict[str, Any]] = {}
    for name in relations:
        columns["match" if name == LABEL else name] = scores[name] | report["relations"][name]
    columns["whole"] = {
        "n_records": report["n_records"], **blocking, "seconds": seconds["total"], "peak_memory_mib": report["peak_memory_mib"]
    }  # fmt: skip
    return columns


def _shown(result: Matches, place: int, group: str) -> Shown:
    relations, records = list(result.schema.relations), result.records.table
    left, right = int(result.left[place]), int(result.right[place])
    reasons: dict[str, dict[str, float]] = {}
    if place in result.contributions:
        for name, row in zip(relations, result.contributions[place], strict=True):
            said = {column_title(c): float(v) for c, v in zip(result.columns, row, strict=True)}
            reasons[name] = {c: v for c, v in said.items() if c not in result.schema.relations[name]}
    together = result.together[place]
    return Shown(
        (html.one_row(records, left), 0),
        (html.one_row(records, right), 0),
        dict(zip(relations, result.probability[place].tolist(), strict=True)),
        dict(zip(relations, result.thresholds.tolist(), strict=True)),
        reasons,
        group,
        {name: int(result.clusters[r][left]) if together[r] else -1 for r, name in enumerate(relations)},
    )


def _scale(shown: Sequence[Shown]) -> float:
    """The log-odds of a full bar: one for the whole page, which a few extreme columns do not flatten."""
    sizes = [abs(v) for pair in shown for reasons in pair.reasons.values() for v in reasons.values() if np.isfinite(v)]
    return max(float(np.quantile(sizes, 0.95)), 0.1) if sizes else 1.0


def _controls(relations: Sequence[str], groups: dict[str, list[Shown]]) -> str:
    """Filters and the order, hidden where no script runs. Values are numbers: of the relation, and what is wanted of it."""

    def choice(name: str, options: list[tuple[str, str]]) -> str:
        inside = "".join(f'<option value="{value}">{safe(text)}</option>' for value, text in options)
        return f'<label>{name}<select name="{name}">{inside}</select></label>'

    n = sum(map(len, groups.values()))
    kinds = [(str(i), f"{group} ({len(pairs):,})") for i, (group, pairs) in enumerate(groups.items())]
    verdicts, orders = [("", "any")], [("", "as listed")]
    for i, relation in enumerate(relations):
        before = f"{relation}: " if len(relations) > 1 else ""
        verdicts += [(f"{i} 1", f"{before}match"), (f"{i} 0", f"{before}no match")]
        orders += [(f"{i} -1", f"{before}highest first"), (f"{i} 1", f"{before}lowest first")]
    return (
        f'<form hidden>{choice("group", [("", f"all ({n:,})"), *kinds])}{choice("verdict", verdicts)}'
        f'{choice("score", orders)}<label>search<input type="search" name="words"></label>'
        '<output role="status"></output></form>'
    )  # fmt: skip


def _card(schema: Schema, pair: Shown, relations: Sequence[str], scale: float) -> str:
    left, right = (str(table.ids[row].as_py()) for table, row in (pair.left, pair.right))
    called = " ".join(str(int(pair.matches(r))) if r in pair.scores else "-" for r in relations)
    scores = " ".join(f"{pair.scores[r]:.6g}" if r in pair.scores else "-" for r in relations)
    meters = "".join(_meter(pair, relation, relations) for relation in relations if relation in pair.scores)
    pictures_first = sorted(schema.columns, key=lambda column: column.type is not ColumnType.IMAGE)
    lines, absent = [], []
    for column in pictures_first:
        line = _line(schema, pair, column, relations, scale)
        lines.append(line)
        if not line:
            absent.append(column.name)
    known = {column.name for column in schema.columns}
    for name in dict.fromkeys(name for reasons in pair.reasons.values() for name in reasons if name not in known):
        head = _line_head(schema, pair, name, relations, scale)  # of no column: of the records as a whole
        lines.append(f'<div role="row">{head}<span role="cell"></span><span role="cell"></span></div>')
    missing = f'<p class="absent">in neither: {safe(", ".join(absent))}</p>' if absent else ""
    return (
        f'<article data-called="{called}" data-scores="{scores}"><h3>{meters}</h3>'
        f'<div role="table" aria-label="{safe(left)} and {safe(right)}"><div role="row" class="ids">'
        f'<span role="columnheader" class="name">{safe(schema.id)}</span>'
        f'<span role="columnheader">{safe(left)}</span><span role="columnheader">{safe(right)}</span></div>'
        f"{''.join(lines)}</div>{missing}</article>"
    )


def _meter(pair: Shown, relation: str, relations: Sequence[str]) -> str:
    """The probability of a relation, as a bar with a mark at the threshold, in figures and in words."""
    score, threshold, match = pair.scores[relation], pair.thresholds[relation], pair.matches(relation)
    cluster = pair.clusters.get(relation)
    where = "" if cluster is None else "two clusters" if cluster < 0 else f"cluster {cluster}"
    name = "" if list(relations) == [LABEL] else f"{safe(relation)} "  # the one relation without a name
    verdict = ("✓ " if match else "✗ no ") + "match"
    return (
        f'<span class="meter{" match" if match else ""}">{name}<b>{_percent(score)}</b>'
        f'<span class="gauge" aria-hidden="true" title="match from {_percent(threshold)}">'
        f'<i style="width:{100 * score:.1f}%"></i><u style="left:{100 * threshold:.1f}%"></u></span>'
        f"<strong>{verdict}</strong>{f' <small>{where}</small>' if where else ''}</span>"
    )


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _line(schema: Schema, pair: Shown, column: Column, relations: Sequence[str], scale: float) -> str:
    """One column of both rows; nothing where both cells are missing and no relation minds."""
    cells = [html.cell_of(table, row, column.name) for table, row in (pair.left, pair.right)]
    minds = any(reasons.get(column.name) for reasons in pair.reasons.values())
    if cells == [None, None] and not minds:
        return ""
    shown = "".join(f'<span role="cell">{cell}</span>' for cell in _cells(pair, column, cells))
    return f'<div role="row">{_line_head(schema, pair, column.name, relations, scale)}{shown}</div>'


def _line_head(schema: Schema, pair: Shown, name: str, relations: Sequence[str], scale: float) -> str:
    """A column's name and what it said to each relation."""
    bars = []
    for i, relation in enumerate(relations):
        title = f'<span class="relation">{safe(relation)}</span>' if len(relations) > 1 else ""
        said = pair.reasons.get(relation, {}).get(name)
        if said is None or np.isnan(said):
            if name not in schema.relations.get(relation, ()):
                continue
            inside = '<span class="free">may differ</span>'
        else:
            inside = _bar(said, scale)
        bars.append(f'<span class="reason" data-relation="{i}">{title}{inside}</span>')
    return f'<span role="rowheader" class="name"><span>{safe(name)}</span><span class="reasons">{"".join(bars)}</span></span>'


def _bar(said: float, scale: float) -> str:
    """To the right for, to the left against."""
    figure = f"{said:+.1f}".replace("-", "−")
    kind = "" if float(f"{said:.1f}") == 0 else "for" if said > 0 else "against"
    word = f"spoke {kind}" if kind else "said little"
    width = 50 * min(abs(said) / scale, 1)
    bar = f'<i class="{kind}" style="width:{width:.1f}%"></i>' if kind else ""
    return f'<span class="bar" aria-hidden="true">{bar}</span><span class="figure"><span class="heard">{word}: </span>{figure}</span>'


def _cells(pair: Shown, column: Column, cells: list[object]) -> Iterator[str]:
    """Both cells of a column as HTML, with what the other one lacks marked."""
    sides = pair.left, pair.right
    for (table, row), cell, other in zip(sides, cells, reversed(cells), strict=True):
        if cell is None:
            yield '<span class="missing" aria-hidden="true">—</span><span class="heard">missing</span>'
        elif column.type is ColumnType.IMAGE:
            more = len(image_sources(cell)) - html.MAX_PICTURES
            pictures = html.thumbnails(table, row, column.name, THUMBNAIL)
            yield f'<span class="pictures">{pictures}{f"<small>+{more}</small>" if more > 0 else ""}</span>'
        elif column.type is ColumnType.TEXT:
            yield _folded(str(cell), None if other is None else str(other))
        else:
            text = safe(html.short(words(column.type, cell), LONG))
            yield text if other is None or other == cell else f"<mark>{text}</mark>"


def _folded(text: str, other: str | None) -> str:
    """A text whose end opens when asked for, if it is long. Words that the other one lacks are marked; where those are
    most words, only an edge says so."""
    text = html.short(text, LONGEST)
    own, known = _words(text), _words(other or "")
    apart = other is not None and 3 * len(own & known) < len(own)
    lacking = set() if apart or other is None else own - known
    if len(text) <= LONG * 1.3:
        shown = _marked(text, lacking)
    else:
        cut = text.rfind(" ", LONG // 2, LONG) + 1 or LONG
        head, rest = _marked(text[:cut], lacking), _marked(text[cut:], lacking)
        shown = f"<details><summary>{head}</summary>{rest}</details>"
    return f'<div class="apart">{shown}</div>' if apart else shown


def _words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.casefold()))


def _marked(text: str, lacking: set[str]) -> str:
    pieces = re.split(r"(\w+)", text)  # words at odd places
    marked = (f"<mark>{safe(p)}</mark>" if i % 2 and p.casefold() in lacking else safe(p) for i, p in enumerate(pieces))
    return re.sub(r"</mark>(\s+)<mark>", r"\1", "".join(marked))


LEGEND = (
    '<p class="legend"><span><i class="against"></i> against</span><span><i class="for"></i> for (log-odds)</span>'
    "<span><mark>differs</mark></span></p>"
)

STYLE = """
:root{--for:#2371b3;--against:#c2502b;--mark:#f2b90052;--dim:#666}
@media(prefers-color-scheme:dark){:root{--for:#5aa3e0;--against:#e07a55;--dim:#aaa}}[hidden]{display:none!important}
h2{margin:1.5rem 0 .5rem}small,.absent,.missing,.free,.relation{color:var(--dim)}
h1,h2,td,th{overflow-wrap:anywhere}.facts th{font-weight:400;color:var(--dim)}.facts td:last-child{min-width:0}
form{position:sticky;top:0;z-index:1;background:Canvas;display:flex;flex-wrap:wrap;gap:.5rem 1rem;align-items:end;
margin:1rem 0 0;padding:.5rem 0;border-bottom:1px solid #8884}label{font-size:.75rem;color:var(--dim);flex:1 1 9rem;min-width:0}
select,input{display:block;font:inherit;font-size:1rem;width:100%;height:2.2rem;box-sizing:border-box;padding:0 .3rem;margin:0}
output{font-size:.9rem;flex:0 0 auto}
article{margin:0 0 1rem;content-visibility:auto;contain-intrinsic-size:auto 20rem}
article h3{display:flex;flex-wrap:wrap;gap:.2rem 1.5rem;font-weight:400}
.meter{display:inline-flex;flex-wrap:wrap;align-items:center;gap:.2rem .5rem}.meter.match strong{color:var(--for)}
.meter strong{font-weight:600}.gauge{position:relative;width:6rem;height:.6rem;background:#8883;border-radius:.2rem}
.gauge i{display:block;height:100%;background:#888;border-radius:.2rem}.match .gauge i{background:var(--for)}
.gauge u{position:absolute;top:-.2rem;bottom:-.2rem;width:2px;margin-left:-1px;background:CanvasText}
[role=row]{display:grid;grid-template-columns:19rem minmax(0,1fr) minmax(0,1fr);gap:0 1rem;padding:.25rem 0;
border-top:1px solid #8883}.ids{font-weight:600;font-size:.8rem}[role=cell],[role=columnheader]{overflow-wrap:anywhere;
min-width:0}[role=cell]{white-space:pre-line}.name{display:flex;flex-wrap:wrap;justify-content:space-between;
align-content:start;gap:0 .5rem;color:var(--dim);font-size:.8rem;overflow-wrap:anywhere;min-width:0}.name>span:first-child{min-width:0}
.reasons{margin-left:auto}.reason{display:flex;align-items:center;justify-content:flex-end;gap:.4rem}
.bar{position:relative;width:4rem;height:.7rem;flex:none;background:linear-gradient(#888,#888) center/1px 100% no-repeat}
.bar i{position:absolute;top:.1rem;bottom:.1rem}.bar .for{left:50%}
.bar .against{right:50%}.figure{width:2.2rem;text-align:right;font-variant-numeric:tabular-nums}
mark{background:var(--mark);color:inherit;border-radius:.15rem}.apart{border-left:.2rem solid #f2b900b0;padding-left:.4rem}
.legend{display:flex;flex-wrap:wrap;gap:.2rem 1rem;font-size:.8rem;color:var(--dim);margin:.5rem 0}
.legend mark{color:CanvasText}.legend i{display:inline-block;width:1.2rem;height:.7rem}i.for{background:var(--for)}i.against{background:var(--against)}.pictures{display:flex;flex-wrap:wrap;gap:.3rem}
.pictures img{max-width:100%;max-height:12.5rem;background:#fff;border-radius:.2rem}.absent{margin:.3rem 0 0;font-size:.75rem}
summary{cursor:pointer;list-style:none}summary::-webkit-details-marker{display:none}
summary::after{content:" … more";color:var(--for)}[open]>summary::after{content:""}
.heard{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%);white-space:nowrap}
@media(max-width:44rem){[role=row]{grid-template-columns:minmax(0,1fr) minmax(0,1fr);gap:0 .7rem}
.name{grid-column:1/-1}.gauge{width:4rem}article h3{font-size:.85rem}label{flex-basis:8rem}form{position:static}body{padding:.6rem}}
"""

SCRIPT = """
const form = document.forms[0], {group, verdict, score, words} = form.elements, sections = [...document.querySelectorAll('section')];
const pairs = [...document.querySelectorAll('article')].map((card, place) => ({
  card, place, called: card.dataset.called.split(' '), scores: card.dataset.scores.split(' ').map(parseFloat),
  text: [...card.querySelectorAll('[role=cell],[role=columnheader]')].map(cell => cell.textContent).join(' ').toLowerCase(),
}));
function show() {
  const wanted = words.value.toLowerCase().split(/\\s+/).filter(Boolean);
  const [relation, call] = verdict.value.split(' '), [by, sign] = score.value.split(' ');
  let n = 0;
  for (const {card, called, text} of pairs) {
    const fits = ['', card.parentNode.dataset.group].includes(group.value) && (!relation || called[relation] === call)
      && wanted.every(word => text.includes(word));
    card.hidden = !fits;
    n += fits;
  }
  const low = pair => Number.isNaN(pair.scores[by]) ? Infinity : sign * pair.scores[by];
  const order = by ? (a, b) => low(a) - low(b) || a.place - b.place : (a, b) => a.place - b.place;
  for (const {card} of [...pairs].sort(order)) card.parentNode.append(card);
  for (const section of sections) section.hidden = !section.querySelector('article:not([hidden])');
  for (const reason of document.querySelectorAll('.reason')) reason.hidden = relation && reason.dataset.relation !== relation;
  form.querySelector('output').value = `${n} of ${pairs.length}`;
}
form.addEventListener('input', show);
form.addEventListener('submit', event => event.preventDefault());
form.hidden = false;
show();
"""
