"""The formulas of `reference` on the GPU."""

from __future__ import annotations

import math

import numpy as np

from ministn.backend import Array, array_module
from ministn.kernels._cuda import launch


def forward(x: Array, gamma: Array, beta: Array, eps: float) -> tuple[Array, Array, Array, Array]:
    """As `reference.forward`."""
    library, channels = array_module(x), gamma.size
    x, gamma, beta = (library.ascontiguousarray(array) for array in (x, gamma, beta))
    y, statistics = library.empty(x.shape, x.dtype), library.empty((3, channels), x.dtype)
    arguments = y, statistics, x, gamma, beta, float(eps), *_axes(x.shape)
    launch(__package__, "standardise_forward", x.size, *arguments, blocks=channels)
    return y, *statistics


def backward(grad_output: Array, x: Array, gamma: Array, mean: Array, inverse_std: Array) -> tuple[Array, Array, Array]:
    """As `reference.backward`."""
    library, channels = array_module(x), gamma.size
    g, x, gamma = (library.ascontiguousarray(array) for array in (grad_output, x, gamma))
    dx, sums = library.empty(x.shape, x.dtype), library.empty((2, channels), x.dtype)
    arguments = dx, sums, g, x, gamma, mean, inverse_std, *_axes(x.shape)
    launch(__package__, "standardise_backward", x.size, *arguments, blocks=channels)
    return dx, *sums


def _axes(shape: tuple[int, ...]) -> tuple[np.int64, int, np.int64]:
    return np.int64(shape[0]), shape[1], np.int64(math.prod(shape[2:]))
