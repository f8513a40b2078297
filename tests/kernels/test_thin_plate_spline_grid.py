"""thin_plate_spline_grid against SciPy, the reference, affine_grid, finite differences and hand-worked numbers."""

import numpy as np
import pytest
from implementations import KERNELS, kernels, stand_in

from ministn import Tensor, gradcheck
from ministn.kernels import _cuda
from ministn.kernels.affine_grid import affine_grid
from ministn.kernels.thin_plate_spline_grid import cuda, regular_control_points, spline, thin_plate_spline_grid
from ministn.kernels.thin_plate_spline_grid.spline import features, system

# Some roundings of numbers near 1, in sums over K control points; float32 has 6e-8 between neighbours. In float64 the
# system is solved in the same precision, and loses two or three digits by it.
TOLERANCE = {np.float32: 2e-6, np.float64: 1e-12}


def scattered(count, seed=0):
    """`count` points of [-1, 1]^2, none too near to another one."""
    random, points = np.random.default_rng([seed, count]), np.empty((0, 2))
    while len(points) < count:
        point = random.uniform(-1, 1, 2)
        if not len(points) or np.hypot(*(points - point).T).min() > 0.15:
            points = np.vstack([points, point])
    return points


CONTROL_POINTS = {
    "3": np.array([[-1.0, -1], [1, -0.5], [0, 1]]),
    "5": scattered(5),
    "9": scattered(9),
    "4 x 4": regular_control_points(4, 4),
    "25": scattered(25),
}
SOME = ["3", "4 x 4", "25"]
SIZES = [(4, 1), (5, 7), (37, 41), (91, 93)]  # the last two in blocks of points, the last one in parts on a GPU


def moved(points, count, dtype=np.float64, seed=0):
    """A theta for each of `count` images: the control points, each moved by some 0.3."""
    return (points + 0.3 * np.random.default_rng(seed).normal(size=(count, *points.shape))).astype(dtype)


def grid_and_gradient(name, points, size, dtype, align_corners, thread_order=None):
    theta = Tensor(moved(points, 3, dtype), requires_grad=True)
    with kernels(name, thread_order):
        grid = thin_plate_spline_grid(theta, points, (3, 1, *size), align_corners)
        grid.backward(np.random.default_rng(3).normal(size=grid.shape).astype(dtype))
    return grid.data, theta.grad.data


# --- numbers known from elsewhere -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", KERNELS)
def test_hand_worked_example(name):
    """The numbers of the README: the bottom right corner of four moves, and pulls the pixels of a 2 x 2 image along."""
    corners = regular_control_points(2, 2)
    t = (9 * np.log(3) - 5 * np.log(5)) / (32 * np.log(2))
    theta = Tensor(corners[None].copy(), requires_grad=True)
    theta.data[0, 3] += 0.4, -0.2
    with kernels(name):
        grid = thin_plate_spline_grid(theta, corners, (1, 1, 2, 2))
        pick = np.zeros(grid.shape)
        pick[0, 1, 1] = 2, 3
        grid.backward(pick)
    shares = np.array([[t, 1 / 4 - t], [1 / 4 - t, 1 / 2 + t]])  # of the corner's movement, for each pixel
    pixels = np.array([[[-0.5, -0.5], [0.5, -0.5]], [[-0.5, 0.5], [0.5, 0.5]]])
    np.testing.assert_allclose(grid.data[0], pixels + shares[..., None] * [0.4, -0.2], rtol=0, atol=1e-14)
    # The bottom right pixel hangs on the four corners with the same shares, for the square is symmetric.
    np.testing.assert_allclose(theta.grad.data[0], shares.reshape(4, 1) * [2, 3], rtol=0, atol=1e-14)


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("control_points", CONTROL_POINTS)
def test_equals_scipy(name, control_points):
    """SciPy's U is r^2 log r, half of ours: its coefficients w are twice as large, and the spline is the same."""
    interpolate = pytest.importorskip("scipy.interpolate")
    points, height, width = CONTROL_POINTS[control_points], 6, 9
    theta = moved(points, 2)
    splines = [interpolate.RBFInterpolator(points, t, kernel="thin_plate_spline", degree=1) for t in theta]
    for align_corners in (False, True):
        pixels = affine_grid(Tensor(np.eye(2, 3)[None]), (1, 1, height, width), align_corners).data.reshape(-1, 2)
        with kernels(name):
            grid = thin_plate_spline_grid(Tensor(theta), points, (2, 1, height, width), align_corners).numpy()
        for of_image, rbf in zip(grid, splines, strict=True):
            np.testing.assert_allclose(of_image.reshape(-1, 2), rbf(pixels), rtol=0, atol=1e-11)


