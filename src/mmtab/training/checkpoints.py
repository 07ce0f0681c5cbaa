"""What a training run keeps of itself: the weights of its best epochs, and all that it takes to go on after it was
killed as if it had not been.

Only ``last.ckpt`` says where a run stands, and it names the files with the best weights so far. They are therefore
written in this order: new best weights, ``last.ckpt``, and then the best weights that it no longer names are removed.
Whenever a run dies, what is under these names belongs together.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.plugins.io import TorchCheckpointIO
from torch import Tensor

from mmtab.features.loader import KWayBatches, LengthBatches, PairBatches
from mmtab.training.callbacks import MetricsFile
from mmtab.utils import distributed
from mmtab.utils.atomic import leftovers, replacing
from mmtab.utils.errors import RunError, Stopped

BEST, LAST = Path("checkpoints/best.ckpt"), Path("checkpoints/last.ckpt")
SIGNALS = (signal.SIGTERM, signal.SIGINT, getattr(signal, "SIGUSR1", signal.SIGTERM))
ASK_EVERY = 10  # batches, after which several processes ask each other whether to save: asking makes all wait for all


class AtomicIO(TorchCheckpointIO):
    """Checkpoints that appear whole or not at all."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        try:
            with replacing(Path(path)) as scratch, scratch.open("wb") as file:
                torch.save(checkpoint, file)
        except RuntimeError as error:  # torch hides what the disk said
            raise error.__context__ if isinstance(error.__context__, OSError) else error from None


@dataclass
class Kept:
    """An epoch that is among the best. ``weights``: what learns, where no file has it yet."""

    epoch: int
    score: float
    weights: dict[str, Tensor] | None = None

    @property
    def file(self) -> str:
        return f"epoch-{self.epoch}.ckpt"


