"""What a folder held when it was written: sizes and digests, by which damage is seen before it changes numbers."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mmtab.utils.atomic import sync_one
from mmtab.utils.errors import RunError, one_line

MANIFEST = ".manifest.json"
MANY = 64  # files; above it one request to the whole system is faster than one for each


Files = dict[str, list[Any]]  # size and SHA-256 by the path within a folder
DIGEST = "digest"  # of a json file, within it


def record(folder: Path, paths: Iterable[Path]) -> Files:
    return {str(path.relative_to(folder)): [path.stat().st_size, file_digest(path)] for path in paths}


def compare(folder: Path, files: Any, digests: bool = True) -> str | None:
    """What is not as ``record`` found it, such as "x.npy has 12 bytes instead of 40"; None where all is. Without
    ``digests`` only sizes are compared."""
    try:
        for name, (size, digest) in files.items():
            found = (folder / name).stat(follow_symlinks=False)
            if not stat.S_ISREG(found.st_mode):
                return f"{name} is no regular file"
            if found.st_size != size:
                return f"{name} has {found.st_size} bytes instead of {size}"
            if digests and file_digest(folder / name) != digest:
                return f"{name} has other bytes than were written"
    except OSError as error:
        return f"{Path(error.filename or '').name or 'a file'} cannot be read ({error.strerror})"
    except (ValueError, TypeError, AttributeError):
        return "the record of its files cannot be read"
    return None


def write(folder: Path) -> None:
    """Record every file below ``folder`` in its manifest."""
    files = record(folder, (path for path in _files(folder) if path.name != MANIFEST))
    (folder / MANIFEST).write_text(json.dumps(sealed({"files": files}), indent=0), encoding="utf-8")


def damage(folder: Path, digests: bool = True) -> str | None:
    """What is not as the manifest says, as ``compare``. Raises FileNotFoundError where there is no manifest."""
    files = _listed((folder / MANIFEST).read_bytes())
    return f"{MANIFEST} cannot be read" if files is None else compare(folder, files, digests)


def names(folder: Path) -> set[str]:
    """Of the files that the manifest lists, none where it is damaged; without a manifest those that are there."""
    try:
        return set(_listed((folder / MANIFEST).read_bytes()) or ())
    except FileNotFoundError:
        return {path.name for path in folder.iterdir()}


def others(folder: Path) -> list[str] | None:
    """What lies in a folder and is not in its manifest; None where it has none that can be read."""
    path = folder / MANIFEST
    listed = _listed(path.read_bytes()) if path.is_file() else None
    if listed is None:
        return None
    found = (
        part.relative_to(folder).as_posix() for part in folder.rglob("*") if part.is_symlink() or not part.is_dir()
    )
    return [name for name in found if name not in listed and name != MANIFEST]


def _listed(text: bytes) -> Files | None:
    """The files of a manifest, all within the folder; None for what is none, or has other bytes than were written."""
    try:
        value = json.loads(text)
        files = value["files"]
        inside = all(not Path(name).is_absolute() and ".." not in Path(name).parts for name in files)
        complete = is_whole(value) and (DIGEST in value or files)
        return files if isinstance(files, dict) and inside and complete else None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def sealed(value: dict[str, Any]) -> dict[str, Any]:
    """What ``read_sealed`` can check: the value with a digest of itself."""
    return value | {DIGEST: _digest_of(value)}


def is_whole(value: dict[str, Any]) -> bool:
    """Whether a value is as it was sealed; one that was not sealed is."""
    content = {name: part for name, part in value.items() if name != DIGEST}
    return DIGEST not in value or value[DIGEST] == _digest_of(content)


def read_sealed(path: Path, fix: str, since: str = "") -> dict[str, Any]:
    """A json file; raises RunError, with the fix, for one that is not as it was written. One without a digest, of
    before there were any, is only read, unless it has the entry ``since``, which came with digests."""
    try:
        value = json.loads(path.read_bytes())
        problem = None if isinstance(value, dict) else "it is no mapping"
        if problem is None and (not is_whole(value) or (since in value and DIGEST not in value)):
            problem = "it has other bytes than were written"
    except (OSError, ValueError, RecursionError) as error:
        problem = one_line(error)
    if problem:
        raise RunError(f"{path} is damaged ({problem}). Fix: {fix}")
    value.pop(DIGEST, None)
    return value


def sync(folder: Path) -> None:
    """Bring all below ``folder`` to the disk, so that after a power failure no name stands for half of its bytes."""
    files = _files(folder)
    if len(files) > MANY and hasattr(os, "sync"):
        return os.sync()
    for path in [*files, *(path for path in folder.rglob("*") if path.is_dir()), folder]:
        sync_one(path)


def n_bytes(path: Path | str) -> int:
    """Of all files below a folder, or of a file; none for what is being removed."""
    try:
        with os.scandir(path) as found:
            return sum(
                n_bytes(part.path) if part.is_dir(follow_symlinks=False) else part.stat(follow_symlinks=False).st_size
                for part in found
            )
    except NotADirectoryError:
        return Path(path).stat().st_size
    except OSError:
        return 0


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest_of(value: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
