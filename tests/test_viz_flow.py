"""One pixel's gradients, against finite differences and by hand; then the picture."""

from __future__ import annotations

import numpy as np
import pytest
from test_viz import png, texts

import ministn.functional as F
from ministn import tensor, viz

IMAGE = np.random.default_rng(0).uniform(size=(5, 7))
THETA = np.array([[0.7, 0.2, 0.11], [-0.3, 0.6, 0.07]])


def warped(image: np.ndarray, theta: np.ndarray, size: tuple[int, int], align_corners: bool) -> np.ndarray:
    grid = F.affine_grid(tensor(theta[None]), (1, 1, *size), align_corners)
    return F.grid_sample(tensor(image[None, None]), grid, align_corners=align_corners).numpy()[0, 0]


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize(("size", "pixel"), [((5, 7), (3, 2)), ((4, 6), (0, 5))])
def test_all_gradients_are_those_of_finite_differences(size, pixel, align_corners):
    flow = viz.pixel_gradients(IMAGE, THETA, pixel, size, align_corners)
    output = warped(IMAGE, THETA, size, align_corners)
    np.testing.assert_array_equal(flow.output, output)
    assert flow.value == output[pixel]

    for where in np.ndindex(IMAGE.shape):  # linear in the image: a whole step is as good as a small one
        brighter = IMAGE.copy()
        brighter[where] += 1
        change = warped(brighter, THETA, size, align_corners)[pixel] - flow.value
        assert flow.weights[where] == pytest.approx(change, abs=1e-14)  # float64 rounding

    # Piecewise quadratic in the point, so central differences are exact but for rounding: 1e-16 / 1e-4.
    for where in np.ndindex(2, 3):
        step = np.zeros((2, 3))
        step[where] = 1e-4
        ahead, behind = (warped(IMAGE, THETA + s, size, align_corners)[pixel] for s in (step, -step))
        assert flow.theta[where] == pytest.approx((ahead - behind) / 2e-4, abs=1e-11)
    for axis in (0, 1):  # t_x and t_y move the point by these pixels
        pixels_per_unit = (IMAGE.shape[1 - axis] - align_corners) / 2
        assert flow.slope[axis] * pixels_per_unit == pytest.approx(flow.theta[axis, 2], abs=1e-14)


def test_by_hand():
    """A quarter to the right of pixel 1 and half-way from row 0 to row 1 of a 2 x 4 image."""
    image = np.array([[1.0, 2, 4, 8], [3, 5, 7, 9]])
    shift = np.array([[1, 0, 0.25 * 2 / 4], [0, 1, 0.5 * 2 / 2]])
    flow = viz.pixel_gradients(image, shift, (0, 1))
    np.testing.assert_allclose(flow.point, [1.25, 0.5], rtol=1e-15)
    np.testing.assert_allclose(flow.points[0, :, 0], [0.25, 1.25, 2.25, 3.25], rtol=1e-15)
    np.testing.assert_allclose(flow.weights, [[0, 0.375, 0.125, 0], [0, 0.375, 0.125, 0]], atol=1e-15)
    assert flow.value == pytest.approx(0.375 * (2 + 5) + 0.125 * (4 + 7))
    # along x the mean of 4 - 2 and 7 - 5; along y three quarters of 5 - 2 and a quarter of 7 - 4
    np.testing.assert_allclose(flow.slope, [2, 3], rtol=1e-14)
    # per half image size, times the target point: pixel 1 of 4 is x_t = -1/4, row 0 of 2 is y_t = -1/2
    np.testing.assert_allclose(flow.theta, np.outer([2 * 2, 3 * 1], [-0.25, -0.5, 1]), rtol=1e-14)


def test_a_point_outside_reads_nothing_and_pulls_nothing():
    flow = viz.pixel_gradients(IMAGE, np.array([[1, 0, 3.0], [0, 1, 0]]), (2, 2))
    assert flow.value == 0
    assert not flow.weights.any()
    assert not flow.slope.any()
    assert not flow.theta.any()
    png(viz.gradient_flow(IMAGE, np.array([[1, 0, 3.0], [0, 1, 0]]), (2, 2)))


def test_gradient_flow_draws_what_pixel_gradients_has_computed():
    image = np.array([[0.1, 0.2, 0.4, 0.8], [0.3, 0.5, 0.7, 0.9]])
    shift = np.array([[1, 0, 0.25 * 2 / 4], [0, 1, 0.5 * 2 / 2]])
    figure = viz.gradient_flow(image, shift, (0, 1), data="eight pixels")
    target, source, close, pull = figure.axes
    flow = viz.pixel_gradients(image, shift, (0, 1))
    np.testing.assert_array_equal(target.images[0].get_array(), flow.output)
    assert target.patches[0].get_xy() == (0.5, -0.5)  # around row 0, column 1
    np.testing.assert_array_equal(source.lines[0].get_xydata(), flow.points.reshape(-1, 2))
    *weights, arrow = close.texts
    assert [(text.get_position(), text.get_text()) for text in weights] == [
        ((1, 0), "0.38\nof 0.2"),
        ((2, 0), "0.12\nof 0.4"),
        ((1, 1), "0.38\nof 0.5"),
        ((2, 1), "0.12\nof 0.7"),
    ]
    direction = np.subtract(arrow.xy, arrow.xyann)
    np.testing.assert_allclose(direction / np.hypot(*direction), flow.slope / np.hypot(*flow.slope), rtol=1e-14)
    assert [text.get_text() for text in pull.texts] == ["-0.10", "-0.20", "0.40", "-0.08", "-0.15", "0.30"]
    assert "eight pixels" in texts(figure)
    png(figure)


def test_what_pixel_gradients_rejects():
    with pytest.raises(ValueError, match=r"expected image \(H, W\) and theta \(2, 3\), got \(5, 7\), \(3, 3\)"):
        viz.pixel_gradients(IMAGE, np.eye(3), (0, 0))
    for pixel in ((5, 0), (0, 7), (-1, 0)):
        with pytest.raises(ValueError, match=r"expected a pixel \(row, column\) of an output of \(5, 7\), got"):
            viz.pixel_gradients(IMAGE, THETA, pixel)
