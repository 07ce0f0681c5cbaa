"""Does a sweep: which run comes next, and what becomes of it.

Every step is written to the storage before the next one begins, and doing a step twice changes nothing. So nothing has
to be undone when a process is killed: whoever comes next takes its trials and goes on.
"""

from __future__ import annotations

import contextlib
import itertools
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import BaseFileLock, Timeout
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.trial import TrialState

from mmtab.config.types import RunConfig, SweepConfig
from mmtab.runs.folder import METRICS, read_run_file, read_schema
from mmtab.runs.provenance import has_report, is_finished
from mmtab.sweep.display import STATES, Display
from mmtab.sweep.plan import Plan, Run, read_plan
from mmtab.sweep.space import Value
from mmtab.sweep.study import HEARTBEAT, Result, Study, objective, read_result, results_of
from mmtab.sweep.summary import summarise, write_summary
from mmtab.utils.errors import MmtabError, RunError
from mmtab.utils.locks import lock
from mmtab.utils.paths import check_inside
from mmtab.utils.pool import PAUSE, Pool, Task
from mmtab.utils.progress import say, under_way
from mmtab.utils.text import count

TRAIN = [sys.executable, "-m", "mmtab.cli", "train"]
EVALUATE = [sys.executable, "-m", "mmtab.cli", "evaluate"]


@dataclass
class Trial:
    """A trial that this process works on."""

    number: int
    id: int  # in the storage
    lock: BaseFileLock
    params: dict[str, Value]
    folder: Path
    results: dict[str, Result]  # by the name of the run
    busy: set[str] = field(default_factory=set)  # names of the runs that are on their way

    def result(self, run: Run) -> Result:
        return self.results.get(run.name, Result("not run yet"))

    def finished(self, run: Run) -> bool:
        return self.result(run).finished


