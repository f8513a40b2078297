"""Max pooling as the equation says: lay every window out as a list of taps and take the largest.

The backward pass scatters: it computes which pixel each window chose, and adds the gradient there.
"""

from __future__ import annotations

import numpy as np

Pair = tuple[int, int]


def forward(
    x: np.ndarray, kernel: Pair, stride: Pair, padding: Pair, output_size: Pair, relu: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """The largest value of each window, and which tap it came from.

    Parameters
    ----------
    x : ndarray, shape (N, C, H, W)
    kernel, stride, padding : (rows, columns)
    output_size : (OH, OW)
    relu : bool
        Whether 0 takes part in every window.

    Returns
    -------
    y : ndarray, shape (N, C, OH, OW)
    taps : integer ndarray, shape (N, C, OH, OW)
        u KW + v of the tap (u, v) that won; KH KW if it was the 0.
    """
    windows = _windows(x, -np.inf, kernel, stride, padding, output_size)
    inside = _windows(np.ones((1, 1, *x.shape[2:]), bool), False, kernel, stride, padding, output_size)
    largest = windows.max(axis=-1, keepdims=True)  # NaN if there is one
    chosen = np.where(np.isnan(largest), np.isnan(windows), windows == largest) & inside
    first, last = chosen.argmax(axis=-1), windows.shape[-1] - 1 - chosen[..., ::-1].argmax(axis=-1)
    y, taps = largest[..., 0], np.where(np.isnan(largest[..., 0]), last, first)
    beaten = (y <= 0) & relu
    return np.where(beaten, y.dtype.type(0), y), np.where(beaten, kernel[0] * kernel[1], taps)


def backward(
    grad_output: np.ndarray, taps: np.ndarray, kernel: Pair, stride: Pair, padding: Pair, image_size: Pair
) -> np.ndarray:
    """The gradient for x, shape (N, C, *image_size), from those of y and the winning `taps`."""
    windows = n, c, i, j = np.nonzero(taps < kernel[0] * kernel[1])
    u, v = np.divmod(taps[windows].astype(np.intp), kernel[1])
    grad_x = np.zeros((*taps.shape[:2], *image_size), grad_output.dtype)
    np.add.at(grad_x, (n, c, i * stride[0] - padding[0] + u, j * stride[1] - padding[1] + v), grad_output[windows])
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
