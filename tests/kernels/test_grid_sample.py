"""grid_sample against PyTorch, SciPy, the paper's equations, finite differences and hand-worked numbers."""

import importlib
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from implementations import KERNELS, kernels
from scipy.ndimage import map_coordinates

import ministn
from ministn import Tensor, gradcheck
from ministn.kernels.affine_grid import affine_grid
from ministn.kernels.grid_sample import grid_sample

# The dense weights of the reference turn what is not finite into NaN, also where no sample reads it.
LOOPS = [name for name in KERNELS if name != "reference"]
MODES = ["bilinear", "nearest", "bicubic"]
PADDINGS = ["zeros", "border", "reflection"]
OPTIONS = list(itertools.product(MODES, PADDINGS, [False, True]))
# Relative to the largest value: sums of up to 16 products in another order, slopes up to W / 2 times larger.
TOLERANCE = {np.float32: 2e-5, np.float64: 1e-13}


def to_grid(pixel, size, align_corners):
    """The normalised coordinate of a pixel coordinate."""
    return 2 * pixel / (size - 1) - 1 if align_corners else (2 * pixel + 1) / size - 1


def sample(image, grid, mode, padding_mode, align_corners, grad_output=None):
    """Output and gradients, as arrays."""
    image, grid = Tensor(image, requires_grad=True), Tensor(grid, requires_grad=True)
    output = grid_sample(image, grid, mode, padding_mode, align_corners)
    output.backward(np.ones_like(output.data) if grad_output is None else grad_output)
    return output.data, image.grad.data, grid.grad.data


def torch_sample(torch, image, grid, mode, padding_mode, align_corners, grad_output):
    image, grid = torch.tensor(image, requires_grad=True), torch.tensor(grid, requires_grad=True)
    output = torch.nn.functional.grid_sample(image, grid, mode, padding_mode, align_corners)
    output.backward(torch.tensor(grad_output))
    return output.detach().numpy(), image.grad.numpy(), grid.grad.numpy()


def assert_all_close(got, expected, tolerance):
    for name, ours, theirs in zip(("output", "d input", "d grid"), got, expected, strict=True):
        scale = max(1.0, float(np.max(np.abs(theirs), initial=0)))
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance * scale, err_msg=name)


def points_off_the_kinks(random, count, height, width, align_corners, dtype=np.float64):
    """Random points from two pixels outside to two pixels outside, at least 0.1 from whole and half pixels.

    Kinks lie on whole pixels (tents, borders) and on half pixels (nearest, mirrors at the outer edges).
    """

    def pixels(size):
        half_pixel = random.integers(-4, 2 * size + 3, size=(count, 3, 5)) / 2
        return half_pixel + random.uniform(0.1, 0.4, size=half_pixel.shape)

    x, y = (to_grid(pixels(size), size, align_corners) for size in (width, height))
    return np.stack([x, y], axis=-1).astype(dtype)


