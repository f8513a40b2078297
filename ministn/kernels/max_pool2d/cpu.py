"""max_pool2d, the loops. Arrays are batch-last, (C, H, W, N): the inner loop runs over the images, one vector at a
time. One parallel iteration makes an output row of one channel in `_forward`, an input row of one channel in
`_backward`, and writes nothing else: windows may overlap, yet nothing races, and the order of sums is the same for any
number of threads.
"""

from typing import Any

import numpy as np
from numba import njit, prange

from ministn.kernels._layout import batch_last, from_batch_last

_OPTIONS: dict[str, Any] = {"cache": True, "nogil": True, "error_model": "numpy"}


def forward(x, kernel, stride, padding, output_size):
    """As `reference.forward`; the memory of both results is batch-last."""
    x = batch_last(x)
    size = (x.shape[0], *output_size, x.shape[3])
    y, taps = np.empty(size, x.dtype), np.empty(size, np.uint8 if kernel[0] * kernel[1] <= 256 else np.uint32)
    _forward(x, y, taps, kernel, stride, padding)
    return from_batch_last(y), from_batch_last(taps)


def backward(grad_output, taps, kernel, stride, padding, image_size):
    """As `reference.backward`; the memory of the result is batch-last."""
    g = batch_last(grad_output)
    dx = np.empty((g.shape[0], *image_size, g.shape[3]), g.dtype)
    _backward(g, batch_last(taps), dx, kernel, stride, padding)
    return from_batch_last(dx)


@njit(parallel=True, **_OPTIONS)
def _forward(x, y, taps, kernel, stride, padding):
    """y[c, i, j] = max over u, v of x[c, p, q] where p = i s_h - P_h + u and q = j s_w - P_w + v,
    taps[c, i, j] = u KW + v of the first largest"""
    (C, H, W, _), (_, OH, OW, _), (KH, KW) = x.shape, y.shape, kernel
    for item in prange(C * OH):
        c, i = item // OH, item % OH
        top = i * stride[0] - padding[0]
        for j in range(OW):
            left = j * stride[1] - padding[1]
            largest, winner = y[c, i, j], taps[c, i, j]
            u0, v0 = max(0, -top), max(0, -left)  # the first tap on the image: it wins even if all are -infinity
            largest[:] = x[c, top + u0, left + v0]
            winner[:] = u0 * KW + v0
            for u in range(u0, min(KH, H - top)):
                for v in range(v0, min(KW, W - left)):
                    _keep_larger(largest, winner, x[c, top + u, left + v], taps.dtype.type(u * KW + v))


@njit(**_OPTIONS)
def _keep_larger(largest, winner, values, tap):
    """Where a value is larger, or NaN, it and its tap replace what was there."""
    for n in range(largest.size):
        wins = (values[n] > largest[n]) | (values[n] != values[n])
        largest[n] = values[n] if wins else largest[n]  # no branch: LLVM makes a masked vector move of it
        winner[n] = tap if wins else winner[n]


@njit(parallel=True, **_OPTIONS)
def _backward(g, taps, dx, kernel, stride, padding):
    """dx[c, p, q] = sum over u, v of g[c, i, j]
    where p = i s_h - P_h + u, q = j s_w - P_w + v and taps[c, i, j] = u KW + v"""
    (C, H, W, _), (_, OH, OW, _), (KH, KW) = dx.shape, g.shape, kernel
    for item in prange(C * H):
        c, p = item // H, item % H
        dx[c, p] = 0
        for u in range(KH):
            i, between = divmod(p + padding[0] - u, stride[0])
            if between == 0 and 0 <= i < OH:  # tap row u of window row i lies on this input row
                for j in range(OW):
                    left = j * stride[1] - padding[1]
                    for v in range(max(0, -left), min(KW, W - left)):
                        _add_where_won(dx[c, p, left + v], g[c, i, j], taps[c, i, j], taps.dtype.type(u * KW + v))


@njit(**_OPTIONS)
def _add_where_won(to, g, winner, tap):
    nothing = to.dtype.type(0)
    for n in range(to.size):
        to[n] += g[n] if winner[n] == tap else nothing
