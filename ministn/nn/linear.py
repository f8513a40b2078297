"""The dense layer."""

from __future__ import annotations

import math

import numpy as np

from ministn import functional as F
from ministn.autodiff import Tensor
from ministn.kernels._checks import flag, integer
from ministn.nn import init
from ministn.nn.module import Module, Parameter


class Linear(Module):
    """y = x W^T + b.

    Parameters
    ----------
    in_features, out_features : int
        Lengths of x and y.
    bias : bool
        Whether b exists.

    Attributes
    ----------
    weight : Parameter, shape (out_features, in_features)
    bias : Parameter, shape (out_features,), or None
        Both start uniform on ±1 / sqrt(in_features), as in PyTorch.
    """

    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
        self.in_features = in_features = integer("Linear", "in_features", in_features, 1)
        self.out_features = out_features = integer("Linear", "out_features", out_features, 1)
        bias = flag("Linear", "bias", bias)
        bound = 1 / math.sqrt(in_features)
        self.weight = Parameter(np.empty((out_features, in_features), np.float32))
        self.bias = Parameter(np.empty(out_features, np.float32)) if bias else None
        init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            init.uniform_(self.bias, -bound, bound)

    def forward(self, input: Tensor) -> Tensor:
        """(N, in_features) to (N, out_features)."""
        return F.linear(input, self.weight, self.bias)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"
