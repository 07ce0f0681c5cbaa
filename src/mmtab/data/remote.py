"""Tables at an address, such as ``s3://bucket/rows.parquet`` or ``hf://datasets/owner/name/rows.csv``, as files."""

from __future__ import annotations

import functools
import re
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmtab.data import files
from mmtab.utils.errors import DataError, first_line

ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+]+):/+(.+)")  # a path has lost one of two slashes
_lock = threading.Lock()


def fetched(source: Any) -> Any:
    """A table at an address as the path of a copy of it, which is kept until the process ends; anything else as it is.
    A folder there gives the tables that lie in it. Raises DataError for what cannot be read."""
    address = address_of(source) if isinstance(source, str | Path) else None
    if address is None:
        return source
    with _lock:
        return _copy(address)


def address_of(path: str | Path) -> str | None:
    """The address that a path stands for; None for one of this machine."""
    match = ADDRESS.fullmatch(str(path))
    if not match or Path(path).exists():
        return None
    scheme, place = match[1].lower(), match[2]
    return f"{scheme}:///{place}" if scheme == "file" else f"{scheme}://{place}"


def all_fetched(sources: Mapping[str, Any]) -> dict[str, Any]:
    return {name: fetched(source) for name, source in sources.items()}


@functools.cache
def _scratch() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="mmtab-")


@functools.cache
def _copy(address: str) -> Path:
    import fsspec  # takes .2 s

    name = address.rstrip("/").rpartition("/")[2]
    target = Path(tempfile.mkdtemp(dir=_scratch().name)) / name
    try:
        system, place = fsspec.core.url_to_fs(address)
        if not system.isdir(place):
            system.get_file(place, str(target))
            return target
        target.mkdir()
        for path in system.ls(place, detail=False):
            base = str(path).rstrip("/").rpartition("/")[2]  # whatever the server calls it, it stays in the folder
            if Path(base).suffix in files.FORMATS:
                system.get_file(path, str(target / base))
    except ImportError as error:
        raise DataError(name, f"{address}: {first_line(error)}", fix="install that package") from error
    except Exception as error:  # each file system has its own
        problem = f"{address} cannot be read ({type(error).__name__}: {first_line(error)})"
        raise DataError(name, problem, fix="correct the address, or give a local file") from error
    return target
