"""Shared by all tests: the shape annotations are checked where tests are of what computes with tensors, the cache is a
throw-away, real data is used where present.

MMTAB_SHAPES=0 leaves the annotations unchecked (faster); MMTAB_DATA says where the real datasets are.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import asdict
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import yaml

if "PYTEST_XDIST_WORKER" in os.environ:  # several threads in each of several processes get in each other's way
    os.environ["OMP_NUM_THREADS"] = "1"


def pytest_configure(config: pytest.Config) -> None:
    """Check shapes where tests run: the process that only hands them out to others need not import all that."""
    hands_out = config.getoption("numprocesses") and "PYTEST_XDIST_WORKER" not in os.environ
    if hands_out or os.environ.get("MMTAB_SHAPES", "1") == "0":
        return
    # What is first imported from a hooked module is compiled anew, whatever has been compiled before.
    import lightgbm  # noqa: F401
    import pandas  # noqa: F401
    import pytorch_lightning  # noqa: F401
    import sklearn.linear_model  # noqa: F401
    import timm  # noqa: F401
    import transformers  # noqa: F401
    from jaxtyping import install_import_hook

    # Before any test imports mmtab; of it what computes with tensors, for checks of all else double the time of tests
    install_import_hook(["mmtab.features", "mmtab.model", "mmtab.training"], "conftest.check_types")


# Tests in which shapes are checked: elsewhere the same code computes, at a fifth more of the time
SHAPES = ("features", "model", "training", "runs/test_end_to_end.py")
TESTS = Path(__file__).parent


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    from jaxtyping import config

    config.update("jaxtyping_disable", not any(item.path.is_relative_to(TESTS / place) for place in SHAPES))


def check_types(function: Any) -> Any:
    """``beartype``, but for functions within functions, which it would decorate anew at each call of those, and for
    signatures that it cannot check: those with ``Self``, for the hook decorates one method at a time and so hides its
    class, and those with a protocol that is not ``runtime_checkable``. As for mypy, an int is also a float."""
    from beartype import BeartypeConf, beartype
    from beartype.roar import BeartypeDecorHintPep673Exception, BeartypeDecorHintPep3119Exception

    if "<locals>" in function.__qualname__:
        return function
    try:
        return beartype(conf=BeartypeConf(is_pep484_tower=True))(function)
    except (BeartypeDecorHintPep673Exception, BeartypeDecorHintPep3119Exception):
        return function


TASKS = ("kway", "regression", "matching")  # that mmtab knows; the data root may hold others
NO_DATA = "no real datasets: set MMTAB_DATA, or put them in ../shared/data"


def _find_data() -> Path | None:
    root = Path(os.environ.get("MMTAB_DATA") or Path(__file__).parents[2] / "shared" / "data")
    return root if root.is_dir() else None


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MMTAB_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setattr(os, "fsync", lambda _: None)  # no machine dies while tests run, and disks take their time
        patch.setattr(os, "sync", lambda: None)
        yield


@pytest.fixture(autouse=True)
def _no_log_to_a_closed_stream() -> Iterator[None]:
    """A command that runs within a test, by Hydra, logs to what pytest captures of that test, and is not to later."""
    before, level = logging.root.handlers[:], logging.root.level
    yield
    for handler in logging.root.handlers[:]:
        if type(handler) is logging.StreamHandler and handler not in before:
            logging.root.removeHandler(handler)
            logging.root.setLevel(level)


@pytest.fixture(scope="session", autouse=True)
def _composed_once() -> Iterator[None]:
    """Hydra takes a good part of the time of a small run, and so composes the same overrides of the same files once."""
    import hydra
    from hydra.core.global_hydra import GlobalHydra

    compose, composed = hydra.compose, dict[str, Any]()

    def compose_once(name: str, overrides: list[str] | None = None, **options: Any) -> Any:
        folders = str(GlobalHydra.instance().config_loader().get_search_path())
        key = repr((folders, name, overrides, options))
        if key not in composed:
            composed[key] = compose(name, overrides, **options)
        return deepcopy(composed[key])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hydra, "compose", compose_once)
        yield


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of the real datasets; skips the test where there is none."""
    root = _find_data()
    if root is None:
        pytest.skip(NO_DATA)
    return root


@pytest.fixture(scope="session")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny text transformer."""
    from toy_data import tiny_text_backbone

    return tiny_text_backbone(tmp_path_factory.mktemp("backbone"))


@pytest.fixture(scope="session")
def image_backbone(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The name of a tiny image network, a thirtieth of the default one: most of what a small run builds and saves."""
    from toy_data import tiny_image_backbone

    return tiny_image_backbone(tmp_path_factory.mktemp("image_backbone"))


@pytest.fixture
def configure(small_config: Callable[..., Any], tmp_path: Path) -> Callable[..., Any]:
    """Makes a run configuration for a dataset folder that is small enough for a test, with overrides."""
    return partial(small_config, tmp_path / "run")


