"""The cache on a shared disk and after a power failure: it removes only what it made, and damage becomes no numbers."""

from __future__ import annotations

import json
import os
import shutil
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmtab.utils import cache as store_module
from mmtab.utils.cache import DAY, TAG, Arrays, Store
from mmtab.utils.errors import ConfigError
from mmtab.utils.manifest import MANIFEST

X = np.arange(1000, dtype=np.float32)


def build(_: Path) -> Arrays:
    return {"x": X, "y": X[:3] + 1}


@pytest.fixture
def another_process(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Forget what this process has used and compared."""

    def forget() -> None:
        monkeypatch.setattr(store_module, "_used", set())
        monkeypatch.setattr(store_module, "_intact", {})

    return forget


# --- only what it made -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strange", ["alice/thesis/chapter.txt", "notes.txt", "images/holiday/1.jpg", ".git/config"])
def test_a_folder_that_holds_other_things_is_refused(tmp_path: Path, strange: str) -> None:
    (tmp_path / strange).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / strange).write_text("mine")
    store = Store(tmp_path, limit=1)
    with pytest.raises(ConfigError, match=rf"^cache={tmp_path} holds other things .*Fix: cache={tmp_path}/mmtab .*$"):
        store.arrays("images", {}, build)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [tmp_path / strange]
    assert Store(tmp_path / "mmtab").arrays("images", {}, build)["x"].sum() == X.sum()


def test_another_programs_cache_is_not_ours(tmp_path: Path) -> None:
    (tmp_path / TAG).write_text("Signature: 8a477f597d28d172789f06886806bc55\n# made by cargo\n")
    with pytest.raises(ConfigError, match="holds other things"):
        Store(tmp_path).arrays("images", {}, build)


def test_what_lies_in_a_cache_and_was_not_made_by_it_stays(tmp_path: Path, another_process: Callable[[], None]) -> None:
    store = Store(tmp_path / "cache", limit=1)
    old = store.folder("images", {"old": 1}, build)
    outside = tmp_path / "outside"
    shutil.copytree(old, outside / old.name)
    strange = [store.root / "alice" / "thesis", store.root / "images" / "holiday", store.root / "images" / "empty"]
    for folder in strange:
        folder.mkdir(parents=True)
    (strange[0] / "chapter.txt").write_text("mine")
    (strange[0] / "key.json").write_text("{}")
    (store.root / "alice" / ".poetry.lock").write_text("mine")
    (store.root / "linked").symlink_to(outside)
    for path in [*strange, old, outside / old.name, store.root / "alice" / ".poetry.lock"]:
        os.utime(path, (time.time() - 9 * DAY,) * 2)
    another_process()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        store.folder("images", {"new": 1}, build)
    store.remove([*store.leftovers(), *store.entries()])
    assert not old.exists() and (outside / old.name).is_dir() and all(folder.is_dir() for folder in strange)
    assert (strange[0] / "chapter.txt").is_file() and (store.root / "alice" / ".poetry.lock").is_file()


def test_a_cache_of_before_goes_on(tmp_path: Path, another_process: Callable[[], None]) -> None:
    store = Store(tmp_path, limit=10**9)
    entry = store.folder("images", {"a": 1}, build)
    store.named("catalogue", "kway-400-0-0123abcd", lambda scratch: (scratch / "dataset.yaml").touch())
    (tmp_path / "downloads" / "0123456789abcdef").mkdir(parents=True)
    (tmp_path / "tokens").mkdir()  # emptied
    (tmp_path / "images" / ".ab.lock").touch()
    for made in (tmp_path / TAG, *tmp_path.glob(f"*/*/{MANIFEST}")):  # versions before did not write these
        made.unlink()
    another_process()
    assert len(store.entries()) == 3
    assert store.arrays("images", {"a": 1}, lambda _: pytest.fail("it is there"))["x"].sum() == X.sum()
    assert (entry / MANIFEST).is_file()
    store.named("catalogue", "kway-400-0-0123abcd", lambda _: pytest.fail("it is there"))
    store.arrays("tokens", {}, build)
    assert (tmp_path / TAG).read_text().startswith("Signature: 8a477f597d28d172789f06886806bc55\n")


def test_a_cache_that_cannot_be_written_to_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for root in (tmp_path / "file", tmp_path / "file" / "cache"):
        with pytest.raises(ConfigError, match=rf"^cache={root} cannot be written to \(.*\)\. Fix: cache=FOLDER.*$"):
            Store(root).arrays("images", {}, build)


# --- damage ----------------------------------------------------------------------------------------------------------


def flip(path: Path, at: int | None = None) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2 if at is None else at] ^= 1
    path.write_bytes(content)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "flipped": lambda entry: flip(entry / "x.npy"),
    "zeroed": lambda entry: (entry / "x.npy").write_bytes(bytes((entry / "x.npy").stat().st_size)),
    "cut": lambda entry: os.truncate(entry / "x.npy", 500),
    "emptied": lambda entry: os.truncate(entry / "y.npy", 0),
    "removed": lambda entry: (entry / "y.npy").unlink(),
    "linked": lambda entry: ((entry / "y.npy").unlink(), (entry / "y.npy").symlink_to(entry / "x.npy")),
    "another key": lambda entry: (entry / "key.json").write_text("[]"),
    "manifest flipped": lambda entry: flip(entry / MANIFEST, 0),
    "manifest emptied": lambda entry: os.truncate(entry / MANIFEST, 0),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_entry_is_built_again_with_one_warning(
    tmp_path: Path, damage: str, another_process: Callable[[], None]
) -> None:
    store = Store(tmp_path)
    entry = store.folder("kind", {}, build)
    DAMAGES[damage](entry)
    another_process()
    assert not store.has("kind", {})
    with pytest.warns(UserWarning) as said:
        arrays = store.arrays("kind", {}, build)
    assert len(said) == 1 and str(said[0].message).startswith(f"the cache entry {entry} is damaged (")
    np.testing.assert_array_equal(arrays["x"], X)
    another_process()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        store.arrays("kind", {}, lambda _: pytest.fail("it is whole"))
    assert len(store.entries()) == 1 and store.leftovers() == []


def test_sizes_are_compared_always_and_digests_once_in_a_process(
    tmp_path: Path, another_process: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)
    entry = store.folder("kind", {}, build)
    another_process()
    digested: list[Path] = []
    digest = store_module.manifest.file_digest
    monkeypatch.setattr(store_module.manifest, "file_digest", lambda path: (digested.append(path), digest(path))[1])
    for _ in range(3):
        store.arrays("kind", {}, lambda _: pytest.fail("it is there"))
    assert sorted(path.name for path in digested) == ["key.json", "x.npy", "y.npy"]
    os.truncate(entry / "x.npy", 500)
    with pytest.warns(UserWarning, match=r"x\.npy has 500 bytes instead of 4128"):
        store.arrays("kind", {}, build)


def test_an_entry_of_before_that_was_cut_is_built_again(tmp_path: Path, another_process: Callable[[], None]) -> None:
    store = Store(tmp_path)
    entry = store.folder("kind", {}, build)
    (entry / MANIFEST).unlink()
    os.truncate(entry / "x.npy", 500)
    another_process()
    with pytest.warns(UserWarning, match=r"damaged \(x\.npy: "):
        assert store.arrays("kind", {}, build)["x"].sum() == X.sum()


def test_bytes_are_on_the_disk_before_the_name_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: set[int] = set()
    fsync, rename = os.fsync, Path.rename

    def renamed(path: Path, target: Path) -> Path:
        assert {part.stat().st_ino for part in (path, *path.iterdir())} <= synced
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", lambda handle: (synced.add(os.fstat(handle).st_ino), fsync(handle))[1])
    monkeypatch.setattr(Path, "rename", renamed)
    entry = Store(tmp_path).folder("kind", {}, build)
    assert entry.parent.stat().st_ino in synced


def test_only_what_the_manifest_lists_is_read(tmp_path: Path, another_process: Callable[[], None]) -> None:
    store = Store(tmp_path / "cache")
    store.arrays("numbers", {"a": 1}, build)
    (entry,) = [path for path in (tmp_path / "cache" / "numbers").iterdir() if path.is_dir()]
    (entry / "._x.npy").write_bytes(b"of a file system of others")
    os.mkfifo(entry / "aaa.npy")
    another_process()
    assert set(store.arrays("numbers", {"a": 1}, build)) == {"x", "y"}
    (entry / MANIFEST).unlink()
    os.mkfifo(entry / MANIFEST)
    another_process()
    with pytest.warns(UserWarning, match="is no file"):
        assert set(store.arrays("numbers", {"a": 1}, build)) == {"x", "y"}


MANIFESTS: dict[str, Callable[[dict[str, Any]], object]] = {
    "nothing listed": lambda value: value["files"].clear(),
    "a file less": lambda value: value["files"].pop("y.npy"),
    "a file of elsewhere": lambda value: value["files"].update({"../z.npy": [1, "0"]}),
    "another digest": lambda value: value["files"]["x.npy"].reverse(),
    "without a seal": lambda value: (value.pop("digest"), value["files"].clear()),
    "no mapping": lambda value: value.update(files=[1]),
}


@pytest.mark.parametrize("change", MANIFESTS)
def test_a_manifest_that_was_changed_is_not_believed(
    tmp_path: Path, change: str, another_process: Callable[[], None]
) -> None:
    entry = Store(tmp_path).folder("images", {}, build)
    value = json.loads((entry / MANIFEST).read_text())
    MANIFESTS[change](value)
    (entry / MANIFEST).write_text(json.dumps(value))
    another_process()
    with pytest.warns(UserWarning, match=rf"the cache entry {entry} is damaged \({MANIFEST} cannot be read\)"):
        assert set(Store(tmp_path).arrays("images", {}, build)) == {"x", "y"}


def test_an_entry_in_the_place_of_another_is_not_believed(tmp_path: Path, another_process: Callable[[], None]) -> None:
    store = Store(tmp_path)
    one, other = (store.folder("images", {"a": a}, lambda _, a=a: {"x": X + a}) for a in (1, 2))  # type: ignore[misc]
    shutil.rmtree(other)
    shutil.copytree(one, other)
    another_process()
    with pytest.warns(UserWarning, match=r"key\.json is that of another entry"):
        assert store.arrays("images", {"a": 2}, lambda _: {"x": X + 2})["x"][0] == 2


@pytest.mark.parametrize("link", ["kind", "entry"])
def test_a_cache_neither_reads_nor_writes_through_a_link(
    tmp_path: Path, link: str, another_process: Callable[[], None]
) -> None:
    store, victim = Store(tmp_path / "cache"), tmp_path / "victim"
    entry = store.folder("images", {}, build)
    path = entry if link == "entry" else entry.parent
    path.rename(victim)
    path.symlink_to(victim)
    before = {file: file.read_bytes() for file in victim.rglob("*") if file.is_file()}
    another_process()
    for use in (lambda: store.arrays("images", {}, build), lambda: store.has("images", {})):
        with pytest.raises(ConfigError, match=rf"{path} is a link to {victim}, .*Fix: remove the link"):
            use()
    store.remove([*store.entries(), *store.leftovers()])
    assert {file: file.read_bytes() for file in victim.rglob("*") if file.is_file()} == before
    (tmp_path / "link").symlink_to(tmp_path / "cache")  # the cache itself may be one
    assert Store(tmp_path / "link").arrays("rows", {}, build)["x"].sum() == X.sum()


STRANGE = [
    "images/{entry}/notes.txt",
    "images/{entry}/deep/notes.txt",
    "images/0123/.manifest.json",
    "mine/a/.manifest.json",
]
STRANGE += ["mine/.building-house/plan", "mine/.removing-wallpaper/plan", "images/notes.txt", "mine/key.json"]


@pytest.mark.parametrize("strange", STRANGE)
def test_clean_removes_nothing_that_it_did_not_make(
    tmp_path: Path, strange: str, another_process: Callable[[], None]
) -> None:
    store = Store(tmp_path)
    entries = [store.folder("images", {"a": a}, build) for a in (1, 2)]
    path = tmp_path / strange.format(entry=entries[0].name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text('{"files": {}}' if path.suffix == ".json" else "mine")
    (tmp_path / "mine").mkdir(exist_ok=True)
    (tmp_path / "mine" / "thesis").touch()
    for old in tmp_path.rglob("*"):
        os.utime(old, (time.time() - 9 * DAY,) * 2)
    another_process()
    store.remove([*store.entries(), *store.leftovers()])
    assert path.is_file() and (tmp_path / "mine" / "thesis").is_file() and not entries[1].exists()
    assert entries[0].exists() == ("{entry}" in strange)


def test_a_damaged_entry_that_holds_other_things_stays(tmp_path: Path, another_process: Callable[[], None]) -> None:
    entry = Store(tmp_path).folder("images", {}, build)
    (entry / "notes.txt").write_text("mine")
    flip(entry / "x.npy")
    another_process()
    with pytest.raises(
        ConfigError, match=r"damaged \(x\.npy has other bytes.* holds other things \(notes\.txt\)\. Fix: "
    ):
        Store(tmp_path).arrays("images", {}, build)
    assert (entry / "notes.txt").read_text() == "mine"
