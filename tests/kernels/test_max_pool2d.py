"""Max pooling, loops and CUDA kernels, against PyTorch, SciPy, finite differences and by hand."""

import numpy as np
import pytest
import scipy.ndimage
from hypothesis import given, settings
from hypothesis import strategies as st
from implementations import KERNELS, kernels

import ministn
from ministn import Tensor
from ministn import functional as F
from ministn.kernels.max_pool2d import cpu, reference
from ministn.kernels.max_pool2d import max_pool2d as max_pool2d_by_keyword

OTHERS = [name for name in KERNELS if name != "reference"]
# kernel, stride, padding, ceil_mode
GEOMETRIES = [
    (2, None, 0, False),
    (2, None, 0, True),
    (3, 2, 1, False),
    (3, 2, 1, True),
    ((3, 2), (1, 3), (1, 0), True),
    (5, 1, 2, False),
    ((1, 4), (2, 3), (0, 2), True),
    (2, 5, 1, True),  # stride beyond the kernel: some pixels are in no window
    ((5, 7), 3, (2, 3), True),
    ((3, 2), (3, 4), (1, 0), False),  # windows apart, and unlike in all
]
DTYPES = [np.float32, np.float64]


def batch_last_memory(x):
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 0, -1)), -1, 0)


def max_pool2d(input, kernel_size, stride=None, padding=0, ceil_mode=False):
    """max_pool2d that takes a whole geometry by position."""
    return max_pool2d_by_keyword(input, kernel_size, stride, padding, ceil_mode=ceil_mode)


def pool(x, g, *geometry):
    """Values and gradient of max_pool2d, as arrays."""
    input = Tensor(x, requires_grad=True)
    output = max_pool2d(input, *geometry)
    output.backward(g)
    return output.data, input.grad.data


def images(shape, dtype, seed=0):
    """Images with many ties: integers from 0 to 4."""
    return np.random.default_rng(seed).integers(0, 5, shape).astype(dtype)


@pytest.mark.parametrize("name", KERNELS)
def test_hand_worked_example(name):
    """The example of the family's README."""
    x = Tensor(np.array([[[[1.0, 3, 2], [4, 3, 0], [1, 5, 5]]]]), requires_grad=True)
    with kernels(name):
        y = max_pool2d(x, 2, 1)
        winning_taps = y.creator.taps
        y.backward(np.array([[[[1.0, 10], [100, 1000]]]]))
    np.testing.assert_array_equal(y.data, [[[[4, 3], [5, 5]]]])
    np.testing.assert_array_equal(winning_taps, [[[[2, 0], [3, 2]]]])
    np.testing.assert_array_equal(x.grad.data, [[[[0, 10, 0], [1, 0, 0], [0, 1100, 0]]]])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("name", KERNELS)
def test_equals_torch(name, geometry, dtype):
    torch = pytest.importorskip("torch")
    x = images((3, 2, 11, 13), dtype)
    input = torch.tensor(x, requires_grad=True)
    expected = torch.nn.functional.max_pool2d(input, geometry[0], geometry[1], geometry[2], ceil_mode=geometry[3])
    g = images(tuple(expected.shape), dtype, seed=1)
    expected.backward(torch.tensor(g))
    with kernels(name):
        y, dx = pool(x, g, *geometry)
    assert y.dtype == dx.dtype == dtype
    np.testing.assert_array_equal(y, expected.detach().numpy())
    np.testing.assert_array_equal(dx, input.grad.numpy())  # sums of small integers: exact


