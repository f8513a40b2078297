"""The batch that the GPU's kernel makes, as NumPy makes it: what the kernel is tested against.

On the CPU the images are gathered by NumPy and normalised by the loops of `_batches`.
"""

from __future__ import annotations

import numpy as np


def gathered(
    images: np.ndarray, labels: np.ndarray, normalised: np.ndarray, order: np.ndarray, shifts: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """batch[b, 0, i, j] = normalised[images[order[b], i - dy_b, j - dx_b]], pixel 0 where that is outside.

    Parameters
    ----------
    images : uint8 array, shape (N, H, W)
    labels : int64 array, shape (N,)
    normalised : array, shape (256,)
        What each pixel value becomes.
    order : int64 array, shape (B,)
        The numbers of the images.
    shifts : int32 array, shape (B, 2)
        dy and dx.

    Returns
    -------
    batch : array, shape (B, 1, H, W)
    labels : int64 array, shape (B,)
    """
    _, height, width = images.shape
    i = np.arange(height)[:, None] - shifts[:, 0, None, None]
    j = np.arange(width) - shifts[:, 1, None, None]
    inside = (i >= 0) & (i < height) & (j >= 0) & (j < width)
    pixels = images[order[:, None, None], i.clip(0, height - 1), j.clip(0, width - 1)]
    return normalised[np.where(inside, pixels, 0)][:, None], labels[order]
