"""A matching that takes up what earlier ones kept computes what is new, and says what one from nothing says."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from killing import killed_while
from PIL import Image

from mmtab.config.types import EngineConfig, MatchConfig
from mmtab.matching import encoding, pipeline, scoring
from mmtab.matching.result import Matches
from mmtab.utils.errors import ConfigError, DataError

N = 100  # records of a side of ``pairs_run``


def settings(run: Path, output: Path, data: Path, **changes: Any) -> MatchConfig:
    sides = {side: str(data / f"{side}.parquet") for side in ("left", "right")}
    sides = {} if "records" in changes else sides
    options = {"shard": 32, "n_shown": 4, "k": 3, "explain": False, "image_root": str(data)}
    return MatchConfig(run=str(run), output=str(output), **{**options, **sides, **changes})


@dataclass
class Counts:
    """What was computed."""

    encoded: list[str] = field(default_factory=list)
    n_scored: int = 0


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> Counts:
    counts, encode, logits = Counts(), encoding.encode_shard, scoring.logits_of

    def encoding_shard(context: Any, start: int, scratch: Any) -> Any:
        counts.encoded += context.records.table.ids.to_pylist()[start : start + context.config.shard]
        return encode(context, start, scratch)

    def scoring_pairs(context: Any, records: Any, left: np.ndarray, *options: Any) -> Any:
        counts.n_scored += len(left)
        return logits(context, records, left, *options)

    monkeypatch.setattr(encoding, "encode_shard", encoding_shard)
    monkeypatch.setattr(scoring, "logits_of", scoring_pairs)
    return counts


@pytest.fixture(scope="module")
def run(pairs_run: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """In full precision, and without the few valid pairs by which blocking would choose: a record that is encoded
    among others may else change places with a near neighbour."""
    copied = Path(shutil.copytree(pairs_run[1], tmp_path_factory.mktemp("exact") / "run"))
    config = (copied / "config.yaml").read_text().replace("precision: auto", "precision: fp32")
    (copied / "config.yaml").write_text(config.replace(f"path: {pairs_run[0]}", "path: /gone"))
    (copied / "manifest.json").unlink()
    return copied


@pytest.fixture(scope="module")
def kept(
    run: Path, pairs_run: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, set[tuple[str, str]]]:
    """The folder that a first matching fills, and its pairs. Tests change copies."""
    folder = tmp_path_factory.mktemp("kept")
    first = pipeline.match(settings(run, folder / "m.csv", pairs_run[0], keep=str(folder / "keep")))
    assert first.report["kept"] == {"records": 0, "pairs": 0}
    return folder / "keep", ids_of(first)


@pytest.fixture
def keep(kept: tuple[Path, set[tuple[str, str]]], tmp_path: Path) -> str:
    return str(shutil.copytree(kept[0], tmp_path / "keep"))


@pytest.fixture
def data(pairs_run: tuple[Path, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(pairs_run[0], tmp_path / "data"))


def ids_of(matches: Matches) -> set[tuple[str, str]]:
    ids = matches.records.table.ids.to_pylist()
    return {(ids[a], ids[b]) for a, b in zip(matches.left, matches.right, strict=True)}


def assert_same(matches: Matches, fresh: Matches) -> None:
    assert np.array_equal(matches.left, fresh.left) and np.array_equal(matches.right, fresh.right)
    # Records that share no batch any more may differ in the last of the few digits kept, of which trees make more
    np.testing.assert_allclose(matches.probability, fresh.probability, atol=5e-3)
    assert np.array_equal(matches.clusters, fresh.clusters)


def of_side(side: str, change: Callable[[pd.DataFrame], pd.DataFrame]) -> Callable[[Path], None]:
    def changed(data: Path) -> None:
        frame = pd.read_parquet(data / f"{side}.parquet")
        change(frame.copy()).to_parquet(data / f"{side}.parquet", index=False)

    return changed


def appended(frame: pd.DataFrame) -> pd.DataFrame:
    return pd.concat([frame, frame.iloc[[0, 1, 1]].assign(id=["n0", "n1", "n2"], title="an odd green lamp")])


def changed(data: Path) -> None:
    """Another title, another picture under the same name, and rows less."""
    of_side("left", lambda frame: frame.assign(title=frame["title"].where(frame["id"] != "l7", "a small piano"))[5:])(
        data
    )
    Image.new("RGB", (20, 20), "magenta").save(data / "images" / "r1.png")


def reordered(data: Path) -> None:
    of_side("right", lambda frame: frame[::-1])(data)
    of_side("left", lambda frame: frame.assign(id="x" + frame["id"]))(data)


CHANGES: dict[str, tuple[Callable[[Path], None], set[str]]] = {
    "appended": (of_side("right", appended), {"n0", "n1"}),  # n2 is as n1
    "changed": (changed, {"l7", "r1"}),
    "reordered": (reordered, set()),
}


@pytest.mark.parametrize("name", CHANGES)
def test_only_what_is_new_is_computed(
    name: str,
    run: Path,
    kept: tuple[Path, set[tuple[str, str]]],
    keep: str,
    data: Path,
    tmp_path: Path,
    counts: Counts,
) -> None:
    change, new = CHANGES[name]
    change(data)
    again = pipeline.match(settings(run, tmp_path / "m.csv", data, keep=keep))
    report, n = again.report["kept"], len(again.records.table)
    assert set(counts.encoded) == new and len(counts.encoded) == len(new)
    pairs = {(a.lstrip("x"), b) for a, b in ids_of(again)}
    unknown = {pair for pair in pairs if pair not in kept[1] or set(pair) & new}
    assert report["pairs"] == len(pairs - unknown)
    assert counts.n_scored == len({tuple("n1" if i == "n2" else i for i in pair) for pair in unknown})
    assert report["records"] == n - len(new) - (name == "appended")
    counts.encoded.clear()
    fresh = pipeline.match(settings(run, tmp_path / "fresh.csv", data))
    assert len(counts.encoded) >= n and "kept" not in fresh.report
    assert_same(again, fresh)
    third = pipeline.match(settings(run, tmp_path / "m.csv", data, keep=keep, shard=64))
    assert third.report["kept"] == {"records": n, "pairs": len(pairs)}
    assert np.array_equal(third.probability, again.probability)


def test_explanations_are_kept_and_tables_are_one(
    run: Path, data: Path, tmp_path: Path, counts: Counts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one table a pair is the same from either side."""
    frame = pd.concat([pd.read_parquet(data / f"{side}.parquet") for side in ("left", "right")])
    keep, options = str(tmp_path / "keep"), {"records": str(data / "all.parquet"), "explain": True}
    found = {}
    for name, rows in {"first": frame, "again": frame, "reversed": frame[::-1]}.items():
        rows.to_parquet(data / "all.parquet", index=False)
        counts.encoded.clear()
        counts.n_scored = 0
        found[name] = pipeline.match(settings(run, tmp_path / f"{name}.csv", data, keep=keep, **options))
        if name != "first":
            assert not counts.encoded
        if name == "again":
            assert not counts.n_scored
    assert found["first"].contributions and found["first"].contributions.keys() == found["again"].contributions.keys()
    for place, values in found["first"].contributions.items():
        assert np.array_equal(values, found["again"].contributions[place])
    same = ids_of(found["first"]) & {(b, a) for a, b in ids_of(found["reversed"])}
    assert len(same) > 0.9 * len(ids_of(found["first"])) and found["reversed"].report["kept"]["pairs"] >= len(same)
    assert_same(found["reversed"], pipeline.match(settings(run, tmp_path / "fresh.csv", data, **options)))


