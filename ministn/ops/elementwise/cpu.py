"""The formulas of `reference` as loops. All arrays of a call are read in the order of memory of the first, which is
the one that is written, so that every loop runs over plain vectors, whatever the axes are called.

A parallel iteration of a batch-last image, (C, H, W, N) in memory, is the same row of all channels: convolutions and
pooling share out rows too, so a thread finds in its own cache what it wrote there.
"""

import math

import numpy as np

from ministn.kernels._layout import is_batch_last
from ministn.kernels.compiled import compiled, parallel_for
from ministn.ops.elementwise import reference

_PART = 2**13  # numbers of one parallel iteration where there are no rows


def relu(x):
    """As `reference.relu`, in the memory order of `x`."""
    y = np.empty_like(x)
    _relu(*_rows(x), *_vectors(y, x))
    return y


def relu_gradient(grad_output, y):
    """As `reference.relu_gradient`, in the memory order of `y`."""
    dx = np.empty_like(y)
    _relu_gradient(*_rows(y), *_vectors(dx, grad_output, y))
    return dx


def scaled(x, scale):
    """As `reference.scaled`, in the memory order of `x`."""
    if x.ndim != 4 or not is_batch_last(x) or scale.shape != (*x.shape[:2], 1, 1):
        return reference.scaled(x, scale)
    y = np.empty_like(x)
    _scaled(x.shape[2], *_vectors(y, x), np.ascontiguousarray(scale.reshape(scale.shape[:2]).T))
    return y


def add_scaled_(x, factor, y):
    """As `reference.add_scaled_`."""
    if not _in_one_order(x):
        return reference.add_scaled_(x, factor, y)
    _add_scaled(*_vectors(x, y), factor)


def scale_and_add_(x, factor, y):
    """As `reference.scale_and_add_`."""
    if not _in_one_order(x):
        return reference.scale_and_add_(x, factor, y)
    _scale_and_add(*_vectors(x, y), factor)


def adam_(w, m, v, g, beta1, beta2, rate, scale, eps):
    """As `reference.adam_`."""
    if not _in_one_order(w, m, v):
        return reference.adam_(w, m, v, g, beta1, beta2, rate, scale, eps)
    _adam(*_vectors(w, m, v, g), (1 - beta1, beta2, 1 - beta2, rate, scale, eps))


def _in_one_order(*arrays):
    """Whether all have their numbers in the same order and without gaps, so that vectors of them are views."""
    first, *others = arrays
    without_gaps = first.flags.forc or np.may_share_memory(first.ravel("K"), first)
    return without_gaps and all([array.strides == first.strides for array in others])


def _vectors(first, *arrays):
    """All as vectors in the memory order of `first`; copies of those that have another."""
    return [first.ravel("K"), *[_like(first, array).ravel("K") for array in arrays]]


def _like(first, array):
    if array.strides == first.strides:
        return array
    same = np.empty_like(first)
    same[...] = array
    return same


def _rows(x):
    """For the vector of all numbers of `x`: parallel iterations, and the channels and numbers of a row of each."""
    if x.ndim == 4 and is_batch_last(x):
        return x.shape[2], x.shape[1], x.shape[3] * x.shape[0]
    return -(-x.size // _PART), 1, _PART


@compiled
def _relu(rows, channels, length, *vectors):
    parallel_for(_relu_row, rows, (rows, channels, length, *vectors))


@compiled
def _relu_row(row, rows, channels, length, y, x):
    nothing = x.dtype.type(0)
    for c in range(channels):
        start = (c * rows + row) * length
        y_row, x_row = y[start:][:length], x[start:][:length]
        for k in range(x_row.size):
            y_row[k] = nothing if x_row[k] <= nothing else x_row[k]  # a NaN is not <= 0


@compiled
def _relu_gradient(rows, channels, length, *vectors):
    parallel_for(_relu_gradient_row, rows, (rows, channels, length, *vectors))


@compiled
def _relu_gradient_row(row, rows, channels, length, dx, g, y):
    nothing = g.dtype.type(0)
    for c in range(channels):
        start = (c * rows + row) * length
        dx_row, g_row, y_row = dx[start:][:length], g[start:][:length], y[start:][:length]
        for k in range(g_row.size):
            dx_row[k] = g_row[k] if y_row[k] > nothing else nothing


@compiled
def _scaled(rows, *arrays):
    parallel_for(_scaled_row, rows, (rows, *arrays))


@compiled
def _scaled_row(row, rows, y, x, scale):
    """y[c, row, j, n] = scale[c, n] x[c, row, j, n]"""
    C, N = scale.shape
    pixels = x.size // (C * rows * N)
    for c in range(C):
        for j in range(pixels):
            start = ((c * rows + row) * pixels + j) * N
            y_pixel, x_pixel, s = y[start:][:N], x[start:][:N], scale[c]
            for n in range(N):
                y_pixel[n] = s[n] * x_pixel[n]


@compiled
def _add_scaled(x, y, factor):
    factor = x.dtype.type(factor)
    for k in range(x.size):
        x[k] += factor * y[k]


@compiled
def _scale_and_add(x, y, factor):
    factor = x.dtype.type(factor)
    for k in range(x.size):
        x[k] = factor * x[k] + y[k]


@compiled
def _adam(w, m, v, g, numbers):
    number = w.dtype.type
    weight1, beta2, weight2 = number(numbers[0]), number(numbers[1]), number(numbers[2])
    rate, scale, eps = number(numbers[3]), number(numbers[4]), number(numbers[5])
    for k in range(w.size):
        m[k] += weight1 * (g[k] - m[k])
        v[k] = beta2 * v[k] + weight2 * (g[k] * g[k])
        w[k] -= rate * m[k] / (math.sqrt(v[k]) / scale + eps)
