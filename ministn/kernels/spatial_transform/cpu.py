"""Affine grid and bilinear sampling in one pass, the loops: batch-last, 16 images in the lanes of a vector.

One parallel iteration owns a block of 16 images: no races, and every image is summed in the same order for any number
of threads. For an output pixel (i, j), `_place_row` finds where each image's sample falls and `_read` fetches
the four pixels there, for each image elsewhere; all other arithmetic is the same for the 16, so it becomes vectors.
"""

from __future__ import annotations

import numpy as np

from ministn.kernels._coordinates import pixel_centres
from ministn.kernels._layout import batch_last, from_batch_last
from ministn.kernels.affine_grid import cpu as affine_grid
from ministn.kernels.compiled import compiled, parallel_for
from ministn.kernels.grid_sample import cpu as grid_sample
from ministn.kernels.simd import Size, load, load_pairs, store

_LANES = 16  # images of a block: a constant, so that the compiler can make vectors of the loops over them
_SIZE = Size(_LANES)


def forward(input, theta, height, width, align_corners):
    if not _fits_lanes(input):
        grid = affine_grid.forward(theta, height, width, align_corners)
        return grid_sample.forward(input, grid, "bilinear", "zeros", align_corners)
    N, C, H, W = input.shape
    output = np.empty((C, height, width, N), input.dtype)
    points = (pixel_centres(length, align_corners, theta.dtype) for length in (width, height))
    _forward(
        _blocks(N), _rows(output), _rows(batch_last(input)), _rows(batch_last(theta)), *points, C, H, W, align_corners
    )
    return from_batch_last(output)


def backward(grad_output, input, theta, align_corners, needs_grad=(True, True)):
    N, C, H, W = input.shape
    if not _fits_lanes(input):
        points = grad_output, input, affine_grid.forward(theta, *grad_output.shape[2:], align_corners)
        grad_input, grad_grid = grid_sample.backward(*points, "bilinear", "zeros", align_corners, needs_grad)
        return grad_input, affine_grid.backward(grad_grid, align_corners) if needs_grad[1] else None
    points = [pixel_centres(length, align_corners, theta.dtype) for length in grad_output.shape[:1:-1]]
    arrays = _rows(batch_last(grad_output)), _rows(batch_last(input)), _rows(batch_last(theta))
    grad_input, grad_theta = np.empty((C, H, W, N), input.dtype), np.empty((2, 3, N), theta.dtype)
    if needs_grad[0]:
        _backward_input(_blocks(N), _rows(grad_input), arrays[0], arrays[2], *points, C, H, W, align_corners)
    if needs_grad[1]:
        _backward_theta(_blocks(N), _rows(grad_theta), *arrays, *points, C, H, W, align_corners)
    results = zip((grad_input, grad_theta), needs_grad, strict=True)
    return tuple(from_batch_last(gradient) if needed else None for gradient, needed in results)


def _fits_lanes(input):
    """Whether there are images for all lanes and a block of them fits the processor's cache.

    Else the two steps one after the other, in NCHW memory, are faster. Only sizes decide, not the memory's order: the
    same numbers give the same bits.
    """
    N, C, H, W = input.shape
    return N >= _LANES and C * H * W <= 4096


