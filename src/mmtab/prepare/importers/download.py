"""One polite downloader: it resumes, checks, and puts a file in place only when it is whole and right."""

from __future__ import annotations

import email.utils
import hashlib
import json
import os
import random
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import filelock
import requests
import urllib3.exceptions
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

import mmtab
from mmtab.utils.errors import MmtabError

ALGORITHMS = {"sha512": 128, "sha256": 64, "sha1": 40, "md5": 32}  # the strongest first; how many hexadecimal digits
MAX_BYTES = 64 << 30
BLOCK = 1 << 16
GAIN = 1 << 20  # an attempt that brought this much is not counted against the limit of attempts
PATIENCE = 300.0  # the longest wait, in seconds, that a server may ask for
TIMEOUT = (10.0, 60.0)  # to connect, and between two blocks, in seconds
PASSING = (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)
REASONS = {  # by what the library says
    "NameResolution": "the name could not be resolved: no network?",
    "Name or service": "the name could not be resolved: no network?",
    "Connection refused": "the connection was refused",
    "ProxyError": "the proxy could not be reached",
    "timed out": "it took too long",
    "IncompleteRead": "the connection was cut",
    "Connection aborted": "the connection was cut",
}
HAND = "or fetch it by hand and give what you have as source=PATH"


class DownloadError(MmtabError):
    """A file that could not be had, or is not what it should be."""


class _Unfinished(Exception):
    """This attempt failed, another may not. ``wait``: seconds that the server asked for."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait


@dataclass(frozen=True)
class Checksum:
    """``algorithm`` is one of ALGORITHMS; ``digest`` is in lower-case hexadecimal."""

    algorithm: str
    digest: str


def digests_of(path: Path, *algorithms: str) -> dict[str, str]:
    """Hexadecimal digests of a file, read once."""
    digests = {algorithm: hashlib.new(algorithm) for algorithm in algorithms}
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            for digest in digests.values():
                digest.update(block)
    return {algorithm: digest.hexdigest() for algorithm, digest in digests.items()}


def download(
    url: str,
    path: Path,
    *,
    checksum: Checksum | None = None,
    size: int | None = None,
    max_bytes: int = MAX_BYTES,
    attempts: int = 4,
    sleep: Callable[[float], None] = time.sleep,
) -> str:
    """Fetch ``url`` to ``path`` unless it is there already; returns the file's sha256.

    An interrupted download goes on from its ``.part`` file where the server can tell that its file is still the same.
    The sha256 of what came is kept beside it as ``<name>.sha256``: without a published ``checksum`` a later use is
    checked against that. ``size``: the exact size in bytes, where it is known. Processes that want the same file wait
    for each other. Raises DownloadError for an address that cannot be reached, after ``attempts`` without gain, and
    for a file of another size or checksum, which is removed.
    """
    if urlsplit(url).scheme not in ("http", "https"):
        raise DownloadError(f"{url}: only http and https addresses can be fetched")
    path.parent.mkdir(parents=True, exist_ok=True)
    record = path.with_name(f"{path.name}.sha256")
    with filelock.FileLock(f"{path}.lock"):
        if path.is_file():
            if checksum is None and record.is_file():
                checksum = Checksum("sha256", record.read_text(encoding="utf-8").split()[0])
            return _checked(path, checksum, url)
        fetch = _Fetch(url, path, size, max_bytes)
        resumed, wanted = fetch.run(attempts, sleep), {} if checksum is None else {checksum.algorithm: checksum.digest}
        if resumed and wanted and digests_of(fetch.part, *wanted) != wanted:
            fetch.forget()  # what was there before may have been of another file
            fetch.run(attempts, sleep)
        try:
            sha256 = _checked(fetch.part, checksum, url)
        except DownloadError:
            fetch.forget()
            raise
        with fetch.part.open("rb+") as file:
            os.fsync(file.fileno())
        record.write_text(f"{sha256}  {path.name}\n", encoding="utf-8")
        fetch.part.replace(path)
        fetch.forget()
        return sha256


def _checked(path: Path, checksum: Checksum | None, url: str) -> str:
    """The file's sha256; removes it and raises DownloadError where it does not fit the checksum."""
    digests = digests_of(path, "sha256", *([checksum.algorithm] if checksum else []))
    if checksum is not None and digests[checksum.algorithm] != checksum.digest:
        path.unlink()
        raise DownloadError(
            f"{path.name.removesuffix('.part')} from {url} is not the file it should be: expected {checksum.algorithm} "
            f"{checksum.digest}, found {digests[checksum.algorithm]}; it was removed. Fix: try again; if it stays so,"
            f" the file was changed at its source: find out why before you correct the recipe, {HAND}"
        )
    return digests["sha256"]


