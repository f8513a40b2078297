"""Batch normalisation (Ioffe and Szegedy 2015, arXiv:1502.03167)."""

from __future__ import annotations

from ministn.autodiff import Function, Tensor
from ministn.backend import Array, array_module
from ministn.ops.arithmetic import add


class BatchNorm(Function):
    r"""Each channel shifted and scaled to mean 0 and variance 1 over the batch, then scaled by gamma, shifted by beta.

    With :math:`\hat x = (x - \mu) / \sqrt{\sigma^2 + \epsilon}` over the m values of a channel and
    :math:`y = \gamma \hat x + \beta`, the mean and the variance depend on every x, hence

    .. math::
        dx = \frac{\gamma}{\sqrt{\sigma^2 + \epsilon}} (dy - \mathrm{mean}(dy) - \hat x\, \mathrm{mean}(dy\, \hat x))
    """

    def __init__(self, axes: tuple[int, ...], eps: float) -> None:
        self.axes, self.eps = axes, eps

    def forward(self, x: Array, gamma: Array, beta: Array) -> Array:
        self.broadcast = tuple(1 if axis in self.axes else n for axis, n in enumerate(x.shape))
        self.mean = x.mean(axis=self.axes)
        centred = x - self.mean.reshape(self.broadcast)
        self.variance = (centred * centred).mean(axis=self.axes)
        self.inverse_std = 1 / array_module(x).sqrt(self.variance + x.dtype.type(self.eps))
        self.x_hat = centred * self.inverse_std.reshape(self.broadcast)
        self.gamma = gamma
        return self.x_hat * gamma.reshape(self.broadcast) + beta.reshape(self.broadcast)

    def backward(self, grad_output: Array) -> tuple[Array, Array, Array]:
        count = grad_output.size // self.gamma.size
        grad_beta = grad_output.sum(axis=self.axes)
        grad_gamma = (grad_output * self.x_hat).sum(axis=self.axes)
        mean, mean_x_hat = ((sums / count).reshape(self.broadcast) for sums in (grad_beta, grad_gamma))
        scale = (self.gamma * self.inverse_std).reshape(self.broadcast)
        return scale * (grad_output - mean - self.x_hat * mean_x_hat), grad_gamma, grad_beta


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
    if input.ndim < 2 or any(t.shape != input.shape[1:2] for t in (running_mean, running_var, weight, bias)):
        raise ValueError(
            f"batch_norm: expected input (N, C, ...) and four tensors of shape (C,), got {input.shape}, "
            f"{running_mean.shape}, {running_var.shape}, {weight.shape} and {bias.shape}"
        )
    if momentum is None or not 0 <= momentum <= 1:
        raise ValueError(f"batch_norm: expected momentum to be a number from 0 to 1, got {momentum}")
    if not training:
        shape = (1, -1, *(1,) * (input.ndim - 2))
        inverse_std = 1 / array_module(input.data).sqrt(running_var.data + input.dtype.type(eps))
        scale = weight * Tensor(inverse_std)
        shift = bias - Tensor(running_mean.data) * scale
        return add(input * scale.reshape(shape), shift.reshape(shape))
    count = input.numel() // max(input.shape[1], 1)
    if count < 2:
        raise ValueError(f"batch_norm: expected more than one value per channel in training, got shape {input.shape}")
    function = BatchNorm(axes=(0, *range(2, input.ndim)), eps=eps)
    output = function(input, weight, bias)
    unbiased = function.variance * (count / (count - 1))
    running_mean.data += input.dtype.type(momentum) * (function.mean - running_mean.data)
    running_var.data += input.dtype.type(momentum) * (unbiased - running_var.data)
    return output
