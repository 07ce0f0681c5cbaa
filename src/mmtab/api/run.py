"""A finished run, open: what it predicts, scores and reports."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from mmtab.api.datasets import Dataset
from mmtab.api.tables import dialect_of, in_memory, like, values_of
from mmtab.config.parts import trust as trust_modules
from mmtab.config.types import Hardware, LocalSettings
from mmtab.data import files, table
from mmtab.data.schema import Schema, TaskKind
from mmtab.data.spelling import spelling
from mmtab.runs import hub
from mmtab.runs import predictions as prediction_files
from mmtab.runs.asked import PredictOptions
from mmtab.runs.evaluate import evaluate
from mmtab.runs.export import export_run
from mmtab.runs.folder import METRICS, open_config, read_facts, read_run_file, read_schema
from mmtab.runs.inputs import standard_table, trained_on
from mmtab.runs.predict import NO_OPTIONS, embed_table, predict_table
from mmtab.runs.scored import read_scored, scored_splits
from mmtab.runs.session import SLICE, Session, open_run
from mmtab.utils.errors import ConfigError, DataError, MmtabError, RunError
from mmtab.utils.isolation import isolated
from mmtab.utils.memory import MemoryStore

Named = str | Path


@dataclass(frozen=True)
class Run:
    """A finished run and its folder. What it computes leaves the process as it was, as ``fit`` does, and one thread at
    a time computes. ``local``: where this machine has datasets and the cache, in which the run has no say.

    The model is read when it is first needed, and then kept: by this object, in this process. A pickled run, and one in
    a forked process, reads it again.
    """

    folder: Path
    local: LocalSettings = field(default_factory=LocalSettings)
    _opened: dict[int, Session] = field(default_factory=dict, init=False, repr=False, compare=False)  # by process

    def __post_init__(self) -> None:
        object.__setattr__(self, "folder", Path(self.folder).expanduser().absolute())  # wherever the process moves to

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_opened": {}}

    @property
    def schema(self) -> Schema:
        return read_schema(self.folder)

    @property
    def dataset(self) -> Dataset:
        """What it was trained on, where that still is."""
        return Dataset.read(trained_on(self.folder, open_config(self.folder, self.local)))

    @property
    def metrics(self) -> dict[str, dict[str, float]]:
        """By split, those that were scored so far: valid by training, test by ``evaluate``."""
        return read_run_file(self.folder, METRICS)

    @property
    def facts(self) -> dict[str, Any]:
        """provenance.json: seconds, rows/s, memory, versions, seed."""
        return read_facts(self.folder)

    def _repr_html_(self) -> str:
        """What a notebook shows of it: the score of test, or else of valid, and what may be done next."""
        from mmtab.reports.findings import standard_error
        from mmtab.reports.slices import Z

        try:
            split = scored_splits(self.folder)[0]
            scored, schema = read_scored(self.folder, split), self.schema
        except (MmtabError, IndexError) as error:
            return f"<code>{escape(repr(self))}</code>: {escape(str(error) or 'no split was scored')}"
        lines = []
        for one in scored:
            score, half = one.score(), Z * standard_error(one)
            bounds = f"{score - half:.3f} to {min(score + half, 1.0):.3f}"
            name = escape(f"{one.score_name} on {split}{one.of_relation}")
            lines.append(f"<b>{name}: {score:.3f}</b> (95 % interval {bounds}, {len(one.y_true):,} rows)")
        lines[:0] = [
            f"<b>{escape(schema.name)}</b>, {escape(str(schema.task))}, <code>{escape(str(self.folder))}</code>"
        ]
        calls = ["run.predict(rows)", "run.report()", 'run.export("MODEL")']
        if split != "test":
            calls.insert(0, "run.evaluate()")
        return "<br>".join([*lines, f"next: {', '.join(f'<code>{escape(call)}</code>' for call in calls)}"])

    @isolated()
    def evaluate(
        self, data: Any = None, split: str = "test", *, image_root: Named | None = None, **tables: Any
    ) -> dict[str, float]:
        """Metrics on a split of the run's own dataset, which go into its folder, or on given rows (or pairs), which do
        not. ``tables``: left and right, or records, of pairs; of files also ``encoding`` and ``delimiter``, should they
        not be found out. Raises RunError where there are no labels."""
        if data is None:
            return evaluate(self.folder, split, local=self.local)
        session = self._session()
        schema = session.schema
        with tempfile.TemporaryDirectory(prefix="mmtab-") as scratch:
            dialect = dialect_of(tables)
            _check_names(tables, schema)
            for name, frame in {schema.table_of("test"): data, **tables}.items():
                source = in_memory(session, frame, name, image_root, dialect, labels=True)
                rows = files.read(standard_table(source, schema, Path(scratch)), schema.name)
                files.write_table(Path(scratch) / f"{name}.parquet", rows)
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
        predictions = self._predicted(data, image_root, tables, PredictOptions(coverage, cost, interval))
        names = prediction_files.prediction_columns(self._session().schema, bounds=interval is not None)
        columns = [values_of(predictions[name]) for name in names]
        return columns[0] if len(columns) == 1 else np.stack(columns, 1)

    def predict_proba(self, data: Any, *, image_root: Named | None = None, **tables: Any) -> Any:
        """A table, of the kind of ``data`` (pandas, polars, Hugging Face, else Arrow), with the probability of each
        class by name (pandas: by the class itself, such as 3 or True), or of a match for each relation. Of more than
        1,000 classes the likeliest ten, as in prediction files. Raises RunError for a run of regression."""
        predictions, session = self._predicted(data, image_root, tables), self._session()
        schema = session.schema  # of the open run, should the folder be another by now
        if schema.task is TaskKind.REGRESSION:
            raise RunError(f"{self.folder} is a run of regression, without probabilities; use predict(interval=0.9)")
        if schema.task is TaskKind.MATCHING:
            suffixes = prediction_files.relation_suffixes(list(schema.relations))
            names = [f"{prediction_files.PROBABILITY}{suffix}" for suffix in suffixes]
            titles = pa.array(schema.relations, pa.string())
        else:
            classes, titles = session.classes
            names = list(prediction_files.class_columns(classes, [schema.id]).values())
            if names[0] not in predictions.column_names:
                top = [prediction_files.TOP, prediction_files.TOP_PROBABILITY]
                names, titles = [prediction_files.free_name(name, [schema.id]) for name in top], pa.array(top)
        return like(data, predictions.select(names).rename_columns(spelling(titles).to_pylist()), titles)

    @isolated()
    def export(self, output: Named, format: str = "run") -> Path:
        """Write the files that predict, with a model card, into a new folder, which ``load_run`` opens; returns it.
        ``format``: onnx or torch, with the whole model as a graph beside them."""
        from mmtab.reports.model_card import model_card  # as for ``report``

        if not isinstance(output, str | PurePath):
            raise ConfigError(f"output={output!r}: expected a path")
        return export_run(self.folder, Path(output), model_card, format)

    def push_to_hub(self, name: str, *, private: bool = False, token: str | None = None) -> str:
        """Export the run to the hub of Hugging Face as ``OWNER/NAME``, from where ``load_run`` reads it; returns the
        address. Raises RunError where that fails."""
        with tempfile.TemporaryDirectory(prefix="mmtab-") as scratch:
            return hub.upload(name, self.export(Path(scratch) / "run"), private, token)

    @isolated()
    def embed(
        self, data: Any, *, side: str | None = None, image_root: Named | None = None, **dialect: Any
    ) -> np.ndarray:
        """[n, d] float32 vectors of rows: those that the head reads; of a run of matching those of records, which lie
        near each other where records match. ``side``: left or right, of records of two tables. Raises RunError for a
        run of matching without such vectors."""
        session = self._session()
        source = in_memory(session, data, side or "records", image_root, dialect_of(dialect))
        if dialect:
            raise ConfigError(f"embed: no option {next(iter(dialect))}")
        return embed_table(session, source, side, None if source.table.num_rows > SLICE else MemoryStore())

    @property
    @isolated()
    def width(self) -> int:
        """Of the vectors of ``embed``."""
        return self._session().width

    def predictor(
        self,
        *,
        image_root: Named | None = None,
        coverage: float | None = None,
        cost: float | None = None,
        interval: float | None = None,
    ) -> Predictor:
        """What predicts tables in memory and writes nothing; options as ``predict``."""
        return Predictor(self, image_root, PredictOptions(coverage, cost, interval))

    @isolated()
    def _predicted(
        self,
        data: Any,
        image_root: Named | None,
        tables: dict[str, Any],
        options: PredictOptions = NO_OPTIONS,
        in_memory_only: bool = False,
    ) -> pa.Table:
        """What a predictions file holds. The cache keeps features of more than ``SLICE`` rows for the next time."""
        session, dialect = self._session(), dialect_of(tables)
        _check_names(tables, session.schema)
        sources = {
            name: in_memory(session, frame, name, image_root, dialect)
            for name, frame in {"input": data, **tables}.items()
        }
        few = in_memory_only or all(source.table.num_rows <= SLICE for source in sources.values())
        rows = sources.pop("input")
        return predict_table(session, self.folder, rows, sources, options, store=MemoryStore() if few else None)

    def _session(self) -> Session:
        """The open run; to be called while ``isolated``."""
        if os.getpid() not in self._opened:
            self._opened.clear()
            forked = torch.cuda._is_in_bad_fork()  # type: ignore[no-untyped-call]  # the GPU stays with the parent
            hardware = Hardware("cpu") if forked else None
            self._opened[os.getpid()] = open_run(self.folder, hardware, self.local)
        return self._opened[os.getpid()]


@dataclass(frozen=True)
class Predictor:
    """Rows in, what a predictions file holds of them out, without a file in between: id, probabilities, prediction.

    It takes what ``Run.predict`` takes and gives the same kind back: an Arrow table for a table, a record batch for a
    batch (which is what Ray Data, Spark's mapInArrow and services pass on), a frame of pandas or polars for one, dicts
    for dicts. Of pairs it wants ``left`` and ``right``, or ``records``, too. It may be pickled, forked and called by
    several threads, one of which computes at a time.
    """

    run: Run
    image_root: Named | None = None
    options: PredictOptions = NO_OPTIONS

    def __call__(self, rows: Any, **tables: Any) -> Any:
        return like(rows, self.run._predicted(rows, self.image_root, tables, self.options, in_memory_only=True))


def load_run(
    folder: Named,
    *,
    data_root: Named | None = None,
    cache: Named | None = None,
    trust: Sequence[str] = (),
    revision: str | None = None,
) -> Run:
    """A finished run; raises RunError for a folder that is none, or of another version. It may be anybody's: what it
    says is data, and its parts are those of mmtab, those of settings that this process has composed, and what is
    defined in modules that you trust.

    folder: of a run, or of an export; or OWNER/NAME of an export on the hub of Hugging Face, where no folder is
    data_root: folder of the dataset folders; None: MMTAB_DATA, or ``data``
    cache: folder of computed features; None: MMTAB_CACHE, or ``~/.cache/mmtab``
    trust: modules whose code it may use, such as ``["mine.encoders"]``, until the process ends
    revision: of the hub, a commit or a branch
    """
    if not isinstance(folder, str | PurePath):
        raise RunError(f"run {folder!r}: expected its folder")
    if isinstance(folder, str) and hub.is_name(folder):
        folder = hub.download(folder, revision)
    local = LocalSettings()
    local.data_root = absolute(local.data_root if data_root is None else data_root)
    local.cache = absolute(local.cache if cache is None else cache)
    trust_modules(trust)
    read_facts(Path(folder).expanduser())
    return Run(Path(folder).expanduser(), local)


def _check_names(tables: dict[str, Any], schema: Schema) -> None:
    allowed = ["left", "right", "records"] if schema.task is TaskKind.MATCHING else []
    if unknown := [name for name in tables if name not in allowed]:
        takes = f"takes {', '.join(allowed)}" if allowed else "takes none"
        raise ConfigError(f"{unknown[0]}: no such table; a {schema.task} run {takes}")


def absolute(path: Named) -> str:
    """The same folder wherever the process moves to."""
    return str(Path(path).expanduser().absolute())
