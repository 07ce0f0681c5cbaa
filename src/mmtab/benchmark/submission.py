"""A challenge that one person runs and many teams enter: predictions are handed in and scored against labels that the
participants do not have. The organiser's account runs all of this; participants get ``handout/`` and what is printed.

    challenge.yaml        title, tracks, per_day, public_share, created
    handout/<dataset>/    the dataset without the labels of test, to send to participants
    secret/<dataset>/     the labels, and which rows are public: a random part of each class, drawn once
    files/                what was accepted, by its sha256, and its predictions in the order of the rows
    submissions.sqlite    every attempt, with its public and its private score

While the challenge runs only scores on the public rows are shown. In the end the private score of the submission with the
best public score counts, so that nobody wins by trying often. What strangers hand in is data, never code, and never trusted:
it is copied first, as a regular file of bounded size, and the copy is hashed, checked (``answers.read_answers``) and scored.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import json
import os
import re
import shutil
import sqlite3
import stat
import tempfile
import time
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import yaml

from mmtab.benchmark.scoring import MAX_BYTES_A_ROW, Answers, Truth, metrics, ranked_by, read_answers, without_labels
from mmtab.benchmark.statistics import places
from mmtab.benchmark.types import Board, Entry, RankedDataset, Score
from mmtab.data import files as tables
from mmtab.data.schema import Schema, TaskKind
from mmtab.data.table import find_table
from mmtab.utils.atomic import WRITING, leftovers, replacing, write_text
from mmtab.utils.errors import ConfigError, DataError, RunError

VERSION = 1  # of the database's tables
SETTINGS, SECRET, HANDOUT, FILES, DATABASE = "challenge.yaml", "secret", "handout", "files", "submissions.sqlite"
NAME = re.compile(r"[^\W_][\w.-]{0,63}")  # of a dataset or a track: also the name of a folder
MEMORY = 4 << 30  # bytes that reading one file may take: a small file may unfold to very much
WAIT = 60.0  # seconds for other processes that write to the database
DAY = 86_400.0  # seconds; after so long a scratch folder is what a killed process left
# Characters that take no room, so that two names with and without them look the same (Default_Ignorable_Code_Point)
UNSEEN = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0000-\U000e0fff]")

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


@dataclass(frozen=True)
class Receipt:
    """What a team is told. ``again``: the very file was scored before, and this time counted for nothing."""

    team: str
    dataset: str
    time: str
    attempt: int
    left_today: int
    metric: str
    public: float
    sha256: str
    again: bool = False


@dataclass(frozen=True)
class Attempt:
    """A line of a team's history; ``status`` scored or rejected, the latter with a ``reason`` and no number."""

    dataset: str
    time: str
    status: str
    attempt: int | None
    public: float | None
    reason: str


@dataclass(frozen=True)
class Challenge:
    """A challenge folder. ``tracks``: names of datasets by the name of the track."""

    folder: Path
    title: str
    tracks: dict[str, list[str]]
    per_day: int
    public_share: float
    created: str

    @staticmethod
    def read(folder: Path) -> Challenge:
        """Raises RunError for what is no challenge folder."""
        path = folder / SETTINGS
        if not path.is_file():
            raise RunError(f"no challenge in {folder}: it has no {SETTINGS}. Fix: python scripts/submit.py open {folder} --dataset NAME")  # fmt: skip
        try:
            raw = yaml.safe_load(path.read_text(encoding="utf-8"))
            tracks = {str(name): [str(dataset) for dataset in datasets] for name, datasets in raw["tracks"].items()}
            found = Challenge(folder, str(raw["title"]), tracks, int(raw["per_day"]), float(raw["public_share"]), str(raw["created"]))  # fmt: skip
        except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError, AttributeError, ValueError) as error:
            raise RunError(_line(f"{path} cannot be read ({type(error).__name__}: {error})")) from error
        for dataset in found.datasets:
            if not (folder / SECRET / dataset / "truth.parquet").is_file():
                raise RunError(f"{path} names dataset {dataset}, but {folder / SECRET / dataset} holds no labels")
        return found

    @property
    def datasets(self) -> list[str]:
        return list(dict.fromkeys(dataset for some in self.tracks.values() for dataset in some))

    def truth(self, dataset: str) -> Truth:
        """Raises DataError for a dataset that is not of this challenge."""
        if dataset not in self.datasets:
            raise DataError(_line(dataset), "not a dataset of this challenge", expected=f"one of {', '.join(self.datasets)}")  # fmt: skip
        return self._secret(dataset)[0]

    def rows(self, dataset: str, public: bool) -> np.ndarray:
        """Numbers of the public rows of test, or of the private ones."""
        return np.flatnonzero(self._secret(dataset)[1] == public)

    def _secret(self, dataset: str) -> tuple[Truth, np.ndarray]:
        folder = self.folder.absolute() / SECRET / dataset
        return _secret(folder, (folder / "public.npy").stat().st_mtime_ns)


