"""The formulas of `reference` as loops over a matrix (K, M): the axis, and all else. Neighbours in memory are different
softmaxes, so each step of one is a vector of many. One parallel iteration is a part of the M."""

import numpy as np

from ministn.kernels.compiled import compiled, parallel_for
from ministn.ops.softmax import reference

_PART = 256  # softmaxes of one parallel iteration


def log_softmax(x, axis):
    """As `reference.log_softmax`; in the memory of the result `axis` is the slowest."""
    x = x.swapaxes(0, axis)
    y = np.empty(x.shape, x.dtype)
    _log_softmax(*_matrices(y, x))
    return y.swapaxes(0, axis)


def log_softmax_gradient(grad_output, y, axis):
    """As `reference.log_softmax_gradient`, in the same order of memory."""
    g, y = grad_output.swapaxes(0, axis), y.swapaxes(0, axis)
    dx = np.empty(y.shape, y.dtype)
    _gradient(*_matrices(dx, g, y))
    return dx.swapaxes(0, axis)


picked, placed = reference.picked, reference.placed


def _matrices(*arrays):
    return [np.ascontiguousarray(array).reshape(len(array), array[:1].size) for array in arrays]


@compiled
def _log_softmax(*matrices):
    parallel_for(_log_softmax_part, (matrices[0].shape[1] + _PART - 1) // _PART, matrices)


@compiled
def _log_softmax_part(part, y, x):
    """y_k = x_k - ln sum_j e^(x_j - top) - top, with the largest x as top: e^0 is the largest term, none overflows"""
    (K, M), first = x.shape, part * _PART
    top, total = np.empty(_PART, x.dtype), np.zeros(_PART, x.dtype)
    count = min(_PART, M - first)
    for m in range(count):
        top[m] = x[0, first + m]
    for k in range(1, K):
        for m in range(count):
            top[m] = x[k, first + m] if x[k, first + m] > top[m] else top[m]
    for k in range(K):
        for m in range(count):
            y[k, first + m] = x[k, first + m] - top[m]
            total[m] += np.exp(y[k, first + m])
    for m in range(count):
        total[m] = np.log(total[m])
    for k in range(K):
        for m in range(count):
            y[k, first + m] -= total[m]


@compiled
def _gradient(*matrices):
    parallel_for(_gradient_part, (matrices[0].shape[1] + _PART - 1) // _PART, matrices)


@compiled
def _gradient_part(part, dx, g, y):
    """dx_k = g_k - e^(y_k) sum_j g_j"""
    (K, M), first = y.shape, part * _PART
    total, count = np.zeros(_PART, y.dtype), min(_PART, M - first)
    for k in range(K):
        for m in range(count):
            total[m] += g[k, first + m]
    for k in range(K):
        for m in range(count):
            dx[k, first + m] = g[k, first + m] - np.exp(y[k, first + m]) * total[m]
