"""Several processes that train, score or sweep together, against one that does it alone."""

from __future__ import annotations

import csv
import importlib.util
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
from toy_data import write_kway, write_pairs

from mmtab.config.compose import compose
from mmtab.config.types import CONFIGS
from mmtab.runs.evaluate import evaluate
from mmtab.runs.train import train

SCRIPTS = Path(__file__).parents[2] / "scripts"
TWO = ["trainer=ddp_cpu"]


def script(name: str, *overrides: str, launcher: tuple[str, ...] = (), status: int = 0) -> str:
    """What a script prints; it has to end with ``status``."""
    done = subprocess.run(
        [sys.executable, *launcher, str(SCRIPTS / f"{name}.py"), *overrides],
        capture_output=True,
        text=True,
        timeout=500,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture
def small(backbone: Path) -> list[str]:
    return [
        "dataset=custom",
        f"text.backbone={backbone}",
        "text.max_length=16",
        "text.n_tuned_layers=1",
        "image.size=32",
        "d_model=16",
        "trainer.batch_size=8",
        "trainer.max_epochs=2",
        "trainer.precision=fp32",
        "trainer.n_threads=1",
        "report=false",
    ]


def alone(folder: Path, *overrides: str) -> None:
    """Train in this process."""
    train(compose(f"output={folder}", *overrides), folder)


def scores(folder: Path, split: str = "valid") -> dict[str, float]:
    found = json.loads((folder / "metrics.json").read_text())[split]
    return {name: value for name, value in found.items() if not name.endswith("per_second")}


def predictions(folder: Path, split: str) -> dict[str, Any]:
    return pyarrow.parquet.read_table(folder / f"predictions_{split}.parquet").to_pydict()


def losses(folder: Path) -> list[float]:
    """Of all rows of each epoch."""
    rows = csv.DictReader((folder / "metrics.csv").read_text().splitlines())
    return [float(row["train/loss_epoch"]) for row in rows if row["train/loss_epoch"]]


@pytest.mark.slow
@pytest.mark.parametrize("write", [write_kway, write_pairs])
def test_two_processes_see_the_rows_of_one(tmp_path: Path, small: list[str], write: Any) -> None:
    """Nothing learns and nothing is drawn, so the loss over an epoch is the same if, and only if, the rows are."""
    data = write(tmp_path / "data", n=70)
    still = [
        "trainer.lr=0",
        "trainer.backbone_lr=0",
        "token_dropout=0",
        "fusion.dropout=0",
        f"dataset.path={data}",
        "dataset.drop=[image]",
        "text.n_tuned_layers=0",
        "categorical.unseen_dropout=0",
        "test=false",
    ]
    still += ["kway_head.head.dropout=0"] if write is write_kway else []
    still += ["pair_head.augment.cell_drop=0", "pair_head.hard_negatives=0"] if write is write_pairs else []
    alone(tmp_path / "one", *small, *still)
    script("train", *small, *still, f"output={tmp_path / 'two'}", *TWO)
    facts = [json.loads((tmp_path / name / "provenance.json").read_text()) for name in ("one", "two")]
    assert [each["n_processes"] for each in facts] == [1, 2]
    if write is write_kway:
        assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-6)
    assert scores(tmp_path / "two") == scores(tmp_path / "one")
    assert predictions(tmp_path / "two", "valid") == predictions(tmp_path / "one", "valid")


TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
FSDP = ["trainer=fsdp", "trainer.devices=2", "trainer.accelerator=cpu", "store_frozen=false"]


@pytest.mark.parametrize(
    ("write", "launcher", "overrides"),
    [
        pytest.param(
            write_pairs, TORCHRUN, [*TWO, "pair_head.hard_negatives=0.5"], id="torchrun", marks=pytest.mark.slow
        ),
        pytest.param(write_kway, (), FSDP, id="fsdp", marks=pytest.mark.slow),
    ],
)
def test_what_two_processes_trained_scores_the_same_in_one(
    tmp_path: Path, small: list[str], write: Any, launcher: tuple[str, ...], overrides: list[str]
) -> None:
    data, folder = write(tmp_path / "data", n=67), tmp_path / "run"
    output = script("train", *small, f"dataset.path={data}", f"output={folder}", *overrides, launcher=launcher)
    assert output.count("run folder:") == 1  # one process speaks
    together, valid = (scores(folder, "test"), predictions(folder, "test")), scores(folder)
    evaluate(folder, "test")
    assert (scores(folder, "test"), predictions(folder, "test")) == together
    assert evaluate(folder, "valid") == valid


