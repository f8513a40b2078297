"""How a transformer learns: pictures of what a `Watch` has kept."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ministn.records import write_atomically
from ministn.viz.pictures import GRID_COLOUR, TOP_COLOUR, _draw_grid, _figure, _in_sight, _note, _reach, _show, _title
from ministn.viz.watch import Watch

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_ROWS = ("input", "where the\nnetwork reads", "what the\ntransformer\nreturns")
FRAME_MS, FIRST_MS, LAST_MS = 120, 1000, 3500  # how long the animation shows a frame


def before_and_after(
    watch: Watch, digits: Sequence[int] = (2, 3, 4, 7), *, data: str = "", variants: int | None = None
) -> Figure:
    """The same digits, each distorted in several ways: as they come, the sampling grid, what the transformer returns.

    Parameters
    ----------
    watch : Watch
        Its last moment is shown.
    digits : sequence of int
        Labels of the digits to show; two come side by side.
    data : str
        Which data and network this is, for the title.
    variants : int, optional
        How many distortions of each; all by default.
    """
    variants = variants or watch.images.shape[1]
    rows = [_index(watch, digit) for digit in digits]
    warped, lines = watch.moments["warped"][-1], watch.moments["lines"][-1]
    size = watch.images.shape[2:]
    x_limits, y_limits = _limits(lines[rows, :variants], size)
    aspect = (y_limits[0] - y_limits[1]) / (x_limits[1] - x_limits[0])
    blocks = -(-len(rows) // 2)
    # An empty column parts the two digits of a block, an empty row the blocks.
    widths = [1.0] * variants + ([0.15] + [1.0] * variants if len(rows) > 1 else [])
    heights = ([1, aspect, 1, 0.1] * blocks)[:-1]
    figure = _figure(0.75 * sum(widths) + 1.3, 0.75 * sum(heights) + 1.0)
    cells = figure.subplots(
        len(heights), len(widths), squeeze=False, gridspec_kw={"height_ratios": heights, "width_ratios": widths}
    )
    for axes in cells.flat:
        axes.set_axis_off()
    for place, row in enumerate(rows):
        block, side = divmod(place, 2)
        for variant in range(variants):
            top, grid, seen = cells[4 * block : 4 * block + 3, side * (variants + 1) + variant]
            image = watch.images[row, variant] / 255
            _show(top, image)
            _show(grid, image)
            _draw_grid(grid, _in_sight(lines[row, variant], size), size)
            grid.set(xlim=x_limits, ylim=y_limits, facecolor=str(watch.mean))
            _show(seen, warped[row, variant] / 255)
    for block in range(blocks):
        for axes, label in zip(cells[4 * block : 4 * block + 3, 0], _ROWS, strict=True):
            axes.set_ylabel(label, rotation=0, ha="right", va="center", labelpad=8)
    _note(
        figure,
        "Orange: the edge that becomes the top of the warped digit. Dotted: the edge of the input.\n"
        "Grids that reach far beyond it are cut.",
    )
    _title(figure, "The same digit, distorted in many ways: what the transformer makes of it", data)
    return figure


def mean_images(watch: Watch, *, data: str = "", moments: Sequence[int] | None = None) -> Figure:
    """The mean of each class's digits: as they come, warped at several moments of the training, and undistorted.

    Parameters
    ----------
    watch : Watch
        With a crowd.
    data : str
        Which data and network this is, for the title.
    moments : sequence of int, optional
        Which of the recorded means to show; all by default.
    """
    means = watch.means
    if watch.distorted is None:
        raise ValueError("mean_images: expected a watch with a crowd, got one without")
    chosen = range(len(means["step"])) if moments is None else moments
    rows = [("as they come", *watch.distorted)]
    rows += [(f"after\n{_after(means['epoch'][i])}", means["images"][i], means["sharpness"][i]) for i in chosen]
    if watch.undistorted is not None:
        images, sharpness = watch.undistorted
        rows.append(("never\ndistorted", _on_canvas(images, watch.distorted[0].shape[1:]), sharpness))
    count = len(rows[0][1])
    figure = _figure(0.75 * count + 2.2, 0.75 * len(rows) + 1.1)
    axes = figure.subplots(len(rows), count, squeeze=False)
    for row, (label, images, sharpness) in zip(axes, rows, strict=True):
        for cell, image in zip(row, images, strict=True):
            _show(cell, image / max(images.max(), 1e-9))
        row[0].set_ylabel(label, rotation=0, ha="right", va="center", labelpad=8)
        row[-1].text(1.15, 0.5, f"{100 * sharpness.mean():z.1f} %", transform=row[-1].transAxes, va="center")
    axes[0, -1].text(1.15, 1.0, "sharpness", transform=axes[0, -1].transAxes, va="top", fontsize="small", color="0.3")
    squares = "in a digit as it comes" if watch.undistorted is None else "in an undistorted digit"
    _note(
        figure,
        "Sharpness: how alike the edges of two digits of a class are on average, from 0 % (nothing in common)\n"
        "to 100 %: differences of neighbouring pixels, multiplied and summed, in percent of their squares\n"
        f"{squares}. White is the brightest pixel of each row.",
    )
    _title(figure, "The mean digit of each class, while the transformer learns", data)
    return figure


def warp_animation(
    watch: Watch,
    path: str | Path,
    digits: Sequence[int] = (2, 3, 4, 6, 7, 9),
    *,
    data: str = "",
    variant: int = 0,
) -> None:
    """Write an animated GIF: the sampling grids over the digits, and what the transformer returns, while it learns.

    A frame for each moment of the watch; the first and the last one stay longer, and then it begins again.

    Parameters
    ----------
    watch : Watch
    path : str or Path
        Of the GIF; replaced, if it exists, only by a complete new file.
    digits : sequence of int
        Labels of the digits to show, a column each.
    data : str
        Which data and network this is, for the title.
    variant : int
        Which distortion of each digit.
    """
    from PIL import Image

    frames = [
        Image.fromarray(frame) for frame in _frames(watch, [_index(watch, digit) for digit in digits], data, variant)
    ]
    palette = Image.new("P", (1, 1))
    palette.putpalette(_palette())
    frames = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    durations = [FRAME_MS] * len(frames)
    durations[0], durations[-1] = FIRST_MS, LAST_MS
    content = io.BytesIO()
    frames[0].save(content, "gif", save_all=True, append_images=frames[1:], duration=durations, loop=0)
    write_atomically(path, content.getvalue())


def _frames(watch: Watch, rows: Sequence[int], data: str, variant: int) -> list[np.ndarray]:
    """RGB images (uint8, (height, width, 3)), one for each moment."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.patches import Rectangle

    moments, size = watch.moments, watch.images.shape[2:]
    x_limits, y_limits = _limits(np.array(moments["lines"])[:, rows, variant], size)
    aspect = (y_limits[0] - y_limits[1]) / (x_limits[1] - x_limits[0])
    figure = _figure(1.25 * len(rows) + 1.2, 1.25 * (aspect + 1) + 1.0)
    figure.set_dpi(100)
    cells = figure.subplots(2, len(rows), squeeze=False, gridspec_kw={"height_ratios": [aspect, 1]})
    seen = []
    for column, row in enumerate(rows):
        image = watch.images[row, variant] / 255
        _show(cells[0, column], image)
        _draw_grid(cells[0, column], moments["lines"][-1][row, variant], size)
        cells[0, column].set(xlim=x_limits, ylim=y_limits, facecolor=str(watch.mean))
        _show(cells[1, column], moments["warped"][-1][row, variant] / 255)
        seen.append(cells[1, column].images[0])
    for axes, label in zip(cells[:, 0], _ROWS[1:], strict=True):
        axes.set_ylabel(label, rotation=0, ha="right", va="center", labelpad=8)
    _title(figure, "Learning where to look", data)
    counter = figure.supxlabel(" ", family="monospace", fontsize="medium")
    bar = Rectangle((0, 0), 0, 0.012, transform=figure.transFigure, color=GRID_COLOUR)
    figure.add_artist(bar)
    canvas = FigureCanvasAgg(figure)
    frames = []
    last = max(moments["step"][-1], 1)
    for step, epoch, warped, lines in zip(*(moments[key] for key in ("step", "epoch", "warped", "lines")), strict=True):
        for axes, artist, row in zip(cells[0], seen, rows, strict=True):
            grid, top = axes.collections
            curves = _in_sight(lines[row, variant], size)
            grid.set_segments(list(curves))
            top.set_segments([curves[0]])
            artist.set_data(warped[row, variant] / 255)
        counter.set_text(f"epoch {epoch:5.2f}   step {step:6,d}")
        bar.set_width(step / last)
        canvas.draw()
        frames.append(np.asarray(canvas.buffer_rgba())[..., :3].copy())
        figure.set_layout_engine("none")  # as the first frame was laid out, so that nothing jumps
    return frames


