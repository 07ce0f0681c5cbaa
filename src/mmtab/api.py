"""``mmtab.fit`` and ``mmtab.load_run``: what the scripts do, for notebooks and programs that hold tables in memory.

>>> run = mmtab.fit(df, label="type", trainer={"max_epochs": 5})
>>> run.evaluate(), run.predict(new_rows), run.predict_proba(new_rows)
"""

from __future__ import annotations

import datetime
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import pyarrow as pa

from mmtab.config.compose import compose_run, dataset_place
from mmtab.config.overrides import written
from mmtab.config.types import PARTS
from mmtab.data import dataset as datasets
from mmtab.data import files, table
from mmtab.data.cells import image_sources
from mmtab.data.dataset import dataset_folder, find_dataset
from mmtab.data.schema import ColumnType, Schema, TaskKind
from mmtab.prepare.convert import PICTURE
from mmtab.prepare.frames import as_arrow, from_frames
from mmtab.runs.evaluate import evaluate
from mmtab.runs.folder import open_config, read_facts, read_run_file
from mmtab.runs.inputs import cache_of
from mmtab.runs.predict import predict
from mmtab.runs.session import open_run
from mmtab.runs.train import train as train_run
from mmtab.utils.errors import ConfigError, DataError

PAIRS = ("left_id", "right_id")
Named = str | Path


class Dataset(datasets.Dataset):
    """A dataset folder; ``from_frame`` and ``from_frames`` write one from tables in memory, as ``prepare.frames`` says."""

    @classmethod
    def from_frame(cls, frame: Any, **options: Any) -> Self:
        """A k-way dataset of the rows of one frame, divided into train, valid and test; options as ``from_frames``."""
        return cls.from_frames({"rows": frame}, **options)

    @classmethod
    def from_frames(cls, frames: Mapping[str, Any], **options: Any) -> Self:
        """A dataset of several frames; arguments and errors are those of ``prepare.frames.from_frames``."""
        return cls.read(from_frames(frames, **options).folder)


def load_dataset(name: Named, data_root: Named | None = None) -> Dataset:
    """A dataset by folder, by a name of configs/dataset/ (``catalogue`` is made on the spot), or by that of a folder
    under ``data_root`` (default: MMTAB_DATA, else ``data``). Raises DataError when there is none."""
    return Dataset.read(find_dataset(name, data_root))


