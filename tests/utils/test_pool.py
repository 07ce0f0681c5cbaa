"""Child processes: when they start, what they may use of the machine, and that they end with their parent."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from mmtab.utils.pool import Child, Task, environment, visible_gpus


def test_children_end_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    child = (
        "import os, time\nfrom mmtab.utils.processes import follow_parent\nfollow_parent()\n"
        "assert 'MMTAB_WITH_PARENT' not in os.environ\nprint(os.getpid(), flush=True)\ntime.sleep(60)\n"
    )
    parent = (
        "import os, subprocess, sys, time\n"
        "environment = os.environ | {'MMTAB_WITH_PARENT': '1'}\n"
        f"p = subprocess.Popen([sys.executable, '-c', {child!r}], stdin=subprocess.PIPE, env=environment)\n"
        "time.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    number = int(process.stdout.readline())
    process.kill()
    process.wait()
    _wait_for(lambda: not _is_alive(number))
    process.stdout.close()


def test_a_child_waits_for_the_lock_of_its_folder(tmp_path: Path) -> None:
    from filelock import FileLock

    done = tmp_path / "done"
    command = [sys.executable, "-S", "-c", f"open({str(done)!r}, 'w')"]
    task = Task("job", command, tmp_path, done.exists, lambda seconds, failure: None)
    with FileLock(tmp_path / ".lock"):
        child = Child(task, environment(0, 1, []))
        time.sleep(0.2)
        assert child.poll() is None and child.process is None
    _wait_for(lambda: child.poll() == 0)
    assert done.exists() and child.process is not None
    again = Child(task, environment(0, 1, []))
    assert again.poll() == 0 and again.process is None, "somebody else has done it in the meantime"


def test_what_a_child_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5,7")
    gpus = visible_gpus()
    environments = [environment(place, 2, gpus) for place in range(2)]
    assert [env["CUDA_VISIBLE_DEVICES"] for env in environments] == ["3,7", "5"]
    assert [environment(place, 4, gpus)["CUDA_VISIBLE_DEVICES"] for place in range(4)] == ["3", "5", "7", "3"]
    assert {env["OMP_NUM_THREADS"] for env in environments} == {"4"} and environments[0]["MMTAB_WITH_PARENT"] == "1"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert visible_gpus() == []


def _wait_for(condition: Any, seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def _is_alive(number: int) -> bool:
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    return True
