"""The challenge: what is handed in is scored right, once, within limits, and tells nobody what is secret; and whatever
strangers hand in ends in one line."""

from __future__ import annotations

import itertools
import json
import os
import pickle
import re
import signal
import sqlite3
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import yaml
from commands import script
from forked import FORK, forked
from sklearn import metrics as sk
from toy_data import change_cell, write_kway, write_pairs, write_table
from typer.testing import CliRunner

from mmtab.benchmark.challenge import (
    Challenge,
    check,
    files_in,
    history,
    open_challenge,
    ranked,
    standings,
    submissions,
    submit,
    untrusted,
)
from mmtab.benchmark.challenge.folder import divide
from mmtab.benchmark.challenge.ladder import climb, step_of
from mmtab.benchmark.challenge.submissions import team_name
from mmtab.benchmark.truth import Truth
from mmtab.cli.challenge import app
from mmtab.data import files
from mmtab.data.schema import Schema
from mmtab.data.table import has_labels
from mmtab.training.tasks import KWayTask, PairTask
from mmtab.utils import manifest
from mmtab.utils.errors import ConfigError, DataError, MmtabError, RunError

DAY = datetime(2025, 3, 1, 12, tzinfo=UTC)
TRACKS = {"kway": ["toys"], "matching": ["pairs"]}


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("sources")
    return {
        "toys": write_kway(root / "toys", n=600, k=4, images=False),
        "pairs": write_pairs(root / "pairs", n=400, images=False),
    }


@pytest.fixture
def challenge(tmp_path: Path, sources: dict[str, Path]) -> Challenge:
    return open_challenge(tmp_path / "challenge", sources, TRACKS, title="Toys & pairs", per_day=3, seed=1)


def predictions(truth: Truth, right: float = 1.0, seed: int = 0, probability: bool = True) -> dict[str, list[Any]]:
    """Columns of a file in which about so many rows are right, with noisy probabilities that say the same."""
    rng = np.random.default_rng(seed)
    n, k = len(truth), len(truth.classes) or 2
    said = np.where(rng.random(n) < right, truth.label[:, 0], rng.integers(0, k, n))
    columns: dict[str, list[Any]] = dict(truth.ids)
    columns["prediction"] = [truth.classes[i] for i in said] if truth.classes else said.tolist()
    if probability and truth.classes:
        p = rng.dirichlet(np.ones(k), n) * 0.4
        p[np.arange(n), said] += 0.6
        columns |= {f"p_{name}": p[:, i].tolist() for i, name in enumerate(truth.classes)}
    elif probability:
        columns["probability"] = np.where(said == 1, 0.5 + 0.5 * rng.random(n), 0.49 * rng.random(n)).tolist()
    return columns


def handed(tmp_path: Path, challenge: Challenge, dataset: str, name: str = "", **options: Any) -> Path:
    path = tmp_path / (name or f"{dataset}-{'-'.join(map(str, options.values()))}.parquet")
    return write_table(path, predictions(challenge.truth(dataset), **options))


def stored(folder: Path, sql: str = "select * from attempts") -> list[Any]:
    database = sqlite3.connect(folder / "submissions.sqlite")
    try:
        return database.execute(sql).fetchall()
    finally:
        database.close()


def both_scores(folder: Path) -> dict[str, dict[str, dict[str, float]]]:
    """Of the one submission for each dataset, all metrics of the public and the private part."""
    return {name: json.loads(text) for name, text in stored(folder, "select dataset, metrics from attempts")}


# --- opening ---------------------------------------------------------------------------------------------------------


def test_a_challenge_folder(challenge: Challenge, sources: dict[str, Path]) -> None:
    about = yaml.safe_load((challenge.folder / "challenge.yaml").read_text())
    assert (about["title"], about["tracks"], about["per_day"], about["public_share"]) == (
        "Toys & pairs",
        TRACKS,
        3,
        0.5,
    )
    assert set(about) == {"title", "tracks", "per_day", "public_share", "created"}  # above all no seed
    for name in ("secret", "files"):
        assert stat.S_IMODE((challenge.folder / name).stat().st_mode) == 0o700
    assert stat.S_IMODE((challenge.folder / "submissions.sqlite").stat().st_mode) == 0o600
    for name, source in sources.items():
        handout = challenge.folder / "handout" / name
        schema, split = Schema.read(handout), "test" if name == "toys" else "pairs_test"
        assert has_labels(handout, schema, "train") and not has_labels(handout, schema, "test")
        assert "label" not in files.header(files.find(handout, name, split), name).names
        truth = Truth.read(source, "test")
        public = challenge.rows(name, public=True)
        private = challenge.rows(name, public=False)
        assert sorted([*public, *private]) == list(range(len(truth)))
        for kind in np.unique(truth.label):  # half of each class, give or take one
            assert abs(sum(truth.label[public] == kind) - sum(truth.label[private] == kind)) <= 2
    assert not list(challenge.folder.parent.glob(".writing-*"))


def test_which_rows_are_public_depends_on_a_secret(tmp_path: Path, sources: dict[str, Path]) -> None:
    def rows(name: str, **options: Any) -> list[int]:
        return open_challenge(tmp_path / name, sources, TRACKS, title="x", **options).rows("toys", True).tolist()

    assert rows("a", seed=1) == rows("b", seed=1) != rows("c", seed=2)
    assert rows("d") != rows("e")
    assert len(rows("f", public_share=0.2)) == pytest.approx(0.2 * 120, abs=1)


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.9])
def test_every_class_is_divided_alike(sources: dict[str, Path], share: float) -> None:
    truth, seen = Truth.read(sources["toys"], "test"), np.zeros(120)
    for seed in range(300):
        public = divide(truth, share, np.random.default_rng(seed))
        for kind in range(4):
            mine = truth.label[:, 0] == kind
            assert abs(public[mine].sum() - share * mine.sum()) < 1
        seen += public
    assert abs(seen / 300 - share).max() < 5 * np.sqrt(share * (1 - share) / 300)  # and no row more often than others


def test_a_handout_of_copies_can_be_sent(tmp_path: Path) -> None:
    toys = write_kway(tmp_path / "toys", n=60, k=2)  # with pictures
    for copy in (False, True):
        folder = tmp_path / f"challenge-{copy}"
        options = {} if copy else {"copy": False}  # copies are the default
        open_challenge(folder, {"toys": toys}, {"kway": ["toys"]}, title="x", **options)  # type: ignore[arg-type]
        handout = folder / "handout" / "toys"
        assert not any(path.is_symlink() for path in handout.rglob("*")), "they would lead to the labels"
        assert not copy or all(path.stat().st_nlink == 1 for path in handout.rglob("*") if path.is_file())
        assert files.count(handout / "train.parquet", "toys") == 36 and list((handout / "images").glob("*.png"))