# --- against PyTorch --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("mode", "padding_mode", "align_corners"), OPTIONS)
def test_equals_torch_on_random_shapes(name, dtype, mode, padding_mode, align_corners):
    """Values and both gradients; shapes not square, batch 1 to 70, output size not the input's, size-1 axes."""
    torch = pytest.importorskip("torch")
    random = np.random.default_rng(0)
    shapes = [(1, 1, 1, 4, 3, 3), (3, 2, 6, 1, 2, 5), (70, 1, 5, 6, 4, 3), (0, 2, 3, 4, 2, 2)]
    shapes += [tuple(random.integers(1, 9, size=6)) for _ in range(6)]
    for count, channels, height, width, out_height, out_width in shapes:
        image = random.normal(size=(count, channels, height, width)).astype(dtype)
        grid = (1.3 * random.normal(size=(count, out_height, out_width, 2))).astype(dtype)
        weights = random.normal(size=(count, channels, out_height, out_width)).astype(dtype)
        expected = torch_sample(torch, image, grid, mode, padding_mode, align_corners, weights)
        with kernels(name):
            got = sample(image, grid, mode, padding_mode, align_corners, weights)
        assert_all_close(got, expected, TOLERANCE[dtype])


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("mode", "padding_mode", "align_corners"), OPTIONS)
def test_equals_torch_on_kinks_borders_and_far_outside(name, dtype, mode, padding_mode, align_corners):
    """Whole and half pixels from three pixels outside to three pixels outside, and points up to 1e20 away."""
    torch = pytest.importorskip("torch")
    random = np.random.default_rng(1)
    height, width = 4, 8  # powers of two: with align_corners=False the points below fall exactly on the kinks
    y, x = (to_grid(np.arange(-6, 2 * size + 5) / 2, size, align_corners) for size in (height, width))
    far = [1e4 + 0.3, -1e4 - 0.3, 3e9, 1e20, -1e20]
    y, x = np.concatenate([y, far[:2]]), np.concatenate([x, far])
    grid = np.stack(np.meshgrid(x, y), axis=-1)[None].astype(dtype)
    image = random.normal(size=(1, 3, height, width)).astype(dtype)
    weights = random.normal(size=(1, 3, *grid.shape[1:3])).astype(dtype)
    expected = torch_sample(torch, image, grid, mode, padding_mode, align_corners, weights)
    with kernels(name):
        got = sample(image, grid, mode, padding_mode, align_corners, weights)
    assert_all_close(got, expected, TOLERANCE[dtype])


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
def test_reflection_equals_torch_however_far_outside(name, dtype, align_corners, mode):
    """What is left of a distance of many periods depends on its rounding, if they are more than the dtype can count.

    Where the dtype has no number for the next pixel, bicubic taps have no meaning, and are not compared.
    """
    torch = pytest.importorskip("torch")
    random = np.random.default_rng(15)
    image, weights = random.normal(size=(1, 1, 4, 7)).astype(dtype), random.normal(size=(1, 1, 12, 25)).astype(dtype)
    distance = 10.0 ** np.array([5, 7, 8, 9, 12, 18]).repeat(50)
    grid = (distance[:, None] * random.uniform(-1, 1, size=(300, 2))).reshape(1, 12, 25, 2).astype(dtype)
    expected = torch_sample(torch, image, grid, mode, "reflection", align_corners, weights)
    with kernels(name):
        got = sample(image, grid, mode, "reflection", align_corners, weights)
    assert_all_close(got, expected, TOLERANCE[dtype])


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("align_corners", [False, True])
def test_identity_takes_the_slopes_torch_takes(name, dtype, align_corners):
    """An identity transform puts every sample on a kink, where rounding picks the left or the right slope."""
    torch = pytest.importorskip("torch")
    random = np.random.default_rng(2)
    for size in range(2, 40):
        image = random.normal(size=(1, 1, size, size + 1)).astype(dtype)
        weights = random.normal(size=image.shape).astype(dtype)
        theta = Tensor(np.array([[[1, 0, 0], [0, 1, 0]]], dtype))
        with kernels(name):
            grid = affine_grid(theta, image.shape, align_corners).data
            got = sample(image, grid, "bilinear", "zeros", align_corners, weights)
        expected = torch_sample(torch, image, grid, "bilinear", "zeros", align_corners, weights)
        assert_all_close(got, expected, TOLERANCE[dtype])


@pytest.mark.parametrize("name", LOOPS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("mode", "padding_mode", "align_corners"), OPTIONS)
@pytest.mark.parametrize("point", [(np.nan, 0.1), (0.1, np.nan), (np.nan, np.nan), (np.inf, 0.1), (0.1, -np.inf)])
def test_not_a_number_in_the_grid(name, dtype, mode, padding_mode, align_corners, point):
    torch = pytest.importorskip("torch")
    image = np.arange(1, 13, dtype=dtype).reshape(1, 1, 3, 4)
    grid, one = np.array(point, dtype).reshape(1, 1, 1, 2), np.ones((1, 1, 1, 1), dtype)
    with kernels(name):
        got = sample(image, grid, mode, padding_mode, align_corners)
    if mode == "bilinear" and padding_mode != "zeros":
        # PyTorch 2.13's backward may read outside the image here and crash. The point was moved onto the border, so
        # its coordinate no longer depends on the grid: the gradient is 0.
        expected = torch.nn.functional.grid_sample(
            torch.tensor(image), torch.tensor(grid), mode, padding_mode, align_corners
        )
        np.testing.assert_allclose(got[0], expected.numpy(), rtol=1e-6)
        np.testing.assert_array_equal(got[2].ravel()[~np.isfinite(point)], 0)
    else:
        expected = torch_sample(torch, image, grid, mode, padding_mode, align_corners, one)
        assert_all_close(got, expected, TOLERANCE[dtype])


