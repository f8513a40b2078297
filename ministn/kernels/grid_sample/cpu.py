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

# Of a mode: the number of taps along an axis; how many rows of them are four taps; and how many of the four follow from
# the first one: all, or none, if each is moved into the image for itself. The compiler knows them.
_TAPS = {"bilinear": (Size(2), Size(2), Size(4)), "bicubic": (Size(4), Size(1), Size(4))}
_TAPS_APART = {**_TAPS, "bicubic": (Size(4), Size(1), Size(1))}
_PADDING = {"zeros": 0, "border": 1, "reflection": 2}
_BLOCK = 256  # samples that are placed at a time
_FORWARD_PART, _BACKWARD_PART = 1024, 4096  # samples that are placed, then looked up in each channel
_LANES = 16  # samples that are looked up at a time
_GROUP = 4  # parts, or images, of one parallel iteration, if there are many: they share their working memory
_ONE, _FOUR, _SIZE = Size(1), Size(4), Size(_LANES)


def forward(input, grid, mode, padding_mode, align_corners):
    (N, C, H, W), (OH, OW), padding = input.shape, grid.shape[1:3], _PADDING[padding_mode]
    output, points = np.empty((N, C, OH * OW), input.dtype), _points(grid)
    items = _groups(N * -(-OH * OW // _FORWARD_PART))
    if mode == "nearest":
        arrays = output, nchw(input).reshape(N, C, H * W), points, _index_type(H * W)
        _forward_nearest(*items, *arrays, H, W, padding, align_corners)
    else:
        taps = _TAPS_APART[mode] if padding_mode == "reflection" else _TAPS[mode]
        framed = _framed(input, taps, padding)
        arrays = output, framed, points, _index_type(framed.shape[2])
        _forward(*items, *taps, *arrays, H, W, padding, align_corners)
    return output.reshape(N, C, OH, OW)


def backward(grad_output, input, grid, mode, padding_mode, align_corners, needs_grad=(True, True)):
    (N, C, H, W), (OH, OW), padding = input.shape, grid.shape[1:3], _PADDING[padding_mode]
    grad_input = np.empty(input.shape if needs_grad[0] else (N, C, 0, 0), input.dtype)
    g, points = nchw(grad_output).reshape(N, C, OH * OW), _points(grid)
    if mode == "nearest":  # the value does not change with the point
        grad_grid = np.zeros(grid.shape, grid.dtype) if needs_grad[1] else None
        if needs_grad[0]:
            arrays = grad_input.reshape(N, C, H * W), g, points, _index_type(H * W)
            _backward_nearest(*_groups(N), *arrays, H, W, padding, align_corners)
    else:
        taps = _TAPS_APART[mode] if padding_mode == "reflection" else _TAPS[mode]
        framed = _framed(input, taps, padding) if needs_grad[1] else np.empty((N, C, 0), input.dtype)
        grad_grid = np.empty(grid.shape, grid.dtype) if needs_grad[1] else None
        slopes = _points(grad_grid if needs_grad[1] else grid[:, :0])
        arrays = grad_input, slopes, g, framed, points, _index_type((H + 8) * (W + 8))
        _backward(*_groups(N), *taps, *arrays, H, W, padding, align_corners, needs_grad)
    return grad_input if needs_grad[0] else None, grad_grid


def _points(grid):
    return nchw(grid).reshape(len(grid), grid[:1].size)


def _framed(input, taps, padding):
    """The images with T rows and columns more on each side, T the number of taps: shape (N, C, pixels with the frame).

    A tap outside the image reads what is there. It is zeros; but the pixels of the border, repeated, for the taps of
    bicubic sampling that fall outside one by one.
    """
    (N, C, H, W), T = input.shape, len(taps[0])
    framed = np.empty((N, C, (H + 2 * T) * (W + 2 * T)), input.dtype)
    _frame(N * C, framed, nchw(input), T, T == 4 and padding == 1)
    return framed


def _groups(count):
    """How many parallel iterations there are for `count` parts or images, and how many each one does."""
    group = max(1, min(_GROUP, count // 16))
    return -(-count // group), group


def _index_type(pixels):
    """Indices of four bytes where they suffice, because vectors then hold as many of them as of float32."""
    return np.empty(0, np.int32 if pixels < 2**29 else np.int64)


@compiled
def _frame(images, *arguments):
    parallel_for(_frame_image, images, arguments)


@compiled
def _frame_image(item, framed, input, frame, repeats):
    _, C, H, W = input.shape
    U, target, width = input[item // C, item % C], framed[item // C, item % C], W + 2 * frame
    for p in range(len(target)):
        target[p] = 0
    for h in range(-frame if repeats else 0, H + frame if repeats else H):
        source, row = U[min(max(h, 0), H - 1)], target[(h + frame) * width + frame :]
        for w in range(W):
            row[w] = source[w]
        if repeats:
            left, right = target[(h + frame) * width :], row[W:]
            for w in range(frame):
                left[w], right[w] = source[0], source[W - 1]


# --- nearest: one tap, of weight 1 ------------------------------------------------------------------------------------


@compiled
def _forward_nearest(items, *arguments):
    parallel_for(_forward_nearest_parts, items, arguments)


@compiled
def _forward_nearest_parts(item, group, output, input, points, index, H, W, padding, align_corners):
    m, work = _room_for_nearest(min(output.shape[2], _FORWARD_PART), points, index)
    for part in range(item * group, _end(item, group, output)):
        n, start, count = _part(part, output)
        _place_nearest(m, work, points[n, 2 * start :], count, H, W, padding, align_corners)
        for c in range(output.shape[1]):
            U, V = input[n, c], output[n, c, start:]
            for s in range(count):
                V[s] = U[np.uintp(m[s])] if m[s] >= 0 else 0


@compiled
def _backward_nearest(items, *arguments):
    parallel_for(_backward_nearest_images, items, arguments)


@compiled
def _backward_nearest_images(item, group, grad_input, grad_output, points, index, H, W, padding, align_corners):
    N, C, P = grad_output.shape
    m, work = _room_for_nearest(P, points, index)
    for n in range(item * group, min((item + 1) * group, N)):
        _place_nearest(m, work, points[n], P, H, W, padding, align_corners)
        for c in range(C):
            dU, g = grad_input[n, c], grad_output[n, c]
            for p in range(len(dU)):
                dU[p] = 0
            for s in range(P):
                if m[s] >= 0:
                    dU[np.uintp(m[s])] += g[s]


@compiled
def _room_for_nearest(count, like, index):
    return np.empty(_whole_vectors(count), index.dtype), np.empty((3, _BLOCK), like.dtype)


@compiled
def _place_nearest(m, work, points, count, H, W, padding, align_corners):
    """m[s]: the pixel of sample s, or -1 outside. Halves go to the even pixel, as in PyTorch."""
    x, y, number = work[0], work[1], points.dtype.type
    for start in range(0, count, _BLOCK):
        room = _split(work, points[2 * start :], min(_BLOCK, count - start))
        for position, size in ((x[:room], W), (y[:room], H)):
            _to_pixels(position, size, align_corners)
            _pad(position, work[2], size, padding, align_corners)
        own = m[start:]
        for s in range(room):
            w, h = np.rint(x[s]), np.rint(y[s])
            inside = (w >= 0) & (w <= number(W - 1)) & (h >= 0) & (h <= number(H - 1))
            column, row = m.dtype.type(w if inside else number(0)), m.dtype.type(h if inside else number(0))
            own[s] = row * m.dtype.type(W) + column if inside else m.dtype.type(-1)


# --- bilinear and bicubic: T taps along each axis ---------------------------------------------------------------------


@compiled
def _forward(items, group, taps, rows, run, *arguments):
    parallel_for(_forward_parts, items, (group, taps, run, *arguments))


@compiled
def _forward_parts(item, group, taps, run, output, framed, points, index, H, W, padding, align_corners):
    C, P, T = output.shape[1], output.shape[2], len(taps)
    m, k, near, work = _room(min(P, _FORWARD_PART), points, index, taps)
    step, value = m.shape[2], np.empty(m.shape[2], points.dtype)
    for part in range(item * group, _end(item, group, output)):
        n, start, count = _part(part, output)
        _place(m, k, work, points[n, 2 * start :], count, H, W, taps, run, padding, align_corners)
        for c in range(C):
            U, V = framed[n, c], output[n, c, start:]
            for s in range(0, count, _LANES):
                total, x_weights = zeros(_ONE, _SIZE, U), load_rows(taps, _SIZE, k, s, step)
                for v in range(T):
                    row = _read_row(U, v, s, m, near, W, taps, run)
                    total = add_products(total, load(_SIZE, k, (2 * T + v) * step + s), dot(row, x_weights))
                store(total, 1, 0, value, s, 0)
            for s in range(count):
                V[s] = value[s]


@compiled
def _backward(items, group, taps, rows, run, *arguments):
    parallel_for(_backward_images, items, (group, taps, rows, run, *arguments))


@compiled
def _backward_images(
    item, group, taps, rows, run, dU, d_points, dV, framed, points, index, H, W, padding, corners, needs
):
    (N, C, P), T = dV.shape, len(taps)
    m, k, near, work = _room(min(P, _BACKWARD_PART), points, index, taps)
    g, slope = np.zeros(m.shape[2], points.dtype), np.empty((2, m.shape[2]), points.dtype)
    # The channels in turn use the same sums, unless there are more parts of the image to come.
    pixels = _whole_vectors((H + 2 * T) * (W + 2 * T))
    sums = np.empty((C if P > _BACKWARD_PART else 1, 4 * pixels), points.dtype)
    tap = np.empty((4, W + 2 * T + _LANES + pixels), points.dtype)
    for n in range(item * group, min((item + 1) * group, N)):
        for start in range(0, max(P, 1), _BACKWARD_PART):
            count = min(_BACKWARD_PART, P - start)
            _place(m, k, work, points[n, 2 * start :], count, H, W, taps, run, padding, corners)
            slope[:] = 0
            for c in range(C):
                _copy(g, dV[n, c, start:], count)
                if needs[1]:
                    _add_slopes(slope, g, framed[n, c], m, k, near, count, W, taps, run)
                if needs[0]:
                    own = sums[c if P > _BACKWARD_PART else 0]
                    if start == 0:
                        own[:] = 0
                    _add_weights(own, g, m, k, near, count, W, taps, rows, run)
                    if start + count == P:
                        _sum_runs(dU[n, c], tap, own, taps, run, padding)
            if needs[1]:
                _join(d_points[n, 2 * start :], slope, count)


@compiled
def _add_slopes(slope, g, U, m, k, near, count, W, taps, run):
    """d grid: what the loss gains when the points move along x, slope[0], and y, slope[1]."""
    T, step = len(taps), m.shape[2]
    for s in range(0, count, _LANES):
        x_weights, x_slopes = load_rows(taps, _SIZE, k, s, step), load_rows(taps, _SIZE, k, T * step + s, step)
        along_x, along_y = zeros(_ONE, _SIZE, U), zeros(_ONE, _SIZE, U)
        for v in range(T):
            row = _read_row(U, v, s, m, near, W, taps, run)
            along_x = add_products(along_x, load(_SIZE, k, (2 * T + v) * step + s), dot(row, x_slopes))
            along_y = add_products(along_y, load(_SIZE, k, (3 * T + v) * step + s), dot(row, x_weights))
        gain = load(_SIZE, g, s)
        store(add_products(load(_SIZE, slope, s), gain, along_x), 1, 0, slope, s, 0)
        store(add_products(load(_SIZE, slope, step + s), gain, along_y), 1, 0, slope, step + s, 0)


@compiled
def _add_weights(sums, g, m, k, near, count, W, taps, rows, run):
    """d input: g times the weight of each tap, four taps at a time.

    They are not added to the four pixels, but to four sums that a pixel has of its own: those of the samples whose
    taps begin there. Neighbouring samples then never touch overlapping runs, for which a processor has to wait. Taps
    that are apart are added to the pixel itself, which has a sum for each u.
    """
    T, step = len(taps), m.shape[2]
    for s in range(0, count, _LANES):
        x_weights, gain = load_rows(taps, _SIZE, k, s, step), load(_SIZE, g, s)
        for v in range(0, T, len(rows)):
            y_weights = multiply(load_rows(rows, _SIZE, k, (2 * T + v) * step + s, step), gain)
            weights = add_products(zeros(_FOUR, _SIZE, sums), y_weights, x_weights)
            if len(run) == 1:
                store(weights, T, 0, near, 0, _LANES)
                row = m[1, v, s:]
                for u in range(T):
                    column, own, weight = m[0, u, s:], sums[u:], near[u]
                    for b in range(_LANES):
                        own[4 * np.uintp(row[b] + column[b])] += weight[b]
            else:
                add_runs(weights, sums[4 * v * (W + 2 * T) :], m, s)


@compiled
def _sum_runs(dU, tap, sums, taps, run, padding):
    """The pixels' gradients from the sums of `_add_weights`: each pixel is the first tap of some samples, the second
    of others, and so on."""
    (H, W), T, pixels = dU.shape, len(taps), len(sums) // 4
    width, start, four = W + 2 * T, tap.shape[1] - pixels, np.arange(0, 4 * _LANES, 4)
    tap[:, :start] = 0  # before the first pixel
    for p in range(0, pixels, _LANES):
        store(load_runs(_FOUR, _SIZE, sums, 4 * p, four, 0), 4, 0, tap, start + p, tap.shape[1])
    to_second, to_third = (0, 0) if len(run) == 1 else (1, 2 if T == 4 else width)  # from the first tap
    total, second = tap[0, start:], tap[1, start - to_second :]
    third, fourth = tap[2, start - to_third :], tap[3, start - to_third - to_second :]
    for p in range(pixels):
        total[p] = (total[p] + second[p]) + (third[p] + fourth[p])
    for h in range(H):
        row, own = dU[h], total[(h + T) * width + T :]
        for w in range(W):
            row[w] = own[w]
    if _repeats(T, padding):  # the frame's gradients belong to the pixels that it repeats
        for h in range(-T, H + T):
            row, own = dU[min(max(h, 0), H - 1)], total[(h + T) * width :]
            for w in range(T if 0 <= h < H else width):
                row[min(max(w - T, 0), W - 1)] += own[w]
            for w in range(T + W if 0 <= h < H else width, width):
                row[W - 1] += own[w]


@compiled
def _read_row(U, v, s, m, near, W, taps, run):
    """row[u, b]: the pixel of sample s + b in row v and column u of its taps."""
    if len(run) == 1:
        row = m[1, v, s:]
        for u in range(len(taps)):
            column, pixel = m[0, u, s:], near[u]
            for b in range(_LANES):
                pixel[b] = U[np.uintp(row[b] + column[b])]
        return load_rows(taps, _SIZE, near, 0, _LANES)
    return load_runs(taps, _SIZE, U, v * (W + 2 * len(taps)), m, s)


# --- where the samples fall -------------------------------------------------------------------------------------------


@compiled
def _parts(output):
    """How many parts an image has."""
    return (output.shape[2] + _FORWARD_PART - 1) // _FORWARD_PART


@compiled
def _end(item, group, output):
    """The part behind the last one of a parallel iteration."""
    return min((item + 1) * group, len(output) * _parts(output))


@compiled
def _part(part, output):
    """The image, the first sample and the number of samples of a part."""
    start = part % _parts(output) * _FORWARD_PART
    return part // _parts(output), start, min(_FORWARD_PART, output.shape[2] - start)


@compiled
def _whole_vectors(count):
    return (count + _LANES - 1) // _LANES * _LANES


@compiled
def _repeats(T, padding):
    """Whether they may be moved to the border because the frame repeats it."""
    return T == 4 and padding == 1


@compiled
def _room(count, like, index, taps):
    """For the taps of samples along x [0] and y [1]: columns and rows m; weights [0] and slopes [1] k. For the pixels
    of a vector of samples. And room to place a block of them."""
    T, dtype, step = len(taps), like.dtype, _whole_vectors(count) + _LANES
    m, k = np.empty((2, T, step), index.dtype), np.empty((2, 2, T, step), dtype)
    return m, k, np.empty((T, _LANES), dtype), np.empty((4, _BLOCK), dtype)


@compiled
def _place(m, k, work, points, count, H, W, taps, run, padding, align_corners):
    """The taps of samples along both axes. m[0, u, s] + m[1, v, s] is a pixel of the framed image; but where all taps
    follow from the first one, m[0, 0, s] alone is that."""
    for start in range(0, count, _BLOCK):
        room = _split(work, points[2 * start :], min(_BLOCK, count - start))
        for axis in range(2):
            size, stride = (H, W + 2 * len(taps)) if axis else (W, 1)
            _place_taps(m[axis], k[axis], start, work, axis, room, size, stride, taps, run, padding, align_corners)
    corner, row = m[0, 0], m[1, 0]
    if len(run) > 1:
        for s in range(_whole_vectors(count)):
            corner[s] += row[s]


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
def _join(points, work, count):
    """The inverse: x and y of the points from work[0] and work[1]."""
    x, y = work[0], work[1]
    for s in range(count):
        points[2 * s], points[2 * s + 1] = x[s], y[s]


@compiled
def _copy(target, source, count):
    """`count` numbers, and zeros to fill up the last vector."""
    for s in range(count):
        target[s] = source[s]
    for s in range(count, _whole_vectors(count)):
        target[s] = 0


@compiled
def _place_taps(m, k, start, work, axis, room, size, stride, taps, run, padding, align_corners):
    """The taps along an axis of a block of samples from `start` on, whose normalised positions are work[axis].

    m[u, s] is the pixel, counted from the frame's first one and times `stride`; k[0, u, s] its weight; k[1, u, s] the
    weight's slope with respect to the position.
    """
    T, one, x, first, slope = len(taps), k.dtype.type(1), work[axis, :room], work[2, :room], work[3, :room]
    scale = _to_pixels(x, size, align_corners)
    if T == 2:  # bilinear. At a whole x the cell to the right counts, and its slope
        left, right, left_slope, right_slope = k[0, 0, start:], k[0, 1, start:], k[1, 0, start:], k[1, 1, start:]
        _pad(x, slope, size, padding, align_corners)
        for s in range(room):
            first[s] = np.floor(x[s])
            t = x[s] - np.floor(x[s])
            left[s], right[s] = one - t, t
        for s in range(room):
            left_slope[s], right_slope[s] = -slope[s] * scale, slope[s] * scale
    else:  # bicubic
        for s in range(room):
            first[s] = np.floor(x[s]) - one
            x[s] = x[s] - np.floor(x[s])
        for u in range(4):
            weight, weight_slope, reach = k[0, u, start:], k[1, u, start:], k.dtype.type(u - 1)
            for s in range(room):
                weight[s], d = _cubic(x[s] - reach, u == 1 or u == 2)
                weight_slope[s] = d * scale
    if len(run) == 1:
        for u in range(T):
            for s in range(room):
                x[s] = first[s] + k.dtype.type(u)
            _pad(x, slope, size, padding, align_corners)
            _index(m[u, start:], x, size, stride, T)
    else:
        _index(m[0, start:], first, size, stride, T)


@compiled(fastmath={"contract"})
def _to_pixels(x, size, align_corners):
    """Normalised coordinates in pixels; how many pixels a unit is.

    As one fused multiply-add, like PyTorch: the last bit decides on which side of a kink a sample falls.
    """
    number = x.dtype.type
    scale, shift = number(0.5) * number(size - 1 if align_corners else size), number(0 if align_corners else 0.5)
    for s in range(len(x)):
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
