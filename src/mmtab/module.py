"""The one LightningModule: both tasks, training, validation and prediction."""

from __future__ import annotations

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
        self.n_trained = 0

    @property
    def train_seconds(self) -> float:
        return sum(self.epoch_seconds)

    def training_step(self, batch: KWayBatch | PairBatch, index: int) -> Tensor:
        loss = self.task.loss_of(self.model(batch), batch.label)
        if not torch.isfinite(loss):
            raise FloatingPointError(f"the loss is {loss.item()} at rows {batch.row.tolist()}")
        self.log("train/loss", loss, batch_size=len(batch.label), on_step=True, on_epoch=True, prog_bar=True)
        self.n_trained += len(batch.label)
        return loss

    def predict_step(self, batch: KWayBatch | PairBatch, index: int) -> Predictions:
        return self.task.predict(self.model(batch), batch.label, batch.row)

    def validation_step(self, batch: KWayBatch | PairBatch, index: int) -> None:
        self._seen.append(self.predict_step(batch, index))

    def on_validation_epoch_end(self) -> None:
        predictions = gather(self._seen)
        self._seen.clear()
        self.task.fit_threshold(predictions)
        for name, value in self.task.metrics_of(predictions).items():
            self.log(f"valid/{name}", value, prog_bar=name == self.task.metric)

    def on_fit_start(self) -> None:
        self.model.train()  # pretrained parts arrive in eval mode

    def on_train_epoch_start(self) -> None:
        self._started = time.perf_counter()

    def on_validation_start(self) -> None:
        if not self.trainer.sanity_checking and hasattr(self, "_started"):
            self.epoch_seconds.append(time.perf_counter() - self._started)

    def configure_optimizers(self) -> Any:
        s = self.settings
        optimizer = torch.optim.AdamW(parameter_groups(self.model, s.lr, s.backbone_lr, s.weight_decay), fused=True)
        schedule = warmup_cosine(optimizer, int(self.trainer.estimated_stepping_batches), s.warmup_fraction)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: Any = None, gradient_clip_algorithm: Any = None
    ) -> None:
        # Lightning refuses to clip with a fused optimizer under autocast; without a gradient scaler it is sound.
        if gradient_clip_val:
            torch.nn.utils.clip_grad_norm_(self.parameters(), gradient_clip_val)

    def transfer_batch_to_device(
        self, batch: KWayBatch | PairBatch, device: torch.device, index: int
    ) -> KWayBatch | PairBatch:
        return batch.to(device, non_blocking=True)
