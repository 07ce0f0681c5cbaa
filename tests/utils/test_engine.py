"""The engine of one process; tests/runs/test_on_ray.py has that of a cluster."""

from __future__ import annotations

import pickle
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict

import pytest

from mmtab.config.settings import check
from mmtab.config.types import EngineConfig
from mmtab.utils.engine import running
from mmtab.utils.errors import ConfigError, DataError, Stopped


def test_one_item_is_prepared_in_a_thread_while_another_is_computed() -> None:
    prepared = {i: threading.Event() for i in range(5)}

    def work(i: int) -> Callable[[], int]:
        assert threading.current_thread() is not threading.main_thread()
        prepared[i].set()

        def compute() -> int:
            assert threading.current_thread() is threading.main_thread()
            assert i == 4 or prepared[i + 1].wait(60)
            assert i >= 3 or not prepared[i + 2].is_set()
            return i * i

        return compute

    with running(**asdict(EngineConfig())) as engine:
        assert [*engine.map(lambda: work, range(5))] == [0, 1, 4, 9, 16]


def test_ray_that_is_not_installed_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    expected = r'^this needs ray\. Fix: pip install "mmtab\[ray\]"$'
    with pytest.raises(ConfigError, match=expected), running(**asdict(EngineConfig("ray"))):
        pass


def test_a_cluster_that_is_not_there_is_one_line() -> None:
    pytest.importorskip("ray")
    expected = r"^engine.address=127.0.0.1:1: no Ray cluster can be reached \(.*refused\)$"
    with pytest.raises(ConfigError, match=expected), running(**asdict(EngineConfig("ray", "127.0.0.1:1"))):
        pass


def test_settings_of_ray_want_ray() -> None:
    with pytest.raises(ConfigError, match="settings of engine=ray"):
        check(EngineConfig(workers=3))


@pytest.mark.parametrize("error", [DataError("toys", "bad", row=3, column="size"), Stopped(15, "stopped")])
def test_errors_go_from_one_process_to_another(error: DataError | Stopped) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error) and str(again) == str(error) and again.__dict__ == error.__dict__
