"""Dropout (Srivastava et al. 2014): multiply by a random mask that is 1 on average."""

from __future__ import annotations

import numbers

from ministn import random
from ministn.autodiff import Function, Tensor
from ministn.backend import Array, implementation
from ministn.kernels._checks import check_is_tensor, flag
from ministn.ops._common import in_floating_point

_ELEMENTWISE = "ministn.ops.elementwise"


class Dropout(Function):
    """y = s x with a random s that is 1 on average, so dx = s dy."""

    def __init__(self, scale: Array) -> None:
        self.scale = scale

    def forward(self, x: Array) -> Array:
        return implementation(_ELEMENTWISE, x).scaled(x, self.scale)

    def backward(self, grad_output: Array) -> Array:
        return implementation(_ELEMENTWISE, grad_output).scaled(grad_output, self.scale)


def dropout(input: Tensor, p: float = 0.5, training: bool = True) -> Tensor:
    """Each element set to zero with probability `p`, the others divided by 1 - p; unchanged outside training."""
    check_is_tensor("dropout", "input", input)
    return _masked("dropout", input, input.shape, p, training)


def dropout2d(input: Tensor, p: float = 0.5, training: bool = True) -> Tensor:
    """Whole channels of an (N, C, H, W) image set to zero with probability `p`, the others divided by 1 - p.

    Neighbouring pixels of a feature map say nearly the same; dropping single ones would hide little.
    """
    check_is_tensor("dropout2d", "input", input)
    if input.ndim != 4:
        raise ValueError(f"dropout2d: expected an input (N, C, H, W), got shape {input.shape}")
    return _masked("dropout2d", input, (*input.shape[:2], 1, 1), p, training)


def _masked(name: str, input: Tensor, shape: tuple[int, ...], p: float, training: bool) -> Tensor:
    if not isinstance(p, numbers.Real) or not 0 <= p <= 1:
        raise ValueError(f"{name}: expected a probability 0 <= p <= 1, got {p}")
    if not flag(name, "training", training) or p == 0:
        return input
    if p < 1:  # else nothing is kept, and integers may stay integers
        input = in_floating_point(input)
    factor = 1 / (1 - p) if p < 1 else 0.0
    # One random sequence on every device: the same seed drops the same elements.
    mask = implementation(_ELEMENTWISE, input.data).random_mask(random.generator(), shape, p, factor, input.data)
    return Dropout.apply(input, scale=mask)
