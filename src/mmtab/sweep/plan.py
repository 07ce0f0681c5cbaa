"""What a campaign is made of. Everything that can be known to be wrong is refused here, before any run starts."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mmtab.config.compose import compose_run, dataset_place
from mmtab.config.overrides import written
from mmtab.config.types import CONFIGS, RunConfig, SweepConfig
from mmtab.sweep.space import Setting, Value, grid_size, read_space, settings_of
from mmtab.utils.errors import ConfigError

Direction = Literal["maximize", "minimize"]
SAMPLERS = ["tpe", "random", "qmc", "grid", "nsgaii"]
PRUNERS = ["none", "median", "halving", "hyperband"]
OBJECTIVES: dict[str, Direction] = {
    "score": "maximize",
    "train_seconds": "minimize",
    "n_parameters": "minimize",
    "peak_memory": "minimize",
    "predict_rows_per_second": "maximize",
}
DEFINING = ["datasets", "seeds", "overrides", "sampler", "pruner", "objectives", "seed"]
OURS = re.compile(r"(dataset|dataset\.(name|path|generate)(\..*)?|seed|output|test|resume|hydra(\..*)?)")
SCRIPTS = CONFIGS.parent / "scripts"


@dataclass(frozen=True)
class Run:
    """One dataset and seed; every trial has one of each."""

    dataset: str
    seed: int
    place: tuple[str, ...]  # the overrides that say the dataset

    @property
    def name(self) -> str:
        return f"{self.dataset}-seed{self.seed}"


@dataclass(frozen=True)
class Plan:
    """A campaign that holds together. ``runs`` are in their fixed order: all datasets with one seed, then with the next,
    so that the first few already say something of every dataset."""

    config: SweepConfig
    space: dict[str, Any]
    settings: list[Setting]
    runs: list[Run]

    @property
    def output(self) -> Path:
        return Path(self.config.output)

    @property
    def n_trials(self) -> int:
        wanted = self.config.n_trials
        if not self.settings:
            return 1
        if self.config.sampler == "grid":
            size = grid_size(self.settings)
            return size if wanted is None else min(wanted, size)
        return 20 if wanted is None else wanted

    @property
    def directions(self) -> list[Direction]:
        return [OBJECTIVES[name] for name in self.config.objectives]

    @property
    def datasets(self) -> list[str]:
        return list(dict.fromkeys(run.dataset for run in self.runs))

    @property
    def definition(self) -> dict[str, Any]:
        """What must not change while a campaign lasts, in plain values."""
        return {name: getattr(self.config, name) for name in DEFINING} | {"space": self.space}

    def folder(self, number: int) -> Path:
        """Of a trial."""
        return self.output / f"trial-{number:04}"

    def run_folder(self, number: int, run: Run) -> Path:
        return self.folder(number) / run.name

    def overrides(self, params: dict[str, Value]) -> list[str]:
        """Of a trial: those of the campaign, then what was drawn."""
        return [*self.config.overrides, *(s.override(params[s.name]) for s in self.settings)]

    def arguments(self, number: int, run: Run, params: dict[str, Value]) -> list[str]:
        """What the run's process is called with. It never looks at test, and writes a report only if asked to: that costs as
        much as a short training."""
        output = f"output={written(str(self.run_folder(number, run)))}"
        group = [f"wandb.group={written(self.output.resolve().name)}", f"wandb.job_type={self.folder(number).name}"]
        return [*run.place, *group, "report=false", *self.overrides(params), f"seed={run.seed}", output, "test=false"]

    def command(self, run: Run, params: dict[str, Value]) -> str:
        """For a reader: the same run on its own, test included."""
        return shlex.join(["python", "scripts/train.py", *run.place, *self.overrides(params), f"seed={run.seed}"])


def read_plan(config: SweepConfig) -> Plan:
    """Raises ConfigError, or DataError for a dataset that is not there."""
    for name, value, allowed in (
        ("sampler", config.sampler, SAMPLERS),
        ("pruner", config.pruner, PRUNERS),
        ("test", config.test, ["best", "all", "none"]),
        ("weights", config.weights, ["all", "best"]),
        *(("objectives", each, list(OBJECTIVES)) for each in config.objectives),
    ):
        if value not in allowed:
            raise ConfigError(f"{name}={value}: expected one of {', '.join(allowed)}")
    for name, least in (("n_trials", 1), ("n_jobs", 1), ("retries", 0), ("seed", 0)):
        if getattr(config, name) is not None and getattr(config, name) < least:
            raise ConfigError(f"{name}={getattr(config, name)}: expected at least {least}")
    for name in ("datasets", "seeds", "objectives"):
        values = getattr(config, name)
        if not values or len(set(values)) < len(values):
            raise ConfigError(f"{name}={written(values)}: expected at least one, and each once")
    places = [dataset_place(entry) for entry in config.datasets]
    names = [name for name, _ in places]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"datasets: two are called {name}, and so would be their runs; rename one of the folders")
    space = read_space(config.space)
    settings = settings_of(space)
    plan = Plan(config, space, settings, [Run(name, seed, place) for seed in config.seeds for name, place in places])
    if config.pruner != "none" and len(config.objectives) > 1:
        raise ConfigError(f"pruner={config.pruner}: with several objectives no trial is worse so far; take pruner=none")
    if config.pruner != "none" and len(plan.runs) == 1:
        raise ConfigError(
            f"pruner={config.pruner}: a trial is one run, which leaves nothing out; give several datasets or seeds"
        )
    if config.test == "all" and config.weights == "best":
        raise ConfigError("test=all: it needs the checkpoints of every run; take weights=all, or test=best")
    if config.sampler == "grid":
        grid_size(settings)
    _compose_all(plan)
    return plan


def differences(there: dict[str, Any], here: dict[str, Any]) -> list[str]:
    """What two definitions do not share, for a reader."""
    found = []
    for name in sorted(there.keys() | here.keys()):
        old, new = there.get(name), here.get(name)
        if name == "space" and isinstance(old, dict) and isinstance(new, dict):
            found += [f"space, {each}" for each in differences(old, new)]
        elif old != new:
            found.append(f"{name}: {written(old)} there, {written(new)} here")
    return found


def _compose_all(plan: Plan) -> None:
    """Compose what the runs will compose, and look whether the datasets are there."""
    fixed = [override.split("=")[0].lstrip("+~") for override in plan.config.overrides]
    for name, where in [*((name, "overrides") for name in fixed), *((s.name, "space") for s in plan.settings)]:
        if OURS.fullmatch(name):
            raise ConfigError(f"{where}, {name}: the campaign says it; see datasets, seeds, output and test")
        if where == "space" and name in fixed:
            raise ConfigError(f"space, {name}: overrides say it as well; take it out of one of them")
    from mmtab.data.dataset import dataset_folder

    _compose_values(plan)
    start = [setting.override(setting.ends()[0]) for setting in plan.settings]
    for run in plan.runs[: len(plan.config.datasets)]:
        config = _compose(f"datasets, {run.dataset}", run, [*plan.config.overrides, *start])
        if config.dataset.generate is None:
            dataset_folder(config.dataset, config.data_root, Path())


def _compose_values(plan: Plan) -> None:
    """Compose every setting's choices or ends: the first of all settings at once, then the second; where that fails, one
    setting at a time, to name the one that is wrong."""
    run, base = plan.runs[0], plan.config.overrides
    values = [setting.ends() for setting in plan.settings]
    for i in range(max(map(len, values), default=1)):
        row = [s.override(some[min(i, len(some) - 1)]) for s, some in zip(plan.settings, values, strict=True)]
        try:
            _compose("space", run, [*base, *row])
        except ConfigError:
            _compose("overrides", run, base)
            for override in row:
                _compose(f"space, {override}", run, [*base, override])
            if i == 0:  # later ones may only not fit each other, and then those trials fail that draw them together
                raise


def _compose(where: str, run: Run, overrides: Sequence[str]) -> RunConfig:
    return compose_run(where, run.place, [*overrides, f"seed={run.seed}"])


def train_command() -> list[str]:
    """How a run is started; its arguments follow."""
    return [sys.executable, str(SCRIPTS / "train.py")]


def evaluate_command() -> list[str]:
    """How a finished run is scored on test; its arguments follow."""
    return [sys.executable, str(SCRIPTS / "evaluate.py")]
