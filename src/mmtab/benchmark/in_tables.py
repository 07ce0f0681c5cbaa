"""The pairs of a benchmark scored within the tables that they come from, whose other records need no labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from mmtab.benchmark.scoring import write_splits
from mmtab.benchmark.truth import Truth
from mmtab.config.types import MatchConfig
from mmtab.matching.labels import find_pairs
from mmtab.matching.pipeline import match


def predict_in_tables(run: Path, data: Path, output: Path) -> int:
    """Match the whole tables of the run's dataset, write predictions_valid and predictions_test of their pairs and
    return how many these are. Pairs that blocking leaves out have probability 0; thresholds are chosen on valid."""
    matches = match(MatchConfig(run=str(run), output=str(output / "matches.parquet"), explain=False))
    records, p = matches.records, {}
    truths = Truth.read(data, "valid"), Truth.read(data, "test", labelled=False)
    for truth in truths:
        ends = (records.row_of(pa.array(truth.ids[f"{side}_id"]), side) for side in ("left", "right"))
        left, right = (np.asarray(rows).astype(np.int64) for rows in ends)
        place = find_pairs(matches.left, matches.right, left, right, len(records.table))
        p[truth.split] = np.where(place[:, None] >= 0, matches.probability[place], 0.0)
    write_splits(output, *truths, p)
    return sum(map(len, truths))
