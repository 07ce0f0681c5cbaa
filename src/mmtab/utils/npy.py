"""Files of numpy, ``.npy``, whose number of rows is known only in the end."""

from __future__ import annotations

from pathlib import Path

import numpy as np


class Appended:
    """A ``.npy`` file to which rows are appended until ``close``; ``n_rows`` so far. Its header says zero rows before.

    ``shape`` is that of one row. The data begin at a multiple of 64 bytes, so that the file can be mapped.
    """

    def __init__(self, path: Path, dtype: np.dtype | type, shape: tuple[int, ...] = ()) -> None:
        self.dtype = np.dtype(dtype)
        if self.dtype.hasobject:
            raise ValueError(f"{path}: objects cannot be mapped; expected a dtype of fixed size, found {self.dtype}")
        self.shape = shape
        self.n_rows = 0
        self._file = path.open("wb", buffering=1 << 20)
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
