"""Alarms of a matching dataset. Records and pairs are held in memory, as matching itself holds them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.compute as pc

from mmtab.data import files
from mmtab.data.pairs import Pairs, read_pairs, read_records
from mmtab.data.schema import ColumnType, Schema
from mmtab.data.splits import SPLITS, components
from mmtab.data.table import find_table, read_batches
from mmtab.prepare.check.alarms import (
    N_EXAMPLES,
    Alarm,
    Cells,
    Severity,
    attempt,
    fault,
    grade,
    id_like,
    mix,
    percent,
    usage_alarms,
)
from mmtab.prepare.check.pair_data import PairData, content_of, hash_cells, labelled_pairs, sides_of

ERROR, SEVERE, WARNING, NOTE = Severity

NOISE_SEVERE, NOISE_WARNING = 0.05, 0.01
# What one column's equality rarely reaches where matching takes more than looking at a code.
LEAK_SEVERE, LEAK_WARNING = 0.99, 0.95
# Among a dozen matches some column is right by chance: from fewer than this a leak is not concluded, only looked at.
LEAK_MATCHES = 20
# Published pairs were divided at random, so records are seen in train: it is said, and loudly where it is most of them.
SEEN_WARNING = 0.5
ID_LIKE, ID_LIKE_ROWS = 0.95, 20
FEW_MATCHES, MANY_MATCHES, SHARE_DIFFERS = 0.02, 0.6, 0.1


def check_matching(folder: Path, schema: Schema, seed: int, images: bool) -> list[Alarm]:
    """All alarms, in no order. ``seed`` is for nothing here: all rows are looked at."""
    alarms: list[Alarm] = []
    one = files.exists(folder, "records")
    for name in ("records",) if one else ("left", "right"):
        attempt(alarms, lambda name=name: _read_all(folder, schema, name, not one, alarms))  # type: ignore[misc]
    missing = [split for split in SPLITS if not files.exists(folder, f"pairs_{split}")]
    if len(missing) == len(SPLITS) and files.exists(folder, "pairs"):
        message = "the pairs are not divided yet: run 'mmtab prepare split', then check again"
        return [*alarms, Alarm(ERROR, "not_split", message, "pairs")]
    for split in missing:
        message = f"the table pairs_{split} is missing: mmtab needs pairs_train, pairs_valid and pairs_test"
        alarms.append(Alarm(ERROR, "missing_table", message, f"pairs_{split}"))
    # Cells at fault are alarms already; with them as missing the rest can still be looked at.
    again: list[Alarm] = []
    records = attempt(again, lambda: read_records(folder, schema, "missing"))
    if records is None:
        return alarms or again
    pairs: dict[str, Pairs] = {}
    for split in SPLITS:
        if split not in missing:
            read = attempt(alarms, lambda split=split: read_pairs(folder, schema, split, records))  # type: ignore[misc]
            if read is not None:
                pairs[split] = read
    cells = Cells(images)
    data, usage = hash_cells(records, pairs, schema, cells)
    alarms += [*cells.alarms(), *usage_alarms(data.types, usage)]
    for column, kind in data.types.items():
        if kind is ColumnType.CATEGORICAL:
            for side in sides_of(records):
                alarms += id_like(column, side.name, side.columns[column].to_pylist(), ID_LIKE, ID_LIKE_ROWS)
    for look in (_repeated, _noise, _record_duplicates, _leaks, _ids, _balance):
        alarms += look(data)
    return [*alarms, *_entities(data, schema)]


def _read_all(folder: Path, schema: Schema, name: str, partial: bool, alarms: list[Alarm]) -> None:
    path = find_table(folder, schema, name)
    for _ in read_batches(
        path, schema, folder=folder, partial=partial, on_error=lambda error: alarms.append(fault(error))
    ):
        pass


def _repeated(data: PairData) -> Iterator[Alarm]:
    """Pairs that are there twice, in two splits or in one, and pairs of a record with itself."""
    for split, pairs in data.pairs.items():
        table, keys = f"pairs_{split}", data.keys(split)
        itself = np.flatnonzero(pairs.left == pairs.right)
        if len(itself):
            share = len(itself) / len(pairs)
            rows = tuple(data.pair(split, int(r)) for r in itself[:N_EXAMPLES])
            message = f"{len(itself):,} pairs of {table} ({percent(share)}) are a record with itself: leave them out"
            yield Alarm(WARNING, "pair_with_itself", message, table, None, rows, len(itself), share)
        _, first, place = np.unique(keys, return_index=True, return_inverse=True)
        again = np.flatnonzero(first[place] != np.arange(len(keys)))
        if len(again):
            share = len(again) / len(keys)
            rows = tuple(
                f"{data.pair(split, int(r))} = {data.pair(split, int(first[place[r]]))}" for r in again[:N_EXAMPLES]
            )
            message = (
                f"{len(again):,} pairs of {table} ({percent(share)}) are there twice, as such or swapped: keep one"
            )
            yield Alarm(WARNING, "pair_repeated", message, table, None, rows, len(again), share)
    names = [*data.pairs]
    for a, b in [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]:
        where = {key: row for row, key in reversed(list(enumerate(data.keys(a).tolist())))}
        keys = data.keys(b).tolist()
        both = [row for row, key in enumerate(keys) if key in where]
        if both:
            rows = tuple(f"{data.pair(b, r)} = {data.pair(a, where[keys[r]])}" for r in both[:N_EXAMPLES])
            share = len(both) / len(keys)
            message = (
                f"{len(both):,} pairs of pairs_{b} ({percent(share)}) are also in pairs_{a}, as such or swapped: leave"
                " them out of one"
            )
            yield Alarm(SEVERE, "pair_in_two_splits", message, f"pairs_{b}", None, rows, len(both), share)


def _noise(data: PairData) -> Iterator[Alarm]:
    """Labels that contradict one another, or what the records say."""
    left, right, labels, keys, names = labelled_pairs(data)
    n = len(labels)
    if n == 0:
        return
    steps = (NOISE_SEVERE, SEVERE), (NOISE_WARNING, WARNING)
    ways: dict[int, dict[int, int]] = {}
    for row, (key, label) in enumerate(zip(keys.tolist(), labels.tolist(), strict=True)):
        ways.setdefault(key, {}).setdefault(label, row)
    both = [rows for rows in ways.values() if len(rows) > 1]
    if both:
        rows = tuple(f"{data.pair(*names[pair[1]])} = {data.pair(*names[pair[0]])}" for pair in both[:N_EXAMPLES])
        message = (
            f"{len(both):,} pairs ({percent(len(both) / n)} of all) are labelled both 1 and 0: look which is meant"
        )
        severity = grade(len(both) / n, (NOISE_WARNING, SEVERE), otherwise=WARNING)
        yield Alarm(severity, "pair_label_contradiction", message, None, None, rows, len(both), len(both) / n)
    matches = labels == 1
    entity = components(len(data.records.table), left[matches], right[matches])
    direct = set(keys[matches].tolist())
    odd = np.flatnonzero(~matches & (entity[left] == entity[right]) & (left != right))
    odd = np.array([row for row in odd.tolist() if int(keys[row]) not in direct], np.int64)
    if len(odd):
        near: dict[int, set[int]] = {}
        for a, b in zip(left[matches].tolist(), right[matches].tolist(), strict=True):
            near.setdefault(a, set()).add(b)
            near.setdefault(b, set()).add(a)
        rows = tuple(
            f"{data.pair(*names[row])}, but "
            + " = ".join(data.record(r) for r in _chain(near, int(left[row]), int(right[row])))
            for row in odd[:N_EXAMPLES]
        )
        share = len(odd) / max(int((~matches).sum()), 1)
        message = (
            f"{len(odd):,} non-matches ({percent(share)} of them) join two records that a chain of matches says are the"
            " same: a label of the chain or of the pair is wrong"
        )
        yield Alarm(grade(share, *steps, otherwise=NOTE), "transitivity", message, None, None, rows, len(odd), share)
    content, filled = content_of(data)
    same = np.flatnonzero(~matches & (content[left] == content[right]) & filled[left] & filled[right] & (left != right))
    if len(same):
        share = len(same) / max(int((~matches).sum()), 1)
        rows = tuple(data.pair(*names[row]) for row in same[:N_EXAMPLES])
        message = (
            f"{len(same):,} non-matches ({percent(share)} of them) have the same content in all shared columns"
            f" ({', '.join(data.shared)}): the label is wrong, or a column that tells them apart is lacking"
        )
        yield Alarm(
            grade(share, *steps, otherwise=NOTE), "identical_non_match", message, None, None, rows, len(same), share
        )


def _chain(near: dict[int, set[int]], start: int, end: int) -> list[int]:
    """The shortest chain of matches from one record to another."""
    before = {start: start}
    edge = [start]
    while edge and end not in before:
        edge = [
            other
            for row in edge
            for other in sorted(near.get(row, ()))
            if before.setdefault(other, row) == row and other != row
        ]
    chain = [end]
    while chain[-1] != start:
        chain.append(before[chain[-1]])
    return chain[::-1]


def _record_duplicates(data: PairData) -> Iterator[Alarm]:
    content = mix([data.columns[column] for column in data.types])
    start = 0
    for side in sides_of(data.records):
        keys = content[start : start + len(side)]
        _, first, place = np.unique(keys, return_index=True, return_inverse=True)
        again = np.flatnonzero(first[place] != np.arange(len(keys)))
        if len(again):
            share = len(again) / len(keys)
            rows = tuple(
                f"{data.record(start + int(r))} = {data.record(start + int(first[place[r]]))}"
                for r in again[:N_EXAMPLES]
            )
            message = (
                f"{len(again):,} records of {side.name} ({percent(share)}) repeat the content of an earlier one:"
                f" only their ids tell them apart"
            )
            table = None if side.name == "left+right" else side.name
            yield Alarm(
                grade(share, (NOISE_WARNING, WARNING), otherwise=NOTE),
                "duplicate_record",
                message,
                table,
                None,
                rows,
                len(again),
                share,
            )
        start += len(side)
    used = np.zeros(len(content), bool)
    for pairs in data.pairs.values():
        used[pairs.left] = used[pairs.right] = True
    unused = np.flatnonzero(~used)
    if len(unused) and data.pairs:
        share = len(unused) / len(used)
        rows = tuple(data.record(int(r)) for r in unused[:N_EXAMPLES])
        message = f"{len(unused):,} records ({percent(share)}) are in no pair: they cost time only"
        yield Alarm(NOTE, "unused_record", message, None, None, rows, len(unused), share)


def _leaks(data: PairData) -> Iterator[Alarm]:
    """Columns whose equality, or nearness of numbers, alone tells matches: learnt on train, scored on valid."""
    if not {"train", "valid"} <= set(data.pairs) or any(data.pairs[s].labels is None for s in ("train", "valid")):
        return
    train, valid = data.pairs["train"], data.pairs["valid"]
    y, truth = data.labels("train") == 1, data.labels("valid") == 1
    for column in data.shared:
        values, present = data.columns[column], data.present[column]
        best, rule, answers = 0.0, "", np.zeros(0, bool)
        equal = (values[valid.left] == values[valid.right]) & present[valid.left] & present[valid.right]
        options = [("being equal", equal)]
        if data.types[column] in (ColumnType.NUMERIC, ColumnType.DATETIME):
            numbers = data.records.table.columns[column].to_numpy(zero_copy_only=False).astype(float)
            limit = _threshold(np.abs(numbers[train.left] - numbers[train.right]), y)
            options.append(
                (f"a difference of at most {limit:.6g}", np.abs(numbers[valid.left] - numbers[valid.right]) <= limit)
            )
        for name, y_pred in options:
            score = 2 * int((y_pred & truth).sum()) / max(int(y_pred.sum() + truth.sum()), 1)
            if score > best:
                best, rule, answers = score, name, y_pred
        if best >= LEAK_WARNING:
            rows = tuple(data.pair("valid", int(r)) for r in np.flatnonzero(answers & truth)[:N_EXAMPLES])
            message = (
                f"{rule} in column {column} alone gives F1 {best:.3f} on pairs_valid ({int(truth.sum()):,} matches)."
                f" Look at it: if it holds the key by"
                " which the pairs were made, take it out; if not, the task is that easy"
            )
            severity = SEVERE if best >= LEAK_SEVERE and truth.sum() >= LEAK_MATCHES else WARNING
            yield Alarm(
                severity, "label_given_away", message, "pairs_valid", column, rows, int((answers & truth).sum()), best
            )


def _ids(data: PairData) -> Iterator[Alarm]:
    """Whether equal ids on both sides say that a pair matches. No model of mmtab reads ids, but others may."""
    if data.records.n_left is None:
        return
    for split, pairs in data.pairs.items():
        truth = data.labels(split) == 1
        equal = np.asarray(pc.equal(pairs.left_ids, pairs.right_ids))
        f1 = 2 * int((equal & truth).sum()) / max(int(equal.sum() + truth.sum()), 1)
        if truth.any() and f1 >= LEAK_WARNING:
            rows = tuple(data.pair(split, int(r)) for r in np.flatnonzero(equal)[:N_EXAMPLES])
            message = (
                f"the ids alone tell the matches of pairs_{split} (those of equal ids reach F1 {f1:.3f}): give the"
                f" sides ids of their own before you hand the data out"
            )
            yield Alarm(WARNING, "ids_tell_the_label", message, f"pairs_{split}", None, rows, int(equal.sum()), f1)


def _threshold(difference: np.ndarray, y: np.ndarray) -> float:
    """The limit below which calling a pair a match gives the best F1."""
    filled = np.flatnonzero(~np.isnan(difference))
    if len(filled) == 0:
        return -1.0
    order = filled[np.argsort(difference[filled], kind="stable")]
    f1 = 2 * np.cumsum(y[order]) / (np.arange(1, len(order) + 1) + y.sum())
    last = np.append(np.diff(difference[order]) > 0, True)  # equal differences get equal answers
    return float(difference[order][np.argmax(np.where(last, f1, -1))])


def _balance(data: PairData) -> Iterator[Alarm]:
    """The share of matches, and labels that are absent or all the same."""
    shares: dict[str, float] = {}
    for split in data.pairs:
        table, labels = f"pairs_{split}", data.labels(split)
        if data.pairs[split].labels is None:
            if split != "test":
                yield Alarm(
                    ERROR, "missing_labels", f"{table} has no labels: fill the column label with 0 and 1", table
                )
            continue
        shares[split] = share = float((labels == 1).mean())
        if share in (0.0, 1.0):
            what = "match" if share else "do not match"
            rows = tuple(data.pair(split, row) for row in range(min(N_EXAMPLES, len(labels))))
            severity = WARNING if split == "test" else ERROR
            yield Alarm(
                severity,
                "one_class",
                f"all pairs of {table} {what}: mmtab needs both kinds",
                table,
                None,
                rows,
                len(labels),
                1.0,
            )
    if not shares:
        return
    text = ", ".join(f"{percent(share)} of pairs_{split}" for split, share in shares.items())
    spread = max(shares.values()) - min(shares.values())
    n = sum(int((data.labels(split) == 1).sum()) for split in shares)
    odd = [s for s in shares.values() if not FEW_MATCHES <= s <= MANY_MATCHES]
    if spread > SHARE_DIFFERS:
        message = f"the share of matches differs: {text}. A threshold chosen on valid may not suit test"
        yield Alarm(WARNING, "matches_differ", message, None, None, (), n, spread)
    elif odd:
        yield Alarm(
            NOTE,
            "imbalance",
            f"matches are {text}: accuracy would tell little, F1 or pr_auc more",
            None,
            None,
            (),
            n,
            odd[0],
        )


def _entities(data: PairData, schema: Schema) -> Iterator[Alarm]:
    """Things (records joined by matches) and records of test that train has seen."""
    left, right, labels, _, _ = labelled_pairs(data)
    matches = labels == 1
    entity = components(len(data.records.table), left[matches], right[matches])
    size = np.bincount(entity)
    inside = {split: np.unique(entity[np.concatenate([p.left, p.right])]) for split, p in data.pairs.items()}
    n_splits = np.zeros(len(size), np.int64)
    for entities in inside.values():
        n_splits[entities] += 1
    spans = np.flatnonzero((n_splits > 1) & (size > 1))
    if "train" not in data.pairs:
        return
    promised = schema.split.get("method") == "component"
    seen_entity = np.zeros(len(size), bool)
    seen_entity[inside["train"]] = True
    seen_entity &= size > 1
    seen_record = np.zeros(len(entity), bool)
    seen_record[data.pairs["train"].left] = seen_record[data.pairs["train"].right] = True
    for split in ("valid", "test"):
        if split not in data.pairs:
            continue
        pairs = data.pairs[split]
        touches = np.flatnonzero(seen_entity[entity[pairs.left]] | seen_entity[entity[pairs.right]])
        if len(touches) and len(spans):
            share = len(touches) / len(pairs)
            rows = tuple(data.pair(split, int(r)) for r in touches[:N_EXAMPLES])
            message = (
                f"{len(spans):,} entities (records joined by matches) span splits; {len(touches):,} pairs of"
                f" pairs_{split} ({percent(share)}) have a record of an entity that train also has"
                + (
                    ", though dataset.yaml says split by component: split again"
                    if promised
                    else ": scores say little of new entities (mmtab prepare split keeps them apart)"
                )
            )
            yield Alarm(
                SEVERE if promised else WARNING,
                "entity_spans_splits",
                message,
                f"pairs_{split}",
                None,
                rows,
                len(touches),
                share,
            )
        n_seen = seen_record[pairs.left].astype(int) + seen_record[pairs.right]
        seen = np.flatnonzero(n_seen > 0)
        if len(seen):
            share = len(seen) / len(pairs)
            rows = tuple(data.pair(split, int(r)) for r in seen[:N_EXAMPLES])
            message = (
                f"{len(seen):,} pairs of pairs_{split} ({percent(share)}) have a record that is also in pairs_train, in"
                f" {percent(float((n_seen == 2).mean()))} both are: usual in published benchmarks, but no test of"
                f" unseen records"
            )
            severity = grade(share, (SEEN_WARNING, WARNING), otherwise=NOTE)
            yield Alarm(severity, "record_seen_in_train", message, f"pairs_{split}", None, rows, len(seen), share)