# --- against other oracles --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize(
    ("padding_mode", "align_corners", "scipy_mode"),
    [
        ("zeros", False, "grid-constant"),
        ("border", True, "nearest"),
        ("border", False, "nearest"),
        ("reflection", True, "mirror"),
        ("reflection", False, "reflect"),
    ],
)
def test_bilinear_equals_scipy(name, padding_mode, align_corners, scipy_mode):
    random = np.random.default_rng(3)
    image = random.normal(size=(1, 1, 5, 7))
    points = random.uniform(-9, 14, size=(2, 6, 4))  # y, x in pixels
    grid = np.stack([to_grid(points[1], 7, align_corners), to_grid(points[0], 5, align_corners)], axis=-1)[None]
    expected = map_coordinates(image[0, 0], points, order=1, mode=scipy_mode)
    with kernels(name):
        output = grid_sample(Tensor(image), Tensor(grid), "bilinear", padding_mode, align_corners)
    np.testing.assert_allclose(output.numpy()[0, 0], expected, atol=1e-12)


@pytest.mark.parametrize("name", KERNELS)
def test_equations_5_to_7_of_the_paper(name):
    """The sums over every pixel as the paper prints them, at points off the kinks."""
    random = np.random.default_rng(4)
    height, width = 4, 5
    image = random.normal(size=(1, 1, height, width))
    grid = points_off_the_kinks(random, 1, height, width, align_corners=True)
    with kernels(name):
        output, grad_image, grad_grid = sample(image, grid, "bilinear", "zeros", True)
    expected_output, expected_grad_image = np.zeros((3, 5)), np.zeros((height, width))
    expected_dx = np.zeros((3, 5))
    for i, j, n, m in np.ndindex(3, 5, height, width):
        x, y = (grid[0, i, j] + 1) * [(width - 1) / 2, (height - 1) / 2]
        kernel_x, kernel_y = max(0, 1 - abs(x - m)), max(0, 1 - abs(y - n))
        expected_output[i, j] += image[0, 0, n, m] * kernel_x * kernel_y  # (5)
        expected_grad_image[n, m] += kernel_x * kernel_y  # (6)
        sign = 0 if abs(m - x) >= 1 else 1 if m >= x else -1
        expected_dx[i, j] += image[0, 0, n, m] * kernel_y * sign  # (7), per pixel
    np.testing.assert_allclose(output[0, 0], expected_output, atol=1e-14)
    np.testing.assert_allclose(grad_image[0, 0], expected_grad_image, atol=1e-14)
    np.testing.assert_allclose(grad_grid[0, ..., 0], expected_dx * (width - 1) / 2, atol=1e-13)


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("mode", "padding_mode", "align_corners"), OPTIONS)
def test_equals_reference(name, dtype, mode, padding_mode, align_corners):
    random = np.random.default_rng(5)
    image = random.normal(size=(6, 3, 4, 7)).astype(dtype)
    grid = points_off_the_kinks(random, 6, 4, 7, align_corners, dtype)
    weights = random.normal(size=(6, 3, 3, 5)).astype(dtype)
    results = []
    for one in (name, "reference"):
        with kernels(one):
            results.append(sample(image, grid, mode, padding_mode, align_corners, weights))
    assert_all_close(*results, TOLERANCE[dtype])


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize(("mode", "padding_mode"), [("nearest", "zeros"), ("bilinear", "zeros"), ("bicubic", "border")])
def test_many_samples_and_many_images(name, mode, padding_mode):
    """More samples than are placed together, so that channels keep sums of their own; more images than iterations."""
    random = np.random.default_rng(11)
    for count, channels, out in ((1, 3, (71, 130)), (70, 2, (5, 7))):
        image = random.normal(size=(count, channels, 6, 9))
        grid = random.uniform(-1.4, 1.4, size=(count, *out, 2))
        weights = random.normal(size=(count, channels, *out))
        results = []
        for one in (name, "reference"):
            with kernels(one):
                results.append(sample(image, grid, mode, padding_mode, False, weights))
        assert_all_close(*results, 1e-12)


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("mode", MODES)
def test_one_gradient_without_the_other(name, mode):
    random = np.random.default_rng(12)
    image, grid = random.normal(size=(2, 3, 5, 6)), random.uniform(-1.2, 1.2, size=(2, 4, 7, 2))
    with kernels(name):
        _, grad_image, grad_grid = sample(image, grid, mode, "zeros", False)
    for needed in ((True, False), (False, True)):
        tensors = [Tensor(array, requires_grad=needs) for array, needs in zip((image, grid), needed, strict=True)]
        with kernels(name):
            output = grid_sample(*tensors, mode)
            output.backward(np.ones_like(output.data))
        for tensor, expected, needs in zip(tensors, (grad_image, grad_grid), needed, strict=True):
            if needs:  # on a GPU d input is added up in another order each time
                np.testing.assert_allclose(tensor.grad.data, expected, rtol=0, atol=1e-13 if name == "gpu" else 0)
            else:
                assert tensor.grad is None


