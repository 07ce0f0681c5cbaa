"""What stops a run says why, in one line, and leaves whole what was whole."""

from __future__ import annotations

import csv
import os
import pickle
import resource
import shutil
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
from commands import SCRIPTS, script
from toy_data import write_kway, write_pairs

from mmtab.api import load_run
from mmtab.model.matcher import Matcher
from mmtab.model.row_model import RowModel
from mmtab.runs.evaluate import evaluate
from mmtab.runs.folder import open_config
from mmtab.runs.train import train
from mmtab.utils.errors import ConfigError, RunError, TrainingError

QUICK = ["dataset.drop=[image,text]", "trainer.batch_size=8"]


def corrupt(monkeypatch: pytest.MonkeyPatch, model: Any, step: int, change: Any) -> None:
    """Change what the model makes of its ``step``-th training batch, which is given too."""
    forward, n = model.forward, 0

    def changed(self: Any, batch: Any) -> Any:
        nonlocal n
        scores = forward(self, batch)
        n += self.training
        return change(scores, batch) if self.training and n == step else scores

    monkeypatch.setattr(model, "forward", changed)


@pytest.mark.parametrize("write", [write_kway, write_pairs])
def test_training_ends_when_its_time_is_up(
    tmp_path: Path, configure: Any, capsys: pytest.CaptureFixture[str], write: Any
) -> None:
    limit = ["trainer.max_minutes=0.03", "trainer.max_epochs=100000", "trainer.patience=100000"]
    config = configure(write(tmp_path / "data"), *QUICK, *limit)
    began = time.monotonic()
    train(config, tmp_path / "run")
    assert time.monotonic() - began < 20, "not the hours that all epochs take"
    assert "the time is up after" in capsys.readouterr().out
    with (tmp_path / "run" / "metrics.csv").open() as file:
        assert any(row["valid/f1" if write is write_pairs else "valid/accuracy"] for row in csv.DictReader(file))
    assert load_run(tmp_path / "run").metrics["valid"]


def test_devices_that_a_machine_lacks_are_refused_before_anything_is_prepared(tmp_path: Path, configure: Any) -> None:
    config = configure(write_kway(tmp_path / "data"), *QUICK, "trainer.accelerator=cpu", "trainer.devices=4000")
    with pytest.raises(ConfigError, match=r"^devices=4000: this machine has \d+ CPU cores?\. Fix: devices=\d+, or"):
        train(config, tmp_path / "run")


def test_no_time_leaves_the_base(tmp_path: Path, configure: Any) -> None:
    config = configure(write_kway(tmp_path / "data"), *QUICK, "trainer.max_minutes=0.0001", "base=linear")
    scores = train(config, tmp_path / "run")
    base = load_run(tmp_path / "run").facts["base"]["valid"]
    assert scores["log_loss"] <= base["log_loss"] + 1e-3


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e7])
@pytest.mark.parametrize("write", [write_kway, write_pairs])
def test_a_loss_that_is_no_loss_names_the_rows(
    tmp_path: Path, configure: Any, monkeypatch: pytest.MonkeyPatch, write: Any, value: float
) -> None:
    data, seen = write(tmp_path / "data"), []

    def change(scores: Any, batch: Any) -> Any:
        seen.extend(batch.row.tolist())
        tensor = scores.bias if write is write_kway else scores.logits
        tensor.data.fill_(value)
        tensor.data[..., :1] = -value
        return scores

    corrupt(monkeypatch, RowModel if write is write_kway else Matcher, 3, change)
    stem = "train" if write is write_kway else "pairs_train"
    with pytest.raises(TrainingError, match=r"the loss is .* in epoch 1, after step 2.*lower trainer\.lr") as error:
        train(configure(data, *QUICK), tmp_path / "run")
    rows = pyarrow.parquet.read_table(data / f"{stem}.parquet").take(pa.array(seen)).to_pylist()
    assert len(rows) == 8
    for row in rows:
        assert (row["id"] if write is write_kway else f"{row['left_id']} and {row['right_id']}") in str(error.value)
    assert not (tmp_path / "run" / "provenance.json").exists()


