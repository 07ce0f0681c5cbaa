"""All features of a table, computed once, and slices of them."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from mmtab.data.digests import digest_of
from mmtab.data.pictures import load_pictures
from mmtab.data.schema import ColumnType, Schema
from mmtab.data.streams import Stream
from mmtab.data.table import BadCells, Table
from mmtab.features.backbones import Backbones, ImageBackbone, TextBackbone
from mmtab.features.batches import ImageBatch, TensorTable, TextBatch
from mmtab.features.cache import FeatureCache
from mmtab.features.lexical import Lexicon, SparseRows
from mmtab.features.preprocess import Preprocessor
from mmtab.features.text import Sequences, cross_columns, cross_sequences, text_columns, tokenize
from mmtab.utils.cache import Arrays, Store
from mmtab.utils.npy import Appended, Scratch


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
    lexical: SparseRows | None = None
    columns: dict[str, list[str]] = field(default_factory=dict)  # see encoded_columns; "cross": those of ``cross``
    missing: dict[str, np.ndarray] = field(default_factory=dict)  # by column, [n] bool: cells to leave out

    def without(self, missing: dict[str, np.ndarray]) -> EncodedTable:
        """As if cells were missing; ``missing``: by column, [n] bool. Equals encoding the table without them."""
        of = {kind: stack_columns(missing, names, self.n_rows) for kind, names in self.columns.items()}
        text, cross, features, present = self.text, self.cross, self.text_features, self.text_present
        if text is not None and of["text"].any():
            # In a joint sequence the other cells have attended to the missing ones
            if text.joint and (of["text"].any(1) & ~of["text"].all(1)).any():
                features = present = None
            text = text.without(of["text"])
        if cross is not None and of["cross"].any():
            cross = cross.without(of["cross"])
        return replace(self, text=text, cross=cross, text_features=features, text_present=present, missing=missing)

    def rows(self, rows: np.ndarray, lexical: bool = True) -> TensorTable:
        """Some rows, by number. ``lexical``: with their n-grams."""
        numeric = torch.from_numpy(self.numeric[rows]) if self.numeric.shape[1] else None
        categorical = torch.from_numpy(self.categorical[rows].astype(np.int64)) if self.categorical.shape[1] else None
        image = None
        if self.image_index is not None:
            image = _image_batch(self.image_index[rows], self.pixels, self.image_features)
        ngrams = self.lexical.rows(rows) if self.lexical is not None and lexical else None
        table = TensorTable(len(rows), numeric, categorical, self._texts(rows), image, ngrams)
        if not self.missing:
            return table
        return without_cells(table, self.columns, {name: cells[rows] for name, cells in self.missing.items()})

    def _texts(self, rows: np.ndarray) -> TextBatch | None:
        if self.text_features is not None and self.text_present is not None:
            none = torch.zeros(0, 0, dtype=torch.long)
            features, present = torch.from_numpy(self.text_features[rows]), torch.from_numpy(self.text_present[rows])
            return TextBatch(none, none.bool(), none, none, none, features, present)
        return None if self.text is None else self.text.single(rows)

    @functools.cached_property
    def pictures(self) -> dict[str, np.ndarray]:
        """By image column, [n, f] float16: the mean features of a cell's pictures, NaN where it has none; empty where
        the backbone is not frozen."""
        if self.image_index is None or self.image_features is None:
            return {}
        columns = zip(self.columns["image"], self.image_index.transpose(1, 0, 2), strict=True)
        return {name: _mean_features(places, self.image_features) for name, places in columns}

    @functools.cached_property
    def text_lengths(self) -> np.ndarray:
        """[n] tokens a row that the text transformer will read, for batches of similar length."""
        lengths = np.zeros(self.n_rows, np.int32) if self.cross is None else self.cross.lengths
        if self.text is not None and self.text_features is None:
            own = self.text.lengths
            lengths = lengths + (own if self.text.joint else own.reshape(self.n_rows, -1).max(1, initial=0))
        return lengths


def _image_batch(index: np.ndarray, pixels: np.ndarray | None, features: np.ndarray | None) -> ImageBatch:
    """The distinct pictures of some rows.

    index     [b, c, j] int32 places among all pictures, -1 where there is none
    pixels    [m, 3, h, w] uint8 of all pictures, which are taken where there are no features
    features  [m, f] float16 of all pictures
    """
    distinct, places = np.unique(index, return_inverse=True)
    places = places.reshape(index.shape)
    if len(distinct) and distinct[0] < 0:  # -1, no picture, sorts first
        distinct, places = distinct[1:], places - 1
    return ImageBatch(
        torch.from_numpy(places.astype(np.int64)),
        pixels=torch.from_numpy(pixels[distinct]) if features is None and pixels is not None else None,
        features=None if features is None else torch.from_numpy(features[distinct]),
    )


def _mean_features(index: np.ndarray, features: np.ndarray) -> np.ndarray:
    """[n, f] float16: the mean features of each cell's pictures, NaN where it has none.

    index     [n, j] places of a column's pictures among all, -1 where there is none
    features  [m, f] float16 of all pictures
    """
    out = np.full((len(index), features.shape[1]), np.nan, np.float16)
    for start in range(0, len(index) if len(features) else 0, 1024):
        places = index[start : start + 1024]
        count = (places >= 0).sum(1)[:, None]
        total = (features[np.maximum(places, 0)].astype(np.float32) * (places >= 0)[..., None]).sum(1)
        out[start : start + 1024] = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    return out


def encoded_columns(schema: Schema, preprocessor: Preprocessor, also: tuple[str, ...] = ()) -> dict[str, list[str]]:
    """By kind of encoder, the table's column that each of its columns comes from (a moment gives several numbers)."""
    numbers = schema.of_type(ColumnType.NUMERIC)
    return {
        "text": text_columns(schema, also),
        "image": schema.of_type(ColumnType.IMAGE),
        "numeric": [name if name in numbers else name.split(":")[0] for name in preprocessor.scalers_],
        "categorical": list(preprocessor.coders_),
    }


