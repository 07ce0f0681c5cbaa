"""scripts/cache.py: it shows what is there and removes what it was asked to, no more."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from commands import script
from typer.testing import CliRunner

from mmtab.cli.cache import app
from mmtab.utils.cache import DAY, Store
from mmtab.utils.errors import ConfigError

MB = 1_000_000


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """images: 1 and 2 MB, used 1 and 40 days ago; tokens: 3 MB, 10 days; a generated dataset; two killed runs."""
    store = Store(tmp_path / "cache")
    entries = [("images", 1, 1), ("images", 2, 40), ("tokens", 3, 10)]
    for kind, size, days in entries:
        path = store.folder(kind, {"days": days}, lambda _, size=size: {"x": np.zeros(size * MB, np.uint8)})  # type: ignore[misc]
        os.utime(path, (time.time() - days * DAY,) * 2)
    made = store.named(
        "catalogue", "offers-40-0", lambda scratch: (scratch / "dataset.yaml").write_text("x" * 5000) and None
    )  # type: ignore[arg-type]
    os.utime(made, (time.time() - 20 * DAY,) * 2)
    for name, age in ((".building-a-b", 2 * DAY), (".building-c-d", 60.0)):
        (store.root / "images" / name).mkdir()
        os.utime(store.root / "images" / name, (time.time() - age,) * 2)
    return store.root


def called(cache: Path, *arguments: str) -> str:
    done = CliRunner().invoke(app, [*arguments, "--cache", str(cache)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return re.sub(r"[^\S\n]+", " ", re.sub("[│┃]", " ", done.output))


def left(cache: Path) -> set[tuple[str, int]]:
    """Kind and whole days since its use, of every entry."""
    return {(entry.kind, round((time.time() - entry.used) / DAY)) for entry in Store(cache).entries()}


ALL = {("images", 1), ("images", 40), ("tokens", 10), ("catalogue", 20)}


def test_the_script(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMTAB_CACHE", str(cache))
    shown = script("cache", "show")
    assert str(cache) in shown.stdout and "6.0 MB" in shown.stdout
    wrong = script("cache", "clean", "--kind", "image")
    assert wrong.returncode == 1 and wrong.stdout == ""
    assert wrong.stderr.startswith(f"error: --kind image: {cache} has catalogue, images, tokens")


def test_it_starts_without_torch() -> None:
    code = "import sys, mmtab.cli.cache; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=500, check=True)
    assert done.stdout.strip() == "False"


def test_show(cache: Path) -> None:
    shown = called(cache, "show")
    for kind, days, size in (
        ("images 2", 1, "3.0 MB"),
        ("tokens 1", 10, "3.0 MB"),
        ("catalogue 1", 20, "5.2 kB"),
        ("total 4", 1, "6.0 MB"),
    ):
        when = time.strftime("%Y-%m-%d", time.localtime(time.time() - days * DAY))
        assert f" {kind} {size} {when}" in shown
    assert "besides 1 leftover (0 bytes) of killed runs" in shown
    assert left(cache) == ALL


def test_show_entries(cache: Path) -> None:
    shown = called(cache, "show", "--entries")
    for entry in Store(cache).entries():
        name = entry.digest if entry.kind == "catalogue" else entry.digest[:12]
        assert len(re.findall(f" {entry.kind} {name} [0-9.]+ (MB|kB|bytes) ", shown)) == 1


def test_show_where_there_is_no_cache(tmp_path: Path) -> None:
    assert " total 0 0 bytes" in called(tmp_path / "none", "show")


def test_clean_without_options_removes_leftovers_and_says_what_else(cache: Path) -> None:
    said = called(cache, "clean")
    assert said.startswith(f"removed 0 entries (0 bytes) and 1 leftover (0 bytes) of killed runs from {cache}\n")
    assert "--older-than DAYS, --kind KIND, --to GB or --all" in said
    assert left(cache) == ALL
    assert [path.name for path in (cache / "images").glob(".*")] == [".building-c-d"]  # it may live


@pytest.mark.parametrize(
    ("options", "gone", "size"),
    [
        (["--older-than", "15"], {("images", 40), ("catalogue", 20)}, "2.0 MB"),
        (["--kind", "images"], {("images", 1), ("images", 40)}, "3.0 MB"),
        (["--kind", "images", "--kind", "tokens"], ALL - {("catalogue", 20)}, "6.0 MB"),
        (["--kind", "images", "--older-than", "15"], {("images", 40)}, "2.0 MB"),
        (["--to", "0.0045"], {("images", 40)}, "2.0 MB"),
        (["--to", "0.003"], {("images", 40), ("catalogue", 20), ("tokens", 10)}, "5.0 MB"),
        (["--to", "0.0015", "--kind", "images"], {("images", 40)}, "2.0 MB"),
        (["--to", "0", "--older-than", "15"], {("images", 40), ("catalogue", 20)}, "2.0 MB"),
        (["--to", "1"], set(), "0 bytes"),
        (["--all"], ALL, "6.0 MB"),
    ],
)
def test_clean(cache: Path, options: list[str], gone: set[tuple[str, int]], size: str) -> None:
    for words in (["--dry-run"], []):
        said = called(cache, "clean", *options, *words)
        entries = "1 entry" if len(gone) == 1 else f"{len(gone)} entries"
        assert f"{'would remove' if words else 'removed'} {entries} ({size}) and 1 leftover (0 bytes)" in said
        assert left(cache) == (ALL if words else ALL - gone)
        assert (cache / "images" / ".building-a-b").exists() == bool(words)
        assert "--older-than DAYS" not in said


def test_a_folder_that_holds_other_things_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "alice" / "thesis").mkdir(parents=True)
    for command in (["show"], ["clean"], ["clean", "--all"]):
        with pytest.raises(ConfigError, match=r"holds other things \('alice'\).*Fix: cache="):
            called(tmp_path, *command)
    assert [path.name for path in tmp_path.iterdir()] == ["alice"] and (tmp_path / "alice" / "thesis").is_dir()


def test_options_that_contradict_each_other(cache: Path) -> None:
    with pytest.raises(ConfigError, match="--all removes everything"):
        called(cache, "clean", "--all", "--kind", "images")
    assert left(cache) == ALL


def test_what_cannot_be_removed_is_said(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(Path, "rename", refuse)
    said = called(cache, "clean", "--kind", "tokens")
    assert "removed 0 entries (0 bytes) and 0 leftovers" in said and "\n2 could not be removed" in said
