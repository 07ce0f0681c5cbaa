"""A model with all it needs to read tables: what training makes and ``open_run`` restores from a run folder."""

from __future__ import annotations

import contextlib
import functools
import time
import warnings
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import nn

from mmtab.config.parts import trust, trusted
from mmtab.config.types import Hardware, LocalSettings, RunConfig
from mmtab.data import files
from mmtab.data import table as tables
from mmtab.data.pairs import Pairs, Records, read_pairs, read_records
from mmtab.data.schema import Schema
from mmtab.data.spelling import typed
from mmtab.data.streams import Stream, slices
from mmtab.data.table import Table
from mmtab.features.backbones import Backbones
from mmtab.features.batches import PairBatch, RowBatch, is_known
from mmtab.features.cache import FeatureCache
from mmtab.features.encoded import EncodedTable, encode_cross, encode_table
from mmtab.features.loader import LengthBatches, PairBatches, RowBatches, loader
from mmtab.features.preprocess import Fitted
from mmtab.features.text import Sequences, cross_columns
from mmtab.features.unseen import warn_of_unseen
from mmtab.model.matcher import Matcher
from mmtab.runs.folder import (
    CONFIG,
    FITTED,
    TASK,
    open_config,
    read_facts,
    read_run_file,
    read_schema,
    read_task_state,
    reading,
)
from mmtab.runs.inputs import labels_of, pair_ids, row_ids, store_of
from mmtab.runs.manifest import read_manifest, verified, verify_below
from mmtab.runs.predictions import predictions_table
from mmtab.training.build import build_model, build_task
from mmtab.training.compute import Compute, silence_libraries
from mmtab.training.mining import RowEncoder
from mmtab.training.places import BEST
from mmtab.training.predictions import Predictions, gather
from mmtab.training.tasks import Task
from mmtab.training.weights import load_weights, no_larger_than
from mmtab.utils import distributed
from mmtab.utils.cache import Store
from mmtab.utils.engine import must_see
from mmtab.utils.errors import RunError
from mmtab.utils.machine import prepare_process
from mmtab.utils.progress import steps

Batches = RowBatches | PairBatches
Rows = Table | Stream | tuple[Records, Pairs]  # what is scored: rows of a table, or pairs of records
SLICE = 1024  # rows in memory at a time, with all features


