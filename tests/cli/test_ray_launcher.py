"""Runs of a multirun on a cluster, against one that is trained alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from commands import script
from toy_data import write_kway

from mmtab.config.types import EngineConfig, RunConfig
from mmtab.runs.train import train

pytestmark = [pytest.mark.ray, pytest.mark.timeout(1200)]


def test_a_multirun_gives_what_its_runs_give_alone_and_names_those_that_fail(
    tmp_path: Path, backbone: Path, small_config: Callable[..., RunConfig], on_ray: EngineConfig
) -> None:
    data = write_kway(tmp_path / "data")
    own = ["trainer.max_epochs=1", "trainer.precision=fp32", "trainer.n_threads=1", "dataset.drop=[image]"]
    alone = small_config(tmp_path / "alone", data, *own, "seed=1")
    train(alone, tmp_path / "alone")
    settings = [f"dataset.path={data}", f"text.backbone={backbone}", "text.max_length=24", "text.n_tuned_layers=1"]
    model = ["image.size=32", "d_model=16", "fusion.d_hidden=32", "trainer.batch_size=16", "report=false", "test=false"]
    sweep = [f"hydra.sweep.dir={tmp_path / 'sweep'}", f"hydra.launcher.address={on_ray.address}"]
    done = script("train", "-m", "launcher=ray", "dataset=custom", *settings, *model, *own, *sweep, "seed=1,-1")
    assert done.returncode == 1 and "error: 1 of 2 runs failed, for what is said above: 1" in done.stderr, done
    folders = sorted((tmp_path / "sweep").glob("*_seed*"))
    assert [folder.name for folder in folders] == ["0_data_seed1", "1_data_seed-1"]
    assert scores(folders[0]) == scores(tmp_path / "alone")


def scores(folder: Path) -> dict[str, Any]:
    found = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))["valid"]
    return {name: value for name, value in found.items() if not name.endswith("per_second")}
