"""max_pool2d, the loops. Memory is batch-last, (C, H, W, N), as one vector: `k` runs over the N images of a pixel, at
stride 1 also over the pixels that follow in its row, many at a time (see `ministn.kernels.simd`). One parallel
iteration makes an output row of one channel in `_forward`, one channel in `_backward`, where windows may overlap, an
input row of one channel in `_backward_apart`, and writes nothing else: nothing races, and the order of sums is the same
for any number of threads.
"""

import functools

import numpy as np

from ministn.kernels._layout import batch_last, from_batch_last
from ministn.kernels._pooling import runs
from ministn.kernels.compiled import compiled, parallel_for
from ministn.kernels.simd import Size, filled, keep_larger, keep_where, load, store, store_integers

_LANES = Size(32), Size(16), Size(1)  # images that are pooled at a time: as many as there are
_MANY = 16  # below, others than the images become vectors


def forward(x, kernel, stride, padding, output_size, relu=False):
    """As `reference.forward`; the memory of both results is batch-last."""
    x = batch_last(x)
    channels, *_, images = x.shape
    few = images < _MANY
    if few:  # the channels, which are pooled alike, become the vectors
        x = np.ascontiguousarray(x.transpose(1, 2, 0, 3)).reshape(1, *x.shape[1:3], channels * images)
    size = (x.shape[0], *output_size, x.shape[3])
    y, taps = np.empty(size, x.dtype), np.empty(size, np.uint8 if kernel[0] * kernel[1] < 256 else np.uint32)
    table = _taps(x.shape[1:3], output_size, kernel, stride, padding)
    _forward(size[0] * size[1], _lanes(size[3]), x, y, taps, relu, *table)
    if few:
        y, taps = (a.reshape(*output_size, channels, images).transpose(2, 0, 1, 3) for a in (y, taps))
        y, taps = np.ascontiguousarray(y), np.ascontiguousarray(taps)
    return from_batch_last(y), from_batch_last(taps)


def backward(grad_output, taps, kernel, stride, padding, image_size):
    """As `reference.backward`; the memory of the result is batch-last.

    Windows that overlap write where they must; those that do not are read pixel by pixel, as vectors.
    """
    g, taps = batch_last(grad_output), batch_last(taps)
    dx = np.empty((g.shape[0], *image_size, g.shape[3]), g.dtype)
    if stride[0] >= kernel[0] and stride[1] >= kernel[1] and dx.shape[3] >= _MANY:
        rows = dx.shape[0] * dx.shape[1]
        _backward_apart(rows, _lanes(dx.shape[3]), g, taps, dx, kernel, stride, padding)
    else:
        u, v = np.divmod(np.arange(kernel[0] * kernel[1]), kernel[1])
        offsets = (u * dx.shape[2] + v) * dx.shape[3]  # from the first pixel of a window, in the vector
        arrays = g.reshape(-1), taps.reshape(-1), dx.reshape(-1), dx.shape, g.shape
        _backward(dx.shape[0], *arrays, kernel[0], stride, padding, offsets)
    return from_batch_last(dx)


def _lanes(length):
    return next((lanes for lanes in _LANES if length >= len(lanes)), _LANES[-1])


@functools.lru_cache(maxsize=64)
def _taps(image_size, output_size, kernel, stride, padding):
    """Where each tap of a window reads, p W and q, and its number, u KW and v: rows of taps for each i and each j.

    A tap outside the image reads the nearest pixel of its window instead: a pixel that is met again changes neither
    the maximum nor which tap was the first to have it.
    """
    taps = np.arange(kernel[0] * kernel[1])
    (p, u, _), (q, v, inside) = (
        _clipped(tap, image_size[a], output_size[a], stride[a], padding[a])
        for a, tap in enumerate(np.divmod(taps, kernel[1]))
    )
    return p * image_size[1], q, u * kernel[1], v, runs(inside, stride[1])


def _clipped(tap, length, count, stride, padding):
    first = np.arange(count)[:, None] * stride - padding
    pixel = np.clip(first + tap, 0, length - 1)
    return pixel, pixel - first, (pixel == first + tap).all(axis=1)


