"""Tables as the tensors that an exported graph reads, without anything of training."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from mmtab.data import files
from mmtab.data.csv_files import FOUND_OUT, Dialect
from mmtab.data.pairs import read_pairs_file
from mmtab.data.pictures import ImageSpec
from mmtab.data.schema import ColumnType, Schema
from mmtab.data.streams import Stream
from mmtab.data.table import Table
from mmtab.features.backbones import Backbones, TextSpec
from mmtab.features.batches import PairBatch, RowBatch
from mmtab.features.cache import FeatureCache
from mmtab.features.encoded import EncodedTable, encode_table
from mmtab.features.loader import PairBatches, RowBatches
from mmtab.features.preprocess import Fitted
from mmtab.runs.folder import FITTED, GRAPH, read_run_file, read_schema, reading
from mmtab.runs.inputs import pair_ids, picture_root, records_to_match, standard_table
from mmtab.utils.errors import RunError
from mmtab.utils.memory import MemoryStore
from mmtab.utils.paths import check_run_links

Prepared = tuple[pa.Table, dict[str, np.ndarray]]  # ids, and by name what a graph reads
EMPTY = {"part": -1, "slot": -1, "index": -1, "mask": True}  # what a sequence or picture has that no cell points at


def graph_inputs(batch: RowBatch | PairBatch) -> dict[str, np.ndarray]:
    """By name, what a graph reads of a batch. Where it has no sequence, picture or n-gram there is one that no cell
    points at: graphs read at least one."""
    parts = batch.table.tensors() | {"row": torch.arange(batch.table.n_rows)}
    if isinstance(batch, PairBatch):
        parts |= {"left": batch.left, "right": batch.right}
        parts |= {} if batch.similarity is None else {"similarity": batch.similarity}
        parts |= {} if batch.cross is None else {f"cross_{name}": x for name, x in batch.cross.tensors().items()}
    return {name: (x if x.numel() else _one(name, x)).numpy() for name, x in parts.items()}


def _one(name: str, x: torch.Tensor) -> torch.Tensor:
    return x.new_full([max(1, size) for size in x.shape], EMPTY.get(name.rpartition("_")[2], 0))


@dataclass(frozen=True)
class Preparation:
    """What makes the inputs of a graph from tables.

    schema     columns and task of the dataset
    fitted     scalers, vocabularies and classes of train
    backbones  how text and pictures become input: specs, no networks
    bad_cells  whether a picture that cannot be read is an error, or missing
    compares   whether the graph reads similarity features of pairs
    """

    schema: Schema
    fitted: Fitted
    backbones: Backbones
    bad_cells: Any = "error"
    compares: bool = False

    @staticmethod
    def load(folder: Path) -> Preparation:
        """Of an export with a graph. Raises RunError for a folder that is none, or is damaged."""
        check_run_links(folder)
        schema, facts = read_schema(folder), read_run_file(folder, GRAPH)
        with reading(folder / FITTED):
            fitted = Fitted.from_dict(read_run_file(folder, FITTED), schema)
        with reading(folder / GRAPH):
            text, cross = (
                TextSpec.load(**facts[name], folder=folder / f"{name}_backbone") if facts[name] else None
                for name in ("text", "cross")
            )
            image = ImageSpec(**facts["image"]) if facts["image"] else None
            compares = "similarity" in facts["inputs"]
        return Preparation(schema, fitted, Backbones(text, image, cross), facts["bad_cells"], compares)

    @property
    def compared_pictures(self) -> list[str]:
        """Columns of pictures that similarity features compare."""
        columns = self.fitted.similarity.columns if self.compares and self.fitted.similarity else []
        return [name for name in self.schema.of_type(ColumnType.IMAGE) if name in columns]

    @property
    def classes(self) -> list[str]:
        """Names of the classes, in the order of their probabilities."""
        coder = self.fitted.preprocessor.labels_
        return [] if coder is None else coder.classes_

    def encode(self, table: Table) -> EncodedTable:
        """Token sequences, pixels and so on; nothing that a network would make of them."""
        cache = FeatureCache(MemoryStore())
        return encode_table(
            table,
            self.schema,
            self.fitted.preprocessor,
            self.backbones,
            cache,
            bad_cells=self.bad_cells,
            store_frozen=False,
            lexicon=self.fitted.lexicon,
        )

    def row_batches(self, table: Table) -> RowBatches:
        """Batches of rows, without labels."""
        return RowBatches(self.encode(table), np.full(len(table), -1))

    def rows(self, input: files.Source, size: int = 256, dialect: Dialect = FOUND_OUT) -> Iterator[Prepared]:
        """``size`` rows of a table at a time."""
        with tempfile.TemporaryDirectory(prefix="mmtab-") as place:
            source = standard_table(input, self.schema, Path(place), dialect)
            stream = Stream(source, self.schema, picture_root(input), self.bad_cells, labels=False, allow_empty=True)
            for table in stream.batches():
                for start in range(0, len(table), size):
                    part = table.slice(start, size)
                    batch = self.row_batches(part).__getitems__(list(range(len(part))))
                    yield pa.table({self.schema.id: part.ids}), graph_inputs(batch)

    def pairs(
        self,
        input: files.Source,
        size: int = 256,
        dialect: Dialect = FOUND_OUT,
        pictures: Mapping[str, np.ndarray] | None = None,
        **sides: Any,
    ) -> Iterator[Prepared]:
        """``size`` pairs at a time. ``sides``: left and right, or records. ``pictures``: by column, features of
        the pictures of all records, for a run that compares them; an open run computes them (``Session.encode``)."""
        if self.compared_pictures and pictures is None:
            raise RunError(f"{self.schema.name}: this run compares pictures, of which only an open run makes features")
        with tempfile.TemporaryDirectory(prefix="mmtab-") as place:
            records = records_to_match(self.schema, self.bad_cells, Path(place), dialect=dialect, **sides)
            source = standard_table(input, self.schema, Path(place), dialect)
            pairs = read_pairs_file(source, self.schema, records, allow_empty=True)
            batches = self.pair_batches(records.table, pairs.left, pairs.right, pictures or {})
            for start in range(0, len(pairs), size):
                chosen = list(range(start, min(start + size, len(pairs))))
                yield pair_ids(pairs).slice(start, size), graph_inputs(batches.__getitems__(chosen))

    def pair_batches(
        self, records: Table, left: np.ndarray, right: np.ndarray, pictures: Mapping[str, np.ndarray]
    ) -> PairBatches:
        """Batches of pairs of records [n] and [n], without labels."""
        similarity, labels = None, np.full((len(left), len(self.schema.relations)), -1)
        if self.compares and self.fitted.similarity is not None:
            similarity = self.fitted.scale(self.fitted.similarity(records, left, right, pictures))
        return PairBatches(self.encode(records), left, right, labels, similarity)
