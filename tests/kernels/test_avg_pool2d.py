"""Average pooling, loops and CUDA kernels, against PyTorch, SciPy, finite differences and by hand."""

import itertools

import numpy as np
import pytest
import scipy.ndimage
from hypothesis import given, settings
from hypothesis import strategies as st
from implementations import KERNELS, kernels

import ministn
from ministn import Tensor
from ministn.kernels.avg_pool2d import avg_pool2d

OTHERS = [name for name in KERNELS if name != "reference"]
# kernel, stride, padding, ceil_mode, count_include_pad
GEOMETRIES = [
    (*geometry, count_include_pad)
    for geometry, count_include_pad in itertools.product(
        [
            (2, None, 0, False),
            (2, None, 0, True),
            (3, 2, 1, False),
            (3, 2, 1, True),
            ((3, 2), (1, 3), (1, 0), True),
            (5, 1, 2, False),
            ((1, 4), (2, 3), (0, 2), True),
            (2, 5, 1, True),  # stride beyond the kernel: some pixels are in no window
            ((5, 7), 3, (2, 3), True),
        ],
        [True, False],
    )
]
DTYPES = [np.float32, np.float64]
# Sums of at most 35 values around 1, in another order: some units in the last place.
TOLERANCE = {np.float32: {"rtol": 1e-5, "atol": 2e-6}, np.float64: {"rtol": 1e-13, "atol": 1e-14}}


def batch_last_memory(x):
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 0, -1)), -1, 0)


def pool(x, g, *geometry):
    """Values and gradient of avg_pool2d, as arrays."""
    input = Tensor(x, requires_grad=True)
    output = avg_pool2d(input, *geometry)
    output.backward(g)
    return output.data, input.grad.data


def images(shape, dtype, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


@pytest.mark.parametrize("name", KERNELS)
def test_hand_worked_example(name):
    """The examples of the family's README."""
    x = np.arange(1, 10, dtype=np.float32).reshape(1, 1, 3, 3)
    g = np.array([[4, 2], [2, 1]], np.float32)[None, None]
    with kernels(name):
        y, dx = pool(x, g, 2, 2, 0, True)
        with_padding = avg_pool2d(Tensor(x), 2, 2, 1, count_include_pad=True).data
        without_padding = avg_pool2d(Tensor(x), 2, 2, 1, count_include_pad=False).data
    # Every number is a small multiple of 1/4: exact.
    np.testing.assert_array_equal(y[0, 0], [[3, 4.5], [7.5, 9]])
    np.testing.assert_array_equal(dx[0, 0], np.ones((3, 3)))
    np.testing.assert_array_equal(with_padding[0, 0], [[0.25, 1.25], [2.75, 7]])
    np.testing.assert_array_equal(without_padding[0, 0], [[1, 2.5], [5.5, 7]])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("name", KERNELS)
def test_equals_torch(name, geometry, dtype):
    torch = pytest.importorskip("torch")
    x = images((3, 2, 11, 13), dtype)
    input = torch.tensor(x, requires_grad=True)
    expected = torch.nn.functional.avg_pool2d(input, *geometry)
    g = images(tuple(expected.shape), dtype, seed=1)
    expected.backward(torch.tensor(g))
    with kernels(name):
        y, dx = pool(x, g, *geometry)
    assert y.dtype == dx.dtype == dtype
    np.testing.assert_allclose(y, expected.detach().numpy(), **TOLERANCE[dtype])
    np.testing.assert_allclose(dx, input.grad.numpy(), **TOLERANCE[dtype])


@pytest.mark.parametrize("name", KERNELS)
@settings(max_examples=60)
@given(
    size=st.tuples(st.integers(1, 15), st.integers(1, 15)),
    kernel=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    stride=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    halves=st.tuples(st.floats(0, 0.5), st.floats(0, 0.5)),
    ceil_mode=st.booleans(),
    count_include_pad=st.booleans(),
)
def test_any_geometry_equals_torch(name, size, kernel, stride, halves, ceil_mode, count_include_pad):
    torch = pytest.importorskip("torch")
    padding = tuple(int(k * half) for k, half in zip(kernel, halves, strict=True))
    x = images((2, 1, *size), np.float64)
    arguments = (kernel, stride, padding, ceil_mode, count_include_pad)
    try:
        expected = torch.nn.functional.avg_pool2d(torch.tensor(x), *arguments)
    except RuntimeError:  # no window fits
        with pytest.raises(ValueError, match="padded input to be at least"):
            avg_pool2d(Tensor(x), *arguments)
        return
    with kernels(name):
        y = avg_pool2d(Tensor(x), *arguments).data
    np.testing.assert_allclose(y, expected.numpy(), **TOLERANCE[np.float64])


def test_equals_scipy():
    x = images((2, 3, 12, 9), np.float64)
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (0, 0)))
    weights = np.full((1, 1, 3, 4), 1 / 12)
    centred = scipy.ndimage.correlate(padded, weights, mode="constant")
    # SciPy's window of K pixels around pixel m starts at m - K // 2.
    expected = centred[:, :, 1 : 12 + 2 - 1 : 2, 2 : 9 - 1 : 3]
    y = avg_pool2d(Tensor(x), (3, 4), (2, 3), (1, 0)).data
    np.testing.assert_allclose(y, expected, **TOLERANCE[np.float64])


