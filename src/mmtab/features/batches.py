"""What moves between the parts of a model.

Shape letters, here once: **b** rows, **c** columns of one type, **l** text length, **t** tokens a row, **d** width,
**k** classes, **r** relations (of pairs); **s** sequences, **p** parts of a sequence (a column's span in it), **m**
distinct pictures, **j** pictures a cell, **g** tokens a picture, **f** features of a frozen backbone. Every mask: True
= present.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Self, get_args, get_type_hints

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor


def is_known(label: np.ndarray) -> np.ndarray:
    """[…] bool: where there is a label, of classes (-1 is none) or of numbers (NaN is none)."""
    return ~np.isnan(label) if label.dtype.kind == "f" else label >= 0


class _Movable:
    """Moves every tensor of a dataclass, nested ones too."""

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Self:
        return self._each(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Self:
        return self._each(lambda tensor: tensor.pin_memory())

    def _each(self, change: Callable[[Tensor], Tensor]) -> Self:
        return self.with_tensors({name: change(tensor) for name, tensor in self.tensors().items()})

    def tensors(self) -> dict[str, Tensor]:
        """By name, those of a part after the name of the part: ``text_ids``."""
        found: dict[str, Tensor] = {}
        for field in fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if isinstance(value, Tensor):
                found[field.name] = value
            elif isinstance(value, _Movable):
                found |= {f"{field.name}_{name}": tensor for name, tensor in value.tensors().items()}
        return found

    def with_tensors(self, tensors: Mapping[str, Tensor], prefix: str = "") -> Self:
        """The same with other tensors by their names."""
        values = {}
        for field in fields(self):  # type: ignore[arg-type]
            value, name = getattr(self, field.name), prefix + field.name
            if isinstance(value, Tensor):
                value = tensors[name]
            elif isinstance(value, _Movable):
                value = value.with_tensors(tensors, f"{name}_")
            values[field.name] = value
        return type(self)(**values)

    @classmethod
    def dims(cls) -> dict[str, list[str]]:
        """The shape letters of ``tensors``."""
        found: dict[str, list[str]] = {}
        for name, hint in get_type_hints(cls).items():
            kind = (get_args(hint) or (hint,))[0]  # of an optional one the first
            if hasattr(kind, "dim_str"):
                found[name] = kind.dim_str.split()
            elif isinstance(kind, type) and issubclass(kind, _Movable):
                found |= {f"{name}_{part}": letters for part, letters in kind.dims().items()}
        return found


@dataclass(frozen=True)
class TextBatch(_Movable):
    """Token sequences, each holding the cells of one or more columns (a column's cell is a *part*).

    A cell's vector is the mean over its part, put at row ``slot // c``, column ``slot % c``. Frozen backbones come as
    ``features`` instead of sequences; what frozen lower layers make of a sequence comes along as ``states``.
    """

    ids: Int[Tensor, "s l"]
    mask: Bool[Tensor, "s l"]
    side: Int[Tensor, "s l"]  # 0, or 1 for the second row of a pair read in one sequence
    part: Int[Tensor, "s l"]  # -1: special tokens and padding, in no part
    slot: Int[Tensor, "s p"]  # row * c + column; -1: no such cell
    features: Float[Tensor, "b c f"] | None = None
    present: Bool[Tensor, "b c"] | None = None  # given with features
    states: Float[Tensor, "s l f"] | None = None


@dataclass(frozen=True)
class LexicalBatch(_Movable):
    """The n-grams of rows, one after another: n of them, in the order of their rows."""

    row: Int[Tensor, " n"]
    id: Int[Tensor, " n"]
    value: Float[Tensor, " n"]
    column: Int[Tensor, " n"]  # by number


@dataclass(frozen=True)
class ImageBatch(_Movable):
    """Distinct pictures, as pixels or as what the frozen backbone made of them; ``index`` is -1 where there is none."""

    index: Int[Tensor, "b c j"]
    pixels: UInt8[Tensor, "m 3 h w"] | None = None
    features: Float[Tensor, "m f"] | None = None

    def of_cells(self, x: Float[Tensor, "m *f"]) -> Float[Tensor, "b c j *f"]:
        """What ``x`` has of each picture, by cells; 0 where there is none."""
        places = self.index.clamp(min=0).flatten()
        # index_select, for the gradient of x[places] is slow on CPU
        cells = x.index_select(0, places) if x.shape[0] else x.new_zeros(places.shape[0], *x.shape[1:])
        cells = cells.view(*self.index.shape, *x.shape[1:])
        return cells * (self.index >= 0).view(*self.index.shape, *[1] * (x.ndim - 1))


@dataclass(frozen=True)
class TensorTable(_Movable):
    """Rows of a table. NaN is a missing number; category ids 0 and 1 are missing and unseen."""

    n_rows: int
    numeric: Float[Tensor, "b c_num"] | None = None
    categorical: Int[Tensor, "b c_cat"] | None = None
    text: TextBatch | None = None
    image: ImageBatch | None = None
    lexical: LexicalBatch | None = None


@dataclass(frozen=True)
class RowBatch(_Movable):
    """``label`` is a class, -1 where unknown, or a number, NaN where unknown; ``row`` counts rows of the table.
    ``base``: in training, what the model's base says of rows that it was not fitted to."""

    table: TensorTable
    row: Int[Tensor, " b"]
    label: Int[Tensor, " b"] | Float[Tensor, " b"]
    base: Float[Tensor, "b k"] | None = None


@dataclass(frozen=True)
class Tokens(_Movable):
    """What encoders give and fusion takes. A missing cell is *present* as its learned token; the mask is False only
    where a row has no such token at all."""

    x: Float[Tensor, "b t d"]
    mask: Bool[Tensor, "b t"]

    @staticmethod
    def concat(*parts: Tokens) -> Tokens:
        """Tokens of the same rows, one after the other."""
        return Tokens(torch.cat([p.x for p in parts], 1), torch.cat([p.mask for p in parts], 1))

    def __getitem__(self, rows: Int[Tensor, " b2"]) -> Tokens:
        return self._each(lambda x: x[rows])


@dataclass(frozen=True)
class Rows(_Movable):
    """Rows encoded on their own, whatever pairs they will be in. ``vector``, of length 1, is what blocking searches."""

    tokens: Tokens
    summary: Float[Tensor, "b d"] | None = None
    vector: Float[Tensor, "b d"] | None = None

    @staticmethod
    def concat(parts: Sequence[Rows]) -> Rows:
        """One after the other."""
        tensors = [part.tensors() for part in parts]
        return parts[0].with_tensors({name: torch.cat([of[name] for of in tensors]) for name in tensors[0]})

    def __getitem__(self, rows: Int[Tensor, " b2"]) -> Rows:
        return self._each(lambda x: x[rows])


@dataclass(frozen=True)
class PairBatch(_Movable):
    """Pairs of the rows of ``table``, or of ``rows`` where they are encoded already; a row may stand in many pairs.

    ``label``: by relation, -1 where unknown. ``similarity``: see similarity.py. ``cross``: both rows' text in one
    sequence a pair; the cells of the row that comes first are at rows 0 … b-1 of its slots, the other's at b … 2b-1.
    """

    table: TensorTable
    left: Int[Tensor, " b"]
    right: Int[Tensor, " b"]
    row: Int[Tensor, " b"]
    label: Int[Tensor, "b r"]
    similarity: Float[Tensor, "b f"] | None = None
    cross: TextBatch | None = None
    rows: Rows | None = None