@dataclass(frozen=True)
class Session:
    """A model with all it needs to read tables.

    config:  the run's settings
    schema:  columns and task of the dataset
    fitted:  scalers, vocabularies and classes of train
    model:   batch -> scores
    backbones: what reads text and pictures for the model
    task:    the scores' loss, metrics and predictions, with its calibration
    compute: hardware and precision
    """

    config: RunConfig
    schema: Schema
    fitted: Fitted
    model: nn.Module
    backbones: Backbones
    task: Task
    compute: Compute

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled it is the name of its folder: whoever unpickles it opens the finished run, with all that this
        process trusts. Options of one prediction, such as a threshold of its own, stay here."""
        config = self.config
        local = (config.data_root, config.cache, config.cache_gb, tuple(trusted()), config.dataset.bad_cells)
        return _opened_again, (Path(config.output).absolute(), self.compute.hardware, *local)

    @property
    def cross_columns(self) -> list[str]:
        """Text columns of which the cross-encoder reads both rows of a pair in one sequence."""
        spec = self.backbones.cross_spec
        return [] if spec is None else cross_columns(self.schema, spec.also)

    @property
    def classes(self) -> tuple[list[str], pa.Array]:
        """Names of the classes, and the classes in the type that train had them in; none but of k-way."""
        coder = self.fitted.preprocessor.labels_
        names = [] if coder is None else coder.classes_
        return names, typed(pa.array(names, pa.string()), self.schema.stored(self.schema.label))

    @property
    def rows(self) -> RowEncoder:
        return RowEncoder(self.model, self.compute, self.config.trainer.eval_batch_size)

    def encode(self, table: Table | Stream, store: Store | None = None) -> EncodedTable:
        """All that is computed once for a table, and kept in ``store`` (default: the cache)."""
        self.warn_of_bad_cells(table)
        return encode_table(
            table,
            self.schema,
            self.fitted.preprocessor,
            self.backbones,
            self._cache(store),
            bad_cells=self.config.dataset.bad_cells,  # type: ignore[arg-type]
            store_frozen=self.config.store_frozen,
            compare_pictures=self.fitted.similarity is not None and bool(self.config.pair_head.compare),
            lexicon=self.fitted.lexicon,
        )

    def encode_cross(self, table: Table | Stream, store: Store) -> Sequences | None:
        """The part of ``encode`` that a cross-encoder reads."""
        columns, frozen = self.cross_columns, self.config.store_frozen
        return encode_cross(table, columns, self.backbones, self._cache(store), frozen)

    def _cache(self, store: Store | None) -> FeatureCache:
        return FeatureCache(store or store_of(self.config), self.compute.autocast, self.compute.device)

    def warn_of_bad_cells(self, table: Table | Stream) -> None:
        if table.n_bad_cells:
            warnings.warn(
                f"{self.schema.name}, table {table.name}: {table.n_bad_cells} bad cells taken as missing", stacklevel=3
            )

    def encode_new(self, table: Table | Stream, store: Store | None = None) -> EncodedTable:
        """``encode`` of rows that came after training, with a warning of columns that are unlike those of train."""
        encoded = self.encode(table, store)
        warn_of_unseen(table, encoded, self.fitted, self.schema)
        return encoded

    def compare_with_train(self, table: Table) -> None:
        """Warn of columns that are unlike those of train, as ``encode_new`` does, without reading text or pictures."""
        fitted = self.fitted.preprocessor
        plain = EncodedTable(len(table), fitted.numeric(table, self.schema), fitted.categorical(table))
        warn_of_unseen(table, plain, self.fitted, self.schema)

    def batches(
        self, rows: Rows, store: Store | None = None, labels: np.ndarray | None = None, is_new: bool = True
    ) -> Batches:
        """Batches over rows, or pairs, that came after training, with labels where they have them. ``labels``: those of
        rows, where they are at hand; ``is_new``: warn of columns that are unlike those of train."""
        encode = self.encode_new if is_new else self.encode
        if isinstance(rows, tuple):
            records, pairs = rows
            return self.pairs(records, encode(records.table, store), pairs)
        return RowBatches(encode(rows, store), self.labels(rows) if labels is None else labels)

    def labels(self, rows: Rows) -> np.ndarray:
        """[n] of rows, or [n, r] int64 of pairs; -1 (NaN of numbers) where unknown."""
        if not isinstance(rows, tuple):
            return labels_of(self.fitted, rows, self.schema)
        pairs = rows[1]
        labels = np.full((len(pairs), len(self.schema.relations)), -1, np.int64)
        for r, name in enumerate(self.schema.relations):
            if name in pairs.relations:
                labels[:, r] = np.asarray(pairs.relations[name])
        return labels

    def encoded_slices(self, table: Table | Stream, store: Store | None = None) -> Iterator[EncodedTable]:
        """``encode_new`` of the table as one; with a ``store``, whose arrays are not kept, ``SLICE`` rows at a time."""
        if store is None:
            yield self.encode_new(table)
            return
        self.warn_of_bad_cells(table)
        parts: list[tuple[np.ndarray, np.ndarray]] = []
        for part in slices(table, SLICE):
            encoded = self.encode(part, store)
            parts.append((encoded.numeric, encoded.categorical))
            yield encoded
        numeric, categorical = (np.concatenate(columns) for columns in zip(*parts, strict=True))
        plain = EncodedTable(len(table), numeric, categorical)
        warn_of_unseen(table, plain, self.fitted, self.schema)

    def pairs(
        self,
        records: Records,
        encoded: EncodedTable,
        pairs: Pairs,
        training: bool = False,
        similarities: np.ndarray | None = None,
    ) -> PairBatches:
        """Batches over pairs of the records. ``similarities``: their ``compare``, where it is at hand."""
        if similarities is None:
            similarities = self.compare(records.table, pairs.left, pairs.right, encoded.pictures)
        head = self.config.pair_head
        return PairBatches(
            encoded,
            pairs.left,
            pairs.right,
            self.labels((records, pairs)),
            similarities,
            owners=self.fitted.similarity.owners if self.fitted.similarity else (),
            augment=head.augment if training else None,
            n_mined=round(head.hard_negatives * len(pairs)) if training else 0,
            seed=self.config.seed,
        )

    def compare(
        self, records: Table, left: np.ndarray, right: np.ndarray, pictures: Mapping[str, np.ndarray]
    ) -> np.ndarray | None:
        """[n_pairs, f] float32: similarity features of pairs, scaled; None where the model reads none."""
        if self.fitted.similarity is None or not self.config.pair_head.compare:
            return None
        return self.fitted.scale(self.fitted.similarity(records, left, right, pictures))

    def load(self, split: str, folder: Path) -> tuple[Batches, pa.Table, list[Path]]:
        """As ``read``, as batches."""
        rows, ids, paths = self.read(split, folder)
        return self.batches(rows), ids, paths

    def read(self, split: str, folder: Path) -> tuple[Rows, pa.Table, list[Path]]:
        """A split of a dataset folder to score: rows or pairs, their id columns, and the files read."""
        bad_cells: Any = self.config.dataset.bad_cells
        if self.schema.of_rows:
            path = tables.find_table(folder, self.schema, split)
            table = Stream(path, self.schema, folder, bad_cells)
            return table, row_ids(table), [path]
        records = read_records(folder, self.schema, bad_cells)
        pairs = read_pairs(folder, self.schema, split, records)
        path = tables.find_table(folder, self.schema, f"pairs_{split}")
        return (records, pairs), pair_ids(pairs), [path]

    def predictions(self, batches: Batches) -> tuple[Predictions, float]:
        """The predictions of all rows or pairs, in order, and the seconds they took."""
        start, size = time.perf_counter(), self.config.trainer.eval_batch_size
        if isinstance(batches, PairBatches):
            self.rows.encode_rows(batches)
        if not self.compute.needs_trainer:
            torch.use_deterministic_algorithms(True, warn_only=True)  # as a trainer does
            with self.evaluating():
                chunks = LengthBatches(batches, size, False)
                of_chunks = steps(chunks, len(chunks), "predictions")
                parts = [self._predictions(batches.__getitems__(rows)) for rows in of_chunks]
            return gather(parts), time.perf_counter() - start
        from mmtab.training.module import Module

        trainer = self.compute.trainer(logger=False, enable_checkpointing=False, enable_progress_bar=False)
        module = Module(self.model, self.task, self.config.trainer)
        outputs: Any = trainer.predict(module, loader(batches, size, shuffle=False))
        predictions = gather([part for parts in distributed.of_all(list(outputs)) for part in parts])
        return predictions, time.perf_counter() - start

    def _predictions(self, batch: RowBatch | PairBatch) -> Predictions:
        batch = batch.to(self.compute.device)
        return self.task.predict(self.model(batch), batch.label, batch.row)

    @property
    def width(self) -> int:
        """Of ``vectors``."""
        search = self.model.search if isinstance(self.model, Matcher) else None
        if search is None:
            return self.config.d_model * self.config.n_members
        return search.n_members * search.d_vector

    def vectors(self, table: EncodedTable, is_right: bool | None = None) -> np.ndarray:
        """[n, d] float32 row vectors: those that the head reads; of matching those that are searched, for which
        ``is_right`` says which table rows are of. Raises RunError for a pair model without any."""
        model, parts, size = self.model, list[torch.Tensor](), self.config.trainer.eval_batch_size
        with self.evaluating():
            for start in range(0, table.n_rows, size):
                batch = table.rows(np.arange(start, min(start + size, table.n_rows))).to(self.compute.device)
                if isinstance(model, Matcher):
                    right = None if is_right is None else torch.full((batch.n_rows,), is_right)
                    x = model.vectors(batch, None, right)
                else:
                    x = model.row_vectors(batch)  # type: ignore[operator]
                if x is None:
                    raise RunError("this run has no vectors of records: it was trained without search and towers")
                parts.append(x.float().cpu())
        return torch.cat(parts).numpy()

    def base_metrics(self, batches: Batches) -> dict[str, float] | None:
        """Of what the model's base says by itself, uncalibrated, pairs by the threshold that suits it best; None where
        the model has none."""
        base: Any = getattr(self.model, "base", None)
        if base is None:
            return None
        labels, device = batches.labels, self.compute.device
        with self.evaluating():
            if isinstance(batches, RowBatches):
                labels = labels[batches.chosen]
                output = torch.cat([base(b.table.to(device)).float().cpu() for b in batches.in_order()])
            else:
                assert batches.similarity is not None
                parts = torch.from_numpy(batches.similarity).split(self.config.trainer.eval_batch_size)
                output = torch.cat([base(part.to(device)).cpu() for part in parts])
        task = build_task(self.config, self.schema, self.fitted)
        known = is_known(labels).reshape(len(labels), -1).all(1)
        p, labels = task.probabilities(output.numpy()[known].astype(float)), labels[known]
        task.fit_threshold(Predictions(np.flatnonzero(known), labels, p))
        return task.metrics(p, labels)

    def write_predictions(self, path: Path, ids: pa.Table, predictions: Predictions, labels: np.ndarray) -> None:
        """Write a predictions file of a labelled split."""
        as_text = path.suffix == ".csv"
        files.write_table(path, self.predictions_table(ids, predictions, labels, as_text=as_text))

    def predictions_table(
        self,
        ids: pa.Table,
        predictions: Predictions,
        labels: np.ndarray | None = None,
        least_confidence: np.ndarray | None = None,
        level: float | None = None,
        as_text: bool = False,
    ) -> pa.Table:
        """What a predictions file holds; without labels for rows that have none. Predictions with less than
        ``least_confidence`` [r] are left out. ``level``: of intervals; ``as_text``: for a csv."""
        classes, values = self.classes
        return predictions_table(
            ids,
            predictions,
            self.task.y_pred(predictions),
            interval=self.task.interval(predictions, level),
            relations=list(self.schema.relations),
            classes=classes,
            values=values,
            labels=labels,
            confidence=self.task.confidence(predictions),
            least_confidence=least_confidence,
            as_text=as_text,
        )

    def evaluating(self) -> contextlib.AbstractContextManager[None]:
        """Forward passes without gradients or dropout, in this run's precision."""
        return self.compute.evaluating(self.model)


