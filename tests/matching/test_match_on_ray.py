"""Matching on a cluster finds what it finds in one process, to the last bit, whatever is killed meanwhile."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmtab.config.types import EngineConfig, MatchConfig
from mmtab.matching import encoding, pipeline
from mmtab.utils.errors import ConfigError

pytestmark = [pytest.mark.ray, pytest.mark.timeout(1200)]


def settings(run: Path, output: Path, **changes: Any) -> MatchConfig:
    return MatchConfig(run=str(run), output=str(output), **{"shard": 16, "n_shown": 12, "k": 3, **changes})


def test_a_folder_that_a_worker_does_not_see_is_one_line(
    pairs_run: tuple[Path, Path], on_ray: EngineConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # workers are elsewhere
    output = Path("/proc/self/cwd/m.parquet")
    with pytest.raises(ConfigError, match=r"^the worker on node \S+ does not see /proc/self/cwd/m.parquet.parts as it"):
        pipeline.match(settings(pairs_run[1], output, engine=replace(on_ray, workers=1)))


def test_matching_is_the_same_though_it_is_killed_and_a_node_is_lost(
    pairs_run: tuple[Path, Path],
    ray_cluster: Any,
    on_ray: EngineConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    here = pipeline.match(settings(pairs_run[1], tmp_path / "here" / "m.parquet"))
    config = settings(pairs_run[1], tmp_path / "there" / "m.parquet", engine=on_ray)
    killed = finished_when_killed(config)
    assert 3 <= len(killed) < 14, "it was killed in the middle"
    encoded: dict[Path, int] = {}

    def losing(shards: Iterable[Path], total: int, title: str) -> Iterator[Path]:
        for shard in shards:
            encoded[shard] = shard.stat().st_ino
            yield shard
            if len(encoded) == len(killed) + 2 and ray_cluster.worker_nodes:
                ray_cluster.remove_node(next(iter(ray_cluster.worker_nodes)))

    def compared(seconds: Any, stage: str) -> None:
        if stage == "score":
            assert encoded == inodes(encoded) and killed == inodes(killed), "no finished shard was made again"
        lap(seconds, stage)

    lap = pipeline._Stopwatch.lap
    monkeypatch.setattr(encoding, "steps", losing)
    monkeypatch.setattr(pipeline._Stopwatch, "lap", compared)
    there = pipeline.match(config)
    assert not ray_cluster.worker_nodes and len(encoded) > 13 and killed.items() <= encoded.items()
    for name in ("left", "right", "probability", "clusters", "known"):
        np.testing.assert_array_equal(getattr(here, name), getattr(there, name))
    assert here.contributions.keys() == there.contributions.keys()
    assert all(np.array_equal(values, there.contributions[i]) for i, values in here.contributions.items())
    for name in ("m.parquet", "m_clusters.parquet"):
        assert (tmp_path / "here" / name).read_bytes() == (tmp_path / "there" / name).read_bytes()
    assert not (tmp_path / "there" / "m.parquet.parts").exists()


def finished_when_killed(config: MatchConfig) -> dict[Path, int]:
    """Encoded shards that a command has finished when it is killed, with their inodes."""
    names = ("run", "output", "shard", "n_shown", "k")
    given = [*(f"{name}={getattr(config, name)}" for name in names), f"engine.address={config.engine.address}"]
    command = [sys.executable, "-m", "mmtab.cli", "match", *given, "engine=ray", "engine.workers=1"]
    rows = Path(f"{config.output}.parts") / "rows"
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None and len([*rows.glob("[0-9a-f]*")]) < 3:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    return inodes(rows.glob("[0-9a-f]*"))


def inodes(paths: Iterable[Path]) -> dict[Path, int]:
    return {path: path.stat().st_ino for path in paths}
