"""Pictures of a trained model, and of the tables that a run writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ministn.autodiff import Tensor, no_grad
from ministn.backend import to_device
from ministn.nn import SpatialTransformer
from ministn.nn.transforms import Transform, get

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, VERMILION, GREY = "#0072B2", "#D55E00", "#7F7F7F"
GRID_COLOUR, TOP_COLOUR = "#56B4E9", "#E69F00"  # on dark images: sky blue, and orange for the edge that becomes the top
PARTS = ("angle", "scale_x", "scale_y", "shear", "shift_x", "shift_y")


# --- what theta says ----------------------------------------------------------------------------------------------


def decompose(theta: np.ndarray) -> dict[str, np.ndarray]:
    r"""Angle, scale, shear and shift of affine transformations: the QR factors of their 2x2 part.

    `theta` maps a *target* point (a pixel of the output) to the *source* point it is read from (in the input), as in
    the paper. Read from right to left, a target point is sheared, scaled, rotated and shifted:

    .. math::
        \theta = \begin{pmatrix} a & b & t_x \\ c & d & t_y \end{pmatrix}, \qquad
        \begin{pmatrix} a & b \\ c & d \end{pmatrix} =
        \begin{pmatrix} \cos\varphi & -\sin\varphi \\ \sin\varphi & \cos\varphi \end{pmatrix}
        \begin{pmatrix} s_x & 0 \\ 0 & s_y \end{pmatrix}
        \begin{pmatrix} 1 & k \\ 0 & 1 \end{pmatrix}

    with :math:`s_x = \sqrt{a^2 + c^2}`, :math:`\varphi = \mathrm{atan2}(c, a)`, :math:`s_y = (ad - bc) / s_x` and
    :math:`k = (ab + cd) / s_x^2`.

    The direction matters. As y points down, a positive angle turns the sampling grid clockwise on the screen, so the
    *picture* turns anti-clockwise. A scale of 0.5 reads half of the input, so the picture is magnified twice.

    Parameters
    ----------
    theta : array, shape (..., 2, 3)
        In normalised coordinates, which run from -1 to 1 across the image.

    Returns
    -------
    dict of arrays, shape (...)
        ``angle`` in degrees (-180 to 180), ``scale_x`` (>= 0), ``scale_y`` (negative for a mirrored picture),
        ``shear``, and ``shift_x``, ``shift_y`` in half image widths and heights. Where the first column of `theta` is
        zero there is no such factorisation: angle and shear are 0 and ``scale_y`` is d.

    Raises
    ------
    ValueError
        If the last two axes of `theta` are not (2, 3).
    """
    theta = np.asarray(theta)
    if theta.shape[-2:] != (2, 3):
        raise ValueError(f"decompose: expected theta of shape (..., 2, 3), got {theta.shape}")
    a, b, shift_x = (theta[..., 0, j] for j in range(3))
    c, d, shift_y = (theta[..., 1, j] for j in range(3))
    scale_x = np.hypot(a, c)
    safe = np.where(scale_x > 0, scale_x, 1)
    return {
        "angle": np.degrees(np.arctan2(c, a)),
        "scale_x": scale_x,
        "scale_y": np.where(scale_x > 0, (a * d - b * c) / safe, d),
        "shear": (a * b + c * d) / safe**2,
        "shift_x": shift_x,
        "shift_y": shift_y,
    }


def sampling_grid(
    theta: np.ndarray,
    size: tuple[int, int],
    cells: int = 8,
    transform: str | Transform = "affine",
    align_corners: bool = False,
) -> np.ndarray:
    """The lines of the sampling grid over the input, ready to be plotted.

    The output is cut into `cells` x `cells` squares from -1 to 1; `theta` says where their outlines lie in the input.
    By default -1 and 1 are the outer edges of the first and last pixel, so x becomes the pixel coordinate
    ((x + 1) W - 1) / 2, with 0 in the middle of the first pixel; with ``align_corners=True`` they are its centre and
    the last one's, and x becomes (x + 1) (W - 1) / 2.

    Parameters
    ----------
    theta : array, shape (2, 3)
        Target to source. For another transform, what its method `theta` returns for one image: a projective matrix
        (3, 3), the points of a thin plate spline (K, 2), ...
    size : (int, int)
        (H, W) of the input, in pixels.
    cells : int
        Squares per side.
    transform : str or Transform
        What `theta` means: one of `ministn.nn.transforms`, or its name.
    align_corners : bool
        As that of the sampler.

    Returns
    -------
    array, shape (2 (cells + 1), P, 2)
        For each line P points (x, y) on it, in pixels: first the lines of constant target y, top to bottom, then those
        of constant target x, left to right. An affine map keeps lines straight: P = 2, their ends. Otherwise they are
        curves, or run up to a horizon: P = 8 cells + 1.

    Raises
    ------
    ValueError
        If the shape of `theta` is not the transform's.
    """
    theta, transform = np.asarray(theta, np.float64), get(transform)
    rows = transform.matrix_rows
    if rows and theta.shape != (rows, 3):
        raise ValueError(f"sampling_grid: expected theta of shape ({rows}, 3), got {theta.shape}")
    at = np.linspace(-1, 1, cells + 1)
    along = np.linspace(-1, 1, 2 if rows == 2 else 8 * cells + 1)
    horizontal = np.stack(np.meshgrid(along, at), axis=-1)  # (line, point on it, x and y)
    target = np.concatenate([horizontal, horizontal[..., ::-1]])
    source = transform.map_points(Tensor(theta[None]), target.reshape(-1, 2)).data.reshape(target.shape)
    pixels = np.array([size[1], size[0]])  # along x, along y
    at_pixels: np.ndarray = (source + 1) * (pixels - 1) / 2 if align_corners else ((source + 1) * pixels - 1) / 2
    return at_pixels


# --- pictures -----------------------------------------------------------------------------------------------------


def learning_curves(history: Sequence[Mapping[str, float]], data: str = "") -> Figure:
    """Loss and test accuracy after each epoch.

    Parameters
    ----------
    history : sequence of mappings
        One per epoch, with ``epoch``, ``train_loss``, ``train_accuracy``, ``test_loss``, ``test_accuracy``
        (accuracies from 0 to 1): the rows of metrics.csv.
    data : str
        Which data this is, for the title.
    """
    from matplotlib.ticker import MaxNLocator

    figure = _figure(9, 3.6)
    loss_axes, error_axes = figure.subplots(1, 2)
    epochs = [row["epoch"] for row in history]
    for name, colour, marker, label in (
        ("train", GREY, "o", "training digits, while learning"),
        ("test", BLUE, "s", "test digits, after the epoch"),
    ):
        style = {"color": colour, "marker": marker, "markersize": 4, "label": label}
        loss_axes.plot(epochs, [row[f"{name}_loss"] for row in history], **style)
        errors = [100 * (1 - row[f"{name}_accuracy"]) for row in history]
        error_axes.plot(epochs, np.maximum(errors, 0.01), **style)  # a log axis has no 0: drawn as 1 in 10,000
    loss_axes.set_ylabel("loss: mean of \N{MINUS SIGN}log p(true digit)")
    error_axes.set_ylabel("misread digits in %")
    for axes in (loss_axes, error_axes):
        _log_axis(axes)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.set_xlim(min(epochs) - 0.5, max(epochs) + 0.5)
        axes.margins(y=0.1)
        axes.grid(color="0.92")
    loss_axes.legend(frameon=False, fontsize="small")
    accuracy = history[-1]["test_accuracy"]
    _title(figure, f"Learning curves: {100 * accuracy:.2f} % of the test digits read after epoch {epochs[-1]:g}", data)
    return figure


def warped_digits(
    model: Any, images: np.ndarray, *, mean: float = 0.0, std: float = 1.0, data: str = "", cells: int = 7
) -> Figure:
    """Digits as they come, the sampling grid that the network lays over them, and what it reads there.

    Parameters
    ----------
    model : Module
        A `ministn.nn.SpatialTransformer`; or a network with ``theta(x)`` and ``stn(x)`` -> the warped images, such as
        `ministn.models.MnistSTN`. What its theta means says the attribute ``transformer``, a `SpatialTransformer`; of a
        network without one, theta (N, 2, 3) is affine.
    images : uint8 array, shape (N, H, W)
        One column each.
    mean, std : float
        The normalisation that the model was trained with, for pixels from 0 to 1.
    data : str
        Which data this is, for the title.
    cells : int
        Squares of the drawn grid per side.
    """
    theta, warped = _look(model, images, mean, std)
    layer, size = _transformer(model), images.shape[1:]
    transform, align_corners = ("affine", False) if layer is None else (layer.map, layer.align_corners)
    grids = [_in_sight(sampling_grid(t, size, cells, transform, align_corners), size) for t in theta]
    x_limits, y_limits = _reach(grids, images.shape[1:])
    aspect = (y_limits[0] - y_limits[1]) / (x_limits[1] - x_limits[0])
    figure = _figure(len(images) + 1.3, aspect + 2.9)
    rows = figure.subplots(3, len(images), squeeze=False, gridspec_kw={"height_ratios": [1, aspect, 1]})
    for column, (image, grid, seen) in enumerate(zip(images, grids, warped, strict=True)):
        _show(rows[0, column], image / 255)
        _show(rows[1, column], image / 255)
        _draw_grid(rows[1, column], grid, images.shape[1:])
        rows[1, column].set(xlim=x_limits, ylim=y_limits, facecolor=str(mean))
        _show(rows[2, column], seen)
    labels = ("input", "where the\nnetwork reads", "what the\nclassifier sees")
    for axes, label in zip(rows[:, 0], labels, strict=True):
        axes.set_ylabel(label, rotation=0, ha="right", va="center", labelpad=8)
    outside = "; beyond it the network reads the mean grey" if layer is None or layer.padding_mode == "zeros" else ""
    space = " " if len(images) > 8 else "\n"  # as wide as the figure, or as two lines
    _note(
        figure,
        f"Orange: the edge that becomes the top of the warped digit.{space}Dotted: the edge of the input{outside}.",
    )
    _title(figure, "Digits before and after the warp", data)
    return figure


def theta_over_training(rows: Sequence[Mapping[str, float]], data: str = "") -> Figure:
    """How the transformation of a fixed set of digits changes while the network learns: mean and spread.

    Parameters
    ----------
    rows : sequence of mappings
        One per recording, with ``epoch`` (fractional) and, for each part that `decompose` returns,
        ``<part>_mean`` and ``<part>_std`` over the digits: the rows of theta.csv.
    data : str
        Which data this is, for the title.
    """
    figure = _figure(9, 6)
    (angle, scale), (shear, shift) = figure.subplots(2, 2)
    epochs = np.array([row["epoch"] for row in rows])

    def curve(axes: Axes, part: str, label: str = "", colour: str = BLUE, linestyle: str = "-") -> None:
        mean = np.array([row[f"{part}_mean"] for row in rows])
        spread = np.array([row[f"{part}_std"] for row in rows])
        axes.fill_between(epochs, mean - spread, mean + spread, color=colour, alpha=0.2, linewidth=0)
        axes.plot(epochs, mean, color=colour, label=label, linestyle=linestyle)

    curve(angle, "angle")
    curve(shear, "shear")
    for axes, part in ((scale, "scale"), (shift, "shift")):
        curve(axes, f"{part}_x", "along x")
        curve(axes, f"{part}_y", "along y", VERMILION, "--")
        axes.legend(frameon=False, ncols=2)
    for axes, identity, name, reading in (
        (angle, 0, "angle in degrees", "above 0: the grid turns clockwise, the digit anti-clockwise"),
        (scale, 1, "scale: grid size / input size", "below 1: the grid is smaller, the digit is magnified"),
        (shear, 0, "shear: x per y", "above 0: the grid leans to the left (\\), the digit to the right (/)"),
        (shift, 0, "shift in half input sizes", "above 0: the grid moves right (x) or down (y)"),
    ):
        axes.axhline(identity, color="0.4", linewidth=0.8, linestyle=":", zorder=0)
        axes.set_ylabel(name)
        axes.set_title(reading, fontsize="small", color="0.3")
        axes.set_xlabel("epoch")
        axes.margins(x=0)
    _note(figure, "Line: mean over the digits. Band: one standard deviation to either side. Dotted: the identity.")
    _title(figure, "The transformation over training", data)
    return figure


def hardest_mistakes(
    model: Any,
    images: np.ndarray,
    labels: np.ndarray,
    *,
    mean: float = 0.0,
    std: float = 1.0,
    data: str = "",
    count: int = 12,
) -> Figure:
    """The misread digits with the highest loss: true and predicted label, and what the network saw.

    Parameters
    ----------
    model : Module
        Returns log-probabilities (N, 10); where it has ``stn(x)``, the warped digit is shown under the input.
    images : uint8 array, shape (N, H, W)
        All the test digits.
    labels : integer array, shape (N,)
        The true digits.
    mean, std : float
        The normalisation that the model was trained with, for pixels from 0 to 1.
    data : str
        Which data this is, for the title.
    count : int
        The most digits to show.
    """
    log_probabilities = _classify(model, images, mean, std)
    predicted = log_probabilities.argmax(axis=1)
    losses = -log_probabilities[np.arange(len(labels)), labels]
    wrong = np.flatnonzero(predicted != labels)
    chosen = wrong[np.argsort(-losses[wrong], kind="stable")][:count]
    total = f"{len(wrong)} of {len(labels)} misread"
    if len(chosen) == 0:
        figure = _figure(6, 1.5)
        figure.text(0.5, 0.4, "No digit was misread.", ha="center")
        _title(figure, "Hardest mistakes", data)
        return figure

    has_stn = hasattr(model, "stn")
    warped = _look(model, images[chosen], mean, std)[1] if has_stn else None
    per_row = min(6, len(chosen))
    bands = -(-len(chosen) // per_row)  # a band: a row of digits and, under it, what the network saw
    figure = _figure(1.3 * per_row + 1, (3.0 if has_stn else 1.75) * bands + 0.7)
    rows = figure.subplots(bands * (1 + has_stn), per_row, squeeze=False)
    for axes in rows.flat:
        axes.set_axis_off()
    for place, index in enumerate(chosen):
        band, column = divmod(place, per_row)
        axes = rows[band * (1 + has_stn), column]
        answer = predicted[index]
        sure = 100 * np.exp(log_probabilities[index, answer])
        _show(axes, images[index] / 255)
        axes.set_title(f"{labels[index]} read as {answer} ({sure:.0f} %)", fontsize=9)
        if warped is not None:
            _show(rows[band * 2 + 1, column], warped[place])
    if has_stn:
        for row, axes in enumerate(rows[:, 0]):
            axes.set_ylabel("after\nthe warp" if row % 2 else "input", rotation=0, ha="right", va="center")
    _note(figure, "In brackets: the probability that the network gave to its answer. Highest loss first.")
    _title(figure, f"Hardest mistakes: {total}", data)
    return figure


# --- helpers ------------------------------------------------------------------------------------------------------


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(hspace=0, h_pad=0.05, w_pad=0.05)  # inches
    return Figure(figsize=(width, height), dpi=150, layout=layout)


def _title(figure: Figure, text: str, data: str) -> None:
    figure.suptitle(f"{text}\n{data}" if data else text, fontsize="large")


def _note(figure: Figure, text: str) -> None:
    figure.supxlabel(text, fontsize="small", color="0.3")


def _log_axis(axes: Axes) -> None:
    """A logarithmic y axis with ticks 0.02, 0.05, 0.1 ...: of the powers of ten, a curve may cross only one."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_locator(NullLocator())


