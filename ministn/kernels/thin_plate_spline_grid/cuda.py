"""Grids of thin-plate splines on the GPU: allocates and launches the kernels of cuda.cu."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from ministn.backend import Array, array_module
from ministn.kernels._cuda import launch, must_be_recordable, on_device
from ministn.kernels.thin_plate_spline_grid.spline import ControlPoints, identity, regular_grid, weights

_POINTS_OF_PART, _MOST_PARTS = 4096, 256  # 16 points for each thread of a block


def forward(theta: Array, control_points: ControlPoints, height: int, width: int, align_corners: bool) -> Array:
    """As `reference.forward`."""
    library, count, points = array_module(theta), len(theta), height * width
    grid = library.empty((count, height, width, 2), theta.dtype)
    fixed = (
        _kept(library, identity, control_points, theta.dtype),
        _kept(library, weights, control_points, height, width, align_corners, theta.dtype),
        _kept(library, regular_grid, height, width, align_corners, theta.dtype),
    )
    sizes = count, len(control_points), np.int64(points)
    theta = library.ascontiguousarray(theta)
    launch(__package__, "thin_plate_spline_grid_forward", count * points, grid, theta, *fixed, *sizes)
    return grid


def backward(grad_output: Array, control_points: ControlPoints, align_corners: bool) -> Array:
    """As `reference.backward`."""
    library, (count, height, width, _) = array_module(grad_output), grad_output.shape
    B = _kept(library, weights, control_points, height, width, align_corners, grad_output.dtype)
    K, points = len(control_points), height * width
    parts = min(max(points // _POINTS_OF_PART, 1), _MOST_PARTS)  # by the image's size alone: sums have one order
    of_parts = library.empty((count, K, parts, 2), grad_output.dtype)
    arrays, blocks = (of_parts, library.ascontiguousarray(grad_output), B), (count * K, parts)
    launch(__package__, "thin_plate_spline_grid_backward", count, *arrays, K, np.int64(points), blocks=blocks)
    if parts == 1:
        return of_parts.reshape(count, K, 2)
    grad_theta = library.empty((count, K, 2), grad_output.dtype)
    numbers = np.int64(grad_theta.size)
    launch(__package__, "thin_plate_spline_grid_add_parts", grad_theta.size, grad_theta, of_parts, numbers, parts)
    return grad_theta


def _kept(library: Any, make: Callable[..., np.ndarray], *arguments: Any) -> Array:
    """``make(*arguments)`` on the device. A recorded graph reads from it for ever; otherwise the last ones are kept."""
    return (on_device if must_be_recordable() else _last)(library, make, *arguments)


@functools.lru_cache(maxsize=48)  # three for each of 16 transformers
def _last(library: Any, make: Callable[..., np.ndarray], *arguments: Any) -> Array:
    return library.asarray(make(*arguments))
