"""Predicting rows or pairs without labels."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from mmtab.config.types import Hardware, LocalSettings
from mmtab.data import files
from mmtab.data.csv_files import FOUND_OUT, Dialect
from mmtab.data.pairs import read_pairs_file, read_side, with_absent_columns
from mmtab.data.streams import Stream
from mmtab.data.table import Table
from mmtab.features.loader import RowBatches
from mmtab.runs.asked import PredictOptions, check_predict
from mmtab.runs.blocks import predict_rows
from mmtab.runs.folder import read_facts
from mmtab.runs.inputs import pair_ids, picture_root, records_to_match, row_ids, standard_table
from mmtab.runs.session import Rows, Session, open_run
from mmtab.training.predictions import stack
from mmtab.utils import distributed
from mmtab.utils.cache import Store
from mmtab.utils.engine import SERIAL, Engine
from mmtab.utils.errors import RunError

NO_OPTIONS = PredictOptions()


def predict(
    folder: Path,
    input: Path,
    output: Path,
    *,
    left: Path | None = None,
    right: Path | None = None,
    records: Path | None = None,
    hardware: Hardware | None = None,
    local: LocalSettings | None = None,
    coverage: float | None = None,
    cost: float | None = None,
    interval: float | None = None,
    image_root: Path | None = None,
    dialect: Dialect = FOUND_OUT,
    engine: Engine = SERIAL,
) -> int:
    """Predict rows or pairs; returns how many.

    folder:   a finished run
    input:    table of rows, or of pairs
    output:   the predictions file to write, .parquet or .csv
    left:     of pairs: table of the left rows
    right:    of pairs: table of the right rows
    records:  of pairs: the one table of all rows, instead of left and right
    local:    the cache; default as the environment says
    coverage: share of rows to predict, those with the highest confidence as measured on valid; None: all
    image_root: where paths of pictures start; None: at the folder of the table that names them
    dialect:  how text files are written; what is empty is found out
    cost:     of a false match, where a missed one costs 1, sets the threshold; None: that with the best F1 on valid
    interval: share of labels that are to lie within the intervals of numbers; None: 0.9
    engine:   where blocks of the table are computed
    """
    options, sides = PredictOptions(coverage, cost, interval), {"left": left, "right": right, "records": records}
    check_predict(folder, input, output, sides, options)
    session = open_run(folder, hardware, local)
    as_text = output.suffix == ".csv"
    table = predict_table(
        session, folder, input, sides, options, image_root=image_root, dialect=dialect, as_text=as_text, engine=engine
    )
    if distributed.is_first():
        files.write_table(output, table)
    return len(table)


def predict_table(
    session: Session,
    folder: Path,
    input: files.Source,
    sides: Mapping[str, files.Source | None],
    options: PredictOptions = NO_OPTIONS,
    *,
    image_root: Path | None = None,
    dialect: Dialect = FOUND_OUT,
    as_text: bool = False,
    store: Store | None = None,
    engine: Engine = SERIAL,
) -> pa.Table:
    """What a predictions file holds, of a table of rows, or of pairs.

    session: the open run of ``folder``
    input:   table of rows, or of pairs, on disk or in memory
    sides:   of pairs: left and right, or records
    image_root: where paths of pictures start, of tables on disk
    as_text: as a csv holds it
    store:   keeps features while they are needed, here; None: the cache, where they stay, or the workers of an engine
    engine:  where blocks of the table are computed
    """
    session, least_confidence = _check(session, folder, options)
    schema, bad_cells = session.schema, session.config.dataset.bad_cells
    rows: Rows
    with tempfile.TemporaryDirectory(prefix="mmtab-") if _on_disk(input, *sides.values()) else nullcontext("") as place:
        source = standard_table(input, schema, Path(place), dialect)
        if schema.of_rows:
            root = picture_root(input, image_root)
            rows = Stream(source, schema, root, bad_cells, labels=False, allow_empty=True)  # type: ignore[arg-type]
            ids = row_ids(rows)
        else:
            records = records_to_match(schema, bad_cells, Path(place), image_root=image_root, dialect=dialect, **sides)
            pairs = read_pairs_file(source, schema, records, allow_empty=True)
            rows, ids = (records, pairs), pair_ids(pairs)
        if not len(ids):
            predictions = session.task.no_predictions()
        elif store is None:
            labels = _unknown(session, len(ids)) if schema.of_rows else None
            predictions, _ = predict_rows(session, rows, engine, labels)
        elif isinstance(rows, tuple):
            predictions, _ = session.predictions(session.batches(rows, store))
        else:
            slices = session.encoded_slices(rows, store)
            predictions = stack([session.predictions(RowBatches(x, _unknown(session, x.n_rows)))[0] for x in slices])
    return session.predictions_table(ids, predictions, None, least_confidence, options.interval, as_text)


def embed_table(
    session: Session, source: files.InMemory, side: str | None = None, store: Store | None = None
) -> np.ndarray:
    """[n, d] float32 vectors of rows, or of the records of a ``side`` (left or right; None: of one table); ``store`` as
    for ``predict_table``."""
    schema, bad_cells = session.schema, session.config.dataset.bad_cells
    if side not in (None, "left", "right") or (side and schema.of_rows):
        raise RunError(f"side={side}: expected left or right, and only of a run of matching")
    if schema.id not in source.table.column_names:
        ids = pa.array(map(str, range(1, len(source.table) + 1)), pa.string())
        source = replace(source, table=source.table.add_column(0, schema.id, ids))
    file, options = standard_table(source, schema, source.parent), {"bad_cells": bad_cells, "allow_empty": True}
    table: Table | Stream
    if schema.of_rows:
        table = Stream(file, schema, source.parent, labels=False, **options)  # type: ignore[arg-type]
    else:
        table = read_side(file, side or "records", schema, folder=source.parent, **options)  # type: ignore[arg-type]
        table = with_absent_columns(table, schema)
    right = None if side is None else side == "right"
    parts = [session.vectors(encoded, right) for encoded in session.encoded_slices(table, store)] if len(table) else []
    return np.concatenate(parts) if parts else np.zeros((0, session.width), np.float32)


def _on_disk(*tables: files.Source | None) -> bool:
    return any(isinstance(table, Path) for table in tables)


def _unknown(session: Session, n: int) -> np.ndarray:
    return np.full(n, -1, np.int64) if session.fitted.n_classes else np.full(n, np.nan)


def _check(session: Session, folder: Path, options: PredictOptions) -> tuple[Session, np.ndarray | None]:
    """The session with the thresholds that the options ask for, and the least confidence [r] of a prediction. Raises
    RunError for options that the run cannot have."""
    options.check(session.schema)
    coverage, cost, interval = options.coverage, options.cost, options.interval
    least_confidence = None if coverage is None else _least_confidence(session, folder, coverage)
    if cost is not None:
        task: Any = copy.copy(session.task)  # the session is used again
        task.use_cost(cost)
        session = replace(session, task=task)
    if interval is not None:
        _check_interval(session, folder, interval)
    return session, least_confidence


def _check_interval(session: Session, folder: Path, level: float) -> None:
    task: Any = session.task
    try:
        if task.interval(task.no_predictions(), level) is None:
            raise RunError(f"{folder} has no intervals: {read_facts(folder).get('left_out', {}).get('intervals')}")
    except ValueError as error:
        raise RunError(f"interval={level}: {error}") from error


def _least_confidence(session: Session, folder: Path, coverage: float) -> np.ndarray:
    """[r] the confidence that the share ``coverage`` of valid reaches."""
    least_confidence = session.task.least_confidence(coverage)
    if least_confidence is None:
        left_out = read_facts(folder).get("left_out", {})
        why = left_out.get("confidence quantiles", "it is of an earlier mmtab; train again")
        raise RunError(f"{folder} has no confidence of valid, which coverage needs: {why}")
    return least_confidence
