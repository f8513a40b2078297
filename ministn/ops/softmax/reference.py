"""The formulas as whole-array expressions."""

from __future__ import annotations

from ministn.backend import Array, array_module


def log_softmax(x: Array, axis: int) -> Array:
    """y_k = x_k - ln sum_j e^(x_j) along `axis`."""
    xp = array_module(x)
    shifted = x - x.max(axis=axis, keepdims=True)  # e^0 is the largest term: no overflow
    return shifted - xp.log(xp.exp(shifted).sum(axis=axis, keepdims=True))


def log_softmax_gradient(grad_output: Array, y: Array, axis: int) -> Array:
    """dx_k = dy_k - e^(y_k) sum_j dy_j."""
    return grad_output - array_module(y).exp(y) * grad_output.sum(axis=axis, keepdims=True)


def picked(table: Array, labels: Array) -> Array:
    """table[n, labels[n]], shape (N,), of a table (N, K)."""
    return table[array_module(table).arange(len(labels)), labels]


def placed(values: Array, labels: Array, shape: tuple[int, int]) -> Array:
    """A table of `shape` (N, K) with values[n], or the only value, at [n, labels[n]], else 0; N is its fastest axis."""
    xp = array_module(labels)
    table = xp.zeros(shape[::-1], values.dtype).T
    table[xp.arange(len(labels)), labels] = values
    return table
