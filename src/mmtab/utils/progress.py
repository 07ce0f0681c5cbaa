"""What a long computation shows meanwhile: on a terminal bars with the time left, in a notebook a line that changes,
and in a log a plain line at least every 30 seconds. What runs within ``showing`` is shown: commands always do, and
``mmtab.fit`` on a terminal, in a notebook, or where it is asked to."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

INTERVAL = 25.0  # seconds without a line after which a log gets one
PATIENCE = 0.5  # seconds after which a stage is worth showing on a terminal
LOOK = 0.25  # seconds between two looks
WORTH = 3.0  # seconds of work from which the time left is estimated
T = TypeVar("T")


@dataclass
class Stage:
    """A computation under way: ``done`` of ``total`` steps, where these can be counted. ``note`` is shown behind it;
    ``picture``, something that rich renders, instead of it on a terminal."""

    title: str
    total: int | None = None
    done: int = 0
    note: str = ""
    picture: Any = None
    clock: Callable[[], float] = time.monotonic
    began: float = field(init=False)
    first: int = field(init=False)  # what was done when it began

    def __post_init__(self) -> None:
        self.begin(self.done)

    def begin(self, done: int) -> None:
        """Count from here."""
        self.began, self.first, self.done = self.clock(), done, done

    @property
    def left(self) -> float | None:
        """Seconds, by the steps so far; None while these tell little."""
        elapsed, done = self.clock() - self.began, self.done - self.first
        return elapsed / done * (self.total - self.done) if self.total and done and elapsed > WORTH else None

    def line(self) -> str:
        count = f" {self.done:,} of {self.total:,}" if self.total else ""
        left = "" if self.left is None else f", about {duration(self.left)} to go"
        note = f" ({self.note})" if self.note else ""
        return f"{self.title}{count}{note}, {duration(self.clock() - self.began)}{left}"


class Display:
    """Shows the stages under way. A thread looks at them, so that one step may take long."""

    def __init__(self, kind: str, clock: Callable[[], float] = time.monotonic) -> None:
        """``kind``: log, terminal or notebook."""
        self.kind, self.clock, self.stages = kind, clock, list[Stage]()
        self.last = clock()  # when a log got a line
        self._shown: Any = None  # what a terminal or notebook updates
        self._lock, self._over = threading.RLock(), threading.Event()
        self._thread: threading.Thread | None = None
        if kind == "terminal":
            import rich.live  # noqa: F401  # now: when it is imported it draws from the random state

    def begin(self, stage: Stage) -> None:
        with self._lock:
            self.stages.append(stage)
        if self._thread is None:
            self._thread = threading.Thread(target=self._watch, name="progress", daemon=True)
            self._thread.start()

    def end(self, stage: Stage) -> None:
        with self._lock:
            self.stages.remove(stage)
            if not self.stages:
                self._clear()

    def close(self) -> None:
        self._over.set()
        if self._thread is not None:
            self._thread.join()
        with self._lock:
            self._clear()

    def look(self) -> None:
        """Show what there is to show by now."""
        with self._lock:
            if not self.stages:
                return
            if self.kind == "log" and self.clock() - self.last >= INTERVAL:
                self.last = self.clock()
                _print("; ".join(stage.line() for stage in self.stages))
            elif self.kind != "log" and self.clock() - self.stages[0].began >= PATIENCE:
                self._update()

    def _watch(self) -> None:
        while not self._over.wait(LOOK):
            self.look()

    def _update(self) -> None:
        if self.kind == "notebook":
            from IPython.display import display

            text = {"text/plain": "\n".join(stage.line() for stage in self.stages)}
            if self._shown is None:
                self._shown = display(text, raw=True, display_id=True)
            else:
                self._shown.update(text, raw=True)
            return
        from rich.live import Live

        if self._shown is None:
            self._shown = Live(auto_refresh=False, transient=True)
            self._shown.start()
        self._shown.update(_bars(self.stages), refresh=True)

    def _clear(self) -> None:
        if self._shown is not None and self.kind == "terminal":
            self._shown.stop()
        elif self._shown is not None:
            self._shown.update({"text/plain": ""}, raw=True)
        self._shown = None


def _bars(stages: list[Stage]) -> Any:
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table

    rows: list[Any] = []
    for stage in stages:
        grid = Table.grid(padding=(0, 1))
        bars = [ProgressBar(stage.total, stage.done, width=30)] if stage.total else []
        grid.add_row(*bars, stage.line())
        rows.append(grid if stage.picture is None else stage.picture)
    return Group(*rows)


# One display for all threads: it is there while anything is to be shown.
_lock = threading.Lock()
_display: Display | None = None
_n_shown = _n_hidden = _n_unsaid = 0  # of ``showing``, of ``showing(False)`` and of ``unseen`` that have not ended


def say(text: str) -> None:
    """A line for the user, at once; nothing where the library runs unseen."""
    if _n_unsaid and not _n_shown:
        return
    _print(text)
    if (display := _display) is not None:
        display.last = display.clock()


def _print(text: str) -> None:
    """What reads the output may have ended (``| head``); what is computed must not end with it."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115  # to the end of the process


