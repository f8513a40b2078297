"""Initial values, written into a tensor and drawn from ``ministn.random.generator()``.

The numbers are drawn in float64 on the CPU: the same seed gives the same weights in every dtype and on every device.
"""

from __future__ import annotations

import math

import numpy as np

from ministn import random
from ministn.autodiff import Tensor
from ministn.backend import Array, array_module

_GAINS = {
    "linear": 1.0,
    "conv2d": 1.0,
    "sigmoid": 1.0,
    "tanh": 5 / 3,
    "relu": math.sqrt(2),
}


def uniform_(tensor: Tensor, a: float = 0.0, b: float = 1.0) -> Tensor:
    """Fill with draws from the uniform distribution on [a, b).

    Parameters
    ----------
    tensor : Tensor, any shape
        Changed in place.
    a, b : float
        The ends of the interval.

    Returns
    -------
    Tensor
        `tensor` itself.
    """
    return _fill(tensor, random.generator().uniform(a, b, tensor.shape))


def normal_(tensor: Tensor, mean: float = 0.0, std: float = 1.0) -> Tensor:
    """Fill with draws from a normal distribution.

    Parameters
    ----------
    tensor : Tensor, any shape
        Changed in place.
    mean, std : float
        Its mean and standard deviation.

    Returns
    -------
    Tensor
        `tensor` itself.
    """
    return _fill(tensor, random.generator().normal(mean, std, tensor.shape))


def constant_(tensor: Tensor, val: float) -> Tensor:
    """Fill with one value.

    Parameters
    ----------
    tensor : Tensor, any shape
        Changed in place.
    val : float
        The value.

    Returns
    -------
    Tensor
        `tensor` itself.
    """
    return _fill(tensor, val)


def zeros_(tensor: Tensor) -> Tensor:
    """Fill with 0.

    Parameters
    ----------
    tensor : Tensor, any shape
        Changed in place.

    Returns
    -------
    Tensor
        `tensor` itself.
    """
    return _fill(tensor, 0)


def ones_(tensor: Tensor) -> Tensor:
    """Fill with 1.

    Parameters
    ----------
    tensor : Tensor, any shape
        Changed in place.

    Returns
    -------
    Tensor
        `tensor` itself.
    """
    return _fill(tensor, 1)


def xavier_uniform_(tensor: Tensor, gain: float = 1.0) -> Tensor:
    """Uniform on [-b, b) with b = gain sqrt(6 / (fan_in + fan_out)).

    The variance gain^2 * 2 / (fan_in + fan_out) keeps signals the same size forwards and gradients backwards.

    Parameters
    ----------
    tensor : Tensor, shape (out, in, ...)
        The layer's weight, changed in place.
    gain : float
        Factor on the standard deviation, for what the activation that follows takes away.

    Returns
    -------
    Tensor
        `tensor` itself.

    References
    ----------
    Glorot and Bengio (2010), "Understanding the difficulty of training deep feedforward neural networks", eq. (16).
    """
    bound = gain * math.sqrt(6 / sum(fans(tensor)))
    return uniform_(tensor, -bound, bound)


def xavier_normal_(tensor: Tensor, gain: float = 1.0) -> Tensor:
    """Normal with mean 0 and standard deviation gain sqrt(2 / (fan_in + fan_out)); see `xavier_uniform_`.

    Parameters
    ----------
    tensor : Tensor, shape (out, in, ...)
        The layer's weight, changed in place.
    gain : float
        As in `xavier_uniform_`.

    Returns
    -------
    Tensor
        `tensor` itself.

    References
    ----------
    Glorot and Bengio (2010), "Understanding the difficulty of training deep feedforward neural networks", eq. (16).
    """
    return normal_(tensor, 0.0, gain * math.sqrt(2 / sum(fans(tensor))))


def kaiming_uniform_(tensor: Tensor, a: float = 0.0, mode: str = "fan_in", nonlinearity: str = "leaky_relu") -> Tensor:
    """Uniform on [-b, b) with b = gain sqrt(3 / fan): the variance is gain^2 / fan.

    Parameters
    ----------
    tensor : Tensor, shape (out, in, ...)
        The layer's weight, changed in place.
    a : float
        Slope of the leaky ReLU for negative inputs; its gain is sqrt(2 / (1 + a^2)).
    mode : {"fan_in", "fan_out"}
        Whether signals forwards or gradients backwards keep their size.
    nonlinearity : {"linear", "conv2d", "sigmoid", "tanh", "relu", "leaky_relu"}
        What follows the layer.

    Returns
    -------
    Tensor
        `tensor` itself.

    References
    ----------
    He et al. (2015), "Delving deep into rectifiers", arXiv:1502.01852, eq. (10) and (14).
    """
    bound = math.sqrt(3) * _kaiming_std("kaiming_uniform_", tensor, a, mode, nonlinearity)
    return uniform_(tensor, -bound, bound)


def kaiming_normal_(tensor: Tensor, a: float = 0.0, mode: str = "fan_in", nonlinearity: str = "leaky_relu") -> Tensor:
    """Normal with mean 0 and standard deviation gain / sqrt(fan).

    Parameters
    ----------
    tensor : Tensor, shape (out, in, ...)
        The layer's weight, changed in place.
    a, mode, nonlinearity
        As in `kaiming_uniform_`.

    Returns
    -------
    Tensor
        `tensor` itself.

    References
    ----------
    He et al. (2015), "Delving deep into rectifiers", arXiv:1502.01852, eq. (10) and (14).
    """
    return normal_(tensor, 0.0, _kaiming_std("kaiming_normal_", tensor, a, mode, nonlinearity))


def fans(tensor: Tensor) -> tuple[int, int]:
    """How many inputs each output of a layer sums (fan_in), and how many outputs each input reaches (fan_out).

    Parameters
    ----------
    tensor : Tensor, shape (out, in, ...)
        The layer's weight; the axes after the second are the kernel's.

    Returns
    -------
    fan_in, fan_out : int
    """
    if tensor.ndim < 2:
        raise ValueError(f"fans: expected a weight of shape (out, in, ...), got {tensor.shape}")
    taps = math.prod(tensor.shape[2:])
    return tensor.shape[1] * taps, tensor.shape[0] * taps


def _kaiming_std(name: str, tensor: Tensor, a: float, mode: str, nonlinearity: str) -> float:
    if mode not in ("fan_in", "fan_out"):
        raise ValueError(f"{name}: expected mode 'fan_in' or 'fan_out', got {mode!r}")
    if nonlinearity != "leaky_relu" and nonlinearity not in _GAINS:
        raise ValueError(
            f"{name}: expected nonlinearity to be one of {', '.join(_GAINS)}, leaky_relu, got {nonlinearity!r}"
        )
    fan_in, fan_out = fans(tensor)
    gain = math.sqrt(2 / (1 + a * a)) if nonlinearity == "leaky_relu" else _GAINS[nonlinearity]
    return gain / math.sqrt(fan_in if mode == "fan_in" else fan_out)


def _fill(tensor: Tensor, values: np.ndarray | Array | float) -> Tensor:
    tensor.data[...] = array_module(tensor.data).asarray(values, dtype=tensor.dtype)
    return tensor
