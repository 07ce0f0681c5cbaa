"""Processes of a test's own that have imported what it has: to start Python and import all anew takes seconds."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from typing import Any

FORK = multiprocessing.get_context("fork")


def forked(do: Callable[..., object], *arguments: Any) -> BaseProcess:
    """A process that does it, and was started."""
    process = FORK.Process(target=do, args=arguments)
    process.start()
    return process