def test_a_gradient_that_is_no_number_names_the_rows_of_its_step(
    tmp_path: Path, configure: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loss of that step is fine; weights that it spoilt are not kept."""

    def change(scores: Any, batch: Any) -> Any:
        scores.x.register_hook(lambda gradient: gradient * float("nan"))
        return scores

    corrupt(monkeypatch, RowModel, 3, change)
    config = configure(write_kway(tmp_path / "data"), *QUICK, "trainer.checkpoint_seconds=0")
    with pytest.raises(TrainingError, match=r"the length of the gradient is nan in epoch 1, after step 3, .*train-"):
        train(config, tmp_path / "run")
    state = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert all(torch.isfinite(x).all() for x in state.values())


def test_out_of_memory_says_what_to_lower_or_halves_the_batch(
    tmp_path: Path, configure: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in for memory: more than four rows in a batch do not fit."""
    data, forward = write_kway(tmp_path / "data"), RowModel.forward

    def limited(self: Any, batch: Any) -> Any:
        if self.training and batch.table.n_rows > 4:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return forward(self, batch)

    monkeypatch.setattr(RowModel, "forward", limited)
    with pytest.raises(TrainingError, match=r"out of memory with trainer\.batch_size=16 .*trainer\.on_oom=halve"):
        train(configure(data, *QUICK, "trainer.batch_size=16"), tmp_path / "stops")
    halving = configure(data, *QUICK, "trainer.batch_size=16", "trainer.on_oom=halve")
    with pytest.warns(UserWarning, match=r"beginning anew with trainer\.batch_size=4 trainer\.accumulate=4"):
        halved = train(halving, tmp_path / "halved")
    settings = open_config(tmp_path / "halved").trainer
    assert (settings.batch_size, settings.accumulate) == (4, 4)
    small = configure(data, *QUICK, "trainer.batch_size=4", "trainer.accumulate=4")
    assert train(small, tmp_path / "small") == halved  # as if it had been asked for
    with pytest.raises(ConfigError, match=r"trainer\.on_oom=halve: several processes"):
        configure(data, "trainer.on_oom=halve", "trainer.devices=2")


@pytest.mark.slow
def test_a_full_disk_is_one_line(tmp_path: Path, backbone: Path) -> None:
    """No file may be larger than the first checkpoint of the run is going to be."""
    data = write_kway(tmp_path / "data")
    command = [
        sys.executable,
        str(SCRIPTS / "train.py"),
        "dataset=custom",
        f"dataset.path={data}",
        f"text.backbone={backbone}",
        "text.max_length=16",
        "d_model=64",
        "dataset.drop=[image]",
        "trainer.checkpoint_seconds=0",
        f"output={tmp_path / 'run'}",
        f"cache={tmp_path / 'cache'}",
    ]
    limit = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (300_000, 300_000))
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, preexec_fn=limit)
    output = done.stdout + done.stderr
    assert done.returncode == 1 and "Traceback" not in output, output
    (line,) = [line for line in output.splitlines() if line.startswith("error:")]
    assert "File too large. What was whole before still is; make room" in line
    assert not list((tmp_path / "run" / "checkpoints").glob("*.ckpt"))
    assert not list((tmp_path / "run" / "checkpoints").glob(".writing*"))


@pytest.mark.skipif(not Path("/sys/kernel").is_dir(), reason="needs a folder in which not even root may write")
def test_a_folder_that_cannot_be_written_to_is_one_line(tmp_path: Path) -> None:
    data = write_kway(tmp_path / "data")
    for setting in ("output=/sys/kernel/run", "cache=/sys/kernel/cache"):
        done = script("train", "dataset=custom", f"dataset.path={data}", *QUICK, f"output={tmp_path / 'run'}", setting)
        assert done.returncode == 1 and done.stderr.count("\n") == 1, done.stdout + done.stderr
        assert done.stderr.startswith("error:") and "/sys/kernel" in done.stderr


def test_a_checkpoint_that_wants_to_run_something_does_not(
    tmp_path: Path, configure: Any, kway_run: tuple[Path, Path]
) -> None:
    (data, trained), folder = kway_run, tmp_path / "run"
    shutil.copytree(trained, folder)

    class Evil:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "done"),)

    for place in ("best.ckpt", "last.ckpt"):
        torch.save({"state_dict": {}, "callbacks": Evil()}, folder / "checkpoints" / place)
    with pytest.raises(RunError, match=r"best\.ckpt"):
        evaluate(folder)
    (folder / "provenance.json").unlink()
    with pytest.raises(RunError, match=r"last\.ckpt is damaged"):
        train(configure(data, "trainer.max_epochs=1"), folder)
    assert not (tmp_path / "done").exists()
    with pytest.raises(FileExistsError):  # it would have
        pickle.loads(pickle.dumps(Evil())), pickle.loads(pickle.dumps(Evil()))
