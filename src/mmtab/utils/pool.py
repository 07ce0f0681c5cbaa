"""Keeps a fixed number of child processes at work, each in a folder of its own, and ends them in order."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from mmtab.utils.errors import Stopped
from mmtab.utils.locks import is_held
from mmtab.utils.machine import usable_cores
from mmtab.utils.paths import check_run_links
from mmtab.utils.processes import WITH_PARENT, last_error
from mmtab.utils.progress import under_way
from mmtab.utils.text import count

TICK = 0.02  # seconds between two looks at the children
PAUSE = 1.0  # seconds until a process with nothing to do looks again for work that another one left
PATIENCE = 120.0  # seconds in which the child of a killed process notices that and leaves its folder


@dataclass
class Task:
    """A command to run in a folder."""

    title: str
    command: list[str]
    folder: Path  # gets the command's output, at the end of log.txt
    done: Callable[[], bool]  # whether the folder holds the result
    ended: Callable[[float, str], None]  # called at the end with the seconds it took and the reason of failure, or ""


class Child:
    """The process of a task. It starts as soon as no other process holds the lock of the folder, and not at all if the
    task is done by then."""

    def __init__(self, task: Task, environment: dict[str, str]) -> None:
        self.task, self.environment = task, environment
        self.log = task.folder / "log.txt"
        self.process: subprocess.Popen[bytes] | None = None
        self.began = time.monotonic()
        self.offset = 0
        task.folder.mkdir(parents=True, exist_ok=True)

    def poll(self) -> int | None:
        """Its exit status; None while it runs or waits."""
        if self.process is None:
            if is_held(self.task.folder / ".lock") and time.monotonic() - self.began < PATIENCE:
                return None
            if self.task.done():
                return 0
            self.process = self._start()
        code = self.process.poll()
        if code is not None and self.process.stdin is not None:
            self.process.stdin.close()
        return code

    def stop(self, number: int = signal.SIGTERM) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)

    def report(self, code: int) -> None:
        """Tell the task how it ended."""
        failure = "" if code == 0 and self.task.done() else self._failure(code)
        self.task.ended(time.monotonic() - self.began, failure)

    def _failure(self, code: int) -> str:
        """The reason in one line."""
        number = -code if code < 0 else code - 128  # a run that saves itself on a signal ends with 128 and its number
        reason = f"exit status {code}" if code else "exit status 0, but nothing finished"
        if number in set(signal.Signals):
            memory = " (out of memory?)" if number == signal.SIGKILL else ""
            reason = f"ended by {signal.Signals(number).name}{memory}"
        error = last_error(self.log, self.offset)
        return f"{reason}: {error}" if error else reason

    def _start(self) -> subprocess.Popen[bytes]:
        self.began = time.monotonic()
        check_run_links(self.task.folder)
        with self.log.open("ab") as log:
            self.offset = log.tell()
            # A session of its own, so that Ctrl-C reaches the parent alone, which then stops its children in order.
            # They also end when the parent is killed, because the pipe to their standard input then closes.
            return subprocess.Popen(
                self.task.command,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self.environment,
                start_new_session=True,
            )


class Pool:
    """``n_jobs`` places for children. ``tell`` takes a line for the user, ``tick`` is called between two looks."""

    def __init__(self, n_jobs: int, tell: Callable[[str], None], tick: Callable[[], None] = lambda: None) -> None:
        self.n_jobs, self.tell, self.tick = n_jobs, tell, tick
        self.children: dict[int, Child] = {}  # by place
        self.gpus = visible_gpus()
        self.signals: list[int] = []
        self._reasons: dict[Path, str] = {}  # of the last failure in a folder

    def drive(self, next_task: Callable[[], Task | None], is_over: Callable[[], bool] = lambda: True) -> None:
        """Keep the children at work until ``next_task`` has no more and ``is_over``. Raises Stopped after a signal."""
        with under_way("jobs") as stage:
            while True:
                for place, child in list(self.children.items()):
                    if (code := child.poll()) is not None:
                        del self.children[place]
                        child.report(code)
                for place in set(range(self.n_jobs)) - self.children.keys():
                    task = None if self.signals else next_task()
                    if task is None:
                        break
                    self.tell(f"{task.title}  begins")
                    self.children[place] = Child(task, environment(place, self.n_jobs, self.gpus))
                stage.note = ", ".join(child.task.title for child in self.children.values())
                self.check()
                if not self.children and is_over():
                    return
                self.tick()
                time.sleep(TICK if self.children else PAUSE)

    def failure_text(self, folder: Path, failure: str) -> str:
        """How the task of a folder failed; a reason that was given before is not given again."""
        is_known, self._reasons[folder] = self._reasons.get(folder) == failure, failure
        return "FAILED again, for the same reason" if is_known else f"FAILED: {failure}"

    @contextlib.contextmanager
    def stoppable(self) -> Iterator[None]:
        """Signals are noted, not raised; in the end no child is left, whatever happens."""

        numbers = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.signal(number, lambda number, _: self.signals.append(number)) for number in numbers}
        try:
            yield
        finally:
            self.end_children()
            for number, handler in before.items():
                signal.signal(number, handler)

    def check(self) -> None:
        """Stop in order if a signal has asked for it."""
        if self.signals:
            self.tell(f"stopping: waiting for {count(len(self.children), 'run')} to save; once more to stop at once")
            self.end_children()
            raise Stopped(self.signals[0], "stopped; the same command goes on")

    def end_children(self) -> None:
        """Ask them to save and end, and wait; a second signal ends them at once."""
        for child in self.children.values():
            child.stop()
        while any(child.process is not None and child.poll() is None for child in self.children.values()):
            if len(self.signals) > 1:
                for child in self.children.values():
                    child.stop(signal.SIGKILL)
            self.tick()
            time.sleep(TICK)
        self.children.clear()


def environment(place: int, n_jobs: int, gpus: list[str]) -> dict[str, str]:
    """For the child at one of ``n_jobs`` places: its share of cores and GPUs."""
    changes = {
        WITH_PARENT: "1",
        "OMP_NUM_THREADS": str(max(1, usable_cores() // n_jobs)),
        "PYTHONUNBUFFERED": "1",  # else output and errors are out of order in the log
        "HYDRA_FULL_ERROR": "1",
    }
    if gpus:
        changes["CUDA_VISIBLE_DEVICES"] = ",".join(gpus[place::n_jobs] or [gpus[place % len(gpus)]])
    return os.environ | changes


def visible_gpus() -> list[str]:
    """As CUDA_VISIBLE_DEVICES names them; listed without torch, which takes seconds and memory."""
    names = os.environ.get("CUDA_VISIBLE_DEVICES")
    if names is not None:
        return [name.strip() for name in names.split(",") if name.strip() not in ("", "-1")]
    try:
        listing = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=30, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return [str(i) for i in range(sum(line.startswith("GPU ") for line in listing.splitlines()))]
