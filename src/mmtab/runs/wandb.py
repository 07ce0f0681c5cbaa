"""Logging to wandb: settings, metrics by step, the most confident mistakes, and the run folder. A failure of wandb is
one warning, after which wandb is off: it never stops a run.

A run folder is one wandb run, whose id is in wandb_run.json. When a killed run resumes, or another split is scored, all
rows of metrics.csv are logged again. Online, wandb ignores steps that it has and takes those lost with the killed
process. Offline, it writes another, complete folder, which replaces the earlier ones when it is synced.
"""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import json
import logging
import os
import shlex
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image
from pytorch_lightning.loggers import Logger

from mmtab.config.types import WANDB_OFF, RunConfig
from mmtab.data import files
from mmtab.data import table as tables
from mmtab.data.cells import image_sources
from mmtab.data.digests import digest_of
from mmtab.data.pairs import Records, read_records
from mmtab.data.pictures import open_picture
from mmtab.data.schema import Column, ColumnType, Schema, TaskKind
from mmtab.data.spelling import spelling
from mmtab.data.table import Table
from mmtab.runs.folder import APART, TASK, deciding, learning_curves, read_run_file
from mmtab.runs.inputs import data_folder
from mmtab.runs.predictions import free_name
from mmtab.runs.scored import Scored, read_scored
from mmtab.runs.scored_numbers import ScoredNumbers
from mmtab.training.callbacks import MetricsLogger
from mmtab.training.places import BEST, LAST
from mmtab.utils import distributed
from mmtab.utils.atomic import write_json
from mmtab.utils.errors import DataError, MmtabError
from mmtab.utils.plain import read_plain, record, text

RUN = "wandb_run.json"
ARTIFACT_FILES = (
    "config.yaml",
    "schema.yaml",
    "fitted.json",
    TASK,
    "text_backbone/*",
    "cross_backbone/*",
    str(BEST),
    "metrics.csv",
    "metrics.json",
    "predictions_*.parquet",
    "provenance.json",
)
INIT_TIMEOUT, FINISH_TIMEOUT, END_TIMEOUT = 30.0, 120.0, 30.0  # seconds: to reach the server, to send the rest, to end
THUMBNAIL, MAX_PICTURES, LONGEST = 120, 4, 2000  # pixels, pictures of a cell, characters of a text

_open: dict[Path, Wandb] = {}  # the one open run of this process, by its folder


def wandb_loggers(config: RunConfig, folder: Path) -> list[Logger]:
    """The logger of the first process, where wandb is not disabled."""
    if config.wandb.mode in WANDB_OFF or not distributed.is_first():
        return []
    return [_opened(config, folder, resumes=config.resume == "auto" and (folder / LAST).exists())]


def log_results(config: RunConfig, folder: Path, split: str, data: Path | None = None) -> None:
    """Log a split that was scored: metrics, the most confident mistakes and, unless test is still to come, the run
    folder. ``data``: the dataset folder, where it is not that of the settings."""
    if config.wandb.mode in WANDB_OFF or not (folder in _open or (folder / RUN).exists()):
        return
    logger = _open.get(folder) or _opened(config, folder, resumes=True)
    logger.log_results(split, data)
    if not config.test or "test" in logger.logged_splits:
        _close()


def _opened(config: RunConfig, folder: Path, resumes: bool) -> Wandb:
    _close()
    _open[folder] = Wandb(config, folder, resumes)
    atexit.register(_close)  # before what wandb itself does then
    return _open[folder]


def _close() -> None:
    for logger in _open.values():
        logger.finish()
    _open.clear()


def group_of(config: RunConfig) -> str:
    """The same for runs that differ only in the seed and in settings that leave results as they are."""
    apart = (APART | {"seed"}) - {"dataset.path"}  # which tells one custom dataset from another
    settings = json.dumps(deciding(config, apart), sort_keys=True)
    return f"{config.dataset.name}-{digest_of(settings)[:8]}"


