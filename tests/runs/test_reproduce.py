"""A run is trained again from its folder, and every difference is named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from commands import script
from toy_data import write_kway, write_pairs

from mmtab.config.types import ReproduceConfig
from mmtab.runs.evaluate import evaluate
from mmtab.runs.reproduce import reproduce
from mmtab.runs.train import train
from mmtab.utils.errors import RunError

QUICK = ["dataset.drop=[image]", "trainer.batch_size=8", "text.n_tuned_layers=0"]


def again(folder: Path, output: Path, **settings: Any) -> Any:
    return reproduce(ReproduceConfig(run=str(folder), output=str(output), **settings), output)


@pytest.mark.parametrize("write", [write_kway, write_pairs])
def test_the_same_again(tmp_path: Path, configure: Any, write: Any) -> None:
    data, folder = write(tmp_path / "data"), tmp_path / "run"
    train(configure(data, *QUICK, "seed=3"), folder)
    evaluate(folder, "test")
    found = again(folder, tmp_path / "again")
    assert found.worst() == 0 and found.n_predictions_changed == {"valid": 0, "test": 0} and not found.around
    assert {each.what.split("/")[0] for each in found.metrics} == {"valid", "test"}
    assert json.loads((tmp_path / "again" / "reproduction.json").read_text())["metrics"][0]["then"] is not None
    shutil.move(data, tmp_path / "moved")
    assert again(folder, tmp_path / "elsewhere", path=str(tmp_path / "moved")).worst() == 0


def test_what_is_different_is_named(tmp_path: Path, configure: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    data, folder = write_kway(tmp_path / "data"), tmp_path / "run"
    metrics = train(configure(data, *QUICK), folder)
    facts = json.loads((folder / "provenance.json").read_text())
    (folder / "manifest.json").unlink()  # else the folder is taken for damaged
    facts["versions"]["torch"], facts["git_commit"] = "1.13", "another"
    (folder / "provenance.json").write_text(json.dumps(facts))
    (folder / "metrics.json").write_text(json.dumps({"valid": metrics | {"log_loss": metrics["log_loss"] + 0.25}}))
    found = again(folder, tmp_path / "again")
    assert {each.what for each in found.around} == {"version of torch", "git_commit"}
    assert [each.what for each in found.metrics if each.then != each.now] == ["valid/log_loss"]
    assert found.worst() == pytest.approx(0.25)
    write_kway(data, seed=5)
    with pytest.raises(RunError, match=r"trained on other data: one of .*train\.parquet.*path=FOLDER"):
        again(folder, tmp_path / "never")


@pytest.mark.slow
def test_the_script_ends_by_what_it_found(tmp_path: Path, configure: Any) -> None:
    data, folder = write_kway(tmp_path / "data"), tmp_path / "run"
    metrics = train(configure(data, "dataset.drop=[image,text]"), folder)

    def reproduce(name: str, *overrides: str) -> tuple[int, str]:
        done = script("reproduce", f"run={folder}", f"output={tmp_path / name}", *overrides)
        return done.returncode, done.stdout + done.stderr

    status, output = reproduce("same", "tolerance=0.001")
    assert status == 0 and "the same to the last digit" in output, output
    (folder / "manifest.json").unlink()
    (folder / "metrics.json").write_text(json.dumps({"valid": metrics | {"ece": metrics["ece"] + 0.125}}))
    status, output = reproduce("other")
    assert status == 1 and "metrics differ by up to 0.125" in output, output
