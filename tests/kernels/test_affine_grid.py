"""affine_grid against PyTorch, the reference, finite differences and hand-worked numbers."""

import numpy as np
import pytest
from implementations import KERNELS, kernels

from ministn import Tensor, gradcheck
from ministn.kernels.affine_grid import affine_grid

SIZES = [(1, 1, 1, 1), (2, 3, 5, 7), (3, 1, 1, 4), (70, 2, 6, 1), (2, 1, 91, 93)]  # the last one in parts, on a GPU
# A few roundings of numbers near 1; float32 has 6e-8 between neighbours.
TOLERANCE = {np.float32: 1e-6, np.float64: 1e-14}


def random_theta(count, dtype=np.float64, seed=0):
    return np.random.default_rng(seed).normal(size=(count, 2, 3)).astype(dtype)


@pytest.mark.parametrize("name", KERNELS)
def test_identity_gives_pixel_centres(name):
    theta = Tensor(np.array([[[1.0, 0, 0], [0, 1, 0]]]))
    with kernels(name):
        edges = affine_grid(theta, (1, 1, 2, 4)).numpy()
        corners = affine_grid(theta, (1, 1, 2, 4), align_corners=True).numpy()
    np.testing.assert_allclose(edges[0, 0, :, 0], [-0.75, -0.25, 0.25, 0.75], rtol=1e-15)
    np.testing.assert_allclose(edges[0, :, 0, 1], [-0.5, 0.5], rtol=1e-15)
    np.testing.assert_allclose(corners[0, 0, :, 0], [-1, -1 / 3, 1 / 3, 1], rtol=1e-15)
    np.testing.assert_allclose(corners[0, :, 0, 1], [-1, 1], rtol=1e-15)


@pytest.mark.parametrize("name", KERNELS)
def test_hand_worked_example(name):
    """The numbers of the README: x_s = x / 2 + 1 / 4 and y_s = -x at the point (x, y) = (1 / 2, -1 / 2)."""
    theta = Tensor(np.array([[[0.5, 0, 0.25], [-1, 0, 0]]]), requires_grad=True)
    with kernels(name):
        grid = affine_grid(theta, (1, 1, 2, 2))
        np.testing.assert_array_equal(grid.detach().numpy()[0, 0, 1], [0.5, -0.5])
        pick = np.zeros(grid.shape)
        pick[0, 0, 1] = 2, 3
        grid.backward(pick)
    np.testing.assert_array_equal(theta.grad.numpy(), [[[1, -1, 2], [1.5, -1.5, 3]]])


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", SIZES)
# PyTorch warns that a single pixel has another meaning with align_corners=True than it once had.
@pytest.mark.filterwarnings("ignore:Since version 1.3.0:UserWarning")
def test_equals_torch(name, align_corners, dtype, size):
    torch = pytest.importorskip("torch")
    data = random_theta(size[0], dtype)
    weights = np.random.default_rng(1).normal(size=(size[0], *size[2:], 2)).astype(dtype)
    theirs = torch.tensor(data, requires_grad=True)
    expected = torch.nn.functional.affine_grid(theirs, size, align_corners=align_corners)
    expected.backward(torch.tensor(weights))
    theta = Tensor(data, requires_grad=True)
    with kernels(name):
        grid = affine_grid(theta, size, align_corners=align_corners)
        grid.backward(weights)
    tolerance = TOLERANCE[dtype]
    np.testing.assert_allclose(grid.detach().numpy(), expected.detach().numpy(), rtol=tolerance, atol=5 * tolerance)
    # The gradient sums H W terms of size 1 in another order: the error grows with the number, and how far the sum gets.
    atol = max(100, size[2] * size[3] / 10) * tolerance
    np.testing.assert_allclose(theta.grad.numpy(), theirs.grad.numpy(), rtol=tolerance, atol=atol)