def test_what_cannot_be_opened(tmp_path: Path, sources: dict[str, Path], challenge: Challenge) -> None:
    def refused(
        message: str, datasets: dict[str, Path], tracks: dict[str, list[str]] | None = None, **options: Any
    ) -> None:
        with pytest.raises(MmtabError, match=message) as caught:
            open_challenge(
                options.pop("folder", tmp_path / "new"),
                datasets,
                tracks or {"all": list(datasets)},
                title="x",
                **options,
            )
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "new").exists() and not list(tmp_path.glob(".writing-*"))

    refused("exists: a challenge is opened once", sources, folder=challenge.folder)
    refused("share between 0 and 1", sources, public_share=1.0)
    refused("at least one a day", sources, per_day=0)
    refused("a challenge needs a dataset", {})
    refused("dataset pairs stands in no track", sources, {"all": ["toys"]})
    refused("cannot name a dataset", {"../toys": sources["toys"]})
    unlabelled = challenge.folder / "handout" / "toys"
    refused("the split has no labels", {"toys": unlabelled})
    few = write_pairs(tmp_path / "few", n=40, images=False)
    table = files.read(few / "pairs_test.parquet", "few")
    labels = [1] + [0] * (len(table) - 1)  # one match cannot be in both parts
    write_table(few / "pairs_test.parquet", table.set_column(2, "label", pa.array(labels)))
    refused(
        r"few, table test, column label: its test split is too small to be divided: the (public|private) part"
        " would lack",
        {"few": few},
    )
    told = write_kway(tmp_path / "told", n=60, images=False)
    table = files.read(told / "test.parquet", "told")
    write_table(told / "test.parquet", table.append_column("kind", table["label"]))
    refused("told, table test, column kind: a column that dataset.yaml does not list", {"told": told})


def test_what_is_no_challenge(tmp_path: Path, challenge: Challenge) -> None:
    with pytest.raises(RunError, match=r"no challenge in .*: it has no challenge.yaml"):
        standings(tmp_path)
    settings, database = challenge.folder / "challenge.yaml", challenge.folder / "submissions.sqlite"
    whole = settings.read_text()
    for damaged in ("title: [", "- 1", whole.replace("per_day: 3", "per_day: many"), whole.replace("- toys", "- gone")):
        settings.write_text(damaged)
        with pytest.raises(RunError) as caught:
            standings(challenge.folder)
        assert "\n" not in str(caught.value)
    settings.write_text(whole)
    for content, message in ((None, "unable to open"), (b"no database" * 100, "not a database")):
        database.unlink(missing_ok=True)
        if content:
            database.write_bytes(content)
        with pytest.raises(RunError, match=message):
            standings(challenge.folder)
    database.unlink()
    sqlite3.connect(database).executescript("pragma user_version = 7").close()
    with pytest.raises(RunError, match="is of version 7, this mmtab reads version 1"):
        standings(challenge.folder)


# --- checks on the checker -------------------------------------------------------------------------------------------


def test_the_truth_scores_exactly_one(tmp_path: Path, challenge: Challenge) -> None:
    for dataset in challenge.datasets:
        receipt = submit(challenge.folder, "Oracle", {dataset: handed(tmp_path, challenge, dataset)}, DAY)[0]
        assert (receipt.public, receipt.attempt, receipt.left_today) == (1.0, 1, 2)
    assert stored(challenge.folder, "select public, private from attempts") == [(1.0, 1.0)] * 2
    assert all(
        score.value == 1
        for final in (False, True)
        for e in standings(challenge.folder, final).entries
        for score in e.scores
    )


def test_the_order_of_rows_is_nothing(tmp_path: Path, challenge: Challenge) -> None:
    rng = np.random.default_rng(0)
    for dataset in challenge.datasets:
        columns, table = predictions(challenge.truth(dataset), right=0.7), {}
        order = rng.permutation(len(challenge.truth(dataset)))
        for name, cells in columns.items():
            table[name] = [cells[i] for i in order]
        a = submit(challenge.folder, "A", {dataset: write_table(tmp_path / "a.parquet", columns)}, DAY)[0]
        b = submit(challenge.folder, "A", {dataset: write_table(tmp_path / "b.csv", table)}, DAY)[0]
        assert a.public == b.public and a.sha256 != b.sha256
    scores = stored(challenge.folder, "select private from attempts order by id")
    assert scores[0] == scores[1] and scores[2] == scores[3]


def test_shuffled_labels_score_chance(tmp_path: Path) -> None:
    folder = write_kway(tmp_path / "toys", n=10_000, k=4, images=False)
    rng, table = np.random.default_rng(5), files.read(folder / "test.parquet", "toys")
    shares = [0.55, 0.25, 0.15, 0.05]
    labels = [f"kind {kind}" for kind in rng.choice(4, len(table), p=shares)]
    write_table(folder / "test.parquet", table.set_column(table.column_names.index("label"), "label", pa.array(labels)))
    challenge = open_challenge(tmp_path / "c", {"toys": folder}, {"kway": ["toys"]}, title="x", seed=0)
    truth = challenge.truth("toys")
    chance, n = sum(share**2 for share in shares), len(truth) // 2
    shuffled = [truth.classes[i] for i in rng.permutation(truth.label[:, 0])]
    submit(
        challenge.folder, "Monkey", {"toys": write_table(tmp_path / "x.parquet", truth.ids | {"prediction": shuffled})}
    )
    for score in stored(challenge.folder, "select public, private from attempts")[0]:
        assert abs(score - chance) < 4 * np.sqrt(chance * (1 - chance) / n)


def test_scores_are_scikit_learns_and_those_of_training(tmp_path: Path, challenge: Challenge) -> None:
    """Each computed here from the file and the source's own labels, by id."""
    toys, pairs = (handed(tmp_path, challenge, name, right=0.6, seed=3) for name in ("toys", "pairs"))
    submit(challenge.folder, "A", {"toys": toys, "pairs": pairs}, DAY)
    found = both_scores(challenge.folder)
    rows = {r["id"]: r for r in pa.parquet.read_table(toys).to_pylist()}
    truth = challenge.truth("toys")
    classes = [f"kind {i}" for i in range(4)]
    for part in ("public", "private"):
        keep = challenge.rows("toys", part == "public")
        label = [classes[truth.label[i, 0]] for i in keep]
        mine = [rows[truth.ids["id"][i]] for i in keep]
        p = np.array([[row[f"p_{name}"] for name in classes] for row in mine])
        said = [row["prediction"] for row in mine]
        assert found["toys"][part] == pytest.approx(
            {
                "accuracy": sk.accuracy_score(label, said),
                "macro_f1": sk.f1_score(label, said, average="macro"),
                "log_loss": sk.log_loss(label, p, labels=classes),
            },
            abs=1e-12,
        )
        task = KWayTask(4).metrics(p, truth.label[keep, 0])
        assert found["toys"][part] == pytest.approx({name: task[name] for name in found["toys"][part]}, abs=1e-6)
    both = {(r["left_id"], r["right_id"]): r for r in pa.parquet.read_table(pairs).to_pylist()}
    truth = challenge.truth("pairs")
    for part in ("public", "private"):
        keep = challenge.rows("pairs", part == "public")
        y = truth.label[keep, 0]
        mine = [both[truth.keys[i]] for i in keep]
        q, called = np.array([row["probability"] for row in mine]), [row["prediction"] for row in mine]
        assert found["pairs"][part] == pytest.approx(
            {
                "f1": sk.f1_score(y, called),
                "precision": sk.precision_score(y, called),
                "recall": sk.recall_score(y, called),
                "pr_auc": sk.average_precision_score(y, q),
                "roc_auc": sk.roc_auc_score(y, q),
                "log_loss": sk.log_loss(y, q),
            },
            abs=1e-12,
        )
        assert found["pairs"][part] == pytest.approx(PairTask().metrics(q[:, None], y[:, None]), abs=1e-9)


