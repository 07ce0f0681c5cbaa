"""Archives unpacked as if somebody hostile had made them: nothing leaves the folder, nothing swells without end."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import re
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmtab.utils.cache import Store
from mmtab.utils.errors import DataError, one_line

SUFFIXES = (".zip", ".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".tbz2", ".txz")
BLOCK = 1 << 20
Stream = Any  # reads bytes; what zipfile, tarfile, gzip, bz2 and lzma open has no type in common that all admit to
DAMAGE = (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError)
HEADER = 16 << 20  # no honest header is longer


@dataclass(frozen=True)
class Limits:
    """What an honest archive stays under. ``ratio`` counts once more than ``small`` bytes have come out."""

    members: int = 1_000_000
    n_bytes: int = 64 << 30
    ratio: float = 200.0
    small: int = 64 << 20


@dataclass(frozen=True)
class _Member:
    name: str
    is_folder: bool
    content: Stream | None  # None: something else than a file or a folder


def is_archive(path: Path) -> bool:
    """Whether the name says so."""
    return path.is_file() and path.name.lower().endswith(SUFFIXES)


def unpack(archive: Path, folder: Path, dataset: str, limits: Limits | None = None) -> None:
    """Unpack a zip or tar file into a new ``folder``, which appears only when all is out. Archives inside stay packed.

    Raises DataError for a damaged or encrypted archive, for members that are no plain file or folder (links, devices),
    whose names are absolute, climb out or come twice, and for more than ``limits`` of members, bytes or compression.
    """
    if folder.exists():
        raise DataError(dataset, f"cannot unpack {archive.name}: {folder} exists", fix="remove it")
    Store.place(folder, lambda scratch: _Unpacking(archive, scratch, dataset, limits or Limits()).run())


class _Unpacking:
    def __init__(self, archive: Path, folder: Path, dataset: str, limits: Limits) -> None:
        self.archive, self.folder, self.dataset, self.limits = archive, folder, dataset, limits
        self.size = archive.stat().st_size
        self.n_bytes = 0

    def run(self) -> None:
        names: set[str] = set()
        try:
            for n_members, member in enumerate(self._members(), 1):
                if n_members > self.limits.members:
                    raise self._refuse("more members than any dataset here has", f"at most {self.limits.members}")
                parts = self._parts(member.name)
                if not parts:  # the folder itself
                    continue
                place = self.folder.joinpath(*parts)
                if member.is_folder:
                    place.mkdir(parents=True, exist_ok=True)
                    continue
                if member.content is None:
                    raise self._refuse("a link, a device or the like", "plain files and folders", member.name)
                if (name := "/".join(parts)) in names:
                    raise self._refuse("a name that comes twice", "each name once", member.name)
                names.add(name)
                place.parent.mkdir(parents=True, exist_ok=True)
                with member.content, place.open("xb") as file:
                    while block := member.content.read(BLOCK):
                        self._count(len(block), member.name)
                        file.write(block)
        except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
            raise self._refuse("two members for one place", "a file or a folder", str(error.filename)) from error
        except (*DAMAGE, EOFError, NotImplementedError, OSError, ValueError) as error:
            raise DataError(
                self.dataset,
                f"{self.archive.name} cannot be unpacked ({one_line(error)})",
                expected="a whole zip or tar file (.7z: unpack it yourself)",
                fix="fetch it again",
            ) from error

    def _members(self) -> Iterator[_Member]:
        if zipfile.is_zipfile(self.archive):
            with zipfile.ZipFile(self.archive) as packed:
                for info in packed.infolist():
                    if info.flag_bits & 1:
                        raise self._refuse("an encrypted member", "no password", info.filename)
                    kind = stat.S_IFMT(info.external_attr >> 16)
                    plain = kind in (0, stat.S_IFREG, stat.S_IFDIR)  # 0: made where files have no kind
                    # orig_filename: zipfile has already cut what it calls filename at a null character
                    yield _Member(
                        info.orig_filename, info.is_dir(), packed.open(info) if plain and not info.is_dir() else None
                    )
            return
        with _decompressed(self.archive) as stream, tarfile.open(fileobj=_Metered(stream, self), mode="r:") as tar:
            while (entry := tar.next()) is not None:
                yield _Member(entry.name, entry.isdir(), tar.extractfile(entry) if entry.isreg() else None)
                tar.members = []  # type: ignore[attr-defined]  # else tarfile keeps every header that it has seen

    def _parts(self, name: str) -> list[str]:
        """The steps of a member's path; none for ``./``."""
        parts = [part for part in name.split("/") if part not in ("", ".")]
        if name.startswith("/") or ".." in parts or re.match(r"[A-Za-z]:", name) or any(c in name for c in "\\\0"):
            raise self._refuse("a path that leaves the folder", "a relative path", name)
        return parts

    def _count(self, n_bytes: int, name: str) -> None:
        """What really comes out counts, whatever the headers promise."""
        self.n_bytes += n_bytes
        if self.n_bytes > self.limits.n_bytes:
            raise self._refuse("more bytes than any dataset here has", f"at most {self.limits.n_bytes}", name)
        if self.n_bytes > max(self.limits.small, self.limits.ratio * self.size):
            raise self._refuse(
                "a bomb: it swells beyond belief", f"at most {self.limits.ratio:g} times {self.size} bytes", name
            )

    def _refuse(self, problem: str, expected: str, found: str | None = None) -> DataError:
        return DataError(
            self.dataset,
            f"{self.archive.name} was not unpacked: {problem}",
            expected=expected,
            found=found,
            fix="do not trust this archive; fetch it again from its source",
        )


class _Metered(io.RawIOBase):
    """A tar's bytes. tarfile takes a header of any length into memory at once: not from here."""

    def __init__(self, stream: Stream, unpacking: _Unpacking) -> None:
        self.stream, self.unpacking = stream, unpacking

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= HEADER:
            raise self.unpacking._refuse("a header of absurd length", f"at most {HEADER} bytes", str(size))
        return self.stream.read(size)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self.stream.seek(offset, whence)

    def tell(self) -> int:
        return self.stream.tell()


def _decompressed(path: Path) -> Stream:
    with path.open("rb") as file:
        start = file.read(6)
    if start.startswith(b"\x1f\x8b"):
        return gzip.open(path)
    if start.startswith(b"BZh"):
        return bz2.open(path)
    if start.startswith(b"\xfd7zXZ\0"):
        return lzma.open(path)
    return path.open("rb")
