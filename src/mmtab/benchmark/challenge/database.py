"""The database of a challenge: teams, and every attempt with its public and its private score."""

from __future__ import annotations

import contextlib
import json
import os
import re
import sqlite3
from collections.abc import Iterator
from dataclasses import astuple, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mmtab.benchmark.challenge.untrusted import one_line
from mmtab.data.files import FORMATS
from mmtab.utils.errors import RunError
from mmtab.utils.manifest import is_whole, sealed
from mmtab.utils.paths import check_database
from mmtab.utils.plain import Unfit, anything, choice, line, mapping, number, record, text

DATABASE = "submissions.sqlite"
VERSION = 1  # of the tables
WAIT = 60.0  # seconds for other processes that write to the database

TABLES = """
create table teams (key text primary key, name text not null);
create table attempts (
    id integer primary key,
    team text not null references teams,
    dataset text not null,
    time text not null,
    status text not null check (status in ('scored', 'rejected')),
    attempt integer,
    sha256 text,
    suffix text,
    public real,
    private real,
    metrics text,
    reason text,
    check (status = 'rejected' or (attempt > 0 and public is not null and private is not null and sha256 is not null))
);
create unique index one_number_each on attempts (team, dataset, attempt) where status = 'scored';
create unique index each_file_once on attempts (team, dataset, sha256) where status = 'scored';
"""


def create(folder: Path) -> None:
    """An empty database that only its owner can read."""
    os.close(os.open(folder / DATABASE, os.O_CREAT | os.O_EXCL, 0o600))
    with contextlib.closing(sqlite3.connect(folder / DATABASE)) as database:
        database.executescript(f"{TABLES} pragma user_version = {VERSION};")


@contextlib.contextmanager
def reading(folder: Path) -> Iterator[sqlite3.Connection]:
    """Raises RunError for a database that is missing, damaged, of another version, or busy for too long."""
    path = (folder / DATABASE).absolute()
    check_database(path)
    try:
        connection = sqlite3.connect(f"{path.as_uri()}?mode=rw", uri=True, timeout=WAIT, isolation_level=None)
        with contextlib.closing(connection) as database:
            version = database.execute("pragma user_version").fetchone()[0]
            if version != VERSION:
                raise RunError(f"{path} is of version {version}, this mmtab reads version {VERSION}")
            yield database
    except sqlite3.Error as error:
        raise RunError(one_line(f"{path}: {error}")) from error


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[sqlite3.Connection]:
    """A transaction that no other process writes beside; after any exception nothing has changed."""
    with reading(folder) as database:
        database.execute("begin immediate")
        try:
            yield database
        except BaseException:
            database.execute("rollback")
            raise
        database.execute("commit")


@dataclass(frozen=True)
class Scored:
    """An attempt that was scored; ``metrics``: of both parts, as json, with a digest of the row."""

    team: str
    dataset: str
    time: str
    attempt: int
    sha256: str
    suffix: str
    public: float
    private: float
    metrics: str

    def check(self) -> None:
        """Raise Unfit or another ValueError where it is not what ``insert`` wrote, as far as that can be known: the
        first versions wrote no digest."""
        ROW(vars(self), "")
        parts = json.loads(self.metrics)
        PARTS(parts, "metrics")
        if not is_whole(parts) or parts.get("row", self.row) != self.row:
            raise ValueError("other bytes than were written")
        if any(getattr(self, part) not in parts[part].values() for part in ("public", "private")):
            raise ValueError("a score that is none of its metrics")

    @property
    def row(self) -> list[Any]:
        return [*astuple(self)[:-1]]


def _sha256(value: Any, where: str) -> None:
    line(value, where)
    if not re.fullmatch("[0-9a-f]{64}", value):
        raise Unfit(where, "a sha256", value)


COLUMNS = ", ".join(field.name for field in fields(Scored))
ROW = record(
    {"team": line, "dataset": line, "time": line, "attempt": number(1, whole=True), "sha256": _sha256}
    | {"suffix": choice(*FORMATS), "public": number(), "private": number(), "metrics": text}
)
PARTS = record(dict.fromkeys(("public", "private"), mapping(anything)))


def insert(db: sqlite3.Connection, new: Scored) -> None:
    metrics = json.dumps(sealed(json.loads(new.metrics) | {"row": new.row}))
    places = ", ".join("?" * (len(new.row) + 1))
    db.execute(f"insert into attempts ({COLUMNS}, status) values ({places}, 'scored')", (*new.row, metrics))


def scored(folder: Path, db: sqlite3.Connection, team: str | None = None) -> list[Scored]:
    """By team, dataset and attempt; raises RunError for one that is not as it was written."""
    of = ("", ()) if team is None else ("and team = ?", (team,))
    rows = f"select {COLUMNS} from attempts where status = 'scored' {of[0]} order by team, dataset, attempt"
    found = [Scored(*values) for values in db.execute(rows, of[1])]
    for each in found:
        with checking(folder, f"attempt {each.attempt} of team {each.team} at {each.dataset}"):
            each.check()
    return found


def teams(folder: Path, db: sqlite3.Connection) -> dict[str, str]:
    """Their names by their keys."""
    found = dict(db.execute("select key, name from teams order by key"))
    with checking(folder, "teams"):
        mapping(line)(found, "")
    return found


@contextlib.contextmanager
def checking(folder: Path, where: str) -> Iterator[None]:
    """What does not fit is damage of the database."""
    try:
        yield
    except (ValueError, RecursionError) as error:
        raise RunError(
            one_line(f"{folder / DATABASE} is damaged ({where}: {error}). Fix: bring back a copy")
        ) from error


def timestamp(now: datetime | None = None) -> str:
    """In UTC, as text that sorts by time."""
    if now is not None and now.tzinfo is None:
        raise ValueError("a time without a time zone")
    return (now or datetime.now(UTC)).astimezone(UTC).isoformat(timespec="seconds")
