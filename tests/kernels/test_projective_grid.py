"""projective_grid against affine_grid, complex steps, PyTorch, the reference, finite differences, numbers by hand."""

import numpy as np
import pytest
from implementations import KERNELS, kernels

from ministn import Tensor, gradcheck
from ministn.kernels._coordinates import pixel_centres
from ministn.kernels.affine_grid import affine_grid
from ministn.kernels.projective_grid import projective_grid

SIZES = [(1, 1, 1, 1), (2, 3, 5, 7), (3, 1, 1, 4), (70, 2, 6, 1), (1, 1, 91, 93)]  # the last one in parts, on a GPU
# A few roundings of numbers near 1, of which float32 has 6e-8 between neighbours; a digit more than for an affine grid,
# since where w is as small as 0.2 so many of the sum's roundings are left in it.
TOLERANCE = {np.float32: 5e-6, np.float64: 1e-14}
HORIZON = 1e-6  # the README's: where |w| is smaller, w is a constant


def random_theta(count, dtype=np.float64, seed=0):
    """Any matrices, of either sign, whose horizon is outside of the picture."""
    random = np.random.default_rng(seed)
    theta = random.normal(size=(count, 3, 3))
    theta[:, 2] = [*random.uniform(-0.4, 0.4, 2), 1]
    theta[::2] *= -1.5
    return theta.astype(dtype)


def grid_and_gradient(theta, size, align_corners=False, thread_order=None, name="cpu", grad=None):
    """The grid, and the gradient of theta for a random one of the grid, or `grad`."""
    leaf = Tensor(theta, requires_grad=True)
    with kernels(name, thread_order):
        grid = projective_grid(leaf, size, align_corners)
        grid.backward(weights(grid.shape, theta.dtype) if grad is None else grad)
    return grid.data, leaf.grad.data


def weights(shape, dtype):
    return np.random.default_rng(1).normal(size=shape).astype(dtype)


def target_points(size, align_corners):
    """(x, y, 1) of each pixel, shape (H W, 3)."""
    y, x = np.meshgrid(*(pixel_centres(n, align_corners, np.float64) for n in size[2:]), indexing="ij")
    return np.stack([x.ravel(), y.ravel(), np.ones(x.size)], axis=1)


def by_complex_steps(theta, size, align_corners, grad):
    """Grid and gradient without a derivative: f(t + ih) = f(t) + ih f'(t) up to h^2, of which 1e-60 leaves nothing."""
    points = target_points(size, align_corners)

    def source(theta):
        X, Y, w = np.moveaxis(points @ np.swapaxes(theta, 1, 2), 2, 0)
        return np.stack([X / w, Y / w], axis=2).reshape(len(theta), *size[2:], 2)

    gradient = np.zeros(theta.shape)
    for row, column in np.ndindex(3, 3):
        moved = theta.astype(complex)
        moved[:, row, column] += 1e-30j
        gradient[:, row, column] = np.sum(grad * source(moved).imag / 1e-30, axis=(1, 2, 3))
    return source(theta), gradient


def by_torch(theta, size, align_corners, grad):
    torch = pytest.importorskip("torch")
    leaf = torch.tensor(theta, requires_grad=True)
    points = torch.tensor(target_points(size, align_corners)).to(leaf.dtype)
    homogeneous = points @ leaf.transpose(1, 2)
    grid = (homogeneous[..., :2] / homogeneous[..., 2:]).reshape(grad.shape)
    grid.backward(torch.tensor(grad))
    return grid.detach().numpy(), leaf.grad.numpy()


