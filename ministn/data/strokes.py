"""Digits that the package draws itself, for machines where MNIST cannot be had.

A digit has several styles, as people have: a 7 with a bar or without, a 4 open or closed. A style is a few curves
through control points. One image is one style whose points are moved a little, then slanted, turned, stretched and
drawn by a pen of some thickness: each of these is drawn at random per image, and a careless hand (few images have one)
moves the points more. As in MNIST the digit fills a box of about 20 x 20 pixels whose centre of mass is at the centre
of 28 x 28.

The curve between points p_1 and p_2 is the Catmull-Rom cubic, which passes through both with the slope of the chord
of their neighbours p_0 and p_3; with t from 0 to 1

    p(t) = 1/2 [ 2 p_1 + (p_2 - p_0) t + (2 p_0 - 5 p_1 + 4 p_2 - p_3) t^2 + (3 p_1 - p_0 - 3 p_2 + p_3) t^3 ].     (1)

It is linear in the points, so one matrix product draws the curves of all images of a style.

References
----------
E. Catmull, R. Rom (1974), A class of local interpolating splines, Computer Aided Geometric Design, 317-326.
"""

from __future__ import annotations

import numpy as np

from ministn.data.dataset import ImageDataset
from ministn.kernels._checks import integer

IMAGE_SIZE = 28

# fmt: off
# Every style is a list of curves, every curve a list of control points (x, y) in hundredths of the digit's height,
# y downwards. A corner is where one curve ends and the next begins; points with equal coordinates move together.
STYLES: dict[int, list[list[list[tuple[int, int]]]]] = {
    0: [
        [[(38, 0), (15, 10), (2, 48), (14, 90), (37, 100), (60, 88), (70, 48), (58, 10), (38, 0)]],
        [[(52, 6), (30, 4), (10, 26), (2, 60), (20, 96), (46, 94), (64, 62), (62, 26), (44, 4), (22, 10)]],
        [[(30, 0), (8, 24), (4, 66), (22, 100), (42, 82), (50, 40), (40, 6), (24, 4)]],
    ],
    1: [
        [[(30, 0), (30, 50), (30, 100)]],
        [[(10, 24), (24, 14), (34, 0)], [(34, 0), (34, 50), (34, 100)]],
        [[(8, 22), (22, 14), (32, 0)], [(32, 0), (32, 50), (32, 100)], [(6, 100), (32, 100), (58, 98)]],
        [[(26, 0), (31, 33), (31, 66), (25, 100)]],
    ],
    2: [
        [[(6, 22), (20, 3), (46, 2), (58, 22), (48, 48), (26, 76), (4, 98)], [(4, 98), (34, 97), (66, 97)]],
        [
            [
                (6, 20), (24, 2), (50, 6), (56, 30), (42, 60), (22, 90),
                (6, 92), (8, 76), (26, 80), (44, 96), (62, 96), (70, 86),
            ],
        ],
        [[(2, 14), (24, 0), (48, 8), (54, 30), (40, 58), (14, 88)], [(14, 88), (32, 88), (50, 96), (70, 88)]],
        [[(8, 34), (14, 10), (36, 0), (58, 12), (56, 38), (34, 62), (2, 96)], [(2, 96), (32, 98), (64, 94)]],
    ],
    3: [
        [
            [(6, 12), (24, 1), (48, 6), (54, 24), (42, 42), (22, 47)],
            [(22, 47), (46, 52), (60, 72), (48, 93), (24, 100), (2, 88)],
        ],
        [
            [(6, 3), (30, 2), (56, 2)],
            [(56, 2), (40, 22), (24, 42)],
            [(24, 42), (48, 46), (60, 68), (50, 92), (26, 100), (4, 90)],
        ],
        [
            [
                (4, 16), (22, 1), (46, 6), (50, 28), (34, 46), (20, 50),
                (22, 42), (44, 48), (58, 68), (48, 92), (24, 100), (2, 92),
            ],
        ],
    ],
    4: [
        [[(16, 2), (10, 28), (4, 56)], [(4, 56), (34, 56), (68, 52)], [(54, 4), (52, 50), (48, 100)]],
        [[(48, 0), (26, 30), (2, 62)], [(2, 62), (34, 62), (68, 61)], [(48, 0), (48, 50), (48, 100)]],
        [[(8, 2), (4, 26), (14, 46), (36, 46), (56, 34)], [(60, 2), (56, 34), (52, 66), (46, 100)]],
        [[(44, 4), (22, 28), (4, 56)], [(4, 56), (36, 55), (66, 54)], [(40, 34), (38, 66), (36, 100)]],
    ],
    5: [
        [
            [(60, 2), (38, 2), (16, 4)],
            [(16, 4), (14, 22), (10, 44)],
            [(10, 44), (32, 36), (56, 48), (60, 72), (44, 95), (22, 100), (2, 90)],
        ],
        [
            [(18, 6), (14, 26), (12, 46)],
            [(12, 46), (34, 40), (54, 54), (54, 80), (34, 99), (4, 94)],
            [(18, 6), (42, 5), (66, 0)],
        ],
        [[(68, 0), (44, 4), (26, 8), (14, 26), (22, 44), (42, 56), (50, 76), (36, 96), (14, 98), (0, 86)]],
    ],
    6: [
        [[(52, 0), (28, 20), (10, 48), (6, 78), (22, 99), (46, 96), (58, 76), (44, 56), (22, 60), (8, 80)]],
        [[(30, 0), (16, 28), (6, 60), (10, 90), (32, 100), (52, 86), (50, 66), (30, 60), (10, 78)]],
        [[(60, 6), (40, 2), (18, 22), (6, 54), (10, 86), (34, 100), (56, 84), (52, 58), (30, 48), (10, 64)]],
    ],
    7: [
        [[(4, 6), (32, 5), (62, 4)], [(62, 4), (44, 50), (28, 100)]],
        [[(4, 6), (32, 5), (62, 4)], [(62, 4), (44, 50), (28, 100)], [(22, 52), (44, 50), (66, 48)]],
        [[(6, 20), (6, 12), (8, 4)], [(8, 4), (34, 5), (62, 3)], [(62, 3), (46, 32), (36, 66), (34, 100)]],
        [[(2, 14), (16, 4), (36, 8), (60, 4)], [(60, 4), (46, 34), (34, 66), (26, 100)]],
    ],
    8: [
        [
            [
                (50, 10), (28, 0), (10, 16), (22, 38), (46, 56), (56, 78),
                (36, 99), (12, 90), (12, 70), (34, 48), (54, 26), (50, 10),
            ],
        ],
        [
            [(34, 0), (14, 10), (14, 34), (34, 46), (54, 34), (54, 10), (34, 0)],
            [(34, 46), (10, 58), (10, 88), (34, 100), (58, 88), (58, 58), (34, 46)],
        ],
        [
            [
                (60, 4), (36, 1), (14, 14), (20, 36), (42, 54), (50, 78),
                (32, 99), (12, 86), (18, 64), (40, 44), (58, 22), (62, 6),
            ],
        ],
    ],
    9: [
        [[(52, 14), (30, 2), (8, 16), (8, 40), (28, 48), (48, 34), (52, 14)], [(52, 14), (50, 56), (46, 100)]],
        [
            [(54, 16), (34, 0), (10, 14), (8, 38), (28, 50), (50, 36), (54, 16)],
            [(54, 16), (58, 44), (52, 78), (32, 100), (10, 94)],
        ],
        [[(50, 22), (34, 2), (10, 10), (4, 34), (24, 46), (46, 30), (54, 6)], [(54, 6), (40, 54), (26, 100)]],
    ],
}
# fmt: on


