"""Where loops over independent items run: in this process, or on the machines of a Ray cluster, with the same results.

What runs elsewhere is pickled. Objects that stand for much (an open run, the records of a table) pickle as the names of
files, from which a worker reads them; ``must_see`` and ``Shared`` tell of a folder that it does not have.
"""

from __future__ import annotations

import atexit
import contextlib
import itertools
import os
import pickle
import platform
import secrets
import socket
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from mmtab.utils.atomic import write_text
from mmtab.utils.errors import ConfigError, MmtabError, first_line, short
from mmtab.utils.optional import require

T = TypeVar("T")
R = TypeVar("R")
Work = Callable[[T], Callable[[], R]]  # prepares an item, on any thread, and returns what computes its result
QUEUED = 2  # items that a worker of Ray has at a time, so that it need not wait for the next one
AHEAD = 4  # items a worker of Ray that may be under way, or finished before their turn
LOSSES = 3  # workers that may be lost, for each there is, without any result in between


class Engine(Protocol):
    def map(self, build: Callable[[], Work[T, R]], items: Iterable[T]) -> Iterator[R]:
        """The results of the items in their order, as they are asked for, with few items under way. ``build`` makes
        what a worker keeps, once, and returns what it does for each item. One map at a time."""


class Serial:
    """This process. The next item is prepared in a thread while one is computed."""

    def map(self, build: Callable[[], Work[T, R]], items: Iterable[T]) -> Iterator[R]:
        work = build()
        with ThreadPoolExecutor(1) as pool:
            prepared = (pool.submit(work, item) for item in items)
            future = next(prepared, None)
            while future is not None:
                compute, future = future.result(), next(prepared, None)
                yield compute()


SERIAL = Serial()


@contextlib.contextmanager
def running(name: str, address: str | None, workers: int | None, cpus: float, gpus: float) -> Iterator[Engine]:
    """The engine of that name, as ``EngineConfig`` describes it. Raises ConfigError where Ray or its cluster is absent,
    and where no machine has room for a worker."""
    if name == "serial":
        yield SERIAL
        return
    ray = require("ray", extra="ray")
    is_own = not ray.is_initialized()
    if is_own:
        _connect(ray, address)
    try:
        on_ray = Ray(ray, workers or _room(ray, cpus, gpus), cpus, gpus)
        try:
            yield on_ray
        finally:
            for worker in [*on_ray.workers]:
                on_ray.stop(worker)
    finally:
        if is_own:
            ray.shutdown()


def _connect(ray: Any, address: str | None) -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    host, _, port = (address or os.environ.get("RAY_ADDRESS", "")).rpartition(":")
    try:
        if port.isdigit() and "/" not in host:
            socket.create_connection((host, int(port)), 10).close()  # Ray itself would try for minutes
        ray.init(address=address, include_dashboard=False, logging_level="ERROR")
    except (OSError, RuntimeError, ValueError) as error:  # ConnectionError is an OSError
        raise ConfigError(f"engine.address={address}: no Ray cluster can be reached ({first_line(error)})") from error


