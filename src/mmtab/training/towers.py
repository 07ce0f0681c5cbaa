"""Fitting search towers to known matches, before the pair model learns and apart from it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from mmtab.data.digests import digest_of
from mmtab.data.splits import components
from mmtab.features.encoded import EncodedTable
from mmtab.features.preprocess import MISSING
from mmtab.model.towers import SearchTowers
from mmtab.training.optim import warmup_cosine
from mmtab.utils.cache import Arrays, Store

BATCH = 500  # matches, whose other records are what each record is told apart from
STEPS = 240  # at least; more where they are no EPOCHS of the matches, up to MAX_STEPS
EPOCHS, MAX_STEPS = 12, 1_000
N_MEASURED = 12  # times that recall on valid is measured
MAX_MATCHES = 20_000  # to learn from
MAX_SEARCHED = 10_000  # records of a side among which valid partners are looked for
LR, WEIGHT_DECAY, WARMUP, TEMPERATURE = 1e-2, 0.01, 0.1, 0.15  # chosen on valid of hm_exact
CATEGORY_WEIGHT = 1.0
Ends = tuple[np.ndarray, np.ndarray]  # left and right row numbers of matches


def fit_towers(
    towers: SearchTowers, table: EncodedTable, n_left: int | None, train: Ends, valid: Ends, seed: int, store: Store
) -> None:
    """A softmax over the partners in the batch, from either side (InfoNCE, van den Oord et al. 2018), with a learned
    temperature; other known partners of a record do not count. Further, a vector has to tell the categories of the
    partner. The weights are those by which partners of valid rank best.

    n_left  rows of the left table; None: there is one table
    train   matches to learn from
    valid   matches to choose by
    seed    of weights, batches and dropout
    store   keeps the fit, for runs that differ elsewhere
    """
    towers.to_network()
    rng = np.random.default_rng(seed)
    if len(train[0]) > MAX_MATCHES:
        chosen = np.sort(rng.permutation(len(train[0]))[:MAX_MATCHES])
        train = train[0][chosen], train[1][chosen]
    everything = np.arange(table.n_rows)
    sides = [everything] * 2 if n_left is None else [everything[:n_left], everything[n_left:]]
    searched = [np.union1d(rng.permutation(side)[:MAX_SEARCHED], ends) for side, ends in zip(sides, valid, strict=True)]
    if n_left is None:
        searched = [np.union1d(*searched)] * 2
    rows = np.unique(np.concatenate([*train, *valid, *searched]))
    raw, numbers, ids = [], [], []
    with torch.no_grad():
        for part in _parts(rows):
            batch = table.rows(part, lexical=False).to(towers.mean.device)
            raw.append(towers.raw_vectors(batch))
            numbers.append(batch.numeric)
            ids.append(towers.ids(batch))
        towers.standardise(torch.cat(raw)[np.isin(rows, np.concatenate(train))])
        x = torch.cat([torch.cat(towers.inputs(*part), 1) for part in zip(raw, numbers, strict=True)])
    ends = [(np.searchsorted(rows, left), np.searchsorted(rows, right)) for left, right in (train, valid, searched)]
    fit = _Fit(towers, x, torch.cat(ids), ends[0], ends[1], ends[2], one_table=n_left is None, seed=seed)
    state = store.arrays("towers", fit.key, fit.solve)
    towers.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in state.items()})


@dataclass(frozen=True)
class _Fit:
    """What towers are fitted to; rows are numbered among those that are read."""

    towers: SearchTowers
    x: Float[Tensor, "n f"]
    ids: Int[Tensor, "n c"]
    train: Ends
    valid: Ends
    searched: Ends
    one_table: bool
    seed: int

    @property
    def key(self) -> dict[str, Any]:
        arrays = [*self.train, *self.valid, *self.searched, self.x.cpu().numpy(), self.ids.cpu().numpy()]
        learning = [LR, WEIGHT_DECAY, WARMUP, TEMPERATURE, CATEGORY_WEIGHT, BATCH, STEPS, EPOCHS, MAX_STEPS]
        return {
            "arrays": [digest_of(np.ascontiguousarray(array)) for array in arrays],
            "shapes": [list(weight.shape) for weight in self.towers.parameters()],
            "settings": [self.one_table, self.seed, self.towers.dropout, *learning, N_MEASURED],
        }

    def solve(self, _: object) -> Arrays:
        """The state of the towers by which partners of valid rank best."""
        towers, device = self.towers, self.x.device
        devices = [device] if device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            torch.manual_seed(self.seed)
            generator = torch.Generator().manual_seed(self.seed)
            for tower in towers.towers:
                tower.start(generator)  # type: ignore[operator, union-attr]
            heads = _CategoryHeads(towers).to(device)
            log_scale = nn.Parameter(torch.tensor(math.log(1 / TEMPERATURE), device=device))
            weights = [*towers.towers.parameters(), *heads.parameters()]
            towers.towers.requires_grad_(True)
            groups: list[dict[str, Any]] = [{"params": weights}, {"params": [log_scale], "weight_decay": 0.0}]
            optimizer = torch.optim.AdamW(groups, lr=LR, weight_decay=WEIGHT_DECAY)
            n_batches = math.ceil(len(self.train[0]) / BATCH)
            n_steps = min(max(STEPS, EPOCHS * n_batches), MAX_STEPS)
            schedule = warmup_cosine(optimizer, lambda: n_steps, WARMUP)
            entity = torch.from_numpy(components(len(self.x), *self.train)).to(device)
            best, state = self._log_rank(), _state(towers)
            measured = set(np.linspace(0, n_steps, N_MEASURED + 1).round().astype(int)[1:].tolist())
            step = 0
            while step < n_steps:
                for part in torch.randperm(len(self.train[0]), generator=generator).chunk(n_batches):
                    towers.train()
                    scale = log_scale.clamp(max=math.log(100)).exp()
                    loss = self._loss(part.numpy(), entity, scale, heads)
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
                    schedule.step()
                    step += 1
                    if step in measured and (rank := self._log_rank()) < best:
                        best, state = rank, _state(towers)
                    if step == n_steps:
                        break
            towers.towers.requires_grad_(False)
        return state

    def _loss(
        self, part: np.ndarray, entity: Int[Tensor, " n"], scale: Float[Tensor, ""], heads: _CategoryHeads
    ) -> Float[Tensor, ""]:
        left, right = (torch.from_numpy(side[part]).to(self.x.device) for side in self.train)
        place, loss = torch.arange(len(part), device=left.device), scale.new_zeros(())
        for i, j in zip(self.towers.members(0), self.towers.members(1), strict=True):
            a, b = (self.towers.towers[t](self.x[rows], self.ids[rows]) for t, rows in ((i, left), (j, right)))
            if self.one_table:  # each is told apart from all others, whichever end of a match they are
                vectors, rows, partner = torch.cat([a, b]), torch.cat([left, right]), torch.cat([place + len(a), place])
                loss = loss + _softmax(vectors @ vectors.T * scale, entity[rows], entity[rows], partner)
            else:
                near = a @ b.T * scale
                of_left = _softmax(near, entity[left], entity[right], place)
                loss = loss + (of_left + _softmax(near.T, entity[right], entity[left], place)) / 2
            loss = loss + CATEGORY_WEIGHT * (heads(a, self.ids[right], i) + heads(b, self.ids[left], j))
        return loss

    @torch.no_grad()
    def _log_rank(self) -> float:
        """The mean logarithm of the ranks of valid partners from either side: the area over the curve of recall by the
        logarithm of k."""
        self.towers.eval()
        sides = [self._of_side(rows, side) for side, rows in enumerate(self.valid)]
        score, ranks = (sides[0] * sides[1]).sum(1), []
        for side, rows in enumerate(reversed(self.searched)):
            others = self._of_side(rows, 1 - side)
            for part in torch.arange(len(score)).split(512):
                nearer = sides[side][part] @ others.T > score[part, None] + 1e-6
                if self.one_table:
                    nearer &= torch.from_numpy(self.valid[side][part][:, None] != rows).to(nearer.device)
                ranks.append(nearer.sum(1))
        return float(torch.cat(ranks).float().log1p().mean()) if len(score) else 0.0

    def _of_side(self, rows: np.ndarray, side: int) -> Float[Tensor, "n d"]:
        numbers = [torch.from_numpy(part).to(self.x.device) for part in _parts(rows)]
        return torch.cat([self.towers.of_side(self.x[part], self.ids[part], side) for part in numbers])


class _CategoryHeads(nn.Module):
    """From a vector to the categories of the record that it should lie near."""

    def __init__(self, towers: SearchTowers) -> None:
        super().__init__()
        self.n_ids, self.offset = towers.n_ids, towers.offset.tolist()
        self.heads = nn.ModuleList(nn.Linear(towers.d_vector, sum(self.n_ids)) for _ in towers.towers)

    def forward(self, vector: Float[Tensor, "b d"], partner: Int[Tensor, "b c"], tower: int) -> Float[Tensor, ""]:
        """The mean loss over the columns that partners have, of vectors of the tower of this number."""
        losses = []
        if self.n_ids:
            logits = self.heads[tower](vector)
            for column, (first, n) in enumerate(zip(self.offset, self.n_ids, strict=True)):
                label = partner[:, column] - first
                known = label != MISSING
                if known.any():
                    losses.append(F.cross_entropy(logits[known, first : first + n], label[known]))
        return torch.stack(losses).mean() if losses else vector.sum() * 0


def _softmax(
    near: Float[Tensor, "a b"], entity: Int[Tensor, " a"], others: Int[Tensor, " b"], partner: Int[Tensor, " a"]
) -> Float[Tensor, ""]:
    """Each should be nearest its ``partner`` among those that a chain of matches does not tie to it."""
    tied = (entity[:, None] == others).scatter(1, partner[:, None], False)
    return F.cross_entropy(near.masked_fill(tied, -torch.inf), partner)


def _state(towers: SearchTowers) -> Arrays:
    return {name: value.detach().cpu().numpy().copy() for name, value in towers.state_dict().items()}


def _parts(rows: np.ndarray, size: int = 2048) -> list[np.ndarray]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]
