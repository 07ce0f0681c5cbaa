"""Pictures on disk or in cells to uint8 arrays of one size, safely."""

from __future__ import annotations

import hashlib
import io
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from mmtab.store import Arrays, Store
from mmtab.table import BadCells, ImageSource, Table, image_sources

MAX_PIXELS = 64_000_000
Fit = Literal["pad", "squash", "crop"]


@dataclass(frozen=True)
class ImageSpec:
    """How a picture becomes ``[3, size, size]``.

    ``fit``: ``crop`` is timm's evaluation transform (shorter side to size / crop_pct, then the centre); ``pad`` keeps
    the whole picture and its proportions on a white ground; ``squash`` keeps the whole picture and fills the frame.
    """

    size: int
    fit: Fit = "squash"
    crop_pct: float = 0.875
    interpolation: str = "bicubic"


def collect_images(table: Table, columns: list[str]) -> tuple[np.ndarray, list[tuple[ImageSource, int, str]]]:
    """The distinct pictures of some columns, and where each cell's pictures are among them.

    Returns ``index`` [n_rows, n_columns, n_images_a_cell] int32 padded with -1, and for each picture its source and
    the first row and column it was seen in.
    """
    cells: list[list[list[int]]] = []
    known: dict[object, int] = {}
    sources: list[tuple[ImageSource, int, str]] = []
    for column in columns:
        cells.append([])
        for row, cell in enumerate(table.columns[column].to_pylist()):
            places = []
            for source in image_sources(cell):
                key = source.path if source.data is None else hashlib.blake2b(source.data, digest_size=16).digest()
                if key not in known:
                    known[key] = len(sources)
                    sources.append((source, row, column))
                places.append(known[key])
            cells[-1].append(places)
    width = max((len(places) for rows in cells for places in rows), default=0) or 1
    index = np.full((len(table), len(columns), width), -1, np.int32)
    for c, rows in enumerate(cells):
        for row, places in enumerate(rows):
            index[row, c, : len(places)] = places
    return index, sources


def decode_images(
    table: Table,
    sources: list[tuple[ImageSource, int, str]],
    spec: ImageSpec,
    store: Store,
    bad_cells: BadCells = "error",
    progress: Callable[[Iterator[None], int], Iterator[None]] = lambda steps, _: steps,
) -> tuple[np.ndarray, np.ndarray]:
    """``pixels`` [m, 3, size, size] uint8 and ``valid`` [m] bool (False: bad and, as asked, taken as missing).

    Raises DataError for a picture that is missing, outside the dataset folder, damaged, not an image, or too large.
    """
    root = table.folder.resolve()
    stamps = []
    for source, row, column in sources:
        if source.data is not None:
            stamps.append(hashlib.blake2b(source.data, digest_size=16).hexdigest())
            continue
        path = _resolve(root, source, table, row, column, bad_cells)
        stat = path.stat() if path is not None else None
        stamps.append(f"{source.path}|{stat.st_size}|{stat.st_mtime_ns}" if stat else f"{source.path}|absent")
    key = {
        "folder": str(root) if any(source.data is None for source, *_ in sources) else "",
        "stamps": hashlib.blake2b("\n".join(stamps).encode(), digest_size=16).hexdigest(),
        "spec": [spec.size, spec.fit, spec.crop_pct, spec.interpolation, bad_cells],
    }

    def build(scratch: Path) -> Arrays:
        pixels = np.lib.format.open_memmap(
            scratch / "pixels.npy", "w+", np.uint8, (len(sources), 3, spec.size, spec.size)
        )
        valid = np.ones(len(sources), bool)

        def one(i: int) -> None:
            source, row, column = sources[i]
            image = _open(root, source, table, row, column, bad_cells)
            if image is None:
                valid[i] = False
            else:
                pixels[i] = _frame(image, spec).transpose(2, 0, 1)

        # PIL lets other threads run while it decodes and resizes. Warnings are set for all threads at once.
        with warnings.catch_warnings(), ThreadPoolExecutor() as pool:
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # MAX_PIXELS is stricter
            for _ in progress(iter(pool.map(one, range(len(sources)))), len(sources)):
                pass
        return {"pixels": pixels, "valid": valid}

    arrays = store.arrays("images", key, build)
    return arrays["pixels"], arrays["valid"]


