"""Scores of candidates weighed against those of their rivals."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from scipy.special import expit
from toy_data import read_rows, write_pairs, write_table

from mmtab.config.types import MatchConfig
from mmtab.matching import pipeline, rivals
from mmtab.matching.rivals import Graph, weigh
from mmtab.runs.train import train

N = 120  # records of a side; l and N + l match


def graph(seed: int = 0) -> tuple[Graph, np.ndarray, np.ndarray]:
    """Every left record with its partner, the record that is near all of them, and others; probabilities of a model to
    which that record looks like the partner of all; and the answers."""
    rng = np.random.default_rng(seed)
    own, hub = np.arange(N), np.full(N, 2 * N)
    others = [(own + shift) % N for shift in (3, 7)]
    left, right = np.tile(own, 4), np.concatenate([own + N, hub, *(other + N for other in others)])
    match = right == left + N
    log_odds = np.select([match, right == 2 * N], [1.0, 1.5], -1.0) + rng.normal(0, 0.7, len(left))
    nearness = np.select([match, right == 2 * N], [0.6, 0.7], 0.4) + rng.normal(0, 0.1, len(left))
    return Graph(left, right, 2 * N + 1, nearness.astype(np.float32)), expit(log_odds), match


def test_a_record_that_is_near_all_others_is_the_partner_of_none() -> None:
    of, probability, match = graph()
    known = np.where(of.left < 80, match, -1)
    weighed = weigh(of, probability, known)
    assert weighed is not None and ((weighed > 0) & (weighed < 1)).all()
    new, hub = of.left >= 80, of.right == 2 * N
    assert (probability[hub & new] > probability[match & new]).mean() > 0.5, "which the model alone takes for one"
    assert (weighed[match & new] > weighed[hub & new]).mean() > 0.9
    assert weighed[new].sum() == pytest.approx(match[new].sum(), rel=0.2), "calibrated among candidates"


def test_neither_the_order_of_candidates_nor_the_sides_of_one_table_matter() -> None:
    of, probability, match = graph()
    known = np.where(of.left < 80, match, -1)
    order = np.random.default_rng(1).permutation(len(match))
    shuffled = Graph(of.left[order], of.right[order], of.n_records, of.nearness[order])
    np.testing.assert_allclose(
        weigh(shuffled, probability[order], known[order]), weigh(of, probability, known)[order], rtol=1e-3
    )
    swap = np.random.default_rng(2).random(len(match)) < 0.5
    ends = np.where(swap, of.right, of.left), np.where(swap, of.left, of.right)
    given = (of.n_records, of.nearness, True)
    swapped, straight = (weigh(Graph(*ends, *given), probability, known) for ends in (ends, (of.left, of.right)))
    np.testing.assert_allclose(swapped, straight, rtol=1e-6)


def test_a_record_of_one_table_is_touched_on_either_side() -> None:
    ends = np.array([0, 1, 2]), np.array([3, 4, 5])
    pair = np.array([4]), np.array([0])
    touched = [Graph(*ends, 6, np.zeros(3), one_table).touched(*pair).tolist() for one_table in (True, False)]
    assert touched == [[True, True, False], [False, False, False]]


def test_what_is_the_same_in_all_that_is_known_says_nothing_of_others() -> None:
    of, probability, match = graph()
    nearness = np.where(of.left < 80, 0.5, of.nearness * 1000).astype(np.float32)
    weighed = weigh(Graph(of.left, of.right, of.n_records, nearness), probability, np.where(of.left < 80, match, -1))
    new = of.left >= 80
    assert weighed is not None and weighed[match & new].mean() > weighed[~match & new].mean() + 0.3


def test_with_few_known_matches_or_none_else_the_scores_stay() -> None:
    of, probability, match = graph()
    assert weigh(of, probability, np.where(of.left < 20, match, -1)) is None
    assert weigh(of, probability, np.where(match, 1, -1)) is None
    assert weigh(Graph(*(np.zeros(0, int),) * 2, 5, np.zeros(0)), np.zeros(0), np.zeros(0)) is None


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of which valid tells 64 matches."""
    return write_pairs(tmp_path_factory.mktemp("pairs") / "toys", n=640, images=False)