class _Fetch:
    """One file on its way. ``part`` holds what has come; ``state`` says of which version of the file."""

    def __init__(self, url: str, path: Path, size: int | None, max_bytes: int) -> None:
        self.url, self.size = url, size
        self.limit = size if size is not None else max_bytes
        self.part = path.with_name(f"{path.name}.part")
        self.state = path.with_name(f"{path.name}.part.json")
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self.bar.disable = not self.bar.console.is_terminal
        self.task = self.bar.add_task(path.name, total=size)

    def run(self, attempts: int, sleep: Callable[[float], None]) -> bool:
        """Until the file is whole; whether anything came from an earlier time."""
        resumed = self._validator() is not None
        failures = 0
        with self.bar, requests.Session() as session:
            session.headers["User-Agent"] = f"mmtab/{mmtab.__version__} (dataset importer)"
            while True:
                before = self._offset()
                try:
                    self._attempt(session)
                    return resumed
                except _Unfinished as error:
                    failures = 0 if self._offset() - before >= GAIN else failures + 1
                    if failures >= attempts:
                        raise DownloadError(
                            f"{self.url} could not be fetched ({error}, {attempts} attempts). "
                            f"Fix: check the network and try again (what has come is kept), {HAND}"
                        ) from error
                    sleep(error.wait if error.wait is not None else 2 ** (failures - 1) * random.uniform(1, 1.5))

    def forget(self) -> None:
        self.part.unlink(missing_ok=True)
        self.state.unlink(missing_ok=True)

    def _offset(self) -> int:
        return self.part.stat().st_size if self.part.is_file() else 0

    def _validator(self) -> str | None:
        """What ``If-Range`` may say of the part: without it nobody knows whether the rest still fits."""
        if not (self._offset() and self.state.is_file()):
            return None
        try:
            state = json.loads(self.state.read_text(encoding="utf-8"))
            return state["validator"] if state["url"] == self.url else None
        except (ValueError, KeyError, TypeError):
            return None

    def _attempt(self, session: requests.Session) -> None:
        headers = {"Accept-Encoding": "identity"}  # else lengths and ranges speak of something else than the file
        validator, offset = self._validator(), self._offset()
        if validator is not None:
            headers |= {"Range": f"bytes={offset}-", "If-Range": validator}
        try:
            with session.get(self.url, headers=headers, stream=True, timeout=TIMEOUT) as response:
                self._receive(response, offset if validator is not None else 0)
        except (*PASSING, urllib3.exceptions.HTTPError) as error:
            raise _Unfinished(_reason(error)) from error
        except requests.RequestException as error:
            problem = f"{self.url} cannot be fetched: {_reason(error)}"
            raise DownloadError(f"{problem}. Fix: correct the address, {HAND}") from error
        except OSError as error:
            problem = f"{self.part} cannot be written: {error.strerror or error}"
            raise DownloadError(f"{problem}. Fix: make room, {HAND}") from error

    def _receive(self, response: requests.Response, offset: int) -> None:
        status = response.status_code
        if self.url.startswith("https:") and not response.url.startswith("https:"):
            raise DownloadError(f"{self.url} leads to {response.url}, which is not encrypted: refused, {HAND}")
        if status in (408, 425, 429) or status >= 500:
            raise _Unfinished(f"the server answered {status}", _retry_after(response, self.url))
        if status == 416:  # no bytes beyond those that are here: all came, or the file became shorter
            if offset and response.headers.get("Content-Range", "") == f"bytes */{offset}":
                return self._finish(offset)
            self.forget()
            raise _Unfinished("the file became shorter")
        if status not in (200, 206):
            raise DownloadError(
                f"{self.url}: the server answered {status} {response.reason}. Fix: the address may have changed:"
                f" look at the dataset's page (source in the recipe), {HAND}"
            )
        if status == 206 and response.headers.get("Content-Range", "").partition("-")[0] != f"bytes {offset}":
            self.forget()
            raise _Unfinished("the server sent another range than asked for")
        start = offset if status == 206 else 0
        length = response.headers.get("Content-Length", "")
        total = start + int(length) if length.isdigit() else None
        self._guard(total or 0)
        validator = _validator_of(response)
        self.state.write_text(json.dumps({"url": self.url, "validator": validator}), encoding="utf-8")
        self.bar.update(self.task, completed=start, total=total or self.size)
        with self.part.open("ab" if start else "wb") as file:
            for block in response.raw.stream(BLOCK, decode_content=False):
                start += len(block)
                self._guard(start)
                file.write(block)
                self.bar.update(self.task, completed=start)
        if total is not None and start < total:
            raise _Unfinished(f"the connection ended after {start} of {total} bytes")
        self._finish(start)

    def _guard(self, n_bytes: int) -> None:
        if n_bytes > self.limit:
            self.forget()
            raise DownloadError(
                f"{self.url} is larger than it should be: expected {'' if self.size else 'at most '}{self.limit}"
                f" bytes, found {n_bytes} or more; it was removed. Fix: look at the dataset's page, {HAND}"
            )

    def _finish(self, n_bytes: int) -> None:
        if self.size is not None and n_bytes != self.size:
            self.forget()
            raise DownloadError(
                f"{self.url} is shorter than it should be: expected {self.size} bytes, found {n_bytes}; it was"
                f" removed. Fix: look at the dataset's page, {HAND}"
            )


def _validator_of(response: requests.Response) -> str | None:
    """A strong mark of this version of the file: a weak ETag may stay when bytes change."""
    tag = response.headers.get("ETag", "")
    return tag if tag and not tag.startswith("W/") else response.headers.get("Last-Modified")


def _retry_after(response: requests.Response, url: str) -> float | None:
    header = response.headers.get("Retry-After", "").strip()
    if not header:
        return None
    if header.isdigit():
        wait = float(header)
    else:
        try:
            wait = max(0.0, email.utils.parsedate_to_datetime(header).timestamp() - time.time())
        except ValueError:
            return None
    if wait > PATIENCE:
        raise DownloadError(f"{url}: the server asks to come back in {wait:.0f} seconds. Fix: try again then, {HAND}")
    return wait


def _reason(error: BaseException) -> str:
    """The innermost cause in a few words, without the addresses of objects."""
    text = str(error)
    if known := next((meaning for words, meaning in REASONS.items() if words in text), None):
        return known
    return " ".join(re.sub(r"<[^>]*>:?", "", text).split())[:200] or type(error).__name__
