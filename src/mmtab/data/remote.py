"""Tables at an address, such as ``s3://bucket/rows.parquet`` or ``hf://datasets/owner/name/rows.csv``, as files."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from mmtab.data import raw
from mmtab.utils.addresses import address_of, shown
from mmtab.utils.errors import DataError, first_line
from mmtab.utils.processes import new_folder
from mmtab.utils.progress import under_way

HERE = ("file", "local")
WEB = ("http", "https")
LONGEST = 100  # characters of a file's name, which a disk may not hold otherwise


def fetched(source: Any, folder: Path | None = None) -> Any:
    """A table at an address as the path of a copy of it in ``folder`` (None: in one of its own, which is kept until the
    process ends); ``file://`` as the path that it names; anything else as it is. A folder there gives the tables that
    lie in it. Raises DataError for what cannot be read, and names no password in it."""
    address = address_of(source) if isinstance(source, str | Path) else None
    if address is None:
        return source
    scheme, _, place = address.partition("://")
    if scheme in HERE:
        path = Path("/" + place.removeprefix("localhost/").lstrip("/"))
        return path if path.exists() else Path(unquote(str(path)))
    with under_way(f"fetching {shown(address)}"):
        return _copy(address, new_folder() if folder is None else Path(tempfile.mkdtemp(dir=folder)))


def _copy(address: str, folder: Path) -> Path:
    import fsspec  # takes .2 s

    name, problem = _name(address, "table"), ""
    target = folder / name
    try:
        system, place = fsspec.core.url_to_fs(address)
        is_page = address.startswith(WEB) and raw.suffix_of(target)  # a server lists what links a page has
        if is_page or not system.isdir(place):
            system.get_file(place, str(target))
            return target
        target.mkdir()
        paths = {_name(str(path)): path for path in system.ls(place, detail=False)}
        tables = {base: path for base, path in paths.items() if raw.suffix_of(Path(base))}
        if "dataset.yaml" in paths:
            problem, fix = "is a dataset folder, which is read from a disk", "copy it to this machine, name the copy"
        elif not tables:
            problem, fix = f"holds no table; expected some of {', '.join(raw.FORMATS)}", "give the address of a table"
        for base, path in tables.items() if not problem else ():
            system.get_file(path, str(target / base))
    except ImportError as error:
        raise DataError(name, f"{shown(address)}: {first_line(error)}", fix="install that package") from error
    except Exception as error:  # each file system has its own
        why = _without_secrets(first_line(error), address)
        problem = f"{shown(address)} cannot be read ({type(error).__name__}: {why})"
        fix = "correct the address, or give a local file"
        raise DataError(name, problem, fix=fix) from None  # the error itself may name a password
    if problem:
        raise DataError(name, f"{shown(address)} {problem}", fix=fix)
    return target


def _name(address: str, otherwise: str = "") -> str:
    """The name of a file here, whatever the server calls it: without a query, and in no other folder."""
    path = address.partition("::")[0].rstrip("/").partition("://")[2] or address
    path = path.partition("?")[0]
    if address.startswith(WEB):
        path = unquote(path.partition("#")[0].rstrip("/"))
    name = path.rpartition("/")[2].replace("\0", "")[-LONGEST:]
    return otherwise if name in ("", ".", "..") else name


def _without_secrets(text: str, address: str) -> str:
    """What an error of others says, without what ``shown`` leaves out of the address."""
    password = re.search(r"://[^/@:]*:([^/]*)@", address)
    for secret in (password[1] if password else "", address.partition("?")[2]):
        if len(secret) > 3:  # shorter ones are parts of words
            text = text.replace(secret, "***").replace(unquote(secret), "***")
    return shown(text)
