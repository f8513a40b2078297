"""linear, the loops: three matrix products in register tiles (see `ministn.kernels.simd`).

Memory is batch-last: a feature's N numbers, one of each image, follow each other. A parallel iteration makes a tile of
features of the result and writes nothing else: no races, and the same order of sums for any number of threads."""
# ruff: noqa: E741 (I and O are the axes of input and output features)

import functools

import numpy as np

from ministn.kernels.compiled import compiled, parallel_for
from ministn.kernels.linear import reference
from ministn.kernels.simd import (
    Size,
    add_outer_at,
    filled,
    load,
    load_at,
    register_shape,
    store,
    transposed,
    zeros,
)

_BYTES, _REGISTERS = register_shape()
_ROWS = Size(10 if _REGISTERS == 32 else 6)  # of a tile of two registers a row: see conv2d/_plan.py
_ONE = Size(1)
_LARGE = 2**18  # multiplications


def forward(x, weight, bias):
    """As `reference.forward`."""
    lanes = _lanes(2, x.dtype)
    if not _worth_tiles(x, weight, lanes):
        return reference.forward(x, weight, bias)
    (N, I), O = x.shape, len(weight)
    y = np.empty((O, N), x.dtype)
    bias = _no_bias(O, x.dtype) if bias is None else np.ascontiguousarray(bias)
    starts = _starts(O, I, _ROWS), _starts(O, 1, _ROWS)
    _forward(_ROWS, lanes, x.T, np.ascontiguousarray(weight), bias, *starts, y)
    return y.T


def backward(grad_output, x, weight, needs_grad=(True, True, True)):
    """As `reference.backward`."""
    lanes = _lanes(2, x.dtype)
    if not _worth_tiles(x, weight, lanes):
        return reference.backward(grad_output, x, weight, needs_grad)
    (N, I), O = x.shape, len(weight)
    g, grad_x, grad_weight = np.ascontiguousarray(grad_output.T), None, None
    if needs_grad[0]:
        dx = np.empty((I, N), x.dtype)
        _grad_input(_ROWS, lanes, g, np.ascontiguousarray(weight), _starts(I, 1, _ROWS), dx)
        grad_x = dx.T
    if needs_grad[1]:
        grad_weight = np.empty((O, I), x.dtype)
        _grad_weight(_ROWS, lanes, _lanes(1, x.dtype), g, x.T, _starts(O, N, _ROWS), _starts(I, N, _ONE), grad_weight)
    return grad_x, grad_weight, g.sum(axis=1) if any(needs_grad[2:]) else None


def _worth_tiles(x, weight, lanes):
    """Whether `x` is batch-last, fills vectors, and is large enough for threads to pay. Else BLAS is faster."""
    return min(x.shape) >= len(lanes) and len(x) * weight.size > _LARGE and x.T.flags.c_contiguous


@functools.cache
def _lanes(registers, dtype):
    return Size(registers * _BYTES // dtype.itemsize)


@functools.lru_cache(maxsize=256)
def _starts(count, step, side):
    """0, step, 2 step, ...: where `count` rows begin; the last one is repeated until they fill tiles."""
    return step * np.minimum(np.arange(-(-count // len(side)) * len(side)), count - 1)


@functools.lru_cache(maxsize=64)
def _no_bias(count, dtype):
    return np.zeros(count, dtype)


# --- the loops --------------------------------------------------------------------------------------------------------


@compiled
def _forward(rows, lanes, x, w, bias, starts, features, y):
    parallel_for(_output_tile, len(starts) // len(rows), (rows, lanes, x, w, bias, starts, features, y))


@compiled
def _output_tile(tile, rows, lanes, x, w, bias, starts, features, y):
    """y[o, n] = b[o] + sum over i of w[o, i] x[i, n]"""
    (O, N), o = y.shape, tile * len(rows)
    for block in range(0, N, len(lanes)):
        n = min(block, N - len(lanes))  # the last block reaches back
        sums = add_outer_at(zeros(rows, lanes, x), bias, 0, features, o, filled(lanes, x, 1))
        for i in range(len(x)):
            sums = add_outer_at(sums, w, i, starts, o, load(lanes, x, i * N + n))
        store(sums, O - o, 0, y, o * N + n, N)


@compiled
def _grad_input(rows, lanes, g, w, features, dx):
    parallel_for(_input_tile, len(features) // len(rows), (rows, lanes, g, w, features, dx))


@compiled
def _input_tile(tile, rows, lanes, g, w, features, dx):
    """dx[i, n] = sum over o of w[o, i] g[o, n]"""
    (I, N), i = dx.shape, tile * len(rows)
    for block in range(0, N, len(lanes)):
        n = min(block, N - len(lanes))
        sums = zeros(rows, lanes, g)
        for o in range(len(g)):
            sums = add_outer_at(sums, w, o * I, features, i, load(lanes, g, o * N + n))
        store(sums, I - i, 0, dx, i * N + n, N)


@compiled
def _grad_weight(rows, lanes, side, g, x, g_starts, x_starts, dw):
    L = len(lanes)
    parallel_for(_weight_block, (dw.shape[1] + L - 1) // L, (rows, lanes, side, g, x, g_starts, x_starts, dw))


@compiled
def _weight_block(block, rows, lanes, side, g, x, g_starts, x_starts, dw):
    """dw[o, i] = sum over n of g[o, n] x[i, n] for a vector of i"""
    (O, I), N, L = dw.shape, g.shape[1], len(lanes)
    i = min(block * L, I - L)  # the last block reaches back; what lies before it is not stored again
    near = np.empty((N, L), g.dtype)  # near[n, k] = x[i + k, n]: features side by side
    for k in range(0, L, len(side)):
        for first in range(0, N, len(side)):
            n = min(first, N - len(side))
            store(transposed(load_at(side, side, x, n, x_starts, i + k)), len(side), 0, near, n * L + k, L)
    for o in range(0, O, len(rows)):
        sums = zeros(rows, lanes, g)
        for n in range(N):
            sums = add_outer_at(sums, g, n, g_starts, o, load(lanes, near, n * L))
        store(sums, O - o, block * L - i, dw, o * I + i, I)
