"""The differentiable function `conv2d`."""

from __future__ import annotations

from ministn.autodiff import Function, Tensor
from ministn.backend import Array, implementation
from ministn.kernels._checks import check_size, check_tensor, pair
from ministn.kernels.conv2d._shape import output_size


class Conv2d(Function):
    """Y = W * X + b with * the convolution: linear in X, W and b, so each gradient is the adjoint of a linear map."""

    def __init__(self, stride: tuple[int, int], padding: tuple[int, int], dilation: tuple[int, int]) -> None:
        self.geometry = (stride, padding, dilation)

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
    check_size("conv2d", "weight", "C", input.shape[1], weight.shape[1], "the channels of input")
    steps = pair("conv2d", "stride", stride, minimum=1)
    border = pair("conv2d", "padding", padding, minimum=0)
    spread = pair("conv2d", "dilation", dilation, minimum=1)
    if min(weight.shape) < 1:
        raise ValueError(f"conv2d: expected a weight (O, C, KH, KW) without empty axes, got {weight.shape}")
    if min(output_size(input.shape[2:], weight.shape[2:], steps, border, spread)) < 1:
        reach = tuple(d * (k - 1) + 1 for d, k in zip(spread, weight.shape[2:], strict=True))
        padded = tuple(size + 2 * b for size, b in zip(input.shape[2:], border, strict=True))
        raise ValueError(f"conv2d: expected axes H, W of the padded input to be at least {reach}, got {padded}")
    inputs = [input, weight]
    if bias is not None:
        check_tensor("conv2d", "bias", bias, "O")
        check_size("conv2d", "bias", "O", weight.shape[0], bias.shape[0], "the output channels of weight")
        inputs.append(bias)
    return Conv2d.apply(*inputs, stride=steps, padding=border, dilation=spread)