def without_cells(table: TensorTable, columns: dict[str, list[str]], missing: dict[str, np.ndarray]) -> TensorTable:
    """The rows with some cells missing; ``missing``: by column, [n_rows] bool. Text is left out only where it comes as
    features: sequences lose spans instead."""

    def mask(kind: str) -> torch.Tensor:
        return torch.from_numpy(stack_columns(missing, columns[kind], table.n_rows))

    text, image, lexical = table.text, table.image, table.lexical
    if lexical is not None:
        lost = mask("lexical")[lexical.row, lexical.column]
        lexical = replace(lexical, value=lexical.value.masked_fill(lost, 0.0))
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
        lexical=lexical,
    )


def stack_columns(missing: Mapping[str, np.ndarray], names: Sequence[str] | np.ndarray, n: int) -> np.ndarray:
    """[n, len(names)] bool; a column that ``missing`` does not name has all its cells."""
    columns = [missing.get(name, np.zeros(n, bool)) for name in names]
    return np.stack(columns, 1) if columns else np.zeros((n, 0), bool)


def encode_table(
    table: Table | Stream,
    schema: Schema,
    preprocessor: Preprocessor,
    backbones: Backbones,
    cache: FeatureCache,
    *,
    bad_cells: BadCells = "error",
    store_frozen: bool = True,
    compare_pictures: bool = False,
    lexicon: Lexicon | None = None,
) -> EncodedTable:
    """Compute everything that is computed once. All that grows with the table is mapped from the store.

    store_frozen      compute what frozen networks make of the table, too
    compare_pictures  compute features of pictures anyway: similarity features of pairs read them
    """
    text, image = backbones.text, backbones.image
    text_spec, image_spec, cross_spec = backbones.text_spec, backbones.image_spec, backbones.cross_spec
    columns = encoded_columns(schema, preprocessor, text_spec.also if text_spec is not None else ())
    numeric, categorical = _numbers(table, schema, preprocessor, cache.store)
    encoded = EncodedTable(len(numeric), numeric, categorical, columns=columns)
    if image_spec is not None:
        pictures = load_pictures(table, columns["image"], image_spec, cache.store, bad_cells)
        encoded = replace(encoded, image_index=pictures.index, pixels=pictures.pixels)
        if isinstance(image, ImageBackbone) and image.frozen and (store_frozen or compare_pictures):
            encoded = replace(encoded, image_features=cache.images(image, pictures))
    if text_spec is not None:
        sequences = tokenize(table, columns["text"], text_spec, cache.store)
        if isinstance(text, TextBackbone) and store_frozen:
            if text.frozen:
                features, present = cache.texts(text, sequences)
                encoded = replace(encoded, text_features=features, text_present=present)
            elif text.n_frozen_layers:
                sequences = replace(sequences, states=cache.lower_layers(text, sequences))
        encoded = replace(encoded, text=sequences)
    if lexicon is not None:
        columns = columns | {"lexical": lexicon.columns}
        encoded = replace(encoded, lexical=lexicon(table, cache.store), columns=columns)
    if cross_spec is not None:
        names = cross_columns(schema, cross_spec.also)
        cross = encode_cross(table, names, backbones, cache, store_frozen)
        encoded = replace(encoded, cross=cross, columns=columns | {"cross": names})
    return encoded


def encode_cross(
    table: Table | Stream, columns: list[str], backbones: Backbones, cache: FeatureCache, store_frozen: bool = True
) -> Sequences | None:
    """The text that a cross-encoder reads, with what its frozen layers make of each row by itself, where they read rows
    apart; None without a cross-encoder."""
    spec, cross = backbones.cross_spec, backbones.cross
    if spec is None:
        return None
    sequences = cross_sequences(table, columns, spec, cache.store)
    if isinstance(cross, TextBackbone) and cross.side is not None and store_frozen:
        sequences = replace(sequences, states=cache.lower_layers(cross, sequences))
    return sequences


def _numbers(
    table: Table | Stream, schema: Schema, preprocessor: Preprocessor, store: Store
) -> tuple[np.ndarray, np.ndarray]:
    def key() -> dict[str, Any]:
        fitted = {name: value for name, value in preprocessor.to_dict().items() if name != "labels_"}
        kinds = (ColumnType.NUMERIC, ColumnType.DATETIME, ColumnType.CATEGORICAL)
        return {
            "n_rows": len(table),
            "columns": [table.digests[name] for name in schema.of_type(*kinds)],
            "fitted": digest_of(json.dumps(fitted, sort_keys=True)),
        } | ({"narrow": {name: str(kind) for name, kind in table.narrow.items()}} if table.narrow else {})

    def build(scratch: Scratch) -> Arrays:
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
