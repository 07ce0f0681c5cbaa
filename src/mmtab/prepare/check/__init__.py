"""Is the dataset in the standard, and would a benchmark on it be honest? A list of alarms, worst first."""

from __future__ import annotations

from pathlib import Path

from mmtab.data.schema import Schema
from mmtab.prepare.check.alarms import Alarm, Severity, fault, ranked
from mmtab.prepare.check.matching import check_matching
from mmtab.prepare.check.rows import check_rows
from mmtab.utils.errors import DataError

__all__ = ["Alarm", "Severity", "check"]


def check(folder: Path, schema: Schema | None = None, *, images: bool = True) -> list[Alarm]:
    """All alarms of a dataset folder, worst first; faulty data is an alarm of severity ``error``, never an exception.

    Tables of rows are streamed, so they may be larger than memory; what would need all rows at once is estimated from
    seeded samples and says so. ``images=False`` leaves the pictures unopened: then equal pictures are equal paths.
    """
    try:
        schema = schema or Schema.read(folder)
    except DataError as error:
        return [fault(error)]
    look = check_rows if schema.of_rows else check_matching
    return ranked(look(folder, schema, images))