@pytest.mark.parametrize("name", KERNELS)
@settings(max_examples=60)
@given(
    size=st.tuples(st.integers(1, 15), st.integers(1, 15)),
    kernel=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    stride=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    halves=st.tuples(st.floats(0, 0.5), st.floats(0, 0.5)),
    ceil_mode=st.booleans(),
)
def test_any_geometry_equals_torch(name, size, kernel, stride, halves, ceil_mode):
    torch = pytest.importorskip("torch")
    padding = tuple(int(k * half) for k, half in zip(kernel, halves, strict=True))
    x = images((2, 1, *size), np.float64)
    try:
        expected = torch.nn.functional.max_pool2d(torch.tensor(x), kernel, stride, padding, ceil_mode=ceil_mode)
    except RuntimeError:  # no window fits
        with pytest.raises(ValueError, match="padded input to be at least"):
            max_pool2d(Tensor(x), kernel, stride, padding, ceil_mode)
        return
    with kernels(name):
        y = max_pool2d(Tensor(x), kernel, stride, padding, ceil_mode).data
    np.testing.assert_array_equal(y, expected.numpy())


def test_equals_scipy():
    x = np.random.default_rng(0).standard_normal((2, 3, 12, 9))
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (0, 0)), constant_values=-np.inf)
    centred = scipy.ndimage.maximum_filter(padded, size=(1, 1, 3, 4), mode="constant", cval=-np.inf)
    # SciPy's window of K pixels around pixel m starts at m - K // 2.
    expected = centred[:, :, 1 : 12 + 2 - 1 : 2, 2 : 9 - 1 : 3]
    np.testing.assert_array_equal(max_pool2d(Tensor(x), (3, 4), (2, 3), (1, 0)).data, expected)


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_equals_reference(geometry, dtype, relu, name):
    """With ties, NaN and windows of -infinity."""
    x = images((5, 3, 9, 14), dtype) - 2
    x[2, :, 3:5, 4:9], x[3, 0], x[4, 1, ::3, ::2] = -np.inf, -np.inf, np.nan
    tensor, (kernel, stride, padding, ceil_mode) = Tensor(x, requires_grad=True), geometry
    with kernels(name):
        output = max_pool2d_by_keyword(tensor, kernel, stride, padding, ceil_mode=ceil_mode, relu=relu)
        function = output.creator
        g = images(output.shape, dtype, seed=1)
        output.backward(g, retain_graph=True)
    y, taps = reference.forward(x, *function.geometry, function.output_size, relu)
    assert output.dtype == tensor.grad.dtype == dtype
    assert function.taps.dtype == np.uint8
    np.testing.assert_array_equal(output.data, y)
    np.testing.assert_array_equal(function.taps, taps)
    np.testing.assert_array_equal(tensor.grad.data, reference.backward(g, taps, *function.geometry, (9, 14)))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_vectors_of_images(geometry, dtype):
    """With many images the loops run over vectors of them; with ties, NaN and windows of -infinity among them."""
    x = images((19, 2, 9, 14), dtype)
    x[2, :, 3:5, 4:9], x[3, 0], x[4, 1, ::3, ::2], x[17, 1, 5, 5] = -np.inf, -np.inf, np.nan, np.nan
    output = max_pool2d(Tensor(batch_last_memory(x), requires_grad=True), *geometry)
    function = output.creator
    y, taps = reference.forward(x, *function.geometry, function.output_size)
    np.testing.assert_array_equal(output.data, y)
    np.testing.assert_array_equal(function.taps, taps)
    g = images(y.shape, dtype, seed=1)
    dx = cpu.backward(g, function.taps, *function.geometry, x.shape[2:])
    np.testing.assert_array_equal(dx, reference.backward(g, taps, *function.geometry, x.shape[2:]))


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("batch", [0, 1, 2, 7, 8, 16, 31, 64, 70])
@pytest.mark.parametrize("arrange", [np.ascontiguousarray, batch_last_memory])
def test_batch_sizes_and_layouts(batch, arrange, name):
    x, g = images((batch, 2, 7, 5), np.float32), images((batch, 2, 4, 3), np.float32, seed=1)
    with kernels(name):
        y, dx = pool(arrange(x), arrange(g), 3, 2, 1)
    with kernels("reference"):
        expected, expected_dx = pool(x, g, 3, 2, 1)
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_array_equal(dx, expected_dx)


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_gradcheck(name, geometry):
    # Distinct values 0.01 apart, far more than gradcheck's step of 1e-5: no window changes its winner.
    x = 0.01 * np.random.default_rng(0).permutation(2 * 2 * 11 * 8).reshape(2, 2, 11, 8)
    with kernels(name):
        assert ministn.gradcheck(lambda t: max_pool2d(t, *geometry), [Tensor(x, requires_grad=True)], tolerance=1e-6)


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_adjoint_identity(name, geometry):
    """Where the winners are fixed, pooling is a linear map: it picks them."""
    random = np.random.default_rng(0)
    x = random.standard_normal((3, 2, 10, 7))
    g = random.standard_normal(max_pool2d(Tensor(x), *geometry).shape)
    with kernels(name):
        y, dx = pool(x, g, *geometry)
    # Both sides are sums of the same few hundred products in another order: 1e-12 is far above their rounding.
    assert np.vdot(y, g) == pytest.approx(np.vdot(x, dx), rel=1e-12, abs=1e-12)


