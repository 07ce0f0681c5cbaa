"""Where a model is computed, and in which precision."""

from __future__ import annotations

import contextlib
import logging
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from mmtab.config.types import PRECISIONS, Hardware
from mmtab.utils import distributed
from mmtab.utils.errors import ConfigError
from mmtab.utils.machine import native_bf16, to_evaluate

if TYPE_CHECKING:
    import pytorch_lightning as pl

IGNORED_WARNINGS = (
    ".*num_workers.*",
    ".*in eval mode at the start of training.*",
    ".*custom batch sampler.*",
    ".*does not have many workers.*",
    ".*Trying to infer the `batch_size`.*",
    ".*exists and is not empty.*",
    ".*`isinstance\\(treespec, LeafSpec\\)`.*",
    ".*lr_scheduler.step\\(\\).*",
    ".*your dataloader is not resumable.*",
    ".*sync_dist=True.*",
)


@dataclass(frozen=True)
class Compute:
    """``precision_setting``: one of config.types.PRECISIONS, or auto: bf16 where the hardware computes it itself."""

    hardware: Hardware
    precision_setting: str = "auto"

    def __post_init__(self) -> None:
        """Raise ConfigError for devices that this machine does not have."""
        kind, n, n_gpus = self.hardware.accelerator, self.hardware.devices, torch.cuda.device_count()
        on_gpu = kind in ("gpu", "cuda") or (kind == "auto" and n_gpus > 0)
        if kind not in ("auto", "cpu", "gpu", "cuda") or (kind == "gpu" and torch.backends.mps.is_available()):
            return
        n_there = n_gpus if on_gpu else os.cpu_count() or 1
        if on_gpu and not n_gpus:
            raise ConfigError(f"accelerator={kind}: this machine has no GPU that torch can use. Fix: accelerator=cpu")
        if isinstance(n, int) and n > max(n_there, 1 if on_gpu else 2):  # two processes try out what several devices do
            there = f"{n_there} {'GPU' if on_gpu else 'CPU core'}{'' if n_there == 1 else 's'}"
            raise ConfigError(f"devices={n}: this machine has {there}. Fix: devices={n_there}, or devices=auto")

    @property
    def device(self) -> torch.device:
        if self.hardware.accelerator not in ("auto", "gpu", "cuda") or not torch.cuda.is_available():
            return torch.device("cpu")
        return torch.device("cuda", distributed.local_rank())

    @property
    def precision(self) -> Any:
        """As Lightning names it."""
        if self.precision_setting != "auto":
            return PRECISIONS[self.precision_setting]
        return "bf16-mixed" if native_bf16(self.device) else "32-true"

    @property
    def needs_trainer(self) -> bool:
        """Whether forward passes need what only a trainer knows: other processes, devices or number formats."""
        hardware, on_cuda = self.hardware, self.device.type == "cuda"
        if (hardware.devices, hardware.n_nodes, distributed.rank()[1]) != (1, 1, 1) or hardware.strategy == "fsdp":
            return True
        automatic = hardware.accelerator == "auto" and not torch.backends.mps.is_available()
        known = on_cuda or automatic or hardware.accelerator == "cpu"
        return not known or self.precision not in ("32-true", "bf16-mixed")

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """The precision of forward passes outside a trainer."""
        bf16 = self.precision == "bf16-mixed"
        return torch.autocast(self.device.type, torch.bfloat16) if bf16 else contextlib.nullcontext()

    @contextlib.contextmanager
    def evaluating(self, model: nn.Module) -> Iterator[None]:
        """Forward passes without gradients or dropout, on this device and in this precision."""
        training = model.training
        to_evaluate(model, self.device)
        try:
            with torch.inference_mode(), self.autocast():
                yield
        finally:
            if training:
                model.train()

    def trainer(self, **options: Any) -> pl.Trainer:
        """A Lightning trainer; ``options`` are its arguments besides those of hardware and precision."""
        import pytorch_lightning as pl  # here, for it takes longer than all else that scoring imports
        from lightning_fabric.utilities.exceptions import MisconfigurationException

        try:
            return pl.Trainer(
                accelerator=self.hardware.accelerator,
                devices=self.hardware.devices,
                num_nodes=self.hardware.n_nodes,
                strategy=self._strategy(),
                precision=self.precision,
                enable_model_summary=False,
                use_distributed_sampler=False,
                deterministic="warn",
                **options,
            )
        except (ValueError, MisconfigurationException) as error:
            given = f"accelerator={self.hardware.accelerator}, devices={self.hardware.devices}"
            raise ConfigError(f"{given}: {str(error).splitlines()[0]}") from error

    def _strategy(self) -> Any:
        hardware = self.hardware
        if hardware.strategy == "auto" and hardware.devices == 1 and hardware.n_nodes == 1:
            return "auto"
        if hardware.strategy == "fsdp":
            from pytorch_lightning.strategies import ModelParallelStrategy

            n = max(1, torch.cuda.device_count()) if hardware.devices == "auto" else int(hardware.devices)
            return ModelParallelStrategy(n * hardware.n_nodes, 1, save_distributed_checkpoint=False)
        from pytorch_lightning.strategies import DDPStrategy

        # A column may be missing in a whole batch, and its encoder then gets no gradient.
        return DDPStrategy(find_unused_parameters=True, gradient_as_bucket_view=True)


def silence_libraries() -> None:
    """Silence messages of libraries that a user cannot act on."""
    for name in ("pytorch_lightning", "lightning.pytorch", "lightning.fabric", "transformers", "onnxscript", "onnx_ir"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for message in IGNORED_WARNINGS:
        warnings.filterwarnings("ignore", message)
