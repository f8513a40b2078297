"""avg_pool2d, the loops. Arrays are batch-last, (C, H, W, N): the inner loop runs over the images, one vector at a
time. One parallel iteration makes an output row of one channel in `_forward`, an input row of one channel in
`_backward`, and writes nothing else: windows may overlap, yet nothing races, and the order of sums is the same for any
number of threads.
"""

from typing import Any

import numpy as np
from numba import njit, prange

from ministn.kernels._layout import batch_last, from_batch_last
from ministn.kernels._pooling import window_length

_OPTIONS: dict[str, Any] = {"cache": True, "nogil": True, "error_model": "numpy"}


def forward(x, kernel, stride, padding, count_include_pad, output_size):
    """As `reference.forward`; the memory of the result is batch-last."""
    x = batch_last(x)
    y = np.empty((x.shape[0], *output_size, x.shape[3]), x.dtype)
    _forward(x, y, _share(x, y, kernel, stride, padding, count_include_pad), kernel, stride, padding)
    return from_batch_last(y)


def backward(grad_output, kernel, stride, padding, count_include_pad, image_size):
    """As `reference.backward`; the memory of the result is batch-last."""
    g = batch_last(grad_output)
    dx = np.empty((g.shape[0], *image_size, g.shape[3]), g.dtype)
    _backward(g, dx, _share(dx, g, kernel, stride, padding, count_include_pad), kernel, stride, padding)
    return from_batch_last(dx)


def _share(x, y, kernel, stride, padding, count_include_pad):
    """1 / (m_i m_j), shape (OH, OW): the share of each pixel of window (i, j) in its mean."""
    rows, columns = (
        window_length(x.shape[1 + a], kernel[a], stride[a], padding[a], count_include_pad, y.shape[1 + a])
        for a in range(2)
    )
    return (1 / np.outer(rows, columns)).astype(x.dtype)


@njit(parallel=True, **_OPTIONS)
def _forward(x, y, share, kernel, stride, padding):
    """y[c, i, j] = sum over u, v of share[i, j] x[c, p, q] where p = i s_h - P_h + u and q = j s_w - P_w + v"""
    (C, H, W, _), (_, OH, OW, _), (KH, KW) = x.shape, y.shape, kernel
    for item in prange(C * OH):
        c, i = item // OH, item % OH
        top = i * stride[0] - padding[0]
        for j in range(OW):
            left = j * stride[1] - padding[1]
            y[c, i, j] = 0
            for u in range(max(0, -top), min(KH, H - top)):
                for v in range(max(0, -left), min(KW, W - left)):
                    _add(y[c, i, j], x[c, top + u, left + v])
            y[c, i, j] *= share[i, j]


@njit(parallel=True, **_OPTIONS)
def _backward(g, dx, share, kernel, stride, padding):
    """dx[c, p, q] = sum over u, v of share[i, j] g[c, i, j] where p = i s_h - P_h + u and q = j s_w - P_w + v"""
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
                        _add_share(dx[c, p, left + v], g[c, i, j], share[i, j])


@njit(**_OPTIONS)
def _add(to, values):
    for n in range(to.size):
        to[n] += values[n]


@njit(**_OPTIONS)
def _add_share(to, values, share):
    for n in range(to.size):
        to[n] += share * values[n]