@functools.lru_cache(maxsize=256)
def _secret(folder: Path, changed: int) -> tuple[Truth, np.ndarray]:
    """Labels, and [n] bool which rows are public; read once for many files. ``changed`` is there to forget others that lay
    in the same place."""
    return Truth.kept(folder), np.load(folder / "public.npy", allow_pickle=False)


# --- opening ---------------------------------------------------------------------------------------------------------


def open_challenge(
    folder: Path,
    datasets: Mapping[str, Path],
    tracks: Mapping[str, Sequence[str]],
    *,
    title: str,
    public_share: float = 0.5,
    per_day: int = 5,
    seed: int | None = None,
    copy: bool = False,
) -> Challenge:
    """Make the folder of a new challenge, whole or not at all. ``datasets``: their folders by name. ``seed`` says which rows
    are public and is a secret; by default it comes from the system's entropy and is not kept. ``copy``: the handout
    holds copies instead of hard links.

    Raises ConfigError for a folder that exists and for settings that do not fit, DataError for a dataset whose test has no
    labels, has a column that dataset.yaml does not know (it may tell the answers), or is too small to be divided.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder} exists: a challenge is opened once, in a new folder")
    if not 0 < public_share < 1 or per_day < 1:
        raise ConfigError(f"public_share={public_share}, per_day={per_day}: expected a share between 0 and 1, and at least one a day")  # fmt: skip
    for name in [*datasets, *tracks]:
        if not NAME.fullmatch(name):
            raise ConfigError(_line(f"{name!r} cannot name a dataset or track: expected letters, digits, '.', '-', '_'"))  # fmt: skip
    if not datasets:
        raise ConfigError("a challenge needs a dataset")
    if odd := {dataset for some in tracks.values() for dataset in some} ^ set(datasets):
        raise ConfigError(f"dataset {min(odd)} stands in no track, or in a track but not among the datasets")
    rng = np.random.default_rng(seed)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=WRITING, dir=folder.parent) as scratch:
        root = Path(scratch) / "challenge"
        for place in (SECRET, FILES):  # files: what one team hands in is no other team's concern
            (root / place).mkdir(mode=0o700, parents=True)
        for name, source in datasets.items():
            truth = Truth.read(source, "test")
            _check_columns(source, truth.schema)
            truth = replace(truth, schema=replace(truth.schema, name=name))  # as errors shall call it
            public = divide(truth, public_share, rng)
            truth.write(root / SECRET / name)
            np.save(root / SECRET / name / "public.npy", public, allow_pickle=False)
            without_labels(source, root / HANDOUT / name, copy=copy)
        os.close(os.open(root / DATABASE, os.O_CREAT | os.O_EXCL, 0o600))
        with contextlib.closing(sqlite3.connect(root / DATABASE)) as database:
            database.executescript(f"{TABLES} pragma user_version = {VERSION};")
        about = {
            "title": title, "tracks": {name: list(some) for name, some in tracks.items()}, "per_day": per_day,
            "public_share": public_share, "created": _now(None),
        }  # fmt: skip
        write_text(root / SETTINGS, yaml.safe_dump(about, sort_keys=False, allow_unicode=True))
        try:
            root.rename(folder)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise
            raise ConfigError(f"{folder} exists: another process opened a challenge there") from error
    return Challenge.read(folder)


def divide(truth: Truth, share: float, rng: np.random.Generator) -> np.ndarray:
    """[n] bool, which rows are public: of the rows with each label that share, give or take one. Raises DataError where
    the metric would not be defined on both parts."""
    label = truth.label
    kinds = np.unique(label, axis=0, return_inverse=True)[1].reshape(-1)
    order = rng.permutation(len(label))
    order = order[np.argsort(kinds[order], kind="stable")]
    public = np.zeros(len(label), bool)
    public[order] = np.diff(np.floor(np.arange(len(label) + 1) * share + rng.random())) > 0
    for part, name in ((label[public], "public"), (label[~public], "private")):
        for r in range(label.shape[1]):
            if len(np.unique(part[:, r])) < 2:
                kway = truth.schema.task is TaskKind.KWAY
                raise DataError(
                    truth.dataset, f"its test split is too small to be divided: the {name} part would lack a class",
                    table=truth.split, column=truth.schema.label if kway else truth.relations[r],
                    expected="two classes or more" if kway else "pairs that match and pairs that do not",
                    found=f"{len(part)} of {len(label)} rows", fix="use more test rows, or another public share",
                )  # fmt: skip
    return public


def _check_columns(source: Path, schema: Schema) -> None:
    kway = schema.task is TaskKind.KWAY
    known = {schema.id, *(column.name for column in schema.columns)}
    allowed = {stem: known for stem in ("left", "right", "records") if not kway and tables.exists(source, stem)}
    stem = "test" if kway else "pairs_test"
    allowed[stem] = known | {schema.label or ""} if kway else {"left_id", "right_id", *schema.relations}
    for stem, names in allowed.items():
        if odd := [n for n in tables.header(find_table(source, schema, stem), schema.name).names if n not in names]:
            raise DataError(
                schema.name, "a column that dataset.yaml does not know, which may tell participants the answers", table=stem,
                column=odd[0], fix="take it out of the table, or list it under columns",
            )  # fmt: skip


# --- handing in ------------------------------------------------------------------------------------------------------


def submit(folder: Path, team: str, files: Mapping[str, Path], now: datetime | None = None) -> list[Receipt]:
    """Check, score and keep predictions files, by dataset: all of them or none. Of several, those that were scored before
    are not counted again (``Receipt.again``).

    Raises ConfigError for a team name, and DataError for a file that cannot be scored (which is logged with its reason and
    does not count), one that was scored before, or one too many for the day (in UTC); the limit holds also when several
    processes hand in at once. A process killed meanwhile has recorded all of it or nothing.
    """
    challenge = Challenge.read(folder)
    name, key = team_name(team)
    when = _now(now)
    if not files:
        raise ConfigError("nothing was handed in")
    truths = {dataset: challenge.truth(dataset) for dataset in files}
    store = folder / FILES
    for left in leftovers(store):
        with contextlib.suppress(OSError):  # another process was first
            if left.stat().st_mtime < time.time() - DAY:
                shutil.rmtree(left) if left.is_dir() else left.unlink()
    with tempfile.TemporaryDirectory(prefix=WRITING, dir=store) as scratch:
        handed: list[_Handed] = []
        faults: list[tuple[str, str | None, DataError]] = []
        for dataset, source in files.items():
            sha256 = None
            try:
                copy, sha256 = _fetch(source, Path(scratch) / dataset, truths[dataset])
                handed.append(_scored(challenge, dataset, truths[dataset], copy, sha256))
            except DataError as error:
                faults.append((dataset, sha256, error))
        with _writing(folder) as database:
            database.execute("insert or ignore into teams values (?, ?)", (key, name))
            name = database.execute("select name from teams where key = ?", (key,)).fetchone()[0]
            for dataset, sha256, fault in faults:
                database.execute(
                    "insert into attempts (team, dataset, time, status, sha256, reason) values (?, ?, ?, 'rejected', ?, ?)",
                    (key, dataset, when, sha256, str(fault)),
                )
            receipts = [] if faults else _record(database, challenge, key, name, when, handed)
    if faults:
        first, more = faults[0][2], len(faults) - 1
        first.args = (f"{first}{f' (and {more} more of the {len(files)} files are wrong)' if more else ''}",)
        raise first
    return receipts


def check(folder: Path, dataset: str, source: Path) -> Answers:
    """What ``submit`` checks; nothing is scored, counted or kept. Raises DataError."""
    truth = Challenge.read(folder).truth(dataset)
    with tempfile.TemporaryDirectory(prefix=WRITING) as scratch:
        answers = _read(_fetch(source, Path(scratch) / "file", truth)[0], truth)
        ranked_by(truth, metrics(truth, answers))  # whether it can be; what it gives is nobody's business
        return answers


def files_in(folder: Path, source: Path) -> dict[str, Path]:
    """The ``<dataset>.parquet`` and ``<dataset>.csv`` of a folder that was handed in; what is no table is left alone.
    Raises ConfigError for a table of another name, or two of one dataset."""
    datasets, found = Challenge.read(folder).datasets, dict[str, Path]()
    for path in sorted(source.iterdir()):
        if path.suffix not in tables.FORMATS:
            continue
        if path.stem not in datasets:
            raise ConfigError(_line(f"{path.name}: no dataset of this challenge has this name; expected <dataset>.parquet or <dataset>.csv of {', '.join(datasets)}"))  # fmt: skip
        if path.stem in found:
            raise ConfigError(f"{path.stem} was handed in twice, as {found[path.stem].name} and {path.name}")
        found[path.stem] = path
    if not found:
        raise ConfigError(f"{source} holds no predictions: expected <dataset>.parquet or <dataset>.csv of {', '.join(datasets)}")  # fmt: skip
    return found


def team_name(text: str) -> tuple[str, str]:
    """A team's name as it is shown, and as it is compared: whatever differs only in case, width, accents' encoding or in
    characters that are not seen is the same team. Letters of other scripts that look alike are not. Raises ConfigError."""
    name = unicodedata.normalize("NFC", text.strip())
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", UNSEEN.sub("", name)).casefold())
    key = " ".join(UNSEEN.sub("", folded).split())
    # A spreadsheet takes what begins with one of these for a formula
    if not 1 <= len(name) <= 40 or not name.isprintable() or not key or key[0] in "=+-@":
        raise ConfigError(_line(f"{text[:80]!r} cannot name a team: expected 1 to 40 printable characters that do not begin with = + - @"))  # fmt: skip
    return name, key


@dataclass(frozen=True)
class _Handed:
    dataset: str
    copy: Path
    sha256: str
    answers: Answers
    metric: str
    public: float
    private: float
    metrics: str


def _scored(challenge: Challenge, dataset: str, truth: Truth, copy: Path, sha256: str) -> _Handed:
    answers = _read(copy, truth)
    found = {name: metrics(truth, answers, challenge.rows(dataset, name == "public")) for name in ("public", "private")}
    public, private = (ranked_by(truth, values) for values in found.values())
    return _Handed(dataset, copy, sha256, answers, truth.schema.metric, public, private, json.dumps(found))


def _record(
    database: sqlite3.Connection, challenge: Challenge, key: str, name: str, when: str, handed: Sequence[_Handed]
) -> list[Receipt]:
    """Within a transaction, so that what is counted here stays true. Files come before the lines that speak of them."""
    receipts, n_again = [], 0
    for each in handed:
        mine = (key, each.dataset)
        today = "select count(*) from attempts where team = ? and dataset = ? and status = 'scored' and substr(time, 1, 10) = ?"
        used = database.execute(today, (*mine, when[:10])).fetchone()[0]
        before = database.execute(
            "select attempt, time, public from attempts where team = ? and dataset = ? and sha256 = ? and status = 'scored'",
            (*mine, each.sha256),
        ).fetchone()
        if before:
            n_again += 1
            if n_again == len(handed):
                raise DataError(each.dataset, f"{name} handed in this very file before, and it is scored already", found=f"attempt {before[0]} of {before[1]}, public {each.metric} {before[2]:.6f}")  # fmt: skip
            left = max(challenge.per_day - used, 0)
            receipts.append(Receipt(name, each.dataset, before[1], before[0], left, each.metric, before[2], each.sha256, again=True))  # fmt: skip
            continue
        if used >= challenge.per_day:
            raise DataError(each.dataset, f"{name} has used its {challenge.per_day} submissions of {when[:10]} (UTC)", fix="hand it in on another day")  # fmt: skip
        last = "select coalesce(max(attempt), 0) from attempts where team = ? and dataset = ? and status = 'scored'"
        attempt = database.execute(last, mine).fetchone()[0] + 1
        target = challenge.folder / FILES / f"{each.sha256}{each.copy.suffix}"
        if not target.exists():
            with replacing(target) as scratch:
                shutil.copyfile(each.copy, scratch)
        _keep(challenge, each.dataset, each.sha256, each.answers.prediction)
        database.execute(
            "insert into attempts (team, dataset, time, status, attempt, sha256, suffix, public, private, metrics) "
            "values (?, ?, ?, 'scored', ?, ?, ?, ?, ?, ?)",
            (*mine, when, attempt, each.sha256, each.copy.suffix, each.public, each.private, each.metrics),
        )
        left = challenge.per_day - used - 1
        receipts.append(Receipt(name, each.dataset, when, attempt, left, each.metric, each.public, each.sha256))
    return receipts


# --- standings -------------------------------------------------------------------------------------------------------


def standings(folder: Path, final: bool = False) -> Board:
    """Of each team and dataset the submission with the best public score (of equal ones the first): its public score or,
    ``final``, its private one. Labels and predictions are of the rows that were scored, so that the board of a running
    challenge knows nothing of the others."""
    challenge = Challenge.read(folder)
    rows = {dataset: challenge.rows(dataset, public=not final) for dataset in challenge.datasets}
    datasets, part = {}, "private" if final else "public"
    for dataset in challenge.datasets:
        truth = challenge.truth(dataset)
        facts = {"scored on": f"{len(rows[dataset]):,} {part} rows of {len(truth):,} of the test split"}
        datasets[dataset] = RankedDataset(
            dataset, truth.schema.title or dataset, str(truth.schema.task), truth.schema.metric,
            label=truth.label[rows[dataset]], facts=facts,
        )  # fmt: skip
    scores: dict[str, list[Score]] = {}
    with _reading(folder) as database:
        teams = dict(database.execute("select key, name from teams order by key").fetchall())
        counting = database.execute(
            "select team, dataset, public, private, sha256, suffix from (select *, row_number() over (partition by team, dataset "
            "order by public desc, attempt) as place from attempts where status = 'scored') where place = 1"
        ).fetchall()
        told = "select team, count(*), max(time) from attempts where status = 'scored' group by team"
        about = {key: f"{n} attempt{'s' * (n > 1)}, the last {_shown(last)}" for key, n, last in database.execute(told)}
    for key, dataset, public, private, sha256, suffix in counting:
        if dataset in datasets:  # challenge.yaml may have been edited
            said = _prediction(challenge, dataset, sha256, suffix)[rows[dataset]]
            scores.setdefault(key, []).append(Score(dataset, 0, private if final else public, prediction=said))
    facts = {
        "scored on": "the private rows of each test split" if final else "the public rows of each test split",
        "what counts": f"of each team and dataset the submission with the best public score{', here its private score' if final else ''}",
        "submissions": f"at most {challenge.per_day} a day, team and dataset",
        "as of": _shown(_now(None)),
    }
    entries = [Entry(teams[key], teams[key], "team", about[key], some) for key, some in sorted(scores.items())]
    return Board(f"{challenge.title}{': final standings' if final else ''}", challenge.tracks, datasets, entries, facts=facts)  # fmt: skip


def ranked(board: Board, track: str) -> list[tuple[int | None, Entry, float | None]]:
    """Place, entry and mean over the track's datasets, the best first, equal ones with the same place; entries that lack a
    dataset come last, without either, and those without any not at all."""
    datasets = board.tracks[track]
    means: list[tuple[Entry, float | None]] = []
    for entry in board.entries:
        values = [score.value for dataset in datasets for score in entry.of(dataset)]
        if values:
            means.append((entry, float(np.mean(values)) if len(values) == len(datasets) else None))
    place = iter(places(np.array([mean for _, mean in means if mean is not None])).tolist())
    lines = [(None if mean is None else next(place), entry, mean) for entry, mean in means]
    return sorted(lines, key=lambda line: (line[0] is None, line[0] or 0, line[1].name))


def history(folder: Path, team: str) -> list[Attempt]:
    """All of a team's attempts, the first one first; raises ConfigError for a team that never handed anything in."""
    Challenge.read(folder)
    key = team_name(team)[1]
    with _reading(folder) as database:
        found = database.execute(
            "select dataset, time, status, attempt, public, coalesce(reason, '') from attempts where team = ? order by id",
            (key,),
        ).fetchall()
    if not found:
        raise ConfigError(f"{team.strip()} has handed in nothing")
    return [Attempt(*line) for line in found]


