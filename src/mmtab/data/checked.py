"""What ``mmtab prepare check`` found in a dataset folder, kept there for the runs that are trained on it."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterable
from pathlib import Path

from mmtab.data import files
from mmtab.data.schema import Schema
from mmtab.data.table import fingerprint, training_files
from mmtab.utils.atomic import write_json
from mmtab.utils.errors import RunError
from mmtab.utils.plain import Rule, line, listed, read_plain, record, text

ALARMS = "alarms.json"
OWN = re.compile(rb'\s*\{\s*"data_fingerprint"')  # begins the file; one of this name that begins otherwise is another's
ALARMS_RULE: Rule = listed(record({"severity": line, "message": text}))


def keep_alarms(folder: Path, alarms: Iterable[tuple[str, str]]) -> None:
    """``alarms``: severities and messages. Raises OSError where the folder may not be written, DataError where it is no
    dataset, FileExistsError where a file of somebody else has the name."""
    if os.path.lexists(folder / ALARMS) and not _is_own(folder / ALARMS):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(folder / ALARMS))
    of = fingerprint(training_files(folder, Schema.read(folder)))
    found = [{"severity": severity, "message": message} for severity, message in alarms]
    write_json(folder / ALARMS, {"data_fingerprint": of, "alarms": found})


def kept_alarms(folder: Path, data_fingerprint: str) -> list[dict[str, str]] | None:
    """Severities and messages; None where the folder was not checked, or its training data has changed since. Raises
    RunError for a damaged file, DataError for a link out of the folder."""
    if not (folder / ALARMS).is_file():
        return None
    files.check_links(folder, [folder / ALARMS], folder.name)
    if not _is_own(folder / ALARMS):
        return None
    try:
        kept = read_plain(folder / ALARMS, record({"data_fingerprint": line, "alarms": ALARMS_RULE}))
    except RunError as error:
        raise RunError(f"{error}. Fix: mmtab prepare check {folder}, or remove the file") from error
    return kept["alarms"] if kept["data_fingerprint"] == data_fingerprint else None


def _is_own(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return OWN.match(file.read(100)) is not None
