"""avg_pool2d, the loops. Arrays are batch-last, (C, H, W, N): the inner loop runs over the images, one vector at a
time. One parallel iteration makes an output row of one channel in `_forward`, an input row of one channel in
`_backward`, and writes nothing else: windows may overlap, yet nothing races, and the order of sums is the same for any
number of threads.
"""

import numpy as np

from ministn.kernels._layout import batch_last, from_batch_last
from ministn.kernels._pooling import window_length
from ministn.kernels.compiled import compiled, parallel_for


def forward(x, kernel, stride, padding, count_include_pad, output_size):
    """As `reference.forward`; the memory of the result is batch-last."""
    x = batch_last(x)
    y = np.empty((x.shape[0], *output_size, x.shape[3]), x.dtype)
    _forward(
        y.shape[0] * y.shape[1], x, y, _share(x, y, kernel, stride, padding, count_include_pad), kernel, stride, padding
    )
    return from_batch_last(y)


def backward(grad_output, kernel, stride, padding, count_include_pad, image_size):
    """As `reference.backward`; the memory of the result is batch-last."""
    g = batch_last(grad_output)
    dx = np.empty((g.shape[0], *image_size, g.shape[3]), g.dtype)
    _backward(
        dx.shape[0] * dx.shape[1],
        g,
        dx,
        _share(dx, g, kernel, stride, padding, count_include_pad),
        kernel,
        stride,
        padding,
    )
    return from_batch_last(dx)


def _share(x, y, kernel, stride, padding, count_include_pad):
    """1 / (m_i m_j), shape (OH, OW): the share of each pixel of window (i, j) in its mean."""
    rows, columns = (
        window_length(x.shape[1 + a], kernel[a], stride[a], padding[a], count_include_pad, y.shape[1 + a])
        for a in range(2)
    )
    return (1 / np.outer(rows, columns)).astype(x.dtype)


@compiled
def _forward(rows, *arguments):
    parallel_for(_output_row, rows, arguments)


@compiled
def _output_row(item, x, y, share, kernel, stride, padding):
    """y[c, i, j] = sum over u, v of share[i, j] x[c, p, q] where p = i s_h - P_h + u and q = j s_w - P_w + v"""
    (_, H, W, _), (_, OH, OW, _), (KH, KW) = x.shape, y.shape, kernel
    c, i = item // OH, item % OH
    top = i * stride[0] - padding[0]
    for j in range(OW):
        left = j * stride[1] - padding[1]
        y[c, i, j] = 0
        for u in range(max(0, -top), min(KH, H - top)):
            for v in range(max(0, -left), min(KW, W - left)):
                _add(y[c, i, j], x[c, top + u, left + v])
        y[c, i, j] *= share[i, j]


@compiled
def _backward(rows, *arguments):
    parallel_for(_input_row, rows, arguments)


@compiled
def _input_row(item, g, dx, share, kernel, stride, padding):
    """dx[c, p, q] = sum over u, v of share[i, j] g[c, i, j] where p = i s_h - P_h + u and q = j s_w - P_w + v"""
    (_, H, W, _), (_, OH, OW, _), (KH, KW) = dx.shape, g.shape, kernel
    c, p = item // H, item % H
    dx[c, p] = 0
    for u in range(KH):
        i, between = divmod(p + padding[0] - u, stride[0])
        if between == 0 and 0 <= i < OH:  # tap row u of window row i lies on this input row
            for j in range(OW):
                left = j * stride[1] - padding[1]
                for v in range(max(0, -left), min(KW, W - left)):
                    _add_share(dx[c, p, left + v], g[c, i, j], share[i, j])


@compiled
def _add(to, values):
    for n in range(to.size):
        to[n] += values[n]


@compiled
def _add_share(to, values, share):
    for n in range(to.size):
        to[n] += share * values[n]
