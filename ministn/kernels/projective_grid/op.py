"""The differentiable function `projective_grid`."""

from __future__ import annotations

from collections.abc import Sequence

from ministn.autodiff import Function, Tensor
from ministn.backend import Array, implementation
from ministn.kernels._checks import check_size, check_tensor, flag, height_and_width

# Where |w| is smaller, w is this with its sign. In float32 a sum of three products near 1 is known to about this, its
# sign too; in float64 it is the same number, so that both compute the same function.
HORIZON = 1e-6


class ProjectiveGrid(Function):
    new_gradients = True

    def __init__(self, height: int, width: int, align_corners: bool) -> None:
        self.height, self.width, self.align_corners = height, width, align_corners

    def forward(self, theta: Array) -> Array:
        self.theta = theta
        kernels = implementation(__package__, theta)
        return kernels.forward(theta, self.height, self.width, self.align_corners, HORIZON)

    def backward(self, grad_output: Array) -> Array:
        kernels = implementation(__package__, grad_output)
        return kernels.backward(grad_output, self.theta, self.align_corners, HORIZON)


def projective_grid(theta: Tensor, size: Sequence[int], align_corners: bool = False) -> Tensor:
    r"""Where each output pixel looks in the input, for a batch of projective transforms (homographies).

    .. math:: (X, Y, w)^T = \theta \, (x_t, y_t, 1)^T, \qquad (x_s, y_s) = (X / w, Y / w)

    Parameters
    ----------
    theta : Tensor, shape (N, 3, 3)
        One matrix per image. It maps target (output) points to source (input) points. A multiple of it gives the same
        grid; the last row (0, 0, 1) makes it the affine map of the first two rows.
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
        If theta is not a floating-point Tensor (N, 3, 3), or `size` is not four integers that agree with N.

    Notes
    -----
    The horizon: where :math:`|w| < 10^{-6}`, w is replaced by :math:`10^{-6}` with the sign of w (0 counts as
    positive), and no gradient flows through w there. So a finite theta gives finite points and gradients, unless they
    are too large for their type. Points with w < 0 lie behind the horizon; the formula holds for them as it stands.

    A NaN or infinite theta changes its own image's points only.

    Cost: reads theta, writes 2 N H W numbers; backward reads as many, and theta. Results do not depend on the number
    of threads.

    References
    ----------
    Jaderberg et al. 2015, arXiv:1506.02025, section 3.2: "plane projective transformation with 8 parameters".
    """
    check_tensor("projective_grid", "theta", theta, "N 3 3")
    check_size("projective_grid", "theta", "1", 3, theta.shape[1], "rows for X, Y and w")
    check_size("projective_grid", "theta", "2", 3, theta.shape[2], "columns for x, y and 1")
    height, width = height_and_width("projective_grid", size, theta)
    return ProjectiveGrid.apply(
        theta, height=height, width=width, align_corners=flag("projective_grid", "align_corners", align_corners)
    )
