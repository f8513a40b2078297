"""The formulas as whole-array expressions."""

from __future__ import annotations

from ministn.backend import Array, array_module


def forward(x: Array, gamma: Array, beta: Array, eps: float) -> tuple[Array, Array, Array, Array]:
    """y = gamma x_hat + beta with x_hat = (x - mean) inverse_std, 1 / inverse_std^2 = variance + eps.

    Parameters
    ----------
    x : array, shape (N, C, ...)
    gamma, beta : array, shape (C,)
    eps : float

    Returns
    -------
    y : array, shape (N, C, ...)
    mean, variance, inverse_std : array, shape (C,)
    """
    axes = (0, *range(2, x.ndim))
    mean = x.mean(axis=axes)
    centred = x - _along(x, mean)
    variance = (centred * centred).mean(axis=axes)
    inverse_std = 1 / array_module(x).sqrt(variance + x.dtype.type(eps))
    return centred * _along(x, inverse_std) * _along(x, gamma) + _along(x, beta), mean, variance, inverse_std


def backward(grad_output: Array, x: Array, gamma: Array, mean: Array, inverse_std: Array) -> tuple[Array, Array, Array]:
    """dx, dgamma and dbeta."""
    axes, count = (0, *range(2, x.ndim)), x.size // gamma.size
    x_hat = (x - _along(x, mean)) * _along(x, inverse_std)
    grad_beta, grad_gamma = grad_output.sum(axis=axes), (grad_output * x_hat).sum(axis=axes)
    centred = grad_output - _along(x, grad_beta / count) - x_hat * _along(x, grad_gamma / count)
    return _along(x, gamma * inverse_std) * centred, grad_gamma, grad_beta


def _along(x: Array, channels: Array) -> Array:
    """One number for each channel, to be combined with `x`."""
    return channels.reshape(1, -1, *(1,) * (x.ndim - 2))
