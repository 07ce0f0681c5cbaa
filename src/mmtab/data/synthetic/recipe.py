"""How much each modality of the catalogue tells, and the facts and relations that its tasks are about."""

from __future__ import annotations

from dataclasses import dataclass, fields
from itertools import combinations
from math import isclose, prod

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

TASKS = ("product_type", "duplicates", "variants", "offers", "price")
MODALITIES = ("image", "text", "numeric", "categorical")
IMAGE, TEXT, NUMERIC, CATEGORICAL = range(4)

# In what two records agree or differ, by the modality that shows it, and which of these facts a task is about: one to a
# modality, in MODALITIES' order, then others.
SHOWN_BY = {"pattern": IMAGE, "colour": IMAGE, "name": TEXT, "weight": NUMERIC, "size": NUMERIC, "brand": CATEGORICAL}
FACTS = {
    "duplicates": ("colour", "name", "size", "brand"),
    "variants": ("pattern", "name", "weight", "brand"),
    "offers": ("pattern", "name", "weight", "brand", "colour", "size"),
}
RELATIONS: dict[str, dict[str, tuple[str, ...]]] = {  # label columns of the pairs, and columns that each ignores
    "duplicates": {"label": ()},
    "variants": {"label": ()},
    "offers": {"duplicate": (), "variant": ("length",)},
}


@dataclass(frozen=True)
class Channel:
    """How far to trust a modality: P(it shows the truth | it is there), P(its cells are missing)."""

    reliability: float
    missing: float


@dataclass(frozen=True)
class Recipe:
    """How much each modality tells; with the task it determines the ceilings.

    `named_shape` is the probability that a text names the shape, `named_shape_reliability` that it then names
    the true one (product_type only). `price_noise` is the standard deviation of the logarithm of the price
    about what the product is worth (price only). Of the pairs, `positive_share` match (offers: are duplicates); of
    the others, `variant_share` are variants only (offers only). Of the pairs left, `two_aspects` differ in two
    aspects and the rest in one, drawn by the weights `negative_mix` (in MODALITIES' order).
    """

    image: Channel = Channel(reliability=0.985, missing=0.015)
    text: Channel = Channel(reliability=0.99, missing=0.015)
    numeric: Channel = Channel(reliability=0.99, missing=0.015)
    categorical: Channel = Channel(reliability=0.99, missing=0.015)
    named_shape: float = 0.25
    named_shape_reliability: float = 0.95
    price_noise: float = 0.06
    positive_share: float = 0.3
    variant_share: float = 0.2
    negative_mix: tuple[float, float, float, float] = (0.25, 0.25, 0.25, 0.25)
    two_aspects: float = 0.2

    def __post_init__(self) -> None:
        shares = {f.name: getattr(self, f.name) for f in fields(self) if isinstance(f.default, float)}
        for name, channel in zip(MODALITIES, self.channels, strict=True):
            shares |= {f"{name}.reliability": channel.reliability, f"{name}.missing": channel.missing}
        shares |= {f"negative_mix[{i}]": weight for i, weight in enumerate(self.negative_mix)}
        for name, value in shares.items():
            if not 0 <= value <= 1:
                raise ValueError(f"Recipe.{name} is {value}: expected a probability, 0 to 1")
        for name in ("positive_share", "variant_share"):
            if not 0 < shares[name] < 1:
                raise ValueError(f"Recipe.{name} is {shares[name]}: expected between 0 and 1")
        mix = self.negative_mix
        if len(mix) != len(MODALITIES) or not isclose(sum(mix), 1):
            raise ValueError(f"Recipe.negative_mix is {mix}: expected four weights that sum to 1")
        if self.two_aspects > 0 and max(mix) == 1:
            raise ValueError(f"Recipe.two_aspects is {self.two_aspects}: expected 0, with negative_mix {mix}")

    @property
    def channels(self) -> tuple[Channel, Channel, Channel, Channel]:
        return self.image, self.text, self.numeric, self.categorical

    def negatives(self) -> tuple[Bools, Floats]:
        """The sets of aspects in which a negative can differ, (10, 4), and their probabilities, (10,)."""
        sets = [*combinations(range(4), 1), *combinations(range(4), 2)]
        weights = np.array([prod(self.negative_mix[m] for m in aspects) for aspects in sets])
        weights[4:] *= self.two_aspects / max(weights[4:].sum(), 1e-300)
        weights[:4] *= 1 - self.two_aspects
        return np.array([[m in aspects for m in range(4)] for aspects in sets]), weights / weights.sum()


DEFAULT = Recipe()


def check_task(task: str) -> None:
    if task not in TASKS:
        raise ValueError(f"task is {task!r}: expected one of {', '.join(TASKS)}")
