"""Alarms of a k-way dataset. Each table is read once as a stream; what is kept of a row are a few numbers."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa

from mmtab.data import files
from mmtab.data.cells import hashes
from mmtab.data.schema import ColumnType, Schema
from mmtab.data.splits import SPLITS
from mmtab.data.table import Table, find_table, read_batches, read_column
from mmtab.prepare.check.alarms import (
    N_EXAMPLES,
    Alarm,
    Cells,
    Severity,
    Usage,
    attempt,
    fault,
    grade,
    id_like,
    mix,
    name_row,
    percent,
    strings,
    usage_alarms,
)
from mmtab.prepare.check.near import NearIndex, row_tokens
from mmtab.utils.errors import DataError

ERROR, SEVERE, WARNING, NOTE = Severity

# A hundredth of the test rows moves a score by about as much as papers differ.
DUPLICATES_SEVERE = 0.01
# Rows of a few categories and numbers are equal by chance, not because one was copied.
FEW_COLUMNS = 10
# Near duplicates may be honest (sizes, reprints): only many of them decide what the score means.
NEAR_SEVERE, NEAR_WARNING = 0.10, 0.01
NOISE_WARNING = 0.01
# What one honest column rarely reaches by itself; and it must do so by more than guessing the largest class.
LEAK_SEVERE, LEAK_WARNING, LEAK_GAIN, LEAK_ALONE = 0.98, 0.90, 0.20, 0.10
# Among a dozen rows some column is right by chance: from fewer than this a leak is not concluded, only looked at.
LEAK_ROWS = 20
# Rows whose text says their own label, less those that say another label by chance.
NAMED_SEVERE, NAMED_WARNING = 0.50, 0.10
MISSING_DIFFERS, ID_LIKE, ID_LIKE_ROWS = 0.3, 0.95, 20
FEW_ROWS, LARGEST_CLASS = 5, 0.5
# Bounds on what is looked at in big data; ordinary tables are below them and so looked at in full.
SAMPLE_ROWS, SAMPLE_CHARACTERS, NEAR_HELD_OUT, NEAR_TRAIN = 20_000, 1_000, 5_000, 200_000
TREE_CLASSES = 1_000  # a tree keeps a number for each of its nodes and each class
TOKEN_ROWS = 1024  # whose words are in memory at once

Ref = tuple[str, int, str]  # (table, row, what to say of it)


@dataclass(frozen=True)
class Finding:
    """An alarm whose rows are still numbers. Each example's rows are joined by `` = ``."""

    alarm: Alarm
    examples: list[tuple[Ref, ...]] = field(default_factory=list)


@dataclass(frozen=True)
class Split:
    """What is kept of a table: a few numbers for each row, and a sample of its cells."""

    name: str
    key: np.ndarray  # [n] int64, equal for rows of equal features
    ids: np.ndarray  # [n] int64
    labels: np.ndarray  # [n] int32, -1 = none
    usage: dict[str, Usage]
    sample: dict[str, list]  # normalised text, category or number of the sampled rows
    sample_rows: np.ndarray  # [n_sampled] int64
    sample_labels: np.ndarray  # [n_sampled] int32


def check_kway(folder: Path, schema: Schema, seed: int, images: bool) -> list[Alarm]:
    """All alarms, in no order."""
    alarms: list[Alarm] = []
    missing = [name for name in SPLITS if not files.exists(folder, name)]
    if len(missing) == len(SPLITS) and files.exists(folder, "rows"):
        return [
            Alarm(
                ERROR,
                "not_split",
                "the rows are not divided yet: run 'prepare_data.py split', then check again",
                "rows",
            )
        ]
    for name in missing:
        message = (
            f"the table {name} is missing: mmtab needs train, valid and test ('prepare_data.py split' divides rows)"
        )
        alarms.append(Alarm(ERROR, "missing_table", message, name))
    reader = _Reader(folder, schema, seed, images, alarms)
    # Held-out rows first: they are the index that the rows of train are then looked up in.
    read = {name: reader.read(name) for name in ("test", "valid", "train") if name not in missing}
    splits = {name: split for name in SPLITS if (split := read.get(name)) is not None}
    alarms += reader.cells.alarms()
    if not splits:
        return alarms
    types = {column.name: column.type for column in schema.columns}
    alarms += usage_alarms(types, {split.name: split.usage for split in splits.values()})
    classes = list(reader.classes)
    findings: list[Finding] = [*_across(splits, types, classes), *_near(splits, reader, classes)]
    findings += [*_within(splits, types, classes), *_labels(splits, classes), *_leaks(splits, types, classes, seed)]
    findings += _columns(splits, types)
    alarms += _named(folder, schema, findings)
    alarms += attempt(alarms, lambda: _declared_split(folder, schema, [*splits])) or []
    return alarms


