"""Convolution as the equation says: cut out every window of the padded image, multiply, sum.

The windows are a strided view of the image, and einsum names the axes it sums over. The gradient for the input
scatters: it adds, tap by tap, what each output pixel sends back to the input pixel it read.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

Pair = tuple[int, int]


def forward(
    x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None, stride: Pair, padding: Pair, dilation: Pair
) -> np.ndarray:
    """y[n,o,i,j] = b[o] + sum over c,u,v of w[o,c,u,v] window[n,c,i,j,u,v].

    Parameters
    ----------
    x : ndarray, shape (N, C, H, W)
    weight : ndarray, shape (O, C, KH, KW)
    bias : ndarray, shape (O,), or None
    stride, padding, dilation : (rows, columns)

    Returns
    -------
    ndarray, shape (N, O, OH, OW)
    """
    windows = _windows(_pad(x, padding), weight.shape[2:], stride, dilation)
    y: np.ndarray = np.einsum("ncijuv,ocuv->noij", windows, weight, optimize=True)
    return y if bias is None else y + bias[:, None, None]


def backward(
    grad_output: np.ndarray,
    x: np.ndarray,
    weight: np.ndarray,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    needs_grad: Sequence[bool] = (True, True, True),
) -> tuple[np.ndarray | None, np.ndarray | None, np.ndarray | None]:
    """The gradients for x, weight and bias; None where `needs_grad` (x, weight and, if there is one, bias) says no."""
    grad_x = grad_weight = grad_bias = None
    if needs_grad[0]:
        grad_padded = np.zeros_like(_pad(x, padding))
        receivers = _windows(grad_padded, weight.shape[2:], stride, dilation, writeable=True)
        for u, v in np.ndindex(*weight.shape[2:]):
            receivers[..., u, v] += np.einsum("noij,oc->ncij", grad_output, weight[:, :, u, v], optimize=True)
        grad_x = grad_padded[:, :, padding[0] : padding[0] + x.shape[2], padding[1] : padding[1] + x.shape[3]]
    if needs_grad[1]:
        windows = _windows(_pad(x, padding), weight.shape[2:], stride, dilation)
        grad_weight = np.einsum("noij,ncijuv->ocuv", grad_output, windows, optimize=True)
    if any(needs_grad[2:]):
        grad_bias = grad_output.sum(axis=(0, 2, 3))
    return grad_x, grad_weight, grad_bias


def _pad(x: np.ndarray, padding: Pair) -> np.ndarray:
    return np.pad(x, ((0, 0), (0, 0), (padding[0],) * 2, (padding[1],) * 2))


def _windows(x: np.ndarray, kernel: Sequence[int], stride: Pair, dilation: Pair, writeable: bool = False) -> np.ndarray:
    """The (N, C, OH, OW, KH, KW) view of all windows of `x`; they overlap, so write to one tap (u, v) at a time."""
    reach = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    every = np.lib.stride_tricks.sliding_window_view(x, reach, axis=(2, 3), writeable=writeable)
    return every[:, :, :: stride[0], :: stride[1], :: dilation[0], :: dilation[1]]
