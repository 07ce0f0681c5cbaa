"""Search towers: records of other columns that match lie near each other, whatever the pair model makes of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
import yaml
from toy_data import COLOURS, NOUNS, write_pairs, write_table

from mmtab.config.types import MatchConfig
from mmtab.matching.pipeline import find_candidates, match
from mmtab.model.towers import SearchTowers
from mmtab.runs.session import open_run
from mmtab.runs.setup import Prepared, prepare
from mmtab.runs.train import train

N = 300
SMALL = ("trainer.max_epochs=1", "search.d_hidden=32", "search.d_vector=32")


def write_other_columns(folder: Path, seed: int = 0) -> Path:
    """Left has a size and a kind; right has colours, in other words, of which the kind and the size tell which."""
    rng = np.random.default_rng(seed)
    kind, size, other = rng.integers(0, 8, N), rng.integers(0, 6, N), rng.integers(0, 4, N)
    left = {
        "id": [f"l{i}" for i in range(N)],
        "kind": [NOUNS[k] for k in kind],
        "size": size + rng.normal(0, 0.1, N),
        "note": [NOUNS[k] for k in other],
    }
    right = {
        "id": [f"r{i}" for i in range(N)],
        "colour": [COLOURS[k] for k in (kind + 3) % 8],
        "class": [f"c{s}" for s in size],
        "shade": [COLOURS[k] for k in other],
    }
    write_table(folder / "left.parquet", left)
    write_table(folder / "right.parquet", right)
    ends = rng.permutation(N)
    for split, part in {"train": ends[:200], "valid": ends[200:250], "test": ends[250:]}.items():
        pairs = {
            "left_id": [f"l{i}" for i in part] * 2,
            "right_id": [f"r{i}" for i in part] + [f"r{(i + 1) % N}" for i in part],
            "label": pa.array([1] * len(part) + [0] * len(part), pa.int8()),
        }
        write_table(folder / f"pairs_{split}.parquet", pairs)
    categories = ("kind", "note", "colour", "class", "shade")
    described = {
        "name": folder.name,
        "task": "matching",
        "id": "id",
        "columns": {**{name: "categorical" for name in categories}, "size": "numeric"},
    }
    (folder / "dataset.yaml").write_text(yaml.safe_dump(described))
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_other_columns(tmp_path_factory.mktemp("other") / "columns")


@pytest.fixture(scope="module")
def run(data: Path, small_config: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "run"
    train(small_config(folder, data, *SMALL), folder)
    return folder


def towers_of(prepared: Prepared) -> SearchTowers:
    towers = prepared.session.model.search
    assert isinstance(towers, SearchTowers)
    return towers


def vectors(prepared: Prepared, right: bool | None) -> torch.Tensor:
    """Of all records, as if on one side."""
    table = prepared.train.table
    batch, is_right = table.rows(np.arange(table.n_rows)), None
    if right is not None:
        is_right = torch.full((table.n_rows,), right)
    with prepared.session.evaluating():
        return towers_of(prepared)(batch, is_right)


def candidates(run: Path, output: Path, **settings: Any) -> dict[str, Any]:
    return find_candidates(MatchConfig(run=str(run), output=str(output), stop="blocking", shard=64, **settings))


def test_records_that_share_no_word_are_found(run: Path, data: Path, tmp_path: Path) -> None:
    truth = {"truth": str(data / "pairs_test.parquet")}
    report = candidates(run, tmp_path / "c.parquet", k=20, **truth)
    assert report["scores"]["blocking_recall"] > 0.85 > 0.1 > 20 / N
    assert report["blocking"]["weight_of_vectors"] > 0 and report["blocking"]["candidates_per_record"] == 20
    chosen = candidates(run, tmp_path / "c.parquet", recall=0.8, **truth)["blocking"]
    assert chosen["k"] < 20 and chosen["valid_recall"] >= 0.8
    bounded = candidates(run, tmp_path / "c.parquet", max_candidates=2 * N)["blocking"]
    assert bounded["k"] <= 2


def test_what_stops_after_blocking_is_what_is_scored(run: Path, tmp_path: Path) -> None:
    """Candidates and vectors as files, from which the scores follow."""
    report = candidates(run, tmp_path / "c.parquet", k=3)
    found = pa.parquet.read_table(tmp_path / "c.parquet").to_pydict()
    records = pa.parquet.read_table(tmp_path / "c_vectors.parquet").to_pydict()
    assert report == json.loads((tmp_path / "c.json").read_text()) and not list(tmp_path.glob("*.parts"))
    place = {name: i for i, name in enumerate(records["id"])}
    assert records["table"] == ["left"] * N + ["right"] * N
    cells = np.array(records["vector"])
    np.testing.assert_allclose(np.linalg.norm(cells, axis=1), 1, atol=1e-5)
    weight = report["blocking"]["weight_of_vectors"]
    ends = [[place[name] for name in found[side]] for side in ("left_id", "right_id")]
    cosine = (cells[ends[0]] * cells[ends[1]]).sum(1)
    np.testing.assert_allclose(found["score"], weight * cosine, atol=1e-5)  # the sides share no word
    whole = match(MatchConfig(run=str(run), output=str(tmp_path / "m.parquet"), k=3, explain=False))
    assert (whole.left.tolist(), (whole.right).tolist()) == (ends[0], ends[1])


def test_towers_are_kept_and_are_the_same_again(
    run: Path, data: Path, small_config: Callable[..., Any], tmp_path: Path
) -> None:
    kept = open_run(run).model.search.state_dict()
    config = small_config(tmp_path / "run", data, *SMALL, f"cache={tmp_path / 'another'}")
    again = towers_of(prepare(config)).state_dict()
    assert all(torch.equal(kept[name], again[name]) for name in kept)
    other = towers_of(prepare(small_config(tmp_path / "run", data, *SMALL, "seed=1"))).state_dict()
    assert not all(torch.equal(kept[name], other[name]) for name in kept)


def test_no_score_depends_on_them(run: Path, data: Path, small_config: Callable[..., Any], tmp_path: Path) -> None:
    train(small_config(tmp_path / "without", data, "trainer.max_epochs=1", "search=none"), tmp_path / "without")
    scores = [
        pa.parquet.read_table(folder / "predictions_valid.parquet")["probability"].to_pylist()
        for folder in (run, tmp_path / "without")
    ]
    assert scores[0] == scores[1]
    report = candidates(tmp_path / "without", tmp_path / "c.parquet", k=5)  # as runs of before do
    assert open_run(tmp_path / "without").model.search is None and report["blocking"]["candidates_per_record"] == 5


def test_ignored_columns_do_not_move_vectors(backbone: Path, small_config: Callable[..., Any], tmp_path: Path) -> None:
    data = write_pairs(tmp_path / "toys", n=400, images=False)
    for split in ("train", "valid", "test"):
        path = data / f"pairs_{split}.parquet"
        table = pa.parquet.read_table(path)
        both = table.rename_columns(["left_id", "right_id", "same"]).append_column("alike", table["label"])
        pa.parquet.write_table(both, path)
    described = yaml.safe_load((data / "dataset.yaml").read_text())
    described["relations"] = {"same": {}, "alike": {"ignore": ["size", "colour", "title"]}}
    (data / "dataset.yaml").write_text(yaml.safe_dump(described))
    prepared = prepare(small_config(tmp_path / "run", data, *SMALL))
    towers = towers_of(prepared)
    assert not towers.two_sides, "both sides have the same columns"
    before = vectors(prepared, None)
    encoded = prepared.train.table
    missing = {name: np.ones(encoded.n_rows, bool) for name in ("size", "colour", "title")}
    hidden = encoded.without(missing).rows(np.arange(encoded.n_rows))
    with prepared.session.evaluating():
        assert torch.equal(before, towers(hidden, None))
        shown = encoded.without({"made": np.ones(encoded.n_rows, bool)}).rows(np.arange(encoded.n_rows))
        assert not torch.equal(before, towers(shown, None))


def test_a_table_of_both_sides_has_vectors_by_both_towers(
    data: Path, small_config: Callable[..., Any], tmp_path: Path
) -> None:
    prepared = prepare(small_config(tmp_path / "run", data, *SMALL))
    left, right, both = (vectors(prepared, side) for side in (False, True, None))
    assert towers_of(prepared).two_sides
    torch.testing.assert_close(both, torch.nn.functional.normalize(left + right, dim=1))


def test_few_matches_make_no_towers(small_config: Callable[..., Any], tmp_path: Path) -> None:
    data = write_pairs(tmp_path / "toys", n=100, images=False)
    assert prepare(small_config(tmp_path / "run", data)).session.model.search is None
