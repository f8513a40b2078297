"""Affine grids on the GPU: allocates and launches the kernels of cuda.cu."""

from __future__ import annotations

from ministn.backend import Array, array_module
from ministn.kernels._coordinates import pixel_centres
from ministn.kernels._cuda import launch, on_device


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
    grad_theta = library.empty((count, 2, 3), grad_output.dtype)
    x, y = (on_device(library, pixel_centres, length, align_corners, grad_output.dtype) for length in (width, height))
    g = library.ascontiguousarray(grad_output)
    launch(__package__, "affine_grid_backward", count, grad_theta, g, x, y, count, height, width, blocks=count)
    return grad_theta
