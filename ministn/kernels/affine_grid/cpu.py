"""Affine grids, the loops. One parallel iteration makes, or reads, the whole grid of one image: no races."""

from __future__ import annotations

import numpy as np

from ministn.kernels._coordinates import pixel_centres
from ministn.kernels.compiled import compiled, parallel_for


def forward(theta: np.ndarray, height: int, width: int, align_corners: bool) -> np.ndarray:
    grid = np.empty((len(theta), height, width, 2), theta.dtype)
    x, y = (pixel_centres(count, align_corners, theta.dtype) for count in (width, height))
    _forward(len(grid), grid, np.ascontiguousarray(theta), x, y)
    return grid


def backward(grad_output: np.ndarray, align_corners: bool) -> np.ndarray:
    count, height, width, _ = grad_output.shape
    grad_theta = np.zeros((count, 2, 3), grad_output.dtype)
    x, y = (pixel_centres(length, align_corners, grad_output.dtype) for length in (width, height))
    _backward(count, grad_theta, np.ascontiguousarray(grad_output), x, y)
    return grad_theta


@compiled
def _forward(images, *arguments):
    parallel_for(_forward_image, images, arguments)


@compiled
def _forward_image(n, grid, theta, x, y):
    _, H, W, _ = grid.shape
    for i in range(H):
        for j in range(W):
            grid[n, i, j, 0] = theta[n, 0, 0] * x[j] + theta[n, 0, 1] * y[i] + theta[n, 0, 2]
            grid[n, i, j, 1] = theta[n, 1, 0] * x[j] + theta[n, 1, 1] * y[i] + theta[n, 1, 2]


@compiled
def _backward(images, *arguments):
    parallel_for(_backward_image, images, arguments)


@compiled(fastmath={"contract", "reassoc"})
def _backward_image(n, grad_theta, grad_grid, x, y):
    _, H, W, _ = grad_grid.shape
    for i in range(H):
        row = grad_grid[n, i].reshape(2 * W)
        for a in range(2):  # row a of theta makes coordinate a of the grid: 0 is x, 1 is y
            weighted = total = grad_theta.dtype.type(0)
            for j in range(W):
                weighted += row[2 * j + a] * x[j]
                total += row[2 * j + a]
            grad_theta[n, a, 0] += weighted
            grad_theta[n, a, 1] += total * y[i]
            grad_theta[n, a, 2] += total
