"""The differentiable function `spatial_transform`."""

from __future__ import annotations

from ministn.autodiff import Function, Tensor
from ministn.backend import Array, implementation
from ministn.kernels._checks import check_size, check_tensor, flag, pair


class SpatialTransform(Function):
    def __init__(self, height: int, width: int, align_corners: bool) -> None:
        self.height, self.width, self.align_corners = height, width, align_corners

    def forward(self, input: Array, theta: Array) -> Array:
        self.input, self.theta = input, theta
        kernels = implementation(__package__, input)
        return kernels.forward(input, theta, self.height, self.width, self.align_corners)

    def backward(self, grad_output: Array) -> tuple[Array | None, Array | None]:
        kernels = implementation(__package__, grad_output)
        return kernels.backward(grad_output, self.input, self.theta, self.align_corners, self.needs_grad)


def spatial_transform(
    input: Tensor,
    theta: Tensor,
    output_size: int | tuple[int, int] | None = None,
    align_corners: bool = False,
) -> Tensor:
    r"""Warp images by affine transforms, with bilinear sampling and zeros outside.

    .. math::
        (x_s, y_s)^T = \theta_n \, (x_t, y_t, 1)^T, \qquad
        x = ((x_s + 1) W - 1) / 2, \quad y = ((y_s + 1) H - 1) / 2

    .. math:: V_{ncij} = \sum_h \sum_w U_{nchw} \max(0, 1 - |x - w|) \max(0, 1 - |y - h|)

    (with ``align_corners=True``, x = (x_s + 1) (W - 1) / 2). The same, values and gradients, as
    ``grid_sample(input, affine_grid(theta, ...))`` in one pass: for small images the grid,
    larger than a one-channel image, is never stored.

    Parameters
    ----------
    input : Tensor, shape (N, C, H, W)
    theta : Tensor, shape (N, 2, 3)
        One matrix per image, from target (output) to source (input) points in normalised coordinates.
    output_size : int or (H_out, W_out), optional
        One integer means both; the input's by default.
    align_corners : bool
        Whether -1 and +1 are the centres of the outer pixels (True) or their outer edges (False).

    Returns
    -------
    Tensor, shape (N, C, H_out, W_out)
        Differentiable with respect to `input` and `theta`.

    Raises
    ------
    TypeError, ValueError
        If input is not (N, C, H, W) with at least one pixel, or theta not (N, 2, 3) with the same N.

    Notes
    -----
    Convention: a sample exactly on a pixel takes the right-hand slope, as in `grid_sample`. A NaN or infinite theta
    gives NaN in its own image's output and never reads outside the input.

    Cost: reads four pixels per output pixel and channel. Works in batch-last memory for 16 images or more of at most
    4096 values each, else in NCHW memory and in two steps, with a grid; on a GPU always in NCHW memory and without a
    grid. Results do not depend on the number of threads; but on a GPU the last bits of the gradient for `input` differ
    from run to run, unless `use_deterministic_kernels` asks for the same ones.

    References
    ----------
    Jaderberg et al. 2015, arXiv:1506.02025, equations (1), (5), (6), (7).
    """
    check_tensor("spatial_transform", "input", input, "N C H W")
    check_tensor("spatial_transform", "theta", theta, "N 2 3")
    check_size("spatial_transform", "theta", "1", 2, theta.shape[1], "rows for x and y")
    check_size("spatial_transform", "theta", "2", 3, theta.shape[2], "columns for x, y and 1")
    check_size("spatial_transform", "theta", "0", input.shape[0], theta.shape[0], "N of the input")
    if 0 in input.shape[2:]:
        raise ValueError(f"spatial_transform: expected an input of at least one pixel, got shape {input.shape}")
    size = input.shape[2:] if output_size is None else output_size
    height, width = pair("spatial_transform", "output_size", size, 1)
    return SpatialTransform.apply(
        input,
        theta,
        height=height,
        width=width,
        align_corners=flag("spatial_transform", "align_corners", align_corners),
    )
