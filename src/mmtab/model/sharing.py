"""Models that are trained side by side and averaged have some modules in common."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn


def borrow(models: Iterable[nn.Module], owners: Iterable[Any]) -> None:
    """Let the models use, but not own, the modules that are the owners' as well: these are saved, moved and counted
    with the owners."""
    shared = {id(module) for owner in owners if owner is not None for module in owner.modules()}
    for model in models:
        _borrow(model, shared)


def _borrow(model: nn.Module, shared: set[int]) -> None:
    for name, child in [*model.named_children()]:
        if id(child) in shared:
            delattr(model, name)
            object.__setattr__(model, name, child)
        else:
            _borrow(child, shared)
