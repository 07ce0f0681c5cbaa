"""From tables to batches. What can be computed once is (tokens, pictures, outputs of frozen backbones, comparison
features); a batch is then a slice of arrays."""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from tokenizers import Tokenizer
from torch.utils.data import DataLoader, Dataset, Sampler

from mmtab.config.types import AugmentConfig
from mmtab.data.digests import digest_of
from mmtab.data.pictures import Pictures, Progress, load_pictures, no_progress
from mmtab.data.schema import ColumnType, Schema
from mmtab.data.streams import Stream
from mmtab.data.table import BadCells, Table
from mmtab.features.batches import ImageBatch, KWayBatch, PairBatch, Rows, TensorTable, TextBatch
from mmtab.features.preprocess import Preprocessor
from mmtab.model.encoders.image import ImageEncoder
from mmtab.model.encoders.text import TextEncoder
from mmtab.utils import distributed as ranks
from mmtab.utils.cache import Appended, Arrays, Store
from mmtab.utils.errors import ConfigError

CELLS_AT_ONCE = 1 << 14

# --- text ------------------------------------------------------------------------------------------------------------


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
    """What goes between the special tokens of a sequence: the cells of a row (``joint``), or one cell. Each is cut to
    ``budget`` tokens; in a joint sequence the longest cells give way first, all to the same length."""

    cells: Ragged  # row by row, ``n_columns`` each
    n_columns: int
    joint: bool
    special: tuple[int, int, int]  # first, separator, padding
    budget: int
    key: dict[str, Any] = field(default_factory=dict)  # all that they were made from
    states: Ragged | None = None  # what the frozen lower layers make of each whole sequence

    @property
    def n_rows(self) -> int:
        return (len(self.cells.offsets) - 1) // self.n_columns

    def without(self, gone: np.ndarray) -> Sequences:
        """With some cells missing, ``gone`` [n_rows, n_columns] bool; what frozen layers made of them is not kept."""
        lengths = np.where(gone.ravel(), 0, np.diff(self.cells.offsets))
        values = self.cells.values[np.repeat(~gone.ravel(), np.diff(self.cells.offsets))]
        return replace(self, cells=Ragged(values, np.concatenate([[0], lengths.cumsum()])), key={}, states=None)

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
        start, kept = self._spans(rows)
        end = kept.cumsum(1)
        length = end[:, -1]
        position = np.arange(length.max(initial=0))
        part = np.minimum((position[:, None] >= end[:, None, :]).sum(2), kept.shape[1] - 1)
        places = np.take_along_axis(start - (end - kept), part, 1) + position
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
        """One sequence a pair; the parts of the second row follow those of the first, as do its table rows."""
        c, b = self.n_columns, len(first)
        sides = []
        for units in (first, second):
            length, ids, part = self._read(units)
            if augment is not None and rng is not None:
                length, ids, part = _vary(length, ids, part, c, augment, rng)
            sides.append((length, ids, part))
        (n_first, ids_first, part_first), (n_second, ids_second, part_second) = sides
        slots = np.arange(b)[:, None] * c + np.arange(c)
        return self._frame(
            [(n_first, ids_first, part_first), (n_second, ids_second, part_second + c)],
            np.concatenate([slots, slots + b * c], 1),
        )

    def ordered(
        self, left: np.ndarray, right: np.ndarray, rng: np.random.Generator | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Which unit of each pair comes first in its sequence, and which second: by content, or with ``rng`` by chance."""
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
    length: np.ndarray, ids: np.ndarray, part: np.ndarray, c: int, augment: AugmentConfig, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Some sequences lose a span of up to a quarter of their tokens, some have their columns in another order (two of the
    augmentations of Ditto)."""
    b, width = ids.shape
    position = np.arange(width)
    shuffled = rng.random((b, 1)) < augment.column_shuffle
    order = np.where(shuffled, rng.random((b, c)).argsort(1), np.arange(c))
    place = np.take_along_axis(order, np.maximum(part, 0).astype(np.int64), 1) * width + position
    cut = np.where(rng.random(b) < augment.span_deletion, (rng.random(b) * (length // 4 + 1)).astype(np.int64), 0)
    start = (rng.random(b) * (length - cut + 1)).astype(np.int64)
    gone = (position >= start[:, None]) & (position < (start + cut)[:, None])
    place = np.where(gone | (position >= length[:, None]), c * width + position, place)
    place = place.argsort(1, kind="stable")
    return length - cut, np.take_along_axis(ids, place, 1), np.take_along_axis(part, place, 1)


def text_columns(schema: Schema, also: tuple[str, ...]) -> list[str]:
    """Columns that the text encoder reads: text, and the further types that it was asked to write out."""
    writable = [ColumnType.CATEGORICAL, ColumnType.NUMERIC, ColumnType.DATETIME]
    for kind in also:
        if kind not in writable:
            raise ConfigError(
                f"text.also: {kind} cannot be written out as text; expected some of {', '.join(writable)}"
            )
    return schema.of_type(ColumnType.TEXT, *(ColumnType(kind) for kind in also))


def tokenize(
    table: Table | Stream,
    columns: list[str],
    encoder: TextEncoder,
    store: Store,
    *,
    budget: int,
    joint: bool,
    progress: Progress = no_progress,
) -> Sequences:
    """Each distinct cell of a batch of rows once, by as many threads as there are cores; cells are kept row by row, each
    cut to the encoder's ``max_length``."""
    tokenizer = encoder.tokenizer
    first = tokenizer.cls_token_id if tokenizer.cls_token_id is not None else tokenizer.bos_token_id
    separator = tokenizer.sep_token_id if tokenizer.sep_token_id is not None else tokenizer.eos_token_id
    if first is None or separator is None:
        raise ConfigError(
            f"text.backbone={encoder.name}: its tokenizer has no first or separating token; take an encoder such as BERT or RoBERTa"
        )
    rust = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    rust.no_padding()
    rust.enable_truncation(encoder.max_length, direction=tokenizer.truncation_side)
    prefixes = [encoder.column_prefix.replace("{}", name.replace("_", " ").strip().lower()) for name in columns]
    key = {
        "columns": [table.digests[name] for name in columns],
        "tokenizer": digest_of(rust.to_str()),
        "prefixes": prefixes,
    }
    dtype = np.uint16 if len(tokenizer) <= 1 << 16 else np.int32

    def build(scratch: Path) -> Arrays:
        size = max(1, CELLS_AT_ONCE // len(columns))
        with Appended(scratch / "ids.npy", dtype) as ids, Appended(scratch / "offsets.npy", np.int64) as offsets:
            offsets.append(np.zeros(1, np.int64))
            batches = (part for batch in table.batches() for part in _cut(batch, size))
            for batch in progress(batches, -(-len(table) // size), "tokens"):
                cells = [_tokens(rust, prefix, batch[name]) for prefix, name in zip(prefixes, columns, strict=True)]
                length = np.stack([length for length, *_ in cells], 1)
                end = length.ravel().cumsum().reshape(length.shape)
                flat = np.empty(length.sum(), dtype)
                for (_, distinct, start), column_end, column_length in zip(cells, end.T, length.T, strict=True):
                    place = np.arange(column_length.sum()) - np.repeat(
                        column_length.cumsum() - column_length, column_length
                    )
                    flat[np.repeat(column_end - column_length, column_length) + place] = distinct[
                        np.repeat(start, column_length) + place
                    ]
                offsets.append(ids.n_rows + end.ravel())
                ids.append(flat)
        return {}

    arrays = store.arrays("tokens", key, build)
    special = (first, separator, tokenizer.pad_token_id or 0)
    made_from = key | {"budget": budget, "joint": joint}
    return Sequences(Ragged(arrays["ids"], arrays["offsets"]), len(columns), joint, special, budget, made_from)


def _cut(batch: Table, n: int) -> Iterator[dict[str, pa.Array]]:
    for start in range(0, len(batch), n):
        yield {name: values.slice(start, n) for name, values in batch.columns.items()}


def _tokens(rust: Tokenizer, prefix: str, cells: pa.Array) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each cell the number of tokens and where they begin, and the tokens of all that differ."""
    distinct = _as_text(cells).dictionary_encode()
    texts = [prefix + value for value in distinct.dictionary.to_pylist()]
    found = rust.encode_batch_fast(texts, add_special_tokens=False)
    length = np.fromiter((len(encoding) for encoding in found), np.int64, len(found))
    ids = np.fromiter(itertools.chain.from_iterable(encoding.ids for encoding in found), np.int64, length.sum())
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


def _as_text(values: pa.Array) -> pa.Array:
    """Numbers as they would be written down; an all-missing column is text too."""
    return pc.cast(values, pa.large_string())


# --- tables ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class EncodedTable:
    """A table as arrays, ready to be sliced. ``features`` stand in for what a frozen backbone would compute."""

    n_rows: int
    numeric: np.ndarray  # [n, c] float32
    categorical: np.ndarray  # [n, c] int32
    text: Sequences | None = None
    text_features: np.ndarray | None = None  # [n, c, f] float16
    text_present: np.ndarray | None = None  # [n, c] bool
    image_index: np.ndarray | None = None  # [n, c, j] int32
    pixels: np.ndarray | None = None  # [m, 3, h, w] uint8
    image_features: np.ndarray | None = None  # [m, f] float16
    cross: Sequences | None = None  # text to be read in one sequence with another row's
    columns: dict[str, list[str]] = field(default_factory=dict)  # see encoded_columns; "cross": those of ``cross``
    gone: dict[str, np.ndarray] = field(default_factory=dict)  # by column, [n] bool: cells to leave out

    def without(self, gone: dict[str, np.ndarray]) -> EncodedTable:
        """As if cells were missing; ``gone``: by column, [n] bool. Exactly what encoding the table without them gives."""
        of = {kind: _stacked(gone, names, self.n_rows) for kind, names in self.columns.items()}
        text, cross, features, present = self.text, self.cross, self.text_features, self.text_present
        if text is not None and of["text"].any():
            if text.joint and (of["text"].any(1) & ~of["text"].all(1)).any():  # cells have attended to those that go
                features = present = None
            text = text.without(of["text"])
        if cross is not None and of["cross"].any():
            cross = cross.without(of["cross"])
        return replace(self, text=text, cross=cross, text_features=features, text_present=present, gone=gone)

    def rows(self, rows: np.ndarray) -> TensorTable:
        """Some rows, by number."""
        text = None
        if self.text_features is not None and self.text_present is not None:
            none = torch.zeros(0, 0, dtype=torch.long)
            features, present = torch.from_numpy(self.text_features[rows]), torch.from_numpy(self.text_present[rows])
            text = TextBatch(none, none.bool(), none, none, none, features, present)
        elif self.text is not None:
            text = self.text.single(rows)
        table = TensorTable(
            n_rows=len(rows),
            numeric=torch.from_numpy(self.numeric[rows]) if self.numeric.shape[1] else None,
            categorical=torch.from_numpy(self.categorical[rows].astype(np.int64))
            if self.categorical.shape[1]
            else None,
            text=text,
            image=self._images(rows),
        )
        return without_cells(table, self.columns, {n: g[rows] for n, g in self.gone.items()}) if self.gone else table

    @functools.cached_property
    def pictures(self) -> dict[str, np.ndarray]:
        """By image column, [n, f] float16: the mean features of a cell's pictures, NaN where it has none; empty where the
        backbone is not frozen."""
        if self.image_index is None or self.image_features is None:
            return {}
        found = {}
        for c, name in enumerate(self.columns["image"]):
            index = self.image_index[:, c]
            out = np.full((self.n_rows, self.image_features.shape[1]), np.nan, np.float16)
            for start in range(0, self.n_rows if len(self.image_features) else 0, 1024):
                part = index[start : start + 1024]
                count = (part >= 0).sum(1)[:, None]
                total = (self.image_features[np.maximum(part, 0)].astype(np.float32) * (part >= 0)[..., None]).sum(1)
                out[start : start + 1024] = np.where(count > 0, total / np.maximum(count, 1), np.nan)
            found[name] = out
        return found

    def _images(self, rows: np.ndarray) -> ImageBatch | None:
        if self.image_index is None:
            return None
        index = self.image_index[rows]
        distinct, places = np.unique(index, return_inverse=True)
        places = places.reshape(index.shape)
        if len(distinct) and distinct[0] < 0:  # -1, no picture, sorts first
            distinct, places = distinct[1:], places - 1
        pixels = features = None
        if self.image_features is not None:
            features = torch.from_numpy(self.image_features[distinct])
        elif self.pixels is not None:
            pixels = torch.from_numpy(self.pixels[distinct])
        return ImageBatch(torch.from_numpy(places.astype(np.int64)), pixels, features)

    @functools.cached_property
    def text_lengths(self) -> np.ndarray:
        """[n] tokens a row that the text transformer will read, for batches of similar length."""
        lengths = np.zeros(self.n_rows, np.int32) if self.cross is None else self.cross.lengths
        if self.text is not None and self.text_features is None:
            own = self.text.lengths
            lengths = lengths + (own if self.text.joint else own.reshape(self.n_rows, -1).max(1, initial=0))
        return lengths


def encoded_columns(schema: Schema, preprocessor: Preprocessor, also: tuple[str, ...] = ()) -> dict[str, list[str]]:
    """By kind of encoder, the table's column that each of its columns comes from (a moment gives several numbers)."""
    return {
        "text": text_columns(schema, also),
        "image": schema.of_type(ColumnType.IMAGE),
        "numeric": [name.split(":")[0] if name not in schema.of_type(ColumnType.NUMERIC) else name for name in preprocessor.scalers_],
        "categorical": list(preprocessor.coders_),
    }  # fmt: skip


def without_cells(table: TensorTable, columns: dict[str, list[str]], gone: dict[str, np.ndarray]) -> TensorTable:
    """The rows with some cells missing; ``gone``: by column, [n_rows] bool. Text is left out only where it comes as
    features: sequences lose spans instead."""

    def mask(kind: str) -> torch.Tensor:
        return torch.from_numpy(_stacked(gone, columns[kind], table.n_rows))

    text, image = table.text, table.image
    if text is not None and text.present is not None:
        text = replace(text, present=text.present & ~mask("text"))
    if image is not None:
        image = replace(image, index=image.index.masked_fill(mask("image")[..., None], -1))
    return replace(
        table,
        numeric=None if table.numeric is None else table.numeric.masked_fill(mask("numeric"), torch.nan),
        categorical=None if table.categorical is None else table.categorical.masked_fill(mask("categorical"), 0),
        text=text,
        image=image,
    )


def _stacked(gone: dict[str, np.ndarray], names: Sequence[str] | np.ndarray, n: int) -> np.ndarray:
    """[n, len(names)] bool; columns that nobody speaks of lose nothing."""
    return np.stack([gone.get(name, np.zeros(n, bool)) for name in names], 1) if len(names) else np.zeros((n, 0), bool)


def encode_table(
    table: Table | Stream,
    schema: Schema,
    preprocessor: Preprocessor,
    text: TextEncoder | None,
    image: ImageEncoder | None,
    store: Store,
    *,
    cross: TextEncoder | None = None,
    cross_columns: list[str] | None = None,
    bad_cells: BadCells = "error",
    store_frozen: bool = True,
    compare_pictures: bool = False,
    autocast: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext,
    device: torch.device | str = "cpu",
    progress: Progress = no_progress,
) -> EncodedTable:
    """Run everything that is done once, what is frozen too if ``store_frozen`` (pictures also if ``compare_pictures``:
    the comparison of pairs reads their features). ``cross`` reads ``cross_columns`` of two rows at once. All that grows
    with the table lies in the store and is mapped into memory."""
    columns = encoded_columns(schema, preprocessor, text.also if text is not None else ())
    once = _Once(store, autocast, device, progress)
    numeric, categorical = _numbers(table, schema, preprocessor, store)
    encoded = EncodedTable(len(numeric), numeric, categorical, columns=columns)
    if image is not None:
        pictures = load_pictures(table, columns["image"], image.spec, store, bad_cells, progress)
        encoded = replace(encoded, image_index=pictures.index, pixels=pictures.pixels)
        if image.frozen and (store_frozen or compare_pictures):
            encoded = replace(encoded, image_features=once.images(image, pictures))
    if text is not None:
        joint = text.layout == "joint"
        found = tokenize(
            table, columns["text"], text, store, budget=text.max_length - 2, joint=joint, progress=progress
        )
        if text.frozen and store_frozen:
            features, present = once.texts(text, found)
            encoded = replace(encoded, text_features=features, text_present=present)
        elif text.n_frozen_layers and store_frozen:
            found = replace(found, states=once.lower_layers(text, found))
        encoded = replace(encoded, text=found)
    if cross is not None:
        found = cross_sequences(table, cross_columns or [], cross, store)
        encoded = replace(encoded, cross=found, columns=columns | {"cross": list(cross_columns or [])})
    return encoded


def cross_sequences(table: Table | Stream, columns: list[str], encoder: TextEncoder, store: Store) -> Sequences:
    """Text of rows to be read in one sequence with another row's, which leaves each half of the room."""
    return tokenize(table, columns, encoder, store, budget=(encoder.max_length - 3) // 2, joint=True)


def _numbers(
    table: Table | Stream, schema: Schema, preprocessor: Preprocessor, store: Store
) -> tuple[np.ndarray, np.ndarray]:
    fitted = {name: value for name, value in preprocessor.to_dict().items() if name != "labels_"}
    kinds = (ColumnType.NUMERIC, ColumnType.DATETIME, ColumnType.CATEGORICAL)
    key = {
        "n_rows": len(table),
        "columns": [table.digests[name] for name in schema.of_type(*kinds)],
        "fitted": digest_of(json.dumps(fitted, sort_keys=True)),
    }

    def build(scratch: Path) -> Arrays:
        n_numeric, n_categorical = len(preprocessor.scalers_), len(preprocessor.coders_)
        with (
            Appended(scratch / "numeric.npy", np.float32, (n_numeric,)) as numeric,
            Appended(scratch / "categorical.npy", np.int32, (n_categorical,)) as categorical,
        ):
            for batch in table.batches():
                numeric.append(preprocessor.numeric(batch, schema))
                categorical.append(preprocessor.categorical(batch).astype(np.int32))
        return {}

    arrays = store.arrays("numbers", key, build)
    return arrays["numeric"], arrays["categorical"]


@dataclass(frozen=True)
class _Once:
    """What frozen parts make of a table, computed once and kept in half precision."""

    store: Store
    autocast: Callable[[], contextlib.AbstractContextManager[Any]]
    device: torch.device | str
    progress: Progress

    def images(self, image: ImageEncoder, pictures: Pictures) -> np.ndarray:
        """[m, f] float16."""
        backbone, pixels = image.backbone.to(self.device).eval(), pictures.pixels
        key = {"pixels": pictures.key, "weights": frozen_digest(backbone), "grid": backbone.grid,
               "precision": self._precision}  # fmt: skip

        def build(scratch: Path) -> Arrays:
            out = _memory_map(scratch / "features.npy", np.float16, (len(pixels), sum(backbone.groups)))
            with self._computing():
                for rows in self._steps(np.arange(len(pixels)), "image features"):
                    out[rows] = _half(backbone(torch.from_numpy(pixels[rows]).to(self.device)))
            return {"features": out}

        return self.store.arrays("image_features", key, build)["features"]

    def texts(self, text: TextEncoder, found: Sequences) -> tuple[np.ndarray, np.ndarray]:
        """[n, c, f] float16 vectors of cells, and [n, c] bool which there are."""

        def build(scratch: Path) -> Arrays:
            text.to(self.device).eval()
            n, c = found.n_rows, text.n_columns
            out = _memory_map(scratch / "features.npy", np.float16, (n, c, text.d_hidden))
            there = np.zeros((n, c), bool)
            longest = found.lengths.reshape(n, -1).max(1, initial=0)
            with self._computing():
                for rows in self._steps(np.argsort(-longest, kind="stable"), "text features"):
                    x, present = text.cells(found.single(rows).to(self.device), len(rows))
                    out[rows], there[rows] = _half(x), present.cpu().numpy()
            return {"features": out, "present": there}

        arrays = self.store.arrays("text_features", self._text_key(text, found), build)
        return arrays["features"], arrays["present"]

    def lower_layers(self, text: TextEncoder, found: Sequences) -> Ragged | None:
        """The hidden states that enter the first layer that learns, for each sequence with its special tokens; None where
        they would not fit on disk."""
        lengths = np.where(found.lengths > 0, found.lengths.astype(np.int64) + 2, 0)
        n_bytes = int(lengths.sum()) * text.d_hidden * 2
        if not self.store.has_room(n_bytes):
            warnings.warn(
                f"text.n_tuned_layers={text.n_tuned_layers}: what the frozen layers make of this text would take "
                f"{n_bytes / 1e9:.1f} GB of the cache, more than there is (cache_gb, or the disk): they run in every step",
                stacklevel=2,
            )
            return None
        key = self._text_key(text, found) | {"n_frozen_layers": text.n_frozen_layers}

        def build(scratch: Path) -> Arrays:
            text.to(self.device).eval()
            offsets = np.concatenate([[0], lengths.cumsum()])
            out = _memory_map(scratch / "states.npy", np.float16, (int(offsets[-1]), text.d_hidden))
            longest = found.lengths.reshape(found.n_rows, -1).max(1, initial=0)
            with self._computing():
                for rows in self._steps(np.argsort(-longest, kind="stable"), "frozen text layers"):
                    batch = found.single(rows)
                    if len(batch.ids):
                        mask = batch.mask.numpy()
                        places = found.state_places(rows, offsets, mask.shape[1])
                        out[places[mask]] = _half(text.lower(batch.to(self.device)))[mask]
            return {"states": out, "offsets": offsets}

        arrays = self.store.arrays("text_states", key, build)
        return Ragged(arrays["states"], arrays["offsets"])

    def _text_key(self, text: TextEncoder, found: Sequences) -> dict[str, Any]:
        return {"tokens": found.key, "weights": frozen_digest(text.backbone), "precision": self._precision}

    def _steps(self, rows: np.ndarray, title: str, size: int = 64) -> Iterable[np.ndarray]:
        return self.progress((rows[i : i + size] for i in range(0, len(rows), size)), -(-len(rows) // size), title)

    @contextlib.contextmanager
    def _computing(self) -> Iterator[None]:
        with torch.inference_mode(), self.autocast():
            yield

    @property
    def _precision(self) -> str:
        with self.autocast():
            return (
                str(torch.get_autocast_dtype("cpu"))
                if torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda")
                else "float32"
            )


def _half(x: torch.Tensor) -> np.ndarray:
    return x.float().clamp(-65504, 65504).half().cpu().numpy()


def _memory_map(path: Path, dtype: Any, shape: tuple[int, ...]) -> np.ndarray:
    """To be filled in any order; what holds nothing cannot be mapped."""
    return np.lib.format.open_memmap(path, "w+", dtype, shape) if 0 not in shape else np.zeros(shape, dtype)


def without_text(text: TextBatch, column: int, n_columns: int) -> TextBatch:
    """Sequences of two rows in which nobody reads one column; its cells are as if missing."""
    gone = (text.part == column) | (text.part == column + n_columns)
    slot = text.slot.clone()
    slot[:, [column, column + n_columns]] = -1
    return replace(text, mask=text.mask & ~gone, part=text.part.masked_fill(gone, -1), slot=slot)


def frozen_digest(module: torch.nn.Module) -> str:
    """A digest of what does not learn in a network: its output does not hang on the rest."""
    frozen = [p for p in module.parameters() if not p.requires_grad] + list(module.buffers())
    return digest_of("".join(digest_of(w.detach().cpu().float().numpy()) for w in frozen))


# --- batches ---------------------------------------------------------------------------------------------------------


class KWayBatches(Dataset[KWayBatch]):
    """Batches of rows, all of the table's or those numbered ``chosen``. ``labels`` [n_rows] int64, -1 unknown."""

    def __init__(self, table: EncodedTable, labels: np.ndarray, chosen: np.ndarray | None = None) -> None:
        self.table, self.labels = table, labels
        self.chosen = np.arange(table.n_rows) if chosen is None else chosen
        self.lengths = table.text_lengths[self.chosen]

    def __len__(self) -> int:
        return len(self.chosen)

    def without(self, gone: dict[str, np.ndarray]) -> KWayBatches:
        """As if cells were missing; see EncodedTable."""
        return KWayBatches(self.table.without(gone), self.labels, self.chosen)

    def __getitems__(self, places: list[int]) -> KWayBatch:
        chosen = self.chosen[places]
        return KWayBatch(self.table.rows(chosen), torch.from_numpy(chosen), torch.from_numpy(self.labels[chosen]))


class PairBatches(Dataset[PairBatch]):
    """Batches of pairs of a table's rows. ``labels`` [n, r] int64, -1 unknown; ``comparison`` [n, f] float32, whose
    features belong to the columns named in ``compared``.

    ``augment``, in training: cells go missing, and sequences of two rows are varied and begin with either row; otherwise
    they begin with the row whose content comes first, so that no score depends on which row is called left. ``n_mined``
    places follow the pairs given, for non-matches that are found while the model learns.
    """

    def __init__(
        self,
        table: EncodedTable,
        left: np.ndarray,
        right: np.ndarray,
        labels: np.ndarray,
        comparison: np.ndarray | None,
        *,
        compared: Sequence[str] | np.ndarray = (),
        augment: AugmentConfig | None = None,
        n_mined: int = 0,
        seed: int = 0,
    ) -> None:
        self.table, self.left, self.right, self.labels, self.comparison = table, left, right, labels, comparison
        self.compared, self.augment, self.seed = np.array(compared, object), augment, seed
        self.n_mined = n_mined
        self.known: tuple[Rows, np.ndarray] | None = (
            None  # encoded rows, and the place of each row of the table in them
        )
        if n_mined:  # until some are found, more of the pairs given
            again = np.resize(np.random.default_rng(seed).permutation(len(left)), n_mined)
            self._append(left[again], right[again], labels[again], None if comparison is None else comparison[again])

    def mined(self, left: np.ndarray, right: np.ndarray, comparison: np.ndarray | None) -> None:
        """Fill the places for mined non-matches, repeating them where there are fewer."""
        if not self.n_mined or not len(left):
            return
        places = np.resize(np.arange(len(left)), self.n_mined)
        self._keep_given()
        self._append(
            left[places], right[places], np.zeros((self.n_mined, self.labels.shape[1]), np.int64),
            None if comparison is None else comparison[places],
        )  # fmt: skip

    def some(self, chosen: np.ndarray) -> PairBatches:
        """Those numbered ``chosen``, as they are."""
        comparison = None if self.comparison is None else self.comparison[chosen]
        return PairBatches(self.table, self.left[chosen], self.right[chosen], self.labels[chosen], comparison, compared=self.compared)  # fmt: skip

    def without(self, gone: dict[str, np.ndarray]) -> PairBatches:
        """As if cells of rows were missing; see EncodedTable. What compares several columns at once stays as it is."""
        comparison = self.comparison
        if comparison is not None:
            comparison = self._compared_without(comparison, gone, self.left, self.right)
        return PairBatches(self.table.without(gone), self.left, self.right, self.labels, comparison, compared=self.compared)  # fmt: skip

    def _compared_without(
        self, comparison: np.ndarray, gone: dict[str, np.ndarray], left: np.ndarray, right: np.ndarray
    ) -> np.ndarray:
        """Features are missing where a cell of either side is."""
        n = len(next(iter(gone.values()))) if gone else 0
        lost = _stacked(gone, self.compared, n)
        return np.where(lost[left] | lost[right], np.float32(np.nan), comparison) if n else comparison

    def state_dict(self) -> dict[str, Any]:
        """The mined pairs of now, as tensors."""
        n = len(self.left) - self.n_mined
        state = {"left": self.left[n:], "right": self.right[n:], "labels": self.labels[n:]}
        if self.comparison is not None:
            state["comparison"] = self.comparison[n:]
        return {name: torch.from_numpy(np.ascontiguousarray(x)) for name, x in state.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._keep_given()
        arrays = {name: x.numpy() for name, x in state.items()}
        self._append(arrays["left"], arrays["right"], arrays["labels"], arrays.get("comparison"))

    def _keep_given(self) -> None:
        n = len(self.left) - self.n_mined
        self.left, self.right, self.labels = self.left[:n], self.right[:n], self.labels[:n]
        self.comparison = None if self.comparison is None else self.comparison[:n]

    def _append(self, left: np.ndarray, right: np.ndarray, labels: np.ndarray, comparison: np.ndarray | None) -> None:
        self.left, self.right = np.concatenate([self.left, left]), np.concatenate([self.right, right])
        self.labels = np.concatenate([self.labels, labels])
        if self.comparison is not None and comparison is not None:
            self.comparison = np.concatenate([self.comparison, comparison])

    @property
    def lengths(self) -> np.ndarray:
        """[n] tokens a pair."""
        lengths = self.table.text_lengths
        return lengths[self.left] + lengths[self.right]

    def __len__(self) -> int:
        return len(self.left)

    def __getitems__(self, pairs: list[int]) -> PairBatch:
        chosen, b = np.asarray(pairs), len(pairs)
        left, right = self.left[chosen], self.right[chosen]
        rows, places = np.unique(np.concatenate([left, right]), return_inverse=True)
        known = None if self.known is None else self.known[0][torch.from_numpy(self.known[1][rows])]
        table = self.table.rows(rows) if known is None else TensorTable(len(rows))
        comparison = None if self.comparison is None else self.comparison[chosen]
        rng = None
        if self.augment is not None:
            # By what is in the batch, so that it does not matter which process draws it, or what it drew before.
            rng = np.random.default_rng((self.seed, *pairs))
            if self.augment.cell_drop > 0:
                names = list(dict.fromkeys(name for names in self.table.columns.values() for name in names))
                gone = dict(zip(names, rng.random((len(names), len(rows))) < self.augment.cell_drop, strict=True))
                table = without_cells(table, self.table.columns, gone)
                if comparison is not None:
                    comparison = self._compared_without(comparison, gone, places[:b], places[b:])
        cross = None
        if self.table.cross is not None:
            ends = self.table.cross.ordered(left, right, rng)
            cross = self.table.cross.double(*ends, self.augment, rng)
        return PairBatch(
            table=table,
            left=torch.from_numpy(places[:b]),
            right=torch.from_numpy(places[b:]),
            row=torch.from_numpy(chosen),
            label=torch.from_numpy(self.labels[chosen]),
            comparison=None if comparison is None else torch.from_numpy(comparison),
            cross=cross,
            rows=known,
        )


class LengthBatches(Sampler[list[int]]):
    """Batches of rows of similar length, to pad little. Shuffled: rows are dealt into chunks at random each epoch,
    sorted within a chunk, and the batches shuffled again; otherwise simply sorted, the longest first.

    Several processes share the same batches. Shuffled, each takes its part of the rows of every batch, so that a step is
    what it is in one process (of a batch with fewer rows than processes, some rows come twice). Otherwise whole batches
    are dealt out, so that each row is scored as in one process. As all processes have to do the same number of them, the
    first batches may come twice; ``tasks.gather`` takes each row once.
    """

    def __init__(
        self, rows: KWayBatches | PairBatches, batch_size: int, shuffle: bool, seed: int = 0, chunk: int = 32
    ) -> None:
        self.rows, self.batch_size, self.shuffle, self.seed, self.chunk = rows, batch_size, shuffle, seed, chunk
        self.start(0)

    def start(self, epoch: int, first: int = 0) -> None:
        """Where to go on: the next epoch, and the first of its batches."""
        self.epoch, self.first = epoch, first

    def __len__(self) -> int:
        n = -(-len(self.rows) // self.batch_size)
        return n if self.shuffle else -(-n // ranks.rank()[1])

    def __iter__(self) -> Iterator[list[int]]:
        (rank, n_ranks), lengths, n = ranks.rank(), self.rows.lengths, self.batch_size
        starts, first = np.arange(0, len(lengths), n), self.first
        if self.shuffle:
            rng = np.random.default_rng((self.seed, self.epoch))
            self.start(self.epoch + 1)
            order = rng.permutation(len(lengths))
            for start in range(0, len(order), n * self.chunk):
                chunk = order[start : start + n * self.chunk]
                order[start : start + n * self.chunk] = chunk[np.argsort(-lengths[chunk], kind="stable")]
            for start in rng.permutation(starts)[first:]:
                batch = order[start : start + n]
                yield np.resize(batch, max(len(batch), n_ranks))[rank::n_ranks].tolist()
        else:
            order = np.argsort(-lengths, kind="stable")
            for start in np.resize(starts, len(self) * n_ranks)[rank::n_ranks]:
                yield order[start : start + n].tolist()


def loader(
    batches: KWayBatches | PairBatches, batch_size: int, *, shuffle: bool, seed: int = 0, n_workers: int = 0
) -> DataLoader[Any]:
    """Batches come made; the loader only draws them, and pins them where a GPU waits."""
    return DataLoader(
        batches,
        batch_sampler=LengthBatches(batches, batch_size, shuffle, seed),
        collate_fn=lambda batch: batch,
        num_workers=n_workers,
        persistent_workers=n_workers > 0 and getattr(batches, "n_mined", 0) == 0,  # else they would keep old pairs
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator().manual_seed(seed),  # else the loader draws from the model's random numbers
    )
