"""The folder of a sweep may come from anybody: what its database says runs no code and removes nothing elsewhere."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_sweep import Bench, bench, toys  # noqa: F401

from mmtab.utils.errors import RunError
from mmtab.utils.manifest import sealed


@pytest.fixture(scope="module")
def finished(toys: Path, tmp_path_factory: pytest.TempPathFactory) -> Bench:  # noqa: F811
    done = Bench(tmp_path_factory.mktemp("finished"), toys)
    done.run(n_trials=2)
    return done


def noted(folder: Path, key: str, change: Callable[[dict[str, Any]], object], state: str = "") -> None:
    """Change a note of all trials, sealed as the sweep seals it."""
    with sqlite3.connect(folder / "study.db") as database:
        rows = database.execute("select trial_user_attribute_id, key, value_json from trial_user_attributes").fetchall()
        for number, name, text in rows:
            if name.startswith(key):
                value = {k: v for k, v in json.loads(text).items() if k != "digest"}
                change(value)
                written = (json.dumps(sealed(value)), number)
                database.execute(
                    "update trial_user_attributes set value_json = ? where trial_user_attribute_id = ?", written
                )
        if state:
            database.execute("delete from trial_params")
            database.execute("update trials set state = ?", (state,))


CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a folder elsewhere": (
        lambda out: noted(out, "drawn", lambda d: d.update(folder="../outside")),
        "which is outside",
    ),
    "code": (
        lambda out: noted(
            out, "drawn", lambda d: d.update(params={"trainer.lr": "{_target_: os.system}"}), state="RUNNING"
        ),
        "study.db is damaged .*settings of another space",
    ),
    "an endless setting": (
        lambda out: noted(out, "drawn", lambda d: d.update(params={"trainer.lr": float("inf")}), state="RUNNING"),
        "study.db is damaged .*settings of another space",
    ),
    "no settings": (lambda out: noted(out, "drawn", lambda d: d.pop("params")), "drawn.params: expected an entry"),
    "a setting more": (lambda out: noted(out, "drawn", lambda d: d["params"].update(seed=1)), "of another space"),
    "a result of another kind": (
        lambda out: noted(out, "run:", lambda r: r.update(seconds="x")),
        "seconds: expected a",
    ),
    "a result that lacks its values": (
        lambda out: noted(out, "run:", lambda r: r.pop("values")),
        "study.db is damaged",
    ),
}


@pytest.mark.parametrize(("change", "problem"), CHANGES.values(), ids=CHANGES)
def test_what_does_not_fit_is_named(
    change: Callable[[Path], object],
    problem: str,
    finished: Bench,
    bench: Bench,  # noqa: F811
) -> None:
    out = Path(shutil.copytree(finished.folder / "out", bench.folder / "out"))
    outside = bench.folder / "outside" / "easy-seed0" / "checkpoints"
    outside.mkdir(parents=True)
    change(out)
    with pytest.raises(RunError, match=problem) as caught:
        bench.run(n_trials=2, weights="best")
    assert "\n" not in str(caught.value) and str(out) in str(caught.value)
    assert outside.exists() and not bench.started()


def test_weights_elsewhere_are_not_removed(finished: Bench, bench: Bench) -> None:  # noqa: F811
    out = Path(shutil.copytree(finished.folder / "out", bench.folder / "out"))
    for trial in out.glob("trial-*"):
        shutil.move(trial, bench.folder / trial.name)
        trial.symlink_to(bench.folder / trial.name)
    with pytest.raises(RunError, match="which is outside"):
        bench.run(n_trials=2, weights="best")
    assert len(list(bench.folder.glob("trial-*/*/checkpoints"))) == 2


def test_no_journal_removes_a_file(finished: Bench, bench: Bench) -> None:  # noqa: F811
    """SQLite ends a transaction that was broken off by removing the file that its journal names."""
    out = Path(shutil.copytree(finished.folder / "out", bench.folder / "out"))
    (precious := bench.folder / "precious").write_text("mine")
    name, magic = os.fsencode(precious), bytes.fromhex("d9d505f920a163d7")
    header = magic + struct.pack(">5I", 0, 1, (out / "study.db").stat().st_size // 4096, 512, 4096)
    end = struct.pack(">I", (1 << 30) // 4096 + 1) + name + struct.pack(">2I", len(name), sum(name)) + magic
    (out / "study.db-journal").write_bytes(header.ljust(512, b"\0") + end)
    with pytest.raises(RunError, match="-journal names another file, which SQLite would remove"):
        bench.run(n_trials=2)
    assert precious.exists()