@compiled
def _forward(rows, lanes, *arguments):  # a Size in a tuple of arguments takes Numba long to recognise
    parallel_for(_output_row, rows, (lanes, *arguments))


@compiled
def _output_row(item, lanes, x, y, taps, relu, rows, columns, row_taps, column_taps, run):
    """y[c, i, j] = max over u, v of x[c, p, q] where p = i s_h - P_h + u and q = j s_w - P_w + v,
    taps[c, i, j] = u KW + v of the first largest; with `relu`, 0 is there before the first, as tap number KH KW"""
    (_, H, W, N), (C, OH, OW, _) = x.shape, y.shape
    i, c = item // C, item % C
    j = np.intp(0)  # not 0: the compiler would make a loop of its own for that number
    while j < OW:
        to, length = ((c * OH + i) * OW + j) * N, run[j] * N
        for block in range(0, length, len(lanes)):
            k = min(block, length - len(lanes))  # the last block reaches back
            largest = load(lanes, x, (c * H * W + rows[i, 0] + columns[j, 0]) * N + k)
            winner = filled(lanes, x, row_taps[i, 0] + column_taps[j, 0])
            if relu:
                largest, winner = filled(lanes, x, 0), filled(lanes, x, columns.shape[1])
            for t in range(columns.shape[1]):
                value = load(lanes, x, (c * H * W + rows[i, t] + columns[j, t]) * N + k)
                largest, winner = keep_larger(largest, winner, value, row_taps[i, t] + column_taps[j, t])
            store(largest, 1, 0, y, to + k, 0)
            store_integers(winner, taps, to + k)
        j += run[j]


@compiled
def _backward(channels, *arguments):
    parallel_for(_backward_channel, channels, arguments)


@compiled
def _backward_channel(c, g, taps, dx, x_shape, y_shape, KH, stride, padding, offsets):
    """dx[c, p, q] += g[c, i, j] where p = i s_h - P_h + u, q = j s_w - P_w + v and taps[c, i, j] = u KW + v"""
    (_, H, W, N), (_, OH, OW, _) = x_shape, y_shape
    reached = 0  # the rows that are zero or more: each is set when the first window comes to it, and still in the cache
    for i in range(OH):
        end = min(H, i * stride[0] - padding[0] + KH) if i < OH - 1 else H
        rows = np.uintp((c * H + reached) * W * N)
        for k in range(np.uintp((end - reached) * W * N)):
            dx[rows + k] = 0
        reached = end
        for j in range(OW):
            window = ((c * H + i * stride[0] - padding[0]) * W + j * stride[1] - padding[1]) * N
            _scatter(dx, g, taps, window, ((c * OH + i) * OW + j) * N, N, offsets)


@compiled
def _scatter(dx, g, taps, window, pixel, N, offsets):
    """Each image's gradient to the pixel that won there."""
    for n in range(np.uintp(N)):
        tap = np.uintp(taps[np.uintp(pixel) + n])
        if tap < np.uintp(len(offsets)):
            dx[np.uintp(window + offsets[tap]) + n] += g[np.uintp(pixel) + n]


@compiled
def _backward_apart(rows, lanes, *arguments):
    parallel_for(_input_row, rows, (lanes, *arguments))


@compiled
def _input_row(item, lanes, g, taps, dx, kernel, stride, padding):
    """The same for windows that do not overlap: dx[c, p, q] = g[c, i, j] where taps[c, i, j] = u KW + v, else 0"""
    (C, H, W, N), (_, OH, OW, _), (KH, KW) = dx.shape, g.shape, kernel
    p, c = item // C, item % C
    i, u = divmod(p + padding[0], stride[0])
    for q in range(W):
        j, v = divmod(q + padding[1], stride[1])
        to, window = ((c * H + p) * W + q) * N, ((c * OH + i) * OW + j) * N
        for block in range(0, N, len(lanes)):
            k = min(block, N - len(lanes))
            gradient = filled(lanes, dx, 0)
            if i < OH and j < OW and u < KH and v < KW:  # else no window is over this pixel
                gradient = keep_where(load(lanes, g, window + k), taps, window + k, u * KW + v)
            store(gradient, 1, 0, dx, to + k, 0)
