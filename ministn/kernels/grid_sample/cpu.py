"""Grid sampling, the loops: equation (3) of Jaderberg et al. 2015 with a kernel k that reaches few pixels.

Along each axis a sample at x has T taps: pixel indices m, weights k(x - m), and their slopes per unit of the grid.
Forward: one parallel iteration makes one row of output. Backward: one parallel iteration owns one image, because
samples of the same image add to the same input pixels.
"""

from __future__ import annotations

import numpy as np
from numba import njit, prange

from ministn.kernels._layout import nchw

# The number of taps along an axis stands for the mode. It is passed as the length of a tuple, which the compiler
# knows: it unrolls the loops over the taps and drops the other modes' branches.
_TAPS = {"nearest": (0,), "bilinear": (0, 0), "bicubic": (0, 0, 0, 0)}
_PADDING = {"zeros": 0, "border": 1, "reflection": 2}


def forward(input, grid, mode, padding_mode, align_corners):
    output = np.empty((*input.shape[:2], *grid.shape[1:3]), input.dtype)
    _forward(output, nchw(input), nchw(grid), _TAPS[mode], _PADDING[padding_mode], align_corners)
    return output


def backward(grad_output, input, grid, mode, padding_mode, align_corners, needs_grad=(True, True)):
    grad_input, grad_grid = np.zeros(input.shape, input.dtype), np.zeros(grid.shape, grid.dtype)
    arrays = nchw(grad_output), nchw(input), nchw(grid)
    options = _TAPS[mode], _PADDING[padding_mode], align_corners, needs_grad[0], needs_grad[1] and mode != "nearest"
    _backward(grad_input, grad_grid, *arrays, *options)
    return grad_input if needs_grad[0] else None, grad_grid if needs_grad[1] else None


@njit(cache=True, nogil=True, parallel=True, error_model="numpy")
def _forward(output, input, grid, taps, padding, align_corners):
    N, C, H, W = input.shape
    _, _, OH, OW = output.shape
    T = len(taps)
    for row in prange(N * OH):
        n, i = row // OH, row % OH
        kx, ky = np.empty((2, T), input.dtype), np.empty((2, T), input.dtype)  # weights [0], slopes [1] of the taps
        mx, my = np.empty(T, np.intp), np.empty(T, np.intp)  # their pixels
        for j in range(OW):
            _place_taps(mx, kx, grid[n, i, j, 0], W, taps, padding, align_corners)
            _place_taps(my, ky, grid[n, i, j, 1], H, taps, padding, align_corners)
            for c in range(C):
                value = input.dtype.type(0)
                for v in range(T):
                    for u in range(T):
                        value += ky[0, v] * kx[0, u] * _pixel(input, n, c, my[v], mx[u])
                output[n, c, i, j] = value


@njit(cache=True, nogil=True, parallel=True, error_model="numpy")
def _backward(
    grad_input, grad_grid, grad_output, input, grid, taps, padding, align_corners, needs_grad_input, needs_grad_grid
):
    N, C, H, W = input.shape
    _, _, OH, OW = grad_output.shape
    T = len(taps)
    for n in prange(N):
        kx, ky = np.empty((2, T), input.dtype), np.empty((2, T), input.dtype)
        mx, my = np.empty(T, np.intp), np.empty(T, np.intp)
        for i in range(OH):
            for j in range(OW):
                _place_taps(mx, kx, grid[n, i, j, 0], W, taps, padding, align_corners)
                _place_taps(my, ky, grid[n, i, j, 1], H, taps, padding, align_corners)
                for c in range(C):
                    g = grad_output[n, c, i, j]
                    for v in range(T):
                        for u in range(T):
                            if needs_grad_grid:
                                pixel = _pixel(input, n, c, my[v], mx[u])
                                grad_grid[n, i, j, 0] += g * (ky[0, v] * kx[1, u] * pixel)
                                grad_grid[n, i, j, 1] += g * (ky[1, v] * kx[0, u] * pixel)
                            if needs_grad_input and my[v] >= 0 and mx[u] >= 0:
                                grad_input[n, c, my[v], mx[u]] += g * (ky[0, v] * kx[0, u])


