"""What a sweep shows while it runs: a line for what has ended, and on a terminal a table that changes below that."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from statistics import mean

from optuna.trial import FrozenTrial, TrialState
from rich.console import Group
from rich.progress_bar import ProgressBar
from rich.table import Table

from mmtab.sweep.plan import Plan
from mmtab.sweep.space import Value
from mmtab.sweep.study import objective, results_of
from mmtab.utils.progress import Stage, duration

STATES = {TrialState.COMPLETE: "finished", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}
N_ROWS = 12  # of the table: all trials that are on their way, and as many of the best as there is room for
INTERVAL = 0.5  # seconds


class Display:
    """``show`` updates ``stage``; it may be called often."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.stage = Stage(plan.output.name)
        self._last = 0.0

    def show(self, trials: Callable[[], Sequence[FrozenTrial]], busy: Mapping[int, set[str]]) -> None:
        """``trials`` is called when it is time; ``busy``: the names of the runs on their way, by trial."""
        if time.monotonic() - self._last > INTERVAL:
            self._last = time.monotonic()
            known = trials()
            self.stage.note, self.stage.picture = left_text(self.plan, known), progress(self.plan, known, busy)


def progress(plan: Plan, trials: Sequence[FrozenTrial], busy: Mapping[int, set[str]]) -> Group:
    """The table of trials, and how many runs are finished or not needed any more."""
    table = Table("trial", "settings", "runs", "score", "state", title=plan.output.name, title_justify="left")
    running, complete = (
        [number for number, trial in enumerate(trials) if trial.state == state]
        for state in (TrialState.RUNNING, TrialState.COMPLETE)
    )
    best = sorted(complete, key=lambda number: plan.loss(trials[number]))[: max(0, N_ROWS - len(running))]
    for number in best + running:
        trial = trials[number]
        results = results_of(trial)
        score = objective(plan, results)
        table.add_row(
            str(number),
            settings_text(trial.params),
            f"{sum(result.finished for result in results.values())} of {len(plan.runs)}",
            "" if score is None else f"{score:.4f}",
            STATES.get(trial.state) or ", ".join(sorted(busy.get(number, set()))) or "waiting",
        )
    total, line = plan.n_trials * len(plan.runs), Table.grid(padding=(0, 1))
    bar = ProgressBar(total=total, completed=total - runs_left(plan, trials)[0], width=40)
    line.add_row(bar, left_text(plan, trials))
    return Group(table, line)


def left_text(plan: Plan, trials: Sequence[FrozenTrial]) -> str:
    (n_left, seconds), total = runs_left(plan, trials), plan.n_trials * len(plan.runs)
    left = "unknown" if seconds is None else duration(seconds)
    return f"{total - n_left} of {total} runs, time to go: {left}"


def runs_left(plan: Plan, trials: Sequence[FrozenTrial]) -> tuple[int, float | None]:
    """How many runs have still to finish, and the seconds that takes by the mean of the finished runs of each dataset,
    or of all datasets; None as long as no run has finished."""
    left: list[str] = []
    seconds: dict[str, list[float]] = {}
    for trial in trials[: plan.n_trials]:
        results = results_of(trial)
        for run in plan.runs:
            if run.name in results and results[run.name].finished:
                seconds.setdefault(run.dataset, []).append(results[run.name].seconds)
            elif not trial.state.is_finished():
                left.append(run.dataset)
    if not seconds:
        return len(left), None
    means = {dataset: mean(values) for dataset, values in seconds.items()}
    overall = mean(means.values())
    return len(left), sum(means.get(dataset, overall) for dataset in left) / plan.config.n_jobs


def settings_text(params: Mapping[str, Value]) -> str:
    values = {name: f"{value:.4g}" if isinstance(value, float) else value for name, value in params.items()}
    return " ".join(f"{name}={value}" for name, value in values.items())
