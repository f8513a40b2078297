"""The spline as one writes it down: solve the (K + 3) x (K + 3) system for each image, sum over the control points.

Nothing is made beforehand, and there is no B. All is computed in float64; what is returned has the dtype of what came.
"""

from __future__ import annotations

import numpy as np

from ministn.kernels.thin_plate_spline_grid import spline


def forward(
    theta: np.ndarray, control_points: spline.ControlPoints, height: int, width: int, align_corners: bool
) -> np.ndarray:
    """theta (N, K, 2) -> grid (N, H, W, 2)."""
    points = spline.regular_grid(height, width, align_corners, theta.dtype).astype(np.float64)
    terms, system = spline.features(points, control_points), spline.system(control_points)
    grid = np.empty((len(theta), height, width, 2), theta.dtype)
    for n in range(len(theta)):
        coefficients = np.linalg.solve(system, np.concatenate([theta[n], np.zeros((3, 2))]))
        grid[n] = (terms @ coefficients).reshape(height, width, 2)
    return grid


def backward(grad_output: np.ndarray, control_points: spline.ControlPoints, align_corners: bool) -> np.ndarray:
    """The same steps transposed, in reverse order: grad_output (N, H, W, 2) -> grad_theta (N, K, 2)."""
    count, height, width, _ = grad_output.shape
    points = spline.regular_grid(height, width, align_corners, grad_output.dtype).astype(np.float64)
    terms, system = spline.features(points, control_points), spline.system(control_points)
    grad_theta = np.empty((count, len(control_points), 2), grad_output.dtype)
    for n in range(count):
        grad_coefficients = terms.T @ grad_output[n].reshape(-1, 2)
        grad_theta[n] = np.linalg.solve(system.T, grad_coefficients)[: len(control_points)]
    return grad_theta