class _Reader:
    """Reads tables into splits and notes what is wrong with them on the way."""

    def __init__(self, folder: Path, schema: Schema, seed: int, images: bool, alarms: list[Alarm]) -> None:
        self.folder, self.schema, self.seed, self.alarms = folder, schema, seed, alarms
        self.cells = Cells(images)
        self.types = {column.name: column.type for column in schema.columns}
        self.classes: dict[str, int] = {}
        self.near = NearIndex()
        self.n_near: dict[str, int] = {}

    def read(self, name: str) -> Split | None:
        """None, and an alarm, where the file cannot be read to its end."""
        return attempt(self.alarms, lambda: self._read(name))

    def _read(self, name: str) -> Split | None:
        path = find_table(self.folder, self.schema, name)
        n = files.count(path, self.schema.name)
        rng = np.random.default_rng([self.seed, SPLITS.index(name)])
        sampled = _choose(rng, n, SAMPLE_ROWS)
        near = _choose(rng, n, NEAR_TRAIN if name == "train" else NEAR_HELD_OUT)
        self.n_near[name] = 0
        keys, ids, labels = [], [], []
        usage = {column: Usage() for column in self.types}
        sample: dict[str, list] = {column: [] for column, kind in self.types.items() if kind is not ColumnType.IMAGE}
        has_labels = False
        for batch in read_batches(
            path, self.schema, folder=self.folder, on_error=lambda error: self.alarms.append(fault(error))
        ):
            hashed: dict[str, np.ndarray] = {}
            for column in batch.columns:
                hashed[column], present = self.cells.hashes(batch, column, self.types[column])
                usage[column].add(hashed[column], present)
            zero = np.zeros(len(batch), np.int64)  # a column that the file lacks is missing in all rows
            key = mix([hashed.get(column, zero) for column in self.types])
            keys.append(key)
            ids.append(np.where(np.asarray(batch.ids.is_null()), 0, hashes(batch.ids)))
            has_labels |= batch.labels is not None
            labels.append(self._codes(batch))
            self._sample(batch, _inside(sampled, batch), sample)
            self._look_up(name, batch, _inside(near, batch), key, hashed)
        if not sum(map(len, keys)):
            return None
        whole = np.concatenate(labels)
        self._label_faults(name, has_labels, whole)
        usage = {column: use for column, use in usage.items() if use.n}
        return Split(name, np.concatenate(keys), np.concatenate(ids), whole, usage, sample, sampled, whole[sampled])

    def _look_up(
        self, name: str, batch: Table, rows: np.ndarray, key: np.ndarray, hashed: dict[str, np.ndarray]
    ) -> None:
        for start in range(0, len(rows), TOKEN_ROWS):
            some = rows[start : start + TOKEN_ROWS]
            for row, tokens in zip(some.tolist(), row_tokens(batch, some, self.types, hashed), strict=True):
                to = self.near.ask if name == "train" else self.near.add
                self.n_near[name] += to((name, batch.first_row + row), int(key[row]), tokens)

    def _codes(self, batch: Table) -> np.ndarray:
        if batch.labels is None:
            return np.full(len(batch), -1, np.int32)
        coded = batch.labels.dictionary_encode()
        codes = [self.classes.setdefault(value, len(self.classes)) for value in coded.dictionary.to_pylist()]
        return np.array([*codes, -1], np.int32)[coded.indices.fill_null(-1).to_numpy(zero_copy_only=False)]

    def _sample(self, batch: Table, rows: np.ndarray, sample: dict[str, list]) -> None:
        for column, out in sample.items():
            if column not in batch.columns:
                out += [None] * len(rows)
                continue
            values: pa.Array = batch.columns[column].take(rows)
            text = self.types[column] is ColumnType.TEXT
            out += strings(values, SAMPLE_CHARACTERS) if text else values.to_pylist()

    def _label_faults(self, name: str, has_labels: bool, labels: np.ndarray) -> None:
        n_missing = int((labels < 0).sum())
        if not n_missing or (name == "test" and n_missing == len(labels)):
            return
        what = f"{n_missing:,} of {len(labels):,} rows have no label" if has_labels else "the file has no label column"
        may = ", or empty the whole column" if name == "test" else ""
        rows = tuple(name_row(name, row, None) for row in np.flatnonzero(labels < 0)[:N_EXAMPLES].tolist())
        message = f"{name}: {what}: fill {self.schema.label} in, or leave these rows out{may}"
        column = self.schema.label
        self.alarms.append(
            Alarm(ERROR, "missing_labels", message, name, column, rows if has_labels else (), n_missing, n_missing / len(labels))
        )  # fmt: skip


