"""Convolution, its transpose, and CoordConv, with two more input channels that say where each pixel is."""

from __future__ import annotations

import math

import numpy as np

from ministn import functional as F
from ministn.autodiff import Tensor
from ministn.kernels._checks import check_size, check_tensor, flag, integer, pair
from ministn.nn import init
from ministn.nn.coordinates import AddCoordinates
from ministn.nn.module import Module, Parameter

Size = int | tuple[int, int]


class _Convolution2d(Module):
    """What a convolution and its transpose share: options, parameters and their first values."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size,
        padding: Size,
        dilation: Size,
        bias: bool,
        transposed: bool = False,
    ) -> None:
        name = type(self).__name__
        self.in_channels = in_channels = integer(name, "in_channels", in_channels, 1)
        self.out_channels = out_channels = integer(name, "out_channels", out_channels, 1)
        bias = flag(name, "bias", bias)
        self.kernel_size = pair(name, "kernel_size", kernel_size, 1)
        self.stride = pair(name, "stride", stride, 1)
        self.padding = pair(name, "padding", padding, 0)
        self.dilation = pair(name, "dilation", dilation, 1)
        shape = (in_channels, out_channels) if transposed else (out_channels, in_channels)
        self.weight = Parameter(np.empty((*shape, *self.kernel_size), np.float32))
        self.bias = Parameter(np.empty(out_channels, np.float32)) if bias else None
        bound = 1 / math.sqrt(init.fans(self.weight)[0])
        init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            init.uniform_(self.bias, -bound, bound)

    def extra_repr(self) -> str:
        text = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"
        text += f", padding={self.padding}" if self.padding != (0, 0) else ""
        text += f", dilation={self.dilation}" if self.dilation != (1, 1) else ""
        return text + (", bias=False" if self.bias is None else "")


class Conv2d(_Convolution2d):
    """A 2-D convolution (strictly a cross-correlation: the kernel is not mirrored); see `ministn.functional.conv2d`.

    Parameters
    ----------
    in_channels, out_channels : int
        Channels of the input and of the output.
    kernel_size : int or (rows, columns)
    stride, padding, dilation : int or (rows, columns)
        Steps between windows, zeros around the image, and distance between the taps of the kernel, in pixels.
    bias : bool, by keyword
        Whether a bias is added to each output channel.

    Attributes
    ----------
    weight : Parameter, shape (out_channels, in_channels, rows, columns)
    bias : Parameter, shape (out_channels,), or None
        Both start uniform on ±1 / sqrt(in_channels rows columns), as in PyTorch.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size = 1,
        padding: Size = 0,
        dilation: Size = 1,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, bias)

    def forward(self, input: Tensor) -> Tensor:
        """(N, in_channels, H, W) to (N, out_channels, H_out, W_out)."""
        return F.conv2d(input, self.weight, self.bias, self.stride, self.padding, self.dilation)


class ConvTranspose2d(_Convolution2d):
    """The transpose of a 2-D convolution, which makes images larger; see `ministn.functional.conv_transpose2d`.

    Parameters
    ----------
    in_channels, out_channels : int
        Channels of the input and of the output.
    kernel_size : int or (rows, columns)
    stride, padding, output_padding : int or (rows, columns)
        Steps between painted kernels, pixels cut off on each side, and rows and columns that are added at the lower and
        right edge, in pixels of the output.
    bias : bool, by keyword
        Whether a bias is added to each output channel.
    dilation : int or (rows, columns), by keyword
        Distance between the taps of the kernel.

    Attributes
    ----------
    weight : Parameter, shape (in_channels, out_channels, rows, columns)
    bias : Parameter, shape (out_channels,), or None
        Both start uniform on ±1 / sqrt(out_channels rows columns), as in PyTorch.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size = 1,
        padding: Size = 0,
        output_padding: Size = 0,
        *,
        bias: bool = True,
        dilation: Size = 1,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, bias, transposed=True)
        self.output_padding = pair("ConvTranspose2d", "output_padding", output_padding, 0)

    def forward(self, input: Tensor) -> Tensor:
        """(N, in_channels, H, W) to (N, out_channels, H_out, W_out)."""
        options = self.stride, self.padding, self.output_padding, self.dilation
        return F.conv_transpose2d(input, self.weight, self.bias, *options)

    def extra_repr(self) -> str:
        text = super().extra_repr()
        return text + (f", output_padding={self.output_padding}" if self.output_padding != (0, 0) else "")


class CoordConv2d(Conv2d):
    """A convolution that sees coordinates: `AddCoordinates`, then `Conv2d`.

    An ordinary convolution answers alike wherever a pattern lies, so it cannot say where. With the weights on the
    coordinate channels at zero this is one; what else it becomes is learnt. Zero padding pads the coordinates too.

    Parameters
    ----------
    in_channels : int
        The image's own channels; the layer adds the coordinates itself.
    out_channels, kernel_size, stride, padding, dilation, bias
        As in `Conv2d`.
    radius : bool, by keyword
        Whether to add the distance from the centre as a third coordinate.

    Attributes
    ----------
    weight : Parameter, shape (out_channels, in_channels + 2 or 3, rows, columns)
        Its input channels are the image's, then x, y and, with ``radius``, r.
    bias : Parameter, shape (out_channels,), or None

    References
    ----------
    Liu et al. (2018), "An intriguing failing of convolutional neural networks and the CoordConv solution",
    arXiv:1807.03247, section 3.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size = 1,
        padding: Size = 0,
        dilation: Size = 1,
        *,
        bias: bool = True,
        radius: bool = False,
    ) -> None:
        in_channels = integer("CoordConv2d", "in_channels", in_channels, 1)
        coordinates = AddCoordinates(radius)
        all_channels = in_channels + coordinates.channels
        super().__init__(all_channels, out_channels, kernel_size, stride, padding, dilation, bias=bias)
        self.in_channels = in_channels
        self.add_coordinates = coordinates

    def forward(self, input: Tensor) -> Tensor:
        """(N, in_channels, H, W) to (N, out_channels, H_out, W_out)."""
        check_tensor("CoordConv2d", "input", input, "N C H W")
        check_size("CoordConv2d", "input", "C", self.in_channels, input.shape[1], "in_channels, the image's own")
        return super().forward(self.add_coordinates(input))
