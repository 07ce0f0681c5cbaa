"""Fitting a model: the trainer, its callbacks and checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback, EarlyStopping
from pytorch_lightning.loggers import Logger
from torch import nn

from mmtab.config.types import TrainerConfig
from mmtab.features.loader import PairBatches, RowBatches, loader
from mmtab.model.row_model import RowModel
from mmtab.training.callbacks import BeforeValidation, EpochLines, EveryEpochs, MetricsFile, TimeLimit
from mmtab.training.checkpoints import AtomicIO, Checkpoints, find_last
from mmtab.training.compute import Compute
from mmtab.training.mining import HardNegativeMiner, RowEncoder
from mmtab.training.module import BadLoss, Module
from mmtab.training.tasks import Task
from mmtab.utils.errors import TrainingError
from mmtab.utils.progress import under_way


@dataclass(frozen=True)
class FitSettings:
    """What is fitted, and how.

    dataset:    name of the dataset, for error messages
    model:      batch -> scores
    task:       loss and metrics of the scores
    compute:    hardware and precision
    trainer:    settings of the optimisation
    seed:       of the order of training rows
    resume:     go on from the folder's last checkpoint, if there is one
    train:      batches to learn from
    valid:      batches by which the best epoch is chosen
    ids_of:     ids of training rows (or pairs) by number, for error messages
    miner:      finds hard negatives while training; None: there are none to find
    mine_every: epochs between two calls of ``miner``
    seconds:    after which training ends; None: it runs all epochs
    """

    dataset: str
    model: nn.Module
    task: Task
    compute: Compute
    trainer: TrainerConfig
    seed: int
    resume: bool
    train: RowBatches | PairBatches
    valid: RowBatches | PairBatches
    ids_of: Callable[[Sequence[int]], list[str]]
    miner: HardNegativeMiner | None
    mine_every: int
    seconds: float | None = None


def fit(
    settings: FitSettings, folder: Path, fingerprint: str = "", loggers: Sequence[Logger] = ()
) -> tuple[Module, pl.Trainer, Checkpoints]:
    """Train, or go on with the training of ``folder`` on data of the same ``fingerprint``. ``loggers`` get what
    metrics.csv gets. Raises TrainingError for a loss that is no number, with the ids of its batch."""
    model, options = settings.model, settings.trainer
    module, metrics = Module(model, settings.task, options), MetricsFile(folder / "metrics.csv")
    train_loader = loader(
        settings.train, options.batch_size, shuffle=True, seed=settings.seed, n_workers=options.n_workers
    )
    sampler: Any = train_loader.batch_sampler
    checkpoints = Checkpoints(
        folder,
        f"valid/{settings.task.chosen_by}",
        settings.train,
        sampler,
        metrics,
        fingerprint=fingerprint,
        keep=options.keep,
        seconds=options.checkpoint_seconds,
    )
    has_base = isinstance(model, RowModel) and model.base is not None  # then it is one to choose before training too
    lines = EpochLines(settings.task.metric)
    if options.compile:
        model.compile(dynamic=True)
    trainer = settings.compute.trainer(
        max_epochs=options.max_epochs,
        accumulate_grad_batches=options.accumulate,
        gradient_clip_val=options.gradient_clip,
        num_sanity_val_steps=-1 if has_base else 0,
        log_every_n_steps=max(1, len(settings.train) // options.batch_size // 10),
        logger=[metrics, *loggers],
        callbacks=_callbacks(settings, checkpoints, lines),
        enable_progress_bar=False,
        plugins=[AtomicIO()],
    )
    last = find_last(folder, fingerprint) if settings.resume else None
    valid_loader = loader(settings.valid, options.eval_batch_size, shuffle=False)
    try:
        with under_way(lines.stage):
            trainer.fit(module, train_loader, valid_loader, ckpt_path=last, weights_only=True)
    except BadLoss as error:
        ids = ", ".join(settings.ids_of(error.rows))
        raise TrainingError(
            f"{settings.dataset}: the {error.what} is {error.value:g} in epoch {trainer.current_epoch + 1}, after step "
            f"{trainer.global_step}, in the batch of {ids}. Look at these rows; or lower trainer.lr "
            f"(={options.lr:g}) and trainer.backbone_lr (={options.backbone_lr:g}), or set trainer.precision=fp32"
        ) from error
    except FloatingPointError as error:  # of the valid rows
        raise TrainingError(f"{settings.dataset}, valid, epoch {trainer.current_epoch + 1}: {error}") from error
    model._compiled_call_impl = None  # the scores of a run do not depend on whether it was compiled
    if trainer.interrupted:
        raise KeyboardInterrupt
    return module, trainer, checkpoints


def _callbacks(settings: FitSettings, checkpoints: Checkpoints, lines: EpochLines) -> list[Callback]:
    options = settings.trainer
    callbacks: list[Callback] = [
        EarlyStopping(
            checkpoints.monitor, patience=options.patience or 3, mode="min" if checkpoints.sign < 0 else "max"
        ),
        lines,
        checkpoints,
    ]
    if settings.seconds is not None:
        callbacks.insert(0, TimeLimit(settings.seconds))
    if settings.miner is not None:
        callbacks.insert(0, EveryEpochs(settings.miner, settings.mine_every))
    if isinstance(settings.valid, PairBatches):
        rows = RowEncoder(settings.model, settings.compute, options.eval_batch_size)
        callbacks.append(BeforeValidation(partial(rows.encode_rows, settings.valid)))
    return callbacks
