"""The cache: built once, never half, mapped into memory."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable
from datetime import UTC
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmtab.data.digests import Digest, digest_of
from mmtab.utils import cache as store_module
from mmtab.utils.cache import DAY, Arrays, Store
from mmtab.utils.manifest import MANIFEST
from mmtab.utils.npy import Appended


def test_built_once(tmp_path: Path) -> None:
    calls = []

    def build(scratch: Path) -> Arrays:
        calls.append(scratch)
        return {"x": np.arange(6).reshape(2, 3), "none": np.zeros((0, 4), np.float32)}

    for _ in range(3):
        arrays = Store(tmp_path).arrays("kind", {"a": 1, "b": [1.5, "é"]}, build)
    assert len(calls) == 1 and not calls[0].exists()
    assert arrays["x"].tolist() == [[0, 1, 2], [3, 4, 5]] and arrays["none"].shape == (0, 4)
    Store(tmp_path).arrays("kind", {"b": [1.5, "é"], "a": 1}, build)  # the order of a key means nothing
    assert len(calls) == 1
    for other in ({"a": 2, "b": [1.5, "é"]}, {"a": 1}):
        Store(tmp_path).arrays("kind", other, build)
    Store(tmp_path).arrays("other kind", {"a": 1}, build)
    assert len(calls) == 4


def test_the_result_is_a_read_only_memory_map(tmp_path: Path) -> None:
    def build(scratch: Path) -> Arrays:
        mapped = np.lib.format.open_memmap(scratch / "big.npy", "w+", np.uint8, (4, 5))
        mapped[2] = 7
        return {"big": mapped, "small": np.ones(3)}

    arrays = Store(tmp_path).arrays("kind", {}, build)
    assert isinstance(arrays["big"], np.memmap) and isinstance(arrays["small"], np.memmap)
    assert arrays["big"].sum() == 35
    with pytest.raises(ValueError, match="read-only"):
        arrays["big"][0, 0] = 1


def test_an_entry_says_what_it_was_made_from(tmp_path: Path) -> None:
    Store(tmp_path).arrays("kind", {"size": 3}, lambda _: {"x": np.zeros(1)})
    (path,) = (tmp_path / "kind").glob("*/key.json")
    assert json.loads(path.read_text()) == {"size": 3}
    assert path.parent.stat().st_mode & 0o777 == 0o755  # others may read a shared cache


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_failed_build_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    def fail(scratch: Path) -> Arrays:
        np.save(scratch / "half.npy", np.zeros(3))
        raise error("stop")

    with pytest.raises(error, match="stop"):
        Store(tmp_path).arrays("kind", {"a": 1}, fail)
    assert list((tmp_path / "kind").iterdir()) == []
    assert Store(tmp_path).arrays("kind", {"a": 1}, lambda _: {"x": np.ones(2)}).keys() == {"x"}


# --- at the same time ------------------------------------------------------------------------------------------------


def test_threads_that_want_the_same_entry_build_it_once(tmp_path: Path) -> None:
    together = threading.Barrier(4, timeout=20)
    built: list[Path] = []
    results: list[float] = []

    def build(scratch: Path) -> Arrays:
        built.append(scratch)
        time.sleep(0.3)  # long enough for the others to begin too, if they could
        return {"x": np.full(1000, 3.0)}

    def want() -> None:
        together.wait()
        results.append(float(Store(tmp_path).arrays("kind", {"a": 1}, build)["x"].sum()))

    threads = [threading.Thread(target=want) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [3000.0] * 4 and len(built) == 1
    assert len(list((tmp_path / "kind").iterdir())) == 1  # no lock stays


PROCESS = """
import os, sys, time
from pathlib import Path
import numpy as np
from mmtab.utils.cache import Store

root, mode = Path(sys.argv[1]), sys.argv[2]

