"""What the base of a model is fitted by: how weights are found, and how good what they say of other rows is."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import numpy as np
import scipy.sparse as sp
import torch
import torch.nn.functional as F
from torch import Tensor

from mmtab.data.digests import digest_of
from mmtab.features.batches import is_known
from mmtab.features.target import Target
from mmtab.utils.cache import Arrays, Store

PERCENT = np.linspace(0, 1, 101)
N_STEPS, BLOCK = 50, 5  # of L-BFGS at most, and after how many it is asked whether the objective still falls
N_REMEMBERED = 5  # steps by which it knows the curvature
TOLERANCE = 1e-4  # share of the objective by which a block of steps lowers it at least
# Weights are steered in units of their curvature to this power. With 0 those of rare inputs, of which there are most
# among n-grams, do not move in N_STEPS; with 1/2 those of long texts, whose n-grams go together, do not.
POWER = 0.25
Fit = tuple[np.ndarray, np.ndarray]  # weights [f, o] and bias [o]


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

    def fits(self, x: Any, y: np.ndarray, penalties: Iterable[float]) -> Iterator[Fit]:
        """One by each penalty, computed when it is asked for; it may begin at the one before."""

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
        self.key: dict[str, Any] = {"k": n_classes, "steps": N_STEPS, "tolerance": TOLERANCE, "power": POWER}
        self.boosting: dict[str, Any] = {"objective": "multiclass", "num_class": n_classes, "learning_rate": 0.1}

    def fits(self, x: Any, y: np.ndarray, penalties: Iterable[float]) -> Iterator[Fit]:
        """Minimised by L-BFGS in single precision, whose products are the costly part. A class that ``y`` lacks is
        very unlikely."""
        n, k = len(y), self.n_classes
        times, transposed_times = _times(x), _times(x.T)
        label, minus_one = torch.from_numpy(y).long()[:, None], torch.full((n, 1), -1.0)
        share = torch.from_numpy((np.bincount(y, minlength=k) + 0.5) / (n + k / 2)).float()
        parameters = torch.cat([torch.zeros(x.shape[1], k), share.log()[None]])  # weights and, last, the bias
        squares = torch.from_numpy(np.append(_mean_squares(x), 1.0)).float()
        steered, gradient = torch.zeros(2, *parameters.shape)
        steered.grad = gradient

        @torch.no_grad()
        def loss(penalty: float, unit: Tensor) -> Tensor:
            """Mean of a row; its gradient is the error of the probabilities times the inputs."""
            weight, bias = torch.mul(steered, unit, out=parameters).split([x.shape[1], 1])
            log_p = (times(weight) + bias).log_softmax(1)
            total = weight.square().sum() / 2 / penalty - log_p.gather(1, label).sum()
            error = log_p.exp_().scatter_add_(1, label, minus_one)
            gradient[:-1] = transposed_times(error).add_(weight, alpha=1 / penalty)
            gradient[-1] = error.sum(0)
            gradient.mul_(unit).div_(max(n, 1))
            return total / max(n, 1)

        for penalty in penalties:
            unit = (squares[:, None] * share * (1 - share) + 1 / penalty / max(n, 1)).pow(-POWER)
            torch.div(parameters, unit, out=steered)
            closure = functools.partial(loss, penalty, unit)
            optimiser = torch.optim.LBFGS(
                [steered],
                max_iter=BLOCK,
                max_eval=2 * BLOCK,
                tolerance_grad=0,
                tolerance_change=0,
                history_size=N_REMEMBERED,
                line_search_fn="strong_wolfe",
            )
            before = float(closure())
            for _ in range(N_STEPS // BLOCK):
                optimiser.step(closure)
                if before - (now := float(closure())) <= TOLERANCE * now:
                    break
                before = now
            yield parameters[:-1].numpy().copy(), parameters[-1].numpy().copy()

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

    def fits(self, x: Any, y: np.ndarray, penalties: Iterable[float]) -> Iterator[Fit]:
        from sklearn.linear_model import Ridge

        for penalty in penalties:
            model = Ridge(alpha=penalty, solver="sparse_cg" if sp.issparse(x) else "cholesky", tol=1e-3, max_iter=300)
            model.fit(x, self.scaled(y).astype(np.float32))
            yield np.float32(model.coef_).reshape(-1, 1), np.float32(model.intercept_).reshape(1)

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
        fits = self.solver.fits(self.x, self.y, self.penalties)
        for penalty, (weight, bias) in zip(self.penalties, fits, strict=True):
            output = self.solver.output(self.x_valid @ weight + bias)
            loss = self.solver.loss(output[known], self.y_valid[known])
            if chosen and loss >= best:
                break
            best, chosen = loss, {"weight": weight, "bias": bias, "output": output, "penalty": np.array(penalty)}
        return chosen

    def out_of_fold(self, folds: np.ndarray, penalty: float, store: Store) -> np.ndarray:
        def predict(others: np.ndarray) -> np.ndarray:
            weight, bias = next(self.solver.fits(self.x[others], self.y[others], [penalty]))
            return self.solver.output(self.x[~others] @ weight + bias)

        return out_of_fold(store, {"of": self.key, "penalty": penalty}, folds, predict)


def out_of_fold(
    store: Store, key: dict[str, Any], folds: np.ndarray, predict: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """[n, o] what fits to the other folds say of the rows of each; kept in ``store``.

    folds    [n] the fold of each row
    predict  is told which rows to fit to, [n] bool, and gives what that says of the rest
    """

    def compute(_: object) -> Arrays:
        parts = [(folds == fold, predict(folds != fold)) for fold in np.unique(folds)]
        output = np.zeros((len(folds), parts[0][1].shape[1]), np.float32)
        for rows, of_rows in parts:
            output[rows] = of_rows
        return {"output": output}

    return store.arrays("base_folds", key | {"folds": digest_of(folds)}, compute)["output"]


def _arrays(x: Any) -> list[np.ndarray]:
    return [x.data, x.indices, x.indptr] if sp.issparse(x) else [x]


def _mean_squares(x: Any) -> np.ndarray:
    """[f] of the inputs of a row."""
    return np.asarray((x.multiply(x) if sp.issparse(x) else np.square(x)).sum(0)).ravel() / max(x.shape[0], 1)


def _times(x: Any) -> Callable[[Tensor], Tensor]:
    """The product of ``x`` [n, f], dense or sparse, with weights [f, o]."""
    if not sp.issparse(x):
        return torch.from_numpy(x).matmul
    x = sp.csr_array(x)
    cells, ids, starts = (torch.from_numpy(part) for part in (x.data, x.indices, x.indptr[:-1]))
    return lambda weight: F.embedding_bag(ids, weight, starts, mode="sum", per_sample_weights=cells)
