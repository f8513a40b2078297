"""The formulas of `reference` as loops. All arrays of a call are read in the order of memory of the first, which is
the one that is written, so that every loop runs over plain vectors, whatever the axes are called.

A parallel iteration of batch-last images, (C, H, W, N) in memory, is a row in all channels: convolutions and pooling
share out rows, too, so a thread finds in its own cache what it wrote there.
"""

import math

import numpy as np

from ministn.kernels._layout import from_batch_last, is_batch_last
from ministn.kernels.compiled import compiled, parallel_for
from ministn.kernels.simd import Size, filled, keep_larger, keep_positive, load, multiply, store
from ministn.ops.elementwise import reference

_PART = 2**13  # numbers of one parallel iteration where there are no images
_LANES = Size(16)  # images that are taken at a time


def relu(x):
    """As `reference.relu`, in the memory order of `x`."""
    y = np.empty_like(x)
    if _are_images(x):
        _relu_images(*_rows(x), *_vectors(y, x))
    else:
        _relu(-(-x.size // _PART), *_vectors(y, x))
    return y


def relu_gradient(grad_output, y):
    """As `reference.relu_gradient`, in the memory order of `y`."""
    dx = np.empty_like(y)
    if _are_images(y):
        _relu_gradient_images(*_rows(y), *_vectors(dx, grad_output, y))
    else:
        _relu_gradient(-(-y.size // _PART), *_vectors(dx, grad_output, y))
    return dx


def random_mask(generator, shape, p, factor, like):
    """As `reference.random_mask`. NumPy asks of every number whether it is kept, and a processor guesses half of them
    wrong."""
    draws, number = generator.random(shape, dtype=np.float32), like.dtype.type(factor)
    if like.flags.c_contiguous:
        mask = np.empty(shape, like.dtype)
        _mask(mask.reshape(1, -1), draws.reshape(-1, 1), np.float32(p), number)
        return mask
    mask = np.empty((*shape[1:], shape[0]), like.dtype)
    size = shape[0], draws[:1].size
    _mask(mask.reshape(size[::-1]), draws.reshape(size), np.float32(p), number)
    return from_batch_last(mask)


def scaled(x, scale):
    """As `reference.scaled`, in the memory order of `x`."""
    if not _are_images(x) or scale.shape != (*x.shape[:2], 1, 1):
        return reference.scaled(x, scale)
    y = np.empty_like(x)
    _scaled_images(*_rows(x), *_vectors(y, x), np.ascontiguousarray(scale.reshape(scale.shape[:2]).T).reshape(-1))
    return y


def with_channels(x, channels):
    """As `reference.with_channels`."""
    if not _are_images(x):
        return reference.with_channels(x, channels)
    N, C, H, W = x.shape
    y = np.empty((C + len(channels), H, W, N), x.dtype)
    _with_channels(H, _LANES, x.transpose(1, 2, 3, 0), channels, y)
    return from_batch_last(y)


def add_scaled_(x, factor, y):
    """As `reference.add_scaled_`."""
    # as most are: without more questions, once for each parameter
    if x.shape == y.shape and x.flags.c_contiguous and y.flags.c_contiguous:
        return _add_scaled(x.reshape(-1), y.reshape(-1), factor)
    if not _in_one_order(x):
        return reference.add_scaled_(x, factor, y)
    _add_scaled(*_vectors(x, y), factor)


def scale_and_add_(x, factor, y):
    """As `reference.scale_and_add_`."""
    if not _in_one_order(x):
        return reference.scale_and_add_(x, factor, y)
    _scale_and_add(*_vectors(x, y), factor)


def adam_(w, m, v, g, beta1, beta2, rate, scale, eps, decay=1.0):
    """As `reference.adam_`."""
    if not _in_one_order(w, m, v):
        return reference.adam_(w, m, v, g, beta1, beta2, rate, scale, eps, decay)
    if decay != 1:
        w *= decay
    _adam(*_vectors(w, m, v, g), (1 - beta1, beta2, 1 - beta2, rate, scale, eps))


def _in_one_order(*arrays):
    """Whether all have as many numbers, in the same order and without gaps, so that vectors of them are views."""
    first, *others = arrays
    without_gaps = first.flags.forc or np.may_share_memory(first.ravel("K"), first)
    return without_gaps and all([_is_like(first, array) for array in others])


def _vectors(first, *arrays):
    """All as vectors in the memory order of `first`; copies of those that have another."""
    return [first.ravel("K"), *[_like(first, array).ravel("K") for array in arrays]]


def _is_like(first, array):
    return array.shape == first.shape and array.strides == first.strides


def _like(first, array):
    """`array`, or a copy of it, repeated where it has to be, in the memory order of `first`."""
    if _is_like(first, array):
        return array
    same = np.empty_like(first)
    same[...] = array
    return same


def _are_images(x):
    """Whether `x` is batch-last and has enough images for a vector."""
    return x.ndim == 4 and len(x) >= len(_LANES) and is_batch_last(x)


def _rows(x):
    """The rows H, of which each is a parallel iteration; how many numbers are taken at a time; and C, W and N."""
    N, C, H, W = x.shape
    return H, _LANES, (C, W, N)


@compiled
def _relu_images(rows, lanes, shape, y, x):
    parallel_for(_relu_row, rows, (rows, lanes, shape, y, x))


@compiled
def _relu_row(i, rows, lanes, shape, y, x):
    """y = 0, or x where that is larger, or NaN"""
    C, K = shape[0], shape[1] * shape[2]
    for c in range(C):
        for block in range(0, K, len(lanes)):
            k = (c * rows + i) * K + min(block, K - len(lanes))  # the last block reaches back
            value, _ = keep_larger(filled(lanes, x, 0), filled(lanes, x, 0), load(lanes, x, k), 0)
            store(value, 1, 0, y, k, 0)


@compiled
def _relu_gradient_images(rows, lanes, shape, dx, g, y):
    parallel_for(_relu_gradient_row, rows, (rows, lanes, shape, dx, g, y))


@compiled
def _relu_gradient_row(i, rows, lanes, shape, dx, g, y):
    """dx = g where y > 0, else 0"""
    C, K = shape[0], shape[1] * shape[2]
    for c in range(C):
        for block in range(0, K, len(lanes)):
            k = (c * rows + i) * K + min(block, K - len(lanes))
            store(keep_positive(load(lanes, g, k), load(lanes, y, k)), 1, 0, dx, k, 0)


@compiled
def _mask(y, draws, p, factor):
    """y[m, n] = factor where draws[n, m] >= p, else 0"""
    M, N = y.shape
    for m in range(M):
        for n in range(N):
            y[m, n] = factor if draws[n, m] >= p else y.dtype.type(0)


@compiled
def _scaled_images(rows, lanes, shape, y, x, scale):
    parallel_for(_scaled_row, rows, (rows, lanes, shape, y, x, scale))


@compiled
def _scaled_row(i, rows, lanes, shape, y, x, scale):
    """y[c, i, j, n] = scale[c, n] x[c, i, j, n]"""
    C, W, N = shape
    for c in range(C):
        for j in range(W):
            for block in range(0, N, len(lanes)):
                n = min(block, N - len(lanes))
                k = ((c * rows + i) * W + j) * N + n
                store(multiply(load(lanes, scale, c * N + n), load(lanes, x, k)), 1, 0, y, k, 0)


@compiled
def _with_channels(rows, lanes, x, channels, y):
    parallel_for(_row_with_channels, rows, (lanes, x, channels, y))


@compiled
def _row_with_channels(i, lanes, x, channels, y):
    """y[c, i, j, n] = x[c, i, j, n], and channels[c - C, i, j] for the channels c from C on"""
    C, H, W, N = x.shape
    for c in range(len(y)):
        for block in range(0, W * N if c < C else 0, len(lanes)):
            k = min(block, W * N - len(lanes))  # the last block reaches back
            store(load(lanes, x, (c * H + i) * W * N + k), 1, 0, y, (c * H + i) * W * N + k, 0)
        for j in range(W if c >= C else 0):
            value = filled(lanes, y, channels[c - C, i, j])
            for block in range(0, N, len(lanes)):
                n = min(block, N - len(lanes))
                store(value, 1, 0, y, ((c * H + i) * W + j) * N + n, 0)


@compiled
def _relu(parts, *arrays):
    parallel_for(_relu_part, parts, arrays)


@compiled
def _relu_part(part, y, x):
    y, x = y[part * _PART :][:_PART], x[part * _PART :][:_PART]
    nothing = x.dtype.type(0)
    for k in range(x.size):
        y[k] = nothing if x[k] <= nothing else x[k]  # a NaN is not <= 0


@compiled
def _relu_gradient(parts, *arrays):
    parallel_for(_relu_gradient_part, parts, arrays)


@compiled
def _relu_gradient_part(part, dx, g, y):
    dx, g, y = dx[part * _PART :][:_PART], g[part * _PART :][:_PART], y[part * _PART :][:_PART]
    nothing = g.dtype.type(0)
    for k in range(g.size):
        dx[k] = g[k] if y[k] > nothing else nothing


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
