"""Grid sampling, the loops: equation (3) of Jaderberg et al. 2015 with a kernel k that reaches few pixels.

Along each axis a sample at x has T taps: pixel indices m, weights k(x - m), and their slopes per unit of the grid.
`_place_taps` finds them for a block of 64 samples, as vectors; then each channel's pixels are read one by one.
Forward: one parallel iteration makes 16 blocks of an image. Backward: one parallel iteration owns one image,
because samples of the same image add to the same input pixels.
"""

from __future__ import annotations

import numpy as np

from ministn.kernels._layout import nchw
from ministn.kernels.compiled import compiled, parallel_for

# The number of taps along an axis stands for the mode. It is passed as the length of a tuple, which the compiler
# knows: it unrolls the loops over the taps and drops the other modes' branches.
_TAPS = {"nearest": (0,), "bilinear": (0, 0), "bicubic": (0, 0, 0, 0)}
_PADDING = {"zeros": 0, "border": 1, "reflection": 2}
_BLOCK = 64  # samples: a constant, so that the compiler can make vectors of the loops over them
_PART = 16 * _BLOCK  # samples of one parallel iteration


def forward(input, grid, mode, padding_mode, align_corners):
    (N, C), (OH, OW) = input.shape[:2], grid.shape[1:3]
    output = np.empty((N, C, OH * OW), input.dtype)
    arrays = nchw(input), nchw(grid).reshape(N, OH * OW * 2), _nothing(input)
    _forward(N * -(-OH * OW // _PART), output, *arrays, _TAPS[mode], _PADDING[padding_mode], align_corners)
    return output.reshape(N, C, OH, OW)


def backward(grad_output, input, grid, mode, padding_mode, align_corners, needs_grad=(True, True)):
    (N, C), (OH, OW) = input.shape[:2], grid.shape[1:3]
    grad_input = np.zeros(input.shape if needs_grad[0] else (N, C, 0, 0), input.dtype)
    grad_grid = np.zeros((N, OH * OW * 2), grid.dtype)
    arrays = nchw(grad_output).reshape(N, C, OH * OW), nchw(input), nchw(grid).reshape(N, OH * OW * 2), _nothing(input)
    options = _TAPS[mode], _PADDING[padding_mode], align_corners, (needs_grad[0], needs_grad[1] and mode != "nearest")
    _backward(N, grad_input, grad_grid, *arrays, *options)
    return grad_input if needs_grad[0] else None, grad_grid.reshape(grid.shape) if needs_grad[1] else None


def _nothing(input):
    """The index of a tap outside, so far below 0 that no row or column added to it makes it a pixel's. It also lends
    indices their type: four bytes where they suffice, because vectors then hold as many of them as of float32."""
    pixels = input.shape[2] * input.shape[3]
    return np.array([-pixels], np.int32 if pixels < 2**30 else np.int64)


@compiled
def _forward(parts, *arguments):
    parallel_for(_forward_part, parts, arguments)


@compiled
def _forward_part(item, output, input, grid, nothing, taps, padding, align_corners):
    (_, C, H, W), P, T = input.shape, output.shape[2], len(taps)
    parts = (P + _PART - 1) // _PART
    n, first = item // parts, item % parts * _PART
    kx, ky = np.empty((2, T, _BLOCK), input.dtype), np.empty((2, T, _BLOCK), input.dtype)  # weights [0], slopes [1]
    mx, my = np.empty((T, _BLOCK), nothing.dtype), np.empty((T, _BLOCK), nothing.dtype)  # columns and rows
    work = np.zeros((3, _BLOCK), input.dtype)  # room for `_place_taps`
    for start in range(first, min(P, first + _PART), _BLOCK):
        count = min(_BLOCK, P - start)
        _place_taps(mx, kx, work, grid[n, 2 * start :], count, W, 1, nothing, taps, padding, align_corners)
        _place_taps(my, ky, work, grid[n, 2 * start + 1 :], count, H, W, nothing, taps, padding, align_corners)
        for c in range(C):
            U, V = input[n, c].reshape(H * W), output[n, c, start:]
            for s in range(count):
                value = input.dtype.type(0)
                for v in range(T):
                    for u in range(T):
                        value += ky[0, v, s] * kx[0, u, s] * _pixel(U, my[v, s] + mx[u, s])
                V[s] = value


@compiled
def _backward(images, *arguments):
    parallel_for(_backward_image, images, arguments)


@compiled
def _backward_image(
    n, grad_input, grad_grid, grad_output, input, grid, nothing, taps, padding, align_corners, needs_grad
):
    (_, C, H, W), P, T = input.shape, grad_output.shape[2], len(taps)
    kx, ky = np.empty((2, T, _BLOCK), input.dtype), np.empty((2, T, _BLOCK), input.dtype)
    mx, my = np.empty((T, _BLOCK), nothing.dtype), np.empty((T, _BLOCK), nothing.dtype)
    work = np.zeros((3, _BLOCK), input.dtype)
    for start in range(0, P, _BLOCK):
        count = min(_BLOCK, P - start)
        _place_taps(mx, kx, work, grid[n, 2 * start :], count, W, 1, nothing, taps, padding, align_corners)
        _place_taps(my, ky, work, grid[n, 2 * start + 1 :], count, H, W, nothing, taps, padding, align_corners)
        for c in range(C):
            g, grad_points = grad_output[n, c, start:], grad_grid[n, 2 * start :]
            if needs_grad[1]:
                _add_slopes(grad_points, g, input[n, c].reshape(H * W), mx, my, kx, ky, count, taps)
            if needs_grad[0]:
                _add_weights(grad_input[n, c].reshape(H * W), g, mx, my, kx, ky, count, taps)


@compiled
def _add_slopes(grad_points, g, U, mx, my, kx, ky, count, taps):
    """d grid: what the samples' values gain when the points move, times g."""
    for s in range(count):
        slope_x = slope_y = U.dtype.type(0)
        for v in range(len(taps)):
            for u in range(len(taps)):
                pixel = _pixel(U, my[v, s] + mx[u, s])
                slope_x += ky[0, v, s] * kx[1, u, s] * pixel
                slope_y += ky[1, v, s] * kx[0, u, s] * pixel
        grad_points[2 * s] += g[s] * slope_x
        grad_points[2 * s + 1] += g[s] * slope_y


@compiled
def _add_weights(dU, g, mx, my, kx, ky, count, taps):
    """d input: g times the weight of each tap."""
    for s in range(count):
        for v in range(len(taps)):
            for u in range(len(taps)):
                p = my[v, s] + mx[u, s]
                if p >= 0:
                    dU[p] += g[s] * (ky[0, v, s] * kx[0, u, s])


@compiled
def _pixel(U, p):
    """Pixel p, or 0 for a tap outside."""
    return U[p] if p >= 0 else U.dtype.type(0)


@compiled
def _place_taps(m, k, work, positions, count, size, stride, nothing, taps, padding, align_corners):
    """The taps along an axis of a block of samples s, at every other one of the normalised `positions`.

    m[u, s] is the pixel times `stride`, or `nothing` for one outside; k[0, u, s] its weight; k[1, u, s] the weight's
    slope with respect to the position.
    """
    one, x, tap, slope = k.dtype.type(1), work[0], work[1], work[2]
    scale = k.dtype.type(0.5) * k.dtype.type(size - 1 if align_corners else size)  # pixels per unit of position
    shift = k.dtype.type(0 if align_corners else 0.5)
    for s in range(count):
        x[s] = _to_pixels(positions[2 * s], scale, shift)
    if len(taps) < 4:
        _pad(x, slope, size, padding, align_corners)
    for u in range(len(taps)):
        if len(taps) == 1:  # nearest: the weight is 1 and has no slope. Halves go to the even pixel, as in PyTorch
            for s in range(_BLOCK):
                tap[s], k[0, u, s], k[1, u, s] = np.rint(x[s]), one, 0
        elif len(taps) == 2:  # bilinear: 1 - t and t. At a whole x the cell to the right counts, and its slope
            for s in range(_BLOCK):
                tap[s] = np.floor(x[s]) + k.dtype.type(u)
            for s in range(_BLOCK):
                t = x[s] - np.floor(x[s])
                k[0, u, s], k[1, u, s] = (one - t, -slope[s] * scale) if u == 0 else (t, slope[s] * scale)
        else:  # bicubic: each of the four taps is padded for itself
            reach = k.dtype.type(u - 1)
            for s in range(_BLOCK):
                tap[s] = np.floor(x[s]) + reach
                k[0, u, s], d = _cubic(x[s] - np.floor(x[s]) - reach)  # not x - tap, which has no digits left at 1e20
                k[1, u, s] = d * scale
            _pad(tap, slope, size, padding, align_corners)
        _index(m[u], tap, nothing.dtype.type(size), nothing.dtype.type(stride), nothing[0])


@compiled(fastmath={"contract"})
def _to_pixels(position, scale, shift):
    """As one fused multiply-add, like PyTorch: the last bit decides on which side of a kink a sample falls."""
    return (position + type(position)(1)) * scale - shift


@compiled
def _cubic(d):
    """Keys' cubic convolution kernel with a = -3/4 at distance d, and its derivative."""
    a, s = type(d)(-0.75), abs(d)
    if s <= 1:
        value, slope = ((a + 2) * s - (a + 3)) * s * s + 1, (3 * (a + 2) * s - 2 * (a + 3)) * s
    else:
        value, slope = ((a * s - 5 * a) * s + 8 * a) * s - 4 * a, (3 * a * s - 10 * a) * s + 8 * a
    return type(d)(value), type(d)(slope if d >= 0 else -slope)


@compiled
def _pad(x, slope, size, padding, align_corners):
    """Replace pixel coordinates outside; the derivative of the new ones with respect to the old: 1, -1 or 0."""
    zero, one, last = x.dtype.type(0), x.dtype.type(1), x.dtype.type(size - 1)
    for s in range(_BLOCK):
        slope[s] = one
    if padding == 2:  # reflection about the outer pixels' centres, or about their outer edges
        low = x.dtype.type(0 if align_corners else -0.5)
        period = x.dtype.type(2 * (size - 1) if align_corners else 2 * size)  # there and back again
        for s in range(_BLOCK):
            distance = abs(x[s] - low)
            distance -= np.trunc(distance / period) * period
            back = period - distance
            slope[s] = -one if (x[s] < low) != (distance > back) else one
            x[s] = (back if distance > back else distance) + low
    if padding != 0:  # border: the nearest pixel. On the border itself the slope is already 0. NaN becomes pixel 0.
        for s in range(_BLOCK):
            slope[s] = slope[s] if (x[s] > zero) & (x[s] < last) else zero
            x[s] = x[s] if x[s] > zero else zero
            x[s] = x[s] if x[s] < last else last


@compiled
def _index(index, m, size, stride, nothing):
    """stride times m, or `nothing` where m is not one of the `size` pixels: 1e20 and NaN fit no integer."""
    before, after = m.dtype.type(-1), m.dtype.type(size)
    for s in range(_BLOCK):
        nearest = m[s] if m[s] > before else before
        pixel = type(nothing)(nearest if nearest < after else after)
        index[s] = pixel * stride if (pixel >= 0) & (pixel < size) else nothing
