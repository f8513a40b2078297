"""Fields of digits: some MNIST digits, each of a size of its own, anywhere on a canvas of 64 x 64. Where are they?

>>> digits, classes = np.full((10, 28, 28), 255, np.uint8), np.arange(10)
>>> images, boxes, labels = fields(digits, classes, 100, 2, np.random.default_rng(0))
>>> images.shape, boxes.shape, labels.shape
((100, 64, 64), (100, 2, 4), (100, 2))

A box is (x0, y0, x1, y1) in pixels, x to the right and y down: 0 is the outer edge of the first pixel, 64 that of the
last. It is the box of the digit's ink, without the empty rows and columns that MNIST has around it. Heights and widths
are drawn evenly from 15 to 25 pixels, independently (a 1 may come out broad), then the centre from where the box is
inside the canvas. Nothing keeps digits apart: where they overlap, values are added and are at most 255.

All this is as in the paper's code, but that it places each digit once, and here digits and boxes are drawn anew for
each call. It also cuts the digits off at the box; here the ink fades beyond it, over half a pixel of the digit. (Its
training program reads other fields, which it does not come with: five digits, some of them cut off at the border.)

References
----------
R. Liu et al. (2018), "An intriguing failing of convolutional neural networks and the CoordConv solution",
arXiv:1807.03247, section 5; https://github.com/uber-research/CoordConv, data/field_of_mnist/loader.py.
"""

from __future__ import annotations

import numpy as np

from ministn.kernels._checks import integer

CANVAS = 64  # pixels: the side of the images
SIDES = 15.0, 25.0  # pixels: the range of heights and widths


def fields(
    images: np.ndarray, labels: np.ndarray, number: int, digits: int, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Fields of digits that are drawn at random: which ones, how large and where.

    Parameters
    ----------
    images : uint8 ndarray, shape (N, H, W)
        The digits to draw from, each with some ink.
    labels : integer ndarray, shape (N,)
    number : int
        How many fields.
    digits : int
        How many digits are in each.
    generator : numpy.random.Generator
        One in the same state gives the same fields.

    Returns
    -------
    images : uint8 ndarray, shape (number, 64, 64)
    boxes : float64 ndarray, shape (number, digits, 4)
    labels : ndarray, shape (number, digits)
    """
    number, digits = integer("fields", "number", number, 0), integer("fields", "digits", digits, 1)
    chosen = generator.integers(0, len(images), (number, digits))
    boxes = draw_boxes(number, digits, generator)
    return paint(images[chosen], boxes), boxes, labels[chosen]


def draw_boxes(number: int, digits: int, generator: np.random.Generator) -> np.ndarray:
    """Random boxes inside the canvas, float64 (number, digits, 4)."""
    sides = generator.uniform(*SIDES, (number, digits, 2))
    corner = generator.uniform(0.0, 1.0, (number, digits, 2)) * (CANVAS - sides)
    return np.concatenate([corner, corner + sides], axis=2)


def paint(images: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Fields in which each digit's ink fills its box.

    Parameters
    ----------
    images : uint8 ndarray, shape (N, n, H, W)
        The n digits of each field.
    boxes : ndarray, shape (N, n, 4)

    Returns
    -------
    uint8 ndarray, shape (N, 64, 64)
    """
    from ministn.data._warps import projected  # here, since it loads Numba

    images, boxes = np.asarray(images), np.asarray(boxes, np.float64)
    if images.dtype != np.uint8 or images.ndim != 4:
        raise ValueError(f"paint: expected images of uint8 (N, n, H, W), got {images.dtype} {images.shape}")
    if boxes.shape != (*images.shape[:2], 4):
        raise ValueError(f"paint: expected boxes of shape {(*images.shape[:2], 4)}, got {boxes.shape}")
    flat = np.ascontiguousarray(images.reshape(-1, *images.shape[2:]))
    placed = projected(flat, _from_canvas(ink_boxes(flat), boxes.reshape(-1, 4)), CANVAS)
    total = placed.reshape(*images.shape[:2], CANVAS, CANVAS).sum(axis=1, dtype=np.int64)
    return np.minimum(total, 255).astype(np.uint8)


def ink_boxes(images: np.ndarray) -> np.ndarray:
    """The smallest boxes around all pixels above 0: int64 (N, 4), for images (N, H, W)."""
    ink = images > 0
    if not ink.any(axis=(1, 2)).all():
        raise ValueError(f"ink_boxes: expected ink in each image, got none in {np.argmin(ink.any(axis=(1, 2)))}")
    sides = []
    for line in np.asarray(ink.any(axis=1)), np.asarray(ink.any(axis=2)):  # of columns, of rows
        sides += [line.argmax(axis=1), line.shape[1] - line[:, ::-1].argmax(axis=1)]
    x0, x1, y0, y1 = sides
    return np.stack([x0, y0, x1, y1], axis=1)


def _from_canvas(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Matrices (N, 3, 3) that take centres of the canvas' pixels to points of the digit, box to box.

    Edge to edge that is source0 + (x - target0) stretch; but centres count from 0, where boxes have 1/2.
    """
    stretch = (source[:, 2:] - source[:, :2]) / (target[:, 2:] - target[:, :2])
    matrices = np.zeros((len(source), 3, 3))
    matrices[:, [0, 1], [0, 1]] = stretch
    matrices[:, :2, 2] = source[:, :2] + (0.5 - target[:, :2]) * stretch - 0.5
    matrices[:, 2, 2] = 1
    return matrices
