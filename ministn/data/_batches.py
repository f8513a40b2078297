"""A mini-batch in one pass over its pixels."""

from __future__ import annotations

from typing import Any

import numpy as np

from ministn.kernels._layout import from_batch_last
from ministn.kernels.compiled import compiled


def normalised(images: np.ndarray, scale: Any, offset: Any) -> np.ndarray:
    """scale v + offset of all pixels v.

    Parameters
    ----------
    images : uint8 ndarray, shape (B, H, W)
    scale, offset : float32

    Returns
    -------
    float32 ndarray, shape (B, 1, H, W)
        In batch-last memory.
    """
    count, height, width = images.shape
    batch = np.empty((1, height, width, count), np.float32)
    _normalise(images.reshape(-1), batch.reshape(-1), count, scale, offset)
    return from_batch_last(batch)


@compiled
def _normalise(pixels, batch, count, scale, offset):
    """batch[p, b] = scale pixels[b, p] + offset"""
    size = batch.size // count
    for p in range(size):
        to = np.uintp(p * count)
        for b in range(np.uintp(count)):
            batch[to + b] = scale * np.float32(pixels[np.uintp(p) + b * np.uintp(size)]) + offset
