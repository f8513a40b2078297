"""The differentiable function `max_pool2d`."""

from __future__ import annotations

from ministn.autodiff import Function, Tensor
from ministn.backend import Array, implementation
from ministn.kernels._checks import flag
from ministn.kernels._pooling import Pair, Size, check_pooling


class MaxPool2d(Function):
    """y = x at the tap that won its window; the gradient goes back to that tap alone, so only its number is kept."""

    def __init__(self, kernel: Pair, stride: Pair, padding: Pair, output_size: Pair, relu: bool = False) -> None:
        self.geometry, self.output_size, self.relu = (kernel, stride, padding), output_size, relu

    def forward(self, x: Array) -> Array:
        self.image_size = x.shape[2:]
        y, self.taps = implementation(__package__, x).forward(x, *self.geometry, self.output_size, self.relu)
        return y

    def backward(self, grad_output: Array) -> Array:
        kernels = implementation(__package__, grad_output)
        return kernels.backward(grad_output, self.taps, *self.geometry, self.image_size)


def max_pool2d(
    input: Tensor,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    *,
    ceil_mode: bool = False,
    relu: bool = False,
) -> Tensor:
    r"""The largest value of each window of KH x KW pixels.

    .. math:: y_{ncij} = \max_{0 \le u < K_H,\; 0 \le v < K_W} x_{n,\,c,\;i s_h - P_h + u,\;j s_w - P_w + v}

    over the taps (u, v) that fall on the image.

    Parameters
    ----------
    input : Tensor, shape (N, C, H, W)
        Images; N may be 0.
    kernel_size : int or (int, int)
        Pixels of the window: rows KH, columns KW; one integer means both.
    stride : int or (int, int), optional
        Input pixels from one window to the next, s: rows, columns; the kernel size by default.
    padding : int or (int, int)
        Pixels around the image, P, on each side, that never win; at most half of `kernel_size`.
    ceil_mode : bool, by keyword
        Whether to keep a last window that sticks out of the padded image, if it starts inside the image or its
        left (top) padding.
    relu : bool, by keyword
        Whether 0 takes part in every window: ``relu(max_pool2d(x))`` in one pass over memory instead of two.

    Returns
    -------
    Tensor, shape (N, C, OH, OW)
        OH = floor((H + 2 P_h - KH) / s_h) + 1, with ceil instead of floor in `ceil_mode` and one less if the last
        window would start too far out; OW likewise. Its memory is batch-last on the CPU.

    Raises
    ------
    TypeError
        If `input` is no floating-point Tensor, or `kernel_size`, `stride` or `padding` are no integers.
    ValueError
        If `input` has not four axes or an empty one other than N, `kernel_size` or `stride` is below 1, `padding` is
        negative or more than half of `kernel_size`, or no window fits.

    Notes
    -----
    Convention: as in `torch.nn.functional.max_pool2d`. Where several pixels are largest, the first in reading order
    receives the whole gradient. A NaN makes the output NaN, and the last one in the window receives the gradient.

    Cost: KH KW OH OW C N comparisons, forward and backward; one small integer is kept for each output pixel. Results
    do not depend on the number of threads.

    References
    ----------
    M. Ranzato, F. J. Huang, Y. Boureau and Y. LeCun, "Unsupervised learning of invariant feature hierarchies with
    applications to object recognition", CVPR 2007, section 2 (max pooling of a feature map, its position remembered).
    """
    kernel, step, border, size = check_pooling("max_pool2d", input, kernel_size, stride, padding, ceil_mode)
    return MaxPool2d.apply(
        input, kernel=kernel, stride=step, padding=border, output_size=size, relu=flag("max_pool2d", "relu", relu)
    )
