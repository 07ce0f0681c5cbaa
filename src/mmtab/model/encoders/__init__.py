"""One encoder a column type: rows in, tokens of one width out."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from mmtab.features.batches import TensorTable, Tokens


@runtime_checkable
class ColumnEncoder(Protocol):
    """What row_tokenizer.py asks of an encoder (an ``nn.Module``).

    It reads its own part of the table and gives ``n_columns * tokens_per_column`` tokens a row, column by column. A
    missing cell becomes a learned token. Everything it needs is an argument of its constructor.
    """

    n_columns: int
    tokens_per_column: int

    def __call__(self, table: TensorTable) -> Tokens: ...
