"""Alarms of a matching dataset. Records and pairs are held in memory, as matching itself holds them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from functools import partial
from itertools import combinations
from pathlib import Path

import numpy as np
import pyarrow.compute as pc

from mmtab.config.types import SPLITS
from mmtab.data import files
from mmtab.data.pairs import Pairs, read_pairs, read_records
from mmtab.data.schema import ColumnType, Schema
from mmtab.data.spelling import spelling
from mmtab.data.splits import components
from mmtab.data.table import find_table, read_batches
from mmtab.prepare.check import alarms
from mmtab.prepare.check.alarms import N_EXAMPLES, Alarm, Cells, Severity, attempt, counted, mix, percent
from mmtab.prepare.check.near_records import near_records
from mmtab.prepare.check.pair_data import PairData
from mmtab.prepare.check.pictures import picture_print

ERROR, SEVERE, WARNING, NOTE = Severity

NOISE = (0.05, SEVERE), (0.01, WARNING), (0.0, NOTE)
# What one column's equality rarely reaches where matching takes more than looking at a code.
LEAK_SEVERE, LEAK_WARNING = 0.99, 0.95
# Among a dozen matches some column is right by chance: from fewer than this a leak is not concluded, only looked at.
LEAK_MATCHES = 20
# Published pairs were divided at random, so records are seen in train: it is said, and loudly where it is most of them.
SEEN = (0.5, WARNING), (0.0, NOTE)
FEW_MATCHES, MANY_MATCHES, SHARE_DIFFERS = 0.02, 0.6, 0.1


def check_matching(folder: Path, schema: Schema, images: bool) -> list[Alarm]:
    """All alarms, in no order."""
    collected: list[Alarm] = []
    sides = ("records",) if files.exists(folder, "records") else ("left", "right")
    for side in sides:
        attempt(collected, partial(_read_all, folder, schema, side, len(sides) == 2, collected))
    missing = [split for split in SPLITS if not files.exists(folder, f"pairs_{split}")]
    if len(missing) == len(SPLITS) and files.exists(folder, "pairs"):
        message = "the pairs are not divided yet: run 'mmtab prepare split', then check again"
        return [*collected, Alarm(ERROR, "not_split", message, "pairs")]
    for split in missing:
        message = (
            f"the table pairs_{split} is missing: mmtab learns from labelled pairs (left_id, right_id, label). Give"
        )
        message += " such a table to 'mmtab prepare all' as pairs.csv beside the records; it divides them"
        collected.append(Alarm(ERROR, "missing_table", message, f"pairs_{split}"))
    # Cells at fault are alarms already; with them as missing the rest can still be looked at.
    again: list[Alarm] = []
    records = attempt(again, lambda: read_records(folder, schema, "missing"))
    if records is None:
        return collected or again
    pairs: dict[str, Pairs] = {}
    for split in SPLITS:
        if split not in missing and (read := attempt(collected, partial(read_pairs, folder, schema, split, records))):
            pairs[split] = read
    cells = Cells(images, picture_print)
    data = PairData(records, pairs, schema, cells)
    collected += [*cells.alarms(), *alarms.usage_alarms(data.types, data.usage)]
    for column, kind in data.types.items():
        if kind is ColumnType.CATEGORICAL:
            for table in data.sides:
                collected += alarms.id_like(column, table.name, table.columns[column].to_pylist())
    for look in (_repeated, _noise, _record_duplicates, _leaks, _ids, _balance):
        collected += look(data)
    return [*collected, *_entities(data, schema), *near_records(data, cells.prints)]


def _read_all(folder: Path, schema: Schema, name: str, partial: bool, collected: list[Alarm]) -> None:
    path = find_table(folder, schema, name)
    deque(read_batches(path, schema, folder=folder, partial=partial, on_error=alarms.noting(collected)), maxlen=0)


def _earlier(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of each row the first with the same key, and the rows of which that is another one."""
    _, first, place = np.unique(keys, return_index=True, return_inverse=True)
    return first[place], np.flatnonzero(first[place] != np.arange(len(keys)))


def _repeated(data: PairData) -> Iterator[Alarm]:
    """Pairs that are there twice, in two splits or in one, and pairs of a record with itself."""
    for split, pairs in data.pairs.items():
        table, n = f"pairs_{split}", len(pairs)
        itself = np.flatnonzero(pairs.left == pairs.right)
        names, rest = data.names(split, itself), "are a record with itself: leave them out"
        yield from counted(WARNING, "pair_with_itself", f"pairs of {table}", rest, len(itself), n, names, table=table)
        first, again = _earlier(data.keys(split))
        rest = "are there twice, as such or swapped: keep one"
        twins = map(" = ".join, zip(data.names(split, again), data.names(split, first[again]), strict=True))
        yield from counted(WARNING, "pair_repeated", f"pairs of {table}", rest, len(again), n, twins, table=table)
    for a, b in combinations(data.pairs, 2):
        where = {key: row for row, key in reversed(list(enumerate(data.keys(a).tolist())))}
        rows = [(row, where[key]) for row, key in enumerate(data.keys(b).tolist()) if key in where]
        examples = (f"{data.pair(b, row)} = {data.pair(a, other)}" for row, other in rows[:N_EXAMPLES])
        table, n = f"pairs_{b}", len(data.pairs[b])
        rest = f"are also in pairs_{a}, as such or swapped: leave them out of one"
        yield from counted(SEVERE, "pair_in_two_splits", f"pairs of {table}", rest, len(rows), n, examples, table=table)