class Runner:
    """One process of a sweep. ``train`` and ``evaluate``: the commands that train a run and score it on test."""

    def __init__(self, plan: Plan, train: list[str], evaluate: list[str], display: Display) -> None:
        self.plan, self.train, self.evaluate, self.display = plan, train, evaluate, display
        self.study = Study(plan)
        self.trials: dict[int, Trial] = {}
        self.pool = Pool(plan.config.n_jobs, say, self._tick)
        self.unscored: list[str] = []
        self._last_look = self._last_heartbeat = 0.0
        self._awaited: set[int] = set()  # trials of other processes that were mentioned

    def run(self) -> None:
        """All trials, then test. Raises Stopped when a signal asks for that."""
        with self.pool.stoppable():
            try:
                self.pool.drive(self._next_task, self._is_over)
                self._remove_weights()  # of a trial after whose end a process was killed
                alone = lock(self.plan.output / ".test.lock")  # processes that share the work come here together
                with contextlib.suppress(Timeout), alone.acquire(cancel_check=lambda: bool(self.pool.signals)):
                    tasks = self._test_tasks()
                    self.pool.drive(lambda: next(tasks, None))
                self.pool.check()
            finally:
                self.pool.end_children()  # before another process may take their trials
                for trial in self.trials.values():
                    trial.lock.release()

    def _tick(self) -> None:
        if time.monotonic() - self._last_heartbeat > HEARTBEAT:
            self._last_heartbeat = time.monotonic()
            for trial in self.trials.values():
                self.study.storage.record_heartbeat(trial.id)
        self.display.show(self.study.trials, {number: trial.busy for number, trial in self.trials.items()})

    # --- trials ------------------------------------------------------------------------------------------------------

    def _is_over(self) -> bool:
        n_finished = sum(trial.state.is_finished() for trial in self.study.trials()[: self.plan.n_trials])
        return n_finished == self.plan.n_trials

    def _next_task(self) -> Task | None:
        while True:
            for _, trial in sorted(self.trials.items()):
                if trial.busy and self.plan.config.pruner != "none":  # which wants to see one run before the next
                    continue
                if runs := self._startable(trial):
                    return self._train_task(trial, runs[0])
            if not self._take_trial():
                return None

    def _startable(self, trial: Trial) -> list[Run]:
        """After a run has failed, none but that one, until it is known whether the trial can be completed."""
        unfinished = [run for run in self.plan.runs if not trial.finished(run)]
        if any(self._is_given_up(trial, run) for run in unfinished):
            return []
        failed = [run for run in unfinished if trial.result(run).attempts]
        return [run for run in failed[:1] or unfinished if run.name not in trial.busy]

    def _is_given_up(self, trial: Trial, run: Run) -> bool:
        return not trial.finished(run) and trial.result(run).attempts > self.plan.config.retries

    def _take_trial(self) -> bool:
        """Take a trial that waits, or that a killed process has left. Whether there was one."""
        if time.monotonic() - self._last_look < PAUSE:
            return False
        self.study.enqueue()
        trials = self.study.trials()[: self.plan.n_trials]
        unclaimed = {n for n, trial in enumerate(trials) if not trial.state.is_finished()} - self.trials.keys()
        # Those that were left first, so that a sweep that was killed ends as if it had not been.
        for number in sorted(unclaimed, key=lambda n: (trials[n].state == TrialState.WAITING, n)):
            if self._claim(number):
                return True
        self._last_look = time.monotonic()
        if not self.trials:
            for number in sorted(unclaimed - self._awaited):
                self._awaited.add(number)
                owner = trials[number].user_attrs.get("owner", "another process")
                say(f"trial {number}  waiting: {owner} works on it")
        return False

    def _claim(self, number: int) -> bool:
        trial_lock = lock(self.plan.output / ".locks" / f"{number:04}")
        Path(trial_lock.lock_file).parent.mkdir(exist_ok=True)
        try:
            trial_lock.acquire(timeout=0)
        except Timeout:
            return False
        trial_id = self.study.claim(number)
        if trial_id is None:
            trial_lock.release()
            return False
        params, folder = self.study.draw(number, trial_id)
        for place in [folder, *(folder / run.name for run in self.plan.runs)]:
            check_inside(self.plan.output, place)
        results = results_of(self.study.storage.get_trial(trial_id))
        trial = self.trials[number] = Trial(number, trial_id, trial_lock, params, folder, results)
        for run in self.plan.runs:
            if not trial.finished(run) and self._is_done(folder / run.name):
                self._record(trial, run, read_result(folder / run.name, trial.result(run).attempts))
        self._advance(trial)
        return True

    def _advance(self, trial: Trial) -> None:
        """End a trial that is complete, or cannot become so, or is pruned."""
        if trial.busy:
            return
        n_finished = sum(map(trial.finished, self.plan.runs))
        given_up = [run for run in self.plan.runs if self._is_given_up(trial, run)]
        if given_up:
            self.study.note(trial.id, "failed_run", max(given_up, key=lambda run: trial.result(run).attempts).name)
            self._end(trial, TrialState.FAIL)
        elif n_finished == len(self.plan.runs):
            self._end(trial, TrialState.COMPLETE)
        elif n_finished and self.plan.config.pruner != "none":
            score = objective(self.plan, trial.results)
            if score is not None and self.study.should_prune(trial.number, trial.id, n_finished, score):
                self._end(trial, TrialState.PRUNED)

    def _end(self, trial: Trial, state: TrialState) -> None:
        text, values = f"trial {trial.number}  {STATES[state]}", list[float]()
        if state != TrialState.FAIL:
            values = [objective(self.plan, trial.results, name) or 0.0 for name in self.plan.config.objectives]
            text += f"  {self.plan.config.objectives[0]} {values[0]:.4f}"
        self.study.end(trial.id, state, values)
        self._release(trial)
        self._remove_weights()
        say(text)

    def _release(self, trial: Trial) -> None:
        trial.lock.release()
        self.trials.pop(trial.number, None)

    def _remove_weights(self) -> None:
        """With ``weights=best``: the checkpoints of trials that have ended and are not the best so far."""
        if self.plan.config.weights == "best":
            best = self.study.best()
            for number, trial in enumerate(self.study.trials()):
                if trial.state.is_finished() and number not in best and "drawn" in trial.user_attrs:
                    for run in self.plan.runs:
                        shutil.rmtree(self.study.folder_of(trial, run) / "checkpoints", ignore_errors=True)

    # --- runs --------------------------------------------------------------------------------------------------------

    def _train_task(self, trial: Trial, run: Run) -> Task:
        folder = trial.folder / run.name
        trial.busy.add(run.name)

        def ended(seconds: float, failure: str) -> None:
            trial.busy.remove(run.name)
            before = trial.result(run).attempts
            result = Result(failure, before + 1, seconds) if failure else read_result(folder, before)
            try:
                self._record(trial, run, result)
                self._tell(trial, run, result)
                self._advance(trial)
            except UpdateFinishedTrialError:  # a machine that does not see our lock believed us dead, and retries it
                self._release(trial)

        command = [*self.train, *self.plan.arguments(trial.number, run, folder, trial.params)]
        title = f"trial {trial.number}  {run.dataset} seed {run.seed}"
        return Task(title, command, folder, lambda: self._is_done(folder), ended)

    def _is_done(self, folder: Path) -> bool:
        """Whether a run has all that it was asked for: a report too, where the overrides say so."""
        return is_finished(folder) and (has_report(folder) or not self.plan.with_reports)

    def _record(self, trial: Trial, run: Run, result: Result) -> None:
        trial.results[run.name] = result
        self.study.record(trial.id, run, result)

    def _tell(self, trial: Trial, run: Run, result: Result) -> None:
        text = f"trial {trial.number}  {run.dataset} seed {run.seed}"
        if result.finished:
            count = f"{sum(map(trial.finished, self.plan.runs))} of {len(self.plan.runs)}"
            text += f"  {result.metric} {result.values['score']:.4f}  {result.seconds:.0f} s  ({count})"
        else:
            text += f"  {self.pool.failure_text(trial.folder / run.name, result.error)}"
            if run in self._startable(trial):
                text += "; once more"
            elif self._is_given_up(trial, run):
                text += f"; given up after {result.attempts} attempts"
        say(text)

    # --- test --------------------------------------------------------------------------------------------------------

    def _test_tasks(self) -> Iterator[Task]:
        """Score on test, which is opened when all trials have ended and no choice depends on it any more."""
        trials = self.study.trials()
        complete = [number for number, trial in enumerate(trials) if trial.state == TrialState.COMPLETE]
        numbers = {"best": self.study.best(), "all": complete, "none": []}[self.plan.config.test]
        scored = self.study.tests()
        for number, run in itertools.product(numbers, self.plan.runs):
            folder = self.study.folder_of(trials[number], run)
            if (number, run.name) not in scored or (is_finished(folder) and not has_report(folder)):
                try:
                    task = self._test_task(number, run, folder)
                except MmtabError as error:
                    self.unscored.append(f"trial {number}, {run.name}, on test: {error}")
                else:
                    yield from [task] if task else []

    def _test_task(self, number: int, run: Run, folder: Path) -> Task | None:
        if not is_finished(folder):
            raise RunError("its folder is on another machine")
        metrics = _metrics_on_test(folder)
        if metrics is not None:  # the process that had it scored was killed before it noted that
            self.study.note_test(number, run, metrics)
            if has_report(folder):
                return None
        params = self.study.trials()[number].user_attrs["drawn"]["params"]
        config, arguments = self.plan.evaluation(number, run, folder, params)
        if metrics is None and not _has_labelled_test(folder, config):
            return None

        def ended(seconds: float, failure: str) -> None:
            if (metrics := _metrics_on_test(folder)) is not None:
                self.study.note_test(number, run, metrics)
                say(f"trial {number}  {run.dataset} seed {run.seed}  scored on test")
            if failure:
                what = "on test" if metrics is None else "its report"
                self.unscored.append(f"trial {number}, {run.name}, {what}: {failure}")

        command = [*self.evaluate, *arguments]
        title = f"trial {number}  {run.dataset} seed {run.seed}  scoring test"
        return Task(title, command, folder, lambda: _metrics_on_test(folder) is not None and has_report(folder), ended)


