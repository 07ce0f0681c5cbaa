"""From overrides to a checked, typed configuration."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from mmtab.config import ranking, types
from mmtab.config.overrides import literal, verbatim, written
from mmtab.config.parts import allow_targets
from mmtab.config.settings import check, walk
from mmtab.config.types import CONFIGS, LocalSettings, RunConfig
from mmtab.utils.addresses import check_here
from mmtab.utils.errors import ConfigError, did_you_mean, first_line

Settings = TypeVar("Settings")
SETTINGS: dict[str, type] = {
    "train": RunConfig,
    "evaluate": types.EvaluateConfig,
    "predict": types.PredictConfig,
    "match": types.MatchConfig,
    "reproduce": types.ReproduceConfig,
    "report": types.ReportConfig,
    "sweep": types.SweepConfig,
    "benchmark": ranking.BenchmarkConfig,
}  # by command, each composed from configs/COMMAND.yaml
FIRST = {"train": "dataset", "sweep": "datasets", "benchmark": "track"}  # what a word by itself is likely to mean
OF_RUNS = ("sweep", "benchmark")  # commands that take settings of train as ``overrides``
PATHS_OF_PARTS = {"text.backbone": "path", "image.backbone": "path"}


def paths_of(command: str) -> dict[str, str]:
    """By the dotted names of a command's settings: ``path`` or ``paths`` where one takes a path, or a list of them,
    ``list`` where it takes a list of something else, and nothing for others."""
    kinds = {
        name: rule.kind or ("list" if type(value) is list else "") for name, rule, value in walk(SETTINGS[command]())
    }
    return kinds | (PATHS_OF_PARTS if command == "train" else {})


def compose(*overrides: str) -> RunConfig:
    """The configuration that ``mmtab train`` has with these overrides, for programs and notebooks. ``output=`` is
    required; only the command line has a default for it."""
    import hydra

    register()
    with without_hydra(), hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
        paths = paths_of("train")
        return resolve(hydra.compose("train", [literal(override, paths) for override in overrides]), RunConfig)


def resolve(config: DictConfig, kind: type[Settings]) -> Settings:
    """The settings object of a composed configuration; raises ConfigError for values that are not given or fit no type,
    choice or bound."""
    try:  # merged anew, because additions by force (+trainer.misspelt=1) stay in an open configuration unseen
        values = _verbatim(OmegaConf.to_container(config, resolve=True))
        merged = OmegaConf.merge(OmegaConf.structured(kind), values)
    except OmegaConfBaseException as error:
        command = next(name for name, settings in SETTINGS.items() if settings is kind)
        raise ConfigError(_misfit(error, command)) from error
    try:
        settings: Any = OmegaConf.to_object(merged)
    except MissingMandatoryValue as error:
        raise ConfigError(f"{error.full_key} is not given. Fix: add {error.full_key}=…") from error
    check(settings)
    if isinstance(settings, RunConfig):
        wandb, named = settings.wandb, "wandb" in settings.logger
        if named and wandb.mode == "disabled":
            raise ConfigError("wandb.mode=disabled, but logger names wandb. Fix: leave out one of the two")
        wandb.mode = wandb.mode or ("online" if named else "disabled")
    allow_targets(dataclasses.asdict(settings))  # whoever composes them chose them
    return settings


def _verbatim(values: Any) -> Any:
    """Values that have been resolved, so that they are not resolved again."""
    if isinstance(values, dict):
        return {key: _verbatim(value) for key, value in values.items()}
    if isinstance(values, list):
        return list(map(_verbatim, values))
    return verbatim(values) if isinstance(values, str) else values


def settle(config: RunConfig, task: str, has_text: bool, n_train: int, apart: bool = False) -> RunConfig:
    """Replace the choices left open by what suits the task and the amount of training data. ``apart``: some relation
    ignores a text column that another reads, so cells must not read each other."""
    text, trainer = dict(config.text), config.trainer
    if text.get("n_tuned_layers") == "auto":
        heads: dict[str, Any] = {"kway": config.kway_head, "regression": config.regression_head}
        text["n_tuned_layers"] = heads.get(task, config.pair_head).n_tuned_text_layers
    if "n_depths" in text and text["n_depths"] is None:
        text["n_depths"] = 1 if task == "matching" else 2
    if apart:
        text["layout"] = "column"
    crossed = task == "matching" and config.pair_head.cross_text
    epochs = trainer.max_epochs
    if epochs is None:
        tuned = has_text and (text.get("n_tuned_layers") != 0 or crossed)
        steps = math.ceil(n_train / trainer.batch_size / trainer.accumulate)
        epochs = min(max(5 if tuned else 12, math.ceil(500 / steps)), 60)
    patience = trainer.patience if trainer.patience is not None else max(3, epochs // 3)
    return replace(config, text=text, trainer=replace(trainer, max_epochs=epochs, patience=patience))


@functools.cache
def register() -> None:
    """Make the typed tops known to Hydra; each configs/*.yaml names its own in ``defaults``."""
    from hydra.core.config_store import ConfigStore

    store = ConfigStore.instance()
    for command, kind in SETTINGS.items():
        store.store(name=f"mmtab_{command}", node=kind)  # in one store with those of a program that calls mmtab


def locate(entry: str | Path, data_root: str | Path | None = None) -> str | Path:
    """A name of configs/dataset/, else the folder: here, or else under ``data_root`` (default: MMTAB_DATA, else
    ``data``). Where there is neither, the folder here."""
    if isinstance(entry, str) and entry in names_in("dataset"):
        return entry
    here, in_root = Path(entry).expanduser(), Path(data_root or LocalSettings().data_root).expanduser() / entry
    return (in_root if not here.exists() and in_root.is_dir() else here).resolve()


def dataset_place(entry: str, where: str = "datasets") -> tuple[str, tuple[str, ...]]:
    """The name of a dataset among the runs, and the overrides of train.py that say it."""
    check_here(entry, where)
    folder = locate(entry)
    if isinstance(folder, str):
        return entry, (f"dataset={entry}",)
    if folder.is_dir():
        return folder.name, ("dataset=custom", f"dataset.path={written(str(folder))}")
    if folder.exists():
        raise ConfigError(f"{where}: {entry} is no dataset folder, but a file")
    if Path(entry).name != entry or Path(entry).suffix:
        in_root = Path(LocalSettings().data_root).expanduser() / entry
        raise ConfigError(f"{where}: there is no {folder}, nor {in_root} (MMTAB_DATA). Fix: correct the path")
    places = {Path.cwd(), Path(LocalSettings().data_root).expanduser()}
    own = {path.parent.name for place in places if place.is_dir() for path in place.glob("*/dataset.yaml")}
    hint = did_you_mean(entry, {*names_in("dataset"), *own})
    raise ConfigError(f"{where}: {entry} is neither a dataset folder nor a name of configs/dataset/; {hint}")


