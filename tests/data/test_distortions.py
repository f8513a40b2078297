"""Distorted MNIST: values against SciPy's interpolation, what is drawn, reproducibility, bad input."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy import ndimage, stats
from scipy.interpolate import RBFInterpolator

import ministn
from ministn import data
from ministn.data import DISTORTIONS, DataLoader, _warps, distorted_test_set, distortions
from ministn.data.distortions import (
    ElasticallyDistorted,
    Projected,
    Rotated,
    RotatedScaledTranslated,
    TranslatedCluttered,
    control_points,
    spline_weights,
)

BATCH = 12


def digits(number: int = BATCH, seed: int = 7) -> np.ndarray:
    """Random pixels, up to the edge, where digits have none, so that what is read beyond it shows."""
    return np.random.default_rng(seed).integers(0, 256, (number, 28, 28), dtype=np.uint8)


def distortion(name: str):
    return distortions.get(name, digits(20, seed=8))


def assert_is_interpolated(got: np.ndarray, images: np.ndarray, x: np.ndarray, y: np.ndarray, error: float) -> None:
    """`got` is what SciPy reads in the images at x and y (B, canvas, canvas), rounded to the nearest integer.

    `error` is by how many pixels the points may differ; a pixel further on, an image changes by 255 at most per axis.
    """
    expected = np.array(
        [
            # grid-constant: zeros outside, and interpolated with them
            ndimage.map_coordinates(image.astype(float), [v, u], order=1, mode="grid-constant")
            for image, u, v in zip(images, x, y, strict=True)
        ]
    )
    assert got.dtype == np.uint8
    assert got.shape == expected.shape
    assert got.any(axis=(1, 2)).all()
    rounding = 10 * 255 * np.finfo(np.float32).eps / 2  # some ten of numbers up to 255, in float32
    np.testing.assert_allclose(got, expected, rtol=0, atol=0.5 + rounding + 2 * 255 * error)


def pixels(canvas: int) -> tuple[np.ndarray, np.ndarray]:
    y, x = np.mgrid[:canvas, :canvas].astype(float)
    return x, y


FLOAT64 = 1e-10  # pixels: rounding of coordinates below 100, divided by a w that is not small inside the frame
FLOAT32 = 1e-4  # pixels: a sum of 16 products of coordinates below 100, each rounded to 6e-8 of it


# --- values ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["R", "RTS"])
def test_turned_digits_are_scipys(name):
    images, distort = digits(), distortion(name)
    drawn = distort.draw(BATCH, np.random.default_rng(3))
    degrees = drawn[0]
    scale, centre = drawn[1:] if name == "RTS" else (np.ones(BATCH), np.full((BATCH, 2), 13.5))
    x, y = pixels(distort.canvas)
    at = (x + 1j * y - (centre @ [1, 1j])[:, None, None]) / (scale * np.exp(1j * np.radians(degrees)))[:, None, None]
    got = distort(images, np.random.default_rng(3))
    assert_is_interpolated(got, images, at.real + 13.5, at.imag + 13.5, FLOAT64)


def test_a_positive_angle_turns_clockwise_on_the_screen():
    images = digits()
    got = Rotated().distort(images, np.full(BATCH, 90.0))
    np.testing.assert_array_equal(got, np.rot90(images, -1, axes=(1, 2)))


def test_projected_digits_are_scipys_and_corners_go_to_corners():
    images, distort = digits(), Projected(sigma=5)  # strongly, with the horizon near some of the digits
    (corners,) = distort.draw(BATCH, np.random.default_rng(3))
    x, y = pixels(28)
    points = []
    for moved in corners:
        # The eight equations for the matrix, its last entry 1: X = x w and Y = y w at the four corners, in float64.
        rows, right = [], []
        for (u, v), (s, t) in zip(moved, [(-0.5, -0.5), (27.5, -0.5), (27.5, 27.5), (-0.5, 27.5)], strict=True):
            rows += [[u, v, 1, 0, 0, 0, -s * u, -s * v], [0, 0, 0, u, v, 1, -t * u, -t * v]]
            right += [s, t]
        matrix = np.append(np.linalg.solve(rows, right), 1).reshape(3, 3)
        at_x, at_y, w = np.einsum("rc,chw->rhw", matrix, np.stack([x, y, np.ones_like(x)]))
        w *= np.sign(matrix[2] @ [*moved.mean(axis=0), 1])  # the middle of the corners is on this side of the horizon
        sign = np.where(w > 0, np.sign(matrix[2] @ [*moved.mean(axis=0), 1]), 0)
        points.append(np.where(w > 0, [sign * at_x / np.abs(w), sign * at_y / np.abs(w)], -9.0))
    at = np.array(points)
    # The system above has a condition number of up to 1e6.
    assert_is_interpolated(distort(images, np.random.default_rng(3)), images, at[:, 0], at[:, 1], 1e-8)


def test_the_matrix_of_a_quadrilateral_takes_its_corners_to_the_frames():
    (corners,) = Projected(sigma=5).draw(1000, np.random.default_rng(4))
    matrices = distortions._to_frame(corners)
    x, y, w = np.einsum("brc,bkc->rbk", matrices, np.concatenate([corners, np.ones((1000, 4, 1))], axis=2))
    assert (w > 0).all()
    # float64 rounding, times what the narrowest of a thousand quadrilaterals loses
    np.testing.assert_allclose(x / w, np.tile([-0.5, 27.5, 27.5, -0.5], (1000, 1)), atol=1e-6)
    np.testing.assert_allclose(y / w, np.tile([-0.5, -0.5, 27.5, 27.5], (1000, 1)), atol=1e-6)


def test_beyond_the_horizon_there_is_nothing():
    images, identity = digits(3), np.eye(3)
    at_column_13 = np.array([[0.0, 0, 14], [0, 0, 14], [1, 0, -13]])  # w = x - 13: the source is (14, 14) at x = 14
    shown, behind, between = _warps.projected(images, np.array([identity, -identity, at_column_13]), 28)
    np.testing.assert_array_equal(shown, images[0])
    assert not behind.any()
    assert not between[:, :14].any()
    assert (between[:, 14] == images[2, 14, 14]).all()


def test_elastic_digits_are_scipys():
    """SciPy solves the spline's system by itself: r^2 log r and a polynomial of degree 1."""
    images, distort = digits(), ElasticallyDistorted()
    scale, moved = distort.draw(BATCH, np.random.default_rng(3))
    x, y = pixels(28)
    points = np.stack([x.ravel(), y.ravel()], axis=1)
    at = np.array(
        [
            RBFInterpolator(control_points(28, 4), control_points(28, 4) + by, kernel="thin_plate_spline", degree=1)(
                points
            )
            for by in moved
        ]
    )
    at = 13.5 + (at - 13.5) / scale[:, None, None]
    at_x, at_y = at.reshape(BATCH, 28, 28, 2).transpose(3, 0, 1, 2)
    assert_is_interpolated(distort(images, np.random.default_rng(3)), images, at_x, at_y, FLOAT32)