# --- files of strangers ----------------------------------------------------------------------------------------------


def _fetch(source: Path, target: Path, truth: Truth) -> tuple[Path, str]:
    """Copy a file that was handed in to the new folder ``target``; the copy, and its sha256. Raises DataError for links,
    for what is no regular file, and for what is too large."""
    name, limit = _line(source.name), MAX_BYTES_A_ROW * (len(truth) + 1)
    if source.suffix not in tables.FORMATS:
        raise DataError(truth.dataset, "not a predictions file", table=name, expected="a .parquet or .csv file")
    try:  # a pipe would keep whoever opens it waiting
        handle = os.open(source, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    except OSError as error:
        problem = "it is a link" if error.errno == errno.ELOOP else os.strerror(error.errno or 0)
        raise DataError(truth.dataset, f"the file cannot be opened ({problem})", table=name, expected="a regular file") from error  # fmt: skip
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise DataError(truth.dataset, "not a regular file", table=name, expected="a .parquet or .csv file")
    digest, size = hashlib.sha256(), 0
    target.mkdir()
    copy = target / (source.name if name == source.name else f"{truth.dataset}{source.suffix}")
    with os.fdopen(handle, "rb") as file, copy.open("wb") as kept:
        while block := file.read(1 << 20):
            size += len(block)
            if size > limit:
                raise DataError(truth.dataset, "the file is too large to be predictions", table=name, expected=f"at most {limit} bytes for {len(truth)} rows")  # fmt: skip
            digest.update(block)
            kept.write(block)
    return copy, digest.hexdigest()


def _read(copy: Path, truth: Truth) -> Answers:
    """``read_answers``; whatever a file does to it is a DataError of one line."""
    try:
        with _bounded_memory():
            return read_answers(copy, truth)
    except MemoryError as error:
        raise DataError(truth.dataset, "the file unfolds to more than predictions need", table=copy.name) from error
    except DataError:
        raise
    except Exception as error:  # libraries fail in more ways than anybody foresees
        raise DataError(truth.dataset, _line(f"the file cannot be read ({type(error).__name__}: {error})"), table=copy.name) from error  # fmt: skip


@contextlib.contextmanager
def _bounded_memory() -> Iterator[None]:
    """What is more than MEMORY bytes beyond what the process has now raises MemoryError; on Linux, elsewhere nothing."""
    try:
        import resource

        held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    except (ImportError, OSError):
        held = None
    if held is not None:
        before = resource.getrlimit(resource.RLIMIT_AS)
        limits = [held + MEMORY, *(limit for limit in before if limit != resource.RLIM_INFINITY)]
        resource.setrlimit(resource.RLIMIT_AS, (min(limits), before[1]))
    try:
        yield
    finally:
        if held is not None:
            resource.setrlimit(resource.RLIMIT_AS, before)


def _prediction(challenge: Challenge, dataset: str, sha256: str, suffix: str) -> np.ndarray:
    """[n, r] int64 of a kept file; from the array beside it or, should that be damaged, from the file."""
    truth = challenge.truth(dataset)
    with contextlib.suppress(OSError, ValueError, EOFError):
        found = np.load(_kept(challenge, dataset, sha256), allow_pickle=False)
        if found.shape == truth.label.shape and found.dtype == np.int32:
            return found.astype(np.int64)
    said = _read(challenge.folder / FILES / f"{sha256}{suffix}", truth).prediction
    _keep(challenge, dataset, sha256, said)
    return said


def _keep(challenge: Challenge, dataset: str, sha256: str, prediction: np.ndarray) -> None:
    """By a rename, but without waiting for the disk: what a power failure may damage is made again from the file."""
    path = _kept(challenge, dataset, sha256)
    scratch = path.with_name(f"{WRITING}{os.getpid()}-{path.name}")
    with scratch.open("wb") as file:
        np.save(file, prediction.astype(np.int32), allow_pickle=False)
    scratch.replace(path)


def _kept(challenge: Challenge, dataset: str, sha256: str) -> Path:
    return challenge.folder / FILES / f"{sha256}.{dataset}.npy"


# --- the database ----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _reading(folder: Path) -> Iterator[sqlite3.Connection]:
    """Raises RunError for a database that is missing, damaged, of another version, or busy for too long."""
    path = (folder / DATABASE).absolute()
    try:
        with contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=rw", uri=True, timeout=WAIT, isolation_level=None)) as database:  # fmt: skip
            version = database.execute("pragma user_version").fetchone()[0]
            if version != VERSION:
                raise RunError(f"{path} is of version {version}, this mmtab reads version {VERSION}")
            yield database
    except sqlite3.Error as error:
        raise RunError(_line(f"{path}: {error}")) from error


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[sqlite3.Connection]:
    """A transaction that no other process writes beside; after any exception nothing has changed."""
    with _reading(folder) as database:
        database.execute("begin immediate")
        try:
            yield database
        except BaseException:
            database.execute("rollback")
            raise
        database.execute("commit")


def _now(now: datetime | None) -> str:
    """In UTC, as text that sorts by time."""
    if now is not None and now.tzinfo is None:
        raise ValueError("a time without a time zone")
    return (now or datetime.now(UTC)).astimezone(UTC).isoformat(timespec="seconds")


def _shown(when: str) -> str:
    return f"{when[:10]} {when[11:16]} UTC"


def _line(text: str) -> str:
    """Safe to print: strangers' words without line breaks, or whatever a terminal would obey."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)[:600]
