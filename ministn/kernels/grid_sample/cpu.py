"""Grid sampling, the loops: equation (3) of Jaderberg et al. 2015 with a kernel k that reaches few pixels.

Along each axis a sample at x has T taps: pixel indices m, weights k(x - m), and their slopes per unit of the grid.
`_place_taps` finds them for a block of samples, as vectors; then each channel's pixels are read one by one.
Forward: one parallel iteration makes 4 blocks of an image. Backward: one parallel iteration owns one image,
because samples of the same image add to the same input pixels.
"""

from __future__ import annotations

import numpy as np

from ministn.kernels._layout import nchw
from ministn.kernels.compiled import compiled, parallel_for
from ministn.kernels.simd import Size, load_pairs, store

# The number of taps along an axis stands for the mode. It is passed as the length of a tuple, which the compiler
# knows: it unrolls the loops over the taps and drops the other modes' branches.
_TAPS = {"nearest": (0,), "bilinear": (0, 0), "bicubic": (0, 0, 0, 0)}
_PADDING = {"zeros": 0, "border": 1, "reflection": 2}
_BLOCK = 256  # samples that are placed, then read
_PART = 4 * _BLOCK  # samples of one parallel iteration
_LANES = 16  # samples that are read at a time
_SIZE = Size(_LANES)


