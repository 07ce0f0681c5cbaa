"""Predicting rows or pairs without labels."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path

import numpy as np

from mmtab.config.types import Hardware, LocalSettings
from mmtab.data import raw
from mmtab.data.csv_files import FOUND_OUT, Dialect
from mmtab.data.files import FORMATS
from mmtab.data.pairs import read_pairs_file
from mmtab.data.streams import Stream
from mmtab.runs.folder import read_facts
from mmtab.runs.inputs import check_output, pair_ids, records_to_match, row_ids, standard_table
from mmtab.runs.session import Batches, Session, open_run
from mmtab.training.regression import RegressionTask
from mmtab.training.tasks import PairTask
from mmtab.utils import distributed
from mmtab.utils.errors import RunError


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
    dialect: Dialect = FOUND_OUT,
) -> int:
    """Predict rows or pairs; returns how many. Image paths start at the folder of the table that names them.

    folder:   a finished run
    input:    table of rows, or of pairs
    output:   the predictions file to write, .parquet or .csv
    left:     of pairs: table of the left rows
    right:    of pairs: table of the right rows
    records:  of pairs: the one table of all rows, instead of left and right
    local:    the cache; default as the environment says
    coverage: share of rows to predict, those with the highest confidence as measured on valid; None: all
    dialect:  how text files are written; what is empty is found out
    cost:     of a false match, where a missed one costs 1, sets the threshold; None: that with the best F1 on valid
    interval: share of labels that are to lie within the intervals of numbers; None: 0.9
    """
    check_output(output, [input, left, right, records])
    session = open_run(folder, hardware, local)
    least_confidence = None if coverage is None else _least_confidence(session, folder, coverage)
    if cost is not None:
        if not isinstance(session.task, PairTask):
            raise RunError(f"cost is for matching; this is a run of {session.schema.task}")
        if not isinstance(cost, int | float) or not 0 < cost < math.inf:
            raise RunError(
                f"cost={cost}: expected a number above 0, what a false match costs where a missed one costs 1"
            )
        session.task.use_cost(cost)
    if interval is not None:
        _check_interval(session, folder, interval)
    if output.suffix not in FORMATS:
        raise RunError(f"output={output}: expected a name ending in .parquet or .csv")
    bad_cells = session.config.dataset.bad_cells
    batches: Batches | None = None
    root = raw.root_of(input.expanduser().resolve())
    with tempfile.TemporaryDirectory(prefix="mmtab-") as scratch:
        file = standard_table(input, session.schema, Path(scratch), dialect)
        if session.schema.of_rows:
            table = Stream(file, session.schema, root, bad_cells, labels=False, allow_empty=True)  # type: ignore[arg-type]
            ids = row_ids(table)
            batches = session.row_batches(table) if len(ids) else None
        else:
            records_by_name = {"left": left, "right": right, "records": records}
            both = records_to_match(session.schema, bad_cells, Path(scratch), dialect=dialect, **records_by_name)
            pairs = read_pairs_file(file, session.schema, both, allow_empty=True)
            ids = pair_ids(pairs)
            batches = session.pairs(both, session.encode_new(both.table), pairs) if len(ids) else None
        predictions = session.task.no_predictions() if batches is None else session.predictions(batches)[0]
    if distributed.is_first():
        session.write_predictions(output, ids, predictions, None, least_confidence, interval)
    return len(ids)


def _check_interval(session: Session, folder: Path, level: float) -> None:
    if not isinstance(session.task, RegressionTask):
        raise RunError(f"interval is for regression; this is a run of {session.schema.task}")
    if not isinstance(level, int | float) or not 0 < level < 1:
        raise RunError(f"interval={level}: expected a share of the labels, above 0 and below 1")
    try:
        if session.task.interval(session.task.no_predictions(), level) is None:
            raise RunError(f"{folder} has no intervals: {read_facts(folder).get('left_out', {}).get('intervals')}")
    except ValueError as error:
        raise RunError(f"interval={level}: {error}") from error


def _least_confidence(session: Session, folder: Path, coverage: float) -> np.ndarray:
    """[r] the confidence that the share ``coverage`` of valid reaches."""
    if not isinstance(coverage, int | float) or not 0 < coverage <= 1:
        raise RunError(f"coverage={coverage}: expected a share of the rows, above 0 and at most 1")
    least_confidence = session.task.least_confidence(coverage)
    if least_confidence is None:
        left_out = read_facts(folder).get("left_out", {})
        why = left_out.get("confidence quantiles", "it is of an earlier mmtab; train again")
        raise RunError(f"{folder} has no confidence of valid, which coverage needs: {why}")
    return least_confidence
