"""The base: a convex model of a row, fitted before anything else learns, whose logits the fusion model completes."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from mmtab.data.digests import digest_of
from mmtab.features.backbones import Backbones
from mmtab.features.batches import KWayBatch, LexicalBatch, TensorTable
from mmtab.features.unseen import ON_VALID
from mmtab.model.inputs import RowInputs
from mmtab.utils.cache import Store
from mmtab.utils.machine import usable_cores

PENALTIES = {"vectors": (0.03, 0.1, 0.3, 1.0, 3.0, 10.0), "ngrams": (0.3, 1.0, 3.0, 10.0)}  # C


class LinearBase(RowInputs):
    """Two multinomial logistic regressions: on the vectors of frozen networks, and on words and parts of words; each
    with numbers by rank and categories one-hot beside them. The logits are the mean of their log-probabilities.

    ``fit`` chooses each penalty by the log-loss of valid. The fusion model is trained on what the base says of rows
    that it was not fitted to (Wolpert, "Stacked Generalization", 1992), so it learns what the base leaves open.

    n_classes  k
    n_numeric  columns of numbers
    n_ids      ids of each categorical column
    n_texts    columns of text
    n_images   columns of pictures
    backbones  what makes vectors of text and pictures; only frozen layers are read
    n_ngrams   of the lexicon
    n_folds    parts of train, of which each is predicted by a fit to the others
    """

    def __init__(
        self,
        n_classes: int,
        n_numeric: int,
        n_ids: Sequence[int],
        n_texts: int,
        n_images: int,
        backbones: Backbones,
        n_ngrams: int,
        n_folds: int = 5,
    ) -> None:
        super().__init__(n_ids, n_texts, n_images, backbones)
        self.n_classes, self.n_folds = n_classes, n_folds
        n_dense = self.n_texts + self.n_images + 2 * n_numeric
        n_inputs = {"vectors": len(self.mean), "ngrams": n_ngrams}
        self.parts = nn.ModuleDict(
            {name: _Part(n, n_dense, sum(self.n_ids), n_classes) for name, n in n_inputs.items() if n}
        )
        if not self.parts:
            self.parts["vectors"] = _Part(0, n_dense, sum(self.n_ids), n_classes)
        self.requires_grad_(False)

    def forward(self, table: TensorTable) -> Float[Tensor, "b k"]:
        with torch.autocast(self.mean.device.type, enabled=False):
            (vectors, dense), ids = self.inputs(self.raw_vectors(table), table.numeric), self.ids(table)
            first: dict[str, Any] = {"vectors": vectors, "ngrams": table.lexical}
            logits = [part(first[name], dense, ids) for name, part in self.parts.items()]
            return torch.stack([z.log_softmax(1) for z in logits]).mean(0)

    # --- fitting -----------------------------------------------------------------------------------------------------

    def fit(
        self, train: Iterable[KWayBatch], valid: Iterable[KWayBatch], unseen: np.ndarray, seed: int, store: Store
    ) -> np.ndarray:
        """Returns [n, k] log-probabilities of the rows of train, each by a fit to other rows.

        train, valid  all their rows, in order
        unseen        [c_cat] the share of a column's categories that train never had; a fit that leans on a column
                      which is mostly so is of no use elsewhere, and gets none of it
        seed          of the folds
        store         keeps each part's fit, for runs that differ elsewhere
        """
        from sklearn.exceptions import ConvergenceWarning

        self.to_network()
        rows, valid_rows = self._read(train), self._read(valid)
        self.standardise(rows.raw)
        y, kept = rows.label, np.flatnonzero(unseen <= ON_VALID)
        groups = np.arange(len(y))
        if len(kept) < len(unseen):  # rows that share such a category are alike, and will not be at hand either
            by_category = np.unique(rows.ids[:, int(unseen.argmax())], return_inverse=True)[1]
            if np.bincount(by_category).max() * 2 <= len(y):  # else hardly any rows would be left to fit to
                groups = by_category
        folds = (np.random.default_rng(seed).permutation(groups.max() + 1) % self.n_folds)[groups]
        logs = []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            for name, module in self.parts.items():
                part: Any = module
                x, x_valid = (self._matrix(name, some, kept) for some in (rows, valid_rows))
                problem = _Problem(x, y, x_valid, valid_rows.label, folds, self.n_classes, PENALTIES[name])
                fitted = store.arrays("base", problem.key, problem.solve)
                part.set(np.array(fitted["weights"]), np.array(fitted["bias"]))
                logs.append(fitted["out_of_fold"])
        return np.mean(logs, 0)

    def _read(self, batches: Iterable[KWayBatch]) -> _Rows:
        """What the base reads of rows, without the texts and pictures that it was made from."""
        labels, raw, numeric, ids, ngrams = [], [], [], [], []
        for batch in batches:
            table = batch.table.to(self.mean.device)
            labels.append(batch.label)
            raw.append(self.raw_vectors(table))
            ids.append(self.ids(table).cpu())
            if table.numeric is not None:
                numeric.append(table.numeric)
            if "ngrams" in self.parts and (lexical := batch.table.lexical) is not None:
                cells = lexical.value.numpy(), (lexical.row.numpy(), lexical.id.numpy())
                shape = (table.n_rows, self.parts["ngrams"].n_first)
                ngrams.append(sp.csr_array(cells, shape=shape, dtype=np.float32))
        return _Rows(
            torch.cat(labels).numpy(),
            torch.cat(raw),
            torch.cat(numeric) if numeric else None,
            torch.cat(ids).numpy(),
            sp.vstack(ngrams, "csr") if ngrams else None,
        )

    def _matrix(self, name: str, rows: _Rows, kept: np.ndarray) -> Any:
        """[n, f] as ``_Part`` reads them, of categories only the columns ``kept``; dense where they are few."""
        vectors, dense = (x.cpu().numpy() for x in self.inputs(rows.raw, rows.numeric))
        ids, (n, c) = rows.ids[:, kept], (len(rows.ids), len(kept))
        one_hot = sp.csr_array(
            (np.ones(n * c, np.float32), ids.ravel(), np.arange(n + 1) * c), shape=(n, sum(self.n_ids))
        )
        if name == "vectors" and sum(self.n_ids) < 2_000:
            return np.concatenate([vectors, dense, one_hot.toarray()], 1)
        first = sp.csr_array(vectors) if name == "vectors" else rows.ngrams
        return sp.csr_array(sp.hstack([first, sp.csr_array(dense), one_hot], "csr", np.float32))


@dataclass(frozen=True)
class _Rows:
    label: np.ndarray  # [n], -1 unknown
    raw: Tensor  # [n, d] vectors
    numeric: Tensor | None  # [n, c_num]
    ids: np.ndarray  # [n, c_cat]
    ngrams: Any  # [n, n_ngrams], sparse; None where there are none


@dataclass(frozen=True)
class _Problem:
    """What a part is fitted to."""

    x: Any  # [n, f], dense or sparse
    y: np.ndarray  # [n]
    x_valid: Any  # [m, f]
    y_valid: np.ndarray  # [m], -1 unknown
    folds: np.ndarray  # [n]
    n_classes: int
    penalties: Sequence[float]

    @property
    def key(self) -> dict[str, Any]:
        arrays = [*_arrays(self.x), self.y, *_arrays(self.x_valid), self.y_valid, self.folds]
        return {"arrays": list(map(digest_of, arrays)), "k": self.n_classes, "penalties": list(self.penalties)}

    def solve(self, _: object) -> dict[str, np.ndarray]:
        k = self.n_classes
        penalty, weights, bias = _choose(self.x, self.y, self.x_valid, self.y_valid, k, self.penalties)
        out_of_fold = _out_of_fold(self.x, self.y, self.folds, k, penalty)
        return {"weights": weights.astype(np.float32), "bias": bias.astype(np.float32), "out_of_fold": out_of_fold}


def _arrays(x: Any) -> list[np.ndarray]:
    return [x.data, x.indices, x.indptr] if sp.issparse(x) else [x]


class _Part(nn.Module):
    """One logistic regression: weights of its own inputs, of dense ones and of categories."""

    def __init__(self, n_first: int, n_dense: int, n_ids: int, n_classes: int) -> None:
        super().__init__()
        self.n_first, self.n_dense = n_first, n_dense
        self.weight = nn.Parameter(torch.zeros(n_first + n_dense + n_ids, n_classes))
        self.bias = nn.Parameter(torch.zeros(n_classes))

    def set(self, weight: np.ndarray, bias: np.ndarray) -> None:
        self.weight.data.copy_(torch.from_numpy(weight))
        self.bias.data.copy_(torch.from_numpy(bias))

    def forward(self, first: Tensor | LexicalBatch | None, dense: Tensor, ids: Tensor) -> Tensor:
        n_ids = len(self.weight) - self.n_first - self.n_dense
        own, middle, last = self.weight.split([self.n_first, self.n_dense, n_ids])
        logits = dense @ middle + self.bias
        if ids.shape[1]:
            logits = logits + F.embedding_bag(ids, last, mode="sum")
        if isinstance(first, Tensor):
            return logits + first @ own
        if first is None:
            return logits
        starts = torch.searchsorted(first.row, torch.arange(len(dense), device=dense.device))
        return logits + F.embedding_bag(first.id, own, starts, mode="sum", per_sample_weights=first.value)


def _fit(x: Any, y: np.ndarray, k: int, penalty: float) -> tuple[np.ndarray, np.ndarray]:
    """Weights [f, k] and bias [k] of the classes 0 … k-1; a class that ``y`` lacks is very unlikely."""
    from sklearn.linear_model import LogisticRegression

    classes = np.unique(y)
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


def _choose(
    x: Any, y: np.ndarray, x_valid: Any, y_valid: np.ndarray, k: int, penalties: Sequence[float]
) -> tuple[float, np.ndarray, np.ndarray]:
    """The penalty with the least log-loss on valid, with its fit."""
    known = y_valid >= 0
    best: tuple[float, float, np.ndarray, np.ndarray] | None = None
    for penalty in penalties:
        w, b = _fit(x, y, k, penalty)
        log = _log_softmax(x_valid[known] @ w + b)
        loss = -float(log[np.arange(len(log)), y_valid[known]].mean())
        if best is not None and loss >= best[0]:
            break
        best = loss, penalty, w, b
    assert best is not None
    return best[1:]


def _out_of_fold(x: Any, y: np.ndarray, folds: np.ndarray, k: int, penalty: float) -> np.ndarray:
    """[n, k] log-probabilities of each fold by a fit to the others, several at a time."""
    log = np.zeros((len(y), k), np.float32)

    def predict(fold: int) -> None:
        inside, rest = folds == fold, folds != fold
        w, b = _fit(x[rest], y[rest], k, penalty)
        log[inside] = _log_softmax(x[inside] @ w + b)

    with ThreadPoolExecutor(usable_cores()) as pool:  # what takes time lets other threads run
        list(pool.map(predict, np.unique(folds).tolist()))
    return log


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(1, keepdims=True)
    return (shifted - np.log(np.exp(shifted).sum(1, keepdims=True))).astype(np.float32)
