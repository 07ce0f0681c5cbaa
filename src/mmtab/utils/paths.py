"""Whether a path stays inside a folder. Folders of strangers hold links: what lies inside one must not lead out of it,
neither for reading nor for writing. The folder itself may be a link."""

from __future__ import annotations

import os
from pathlib import Path

from mmtab.utils.errors import RunError


def within(root: str, path: str) -> bool:
    """Of real paths, without links and ``..``."""
    return path == root or path.startswith(f"{root.rstrip(os.sep)}{os.sep}")


def leads_out(root: Path, path: Path) -> bool:
    """Whether ``path``, after its links, lies outside ``root``."""
    return not within(os.path.realpath(root), os.path.realpath(path))


def check_run_links(folder: Path) -> None:
    """Raise RunError for a file or folder of a run that is a link out of its folder."""
    for place, folders, names in os.walk(folder):
        for path in (Path(place, name) for name in [*folders, *names]):
            if path.is_symlink() and leads_out(folder, path):
                fix = "replace the link by a copy (cp -RL)"
                raise RunError(f"{path} is a link to {os.path.realpath(path)}, which is outside the run. Fix: {fix}")
