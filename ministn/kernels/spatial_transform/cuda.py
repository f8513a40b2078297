"""Affine grid and bilinear sampling in one pass on the GPU: allocates and launches the kernels of cuda.cu."""

from __future__ import annotations

from typing import Any

from ministn.backend import Array, array_module, deterministic
from ministn.kernels._coordinates import pixel_centres
from ministn.kernels._cuda import launch, on_device
from ministn.kernels.affine_grid import cuda as affine_grid
from ministn.kernels.grid_sample import cuda as grid_sample


def forward(input: Array, theta: Array, height: int, width: int, align_corners: bool) -> Array:
    """As `reference.forward`."""
    library, (N, C, H, W) = array_module(input), input.shape
    output = library.empty((N, C, height, width), input.dtype)
    arrays = output, *(library.ascontiguousarray(array) for array in (input, theta))
    points = _target_points(library, height, width, align_corners, input.dtype)
    sizes = N, C, H, W, height, width, align_corners
    launch(__package__, "spatial_transform_forward", N * height * width, *arrays, *points, *sizes)
    return output


def backward(
    grad_output: Array,
    input: Array,
    theta: Array,
    align_corners: bool,
    needs_grad: tuple[bool, bool] = (True, True),
) -> tuple[Array | None, Array | None]:
    """As `reference.backward`.

    The order in which d input is added up may differ from run to run, unless `use_deterministic_kernels` asks for
    the same bits each time: then grid_sample does it, with a grid in memory.
    """
    library, (N, C, H, W), (height, width) = array_module(input), input.shape, grad_output.shape[2:]
    grad_output, input, theta = (library.ascontiguousarray(array) for array in (grad_output, input, theta))
    points = _target_points(library, height, width, align_corners, input.dtype)
    sizes = N, C, H, W, height, width, align_corners
    grad_input = grad_theta = None
    if needs_grad[0] and deterministic():
        grid = affine_grid.forward(theta, height, width, align_corners)
        options = "bilinear", "zeros", align_corners, (True, False)
        grad_input, _ = grid_sample.backward(grad_output, input, grid, *options)
    elif needs_grad[0]:
        grad_input = library.zeros(input.shape, input.dtype)
        arrays = grad_input, grad_output, theta, *points
        launch(__package__, "spatial_transform_backward_input", N * height * width, *arrays, *sizes)
    if needs_grad[1]:
        parts = affine_grid.empty_parts(library, N, height * width, theta.dtype)
        arrays = parts, grad_output, input, theta, *points
        launch(__package__, "spatial_transform_backward_theta", N, *arrays, *sizes, blocks=parts.shape[:2])
        grad_theta = affine_grid.add_parts(parts)
    return grad_input, grad_theta


def _target_points(library: Any, height: int, width: int, align_corners: bool, dtype: Any) -> list[Array]:
    """x of the output's columns and y of its rows."""
    return [on_device(library, pixel_centres, length, align_corners, dtype) for length in (width, height)]
