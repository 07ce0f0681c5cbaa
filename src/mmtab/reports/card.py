"""A dataset card: what a dataset holds, as Markdown and as one self-contained page with plots and sample rows."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmtab.data import files
from mmtab.data.cells import image_sources
from mmtab.data.pairs import read_pairs, read_records
from mmtab.data.pictures import open_picture
from mmtab.data.schema import ColumnType, Schema, TaskKind
from mmtab.data.splits import SPLITS
from mmtab.data.table import Table, read_batches
from mmtab.reports.html import document, one_row, plain_table, row_list, safe, short, uri
from mmtab.utils.atomic import write_text
from mmtab.utils.errors import DataError

MAX_VALUES = 20_000  # distinct values counted; further ones share one line
MAX_NUMBERS = 100_000  # numbers, or lengths of texts, kept for plots and quantiles
MAX_PICTURES = 300  # opened to learn their sizes


class Said(Protocol):
    """What a card shows of an alarm of ``mmtab.prepare.check``."""

    @property
    def severity(self) -> str: ...
    @property
    def message(self) -> str: ...
    @property
    def rows(self) -> tuple[str, ...]: ...


@dataclass
class Facts:
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

    def summary(self) -> str:
        """The column in a line."""
        if self.type is ColumnType.IMAGE:
            common = ", ".join(f"{size} ({n})" for size, n in self.sizes.most_common(3))
            return f"{self.n_pictures:,} pictures; sizes of a sample: {common or 'none could be opened'}"
        if self.type is ColumnType.CATEGORICAL:
            more = "at least " if len(self.counts) >= MAX_VALUES else ""
            return f"{more}{len(self.counts):,} values; " + ", ".join(f"{short(v, 24)} ({n:,})" for v, n in self.counts.most_common(4))  # fmt: skip
        if not len(self.numbers):
            return "nothing but missing cells"
        low, middle, high = np.quantile(self.numbers, [0, 0.5, 1])
        if self.type is ColumnType.TEXT:
            return f"{low:.0f} to {high:.0f} characters, median {middle:.0f}"
        if self.type is ColumnType.DATETIME:
            return " to ".join(str(np.datetime64(int(t), "s").astype("datetime64[D]")) for t in (low, high))
        return f"{low:.6g} to {high:.6g}, median {middle:.6g}"


@dataclass
class Card:
    """Facts of a dataset; ``samples`` are rows (for pairs: both rows and the label) as text, with pictures as data URIs."""

    schema: Schema
    rows: dict[str, int]
    labels: dict[str, Counter[str]]
    columns: list[Facts]
    samples: list[tuple[str, list[tuple[Table, int]]]]
    alarms: Sequence[Said] = ()


def describe(
    folder: Path, schema: Schema | None = None, *, alarms: Sequence[Said] = (), n_samples: int = 8, seed: int = 0
) -> Card:
    """Read every table once, in batches, with bounded memory. Cells that do not fit their column count as missing."""
    schema = schema or Schema.read(folder)
    rng = np.random.default_rng(seed)
    columns = {column.name: Facts(column.name, column.type) for column in schema.columns}
    rows: dict[str, int] = {}
    labels: dict[str, Counter[str]] = {}
    samples: list[tuple[str, list[tuple[Table, int]]]] = []
    kway = schema.task is TaskKind.KWAY
    stems = [s for s in ((*SPLITS, "rows") if kway else ("left", "right", "records")) if files.exists(folder, s)]
    for stem in stems if not kway or stems[:-1] == [] or "rows" not in stems else stems[:-1]:
        path = files.find(folder, schema.name, stem)
        for table in read_batches(path, schema, folder=folder, bad_cells="missing", partial=True):
            rows[stem] = rows.get(stem, 0) + len(table)
            for name, cells in table.columns.items():
                _add(columns[name], stem, cells, table, rng)
            if table.labels is not None:
                labels.setdefault(stem, Counter()).update(_counts(table.labels))
            if kway and stem in ("train", "rows") and len(samples) < n_samples and len(table):
                picks = rng.choice(len(table), min(n_samples - len(samples), len(table)), replace=False)
                samples += [(_label(table, int(row)), [(one_row(table, int(row)), 0)]) for row in picks]
    if not kway:
        records = read_records(folder, schema, "missing")
        for split in SPLITS:
            if not files.exists(folder, f"pairs_{split}"):
                continue
            pairs = read_pairs(folder, schema, split, records)
            rows[f"pairs_{split}"] = len(pairs)
            if pairs.labels is None:
                continue
            known = np.asarray(pairs.labels.fill_null(-1))
            labels[f"pairs_{split}"] = Counter({"match": int((known == 1).sum()), "no match": int((known == 0).sum())})
            for wanted, title in ((1, "a match"), (0, "no match")) if split == "train" else ():
                places = np.flatnonzero(known == wanted)
                for i in rng.choice(places, min(n_samples // 2, len(places)), replace=False).tolist():
                    sides = [(records.table, int(pairs.left[i])), (records.table, int(pairs.right[i]))]
                    samples.append((title, sides))
    return Card(schema, rows, labels, list(columns.values()), samples, alarms)


def _add(facts: Facts, stem: str, cells: pa.Array, table: Table, rng: np.random.Generator) -> None:
    facts.n[stem] = facts.n.get(stem, 0) + len(cells)
    filled = cells.drop_null()
    facts.missing[stem] = facts.missing.get(stem, 0) + len(cells) - len(filled)
    if facts.type is ColumnType.IMAGE:
        for row, cell in enumerate(cells.to_pylist()):
            for source in image_sources(cell):
                facts.n_pictures += 1
                if facts.sizes.total() < MAX_PICTURES:
                    try:
                        picture = open_picture(table, source, row, facts.name)
                        facts.sizes[f"{picture.width} x {picture.height}"] += 1
                    except DataError:
                        facts.sizes["cannot be opened"] += 1
        return
    if facts.type is ColumnType.CATEGORICAL:
        for value, count in _counts(filled).items():
            if value in facts.counts or len(facts.counts) < MAX_VALUES:
                facts.counts[value] += count
        return
    numbers = np.asarray(pc.utf8_length(filled) if facts.type is ColumnType.TEXT else filled, float)
    numbers = numbers[np.isfinite(numbers)]
    room = max(0, MAX_NUMBERS - sum(map(len, facts.values)))
    # A table of any length leaves a sample of each of its batches
    keep = max(min(len(numbers), room), min(len(numbers), 64))
    facts.values.append(numbers if keep == len(numbers) else rng.choice(numbers, keep, replace=False))


def _counts(values: pa.Array) -> Counter[str]:
    return Counter({c["values"]: c["counts"] for c in pc.value_counts(values.drop_null()).to_pylist()})


def _label(table: Table, row: int) -> str:
    return str(table.labels[row].as_py()) if table.labels is not None else "no label"


# --- Markdown --------------------------------------------------------------------------------------------------------


def write_card(card: Card, folder: Path) -> tuple[Path, Path]:
    """Write ``card.md`` and ``card.html`` into the folder, each at once or not at all."""
    paths = folder / "card.md", folder / "card.html"
    for path, text in zip(paths, (markdown(card), page(card)), strict=True):
        write_text(path, text)
    return paths


def _about(card: Card) -> list[tuple[str, str]]:
    schema = card.schema
    classes = sum((counts for counts in card.labels.values()), Counter[str]())
    share = f", the largest has {max(classes.values()) / classes.total():.1%} of the rows" if classes else ""
    entries = {
        "task": f"{schema.task}, ranked by {schema.metric}",
        "licence": schema.licence or "not stated",
        "source": schema.source or "not stated",
        "split": ", ".join(f"{key}: {value}" for key, value in schema.split.items()) or "not recorded",
        "classes": f"{len(classes)} in column {schema.label}{share}" if schema.label else "",
        "matches": ", ".join(f"{t.removeprefix('pairs_')} {c['match'] / max(c.total(), 1):.1%}" for t, c in card.labels.items()) if not schema.label else "",
    }  # fmt: skip
    return [(key, value) for key, value in entries.items() if value]


def _columns(card: Card) -> list[list[str]]:
    return [
        [
            facts.name,
            str(facts.type),
            ", ".join(f"{stem} {facts.missing[stem] / max(n, 1):.1%}" for stem, n in facts.n.items() if facts.missing[stem]) or "none",
            facts.summary(),
        ]
        for facts in card.columns
    ]  # fmt: skip


def _classes(card: Card) -> list[list[str]]:
    whole = sum((counts for counts in card.labels.values()), Counter[str]())
    return [
        [name, *(f"{counts[name]:,}" for counts in card.labels.values())]
        for name, _ in sorted(whole.items(), key=lambda item: (-item[1], item[0]))[:50]
    ]


def markdown(card: Card) -> str:
    """The card without pictures and plots."""

    def table(head: list[str], body: list[list[str]]) -> str:
        lines = [head, ["---"] * len(head), *body]
        return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)

    parts = [f"# {_cell(card.schema.title or card.schema.name)}", table(["", ""], [[k, v] for k, v in _about(card)])]
    parts += ["## Tables", table(["table", "rows"], [[stem, f"{n:,}"] for stem, n in card.rows.items()])]
    parts += ["## Columns", table(["column", "type", "missing", "what is in it"], _columns(card))]
    if card.labels:
        parts += ["## Labels", table(["label", *card.labels], _classes(card))]
    if card.alarms:
        rows = [[str(alarm.severity), alarm.message, "; ".join(alarm.rows[:3])] for alarm in card.alarms]
        parts += ["## Alarms", table(["severity", "what", "rows"], rows)]
    return "\n\n".join(parts) + "\n"


def _cell(text: str) -> str:
    """Text that stays within its cell of a Markdown table."""
    plain = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return "".join(f"\\{c}" if c in "\\`*_[]<>|#" else c for c in plain)


# --- HTML ------------------------------------------------------------------------------------------------------------

STYLE = """
.plots,.samples{display:flex;flex-wrap:wrap;gap:1rem}figure{margin:0;background:#fff;border-radius:.4rem;padding:.3rem}
figure img{display:block;width:17rem;max-width:100%}
"""


def page(card: Card) -> str:
    """One HTML page that needs no other file and no network."""
    title = card.schema.title or card.schema.name
    parts = [f"<h1>{safe(title)}</h1>", plain_table(["about", ""], [[k, v] for k, v in _about(card)])]
    parts += ["<h2>Tables</h2>", plain_table(["table", "rows"], [[stem, f"{n:,}"] for stem, n in card.rows.items()])]
    if card.alarms:
        rows = [[str(a.severity), a.message, "; ".join(a.rows[:3])] for a in card.alarms]
        parts += [
            "<h2>Alarms</h2>",
            plain_table(["severity", "what", "rows"], rows, [str(a.severity) for a in card.alarms]),
        ]
    parts += ["<h2>Columns</h2>", plain_table(["column", "type", "missing", "what is in it"], _columns(card))]
    figures = "".join(f'<figure><img alt="{safe(alt)}" src="{source}"></figure>' for alt, source in _plots(card))
    parts += ["<h2>Plots</h2>", f'<div class="plots">{figures}</div>'] if figures else []
    if card.samples:
        cards = []
        for heading, sides in card.samples:
            inside = "".join(f"<div>{row_list(card.schema, table, row)}</div>" for table, row in sides)
            cards.append(f'<article><h3>{safe(heading)}</h3><div class="sides">{inside}</div></article>')
        parts += ["<h2>Sample rows</h2>", f'<div class="samples">{"".join(cards)}</div>']
    return document(title, "".join(parts), STYLE)


def _plots(card: Card) -> list[tuple[str, str]]:
    """Small plots as data URIs, each with what it shows in words."""
    plots = []
    whole = sum((counts for counts in card.labels.values()), Counter[str]())
    if whole:
        top = whole.most_common(15)
        rest = whole.total() - sum(n for _, n in top)
        bars = top + ([(f"{len(whole) - 15} others", rest)] if rest else [])
        plots.append(("labels", _bars("rows by label", bars)))
    gaps = [(f.name, 100 * sum(f.missing.values()) / max(sum(f.n.values()), 1)) for f in card.columns]
    if any(share for _, share in gaps):
        shown = sorted(gaps, key=lambda gap: -gap[1])[:15]
        plots.append(("missing cells by column, in percent", _bars("% missing", shown)))
    for facts in card.columns[:40]:
        if facts.type in (ColumnType.NUMERIC, ColumnType.TEXT) and len(np.unique(facts.numbers)) > 1:
            what = "characters" if facts.type is ColumnType.TEXT else "value"
            plots.append((f"distribution of {facts.name} ({what})", _histogram(facts.name, what, facts.numbers)))
        elif facts.type is ColumnType.CATEGORICAL and facts.counts:
            plots.append((f"commonest values of {facts.name}", _bars(facts.name, facts.counts.most_common(8))))
    return plots


def _figure() -> Any:
    from matplotlib.figure import Figure  # heavy, and only needed here; this class needs no screen

    figure = Figure(figsize=(3.4, 2.4), dpi=80, layout="constrained")
    return figure, figure.add_subplot()


def _uri(figure: Any) -> str:
    sink = io.BytesIO()
    figure.savefig(sink, format="png", metadata={"Software": None})
    return uri(sink.getvalue(), "png")


def _plain(text: str, limit: int = 22) -> str:
    """Matplotlib would read $…$ as formulas, and has no glyphs for all of Unicode."""
    ascii_ = "".join(c if c.isprintable() and ord(c) < 0x250 else "·" for c in text)
    return short(ascii_, limit).replace("$", r"\$")


def _bars(title: str, bars: Sequence[tuple[str, float]]) -> str:
    figure, axes = _figure()
    axes.barh(range(len(bars)), [n for _, n in bars], color="#3b6ea5")
    axes.set_yticks(range(len(bars)), [_plain(name) for name, _ in bars], fontsize=6)
    axes.invert_yaxis()
    axes.tick_params(axis="x", labelsize=6)
    axes.set_title(_plain(title, 40), fontsize=8)
    return _uri(figure)


def _histogram(title: str, what: str, numbers: np.ndarray) -> str:
    figure, axes = _figure()
    low, high = np.quantile(numbers, [0.005, 0.995])  # a few far values would leave one bar
    inside = numbers[(numbers >= low) & (numbers <= high)]
    if not np.isfinite(high - low) or high - low <= abs(high) * 1e-12:
        inside = np.sign(numbers)
    axes.hist(inside, bins=30, color="#3b6ea5")
    axes.tick_params(labelsize=6)
    axes.set_xlabel(what, fontsize=6)
    axes.set_title(_plain(title, 40), fontsize=8)
    return _uri(figure)
