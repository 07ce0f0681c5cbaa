"""Batches of rows and of pairs: slices of an encoded table, of rows of similar length, as a DataLoader draws them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from mmtab.config.types import AugmentConfig
from mmtab.features.batches import KWayBatch, PairBatch, Rows, TensorTable
from mmtab.features.encoded import EncodedTable, stack_columns, without_cells
from mmtab.utils import distributed


class KWayBatches(Dataset[KWayBatch]):
    """Batches of rows, all of the table's or those numbered ``chosen``. ``labels`` [n_rows] int64, -1 unknown."""

    def __init__(self, table: EncodedTable, labels: np.ndarray, chosen: np.ndarray | None = None) -> None:
        self.table, self.labels = table, labels
        self.chosen = np.arange(table.n_rows) if chosen is None else chosen
        self.lengths = table.text_lengths[self.chosen]

    def __len__(self) -> int:
        return len(self.chosen)

    def without(self, gone: dict[str, np.ndarray]) -> KWayBatches:
        """As if cells were missing; see EncodedTable."""
        return KWayBatches(self.table.without(gone), self.labels, self.chosen)

    def __getitems__(self, places: list[int]) -> KWayBatch:
        chosen = self.chosen[places]
        return KWayBatch(self.table.rows(chosen), torch.from_numpy(chosen), torch.from_numpy(self.labels[chosen]))


class PairBatches(Dataset[PairBatch]):
    """Batches of pairs of a table's rows. ``labels`` [n, r] int64, -1 unknown; ``comparison`` [n, f] float32, whose
    features belong to the columns named in ``compared``.

    ``augment``, in training: cells go missing, and sequences of two rows are varied and begin with either row; otherwise
    they begin with the row whose content comes first, so that no score depends on which row is called left. ``n_mined``
    places follow the pairs given, for non-matches that are found while the model learns.
    """

    def __init__(
        self,
        table: EncodedTable,
        left: np.ndarray,
        right: np.ndarray,
        labels: np.ndarray,
        comparison: np.ndarray | None,
        *,
        compared: Sequence[str] | np.ndarray = (),
        augment: AugmentConfig | None = None,
        n_mined: int = 0,
        seed: int = 0,
    ) -> None:
        self.table, self.left, self.right, self.labels, self.comparison = table, left, right, labels, comparison
        self.compared, self.augment, self.seed = np.array(compared, object), augment, seed
        self.n_mined = n_mined
        self.known: tuple[Rows, np.ndarray] | None = (
            None  # encoded rows, and the place of each row of the table in them
        )
        if n_mined:  # until some are found, more of the pairs given
            again = np.resize(np.random.default_rng(seed).permutation(len(left)), n_mined)
            self._append(left[again], right[again], labels[again], None if comparison is None else comparison[again])

    def mined(self, left: np.ndarray, right: np.ndarray, comparison: np.ndarray | None) -> None:
        """Fill the places for mined non-matches, repeating them where there are fewer."""
        if not self.n_mined or not len(left):
            return
        places = np.resize(np.arange(len(left)), self.n_mined)
        self._keep_given()
        self._append(
            left[places], right[places], np.zeros((self.n_mined, self.labels.shape[1]), np.int64),
            None if comparison is None else comparison[places],
        )  # fmt: skip

    def some(self, chosen: np.ndarray) -> PairBatches:
        """Those numbered ``chosen``, as they are."""
        comparison = None if self.comparison is None else self.comparison[chosen]
        return PairBatches(self.table, self.left[chosen], self.right[chosen], self.labels[chosen], comparison, compared=self.compared)  # fmt: skip

    def without(self, gone: dict[str, np.ndarray]) -> PairBatches:
        """As if cells of rows were missing; see EncodedTable. What compares several columns at once stays as it is."""
        comparison = self.comparison
        if comparison is not None:
            comparison = self._compared_without(comparison, gone, self.left, self.right)
        return PairBatches(self.table.without(gone), self.left, self.right, self.labels, comparison, compared=self.compared)  # fmt: skip

    def _compared_without(
        self, comparison: np.ndarray, gone: dict[str, np.ndarray], left: np.ndarray, right: np.ndarray
    ) -> np.ndarray:
        """Features are missing where a cell of either side is."""
        n = len(next(iter(gone.values()))) if gone else 0
        lost = stack_columns(gone, self.compared, n)
        return np.where(lost[left] | lost[right], np.float32(np.nan), comparison) if n else comparison

    def state_dict(self) -> dict[str, Any]:
        """The mined pairs of now, as tensors."""
        n = len(self.left) - self.n_mined
        state = {"left": self.left[n:], "right": self.right[n:], "labels": self.labels[n:]}
        if self.comparison is not None:
            state["comparison"] = self.comparison[n:]
        return {name: torch.from_numpy(np.ascontiguousarray(x)) for name, x in state.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._keep_given()
        arrays = {name: x.numpy() for name, x in state.items()}
        self._append(arrays["left"], arrays["right"], arrays["labels"], arrays.get("comparison"))

    def _keep_given(self) -> None:
        n = len(self.left) - self.n_mined
        self.left, self.right, self.labels = self.left[:n], self.right[:n], self.labels[:n]
        self.comparison = None if self.comparison is None else self.comparison[:n]

    def _append(self, left: np.ndarray, right: np.ndarray, labels: np.ndarray, comparison: np.ndarray | None) -> None:
        self.left, self.right = np.concatenate([self.left, left]), np.concatenate([self.right, right])
        self.labels = np.concatenate([self.labels, labels])
        if self.comparison is not None and comparison is not None:
            self.comparison = np.concatenate([self.comparison, comparison])

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
        known = None if self.known is None else self.known[0][torch.from_numpy(self.known[1][rows])]
        table = self.table.rows(rows) if known is None else TensorTable(len(rows))
        comparison = None if self.comparison is None else self.comparison[chosen]
        rng = None
        if self.augment is not None:
            # By what is in the batch, so that it does not matter which process draws it, or what it drew before.
            rng = np.random.default_rng((self.seed, *pairs))
            if self.augment.cell_drop > 0:
                names = list(dict.fromkeys(name for names in self.table.columns.values() for name in names))
                gone = dict(zip(names, rng.random((len(names), len(rows))) < self.augment.cell_drop, strict=True))
                table = without_cells(table, self.table.columns, gone)
                if comparison is not None:
                    comparison = self._compared_without(comparison, gone, places[:b], places[b:])
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
            comparison=None if comparison is None else torch.from_numpy(comparison),
            cross=cross,
            rows=known,
        )


