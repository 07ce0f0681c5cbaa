"""Doing a campaign: who works on which trial, which run comes next, and what becomes of it.

Every step is written down before the next one begins, and doing a step twice changes nothing. So nothing has to be undone
when a process is killed: whoever comes next takes its trials, by the lock that the dead one no longer holds, and goes on.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import yaml
from filelock import BaseFileLock, Timeout
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState

from mmtab.config.overrides import written
from mmtab.config.types import SweepConfig
from mmtab.runs.provenance import is_finished
from mmtab.sweep import choose
from mmtab.sweep.ledger import BEAT, Ledger, Record, objective, read_run, records_of
from mmtab.sweep.live import STATES, Display, Shown
from mmtab.sweep.plan import Plan, Run, evaluate_command, read_plan, train_command
from mmtab.sweep.report import summarise, write_summary
from mmtab.sweep.scoring import metrics_on_test, unscored
from mmtab.sweep.space import Value
from mmtab.utils.atomic import write_text
from mmtab.utils.errors import ConfigError, RunError
from mmtab.utils.locks import lock
from mmtab.utils.pool import PAUSE, Pool, Task


@dataclass
class Held:
    """A trial that this process works on. ``busy``: runs that are on their way."""

    number: int
    lock: BaseFileLock
    params: dict[str, Value] = field(default_factory=dict)
    records: dict[str, Record] = field(default_factory=dict)
    busy: set[str] = field(default_factory=set)

    def state(self, run: Run) -> str:
        return self.records[run.name].state if run.name in self.records else ""


class Work:
    """One process of a campaign. ``train`` and ``test``: the commands that train a run and score it on test."""

    def __init__(self, plan: Plan, train: list[str], test: list[str], display: Display) -> None:
        self.plan, self.train, self.test, self.display = plan, train, test, display
        self.ledger = Ledger(plan)
        self.held: dict[int, Held] = {}
        self.pool = Pool(plan.config.n_jobs, display.tell, self._tick)
        self.failures_on_test: list[str] = []
        self._looked = self._beaten = 0.0
        self._awaited: set[int] = set()  # trials of others, of which it was told

    def run(self) -> None:
        """All trials, then test. Raises Stopped when a signal asks for that."""
        with self.pool.stoppable():
            try:
                self.pool.drive(self._next_run, self._is_over)
                alone = lock(self.plan.output / ".test.lock")  # processes that share the work come here together
                with contextlib.suppress(Timeout), alone.acquire(cancel_check=lambda: bool(self.pool.signals)):
                    tasks = unscored(self.plan, self.ledger, self.failures_on_test)
                    self.pool.drive(lambda: self._test_task(tasks))
                self.pool.check()
            finally:
                self.pool.end_children()  # before another process may take their trials
                for held in self.held.values():
                    held.lock.release()

    def _tick(self) -> None:
        self._beat()
        self.display.show(self._shown)

    def _beat(self) -> None:
        if time.monotonic() - self._beaten > BEAT:
            self._beaten = time.monotonic()
            for number in self.held:
                self.ledger.beat(number)

    # --- trials ------------------------------------------------------------------------------------------------------

    def _is_over(self) -> bool:
        trials = self.ledger.trials()[: self.plan.n_trials]
        return len(trials) == self.plan.n_trials and all(trial.state.is_finished() for trial in trials)

    def _next_run(self) -> Task | None:
        while True:
            for held in sorted(self.held.values(), key=lambda held: held.number):
                if held.busy and self.plan.config.pruner != "none":  # which wants to see one run before the next
                    continue
                wanted = self._wanted(held)
                if wanted:
                    return self._train_task(held, wanted[0])
            if not self._take():
                return None

    def _wanted(self, held: Held) -> list[Run]:
        """Runs to start. After one has failed, none but that one, until it is known whether the trial can be completed."""
        left = [run for run in self.plan.runs if held.state(run) != "finished"]
        if any(self._is_lost(held, run) for run in left):
            return []
        failed = [run for run in left if run.name in held.records and held.records[run.name].attempts]
        return [run for run in failed[:1] or left if run.name not in held.busy]

    def _take(self) -> bool:
        """Take another trial: one that was left, or else a new one. Whether there was one."""
        if time.monotonic() - self._looked < PAUSE:
            return False
        trials = self.ledger.trials()
        for trial in trials[: self.plan.n_trials]:
            if trial.state == TrialState.RUNNING and trial.number not in self.held and self._hold(trial.number):
                return True
        if len(trials) < self.plan.n_trials:
            self._hold(self.ledger.create())  # if another process was faster, there may be one more
            return True
        self._looked = time.monotonic()
        if not self.held:
            self._tell_waiting([trial for trial in trials[: self.plan.n_trials] if trial.state == TrialState.RUNNING])
        return False

    def _tell_waiting(self, trials: list[FrozenTrial]) -> None:
        for trial in trials:
            if trial.number not in self._awaited:
                self._awaited.add(trial.number)
                self.display.tell(f"trial {trial.number}  waiting: {trial.user_attrs['owner']['host']} works on it")

    def _hold(self, number: int) -> bool:
        """Take a trial, if nobody else has it, and bring what is known of it up to date."""
        folder = self.plan.folder(number)
        folder.mkdir(parents=True, exist_ok=True)
        held_lock = lock(folder / ".lock")
        try:
            held_lock.acquire(timeout=0)
        except Timeout:
            return False
        if not self.ledger.own(number):
            held_lock.release()
            return False
        held = self.held[number] = Held(number, held_lock)
        held.params = self._settle(number)
        held.records = records_of(self.ledger.trial(number))
        for run in self.plan.runs:
            if held.state(run) != "finished" and is_finished(self.plan.run_folder(number, run)):
                self._note(held, run, read_run(self.plan.run_folder(number, run)))
        self._advance(held)
        return True

    def _settle(self, number: int) -> dict[str, Value]:
        """What the trial drew, or draws now. It is also kept beside its runs, for they may outlive a database."""
        trials = self.ledger.trials()
        drawn = trials[number].user_attrs.get("drawn")
        path = self.plan.folder(number) / "trial.yaml"
        kept = yaml.safe_load(path.read_text()) if path.exists() else None
        if drawn is None and kept is None:
            params, system = choose.draw(self.plan, number, trials[:number])
            drawn = {"params": params, "system": system}
        drawn = kept if drawn is None else drawn
        assert drawn is not None
        if kept is not None and kept["params"] != drawn["params"]:
            raise ConfigError(
                f"{path.parent} holds runs of {kept['params']}, but the storage says {drawn['params']}: they are of two campaigns. "
                "Give another output=FOLDER, or the storage that this one was begun with"
            )
        if kept is None:
            write_text(path, yaml.safe_dump(drawn, sort_keys=False, allow_unicode=True))
        self.ledger.settle(number, drawn["params"], drawn["system"])
        return drawn["params"]

    def _advance(self, held: Held) -> None:
        """End a trial that is complete, or cannot become so, or promises too little."""
        if held.busy:
            return
        done = [run for run in self.plan.runs if held.state(run) == "finished"]
        lost = [run for run in self.plan.runs if self._is_lost(held, run)]
        if lost:
            self._end(held, TrialState.FAIL)
        elif len(done) == len(self.plan.runs):
            self._end(held, TrialState.COMPLETE)
        elif done and self.plan.config.pruner != "none" and self._is_hopeless(held, len(done)):
            self._end(held, TrialState.PRUNED)

    def _is_lost(self, held: Held, run: Run) -> bool:
        return held.state(run) == "failed" and held.records[run.name].attempts > self.plan.config.retries

    def _is_hopeless(self, held: Held, step: int) -> bool:
        """What the pruner says of a trial's first runs. It is asked once, for it keeps what it was asked."""
        value = objective(self.plan, held.records)
        assert value is not None
        judged = self.ledger.trial(held.number).user_attrs.get("judged", {"step": 0})
        if judged["step"] != step:
            self.ledger.report(held.number, step, value)
            over, system = choose.hopeless(self.plan, self.ledger.trials(), held.number, step, value)
            judged = {"step": step, "over": over, "system": system}
            self.ledger.note(held.number, "judged", judged)
        return judged["over"]

    def _end(self, held: Held, state: TrialState) -> None:
        values = [objective(self.plan, held.records, name) for name in self.plan.config.objectives]
        known = [value for value in values if value is not None]
        # Unless a machine that shares no lock believed this one dead, and has ended the trial.
        with contextlib.suppress(UpdateFinishedTrialError):
            self.ledger.end(held.number, state, None if state == TrialState.FAIL else known)
        held.lock.release()
        del self.held[held.number]
        self._drop_weights()
        found = "" if state == TrialState.FAIL else f"  {self.plan.config.objectives[0]} {known[0]:.4f}"
        self.display.tell(f"trial {held.number}  {STATES[state]}{found}")

    def _drop_weights(self) -> None:
        """With ``weights=best``: remove the checkpoints of trials that are over and not the best so far."""
        if self.plan.config.weights == "best":
            kept = {trial.number for trial in self.ledger.best()}
            for trial in self.ledger.trials():
                if trial.state.is_finished() and trial.number not in kept:
                    for run in self.plan.runs:
                        shutil.rmtree(self.plan.run_folder(trial.number, run) / "checkpoints", ignore_errors=True)

    # --- runs --------------------------------------------------------------------------------------------------------

    def _train_task(self, held: Held, run: Run) -> Task:
        folder = self.plan.run_folder(held.number, run)
        held.busy.add(run.name)
        before = held.records.get(run.name, Record("running"))
        self._note(held, run, replace(before, state="running"))

        def ended(seconds: float, failure: str) -> None:
            held.busy.remove(run.name)
            record = Record("failed", seconds=seconds, error=failure) if failure else read_run(folder)
            record.attempts = before.attempts + (record.state == "failed")
            self._note(held, run, record)
            self._tell(held, run, record)
            self._advance(held)

        command = [*self.train, *self.plan.arguments(held.number, run, held.params)]
        return Task(command, folder, lambda: is_finished(folder), ended)

    def _note(self, held: Held, run: Run, record: Record) -> None:
        held.records[run.name] = record
        self.ledger.record(held.number, run, record)

    def _tell(self, held: Held, run: Run, record: Record) -> None:
        where = f"trial {held.number}  {run.dataset} seed {run.seed}"
        done = sum(held.state(each) == "finished" for each in self.plan.runs)
        if record.state == "finished":
            self.display.tell(f"{where}  {record.metric} {record.score:.4f}  {record.seconds:.0f} s  ({done} of {len(self.plan.runs)})")  # fmt: skip
        else:
            then = f"; given up after {record.attempts} attempts" if self._is_lost(held, run) else ""
            then = "; once more" if run in self._wanted(held) else then
            self.display.tell(f"{where}  FAILED: {record.error}{then}")

    def _test_task(self, tasks: Iterator[tuple[int, Run]]) -> Task | None:
        found = next(tasks, None)
        if found is None:
            return None
        number, run = found
        folder = self.plan.run_folder(number, run)

        def ended(seconds: float, failure: str) -> None:
            if failure:
                self.failures_on_test.append(f"trial {number}, {run.name}, on test: {failure}")
            else:
                self.ledger.note_test(number, run, metrics_on_test(folder) or {})
                self.display.tell(f"trial {number}  {run.dataset} seed {run.seed}  scored on test")

        command = [*self.test, f"run={written(str(folder))}", "split=test"]
        return Task(command, folder, lambda: metrics_on_test(folder) is not None, ended)

    # --- what is shown -----------------------------------------------------------------------------------------------

    def _shown(self) -> Shown:
        return Shown.of(self.plan, self.ledger.trials(), {number: held.busy for number, held in self.held.items()})


def run_campaign(config: SweepConfig, train: list[str] | None = None, test: list[str] | None = None) -> str:
    """Do what is left of a campaign, or wait for others to do it, and write its summary; returns that, for a reader.

    Raises ConfigError for settings that fit nothing, before any run starts, and RunError where every trial failed or the
    storage did. ``train`` and ``test`` stand in for the scripts that train a run and score it."""
    plan = read_plan(config)
    with Display(plan) as display:
        work = Work(plan, train or train_command(), test or evaluate_command(), display)
        try:
            work.run()
        except StorageInternalError as error:
            raise RunError(
                f"storage: {str(error.__cause__ or error).splitlines()[0]}; the same command goes on"
            ) from error
    summary = summarise(plan, work.ledger, work.failures_on_test)
    text = write_summary(plan, work.ledger, summary)
    if all(trial.state == TrialState.FAIL for trial in work.ledger.trials()):
        raise RunError(f"every trial failed; see {plan.output / 'summary.md'}, and the log.txt of each run")
    return text
