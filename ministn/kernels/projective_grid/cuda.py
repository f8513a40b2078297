"""Projective grids on the GPU: allocates and launches the kernels of cuda.cu."""

from __future__ import annotations

from typing import Any

from ministn.backend import Array, array_module
from ministn.kernels._coordinates import pixel_centres
from ministn.kernels._cuda import launch, on_device

_POINTS_OF_PART, _MOST_PARTS = 4096, 256  # 16 points for each thread of a block; as many blocks as a GPU runs at once


def forward(theta: Array, height: int, width: int, align_corners: bool, horizon: float) -> Array:
    """As `reference.forward`."""
    library, count = array_module(theta), len(theta)
    grid = library.empty((count, height, width, 2), theta.dtype)
    arrays = grid, library.ascontiguousarray(theta), *_target_points(library, height, width, align_corners, theta.dtype)
    points = count * height * width
    launch(__package__, "projective_grid_forward", points, *arrays, count, height, width, horizon)
    return grid


def backward(grad_output: Array, theta: Array, align_corners: bool, horizon: float) -> Array:
    """As `reference.backward`. A large image is shared out over some blocks, as many as its size says."""
    library, (count, height, width, _) = array_module(grad_output), grad_output.shape
    of_image = min(max(height * width // _POINTS_OF_PART, 1), _MOST_PARTS)
    parts = library.empty((count, of_image, 3, 3), theta.dtype)
    arrays = parts, library.ascontiguousarray(grad_output), library.ascontiguousarray(theta)
    points = _target_points(library, height, width, align_corners, theta.dtype)
    numbers = height, width, horizon
    launch(__package__, "projective_grid_backward", count, *arrays, *points, *numbers, blocks=(count, of_image))
    if of_image == 1:
        return parts.reshape(count, 3, 3)
    grad_theta = library.empty((count, 3, 3), theta.dtype)
    launch(__package__, "projective_grid_add_parts", grad_theta.size, grad_theta, parts, count, of_image)
    return grad_theta


def _target_points(library: Any, height: int, width: int, align_corners: bool, dtype: Any) -> list[Array]:
    """x of the output's columns and y of its rows."""
    return [on_device(library, pixel_centres, length, align_corners, dtype) for length in (width, height)]
