"""What the pooling families share: where the windows stand, what they cover, and the checks of their arguments."""

from __future__ import annotations

from typing import Any

import numpy as np

from ministn.kernels._checks import check_tensor, flag, pair, remembered

Pair = tuple[int, int]
Size = int | tuple[int, int]


def output_length(length: int, kernel: int, stride: int, padding: int, ceil_mode: bool) -> int:
    """How many windows stand along an axis of `length` pixels; less than 1 where none fits.

    Window i covers the pixels i s - P to i s - P + K - 1. All of them must lie in the padded image; with `ceil_mode`
    the last window may stick out, but it must start inside the image or its left padding.
    """
    beyond_first = length + 2 * padding - kernel  # room left beside the first window
    if not ceil_mode:
        return beyond_first // stride + 1
    count = -(-beyond_first // stride) + 1
    return count - 1 if (count - 1) * stride >= length + padding else count


def window_length(
    length: int, kernel: int, stride: int, padding: int, count_include_pad: bool, count: int
) -> np.ndarray:
    """m_i for the `count` windows along an axis of `length` pixels: the pixels of each that count in its mean."""
    start = np.arange(count) * stride - padding
    border = padding if count_include_pad else 0
    return np.minimum(start + kernel, length + border) - np.maximum(start, -border)


def runs(alike: np.ndarray, stride: int) -> np.ndarray:
    """For each place along an axis, how many from there on one loop can take: those that are all `alike`, so that
    what they read follows as closely as they do. That needs a stride of 1; one place at a time otherwise.
    """
    length = np.ones(len(alike), np.int64)
    if stride == 1:
        for place in range(len(alike) - 2, -1, -1):
            if alike[place] and alike[place + 1]:
                length[place] = length[place + 1] + 1
    return length


def check_pooling(
    name: str, input: Any, kernel_size: Size, stride: Size | None, padding: Size, ceil_mode: bool
) -> tuple[Pair, Pair, Pair, Pair]:
    """Check the arguments of a pooling function; return its kernel, stride, padding and output size as pairs."""
    check_tensor(name, "input", input, "N C H W")
    geometry: tuple[Pair, Pair, Pair, Pair] = _geometry(name, input.shape[1:], kernel_size, stride, padding, ceil_mode)
    return geometry


@remembered
def _geometry(
    name: str, shape: tuple[int, ...], kernel_size: Size, stride: Size | None, padding: Size, ceil_mode: bool
) -> tuple[Pair, Pair, Pair, Pair]:
    flag(name, "ceil_mode", ceil_mode)
    kernel = pair(name, "kernel_size", kernel_size, minimum=1)
    step = kernel if stride is None else pair(name, "stride", stride, minimum=1)
    border = pair(name, "padding", padding, minimum=0)
    if 2 * border[0] > kernel[0] or 2 * border[1] > kernel[1]:  # a window could lie wholly in the padding
        raise ValueError(f"{name}: expected padding to be at most half of kernel_size {kernel}, got {border}")
    if min(shape) < 1:
        raise ValueError(f"{name}: expected axes C, H, W of input to be at least 1, got {shape}")
    size = tuple(output_length(shape[1 + a], kernel[a], step[a], border[a], ceil_mode) for a in range(2))
    if min(size) < 1:
        padded = tuple(length + 2 * b for length, b in zip(shape[1:], border, strict=True))
        raise ValueError(f"{name}: expected axes H, W of the padded input to be at least {kernel}, got {padded}")
    return kernel, step, border, (size[0], size[1])
