"""The trials of a sweep and the results of their runs, in Optuna's storage, which all its processes and machines share.

Who works on which trial is decided by transactions of that storage: trials are added as WAITING, and whoever turns one
to RUNNING has it. A killed process leaves its trials RUNNING. Processes that share its folder see that they may take
them by the lock that it no longer holds; other machines go by Optuna's heartbeats, and a retry replaces the lost trial.
"""

from __future__ import annotations

import contextlib
import math
import random
import socket
import sqlite3
import time
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning, UpdateFinishedTrialError
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback, fail_stale_trials
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy.exc import SQLAlchemyError

from mmtab.runs.folder import METRICS, SCHEMA, read_facts, read_run_file, reading
from mmtab.sweep.draws import copy_study, draw, should_prune
from mmtab.sweep.plan import Plan, Run, differences
from mmtab.sweep.space import Value
from mmtab.utils.errors import ConfigError, RunError, one_line
from mmtab.utils.locks import lock
from mmtab.utils.manifest import DIGEST, is_whole, sealed
from mmtab.utils.paths import check_database, check_inside
from mmtab.utils.plain import amounts, anything, line, mapping, number, record, text

HEARTBEAT = 30  # seconds between two signs of life of whoever works on a trial
STALE = 300  # seconds without one, after which another machine takes the trial
DAMAGE = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, RecursionError, SQLAlchemyError)
TRIES = 8  # to open a database that several machines create at once


RESULT = record(
    {"error": text, "attempts": number(0, whole=True), "seconds": number(0), "metric": text},
    {"values": amounts(-math.inf, math.inf)},
)
DRAWN = record({"params": mapping(anything), "folder": line, "system": mapping(anything)})
PRUNING = record({"step": number(0, whole=True)}, {"system": mapping(anything), "means": amounts(-math.inf, math.inf)})
NOTES = {"drawn": DRAWN, "pruning": PRUNING, "owner": line, "failed_run": line}  # of a trial, beside those of its runs


@dataclass
class Result:
    """The last attempt at a run."""

    error: str = ""  # empty: it finished
    attempts: int = 0  # that failed, this one included
    seconds: float = 0.0
    metric: str = ""
    values: dict[str, float] = field(default_factory=dict)  # by objective; "score" is the metric on valid

    @property
    def finished(self) -> bool:
        return not self.error


def read_result(folder: Path, attempts: int = 0) -> Result:
    """Of a finished run; ``attempts`` failed before."""
    metric, facts = read_run_file(folder, SCHEMA)["metric"], read_facts(folder)
    with reading(folder / METRICS):
        score = float(read_run_file(folder, METRICS)["valid"][metric])
    values = {
        "score": score,
        "train_seconds": facts["seconds"]["train"],
        "n_parameters": facts["n_parameters"],
        "peak_memory": facts["peak_memory_mib"],
        "predict_rows_per_second": facts["predict_rows_per_second"],
    }
    seconds = facts["seconds"]["total"]
    if not all(map(math.isfinite, values.values())):
        return Result(f"its valid {metric} is {score}", attempts + 1, seconds)
    return Result("", attempts, seconds, metric, values)


def results_of(trial: FrozenTrial) -> dict[str, Result]:
    """By the name of the run; of those that ended once."""
    notes = {key[4:]: value for key, value in trial.user_attrs.items() if key.startswith("run:")}
    return {name: Result(**{key: v for key, v in note.items() if key != DIGEST}) for name, note in notes.items()}


def objective(plan: Plan, results: dict[str, Result], name: str = "score") -> float | None:
    """The average over datasets of the mean over seeds, of the runs that are finished; None if none is."""
    values: dict[str, list[float]] = {}
    for run in plan.runs:
        if run.name in results and results[run.name].finished:
            values.setdefault(run.dataset, []).append(results[run.name].values[name])
    return mean(map(mean, values.values())) if values else None


