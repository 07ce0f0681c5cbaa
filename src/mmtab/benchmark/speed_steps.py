"""Clocks of the speed benchmark: seconds of a function, of a program, of the parts of a training step."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from mmtab.runs.session import Session
from mmtab.training.optim import parameter_groups, warmup_cosine
from mmtab.utils.errors import ConfigError
from mmtab.utils.machine import usable_cores


class Clock:
    """Seconds spent in parts of a step."""

    def __init__(self, device: torch.device) -> None:
        self.seconds: dict[str, float] = {}
        self.device = device

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        start = self._now()
        yield
        self.seconds[part] = self.seconds.get(part, 0.0) + self._now() - start

    def watch(self, part: str, module: torch.nn.Module) -> None:
        """Count a module's forward passes."""
        started: list[float] = []
        module.register_forward_pre_hook(lambda *_: started.append(self._now()))

        def ended(*_: object) -> None:
            self.seconds[part] = self.seconds.get(part, 0.0) + self._now() - started.pop()

        module.register_forward_hook(ended)

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()


def stepper(session: Session, n_steps: int, clock: Clock | None = None) -> Callable[[Any], None]:
    """The least that a training step of this model is."""
    model, task, settings = session.model.train(), session.task, session.config.trainer
    groups = parameter_groups(model, settings.lr, settings.backbone_lr, settings.weight_decay)
    optimizer = torch.optim.AdamW(groups, fused=True)
    schedule = warmup_cosine(optimizer, n_steps, settings.warmup_fraction)
    learned = [p for p in model.parameters() if p.requires_grad]
    clock = clock or Clock(session.compute.device)

    def step(batch: Any) -> None:
        batch = batch.to(session.compute.device)
        with session.compute.autocast():
            loss = task.loss_of(model(batch), batch.label)
        with clock("backward"):
            loss.backward()
        with clock("optimizer"):
            torch.nn.utils.clip_grad_norm_(learned, settings.gradient_clip)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()

    return step


def epoch_speed(session: Session, step: Callable[[Any], None], batches: list[Any]) -> float:
    """Rows/s."""
    batches = [batch.to(session.compute.device) for batch in batches]

    def steps() -> None:
        for batch in batches:
            step(batch)

    return sum(len(batch.label) for batch in batches) / seconds_of(steps)


def seconds_of(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def run_program(command: list[str]) -> str:
    """What a command prints; its complaints are shown when it fails."""
    environment = os.environ | {"OMP_NUM_THREADS": str(usable_cores())}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise ConfigError(f"{' '.join(command[:2])} failed: {done.stderr.strip()[-2000:]}")
    return done.stdout


def run_python(arguments: list[str]) -> str:
    """As ``_run``, with this Python; a configuration error is what some are run for."""
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check="-c" in arguments).stdout
