"""Not-so-Clevr: a white square of 9 x 9 pixels, anywhere on a canvas of 64 x 64. The data of the CoordConv paper.

A sample is its centre (x, y), x to the right and y down, in pixels, from 4 to 59: 56^2 = 3136 of them. All else is
made of centres, for as many as are wanted at a time:

>>> train, test = split("quadrant")
>>> train.shape, test.shape
((2407, 2), (729, 2))
>>> labels(train[:2]), normalised(train[:2]).tolist()
(array([260, 324]), [[0.0625, 0.0625], [0.0625, 0.078125]])
>>> one_hot(train[:2]).shape, squares(train[:2]).shape
((2, 64, 64), (2, 64, 64))

The paper's code, as it was released, does not make the splits that its text names: see `split`. It also paints the
squares grey, 128 of 255, and then measures the overlap of a painting with its target as sum(painting * target) over
the union, which even a perfect painting brings to 0.502 only. Here they are white.

References
----------
R. Liu et al. (2018), "An intriguing failing of convolutional neural networks and the CoordConv solution",
arXiv:1807.03247, section 2; its code at https://github.com/uber-research/CoordConv.
"""

from __future__ import annotations

import numpy as np

from ministn.kernels._checks import integer

CANVAS = 64  # pixels: the side of the images
RADIUS = 4  # pixels from a square's centre to its outermost ones
SPLITS, COUNTS = ("uniform", "quadrant"), ("released", "paper")
RELEASED_SEED = 20202


def centres() -> np.ndarray:
    """All centres (x, y), int64 (3136, 2), column after column: x grows slowest."""
    places = np.arange(RADIUS, CANVAS - RADIUS)
    return np.stack(np.meshgrid(places, places, indexing="ij"), axis=-1).reshape(-1, 2)


def split(name: str = "uniform", counts: str = "released", seed: int = RELEASED_SEED) -> tuple[np.ndarray, np.ndarray]:
    """The centres to train with and those to test with.

    ========  ========  ========  ====  ===========================================================================
    split     counts    training  test  which are tested
    ========  ========  ========  ====  ===========================================================================
    uniform   released  2368      768   each one with a chance of 1/4; for another seed the numbers differ
    uniform   paper     2509      627   a fifth, drawn at random
    quadrant  released  2407      729   x and y above 32: both middle pixels, 31 and 32, are for training
    quadrant  paper     2352      784   x and y above 31.5, the middle: a quarter
    ========  ========  ========  ====  ===========================================================================

    Parameters
    ----------
    name : {"uniform", "quadrant"}
    counts : {"released", "paper"}
        As the paper's code does it, to the very same centres, or as its text says.
    seed : int
        Of the uniform split; the default is that of the paper's code.

    Returns
    -------
    train, test : int64 ndarrays, shape (N, 2)
        Centres in the order of `centres`. (The released files have them in an order drawn once; batches need a new one
        in each epoch anyway.)
    """
    for argument, value, choices in (("name", name, SPLITS), ("counts", counts, COUNTS)):
        if value not in choices:
            raise ValueError(f"split: expected {argument} to be one of {', '.join(map(repr, choices))}, got {value!r}")
    seed = integer("split", "seed", seed, 0)
    every = centres()
    if name == "quadrant":
        tested = (every > (CANVAS / 2 if counts == "released" else (CANVAS - 1) / 2)).all(axis=1)
    elif counts == "released":
        tested = np.random.RandomState(seed).random_sample(len(every)) < 0.25
    else:
        tested = np.random.default_rng(seed).permutation(len(every)) < len(every) // 5
    return every[~tested], every[tested]


def labels(centres: np.ndarray) -> np.ndarray:
    """The number of the centre's pixel, 64 y + x: its class, of 4096. int64 (N,)."""
    x, y = centres.T
    return CANVAS * y + x


def one_hot(centres: np.ndarray) -> np.ndarray:
    """Images of one white pixel, at the centre: uint8 (N, 64, 64), 255 where row = y and column = x."""
    return _around(centres, 0)


def squares(centres: np.ndarray) -> np.ndarray:
    """Images of the squares: uint8 (N, 64, 64), 255 inside and 0 outside."""
    return _around(centres, RADIUS)


def normalised(centres: np.ndarray) -> np.ndarray:
    """The centre as the target of a regression: (x / 64, y / 64), float32 (N, 2), from 0.0625 to 0.922.

    So the paper's code has it. It is not the scale of a CoordConv's own channels, which go from -1 to 1.
    """
    return (centres / CANVAS).astype(np.float32)


def _around(centres: np.ndarray, radius: int) -> np.ndarray:
    x, y = (np.abs(np.arange(CANVAS) - coordinate[:, None]) <= radius for coordinate in centres.T)
    return np.where(y[:, :, None] & x[:, None, :], np.uint8(255), np.uint8(0))
