"""From tables to clusters: the whole of scripts/match.py on toy data, with a run that was trained on it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest
import yaml
from commands import script
from killing import killed_while
from toy_data import read_rows, write_kway, write_pairs, write_table

from mmtab.config.compose import compose
from mmtab.config.types import MatchConfig
from mmtab.data.pairs import read_pairs, read_records
from mmtab.data.schema import Schema
from mmtab.matching import encoding, pipeline
from mmtab.reports.matches import write_result
from mmtab.runs.evaluate import evaluate
from mmtab.runs.folder import open_config
from mmtab.runs.predict import predict
from mmtab.runs.setup import prepare
from mmtab.runs.train import train
from mmtab.training.metrics import unscaled
from mmtab.utils.errors import ConfigError, DataError, MmtabError, RunError

SMALL = [
    "dataset=custom",
    "text.max_length=24",
    "image.size=32",
    "d_model=16",
    "fusion.d_hidden=32",
    "trainer.max_epochs=8",
    "trainer.batch_size=16",
    "trainer.progress=false",
    "output=unused",
    "trainer.n_threads=1",
    "trainer.lr=3e-3",
]


@pytest.fixture(scope="module", name="train")
def _train(backbone: Path, image_backbone: str, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """The folder of a run on a dataset."""

    def make(data: Path, *overrides: str) -> Path:
        backbones = [f"text.backbone={backbone}", f"image.backbone={image_backbone}"]
        config = compose(*SMALL, f"dataset.path={data}", *backbones, *overrides)
        folder = tmp_path_factory.mktemp("run") / "run"
        train(config, folder)
        return folder

    return make


@pytest.fixture(scope="module")
def two_tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pairs(tmp_path_factory.mktemp("pairs") / "toys", n=120)


@pytest.fixture(scope="module")
def trained(two_tables: Path, train: Callable[..., Path]) -> Path:
    return train(two_tables)


def settings(trained: Path, output: Path, **changes: Any) -> MatchConfig:
    return MatchConfig(run=str(trained), output=str(output), **{"shard": 100, "n_shown": 12, **changes})


def test_all_that_matching_writes(trained: Path, two_tables: Path, tmp_path: Path) -> None:
    truth = str(two_tables / "pairs_test.parquet")
    shown = write_result(settings(trained, tmp_path / "matches.parquet", truth=truth))
    report = json.loads((tmp_path / "matches.json").read_text())
    pairs = read_rows(tmp_path / "matches.parquet")
    records = read_rows(tmp_path / "matches_clusters.parquet")
    # one record, one cluster
    assert sorted((r["table"], r["id"]) for r in records) == sorted(
        (side, f"{side[0]}{i}") for side in ("left", "right") for i in range(120)
    )
    cluster = {(r["table"], r["id"]): r["cluster"] for r in records}
    threshold = report["relations"]["label"]["threshold"]
    assert pairs and len({(p["left_id"], p["right_id"]) for p in pairs}) == len(pairs)
    for p in pairs:
        together = cluster["left", p["left_id"]] == cluster["right", p["right_id"]]
        assert p["prediction"] == together and (together or p["probability"] >= threshold)
        assert p["cluster"] == (cluster["left", p["left_id"]] if together else None)
    assert report["relations"]["label"]["n_matches"] == sum(p["prediction"] for p in pairs)
    assert report["blocking"]["n_candidates"] >= len(pairs)
    assert 0 < report["blocking"]["reduction_ratio"] < 1 and report["scores"]["blocking_recall"] > 0.5
    assert {"encode", "block", "score", "cluster", "explain", "total"} == set(report["seconds"])
    assert shown["match"]["n_matches"] == report["relations"]["label"]["n_matches"]
    assert report["relations"]["label"]["weighed_by"] == 0 and "weighed_by" not in shown["match"]
    columns = {"title", "size", "colour", "photo", "made", "texts together"}
    said = [
        part.rsplit(" ", 1) for p in pairs for part in f"{p['spoke_for']}; {p['spoke_against']}".split("; ") if part
    ]
    assert {name for name, _ in said} <= columns and len({name for name, _ in said}) > 2
    assert all(float(p["spoke_for"].split("; ")[0].rsplit(" ", 1)[1]) > 0 for p in pairs if p["spoke_for"])
    page = (tmp_path / "matches.html").read_text()
    assert "data:image/jpeg;base64," in page and "doubtful pairs" in page
    assert not list(tmp_path.glob("*.parts"))


def test_bad_cells_that_are_taken_as_missing_are_counted(trained: Path, two_tables: Path, tmp_path: Path) -> None:
    frame = pd.read_parquet(two_tables / "left.parquet").astype({"size": str})
    frame.loc[3, "size"] = "big"
    frame.to_csv(tmp_path / "left.csv", index=False)
    options = {"left": str(tmp_path / "left.csv"), "right": str(two_tables / "right.parquet"), "k": 2, "explain": False}
    config = settings(trained, tmp_path / "m.csv", image_root=str(two_tables), stop="blocking", **options)
    with pytest.raises(DataError, match="size"):
        pipeline.find_candidates(config)
    with pytest.warns(UserWarning, match="1 bad cells taken as missing"):
        pipeline.find_candidates(replace(config, bad_cells="missing"))


def test_records_of_one_partner_each_get_one(trained: Path, train: Callable[..., Path], tmp_path: Path) -> None:
    """Where no record of the training pairs has two, or on request."""
    data = write_pairs(tmp_path / "toys", n=220, images=False)
    schema = Schema.read(data)
    pairs = read_pairs(data, schema, "train", read_records(data, schema))
    assert pairs.one_to_one() == ["label"] and pairs.take(np.arange(60)).one_to_one() == [], "too few to tell"
    doubled = pairs.take(np.append(np.arange(len(pairs)), np.flatnonzero(np.asarray(pairs.labels) == 1)[0]))
    assert doubled.one_to_one() == ["label"], "the same pair again"
    doubled.right[-1] += 1
    assert doubled.one_to_one() == []

    run = train(data, "dataset.drop=[text]", "trainer.max_epochs=1")
    for folder, asked, method in (
        (run, "auto", "unique"),
        (trained, "auto", "correlation"),
        (trained, "unique", "unique"),
    ):
        result = pipeline.match(settings(folder, tmp_path / "m.csv", k=3, clustering=asked, explain=False))
        assert result.report["relations"]["label"]["clustering"] == method
        if method == "unique":
            assert np.bincount(result.clusters[0]).max() == 2
            assert (result.above_threshold | ~result.together).all()


def test_a_table_in_other_units_is_said(trained: Path, two_tables: Path, tmp_path: Path) -> None:
    right = pyarrow.parquet.read_table(two_tables / "right.parquet")
    sizes = pa.array([None if size is None else size * 1000 + 1e6 for size in right["size"].to_pylist()])
    right = right.set_column(right.schema.get_field_index("size"), "size", sizes)
    changed = write_table(two_tables / "in_other_units.parquet", right)  # beside the pictures
    sides = {"left": str(two_tables / "left.parquet"), "right": str(changed)}
    with pytest.warns(UserWarning, match="table right: nearly all cells are unlike those of train in column size"):
        pipeline.match(settings(trained, tmp_path / "m.csv", k=1, explain=False, **sides))


def test_csv_says_the_same(trained: Path, tmp_path: Path) -> None:
    for suffix in ("csv", "parquet"):
        pipeline.match(settings(trained, tmp_path / f"m.{suffix}", k=2))
    a, b = (read_rows(tmp_path / f"m.{suffix}") for suffix in ("csv", "parquet"))
    assert [(p["left_id"], p["right_id"], p["spoke_for"]) for p in a] == [
        (p["left_id"], p["right_id"], p["spoke_for"]) for p in b
    ]


def test_scores_are_those_of_predict(trained: Path, two_tables: Path, tmp_path: Path) -> None:
    result = pipeline.match(settings(trained, tmp_path / "m.parquet", explain=False))
    ids = result.records.table.ids
    pairs = {"left_id": ids.take(pa.array(result.left)), "right_id": ids.take(pa.array(result.right))}
    asked = write_table(tmp_path / "pairs.parquet", pairs)
    sides = {side: two_tables / f"{side}.parquet" for side in ("left", "right")}
    predict(trained, asked, tmp_path / "predicted.parquet", **sides)
    predicted = np.array([row["probability"] for row in read_rows(tmp_path / "predicted.parquet")])
    state = json.loads((trained / "task.json").read_text())

    def before(p: np.ndarray) -> np.ndarray:
        return unscaled(np.stack([1 - p, p], 1), state["temperatures"][0], state["biases"][0])[:, 1]

    # Tokens are kept in half precision, and a temperature below 1 would make more of that.
    np.testing.assert_allclose(before(result.probability[:, 0]), before(predicted), atol=5e-3)


@pytest.mark.slow
def test_a_killed_run_goes_on_where_it_stopped(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "BATCH", 8)
    whole = pipeline.match(settings(trained, tmp_path / "whole.parquet", k=3, shard=8))
    encoded = []
    encode = encoding.encode_shard
    monkeypatch.setattr(encoding, "encode_shard", lambda c, n, _: encoded.append((c.key, n)) or encode(c, n, _))
    for kill in ("encoding records", "scoring pairs", "explaining pairs"):
        with killed_while(kill, monkeypatch):
            pipeline.match(settings(trained, tmp_path / "m.parquet", k=3, shard=8))
        assert not (tmp_path / "m.parquet").exists() and (tmp_path / "m.parquet.parts").is_dir()
    assert {start for _, start in encoded} == set(range(0, 240, 8))
    assert len(encoded) <= len(set(encoded)) + 1  # one was cut short
    n_before = len(encoded)
    again = pipeline.match(settings(trained, tmp_path / "m.parquet", k=3, shard=8))
    assert len(encoded) == n_before and not (tmp_path / "m.parquet.parts").exists()
    assert np.array_equal(again.left, whole.left) and np.array_equal(again.clusters, whole.clusters)
    assert np.array_equal(again.probability, whole.probability)


@pytest.mark.slow
def test_left_and_right_may_change_places(trained: Path, two_tables: Path, tmp_path: Path) -> None:
    sides = {side: str(two_tables / f"{side}.parquet") for side in ("left", "right")}
    wide: dict[str, Any] = {"k": 110, "explain": False}
    there = pipeline.match(settings(trained, tmp_path / "a.parquet", **wide, **sides))
    swapped = {"left": sides["right"], "right": sides["left"]}
    back = pipeline.match(settings(trained, tmp_path / "b.parquet", **wide, **swapped))
    n = there.records.n_left or 0
    forth = {(a, b - n): p for a, b, p in zip(there.left, there.right, there.probability[:, 0], strict=True)}
    again = {(b - n, a): p for a, b, p in zip(back.left, back.right, back.probability[:, 0], strict=True)}
    shared = set(forth) & set(again)
    # Of sides of one length the first asks; by words alone, which valid may choose, not all others are candidates.
    assert len(shared) > 0.8 * min(len(forth), len(again))
    np.testing.assert_allclose([forth[k] for k in shared], [again[k] for k in shared], atol=1e-5)


def labels_file(path: Path, result: Any, places: Iterable[int], labels: Iterable[int]) -> str:
    ids = result.records.table.ids.to_pylist()
    rows = [(ids[result.left[i]], ids[result.right[i]], label) for i, label in zip(places, labels, strict=True)]
    columns = zip(("left_id", "right_id", "label"), map(list, zip(*rows, strict=True)), strict=True)
    return str(write_table(path, dict(columns)))


def test_labels_are_taken_as_given_and_learned_from(trained: Path, two_tables: Path, tmp_path: Path) -> None:
    """Here people call matches what the model is sure are none, and the other way round."""
    wide: dict[str, Any] = {"k": 3, "explain": False}
    before = pipeline.match(settings(trained, tmp_path / "m.csv", **wide))
    ids = before.records.table.ids.to_pylist()
    same = np.array([ids[a][1:] == ids[b][1:] for a, b in zip(before.left, before.right, strict=True)])
    few = [*np.flatnonzero(same)[:2], *np.flatnonzero(~same)[:2]]
    given = labels_file(tmp_path / "few.csv", before, few, (~same[few]).astype(int))
    after = pipeline.match(settings(trained, tmp_path / "m.csv", labels=given, **wide))
    told = after.report["relations"]["label"]
    assert after.together[few, 0].tolist() == (~same[few]).tolist() == after.above_threshold[few, 0].tolist()
    assert told["n_labels"] == 4 and told["n_labelled_matches"] == 2 and "fewer than 20" in told["not_learned"]
    assert told["threshold"] == told["threshold_of_run"] == before.thresholds[0]
    assert np.array_equal(after.probability, before.probability)
    assert not set(few) & {i for places in after.samples(12).values() for i in places}

    rng = np.random.default_rng(0)
    many = [*rng.permutation(np.flatnonzero(same))[:40], *rng.permutation(np.flatnonzero(~same))[:40]]
    given = labels_file(tmp_path / "all_wrong.csv", before, many, (~same[many]).astype(int))
    match = ["match", f"run={trained}", f"output={tmp_path / 'm.csv'}", f"labels={given}", "k=3", "explain=false"]
    with pytest.warns(UserWarning, match=r"the labels contradict the model: \d+ of 80 say the opposite of its score"):
        told = script(*match)
    assert "contradict" not in told.stdout and "not_learned" not in told.stdout, "no rows that say nothing"
    assert "of 80 say the opposite of its score, so that next to nothing" in (tmp_path / "m.html").read_text()

    given = labels_file(tmp_path / "many.csv", before, many, rng.integers(0, 2, len(many)))
    shown = write_result(settings(trained, tmp_path / "m.csv", labels=given, clustering="components", **wide))["match"]
    assert shown["not_learned"] == "" and shown["temperature"] > 2, "labels at random make every score doubtful"
    page = (tmp_path / "m.html").read_text()
    assert "log-odds divided by" in page and page.count('"label", 1]') + page.count('"label", 0]') == len(many)


def test_a_labelled_pair_that_blocking_left_out_is_scored(trained: Path, two_tables: Path, tmp_path: Path) -> None:
    truth, wide = str(two_tables / "pairs_test.parquet"), {"k": 1, "explain": False}
    before = pipeline.match(settings(trained, tmp_path / "m.csv", truth=truth, **wide))
    missed = next(i for i in range(120) if not ((before.left == 0) & (before.right == 120 + i)).any())
    given = write_table(tmp_path / "labels.csv", {"left_id": ["l0"], "right_id": [f"r{missed}"], "label": [1]})
    after = pipeline.match(settings(trained, tmp_path / "m.csv", truth=truth, labels=str(given), **wide))
    assert len(after.left) == len(before.left) + 1 and after.together[-1, 0]
    assert after.report["blocking"] == before.report["blocking"]
    assert after.report["scores"]["blocking_recall"] == before.report["scores"]["blocking_recall"]


def test_a_curve_says_what_labels_bring(trained: Path, two_tables: Path, tmp_path: Path) -> None:
    rows = [(f"l{i}", f"r{(i + shift) % 120}", int(shift == 0)) for shift in (0, 1, 2) for i in range(120)]
    columns = dict(zip(("left_id", "right_id", "label"), map(list, zip(*rows, strict=True)), strict=True))
    truth = write_table(tmp_path / "truth.csv", columns)
    write_result(settings(trained, tmp_path / "m.csv", truth=str(truth), curve=True, k=3, explain=False))
    report = json.loads((tmp_path / "m.json").read_text())
    curve = report["label_curve"]["label"]
    assert curve["labels"][0] == 0
    assert set(curve["page"][0]) == set(curve["random"][0]) == {report["scores"]["cluster_f1"]}
    assert len(curve["labels"]) == len(curve["page"]) == len(curve["random"])
    assert np.mean(curve["page"][-1]) >= np.mean(curve["page"][0]) - 0.02, "toys are nearly all right as they are"
    assert "labels that this page chooses" in (tmp_path / "m.html").read_text()


@pytest.mark.slow
def test_one_table_is_deduplicated(two_tables: Path, train: Callable[..., Path], tmp_path: Path) -> None:
    data = tmp_path / "one"
    shutil.copytree(two_tables, data)
    write_table(
        data / "records.parquet",
        pa.Table.from_pylist([row for side in ("left", "right") for row in read_rows(data / f"{side}.parquet")]),
    )
    for side in ("left", "right"):
        (data / f"{side}.parquet").unlink()
    trained = train(data, "pair_head.hard_negatives=0.3")
    truth = write_table(
        tmp_path / "entities.csv",
        {"id": [f"{s}{i}" for s in "lr" for i in range(120)], "entity": [f"e{i}" for _ in "lr" for i in range(120)]},
    )
    result = pipeline.match(
        settings(trained, tmp_path / "m.csv", records=str(data / "records.parquet"), truth=str(truth), explain=False)
    )
    assert (result.left < result.right).all() and result.records.n_left is None
    scores = result.report["scores"]
    assert scores["blocking_recall"] > 0.5 and scores["bcubed_f1"] > 0.6
    assert {row["table"] for row in read_rows(tmp_path / "m_clusters.csv")} == {"records"}

    missed = next(i for i in range(1, 240) if not ((result.left == 0) & (result.right == i)).any())
    ids = result.records.table.ids.to_pylist()
    both_ways = {"left_id": [ids[0], ids[missed]], "right_id": [ids[missed], ids[0]], "label": [1, 1]}
    labels = str(write_table(tmp_path / "labels.csv", both_ways))
    told = pipeline.match(settings(trained, tmp_path / "m.csv", labels=labels, explain=False))
    assert len(told.left) == len(result.left) + 1 and (told.left < told.right).all(), "one pair, in the order of rows"
    assert told.known[-1].tolist() == [1] and told.together[-1, 0]


def two_relations(source: Path, target: Path) -> Path:
    """The toys with a second label: alike, whatever the size and the title."""
    shutil.copytree(source, target)
    for split in ("train", "valid", "test"):
        rows = read_rows(target / f"pairs_{split}.parquet")
        label = pa.array([row["label"] for row in rows], pa.int8())
        ids = {name: [row[name] for row in rows] for name in ("left_id", "right_id")}
        alike = pa.array([int(row["label"] or int(row["left_id"][1:]) % 4 == 0) for row in rows], pa.int8())
        write_table(target / f"pairs_{split}.parquet", {**ids, "same": label, "alike": alike})
    described = yaml.safe_load((target / "dataset.yaml").read_text())
    described["relations"] = {"same": {}, "alike": {"ignore": ["size", "title"]}}
    (target / "dataset.yaml").write_text(yaml.safe_dump(described))
    return target


@pytest.mark.slow
def test_two_relations_are_told_by_one_model(two_tables: Path, train: Callable[..., Path], tmp_path: Path) -> None:
    data = two_relations(two_tables, tmp_path / "two")
    trained = train(data, "trainer.max_epochs=2")
    assert open_config(trained).text["layout"] == "column"  # so that no other cell tells what title says
    metrics = evaluate(trained, "test")
    assert {"same/f1", "alike/f1", "f1"} <= set(metrics)
    assert metrics["f1"] == pytest.approx((metrics["same/f1"] + metrics["alike/f1"]) / 2)
    predicted = read_rows(trained / "predictions_test.parquet")
    assert {"probability_same", "prediction_alike", "label_alike"} <= set(predicted[0])
    shown = write_result(settings(trained, tmp_path / "m.parquet", truth=str(data / "pairs_test.parquet")))
    assert {"same", "alike", "whole"} == set(shown) and "cluster_f1" in shown["alike"]
    pairs = read_rows(tmp_path / "m.parquet")
    assert {"probability_same", "cluster_alike", "spoke_for_alike"} <= set(pairs[0])
    assert not any("title" in p["spoke_for_alike"] or "size" in p["spoke_against_alike"] for p in pairs)


def test_what_all_relations_ignore_is_left_out(two_tables: Path, backbone: Path, tmp_path: Path) -> None:
    def columns(data: Path, setting: str) -> set[str]:
        config = compose(*SMALL, f"dataset.path={data}", f"text.backbone={backbone}", setting)
        return {column.name for column in prepare(config).session.schema.columns}

    data = two_relations(two_tables, tmp_path / "two")
    assert columns(data, "dataset.relations=[alike]") == {"colour", "photo", "made"}
    assert columns(two_tables, "dataset.ignore=[colour]") == {"title", "size", "photo", "made"}


def test_a_model_without_towers_and_one_that_crosses_text_match_too(
    two_tables: Path, train: Callable[..., Path], tmp_path: Path
) -> None:
    trained = train(two_tables, "pair_head=cross", "trainer.max_epochs=2", "pair_head.cross.n_tuned_layers=1")
    result = pipeline.match(settings(trained, tmp_path / "m.parquet", k=2))
    assert len(result.left) > 100 and result.contributions
    assert any(abs(reasons[:, result.columns.index("title")]).max() > 1e-4 for reasons in result.contributions.values())


def test_elsewhere_without_the_dataset_k_is_its_greatest(
    trained: Path, two_tables: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(trained, moved)
    config = yaml.safe_load((moved / "config.yaml").read_text())
    config["dataset"]["path"] = "gone"
    (moved / "manifest.json").unlink()
    (moved / "config.yaml").write_text(yaml.safe_dump(config))
    sides = {side: str(two_tables / f"{side}.parquet") for side in ("left", "right")}
    result = pipeline.match(settings(moved, tmp_path / "m.parquet", max_k=2, explain=False, **sides))
    assert "k=2, since" in capsys.readouterr().out
    assert result.report["blocking"]["k"] == 2 and result.report["blocking"]["valid_recall"] is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"output": "m.txt"}, "output=.*parquet or .csv"),
        ({"clustering": "banana"}, "clustering=banana: expected one of auto, unique, correlation, components"),
        ({"k": 0}, "k=0: expected at least 1"),
        ({"recall": 0}, "recall=0: expected above 0"),
        ({"records": "a.csv", "left": "b.csv"}, "records stands beside left"),
        ({"left": "b.csv"}, "left and right go together"),
        ({"output": "{run}/fitted.csv"}, "lies in the run folder"),
        ({"records": "a.csv", "clustering": "unique"}, "clustering=unique is for two tables"),
        ({"curve": True}, "curve=true wants truth=TABLE"),
        ({"labels": "a.csv", "stop": "blocking"}, "stop=blocking uses no labels"),
    ],
)
def test_mistakes_are_named(changes: dict[str, Any], message: str, trained: Path, tmp_path: Path) -> None:
    changes = {name: v.format(run=trained) if isinstance(v, str) else v for name, v in changes.items()}
    with pytest.raises(ConfigError, match=message):
        pipeline.match(MatchConfig(**{"run": str(trained), "output": str(tmp_path / "m.csv"), **changes}))


def test_labels_are_read_before_the_run_is_opened(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "open_run", lambda *_: pytest.fail("the run is opened"))
    (tmp_path / "labels.csv").write_text("left_id,right_id,label\nl1,nobody,1\n")
    with pytest.raises(RunError, match=r"labels=.*row 1, column right_id: a pair names an unknown id.*nobody"):
        pipeline.match(settings(trained, tmp_path / "m.csv", labels=str(tmp_path / "labels.csv")))


def test_what_is_read_is_not_overwritten(trained: Path, two_tables: Path) -> None:
    before = (two_tables / "left.parquet").read_bytes()
    with pytest.raises(RunError, match="would overwrite"):
        pipeline.match(settings(trained, two_tables / "left.parquet", k=1, explain=False))
    assert (two_tables / "left.parquet").read_bytes() == before


def test_a_run_that_classifies_rows_does_not_match(train: Callable[..., Path], tmp_path: Path) -> None:
    trained = train(write_kway(tmp_path / "kway", images=False), "trainer.max_epochs=1", "dataset.drop=[]")
    with pytest.raises(RunError, match="is a run of kway; mmtab match wants one of matching"):
        pipeline.match(settings(trained, tmp_path / "m.csv"))


TRUTHS: dict[str, Callable[[pd.DataFrame, Path], object]] = {
    "truth.txt": lambda pairs, path: pairs.to_csv(path, sep=";", index=False, encoding="utf-16"),
    "truth.jsonl": lambda pairs, path: pairs.to_json(path, orient="records", lines=True),
    "truth.xlsx": lambda pairs, path: pairs.to_excel(path, index=False),
}


@pytest.mark.slow
def test_truth_may_be_any_table(trained: Path, two_tables: Path, tmp_path: Path) -> None:
    pairs = pyarrow.parquet.read_table(two_tables / "pairs_test.parquet").to_pandas()
    scores = {}
    for name, write in {"truth.csv": lambda pairs, path: pairs.to_csv(path, index=False), **TRUTHS}.items():
        write(pairs, tmp_path / name)
        config = settings(trained, tmp_path / "m.csv", truth=str(tmp_path / name), stop="blocking", k=2)
        scores[name] = pipeline.find_candidates(config)["scores"]
    assert len(scores) == 4 and all(score == scores["truth.csv"] for score in scores.values())
    with pytest.raises(MmtabError, match=r"truth.*no file .*gone\.csv"):
        pipeline.match(settings(trained, tmp_path / "m.csv", truth=str(tmp_path / "gone.csv")))


def test_truth_of_another_form_is_an_error(trained: Path, tmp_path: Path) -> None:
    wrong = write_table(tmp_path / "wrong.csv", {"a": [1]})
    with pytest.raises(MmtabError, match="expected left_id, right_id and labels, or id and an entity"):
        pipeline.match(settings(trained, tmp_path / "m.csv", truth=str(wrong), k=1, explain=False))


def test_the_script(trained: Path, two_tables: Path, tmp_path: Path) -> None:
    given = [f"run={trained}", f"output={tmp_path / 'm.csv'}", f"truth={two_tables / 'pairs_test.parquet'}"]
    done = script("match", *given, "k=2", "n_shown=8")
    assert done.returncode == 0, done.stderr
    assert "cluster_f1" in done.stdout and "blocking_recall" in done.stdout and "Traceback" not in done.stderr
    assert all((tmp_path / name).is_file() for name in ("m.csv", "m_clusters.csv", "m.json", "m.html"))


def test_a_mistake_to_the_script_is_one_line(trained: Path, tmp_path: Path) -> None:
    given = [f"run={trained}", f"output={tmp_path / 'm.csv'}", "clustering=banana"]
    done = script("match", *given)
    assert done.returncode == 1 and "error: clustering=banana" in done.stderr