def build(scratch):
    np.save(scratch / "x.npy", np.full(1000, 3.0))
    (root / f"built-{os.getpid()}").touch()
    if mode == "killed":
        time.sleep(60)
    until = time.monotonic() + 20
    while len(list(root.glob("asks-*"))) < 2 and time.monotonic() < until:
        time.sleep(0.01)
    time.sleep(0.3)  # long enough for the other to begin too, if it could
    return {"x": np.full(1000, 3.0)}

(root / f"asks-{os.getpid()}").touch()
print(Store(root / "cache").arrays("rows", {"a": 1}, build)["x"].sum())
"""


def test_processes_that_want_the_same_entry_build_it_once(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PROCESS, str(tmp_path), "both"]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [process.communicate(timeout=500)[0].strip() for process in running] == ["3000.0", "3000.0"]
    assert len(list(tmp_path.glob("asks-*"))) == 2 and len(list(tmp_path.glob("built-*"))) == 1
    assert len(list((tmp_path / "cache" / "rows").iterdir())) == 1


def test_a_killed_build_is_never_taken_for_an_entry_and_lets_the_next_one_build(tmp_path: Path) -> None:
    killed = subprocess.Popen([sys.executable, "-c", PROCESS, str(tmp_path), "killed"])
    until = time.monotonic() + 30
    while not list(tmp_path.glob("built-*")) and time.monotonic() < until:
        time.sleep(0.01)
    store = Store(tmp_path / "cache")
    (scratch,) = (store.root / "rows").glob(".building-*")
    age(scratch, 2 * DAY)
    assert store.entries() == store.leftovers() == []  # it lives: its lock is held
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert [left.path.suffix for left in store.leftovers()] == [".lock", ""] and store.leftovers()[1].path == scratch
    arrays = store.arrays("rows", {"a": 1}, lambda _: {"x": np.ones(2)})
    assert arrays["x"].tolist() == [1, 1]
    (left,) = store.leftovers()  # the lock is gone
    assert left.path == scratch and store.remove([left]) == [left] and not scratch.exists()


def test_waiting_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(store_module, "PATIENCE", 0.05)
    begun, finish = threading.Event(), threading.Event()

    def build(_: Path) -> Arrays:
        begun.set()
        finish.wait(20)
        return {"x": np.ones(2)}

    first = threading.Thread(target=lambda: Store(tmp_path).arrays("kind", {}, build))
    first.start()
    assert begun.wait(20)
    threading.Timer(0.4, finish.set).start()
    Store(tmp_path).arrays("kind", {}, build)
    first.join()
    (record,) = caplog.records
    assert record.name == "mmtab" and record.getMessage().startswith("waiting for another run that builds kind")


@pytest.mark.parametrize(
    ("where", "error"),
    [
        ("fcntl.flock", OSError(errno.ENOSYS, "not implemented")),
        ("fcntl.flock", OSError(errno.ENOLCK, "no locks available")),
        ("filelock.BaseFileLock.acquire", NotImplementedError()),
    ],
)
def test_a_file_system_that_cannot_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, error: Exception
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(where, fail)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # filelock's, were it to fall back to a lock that outlives its process
        assert Store(tmp_path).arrays("kind", {}, lambda _: {"x": np.ones(2)})["x"].tolist() == [1, 1]


def test_a_build_that_needs_another_entry(tmp_path: Path) -> None:
    store = Store(tmp_path, limit=1)

    def build(_: Path) -> Arrays:
        return {"y": store.arrays("inner", {}, lambda _: {"x": np.ones(2)})["x"] + 1}

    with pytest.warns(UserWarning, match="stays above its limit"):
        assert store.arrays("outer", {}, build)["y"].tolist() == [2, 2]


# --- making room -----------------------------------------------------------------------------------------------------

SIZE = 100_000


def age(path: Path, seconds: float) -> None:
    then = time.time() - seconds
    for part in (path, *path.iterdir()) if path.is_dir() else (path,):
        os.utime(part, (then, then))


def fill(store: Store, key: int, n_bytes: int = SIZE) -> Path:
    return store.folder("kind", {"key": key}, lambda _: {"x": np.zeros(n_bytes, np.uint8)})


def as_another_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "_used", set())
    monkeypatch.setattr(store_module, "_spare", {})


def test_what_was_used_least_recently_makes_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [fill(Store(tmp_path), key) for key in range(4)]
    named = Store(tmp_path).named("catalogue", "made", lambda scratch: np.save(scratch / "x.npy", np.zeros(SIZE)))
    fetched = Store(tmp_path).named("downloads", "file", lambda scratch: np.save(scratch / "x.npy", np.zeros(SIZE)))
    for days, path in enumerate([*reversed(paths), named, fetched], 1):
        age(path, days * DAY)
    as_another_process(monkeypatch)
    store = Store(tmp_path, limit=int(3.5 * SIZE))
    fill(store, 0)  # the most recent was used: that alone removes nothing
    fill(store, 1)
    assert all(path.is_dir() for path in paths) and named.is_dir()
    as_another_process(monkeypatch)
    new = fill(store, 4)
    assert [path.is_dir() for path in [*paths, new, named, fetched]] == [True, True, False, False, True, False, True]
    assert not list((tmp_path / "kind").glob(".*"))


def test_using_an_entry_keeps_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [fill(Store(tmp_path), key) for key in range(3)]
    for path in paths:
        age(path, 5 * DAY)
    before = time.time() - 1
    fill(Store(tmp_path), 1)
    assert [path.stat().st_mtime > before for path in paths] == [False, True, False]
    as_another_process(monkeypatch)
    fill(Store(tmp_path, limit=int(2.5 * SIZE)), 3)
    assert [path.is_dir() for path in paths] == [False, True, False]


def test_what_this_process_uses_never_makes_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built, read, seen, other = (fill(Store(tmp_path), key) for key in range(4))
    as_another_process(monkeypatch)
    (tmp_path / "link").symlink_to(tmp_path)  # the same cache by another path
    store = Store(tmp_path, limit=SIZE)
    store.named("kind", read.name, lambda _: pytest.fail("it is there"))
    assert store.has("kind", {"key": 2})
    fill(Store(tmp_path / "link"), 0)
    for path in (built, read, seen, other):
        age(path, 9 * DAY)
    with pytest.warns(UserWarning, match=r"stays above its limit of 0\.0001 GB"):
        new = fill(store, 9, 3 * SIZE)
    assert [path.is_dir() for path in (built, read, seen, other, new)] == [True, True, True, False, True]


def test_what_another_process_used_just_now_never_makes_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [fill(Store(tmp_path), key) for key in range(2)]
    age(paths[0], 70)
    as_another_process(monkeypatch)
    with pytest.warns(UserWarning, match="stays above its limit"):
        fill(Store(tmp_path, limit=SIZE), 2)
    assert [path.is_dir() for path in paths] == [False, True]


def test_an_entry_larger_than_the_limit_is_kept_and_said_once(tmp_path: Path) -> None:
    store = Store(tmp_path, limit=SIZE // 2)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("default")
        paths = [fill(store, key) for key in range(3)]
    assert all(path.is_dir() for path in paths)
    assert len([w for w in said if "stays above its limit" in str(w.message)]) == 1


def test_room_is_looked_for_at_times_and_where_little_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To look at every entry takes a while, where there are many."""
    looked, entries, clock = [], Store.entries, [0.0]
    monkeypatch.setattr(Store, "entries", lambda self: looked.append(1) or entries(self))
    monkeypatch.setattr(store_module.time, "monotonic", lambda: clock[0])
    for minutes, key, times in ((0, 0, 1), (0, 1, 1), (1, 2, 2), (1, 3, 2)):
        clock[0] = 61 * minutes
        fill(Store(tmp_path, limit=100 * SIZE), key)
        assert len(looked) == times
    for key in range(4, 40):  # a tenth of what is free holds nine of them
        fill(Store(tmp_path, limit=100 * SIZE), key)
    assert 5 <= len(looked) <= 7


