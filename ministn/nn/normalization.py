"""Batch normalisation."""

from __future__ import annotations

import numbers

import numpy as np

from ministn import functional as F
from ministn.autodiff import Tensor
from ministn.kernels._checks import check_size, check_tensor, integer
from ministn.nn.module import Module, Parameter


class _BatchNorm(Module):
    """What `BatchNorm1d` and `BatchNorm2d` share: all but the axes that an input may have."""

    axes: tuple[str, ...]

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float | None = 0.1) -> None:
        name = type(self).__name__
        num_features = integer(name, "num_features", num_features, 1)
        if momentum is not None and not (isinstance(momentum, numbers.Real) and 0 <= momentum <= 1):
            raise ValueError(f"{name}: expected momentum to be from 0 to 1, or None, got {momentum}")
        self.num_features, self.eps, self.momentum = num_features, eps, momentum
        self.weight = Parameter(np.ones(num_features, np.float32))
        self.bias = Parameter(np.zeros(num_features, np.float32))
        self.register_buffer("running_mean", Tensor(np.zeros(num_features, np.float32)))
        self.register_buffer("running_var", Tensor(np.ones(num_features, np.float32)))
        self.register_buffer("num_batches_tracked", Tensor(np.zeros((), np.int64)))

    def forward(self, input: Tensor) -> Tensor:
        """An input with one of `axes` to the same shape."""
        name = type(self).__name__
        axes = next((axes for axes in self.axes if len(axes.split()) == getattr(input, "ndim", None)), self.axes[0])
        check_tensor(name, "input", input, axes)
        check_size(name, "input", "C", self.num_features, input.shape[1], "num_features")
        momentum = 1 / (self.num_batches_tracked.item() + 1) if self.momentum is None else self.momentum
        output = F.batch_norm(
            input,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            training=self.training,
            momentum=momentum,
            eps=self.eps,
        )
        if self.training:
            self.num_batches_tracked.data += 1
        return output

    def extra_repr(self) -> str:
        return f"{self.num_features}, eps={self.eps}, momentum={self.momentum}"


class BatchNorm2d(_BatchNorm):
    r"""Each channel shifted and scaled to mean 0 and variance 1, then scaled by gamma and shifted by beta.

    .. math:: y = \gamma \frac{x - \mu}{\sqrt{\sigma^2 + \epsilon}} + \beta

    In training the mean and the (biased) variance are those of the batch, over N, H and W; in use they are running
    averages, ``running = (1 - momentum) * running + momentum * batch``, of the mean and the unbiased variance.

    Parameters
    ----------
    num_features : int
        C, the number of channels.
    eps : float
        Added to the variance.
    momentum : float or None
        Weight of the newest batch in the running averages, from 0 to 1. None gives all batches so far the same
        weight: in the k-th batch it is 1 / k.

    Attributes
    ----------
    weight, bias : Parameter, shape (C,)
        gamma and beta, 1 and 0 at first.
    running_mean, running_var : Tensor, shape (C,)
        Buffers, 0 and 1 at first.
    num_batches_tracked : Tensor, an integer
        Buffer: how many batches the running averages have seen.

    References
    ----------
    Ioffe and Szegedy (2015), arXiv:1502.03167, algorithms 1 and 2.
    """

    axes = ("N C H W",)


class BatchNorm1d(_BatchNorm):
    """`BatchNorm2d` for the output of dense layers, (N, C), or for sequences, (N, C, L).

    In training the mean and the variance of each channel are those over N, and over L if there is one.

    Parameters
    ----------
    num_features, eps, momentum
        As in `BatchNorm2d`, as are the attributes.
    """

    axes = ("N C", "N C L")