@pytest.mark.parametrize("name", LOOPS)
@pytest.mark.parametrize("mode", MODES)
def test_infinity_outside_does_not_matter(name, mode):
    """A pixel counts for no sample that is too far from it, whatever its value: no weight of 0 times infinity."""
    image = np.ones((1, 1, 4, 5))
    image[..., 0] = image[..., -1] = np.inf
    x, y = to_grid(np.array([-9.0, 2, 14]), 5, False), to_grid(np.array([0.25, 1.0, 1.5]), 4, False)
    with kernels(name):
        output = grid_sample(Tensor(image), Tensor(np.stack([x, y], axis=-1)[None, None]), mode).numpy()
    np.testing.assert_array_equal(output[0, 0, 0, ::2], 0)


# --- gradients --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize(("mode", "padding_mode", "align_corners"), OPTIONS)
def test_gradcheck_off_the_kinks(name, mode, padding_mode, align_corners):
    random = np.random.default_rng(6)
    image = Tensor(random.normal(size=(2, 3, 4, 5)), requires_grad=True)
    grid = Tensor(points_off_the_kinks(random, 2, 4, 5, align_corners), requires_grad=True)
    with kernels(name):
        assert gradcheck(lambda u, g: grid_sample(u, g, mode, padding_mode, align_corners), [image, grid])


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize(("mode", "padding_mode", "align_corners"), OPTIONS)
def test_adjoint_identity(name, mode, padding_mode, align_corners):
    """<A U, G> = <U, A^T G>: sampling is linear in the image."""
    random = np.random.default_rng(7)
    image, grid = random.normal(size=(3, 2, 5, 4)), 1.5 * random.normal(size=(3, 6, 3, 2))
    g = random.normal(size=(3, 2, 6, 3))
    with kernels(name):
        output, grad_image, _ = sample(image, grid, mode, padding_mode, align_corners, g)
    assert np.sum(output * g) == pytest.approx(np.sum(image * grad_image), rel=1e-12)


