"""The files of a run folder."""

from __future__ import annotations

import csv
import dataclasses
import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import yaml
from omegaconf import OmegaConf
from torch import nn

from mmtab.config.types import RunConfig
from mmtab.training.build import with_current_targets
from mmtab.training.checkpoints import LAST
from mmtab.training.sharding import load_state
from mmtab.training.tasks import Task
from mmtab.utils.atomic import write_json, write_text
from mmtab.utils.errors import RunError
from mmtab.utils.paths import check_run_links

FORMAT = 3
READABLE = (2, 3)  # 2 has the calibration of the task in provenance.json
TASK = "task.json"
# Settings that leave the numbers of a run as they are
APART = {
    "output",
    "data_root",
    "cache",
    "cache_gb",
    "resume",
    "wandb",
    "test",
    "report",
    "trainer.progress",
    "trainer.n_workers",
    "trainer.checkpoint_seconds",
    "trainer.keep",
    "trainer.on_oom",
    "dataset.path",
    "dataset.image_root",
}


def differences(there: RunConfig, here: RunConfig, settled: bool = True) -> list[str]:
    """Settings that the numbers of a run depend on and that are not the same. ``settled`` false: ``here`` still leaves
    settings open (null, auto), and these agree with whatever was chosen."""
    old, new = deciding(there), deciding(here)
    return [
        f"{name}={old.get(name)} there, {new.get(name)} here"
        for name in sorted(old | new)
        if old.get(name) != new.get(name) and (settled or new.get(name) not in (None, "auto"))
    ]


def deciding(config: RunConfig, apart: set[str] = APART) -> dict[str, Any]:
    """The settings that the numbers of a run depend on: all but those ``apart`` and their parts."""
    return {
        name: value
        for name, value in flat(config).items()
        if not any(name == prefix or name.startswith(f"{prefix}.") for prefix in apart)
    }


def flat(config: RunConfig) -> dict[str, Any]:
    """Settings by their dotted names, as on the command line."""

    def walk(value: Any, name: str) -> Iterator[tuple[str, Any]]:
        if isinstance(value, dict) and value:
            for key, inner in value.items():
                yield from walk(inner, f"{name}.{key}" if name else key)
        else:
            yield name, value

    return dict(walk(dataclasses.asdict(config), ""))


def open_config(folder: Path) -> RunConfig:
    """The resolved configuration of a run. Raises RunError also for a link that leads out of its folder."""
    check_run_links(folder)
    raw = with_current_targets(read_run_file(folder, "config.yaml"))
    config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(RunConfig), raw))
    assert isinstance(config, RunConfig)
    return config


def write_config(folder: Path, config: RunConfig) -> None:
    raw = OmegaConf.to_container(OmegaConf.structured(config))
    write_text(folder / "config.yaml", yaml.safe_dump(raw, sort_keys=False, allow_unicode=True))


def read_facts(folder: Path) -> dict[str, Any]:
    """provenance.json, of which the format is checked."""
    facts = read_run_file(folder, "provenance.json")
    if facts.get("format") not in READABLE:
        version = facts.get("versions", {}).get("mmtab", "?")
        raise RunError(
            f"{folder} was written by mmtab {version} in run format {facts.get('format')}; this version reads formats "
            f"{' and '.join(map(str, READABLE))}. Train again, or use that version of mmtab"
        )
    return facts


def write_task_state(folder: Path, task: Task) -> None:
    write_json(folder / TASK, task.state_dict())


def read_task_state(folder: Path) -> dict[str, Any]:
    """What ``task.load_state_dict`` takes: temperatures, thresholds and so on."""
    if (folder / TASK).is_file():
        return read_run_file(folder, TASK)
    facts = read_facts(folder)
    return facts | {"confidence_quantiles": facts.get("confidence")}


def read_run_file(folder: Path, name: str) -> dict[str, Any]:
    path = folder / name
    if not path.is_file():
        unfinished = " (it holds one that was stopped: train again with the same settings to go on)"
        stopped = unfinished if (folder / LAST).exists() else ""
        raise RunError(f"{folder} is not a finished run: it has no {name}{stopped}")
    try:
        text = path.read_text(encoding="utf-8")
        value = yaml.safe_load(text) if path.suffix == ".yaml" else json.loads(text)
    except (ValueError, yaml.YAMLError) as error:
        raise RunError(f"{path} is damaged ({str(error).splitlines()[0]})") from error
    if not isinstance(value, dict):
        raise RunError(f"{path} is damaged (expected a mapping)")
    return value


def load_weights(model: nn.Module, path: Path) -> None:
    """Weights of a checkpoint, read as plain tensors: nothing that a file asks for is executed."""
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
        load_state(model, {key.removeprefix("model."): value for key, value in saved.items()})
    except (OSError, RuntimeError, KeyError, EOFError, pickle.UnpicklingError) as error:
        raise RunError(f"{path}: these weights cannot be loaded ({str(error).strip().splitlines()[0]})") from error


def write_metrics(folder: Path, split: str, metrics: dict[str, Any]) -> None:
    path = folder / "metrics.json"
    others = json.loads(path.read_text()) if path.exists() else {}
    write_json(path, others | {split: metrics})


def learning_curves(folder: Path) -> list[dict[str, float]]:
    """metrics.csv, a dictionary a line, without its empty fields; none where it is not there."""
    path = folder / "metrics.csv"
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as lines:
        return [{name: float(value) for name, value in line.items() if value} for line in csv.DictReader(lines)]
