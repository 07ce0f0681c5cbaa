"""The one LightningModule: both tasks, training, validation and prediction."""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from mmtab.config.types import TrainerConfig
from mmtab.features.batches import PairBatch, RowBatch
from mmtab.training.optim import parameter_groups, warmup_cosine
from mmtab.training.predictions import Predictions, gather
from mmtab.training.sharding import shard, whole
from mmtab.training.tasks import Task
from mmtab.utils import distributed

EXPLODED = 1e3  # times the first loss


class BadLoss(FloatingPointError):
    """A loss or gradient that is not finite, or a loss that exploded, in a batch of the rows (or pairs) ``rows``."""

    def __init__(self, value: float, rows: list[int], what: str = "loss") -> None:
        super().__init__(f"the {what} is {value:g} at rows {rows}")
        self.value, self.rows, self.what = value, rows, what


class Module(pl.LightningModule):
    """``model``: batch -> scores. Every valid epoch logs all metrics of the task as ``valid/<name>``."""

    def __init__(self, model: nn.Module, task: Task, settings: TrainerConfig) -> None:
        super().__init__()
        self.model, self.task, self.settings = model, task, settings
        self.n_trained = 0  # rows
        self.n_steps = 0  # of the optimizer, of the whole training as planned
        self.epoch_seconds: list[float] = []  # of training, without validation
        self._predictions: list[Predictions] = []  # of this validation
        self._losses: list[tuple[Tensor, Tensor]] = []  # not checked yet, with their rows
        self._norms: list[tuple[Tensor, Tensor]] = []  # of gradients not checked yet, with the rows of the step
        self._rows: list[Tensor] = []  # since the last step of the optimizer
        self._first_loss: float | None = None
        self._loss_sum, self._n_summed = 0.0, 0  # of this epoch
        self._seconds_before = 0.0  # in this epoch, before the run was resumed

    @property
    def train_seconds(self) -> float:
        return sum(self.epoch_seconds)

    def training_step(self, batch: RowBatch | PairBatch, index: int) -> Tensor:
        scores = self.model(batch)
        each = [scores, *scores.others]
        loss = torch.stack([self.task.loss_of(of_one, batch.label) for of_one in each]).mean()
        self.n_trained += len(batch.label)
        step_loss = loss.detach()
        self._losses.append((step_loss, batch.row))
        self._rows.append(batch.row)
        if self.trainer.world_size > 1:
            loss = loss * self._share(loss, len(batch.label))
        logs = index % self.trainer.log_every_n_steps == 0  # type: ignore[attr-defined]
        if logs:
            self.log("train/loss_step", step_loss, prog_bar=True, logger=False)
            for logger in self.trainer.loggers:  # now, so that a checkpoint of this step has it
                logger.log_metrics({"epoch": self.current_epoch, "train/loss_step": step_loss.item()}, self.global_step)
        if logs or loss.device.type == "cpu":  # elsewhere reading the loss would make the device wait
            self._check_losses()
        return loss

    def _share(self, loss: Tensor, n: int) -> Tensor:
        """The factor that turns the mean over processes of their mean losses into the mean over all rows."""
        total = torch.tensor(float(n), device=loss.device)
        torch.distributed.all_reduce(total)
        return n * self.trainer.world_size / total

    def _check_losses(self) -> None:
        """Raise BadLoss for a loss or gradient since the last check that is not finite, or a loss that exploded."""
        for norm, row in self._norms:  # before the losses, which follow a step later
            if not math.isfinite(norm.item()):
                raise BadLoss(norm.item(), row.tolist(), "length of the gradient")
        self._norms.clear()
        for loss, row in self._losses:
            value = loss.item()
            if self._first_loss is None:
                self._first_loss = max(1.0, value)
            if not value < EXPLODED * self._first_loss:
                raise BadLoss(value, row.tolist())
            self._loss_sum += value * len(row)
            self._n_summed += len(row)
        self._losses.clear()

    def predict_step(self, batch: RowBatch | PairBatch, index: int) -> Predictions:
        return self.task.predict(self.model(batch), batch.label, batch.row)

    def validation_step(self, batch: RowBatch | PairBatch, index: int) -> None:
        self._predictions.append(self.predict_step(batch, index))

    def on_validation_epoch_end(self) -> None:
        self._check_losses()
        sums = np.sum(distributed.of_all((self._loss_sum, self._n_summed)), 0)
        self.log("train/loss_epoch", float(sums[0] / max(sums[1], 1)))
        predictions = gather([part for parts in distributed.of_all(self._predictions) for part in parts])
        self._predictions.clear()
        self.task.fit_threshold(predictions)
        for name, value in self.task.metrics_of(predictions).items():
            self.log(f"valid/{name}", value, prog_bar=name == self.task.metric)

    def on_fit_start(self) -> None:
        self.model.train()  # pretrained parts arrive in eval mode
        rank, n_ranks = distributed.rank()
        if n_ranks > 1:  # all began with one seed; dropout is to differ
            torch.manual_seed(torch.initial_seed() + rank)

    def on_train_epoch_start(self) -> None:
        self._loss_sum, self._n_summed, self._seconds_before = 0.0, 0, 0.0
        self.on_train_start()

    def on_train_start(self) -> None:
        self._started = time.perf_counter()

    def on_validation_start(self) -> None:
        if self.trainer.state.fn == "fit" and not self.trainer.sanity_checking:
            self.epoch_seconds.append(self._seconds_before + time.perf_counter() - self._started)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._check_losses()
        within_epoch = len(self.epoch_seconds) <= self.trainer.current_epoch
        checkpoint["module"] = {
            "epoch_seconds": self.epoch_seconds,
            "loss_sum": self._loss_sum,
            "n_summed": self._n_summed,
            "n_trained": self.n_trained,
            "usual": self._first_loss,
            "seconds": self._seconds_before + time.perf_counter() - self._started if within_epoch else 0.0,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        state = checkpoint["module"]
        self.epoch_seconds, self.n_trained, self._first_loss = (
            state["epoch_seconds"],
            state["n_trained"],
            state["usual"],
        )
        self._loss_sum, self._n_summed, self._seconds_before = state["loss_sum"], state["n_summed"], state["seconds"]

    def configure_model(self) -> None:
        if self.device_mesh is not None:
            shard(self.model, self.device_mesh["data_parallel"])

    def configure_optimizers(self) -> Any:
        s = self.settings
        optimizer = torch.optim.AdamW(parameter_groups(self.model, s.lr, s.backbone_lr, s.weight_decay), fused=True)
        # Listed once: walking through all modules of frozen networks in each step would take longer than clipping.
        self._learned = [p for group in optimizer.param_groups for p in group["params"]]
        self.n_steps = int(self.trainer.estimated_stepping_batches)
        schedule = warmup_cosine(optimizer, lambda: self.n_steps, s.warmup_fraction)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: Any = None, gradient_clip_algorithm: Any = None
    ) -> None:
        # Lightning refuses to clip with a fused optimizer under autocast; without a gradient scaler it is sound.
        if gradient_clip_val:
            norm = torch.nn.utils.clip_grad_norm_(self._learned, gradient_clip_val)
            if getattr(self.trainer.precision_plugin, "scaler", None) is None:  # a scaler skips such steps in fp16
                self._norms.append((whole(norm.detach()), torch.cat(self._rows)))
        self._rows.clear()

    def transfer_batch_to_device(
        self, batch: RowBatch | PairBatch, device: torch.device, index: int
    ) -> RowBatch | PairBatch:
        return batch.to(device, non_blocking=True)
