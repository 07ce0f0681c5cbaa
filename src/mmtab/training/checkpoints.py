"""Checkpoints: the weights of a run's best epochs, and the state from which a killed run resumes with the same numbers.

``last.ckpt`` holds that state and names the files with the best weights. New best weights are therefore written before
it, and those that it no longer names are removed after it, so that these files are consistent whenever a run dies.
"""

from __future__ import annotations

import math
import os
import random
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.plugins.io import TorchCheckpointIO
from torch import Tensor

from mmtab.features.loader import LengthBatches, PairBatches, RowBatches
from mmtab.training.callbacks import MetricsFile
from mmtab.training.places import BEST, LAST
from mmtab.training.weights import read_checkpoint
from mmtab.utils import distributed
from mmtab.utils.atomic import leftovers, replacing
from mmtab.utils.errors import RunError, Stopped
from mmtab.utils.progress import say
from mmtab.utils.text import count

SIGNALS = (signal.SIGTERM, signal.SIGINT, getattr(signal, "SIGUSR1", signal.SIGTERM))
SYNC_EVERY = 10  # steps after which several processes agree whether to save, for which all wait for all


class AtomicIO(TorchCheckpointIO):
    """Writes checkpoints atomically."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        try:
            with replacing(Path(path)) as scratch, scratch.open("wb") as file:
                torch.save(checkpoint, file)
        except RuntimeError as error:  # torch hides the error of the disk
            raise error.__context__ if isinstance(error.__context__, OSError) else error from None


@dataclass
class BestEpoch:
    """An epoch that is among the best, -1 for the model before training. ``weights``: its trained weights, until they
    are in its file."""

    epoch: int
    score: float
    weights: dict[str, Tensor] | None = None

    @property
    def file(self) -> str:
        return f"epoch-{self.epoch}.ckpt"


class Checkpoints(Checkpoint):
    """Saves the best epochs, and the state of the run between two steps of the optimizer: every ``seconds``, and on
    SIGTERM, SIGINT or SIGUSR1, after which ``Stopped`` is raised. To the state that Lightning saves (weights,
    optimizer, schedule, loops, early stopping) it adds random numbers, the position in the data, mined pairs and the
    rows of metrics.csv.

    folder:        the run folder
    monitor:       name of the metric, of which the highest is best, or the lowest log-loss
    train_batches: what is trained on, with its mined pairs
    sampler:       draws these batches, and resumes within an epoch
    metrics:       metrics.csv
    fingerprint:   of the data, by which a checkpoint of other data is refused
    keep:          number of best epochs
    seconds:       between two checkpoints of the state
    """

    def __init__(
        self,
        folder: Path,
        monitor: str,
        train_batches: RowBatches | PairBatches,
        sampler: LengthBatches,
        metrics: MetricsFile,
        *,
        fingerprint: str = "",
        keep: int = 1,
        seconds: float = 60.0,
    ) -> None:
        self.folder, self.monitor, self.keep, self.seconds = folder / "checkpoints", monitor, keep, seconds
        self.sign = -1 if monitor.endswith("log_loss") else 1
        self.batches, self.sampler, self.metrics, self.fingerprint = train_batches, sampler, metrics, fingerprint
        self.best: list[BestEpoch] = []  # the best first
        self.resumed_at: list[int] = []  # steps
        self._position = (0, 0)  # epoch, and batches of it that were drawn
        self._stop_early = False
        self._random: list[dict[str, Any]] | None = None  # states of each process, to be restored
        self._signal: int | None = None
        self._handlers: dict[int, Any] = {}
        self._saved_at = time.monotonic()

    def setup(self, trainer: pl.Trainer, module: pl.LightningModule, stage: str) -> None:
        folders = set(distributed.of_all(str(self.folder)))  # each process resolved the setting itself
        if len(folders) > 1:
            raise RunError(f"the processes of this run would write to {', '.join(sorted(folders))}; give output=FOLDER")

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._saved_at = time.monotonic()
        if self._random is not None:
            _set_random_state(self._random[distributed.rank()[0]])
            self._random = None
            self.resumed_at.append(trainer.global_step)
        if threading.current_thread() is threading.main_thread():  # after Lightning's own, which only SIGTERM reaches
            self._handlers = {number: signal.signal(number, self._on_signal) for number in SIGNALS}

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._restore_handlers()

    def on_exception(self, trainer: pl.Trainer, module: pl.LightningModule, exception: BaseException) -> None:
        self._restore_handlers()

    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if trainer.sanity_checking and self.best:  # of a run that resumes
            return
        score = self.sign * float(trainer.callback_metrics[self.monitor])
        score = -math.inf if math.isnan(score) else score
        epoch = -1 if trainer.sanity_checking else trainer.current_epoch
        if len(self.best) == self.keep and score <= self.best[-1].score:
            return
        state = trainer.strategy.lightning_module_state_dict()
        frozen = {name for name, parameter in module.named_parameters() if not parameter.requires_grad}
        trained = (name for name in state if name not in frozen and trainer.is_global_zero)
        weights = {name: state[name].detach().to("cpu", copy=True) for name in trained}
        self.best.append(BestEpoch(epoch, score, weights))
        self.best.sort(key=lambda best: (-best.score, best.epoch))
        del self.best[self.keep :]

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        n_steps, remainder = divmod(batch_idx + 1, trainer.accumulate_grad_batches)
        if (
            not remainder and batch_idx + 1 < trainer.num_training_batches
        ):  # the end of an epoch is saved once validated
            self._maybe_save(trainer, (trainer.current_epoch, batch_idx + 1), n_steps)

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._stop_early = trainer.should_stop
        self._maybe_save(trainer, (trainer.current_epoch + 1, 0), 0)

    def _maybe_save(self, trainer: pl.Trainer, position: tuple[int, int], n_steps: int) -> None:
        due, number = time.monotonic() - self._saved_at >= self.seconds, self._signal
        if trainer.world_size > 1:
            if n_steps % SYNC_EVERY != 0:
                return
            states = distributed.of_all((due, number))
            due, number = states[0][0], next((n for _, n in states if n is not None), None)
        if due or number is not None:
            self.save(trainer, position)
        if number is not None:
            raise Stopped(number, f"saved after step {trainer.global_step}; the same command goes on from there")

    def _on_signal(self, number: int, frame: Any) -> None:
        if self._signal is not None and number == signal.SIGINT:  # the second Ctrl-C stops at once
            raise KeyboardInterrupt
        if distributed.is_first():
            text = f"{signal.Signals(number).name}: stopping when the run can be saved"
            print(text + (", and again at once" if number == signal.SIGINT else ""), file=sys.stderr, flush=True)
        self._signal = number

    def _restore_handlers(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers = {}

    def save(self, trainer: pl.Trainer, position: tuple[int, int]) -> None:
        """Write ``last.ckpt``, called by all processes. ``position``: epoch, and how many of its batches were drawn."""
        self._position, self._random = position, distributed.of_all(_random_state())
        self._write_best(trainer)
        trainer.save_checkpoint(self.folder / LAST.name, weights_only=False)
        self._random = None
        self.metrics.write()
        if trainer.is_global_zero:
            self._remove_all_but(self.best)
        self._saved_at = time.monotonic()

    def finish(self, trainer: pl.Trainer) -> Path:
        """Write the best weights to ``best.ckpt``; returns its path."""
        self._write_best(trainer)
        best = self.folder / BEST.name
        if trainer.is_global_zero:
            source = self.folder / self.best[0].file
            with replacing(best) as scratch:
                scratch.unlink()
                try:
                    os.link(source, scratch)
                except OSError:  # a file system without links
                    shutil.copyfile(source, scratch)
        trainer.strategy.barrier()
        return best

    def clean(self) -> None:
        """Remove what a finished run does not need: ``best.ckpt`` is the first of the best epochs."""
        (self.folder / LAST.name).unlink(missing_ok=True)
        self._remove_all_but(self.best[1:])

    def _remove_all_but(self, best: Sequence[BestEpoch]) -> None:
        files = {epoch.file for epoch in best}
        _remove(path for path in self.folder.glob("epoch-*.ckpt") if path.name not in files)

    def _write_best(self, trainer: pl.Trainer) -> None:
        unwritten = [best for best in self.best if best.weights is not None]
        if not unwritten:
            return
        current = trainer.strategy.lightning_module_state_dict()
        for best in unwritten:
            if trainer.is_global_zero:
                state = current | (best.weights or {})
                AtomicIO().save_checkpoint({"state_dict": state, "epoch": best.epoch}, self.folder / best.file)
            best.weights = None

    def state_dict(self) -> dict[str, Any]:
        return {
            "kept": [(best.epoch, best.score) for best in self.best],
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
                f"{self.folder / LAST.name} is of a run on {state_dict['n_ranks']} processes, now there are {n_ranks}: "
                "go on with as many, or begin anew with resume=never"
            )
        self.best = [BestEpoch(epoch, score) for epoch, score in state_dict["kept"]]
        self.sampler.start(*state_dict["position"])
        self._random, self._stop_early = state_dict["random"], state_dict["stop_early"]
        if isinstance(self.batches, PairBatches):
            self.batches.load_state_dict(state_dict["mined"])
        self.metrics.rows = state_dict["metrics"]
        self.resumed_at = state_dict["resumed_at"]

    def on_load_checkpoint(self, trainer: pl.Trainer, module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        state, n_epochs = checkpoint["callbacks"][self.state_key], trainer.max_epochs or 0
        trainer.should_stop = state["stop_early"]  # Lightning forgets it
        if distributed.is_first():
            epoch = f"epoch {min(state['position'][0] + 1, n_epochs)} of at most {n_epochs}"
            say(f"the run goes on where it was stopped: in {epoch}, after {count(checkpoint['global_step'], 'step')}")


def find_last(folder: Path, fingerprint: str) -> Path | None:
    """The checkpoint that a run in this folder resumes from, or None. Half-written files of a killed process are
    removed; raises RunError for a checkpoint that is damaged or of other data."""
    last = folder / LAST
    if distributed.is_first():  # which is done with its own; another would remove what the first one is writing
        _remove([*leftovers(folder), *leftovers(last.parent)])
    if not last.is_file():
        return None
    state = read_checkpoint(last)
    try:
        ours: Mapping[str, Any] = state["callbacks"][Checkpoints.__qualname__]
        files = [last.parent / BestEpoch(int(epoch), float(score)).file for epoch, score in ours["kept"]]
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(f"{last} is damaged ({error!r}); begin anew with resume=never") from error
    for file in files:
        if not file.is_file():
            raise RunError(f"{last} wants {file.name}, which is not beside it; begin anew with resume=never")
        read_checkpoint(file)
    if ours["fingerprint"] != fingerprint:
        raise RunError(f"{folder} holds an unfinished run on other data; give another output=FOLDER, or resume=never")
    return last


def _remove(paths: Iterable[Path]) -> None:
    for path in list(paths):
        path.unlink(missing_ok=True)


def _random_state() -> dict[str, Any]:
    """The states of all generators that a step may draw from, as plain values and tensors."""
    name, keys, *rest = np.random.get_state()
    return {
        "python": random.getstate(),
        "numpy": (name, torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest),
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