def _noise(data: PairData) -> Iterator[Alarm]:
    """Labels that contradict one another, or what the records say."""
    pairs = data.labelled
    left, right, matches = pairs.left, pairs.right, pairs.labels == 1
    n_others = max(int((~matches).sum()), 1)

    def name(row: int) -> str:
        return data.pair(*pairs.places[row])

    ways: dict[int, dict[int, int]] = {}
    for row, (key, label) in enumerate(zip(pairs.keys.tolist(), pairs.labels.tolist(), strict=True)):
        ways.setdefault(key, {}).setdefault(label, row)
    both = [rows for rows in ways.values() if len(rows) > 1]
    names = (f"{name(rows[1])} = {name(rows[0])}" for rows in both[:N_EXAMPLES])
    grades, rest = ((NOISE[1][0], SEVERE), (0.0, WARNING)), "are labelled both 1 and 0: look which is meant"
    yield from counted(grades, "pair_label_contradiction", "pairs", rest, len(both), len(left), names, unit=" of all")
    entity = components(len(data.records.table), left[matches], right[matches])
    linked = ~matches & (left != right) & (entity[left] == entity[right])
    odd = np.flatnonzero(linked & ~np.isin(pairs.keys, pairs.keys[matches])).tolist()
    near: dict[int, set[int]] = {}
    for a, b in zip(left[matches].tolist(), right[matches].tolist(), strict=True) if odd else ():
        near.setdefault(a, set()).add(b)
        near.setdefault(b, set()).add(a)
    chains = {row: map(data.record, _chain(near, int(left[row]), int(right[row]))) for row in odd[:N_EXAMPLES]}
    names = (f"{name(row)}, but {' = '.join(chain)}" for row, chain in chains.items())
    rest = "join two records that a chain of matches says are the same: a label of the chain or of the pair is wrong"
    yield from counted(NOISE, "transitivity", "non-matches", rest, len(odd), n_others, names, unit=" of them")
    content, filled = data.content()
    alike = (content[left] == content[right]) & filled[left] & filled[right] & (left != right)
    same = np.flatnonzero(~matches & alike).tolist()
    rest = f"have the same content in all shared columns ({', '.join(data.shared)}): the label is wrong, or a column"
    rest += " that tells them apart is lacking"
    names = (name(row) for row in same[:N_EXAMPLES])
    yield from counted(NOISE, "identical_non_match", "non-matches", rest, len(same), n_others, names, unit=" of them")


def _chain(neighbours: dict[int, set[int]], start: int, end: int) -> list[int]:
    """The shortest chain of matches from one record to another."""
    before = {start: start}
    queue = deque([start])
    while queue and end not in before:
        row = queue.popleft()
        for other in sorted(neighbours.get(row, ())):
            if other not in before:
                before[other] = row
                queue.append(other)
    chain = [end]
    while chain[-1] != start:
        chain.append(before[chain[-1]])
    return chain[::-1]


def _record_duplicates(data: PairData) -> Iterator[Alarm]:
    content = mix([data.columns[column] for column in data.types])
    start, grades = 0, ((NOISE[1][0], WARNING), (0.0, NOTE))
    for side in data.sides:
        first, again = _earlier(content[start : start + len(side)])
        pairs = [(start + int(row), start + int(first[row])) for row in again[:N_EXAMPLES]]
        names = (f"{data.record(row)} = {data.record(other)}" for row, other in pairs)
        things, rest = f"records of {side.name}", "repeat the content of an earlier one: only their ids tell them apart"
        yield from counted(grades, "duplicate_record", things, rest, len(again), len(side), names, table=side.name)
        start += len(side)
    ends = [rows for pairs in data.pairs.values() for rows in (pairs.left, pairs.right)]
    if ends:
        unused = np.setdiff1d(np.arange(len(content)), np.concatenate(ends))
        examples, rest = map(data.record, unused[:N_EXAMPLES].tolist()), "are in no pair: they cost time only"
        yield from counted(NOTE, "unused_record", "records", rest, len(unused), len(content), examples)


def _f1(y_pred: np.ndarray, y_true: np.ndarray) -> float:
    return 2 * int((y_pred & y_true).sum()) / max(int(y_pred.sum() + y_true.sum()), 1)


