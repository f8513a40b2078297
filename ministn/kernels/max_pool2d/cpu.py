"""max_pool2d, the loops. Memory is batch-last, (C, H, W, N), as one vector: `k` runs over the N images of a pixel, at
stride 1 also over the pixels that follow in its row. One parallel iteration makes an output row of one channel in
`_forward`, one channel in `_backward`, where windows may overlap, an input row of one channel in `_backward_apart`,
and writes nothing else: nothing races, and the order of sums is the same for any number of threads. Indices are
`np.uintp`, which cannot be negative: LLVM makes vectors only of loops without that question.
"""

import functools

import numpy as np

from ministn.kernels._layout import batch_last, from_batch_last
from ministn.kernels._pooling import runs
from ministn.kernels.compiled import compiled, parallel_for

_VECTOR = 8  # images from which on vectors pay


def forward(x, kernel, stride, padding, output_size):
    """As `reference.forward`; the memory of both results is batch-last."""
    x = batch_last(x)
    channels, *_, images = x.shape
    few = images < _VECTOR
    if few:  # the channels, which are pooled alike, become the vectors
        x = np.ascontiguousarray(x.transpose(1, 2, 0, 3)).reshape(1, *x.shape[1:3], channels * images)
    size = (x.shape[0], *output_size, x.shape[3])
    y, taps = np.empty(size, x.dtype), np.empty(size, np.uint8 if kernel[0] * kernel[1] <= 256 else np.uint32)
    table = _taps(x.shape[1:3], output_size, kernel, stride, padding)
    _forward(size[0] * size[1], x.reshape(-1), y.reshape(-1), taps.reshape(-1), x.shape, size, *table)
    if few:
        y, taps = (a.reshape(*output_size, channels, images).transpose(2, 0, 1, 3) for a in (y, taps))
    return from_batch_last(np.ascontiguousarray(y)), from_batch_last(np.ascontiguousarray(taps))


def backward(grad_output, taps, kernel, stride, padding, image_size):
    """As `reference.backward`; the memory of the result is batch-last.

    Windows that overlap write where they must; those that do not are read pixel by pixel, as vectors.
    """
    g, taps = batch_last(grad_output), batch_last(taps)
    dx = np.empty((g.shape[0], *image_size, g.shape[3]), g.dtype)
    arrays = g.reshape(-1), taps.reshape(-1), dx.reshape(-1), dx.shape, g.shape
    if stride[0] >= kernel[0] and stride[1] >= kernel[1] and dx.shape[3] >= _VECTOR:
        _backward_apart(dx.shape[0] * dx.shape[1], *arrays, kernel, stride, padding)
    else:
        u, v = np.divmod(np.arange(kernel[0] * kernel[1]), kernel[1])
        offsets = (u * dx.shape[2] + v) * dx.shape[3]  # from the first pixel of a window, in the vector
        _backward(dx.shape[0], *arrays, kernel[0], stride, padding, offsets)
    return from_batch_last(dx)


@functools.lru_cache(maxsize=64)
def _taps(image_size, output_size, kernel, stride, padding):
    """Where each tap of a window reads, p W and q, and its number, u KW and v: rows of T taps for each i and each j.

    A tap outside the image reads the nearest pixel of its window instead, and the last is repeated until T is a
    multiple of four: a pixel that is met again changes neither the maximum nor which tap was the first to have it.
    """
    count = kernel[0] * kernel[1]
    taps = np.minimum(np.arange(-(-count // 4) * 4), count - 1)
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
def _forward(rows, *arguments):
    parallel_for(_output_row, rows, arguments)


@compiled
def _output_row(item, x, y, taps, x_shape, y_shape, rows, columns, row_taps, column_taps, run):
    """y[c, i, j] = max over u, v of x[c, p, q] where p = i s_h - P_h + u and q = j s_w - P_w + v,
    taps[c, i, j] = u KW + v of the first largest"""
    (_, H, W, N), (_, OH, OW, _) = x_shape, y_shape
    c, i = item // OH, item % OH
    j = np.intp(0)  # not 0: the compiler would make a loop of its own for that number
    while j < OW:
        to, length = np.uintp((item * OW + j) * N), np.uintp(run[j] * N)
        for t in range(0, columns.shape[1], 4):
            _keep_largest(x, y, taps, to, length, c * H * W, N, i, j, t, rows, columns, row_taps, column_taps)
        j += run[j]


@compiled
def _keep_largest(x, y, taps, to, length, plane, N, i, j, t, p, q, u, v):
    """Where the value of a tap from t to t + 3 is larger than what is there, or NaN, it and its tap replace that."""
    x0, t0 = np.uintp((plane + p[i, t] + q[j, t]) * N), taps.dtype.type(u[i, t] + v[j, t])
    x1, t1 = np.uintp((plane + p[i, t + 1] + q[j, t + 1]) * N), taps.dtype.type(u[i, t + 1] + v[j, t + 1])
    x2, t2 = np.uintp((plane + p[i, t + 2] + q[j, t + 2]) * N), taps.dtype.type(u[i, t + 2] + v[j, t + 2])
    x3, t3 = np.uintp((plane + p[i, t + 3] + q[j, t + 3]) * N), taps.dtype.type(u[i, t + 3] + v[j, t + 3])
    first = t == 0  # nothing is there yet
    for k in range(length):
        largest, winner = (x[x0 + k] if first else y[to + k]), (t0 if first else taps[to + k])
        largest, winner = _larger(largest, winner, x[x0 + k], t0)
        largest, winner = _larger(largest, winner, x[x1 + k], t1)
        largest, winner = _larger(largest, winner, x[x2 + k], t2)
        largest, winner = _larger(largest, winner, x[x3 + k], t3)
        y[to + k], taps[to + k] = largest, winner


@compiled
def _larger(largest, winner, value, tap):
    wins = (value > largest) | (value != value)  # no branch: LLVM makes masked vector moves of it
    return (value if wins else largest), (tap if wins else winner)


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
        dx[np.uintp(window + offsets[taps[np.uintp(pixel) + n]]) + n] += g[np.uintp(pixel) + n]


@compiled
def _backward_apart(rows, *arguments):
    parallel_for(_input_row, rows, arguments)


@compiled
def _input_row(item, g, taps, dx, x_shape, y_shape, kernel, stride, padding):
    """The same for windows that do not overlap: dx[c, p, q] = g[c, i, j] where taps[c, i, j] = u KW + v, else 0"""
    (_, H, W, N), (_, OH, OW, _), (KH, KW) = x_shape, y_shape, kernel
    c, (i, u) = item // H, divmod(item % H + padding[0], stride[0])
    for q in range(W):
        j, v = divmod(q + padding[1], stride[1])
        to = np.uintp((item * W + q) * N)
        if i < OH and j < OW and u < KH and v < KW:
            window = np.uintp(((c * OH + i) * OW + j) * N)
            _copy_where_won(dx, g, taps, to, window, taps.dtype.type(u * KW + v), np.uintp(N))
        else:  # no window is over this pixel
            for k in range(np.uintp(N)):
                dx[to + k] = 0


@compiled
def _copy_where_won(dx, g, taps, to, window, tap, length):
    nothing = dx.dtype.type(0)
    for k in range(length):
        dx[to + k] = g[window + k] if taps[window + k] == tap else nothing