@functools.lru_cache(maxsize=1)
def _opened_again(folder: Path, hardware: Hardware, data_root: str, *local: Any) -> Session:
    """The run, opened once in a worker of an engine."""
    must_see(folder, folder)
    cache, cache_gb, modules, bad_cells = local
    trust(modules)
    return open_run(folder, hardware, LocalSettings(data_root, cache, cache_gb, list(modules), bad_cells))


def open_run(folder: Path, hardware: Hardware | None = None, local: LocalSettings | None = None) -> Session:
    """Restore a finished run; raises RunError when the folder is not one, one of another version, damaged, or with
    parts that are not trusted. ``local``: as for ``open_config``."""
    read_facts(folder)  # which checks the format
    silence_libraries()
    prepare_process()
    config, schema = open_config(folder, local), read_schema(folder)
    is_listed = str(BEST) in read_manifest(folder)
    with ThreadPoolExecutor(1) as pool:
        best = pool.submit(verified, folder, str(BEST))  # while the model is built, for this takes as long
        raw = read_run_file(folder, FITTED)
        with reading(folder / FITTED):
            fitted = Fitted.from_dict(raw, schema)
        verify_below(folder, "text_backbone", "cross_backbone")
        if not (folder / BEST).is_file():
            raise RunError(f"{folder} has no weights: {BEST} is not there")
        with reading(folder / CONFIG), no_larger_than(folder / BEST):
            model, backbones = build_model(config, schema, fitted, folder)
            task = build_task(config, schema, fitted)
        load_weights(model, best.result(), is_whole=is_listed)
    model.eval()
    state = read_task_state(folder)
    with reading(folder / TASK):
        task.load_state_dict(state)
    return Session(
        config, schema, fitted, model, backbones, task, Compute(hardware or Hardware(), config.trainer.precision)
    )
