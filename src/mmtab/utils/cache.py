"""A content-addressed cache on disk: what was computed from the same inputs before is mapped into memory."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
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

from mmtab.utils.locks import is_held, lock

Arrays = dict[str, np.ndarray]

LOG = logging.getLogger("mmtab")
PATIENCE = 2.0  # seconds until a run says what it waits for
DAY = 86400.0  # seconds: a scratch folder that nobody wrote to for so long was left by a killed run
GRACE = 60.0  # seconds: what was used so lately may be about to be read by another process
TRIES = 3  # how often an entry may be removed by others before it is read
FETCHED = {"downloads"}  # kinds that come from elsewhere: they do not count for the limit, nor make room for others

_used: set[Path] = set()  # entries that this process may still read


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
    """

    def __init__(self, root: Path, limit: int | None = None) -> None:
        self.root = root
        self.limit = limit

    def arrays(self, kind: str, key: dict[str, Any], build: Callable[[Path], Arrays]) -> Arrays:
        """The entry for ``key`` (plain JSON values), built when absent.

        ``build`` gets a scratch folder on the same disk in which it may create ``<name>.npy`` files itself, as memory
        maps or as ``Appended``.
        """
        for attempt in range(TRIES):
            entry = self.folder(kind, key, build)
            try:
                files = sorted(path for path in entry.iterdir() if path.suffix == ".npy")
                return {path.stem: np.load(path, mmap_mode="r", allow_pickle=False) for path in files}
            except FileNotFoundError:  # another process made room just now
                if attempt == TRIES - 1:
                    raise
        raise AssertionError("not reached")

    def folder(self, kind: str, key: dict[str, Any], build: Callable[[Path], Arrays]) -> Path:
        """As ``arrays``, but where they lie."""
        return self.named(kind, _name_of(key), lambda scratch: self._write(scratch, key, build))

    def named(self, kind: str, name: str, write: Callable[[Path], None]) -> Path:
        """The folder ``<kind>/<name>``, which ``write`` fills when it is absent: for what is no set of arrays."""
        entry = self.root / kind / name
        _used.add(entry.resolve())
        placed = False
        if not entry.is_dir():
            entry.parent.mkdir(parents=True, exist_ok=True)
            with _alone(entry):
                if not entry.is_dir():  # else another run has just built it
                    self.place(entry, write)
                    placed = True
        with contextlib.suppress(OSError):  # a cache that is read only, or of another user
            os.utime(entry)
        if placed and self.limit is not None:
            self._make_room(self.limit)
        return entry

    def has(self, kind: str, key: dict[str, Any]) -> bool:
        """Whether the entry is there already; if so, this process does not remove it to make room."""
        entry = self.root / kind / _name_of(key)
        _used.add(entry.resolve())
        return entry.is_dir()

    def has_room(self, n_bytes: int) -> bool:
        """Whether an entry of this size would leave half of the limit, and half of the free disk, to others."""
        place = next(folder for folder in (self.root, *self.root.absolute().parents) if folder.is_dir())
        free = shutil.disk_usage(place).free
        return n_bytes <= (free if self.limit is None else min(free, self.limit)) / 2

    @staticmethod
    def place(entry: Path, write: Callable[[Path], None]) -> None:
        """Let ``write`` fill a scratch folder, then rename it to ``entry``; whoever renames first wins."""
        entry.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".building-{_stem(entry)}-", dir=entry.parent))
        try:
            write(scratch)
            scratch.chmod(0o755)
            try:
                scratch.rename(entry)
            except OSError:
                if not entry.is_dir():
                    raise
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    def entries(self) -> list[Entry]:
        """All that is whole, of every kind, with or without a key."""
        return [
            Entry(kind, path.name, path, _n_bytes(path), used)
            for kind, path in self._paths()
            if not path.name.startswith(".") and path.is_dir() and (used := _mtime(path)) is not None
        ]

    def leftovers(self) -> list[Entry]:
        """What killed runs left: half-built and half-removed entries, and locks that nobody holds.

        The scratch folder of a run that lives is none of them: its lock is held or, where the file system cannot lock,
        it was written to within a day.
        """
        entries = []
        for kind, path in self._paths():
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
            entries.append(Entry(kind, path.name, path, _n_bytes(path), used))
        return entries

    def remove(self, entries: Iterable[Entry]) -> list[Entry]:
        """Remove entries or leftovers; returns those that this user could remove."""
        removed = []
        for entry in entries:
            try:
                if _is_lock(entry.path):
                    with lock(entry.path, timeout=0):
                        entry.path.unlink()
                else:
                    # Renamed first, for removing takes a while and nobody may see half an entry.
                    removing = entry.path.with_name(f".removing-{secrets.token_hex(8)}")
                    entry.path.rename(removing)
                    shutil.rmtree(removing, ignore_errors=True)
            except (NotImplementedError, OSError):  # another process was first, or it belongs to another user
                continue
            removed.append(entry)
        return removed

    def _make_room(self, limit: int) -> None:
        self.remove(self.leftovers())
        entries = [entry for entry in self.entries() if entry.kind not in FETCHED]
        late = time.time() - GRACE
        evictable = [entry for entry in entries if entry.used < late and entry.path.resolve() not in _used]
        self.remove(least_used(evictable, sum(entry.n_bytes for entry in entries) - limit))
        if sum(entry.n_bytes for entry in entries) - sum(entry.n_bytes for entry in evictable) > limit:
            warnings.warn(  # the same words each time, so that Python shows them once
                f"the cache {self.root} stays above its limit of {limit / 1e9:g} GB: the runs of now need more",
                stacklevel=3,
            )

    def _paths(self) -> Iterator[tuple[str, Path]]:
        """What lies in the folders of the kinds, with the kind."""
        for kind in _within(self.root):
            if kind.is_dir() and not kind.name.startswith("."):
                for path in _within(kind):
                    yield kind.name, path

    @staticmethod
    def _write(scratch: Path, key: dict[str, Any], build: Callable[[Path], Arrays]) -> None:
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


