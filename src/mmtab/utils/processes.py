"""Parents and children among processes: a child ends with its parent, also when that is killed, and its log says why it
failed. Imports nothing but Python."""

from __future__ import annotations

import contextlib
import functools
import multiprocessing.util
import os
import re
import shutil
import signal
import tempfile
import threading
from pathlib import Path

WITH_PARENT = "MMTAB_WITH_PARENT"  # in the environment of a child whose standard input is a pipe from its parent
TAIL = 1 << 16  # bytes at the end of a log in which an error is looked for
_lock = threading.Lock()


def new_folder() -> Path:
    """One that is removed when this process ends."""
    with _lock:
        return Path(tempfile.mkdtemp(dir=_folder_of(os.getpid())))


@functools.cache
def _folder_of(process: int) -> Path:
    """A process that was forked has another, and leaves that of its parent alone."""
    folder = Path(tempfile.mkdtemp(prefix="mmtab-"))
    multiprocessing.util.Finalize(None, shutil.rmtree, [folder, True], exitpriority=0)
    return folder


def follow_parent() -> None:
    """If the parent asked for it, take its death for a SIGTERM: the pipe to standard input then comes to its end."""
    if os.environ.pop(WITH_PARENT, None) is not None:  # removed: processes started from here have another parent
        threading.Thread(target=_stop_at_end_of_input, name="follow-parent", daemon=True).start()


def _stop_at_end_of_input() -> None:
    # Not sys.stdin: Python could not take its lock from a thread that blocks in it, and would die of that when it ends.
    with contextlib.suppress(OSError):
        while os.read(0, 4096):
            pass
    os.kill(os.getpid(), signal.SIGTERM)


def last_error(log: Path, offset: int) -> str:
    """The error in what was written to a log from ``offset`` on, or else the last line."""
    with log.open("rb") as file:
        file.seek(max(offset, log.stat().st_size - TAIL))
        lines = [line.strip() for line in file.read().decode(errors="replace").splitlines()]
    lines = [line for line in lines if re.search(r"\w", line)]
    for pattern in (r"error: ", r"[A-Za-z_][\w.]*(Error|Exception|Exit|Interrupt|Iteration)\b"):
        for line in reversed(lines):
            if re.match(pattern, line):
                return line
    return lines[-1] if lines else ""
