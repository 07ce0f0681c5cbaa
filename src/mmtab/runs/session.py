"""A model with all it needs to read tables: what training makes and ``open_run`` restores from a run folder."""

from __future__ import annotations

import contextlib
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytorch_lightning as pl
import torch
from torch import nn

from mmtab.config.types import PRECISIONS, Hardware, RunConfig
from mmtab.data import table as tables
from mmtab.data.cells import join
from mmtab.data.pairs import Pairs, Records, read_pairs, read_records, stack_sides
from mmtab.data.pictures import no_progress
from mmtab.data.schema import Schema, TaskKind
from mmtab.data.streams import Stream
from mmtab.data.table import Table
from mmtab.features.batches import Rows
from mmtab.features.encoded import EncodedTable, KWayBatches, PairBatches, encode_table, loader
from mmtab.features.fitted import Fitted
from mmtab.runs.folder import load_weights, open_config, read_facts, read_run_file
from mmtab.training import mining
from mmtab.training.build import build_model, build_task, cross_columns, encoder_of
from mmtab.training.checkpoints import BEST
from mmtab.training.module import Module
from mmtab.training.tasks import PairTask, Predictions, Task, gather
from mmtab.utils import distributed as ranks
from mmtab.utils.cache import Store
from mmtab.utils.errors import RunError
from mmtab.utils.machine import native_bf16, prepare_process

ROWS_IN_MEMORY = 1 << 30
Batches = KWayBatches | PairBatches


