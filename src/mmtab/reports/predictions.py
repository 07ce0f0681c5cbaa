"""What a finished run said of a labelled split, read back from its folder, and the figures that a report shows of it."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmtab.data import files
from mmtab.data.pairs import Pairs, Records, read_pairs, read_records
from mmtab.data.schema import ColumnType, Schema, TaskKind
from mmtab.data.streams import Stream
from mmtab.data.table import Table, find_table
from mmtab.runs.folder import read_facts, read_run_file
from mmtab.training.metrics import unscaled
from mmtab.utils.errors import RunError

N_BINS = 15  # of confidence, as for the metric
LEAST_SLICE = 20  # rows; of fewer a score says nothing
Z = 1.96


@dataclass
class Outcome:
    """Predictions of a split beside their labels; of pairs those of one relation, as two classes. Rows without a label are
    left out. ``threshold``: of pairs, from which probability they match.

    ``probability`` [n, k] is None where there are too many classes; ``sure`` [n] is the probability of what was said, or
    for pairs how far it lies from the threshold, of the way to 0 or 1 (as ``predict coverage=`` has it).
    """

    schema: Schema
    split: str
    relation: str | None
    row: np.ndarray  # [n] place in the split
    ids: list[str]
    classes: list[str]
    label: np.ndarray  # [n] int64
    said: np.ndarray  # [n] int64
    p_said: np.ndarray  # [n] float64
    p_label: np.ndarray  # [n] float64
    sure: np.ndarray  # [n] float64
    probability: np.ndarray | None
    temperature: float
    bias: float = 0.0
    threshold: float | None = None

    @property
    def right(self) -> np.ndarray:
        return self.label == self.said

    @property
    def p_match(self) -> np.ndarray:
        """[n] of pairs."""
        assert self.probability is not None
        return self.probability[:, 1]

    @property
    def scaling(self) -> str:
        return f"temperature {self.temperature:.2f}" + (f" and bias {self.bias:+.2f}" if self.bias else "")

    def confusion(self, classes: np.ndarray) -> np.ndarray:
        """[c, c] int64: label by what was said, of some classes."""
        place = np.full(len(self.classes), -1)
        place[classes] = np.arange(len(classes))
        label, said = place[self.label], place[self.said]
        both = (label >= 0) & (said >= 0)
        c = len(classes)
        return np.bincount(label[both] * c + said[both], minlength=c * c).reshape(c, c)

    def reliability(self, scaled: bool = True) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of each bin that holds any: mean confidence, share that was right, and how many rows. Of pairs the confidence is
        the probability of a match, and right is what matches. ``scaled`` false: without temperature and bias."""
        if self.probability is None:
            confidence, right = self.p_said, self.right
        else:
            p = self.probability if scaled else unscaled(self.probability, self.temperature, self.bias)
            pairs = self.threshold is not None
            confidence, right = (p[:, 1], self.label == 1) if pairs else (p[np.arange(len(p)), self.said], self.right)
        bins = np.minimum((confidence * N_BINS).astype(int), N_BINS - 1)
        n = np.bincount(bins, minlength=N_BINS)
        sums = [np.bincount(bins, weights=x, minlength=N_BINS)[n > 0] / n[n > 0] for x in (confidence, right)]
        return sums[0], sums[1], n[n > 0]

    def ece(self, scaled: bool = True) -> float:
        """Expected calibration error (Guo et al. 2017); of pairs that of the probability of a match."""
        confidence, right, n = self.reliability(scaled)
        return float((np.abs(confidence - right) * n).sum() / n.sum())

    def risk_coverage(self) -> tuple[np.ndarray, np.ndarray]:
        """[n] share of rows that are predicted, the surest first, and the share of those that is wrong (El-Yaniv and Wiener
        2010)."""
        wrong = ~self.right[np.argsort(-self.sure, kind="stable")]
        n = np.arange(1, len(wrong) + 1)
        return n / len(wrong), wrong.cumsum() / n

    def score(self, rows: np.ndarray | None = None) -> float:
        """Accuracy, or of pairs F1, of all rows or of some [n] bool."""
        label, said = (x if rows is None else x[rows] for x in (self.label, self.said))
        if self.threshold is None:
            return float((label == said).mean()) if len(label) else float("nan")
        whole = (label == 1).sum() + (said == 1).sum()
        return float(2 * ((label == 1) & (said == 1)).sum() / whole) if whole else float("nan")

    @property
    def score_name(self) -> str:
        return "accuracy" if self.threshold is None else "F1"

    def by_class(self) -> list[dict[str, Any]]:
        """Of each class that occurs: rows, precision, recall, F1 and the class it is taken for most often."""
        k = len(self.classes)
        there, said, hits = (np.bincount(x, minlength=k) for x in (self.label, self.said, self.label[self.right]))
        taken: dict[int, str] = {}
        for label, other, n in self.confusions():
            taken.setdefault(label, f"{self.classes[other]} ({n})")
        return [
            {
                "class": self.classes[i], "rows": int(there[i]),
                "precision": hits[i] / said[i] if said[i] else float("nan"),
                "recall": hits[i] / there[i] if there[i] else float("nan"),
                "F1": 2 * hits[i] / (there[i] + said[i]), "taken for": taken.get(int(i), ""),
            }
            for i in np.flatnonzero(there + said)
        ]  # fmt: skip

    def confusions(self) -> list[tuple[int, int, int]]:
        """Label, what was said instead, and how often, the most frequent first."""
        wrong = np.stack([self.label, self.said], 1)[~self.right]
        places, counts = np.unique(wrong, axis=0, return_counts=True)
        order = np.argsort(-counts, kind="stable")
        return [(int(places[i, 0]), int(places[i, 1]), int(counts[i])) for i in order]

    def worst(self, n: int) -> np.ndarray:
        """[n] mistakes of which the model was surest, the worst first."""
        wrong = np.flatnonzero(~self.right)
        return wrong[np.argsort(self.p_label[wrong], kind="stable")][:n]