@pytest.mark.usefixtures("more_threads_than_one")
def test_same_bits_for_any_number_of_threads():
    x = np.random.default_rng(0).standard_normal((33, 3, 12, 11)).astype(np.float32)
    g = np.random.default_rng(1).standard_normal((33, 3, 6, 6)).astype(np.float32)
    before = ministn.get_num_threads()
    results = [pool(x, g, 5, 2, 2)]
    ministn.set_num_threads(1)
    try:
        results.append(pool(x, g, 5, 2, 2))
    finally:
        ministn.set_num_threads(before)
    for many, one in zip(*results, strict=True):
        np.testing.assert_array_equal(many, one)


@pytest.mark.parametrize("order", [1, 20261125])
def test_same_bits_in_any_order_of_the_threads(order):
    x, g = images((3, 3, 12, 11), np.float32), images((3, 3, 6, 6), np.float32, seed=1)
    results = []
    for thread_order in (0, order):
        with kernels("cuda", thread_order):
            results.append(pool(x, g, 5, 2, 2))
    for first, other in zip(*results, strict=True):
        np.testing.assert_array_equal(first, other)


@pytest.mark.parametrize("name", KERNELS)
def test_first_of_equal_values_wins(name):
    with kernels(name):
        _, dx = pool(np.zeros((1, 1, 4, 6)), np.ones((1, 1, 2, 2)), (2, 3))
    expected = np.zeros((4, 6))
    expected[::2, ::3] = 1
    np.testing.assert_array_equal(dx[0, 0], expected)


@pytest.mark.parametrize("name", KERNELS)
def test_nan_and_infinity_as_in_torch(name):
    torch = pytest.importorskip("torch")
    x = images((2, 2, 9, 10), np.float32)
    x[0, 0, 1, 1:4] = np.nan  # several in one window, and in overlapping ones
    x[0, 1, 3:7, 2:8] = -np.inf  # windows of nothing else
    x[1, 0] = -np.inf  # the padding must not win
    x[1, 1, 2, 2], x[1, 1, 3, 3] = np.inf, np.nan
    input = torch.tensor(x, requires_grad=True)
    expected = torch.nn.functional.max_pool2d(input, 3, 2, 1, ceil_mode=True)
    g = 1 + np.arange(expected.numel(), dtype=np.float32).reshape(expected.shape)
    expected.backward(torch.tensor(g))
    with kernels(name):
        y, dx = pool(x, g, 3, 2, 1, True)
    np.testing.assert_array_equal(y, expected.detach().numpy())
    np.testing.assert_array_equal(dx, input.grad.numpy())


