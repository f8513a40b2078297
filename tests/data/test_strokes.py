"""The drawn digits: the rasteriser against brute force, the spline against SciPy, the data set's properties."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.interpolate import CubicHermiteSpline

from ministn.data import load, strokes
from ministn.data._strokes_raster import draw_polylines


def drawn(points, pen_down, radius, height, width) -> np.ndarray:
    points = np.asarray(points, np.float64)
    images = np.full((len(points), height, width), 77, np.uint8)
    draw_polylines(points, np.asarray(pen_down), np.asarray(radius, np.float64), images)
    return images


def by_distance(points, pen_down, radius, height, width) -> np.ndarray:
    """Every pixel's distance to every segment, sampled densely instead of solved for."""
    y, x = np.mgrid[:height, :width]
    ink = np.zeros((height, width))
    for s, down in enumerate(pen_down):
        if down:
            for t in np.linspace(0, 1, 2001):
                px, py = (1 - t) * points[s] + t * points[s + 1]
                ink = np.maximum(ink, np.clip(radius + 0.5 - np.hypot(x - px, y - py), 0, 1))
    return 255 * ink


def test_raster_equals_brute_force():
    rng = np.random.default_rng(0)
    points = rng.uniform(-3, 14, (4, 5, 2))  # some outside the sheet
    pen_down = [True, True, False, True]
    radius = np.array([0.4, 0.9, 1.5, 3.0])
    images = drawn(points, pen_down, radius, 9, 13)
    for n in range(4):
        # half a grey level of rounding; samples 0.01 pixels apart miss the nearest point by far less than a level
        np.testing.assert_allclose(images[n], by_distance(points[n], pen_down, radius[n], 9, 13), rtol=0, atol=0.6)
    assert images.max() == 255


def test_a_horizontal_line_by_hand():
    # A pen of radius 1 along y = 2 from x = 1 to x = 3: row 2 is fully covered, rows 1 and 3 (distance 1) half,
    # and beyond the ends the same by distance: 255 * 0.5 = 127.5 rounds to 128.
    image = drawn([[[1.0, 2.0], [3.0, 2.0]]], [True], [1.0], 5, 6)[0]
    np.testing.assert_array_equal(image[2], [128, 255, 255, 255, 128, 0])
    np.testing.assert_array_equal(image[1, 1:4], [128, 128, 128])
    np.testing.assert_array_equal(image[[0, 4]], 0)


def test_a_dot_a_lifted_pen_and_a_stroke_off_the_sheet():
    dot = drawn([[[2.0, 1.0], [2.0, 1.0]]], [True], [0.5], 3, 5)[0]
    np.testing.assert_array_equal(dot, [[0, 0, 0, 0, 0], [0, 0, 255, 0, 0], [0, 0, 0, 0, 0]])
    assert not drawn([[[0.0, 0.0], [4.0, 2.0]]], [False], [1.0], 3, 5).any()
    assert not drawn([[[-1e6, -50.0], [1e6, -50.0]]], [True], [1.0], 3, 5).any()


def test_curves_are_catmull_rom_splines():
    curve = [(0, 0), (30, 20), (50, 10), (40, 80), (10, 100)]
    control, spline, pen_down = strokes._compile([curve])
    p = np.array(curve) / 100
    slopes = np.concatenate([[p[1] - p[0]], (p[2:] - p[:-2]) / 2, [p[-1] - p[-2]]])
    oracle = CubicHermiteSpline(np.arange(5), p, slopes)
    # a few float64 roundings of numbers of order 1
    np.testing.assert_allclose(spline @ control, oracle(np.arange(17) / 4), rtol=0, atol=1e-14)
    assert pen_down.all()
    assert pen_down.shape == (16,)


def test_curves_that_share_a_point_share_it_when_it_moves_and_the_pen_is_lifted_between_them():
    control, spline, pen_down = strokes._compile([[(0, 0), (50, 0)], [(50, 0), (50, 90)]])
    assert len(control) == 3
    moved = spline @ (control + np.array([[0, 0], [0.1, 0.2], [0, 0]]))
    np.testing.assert_allclose(moved[4], [0.6, 0.2], rtol=0, atol=1e-15)
    np.testing.assert_allclose(moved[5], [0.6, 0.2], rtol=0, atol=1e-15)
    assert np.flatnonzero(~pen_down).tolist() == [4]


