"""The formulas of `reference` as loops. All arrays of a call are read in the order of memory of the first, which is
the one that is written, so that every loop runs over plain vectors, whatever the axes are called.
"""

import math

import numpy as np

from ministn.kernels.compiled import compiled, parallel_for
from ministn.ops.elementwise import reference

_PART = 2**13  # numbers of one parallel iteration, where arrays are large enough for threads to pay


def relu(x):
    """As `reference.relu`, in the memory order of `x`."""
    y = np.empty_like(x)
    _relu(-(-x.size // _PART), *_vectors(y, x))
    return y


def relu_gradient(grad_output, y):
    """As `reference.relu_gradient`, in the memory order of `y`."""
    dx = np.empty_like(y)
    _relu_gradient(-(-y.size // _PART), *_vectors(dx, grad_output, y))
    return dx


def add_scaled_(x, factor, y):
    """As `reference.add_scaled_`."""
    if not _in_one_order(x):
        return reference.add_scaled_(x, factor, y)
    _add_scaled(*_vectors(x, y), factor)


def scale_and_add_(x, factor, y):
    """As `reference.scale_and_add_`."""
    if not _in_one_order(x):
        return reference.scale_and_add_(x, factor, y)
    _scale_and_add(*_vectors(x, y), factor)


def adam_(w, m, v, g, beta1, beta2, rate, scale, eps):
    """As `reference.adam_`."""
    if not _in_one_order(w, m, v):
        return reference.adam_(w, m, v, g, beta1, beta2, rate, scale, eps)
    _adam(*_vectors(w, m, v, g), (1 - beta1, beta2, 1 - beta2, rate, scale, eps))


def _in_one_order(*arrays):
    """Whether all have their numbers in the same order and without gaps, so that vectors of them are views."""
    first, *others = arrays
    without_gaps = first.flags.forc or np.may_share_memory(first.ravel("K"), first)
    return without_gaps and all([array.strides == first.strides for array in others])


def _vectors(first, *arrays):
    """All as vectors in the memory order of `first`; copies of those that have another."""
    return [first.ravel("K"), *[_like(first, array).ravel("K") for array in arrays]]


def _like(first, array):
    if array.strides == first.strides:
        return array
    same = np.empty_like(first)
    same[...] = array
    return same


@compiled
def _relu(parts, *arrays):
    parallel_for(_relu_part, parts, arrays)


@compiled
def _relu_part(part, y, x):
    y, x = y[part * _PART :][:_PART], x[part * _PART :][:_PART]
    nothing = x.dtype.type(0)
    for k in range(x.size):
        y[k] = nothing if x[k] <= nothing else x[k]  # a NaN is not <= 0


@compiled
def _relu_gradient(parts, *arrays):
    parallel_for(_relu_gradient_part, parts, arrays)


@compiled
def _relu_gradient_part(part, dx, g, y):
    dx, g, y = dx[part * _PART :][:_PART], g[part * _PART :][:_PART], y[part * _PART :][:_PART]
    nothing = g.dtype.type(0)
    for k in range(g.size):
        dx[k] = g[k] if y[k] > nothing else nothing


@compiled
def _add_scaled(x, y, factor):
    factor = x.dtype.type(factor)
    for k in range(x.size):
        x[k] += factor * y[k]


@compiled
def _scale_and_add(x, y, factor):
    factor = x.dtype.type(factor)
    for k in range(x.size):
        x[k] = factor * x[k] + y[k]


@compiled
def _adam(w, m, v, g, numbers):
    number = w.dtype.type
    weight1, beta2, weight2 = number(numbers[0]), number(numbers[1]), number(numbers[2])
    rate, scale, eps = number(numbers[3]), number(numbers[4]), number(numbers[5])
    for k in range(w.size):
        m[k] += weight1 * (g[k] - m[k])
        v[k] = beta2 * v[k] + weight2 * (g[k] * g[k])
        w[k] -= rate * m[k] / (math.sqrt(v[k]) / scale + eps)