def _leaks(data: PairData) -> Iterator[Alarm]:
    """Columns whose equality, or nearness of numbers, alone tells matches: learnt on train, scored on valid."""
    if not {"train", "valid"} <= set(data.pairs) or any(data.pairs[s].labels is None for s in ("train", "valid")):
        return
    train, valid = data.pairs["train"], data.pairs["valid"]
    y, y_true = data.labels("train") == 1, data.labels("valid") == 1
    for column in data.shared:
        values, present = data.columns[column], data.present[column]
        equal = (values[valid.left] == values[valid.right]) & present[valid.left] & present[valid.right]
        rules = {"being equal": equal}
        if data.types[column] in (ColumnType.NUMERIC, ColumnType.DATETIME):
            numbers = data.records.table.columns[column].to_numpy(zero_copy_only=False).astype(float)
            limit = _threshold(np.abs(numbers[train.left] - numbers[train.right]), y)
            near = np.abs(numbers[valid.left] - numbers[valid.right]) <= limit
            rules[f"a difference of at most {limit:.6g}"] = near
        rule = max(rules, key=lambda rule: _f1(rules[rule], y_true))
        score, hits = _f1(rules[rule], y_true), np.flatnonzero(rules[rule] & y_true)
        if score >= LEAK_WARNING:
            message = (
                f"{rule} in column {column} alone gives F1 {score:.3f} on pairs_valid ({int(y_true.sum()):,} matches)."
                " Look at it: if it holds the key by which the pairs were made, take it out; if not, the task is that"
                " easy"
            )
            severity = SEVERE if score >= LEAK_SEVERE and y_true.sum() >= LEAK_MATCHES else WARNING
            rows = data.names("valid", hits)
            yield Alarm(severity, "label_given_away", message, "pairs_valid", column, rows, len(hits), score)


def _ids(data: PairData) -> Iterator[Alarm]:
    """Whether equal ids on both sides say that a pair matches. No model of mmtab reads ids, but others may."""
    for split, pairs in data.pairs.items() if data.records.n_left is not None else ():
        y_true = data.labels(split) == 1
        equal = np.asarray(pc.equal(spelling(pairs.left_ids), spelling(pairs.right_ids)))
        score = _f1(equal, y_true)
        if y_true.any() and score >= LEAK_WARNING:
            message = (
                f"the ids alone tell the matches of pairs_{split} (those of equal ids reach F1 {score:.3f}): give the"
                " sides ids of their own before you hand the data out"
            )
            rows = data.names(split, np.flatnonzero(equal))
            yield Alarm(WARNING, "ids_tell_the_label", message, f"pairs_{split}", None, rows, int(equal.sum()), score)


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
    for split, pairs in data.pairs.items():
        table = f"pairs_{split}"
        if pairs.labels is None:
            if split != "test":
                message = f"{table} has no labels: fill the column label with 0 and 1"
                yield Alarm(ERROR, "missing_labels", message, table)
            continue
        shares[split] = share = float((data.labels(split) == 1).mean())
        if share in (0.0, 1.0):
            message = f"all pairs of {table} {'match' if share else 'do not match'}: mmtab needs both kinds"
            rows = data.names(split, np.arange(len(pairs)))
            severity = WARNING if split == "test" else ERROR
            yield Alarm(severity, "one_class", message, table, None, rows, len(pairs), 1.0)
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
        message = f"matches are {text}: accuracy would tell little, F1 or pr_auc more"
        yield Alarm(NOTE, "imbalance", message, None, None, (), n, odd[0])


def _entities(data: PairData, schema: Schema) -> Iterator[Alarm]:
    """Things (records joined by matches) and records of test that train has seen."""
    if "train" not in data.pairs:
        return
    matches = data.labelled.labels == 1
    entity = components(len(data.records.table), data.labelled.left[matches], data.labelled.right[matches])
    many = np.bincount(entity) > 1
    inside = {split: np.unique(entity[np.concatenate([p.left, p.right])]) for split, p in data.pairs.items()}
    n_splits = np.bincount(np.concatenate([*inside.values()]), minlength=len(many))
    n_spans = int(((n_splits > 1) & many).sum())
    promised = schema.split.get("method") == "component"
    advice = ": scores say little of new entities (mmtab prepare split keeps them apart)"
    if promised:
        advice = ", though dataset.yaml says split by component: split again"
    seen_entity = many & np.isin(np.arange(len(many)), inside["train"])
    train = data.pairs["train"]
    for split in ("valid", "test"):
        if split not in data.pairs:
            continue
        pairs, table = data.pairs[split], f"pairs_{split}"
        touches = np.flatnonzero(seen_entity[entity[pairs.left]] | seen_entity[entity[pairs.right]])
        if len(touches) and n_spans:
            share = len(touches) / len(pairs)
            message = (
                f"{n_spans:,} entities (records joined by matches) span splits; {len(touches):,} pairs of {table}"
                f" ({percent(share)}) have a record of an entity that train also has{advice}"
            )
            rows = data.names(split, touches)
            severity = SEVERE if promised else WARNING
            yield Alarm(severity, "entity_spans_splits", message, table, None, rows, len(touches), share)
        n_seen = np.isin([pairs.left, pairs.right], [train.left, train.right]).sum(0)
        rest = (
            f"have a record that is also in pairs_train, in {percent(float((n_seen == 2).mean()))} both are: usual in"
            " published benchmarks, but no test of unseen records"
        )
        seen = np.flatnonzero(n_seen)
        names, n = data.names(split, seen), len(pairs)
        yield from counted(SEEN, "record_seen_in_train", f"pairs of {table}", rest, len(seen), n, names, table=table)
