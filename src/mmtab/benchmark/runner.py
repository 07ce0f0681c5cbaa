"""The whole benchmark: every system on every dataset of the tracks, for all seeds, run, resumed and collected.

Its ledger is the folders themselves, ``OUTPUT/jobs/SYSTEM/DATASET/seedN``: a finished one has a result.json. So a
benchmark can grow by a dataset, a system or a seed at any time, and several processes may work on one.
"""

from __future__ import annotations

import functools
import sys
from pathlib import Path

from mmtab.benchmark.job import Job, is_done, read_result
from mmtab.benchmark.plan import JOBS, check_places, check_systems, find_datasets, plan_jobs, with_members
from mmtab.benchmark.types import Board, Failure
from mmtab.config.ranking import BenchmarkConfig
from mmtab.data import files
from mmtab.data.schema import Schema
from mmtab.data.table import find_table
from mmtab.utils.locks import is_held
from mmtab.utils.paths import check_inside
from mmtab.utils.pool import Pool, Task
from mmtab.utils.progress import duration, say, under_way
from mmtab.utils.text import count


def run_benchmark(config: BenchmarkConfig) -> Board:
    """Run what is not finished, write results.parquet and the scoreboard; returns that. Raises ConfigError for settings
    that do not fit, before anything runs, and RunError where nothing was finished; failures are on the scoreboard."""
    output, chosen = Path(config.output), set(config.system)
    config = with_members(config)
    if added := sorted(set(config.system) - chosen):
        say(f"also run, as members of ensembles: {', '.join(added)}")
    check_places(config)
    check_systems(config)
    from mmtab.benchmark import multabench

    with under_way("reading the datasets"):
        sources, tracks = find_datasets(config)
        twins = multabench.find_twins(sources) if config.beside else []
    _adopt_cells(output)
    jobs = plan_jobs(config, sources)
    n_done = sum(map(is_done, jobs))
    systems, datasets = count(len(config.system), "system"), count(len(sources), "dataset")
    say(f"{count(len(jobs), 'job')}: {systems} on {datasets}; {n_done:,} done already")
    failures = Work(config, jobs).run()
    from mmtab.benchmark.results import collect
    from mmtab.benchmark.scoreboard import markdown, write_scoreboard
    from mmtab.reports.results import refresh

    board = collect(output, config, sources, tracks, failures)
    write_scoreboard(board, output)
    if twins:
        multabench.write_beside(output, board, sources, twins)
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
        self.took: dict[str, tuple[float, int]] = {}  # by system, of what ended: seconds, training rows
        self.pool = Pool(config.n_jobs, say)

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
        title = self.jobs[folder].title
        return Task(title, command, folder, lambda: is_done(folder), lambda *end: self._ended(folder, *end))

    def _fail(self, folder: Path, failure: str) -> None:
        self.failures[folder] = failure
        self.pool.tell(f"{self.jobs[folder].title}  {self.pool.failure_text(folder, failure)}")

    def _ended(self, folder: Path, seconds: float, failure: str) -> None:
        title = self.jobs[folder].title
        if failure:
            self.attempts[folder] = self.attempts.get(folder, 0) + 1
            if self.attempts[folder] <= self.config.retries:
                self.pool.tell(f"{title}  {self.pool.failure_text(folder, failure)}; once more")
                self.waiting.append(folder)
            else:
                self._fail(folder, failure)
            return
        job, result = self.jobs[folder], read_result(folder)
        before = self.took.get(job.system, (0.0, 0))
        self.took[job.system] = before[0] + seconds, before[1] + _n_train(job.data)
        done = sum(map(is_done, self.jobs))
        progress = f"{done} of {len(self.jobs)}{self._time_left()}"
        self.pool.tell(f"{title}  {result['metric']} {result['value']:.4f}  {seconds:.0f} s  ({progress})")

    def _time_left(self) -> str:
        """In words, by what a training row of each system took; or of which systems no job has ended yet."""
        left = [self.jobs[folder] for folder in self.waiting]
        left += [self.jobs[child.task.folder] for child in self.pool.children.values()]
        unknown = sorted({job.system for job in left} - self.took.keys())
        if not left or unknown:
            return f"; no time is known yet of {', '.join(unknown)}" if unknown else ""
        rates = {system: seconds / max(n, 1) for system, (seconds, n) in self.took.items()}
        seconds = sum(rates[job.system] * _n_train(job.data) for job in left) / self.config.n_jobs
        return f", about {duration(seconds)} to go"


@functools.cache
def _n_train(data: str) -> int:
    """Training rows, or pairs, of a dataset folder."""
    schema = Schema.read(Path(data))
    return files.count(find_table(Path(data), schema, schema.table_of("train")), schema.name)
