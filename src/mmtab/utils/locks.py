"""Locks of the operating system on files: a process that dies lets go of them. Not every file system has them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import filelock

from mmtab.utils.errors import RunError
from mmtab.utils.paths import check_run_links


def lock(path: Path, timeout: float = -1) -> filelock.BaseFileLock:
    """Of ``path``, to be acquired; raises NotImplementedError then where there are no locks, and filelock.Timeout where
    another process held it for ``timeout`` seconds (-1: wait for ever)."""
    _check_no_link(path)
    return filelock.FileLock(path, timeout=timeout, fallback_to_soft=False)  # a soft lock would outlive its process


def is_held(path: Path) -> bool:
    """Whether some process holds it; asking does not create it."""
    if not path.exists():
        return False
    try:
        with lock(path, timeout=0):
            return False
    except (NotImplementedError, OSError) as error:  # without locks nobody can hold one
        return isinstance(error, filelock.Timeout)


@contextlib.contextmanager
def alone_in(folder: Path, wait: float = 0.0) -> Iterator[None]:
    """Hold the lock of a run folder, which a process that dies lets go of; raises RunError where another one (or
    another thread) holds it for more than ``wait`` seconds, and where a link leads out of the folder. Where the file
    system knows no locks, nobody is kept out. May be nested. A folder that holds nothing else in the end is removed."""
    path = folder / ".lock"
    folder.mkdir(parents=True, exist_ok=True)
    check_run_links(folder)
    _check_no_link(path)
    folder_lock = filelock.FileLock(path, fallback_to_soft=False, is_singleton=True)
    try:
        folder_lock.acquire(timeout=wait)
    except filelock.Timeout:
        raise RunError(f"another process is writing to {folder}; wait for it, or give another output=FOLDER") from None
    except NotImplementedError:
        pass
    try:
        yield
    finally:
        if folder_lock.lock_counter == 1 and list(folder.iterdir()) == [path]:
            with contextlib.suppress(OSError):
                path.unlink()
                folder.rmdir()
        folder_lock.release()


def _check_no_link(path: Path) -> None:
    if path.is_symlink():
        raise RunError(f"the lock {path} is a link. Fix: remove it")
