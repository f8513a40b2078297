"""Pooling: each window of the image becomes one pixel."""

from __future__ import annotations

from ministn import functional as F
from ministn.autodiff import Tensor
from ministn.kernels._checks import flag, pair
from ministn.nn.module import Module

Size = int | tuple[int, int]


class _Pool2d(Module):
    def __init__(self, kernel_size: Size, stride: Size | None, padding: Size, ceil_mode: bool) -> None:
        name = type(self).__name__
        self.kernel_size = pair(name, "kernel_size", kernel_size, 1)
        self.stride = self.kernel_size if stride is None else pair(name, "stride", stride, 1)
        self.padding = pair(name, "padding", padding, 0)
        self.ceil_mode = flag(name, "ceil_mode", ceil_mode)

    def extra_repr(self) -> str:
        return (
            f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}, ceil_mode={self.ceil_mode}"
        )


class MaxPool2d(_Pool2d):
    """The largest value of each window; see `ministn.functional.max_pool2d`.

    Parameters
    ----------
    kernel_size : int or (rows, columns)
        Of the window, in pixels.
    stride : int or (rows, columns), optional
        From one window to the next; the kernel size by default.
    padding : int or (rows, columns)
        Pixels of -infinity around the image.
    ceil_mode : bool, by keyword
        Whether to keep a last window that only partly covers the image.
    """

    def __init__(
        self, kernel_size: Size, stride: Size | None = None, padding: Size = 0, *, ceil_mode: bool = False
    ) -> None:
        super().__init__(kernel_size, stride, padding, ceil_mode)

    def forward(self, input: Tensor, relu: bool = False) -> Tensor:
        """(N, C, H, W) to (N, C, H_out, W_out); with `relu`, max(., 0) of that."""
        options = {"ceil_mode": self.ceil_mode, "relu": relu}
        return F.max_pool2d(input, self.kernel_size, self.stride, self.padding, **options)


class AvgPool2d(_Pool2d):
    """The mean of each window; see `ministn.functional.avg_pool2d`.

    Parameters
    ----------
    kernel_size, stride, padding, ceil_mode
        As in `MaxPool2d`, but the padding is zeros.
    count_include_pad : bool
        Whether the padding's zeros count in the mean.
    """

    def __init__(
        self,
        kernel_size: Size,
        stride: Size | None = None,
        padding: Size = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
    ) -> None:
        super().__init__(kernel_size, stride, padding, ceil_mode)
        self.count_include_pad = count_include_pad

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C, H_out, W_out)."""
        return F.avg_pool2d(
            input,
            self.kernel_size,
            self.stride,
            self.padding,
            ceil_mode=self.ceil_mode,
            count_include_pad=self.count_include_pad,
        )
