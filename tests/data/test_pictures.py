"""Pictures: decoded safely to one size; whatever is wrong with one is told with its place, or counted as missing."""

from __future__ import annotations

import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from toy_data import draw_picture, write_kway, write_table

from mmtab.data import pictures as images
from mmtab.data.dataset import Dataset
from mmtab.data.pictures import Fit, ImageSpec, Pictures, load_pictures
from mmtab.data.schema import Schema
from mmtab.data.table import Table, read_split
from mmtab.utils.cache import Store
from mmtab.utils.errors import DataError

SIZE = 16


def table_of(folder: Path, *cells: Any) -> Table:
    folder.mkdir(exist_ok=True)
    ids = pa.array([f"i{row}" for row in range(len(cells))])
    return Table(
        "toys",
        "train",
        folder,
        ids,
        {"photo": pa.array(cells, None if cells.count(None) < len(cells) else pa.string())},
    )


def decode(folder: Path, *cells: Any, fit: Fit = "squash", bad_cells: Any = "error", cache: str = "cache") -> Pictures:
    table = table_of(folder, *cells)
    return load_pictures(table, ["photo"], ImageSpec(SIZE, fit), Store(folder.parent / cache), bad_cells)


def png_header(width: int, height: int) -> bytes:
    """A png of a few bytes that claims to be huge."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")


def test_toy_pictures(tmp_path: Path) -> None:
    folder = write_kway(tmp_path / "toys")
    table = read_split(folder, Schema.read(folder), "train")
    found = load_pictures(table, ["photo"], ImageSpec(SIZE), Store(tmp_path / "cache"))
    index, pixels = found.index, found.pixels
    cells = table.columns["photo"].to_pylist()
    assert (index[:, 0, 0] < 0).tolist() == [cell is None for cell in cells]
    assert (index[:, 0, 1] >= 0).tolist() == [cell is not None and ";" in cell for cell in cells]
    n = len({path for cell in cells if cell for path in cell.split(";")})
    assert index.shape == (36, 1, 2) and pixels.shape == (n, 3, SIZE, SIZE) and pixels.dtype == np.uint8
    assert isinstance(index, np.memmap) and isinstance(pixels, np.memmap)
    colours = {"kind 0": 0, "kind 1": 1, "kind 2": 2}  # red, green, blue
    for row, label in enumerate(table.labels.to_pylist()):  # type: ignore[union-attr]
        if index[row, 0, 0] >= 0:
            middle = pixels[index[row, 0, 0], :, 6, 6].astype(int)
            assert middle.argmax() == colours[label]


def test_each_picture_once(tmp_path: Path) -> None:
    data = draw_picture(tmp_path / "a.png", 0).read_bytes()
    other = draw_picture(tmp_path / "b.png", 1).read_bytes()
    found = decode(tmp_path, "a.png", None, "a.png;b.png", "b.png")
    assert found.index[:, 0].tolist() == [[0, -1], [-1, -1], [0, 1], [1, -1]] and len(found.pixels) == 2
    again = decode(tmp_path, data, data, other)
    assert again.index[:, 0, 0].tolist() == [0, 0, 1] and np.array_equal(again.pixels, found.pixels)


def test_pictures_across_the_bounds_of_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(5):
        draw_picture(tmp_path / f"{i}.png", i)
    cells = ["0.png", "1.png;0.png", None, "2.png", "2.png;3.png;4.png", "0.png"]
    whole = decode(tmp_path, *cells, cache="whole")
    monkeypatch.setattr(images, "ROWS_AT_ONCE", 2)
    parts = decode(tmp_path, *cells, cache="parts")
    assert np.array_equal(parts.index, whole.index) and np.array_equal(parts.pixels, whole.pixels)
    assert whole.index[4, 0].tolist() == [2, 3, 4] and whole.index[5, 0].tolist() == [0, -1, -1]


def test_no_pictures_at_all(tmp_path: Path) -> None:
    found = decode(tmp_path / "toys", None, None)
    assert found.pixels.shape == (0, 3, SIZE, SIZE)
    assert found.index.shape == (2, 1, 1) and (found.index == -1).all()


def test_embedded_and_on_disk_are_the_same(tmp_path: Path) -> None:
    folder = tmp_path / "toys"
    data = draw_picture(folder / "a.png", 3).read_bytes()
    pixels = decode(folder, "a.png").pixels
    for cell in (data, {"bytes": data, "path": "gone.png"}, [{"bytes": data, "path": None}]):
        assert np.array_equal(decode(folder, cell).pixels, pixels)


def test_a_changed_picture_is_decoded_anew(tmp_path: Path) -> None:
    folder = tmp_path / "toys"
    draw_picture(folder / "a.png", 0)
    before = np.array(decode(folder, "a.png").pixels)
    draw_picture(folder / "a.png", 1, seed=5)
    assert not np.array_equal(decode(folder, "a.png").pixels, before)


def damage(folder: Path, kind: str) -> str:
    """A bad picture of some kind; returns its cell."""
    data = draw_picture(folder / "good.png", 0, size=60).read_bytes()
    jpeg = draw_picture(folder / "good.jpg", 0, size=60).read_bytes()
    contents = {
        "missing": None,
        "truncated png": data[: len(data) // 2],
        "truncated jpeg": jpeg[: len(jpeg) // 2],
        "text": b"this is no picture",
        "html": b"<html><body>404</body></html>",
        "empty file": b"",
        "bomb": png_header(60_000, 60_000),
        "large": png_header(9_000, 9_000),
        "avif": b"\0\0\0\x1cftypavif\0\0\0\0avifmif1miaf" + bytes(40),
    }
    if contents[kind] is not None:
        (folder / "bad.png").write_bytes(contents[kind] or b"")
    return "bad.png"


PROBLEMS = {
    "missing": "image missing; expected a file under /toys",
    "truncated png": "damaged image (",
    "truncated jpeg": "damaged image (",
    "text": "not an image",
    "html": "not an image",
    "empty file": "not an image",
    "bomb": "image too large to open safely",
    "large": "image too large to open safely (9000 x 9000 pixels)",
    "avif": "image",
}


@pytest.mark.parametrize("kind", PROBLEMS)
def test_bad_pictures(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "toys"
    cell = damage(folder, kind)
    with pytest.raises(DataError) as error:
        decode(folder, "good.png", None, f"good.jpg;{cell}")
    message = str(error.value).replace(str(tmp_path), "")
    assert (
        message.startswith(f"dataset toys, table train, row 3 (id i2), column photo: {PROBLEMS[kind]}")
        or kind == "avif"
    )
    for part in ("row 3 (id i2), column photo", "; expected ", "; found bad.png", "Fix: ", "dataset.bad_cells=missing"):
        assert part in message
    assert not list((tmp_path / "cache").rglob("*.npy"))  # nothing of the failed attempt stays

    found = decode(folder, "good.png", None, f"good.jpg;{cell}", bad_cells="missing")
    assert found.index[:, 0].tolist() == [[0, -1], [-1, -1], [1, -1]]
    assert np.array_equal(found.pixels, decode(folder, "good.png", "good.jpg").pixels)


def test_bad_embedded_bytes(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"row 1 \(id i0\), column photo: not an image; .* found embedded bytes"):
        decode(tmp_path / "toys", b"no picture")
    assert decode(tmp_path / "toys", b"no picture", bad_cells="missing").index.tolist() == [[[-1]]]


MEMORY = """
import resource, sys
from pathlib import Path
import pyarrow as pa
from mmtab.data.pictures import ImageSpec, load_pictures
from mmtab.utils.cache import Store
from mmtab.data.table import Table

