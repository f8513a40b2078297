"""Average pooling as two matrix products.

A window is a product of a row interval and a column interval, so its mean is a mean over rows of means over columns:
Y = A X B^T, where row i of A holds 1 / m_i at the pixels that window i covers. Hence dX = A^T dY B.
"""

from __future__ import annotations

import numpy as np

from ministn.kernels._pooling import Pair, window_length


def forward(
    x: np.ndarray, kernel: Pair, stride: Pair, padding: Pair, count_include_pad: bool, output_size: Pair
) -> np.ndarray:
    """Y = A X B^T for each image and channel, of finite values: 0 times infinity would be NaN.

    Parameters
    ----------
    x : ndarray, shape (N, C, H, W)
    kernel, stride, padding : (rows, columns)
    count_include_pad : bool
    output_size : (OH, OW)

    Returns
    -------
    ndarray, shape (N, C, OH, OW)
    """
    a, b = _matrices(x.shape[2:], kernel, stride, padding, count_include_pad, output_size, x.dtype)
    y: np.ndarray = a @ x @ b.T
    return y


def backward(
    grad_output: np.ndarray, kernel: Pair, stride: Pair, padding: Pair, count_include_pad: bool, image_size: Pair
) -> np.ndarray:
    """dX = A^T dY B, shape (N, C, *image_size)."""
    output_size = grad_output.shape[2:]
    a, b = _matrices(image_size, kernel, stride, padding, count_include_pad, output_size, grad_output.dtype)
    grad_x: np.ndarray = a.T @ grad_output @ b
    return grad_x


def _matrices(
    image_size: Pair,
    kernel: Pair,
    stride: Pair,
    padding: Pair,
    count_include_pad: bool,
    output_size: Pair,
    dtype: np.dtype,
) -> list[np.ndarray]:
    """A of shape (OH, H) and B of shape (OW, W)."""
    matrices = []
    for length, k, s, border, count in zip(image_size, kernel, stride, padding, output_size, strict=True):
        tap = np.arange(length) - (np.arange(count)[:, None] * s - border)  # row: a window; column: a pixel
        covered = (tap >= 0) & (tap < k)
        m = window_length(length, k, s, border, count_include_pad, count)
        matrices.append((covered / m[:, None]).astype(dtype))
    return matrices
