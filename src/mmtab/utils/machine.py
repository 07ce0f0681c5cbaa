"""What the machine at hand offers, and how a process makes the most of it."""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import nn

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h


def usable_cores() -> int:
    """What OMP_NUM_THREADS says, or else those this process may run on: on a cluster fewer than the machine has."""
    if os.environ.get("OMP_NUM_THREADS", "").isdigit():
        return max(1, int(os.environ["OMP_NUM_THREADS"]))
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def threads(n: int) -> Iterator[None]:
    """From here on torch computes in ``n`` threads and, within, so does the linear algebra of numpy and scipy: what it
    gives depends on their number in the last digits, and its own rule for it is another than torch's."""
    import scipy.linalg  # noqa: F401  # only a library that is there can be told
    import torch
    from threadpoolctl import threadpool_limits

    torch.set_num_threads(n)
    with threadpool_limits(n, "blas"):
        yield


def has_gpu() -> bool:
    """Whether the process may see a GPU, found out without torch, which takes seconds to import."""
    if os.environ.get("CUDA_VISIBLE_DEVICES", "all") in ("", "-1"):
        return False
    devices = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg", "/dev/nvhost-ctrl")
    return sys.platform != "linux" or any(Path(device).exists() for device in devices)


def native_bf16(device: torch.device) -> bool:
    """Whether the hardware multiplies bf16 matrices itself; emulated, bf16 is slower than float32."""
    import torch

    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def to_evaluate(net: nn.Module, device: torch.device | str) -> None:
    """Put a network on a device and into evaluation mode. One that is so already is not walked through again, for that
    takes longer than the prediction of a row."""
    import torch

    if net.training:
        net.eval()
    if torch.device(device).type == "cpu" and not torch.cuda.is_initialized():
        return  # there is no other place
    if any(x.device != torch.device(device) for x in itertools.chain(net.parameters(), net.buffers())):
        net.to(device)


def prepare_process() -> None:
    """What a process that computes a model does first: it keeps freed memory, and notes it where there is no GPU."""
    import torch

    # By itself glibc gives large freed blocks back to the system, which clears their pages when the next step asks for
    # them again: on CPU that is half the time of a picture network. The process then holds what it needed at its peak.
    if sys.platform == "linux" and not any(name.startswith("MALLOC_") for name in os.environ):
        with contextlib.suppress(OSError, AttributeError):
            libc = ctypes.CDLL("libc.so.6")
            libc.mallopt(M_MMAP_THRESHOLD, 1 << 30)
            libc.mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)
    # Else torch looks for one in every step of an optimizer: half a millisecond in which it opens the driver's library.
    if not torch.cuda.is_available():
        os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
