"""A content-addressed cache on disk: what was computed once from the same inputs is mapped into memory, not computed again."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

Arrays = dict[str, np.ndarray]


class Store:
    """Entries are folders of ``.npy`` files named by a digest of everything they were computed from.

    An entry appears by one atomic rename, so a killed or concurrent run never shows half of one.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def arrays(self, kind: str, key: dict[str, Any], build: Callable[[Path], Arrays]) -> Arrays:
        """The entry for ``key`` (plain JSON values), built when absent.

        ``build`` gets a scratch folder on the same disk in which it may create ``<name>.npy`` memory maps itself.
        """
        entry = self.folder(kind, key, build)
        return {path.stem: np.load(path, mmap_mode="r", allow_pickle=False) for path in sorted(entry.glob("*.npy"))}

    def folder(self, kind: str, key: dict[str, Any], build: Callable[[Path], Arrays]) -> Path:
        """As ``arrays``, but where they lie."""
        entry = self._entry(kind, key)
        if not entry.is_dir():
            self.place(entry, lambda scratch: self._write(scratch, key, build))
        return entry

    def has(self, kind: str, key: dict[str, Any]) -> bool:
        """Whether the entry is there already."""
        return self._entry(kind, key).is_dir()

    def _entry(self, kind: str, key: dict[str, Any]) -> Path:
        digest = hashlib.blake2b(json.dumps(key, sort_keys=True).encode(), digest_size=16).hexdigest()
        return self.root / kind / digest

    @staticmethod
    def place(entry: Path, write: Callable[[Path], None]) -> None:
        """Let ``write`` fill a scratch folder, then rename it to ``entry``; whoever renames first wins."""
        entry.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=".building-", dir=entry.parent))
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

    @staticmethod
    def _write(scratch: Path, key: dict[str, Any], build: Callable[[Path], Arrays]) -> None:
        for name, values in build(scratch).items():
            if isinstance(values, np.memmap):
                values.flush()
            else:
                np.save(scratch / f"{name}.npy", values, allow_pickle=False)
        (scratch / "key.json").write_text(json.dumps(key, indent=1, sort_keys=True))


def digest_of(values: pa.Array | np.ndarray) -> str:
    """A digest of an array's content."""
    if isinstance(values, np.ndarray):
        return hashlib.blake2b(np.ascontiguousarray(values).tobytes(), digest_size=16).hexdigest()
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, pa.schema([("values", values.type)])) as writer:
        writer.write_batch(pa.record_batch([values], names=["values"]))
    return hashlib.blake2b(sink.getvalue(), digest_size=16).hexdigest()
