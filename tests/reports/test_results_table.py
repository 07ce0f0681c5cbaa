"""The table of many runs: which count as one row, and what tells rows apart."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import yaml
from commands import script

from mmtab.api import load_run
from mmtab.reports.results import collect, markdown


def test_runs_with_other_settings_have_rows_of_their_own(kway_run: tuple[Path, Path], tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    for name, seed, rate in (("a", 0, 0.001), ("b", 1, 0.001), ("c", 0, 0.5)):
        folder = shutil.copytree(kway_run[1], runs / name)
        (folder / "manifest.json").unlink()
        path = folder / "config.yaml"
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
        config["seed"], config["trainer"]["lr"] = seed, rate
        path.write_text(yaml.safe_dump(config), encoding="utf-8")
    (runs / "c" / "README.md").write_text("what I tried")  # a run all the same
    load_run(kway_run[1]).export(runs / "export")  # is a run once more
    (rows,) = collect([runs], "test").values()
    assert [(row.differs, len(row.scores)) for row in rows] == [("trainer.lr=0.001", 2), ("trainer.lr=0.5", 1)]
    score = json.loads((kway_run[1] / "metrics.json").read_text())["test"]["accuracy"]
    assert [row.scores for row in rows] == [{0: [score], 1: [score]}, {0: [score]}]
    text = markdown({"kway": rows})
    assert "data trainer.lr=0.5" in text.replace("\\", "") and "average" not in text
    assert "average" in markdown({"kway": rows[:1]})


def test_a_spread_is_over_seeds(kway_run: tuple[Path, Path], tmp_path: Path) -> None:
    """A run that is there twice says nothing of it."""
    for name in ("a", "b"):
        shutil.copytree(kway_run[1], tmp_path / name)
    told = script("results", tmp_path)
    assert "±" not in told.stdout and "| 2 of 1 seed |" in told.stdout
    absent = script("results", tmp_path / "a", tmp_path / "c")
    assert absent.returncode == 1 and f"no folder {tmp_path / 'c'}; expected run folders" in absent.stderr