@pytest.fixture(scope="module")
def run(catalogue: Path, small_config: Callable[..., object], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "run"
    config: Any = small_config(folder, catalogue, "trainer.max_epochs=1")
    train(config, folder)
    return folder


def test_clusters_of_weighed_scores(run: Path, catalogue: Path, tmp_path: Path) -> None:
    truth = str(catalogue / "pairs_test.parquet")
    result = pipeline.match(
        MatchConfig(run=str(run), output=str(tmp_path / "m.parquet"), k=8, explain=False, truth=truth)
    )
    report = json.loads((tmp_path / "m.json").read_text())
    assert report["relations"]["label"]["weighed_by"] > 50
    scores = report["scores"]
    assert scores["cluster_partner_f1"] > scores["score_partner_f1"]
    # every pair of a record whose partner is known, also those that truth does not name
    true = {(p["left_id"], p["right_id"]) for p in read_rows(Path(truth)) if p["label"]}
    ends = {end for pair in true for end in pair}
    called = {
        (p["left_id"], p["right_id"])
        for p in read_rows(tmp_path / "m.parquet")
        if p["prediction"] and {p["left_id"], p["right_id"]} & ends
    }
    assert scores["cluster_partner_precision"] == pytest.approx(len(called & true) / len(called))
    assert scores["cluster_partner_recall"] == pytest.approx(len(called & true) / len(true))
    assert scores["cluster_partner_f1"] == pytest.approx(2 * len(called & true) / (len(called) + len(true)))
    assert scores["score_partner_precision"] <= scores["score_precision"], "labels name few of the look-alikes"
    again = pipeline.match(MatchConfig(run=str(run), output=str(tmp_path / "n.parquet"), k=8, explain=False))
    np.testing.assert_array_equal(again.probability, result.probability)


def test_a_truth_that_names_pairs_twice(run: Path, catalogue: Path, tmp_path: Path) -> None:
    table = pyarrow.parquet.read_table(catalogue / "pairs_test.parquet")
    twice = write_table(tmp_path / "twice.parquet", pa.concat_tables([table, table]))
    options = {"run": str(run), "k": 8, "explain": False}
    once, again = (
        pipeline.match(MatchConfig(output=str(tmp_path / "m.parquet"), truth=str(truth), **options))  # type: ignore[arg-type]
        for truth in (catalogue / "pairs_test.parquet", twice)
    )
    assert again.report["scores"] == once.report["scores"]


def test_other_records_by_the_same_ids_are_no_known_matches(run: Path, catalogue: Path, tmp_path: Path) -> None:
    tables = {side: pyarrow.parquet.read_table(catalogue / f"{side}.parquet") for side in ("left", "right")}
    ids = tables["right"]["id"]
    turned = tables["right"].set_column(0, "id", [ids.to_pylist()[5:] + ids.to_pylist()[:5]])
    given = {"left": str(catalogue / "left.parquet"), "right": str(write_table(tmp_path / "right.parquet", turned))}
    result = pipeline.match(MatchConfig(run=str(run), output=str(tmp_path / "m.parquet"), k=8, explain=False, **given))
    assert result.report["relations"]["label"]["weighed_by"] == 0
    same = given | {"right": str(write_table(tmp_path / "right.csv", tables["right"]))}
    result = pipeline.match(MatchConfig(run=str(run), output=str(tmp_path / "m.parquet"), k=8, explain=False, **same))
    assert result.report["relations"]["label"]["weighed_by"] > 50, "from another file, in another format"


def test_records_have_one_partner_also_where_none_of_train_is_at_hand(
    run: Path, catalogue: Path, tmp_path: Path
) -> None:
    later = {side: pyarrow.parquet.read_table(catalogue / f"{side}.parquet").slice(384) for side in ("left", "right")}
    given = {side: str(write_table(tmp_path / f"{side}.parquet", table)) for side, table in later.items()}
    result = pipeline.match(MatchConfig(run=str(run), output=str(tmp_path / "m.parquet"), k=8, explain=False, **given))
    assert result.report["relations"]["label"]["weighed_by"] > 50
    assert result.probability.sum() < 1.5 * 256, "no more than there are records"


@pytest.mark.slow
def test_scores_of_one_table_are_weighed_only_where_labels_say_that_clusters_become_better(
    catalogue: Path, small_config: Callable[..., object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Labels that name few of the look-alikes make probabilities that add up to more matches than there can be."""
    shutil.copytree(catalogue, tmp_path / "one")
    sides = [pyarrow.parquet.read_table(catalogue / f"{side}.parquet") for side in ("left", "right")]
    write_table(tmp_path / "one" / "records.parquet", pa.concat_tables(sides, promote_options="permissive"))
    for side in ("left", "right"):
        (tmp_path / "one" / f"{side}.parquet").unlink()
    config: Any = small_config(tmp_path / "run", tmp_path / "one", "trainer.max_epochs=1")
    train(config, tmp_path / "run")
    true = set()
    for split in ("train", "valid", "test"):
        true |= {
            (p["left_id"], p["right_id"]) for p in read_rows(tmp_path / f"one/pairs_{split}.parquet") if p["label"]
        }

    def f1(name: str, known_records: bool, weighed: bool = True) -> float:
        """Of clusters against all true pairs; ``known_records``: under the ids by which valid knows them."""
        table = pyarrow.parquet.read_table(tmp_path / "one" / "records.parquet")
        prefix = "" if known_records else "new "
        ids = pa.array([prefix + i for i in table["id"].to_pylist()])
        records = write_table(tmp_path / f"{name}.parquet", table.set_column(0, "id", [ids]))
        given = {"run": str(tmp_path / "run"), "records": str(records), "output": str(tmp_path / f"{name}_m.parquet")}
        result = pipeline.match(MatchConfig(**given, k=25, explain=False))  # type: ignore[arg-type]
        assert (result.report["relations"]["label"]["weighed_by"] > 0) == (known_records and weighed)
        rows = [i.removeprefix(prefix) for i in result.records.table.ids.to_pylist()]
        together = zip(result.left[result.together[:, 0]], result.right[result.together[:, 0]], strict=True)
        called = {frozenset((rows[left], rows[right])) for left, right in together}
        n_right = len(called & {frozenset(pair) for pair in true})
        return 2 * n_right / (len(called) + len(true))

    alone = f1("alone", known_records=False)
    assert f1("weighed", known_records=True) > alone + 0.02
    monkeypatch.setattr(rivals, "THRESHOLDS", (1 - 1e-12,))  # at which weighed scores make no clusters
    assert f1("worse", known_records=True, weighed=False) == pytest.approx(alone, abs=0.005)
