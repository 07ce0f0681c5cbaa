"""Photographs of the catalogue's products, drawn."""

from __future__ import annotations

from collections.abc import Iterator
from math import cos, pi, radians, sin
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from mmtab.data.synthetic.attributes import COLOURS, PATTERNS, SHAPES
from mmtab.data.synthetic.recipe import Bools

Pixels = NDArray[np.floating[Any]]

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


def photograph(shape: int, pattern: int, colour: int, size: int, rng: np.random.Generator) -> Image.Image:
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
