"""One pixel of a warped image: what it reads, and what it pulls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ministn import functional as F
from ministn.autodiff import Tensor
from ministn.kernels._coordinates import to_pixels
from ministn.viz.pictures import BLUE, GRID_COLOUR, TOP_COLOUR, VERMILION, _figure, _note, _show, _title

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class PixelGradients:
    """One pixel V of a warped image and its derivatives.

    Attributes
    ----------
    output : float64 array, shape (H_out, W_out)
        The whole warped image.
    points : float64 array, shape (H_out, W_out, 2)
        Where its pixels read: (x, y) in pixels of the input.
    value : float
        V.
    point : float64 array, shape (2,)
        Where V reads.
    weights : float64 array, shape (H, W)
        dV / d input: equation (6) of the paper.
    slope : float64 array, shape (2,)
        dV / d(x, y), per pixel of the input: equation (7).
    theta : float64 array, shape (2, 3)
        dV / d theta.
    """

    output: np.ndarray
    points: np.ndarray
    value: float
    point: np.ndarray
    weights: np.ndarray
    slope: np.ndarray
    theta: np.ndarray


def pixel_gradients(
    image: np.ndarray,
    theta: np.ndarray,
    pixel: tuple[int, int],
    output_size: Sequence[int] | None = None,
    align_corners: bool = False,
) -> PixelGradients:
    """Warp an image by bilinear sampling, and go back from one pixel of the output: ministn's own backward pass.

    Parameters
    ----------
    image : float array, shape (H, W)
    theta : float array, shape (2, 3)
        Target to source, in normalised coordinates.
    pixel : (int, int)
        Row and column of the output.
    output_size : (int, int), optional
        (H_out, W_out), the input's by default.
    align_corners : bool
        As that of the sampler.

    Raises
    ------
    ValueError
        If `image` or `theta` has another shape, or the output has no such pixel.
    """
    image, theta = np.asarray(image, np.float64), np.asarray(theta, np.float64)
    if image.ndim != 2 or theta.shape != (2, 3):
        raise ValueError(f"pixel_gradients: expected image (H, W) and theta (2, 3), got {image.shape}, {theta.shape}")
    size = tuple(output_size or image.shape)
    if not all(0 <= index < length for index, length in zip(pixel, size, strict=True)):
        raise ValueError(f"pixel_gradients: expected a pixel (row, column) of an output of {size}, got {pixel}")
    source = Tensor(image[None, None], requires_grad=True)
    matrix = Tensor(theta[None], requires_grad=True)
    grid = F.affine_grid(matrix, (1, 1, *size), align_corners)
    grid.retain_grad()
    output = F.grid_sample(source, grid, align_corners=align_corners)
    output[0, 0, pixel[0], pixel[1]].backward()
    gradients = [tensor.grad.numpy()[0] for tensor in (source, grid, matrix) if tensor.grad is not None]
    of_source, of_grid, of_theta = gradients
    normalised = grid.detach().numpy()[0]
    lengths = np.array(image.shape[::-1])
    points = np.stack([to_pixels(normalised[..., axis], lengths[axis], align_corners) for axis in (0, 1)], axis=-1)
    units = (lengths - align_corners) / 2  # pixels per unit of a normalised coordinate
    warped = output.detach().numpy()[0, 0]
    return PixelGradients(
        output=warped,
        points=points,
        value=float(warped[pixel]),
        point=points[pixel],
        weights=of_source[0],
        slope=of_grid[pixel] / units,
        theta=of_theta,
    )


def gradient_flow(
    image: np.ndarray,
    theta: np.ndarray,
    pixel: tuple[int, int],
    output_size: Sequence[int] | None = None,
    align_corners: bool = False,
    *,
    data: str = "",
) -> Figure:
    """For one pixel of the output: which pixels of the input it reads, and where it pulls its point and theta.

    Parameters
    ----------
    image : float array, shape (H, W)
        From 0 to 1.
    theta, pixel, output_size, align_corners
        As in `pixel_gradients`, which computes what is drawn.
    data : str
        Which image this is, for the title.
    """
    flow = pixel_gradients(image, theta, pixel, output_size, align_corners)
    image = np.asarray(image, np.float64)
    figure = _figure(10.5, 3.9)
    target, source, close, pull = figure.subplots(1, 4, gridspec_kw={"width_ratios": [1, 1, 1.15, 0.9]})
    _show(target, flow.output)
    _frame(target, pixel[1], pixel[0], TOP_COLOUR)
    target.set_title(f"the output: V = {flow.value:.3g}\nin row {pixel[0]}, column {pixel[1]}")

    x, y = flow.point
    _show(source, image)
    source.plot(*flow.points.reshape(-1, 2).T, ".", color=GRID_COLOUR, markersize=1.5)
    source.plot(x, y, "o", color=TOP_COLOUR, markersize=6, markeredgecolor="black")
    height, width = image.shape
    source.set(xlim=(min(flow.points[..., 0].min(), 0) - 1, max(flow.points[..., 0].max(), width - 1) + 1))
    source.set(ylim=(max(flow.points[..., 1].max(), height - 1) + 1, min(flow.points[..., 1].min(), 0) - 1))
    source.set_title(f"the input: read at\nx = {x:.2f}, y = {y:.2f}")

    _show(close, image)
    for row, column in zip(*np.nonzero(flow.weights), strict=True):
        _frame(close, column, row, BLUE)
        label = f"{flow.weights[row, column]:.2f}\nof {image[row, column]:.2g}"
        colour = "black" if image[row, column] > 0.5 else "white"
        close.text(column, row, label, ha="center", va="center", fontsize="small", color=colour)
    close.plot(x, y, "o", color=TOP_COLOUR, markersize=6, markeredgecolor="black", zorder=3)
    length = np.hypot(*flow.slope)
    if length > 0:  # always as long: its direction is what the eye can use, its length stands in the title
        tip = flow.point + 0.9 * flow.slope / length
        arrow = {"arrowstyle": "-|>", "color": VERMILION, "linewidth": 2.5, "shrinkA": 0, "shrinkB": 0}
        close.annotate("", xy=tuple(tip), xytext=(x, y), arrowprops=arrow)
    close.set(xlim=(np.floor(x) - 1, np.floor(x) + 2), ylim=(np.floor(y) + 2, np.floor(y) - 1))
    close.set_title(f"four weights; dV/dx = {flow.slope[0]:z.2g},\ndV/dy = {flow.slope[1]:z.2g} per pixel")

    largest = max(np.abs(flow.theta).max(), 1e-9)
    pull.imshow(flow.theta, cmap="RdBu_r", vmin=-1.6 * largest, vmax=1.6 * largest)
    for (i, j), value in np.ndenumerate(flow.theta):
        pull.text(j, i, f"{value:z.2f}", ha="center", va="center")
    pull.set_xticks(range(3), ["$x_t$", "$y_t$", "1"])
    pull.set_yticks(range(2), ["x", "y"])
    pull.set_title("dV / dθ")
    _note(
        figure,
        "Blue: the pixels that are read, with weight and value. Red arrow: where the point would have to go for V to "
        "become brighter.\nA loss that wants V darker pulls the other way, and weighs all of dV/dθ with dL/dV.",
    )
    _title(figure, "Who pulls what: one pixel of the output, backwards", data)
    return figure


def _frame(axes: Axes, x: float, y: float, colour: str) -> None:
    """The outline of the pixel with its centre at (x, y)."""
    from matplotlib.patches import Rectangle

    axes.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, fill=False, edgecolor=colour, linewidth=2))
