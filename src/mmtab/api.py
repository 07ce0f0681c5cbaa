"""``mmtab.fit`` and ``mmtab.load_run``: what the commands do, for notebooks and programs that hold tables in memory.

>>> run = mmtab.fit(df, label="type", time_limit=600)
>>> run.evaluate(), run.predict(new_rows), run.predict_proba(new_rows)
"""

from __future__ import annotations

import contextlib
import datetime
import filecmp
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from numbers import Real
from pathlib import Path, PurePath
from typing import Any, Literal, Self

import numpy as np
import pyarrow as pa

from mmtab.config.compose import compose_run, dataset_place
from mmtab.config.overrides import written
from mmtab.config.parts import trust as trust_modules
from mmtab.config.types import CONFIGS, PARTS, LocalSettings
from mmtab.data import dataset as datasets
from mmtab.data import files, raw, table
from mmtab.data.cells import join
from mmtab.data.csv_files import Dialect
from mmtab.data.dataset import find_dataset
from mmtab.data.schema import ColumnType, Schema, TaskKind
from mmtab.data.spelling import spelling, typed
from mmtab.prepare.convert import Conversion
from mmtab.prepare.frames import from_frames
from mmtab.runs import predictions as prediction_files
from mmtab.runs.evaluate import evaluate, evaluate_if_labelled
from mmtab.runs.folder import FITTED, METRICS, open_config, read_facts, read_run_file, read_schema
from mmtab.runs.inputs import data_folder, standard_table
from mmtab.runs.predict import predict
from mmtab.runs.provenance import is_finished
from mmtab.runs.session import open_run
from mmtab.runs.train import train as train_run
from mmtab.training.places import LAST
from mmtab.utils import distributed
from mmtab.utils.errors import ConfigError, DataError, MmtabError, RunError
from mmtab.utils.isolation import isolated
from mmtab.utils.locks import alone_in

Named = str | Path


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


def load_dataset(name: Named, data_root: Named | None = None) -> Dataset:
    """A dataset by folder, by a name of configs/dataset/ (``catalogue`` is made on the spot), or by that of a folder
    under ``data_root`` (default: MMTAB_DATA, else ``data``). Raises DataError when there is none."""
    return Dataset.read(find_dataset(name, data_root))


