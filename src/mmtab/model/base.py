"""The base: a convex model of a row, fitted before anything else learns, which the fusion model completes."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from mmtab.features.backbones import Backbones
from mmtab.features.batches import LexicalBatch, RowBatch, TensorTable, is_known
from mmtab.features.unseen import ON_VALID
from mmtab.model.inputs import RowInputs
from mmtab.model.nearness import Nearness
from mmtab.model.row_trees import RowTrees
from mmtab.model.solvers import Problem, Solver
from mmtab.utils.cache import Store

N_DIRECTIONS = 32


class LinearBase(RowInputs):
    """Two linear models: on the vectors of frozen networks, and on words and parts of words; each with numbers by rank
    and categories one-hot beside them. Of classes they are multinomial logistic regressions, and the base gives the
    mean of their log-probabilities; of a number ridge regressions, which read nearness to rows of train besides, and it
    gives the mean of what they predict. Boosted trees have a part in it where they help, see ``RowTrees``.

    ``fit`` chooses each penalty by the loss on valid. The fusion model is trained on what the base says of rows
    that it was not fitted to (Wolpert, "Stacked Generalization", 1992), so it learns what the base leaves open.

    n_classes  k; None: the label is a number, and k is 1
    n_numeric  columns of numbers
    n_ids      ids of each categorical column
    n_texts    columns of text
    n_images   columns of pictures
    backbones  what makes vectors of text and pictures; only frozen layers are read
    n_ngrams   of the lexicon
    n_folds    parts of train, of which each is predicted by a fit to the others
    n_near     rows of train at most, to which rows are compared where the label is a number
    n_rounds   of boosting at most; None: there are no trees
    length     of vectors, as ``RowInputs`` has it; None: 1 where the label is a number, else 3
    """

    def __init__(
        self,
        n_classes: int | None,
        n_numeric: int,
        n_ids: Sequence[int],
        n_texts: int,
        n_images: int,
        backbones: Backbones,
        n_ngrams: int,
        n_folds: int = 5,
        n_near: int = 2000,
        n_rounds: int | None = None,
        length: float | None = 3.0,
    ) -> None:
        default = 1.0 if n_classes is None else 3.0
        super().__init__(n_ids, n_texts, n_images, backbones, default if length is None else length)
        self.n_folds, n_outputs = n_folds, n_classes or 1
        self.near = Nearness(n_near, n_numeric, len(self.n_ids)) if n_classes is None else None
        n_dense = self.n_texts + self.n_images + 2 * n_numeric + (n_near if self.near else 0)
        n_inputs = {"vectors": len(self.mean), "ngrams": n_ngrams}
        self.parts = nn.ModuleDict(
            {name: _Part(n, n_dense, sum(self.n_ids), n_outputs) for name, n in n_inputs.items() if n}
        )
        if not self.parts:
            self.parts["vectors"] = _Part(0, n_dense, sum(self.n_ids), n_outputs)
        self.trees = None
        if n_rounds and n_numeric + len(self.n_ids):
            n_directions = 0 if n_classes is None else N_DIRECTIONS
            self.trees = RowTrees(n_outputs, len(self.mean), len(self.n_ids), n_directions, n_rounds)
        self.requires_grad_(False)

    def forward(self, table: TensorTable) -> Float[Tensor, "b k"]:
        with torch.autocast(self.mean.device.type, enabled=False):
            ids, raw = self.ids(table), self.raw_vectors(table)
            vectors, plain = self.inputs(raw, table.numeric)
            dense = plain
            if self.near is not None:
                dense = torch.cat([plain, self.near(table.numeric, ids - self.offset)], 1)
            first: dict[str, Any] = {"vectors": vectors, "ngrams": table.lexical}
            output = torch.stack([self._output(part(first[name], dense, ids)) for name, part in self.parts.items()])
            if self.trees is None:
                return output.mean(0)
            of_trees = self._output(self.trees(vectors, plain, ids - self.offset))
            return torch.lerp(output.mean(0), of_trees, self.trees.weight)

    def _output(self, scores: Float[Tensor, "b k"]) -> Float[Tensor, "b k"]:
        return scores.log_softmax(1) if self.near is None else scores

    # --- fitting -----------------------------------------------------------------------------------------------------

    def fit(
        self,
        train: Iterable[RowBatch],
        valid: Iterable[RowBatch],
        unseen: np.ndarray,
        solvers: Sequence[Solver],
        seed: int,
        store: Store,
    ) -> tuple[np.ndarray, int]:
        """Returns what the base says of the rows of train, [n, k], of each by a fit to other rows; and the number of
        the solver that it was fitted by.

        train, valid  all their rows, in order
        unseen        [c_cat] the share of a column's categories that train never had; a fit that leans on a column
                      which is mostly so is of no use elsewhere, and gets none of it
        solvers       of which the one with the least loss on valid is taken
        seed          of the folds
        store         keeps each part's fit, for runs that differ elsewhere
        """
        from sklearn.exceptions import ConvergenceWarning

        self.to_network()
        rows, valid_rows = self._read(train), self._read(valid)
        self.standardise(rows.raw)
        kept, known = np.flatnonzero(unseen <= ON_VALID), is_known(valid_rows.label)
        whitening = np.zeros((0, 0), np.float32)
        if self.near is not None:
            whitening = self.near.fit(rows.numeric, torch.from_numpy(rows.ids).to(self.mean.device) - self.offset, kept)
        matrices = {
            name: [self._matrix(name, some, kept, whitening) for some in (rows, valid_rows)] for name in self.parts
        }
        folds = self._folds(rows, unseen, kept, seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            losses, solved = list[float](), list[dict[str, tuple[Problem, Any]]]()
            for solver in solvers:
                problems = {
                    name: Problem(solver, solver.penalties[name], x, rows.label, x_valid, valid_rows.label)
                    for name, (x, x_valid) in matrices.items()
                }
                solved.append({name: (problem, problem.solve(store)) for name, problem in problems.items()})
                output = np.mean([fitted["output"] for _, fitted in solved[-1].values()], 0)
                losses.append(solver.loss(output[known], valid_rows.label[known]))
            best, outputs = int(np.argmin(losses)), []
            for name, (problem, fitted) in solved[best].items():
                part: Any = self.parts[name]
                part.set(self._unwhitened(part, fitted["weight"], whitening), np.array(fitted["bias"]))
                outputs.append(problem.out_of_fold(folds, float(fitted["penalty"]), store))
            said = np.mean(outputs, 0)
            if self.trees is not None:
                linear = said, np.mean([fitted["output"] for _, fitted in solved[best].values()], 0)
                parts = [self._of_trees(some) for some in (rows, valid_rows)]
                said = self.trees.fit(solvers[best], parts[0], parts[1], kept, linear, folds, seed, store)
        return said, best

    def _of_trees(self, rows: _Rows) -> tuple[Tensor, Tensor, Tensor, np.ndarray]:
        ids = torch.from_numpy(rows.ids).to(self.mean.device) - self.offset
        return *self.inputs(rows.raw, rows.numeric), ids, rows.label

    def _folds(self, rows: _Rows, unseen: np.ndarray, kept: np.ndarray, seed: int) -> np.ndarray:
        """[n] the fold of each row. Rows that share a category which valid will not have are alike, and go together."""
        n = len(rows.label)
        groups = np.arange(n)
        if len(kept) < len(unseen):
            by_category = np.unique(rows.ids[:, int(unseen.argmax())], return_inverse=True)[1]
            if np.bincount(by_category).max() * 2 <= n:  # else hardly any rows would be left to fit to
                groups = by_category
        return (np.random.default_rng(seed).permutation(groups.max() + 1) % self.n_folds)[groups]

    def _unwhitened(self, part: _Part, weight: np.ndarray, whitening: np.ndarray) -> np.ndarray:
        """Weights of nearness, from those of what ``_matrix`` has instead."""
        if self.near is None:
            return np.array(weight)
        m, start = len(whitening), part.n_first + part.n_dense - self.near.n_rows
        before, near, after = np.split(weight, [start, start + m])
        others = np.zeros((self.near.n_rows - m, weight.shape[1]), np.float32)
        return np.concatenate([before, whitening @ near, others, after])

    def _read(self, batches: Iterable[RowBatch]) -> _Rows:
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

    def _matrix(self, name: str, rows: _Rows, kept: np.ndarray, whitening: np.ndarray) -> Any:
        """[n, f] as ``_Part`` reads them, of categories only the columns ``kept``, nearness times ``whitening``; dense
        where they are few."""
        vectors, dense = (x.cpu().numpy() for x in self.inputs(rows.raw, rows.numeric))
        if self.near is not None:
            near = self.near(rows.numeric, torch.from_numpy(rows.ids).to(self.mean.device) - self.offset)
            dense = np.concatenate([dense, near[:, : len(whitening)].cpu().numpy() @ whitening], 1)
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
    label: np.ndarray  # [n]
    raw: Tensor  # [n, d] vectors
    numeric: Tensor | None  # [n, c_num]
    ids: np.ndarray  # [n, c_cat]
    ngrams: Any  # [n, n_ngrams], sparse; None where there are none


class _Part(nn.Module):
    """One linear model: weights of its own inputs, of dense ones and of categories."""

    def __init__(self, n_first: int, n_dense: int, n_ids: int, n_outputs: int) -> None:
        super().__init__()
        self.n_first, self.n_dense = n_first, n_dense
        self.weight = nn.Parameter(torch.zeros(n_first + n_dense + n_ids, n_outputs))
        self.bias = nn.Parameter(torch.zeros(n_outputs))

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
        starts = torch.searchsorted(first.row, torch.arange(dense.shape[0], device=dense.device))
        return logits + F.embedding_bag(first.id, own, starts, mode="sum", per_sample_weights=first.value)