class Appended:
    """A ``.npy`` file to which rows are appended until ``close``; ``n_rows`` so far. Its header says zero rows before.

    ``shape`` is that of one row. The data begin at a multiple of 64 bytes, so that the file can be mapped.
    """

    def __init__(self, path: Path, dtype: np.dtype | type, shape: tuple[int, ...] = ()) -> None:
        self.dtype = np.dtype(dtype)
        if self.dtype.hasobject:
            raise ValueError(f"{path}: objects cannot be mapped; expected a dtype of fixed size, found {self.dtype}")
        self.shape = shape
        self.n_rows = 0
        self._file = path.open("wb", buffering=1 << 20)
        self._write_header()

    def append(self, rows: np.ndarray) -> None:
        """``rows``: [n, *shape]. Raises ValueError for another shape, TypeError for a dtype of another kind."""
        if rows.ndim == 0 or rows.shape[1:] != self.shape:
            raise ValueError(f"{self._file.name}: expected rows of shape {self.shape}, found an array {rows.shape}")
        rows = np.ascontiguousarray(rows.astype(self.dtype, casting="same_kind", copy=False))
        self._file.write(rows.reshape(-1).view(np.uint8).data)
        self.n_rows += len(rows)

    def close(self) -> None:
        """Write the number of rows into the header. Nothing can be appended afterwards."""
        if not self._file.closed:
            with self._file:
                self._file.seek(0)
                self._write_header()

    def __enter__(self) -> Appended:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _write_header(self) -> None:
        # numpy pads a header so that it takes as much room for any number of rows.
        header = {
            "descr": np.lib.format.dtype_to_descr(self.dtype),
            "fortran_order": False,
            "shape": (self.n_rows, *self.shape),
        }
        np.lib.format.write_array_header_1_0(self._file, header)


# --- names, locks and files ------------------------------------------------------------------------------------------


def _name_of(key: dict[str, Any]) -> str:
    return hashlib.blake2b(json.dumps(key, sort_keys=True).encode(), digest_size=16).hexdigest()


def _stem(entry: Path) -> str:
    """What its scratch folder and its lock are named after: short, for a file name may have 255 bytes."""
    return entry.name[:50]


def _is_lock(path: Path) -> bool:
    return path.name.startswith(".") and path.suffix == ".lock"


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


def _n_bytes(path: Path | str) -> int:
    """Of all files below a folder, or of a file; none for what is being removed."""
    try:
        with os.scandir(path) as found:
            return sum(
                _n_bytes(part.path) if part.is_dir(follow_symlinks=False) else part.stat(follow_symlinks=False).st_size
                for part in found
            )
    except NotADirectoryError:
        return Path(path).stat().st_size
    except OSError:
        return 0
