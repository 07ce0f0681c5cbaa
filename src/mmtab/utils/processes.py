"""How a process that another one started ends when that one does, also when it is killed. Imports nothing but Python."""

from __future__ import annotations

import contextlib
import os
import signal
import threading

WITH_PARENT = "MMTAB_WITH_PARENT"  # in the environment of a child whose standard input is a pipe from its parent


def follow_parent() -> None:
    """Where the parent asked for it, take its death for a SIGTERM: the pipe to standard input then comes to its end."""
    if os.environ.pop(WITH_PARENT, None) is not None:  # taken out, for what this process starts has another parent
        threading.Thread(target=_stop_at_end_of_input, name="follow-parent", daemon=True).start()


def _stop_at_end_of_input() -> None:
    # Not sys.stdin: Python could not take its lock from a thread that blocks in it, and would die of that when it ends.
    with contextlib.suppress(OSError):
        while os.read(0, 4096):
            pass
    os.kill(os.getpid(), signal.SIGTERM)