folder, bad_cells, *names = Path(sys.argv[1]), *sys.argv[2:]
table = Table("toys", "train", folder, pa.array(names), {"photo": pa.array(names)})
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
found = load_pictures(table, ["photo"], ImageSpec(16, "crop"), Store(folder / "cache"), bad_cells)
print(found.index.ravel().tolist(), (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def test_a_bomb_takes_no_memory(tmp_path: Path) -> None:
    names = []
    for width, height in [(60_000, 60_000), (2_000_000_000, 1), (12_000, 12_000), (8_001, 8_000)]:
        names.append(f"{width}.png")
        (tmp_path / names[-1]).write_bytes(png_header(width, height))
        with pytest.raises(DataError, match="too large to open safely"):
            decode(tmp_path, names[-1])
    Image.new("RGB", (1_000_000, 1), "red").save(tmp_path / "strip.png")  # enlarged to 16 high, it would be a bomb
    command = [sys.executable, "-c", MEMORY, str(tmp_path), "missing", *names, "strip.png"]
    told = subprocess.run(command, capture_output=True, text=True, check=True, timeout=500).stdout
    index, megabytes = told.rsplit(maxsplit=1)
    assert index == "[-1, -1, -1, -1, 0]"
    assert int(megabytes) < 100  # the smallest would take 190


@pytest.mark.parametrize("bad_cells", ["error", "missing"])
def test_paths_that_leave_the_folder(tmp_path: Path, bad_cells: str) -> None:
    """Even where bad cells count as missing: no dataset may read other files."""
    folder = tmp_path / "toys"
    draw_picture(folder / "images" / "a.png", 0)
    draw_picture(tmp_path / "secret.png", 0)
    draw_picture(tmp_path / "toys-too" / "secret.png", 0)
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    (folder / "elsewhere").symlink_to(tmp_path / "toys-too")
    for path in (
        "../secret.png",
        "images/../../secret.png",
        str(tmp_path / "secret.png"),
        "link.png",
        "elsewhere/secret.png",
        "../toys-too/secret.png",
        "/etc/passwd",
        "../absent.png",
    ):
        with pytest.raises(DataError) as error:
            decode(folder, f"images/a.png;{path}", bad_cells=bad_cells)
        message = str(error.value)
        assert "table train, row 1 (id i0), column photo: the path leaves the folder of the pictures" in message
        assert f"expected a path inside {folder}" in message and path[:40] in message and "Fix: " in message
    decode(folder, "images/../images/a.png")
    decode(folder, str(folder / "images" / "a.png"))


def test_a_dataset_folder_that_is_itself_a_link(tmp_path: Path) -> None:
    draw_picture(tmp_path / "toys" / "a.png", 0)
    (tmp_path / "alias").symlink_to(tmp_path / "toys")
    assert decode(tmp_path / "alias", "a.png").index.tolist() == [[[0]]]


@pytest.mark.parametrize("path", ["images", "a\0b.png", "x" * 5000 + ".png", "x/" * 3000 + "y.png", "loop.png", "."])
def test_paths_that_name_no_file(tmp_path: Path, path: str) -> None:
    folder = tmp_path / "toys"
    (folder / "images").mkdir(parents=True)
    (folder / "loop.png").symlink_to(folder / "loop.png")
    with pytest.raises(DataError, match=r"row 1 \(id i0\), column photo: image missing"):
        decode(folder, path)
    assert decode(folder, path, bad_cells="missing").index.tolist() == [[[-1]]]


@pytest.mark.parametrize("fit", ["squash", "pad", "crop"])
def test_shapes_of_pictures(tmp_path: Path, fit: Fit) -> None:
    for i, size in enumerate([(1, 1), (3, 200), (200, 3), (5000, 1), (1, 5000), (16, 16)]):
        Image.new("RGB", size, "red").save(tmp_path / f"{i}.bmp")
        pixels = decode(tmp_path, f"{i}.bmp", fit=fit).pixels
        assert pixels.shape == (1, 3, SIZE, SIZE)
        assert (pixels[0, 0] > 250).all() and (fit == "pad" or (pixels[0, 1:] < 5).all())


def test_pad_keeps_proportions_and_crop_the_centre(tmp_path: Path) -> None:
    image = Image.new("RGB", (90, 30), "blue")
    image.paste("red", (30, 0, 60, 30))
    image.save(tmp_path / "a.png")
    pad, crop, squash = (decode(tmp_path, "a.png", fit=fit).pixels[0].astype(int) for fit in ("pad", "crop", "squash"))  # type: ignore[arg-type]
    assert (pad[:, :4] > 250).all() and (pad[:, -4:] > 250).all()  # white above and below
    assert pad[2, 8, 1] > 200 and pad[0, 8, 8] > 200
    assert (crop[0] > 200).all() and (crop[2] < 60).all()  # the red middle alone
    assert squash[2, 0, 0] > 200 and squash[0, 8, 8] > 200 and squash[2, 15, 15] > 200


@pytest.mark.parametrize(
    ("mode", "colour", "suffix", "expected"),
    [
        ("1", 1, ".png", (255, 255, 255)),
        ("L", 100, ".png", (100, 100, 100)),
        ("I;16", 65535 // 2, ".png", (127, 127, 127)),
        ("I;16", 100, ".png", (100, 100, 100)),
        ("F", 100.0, ".tif", (100, 100, 100)),
        ("F", 0.5, ".tif", (127, 127, 127)),  # of the range from 0 to 1
        ("RGBA", (255, 0, 0, 0), ".png", (255, 255, 255)),  # what shows through is white
        ("RGBA", (255, 0, 0, 255), ".webp", (255, 0, 0)),
        ("LA", (0, 0), ".png", (255, 255, 255)),
        ("CMYK", (0, 0, 0, 0), ".tif", (255, 255, 255)),
        ("P", 0, ".gif", (0, 0, 0)),
    ],
)
def test_modes(tmp_path: Path, mode: str, colour: Any, suffix: str, expected: tuple[int, ...]) -> None:
    Image.new(mode, (20, 20), colour).save(tmp_path / f"a{suffix}", **({"lossless": True} if suffix == ".webp" else {}))
    pixels = decode(tmp_path, f"a{suffix}").pixels
    assert pixels[0, :, 8, 8].tolist() == pytest.approx(expected, abs=1)


def test_a_grey_of_16_bits_may_be_transparent(tmp_path: Path) -> None:
    grey = np.repeat(np.array([[0, 65535 // 2]], np.uint16), 10, 1).repeat(20, 0)
    Image.fromarray(grey).save(tmp_path / "a.png", transparency=0)
    pixels = decode(tmp_path, "a.png").pixels[0]
    assert (pixels[:, 8, 2] == 255).all() and pixels[:, 8, 13].tolist() == pytest.approx([127] * 3, abs=1)


def test_a_photograph_is_turned_as_its_camera_says(tmp_path: Path) -> None:
    image = Image.new("RGB", (40, 20), "blue")
    image.paste("red", (0, 0, 20, 20))  # left half
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn clockwise: left becomes top
    image.save(tmp_path / "a.png", exif=exif)
    pixels = decode(tmp_path, "a.png").pixels[0]
    assert (pixels[0, :6] > 200).all() and (pixels[2, -6:] > 200).all()


@pytest.mark.filterwarnings("ignore")  # Pillow's remarks on damage
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".gif", ".tiff", ".webp", ".bmp", ".ico", ".ppm", ".avif"])
def test_damage_of_any_kind_is_a_data_error(tmp_path: Path, suffix: str) -> None:
    """Pictures with random bytes overwritten: decoded, or a DataError, but nothing else."""
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 256, (24, 24, 3), np.uint8))
    try:
        noise.save(tmp_path / f"a{suffix}")
    except (KeyError, OSError):
        pytest.skip("this Pillow cannot write the format")
    good = (tmp_path / f"a{suffix}").read_bytes()
    cells = []
    for _ in range(60):
        data = bytearray(good)
        for place in rng.integers(0, min(len(data), 300), rng.integers(1, 8)):
            data[place] = rng.integers(256)
        cells.append(bytes(data[: rng.integers(len(data) // 2, len(data) + 1)]))
    valid = decode(tmp_path, *cells, bad_cells="missing").index[:, 0, 0] >= 0
    assert not valid.all()
    for cell in [cell for cell, fine in zip(cells, valid, strict=False) if not fine][:5]:
        with pytest.raises(DataError, match="column photo"):
            decode(tmp_path, cell)


# --- names with a semicolon, and pictures of no bytes ----------------------------------------------------------------


def test_a_cell_that_is_a_file_is_that_file(tmp_path: Path) -> None:
    folder = tmp_path / "toys"
    for i, name in enumerate(("a;b.png", "a.png", "b.png", "; odd ;.png", "deep;er/x.png")):
        draw_picture(folder / name, i, seed=i)
    for cell in ("a;b.png", {"bytes": None, "path": "a;b.png"}, ["a;b.png"], str(folder / "a;b.png")):
        assert np.array_equal(decode(folder, cell).pixels, decode(folder, "a;b.png", cache="other").pixels)
    found = decode(folder, "a;b.png", "a.png;b.png", "; odd ;.png", "deep;er/x.png", "a.png; a.png")
    assert found.index[:, 0].tolist() == [[0, -1], [1, 2], [3, -1], [4, -1], [1, 1]]
    (folder / "dataset.yaml").write_text("{name: toys, task: kway, label: label, columns: {photo: image}}")
    write_table(folder / "train.csv", {"id": ["1"], "photo": ["a;b.png"], "label": ["x"]})
    (row,) = Dataset.read(folder)["train"]
    assert [picture.source.path for picture in row["photo"]] == ["a;b.png"] and row["photo"][0].open().size


def test_a_file_that_is_missed_with_others_says_how_names_are_joined(tmp_path: Path) -> None:
    draw_picture(tmp_path / "toys" / "a.png", 0)
    with pytest.raises(DataError, match=r"row 1 .*found gone.*Fix: .*the whole cell \('a.png;gone;x.png'\) has to be"):
        decode(tmp_path / "toys", "a.png;gone;x.png")


EMPTY = [b"", {"bytes": b"", "path": None}, {"bytes": b"", "path": ""}, [b""], [{"bytes": b"", "path": None}]]


@pytest.mark.parametrize("cell", EMPTY, ids=str)
def test_a_picture_of_no_bytes_is_damaged(tmp_path: Path, cell: Any) -> None:
    with pytest.raises(DataError, match=r"row 2 \(id i1\), column photo: not an image; .* found embedded bytes"):
        decode(tmp_path / "toys", None, cell)
    assert decode(tmp_path / "toys", None, cell, bad_cells="missing").index.tolist() == [[[-1]], [[-1]]]
    with pytest.raises(DataError, match="image missing"):  # of no bytes, and a path
        decode(tmp_path / "toys", {"bytes": b"", "path": "gone.png"})