def _room(ray: Any, cpus: float, gpus: float) -> int:
    """How many workers the cluster has room for."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    wanted = {name: n for name, n in (("CPU", cpus), ("GPU", gpus)) if n}
    n_workers = sum(min(int(node.get(name, 0) // n) for name, n in wanted.items()) for node in nodes)
    if not n_workers:
        raise ConfigError(
            f"engine: no machine of the Ray cluster has room for a worker of {cpus:g} CPUs and {gpus:g} GPUs. "
            "Fix: engine.cpus, engine.gpus, or engine.workers, where machines are to join later"
        )
    return n_workers


class Worker:
    """An actor of Ray: a process that keeps what ``build`` has made."""

    def __init__(self, n_threads: int) -> None:
        os.environ["OMP_NUM_THREADS"] = str(n_threads)
        for name in ("LOCAL_RANK", "SLURM_LOCALID"):  # of whoever started Ray: a worker sees its own GPUs alone
            os.environ.pop(name, None)

    def begin(self, build: bytes) -> None:
        with _mendable():
            self.work: Work = pickle.loads(build)()

    def run(self, item: Any) -> Any:
        with _mendable():
            return self.work(item)()


@contextlib.contextmanager
def _mendable() -> Iterator[None]:
    """A failure that is no error of mmtab becomes one that names the machine; its traceback stays with it as a note."""
    try:
        yield
    except (MmtabError, OSError):
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {first_line(error)}"
        problem = MmtabError(f"the worker on node {platform.node()} failed ({reason})")
        problem.add_note(traceback.format_exc())
        raise problem from None


class Ray:
    """Workers on a cluster. The items of one that is lost (with its machine, or for want of memory) go to others, and
    another worker takes its place as soon as there is room."""

    def __init__(self, ray: Any, n_workers: int, cpus: float, gpus: float) -> None:
        self.ray, self.n_workers = ray, n_workers
        self._actor, self._n_threads = ray.remote(Worker).options(num_cpus=cpus, num_gpus=gpus), max(1, int(cpus))
        self.workers: list[Any] = []

    def map(self, build: Callable[[], Work[T, R]], items: Iterable[T]) -> Iterator[R]:
        return _Map(self, self.ray.cloudpickle.dumps(build), items).results()

    def start(self) -> Any:
        self.workers.append(self._actor.remote(self._n_threads))
        return self.workers[-1]

    def stop(self, worker: Any) -> None:
        self.workers.remove(worker)
        self.ray.kill(worker)


class _Map:
    """One ``Ray.map``: which worker has which items, and the results that wait for their turn."""

    def __init__(self, engine: Ray, build: bytes, items: Iterable[Any]) -> None:
        self.engine, self.ray, self.build = engine, engine.ray, build
        self.items, self.n_taken = enumerate(items), 0
        self.waiting: deque[tuple[int, Any]] = deque()  # items that no worker has, by their place
        self.flights: dict[Any, tuple[Any, tuple[int, Any] | None]] = {}  # a worker's answer to come, and its item
        self.loads: dict[Any, int] = {}  # of the workers that have begun, the number of their items
        self.done: dict[int, Any] = {}
        self.n_lost = 0

    def results(self) -> Iterator[Any]:
        place = 0
        while self._take(place) or self.done or any(item is not None for _, item in self.flights.values()):
            if not self.loads and not self.flights:
                for worker in [*self.engine.workers] or [self.engine.start() for _ in range(self.engine.n_workers)]:
                    self._begin(worker)
            self._send(place)
            if place not in self.done:
                self._receive()
                continue
            yield self.done.pop(place)
            place += 1

    def _take(self, place: int) -> bool:
        """Whether there is an item to send."""
        if not self.waiting and self.n_taken < place + AHEAD * self.engine.n_workers:
            self.waiting.extend(itertools.islice(self.items, 1))
            self.n_taken += len(self.waiting)
        return bool(self.waiting)

    def _begin(self, worker: Any) -> None:
        self.flights[worker.begin.remote(self.build)] = worker, None

    def _send(self, place: int) -> None:
        while self.loads and min(self.loads.values()) < QUEUED and self._take(place):
            worker, item = min(self.loads, key=self.loads.__getitem__), self.waiting.popleft()
            self.flights[worker.run.remote(item[1])] = worker, item
            self.loads[worker] += 1

    def _receive(self) -> None:
        """Wait for the next answer."""
        for answer in self.ray.wait(list(self.flights))[0]:
            worker, item = self.flights.pop(answer)
            try:
                result = self.ray.get(answer)
            except self.ray.exceptions.RayTaskError as error:
                raise error.cause from None  # as this process would have raised it
            except self.ray.exceptions.RayError as error:
                self._lose(worker, item, error)
                continue
            if item is None:
                self.loads[worker] = 0
            else:
                self.done[item[0]], self.n_lost = result, 0
                self.loads[worker] -= 1

    def _lose(self, worker: Any, item: tuple[int, Any] | None, error: Exception) -> None:
        """Another worker instead, and its items to whoever is free."""
        lost = [item, *(self.flights.pop(answer)[1] for answer, (of, _) in [*self.flights.items()] if of == worker)]
        self.waiting.extendleft(item for item in reversed(lost) if item is not None)
        self.loads.pop(worker, None)
        self.engine.stop(worker)
        self.n_lost += 1
        if self.n_lost > LOSSES * self.engine.n_workers:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[-1].strip()  # after where and which
            raise MmtabError(f"{self.n_lost} workers in a row were lost, the last one so: {short(reason, 200)}")
        self._begin(self.engine.start())


def must_see(path: Path, folder: Path) -> Path:
    """``folder``, in a worker; raises ConfigError where the worker does not see ``path``, which lies there."""
    if not path.exists():
        raise ConfigError(
            f"the worker on node {platform.node()} does not see {folder} as it is on the machine of the command. Fix: "
            "a folder that all machines of the cluster share, under one path"
        )
    return folder


@dataclass(frozen=True)
class Shared:
    """A folder that workers are to write to. Unpickled it is its path, if a token that was written to it is there."""

    path: Path

    def __reduce__(self) -> tuple[Any, ...]:
        write_text(token := self.path.absolute() / f".seen-{secrets.token_hex(8)}", "")
        atexit.register(token.unlink, missing_ok=True)  # of a folder that stays
        return must_see, (token, token.parent)