@pytest.fixture(scope="session")
def small_config(backbone: Path, image_backbone: str) -> Callable[..., Any]:
    """``configure`` for fixtures that several tests share: its first argument is the output folder. Hydra takes a good
    part of the time of a small run, and so composes the same overrides once."""
    from mmtab.config.compose import compose
    from mmtab.config.parts import allow_targets
    from mmtab.config.types import RunConfig

    text = [f"text.backbone={backbone}", "text.max_length=24", "text.n_tuned_layers=1"]
    image = [f"image.backbone={image_backbone}", "image.size=32"]
    model = [*text, *image, "d_model=16", "fusion.d_hidden=32"]
    trainer = ["trainer.max_epochs=2", "trainer.batch_size=16", "trainer.progress=false"]

    @cache
    def composed(_: tuple[str | None, ...], *overrides: str) -> RunConfig:
        return compose("dataset=custom", "dataset.path=FOLDER", *model, *trainer, "output=OUTPUT", *overrides)

    def make(output: Path, folder: Path, *overrides: str) -> RunConfig:
        here = os.environ.get("MMTAB_CACHE"), os.environ.get("MMTAB_DATA")  # which configs/train.yaml reads
        config = deepcopy(composed(here, *overrides))
        allow_targets(asdict(config))  # as whoever composes them does
        config.output = str(output) if config.output == "OUTPUT" else config.output
        config.dataset.path = str(folder) if config.dataset.path == "FOLDER" else config.dataset.path
        return config

    return make


@pytest.fixture(scope="session")
def kway_run(tmp_path_factory: pytest.TempPathFactory, small_config: Callable[..., Any]) -> tuple[Path, Path]:
    """Dataset and run folder of a k-way run, of one epoch, that has scored test. Tests read them, or change a copy."""
    from toy_data import write_kway

    return _trained(write_kway, tmp_path_factory.mktemp("kway"), small_config)


@pytest.fixture(scope="session")
def numbers_run(tmp_path_factory: pytest.TempPathFactory, small_config: Callable[..., Any]) -> tuple[Path, Path]:
    """As ``kway_run``, of regression."""
    from toy_data import write_numbers

    return _trained(write_numbers, tmp_path_factory.mktemp("numbers"), small_config)


@pytest.fixture(scope="session")
def pairs_run(tmp_path_factory: pytest.TempPathFactory, small_config: Callable[..., Any]) -> tuple[Path, Path]:
    """As ``kway_run``, of matching."""
    from toy_data import write_pairs

    return _trained(write_pairs, tmp_path_factory.mktemp("pairs"), small_config)


RAY = {  # a busy machine takes long to start it, and tests write to no terminal
    "RAY_raylet_start_wait_time_s": "300",
    "RAY_memory_monitor_refresh_ms": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "OMP_NUM_THREADS": "1",
}


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[Any]:
    """A cluster on this machine, whose nodes have one CPU each; one for all tests, which run in one process."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in RAY.items():
            patch.setenv(name, value)
        from ray.cluster_utils import Cluster

        started = Cluster(True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        try:
            yield started
        finally:
            started.shutdown()


@pytest.fixture(scope="module")
def on_ray(ray_cluster: Any) -> Any:
    """The settings by which commands use the cluster, which has two nodes then."""
    from mmtab.config.types import EngineConfig

    if not ray_cluster.worker_nodes:
        ray_cluster.add_node(num_cpus=1)
    return EngineConfig("ray", ray_cluster.address)


def _trained(write: Callable[..., Path], folder: Path, small_config: Callable[..., Any]) -> tuple[Path, Path]:
    from mmtab.runs.evaluate import evaluate
    from mmtab.runs.train import train

    data, run = write(folder / "data", n=100), folder / "run"
    train(small_config(run, data, "trainer.max_epochs=1"), run)
    evaluate(run, "test")
    return data, run


# seconds each; small ones show the same
LARGE = {"airbnb", "airbnb_price", "fashion", "hearthstone", "hm_variants", "movies", "movies_score"}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that takes ``real_dataset`` for each dataset folder under the data root; large ones are slow tests."""
    if "real_dataset" in metafunc.fixturenames:
        root = _find_data()
        found = sorted(root.glob("**/dataset.yaml")) if root else []
        folders = [path.parent for path in found if yaml.safe_load(path.read_text(encoding="utf-8"))["task"] in TASKS]
        none = pytest.param(None, marks=pytest.mark.skip(reason=NO_DATA))
        marks = [pytest.mark.slow if folder.name in LARGE else () for folder in folders]
        datasets = [pytest.param(folder, marks=mark) for folder, mark in zip(folders, marks, strict=True)]
        metafunc.parametrize("real_dataset", datasets or [none], ids=[f.name for f in folders] or ["none"])


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """One more than there are cores, for tests that start processes or kill them wait a good part of their time."""
    return (os.cpu_count() or 1) + 1
