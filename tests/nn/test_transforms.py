"""Transforms: what their parameters mean, that their gradients are right, and how they are put together."""

import re

import numpy as np
import pytest

from ministn import Tensor, gradcheck, nn, viz
from ministn import functional as F
from ministn.nn import transforms
from ministn.nn.transforms import (
    Affine,
    Attention,
    Bounded,
    Compose,
    Projective,
    Rotation,
    Similarity,
    ThinPlateSpline,
    Transform,
    Translation,
)

IRREGULAR = [(-0.8, -0.9), (0.7, -0.6), (0.1, 0.2), (-0.5, 0.8), (0.9, 0.9)]
MATRICES = {
    "translation": Translation(),
    "rotation": Rotation(),
    "attention": Attention(),
    "similarity": Similarity(),
    "affine": Affine(),
    "projective": Projective(),
    "bounded attention": Bounded("attention", (0.5, 0.3, 0.2)),
    "bounded projective": Bounded(Projective(), 0.2),
    "affine maps in turn": Compose("rotation", Bounded("attention", 0.4), "translation"),
    "matrices in turn": Compose("affine", "projective", "similarity"),
}
OTHERS = {
    "tps": ThinPlateSpline(),
    "tps of a wide grid": ThinPlateSpline((2, 3)),
    "tps of irregular points": ThinPlateSpline(np.array(IRREGULAR)),
    "bounded tps": Bounded("tps", 0.2),
    "splines in turn": Compose("tps", ThinPlateSpline(3)),
    "a spline between matrices": Compose("projective", "tps", "rotation"),
}
ALL = MATRICES | OTHERS


def parameters(transform, count=3, spread=0.1, dtype=np.float64, seed=0):
    """Near the identity."""
    noise = np.random.default_rng(seed).standard_normal((count, transform.num_parameters))
    return Tensor((transform.identity + spread * noise).astype(dtype), requires_grad=True)


def identity(transform, count=3, dtype=np.float64):
    return Tensor(np.tile(transform.identity, (count, 1)).astype(dtype))


def regular_grid(height, width, align_corners, dtype=np.float64):
    theta = Tensor(np.eye(2, 3, dtype=dtype)[None])
    return F.affine_grid(theta, (1, 1, height, width), align_corners).data[0]


def some_points(count=4):
    return np.random.default_rng(1).uniform(-1, 1, (count, 2))


# --- every transform --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", ALL)
def test_the_identity_gives_the_regular_grid(name, dtype, align_corners):
    transform = ALL[name]
    theta = transform.theta(identity(transform, dtype=dtype))
    grid = transform.grid(theta, (3, 1, 4, 7), align_corners)
    assert grid.dtype == dtype
    # Exact but where one transform follows another: a rounding of each.
    several = 4 * np.finfo(dtype).eps if isinstance(transform, Compose) else 0
    expected = np.broadcast_to(regular_grid(4, 7, align_corners, dtype), grid.shape)
    np.testing.assert_allclose(grid.data, expected, rtol=0, atol=several)


@pytest.mark.parametrize("name", ALL)
def test_identity_is_read_only_and_as_long_as_there_are_parameters(name):
    transform = ALL[name]
    assert transform.identity.dtype == np.float32
    assert transform.identity.shape == (transform.num_parameters,)
    with pytest.raises(ValueError, match="read-only"):
        transform.identity[0] = 5


@pytest.mark.parametrize("name", ALL)
def test_gradients_of_the_grid(name):
    transform = ALL[name]

    def grid(p, align_corners=False):
        return transform.grid(transform.theta(p), (2, 1, 3, 4), align_corners)

    assert gradcheck(grid, [parameters(transform, 2)], directions=2)
    assert gradcheck(lambda p: grid(p, True), [parameters(transform, 2, seed=1)], directions=1)


