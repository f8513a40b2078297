"""The formulas of `reference` on the GPU."""

from __future__ import annotations

import math

import numpy as np

from ministn.backend import Array, array_module
from ministn.kernels._cuda import launch


def log_softmax(x: Array, axis: int) -> Array:
    """As `reference.log_softmax`."""
    library = array_module(x)
    y, x = library.empty(x.shape, x.dtype), library.ascontiguousarray(x)
    launch(__package__, "log_softmax", x.size, y, x, *_axes(x.shape, axis))
    return y


def log_softmax_gradient(grad_output: Array, y: Array, axis: int) -> Array:
    """As `reference.log_softmax_gradient`."""
    library = array_module(y)
    dx, g, y = library.empty(y.shape, y.dtype), library.ascontiguousarray(grad_output), library.ascontiguousarray(y)
    launch(__package__, "log_softmax_gradient", y.size, dx, g, y, *_axes(y.shape, axis))
    return dx


def picked(table: Array, labels: Array) -> Array:
    """As `reference.picked`; NaN where a label is no class, since an error would have to wait for the device."""
    library, (N, K) = array_module(table), table.shape
    values = library.empty(N, table.dtype)
    table, labels = library.ascontiguousarray(table), library.ascontiguousarray(labels, np.int64)
    launch(__package__, "picked", N, values, table, labels, np.int64(N), K)
    return values


def placed(values: Array, labels: Array, shape: tuple[int, int]) -> Array:
    """As `reference.placed`; nothing for a label that is no class."""
    library, (N, K) = array_module(values), shape
    table = library.empty(shape, values.dtype)
    values = library.ascontiguousarray(library.broadcast_to(values, (N,)))
    labels = library.ascontiguousarray(labels, np.int64)
    launch(__package__, "placed", N * K, table, values, labels, np.int64(N), K)
    return table


def _axes(shape: tuple[int, ...], axis: int) -> tuple[np.int64, int, np.int64]:
    """A, K and B of the kernels: what is before the axis, its length, and what is behind it."""
    axis %= len(shape)
    return np.int64(math.prod(shape[:axis])), shape[axis], np.int64(math.prod(shape[axis + 1 :]))