def _show(axes: Axes, image: np.ndarray) -> None:
    """`image` in grey, black for 0 and white for 1, with no ticks."""
    axes.imshow(image, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes.set_axis_on()
    axes.set(xticks=[], yticks=[])


def _draw_grid(axes: Axes, lines: np.ndarray, size: tuple[int, ...]) -> None:
    from matplotlib.collections import LineCollection
    from matplotlib.patches import Rectangle

    height, width = size
    axes.add_patch(Rectangle((-0.5, -0.5), width, height, fill=False, edgecolor="white", linestyle=":", linewidth=0.8))
    axes.add_collection(LineCollection(list(lines), colors=GRID_COLOUR, linewidths=0.6))
    axes.add_collection(LineCollection([lines[0]], colors=TOP_COLOUR, linewidths=1.8))


def _in_sight(lines: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """Curves with NaN, which is not drawn, more than two input sizes beyond its edges: they may run to a horizon."""
    height, width = size
    if lines.shape[1] == 2:  # straight lines, known by their ends
        return lines
    distance = np.abs(lines - (width / 2, height / 2)) / (width, height)
    return np.where(distance.max(axis=-1, keepdims=True) < 2.5, lines, np.nan)


def _reach(grids: Sequence[np.ndarray], size: tuple[int, ...]) -> tuple[tuple[float, float], tuple[float, float]]:
    """Limits of x, and of y from bottom to top, that show the whole input and all grids at one scale."""
    height, width = size
    points = np.concatenate([grid.reshape(-1, 2) for grid in grids])
    low = np.fmin(np.fmin.reduce(points), -0.5) - 1  # the minimum of what is not NaN
    high = np.fmax(np.fmax.reduce(points), (width - 0.5, height - 0.5)) + 1
    return (low[0], high[0]), (high[1], low[1])


def _to_input(model: Any, images: np.ndarray, mean: float, std: float) -> Tensor:
    """The images as the model takes them: normalised, and on its device."""
    pixels = ((images[:, None] / np.float32(255) - np.float32(mean)) / np.float32(std)).astype(np.float32)
    parameter = next(iter(model.parameters()), None) if hasattr(model, "parameters") else None
    return Tensor(pixels if parameter is None else to_device(pixels, parameter.device))


def _transformer(model: Any) -> SpatialTransformer | None:
    """The layer that says what the model's theta means, where there is one."""
    layer = model if isinstance(model, SpatialTransformer) else getattr(model, "transformer", None)
    return layer if isinstance(layer, SpatialTransformer) else None


def _look(model: Any, images: np.ndarray, mean: float, std: float) -> tuple[np.ndarray, np.ndarray]:
    """theta of each image, such as (N, 2, 3), and the warped images (N, H', W') with pixels from 0 to 1."""
    model.eval()
    with no_grad():
        x = _to_input(model, images, mean, std)
        warp = model if isinstance(model, SpatialTransformer) else model.stn
        theta, warped = model.theta(x).numpy(), warp(x).numpy()
    return theta, np.clip(warped[:, 0] * std + mean, 0, 1)


def _classify(model: Any, images: np.ndarray, mean: float, std: float, batch_size: int = 500) -> np.ndarray:
    model.eval()
    with no_grad():
        return np.concatenate(
            [
                model(_to_input(model, images[start : start + batch_size], mean, std)).numpy()
                for start in range(0, len(images), batch_size)
            ]
        )


# --- data sets ----------------------------------------------------------------------------------------------------


def contact_sheet(
    images: np.ndarray, labels: Sequence[int] | np.ndarray, title: str = "", *, data: str = "", columns: int = 16
) -> Figure:
    """Images side by side, row by row, each with its label in the corner; or each row, if its images share one.

    Parameters
    ----------
    images : uint8 array, shape (N, H, W)
        At least one.
    labels : sequence of N labels
        What is written into the images' upper left corners, or left of the rows; strings do, too.
    title : str
    data : str
        Which data this is, for the title.
    columns : int
        Images in a row, at most.

    Raises
    ------
    ValueError
        If there is no image, or not a label for each.
    """
    images, columns = np.asarray(images), min(columns, len(images))
    if images.ndim != 3 or len(images) == 0 or len(labels) != len(images):
        raise ValueError(
            "contact_sheet: expected images (N, H, W), N > 0, and as many labels, got "
            f"{images.shape} and {len(labels)} labels"
        )
    sheet = _side_by_side(images, columns)
    inch = 0.55 * columns / sheet.shape[1]  # of a pixel
    figure = _figure(inch * sheet.shape[1] + 0.1, inch * sheet.shape[0] + 0.4 + 0.2 * bool(data))
    axes = figure.subplots()
    _show(axes, sheet)
    axes.spines[:].set_visible(False)
    _, height, width = images.shape
    rows = [set(labels[start : start + columns]) for start in range(0, len(labels), columns)]
    if columns > 1 and all(len(row) == 1 for row in rows):
        axes.set_yticks(
            [row * (height + 1) + (height - 1) / 2 for row in range(len(rows))], [row.pop() for row in rows]
        )
        axes.tick_params(length=0)
    else:
        for number, label in enumerate(labels):
            row, column = divmod(number, columns)
            place = column * (width + 1), row * (height + 1)
            axes.text(*place, str(label), color=TOP_COLOUR, fontsize=6, va="top", ha="left")
    _title(figure, title, data)
    return figure


def _side_by_side(images: np.ndarray, columns: int) -> np.ndarray:
    """Images (N, H, W) of uint8 as one, from 0 to 1: row by row, with white lines of one pixel between them; the rest
    of the last row is white."""
    _, height, width = images.shape
    rows = -(-len(images) // columns)
    sheet = np.ones((rows * (height + 1) - 1, columns * (width + 1) - 1))
    for number, image in enumerate(images):
        i, j = divmod(number, columns)
        top, left = i * (height + 1), j * (width + 1)
        sheet[top : top + height, left : left + width] = image / 255
    return sheet