@dataclass(frozen=True)
class Run:
    """A finished run and its folder. What it computes leaves the process as it was, as ``fit`` does. ``local``: where
    this machine has datasets and the cache, in which the run has no say."""

    folder: Path
    local: LocalSettings = field(default_factory=LocalSettings)

    def __post_init__(self) -> None:
        object.__setattr__(self, "folder", Path(self.folder).expanduser().absolute())  # wherever the process moves to

    @property
    def schema(self) -> Schema:
        return read_schema(self.folder)

    @property
    def dataset(self) -> Dataset:
        """What it was trained on, where that still is."""
        config = open_config(self.folder, self.local)
        return Dataset.read(data_folder(config))

    @property
    def metrics(self) -> dict[str, dict[str, float]]:
        """By split, those that were scored so far: valid by training, test by ``evaluate``."""
        return read_run_file(self.folder, METRICS)

    @property
    def facts(self) -> dict[str, Any]:
        """provenance.json: seconds, rows/s, memory, versions, seed."""
        return read_facts(self.folder)

    @isolated()
    def evaluate(
        self, data: Any = None, split: str = "test", *, image_root: Named | None = None, **tables: Any
    ) -> dict[str, float]:
        """Metrics on a split of the run's own dataset, which go into its folder, or on given rows (or pairs), which do
        not. ``tables``: left and right, or records, of pairs; of files also ``encoding`` and ``delimiter``, should they
        not be found out. Raises RunError where there are no labels."""
        if data is None:
            return evaluate(self.folder, split, local=self.local)
        session, schema = open_run(self.folder, local=self.local), self.schema
        with tempfile.TemporaryDirectory(prefix="mmtab-") as scratch:
            stem = "test" if schema.of_rows else "pairs_test"
            dialect = _dialect(tables)
            for name, frame in {stem: data, **tables}.items():
                path = self._write(frame, Path(scratch) / "raw" / f"{name}.parquet", image_root, dialect, labels=True)
                standard_table(path, schema, path.parent).rename(Path(scratch) / f"{name}.parquet")
            schema.write(Path(scratch))
            if not table.has_labels(Path(scratch), schema, "test"):
                problem = "these rows have no labels, so they can be predicted but not scored"
                raise DataError(schema.name, problem, column=schema.label)
            batches, _, _ = session.load("test", Path(scratch))
            return session.task.metrics_of(session.predictions(batches)[0])

    @isolated()
    def report(self, split: str | None = None) -> Path:
        """Write the report of a split that was scored (test, else valid) as a page; returns the path of it."""
        from mmtab.reports.run_page import write_report  # which draws

        return write_report(self.folder, split, local=self.local)

    def predict(
        self,
        data: Any,
        *,
        image_root: Named | None = None,
        coverage: float | None = None,
        cost: float | None = None,
        interval: float | None = None,
        **tables: Any,
    ) -> np.ndarray:
        """[n] classes of rows, of the type that train had them in, or numbers, or [n] (of several relations [n, r]) 0
        and 1 of pairs, in their order; ``None`` where ``coverage`` leaves a row without a prediction. ``interval``: of
        numbers, [n, 3]: the prediction and the bounds within which this share of labels lies. ``tables``: as in
        ``evaluate``."""
        options = {"coverage": coverage, "cost": cost, "interval": interval}
        predictions = self._predicted(data, image_root, tables, **options)
        names = prediction_files.prediction_columns(self.schema, bounds=interval is not None)
        columns = [_values(predictions[name]) for name in names]
        return columns[0] if len(columns) == 1 else np.stack(columns, 1)

    def predict_proba(self, data: Any, *, image_root: Named | None = None, **tables: Any) -> Any:
        """A table, of the kind of ``data`` (pandas, polars, else Arrow), with the probability of each class by name
        (pandas: by the class itself, such as 3 or True), or of a match for each relation. Of more than 1,000 classes
        the likeliest ten, as in prediction files. Raises RunError for a run of regression."""
        if self.schema.task is TaskKind.REGRESSION:
            raise RunError(f"{self.folder} is a run of regression, without probabilities; use predict(interval=0.9)")
        predictions, schema = self._predicted(data, image_root, tables), self.schema
        if schema.task is TaskKind.MATCHING:
            suffixes = prediction_files.relation_suffixes(list(schema.relations))
            names = [f"{prediction_files.PROBABILITY}{suffix}" for suffix in suffixes]
            titles = pa.array(schema.relations, pa.string())
        else:
            classes = read_run_file(self.folder, FITTED)["preprocessor"]["labels_"]["classes_"]
            names = list(prediction_files.class_columns(classes, [schema.id]).values())
            titles = typed(pa.array(classes, pa.string()), schema.stored(schema.label))
            if names[0] not in predictions.column_names:
                top = [prediction_files.TOP, prediction_files.TOP_PROBABILITY]
                names, titles = [prediction_files.free_name(name, [schema.id]) for name in top], pa.array(top)
        columns = predictions.select(names).rename_columns(spelling(titles).to_pylist())
        kind = type(data).__module__.partition(".")[0]
        if kind == "pandas":
            frame = columns.to_pandas().set_index(data.index)
            return frame.set_axis(_values(titles), axis=1)
        if kind == "polars":
            import polars

            return polars.from_arrow(columns)
        return columns

    @isolated()
    def _predicted(self, data: Any, image_root: Named | None, tables: dict[str, Any], **options: Any) -> pa.Table:
        with tempfile.TemporaryDirectory(prefix="mmtab-") as scratch:
            paths: dict[str, Any] = {}
            dialect = _dialect(tables)
            allowed = ["left", "right", "records"] if self.schema.task is TaskKind.MATCHING else []
            if unknown := [name for name in tables if name not in allowed]:
                takes = f"takes {', '.join(allowed)}" if allowed else "takes none"
                raise ConfigError(f"{unknown[0]}: no such table; a {self.schema.task} run {takes}")
            for name, frame in {"input": data, **tables}.items():
                paths[name] = self._write(frame, Path(scratch) / "raw" / f"{name}.parquet", image_root, dialect)
            output = Path(scratch) / "predictions.parquet"
            predict(self.folder, paths.pop("input"), output, local=self.local, **paths, **options)
            return files.read(output, self.schema.name)

    def _write(self, frame: Any, path: Path, image_root: Named | None, dialect: Dialect, labels: bool = False) -> Path:
        """As a table that needs no other file: pictures are embedded, columns that the schema does not name left
        out."""
        schema, trained_on = self.schema, open_config(self.folder, self.local).dataset
        if image_root is None and trained_on.image_root and Path(trained_on.image_root).is_dir():
            image_root = trained_on.image_root
        wanted = {schema.id, *(column.name for column in schema.columns), *prediction_files.PAIR_IDS}
        wanted |= {schema.label or "", *schema.relations} if labels else set()
        (folder := path.parent / "files" / path.stem).mkdir(parents=True)
        file = raw.table_file(frame, folder, schema.name, path.stem, dialect, wanted=wanted.__contains__)
        names = [name for name in files.header(file, schema.name).names if name in wanted]
        rows = files.read(file, schema.name, names)
        ids = pa.array([str(i + 1) for i in range(len(rows))], pa.large_string())  # as they will be numbered
        if schema.id in rows.column_names:
            ids = spelling(join(rows[schema.id].chunks, rows[schema.id].type))
        named = table.Table(schema.name, path.stem, _root(frame, image_root), ids, {})
        conversion = Conversion(path.parent, schema, bad_cells=trained_on.bad_cells)  # type: ignore[arg-type]
        for name in set(schema.of_type(ColumnType.IMAGE)) & set(rows.column_names):
            cells = conversion.embedded(named, name, join(rows[name].chunks, rows[name].type), many=True)
            rows = rows.set_column(rows.column_names.index(name), name, cells)
        files.write_table(path, rows)
        return path


