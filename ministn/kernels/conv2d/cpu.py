"""conv2d, the loops. Memory is batch-last (C, H, W, N): at stride 1 one loop serves a tap for a row of N images.
One parallel iteration makes: in `_forward` an output row, in `_grad_input` an input row, in `_grad_weight` a tap
(c, u, v) for all output channels. It writes nothing else: no races, and the same order of sums for any number of
threads."""
# ruff: noqa: E741 (O is the axis of output channels)

from typing import Any

import numpy as np
from numba import njit, prange

from ministn.kernels._layout import batch_last, from_batch_last
from ministn.kernels.conv2d._shape import output_size

# Sums may be reordered, and x * y + z fused into one instruction; NaN and infinity keep their meaning.
_OPTIONS: dict[str, Any] = {"cache": True, "nogil": True, "error_model": "numpy", "fastmath": {"reassoc", "contract"}}


def forward(x, weight, bias, stride, padding, dilation):
    """As `reference.forward`; the result's memory is batch-last."""
    x = batch_last(x)
    size = output_size(x.shape[1:3], weight.shape[2:], stride, padding, dilation)
    y = np.empty((weight.shape[0], *size, x.shape[3]), x.dtype)
    bias = np.zeros(weight.shape[0], x.dtype) if bias is None else np.ascontiguousarray(bias)
    _forward(x, np.ascontiguousarray(weight), bias, y, stride, padding, dilation)
    return from_batch_last(y)


def backward(grad_output, x, weight, stride, padding, dilation, needs_grad=(True, True, True)):
    """As `reference.backward`; the memory of the gradient for x is batch-last."""
    g, grad_x, grad_weight = batch_last(grad_output), None, None
    if needs_grad[0]:
        dx = np.zeros((*x.shape[1:], x.shape[0]), x.dtype)
        _grad_input(g, np.ascontiguousarray(weight), dx, stride, padding, dilation)
        grad_x = from_batch_last(dx)
    if needs_grad[1]:
        grad_weight = np.empty(weight.shape, x.dtype)
        _grad_weight(g, batch_last(x), grad_weight, stride, padding, dilation)
    grad_bias = g.sum(axis=(1, 2, 3)) if any(needs_grad[2:]) else None
    return grad_x, grad_weight, grad_bias


@njit(parallel=True, **_OPTIONS)
def _forward(x, w, b, y, stride, padding, dilation):
    """y[o, i, j] = b[o] + sum over v, c, u of w[o, c, u, v] x[c, p, q]
    where p = i s_h - P_h + u d_h and q = j s_w - P_w + v d_w"""
    (C, H, W, N), (O, OH, OW, _), (KH, KW) = x.shape, y.shape, w.shape[2:]
    pixels = x.reshape(x.size)
    for item in prange(O * OH):
        o, i = item // OH, item % OH
        row = y[o, i].reshape(OW * N)
        row.fill(b[o])
        weights, starts = np.empty(C * KH, x.dtype), np.empty(C * KH, np.int64)
        for v in range(KW):
            # Tap v meets the image from output column j, input column q on. A run is what follows without a gap: the
            # whole row if the stride is 1, else one column. `starts` are flat indices of each tap's first pixel.
            j, q, runs, length = _runs(v, W, OW, N, stride[1], padding[1], dilation[1])
            taps = 0  # those of filter column v that fall on a row of the image
            for c in range(C):
                for u in range(KH):
                    p = i * stride[0] - padding[0] + u * dilation[0]
                    if 0 <= p < H:
                        weights[taps], starts[taps] = w[o, c, u, v], ((c * H + p) * W + q) * N
                        taps += 1
            for r in range(runs):
                _add_weighted(row[(j + r) * N :][:length], pixels[r * stride[1] * N :], weights, starts, taps)


