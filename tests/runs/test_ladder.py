"""``recipe=auto``: recipes in turn while there is time, and the best of them as one run."""

from __future__ import annotations

import json
import shutil
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from toy_data import write_kway, write_numbers, write_pairs

from mmtab.api import load_run
from mmtab.config.types import RunConfig
from mmtab.runs import ladder, pace
from mmtab.runs.evaluate import evaluate
from mmtab.runs.folder import open_config
from mmtab.runs.train import train
from mmtab.utils.errors import ConfigError, RunError, TrainingError

AUTO = ["recipe=auto", "dataset.drop=[image]", "trainer.max_epochs=1"]


@pytest.mark.parametrize("write", [write_kway, write_numbers, write_pairs])
def test_the_best_step_is_the_run(
    tmp_path: Path, configure: Any, capsys: pytest.CaptureFixture[str], write: Any
) -> None:
    config, folder = configure(write(tmp_path / "data", n=40), *AUTO), tmp_path / "run"
    metrics = train(config, folder)
    said, run = json.loads((folder / "ladder.json").read_text()), load_run(folder)
    assert list(said["valid"]) == ["frozen", "several", "tuned"]
    name, sign = {write_kway: ("log_loss", 1), write_numbers: ("r2", -1), write_pairs: ("pr_auc", -1)}[write]
    assert said["chosen"] == min(said["valid"], key=lambda recipe: sign * said["valid"][recipe][name])
    assert run.metrics["valid"] == pytest.approx(metrics) == said["valid"][said["chosen"]]
    layers = {"frozen": 0, "several": 0, "tuned": 2}[said["chosen"]]
    assert open_config(folder).text["n_tuned_layers"] == layers and open_config(folder).ladder == []
    assert not (folder / "steps").exists()
    assert evaluate(folder, "test")
    assert f"kept recipe {said['chosen']}" in capsys.readouterr().out
    with pytest.warns(UserWarning, match="already holds this run"):
        assert train(config, folder) == pytest.approx(metrics)


def test_what_a_killed_call_left_is_gone_on_with(tmp_path: Path, configure: Any) -> None:
    """Between two steps, and while the files of the best are moved."""
    config, folder = configure(write_kway(tmp_path / "data", n=40), *AUTO), tmp_path / "run"
    trained = list[str]()

    def counting(step: RunConfig, where: Path, _: float) -> dict[str, float]:
        trained.append(where.name)
        if len(trained) == 2:
            raise KeyboardInterrupt
        return train(step, where)

    with pytest.raises(KeyboardInterrupt):
        ladder.climb(config, folder, counting)
    metrics = train(config, folder)
    assert (folder / "ladder.json").exists() and trained == ["frozen", "several"]
    before = {path.name for path in folder.iterdir()}

    chosen = json.loads((folder / "ladder.json").read_text())["chosen"]
    (step := folder / "steps" / chosen).mkdir(parents=True)
    for name in ("provenance.json", "metrics.json"):  # as if these had not been moved yet
        shutil.move(folder / name, step / name)
    assert train(config, folder) == pytest.approx(metrics)
    assert {path.name for path in folder.iterdir()} == before and evaluate(folder, "test")


