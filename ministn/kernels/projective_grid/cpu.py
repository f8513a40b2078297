"""Projective grids, the loops. One parallel iteration makes, or reads, the whole grid of one image: no races."""

from __future__ import annotations

import numpy as np

from ministn.kernels._coordinates import pixel_centres
from ministn.kernels.compiled import compiled, parallel_for


def forward(theta: np.ndarray, height: int, width: int, align_corners: bool, horizon: float) -> np.ndarray:
    grid = np.empty((len(theta), height, width, 2), theta.dtype)
    x, y = (pixel_centres(count, align_corners, theta.dtype) for count in (width, height))
    _forward(len(grid), grid, np.ascontiguousarray(theta), x, y, theta.dtype.type(horizon))
    return grid


def backward(grad_output: np.ndarray, theta: np.ndarray, align_corners: bool, horizon: float) -> np.ndarray:
    count, height, width, _ = grad_output.shape
    grad_theta = np.empty((count, 3, 3), theta.dtype)
    x, y = (pixel_centres(length, align_corners, theta.dtype) for length in (width, height))
    grad_grid, theta = np.ascontiguousarray(grad_output), np.ascontiguousarray(theta)
    _backward(count, grad_theta, grad_grid, theta, x, y, theta.dtype.type(horizon))
    return grad_theta


@compiled
def _forward(images, *arguments):
    parallel_for(_forward_image, images, arguments)


@compiled
def _forward_image(n, grid, theta, x, y, horizon):
    _, H, W, _ = grid.shape
    (a, b, c), (d, e, f), (g, h, k) = theta[n]
    one = theta.dtype.type(1)
    for i in range(H):
        row = grid[n, i].reshape(2 * W)
        for j in range(W):
            w = g * x[j] + h * y[i] + k
            if -horizon < w < horizon:
                w = horizon if w >= 0 else -horizon
            per_w = one / w
            row[2 * j] = (a * x[j] + b * y[i] + c) * per_w
            row[2 * j + 1] = (d * x[j] + e * y[i] + f) * per_w


@compiled
def _backward(images, *arguments):
    parallel_for(_backward_image, images, arguments)


@compiled(fastmath={"contract", "reassoc"})
def _backward_image(n, grad_theta, grad_grid, theta, x, y, horizon):
    _, H, W, _ = grad_grid.shape
    (a, b, c), (d, e, f), (g, h, k) = theta[n]
    zero, one = theta.dtype.type(0), theta.dtype.type(1)
    grad_theta[n] = 0
    for i in range(H):
        row = grad_grid[n, i].reshape(2 * W)
        X = Y = w = X_by_x = Y_by_x = w_by_x = zero  # sums over j of dX, dY, dw, and of them times x
        for j in range(W):
            w_s = g * x[j] + h * y[i] + k
            near = -horizon < w_s < horizon
            if near:
                w_s = horizon if w_s >= 0 else -horizon
            per_w = one / w_s
            dX, dY = row[2 * j] * per_w, row[2 * j + 1] * per_w
            dw = -(dX * (a * x[j] + b * y[i] + c) + dY * (d * x[j] + e * y[i] + f)) * per_w
            if near:
                dw = zero
            X += dX
            Y += dY
            w += dw
            X_by_x += dX * x[j]
            Y_by_x += dY * x[j]
            w_by_x += dw * x[j]
        for row_of_theta, by_x, by_one in ((0, X_by_x, X), (1, Y_by_x, Y), (2, w_by_x, w)):
            grad_theta[n, row_of_theta, 0] += by_x
            grad_theta[n, row_of_theta, 1] += by_one * y[i]
            grad_theta[n, row_of_theta, 2] += by_one
