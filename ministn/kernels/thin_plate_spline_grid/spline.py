"""The thin-plate spline itself: its terms, the system of equations for its coefficients, and the matrix B.

The spline is linear in the values theta that it takes at its control points: with F the `features` of the output
pixels, S the `system` and E the first K columns of the identity, its values are F S^-1 E theta. So B = F S^-1 E; and
as S is symmetric, B^T is the first K rows of S^-1 F^T.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from ministn.kernels._coordinates import pixel_centres

ControlPoints = tuple[tuple[float, float], ...]  # (x, y) of each: what can be compared and looked up


def radial(squared_distance: np.ndarray) -> np.ndarray:
    """U(r) = r^2 log r^2, of r^2; 0 at r = 0, which is its limit."""
    return squared_distance * np.log(np.where(squared_distance > 0, squared_distance, 1.0))


def features(points: np.ndarray, control_points: ControlPoints) -> np.ndarray:
    """U(|p - c_1|), ..., U(|p - c_K|), 1, x, y of each point p: what the coefficients of a spline multiply.

    Points of shape (P, 2) give (P, K + 3).
    """
    x, y = points.T
    squared = sum((points[:, None, a] - np.array(control_points)[:, a]) ** 2 for a in range(2))
    return np.column_stack([radial(squared), np.ones(len(points)), x, y])


def system(control_points: ControlPoints) -> np.ndarray:
    """S: the K conditions that the spline takes given values at the control points, and the three that its coefficients
    w have no sum and no moments. Shape (K + 3, K + 3), symmetric."""
    count = len(control_points)
    at_control_points = features(np.array(control_points), control_points)
    matrix = np.zeros((count + 3, count + 3))
    matrix[:count], matrix[count:, :count] = at_control_points, at_control_points[:, count:].T
    return matrix


@functools.lru_cache(maxsize=16)
def regular_grid(height: int, width: int, align_corners: bool, dtype: Any) -> np.ndarray:
    """(x, y) of every output pixel, shape (H W, 2): the grid of the identity. Read-only."""
    x = pixel_centres(width, align_corners, dtype)
    y = pixel_centres(height, align_corners, dtype)
    return _read_only(np.stack(np.meshgrid(x, y, indexing="xy"), axis=-1).reshape(-1, 2))


@functools.lru_cache(maxsize=64)
def identity(control_points: ControlPoints, dtype: Any) -> np.ndarray:
    """The control points themselves, shape (K, 2): the theta that moves nothing. Read-only."""
    return _read_only(np.array(control_points, dtype))


@functools.lru_cache(maxsize=16)  # of as many transformers; each is as large as an image of K channels
def weights(control_points: ControlPoints, height: int, width: int, align_corners: bool, dtype: Any) -> np.ndarray:
    """B^T, shape (K, H W): of each control point, its weight at all pixels. In float64, rounded once; read-only."""
    points = regular_grid(height, width, align_corners, dtype).astype(np.float64)
    solution = np.linalg.solve(system(control_points), features(points, control_points).T)
    return _read_only(solution[: len(control_points)].astype(dtype))


def _read_only(array: np.ndarray) -> np.ndarray:
    array.flags.writeable = False
    return array