def _choose(rng: np.random.Generator, n: int, most: int) -> np.ndarray:
    return np.arange(n) if n <= most else np.sort(rng.choice(n, most, replace=False))


def _inside(rows: np.ndarray, batch: Table) -> np.ndarray:
    """Which of these row numbers of the table are in the batch, as rows of the batch."""
    start, stop = np.searchsorted(rows, [batch.first_row, batch.first_row + len(batch)])
    return rows[start:stop] - batch.first_row


def _find(haystack: np.ndarray, needles: np.ndarray) -> np.ndarray:
    """[n] int64: for each needle the first place in the haystack where it is, or -1."""
    order = np.argsort(haystack, kind="stable")
    place = np.searchsorted(haystack, needles, sorter=order).clip(0, max(len(haystack) - 1, 0))
    if len(haystack) == 0:
        return np.full(len(needles), -1)
    return np.where(haystack[order[place]] == needles, order[place], -1)


def _ref(split: Split, row: int | np.integer, classes: list[str]) -> Ref:
    label = split.labels[row]
    return split.name, int(row), f", label {classes[label]}" if label >= 0 else ""


def _natural(types: dict[str, ColumnType]) -> bool:
    """Whether rows may well be equal by chance."""
    return len(types) < FEW_COLUMNS and not {ColumnType.TEXT, ColumnType.IMAGE} & set(types.values())


def _across(splits: dict[str, Split], types: dict[str, ColumnType], classes: list[str]) -> Iterator[Finding]:
    """Rows and ids that are in two splits."""
    names = [*splits]
    for a, b in [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]:
        first, second = splits[a], splits[b]
        place = np.where(second.ids == 0, -1, _find(first.ids, second.ids))
        twice = np.flatnonzero(place >= 0)
        if len(twice):
            yield Finding(
                Alarm(
                    SEVERE, "id_in_two_splits",
                    f"{len(twice):,} ids ({percent(len(twice) / len(place))} of {b}) are also in {a}: if they name the"
                    " same thing, leave them out of one; if not, number them anew",
                    b, None, (), len(twice), len(twice) / len(place),
                ),
                [((b, int(r), ""), (a, int(place[r]), "")) for r in twice[:N_EXAMPLES]],
            )  # fmt: skip
        if a != "train":
            continue
        place = _find(first.key, second.key)
        twice = np.flatnonzero(place >= 0)
        if len(twice) == 0:
            continue
        share = len(twice) / len(place)
        known = twice[(second.labels[twice] >= 0) & (first.labels[place[twice]] >= 0)]
        agree = float((second.labels[known] == first.labels[place[known]]).mean()) if len(known) else 0.0
        natural = _natural(types)
        severity = SEVERE if share >= DUPLICATES_SEVERE and not natural else WARNING
        labels = f"; {percent(agree)} of them have the same label there" if len(known) else ""
        advice = (
            "With few columns and neither text nor picture, rows repeat by chance: look whether these do"
            if natural
            else f"A model may know them by heart: leave them out of {b}, or split again with duplicates in one group"
        )
        yield Finding(
            Alarm(
                severity, "duplicate_across_splits",
                f"{len(twice):,} rows of {b} ({percent(share)}) have the same features as a row of train{labels}. {advice}",
                b, None, (), len(twice), share,
            ),
            [(_ref(second, r, classes), _ref(first, place[r], classes)) for r in twice[:N_EXAMPLES]],
        )  # fmt: skip


