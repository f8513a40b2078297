"""Average pooling on the GPU: allocates and launches the kernels of cuda.cu. Memory is NCHW."""

from __future__ import annotations

import math

import numpy as np

from ministn.backend import Array, array_module
from ministn.kernels._cuda import launch
from ministn.kernels._pooling import Pair


def forward(x: Array, kernel: Pair, stride: Pair, padding: Pair, count_include_pad: bool, output_size: Pair) -> Array:
    """As `reference.forward`."""
    library = array_module(x)
    y, x = library.empty((*x.shape[:2], *output_size), x.dtype), library.ascontiguousarray(x)
    border = padding if count_include_pad else (0, 0)
    geometry = np.int64(math.prod(x.shape[:2])), *x.shape[2:], *output_size, *kernel, *stride, *padding, *border
    launch(__package__, "avg_pool2d_forward", y.size, y, x, *geometry)
    return y


def backward(
    grad_output: Array, kernel: Pair, stride: Pair, padding: Pair, count_include_pad: bool, image_size: Pair
) -> Array:
    """As `reference.backward`."""
    library, size = array_module(grad_output), grad_output.shape
    dx, g = library.empty((*size[:2], *image_size), grad_output.dtype), library.ascontiguousarray(grad_output)
    border = padding if count_include_pad else (0, 0)
    geometry = np.int64(math.prod(size[:2])), *image_size, *size[2:], *kernel, *stride, *padding, *border
    launch(__package__, "avg_pool2d_backward", dx.size, dx, g, *geometry)
    return dx
