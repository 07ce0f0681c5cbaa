"""How many threads compute what a run is made of."""

from __future__ import annotations

import torch
from threadpoolctl import threadpool_info, threadpool_limits

from mmtab.utils.machine import threads


def of_linear_algebra() -> set[int]:
    return {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}


def test_numpy_and_scipy_compute_in_as_many_threads_as_torch() -> None:
    before = torch.get_num_threads()
    try:
        with threadpool_limits(2, "blas"):
            with threads(1):
                assert of_linear_algebra() == {1} and torch.get_num_threads() == 1
            assert of_linear_algebra() == {2}
    finally:
        torch.set_num_threads(before)