@isolated()
def fit(
    train: Any,
    valid: Any = None,
    test: Any = None,
    *,
    label: str | None = None,
    task: Literal["kway", "regression", "matching"] | None = None,
    recipe: str | None = None,
    output: Named | None = None,
    report: bool = False,
    time_limit: float | None = None,
    left: Any = None,
    right: Any = None,
    records: Any = None,
    types: Mapping[str, str] | None = None,
    formats: Mapping[str, str] | None = None,
    id: str | None = None,
    image_root: Named | None = None,
    encoding: str | None = None,
    delimiter: str | None = None,
    metric: str | None = None,
    contradictions: Literal["keep", "drop", "error"] | None = None,
    **overrides: Any,
) -> Run:
    """Train as ``mmtab train`` does; returns the finished run. A table is a frame of pandas or polars, an Arrow table,
    a dict of columns, a list of dicts, or the path of a file (csv, tsv, parquet, jsonl or xlsx) or of a folder with a
    folder of pictures for each class. Raises DataError, ConfigError and TrainingError as the command.

    The process stays as it was: random states, flags of torch, filters of warnings, levels of loggers, environment
    variables and signal handlers. These belong to all threads, so calls in several threads run one after the other. The
    same call goes on with a run that was killed, and returns one that is finished.

    train: dataset by name or folder; or a table of rows; for matching, of pairs (left_id, right_id, label)
    valid: table; without it the rows of ``train`` are divided into train, valid and test
    test: table; or True to score the test split once trained (``Run.evaluate`` does so later)
    label: column with the class of a row, or its number
    task: kway, regression, or matching where ``left`` and ``right`` or ``records`` are given; None: of a label that has
        many different numbers regression, else kway
    recipe: name of configs/recipe/; None trains with the defaults of ``mmtab train``
    output: run folder, beside which OUTPUT-data gets tables given in memory; None makes a new one under runs/fit
    report: write the report page once trained (``Run.report`` does so later)
    time_limit: seconds after which training ends, preparation included: ``trainer.max_minutes`` of the command
    left, right, records: tables of the records that pairs name
    types: types of columns, which overrule what is inferred
    formats: how numbers and dates of columns are written: ``{"day": "day first", "price": "1.234,5 €"}``
    id: column that identifies a row
    image_root: folder of the pictures that image columns name, also of tables given to the run afterwards; None: that
        of the table, of a frame the current one
    encoding, delimiter: of text files, such as cp1250 and ``;``, where the files leave them open
    metric: what to maximise on valid and rank by: accuracy or macro_f1; of numbers r2; of pairs f1, pr_auc or roc_auc
    contradictions: pairs that train labels both 1 and 0: keep (and warn), drop or error; in short for the setting
        dataset.contradictions, as ``metric`` for dataset.metric
    overrides: settings of ``mmtab train``: ``seed=1``, ``trainer={"max_epochs": 5}``, ``fusion="mean"``; and
        ``numeric={"_target_": "mine.Encoder", "n_bins": 8}`` for a part of one's own, which gets ``d_model`` besides
    """
    _check_arguments(task, {"output": output, "image_root": image_root, "encoding": encoding, "delimiter": delimiter})
    when = datetime.datetime.now().strftime("%Y-%m-%d_%H-%M-%S-%f")
    folder = Run(Path(output).expanduser() if output is not None else Path("runs") / "fit" / when).folder
    said: dict[str, Any] = {"recipe": recipe, "dataset.metric": metric, "dataset.contradictions": contradictions}
    said |= {"trainer.max_minutes": _minutes(time_limit)}
    settings = _settings({name: value for name, value in said.items() if value is not None} | overrides)
    score_test, test = test is True, None if isinstance(test, bool) else test
    tables: dict[str, Any] = {}
    train = train.folder if isinstance(train, datasets.Dataset) else train
    named = Path(train).expanduser() if isinstance(train, str | Path) else None
    if named is not None and not (raw.is_raw(named) or named.is_file() or raw.suffix_of(named)):
        if named.is_dir():
            Schema.read(named)  # which tells of a folder that is none
        place = list(dataset_place(str(train), "fit")[1])
        beside = {"valid": valid, "test": test, "label": label, "left": left, "right": right, "records": records}
        if given := [
            name
            for name, value in (beside | {"task": task, "types": types, "formats": formats, "id": id}).items()
            if value is not None
        ]:
            raise ConfigError(f"fit: {given[0]} goes with a table; {train} is a dataset, whose folder says this")
    else:
        bad_cells = compose_run("fit", ["dataset=custom"], settings).dataset.bad_cells  # before anything is written
        records_by_name = {"left": left, "right": right, "records": records}
        sides = {name: frame for name, frame in records_by_name.items() if frame is not None}
        tables = sides | _splits(train, valid, test, task or ("matching" if sides else "rows"), bool(sides))
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"fit: output={folder}: {error.strerror}. Fix: give another output=FOLDER") from error
    with alone_in(folder) if distributed.is_first() else contextlib.nullcontext():
        if tables:
            roots = {name: _root(frame, image_root) for name, frame in tables.items()}
            options: dict[str, Any] = {"label": label, "id": id, "types": types, "formats": formats, "task": task}
            options |= {"encoding": encoding, "delimiter": delimiter, "image_root": roots, "bad_cells": bad_cells}
            data = _data_beside(folder, tables, **options)
            path, name = written(str(data.folder.resolve())), written(data.schema.name)
            place = ["dataset=custom", f"dataset.path={path}", f"dataset.name={name}"]
        config = compose_run("fit", place, settings)
        if image_root is not None:
            config = replace(config, dataset=replace(config.dataset, image_root=str(_root(None, image_root))))
        data_root, cache = _absolute(config.data_root), _absolute(config.cache)
        config = replace(config, output=str(folder), test=score_test, report=report, data_root=data_root, cache=cache)
        try:
            train_run(config, folder)
        except MmtabError:
            if tables and not (folder / LAST).exists() and not is_finished(folder):
                shutil.rmtree(data.folder)  # there is no run that it could belong to
            raise
    if score_test:
        evaluate_if_labelled(folder, "test", config)
    run = Run(folder, LocalSettings.of(config))
    if report:
        run.report()
    return run


