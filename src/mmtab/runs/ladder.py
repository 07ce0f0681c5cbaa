"""Several recipes in turn, as long as the time allows; the best on valid is the run."""

from __future__ import annotations

import dataclasses
import os
import shutil
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from mmtab.config.types import CONFIGS, RunConfig
from mmtab.data.dataset import chosen_schema
from mmtab.runs.folder import APART, CHOSEN, STEPS, TEXT_LENGTH, deciding, read_facts
from mmtab.runs.inputs import data_folder
from mmtab.runs.pace import LENGTHS_RULE, paced, with_length
from mmtab.training.build import columns_of_text
from mmtab.training.tasks import chosen_by
from mmtab.utils.atomic import write_json
from mmtab.utils.errors import ConfigError, RunError, TrainingError
from mmtab.utils.plain import mapping, maybe, number, read_plain, record, text
from mmtab.utils.progress import say

MARGIN = 1.5  # times the preparation of the last step: what that of the next may take
FIRST_SHARE, LEAST_SHARE = 0.6, 0.25  # of the time: at most for a step that others follow, at least for one to begin


def climb(
    config: RunConfig, folder: Path, train: Callable[[RunConfig, Path, float], dict[str, float]]
) -> dict[str, float]:
    """Train the recipes of ``config.ladder`` in ``folder/steps``, each while there is time; the best on
    valid, by what also chooses epochs, becomes the run of ``folder``. Returns its metrics.

    ladder.json keeps what each recipe scored. Steps that a killed call has finished are not trained again.
    """
    if config.trainer.devices != 1 or config.trainer.n_nodes > 1:
        raise ConfigError("recipe=auto trains on one device; choose recipe=frozen or recipe=tuned for several")
    started, steps = time.perf_counter(), folder / STEPS
    for path in [steps, *(steps.iterdir() if steps.is_dir() else ())]:
        if path.is_symlink():
            raise RunError(f"{path} is a link, and what it leads to would be moved. Fix: remove it")
    if config.resume == "never":
        (folder / CHOSEN).unlink(missing_ok=True)
        shutil.rmtree(steps, ignore_errors=True)
    if not (folder / CHOSEN).exists() or not (steps / _read_choice(config, folder)["chosen"]).is_dir():
        config, length = paced(config, with_recipe(config, config.ladder[0]), steps / TEXT_LENGTH)
        scores = _train_all(config, steps, train, started)
        schema = chosen_schema(config.dataset, data_folder(config))
        name = chosen_by(schema.task, schema.metric)
        best = (min if name == "log_loss" else max)(scores, key=lambda recipe: scores[recipe][name])
        write_json(folder / CHOSEN, {"chosen": best, "chosen_by": name, "valid": scores, "text_length": length})
    said = _read_choice(config, folder)
    _move(steps / said["chosen"], folder)
    shutil.rmtree(steps, ignore_errors=True)
    shown = ", ".join(f"{recipe} {values[said['chosen_by']]:.4f}" for recipe, values in said["valid"].items())
    say(f"kept recipe {said['chosen']} (valid {said['chosen_by']}: {shown})")
    return said["valid"][said["chosen"]]


def _train_all(
    config: RunConfig, steps: Path, train: Callable[[RunConfig, Path, float], dict[str, float]], started: float
) -> dict[str, dict[str, float]]:
    """By recipe, its metrics on valid. ``started``: by ``time.perf_counter``, when the time began to run."""
    limit, scores = config.trainer.max_minutes, dict[str, dict[str, float]]()
    tried: list[dict[str, Any]] = []
    preparation = reserve = 0.0  # minutes: that the next step may take before it trains, and that are kept for it
    for place, recipe in enumerate(config.ladder):
        step = with_recipe(config, recipe)
        if (decides := _deciding(step)) in tried:
            continue
        tried.append(decides)
        if limit is not None:
            left = limit - (time.perf_counter() - started) / 60
            if scores and left < max(LEAST_SHARE * limit, preparation):
                say(f"no time is left for {', '.join(config.ladder[place:])}")
                break
            kept = left * (1 - FIRST_SHARE)
            reserve = kept if place + 1 < len(config.ladder) and kept >= LEAST_SHARE * limit else 0.0
            step = replace(step, trainer=replace(step.trainer, max_minutes=max(left, 1e-3)))
        say(f"recipe {recipe}")
        try:
            scores[recipe] = train(step, steps / recipe, reserve)
            preparation = MARGIN * read_facts(steps / recipe)["seconds"]["prepare"] / 60
        except TrainingError as error:
            if not scores:
                raise
            warnings.warn(f"recipe {recipe} is left out: {error}", stacklevel=2)
    return scores


def _deciding(config: RunConfig) -> dict[str, Any]:
    """What tells the model of one step from that of another: of the text encoder nothing where there is no text, and of
    the pair model nothing where there are no pairs."""
    schema = chosen_schema(config.dataset, data_folder(config))
    apart = APART | ({"pair_head", "search"} if schema.of_rows else set())
    return deciding(config if columns_of_text(config, schema) else replace(config, text={}), apart)


def with_recipe(config: RunConfig, recipe: str) -> RunConfig:
    """The settings of one step; raises ConfigError for a recipe that configs/recipe/ lacks."""
    path = CONFIGS / "recipe" / f"{recipe}.yaml"
    if not path.is_file():
        names = sorted(file.stem for file in path.parent.glob("*.yaml"))
        raise ConfigError(f"ladder: no recipe {recipe}; expected some of {', '.join(names)}")
    changed: RunConfig = _merged(config, yaml.safe_load(path.read_text()))
    return replace(changed, ladder=[])


def _merged(settings: Any, changes: Any) -> Any:
    """Settings, or a dict of them, with some changed."""
    if dataclasses.is_dataclass(settings) and not isinstance(settings, type):
        return replace(settings, **{name: _merged(getattr(settings, name), value) for name, value in changes.items()})
    if isinstance(settings, dict) and isinstance(changes, dict):
        return settings | {name: _merged(settings.get(name), value) for name, value in changes.items()}
    return changes


def finished_as(config: RunConfig, folder: Path, saved: RunConfig) -> RunConfig:
    """The settings that the finished run of a ladder has, where these settings ask for the same ladder."""
    path = folder / CHOSEN
    if not config.ladder or not path.exists():
        return config
    said = _read_choice(config, folder)
    step = with_recipe(with_length(config, said.get("text_length")), said["chosen"])
    return replace(step, trainer=replace(step.trainer, max_minutes=saved.trainer.max_minutes))


def _read_choice(config: RunConfig, folder: Path) -> dict[str, Any]:
    """ladder.json, by which files are moved; raises RunError where it names a recipe that the settings do not."""
    path = folder / CHOSEN
    needed = {"chosen": text, "chosen_by": text, "valid": mapping(mapping(number(nan=True)))}
    said = read_plain(path, record(needed, {"text_length": maybe(LENGTHS_RULE)}))
    if said["chosen"] not in config.ladder or said["chosen_by"] not in said["valid"].get(said["chosen"], {}):
        raise RunError(
            f"{path}, chosen: expected one of {', '.join(config.ladder)} with its score, found {said['chosen']}"
        )
    return said


def _move(source: Path, target: Path) -> None:
    """The files of a finished run, that which says so last; a killed call goes on with the others."""
    if not source.is_dir():
        return
    for path in sorted(source.iterdir(), key=lambda path: path.name == "provenance.json"):
        if path.name.startswith("."):
            continue
        destination = target / path.name
        if destination.is_dir():
            shutil.rmtree(destination)
        os.replace(path, destination)  # noqa: PTH105
