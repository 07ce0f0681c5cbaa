"""Datasets of MulTaBench (Arazi et al., arXiv 2605.10616): one table, of which a fold says what is train and test.

    data.parquet            all rows, with their types
    metadata.json           target, image_col (or null), task_type: reg or cls
    images/, images-*.zip   pictures, which cells name as images/...

A fold is one of three parts of a repeat, as TabArena divides: fold k of 0 to 5 has part k % 3 of repeat k // 3 for
test, of at most MAX_TEST rows, and of the others at most MAX_TRAIN, here for train and valid. Results are published by
RMSE, log-loss or, of two classes, the area under the ROC curve; ``mmtab benchmark`` writes them to results.parquet.
"""

from __future__ import annotations

import json
import re
import tempfile
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet

from mmtab.data import splits
from mmtab.data.schema import Schema, TaskKind
from mmtab.prepare.importers.archives import unpack
from mmtab.prepare.importers.download import DownloadError
from mmtab.prepare.propose import propose
from mmtab.utils.errors import ConfigError, DataError, first_line, one_line

PREFIX = "multabench:"
HUB = "https://huggingface.co/datasets/multabench"
TABLE, METADATA, PICTURES, SHARDS = "data.parquet", "metadata.json", "images", "images-*.zip"
N_PARTS, N_REPEATS, SEED = 3, 2, 42  # of the published folds
MAX_TRAIN, MAX_TEST = 10_000, 5_000
VALID_SHARE = 0.15  # of train, for which the source leaves it to each model
ROW = "multabench_row"  # the id: the place in data.parquet
PUBLISHED = {"reg": "rmse", "binary": "roc_auc", "cls": "log_loss"}


def import_multabench(name: str, output: Path, source: Path | None = None, seed: int = 0) -> tuple[Path, list[str]]:
    """Write dataset and fold ``name``, such as ``core-img-reg-mango-mass/0`` (without a fold: 0), to the new folder
    ``output``; returns it and notes on its columns, whose types are inferred.

    ``source``: a folder with the files, or one that has such a folder for each dataset; without, they are fetched from
    the Hugging Face hub. ``seed``: of valid. Raises ConfigError for a name, a fold or a folder that does not exist,
    DataError for files that are not of this form.
    """
    dataset, _, fold = name.removeprefix(PREFIX).partition("/")
    folds = list(map(str, range(N_PARTS * N_REPEATS)))
    if not re.fullmatch(r"[\w-]+", dataset) or (fold or "0") not in folds:
        raise ConfigError(f"{name}: expected {PREFIX}NAME or {PREFIX}NAME/FOLD, with a fold of {', '.join(folds)}")
    folder = _fetch(dataset) if source is None else _folder(dataset, source)
    about, table = _read(dataset, folder)
    target, pictures = about["target"], about.get("image_col")
    kind = TaskKind.REGRESSION if about["task_type"] == "reg" else TaskKind.KWAY
    label = np.unique(table[target].to_numpy(), return_inverse=True)[1] if kind is TaskKind.KWAY else table[target]
    label = np.asarray(label)
    train, test = divide(label, int(fold or 0), of_classes=kind is TaskKind.KWAY)
    kinds = label[train] if kind is TaskKind.KWAY else splits.strata(label[train])
    shares = {"train": 1 - VALID_SHARE, "valid": VALID_SHARE}
    is_valid = splits.assign(len(train), shares, seed, labels=kinds) == 1
    rows = {"train": train[~is_valid], "valid": train[is_valid], "test": test}
    if empty := [split for split, places in rows.items() if not len(places)]:
        raise DataError(dataset, f"no row would be in {empty[0]}", found=f"{len(table)} rows")
    table = table.append_column(ROW, pa.array(np.arange(len(table)).astype(str)))
    binary = kind is TaskKind.KWAY and label.max() == 1
    metric = PUBLISHED["binary" if binary else about["task_type"]]
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".importing-", dir=output.parent) as scratch:
        made, notes, root = Path(scratch) / "dataset", list[str](), None
        if pictures:
            root = _pictures(dataset, folder, Path(scratch))
            table, n_absent = _present(dataset, table, pictures, root)
            notes += [f"{n_absent} pictures are named but not there; their cells were left empty"] * (n_absent > 0)
        proposal = propose(
            {split: table.take(pa.array(places)) for split, places in rows.items()},
            made,
            name=re.sub(r"\W", "_", dataset.lower()),
            task=str(kind),
            id=ROW,
            label=target,
            types={pictures: "image"} if pictures else None,
            image_root=root,
        )
        how = {"method": "as published", "fold": int(fold or 0), "valid": VALID_SHARE, "seed": seed}
        replace(
            Schema.read(made),
            title=f"MulTaBench: {dataset}, fold {fold or 0}",
            licence="that of its source; see the dataset's card on the hub",
            source=f"MulTaBench (Arazi et al., arXiv 2605.10616); {HUB}/{dataset}; ranked by {metric}",
            split=how,
        ).write(made)
        made.rename(output)
    return output, [*notes, *proposal.notes]