def test_candidates_are_found_among_kept_records(pairs_run: tuple[Path, Path], tmp_path: Path, counts: Counts) -> None:
    """Those by which blocking chooses are kept too."""
    config = settings(pairs_run[1], tmp_path / "c.csv", pairs_run[0], keep=str(tmp_path / "keep"), stop="blocking")
    assert pipeline.find_candidates(config)["kept"] == {"records": 0} and len(counts.encoded) == 2 * N
    report = pipeline.find_candidates(config)
    assert report["kept"] == {"records": 2 * N} and len(counts.encoded) == 2 * N
    assert report["blocking"]["valid_recall"] is not None


def test_another_run_or_setting_finds_nothing(run: Path, keep: str, data: Path, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(run, tmp_path / "copied"))
    assert pipeline.match(settings(copied, tmp_path / "m.csv", data, keep=keep)).report["kept"]["records"] == 2 * N
    missing = pipeline.match(settings(run, tmp_path / "m.csv", data, keep=keep, bad_cells="missing"))
    assert missing.report["kept"] == {"records": 0, "pairs": 0}
    weights = torch.load(copied / "checkpoints" / "best.ckpt", weights_only=True)
    next(w for w in weights["state_dict"].values() if w.is_floating_point()).mul_(1.01)
    torch.save(weights, copied / "checkpoints" / "best.ckpt")
    other = pipeline.match(settings(copied, tmp_path / "m.csv", data, keep=keep))
    assert other.report["kept"] == {"records": 0, "pairs": 0}