def _near(splits: dict[str, Split], reader: _Reader, classes: list[str]) -> Iterator[Finding]:
    if "train" not in splits:
        return
    index, train = reader.near, splits["train"]
    for name in ("valid", "test"):
        if name not in splits:
            continue
        split = splits[name]
        exact = _find(train.key, split.key) >= 0
        hits = [
            (row, index.found[i][1]) for i, (table, row) in enumerate(index.refs) if table == name and i in index.found
        ]
        hits = [(row, other) for row, other in hits if not exact[row]]
        if not hits:
            continue
        n = max(reader.n_near[name], 1)
        share = len(hits) / n
        whole = n == len(split.key) and reader.n_near["train"] == len(train.key)
        looked = "" if whole else f" (an estimate from {n:,} rows, looked up in {reader.n_near['train']:,} of train)"
        same = [split.labels[a] == train.labels[b] for a, b in hits if split.labels[a] >= 0]
        agree = f"; {percent(float(np.mean(same)))} of them have the same label there" if same else ""
        yield Finding(
            Alarm(
                grade(share, (NEAR_SEVERE, SEVERE), (NEAR_WARNING, WARNING), otherwise=NOTE),
                "near_duplicate_across_splits",
                f"{len(hits):,} rows of {name} ({percent(share)}) share nine tenths of their words and cells with a row of"
                f" train{looked}{agree}. If these are the same thing told twice, split again by a column that groups them",
                name, None, (), len(hits), share,
            ),
            [(_ref(split, a, classes), _ref(train, b, classes)) for a, b in hits[:N_EXAMPLES]],
        )  # fmt: skip


def _within(splits: dict[str, Split], types: dict[str, ColumnType], classes: list[str]) -> Iterator[Finding]:
    """Rows that repeat an earlier row of their table, and equal rows with different labels."""
    for split in splits.values():
        first = _find(split.key, split.key)
        again = np.flatnonzero(first != np.arange(len(first)))
        share = len(again) / len(first)
        if len(again):
            chance = " (with so few columns this may be chance)" if _natural(types) else ""
            yield Finding(
                Alarm(
                    grade(share, (NOISE_WARNING, WARNING), otherwise=NOTE), "duplicate_within_split",
                    f"{len(again):,} rows of {split.name} ({percent(share)}) repeat the features of an earlier row{chance}:"
                    " leave them out unless they are to count twice",
                    split.name, None, (), len(again), share,
                ),
                [(_ref(split, r, classes), _ref(split, first[r], classes)) for r in again[:N_EXAMPLES]],
            )  # fmt: skip
    parts = list(splits.values())
    key, label = np.concatenate([s.key for s in parts]), np.concatenate([s.labels for s in parts])
    rows = np.flatnonzero(label >= 0)
    first = _find(key[rows], key[rows])
    differs = label[rows] != label[rows[first]]
    if not differs.any():
        return
    noisy = np.isin(key[rows], key[rows[differs]])
    count, share = int(noisy.sum()), float(noisy.mean())
    starts = np.cumsum([0, *(len(s.key) for s in parts)])

    def ref(row: np.integer) -> Ref:
        part = int(np.searchsorted(starts, row, "right")) - 1
        return _ref(parts[part], row - starts[part], classes)

    examples: list[tuple[Ref, ...]] = [
        (ref(rows[i]), ref(rows[first[i]])) for i in np.flatnonzero(differs)[:N_EXAMPLES]
    ]
    yield Finding(
        Alarm(
            grade(share, (NOISE_WARNING, WARNING), otherwise=NOTE), "label_noise",
            f"{count:,} labelled rows ({percent(share)}) have the same features as a row with another label: no model can"
            " get them all right, so look which label is meant",
            None, None, (), count, share,
        ),
        examples,
    )  # fmt: skip