@pytest.mark.slow
def test_two_processes_score_what_one_has_trained(tmp_path: Path, small: list[str]) -> None:
    data, folder = write_pairs(tmp_path / "data", n=67), tmp_path / "run"
    alone(folder, *small, f"dataset.path={data}", "trainer.eval_batch_size=4")
    evaluate(folder, "test")
    expected = scores(folder, "test"), predictions(folder, "test")
    output = script("evaluate", f"run={folder}", "devices=2", "accelerator=cpu")
    assert output.count("log_loss") == 1
    assert (scores(folder, "test"), predictions(folder, "test")) == expected


@pytest.mark.slow
def test_two_processes_that_are_stopped_go_on(tmp_path: Path, small: list[str]) -> None:
    data = write_kway(tmp_path / "data")
    own = [
        *small,
        f"dataset.path={data}",
        "dataset.drop=[image]",
        *TWO,
        "trainer.max_epochs=6",
        "trainer.patience=6",
        "test=false",
    ]
    script("train", *own, f"output={tmp_path / 'whole'}")
    killed = [sys.executable, str(SCRIPTS / "train.py"), *own, f"output={tmp_path / 'stopped'}"]
    process = subprocess.Popen(killed, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    next(line for line in process.stdout if line.startswith("epoch   2"))
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=500)
    assert process.returncode == 128 + signal.SIGTERM, output
    script("train", *own, f"output={tmp_path / 'stopped'}")
    assert scores(tmp_path / "stopped") == scores(tmp_path / "whole")
    assert json.loads((tmp_path / "stopped" / "provenance.json").read_text())["resumed_at_steps"]


@pytest.mark.slow
def test_slurm_is_asked_to_queue_a_stopped_run_again(tmp_path: Path, small: list[str]) -> None:
    data, told = write_kway(tmp_path / "data"), tmp_path / "told"
    scontrol = tmp_path / "bin" / "scontrol"
    scontrol.parent.mkdir()
    scontrol.write_text(f"#!/bin/sh\necho $@ > {told}\n")
    scontrol.chmod(0o755)
    own = [
        *small,
        f"dataset.path={data}",
        "dataset.drop=[image,text]",
        "trainer.max_epochs=400",
        "trainer.patience=400",
    ]
    environment = os.environ | {"PATH": f"{scontrol.parent}:{os.environ['PATH']}", "SLURM_JOB_ID": "17"}
    process = subprocess.Popen(
        [sys.executable, str(SCRIPTS / "train.py"), *own, f"output={tmp_path / 'run'}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
    )
    assert process.stdout is not None
    next(line for line in process.stdout if line.startswith("epoch   2"))
    process.send_signal(signal.SIGUSR1)
    output, _ = process.communicate(timeout=500)
    assert process.returncode == 128 + signal.SIGUSR1, output
    assert told.read_text().split() == ["requeue", "17"]


# --- launchers -------------------------------------------------------------------------------------------------------

LAUNCHERS = {"slurm": "SlurmLauncher", "submitit_local": "LocalLauncher", "ray": "RayLauncher"}


def needs(launcher: str) -> None:
    if launcher != "ray" and importlib.util.find_spec("hydra_plugins.hydra_submitit_launcher") is None:
        pytest.skip(f"launcher={launcher} needs the package hydra-submitit-launcher")


def test_every_launcher_is_known_here() -> None:
    assert {path.stem for path in (CONFIGS / "launcher").glob("*.yaml")} == set(LAUNCHERS)


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_every_launcher_composes(launcher: str) -> None:
    needs(launcher)
    assert LAUNCHERS[launcher] in script("train", f"launcher={launcher}", "--cfg", "hydra")


@pytest.mark.parametrize("path", sorted((CONFIGS / "trainer").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_trainer_composes(path: Path) -> None:
    config = compose("output=unused", f"trainer={path.stem}")
    assert config.trainer.strategy in ("auto", "ddp", "fsdp")


@pytest.mark.slow
def test_a_launcher_completes_a_sweep(tmp_path: Path, small: list[str]) -> None:
    needs("submitit_local")
    data = write_kway(tmp_path / "data")
    own = [*small, f"dataset.path={data}", "dataset.drop=[image]"]
    script("train", "-m", "launcher=submitit_local", *own, "seed=0,1", f"hydra.sweep.dir={tmp_path / 'sweep'}")
    alone(tmp_path / "alone", *own, "seed=1")
    evaluate(tmp_path / "alone", "test")
    folders = sorted((tmp_path / "sweep").glob("*_seed*"))
    assert [folder.name for folder in folders] == ["0_data_seed0", "1_data_seed1"]
    assert scores(folders[1], "test") == scores(tmp_path / "alone", "test")