@pytest.mark.parametrize("name", KERNELS)
def test_identity_grid_has_the_bits_of_torch(name):
    """At the identity every sample sits on a kink of bilinear sampling: the last bit chooses the slope."""
    torch = pytest.importorskip("torch")
    for dtype in (np.float32, np.float64):
        data = np.array([[[1, 0, 0], [0, 1, 0]]], dtype)
        for width in range(2, 70):
            for align_corners in (False, True):
                expected = torch.nn.functional.affine_grid(torch.tensor(data), (1, 1, 3, width), align_corners)
                with kernels(name):
                    grid = affine_grid(Tensor(data), (1, 1, 3, width), align_corners)
                np.testing.assert_array_equal(grid.numpy(), expected.numpy())


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("align_corners", [False, True])
def test_equals_reference(name, dtype, align_corners):
    results = grid_and_gradient(name, dtype, align_corners)
    for result, expected in zip(results, grid_and_gradient("reference", dtype, align_corners), strict=True):
        np.testing.assert_allclose(result, expected, rtol=TOLERANCE[dtype], atol=20 * TOLERANCE[dtype])


def test_same_bits_in_any_order_of_the_threads():
    expected = grid_and_gradient("cuda", np.float32, False)
    for order in (1, 20260101):
        for result, first in zip(grid_and_gradient("cuda", np.float32, False, order), expected, strict=True):
            np.testing.assert_array_equal(result, first)


def grid_and_gradient(name, dtype, align_corners, thread_order=None):
    theta = Tensor(random_theta(5, dtype), requires_grad=True)
    with kernels(name, thread_order):
        grid = affine_grid(theta, (5, 1, 7, 3), align_corners)
        grid.backward(np.random.default_rng(3).normal(size=grid.shape).astype(dtype))
    return grid.data, theta.grad.data


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("align_corners", [False, True])
def test_gradcheck(name, align_corners):
    theta = Tensor(random_theta(3), requires_grad=True)
    with kernels(name):
        assert gradcheck(lambda t: affine_grid(t, (3, 1, 5, 4), align_corners), [theta])


@pytest.mark.parametrize("name", KERNELS)
def test_adjoint_identity(name):
    """<A theta, g> = <theta, A^T g>: affine_grid is linear in theta."""
    theta = Tensor(random_theta(4), requires_grad=True)
    g = np.random.default_rng(2).normal(size=(4, 5, 3, 2))
    with kernels(name):
        grid = affine_grid(theta, (4, 1, 5, 3))
        grid.backward(g)
    np.testing.assert_allclose(np.sum(grid.data * g), np.sum(theta.data * theta.grad.data), rtol=1e-12)


def test_empty_batch():
    theta = Tensor(np.zeros((0, 2, 3)), requires_grad=True)
    grid = affine_grid(theta, (0, 1, 3, 2))
    grid.backward(np.zeros((0, 3, 2, 2)))
    assert (grid.shape, theta.grad.shape) == ((0, 3, 2, 2), (0, 2, 3))


@pytest.mark.parametrize(
    ("theta", "size", "error", "message"),
    [
        (Tensor(np.zeros((2, 3))), (1, 1, 2, 2), ValueError, r"theta of shape \(N, 2, 3\), got \(2, 3\)"),
        (Tensor(np.zeros((1, 3, 3))), (1, 1, 2, 2), ValueError, "axis 1 of theta to be 2 .*got 3"),
        (Tensor(np.zeros((1, 2, 2))), (1, 1, 2, 2), ValueError, "axis 2 of theta to be 3 .*got 2"),
        (Tensor(np.zeros((1, 2, 3))), (2, 1, 2, 2), ValueError, "axis 0 of theta to be 2 .N of size.*got 1"),
        (Tensor(np.zeros((1, 2, 3))), (1, 2, 2), ValueError, r"size \(N, C, H, W\)"),
        (Tensor(np.zeros((1, 2, 3))), (1, 1, 0, 2), ValueError, "height and a width of at least 1"),
        (Tensor(np.zeros((1, 2, 3), int)), (1, 1, 2, 2), TypeError, "float32 or float64, got int64"),
        (np.zeros((1, 2, 3)), (1, 1, 2, 2), TypeError, "to be a Tensor .*got ndarray"),
    ],
)
def test_bad_input(theta, size, error, message):
    with pytest.raises(error, match=message):
        affine_grid(theta, size)
