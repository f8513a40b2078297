"""More than 2^31 or 2^32 elements: indices of 32 bits would wrap around. Arrays of gigabytes of which a few pages
exist, and a grid of which the last blocks run, show what kernels do at the far end, in little memory and time."""

from __future__ import annotations

import math

import cuda_emulator
import numpy as np
import pytest

from ministn.kernels import _cuda

try:
    cuda_emulator.find_compiler()
except cuda_emulator.NoCompilerError as error:
    pytest.skip(str(error), allow_module_level=True)

COUNT = 2**32 + 1000  # where unsigned integers of 32 bits end, too
THREADS = 256


def elementwise() -> None:
    """The last numbers of three arrays."""
    kernels = cuda_emulator.build(_cuda.source("ministn.ops.elementwise"), _cuda.options(np.float32))
    x, y, scale = (cuda_emulator.sparse_zeros(size, np.float32) for size in (COUNT, COUNT, COUNT // 4))
    blocks = -(-COUNT // THREADS)
    last = slice((blocks - 1) * THREADS, None)
    values = np.arange(1, 1 + COUNT - last.start, dtype=np.float32)
    x[last], scale[last.start // 4 :] = values, 2
    kernels["relu"](blocks, THREADS, y, x, np.int64(COUNT), only_blocks=[blocks - 1])
    np.testing.assert_array_equal(y[last], values)
    kernels["scaled"](blocks, THREADS, y, x, scale, np.int64(COUNT), np.int64(4), only_blocks=[blocks - 1])
    np.testing.assert_array_equal(y[last], 2 * values)
    kernels["add_scaled"](blocks, THREADS, y, np.float32(3), x, np.int64(COUNT), only_blocks=[blocks - 1])
    np.testing.assert_array_equal(y[last], 5 * values)


CHECKS = {"ministn.ops.elementwise": elementwise}


@pytest.mark.parametrize("package", CHECKS)
def test_the_far_end_of_large_arrays(package):
    CHECKS[package]()


# --- kernels.* --------------------------------------------------------------------------------------------------------

SIDE = 47000  # an image of 47000 x 47000 pixels has 2.2e9, more than 2**31 = 2.15e9


def large(*shape):
    assert math.prod(shape) > 2**31
    return cuda_emulator.sparse_zeros(shape, np.float32)


def run(family, kernel, blocks, threads, *arguments, block=-1):
    """Launch `blocks` blocks, one number or one for each axis, and run the last one, or the one of that number."""
    kernels = cuda_emulator.build(_cuda.source(f"ministn.kernels.{family}"), _cuda.options(np.float32))
    blocks = (blocks,) if isinstance(blocks, int) else blocks
    kernels[kernel](blocks, threads, *arguments, only_blocks=[block % math.prod(blocks)])


def blocks_for(array, threads=256):
    return -(-array.size // threads)


ONE = (1, 1, 0, 0, 1, 1)  # stride, padding, dilation
TAPS = np.array([[0, u, v] for u in range(2) for v in range(2)], np.int32)
WEIGHT = np.array([[[[1, 10], [100, 1000]]]], np.float32)


# --- conv2d -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tiles", [False, True])
def test_convolution_of_large_images(tiles):
    x, y, bias = large(2, 1, SIDE, SIDE), large(2, 1, SIDE - 1, SIDE - 1), np.zeros(1, np.float32)
    x[-1, 0, -2:, -2:] = [[1, 2], [3, 4]]
    sizes = 2, 1, SIDE, SIDE, 1, 2, 2, SIDE - 1, SIDE - 1, *ONE
    if tiles:
        run("conv2d", "conv2d_forward_16x64", blocks_for(y, 64), 64, y, x, WEIGHT, bias, TAPS, 4, *sizes)
    else:
        run("conv2d", "conv2d_forward", blocks_for(y), 256, y, x, WEIGHT, bias, *sizes)
    assert y[-1, 0, -1, -1] == 4321


@pytest.mark.parametrize("tiles", [False, True])
def test_convolution_with_many_weights(tiles):
    O, C = 2**16, 2**15 + 1  # noqa: E741
    w, x, y = large(O, C, 1, 1), np.zeros((1, C, 1, 1), np.float32), np.zeros((1, O, 1, 1), np.float32)
    bias = np.zeros(O, np.float32)
    w[-1, -1], x[0, -1] = 3, 7
    sizes = 1, C, 1, 1, O, 1, 1, 1, 1, *ONE
    if tiles:
        taps = np.array([[c, 0, 0] for c in range(C)], np.int32)
        run("conv2d", "conv2d_forward_16x64", (1, O // 16), 64, y, x, w, bias, taps, C, *sizes)
    else:
        run("conv2d", "conv2d_forward", O // 256, 256, y, x, w, bias, *sizes)
    assert y[0, -1, 0, 0] == 21


def test_gradient_for_images_with_many_weights():
    O, C = 2**16, 2**15 + 1  # noqa: E741
    w, g, dx = large(O, C, 1, 1), np.zeros((1, O, 1, 1), np.float32), np.zeros((1, C, 1, 1), np.float32)
    w[-1, -1], g[0, -1] = 3, 7
    run("conv2d", "conv2d_grad_input", blocks_for(dx), 256, dx, g, w, 1, C, 1, 1, O, 1, 1, 1, 1, *ONE)
    assert dx[0, -1, 0, 0] == 21


def test_gradient_for_large_images():
    dx, g = large(2, 1, SIDE, SIDE), large(2, 1, SIDE - 1, SIDE - 1)
    g[-1, 0, -1, -1] = 2
    sizes = 2, 1, SIDE, SIDE, 1, 2, 2, SIDE - 1, SIDE - 1, *ONE
    run("conv2d", "conv2d_grad_input", blocks_for(dx), 256, dx, g, WEIGHT, *sizes)
    assert dx[-1, 0, -1, -1] == 2000


@pytest.mark.parametrize("tiles", [False, True])
def test_gradient_for_weights_of_large_images(tiles):
    """Four windows of one pixel, in the corners."""
    x, g, dw = large(2, 1, SIDE, SIDE), np.zeros((2, 1, 2, 2), np.float32), np.zeros((1, 1, 1, 1), np.float32)
    x[-1, 0, -1, -1], g[-1, 0, -1, -1] = 3, 7
    sizes = 2, 1, SIDE, SIDE, 1, 1, 1, 2, 2, SIDE - 1, SIDE - 1, 0, 0, 1, 1
    if tiles:
        arguments = dw, g, x, np.zeros((1, 3), np.int32), 1, np.int64(32)
        run("conv2d", "conv2d_grad_weight_16x64", 1, 64, *arguments, *sizes)
    else:
        run("conv2d", "conv2d_grad_weight", 1, 32, dw, g, x, *sizes)
    assert dw.item() == 21


def test_gradient_for_many_weights():
    """Images of one pixel; blocks stride over more taps than a grid has blocks."""
    O, C, grid = 6 * 10**8, 4, 2**31 - 1  # noqa: E741
    g, dw, x = (
        cuda_emulator.sparse_zeros((4, O, 1, 1), np.float32),
        large(O, C, 1, 1),
        np.zeros((4, C, 1, 1), np.float32),
    )
    assert g.size > 2**31
    g[-1, -1], x[-1, -1] = 3, 7
    sizes = 4, C, 1, 1, O, 1, 1, 1, 1, *ONE
    run("conv2d", "conv2d_grad_weight", grid, 32, dw, g, x, *sizes, block=dw.size - 1 - grid)
    assert dw[-1, -1, 0, 0] == 21
    bias = cuda_emulator.sparse_zeros(O, np.float32)
    run("conv2d", "conv2d_grad_bias", O, 32, bias, g, 4, O, 1, 1)
    assert bias[-1] == 3


def test_tile_of_the_gradient_for_weights_of_many_images():
    N, O = 2**20, 33  # noqa: E741
    g, x = large(N, O, 8, 8), cuda_emulator.sparse_zeros((N, 1, 8, 8), np.float32)
    length = np.int64(1056)  # pixels of a part
    count = -(-N * 64 // length)
    parts = np.zeros((count, O, 1, 1, 1), np.float32)
    g[-1, -1, -1, -1], x[-1, 0, -1, -1] = 3, 7
    arguments = parts, g, x, np.zeros((1, 3), np.int32), 1, length
    run("conv2d", "conv2d_grad_weight_64x64", (1, 1, count), 128, *arguments, N, 1, 8, 8, O, 1, 1, 8, 8, *ONE)
    assert parts[-1, -1] == 21


def test_tile_of_the_gradient_for_weights_of_large_images():
    x, g, parts = large(1, 1, SIDE, SIDE), large(1, 1, SIDE, SIDE), np.zeros((40001, 1), np.float32)
    x[-1, 0, -1, -1], g[-1, 0, -1, -1] = 3, 7
    length = g.size // 40000  # the last part has a few pixels
    arguments = parts, g, x, np.zeros((1, 3), np.int32), 1, np.int64(length)
    sizes = 1, 1, SIDE, SIDE, 1, 1, 1, SIDE, SIDE, *ONE
    run("conv2d", "conv2d_grad_weight_16x64", (1, 1, -(-g.size // length)), 64, *arguments, *sizes)
    assert parts[-(-g.size // length) - 1] == 21


def test_many_large_parts_of_the_gradient_for_weights():
    count, O = 65535, 256  # noqa: E741
    N = 32 * count
    parts, table = large(count, O, O), np.array([[c, 0, 0] for c in range(O)], np.int32)
    g, x = (cuda_emulator.sparse_zeros((N, O, 1, 1), np.float32) for _ in range(2))
    g[-1, -1], x[-1, -1] = 3, 7
    arguments = parts, g, x, table, O, np.int64(32)
    sizes = N, O, 1, 1, O, 1, 1, 1, 1, *ONE
    run("conv2d", "conv2d_grad_weight_64x64", (O // 64, O // 64, count), 128, *arguments, *sizes)
    assert parts[-1, -1, -1] == 21


def test_sum_of_large_parts():
    dw, parts = large(COUNT), large(2, COUNT)
    parts[:, -1] = 3, 4
    run("conv2d", "conv2d_add_parts", blocks_for(dw), 256, dw, parts, 2, np.int64(COUNT))
    assert dw[-1] == 7


# --- pooling ----------------------------------------------------------------------------------------------------------

# planes, H, W, OH, OW, KH, KW, stride, padding: large images, and many of one pixel
LARGE_IMAGES = np.int64(2), SIDE, SIDE, SIDE - 1, SIDE - 1, 2, 2, 1, 1, 0, 0
MANY_IMAGES = np.int64(COUNT), 1, 1, 1, 1, 1, 1, 1, 1, 0, 0
SIZES = pytest.mark.parametrize("sizes", [LARGE_IMAGES, MANY_IMAGES], ids=["large images", "many images"])


def images_and_windows(sizes):
    planes, H, W, OH, OW = sizes[:5]
    return large(planes, H, W), large(planes, OH, OW)


@SIZES
@pytest.mark.parametrize("dtype", [np.uint8, np.uint32])
def test_max_pooling(sizes, dtype):
    x, y = images_and_windows(sizes)
    taps = cuda_emulator.sparse_zeros(y.shape, dtype)
    last = sizes[5] * sizes[6] - 1
    x[-1, -2:, -2:] = -8  # less than the zeros that a wrong index would find
    x[-1, -1, -1] = -5
    run("max_pool2d", f"max_pool2d_forward_{np.dtype(dtype)}", blocks_for(y), 256, y, taps, x, 0, *sizes)
    assert (y[-1, -1, -1], taps[-1, -1, -1]) == (-5, last)

    g, dx = y, x
    g[-1, -1, -1] = 7
    run("max_pool2d", f"max_pool2d_backward_{np.dtype(dtype)}", blocks_for(dx), 256, dx, g, taps, *sizes)
    assert dx[-1, -1, -1] == 7


@SIZES
def test_average_pooling(sizes):
    x, y = images_and_windows(sizes)
    count = sizes[5] * sizes[6]
    x[-1, -1, -1] = 8
    run("avg_pool2d", "avg_pool2d_forward", blocks_for(y), 256, y, x, *sizes, 0, 0)
    assert y[-1, -1, -1] == 8 / count

    g, dx = y, x
    g[-1, -1, -1] = 12
    run("avg_pool2d", "avg_pool2d_backward", blocks_for(dx), 256, dx, g, *sizes, 0, 0)
    assert dx[-1, -1, -1] == 12 / count
