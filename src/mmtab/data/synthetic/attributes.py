"""The attributes of the catalogue's products."""

from __future__ import annotations

import numpy as np

# The attributes that make a type: (shape, use, band, line).
SHAPES = ("bottle", "lamp", "box", "bag")
USES = ("kitchen", "garden", "travel")
BANDS = ("light", "heavy")
LINES = ("home", "trade")
TYPE_GRID = (len(SHAPES), len(USES), len(BANDS), len(LINES))
TYPE_NAMES = tuple(
    f"{line} {band} {use} {shape}" for shape in SHAPES for use in USES for band in BANDS for line in LINES
)

DEPARTMENTS = (
    *("Homeware", "Family", "Gifts", "Seasonal"),  # of the line home
    *("Hospitality", "Contract supply", "Workshop", "Wholesale"),  # of the line trade
)
_BRANDS = (
    "Arkwell, Brightmoor, Cinder & Co, Dovetail, Elmsworth, Fairhaven, Greyling, Hartwood, Ivybridge, Juniper, "
    "Kestrel, Larkfield, Mossgate, Northway, Oakley, Pinewick, Quillon, Redfern, Stonebay, Thistle"
)
BRANDS = tuple(_BRANDS.split(", "))
BAND_FLOOR = np.array([100.0, 900.0])  # g
BAND_SPAN = 6.0  # the upper end of a band over its floor: the bands do not meet
SIZE_FACTOR = np.array([0.7, 1.0, 1.4])  # S, M, L: the length of an offer over the base length of its product

COLOURS = {
    "red": (200, 30, 40),
    "orange": (245, 135, 20),
    "yellow": (250, 220, 50),
    "green": (30, 140, 60),
    "turquoise": (60, 205, 200),
    "blue": (30, 70, 200),
    "purple": (125, 45, 165),
    "pink": (250, 140, 185),
    "brown": (115, 70, 35),
    "black": (35, 35, 40),
}
PATTERNS = ("plain", "stripes", "dots", "checks", "gradient", "speckle")

PRICE_MISSING = 0.05  # a price tells nothing, so this costs nothing

# The price of the task price: PRICE_BASE, times a factor for each attribute of the type, times WEIGHT_POWER of the
# weight over the floor of its band.
PRICE_BASE, WEIGHT_POWER = 30.0, 0.2
PRICE_FACTORS = (
    np.array([0.75, 0.92, 1.1, 1.35]),  # of SHAPES
    np.array([0.78, 1.0, 1.28]),  # of USES
    (BAND_FLOOR / BAND_FLOOR[0]) ** WEIGHT_POWER,
    np.array([1.2, 0.8]),  # of LINES
)
