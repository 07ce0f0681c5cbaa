"""Pairs scored within the tables that they come from."""

from __future__ import annotations

from pathlib import Path

import pytest
from toy_data import read_rows

from mmtab.benchmark.in_tables import predict_in_tables
from mmtab.benchmark.plan import check_systems
from mmtab.benchmark.scoring import metrics, read_predictions
from mmtab.benchmark.truth import Truth
from mmtab.config.ranking import BenchmarkConfig, SystemConfig
from mmtab.utils.errors import ConfigError


def test_predictions_are_those_of_matching_the_tables(pairs_run: tuple[Path, Path], tmp_path: Path) -> None:
    data, run = pairs_run
    n = predict_in_tables(run, data, tmp_path)
    candidates = {(row["left_id"], row["right_id"]): row for row in read_rows(tmp_path / "matches.parquet")}
    found, n_written = 0, 0
    for split in ("valid", "test"):
        truth = Truth.read(data, split)
        checked = read_predictions(tmp_path / f"predictions_{split}.parquet", truth)
        assert checked.probability is not None and 0 <= metrics(truth, checked)["f1"] <= 1
        n_written += len(truth)
        for key, p in zip(truth.keys, checked.probability[:, 0].tolist(), strict=True):
            if key in candidates:
                assert p == candidates[key]["probability"]
                found += 1
    assert n_written == n and found > 0


@pytest.mark.parametrize(
    "changes", [{"train": None, "baseline": "majority"}, {"tasks": ["kway", "matching"]}], ids=["train", "tasks"]
)
def test_it_takes_a_pair_model(changes: dict[str, object], tmp_path: Path) -> None:
    given = {"title": "a system", "train": ["recipe=frozen"], "tasks": ["matching"], "in_tables": True} | changes
    system = SystemConfig(**given)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="in_tables=true goes with train and tasks"):
        check_systems(BenchmarkConfig(output=str(tmp_path), system={"ours": system}))
