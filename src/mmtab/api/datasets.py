"""Datasets, by folder, by name or from tables in memory."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from mmtab.data import dataset as datasets
from mmtab.data.dataset import find_dataset
from mmtab.prepare.frames import from_frames


class Dataset(datasets.Dataset):
    """A dataset folder; ``from_frame`` and ``from_frames`` write one from tables in memory, see ``prepare.frames``."""

    @classmethod
    def from_frame(cls, frame: Any, **options: Any) -> Self:
        """A dataset of the rows of one table, divided into train, valid and test; options as ``from_frames``."""
        return cls.from_frames({"rows": frame}, **options)

    @classmethod
    def from_frames(cls, frames: Mapping[str, Any], **options: Any) -> Self:
        """A dataset of several tables; arguments and errors are those of ``prepare.frames.from_frames``."""
        return cls.read(from_frames(frames, **options).folder)


def load_dataset(name: str | Path, data_root: str | Path | None = None) -> Dataset:
    """A dataset by folder, by a name of configs/dataset/ (``catalogue`` is made on the spot), or by that of a folder
    under ``data_root`` (default: MMTAB_DATA, else ``data``). Raises DataError when there is none."""
    return Dataset.read(find_dataset(name, data_root))