def names_in(group: str) -> list[str]:
    """What configs/GROUP/ has."""
    return sorted(path.stem for path in (CONFIGS / group).glob("*.yaml"))


@contextlib.contextmanager
def without_hydra() -> Iterator[None]:
    """Makes Hydra forget the configuration of the running command, beside which it composes no other."""
    from hydra.core.global_hydra import GlobalHydra

    own = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        yield
    finally:  # of another instance, where one was composed within
        GlobalHydra.instance().clear()
        if own is not None:
            GlobalHydra.instance().initialize(own)


def compose_run(where: str, place: Sequence[str], overrides: Sequence[str], also: Iterable[str] = ()) -> RunConfig:
    """The configuration of a run on the dataset that the overrides ``place`` name; raises ConfigError that begins with
    ``where``. ``also``: names beside those of settings that a misspelt one may mean."""
    from hydra.errors import HydraException

    try:
        return compose(*place, *overrides, "output=unused", "test=false")
    except (HydraException, ConfigError) as error:
        raise ConfigError(f"{where}: {reason(error, 'train', place, also)}") from error


def reason(error: Exception, command: str, place: Sequence[str] = (), also: Iterable[str] = ()) -> str:
    """What Hydra finds wrong with the overrides of a command, in one line. ``place``: of them those that name the
    dataset; ``also``: as for ``compose_run``."""
    from hydra.errors import OverrideParseException

    text, cause = str(error), error.__cause__
    if unknown := re.match(r"Could not override '([^']+)'", text):
        return _no_setting(unknown[1], command, place, also)
    if isinstance(cause, OmegaConfBaseException):
        return _misfit(cause, command, place)
    if absent := re.search(r"Could not (?:find|load) '([\w/]+)/([^'/]*)'", text):
        group, name = absent.groups()
        if group == "dataset":
            dataset_place(name, "dataset")  # which says it
        return f"{group}={name}: configs/{group}/ has no {name}; {did_you_mean(name, names_in(group))}"
    if isinstance(error, OverrideParseException):
        name, equals, _ = error.override.partition("=")
        unread = "it cannot be read. Fix: put the value in quotes, and these in quotes of the shell"
        if equals and name:
            return f"{error.override}: {unread}"
        first = None if name in known_settings(command) else FIRST.get(command)
        return f"{error.override}: expected NAME=VALUE{f', such as {first}={error.override}' if first else ''}"
    if several := re.match(r"Ambiguous value for argument '([^=]+)=(.*)'", text):
        return (
            f"{several[1]}={several[2]}: one value is expected; several are written [{several[2]}], where it is a list"
        )
    return " ".join(text.split("Config search path")[0].split())