@pytest.mark.parametrize("name", KERNELS)
def test_hand_worked_example(name):
    """The 2 x 3 image of the README, sampled at x = 1.25, y = 0.5."""
    image = np.array([[[[1.0, 2, 3], [4, 5, 6]]]])
    grid = np.array([[[[to_grid(1.25, 3, False), to_grid(0.5, 2, False)]]]])
    with kernels(name):
        output, grad_image, grad_grid = sample(image, grid, "bilinear", "zeros", False)
    assert output.item() == pytest.approx(3.75, rel=1e-14)
    np.testing.assert_allclose(grad_image[0, 0], [[0, 0.375, 0.125], [0, 0.375, 0.125]], rtol=1e-14)
    np.testing.assert_allclose(grad_grid[0, 0, 0], [1.5, 3.0], rtol=1e-14)


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize(("x", "right", "equation_7"), [(2, 4, 3), (3, -5, 7), (4, -2, 2), (-1, 0, 0)])
def test_slope_on_a_pixel_is_the_right_hand_one(name, x, right, equation_7):
    """Equation (7) as printed keeps only tap m = x there and answers U[x], which may lie outside both slopes."""
    row = np.array([0.0, 1, 3, 7, 2])
    literal = sum(u * (0 if abs(m - x) >= 1 else 1 if m >= x else -1) for m, u in enumerate(row))
    assert literal == equation_7
    image, grid = row.reshape(1, 1, 1, 5), np.array([[[[to_grid(x, 5, True), 0.0]]]])
    with kernels(name):
        _, _, grad_grid = sample(image, grid, "bilinear", "zeros", True)
    assert grad_grid[0, 0, 0, 0] == right * (5 - 1) / 2


@pytest.mark.parametrize("name", KERNELS)
def test_slope_is_zero_on_the_border_and_mirrored_outside(name):
    """The edge itself counts as outside; an early PyTorch returned slopes of -8 there."""
    image = np.array([[[[1.0, 2, 4, 8]]]])
    for padding_mode, inside, outside in (("border", 1.5, 0), ("reflection", 1.5, -1.5)):
        for x, expected in ((0, 0), (3, 0), (0.25, inside), (-0.25, outside)):
            grid = np.array([[[[to_grid(x, 4, True), 0.0]]]])
            with kernels(name):
                _, _, grad_grid = sample(image, grid, "bilinear", padding_mode, True)
            assert grad_grid[0, 0, 0, 0] == expected, (padding_mode, x)


# --- properties and conventions ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize(("mode", "padding_mode", "align_corners"), OPTIONS)
def test_identity_returns_the_image(name, mode, padding_mode, align_corners):
    """Implementations that scale by W instead of W - 1, or by W - 2, or weigh by clipped indices, fail here."""
    image = np.random.default_rng(8).normal(size=(2, 3, 6, 5))
    theta = Tensor(np.tile([[1.0, 0, 0], [0, 1, 0]], (2, 1, 1)))
    with kernels(name):
        grid = affine_grid(theta, image.shape, align_corners)
        output = grid_sample(Tensor(image), grid, mode, padding_mode, align_corners)
    np.testing.assert_allclose(output.numpy(), image, atol=1e-13)


@pytest.mark.parametrize("name", KERNELS)
def test_halves_go_to_the_even_pixel(name):
    row = np.arange(8.0).reshape(1, 1, 1, 8)
    grid = np.zeros((1, 1, 4, 2))
    grid[0, 0, :, 0] = to_grid(np.array([0.5, 1.5, 2.5, 3.5]), 8, False)
    with kernels(name):
        output = grid_sample(Tensor(row), Tensor(grid), "nearest")
    np.testing.assert_array_equal(output.numpy().ravel(), [0, 2, 2, 4])


@pytest.mark.parametrize("name", KERNELS)
def test_reflection_of_a_far_point(name):
    """-3.5 mirrored at 0 is 3.5, at 2 it is 0.5: three pixels, mirrors on the outer pixels' centres."""
    image, grid = np.array([[[[10.0, 20, 40]]]]), np.array([[[[to_grid(-3.5, 3, True), 0.0]]]])
    with kernels(name):
        output = grid_sample(Tensor(image), Tensor(grid), "bilinear", "reflection", True)
    assert output.item() == pytest.approx(15)


@settings(max_examples=40)
@given(
    st.sampled_from(MODES),
    st.sampled_from(PADDINGS),
    st.booleans(),
    st.floats(width=32, allow_nan=False, allow_infinity=False),
)
def test_constant_image_stays_constant_or_fades(mode, padding_mode, align_corners, coordinate):
    """The weights of all taps sum to 1; with zeros padding to at most 1 (bicubic may overshoot by 1/8 a side)."""
    image = np.ones((1, 1, 4, 5))
    output = grid_sample(Tensor(image), Tensor(np.full((1, 1, 1, 2), coordinate)), mode, padding_mode, align_corners)
    if padding_mode == "zeros":
        assert -0.5 <= output.item() <= 1.5
    else:
        assert output.item() == pytest.approx(1, abs=1e-12)


