"""Programs that are not mmtab's: called with a dataset without test labels, ended together with the job."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from mmtab.utils.errors import ConfigError, RunError
from mmtab.utils.machine import usable_cores
from mmtab.utils.processes import last_error

FOREIGN = Path(__file__).parent / "foreign"
DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG of linux/prctl.h


def call(command: Sequence[str], log: Path, name: str) -> tuple[float, int]:
    """Run a program whose output goes to ``log``, as that of this process does; returns its seconds and MiB. Raises
    RunError with its last error where it fails."""
    began, offset = time.perf_counter(), log.stat().st_size if log.exists() else 0
    # It shares our process group, which ends as a whole; if this process is killed, Linux kills the program too.
    signal.signal(signal.SIGTERM, _end_group)
    done = subprocess.run(command, stdin=subprocess.DEVNULL, preexec_fn=_die_with_parent, check=False)
    if done.returncode:
        error = last_error(log, offset) if log.exists() else ""
        raise RunError(f"{name} ended with status {done.returncode}: {error}")
    unit = 1 << 20 if sys.platform == "darwin" else 1 << 10
    return time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // unit


def fill_in(system: str, words: Sequence[str], data: Path, output: Path, seed: int) -> list[str]:
    """A command with its placeholders filled in; raises ConfigError for a variable that is not set."""
    values = {
        "{data}": str(data),
        "{output}": str(output),
        "{seed}": str(seed),
        "{threads}": str(usable_cores()),
        "{python}": sys.executable,
        "{foreign}": str(FOREIGN),
    }
    command = []
    for word in words:
        if word.startswith("$"):
            if not os.environ.get(word[1:]):
                problem = f"the environment variable {word[1:]} is not set; see CONTRIBUTING.md, Add a system"
                raise ConfigError(f"system.{system}: {problem}")
            word = os.environ[word[1:]]
        for name, value in values.items():
            word = word.replace(name, value)
        command.append(word)
    return command


def _die_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(DIE_WITH_PARENT, signal.SIGKILL)


def _end_group(number: int, frame: FrameType | None) -> None:
    os.killpg(os.getpgid(0), signal.SIGKILL)
