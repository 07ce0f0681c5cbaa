"""A dataset card: what a dataset holds, as Markdown and as one self-contained page with plots and sample rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from markupsafe import Markup

from mmtab.config.types import SPLITS
from mmtab.data import files
from mmtab.data.cells import image_sources
from mmtab.data.pairs import read_pairs, read_records
from mmtab.data.pictures import open_picture
from mmtab.data.schema import ColumnType, Schema
from mmtab.data.table import Table, read_batches
from mmtab.prepare.check.alarms import Alarm
from mmtab.reports import figures
from mmtab.reports.html import TEMPLATES, render
from mmtab.reports.rows import Cell, cells_of
from mmtab.reports.svg import svg
from mmtab.utils.atomic import write_text
from mmtab.utils.errors import DataError
from mmtab.utils.text import markdown_text, short, text_table

MAX_VALUES = 20_000  # distinct values counted; further ones are left out
MAX_NUMBERS = 100_000  # numbers, or lengths of texts, for plots and quantiles
MAX_PICTURES = 300  # opened to learn their sizes
MAX_CLASSES = 50  # of the table of labels
MAX_BARS = 15
N_SAMPLES = 8  # rows, or pairs, to look at
MAX_PLOTS = 40  # columns


@dataclass
class ColumnFacts:
    """One column over all rows. ``values``: of numbers themselves, of texts their lengths in characters."""

    name: str
    type: ColumnType
    n: dict[str, int] = field(default_factory=dict)  # rows, by table
    missing: dict[str, int] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    values: list[np.ndarray] = field(default_factory=list)
    sizes: Counter[str] = field(default_factory=Counter)
    n_pictures: int = 0

    @property
    def numbers(self) -> np.ndarray:
        return np.concatenate(self.values) if self.values else np.zeros(0)

    @property
    def share_missing(self) -> float:
        return sum(self.missing.values()) / max(sum(self.n.values()), 1)

    def summary(self) -> str:
        """The column in a line."""
        if self.type is ColumnType.IMAGE:
            common = ", ".join(f"{size} ({n})" for size, n in self.sizes.most_common(3))
            return f"{self.n_pictures:,} pictures; sizes of a sample: {common or 'none could be opened'}"
        if self.type is ColumnType.CATEGORICAL:
            more = "at least " if len(self.counts) >= MAX_VALUES else ""
            common = ", ".join(f"{short(value, 24)} ({n:,})" for value, n in self.counts.most_common(4))
            return f"{more}{len(self.counts):,} values; {common}"
        if not len(self.numbers):
            return "nothing but missing cells"
        low, middle, high = np.quantile(self.numbers, [0, 0.5, 1])
        if self.type is ColumnType.TEXT:
            return f"{low:.0f} to {high:.0f} characters, median {middle:.0f}"
        if self.type is ColumnType.DATETIME:
            return " to ".join(str(np.datetime64(int(t), "s").astype("datetime64[D]")) for t in (low, high))
        return f"{low:.6g} to {high:.6g}, median {middle:.6g}"

    def add(self, table: Table, rng: np.random.Generator) -> None:
        """Count the cells of a further batch of a table."""
        cells = table.columns[self.name]
        filled = cells.drop_null()
        self.n[table.name] = self.n.get(table.name, 0) + len(cells)
        self.missing[table.name] = self.missing.get(table.name, 0) + len(cells) - len(filled)
        if self.type is ColumnType.IMAGE:
            self._add_pictures(table)
        elif self.type is ColumnType.CATEGORICAL:
            for value, count in _counts(filled).items():
                if value in self.counts or len(self.counts) < MAX_VALUES:
                    self.counts[value] += count
        else:
            numbers = np.asarray(pc.utf8_length(filled) if self.type is ColumnType.TEXT else filled, float)
            numbers = numbers[np.isfinite(numbers)]
            # Of a table of any length, a sample of each batch is left
            n = min(len(numbers), max(MAX_NUMBERS - sum(map(len, self.values)), 64))
            self.values.append(numbers if n == len(numbers) else rng.choice(numbers, n, replace=False))

    def _add_pictures(self, table: Table) -> None:
        for row, cell in enumerate(table.columns[self.name].to_pylist()):
            for source in image_sources(cell, table.folder):
                self.n_pictures += 1
                if self.sizes.total() < MAX_PICTURES:
                    try:
                        picture = open_picture(table, source, row, self.name)
                        self.sizes[f"{picture.width} x {picture.height}"] += 1
                    except DataError:
                        self.sizes["cannot be opened"] += 1


@dataclass
class DatasetFacts:
    """``rows`` and ``labels`` (how often each comes) by table; ``samples`` are rows (for pairs both rows) under their
    label."""

    schema: Schema
    rows: dict[str, int] = field(default_factory=dict)
    labels: dict[str, Counter[Any]] = field(default_factory=dict)
    columns: list[ColumnFacts] = field(default_factory=list)
    samples: list[tuple[str, list[list[Cell]]]] = field(default_factory=list)
    alarms: Sequence[Alarm] = ()

    @property
    def all_labels(self) -> Counter[Any]:
        return sum(self.labels.values(), Counter[Any]())

    @property
    def has_numbers(self) -> bool:
        return self.schema.label_type is ColumnType.NUMERIC


def describe(folder: Path, schema: Schema | None = None, *, alarms: Sequence[Alarm] = ()) -> DatasetFacts:
    """Read every table once, in batches, with bounded memory. Cells that do not fit their column count as missing."""
    schema = schema or Schema.read(folder)
    rng = np.random.default_rng(0)
    columns = [ColumnFacts(column.name, column.type) for column in schema.columns]
    facts = DatasetFacts(schema, columns=columns, alarms=alarms)
    known = (*SPLITS, "rows") if schema.of_rows else ("left", "right", "records")
    names = [name for name in known if files.exists(folder, name)]
    if len(names) > 1 and "rows" in names:  # which have been split
        names.remove("rows")
    for name in names:
        path = files.find(folder, schema.name, name)
        for table in read_batches(path, schema, folder=folder, bad_cells="missing", partial=True):
            facts.rows[name] = facts.rows.get(name, 0) + len(table)
            for column in columns:
                if column.name in table.columns:
                    column.add(table, rng)
            if table.labels is not None:
                facts.labels.setdefault(name, Counter()).update(_counts(table.labels))
            n = min(N_SAMPLES - len(facts.samples), len(table))
            if schema.of_rows and name in ("train", "rows") and n > 0:
                for row in rng.choice(len(table), n, replace=False).tolist():
                    facts.samples.append((_label(table, row), [cells_of(schema, table, row)]))
    if not schema.of_rows:
        _add_pairs(facts, folder, rng)
    return facts


def _add_pairs(facts: DatasetFacts, folder: Path, rng: np.random.Generator) -> None:
    """Count pairs by split, and take matches of train to look at, and as many others."""
    records = read_records(folder, facts.schema, "missing")
    for split in SPLITS:
        if not files.exists(folder, f"pairs_{split}"):
            continue
        pairs = read_pairs(folder, facts.schema, split, records)
        facts.rows[f"pairs_{split}"] = len(pairs)
        if pairs.labels is None:
            continue
        labels = np.asarray(pairs.labels.fill_null(-1))
        counts = Counter({"match": int((labels == 1).sum()), "no match": int((labels == 0).sum())})
        facts.labels[f"pairs_{split}"] = counts
        for label, title in ((1, "a match"), (0, "no match")) if split == "train" else ():
            rows = np.flatnonzero(labels == label)
            for i in rng.choice(rows, min(N_SAMPLES // 2, len(rows)), replace=False).tolist():
                sides = [cells_of(facts.schema, records.table, int(side[i])) for side in (pairs.left, pairs.right)]
                facts.samples.append((title, sides))


def _numbers(counts: Counter[Any]) -> np.ndarray:
    """[n] labels, from how often each number comes."""
    return np.repeat(np.array(list(counts), np.float64), list(counts.values()))


def _counts(values: pa.Array) -> Counter[Any]:
    return Counter({c["values"]: c["counts"] for c in pc.value_counts(values.drop_null()).to_pylist()})


def _label(table: Table, row: int) -> str:
    return str(table.labels[row].as_py()) if table.labels is not None else "no label"


# --- the card ---------------------------------------------------------------------------------------------------------


def write_card(facts: DatasetFacts, folder: Path) -> tuple[Path, Path]:
    """Write ``card.md`` and ``card.html`` into the folder, each at once or not at all."""
    write_text(text := folder / "card.md", markdown(facts))
    write_text(web := folder / "card.html", page(facts))
    return text, web


def _tables(facts: DatasetFacts) -> dict[str, tuple[list[str], Sequence[Sequence[str]]]]:
    """Heads and bodies, by title."""

    def missing(column: ColumnFacts) -> str:
        shares = [f"{name} {column.missing[name] / n:.1%}" for name, n in column.n.items() if column.missing[name]]
        return ", ".join(shares) or "none"

    tables = [(name, f"{n:,}") for name, n in facts.rows.items()]
    columns = [(column.name, str(column.type), missing(column), column.summary()) for column in facts.columns]
    if facts.has_numbers:
        numbers = list(map(_numbers, facts.labels.values()))
        summaries: dict[str, Any] = {"mean": np.mean, "lowest": np.min, "median": np.median, "highest": np.max}
        labels = [[name, *(f"{summary(part):.6g}" for part in numbers)] for name, summary in summaries.items()]
    else:
        classes = sorted(facts.all_labels.items(), key=lambda item: (-item[1], item[0]))[:MAX_CLASSES]
        labels = [[name, *(f"{counts[name]:,}" for counts in facts.labels.values())] for name, _ in classes]
    alarms = [(str(alarm.severity), alarm.message, "; ".join(alarm.rows[:3])) for alarm in facts.alarms]
    return {
        "Tables": (["table", "rows"], tables),
        "Columns": (["column", "type", "missing", "what is in it"], columns),
        "Labels": (["label", *facts.labels], labels),
        "Alarms": (["severity", "what", "rows"], alarms),
    }


def markdown(facts: DatasetFacts) -> str:
    """The card without pictures and plots."""
    parts = [f"# {markdown_text(facts.schema.title or facts.schema.name)}", text_table(["", ""], _about(facts))]
    parts += [f"## {title}\n\n{text_table(head, body)}" for title, (head, body) in _tables(facts).items() if body]
    return "\n\n".join(parts) + "\n"


def page(facts: DatasetFacts) -> str:
    """One HTML page that needs no other file and no network."""
    return render(
        TEMPLATES / "card.html.jinja",
        title=facts.schema.title or facts.schema.name,
        about=_about(facts),
        tables=_tables(facts),
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
        "classes": "" if facts.has_numbers or not schema.label else f"{len(labels)} in column {schema.label}{share}",
        "label": f"numbers in column {schema.label}" if facts.has_numbers else "",
        "matches": "" if schema.label else matches,
    }
    return [(key, value) for key, value in entries.items() if value]


def _plots(facts: DatasetFacts) -> list[tuple[str, Markup]]:
    """Small charts, each with what it shows in words."""
    plots = {}
    labels = facts.all_labels
    if labels and facts.has_numbers:
        plots["labels"] = figures.small_histogram(str(facts.schema.label), _numbers(labels))
    elif labels:
        top = labels.most_common(MAX_BARS)
        rest = labels.total() - sum(n for _, n in top)
        bars = top + ([(f"{len(labels) - MAX_BARS} others", rest)] if rest else [])
        plots["rows by label"] = figures.small_bars(bars)
    shares = [(column.name, 100 * column.share_missing) for column in facts.columns]
    if any(share for _, share in shares):
        shown = sorted(shares, key=lambda item: -item[1])[:MAX_BARS]
        plots["missing cells by column, in percent"] = figures.small_bars(shown)
    for column in facts.columns[:MAX_PLOTS]:
        if column.type in (ColumnType.NUMERIC, ColumnType.TEXT) and len(np.unique(column.numbers)) > 1:
            unit = "characters" if column.type is ColumnType.TEXT else "value"
            plots[f"distribution of {column.name} ({unit})"] = figures.small_histogram(unit, column.numbers)
        elif column.type is ColumnType.CATEGORICAL and column.counts:
            plots[f"commonest values of {column.name}"] = figures.small_bars(column.counts.most_common(8))
    return [(about, svg(figure, f"chart{i}", about)) for i, (about, figure) in enumerate(plots.items())]
