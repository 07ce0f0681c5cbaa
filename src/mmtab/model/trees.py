"""Boosted trees that are kept as arrays, and the base of a pair model, which has them of similarity features."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from mmtab.data.digests import digest_of
from mmtab.features.loader import PairBatches
from mmtab.utils.cache import Arrays, Store
from mmtab.utils.machine import usable_cores

N_LEAVES, MAX_DEPTH, N_TREES, PATIENCE = 15, 8, 300, 20
AT_ONCE = 100_000  # trees, times rows
FULL_SKILL = 0.4  # share by which log-loss on valid is lower than that of the share of matches, for the full weight
MAX_FLOAT = np.finfo(np.float32).max
# Fewer leaves of fewer features where matches are few; valid decides.
SIZES: tuple[dict[str, Any], ...] = (
    {"num_leaves": N_LEAVES, "feature_fraction": 0.5},
    {"num_leaves": 7, "feature_fraction": 0.3, "lambda_l2": 5.0},
)
COMMON: dict[str, Any] = {  # settings of all trees here
    "max_depth": MAX_DEPTH,
    "max_bin": 63,
    "min_data_in_leaf": 10,
    "deterministic": True,
    "force_row_wise": True,
    "verbosity": -1,
}
BOOSTING: dict[str, Any] = COMMON | {"objective": "binary", "learning_rate": 0.1}


class Forest(nn.Module):
    """Boosted trees (Friedman 2001; LightGBM, Ke et al. 2017), fitted elsewhere: a sum of trees for each output. They
    are kept as arrays, so they are saved, moved and read like any other weights.

    n_outputs  o
    n_rounds   trees of an output at most
    """

    feature: Tensor
    threshold: Tensor
    missing_left: Tensor
    child: Tensor
    value: Tensor
    n_trees: Tensor

    def __init__(self, n_outputs: int, n_rounds: int = N_TREES) -> None:
        super().__init__()
        shape = (n_outputs, n_rounds, 2 * N_LEAVES - 1)
        self.register_buffer("feature", torch.zeros(shape, dtype=torch.int32))
        self.register_buffer("threshold", torch.zeros(shape))
        self.register_buffer("missing_left", torch.zeros(shape, dtype=torch.bool))
        self.register_buffer("child", torch.zeros(*shape, 2, dtype=torch.int32))  # of a leaf: itself
        self.register_buffer("value", torch.zeros(shape))
        self.register_buffer("n_trees", torch.zeros(n_outputs, dtype=torch.int64))
        self._sizes = [0] * n_outputs  # n_trees, of which no forward pass has to ask a tensor

    def forward(self, features: Float[Tensor, "b f"]) -> Float[Tensor, "b o"]:
        """Sums of the values of leaves; features may be NaN."""
        x, n_outputs, n = features.float(), len(self._sizes), max(self._sizes)
        # Few rows read the trees of many outputs at once, for which calls cost more than sums
        at_once = 1 if torch.compiler.is_compiling() else max(1, AT_ONCE // max(len(x) * n, 1))
        parts = [self._sums(x, slice(o, o + at_once)) for o in range(0, n_outputs, at_once)]
        return torch.cat(parts, 1)

    def _sums(self, x: Float[Tensor, "b f"], outputs: slice) -> Float[Tensor, "b p"]:
        sizes = self._sizes[outputs]
        n = max(sizes)
        if not n:
            return x.new_zeros(x.shape[0], len(sizes))
        feature, child = self.feature[outputs, :n].long().flatten(), self.child[outputs, :n].long().flatten(0, 2)
        threshold, missing_left = self.threshold[outputs, :n].flatten(), self.missing_left[outputs, :n].flatten()
        # Of each tree the first of its nodes among those of all; a tree that is none is a leaf of value 0
        first = torch.arange(len(sizes) * n, device=x.device) * self.feature.shape[2]
        node = first.expand(x.shape[0], len(first))
        for _ in range(MAX_DEPTH):
            cell = x.gather(1, feature[node])
            left = (cell <= threshold[node]) | (cell.isnan() & missing_left[node])
            node = first + child[node, (~left).long()]
        return self.value[outputs, :n].flatten()[node].unflatten(1, (len(sizes), n)).sum(2)

    def _load_from_state_dict(self, *args: Any) -> None:
        super()._load_from_state_dict(*args)
        self._sizes = self.n_trees.tolist()

    def set(self, output: int, fitted: Arrays) -> None:
        """Take the trees of one output: arrays [n, nodes] as those of ``forest_arrays``."""
        n, n_nodes = fitted["value"].shape
        for name in ("feature", "threshold", "missing_left", "child", "value"):
            buffer = getattr(self, name)
            buffer[output].zero_()
            buffer[output, :n, :n_nodes] = torch.from_numpy(np.array(fitted[name])).to(buffer)
        self.n_trees[output] = self._sizes[output] = n


class BoostedTrees(Forest):
    """The base of a pair model: one logit a relation, of similarity features, which are the same from either side.

    ``weight`` [r] is their part in the logits of a pair model: half, and less of relations of which they say hardly
    more than how many pairs match.

    reads  [r, f] the similarity features that each relation may look at; scaled, NaN where a side is missing
    """

    reads: Tensor
    weight: Tensor

    def __init__(self, reads: Sequence[Sequence[bool]]) -> None:
        super().__init__(len(reads))
        self.register_buffer("reads", torch.tensor([list(row) for row in reads], dtype=torch.bool), persistent=False)
        self.register_buffer("weight", torch.zeros(len(reads)))

    # --- fitting -----------------------------------------------------------------------------------------------------

    def fit(self, train: PairBatches, valid: PairBatches, seed: int, store: Store) -> None:
        """Each relation by the pairs whose label is known.

        seed   of the features that trees may look at
        store  keeps each relation's fit, for runs that differ elsewhere
        """
        assert train.similarity is not None and valid.similarity is not None
        for r, reads in enumerate(self.reads.cpu().numpy()):
            known, known_valid = train.labels[:, r] >= 0, valid.labels[:, r] >= 0
            problem = _Problem(
                np.where(reads, train.similarity, 0)[known],
                train.labels[known, r],
                np.where(reads, valid.similarity, 0)[known_valid],
                valid.labels[known_valid, r],
                seed,
            )
            self._set(r, store.arrays("base", problem.key, problem.solve))

    def _set(self, r: int, fitted: Arrays) -> None:
        self.set(r, fitted)
        self.weight[r] = 0.5 * min(1.0, max(0.0, float(fitted["skill"]) / FULL_SKILL))


@dataclass(frozen=True)
class _Problem:
    """What the trees of a relation are fitted to."""

    x: np.ndarray  # [n, f]
    y: np.ndarray  # [n]
    x_valid: np.ndarray  # [m, f]
    y_valid: np.ndarray  # [m]
    seed: int

    @property
    def key(self) -> dict[str, Any]:
        arrays = [self.x, self.y, self.x_valid, self.y_valid]
        settings = {"sizes": SIZES, "boosting": BOOSTING, "n_trees": N_TREES}
        return {"trees": list(map(digest_of, arrays)), "seed": self.seed, "settings": settings}

    def solve(self, _: object) -> Arrays:
        """The size and number of trees with the least log-loss on valid."""
        best: tuple[float, Any] | None = None
        for size in SIZES:
            settings = BOOSTING | size | {"seed": self.seed}
            model = boosted(settings, (self.x, self.y), (self.x_valid, self.y_valid), N_TREES, PATIENCE)
            loss = model.best_score["valid_0"]["binary_logloss"]
            if best is None or loss < best[0]:
                best = loss, model
        assert best is not None
        loss, model = best
        prior = -float(np.log(np.where(self.y_valid == 1, self.y.mean(), 1 - self.y.mean()).clip(1e-9)).mean())
        fitted = forest_arrays(model, max(model.best_iteration, 1))
        return {name: cells[0] for name, cells in fitted.items()} | {"skill": np.array(1 - loss / prior)}


def boosted(
    settings: dict[str, Any],
    train: tuple[np.ndarray, np.ndarray],
    valid: tuple[np.ndarray, np.ndarray] | None,
    n_rounds: int,
    patience: int = 0,
) -> Any:
    """A LightGBM model of features [n, f] and labels [n]. With ``valid`` it stops once so many rounds (``patience``)
    have not lowered the loss there, and has ``best_iteration``."""
    import lightgbm

    settings = settings | {"num_threads": usable_cores()}
    data = lightgbm.Dataset(*train, params=settings)
    if valid is None:
        return lightgbm.train(settings, data, n_rounds)
    stop = lightgbm.Dataset(*valid, reference=data, params=settings)
    early = lightgbm.early_stopping(patience, verbose=False)
    return lightgbm.train(settings, data, n_rounds, [stop], callbacks=[early])


def forest_arrays(model: Any, n_rounds: int, n_outputs: int = 1) -> Arrays:
    """The first trees of a LightGBM model, node by node: arrays [o, n_rounds, nodes]."""
    trees = [list(_nodes(tree["tree_structure"])) for tree in model.dump_model(num_iteration=n_rounds)["tree_info"]]
    shape = (len(trees), 2 * N_LEAVES - 1)
    arrays: Arrays = {
        "feature": np.zeros(shape, np.int32),
        "threshold": np.zeros(shape, np.float32),
        "missing_left": np.zeros(shape, bool),
        "child": np.zeros((*shape, 2), np.int32),
        "value": np.zeros(shape, np.float32),
    }
    for t, nodes in enumerate(trees):
        for i, (node, left, right) in enumerate(nodes):
            arrays["child"][t, i] = (left, right) if "split_feature" in node else (i, i)
            if "split_feature" not in node:
                arrays["value"][t, i] = node["leaf_value"]
                continue
            arrays["feature"][t, i] = node["split_feature"]
            exact = min(node["threshold"], float(MAX_FLOAT))
            threshold = np.float32(exact)
            # The next one below, so that every float32 falls on the same side
            arrays["threshold"][t, i] = np.nextafter(threshold, -MAX_FLOAT) if threshold > exact else threshold
            # A feature that train never misses is 0 where it is missing.
            zero_left = node["threshold"] >= 0
            arrays["missing_left"][t, i] = node["default_left"] if node["missing_type"] == "NaN" else zero_left
    # A round has a tree for each output.
    return {
        name: np.ascontiguousarray(cells.reshape(-1, n_outputs, *cells.shape[1:]).swapaxes(0, 1))
        for name, cells in arrays.items()
    }


def _nodes(root: dict[str, Any]) -> Iterator[tuple[dict[str, Any], int, int]]:
    """Each node with the numbers of its children, level by level."""
    queue, n = [root], 1
    for node in queue:
        if "split_feature" in node:
            queue += [node["left_child"], node["right_child"]]
            yield node, n, n + 1
            n += 2
        else:
            yield node, 0, 0
