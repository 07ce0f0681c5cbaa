"""Lightning callbacks and loggers of a training run."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from lightning_utilities.core.rank_zero import rank_zero_only
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loggers import Logger

from mmtab.utils import distributed
from mmtab.utils.atomic import write_text
from mmtab.utils.progress import Stage, say

WRITE_EVERY = 5.0  # seconds between two writes of metrics.csv


class EpochLines(Callback):
    """One line an epoch, and meanwhile how far training is."""

    def __init__(self, metric: str) -> None:
        self.metric, self.stage = metric, Stage("training")

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.stage.begin(trainer.global_step)
        self.started = time.perf_counter()  # of a run that resumes within an epoch

    def on_train_epoch_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.stage.title = f"epoch {trainer.current_epoch + 1} of {trainer.max_epochs}, step"
        self.started = time.perf_counter()

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.stage.done, self.stage.total = trainer.global_step, module.n_steps

    def on_validation_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.stage.note = "scoring valid"

    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.stage.note = ""

    @rank_zero_only
    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        values = trainer.callback_metrics
        shown = {
            "loss": values.get("train/loss_epoch"),
            "valid loss": values.get("valid/log_loss"),
            f"valid {self.metric}": values.get(f"valid/{self.metric}"),
        }
        text = "  ".join(f"{name} {float(value):.4f}" for name, value in shown.items() if value is not None)
        say(f"epoch {trainer.current_epoch + 1:>3}  {text}  {time.perf_counter() - self.started:.1f} s")


class TimeLimit(Callback):
    """Ends training after so many ``seconds``, validation and what ran before a resumption included. The steps that the
    time will do are estimated after each, and are what the learning rate falls over."""

    MIN_STEPS = 5  # of a process, before its speed is known

    def __init__(self, seconds: float) -> None:
        self.seconds, self.before, self.planned, self.is_up = seconds, 0.0, 0, False

    @property
    def elapsed(self) -> float:
        return self.before + time.perf_counter() - self.started

    def on_train_start(self, trainer: pl.Trainer, module: Any) -> None:
        self.started, self.first_step, self.planned = time.perf_counter(), trainer.global_step, module.n_steps

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        step, left = trainer.global_step, self.seconds - self.elapsed
        done, n = step - self.first_step, self.planned
        if left <= 0:
            n = step
        elif done >= self.MIN_STEPS:
            n = step + 1 + int(left * done / (self.elapsed - self.before))
        module.n_steps = distributed.of_first(max(1, min(self.planned, n)))  # clocks differ a little
        self.is_up = module.n_steps <= step < self.planned
        trainer.should_stop |= self.is_up

    @rank_zero_only
    def on_train_end(self, trainer: pl.Trainer, module: Any) -> None:
        if self.is_up:
            say(f"the time is up after {trainer.global_step} of {self.planned} steps")

    def state_dict(self) -> dict[str, Any]:
        return {"elapsed": self.elapsed}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.before = state_dict["elapsed"]


class EveryEpochs(Callback):
    """Calls ``function`` after every ``n``-th epoch but the last."""

    def __init__(self, function: Callable[[], None], n: int) -> None:
        self.function, self.n = function, n

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        last = trainer.should_stop or trainer.current_epoch + 1 == trainer.max_epochs
        if trainer.current_epoch % self.n == 0 and not last:
            self.function()


class BeforeValidation(Callback):
    """Calls ``function`` before each validation."""

    def __init__(self, function: Callable[[], None]) -> None:
        self.function = function

    def on_validation_epoch_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.function()


class MetricsLogger(Logger):
    """Logs metrics only: settings are in config.yaml. Without a name and version Lightning makes no folder for them."""

    name = version = ""

    def log_hyperparams(self, *args: Any, **options: Any) -> None:
        pass


class MetricsFile(MetricsLogger):
    """metrics.csv: a row each time something is logged. It is always written atomically from ``rows``, which a
    checkpoint saves and restores."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path, self.rows = path, list[dict[str, float]]()
        self._written_at = time.monotonic()

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.rows.append({name: float(value) for name, value in metrics.items()} | {"step": step or 0})
        if time.monotonic() - self._written_at > WRITE_EVERY:
            self.write()

    @rank_zero_only
    def finalize(self, status: str) -> None:
        self.write()

    @rank_zero_only
    def write(self) -> None:
        text, names = io.StringIO(), sorted({name for row in self.rows for name in row})
        writer = csv.DictWriter(text, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        write_text(self.path, text.getvalue())
        self._written_at = time.monotonic()
