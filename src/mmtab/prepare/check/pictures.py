"""Pictures of held-out rows that are nearly those of train: resized, compressed again, or cut by a little."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
from PIL import Image
from scipy.fft import dctn

from mmtab.prepare.check.alarms import MAX_PRINTS, N_EXAMPLES, Print, Severity, counted
from mmtab.prepare.check.reader import Finding

SIDE, BITS = 64, 256  # pixels that are hashed, and bits of a hash
SMALL, N_BLOCKS = 32, 4  # pixels of a thumbnail, and the blocks in a row that it is compared by
FLAT = 6.0  # standard deviation of grey, 0 to 255, below which a picture shows nothing to compare
SIGN = 0.04  # share of the variance that two colours leave, up to which it is a sign on a ground: many look alike
REPEATED = 5  # rows of a table with one picture, beyond which it stands for none: a logo, "no photo"
N_NEIGHBOURS, NEAR_BITS = 4, 80  # pictures of train that are looked at, if no more bits differ; by chance 128 do
CUTS = (0.0, 0.015, 0.03, 0.045)  # of each edge, that may be missing
NEAR, NEAR_BLOCK = 0.25, 22.0  # largest difference of thumbnails, of their contrast; and of blocks, in steps of colour
FAR = 4.0  # times as much
MAX_ASKED = 20_000  # pictures of a held-out split
GRADES = (0.10, Severity.SEVERE), (0.01, Severity.WARNING), (0.0, Severity.NOTE)


def picture_print(picture: Image.Image) -> bytes | None:
    """A perceptual hash, BITS bits of the low frequencies of grey (pHash, Zauner 2010), and a thumbnail in colour,
    [SMALL, SMALL, 3] uint8; None of a picture that is flat, or a sign of one colour on a ground."""
    colour = picture.convert("RGB")
    grey = np.asarray(colour.convert("L").resize((SIDE, SIDE), Image.Resampling.BOX), np.float32)
    if grey.std() < FLAT:
        return None
    low = dctn(grey, norm="ortho")[:16, :16].ravel()
    small = colour.resize((SMALL, SMALL), Image.Resampling.BOX)
    if _unexplained(np.asarray(small, np.float32).reshape(-1, 3)) <= SIGN:
        return None
    return np.packbits(low > np.median(low[1:])).tobytes() + small.tobytes()


def _unexplained(pixels: np.ndarray) -> float:
    """The share of the variance of pixels [n, 3] that is left when light and dark ones have a colour each."""
    grey = pixels.mean(1)
    light = grey > (grey.min() + grey.max()) / 2
    left = sum(np.square(part - part.mean(0)).sum() for part in (pixels[light], pixels[~light]) if len(part))
    return float(left / max(np.square(pixels - pixels.mean(0)).sum(), 1))


def near_pictures(prints: Mapping[str, Sequence[Print]]) -> Iterator[Finding]:
    """Of each image column, pictures of valid and test that are nearly one of train. ``prints``: by column."""
    for column, of_column in prints.items():
        tables: dict[str, list[Print]] = {}
        for one in of_column:
            tables.setdefault(one.table, []).append(one)
        for name, of_table in tables.items():
            n_rows = Counter(one.content for one in of_table)
            tables[name] = [one for one in of_table if n_rows[one.content] <= REPEATED]
        train = tables.pop("train", [])
        for name, held_out in tables.items() if train else ():
            asked = held_out
            if len(held_out) > MAX_ASKED:
                chosen = np.random.default_rng(0).choice(len(held_out), MAX_ASKED, replace=False)
                asked = [held_out[i] for i in np.sort(chosen)]
            place = _nearest(asked, train)
            hits = np.flatnonzero(place >= 0)
            rest = f"are nearly one of train (column {column}): if they show the same thing, split again by a column"
            rest += " that groups them"
            if len(asked) < len(held_out) or len(of_column) >= MAX_PRINTS:
                rest += f" (an estimate from {len(asked):,} pictures, looked up in {len(train):,} of train)"
            pairs = [(asked[i], train[place[i]]) for i in hits[:N_EXAMPLES]]
            examples = [tuple((one.table, one.row, f", {one.name}") for one in pair) for pair in pairs]
            what, kind = f"pictures of {name}", "near_picture_across_splits"
            for alarm in counted(GRADES, kind, what, rest, len(hits), max(len(asked), 1), table=name):
                yield Finding(replace(alarm, column=column), examples)


def _nearest(asked: Sequence[Print], train: Sequence[Print]) -> np.ndarray:
    """[n] int64: for each picture the nearest of train, -1 where none is near."""
    import faiss

    (bits, small), (train_bits, train_small) = _arrays(asked), _arrays(train)
    index = faiss.IndexBinaryFlat(BITS)
    index.add(train_bits)
    distance, place = index.search(bits, min(N_NEIGHBOURS, len(train)))
    nearest, least = np.full(len(asked), -1), np.ones(len(asked))
    for k in range(place.shape[1]):
        rows = np.flatnonzero(distance[:, k] <= NEAR_BITS)
        for start in range(0, len(rows), 1024):
            some = rows[start : start + 1024]
            differs = _difference(small[some], train_small[place[some, k]])
            better = differs < least[some]
            nearest[some[better]], least[some[better]] = place[some[better], k], differs[better]
    return nearest


def _difference(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """[n] of thumbnails [n, SMALL, SMALL, 3]: how much they differ, 1 at most for near ones, with the cut of either at
    which they differ least. The block that differs most counts too, for things of a kind differ in little besides."""
    a, b = a.astype(np.float32), b.astype(np.float32)
    contrast = np.maximum(np.maximum(a.std((1, 2)).mean(1), b.std((1, 2)).mean(1)), 1)
    best, side, rows = np.full(len(a), np.inf), SMALL // N_BLOCKS, np.arange(len(a))
    for zoom in map(_zoom, CUTS):
        for whole, other in ((a[rows], b[rows]), (b[rows], a[rows])):
            inside = np.einsum("ij,njkc,lk->nilc", zoom, whole, zoom, optimize=True)
            squares = np.square(inside - other).mean(3).reshape(-1, N_BLOCKS, side, N_BLOCKS, side).mean((2, 4))
            of_all, of_block = np.sqrt(squares.mean((1, 2))), np.sqrt(squares.max((1, 2)))
            differs = np.maximum(of_all / (NEAR * contrast[rows]), of_block / NEAR_BLOCK)
            best[rows] = np.minimum(best[rows], differs)
        rows = rows[best[rows] <= FAR]  # no cut brings near what is farther
    return best


def _zoom(cut: float) -> np.ndarray:
    """[SMALL, SMALL] float32 weights that stretch a line of pixels whose ends are cut off, by linear interpolation."""
    at = (np.arange(SMALL) + 0.5) * (1 - 2 * cut) + cut * SMALL - 0.5
    low = np.clip(np.floor(at), 0, SMALL - 2).astype(int)
    weights, rows = np.zeros((SMALL, SMALL), np.float32), np.arange(SMALL)
    share = np.clip(at - low, 0, 1)
    weights[rows, low], weights[rows, low + 1] = 1 - share, share
    return weights


def _arrays(prints: Sequence[Print]) -> tuple[np.ndarray, np.ndarray]:
    """Hashes [n, BITS / 8] and thumbnails [n, SMALL, SMALL, 3], uint8."""
    every = np.frombuffer(b"".join(one.look for one in prints), np.uint8).reshape(len(prints), -1)
    return np.ascontiguousarray(every[:, : BITS // 8]), every[:, BITS // 8 :].reshape(-1, SMALL, SMALL, 3)
