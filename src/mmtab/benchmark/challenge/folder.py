"""The folder of a challenge: its settings, the secret labels, and how one is opened."""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from mmtab.benchmark.challenge import database, untrusted
from mmtab.benchmark.challenge.ladder import step_of
from mmtab.benchmark.challenge.untrusted import one_line
from mmtab.benchmark.handout import without_labels
from mmtab.benchmark.truth import Truth
from mmtab.data import files as tables
from mmtab.data.schema import Schema
from mmtab.data.splits import strata
from mmtab.data.table import find_table
from mmtab.runs.folder import reading
from mmtab.utils import manifest
from mmtab.utils.atomic import WRITING, write_text
from mmtab.utils.errors import ConfigError, DataError, RunError
from mmtab.utils.manifest import file_digest
from mmtab.utils.paths import check_inside
from mmtab.utils.plain import Unfit, line, listed, mapping, number, read_plain, record, texts

SETTINGS, SECRET, HANDOUT, FILES = "challenge.yaml", "secret", "handout", "files"
NAME = re.compile(r"[^\W_][\w.-]{0,63}")  # of a dataset or a track: also the name of a folder


def _named(value: Any, where: str) -> None:
    if not isinstance(value, str) or not NAME.fullmatch(value):
        raise Unfit(where, "a name of letters, digits, '.', '-', '_'", value)


def _tracks(value: Any, where: str) -> None:
    mapping(texts(least=1, once=True))(value, where)
    listed(_named)([*value, *(name for names in value.values() for name in names)], where)


RULE = record(
    {"title": line, "tracks": _tracks, "per_day": number(1, 1 << 31, whole=True)}
    | {"public_share": number(0, 1), "created": line}
)


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
            fix = f"mmtab challenge open {folder} --dataset NAME"
            raise RunError(f"no challenge in {folder}: it has no {SETTINGS}. Fix: {fix}")
        for name in (SETTINGS, SECRET, FILES):
            check_inside(folder, folder / name)
        raw = read_plain(path, RULE)
        challenge = Challenge(folder, **{field.name: raw[field.name] for field in fields(Challenge)[1:]})
        for dataset in challenge.datasets:
            if not (folder / SECRET / dataset / "truth.parquet").is_file():
                raise RunError(f"{path} names dataset {dataset}, but {folder / SECRET / dataset} holds no labels")
        return challenge

    @property
    def datasets(self) -> list[str]:
        return list(dict.fromkeys(dataset for datasets in self.tracks.values() for dataset in datasets))

    def truth(self, dataset: str) -> Truth:
        """Raises DataError for a dataset that is not of this challenge."""
        if dataset not in self.datasets:
            expected = f"one of {', '.join(self.datasets)}"
            raise DataError(one_line(dataset), "not a dataset of this challenge", expected=expected)
        return self._secret(dataset)[0]

    def rows(self, dataset: str, public: bool) -> np.ndarray:
        """Numbers of the public rows of test, or of the private ones."""
        return np.flatnonzero(self._secret(dataset)[1] == public)

    def step(self, dataset: str) -> float:
        """By how much a submission must be better for a team's public score to change."""
        return step_of(len(self.rows(dataset, public=True)))

    def read_predictions(self, dataset: str, sha256: str, suffix: str) -> np.ndarray:
        """[n, r] of an accepted file, in the order of the rows, of the type of ``Truth.label``; from the array beside
        it, for standings need them many times, or, should that be damaged, from the file."""
        truth = self.truth(dataset)
        with contextlib.suppress(OSError, ValueError, EOFError, MemoryError):
            with self._array(dataset, sha256).open("rb") as file:
                prediction, digest = np.load(file, allow_pickle=False), file.read()
            as_expected = prediction.shape == truth.label.shape and prediction.dtype == _stored(truth.label.dtype)
            if as_expected and digest in (b"", _digest(prediction)):  # the first versions wrote no digest
                return prediction.astype(truth.label.dtype)
        path = self.folder / FILES / f"{sha256}{suffix}"
        check_inside(self.folder, path)
        if not path.is_file() or file_digest(path) != sha256:
            raise RunError(f"{path} is damaged: it is not the file that was submitted. Fix: bring back a copy")
        prediction = untrusted.read(path, truth).prediction
        self.write_predictions(dataset, sha256, prediction)
        return prediction

    def write_predictions(self, dataset: str, sha256: str, prediction: np.ndarray) -> None:
        """By a rename, but without waiting for the disk: what a power failure damages is made again from the file."""
        path = self._array(dataset, sha256)
        scratch = path.with_name(f"{WRITING}{os.getpid()}-{path.name}")
        with scratch.open("wb") as file:
            np.save(file, stored := prediction.astype(_stored(prediction.dtype)), allow_pickle=False)
            file.write(_digest(stored))
        scratch.replace(path)

    def _array(self, dataset: str, sha256: str) -> Path:
        return self.folder / FILES / f"{sha256}.{dataset}.npy"

    def _secret(self, dataset: str) -> tuple[Truth, np.ndarray]:
        folder = self.folder.absolute() / SECRET / dataset
        for path in (folder, *folder.iterdir()):
            check_inside(self.folder, path)
        return _secret(folder, max(path.stat().st_mtime_ns for path in folder.iterdir()))


