"""Grid sampling, the loops: equation (3) of Jaderberg et al. 2015 with a kernel k that reaches few pixels.

Along each axis a sample at x has T taps: pixel indices m, weights k(x - m), and slopes d k(x - m) / d grid.
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


def backward(grad_output, input, grid, mode, padding_mode, align_corners):
    grad_input, grad_grid = np.zeros(input.shape, input.dtype), np.empty(grid.shape, grid.dtype)
    arrays = nchw(grad_output), nchw(input), nchw(grid)
    _backward(grad_input, grad_grid, *arrays, _TAPS[mode], _PADDING[padding_mode], align_corners)
    return grad_input, grad_grid


@njit(cache=True, nogil=True, parallel=True, error_model="numpy")
def _forward(output, input, grid, taps, padding, align_corners):
    N, C, H, W = input.shape
    _, _, OH, OW = output.shape
    T = len(taps)
    for row in prange(N * OH):
        n, i = row // OH, row % OH
        x, y = np.empty((2, T), input.dtype), np.empty((2, T), input.dtype)  # weights and slopes of the taps
        mx, my = np.empty(T, np.intp), np.empty(T, np.intp)  # their pixels
        for j in range(OW):
            _place_taps(mx, x, grid[n, i, j, 0], W, taps, padding, align_corners)
            _place_taps(my, y, grid[n, i, j, 1], H, taps, padding, align_corners)
            for c in range(C):
                value = input.dtype.type(0)
                for v in range(T):
                    for u in range(T):
                        value += y[0, v] * x[0, u] * _pixel(input, n, c, my[v], mx[u])
                output[n, c, i, j] = value


@njit(cache=True, nogil=True, parallel=True, error_model="numpy")
def _backward(grad_input, grad_grid, grad_output, input, grid, taps, padding, align_corners):
    N, C, H, W = input.shape
    _, _, OH, OW = grad_output.shape
    T = len(taps)
    for n in prange(N):
        x, y = np.empty((2, T), input.dtype), np.empty((2, T), input.dtype)
        mx, my = np.empty(T, np.intp), np.empty(T, np.intp)
        for i in range(OH):
            for j in range(OW):
                _place_taps(mx, x, grid[n, i, j, 0], W, taps, padding, align_corners)
                _place_taps(my, y, grid[n, i, j, 1], H, taps, padding, align_corners)
                gx = gy = input.dtype.type(0)
                for c in range(C):
                    g = grad_output[n, c, i, j]
                    for v in range(T):
                        for u in range(T):
                            pixel = _pixel(input, n, c, my[v], mx[u])
                            gx += g * (y[0, v] * x[1, u] * pixel)
                            gy += g * (y[1, v] * x[0, u] * pixel)
                            if my[v] >= 0 and mx[u] >= 0:
                                grad_input[n, c, my[v], mx[u]] += g * (y[0, v] * x[0, u])
                grad_grid[n, i, j, 0], grad_grid[n, i, j, 1] = gx, gy


@njit(cache=True, inline="always")
def _pixel(input, n, c, y, x):
    """U[y, x], or 0 for a tap outside."""
    return input[n, c, y, x] if y >= 0 and x >= 0 else input.dtype.type(0)


@njit(cache=True, error_model="numpy")
def _place_taps(index, kernel, g, size, taps, padding, align_corners):
    """The pixels `index` that a sample at normalised coordinate g touches along an axis (-1 for one outside), their
    weights ``kernel[0]`` and the weights' slopes with respect to g, ``kernel[1]``."""
    one = type(g)(1)
    scale = type(g)(0.5) * type(g)(size - 1 if align_corners else size)  # pixels per unit of g
    x = _to_pixels(g, scale, type(g)(0 if align_corners else 0.5))
    if len(taps) == 1:  # nearest: the weight is 1 and has no slope
        x, _ = _pad(x, size, padding, align_corners)
        index[0] = _index(np.rint(x), size)  # halves go to the even pixel, as in PyTorch
        kernel[0, 0], kernel[1, 0] = one, type(g)(0)
    elif len(taps) == 2:  # bilinear: 1 - t and t
        x, slope = _pad(x, size, padding, align_corners)
        floor = np.floor(x)  # at a whole x the cell to the right counts: the slope there is the right-hand one
        t = x - floor
        index[0], index[1] = _index(floor, size), _index(floor + one, size)
        kernel[0, 0], kernel[0, 1] = one - t, t
        kernel[1, 0], kernel[1, 1] = -slope * scale, slope * scale
    else:  # bicubic: each of the four taps is padded for itself
        floor = np.floor(x)
        t = x - floor
        for u in range(4):
            m, _ = _pad(floor + type(g)(u - 1), size, padding, align_corners)
            index[u] = _index(m, size)
            kernel[0, u], slope = _cubic(t - type(g)(u - 1))
            kernel[1, u] = slope * scale


@njit(cache=True, fastmath={"contract"})
def _to_pixels(g, scale, shift):
    """As one fused multiply-add, like PyTorch: the last bit decides on which side of a kink a sample falls."""
    return (g + type(g)(1)) * scale - shift


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