def _misfit(error: OmegaConfBaseException, command: str, place: Sequence[str] = ()) -> str:
    """A value of the wrong type, or a setting that there is not."""
    text, name = first_line(error), error.full_key or "configuration"
    if re.match(r"Key '.*' (is )?not in ", text):
        return _no_setting(name, command, place)
    if wrong := re.match(r"Value '(.*)' (?:of type '\w+' could not be converted to|is not a valid) (\w+)", text):
        kinds = {"Integer": "a whole number", "Float": "a number", "bool": "true or false"}
        return f"{name}={wrong[1]}: expected {kinds.get(wrong[2], wrong[2])}"
    return f"{name}: {text}"


def _no_setting(name: str, command: str, place: Sequence[str], also: Iterable[str] = ()) -> str:
    known, further, otherwise = known_settings(command, place), set(also), f"mmtab {command} --help lists all"
    if command in OF_RUNS:
        of_train = known_settings("train") - {"dataset", "output"}
        if name in of_train:
            return f"{name} is a setting of train, not of {command}. Fix: 'overrides=[{name}=VALUE]'"
        hint = did_you_mean(name, of_train, otherwise)
        otherwise = hint if hint == otherwise else f"{hint} Settings of train stand in 'overrides=[NAME=VALUE]'"
    if command == "train" and not further:  # the seconds of mmtab.fit
        hint = did_you_mean(name, known | {"time_limit"}, otherwise)
        return f"no setting {name}; {hint.replace('time_limit', 'trainer.max_minutes (in minutes)')}"
    return f"no setting {name}; {did_you_mean(name, known | further, otherwise)}"


def known_settings(command: str, place: Sequence[str] = ()) -> set[str]:
    """Names of the settings and groups of a command; of train on the dataset that ``place`` names."""
    if command == "train":
        return set(_names(dataclasses.asdict(compose(*place, "output=unused")))) | {"recipe", "launcher"}
    return {name for name, _, _ in walk(SETTINGS[command]())}


def _names(value: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """Settings by their dotted names, and the groups that they stand in."""
    for key, inner in value.items():
        if not key.startswith("_"):
            yield f"{prefix}{key}"
        if isinstance(inner, dict):
            yield from _names(inner, f"{prefix}{key}.")
