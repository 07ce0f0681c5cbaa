"""Pictures of a table: their distinct ones for a batch, and the mean features of a cell's."""

from __future__ import annotations

import numpy as np
import torch

from mmtab.features.batches import ImageBatch


def image_batch(index: np.ndarray, pixels: np.ndarray | None, features: np.ndarray | None) -> ImageBatch:
    """The distinct pictures of some rows.

    index     [b, c, j] int32 places among all pictures, -1 where there is none
    pixels    [m, 3, h, w] uint8 of all pictures, which are taken where there are no features
    features  [m, f] float16 of all pictures
    """
    distinct, places = np.unique(index, return_inverse=True)
    places = places.reshape(index.shape)
    if len(distinct) and distinct[0] < 0:  # -1, no picture, sorts first
        distinct, places = distinct[1:], places - 1
    return ImageBatch(
        torch.from_numpy(places.astype(np.int64)),
        pixels=torch.from_numpy(pixels[distinct]) if features is None and pixels is not None else None,
        features=None if features is None else torch.from_numpy(features[distinct]),
    )


def mean_features(index: np.ndarray, features: np.ndarray) -> np.ndarray:
    """[n, f] float16: the mean features of each cell's pictures, NaN where it has none.

    index     [n, j] places of a column's pictures among all, -1 where there is none
    features  [m, f] float16 of all pictures
    """
    out = np.full((len(index), features.shape[1]), np.nan, np.float16)
    for start in range(0, len(index) if len(features) else 0, 1024):
        places = index[start : start + 1024]
        count = (places >= 0).sum(1)[:, None]
        total = (features[np.maximum(places, 0)].astype(np.float32) * (places >= 0)[..., None]).sum(1)
        out[start : start + 1024] = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    return out
