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
    grad_theta = np.empty((count, 2, 3), grad_output.dtype)
    x, y = (pixel_centres(length, align_corners, grad_output.dtype) for length in (width, height))
    _backward(count, grad_theta, np.ascontiguousarray(grad_output), x, y)
    return grad_theta


@compiled
def _forward(images, *arguments):
    parallel_for(_forward_image, images, arguments)


@compiled
def _forward_image(n, grid, theta, x, y):
    _, H, W, _ = grid.shape
    (a, b, c), (d, e, f) = theta[n]
    for i in range(H):
        row = grid[n, i].reshape(2 * W)
        for j in range(W):
            row[2 * j] = a * x[j] + b * y[i] + c
            row[2 * j + 1] = d * x[j] + e * y[i] + f


@compiled
def _backward(images, *arguments):
    parallel_for(_backward_image, images, arguments)


@compiled(fastmath={"contract", "reassoc"})
def _backward_image(n, grad_theta, grad_grid, x, y):
    _, H, W, _ = grad_grid.shape
    total, weighted = np.zeros((2, 2 * W), grad_theta.dtype)  # of each column of the grid, over i; and times y
    for i in range(H):
        row = grad_grid[n, i].reshape(2 * W)
        for k in range(2 * W):
            total[k] += row[k]
            weighted[k] += row[k] * y[i]
    for a in range(2):  # row a of theta makes coordinate a of the grid: 0 is x, 1 is y
        by_x = by_y = by_one = grad_theta.dtype.type(0)
        for j in range(W):
            by_x += total[2 * j + a] * x[j]
            by_y += weighted[2 * j + a]
            by_one += total[2 * j + a]
        grad_theta[n, a, 0], grad_theta[n, a, 1], grad_theta[n, a, 2] = by_x, by_y, by_one
