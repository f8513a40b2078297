"""The two steps one after the other, with the grid in memory: affine_grid, then grid_sample."""

from __future__ import annotations

from ministn.kernels.affine_grid import reference as affine_grid
from ministn.kernels.grid_sample import reference as grid_sample


def forward(input, theta, height, width, align_corners):
    grid = affine_grid.forward(theta, height, width, align_corners)
    return grid_sample.forward(input, grid, "bilinear", "zeros", align_corners)


def backward(grad_output, input, theta, align_corners, needs_grad=(True, True)):
    """The gradients for the input and theta; None in place of one that is not needed."""
    grid = affine_grid.forward(theta, *grad_output.shape[2:], align_corners)
    options = "bilinear", "zeros", align_corners, needs_grad
    grad_input, grad_grid = grid_sample.backward(grad_output, input, grid, *options)
    return grad_input, None if grad_grid is None else affine_grid.backward(grad_grid, align_corners)
