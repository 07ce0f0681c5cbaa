"""How a process ends: errors that the user can mend become one line and an exit status."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Iterator

from omegaconf.errors import OmegaConfBaseException

from mmtab.utils.errors import MmtabError, Stopped

DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG, errno.EIO}
PATHS = {errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP}  # that no file can have
ABSENT = {errno.ENOENT, errno.ENXIO, errno.ENODEV}  # also where the system lets nobody make files, such as /proc


@contextlib.contextmanager
def plain_warnings() -> Iterator[None]:
    """Warnings are printed as a line each, without the code that gives them."""
    before = warnings.formatwarning
    warnings.formatwarning = lambda message, *_, **__: f"warning: {' '.join(str(message).split())}\n"
    try:
        yield
    finally:
        warnings.formatwarning = before


@contextlib.contextmanager
def friendly() -> Iterator[None]:
    """Errors that the user can mend are printed without a traceback and end with exit status 1; MMTAB_TRACEBACK=1 shows
    where they were raised."""
    try:
        yield
    except Stopped as stopped:
        if "torch" in sys.modules:
            from mmtab.utils import distributed

            if not distributed.is_first():  # Lightning kills all processes when one of them ends otherwise
                sys.exit(0)
        print(f"{signal.Signals(stopped.number).name}: {stopped}", file=sys.stderr, flush=True)
        if stopped.number == signal.SIGUSR1:
            _queue_again()
        sys.exit(128 + stopped.number)
    except (MmtabError, OmegaConfBaseException) as error:
        if os.environ.get("MMTAB_TRACEBACK"):
            raise
        problem = str(error)
        if isinstance(error, OmegaConfBaseException):  # an interpolation that leads nowhere, or run= not given
            problem = f"{error.full_key or 'configuration'}: {problem.splitlines()[0]}"
        print(f"error: {problem}", file=sys.stderr, flush=True)
        sys.exit(1)
    except OSError as error:
        named = DISK | PATHS | (ABSENT if error.filename else set())
        if error.errno not in named or os.environ.get("MMTAB_TRACEBACK"):
            raise
        place = f"{error.filename}: " if error.filename else ""
        full = ". What was whole before still is; make room, or give another output= or cache="
        fix = "" if error.errno in (errno.EACCES, errno.EPERM) else full
        fix = ". Fix: give another path" if error.errno in PATHS | ABSENT else fix
        print(f"error: {place}{os.strerror(error.errno)}{fix}", file=sys.stderr, flush=True)
        sys.exit(1)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


def _queue_again() -> None:
    """Within a job of SLURM that was warned of its end (sbatch --signal=USR1@120) ask for another turn."""
    job, array, task = (os.environ.get(f"SLURM_{name}") for name in ("JOB_ID", "ARRAY_JOB_ID", "ARRAY_TASK_ID"))
    if job:
        done = subprocess.run(["scontrol", "requeue", f"{array}_{task}" if array else job], check=False)
        print("queued again" if done.returncode == 0 else "scontrol could not queue it again", file=sys.stderr)