@pytest.mark.parametrize("name", ALL)
def test_gradients_of_mapped_points(name):
    transform = ALL[name]

    def mapped(p, points):
        return transform.map_points(transform.theta(p), points)

    for shape in ((4, 2), (2, 4, 2)):  # the same points for both images, or others for each
        points = Tensor(np.random.default_rng(1).uniform(-1, 1, shape), requires_grad=True)
        assert gradcheck(mapped, [parameters(transform, 2), points], directions=2)


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("name", ALL)
def test_map_points_agrees_with_grid(name, align_corners):
    transform = ALL[name]
    theta = transform.theta(parameters(transform))
    grid = transform.grid(theta, (3, 1, 4, 7), align_corners).detach().data
    points = regular_grid(4, 7, align_corners).reshape(-1, 2)
    # float64 rounding; the system of a spline has a condition number of some hundred
    for given in (points, Tensor(points), Tensor(np.tile(points, (3, 1, 1)))):
        mapped = transform.map_points(theta, given).detach().data
        np.testing.assert_allclose(mapped.reshape(grid.shape), grid, rtol=0, atol=1e-13)


@pytest.mark.parametrize("name", ALL)
def test_the_dtype_of_the_parameters_is_kept(name):
    transform = ALL[name]
    results = []
    for dtype in (np.float32, np.float64):
        given = parameters(transform, dtype=dtype)
        theta = transform.theta(given)
        grid, points = transform.grid(theta, (3, 1, 3, 4)), transform.map_points(theta, some_points())
        (grid.sum() + points.sum()).backward()
        assert {grid.dtype, points.dtype, theta.dtype, given.grad.dtype} == {np.dtype(dtype)}
        results.append([grid.data, points.data])
    for single, double in zip(*results, strict=True):
        np.testing.assert_allclose(single, double, rtol=0, atol=5e-6)  # float32 rounds points up to 3 by 2e-7


@pytest.mark.parametrize("name", ALL)
def test_a_wrong_number_of_parameters_is_named(name):
    transform = ALL[name]
    count = transform.num_parameters
    for shape in ((3, count + 1), (3, count, 1), (count,)):
        message = f"{transform}: expected {count} parameters for each image, shape (N, {count}), got {shape}"
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            transform.theta(Tensor(np.zeros(shape)))


@pytest.mark.parametrize("name", ALL)
def test_no_images_at_all(name):
    transform = ALL[name]
    theta = transform.theta(Tensor(np.zeros((0, transform.num_parameters))))
    assert transform.map_points(theta, some_points()).shape == (0, 4, 2)


# --- what the parameters mean -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("transform", "values", "expected"),
    [
        (Translation(), [0.5, -0.25], [[1, 0, 0.5], [0, 1, -0.25]]),
        (Attention(), [0.5, 0.1, 0.2], [[0.5, 0, 0.1], [0, 0.5, 0.2]]),
        (Similarity(), [2, 3, 0.1, 0.2], [[2, -3, 0.1], [3, 2, 0.2]]),
        (Affine(), [1, 2, 3, 4, 5, 6], [[1, 2, 3], [4, 5, 6]]),
        (Projective(), [1, 2, 3, 4, 5, 6, 7, 8], [[1, 2, 3], [4, 5, 6], [7, 8, 1]]),
        (ThinPlateSpline((2, 2)), [1, 2, 3, 4, 5, 6, 7, 8], [[1, 2], [3, 4], [5, 6], [7, 8]]),
    ],
)
def test_theta_by_hand(transform, values, expected):
    theta = transform.theta(Tensor(np.array([values], np.float64)))
    np.testing.assert_array_equal(theta.data, [expected])


def test_rotation_turns_the_grid_clockwise_on_the_screen():
    theta = Rotation().theta(Tensor(np.radians([[30.0], [-90.0]])))
    np.testing.assert_allclose(viz.decompose(theta.data)["angle"], [30, -90], rtol=1e-14)
    right = Rotation().map_points(theta, [[1.0, 0.0]]).data  # what the right edge's middle reads: further down (y > 0)
    np.testing.assert_allclose(right, [[[np.sqrt(0.75), 0.5]], [[0, -1]]], atol=1e-15)