@pytest.fixture
def deterministic_kernels():
    ministn.backend.use_deterministic_kernels()
    yield
    ministn.backend.use_deterministic_kernels(False)


def in_some_orders(mode, padding_mode):
    """Output and gradients, emulated with the threads in ascending, descending and random order."""
    random = np.random.default_rng(13)
    image, grid = (
        random.normal(size=(3, 2, 4, 5)).astype(np.float32),
        random.uniform(-1.4, 1.4, size=(3, 9, 7, 2)).astype(np.float32),
    )
    weights = random.normal(size=(3, 2, 9, 7)).astype(np.float32)
    for order in (0, 1, 20260101):
        with kernels("cuda", order):
            yield sample(image, grid, mode, padding_mode, False, weights)


@pytest.mark.parametrize("padding_mode", PADDINGS)
@pytest.mark.parametrize("mode", MODES)
def test_only_the_gradient_of_the_image_depends_on_the_order_of_the_threads(mode, padding_mode):
    """It adds atomically: the last bits differ, as the orders of the sums do."""
    expected, *others = in_some_orders(mode, padding_mode)
    for got in others:
        np.testing.assert_array_equal(got[0], expected[0])
        np.testing.assert_array_equal(got[2], expected[2])
        assert not np.array_equal(got[1], expected[1])
        assert_all_close(got, expected, TOLERANCE[np.float32])


@pytest.mark.parametrize("padding_mode", PADDINGS)
@pytest.mark.parametrize("mode", MODES)
def test_deterministic_kernels_give_the_same_bits_in_any_order(deterministic_kernels, mode, padding_mode):
    results = list(in_some_orders(mode, padding_mode))
    for result in results[1:]:
        for got, expected in zip(result, results[0], strict=True):
            np.testing.assert_array_equal(got, expected)
    ministn.backend.use_deterministic_kernels(False)
    assert_all_close(results[0], next(in_some_orders(mode, padding_mode)), TOLERANCE[np.float32])


@pytest.mark.gpu
def test_deterministic_kernels_give_the_same_bits_each_time(deterministic_kernels):
    """Enough samples of few pixels for the atomic additions of many blocks to come in another order each time."""
    random = np.random.default_rng(14)
    image, grid = random.normal(size=(2, 3, 6, 6)), random.uniform(-1.2, 1.2, size=(2, 200, 200, 2))
    with kernels("gpu"):
        results = [sample(image, grid, "bilinear", "zeros", False) for _ in range(5)]
    for result in results[1:]:
        np.testing.assert_array_equal(result[1], results[0][1])


def test_too_many_samples_to_be_sorted(deterministic_kernels):
    """Keys of 64 bits hold a pixel and a tap. No memory is needed: the arrays repeat one number."""
    image = np.broadcast_to(np.float32(0), (1, 1, 2**22, 2**22))
    grid = np.broadcast_to(np.float32(0), (1, 2**9, 2**9, 2))
    gradient = importlib.import_module("ministn.kernels.grid_sample.cuda")._backward_input_in_order
    with pytest.raises(OverflowError, match="262144 samples of 17592186044416 pixels"):
        gradient(np, image, grid, (1, 1, 2**22, 2**22, np.int64(2**18)), "bilinear", (0, False))


