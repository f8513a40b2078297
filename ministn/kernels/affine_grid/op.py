"""The differentiable function `affine_grid`."""

from __future__ import annotations

from collections.abc import Sequence

from ministn.autodiff import Function, Tensor
from ministn.backend import Array, implementation
from ministn.kernels._checks import check_size, check_tensor, flag, height_and_width


class AffineGrid(Function):
    def __init__(self, height: int, width: int, align_corners: bool) -> None:
        self.height, self.width, self.align_corners = height, width, align_corners

    def forward(self, theta: Array) -> Array:
        return implementation(__package__, theta).forward(theta, self.height, self.width, self.align_corners)

    def backward(self, grad_output: Array) -> Array:
        return implementation(__package__, grad_output).backward(grad_output, self.align_corners)


def affine_grid(theta: Tensor, size: Sequence[int], align_corners: bool = False) -> Tensor:
    r"""Where each output pixel looks in the input, for a batch of affine transforms.

    .. math:: (x_s, y_s)^T = \theta \, (x_t, y_t, 1)^T

    Parameters
    ----------
    theta : Tensor, shape (N, 2, 3)
        One matrix per image. It maps target (output) points to source (input) points: to *enlarge* the picture
        twice, theta *halves* the coordinates.
    size : sequence of four integers (N, C, H, W)
        The size of the output image; C plays no role.
    align_corners : bool
        Whether -1 and +1 are the centres of the outer pixels (True) or their outer edges (False). Use the same
        value for `grid_sample`.

    Returns
    -------
    Tensor, shape (N, H, W, 2)
        The source point (x, y) of each output pixel, in normalised coordinates: (-1, -1) is the top left of the
        input, (1, 1) the bottom right; x comes first and runs along the width.

    Raises
    ------
    TypeError, ValueError
        If theta is not a floating-point Tensor (N, 2, 3), or `size` is not four integers that agree with N.

    Notes
    -----
    Cost: reads theta, writes 2 N H W numbers; backward reads as many. Results do not depend on the number of
    threads.

    References
    ----------
    Jaderberg et al. 2015, arXiv:1506.02025, equation (1).
    """
    check_tensor("affine_grid", "theta", theta, "N 2 3")
    check_size("affine_grid", "theta", "1", 2, theta.shape[1], "rows for x and y")
    check_size("affine_grid", "theta", "2", 3, theta.shape[2], "columns for x, y and 1")
    height, width = height_and_width("affine_grid", size, theta)
    return AffineGrid.apply(
        theta, height=height, width=width, align_corners=flag("affine_grid", "align_corners", align_corners)
    )