def same(results, expected, dtype, points):
    for result, wanted, count in zip(results, expected, (1, points), strict=True):
        assert result.dtype == dtype
        # A gradient sums terms in another order: the error grows with how many there are, and with the largest of them.
        atol = TOLERANCE[dtype] * max(1, np.abs(wanted).max()) * max(1, count / 100)
        np.testing.assert_allclose(result, wanted, rtol=TOLERANCE[dtype], atol=atol)


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("oracle", "size"), [*((by_complex_steps, size) for size in SIZES), (by_torch, SIZES[1])])
def test_equals_oracle(name, align_corners, dtype, oracle, size):
    theta = random_theta(size[0], dtype)
    grad = weights((size[0], *size[2:], 2), dtype)
    expected = oracle(theta, size, align_corners, grad)
    same(grid_and_gradient(theta, size, align_corners, name=name), expected, dtype, size[2] * size[3])


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_equals_reference(name, align_corners, dtype):
    """With the last image's horizon across the picture, where the signs of w change."""
    theta, size = random_theta(5, dtype), (5, 1, 7, 3)
    theta[-1] = [[1, 0.5, 0], [0.25, 1, 0.5], [0.5, -1, 0.125]]
    expected = grid_and_gradient(theta, size, align_corners, name="reference")
    same(grid_and_gradient(theta, size, align_corners, name=name), expected, dtype, 21)


@pytest.mark.parametrize("name", KERNELS)
def test_hand_worked_example(name):
    """The numbers of the README: X = x / 2 + 1 / 4, Y = -x, w = x + 3 / 2 at the point (x, y) = (1 / 2, -1 / 2)."""
    theta = np.array([[[0.5, 0, 0.25], [-1, 0, 0], [1, 0, 1.5]]])
    pick = np.zeros((1, 2, 2, 2))
    pick[0, 0, 1] = 2, 3
    grid, gradient = grid_and_gradient(theta, (1, 1, 2, 2), grad=pick, name=name)
    np.testing.assert_array_equal(grid[0, 0, 1], [0.25, -0.25])
    np.testing.assert_array_equal(gradient, [[[0.5, -0.5, 1], [0.75, -0.75, 1.5], [1 / 16, -1 / 16, 1 / 8]]])


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_identity_grid_has_the_bits_of_affine_grid(name, align_corners, dtype):
    """At the identity every sample sits on a kink of bilinear sampling: the last bit chooses the slope."""
    identity = np.eye(3, dtype=dtype)[None]
    for width in (1, 2, 3, 10, 28, 29):
        with kernels(name):
            grid = projective_grid(Tensor(identity), (1, 1, 3, width), align_corners)
            expected = affine_grid(Tensor(identity[:, :2].copy()), (1, 1, 3, width), align_corners)
        np.testing.assert_array_equal(grid.data, expected.data)


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_affine_matrices_give_affine_grids(name, align_corners, dtype):
    """The gradient of the first two rows, too: with w = 1 they do not know of the third."""
    size = (4, 1, 5, 7)
    theta = random_theta(4, dtype)
    theta[:, 2] = 0, 0, 1
    leaf = Tensor(theta[:, :2].copy(), requires_grad=True)
    with kernels(name):
        expected = affine_grid(leaf, size, align_corners)
        expected.backward(weights(expected.shape, dtype))
    grid, gradient = grid_and_gradient(theta, size, align_corners, name=name)
    same((grid, gradient[:, :2]), (expected.data, leaf.grad.data), dtype, 35)