@pytest.mark.parametrize("name", ["cpu", "cuda"])
def test_any_memory_order_gives_the_same_bits(name):
    random = np.random.default_rng(9)
    image, grid = random.normal(size=(4, 3, 5, 6)), random.normal(size=(4, 3, 2, 2))
    with kernels(name):
        expected = sample(image, grid, "bilinear", "zeros", False)
    batch_last = np.moveaxis(np.ascontiguousarray(np.moveaxis(image, 0, -1)), -1, 0)
    reversed_twice = image[:, ::-1].copy()[:, ::-1]
    for other in (batch_last, reversed_twice):
        with kernels(name):
            results = sample(other, grid.copy(order="F"), "bilinear", "zeros", False)
        for got, want in zip(results, expected, strict=True):
            np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("mode", "padding_mode"), [("bilinear", "zeros"), ("nearest", "border"), ("bicubic", "border")]
)
def test_small_images_are_turned_where_they_are_sampled(dtype, mode, padding_mode):
    """Batch-last memory: batches that fill no vector, images that fill no tile, and an output of several parts; and
    images, or gradients, that are too large or too few to be turned there."""
    random = np.random.default_rng(13)
    for shape, out in [
        ((16, 1, 4, 4), (4, 4)),
        ((37, 2, 3, 7), (5, 6)),
        ((70, 1, 5, 20), (3, 1)),
        ((17, 1, 5, 6), (41, 53)),
        ((18, 1, 70, 60), (6, 4)),
        ((5, 1, 6, 6), (6, 6)),
    ]:
        image, weights = random.normal(size=shape).astype(dtype), random.normal(size=(*shape[:2], *out)).astype(dtype)
        grid = random.uniform(-1.3, 1.3, size=(shape[0], *out, 2)).astype(dtype)
        expected = sample(image, grid, mode, padding_mode, False, weights)
        turned = [np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 0, -1)), -1, 0) for x in (image, weights)]
        got = sample(turned[0], grid, mode, padding_mode, False, turned[1])
        for name, ours, wanted in zip(("output", "d input", "d grid"), got, expected, strict=True):
            np.testing.assert_array_equal(ours, wanted, err_msg=f"{name} {shape}")


@pytest.mark.parametrize("mode", MODES)
def test_bits_do_not_depend_on_threads(mode, more_threads_than_one):
    """More samples than one parallel iteration takes, and a last block that is not full."""
    random = np.random.default_rng(10)
    image = random.normal(size=(3, 2, 9, 7)).astype(np.float32)
    grid = random.uniform(-1.2, 1.2, size=(3, 41, 53, 2)).astype(np.float32)
    results, threads = [], ministn.get_num_threads()
    try:
        for count in (1, threads):
            ministn.set_num_threads(count)
            results.append(sample(image, grid, mode, "zeros", False))
    finally:
        ministn.set_num_threads(threads)
    for one, several in zip(*results, strict=True):
        np.testing.assert_array_equal(one, several)


@pytest.mark.parametrize(
    ("shape", "grid_shape", "options", "error", "message"),
    [
        ((2, 3, 4), (2, 3, 3, 2), {}, ValueError, r"input of shape \(N, C, H, W\), got \(2, 3, 4\)"),
        ((2, 3, 4, 5), (2, 3, 3), {}, ValueError, r"grid of shape \(N, H_out, W_out, 2\)"),
        ((2, 3, 4, 5), (2, 3, 3, 3), {}, ValueError, "axis 3 of grid to be 2 .x and y.*got 3"),
        ((2, 3, 4, 5), (1, 3, 3, 2), {}, ValueError, "axis 0 of grid to be 2 .N of the input.*got 1"),
        ((2, 3, 0, 5), (2, 3, 3, 2), {}, ValueError, "at least one pixel"),
        ((2, 3, 4, 5), (2, 3, 3, 2), {"mode": "cubic"}, ValueError, "mode to be one of 'bilinear'.*got 'cubic'"),
        ((2, 3, 4, 5), (2, 3, 3, 2), {"padding_mode": "wrap"}, ValueError, "padding_mode .*got 'wrap'"),
    ],
)
def test_bad_input(shape, grid_shape, options, error, message):
    with pytest.raises(error, match=message):
        grid_sample(Tensor(np.zeros(shape)), Tensor(np.zeros(grid_shape)), **options)


def test_mixed_dtypes_are_refused():
    with pytest.raises(TypeError, match="float32 and float64"):
        grid_sample(Tensor(np.zeros((1, 1, 2, 2), np.float32)), Tensor(np.zeros((1, 2, 2, 2))))