def test_a_positive_angle_turns_the_picture_anti_clockwise():
    """A bright pixel on the right goes to the top."""
    image = np.zeros((1, 1, 3, 3))
    image[0, 0, 1, 2] = 1
    theta = Rotation().theta(Tensor(np.array([[np.pi / 2]])))
    turned = F.spatial_transform(Tensor(image), theta).data[0, 0]
    np.testing.assert_allclose(turned, [[0, 1, 0], [0, 0, 0], [0, 0, 0]], atol=1e-12)  # sampled off by rounding


def test_similarity_is_scale_and_angle():
    scale, angle = 1.5, 0.4
    values = [scale * np.cos(angle), scale * np.sin(angle), 0.1, -0.2]
    parts = viz.decompose(Similarity().theta(Tensor(np.array([values]))).data[0])
    expected = (np.degrees(angle), scale, scale, 0, 0.1, -0.2)
    np.testing.assert_allclose([parts[name] for name in viz.PARTS], expected, atol=1e-14)


def test_attention_with_a_half_shows_the_middle_half_enlarged():
    theta = Attention().theta(Tensor(np.array([[0.5, 0.0, 0.0]])))
    corners = Attention().map_points(theta, [[-1.0, -1.0], [1.0, 1.0]]).data
    np.testing.assert_array_equal(corners, [[[-0.5, -0.5], [0.5, 0.5]]])


def test_a_projective_map_divides():
    theta = Projective().theta(Tensor(np.array([[1.0, 0, 0, 0, 1, 0, 0.5, 0]])))
    points = Projective().map_points(theta, [[1.0, 0.75], [0.0, 1.0]]).data
    np.testing.assert_allclose(points, [[[1 / 1.5, 0.5], [0, 1]]], rtol=1e-15)


def test_at_the_horizon_points_and_gradients_are_those_of_the_grid():
    """w = 1 - x: of the pixels at x = -1, 0, 1 the last lies on the horizon."""
    values, size = np.array([[0.5, 0.2, 0.3, 0, 1, 0.1, -1, 0]]), (1, 1, 2, 3)
    results = []
    for use in (
        lambda theta: Projective().grid(theta, size, align_corners=True),
        lambda theta: Projective().map_points(theta, regular_grid(2, 3, True).reshape(-1, 2)).reshape(1, 2, 3, 2),
    ):
        given = Tensor(values, requires_grad=True)
        points = use(Projective().theta(given))
        points.sum().backward()
        results.append((points.data, given.grad.data))
    assert abs(results[0][0]).max() > 1e5
    for from_grid, from_points in zip(*results, strict=True):
        np.testing.assert_allclose(from_points, from_grid, rtol=1e-13)


@pytest.mark.parametrize(
    "transform", [ThinPlateSpline(), ThinPlateSpline((2, 3)), ThinPlateSpline(np.array(IRREGULAR))]
)
def test_a_spline_goes_through_its_control_points(transform):
    """A control point is also where the slope of U has no number: its gradient is one all the same."""
    theta = transform.theta(parameters(transform, spread=0.3)).detach()
    points = Tensor(transform.control_points, requires_grad=True)
    mapped = transform.map_points(theta, points)
    np.testing.assert_allclose(mapped.data, theta.data, rtol=0, atol=1e-13)
    mapped.sum().backward()
    step = np.array([1e-6, 0])
    moved = [transform.map_points(theta, transform.control_points + s).data.sum((0, 2)) for s in (step, -step)]
    # The second derivative grows like log r towards a control point: differences are wrong by about step log step.
    np.testing.assert_allclose(points.grad.data[:, 0], (moved[0] - moved[1]) / 2e-6, rtol=0, atol=1e-4)


def test_control_points_are_a_regular_grid_or_given():
    np.testing.assert_array_equal(
        ThinPlateSpline((2, 3)).control_points, [[-1, -1], [0, -1], [1, -1], [-1, 1], [0, 1], [1, 1]]
    )
    assert ThinPlateSpline().num_parameters == 32
    np.testing.assert_array_equal(ThinPlateSpline().control_points, ThinPlateSpline((4, 4)).control_points)
    np.testing.assert_array_equal(ThinPlateSpline(IRREGULAR).control_points, np.float32(IRREGULAR))
    with pytest.raises(ValueError, match="read-only"):
        ThinPlateSpline().control_points[0] = 5


