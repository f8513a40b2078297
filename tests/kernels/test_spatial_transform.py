"""spatial_transform against affine_grid followed by grid_sample, against PyTorch, and finite differences."""

import numpy as np
import pytest
from implementations import KERNELS, kernels

import ministn
from ministn import Tensor, gradcheck
from ministn.kernels.affine_grid import affine_grid
from ministn.kernels.grid_sample import grid_sample
from ministn.kernels.spatial_transform import spatial_transform

# The dense weights of the reference turn what is not finite into NaN, also where no sample reads it.
LOOPS = [name for name in KERNELS if name != "reference"]
SHAPES = [(1, 1, 1, 4, 3, 3), (3, 2, 6, 1, 2, 5), (70, 1, 5, 6, 4, 3), (5, 3, 8, 7, 8, 7), (33, 2, 5, 7, 6, 4)]
# Relative to the largest value: the gradient of theta sums H W products, in another order.
TOLERANCE = {np.float32: 2e-5, np.float64: 1e-13}


def transform(image, theta, size, align_corners, grad_output):
    image, theta = Tensor(image, requires_grad=True), Tensor(theta, requires_grad=True)
    output = spatial_transform(image, theta, size, align_corners)
    output.backward(grad_output)
    return output.data, image.grad.data, theta.grad.data


def example(shape, dtype=np.float64, seed=0):
    count, channels, height, width, out_height, out_width = shape
    random = np.random.default_rng(seed)
    image = random.normal(size=(count, channels, height, width)).astype(dtype)
    theta = (np.array([[1, 0, 0], [0, 1, 0]]) + 0.4 * random.normal(size=(count, 2, 3))).astype(dtype)
    return image, theta, random.normal(size=(count, channels, out_height, out_width)).astype(dtype)


def assert_all_close(got, expected, tolerance):
    for name, ours, theirs in zip(("output", "d input", "d theta"), got, expected, strict=True):
        scale = max(1.0, float(np.max(np.abs(theirs), initial=0)))
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance * scale, err_msg=name)


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize(
    "shape", [*SHAPES, (0, 2, 3, 4, 2, 2), (2, 1, 5, 4, 91, 93)]
)  # the last one in parts, on a GPU
def test_equals_the_two_steps(name, dtype, align_corners, shape):
    """One pass, and affine_grid then grid_sample by the loops of the CPU: the same."""
    image, theta, weights = example(shape, dtype)
    u, t = Tensor(image, requires_grad=True), Tensor(theta, requires_grad=True)
    two_steps = grid_sample(u, affine_grid(t, weights.shape, align_corners), align_corners=align_corners)
    two_steps.backward(weights)
    with kernels(name):
        got = transform(image, theta, shape[4:], align_corners, weights)
    assert_all_close(got, (two_steps.data, u.grad.data, t.grad.data), TOLERANCE[dtype])


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("identity", [False, True])
@pytest.mark.parametrize("shape", [*SHAPES, (2, 1, 28, 28, 28, 28), (2, 1, 31, 25, 31, 25)])
@pytest.mark.filterwarnings("ignore:Since version 1.3.0:UserWarning")
def test_equals_torch(name, dtype, align_corners, identity, shape):
    """Also at the identity, where every sample sits on a kink and rounding picks the slope."""
    torch = pytest.importorskip("torch")
    image, theta, weights = example(shape, dtype)
    if identity:
        theta[:] = [[1, 0, 0], [0, 1, 0]]
    u, t = torch.tensor(image, requires_grad=True), torch.tensor(theta, requires_grad=True)
    grid = torch.nn.functional.affine_grid(t, weights.shape, align_corners=align_corners)
    output = torch.nn.functional.grid_sample(u, grid, align_corners=align_corners)
    output.backward(torch.tensor(weights))
    expected = output.detach().numpy(), u.grad.numpy(), t.grad.numpy()
    with kernels(name):
        got = transform(image, theta, shape[4:], align_corners, weights)
    assert_all_close(got, expected, TOLERANCE[dtype])


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("align_corners", [False, True])
def test_gradcheck(name, align_corners):
    """A seed at which no sample lies within 1e-4 of a kink, ten times farther than the differences move it."""
    image, theta, _ = example((2, 3, 5, 4, 3, 4), seed=3)
    size = (*image.shape[:2], 3, 4)
    grid = affine_grid(Tensor(theta), size, align_corners).numpy() + 1
    pixels = grid * (np.array([3, 4]) if align_corners else np.array([4, 5])) / 2 - (0 if align_corners else 0.5)
    assert np.abs(pixels - np.round(pixels)).min() > 1e-4
    inputs = [Tensor(image, requires_grad=True), Tensor(theta, requires_grad=True)]
    with kernels(name):
        assert gradcheck(lambda u, t: spatial_transform(u, t, (3, 4), align_corners), inputs, step=1e-6)


@pytest.mark.parametrize("name", KERNELS)
def test_adjoint_identity(name):
    """<A U, G> = <U, A^T G>: the transform is linear in the image."""
    image, theta, g = example((3, 2, 5, 4, 6, 3))
    with kernels(name):
        output, grad_image, _ = transform(image, theta, (6, 3), False, g)
    assert np.sum(output * g) == pytest.approx(np.sum(image * grad_image), rel=1e-12)


