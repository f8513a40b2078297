"""Convolution on the GPU: allocates and launches the kernels of cuda.cu. Memory is NCHW."""
# ruff: noqa: E741 (O is the axis of output channels)

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ministn.backend import Array, array_module
from ministn.kernels._cuda import launch, on_device
from ministn.kernels.conv2d._shape import Pair, output_size

_MOST_BLOCKS = 2**20  # of a launch with a block for each tap; they stride over what is more


def forward(x: Array, weight: Array, bias: Array | None, stride: Pair, padding: Pair, dilation: Pair) -> Array:
    """As `reference.forward`."""
    library, O = array_module(x), len(weight)
    geometry = _geometry(x.shape, weight.shape, stride, padding, dilation)
    y = library.empty((len(x), O, *geometry[7:9]), x.dtype)
    x, weight = library.ascontiguousarray(x), library.ascontiguousarray(weight)
    bias = on_device(library, np.zeros, O, x.dtype) if bias is None else library.ascontiguousarray(bias)
    launch(__package__, "conv2d_forward", y.size, y, x, weight, bias, *geometry)
    return y


def backward(
    grad_output: Array,
    x: Array,
    weight: Array,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    needs_grad: Sequence[bool] = (True, True, True),
) -> tuple[Array | None, Array | None, Array | None]:
    """As `reference.backward`."""
    library = array_module(x)
    geometry = _geometry(x.shape, weight.shape, stride, padding, dilation)
    g, dx, dw, db = library.ascontiguousarray(grad_output), None, None, None
    if needs_grad[0]:
        dx, weight = library.empty(x.shape, x.dtype), library.ascontiguousarray(weight)
        launch(__package__, "conv2d_grad_input", dx.size, dx, g, weight, *geometry)
    if needs_grad[1]:
        dw, x = library.empty(weight.shape, x.dtype), library.ascontiguousarray(x)
        blocks = min(dw.size, _MOST_BLOCKS)
        launch(__package__, "conv2d_grad_weight", dw.size, dw, g, x, *geometry, blocks=blocks)
    if any(needs_grad[2:]):
        O = len(weight)
        db = library.empty(O, x.dtype)
        launch(__package__, "conv2d_grad_bias", O, db, g, *g.shape, blocks=O)
    return dx, dw, db


def _geometry(
    shape: Sequence[int], filters: Sequence[int], stride: Pair, padding: Pair, dilation: Pair
) -> tuple[int, ...]:
    """N, C, H, W, O, KH, KW, OH, OW, stride, padding, dilation: GEOMETRY of the kernels."""
    size = output_size(shape[2:], filters[2:], stride, padding, dilation)
    return (*shape, filters[0], *filters[2:], *size, *stride, *padding, *dilation)