@pytest.mark.parametrize(
    ("control_points", "error", "message"),
    [
        (1, ValueError, "ThinPlateSpline: expected control_points to be at least 2, got 1"),
        ((4, 4, 4), TypeError, r"ThinPlateSpline: expected control_points to be an integer or two, got \(4, 4, 4\)"),
        (
            [[0, 0], [1, 1], [2, 2]],
            ValueError,
            "ThinPlateSpline: expected control_points that do not all lie on one line",
        ),
        ([[0, 0], [1, 1], [0, 0]], ValueError, "ThinPlateSpline: expected control_points at different places"),
        ([[0, 0, 1]], ValueError, r"ThinPlateSpline: expected control_points of shape \(K, 2\), got \(1, 3\)"),
    ],
)
def test_wrong_control_points(control_points, error, message):
    with pytest.raises(error, match=message):
        ThinPlateSpline(control_points)


# --- inverse and composition ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MATRICES)
def test_a_map_and_its_inverse_are_the_identity(name):
    transform = MATRICES[name]
    theta = transform.theta(parameters(transform))
    back = transform.inverse(theta)
    assert back.shape == theta.shape == (3, transform.matrix_rows, 3)
    points = some_points()
    there_and_back = transform.map_points(back, transform.map_points(theta, points))
    np.testing.assert_allclose(there_and_back.data, np.tile(points, (3, 1, 1)), rtol=0, atol=1e-14)  # float64 rounding
    unit = np.tile(np.eye(transform.matrix_rows, 3), (3, 1, 1))
    for both in (transform.compose(back, theta), transform.compose(theta, back)):
        np.testing.assert_allclose(both.data, unit, rtol=0, atol=1e-14)


@pytest.mark.parametrize("name", MATRICES)
def test_compose_equals_applying_in_turn(name):
    transform = MATRICES[name]
    inner, outer = (transform.theta(parameters(transform, seed=seed)) for seed in (0, 1))
    points = some_points()
    in_turn = transform.map_points(outer, transform.map_points(inner, points))
    at_once = transform.map_points(transform.compose(outer, inner), points)
    np.testing.assert_allclose(at_once.data, in_turn.data, rtol=0, atol=1e-14)  # float64 rounding
    other_order = transform.map_points(transform.compose(inner, outer), points)
    assert name == "translation" or name == "rotation" or np.abs(other_order.data - in_turn.data).max() > 1e-3


def test_inverse_and_compose_are_differentiable():
    transform = Projective()

    def both(p, q):
        return transform.compose(transform.inverse(transform.theta(p)), transform.theta(q))

    assert gradcheck(both, [parameters(transform, 2), parameters(transform, 2, seed=1)])


@pytest.mark.parametrize("names", [("rotation", "translation"), ("affine", "projective"), ("tps", "attention", "tps")])
def test_the_output_pixel_meets_the_first_transform_first(names):
    transform = Compose(*names)
    given, points = parameters(transform), some_points()
    expected, first = points, 0
    for part in transform.transforms:
        theta = part.theta(given[:, first : first + part.num_parameters])
        expected, first = part.map_points(theta, expected), first + part.num_parameters
    assert first == transform.num_parameters
    mapped = transform.map_points(transform.theta(given), points)
    np.testing.assert_allclose(mapped.data, expected.data, rtol=0, atol=1e-14)  # float64 rounding


def test_rotation_then_translation_by_hand():
    """(1, 0) is turned to (0, 1), then shifted; the other way about it would be turned with its shift."""
    transform = Compose("rotation", "translation")
    theta = transform.theta(Tensor(np.array([[np.pi / 2, 0.5, 0.0]])))
    np.testing.assert_allclose(theta.data, [[[0, -1, 0.5], [1, 0, 0]]], atol=1e-16)
    np.testing.assert_allclose(transform.map_points(theta, [[1.0, 0.0]]).data, [[[0.5, 1]]], atol=1e-16)