def test_the_spline_takes_control_points_to_where_they_move():
    """On a canvas of 31 pixels with 3 x 3 points, from edge to edge, none lies on a pixel: one of 4 n + 1 pixels with
    points at n, 2 n and 3 n does in its middle, and there the weights are 1 and 0."""
    canvas, points = 29, 3
    weights = spline_weights(canvas, points).reshape(points**2, canvas, canvas)
    np.testing.assert_allclose(control_points(canvas, points)[4], [14, 14])
    np.testing.assert_allclose(weights[:, 14, 14], np.eye(9)[4], atol=1e-6)  # float32
    # What is affine is kept: a constant, x and y.
    x, y = pixels(canvas)
    np.testing.assert_allclose(weights.sum(axis=0), 1, atol=1e-5)
    np.testing.assert_allclose(np.tensordot(control_points(canvas, points)[:, 0], weights, 1), x, atol=1e-4)
    np.testing.assert_allclose(np.tensordot(control_points(canvas, points)[:, 1], weights, 1), y, atol=1e-4)
    assert not weights.flags.writeable


def test_clutter_is_pixels_of_other_digits_added_to_an_intact_digit():
    images, clutter = digits(40), digits(9, seed=8)
    distort = TranslatedCluttered(clutter)
    corner, cut, glued = distort.draw(40, np.random.default_rng(3))
    got = distort(images, np.random.default_rng(3))
    expected = np.zeros((40, 60, 60), int)
    covered = np.zeros((40, 60, 60), bool)
    for b in range(40):
        i, j = corner[b]
        expected[b, i : i + 28, j : j + 28] = images[b]
        for (n, row, column), (i, j) in zip(cut[b], glued[b], strict=True):
            assert 4 <= row <= 18
            assert 4 <= column <= 18
            expected[b, i : i + 6, j : j + 6] += clutter[n, row : row + 6, column : column + 6]
            covered[b, i : i + 6, j : j + 6] = True
    assert got.dtype == np.uint8
    np.testing.assert_array_equal(got, expected.clip(0, 255))
    assert (expected > 255).any()
    alone = np.where(covered, 0, got)
    bare = TranslatedCluttered(clutter, count=0).distort(images, corner, cut[:, :0], glued[:, :0])
    np.testing.assert_array_equal(alone, np.where(covered, 0, bare))
    assert bare.sum() == images.sum()