@njit(parallel=True, **_OPTIONS)
def _grad_input(g, w, dx, stride, padding, dilation):
    """dx[c, p, q] = sum over v, u, o of w[o, c, u, v] g[o, i, j]
    where p = i s_h - P_h + u d_h and q = j s_w - P_w + v d_w"""
    (C, H, W, N), (O, OH, OW, _), (KH, KW) = dx.shape, g.shape, w.shape[2:]
    gradients = g.reshape(g.size)
    for item in prange(C * H):
        c, p = item // H, item % H
        row = dx[c, p].reshape(W * N)
        weights, starts = np.empty(KH * O, g.dtype), np.empty(KH * O, np.int64)
        for v in range(KW):
            # The same runs, read from g and added to x's row: `starts` are flat indices of each tap's first g.
            j, q, runs, length = _runs(v, W, OW, N, stride[1], padding[1], dilation[1])
            taps = 0  # those of filter column v through which an output row i read this input row
            for u in range(KH):
                i, between = divmod(p + padding[0] - u * dilation[0], stride[0])
                if between == 0 and 0 <= i < OH:
                    for o in range(O):
                        weights[taps], starts[taps] = w[o, c, u, v], ((o * OH + i) * OW + j) * N
                        taps += 1
            for r in range(runs):
                _add_weighted(row[(q + r * stride[1]) * N :][:length], gradients[r * N :], weights, starts, taps)


@njit(parallel=True, **_OPTIONS)
def _grad_weight(g, x, dw, stride, padding, dilation):
    """dw[o, c, u, v] = sum over i, j of g[o, i, j] x[c, p, q]
    where p = i s_h - P_h + u d_h and q = j s_w - P_w + v d_w"""
    (C, H, W, N), (O, OH, OW, _), (KH, KW) = x.shape, g.shape, dw.shape[2:]
    pixels, gradients = x.reshape(x.size), g.reshape(g.size)
    for item in prange(C * KH * KW):
        c, u, v = item // (KH * KW), item // KW % KH, item % KW
        j, q, runs, length = _runs(v, W, OW, N, stride[1], padding[1], dilation[1])
        sums = np.zeros(O, x.dtype)
        for i in range(OH):
            p = i * stride[0] - padding[0] + u * dilation[0]
            if 0 <= p < H:
                for r in range(runs):
                    run = pixels[((c * H + p) * W + q + r * stride[1]) * N :][:length]
                    _add_products(sums, run, gradients[(i * OW + j + r) * N :], OH * OW * N)
        dw[:, c, u, v] = sums


@njit(**_OPTIONS)
def _runs(v, W, OW, N, stride, padding, dilation):
    """Output column j and input column q where tap v first lies in the image; how many runs follow, and their length
    in numbers, N to a column."""
    offset = v * dilation - padding
    j = max(0, -(offset // stride))
    columns = max(0, min(OW, (W - 1 - offset) // stride + 1) - j)
    runs, length = (1, columns * N) if stride == 1 else (columns, N)
    return j, j * stride + offset, runs, length


@njit(**_OPTIONS)
def _add_weighted(to, source, weights, starts, taps):
    """to[k] += sum over t of weights[t] source[starts[t] + k]; four taps share a load and a store of `to`."""
    length = to.size
    for t in range(0, taps - 3, 4):
        w0, w1, w2, w3 = weights[t], weights[t + 1], weights[t + 2], weights[t + 3]
        x0, x1 = source[starts[t] :][:length], source[starts[t + 1] :][:length]
        x2, x3 = source[starts[t + 2] :][:length], source[starts[t + 3] :][:length]
        for k in range(length):
            to[k] += w0 * x0[k] + w1 * x1[k] + w2 * x2[k] + w3 * x3[k]
    for t in range(taps // 4 * 4, taps):
        w0, x0 = weights[t], source[starts[t] :][:length]
        for k in range(length):
            to[k] += w0 * x0[k]


@njit(**_OPTIONS)
def _add_products(sums, x, g, step):
    """sums[o] += sum over k of x[k] g[o step + k]; four channels share a load of x."""
    length = x.size
    for o in range(0, sums.size - 3, 4):
        g0, g1 = g[o * step :][:length], g[(o + 1) * step :][:length]
        g2, g3 = g[(o + 2) * step :][:length], g[(o + 3) * step :][:length]
        s0, s1, s2, s3 = sums[o], sums[o + 1], sums[o + 2], sums[o + 3]
        for k in range(length):
            s0 += x[k] * g0[k]
            s1 += x[k] * g1[k]
            s2 += x[k] * g2[k]
            s3 += x[k] * g3[k]
        sums[o], sums[o + 1], sums[o + 2], sums[o + 3] = s0, s1, s2, s3
    for o in range(sums.size // 4 * 4, sums.size):
        s0, g0 = sums[o], g[o * step :][:length]
        for k in range(length):
            s0 += x[k] * g0[k]
        sums[o] = s0