def test_compose_is_two_layers_the_other_way_about():
    """An image is warped by the layer of the second transform, and what comes out by that of the first.

    Both shift by whole pixels, so that sampling twice blurs nothing.
    """
    image = Tensor(np.random.default_rng(0).standard_normal((1, 1, 4, 4)))
    turn, shift = np.array([[np.pi / 2]]), np.array([[0.5, 0.0]])  # by 90 degrees, and by one of four pixels

    def layer(transform, values):
        return nn.SpatialTransformer(lambda x: Tensor(values), transform)

    at_once = layer(Compose("rotation", "translation"), np.hstack([turn, shift]))(image).data
    in_turn = layer("rotation", turn)(layer("translation", shift)(image)).data
    np.testing.assert_allclose(at_once, in_turn, atol=1e-14)
    assert np.abs(layer("translation", shift)(layer("rotation", turn)(image)).data - at_once).max() > 0.1


@pytest.mark.parametrize("name", ["tps", "bounded tps", "tps of irregular points"])
def test_a_spline_has_no_inverse(name):
    theta = OTHERS[name].theta(identity(OTHERS[name]))
    with pytest.raises(NotImplementedError, match=r"ThinPlateSpline.inverse: .* has no inverse in closed form"):
        OTHERS[name].inverse(theta)
    with pytest.raises(NotImplementedError, match=r"ThinPlateSpline\(.* defines no compose\(\), and has no matrix"):
        OTHERS[name].compose(theta, theta)


def test_nor_has_what_a_spline_is_part_of():
    transform = Compose("affine", "tps")
    theta = transform.theta(identity(transform))
    for call in (lambda: transform.inverse(theta), lambda: transform.compose(theta, theta)):
        with pytest.raises(NotImplementedError, match=r"Compose\(Affine\(\), ThinPlateSpline\(.*has no matrix"):
            call()


def test_wrong_thetas_and_points_are_named():
    with pytest.raises(ValueError, match=r"Affine\(\): expected theta of shape \(N, 2, 3\), got \(2, 3\)"):
        Affine().inverse(Tensor(np.eye(2, 3)))
    with pytest.raises(ValueError, match=r"Affine\(\): expected theta of shape \(N, 2, 3\), got \(1, 3, 3\)"):
        Affine().compose(Tensor(np.eye(3)[None]), Tensor(np.eye(2, 3)[None]))
    with pytest.raises(ValueError, match=r"Projective\(\): expected theta of shape \(N, 3, 3\), got \(1, 2, 3\)"):
        Projective().map_points(Tensor(np.eye(2, 3)[None]), [[0.0, 0.0]])
    with pytest.raises(ValueError, match=r"map_points: expected points of shape \(N, M, 2\) or \(M, 2\), got \(2,\)"):
        Affine().map_points(Tensor(np.eye(2, 3)[None]), [0.0, 0.0])
    with pytest.raises(TypeError, match=r"Affine\(\): expected theta to be a Tensor \(N 2 3\), got ndarray"):
        Affine().map_points(np.eye(2, 3)[None], some_points())
    with pytest.raises(ValueError, match=r"expected 38 parameters for each image, shape \(N, 38\), got \(1, 39\)"):
        Compose("tps", "affine").grid(Tensor(np.zeros((1, 39))), (1, 1, 2, 2))
    for transform in (Affine(), Projective(), ThinPlateSpline()):
        theta = transform.theta(Tensor(np.tile(transform.identity.astype(float), (2, 1))))
        with pytest.raises(ValueError, match=r"map_points: expected axis 0 of points to be 2 \(N of theta\), got 3"):
            transform.map_points(theta, np.zeros((3, 4, 2)))
    with pytest.raises(TypeError, match=r"ThinPlateSpline\(.*: expected theta to be a Tensor \(N 16 2\), got ndarray"):
        ThinPlateSpline().map_points(np.zeros((1, 16, 2)), some_points())