def test_leftovers_go_when_room_is_made(tmp_path: Path) -> None:
    kind = fill(Store(tmp_path), 1).parent
    for name in (".building-ab-old", ".building-ab-written", ".building-held-old", ".removing-x"):
        (kind / name).mkdir(parents=True)
        (kind / name / "x.npy").write_bytes(b"1234")
        age(kind / name, 2 * DAY)
    (kind / ".building-ab-young").mkdir()
    os.utime(kind / ".building-ab-written" / "x.npy")  # its folder is old, but somebody writes
    (kind / ".free.lock").touch()
    (kind / "other.lock").touch()  # none of ours
    with filelock.FileLock(kind / ".held.lock"):
        fill(Store(tmp_path), 1)
        assert {left.digest for left in Store(tmp_path).leftovers()} == {
            ".building-ab-old",
            ".removing-x",
            ".free.lock",
        }
        assert sum(left.n_bytes for left in Store(tmp_path).leftovers()) == 8
        new = fill(Store(tmp_path, limit=10 * SIZE), 2)
        left = {path.name for path in kind.iterdir() if path.name.startswith(".")}
    assert left == {".building-ab-written", ".building-held-old", ".building-ab-young", ".held.lock"}
    assert new.is_dir()


def test_entries_say_what_is_there(tmp_path: Path) -> None:
    assert Store(tmp_path / "none").entries() == Store(tmp_path / "none").leftovers() == []
    store = Store(tmp_path)
    path = store.folder("kind", {"a": 1}, lambda _: {"x": np.zeros(1000, np.uint8)})
    age(path, 100)

    def write(scratch: Path) -> None:
        (scratch / "images").mkdir()
        (scratch / "images" / "a.jpg").write_bytes(b"12345")
        (scratch / "dataset.yaml").write_text("abc")

    store.named("catalogue", "offers-40", write)
    (tmp_path / "kind" / ".building-x").mkdir()
    (tmp_path / "file").touch()
    made, arrays = store.entries()
    assert (made.kind, made.digest) == ("catalogue", "offers-40")
    assert made.n_bytes == 8 + (made.path / MANIFEST).stat().st_size
    assert (arrays.kind, arrays.path, arrays.digest) == ("kind", path, path.name)
    assert arrays.n_bytes == sum(file.stat().st_size for file in path.iterdir()) > 1000
    assert abs(time.time() - 100 - arrays.used) < 60
    mapped = store.arrays("kind", {"a": 1}, lambda _: {})["x"]
    assert store.remove([made, arrays]) == [made, arrays] and store.entries() == []
    assert mapped.sum() == 0  # what is mapped outlives its file
    assert store.remove([made]) == []  # another process was first


