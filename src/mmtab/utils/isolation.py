"""A library in somebody else's process: computing leaves behind no state that other code could see."""

from __future__ import annotations

import contextlib
import logging
import os
import random
import signal
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from mmtab.utils.progress import unseen

_computing = threading.RLock()  # generators, flags and filters belong to the process, not to a thread
_forked = False


def _after_fork() -> None:
    """The thread that held the lock is not in the child, and neither are those that OpenMP has started and would wait
    for."""
    global _computing, _forked
    _computing, _forked = threading.RLock(), True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


@contextlib.contextmanager
def isolated() -> Iterator[None]:
    """Afterwards random states, flags of torch, filters of warnings, levels of loggers, environment variables and
    signal handlers are what they were before, and nothing was printed unless somebody looks. One thread at a time is
    within: a second one waits, for all of these belong to the process. A forked process computes in one thread.
    Also a decorator."""
    import torch

    with _computing, contextlib.ExitStack() as stack:
        for restore in (_random(torch), _flags(torch), _environment(), _levels(), _handlers()):
            stack.callback(restore)
        stack.enter_context(unseen())
        stack.enter_context(warnings.catch_warnings())
        stack.enter_context(np.errstate(all="warn", under="ignore"))  # numpy's own defaults
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        torch.set_default_dtype(torch.float32)
        if _forked:
            torch.set_num_threads(1)
        yield


def _random(torch: Any) -> Callable[[], None]:
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None

    def restore() -> None:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
        if cuda is not None:
            torch.cuda.set_rng_state_all(cuda)
        else:  # as torch.manual_seed would have done
            torch.cuda.manual_seed_all(torch.initial_seed())

    return restore


def _flags(torch: Any) -> Callable[[], None]:
    cudnn, dtype, n_threads = torch.backends.cudnn, torch.get_default_dtype(), torch.get_num_threads()
    strict = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    flags = cudnn.benchmark, cudnn.deterministic

    def restore() -> None:
        torch.use_deterministic_algorithms(strict, warn_only=warn_only)
        torch.set_default_dtype(dtype)
        torch.set_num_threads(n_threads)
        cudnn.benchmark, cudnn.deterministic = flags

    return restore


def _environment() -> Callable[[], None]:
    before = dict(os.environ)

    def restore() -> None:
        from mmtab.utils import distributed

        if distributed.rank()[1] > 1:  # the processes know each other by it until they end
            return
        for name in set(os.environ) - set(before):
            del os.environ[name]
        os.environ.update(before)

    return restore


def _levels() -> Callable[[], None]:
    def loggers() -> list[logging.Logger]:
        known = logging.Logger.manager.loggerDict.copy().values()
        return [logging.getLogger(), *(logger for logger in known if isinstance(logger, logging.Logger))]

    before = {logger: logger.level for logger in loggers()}

    def restore() -> None:
        for logger in loggers():
            if logger in before and logger.level != before[logger]:
                logger.setLevel(before[logger])

    return restore


def _handlers() -> Callable[[], None]:
    if threading.current_thread() is not threading.main_thread():
        return lambda: None  # only the main thread can set any
    before = {number: signal.getsignal(number) for number in signal.valid_signals()}

    def restore() -> None:
        for number, handler in before.items():
            if handler is not None and signal.getsignal(number) is not handler:
                signal.signal(number, handler)

    return restore
