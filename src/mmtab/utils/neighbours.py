"""Nearest neighbours among vectors of length 1, through FAISS (Douze et al. 2024)."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np

EXACT = 20_000  # vectors up to which all are compared with all; beyond, a graph finds nearly the same in less time
N_LINKS, EFFORT = 24, 96  # of the graph


class Index:
    """Vectors to search among: [n, d] float32, of length 1.

    Up to ``EXACT`` the answer is exact; beyond, it comes from an HNSW graph (Malkov and Yashunin 2018), which is
    built and searched in time near-linear in n.
    """

    def __init__(self, vectors: np.ndarray) -> None:
        logging.getLogger("faiss.loader").setLevel(logging.WARNING)  # it tells which instructions it was built with
        import faiss

        n, d = vectors.shape
        self._index: Any
        if n <= EXACT:
            self._index = faiss.IndexFlatIP(d)
        else:  # components as float16: half the memory
            self._index = faiss.IndexHNSWSQ(d, faiss.ScalarQuantizer.QT_fp16, N_LINKS, faiss.METRIC_INNER_PRODUCT)  # type: ignore[arg-type]
            self._index.hnsw.efConstruction = self._index.hnsw.efSearch = EFFORT
            self._index.train(_contiguous(vectors[:1024]))
        for start in range(0, n, 65_536):
            self._index.add(_contiguous(vectors[start : start + 65_536]))

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The ``k`` nearest of each query: row numbers [n, k] int64 (-1: there are fewer) and cosine similarities."""
        similarity, rows = self._index.search(_contiguous(queries), min(k, self._index.ntotal))
        return rows, similarity


def _contiguous(vectors: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(vectors, np.float32)