def read_picture(table: Table, source: ImageSource, row: int, column: str) -> bytes:
    """The picture as stored; raises DataError for a path that leaves the dataset folder or leads to no file."""
    if source.data is not None:
        return source.data
    path = _resolve(table.folder.resolve(), source, table, row, column, "error")
    assert path is not None
    return path.read_bytes()


def open_picture(table: Table, source: ImageSource, row: int, column: str) -> Image.Image:
    """The picture in RGB, at its own size; raises DataError as ``decode_images`` does."""
    image = _open(table.folder.resolve(), source, table, row, column, "error")
    assert image is not None
    return image


def _resolve(root: Path, source: ImageSource, table: Table, row: int, column: str, bad_cells: BadCells) -> Path | None:
    try:
        path = (root / str(source.path)).resolve()
        inside, there = path.is_relative_to(root), path.is_file()
    except (OSError, ValueError, RuntimeError):  # a name too long, with a null character, a symbolic link to itself
        inside, there = True, False
    if not inside:
        raise table.error(
            "the path leaves the dataset folder", row=row, column=column, expected="a path inside it",
            found=source.path,
            fix="copy the picture into the dataset folder",
        )  # fmt: skip
    if not there:
        if bad_cells == "missing":
            return None
        raise table.error(
            "image missing", row=row, column=column, expected=f"a file under {root.name}/", found=source.path,
            fix="add the file, empty the cell, or set dataset.bad_cells=missing",
        )  # fmt: skip
    return path


def _open(
    root: Path, source: ImageSource, table: Table, row: int, column: str, bad_cells: BadCells
) -> Image.Image | None:
    name = source.path or "embedded bytes"
    file: io.BytesIO | Path | None
    file = io.BytesIO(source.data) if source.data is not None else _resolve(root, source, table, row, column, bad_cells)
    if file is None:
        return None
    try:
        with Image.open(file) as image:
            if image.width * image.height > MAX_PIXELS:
                problem = f"image too large to open safely ({image.width} x {image.height} pixels)"
            else:
                image.load()
                return _rgb(image)
    except UnidentifiedImageError:
        problem = "not an image"
    except Image.DecompressionBombError:
        problem = "image too large to open safely"
    except Exception as error:  # PIL's readers raise nearly anything for damaged files
        problem = f"damaged image ({' '.join(str(error).split())})"
    if bad_cells == "missing":
        return None
    raise table.error(
        problem, row=row, column=column, expected="a readable picture", found=name,
        fix="replace the file, empty the cell, or set dataset.bad_cells=missing",
    )  # fmt: skip


def _rgb(image: Image.Image) -> Image.Image:
    image = ImageOps.exif_transpose(image)
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        ground = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(ground, image).convert("RGB")
    if image.mode.startswith("I") or image.mode == "F":  # 16-bit and float greys: PIL's own conversion clips them
        grey = np.asarray(image, np.float64)
        top = 65535.0 if grey.max(initial=0) > 255 else 255.0
        image = Image.fromarray((grey / top * 255).clip(0, 255).astype(np.uint8))
    return image.convert("RGB")


def _frame(image: Image.Image, spec: ImageSpec) -> np.ndarray:
    how = Image.Resampling[spec.interpolation.upper()]
    size = (spec.size, spec.size)
    if spec.fit == "squash":
        image = image.resize(size, how)
    elif spec.fit == "pad":
        image = ImageOps.pad(image, size, how, color="white")
    else:
        reach = 4 * min(image.size)  # the far ends of a long strip are cut off below: do not enlarge them first
        if max(image.size) > reach:
            image = ImageOps.fit(image, (min(image.width, reach), min(image.height, reach)))
        shorter = int(np.floor(spec.size / spec.crop_pct))
        scale = shorter / min(image.size)
        image = image.resize(
            (max(round(image.width * scale), spec.size), max(round(image.height * scale), spec.size)), how
        )
        left, top = round((image.width - spec.size) / 2), round((image.height - spec.size) / 2)
        image = image.crop((left, top, left + spec.size, top + spec.size))
    return np.asarray(image)