def _minutes(seconds: Any) -> float | None:
    if seconds is None:
        return None
    if not isinstance(seconds, Real) or isinstance(seconds, bool) or not 0 < float(seconds) < float("inf"):
        raise ConfigError(f"fit: time_limit={seconds!r}: expected seconds, a number above 0")
    return float(seconds) / 60


def _data_beside(folder: Path, tables: Mapping[str, Any], **options: Any) -> datasets.Dataset:
    """The dataset folder of the tables, beside the run, so that the run can be resumed, evaluated and reproduced. One
    that is there already has to be of the same tables."""
    target, scratch = folder.parent / f"{folder.name}-data", folder / ".building"
    if not distributed.is_first():
        return datasets.Dataset.read(target)
    shutil.rmtree(scratch, ignore_errors=True)  # of a killed call
    try:
        made = from_frames(tables, folder=scratch / target.name, **options).folder
        if not target.exists():
            shutil.move(made, target)
        else:
            names = [str(path.relative_to(made)) for path in made.rglob("*") if path.is_file()]
            _, *different = filecmp.cmpfiles(made, target, names, shallow=False)
            if first := next((name for part in different for name in part), None):
                problem = f"{target} holds other data than fit was given ({first} differs)"
                raise ConfigError(f"{problem}. Fix: remove it, or give another output=FOLDER")
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return datasets.Dataset.read(target)


