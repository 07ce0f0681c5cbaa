"""Addresses, such as ``s3://bucket/rows.csv``, which stand where a path may."""

from __future__ import annotations

import re
from pathlib import Path

from mmtab.utils.errors import ConfigError

ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+]+):/+(.+)")  # a path has lost one of two slashes


def address_of(path: str | Path) -> str | None:
    """The address that a path stands for; None for one of this machine."""
    match = ADDRESS.fullmatch(str(path))
    return None if not match or _exists(path) else f"{match[1].lower()}://{match[2]}"


def check_here(path: str | Path, name: str) -> None:
    """Raises ConfigError for an address as the setting or argument ``name``, which takes a path of this machine."""
    if (address := address_of(path)) is not None:
        fix = "name one, and copy from or to the address"
        raise ConfigError(f"{name}={shown(address)}: expected a path of this machine, found an address. Fix: {fix}")


def shown(text: str) -> str:
    """Addresses within a text without their passwords and queries, which may grant access."""
    text = re.sub(r"(\w:/+[^/@:\s]*):[^/\s]*@", r"\1:***@", text)
    return re.sub(r"(\w:/+[^\s?'\"]*)\?[^\s'\")]+", r"\1?***", text)


def _exists(path: str | Path) -> bool:
    try:
        return Path(path).exists()
    except (OSError, ValueError):  # a name that no file can have
        return False
