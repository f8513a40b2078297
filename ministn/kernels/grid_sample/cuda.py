"""Grid sampling on the GPU: allocates and launches the kernels of cuda.cu."""

from __future__ import annotations

from typing import Any

import numpy as np

from ministn.backend import Array, array_module, deterministic
from ministn.kernels._cuda import launch

_PADDING = {"zeros": 0, "border": 1, "reflection": 2}
_TAPS = {"nearest": 1, "bilinear": 2, "bicubic": 4}  # along an axis


def forward(input: Array, grid: Array, mode: str, padding_mode: str, align_corners: bool) -> Array:
    """As `reference.forward`."""
    library, (N, C, H, W), (OH, OW) = array_module(input), input.shape, grid.shape[1:3]
    output = library.empty((N, C, OH, OW), input.dtype)
    arrays = output, *(library.ascontiguousarray(array) for array in (input, grid))
    sizes = N, C, H, W, np.int64(OH * OW), _PADDING[padding_mode], align_corners
    launch(__package__, f"grid_sample_forward_{mode}", N * OH * OW, *arrays, *sizes)
    return output


def backward(
    grad_output: Array,
    input: Array,
    grid: Array,
    mode: str,
    padding_mode: str,
    align_corners: bool,
    needs_grad: tuple[bool, bool] = (True, True),
) -> tuple[Array | None, Array | None]:
    """As `reference.backward`.

    The order in which d input is added up may differ from run to run, unless `use_deterministic_kernels` asks for
    the same bits each time.
    """
    library, (N, C, H, W), (OH, OW) = array_module(input), input.shape, grid.shape[1:3]
    g, input, grid = (library.ascontiguousarray(array) for array in (grad_output, input, grid))
    samples, sizes, options = N * OH * OW, (N, C, H, W, np.int64(OH * OW)), (_PADDING[padding_mode], align_corners)
    grad_input = grad_grid = None
    if needs_grad[0] and deterministic():
        grad_input = _backward_input_in_order(library, g, grid, sizes, mode, options)
    elif needs_grad[0]:
        grad_input = library.zeros(input.shape, input.dtype)
        launch(__package__, f"grid_sample_backward_input_{mode}", samples, grad_input, g, grid, *sizes, *options)
    if needs_grad[1] and mode == "nearest":  # the value does not change with the point
        grad_grid = library.zeros(grid.shape, grid.dtype)
    elif needs_grad[1]:
        grad_grid = library.empty(grid.shape, grid.dtype)
        arrays = grad_grid, g, input, grid
        launch(__package__, f"grid_sample_backward_grid_{mode}", samples, *arrays, *sizes, *options)
    return grad_input, grad_grid


def _backward_input_in_order(
    library: Any, g: Array, grid: Array, sizes: tuple[Any, ...], mode: str, options: tuple[int, bool]
) -> Array:
    """d input by sorting the taps of all samples by pixel, at the cost of memory for 2 or 3 numbers for each tap."""
    (N, C, H, W, P), taps_of_sample = sizes, _TAPS[mode] ** 2
    samples = N * int(P)
    taps = samples * taps_of_sample
    if (N * H * W + 1) * taps >= 2**63:  # the largest key
        raise OverflowError(f"grid_sample: {samples} samples of {N * H * W} pixels are too many to be sorted")
    keys, weights = library.empty(taps, np.int64), library.empty(taps, g.dtype)
    launch(__package__, f"grid_sample_list_taps_{mode}", samples, keys, weights, grid, *sizes, *options)
    grad_input = library.empty((N, C, H, W), g.dtype)
    arrays = grad_input, g, library.sort(keys), weights
    launch(__package__, "grid_sample_add_taps", grad_input.size, *arrays, *sizes, taps_of_sample)
    return grad_input
