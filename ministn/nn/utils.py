"""Gradient clipping: keep one bad batch from throwing the parameters away.

Gradient arrays may be shared between tensors or be read-only views, so a clipped gradient is a new tensor.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from ministn.autodiff import Tensor
from ministn.backend import array_module


def clip_grad_norm_(parameters: Tensor | Iterable[Tensor], max_norm: float) -> float:
    """Shorten all gradients by one factor so that together, as one vector, they are at most `max_norm` long.

    The factor is ``min(1, max_norm / (norm + 1e-6))``, as in PyTorch.

    Parameters
    ----------
    parameters : Tensor or iterable of Tensor
        Those without a gradient are passed over.
    max_norm : float
        Greatest Euclidean length.

    Returns
    -------
    float
        The length before clipping; 0 if there is no gradient.

    References
    ----------
    Pascanu et al. (2013), "On the difficulty of training recurrent neural networks", algorithm 1.
    """
    _check_limit("clip_grad_norm_", "max_norm", max_norm)
    clipped = _with_gradient(parameters)
    # In float64, because the square of a large float32 overflows. Arrays on the GPU are added up there and read once.
    squares = sum(array_module(grad.data).square(grad.data, dtype=np.float64).sum() for _, grad in clipped)
    norm = math.sqrt(squares)
    factor = float(max_norm) / (norm + 1e-6)
    if not factor >= 1:  # also for a NaN, which must not pass unseen
        for parameter, grad in clipped:
            parameter.grad = Tensor(grad.data * grad.dtype.type(factor))
    return norm


def clip_grad_value_(parameters: Tensor | Iterable[Tensor], clip_value: float) -> None:
    """Limit every element of every gradient to between -`clip_value` and `clip_value`.

    Parameters
    ----------
    parameters : Tensor or iterable of Tensor
        Those without a gradient are passed over.
    clip_value : float
    """
    _check_limit("clip_grad_value_", "clip_value", clip_value)
    for parameter, grad in _with_gradient(parameters):
        limit = grad.dtype.type(clip_value)
        parameter.grad = Tensor(array_module(grad.data).clip(grad.data, -limit, limit))


def _check_limit(name: str, argument: str, value: float) -> None:
    if not value >= 0:
        raise ValueError(f"{name}: expected {argument} to be at least 0, got {value}")


def _with_gradient(parameters: Tensor | Iterable[Tensor]) -> list[tuple[Tensor, Tensor]]:
    listed: Iterable[Tensor] = [parameters] if isinstance(parameters, Tensor) else parameters
    return [(parameter, parameter.grad) for parameter in listed if parameter.grad is not None]
