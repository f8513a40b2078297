"""The transposed convolution: the loops of `ministn.kernels.conv2d`, with forward and backward changing places."""

from __future__ import annotations

from typing import Any

from ministn.autodiff import Function, Tensor
from ministn.backend import Array, array_module, implementation
from ministn.kernels._checks import check_size, check_tensor, pair, remembered

_CONV2D = "ministn.kernels.conv2d"
Pair = tuple[int, int]
Geometry = tuple[Pair, Pair, Pair]


class ConvTranspose2d(Function):
    """y = A^T x + b, where A is the matrix of a convolution, so dx = A dy; and dw is that of the convolution of y."""

    new_gradients = True

    def __init__(self, geometry: Geometry, size: Pair) -> None:
        self.geometry, self.size = geometry, size  # stride, padding and dilation of the convolution; size of its input

    def forward(self, x: Array, weight: Array, bias: Array | None = None) -> Array:
        self.x, self.weight = x, weight
        xp = array_module(x)
        # Of what the convolution would have read, its gradient for the input asks the shape alone.
        like_y = xp.broadcast_to(xp.empty((), x.dtype), (len(x), weight.shape[1], *self.size))
        y = implementation(_CONV2D, x).backward(x, like_y, weight, *self.geometry, (True, False, False))[0]
        if bias is not None:
            y += bias[:, None, None]
        return y

    def backward(self, grad_output: Array) -> tuple[Array | None, ...]:
        kernels, needs = implementation(_CONV2D, grad_output), self.needs_grad
        grad_x = grad_weight = grad_bias = None
        if needs[0]:
            grad_x = kernels.forward(grad_output, self.weight, None, *self.geometry)
        if needs[1]:
            grad_weight = kernels.backward(self.x, grad_output, self.weight, *self.geometry, (False, True, False))[1]
        if any(needs[2:]):
            grad_bias = grad_output.sum(axis=(0, 2, 3))
        return (grad_x, grad_weight, grad_bias)[: len(needs)]


def conv_transpose2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] = 0,
    output_padding: int | tuple[int, int] = 0,
    dilation: int | tuple[int, int] = 1,
) -> Tensor:
    r"""Paint `weight`, times the value of each pixel of `input`, into a larger image: the gradient of a convolution.

    .. math::
        y_{nopq} = b_o + \sum_{c,i,j,u,v} x_{ncij}\, w_{couv} \quad\text{over}\quad
        i s_h - P_h + u d_h = p, \; j s_w - P_w + v d_w = q

    `conv2d` reads the pixel (p, q) for its output (i, j) under the same condition. So this is the map from the gradient
    of `conv2d`'s output to that of its input: the transpose of its matrix, not its inverse.

    Parameters
    ----------
    input : Tensor, shape (N, C, H, W)
        Images; N may be 0.
    weight : Tensor, shape (C, O, KH, KW)
        That of the convolution from O to C channels.
    bias : Tensor, shape (O,), optional
        Added to every pixel of its output channel.
    stride : int or (int, int)
        Output pixels from one painted filter to the next, s: rows, columns; one integer means both.
    padding : int or (int, int)
        Pixels that are cut off the output on each side, P: those that the convolution would pad.
    output_padding : int or (int, int)
        Rows and columns, fewer than `stride`, that the output has more at its lower and right edge: a convolution with
        a stride gives images of several sizes the same output size, and this says which of them is meant.
    dilation : int or (int, int)
        Output pixels from one tap to the next, d.

    Returns
    -------
    Tensor, shape (N, O, OH, OW)
        OH = (H - 1) s_h - 2 P_h + d_h (KH - 1) + output_padding_h + 1, and OW likewise. Its memory is batch-last on the
        CPU.

    Raises
    ------
    TypeError
        If an argument is no floating-point Tensor, dtypes differ, or one of the four options is no integer.
    ValueError
        If shapes do not fit together, stride or dilation is below 1, padding is negative or leaves nothing of the
        output, or output_padding is not from 0 to stride - 1.

    Notes
    -----
    Convention: like `torch.nn.functional.conv_transpose2d`, which also takes an output_padding from stride to
    dilation - 1. The convolution then has more outputs than `input` has pixels.

    Cost: O C KH KW H W N multiplications, for the output and for each of the gradients of `input` and `weight`.
    Results do not depend on the number of threads.

    References
    ----------
    V. Dumoulin and F. Visin, "A guide to convolution arithmetic for deep learning", 2016, chapter 4.
    """
    check_tensor("conv_transpose2d", "input", input, "N C H W")
    check_tensor("conv_transpose2d", "weight", weight, "C O KH KW")
    geometry, size = _geometry(input.shape[1:], weight.shape, stride, padding, output_padding, dilation)
    if bias is None:
        return ConvTranspose2d.apply(input, weight, geometry=geometry, size=size)
    check_tensor("conv_transpose2d", "bias", bias, "O")
    check_size("conv_transpose2d", "bias", "O", weight.shape[1], bias.shape[0], "the output channels of weight")
    return ConvTranspose2d.apply(input, weight, bias, geometry=geometry, size=size)


@remembered
def _geometry(shape: tuple[int, ...], filters: tuple[int, ...], *options: Any) -> tuple[Geometry, Pair]:
    """Check the shapes of an image and of the weights; return the convolution's geometry, and the output's size."""
    check_size("conv_transpose2d", "weight", "C", shape[0], filters[0], "the channels of input")
    names = ("stride", 1), ("padding", 0), ("output_padding", 0), ("dilation", 1)
    stride, padding, extra, dilation = (
        pair("conv_transpose2d", name, option, minimum) for (name, minimum), option in zip(names, options, strict=True)
    )
    if min(filters) < 1:
        raise ValueError(f"conv_transpose2d: expected a weight (C, O, KH, KW) without empty axes, got {filters}")
    if min(shape[1:]) < 1:
        raise ValueError(f"conv_transpose2d: expected axes H, W of input to be at least 1, got {shape[1:]}")
    if extra[0] >= stride[0] or extra[1] >= stride[1]:
        raise ValueError(f"conv_transpose2d: expected output_padding to be less than stride {stride}, got {extra}")
    rows, columns = (
        (shape[1 + a] - 1) * stride[a] - 2 * padding[a] + dilation[a] * (filters[2 + a] - 1) + extra[a] + 1
        for a in range(2)
    )
    if min(rows, columns) < 1:
        raise ValueError(
            f"conv_transpose2d: expected an output of at least 1 x 1 pixels, got {rows} x {columns} "
            f"after {padding} are cut off on each side"
        )
    return (stride, padding, dilation), (rows, columns)