def _blocks(images):
    return -(-images // _LANES)


def _rows(x):
    """(..., N) as (all else, N)"""
    return x.reshape(-1, x.shape[-1])


@compiled
def _forward(blocks, *arguments):
    parallel_for(_forward_block, blocks, arguments)


@compiled
def _forward_block(block, output, input, theta, x_t, y_t, C, H, W, align_corners):
    OH, OW, framed = len(y_t), len(x_t), _framed(H, W)
    N, n0, done = _first_image(block, theta)
    U, own_theta = _framed_images(input, n0, C, H, W), _lanes(theta, n0)
    corner, x, y = _row_of_samples(OW, U)
    near, V = np.empty((4, _LANES), U.dtype), np.empty(_LANES, U.dtype)
    for i in range(OH):
        _place_row(corner, x, y, own_theta, x_t, y_t[i], C, H, W, align_corners)
        for c in range(C):
            for j in range(OW):
                _read(near, U, c * framed, corner, j, W)
                for b in range(_LANES):
                    top = x[j, 0, b] * near[0, b] + x[j, 1, b] * near[1, b]
                    bottom = x[j, 0, b] * near[2, b] + x[j, 1, b] * near[3, b]
                    V[b] = y[j, 0, b] * top + y[j, 1, b] * bottom
                store(load(_SIZE, V, 0), 1, done, output, ((c * OH + i) * OW + j) * N + n0, 0)


@compiled
def _backward_theta(blocks, *arguments):
    parallel_for(_backward_theta_block, blocks, arguments)


@compiled
def _backward_theta_block(block, grad_theta, grad_output, input, theta, x_t, y_t, C, H, W, align_corners):
    OH, OW, framed = len(y_t), len(x_t), _framed(H, W)
    N, n0, done = _first_image(block, theta)
    U, own_theta = _framed_images(input, n0, C, H, W), _lanes(theta, n0)
    corner, x, y = _row_of_samples(OW, U)
    near, g = np.empty((4, _LANES), U.dtype), np.empty(_LANES, U.dtype)
    row, total = np.empty((4, _LANES), U.dtype), np.zeros((6, _LANES), U.dtype)
    for i in range(OH):
        _place_row(corner, x, y, own_theta, x_t, y_t[i], C, H, W, align_corners)
        row[:] = 0
        for c in range(C):
            for j in range(OW):
                _read(near, U, c * framed, corner, j, W)
                store(load(_SIZE, grad_output, ((c * OH + i) * OW + j) * N + n0), 1, 0, g, 0, 0)
                x_target = x_t[j]
                for b in range(_LANES):  # what the loss gains when the sample moves by a pixel
                    top, bottom = near[1, b] - near[0, b], near[3, b] - near[2, b]
                    left, right = near[2, b] - near[0, b], near[3, b] - near[1, b]
                    grad_x = g[b] * (y[j, 0, b] * top + y[j, 1, b] * bottom)
                    grad_y = g[b] * (x[j, 0, b] * left + x[j, 1, b] * right)
                    row[0, b] += grad_x * x_target
                    row[1, b] += grad_x
                    row[2, b] += grad_y * x_target
                    row[3, b] += grad_y
        for a in range(2):  # row a of theta times (x_t, y_t, 1) is coordinate a of the point
            for b in range(_LANES):
                total[3 * a, b] += row[2 * a, b]
                total[3 * a + 1, b] += row[2 * a + 1, b] * y_t[i]
                total[3 * a + 2, b] += row[2 * a + 1, b]
    for k in range(6):
        scale = _pixels_per_unit(x_t[0], W if k < 3 else H, align_corners)
        for b in range(done, _LANES):
            grad_theta[k, n0 + b] = scale * total[k, b]


@compiled
def _backward_input(blocks, *arguments):
    parallel_for(_backward_input_block, blocks, arguments)


@compiled
def _backward_input_block(block, grad_input, grad_output, theta, x_t, y_t, C, H, W, align_corners):
    OH, OW, framed = len(y_t), len(x_t), _framed(H, W)
    N, n0, done = _first_image(block, theta)
    own_theta, dU = _lanes(theta, n0), np.zeros(_LANES * C * framed, theta.dtype)
    corner, x, y = _row_of_samples(OW, dU)
    g, add = np.empty(_LANES, dU.dtype), np.empty((4, _LANES), dU.dtype)
    for i in range(OH):
        _place_row(corner, x, y, own_theta, x_t, y_t[i], C, H, W, align_corners)
        for c in range(C):
            for j in range(OW):
                store(load(_SIZE, grad_output, ((c * OH + i) * OW + j) * N + n0), 1, 0, g, 0, 0)
                for tap in range(4):
                    for b in range(_LANES):
                        add[tap, b] = y[j, tap // 2, b] * x[j, tap % 2, b] * g[b]
                for b in range(_LANES):
                    p = c * framed + corner[j, b]
                    dU[p] += add[0, b]
                    dU[p + 1] += add[1, b]
                    dU[p + W + 1] += add[2, b]
                    dU[p + W + 2] += add[3, b]
    for b in range(done, _LANES):
        for c in range(C):
            for h in range(H):
                for w in range(W):
                    grad_input[(c * H + h) * W + w, n0 + b] = dU[_framed_pixel(b * C + c, h, w, H, W)]


@compiled
def _first_image(block, theta):
    """The number of images, the first one of the block, and how many of the block's images belong to the one before:
    the last block reaches back over them to be full."""
    N = theta.shape[1]
    n0 = min(block * _LANES, N - _LANES)
    return N, n0, block * _LANES - n0


@compiled
def _framed(H, W):
    """How many numbers an image takes with zeros around it: see `_framed_pixel`."""
    return (H + 3) * (W + 1) + 1


@compiled
def _framed_pixel(image, h, w, H, W):
    """Where pixel (h, w) of an image with zeros around it is: a column of zeros to the left, which is also the one
    to the right of the row before, two rows above and one below. So -1 <= h <= H and -1 <= w <= W are all in memory,
    and from its number 0 on there are 2 x 2 zeros: what a sample outside reads."""
    return image * _framed(H, W) + (h + 2) * (W + 1) + w + 1


@compiled
def _framed_images(x, n0, C, H, W):
    """The images n0, n0 + 1, ... of x, shape (C H W, N), one after the other and with zeros around each channel."""
    U = np.zeros(_LANES * C * _framed(H, W), x.dtype)
    for c in range(C):
        for h in range(H):
            for w in range(W):
                for b in range(_LANES):
                    U[_framed_pixel(b * C + c, h, w, H, W)] = x[(c * H + h) * W + w, n0 + b]
    return U


@compiled
def _lanes(x, n0):
    """A copy of the columns n0, n0 + 1, ... of x."""
    block = np.empty((len(x), _LANES), x.dtype)
    for k in range(len(x)):
        for b in range(_LANES):
            block[k, b] = x[k, n0 + b]
    return block


@compiled
def _read(near, U, channel, corner, j, W):
    """The four pixels near each image's sample j: top left, top right, bottom left, bottom right."""
    store(load_pairs(_SIZE, U, channel, corner, j * _LANES), 2, 0, near, 0, _LANES)
    store(load_pairs(_SIZE, U, channel + W + 1, corner, j * _LANES), 2, 0, near, 2 * _LANES, _LANES)


@compiled
def _pixels_per_unit(x, size, align_corners):
    """How far a sample moves when its normalised coordinate grows by 1; `x` only lends its dtype."""
    return type(x)(0.5) * type(x)(size - 1 if align_corners else size)


@compiled
def _row_of_samples(count, like):
    """Room for what `_place_row` finds."""
    corner = np.empty((count, _LANES), np.int32)
    return corner, np.empty((count, 2, _LANES), like.dtype), np.empty((count, 2, _LANES), like.dtype)


@compiled
def _place_row(corner, x, y, theta, x_t, y_t, C, H, W, align_corners):
    """Where the samples for the target points (x_t[j], y_t) fall in each image b.

    `corner`: the place of the upper left of the four pixels around it, in channel 0 of the framed images. `x`: the
    weights of the left and the right column; `y`: of the upper and the lower row.
    """
    one = type(y_t)(1)
    x_scale, y_scale = _pixels_per_unit(y_t, W, align_corners), _pixels_per_unit(y_t, H, align_corners)
    half = type(y_t)(0 if align_corners else 0.5)
    height, width, image = np.int32(H), np.int32(W), np.int32(C * _framed(H, W))
    for j in range(len(x_t)):
        for b in range(_LANES):
            x_s = _to_pixels(theta[0, b] * x_t[j] + theta[1, b] * y_t + theta[2, b], x_scale, half)
            y_s = _to_pixels(theta[3, b] * x_t[j] + theta[4, b] * y_t + theta[5, b], y_scale, half)
            left, top = np.floor(x_s), np.floor(y_s)
            x[j, 0, b], x[j, 1, b] = one - (x_s - left), x_s - left
            y[j, 0, b], y[j, 1, b] = one - (y_s - top), y_s - top
            w, h = _index(left, width), _index(top, height)
            inside = (w >= -1) & (w < width) & (h >= -1) & (h < height)
            corner[j, b] = np.int32(b) * image + ((h + 2) * (width + 1) + w + 1 if inside else 0)


@compiled(fastmath={"contract"})
def _to_pixels(x, scale, shift):
    """As one fused multiply-add, like PyTorch: the last bit decides on which side of a kink a sample falls."""
    return (x + type(x)(1)) * scale - shift


@compiled
def _index(m, size):
    """The whole number m as an integer, brought to -2 ... size, where no pixel is near: 1e20 and NaN fit no integer."""
    m = m if m > type(m)(-2) else type(m)(-2)
    return np.int32(m if m < type(m)(size) else type(m)(size))
