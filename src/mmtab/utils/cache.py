"""A content-addressed cache on disk: what was computed from the same inputs before is mapped into memory."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import re
import secrets
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock
import numpy as np

from mmtab.utils import manifest
from mmtab.utils.atomic import WRITING, sync_one, write_text
from mmtab.utils.errors import ConfigError, one_line
from mmtab.utils.locks import is_held, lock
from mmtab.utils.npy import Scratch

Arrays = dict[str, np.ndarray]
Key = dict[str, Any] | Callable[[], dict[str, Any]]  # plain JSON values, or what makes them where they are asked for

LOG = logging.getLogger("mmtab")
PATIENCE = 2.0  # seconds until a run says what it waits for
DAY = 86400.0  # seconds: a scratch folder that nobody wrote to for so long was left by a killed run
GRACE = 60.0  # seconds: what was used so lately may be about to be read by another process
TRIES = 3  # how often an entry may be removed by others before it is read
FETCHED = {"downloads"}  # kinds that come from elsewhere: they do not count for the limit, nor make room for others

TAG = "CACHEDIR.TAG"
TAGGED = """Signature: 8a477f597d28d172789f06886806bc55
# This folder is a cache of mmtab, which removes what it used least. See https://bford.info/cachedir/
"""
KINDS = {"candidates", "catalogue", "downloads", "image_features", "images", "lexical", "ngrams", "numbers", "reasons"}
KINDS |= {"base", "base_folds", "cells", "rows", "scores", "text_features", "text_states", "tokens", "towers"}
# What a root may hold before it is tagged: scratch files, and what file systems and desktops put anywhere
HARMLESS = (WRITING, ".encoding-", ".nfs", ".snapshot", ".DS_Store", "lost+found")
# Entries without key and manifest: downloads, and what earlier versions generated
NAMES = {"downloads": re.compile("[0-9a-f]{16}"), "catalogue": re.compile(r"\w+-\d+-\d+-[0-9a-f]{8}")}

_used: set[Path] = set()  # entries that this process may still read
_spare: dict[tuple[Path, int], tuple[float, float]] = {}  # bytes by which a cache may grow until room is made, and when
_intact: dict[Path, tuple[int, int]] = {}  # entries whose digests this process has compared, and with which manifest


@dataclass(frozen=True)
class Entry:
    """One folder of the cache: ``digest`` is its name within its kind, ``used`` its last use (unix seconds)."""

    kind: str
    digest: str
    path: Path
    n_bytes: int
    used: float


class Store:
    """Entries are folders of ``.npy`` files named by a digest of everything they were computed from.

    An entry appears by one atomic rename, so a killed or concurrent run never shows half of one, and is built by one
    run at a time while the others wait for it. ``limit``: bytes of all entries together; above it, those used least
    recently are removed when a new one was placed, but none that this process has used, or any process in the last
    minute. That another one has mapped an entry into memory is no hindrance: on Linux the bytes stay until it lets go.

    Nothing is removed that was not made here: ``root`` is tagged (CACHEDIR.TAG), a folder that holds other things is
    refused (ConfigError), and an entry is what has a manifest. By that an entry is also checked, its sizes whenever it
    is asked for and its digests once in a process; a damaged one is built again, with a warning that names it.
    """

    def __init__(self, root: Path, limit: int | None = None) -> None:
        self.root = root
        self.limit = limit

    def check(self) -> None:
        """Raise ConfigError for a folder that holds other things than a cache. One of before there were tags passes."""
        strange = [] if self._is_tagged() else [path.name for path in _within(self.root) if not _was_cache(path)]
        if strange and all(TAG in name for name in strange):  # another process may be writing the tag just now
            time.sleep(0.15)
        if strange and not self._is_tagged():
            more = ", …" if len(strange) > 3 else ""
            raise ConfigError(
                f"cache={self.root} holds other things ({', '.join(map(repr, strange[:3]))}{more}) and is no cache of "
                f"mmtab, which removes what it used least. Fix: cache={self.root / 'mmtab'} (or MMTAB_CACHE), or any "
                "new or empty folder"
            )

    def claim(self) -> None:
        """Make the folder and tag it. Raises ConfigError as ``check``, and for one that cannot be written to."""
        self.check()
        if not self._is_tagged():
            with self._writing():
                self.root.mkdir(parents=True, exist_ok=True)
                write_text(self.root / TAG, TAGGED)

    def _is_tagged(self) -> bool:
        try:
            text = (self.root / TAG).read_text(encoding="utf-8", errors="replace")
        except OSError:
            return False
        return text.startswith(TAGGED.splitlines()[0]) and "mmtab" in text  # else the cache of another program

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            problem = f"cache={self.root} cannot be written to ({error.strerror or error})"
            raise ConfigError(f"{problem}. Fix: cache=FOLDER (or MMTAB_CACHE), a folder that can be") from error

    def arrays(self, kind: str, key: Key, build: Callable[[Scratch], Arrays]) -> Arrays:
        """The entry for ``key``, built when absent.

        ``build`` gets a scratch folder on the same disk in which it may create ``<name>.npy`` files itself, as memory
        maps or as ``Appended``.
        """
        for attempt in range(TRIES):
            entry = self.folder(kind, key, build)
            try:
                listed = manifest.names(entry)
                files = sorted(path for path in entry.iterdir() if path.suffix == ".npy" and path.name in listed)
                return {path.stem: np.load(path, mmap_mode="r", allow_pickle=False) for path in files}
            except FileNotFoundError:  # another process made room just now
                if attempt == TRIES - 1:
                    raise
        raise AssertionError("not reached")

    def folder(self, kind: str, key: Key, build: Callable[[Scratch], Arrays]) -> Path:
        """As ``arrays``, but where they lie."""
        key = key() if callable(key) else key
        return self.named(kind, _name_of(key), lambda scratch: self._write(scratch, key, build))

    def named(self, kind: str, name: str, write: Callable[[Path], None]) -> Path:
        """The folder ``<kind>/<name>``, which ``write`` fills when it is absent: for what is no set of arrays."""
        self.check()
        entry = self._place(kind, name)
        placed = False
        if not entry.is_dir() or _damage(entry):
            self.claim()
            with self._writing():
                entry.parent.mkdir(exist_ok=True)
            with _alone(entry):
                if entry.is_dir() and (problem := _damage(entry)):
                    self._discard(entry, problem)
                if not entry.is_dir():  # else another run has just built it
                    with self._writing():
                        scratch = _scratch(entry)
                    placed = _fill(scratch, entry, write, recorded=True)
                    if placed:
                        _intact[entry.resolve()] = _stamp(entry)
        with contextlib.suppress(OSError):  # a cache that is read only, or of another user
            os.utime(entry)
        if placed and self.limit is not None:
            self._make_room(self.limit, manifest.n_bytes(entry))
        return entry

    def has(self, kind: str, key: dict[str, Any]) -> bool:
        """Whether the entry is there already and whole; if so, this process does not remove it to make room."""
        entry = self._place(kind, _name_of(key))
        return entry.is_dir() and _damage(entry) is None

    def _place(self, kind: str, name: str) -> Path:
        """Where an entry lies, or will; raises ConfigError where that is a link, by which it would lie elsewhere."""
        for path in (self.root / kind, self.root / kind / name):
            if path.is_symlink():
                problem = (
                    f"{path} is a link to {os.path.realpath(path)}, and a cache neither reads nor removes elsewhere"
                )
                raise ConfigError(f"{problem}. Fix: remove the link, or let cache= be a link itself")
        entry = self.root / kind / name
        _used.add(entry.resolve())
        return entry

    @staticmethod
    def _discard(entry: Path, problem: str) -> None:
        name = f"the cache entry {entry} is damaged ({problem})"
        if not _is_entry(entry) and (others := manifest.others(entry)):
            raise ConfigError(f"{name} and holds other things ({', '.join(others[:3])}). Fix: move these out of it")
        try:
            removing = entry.with_name(f".removing-{secrets.token_hex(8)}")
            entry.rename(removing)
        except FileNotFoundError:  # another process was first
            return
        except OSError as error:
            raise ConfigError(f"{name} and cannot be removed ({error.strerror}). Fix: remove it") from error
        shutil.rmtree(removing, ignore_errors=True)
        warnings.warn(f"{name}: it is made again", stacklevel=4)

    def has_room(self, n_bytes: int) -> bool:
        """Whether an entry of this size would leave half of the limit, and half of the free disk, to others."""
        free = shutil.disk_usage(next(p for p in (self.root, *self.root.absolute().parents) if p.is_dir())).free
        return n_bytes <= (free if self.limit is None else min(free, self.limit)) / 2

    @staticmethod
    def place(entry: Path, write: Callable[[Path], None]) -> None:
        """Let ``write`` fill a scratch folder, then rename it to ``entry``; whoever renames first wins."""
        _fill(_scratch(entry), entry, write)

    def entries(self) -> list[Entry]:
        """All that is whole, of every kind, and was made here."""
        return [
            Entry(kind, path.name, path, manifest.n_bytes(path), used)
            for kind, path in self._paths()
            if not path.name.startswith(".") and _is_entry(path) and (used := _mtime(path)) is not None
        ]

    def leftovers(self) -> list[Entry]:
        """What killed runs left: half-built and half-removed entries, and locks that nobody holds.

        The scratch folder of a run that lives is none of them: its lock is held or, where the file system cannot lock,
        it was written to within a day.
        """
        entries = []
        ours = {kind.name for kind in _within(self.root) if kind.name in KINDS or any(map(_is_entry, _within(kind)))}
        for kind, path in ((kind, path) for kind, path in self._paths() if kind in ours):
            if path.name.startswith(".building-"):
                stem = path.name.removeprefix(".building-").rpartition("-")[0]
                times = [_mtime(part) for part in (path, *_within(path))]
                used = max((t for t in times if t is not None), default=0.0)
                if used > time.time() - DAY or is_held(path.with_name(f".{stem}.lock")):
                    continue
            elif path.name.startswith(".removing-") or (_is_lock(path) and not is_held(path)):
                used = _mtime(path) or 0.0
            else:
                continue
            entries.append(Entry(kind, path.name, path, manifest.n_bytes(path), used))
        return entries

    def remove(self, entries: Iterable[Entry]) -> list[Entry]:
        """Remove entries or leftovers; returns those that this user could remove. Raises ConfigError as ``check``."""
        self.check()
        removed = []
        for entry in entries:
            try:
                if _is_lock(entry.path):
                    with lock(entry.path, timeout=0):
                        entry.path.unlink()
                else:  # renamed first, for removing takes a while and nobody may see half an entry
                    removing = entry.path.with_name(f".removing-{secrets.token_hex(8)}")
                    entry.path.rename(removing)
                    removing.unlink() if removing.is_symlink() else shutil.rmtree(removing, ignore_errors=True)
            except (NotImplementedError, OSError):  # another process was first, or it belongs to another user
                continue
            removed.append(entry)
        return removed

    def _make_room(self, limit: int, n_bytes: int) -> None:
        """Looks at every entry, and so not each time that one of ``n_bytes`` is placed, but after a minute, and once
        this process has taken a tenth of what was free: others may take the rest."""
        spare, until = _spare.get((self.root, limit), (0.0, 0.0))
        _spare[self.root, limit] = spare - n_bytes, until
        if spare > n_bytes and time.monotonic() < until:
            return
        self.remove(self.leftovers())
        entries = [entry for entry in self.entries() if entry.kind not in FETCHED]
        late = time.time() - GRACE
        evictable = [entry for entry in entries if entry.used < late and entry.path.resolve() not in _used]
        total = sum(entry.n_bytes for entry in entries)
        _spare[self.root, limit] = (limit - total) / 10, time.monotonic() + GRACE
        self.remove(least_used(evictable, total - limit))
        if total - sum(entry.n_bytes for entry in evictable) > limit:
            warnings.warn(  # the same words each time, so that Python shows them once
                f"the cache {self.root} stays above its limit of {limit / 1e9:g} GB: the runs of now need more",
                stacklevel=3,
            )

    def _paths(self) -> Iterator[tuple[str, Path]]:
        """What lies in the folders of the kinds, with the kind."""
        for kind in _within(self.root):
            if kind.is_dir() and not kind.is_symlink() and not kind.name.startswith("."):
                for path in _within(kind):
                    yield kind.name, path

    @staticmethod
    def _write(scratch: Path, key: dict[str, Any], build: Callable[[Scratch], Arrays]) -> None:
        for name, values in build(scratch).items():
            if isinstance(values, np.memmap):
                values.flush()
            else:
                np.save(scratch / f"{name}.npy", values, allow_pickle=False)
        (scratch / "key.json").write_text(json.dumps(key, indent=1, sort_keys=True))


def least_used(entries: Iterable[Entry], n_bytes: int) -> list[Entry]:
    """Those used least recently, as many as it takes to free ``n_bytes`` (all, if that is not enough)."""
    chosen = []
    for entry in sorted(entries, key=lambda entry: entry.used):
        if n_bytes <= 0:
            break
        chosen.append(entry)
        n_bytes -= entry.n_bytes
    return chosen


# --- names, locks and files ------------------------------------------------------------------------------------------


def _name_of(key: dict[str, Any]) -> str:
    return hashlib.blake2b(json.dumps(key, sort_keys=True).encode(), digest_size=16).hexdigest()


def _stem(entry: Path) -> str:
    """What its scratch folder and its lock are named after: short, for a file name may have 255 bytes."""
    return entry.name[:50]


def _is_lock(path: Path) -> bool:
    return path.name.startswith(".") and path.suffix == ".lock" and manifest.n_bytes(path) == 0


def _is_entry(path: Path) -> bool:
    """Whether it was made here: it has what its manifest lists or, made before there were any, is called by its key."""
    if path.is_symlink() or not path.is_dir():
        return False
    try:
        if (others := manifest.others(path)) is not None:
            return not [name for name in others if not Path(name).name.startswith((*HARMLESS, "._"))]
        return _name_of(json.loads((path / "key.json").read_bytes())) == path.name
    except FileNotFoundError:
        pattern = NAMES.get(path.parent.name)
        return pattern is not None and pattern.fullmatch(path.name) is not None
    except (OSError, ValueError, RecursionError):
        return False


def _was_cache(path: Path) -> bool:
    """Whether it may lie in a cache that has no tag yet: a folder of entries."""
    if path.name.startswith(HARMLESS):
        return True
    if path.is_symlink() or not path.is_dir() or path.name.startswith("."):
        return False
    parts = [part for part in _within(path) if not part.name.startswith((".building-", ".removing-"))]
    parts = [part for part in parts if not _is_lock(part)]
    return all(map(_is_entry, parts)) and bool(parts or path.name in KINDS)


def _damage(entry: Path) -> str | None:
    """What is wrong with the bytes of an entry; None for a whole one, and for one that is not there any more."""
    place = entry.resolve()
    if (entry / manifest.MANIFEST).exists() and not (entry / manifest.MANIFEST).is_file():
        return f"{manifest.MANIFEST} is no file"
    if not (entry / manifest.MANIFEST).exists() and entry.is_dir():
        if not _is_entry(entry):
            raise ConfigError(f"{entry} was not made by mmtab, or only in part. Fix: remove it")
        try:  # made before there were manifests: from now on it is known what it held
            for path in entry.glob("*.npy"):
                np.load(path, mmap_mode="r", allow_pickle=False)
            manifest.write(entry)
        except (ValueError, EOFError) as error:
            return f"{path.name}: {one_line(error)}"
        except OSError:  # a cache that is read only stays as it is
            return None
    try:
        stamp = _stamp(entry)
        problem = manifest.damage(entry, digests=_intact.get(place) != stamp)
        if problem is None and _intact.get(place) != stamp and (entry / "key.json").is_file():
            of_another = _name_of(json.loads((entry / "key.json").read_bytes())) != entry.name
            problem = "key.json is that of another entry" if of_another else None
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError):
        problem = "key.json cannot be read"
    if problem is None:
        _intact[place] = stamp
    return problem


def _stamp(entry: Path) -> tuple[int, int]:
    """Tells an entry from one that was built in its place."""
    found = (entry / manifest.MANIFEST).stat()
    return found.st_ino, found.st_mtime_ns


def _scratch(entry: Path) -> Path:
    entry.parent.mkdir(parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(prefix=f".building-{_stem(entry)}-", dir=entry.parent))


def _fill(scratch: Path, entry: Path, write: Callable[[Path], None], recorded: bool = False) -> bool:
    """Let ``write`` fill the scratch folder, and rename it once its bytes are on the disk; whether that was first.
    ``recorded``: with a manifest."""
    try:
        write(scratch)
        if recorded:
            manifest.write(scratch)
        scratch.chmod(0o755)
        manifest.sync(scratch)
        try:
            scratch.rename(entry)
        except OSError:
            if not entry.is_dir():
                raise
            return False
        sync_one(entry.parent)
        return True
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


@contextlib.contextmanager
def _alone(entry: Path) -> Iterator[None]:
    """Wait until no other run builds ``entry``; where the file system cannot lock, several may."""
    path = entry.with_name(f".{_stem(entry)}.lock")
    entry_lock = lock(path)
    try:
        try:
            entry_lock.acquire(timeout=PATIENCE)
        except filelock.Timeout:
            LOG.warning("waiting for another run that builds %s (%s)", entry.parent.name, path)
            entry_lock.acquire()
    except (NotImplementedError, OSError) as error:
        LOG.debug("no lock, so another run may build the same: %s", error)
    try:
        yield
    finally:
        if entry_lock.is_locked:
            # Removed while it is held: whoever waits for the removed file sees that and makes a new one (filelock looks
            # at its number of links). If that went wrong, two would build the same and one rename would win.
            with contextlib.suppress(OSError):
                path.unlink()
            entry_lock.release()


def _within(folder: Path) -> list[Path]:
    """Sorted; none where it is no folder, or is not there any more."""
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _mtime(path: Path) -> float | None:
    try:
        return path.stat().st_mtime
    except OSError:
        return None
