"""A mini-batch in one pass over its pixels."""

from __future__ import annotations

from typing import Any

import numpy as np

from ministn.kernels._layout import from_batch_last
from ministn.kernels.compiled import compiled, parallel_for


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
    _normalise(height, images, batch[0], scale, offset)
    return from_batch_last(batch)


@compiled
def _normalise(rows, *arguments):
    parallel_for(_normalise_row, rows, arguments)


@compiled
def _normalise_row(i, images, batch, scale, offset):
    """batch[i, j, b] = scale images[b, i, j] + offset"""
    count, _, width = images.shape
    for j in range(width):
        for b in range(count):
            batch[i, j, b] = scale * np.float32(images[b, i, j]) + offset
