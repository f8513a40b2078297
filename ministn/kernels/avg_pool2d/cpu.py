"""avg_pool2d, the loops. A mean over a window is a sum over its rows, then over its columns: KH + KW additions in place
of KH KW. Memory is batch-last, (C, H, W, N), so that a row of all images is one vector, and so are the N images of a
pixel. One parallel iteration makes an output row of one channel in `_forward`, an input row of one channel in
`_backward`, and writes nothing else: windows may overlap, yet nothing races, and the order of sums is the same for any
number of threads.
"""

import functools

import numpy as np

from ministn.kernels._layout import batch_last, from_batch_last
from ministn.kernels._pooling import window_length
from ministn.kernels.compiled import compiled, parallel_for


def forward(x, kernel, stride, padding, count_include_pad, output_size):
    """As `reference.forward`; the memory of the result is batch-last."""
    x = batch_last(x)
    y = np.empty((x.shape[0], *output_size, x.shape[3]), x.dtype)
    share = _share(x.shape[1:3], y.shape[1:], x.dtype, kernel, stride, padding, count_include_pad)
    _forward(y.shape[0] * y.shape[1], x.reshape(-1), y.reshape(-1), x.shape, y.shape, share, kernel, stride, padding)
    return from_batch_last(y)


def backward(grad_output, kernel, stride, padding, count_include_pad, image_size):
    """As `reference.backward`; the memory of the result is batch-last."""
    g = batch_last(grad_output)
    dx = np.empty((g.shape[0], *image_size, g.shape[3]), g.dtype)
    share = _share(image_size, g.shape[1:], g.dtype, kernel, stride, padding, count_include_pad)
    _backward(
        dx.shape[0] * dx.shape[1], g.reshape(-1), dx.reshape(-1), dx.shape, g.shape, share, kernel, stride, padding
    )
    return from_batch_last(dx)


@functools.lru_cache(maxsize=16)
def _share(image_size, windows, dtype, kernel, stride, padding, count_include_pad):
    """1 / (m_i m_j): the share of each pixel of window (i, j) in its mean. For `windows` of (OH, OW, N), shape
    (OH, OW N): repeated for all images, so that a loop over a row goes on from one pixel's to the next.
    """
    rows, columns = (
        window_length(image_size[a], kernel[a], stride[a], padding[a], count_include_pad, windows[a]) for a in range(2)
    )
    return (1 / np.outer(rows, columns)).astype(dtype).repeat(windows[2], axis=1)


@compiled
def _forward(rows, *arguments):
    parallel_for(_output_row, rows, arguments)


@compiled
def _output_row(item, x, y, x_shape, y_shape, share, kernel, stride, padding):
    """y[c, i, j] = share[i, j] (sum over v of s[q]) where s[q] = sum over u of x[c, p, q],
    p = i s_h - P_h + u and q = j s_w - P_w + v"""
    (_, H, W, N), (_, OH, OW, _) = x_shape, y_shape
    c, i = item // OH, item % OH
    top = i * stride[0] - padding[0]
    sums = np.zeros(W * N, x.dtype)
    for p in range(max(0, top), min(H, top + kernel[0])):
        pixels = x[(c * H + p) * W * N :][: W * N]
        for k in range(np.uintp(W * N)):
            sums[k] += pixels[k]
    row = item * OW * N
    y[row : row + OW * N] = 0
    for v in range(kernel[1]):
        j, count = _windows(v, W, OW, stride[1], padding[1])
        q = j * stride[1] - padding[1] + v
        _add(y, row + j * N, N, sums, q * N, stride[1] * N, count, N)
    for k in range(np.uintp(OW * N)):
        y[np.uintp(row) + k] *= share[i, k]


@compiled
def _backward(rows, *arguments):
    parallel_for(_input_row, rows, arguments)


@compiled
def _input_row(item, g, dx, x_shape, y_shape, share, kernel, stride, padding):
    """dx[c, p, q] = sum over v of s[j] where s[j] = sum over u of share[i, j] g[c, i, j],
    p = i s_h - P_h + u and q = j s_w - P_w + v"""
    (_, H, W, N), (_, OH, OW, _) = x_shape, y_shape
    c, p = item // H, item % H
    sums = np.zeros(OW * N, g.dtype)
    for u in range(kernel[0]):
        i, between = divmod(p + padding[0] - u, stride[0])
        if between == 0 and 0 <= i < OH:  # tap row u of window row i lies on this input row
            gradients = g[(c * OH + i) * OW * N :][: OW * N]
            for k in range(np.uintp(OW * N)):
                sums[k] += share[i, k] * gradients[k]
    row = item * W * N
    dx[row : row + W * N] = 0
    for v in range(kernel[1]):
        j, count = _windows(v, W, OW, stride[1], padding[1])
        q = j * stride[1] - padding[1] + v
        _add(dx, row + q * N, stride[1] * N, sums, j * N, N, count, N)


@compiled
def _windows(v, W, OW, stride, padding):
    """The first window whose tap v is on the image, 0 <= j s - P + v < W, and how many there are."""
    first, end = max(0, -((v - padding) // stride)), min(OW, (W - 1 + padding - v) // stride + 1)
    return first, max(0, end - first)


@compiled
def _add(to, to_start, to_step, values, start, step, count, length):
    """Add to `count` runs of `length` numbers as many others; each array's runs begin `step` apart."""
    if to_step == length and step == length:  # they follow each other: one run
        count, length = 1, count * length
    if length < count:  # the longer loop inside
        for k in range(length):
            for j in range(np.uintp(count)):
                to[np.uintp(to_start + k) + j * np.uintp(to_step)] += values[np.uintp(start + k) + j * np.uintp(step)]
        return
    for j in range(count):
        to_run, run = np.uintp(to_start + j * to_step), np.uintp(start + j * step)
        for k in range(np.uintp(length)):
            to[to_run + k] += values[run + k]