def divide(label: np.ndarray, fold: int, of_classes: bool) -> tuple[np.ndarray, np.ndarray]:
    """Places of train and test among the rows with labels [n], ascending, as the published fold has them."""
    from sklearn.model_selection import RepeatedKFold, RepeatedStratifiedKFold, train_test_split

    stratified = of_classes and _rarest(label) >= N_PARTS
    divider = RepeatedStratifiedKFold if stratified else RepeatedKFold
    parts = divider(n_splits=N_PARTS, n_repeats=N_REPEATS, random_state=SEED)
    train, test = list(parts.split(np.zeros(len(label)), label))[fold]

    def capped(rows: np.ndarray, most: int) -> np.ndarray:
        if len(rows) > most:
            stratify = label[rows] if of_classes and _rarest(label[rows]) >= 2 else None
            rows, _ = train_test_split(rows, train_size=most, random_state=SEED + fold, stratify=stratify)
        return np.sort(rows)

    return capped(train, MAX_TRAIN), capped(test, MAX_TEST)


def _rarest(label: np.ndarray) -> int:
    return int(np.unique(label, return_counts=True)[1].min())


def _folder(dataset: str, source: Path) -> Path:
    for folder in (source / dataset, source):
        if (folder / TABLE).is_file():
            return folder
    raise ConfigError(f"source={source}: expected {TABLE} there or in {dataset}/. Fix: correct source= or the name")


def _fetch(dataset: str) -> Path:
    import huggingface_hub

    try:
        return Path(huggingface_hub.snapshot_download(f"multabench/{dataset}", repo_type="dataset"))
    except Exception as error:  # whatever a network may raise
        reason = first_line(error)
        raise DownloadError(f"{HUB}/{dataset} could not be fetched ({reason}). Fix: give source=PATH") from error


def _read(dataset: str, folder: Path) -> tuple[dict[str, Any], pa.Table]:
    try:
        about = json.loads((folder / METADATA).read_text(encoding="utf-8"))
        table = pa.parquet.read_table(folder / TABLE)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise DataError(dataset, f"the files cannot be read ({one_line(error)})") from error
    if not isinstance(about, dict) or "target" not in about:
        raise DataError(dataset, f"{METADATA} names no target", expected="target, image_col, task_type", found=about)
    for entry in ("target", "image_col"):
        if about.get(entry) is not None and about[entry] not in table.column_names:
            raise DataError(dataset, f"{TABLE} lacks the {entry}", found=about[entry], expected=str(table.column_names))
    about.setdefault("task_type", "reg" if "-reg-" in dataset else "cls")
    if str(about["task_type"]) not in PUBLISHED:
        raise DataError(dataset, f"{METADATA}: task_type", expected="reg or cls", found=about["task_type"])
    if len(table) < N_PARTS:
        raise DataError(dataset, "too few rows to divide", table=TABLE, found=len(table))
    target, is_number = table[about["target"]], about["task_type"] == "reg"
    type_, where = target.type, {"table": TABLE, "column": about["target"]}
    numeric = pa.types.is_integer(type_) or pa.types.is_floating(type_)
    if (is_number and not numeric) or (pa.types.is_nested(type_) and not pa.types.is_dictionary(type_)):
        raise DataError(dataset, "the label", expected="numbers" if is_number else "classes", found=str(type_), **where)
    if target.null_count or (numeric and not pc.all(pc.is_finite(target)).as_py()):
        raise DataError(dataset, "a row without a label", **where)
    return about, table


def _present(dataset: str, table: pa.Table, column: str, root: Path) -> tuple[pa.Table, int]:
    """The table without the paths of absent pictures, and how many these were."""
    cells = table[column].to_pylist()
    if strange := next((cell for cell in cells if not isinstance(cell, str | None)), None):
        raise DataError(dataset, "a picture", column=column, expected="a path", found=strange)
    for row, cell in enumerate(cells, 1):
        if cell and (PurePosixPath(cell).is_absolute() or ".." in PurePosixPath(cell).parts):
            raise DataError(dataset, "the picture's path leaves the folder", row=row, column=column, found=cell)
    present = [cell if cell and (root / cell).is_file() else None for cell in cells]
    n_absent = sum(map(bool, cells)) - sum(map(bool, present))
    return table.set_column(table.column_names.index(column), column, pa.array(present, pa.string())), n_absent


def _pictures(dataset: str, folder: Path, scratch: Path) -> Path:
    """Where the paths of pictures start."""
    if (folder / PICTURES).is_dir():
        return folder
    root = scratch / "pictures"
    for i, shard in enumerate(sorted(folder.glob(SHARDS))):
        unpack(shard, scratch / f"shard-{i}", dataset)
        for path in [path for path in (scratch / f"shard-{i}").rglob("*") if path.is_file()]:
            target = root / path.relative_to(scratch / f"shard-{i}")
            target.parent.mkdir(parents=True, exist_ok=True)
            path.rename(target)
    if not root.exists():
        raise DataError(dataset, "its pictures are not there", expected=f"{PICTURES}/ or {SHARDS} in {folder}")
    return root