@pytest.mark.parametrize(
    ("length", "kernel", "stride", "padding", "ceil_mode", "expected"),
    [
        (13, 2, 2, 0, False, 6),
        (13, 2, 2, 0, True, 7),  # the last window sees one pixel
        (4, 1, 5, 0, True, 1),  # the ceiling would be 2: that window would start at 5, outside
        (5, 2, 3, 1, True, 2),  # would be 3: the last one would start at 6 = 5 + 1, beyond image and left padding
        (6, 2, 3, 1, True, 3),  # starts at 6 < 6 + 1: it stays, and sees the last pixel
        (3, 5, 5, 0, True, 1),  # larger than the image, yet it starts inside
    ],
)
def test_output_size(length, kernel, stride, padding, ceil_mode, expected):
    x = Tensor(np.arange(length, dtype=np.float32).reshape(1, 1, 1, length))
    y = max_pool2d(x, (1, kernel), (1, stride), (0, padding), ceil_mode)
    assert y.shape == (1, 1, 1, expected)
    last = min((expected - 1) * stride - padding + kernel, length) - 1  # x rises: the last pixel of a window is largest
    assert y.data[0, 0, 0, -1] == last


@pytest.mark.parametrize("name", KERNELS)
def test_windows_with_more_taps_than_a_byte_can_number(name):
    x = np.random.default_rng(0).standard_normal((3, 1, 40, 21))
    x[0, 0, 19, 16] = 9  # tap 19 * 17 + 16 = 339
    with kernels(name):
        y, dx = pool(x, np.ones((3, 1, 2, 1)), (20, 17))
    assert y[0, 0, 0, 0] == 9
    assert dx[0, 0, 19, 16] == 1
    assert dx.sum() == 6


def test_result_is_batch_last():
    y = max_pool2d(Tensor(np.zeros((8, 3, 6, 6), np.float32)), 2)
    assert np.moveaxis(y.data, 0, -1).flags.c_contiguous


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"kernel_size": 0}, ValueError, "max_pool2d: expected kernel_size to be at least 1, got 0"),
        ({"kernel_size": 2.5}, TypeError, "max_pool2d: expected kernel_size to be an integer or two, got 2.5"),
        ({"kernel_size": (2, 2, 2)}, TypeError, "kernel_size to be an integer or two"),
        ({"kernel_size": 2, "stride": 0}, ValueError, "max_pool2d: expected stride to be at least 1, got 0"),
        ({"kernel_size": 2, "padding": -1}, ValueError, "max_pool2d: expected padding to be at least 0, got -1"),
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
        max_pool2d(**{"input": Tensor(np.zeros((1, 1, 6, 7))), **arguments})


def test_the_place_of_pytorchs_dilation_is_empty():
    x = Tensor(np.zeros((1, 1, 6, 7), np.float32))
    with pytest.raises(TypeError, match="positional arguments"):
        max_pool2d_by_keyword(x, 3, 2, 1, 1)


def test_pairs_may_be_lists():
    x = Tensor(np.random.default_rng(0).standard_normal((3, 2, 9, 8)))
    np.testing.assert_array_equal(max_pool2d(x, [2, 3], [1, 2]).data, max_pool2d(x, (2, 3), (1, 2)).data)


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("batch", [3, 20, 64])
@pytest.mark.parametrize("options", [(2,), ((3, 2), (2, 1), 1), (16, 1)], ids=str)
def test_relu_in_the_same_pass(options, batch, name):
    """Windows apart and overlapping, and more taps than a byte counts: the bits of pooling and ReLU one by one."""
    shift = 2.8 if options[0] == 16 else 1  # so that some windows have nothing positive
    x = (np.random.default_rng(0).standard_normal((batch, 2, 17, 18)) - shift).astype(np.float32)
    x[0, 0, 4, 5] = np.nan
    with kernels(name):
        results = []
        for pool in (lambda x: F.max_pool2d(x, *options, relu=True), lambda x: F.relu(F.max_pool2d(x, *options))):
            tensor = Tensor(x, requires_grad=True)
            y = pool(tensor)
            y.backward(np.random.default_rng(1).standard_normal(y.shape).astype(np.float32))
            results.append((y.data, tensor.grad.data))
    (y, dx), (expected_y, expected_dx) = results
    assert (y == 0).any()
    assert (y > 0).any()
    np.testing.assert_array_equal(y, expected_y)
    finite = np.isfinite(x)  # pooling sends the gradient of a NaN to it; ReLU does not let it through
    np.testing.assert_array_equal(dx[finite], expected_dx[finite])
