"""Matchings that are killed while they compute."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest

from mmtab.matching import encoding, scoring


@contextlib.contextmanager
def killed_while(doing: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What runs within is interrupted once two shards of ``doing`` are finished."""

    def killed(steps: Iterator[Any], total: int, title: str) -> Iterator[Any]:
        for i, step in enumerate(steps):
            if title == doing and i == 2:
                raise KeyboardInterrupt
            yield step

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(encoding, "steps", killed)
        patch.setattr(scoring, "steps", killed)
        yield