# --- bounds -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "transform", [Attention(), Projective(), ThinPlateSpline(3), Compose("rotation", "translation")]
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_bounded_parameters_stay_within_their_bounds(transform, dtype):
    seen = []

    class Recorded(Transform):
        identity = transform.identity

        def theta(self, parameters):
            seen.append(parameters)
            return parameters

    count = transform.num_parameters
    bounds = np.linspace(0.1, 0.7, count)
    bounded = Bounded(Recorded(), bounds)
    for raw, expected in ((1e6, bounds), (-1e6, -bounds), (0, 0 * bounds), (0.5, bounds * np.tanh(0.5))):
        given = Tensor(np.full((2, count), raw, dtype), requires_grad=True)
        bounded.theta(given).sum().backward()
        np.testing.assert_allclose(seen[-1].data, [transform.identity + expected] * 2, rtol=4 * np.finfo(dtype).eps)
        np.testing.assert_allclose(given.grad.data, [bounds * (1 - np.tanh(raw) ** 2)] * 2, rtol=1e-5)
        assert seen[-1].dtype == dtype
    np.testing.assert_array_equal(bounded.identity, np.zeros(count))


def test_bounds_are_checked():
    assert repr(Bounded("affine", 0.3)) == "Bounded(Affine(), bound=0.3)"
    assert repr(Bounded("translation", (0.3, 0.5))) == "Bounded(Translation(), bound=(0.3, 0.5))"
    for bound in (0, -1, np.nan, np.inf, (0.1, 0.2), (0.1, 0.2, 0)):
        with pytest.raises(ValueError, match="Bounded: expected bound to be a positive number, or 3 of them, got"):
            Bounded("attention", bound)


# --- names, and transforms of one's own -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "kind", "count"),
    [
        ("translation", Translation, 2),
        ("rotation", Rotation, 1),
        ("attention", Attention, 3),
        ("similarity", Similarity, 4),
        ("affine", Affine, 6),
        ("projective", Projective, 8),
        ("tps", ThinPlateSpline, 32),
    ],
)
def test_get(name, kind, count):
    transform = transforms.get(name)
    assert type(transform) is kind
    assert transform.num_parameters == count
    assert transforms.get(transform) is transform


def test_get_says_which_names_there_are():
    names = "'translation', 'rotation', 'attention', 'similarity', 'affine', 'projective', 'tps'"
    with pytest.raises(ValueError, match=f"transforms.get: expected one of {names}, got 'spline'"):
        transforms.get("spline")
    with pytest.raises(TypeError, match=r"transforms.get: expected a Transform or a name, got the class Affine"):
        transforms.get(Affine)
    with pytest.raises(ValueError, match="Compose: expected at least one transform, got none"):
        Compose()


def test_a_transform_of_ones_own():
    class Shear(Transform):
        identity, matrix_rows = transforms.fixed(0), 2

        def theta(self, parameters):
            (k,) = self.columns(parameters)
            return transforms.matrix([1, k, 0], [0, 1, 0])

    transform = Compose(Shear(), "translation")
    theta = transform.theta(Tensor(np.array([[0.5, 0.1, 0.2]])))
    np.testing.assert_array_equal(theta.data, [[[1, 0.5, 0.1], [0, 1, 0.2]]])
    image = Tensor(np.random.default_rng(0).standard_normal((1, 1, 4, 5)))
    np.testing.assert_array_equal(
        nn.SpatialTransformer(lambda x: Tensor(np.array([[0.5]])), Shear())(image).data,
        F.spatial_transform(image, Tensor(np.array([[[1, 0.5, 0], [0, 1, 0]]]))).data,
    )


def test_a_transform_without_a_matrix_has_to_define_its_points():
    class Empty(Transform):
        identity = transforms.fixed(0)

    with pytest.raises(NotImplementedError, match=r"Empty defines no theta\(\)"):
        Empty().theta(Tensor([[0.0]]))
    with pytest.raises(NotImplementedError, match=r"Empty\(\) defines no grid\(\), and has no matrix"):
        Empty().grid(Tensor([[0.0]]), (1, 1, 2, 2))
    with pytest.raises(NotImplementedError, match=r"Empty\(\) defines no map_points\(\), and has no matrix"):
        Empty().map_points(Tensor([[0.0]]), some_points())