@pytest.mark.parametrize(
    "distort",
    [
        Rotated(degrees=(0, 0), canvas=40),
        RotatedScaledTranslated(degrees=(0, 0), scale=(1, 1), canvas=28),
        Projected(scale=(1, 1), sigma=0, canvas=40),
        ElasticallyDistorted(scale=(1, 1), sigma=0, canvas=40),
        TranslatedCluttered(digits(), count=0, canvas=28),
    ],
    ids=lambda distort: type(distort).__name__,
)
def test_nothing_to_distort_leaves_the_digit_in_the_middle(distort):
    images = digits()
    before = images.copy()
    margin = (distort.canvas - 28) // 2
    expected = np.pad(images, ((0, 0), (margin, margin), (margin, margin)))
    np.testing.assert_array_equal(distort(images, np.random.default_rng(1)), expected)
    np.testing.assert_array_equal(images, before)


# --- what is drawn --------------------------------------------------------------------------------------------------

MANY = 20_000


def assert_is_uniform(values: np.ndarray, low: float, high: float) -> None:
    """Kolmogorov and Smirnov's test at 1 in 1,000; the seed is fixed, so that it passes or fails for good."""
    assert low <= values.min() < values.max() <= high
    assert stats.kstest(values, stats.uniform(low, high - low).cdf).pvalue > 1e-3


def assert_is_normal(values: np.ndarray, sigma: float) -> None:
    assert stats.kstest(values, stats.norm(0, sigma).cdf).pvalue > 1e-3


def test_angles_are_uniform():
    (degrees,) = Rotated().draw(MANY, np.random.default_rng(0))
    assert_is_uniform(degrees, -90, 90)


def test_angles_scales_and_places_are_uniform():
    degrees, scale, centre = RotatedScaledTranslated().draw(MANY, np.random.default_rng(0))
    assert_is_uniform(degrees, -45, 45)
    assert_is_uniform(scale, 0.7, 1.2)
    for place in centre.T:
        # in parts of the room that a frame of this scale has
        assert_is_uniform((place - 20.5) / (21 - 14 * scale), -1, 1)
    assert (centre - 14 * scale[:, None]).min() >= -0.5
    assert (centre + 14 * scale[:, None]).max() <= 41.5
    together = np.corrcoef([degrees, scale, *centre.T])
    assert np.abs(together - np.eye(4)).max() < 4 / np.sqrt(MANY)  # four standard deviations


def test_corners_are_normal_about_those_of_a_scaled_frame():
    distort = Projected(sigma=1.0)  # so small that none is drawn again
    (corners,) = distort.draw(MANY, np.random.default_rng(0))
    generator = np.random.default_rng(0)
    scale = generator.uniform(0.75, 1.0, MANY)
    expected = 13.5 + 14 * scale[:, None, None] * [(-1, -1), (1, -1), (1, 1), (-1, 1)]
    assert_is_uniform(scale, 0.75, 1.0)
    assert_is_normal((corners - expected).ravel(), 1.0)


