"""Data of any size and cells that no cache knows; clocks of functions, programs and steps: for the speed benchmark."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet
import torch
import yaml

from mmtab.data.schema import Schema
from mmtab.runs.session import Session
from mmtab.training.optim import parameter_groups, warmup_cosine
from mmtab.utils.errors import ConfigError
from mmtab.utils.machine import usable_cores

WORDS = [f"{a}{b}{c}" for a in "bdfgk" for b in "aeiou" for c in ("", "ra", "lo", "nim", "st")]


def lengthen(folder: Path, n_words: int) -> None:
    """Add words of other descriptions to each."""
    rng = np.random.default_rng(0)
    for split in ("train", "valid", "test"):
        table = pa.parquet.read_table(folder / f"{split}.parquet")
        texts = table["description"].to_pylist()
        words = np.array(sorted({word for text in texts if text for word in text.split()}))
        longer = [None if text is None else " ".join([text, *rng.choice(words, n_words)]) for text in texts]
        place = table.column_names.index("description")
        pa.parquet.write_table(table.set_column(place, "description", pa.array(longer)), folder / f"{split}.parquet")


def repeated(values: pa.Array, n: int) -> pa.Array:
    return pa.concat_arrays([values] * n)


def distinct(values: pa.Array, n: int) -> pa.Array:
    """Many cells, no two alike, so that none is tokenized for another."""
    numbers = pa.array(range(n * len(values))).cast(pa.string())
    return pc.binary_join_element_wise(repeated(values, n).cast(pa.string()), numbers, " ").cast(pa.large_string())


def write_rows(folder: Path, n: int, n_valid: int = 2_000) -> None:
    """A k-way data set of text, numbers and categories of any size, written some rows at a time."""
    if folder.exists():
        return
    words = np.array(WORDS)
    scratch = folder.with_name(f".{folder.name}")
    scratch.mkdir(parents=True, exist_ok=True)
    for split, size in (("train", n), ("valid", n_valid), ("test", n_valid)):
        rng, writer = np.random.default_rng(len(split)), None
        for start in range(0, size, 50_000):
            m = min(50_000, size - start)
            label = rng.integers(0, 20, m)
            shift = np.where(rng.random((m, 12)) < 0.3, label[:, None], 0)
            text = words[(rng.integers(0, len(words), (m, 12)) + shift) % len(words)]
            part = pa.table(
                {
                    "id": pa.array(np.char.add(f"{split}-", np.arange(start, start + m).astype(str))),
                    "title": pa.array([" ".join(row) for row in text]),
                    "size": label + rng.normal(0, 4, m),
                    "weight": rng.normal(0, 1, m),
                    "colour": pa.array(words[(label + rng.integers(0, 30, m)) % len(words)]),
                    "shop": pa.array(words[rng.integers(0, 50, m)]),
                    "label": pa.array(np.char.add("kind ", label.astype(str))),
                }
            )
            writer = writer or pa.parquet.ParquetWriter(scratch / f"{split}.parquet", part.schema)
            writer.write_table(part)
        assert writer is not None
        writer.close()
    columns = {"title": "text", "size": "numeric", "weight": "numeric", "colour": "categorical", "shop": "categorical"}
    card = {"name": folder.name, "task": "kway", "metric": "accuracy", "id": "id", "label": "label", "columns": columns}
    (scratch / "dataset.yaml").write_text(yaml.safe_dump(card, sort_keys=False))
    Schema.read(scratch)
    scratch.rename(folder)


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
    schedule = warmup_cosine(optimizer, lambda: n_steps, settings.warmup_fraction)
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

    def epoch() -> None:
        for batch in batches:
            step(batch)

    return sum(len(batch.label) for batch in batches) / seconds_of(epoch)


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
    """As ``run_program``, with this Python; a configuration error is what some are run for."""
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check="-c" in arguments).stdout
