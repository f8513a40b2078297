"""Activation functions as layers, for use in `Sequential`."""

from __future__ import annotations

from ministn import functional as F
from ministn.autodiff import Tensor
from ministn.nn.module import Module


class ReLU(Module):
    """max(x, 0) element by element.

    Parameters
    ----------
    inplace : bool
        Accepted because networks written for PyTorch have it, and without effect: the input is never overwritten, the
        results are the same.
    """

    def __init__(self, inplace: bool = False) -> None:
        pass

    def forward(self, input: Tensor) -> Tensor:
        return F.relu(input)


class Tanh(Module):
    """The hyperbolic tangent element by element."""

    def forward(self, input: Tensor) -> Tensor:
        return F.tanh(input)


class Sigmoid(Module):
    """1 / (1 + e^-x) element by element."""

    def forward(self, input: Tensor) -> Tensor:
        return F.sigmoid(input)