def test_which_quadrilaterals_are_drawn_again():
    def sides(corners):
        """For each side, on which side of it the other two corners are: 1 for the inside."""
        to = np.roll(corners, -1, axis=1) - corners
        others = [np.roll(corners, -k, axis=1) - corners for k in (2, 3)]
        return np.sign([to[..., 0] * other[..., 1] - to[..., 1] * other[..., 0] for other in others])

    (corners,) = Projected(sigma=5).draw(MANY, np.random.default_rng(0))
    assert (sides(corners) == 1).all()
    generator = np.random.default_rng(0)
    scale = generator.uniform(0.75, 1.0, MANY)
    first = (
        13.5 + 14 * scale[:, None, None] * [(-1, -1), (1, -1), (1, 1), (-1, 1)] + generator.normal(0, 5, (MANY, 4, 2))
    )
    kept = (corners == first).all(axis=(1, 2))
    np.testing.assert_array_equal(kept, (sides(first) == 1).all(axis=(0, 2)))
    # the docstring's shares, to within four standard deviations of MANY draws
    assert 1 - kept.mean() == pytest.approx(0.014, abs=4 * np.sqrt(0.014 / MANY))
    narrow = distortions._least_stretch(corners) < 1 / 3
    assert narrow.mean() == pytest.approx(0.071, abs=4 * np.sqrt(0.071 / MANY))
    wide = Projected(sigma=5, least_stretch=1 / 3).draw(MANY, generator)[0]
    assert (distortions._least_stretch(wide) >= 1 / 3).all()


def test_projected_digits_by_default_are_the_calibrated_ones():
    assert dataclasses.astuple(Projected()) == ((0.75, 1.0), 2.75, 0.0, 28)
    assert distortions.get("P", digits()) == Projected()
    assert distortions.get("P5", digits()) == Projected(sigma=5.0)
    (corners,) = Projected().draw(MANY, np.random.default_rng(0))
    generator = np.random.default_rng(0)
    scale = generator.uniform(0.75, 1.0, MANY)
    moved = corners - 13.5 - 14 * scale[:, None, None] * [(-1, -1), (1, -1), (1, 1), (-1, 1)]
    assert_is_normal(moved.ravel(), 2.75)  # so few are drawn again that it does not show


def test_least_stretch_is_the_smaller_singular_value_of_the_derivative():
    (corners,) = Projected().draw(50, np.random.default_rng(0))
    for quadrilateral, got in zip(corners, distortions._least_stretch(corners), strict=True):
        to_canvas = np.linalg.inv(distortions._to_frame(quadrilateral[None])[0])

        def canvas(x, y, to_canvas=to_canvas):
            point = to_canvas @ [x, y, 1]
            return point[:2] / point[2]

        step = 1e-4  # error of the difference: about step^2 times the third derivative
        columns = [
            canvas(13.5 + step, 13.5) - canvas(13.5 - step, 13.5),
            canvas(13.5, 13.5 + step) - canvas(13.5, 13.5 - step),
        ]
        expected = np.linalg.svd(np.transpose(columns) / (2 * step), compute_uv=False).min()
        assert got == pytest.approx(expected, rel=1e-6)


def test_control_points_move_normally():
    scale, moved = ElasticallyDistorted().draw(2000, np.random.default_rng(0))
    assert moved.shape == (2000, 16, 2)
    assert_is_uniform(scale, 0.75, 1.0)
    assert_is_normal(moved.ravel(), 1.5)


def test_digits_and_clutter_come_anywhere():
    distort = TranslatedCluttered(digits(20, seed=8), count=3, size=5)
    corner, cut, glued = distort.draw(MANY, np.random.default_rng(0))
    for values, low, high in [
        (corner[:, 0], 0, 32),
        (corner[:, 1], 0, 32),
        (cut[..., 0], 0, 19),
        (cut[..., 1], 4, 19),
        (cut[..., 2], 4, 19),
        (glued[..., 0], 0, 55),
        (glued[..., 1], 0, 55),
    ]:
        counts = np.bincount(values.ravel(), minlength=high + 1)
        assert len(counts) == high + 1
        assert not counts[:low].any()
        assert stats.chisquare(counts[low:]).pvalue > 1e-3  # the seed is fixed


