"""Homogeneous points by one matrix product, divided by w; backward, the matrices of the chain rule multiplied out."""

from __future__ import annotations

import numpy as np

from ministn.kernels._coordinates import pixel_centres


def forward(theta: np.ndarray, height: int, width: int, align_corners: bool, horizon: float) -> np.ndarray:
    XY, w, _ = _homogeneous(theta, _target_points(height, width, align_corners, theta.dtype), horizon)
    return XY / w


def backward(grad_output: np.ndarray, theta: np.ndarray, align_corners: bool, horizon: float) -> np.ndarray:
    height, width = grad_output.shape[1:3]
    points = _target_points(height, width, align_corners, theta.dtype)
    XY, w, is_near = _homogeneous(theta, points, horizon)
    jacobian = np.zeros((*XY.shape, 3), theta.dtype)  # of XY / w with respect to (X, Y, w), shape (N, H, W, 2, 3)
    jacobian[..., 0, 0] = jacobian[..., 1, 1] = 1 / w[..., 0]
    jacobian[..., 2] = np.where(is_near, 0, -(XY / w) / w)
    return np.einsum("nija,nijab,ijc->nbc", grad_output, jacobian, points)


def _target_points(height: int, width: int, align_corners: bool, dtype: np.dtype) -> np.ndarray:
    """(x, y, 1) of every output pixel, shape (H, W, 3)."""
    x = pixel_centres(width, align_corners, dtype)
    y = pixel_centres(height, align_corners, dtype)
    return np.stack([*np.meshgrid(x, y, indexing="xy"), np.ones((height, width), dtype)], axis=-1)


def _homogeneous(theta: np.ndarray, points: np.ndarray, horizon: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(X, Y), shape (N, H, W, 2), and w, shape (N, H, W, 1), kept away from 0; and where it had to be."""
    homogeneous = np.einsum("nab,ijb->nija", theta, points)
    XY, w = homogeneous[..., :2], homogeneous[..., 2:]
    eps = theta.dtype.type(horizon)
    is_near = np.abs(w) < eps
    return XY, np.where(is_near, np.where(w >= 0, eps, -eps), w), is_near