@pytest.mark.parametrize("when", ["before it was listed", "before it was read"])
@pytest.mark.parametrize("times", [1, 3])
def test_an_entry_that_vanishes_is_built_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str, times: int
) -> None:
    store, built, left = Store(tmp_path), [], [times]

    def robbed(do: Callable[..., Any]) -> Callable[..., Any]:
        def rob(*args: Any, **options: Any) -> Any:
            result = do(*args, **options) if when == "before it was listed" else None
            if left[0]:
                left[0] -= 1
                store.remove(store.entries())
            return result if when == "before it was listed" else do(*args, **options)

        return rob

    def build(scratch: Path) -> Arrays:
        built.append(scratch)
        return {"x": np.ones(2)}

    if when == "before it was listed":
        monkeypatch.setattr(store, "folder", robbed(store.folder))
    else:
        monkeypatch.setattr(store_module.np, "load", robbed(np.load))
    if times == 1:
        assert store.arrays("kind", {}, build)["x"].tolist() == [1, 1] and len(built) == 2
    else:
        with pytest.raises(FileNotFoundError):
            store.arrays("kind", {}, build)
        assert len(built) == 3


def test_what_a_build_does_not_find_is_its_own_error(tmp_path: Path) -> None:
    built = []

    def build(scratch: Path) -> Arrays:
        built.append(scratch)
        return {"x": np.load(tmp_path / "absent.npy")}

    with pytest.raises(FileNotFoundError, match="absent"):
        Store(tmp_path).arrays("kind", {}, build)
    assert len(built) == 1