def forward(input, grid, mode, padding_mode, align_corners):
    (N, C, H, W), (OH, OW), taps = input.shape, grid.shape[1:3], _TAPS[mode]
    framed, output = _framed(input, len(taps)), np.empty((N, C, OH * OW), input.dtype)
    arrays = output, framed, nchw(grid).reshape(N, OH * OW * 2), _index_type(framed)
    _forward(N * -(-OH * OW // _PART), *arrays, H, W, taps, _PADDING[padding_mode], align_corners)
    return output.reshape(N, C, OH, OW)


def backward(grad_output, input, grid, mode, padding_mode, align_corners, needs_grad=(True, True)):
    (N, C, H, W), (OH, OW), taps = input.shape, grid.shape[1:3], _TAPS[mode]
    needs_input, needs_grid = needs_grad[0], needs_grad[1] and mode != "nearest"
    framed = _framed(input, len(taps)) if needs_grid else np.empty((N, C, 0), input.dtype)
    grad_input = np.empty(input.shape if needs_input else (N, C, 0, 0), input.dtype)
    grad_grid = np.zeros((N, OH * OW * 2), grid.dtype)
    arrays = nchw(grad_output).reshape(N, C, OH * OW), framed, nchw(grid).reshape(N, OH * OW * 2), _index_type(input)
    options = H, W, taps, _PADDING[padding_mode], align_corners, (needs_input, needs_grid)
    _backward(N, grad_input, grad_grid, *arrays, *options)
    return grad_input if needs_input else None, grad_grid.reshape(grid.shape) if needs_grad[1] else None


def _framed(input, frame):
    """The images with `frame` rows of zeros above and below and as many columns to the left, which are also those to
    the right of the row before: shape (N, C, pixels with the frame). A tap outside reads a zero there."""
    N, C, H, W = input.shape
    framed = np.empty((N, C, (H + 2 * frame + 1) * (W + frame)), input.dtype)
    _frame(N * C, framed, nchw(input), frame)
    return framed


def _index_type(image):
    """Indices of four bytes where they suffice, because vectors then hold as many of them as of float32."""
    return np.empty(0, np.int32 if image[:1, :1].size < 2**29 else np.int64)


@compiled
def _frame(images, *arguments):
    parallel_for(_frame_image, images, arguments)


@compiled
def _frame_image(item, framed, input, frame):
    _, C, H, W = input.shape
    n, c, width = item // C, item % C, W + frame
    U = framed[n, c]
    for p in range(len(U)):
        U[p] = 0
    for h in range(H):
        row = U[(h + frame) * width + frame :]
        for w in range(W):
            row[w] = input[n, c, h, w]


@compiled
def _forward(parts, *arguments):
    parallel_for(_forward_part, parts, arguments)


@compiled
def _forward_part(item, output, framed, grid, index, H, W, taps, padding, align_corners):
    (_, C, P), T = output.shape, len(taps)
    parts = (P + _PART - 1) // _PART
    n, first = item // parts, item % parts * _PART
    kx, ky, mx, my, corner, work = _room(grid, index, taps)
    near, value = np.empty((T + T % 2, _BLOCK), grid.dtype), np.empty(_BLOCK, grid.dtype)
    for start in range(first, min(P, first + _PART), _BLOCK):
        count = min(_BLOCK, P - start)
        room = _whole_vectors(count)
        _split(work, grid[n, 2 * start :], count)
        _place_taps(mx, kx, work, 0, room, W, np.intp(1), taps, padding, align_corners)
        _place_taps(my, ky, work, 1, room, H, W + T, taps, padding, align_corners)
        for c in range(C):
            value[:] = 0
            for v in range(T):
                _read_row(near, framed[n, c], v, mx, my, corner, room, taps, padding)
                _add_row(value, near, v, kx, ky, room, taps)
            V = output[n, c, start:]
            for s in range(count):
                V[s] = value[s]


@compiled
def _backward(images, *arguments):
    parallel_for(_backward_image, images, arguments)


@compiled
def _backward_image(
    n, grad_input, grad_grid, grad_output, framed, grid, index, H, W, taps, padding, align_corners, needs_grad
):
    (_, C, P), T = grad_output.shape, len(taps)
    kx, ky, mx, my, corner, work = _room(grid, index, taps)
    near, slope = np.empty((T + T % 2, _BLOCK), grid.dtype), np.empty((2, _BLOCK), grid.dtype)
    dU = np.zeros((C if needs_grad[0] else 0, H + 2 * T + 1, W + T), grid.dtype)
    for start in range(0, P, _BLOCK):
        count = min(_BLOCK, P - start)
        room = _whole_vectors(count)
        _split(work, grid[n, 2 * start :], count)
        _place_taps(mx, kx, work, 0, room, W, np.intp(1), taps, padding, align_corners)
        _place_taps(my, ky, work, 1, room, H, W + T, taps, padding, align_corners)
        for c in range(C):
            g, grad_points = grad_output[n, c, start:], grad_grid[n, 2 * start :]
            if needs_grad[1]:
                slope[:] = 0
                for v in range(T):
                    _read_row(near, framed[n, c], v, mx, my, corner, room, taps, padding)
                    _add_slopes(slope, near, v, kx, ky, room, taps)
                for s in range(count):
                    grad_points[2 * s] += g[s] * slope[0, s]
                    grad_points[2 * s + 1] += g[s] * slope[1, s]
            if needs_grad[0]:
                _add_weights(dU[c].reshape(dU[c].size), g, mx, my, kx, ky, count, taps)
    if needs_grad[0]:
        for c in range(C):
            for h in range(H):
                for w in range(W):
                    grad_input[n, c, h, w] = dU[c, h + T, w + T]


@compiled
def _whole_vectors(count):
    return (count + _LANES - 1) // _LANES * _LANES


@compiled
def _room(like, index, taps):
    """For a block's taps along x and y: their weights [0] and slopes [1]; their columns and rows; and two more, to work
    with."""
    T, dtype = len(taps), like.dtype
    kx, ky = np.empty((2, T, _BLOCK), dtype), np.empty((2, T, _BLOCK), dtype)
    mx, my = np.empty((T, _BLOCK), index.dtype), np.empty((T, _BLOCK), index.dtype)
    return kx, ky, mx, my, np.empty(_BLOCK, index.dtype), np.zeros((4, _BLOCK), dtype)


@compiled
def _read_row(near, U, v, mx, my, corner, room, taps, padding):
    """near[u, s]: the pixel of sample s in row v and column u of its taps. `corner` is room for indices."""
    if len(taps) == 4 and padding != 0:  # columns one by one
        for u in range(len(taps)):
            for s in range(room):
                near[u, s] = U[np.uintp(my[v, s] + mx[u, s])]
    else:  # a row's columns follow each other in memory
        for s in range(room):
            corner[s] = my[v, s] + mx[0, s]
        for u in range(0, len(taps), 2):
            for s in range(0, room, _LANES):
                store(load_pairs(_SIZE, U, u, corner, s), 2, 0, near, u * _BLOCK + s, _BLOCK)


@compiled
def _add_row(value, near, v, kx, ky, room, taps):
    """The part of row v of the taps of the samples' values."""
    for s in range(room):
        row = kx[0, 0, s] * near[0, s]
        for u in range(1, len(taps)):
            row += kx[0, u, s] * near[u, s]
        value[s] += ky[0, v, s] * row


@compiled
def _add_slopes(slope, near, v, kx, ky, room, taps):
    """What the samples' values gain when the points move along x [0] and y [1]: the part of row v of the taps."""
    for s in range(room):
        value, gain = kx[0, 0, s] * near[0, s], kx[1, 0, s] * near[0, s]
        for u in range(1, len(taps)):
            value += kx[0, u, s] * near[u, s]
            gain += kx[1, u, s] * near[u, s]
        slope[0, s] += ky[0, v, s] * gain
        slope[1, s] += ky[1, v, s] * value


@compiled
def _add_weights(dU, g, mx, my, kx, ky, count, taps):
    """d input: g times the weight of each tap."""
    for s in range(count):
        for v in range(len(taps)):
            for u in range(len(taps)):
                dU[np.uintp(my[v, s] + mx[u, s])] += g[s] * (ky[0, v, s] * kx[0, u, s])


@compiled
def _split(work, points, count):
    """x of the points to work[0], y to work[1]: both in one loop, for which the compiler then finds vectors."""
    x, y = work[0], work[1]
    for s in range(count):
        x[s], y[s] = points[2 * s], points[2 * s + 1]


@compiled
def _place_taps(m, k, work, axis, room, size, stride, taps, padding, align_corners):
    """The taps along an axis of a block of samples s, whose normalised positions are work[axis].

    m[u, s] is the pixel, counted from the frame's first one and times `stride`; k[0, u, s] its weight; k[1, u, s] the
    weight's slope with respect to the position.
    """
    one, x, first, slope = k.dtype.type(1), work[axis, :room], work[2, :room], work[3, :room]
    scale = k.dtype.type(0.5) * k.dtype.type(size - 1 if align_corners else size)  # pixels per unit of position
    shift = k.dtype.type(0 if align_corners else 0.5)
    for s in range(room):
        x[s] = _to_pixels(x[s], scale, shift)
    if len(taps) < 4:
        _pad(x, slope, size, padding, align_corners)
    if len(taps) == 1:  # nearest: the weight is 1 and has no slope. Halves go to the even pixel, as in PyTorch
        for s in range(room):
            first[s], k[0, 0, s] = np.rint(x[s]), one
    elif len(taps) == 2:  # bilinear. At a whole x the cell to the right counts, and its slope
        for s in range(room):
            first[s] = np.floor(x[s])
            t = x[s] - np.floor(x[s])
            k[0, 0, s], k[0, 1, s] = one - t, t
        for s in range(room):
            k[1, 0, s], k[1, 1, s] = -slope[s] * scale, slope[s] * scale
    else:  # bicubic
        for s in range(room):
            first[s] = np.floor(x[s]) - one
            x[s] = x[s] - np.floor(x[s])
        for u in range(4):
            reach = k.dtype.type(u - 1)
            for s in range(room):
                k[0, u, s], d = _cubic(x[s] - reach, u == 1 or u == 2)
                k[1, u, s] = d * scale
    if len(taps) == 4 and padding != 0:  # each tap is padded for itself
        for u in range(4):
            for s in range(room):
                x[s] = first[s] + k.dtype.type(u)
            _pad(x, slope, size, padding, align_corners)
            _index(m[u], x, size, stride, len(taps))
    else:
        _index(m[0], first, size, stride, len(taps))
        for u in range(1, len(taps)):
            for s in range(room):
                m[u, s] = m[0, s] + m.dtype.type(u * stride)


@compiled(fastmath={"contract"})
def _to_pixels(position, scale, shift):
    """As one fused multiply-add, like PyTorch: the last bit decides on which side of a kink a sample falls."""
    return (position + type(position)(1)) * scale - shift


@compiled
def _cubic(d, near):
    """Keys' cubic convolution kernel with a = -3/4 at distance d, and its derivative: two polynomials in s = |d|, for
    s up to 1, `near`, and up to 2."""
    number, s = type(d), abs(d)
    if near:  # (a + 2) s^3 - (a + 3) s^2 + 1
        value, slope = (number(1.25) * s - number(2.25)) * s * s + number(1), (number(3.75) * s - number(4.5)) * s
    else:  # a s^3 - 5 a s^2 + 8 a s - 4 a
        value = ((number(3.75) - number(0.75) * s) * s - number(6)) * s + number(3)
        slope = (number(7.5) - number(2.25) * s) * s - number(6)
    return value, slope if d >= 0 else -slope


@compiled
def _pad(x, slope, size, padding, align_corners):
    """Replace pixel coordinates outside; the derivative of the new ones with respect to the old: 1, -1 or 0."""
    zero, one, last = x.dtype.type(0), x.dtype.type(1), x.dtype.type(size - 1)
    for s in range(len(x)):
        slope[s] = one
    if padding == 2:  # reflection about the outer pixels' centres, or about their outer edges
        low = x.dtype.type(0 if align_corners else -0.5)
        period = x.dtype.type(2 * (size - 1) if align_corners else 2 * size)  # there and back again
        for s in range(len(x)):
            distance = abs(x[s] - low)
            distance -= np.trunc(distance / period) * period
            back = period - distance
            slope[s] = -one if (x[s] < low) != (distance > back) else one
            x[s] = (back if distance > back else distance) + low
    if padding != 0:  # border: the nearest pixel. On the border itself the slope is already 0. NaN becomes pixel 0.
        for s in range(len(x)):
            slope[s] = slope[s] if (x[s] > zero) & (x[s] < last) else zero
            x[s] = x[s] if x[s] > zero else zero
            x[s] = x[s] if x[s] < last else last


@compiled
def _index(index, m, size, stride, frame):
    """stride times m + frame, with m brought into the frame: 1e20 and NaN fit no integer."""
    before, after = m.dtype.type(-frame), m.dtype.type(size)
    frame, stride = index.dtype.type(frame), index.dtype.type(stride)
    for s in range(len(m)):
        nearest = m[s] if m[s] > before else before
        index[s] = (index.dtype.type(nearest if nearest < after else after) + frame) * stride