def _digest(array: np.ndarray) -> bytes:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).digest()


def _stored(kind: np.dtype[Any]) -> type[np.generic]:
    """As what predictions are kept: numbers as they are, places among the classes in half the room."""
    return np.float64 if kind.kind == "f" else np.int32


@functools.lru_cache(maxsize=256)
def _secret(folder: Path, changed: int) -> tuple[Truth, np.ndarray]:
    """Labels, and [n] bool which rows are public; read once for many files. ``changed``, the time of the last change,
    makes the cache forget a challenge that lay in the same place before."""
    with contextlib.suppress(FileNotFoundError):  # the first versions wrote no manifest
        if problem := manifest.damage(folder):
            own = f"where it was changed on purpose, remove {folder / manifest.MANIFEST}"
            raise RunError(f"{folder} is damaged ({problem}). Fix: bring back a copy, or {own}")
    truth = Truth.load(folder)
    with reading(folder / "public.npy"):
        public = np.load(folder / "public.npy", mmap_mode="r", allow_pickle=False)
        if public.dtype != bool or public.shape != (len(truth),) or public.all() or not public.any():
            raise ValueError(f"expected a truth for each of {len(truth)} rows, and of both kinds")
    if truth.dataset != folder.name:
        raise RunError(f"{folder / 'truth.yaml'}, schema.name: expected {folder.name}, found {truth.dataset}")
    return truth, np.array(public)


def open_challenge(
    folder: Path,
    datasets: Mapping[str, Path],
    tracks: Mapping[str, Sequence[str]],
    *,
    title: str,
    public_share: float = 0.5,
    per_day: int = 5,
    seed: int | None = None,
    copy: bool = True,
) -> Challenge:
    """Make the folder of a new challenge, complete or not at all. ``datasets``: their folders by name. ``seed``
    determines which rows are public and is a secret; by default it comes from the system's entropy and is not kept.
    ``copy`` false: the handout holds hard links, which a participant who writes to them changes in the dataset too.

    Raises ConfigError for a folder that exists and for settings that do not fit, DataError for a dataset whose test has
    no labels, has a column that dataset.yaml does not list (it may reveal the labels), or is too small to be divided.
    """
    _check_settings(folder, datasets, tracks, public_share, per_day)
    rng = np.random.default_rng(seed)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=WRITING, dir=folder.parent) as scratch:
        root = Path(scratch) / "challenge"
        for place in (SECRET, FILES):  # files: a team's submissions are no other team's concern
            (root / place).mkdir(mode=0o700, parents=True)
        for name, source in datasets.items():
            truth = Truth.read(source, "test")
            _check_columns(source, truth.schema)
            truth = replace(truth, schema=replace(truth.schema, name=name))  # as errors shall call it
            truth.write(root / SECRET / name)
            np.save(root / SECRET / name / "public.npy", divide(truth, public_share, rng), allow_pickle=False)
            manifest.write(root / SECRET / name)
            without_labels(source, root / HANDOUT / name, copy=copy)
        database.create(root)
        settings = {
            "title": title,
            "tracks": {name: list(members) for name, members in tracks.items()},
            "per_day": per_day,
            "public_share": public_share,
            "created": database.timestamp(),
        }
        write_text(root / SETTINGS, yaml.safe_dump(settings, sort_keys=False, allow_unicode=True))
        try:
            root.rename(folder)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise
            raise ConfigError(f"{folder} exists: another process opened a challenge there") from error
    return Challenge.read(folder)