class LengthBatches(Sampler[list[int]]):
    """Batches of rows of similar length, to pad little. Shuffled: rows are dealt into chunks at random each epoch,
    sorted within a chunk, and the batches shuffled again; otherwise simply sorted, the longest first.

    Several processes share the same batches. Shuffled, each takes its part of the rows of every batch, so that a step is
    what it is in one process (of a batch with fewer rows than processes, some rows come twice). Otherwise whole batches
    are dealt out, so that each row is scored as in one process. As all processes have to do the same number of them, the
    first batches may come twice; ``tasks.gather`` takes each row once.
    """

    def __init__(
        self, rows: KWayBatches | PairBatches, batch_size: int, shuffle: bool, seed: int = 0, chunk: int = 32
    ) -> None:
        self.rows, self.batch_size, self.shuffle, self.seed, self.chunk = rows, batch_size, shuffle, seed, chunk
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
            for start in range(0, len(order), n * self.chunk):
                chunk = order[start : start + n * self.chunk]
                order[start : start + n * self.chunk] = chunk[np.argsort(-lengths[chunk], kind="stable")]
            for start in rng.permutation(starts)[first:]:
                batch = order[start : start + n]
                yield np.resize(batch, max(len(batch), n_ranks))[rank::n_ranks].tolist()
        else:
            order = np.argsort(-lengths, kind="stable")
            for start in np.resize(starts, len(self) * n_ranks)[rank::n_ranks]:
                yield order[start : start + n].tolist()


def loader(
    batches: KWayBatches | PairBatches, batch_size: int, *, shuffle: bool, seed: int = 0, n_workers: int = 0
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
