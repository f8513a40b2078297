"""Not-so-Clevr: counts of the splits, where things are, and what the paper's code gets wrong."""

import numpy as np
import pytest

from ministn import Tensor
from ministn import functional as F
from ministn.data import not_so_clevr


def test_every_square_lies_inside_and_occurs_once():
    centres = not_so_clevr.centres()
    assert centres.shape == (3136, 2)
    assert len(np.unique(centres, axis=0)) == 3136
    assert (centres.min(), centres.max()) == (4, 59)
    np.testing.assert_array_equal(centres[[0, 1, 56]], [[4, 4], [4, 5], [5, 4]])  # the order of the released code


@pytest.mark.parametrize(
    ("name", "counts", "expected"),
    [
        ("uniform", "released", (2368, 768)),
        ("uniform", "paper", (2509, 627)),
        ("quadrant", "released", (2407, 729)),
        ("quadrant", "paper", (2352, 784)),
    ],
)
def test_counts_of_the_splits(name, counts, expected):
    train, test = not_so_clevr.split(name, counts)
    assert (len(train), len(test)) == expected
    together = np.concatenate([train, test])
    np.testing.assert_array_equal(together[np.lexsort(together.T[::-1])], not_so_clevr.centres())


@pytest.mark.parametrize(("counts", "first"), [("released", 33), ("paper", 32)])
def test_the_tested_quadrant_is_the_lower_right_one(counts, first):
    train, test = not_so_clevr.split("quadrant", counts)
    np.testing.assert_array_equal(np.unique(test), np.arange(first, 60))
    assert ((train < first).any(axis=1)).all()


@pytest.mark.parametrize("counts", not_so_clevr.COUNTS)
def test_the_uniform_split_follows_from_its_seed(counts):
    (_, first), (_, again), (_, other) = (not_so_clevr.split("uniform", counts, seed) for seed in (7, 7, 8))
    np.testing.assert_array_equal(first, again)
    assert first.shape != other.shape or (first != other).any()


def test_x_is_the_column_and_y_the_row():
    centre = np.array([[20, 50]])
    assert not_so_clevr.labels(centre) == [64 * 50 + 20]
    (pixel,), (square,) = not_so_clevr.one_hot(centre), not_so_clevr.squares(centre)
    np.testing.assert_array_equal(np.argwhere(pixel), [[50, 20]])
    assert pixel.reshape(-1).argmax() == not_so_clevr.labels(centre)[0]
    rows, columns = np.nonzero(square)
    assert (rows.min(), rows.max(), columns.min(), columns.max(), len(rows)) == (46, 54, 16, 24, 81)


def test_squares_are_one_hot_images_convolved_with_ones():
    """The two lines of code that the paper gives for the data."""
    centres = not_so_clevr.centres()[::97]
    pixels = Tensor(not_so_clevr.one_hot(centres)[:, None].astype(np.float32))
    painted = F.conv2d(pixels, Tensor(np.ones((1, 1, 9, 9), np.float32)), padding=4)
    np.testing.assert_array_equal(painted.data[:, 0], not_so_clevr.squares(centres))


def test_squares_are_white():
    """With the released code's grey 128 a perfect painting would overlap by 128 / 255 only."""
    target = not_so_clevr.squares(not_so_clevr.centres()[:5]) / 255
    painted = target > 0.5
    overlap = (painted * target).sum(axis=(1, 2)) / (painted | (target > 0)).sum(axis=(1, 2))
    np.testing.assert_array_equal(overlap, 1)


def test_regression_targets_are_centres_over_64():
    targets = not_so_clevr.normalised(np.array([[4, 59], [32, 16]]))
    assert targets.dtype == np.float32
    np.testing.assert_array_equal(targets, [[4 / 64, 59 / 64], [0.5, 0.25]])


def test_unknown_names_are_named():
    with pytest.raises(ValueError, match="split: expected name to be one of 'uniform', 'quadrant', got 'half'"):
        not_so_clevr.split("half")
    with pytest.raises(ValueError, match="split: expected counts to be one of 'released', 'paper', got 'mine'"):
        not_so_clevr.split("uniform", "mine")
    with pytest.raises(TypeError, match="split: expected seed to be an integer"):
        not_so_clevr.split(seed=0.5)
