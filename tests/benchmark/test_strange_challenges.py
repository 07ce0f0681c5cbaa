"""The folder of a challenge may come from anybody, and its bytes may be damaged: what does not fit is one line that
names the file, scores are as they were written, and nothing outside the folder is touched."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import yaml
from damage import damage_at_random
from toy_data import write_kway, write_table

from mmtab.benchmark.challenge import Challenge, history, open_challenge, standings, submit
from mmtab.cli.main import run as command
from mmtab.utils.errors import MmtabError, RunError

Change = Callable[[Path], object]


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A challenge with two teams that submitted; tests change a copy."""
    root = tmp_path_factory.mktemp("opened")
    data = {"toys": write_kway(root / "toys", n=200, images=False)}
    challenge = open_challenge(root / "challenge", data, {"kway": ["toys"]}, title="Toys", seed=1)
    truth = challenge.truth("toys")
    for wrong, team in enumerate(("A", "B"), 3):
        said = [truth.classes[(label + (i % wrong == 0)) % 3] for i, label in enumerate(truth.label[:, 0])]
        path = write_table(root / f"{team}.parquet", truth.ids | {"prediction": said})
        submit(challenge.folder, team, {"toys": path})
    return challenge.folder


@pytest.fixture
def strange(opened: Path, tmp_path: Path) -> Path:
    """A copy as of the first versions, which wrote no manifest; beside it lies what is nobody's business."""
    folder = Path(shutil.copytree(opened, tmp_path / "strange"))
    (folder / "secret" / "toys" / ".manifest.json").unlink()
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / ".writing-old").write_text("mine")
    os.utime(tmp_path / "outside" / ".writing-old", (1, 1))
    return folder


def shown(folder: Path) -> Any:
    """All that is told of the teams."""
    entries = standings(folder, final=True).entries
    values = [
        (e.title, s.value, None if s.prediction is None else s.prediction.tolist()) for e in entries for s in e.scores
    ]
    return values, [(a.status, a.public) for a in history(folder, "A")]


def settings(name: str, *keys: str, value: Any) -> Change:
    def change(folder: Path) -> None:
        content = yaml.safe_load((folder / name).read_text())
        part = content
        for key in keys[:-1]:
            part = part[key]
        part[keys[-1]] = value
        (folder / name).write_text(yaml.safe_dump(content, sort_keys=False))

    return change


def sql(text: str, *values: Any) -> Change:
    def change(folder: Path) -> None:
        with contextlib.closing(sqlite3.connect(folder / "submissions.sqlite", isolation_level=None)) as database:
            database.execute("pragma ignore_check_constraints = on")
            database.execute(text, values)

    return change


def labels(values: list[Any]) -> Change:
    def change(folder: Path) -> None:
        path = folder / "secret" / "toys" / "truth.parquet"
        table = pyarrow.parquet.read_table(path)
        pyarrow.parquet.write_table(table.set_column(1, "label_0", pa.array(values * len(table))), path)

    return change


def public(array: np.ndarray) -> Change:
    return lambda folder: np.save(folder / "secret" / "toys" / "public.npy", array)


def link(name: str) -> Change:
    def change(folder: Path) -> None:
        place = folder / name
        outside = folder.parent / "outside" / (place.name if place.is_file() else "")
        if place.is_file():
            shutil.move(place, outside)
        elif place.exists():
            shutil.rmtree(place)
        place.symlink_to(outside)

    return change


TRUTH, PUBLIC, DATABASE = "secret/toys/truth.yaml", "secret/toys/public.npy", "submissions.sqlite is damaged"
CHANGES: dict[str, tuple[Change, str]] = {
    "a title for a terminal": (
        settings("challenge.yaml", "title", value="a\x1b[31m"),
        "yaml, title: expected",
    ),
    "tracks of no names": (
        settings("challenge.yaml", "tracks", value={"kway": ["../toys"]}),
        "yaml, tracks.*a name of",
    ),
    "no limit": (
        settings("challenge.yaml", "per_day", value=float("inf")),
        "yaml, per_day: expected a whole",
    ),
    "no schema": (settings(TRUTH, "schema", value=None), "truth.yaml, schema: expected a mapping"),
    "a schema elsewhere": (
        settings(TRUTH, "schema", "name", value="../../x"),
        "yaml, schema.name: expected toys",
    ),
    "an id that is no column": (settings(TRUTH, "schema", "id", value="x"), "truth.parquet does not fit"),
    "classes that repeat": (settings(TRUTH, "classes", value=["a", "a"]), "truth.yaml, classes: expected texts that"),
    "a class too many": (labels([99]), "truth.parquet does not fit"),
    "a label that is missing": (labels([None]), "truth.parquet does not fit"),
    "labels of another type": (labels([[1]]), "truth.parquet does not fit"),
    "public rows that are objects": (public(np.array([{1: 2}])), "public.npy does not fit"),
    "too few public rows": (public(np.ones(3, bool)), "public.npy does not fit"),
    "another score": (sql("update attempts set private = 0.99 where id = 1"), DATABASE),
    "an endless score": (sql("update attempts set public = 9e999"), DATABASE),
    "a score that is text": (sql("update attempts set public = 'x'"), DATABASE),
    "a file elsewhere": (sql("update attempts set sha256 = '../../outside/x'"), DATABASE),
    "a form that there is not": (sql("update attempts set suffix = '/../x'"), DATABASE),
    "metrics that are none": (sql("update attempts set metrics = '[1]'"), DATABASE),
    "deep metrics": (sql("update attempts set metrics = ?", "[" * 100_000), DATABASE),
    "a team without a name": (sql("delete from teams"), DATABASE),
    "a name of bytes": (sql("update teams set name = x'00ff'"), DATABASE),
    "a name for a terminal": (sql("update teams set name = 'a' || char(27)"), DATABASE),
    "another time": (sql("update attempts set time = 5"), DATABASE),
    "a folder of labels elsewhere": (link("secret"), "which is outside"),
    "labels elsewhere": (link(f"{Path(TRUTH).parent}/truth.parquet"), "which is outside"),
    "files elsewhere": (link("files"), "which is outside"),
    "a database elsewhere": (link("submissions.sqlite"), "which is outside"),
    "a journal elsewhere": (link("submissions.sqlite-journal"), "which is outside"),
}


