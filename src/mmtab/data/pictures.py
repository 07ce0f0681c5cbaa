"""Pictures on disk or in cells to uint8 arrays of one size, safely."""

from __future__ import annotations

import functools
import hashlib
import io
import os
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image, ImageOps, UnidentifiedImageError

from mmtab.data.cells import ImageSource, image_sources
from mmtab.data.spelling import is_bytes
from mmtab.data.streams import Stream
from mmtab.data.table import BadCells, Table
from mmtab.utils.cache import Arrays, Store
from mmtab.utils.errors import one_line
from mmtab.utils.machine import usable_cores
from mmtab.utils.npy import Appended, Scratch
from mmtab.utils.paths import within
from mmtab.utils.progress import steps

MAX_PIXELS = 64_000_000
# Readers that only decode: those of others, such as of .eps, start programs
FORMATS = ("BMP", "DIB", "GIF", "ICO", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TGA", "TIFF", "WEBP", "AVIF")
ROWS_AT_ONCE = 256
Fit = Literal["pad", "squash", "crop"]


@dataclass(frozen=True)
class ImageSpec:
    """How a picture becomes ``[3, size, size]``.

    ``fit``: ``crop`` is timm's evaluation transform (shorter side to size / crop_pct, then the centre); ``pad`` keeps
    the whole picture and its proportions on a white ground; ``squash`` keeps the whole picture and fills the frame.
    """

    size: int = 128
    fit: Fit = "squash"
    crop_pct: float = 0.875
    interpolation: str = "bicubic"


@dataclass(frozen=True)
class Pictures:
    """The distinct pictures of some columns, and where each cell's pictures are among them."""

    index: np.ndarray  # [n_rows, n_columns, n_pictures_a_cell] int32; -1: none, or a bad one taken as missing
    pixels: np.ndarray  # [m, 3, size, size] uint8
    key: Callable[[], dict[str, Any]]  # all that they were made from


def load_pictures(
    table: Table | Stream, columns: list[str], spec: ImageSpec, store: Store, bad_cells: BadCells = "error"
) -> Pictures:
    """Each distinct picture decoded once, by as many threads as there are cores, and kept in the store.

    Raises DataError for a picture that is missing, outside the dataset folder, damaged, not an image, or too large.
    """
    root = table.folder.resolve()
    stamps, on_disk = hashlib.blake2b(digest_size=16), dict[str, Path | None]()
    for batch in table.batches():
        for row, column, source in _paths(batch, columns):
            if (path := str(source.path)) not in on_disk:
                file = on_disk[path] = _resolve(root, source, batch, row, column, bad_cells)
                stat = file.stat() if file is not None else None
                stamps.update((f"{path}|{stat.st_size}|{stat.st_mtime_ns}\n" if stat else f"{path}|absent\n").encode())

    def key() -> dict[str, Any]:
        return {
            "columns": [table.digests[name] for name in columns],
            "folder": str(root) if on_disk else "",
            "stamps": stamps.hexdigest(),
            "spec": [spec.size, spec.fit, spec.crop_pct, spec.interpolation, bad_cells, "n_bad"],
        }

    def build(scratch: Scratch) -> Arrays:
        parts: list[np.ndarray] = []
        shape = (3, spec.size, spec.size)
        # PIL lets other threads run while it decodes and resizes. Warnings are set for all threads at once.
        with (
            Appended(scratch / "pixels.npy", np.uint8, shape) as pixels,
            warnings.catch_warnings(),
            ThreadPoolExecutor(usable_cores()) as pool,
        ):
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # MAX_PIXELS is stricter

            def one(job: tuple[Table, ImageSource, int, str]) -> np.ndarray | None:
                batch, source, row, column = job
                file = io.BytesIO(source.data) if source.data is not None else on_disk[str(source.path)]
                image = _read(file, source, batch, row, column, bad_cells)
                return None if image is None else _frame(image, spec).transpose(2, 0, 1)

            known: dict[object, int] = {}  # a picture's place, -1 for a bad one
            slices = ((batch, start) for batch in table.batches() for start in range(0, len(batch), ROWS_AT_ONCE))
            for batch, start in steps(slices, -(-len(table) // ROWS_AT_ONCE), "reading pictures"):
                cells, jobs = _new_pictures(batch, start, columns, known)
                frames = (pool.map if len(jobs) > 1 else map)(one, jobs.values())  # of one a thread takes longer
                for name, frame in zip(jobs, frames, strict=True):
                    known[name] = -1 if frame is None else pixels.n_rows
                    if frame is not None:
                        pixels.append(frame[None])
                width = max((len(names) for names in cells.values()), default=0)
                part = np.full((min(ROWS_AT_ONCE, len(batch) - start), len(columns), width), -1, np.int32)
                for (row, c), names in cells.items():
                    part[row, c, : len(names)] = [known[name] for name in names]
                parts.append(part)
        width = max((part.shape[2] for part in parts), default=0) or 1
        wide = [np.pad(part, ((0, 0), (0, 0), (0, width - part.shape[2])), constant_values=-1) for part in parts]
        return {"index": np.concatenate(wide), "n_bad": np.array(list(known.values()).count(-1))}

    arrays = store.arrays("images", key, build)
    if n_bad := int(arrays["n_bad"]):
        message = f"table {table.name}, columns {', '.join(columns)}: {n_bad} pictures are absent or damaged"
        warnings.warn(f"{message}; they are taken as missing", stacklevel=2)
    return Pictures(arrays["index"], arrays["pixels"], key)


def _new_pictures(
    batch: Table, start: int, columns: list[str], known: dict[object, int]
) -> tuple[dict[tuple[int, int], list[object]], dict[object, tuple[Table, ImageSource, int, str]]]:
    """What is in each cell of some rows, by (row, column), under names that are equal for equal pictures; and those of
    them that were not seen before."""
    cells: dict[tuple[int, int], list[object]] = {}
    jobs: dict[object, tuple[Table, ImageSource, int, str]] = {}
    for c, column in enumerate(columns):
        for row, cell in enumerate(batch.columns[column].slice(start, ROWS_AT_ONCE).to_pylist()):
            for source in image_sources(cell, batch.folder):
                name = source.path if source.data is None else hashlib.blake2b(source.data, digest_size=16).digest()
                cells.setdefault((row, c), []).append(name)
                if name not in known and name not in jobs:
                    jobs[name] = batch, source, start + row, column
    return cells, jobs


def _paths(batch: Table, columns: list[str]) -> Iterator[tuple[int, str, ImageSource]]:
    """Row and column of the pictures that are files; cells with the picture itself need not be looked at."""
    for column in columns:
        values, rows = batch.columns[column], np.arange(len(batch))
        if pa.types.is_struct(values.type) and "bytes" in values.type.names:
            length = pc.binary_length(pc.cast(pc.struct_field(values, "bytes"), pa.binary()))
            rows = np.flatnonzero(np.asarray(pc.equal(pc.fill_null(length, 0), 0)))
        elif is_bytes(values.type):
            continue
        for row, cell in zip(rows.tolist(), values.take(pa.array(rows)).to_pylist(), strict=True):
            sources = image_sources(cell, batch.folder)
            yield from ((row, column, s) for s in sources if s.data is None and s.path is not None)


def read_picture(
    table: Table, source: ImageSource, row: int, column: str, bad_cells: BadCells = "error"
) -> bytes | None:
    """The picture as stored; None for one that is missing where ``bad_cells`` allows it. Raises DataError for a path
    that names no file within the table's folder, and for an empty file."""
    if source.data is not None:
        return source.data
    path = _resolve(table.folder.resolve(), source, table, row, column, bad_cells)
    data = None if path is None else path.read_bytes()
    if data == b"":  # of no bytes and a path it is the path that counts, wherever the cell is read next
        _faulty("not an image", source, table, row, column, bad_cells)
        return None
    return data


def open_picture(table: Table, source: ImageSource, row: int, column: str) -> Image.Image:
    """The picture in RGB, at its own size; raises DataError as ``decode_images`` does."""
    data = read_picture(table, source, row, column)
    assert data is not None
    image = _read(io.BytesIO(data), source, table, row, column, "error")
    assert image is not None
    return image


def find_picture(root: Path, path: str) -> tuple[Path | None, str]:
    """The file that a cell's path names, or None and what is wrong: ``address``, ``outside`` or ``missing``.

    The one policy of fitting, preparing and predicting: a path starts at ``root``, which is resolved, or is absolute,
    and has to lead into ``root``, whatever its ``..`` and symbolic links. ``file://`` begins a path; a backslash that
    is in no file's name is a slash.
    """
    if "://" in path:
        parsed = urlsplit(path)
        if parsed.scheme != "file" or parsed.netloc not in ("", "localhost"):
            return None, "address"
        path = unquote(parsed.path)
    file, problem = _inside(str(root), path)
    return _inside(str(root), path.replace("\\", "/")) if problem == "missing" and "\\" in path else (file, problem)


def _inside(root: str, path: str) -> tuple[Path | None, str]:
    try:  # not pathlib: a third of the time for as many pictures as there are
        file = os.path.realpath(os.path.join(root, path))  # noqa: PTH118
        if not within(root, file):
            return None, "outside"
        return (Path(file), "") if os.path.isfile(file) else (None, "missing")  # noqa: PTH113
    except (OSError, ValueError, RuntimeError):  # a name too long, with a null character, a symbolic link to itself
        return None, "missing"


def _resolve(root: Path, source: ImageSource, table: Table, row: int, column: str, bad_cells: BadCells) -> Path | None:
    """The file of a picture; None for one that is missing where ``bad_cells`` allows it."""
    file, problem = find_picture(root, str(source.path))
    if file is not None or (problem == "missing" and bad_cells == "missing"):
        return file
    what, expected, fix = {
        "address": (
            "an address, and pictures are not downloaded",
            "a path",
            "download the pictures first, and write their paths into the cells",
        ),
        "outside": (
            "the path leaves the folder of the pictures",
            f"a path inside {table.folder}",
            "copy the picture into that folder, or let image_root of fit and predict be a folder above both",
        ),
        "missing": (
            "image missing",
            f"a file under {table.folder}",
            "add the file, give image_root, empty the cell, or set dataset.bad_cells=missing (of a run: bad_cells)",
        ),
    }[problem]
    if source.joined is not None and problem == "missing":
        fix += f'; ";" joins pictures: where it is in a name, the whole cell ({source.joined!r}) has to be the path'
    raise table.error(what, row=row, column=column, expected=expected, found=source.path, fix=fix)


def _read(
    file: io.BytesIO | Path | None, source: ImageSource, table: Table, row: int, column: str, bad_cells: BadCells
) -> Image.Image | None:
    if file is None:
        return None
    try:
        with Image.open(file, formats=_formats()) as image:
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
        problem = f"damaged image ({one_line(error)})"
    _faulty(problem, source, table, row, column, bad_cells)
    return None


def _faulty(problem: str, source: ImageSource, table: Table, row: int, column: str, bad_cells: BadCells) -> None:
    """Raises the DataError of a picture that cannot be used, unless ``bad_cells`` allows it."""
    if bad_cells == "missing":
        return
    raise table.error(
        problem,
        row=row,
        column=column,
        expected=f"a readable picture ({', '.join(_formats())})",
        found=source.path or "embedded bytes",
        fix="replace the file, empty the cell, or set dataset.bad_cells=missing (of a run: bad_cells)",
    )


@functools.cache
def _formats() -> list[str]:
    """Those that this installation of PIL can read."""
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def _rgb(image: Image.Image) -> Image.Image:
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I") or image.mode == "F":  # 16-bit and float greys: PIL's own conversion clips them
        grey, clear = np.asarray(image, np.float64), image.info.get("transparency")
        white = (1.0, 255.0, 65535.0) if image.mode == "F" else (255.0, 65535.0)
        top = next((top for top in white if grey.max(initial=0) <= top), white[-1])
        level = (grey / top * 255).clip(0, 255).astype(np.uint8)
        if isinstance(clear, int):  # what shows through is white
            level[grey == clear] = 255
        return Image.fromarray(level).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        ground = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(ground, image).convert("RGB")
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
