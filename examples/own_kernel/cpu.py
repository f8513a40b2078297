"""Soft thresholding, the loops. One parallel iteration owns one channel of all images, and its threshold: no races."""

import numpy as np

from ministn.kernels.compiled import compiled, parallel_for


def forward(x, threshold):
    y = np.empty(x.shape, x.dtype)
    _forward(x.shape[1], y, np.ascontiguousarray(x), threshold)
    return y


def backward(grad_output, x, threshold):
    grad_x, grad_threshold = np.empty(x.shape, x.dtype), np.empty_like(threshold)
    arrays = np.ascontiguousarray(grad_output), np.ascontiguousarray(x)
    _backward(x.shape[1], grad_x, grad_threshold, *arrays, threshold)
    return grad_x, grad_threshold


@compiled
def _forward(channels, *arguments):
    parallel_for(_forward_channel, channels, arguments)


@compiled
def _forward_channel(c, y, x, threshold):
    N, _, H, W = x.shape
    lam = threshold[c]
    for n in range(N):
        for h in range(H):
            for w in range(W):
                value = x[n, c, h, w]
                y[n, c, h, w] = value - lam if value > lam else (value + lam if value < -lam else 0)


@compiled
def _backward(channels, *arguments):
    parallel_for(_backward_channel, channels, arguments)


@compiled
def _backward_channel(c, grad_x, grad_threshold, g, x, threshold):
    N, _, H, W = x.shape
    lam = threshold[c]
    total = g.dtype.type(0)
    for n in range(N):
        for h in range(H):
            for w in range(W):
                value, pull = x[n, c, h, w], g[n, c, h, w]
                if value > lam:
                    grad_x[n, c, h, w] = pull
                    total -= pull
                elif value < -lam:
                    grad_x[n, c, h, w] = pull
                    total += pull
                else:
                    grad_x[n, c, h, w] = 0
    grad_threshold[c] = total
