"""The database of a challenge: teams, and every attempt with its public and its private score."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from mmtab.benchmark.challenge.untrusted import one_line
from mmtab.utils.errors import RunError

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


def timestamp(now: datetime | None = None) -> str:
    """In UTC, as text that sorts by time."""
    if now is not None and now.tzinfo is None:
        raise ValueError("a time without a time zone")
    return (now or datetime.now(UTC)).astimezone(UTC).isoformat(timespec="seconds")
