"""The differentiable function `grid_sample`."""

from __future__ import annotations

from ministn.autodiff import Function, Tensor
from ministn.backend import Array, implementation
from ministn.kernels._checks import check_choice, check_size, check_tensor, flag


class GridSample(Function):
    new_gradients = True

    def __init__(self, mode: str, padding_mode: str, align_corners: bool) -> None:
        self.options = mode, padding_mode, align_corners

    def forward(self, input: Array, grid: Array) -> Array:
        self.input, self.grid = input, grid
        return implementation(__package__, input).forward(input, grid, *self.options)

    def backward(self, grad_output: Array) -> tuple[Array | None, Array | None]:
        kernels = implementation(__package__, grad_output)
        return kernels.backward(grad_output, self.input, self.grid, *self.options, self.needs_grad)


def grid_sample(
    input: Tensor,
    grid: Tensor,
    mode: str = "bilinear",
    padding_mode: str = "zeros",
    align_corners: bool = False,
) -> Tensor:
    r"""Look up `input` at the points of `grid`.

    .. math:: V_{ncij} = \sum_h \sum_w U_{nchw} \, k(x_{nij} - w) \, k(y_{nij} - h)

    with (x, y) the point ``grid[n, i, j]`` in pixels and k the interpolation kernel of `mode`.

    Parameters
    ----------
    input : Tensor, shape (N, C, H, W)
    grid : Tensor, shape (N, H_out, W_out, 2)
        Points (x, y) in normalised coordinates: (-1, -1) is the top left of the input, (1, 1) the bottom right.
        In pixels, x is ((grid + 1) W - 1) / 2, or (grid + 1) (W - 1) / 2 with ``align_corners=True``.
    mode : {"bilinear", "nearest", "bicubic"}
        k(d) is max(0, 1 - \|d\|); 1 for the nearest pixel (a half goes to the even one); or Keys' cubic with a = -3/4.
    padding_mode : {"zeros", "border", "reflection"}
        What lies outside the input: 0, the nearest pixel of the border, or the mirror image.
    align_corners : bool
        Whether -1 and +1 are the centres of the outer pixels (True) or their outer edges (False). The mirrors of
        ``"reflection"`` stand there too.

    Returns
    -------
    Tensor, shape (N, C, H_out, W_out)
        Differentiable with respect to `input` and `grid`. The gradient with respect to the grid is 0 for
        ``"nearest"``, and where a point was moved onto the border.

    Raises
    ------
    TypeError, ValueError
        For a wrong number of axes, N that differ, no pixels in the input, or an unknown mode.

    Notes
    -----
    Convention: where k has a kink (bilinear, a point exactly on a pixel), the slope is the right-hand one. Equation (7)
    of the paper, taken literally, gives the pixel's value there, which lies between the slopes only by luck; see the
    README beside this file.

    Values and gradients are those of ``torch.nn.functional.grid_sample``. A NaN in the grid gives NaN in its own output
    pixel where weights depend on it. Where they do not, it is no pixel (nearest with zeros: 0), or it is moved onto the
    first one, with gradient 0 (bilinear and nearest with ``"border"`` or ``"reflection"``).

    Cost: reads T^2 pixels per output pixel and channel, T = 1, 2 or 4. Works in NCHW memory, which the results have.
    Results do not depend on the number of threads; but on a GPU the last bits of the gradient for `input` differ from
    run to run, unless `use_deterministic_kernels` asks for the same ones.

    References
    ----------
    Jaderberg et al. 2015, arXiv:1506.02025, equations (3) to (7). Keys 1981, "Cubic convolution interpolation for
    digital image processing", equation (15), for the cubic kernel.
    """
    check_tensor("grid_sample", "input", input, "N C H W")
    check_tensor("grid_sample", "grid", grid, "N H_out W_out 2")
    check_size("grid_sample", "grid", "3", 2, grid.shape[3], "x and y")
    check_size("grid_sample", "grid", "0", input.shape[0], grid.shape[0], "N of the input")
    if 0 in input.shape[2:]:
        raise ValueError(f"grid_sample: expected an input of at least one pixel, got shape {input.shape}")
    check_choice("grid_sample", "mode", mode, ("bilinear", "nearest", "bicubic"))
    check_choice("grid_sample", "padding_mode", padding_mode, ("zeros", "border", "reflection"))
    return GridSample.apply(
        input,
        grid,
        mode=str(mode),
        padding_mode=str(padding_mode),
        align_corners=flag("grid_sample", "align_corners", align_corners),
    )