@pytest.mark.parametrize("name", KERNELS)
def test_a_product_applies_the_right_matrix_first(name):
    """The grid of A B is where A sends the grid of B: the output pixel meets B, then A."""
    size = (6, 1, 4, 5)
    outer, inner = random_theta(6, seed=1), np.eye(3) + 0.3 * random_theta(6, seed=2)
    with kernels(name):
        expected = projective_grid(Tensor(outer @ inner), size).data
        x, y = np.moveaxis(projective_grid(Tensor(inner), size).data, -1, 0)
    points = np.stack([x, y, np.ones_like(x)], axis=-1)
    X, Y, w = np.moveaxis(np.einsum("nab,nijb->nija", outer, points), -1, 0)
    scale = np.abs(expected).max()  # of points near the horizon of A B
    np.testing.assert_allclose(np.stack([X / w, Y / w], axis=-1), expected, rtol=1e-12, atol=1e-14 * scale)


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("align_corners", [False, True])
def test_a_matrix_after_its_inverse_is_the_identity(name, align_corners):
    size, theta = (6, 1, 4, 5), random_theta(6)
    with kernels(name):
        product = projective_grid(Tensor(theta @ np.linalg.inv(theta)), size, align_corners).data
        x, y = np.moveaxis(projective_grid(Tensor(theta), size, align_corners).data, -1, 0)
    homogeneous = np.einsum("nab,nijb->nija", np.linalg.inv(theta), np.stack([x, y, np.ones_like(x)], axis=-1))
    identity = np.broadcast_to(target_points(size, align_corners)[:, :2].reshape(1, 4, 5, 2), product.shape)
    atol = 1e-15 * np.linalg.cond(theta).max()  # what inv may lose
    np.testing.assert_allclose(product, identity, rtol=0, atol=atol)
    np.testing.assert_allclose(homogeneous[..., :2] / homogeneous[..., 2:], identity, rtol=0, atol=atol)


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_multiple_of_theta_is_the_same_map(name, dtype):
    """f(s theta) = f(theta), so grad f(s theta) = grad f(theta) / s, and along theta the slope is 0 (Euler)."""
    theta, size = random_theta(5, dtype), (5, 1, 7, 6)
    grid, gradient = grid_and_gradient(theta, size, name=name)
    for scale in (-4, 0.5, 2):  # powers of two: they change no digit
        others = grid_and_gradient(theta * dtype(scale), size, name=name)
        np.testing.assert_array_equal(others[0], grid)
        np.testing.assert_array_equal(others[1] * dtype(scale), gradient)
    same(grid_and_gradient(theta * dtype(-0.7), size, name=name), (grid, gradient / dtype(-0.7)), dtype, 42)
    along = np.abs(np.sum(theta * gradient, axis=(1, 2), dtype=np.float64))
    assert (np.abs(theta * gradient).sum(axis=(1, 2)) > 1).all()
    np.testing.assert_array_less(along, 10 * TOLERANCE[dtype] * np.abs(theta * gradient).sum(axis=(1, 2)))


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("align_corners", [False, True])
def test_gradcheck(name, align_corners):
    theta = Tensor(random_theta(3), requires_grad=True)
    with kernels(name):
        assert gradcheck(lambda t: projective_grid(t, (3, 1, 5, 4), align_corners), [theta])


# --- the horizon ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("w", "used"),
    [
        (0.0, HORIZON),
        (-0.0, HORIZON),
        (0.99 * HORIZON, HORIZON),
        (-0.99 * HORIZON, -HORIZON),
        (HORIZON, None),  # no longer near: w itself, and a gradient
        (-HORIZON, None),
        (4 * HORIZON, None),
    ],
)
def test_near_the_horizon_w_is_a_constant(name, dtype, w, used):
    theta = np.array([[[1, 2, 3], [4, 5, 6], [0, 0, w]]], dtype)
    if w == 0:
        theta[:, 2] = w  # so that the sum of products is -0 for w = -0
    grid, gradient = grid_and_gradient(theta, (1, 1, 1, 1), grad=np.array([[[[2, 1]]]], dtype), name=name)
    per_w = 1 / float(dtype(w if used is None else used))
    dw = 0 if used is not None else -(2 * 3 + 1 * 6) * per_w**2
    np.testing.assert_allclose(grid, [[[[3 * per_w, 6 * per_w]]]], rtol=TOLERANCE[dtype])
    np.testing.assert_allclose(gradient, [[[0, 0, 2 * per_w], [0, 0, per_w], [0, 0, dw]]], rtol=TOLERANCE[dtype])


