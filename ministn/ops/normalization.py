"""Batch normalisation (Ioffe and Szegedy 2015, arXiv:1502.03167)."""

from __future__ import annotations

import math
import numbers

from ministn.autodiff import Function, Tensor
from ministn.backend import Array, array_module, implementation
from ministn.kernels._checks import check_is_tensor, flag
from ministn.ops.arithmetic import add


class BatchNorm(Function):
    r"""Each channel shifted and scaled to mean 0 and variance 1 over the batch, then scaled by gamma, shifted by beta.

    With :math:`\hat x = (x - \mu) / \sqrt{\sigma^2 + \epsilon}` over the m values of a channel and
    :math:`y = \gamma \hat x + \beta`, the mean and the variance depend on every x, hence

    .. math::
        dx = \frac{\gamma}{\sqrt{\sigma^2 + \epsilon}} (dy - \mathrm{mean}(dy) - \hat x\, \mathrm{mean}(dy\, \hat x))
    """

    def __init__(self, eps: float) -> None:
        self.eps = eps

    def forward(self, x: Array, gamma: Array, beta: Array) -> Array:
        self.x, self.gamma = x, gamma
        loops = implementation("ministn.ops.standardise", x)
        y, self.mean, self.variance, self.inverse_std = loops.forward(x, gamma, beta, self.eps)
        return y

    def backward(self, grad_output: Array) -> tuple[Array, Array, Array]:
        loops = implementation("ministn.ops.standardise", grad_output)
        return loops.backward(grad_output, self.x, self.gamma, self.mean, self.inverse_std)


def batch_norm(
    input: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    weight: Tensor,
    bias: Tensor,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Normalise each channel (axis 1) of `input`, then scale by `weight` and shift by `bias`.

    Parameters
    ----------
    input : Tensor, shape (N, C, ...)
    running_mean, running_var : Tensor, shape (C,)
        With ``training=True`` moved towards the batch's mean and unbiased variance, in place; otherwise used.
    weight, bias : Tensor, shape (C,)
        gamma and beta.
    training : bool
        Whether to use the batch's own mean and (biased) variance.
    momentum : float
        ``running = (1 - momentum) * running + momentum * batch``; from 0 to 1.
    eps : float
        Added to the variance.
    """
    given = {"input": input, "running_mean": running_mean, "running_var": running_var, "weight": weight, "bias": bias}
    for argument, tensor in given.items():
        check_is_tensor("batch_norm", argument, tensor)
        if tensor.dtype.kind != "f":
            raise TypeError(f"batch_norm: expected {argument} to be float32 or float64, got {tensor.dtype}")
    if input.ndim < 2 or any(t.shape != input.shape[1:2] for t in (running_mean, running_var, weight, bias)):
        raise ValueError(
            f"batch_norm: expected input (N, C, ...) and four tensors of shape (C,), got {input.shape}, "
            f"{running_mean.shape}, {running_var.shape}, {weight.shape} and {bias.shape}"
        )
    if not isinstance(momentum, numbers.Real) or not 0 <= momentum <= 1:
        raise ValueError(f"batch_norm: expected momentum to be a number from 0 to 1, got {momentum}")
    if not isinstance(eps, numbers.Real) or not 0 <= eps < math.inf:
        raise ValueError(f"batch_norm: expected eps to be a finite number, at least 0, got {eps!r}")
    if not flag("batch_norm", "training", training):
        shape = (1, -1, *(1,) * (input.ndim - 2))
        inverse_std = 1 / array_module(input.data).sqrt(running_var.data + input.dtype.type(eps))
        scale = weight * Tensor(inverse_std)
        shift = bias - Tensor(running_mean.data) * scale
        return add(input * scale.reshape(shape), shift.reshape(shape))
    count = input.numel() // max(input.shape[1], 1)
    if count < 2:
        raise ValueError(f"batch_norm: expected more than one value per channel in training, got shape {input.shape}")
    function = BatchNorm(eps)
    output = function(input, weight, bias)
    unbiased = function.variance * (count / (count - 1))
    for running, batch in ((running_mean, function.mean), (running_var, unbiased)):
        running.data *= 1 - momentum
        running.data += momentum * batch
    return output
