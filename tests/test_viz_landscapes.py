"""Losses over poses, the way of gradient descent, and basins: values first, then the pictures."""

from __future__ import annotations

import numpy as np
import pytest
from test_viz import png, rotation, texts

import ministn.functional as F
from ministn import tensor, viz
from ministn.autodiff import Tensor

HEIGHT, WIDTH = 12, 16


def smooth_image(height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """Two hills of unlike height, so that no rotation and no shift leaves it as it is."""
    y, x = np.mgrid[:height, :width]
    first = np.exp(-0.5 * (((x - 0.4 * width) / 2.5) ** 2 + ((y - 0.6 * height) / 1.5) ** 2))
    return first + 0.5 * np.exp(-0.5 * (((x - 0.7 * width) / 1.5) ** 2 + ((y - 0.3 * height) / 2) ** 2))


def bar(width: int = 8, length: int = 64) -> np.ndarray:
    """A white bar in the middle of black."""
    image = np.zeros((3, length))
    image[:, (length - width) // 2 : (length + width) // 2] = 1
    return image


# --- losses -------------------------------------------------------------------------------------------------------


def test_the_matrix_of_a_pose():
    loss = viz.PoseLoss(lambda theta: theta[:, 0, 0], (HEIGHT, WIDTH))
    theta = loss.theta([[0, 0, 0], [30, 4, -3]])
    np.testing.assert_array_equal(theta[0], [[1, 0, 0], [0, 1, 0]])
    # 4 of 16 pixels are half of a half width, 3 of 12 half of a half height
    np.testing.assert_allclose(theta[1], np.column_stack([rotation(30), [0.5, -0.5]]), rtol=0, atol=1e-15)


@pytest.mark.parametrize(
    "sampler",
    [F.spatial_transform, viz.blurred(1.5), viz.multi_sampled(2, 3.0)],
    ids=["bilinear", "blurred", "multi-sampled"],
)
def test_gradients_are_per_degree_and_per_pixel(sampler):
    image = smooth_image()
    loss = viz.matching_loss(image, image, sampler)
    pose = np.array([7.3, 1.61, -0.83])  # far from the kinks, as the steps are short
    _, (gradient,) = loss(pose[None])
    steps = 1e-5 * np.eye(3)
    ahead, behind = loss(pose + steps)[0], loss(pose - steps)[0]
    # central differences: error of the order of step^2 = 1e-10 of derivatives of about 0.01
    np.testing.assert_allclose(gradient, (ahead - behind) / 2e-5, rtol=1e-5)


def test_many_poses_are_taken_in_batches():
    image = smooth_image()
    loss = viz.matching_loss(image, image)
    poses = np.random.default_rng(0).normal(size=(300, 3))
    losses, gradients = loss(poses)
    for k in (0, 255, 256, 299):
        one, gradient = loss(poses[k : k + 1])
        # float64 rounding: one image alone is warped by other loops than many
        np.testing.assert_allclose(one[0], losses[k], rtol=1e-12)
        np.testing.assert_allclose(gradient[0], gradients[k], rtol=0, atol=1e-14)


def test_the_loss_of_a_match_by_hand():
    """One bright pixel, moved on by half a pixel: (1/2, 1/2) instead of (1, 0)."""
    image = np.zeros((1, 4))
    image[0, 1] = 1
    (loss,), _ = viz.matching_loss(image, image)(np.array([[0, 0.5, 0]]))
    assert loss == pytest.approx((0.5**2 + 0.5**2) / 4, rel=1e-15)


def test_the_loss_of_a_classifier_by_hand():
    """The classifier compares the first two pixels; a shift by one pixel gives it the second and the third."""
    image = np.array([[51, 204, 102, 0]], np.uint8)

    def classifier(x: Tensor) -> Tensor:
        return F.log_softmax(x[:, 0, 0, :2], dim=1)

    losses, _ = viz.classification_loss(classifier, image, 1, mean=0.25, std=0.5)(np.array([[0, 0, 0], [0, 1, 0]]))
    scores = (image[0] / 255 - 0.25) / 0.5
    expected = [np.log1p(np.exp(scores[0] - scores[1])), np.log1p(np.exp(scores[1] - scores[2]))]
    np.testing.assert_allclose(losses, expected, rtol=1e-6)  # float32


def test_what_a_pose_loss_rejects():
    loss = viz.PoseLoss(lambda theta: theta[:, 0, 0].sum(), (HEIGHT, WIDTH))
    with pytest.raises(ValueError, match=r"expected poses \(N, 3\), each \(angle, shift_x, shift_y\), got \(3,\)"):
        loss(np.zeros(3))
    with pytest.raises(ValueError, match=r"expected a loss of shape \(2,\), got \(\)"):
        loss(np.zeros((2, 3)))
    with pytest.raises(ValueError, match=r"expected two images of one shape \(H, W\), got \(3, 4\), \(4, 3\)"):
        viz.matching_loss(np.zeros((3, 4)), np.zeros((4, 3)))


# --- samplers -----------------------------------------------------------------------------------------------------


def test_a_blurred_point_is_the_gaussian():
    image = np.zeros((1, 1, 13, 15))
    image[0, 0, 6, 7] = 1
    output = viz.blurred(1.0)(tensor(image), tensor(np.eye(3)[None, :2])).numpy()[0, 0]
    weights = np.exp(-0.5 * np.arange(-3, 4) ** 2.0)
    weights /= weights.sum()
    expected = np.zeros((13, 15))
    expected[3:10, 4:11] = np.outer(weights, weights)
    np.testing.assert_allclose(output, expected, rtol=0, atol=1e-15)


def test_samples_within_a_pixel_are_an_average_pooled_larger_output():
    image = tensor(np.random.default_rng(0).normal(size=(2, 1, 8, 6)))
    theta = tensor(np.random.default_rng(1).normal(size=(2, 2, 3)))
    larger = F.spatial_transform(image, theta, (3 * 8, 3 * 6))
    # the same 9 samples, added up in another order: float64 rounding
    np.testing.assert_allclose(
        viz.multi_sampled(3)(image, theta).numpy(), F.avg_pool2d(larger, 3).numpy(), rtol=0, atol=1e-13
    )


def test_spread_samples_by_hand():
    """Two samples a pixel apart, around each pixel: half of it and a quarter of each neighbour, along both axes."""
    image = np.zeros((1, 1, 5, 5))
    image[0, 0, 2, 2] = 1
    output = viz.multi_sampled(2, 2.0)(tensor(image), tensor(np.eye(3)[None, :2])).numpy()[0, 0]
    # at -1/2 and 1/2 of the pixel, each sample is the mean of two pixels
    expected = np.outer([0, 0.25, 0.5, 0.25, 0], [0, 0.25, 0.5, 0.25, 0])
    np.testing.assert_allclose(output, expected, rtol=0, atol=1e-15)


# --- the landscape ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("along", [("shift_x", "shift_y"), ("shift_y", "angle")])
def test_the_minimum_lies_at_the_known_pose(along):
    """The target is the image as it looks from there: the loss is 0 there, and only there."""
    image, pose = smooth_image(), {"angle": 20.0, "shift_x": 2.0, "shift_y": -1.0}
    at = [pose[part] for part in viz.POSE]
    theta = viz.PoseLoss(lambda theta: theta[:, 0, 0], image.shape).theta([at])
    target = F.spatial_transform(tensor(image[None, None]), tensor(theta)).numpy()[0, 0]
    x, y = pose[along[0]] + np.linspace(-3, 3, 7), pose[along[1]] + np.linspace(-2, 2, 5)
    table = viz.landscape(viz.matching_loss(image, target), along, x, y, at)
    assert table.loss.shape == (5, 7)
    assert np.unravel_index(table.loss.argmin(), table.loss.shape) == (2, 3)
    assert table.loss[2, 3] < 1e-30  # rounding, squared
    assert np.sort(table.loss.ravel())[1] > 1e-6
    other = np.array(at)
    other[viz.POSE.index(along[0])], other[viz.POSE.index(along[1])] = x[5], y[0]
    (expected,), _ = viz.matching_loss(image, target)(other[None])
    assert table.loss[0, 5] == pytest.approx(expected, rel=1e-12)  # float64 rounding


def test_a_step_of_descent_by_hand():
    """L = 3 theta_13 + 2 theta_23: its gradient in half sizes is (3, 2), whatever the size of the image."""
    loss = viz.PoseLoss(lambda theta: theta[:, 0, 2] * 3.0 + theta[:, 1, 2] * 2.0, (HEIGHT, WIDTH))
    path = viz.descend(loss, [0, 0, 0], 2, 0.1)
    np.testing.assert_allclose(path[1], [0, -0.3 * WIDTH / 2, -0.2 * HEIGHT / 2], rtol=1e-14)
    np.testing.assert_allclose(path[2], 2 * path[1], rtol=1e-14)
    held = viz.descend(loss, [5, 0, 0], 2, 0.1, along=["shift_y"])
    np.testing.assert_allclose(held[2], [5, 0, path[2, 2]], rtol=1e-14)
    turn = viz.PoseLoss(lambda theta: theta[:, 1, 0] * 3.0, (HEIGHT, WIDTH))  # sin(angle): slope 1 per radian at 0
    np.testing.assert_allclose(viz.descend(turn, [0, 0, 0], 1, 0.1)[1], [np.degrees(-0.3), 0, 0], rtol=1e-14)


def test_descent_finds_the_goal_from_several_sides():
    image = smooth_image()
    starts = np.array([[15, 2, -1], [-15, -1, 1.5]])
    path = viz.descend(viz.matching_loss(image, image), starts, 60, 1.0)
    assert path.shape == (61, 2, 3)
    np.testing.assert_array_equal(path[0], starts)
    assert np.abs(path[-1]).max() < 0.05  # degrees and pixels: the last steps of a bowl that is round at its bottom


@pytest.mark.parametrize("along", ["angle", ["angle", "angle"], ["angle", "scale"]])
def test_what_a_landscape_rejects(along):
    loss = viz.PoseLoss(lambda theta: theta[:, 0, 0], (HEIGHT, WIDTH))
    with pytest.raises(ValueError, match="expected different ones of angle, shift_x, shift_y, got"):
        viz.descend(loss, np.zeros(3), 1, 0.1, along)


def test_loss_landscape_draws_the_table_and_the_path():
    table = viz.Landscape(("shift_x", "angle"), np.arange(4.0), np.arange(3.0), np.arange(12.0).reshape(3, 4))
    path = np.array([[0, 1, 9], [0.5, 2, 9], [1, 3, 9]])
    figure = viz.loss_landscape(table, {"descent": path}, (2, 1.5, 0), data="hills")
    axes = figure.axes[0]
    line, start, end, star = axes.lines
    np.testing.assert_array_equal(line.get_xydata(), path[:, [1, 0]])
    np.testing.assert_array_equal(start.get_xydata(), [[1, 0]])
    np.testing.assert_array_equal(end.get_xydata(), [[3, 1]])
    np.testing.assert_array_equal(star.get_xydata(), [[1.5, 2]])
    assert (axes.get_xlim(), axes.get_ylim()) == ((0, 3), (0, 2))
    for text in ("hills", "descent", "shift of the grid to the right, in pixels", "angle of the grid, in degrees"):
        assert text in texts(figure)
    png(figure)
    png(viz.loss_landscape(table))


# --- basins -------------------------------------------------------------------------------------------------------


def test_reach_by_hand():
    offsets = np.array([-3, -2, -1, 1, 2, 3.0])
    loss = np.zeros(6)
    assert viz.Basin("angle", offsets, loss, np.array([1, -1, -1, 1, 0, 1.0])).reach == (-2, 1)  # uphill, flat
    assert viz.Basin("angle", offsets, loss, np.array([-1, -1, -1, 1, 1, 1.0])).reach == (-3, 3)  # as far as is known
    assert viz.Basin("angle", offsets, loss, np.array([-1, -1, 1, -1, 1, 1.0])).reach == (0, 0)  # a crest
    assert viz.Basin("angle", offsets, loss, np.array([1, -1, -1, 1, 0, 1.0])).width == 3


def test_a_blurred_bar_is_found_from_further_off():
    """A bar of 8 pixels overlaps with itself up to a shift of 8: then the loss stays as it is, but for dents.

    Blurred with sigma 3 its slope reaches further: nearly twice as far, until it becomes flatter than the dents.
    """
    offsets = np.arange(-28, 28, 0.25) + 0.125
    image = bar()
    reach = {
        name: viz.measure_basin(viz.matching_loss(image, image, sampler), "shift_x", offsets).reach
        for name, sampler in (("bilinear", F.spatial_transform), ("blurred", viz.blurred(3.0)))
    }
    assert reach["bilinear"] == (-7.875, 7.875)
    assert reach["blurred"] == (-14.875, 14.875)


def test_samples_within_a_pixel_fill_the_dents():
    """A short bar above a long one: beyond 8 pixels only the long one slopes, and the edges of both make dents."""
    offsets = np.arange(-28, 28, 0.25) + 0.125
    image = np.concatenate([bar(8), bar(24)])
    for samples, expected in ((1, 7.875), (3, 23.875)):
        loss = viz.matching_loss(image, image, viz.multi_sampled(samples))
        measured = viz.measure_basin(loss, "shift_x", offsets)
        assert measured.reach == (-expected, expected)


def test_measure_basin_measures_from_the_goal():
    image, goal = smooth_image(), np.array([0, 2.0, 0])
    theta = viz.PoseLoss(lambda theta: theta[:, 0, 0], image.shape).theta(goal[None])
    target = F.spatial_transform(tensor(image[None, None]), tensor(theta)).numpy()[0, 0]
    loss = viz.matching_loss(image, target)
    measured = viz.measure_basin(loss, "shift_x", np.array([-1.5, 0.5]), goal)
    losses, gradients = loss(np.array([[0, 0.5, 0], [0, 2.5, 0]]))
    np.testing.assert_array_equal(measured.loss, losses)
    np.testing.assert_array_equal(measured.slope, gradients[:, 1])
    assert measured.reach == (-1.5, 0.5)
    with pytest.raises(ValueError, match="expected offsets in rising order on both sides of 0"):
        viz.measure_basin(loss, "angle", np.array([1.0, 2.0]))


def test_basin_draws_curves_and_widths():
    offsets = np.array([-2, -1, 1, 2.0])
    near = viz.Basin("angle", offsets, np.array([1, 2, 2, 4.0]), np.array([1, -1, 2, -4.0]))
    far = viz.Basin("angle", offsets, np.array([8, 2, 2, 8.0]), np.array([-2, -1, 1, 2.0]))
    figure = viz.basin({"sharp": near, "blurred": far}, data="a bar")
    above, below, bars = figure.axes
    np.testing.assert_array_equal(above.lines[0].get_ydata(), near.loss / 4)
    np.testing.assert_array_equal(below.lines[1].get_ydata(), far.slope / 2)
    assert [(patch.get_x(), patch.get_width()) for patch in bars.patches] == [(-1, 2), (-2, 4)]
    assert [text.get_text() for text in bars.texts] == ["−1 to 1°", "−2 to 2°"]
    assert [text.get_text() for text in bars.get_yticklabels()] == ["sharp", "blurred"]
    assert "a bar" in texts(figure)
    png(figure)
    other = viz.Basin("shift_x", offsets, near.loss, near.slope)
    with pytest.raises(ValueError, match="expected one to 5 basins along the same axis"):
        viz.basin({"a": near, "b": other})