def _check_settings(
    folder: Path, datasets: Mapping[str, Path], tracks: Mapping[str, Sequence[str]], public_share: float, per_day: int
) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder} exists: a challenge is opened once, in a new folder")
    if not 0 < public_share < 1 or per_day < 1:
        expected = "expected a share between 0 and 1, and at least one a day"
        raise ConfigError(f"public_share={public_share}, per_day={per_day}: {expected}")
    for name in [*datasets, *tracks]:
        if not NAME.fullmatch(name):
            expected = "expected letters, digits, '.', '-', '_'"
            raise ConfigError(one_line(f"{name!r} cannot name a dataset or track: {expected}"))
    if not datasets:
        raise ConfigError("a challenge needs a dataset")
    if odd := {dataset for members in tracks.values() for dataset in members} ^ set(datasets):
        raise ConfigError(f"dataset {min(odd)} stands in no track, or in a track but not among the datasets")


def divide(truth: Truth, share: float, rng: np.random.Generator) -> np.ndarray:
    """[n] bool, which rows are public: of the rows with each label, or in each tenth of the numbers, that share, give
    or take one. Raises DataError where the metric would not be defined on both parts."""
    label = truth.label
    kinds = strata(label[:, 0]) if truth.numbers else np.unique(label, axis=0, return_inverse=True)[1].reshape(-1)
    order = rng.permutation(len(label))
    order = order[np.argsort(kinds[order], kind="stable")]
    public = np.zeros(len(label), bool)
    public[order] = np.diff(np.floor(np.arange(len(label) + 1) * share + rng.random())) > 0
    for part, name in ((label[public], "public"), (label[~public], "private")):
        for r in range(label.shape[1]):
            if len(np.unique(part[:, r])) < 2:
                lacks = "have one number" if truth.numbers else "lack a class"
                kinds_of = "numbers" if truth.numbers else "classes"
                of_rows = truth.schema.of_rows
                raise DataError(
                    truth.dataset,
                    f"its test split is too small to be divided: the {name} part would {lacks}",
                    table=truth.split,
                    column=truth.schema.label if of_rows else truth.relations[r],
                    expected=f"two {kinds_of} or more" if of_rows else "pairs that match and pairs that do not",
                    found=f"{len(part)} of {len(label)} rows",
                    fix="use more test rows, or another public share",
                )
    return public


def _check_columns(source: Path, schema: Schema) -> None:
    listed = {schema.id, *(column.name for column in schema.columns)}
    if schema.of_rows:
        allowed = {"test": listed | {schema.label or ""}}
    else:
        allowed = {stem: listed for stem in ("left", "right", "records") if tables.exists(source, stem)}
        allowed["pairs_test"] = {"left_id", "right_id", *schema.relations}
    for stem, names in allowed.items():
        for column in tables.header(find_table(source, schema, stem), schema.name).names:
            if column not in names:
                raise DataError(
                    schema.name,
                    "a column that dataset.yaml does not list, which may reveal the labels to participants",
                    table=stem,
                    column=column,
                    fix="take it out of the table, or list it under columns",
                )