@pytest.mark.parametrize("name", KERNELS)
def test_a_horizon_through_the_picture(name):
    """w = x: the middle column is on the horizon, where nothing is infinite; its neighbours are as the formula says."""
    theta = np.array([[[1.0, 0, 0], [0, 1, 0], [1, 0, 0]]])
    grad = np.zeros((1, 2, 3, 2))
    grad[0, 1] = [[0, 0], [2, 3], [0, 0]]  # of the middle pixel of the lower row, at (0, 1)
    grid, gradient = grid_and_gradient(theta, (1, 1, 2, 3), align_corners=True, grad=grad, name=name)
    np.testing.assert_array_equal(grid[0, ..., 0], [[1, 0, 1], [1, 0, 1]])
    np.testing.assert_allclose(grid[0, ..., 1], [[1, -1 / HORIZON, -1], [-1, 1 / HORIZON, 1]], rtol=1e-15)
    of_point = np.array([0, 1, 1]) / HORIZON
    np.testing.assert_allclose(gradient[0], [2 * of_point, 3 * of_point, [0, 0, 0]], rtol=1e-15)


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [(0, 1), (1, 2), (2, 0), (2, 2)])
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # what the reference says of them
def test_a_theta_that_is_not_finite_stays_in_its_own_image(name, bad, place):
    theta, size = random_theta(3), (3, 1, 4, 5)
    expected = grid_and_gradient(theta, size, name=name)
    theta[1, *place] = bad
    grid, gradient = grid_and_gradient(theta, size, name=name)
    for result, without in zip((grid, gradient), expected, strict=True):
        np.testing.assert_array_equal(result[::2], without[::2])
    of_both = [0, 1] if place[0] == 2 else place[0]  # the coordinates that it is in
    if np.isnan(bad):
        assert np.isnan(grid[1, ..., of_both]).all()
        assert np.isnan(gradient[1, 2]).all()
    elif place[0] == 2:  # infinitely far away is the middle, unless on the line x = 0 the product is NaN
        points = grid[1][:, [0, 1, 3, 4]] if place == (2, 0) else grid[1]
        np.testing.assert_array_equal(points, np.zeros_like(points))
    else:
        assert not np.isfinite(grid[1, ..., of_both]).any()
    if place[0] != 2:
        np.testing.assert_array_equal(grid[1, ..., 1 - place[0]], expected[0][1, ..., 1 - place[0]])


# --- sizes, threads, errors -------------------------------------------------------------------------------------------


def test_same_bits_in_any_order_of_the_threads():
    theta, size = random_theta(5, np.float32), (5, 1, 7, 3)
    expected = grid_and_gradient(theta, size, name="cuda")
    for order in (1, 20260101):
        for result, first in zip(grid_and_gradient(theta, size, False, order, "cuda"), expected, strict=True):
            np.testing.assert_array_equal(result, first)


@pytest.mark.parametrize("name", KERNELS)
def test_empty_batch(name):
    grid, gradient = grid_and_gradient(np.zeros((0, 3, 3)), (0, 1, 3, 2), name=name)
    assert (grid.shape, gradient.shape) == ((0, 3, 2, 2), (0, 3, 3))


@pytest.mark.parametrize(
    ("theta", "size", "error", "message"),
    [
        (Tensor(np.zeros((3, 3))), (1, 1, 2, 2), ValueError, r"theta of shape \(N, 3, 3\), got \(3, 3\)"),
        (Tensor(np.zeros((1, 2, 3))), (1, 1, 2, 2), ValueError, "axis 1 of theta to be 3 .*X, Y and w.*got 2"),
        (Tensor(np.zeros((1, 3, 2))), (1, 1, 2, 2), ValueError, "axis 2 of theta to be 3 .*got 2"),
        (Tensor(np.zeros((1, 3, 3))), (2, 1, 2, 2), ValueError, "axis 0 of theta to be 2 .N of size.*got 1"),
        (Tensor(np.zeros((1, 3, 3))), (1, 2, 2), ValueError, r"size \(N, C, H, W\), got \(1, 2, 2\)"),
        (Tensor(np.zeros((1, 3, 3))), (1, 1, 0, 2), ValueError, "height and a width of at least 1"),
        (Tensor(np.zeros((1, 3, 3))), (1, 1, 2.5, 2), TypeError, r"four integers .*got \(1, 1, 2.5, 2\)"),
        (Tensor(np.zeros((1, 3, 3), int)), (1, 1, 2, 2), TypeError, "float32 or float64, got int64"),
        (np.zeros((1, 3, 3)), (1, 1, 2, 2), TypeError, "to be a Tensor .*got ndarray"),
    ],
)
def test_bad_input(theta, size, error, message):
    with pytest.raises(error, match=message):
        projective_grid(theta, size)
