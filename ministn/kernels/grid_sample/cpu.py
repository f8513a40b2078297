"""Grid sampling, the loops: equation (3) of Jaderberg et al. 2015 with a kernel k that reaches few pixels.

Along each axis a sample at x has T taps: pixel indices m, weights k(x - m), and their slopes per unit of the grid.
`_place` finds them for many samples, as vectors. Then, for each channel, the pixels near 16 samples at a time are
fetched, and again all is done for the 16 at once. Forward: one parallel iteration makes a part of an image. Backward:
one owns an image, because samples of the same image add to the same input pixels.
"""

from __future__ import annotations

import numpy as np

from ministn.kernels._layout import nchw
from ministn.kernels.compiled import compiled, parallel_for
from ministn.kernels.simd import (
    Size,
    add_products,
    add_runs,
    dot,
    load,
    load_rows,
    load_runs,
    multiply,
    store,
    zeros,
)

# The number of taps along an axis stands for the mode, and how many rows of them are a run of four numbers.
_TAPS = {"bilinear": (Size(2), Size(2)), "bicubic": (Size(4), Size(1))}
_PADDING = {"zeros": 0, "border": 1, "reflection": 2}
_BLOCK = 256  # samples that are placed at a time
_FORWARD_PART, _BACKWARD_PART = 1024, 4096  # samples that are placed, then looked up in each channel
_LANES = 16  # samples that are looked up at a time
_ONE, _FOUR, _SIZE = Size(1), Size(4), Size(_LANES)


