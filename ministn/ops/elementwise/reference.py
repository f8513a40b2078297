"""The formulas as whole-array expressions. A trailing underscore marks those that write to their first argument."""

from __future__ import annotations

import numpy as np

from ministn.backend import Array, array_module


def relu(x: Array) -> Array:
    """max(x, 0); NaN stays NaN."""
    return array_module(x).maximum(x, x.dtype.type(0))


def relu_gradient(grad_output: Array, y: Array) -> Array:
    """dy where y > 0, else 0."""
    return array_module(y).where(y > 0, grad_output, grad_output.dtype.type(0))


def scaled(x: Array, scale: Array) -> Array:
    """scale x, where `scale` may have axes of length 1 to be repeated along."""
    return scale * x


def with_channels(x: Array, channels: Array) -> Array:
    """The images x (N, C, H, W), each with the same `channels` (c, H, W) behind its own, in the memory order of x."""
    N, C, H, W = x.shape
    memory = sorted(range(4), key=lambda axis: -x.strides[axis])
    shape = (N, C + len(channels), H, W)
    y = array_module(x).empty([shape[axis] for axis in memory], x.dtype)
    y = y.transpose(sorted(range(4), key=memory.__getitem__))
    y[:, :C], y[:, C:] = x, channels
    return y


def add_scaled_(x: Array, factor: float, y: Array) -> None:
    """x <- x + factor y."""
    x += factor * y


def scale_and_add_(x: Array, factor: float, y: Array) -> None:
    """x <- factor x + y."""
    x *= factor
    x += y


def adam_(
    w: Array,
    m: Array,
    v: Array,
    g: Array,
    beta1: float,
    beta2: float,
    rate: float,
    scale: float,
    eps: float,
    decay: float = 1.0,
) -> None:
    """m <- beta1 m + (1 - beta1) g, v <- beta2 v + (1 - beta2) g^2, w <- decay w - rate m / (sqrt(v) / scale + eps)."""
    if decay != 1:
        w *= decay
    m += (1 - beta1) * (g - m)
    v *= beta2
    v += (1 - beta2) * (g * g)
    w -= rate * m / (array_module(v).sqrt(v) / scale + eps)


def random_mask(generator: np.random.Generator, shape: tuple[int, ...], p: float, factor: float, like: Array) -> Array:
    """0 with probability p, else `factor`, in the dtype and the order of memory of `like`, which is batch-last or C."""
    keep = generator.random(shape, dtype=np.float32) >= p
    # NumPy then multiplies by it run by run.
    mask = np.multiply(keep, like.dtype.type(factor), order="C" if like.flags.c_contiguous else "F")
    return array_module(like).asarray(mask)
