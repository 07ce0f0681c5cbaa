"""Model names, titles and descriptions of the catalogue's products."""

from __future__ import annotations

import numpy as np

_HEADS = "Al Bor Cas Del Fen Gal Hol Jun Kor Lum Mir Nor Pel Ros Tav"
_TAILS = "ba den ia mo ra sto vik zen"
MODEL_WORDS = tuple(head + tail for head in _HEADS.split() for tail in _TAILS.split())
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
    "Ships within two days.",
    "Comes with a two-year guarantee.",
    "Wipe clean with a damp cloth.",
    "Designed in our own studio.",
    "Packed without plastic.",
    "Returns are free for a month.",
    "Made from recycled material.",
    "No assembly needed.",
    "Limited stock this season.",
    "Tested by an independent laboratory.",
    "Makes a welcome present.",
    "New in our range.",
)

DESCRIPTION_MISSING = 0.1  # the title then carries the text's signals


def _pick(options: tuple[str, ...], rng: np.random.Generator) -> str:
    return options[rng.integers(len(options))]


def model_name(model: int) -> str:
    series, model = divmod(model, N_MODELS)
    word, number = divmod(model, MODEL_NUMBERS)
    return f"{MODEL_WORDS[word]} {100 + series * MODEL_NUMBERS + number}"


def describe(use: int, named: int, model: int, rng: np.random.Generator) -> tuple[str, str | None]:
    """Title and description; between them they tell the use, the model name and, if `named`, the shape."""
    name, phrase = model_name(model), _pick(USE_PHRASES[use], rng)
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
