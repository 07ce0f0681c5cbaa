"""A made-up product catalogue whose best reachable score is known for every subset of the modalities.

It ships with mmtab, as the default dataset and as an instrument: no modality alone suffices, all four
together nearly do, and the distance of a model to `ceilings` says which modality it fails to use.

**product_type** (k-way, accuracy). A type is four independent, uniform attributes, one to a modality: the
silhouette in the image (4 shapes), words in the text (3 uses), the band of the weight (2), the line of the
department (2); 48 types in all. A channel shows the true value with probability `reliability`, else one of
the others; with probability `missing` all cells that carry it are missing. At times the text also names
the shape, so modalities overlap. Colour, pattern, brand, model name, price and length say nothing of the
type.

**duplicates**, **variants** (matching, F1). A product has a type, brand, model name, pattern, weight, base
length and base price; an offer is a product in a colour and a size, described and photographed anew.
Duplicates agree in product, colour and size; variants agree in product, whatever the colour and size. A
pair that does not match differs in one or two aspects, one to a modality:

    modality      duplicates             variants
    image         other colour           other pattern
    text          other model name       other model name
    numeric       other size (length)    other weight
    categorical   other brand            other brand

A channel shows the true relation (same, differs) with probability `reliability`, else the opposite; it is
missing if either side lacks it. All else that two rows show is drawn the same way for every pair, and a
record belongs to one pair only, so nothing else tells the label.

**offers** (matching, mean F1 of two relations). Each pair has both labels: `duplicate` (same product, colour
and size) and `variant` (same product). It is a duplicate, or a variant only (the offers differ in colour, in
size or in both), or of two products, which then differ as they do in **variants**. Offers of two products
differ in colour and size as often as offers of one, so these two facts tell nothing of the product. The image
shows two facts, pattern and colour, and the numbers show two, weight and size; each is right with the
channel's `reliability`, independently, and they are missing together. `entities.parquet` holds the truth: two
records are the same under a relation if that column is equal.

`ceilings` sums over all combinations of these signals. With the default recipe:

    modalities                       product_type  duplicates, variants  offers
    image                            0.081         0.544                 0.649
    text                             0.104         0.545                 0.606
    numeric                          0.041         0.545                 0.651
    categorical                      0.041         0.545                 0.606
    image+text                       0.239         0.648                 0.730
    image+numeric                    0.160         0.648                 0.761
    image+categorical                0.160         0.648                 0.730
    text+numeric                     0.204         0.649                 0.733
    text+categorical                 0.204         0.649                 0.685
    numeric+categorical              0.080         0.649                 0.733
    image+text+numeric               0.470         0.778                 0.851
    image+text+categorical           0.470         0.778                 0.820
    image+numeric+categorical        0.313         0.778                 0.851
    text+numeric+categorical         0.401         0.781                 0.823
    image+text+numeric+categorical   0.924         0.942                 0.949

Of offers, with all modalities, duplicate reaches 0.939 and variant 0.958 (`relation_ceilings`).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, fields
from functools import partial
from itertools import combinations
from math import ceil, cos, isclose, pi, prod, radians, sin
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Pixels = NDArray[np.floating[Any]]

TASKS = ("product_type", "duplicates", "variants", "offers")
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

# The attributes that make a type: (shape, use, band, line).
SHAPES = ("bottle", "lamp", "box", "bag")
USES = ("kitchen", "garden", "travel")
BANDS = ("light", "heavy")
LINES = ("home", "trade")
TYPE_GRID = (len(SHAPES), len(USES), len(BANDS), len(LINES))
TYPE_NAMES = tuple(
    f"{line} {band} {use} {shape}" for shape in SHAPES for use in USES for band in BANDS for line in LINES
)

DEPARTMENTS = (  # four of each line
    "Homeware", "Family", "Gifts", "Seasonal",
    "Hospitality", "Contract supply", "Workshop", "Wholesale",
)  # fmt: skip
BRANDS = (
    "Arkwell", "Brightmoor", "Cinder & Co", "Dovetail", "Elmsworth", "Fairhaven", "Greyling", "Hartwood",
    "Ivybridge", "Juniper", "Kestrel", "Larkfield", "Mossgate", "Northway", "Oakley", "Pinewick", "Quillon",
    "Redfern", "Stonebay", "Thistle",
)  # fmt: skip
BAND_FLOOR = np.array([100.0, 900.0])  # g
BAND_SPAN = 6.0  # the upper end of a band over its floor: the bands do not meet
SIZE_FACTOR = np.array([0.7, 1.0, 1.4])  # S, M, L: the length of an offer over the base length of its product

COLOURS = {
    "red": (200, 30, 40), "orange": (245, 135, 20), "yellow": (250, 220, 50), "green": (30, 140, 60),
    "turquoise": (60, 205, 200), "blue": (30, 70, 200), "purple": (125, 45, 165), "pink": (250, 140, 185),
    "brown": (115, 70, 35), "black": (35, 35, 40),
}  # fmt: skip
PATTERNS = ("plain", "stripes", "dots", "checks", "gradient", "speckle")

_HEADS = (
    "Al",
    "Bor",
    "Cas",
    "Del",
    "Fen",
    "Gal",
    "Hol",
    "Jun",
    "Kor",
    "Lum",
    "Mir",
    "Nor",
    "Pel",
    "Ros",
    "Tav",
)
_TAILS = ("ba", "den", "ia", "mo", "ra", "sto", "vik", "zen")
MODEL_WORDS = tuple(head + tail for head in _HEADS for tail in _TAILS)
MODEL_NUMBERS = 900  # 100 to 999
N_MODELS = len(MODEL_WORDS) * MODEL_NUMBERS
MODEL_SERIES = 11  # where these names run out, those with the next 900 numbers, and so on up to 9999

USE_PHRASES = (
    ("for the kitchen", "for baking", "for busy cooks", "for use beside the stove", "for preparing meals"),
    ("for the garden", "for planting", "for keen gardeners", "for flower beds", "for lawns and patios"),
    ("for travel", "for long journeys", "for tourists", "for trains and planes", "for weekends away"),
)
USE_SENTENCES = ("Made {}.", "A good choice {}.", "Our customers buy it {}.", "Just right {}.", "Meant {}.")
SHAPE_NOUNS = (
    ("bottle", "flask", "carafe"),
    ("lamp", "lantern", "luminaire"),
    ("box", "crate", "chest"),
    ("bag", "tote", "satchel"),
)
SHAPE_SENTENCES = ("A handsome {}.", "You will love this {}.", "The {} to be seen with.", "A {} that lasts.")
MODEL_SENTENCES = ("The {} is back.", "Look out: {} on the label.", "Sold as {}.", "Model name: {}.")
ADJECTIVES = ("Classic", "Modern", "Original", "Signature", "Timeless", "Popular")
GENERIC_NOUNS = ("piece", "model", "article", "design", "item")
FILLERS = (
    "Ships within two days.", "Comes with a two-year guarantee.", "Wipe clean with a damp cloth.",
    "Designed in our own studio.", "Packed without plastic.", "Returns are free for a month.",
    "Made from recycled material.", "No assembly needed.", "Limited stock this season.",
    "Tested by an independent laboratory.", "Makes a welcome present.", "New in our range.",
)  # fmt: skip

DESCRIPTION_MISSING = 0.1  # the title then carries the text's signals
PRICE_MISSING = 0.05  # a price tells nothing, so this costs nothing


@dataclass(frozen=True)
class Channel:
    """How far to trust a modality: P(it shows the truth | it is there), P(its cells are missing)."""

    reliability: float
    missing: float


@dataclass(frozen=True)
class Recipe:
    """How much each modality tells; with the task it determines the ceilings.

    `named_shape` is the probability that a text names the shape, `named_shape_reliability` that it then names
    the true one (product_type only). Of the pairs, `positive_share` match (offers: are duplicates); of
    the others, `variant_share` are variants only (offers only). Of the pairs left, `two_aspects` differ in two
    aspects and the rest in one, drawn by the weights `negative_mix` (in MODALITIES' order).
    """

    image: Channel = Channel(reliability=0.985, missing=0.015)
    text: Channel = Channel(reliability=0.99, missing=0.015)
    numeric: Channel = Channel(reliability=0.99, missing=0.015)
    categorical: Channel = Channel(reliability=0.99, missing=0.015)
    named_shape: float = 0.25
    named_shape_reliability: float = 0.95
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


def ceilings(task: str, recipe: Recipe = Recipe()) -> dict[str, float]:
    """The best reachable score of every non-empty subset of the modalities, such as "image+text".

    product_type: the accuracy of the Bayes classifier. Pairs: the best F1, 2TP / (2TP + FP + FN) of the
    expected counts, over the thresholds on the posterior given the subset's signals; offers: the mean of both
    relations' best F1.
    """
    _check_task(task)
    if task == "product_type":
        return {subset: _bayes_accuracy(joint) for subset, joint in _subsets(*_type_signals(recipe))}
    each = relation_ceilings(task, recipe).values()
    return {subset: float(np.mean([scores[subset] for scores in each])) for subset in next(iter(each))}


def relation_ceilings(task: str = "offers", recipe: Recipe = Recipe()) -> dict[str, dict[str, float]]:
    """For each relation of a task of pairs, its best reachable F1 with every subset of the modalities."""
    prior, _, holds = _hypotheses(task, recipe)
    joints = list(_subsets(prior, _pair_signals(task, recipe)))
    return {
        relation: {subset: _best_f1(joint, held) for subset, joint in joints}
        for relation, held in zip(RELATIONS[task], holds.T, strict=True)
    }


def _subsets(prior: Floats, likelihoods: list[Floats]) -> Iterator[tuple[str, Floats]]:
    """P(hypothesis, signals), (hypotheses, combinations of signals), for every subset of the modalities."""
    for subset in (s for n in range(1, 5) for s in combinations(range(4), n)):
        joint = prior[:, None]
        for m in subset:
            joint = _joint(joint, likelihoods[m])
        yield "+".join(MODALITIES[m] for m in subset), joint


def _joint(one: Floats, other: Floats) -> Floats:
    """P(both signals | hypothesis) of two independent ones, (hypotheses, combinations)."""
    return (one[:, :, None] * other[:, None, :]).reshape(len(one), -1)


def _bayes_accuracy(joint: Floats) -> float:
    """Accuracy of calling the most probable type; P(type, signals), (types, signals)."""
    return float(joint.max(axis=0).sum())


def _best_f1(joint: Floats, held: Bools) -> float:
    """Best F1 over thresholds on the posterior that one of the `held` hypotheses, (hypotheses,), is true."""
    positive, total = joint[held].sum(axis=0), joint.sum(axis=0)
    possible = total > 0
    order = np.argsort(-positive[possible] / total[possible])
    true, called = positive[possible][order].cumsum(), total[possible][order].cumsum()
    return float((2 * true / (called + positive.sum())).max())


def _shown_given_true(n: int, reliability: float) -> Floats:
    """P(shown value | true value), (n, n)."""
    return np.where(np.eye(n, dtype=bool), reliability, (1 - reliability) / (n - 1))


def _with_missing(given_present: Floats, missing: float) -> Floats:
    """P(signal | hypothesis), with one more signal for missing, (hypotheses, signals + 1)."""
    return np.hstack([given_present * (1 - missing), np.full((len(given_present), 1), missing)])


def _type_signals(recipe: Recipe) -> tuple[Floats, list[Floats]]:
    """P(type), (48,), and for each modality P(signal | type), (48, signals)."""
    likelihoods = []
    true = np.unravel_index(np.arange(len(TYPE_NAMES)), TYPE_GRID)
    for m, (n, channel) in enumerate(zip(TYPE_GRID, recipe.channels, strict=True)):
        shown = _shown_given_true(n, channel.reliability)[true[m]]
        if m == TEXT:
            named = _shown_given_true(len(SHAPES), recipe.named_shape_reliability)[true[IMAGE]]
            named = _with_missing(named, 1 - recipe.named_shape)
            shown = _joint(shown, named)
        likelihoods.append(_with_missing(shown, channel.missing))
    return np.full(len(TYPE_NAMES), 1 / len(TYPE_NAMES)), likelihoods


def _hypotheses(task: str, recipe: Recipe) -> tuple[Floats, Bools, Bools]:
    """All that can be true of a pair: probabilities, (h,), facts that differ, (h, facts), relations, (h, relations)."""
    duplicates, others = recipe.positive_share, 1 - recipe.positive_share
    sets, weights = recipe.negatives()
    differs = np.vstack([np.zeros(4, dtype=bool), sets])
    if task != "offers":
        return np.append(duplicates, others * weights), differs, np.stack([~differs.any(axis=1)], axis=1)
    same = duplicates + others * recipe.variant_share  # P(one product)
    products = np.append(same, (1 - same) * weights)
    # Colour and size differ as often between two products as within one: they tell nothing of the product.
    colour_size = np.array([[False, False], [True, False], [False, True], [True, True]])
    looks = np.append(duplicates, np.full(3, (same - duplicates) / 3)) / same
    differs = np.hstack([differs.repeat(4, axis=0), np.tile(colour_size, (len(differs), 1))])
    holds = np.stack([~differs.any(axis=1), ~differs[:, :4].any(axis=1)], axis=1)
    return np.outer(products, looks).ravel(), differs, holds


def _kinds(holds: Bools) -> Bools:
    """The combinations of relations that occur, (kinds, relations), those that most hold in first."""
    return np.unique(holds, axis=0)[::-1]


def _pair_signals(task: str, recipe: Recipe) -> list[Floats]:
    """For each modality P(signal | hypothesis), (hypotheses, signals); a signal is all facts that it shows."""
    _, differs, _ = _hypotheses(task, recipe)
    likelihoods = []
    for m, channel in enumerate(recipe.channels):
        shown = np.ones((len(differs), 1))
        for fact, differ in zip(FACTS[task], differs.T.astype(np.int64), strict=True):
            if SHOWN_BY[fact] == m:
                shown = _joint(shown, _shown_given_true(2, channel.reliability)[differ])
        likelihoods.append(_with_missing(shown, 1 - (1 - channel.missing) ** 2))  # either side suffices
    return likelihoods


@dataclass(frozen=True)
class Offers:
    """What n rows show, noise included: indices into the tables above, shape (n,), unless said otherwise."""

    shape: Ints
    use: Ints
    named: Ints  # the shape that the text names, -1: none
    model: Ints  # see _model_name
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


def _type_offers(types: Ints, recipe: Recipe, rng: np.random.Generator) -> Offers:
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


def _pair_offers(labels: Bools, task: str, recipe: Recipe, rng: np.random.Generator) -> tuple[Offers, Offers]:
    """The left and right offers of the pairs with these labels, (n, relations)."""
    n, facts = len(labels), FACTS[task]
    prior, sets, holds = _hypotheses(task, recipe)
    truly_differs = np.zeros((n, len(facts)), dtype=bool)
    for kind in _kinds(holds):
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


def _pick(options: tuple[str, ...], rng: np.random.Generator) -> str:
    return options[rng.integers(len(options))]


def _model_name(model: int) -> str:
    series, model = divmod(model, N_MODELS)
    word, number = divmod(model, MODEL_NUMBERS)
    return f"{MODEL_WORDS[word]} {100 + series * MODEL_NUMBERS + number}"


def _texts(use: int, named: int, model: int, rng: np.random.Generator) -> tuple[str, str | None]:
    """Title and description; between them they tell the use, the model name and, if `named`, the shape."""
    name, phrase = _model_name(model), _pick(USE_PHRASES[use], rng)
    title = f"{_pick(ADJECTIVES, rng)} {_pick(GENERIC_NOUNS, rng)}"
    described = rng.random() >= DESCRIPTION_MISSING
    sentences = []
    if described and rng.random() < 0.25:
        sentences.append(_pick(MODEL_SENTENCES, rng).format(name))
    else:
        title = f"{name} {title}"
    if described and rng.random() < 0.5:
        sentences.append(_pick(USE_SENTENCES, rng).format(phrase))
    else:
        title = f"{title} {phrase}"
    if named >= 0:
        noun = _pick(SHAPE_NOUNS[named], rng)
        if described:
            sentences.append(_pick(SHAPE_SENTENCES, rng).format(noun))
        else:
            title = f"{title}, a {noun}"
    if not described:
        return title, None
    sentences += [FILLERS[i] for i in rng.choice(len(FILLERS), rng.integers(1, 4), replace=False)]
    return title, " ".join(sentences[i] for i in rng.permutation(len(sentences)))


# Paint of a part, as the RGB value of a parts picture: covered, grey trim instead of colour, in shade.
BODY, SHADED, SIDE, TRIM = (255, 0, 0), (255, 0, 70), (255, 0, 150), (255, 255, 0)
Part = tuple[list[tuple[float, float]], tuple[int, int, int]]


def _silhouette(shape: str, rng: np.random.Generator) -> Iterator[Part]:
    """Polygons of a product and their paint; x to the right, y downwards, both about -1 to 1."""

    def box(x: float, top: float, bottom: float) -> list[tuple[float, float]]:
        return [(-x, top), (x, top), (x, bottom), (-x, bottom)]

    if shape == "bottle":
        w, shoulder = rng.uniform(0.3, 0.42), rng.uniform(-0.35, -0.1)
        neck = w * rng.uniform(0.32, 0.42)
        side = [(w, 1.0), (w, shoulder), (neck, shoulder - 0.25), (neck, -0.8)]
        yield side + [(-x, y) for x, y in reversed(side)], BODY
        yield box(neck * 1.25, -1, -0.8), TRIM
    elif shape == "lamp":
        top, bottom = rng.uniform(0.2, 0.35), rng.uniform(0.65, 0.85)
        rim, foot = rng.uniform(-0.1, 0.15), rng.uniform(0.35, 0.5)
        yield box(0.06, rim, 0.9), TRIM
        yield box(foot, 0.86, 1), TRIM
        yield [(-top, -1), (top, -1), (bottom, rim), (-bottom, rim)], BODY
    elif shape == "box":
        w, h, depth = rng.uniform(0.75, 0.95), rng.uniform(0.55, 0.8), rng.uniform(0.25, 0.4)
        x, y = w - depth, depth - h  # right and upper edge of the front
        yield [(-w, y), (x, y), (x, h), (-w, h)], BODY
        yield [(-w, y), (x, y), (w, -h), (depth - w, -h)], SHADED
        yield [(x, y), (w, -h), (w, h - depth), (x, h)], SIDE
    else:
        top, bottom, upper = rng.uniform(0.55, 0.65), rng.uniform(0.7, 0.85), rng.uniform(-0.25, -0.1)
        reach, height = top * rng.uniform(0.6, 0.8), upper + 1
        arc = [(cos(a), sin(a)) for a in np.linspace(pi, 0, 16)]
        outer = [(reach * c, upper - height * s) for c, s in arc]
        inner = [((reach - 0.13) * c, upper - (height - 0.13) * s) for c, s in reversed(arc)]
        yield outer + inner, TRIM
        yield [(-top, upper), (top, upper), (bottom, 1), (-bottom, 1)], BODY


def _accent_share(pattern: str, x: Pixels, y: Pixels, body: Bools, rng: np.random.Generator) -> Pixels:
    """How much accent colour the pattern puts at each point, 0 to 1, (size, size); x, y: see _silhouette."""
    a, b = rng.uniform(0, 2 * pi, 2)  # where the pattern starts
    share = np.zeros_like(x)
    if pattern == "stripes":
        share = 0.5 + 2 * np.sin((x + y) * 13 + a)
    elif pattern == "dots":
        share = 0.5 + 3 * (np.cos(x * 16 + a) + np.cos(y * 16 + b) - 0.7)
    elif pattern == "checks":
        share = 0.5 + 3 * np.sin(x * 9 + a) * np.sin(y * 9 + b)
    elif pattern == "gradient":
        share = (y - y[body].min()) / np.ptp(y[body])
    elif pattern == "speckle":
        grain = max(1, len(x) // 40)  # pixels
        cells = rng.random((len(x) // grain + 1,) * 2) < 0.2
        share = np.kron(cells, np.ones((grain, grain)))[: len(x), : len(x)].astype(np.float32)
    return share.clip(0, 1)


def _photograph(shape: int, pattern: int, colour: int, size: int, rng: np.random.Generator) -> Image.Image:
    """An RGB photograph, size by size pixels; pose, light and noise depend on nothing but chance."""
    angle, scale = radians(rng.uniform(-15, 15)), size * rng.uniform(0.37, 0.43)
    x0, y0 = size * (0.5 + rng.uniform(-0.03, 0.03, 2))
    c, s = cos(angle) * scale, sin(angle) * scale
    parts = Image.new("RGB", (2 * size, 2 * size))  # twice as large, for smooth edges
    draw = ImageDraw.Draw(parts)
    for polygon, paint in _silhouette(SHAPES[shape], rng):
        draw.polygon([(2 * (x0 + c * x - s * y), 2 * (y0 + s * x + c * y)) for x, y in polygon], fill=paint)
    parts = parts.reduce(2)
    covered, trim, shade = np.moveaxis(np.asarray(parts, dtype=np.float32) / 255, 2, 0).copy()
    blurred = parts.getchannel(0).filter(ImageFilter.GaussianBlur(size / 24))
    shadow = np.asarray(blurred, dtype=np.float32) / 255

    across = np.arange(size, dtype=np.float32) - np.float32(x0)
    down = np.arange(size, dtype=np.float32)[:, None] - np.float32(y0)
    x, y = (c * across + s * down) / scale**2, (c * down - s * across) / scale**2
    own = np.array(tuple(COLOURS.values())[colour], dtype=np.float32).reshape(3, 1, 1)
    # A neutral accent leaves the hue to the colour: dark on light colours, light on dark ones.
    accent = 30.0 if own[:, 0, 0] @ (0.3, 0.6, 0.1) > 140 else 245.0
    product = own + _accent_share(PATTERNS[pattern], x, y, covered - trim > 0.5, rng) * (accent - own)
    product += trim * ((75.0 if rng.random() < 0.5 else 160.0) - product)
    product *= 1 - shade - 0.12 * x.clip(-1, 1)  # light comes from the left

    tint = rng.uniform(215, 250) + rng.uniform(-6, 6, (3, 1, 1))
    lit: Pixels = (tint + rng.uniform(-20, 0) * down / size).astype(np.float32)
    ground = lit * (1 - 0.3 * np.roll(shadow, (size // 24, size // 32), axis=(0, 1)))
    photo = ground + covered * (product - ground)
    photo *= rng.uniform(0.85, 1.05) * rng.uniform(0.95, 1.05, (3, 1, 1))  # exposure, white balance
    photo += rng.uniform(2, 8) * rng.standard_normal(photo.shape, dtype=np.float32)
    image = Image.fromarray(np.moveaxis(photo.clip(0, 255).astype(np.uint8), 0, 2).copy())
    if rng.random() < 0.3:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.4, 0.9) * size / 96))
    return image


COLUMNS = {
    "title": "text", "description": "text", "brand": "categorical", "department": "categorical",
    "price": "numeric", "weight": "numeric", "length": "numeric", "image": "image",
}  # fmt: skip
TITLES = {
    "product_type": "Synthetic catalogue: type of a product",
    "duplicates": "Synthetic catalogue: same offer in two shops",
    "variants": "Synthetic catalogue: same product but for colour and size",
    "offers": "Synthetic catalogue: same offer, and same product, in two shops",
}
CHUNK = 4000  # records of the task offers that draw from one random generator; processes write several chunks at once


def write_catalogue(
    folder: Path,
    task: str,
    n_rows: int = 4000,
    seed: int = 0,
    image_size: int = 96,
    recipe: Recipe = Recipe(),
) -> None:
    """Write the dataset into `folder`: `n_rows` products (product_type) or pairs, 70/10/20 train/valid/test.

    `image_size` is the width and height of the photographs in pixels. The same arguments give the same bytes
    (with the same versions of NumPy, Pillow and PyArrow).
    """
    _check_task(task)
    if seed < 0:
        raise ValueError(f"seed is {seed}: expected 0 or more")
    if image_size < 16:
        raise ValueError(f"image_size is {image_size}: expected at least 16 pixels")
    sizes = {"train": n_rows * 7 // 10, "valid": n_rows // 10}
    sizes["test"] = n_rows - sum(sizes.values())
    kway = task == "product_type"
    rng = np.random.default_rng([seed, TASKS.index(task)])
    (folder / "images").mkdir(parents=True, exist_ok=True)
    if kway:
        _write_types(folder, sizes, image_size, recipe, rng)
    else:
        _write_pairs(folder, task, sizes, image_size, recipe, rng)
    relations = {name: {"ignore": list(columns)} for name, columns in RELATIONS.get(task, {}).items()}
    meta = {
        "name": "catalogue" if kway else f"catalogue_{task}",
        "title": TITLES[task],
        "task": "kway" if kway else "matching",
        "metric": "accuracy" if kway else "f1",
        "licence": "Apache-2.0 (generated)",
        "source": f"generated by mmtab.data.synthetic: {task}, {n_rows} rows, seed {seed}",
        "id": "id",
        **({"label": "product_type"} if kway else {}),
        **({"relations": relations} if task == "offers" else {}),
        "columns": COLUMNS,
        "ceilings": {subset: round(score, 4) for subset, score in ceilings(task, recipe).items()},
    }
    text = yaml.safe_dump(meta, sort_keys=False, width=110)
    (folder / "dataset.yaml").write_text(text, encoding="utf-8", newline="\n")


def _check_task(task: str) -> None:
    if task not in TASKS:
        raise ValueError(f"task is {task!r}: expected one of {', '.join(TASKS)}")


def _write_types(
    folder: Path, sizes: dict[str, int], image_size: int, recipe: Recipe, rng: np.random.Generator
) -> None:
    n, k = sum(sizes.values()), len(TYPE_NAMES)
    if sizes["train"] < k:
        raise ValueError(f"n_rows is {n}: expected at least 69, for a train split with all {k} types")
    # Dealt evenly to each split, so that no type goes without training rows.
    dealt = [rng.permutation(np.resize(rng.permutation(k), size)) for size in sizes.values()]
    types = np.concatenate(dealt)
    records = _write_records(folder, "p", _type_offers(types, recipe, rng), image_size, n, rng)
    labels = pa.array([TYPE_NAMES[t] for t in types], pa.string())
    _write_splits(folder, "", records.append_column("product_type", labels), sizes)


def _write_pairs(
    folder: Path, task: str, sizes: dict[str, int], image_size: int, recipe: Recipe, rng: np.random.Generator
) -> None:
    n = sum(sizes.values())
    prior, _, holds = _hypotheses(task, recipe)
    kinds = _kinds(holds)
    shares = [prior[(holds == kind).all(axis=1)].sum() for kind in kinds]
    dealt = []
    for size in sizes.values():
        counts = [round(share * size) for share in shares[:-1]]
        counts.append(size - sum(counts))
        if min(counts) < 1:
            raise ValueError(f"n_rows is {n}: expected more, for pairs of every kind in every split")
        dealt.append(np.repeat(np.arange(len(kinds)), counts))
    if 2 * n > N_MODELS * MODEL_SERIES:
        raise ValueError(f"n_rows is {n}: expected at most {N_MODELS * MODEL_SERIES // 2}, the model names run out")
    labels = kinds[np.concatenate([rng.permutation(kind) for kind in dealt])]  # (n, relations)
    pairs = {}
    sides = zip(("left", "right"), _pair_offers(labels, task, recipe, rng), strict=True)
    for side, offers in sides:
        order = rng.permutation(n)  # each shop numbers its offers in its own order, so ids tell nothing
        chunk = CHUNK if task == "offers" else n
        records = _write_records(folder, side[0], offers.take(order), image_size, chunk, rng)
        pq.write_table(records, folder / f"{side}.parquet")
        pairs[f"{side}_id"] = records["id"].take(pa.array(np.argsort(order)))
    if task == "offers":
        left, right = (ids.to_numpy() for ids in pairs.values())
        entities = {"id": np.append(left, right)}
        for held, relation in zip(labels.T, RELATIONS[task], strict=True):
            entities[relation] = np.append(left, np.where(held, left, right))  # named by a record in it
        pq.write_table(pa.table(entities).sort_by("id"), folder / "entities.parquet")
    for held, relation in zip(labels.T, RELATIONS[task], strict=True):
        pairs[relation] = pa.array(held).cast(pa.int8())
    _write_splits(folder, "pairs_", pa.table(pairs), sizes)


def _write_splits(folder: Path, prefix: str, table: pa.Table, sizes: dict[str, int]) -> None:
    start = 0
    for split, size in sizes.items():
        pq.write_table(table.slice(start, size), folder / f"{prefix}{split}.parquet")
        start += size


def _write_records(
    folder: Path, prefix: str, offers: Offers, image_size: int, chunk: int, rng: np.random.Generator
) -> pa.Table:
    """Write the photographs of the offers, and return their table: ids in row order, then COLUMNS.

    Where there are several chunks, each draws from its own generator: the bytes are the same whatever the number of
    processes.
    """
    starts = range(0, len(offers.shape), chunk)
    rows = np.arange(len(offers.shape))
    parts = [offers.take(rows[start : start + chunk]) for start in starts]
    rngs = rng.spawn(len(starts)) if len(starts) > 1 else [rng]
    write = partial(_write_chunk, folder, prefix, image_size)
    n_processes = min(len(starts), _n_cores())
    if n_processes == 1:
        return pa.concat_tables(map(write, starts, parts, rngs))
    with ProcessPoolExecutor(n_processes, get_context("fork")) as pool:
        return pa.concat_tables(list(pool.map(write, starts, parts, rngs)))


def _n_cores() -> int:
    """Cores to use: one where processes are not safely forked, since spawned ones run the caller's script again."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else 1


def _write_chunk(
    folder: Path, prefix: str, image_size: int, start: int, offers: Offers, rng: np.random.Generator
) -> pa.Table:
    """_write_records for offers whose first has the number `start`."""
    rows = []
    for i in range(len(offers.shape)):
        name = f"{prefix}{start + i:06d}"
        shape, pattern, colour = int(offers.shape[i]), int(offers.pattern[i]), int(offers.colour[i])
        title, description = _texts(int(offers.use[i]), int(offers.named[i]), int(offers.model[i]), rng)
        row: dict[str, str | float | None] = {
            "id": name,
            "title": title,
            "description": description,
            "brand": BRANDS[offers.brand[i]],
            "department": DEPARTMENTS[offers.department[i]],
            "price": None if rng.random() < PRICE_MISSING else round(float(offers.price[i]), 2),
            "weight": round(float(offers.weight[i]), 1),
            "length": round(float(offers.length[i]), 2),
            "image": f"images/{name}.jpg",
        }
        missing = {MODALITIES[m] for m in np.flatnonzero(offers.missing[i])}
        row |= {column: None for column, modality in COLUMNS.items() if modality in missing}
        rows.append(row)
        if "image" not in missing:
            photo = _photograph(shape, pattern, colour, image_size, rng)
            photo.save(folder / f"images/{name}.jpg", quality=int(rng.integers(75, 93)))
    types = {name: pa.float64() if kind == "numeric" else pa.string() for name, kind in COLUMNS.items()}
    return pa.Table.from_pylist(rows, pa.schema({"id": pa.string(), **types}))
