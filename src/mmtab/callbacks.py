"""What a run shows while it trains, and where it logs."""

from __future__ import annotations

import dataclasses
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loggers import CSVLogger, Logger

from mmtab.config import RunConfig


class EpochLines(Callback):
    """One line an epoch, which also reads well in a log file."""

    def __init__(self, metric: str) -> None:
        self.metric = metric

    def on_train_epoch_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.started = time.perf_counter()

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        values = trainer.callback_metrics
        shown = {
            "loss": values.get("train/loss_epoch"),
            "valid loss": values.get("valid/log_loss"),
            f"valid {self.metric}": values.get(f"valid/{self.metric}"),
        }
        text = "  ".join(f"{name} {float(value):.4f}" for name, value in shown.items() if value is not None)
        print(f"epoch {trainer.current_epoch + 1:>3}  {text}  {time.perf_counter() - self.started:.1f} s", flush=True)


class EveryEpochs(Callback):
    """Calls a function before every ``n``-th epoch from the second on, when the model has learnt something."""

    def __init__(self, function: Callable[[], None], n: int) -> None:
        self.function, self.n = function, n

    def on_train_epoch_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if trainer.current_epoch > 0 and (trainer.current_epoch - 1) % self.n == 0:
            self.function()


class BeforeValidation(Callback):
    """Calls ``function`` before each look at the valid split."""

    def __init__(self, function: Callable[[], None]) -> None:
        self.function = function

    def on_validation_epoch_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.function()


def progress_bar(wanted: bool) -> list[Callback]:
    """A rich bar on a terminal; in a log file it would be noise."""
    if not wanted or not sys.stdout.isatty():
        return []
    from pytorch_lightning.callbacks import RichProgressBar

    return [RichProgressBar(leave=False)]


def loggers(config: RunConfig, folder: Path) -> list[Logger]:
    """metrics.csv always; wandb where asked. wandb failing to start never stops a run."""
    found: list[Logger] = [CSVLogger(folder, name="", version="")]
    if config.wandb.mode != "disabled":
        try:
            from pytorch_lightning.loggers import WandbLogger

            options: dict[str, Any] = {
                "group": config.wandb.group,
                "tags": list(config.wandb.tags),
                "mode": config.wandb.mode,
            }
            logger = WandbLogger(
                project=config.wandb.project, save_dir=folder, name=f"{config.dataset.name}-{config.seed}", **options
            )
            logger.experiment.config.update(dataclasses.asdict(config))
            found.append(logger)
        except Exception as error:  # whatever wandb raises, the run matters more
            warnings.warn(f"wandb is off for this run: {error}", stacklevel=2)
    return found