@dataclass(frozen=True)
class Run:
    """A finished run and its folder."""

    folder: Path

    @property
    def schema(self) -> Schema:
        return Schema.from_dict(read_run_file(self.folder, "schema.yaml"))

    @property
    def dataset(self) -> Dataset:
        """What it was trained on, where that still is."""
        config = open_config(self.folder)
        return Dataset.read(dataset_folder(config.dataset, config.data_root, cache_of(config)))

    @property
    def metrics(self) -> dict[str, dict[str, float]]:
        """By split, those that were scored so far: valid by training, test by ``evaluate``."""
        return read_run_file(self.folder, "metrics.json")

    @property
    def facts(self) -> dict[str, Any]:
        """provenance.json: seconds, rows/s, memory, versions, seed."""
        return read_facts(self.folder)

    def evaluate(
        self, data: Any = None, split: str = "test", *, image_root: Named = ".", **tables: Any
    ) -> dict[str, float]:
        """Metrics on a split of the run's own dataset, which go into its folder, or on rows (or pairs) at hand, which do
        not. ``tables``: left and right, or records, of pairs. Raises RunError where there are no labels."""
        if data is None:
            return evaluate(self.folder, split)
        session, schema = open_run(self.folder), self.schema
        with tempfile.TemporaryDirectory(prefix="mmtab-") as scratch:
            stem = "test" if schema.task is TaskKind.KWAY else "pairs_test"
            for name, frame in {stem: data, **tables}.items():
                _write(frame, Path(scratch) / f"{name}.parquet", schema, Path(image_root))
            schema.write(Path(scratch))
            if not table.has_labels(Path(scratch), schema, "test"):
                raise DataError(schema.name, "these rows have no labels, so they can be predicted but not scored", column=schema.label)  # fmt: skip
            batches, _, _ = session.load("test", Path(scratch))
            return session.task.metrics_of(session.predictions(batches)[0])

    def report(self, split: str | None = None) -> Path:
        """Write the report of a split that was scored (test, else valid) as a page; returns the path of it."""
        from mmtab.reports.run_page import write_report  # which draws

        return write_report(self.folder, split)

    def predict(self, data: Any, *, image_root: Named = ".", coverage: float | None = None, cost: float | None = None, **tables: Any) -> np.ndarray:  # fmt: skip
        """[n] classes of rows, or [n] (of several relations [n, r]) 0 and 1 of pairs, in their order; ``None`` where
        ``coverage`` leaves a row without a prediction. ``tables``: left and right, or records, of pairs."""
        found = self._predicted(data, image_root, tables, coverage=coverage, cost=cost)
        columns = [found[name].to_numpy(zero_copy_only=False) for name in found.column_names if name.startswith("prediction")]  # fmt: skip
        return columns[0] if len(columns) == 1 else np.stack(columns, 1)

    def predict_proba(self, data: Any, *, image_root: Named = ".", **tables: Any) -> Any:
        """A table, of the kind of ``data`` (pandas, polars, else Arrow), with the probability of each class by its name,
        or of a match for each relation. Of more than 1,000 classes the likeliest ten, as in prediction files."""
        found, schema = self._predicted(data, image_root, tables), self.schema
        if schema.task is TaskKind.MATCHING:
            names = {f"probability{'' if len(schema.relations) == 1 else f'_{r}'}": r for r in schema.relations}
        else:
            names = {name: name.removeprefix("p_") for name in found.column_names if name.startswith("p_")}
            names = names or {name: name for name in ("top", "top_probability")}
        kept = found.select(list(names)).rename_columns(list(names.values()))
        kind = type(data).__module__.partition(".")[0]
        if kind == "pandas":
            return kept.to_pandas().set_index(data.index)
        if kind == "polars":
            import polars

            return polars.from_arrow(kept)
        return kept

    def _predicted(self, data: Any, image_root: Named, tables: Mapping[str, Any], **wishes: Any) -> pa.Table:
        with tempfile.TemporaryDirectory(prefix="mmtab-") as scratch:
            paths: dict[str, Any] = {}
            for name, frame in {"input": data, **tables}.items():
                paths[name] = _write(frame, Path(scratch) / f"{name}.parquet", self.schema, Path(image_root))
            output = Path(scratch) / "predictions.parquet"
            predict(self.folder, paths.pop("input"), output, **paths, **wishes)
            return files.read(output, self.schema.name)


