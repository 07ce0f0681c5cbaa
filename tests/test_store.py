"""The cache: built once, never half, mapped into memory."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from mmtab.store import Arrays, Store, digest_of


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


def test_threads_that_build_the_same_entry(tmp_path: Path) -> None:
    together = threading.Barrier(4, timeout=20)
    results: list[float] = []

    def build(_: Path) -> Arrays:
        together.wait()
        return {"x": np.full(1000, 3.0)}

    threads = [
        threading.Thread(
            target=lambda: results.append(float(Store(tmp_path).arrays("kind", {"a": 1}, build)["x"].sum()))
        )
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [3000.0] * 4
    assert len(list((tmp_path / "kind").iterdir())) == 1


PROCESS = """
import os, sys, time
from pathlib import Path
import numpy as np
from mmtab.store import Store

root, mode = Path(sys.argv[1]), sys.argv[2]

def build(scratch):
    np.save(scratch / "x.npy", np.full(1000, 3.0))
    if mode == "killed":
        os._exit(9)
    until = time.monotonic() + 20
    while len(list(scratch.parent.glob(".building-*"))) < 2 and time.monotonic() < until:
        time.sleep(0.01)  # until the other one is building too
    (root / f"met-{os.getpid()}").touch()
    while len(list(root.glob("met-*"))) < 2 and time.monotonic() < until:
        time.sleep(0.01)
    return {"x": np.full(1000, 3.0)}

print(Store(root).arrays("kind", {"a": 1}, build)["x"].sum())
"""


def test_processes_that_build_the_same_entry(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PROCESS, str(tmp_path), "both"]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [process.communicate(timeout=60)[0].strip() for process in running] == ["3000.0", "3000.0"]
    assert len(list(tmp_path.glob("met-*"))) == 2
    assert len(list((tmp_path / "kind").iterdir())) == 1


def test_a_killed_build_is_never_taken_for_an_entry(tmp_path: Path) -> None:
    killed = subprocess.run([sys.executable, "-c", PROCESS, str(tmp_path), "killed"], timeout=60)
    assert killed.returncode == 9 and len(list((tmp_path / "kind").glob(".building-*"))) == 1
    arrays = Store(tmp_path).arrays("kind", {"a": 1}, lambda _: {"x": np.ones(2)})
    assert arrays["x"].tolist() == [1, 1]


def test_place_keeps_what_is_there_first(tmp_path: Path) -> None:
    entry = tmp_path / "deep" / "er" / "entry"
    for text in ("first", "second"):
        Store.place(entry, lambda scratch, t=text: (scratch / "file").write_text(t) and None)  # type: ignore[misc]
    assert (entry / "file").read_text() == "first"


def test_digests_follow_content_and_type() -> None:
    values = pa.array(["a", None, "b"])
    assert digest_of(values) == digest_of(pa.array(["a", None, "b"]))
    others = [
        pa.array(["a", "", "b"]),
        pa.array(["a", None, "c"]),
        pa.array(["ab", None]),
        values.cast(pa.large_string()),
    ]
    assert len({digest_of(v) for v in [values, *others]}) == 5
    assert digest_of(pa.array(["x", "a", None, "b"])[1:]) == digest_of(values)  # a slice is its content
    grid = np.arange(6).reshape(2, 3)
    assert digest_of(grid[:, ::2]) == digest_of(grid[:, ::2].copy()) != digest_of(grid)


def test_whether_and_where_an_entry_is(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert not store.has("kind", {"a": 1})
    folder = store.folder("kind", {"a": 1}, lambda _: {"x": np.arange(3)})
    assert store.has("kind", {"a": 1}) and not store.has("kind", {"a": 2})
    assert np.load(folder / "x.npy").tolist() == [0, 1, 2]