@pytest.mark.parametrize(("change", "problem"), CHANGES.values(), ids=CHANGES)
def test_what_does_not_fit_is_named(strange: Path, change: Change, problem: str) -> None:
    change(strange)
    outside = {path: path.read_bytes() for path in (strange.parent / "outside").iterdir()}
    with pytest.raises(RunError, match=problem) as caught:
        shown(strange)
    assert str(strange) in str(caught.value) and "\n" not in str(caught.value)
    with contextlib.suppress(MmtabError):
        submit(strange, "C", {"toys": strange.parent / "nothing.csv"})
    assert {path: path.read_bytes() for path in (strange.parent / "outside").iterdir()} == outside


@pytest.mark.parametrize("seed", range(20))
def test_damage_is_named_or_harmless(opened: Path, tmp_path: Path, seed: int) -> None:
    folder = Path(shutil.copytree(opened, tmp_path / "damaged"))
    done = damage_at_random(folder, seed)
    try:
        found = shown(folder)
    except MmtabError as error:
        assert str(folder) in str(error) and "\n" not in str(error), done
    else:
        assert found == shown(opened), done


def test_other_labels_are_seen(opened: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(opened, tmp_path / "damaged"))
    labels([1])(folder)
    with pytest.raises(RunError, match=r"secret/toys is damaged \(truth\.parquet"):
        shown(folder)


def test_predictions_of_other_bytes_are_read_again(opened: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(opened, tmp_path / "damaged"))
    for path in (folder / "files").glob("*.npy"):
        content = bytearray(path.read_bytes())
        content[128] ^= 1  # the first prediction
        path.write_bytes(content)
    assert shown(folder) == shown(opened)
    for path in folder.glob("files/*.npy"):
        path.unlink()
    (kept, *_) = folder.glob("files/*.parquet")
    kept.write_bytes(kept.read_bytes()[:-1])
    with pytest.raises(RunError, match="is not the file that was submitted"):
        shown(folder)


def test_no_journal_removes_a_file(strange: Path) -> None:
    """SQLite ends a transaction that was broken off by removing the file that its journal names."""
    precious = strange.parent / "outside" / ".writing-old"
    name, magic = str(precious).encode(), bytes.fromhex("d9d505f920a163d7")
    header = magic + struct.pack(">5I", 0, 1, (strange / "submissions.sqlite").stat().st_size // 4096, 512, 4096)
    end = struct.pack(">I", (1 << 30) // 4096 + 1) + name + struct.pack(">2I", len(name), sum(name)) + magic
    (strange / "submissions.sqlite-journal").write_bytes(header.ljust(512, b"\0") + end)
    with pytest.raises(RunError, match="-journal names another file, which SQLite would remove"):
        standings(strange)
    assert precious.exists()


def test_names_are_no_code_of_a_terminal(strange: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sql("update attempts set time = 'a' || char(27), status = 'rejected', reason = char(27) || '[31m'")(strange)
    with pytest.raises(SystemExit):
        command("challenge", ["history", str(strange), "A"])
    assert "\x1b" not in "".join(capsys.readouterr())


def test_challenges_of_the_first_versions_are_read(opened: Path, strange: Path) -> None:
    """Whose attempts, arrays and labels have no digests."""
    sql("update attempts set metrics = json_remove(metrics, '$.row', '$.digest')")(strange)
    for path in (strange / "files").glob("*.npy"):
        path.write_bytes(path.read_bytes()[:-32])
    assert shown(strange) == shown(opened)
    assert Challenge.read(strange).title == "Toys"
