"""The samplers on arrays of more than 2**31 elements: offsets into them do not fit in an int.

Memory is taken only where a kernel touches it, and of each grid only the block runs that works on the last sample.
"""

import cuda_emulator
import numpy as np
import pytest

from ministn.kernels import _cuda

try:
    cuda_emulator.find_compiler()
except cuda_emulator.NoCompilerError as error:
    pytest.skip(str(error), allow_module_level=True)

SIDE = 2**16
SIZES = {"large input": (SIDE, SIDE, 2, 3), "large output": (2, 2, SIDE, SIDE)}  # H, W, OH, OW; and two channels
THREADS, BLOCKS = 256, 2**15  # each thread strides over 512 samples of the large output
# The example of grid_sample's README: x = 1.25, y = 0.5 in [[1, 2, 3], [4, 5, 6]]. Here these are the last pixels of an
# image of zeros, in the second channel, and the last sample looks there.
PIXELS, WEIGHTS, VALUE, SLOPES = [[2, 3], [5, 6]], [[0.375, 0.125], [0.375, 0.125]], 3.75, (1, 3)


def launch(family, kernel, samples, *arguments, blocks=(BLOCKS, 1)):
    package = f"ministn.kernels.{family}"
    function = cuda_emulator.build(_cuda.source(package), _cuda.options(np.float32))[kernel]
    function(blocks, THREADS, *arguments, only_blocks=[(samples - 1) // THREADS % BLOCKS])


def zeros(*shape, dtype=np.float32):
    return cuda_emulator.sparse_zeros(shape, dtype)


def image_and_point(H, W):
    image = zeros(1, 2, H, W)
    image[0, 1, -2:, -2:] = PIXELS
    return image, [(2 * (W - 2) + 1.5) / W - 1, (2 * (H - 2) + 2) / H - 1]  # exact in float32


def one_at_the_end(*shape):
    array = zeros(*shape)
    array[(-1,) * len(shape)] = 1
    return array


@pytest.fixture(params=SIZES.values(), ids=SIZES)
def sizes(request):
    return request.param


def test_grid_sample(sizes):
    H, W, OH, OW = sizes
    P = OH * OW
    image, point = image_and_point(H, W)
    grid, output, g = zeros(1, OH, OW, 2), zeros(1, 2, OH, OW), one_at_the_end(1, 2, OH, OW)
    grid[0, -1, -1] = point
    grad_grid, grad_image, keys, weights = (
        zeros(*grid.shape),
        zeros(*image.shape),
        zeros(4 * P, dtype=np.int64),
        zeros(4 * P),
    )
    numbers = 1, 2, H, W, P, 0, False
    launch("grid_sample", "grid_sample_forward_bilinear", P, output, image, grid, *numbers)
    assert output[0, 1, -1, -1] == VALUE
    launch("grid_sample", "grid_sample_backward_grid_bilinear", P, grad_grid, g, image, grid, *numbers)
    np.testing.assert_array_equal(grad_grid[0, -1, -1], [SLOPES[0] * W / 2, SLOPES[1] * H / 2])
    launch("grid_sample", "grid_sample_backward_input_bilinear", P, grad_image, g, grid, *numbers)
    np.testing.assert_array_equal(grad_image[0, 1, -2:, -2:], WEIGHTS)
    launch("grid_sample", "grid_sample_list_taps_bilinear", P, keys, weights, grid, *numbers)
    pixels = [H * W - W - 2, H * W - W - 1, H * W - 2, H * W - 1]
    assert keys[-4:].tolist() == [
        pixel * 4 * P + tap for pixel, tap in zip(pixels, range(4 * P - 4, 4 * P), strict=True)
    ]
    np.testing.assert_array_equal(weights[-4:], np.ravel(WEIGHTS))


def test_grid_sample_adds_up_the_taps_of_a_large_image():
    """Those of the last of six samples; the others are outside."""
    H, W, OH, OW = SIZES["large input"]
    pixels, taps = H * W, 4 * OH * OW
    keys, weights, grad_image = zeros(taps, dtype=np.int64), zeros(taps), zeros(1, 2, H, W)
    keys[:4] = np.array([pixels - W - 2, pixels - W - 1, pixels - 2, pixels - 1]) * taps + np.arange(taps - 4, taps)
    keys[4:] = pixels * taps + np.arange(taps - 4)
    weights[-4:] = np.ravel(WEIGHTS)
    arrays = grad_image, one_at_the_end(1, 2, OH, OW), keys, weights
    launch("grid_sample", "grid_sample_add_taps", 2 * pixels, *arrays, 1, 2, H, W, OH * OW, 4)
    np.testing.assert_array_equal(grad_image[0, 1, -1, -2:], WEIGHTS[1])  # the row before belongs to another block


def test_spatial_transform(sizes):
    H, W, OH, OW = sizes
    image, point = image_and_point(H, W)
    output, g = zeros(1, 2, OH, OW), one_at_the_end(1, 2, OH, OW)
    theta, x_t, y_t = (
        zeros(1, 2, 3),
        np.linspace(-1, 0.5, OW, dtype=np.float32),
        np.linspace(-1, 0.25, OH, dtype=np.float32),
    )
    theta[0, :, 2] = point  # all samples look there
    grad_image, grad_theta = zeros(*image.shape), zeros(1, BLOCKS, 2, 3)
    numbers = 1, 2, H, W, OH, OW, False
    launch("spatial_transform", "spatial_transform_forward", OH * OW, output, image, theta, x_t, y_t, *numbers)
    assert output[0, 1, -1, -1] == VALUE
    launch("spatial_transform", "spatial_transform_backward_input", OH * OW, grad_image, g, theta, x_t, y_t, *numbers)
    np.testing.assert_array_equal(grad_image[0, 1, -2:, -2:], WEIGHTS)
    arrays = grad_theta, g, image, theta, x_t, y_t
    launch("spatial_transform", "spatial_transform_backward_theta", OH * OW, *arrays, *numbers, blocks=(1, BLOCKS))
    along = np.array([[SLOPES[0] * W / 2], [SLOPES[1] * H / 2]])
    np.testing.assert_array_equal(grad_theta[0].sum(axis=0), along * [0.5, 0.25, 1])


def test_affine_grid():
    grid, grad_theta = zeros(1, SIDE, SIDE, 2), zeros(1, BLOCKS, 2, 3)
    x, y = np.linspace(-1, 0.5, SIDE, dtype=np.float32), np.linspace(-1, 0.25, SIDE, dtype=np.float32)
    theta = np.array([[[1, 2, 3], [4, 5, 6]]], np.float32)
    launch("affine_grid", "affine_grid_forward", SIDE**2, grid, theta, x, y, 1, SIDE, SIDE)
    np.testing.assert_array_equal(grid[0, -1, -1], [4, 9.25])
    g = zeros(*grid.shape)
    g[0, -1, -1] = 2, 3
    launch("affine_grid", "affine_grid_backward", SIDE**2, grad_theta, g, x, y, SIDE, SIDE, blocks=(1, BLOCKS))
    np.testing.assert_array_equal(grad_theta[0].sum(axis=0), [[1, 0.5, 2], [1.5, 0.75, 3]])


def test_projective_grid():
    """At the last point (X, Y, w) = (4, 9.25, 2); dX = 1, dY = 1.5 and dw = -(1 * 2 + 1.5 * 4.625)."""
    grid, grad_theta = zeros(1, SIDE, SIDE, 2), zeros(1, BLOCKS, 3, 3)
    x, y = np.linspace(-1, 0.5, SIDE, dtype=np.float32), np.linspace(-1, 0.25, SIDE, dtype=np.float32)
    theta, horizon = np.array([[[1, 2, 3], [4, 5, 6], [1, 0, 1.5]]], np.float32), np.float32(1e-6)
    launch("projective_grid", "projective_grid_forward", SIDE**2, grid, theta, x, y, 1, SIDE, SIDE, horizon)
    np.testing.assert_array_equal(grid[0, -1, -1], [2, 4.625])
    g = zeros(*grid.shape)
    g[0, -1, -1] = 2, 3
    arrays, blocks = (grad_theta, g, theta, x, y), (1, BLOCKS)
    launch("projective_grid", "projective_grid_backward", SIDE**2, *arrays, SIDE, SIDE, horizon, blocks=blocks)
    of_rows = np.array([[1], [1.5], [-8.9375]])
    np.testing.assert_array_equal(grad_theta[0].sum(axis=0), of_rows * [0.5, 0.25, 1])


def test_thin_plate_spline_grid():
    """The last point is moved by half of what the last of two control points is, (3, -1) - (1, 1)."""
    P, family = SIDE**2, "thin_plate_spline_grid"
    grid, points, weights = zeros(1, P, 2), zeros(P, 2), zeros(2, P)
    points[-1], weights[-1, -1] = (0.25, -0.5), 0.5
    theta, identity = np.array([[[5, 5], [3, -1]]], np.float32), np.ones((2, 2), np.float32)
    numbers = 2, np.int64(P)
    launch(family, "thin_plate_spline_grid_forward", P, grid, theta, identity, weights, points, 1, *numbers)
    np.testing.assert_array_equal(grid[0, -1], [1.25, -1.5])
    grad_theta, g = zeros(2, BLOCKS, 2), zeros(1, P, 2)
    g[0, -1] = 2, 3
    last = cuda_emulator.build(_cuda.source(f"ministn.kernels.{family}"), _cuda.options(np.float32))
    last[f"{family}_backward"]((2, BLOCKS), THREADS, grad_theta, g, weights, *numbers, only_blocks=[2 * BLOCKS - 1])
    np.testing.assert_array_equal(grad_theta.sum(axis=1), [[0, 0], [1, 1.5]])