def _labels(splits: dict[str, Split], classes: list[str]) -> Iterator[Finding]:
    train = splits.get("train")
    if train is None or not (train.labels >= 0).any():
        return
    counts = np.bincount(train.labels[train.labels >= 0], minlength=len(classes))
    for name in ("valid", "test"):
        if name in splits:
            labels = splits[name].labels
            rows = np.flatnonzero((labels >= 0) & (counts[labels] == 0))
            if len(rows):
                unseen = sorted({classes[label] for label in labels[rows]})
                yield Finding(
                    Alarm(
                        ERROR, "label_not_in_train",
                        f"{len(rows):,} rows of {name} have a label that train lacks ({', '.join(unseen[:N_EXAMPLES])}): mmtab"
                        " cannot learn it; split again with method stratified, or leave these rows out",
                        name, None, (), len(rows), len(rows) / len(labels),
                    ),
                    [(_ref(splits[name], r, classes),) for r in rows[:N_EXAMPLES]],
                )  # fmt: skip
    there = np.flatnonzero(counts)
    few = [i for i in there if counts[i] < FEW_ROWS]
    if few:
        shown = ", ".join(f"{classes[i]} ({counts[i]})" for i in few[:N_EXAMPLES])
        message = f"{len(few)} of {len(there)} classes have fewer than {FEW_ROWS} rows in train: {shown}"
        yield Finding(Alarm(NOTE, "small_class", message, "train", None, (), len(few), len(few) / len(there)))
    share = float(counts.max() / counts.sum())
    if len(there) == 1:
        message = f"all rows of train have the label {classes[there[0]]}: there is nothing to tell apart"
        yield Finding(Alarm(ERROR, "one_class", message, "train", None, (), int(counts.max()), 1.0))
    elif share >= LARGEST_CLASS:
        message = (
            f"the largest class, {classes[int(counts.argmax())]}, has {percent(share)} of the rows of train: compare"
            " accuracy with that share, or rank by macro_f1"
        )
        yield Finding(Alarm(NOTE, "imbalance", message, "train", None, (), int(counts.max()), share))


def _leaks(splits: dict[str, Split], types: dict[str, ColumnType], classes: list[str], seed: int) -> Iterator[Finding]:
    """Columns that alone give the label away: learnt from (a sample of) train, scored on valid."""
    train = splits.get("train")
    held = next((s for n in ("valid", "test") if (s := splits.get(n)) and (s.sample_labels >= 0).any()), None)
    if train is None or held is None or not (train.sample_labels >= 0).any():
        return
    known, asked = train.sample_labels >= 0, held.sample_labels >= 0
    y, truth = train.sample_labels[known], held.sample_labels[asked]
    counts = np.bincount(y)
    largest = int(counts.argmax())
    base = float((truth == largest).mean())
    accuracies: dict[str, float] = {}
    right: dict[str, np.ndarray] = {}
    for column in train.sample:
        x = [v for v, keep in zip(train.sample[column], known, strict=True) if keep]
        x_held = [v for v, keep in zip(held.sample[column], asked, strict=True) if keep]
        if types[column] is ColumnType.TEXT:
            yield from _said(column, x, y, classes, train.sample_rows[known], seed)
        numeric = types[column] in (ColumnType.NUMERIC, ColumnType.DATETIME)
        answers = (_by_number if numeric else _by_value)(x, y, x_held, largest)
        accuracies[column] = float((answers == truth).mean())
        right[column] = held.sample_rows[asked][answers == truth][:N_EXAMPLES]
    for column, accuracy in accuracies.items():
        others = max((a for c, a in accuracies.items() if c != column), default=base)
        severe = accuracy >= LEAK_SEVERE
        if accuracy - base < LEAK_GAIN or not (
            severe or (accuracy >= LEAK_WARNING and accuracy - others >= LEAK_ALONE)
        ):
            continue
        message = (
            f"column {column} alone gets {percent(accuracy)} of {held.name} right (the largest class alone:"
            f" {percent(base)}, the next best column: {percent(others)}). Look at it: if it was written down after the"
            " label was known, take it out; if not, the task is that easy"
        )
        count = round(accuracy * len(truth))
        severity = SEVERE if severe and len(truth) >= LEAK_ROWS else WARNING
        yield Finding(
            Alarm(severity, "label_given_away", message, held.name, column, (), count, accuracy),
            [(_ref(held, row, classes),) for row in right[column]],
        )


