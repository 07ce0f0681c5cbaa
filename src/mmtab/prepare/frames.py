"""Dataset folders from tables in memory, or from files of any kind."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmtab.data import objects
from mmtab.data.csv_files import Dialect
from mmtab.data.dataset import Dataset
from mmtab.data.table import BadCells
from mmtab.prepare.propose import propose
from mmtab.prepare.split import Method, split
from mmtab.utils.addresses import check_here
from mmtab.utils.errors import ConfigError, DataError
from mmtab.utils.processes import new_folder


def from_frames(
    frames: Mapping[str, Any],
    *,
    label: str | None = None,
    task: str | None = None,
    folder: Path | str | None = None,
    name: str = "frame",
    id: str | None = None,
    types: Mapping[str, str] | None = None,
    formats: Mapping[str, str] | None = None,
    encoding: str | None = None,
    delimiter: str | None = None,
    image_root: Path | str | Mapping[str, Path] | None = None,
    bad_cells: BadCells = "error",
    method: Method = "auto",
    by: str | None = None,
    fractions: tuple[float, float, float] = (0.7, 0.1, 0.2),
    seed: int = 0,
) -> Dataset:
    """Write a new dataset folder from tables: frames of pandas or polars, whatever gives an Arrow stream, datasets of
    Hugging Face, dicts of columns, lists of dicts, or paths of files. Cells may be pictures of PIL.

    ``frames``: a DatasetDict; or by name ``rows``, or ``train``, ``valid`` and ``test``; for matching ``left`` and
    ``right`` (or ``records``) with ``pairs`` (left_id, right_id, label), or ``pairs_train`` and so on. What is not
    divided yet is, as ``mmtab.prepare.split`` says. Column types are inferred from the values; ``types`` overrules.
    ``formats`` says how numbers and dates are written (``{"day": "day first", "price": "1.234,5 €"}``), ``encoding``
    and ``delimiter`` how files are, where they leave it open. ``task``: kway, regression or matching; by default as the
    label looks. A warning says what is remarkable. Image cells are paths from ``image_root`` (of all tables, or by
    table; default: the folder of a file, else the current one), bytes, or {bytes, path}; ``bad_cells`` is that of
    ``propose``. ``folder``: a new folder to keep it in, written whole or not at all; by default a temporary one, which
    goes when the process ends. Raises DataError or ConfigError, as ``mmtab.prepare.propose`` and
    ``mmtab.prepare.split`` do.
    """
    frames = objects.splits_in(frames) or frames
    if folder is not None:
        check_here(folder, "folder")
    target = Path(folder) if folder is not None else new_folder() / name
    if target.exists():
        raise ConfigError(f"folder {target} exists. Fix: remove it, or name another one")
    by_column = {"types": types or {}, "formats": formats or {}}
    for setting, value in {"frames": frames, **by_column}.items():
        if not isinstance(value, Mapping):
            expected = f"a dict by {'column' if setting in by_column else 'table'}"
            raise DataError(name, setting, expected=expected, found=value, fix=f"correct {setting}")
    numbers = isinstance(fractions, Sequence) and all(isinstance(part, int | float) for part in fractions)
    if not numbers or len(fractions) != 3 or type(seed) is not int:
        raise ConfigError(
            f"fractions={fractions}, seed={seed}: expected three shares that sum to 1, and a whole number"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".building-", dir=target.parent) as scratch:
        made = Path(scratch) / "dataset"
        proposal = propose(
            frames,
            made,
            name=name,
            task=task,
            id=None if id is None else str(id),  # the columns of pandas may be numbers
            label=None if label is None else str(label),
            types={str(column): kind for column, kind in (types or {}).items()},
            formats={str(column): text for column, text in (formats or {}).items()},
            dialect=Dialect(encoding or "", delimiter or ""),
            image_root=Path(image_root) if isinstance(image_root, str) else image_root,
            bad_cells=bad_cells,
        )
        if proposal.notes:
            warnings.warn(f"{name}: {'; '.join(proposal.notes)}", stacklevel=3)
        if {"rows", "pairs"} & set(frames):
            split(made, method=method, by=by, fractions=fractions, seed=seed)
        made.rename(target)
    return Dataset.read(target)
