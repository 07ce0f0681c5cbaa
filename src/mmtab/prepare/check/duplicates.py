"""Rows that are in a k-way dataset twice: across splits, nearly, or within a split."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from typing import Any

import numpy as np

from mmtab.data.schema import ColumnType
from mmtab.prepare.check.alarms import N_EXAMPLES, Severity, counted, percent
from mmtab.prepare.check.reader import Finding, Ref, Split, SplitReader

ERROR, SEVERE, WARNING, NOTE = Severity

# A hundredth of the test rows moves a score by about as much as papers differ.
DUPLICATES = (0.01, SEVERE), (0.0, WARNING)
# Rows of a few categories and numbers are equal by chance, not because one was copied.
FEW_COLUMNS = 10
# Near duplicates may be honest (sizes, reprints): only many of them decide what the score means.
NEAR = (0.10, SEVERE), (0.01, WARNING), (0.0, NOTE)
NOISE = (0.01, WARNING), (0.0, NOTE)


def equal_by_chance(types: dict[str, ColumnType]) -> bool:
    """Whether rows may well be equal by chance."""
    return len(types) < FEW_COLUMNS and not {ColumnType.TEXT, ColumnType.IMAGE} & set(types.values())


def find_first(haystack: np.ndarray, needles: np.ndarray) -> np.ndarray:
    """[n] int64: for each needle the first place in the haystack where it is, or -1."""
    if len(haystack) == 0:
        return np.full(len(needles), -1)
    order = np.argsort(haystack, kind="stable")
    place = order[np.searchsorted(haystack, needles, sorter=order).clip(0, len(haystack) - 1)]
    return np.where(haystack[place] == needles, place, -1)


def across_splits(splits: dict[str, Split], types: dict[str, ColumnType], classes: list[Any]) -> Iterator[Finding]:
    """Rows and ids that are in two splits."""
    for a, b in combinations(splits.values(), 2):
        n, place = len(b.ids), np.where(b.ids == 0, -1, find_first(a.ids, b.ids))
        ids = np.flatnonzero(place >= 0)
        rest = f"are also in {a.name}: if they name the same thing, leave them out of one; if not, number them anew"
        unit = f" of {b.name}"
        for alarm in counted(SEVERE, "id_in_two_splits", "ids", rest, len(ids), n, unit=unit, table=b.name):
            yield Finding(alarm, [((b.name, int(r), ""), (a.name, int(place[r]), "")) for r in ids[:N_EXAMPLES]])
        if a.name != "train":
            continue
        place = find_first(a.key, b.key)
        twice = np.flatnonzero(place >= 0)
        labelled = twice[(b.labels[twice] >= 0) & (a.labels[place[twice]] >= 0)]
        rest = "have the same features as a row of train"
        if len(labelled):
            agree = float((b.labels[labelled] == a.labels[place[labelled]]).mean())
            rest += f"; {percent(agree)} of them have the same label there"
        if equal_by_chance(types):
            rest += ". With few columns and neither text nor picture, rows repeat by chance: look whether these do"
        else:
            rest += f". A model may know them by heart: leave them out of {b.name}, or split again with duplicates in"
            rest += " one group"
        grades, kind = WARNING if equal_by_chance(types) else DUPLICATES, "duplicate_across_splits"
        for alarm in counted(grades, kind, f"rows of {b.name}", rest, len(twice), n, table=b.name):
            yield Finding(alarm, [(b.ref(r, classes), a.ref(place[r], classes)) for r in twice[:N_EXAMPLES]])


def near_duplicates(splits: dict[str, Split], reader: SplitReader, classes: list[Any]) -> Iterator[Finding]:
    if "train" not in splits:
        return
    index, train = reader.near, splits["train"]
    for name, split in splits.items():
        if name == "train":
            continue
        exact = find_first(train.key, split.key) >= 0
        near = [(row, index.found[i][1]) for i, (of, row) in enumerate(index.refs) if of == name and i in index.found]
        hits = [(row, other) for row, other in near if not exact[row]]
        n, n_train = max(reader.n_near[name], 1), reader.n_near["train"]
        rest = "share nine tenths of their words and cells with a row of train"
        if n != len(split.key) or n_train != len(train.key):
            rest += f" (an estimate from {n:,} rows, looked up in {n_train:,} of train)"
        same = [split.labels[a] == train.labels[b] for a, b in hits if split.labels[a] >= 0]
        if same:
            rest += f"; {percent(float(np.mean(same)))} of them have the same label there"
        rest += ". If these are the same thing told twice, split again by a column that groups them"
        for alarm in counted(NEAR, "near_duplicate_across_splits", f"rows of {name}", rest, len(hits), n, table=name):
            yield Finding(alarm, [(split.ref(a, classes), train.ref(b, classes)) for a, b in hits[:N_EXAMPLES]])


def within_splits(splits: dict[str, Split], types: dict[str, ColumnType], classes: list[Any]) -> Iterator[Finding]:
    """Rows that repeat an earlier row of their table, and equal rows with different labels."""
    chance = " (with so few columns this may be chance)" if equal_by_chance(types) else ""
    rest = f"repeat the features of an earlier row{chance}: leave them out unless they are to count twice"
    for name, split in splits.items():
        first = find_first(split.key, split.key)
        again = np.flatnonzero(first != np.arange(len(first)))
        kind, things = "duplicate_within_split", f"rows of {name}"
        for alarm in counted(NOISE, kind, things, rest, len(again), len(first), table=name):
            yield Finding(alarm, [(split.ref(r, classes), split.ref(first[r], classes)) for r in again[:N_EXAMPLES]])
    parts = list(splits.values())
    key, label = np.concatenate([s.key for s in parts]), np.concatenate([s.labels for s in parts])
    starts = np.cumsum([0, *(len(s.key) for s in parts)])
    rows = np.flatnonzero(label >= 0)
    first = find_first(key[rows], key[rows])
    differs = np.flatnonzero(label[rows] != label[rows[first]])
    n_noisy = int(np.isin(key[rows], key[rows[differs]]).sum())

    def ref(row: np.integer) -> Ref:
        part = int(np.searchsorted(starts, row, "right")) - 1
        return parts[part].ref(row - starts[part], classes)

    rest = "have the same features as a row with another label: no model can get them all right, so look which label"
    rest += " is meant"
    for alarm in counted(NOISE, "label_noise", "labelled rows", rest, n_noisy, len(rows)):
        yield Finding(alarm, [(ref(rows[i]), ref(rows[first[i]])) for i in differs[:N_EXAMPLES]])
