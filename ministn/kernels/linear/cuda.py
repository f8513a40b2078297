"""CuPy's matrix products, as `reference` has them; in steps that can be recorded, those of cuda.cu."""

from __future__ import annotations

import numpy as np

from ministn.backend import Array, array_module
from ministn.kernels._cuda import launch, must_be_recordable
from ministn.kernels.linear import reference


def forward(x: Array, weight: Array, bias: Array | None) -> Array:
    """As `reference.forward`."""
    if not must_be_recordable():
        return reference.forward(x, weight, bias)
    y = _product(x, weight.T)
    if bias is not None:
        y += bias
    return y


def backward(
    grad_output: Array, x: Array, weight: Array, needs_grad: tuple[bool, ...] = (True, True, True)
) -> tuple[Array | None, Array | None, Array | None]:
    """As `reference.backward`."""
    if not must_be_recordable():
        return reference.backward(grad_output, x, weight, needs_grad)
    grad_x = _product(grad_output, weight) if needs_grad[0] else None
    grad_weight = _product(grad_output.T, x) if needs_grad[1] else None
    return grad_x, grad_weight, grad_output.sum(axis=0) if any(needs_grad[2:]) else None


def _product(a: Array, b: Array) -> Array:
    """A B."""
    (M, K), N = a.shape, b.shape[1]
    c = array_module(a).empty((M, N), a.dtype)
    (a, a_steps), (b, b_steps) = _in_order(a), _in_order(b)
    launch(__package__, "product", c.size, c, a, b, M, N, K, *a_steps, *b_steps)
    return c


def _in_order(matrix: Array) -> tuple[Array, tuple[np.int64, np.int64]]:
    """The matrix, or its transpose, whichever is C-contiguous, and the distances between its rows and columns."""
    rows, columns = matrix.shape
    if matrix.T.flags.c_contiguous and not matrix.flags.c_contiguous:
        return matrix.T, (np.int64(1), np.int64(rows))
    return array_module(matrix).ascontiguousarray(matrix), (np.int64(columns), np.int64(1))
