"""A dataset card: what a dataset holds, as Markdown and as one self-contained page with plots and sample rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mmtab.data.schema import ColumnType
from mmtab.reports import figures
from mmtab.reports.dataset_facts import ColumnFacts, DatasetFacts
from mmtab.reports.html import TEMPLATES, data_uri, render
from mmtab.reports.rows import Picture
from mmtab.utils.atomic import write_text
from mmtab.utils.text import markdown_table, markdown_text

MAX_CLASSES = 50  # of the table of labels
MAX_BARS = 15
MAX_PLOTS = 40  # columns


def write_card(facts: DatasetFacts, folder: Path) -> tuple[Path, Path]:
    """Write ``card.md`` and ``card.html`` into the folder, each at once or not at all."""
    paths = folder / "card.md", folder / "card.html"
    for path, text in zip(paths, (markdown(facts), page(facts)), strict=True):
        write_text(path, text)
    return paths


def markdown(facts: DatasetFacts) -> str:
    """The card without pictures and plots."""

    def table(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
        return markdown_table(list(map(markdown_text, head)), [list(map(markdown_text, line)) for line in body])

    parts = [f"# {markdown_text(facts.schema.title or facts.schema.name)}", table(["", ""], _about(facts))]
    parts += ["## Tables", table(["table", "rows"], _tables(facts))]
    parts += ["## Columns", table(["column", "type", "missing", "what is in it"], _columns(facts))]
    if facts.labels:
        parts += ["## Labels", table(["label", *facts.labels], _classes(facts))]
    if facts.alarms:
        parts += ["## Alarms", table(["severity", "what", "rows"], _alarms(facts))]
    return "\n\n".join(parts) + "\n"


def page(facts: DatasetFacts) -> str:
    """One HTML page that needs no other file and no network."""
    return render(
        TEMPLATES / "card.html.jinja",
        title=facts.schema.title or facts.schema.name,
        about=_about(facts),
        tables=_tables(facts),
        alarms=_alarms(facts),
        columns=_columns(facts),
        plots=_plots(facts),
        samples=facts.samples,
    )


def _about(facts: DatasetFacts) -> list[tuple[str, str]]:
    schema, labels = facts.schema, facts.all_labels
    share = f", the largest has {max(labels.values()) / labels.total():.1%} of the rows" if labels else ""
    matches = ", ".join(
        f"{name.removeprefix('pairs_')} {counts['match'] / max(counts.total(), 1):.1%}"
        for name, counts in facts.labels.items()
    )
    entries = {
        "task": f"{schema.task}, ranked by {schema.metric}",
        "licence": schema.licence or "not stated",
        "source": schema.source or "not stated",
        "split": ", ".join(f"{key}: {value}" for key, value in schema.split.items()) or "not recorded",
        "classes": f"{len(labels)} in column {schema.label}{share}" if schema.label else "",
        "matches": "" if schema.label else matches,
    }
    return [(key, value) for key, value in entries.items() if value]


def _tables(facts: DatasetFacts) -> list[tuple[str, str]]:
    return [(name, f"{n:,}") for name, n in facts.rows.items()]


def _columns(facts: DatasetFacts) -> list[list[str]]:
    def missing(column: ColumnFacts) -> str:
        shares = [f"{name} {column.missing[name] / n:.1%}" for name, n in column.n.items() if column.missing[name]]
        return ", ".join(shares) or "none"

    return [[column.name, str(column.type), missing(column), column.summary()] for column in facts.columns]


def _classes(facts: DatasetFacts) -> list[list[str]]:
    names = sorted(facts.all_labels.items(), key=lambda item: (-item[1], item[0]))[:MAX_CLASSES]
    return [[name, *(f"{counts[name]:,}" for counts in facts.labels.values())] for name, _ in names]


def _alarms(facts: DatasetFacts) -> list[list[str]]:
    return [[str(alarm.severity), alarm.message, "; ".join(alarm.rows[:3])] for alarm in facts.alarms]


def _plots(facts: DatasetFacts) -> list[Picture]:
    """Small plots, each with what it shows in words."""
    plots = {}
    labels = facts.all_labels
    if labels:
        top = labels.most_common(MAX_BARS)
        rest = labels.total() - sum(n for _, n in top)
        bars = top + ([(f"{len(labels) - MAX_BARS} others", rest)] if rest else [])
        plots["labels"] = figures.small_bars("rows by label", bars)
    shares = [(column.name, 100 * column.share_missing) for column in facts.columns]
    if any(share for _, share in shares):
        shown = sorted(shares, key=lambda item: -item[1])[:MAX_BARS]
        plots["missing cells by column, in percent"] = figures.small_bars("% missing", shown)
    for column in facts.columns[:MAX_PLOTS]:
        if column.type in (ColumnType.NUMERIC, ColumnType.TEXT) and len(np.unique(column.numbers)) > 1:
            unit = "characters" if column.type is ColumnType.TEXT else "value"
            figure = figures.small_histogram(column.name, unit, column.numbers)
            plots[f"distribution of {column.name} ({unit})"] = figure
        elif column.type is ColumnType.CATEGORICAL and column.counts:
            figure = figures.small_bars(column.name, column.counts.most_common(8))
            plots[f"commonest values of {column.name}"] = figure
    return [Picture(about, data_uri(figures.png(figure, 80), "png")) for about, figure in plots.items()]