def load(train_size: int = 60_000, test_size: int = 10_000, seed: int = 0) -> ImageDataset:
    """Draw a data set of the size of MNIST, in a few seconds.

    Parameters
    ----------
    train_size, test_size : int
        The number of images; the ten digits come in random order, equally likely.
    seed : int
        The same seed draws the same images. The test part has a random sequence of its own, so that it shares
        no image with the training part and does not depend on `train_size`.

    Returns
    -------
    ImageDataset
        Images of uint8 (N, 28, 28).
    """
    sizes = [
        integer("strokes.load", "train_size", train_size, 1),
        integer("strokes.load", "test_size", test_size, 1),
    ]
    seed = integer("strokes.load", "seed", seed, 0)
    parts = []
    for part, size in enumerate(sizes):
        generator = np.random.default_rng([seed, part])
        labels = generator.integers(0, 10, size)
        parts.append((draw(labels, generator), labels))
    (train_images, train_labels), (test_images, test_labels) = parts
    mean, std = _mean_and_std(train_images)
    return ImageDataset(
        name="synthetic strokes (not MNIST)",
        source=f"ministn.data.strokes, seed {seed}",
        train_images=train_images,
        train_labels=train_labels,
        test_images=test_images,
        test_labels=test_labels,
        mean=mean,
        std=std,
    )