# --- names -----------------------------------------------------------------------------------------------------------


def test_place_keeps_what_is_there_first(tmp_path: Path) -> None:
    entry = tmp_path / "deep" / "er" / "entry"
    for text in ("first", "second"):
        Store.place(entry, lambda scratch, t=text: (scratch / "file").write_text(t) and None)  # type: ignore[misc]
    assert (entry / "file").read_text() == "first"


def test_whether_and_where_an_entry_is(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert not store.has("kind", {"a": 1})
    folder = store.folder("kind", {"a": 1}, lambda _: {"x": np.arange(3)})
    assert store.has("kind", {"a": 1}) and not store.has("kind", {"a": 2})
    assert np.load(folder / "x.npy").tolist() == [0, 1, 2]


def test_place_takes_a_name_as_long_as_a_file_system_allows(tmp_path: Path) -> None:
    Store.place(tmp_path / ("n" * 250), lambda scratch: None)
    store = Store(tmp_path / "cache")
    store.named("kind", "n" * 250, lambda scratch: None)
    assert [len(entry.digest) for entry in store.entries()] == [250]


# --- rows whose number is not known ----------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(), (3,), (2, 0), (2, 5)])
@pytest.mark.parametrize("sizes", [[], [0], [1], [3, 0, 4], [100_000, 23_456]])
def test_appended_rows_are_an_ordinary_file(tmp_path: Path, shape: tuple[int, ...], sizes: list[int]) -> None:
    parts = [np.random.default_rng(i).normal(size=(n, *shape)).astype(np.float32) for i, n in enumerate(sizes)]
    with Appended(tmp_path / "x.npy", np.float32, shape) as file:
        for part in parts:
            file.append(part)
        assert file.n_rows == sum(sizes)
    file.close()  # again: nothing happens
    read = np.load(tmp_path / "x.npy", mmap_mode="r", allow_pickle=False)
    assert isinstance(read, np.memmap) and read.offset % 64 == 0 and read.flags.c_contiguous
    assert read.dtype == np.float32 and read.shape == (sum(sizes), *shape)
    np.testing.assert_array_equal(read, np.concatenate([np.zeros((0, *shape), np.float32), *parts]))


def test_appended_in_an_entry(tmp_path: Path) -> None:
    def build(scratch: Path) -> Arrays:
        with Appended(scratch / "ids.npy", np.int32) as ids, Appended(scratch / "none.npy", bool, (4,)):
            ids.append(np.arange(5)[::-2])  # int64, and not contiguous
        return {"offsets": np.array([0, 3])}

    arrays = Store(tmp_path).arrays("kind", {}, build)
    assert arrays["ids"].tolist() == [4, 2, 0] and arrays["ids"].dtype == np.int32
    assert arrays["none"].shape == (0, 4) and arrays["offsets"].tolist() == [0, 3]


def test_appended_takes_only_what_fits(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="objects cannot be mapped"):
        Appended(tmp_path / "x.npy", object)
    with Appended(tmp_path / "x.npy", np.int32, (2,)) as file:
        file.append(np.ones((1, 2), np.int64))
        with pytest.raises(TypeError, match="same_kind"):
            file.append(np.ones((1, 2), np.float32))
        for wrong in (np.ones((1, 3), np.int32), np.ones(2, np.int32), np.array(1, np.int32)):
            with pytest.raises(ValueError, match=r"expected rows of shape \(2,\)"):
                file.append(wrong)
    with (
        Appended(tmp_path / "y.npy", np.int32) as flat,
        pytest.raises(ValueError, match=r"expected rows of shape \(\)"),
    ):
        flat.append(np.array(1, np.int32))
    with pytest.raises(ValueError, match="closed"):
        file.append(np.ones((1, 2), np.int32))
    assert np.load(tmp_path / "x.npy").tolist() == [[1, 1]]  # what was refused left nothing


# --- digests ---------------------------------------------------------------------------------------------------------


def test_digests_follow_content_and_type() -> None:
    values = pa.array(["a", None, "b"])
    assert digest_of(values) == digest_of(pa.array(["a", None, "b"]))
    assert digest_of(values) == digest_of(values.cast(pa.large_string()))  # a csv and a parquet file may differ in that
    assert digest_of(values) == digest_of(values.dictionary_encode()) == digest_of(values.cast(pa.string_view()))
    others = [
        pa.array(["a", "", "b"]),
        pa.array(["a", None, "c"]),
        pa.array(["ab", None]),
        pa.array(["a", "b", None]),
        pa.array(["ab", None, ""]),
        pa.array(["a", None, "b", None]),
        pa.array([b"a", None, b"b"]),
        pa.array([["a"], None, ["b"]]),
        pa.array([{"x": "a"}, None, {"x": "b"}]),
        pa.array([{"y": "a"}, None, {"y": "b"}]),
        pa.array([{"x": "a"}, {"x": None}, {"x": "b"}]),
        pa.array([1, None, 2]),
        pa.array([1, None, 2], pa.int32()),
        pa.array([True, None, True]),
        pa.array([[["a"]], None, [["b"]]]),
        pa.nulls(3),
    ]
    assert len({digest_of(v) for v in [values, *others]}) == 17
    assert digest_of(pa.array(["x", "a", None, "b"])[1:]) == digest_of(values)  # a slice is its content
    assert digest_of(pa.array(["xyz", "a", "b"])[1:]) == digest_of(pa.array(["a", "b"]))
    grid = np.arange(6).reshape(2, 3)
    assert digest_of(grid[:, ::2]) == digest_of(grid[:, ::2].copy()) != digest_of(grid)
    assert digest_of(pa.array([{}], pa.struct([]))) != digest_of(pa.array([{}, {}], pa.struct([])))
    assert digest_of(np.zeros((0, 4))) != digest_of(np.array(3))


CELLS: dict[pa.DataType, st.SearchStrategy] = {
    pa.bool_(): st.booleans(),
    pa.int16(): st.integers(-3, 3),
    pa.float64(): st.floats(allow_nan=False).map(lambda x: x + 0.0),  # no -0.0, which equals 0.0
    pa.timestamp("us", "UTC"): st.datetimes().map(lambda t: t.replace(tzinfo=UTC)),
    pa.string(): st.text("aé", max_size=3),
    pa.binary(): st.binary(max_size=3),
    pa.list_(pa.string()): st.lists(st.none() | st.text("a", max_size=1), max_size=3),
    pa.list_(pa.int8(), 2): st.lists(st.none() | st.integers(0, 1), min_size=2, max_size=2),
    pa.struct({"bytes": pa.binary(), "path": pa.string()}): st.fixed_dictionaries(
        {"bytes": st.none() | st.binary(max_size=2), "path": st.none() | st.text("a", max_size=1)}
    ),
    pa.list_(pa.struct({"a": pa.list_(pa.int32()), "b": pa.bool_()})): st.lists(
        st.none()
        | st.fixed_dictionaries(
            {"a": st.none() | st.lists(st.integers(0, 1), max_size=2), "b": st.none() | st.booleans()}
        ),
        max_size=2,
    ),
}
WIDE = {
    pa.string(): pa.large_string(),
    pa.binary(): pa.large_binary(),
    pa.list_(pa.string()): pa.large_list(pa.large_string()),
}


def columns(kind: pa.DataType) -> st.SearchStrategy[list[Any]]:
    return st.lists(CELLS[kind] | CELLS[kind] | st.none(), max_size=8)


@pytest.mark.parametrize("kind", CELLS, ids=str)
@given(st.data())
@settings(max_examples=30, deadline=None)
def test_a_digest_does_not_depend_on_cuts(kind: pa.DataType, data: st.DataObject) -> None:
    cells = data.draw(columns(kind))
    whole = pa.array(cells, kind)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(cells)), max_size=4)))
    digest = Digest()
    for start, stop in zip([0, *cuts], [*cuts, len(cells)], strict=True):
        piece = whole[start:stop]  # a slice
        form = data.draw(st.sampled_from(["slice", "copy", "wide", "null"]))
        if form == "copy":
            piece = pa.array(cells[start:stop], kind)
        elif form == "wide" and kind in WIDE:
            piece = piece.cast(WIDE[kind])
        elif form == "null" and piece.null_count == len(piece):
            piece = pa.nulls(len(piece))
        digest.add(piece)
    digest.add(whole[:0])  # so that there is a type, whatever was drawn
    assert digest.hexdigest() == digest_of(whole)


