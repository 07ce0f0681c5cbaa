"""Text cells as sequences of tokens: tokenised once, cut and put together batch by batch."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from tokenizers import Tokenizer

from mmtab.config.types import AugmentConfig
from mmtab.data.digests import digest_of
from mmtab.data.schema import ColumnType, Schema
from mmtab.data.streams import Stream, slices
from mmtab.data.table import Table
from mmtab.features.backbones.text import LEAST_LENGTH, TextSpec
from mmtab.features.batches import TextBatch
from mmtab.utils.cache import Arrays, Store
from mmtab.utils.errors import ConfigError
from mmtab.utils.npy import Appended, Scratch
from mmtab.utils.progress import steps

CELLS_AT_ONCE = 1 << 14
SAMPLED_ROWS, COVERED = 1_000, 0.95


@dataclass(frozen=True)
class Ragged:
    """Cells of different lengths, end to end: cell i is ``values[offsets[i] : offsets[i + 1]]``."""

    values: np.ndarray  # token ids [n] uint16 or int32, or hidden states [n, f] float16
    offsets: np.ndarray  # [n_cells + 1] int64

    def at(self, places: np.ndarray) -> np.ndarray:
        """The values at some places; those beyond the end are any."""
        if not len(self.values):
            return np.zeros((*places.shape, *self.values.shape[1:]), self.values.dtype)
        return self.values[np.minimum(places, len(self.values) - 1)]


@dataclass(frozen=True)
class Sequences:
    """What stands between the special tokens of a sequence: the cells of a row (``joint``), or one cell. Each is cut to
    ``budget`` tokens; in a joint sequence the longest cells are cut first, all to the same length."""

    cells: Ragged  # row by row, ``n_columns`` each
    n_columns: int
    joint: bool
    special: tuple[int, int, int]  # first, separator, padding
    budget: int
    key: Callable[[], dict[str, Any]] = dict  # all that they were made from
    states: Ragged | None = None  # what the frozen lower layers make of each whole sequence

    @property
    def n_rows(self) -> int:
        return (len(self.cells.offsets) - 1) // self.n_columns

    def without(self, missing: np.ndarray) -> Sequences:
        """With some cells missing, ``missing`` [n_rows, n_columns] bool; and without states of frozen layers."""
        lengths = np.where(missing.ravel(), 0, np.diff(self.cells.offsets))
        values = self.cells.values[np.repeat(~missing.ravel(), np.diff(self.cells.offsets))]
        return replace(self, cells=Ragged(values, np.concatenate([[0], lengths.cumsum()])), key=dict, states=None)

    @functools.cached_property
    def lengths(self) -> np.ndarray:
        """[s] int32 tokens, without the special ones."""
        parts = [self._spans(rows)[1].sum(1).astype(np.int32) for rows in _slices(self.n_rows)]
        return np.concatenate(parts) if parts else np.zeros(0, np.int32)

    def _spans(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """[s, p] the start of each part of the rows' sequences, and its length once cut."""
        places = rows[:, None] * self.n_columns + np.arange(self.n_columns)
        start = self.cells.offsets[places]
        length = self.cells.offsets[places + 1] - start
        if self.joint:
            return start, np.minimum(length, _shared_cap(length, self.budget)[:, None])
        return start.reshape(-1, 1), np.minimum(length, self.budget).reshape(-1, 1)

    def _read(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Lengths [s], and [s, l] ids and parts (columns, or 0 where a sequence is one cell)."""
        start, cut = self._spans(rows)
        end = cut.cumsum(1)
        length = end[:, -1]
        position = np.arange(length.max(initial=0))
        part = np.minimum((position[:, None] >= end[:, None, :]).sum(2), cut.shape[1] - 1)
        places = np.take_along_axis(start - (end - cut), part, 1) + position
        return length, self.cells.at(places), part.astype(np.int16)

    def single(self, rows: np.ndarray) -> TextBatch:
        """One sequence a row, or a cell, of those that have any text."""
        c = self.n_columns
        length, ids, part = self._read(rows)
        keep = np.flatnonzero(length > 0)
        slots = keep[:, None] * c + np.arange(c) if self.joint else keep[:, None]
        text = self._frame([(length[keep], ids[keep], part[keep])], slots)
        if self.states is None:
            return text
        places = self.state_places(rows, self.states.offsets, text.ids.shape[1])
        return replace(text, states=torch.from_numpy(self.states.at(places)))

    def state_places(self, rows: np.ndarray, offsets: np.ndarray, width: int) -> np.ndarray:
        """[s, width] where the states of the tokens of ``single(rows)`` lie; an empty sequence has none."""
        c = self.n_columns
        numbers = rows if self.joint else (rows[:, None] * c + np.arange(c)).ravel()
        start, end = offsets[numbers], offsets[numbers + 1]
        return start[end > start][:, None] + np.arange(width)

    def double(
        self,
        first: np.ndarray,
        second: np.ndarray,
        augment: AugmentConfig | None = None,
        rng: np.random.Generator | None = None,
    ) -> TextBatch:
        """One sequence a pair; the parts of the second row follow those of the first, as do its table rows. States are
        those of each row by itself."""
        c, b = self.n_columns, len(first)
        sides, places = [], []
        for number, units in enumerate((first, second)):
            length, ids, part = self._read(units)
            kept = np.broadcast_to(np.arange(ids.shape[1]), ids.shape)
            uncut = length
            if augment is not None and rng is not None:
                length, kept = _vary(length, part, c, augment, rng)
                ids, part = (np.take_along_axis(x, kept, 1) for x in (ids, part))
            sides.append((length, ids, part + number * c))
            places.append((length, kept, uncut))
        slots = np.arange(b)[:, None] * c + np.arange(c)
        text = self._frame(sides, np.concatenate([slots, slots + b * c], 1))
        if self.states is None:
            return text
        states = self._double_states(text, (first, second), places)
        return replace(text, states=torch.from_numpy(states))

    def _double_states(
        self,
        text: TextBatch,
        units: tuple[np.ndarray, np.ndarray],
        kept: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]],
    ) -> np.ndarray:
        """[b, l, f] states of the tokens of pairs, of which ``kept`` says for each side how many there are [b], which
        of the row's they are [b, n], and how many the row has [b]; 0 for a row without text."""
        assert self.states is not None
        side, mask = text.side.numpy(), text.mask.numpy()
        position, places, there = np.arange(side.shape[1]), np.zeros(side.shape, np.int64), mask.copy()
        begin = np.ones((len(side), 1), np.int64)
        for number, (rows, (length, tokens, uncut)) in enumerate(zip(units, kept, strict=True)):
            start = self.states.offsets[rows][:, None]
            inner = np.clip(position - begin, 0, max(tokens.shape[1] - 1, 0))
            of_token = np.take_along_axis(tokens, inner, 1) if tokens.shape[1] else inner
            end = position >= begin + length[:, None]  # the separator
            of_row = start + 1 + np.where(end, uncut[:, None], of_token)
            of_row = np.where(position < begin, start, of_row)  # the first token of all
            here = mask & (side == number)
            places[here] = of_row[here]
            there &= ~(here & (uncut == 0)[:, None])
            begin = begin + length[:, None] + 1
        states = self.states.at(places)
        return np.where(there[..., None], states, np.zeros((), states.dtype))

    def ordered(
        self, left: np.ndarray, right: np.ndarray, rng: np.random.Generator | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Which unit of each pair comes first in its sequence, and which second: by content, with ``rng`` by chance."""
        swap = rng.random(len(left)) < 0.5 if rng is not None else self.rank[left] > self.rank[right]
        return np.where(swap, right, left), np.where(swap, left, right)

    @functools.cached_property
    def rank(self) -> np.ndarray:
        """[n] int64: units in the order of their content, equal ones on one rank. It does not depend on which others
        there are, so the row that comes first in a pair's sequence is the same from either side."""
        keys = list[bytes]()
        for rows in _slices(self.n_rows):
            for n, ids, part in zip(*self._read(rows), strict=True):
                keys.append(ids[:n].tobytes() + part[:n].tobytes())
        place = {key: i for i, key in enumerate(sorted(set(keys)))}
        return np.array([place[key] for key in keys], np.int64)

    def _frame(self, sides: list[tuple[np.ndarray, np.ndarray, np.ndarray]], slots: np.ndarray) -> TextBatch:
        """[first] side [separator] (side [separator]), padded to the longest."""
        first, separator, padding = self.special
        total = np.sum([length for length, *_ in sides], 0) + 1 + len(sides)
        shape = (len(slots), int(total.max(initial=0)))
        ids, part, side = np.full(shape, padding), np.full(shape, -1), np.zeros(shape, np.int64)
        position = np.arange(shape[1])
        ids[:, :1] = first
        start = np.ones(len(slots), np.int64)
        for number, (length, side_ids, side_part) in enumerate(sides):
            inside = (position >= start[:, None]) & (position < (start + length)[:, None])
            source = np.arange(side_ids.shape[1]) < length[:, None]
            ids[inside], part[inside] = side_ids[source], side_part[source]
            side[inside] = number
            end = position == (start + length)[:, None]
            ids[end], side[end] = separator, number
            start = start + length + 1
        has = np.zeros((len(slots), slots.shape[1]), bool)
        rows, columns = np.nonzero(part >= 0)
        has[rows, part[rows, columns]] = True
        return TextBatch(
            ids=torch.from_numpy(ids.astype(np.int64)),
            mask=torch.from_numpy(position < total[:, None]),
            side=torch.from_numpy(side),
            part=torch.from_numpy(part),
            slot=torch.from_numpy(np.where(has, slots, -1)),
        )


def _vary(
    length: np.ndarray, part: np.ndarray, c: int, augment: AugmentConfig, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Some sequences lose a span of up to a quarter of their tokens, some have their columns in another order (two of
    the augmentations of Ditto): their new lengths, and which tokens come first, second..."""
    b, width = part.shape
    position = np.arange(width)
    shuffled = rng.random((b, 1)) < augment.column_shuffle
    order = np.where(shuffled, rng.random((b, c)).argsort(1), np.arange(c))
    place = np.take_along_axis(order, np.maximum(part, 0).astype(np.int64), 1) * width + position
    cut = np.where(rng.random(b) < augment.span_deletion, (rng.random(b) * (length // 4 + 1)).astype(np.int64), 0)
    start = (rng.random(b) * (length - cut + 1)).astype(np.int64)
    lost = (position >= start[:, None]) & (position < (start + cut)[:, None])
    place = np.where(lost | (position >= length[:, None]), c * width + position, place)
    place = place.argsort(1, kind="stable")
    return length - cut, place


def text_columns(schema: Schema, also: tuple[str, ...]) -> list[str]:
    """Columns that the text encoder reads: text, and the further types that it was asked to write out."""
    writable = [ColumnType.CATEGORICAL, ColumnType.NUMERIC, ColumnType.DATETIME]
    for kind in also:
        if kind not in writable:
            raise ConfigError(
                f"text.also: {kind} cannot be written out as text; expected some of {', '.join(writable)}"
            )
    return schema.of_type(ColumnType.TEXT, *(ColumnType(kind) for kind in also))


def cross_columns(schema: Schema, also: tuple[str, ...]) -> list[str]:
    """Columns that are read in one sequence with another row's text: those that no relation ignores."""
    return [name for name in text_columns(schema, also) if name not in schema.ignored_by_some]


def tokenize(
    table: Table | Stream,
    columns: list[str],
    spec: TextSpec,
    store: Store,
    *,
    budget: int | None = None,
    joint: bool | None = None,
) -> Sequences:
    """Each distinct cell of a batch of rows once, by as many threads as there are cores; cells are stored row by row,
    each cut to the spec's ``max_length``.

    budget  tokens of a sequence beside the special ones; default: as the spec says
    joint   whether a row's cells share a sequence; default: as the spec says
    """
    budget = spec.max_length - 2 if budget is None else budget
    joint = spec.layout == "joint" if joint is None else joint
    special = _special_ids(spec)
    rust, prefixes = spec.rust, _prefixes(columns, spec)

    def key() -> dict[str, Any]:
        digests = [table.digests[name] for name in columns]
        return {"columns": digests, "tokenizer": digest_of(rust.to_str()), "prefixes": prefixes}

    dtype = np.uint16 if len(spec.tokenizer) <= 1 << 16 else np.int32

    def build(scratch: Scratch) -> Arrays:
        size = max(1, CELLS_AT_ONCE // len(columns))
        with Appended(scratch / "ids.npy", dtype) as ids, Appended(scratch / "offsets.npy", np.int64) as offsets:
            offsets.append(np.zeros(1, np.int64))
            for part in steps(slices(table, size), -(-len(table) // size), "tokens"):
                read = zip(prefixes, (part.columns[name] for name in columns), strict=True)
                cells = [_tokens(rust, *column) for column in read]
                end, flat = _row_by_row(cells, dtype)
                offsets.append(ids.n_rows + end)
                ids.append(flat)
        return {}

    arrays = store.arrays("tokens", key, build)
    cells = Ragged(arrays["ids"], arrays["offsets"])
    return Sequences(cells, len(columns), joint, special, budget, lambda: key() | {"budget": budget, "joint": joint})


def fitting_length(table: Table | Stream, columns: list[str], spec: TextSpec) -> int:
    """The tokens, special ones too, that COVERED of the sequences of some rows fit into; between LEAST_LENGTH
    and the spec's ``max_length``."""
    rust, prefixes = spec.rust, _prefixes(columns, spec)
    step, first, lengths = max(1, len(table) // SAMPLED_ROWS), 0, []
    for batch in table.batches():
        rows = pa.array(np.arange(-first % step, len(batch), step))
        first += len(batch)
        read = zip(prefixes, (batch.columns[name].take(rows) for name in columns), strict=True)
        lengths.append(np.stack([_tokens(rust, *column)[0] for column in read], 1))
    tokens = np.concatenate(lengths)
    tokens = tokens.sum(1) if spec.layout == "joint" else tokens[tokens > 0]
    needed = np.quantile(tokens, COVERED, method="higher") + 2 if len(tokens) else 0
    return int(min(max(-(-needed // 16) * 16, LEAST_LENGTH), spec.max_length))


def cross_sequences(table: Table | Stream, columns: list[str], spec: TextSpec, store: Store) -> Sequences:
    """Text of rows to be read in one sequence with another row's, which leaves each half of the room."""
    return tokenize(table, columns, spec, store, budget=(spec.max_length - 3) // 2, joint=True)


def _prefixes(columns: list[str], spec: TextSpec) -> list[str]:
    """What is written before the cells of each column."""
    return [spec.column_prefix.replace("{}", name.replace("_", " ").strip().lower()) for name in columns]


def _special_ids(spec: TextSpec) -> tuple[int, int, int]:
    """First, separator, padding."""
    tokenizer = spec.tokenizer
    first = tokenizer.cls_token_id if tokenizer.cls_token_id is not None else tokenizer.bos_token_id
    separator = tokenizer.sep_token_id if tokenizer.sep_token_id is not None else tokenizer.eos_token_id
    if first is None or separator is None:
        raise ConfigError(
            f"text.backbone={spec.name}: its tokenizer has no first or separating token; "
            "take an encoder such as BERT or RoBERTa"
        )
    return first, separator, tokenizer.pad_token_id or 0


def _row_by_row(
    cells: list[tuple[np.ndarray, np.ndarray, np.ndarray]], dtype: type[np.generic]
) -> tuple[np.ndarray, np.ndarray]:
    """Of each column what ``_tokens`` gives: to where each cell ends, and the ids of all, row by row."""
    length = np.stack([length for length, *_ in cells], 1)
    end = length.ravel().cumsum().reshape(length.shape)
    flat = np.empty(length.sum(), dtype)
    for (_, distinct, start), column_end, column_length in zip(cells, end.T, length.T, strict=True):
        place = np.arange(column_length.sum()) - np.repeat(column_length.cumsum() - column_length, column_length)
        source = np.repeat(start, column_length) + place
        flat[np.repeat(column_end - column_length, column_length) + place] = distinct[source]
    return end.ravel(), flat


def _tokens(rust: Tokenizer, prefix: str, cells: pa.Array) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each cell the number of tokens and where they begin, and the tokens of all that differ."""
    distinct = pc.cast(cells, pa.large_string()).dictionary_encode()  # numbers as they would be written down
    texts = [prefix + value for value in distinct.dictionary.to_pylist()]
    encodings = rust.encode_batch_fast(texts, add_special_tokens=False)
    length = np.fromiter((len(encoding) for encoding in encodings), np.int64, len(encodings))
    ids = np.fromiter(itertools.chain.from_iterable(encoding.ids for encoding in encodings), np.int64, length.sum())
    length, start = np.append(length, 0), np.append(length.cumsum() - length, 0)  # the last is for missing cells
    index = np.asarray(pc.fill_null(distinct.indices, -1))
    return length[index], ids, start[index]


def _slices(n: int, size: int = 1 << 14) -> list[np.ndarray]:
    """Row numbers, some at a time."""
    return [np.arange(start, min(start + size, n)) for start in range(0, n, size)]


def _shared_cap(lengths: np.ndarray, budget: int) -> np.ndarray:
    """[n, c] lengths -> [n] the cap under which each row's lengths sum to at most ``budget``."""
    n, c = lengths.shape
    ascending = np.sort(lengths, 1)
    before = np.concatenate([np.zeros((n, 1), np.int64), ascending.cumsum(1)[:, :-1]], 1)
    caps = np.maximum(budget - before, 0) // (c - np.arange(c))  # if the shorter ones stay whole, the rest share this
    binding = ascending > caps
    first = binding.argmax(1)
    return np.where(binding.any(1), caps[np.arange(n), first], budget)


def without_text(text: TextBatch, column: int, n_columns: int) -> TextBatch:
    """Sequences of two rows in which one column is not read; its cells are as if missing."""
    hidden = (text.part == column) | (text.part == column + n_columns)
    slot = text.slot.clone()
    slot[:, [column, column + n_columns]] = -1
    return replace(text, mask=text.mask & ~hidden, part=text.part.masked_fill(hidden, -1), slot=slot, states=None)
