"""How near rows are to rows of train, in numbers and categories: what a linear model needs to be one with a kernel."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

N_COMMON = 30  # categories of a column, the commonest, that are compared; the others are all alike
CATEGORY_DISTANCE = 1.4  # of two categories, where numbers by rank are from -1 to 1
LENGTH = 3.0  # of what is read of nearness, beside ones and zeros of categories
WIDTH = 0.5  # of the median distance between rows: how far rows are apart of which one is near by 1/e
LEAST = 1e-3  # of the eigenvalues of nearness that count


class Nearness(nn.Module):
    """A Laplace kernel of rows and of some rows of train, which stand for all of them (Williams and Seeger, "Using the
    Nyström Method to Speed Up Kernel Machines", 2000). Rows that differ in one column are near, so that a function of
    several columns at once is learned from few rows.

    n_rows     rows of train at most
    n_numeric  columns of numbers
    n_columns  columns of categories
    """

    numbers: Tensor
    categories: Tensor
    weights: Tensor
    width: Tensor

    def __init__(self, n_rows: int, n_numeric: int, n_columns: int) -> None:
        super().__init__()
        self.n_rows = n_rows
        self.register_buffer("numbers", torch.zeros(n_rows, n_numeric))
        self.register_buffer("categories", torch.full((n_rows, n_columns), -1))
        self.register_buffer("weights", torch.ones(n_columns))
        self.register_buffer("width", torch.ones(()))

    def forward(self, numeric: Float[Tensor, "b c"] | None, ids: Int[Tensor, "b c2"]) -> Float[Tensor, "b n"]:
        """From 0 to 1 (the same); ``ids``: of the categories of each column."""
        return (-self._distances(numeric, ids) / self.width).exp()

    def _distances(self, numeric: Float[Tensor, "b c"] | None, ids: Int[Tensor, "b c2"]) -> Float[Tensor, "b n"]:
        distance = torch.zeros(ids.shape[0], self.n_rows, device=ids.device)
        if numeric is not None:
            distance = torch.cdist(numeric.nan_to_num(0.0), self.numbers, p=1)
        for column, kept, weight in zip(ids.clamp(max=N_COMMON).T, self.categories.T, self.weights, strict=True):
            distance = distance + weight * (column[:, None] != kept)
        return distance

    def fit(
        self, numeric: Float[Tensor, "n c"] | None, ids: Int[Tensor, "n c2"], kept: np.ndarray
    ) -> Float[np.ndarray, "m m"]:
        """Keep some of these rows of train. ``kept``: the columns of categories that count. Returns what makes inputs
        of nearness to them of which products are nearness again, as a ridge regression with the kernel has them."""
        chosen = np.sort(np.random.default_rng(0).permutation(len(ids))[: self.n_rows])
        m, numeric, ids = len(chosen), None if numeric is None else numeric[chosen], ids[chosen]
        if numeric is not None:
            self.numbers[:m] = numeric.nan_to_num(0.0)
        self.categories[:m] = ids.clamp(max=N_COMMON)
        self.weights.zero_()[torch.from_numpy(kept)] = CATEGORY_DISTANCE
        distances = self._distances(numeric, ids)[:, :m]
        self.width.copy_((WIDTH * distances.median()).clamp(min=LEAST))
        values, vectors = np.linalg.eigh((-distances / self.width).exp().double().cpu().numpy())
        return (LENGTH * vectors / np.sqrt(values.clip(LEAST))).astype(np.float32)
