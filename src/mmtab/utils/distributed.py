"""The processes that train one model together; alone, each of these is trivial."""

from __future__ import annotations

import os
from typing import TypeVar

import torch
import torch.distributed

T = TypeVar("T")


def rank() -> tuple[int, int]:
    """This process's number among those that train together, and how many they are."""
    return (torch.distributed.get_rank(), torch.distributed.get_world_size()) if _together() else (0, 1)


def is_first() -> bool:
    """Whether this process is the one that writes and prints. Before the processes have met, the environment
    variables of torchrun, SLURM or Lightning tell."""
    from lightning_utilities.core.rank_zero import rank_zero_only

    return rank()[0] == 0 if _together() else not getattr(rank_zero_only, "rank", 0)


def local_rank() -> int:
    """This process's number among those of its machine, which is that of its device."""
    return int(os.environ.get("LOCAL_RANK") or os.environ.get("SLURM_LOCALID") or 0)


def of_all(value: T) -> list[T]:
    """Everybody's value, in the order of their numbers. All have to ask."""
    if not _together():
        return [value]
    values: list[T] = [value] * rank()[1]
    torch.distributed.all_gather_object(values, value)
    return values


def tensors_of_all(value: torch.Tensor) -> list[torch.Tensor]:
    """As of_all, for tensors of the same shape and without leaving the device."""
    if not _together():
        return [value]
    values = [torch.empty_like(value) for _ in range(rank()[1])]
    torch.distributed.all_gather(values, value.contiguous())
    return values


def of_first(value: T) -> T:
    """The first one's value, for all. All have to ask."""
    if not _together():
        return value
    values = [value]
    torch.distributed.broadcast_object_list(values, 0)
    return values[0]


def leave() -> None:
    """Wait for the other processes at the end: one that just ends may find a thread of theirs still running."""
    if _together():
        torch.distributed.destroy_process_group()


def _together() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()