def forward(input, grid, mode, padding_mode, align_corners):
    (N, C, H, W), (OH, OW), padding = input.shape, grid.shape[1:3], _PADDING[padding_mode]
    output, points, parts = np.empty((N, C, OH * OW), input.dtype), _points(grid), -(-OH * OW // _FORWARD_PART)
    if mode == "nearest":
        arrays = output, nchw(input).reshape(N, C, H * W), points, _index_type(H * W)
        _forward_nearest(N * parts, *arrays, H, W, padding, align_corners)
    else:
        framed = _framed(input, mode, padding)
        arrays = output, framed, points, _index_type(framed.shape[2])
        _forward(N * parts, *arrays, H, W, *_TAPS[mode], padding, align_corners)
    return output.reshape(N, C, OH, OW)


def backward(grad_output, input, grid, mode, padding_mode, align_corners, needs_grad=(True, True)):
    (N, C, H, W), (OH, OW), padding = input.shape, grid.shape[1:3], _PADDING[padding_mode]
    grad_input = np.empty(input.shape if needs_grad[0] else (N, C, 0, 0), input.dtype)
    g, points = nchw(grad_output).reshape(N, C, OH * OW), _points(grid)
    if mode == "nearest":  # the value does not change with the point
        grad_grid = np.zeros(grid.shape, grid.dtype) if needs_grad[1] else None
        if needs_grad[0]:
            arrays = grad_input.reshape(N, C, H * W), g, points, _index_type(H * W)
            _backward_nearest(N, *arrays, H, W, padding, align_corners)
    else:
        framed = _framed(input, mode, padding) if needs_grad[1] else np.empty((N, C, 0), input.dtype)
        grad_grid = np.empty(grid.shape, grid.dtype) if needs_grad[1] else None
        slopes = _points(grad_grid if needs_grad[1] else grid[:, :0])
        arrays = grad_input, slopes, g, framed, points, _index_type((H + 8) * (W + 8))
        _backward(N, *arrays, H, W, *_TAPS[mode], padding, align_corners, needs_grad)
    return grad_input if needs_grad[0] else None, grad_grid


def _points(grid):
    return nchw(grid).reshape(len(grid), grid[:1].size)


def _framed(input, mode, padding):
    """The images with T rows and columns more on each side, T the number of taps: shape (N, C, pixels with the frame).

    A tap outside the image reads what is there. It is zeros; but the pixels of the border, repeated, for the taps of
    bicubic sampling that fall outside one by one.
    """
    (N, C, H, W), T = input.shape, len(_TAPS[mode][0])
    framed = np.empty((N, C, (H + 2 * T) * (W + 2 * T)), input.dtype)
    _frame(N * C, framed, nchw(input), T, T == 4 and padding == 1)
    return framed


def _index_type(pixels):
    """Indices of four bytes where they suffice, because vectors then hold as many of them as of float32."""
    return np.empty(0, np.int32 if pixels < 2**29 else np.int64)


@compiled
def _frame(images, *arguments):
    parallel_for(_frame_image, images, arguments)


@compiled
def _frame_image(item, framed, input, frame, repeats):
    _, C, H, W = input.shape
    U, target = input[item // C, item % C], framed[item // C, item % C]
    for h in range(-frame, H + frame):
        source, row = U[min(max(h, 0), H - 1)], target[(h + frame) * (W + 2 * frame) :]
        inside = repeats or 0 <= h < H
        for w in range(frame):
            row[w] = source[0] if repeats else 0
            row[frame + W + w] = source[W - 1] if repeats else 0
        for w in range(W):
            row[frame + w] = source[w] if inside else 0


# --- nearest: one tap, of weight 1 ------------------------------------------------------------------------------------


@compiled
def _forward_nearest(parts, *arguments):
    parallel_for(_forward_nearest_part, parts, arguments)


@compiled
def _forward_nearest_part(item, output, input, points, index, H, W, padding, align_corners):
    n, start, count = _part(item, output)
    m = np.empty(_whole_vectors(count), index.dtype)
    _place_nearest(m, points[n, 2 * start :], count, H, W, padding, align_corners)
    for c in range(output.shape[1]):
        U, V = input[n, c], output[n, c, start:]
        for s in range(count):
            V[s] = U[np.uintp(m[s])] if m[s] >= 0 else 0


@compiled
def _backward_nearest(images, *arguments):
    parallel_for(_backward_nearest_image, images, arguments)


@compiled
def _backward_nearest_image(n, grad_input, grad_output, points, index, H, W, padding, align_corners):
    _, C, P = grad_output.shape
    m = np.empty(_whole_vectors(P), index.dtype)
    _place_nearest(m, points[n], P, H, W, padding, align_corners)
    for c in range(C):
        dU, g = grad_input[n, c], grad_output[n, c]
        dU[:] = 0
        for s in range(P):
            if m[s] >= 0:
                dU[np.uintp(m[s])] += g[s]


@compiled
def _place_nearest(m, points, count, H, W, padding, align_corners):
    """m[s]: the pixel of sample s, or -1 outside. Halves go to the even pixel, as in PyTorch."""
    work = np.empty((4, _BLOCK), points.dtype)
    x, y, number = work[0], work[1], points.dtype.type
    for start in range(0, count, _BLOCK):
        room = _split(work, points[2 * start :], min(_BLOCK, count - start))
        _to_pixels(work, 0, room, W, align_corners)
        _to_pixels(work, 1, room, H, align_corners)
        _pad(x[:room], work[2], W, padding, align_corners)
        _pad(y[:room], work[2], H, padding, align_corners)
        own = m[start:]
        for s in range(room):
            w, h = np.rint(x[s]), np.rint(y[s])
            inside = (w >= 0) & (w <= number(W - 1)) & (h >= 0) & (h <= number(H - 1))
            column, row = m.dtype.type(w if inside else number(0)), m.dtype.type(h if inside else number(0))
            own[s] = row * m.dtype.type(W) + column if inside else m.dtype.type(-1)


# --- bilinear and bicubic: T taps along each axis ---------------------------------------------------------------------


@compiled
def _forward(parts, *arguments):
    parallel_for(_forward_part, parts, arguments)


@compiled
def _forward_part(item, output, framed, points, index, H, W, taps, rows, padding, align_corners):
    T, (n, start, count) = len(taps), _part(item, output)
    mx, my, kx, ky, near = _room(count, points, index, taps)
    _place(mx, my, kx, ky, points[n, 2 * start :], count, H, W, padding, align_corners)
    step, value = mx.shape[1], np.empty(mx.shape[1], points.dtype)
    for c in range(output.shape[1]):
        U, V = framed[n, c], output[n, c, start:]
        for s in range(0, count, _LANES):
            total, x_weights = zeros(_ONE, _SIZE, U), load_rows(taps, _SIZE, kx, s, step)
            for v in range(T):
                row = _read_row(U, v, s, mx, my, near, W, taps, padding)
                total = add_products(total, load(_SIZE, ky, v * step + s), dot(row, x_weights))
            store(total, 1, 0, value, s, 0)
        for s in range(count):
            V[s] = value[s]


@compiled
def _backward(images, *arguments):
    parallel_for(_backward_image, images, arguments)


@compiled
def _backward_image(
    n, grad_input, grad_grid, grad_output, framed, points, index, H, W, taps, rows, padding, align_corners, needs_grad
):
    (_, C, P), T = grad_output.shape, len(taps)
    mx, my, kx, ky, near = _room(min(P, _BACKWARD_PART), points, index, taps)
    g, slope = np.zeros(mx.shape[1], points.dtype), np.empty((2, mx.shape[1]), points.dtype)
    # The channels in turn use the same sums, unless there are more parts of the image to come.
    sums = np.empty((C if P > _BACKWARD_PART else 1, 4, (H + 2 * T) * (W + 2 * T)), points.dtype)
    for start in range(0, max(P, 1), _BACKWARD_PART):
        count = min(_BACKWARD_PART, P - start)
        _place(mx, my, kx, ky, points[n, 2 * start :], count, H, W, padding, align_corners)
        slope[:] = 0
        for c in range(C):
            g[:count] = grad_output[n, c, start : start + count]
            g[count:] = 0  # the lanes of the last vector that are no samples
            if needs_grad[1]:
                _add_slopes(slope, g, framed[n, c], mx, my, kx, ky, near, count, W, taps, padding)
            if needs_grad[0]:
                own = sums[c if P > _BACKWARD_PART else 0]
                if start == 0:
                    own[:] = 0
                _add_weights(own.reshape(own.size), g, mx, my, kx, ky, near, count, W, taps, rows, padding)
                if start + count == P:
                    _sum_runs(grad_input[n, c], own, taps, padding)
        if needs_grad[1]:
            for s in range(count):
                grad_grid[n, 2 * (start + s)] = slope[0, s]
                grad_grid[n, 2 * (start + s) + 1] = slope[1, s]


@compiled
def _add_slopes(slope, g, U, mx, my, kx, ky, near, count, W, taps, padding):
    """d grid: what the loss gains when the points move along x, slope[0], and y, slope[1]."""
    T, step = len(taps), mx.shape[1]
    for s in range(0, count, _LANES):
        x_weights, x_slopes = load_rows(taps, _SIZE, kx, s, step), load_rows(taps, _SIZE, kx, T * step + s, step)
        along_x, along_y = zeros(_ONE, _SIZE, U), zeros(_ONE, _SIZE, U)
        for v in range(T):
            row = _read_row(U, v, s, mx, my, near, W, taps, padding)
            along_x = add_products(along_x, load(_SIZE, ky, v * step + s), dot(row, x_slopes))
            along_y = add_products(along_y, load(_SIZE, ky, (T + v) * step + s), dot(row, x_weights))
        gain = load(_SIZE, g, s)
        store(add_products(load(_SIZE, slope, s), gain, along_x), 1, 0, slope, s, 0)
        store(add_products(load(_SIZE, slope, step + s), gain, along_y), 1, 0, slope, step + s, 0)


@compiled
def _add_weights(sums, g, mx, my, kx, ky, near, count, W, taps, rows, padding):
    """d input: g times the weight of each tap, four taps at a time.

    They are not added to the four pixels, but to four sums that a pixel has of its own: those of the samples whose
    taps begin there. Neighbouring samples then never touch overlapping runs, for which a processor has to wait.
    """
    T, step = len(taps), mx.shape[1]
    for s in range(0, count, _LANES):
        x_weights, gain = load_rows(taps, _SIZE, kx, s, step), load(_SIZE, g, s)
        for v in range(0, T, len(rows)):
            y_weights = multiply(load_rows(rows, _SIZE, ky, v * step + s, step), gain)
            weights = add_products(zeros(_FOUR, _SIZE, sums), y_weights, x_weights)
            if _apart(T, padding):
                store(weights, T, 0, near, 0, _LANES)
                for u in range(T):
                    for b in range(_LANES):
                        sums[4 * np.uintp(my[v, s + b] + mx[u, s + b])] += near[u, b]
            else:
                add_runs(weights, sums[4 * v * (W + 2 * T) :], mx, s)


@compiled
def _sum_runs(dU, sums, taps, padding):
    """The pixels' gradients from the sums of `_add_weights`: each pixel is the first tap of some samples, the second
    of others, and so on."""
    (H, W), T, pixels = dU.shape, len(taps), sums.shape[1]
    first, second, third, fourth = np.empty((4, pixels + 4), sums.dtype)  # four numbers before, which are 0
    flat, width = sums.reshape(sums.size), W + 2 * T
    for p in range(4):
        first[p] = second[p] = third[p] = fourth[p] = 0
    for p in range(pixels):
        first[p + 4], second[p + 4] = flat[4 * p], flat[4 * p + 1]
        third[p + 4], fourth[p + 4] = flat[4 * p + 2], flat[4 * p + 3]
    next_row = 2 if T == 4 else width  # from the first tap to the third
    frame = T if _repeats(T, padding) else 0
    dU[:] = 0
    for h in range(-frame, H + frame):
        row, start = dU[min(max(h, 0), H - 1)], (h + T) * width + T + 4
        for w in range(W):
            p = start + w
            row[w] += (first[p] + second[p - 1]) + (third[p - next_row] + fourth[p - next_row - 1])
        for w in range(frame):  # the frame repeats the border, to its left and to its right
            for p, border in ((start - 1 - w, 0), (start + W + w, W - 1)):
                row[border] += (first[p] + second[p - 1]) + (third[p - next_row] + fourth[p - next_row - 1])


@compiled
def _read_row(U, v, s, mx, my, near, W, taps, padding):
    """row[u, b]: the pixel of sample s + b in row v and column u of its taps."""
    if _apart(len(taps), padding):
        for u in range(len(taps)):
            for b in range(_LANES):
                near[u, b] = U[np.uintp(my[v, s + b] + mx[u, s + b])]
        return load_rows(taps, _SIZE, near, 0, _LANES)
    return load_runs(taps, _SIZE, U, v * (W + 2 * len(taps)), mx, s)


# --- where the samples fall -------------------------------------------------------------------------------------------


@compiled
def _part(item, output):
    """The image, the first sample and the number of samples of a part."""
    P = output.shape[2]
    parts = (P + _FORWARD_PART - 1) // _FORWARD_PART
    start = item % parts * _FORWARD_PART
    return item // parts, start, min(_FORWARD_PART, P - start)


@compiled
def _whole_vectors(count):
    return (count + _LANES - 1) // _LANES * _LANES


@compiled
def _apart(T, padding):
    """Whether a sample's taps are moved into the image one by one, and then may not follow each other."""
    return T == 4 and padding == 2


@compiled
def _repeats(T, padding):
    """Whether they may be moved to the border because the frame repeats it."""
    return T == 4 and padding == 1


@compiled
def _room(count, like, index, taps):
    """For the taps of samples along x and y: columns and rows, weights [0] and slopes [1]; and for the pixels of one
    vector of them."""
    T, dtype, step = len(taps), like.dtype, _whole_vectors(count) + _LANES
    mx, my = np.empty((T, step), index.dtype), np.empty((T, step), index.dtype)
    return mx, my, np.empty((2, T, step), dtype), np.empty((2, T, step), dtype), np.empty((T, _LANES), dtype)


@compiled
def _place(mx, my, kx, ky, points, count, H, W, padding, align_corners):
    """The taps of samples along both axes. mx[u, s] + my[v, s] is a pixel of the framed image; but where all taps
    follow from the first one, mx[0, s] alone is that."""
    T, work = len(mx), np.empty((4, _BLOCK), points.dtype)
    for start in range(0, count, _BLOCK):
        room = _split(work, points[2 * start :], min(_BLOCK, count - start))
        _place_taps(mx[:, start:], kx[:, :, start:], work, 0, room, W, 1, padding, align_corners)
        _place_taps(my[:, start:], ky[:, :, start:], work, 1, room, H, W + 2 * T, padding, align_corners)
        if not _apart(T, padding):
            for s in range(start, start + room):
                mx[0, s] += my[0, s]


@compiled
def _split(work, points, count):
    """x of the points to work[0], y to work[1], and zeros to fill up the last vector; how many there are with them."""
    x, y, room = work[0], work[1], _whole_vectors(count)
    for s in range(count):
        x[s], y[s] = points[2 * s], points[2 * s + 1]
    for s in range(count, room):
        x[s] = y[s] = 0
    return room


@compiled
def _place_taps(m, k, work, axis, room, size, stride, padding, align_corners):
    """The taps along an axis of a block of samples s, whose normalised positions are work[axis].

    m[u, s] is the pixel, counted from the frame's first one and times `stride`; k[0, u, s] its weight; k[1, u, s] the
    weight's slope with respect to the position.
    """
    T, one, x, first, slope = len(m), k.dtype.type(1), work[axis, :room], work[2, :room], work[3, :room]
    scale = _to_pixels(work, axis, room, size, align_corners)
    if T == 2:  # bilinear. At a whole x the cell to the right counts, and its slope
        _pad(x, slope, size, padding, align_corners)
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
    if _apart(T, padding):
        for u in range(T):
            for s in range(room):
                x[s] = first[s] + k.dtype.type(u)
            _pad(x, slope, size, padding, align_corners)
            _index(m[u], x, size, stride, T)
    else:
        _index(m[0], first, size, stride, T)


@compiled(fastmath={"contract"})
def _to_pixels(work, axis, room, size, align_corners):
    """Normalised coordinates in pixels; how many pixels a unit is.

    As one fused multiply-add, like PyTorch: the last bit decides on which side of a kink a sample falls.
    """
    x, number = work[axis], work.dtype.type
    scale, shift = number(0.5) * number(size - 1 if align_corners else size), number(0 if align_corners else 0.5)
    for s in range(room):
        x[s] = (x[s] + number(1)) * scale - shift
    return scale


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