class Wandb(MetricsLogger):
    """One wandb run, or none once wandb is off. ``resumes``: continue the wandb run of the folder, if it has one."""

    def __init__(self, config: RunConfig, folder: Path, resumes: bool) -> None:
        super().__init__()
        self.config, self.folder = config, folder
        self.logged_splits: set[str] = set()
        self._run: Any = None
        id, problem = _stored_id(folder) if resumes else None, None
        for mode in dict.fromkeys([str(config.wandb.mode), "offline"]):
            try:
                self._run = _start(config, folder, mode, id)
                break
            except Exception as error:  # wandb may raise anything
                problem = problem or error
                _tear_down()  # it holds on to the id
        if problem is not None:
            self._warn(problem, "off" if self._run is None else "offline")
        self._do(lambda run: write_json(folder / RUN, {"id": run.id}))
        if id is not None:
            self._do(self._log_again)

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self._do(lambda run: run.log(dict(metrics), step=step))

    def log_results(self, split: str, data: Path | None) -> None:
        self._do(lambda run: self._log_split(run, split, data))

    def finalize(self, status: str) -> None:
        if status != "success":  # after which the results are still to come
            self.finish()

    def finish(self) -> None:
        """End the wandb run, as failed where no split was logged."""
        if self.logged_splits and self.config.wandb.artifact:
            self._do(self._send_folder)
        self._do(lambda run: run.finish(exit_code=0 if self.logged_splits else 1))
        if self._run is not None and self._run.offline:
            print(f"wandb is offline; to send this run: {_sync(self._run)}", flush=True)
        self._run = None

    def _do(self, action: Callable[[Any], object]) -> None:
        """Call ``action`` unless wandb is off; where it fails, wandb is off from then on."""
        if self._run is None:
            return
        try:
            action(self._run)
        except Exception as error:  # wandb may raise anything
            self._warn(error, f"off (`{_sync(self._run)}` may send what it knew before)")
            self._run = None
            _tear_down()

    def _warn(self, problem: Exception, state: str) -> None:
        text = " ".join(str(problem).split()) or type(problem).__name__
        warnings.warn(f"{self.folder}: wandb is {state}: {text}", stacklevel=2)

    def _log_again(self, run: Any) -> None:
        for row in learning_curves(self.folder):
            step = int(row.pop("step"))
            run.log(row, step=step)

    def _log_split(self, run: Any, split: str, data: Path | None) -> None:
        config, metrics = self.config, read_run_file(self.folder, "metrics.json")
        run.log({})  # ends the last row, whose metrics would else be the summary
        run.summary.update({f"{s}/{name}": x for s, values in metrics.items() for name, x in values.items()})
        if config.wandb.mistakes:
            data = data or data_folder(config)
            with _copies_in(self.folder / "wandb"):
                for name in [name for name in metrics if name == split or name not in self.logged_splits]:
                    run.log(mistakes(config, self.folder, data, name))
        self.logged_splits |= {*metrics}

    def _send_folder(self, run: Any) -> None:
        import wandb

        artifact = wandb.Artifact(f"run-{run.id}", type="model")
        for path in (path for pattern in ARTIFACT_FILES for path in sorted(self.folder.glob(pattern))):
            name = path.relative_to(self.folder).as_posix()
            artifact.add_file(str(path), name=name, policy="immutable", skip_cache=True)  # without a copy
        with _copies_in(self.folder / "wandb"):
            run.log_artifact(artifact)


def _stored_id(folder: Path) -> str | None:
    with contextlib.suppress(OSError, MmtabError):
        return read_plain(folder / RUN, record({"id": text}))["id"]
    return None


def _start(config: RunConfig, folder: Path, mode: str, id: str | None) -> Any:
    """Start a wandb run that neither prints nor prompts. Raises what wandb raises."""
    import wandb

    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)  # wandb's telemetry
    wandb.setup(wandb.Settings(silent=True))
    settings = wandb.Settings(
        console="off", init_timeout=INIT_TIMEOUT, finish_timeout=FINISH_TIMEOUT, finish_timeout_raises=True
    )
    options: dict[str, Any] = {
        "id": id,
        "mode": mode,
        "resume": "allow" if mode == "online" else None,  # None: what is synced replaces the run
        "project": config.wandb.project,
        "name": f"{config.dataset.name}-seed{config.seed}",
        "group": config.wandb.group or group_of(config),
        "job_type": config.wandb.job_type,
        "tags": list(config.wandb.tags),
        "config": dataclasses.asdict(config),
        "dir": folder,
        "reinit": "create_new",  # beside a run that a notebook may have of its own
        "settings": settings,
    }
    return wandb.init(**options)


def _tear_down() -> None:
    """End wandb's own process, for which this one would otherwise wait at its end. It may hang, and wandb itself sets
    no limit; and where it ended badly, wandb ends this one."""

    def end() -> None:
        with contextlib.suppress(Exception, SystemExit):
            import wandb

            wandb.teardown(exit_code=1)

    thread = threading.Thread(target=end, daemon=True)
    thread.start()
    thread.join(END_TIMEOUT)


def _sync(run: Any) -> str:
    return f"wandb sync {shlex.quote(str(Path(run.dir).parent))}"


@contextlib.contextmanager
def _copies_in(folder: Path) -> Iterator[None]:
    """wandb copies pictures before it sends them: to ``folder`` instead of the user's home, unless the user chose."""
    chosen = "WANDB_DATA_DIR" in os.environ
    os.environ.setdefault("WANDB_DATA_DIR", str(folder.resolve()))
    try:
        yield
    finally:
        if not chosen:
            del os.environ["WANDB_DATA_DIR"]


# --- mistakes --------------------------------------------------------------------------------------------------------