def _palette() -> list[int]:
    """64 colours: greys, and those of the grid's lines on black and on white."""
    from matplotlib.colors import to_rgb

    colours = [(grey, grey, grey) for grey in np.linspace(0, 1, 36)]
    for colour in map(np.array, map(to_rgb, (GRID_COLOUR, TOP_COLOUR))):
        colours += [colour * part for part in np.linspace(0, 1, 10)[1:]]
        colours += [1 - (1 - colour) * part for part in np.linspace(0, 1, 7)[1:-1]]
    return [round(255 * float(value)) for colour in colours for value in colour]


def _index(watch: Watch, digit: int) -> int:
    """The first of the watched digits with this label, of a watch that has seen something."""
    if not watch.moments["step"]:
        raise ValueError("expected a watch that has recorded at least one moment, got one with none")
    found = np.flatnonzero(watch.labels == digit)
    if len(found) == 0:
        raise ValueError(f"expected digits from {sorted(set(watch.labels.tolist()))}, which are watched, got {digit}")
    return int(found[0])


def _on_canvas(images: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """Images (N, H, W) in the middle of a canvas no smaller than they, so that digits look as large as on that."""
    margins = [canvas - side for canvas, side in zip(size, images.shape[1:], strict=True)]
    return np.pad(images, [(0, 0), *((margin // 2, margin - margin // 2) for margin in margins)])


def _limits(lines: np.ndarray, size: tuple[int, ...]) -> tuple[tuple[float, float], tuple[float, float]]:
    """As `_reach`, but at most a quarter of the input beyond its edges: single grids may be far away for a while."""
    height, width = size
    low, high = (-0.25 * width - 0.5, -0.25 * height - 0.5), (1.25 * width - 0.5, 1.25 * height - 0.5)
    return _reach([np.clip(lines, low, high)], size)


def _after(epochs: float) -> str:
    """Such as "0.12 epochs", with two digits, or three of a whole number."""
    number = f"{epochs:.2g}" if epochs < 10 else f"{epochs:.0f}"
    return f"{number} epoch{'s' * (number != '1')}"