def test_several_relations_and_a_metric_of_probabilities(tmp_path: Path) -> None:
    folder = write_pairs(
        tmp_path / "offers", n=200, images=False, metric="pr_auc", relations={"same": {}, "like": {"ignore": ["size"]}}
    )
    rng = np.random.default_rng(0)
    for split in ("train", "valid", "test"):
        path = folder / f"pairs_{split}.parquet"
        table = files.read(path, "offers").rename_columns(["left_id", "right_id", "same"])
        write_table(path, table.append_column("like", pa.array(rng.integers(0, 2, len(table)))))
    challenge = open_challenge(tmp_path / "c", {"offers": folder}, {"matching": ["offers"]}, title="x", seed=0)
    truth = challenge.truth("offers")
    p = np.clip(truth.label * 0.3 + rng.random(truth.label.shape) * 0.7, 0, 1)
    hard = truth.ids | {f"prediction_{name}": truth.label[:, i].tolist() for i, name in enumerate(("same", "like"))}
    path = write_table(tmp_path / "hard.parquet", hard)
    for action in (
        lambda: submit(challenge.folder, "A", {"offers": path}),
        lambda: check(challenge.folder, "offers", path),
    ):
        with pytest.raises(DataError, match="ranked by pr_auc, which takes probabilities"):
            action()
    soft = truth.ids | {f"probability_{name}": p[:, i].tolist() for i, name in enumerate(("same", "like"))}
    receipt = submit(challenge.folder, "A", {"offers": write_table(tmp_path / "soft.parquet", soft)})[0]
    public = challenge.rows("offers", True)
    exact = np.mean([sk.average_precision_score(truth.label[public, i], p[public, i]) for i in (0, 1)])
    assert stored(challenge.folder, "select public from attempts where status = 'scored'") == [(pytest.approx(exact),)]
    assert abs(receipt.public - exact) <= challenge.step("offers") / 2
    scored = standings(challenge.folder, final=True).entries[0].scores[0].prediction
    assert scored is not None and scored.shape == (len(truth) - len(public), 2)


# --- limits, repetitions, transactions -------------------------------------------------------------------------------


def test_the_daily_limit(tmp_path: Path, challenge: Challenge) -> None:
    made = [handed(tmp_path, challenge, "toys", right=0.5, seed=seed) for seed in range(6)]
    wrong = write_table(tmp_path / "wrong.parquet", {"id": ["x"], "prediction": ["kind 0"]})
    for i, path in enumerate(made[:3]):
        with pytest.raises(DataError):
            submit(challenge.folder, "A", {"toys": wrong}, DAY)  # does not count
        with pytest.raises(DataError, match=r"A submitted this very file before|not one row") as caught:
            submit(challenge.folder, "A", {"toys": made[0] if i else wrong}, DAY)  # nor this
        receipt = submit(challenge.folder, " a ", {"toys": path}, DAY)[0]
        assert (receipt.attempt, receipt.left_today, receipt.team) == (i + 1, 2 - i, "A")
        if i:
            assert f"attempt 1 of 2025-03-01T12:00:00+00:00, public accuracy {shown:g}" in str(caught.value)
        shown = receipt.public  # noqa: F841
    with pytest.raises(DataError, match=r"A has used its 3 submissions of 2025-03-01 \(UTC\)"):
        submit(
            challenge.folder,
            "A",
            {"toys": made[3]},
            datetime(2025, 3, 2, 0, 59, tzinfo=UTC).astimezone(UTC) - timedelta(hours=1),
        )
    submit(challenge.folder, "B", {"toys": made[3]}, DAY)
    submit(challenge.folder, "A", {"pairs": handed(tmp_path, challenge, "pairs")}, DAY)
    assert submit(challenge.folder, "A", {"toys": made[3]}, DAY + timedelta(hours=12))[0].attempt == 4
    lines = history(challenge.folder, "a")
    assert [(line.status, line.attempt) for line in lines if line.dataset == "toys"] == [
        ("rejected", None),
        ("rejected", None),
        ("scored", 1),
        ("rejected", None),
        ("scored", 2),
        ("rejected", None),
        ("scored", 3),
        ("scored", 4),
    ]
    assert "not one row for each of the split" in lines[0].reason and lines[0].public is None
    with pytest.raises(ConfigError, match="Nobody has submitted nothing"):
        history(challenge.folder, "Nobody")
    with pytest.raises(ValueError, match="time zone"):
        submit(challenge.folder, "A", {"toys": made[4]}, datetime(2025, 1, 1))


def send(folder: Path, paths: list[Path], all_are_there: Any, said: Any) -> None:
    all_are_there.wait()
    for path in paths:
        try:
            submit(folder, "A", {"toys": path}, DAY)
            said.put("scored")
        except DataError as error:
            said.put("limit" if "has used its 3" in str(error) else str(error))


def test_the_limit_holds_for_processes_at_once(tmp_path: Path, challenge: Challenge) -> None:
    made = [handed(tmp_path, challenge, "toys", right=0.5, seed=seed) for seed in range(16)]
    all_are_there, queue = FORK.Barrier(3), FORK.Queue()
    running = [forked(send, challenge.folder, made[i::3], all_are_there, queue) for i in range(3)]
    said = [queue.get(timeout=500) for _ in made]
    for process in running:
        process.join(500)
        assert process.exitcode == 0
    assert sorted(said) == ["limit"] * 13 + ["scored"] * 3
    assert sorted(stored(challenge.folder, "select attempt from attempts")) == [(1,), (2,), (3,)]
    assert len(list((challenge.folder / "files").iterdir())) == 6  # each with its array; nothing of those refused