# --- what a spline is -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize(("dtype", "atol"), [(np.float32, 1e-6), (np.float64, 1e-13)])
@pytest.mark.parametrize(("rows", "columns"), [(2, 2), (4, 4), (3, 5)])
def test_goes_through_its_control_points(name, rows, columns, dtype, atol):
    """Of an image with as many pixels, whose corners are those of the input, the pixels are the control points."""
    points = regular_control_points(rows, columns)
    theta = moved(points, 3, dtype)
    with kernels(name):
        grid = thin_plate_spline_grid(Tensor(theta), points, (3, 1, rows, columns), align_corners=True)
    np.testing.assert_allclose(grid.numpy().reshape(theta.shape), theta, rtol=0, atol=atol)


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("control_points", SOME)
def test_identity_is_that_of_affine_grid(name, control_points, align_corners, dtype):
    """Bit for bit: every sample sits on a kink of bilinear sampling there, and the last bit chooses the slope."""
    points, size = CONTROL_POINTS[control_points], (1, 1, 28, 13)
    expected = affine_grid(Tensor(np.eye(2, 3, dtype=dtype)[None]), size, align_corners).numpy()
    with kernels(name):
        grid = thin_plate_spline_grid(Tensor(points[None].astype(dtype)), points, size, align_corners).numpy()
    # The reference knows nothing of displacements: it solves for the identity as for any other theta.
    atol = TOLERANCE[dtype] if name == "reference" else 0
    np.testing.assert_allclose(grid, expected, rtol=0, atol=atol)


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("control_points", SOME)
def test_affine_maps_of_the_control_points_give_the_affine_grid(name, control_points, align_corners, dtype):
    """A plane does not bend, so the spline through its points is the plane."""
    points, size = CONTROL_POINTS[control_points], (3, 1, 6, 9)
    maps = np.random.default_rng(0).normal(size=(3, 2, 3)).astype(dtype)
    theta = np.einsum("nab,kb->nka", maps[:, :, :2], points).astype(dtype) + maps[:, None, :, 2]
    expected = affine_grid(Tensor(maps), size, align_corners).numpy()
    with kernels(name):
        grid = thin_plate_spline_grid(Tensor(theta), points, size, align_corners).numpy()
    np.testing.assert_allclose(grid, expected, rtol=0, atol=TOLERANCE[dtype])


@pytest.mark.parametrize("name", KERNELS)
def test_a_point_that_it_goes_through_anyway_changes_nothing(name):
    """What bends least through some points bends least through these and one more of its own."""
    points, size = scattered(6), (3, 1, 5, 7)
    theta = moved(points, 3)
    with kernels(name):
        grid = thin_plate_spline_grid(Tensor(theta), points, size).numpy()
        pixels = thin_plate_spline_grid(Tensor(points[None]), points, (1, *size[1:])).numpy()
        theta, points = np.concatenate([theta, grid[:, 1:2, 4]], axis=1), np.vstack([points, pixels[0, 1, 4]])
        again = thin_plate_spline_grid(Tensor(theta), points, size).numpy()
    np.testing.assert_allclose(again, grid, rtol=0, atol=1e-12)


def test_side_conditions_and_least_bending():
    """w has no sum and no moments; and w^T U w, which is the bending energy up to a factor, is least."""
    points, random = scattered(8), np.random.default_rng(0)
    values = random.normal(size=8)

    def coefficients(count):
        return np.linalg.solve(system(as_tuples(points[:count])), [*values[:count], 0, 0, 0])[:count]

    def energy(count):
        w = coefficients(count)
        return w @ features(points[:count], as_tuples(points[:count]))[:, :count] @ w

    w = coefficients(5)
    assert np.abs(w).max() > 0.1
    np.testing.assert_allclose([w.sum(), *(w @ points[:5])], 0, atol=1e-14)
    # The splines through three more points, or through any number of them, are among those that meet the first five.
    assert 0 < energy(5) < energy(6) < energy(7) < energy(8)
    assert abs(energy(3)) < 1e-20  # a plane


def as_tuples(points):
    return tuple(map(tuple, points.tolist()))


