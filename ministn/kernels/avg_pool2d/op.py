"""The differentiable function `avg_pool2d`."""

from __future__ import annotations

from ministn.autodiff import Function, Tensor
from ministn.backend import Array, implementation
from ministn.kernels._checks import flag
from ministn.kernels._pooling import Pair, Size, check_pooling


class AvgPool2d(Function):
    """Y = A X B^T, a fixed linear map, so dX = A^T dY B: nothing of X is kept but its size."""

    def __init__(self, kernel: Pair, stride: Pair, padding: Pair, count_include_pad: bool, output_size: Pair) -> None:
        self.geometry, self.output_size = (kernel, stride, padding, count_include_pad), output_size

    def forward(self, x: Array) -> Array:
        self.image_size = x.shape[2:]
        return implementation(__package__, x).forward(x, *self.geometry, self.output_size)

    def backward(self, grad_output: Array) -> Array:
        return implementation(__package__, grad_output).backward(grad_output, *self.geometry, self.image_size)


def avg_pool2d(
    input: Tensor,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Tensor:
    r"""The mean of each window of KH x KW pixels.

    .. math::
        y_{ncij} = \frac{1}{m_i m_j} \sum_{u = 0}^{K_H - 1} \sum_{v = 0}^{K_W - 1}
        x_{n,\,c,\;i s_h - P_h + u,\;j s_w - P_w + v}

    where x is 0 outside the image and m_i, m_j count the rows and columns of the window, see `count_include_pad`.

    Parameters
    ----------
    input : Tensor, shape (N, C, H, W)
        Images; N may be 0.
    kernel_size : int or (int, int)
        Pixels of the window: rows KH, columns KW; one integer means both.
    stride : int or (int, int), optional
        Input pixels from one window to the next, s: rows, columns; the kernel size by default.
    padding : int or (int, int)
        Pixels of zeros around the image, P, on each side; at most half of `kernel_size`.
    ceil_mode : bool
        Whether to keep a last window that sticks out of the padded image, if it starts inside the image or its
        left (top) padding.
    count_include_pad : bool
        Whether the padding's zeros count in the mean. What sticks out of the padding (`ceil_mode`) never counts.

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
    Convention: as in `torch.nn.functional.avg_pool2d`.

    Cost: (KH W + KW OW) OH C N additions forward, about as many backward; nothing is kept between them. Results do not
    depend on the number of threads.

    References
    ----------
    Y. LeCun, L. Bottou, Y. Bengio and P. Haffner, "Gradient-based learning applied to document recognition",
    Proceedings of the IEEE 86(11), 1998, section II.B (the sub-sampling layers of LeNet-5).
    """
    kernel, step, border, size = check_pooling("avg_pool2d", input, kernel_size, stride, padding, ceil_mode)
    return AvgPool2d.apply(
        input,
        kernel=kernel,
        stride=step,
        padding=border,
        count_include_pad=flag("avg_pool2d", "count_include_pad", count_include_pad),
        output_size=size,
    )
