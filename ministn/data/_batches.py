"""A mini-batch in one pass over its pixels."""

from __future__ import annotations

from typing import Any

import numpy as np

from ministn.kernels._layout import from_batch_last
from ministn.kernels.compiled import compiled


def normalised(images: np.ndarray, chosen: np.ndarray, scale: Any, offset: Any) -> np.ndarray:
    """scale v + offset of the pixels v of the `chosen` images.

    Parameters
    ----------
    images : uint8 ndarray, shape (N, H, W)
    chosen : integer ndarray, shape (B,)
        From 0 to N - 1.
    scale, offset : float32

    Returns
    -------
    float32 ndarray, shape (B, 1, H, W)
        In batch-last memory.
    """
    _, height, width = images.shape
    batch = np.empty((1, height, width, len(chosen)), np.float32)
    _normalise(np.ascontiguousarray(images).reshape(-1), chosen * (height * width), batch.reshape(-1), scale, offset)
    return from_batch_last(batch)


@compiled
def _normalise(pixels, starts, batch, scale, offset):
    """batch[p, b] = scale pixels[starts[b] + p] + offset"""
    for p in range(batch.size // starts.size):
        to = np.uintp(p * starts.size)
        for b in range(np.uintp(starts.size)):
            batch[to + b] = scale * np.float32(pixels[np.uintp(starts[b] + p)]) + offset
