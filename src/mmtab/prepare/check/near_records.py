"""Records that only held-out pairs name, and that are nearly one of the training pairs: told twice, or by a picture."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from mmtab.data.table import Table
from mmtab.prepare.check.alarms import N_EXAMPLES, Alarm, Print, counted, mix
from mmtab.prepare.check.duplicates import NEAR, equal_by_chance, find_first
from mmtab.prepare.check.near import NearIndex, row_tokens
from mmtab.prepare.check.pair_data import PairData
from mmtab.prepare.check.pictures import near_pictures
from mmtab.prepare.check.reader import NEAR_HELD_OUT, NEAR_TRAIN, TOKEN_ROWS, choose

TRAIN, HELD_OUT = "train", ("valid", "test")  # a record of both counts for test


def near_records(data: PairData, prints: Mapping[str, Sequence[Print]]) -> Iterator[Alarm]:
    """Of each side, which is compared with itself alone: records on two sides may well be alike, as matches are.

    ``prints``: by column, what the pictures of the sides look like."""
    of = np.full(len(data.records.table), "", "<U5")  # the split whose pairs name a record
    for split in (*HELD_OUT, TRAIN):
        if split in data.pairs:
            of[data.pairs[split].left] = of[data.pairs[split].right] = split
    start = 0
    for side in data.sides:
        rows = slice(start, start + len(side))
        yield from _near_cells(data, side, start, of[rows])
        yield from _near_looks(data, side.name, start, of[rows], prints)
        start += len(side)


def _near_cells(data: PairData, side: Table, start: int, of: np.ndarray) -> Iterator[Alarm]:
    """Records with the same cells as one of train under another id, or with nine tenths of its words and cells."""
    if equal_by_chance(data.types):
        return
    rng = np.random.default_rng(0)
    cells = {column: data.columns[column][start : start + len(side)] for column in side.columns}
    key = mix([*cells.values()])
    train = choose(rng, np.flatnonzero(of == TRAIN), NEAR_TRAIN)
    asked = {split: choose(rng, np.flatnonzero(of == split), NEAR_HELD_OUT) for split in HELD_OUT}
    index = NearIndex()

    def each(split: str, chosen: np.ndarray) -> None:
        look_up = index.ask if split == TRAIN else index.add
        for first in range(0, len(chosen), TOKEN_ROWS):
            some = chosen[first : first + TOKEN_ROWS]
            for row, tokens in zip(some.tolist(), row_tokens(side, some, data.types, cells), strict=True):
                look_up((split, row), int(key[row]), tokens)

    for split in HELD_OUT:
        each(split, asked[split])
    each(TRAIN, train)
    near = {index.refs[place]: other for place, (_, other) in index.found.items()}
    for split, held_out in asked.items():
        same = find_first(key[train], key[held_out])
        twins = {int(row): int(train[place]) for row, place in zip(held_out, same, strict=True) if place >= 0}
        twins |= {row: other for (name, row), other in near.items() if name == split and row not in twins}
        examples = [f"{data.record(start + a)} = {data.record(start + b)}" for a, b in sorted(twins.items())]
        what = f"records of {side.name} that pairs_{split} has and pairs_train has not"
        rest = "are nearly the same as one of pairs_train, or the same under another id: if two are one thing, give it"
        rest += " one id, or split again with both in one split"
        n, kind = len(held_out), "near_record_across_splits"
        yield from counted(NEAR, kind, what, rest, len(twins), n, examples[:N_EXAMPLES], table=side.name)


def _near_looks(
    data: PairData, side: str, start: int, of: np.ndarray, prints: Mapping[str, Sequence[Print]]
) -> Iterator[Alarm]:
    by_split = {
        column: [replace(one, table=str(of[one.row])) for one in looks if one.table == side and of[one.row]]
        for column, looks in prints.items()
    }
    for finding in near_pictures(by_split):
        examples = [
            " = ".join(data.record(start + row) + more for _, row, more in example) for example in finding.examples
        ]
        yield replace(finding.alarm, table=side, rows=tuple(examples))
