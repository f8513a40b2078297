"""Affine grid and bilinear sampling in one pass, the loops: batch-last, the innermost over the images, as vectors.

For one output pixel (i, j), `_place` finds where each image's sample falls; then the channels are read there.
Forward and d theta: one parallel iteration is one output row i, with a part of d theta of its own. d input: one
parallel iteration owns a block of images, because the samples of one image add to the same input pixels.
"""

from __future__ import annotations

import numpy as np
from numba import get_num_threads, njit, prange

from ministn.kernels._coordinates import pixel_centres
from ministn.kernels._layout import batch_last, from_batch_last


def forward(input, theta, height, width, align_corners):
    x_t, y_t = (pixel_centres(length, align_corners, theta.dtype) for length in (width, height))
    output = np.empty((input.shape[1], height, width, len(input)), input.dtype)
    _forward(output, batch_last(input), batch_last(theta), x_t, y_t, align_corners)
    return from_batch_last(output)


def backward(grad_output, input, theta, align_corners, needs_grad=(True, True)):
    x_t, y_t = (pixel_centres(length, align_corners, theta.dtype) for length in grad_output.shape[:1:-1])
    input, theta, grad_output = batch_last(input), batch_last(theta), batch_last(grad_output)
    grad_input = grad_theta = None
    if needs_grad[1]:
        parts = np.zeros((len(y_t), *theta.shape), theta.dtype)  # one per output row, added up in a fixed order below
        _backward_theta(parts, grad_output, input, theta, x_t, y_t, align_corners)
        grad_theta = from_batch_last(parts.sum(axis=0))
    if needs_grad[0]:
        grad_input = np.zeros(input.shape, input.dtype)
        block = max(1, min(16, input.shape[3] // get_num_threads()))  # a vector of images, but a block per thread
        _backward_input(grad_input, grad_output, theta, x_t, y_t, align_corners, block)
        grad_input = from_batch_last(grad_input)
    return grad_input, grad_theta


@njit(cache=True, nogil=True, parallel=True, error_model="numpy")
def _forward(output, input, theta, x_t, y_t, align_corners):
    C, H, W, N = input.shape
    _, OH, OW, _ = output.shape
    for i in prange(OH):
        pixel, x, y = np.empty((4, N), np.int64), np.empty((4, N), input.dtype), np.empty((4, N), input.dtype)
        for j in range(OW):
            _place(pixel, x, y, theta, x_t[j], y_t[i], H, W, align_corners)
            for c in range(C):
                U, V = input[c].reshape(H * W * N), output[c, i, j]
                for n in range(N):
                    top = x[0, n] * U[pixel[0, n]] + x[1, n] * U[pixel[1, n]]
                    bottom = x[0, n] * U[pixel[2, n]] + x[1, n] * U[pixel[3, n]]
                    V[n] = y[0, n] * top + y[1, n] * bottom


@njit(cache=True, nogil=True, parallel=True, error_model="numpy")
def _backward_theta(parts, grad_output, input, theta, x_t, y_t, align_corners):
    C, H, W, N = input.shape
    _, OH, OW, _ = grad_output.shape
    x_scale, y_scale = _pixels_per_unit(x_t[0], W, align_corners), _pixels_per_unit(y_t[0], H, align_corners)
    for i in prange(OH):
        pixel, x, y = np.empty((4, N), np.int64), np.empty((4, N), input.dtype), np.empty((4, N), input.dtype)
        grad_x, grad_y = np.empty(N, input.dtype), np.empty(N, input.dtype)  # per pixel, not yet per unit of theta
        for j in range(OW):
            _place(pixel, x, y, theta, x_t[j], y_t[i], H, W, align_corners)
            grad_x[:], grad_y[:] = 0, 0
            for c in range(C):
                U, g = input[c].reshape(H * W * N), grad_output[c, i, j]
                for n in range(N):
                    a, b, d, e = U[pixel[0, n]], U[pixel[1, n]], U[pixel[2, n]], U[pixel[3, n]]
                    grad_x[n] += g[n] * (y[0, n] * (x[2, n] * a + x[3, n] * b) + y[1, n] * (x[2, n] * d + x[3, n] * e))
                    grad_y[n] += g[n] * (y[2, n] * (x[0, n] * a + x[1, n] * b) + y[3, n] * (x[0, n] * d + x[1, n] * e))
            part = parts[i]
            for n in range(N):  # x moves by x_scale pixels per unit of theta[0] . (x_t, y_t, 1)
                part[0, 0, n] += grad_x[n] * x_scale * x_t[j]
                part[0, 1, n] += grad_x[n] * x_scale * y_t[i]
                part[0, 2, n] += grad_x[n] * x_scale
                part[1, 0, n] += grad_y[n] * y_scale * x_t[j]
                part[1, 1, n] += grad_y[n] * y_scale * y_t[i]
                part[1, 2, n] += grad_y[n] * y_scale


@njit(cache=True, nogil=True, parallel=True, error_model="numpy")
def _backward_input(grad_input, grad_output, theta, x_t, y_t, align_corners, block):
    C, H, W, N = grad_input.shape
    _, OH, OW, _ = grad_output.shape
    for first in prange((N + block - 1) // block):
        n0, B = first * block, min(block, N - first * block)
        own_theta = theta[:, :, n0 : n0 + B].copy()
        pixel, x, y = np.empty((4, B), np.int64), np.empty((4, B), theta.dtype), np.empty((4, B), theta.dtype)
        for i in range(OH):
            for j in range(OW):
                _place(pixel, x, y, own_theta, x_t[j], y_t[i], H, W, align_corners)
                for c in range(C):
                    dU, g = grad_input[c].reshape(H * W, N), grad_output[c, i, j]
                    for b in range(B):
                        for tap in range(4):
                            weight = y[tap // 2, b] * x[tap % 2, b]
                            if weight != 0 and weight == weight:  # else outside, or NaN: there is no pixel to credit
                                dU[pixel[tap, b] // B, n0 + b] += weight * g[n0 + b]  # // B: pixel counts (H, W, B)


@njit(cache=True, error_model="numpy")
def _pixels_per_unit(x, size, align_corners):
    """How far a sample moves when its normalised coordinate grows by 1; `x` only lends its dtype."""
    return type(x)(0.5) * type(x)(size - 1 if align_corners else size)


@njit(cache=True, error_model="numpy")
def _place(pixel, x, y, theta, x_t, y_t, H, W, align_corners):
    """Where the sample for target point (x_t, y_t) falls in each image n.

    The four pixels around it (top left, top right, bottom left, bottom right) as flat indices into (H, W, N); for the
    left and the right column their weights x[0], x[1] and the weights' slopes per pixel x[2], x[3], all 0 for a column
    outside the image; for the upper and the lower row the same in y.
    """
    N = theta.shape[2]
    one, zero = type(x_t)(1), type(x_t)(0)
    x_scale, y_scale = _pixels_per_unit(x_t, W, align_corners), _pixels_per_unit(y_t, H, align_corners)
    half = zero if align_corners else type(x_t)(0.5)
    for n in range(N):
        x_s = _to_pixels(theta[0, 0, n] * x_t + theta[0, 1, n] * y_t + theta[0, 2, n], x_scale, half)
        y_s = _to_pixels(theta[1, 0, n] * x_t + theta[1, 1, n] * y_t + theta[1, 2, n], y_scale, half)
        left, top = np.floor(x_s), np.floor(y_s)
        in_left, in_right = _inside(left, W), _inside(left + one, W)
        in_top, in_bottom = _inside(top, H), _inside(top + one, H)
        x[0, n], x[1, n] = in_left * (one - (x_s - left)), in_right * (x_s - left)
        y[0, n], y[1, n] = in_top * (one - (y_s - top)), in_bottom * (y_s - top)
        x[2, n], x[3, n], y[2, n], y[3, n] = -in_left, in_right, -in_top, in_bottom
        m0, m1, k0, k1 = _clamp(left, W), _clamp(left + one, W), _clamp(top, H), _clamp(top + one, H)
        pixel[0, n], pixel[1, n] = (k0 * W + m0) * N + n, (k0 * W + m1) * N + n
        pixel[2, n], pixel[3, n] = (k1 * W + m0) * N + n, (k1 * W + m1) * N + n


@njit(cache=True, fastmath={"contract"})
def _to_pixels(x, scale, shift):
    """As one fused multiply-add, like PyTorch: the last bit decides on which side of a kink a sample falls."""
    return (x + type(x)(1)) * scale - shift


@njit(cache=True, error_model="numpy")
def _inside(m, size):
    """1 if pixel m exists, else 0. A factor, not a branch: the weight of a NaN coordinate stays NaN."""
    return type(m)(1) if m >= 0 and m <= size - 1 else type(m)(0)


@njit(cache=True, error_model="numpy")
def _clamp(m, size):
    """The existing pixel nearest to m, 0 for NaN; decided as a float, since 1e20 fits no int."""
    m = m if m > 0 else type(m)(0)
    return np.int64(m if m < size - 1 else type(m)(size - 1))