@pytest.fixture(scope="module")
def dataset():
    return strokes.load(train_size=4000, test_size=1500, seed=1)


def test_data_set_has_the_form_of_mnist(dataset):
    assert dataset.train_images.shape == (4000, 28, 28)
    assert dataset.test_images.shape == (1500, 28, 28)
    assert dataset.train_images.dtype == dataset.test_images.dtype == np.uint8
    assert dataset.train_labels.dtype == dataset.test_labels.dtype == np.int64
    # 4000 draws with p = 1/10 have a standard deviation of 19: five of them
    assert np.abs(np.bincount(dataset.train_labels, minlength=10) - 400).max() < 95
    pixels = dataset.train_images / 255
    # exact up to float64 summation
    np.testing.assert_allclose([dataset.mean, dataset.std], [pixels.mean(), pixels.std()], rtol=1e-10)
    assert dataset.describe() == (
        "synthetic strokes (not MNIST): 4,000 training and 1,500 test images of 28 x 28 pixels, "
        "from ministn.data.strokes, seed 1"
    )


def test_digits_are_centred_by_mass_and_stay_on_the_sheet(dataset):
    images = dataset.train_images.astype(np.float64)
    mass = images.sum(axis=(1, 2))
    assert (mass > 255 * 10).all()  # at least ten full pixels of ink
    i, j = np.mgrid[:28, :28]
    centres = np.stack([(images * i).sum(axis=(1, 2)), (images * j).sum(axis=(1, 2))]) / mass
    # drawn with a standard deviation of 0.5 pixels around 13.5; crossings counted twice add a little
    assert np.abs(centres.mean(axis=1) - 13.5).max() < 0.1
    assert ((centres.std(axis=1) > 0.4) & (centres.std(axis=1) < 0.7)).all()
    border = np.ones((28, 28), bool)
    border[1:-1, 1:-1] = False
    assert images[:, border].any(axis=1).mean() < 0.03  # a lopsided digit may touch the edge


def test_the_seed_decides_and_test_images_are_others_than_training_images(dataset):
    again = strokes.load(train_size=100, test_size=1500, seed=1)
    np.testing.assert_array_equal(again.test_images, dataset.test_images)  # whatever the size of the training part
    np.testing.assert_array_equal(again.test_labels, dataset.test_labels)
    same = strokes.load(train_size=4000, test_size=1, seed=1)
    np.testing.assert_array_equal(same.train_images, dataset.train_images)
    other = strokes.load(train_size=4000, test_size=1, seed=2)
    assert not np.array_equal(other.train_images, dataset.train_images)
    train = {image.tobytes() for image in dataset.train_images}
    assert len(train) == 4000
    assert train.isdisjoint(image.tobytes() for image in dataset.test_images)


def test_labels_fit_but_templates_do_not_solve_it(dataset):
    # The mean image of each digit recognises most digits (so labels and images belong together), far from all.
    flat = dataset.train_images.reshape(4000, -1) / 255
    means = np.stack([flat[dataset.train_labels == digit].mean(axis=0) for digit in range(10)])
    test = dataset.test_images.reshape(1500, -1) / 255
    nearest = ((test[:, None] - means) ** 2).sum(axis=2).argmin(axis=1)
    assert 0.6 < (nearest == dataset.test_labels).mean() < 0.9


def test_every_style_is_drawn():
    for digit, styles in strokes.STYLES.items():
        assert len(styles) >= 3
        images = strokes.draw(np.full(50, digit), np.random.default_rng(digit))
        assert images.any(axis=(1, 2)).all()
    assert sorted(strokes.STYLES) == list(range(10))


def test_no_labels_no_images():
    assert strokes.draw(np.zeros(0, np.int64), np.random.default_rng(0)).shape == (0, 28, 28)


def test_bad_arguments():
    with pytest.raises(ValueError, match=r"strokes\.load: expected train_size to be at least 1, got 0"):
        strokes.load(train_size=0)
    with pytest.raises(TypeError, match=r"strokes\.load: expected test_size to be an integer, got 1\.5"):
        strokes.load(test_size=1.5)
    with pytest.raises(ValueError, match="expected seed to be at least 0, got -1"):
        load("strokes", seed=-1)
    for labels in ([10], [-1], [[1]], [0.5]):
        with pytest.raises(ValueError, match=r"strokes\.draw: expected labels of shape \(N,\), integers from 0 to 9"):
            strokes.draw(np.array(labels), np.random.default_rng(0))