def mistakes(config: RunConfig, folder: Path, data: Path, split: str) -> dict[str, Any]:
    """wandb tables by name, one for each relation: the most confident wrong predictions with their rows (or both rows
    of the pairs). The probability is that of the predicted class, or of a match."""
    import wandb

    splits, tables_by_name = read_scored(folder, split), {}
    schema = splits[0].schema
    records = _read_records(config, schema, data, split)
    for predictions in splits:
        numbers = isinstance(predictions, ScoredNumbers)
        n = config.wandb.mistakes
        worst = predictions.worst(n) if isinstance(predictions, ScoredNumbers) else predictions.surest_mistakes(n)
        ids = predictions.id_columns.take(pa.array(worst))
        sides = [""] if schema.of_rows else ["left", "right"]
        cells = [_cells(records, schema, ids[name], side) for name, side in zip(ids.column_names, sides, strict=True)]
        rows: list[Any] = [
            [*shown, *(side[i][c] for c in range(len(schema.columns)) for side in cells)]
            for i, shown in enumerate(mistake_rows(predictions, worst))
        ]
        columns = [f"{side} {column.name}".strip() for column in schema.columns for side in sides]
        suffix = "" if predictions.relation is None else f"_{predictions.relation}"
        taken = [*ids.column_names, *columns]
        shown_names = ("label", "prediction", "error" if numbers else "probability")
        names = [*ids.column_names, *(free_name(n, taken) for n in shown_names), *columns]
        tables_by_name[f"{split}/mistakes{suffix}"] = wandb.Table(columns=names, data=rows)
    return tables_by_name


def mistake_rows(predictions: Scored, worst: np.ndarray) -> list[list[Any]]:
    """Ids, label, prediction and probability (of numbers, error) of the rows ``worst``."""
    probability: np.ndarray
    if isinstance(predictions, ScoredNumbers):
        y_true, y_pred = (y[worst].tolist() for y in (predictions.y_true, predictions.y_pred))
        probability = predictions.error
    elif predictions.threshold is None:
        y_true, y_pred = ([predictions.classes[i] for i in y[worst]] for y in (predictions.y_true, predictions.y_pred))
        probability = predictions.p_pred
    else:
        y_true, y_pred = (y[worst].tolist() for y in (predictions.y_true, predictions.y_pred))
        probability = predictions.p_match
    ids = predictions.id_columns.take(pa.array(worst)).to_pydict().values()
    return [list(row) for row in zip(*ids, y_true, y_pred, probability[worst].tolist(), strict=True)]


def _read_records(config: RunConfig, schema: Schema, data: Path, split: str) -> Iterable[Records]:
    """The rows of a split, or the records of all pairs; nothing where the split is not there any more."""
    bad_cells: Any = config.dataset.bad_cells
    if schema.task is TaskKind.MATCHING:
        return [read_records(data, schema, bad_cells)]
    if not files.exists(data, split):
        return []
    path = tables.find_table(data, schema, split)
    return (Records(b, None) for b in tables.read_batches(path, schema, folder=data, bad_cells=bad_cells))


def _cells(records: Iterable[Records], schema: Schema, ids: pa.ChunkedArray, side: str) -> list[list[Any]]:
    """The cells of the rows with these ids, by column; None where there is no such row."""
    cells: list[list[Any]] = [[None] * len(schema.columns) for _ in ids]
    names = spelling(ids.combine_chunks())
    for part in records:
        for i, row in enumerate(part.row_of(names, side).to_pylist()):
            if row is not None:
                cells[i] = [_cell(part.table, row, column) for column in schema.columns]
    return cells


def _cell(table: Table, row: int, column: Column) -> Any:
    cell = table.columns[column.name][row].as_py()
    if column.type is ColumnType.IMAGE:
        return _pictures(table, row, column.name, cell)
    if column.type is ColumnType.DATETIME and cell is not None and abs(cell) < 2e11:
        return str(np.datetime64(int(cell), "s"))
    return cell[:LONGEST] if isinstance(cell, str) else cell


def _pictures(table: Table, row: int, column: str, cell: object) -> Any:
    """The first pictures of a cell side by side, as a cell of a wandb table shows one; None where there is none."""
    import wandb

    pictures = []
    for source in image_sources(cell, table.folder)[:MAX_PICTURES]:
        with contextlib.suppress(DataError):  # the run took it as missing
            picture = open_picture(table, source, row, column)
            picture.thumbnail((THUMBNAIL, THUMBNAIL))
            pictures.append(picture)
    if not pictures:
        return None
    size = sum(picture.width for picture in pictures), max(picture.height for picture in pictures)
    strip, left = Image.new("RGB", size, "white"), 0
    for picture in pictures:
        strip.paste(picture, (left, 0))
        left += picture.width
    return wandb.Image(strip, file_type="jpg")
