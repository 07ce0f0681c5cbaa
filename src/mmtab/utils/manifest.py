"""What a folder held when it was written: sizes and digests, by which damage is seen before it changes numbers."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from pathlib import Path

MANIFEST = ".manifest.json"
MANY = 64  # files; above it one request to the whole system is faster than one for each


def write(folder: Path) -> None:
    """Record the size and the SHA-256 of every file below ``folder`` in its manifest."""
    paths = [path for path in _files(folder) if path.name != MANIFEST]
    files = {str(path.relative_to(folder)): [path.stat().st_size, _digest(path)] for path in paths}
    (folder / MANIFEST).write_text(json.dumps({"files": files}, indent=0), encoding="utf-8")


def damage(folder: Path, digests: bool = True) -> str | None:
    """What is not as the manifest says, such as "x.npy has 12 bytes instead of 40"; None where all is. Without
    ``digests`` only sizes are compared. Raises FileNotFoundError where there is no manifest."""
    text = (folder / MANIFEST).read_bytes()
    try:
        files = {str(name): (int(size), str(digest)) for name, (size, digest) in json.loads(text)["files"].items()}
        for name, (size, digest) in files.items():
            found = (folder / name).stat(follow_symlinks=False)
            if not stat.S_ISREG(found.st_mode):
                return f"{name} is no regular file"
            if found.st_size != size:
                return f"{name} has {found.st_size} bytes instead of {size}"
            if digests and _digest(folder / name) != digest:
                return f"{name} has other bytes than were written"
    except OSError as error:
        return f"{Path(error.filename or '').name or 'a file'} cannot be read ({error.strerror})"
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return f"{MANIFEST} cannot be read"
    return None


def sync(folder: Path) -> None:
    """Bring all below ``folder`` to the disk, so that after a power failure no name stands for half of its bytes."""
    files = _files(folder)
    if len(files) > MANY and hasattr(os, "sync"):
        return os.sync()
    for path in [*files, *(path for path in folder.rglob("*") if path.is_dir()), folder]:
        sync_one(path)


def sync_one(path: Path) -> None:
    """Of a folder its names; not every file system can be asked for that."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:
        if not path.is_dir():
            raise
    finally:
        os.close(descriptor)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
