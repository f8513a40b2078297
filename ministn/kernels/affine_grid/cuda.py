"""Affine grids on the GPU: allocates and launches the kernels of cuda.cu."""

from __future__ import annotations

from typing import Any

from ministn.backend import Array, array_module
from ministn.kernels._coordinates import pixel_centres
from ministn.kernels._cuda import launch, on_device

_POINTS_OF_PART, _MOST_PARTS = 4096, 256  # 16 points for each thread of a block; as many blocks as a GPU runs at once


def forward(theta: Array, height: int, width: int, align_corners: bool) -> Array:
    """As `reference.forward`."""
    library, count = array_module(theta), len(theta)
    grid = library.empty((count, height, width, 2), theta.dtype)
    x, y = (on_device(library, pixel_centres, length, align_corners, theta.dtype) for length in (width, height))
    theta = library.ascontiguousarray(theta)
    launch(__package__, "affine_grid_forward", count * height * width, grid, theta, x, y, count, height, width)
    return grid


def backward(grad_output: Array, align_corners: bool) -> Array:
    """As `reference.backward`."""
    library, (count, height, width, _) = array_module(grad_output), grad_output.shape
    x, y = (on_device(library, pixel_centres, length, align_corners, grad_output.dtype) for length in (width, height))
    grid = library.ascontiguousarray(grad_output)
    parts = empty_parts(library, count, height * width, grad_output.dtype)
    launch(__package__, "affine_grid_backward", count, parts, grid, x, y, height, width, blocks=parts.shape[:2])
    return add_parts(parts)


def empty_parts(library: Any, count: int, points: int, dtype: Any) -> Array:
    """Room for the gradients of theta, shape (N, parts, 2, 3): a large image is shared out over some blocks.

    How many depends on the image's size alone, so that its sums have one order.
    """
    parts = min(max(points // _POINTS_OF_PART, 1), _MOST_PARTS)
    return library.empty((count, parts, 2, 3), dtype)


def add_parts(parts: Array) -> Array:
    """The gradient of theta, shape (N, 2, 3), from those of the parts."""
    count, of_image = parts.shape[:2]
    if of_image == 1:
        return parts.reshape(count, 2, 3)
    grad_theta = array_module(parts).empty((count, 2, 3), parts.dtype)
    launch(__package__, "affine_grid_add_parts", grad_theta.size, grad_theta, parts, count, of_image)
    return grad_theta