@njit(cache=True, inline="always")
def _pixel(input, n, c, y, x):
    """U[y, x], or 0 for a tap outside."""
    return input[n, c, y, x] if y >= 0 and x >= 0 else input.dtype.type(0)


@njit(cache=True, error_model="numpy")
def _place_taps(m, k, position, size, taps, padding, align_corners):
    """The pixels m[u] that a sample at a normalised position touches along an axis (-1 for one outside), their weights
    k[0, u], and the weights' slopes with respect to the position, k[1, u]."""
    one = type(position)(1)
    scale = type(position)(0.5) * type(position)(size - 1 if align_corners else size)  # pixels per unit of position
    x = _to_pixels(position, scale, type(position)(0 if align_corners else 0.5))
    if len(taps) == 1:  # nearest: the weight is 1 and has no slope
        x, _ = _pad(x, size, padding, align_corners)
        m[0] = _index(np.rint(x), size)  # halves go to the even pixel, as in PyTorch
        k[0, 0], k[1, 0] = one, type(position)(0)
    elif len(taps) == 2:  # bilinear: 1 - t and t
        x, slope = _pad(x, size, padding, align_corners)
        floor = np.floor(x)  # at a whole x the cell to the right counts: the slope there is the right-hand one
        t = x - floor
        m[0], m[1] = _index(floor, size), _index(floor + one, size)
        k[0, 0], k[0, 1] = one - t, t
        k[1, 0], k[1, 1] = -slope * scale, slope * scale
    else:  # bicubic: each of the four taps is padded for itself
        floor = np.floor(x)
        t = x - floor
        for u in range(4):
            tap, _ = _pad(floor + type(position)(u - 1), size, padding, align_corners)
            m[u] = _index(tap, size)
            k[0, u], slope = _cubic(t - type(position)(u - 1))
            k[1, u] = slope * scale


@njit(cache=True, fastmath={"contract"})
def _to_pixels(position, scale, shift):
    """As one fused multiply-add, like PyTorch: the last bit decides on which side of a kink a sample falls."""
    return (position + type(position)(1)) * scale - shift


@njit(cache=True, error_model="numpy")
def _cubic(d):
    """Keys' cubic convolution kernel with a = -3/4 at distance d, and its derivative."""
    a, s = type(d)(-0.75), abs(d)
    if s <= 1:
        value, slope = ((a + 2) * s - (a + 3)) * s * s + 1, (3 * (a + 2) * s - 2 * (a + 3)) * s
    else:
        value, slope = ((a * s - 5 * a) * s + 8 * a) * s - 4 * a, (3 * a * s - 10 * a) * s + 8 * a
    return type(d)(value), type(d)(slope if d >= 0 else -slope)


@njit(cache=True, error_model="numpy")
def _pad(x, size, padding, align_corners):
    """The pixel coordinate that takes the place of x, and its derivative with respect to x: 1, -1 or 0."""
    slope = type(x)(1)
    if padding == 0:  # zeros: nothing moves, _index drops what is outside
        return x, slope
    if padding == 2:  # reflection about the outer pixels' centres, or about their outer edges
        low = type(x)(0 if align_corners else -0.5)
        period = type(x)(2 * (size - 1) if align_corners else 2 * size)  # there and back again
        distance = abs(x - low)
        distance -= np.trunc(distance / period) * period
        if x < low:
            slope = -slope
        if distance > period - distance:
            distance, slope = period - distance, -slope
        x = distance + low
    # border: the nearest pixel. On the border itself the slope is already 0. Written so that NaN becomes pixel 0.
    if not x > 0:
        return type(x)(0), type(x)(0)
    if x >= size - 1:
        return type(x)(size - 1), type(x)(0)
    return x, slope


@njit(cache=True, error_model="numpy")
def _index(m, size):
    """m as an index, or -1 if it is not one of the `size` pixels: tested as a float, since 1e20 and NaN fit no int."""
    return np.intp(m) if m >= 0 and m <= size - 1 else np.intp(-1)
