"""The one LightningModule: both tasks, training, validation and prediction."""

from __future__ import annotations

import math
import time
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from mmtab.config import TrainerConfig
from mmtab.optim import parameter_groups, warmup_cosine
from mmtab.tasks import Predictions, Task, gather
from mmtab.tensors import KWayBatch, PairBatch


class Module(pl.LightningModule):
    """``model``: batch -> scores. Every valid epoch logs all metrics of the task as ``valid/<name>``."""

    def __init__(self, model: nn.Module, task: Task, settings: TrainerConfig) -> None:
        super().__init__()
        self.model, self.task, self.settings = model, task, settings
        self._seen: list[Predictions] = []
        self.epoch_seconds: list[float] = []  # of training alone
        self._losses: list[tuple[Tensor, Tensor]] = []  # not looked at yet, with their rows
        self._loss_sum, self._n_summed = 0.0, 0
        self.n_trained = 0

    @property
    def train_seconds(self) -> float:
        return sum(self.epoch_seconds)

    def training_step(self, batch: KWayBatch | PairBatch, index: int) -> Tensor:
        loss = self.task.loss_of(self.model(batch), batch.label)
        self.n_trained += len(batch.label)
        self._losses.append((loss.detach(), batch.row))
        tell = index % self.trainer.log_every_n_steps == 0  # type: ignore[attr-defined]
        if tell:
            self.log("train/loss_step", loss.detach(), prog_bar=True)
        if tell or loss.device.type == "cpu":  # elsewhere asking would make the device wait
            self._check_losses()
        return loss

    def _check_losses(self) -> None:
        """Raise FloatingPointError for a loss since the last time that is no number."""
        for loss, row in self._losses:
            self._loss_sum += loss.item() * len(row)
            if not math.isfinite(self._loss_sum):
                raise FloatingPointError(f"the loss is {loss.item()} at rows {row.tolist()}")
        self._n_summed += sum(len(row) for _, row in self._losses)
        self._losses.clear()

    def predict_step(self, batch: KWayBatch | PairBatch, index: int) -> Predictions:
        return self.task.predict(self.model(batch), batch.label, batch.row)

    def validation_step(self, batch: KWayBatch | PairBatch, index: int) -> None:
        self._seen.append(self.predict_step(batch, index))

    def on_validation_epoch_end(self) -> None:
        self._check_losses()
        self.log("train/loss_epoch", self._loss_sum / max(self._n_summed, 1))
        predictions = gather(self._seen)
        self._seen.clear()
        self.task.fit_threshold(predictions)
        for name, value in self.task.metrics_of(predictions).items():
            self.log(f"valid/{name}", value, prog_bar=name == self.task.metric)

    def on_fit_start(self) -> None:
        self.model.train()  # pretrained parts arrive in eval mode

    def on_train_epoch_start(self) -> None:
        self._loss_sum, self._n_summed = 0.0, 0
        self._started = time.perf_counter()

    def on_validation_start(self) -> None:
        if not self.trainer.sanity_checking and hasattr(self, "_started"):
            self.epoch_seconds.append(time.perf_counter() - self._started)

    def configure_optimizers(self) -> Any:
        s = self.settings
        optimizer = torch.optim.AdamW(parameter_groups(self.model, s.lr, s.backbone_lr, s.weight_decay), fused=True)
        # Kept, for to walk through all modules of frozen networks in each step takes longer than to clip.
        self._learned = [p for group in optimizer.param_groups for p in group["params"]]
        schedule = warmup_cosine(optimizer, int(self.trainer.estimated_stepping_batches), s.warmup_fraction)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: Any = None, gradient_clip_algorithm: Any = None
    ) -> None:
        # Lightning refuses to clip with a fused optimizer under autocast; without a gradient scaler it is sound.
        if gradient_clip_val:
            torch.nn.utils.clip_grad_norm_(self._learned, gradient_clip_val)

    def transfer_batch_to_device(
        self, batch: KWayBatch | PairBatch, device: torch.device, index: int
    ) -> KWayBatch | PairBatch:
        return batch.to(device, non_blocking=True)
