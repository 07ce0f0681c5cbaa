"""From overrides to a checked, typed configuration."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mmtab.config.overrides import written
from mmtab.config.types import (
    CONFIGS,
    PRECISIONS,
    BenchmarkConfig,
    EvaluateConfig,
    MatchConfig,
    PredictConfig,
    ReportConfig,
    ReproduceConfig,
    RunConfig,
    SweepConfig,
)
from mmtab.utils.errors import ConfigError


def compose(*overrides: str) -> RunConfig:
    """The configuration that ``scripts/train.py`` has with these overrides, for programs and notebooks. It wants an
    ``output=``, which only a script has by itself."""
    import hydra

    register()
    with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return typed(hydra.compose("train", list(overrides)))


def typed(config: DictConfig) -> RunConfig:
    """Resolve and check; raises ConfigError for values that fit no type or choice."""
    try:  # merged anew, because additions by force (+trainer.misspelt=1) stay in an open configuration unseen
        whole = OmegaConf.merge(OmegaConf.structured(RunConfig), OmegaConf.to_container(config, resolve=True))
    except OmegaConfBaseException as error:
        raise ConfigError(f"{error.full_key}: {str(error).splitlines()[0]}") from error
    run = OmegaConf.to_object(whole)
    assert isinstance(run, RunConfig)
    choices = {
        "trainer.precision": (run.trainer.precision, sorted(PRECISIONS)),
        "dataset.bad_cells": (run.dataset.bad_cells, ["error", "missing"]),
        "wandb.mode": (run.wandb.mode, ["disabled", "offline", "online"]),
        "resume": (run.resume, ["auto", "never"]),
        "trainer.strategy": (run.trainer.strategy, ["auto", "ddp", "fsdp"]),
        "trainer.on_oom": (run.trainer.on_oom, ["stop", "halve"]),
    }
    for name, (value, allowed) in choices.items():
        if value not in allowed:
            raise ConfigError(f"{name}={value}: expected one of {', '.join(allowed)}")
    for name, least in (
        ("max_epochs", 1),
        ("batch_size", 1),
        ("eval_batch_size", 1),
        ("accumulate", 1),
        ("patience", 1),
        ("keep", 1),
        ("n_nodes", 1),
        ("checkpoint_seconds", 0),
    ):
        value = getattr(run.trainer, name)
        if value is not None and value < least:
            raise ConfigError(f"trainer.{name}={value}: expected at least {least}")
    if run.wandb.mistakes < 0:
        raise ConfigError(f"wandb.mistakes={run.wandb.mistakes}: expected at least 0")
    devices = run.trainer.devices
    if run.trainer.on_oom == "halve" and (devices != 1 or run.trainer.n_nodes > 1):
        raise ConfigError(
            "trainer.on_oom=halve: several processes cannot begin anew together; lower trainer.batch_size"
        )
    if devices != "auto" and (not isinstance(devices, int) or devices < 1):
        raise ConfigError(f"trainer.devices={devices}: expected a number from 1, or auto")
    for name in ("cell_drop", "span_deletion", "column_shuffle"):
        if not 0 <= getattr(run.pair_head.augment, name) < 1:
            raise ConfigError(f"pair_head.augment.{name}={getattr(run.pair_head.augment, name)}: expected 0 to below 1")
    if run.pair_head.hard_negatives < 0 or run.pair_head.mine_every < 1:
        raise ConfigError("pair_head.hard_negatives: expected at least 0, and pair_head.mine_every at least 1")
    if run.pair_head.model and not (run.pair_head.tower or run.pair_head.joint or run.pair_head.compare):
        raise ConfigError("pair_head: tower, joint and compare are all null; expected at least one")
    if run.pair_head.cross_text and not run.pair_head.joint:
        raise ConfigError("pair_head.cross_text: its tokens are read by the joint view; set pair_head.joint as well")
    if run.pair_head.tower and not run.pair_head.model.get("towers"):
        raise ConfigError("pair_head.tower: it compares the vectors of towers; set pair_head.model.towers=true")
    if run.pair_head.hard_negatives and not run.pair_head.model.get("towers"):
        raise ConfigError(
            "pair_head.hard_negatives: they are found among the vectors of towers; set pair_head.model.towers=true"
        )
    return run


def settle(config: RunConfig, task: str, has_text: bool, n_train: int, apart: bool = False) -> RunConfig:
    """Replace the choices left open by what suits the task and the amount of training data. ``apart``: some relation
    ignores a text column that another reads, so cells must not read each other."""
    text, trainer = dict(config.text), config.trainer
    if text["n_tuned_layers"] == "auto":
        head = config.kway_head if task == "kway" else config.pair_head
        text["n_tuned_layers"] = head.n_tuned_text_layers
    if apart:
        text["layout"] = "column"
    crossed = task != "kway" and config.pair_head.cross_text
    epochs = trainer.max_epochs
    if epochs is None:
        tuned = has_text and (text["n_tuned_layers"] != 0 or crossed)
        steps = math.ceil(n_train / trainer.batch_size / trainer.accumulate)
        epochs = min(max(5 if tuned else 12, math.ceil(500 / steps)), 60)
    patience = trainer.patience if trainer.patience is not None else max(3, epochs // 3)
    return replace(config, text=text, trainer=replace(trainer, max_epochs=epochs, patience=patience))


def register() -> None:
    """Make the typed tops known to Hydra; each configs/*.yaml names its own in ``defaults``."""
    from hydra.core.config_store import ConfigStore

    store = ConfigStore.instance()
    for name, node in (
        ("run_config", RunConfig),
        ("evaluate_config", EvaluateConfig),
        ("predict_config", PredictConfig),
        ("match_config", MatchConfig),
        ("reproduce_config", ReproduceConfig),
        ("report_config", ReportConfig),
        ("sweep_config", SweepConfig),
        ("benchmark_config", BenchmarkConfig),
    ):
        store.store(name=name, node=node)


def dataset_place(entry: str, where: str = "datasets") -> tuple[str, tuple[str, ...]]:
    """The name of a dataset among the runs, and the overrides of train.py that say it."""
    if (CONFIGS / "dataset" / f"{entry}.yaml").is_file():
        return entry, (f"dataset={entry}",)
    folder = Path(entry).expanduser().resolve()
    if folder.is_dir():
        return folder.name, ("dataset=custom", f"dataset.path={written(str(folder))}")
    known = ", ".join(sorted(path.stem for path in (CONFIGS / "dataset").glob("*.yaml")))
    raise ConfigError(f"{where}: {entry} is neither a name of configs/dataset/ ({known}) nor a dataset folder")


@contextlib.contextmanager
def _hydra_set_aside() -> Iterator[None]:
    """A script that was started by Hydra can compose no configuration but its own, as long as Hydra knows of that one."""
    from hydra.core.global_hydra import GlobalHydra

    instance = GlobalHydra.instance()
    own = instance.hydra
    instance.clear()
    try:
        yield
    finally:
        instance.clear()
        if own is not None:
            instance.initialize(own)


def compose_run(where: str, place: Sequence[str], overrides: Sequence[str]) -> RunConfig:
    """The configuration of a run on the dataset that ``place`` says; raises ConfigError, which begins with ``where``."""
    from hydra.errors import HydraException

    with _hydra_set_aside():
        try:
            return compose(*place, *overrides, "output=unused", "test=false")
        except (HydraException, ConfigError) as error:
            raise ConfigError(f"{where}: {_reason(error, place)}") from error


def _reason(error: Exception, place: Sequence[str]) -> str:
    """What Hydra means, in one line."""
    missing = re.match(r"Could not override '([^']+)'", str(error))
    if missing is None:
        lines = str(error.__cause__ or error).split("Config search path")[0].split("full_key:")[0].splitlines()
        return " ".join(line.strip() for line in lines if line.strip())
    known = sorted(set(_names(dataclasses.asdict(compose(*place, "output=unused")))))
    near = difflib.get_close_matches(missing[1], known, n=2)
    return f"no setting {missing[1]}" + (
        f"; did you mean {' or '.join(near)}?" if near else "; train.py --help has all"
    )


def _names(value: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """Settings by their dotted names, and the groups that they stand in."""
    for key, inner in value.items():
        if not key.startswith("_"):
            yield f"{prefix}{key}"
        if isinstance(inner, dict):
            yield from _names(inner, f"{prefix}{key}.")
