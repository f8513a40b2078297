"""Grid sampling, the loops: equation (3) of Jaderberg et al. 2015 with a kernel k that reaches few pixels.

Along each axis a sample at x has T taps: pixel indices m, weights k(x - m), and their slopes per unit of the grid.
`_place` finds them for many samples, as vectors. Then, for each channel, the pixels near 16 samples at a time are
fetched, and again all is done for the 16 at once. Forward: one parallel iteration makes a part of an image, or, of
small ones, some images. Backward: one owns some images, because samples of the same image add to the same input pixels.
"""

from __future__ import annotations

import numpy as np

from ministn.kernels._layout import nchw
from ministn.kernels.compiled import compiled, parallel_for
from ministn.kernels.grid_sample import cpu_nearest
from ministn.kernels.grid_sample._plan import as_matrix, groups, groups_of_images, index_type, is_small
from ministn.kernels.sampling import (
    BLOCK,
    LANES,
    PART,
    copy,
    copy_row,
    end_of,
    fill_frame,
    framed_image,
    images_as_rows,
    join,
    part_of,
    parts_of,
    place_taps,
    repeats_border,
    room_for_frames,
    split,
    whole_vectors,
)
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
_BACKWARD_PART = 4096  # samples that are placed, then looked up in each channel
_ONE, _FOUR, _SIZE = Size(1), Size(4), Size(LANES)