def test_no_step_begins_without_time_for_it(
    tmp_path: Path, configure: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_kway(tmp_path / "data", n=40)
    limits = list[tuple[float | None, float]]()

    def slow(step: RunConfig, where: Path, reserve: float) -> dict[str, float]:
        limits.append((step.trainer.max_minutes, reserve))
        clock[0] += 60 * 0.8 * 10  # 8 of 10 minutes
        return train(step, where)

    clock = [0.0]
    monkeypatch.setattr(ladder.time, "perf_counter", lambda: clock[0])
    config = configure(data, *AUTO, "trainer.max_minutes=10")
    ladder.climb(config, tmp_path / "run", slow)
    assert limits == [(10.0, 4.0)] and "no time is left for several, tuned" in capsys.readouterr().out
    assert load_run(tmp_path / "run").metrics["valid"]


@pytest.mark.parametrize("write", [write_kway, write_pairs])
def test_a_network_reads_as_much_text_as_there_is_time_for(
    tmp_path: Path, configure: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, write: Any
) -> None:
    """A call that goes on with a killed one's, on a faster machine, keeps to what that one chose."""
    data, cut = write(tmp_path / "data", n=44, seed=11), tmp_path / "cut"  # which no other test has stored
    config = configure(data, *AUTO, "ladder=[frozen]", "trainer.max_minutes=1e-4")
    asked = config.text["max_length"]

    def killed(step: RunConfig, where: Path, _: float) -> dict[str, float]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ladder.climb(replace(config, output=str(cut)), cut, killed)
    assert f"reads 16 tokens of a row's text: for text.max_length={asked} it would" in capsys.readouterr().out
    with monkeypatch.context() as faster:
        faster.setattr(pace, "tokens_per_second", lambda *_: 1e12)
        metrics = train(replace(config, output=str(cut)), cut)
        assert open_config(cut).text["max_length"] == 16 and evaluate(cut, "test")
        train(config, whole := tmp_path / "whole")
    assert open_config(whole).text["max_length"] == asked
    with pytest.warns(UserWarning, match="already holds this run"):
        assert train(replace(config, output=str(cut)), cut) == pytest.approx(metrics)
    with pytest.raises(RunError, match=r"text\.max_length"):
        train(replace(config, output=str(cut), text=config.text | {"max_length": 20}), cut)
    train(config, again := tmp_path / "again")  # what is stored takes no time
    assert open_config(again).text["max_length"] == asked


def test_time_is_kept_for_a_next_step_that_could_use_it(
    tmp_path: Path, configure: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    config = configure(write_kway(tmp_path / "data", n=40), "dataset.drop=[text,image]", "trainer.max_epochs=1")
    config = replace(config, trainer=replace(config.trainer, max_minutes=10.0))
    for reserve, minutes in ((4.0, 6), (1e-6, 10)):  # preparing the next takes longer than a microminute
        train(config, tmp_path / f"{minutes}", reserve)
        assert f"and {minutes} min in all" in capsys.readouterr().out


def test_a_step_that_is_the_same_model_is_not_trained_twice(tmp_path: Path, configure: Any) -> None:
    config = configure(
        write_kway(tmp_path / "data"), "recipe=auto", "dataset.drop=[text,image]", "trainer.max_epochs=1"
    )
    train(config, tmp_path / "run")
    assert list(json.loads((tmp_path / "run" / "ladder.json").read_text())["valid"]) == ["frozen", "several"]


def test_a_step_that_fails_is_left_out(tmp_path: Path, configure: Any) -> None:
    config = configure(write_kway(tmp_path / "data", n=40), *AUTO)

    def failing(step: RunConfig, where: Path, _: float) -> dict[str, float]:
        if where.name == "tuned":
            raise TrainingError("out of memory")
        return train(step, where)

    with pytest.warns(UserWarning, match="recipe tuned is left out: out of memory"):
        ladder.climb(config, tmp_path / "run", failing)
    assert load_run(tmp_path / "run").metrics["valid"]


def test_a_recipe_that_is_none_is_one_line(tmp_path: Path, configure: Any) -> None:
    config = configure(write_kway(tmp_path / "data"), "ladder=[frozen,tunned]")
    with pytest.raises(ConfigError, match="no recipe tunned; expected some of auto, cross, frozen, several, tuned"):
        train(config, tmp_path / "run")


def test_pairs_may_climb_to_a_cross_encoder_which_rows_have_none_of(tmp_path: Path, configure: Any) -> None:
    tried: dict[str, list[str]] = {"kway": [], "pairs": []}
    for name, write in (("kway", write_kway), ("pairs", write_pairs)):

        def note(step: RunConfig, where: Path, _: float, name: str = name) -> dict[str, float]:
            tried[name].append(where.name)
            assert step.pair_head.cross_text == (where.name == "cross")
            if where.name == "cross":
                assert step.pair_head.cross["n_tuned_layers"] == 2 and step.pair_head.cross["apart"]
                raise TrainingError("that will do")
            return train(step, where)

        settings = ["ladder=[frozen,cross]", "dataset.drop=[image]", "trainer.max_epochs=1"]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ladder.climb(configure(write(tmp_path / name, n=40), *settings), tmp_path / f"{name}-run", note)
    assert tried == {"kway": ["frozen"], "pairs": ["frozen", "cross"]}
