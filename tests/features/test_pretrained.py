"""Names of pretrained networks that cannot be loaded."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

import mmtab
from mmtab.features.backbones.pretrained import image_network, text_network, text_positions, text_tokenizer
from mmtab.utils.errors import ConfigError, RunError


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nobody answers at port 1."""
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.mark.usefixtures("no_hub")
@pytest.mark.parametrize("load", [text_tokenizer, text_positions, text_network])
def test_without_the_hub_a_name_fails_at_once(load: object) -> None:
    began = time.perf_counter()
    with pytest.raises(ConfigError, match=r"text.backbone=nosuch: cannot be loaded \(127.0.0.1 cannot be reached"):
        load("nosuch")  # type: ignore[operator]
    assert time.perf_counter() - began < 15  # the hub's client tries for a minute


@pytest.mark.usefixtures("no_hub")
def test_pictures_and_runs_fail_at_once_too() -> None:
    began = time.perf_counter()
    with pytest.raises(ConfigError, match=r"image.backbone=resnet18: cannot be loaded \(127.0.0.1 cannot be reached"):
        image_network("resnet18")
    with pytest.raises(RunError, match=r"owner/name is no folder.*127.0.0.1 cannot be reached"):
        mmtab.load_run("owner/name")
    assert time.perf_counter() - began < 15


def test_a_misspelt_network_of_pictures_is_named_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"image.backbone=resnt18: .*did you mean resnet18"):
        image_network("resnt18")