def draw(labels: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Draw one image for each label.

    Parameters
    ----------
    labels : numpy.ndarray of integers, shape (N,)
        Digits from 0 to 9.
    generator : numpy.random.Generator
        Chooses style, shape and pen.

    Returns
    -------
    numpy.ndarray of uint8, shape (N, 28, 28)
    """
    from ministn.data._strokes_raster import draw_polylines  # here, so that only drawing loads Numba

    labels = np.asarray(labels)
    if (
        labels.ndim != 1
        or labels.dtype.kind not in "iu"
        or (labels.size and not 0 <= labels.min() <= labels.max() <= 9)
    ):
        raise ValueError(f"strokes.draw: expected labels of shape (N,), integers from 0 to 9, got {labels!r}")
    number = len(labels)
    style = generator.integers(0, np.array([len(STYLES[digit]) for digit in range(10)])[labels])
    carelessness = 0.028 * np.exp(generator.normal(0.0, 0.5, number))  # of the digit's height
    matrix = _deformations(number, generator)
    radius = np.clip(np.exp(generator.normal(np.log(1.15), 0.3, number)), 0.5, 2.2)  # pixels
    box = generator.uniform(17.0, 20.5, number)  # pixels, the longer side with the pen's width
    centre = (IMAGE_SIZE - 1) / 2 + generator.normal(0.0, 0.5, (number, 2))  # pixels

    images = np.zeros((number, IMAGE_SIZE, IMAGE_SIZE), np.uint8)
    for digit, styles in STYLES.items():
        for index, curves in enumerate(styles):
            chosen = np.flatnonzero((labels == digit) & (style == index))
            control, spline, pen_down = _compile(curves)
            moved = control + carelessness[chosen, None, None] * generator.normal(size=(len(chosen), *control.shape))
            points = spline @ (moved @ matrix[chosen])
            points = _centred_in_box(points, pen_down, box[chosen] - 2 * radius[chosen]) + centre[chosen, None, :]
            part = np.zeros((len(chosen), IMAGE_SIZE, IMAGE_SIZE), np.uint8)
            draw_polylines(points, pen_down, radius[chosen], part)
            images[chosen] = part
    return images


def _deformations(number: int, generator: np.random.Generator) -> np.ndarray:
    """Random slant, then stretch, then rotation: matrices (N, 2, 2) that act on row vectors (x, y)."""
    slant = generator.normal(0.12, 0.28, number)  # x gained per unit of height: most hands lean to the right
    stretch = np.exp(generator.normal(0.0, 0.2, number))
    angle = generator.normal(0.0, np.deg2rad(10.0), number)
    one, zero = np.ones(number), np.zeros(number)
    shear = np.array([[one, zero], [-slant, one]])
    scale = np.array([[stretch, zero], [zero, one]])
    rotation = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    matrices: np.ndarray = np.einsum("abn,bcn,cdn->nad", shear, scale, rotation)
    return matrices


def _compile(curves: list[list[tuple[int, int]]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A style's distinct control points (D, 2), the matrix (P, D) that makes its polyline of them by equation (1),
    and for each of the polyline's P - 1 segments whether it is drawn: not where one curve ends and the next begins.
    """
    distinct = sorted({point for curve in curves for point in curve})
    rows: list[np.ndarray] = []
    pen_down: list[bool] = []
    for curve in curves:
        through = np.zeros((len(curve), len(distinct)))
        through[np.arange(len(curve)), [distinct.index(point) for point in curve]] = 1.0
        before, after = 2 * through[:1] - through[1:2], 2 * through[-1:] - through[-2:-1]  # straight on at both ends
        p = np.concatenate([before, through, after])
        for k in range(1, len(curve)):
            for t in np.arange(4) / 4:  # four segments a span: at most 2 pixels each
                rows.append(
                    (2 * p[k] + (p[k + 1] - p[k - 1]) * t)
                    + (2 * p[k - 1] - 5 * p[k] + 4 * p[k + 1] - p[k + 2]) * t**2
                    + (3 * p[k] - p[k - 1] - 3 * p[k + 1] + p[k + 2]) * t**3
                )
                pen_down.append(True)
        rows.append(2 * through[-1])
        pen_down.append(False)
    return np.array(distinct) / 100.0, np.array(rows) / 2.0, np.array(pen_down[:-1])


def _centred_in_box(points: np.ndarray, pen_down: np.ndarray, side: np.ndarray) -> np.ndarray:
    """Polylines (N, P, 2) scaled to a longer side of `side` (N,), with the centre of mass of their ink at the origin.

    Crossings are counted twice, which moves the centre by less than the position varies anyway.
    """
    extent = (points.max(axis=1) - points.min(axis=1)).max(axis=1)
    points = points * (side / extent)[:, None, None]
    length = np.linalg.norm(np.diff(points, axis=1), axis=2) * pen_down
    middle = (points[:, 1:] + points[:, :-1]) / 2
    mass_centre = (length[:, :, None] * middle).sum(axis=1) / length.sum(axis=1)[:, None]
    centred: np.ndarray = points - mass_centre[:, None, :]
    return centred


def _mean_and_std(images: np.ndarray) -> tuple[float, float]:
    """Mean and standard deviation of uint8 pixels, 255 counting as 1; from the histogram, without a float copy."""
    counts = np.bincount(images.reshape(-1), minlength=256)
    levels = np.arange(256) / 255
    mean = float(counts @ levels / counts.sum())
    return mean, float(np.sqrt(counts @ (levels - mean) ** 2 / counts.sum()))
