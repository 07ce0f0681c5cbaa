"""Batches of rows and of pairs: slices of an encoded table, of rows of similar length, as a DataLoader draws them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from mmtab.config.types import AugmentConfig
from mmtab.features.batches import PairBatch, RowBatch, Rows, TensorTable
from mmtab.features.encoded import EncodedTable, stack_columns, without_cells
from mmtab.features.preprocess import UNSEEN
from mmtab.utils import distributed

CHUNK = 32  # batches whose rows are sorted by length together


def _batch_rng(seed: int, places: Sequence[int]) -> np.random.Generator:
    """Random numbers by what is in a batch, so that it does not matter which process draws it, or what it drew
    before."""
    return np.random.default_rng((seed, *places))


class RowBatches(Dataset[RowBatch]):
    """Batches of rows, all of the table's or those numbered ``chosen``. ``labels`` [n_rows] int64, -1 unknown,
    or float64, NaN unknown.

    In training, further: ``base`` [n_rows, k], logits that the model's base has for rows that it was not fitted to; and
    ``unseen`` [c_cat], the probability that a category of a column is shown as one that train never had, drawn by
    ``seed``."""

    def __init__(
        self,
        table: EncodedTable,
        labels: np.ndarray,
        chosen: np.ndarray | None = None,
        *,
        base: np.ndarray | None = None,
        unseen: np.ndarray | None = None,
        seed: int = 0,
    ) -> None:
        self.table, self.labels, self.base, self.unseen, self.seed = table, labels, base, unseen, seed
        self.chosen = np.arange(table.n_rows) if chosen is None else chosen
        self.lengths = table.text_lengths[self.chosen]

    def __len__(self) -> int:
        return len(self.chosen)

    def without(self, missing: dict[str, np.ndarray]) -> RowBatches:
        """As if cells were missing; see EncodedTable."""
        return RowBatches(self.table.without(missing), self.labels, self.chosen)

    def __getitems__(self, places: list[int]) -> RowBatch:
        chosen = self.chosen[places]
        row, label = torch.from_numpy(chosen), torch.from_numpy(self.labels[chosen])
        base = None if self.base is None else torch.from_numpy(self.base[chosen])
        table = self.table.rows(chosen, lexical=base is None)
        if self.unseen is not None and table.categorical is not None:
            rng = _batch_rng(self.seed, places)
            hidden = torch.from_numpy(rng.random(table.categorical.shape) < self.unseen)
            table = replace(
                table, categorical=table.categorical.masked_fill(hidden & (table.categorical > UNSEEN), UNSEEN)
            )
        return RowBatch(table, row, label, base)

    def in_order(self, size: int = 1024) -> Iterator[RowBatch]:
        """All rows, in their order."""
        for start in range(0, len(self), size):
            yield self.__getitems__(list(range(start, min(start + size, len(self)))))


class PairBatches(Dataset[PairBatch]):
    """Batches of pairs of a table's rows.

    left, right  [n] row numbers
    labels       [n, r] int64, -1 unknown
    similarity   [n, f] float32 similarity features, scaled; None where the model reads none
    owners       [f] the column of each similarity feature
    augment      in training: cells go missing, and sequences of two rows are varied and begin with either row;
                 otherwise they begin with the row whose content comes first, so that no score depends on which row is
                 called left
    n_mined      places that follow the pairs given, for non-matches that are mined while the model learns
    seed         of the augmentation
    """

    def __init__(
        self,
        table: EncodedTable,
        left: np.ndarray,
        right: np.ndarray,
        labels: np.ndarray,
        similarity: np.ndarray | None,
        *,
        owners: Sequence[str] | np.ndarray = (),
        augment: AugmentConfig | None = None,
        n_mined: int = 0,
        seed: int = 0,
    ) -> None:
        self.table, self.left, self.right, self.labels, self.similarity = table, left, right, labels, similarity
        self.owners, self.augment, self.n_mined, self.seed = np.array(owners, object), augment, n_mined, seed
        self._encoded: tuple[Rows, np.ndarray] | None = None
        if n_mined:  # until some are mined, more of the pairs given
            again = np.resize(np.random.default_rng(seed).permutation(len(left)), n_mined)
            self._set_mined(
                left[again], right[again], labels[again], None if similarity is None else similarity[again], 0
            )

    def use_encoded(self, rows: Rows | None, places: np.ndarray | None = None) -> None:
        """From now on batches hold rows that are encoded already; ``places`` [n_rows]: where each row of the table is
        among ``rows``. None: rows are encoded with each batch."""
        self._encoded = None if rows is None or places is None else (rows, places)

    def mined(self, left: np.ndarray, right: np.ndarray, similarity: np.ndarray | None) -> None:
        """Fill the places for mined non-matches, repeating them where there are fewer."""
        if self.n_mined and len(left):
            places = np.resize(np.arange(len(left)), self.n_mined)
            labels = np.zeros((self.n_mined, self.labels.shape[1]), np.int64)
            self._set_mined(left[places], right[places], labels, None if similarity is None else similarity[places])

    def some(self, chosen: np.ndarray) -> PairBatches:
        """Those numbered ``chosen``, as they are."""
        similarity = None if self.similarity is None else self.similarity[chosen]
        return PairBatches(
            self.table, self.left[chosen], self.right[chosen], self.labels[chosen], similarity, owners=self.owners
        )

    def with_similarity(self, similarity: np.ndarray) -> PairBatches:
        """The same pairs with other similarity features."""
        return PairBatches(self.table, self.left, self.right, self.labels, similarity, owners=self.owners)

    def without(self, missing: dict[str, np.ndarray]) -> PairBatches:
        """As if cells of rows were missing; see EncodedTable. Similarity features of several columns at once stay as
        they are."""
        similarity = self._similarity_without(self.similarity, missing, self.left, self.right)
        table = self.table.without(missing)
        return PairBatches(table, self.left, self.right, self.labels, similarity, owners=self.owners)

    def _similarity_without(
        self, similarity: np.ndarray | None, missing: dict[str, np.ndarray], left: np.ndarray, right: np.ndarray
    ) -> np.ndarray | None:
        """Features are missing where a cell of either side is."""
        if similarity is None or not missing:
            return similarity
        lost = stack_columns(missing, self.owners, len(next(iter(missing.values()))))
        return np.where(lost[left] | lost[right], np.float32(np.nan), similarity) if len(lost) else similarity

    def state_dict(self) -> dict[str, Any]:
        """The mined pairs of now, as tensors."""
        n = len(self.left) - self.n_mined
        state = {"left": self.left[n:], "right": self.right[n:], "labels": self.labels[n:]}
        if self.similarity is not None:
            state["comparison"] = self.similarity[n:]
        return {name: torch.from_numpy(np.ascontiguousarray(x)) for name, x in state.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        arrays = {name: x.numpy() for name, x in state.items()}
        self._set_mined(arrays["left"], arrays["right"], arrays["labels"], arrays.get("comparison"))

    def _set_mined(
        self,
        left: np.ndarray,
        right: np.ndarray,
        labels: np.ndarray,
        similarity: np.ndarray | None,
        n_replaced: int | None = None,
    ) -> None:
        """Replace the last ``n_replaced`` pairs, by default those mined before."""
        n = len(self.left) - (self.n_mined if n_replaced is None else n_replaced)
        self.left, self.right = np.concatenate([self.left[:n], left]), np.concatenate([self.right[:n], right])
        self.labels = np.concatenate([self.labels[:n], labels])
        if self.similarity is not None and similarity is not None:
            self.similarity = np.concatenate([self.similarity[:n], similarity])

    @property
    def lengths(self) -> np.ndarray:
        """[n] tokens a pair."""
        lengths = self.table.text_lengths
        return lengths[self.left] + lengths[self.right]

    def __len__(self) -> int:
        return len(self.left)

    def __getitems__(self, pairs: list[int]) -> PairBatch:
        chosen, b = np.asarray(pairs), len(pairs)
        left, right = self.left[chosen], self.right[chosen]
        rows, places = np.unique(np.concatenate([left, right]), return_inverse=True)
        encoded = None if self._encoded is None else self._encoded[0][torch.from_numpy(self._encoded[1][rows])]
        table = self.table.rows(rows) if encoded is None else TensorTable(len(rows))
        similarity = None if self.similarity is None else self.similarity[chosen]
        rng = None
        if self.augment is not None:
            rng = _batch_rng(self.seed, pairs)
            if self.augment.cell_drop > 0:
                names = list(dict.fromkeys(name for names in self.table.columns.values() for name in names))
                missing = dict(zip(names, rng.random((len(names), len(rows))) < self.augment.cell_drop, strict=True))
                table = without_cells(table, self.table.columns, missing)
                similarity = self._similarity_without(similarity, missing, places[:b], places[b:])
        cross = None
        if self.table.cross is not None:
            ends = self.table.cross.ordered(left, right, rng)
            cross = self.table.cross.double(*ends, self.augment, rng)
        return PairBatch(
            table=table,
            left=torch.from_numpy(places[:b]),
            right=torch.from_numpy(places[b:]),
            row=torch.from_numpy(chosen),
            label=torch.from_numpy(self.labels[chosen]),
            similarity=None if similarity is None else torch.from_numpy(similarity),
            cross=cross,
            rows=encoded,
        )


class LengthBatches(Sampler[list[int]]):
    """Batches of rows of similar length, to pad little. Shuffled: rows are dealt into chunks at random each epoch,
    sorted within a chunk, and the batches shuffled again; otherwise simply sorted, the longest first.

    Several processes share the same batches. Shuffled, each takes its part of the rows of every batch, so that a step
    is what it is in one process (of a batch with fewer rows than processes, some rows come twice). Otherwise whole
    batches are dealt out, so that each row is scored as in one process. As all processes have to do the same number of
    them, the first batches may come twice; ``tasks.gather`` takes each row once."""

    def __init__(self, rows: RowBatches | PairBatches, batch_size: int, shuffle: bool, seed: int = 0) -> None:
        self.rows, self.batch_size, self.shuffle, self.seed = rows, batch_size, shuffle, seed
        self.start(0)

    def start(self, epoch: int, first: int = 0) -> None:
        """Where to go on: the next epoch, and the first of its batches."""
        self.epoch, self.first = epoch, first

    def __len__(self) -> int:
        n = -(-len(self.rows) // self.batch_size)
        return n if self.shuffle else -(-n // distributed.rank()[1])

    def __iter__(self) -> Iterator[list[int]]:
        (rank, n_ranks), lengths, n = distributed.rank(), self.rows.lengths, self.batch_size
        starts, first = np.arange(0, len(lengths), n), self.first
        if self.shuffle:
            rng = np.random.default_rng((self.seed, self.epoch))
            self.start(self.epoch + 1)
            order = rng.permutation(len(lengths))
            for start in range(0, len(order), n * CHUNK):
                chunk = order[start : start + n * CHUNK]
                order[start : start + n * CHUNK] = chunk[np.argsort(-lengths[chunk], kind="stable")]
            for start in rng.permutation(starts)[first:]:
                batch = order[start : start + n]
                yield np.resize(batch, max(len(batch), n_ranks))[rank::n_ranks].tolist()
        else:
            order = np.argsort(-lengths, kind="stable")
            for start in np.resize(starts, len(self) * n_ranks)[rank::n_ranks]:
                yield order[start : start + n].tolist()


def loader(
    batches: RowBatches | PairBatches, batch_size: int, *, shuffle: bool, seed: int = 0, n_workers: int = 0
) -> DataLoader[Any]:
    """Batches come made; the loader only draws them, and pins them where a GPU waits."""
    return DataLoader(
        batches,
        batch_sampler=LengthBatches(batches, batch_size, shuffle, seed),
        collate_fn=lambda batch: batch,
        num_workers=n_workers,
        persistent_workers=n_workers > 0 and getattr(batches, "n_mined", 0) == 0,  # else they would keep old pairs
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator().manual_seed(seed),  # else the loader draws from the model's random numbers
    )
