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
        with scratch.open("rb+") as file:
            os.fsync(file.fileno())
        scratch.replace(path)
        with contextlib.suppress(OSError):  # some systems cannot be asked to bring a folder's entries to the disk
            descriptor = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
    finally:
        scratch.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    with replacing(path) as scratch:
        scratch.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any, indent: int | None = 1) -> None:
    write_text(path, json.dumps(value, indent=indent, ensure_ascii=False))


def leftovers(folder: Path) -> list[Path]:
    """What killed processes left half-written in a folder."""
    return list(folder.glob(f"{WRITING}*"))
