"""Files and words of strangers: copied with bounds, read within bounded memory, printed without what a terminal
obeys."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from mmtab.benchmark.scoring import MAX_BYTES_A_ROW, CheckedPredictions, read_predictions
from mmtab.benchmark.truth import Truth
from mmtab.data import files as tables
from mmtab.utils.errors import DataError, printable

MEMORY = 4 << 30  # bytes that reading one file may take: a small file may unfold to very much


def one_line(text: str) -> str:
    """Safe to print: strangers' words without line breaks, or whatever a terminal would obey."""
    return printable(text)[:600]


def fetch(source: Path, target: Path, truth: Truth) -> tuple[Path, str]:
    """Copy a submitted file to the new folder ``target``; returns the copy and its sha256. Raises DataError for links,
    for what is no regular file, and for what is too large."""
    name, limit = one_line(source.name), MAX_BYTES_A_ROW * (len(truth) + 1)

    def refused(problem: str, expected: str) -> DataError:
        return DataError(truth.dataset, problem, table=name, expected=expected)

    if source.suffix not in tables.FORMATS:
        raise refused("not a predictions file", "a .parquet or .csv file")
    try:  # a pipe would keep whoever opens it waiting
        handle = os.open(source, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    except OSError as error:
        problem = "it is a link" if error.errno == errno.ELOOP else os.strerror(error.errno or 0)
        raise refused(f"the file cannot be opened ({problem})", "a regular file") from error
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise refused("not a regular file", "a .parquet or .csv file")
    digest, size = hashlib.sha256(), 0
    target.mkdir()
    copy = target / (source.name if name == source.name else f"{truth.dataset}{source.suffix}")
    with os.fdopen(handle, "rb") as file, copy.open("wb") as sink:
        while block := file.read(1 << 20):
            size += len(block)
            if size > limit:
                raise refused("the file is too large to be predictions", f"at most {limit} bytes for {len(truth)} rows")
            digest.update(block)
            sink.write(block)
    return copy, digest.hexdigest()


def read(copy: Path, truth: Truth) -> CheckedPredictions:
    """``read_predictions``; whatever a file causes is a DataError of one line."""
    try:
        with _bounded_memory():
            return read_predictions(copy, truth)
    except MemoryError as error:
        raise DataError(truth.dataset, "the file unfolds to more than predictions need", table=copy.name) from error
    except DataError:
        raise
    except Exception as error:  # libraries fail in more ways than anybody foresees
        problem = one_line(f"the file cannot be read ({type(error).__name__}: {error})")
        raise DataError(truth.dataset, problem, table=copy.name) from error


@contextlib.contextmanager
def _bounded_memory() -> Iterator[None]:
    """More than MEMORY bytes beyond what the process has now raise MemoryError; on Linux, elsewhere nothing."""
    try:
        import resource

        in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    except (ImportError, OSError):
        yield
        return
    before = resource.getrlimit(resource.RLIMIT_AS)
    limits = [in_use + MEMORY, *(limit for limit in before if limit != resource.RLIM_INFINITY)]
    resource.setrlimit(resource.RLIMIT_AS, (min(limits), before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
