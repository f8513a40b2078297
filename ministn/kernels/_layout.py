"""Memory layouts of an image batch. The shape is (N, C, H, W) everywhere; the memory behind it may be

* **NCHW**: W is the fastest axis, as NumPy makes arrays;
* **batch-last**: N is the fastest axis. A loop over 16 images is then one vector instruction, whatever the image
  size, and flattening (N, C, H, W) to (N, C H W) is a view.

Both are ordinary strides, so NumPy expressions work on either and keep it. A kernel asks for the one it wants with
`nchw` or `batch_last`, which copy only where the memory is not already so.
"""

from __future__ import annotations

import numpy as np

_MANY = 8192  # numbers from which on the compiled transpose pays


def nchw(x: np.ndarray) -> np.ndarray:
    """`x` with the last axis fastest: the same array if it already is C-contiguous, else a copy."""
    if x.size >= _MANY and x.ndim > 1 and not x.flags.c_contiguous and is_batch_last(x):
        return _transpose(x.transpose(*range(1, x.ndim), 0).reshape(-1, len(x))).reshape(x.shape)
    return np.ascontiguousarray(x)


def batch_last(x: np.ndarray) -> np.ndarray:
    """The values of `x` of shape (N, ...) as a C-contiguous array of shape (..., N); no copy if the memory is so."""
    if x.size >= _MANY and x.ndim > 1 and x.flags.c_contiguous and not is_batch_last(x):
        return _transpose(x.reshape(len(x), -1)).reshape(*x.shape[1:], len(x))
    return np.ascontiguousarray(x.transpose(*range(1, x.ndim), 0))


def from_batch_last(x: np.ndarray) -> np.ndarray:
    """The (N, ...) view of an array of shape (..., N)."""
    return x.transpose(-1, *range(x.ndim - 1))


def is_batch_last(x: np.ndarray) -> bool:
    """Whether the memory of `x`, shape (N, ...), has N as its fastest axis."""
    return x.transpose(*range(1, x.ndim), 0).flags.c_contiguous


def _transpose(x: np.ndarray) -> np.ndarray:
    """The transpose of a C-contiguous matrix, C-contiguous itself."""
    if x.dtype.kind == "f" and min(x.shape) >= 16:  # loops need room for a tile; they load Numba when they are needed
        from ministn.kernels._transpose import transpose

        return transpose(x)
    return np.ascontiguousarray(x.T)
