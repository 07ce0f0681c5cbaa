"""Files that appear at once or not at all, also when the process or the machine dies half-way."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

WRITING = ".writing-"  # begins the names of scratch files


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A scratch file beside ``path`` to write to, which takes its place at the end; after an error nothing has changed.

    The bytes are on the disk before the name is, so that not even a power failure leaves half a file under it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f"{WRITING}{path.name}-", dir=path.parent)
    os.close(handle)
    scratch = Path(name)
    try:
        yield scratch
        scratch.chmod(0o644)
        sync_one(scratch)
        scratch.replace(path)
        with contextlib.suppress(OSError):
            sync_one(path.parent)
    finally:
        scratch.unlink(missing_ok=True)


def sync_one(path: Path) -> None:
    """Bring a file to the disk, or of a folder its names; not every file system can be asked for that."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:
        if not path.is_dir():
            raise
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    with replacing(path) as scratch:
        scratch.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any, indent: int | None = 1) -> None:
    write_text(path, json.dumps(value, indent=indent, ensure_ascii=False))


def leftovers(folder: Path) -> list[Path]:
    """What killed processes left half-written in a folder."""
    return list(folder.glob(f"{WRITING}*"))
