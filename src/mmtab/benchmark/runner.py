"""The whole benchmark: every system on every dataset of the tracks, for all seeds, run, resumed and collected.

Its ledger is the folders themselves, ``OUTPUT/jobs/SYSTEM/DATASET/seedN``: a finished one has a result.json. So a
benchmark can grow by a dataset, a system or a seed at any time, and several processes may work on one.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from mmtab.benchmark.job import Job, is_done, read_result
from mmtab.benchmark.plan import JOBS, check_systems, find_datasets, plan_jobs, with_members
from mmtab.benchmark.types import Board, Failure
from mmtab.config.types import BenchmarkConfig
from mmtab.utils.locks import is_held
from mmtab.utils.paths import check_inside
from mmtab.utils.pool import Pool, Task


def run_benchmark(config: BenchmarkConfig) -> Board:
    """Run what is not finished, write results.parquet and the scoreboard; returns that. Raises ConfigError for settings
    that do not fit, before anything runs, and RunError where nothing was finished; failures are on the scoreboard."""
    output, chosen = Path(config.output), set(config.system)
    config = with_members(config)
    if added := sorted(set(config.system) - chosen):
        print(f"also run, as members of ensembles: {', '.join(added)}", flush=True)
    check_systems(config)
    sources, tracks = find_datasets(config)
    _adopt_cells(output)
    failures = Work(config, plan_jobs(config, sources)).run()
    from mmtab.benchmark.results import collect
    from mmtab.benchmark.scoreboard import markdown, write_scoreboard
    from mmtab.reports.results import refresh

    board = collect(output, config, sources, tracks, failures)
    write_scoreboard(board, output)
    if config.refresh:
        refresh(Path(config.refresh), "scoreboard", markdown(board))
    return board


def _adopt_cells(output: Path) -> None:
    """Benchmark folders of earlier versions call their jobs cells."""
    if (output / "cells").is_dir() and not (output / JOBS).exists():
        (output / "cells").rename(output / JOBS)


class Work:
    """One process at work on the jobs that are not finished."""

    def __init__(self, config: BenchmarkConfig, jobs: dict[Path, Job]) -> None:
        self.config, self.jobs = config, jobs
        self.waiting = [folder for folder in jobs if not is_done(folder)]
        self.attempts: dict[Path, int] = {}
        self.failures: dict[Path, str] = {}
        self.began, self.n_ended = time.monotonic(), 0
        self.pool = Pool(config.n_jobs, lambda text: print(text, flush=True))

    def run(self) -> list[Failure]:
        with self.pool.stoppable():
            self.pool.drive(self._next, lambda: not self.waiting)
        failed = [(self.jobs[folder], error) for folder, error in self.failures.items()]
        return [Failure(job.system, job.dataset, job.seed, error) for job, error in failed]

    def _next(self) -> Task | None:
        for folder in list(self.waiting):
            members = {name: Path(member) for name, member in self.jobs[folder].members.items()}
            failed = [name for name, member in members.items() if member in self.failures]
            if is_done(folder):  # by another process
                self.waiting.remove(folder)
            elif failed:
                self.waiting.remove(folder)
                self._fail(folder, f"its member {failed[0]} failed")
            elif all(map(is_done, members.values())) and not is_held(folder / ".lock"):
                self.waiting.remove(folder)
                return self._task(folder)
        return None

    def _task(self, folder: Path) -> Task:
        check_inside(Path(self.config.output), folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.jobs[folder].write(folder)
        command = [sys.executable, "-m", "mmtab.benchmark.job", str(folder)]
        return Task(command, folder, lambda: is_done(folder), lambda *end: self._ended(folder, *end))

    def _fail(self, folder: Path, failure: str) -> None:
        self.failures[folder] = failure
        self.n_ended += 1
        self.pool.tell(f"{self.jobs[folder].title}  FAILED: {failure}")

    def _ended(self, folder: Path, seconds: float, failure: str) -> None:
        title = self.jobs[folder].title
        if failure:
            self.attempts[folder] = self.attempts.get(folder, 0) + 1
            if self.attempts[folder] <= self.config.retries:
                self.pool.tell(f"{title}  FAILED: {failure}; once more")
                self.waiting.append(folder)
            else:
                self._fail(folder, failure)
            return
        self.n_ended += 1
        result = read_result(folder)
        done = sum(map(is_done, self.jobs))
        left = len(self.waiting) + len(self.pool.children)
        minutes = (time.monotonic() - self.began) / self.n_ended * left / 60
        progress = f"{done} of {len(self.jobs)}" + (f", about {minutes:.0f} min to go" if left else "")
        self.pool.tell(f"{title}  {result['metric']} {result['value']:.4f}  {seconds:.0f} s  ({progress})")
