"""What the base of a model is fitted by: how weights are found, and how good what they say of other rows is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import numpy as np
import scipy.sparse as sp

from mmtab.data.digests import digest_of
from mmtab.features.batches import is_known
from mmtab.features.target import Target
from mmtab.utils.cache import Store
from mmtab.utils.machine import usable_cores

PERCENT = np.linspace(0, 1, 101)


@runtime_checkable
class Solver(Protocol):
    """n rows, f inputs, o outputs. ``y`` [n]: labels as they are.

    key        what tells it from others, as plain values
    target     the scale of labels that are numbers
    penalties  by the name of a part, what to try, in an order in which the loss falls and then rises
    boosting   settings of LightGBM for trees whose sums ``output`` takes as well
    """

    key: dict[str, Any]
    penalties: Mapping[str, Sequence[float]]
    boosting: dict[str, Any]

    @property
    def target(self) -> Target | None: ...

    def fit(self, x: Any, y: np.ndarray, penalty: float) -> tuple[np.ndarray, np.ndarray]:
        """Weights [f, o] and bias [o]."""

    def scaled(self, y: np.ndarray) -> np.ndarray:
        """[n] labels as trees learn them."""

    def output(self, scores: np.ndarray) -> np.ndarray:
        """Weighted sums [n, o] -> what the base says, [n, o] float32."""

    def loss(self, output: np.ndarray, y: np.ndarray) -> float:
        """Of rows with labels."""


class Logistic:
    """Multinomial logistic regression: labels are the classes 0 … k-1, and outputs log-probabilities."""

    penalties: Mapping[str, Sequence[float]] = {  # C
        "vectors": (0.03, 0.1, 0.3, 1.0, 3.0, 10.0),
        "ngrams": (0.3, 1.0, 3.0, 10.0),
    }

    def __init__(self, n_classes: int) -> None:
        self.n_classes, self.target = n_classes, None
        self.key: dict[str, Any] = {"k": n_classes}
        self.boosting: dict[str, Any] = {"objective": "multiclass", "num_class": n_classes, "learning_rate": 0.1}

    def fit(self, x: Any, y: np.ndarray, penalty: float) -> tuple[np.ndarray, np.ndarray]:
        """A class that ``y`` lacks is very unlikely."""
        from sklearn.linear_model import LogisticRegression

        classes, k = np.unique(y), self.n_classes
        if len(classes) < 2:
            bias = np.full(k, -5, np.float32)
            bias[classes] = 0
            return np.zeros((x.shape[1], k), np.float32), bias
        model = LogisticRegression(C=penalty, max_iter=100, tol=1e-3)  # more exactness changed no log-loss by .003
        model.fit(x, y)
        w, b = model.coef_, model.intercept_
        if len(w) == 1:  # of two classes scikit-learn has the logit of the second
            w, b = np.concatenate([-w / 2, w / 2]), np.concatenate([-b / 2, b / 2])
        weight, bias = np.zeros((x.shape[1], k), np.float32), np.full(k, b.min() - 5, np.float32)
        weight[:, model.classes_], bias[model.classes_] = w.T, b
        return weight, bias

    def scaled(self, y: np.ndarray) -> np.ndarray:
        return y

    def output(self, scores: np.ndarray) -> np.ndarray:
        shifted = scores - scores.max(1, keepdims=True)
        return (shifted - np.log(np.exp(shifted).sum(1, keepdims=True))).astype(np.float32)

    def loss(self, output: np.ndarray, y: np.ndarray) -> float:
        return -float(output[np.arange(len(output)), y].mean())


class LeastSquares:
    """Ridge regression of labels on the scale of a target. The loss is the mean squared error of the labels as they
    are, so that scales can be compared."""

    penalties: Mapping[str, Sequence[float]] = {  # alpha
        "vectors": (100.0, 30.0, 10.0, 3.0, 1.0, 0.3, 0.1),
        "ngrams": (30.0, 10.0, 3.0, 1.0, 0.3),
    }

    def __init__(self, target: Target) -> None:
        self.target = target
        self.key: dict[str, Any] = {"target": target.kind}
        self.boosting: dict[str, Any] = {"objective": "regression", "learning_rate": 0.05}

    def fit(self, x: Any, y: np.ndarray, penalty: float) -> tuple[np.ndarray, np.ndarray]:
        from sklearn.linear_model import Ridge

        model = Ridge(alpha=penalty, solver="sparse_cg" if sp.issparse(x) else "cholesky", tol=1e-3, max_iter=300)
        model.fit(x, self.scaled(y).astype(np.float32))
        return np.float32(model.coef_).reshape(-1, 1), np.float32(model.intercept_).reshape(1)

    def scaled(self, y: np.ndarray) -> np.ndarray:
        return self.target.transform(y)

    def output(self, scores: np.ndarray) -> np.ndarray:
        return scores.astype(np.float32)

    def loss(self, output: np.ndarray, y: np.ndarray) -> float:
        z = output[:, 0].astype(np.float64)
        errors = np.quantile(self.target.transform(y) - z, PERCENT)
        return float(np.square(self.target.expected(z, errors) - y).mean())


@dataclass(frozen=True)
class Problem:
    """What a part is fitted to; n rows of train, m of valid, f inputs, o outputs.

    solver     how
    penalties  of which the best on valid is taken
    x          [n, f], dense or sparse
    y          [n]
    x_valid    [m, f]
    y_valid    [m], of some unknown
    """

    solver: Solver
    penalties: Sequence[float]
    x: Any
    y: np.ndarray
    x_valid: Any
    y_valid: np.ndarray

    @cached_property
    def key(self) -> dict[str, Any]:
        arrays = [*_arrays(self.x), self.y, *_arrays(self.x_valid), self.y_valid]
        return {"arrays": list(map(digest_of, arrays)), "penalties": list(self.penalties)} | self.solver.key

    def solve(self, store: Store) -> dict[str, np.ndarray]:
        """``weight`` [f, o], ``bias`` [o] and ``penalty`` [] that are best on valid, and their ``output`` there [m, o];
        kept in ``store``."""
        return store.arrays("base", self.key, lambda _: self._choose())

    def _choose(self) -> dict[str, np.ndarray]:
        known, best = is_known(self.y_valid), np.inf
        chosen: dict[str, np.ndarray] = {}
        for penalty in self.penalties:
            weight, bias = self.solver.fit(self.x, self.y, penalty)
            output = self.solver.output(self.x_valid @ weight + bias)
            loss = self.solver.loss(output[known], self.y_valid[known])
            if chosen and loss >= best:
                break
            best, chosen = loss, {"weight": weight, "bias": bias, "output": output, "penalty": np.array(penalty)}
        return chosen

    def out_of_fold(self, folds: np.ndarray, penalty: float, store: Store) -> np.ndarray:
        """[n, o] what fits to the other folds say of the rows of each; several fits at a time. ``folds`` [n]."""
        key = {"of": self.key, "folds": digest_of(folds), "penalty": penalty}
        return store.arrays("base_folds", key, lambda _: {"output": self._by_fold(folds, penalty)})["output"]

    def _by_fold(self, folds: np.ndarray, penalty: float) -> np.ndarray:
        def predict(fold: int) -> np.ndarray:
            weight, bias = self.solver.fit(self.x[folds != fold], self.y[folds != fold], penalty)
            return self.solver.output(self.x[folds == fold] @ weight + bias)

        names = np.unique(folds).tolist()
        with ThreadPoolExecutor(usable_cores()) as pool:  # what takes time lets other threads run
            parts = list(pool.map(predict, names))
        output = np.zeros((len(self.y), parts[0].shape[1]), np.float32)
        for fold, part in zip(names, parts, strict=True):
            output[folds == fold] = part
        return output


def _arrays(x: Any) -> list[np.ndarray]:
    return [x.data, x.indices, x.indptr] if sp.issparse(x) else [x]
