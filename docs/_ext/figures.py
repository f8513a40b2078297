"""What the figures of several pages share."""

from __future__ import annotations

from typing import Any

import numpy as np

BLUE, VERMILION, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#777777"  # Okabe and Ito


def letter(size: int = 28) -> np.ndarray:
    """A capital F from 0 to 1, shape (1, 1, size, size): no turn and no mirror leaves it as it is."""
    image, unit = np.zeros((1, 1, size, size)), size / 28
    for top, bottom, left, right in ((4, 24, 8, 12), (4, 8, 8, 21), (12, 16, 8, 18)):
        rows, columns = (slice(round(a * unit), round(b * unit)) for a, b in ((top, bottom), (left, right)))
        image[..., rows, columns] = 1
    return image


def show(axes: Any, image: np.ndarray, title: str = "", limit: float = 1.0) -> None:
    """An image in grey, 0 black; where it has negative values, blue below 0 and red above. Beside it light grey."""
    signed = image.min() < 0
    axes.imshow(image, cmap="RdBu_r" if signed else "gray", vmin=-limit if signed else 0, vmax=limit)
    axes.set(xticks=[], yticks=[], title=title, facecolor="#dddddd")
    axes.spines[["top", "right"]].set_visible(True)


def numbers(axes: Any, values: np.ndarray, title: str = "", fmt: str = "{:g}") -> None:
    """A matrix as a table of cells with its numbers."""
    largest = max(float(np.abs(values).max()), 1e-9)
    axes.imshow(values, cmap="RdBu_r", vmin=-1.6 * largest, vmax=1.6 * largest)
    for (i, j), value in np.ndenumerate(values):
        axes.text(j, i, fmt.format(value), ha="center", va="center")
    axes.set(xticks=range(values.shape[1]), yticks=range(values.shape[0]), title=title)