@dataclass
class Session:
    """A model with all it needs to read tables: what train() makes and open_run() restores."""

    config: RunConfig
    schema: Schema
    fitted: Fitted
    model: nn.Module
    task: Task
    hardware: Hardware = field(default_factory=Hardware)
    after_epochs: Callable[[], None] | None = None

    def kway(self, table: Table | Stream) -> KWayBatches:
        """Batches over a table, with labels where it has them."""
        return KWayBatches(self.encode(table), labels_of(self.fitted, table, self.schema))

    def compare(
        self, records: Table, left: np.ndarray, right: np.ndarray, pictures: Mapping[str, np.ndarray]
    ) -> np.ndarray | None:
        """[n_pairs, f] float32: comparison features of pairs, scaled; None where the model reads none."""
        if self.fitted.comparison is None or not self.config.pair_head.compare:
            return None
        return self.fitted.scale(self.fitted.comparison(records, left, right, pictures))

    def read_records(
        self, *, left: Path | None = None, right: Path | None = None, records: Path | None = None
    ) -> Records:
        """Tables to match: two, or one. Image paths start at the folder of the table that names them."""
        bad: Any = self.config.dataset.bad_cells
        if records is not None:
            return Records(tables.read_table(records, self.schema, bad_cells=bad), None)
        if left is None or right is None:
            raise RunError("matching wants left=TABLE and right=TABLE, or records=TABLE")
        if left.resolve().parent != right.resolve().parent:
            raise RunError("left and right must lie in one folder, where the paths of their pictures start")
        sides = [tables.read_table(side, self.schema, bad_cells=bad, partial=True) for side in (left, right)]
        return stack_sides(sides[0], sides[1], self.schema)

    @property
    def cross_columns(self) -> list[str]:
        """Columns of text that both rows of a pair are read in one sequence of."""
        return cross_columns(self.config, self.schema)

    def pairs(self, records: Records, encoded: EncodedTable, pairs: Pairs, training: bool = False) -> PairBatches:
        """Batches over pairs of the records."""
        head, labels = self.config.pair_head, np.full((len(pairs), len(self.schema.relations)), -1)
        for r, name in enumerate(self.schema.relations):
            if name in pairs.relations:
                labels[:, r] = np.asarray(pairs.relations[name])
        return PairBatches(
            encoded,
            pairs.left,
            pairs.right,
            labels.astype(np.int64),
            self.compare(records.table, pairs.left, pairs.right, encoded.pictures),
            compared=self.fitted.comparison.owners if self.fitted.comparison else (),
            augment=head.augment if training else None,
            n_mined=round(head.hard_negatives * len(pairs)) if training else 0,
            seed=self.config.seed,
        )

    def mine(self, records: Table, batches: PairBatches) -> None:
        """Fill the places for mined non-matches anew, with what the towers of today confuse."""
        n, encoded = len(batches) - batches.n_mined, batches.table
        left, right, match = batches.left[:n], batches.right[:n], (batches.labels[:n] == 1).any(1)
        a, b, known = mining.hard_negatives(self.vectors(encoded), left, right, match)
        known, anchor = np.unique(known, return_inverse=True)
        rows = np.concatenate([a, left[known]]), np.concatenate([b, right[known]])
        comparison = self.compare(records, *rows, encoded.pictures)
        scored = PairBatches(encoded, *rows, np.full((len(rows[0]), batches.labels.shape[1]), -1), comparison)
        outputs = [scored.__getitems__(list(range(i, min(i + 256, len(scored))))) for i in range(0, len(scored), 256)]
        with self.evaluating():
            logits = [self.model(batch.to(self.device)).logits.float().cpu().numpy() for batch in outputs]
        p = self.task.probabilities(np.concatenate(logits)).max(1) if logits else np.zeros(0)
        kept = np.flatnonzero(mining.passes(p[: len(a)], p[len(a) :][anchor]))
        hardest = kept[np.argsort(-p[kept], kind="stable")][: batches.n_mined]
        batches.mined(a[hardest], b[hardest], None if comparison is None else comparison[hardest])

    def vectors(self, encoded: EncodedTable) -> np.ndarray:
        """[n, d] float32: the towers' vectors of all rows, of length 1."""
        out = np.zeros((encoded.n_rows, self.config.d_model), np.float32)
        with self.evaluating():
            for rows, found in self._each_once(encoded, np.arange(encoded.n_rows)):
                assert found.vector is not None
                out[rows] = found.vector.float().numpy()
        return out

    def encode_rows(self, batches: PairBatches) -> None:
        """Encode each row of the pairs once, and not in each batch that it stands in; those that would take more than
        ``ROWS_IN_MEMORY`` bytes stay with the batches."""
        batches.known = None
        rows = np.unique(np.concatenate([batches.left, batches.right]))
        tokens: Any = self.model.tokenizer.column  # type: ignore[union-attr]
        if len(rows) * tokens.numel() * tokens.element_size() > ROWS_IN_MEMORY:
            return
        place = np.full(batches.table.n_rows, -1)
        with self.evaluating():
            found = list(self._each_once(batches.table, rows))
        place[np.concatenate([some for some, _ in found])] = np.arange(len(rows))
        batches.known = Rows.concat([each for _, each in found]), place

    def _each_once(self, encoded: EncodedTable, rows: np.ndarray) -> Iterator[tuple[np.ndarray, Rows]]:
        """Rows by number, those of similar length together, and what the model makes of each on its own; to be asked
        while ``evaluating``."""
        rows = rows[np.argsort(-encoded.text_lengths[rows], kind="stable")]
        size = self.config.trainer.eval_batch_size
        for start in range(0, len(rows), size):
            some = rows[start : start + size]
            yield some, self.model.rows(encoded.rows(some).to(self.device)).to("cpu")  # type: ignore[operator, union-attr]

    @contextlib.contextmanager
    def evaluating(self) -> Iterator[None]:
        """Forward passes without gradients or dropout, in this run's precision."""
        training = self.model.training
        self.model.to(self.device).eval()
        try:
            with torch.inference_mode(), self.autocast():
                yield
        finally:
            self.model.train(training)

    def load(self, split: str, folder: Path) -> tuple[Batches, pa.Table, list[Path]]:
        """A split of a dataset folder to score: batches, its id columns, and the files read."""
        if self.schema.task is TaskKind.KWAY:
            path = tables.find_table(folder, self.schema, split)
            table = Stream(path, self.schema, folder, self.config.dataset.bad_cells)  # type: ignore[arg-type]
            return self.kway(table), row_ids(table), [path]
        records = read_records(folder, self.schema, self.config.dataset.bad_cells)  # type: ignore[arg-type]
        pairs = read_pairs(folder, self.schema, split, records)
        path = tables.find_table(folder, self.schema, f"pairs_{split}")
        return self.pairs(records, self.encode(records.table), pairs), pair_ids(pairs), [path]

    def predictions(self, batches: Batches) -> tuple[Predictions, float]:
        """Of all rows or pairs, in order, and the seconds it took."""
        trainer = self.trainer(logger=False, enable_checkpointing=False, enable_progress_bar=False)
        start = time.perf_counter()
        if isinstance(batches, PairBatches):
            self.encode_rows(batches)
        outputs: Any = trainer.predict(
            Module(self.model, self.task, self.config.trainer),
            loader(batches, self.config.trainer.eval_batch_size, shuffle=False),
        )
        found = gather([part for parts in ranks.of_all(list(outputs)) for part in parts])
        return found, time.perf_counter() - start

    def trainer(self, **options: Any) -> pl.Trainer:
        """A Lightning trainer with this run's hardware and precision."""
        where = self.hardware
        return pl.Trainer(
            accelerator=where.accelerator, devices=where.devices, num_nodes=where.n_nodes, strategy=self._strategy(),
            precision=self.precision, enable_model_summary=False, use_distributed_sampler=False, deterministic="warn",
            **options,
        )  # fmt: skip

    def _strategy(self) -> Any:
        where = self.hardware
        if where.strategy == "auto" and where.devices == 1 and where.n_nodes == 1:
            return "auto"
        if where.strategy == "fsdp":
            from pytorch_lightning.strategies import ModelParallelStrategy

            n = max(1, torch.cuda.device_count()) if where.devices == "auto" else int(where.devices)
            return ModelParallelStrategy(n * where.n_nodes, 1, save_distributed_checkpoint=False)
        from pytorch_lightning.strategies import DDPStrategy

        # A column may be missing in a whole batch, so that its encoder does not learn from it.
        return DDPStrategy(find_unused_parameters=True, gradient_as_bucket_view=True)

    @property
    def device(self) -> torch.device:
        if self.hardware.accelerator not in ("auto", "gpu", "cuda") or not torch.cuda.is_available():
            return torch.device("cpu")
        return torch.device("cuda", ranks.local_rank())

    @property
    def precision(self) -> Any:
        wanted = self.config.trainer.precision
        return PRECISIONS[wanted] if wanted != "auto" else "bf16-mixed" if native_bf16(self.device) else "32-true"

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """The precision of this run's forward passes."""
        bf16 = self.precision == "bf16-mixed"
        return torch.autocast(self.device.type, torch.bfloat16) if bf16 else contextlib.nullcontext()

    def encode(self, table: Table | Stream, store: Store | None = None, progress: bool = True) -> EncodedTable:
        """All that is computed once for a table, and kept in ``store`` (default: the cache)."""
        if table.n_bad_cells:
            warnings.warn(
                f"{self.schema.name}, table {table.name}: {table.n_bad_cells} bad cells taken as missing", stacklevel=2
            )
        return encode_table(
            table, self.schema, self.fitted.preprocessor, encoder_of(self.model, "text"), encoder_of(self.model, "image"),
            store or store_of(self.config), cross=getattr(self.model, "cross", None),
            cross_columns=self.cross_columns, bad_cells=self.config.dataset.bad_cells,  # type: ignore[arg-type]
            autocast=self.autocast, device=self.device, store_frozen=self.config.store_frozen,
            compare_pictures=self.fitted.comparison is not None and bool(self.config.pair_head.compare), progress=progress_of if progress and self.config.trainer.progress else no_progress,
        )  # fmt: skip


