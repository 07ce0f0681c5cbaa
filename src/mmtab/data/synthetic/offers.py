"""The offers of the catalogue: what rows show, drawn through the channels of a recipe."""

from __future__ import annotations

from dataclasses import dataclass, fields
from math import ceil

import numpy as np

from mmtab.data.synthetic.attributes import (
    BAND_FLOOR,
    BAND_SPAN,
    BRANDS,
    COLOURS,
    PATTERNS,
    PRICE_BASE,
    PRICE_FACTORS,
    SHAPES,
    SIZE_FACTOR,
    TYPE_GRID,
    TYPE_NAMES,
    WEIGHT_POWER,
)
from mmtab.data.synthetic.bayes import hypotheses, kinds_of
from mmtab.data.synthetic.descriptions import N_MODELS
from mmtab.data.synthetic.recipe import FACTS, IMAGE, MODALITIES, SHOWN_BY, Bools, Floats, Ints, Recipe


@dataclass(frozen=True)
class Offers:
    """What n rows show, noise included: indices into the tables above, shape (n,), unless said otherwise."""

    shape: Ints
    use: Ints
    named: Ints  # the shape that the text names, -1: none
    model: Ints  # see descriptions.model_name
    pattern: Ints
    colour: Ints
    brand: Ints
    department: Ints
    weight: Floats  # g
    length: Floats  # cm
    price: Floats  # euro
    missing: Bools  # (n, 4): the modalities whose cells are missing

    def take(self, rows: Ints) -> Offers:
        return Offers(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})


def _other(value: Ints, n: int, rng: np.random.Generator) -> Ints:
    """Another of the n values, equally likely: uniform values stay uniform, one side alone tells nothing."""
    return (value + rng.integers(1, n, len(value))) % n


def _shown(value: Ints, n: int, reliability: float, rng: np.random.Generator) -> Ints:
    return np.where(rng.random(len(value)) < reliability, value, _other(value, n, rng))


def _jitter(value: Floats, share: float, rng: np.random.Generator) -> Floats:
    return value * rng.uniform(1 - share, 1 + share, len(value))


def _missing(n: int, recipe: Recipe, rng: np.random.Generator) -> Bools:
    return rng.random((n, len(MODALITIES))) < [channel.missing for channel in recipe.channels]


def _departments(line: Ints, rng: np.random.Generator) -> Ints:
    return line * 4 + rng.integers(4, size=len(line))


def _named(shape: Ints, recipe: Recipe, reliability: float, rng: np.random.Generator) -> Ints:
    named = _shown(shape, len(SHAPES), reliability, rng)
    return np.where(rng.random(len(shape)) < recipe.named_shape, named, -1)


def type_offers(types: Ints, recipe: Recipe, rng: np.random.Generator) -> Offers:
    """One offer for each of the types, (n,), seen through the recipe's channels."""
    n = len(types)
    true = np.unravel_index(types, TYPE_GRID)
    reliability = [channel.reliability for channel in recipe.channels]
    shape, use, band, line = (_shown(true[m], TYPE_GRID[m], reliability[m], rng) for m in range(4))
    return Offers(
        shape=shape,
        use=use,
        named=_named(true[IMAGE], recipe, recipe.named_shape_reliability, rng),
        model=rng.integers(N_MODELS, size=n),
        pattern=rng.integers(len(PATTERNS), size=n),
        colour=rng.integers(len(COLOURS), size=n),
        brand=rng.integers(len(BRANDS), size=n),
        department=_departments(line, rng),
        weight=BAND_FLOOR[band] * BAND_SPAN ** rng.random(n),
        length=rng.uniform(20, 40, n) * SIZE_FACTOR[rng.integers(3, size=n)],
        price=5 * 40 ** rng.random(n),
        missing=_missing(n, recipe, rng),
    )