def test_no_patch_is_empty_unless_all_are():
    clutter = np.zeros((10, 28, 28), np.uint8)
    clutter[::2, :, 13] = 9
    _, cut, _ = TranslatedCluttered(clutter).draw(200, np.random.default_rng(0))
    n, _, j = cut.reshape(-1, 3).T
    assert not (n % 2).any()
    assert ((j >= 8) & (j <= 13)).all()
    blank = TranslatedCluttered(np.zeros((2, 28, 28), np.uint8))
    assert not blank(np.zeros((3, 28, 28), np.uint8), np.random.default_rng(0)).any()


# --- reproducibility ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DISTORTIONS)
def test_the_same_seed_gives_the_same_bits_on_any_number_of_threads(name):
    images, distort = digits(23), distortion(name)
    before = ministn.get_num_threads()
    try:
        results = []
        for threads in (1, before):
            ministn.set_num_threads(threads)
            results.append(distorted_test_set(images, distort, 5))
    finally:
        ministn.set_num_threads(before)
    np.testing.assert_array_equal(*results)
    assert results[0].shape == (23, distort.canvas, distort.canvas)
    np.testing.assert_array_equal(results[0], distort(images, np.random.default_rng(5)))
    assert (results[0] != distorted_test_set(images, distort, 6)).any()


@pytest.mark.parametrize("name", DISTORTIONS)
def test_an_epoch_goes_on_from_any_batch_and_loaders_share_nothing(name):
    images, numbers = digits(20), np.arange(20)

    def loader():
        return DataLoader(images, numbers, 8, seed=2, augment=distort)

    distort = distortion(name)
    whole = loader()
    assert whole.image_shape == (distort.canvas, distort.canvas)
    first, second = [[(x.data, y) for x, y in whole] for _ in range(2)]
    assert [x.shape for x, _ in first] == [
        (8, 1, *whole.image_shape),
        (8, 1, *whole.image_shape),
        (4, 1, *whole.image_shape),
    ]
    a, b = loader(), loader()
    a.epoch = b.epoch = 1
    for (x, x_labels), (y, y_labels), (z, z_labels) in zip(a.batches(1), b.batches(1), second[1:], strict=True):
        np.testing.assert_array_equal(x.data, z)
        np.testing.assert_array_equal(y.data, z)
        np.testing.assert_array_equal(x_labels, z_labels)
        np.testing.assert_array_equal(y_labels, z_labels)
    # The same digit, another epoch: another distortion.
    x, y = (np.concatenate([x for x, _ in e])[np.argsort(np.concatenate([y for _, y in e]))] for e in (first, second))
    assert (x != y).any(axis=(1, 2, 3)).all()


# --- bad input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (
            Rotated,
            {"degrees": (3, 2)},
            r"expected degrees to be a finite range \(low, high\), low <= high, got \(3, 2\)",
        ),
        (Rotated, {"degrees": (0, np.inf)}, "expected degrees to be a finite range"),
        (Rotated, {"degrees": 90}, "expected degrees to be a finite range .* got 90"),
        (Projected, {"scale": (0.5, 0.6, 0.7)}, "expected scale to be a finite range"),
        (Rotated, {"canvas": 27}, "expected canvas to be at least 28, got 27"),
        (RotatedScaledTranslated, {"scale": (0, 1)}, r"expected scale .*, 0 < low <= high, got \(0, 1\)"),
        (RotatedScaledTranslated, {"canvas": 33}, "expected canvas to be at least 34, got 33"),
        (Projected, {"sigma": -1}, "expected a finite sigma >= 0, got -1"),
        (Projected, {"sigma": "x"}, "expected a finite sigma >= 0, got 'x'"),
        (
            Projected,
            {"least_stretch": 0.75},
            "expected least_stretch to be from 0 to below the lowest scale, 0.75, got 0.75",
        ),
        (ElasticallyDistorted, {"sigma": np.nan}, "expected a finite sigma >= 0, got nan"),
        (ElasticallyDistorted, {"points": 1}, "expected points to be at least 2, got 1"),
        (TranslatedCluttered, {"clutter_images": np.zeros((0, 28, 28), np.uint8)}, "at least one of clutter_images"),
        (
            TranslatedCluttered,
            {"clutter_images": np.zeros((1, 28, 28))},
            r"expected clutter_images of uint8 \(B, 28, 28\)",
        ),
        (TranslatedCluttered, {"clutter_images": digits(), "size": 21}, "expected size to be at most 20"),
        (TranslatedCluttered, {"clutter_images": digits(), "count": -1}, "expected count to be at least 0, got -1"),
    ],
)
def test_bad_fields(kind, options, message):
    with pytest.raises(ValueError, match=f"{kind.__name__}: {message}|{kind.__name__}: .*{message}"):
        kind(**options)


