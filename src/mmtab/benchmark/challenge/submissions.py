"""Submitting: predictions files are checked, scored and stored, all files of a call or none of them."""

from __future__ import annotations

import contextlib
import functools
import json
import re
import shutil
import sqlite3
import tempfile
import time
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from mmtab.benchmark.challenge import database, untrusted
from mmtab.benchmark.challenge.folder import FILES, Challenge
from mmtab.benchmark.challenge.ladder import climb
from mmtab.benchmark.challenge.untrusted import one_line
from mmtab.benchmark.scoring import CheckedPredictions, metrics, ranked_by
from mmtab.benchmark.truth import Truth
from mmtab.data import files as tables
from mmtab.utils.atomic import WRITING, leftovers, replacing
from mmtab.utils.errors import ConfigError, DataError

DAY = 86_400.0  # seconds; after so long a scratch folder is what a killed process left
# Characters that take no room, so that two names with and without them look the same (Default_Ignorable_Code_Point)
UNSEEN = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0000-\U000e0fff]")
LEFT_TO_RIGHT = "\u200e"

REJECT = "insert into attempts (team, dataset, time, status, sha256, reason) values (?, ?, ?, 'rejected', ?, ?)"


@dataclass(frozen=True)
class Receipt:
    """What a team gets back. ``public``: its public score from now on, in steps (see ``ladder``). ``again``: the very
    file was scored before, and this time counted for nothing."""

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
class _Submission:
    """A file that was copied, checked and scored; ``metrics``: all metrics of both parts, as json."""

    dataset: str
    copy: Path
    sha256: str
    predictions: CheckedPredictions
    metric: str
    public: float
    private: float
    metrics: str


def submit(folder: Path, team: str, files: Mapping[str, Path], now: datetime | None = None) -> list[Receipt]:
    """Check, score and store predictions files, by dataset: all of them or none. Of several, those that were scored
    before are not counted again (``Receipt.again``).

    Raises ConfigError for a team name, and DataError for a file that cannot be scored (which is logged with its reason
    and does not count), one that was scored before, or one too many for the day (in UTC); the limit holds also when
    several processes submit at once. A process killed meanwhile has recorded all of it or nothing."""
    challenge = Challenge.read(folder)
    name, key = team_name(team)
    when = database.timestamp(now)
    if not files:
        raise ConfigError("no predictions file was submitted")
    truths = {dataset: challenge.truth(dataset) for dataset in files}
    _remove_leftovers(folder / FILES)
    with tempfile.TemporaryDirectory(prefix=WRITING, dir=folder / FILES) as scratch:
        submissions: list[_Submission] = []
        faults: list[tuple[str, str | None, DataError]] = []
        for dataset, source in files.items():
            sha256 = None
            try:
                copy, sha256 = untrusted.fetch(source, Path(scratch) / dataset, truths[dataset])
                submissions.append(_score(challenge, truths[dataset], copy, sha256))
            except DataError as error:
                faults.append((dataset, sha256, error))
        with database.writing(folder) as db:
            _check_no_imitation(folder, db, key, name)
            db.execute("insert or ignore into teams values (?, ?)", (key, name))
            name = database.teams(folder, db)[key]
            for dataset, sha256, fault in faults:
                db.execute(REJECT, (key, dataset, when, sha256, str(fault)))
            receipts = [] if faults else _record(db, challenge, key, name, when, submissions)
    if faults:
        first, more = faults[0][2], len(faults) - 1
        first.args = (f"{first}{f' (and {more} more of the {len(files)} files are wrong)' if more else ''}",)
        raise first
    return receipts


def check(folder: Path, dataset: str, source: Path) -> CheckedPredictions:
    """What ``submit`` checks; nothing is scored, counted or stored. Raises DataError."""
    truth = Challenge.read(folder).truth(dataset)
    with tempfile.TemporaryDirectory(prefix=WRITING) as scratch:
        predictions = untrusted.read(untrusted.fetch(source, Path(scratch) / "file", truth)[0], truth)
        # Raises where the metric cannot be computed; its value stays secret
        ranked_by(truth, metrics(truth, predictions))
        return predictions


def files_in(folder: Path, source: Path) -> dict[str, Path]:
    """The ``<dataset>.parquet`` and ``<dataset>.csv`` of a submitted folder; what is no table is left alone.
    Raises ConfigError for a table of another name, or two of one dataset."""
    datasets, paths = Challenge.read(folder).datasets, dict[str, Path]()
    expected = f"expected <dataset>.parquet or <dataset>.csv of {', '.join(datasets)}"
    for path in sorted(source.iterdir()):
        if path.suffix not in tables.FORMATS:
            continue
        if path.stem not in datasets:
            raise ConfigError(one_line(f"{path.name}: no dataset of this challenge has this name; {expected}"))
        if path.stem in paths:
            raise ConfigError(f"{path.stem} was submitted twice, as {paths[path.stem].name} and {path.name}")
        paths[path.stem] = path
    if not paths:
        raise ConfigError(f"{source} holds no predictions: {expected}")
    return paths