@contextlib.contextmanager
def under_way(stage: Stage | str) -> Iterator[Stage]:
    """A computation that may take long, by its title where its steps cannot be counted; else whoever does it keeps
    ``done`` and ``total`` up to date."""
    display, stage = None if _n_hidden else _display, Stage(stage) if isinstance(stage, str) else stage
    if display is None:
        yield stage
        return
    display.begin(stage)
    try:
        yield stage
    finally:
        display.end(stage)


def steps(items: Iterable[T], total: int, title: str) -> Iterator[T]:
    """The items, each of which is a step."""
    with under_way(Stage(title, total)) as stage:
        for item in items:
            yield item
            stage.done += 1


@contextlib.contextmanager
def showing(on: bool = True) -> Iterator[None]:
    """Show what runs within, or with ``on=False`` no more than lines. Of several processes the first one shows."""
    global _display, _n_shown, _n_hidden
    with _lock:
        _n_shown, _n_hidden = _n_shown + on, _n_hidden + (not on)
        if on and _display is None and _is_first():
            _display = Display(_kind())
    try:
        yield
    finally:
        ended = None
        with _lock:
            _n_shown, _n_hidden = _n_shown - on, _n_hidden - (not on)
            if not _n_shown:
                ended, _display = _display, None
        if ended is not None:
            ended.close()


def asked(on: bool | None) -> contextlib.AbstractContextManager[None]:
    """``showing`` as somebody asks for it; None leaves it as it is."""
    return contextlib.nullcontext() if on is None else showing(on)


@contextlib.contextmanager
def unseen() -> Iterator[None]:
    """As ``showing`` on a terminal or in a notebook; elsewhere nothing is shown or said within, for the output belongs
    to a program that uses the library."""
    global _n_unsaid
    if _display is not None or _kind() != "log":
        with showing():
            yield
        return
    with _lock:
        _n_unsaid += 1
    try:
        yield
    finally:
        with _lock:
            _n_unsaid -= 1


def duration(seconds: float) -> str:
    """Such as 40 s, 2 min 10 s, 12 min, 2.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 600:
        minutes, rest = divmod(10 * round(seconds / 10), 60)
        return f"{minutes} min" + (f" {rest} s" if rest else "")
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"


def _kind() -> str:
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if type(shell).__name__ == "ZMQInteractiveShell":
        return "notebook"
    return "terminal" if sys.stdout is not None and sys.stdout.isatty() else "log"  # None: it was closed


def _is_first() -> bool:
    """As the variables of torchrun, Lightning or SLURM tell, for ``distributed`` takes torch."""
    names = ("RANK", "LOCAL_RANK", "SLURM_PROCID")
    return next((os.environ[name] for name in names if name in os.environ), "0") in ("", "0")


def _after_fork() -> None:
    """The thread is not in the child, which shows nothing."""
    global _display, _lock
    _display, _lock = None, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