def test_a_folder_is_scored_whole_or_not_at_all(tmp_path: Path, challenge: Challenge) -> None:
    folder = tmp_path / "mine"
    (folder / "old").mkdir(parents=True)
    (folder / "notes.txt").write_text("hello")
    with pytest.raises(ConfigError, match="holds no predictions"):
        files_in(challenge.folder, folder)
    handed(folder, challenge, "toys", "toys.csv", right=0.5)
    handed(folder, challenge, "pairs", "pairs.parquet", right=0.5)
    change_cell(folder / "toys.csv", 3, "prediction", "kind 9")
    with pytest.raises(
        DataError, match=r"dataset toys, table toys.csv, row 4, column prediction: not a class of train"
    ):
        submit(challenge.folder, "A", files_in(challenge.folder, folder), DAY)
    assert [(line.dataset, line.status) for line in history(challenge.folder, "A")] == [("toys", "rejected")]
    assert not list((challenge.folder / "files").iterdir())
    change_cell(folder / "toys.csv", 3, "prediction", "kind 1")
    receipts = submit(challenge.folder, "A", files_in(challenge.folder, folder), DAY)
    assert [(r.dataset, r.attempt, r.left_today) for r in receipts] == [("pairs", 1, 2), ("toys", 1, 2)]
    handed(folder, challenge, "pairs", "pairs.parquet", right=0.6)  # only one of them is new
    again = submit(challenge.folder, "A", files_in(challenge.folder, folder), DAY)
    assert [(r.dataset, r.attempt, r.left_today, r.again) for r in again] == [
        ("pairs", 2, 1, False),
        ("toys", 1, 2, True),
    ]
    assert again[1].public == receipts[1].public
    handed(folder, challenge, "toys", "toys.parquet")
    with pytest.raises(ConfigError, match=r"toys was submitted twice, as toys.csv and toys.parquet"):
        files_in(challenge.folder, folder)
    (folder / "toys.csv").rename(folder / "toyz.csv")
    with pytest.raises(ConfigError, match=r"toyz.csv: no dataset of this challenge has this name"):
        files_in(challenge.folder, folder)
    with pytest.raises(
        DataError, match=r"dataset \.\./toys: not a dataset of this challenge; expected one of toys, pairs"
    ):
        submit(challenge.folder, "A", {"../toys": folder / "toys.parquet"}, DAY)


def submit_and_die(folder: Path, place: str, paths: list[Path]) -> None:
    """When a function is called again, without any farewell."""
    owner: Any = submissions if hasattr(submissions, place) else submissions.Challenge
    function, calls = getattr(owner, place), []

    def dies(*arguments: Any) -> Any:
        if calls:
            os.kill(os.getpid(), signal.SIGKILL)
        calls.append(1)
        return function(*arguments)

    setattr(owner, place, dies)
    submissions.submit(folder, "A", {path.stem: path for path in paths}, DAY)


@pytest.mark.parametrize("place", ["_score", "replacing", "write_predictions"])
def test_killed_in_the_middle(tmp_path: Path, challenge: Challenge, place: str) -> None:
    paths = [handed(tmp_path, challenge, name, f"{name}.parquet", right=0.5) for name in ("toys", "pairs")]
    process = forked(submit_and_die, challenge.folder, place, paths)
    process.join(500)
    assert process.exitcode == -signal.SIGKILL
    assert stored(challenge.folder) == [] == standings(challenge.folder).entries
    left = list((challenge.folder / "files").glob(".writing-*"))
    assert left
    for path in left:
        os.utime(path, (time.time() - 2 * 86400,) * 2)
    receipts = submit(challenge.folder, "A", {path.stem: path for path in paths}, DAY)
    assert [receipt.attempt for receipt in receipts] == [1, 1]
    assert not list((challenge.folder / "files").glob(".writing-*"))
    assert len(standings(challenge.folder).entries[0].scores) == 2


# --- hostile files ---------------------------------------------------------------------------------------------------


def changed(**columns: Any) -> Callable[[dict[str, list[Any]], Path], Path]:
    """Columns put in place of those of a good file (None: taken out), or their first cell where it is one value."""

    def write(good: dict[str, list[Any]], path: Path) -> Path:
        for name, cells in columns.items():
            name = name.replace("__", " ")
            if cells is None:
                del good[name]
            else:
                good[name] = (
                    cells if isinstance(cells, list | pa.Array) else [cells, *good.get(name, [cells] * 120)[1:]]
                )
        return write_table(path, pa.table(good))

    return write


def written(content: bytes) -> Callable[[dict[str, list[Any]], Path], Path]:
    def write(good: dict[str, list[Any]], path: Path) -> Path:
        path.write_bytes(content)
        return path

    return write


def truncated(good: dict[str, list[Any]], path: Path) -> Path:
    write_table(path, good)
    path.write_bytes(path.read_bytes()[:-20])
    return path


def millions(good: dict[str, list[Any]], path: Path) -> Path:
    n = 20_000_000
    return write_table(
        path,
        pa.table(
            {
                "id": pa.DictionaryArray.from_arrays(pa.nulls(n, pa.int8()), pa.array(["a"])),
                "prediction": pa.nulls(n, pa.string()),
            }
        ),
    )


def lying(good: dict[str, list[Any]], path: Path) -> Path:
    """119 rows, of which the footer says that they are 120."""
    pa.parquet.write_table(pa.table({name: cells[:-1] for name, cells in good.items()}), path, store_schema=False)
    content = bytearray(path.read_bytes())
    footer = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    content[content.index(b"\xee\x01", footer)] = 0xF0  # as Thrift writes 119 and 120
    path.write_bytes(content)
    assert pa.parquet.read_metadata(path).num_rows == 120 != pa.parquet.read_table(path).num_rows
    return path


def linked(good: dict[str, list[Any]], path: Path) -> Path:
    path.symlink_to(write_table(path.with_name("secret.parquet"), good))
    return path


def pipe(good: dict[str, list[Any]], path: Path) -> Path:
    os.mkfifo(path)
    return path


def directory(good: dict[str, list[Any]], path: Path) -> Path:
    write_table(path / "part.parquet", good)
    return path


def cut(rows: slice) -> Callable[[dict[str, list[Any]], Path], Path]:
    return lambda good, path: write_table(path, {name: cells[rows] for name, cells in good.items()})


def renamed(name: str) -> Callable[[dict[str, list[Any]], Path], Path]:
    return lambda good, path: write_table(path, {name if key == "id" else key: cells for key, cells in good.items()})


class Command:
    def __reduce__(self) -> Any:
        return os.system, ("touch /tmp/mmtab-was-here",)


