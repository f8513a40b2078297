"""Max pooling as the equation says: lay every window out as a list of taps and take the largest.

The backward pass scatters: it computes which pixel each window chose, and adds the gradient there.
"""

from __future__ import annotations

import numpy as np

Pair = tuple[int, int]


def forward(
    x: np.ndarray, kernel: Pair, stride: Pair, padding: Pair, output_size: Pair
) -> tuple[np.ndarray, np.ndarray]:
    """The largest value of each window, and which tap it came from.

    Parameters
    ----------
    x : ndarray, shape (N, C, H, W)
    kernel, stride, padding : (rows, columns)
    output_size : (OH, OW)

    Returns
    -------
    y : ndarray, shape (N, C, OH, OW)
    taps : integer ndarray, shape (N, C, OH, OW)
        u KW + v of the tap (u, v) that won.
    """
    windows = _windows(x, -np.inf, kernel, stride, padding, output_size)
    inside = _windows(np.ones((1, 1, *x.shape[2:]), bool), False, kernel, stride, padding, output_size)
    largest = windows.max(axis=-1, keepdims=True)  # NaN if there is one
    chosen = np.where(np.isnan(largest), np.isnan(windows), windows == largest) & inside
    first, last = chosen.argmax(axis=-1), windows.shape[-1] - 1 - chosen[..., ::-1].argmax(axis=-1)
    return largest[..., 0], np.where(np.isnan(largest[..., 0]), last, first)


def backward(
    grad_output: np.ndarray, taps: np.ndarray, kernel: Pair, stride: Pair, padding: Pair, image_size: Pair
) -> np.ndarray:
    """The gradient for x, shape (N, C, *image_size), from those of y and the winning `taps`."""
    n, c, i, j = np.ix_(*(np.arange(length) for length in taps.shape))
    u, v = np.divmod(taps.astype(np.intp), kernel[1])
    grad_x = np.zeros((*taps.shape[:2], *image_size), grad_output.dtype)
    np.add.at(grad_x, (n, c, i * stride[0] - padding[0] + u, j * stride[1] - padding[1] + v), grad_output)
    return grad_x


def _windows(x: np.ndarray, fill: float, kernel: Pair, stride: Pair, padding: Pair, output_size: Pair) -> np.ndarray:
    """All windows of `x`, as lists of taps, shape (N, C, OH, OW, KH KW), with `fill` for what lies outside."""
    around = [(0, 0), (0, 0)]
    for axis in range(2):
        end = (output_size[axis] - 1) * stride[axis] - padding[axis] + kernel[axis]  # of the last window
        around.append((padding[axis], max(0, end - x.shape[2 + axis])))
    padded = np.pad(x, around, constant_values=fill)
    every = np.lib.stride_tricks.sliding_window_view(padded, kernel, axis=(2, 3))
    windows = every[:, :, :: stride[0], :: stride[1]][:, :, : output_size[0], : output_size[1]]
    return windows.reshape(*windows.shape[:4], kernel[0] * kernel[1])