def run_sweep(config: SweepConfig, train: list[str] = TRAIN, evaluate: list[str] = EVALUATE) -> str:
    """Do what is left of a sweep, or wait for others to do it, and write its summary, of which the text is returned.

    ``train`` and ``evaluate`` replace the commands that train a run and score it on test. Raises ConfigError for
    settings that do not fit, before any run starts, and RunError if every trial failed or the storage did."""
    plan = read_plan(config)
    names = ", ".join(run.name for run in plan.runs[:8])
    say(f"{count(plan.n_trials, 'trial')} of {count(len(plan.runs), 'run')}: {names}")
    display = Display(plan)
    runner = Runner(plan, train, evaluate, display)
    try:
        with under_way(display.stage):
            runner.run()
    except StorageInternalError as error:
        reason = str(error.__cause__ or error).splitlines()[0]
        raise RunError(f"storage: {reason}; the same command goes on") from error
    summary = summarise(plan, runner.study, runner.unscored)
    text = write_summary(plan, runner.study, summary)
    if all(trial["state"] == "failed" for trial in summary["trials"]):
        raise RunError(f"every trial failed; see {plan.output / 'summary.md'}, and the log.txt of each run")
    return text


def _metrics_on_test(folder: Path) -> dict[str, Any] | None:
    """Of a finished run, if it was scored on test."""
    return read_run_file(folder, METRICS).get("test")


def _has_labelled_test(folder: Path, config: RunConfig) -> bool:
    """Whether the dataset of a run has a test split with labels."""
    from mmtab.data.table import has_labels
    from mmtab.runs.inputs import data_folder

    return has_labels(data_folder(config), read_schema(folder), "test")
