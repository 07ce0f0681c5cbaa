"""Columns that alone give the class of a row away."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

import numpy as np

from mmtab.data.schema import ColumnType
from mmtab.prepare.check.alarms import N_EXAMPLES, Alarm, Severity, percent
from mmtab.prepare.check.reader import Finding, Split

SEVERE, WARNING = Severity.SEVERE, Severity.WARNING

# What one honest column rarely reaches by itself; and it must do so by more than guessing the largest class.
LEAK_SEVERE, LEAK_WARNING, LEAK_GAIN, LEAK_ALONE = 0.98, 0.90, 0.20, 0.10
# Among a dozen rows some column is right by chance: from fewer than this a leak is not concluded, only looked at.
LEAK_ROWS = 20
# Rows whose text says their own label, less those that say another label by chance.
NAMED_SEVERE, NAMED_WARNING = 0.50, 0.10
TREE_CLASSES = 1_000  # a tree keeps a number for each of its nodes and each class


def leaks(splits: dict[str, Split], classes: list[str], types: dict[str, ColumnType]) -> Iterator[Finding]:
    """Columns that alone give the label away: learnt from (a sample of) train, scored on valid."""
    train = splits.get("train")
    valid = next((s for n in ("valid", "test") if (s := splits.get(n)) and (s.sample_labels >= 0).any()), None)
    if train is None or valid is None or not (train.sample_labels >= 0).any():
        return
    labelled, asked = train.sample_labels >= 0, valid.sample_labels >= 0
    y, truth = train.sample_labels[labelled], valid.sample_labels[asked]
    counts = np.bincount(y)
    largest = int(counts.argmax())
    base = float((truth == largest).mean())
    accuracies: dict[str, float] = {}
    right: dict[str, np.ndarray] = {}
    for column in train.sample:
        x = [v for v, keep in zip(train.sample[column], labelled, strict=True) if keep]
        x_held = [v for v, keep in zip(valid.sample[column], asked, strict=True) if keep]
        if types[column] is ColumnType.TEXT:
            yield from _named_in_text(column, x, y, classes, train.sample_rows[labelled])
        numeric = types[column] in (ColumnType.NUMERIC, ColumnType.DATETIME)
        answers = (by_number if numeric else _by_value)(x, y, x_held, largest)
        accuracies[column] = float((answers == truth).mean())
        right[column] = valid.sample_rows[asked][answers == truth][:N_EXAMPLES]
    for column, accuracy in accuracies.items():
        others = max((a for c, a in accuracies.items() if c != column), default=base)
        severe = accuracy >= LEAK_SEVERE
        alone = accuracy >= LEAK_WARNING and accuracy - others >= LEAK_ALONE
        if accuracy - base < LEAK_GAIN or not (severe or alone):
            continue
        message = (
            f"column {column} alone gets {percent(accuracy)} of {valid.name} right (the largest class alone:"
            f" {percent(base)}, the next best column: {percent(others)}). Look at it: if it was written down after the"
            " label was known, take it out; if not, the task is that easy"
        )
        count = round(accuracy * len(truth))
        severity = SEVERE if severe and len(truth) >= LEAK_ROWS else WARNING
        alarm = Alarm(severity, "label_given_away", message, valid.name, column, (), count, accuracy)
        yield Finding(alarm, [(valid.ref(row, classes),) for row in right[column]])


def _by_value(x: list, y: np.ndarray, x_held: list, largest: int) -> np.ndarray:
    """The most frequent label of the cell's value; of an unseen value, the largest class."""
    of_value: dict[object, Counter[int]] = {}
    for value, label in zip(x, y.tolist(), strict=True):
        of_value.setdefault(value, Counter())[label] += 1
    best = {value: max(sorted(labels), key=labels.__getitem__) for value, labels in of_value.items()}
    return np.array([best.get(value, largest) for value in x_held])


def by_number(x: list, y: np.ndarray, x_held: list, largest: int) -> np.ndarray:
    """What a small tree predicts; of very many classes, or few rows each, the label that the nearest value has most."""
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
    tree = DecisionTreeClassifier(max_leaf_nodes=max(64, 4 * n_classes), min_samples_leaf=3, random_state=0)
    return tree.fit(ranks[0], y).predict(ranks[1])


def _named_in_text(column: str, texts: list, y: np.ndarray, classes: list[str], rows: np.ndarray) -> Iterator[Finding]:
    """Whether the text says the label's own name. Labels dealt out anew tell how often that is chance."""

    def words(text: str) -> str:
        return " " + " ".join(re.findall(r"\w+", text.casefold())) + " "

    names = [words(name) for name in classes]
    cells = ["" if text is None else words(text) for text in texts]
    dealt = np.random.default_rng(0).permutation(y)
    own = np.array([names[label] in cell for label, cell in zip(y, cells, strict=True)])
    other = np.array([names[label] in cell for label, cell in zip(dealt, cells, strict=True)])[dealt != y]
    own_share, chance = float(own.mean()), float(other.mean()) if len(other) else 0.0
    if own_share - chance < NAMED_WARNING:
        return
    message = (
        f"the text {column} says the row's own label in {percent(own_share)} of {len(y):,} rows of train (another row's"
        f" label: {percent(chance)}). Look at it: if the task is to find the label without being told, mask these words"
    )
    severity = SEVERE if own_share - chance >= NAMED_SEVERE else WARNING
    alarm = Alarm(severity, "label_named_in_text", message, "train", column, (), int(own.sum()), own_share)
    examples = [("train", int(rows[i]), f", label {classes[y[i]]}") for i in np.flatnonzero(own)[:N_EXAMPLES]]
    yield Finding(alarm, [(example,) for example in examples])