def forward(input, grid, mode, padding_mode, align_corners):
    (N, C, H, W), (OH, OW), padding = input.shape, grid.shape[1:3], _PADDING[padding_mode]
    output, points = np.empty((N, C, OH * OW), input.dtype), _points(grid)
    images, parts = as_matrix(input), -(-OH * OW // PART)
    items = groups_of_images(N, images, parts=parts) if is_small(input) else groups(N * parts)
    if mode == "nearest":
        cpu_nearest.forward(items, output, images, points, index_type(H * W), H, W, padding, align_corners)
    else:
        taps = _TAPS_APART[mode] if padding_mode == "reflection" else _TAPS[mode]
        framed = _framed(input, images, taps, padding)
        arrays = output, images, framed, points, index_type(framed.shape[2])
        _forward(*items, *taps, *arrays, H, W, padding, align_corners)
    return output.reshape(N, C, OH, OW)


def backward(grad_output, input, grid, mode, padding_mode, align_corners, needs_grad=(True, True)):
    (N, C, H, W), padding, points = input.shape, _PADDING[padding_mode], _points(grid)
    grad_input = np.empty(input.shape if needs_grad[0] else (N, C, 0, 0), input.dtype)
    g = as_matrix(grad_output)
    if mode == "nearest":  # the value does not change with the point
        grad_grid = np.zeros(grid.shape, grid.dtype) if needs_grad[1] else None
        if needs_grad[0]:
            arrays = grad_input.reshape(N, C, H * W), g, points, index_type(H * W)
            cpu_nearest.backward(groups_of_images(N, g), *arrays, H, W, padding, align_corners)
    else:
        taps = _TAPS_APART[mode] if padding_mode == "reflection" else _TAPS[mode]
        images, framed, grad_grid = (np.empty((0, 0), input.dtype), False), np.empty((0, C, 0), input.dtype), None
        if needs_grad[1]:
            images, grad_grid = as_matrix(input), np.empty(grid.shape, grid.dtype)
            framed = _framed(input, images, taps, padding)
        slopes = _points(grad_grid if needs_grad[1] else grid[:, :0])
        arrays = grad_input, slopes, g, images, framed, points, index_type((H + 8) * (W + 8))
        _backward(*groups_of_images(N, g, images), *taps, *arrays, H, W, padding, align_corners, needs_grad)
    return grad_input if needs_grad[0] else None, grad_grid


def _points(grid):
    return nchw(grid).reshape(len(grid), grid[:1].size)


def _framed(input, images, taps, padding):
    """The images with T rows and columns more on each side, T the number of taps: shape (N, C, pixels with the frame).
    No images if they are small: whoever needs one makes its frame.

    A tap outside the image reads what is there. It is zeros; but the pixels of the border, repeated, for the taps of
    bicubic sampling that fall outside one by one.
    """
    (N, C, H, W), T = input.shape, len(taps[0])
    framed = np.empty((0 if is_small(input) else N, C, (H + 2 * T) * (W + 2 * T)), input.dtype)
    if len(framed):
        _frame(N * C, framed, images[0], H, W, T, padding)
    return framed


@compiled
def _frame(images, *arguments):
    parallel_for(_frame_image, images, arguments)


@compiled
def _frame_image(item, framed, images, H, W, T, padding):
    n, c = item // framed.shape[1], item % framed.shape[1]
    framed[n, c] = 0
    fill_frame(framed[n, c], images[n, c * H * W :], H, W, T, padding)


@compiled
def _forward(items, group, taps, rows, run, *arguments):
    parallel_for(_forward_parts, items, (group, taps, run, *arguments))


@compiled
def _forward_parts(item, group, taps, run, output, input, framed, points, index, H, W, padding, align_corners):
    C, P, T = output.shape[1], output.shape[2], len(taps)
    m, k, near, work = _room(min(P, PART), points, index, taps)
    step, value, own = m.shape[2], np.empty(m.shape[2], points.dtype), room_for_frames(framed)
    images, first = images_as_rows(*input, item * group // parts_of(output))
    image = own
    for part in range(item * group, end_of(item, group, output)):
        n, start, count = part_of(part, output)
        if start == 0 or len(framed):
            image = framed_image(framed, images[n - first], n, own, H, W, taps, padding)
        _place(m, k, work, points[n, 2 * start :], count, H, W, taps, run, padding, align_corners, False)
        for c in range(C):
            U, V = image[c], output[n, c, start:]
            for s in range(0, count, LANES):
                total, x_weights = zeros(_ONE, _SIZE, U), load_rows(taps, _SIZE, k, s, step)
                for v in range(T):
                    row = _read_row(U, v, s, m, near, W, taps, run)
                    total = add_products(total, load(_SIZE, k, (2 * T + v) * step + s), dot(row, x_weights))
                store(total, 1, 0, value, s, 0)
            copy_row(V, 0, value, 0, count)


@compiled
def _backward(items, group, taps, rows, run, *arguments):
    parallel_for(_backward_images, items, (group, taps, rows, run, *arguments))


@compiled
def _backward_images(
    item, group, taps, rows, run, dU, d_points, dV, input, framed, points, index, H, W, padding, corners, needs
):
    (N, C), P, T, n0 = dU.shape[:2], points.shape[1] // 2, len(taps), item * group
    (images, first), (gradients, first_gradient) = images_as_rows(*input, n0), images_as_rows(*dV, n0)
    own = room_for_frames(framed)
    m, k, near, work = _room(min(P, _BACKWARD_PART), points, index, taps)
    g, slope = np.zeros(m.shape[2], points.dtype), np.empty((2, m.shape[2]), points.dtype)
    # The channels in turn use the same sums, unless there are more parts of the image to come.
    pixels = whole_vectors((H + 2 * T) * (W + 2 * T))
    sums = np.empty((C if P > _BACKWARD_PART else 1, 4 * pixels), points.dtype)
    tap = np.empty((4, W + 2 * T + LANES + pixels), points.dtype)
    for n in range(n0, min(n0 + group, N)):
        image = framed_image(framed, images[n - first], n, own, H, W, taps, padding) if needs[1] else own
        for start in range(0, max(P, 1), _BACKWARD_PART):
            count = min(_BACKWARD_PART, P - start)
            _place(m, k, work, points[n, 2 * start :], count, H, W, taps, run, padding, corners, needs[1])
            slope[:] = 0
            for c in range(C):
                copy(g, gradients[n - first_gradient, c * P + start :], count)
                if needs[1]:
                    _add_slopes(slope, g, image[c], m, k, near, count, W, taps, run)
                if needs[0]:
                    total = sums[c if P > _BACKWARD_PART else 0]
                    if start == 0:
                        total[:] = 0
                    _add_weights(total, g, m, k, near, count, W, taps, rows, run)
                    if start + count == P:
                        _sum_runs(dU[n, c], tap, total, taps, run, padding)
            if needs[1]:
                join(d_points[n, 2 * start :], slope, count)


@compiled
def _add_slopes(slope, g, U, m, k, near, count, W, taps, run):
    """d grid: what the loss gains when the points move along x, slope[0], and y, slope[1]."""
    T, step = len(taps), m.shape[2]
    for s in range(0, count, LANES):
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
    for s in range(0, count, LANES):
        x_weights, gain = load_rows(taps, _SIZE, k, s, step), load(_SIZE, g, s)
        for v in range(0, T, len(rows)):
            y_weights = multiply(load_rows(rows, _SIZE, k, (2 * T + v) * step + s, step), gain)
            weights = add_products(zeros(_FOUR, _SIZE, sums), y_weights, x_weights)
            if len(run) == 1:
                store(weights, T, 0, near, 0, LANES)
                row = m[1, v, s:]
                for u in range(T):
                    column, own, weight = m[0, u, s:], sums[u:], near[u]
                    for b in range(LANES):
                        own[4 * np.uintp(row[b] + column[b])] += weight[b]
            else:
                add_runs(weights, sums[4 * v * (W + 2 * T) :], m, s)


@compiled
def _sum_runs(dU, tap, sums, taps, run, padding):
    """The pixels' gradients from the sums of `_add_weights`: each pixel is the first tap of some samples, the second
    of others, and so on."""
    (H, W), T, pixels = dU.shape, len(taps), len(sums) // 4
    width, start, four = W + 2 * T, tap.shape[1] - pixels, np.arange(0, 4 * LANES, 4)
    tap[:, :start] = 0  # before the first pixel
    for p in range(0, pixels, LANES):
        store(load_runs(_FOUR, _SIZE, sums, 4 * p, four, 0), 4, 0, tap, start + p, tap.shape[1])
    to_second, to_third = (0, 0) if len(run) == 1 else (1, 2 if T == 4 else width)  # from the first tap
    total, second = tap[0, start:], tap[1, start - to_second :]
    third, fourth = tap[2, start - to_third :], tap[3, start - to_third - to_second :]
    for p in range(pixels):
        total[p] = (total[p] + second[p]) + (third[p] + fourth[p])
    for h in range(H):
        copy_row(dU[h], 0, total, (h + T) * width + T, W)
    if repeats_border(T, padding):  # the frame's gradients belong to the pixels that it repeats
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
            for b in range(LANES):
                pixel[b] = U[np.uintp(row[b] + column[b])]
        return load_rows(taps, _SIZE, near, 0, LANES)
    return load_runs(taps, _SIZE, U, v * (W + 2 * len(taps)), m, s)


@compiled
def _room(count, like, index, taps):
    """For the taps of samples along x [0] and y [1]: columns and rows m; weights [0] and slopes [1] k. For the pixels
    of a vector of samples. And room to place a block of them."""
    T, dtype, step = len(taps), like.dtype, whole_vectors(count) + LANES
    m, k = np.empty((2, T, step), index.dtype), np.empty((2, 2, T, step), dtype)
    return m, k, np.empty((T, LANES), dtype), np.empty((4, BLOCK), dtype)


@compiled
def _place(m, k, work, points, count, H, W, taps, run, padding, align_corners, slopes):
    """The taps of samples along both axes. m[0, u, s] + m[1, v, s] is a pixel of the framed image; but where all taps
    follow from the first one, m[0, 0, s] alone is that."""
    for start in range(0, count, BLOCK):
        room = split(work, points[2 * start :], min(BLOCK, count - start))
        for axis in range(2):
            size, stride = (H, W + 2 * len(taps)) if axis else (W, 1)
            place_taps(
                m[axis], k[axis], start, work, axis, room, size, stride, taps, run, padding, align_corners, slopes
            )
    corner, row = m[0, 0], m[1, 0]
    if len(run) > 1:
        for s in range(whole_vectors(count)):
            corner[s] += row[s]