# --- linear in theta --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", KERNELS)
def test_linear(name):
    points, size = scattered(7), (2, 1, 5, 3)
    first, second = moved(points, 2, seed=1), moved(points, 2, seed=2)
    with kernels(name):
        grids = [thin_plate_spline_grid(Tensor(t), points, size).data for t in (first, second, 2 * first - 3 * second)]
    np.testing.assert_allclose(grids[2], 2 * grids[0] - 3 * grids[1], rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("control_points", CONTROL_POINTS)
def test_adjoint_identity(name, control_points):
    """<B theta, g> = <theta, B^T g>"""
    points = CONTROL_POINTS[control_points]
    theta = Tensor(moved(points, 4), requires_grad=True)
    g = np.random.default_rng(2).normal(size=(4, 5, 3, 2))
    with kernels(name):
        grid = thin_plate_spline_grid(theta, points, (4, 1, 5, 3))
        grid.backward(g)
    np.testing.assert_allclose(np.sum(grid.data * g), np.sum(theta.data * theta.grad.data), rtol=1e-12)


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("control_points", SOME)
def test_gradcheck(name, control_points, align_corners):
    points = CONTROL_POINTS[control_points]
    theta = Tensor(moved(points, 3), requires_grad=True)
    with kernels(name):
        assert gradcheck(lambda t: thin_plate_spline_grid(t, points, (3, 1, 5, 4), align_corners), [theta])


# --- the implementations ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("control_points", SOME)
def test_equals_reference(name, control_points, size, dtype):
    points, align_corners = CONTROL_POINTS[control_points], size[0] % 2 == 0
    grid, gradient = grid_and_gradient(name, points, size, dtype, align_corners)
    expected, expected_gradient = grid_and_gradient("reference", points, size, dtype, align_corners)
    assert grid.dtype == gradient.dtype == dtype
    np.testing.assert_allclose(grid, expected, rtol=0, atol=TOLERANCE[dtype])
    # The gradient sums H W terms of size 1 in another order: the error grows with how far such a sum gets.
    atol = TOLERANCE[dtype] * max(1, np.sqrt(size[0] * size[1]))
    np.testing.assert_allclose(gradient, expected_gradient, rtol=0, atol=atol)


def test_same_bits_in_any_order_of_the_threads():
    arguments = CONTROL_POINTS["5"], (91, 93), np.float32, False
    expected = grid_and_gradient("cuda", *arguments)
    for order in (1, 20260101):
        for result, first in zip(grid_and_gradient("cuda", *arguments, order), expected, strict=True):
            np.testing.assert_array_equal(result, first)


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_stays_in_its_image(name, value):
    points = CONTROL_POINTS["4 x 4"]
    theta, g = moved(points, 3), np.random.default_rng(0).normal(size=(3, 5, 4, 2))
    results = []
    for number in (theta[1, 5, 0], value):
        tensor = Tensor(theta.copy(), requires_grad=True)
        tensor.data[1, 5, 0] = number
        with kernels(name):
            grid = thin_plate_spline_grid(tensor, points, (3, 1, 5, 4))
            grid.backward(g)
        results.append((grid.data, tensor.grad.data))
    (expected, expected_gradient), (grid, gradient) = results
    np.testing.assert_array_equal(grid[::2], expected[::2])
    assert not np.isfinite(grid[1, ..., 0]).any()
    np.testing.assert_array_equal(gradient, expected_gradient)  # the grid is linear: no theta enters


def test_empty_batch():
    points = regular_control_points(2, 3)
    theta = Tensor(np.zeros((0, 6, 2)), requires_grad=True)
    grid = thin_plate_spline_grid(theta, points, (0, 1, 3, 2))
    grid.backward(np.zeros((0, 3, 2, 2)))
    assert (grid.shape, theta.grad.shape) == ((0, 3, 2, 2), (0, 6, 2))


def test_matrix_is_made_once_and_kept_within_bounds():
    points = as_tuples(scattered(6, seed=9))
    first = spline.weights(points, 5, 4, False, np.dtype(np.float32))
    assert spline.weights(points, 5, 4, False, np.dtype(np.float32)) is first
    assert first.shape == (6, 20)
    assert first.dtype == np.float32
    with pytest.raises(ValueError, match="read-only"):
        first[0] = 0
    for cached in (spline.weights, spline.identity, spline.regular_grid):
        assert 0 < cached.cache_info().maxsize <= 64


def test_matrices_on_the_device_are_kept_within_bounds_but_for_those_of_recorded_graphs():
    def matrix(number):
        points = ((0.0, 0.0), (1.0, 0.0), (0.0, float(number)))
        return cuda._kept(library, spline.weights, points, 2, 2, False, np.dtype(np.float32))

    with stand_in() as library:
        with _cuda.recordable():
            recorded = matrix(1)
        first = matrix(1)
        assert matrix(1) is first
        for number in range(2, 60):
            matrix(number)
        assert matrix(1) is not first
        with _cuda.recordable():
            assert matrix(1) is recorded


# --- arguments --------------------------------------------------------------------------------------------------------


def test_regular_control_points():
    expected = [[-1, -1], [0, -1], [1, -1], [-1, 1], [0, 1], [1, 1]]
    np.testing.assert_array_equal(regular_control_points(2, 3), expected)
    with pytest.raises(ValueError, match="at least 2 rows and 2 columns, got 1 and 4"):
        regular_control_points(1, 4)


def test_control_points_may_be_a_list_or_of_another_dtype():
    points, size = regular_control_points(2, 3), (2, 1, 5, 4)
    theta = Tensor(moved(points, 2, np.float32))
    expected = thin_plate_spline_grid(theta, points, size).numpy()
    for same in (points.tolist(), points.astype(int), points.astype(np.float32), np.asfortranarray(points)):
        np.testing.assert_array_equal(thin_plate_spline_grid(theta, same, size).numpy(), expected)


POINTS = regular_control_points(2, 2)


@pytest.mark.parametrize(
    ("points", "error", "message"),
    [
        (POINTS[:2], ValueError, "at least 3 control_points, got 2"),
        (np.zeros((0, 2)), ValueError, "at least 3 control_points, got 0"),
        (
            [[-1, 0.5], [0, 0], [1, 1], [-1, 0.5]],
            ValueError,
            r"different places, got point 0 at \(-1, 0.5\) and point 3 at \(-1, 0.5\)",
        ),
        (
            [[-1, 1], [0, 0], [1, 1], [1, 1 + 1e-7]],
            ValueError,
            r"different places, got point 2 at \(1, 1\) and point 3 at \(1, 1\)",
        ),
        (np.zeros((3, 2)), ValueError, r"different places, got point 0 at \(0, 0\) and point 1 at \(0, 0\)"),
        (
            [[0, 0], [-1, -0.5], [0.5, 0.25], [1, 0.5]],
            ValueError,
            r"not all lie on one line, got 4 on the line through point 1 at \(-1, -0.5\) and point 3 at \(1, 0",
        ),
        ([[-1, 1e-7], [0, 0], [1, 0]], ValueError, "not all lie on one line, got 3 on the line"),
        ([[-1, 0], [0, np.nan], [1, 0]], ValueError, r"finite control_points, got point 1 at \(0, nan\)"),
        ([[-1, 0], [0, 1], [np.inf, 0]], ValueError, r"finite control_points, got point 2 at \(inf, 0\)"),
        (np.zeros((4, 3)), ValueError, r"control_points of shape \(K, 2\), got \(4, 3\)"),
        (np.zeros(8), ValueError, r"control_points of shape \(K, 2\), got \(8,\)"),
        ("corners", TypeError, r"control_points to be an array \(K, 2\) of numbers"),
        (Tensor(POINTS), TypeError, "which no gradient reaches; got Tensor"),
    ],
)
def test_bad_control_points(points, error, message):
    with pytest.raises(error, match=f"thin_plate_spline_grid: expected .*{message}"):
        thin_plate_spline_grid(Tensor(POINTS[None]), points, (1, 1, 2, 2))


@pytest.mark.parametrize(
    ("theta", "size", "error", "message"),
    [
        (Tensor(POINTS), (1, 1, 2, 2), ValueError, r"theta of shape \(N, K, 2\), got \(4, 2\)"),
        (Tensor(np.zeros((1, 5, 2))), (1, 1, 2, 2), ValueError, "axis 1 of theta to be 4 .*got 5"),
        (Tensor(np.zeros((1, 4, 3))), (1, 1, 2, 2), ValueError, "axis 2 of theta to be 2 .*got 3"),
        (Tensor(np.zeros((1, 4, 2))), (2, 1, 2, 2), ValueError, "axis 0 of theta to be 2 .N of size.*got 1"),
        (Tensor(np.zeros((1, 4, 2))), (1, 2, 2), ValueError, r"size \(N, C, H, W\)"),
        (Tensor(np.zeros((1, 4, 2))), (1, 1, 0, 2), ValueError, "height and a width of at least 1"),
        (Tensor(np.zeros((1, 4, 2), int)), (1, 1, 2, 2), TypeError, "float32 or float64, got int64"),
        (np.zeros((1, 4, 2)), (1, 1, 2, 2), TypeError, "to be a Tensor .*got ndarray"),
    ],
)
def test_bad_input(theta, size, error, message):
    with pytest.raises(error, match=message):
        thin_plate_spline_grid(theta, POINTS, size)
