"""The one LightningModule: both tasks, training, validation and prediction."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from mmtab.config import TrainerConfig
from mmtab.optim import parameter_groups, warmup_cosine
from mmtab.tasks import StepOutput, Task
from mmtab.tensors import KWayBatch, PairBatch


class Module(pl.LightningModule):
    """``model``: batch -> logits. Every valid epoch logs all metrics of the task as ``valid/<name>``."""

    def __init__(self, model: nn.Module, task: Task, settings: TrainerConfig) -> None:
        super().__init__()
        self.model, self.task, self.settings = model, task, settings
        self._seen: list[StepOutput] = []
        self.train_seconds = 0.0
        self.n_trained = 0

    def step(self, batch: KWayBatch | PairBatch) -> StepOutput:
        scores = self.model(batch)
        known = bool((batch.label >= 0).all())
        loss = self.task.loss(scores.logits, batch.label) if known else scores.logits.new_zeros(())
        if scores.loss is not None:
            loss = loss + scores.loss
        return StepOutput(loss.float(), scores.logits.float(), batch.label, batch.row)

    def training_step(self, batch: KWayBatch | PairBatch, index: int) -> Tensor:
        output = self.step(batch)
        if not torch.isfinite(output.loss):
            raise FloatingPointError(f"the loss is {output.loss.item()} at rows {output.row.tolist()}")
        self.log("train/loss", output.loss, batch_size=len(output.label), on_step=True, on_epoch=True, prog_bar=True)
        self.n_trained += len(output.label)
        return output.loss

    def validation_step(self, batch: KWayBatch | PairBatch, index: int) -> None:
        self._seen.append(self.step(batch))

    def on_validation_epoch_end(self) -> None:
        logits, label, _ = gather(self._seen)
        self._seen.clear()
        probabilities = self.task.probabilities(logits)
        self.task.fit_threshold(probabilities, label)
        for name, value in self.task.metrics(probabilities, label).items():
            self.log(f"valid/{name}", value, prog_bar=name == self.task.metric)

    def predict_step(self, batch: KWayBatch | PairBatch, index: int) -> StepOutput:
        return self.step(batch)

    def on_fit_start(self) -> None:
        self.model.train()  # pretrained parts arrive in eval mode

    def on_train_epoch_start(self) -> None:
        self._started = time.perf_counter()

    def on_validation_start(self) -> None:
        if not self.trainer.sanity_checking and hasattr(self, "_started"):
            self.train_seconds += time.perf_counter() - self._started

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


def gather(outputs: list[StepOutput]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Logits, labels and row numbers of all batches, in row order."""
    row = torch.cat([o.row for o in outputs]).cpu().numpy()
    order = np.argsort(row, kind="stable")
    logits = torch.cat([o.logits for o in outputs]).cpu().double().numpy()[order]
    return logits, torch.cat([o.label for o in outputs]).cpu().numpy()[order], row[order]