def open_run(folder: Path, hardware: Hardware | None = None) -> Session:
    """Restore a finished run; raises RunError when the folder is not one, or one of another version."""
    facts = read_facts(folder)
    quieten()
    prepare_process()
    config = open_config(folder)
    schema = Schema.from_dict(read_run_file(folder, "schema.yaml"))
    fitted = Fitted.from_dict(read_run_file(folder, "fitted.json"), schema)
    model = build_model(config, schema, fitted, folder)
    load_weights(model, folder / BEST)
    task = build_task(config, schema, fitted)
    # Runs of before these have none
    task.temperatures = np.array(facts.get("temperatures", task.temperatures))
    if isinstance(task, PairTask):
        task.biases = np.array(facts.get("biases", task.biases))
        task.thresholds = np.array(facts["thresholds"])
    return Session(config, schema, fitted, model, task, hardware or Hardware())


def labels_of(fitted: Fitted, table: Table | Stream, schema: Schema) -> np.ndarray:
    """[n] int64, -1 where the table has no labels."""
    coder = fitted.preprocessor.labels_
    assert coder is not None and schema.label is not None
    return np.concatenate([coder.transform(batch, schema.label) for batch in table.batches()])


def row_ids(table: Stream) -> pa.Table:
    return pa.table({table.schema.id: join([batch.ids for batch in table.batches()])})


def pair_ids(pairs: Pairs) -> pa.Table:
    return pa.table({"left_id": pairs.left_ids, "right_id": pairs.right_ids})


def cache_of(config: RunConfig) -> Path:
    return Path(config.cache).expanduser()


def store_of(config: RunConfig) -> Store:
    return Store(cache_of(config), None if config.cache_gb is None else int(config.cache_gb * 1e9))


def progress_of(steps: Iterable[Any], total: int, title: str) -> Iterable[Any]:
    """A bar that goes when it is done."""
    from rich.progress import track

    return track(steps, title, total=total, transient=True) if total > 1 else steps


def quieten() -> None:
    """Silence remarks of libraries that a user can do nothing about."""
    import logging

    for name in ("pytorch_lightning", "lightning.pytorch", "lightning.fabric", "transformers"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for message in (".*num_workers.*", ".*in eval mode at the start of training.*", ".*custom batch sampler.*", ".*does not have many workers.*", ".*Trying to infer the `batch_size`.*", ".*exists and is not empty.*",
                    ".*`isinstance\\(treespec, LeafSpec\\)`.*", ".*lr_scheduler.step\\(\\).*", ".*your dataloader is not resumable.*", ".*sync_dist=True.*"):  # fmt: skip
        warnings.filterwarnings("ignore", message)
