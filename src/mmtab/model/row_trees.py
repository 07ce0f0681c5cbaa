"""The part of a base that is no sum of columns: boosted trees on numbers, categories and what vectors say first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from mmtab.data.digests import digest_of
from mmtab.features.batches import is_known
from mmtab.model.solvers import Solver, out_of_fold
from mmtab.model.trees import COMMON, N_LEAVES, Forest, boosted, forest_arrays
from mmtab.utils.cache import Arrays, Store

PATIENCE = 30
N_DECOMPOSED = 4_000  # rows whose vectors tell the principal directions
MAX_LABELS = 500_000  # rows of train times outputs; of more it would take many minutes
WEIGHTS = (0.0, 0.25, 0.5, 0.75)  # of the trees, of which valid chooses
BOOSTING: dict[str, Any] = COMMON | {"num_leaves": N_LEAVES, "feature_fraction": 0.5, "lambda_l2": 5.0}


class RowTrees(nn.Module):
    """Trees on dense inputs, categories by number and principal directions of vectors, none of which is scaled.

    ``weight`` [] is their part in what a base says: 0 where they add nothing to the linear parts on valid, else that
    with the least loss on valid and, by fits to other rows, on train.

    n_outputs     o
    n_vectors     d, width of all vectors of a row
    n_columns     c, of categories
    n_directions  of the vectors that they read, which for numbers as labels only added noise
    """

    directions: Tensor
    reads: Tensor
    weight: Tensor

    def __init__(self, n_outputs: int, n_vectors: int, n_columns: int, n_directions: int, n_rounds: int) -> None:
        super().__init__()
        self.forest, self.n_outputs, self.n_rounds = Forest(n_outputs, n_rounds), n_outputs, n_rounds
        self.register_buffer("directions", torch.zeros(n_vectors, min(n_directions, n_vectors)))
        self.register_buffer("reads", torch.zeros(n_columns, dtype=torch.bool))
        self.register_buffer("weight", torch.zeros(()))

    def forward(
        self, vectors: Float[Tensor, "b d"], dense: Float[Tensor, "b m"], ids: Int[Tensor, "b c"]
    ) -> Float[Tensor, "b o"]:
        return self.forest(self._features(vectors, dense, ids))

    def _features(
        self, vectors: Float[Tensor, "b d"], dense: Float[Tensor, "b m"], ids: Int[Tensor, "b c"]
    ) -> Float[Tensor, "b f"]:
        return torch.cat([dense, vectors @ self.directions, ids.float() * self.reads], 1)

    # --- fitting -----------------------------------------------------------------------------------------------------

    def fit(
        self,
        solver: Solver,
        train: tuple[Tensor, Tensor, Tensor, np.ndarray],
        valid: tuple[Tensor, Tensor, Tensor, np.ndarray],
        kept: np.ndarray,
        linear: tuple[np.ndarray, np.ndarray],
        folds: np.ndarray,
        seed: int,
        store: Store,
    ) -> np.ndarray:
        """Returns what trees and linear parts say together of the rows of train, [n, o], of each by fits to other rows.

        solver        gives the loss and the scale of labels
        train, valid  vectors, dense, ids and labels of all their rows
        kept          columns of categories that count
        linear        what the linear parts say: [n, o] of train, by fits to other rows, and [m, o] of valid
        folds         [n] of train
        store         keeps the fits, for runs that differ elsewhere
        """
        if len(folds) * self.n_outputs > MAX_LABELS:
            return linear[0]
        self.directions.copy_(self._principal(train[0]))
        self.reads.zero_()[torch.from_numpy(kept)] = True
        x, x_valid = (self._features(*part[:3]).cpu().numpy() for part in (train, valid))
        problem = _Problem(solver, x, train[3], x_valid, valid[3], self.n_rounds, self.n_outputs, seed)
        fitted = store.arrays("base", problem.key, problem.solve)
        of_valid = solver.output(fitted["scores"])
        if not self._best_weight(solver, [(linear[1], of_valid, valid[3])]):
            return linear[0]
        of_others = problem.out_of_fold(folds, fitted["value"].shape[1], store)
        # Rows of train are more, so they tell better how much is too much.
        both = [(linear[0], of_others, train[3]), (linear[1], of_valid, valid[3])]
        self.weight.fill_(weight := self._best_weight(solver, both))
        if weight:
            for place in range(self.n_outputs):
                self.forest.set(place, {name: cells[place] for name, cells in fitted.items() if name != "scores"})
        return _lerp(linear[0], of_others, weight)

    def _best_weight(self, solver: Solver, parts: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> float:
        """``parts``: what linear parts and trees say of some rows, and their labels."""
        a, b, label = (np.concatenate(some) for some in zip(*parts, strict=True))
        known = is_known(label)

        def loss(weight: float) -> float:
            return solver.loss(solver.output(_lerp(a, b, weight))[known], label[known])

        return min(WEIGHTS, key=loss)

    def _principal(self, vectors: Float[Tensor, "n d"]) -> Float[Tensor, "d p"]:
        """Directions in which vectors differ most."""
        from sklearn.utils.extmath import randomized_svd

        n = self.directions.shape[1]
        if not n:
            return self.directions
        chosen = np.sort(np.random.default_rng(0).permutation(len(vectors))[:N_DECOMPOSED])
        some = vectors[torch.from_numpy(chosen).to(vectors.device)].cpu().numpy()
        found = np.zeros((n, some.shape[1]), np.float32)  # of few rows there are fewer
        directions = randomized_svd(some, min(n, len(some)), random_state=0)[2]
        found[: len(directions)] = directions
        return torch.from_numpy(np.ascontiguousarray(found.T)).to(self.directions)


def _lerp(a: np.ndarray, b: np.ndarray, weight: float) -> np.ndarray:
    return ((1 - weight) * a + weight * b).astype(np.float32)


@dataclass(frozen=True)
class _Problem:
    """What trees are fitted to; n rows of train, m of valid, f features, o outputs."""

    solver: Solver
    x: np.ndarray  # [n, f]
    y: np.ndarray  # [n]
    x_valid: np.ndarray  # [m, f]
    y_valid: np.ndarray  # [m], of some unknown
    n_rounds: int
    n_outputs: int
    seed: int

    @cached_property
    def key(self) -> dict[str, Any]:
        arrays = [digest_of(part) for part in (self.x, self.y, self.x_valid, self.y_valid)]
        settings = {"boosting": self._settings, "n_rounds": self.n_rounds, "patience": PATIENCE}
        return {"row_trees": arrays, "settings": settings} | self.solver.key

    @property
    def _settings(self) -> dict[str, Any]:
        return BOOSTING | self.solver.boosting | {"seed": self.seed}

    def solve(self, _: object) -> Arrays:
        """The number of rounds with the least loss on valid; and ``scores`` [m, o], their sums there."""
        known = is_known(self.y_valid)
        valid = self.x_valid[known], self.solver.scaled(self.y_valid[known])
        model = boosted(self._settings, (self.x, self.solver.scaled(self.y)), valid, self.n_rounds, PATIENCE)
        n_rounds = max(model.best_iteration, 1)
        return forest_arrays(model, n_rounds, self.n_outputs) | {"scores": self._scores(model, self.x_valid, n_rounds)}

    def _scores(self, model: Any, x: np.ndarray, n_rounds: int) -> np.ndarray:
        scores = model.predict(x, raw_score=True, num_iteration=n_rounds)
        return np.float32(scores).reshape(len(x), self.n_outputs)

    def out_of_fold(self, folds: np.ndarray, n_rounds: int, store: Store) -> np.ndarray:
        def predict(others: np.ndarray) -> np.ndarray:
            model = boosted(self._settings, (self.x[others], self.solver.scaled(self.y[others])), None, n_rounds)
            return self.solver.output(self._scores(model, self.x[~others], n_rounds))

        return out_of_fold(store, {"of": self.key, "n_rounds": n_rounds}, folds, predict)
