"""A fit is a guest in somebody else's process: threads, notebooks, Hydra, and the state that other code can see."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import mmtab
from mmtab.config.compose import without_hydra
from mmtab.utils.errors import ConfigError, MmtabError
from mmtab.utils.isolation import isolated


def rows(seed: int = 0, n: int = 120) -> pd.DataFrame:
    kinds = np.arange(n) % 2
    return pd.DataFrame({"a": np.random.default_rng(seed).normal(3 * kinds), "kind": np.where(kinds, "cup", "hat")})


def fit(output: Path | str, table: Any = None, **settings: Any) -> mmtab.Run:
    table = rows() if table is None else table
    settings = {"d_model": 16, "trainer": {"max_epochs": 1, "progress": False}} | settings
    return mmtab.fit(table, label="kind", output=output, recipe="frozen", **settings)


STATES: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {  # how it is seen, and changed
    "python": (random.getstate, lambda: random.seed(7)),
    "numpy": (lambda: np.random.get_state()[1].tolist(), lambda: np.random.seed(7)),  # type: ignore[union-attr]
    "torch": (lambda: torch.get_rng_state().tolist(), lambda: torch.manual_seed(7)),
    "seed of torch": (torch.initial_seed, lambda: torch.manual_seed(7)),
    "deterministic": (
        lambda: (torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()),
        lambda: torch.use_deterministic_algorithms(not torch.are_deterministic_algorithms_enabled()),
    ),
    "cudnn": (
        lambda: (torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic),
        lambda: [setattr(torch.backends.cudnn, name, True) for name in ("benchmark", "deterministic")],
    ),
    "threads": (torch.get_num_threads, lambda: torch.set_num_threads(torch.get_num_threads() + 1)),
    "gradients": (torch.is_grad_enabled, lambda: torch.set_grad_enabled(False)),
    "dtype": (torch.get_default_dtype, lambda: torch.set_default_dtype(torch.float64)),
    "errors of numpy": (np.geterr, lambda: np.seterr(all="raise")),
    "filters": (lambda: list(warnings.filters), lambda: warnings.simplefilter("ignore")),
    "levels": (
        lambda: [logging.getLogger(name).level for name in (None, "pytorch_lightning", "mmtab.own")],
        lambda: [logging.getLogger(name).setLevel(41) for name in (None, "pytorch_lightning", "mmtab.own")],
    ),
    "environment": (
        lambda: dict(os.environ),
        lambda: (os.environ.update(MMTAB_NEW="1"), os.environ.pop("PATH")),
    ),
    "signals": (
        lambda: [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)],
        lambda: [signal.signal(number, lambda *_: None) for number in (signal.SIGTERM, signal.SIGINT)],
    ),
    "cwd": (Path.cwd, lambda: None),
}


@pytest.mark.parametrize("name", STATES)
def test_each_state_is_restored_also_after_an_error(name: str) -> None:
    see, change = STATES[name]
    before = see()
    with pytest.raises(KeyError), isolated():
        change()
        assert name == "cwd" or see() != before, "else this would test nothing"
        raise KeyError
    assert see() == before


def test_what_the_user_has_set_does_not_reach_a_fit(tmp_path: Path) -> None:
    scores = fit(tmp_path / "a").metrics
    torch.set_default_dtype(torch.float64)
    try:
        with torch.inference_mode(), np.errstate(all="raise"):
            assert fit(tmp_path / "b").metrics == scores
    finally:
        torch.set_default_dtype(torch.float32)


def test_a_fit_and_a_prediction_leave_nothing_behind(tmp_path: Path) -> None:
    """Also the stream of the user's random numbers goes on as if nothing had been drawn."""
    before = {name: see() for name, (see, _) in STATES.items()}
    run = fit(tmp_path / "run")
    run.predict(rows().drop(columns="kind"))
    run.evaluate()
    after = {name: see() for name, (see, _) in STATES.items()}
    unlike = [name for name in STATES if after[name] != before[name]]
    assert set(unlike) <= {"python"}, "from which beartype draws when it checks signatures in tests"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "run-data"]


def test_two_threads_give_what_each_gives_alone(tmp_path: Path) -> None:
    def one(seed: int) -> dict[str, Any]:
        return fit(tmp_path / f"{seed}", rows(seed), seed=seed).metrics

    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(one, (1, 2)))
    alone = [fit(tmp_path / f"{seed}-alone", rows(seed), seed=seed).metrics for seed in (1, 2)]
    assert together == alone and together[0] != together[1]


def test_within_an_event_loop_and_within_hydra(tmp_path: Path) -> None:
    import hydra
    from hydra.core.config_store import ConfigStore
    from hydra.core.global_hydra import GlobalHydra

    async def notebook() -> mmtab.Run:
        return fit(tmp_path / "notebook")

    assert asyncio.run(notebook()).metrics
    ConfigStore.instance().store("train_config", {"mine": 1})
    with without_hydra(), hydra.initialize(version_base="1.3", config_path=None):
        assert fit(tmp_path / "program").metrics
        assert GlobalHydra.instance().is_initialized() and hydra.compose("train_config") == {"mine": 1}


def test_a_run_is_found_wherever_the_process_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    fit("runs/a")
    run = mmtab.load_run("runs/a")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert run.folder == tmp_path / "runs" / "a" and len(run.dataset["train"]) == 84
    assert run.evaluate() and len(run.predict(rows().drop(columns="kind"))) == 120
    assert not any(Path().iterdir())


def test_the_same_call_goes_on_and_another_is_refused(tmp_path: Path) -> None:
    run = fit(tmp_path / "run")
    with pytest.warns(UserWarning, match="already holds this run"):
        assert fit(tmp_path / "run").metrics == run.metrics
    with pytest.raises(ConfigError, match=r"run-data holds other data .*Fix: remove it"):
        fit(tmp_path / "run", rows(seed=5))
    shutil.rmtree(tmp_path / "run")  # killed before anything was trained: its data is there, and half a scratch folder
    (tmp_path / "run" / ".building" / "run-data").mkdir(parents=True)
    assert fit(tmp_path / "run").metrics == run.metrics


@pytest.mark.parametrize(
    "table, settings", [(rows()[rows().kind == "cup"].head(3), {}), (rows(), {"dataset": {"drop": ["no"]}})]
)
def test_a_call_that_fails_leaves_nothing(tmp_path: Path, table: pd.DataFrame, settings: dict[str, Any]) -> None:
    with pytest.raises(MmtabError):
        fit(tmp_path / "run", table, **settings)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_the_users_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "run-data").mkdir()
    (tmp_path / "run-data" / "mine.txt").write_text("mine")
    with pytest.raises(ConfigError, match="holds other data"):
        fit(tmp_path / "run")
    assert (tmp_path / "run-data" / "mine.txt").read_text() == "mine" and len(list(tmp_path.iterdir())) == 1


@pytest.mark.slow
def test_temporary_folders_go_when_the_process_does(tmp_path: Path) -> None:
    code = "import mmtab, pandas as pd; f = pd.DataFrame({'a': [i / 7 for i in range(60)], 'kind': ['x', 'y'] * 30})\n"
    code += "print(mmtab.Dataset.from_frame(f, label='kind').folder.is_dir())"
    env = os.environ | {"TMPDIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, timeout=500)
    assert done.stdout.strip() == "True", done.stderr
    assert list(tmp_path.glob("mmtab-*")) == []
