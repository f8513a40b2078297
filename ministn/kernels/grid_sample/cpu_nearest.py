"""Grid sampling of the nearest pixel, the loops: one tap, of weight 1, and nothing to interpolate.

Forward: one parallel iteration makes some parts of images. Backward: one owns some images, because samples of the same
image add to the same input pixels.
"""

from __future__ import annotations

import numpy as np

from ministn.kernels.compiled import compiled, parallel_for
from ministn.kernels.sampling import (
    BLOCK,
    PART,
    clipped,
    end_of,
    images_as_rows,
    part_of,
    parts_of,
    pixels_per_unit,
    reflected,
    split,
    to_pixel,
    whole_vectors,
)


def forward(items, *arguments):
    """`items`: how many parallel iterations there are, and how many parts each one makes. The other arguments are those
    of `_forward_parts`."""
    _forward(*items, *arguments)


def backward(items, *arguments):
    """`items`: how many parallel iterations there are, and how many images each one does."""
    _backward(*items, *arguments)


@compiled
def _forward(items, *arguments):
    parallel_for(_forward_parts, items, arguments)


@compiled
def _forward_parts(item, group, output, input, points, index, H, W, padding, align_corners):
    images, first = images_as_rows(*input, item * group // parts_of(output))
    m, work = _room(min(output.shape[2], PART), points, index)
    for part in range(item * group, end_of(item, group, output)):
        n, start, count = part_of(part, output)
        _place(m, work, points[n, 2 * start :], count, H, W, padding, align_corners)
        for c in range(output.shape[1]):
            U, V = images[n - first, c * H * W :], output[n, c, start:]
            for s in range(count):
                V[s] = U[np.uintp(m[s])] if m[s] >= 0 else 0


@compiled
def _backward(items, *arguments):
    parallel_for(_backward_images, items, arguments)


@compiled
def _backward_images(item, group, grad_input, grad_output, points, index, H, W, padding, align_corners):
    (N, C, _), P = grad_input.shape, points.shape[1] // 2
    gradients, first = images_as_rows(*grad_output, item * group)
    m, work = _room(P, points, index)
    for n in range(item * group, min((item + 1) * group, N)):
        _place(m, work, points[n], P, H, W, padding, align_corners)
        for c in range(C):
            dU, g = grad_input[n, c], gradients[n - first, c * P :]
            for p in range(len(dU)):
                dU[p] = 0
            for s in range(P):
                if m[s] >= 0:
                    dU[np.uintp(m[s])] += g[s]


@compiled
def _room(count, like, index):
    return np.empty(whole_vectors(count), index.dtype), np.empty((2, BLOCK), like.dtype)


@compiled
def _place(m, work, points, count, H, W, padding, align_corners):
    """m[s]: the pixel of sample s, or -1 outside. Halves go to the even pixel, as in PyTorch."""
    x, y, zero, index = work[0], work[1], points.dtype.type(0), m.dtype.type
    last_column, last_row = points.dtype.type(W - 1), points.dtype.type(H - 1)
    x_scale, shift = pixels_per_unit(points, W, align_corners)
    y_scale, _ = pixels_per_unit(points, H, align_corners)
    for start in range(0, count, BLOCK):
        room, own = split(work, points[2 * start :], min(BLOCK, count - start)), m[start:]
        for s in range(room):
            w = np.rint(_moved(to_pixel(x[s], x_scale, shift), W, padding, align_corners))
            h = np.rint(_moved(to_pixel(y[s], y_scale, shift), H, padding, align_corners))
            inside = (w >= zero) & (w <= last_column) & (h >= zero) & (h <= last_row)
            column, row = index(w if inside else zero), index(h if inside else zero)
            own[s] = row * index(W) + column if inside else index(-1)


@compiled
def _moved(x, size, padding, align_corners):
    """The coordinate, moved into the image as `padding` says."""
    if padding == 2:
        x, _ = reflected(x, size, align_corners)
    if padding != 0:
        x, _ = clipped(x, x, size)
    return x