def fit(
    train: Any,
    valid: Any = None,
    test: Any = None,
    *,
    label: str | None = None,
    task: Literal["kway", "matching"] | None = None,
    recipe: str | None = "frozen",
    output: Named | None = None,
    left: Any = None,
    right: Any = None,
    records: Any = None,
    types: Mapping[str, str] | None = None,
    id: str | None = None,
    image_root: Named = ".",
    **overrides: Any,
) -> Run:
    """Train as ``scripts/train.py`` does; returns the finished run.

    ``train``: a dataset by name or folder; or a table, as a frame of pandas or polars, an Arrow table or the path of a csv
    or parquet file. Of rows, ``label`` names the class; for matching it holds pairs (left_id, right_id, label), and
    ``left`` and ``right`` (or ``records``) the rows. Without ``valid`` the rows are divided into train, valid and test.
    ``types`` overrules what is inferred of columns. ``overrides`` are settings of train.py: ``seed=1``,
    ``trainer={"max_epochs": 5}``, ``fusion="mean"``, and ``numeric={"_target_": "mine.Encoder", "n_bins": 8}`` for an encoder
    or a fusion of one's own, which gets ``d_model`` beside these. Raises DataError, ConfigError and TrainingError as the script.
    """
    when = datetime.datetime.now().strftime("%Y-%m-%d_%H-%M-%S-%f")
    folder = Path(output) if output is not None else Path("runs") / "fit" / when
    settings = [*([f"recipe={recipe}"] if recipe else []), *_settings(overrides)]
    compose_run("fit", ["dataset=custom"], settings)  # before anything is written
    is_table = isinstance(train, str | Path) and Path(train).suffix in files.FORMATS and Path(train).is_file()
    place: Sequence[str]
    if isinstance(train, str | Path) and not is_table:
        place = dataset_place(str(train), "fit")[1]
    else:
        sides = {
            name: frame for name, frame in (("left", left), ("right", right), ("records", records)) if frame is not None
        }
        task = task or ("matching" if sides else "kway")
        if (task == "matching") != bool(sides):
            raise ConfigError("fit: matching wants left and right, or records, beside the pairs; k-way wants neither")
        whole = "pairs" if task == "matching" else "rows"
        splits = {"train": train, "valid": valid, "test": test}
        named = {f"{'pairs_' if task == 'matching' else ''}{split}": frame for split, frame in splits.items() if frame is not None}  # fmt: skip
        if valid is None and test is not None:
            raise ConfigError("fit: with test there has to be valid, by which the best epoch is chosen")
        frames = {name: _read(frame) for name, frame in (sides | (named if valid is not None else {whole: train})).items()}  # fmt: skip
        # Kept beside the run, so that it can be resumed, evaluated and reproduced
        kept = folder.parent / f"{folder.name}-data"
        found = from_frames(frames, label=label, folder=kept, id=id, types=types, image_root=image_root)
        place = ["dataset=custom", f"dataset.path={written(str(found.folder.resolve()))}", f"dataset.name={written(found.schema.name)}"]  # fmt: skip
    train_run(replace(compose_run("fit", place, settings), output=str(folder)), folder)
    return Run(folder)


def load_run(folder: Named) -> Run:
    """A finished run; raises RunError for a folder that is none, or of another version."""
    read_facts(Path(folder))
    return Run(Path(folder))


def _settings(overrides: Mapping[str, Any]) -> list[str]:
    """Overrides as on the command line, of settings and groups of them. A part that names a ``_target_`` of its own stands
    for the whole leaf, as the settings of the leaf that it replaces are those of another class."""

    def walk(values: Mapping[str, Any], prefix: str) -> Iterator[str]:
        for name, value in values.items():
            if not prefix and name in PARTS and isinstance(value, Mapping) and "_target_" in value:
                leaf = {"_partial_": True, "d_model": "${d_model}", **value}
                yield from (f"~{name}", f"+{name}={written(leaf)}")
            elif isinstance(value, Mapping):
                yield from walk(value, f"{prefix}{name}.")
            else:
                yield f"{prefix}{name}={written(value)}"

    return list(walk(overrides, ""))


def _read(frame: Any) -> Any:
    return files.read(Path(frame), Path(frame).stem) if isinstance(frame, str | Path) else frame


def _write(frame: Any, path: Path, schema: Schema, image_root: Path) -> Path:
    """As a table of the standard that needs no other file: pictures are embedded, rows without ids numbered."""
    if isinstance(frame, str | Path):
        frame, image_root = _read(frame), image_root if image_root != Path() else Path(frame).parent
    rows = as_arrow(frame, schema.name, path.stem)
    if schema.id not in rows.column_names and not set(PAIRS) <= set(rows.column_names):
        rows = rows.append_column(schema.id, pa.array([str(i + 1) for i in range(len(rows))]))
    for name in set(schema.of_type(ColumnType.IMAGE)) & set(rows.column_names):
        cells = [_embedded(cell, image_root) for cell in rows[name].to_pylist()]
        rows = rows.set_column(rows.column_names.index(name), name, pa.array(cells, pa.list_(PICTURE)))
    files.write_table(path, rows)
    return path


def _embedded(cell: Any, root: Path) -> list[dict[str, Any]] | None:
    """A path that leads nowhere stays one, and is an error where it is opened."""
    sources = image_sources(cell) if not isinstance(cell, float) else []
    found = []
    for source in sources:
        path = root / (source.path or "")
        data = source.data or (path.read_bytes() if source.path and path.is_file() else None)
        found.append({"bytes": data, "path": source.path})
    return found or None
