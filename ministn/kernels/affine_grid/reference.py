"""Equation (1) of Jaderberg et al. 2015 as one matrix product: every target point times every matrix."""

from __future__ import annotations

import numpy as np

from ministn.kernels._coordinates import pixel_centres


def _target_points(height: int, width: int, align_corners: bool, dtype: np.dtype) -> np.ndarray:
    """(x, y, 1) of every output pixel, shape (H, W, 3)."""
    x = pixel_centres(width, align_corners, dtype)
    y = pixel_centres(height, align_corners, dtype)
    return np.stack([*np.meshgrid(x, y, indexing="xy"), np.ones((height, width), dtype)], axis=-1)


def forward(theta: np.ndarray, height: int, width: int, align_corners: bool) -> np.ndarray:
    return np.einsum("nab,ijb->nija", theta, _target_points(height, width, align_corners, theta.dtype))


def backward(grad_output: np.ndarray, align_corners: bool) -> np.ndarray:
    height, width = grad_output.shape[1:3]
    return np.einsum("nija,ijb->nab", grad_output, _target_points(height, width, align_corners, grad_output.dtype))
