"""The differentiable function `conv2d`."""

from __future__ import annotations

from typing import Any

from ministn.autodiff import Function, Tensor
from ministn.backend import Array, implementation
from ministn.kernels._checks import check_size, check_tensor, pair, remembered
from ministn.kernels.conv2d._shape import Pair, output_size

Geometry = tuple[Pair, Pair, Pair]


class Conv2d(Function):
    """Y = W * X + b with * the convolution: linear in X, W and b, so each gradient is the adjoint of a linear map."""

    new_gradients = True

    def __init__(self, geometry: Geometry) -> None:
        self.geometry = geometry  # stride, padding and dilation

    def forward(self, x: Array, weight: Array, bias: Array | None = None) -> Array:
        self.x, self.weight = x, weight
        return implementation(__package__, x).forward(x, weight, bias, *self.geometry)

    def backward(self, grad_output: Array) -> tuple[Array | None, ...]:
        kernels = implementation(__package__, grad_output)
        gradients = kernels.backward(grad_output, self.x, self.weight, *self.geometry, self.needs_grad)
        return gradients[: len(self.needs_grad)]  # two without a bias, else three


def conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] = 0,
    dilation: int | tuple[int, int] = 1,
) -> Tensor:
    r"""Slide `weight` over the images of `input`; every output pixel is a weighted sum of one window.

    .. math::
        y_{noij} = b_o + \sum_{c,u,v} w_{ocuv}\, x_{n,\,c,\;i s_h - P_h + u d_h,\;j s_w - P_w + v d_w}

    Parameters
    ----------
    input : Tensor, shape (N, C, H, W)
        Images; N may be 0.
    weight : Tensor, shape (O, C, KH, KW)
        One filter of KH x KW taps for each pair of output channel and input channel.
    bias : Tensor, shape (O,), optional
        Added to every pixel of its output channel.
    stride : int or (int, int)
        Input pixels from one window to the next, s: rows, columns; one integer means both.
    padding : int or (int, int)
        Pixels of zeros around the image, P, on each side.
    dilation : int or (int, int)
        Input pixels from one tap to the next, d.

    Returns
    -------
    Tensor, shape (N, O, OH, OW)
        OH = floor((H + 2 P_h - d_h (KH - 1) - 1) / s_h) + 1, and OW likewise. Its memory is batch-last on the CPU.

    Raises
    ------
    TypeError
        If an argument is no floating-point Tensor, dtypes differ, or stride, padding or dilation are no integers.
    ValueError
        If shapes do not fit together, stride or dilation is below 1, padding is negative, or the filter is larger
        than the padded image.

    Notes
    -----
    Convention: like `torch.nn.functional.conv2d`, a correlation: the filter is not mirrored.

    Cost: O C KH KW OH OW N multiplications, for the output and for each of the gradients of `input` and `weight`.
    Results do not depend on the number of threads.

    References
    ----------
    V. Dumoulin and F. Visin, "A guide to convolution arithmetic for deep learning", 2016, relationship 15
    (output size) and chapter 4 (the gradient for the input as a transposed convolution).
    """
    check_tensor("conv2d", "input", input, "N C H W")
    check_tensor("conv2d", "weight", weight, "O C KH KW")
    geometry = _geometry(input.shape[1:], weight.shape, stride, padding, dilation)
    if bias is None:
        return Conv2d.apply(input, weight, geometry=geometry)
    check_tensor("conv2d", "bias", bias, "O")
    check_size("conv2d", "bias", "O", weight.shape[0], bias.shape[0], "the output channels of weight")
    return Conv2d.apply(input, weight, bias, geometry=geometry)


@remembered
def _geometry(shape: tuple[int, ...], filters: tuple[int, ...], *options: Any) -> Geometry:
    """Check the shapes of an image and of the weights; return stride, padding and dilation as pairs."""
    check_size("conv2d", "weight", "C", shape[0], filters[1], "the channels of input")
    names = ("stride", 1), ("padding", 0), ("dilation", 1)
    steps, border, spread = (
        pair("conv2d", name, option, minimum) for (name, minimum), option in zip(names, options, strict=True)
    )
    if min(filters) < 1:
        raise ValueError(f"conv2d: expected a weight (O, C, KH, KW) without empty axes, got {filters}")
    if min(shape[1:]) < 1:
        raise ValueError(f"conv2d: expected axes H, W of input to be at least 1, got {shape[1:]}")
    if min(output_size(shape[1:], filters[2:], steps, border, spread)) < 1:
        reach = tuple(d * (k - 1) + 1 for d, k in zip(spread, filters[2:], strict=True))
        padded = tuple(size + 2 * b for size, b in zip(shape[1:], border, strict=True))
        raise ValueError(f"conv2d: expected axes H, W of the padded input to be at least {reach}, got {padded}")
    return steps, border, spread
