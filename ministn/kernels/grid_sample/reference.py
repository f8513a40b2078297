"""Grid sampling with dense weights: for each sample one row of weights per axis, over all pixels of that axis.

Equation (3) of Jaderberg et al. 2015 sums over every source pixel. Its kernel is a product k(x - m) k(y - n), so the
sum is V_ij = sum_n sum_m Y_ijn U_nm X_ijm with one row of X for each sample's x and one row of Y for its y, mostly
zeros. Slow and large, but it is the equation; the loops in cpu.py visit the few nonzeros.
"""

from __future__ import annotations

import numpy as np

from ministn.kernels._coordinates import to_pixels

_FIRST_AND_LAST = {"bilinear": (0, 1), "bicubic": (-1, 2)}  # taps reached from floor(x)


def forward(input, grid, mode, padding_mode, align_corners):
    x, _ = _weights(grid[..., 0], input.shape[3], mode, padding_mode, align_corners)
    y, _ = _weights(grid[..., 1], input.shape[2], mode, padding_mode, align_corners)
    return np.einsum("nijh,nchw,nijw->ncij", y, input, x, optimize=True)


def backward(grad_output, input, grid, mode, padding_mode, align_corners, needs_grad=(True, True)):
    """The gradients for the input and the grid; None in place of one that is not needed."""
    x, dx = _weights(grid[..., 0], input.shape[3], mode, padding_mode, align_corners)
    y, dy = _weights(grid[..., 1], input.shape[2], mode, padding_mode, align_corners)
    grad_input = grad_grid = None
    if needs_grad[0]:
        grad_input = np.einsum("ncij,nijh,nijw->nchw", grad_output, y, x, optimize=True)
    if needs_grad[1]:
        grad_x = np.einsum("ncij,nijh,nchw,nijw->nij", grad_output, y, input, dx, optimize=True)
        grad_y = np.einsum("ncij,nijh,nchw,nijw->nij", grad_output, dy, input, x, optimize=True)
        grad_grid = np.stack([grad_x, grad_y], axis=-1)
    return grad_input, grad_grid


def _weights(position, size, mode, padding_mode, align_corners):
    """The weight of every pixel for every sample, shape (N, OH, OW, size), and its derivative by the position."""
    dtype = position.dtype.type
    scale = dtype((size - 1) / 2 if align_corners else size / 2)
    x = to_pixels(position, size, align_corners)
    slope = np.ones_like(x)
    if mode != "bicubic":
        x, slope = _pad(x, size, padding_mode, align_corners)
    if mode == "nearest":
        taps = [(np.rint(x), np.ones_like(x), np.zeros_like(x))]
    else:
        kernel = _tent if mode == "bilinear" else _cubic
        first, last = _FIRST_AND_LAST[mode]
        taps = [(np.floor(x) + dtype(u), *kernel(x - np.floor(x), u)) for u in range(first, last + 1)]
    weights, slopes = np.zeros((*x.shape, size), dtype), np.zeros((*x.shape, size), dtype)
    for m, value, derivative in taps:
        if mode == "bicubic":
            m, _ = _pad(m, size, padding_mode, align_corners)
        here = m[..., None] == np.arange(size)  # all False for a tap outside: zeros padding
        weights += here * value[..., None]
        slopes += here * (derivative * slope * scale)[..., None]
    return weights, slopes


def _tent(t, u):
    """k(d) = max(0, 1 - |d|), equation (5), and its derivative, at d = t - u for 0 <= t < 1.

    Moving right, the left pixel (u = 0) loses weight and the right one (u = 1) gains it, also exactly on a pixel,
    t = 0: the right-hand slope.
    """
    return np.maximum(0, 1 - np.abs(t - u)), np.full_like(t, -1 if u == 0 else 1)


def _cubic(t, u):
    """Keys (1981), equation (15) with a = -3/4, at d = t - u: polynomials in |d| on [0, 1] and [1, 2]."""
    d, a = t - u, -0.75
    inner, outer = np.poly1d([a + 2, -(a + 3), 0, 1]), np.poly1d([a, -5 * a, 8 * a, -4 * a])
    s, near = np.abs(d), np.abs(d) <= 1
    value = np.where(near, inner(s), outer(s))
    slope = np.where(near, inner.deriv()(s), outer.deriv()(s)) * np.where(d >= 0, 1, -1)
    return value.astype(d.dtype), slope.astype(d.dtype)


def _pad(x, size, padding_mode, align_corners):
    """Pixel coordinates brought back into the image, and the derivative of that."""
    if padding_mode == "zeros":
        return x, np.ones_like(x)
    slope = np.ones_like(x)
    if padding_mode == "reflection":
        low, period = (0.0, 2 * (size - 1)) if align_corners else (-0.5, 2 * size)
        if period == 0:
            return np.zeros_like(x), np.zeros_like(x)
        phase = np.abs(x - x.dtype.type(low))  # symmetric about `low`, then periodic
        periods = np.trunc(phase / period).astype(np.longdouble)
        phase = (phase - periods * period).astype(x.dtype)  # rounded once, as the loops and PyTorch do
        slope = np.where(x < low, -1, 1) * np.where(phase > period - phase, -1, 1)
        x = np.minimum(phase, period - phase) + x.dtype.type(low)
    inside = (x > 0) & (x < size - 1)
    return np.clip(np.nan_to_num(x), 0, size - 1).astype(x.dtype), (slope * inside).astype(x.dtype)
