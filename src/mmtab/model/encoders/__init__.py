"""One encoder a column type: rows in, tokens of one width out."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from mmtab.features.batches import TensorTable, Tokens


@runtime_checkable
class ColumnEncoder(Protocol):
    """All that is asked of an encoder, which is an ``nn.Module``.

    It reads its own part of the table and gives ``n_columns * tokens_per_column`` tokens a row, column by column. A
    missing cell becomes a learned token.

    Its constructor is called with its own settings, ``n_columns`` (categories: ``n_ids``, how many ids each column has)
    and, for text and pictures, ``backbone`` (a TextBackbone or ImageBackbone) if it has an argument of that name.
    Without one it reads ``table.text.ids`` or ``table.image.pixels``.
    """

    n_columns: int
    tokens_per_column: int

    def __call__(self, table: TensorTable) -> Tokens: ...
