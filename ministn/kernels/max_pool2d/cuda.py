"""Max pooling on the GPU: allocates and launches the kernels of cuda.cu. Memory is NCHW."""

from __future__ import annotations

import math

import numpy as np

from ministn.backend import Array, array_module
from ministn.kernels._cuda import launch
from ministn.kernels._pooling import Pair

_KERNELS = {  # by the dtype of the taps
    np.dtype(np.uint8): ("max_pool2d_forward_uint8", "max_pool2d_backward_uint8"),
    np.dtype(np.uint32): ("max_pool2d_forward_uint32", "max_pool2d_backward_uint32"),
}


def forward(
    x: Array, kernel: Pair, stride: Pair, padding: Pair, output_size: Pair, relu: bool = False
) -> tuple[Array, Array]:
    """As `reference.forward`; the taps are small integers."""
    library, size = array_module(x), (*x.shape[:2], *output_size)
    dtype = np.dtype(np.uint8 if kernel[0] * kernel[1] < 256 else np.uint32)
    y, taps, x = library.empty(size, x.dtype), library.empty(size, dtype), library.ascontiguousarray(x)
    geometry = np.int64(math.prod(x.shape[:2])), *x.shape[2:], *output_size, *kernel, *stride, *padding
    launch(__package__, _KERNELS[dtype][0], y.size, y, taps, x, relu, *geometry)
    return y, taps


def backward(grad_output: Array, taps: Array, kernel: Pair, stride: Pair, padding: Pair, image_size: Pair) -> Array:
    """As `reference.backward`, with the taps of `forward`."""
    library, size = array_module(grad_output), grad_output.shape
    dx = library.empty((*size[:2], *image_size), grad_output.dtype)
    g, taps = library.ascontiguousarray(grad_output), library.ascontiguousarray(taps)
    geometry = np.int64(math.prod(size[:2])), *image_size, *size[2:], *kernel, *stride, *padding
    launch(__package__, _KERNELS[taps.dtype][1], dx.size, dx, g, taps, *geometry)
    return dx