def splits_of(folder: Path) -> list[str]:
    """Labelled splits of which the run folder has predictions: test, where it was scored, comes first."""
    scored = read_run_file(folder, "metrics.json")
    return [
        s for s in sorted(scored, key=lambda s: (s != "test", s)) if (folder / f"predictions_{s}.parquet").is_file()
    ]


def read_outcomes(folder: Path, split: str) -> list[Outcome]:
    """One, or of several relations one each; raises RunError where the split was not scored."""
    if split not in splits_of(folder):
        raise RunError(f"{folder} has no scored predictions of {split!r}; run scripts/evaluate.py run={folder} split={split}")  # fmt: skip
    schema, facts = Schema.from_dict(read_run_file(folder, "schema.yaml")), read_facts(folder)
    table = files.read(folder / f"predictions_{split}.parquet", schema.name)
    if schema.task is TaskKind.MATCHING:
        return [_of_pairs(table, schema, split, r, facts) for r in range(len(schema.relations))]
    names = [name for name in table.column_names if name.startswith("p_")]
    classes = [name.removeprefix("p_") for name in names] or list(
        read_run_file(folder, "fitted.json")["preprocessor"]["labels_"]["classes_"]
    )
    known = np.flatnonzero(np.asarray(pc.is_valid(table["label"])))
    table = table.take(known)
    coded = pa.array(classes)
    label, said = (
        np.asarray(pc.index_in(table[name].combine_chunks().cast(pa.string()), coded)).astype(np.int64)
        for name in ("label", "prediction")
    )
    rows = np.arange(len(table))
    if names:
        p = np.stack([table[name].to_numpy() for name in names], 1).astype(np.float64)
        p_said, p_label = p[rows, said], p[rows, label]
    else:  # the likeliest ten
        p = None
        p_said = table["probability"].to_numpy().astype(np.float64)
        top, p_top = table["top"].to_pylist(), table["top_probability"].to_pylist()
        p_label = np.array(
            [dict(zip(t, q, strict=True)).get(classes[i], 0.0) for t, q, i in zip(top, p_top, label, strict=True)]
        )
    temperature = float(facts.get("temperatures", [1.0])[0])
    ids = table[schema.id].cast(pa.string()).to_pylist()
    return [Outcome(schema, split, None, known, ids, classes, label, said, p_said, p_label, p_said, p, temperature)]


def _of_pairs(table: pa.Table, schema: Schema, split: str, r: int, facts: dict[str, Any]) -> Outcome:
    relation = list(schema.relations)[r]
    suffix = "" if len(schema.relations) == 1 else f"_{relation}"
    known = np.flatnonzero(np.asarray(pc.is_valid(table[f"label{suffix}"])))
    table = table.take(known)
    match = table[f"probability{suffix}"].to_numpy().astype(np.float64)
    label, said = (table[f"{name}{suffix}"].to_numpy().astype(np.int64) for name in ("label", "prediction"))
    p, t, rows = np.stack([1 - match, match], 1), float(facts["thresholds"][r]), np.arange(len(table))
    bound = min(max(t, 1e-12), 1 - 1e-12)
    sure = np.where(match >= t, (match - bound) / (1 - bound), (bound - match) / bound)
    ids = [f"{a} and {b}" for a, b in zip(*(table[x].cast(pa.string()).to_pylist() for x in ("left_id", "right_id")), strict=True)]  # fmt: skip
    n = len(schema.relations)
    temperature, bias = facts.get("temperatures", [1.0] * n)[r], facts.get("biases", [0.0] * n)[r]
    return Outcome(schema, split, suffix.removeprefix("_") or None, known, ids, ["no match", "match"], label, said,
                   p[rows, said], p[rows, label], sure, p, temperature, bias, t)  # fmt: skip


