"""A run takes no folder that holds others' files, and nothing but the run itself writes into its folder."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import mmtab
from mmtab.runs.folder import CHOSEN, CONFIG, check_unclaimed
from mmtab.runs.predict import predict
from mmtab.runs.train import train
from mmtab.utils.errors import ConfigError, RunError

QUICK: dict[str, Any] = {"recipe": "frozen", "trainer": {"max_epochs": 1, "progress": False}}
ROWS = pd.DataFrame({"a": np.arange(40.0), "kind": ["cup", "hat"] * 20})
THEIRS = ["checkpoints/precious.pt", "config.yaml", "metrics.csv", "report/report.html", "steps/notes.txt", "task.json"]


def contents(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", THEIRS)
@pytest.mark.parametrize("recipe", ["frozen", "auto"])
@pytest.mark.parametrize("resume", ["auto", "never"])
def test_others_files_stay(tmp_path: Path, name: str, recipe: str, resume: str) -> None:
    theirs = tmp_path / "here" / name
    theirs.parent.mkdir(parents=True)
    theirs.write_text("mine: 1")
    before = contents(tmp_path)
    with pytest.raises(RunError, match=rf"holds {name.split('/')[0]}.*which no run has written.* Fix: give another"):
        mmtab.fit(ROWS, label="kind", output=tmp_path / "here", **QUICK | {"recipe": recipe, "resume": resume})
    assert contents(tmp_path) | {"here/.lock": ""} == before | {"here/.lock": ""}


def test_the_command_leaves_others_files_too(tmp_path: Path, configure: Callable[..., Any]) -> None:
    from toy_data import write_kway

    config = configure(write_kway(tmp_path / "data", images=False))
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "checkpoints" / "last.txt").touch()
    with pytest.raises(RunError, match="holds checkpoints, which no run has written"):
        train(config, tmp_path / "run")
    assert (tmp_path / "run" / "checkpoints" / "last.txt").exists()


@pytest.mark.parametrize("name", ["notes.txt", "steps/frozen/config.yaml", CHOSEN, "manifest.json", CONFIG])
def test_what_a_killed_run_leaves_is_taken_up(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text("trainer: {}\n" if name == CONFIG else "{}")
    if name in (CHOSEN, "manifest.json", CONFIG):
        (tmp_path / "checkpoints").mkdir()
    check_unclaimed(tmp_path, ["frozen", "tuned"])


@pytest.mark.parametrize("name", ["metrics.csv", "predictions_valid.parquet", "sub/new.csv"])
def test_predictions_and_exports_go_elsewhere(kway_run: tuple[Path, Path], name: str) -> None:
    data, folder = kway_run
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    with pytest.raises(ConfigError, match=r"lies in the run folder, which is read. Fix: name another folder"):
        predict(folder, data / "test.parquet", folder / name)
    with pytest.raises(ConfigError, match="lies in the run folder"):
        mmtab.load_run(folder).export(folder / "checkpoints" / ".." / "inside")
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_predictions_are_a_file(kway_run: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "new.csv").mkdir()
    with pytest.raises(ConfigError, match=r"output=.*new\.csv is a folder; expected a file"):
        predict(kway_run[1], kway_run[0] / "test.parquet", tmp_path / "new.csv")


def test_another_setting_of_a_finished_run_is_told_before_anything_slow(kway_run: tuple[Path, Path]) -> None:
    data, folder = kway_run
    code = (
        "import sys; from mmtab.cli.main import main; sys.argv[0] = 'mmtab'\ntry: main()\nfinally: print(*sys.modules)"
    )
    command = [sys.executable, "-c", code, "train", f"dataset={data}", f"output={folder}", "trainer.max_epochs=7"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 1 and "trainer.max_epochs=1 there, 7 here" in done.stderr, done.stderr
    assert "torch" not in done.stdout.split() and done.stderr.count("\n") == 1