def test_a_killed_matching_leaves_what_is_finished(
    run: Path, data: Path, tmp_path: Path, counts: Counts, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep = str(tmp_path / "keep")
    for kill in ("encoding records", "scoring pairs"):
        with killed_while(kill, monkeypatch):
            pipeline.match(settings(run, tmp_path / f"{kill}.csv", data, keep=keep, shard=10))
    assert len(counts.encoded) == 2 * N and len(set(counts.encoded)) == 2 * N
    of_side("left", lambda frame: frame[::-1])(data)  # the tables may have changed since
    again = pipeline.match(settings(run, tmp_path / "m.csv", data, keep=keep, shard=10))
    assert again.report["kept"]["records"] == 2 * N == len(counts.encoded)
    assert 0 < again.report["kept"]["pairs"] < len(again.left) == counts.n_scored


def test_a_damaged_entry_is_computed_again(run: Path, keep: str, data: Path, tmp_path: Path, counts: Counts) -> None:
    damaged = min(Path(keep).glob("rows/*/tokens.npy"))
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"x")
    with pytest.warns(UserWarning, match="is damaged"):
        again = pipeline.match(settings(run, tmp_path / "m.csv", data, keep=keep))
    n = len(np.load(damaged.with_name("names.npy")))
    assert len(counts.encoded) == n and again.report["kept"]["records"] == 2 * N - n


def test_folders_that_are_none_to_keep_in(run: Path, data: Path, tmp_path: Path) -> None:
    output = tmp_path / "m.csv"
    for folder, message in (
        (run / "keep", r"^keep=\S+ lies in the run folder"),
        (data, r"^keep=\S+ holds other things .* Fix: keep="),
        (tmp_path / "m.csv.parts" / "keep", r"^keep=\S+ lies in \S+parts, which is removed"),
    ):
        with pytest.raises(ConfigError, match=message):
            pipeline.match(settings(run, output, data, keep=str(folder)))
    assert not output.exists() and not (run / "keep").exists()


def test_a_new_picture_that_is_bad_is_named(run: Path, keep: str, data: Path, tmp_path: Path) -> None:
    (data / "images" / "r1.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"\(new records\), row 1 \(id r1\), column photo: not an image"):
        pipeline.match(settings(run, tmp_path / "m.csv", data, keep=keep))


@pytest.mark.ray
@pytest.mark.timeout(1200)
def test_workers_keep_and_find(run: Path, on_ray: EngineConfig, keep: str, data: Path, tmp_path: Path) -> None:
    changed(data)
    config = settings(run, tmp_path / "m.csv", data, keep=keep, engine=on_ray)
    report = pipeline.match(config).report["kept"]
    assert report["records"] == 2 * N - 7 and report["pairs"] > 0
    here = pipeline.match(settings(run, tmp_path / "m.csv", data, keep=keep))
    there = pipeline.match(config)
    assert here.report["kept"] == there.report["kept"] == {"records": 2 * N - 5, "pairs": len(here.left)}
    assert np.array_equal(here.probability, there.probability)
