"""Whether a path stays inside a folder. Folders of strangers hold links: what lies inside one must not lead out of it,
neither for reading nor for writing. The folder itself may be a link."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from mmtab.utils.errors import ConfigError, RunError

FOLDERS = ("checkpoints", "report", "text_backbone", "cross_backbone")  # of a run
ENDS_WITH_NAME = bytes.fromhex("d9d505f920a163d7")  # a journal of SQLite that names a further one
SUFFIXES = {".ckpt", ".csv", ".data", ".html", ".json", ".onnx", ".parquet", ".png", ".pt2", ".safetensors", ".txt"}
SUFFIXES |= {".yaml"}


def within(root: str, path: str) -> bool:
    """Of real paths, without links and ``..``."""
    return path == root or path.startswith(f"{root.rstrip(os.sep)}{os.sep}")


def leads_out(root: Path, path: Path) -> bool:
    """Whether ``path``, after its links, lies outside ``root``."""
    return not within(os.path.realpath(root), os.path.realpath(path))


def check_writable(path: Path, name: str, is_file: bool) -> None:
    """Raise ConfigError where no file, or folder with files, of that path can be written, whatever is in the way."""
    path = path.expanduser()
    if is_file and path.is_dir():
        raise ConfigError(f"{name}={path} is a folder; expected a file. Fix: name one in it")
    places = [path, *path.absolute().parents][is_file:]
    place = next(place for place in places if place.exists())
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        problem = os.strerror(error.errno) if error.errno is not None else str(error)
        raise ConfigError(f"{name}={path}: {problem}. Fix: give another path") from error


def check_inside(root: Path, path: Path) -> None:
    """Raise RunError for what is to be read or written below a folder and lies outside ``root``, be it by a link."""
    if leads_out(root, path):
        raise RunError(f"{path} leads to {os.path.realpath(path)}, which is outside {root}. Fix: remove it")


def check_database(path: Path) -> None:
    """Raise RunError where to open this database of SQLite would change files of other folders: by a link, or by the
    journal of a transaction that was broken off, for SQLite removes the file that such a journal names in the end."""
    for suffix in ("", "-journal", "-wal", "-shm"):
        check_inside(path.parent, path.with_name(path.name + suffix))
    journal = path.with_name(f"{path.name}-journal")
    if journal.is_file():
        with journal.open("rb") as file:
            file.seek(max(0, journal.stat().st_size - len(ENDS_WITH_NAME)))
            if file.read() == ENDS_WITH_NAME:
                raise RunError(f"{journal} names another file, which SQLite would remove. Fix: remove {journal.name}")


def check_run_links(folder: Path) -> None:
    """Raise RunError for a file or folder that a run writes or reads and that is a link out of its folder. What else
    lies there, such as an environment or what a program of others wrote, is not looked at."""
    folders = [path for path in (folder / name for name in FOLDERS) if path.is_dir()]
    for path in (path for place in [folder, *folders] if place.is_dir() for path in place.iterdir()):
        if path.is_symlink() and (path.name in FOLDERS or path.suffix in SUFFIXES) and leads_out(folder, path):
            fix = "replace the link by a copy (cp -RL)"
            raise RunError(f"{path} is a link to {os.path.realpath(path)}, which is outside the run. Fix: {fix}")
