"""The differentiable function `thin_plate_spline_grid`, and the control points that one mostly gives it."""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np

from ministn.autodiff import Function, Tensor
from ministn.backend import Array, implementation
from ministn.kernels._checks import check_size, check_tensor, flag, height_and_width
from ministn.kernels.thin_plate_spline_grid.spline import ControlPoints

# Of the distance between the two points farthest apart: what is closer is one place to float32.
_NEAREST = 1e-6


class ThinPlateSplineGrid(Function):
    def __init__(self, control_points: ControlPoints, height: int, width: int, align_corners: bool) -> None:
        self.control_points, self.align_corners = control_points, align_corners
        self.height, self.width = height, width

    def forward(self, theta: Array) -> Array:
        kernels = implementation(__package__, theta)
        return kernels.forward(theta, self.control_points, self.height, self.width, self.align_corners)

    def backward(self, grad_output: Array) -> Array:
        kernels = implementation(__package__, grad_output)
        return kernels.backward(grad_output, self.control_points, self.align_corners)


def thin_plate_spline_grid(
    theta: Tensor, control_points: Any, size: Sequence[int], align_corners: bool = False
) -> Tensor:
    r"""Where each output pixel looks in the input, for a batch of thin-plate splines.

    .. math:: f(p) = a_0 + a_1 x + a_2 y + \sum_k w_k \, U(|p - c_k|), \qquad U(r) = r^2 \log r^2

    with the coefficients, two numbers each, for which :math:`f(c_k) = \theta_k` and
    :math:`\sum_k w_k = \sum_k w_k x_k = \sum_k w_k y_k = 0`: of all maps that take the control points there, the one
    that bends least.

    Parameters
    ----------
    theta : Tensor, shape (N, K, 2)
        Where in the source (input) the control points lie, (x, y), for each image. ``theta[n] = control_points`` is
        the identity.
    control_points : array, shape (K, 2)
        Where they lie in the target (output), (x, y), the same for all images: at least three, not all on one line,
        no two at one place. `ministn.kernels.thin_plate_spline_grid.regular_control_points` makes a regular grid of
        them. No gradient flows to them.
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
        If theta is not a floating-point Tensor (N, K, 2), if no spline goes through such control points (the message
        says which are to blame), or if `size` is not four integers that agree with N.

    Notes
    -----
    The grid is B theta, with a matrix B of H W rows and K columns that depends on the control points and on H and W
    only. It is made at the first call, in float64, and kept.

    At the identity the grid has the very bits of `affine_grid`'s. A NaN or infinite theta changes its own image's
    points only.

    Cost: 4 N H W K operations; reads B, which is K H W numbers, once for each image, mostly from a cache; writes
    2 N H W numbers. Backward the same. Results do not depend on the number of threads.

    References
    ----------
    Jaderberg et al. 2015, arXiv:1506.02025, section 3.2. Bookstein 1989, "Principal warps: thin-plate splines and the
    decomposition of deformations".
    """
    name = "thin_plate_spline_grid"
    check_tensor(name, "theta", theta, "N K 2")
    points = checked_control_points(name, control_points)
    check_size(name, "theta", "1", len(points), theta.shape[1], "one for each of control_points")
    check_size(name, "theta", "2", 2, theta.shape[2], "x and y")
    height, width = height_and_width(name, size, theta)
    return ThinPlateSplineGrid.apply(
        theta,
        control_points=points,
        height=height,
        width=width,
        align_corners=flag(name, "align_corners", align_corners),
    )


def regular_control_points(rows: int, columns: int) -> np.ndarray:
    """The points of a regular grid over [-1, 1]^2, with points on its corners and edges.

    Parameters
    ----------
    rows, columns : int
        At least 2.

    Returns
    -------
    numpy.ndarray, float64, shape (rows columns, 2)
        (x, y) of each point; row by row from the top, from left to right. Four by four is what the paper takes.
    """
    if min(operator.index(rows), operator.index(columns)) < 2:
        raise ValueError(f"regular_control_points: expected at least 2 rows and 2 columns, got {rows} and {columns}")
    x, y = np.meshgrid(np.linspace(-1, 1, columns), np.linspace(-1, 1, rows), indexing="xy")
    return np.stack([x.ravel(), y.ravel()], axis=-1)


def checked_control_points(name: str, value: Any) -> ControlPoints:
    """`value` as tuples, if a spline goes through it."""
    if isinstance(value, Tensor):
        raise TypeError(f"{name}: expected control_points to be an array (K, 2), which no gradient reaches; got Tensor")
    try:
        array = np.asarray(value, np.float64)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name}: expected control_points to be an array (K, 2) of numbers, got: {error}") from None
    if array.ndim != 2 or array.shape[1] != 2:
        raise ValueError(f"{name}: expected control_points of shape (K, 2), got {array.shape}")
    points = tuple((x, y) for x, y in array.tolist())
    _check_control_points(name, points)
    return points


@functools.lru_cache(maxsize=64)  # a layer has the same ones at every step
def _check_control_points(name: str, control_points: ControlPoints) -> None:
    """ValueError unless the system of the spline can be solved."""

    def named(*indices: int) -> str:
        return " and ".join(f"point {k} at ({control_points[k][0]:g}, {control_points[k][1]:g})" for k in indices)

    points = np.array(control_points).reshape(-1, 2)
    if len(points) < 3:
        raise ValueError(f"{name}: expected at least 3 control_points, got {len(points)}")
    if not np.isfinite(points).all():
        wrong = int(np.argmin(np.isfinite(points).all(axis=1)))
        raise ValueError(f"{name}: expected finite control_points, got {named(wrong)}")
    distances = np.hypot(*(points[:, None] - points).transpose(2, 0, 1))
    first, second = (int(k) for k in np.unravel_index(np.argmax(distances), distances.shape))
    farthest = distances[first, second]
    same = np.argwhere(np.triu(distances <= _NEAREST * farthest, k=1))
    if len(same):
        raise ValueError(f"{name}: expected control_points at different places, got {named(*same[0])}")
    along = (points[second] - points[first]) / farthest
    from_line = (points - points[first]) @ np.array([-along[1], along[0]])
    if np.abs(from_line).max() <= _NEAREST * farthest:
        raise ValueError(
            f"{name}: expected control_points that do not all lie on one line, got {len(points)} on the line through "
            f"{named(first, second)}"
        )
