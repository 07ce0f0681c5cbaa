"""What a campaign shows while it runs: on a terminal a table that changes, elsewhere a line for what has ended."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean
from types import TracebackType

from optuna.trial import FrozenTrial, TrialState
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from mmtab.sweep.ledger import Record, objective, records_of
from mmtab.sweep.plan import Plan
from mmtab.sweep.space import Value

STATES = {TrialState.COMPLETE: "finished", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}
N_SHOWN = 12
INTERVAL = 0.5  # seconds


@dataclass
class Shown:
    """``rows``: trial, settings, runs finished, score so far, state. ``n_done`` of ``n_runs`` are finished or not needed any
    more; ``seconds``: time to go, None as long as nothing tells."""

    rows: Sequence[tuple[str, ...]]
    n_done: int
    n_runs: int
    seconds: float | None

    @staticmethod
    def of(plan: Plan, trials: Sequence[FrozenTrial], busy: Mapping[int, set[str]]) -> Shown:
        """``busy``: the runs on their way, by trial."""
        records = {trial.number: records_of(trial) for trial in trials}
        over = {trial.number for trial in trials if trial.state.is_finished()}
        done = {n: {name for name, r in found.items() if r.state == "finished"} for n, found in records.items()}
        left = [
            run.dataset
            for number in range(plan.n_trials)
            if number not in over
            for run in plan.runs
            if run.name not in done.get(number, set())
        ]
        total = plan.n_trials * len(plan.runs)
        rows = [
            (
                str(trial.number),
                settings_text(trial.params),
                f"{len(done[trial.number])} of {len(plan.runs)}",
                _number(objective(plan, records[trial.number])),
                STATES.get(trial.state) or ", ".join(sorted(busy.get(trial.number, set()))) or "waiting",
            )
            for trial in _interesting(trials, plan.directions[0] == "maximize")
        ]
        return Shown(rows, total - len(left), total, seconds_to_go(plan, list(records.values()), left))


def seconds_to_go(plan: Plan, known: Sequence[Mapping[str, Record]], left: Sequence[str]) -> float | None:
    """For one more run of each dataset in ``left``, by the mean of its finished runs, or else of all."""
    seconds: dict[str, list[float]] = {}
    for records in known:
        for run in plan.runs:
            if run.name in records and records[run.name].state == "finished":
                seconds.setdefault(run.dataset, []).append(records[run.name].seconds)
    if not seconds:
        return None
    otherwise = mean(each for some in seconds.values() for each in some)
    means = {dataset: mean(some) for dataset, some in seconds.items()}
    return sum(means.get(dataset, otherwise) for dataset in left) / plan.config.n_jobs


def settings_text(params: Mapping[str, Value]) -> str:
    return " ".join(f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}" for name, value in params.items())  # fmt: skip


class Display:
    """A place for what a campaign tells, and on a terminal for a table below that."""

    def __init__(self, plan: Plan) -> None:
        self.console = Console(highlight=False)
        self.live = Live(console=self.console, auto_refresh=False, transient=True) if self.console.is_terminal else None
        self.title = plan.output.name
        self._shown = 0.0

    def __enter__(self) -> Display:
        if self.live is not None:
            self.live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.live is not None:
            self.live.stop()

    def tell(self, text: str) -> None:
        if self.live is not None:
            self.console.print(text, markup=False)
        else:
            print(text, flush=True)

    def show(self, shown: Callable[[], Shown]) -> None:
        """To be called often; it is asked when it is time."""
        if self.live is not None and time.monotonic() - self._shown > INTERVAL:
            self._shown = time.monotonic()
            self.live.update(_drawn(self.title, shown()), refresh=True)


def _interesting(trials: Sequence[FrozenTrial], upwards: bool) -> list[FrozenTrial]:
    """Those that are on their way, and as many of the best as there is room for."""
    running = [trial for trial in trials if not trial.state.is_finished()]
    done = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    best = sorted(done, key=lambda trial: trial.values[0], reverse=upwards)[: max(0, N_SHOWN - len(running))]
    return best + running


def _drawn(title: str, shown: Shown) -> Group:
    table = Table("trial", "settings", "runs", "score", "state", title=title, title_justify="left")
    for row in shown.rows:
        table.add_row(*row)
    to_go = "unknown" if shown.seconds is None else duration(shown.seconds)
    line = Table.grid(padding=(0, 1))
    line.add_row(
        ProgressBar(total=shown.n_runs, completed=shown.n_done, width=40),
        f"{shown.n_done} of {shown.n_runs} runs, time to go: {to_go}",
    )
    return Group(table, line)


def duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s" if minutes else f"{rest} s"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
