"""Memory layouts of an image batch. The shape is (N, C, H, W) everywhere; the memory behind it may be

* **NCHW**: W is the fastest axis, as NumPy makes arrays;
* **batch-last**: N is the fastest axis. A loop over 16 images is then one vector instruction, whatever the image
  size, and flattening (N, C, H, W) to (N, C H W) is a view.

Both are ordinary strides, so NumPy expressions work on either and keep it. A kernel asks for the one it wants with
`nchw` or `batch_last`, which copy only where the memory is not already so.
"""

from __future__ import annotations

from typing import Any

import numpy as np


def nchw(x: np.ndarray) -> np.ndarray:
    """`x` with the last axis fastest: the same array if it already is C-contiguous, else a copy."""
    return np.ascontiguousarray(x)


def batch_last(x: np.ndarray) -> np.ndarray:
    """The values of `x` of shape (N, ...) as a C-contiguous array of shape (..., N); no copy if the memory is so."""
    return np.ascontiguousarray(x.transpose(*range(1, x.ndim), 0))


def from_batch_last(x: np.ndarray) -> np.ndarray:
    """The (N, ...) view of an array of shape (..., N)."""
    return x.transpose(-1, *range(x.ndim - 1))


def is_batch_last(x: np.ndarray) -> bool:
    """Whether the memory of `x`, shape (N, ...), has N as its fastest axis."""
    return x.transpose(*range(1, x.ndim), 0).flags.c_contiguous


def image_groups(count: int, dtype: Any) -> int:
    """Into how many groups of equal size kernels divide the images of a batch-last array, so that each thread works on
    its own ones: 4 or 2, if a group then fills whole cache lines and vectors (128 bytes), else 1.

    A kernel's parallel iterations go through one group after the other. Since every kernel hands out consecutive,
    equal shares of them, a thread finds in its own cache what it wrote there in the kernel before. Where there is one
    group, kernels share out rows of the image instead, the upper ones first.
    """
    lanes = 128 // dtype.itemsize
    return next((groups for groups in (4, 2) if count and count % (groups * lanes) == 0), 1)