N = 120
HOSTILE = {
    "a row twice": (changed(id="test-1"), ".parquet", "an id that was answered before"),
    "an unknown id": (changed(id="nobody"), ".parquet", r"row 1: an id that is not in test; found nobody"),
    "an id missing": (
        changed(id=[None] + [f"test-{i}" for i in range(1, N)]),
        ".parquet",
        "row 1, column id: an id is missing",
    ),
    "a row too few": (
        cut(slice(1, None)),
        ".csv",
        "not one row for each of the split; expected 120 rows; found 119 rows",
    ),
    "no rows": (cut(slice(0, 0)), ".csv", "not one row for each"),
    "no id": (renamed("key"), ".parquet", "column id: the file lacks this column"),
    "NaN": (changed(p_kind__0=float("nan")), ".parquet", "row 1, column p_kind 0: not a probability"),
    "infinity": (changed(p_kind__0=float("inf")), ".csv", "row 1, column p_kind 0: not a probability"),
    "negative": (changed(p_kind__0=-0.1), ".parquet", "not a probability; expected a number from 0 to 1; found -0.1"),
    "above 1": (changed(p_kind__1=1.5), ".csv", "not a probability; expected a number from 0 to 1; found 1.5"),
    "sums": (changed(p_kind__1=0.0, p_kind__0=0.0), ".parquet", "row 1: the probabilities of a row do not add up to 1"),
    "no number": (changed(p_kind__0=["many"] * N), ".csv", "row 1, column p_kind 0: not a probability"),
    "unknown class": (changed(p_kind__9=0.0), ".parquet", "probabilities of unknown classes"),
    "unknown class with line breaks": (changed(**{"p_\n\x1b[31mx": 0.0}), ".parquet", r"found p_\\n\\x1b\[31mx"),
    "classes missing": (changed(p_kind__2=None), ".parquet", "probabilities of some classes are missing"),
    "wrong class": (
        changed(prediction="kind 7"),
        ".csv",
        "row 1, column prediction: not a class of train; found kind 7|not a class",
    ),
    "no prediction in a row": (changed(prediction=""), ".csv", "not a class of train"),
    "nothing answered": (lambda good, path: write_table(path, {"id": good["id"]}), ".csv", "answers nothing"),
    "nested ids": (changed(id=[["test-0"]] * N), ".parquet", "an id is missing or cannot be one"),
    "nested predictions": (changed(prediction=[{"a": "kind 1"}] * N), ".parquet", "not a class of train"),
    "nested probabilities": (changed(p_kind__0=[[0.5]] * N), ".parquet", "not a probability"),
    "bytes that are not text": (changed(id=pa.array([b"\xff\xfe"] * N).view(pa.string())), ".parquet", "cannot be"),
    "durations": (changed(id=pa.array(range(N), pa.duration("s"))), ".parquet", "cannot be|not in test"),
    "intervals": (changed(id=pa.array([b"x" * 12] * N, pa.binary(12))), ".parquet", "cannot be one"),
    "a formula": (changed(id='=HYPERLINK("http://evil","x")'), ".csv", "an id that is not in test; found =HYPERLINK"),
    "HTML": (changed(id="<script>alert(1)</script>"), ".csv", "not in test; found <script>"),
    "terminal codes": (
        changed(id="\x1b]0;owned\x07\x1b[2J\nroot#"),
        ".csv",
        r"found \\x1b\]0;owned\\x07\\x1b\[2J\\nroot#",
    ),
    "a column twice": (written(b"id,prediction,prediction\ntest-0,kind 0,kind 0\n"), ".csv", "names a column twice"),
    "ragged": (written(b"id,prediction\n" + b"test-0,kind 0,x\n" * N), ".csv", "ragged row"),
    "quotes": (written(b'id,prediction\n"test-0,kind 0\n' * 5), ".csv", "quotes of line"),
    "latin-1": (written(b"id,prediction\n" + b"caf\xe9,kind 0\n" * N), ".csv", "not UTF-8"),
    "utf-16": (written("id,prediction\n".encode("utf-16")), ".csv", "not UTF-8"),
    "null characters": (written(b"\0" * 5000), ".csv", "not a readable csv file"),
    "empty csv": (written(b""), ".csv", "the file is empty"),
    "empty parquet": (written(b""), ".parquet", "not a readable parquet file"),
    "a pickle": (written(pickle.dumps(Command())), ".parquet", "not a readable parquet file"),
    "a pickle as csv": (written(pickle.dumps(Command())), ".csv", "dataset toys"),
    "truncated": (truncated, ".parquet", "not a readable parquet file"),
    "another format": (written(b"{}"), ".json", r"not a predictions file; expected a .parquet or .csv file"),
    "a suffix in capitals": (written(b"id"), ".CSV", "not a predictions file"),
    "20 million rows in a small file": (millions, ".parquet", "expected 120 rows; found 20000000 rows"),
    "a row less than it claims": (
        lying,
        ".parquet",
        "not one row for each of the split; expected 120 rows; found 119 rows",
    ),
    "large": (written(b"id,prediction\n" + b" " * (1 << 16) * 121), ".csv", "too large to be predictions"),
    "a link": (linked, ".parquet", r"cannot be opened \(it is a link\)"),
    "a pipe": (pipe, ".csv", "not a regular file"),
    "a folder of shards": (directory, ".parquet", "not a regular file"),
    "nothing": (lambda good, path: path, ".parquet", "cannot be opened"),
}


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory, sources: dict[str, Path]) -> Challenge:
    """One challenge, which nobody can get anything into."""
    return open_challenge(tmp_path_factory.mktemp("target") / "challenge", sources, TRACKS, title="Target", seed=1)


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_end_in_one_line(tmp_path: Path, target: Challenge, name: str) -> None:
    write, suffix, message = HOSTILE[name]
    folder = tmp_path / "handed in"
    folder.mkdir()
    path = write(predictions(target.truth("toys")), folder / f"toys{suffix}")
    said = set()
    for action in (
        lambda: check(target.folder, "toys", path),
        lambda: submit(target.folder, name, {"toys": path}, DAY),
    ):
        started = time.perf_counter()
        with pytest.raises(DataError, match=message) as caught:
            action()
        text = str(caught.value)
        assert text.startswith("dataset toys") and text.isprintable() and len(text) < 700
        assert time.perf_counter() - started < 5
        said.add(text)
    assert len(said) == 1
    (line,) = history(target.folder, name)
    assert (line.status, line.attempt, line.public, line.reason) == ("rejected", None, None, said.pop())
    assert not list((target.folder / "files").iterdir()) and not standings(target.folder).entries
    assert not Path("/tmp/mmtab-was-here").exists()


def test_other_columns_are_nothing(tmp_path: Path, challenge: Challenge) -> None:
    extra = {"label": ["?"] * 120, "rank": [[1]] * 120, "note": [b"\xff"] * 120}
    path = write_table(tmp_path / "x.parquet", predictions(challenge.truth("toys")) | extra)
    assert submit(challenge.folder, "A", {"toys": path}, DAY)[0].public == 1


def test_wrong_pairs(tmp_path: Path, challenge: Challenge) -> None:
    truth = challenge.truth("pairs")
    for column, value, message in (
        ("prediction", 2, "row 1, column prediction: not a prediction; expected 0 or 1; found 2"),
        ("probability", -0.5, "row 1, column probability: not a probability"),
        ("right_id", "r999", "not in test; found l320 and r999"),
    ):
        good = predictions(truth)
        good[column][0] = value
        with pytest.raises(DataError, match=message):
            check(challenge.folder, "pairs", write_table(tmp_path / "x.parquet", good))


