"""Archives that a friend and a foe would make."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from mmtab.prepare.importers.archives import Limits, is_archive, unpack
from mmtab.utils.errors import DataError

FILES = {"a.csv": b"x,y\n1,2\n", "deep/er/b.txt": "caf\u00e9".encode(), "empty": b""}


def write_zip(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, data in files.items():
            packed.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED)
    return path


def write_tar(path: Path, files: dict[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as packed:  # type: ignore[call-overload]
        for name, data in files.items():
            packed.addfile(header(name, size=len(data)), io.BytesIO(data))
    return path


def header(name: str, **values: object) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    for key, value in values.items():
        setattr(info, key, value)
    return info


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tgz", "a.tar.gz", "a.tar.bz2", "a.tar.xz"])
def test_unpacked_whole(tmp_path: Path, name: str) -> None:
    mode = {"tgz": "w:gz", "gz": "w:gz", "bz2": "w:bz2", "xz": "w:xz"}.get(name.rpartition(".")[2], "w")
    path = write_zip(tmp_path / name, FILES) if name == "a.zip" else write_tar(tmp_path / name, FILES, mode)
    assert is_archive(path) and not is_archive(tmp_path / "none.zip")
    unpack(path, tmp_path / "out", "toys")
    assert contents(tmp_path / "out") == FILES


def test_folders_and_dots(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as packed:
        for name, kind, data in (
            ("./", tarfile.DIRTYPE, b""),
            ("./in/", tarfile.DIRTYPE, b""),
            ("./in/a", tarfile.REGTYPE, b"1"),
        ):
            packed.addfile(header(name, type=kind, size=len(data), mode=0o4777), io.BytesIO(data))
    unpack(tmp_path / "a.tar", tmp_path / "out", "toys")
    assert contents(tmp_path / "out") == {"in/a": b"1"}
    assert (tmp_path / "out" / "in" / "a").stat().st_mode & 0o7111 == 0  # neither executable nor with another's rights


def test_archives_inside_stay_packed(tmp_path: Path) -> None:
    inner = write_zip(tmp_path / "inner.zip", FILES).read_bytes()
    unpack(write_zip(tmp_path / "a.zip", {"inner.zip": inner}), tmp_path / "out", "toys")
    assert contents(tmp_path / "out") == {"inner.zip": inner}


@pytest.mark.parametrize("name", ["../out.txt", "a/../../b", "/etc/evil", "C:/evil", "c:evil", "a\\..\\b", "a/.."])
@pytest.mark.parametrize("write", [write_zip, write_tar])
def test_no_path_leaves_the_folder(tmp_path: Path, name: str, write: Callable[[Path, dict[str, bytes]], Path]) -> None:
    (tmp_path / "in").mkdir()
    path = write(tmp_path / "in" / "a.archive", {"good": b"1", name: b"evil"})
    with pytest.raises(DataError, match=r"dataset toys: a.archive was not unpacked: a path that leaves the folder"):
        unpack(path, tmp_path / "deep" / "out", "toys")
    assert contents(tmp_path) == {"in/a.archive": path.read_bytes()}


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_no_links_and_no_devices_in_a_tar(tmp_path: Path, kind: bytes) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as packed:
        packed.addfile(header("innocent", type=kind, linkname="/etc/passwd"))
        packed.addfile(header("innocent/x", size=1), io.BytesIO(b"1"))
    with pytest.raises(DataError, match="a link, a device or the like"):
        unpack(tmp_path / "a.tar", tmp_path / "out", "toys")
    assert not (tmp_path / "out").exists()


def test_no_links_in_a_zip(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("innocent")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as packed:
        packed.writestr(link, "/etc/passwd")
    with pytest.raises(DataError, match="a link, a device or the like"):
        unpack(tmp_path / "a.zip", tmp_path / "out", "toys")


@pytest.mark.parametrize("names", [["a", "a"], ["a", "./a"], ["a/b", "a"], ["a", "a/b"]])
def test_one_member_a_place(tmp_path: Path, names: list[str]) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as packed:
        for name in names:
            packed.addfile(header(name, size=1), io.BytesIO(b"1"))
    with pytest.raises(DataError, match=r"a name that comes twice|two members for one place"):
        unpack(tmp_path / "a.tar", tmp_path / "out", "toys")


def test_a_bomb_is_stopped_by_what_comes_out(tmp_path: Path) -> None:
    limits = Limits(small=1 << 20, ratio=50)
    zeros = bytes(8 << 20)
    bombs = [write_zip(tmp_path / "a.zip", {"zeros": zeros}), write_tar(tmp_path / "a.tgz", {"zeros": zeros}, "w:gz")]
    for bomb in bombs:
        with pytest.raises(DataError, match="a bomb"):
            unpack(bomb, tmp_path / "out", "toys", limits)
        assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".building-*"))
    unpack(bombs[0], tmp_path / "out", "toys")  # 8 MiB are not worth a word by themselves


def test_a_lying_header_does_not_help_a_bomb(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", {"zeros": bytes(8 << 20)})
    raw = path.read_bytes()
    path.write_bytes(raw.replace((8 << 20).to_bytes(4, "little"), (10).to_bytes(4, "little")))
    with pytest.raises(DataError, match=r"dataset toys: a\.zip"):
        unpack(path, tmp_path / "out", "toys", Limits(small=1 << 20, ratio=50))
    assert not (tmp_path / "out").exists()


def test_limits_of_bytes_and_members(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", {f"{i}": b"123456789" for i in range(10)})
    with pytest.raises(DataError, match="more bytes than any dataset"):
        unpack(path, tmp_path / "out", "toys", Limits(n_bytes=50))
    with pytest.raises(DataError, match="more members than any dataset"):
        unpack(path, tmp_path / "out", "toys", Limits(members=9))
    unpack(path, tmp_path / "out", "toys", Limits(members=10, n_bytes=90))


def test_a_header_of_absurd_length_is_not_taken_into_memory(tmp_path: Path) -> None:
    info = header("pax", type=tarfile.XHDTYPE, size=1 << 30)
    with gzip.open(tmp_path / "a.tgz", "wb", compresslevel=1) as packed:
        packed.write(info.tobuf(tarfile.GNU_FORMAT))
        packed.write(bytes(1 << 16))
    with pytest.raises(DataError, match="a header of absurd length"):
        unpack(tmp_path / "a.tgz", tmp_path / "out", "toys")


def test_an_encrypted_zip(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", {"a": b"1"})
    raw = bytearray(path.read_bytes())
    raw[6] |= 1
    raw[raw.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(raw)
    with pytest.raises(DataError, match="an encrypted member"):
        unpack(path, tmp_path / "out", "toys")


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tgz", "a.tar.bz2", "a.tar.xz"])
def test_a_damaged_archive(tmp_path: Path, name: str) -> None:
    mode = {"tgz": "w:gz", "bz2": "w:bz2", "xz": "w:xz"}.get(name.rpartition(".")[2], "w")
    files = {"a": bytes(range(256)) * 2000, "b": b"1"}
    path = write_zip(tmp_path / name, files) if name == "a.zip" else write_tar(tmp_path / name, files, mode)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DataError, match=rf"{name} cannot be unpacked.*fetch it again"):
        unpack(path, tmp_path / "out", "toys")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("data", [b"", b"not an archive", bz2.compress(b"x"), lzma.compress(b"x")])
def test_something_else(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.tar").write_bytes(data)
    with pytest.raises(DataError, match="expected a whole zip or tar file"):
        unpack(tmp_path / "a.tar", tmp_path / "out", "toys")


def test_only_into_a_new_folder(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", FILES)
    (tmp_path / "out").mkdir()
    with pytest.raises(DataError, match="exists"):
        unpack(path, tmp_path / "out", "toys")
