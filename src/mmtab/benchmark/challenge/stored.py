"""The predictions of accepted files, as arrays beside them: standings need them many times."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import numpy as np

from mmtab.benchmark.challenge import untrusted
from mmtab.benchmark.challenge.folder import FILES, Challenge
from mmtab.utils.atomic import WRITING


def read_array(challenge: Challenge, dataset: str, sha256: str, suffix: str) -> np.ndarray:
    """[n, r] int64 of an accepted file; from the array beside it or, should that be damaged, from the file."""
    truth = challenge.truth(dataset)
    with contextlib.suppress(OSError, ValueError, EOFError):
        prediction = np.load(_path(challenge, dataset, sha256), allow_pickle=False)
        if prediction.shape == truth.label.shape and prediction.dtype == np.int32:
            return prediction.astype(np.int64)
    prediction = untrusted.read(challenge.folder / FILES / f"{sha256}{suffix}", truth).prediction
    write_array(challenge, dataset, sha256, prediction)
    return prediction


def write_array(challenge: Challenge, dataset: str, sha256: str, prediction: np.ndarray) -> None:
    """By a rename, but without waiting for the disk: what a power failure damages is made again from the file."""
    path = _path(challenge, dataset, sha256)
    scratch = path.with_name(f"{WRITING}{os.getpid()}-{path.name}")
    with scratch.open("wb") as file:
        np.save(file, prediction.astype(np.int32), allow_pickle=False)
    scratch.replace(path)


def _path(challenge: Challenge, dataset: str, sha256: str) -> Path:
    return challenge.folder / FILES / f"{sha256}.{dataset}.npy"
