"""What a sweep is made of. Every setting that can be seen to be wrong is refused here, before any run starts."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from optuna.trial import FrozenTrial

from mmtab.config.compose import compose_run, dataset_place
from mmtab.config.overrides import written
from mmtab.config.parts import targets_in
from mmtab.config.settings import check
from mmtab.config.types import RunConfig, SweepConfig
from mmtab.sweep.space import Setting, Value, grid_size, read_space, settings_of
from mmtab.utils.errors import ConfigError

Direction = Literal["maximize", "minimize"]
OBJECTIVES: dict[str, Direction] = {
    "score": "maximize",
    "train_seconds": "minimize",
    "n_parameters": "minimize",
    "peak_memory": "minimize",
    "predict_rows_per_second": "maximize",
}
DEFINING = ["datasets", "seeds", "overrides", "sampler", "pruner", "objectives", "seed"]
RESERVED = re.compile(r"(dataset|dataset\.(name|path|generate)(\..*)?|seed|output|test|resume|hydra(\..*)?)")


@dataclass(frozen=True)
class Run:
    """One dataset and seed; every trial has one of each."""

    dataset: str
    seed: int
    place: tuple[str, ...]  # the overrides that choose the dataset

    @property
    def name(self) -> str:
        return f"{self.dataset}-seed{self.seed}"


@dataclass(frozen=True)
class Plan:
    """A sweep whose settings fit together. ``runs`` are in their fixed order: all datasets with one seed, then with the
    next, so that the first few already cover every dataset."""

    config: SweepConfig
    space: dict[str, Any]
    settings: list[Setting]
    runs: list[Run]

    @property
    def output(self) -> Path:
        return Path(self.config.output)

    @property
    def n_trials(self) -> int:
        n = self.config.n_trials
        if not self.settings:
            return 1
        if self.config.sampler == "grid":
            size = grid_size(self.settings)
            return size if n is None else min(n, size)
        return 20 if n is None else n

    @property
    def directions(self) -> list[Direction]:
        return [OBJECTIVES[name] for name in self.config.objectives]

    def loss(self, trial: FrozenTrial) -> float:
        """By the first objective, the lower the better; 0 for a trial without scores."""
        sign = -1 if self.directions[0] == "maximize" else 1
        return sign * trial.values[0] if trial.values else 0.0

    @property
    def datasets(self) -> list[str]:
        return list(dict.fromkeys(run.dataset for run in self.runs))

    @property
    def definition(self) -> dict[str, Any]:
        """What must not change while a sweep lasts, in plain values."""
        return {name: getattr(self.config, name) for name in DEFINING} | {"space": self.space}

    def overrides(self, params: dict[str, Value]) -> list[str]:
        """Of a trial: those of the sweep, then the drawn settings."""
        return [*self.config.overrides, *(setting.override(params[setting.name]) for setting in self.settings)]

    def digest(self, params: dict[str, Value]) -> str:
        """Of all that the runs of a trial depend on but their names, which are dataset and seed."""
        content = json.dumps([[run.place for run in self.runs], self.overrides(params)])
        return hashlib.blake2b(content.encode(), digest_size=4).hexdigest()

    def arguments(self, number: int, run: Run, folder: Path, params: dict[str, Value]) -> list[str]:
        """For the process of a run. It never opens test, and writes a report only if asked to: that costs as much as a
        short training."""
        own = [f"seed={run.seed}", f"output={written(str(folder))}", "test=false"]
        return [*run.place, *self._wandb(number), "report=false", *self.overrides(params), *own]

    def evaluation(self, number: int, run: Run, folder: Path, params: dict[str, Value]) -> tuple[RunConfig, list[str]]:
        """The settings of a run, and the arguments of the process that scores it on test: where it finds data and
        cache, which code it may use and where it logs come from the sweep, for a run folder has no say in that."""
        overrides = [*self._wandb(number), *self.overrides(params), f"seed={run.seed}"]
        config = compose_run(f"trial {number}", run.place, overrides)
        targets = [str(name) for _, name in targets_in(asdict(config))]
        modules = sorted({name.rpartition(".")[0] for name in targets if not name.startswith("mmtab.")})
        given: dict[str, Any] = {"run": str(folder), "split": "test", "trust": modules}
        given |= {name: getattr(config, name) for name in ("data_root", "cache", "cache_gb")}
        given |= {f"wandb.{name}": value for name, value in asdict(config.wandb).items()}
        return config, [f"{name}={written(value)}" for name, value in given.items()]

    def _wandb(self, number: int) -> list[str]:
        return [f"wandb.group={written(self.output.resolve().name)}", f"wandb.job_type=trial-{number:04}"]

    @property
    def with_reports(self) -> bool:
        """Whether the runs of trials are asked for a report, by the last override that speaks of it."""
        said = dict(override.lstrip("+").partition("=")[::2] for override in self.config.overrides)
        return said.get("report", "").strip().lower() == "true"

    def command(self, run: Run, params: dict[str, Value]) -> str:
        """For a reader: the same run on its own, test included."""
        return shlex.join(["mmtab", "train", *run.place, *self.overrides(params), f"seed={run.seed}"])


def read_plan(config: SweepConfig) -> Plan:
    """Raises ConfigError, or DataError for a dataset that is not there."""
    check(config)
    for name in ("datasets", "seeds", "objectives"):
        values = getattr(config, name)
        if not values or len(set(values)) < len(values):
            raise ConfigError(f"{name}={written(values)}: expected at least one, and each once")
    if config.pruner != "none" and len(config.objectives) > 1:
        raise ConfigError(f"pruner={config.pruner}: with several objectives no trial is worse so far; take pruner=none")
    if config.test == "all" and config.weights == "best":
        raise ConfigError("test=all: it needs the checkpoints of every run; take weights=all, or test=best")
    places = [dataset_place(entry) for entry in config.datasets]
    names = [name for name, _ in places]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"datasets: two are called {name}, and so would be their runs; rename one of the folders")
    space = read_space(config.space)
    runs = [Run(name, seed, place) for seed in config.seeds for name, place in places]
    if config.pruner != "none" and len(runs) == 1:
        raise ConfigError(
            f"pruner={config.pruner}: a trial is one run, which leaves nothing out; give several datasets or seeds"
        )
    plan = Plan(config, space, settings_of(space), runs)
    if config.sampler == "grid":
        grid_size(plan.settings)
    _check_names(plan)
    _compose_values(plan)
    _compose_datasets(plan)
    return plan


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """What differs between the definition of a study and the one given here, for a reader."""
    changes = []
    for name in sorted(old.keys() | new.keys()):
        before, after = old.get(name), new.get(name)
        if name == "space" and isinstance(before, dict) and isinstance(after, dict):
            changes += [f"space, {change}" for change in differences(before, after)]
        elif before != after:
            changes.append(f"{name}: {written(before)} there, {written(after)} here")
    return changes


def _check_names(plan: Plan) -> None:
    fixed = [override.split("=")[0].lstrip("+~") for override in plan.config.overrides]
    drawn = [setting.name for setting in plan.settings]
    for where, name in [*(("overrides", name) for name in fixed), *(("space", name) for name in drawn)]:
        if RESERVED.fullmatch(name):
            raise ConfigError(f"{where}, {name}: the sweep sets it; see datasets, seeds, output and test")
        if where == "space" and name in fixed:
            raise ConfigError(f"space, {name}: overrides set it as well; take it out of one of them")


def _compose_datasets(plan: Plan) -> None:
    """Compose the first run of each dataset and look whether the dataset is there."""
    from mmtab.data.dataset import dataset_folder

    params = {setting.name: setting.ends()[0] for setting in plan.settings}
    for run in plan.runs[: len(plan.config.datasets)]:
        config = compose_run(f"datasets, {run.dataset}", run.place, [*plan.overrides(params), f"seed={run.seed}"])
        if config.dataset.generate is None:
            dataset_folder(config.dataset, config.data_root, Path())


def _compose_values(plan: Plan) -> None:
    """Compose every setting's choices or ends: the first of all settings at once, then the second. If that fails,
    compose one setting at a time, to name the one that is wrong."""
    run, base = plan.runs[0], [*plan.config.overrides, f"seed={plan.runs[0].seed}"]
    values = [[setting.override(end) for end in setting.ends()] for setting in plan.settings]
    for i in range(max(map(len, values), default=1)):
        row = [ends[min(i, len(ends) - 1)] for ends in values]
        try:
            compose_run("space", run.place, [*base, *row])
        except ConfigError:
            compose_run("overrides", run.place, base)
            for override in row:
                compose_run(f"space, {override}", run.place, [*base, override])
            if i == 0:  # later ones may only not fit each other, and then those trials fail that draw them together
                raise
