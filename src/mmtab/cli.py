"""How scripts begin: a Hydra command line whose mistakes are one clear line. Imports nothing heavy."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from mmtab.config import CONFIGS, register
from mmtab.errors import MmtabError, Stopped
from mmtab.follow import follow_parent

# what a disk says that is full, or may not be written to
DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG, errno.EIO}


@contextlib.contextmanager
def friendly() -> Iterator[None]:
    """Errors that the user can mend are printed without a traceback and end with exit status 1; MMTAB_TRACEBACK=1 shows
    where they were raised."""
    try:
        yield
    except Stopped as stopped:
        if "torch" in sys.modules and not _is_first():  # Lightning kills all processes when one of them ends otherwise
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
        if error.errno not in DISK or os.environ.get("MMTAB_TRACEBACK"):
            raise
        place = f"{error.filename}: " if error.filename else ""
        full = ". What was whole before still is; make room, or give another output= or cache="
        fix = "" if error.errno in (errno.EACCES, errno.EPERM) else full
        print(f"error: {place}{os.strerror(error.errno)}{fix}", file=sys.stderr, flush=True)
        sys.exit(1)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


def _is_first() -> bool:
    from mmtab import ranks

    return ranks.is_first()


def _queue_again() -> None:
    """Within a job of SLURM that was warned of its end (sbatch --signal=USR1@120) ask for another turn."""
    job, array, task = (os.environ.get(f"SLURM_{name}") for name in ("JOB_ID", "ARRAY_JOB_ID", "ARRAY_TASK_ID"))
    if job:
        done = subprocess.run(["scontrol", "requeue", f"{array}_{task}" if array else job], check=False)
        print("queued again" if done.returncode == 0 else "scontrol could not queue it again", file=sys.stderr)


def _leave() -> None:
    if "torch" in sys.modules:
        from mmtab import ranks

        ranks.leave()


def main(config_name: str) -> Callable[[Callable[[DictConfig], None]], Callable[[], None]]:
    """Like ``hydra.main`` on configs/<config_name>.yaml, within ``friendly``."""
    import hydra
    from hydra.errors import HydraException

    def decorate(function: Callable[[DictConfig], None]) -> Callable[[], None]:
        def guarded(config: DictConfig) -> None:
            with friendly():
                function(config)
            _leave()

        register()
        follow_parent()
        return whole(hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name=config_name)(guarded))

    def whole(function: Callable[[], None]) -> Callable[[], None]:
        def guarded() -> None:
            os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # else Hydra would show a traceback of what is caught here
            with friendly():
                try:
                    function()
                except HydraException as error:
                    print(error, *([error.__cause__] if error.__cause__ else []), sep="\n", file=sys.stderr, flush=True)
                    sys.exit(1)

        return guarded

    return decorate


def print_metrics(title: str, columns: dict[str, dict[str, Any]]) -> None:
    """A table with a row a metric and a column a split."""
    from rich.console import Console
    from rich.table import Table

    table = Table("metric", *columns, title=title)
    for name in {name: None for values in columns.values() for name in values}:
        found = [values.get(name) for values in columns.values()]
        cells = ["" if x is None else f"{x:,}" if isinstance(x, int) else f"{x:.4f}" for x in found]
        table.add_row(name, *cells)
    Console(width=None if sys.stdout.isatty() else 100).print(table)
