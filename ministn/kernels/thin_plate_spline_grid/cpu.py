"""Grids of thin-plate splines, the loops: a fixed matrix B, made once, times how far theta moves the control points.

One parallel iteration makes, or reads, the whole grid of one image: no races. It goes over blocks of points, whose x
and y lie apart meanwhile, so that the loops over them are loops over vectors.
"""

from __future__ import annotations

import numpy as np

from ministn.kernels.compiled import compiled, parallel_for
from ministn.kernels.thin_plate_spline_grid.spline import identity, regular_grid, weights

_BLOCK = 1024  # points, of which x and y fit the fastest cache


def forward(theta, control_points, height, width, align_corners):
    """As `reference.forward`."""
    grid = np.empty((len(theta), height, width, 2), theta.dtype)
    B = weights(control_points, height, width, align_corners, theta.dtype)
    points = regular_grid(height, width, align_corners, theta.dtype)
    moved = np.subtract(theta, identity(control_points, theta.dtype), order="C")
    _forward(len(grid), grid.reshape(len(grid), height * width, 2), moved, B, points)
    return grid


def backward(grad_output, control_points, align_corners):
    """As `reference.backward`."""
    count, height, width, _ = grad_output.shape
    B = weights(control_points, height, width, align_corners, grad_output.dtype)
    grad_theta = np.empty((count, len(control_points), 2), grad_output.dtype)
    _backward(count, grad_theta, np.ascontiguousarray(grad_output).reshape(count, height * width, 2), B)
    return grad_theta


@compiled
def _forward(images, *arguments):
    parallel_for(_forward_image, images, arguments)


@compiled(fastmath={"contract"})
def _forward_image(n, grid, moved, B, points):
    """grid[p] = points[p] + sum over k of B[p, k] moved[k], for both coordinates; B lies transposed, (K, P)."""
    K, P = B.shape
    x, y = np.empty((2, _BLOCK), grid.dtype)
    for first in range(0, P, _BLOCK):
        count = min(_BLOCK, P - first)
        x[:] = 0
        y[:] = 0
        for k in range(K):
            weight, right, down = B[k, first : first + count], moved[n, k, 0], moved[n, k, 1]
            for p in range(count):
                x[p] += weight[p] * right
                y[p] += weight[p] * down
        for p in range(count):
            grid[n, first + p, 0] = points[first + p, 0] + x[p]
            grid[n, first + p, 1] = points[first + p, 1] + y[p]


@compiled
def _backward(images, *arguments):
    parallel_for(_backward_image, images, arguments)


@compiled(fastmath={"contract", "reassoc"})
def _backward_image(n, grad_theta, grad_grid, B):
    """grad_theta[k] = sum over p of B[p, k] grad_grid[p], for both coordinates"""
    K, P = B.shape
    x, y = np.empty((2, _BLOCK), grad_theta.dtype)
    grad_theta[n] = 0
    for first in range(0, P, _BLOCK):
        count = min(_BLOCK, P - first)
        for p in range(count):
            x[p] = grad_grid[n, first + p, 0]
            y[p] = grad_grid[n, first + p, 1]
        for k in range(K):
            weight, right, down = B[k, first : first + count], x.dtype.type(0), x.dtype.type(0)
            for p in range(count):
                right += weight[p] * x[p]
                down += weight[p] * y[p]
            grad_theta[n, k, 0] += right
            grad_theta[n, k, 1] += down
