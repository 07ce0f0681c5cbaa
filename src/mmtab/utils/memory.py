"""A store that keeps nothing, for rows that are predicted once."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from mmtab.utils.cache import Arrays, Key, Store
from mmtab.utils.npy import MemoryFolder, Scratch


class MemoryStore(Store):
    """Arrays are built in memory, and are gone with whoever holds them; nothing is written to disk."""

    def __init__(self) -> None:
        super().__init__(Path(os.devnull))

    def arrays(self, kind: str, key: Key, build: Callable[[Scratch], Arrays]) -> Arrays:
        scratch = MemoryFolder()
        built = build(scratch)
        return scratch.arrays | built

    def has_room(self, n_bytes: int) -> bool:
        return True
