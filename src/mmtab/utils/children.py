"""The processes of a campaign: how one is started, what it may use of the machine, and why it failed."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from mmtab.utils.locks import is_held
from mmtab.utils.machine import usable_cores
from mmtab.utils.processes import WITH_PARENT

PATIENCE = 120.0  # seconds for the process of a killed campaign to notice that and to leave its folder
TAIL = 1 << 16  # bytes at the end of a log in which to look for an error


class Child:
    """A process with a folder, whose output goes to the end of log.txt there. It starts once nobody else writes to the
    folder, if what it is for is not ``done`` by then."""

    def __init__(self, command: list[str], folder: Path, done: Callable[[], bool], environment: dict[str, str]) -> None:
        self.command, self.folder, self.done, self.environment = command, folder, done, environment
        self.log = folder / "log.txt"
        self.process: subprocess.Popen[bytes] | None = None
        self.began = time.monotonic()
        self.offset = 0
        folder.mkdir(parents=True, exist_ok=True)

    def poll(self) -> int | None:
        """Its exit status; None as long as there is none."""
        if self.process is None:
            if is_held(self.folder / ".lock") and time.monotonic() - self.began < PATIENCE:
                return None
            if self.done():
                return 0
            self._start()
            assert self.process is not None
        code = self.process.poll()
        if code is not None and self.process.stdin is not None:
            self.process.stdin.close()
        return code

    def stop(self, number: int = signal.SIGTERM) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began

    def failure(self, code: int) -> str:
        """Why it ended so, in one line."""
        number = -code if code < 0 else code - 128  # a run that saves itself on a signal ends with 128 and its number
        how = f"exit status {code}" if code else "exit status 0, but nothing finished"
        if number in set(signal.Signals):
            how = f"ended by {signal.Signals(number).name}" + (" (out of memory?)" if number == signal.SIGKILL else "")
        last = last_words(self.log, self.offset)
        return f"{how}: {last}" if last else how

    def _start(self) -> None:
        self.began = time.monotonic()
        with self.log.open("ab") as log:
            self.offset = log.tell()
            # A session of its own, so that Ctrl-C reaches the campaign alone, which then stops its children in order.
            # They end with it also when it is killed: the pipe then closes; see follow.py.
            self.process = subprocess.Popen(
                self.command, stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT, env=self.environment,
                start_new_session=True,
            )  # fmt: skip


def environment(slot: int, n_jobs: int, gpus: list[str]) -> dict[str, str]:
    """For the child in one of ``n_jobs`` places: its share of cores and GPUs."""
    given = {
        WITH_PARENT: "1",
        "OMP_NUM_THREADS": str(max(1, usable_cores() // n_jobs)),
        "PYTHONUNBUFFERED": "1",  # else what it prints and its errors are in no order in the log
        "HYDRA_FULL_ERROR": "1",
    }
    if gpus:
        given["CUDA_VISIBLE_DEVICES"] = ",".join(gpus[slot::n_jobs] or [gpus[slot % len(gpus)]])
    return os.environ | given


def visible_gpus() -> list[str]:
    """As CUDA_VISIBLE_DEVICES names them; found without torch, which takes seconds and memory."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [each.strip() for each in named.split(",") if each.strip() not in ("", "-1")]
    try:
        said = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=30, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return [str(i) for i in range(sum(line.startswith("GPU ") for line in said.splitlines()))]


def last_words(log: Path, offset: int) -> str:
    """The error in what was written to a log from ``offset`` on, or else the last line."""
    with log.open("rb") as file:
        file.seek(max(offset, log.stat().st_size - TAIL))
        lines = [line.strip() for line in file.read().decode(errors="replace").splitlines()]
    lines = [line for line in lines if re.search(r"\w", line)]
    for pattern in (r"error: ", r"[A-Za-z_][\w.]*(Error|Exception|Exit|Interrupt|Iteration)\b"):
        for line in reversed(lines):
            if re.match(pattern, line):
                return line
    return lines[-1] if lines else ""
