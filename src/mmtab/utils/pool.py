"""Keeping so many processes at work, each in a folder of its own, and ending them in order."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from mmtab.utils.children import Child, environment, visible_gpus
from mmtab.utils.errors import Stopped

TICK = 0.02  # seconds between two looks at the children
PAUSE = 1.0  # seconds until a process with nothing to do looks again for something that somebody left


@dataclass
class Task:
    """Something for a child to do in a folder; ``ended`` is told how long that took, and why it failed if it did."""

    command: list[str]
    folder: Path
    done: Callable[[], bool]
    ended: Callable[[float, str], None]


class Pool:
    """``n_jobs`` places for children. ``tell`` takes a line for the user, ``tick`` is called between two looks."""

    def __init__(self, n_jobs: int, tell: Callable[[str], None], tick: Callable[[], None] = lambda: None) -> None:
        self.n_jobs, self.tell, self.tick = n_jobs, tell, tick
        self.children: dict[int, tuple[Child, Task]] = {}  # by their places
        self.gpus = visible_gpus()
        self.signals: list[int] = []

    def drive(self, next_task: Callable[[], Task | None], is_over: Callable[[], bool] = lambda: True) -> None:
        """Keep the children at work until ``next_task`` has no more and it is over. Raises Stopped after a signal."""
        while True:
            for place, (child, task) in list(self.children.items()):
                code = child.poll()
                if code is not None:
                    del self.children[place]
                    task.ended(child.seconds, "" if code == 0 and task.done() else child.failure(code))
            for place in set(range(self.n_jobs)) - self.children.keys():
                new = None if self.signals else next_task()
                if new is None:
                    break
                given = environment(place, self.n_jobs, self.gpus)
                self.children[place] = Child(new.command, new.folder, new.done, given), new
            self.check()
            if not self.children and is_over():
                return
            self.tick()
            time.sleep(TICK if self.children else PAUSE)

    @contextlib.contextmanager
    def stoppable(self) -> Iterator[None]:
        """Signals are noted, not raised; whatever happens, no child is left."""

        def note(number: int, frame: FrameType | None) -> None:
            self.signals.append(number)

        before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            self.end_children()
            for number, handler in before.items():
                signal.signal(number, handler)

    def check(self) -> None:
        """Stop in order where a signal has asked for it."""
        if self.signals:
            self.tell(f"stopping: waiting for {len(self.children)} runs to save; once more to stop at once")
            self.end_children()
            raise Stopped(self.signals[0], "stopped; the same command goes on")

    def end_children(self) -> None:
        """Ask them to save and end, and wait; a second signal ends them at once."""
        for child, _ in self.children.values():
            child.stop()
        while any(child.process is not None and child.poll() is None for child, _ in self.children.values()):
            if len(self.signals) > 1:
                for child, _ in self.children.values():
                    child.stop(signal.SIGKILL)
            self.tick()
            time.sleep(TICK)
        self.children.clear()