@pytest.mark.parametrize("batch", [0, 1, 2, 7, 8, 16, 31, 64, 70])
@pytest.mark.parametrize("arrange", [np.ascontiguousarray, batch_last_memory])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", OTHERS)
def test_equals_reference(batch, arrange, dtype, name):
    x, g = images((batch, 2, 7, 5), dtype), images((batch, 2, 4, 3), dtype, seed=1)
    with kernels(name):
        y, dx = pool(arrange(x), arrange(g), 3, 2, 1)
    with kernels("reference"):
        expected, expected_dx = pool(x, g, 3, 2, 1)
    np.testing.assert_allclose(y, expected, **TOLERANCE[dtype])
    np.testing.assert_allclose(dx, expected_dx, **TOLERANCE[dtype])


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_gradcheck(name, geometry):
    x = Tensor(images((2, 2, 11, 8), np.float64), requires_grad=True)
    with kernels(name):
        assert ministn.gradcheck(lambda t: avg_pool2d(t, *geometry), [x], tolerance=1e-6)


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_adjoint_identity(name, geometry):
    x = images((3, 2, 10, 7), np.float64)
    g = images(avg_pool2d(Tensor(x), *geometry).shape, np.float64, seed=1)
    with kernels(name):
        y, dx = pool(x, g, *geometry)
    # Both sides are sums of the same few hundred products in another order: 1e-12 is far above their rounding.
    assert np.vdot(y, g) == pytest.approx(np.vdot(x, dx), rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("geometry", [geometry for geometry in GEOMETRIES if not geometry[4]])
def test_without_padding_the_mean_of_a_constant_is_the_constant(geometry):
    y = avg_pool2d(Tensor(np.full((1, 1, 11, 8), 3.0)), *geometry).data
    np.testing.assert_allclose(y, 3, rtol=1e-14)  # up to 35 additions and one product, each exact to 1.1e-16


@pytest.mark.parametrize("order", [1, 20261125])
def test_same_bits_in_any_order_of_the_threads(order):
    x, g = images((3, 3, 12, 11), np.float32), images((3, 3, 6, 6), np.float32, seed=1)
    results = []
    for thread_order in (0, order):
        with kernels("cuda", thread_order):
            results.append(pool(x, g, 5, 2, 2))
    for first, other in zip(*results, strict=True):
        np.testing.assert_array_equal(first, other)


@pytest.mark.usefixtures("more_threads_than_one")
def test_same_bits_for_any_number_of_threads():
    x, g = images((33, 3, 12, 11), np.float32), images((33, 3, 6, 6), np.float32, seed=1)
    before = ministn.get_num_threads()
    results = [pool(x, g, 5, 2, 2)]
    ministn.set_num_threads(1)
    try:
        results.append(pool(x, g, 5, 2, 2))
    finally:
        ministn.set_num_threads(before)
    for many, one in zip(*results, strict=True):
        np.testing.assert_array_equal(many, one)


@pytest.mark.parametrize("name", OTHERS)  # in the matrix products of the reference 0 times infinity is NaN
def test_nan_and_infinity_reach_only_their_windows(name):
    x = np.zeros((1, 1, 4, 6), np.float32)
    x[0, 0, 0, 0], x[0, 0, 2, 3] = np.nan, np.inf
    with kernels(name):
        y = avg_pool2d(Tensor(x), (2, 3)).data
    np.testing.assert_array_equal(y[0, 0], [[np.nan, 0], [0, np.inf]])


def test_ceil_mode_keeps_the_last_pixel():
    """13 -> 7: without it, the 7x7 convolution of the paper's classifier would find 6 pixels."""
    x = Tensor(np.arange(13.0 * 13).reshape(1, 1, 13, 13))
    assert avg_pool2d(x, 2).shape == (1, 1, 6, 6)
    y = avg_pool2d(x, 2, ceil_mode=True)
    assert y.shape == (1, 1, 7, 7)
    assert y.data[0, 0, 6, 6] == 13 * 13 - 1  # the corner alone, not divided by 4


def test_result_is_batch_last():
    y = avg_pool2d(Tensor(np.zeros((8, 3, 6, 6), np.float32)), 2)
    assert np.moveaxis(y.data, 0, -1).flags.c_contiguous


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"kernel_size": 0}, ValueError, "avg_pool2d: expected kernel_size to be at least 1, got 0"),
        ({"kernel_size": 2.5}, TypeError, "avg_pool2d: expected kernel_size to be an integer or two, got 2.5"),
        ({"kernel_size": (2, 2, 2)}, TypeError, "kernel_size to be an integer or two"),
        ({"kernel_size": 2, "stride": 0}, ValueError, "avg_pool2d: expected stride to be at least 1, got 0"),
        ({"kernel_size": 2, "padding": -1}, ValueError, "avg_pool2d: expected padding to be at least 0, got -1"),
        ({"kernel_size": 3, "padding": 2}, ValueError, r"padding to be at most half of kernel_size \(3, 3\), got"),
        ({"kernel_size": (2, 9)}, ValueError, r"H, W of the padded input to be at least \(2, 9\), got \(6, 7\)"),
        ({"kernel_size": 2, "input": np.zeros((1, 1, 6, 7))}, TypeError, "expected input to be a Tensor"),
        ({"kernel_size": 2, "input": Tensor(np.zeros((1, 6, 7)))}, ValueError, r"input of shape \(N, C, H, W\), got"),
        ({"kernel_size": 2, "input": Tensor(np.zeros((1, 1, 6, 7), int))}, TypeError, "float32 or float64, got int64"),
        ({"kernel_size": 1, "input": Tensor(np.zeros((1, 1, 0, 7)))}, ValueError, "axes C, H, W of input"),
    ],
)
def test_bad_input(arguments, error, message):
    with pytest.raises(error, match=message):
        avg_pool2d(**{"input": Tensor(np.zeros((1, 1, 6, 7))), **arguments})
