"""Weights of a file into a model, without what only training needs."""

from __future__ import annotations

import contextlib
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from mmtab.training.places import BEST
from mmtab.training.sharding import load_state
from mmtab.utils.errors import RunError, first_line


def read_checkpoint(path: Path, is_whole: bool = False) -> dict[str, Any]:
    """A checkpoint, read as plain tensors: nothing that a file asks for is executed. Raises RunError where its bytes do
    not have the checksums (CRC-32) that torch wrote beside them; ``is_whole``: that was found out otherwise."""
    try:
        if not is_whole:
            with zipfile.ZipFile(path) as file:
                if any(part.compress_type != zipfile.ZIP_STORED for part in file.infolist()):
                    raise ValueError("it is compressed, as torch writes none")
                if (part := file.testzip()) is not None:
                    raise ValueError(f"{part} has changed")
        return dict(torch.load(path, map_location="cpu", weights_only=True, mmap=True))
    except Exception as error:  # a damaged file may raise anything
        advice = "begin anew with resume=never" if path.name != BEST.name else "restore it from a copy, or train again"
        reason = first_line(error)
        raise RunError(f"{path} is damaged ({reason}); {advice}") from error


def load_weights(model: nn.Module, path: Path, is_whole: bool = False) -> None:
    """Weights of a checkpoint into a model; ``is_whole`` as ``read_checkpoint`` has it."""
    saved = read_checkpoint(path, is_whole)
    try:
        load_state(model, {key.removeprefix("model."): value for key, value in saved["state_dict"].items()})
    except (RuntimeError, KeyError, AttributeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise RunError(f"{path}: these weights cannot be loaded ({reason})") from error
    weights = {name: x for name, x in model.state_dict().items() if x.is_floating_point()}
    if lost := next((name for name, x in weights.items() if not x.isfinite().all()), None):
        raise RunError(f"{path}: {lost} is not finite; restore it from a copy, or train again")


@contextlib.contextmanager
def no_larger_than(path: Path) -> Iterator[None]:
    """A model that is built inside, to get the weights of this file, has no more parameters than the file has bytes:
    else its settings ask for memory that its weights cannot fill. Raises RunError."""
    owner, left = threading.get_ident(), path.stat().st_size

    def count(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        nonlocal left
        if parameter is not None and threading.get_ident() == owner:
            left -= parameter.numel()
            if left < 0:
                raise RunError(f"the model is larger than its weights in {path}: {name} of a {type(module).__name__}")

    hook = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        hook.remove()
