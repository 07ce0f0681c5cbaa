"""Tables as the tensors that an exported graph reads, without anything of training."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
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
from mmtab.data.streams import Stream, slices
from mmtab.data.table import Table
from mmtab.features.backbones import Backbones, TextSpec
from mmtab.features.batches import PairBatch, RowBatch
from mmtab.features.cache import FeatureCache
from mmtab.features.encoded import EncodedTable, encode_table
from mmtab.features.loader import PairBatches, RowBatches
from mmtab.features.preprocess import Fitted
from mmtab.runs.folder import FITTED, GRAPH, read_run_file, read_schema, reading
from mmtab.runs.inputs import pair_ids, picture_root, records_to_match, standard_table
from mmtab.runs.manifest import verified, verify_below
from mmtab.utils.errors import RunError, first_line, short
from mmtab.utils.memory import MemoryStore
from mmtab.utils.optional import require
from mmtab.utils.paths import check_run_links

ONNX, OUTPUT = "model.onnx", "output"
AGAIN = "export the run again, or restore the export from a copy"
# Shape letters of any size, from 1 on
FREE = {"b": "rows", "s": "sequences", "l": "tokens", "m": "pictures", "j": "pictures of a cell", "n": "n-grams"}
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


def shape_letters(batch: RowBatch | PairBatch, name: str) -> list[str]:
    """Of an input, as batches.py has them."""
    dims = type(batch).dims()
    return dims.get(f"table_{name}") or dims[name]


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
        """Of an export with a graph. Raises RunError for a folder that is none, or is damaged, or of which files are
        those of another export."""
        check_run_links(folder)
        schema, facts = read_schema(folder), read_run_file(folder, GRAPH)
        verify_below(folder, "text_backbone", "cross_backbone")
        with reading(folder / FITTED):
            fitted = Fitted.from_dict(read_run_file(folder, FITTED), schema)
        with reading(folder / GRAPH):
            text, cross = (
                TextSpec.load(**facts[name], folder=folder / f"{name}_backbone") if facts[name] else None
                for name in ("text", "cross")
            )
            image = ImageSpec(**facts["image"]) if facts["image"] else None
            compares = "similarity" in facts["inputs"]
            made = Preparation(schema, fitted, Backbones(text, image, cross), facts["bad_cells"], compares)
            wanted = made.facts()
            for part in ("inputs", "outputs"):
                _check_alike(folder / GRAPH, part, wanted[part], facts[part])
        return made

    def blank(self) -> RowBatch | PairBatch:
        """A row without any cells, or a pair of it."""
        one = np.zeros(1, np.int64)
        nothing = {self.schema.id: ["0"]} | {column.name: pa.nulls(1, pa.string()) for column in self.schema.columns}
        stream = Stream(files.InMemory("blank", pa.table(nothing)), self.schema, Path(), labels=False)
        table = next(stream.batches())
        batches = self.row_batches(table) if self.schema.of_rows else self.pair_batches(table, one, one, {})
        return batches.__getitems__([0])

    def facts(self) -> dict[str, Any]:
        """What GRAPH holds: names, types and shapes of a graph's inputs and output, and how text and pictures become
        inputs."""
        batch, of = self.blank(), self.backbones
        pairs, inputs = isinstance(batch, PairBatch), {}
        for name, x in graph_inputs(batch).items():
            letters = zip(shape_letters(batch, name), x.shape, strict=True)
            shape: list[str | int] = [FREE.get(letter, n) for letter, n in letters]
            if pairs and name.startswith(("left", "right", "similarity", "cross_")):
                shape[0] = "pairs"
            inputs[name] = {"dtype": str(x.dtype), "shape": shape}
        values = self.classes or list(self.schema.relations) or [self.schema.label or ""]
        first, number = "pairs" if pairs else "rows", self.fitted.target is not None
        output = (
            {"dtype": "float64", "shape": [first]} if number else {"dtype": "float32", "shape": [first, len(values)]}
        )
        return {
            "inputs": inputs,
            "outputs": {OUTPUT: output | {"of": values}},
            "text": _settings(of.text_spec),
            "cross": _settings(of.cross_spec),
            "image": None if of.image_spec is None else asdict(of.image_spec),
            "bad_cells": self.bad_cells,
        }

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
            for part in slices(stream, size):
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


def _settings(spec: TextSpec | None) -> dict[str, Any] | None:
    """What ``TextSpec.load`` takes."""
    if spec is None:
        return None
    return {
        "backbone": spec.name,
        "layout": spec.layout,
        "max_length": spec.max_length,
        "also": list(spec.also),
        "column_prefix": spec.column_prefix,
    }


def _check_alike(path: Path, where: str, expected: Any, found: Any) -> None:
    """Raise RunError at the first key, at any depth, of which a file has another value than it should."""
    if isinstance(expected, dict) and isinstance(found, dict):
        for key in [*expected, *(key for key in found if key not in expected)]:
            _check_alike(path, f"{where}.{key}", expected.get(key), found.get(key))
    elif expected != found:
        wanted, is_there = ("no entry" if x is None else short(x) for x in (expected, found))
        raise RunError(f"{path}, {where}: expected {wanted}, found {is_there}. Fix: {AGAIN}")


def open_graph(folder: Path) -> Callable[[dict[str, np.ndarray]], np.ndarray]:
    """What the ``model.onnx`` of an export makes of prepared inputs, on CPU. Raises RunError for a folder
    that has none, and for a file that is damaged, is none of the graph that graph.json tells of, or cannot compute."""
    check_run_links(folder)
    facts, path = read_run_file(folder, GRAPH), verified(folder, ONNX)
    verified(folder, f"{ONNX}.data")  # where the weights of a large model lie
    if not path.is_file():
        raise RunError(f"{folder} has no {ONNX}. Fix: mmtab export RUN -o FOLDER --format onnx")
    onnxruntime = require("onnxruntime", extra="onnx")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # an error says it
    with _by_onnxruntime(path):
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    for part, ends in (("inputs", session.get_inputs()), ("outputs", session.get_outputs())):
        said = {name: _as_of_onnx(fact) for name, fact in facts[part].items()}
        _check_alike(path, part, said, {end.name: {"dtype": end.type, "shape": _fixed(end.shape)} for end in ends})

    def predict(inputs: dict[str, np.ndarray]) -> np.ndarray:
        with _by_onnxruntime(path):
            output: np.ndarray = session.run([OUTPUT], inputs)[0]
        n = len(inputs["left" if "left" in inputs else "row"])
        if len(output) != n or not np.isfinite(output).all():
            raise RunError(f"{path}: expected {n} predictions, all of them numbers, found others. Fix: {AGAIN}")
        return output

    return predict


@contextlib.contextmanager
def _by_onnxruntime(path: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # whatever is wrong with the file
        raise RunError(f"{path} cannot be used ({first_line(error)}). Fix: {AGAIN}") from error


def _as_of_onnx(fact: dict[str, Any]) -> dict[str, Any]:
    dtype = {"float32": "float", "float64": "double"}.get(fact["dtype"], fact["dtype"])
    return {"dtype": f"tensor({dtype})", "shape": _fixed(fact["shape"])}


def _fixed(shape: list[Any]) -> list[int | None]:
    """The sizes that are the same in every batch."""
    return [n if isinstance(n, int) else None for n in shape]