@pytest.mark.parametrize("name", DISTORTIONS)
def test_bad_images(name):
    for images in (np.zeros((2, 28, 27), np.uint8), np.zeros((2, 28, 28), np.float32), np.zeros((28, 28), np.uint8)):
        with pytest.raises(
            ValueError, match=rf"{DISTORTIONS[name].__name__}: expected images of uint8 \(B, 28, 28\), got"
        ):
            distortion(name)(images, np.random.default_rng(0))
    with pytest.raises(ValueError, match="expected images of uint8"):
        distortion(name).distort(digits(4)[:, 1:], *distortion(name).draw(4, np.random.default_rng(0)))


@pytest.mark.parametrize("name", DISTORTIONS)
def test_what_is_drawn_must_be_for_these_images(name):
    distort, images = distortion(name), digits(4)
    drawn = distort.draw(4, np.random.default_rng(0))
    for wrong in (distort.draw(3, np.random.default_rng(0)), (), (*drawn, drawn[0]), (*drawn[:-1], drawn[-1][..., :1])):
        with pytest.raises(ValueError, match=rf"{type(distort).__name__}\.distort: expected arrays of shapes \[\(4"):
            distort.distort(images, *wrong)
    with pytest.raises(TypeError, match=r"distort: expected arrays of .*, as draw returns them, got "):
        distort.distort(images, *(array.astype(complex) for array in drawn))


@pytest.mark.parametrize(
    ("which", "place", "message"),
    [
        (0, (0, 33), r"places of the digit from 0 to below \[33, 33\], got \[.*\] to \[.*33\]"),
        (0, (-1, 0), "places of the digit"),
        (1, (30, 0, 0), r"places of cuts from 0 to below \[30, 23, 23\]"),
        (1, (0, 0, 23), "places of cuts"),
        (2, (55, 0), r"places of patches from 0 to below \[55, 55\]"),
    ],
)
def test_digit_and_clutter_must_stay_on_the_canvas(which, place, message):
    distort = TranslatedCluttered(digits(30))
    drawn = distort.draw(4, np.random.default_rng(0))
    drawn[which].reshape(-1, len(place))[-1] = place
    with pytest.raises(ValueError, match=f"TranslatedCluttered.distort: expected {message}"):
        distort.distort(digits(4), *drawn)


def test_bad_names_and_seeds():
    with pytest.raises(ValueError, match=r"distortions\.get: expected name to be one of R, RTS, P, E, TC, P5, got 'X'"):
        distortions.get("X", digits())
    with pytest.raises(ValueError, match="distorted_test_set: expected seed to be at least 0, got -1"):
        distorted_test_set(digits(), Rotated(), -1)


def test_fields_do_not_change():
    distort = Rotated()
    with pytest.raises(dataclasses.FrozenInstanceError):
        distort.canvas = 3
    assert distort == Rotated()


# --- the contact sheets ---------------------------------------------------------------------------------------------


def test_the_example_draws_a_sheet_of_each_set(tmp_path, monkeypatch, capsys):
    import distorted_mnist

    monkeypatch.setattr(data, "load", lambda name, folder: data.strokes.load(20, 300))
    distorted_mnist.main(["--folder", str(tmp_path / "sheets")])
    paths = [tmp_path / "sheets" / f"distorted_{name}.png" for name in [*DISTORTIONS, "P5"]]
    assert capsys.readouterr().out.split() == [str(path) for path in paths]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths)
