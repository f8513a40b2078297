"""The formulas of `reference` as loops. Arrays are (A, C, B), the numbers of a channel in A runs of B: for NCHW memory
A = N and B = H W, for batch-last memory A = 1 and B = H W N. One parallel iteration is one channel. Sums are float64.
"""

import numpy as np

from ministn.kernels._layout import batch_last, from_batch_last, is_batch_last
from ministn.kernels.compiled import compiled, parallel_for


def forward(x, gamma, beta, eps):
    """As `reference.forward`, in the memory order of `x`."""
    runs = _runs(x, is_batch_last(x))
    y, statistics = np.empty_like(runs), np.empty((3, gamma.size), x.dtype)
    _forward(gamma.size, runs, y, statistics, np.ascontiguousarray(gamma), np.ascontiguousarray(beta), eps)
    return _image(y, x), *statistics


def backward(grad_output, x, gamma, mean, inverse_std):
    """As `reference.backward`, in the memory order of `x`."""
    runs, g = _runs(x, is_batch_last(x)), _runs(grad_output, is_batch_last(x))
    dx, sums = np.empty_like(runs), np.empty((2, gamma.size), x.dtype)
    _backward(gamma.size, g, runs, dx, sums, np.ascontiguousarray(gamma), mean, inverse_std)
    return _image(dx, x), *sums


def _runs(x, as_batch_last):
    """`x` as (A, C, B); a copy if its memory is neither NCHW nor batch-last, or not the one that is asked for."""
    if as_batch_last:
        return batch_last(x).reshape(1, x.shape[1], -1)
    return np.ascontiguousarray(x).reshape(*x.shape[:2], -1)


def _image(runs, x):
    """(A, C, B) in the shape and memory order of `x`."""
    return from_batch_last(runs.reshape(*x.shape[1:], len(x))) if is_batch_last(x) else runs.reshape(x.shape)


@compiled
def _forward(channels, *arguments):
    parallel_for(_standardise, channels, arguments)


@compiled
def _standardise(c, x, y, statistics, gamma, beta, eps):
    """y[c] = gamma[c] x_hat + beta[c] where x_hat = (x[c] - mean) / sqrt(variance + eps)"""
    count, number = x.shape[0] * x.shape[2], x.dtype.type
    mean = _sum(x, c) / count
    variance = _sum_of_squares(x, c, number(mean)) / count
    statistics[0, c], statistics[1, c], statistics[2, c] = mean, variance, 1 / np.sqrt(variance + eps)
    centre, scale = statistics[0, c], gamma[c] * statistics[2, c]
    for a in range(x.shape[0]):
        for b in range(x.shape[2]):
            y[a, c, b] = scale * (x[a, c, b] - centre) + beta[c]


@compiled(fastmath={"reassoc"})
def _sum(x, c):
    total = 0.0
    for a in range(x.shape[0]):
        for b in range(x.shape[2]):
            total += x[a, c, b]
    return total


@compiled(fastmath={"reassoc"})
def _sum_of_squares(x, c, centre):
    total = 0.0
    for a in range(x.shape[0]):
        for b in range(x.shape[2]):
            total += np.float64(x[a, c, b] - centre) * np.float64(x[a, c, b] - centre)
    return total


@compiled
def _backward(channels, *arguments):
    parallel_for(_channel_gradients, channels, arguments)


@compiled
def _channel_gradients(c, g, x, dx, sums, gamma, mean, inverse_std):
    """dx[c] = gamma inverse_std (g[c] - mean of g[c] - x_hat (mean of x_hat g[c]))"""
    count, number = x.shape[0] * x.shape[2], x.dtype.type
    grad_beta, grad_gamma = _sums(g, x, c, mean[c], inverse_std[c])
    sums[0, c], sums[1, c] = grad_gamma, grad_beta
    scale, shift, slope = gamma[c] * inverse_std[c], number(grad_beta / count), number(grad_gamma / count)
    for a in range(x.shape[0]):
        for b in range(x.shape[2]):
            x_hat = (x[a, c, b] - mean[c]) * inverse_std[c]
            dx[a, c, b] = scale * (g[a, c, b] - shift - x_hat * slope)


@compiled(fastmath={"reassoc"})
def _sums(g, x, c, mean, inverse_std):
    """The sums of g and of x_hat g."""
    plain = product = 0.0
    for a in range(x.shape[0]):
        for b in range(x.shape[2]):
            plain += g[a, c, b]
            product += np.float64(g[a, c, b]) * np.float64((x[a, c, b] - mean) * inverse_std)
    return plain, product
