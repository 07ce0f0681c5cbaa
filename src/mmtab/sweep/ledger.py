"""What is known of a campaign: trials and their runs, in Optuna's storage, where every process and machine sees it."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import socket
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any

import optuna
import yaml
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState, create_trial

from mmtab.sweep.choose import System
from mmtab.sweep.plan import Plan, Run, differences
from mmtab.sweep.space import Value
from mmtab.utils.atomic import write_text
from mmtab.utils.errors import ConfigError
from mmtab.utils.locks import lock

BEAT = 30.0  # seconds between two signs of life of whoever works on a trial
STALE = 300.0  # seconds without one, after which another machine takes the trial
TRIES = 3  # to open a database
CONTEST = 2.0  # seconds for machines that take the same trial at once to see each other


@dataclass
class Record:
    """A run of a trial: ``running`` (or left so), ``finished`` or ``failed``. ``attempts``: those that failed; ``facts``:
    further objectives; ``error``: of the last attempt."""

    state: str
    attempts: int = 0
    seconds: float = 0.0
    metric: str = ""
    score: float | None = None
    metrics: dict[str, Any] = field(default_factory=dict)
    facts: dict[str, float] = field(default_factory=dict)
    error: str = ""

    def value(self, objective: str) -> float:
        value = self.score if objective == "score" else self.facts[objective]
        assert value is not None
        return value


def read_run(folder: Path) -> Record:
    """What a finished run says of itself."""
    metrics = json.loads((folder / "metrics.json").read_text())["valid"]
    facts = json.loads((folder / "provenance.json").read_text())
    metric = yaml.safe_load((folder / "schema.yaml").read_text())["metric"]
    record = Record("finished", 0, facts["seconds"]["total"], metric, float(metrics[metric]), metrics)
    record.facts = {
        "train_seconds": facts["seconds"]["train"],
        "n_parameters": facts["n_parameters"],
        "peak_memory": facts["peak_memory_mib"],
        "predict_rows_per_second": facts["predict_rows_per_second"],
    }
    if not all(map(math.isfinite, (record.score, *record.facts.values()))):  # type: ignore[arg-type]
        record.state, record.error = "failed", f"its valid {metric} is {record.score}"
    return record


def records_of(trial: FrozenTrial) -> dict[str, Record]:
    """By the name of the run; those that have begun."""
    return {k.removeprefix("run:"): Record(**v) for k, v in trial.user_attrs.items() if k.startswith("run:")}


def objective(plan: Plan, records: dict[str, Record], name: str = "score") -> float | None:
    """The average over datasets of the mean over seeds, of those runs that are finished; None where none is."""
    values = [
        [records[run.name].value(name) for run in plan.runs if run.dataset == dataset and run.name in records
         and records[run.name].state == "finished"]
        for dataset in plan.datasets
    ]  # fmt: skip
    means = [mean(some) for some in values if some]
    return mean(means) if means else None


class Ledger:
    """The study of a campaign. Raises ConfigError where it, or the folder, holds a campaign of another definition."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._ids: dict[int, int] = {}
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        plan.output.mkdir(parents=True, exist_ok=True)
        self.owner = {"host": socket.gethostname(), "folder": str(plan.output.resolve()), "pid": os.getpid()}
        with self._alone():  # two processes that begin at once would both create the tables
            self._check_folder()
            self.storage, self.study = self._open()
            self.id = self.storage.get_study_id_from_name(self.study.study_name)
            self._check_study()
            if not self._definition_file.exists():
                write_text(self._definition_file, yaml.safe_dump(plan.definition, sort_keys=False, allow_unicode=True))

    def trials(self) -> list[FrozenTrial]:
        """All, in order; not to be changed."""
        return self.study.get_trials(deepcopy=False)

    def trial(self, number: int) -> FrozenTrial:
        return self.storage.get_trial(self._id(number))

    def create(self) -> int:
        """A new trial without settings; returns its number."""
        begun = create_trial(state=TrialState.RUNNING, user_attrs={"owner": self._sign()})
        return self.storage.get_trial_number_from_id(self.storage.create_new_trial(self.id, begun))

    def own(self, number: int) -> bool:
        """Sign a trial, if it is neither over nor in the hands of another machine; to be asked while its lock is held,
        which keeps out those that share the folder. Machines that do not share it go by the signs of life alone."""
        trial = self.trial(number)
        if trial.state.is_finished():
            return False
        other = trial.user_attrs["owner"]
        ours = all(other[key] == self.owner[key] for key in ("host", "folder"))
        if not ours and time.time() - other["beat"] < STALE:
            return False
        self.beat(number)
        if not ours:  # whoever signed last has it
            time.sleep(CONTEST)
            return all(self.trial(number).user_attrs["owner"][key] == value for key, value in self.owner.items())
        return True

    def beat(self, number: int) -> None:
        """Say that whoever works on a trial is alive."""
        self.note(number, "owner", self._sign())

    def settle(self, number: int, params: dict[str, Value], system: System) -> None:
        """Write down what a trial has drawn: first all at once, then as Optuna wants it."""
        self.note(number, "drawn", {"params": params, "system": system})
        known = self.trial(number).params
        for setting in self.plan.settings:
            if setting.name not in known:
                value = setting.distribution.to_internal_repr(params[setting.name])
                self.storage.set_trial_param(self._id(number), setting.name, value, setting.distribution)

    def note(self, number: int, key: str, value: Any) -> None:
        self.storage.set_trial_user_attr(self._id(number), key, value)

    def record(self, number: int, run: Run, record: Record) -> None:
        self.note(number, f"run:{run.name}", dataclasses.asdict(record))

    def report(self, number: int, step: int, value: float) -> None:
        """The mean over a trial's first runs."""
        self.storage.set_trial_intermediate_value(self._id(number), step, value)

    def end(self, number: int, state: TrialState, values: list[float] | None) -> None:
        self.storage.set_trial_state_values(self._id(number), state, values)

    def best(self) -> list[FrozenTrial]:
        """The best finished trial, or of several objectives all that no other one betters; the earlier one of two equals."""
        done = [trial for trial in self.trials() if trial.state == TrialState.COMPLETE]
        if len(self.plan.directions) > 1:
            return sorted(self.study.best_trials, key=lambda trial: trial.number) if done else []
        sign = -1 if self.plan.directions[0] == "maximize" else 1
        return sorted(done, key=lambda trial: (sign * trial.values[0], trial.number))[:1]

    def tests(self) -> dict[tuple[int, str], dict[str, Any]]:
        """The metrics on test by trial and run, of those that were scored, on whatever machine."""
        found = [(*key.split(":", 2), value) for key, value in self.study.user_attrs.items() if key.startswith("test:")]
        return {(int(number), name): value for _, number, name, value in found}

    def note_test(self, number: int, run: Run, metrics: dict[str, Any]) -> None:
        self.storage.set_study_user_attr(self.id, f"test:{number}:{run.name}", metrics)

    def _alone(self) -> contextlib.AbstractContextManager[Any]:
        try:
            return lock(self.plan.output / ".lock").acquire()
        except NotImplementedError:
            raise ConfigError(
                f"output={self.plan.output}: its file system has no locks, by which the processes of a campaign keep out of each other's way; give another"
            ) from None

    def _sign(self) -> dict[str, Any]:
        return self.owner | {"beat": time.time()}

    def _id(self, number: int) -> int:
        if number not in self._ids:
            self._ids[number] = self.storage.get_trial_id_from_study_id_trial_number(self.id, number)
        return self._ids[number]

    @property
    def _definition_file(self) -> Path:
        return self.plan.output / "campaign.yaml"

    def _check_folder(self) -> None:
        if self._definition_file.exists():
            found = differences(yaml.safe_load(self._definition_file.read_text()), self.plan.definition)
            if found:
                raise ConfigError(
                    f"{self.plan.output} holds another campaign: {'; '.join(found)}. Go on with its settings, or give another output=FOLDER"
                )

    def _open(self) -> tuple[RDBStorage, optuna.Study]:
        from sqlalchemy.exc import DBAPIError, SQLAlchemyError

        url = self.plan.config.storage or f"sqlite:///{self.plan.output.resolve() / 'study.db'}"
        options = {"connect_args": {"timeout": 60}} if url.startswith("sqlite") else {"pool_pre_ping": True}
        name = self.plan.config.study or self.plan.output.resolve().name
        for attempt in range(TRIES):
            try:
                storage = RDBStorage(url, engine_kwargs=options)
                study = optuna.create_study(
                    storage=storage, study_name=name, directions=self.plan.directions, load_if_exists=True
                )
                return storage, study
            except (SQLAlchemyError, ImportError, RuntimeError, optuna.exceptions.OptunaError) as error:
                if attempt < TRIES - 1 and isinstance(error.__cause__ or error, DBAPIError):
                    time.sleep(1.0)  # another machine may just be creating the tables
                    continue
                reason = str(error.__cause__ or error).splitlines()[0]  # without the address, which may hold a password
                raise ConfigError(f"storage: the database cannot be used: {reason}") from error
        raise AssertionError("not reached")

    def _check_study(self) -> None:
        begun = bool(self.trials())  # asked first, for whoever begins a campaign defines it before the first trial
        there = self.study.user_attrs.get("definition")
        if there is None and not begun:
            self.storage.set_study_user_attr(self.id, "definition", self.plan.definition)
            return
        found = ["it has trials of another program"] if there is None else differences(there, self.plan.definition)
        if found:
            raise ConfigError(
                f"storage: study {self.study.study_name} is another campaign: {'; '.join(found)}. Go on with its settings, or give another study=NAME"
            )
