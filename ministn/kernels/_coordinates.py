"""Normalised coordinates: the one place that says which x in [-1, 1] pixel j of a row has.

======================  =====================================  ==============================================
convention              pixel j of a row of n has              -1 and +1 are
======================  =====================================  ==============================================
align_corners=False     x = (2 j + 1) / n - 1                  the outer edges of the first and last pixel
align_corners=True      x = 2 j / (n - 1) - 1                  the centres of the first and last pixel
======================  =====================================  ==============================================
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np


@functools.lru_cache(maxsize=64)
def pixel_centres(count: int, align_corners: bool, dtype: Any) -> np.ndarray:
    """The normalised coordinates of the `count` pixels of a row, shape (count,); read-only.

    An identity transform samples exactly at pixel centres, where the slope of bilinear sampling jumps. On which side
    of the jump a sample falls is decided by the last bit of these numbers, so they are computed as PyTorch computes
    them: steps of 2 / (n - 1) from both ends, rounded once, and shrunk by (n - 1) / n for ``align_corners=False``.
    """
    dtype = np.dtype(dtype).type
    if count == 1:
        centres = np.zeros(1, dtype)  # one pixel is the centre, in either convention
    else:
        step = np.longdouble(dtype(2) / dtype(count - 1))
        from_left = np.arange(count)
        from_right = count - 1 - from_left
        centres = np.where(from_left < count // 2, -1 + step * from_left, 1 - step * from_right).astype(dtype)
        if not align_corners:
            centres = centres * dtype(count - 1) / dtype(count)
    centres.flags.writeable = False
    return centres


def to_pixels(x: np.ndarray, count: int, align_corners: bool) -> np.ndarray:
    """Normalised coordinates as pixel coordinates, whole numbers at pixel centres: the inverse of `pixel_centres`.

    ((x + 1) n - 1) / 2, or (x + 1) (n - 1) / 2 with ``align_corners=True``. Product and difference are rounded once,
    as a processor's fused multiply-add does, which the loops and PyTorch use: see the remark in `pixel_centres`.
    """
    dtype = x.dtype.type
    scale, shift = ((count - 1) / 2, 0.0) if align_corners else (count / 2, 0.5)
    return ((x + dtype(1)).astype(np.longdouble) * scale - shift).astype(x.dtype)