@pytest.mark.parametrize("kind", CELLS, ids=str)
@pytest.mark.parametrize("first", [True, False])
@given(st.data())
@settings(max_examples=10, deadline=None)
def test_a_piece_of_type_null_is_missing_cells(kind: pa.DataType, first: bool, data: st.DataObject) -> None:
    typed, cell = pa.array([None, None], kind), data.draw(CELLS[kind])
    for end in ([], [cell]):
        digest = Digest()
        for piece in (pa.nulls(2), typed, pa.nulls(1)) if first else (typed, pa.nulls(3)):
            digest.add(piece)
        if end:
            digest.add(pa.array(end, kind))
        assert digest.hexdigest() == digest_of(pa.array([None] * 5 + end, kind)) != digest_of(pa.nulls(5 + len(end)))


@pytest.mark.parametrize("kind", CELLS, ids=str)
@given(st.data())
@settings(max_examples=30, deadline=None)
def test_other_cells_have_another_digest(kind: pa.DataType, data: st.DataObject) -> None:
    cells = data.draw(columns(kind))
    other = data.draw(st.permutations(cells) | columns(kind))
    assert (digest_of(pa.array(cells, kind)) == digest_of(pa.array(other, kind))) == (cells == other)


def masked(values: pa.Array) -> pa.Array:
    """The second of three cells made missing, with its content still in the buffers."""
    children = [values.values] if pa.types.is_list(values.type) else None
    buffers = [pa.py_buffer(b"\x05"), *values.buffers()[1 : values.type.num_buffers]]
    return pa.Array.from_buffers(values.type, 3, buffers, children=children)


@pytest.mark.parametrize(
    "cells", [["a", "xx", "b"], [b"a", b"xx", b""], [1, 7, 3], [[1], [7, 7], [2]], [True, True, False]]
)
def test_what_lies_beneath_missing_cells_does_not_count(cells: list[Any]) -> None:
    hidden, plain = masked(pa.array(cells)), pa.array([cells[0], None, cells[2]])
    assert hidden.to_pylist() == plain.to_pylist() and digest_of(hidden) == digest_of(plain)
    fields = [pa.StructArray.from_arrays([pa.array(cells)], ["x"], mask=pa.array([False, True, False]))]
    assert digest_of(fields[0]) == digest_of(pa.array([{"x": cells[0]}, None, {"x": cells[2]}]))


def test_pieces_of_other_types_have_no_digest() -> None:
    digest = Digest()
    digest.add(pa.array([1]))
    with pytest.raises(TypeError, match="expected int64, found string"):
        digest.add(pa.array(["a"]))
    with pytest.raises(TypeError, match="no digest of type map"):
        digest_of(pa.array([[("a", 1)]], pa.map_(pa.string(), pa.int64())))