def test_a_small_file_that_unfolds_to_much(
    tmp_path: Path, challenge: Challenge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(untrusted, "MEMORY", 256 << 20)
    once = pa.DictionaryArray.from_arrays(pa.array([0] * 120, pa.int8()), pa.array(["a" * (20 << 20)]))
    path = tmp_path / "toys.parquet"
    pa.parquet.write_table(pa.table({"id": once, "prediction": ["kind 0"] * 120}), path, compression="zstd")
    assert path.stat().st_size < 1 << 20
    with pytest.raises(DataError, match=r"unfolds to more|not a readable parquet file \((malloc|realloc)"):
        check(challenge.folder, "toys", path)


def test_a_file_that_changes_while_it_is_read(
    tmp_path: Path, challenge: Challenge, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is checked, scored and kept is one and the same copy."""
    path = handed(tmp_path, challenge, "toys", right=0.5)
    before, fetch = path.read_bytes(), untrusted.fetch

    def changes(source: Path, target: Path, truth: Truth) -> tuple[Path, str]:
        found = fetch(source, target, truth)
        handed(tmp_path, challenge, "toys", path.name, right=1.0)
        return found

    monkeypatch.setattr(untrusted, "fetch", changes)
    receipt = submit(challenge.folder, "A", {"toys": path}, DAY)[0]
    assert receipt.public < 1 and path.read_bytes() != before
    assert (challenge.folder / "files" / f"{receipt.sha256}.parquet").read_bytes() == before


# --- teams -----------------------------------------------------------------------------------------------------------


def test_team_names() -> None:
    same = ["Acme", "ACME", " acme\t", "Ａｃｍｅ", "ac\u034fme", "acme\u3164", "acme\ufe0f"]
    assert {team_name(name)[1] for name in same} == {"acme"}
    assert team_name("Straße")[1] == team_name("STRASSE")[1]
    assert team_name("e\u0301quipe")[1] == team_name("Équipe")[1]
    assert team_name("a  b")[1] == team_name("A b")[1]
    assert team_name(" 数据队 ") == ("数据队", "数据队") and team_name("Zoë & Co. ❤️")[0] == "Zoë & Co. ❤️"
    assert team_name("x" * 40)[0] == "x" * 40
    for bad in (
        "",
        "   ",
        "x" * 41,
        "a\nb",
        "a\x00b",
        "a\x1b[31mb",
        "a\u202eb",
        "a\u200bb",
        "a\xa0b",
        "\u3164",
        "\ud800",
        "=1+1",
        "＝1+1",
        "@SUM(A1)",
        "-team",
        "+1",
    ):
        with pytest.raises(ConfigError, match="cannot name a team") as caught:
            team_name(bad)
        assert str(caught.value).isprintable()


def test_nobody_imitates_a_team(tmp_path: Path, challenge: Challenge) -> None:
    for seed, name in enumerate(["Acme", "ACME", "Ａcme"]):
        receipt = submit(
            challenge.folder, name, {"toys": handed(tmp_path, challenge, "toys", right=0.5, seed=seed)}, DAY
        )[0]
        assert (receipt.team, receipt.attempt) == ("Acme", seed + 1)
    with pytest.raises(DataError, match="Acme has used its 3"):
        submit(challenge.folder, "acme", {"toys": handed(tmp_path, challenge, "toys", right=0.5, seed=9)}, DAY)
    assert [entry.title for entry in standings(challenge.folder).entries] == ["Acme"]


def test_names_that_look_alike_are_refused(tmp_path: Path, challenge: Challenge) -> None:
    file = handed(tmp_path, challenge, "toys")
    submit(challenge.folder, "Acme", {"toys": file}, DAY)
    submit(challenge.folder, "Team 1", {"toys": file}, DAY)
    for name in ["Аcme", "АСМЕ", "acmе", "Acm\u212e", "Team l", "Tеam 1", "TEAM I"]:
        with pytest.raises(ConfigError, match=r"looks like '(Acme|Team 1)', which is another team\. Fix: another name"):
            submit(challenge.folder, name, {"toys": file}, DAY)
    for name in ["Acne", "Team 2", "Команда", "数据队"]:
        submit(challenge.folder, name, {"toys": file}, DAY)
    assert len(standings(challenge.folder).entries) == 6


def test_sql_in_names_is_text(tmp_path: Path, challenge: Challenge) -> None:
    names = ["x'); drop table attempts;--", "' or '1'='1", 'a" union select', "%", "x' --"]
    for name in names:
        submit(challenge.folder, name, {"toys": handed(tmp_path, challenge, "toys")}, DAY)
        assert len(history(challenge.folder, name)) == 1
    assert {entry.name for entry in standings(challenge.folder).entries} == set(names)
    with pytest.raises(ConfigError, match="has submitted nothing"):
        history(challenge.folder, "' or 1=1 --")


# --- standings -------------------------------------------------------------------------------------------------------


def test_the_best_public_submission_counts(tmp_path: Path, challenge: Challenge) -> None:
    """Also in the end, though another one of the team may have the better private score."""
    truth, public = challenge.truth("toys"), challenge.rows("toys", True)
    private = challenge.rows("toys", False)

    def file(name: str, right: np.ndarray) -> Path:
        said = (truth.label[:, 0] + 1) % 4
        said[right] = truth.label[right, 0]
        return write_table(tmp_path / name, truth.ids | {"prediction": [truth.classes[i] for i in said]})

    overfit = file("overfit.parquet", np.concatenate([public, private[:6]]))
    honest = file("honest.parquet", np.concatenate([public[:30], private[:30]]))
    for team, path in (("Overfit", overfit), ("Overfit", honest), ("Honest", honest)):
        submit(challenge.folder, team, {"toys": path}, DAY)
    for final, wanted in ((False, {"Overfit": 1.0, "Honest": 0.5}), (True, {"Overfit": 0.1, "Honest": 0.5})):
        board, rows = standings(challenge.folder, final), private if final else public
        assert {entry.name: entry.scores[0].value for entry in board.entries} == pytest.approx(wanted)
        dataset = board.datasets["toys"]
        assert final or dataset.label is None  # from which intervals would come that tell more than the scores
        for entry in board.entries if final else ():
            said = entry.scores[0].prediction
            assert dataset.label is not None and (dataset.label == truth.label[rows]).all()
            assert said is not None and (said == dataset.label).mean() == pytest.approx(wanted[entry.name])
        assert [entry.name for _, entry, _ in ranked(board, "kway")] == sorted(wanted, key=lambda name: -wanted[name])
        assert ranked(board, "matching") == []
    assert (board.title, {entry.kind for entry in board.entries}) == ("Toys & pairs: final standings", {"team"})
    assert board.entries[1].about == "2 attempts, the last 2025-03-01 12:00 UTC"


def attack(challenge: Challenge, file: Callable[[np.ndarray], Path], n: int = 25) -> float:
    """The accuracy on the public rows, beyond chance, of somebody who knows nothing, and keeps each block of guesses
    that raised the score, of ``n`` submissions, and then lets those that scored well vote (Blum and Hardt)."""
    truth, public = challenge.truth("toys"), challenge.rows("toys", True)
    rng, k = np.random.default_rng(0), len(truth.classes)
    guesses = rng.integers(0, k, len(truth))
    best = submit(challenge.folder, "Eve", {"toys": file(guesses)}, DAY)[0].public
    votes = np.zeros((len(truth), k))
    for blocks in np.array_split(rng.permutation(len(truth)), n - 1):
        tried = guesses.copy()
        tried[blocks] = (tried[blocks] + 1) % k
        score = submit(challenge.folder, "Eve", {"toys": file(tried)}, DAY)[0].public
        votes[np.arange(len(truth)), tried] += score - best
        if score > best:
            guesses, best = tried, score
    accuracy = (guesses[public] == truth.label[public, 0]).mean()
    return float(max(accuracy, (votes.argmax(1)[public] == truth.label[public, 0]).mean())) - 1 / k


def test_25_submissions_do_not_tell_the_public_labels(
    tmp_path: Path, sources: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With exact scores, somebody who knows nothing climbs well above chance; on the ladder, not."""
    gains = {}
    for name, step in (("exact", 1e-9), ("ladder", None)):
        if step is not None:
            monkeypatch.setattr(Challenge, "step", lambda *_, step=step: step)
        challenge = open_challenge(
            tmp_path / name, {"toys": sources["toys"]}, {"kway": ["toys"]}, title="x", per_day=25, seed=1
        )
        truth, n = challenge.truth("toys"), itertools.count()

        def file(guesses: np.ndarray, truth: Truth = truth, name: str = name, n: Iterator[int] = n) -> Path:
            said = [truth.classes[i] for i in guesses]
            return write_table(tmp_path / f"{name}-{next(n)}.parquet", truth.ids | {"prediction": said})

        gains[name] = attack(challenge, file)
        monkeypatch.undo()
    assert gains["exact"] > 0.15 and gains["ladder"] < 0.08, gains


def test_the_ladder() -> None:
    assert [step_of(n) for n in (60, 300, 10_000, 10**9)] == [0.1, 0.05, 0.005, 0.001]
    shown = climb([0.512, 0.549, 0.551, 0.30, 0.609, 0.72], 0.05)
    assert shown == [(0.5, 0), (0.5, 0), (0.55, 2), (0.55, 2), (0.6, 4), (0.7, 5)]


def test_ranks(tmp_path: Path, sources: dict[str, Path]) -> None:
    open_challenge(tmp_path / "c", sources, {"all": ["toys", "pairs"]}, title="x")
    challenge = Challenge.read(tmp_path / "c")
    for team, datasets in (("B", ["toys", "pairs"]), ("A", ["toys", "pairs"]), ("Half", ["toys"])):
        submit(challenge.folder, team, {name: handed(tmp_path, challenge, name) for name in datasets})
    board = standings(challenge.folder)
    assert [(place, entry.name, mean) for place, entry, mean in ranked(board, "all")] == [
        (1, "A", 1.0),
        (1, "B", 1.0),
        (None, "Half", None),
    ]


def test_a_damaged_array_is_made_again(tmp_path: Path, challenge: Challenge) -> None:
    receipt = submit(challenge.folder, "A", {"toys": handed(tmp_path, challenge, "toys", right=0.5)}, DAY)[0]
    (kept,) = (challenge.folder / "files").glob("*.npy")
    assert kept.name == f"{receipt.sha256}.toys.npy"
    wanted = standings(challenge.folder, final=True).entries[0].scores[0].prediction
    for damage in (b"", kept.read_bytes()[:-7], pickle.dumps(Command()), None):
        kept.unlink()
        if damage is not None:
            kept.write_bytes(damage)
        found = standings(challenge.folder, final=True).entries[0].scores[0].prediction
        assert found is not None and wanted is not None and (found == wanted).all() and kept.stat().st_size > 400


N_EACH = int(os.environ.get("MMTAB_SUBMISSIONS", "6"))  # of each of 50 teams; 40 take 20 s


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory where there is one, so that a test of many writes does not wait for a busy disk."""
    if not os.access("/dev/shm", os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(prefix="mmtab-", dir="/dev/shm") as folder:
        yield Path(folder)


def f1(label: np.ndarray, said: np.ndarray) -> float:
    return float(2 * (label & said).sum() / (label.sum() + said.sum()))


@pytest.mark.slow
def test_50_teams_with_many_submissions(memory: Path, sources: dict[str, Path]) -> None:
    challenge = open_challenge(memory / "c", sources, TRACKS, title="Load", per_day=10, seed=0)
    rng, seconds = np.random.default_rng(0), 0.0
    best: dict[tuple[str, str], tuple[float, float]] = {}
    keys = {name: [",".join(key) for key in challenge.truth(name).keys] for name in challenge.datasets}
    for t in range(50):
        for s in range(N_EACH // 2):
            said, handed_in = {}, {}
            for name in challenge.datasets:
                truth = challenge.truth(name)
                label, k = truth.label[:, 0], len(truth.classes) or 2
                said[name] = np.where(rng.random(len(label)) < 0.3 + t / 100, label, rng.integers(0, k, len(label)))
                answers = [truth.classes[i] for i in said[name]] if truth.classes else said[name]
                lines = [f"{key},{answer}" for key, answer in zip(keys[name], answers, strict=True)]
                handed_in[name] = memory / f"{name}.csv"
                handed_in[name].write_text("\n".join([",".join([*truth.ids, "prediction"]), *lines]))
            started = time.perf_counter()
            receipts = submit(challenge.folder, f"Team {t}", handed_in, DAY + timedelta(days=s // 10))
            seconds += time.perf_counter() - started
            for receipt in receipts:
                label, mine = challenge.truth(receipt.dataset).label[:, 0], said[receipt.dataset]
                parts = [challenge.rows(receipt.dataset, public) for public in (True, False)]
                public, private = (
                    float((label[rows] == mine[rows]).mean())
                    if receipt.dataset == "toys"
                    else f1(label[rows], mine[rows])
                    for rows in parts
                )
                step = challenge.step(receipt.dataset)
                if public >= best.get((receipt.team, receipt.dataset), (-1.0, 0.0))[0] + step - 1e-9:
                    best[receipt.team, receipt.dataset] = (round(round(public / step) * step, 6), private)
                assert receipt.public == best[receipt.team, receipt.dataset][0]
    assert len(stored(challenge.folder)) == 50 * N_EACH
    took = []
    for final in (False, True):
        started = time.perf_counter()
        board = standings(challenge.folder, final)
        took.append(time.perf_counter() - started)
        for track, (dataset,) in TRACKS.items():
            places = ranked(board, track)
            wanted = {team: scores[final] for (team, name), scores in best.items() if name == dataset}
            assert {entry.name: mean for _, entry, mean in places} == pytest.approx(wanted)
            means = [mean for _, _, mean in places if mean is not None]
            assert len(means) == 50 and means == sorted(means, reverse=True)
    print(f"{50 * N_EACH} submissions in {seconds:.1f} s, standings in {took[0]:.2f} and {took[1]:.2f} s")


# --- the command line, and what participants see ---------------------------------------------------------------------


def called(*arguments: object) -> str:
    done = CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return re.sub(r"[^\S\n]+", " ", re.sub("[│┃]", " ", done.output))


def test_the_commands(tmp_path: Path, sources: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "challenge"
    said = called(
        "open",
        folder,
        *(f"--dataset={source}" for source in sources.values()),
        "--title",
        "Our challenge",
        "--per-day",
        2,
        "--seed",
        1,
    )
    assert " toys accuracy 60 60 " in said and " pairs f1 40 40 " in said and f"send {folder / 'handout'} to" in said
    challenge = Challenge.read(folder)
    assert challenge.tracks == TRACKS
    mine = tmp_path / "mine"
    paths = [handed(mine, challenge, name, f"{name}.csv", right=0.6, seed=2) for name in challenge.datasets]
    assert "120 rows of toys, with probabilities; would be accepted" in called("check", folder, "toys", paths[0])
    receipt = called("send", folder, "Team <b>", mine)
    public = {
        name: f"{round(values['public'][metric], 1):g}"  # in steps of 0.1, on so few rows
        for (name, values), metric in zip(both_scores(folder).items(), ("f1", "accuracy"), strict=True)
    }
    assert f" toys 1 1 accuracy {public['toys']} " in receipt and f" pairs 1 1 f1 {public['pairs']} " in receipt
    other = handed(tmp_path, challenge, "toys", "other.parquet", right=0.1)
    assert " toys 2 0 accuracy " in called("send", folder, "Team <b>", other, "--dataset", "toys")
    shown = called("standings", folder)
    assert f" 1 Team <b> {float(public['toys']):.4f} {float(public['toys']):.4f} 3 attempts" in shown
    assert "Our challenge: kway" in shown and "3 attempts, the last" in shown and "the public rows" in shown
    assert "final standings: matching" in called("standings", folder, "--final")
    assert f" toys scored 1 {public['toys']} " in called("history", folder, "team <b>")
    track = tmp_path / "small.yaml"
    track.write_text("kway: {datasets: [catalogue]}\n")
    with pytest.raises(ConfigError, match=r"--track nowhere: configs/track has .*; or name a yaml file"):
        called("open", tmp_path / "n", "--track", "nowhere")
    with pytest.raises(ConfigError, match="is of none of the tracks kway"):
        monkeypatch.setattr("mmtab.api.load_dataset", _stub(sources))
        called("open", tmp_path / "n", "--track", track, "--dataset", sources["pairs"])
    called("open", tmp_path / "n", "--track", track)
    assert Challenge.read(tmp_path / "n").tracks == {"kway": ["catalogue"]}
    track.write_text("- kway\n")
    with pytest.raises(ConfigError, match="expected tracks such as"):
        called("open", tmp_path / "m", "--track", track)


def _stub(sources: dict[str, Path]) -> Any:
    from mmtab.data.dataset import Dataset

    return lambda name: Dataset.read(sources["toys"] if name == "catalogue" else Path(name))


def test_the_script_says_mistakes_in_one_line(tmp_path: Path, challenge: Challenge) -> None:
    def failed(*arguments: object) -> str:
        done = script("submit", *arguments)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
        return done.stderr

    assert failed("send", challenge.folder, "A", tmp_path / "toys.csv").startswith(
        "error: dataset toys, table toys.csv: the file cannot be opened (No such file"
    )
    assert failed("standings", tmp_path).startswith("error: no challenge in")


def told(folder: Path, mine: Path, output: Path, monkeypatch: pytest.MonkeyPatch, swap: bool) -> dict[str, str]:
    """Everything that participants see of a challenge of which, with ``swap``, other labels are private."""
    sources = {
        "toys": write_kway(mine / "toys", n=600, k=4, images=False),
        "pairs": write_pairs(mine / "pairs", n=600, images=False),
    }
    challenge = open_challenge(folder, sources, {"both": ["toys", "pairs"]}, title="x", public_share=0.51, seed=2)
    answers = {
        (name, t, s): predictions(challenge.truth(name), right=0.3 + 0.2 * t, seed=10 * t + s)
        for name in sources
        for t in range(3)
        for s in range(2)
    }
    for name in sources if swap else []:
        truth, private = challenge.truth(name), challenge.rows(name, public=False)
        truth.label[private] = np.roll(truth.label[private], 1)
        truth.write(folder / "secret" / name)
        manifest.write(folder / "secret" / name)
    said = []
    for (name, t, s), columns in answers.items():
        path = write_table(mine / f"{name}-{t}-{s}.parquet", columns)
        team = ("<script>alert(1)</script>", "Acme", "C")[t]
        said += [*submit(folder, team, {name: path}, DAY), *history(folder, team)]
        check(folder, name, path)
    with monkeypatch.context() as patch:  # the time that the page says
        patch.setattr("mmtab.benchmark.challenge.leaderboard.shown", lambda _: "now")
        printed = called("standings", folder, "-o", output).replace(str(output), "OUTPUT")
    pages = {path.name: path.read_text(encoding="utf-8") for path in output.iterdir()}
    return pages | {"receipts and history": repr(said), "standings": printed}


def test_nothing_for_participants_tells_private_scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Were the private labels others, every page, receipt and history would be the same to the last byte."""
    pytest.importorskip("mmtab.benchmark.scoreboard")
    folders = [tmp_path / "a", tmp_path / "b"]
    seen = [
        told(folder, tmp_path / "mine", tmp_path / f"board-{folder.name}", monkeypatch, folder.name == "b")
        for folder in folders
    ]
    assert len(seen[0]) >= 5 and {Path(name).suffix for name in seen[0]} >= {".html", ".md", ".csv"}
    assert seen[0] == seen[1]
    finals = [standings(folder, final=True).entries for folder in folders]
    assert [[s.value for s in e.scores] for e in finals[0]] != [[s.value for s in e.scores] for e in finals[1]]
    challenge = Challenge.read(folders[0])
    assert {len(challenge.rows("toys", public)) for public in (True, False)} == {61, 59}  # prime: no value in common
    lines = stored(folders[0], "select public, private from attempts where dataset = 'toys'")
    for name, text in seen[0].items():
        for public, private in lines:
            assert private not in (0, 1, public)
            assert repr(private) not in text and f"{private:.6f}" not in text, name
        assert "<script>alert(1)</script>" not in text or not name.endswith(".html")
        for public, _ in lines:  # nor exact public ones, of which each would tell a little of the labels
            assert repr(public) not in text and f"{public:.4f}" not in text, name
    board = standings(folders[0])
    assert all(dataset.label is None for dataset in board.datasets.values())
    assert all(score.prediction is None for entry in board.entries for score in entry.scores)
    for path in (folders[0] / "handout").rglob("*.parquet"):
        assert "test" not in path.name or "label" not in pa.parquet.read_schema(path).names
