"""Files of numpy, ``.npy``, whose number of rows is known only in the end; on disk, or in memory."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np


class MemoryFolder:
    """Stands for a folder of ``.npy`` files where nothing is to be written to disk."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}

    def __truediv__(self, name: str) -> MemoryFile:
        return MemoryFile(self, name)

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """By name, without the suffix."""
        loaded = ((name, np.load(io.BytesIO(data), allow_pickle=False)) for name, data in self.files.items())
        return {name.removesuffix(".npy"): array for name, array in loaded}


class MemoryFile:
    """A file of a ``MemoryFolder``, which is there once it was written and closed."""

    def __init__(self, folder: MemoryFolder, name: str) -> None:
        self.folder, self.name = folder, name

    def open(self, mode: str, buffering: int = -1) -> io.BytesIO:
        return _Bytes(self)


class _Bytes(io.BytesIO):
    def __init__(self, file: MemoryFile) -> None:
        super().__init__()
        self._file, self.name = file, file.name

    def close(self) -> None:
        if not self.closed:
            self._file.folder.files[self._file.name] = self.getvalue()
        super().close()


Scratch = Path | MemoryFolder  # where arrays are built


class Appended:
    """A ``.npy`` file to which rows are appended until ``close``; ``n_rows`` so far. Its header says zero rows before.

    ``shape`` is that of one row. The data begin at a multiple of 64 bytes, so that the file can be mapped.
    """

    def __init__(self, path: Path | MemoryFile, dtype: np.dtype | type, shape: tuple[int, ...] = ()) -> None:
        self.dtype = np.dtype(dtype)
        if self.dtype.hasobject:
            raise ValueError(f"{path}: objects cannot be mapped; expected a dtype of fixed size, found {self.dtype}")
        self.shape = shape
        self.n_rows = 0
        self._file: Any = path.open("wb", buffering=1 << 20)
        self._write_header()

    def append(self, rows: np.ndarray) -> None:
        """``rows``: [n, *shape]. Raises ValueError for another shape, TypeError for a dtype of another kind."""
        if rows.ndim == 0 or rows.shape[1:] != self.shape:
            raise ValueError(f"{self._file.name}: expected rows of shape {self.shape}, found an array {rows.shape}")
        rows = np.ascontiguousarray(rows.astype(self.dtype, casting="same_kind", copy=False))
        self._file.write(rows.reshape(-1).view(np.uint8).data)
        self.n_rows += len(rows)

    def close(self) -> None:
        """Write the number of rows into the header. Nothing can be appended afterwards."""
        if not self._file.closed:
            with self._file:
                self._file.seek(0)
                self._write_header()

    def __enter__(self) -> Appended:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _write_header(self) -> None:
        # numpy pads a header so that it takes as much room for any number of rows.
        header = {
            "descr": np.lib.format.dtype_to_descr(self.dtype),
            "fortran_order": False,
            "shape": (self.n_rows, *self.shape),
        }
        np.lib.format.write_array_header_1_0(self._file, header)
