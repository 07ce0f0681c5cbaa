"""Whether a run can do what it is asked, by its small files and the names of tables: told before anything slow is
imported or opened."""

from __future__ import annotations

import math
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmtab.config.types import LocalSettings
from mmtab.data import files, raw
from mmtab.data import table as tables
from mmtab.data.csv_files import Dialect
from mmtab.data.schema import Schema, TaskKind
from mmtab.data.streams import Stream
from mmtab.runs.folder import open_config, read_schema
from mmtab.runs.inputs import check_output, check_outside, picture_root, standard_table, trained_on
from mmtab.utils.addresses import address_of
from mmtab.utils.errors import RunError
from mmtab.utils.paths import check_writable

SMALL = 32 << 20  # bytes of a file that is read twice within a moment


@dataclass(frozen=True)
class PredictOptions:
    """``coverage``, ``cost`` and ``interval``, see ``predict``."""

    coverage: float | None = None
    cost: float | None = None
    interval: float | None = None

    def check(self, schema: Schema) -> None:
        """Raise RunError for an option that a run of this schema cannot have."""
        if self.coverage is not None and not (isinstance(self.coverage, int | float) and 0 < self.coverage <= 1):
            raise RunError(f"coverage={self.coverage}: expected a share of the rows, above 0 and at most 1")
        if self.cost is not None:
            if schema.task is not TaskKind.MATCHING:
                raise RunError(f"cost is for matching; this is a run of {schema.task}")
            if not isinstance(self.cost, int | float) or not 0 < self.cost < math.inf:
                problem = "expected a number above 0, what a false match costs where a missed one costs 1"
                raise RunError(f"cost={self.cost}: {problem}")
        if self.interval is not None:
            if schema.task is not TaskKind.REGRESSION:
                raise RunError(f"interval is for regression; this is a run of {schema.task}")
            if not isinstance(self.interval, int | float) or not 0 < self.interval < 1:
                raise RunError(f"interval={self.interval}: expected a share of the labels, above 0 and below 1")


def check_sides(schema: Schema, sides: Mapping[str, object]) -> None:
    """Raise RunError where ``sides`` (left, right, records) are not what this task predicts by."""
    given = [name for name, table in sides.items() if table is not None]
    if schema.of_rows and given:
        raise RunError(
            f"{' and '.join(given)}: for matching; this is a run of {schema.task}. Fix: leave out {given[0]}="
        )
    if not schema.of_rows and given not in (["left", "right"], ["records"]):
        raise RunError("matching wants left=TABLE and right=TABLE, or records=TABLE")


def check_predict(
    run: Path, input: str | Path, output: Path, sides: Mapping[str, str | Path | None], options: PredictOptions
) -> Schema:
    """The schema of the run. Raises RunError for what it cannot be asked, and RunError or ConfigError where what is
    read would be overwritten."""
    schema, given = read_schema(run), {"input": input, **sides}
    if output.suffix not in files.FORMATS:
        raise RunError(f"output={output}: expected a name ending in .parquet or .csv")
    check_tables(given)
    options.check(schema)
    check_sides(schema, sides)
    check_output(output, [Path(table) for table in given.values() if table])
    check_outside(output, run)
    check_writable(output, "output", is_file=True)
    return schema


def check_tables(paths: Mapping[str, str | Path | None]) -> None:
    """Raise RunError for a file that is no table by its name."""
    for name, text in paths.items():
        if text and address_of(Path(text)) is None and Path(text).is_file() and not raw.suffix_of(Path(text)):
            raise RunError(f"{name}={text}: no table; expected a name ending in one of {', '.join(raw.FORMATS)}")


def check_rows(path: Path, schema: Schema, bad_cells: Any, image_root: Path | None, dialect: Dialect) -> None:
    """Raise DataError where the first rows of a table cannot be read. Of a large one nothing is said: it may have to be
    written anew to be read, and is later."""
    if not path.is_file() or path.stat().st_size > SMALL:
        return
    with tempfile.TemporaryDirectory(prefix="mmtab-") as place, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they are given when it is read in earnest
        source, root = standard_table(path, schema, Path(place), dialect), picture_root(path, image_root)
        next(Stream(source, schema, root, bad_cells, labels=False, allow_empty=True).batches(), None)


def check_split(run: Path, split: str, path: Path | None, local: LocalSettings | None) -> None:
    """Raise RunError or DataError where the dataset of a run, or the one at ``path``, has no such split."""
    schema = read_schema(run)
    if path is not None and (path / "dataset.yaml").is_file() and (task := Schema.read(path).task) is not schema.task:
        raise RunError(f"path={path} is a dataset of {task}; {run} is a run of {schema.task}. Fix: another path or run")
    folder = path.expanduser() if path is not None else trained_on(run, open_config(run, local))
    tables.find_table(folder, schema, schema.table_of(split))