def prices(types: Ints, offers: Offers, recipe: Recipe, rng: np.random.Generator) -> Floats:
    """The price, (n,), of each of the types in euro; `offers` say where in its band the weight is."""
    place = offers.weight / BAND_FLOOR[(offers.weight >= BAND_FLOOR[1]).astype(np.int64)]
    price = PRICE_BASE * place**WEIGHT_POWER * np.exp(recipe.price_noise * rng.standard_normal(len(types)))
    for factor, attribute in zip(PRICE_FACTORS, np.unravel_index(types, TYPE_GRID), strict=True):
        price *= factor[attribute]
    return price.round(2)


def pair_offers(labels: Bools, task: str, recipe: Recipe, rng: np.random.Generator) -> tuple[Offers, Offers]:
    """The left and right offers of the pairs with these labels, (n, relations)."""
    n, facts = len(labels), FACTS[task]
    prior, sets, holds = hypotheses(task, recipe)
    truly_differs = np.zeros((n, len(facts)), dtype=bool)
    for kind in kinds_of(holds):
        ways = np.flatnonzero((holds == kind).all(axis=1))
        if len(ways) > 1:  # the kind that differs in nothing has one
            drawn = sets[rng.choice(ways, n, p=prior[ways] / prior[ways].sum())]
            truly_differs |= drawn & (labels == kind).all(axis=1, keepdims=True)
    reliability = [recipe.channels[SHOWN_BY[fact]].reliability for fact in facts]
    shown = truly_differs ^ (rng.random((n, len(facts))) >= reliability)
    differs = dict(zip(facts, shown.T, strict=True))
    # From here on, the labels play no part: all that the rows show follows from `differs` and chance.
    shape, use, band, line = np.unravel_index(rng.integers(len(TYPE_NAMES), size=n), TYPE_GRID)
    base_length, base_price = rng.uniform(20, 40, n), 5 * 40 ** rng.random(n)
    # No model name comes twice, so no two pairs (and so no two splits) share a product.
    model, other_model = rng.choice(N_MODELS * ceil(2 * n / N_MODELS), (2, n), replace=False)

    def offers(model: Ints, pattern: Ints, colour: Ints, brand: Ints, size: Ints, position: Floats) -> Offers:
        """What a shop shows of these; both shops draw the rest anew, and alike."""
        return Offers(
            shape=shape,
            use=use,
            named=_named(shape, recipe, 1.0, rng),
            model=model,
            pattern=pattern,
            colour=colour,
            brand=brand,
            department=_departments(line, rng),
            weight=_jitter(BAND_FLOOR[band] * BAND_SPAN**position, 0.01, rng),
            length=_jitter(base_length * SIZE_FACTOR[size], 0.01, rng),
            price=_jitter(base_price, 0.1, rng),
            missing=_missing(n, recipe, rng),
        )

    pattern, colour = rng.integers(len(PATTERNS), size=n), rng.integers(len(COLOURS), size=n)
    brand, size = rng.integers(len(BRANDS), size=n), rng.integers(len(SIZE_FACTOR), size=n)
    position = rng.random(n)  # of the weight in its band, in logarithms
    left = offers(model, pattern, colour, brand, size, position)
    if "colour" in differs:
        colour = np.where(differs["colour"], _other(colour, len(COLOURS), rng), colour)
        size = np.where(differs["size"], _other(size, len(SIZE_FACTOR), rng), size)
    else:
        colour, size = rng.integers(len(COLOURS), size=n), rng.integers(len(SIZE_FACTOR), size=n)
    if "pattern" in differs:
        pattern = np.where(differs["pattern"], _other(pattern, len(PATTERNS), rng), pattern)
        # Round the band as round a circle: positions stay uniform, and the ratio is at least 6 ** 0.2 = 1.43.
        position = np.where(differs["weight"], (position + rng.uniform(0.2, 0.8, n)) % 1, position)
    model = np.where(differs["name"], other_model, model)
    brand = np.where(differs["brand"], _other(brand, len(BRANDS), rng), brand)
    return left, offers(model, pattern, colour, brand, size, position)