def _by_value(x: list, y: np.ndarray, x_held: list, largest: int) -> np.ndarray:
    """The most frequent label of the cell's value; of an unseen value, the largest class."""
    of_value: dict[object, Counter[int]] = {}
    for value, label in zip(x, y.tolist(), strict=True):
        of_value.setdefault(value, Counter())[label] += 1
    best = {value: max(sorted(labels), key=labels.__getitem__) for value, labels in of_value.items()}
    return np.array([best.get(value, largest) for value in x_held])


def _by_number(x: list, y: np.ndarray, x_held: list, largest: int) -> np.ndarray:
    """What a small tree says; of very many classes, or of few rows each, the most frequent label of the nearest value."""
    from sklearn.tree import DecisionTreeClassifier

    arrays = [np.array(values, np.float64)[:, None] for values in (x, x_held)]
    values = np.unique(arrays[0][~np.isnan(arrays[0])])
    n_classes = len(np.unique(y))
    if n_classes > min(TREE_CLASSES, len(y) / 2) and len(values):
        asked = arrays[1][:, 0]
        above = np.searchsorted(values, asked).clip(0, len(values) - 1)
        below = (above - 1).clip(0)
        nearest = np.where(asked - values[below] < values[above] - asked, values[below], values[above])
        return _by_value(x, y, np.where(np.isnan(asked), np.nan, nearest).tolist(), largest)
    # scikit-learn reads float32: ranks keep apart what that would merge, such as days in seconds since 1970.
    ranks = [
        np.where(np.isnan(a), np.nan, np.searchsorted(values, a) + np.searchsorted(values, a, "right")) for a in arrays
    ]
    n_leaves = max(64, 4 * n_classes)
    return DecisionTreeClassifier(max_leaf_nodes=n_leaves, min_samples_leaf=3, random_state=0).fit(ranks[0], y).predict(ranks[1])  # fmt: skip


def _said(
    column: str, texts: list, y: np.ndarray, classes: list[str], rows: np.ndarray, seed: int
) -> Iterator[Finding]:
    """Whether the text says the label's own name. Labels dealt out anew tell how often that is chance."""

    def words(text: str) -> str:
        return " " + " ".join(re.findall(r"\w+", text.casefold())) + " "

    names = [words(name) for name in classes]
    cells = ["" if text is None else words(text) for text in texts]
    dealt = np.random.default_rng(seed).permutation(y)
    own = np.array([names[label] in cell for label, cell in zip(y, cells, strict=True)])
    other = np.array([names[label] in cell for label, cell in zip(dealt, cells, strict=True)])[dealt != y]
    said, chance = float(own.mean()), float(other.mean()) if len(other) else 0.0
    if said - chance < NAMED_WARNING:
        return
    message = (
        f"the text {column} says the row's own label in {percent(said)} of {len(y):,} rows of train (another row's label:"
        f" {percent(chance)}). Look at it: if the task is to find the label without being told, mask these words"
    )
    severity = SEVERE if said - chance >= NAMED_SEVERE else WARNING
    examples: list[tuple[Ref, ...]] = [
        (("train", int(rows[i]), f", label {classes[y[i]]}"),) for i in np.flatnonzero(own)[:N_EXAMPLES]
    ]
    yield Finding(Alarm(severity, "label_named_in_text", message, "train", column, (), int(own.sum()), said), examples)


def _columns(splits: dict[str, Split], types: dict[str, ColumnType]) -> Iterator[Finding]:
    train, test = splits.get("train"), splits.get("test")
    if train is None:
        return
    for column, kind in types.items():
        if kind is ColumnType.CATEGORICAL:
            for alarm in id_like(column, "train", train.sample[column], ID_LIKE, ID_LIKE_ROWS):
                yield Finding(alarm)
        if test is None or column not in train.usage or column not in test.usage:
            continue
        a, b = train.usage[column].missing, test.usage[column].missing
        if abs(a - b) > MISSING_DIFFERS:
            message = (
                f"column {column} is missing in {percent(a)} of train but {percent(b)} of test: what is learnt from it"
                " will not hold; find out why, or take it out"
            )
            n_missing = test.usage[column].n - test.usage[column].n_present
            yield Finding(Alarm(WARNING, "missing_differs", message, "test", column, (), n_missing, b))


