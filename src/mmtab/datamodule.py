"""From tables to batches. What can be computed once is (tokens, pictures, outputs of frozen backbones, comparison
features); a batch is then a slice of arrays."""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info

from mmtab.config import AugmentConfig
from mmtab.encoders.image import ImageEncoder
from mmtab.encoders.text import TextEncoder
from mmtab.errors import ConfigError
from mmtab.images import collect_images, decode_images
from mmtab.preprocess import Preprocessor
from mmtab.schema import ColumnType, Schema
from mmtab.store import Arrays, Store, digest_of
from mmtab.table import BadCells, Table
from mmtab.tensors import ImageBatch, KWayBatch, PairBatch, TensorTable, TextBatch

Progress = Callable[[Any, int, str], Any]


def no_progress(steps: Iterator[Any], total: int, title: str) -> Iterator[Any]:
    return steps


# --- text ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ragged:
    """Token ids of many cells, end to end: cell i is ``ids[offsets[i] : offsets[i + 1]]``."""

    ids: np.ndarray  # int32
    offsets: np.ndarray  # [n + 1] int64

    @property
    def lengths(self) -> np.ndarray:
        return np.diff(self.offsets)

    def padded(self, units: np.ndarray, *more: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
        """Some units as rows of one array: lengths [s], and [s, max length] of ids and of each array in ``more``."""
        start, length = self.offsets[units], self.offsets[units + 1] - self.offsets[units]
        places = start[:, None] + np.arange(length.max(initial=0))
        places = np.minimum(places, max(len(self.ids) - 1, 0))
        return length, [flat[places] if len(flat) else np.zeros(places.shape, flat.dtype) for flat in (self.ids, *more)]


@dataclass(frozen=True)
class Sequences:
    """What goes between the special tokens of a sequence: for each unit (a row, or a cell), ids and parts."""

    tokens: Ragged
    part: np.ndarray  # int16, same length as tokens.ids
    n_columns: int
    joint: bool  # units are rows whose parts are columns; else units are cells of one part
    special: tuple[int, int, int]  # first, separator, padding

    def single(self, rows: np.ndarray) -> TextBatch:
        """One sequence a row, or a cell, of those that have any text."""
        c = self.n_columns
        units = rows if self.joint else (rows[:, None] * c + np.arange(c)).ravel()
        keep = np.flatnonzero(self.tokens.lengths[units] > 0)
        length, (ids, part) = self.tokens.padded(units[keep], self.part)
        slots = (keep[:, None] * c + np.arange(c)) if self.joint else keep[:, None]
        return self._frame([(length, ids, part)], slots)

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
            length, (ids, part) = self.tokens.padded(units, self.part)
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
        o = self.tokens.offsets
        ids, part = np.asarray(self.tokens.ids), np.asarray(self.part)
        keys = [ids[i:j].tobytes() + part[i:j].tobytes() for i, j in itertools.pairwise(o)]
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


def tokenize(table: Table, columns: list[str], encoder: TextEncoder, store: Store) -> Ragged:
    """Each distinct cell once, in batches; cells row by row, each cut to the encoder's ``max_length``."""
    texts = [_as_text(table.columns[name]) for name in columns]
    backend = encoder.tokenizer.backend_tokenizer
    prefixes = [encoder.column_prefix.replace("{}", name.replace("_", " ").strip().lower()) for name in columns]
    key = {
        "texts": [digest_of(text) for text in texts],
        "tokenizer": digest_of(np.frombuffer(backend.to_str().encode(), np.uint8)),
        "prefixes": prefixes,
        "max_length": encoder.max_length,
    }

    def build(_: object) -> Arrays:
        cells = []
        for text, prefix in zip(texts, prefixes, strict=True):
            distinct = text.dictionary_encode()
            values = [prefix + value for value in distinct.dictionary.to_pylist()]
            encoded = (
                encoder.tokenizer(values, add_special_tokens=False, truncation=True, max_length=encoder.max_length)[
                    "input_ids"
                ]
                if values
                else []
            )
            cells.append((encoded, np.asarray(pc.fill_null(distinct.indices, -1))))
        n, c = len(table), len(columns)
        lengths = np.zeros((n, c), np.int64)
        for j, (encoded, index) in enumerate(cells):
            sizes = np.array([len(ids) for ids in encoded] + [0], np.int64)  # the last is for missing (-1)
            lengths[:, j] = sizes[index]
        offsets = np.concatenate([[0], lengths.ravel().cumsum()])
        flat = np.zeros(offsets[-1], np.int32)
        for j, (encoded, index) in enumerate(cells):
            for i, which in enumerate(index):
                if which >= 0:
                    start = offsets[i * c + j]
                    flat[start : start + len(encoded[which])] = encoded[which]
        return {"ids": flat, "offsets": offsets}

    arrays = store.arrays("tokens", key, build)
    return Ragged(arrays["ids"], arrays["offsets"])


def sequences(cells: Ragged, encoder: TextEncoder, *, budget: int, joint: bool) -> Sequences:
    """Cut cells so that each sequence keeps at most ``budget`` tokens; in a joint sequence the longest cells give way
    first, all to the same length, and short ones stay whole."""
    c = encoder.n_columns
    lengths = cells.lengths.reshape(-1, c)
    kept = np.minimum(lengths, _shared_cap(lengths, budget)[:, None]) if joint else np.minimum(lengths, budget)
    offsets = np.concatenate([[0], kept.ravel().cumsum()])
    source = np.repeat(cells.offsets[:-1] - offsets[:-1], kept.ravel()) + np.arange(offsets[-1])
    columns = np.tile(np.arange(c, dtype=np.int16), len(lengths))
    part = np.repeat(columns, kept.ravel()) if joint else np.zeros(offsets[-1], np.int16)
    tokenizer = encoder.tokenizer
    first = tokenizer.cls_token_id if tokenizer.cls_token_id is not None else tokenizer.bos_token_id
    separator = tokenizer.sep_token_id if tokenizer.sep_token_id is not None else tokenizer.eos_token_id
    if first is None or separator is None:
        raise ConfigError(
            f"text.backbone={encoder.name}: its tokenizer has no first or separating token; take an encoder such as BERT or RoBERTa"
        )
    special = (first, separator, tokenizer.pad_token_id or 0)
    ids = np.asarray(cells.ids)[source] if len(source) else np.zeros(0, np.int32)
    return Sequences(Ragged(ids, offsets[:: c if joint else 1]), part, c, joint, special)


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
    categorical: np.ndarray  # [n, c] int64
    text: Sequences | None = None
    text_features: np.ndarray | None = None  # [n, c, f] float16
    text_present: np.ndarray | None = None  # [n, c] bool
    image_index: np.ndarray | None = None  # [n, c, j] int32
    pixels: np.ndarray | None = None  # [m, 3, h, w] uint8
    image_features: np.ndarray | None = None  # [m, f] float16
    cross: Sequences | None = None  # text to be read in one sequence with another row's
    columns: dict[str, list[str]] = field(default_factory=dict)  # see encoded_columns

    def rows(self, rows: np.ndarray) -> TensorTable:
        """Some rows, by number."""
        text = None
        if self.text_features is not None and self.text_present is not None:
            none = torch.zeros(0, 0, dtype=torch.long)
            features, present = torch.from_numpy(self.text_features[rows]), torch.from_numpy(self.text_present[rows])
            text = TextBatch(none, none.bool(), none, none, none, features, present)
        elif self.text is not None:
            text = self.text.single(rows)
        return TensorTable(
            n_rows=len(rows),
            numeric=torch.from_numpy(self.numeric[rows]) if self.numeric.shape[1] else None,
            categorical=torch.from_numpy(self.categorical[rows]) if self.categorical.shape[1] else None,
            text=text,
            image=self._images(rows),
        )

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
        lengths = np.zeros(self.n_rows, np.int64) if self.cross is None else self.cross.tokens.lengths
        if self.text is not None and self.text_features is None:
            own = self.text.tokens.lengths
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
        none = np.zeros(table.n_rows, bool)
        return torch.from_numpy(np.stack([gone.get(name, none) for name in columns[kind]], 1))

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


def encode_table(
    table: Table,
    schema: Schema,
    preprocessor: Preprocessor,
    text: TextEncoder | None,
    image: ImageEncoder | None,
    store: Store,
    *,
    cross: TextEncoder | None = None,
    cross_columns: list[str] | None = None,
    bad_cells: BadCells = "error",
    autocast: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext,
    device: torch.device | str = "cpu",
    progress: Progress = no_progress,
) -> EncodedTable:
    """Run everything that is done once. ``cross`` reads ``cross_columns`` of two rows at once."""
    columns = encoded_columns(schema, preprocessor, text.also if text is not None else ())
    encoded = EncodedTable(
        len(table), preprocessor.numeric(table, schema), preprocessor.categorical(table), columns=columns
    )
    if image is not None:
        index, sources = collect_images(table, schema.of_type(ColumnType.IMAGE))
        pixels, valid = decode_images(
            table, sources, image.spec, store, bad_cells, lambda steps, n: progress(steps, n, "pictures")
        )
        index = np.where((index >= 0) & valid[np.maximum(index, 0)], index, -1) if len(valid) else index
        encoded = replace(encoded, image_index=index, pixels=pixels)
        if image.frozen:
            key = {"pixels": digest_of(pixels), "weights": weights_digest(image.backbone), "grid": image.backbone.grid,
                   "precision": _precision(autocast)}  # fmt: skip
            encoded = replace(
                encoded, image_features=_frozen_images(image, pixels, key, store, autocast, device, progress)
            )
    if text is not None:
        cells = tokenize(table, text_columns(schema, text.also), text, store)
        joint = text.layout == "joint"
        encoded = replace(encoded, text=sequences(cells, text, budget=text.max_length - 2, joint=joint))
        if text.frozen:
            features, present = _frozen_text(text, encoded, store, autocast, device, progress)
            encoded = replace(encoded, text_features=features, text_present=present)
    if cross is not None:
        encoded = replace(encoded, cross=cross_sequences(table, cross_columns or [], cross, store))
    return encoded


def cross_sequences(table: Table, columns: list[str], encoder: TextEncoder, store: Store) -> Sequences:
    """Text of rows to be read in one sequence with another row's, which leaves each half of the room."""
    return sequences(
        tokenize(table, columns, encoder, store), encoder, budget=(encoder.max_length - 3) // 2, joint=True
    )


def without_text(text: TextBatch, column: int, n_columns: int) -> TextBatch:
    """Sequences of two rows in which nobody reads one column; its cells are as if missing."""
    gone = (text.part == column) | (text.part == column + n_columns)
    slot = text.slot.clone()
    slot[:, [column, column + n_columns]] = -1
    return replace(text, mask=text.mask & ~gone, part=text.part.masked_fill(gone, -1), slot=slot)


def weights_digest(module: torch.nn.Module) -> str:
    """A digest of a network's weights."""
    return digest_of(
        np.frombuffer(
            "".join(digest_of(w.detach().cpu().float().numpy()) for w in module.state_dict().values()).encode(),
            np.uint8,
        )
    )


def _frozen_images(
    image: ImageEncoder,
    pixels: np.ndarray,
    key: dict[str, Any],
    store: Store,
    autocast: Any,
    device: Any,
    progress: Progress,
) -> np.ndarray:
    def build(_: object) -> Arrays:
        backbone, size = image.backbone.to(device).eval(), 64
        out = np.zeros((len(pixels), sum(backbone.groups)), np.float16)
        with torch.inference_mode(), autocast():
            for start in progress(iter(range(0, len(pixels), size)), -(-len(pixels) // size), "image features"):
                batch = torch.from_numpy(np.array(pixels[start : start + size])).to(device)
                out[start : start + size] = backbone(batch).float().clamp(-65504, 65504).cpu().numpy()
        return {"features": out}

    return store.arrays("image_features", key, build)["features"]


def _frozen_text(
    text: TextEncoder, table: EncodedTable, store: Store, autocast: Any, device: Any, progress: Progress
) -> tuple[np.ndarray, np.ndarray]:
    assert table.text is not None
    order = np.argsort(-table.text_lengths, kind="stable")  # similar lengths together, the longest first
    key = {"tokens": digest_of(table.text.tokens.ids), "offsets": digest_of(table.text.tokens.offsets), "part": digest_of(table.text.part),
           "weights": weights_digest(text.backbone), "joint": table.text.joint, "n_columns": text.n_columns,
           "precision": _precision(autocast)}  # fmt: skip

    def build(_: object) -> Arrays:
        text.to(device).eval()
        out = np.zeros((table.n_rows, text.n_columns, text.d_hidden), np.float16)
        there, size = np.zeros((table.n_rows, text.n_columns), bool), 64
        with torch.inference_mode(), autocast():
            for start in progress(iter(range(0, len(order), size)), -(-len(order) // size), "text features"):
                rows = order[start : start + size]
                assert table.text is not None
                x, present = text.cells(table.text.single(rows).to(device), len(rows))
                out[rows], there[rows] = x.float().cpu().numpy(), present.cpu().numpy()
        return {"features": out, "present": there}

    arrays = store.arrays("text_features", key, build)
    return arrays["features"], arrays["present"]


def _precision(autocast: Callable[[], contextlib.AbstractContextManager[Any]]) -> str:
    with autocast():
        return (
            str(torch.get_autocast_dtype("cpu"))
            if torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda")
            else "float32"
        )


# --- batches ---------------------------------------------------------------------------------------------------------


class KWayBatches(Dataset[KWayBatch]):
    """Batches of rows. ``labels`` [n] int64, -1 unknown."""

    def __init__(self, table: EncodedTable, labels: np.ndarray) -> None:
        self.table, self.labels = table, labels
        self.lengths = table.text_lengths

    def __len__(self) -> int:
        return self.table.n_rows

    def __getitems__(self, rows: list[int]) -> KWayBatch:
        chosen = np.asarray(rows)
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
        compared: Sequence[str] = (),
        augment: AugmentConfig | None = None,
        n_mined: int = 0,
        seed: int = 0,
    ) -> None:
        self.table, self.left, self.right, self.labels, self.comparison = table, left, right, labels, comparison
        self.compared, self.augment, self.seed, self.n_drawn = np.array(compared, object), augment, seed, 0
        self.n_mined = n_mined
        if n_mined:  # until some are found, more of the pairs given
            again = np.resize(np.random.default_rng(seed).permutation(len(left)), n_mined)
            self._append(left[again], right[again], labels[again], None if comparison is None else comparison[again])

    def mined(self, left: np.ndarray, right: np.ndarray, comparison: np.ndarray | None) -> None:
        """Fill the places for mined non-matches, repeating them where there are fewer."""
        if not self.n_mined or not len(left):
            return
        n, places = len(self.left) - self.n_mined, np.resize(np.arange(len(left)), self.n_mined)
        self.left, self.right, self.labels = self.left[:n], self.right[:n], self.labels[:n]
        self.comparison = None if self.comparison is None else self.comparison[:n]
        self._append(
            left[places], right[places], np.zeros((self.n_mined, self.labels.shape[1]), np.int64),
            None if comparison is None else comparison[places],
        )  # fmt: skip

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
        table = self.table.rows(rows)
        comparison = None if self.comparison is None else self.comparison[chosen]
        rng = None
        if self.augment is not None:
            worker = get_worker_info()
            self.n_drawn += 1
            rng = np.random.default_rng((self.seed, self.n_drawn, worker.id if worker else 0))
            if self.augment.cell_drop > 0:
                names = list(dict.fromkeys(name for names in self.table.columns.values() for name in names))
                gone = dict(zip(names, rng.random((len(names), len(rows))) < self.augment.cell_drop, strict=True))
                table = without_cells(table, self.table.columns, gone)
                if comparison is not None:
                    none = np.zeros(len(rows), bool)
                    lost = np.stack([gone.get(name, none) for name in self.compared], 1)
                    comparison = np.where(lost[places[:b]] | lost[places[b:]], np.float32(np.nan), comparison)
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
        )


class LengthBatches(Sampler[list[int]]):
    """Batches of rows of similar length, to pad little. Shuffled: rows are dealt into chunks at random each epoch,
    sorted within a chunk, and the batches shuffled again; otherwise simply sorted, the longest first."""

    def __init__(
        self, rows: KWayBatches | PairBatches, batch_size: int, shuffle: bool, seed: int = 0, chunk: int = 32
    ) -> None:
        self.rows, self.batch_size, self.shuffle, self.seed, self.chunk = rows, batch_size, shuffle, seed, chunk
        self.epoch = 0

    def __len__(self) -> int:
        return -(-len(self.rows) // self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        lengths = self.rows.lengths
        if not self.shuffle:
            order = np.argsort(-lengths, kind="stable")
            yield from (order[i : i + self.batch_size].tolist() for i in range(0, len(order), self.batch_size))
            return
        rng = np.random.default_rng((self.seed, self.epoch))
        self.epoch += 1
        order = rng.permutation(len(lengths))
        size = self.batch_size * self.chunk
        chunks = [order[i : i + size] for i in range(0, len(order), size)]
        order = np.concatenate([chunk[np.argsort(-lengths[chunk], kind="stable")] for chunk in chunks])
        batches = [order[i : i + self.batch_size] for i in range(0, len(order), self.batch_size)]
        for i in rng.permutation(len(batches)):
            yield batches[i].tolist()


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
    )