def _splits(train: Any, valid: Any, test: Any, task: str, has_records: bool) -> dict[str, Any]:
    """Tables by the names that they have in a dataset folder: a table for each split, or one that is to be divided."""
    if (task == "matching") != has_records:
        raise ConfigError("fit: matching wants left and right, or records, beside the pairs; other tasks want neither")
    if valid is None and test is not None:
        raise ConfigError("fit: with test there has to be valid, by which the best epoch is chosen")
    if valid is None:
        return {"pairs" if task == "matching" else "rows": train}
    prefix = "pairs_" if task == "matching" else ""
    splits = {"train": train, "valid": valid, "test": test}
    return {f"{prefix}{split}": frame for split, frame in splits.items() if frame is not None}


def _check_arguments(task: Any, texts: Mapping[str, Any]) -> None:
    if task not in (None, *TaskKind):
        raise ConfigError(f"fit: task={task!r}: expected {' or '.join(TaskKind)}")
    for name, value in texts.items():
        if not isinstance(value, str | PurePath | None):
            raise ConfigError(f"fit: {name}={value!r}: expected text, such as a path")


def load_run(
    folder: Named, *, data_root: Named | None = None, cache: Named | None = None, trust: Sequence[str] = ()
) -> Run:
    """A finished run; raises RunError for a folder that is none, or of another version. It may be anybody's: what it
    says is data, and its parts are those of mmtab, those of settings that this process has composed, and what is
    defined in modules that you trust.

    data_root: folder of the dataset folders; None: MMTAB_DATA, or ``data``
    cache: folder of computed features; None: MMTAB_CACHE, or ``~/.cache/mmtab``
    trust: modules whose code it may use, such as ``["mine.encoders"]``, until the process ends
    """
    if not isinstance(folder, str | PurePath):
        raise RunError(f"run {folder!r}: expected its folder")
    local = LocalSettings()
    local.data_root = _absolute(local.data_root if data_root is None else data_root)
    local.cache = _absolute(local.cache if cache is None else cache)
    trust_modules(trust)
    read_facts(Path(folder).expanduser())
    return Run(Path(folder).expanduser(), local)


def _absolute(path: Named) -> str:
    """The same folder wherever the process moves to."""
    return str(Path(path).expanduser().absolute())


def _settings(overrides: Mapping[str, Any]) -> list[str]:
    """Overrides as on the command line, of settings and groups of them. A part that names a ``_target_`` of its own
    replaces the leaf, as the settings of the leaf that it replaces are those of another class."""

    def walk(values: Mapping[str, Any], prefix: str) -> Iterator[str]:
        for name, value in values.items():
            if not prefix and (CONFIGS / name).is_dir() and not isinstance(value, str | Mapping):
                raise ConfigError(f"fit: {name}={value!r}: expected a name of configs/{name}/, or a dict of settings")
            if not prefix and name in PARTS and isinstance(value, Mapping) and "_target_" in value:
                leaf = {"_partial_": True, "d_model": "${d_model}", **value}
                yield from (f"~{name}", f"+{name}={written(leaf)}")
            elif isinstance(value, Mapping):
                yield from walk(value, f"{prefix}{name}.")
            else:
                yield f"{prefix}{name}={written(value)}"

    return list(walk(overrides, ""))


def _dialect(options: dict[str, Any]) -> Dialect:
    """How text files are written; taken out of the options, which else are tables."""
    return Dialect(options.pop("encoding", None) or "", options.pop("delimiter", None) or "")


def _values(column: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """[n] in their own type; dates, moments with a time zone and values of which some are missing as objects, for numpy
    has none of them."""
    if column.null_count or pa.types.is_date(column.type) or getattr(column.type, "tz", None):
        return np.array([*column.to_pylist(), ...], object)[:-1]
    return column.to_numpy(zero_copy_only=False)


def _root(frame: Any, image_root: Named | None) -> Path:
    """Where the paths of a table's pictures start, for ``fit`` as for ``Run``."""
    if image_root is not None:
        return Path(image_root).expanduser().absolute()
    return raw.root_of(frame)