class Study:
    """Raises ConfigError if the storage cannot be used or holds a sweep of another definition."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.owner = f"{socket.gethostname()}:{plan.output.resolve()}"
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        warnings.filterwarnings("ignore", category=ExperimentalWarning)  # heartbeats are marked so since Optuna 2.9
        plan.output.mkdir(parents=True, exist_ok=True)
        with self._alone():  # two processes that begin at once would both create the tables
            self.storage, self.study = self._open()
            self.id = self.storage.get_study_id_from_name(self.study.study_name)
            self._check_definition()
            self.check()

    def check(self) -> None:
        """Raise RunError where the storage does not hold what was written to it: notes have digests, and the values of
        a trial follow from them."""
        try:
            notes = [*self.study.user_attrs.items()]
            for trial in self.study.get_trials(deepcopy=False):
                notes += trial.user_attrs.items()
                of_runs = {key: RESULT for key in trial.user_attrs if key.startswith("run:")}
                record({}, NOTES | of_runs)(trial.user_attrs, f"trial {trial.number}")
                drawn, names = trial.user_attrs.get("drawn"), self.plan.config.objectives
                if drawn:
                    check_inside(self.plan.output, self.plan.output / drawn["folder"])
                    known = {setting.name: setting for setting in self.plan.settings}
                    params = drawn["params"]
                    if params.keys() != known.keys() or not all(known[name].has(params[name]) for name in params):
                        raise ValueError(f"trial {trial.number} has settings of another space")
                elif trial.state in (TrialState.COMPLETE, TrialState.PRUNED):
                    raise ValueError(f"trial {trial.number} has no settings")
                if f"run:{trial.user_attrs.get('failed_run')}" not in {"run:None", *of_runs}:
                    raise ValueError(f"trial {trial.number} failed by a run that it does not have")
                if drawn and any(drawn["params"].get(name) != value for name, value in trial.params.items()):
                    raise ValueError(f"trial {trial.number} has other settings than were drawn")
                means = trial.user_attrs.get("pruning", {}).get("means", {})
                if any(trial.intermediate_values.get(int(step)) != mean for step, mean in means.items()):
                    raise ValueError(f"trial {trial.number} has other means than were noted")
                if trial.values and trial.state.is_finished():
                    values = [objective(self.plan, results_of(trial), name) or 0.0 for name in names]
                    if values != list(trial.values):
                        raise ValueError(f"trial {trial.number} has other values than its runs")
            for key, value in notes:
                if key.startswith("test:"):
                    int(key.split(":", 2)[1])
                    mapping(anything)(value, key)
                if isinstance(value, dict) and not is_whole(value):
                    raise ValueError(f"{key} has other bytes than were written")
        except DAMAGE as error:
            raise _damaged(self.plan, error) from error

    # --- trials ------------------------------------------------------------------------------------------------------

    def trials(self) -> list[FrozenTrial]:
        """By number; not to be changed. The place of a trial that was lost with its machine has its first retry."""
        current: dict[int, FrozenTrial] = {}
        for trial in self.study.get_trials(deepcopy=False):
            origin = RetryHeartbeatStaleTrialCallback.retried_trial_number(trial)
            number = trial.number if origin is None else origin
            if number not in current or _is_lost(current[number]):
                current[number] = trial
        return list(current.values())

    def enqueue(self) -> None:
        """Let trials wait until there are ``n_trials``, and retry those that were lost. If several processes do so at
        once, more are added; these keep waiting, for only numbers below ``n_trials`` and first retries are claimed."""
        if self.plan.config.storage is not None:  # in its own file, all that work on it see each other's locks
            fail_stale_trials(self.study)
        for trial in self.trials():
            if _is_lost(trial):
                RetryHeartbeatStaleTrialCallback()(self.study, trial)
        for _ in range(self.plan.n_trials - len(self.trials())):
            self.study.add_trial(create_trial(state=TrialState.WAITING))

    def claim(self, number: int) -> int | None:
        """Take a trial that waits, or that a dead process left; its lock must be held. Returns its id in the storage;
        None if another process works on it or it has ended."""
        trial = self.trials()[number]
        if trial.state == TrialState.WAITING:
            self.storage.record_heartbeat(trial._trial_id)  # first, for without one a trial is never found stale
            try:
                if not self.storage.set_trial_state_values(trial._trial_id, TrialState.RUNNING):
                    return None
            except UpdateFinishedTrialError:
                return None
        elif trial.state != TrialState.RUNNING:
            return None
        elif self.plan.config.storage is not None and trial.user_attrs.get("owner") != self.owner:
            return None  # its process may live on another machine, which does not see the lock
        self.storage.record_heartbeat(trial._trial_id)
        self.note(trial._trial_id, "owner", self.owner)
        return trial._trial_id

    def draw(self, number: int, trial_id: int) -> tuple[dict[str, Value], Path]:
        """The settings of a trial and its folder, which are drawn once. The folder is named by their digest, so that a
        retry finds its runs, and so does a sweep that lost its database; equal draws are numbered."""
        with self._alone():
            trials = self.trials()
            drawn = [trial.user_attrs.get("drawn") for trial in trials]
            own = drawn[number]
            if own is None:
                params, system = draw(self.plan, number, trials[:number])
                n_equal = sum(other is not None and other["params"] == params for other in drawn)
                name = f"trial-{self.plan.digest(params)}" + (f"-{n_equal + 1}" if n_equal else "")
                own = {"params": params, "folder": name, "system": system}
                self.note(trial_id, "drawn", own)  # all at once; then as Optuna keeps it
        stored = self.storage.get_trial(trial_id).params
        for setting in self.plan.settings:
            if setting.name not in stored:
                value = setting.distribution.to_internal_repr(own["params"][setting.name])
                self.storage.set_trial_param(trial_id, setting.name, value, setting.distribution)
        return own["params"], self.plan.output / own["folder"]

    def should_prune(self, number: int, trial_id: int, step: int, value: float) -> bool:
        """Whether the trial ends after ``step`` runs. A pruner remembers what it was asked, so it is asked once."""
        decision = self.storage.get_trial(trial_id).user_attrs.get("pruning", {"step": 0})
        if decision["step"] != step:
            self.storage.set_trial_intermediate_value(trial_id, step, value)
            prune, system = should_prune(self.plan, self.trials(), number, step, value)
            means = decision.get("means", {}) | {str(step): value}
            decision = {"step": step, "prune": prune, "system": system, "means": means}
            self.note(trial_id, "pruning", decision)
        return decision["prune"]

    def record(self, trial_id: int, run: Run, result: Result) -> None:
        self.note(trial_id, f"run:{run.name}", vars(result))

    def note(self, trial_id: int, key: str, value: Any) -> None:
        self.storage.set_trial_user_attr(trial_id, key, sealed(value) if isinstance(value, dict) else value)

    def end(self, trial_id: int, state: TrialState, values: list[float] | None = None) -> None:
        self.storage.set_trial_state_values(trial_id, state, values)

    def folder_of(self, trial: FrozenTrial, run: Run) -> Path:
        """Raises RunError where it leads out of the folder of the sweep."""
        folder = self.plan.output / trial.user_attrs["drawn"]["folder"] / run.name
        check_inside(self.plan.output, folder / "checkpoints")
        return folder

    # --- results -----------------------------------------------------------------------------------------------------

    def best(self) -> list[int]:
        """The number of the best finished trial, the first of equals; of several objectives the Pareto front."""
        numbers = sorted(trial.number for trial in copy_study(self.plan, self.trials()).best_trials)
        return numbers if len(self.plan.directions) > 1 else numbers[:1]

    def tests(self) -> dict[tuple[int, str], dict[str, Any]]:
        """The metrics on test by trial and run, of the runs that were scored on it, on whatever machine."""
        scored = [
            (*key.split(":", 2), value) for key, value in self.study.user_attrs.items() if key.startswith("test:")
        ]
        return {(int(number), name): value for _, number, name, value in scored}

    def note_test(self, number: int, run: Run, metrics: dict[str, Any]) -> None:
        self.study.set_user_attr(f"test:{number}:{run.name}", sealed(metrics))

    # --- the storage -------------------------------------------------------------------------------------------------

    def _alone(self) -> contextlib.AbstractContextManager[Any]:
        try:
            return lock(self.plan.output / ".lock").acquire()
        except NotImplementedError:
            raise ConfigError(
                f"output={self.plan.output}: its file system has no locks, by which the processes of a sweep keep out "
                "of each other's way; give another"
            ) from None

    def _open(self) -> tuple[RDBStorage, optuna.Study]:
        from sqlalchemy.exc import DBAPIError

        if self.plan.config.storage is None:
            _check_file(self.plan)
        url = self.plan.config.storage or f"sqlite:///{self.plan.output.resolve() / 'study.db'}"
        name = self.plan.config.study or self.plan.output.resolve().name
        for attempt in range(TRIES):
            try:
                storage = _open_storage(url)
                study = optuna.create_study(
                    storage=storage, study_name=name, directions=self.plan.directions, load_if_exists=True
                )
                return storage, study
            except (*DAMAGE, ImportError, RuntimeError, optuna.exceptions.OptunaError) as error:
                if attempt < TRIES - 1 and any(isinstance(e, DBAPIError) for e in (error, error.__cause__)):
                    time.sleep(random.uniform(0.1, 0.5))
                    continue
                reason = str(error.__cause__ or error).splitlines()[0]  # without the address, which may hold a password
                where = "storage" if self.plan.config.storage else f"{self.plan.output / 'study.db'}"
                raise ConfigError(f"{where}: the database cannot be used: {reason}") from error
        raise AssertionError("not reached")

    def _check_definition(self) -> None:
        try:
            begun = bool(self.trials())  # asked first, for whoever begins a sweep defines it before the first trial
            definition = self.study.user_attrs.get("definition")
        except DAMAGE as error:
            raise _damaged(self.plan, error) from error
        if definition is None and not begun:
            self.study.set_user_attr("definition", sealed(self.plan.definition))
            return
        if definition is not None and not is_whole(definition):
            raise _damaged(self.plan, "definition has other bytes than were written")
        definition = definition and {name: value for name, value in definition.items() if name != DIGEST}
        other = ["it has trials of another program"]
        if problems := other if definition is None else differences(definition, self.plan.definition):
            raise ConfigError(
                f"study {self.study.study_name} in {self.plan.output} is another sweep: {'; '.join(problems)}. "
                "Go on with its settings, or give another output=FOLDER or study=NAME"
            )


def _check_file(plan: Plan) -> None:
    """Raise RunError for a damaged file of the sweep's own database."""
    path = plan.output / "study.db"
    check_database(path)
    if not path.is_file() or not path.stat().st_size:
        return
    try:
        with contextlib.closing(sqlite3.connect(path, timeout=60)) as database:
            found = [line[0] for line in database.execute("pragma integrity_check(1)")]
    except (sqlite3.Error, UnicodeError) as error:
        found = [str(error)]
    if found != ["ok"]:
        raise _damaged(plan, found[0] if found else "it cannot be read")


def _damaged(plan: Plan, problem: object) -> RunError:
    where = (plan.config.storage and "the storage") or plan.output / "study.db"
    fix = "bring back a copy; or remove it, and the same command draws again and takes up the finished runs"
    return RunError(f"{where} is damaged ({one_line(problem)}). Fix: {fix}")


def _open_storage(url: str) -> RDBStorage:
    from sqlalchemy import event

    is_sqlite = url.startswith("sqlite")
    local: dict[str, Any] = {"connect_args": {"timeout": 60, "isolation_level": None}}
    options = local if is_sqlite else {"pool_pre_ping": True}
    storage = RDBStorage(url, options, heartbeat_interval=HEARTBEAT, grace_period=STALE)
    if is_sqlite:
        # Optuna locks the row that it reads and then changes, which SQLite cannot: two processes could claim one trial.
        # So a transaction locks the database from its beginning, and the driver begins none by itself.
        event.listen(storage.engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
    return storage


def _is_lost(trial: FrozenTrial) -> bool:
    """Whether it failed because its machine gave no more sign of life, and not because of one of its runs."""
    return trial.state == TrialState.FAIL and "failed_run" not in trial.user_attrs