def team_name(text: str) -> tuple[str, str]:
    """A team's name as it is shown, and as it is compared: names that differ only in case, width, accents' encoding or
    in invisible characters are the same team. (Those that look alike are refused, see ``skeleton``.) Raises
    ConfigError."""
    name = unicodedata.normalize("NFC", text.strip())
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", UNSEEN.sub("", name)).casefold())
    key = " ".join(UNSEEN.sub("", folded).split())
    # A spreadsheet takes what begins with one of these for a formula
    if not 1 <= len(name) <= 40 or not name.isprintable() or not key or key[0] in "=+-@":
        expected = "expected 1 to 40 printable characters that do not begin with = + - @"
        raise ConfigError(one_line(f"{text[:80]!r} cannot name a team: {expected}"))
    return name, key


def _check_no_imitation(folder: Path, db: sqlite3.Connection, key: str, name: str) -> None:
    """Raise ConfigError for a new team whose name looks like another's, as it is or in small or capital letters."""
    teams = database.teams(folder, db)
    if key in teams:
        return
    mine = skeletons(name)
    for other in teams.values():
        if any(a == b for a, b in zip(mine, skeletons(other), strict=True)):
            raise ConfigError(one_line(f"{name!r} looks like {other!r}, which is another team. Fix: another name"))


def skeletons(name: str) -> tuple[str, str, str]:
    """What a name looks like (Unicode's UTS 39, section 4) as it is, in small and in capital letters: equal for names
    of which the characters can be confused, such as Latin and Cyrillic а."""
    return skeleton(name), skeleton(name.lower()), skeleton(name.upper())


def skeleton(text: str) -> str:
    text = UNSEEN.sub("", unicodedata.normalize("NFD", unicodedata.normalize("NFKC", text)))
    text = "".join(c for c in text if unicodedata.category(c) != "Cf")
    return unicodedata.normalize("NFD", " ".join("".join(_prototypes().get(c, c) for c in text).split()))


@functools.cache
def _prototypes() -> dict[str, str]:
    """By character, what stands for all that it can be confused with."""
    from confusable_homoglyphs.confusables import confusables_data as confusable

    prototypes = {}
    for source, others in confusable.items():  # a prototype lists its characters, and each of those the prototype alone
        source, prototype = source.strip(LEFT_TO_RIGHT), others[0]["c"]
        is_prototype = len(confusable.get(prototype, ())) > 1 or (-len(prototype), prototype) < (-len(source), source)
        if len(others) == len(source) == 1 and is_prototype:
            prototypes[source] = prototype
    return prototypes


def _remove_leftovers(store: Path) -> None:
    for path in leftovers(store):
        with contextlib.suppress(OSError):  # another process was first
            if path.stat().st_mtime < time.time() - DAY:
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def _score(challenge: Challenge, truth: Truth, copy: Path, sha256: str) -> _Submission:
    dataset, predictions = truth.dataset, untrusted.read(copy, truth)
    parts = {
        name: metrics(truth, predictions, challenge.rows(dataset, name == "public")) for name in ("public", "private")
    }
    public, private = (ranked_by(truth, values) for values in parts.values())
    return _Submission(dataset, copy, sha256, predictions, truth.schema.metric, public, private, json.dumps(parts))


def _record(
    db: sqlite3.Connection, challenge: Challenge, key: str, name: str, when: str, submissions: Sequence[_Submission]
) -> list[Receipt]:
    """Within a transaction, so that its counts stay true. Files are written before the rows that refer to them."""
    receipts: list[Receipt] = []
    for new in submissions:
        before = [each for each in database.scored(challenge.folder, db, key) if each.dataset == new.dataset]
        left = max(challenge.per_day - sum(each.time[:10] == when[:10] for each in before), 0)
        exact, step = [each.public for each in before], challenge.step(new.dataset)
        earlier = next((each for each in before if each.sha256 == new.sha256), None)
        if earlier:
            time_, attempt, public = earlier.time, earlier.attempt, climb(exact, step)[-1][0]
            receipts.append(
                Receipt(name, new.dataset, time_, attempt, left, new.metric, public, new.sha256, again=True)
            )
            if len(receipts) == len(submissions) and all(receipt.again for receipt in receipts):
                raise DataError(
                    new.dataset,
                    f"{name} submitted this very file before, and it is scored already",
                    found=f"attempt {attempt} of {time_}, public {new.metric} {public:g}",
                )
            continue
        if not left:
            problem = f"{name} has used its {challenge.per_day} submissions of {when[:10]} (UTC)"
            raise DataError(new.dataset, problem, fix="submit it on another day")
        attempt = max((each.attempt for each in before), default=0) + 1
        target = challenge.folder / FILES / f"{new.sha256}{new.copy.suffix}"
        if not target.exists():
            with replacing(target) as scratch:
                shutil.copyfile(new.copy, scratch)
        challenge.write_predictions(new.dataset, new.sha256, new.predictions.prediction)
        about: dict[str, Any] = {"team": key, "time": when, "attempt": attempt, "suffix": new.copy.suffix}
        about |= {name: getattr(new, name) for name in ("dataset", "sha256", "public", "private", "metrics")}
        database.insert(db, database.Scored(**about))
        public = climb([*exact, new.public], step)[-1][0]
        receipts.append(Receipt(name, new.dataset, when, attempt, left - 1, new.metric, public, new.sha256))
    return receipts
