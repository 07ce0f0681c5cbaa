"""The manifest of a folder: size and sha256 of files that belong together, by which damage is seen when one is read.

It tells accidents, not attacks: whoever can write to the folder can write its manifest too. A folder of earlier
versions has none, and a file that it does not name is read unchecked.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from mmtab.utils.atomic import write_json
from mmtab.utils.errors import RunError
from mmtab.utils.manifest import file_digest

MANIFEST = "manifest.json"
ADVICE = f"Fix: restore it from a copy; {MANIFEST} removed, the folder is taken as it is"
_verified: set[tuple[str, int, int, str]] = set()  # path, size, time and digest of files that this process has read


class Entry(NamedTuple):
    size: int
    sha256: str


@contextlib.contextmanager
def recording(folder: Path, *patterns: str) -> Iterator[None]:
    """Files that match ``patterns`` are written inside: they are unlisted first and listed once they are whole, so that
    whoever dies in between leaves files unchecked, but never a manifest that is wrong."""
    listed = read_manifest(folder)
    others = {name: entry for name, entry in listed.items() if not any(map(Path(name).match, patterns))}
    if others != listed:
        _write(folder, others)
    yield
    paths = (path for pattern in patterns for path in folder.glob(pattern) if path.is_file())
    _write(folder, others | {path.relative_to(folder).as_posix(): _entry_of(path) for path in paths})


def read_manifest(folder: Path) -> dict[str, Entry]:
    """By file, relative to the folder; empty where there is none. Raises RunError where it is damaged itself."""
    path = folder / MANIFEST
    if not path.exists() and not path.is_symlink():
        return {}
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        entries = {str(name): Entry(int(size), str(sha256)) for name, (size, sha256) in raw["files"].items()}
        whole = raw["sha256"] == _digest(entries)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        whole = False
    if not whole:
        raise RunError(f"{path} is damaged. {ADVICE}")
    return entries


def verified(folder: Path, name: str) -> Path:
    """The path of a file of the folder; raises RunError where it is not as the manifest has it. The size is looked at
    each time, the digest once in a process."""
    path, entry = folder / name, read_manifest(folder).get(name)
    if entry is None:
        return path
    if not path.is_file():
        raise RunError(f"{path} is missing. {ADVICE}")
    state = path.stat()
    key = (str(path.absolute()), state.st_size, state.st_mtime_ns, entry.sha256)
    if state.st_size == entry.size and (key in _verified or file_digest(path) == entry.sha256):
        _verified.add(key)
    elif read_manifest(folder).get(name) == entry:  # else another process has just written both anew
        size = "" if state.st_size == entry.size else f": it has {state.st_size} bytes, and had {entry.size}"
        raise RunError(f"{path} has changed since it was written{size}. {ADVICE}")
    return path


def verify_below(folder: Path, *names: str) -> None:
    """``verified`` of all listed files that lie in these folders within the folder."""
    for name in read_manifest(folder):
        if Path(name).parts[0] in names:
            verified(folder, name)


def _write(folder: Path, entries: dict[str, Entry]) -> None:
    write_json(folder / MANIFEST, {"files": dict(sorted(entries.items())), "sha256": _digest(entries)})


def _entry_of(path: Path) -> Entry:
    return Entry(path.stat().st_size, file_digest(path))


def _digest(entries: dict[str, Entry]) -> str:
    return hashlib.sha256(json.dumps(sorted(entries.items())).encode()).hexdigest()
