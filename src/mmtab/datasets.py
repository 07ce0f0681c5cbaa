"""Where a dataset is: a folder under the data root, a folder of the user's, or one that mmtab generates."""

from __future__ import annotations

import hashlib
from pathlib import Path

from mmtab.config import DatasetConfig
from mmtab.errors import ConfigError, DataError
from mmtab.store import Store


def dataset_folder(dataset: DatasetConfig, data_root: str, cache: Path) -> Path:
    """The dataset's folder; a generated one is written to the cache first."""
    if dataset.generate is not None:
        return _generated(dataset, cache)
    if not dataset.path:
        raise ConfigError("dataset.path is not set: dataset=custom wants dataset.path=FOLDER")
    path = Path(dataset.path).expanduser()
    places = [(Path(data_root).expanduser() / path).resolve(), path.resolve()]
    for folder in places:
        if folder.is_dir():
            return folder
    where = " nor ".join(dict.fromkeys(map(str, places)))
    raise DataError(
        dataset.name, f"no folder {where}", fix="correct dataset.path, or set data_root=FOLDER (or MMTAB_DATA)"
    )


def _generated(dataset: DatasetConfig, cache: Path) -> Path:
    from mmtab import catalogue

    wanted = dataset.generate
    assert wanted is not None
    if wanted.task not in catalogue.TASKS:
        raise ConfigError(f"dataset.generate.task={wanted.task}: expected one of {', '.join(catalogue.TASKS)}")
    recipe = hashlib.blake2b(
        Path(catalogue.__file__).read_bytes(), digest_size=4
    ).hexdigest()  # a new generator, new data
    folder = cache / "catalogue" / f"{wanted.task}-{wanted.n_rows}-{wanted.seed}-{recipe}"
    if not folder.is_dir():
        try:
            Store.place(
                folder, lambda scratch: catalogue.write_catalogue(scratch, wanted.task, wanted.n_rows, wanted.seed)
            )
        except ValueError as error:
            raise ConfigError(f"dataset.generate: {error}") from error
    return folder