class Checkpoints(Checkpoint):
    """Keeps the ``keep`` best epochs by ``monitor``, and where the run stands every ``seconds`` and when it is asked to
    stop (SIGTERM, SIGINT, SIGUSR1), which then raises ``Stopped``.

    A run stands between two steps of the optimizer. Random numbers, the place in the data, mined pairs and the rows of
    metrics.csv are part of that; weights, optimizer, schedule, loops and early stopping are Lightning's.
    """

    def __init__(
        self,
        folder: Path,
        monitor: str,
        train_batches: KWayBatches | PairBatches,
        sampler: LengthBatches,
        metrics: MetricsFile,
        *,
        fingerprint: str = "",
        keep: int = 1,
        seconds: float = 60.0,
    ) -> None:
        self.folder, self.monitor, self.keep, self.seconds = folder / "checkpoints", monitor, keep, seconds
        self.batches, self.sampler, self.metrics, self.fingerprint = train_batches, sampler, metrics, fingerprint
        self.kept: list[Kept] = []  # the best first
        self.resumed_at: list[int] = []  # steps
        self._position = (0, 0)  # epoch, and batches of it that were drawn
        self._stop_early = False
        self._random: list[dict[str, Any]] | None = None  # of each process, to be restored
        self._signal: int | None = None
        self._handlers: dict[int, Any] = {}
        self._saved_at = time.monotonic()

    # --- when

    def setup(self, trainer: pl.Trainer, module: pl.LightningModule, stage: str) -> None:
        folders = set(distributed.of_all(str(self.folder)))  # each process made a name of its own
        if len(folders) > 1:
            raise RunError(f"the processes of this run would write to {', '.join(sorted(folders))}; give output=FOLDER")

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._saved_at = time.monotonic()
        if self._random is not None:
            _set_random_state(self._random[distributed.rank()[0]])
            self._random = None
            self.resumed_at.append(trainer.global_step)
        if threading.current_thread() is threading.main_thread():  # after Lightning's own, which only SIGTERM reaches
            self._handlers = {number: signal.signal(number, self._hear) for number in SIGNALS}

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._forget_signals()

    def on_exception(self, trainer: pl.Trainer, module: pl.LightningModule, exception: BaseException) -> None:
        self._forget_signals()

    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        score = float(trainer.callback_metrics[self.monitor])
        score = score if score == score else -float("inf")
        if len(self.kept) == self.keep and score <= self.kept[-1].score:
            return
        now = trainer.strategy.lightning_module_state_dict()
        frozen = {name for name, parameter in module.named_parameters() if not parameter.requires_grad}
        learnt = (name for name in now if name not in frozen and trainer.is_global_zero)
        weights = {name: now[name].detach().to("cpu", copy=True) for name in learnt}
        self.kept.append(Kept(trainer.current_epoch, score, weights))
        self.kept.sort(key=lambda each: (-each.score, each.epoch))
        del self.kept[self.keep :]

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        n = batch_idx + 1
        between_steps = n % trainer.accumulate_grad_batches == 0
        if between_steps and n < trainer.num_training_batches:  # the end of an epoch is looked at once it was validated
            self._maybe_save(trainer, (trainer.current_epoch, n), n // trainer.accumulate_grad_batches)

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._stop_early = trainer.should_stop
        self._maybe_save(trainer, (trainer.current_epoch + 1, 0), 0)

    def _maybe_save(self, trainer: pl.Trainer, position: tuple[int, int], n_steps: int) -> None:
        due, heard = time.monotonic() - self._saved_at >= self.seconds, self._signal
        if trainer.world_size > 1:
            if n_steps % ASK_EVERY != 0:
                return
            answers = distributed.of_all((due, heard))
            due, heard = answers[0][0], next((number for _, number in answers if number is not None), None)
        if due or heard is not None:
            self.save(trainer, position)
        if heard is not None:
            raise Stopped(heard, f"saved after step {trainer.global_step}; the same command goes on from there")

    def _hear(self, number: int, frame: Any) -> None:
        if self._signal is not None and number == signal.SIGINT:  # asked twice: at once
            raise KeyboardInterrupt
        if distributed.is_first():
            again = ", and again at once" if number == signal.SIGINT else ""
            print(
                f"{signal.Signals(number).name}: stopping when the run can be saved{again}", file=sys.stderr, flush=True
            )
        self._signal = number

    def _forget_signals(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers = {}

    # --- what

    def save(self, trainer: pl.Trainer, position: tuple[int, int]) -> None:
        """Write where the run stands; all processes have to."""
        self._position, self._random = position, distributed.of_all(_random_state())
        self._write_best(trainer)
        trainer.save_checkpoint(self.folder / LAST.name, weights_only=False)
        self._random = None
        self.metrics.write()
        if trainer.is_global_zero:
            named = {each.file for each in self.kept}
            _remove(path for path in self.folder.glob("epoch-*.ckpt") if path.name not in named)
        self._saved_at = time.monotonic()

    def finish(self, trainer: pl.Trainer) -> Path:
        """Write the best weights that training found to ``best.ckpt``; returns where it lies."""
        self._write_best(trainer)
        best = self.folder / BEST.name
        if trainer.is_global_zero:
            source = self.folder / self.kept[0].file
            with replacing(best) as scratch:
                scratch.unlink()
                try:
                    os.link(source, scratch)
                except OSError:  # a file system without links
                    shutil.copyfile(source, scratch)
        trainer.strategy.barrier()
        return best

    def clean(self) -> None:
        """Remove what a finished run needs no more."""
        others = {each.file for each in self.kept[1:]}
        _remove([self.folder / LAST.name, *(p for p in self.folder.glob("epoch-*.ckpt") if p.name not in others)])

    def _write_best(self, trainer: pl.Trainer) -> None:
        waiting = [each for each in self.kept if each.weights is not None]
        if not waiting:
            return
        whole = trainer.strategy.lightning_module_state_dict()
        for each in waiting:
            if trainer.is_global_zero:
                state = {name: (each.weights or {}).get(name, x) for name, x in whole.items()}
                AtomicIO().save_checkpoint({"state_dict": state, "epoch": each.epoch}, self.folder / each.file)
            each.weights = None

    def state_dict(self) -> dict[str, Any]:
        return {
            "kept": [(each.epoch, each.score) for each in self.kept],
            "position": list(self._position),
            "random": self._random,
            "stop_early": self._stop_early,
            "mined": self.batches.state_dict() if isinstance(self.batches, PairBatches) else {},
            "metrics": self.metrics.rows,
            "fingerprint": self.fingerprint,
            "n_ranks": distributed.rank()[1],
            "resumed_at": self.resumed_at,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        n_ranks = distributed.rank()[1]
        if state_dict["n_ranks"] != n_ranks:
            raise RunError(
                f"{self.folder / LAST.name} is of a run on {state_dict['n_ranks']} processes, now there are {n_ranks}: go "
                "on with as many, or begin anew with resume=never"
            )
        self.kept = [Kept(epoch, score) for epoch, score in state_dict["kept"]]
        self.sampler.start(*state_dict["position"])
        self._random, self._stop_early = state_dict["random"], state_dict["stop_early"]
        if isinstance(self.batches, PairBatches):
            self.batches.load_state_dict(state_dict["mined"])
        self.metrics.rows = state_dict["metrics"]
        self.resumed_at = state_dict["resumed_at"]

    def on_load_checkpoint(self, trainer: pl.Trainer, module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        trainer.should_stop = checkpoint["callbacks"][self.state_key]["stop_early"]  # Lightning forgets it


def find_last(folder: Path, fingerprint: str) -> Path | None:
    """The checkpoint that a run in this folder goes on from, or None where it has to begin. What a killed process left
    half-written is removed; raises RunError for a checkpoint that cannot be used."""
    last = folder / LAST
    _remove([*leftovers(folder), *leftovers(last.parent)])
    if not last.is_file():
        return None
    try:
        state = torch.load(last, map_location="cpu", weights_only=True, mmap=True)
        ours: Mapping[str, Any] = state["callbacks"][Checkpoints.__qualname__]
        missing = [f for f in (Kept(*each).file for each in ours["kept"]) if not (last.parent / f).is_file()]
    except Exception as error:  # whatever a damaged file makes of itself
        raise RunError(f"{last} is damaged ({str(error).splitlines()[0]}); begin anew with resume=never") from error
    if missing:
        raise RunError(f"{last} wants {missing[0]}, which is not beside it; begin anew with resume=never")
    if ours["fingerprint"] != fingerprint:
        raise RunError(f"{folder} holds an unfinished run on other data; give another output=FOLDER, or resume=never")
    return last


def _remove(paths: Any) -> None:
    for path in list(paths):
        path.unlink(missing_ok=True)


def _random_state() -> dict[str, Any]:
    """Of all generators that a step may draw from, as plain values and tensors."""
    name, keys, place, has_gauss, gauss = np.random.get_state()
    return {
        "python": random.getstate(),
        "numpy": (name, torch.from_numpy(np.asarray(keys).astype(np.int64)), place, has_gauss, gauss),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state().cpu() if torch.cuda.is_available() else None,
    }


def _set_random_state(state: dict[str, Any]) -> None:
    name, keys, *rest = state["numpy"]
    random.setstate(state["python"])
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
