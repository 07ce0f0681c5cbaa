"""Rows that are in a k-way dataset twice: across splits, nearly, or within a split."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from mmtab.data.schema import ColumnType
from mmtab.prepare.check.alarms import N_EXAMPLES, Alarm, Severity, grade, percent
from mmtab.prepare.check.findings import Finding, Ref, Split, find_first, ref_of
from mmtab.prepare.check.reader import SplitReader

ERROR, SEVERE, WARNING, NOTE = Severity

# A hundredth of the test rows moves a score by about as much as papers differ.
DUPLICATES_SEVERE = 0.01
# Rows of a few categories and numbers are equal by chance, not because one was copied.
FEW_COLUMNS = 10
# Near duplicates may be honest (sizes, reprints): only many of them decide what the score means.
NEAR_SEVERE, NEAR_WARNING = 0.10, 0.01
NOISE_WARNING = 0.01


def _natural(types: dict[str, ColumnType]) -> bool:
    """Whether rows may well be equal by chance."""
    return len(types) < FEW_COLUMNS and not {ColumnType.TEXT, ColumnType.IMAGE} & set(types.values())


def across_splits(splits: dict[str, Split], types: dict[str, ColumnType], classes: list[str]) -> Iterator[Finding]:
    """Rows and ids that are in two splits."""
    names = [*splits]
    for a, b in [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]:
        first, second = splits[a], splits[b]
        place = np.where(second.ids == 0, -1, find_first(first.ids, second.ids))
        twice = np.flatnonzero(place >= 0)
        if len(twice):
            yield Finding(
                Alarm(
                    SEVERE,
                    "id_in_two_splits",
                    f"{len(twice):,} ids ({percent(len(twice) / len(place))} of {b}) are also in {a}: if they name the"
                    " same thing, leave them out of one; if not, number them anew",
                    b,
                    None,
                    (),
                    len(twice),
                    len(twice) / len(place),
                ),
                [((b, int(r), ""), (a, int(place[r]), "")) for r in twice[:N_EXAMPLES]],
            )
        if a != "train":
            continue
        place = find_first(first.key, second.key)
        twice = np.flatnonzero(place >= 0)
        if len(twice) == 0:
            continue
        share = len(twice) / len(place)
        labelled = twice[(second.labels[twice] >= 0) & (first.labels[place[twice]] >= 0)]
        agree = float((second.labels[labelled] == first.labels[place[labelled]]).mean()) if len(labelled) else 0.0
        natural = _natural(types)
        severity = SEVERE if share >= DUPLICATES_SEVERE and not natural else WARNING
        labels = f"; {percent(agree)} of them have the same label there" if len(labelled) else ""
        advice = (
            "With few columns and neither text nor picture, rows repeat by chance: look whether these do"
            if natural
            else f"A model may know them by heart: leave them out of {b}, or split again with duplicates in one group"
        )
        yield Finding(
            Alarm(
                severity,
                "duplicate_across_splits",
                f"{len(twice):,} rows of {b} ({percent(share)}) have the same features as a row of train{labels}."
                f" {advice}",
                b,
                None,
                (),
                len(twice),
                share,
            ),
            [(ref_of(second, r, classes), ref_of(first, place[r], classes)) for r in twice[:N_EXAMPLES]],
        )


def near_duplicates(splits: dict[str, Split], reader: SplitReader, classes: list[str]) -> Iterator[Finding]:
    if "train" not in splits:
        return
    index, train = reader.near, splits["train"]
    for name in ("valid", "test"):
        if name not in splits:
            continue
        split = splits[name]
        exact = find_first(train.key, split.key) >= 0
        hits = [
            (row, index.found[i][1]) for i, (table, row) in enumerate(index.refs) if table == name and i in index.found
        ]
        hits = [(row, other) for row, other in hits if not exact[row]]
        if not hits:
            continue
        n = max(reader.n_near[name], 1)
        share = len(hits) / n
        complete = n == len(split.key) and reader.n_near["train"] == len(train.key)
        looked = "" if complete else f" (an estimate from {n:,} rows, looked up in {reader.n_near['train']:,} of train)"
        same = [split.labels[a] == train.labels[b] for a, b in hits if split.labels[a] >= 0]
        agree = f"; {percent(float(np.mean(same)))} of them have the same label there" if same else ""
        yield Finding(
            Alarm(
                grade(share, (NEAR_SEVERE, SEVERE), (NEAR_WARNING, WARNING), otherwise=NOTE),
                "near_duplicate_across_splits",
                f"{len(hits):,} rows of {name} ({percent(share)}) share nine tenths of their words and cells with a"
                f" row of"
                f" train{looked}{agree}. If these are the same thing told twice, split again by a column that groups"
                f" them",
                name,
                None,
                (),
                len(hits),
                share,
            ),
            [(ref_of(split, a, classes), ref_of(train, b, classes)) for a, b in hits[:N_EXAMPLES]],
        )


def within_splits(splits: dict[str, Split], types: dict[str, ColumnType], classes: list[str]) -> Iterator[Finding]:
    """Rows that repeat an earlier row of their table, and equal rows with different labels."""
    for split in splits.values():
        first = find_first(split.key, split.key)
        again = np.flatnonzero(first != np.arange(len(first)))
        share = len(again) / len(first)
        if len(again):
            chance = " (with so few columns this may be chance)" if _natural(types) else ""
            yield Finding(
                Alarm(
                    grade(share, (NOISE_WARNING, WARNING), otherwise=NOTE),
                    "duplicate_within_split",
                    f"{len(again):,} rows of {split.name} ({percent(share)}) repeat the features of an earlier"
                    f" row{chance}: leave them out unless they are to count twice",
                    split.name,
                    None,
                    (),
                    len(again),
                    share,
                ),
                [(ref_of(split, r, classes), ref_of(split, first[r], classes)) for r in again[:N_EXAMPLES]],
            )
    parts = list(splits.values())
    key, label = np.concatenate([s.key for s in parts]), np.concatenate([s.labels for s in parts])
    rows = np.flatnonzero(label >= 0)
    first = find_first(key[rows], key[rows])
    differs = label[rows] != label[rows[first]]
    if not differs.any():
        return
    noisy = np.isin(key[rows], key[rows[differs]])
    count, share = int(noisy.sum()), float(noisy.mean())
    starts = np.cumsum([0, *(len(s.key) for s in parts)])

    def ref(row: np.integer) -> Ref:
        part = int(np.searchsorted(starts, row, "right")) - 1
        return ref_of(parts[part], row - starts[part], classes)

    examples: list[tuple[Ref, ...]] = [
        (ref(rows[i]), ref(rows[first[i]])) for i in np.flatnonzero(differs)[:N_EXAMPLES]
    ]
    yield Finding(
        Alarm(
            grade(share, (NOISE_WARNING, WARNING), otherwise=NOTE),
            "label_noise",
            f"{count:,} labelled rows ({percent(share)}) have the same features as a row with another label: no"
            f" model can get them all right, so look which label is meant",
            None,
            None,
            (),
            count,
            share,
        ),
        examples,
    )
