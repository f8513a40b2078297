"""Dropout layers: random zeros in training, nothing in use."""

from __future__ import annotations

import numbers

from ministn import functional as F
from ministn.autodiff import Tensor
from ministn.nn.module import Module


class Dropout(Module):
    """In training, set each element to zero with probability `p` and divide the others by 1 - p.

    Parameters
    ----------
    p : float
        0 <= p <= 1; with 1 nothing is left.

    References
    ----------
    Srivastava et al. (2014), "Dropout: a simple way to prevent neural networks from overfitting", section 4.
    """

    def __init__(self, p: float = 0.5) -> None:
        if not isinstance(p, numbers.Real) or not 0 <= p <= 1:
            raise ValueError(f"{type(self).__name__}: expected a probability 0 <= p <= 1, got {p}")
        self.p: float = p

    def forward(self, input: Tensor) -> Tensor:
        """Any shape to the same shape."""
        return F.dropout(input, self.p, self.training)

    def extra_repr(self) -> str:
        return f"p={self.p}"


class Dropout2d(Dropout):
    """In training, set whole channels of an image to zero with probability `p` and divide the others by 1 - p.

    References
    ----------
    Tompson et al. (2015), "Efficient object localization using convolutional networks", section 3.2.
    """

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, H, W) to the same shape."""
        return F.dropout2d(input, self.p, self.training)