def _declared_split(folder: Path, schema: Schema, names: list[str]) -> list[Alarm]:
    """Whether the splits are what dataset.yaml says: grouped by a column, or in the order of time."""
    method, by = schema.split.get("method"), schema.split.get("by")
    if method not in ("grouped", "time") or not isinstance(by, str):
        return []
    paths = {name: find_table(folder, schema, name) for name in names}
    paths = {name: path for name, path in paths.items() if by in files.header(path, schema.name).names}

    def column(name: str, kind: ColumnType) -> pa.ChunkedArray:
        parts = [values for _, values in read_column(paths[name], schema.name, by, kind)]
        return pa.chunked_array(parts)

    rule = _groups if method == "grouped" else _times
    return list(rule(by, [*paths], column))


Column = Callable[[str, ColumnType], pa.ChunkedArray]


def _groups(by: str, names: list[str], column: Column) -> Iterator[Alarm]:
    seen: dict[str, np.ndarray] = {}
    for name in names:
        values = column(name, ColumnType.CATEGORICAL)
        keys = np.concatenate([hashes(chunk) for chunk in values.chunks])
        there = ~np.asarray(values.is_null())
        for other, others in seen.items():
            spans = np.flatnonzero(there & np.isin(keys, others))
            if len(spans):
                groups, first = np.unique(keys[spans], return_index=True)
                rows = [
                    f"{name_row(name, int(r), None)}: {by} = {values[int(r)]}"
                    for r in sorted(spans[first])[:N_EXAMPLES]
                ]
                yield Alarm(
                    SEVERE, "group_spans_splits",
                    f"{len(groups):,} groups of {by} are in {other} and in {name} ({len(spans):,} rows of {name}), though"
                    " dataset.yaml says split by group: split again, or correct 'split'",
                    name, by, tuple(rows), len(groups), len(spans) / len(keys),
                )  # fmt: skip
        seen[name] = np.unique(keys[there])


def _times(by: str, names: list[str], column: Column) -> Iterator[Alarm]:
    if "train" not in names:
        return
    moments = {name: column(name, ColumnType.DATETIME).to_numpy() for name in names}
    latest = np.nanmax(np.append(moments["train"], -np.inf))
    for name in names:
        early = np.flatnonzero(moments[name] <= latest)
        if name != "train" and len(early):
            share = len(early) / len(moments[name])
            rows = tuple(name_row(name, int(r), None) for r in early[:N_EXAMPLES])
            yield Alarm(
                SEVERE, "time_overlap",
                f"{len(early):,} rows of {name} ({percent(share)}) are not later than all of train by {by}, though"
                " dataset.yaml says split by time: split again, or correct 'split'",
                name, by, rows, len(early), share,
            )  # fmt: skip


def _named(folder: Path, schema: Schema, findings: list[Finding]) -> list[Alarm]:
    """The findings with the ids of their rows, which are read only now."""
    wanted: dict[str, set[int]] = {}
    for table, row, _ in [ref for finding in findings for example in finding.examples for ref in example]:
        wanted.setdefault(table, set()).add(row)
    ids: dict[tuple[str, int], object] = {}
    for table, rows in wanted.items():
        left = np.array(sorted(rows))
        try:
            for start, values in read_column(find_table(folder, schema, table), schema.name, schema.id, ColumnType.CATEGORICAL):  # fmt: skip
                here = left[(left >= start) & (left < start + len(values))]
                ids |= {(table, int(row)): values[int(row) - start].as_py() for row in here}
                if start + len(values) > left[-1]:
                    break
        except DataError:
            pass  # a table without ids is an alarm already: its rows go by their number

    def say(example: tuple[Ref, ...]) -> str:
        return " = ".join(name_row(table, row, ids.get((table, row))) + more for table, row, more in example)

    return [
        Alarm(
            **{**vars(finding.alarm), "rows": tuple(say(example) for example in finding.examples) or finding.alarm.rows}
        )
        for finding in findings
    ]