@pytest.mark.parametrize("name", KERNELS)
def test_hand_worked_example(name):
    """Shift a 2 x 3 image by a quarter pixel: theta's translation is in units of half the image's width."""
    image = np.array([[[[1.0, 2, 3], [4, 5, 6]]]])
    theta = np.array([[[1, 0, 0.25 * 2 / 3], [0, 1, 0]]])
    with kernels(name):
        output, _, grad_theta = transform(image, theta, None, False, np.ones((1, 1, 2, 3)))
    np.testing.assert_allclose(output[0, 0], [[1.25, 2.25, 2.25], [4.25, 5.25, 4.5]], rtol=1e-14)
    # d output / d x is 1, 1, -3 and 1, 1, -6 per pixel, times 3 / 2 pixels per unit, times x_t = -2/3, 0, 2/3 for a_11.
    assert grad_theta[0, 0, 2] == pytest.approx((1 + 1 - 3 + 1 + 1 - 6) * 3 / 2)
    assert grad_theta[0, 0, 0] == pytest.approx((-2 / 3 * (1 + 1) + 2 / 3 * (-3 - 6)) * 3 / 2)


@pytest.mark.parametrize("name", KERNELS)
def test_only_the_gradients_asked_for(name):
    image, theta, weights = example(SHAPES[3])
    for needs_image, needs_theta in ((True, False), (False, True)):
        u, t = Tensor(image, requires_grad=needs_image), Tensor(theta, requires_grad=needs_theta)
        with kernels(name):
            spatial_transform(u, t).backward(weights)
            _, grad_image, grad_theta = transform(image, theta, None, False, weights)
        assert (u.grad is not None, t.grad is not None) == (needs_image, needs_theta)
        got, expected = (u.grad.data, grad_image) if needs_image else (t.grad.data, grad_theta)
        # On a GPU d input is added up in another order each time.
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-13 if name == "gpu" else 0)


@pytest.mark.parametrize("count", [37, 5])
def test_bits_do_not_depend_on_threads_or_memory_order(count):
    image, theta, weights = example((count, 3, 8, 7, 9, 5), np.float32)
    expected = transform(image, theta, (9, 5), False, weights)
    batch_last = np.moveaxis(np.ascontiguousarray(np.moveaxis(image, 0, -1)), -1, 0)
    threads = ministn.get_num_threads()
    try:
        for count in {1, threads}:
            ministn.set_num_threads(count)
            for got, want in zip(transform(batch_last, theta, (9, 5), False, weights), expected, strict=True):
                np.testing.assert_array_equal(got, want)
    finally:
        ministn.set_num_threads(threads)


@pytest.mark.parametrize("deterministic", [False, True])
def test_bits_in_any_order_of_the_threads(deterministic):
    """d input is added up atomically, in the order in which the threads come, unless it shall be deterministic."""
    image, theta, weights = example((3, 2, 5, 4, 13, 11), np.float32)
    results = []
    ministn.backend.use_deterministic_kernels(deterministic)
    try:
        for order in (0, 1, 20260101):
            with kernels("cuda", order):
                results.append(transform(image, theta, (13, 11), False, weights))
    finally:
        ministn.backend.use_deterministic_kernels(False)
    for got in results[1:]:
        np.testing.assert_array_equal(got[0], results[0][0])
        assert np.array_equal(got[1], results[0][1]) == deterministic
        np.testing.assert_array_equal(got[2], results[0][2])
    with kernels("reference"):
        assert_all_close(results[0], transform(image, theta, (13, 11), False, weights), TOLERANCE[np.float32])


@pytest.mark.parametrize("name", LOOPS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e20, 1e38])
def test_extreme_theta_touches_only_its_own_image(name, bad):
    image, theta, weights = example((3, 2, 5, 4, 5, 4), np.float32)
    bad_theta = theta.copy()
    bad_theta[1, 0, 2] = bad
    with kernels(name):
        expected = transform(image, theta, None, False, weights)
        got = transform(image, bad_theta, None, False, weights)
    # In float32; and on a GPU d input is added up in another order each time.
    for ours, before in zip(got, expected, strict=True):
        np.testing.assert_allclose(ours[[0, 2]], before[[0, 2]], rtol=0, atol=1e-5 if name == "gpu" else 0)
    outside = np.zeros_like(image[1]) if np.isfinite(bad) else np.full_like(image[1], np.nan)
    np.testing.assert_array_equal(got[0][1], outside)
    np.testing.assert_array_equal(got[1][1], np.zeros_like(image[1]))


@pytest.mark.parametrize("name", LOOPS)
@pytest.mark.parametrize("count", [2, 18])
def test_samples_outside_read_zero_whatever_lies_on_the_edge(name, count):
    image, theta, _ = example((count, 1, 4, 4, 4, 4), np.float32)
    image[:] = np.nan
    theta[:] = [[1, 0, 3], [0, 1, 0]]
    with kernels(name):
        output = spatial_transform(Tensor(image), Tensor(theta)).numpy()
    np.testing.assert_array_equal(output, np.zeros_like(image))


@pytest.mark.parametrize(
    ("shape", "theta_shape", "size", "message"),
    [
        ((2, 3, 4), (2, 2, 3), None, r"input of shape \(N, C, H, W\)"),
        ((2, 3, 4, 5), (2, 3, 3), None, "axis 1 of theta to be 2 .*got 3"),
        ((2, 3, 4, 5), (2, 2, 2), None, "axis 2 of theta to be 3 .*got 2"),
        ((2, 3, 4, 5), (3, 2, 3), None, "axis 0 of theta to be 2 .N of the input.*got 3"),
        ((2, 3, 4, 0), (2, 2, 3), (2, 2), "at least one pixel"),
        ((2, 3, 4, 5), (2, 2, 3), (0, 2), "expected output_size to be at least 1"),
    ],
)
def test_bad_input(shape, theta_shape, size, message):
    with pytest.raises(ValueError, match=message):
        spatial_transform(Tensor(np.zeros(shape)), Tensor(np.zeros(theta_shape)), size)
