"""Damage of a disk: one file below a folder gets other bytes, or fewer."""

from __future__ import annotations

import os
import random
from pathlib import Path


def damage_at_random(folder: Path, seed: int, ignore: tuple[str, ...] = ()) -> str:
    """Flip a bit of one file, zero a block of it, or cut it; returns what was done. ``ignore``: endings of names."""
    rng = random.Random(seed)
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    path = rng.choice([path for path in files if path.stat().st_size and not path.name.endswith(ignore)])
    at, how = rng.randrange(path.stat().st_size), rng.choice(["flip", "zero", "cut"])
    if how == "cut":
        os.truncate(path, at)
    else:
        content = bytearray(path.read_bytes())
        if how == "flip":
            content[at] ^= 1 << rng.randrange(8)
        else:
            content[at : at + 512] = bytes(len(content[at : at + 512]))
        path.unlink()  # not through a hard link
        path.write_bytes(content)
    return f"seed {seed}: {how} {path.relative_to(folder)} at {at}"