# --- the rows themselves ---------------------------------------------------------------------------------------------


@dataclass
class Source:
    """The rows (or pairs) of a split, where the dataset still is."""

    schema: Schema
    table: Stream | None
    records: Records | None
    pairs: Pairs | None

    @staticmethod
    def open(folder: Path, schema: Schema, split: str) -> Source:
        if schema.task is TaskKind.KWAY:
            return Source(schema, Stream(find_table(folder, schema, split), schema, folder, "missing"), None, None)
        records = read_records(folder, schema, "missing")
        return Source(schema, None, records, read_pairs(folder, schema, split, records))

    def rows(self, wanted: np.ndarray) -> dict[int, list[tuple[Table, int]]]:
        """By place in the split: the row, or both rows of the pair."""
        if self.records is not None and self.pairs is not None:
            table = self.records.table
            return {int(i): [(table, int(self.pairs.left[i])), (table, int(self.pairs.right[i]))] for i in wanted}
        assert self.table is not None
        found: dict[int, list[tuple[Table, int]]] = {}
        for batch in self.table.batches():
            for i in wanted[(wanted >= batch.first_row) & (wanted < batch.first_row + len(batch))]:
                found[int(i)] = [(batch, int(i) - batch.first_row)]
        return found

    @cached_property
    def facts(self) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """By column, [n] whether its cell is missing (of pairs, that of either row), and [n] characters of all text (of
        pairs, of both rows)."""
        batches = [self.records.table] if self.records is not None else list(self.table.batches())  # type: ignore[union-attr]
        missing = {
            column.name: np.concatenate([np.asarray(pc.is_null(batch.columns[column.name])) for batch in batches])
            for column in self.schema.columns
        }
        length = np.zeros(sum(map(len, batches)), np.int64)
        for name in self.schema.of_type(ColumnType.TEXT):
            parts = [pc.fill_null(pc.utf8_length(batch.columns[name]), 0) for batch in batches]
            length += np.concatenate([np.asarray(part) for part in parts])
        if self.pairs is None:
            return missing, length
        left, right = self.pairs.left, self.pairs.right
        return {name: gone[left] | gone[right] for name, gone in missing.items()}, length[left] + length[right]


def slices(outcome: Outcome, source: Source) -> list[dict[str, Any]]:
    """Parts of the split, each beside the rest of it: rows that lack a cell, short and long texts, rare classes. ``low`` and
    ``high`` bound 95 % of the difference to the rest, of pairs where they are few they are missing."""
    missing, length = source.facts
    parts: list[tuple[str, np.ndarray]] = []
    for name, gone in missing.items():
        parts.append((f"{name} missing", gone[outcome.row]))
    if source.schema.of_type(ColumnType.TEXT) and len(np.unique(length)) > 2:
        n = length[outcome.row]
        low, high = np.quantile(n, [1 / 3, 2 / 3])
        parts += [(f"text of at most {low:.0f} characters", n <= low), (f"text of more than {high:.0f} characters", n > high)]  # fmt: skip
    if outcome.threshold is None and len(outcome.classes) > 2:
        counts = np.bincount(outcome.label, minlength=len(outcome.classes))
        order = np.argsort(counts, kind="stable")
        rare = order[counts[order].cumsum() <= len(outcome.label) * 0.1]
        parts.append((f"the {len(rare)} rarest classes (a tenth of the rows)", np.isin(outcome.label, rare)))
    found = []
    for name, rows in parts:
        n = int(rows.sum())
        if n < LEAST_SLICE or n > len(rows) - LEAST_SLICE:
            continue
        one, rest = outcome.score(rows), outcome.score(~rows)
        wide = Z * float(np.hypot(_error(outcome, rows), _error(outcome, ~rows)))
        found.append({"slice": name, "rows": n, "score": one, "rest": rest, "low": one - rest - wide, "high": one - rest + wide})  # fmt: skip
    return found


def _error(outcome: Outcome, rows: np.ndarray) -> float:
    """The standard error of a score: of accuracy that of a mean, of F1 by the delta method."""
    n = int(rows.sum())
    if outcome.threshold is None:
        p = outcome.score(rows)
        return float(np.sqrt(max(p * (1 - p), 1 / n) / n))
    label, said = outcome.label[rows] == 1, outcome.said[rows] == 1
    f = outcome.score(rows)
    whole = (label.astype(int) + said).mean()
    if not whole:
        return float("nan")
    return float(np.std(2 * (label & said) - f * (label.astype(int) + said)) / whole / np.sqrt(n))


def learning_curves(folder: Path) -> list[dict[str, float]]:
    """metrics.csv, a dictionary a line, without what a line does not say."""
    path = folder / "metrics.csv"
    if not path.is_file():
        return []
    with path.open(newline="") as lines:
        return [{name: float(value) for name, value in line.items() if value} for line in csv.DictReader(lines)]
