"""conv2d: against SciPy, loops and CUDA kernels against the reference, gradients, adjoint identities, bad input."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from implementations import KERNELS, kernels, stand_in

import ministn
from ministn import Tensor
from ministn.backend import get_num_threads, implementation, set_num_threads
from ministn.kernels._layout import batch_last, from_batch_last, is_batch_last
from ministn.kernels.conv2d import _plan, conv2d, cpu, reference
from ministn.kernels.conv2d._shape import output_size

OTHERS = [name for name in KERNELS if name != "reference"]
ON_THE_GPU = [name for name in OTHERS if name != "cpu"]

# (N, C, H, W), (O, KH, KW), stride, padding, dilation: non-square, odd, and each special path of the loops.
CASES = [
    ((3, 2, 7, 9), (5, 3, 2), (1, 1), (0, 0), (1, 1)),
    ((2, 3, 6, 5), (4, 3, 4), (1, 1), (2, 3), (1, 1)),
    ((3, 1, 9, 11), (2, 3, 3), (2, 3), (1, 0), (1, 1)),
    ((1, 4, 10, 8), (6, 2, 3), (3, 2), (2, 4), (2, 3)),
    ((17, 5, 5, 4), (9, 1, 1), (1, 1), (0, 0), (1, 1)),
    ((2, 1, 2, 3), (1, 2, 3), (1, 1), (4, 5), (1, 1)),  # some output pixels see only padding
    ((4, 2, 3, 3), (3, 3, 3), (1, 1), (3, 4), (3, 4)),  # some taps never meet the image
    ((2, 2, 8, 8), (3, 1, 1), (5, 3), (0, 2), (1, 1)),  # some input pixels meet no tap
]
DTYPES = [np.float32, np.float64]


def draw(shape, filters, dtype, seed=0):
    """x, weight and bias with entries of size 1."""
    generator = np.random.default_rng(seed)
    (n, c, h, w), (o, kh, kw) = shape, filters
    shapes = (n, c, h, w), (o, c, kh, kw), (o,)
    return [generator.uniform(-1, 1, s).astype(dtype) for s in shapes]


def loops():
    """The implementation that serves NumPy arrays at present."""
    return implementation("ministn.kernels.conv2d", np.empty(0))


def rounding(dtype, terms):
    """Bound on the error of a sum of `terms` products of entries of size 1: at worst terms * eps of each of them."""
    return 4 * np.finfo(dtype).eps * terms


# --- values -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", KERNELS)
def test_hand_worked_example(name):
    """The example of the family's README."""
    x = Tensor(np.array([[[[1.0, 2, 0], [0, 1, 3], [2, 1, 1]]]]), requires_grad=True)
    weight = Tensor(np.array([[[[1.0, 2], [0, -1]]]]), requires_grad=True)
    bias = Tensor(np.array([0.5]), requires_grad=True)
    with kernels(name):
        y = conv2d(x, weight, bias)
        y.backward(np.array([[[[1.0, 0], [0, 2]]]]))
    np.testing.assert_array_equal(y.data, [[[[4.5, -0.5], [1.5, 6.5]]]])  # small integers and halves are exact
    np.testing.assert_array_equal(x.grad.data, [[[[1, 2, 0], [0, 1, 4], [0, 0, -2]]]])
    np.testing.assert_array_equal(weight.grad.data, [[[[3, 8], [2, 3]]]])
    np.testing.assert_array_equal(bias.grad.data, [3])


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize(("shape", "filters", "stride", "padding", "dilation"), CASES)
def test_forward_against_scipy(name, shape, filters, stride, padding, dilation):
    signal = pytest.importorskip("scipy.signal")
    x, weight, bias = draw(shape, filters, np.float64)
    padded = np.pad(x, ((0, 0), (0, 0), (padding[0],) * 2, (padding[1],) * 2))
    spread = np.zeros((*weight.shape[:2], *((k - 1) * d + 1 for k, d in zip(weight.shape[2:], dilation, strict=True))))
    spread[:, :, :: dilation[0], :: dilation[1]] = weight
    expected = [
        [
            sum(signal.correlate(image[c], taps[c], mode="valid", method="direct") for c in range(shape[1]))
            for taps in spread
        ]
        for image in padded
    ]
    expected = np.array(expected)[:, :, :: stride[0], :: stride[1]] + bias[:, None, None]
    with kernels(name):
        y = conv2d(Tensor(x), Tensor(weight), Tensor(bias), stride, padding, dilation)
    np.testing.assert_allclose(y.data, expected, rtol=0, atol=rounding(np.float64, weight[0].size + 1))


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("shape", "filters", "stride", "padding", "dilation"), CASES)
def test_equals_reference(dtype, shape, filters, stride, padding, dilation, name):
    x, weight, bias = draw(shape, filters, dtype)
    with kernels(name):
        y = loops().forward(x, weight, bias, stride, padding, dilation)
    expected = reference.forward(x, weight, bias, stride, padding, dilation)
    assert y.dtype == dtype
    np.testing.assert_allclose(y, expected, rtol=0, atol=rounding(dtype, weight[0].size + 1))

    grad_output = np.random.default_rng(1).uniform(-1, 1, y.shape).astype(dtype)
    with kernels(name):
        ours = loops().backward(grad_output, x, weight, stride, padding, dilation)
    theirs = reference.backward(grad_output, x, weight, stride, padding, dilation)
    terms = weight[:, 0].size, grad_output[:, 0].size, grad_output[:, 0].size
    for gradient, expected, count in zip(ours, theirs, terms, strict=True):
        assert gradient.dtype == dtype
        np.testing.assert_allclose(gradient, expected, rtol=0, atol=rounding(dtype, count))


@pytest.mark.parametrize("name", OTHERS)
@given(
    batch=st.integers(0, 70),
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    channels=st.tuples(st.integers(1, 3), st.integers(1, 6)),
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padding=st.tuples(st.integers(0, 4), st.integers(0, 4)),
    dilation=st.tuples(st.integers(1, 3), st.integers(1, 3)),
)
@settings(max_examples=60)
def test_equals_reference_on_any_geometry(name, batch, size, channels, kernel, stride, padding, dilation):
    if min(output_size(size, kernel, stride, padding, dilation)) < 1:
        return  # refused: test_bad_input
    x, weight, bias = draw((batch, channels[0], *size), (channels[1], *kernel), np.float64, seed=batch)
    with kernels(name):
        y = loops().forward(x, weight, bias, stride, padding, dilation)
        ours = loops().backward(y, x, weight, stride, padding, dilation)
    expected = reference.forward(x, weight, bias, stride, padding, dilation)
    np.testing.assert_allclose(y, expected, rtol=0, atol=rounding(np.float64, weight[0].size + 1))
    theirs = reference.backward(y, x, weight, stride, padding, dilation)
    largest = np.abs(y).max(initial=1)  # entries of y, here the gradient, are sums
    for gradient, expected in zip(ours, theirs, strict=True):
        # Where padding hides the image all terms are the bias: the sum grows, and errs by eps / 2 of it, with each.
        atol = largest * np.finfo(np.float64).eps / 2 * max(y[:, 0].size, weight[:, 0].size) ** 2
        np.testing.assert_allclose(gradient, expected, rtol=0, atol=atol)


@pytest.mark.parametrize("batch", [3, 37])
@pytest.mark.parametrize(
    ("shape", "filters", "stride", "padding", "dilation"), [*CASES, ((1, 7, 9, 12), (6, 3, 3), (1, 1), (1, 0), (1, 1))]
)
def test_in_pieces(batch, shape, filters, stride, padding, dilation, monkeypatch):
    """As if the caches were tiny: parts of rows, strips of rows, and gradients copied near for the gradient for x."""
    monkeypatch.setattr(_plan, "_NEAR", 40)
    monkeypatch.setattr(_plan, "_WIDE", 100)
    _plan.Plan.cache_clear()
    x, weight, bias = draw((batch, *shape[1:]), filters, np.float64)
    y, expected = (module.forward(x, weight, bias, stride, padding, dilation) for module in (cpu, reference))
    np.testing.assert_allclose(y, expected, rtol=0, atol=rounding(np.float64, weight[0].size + 1))
    grad_output = np.random.default_rng(1).uniform(-1, 1, y.shape)
    pairs = zip(*(k.backward(grad_output, x, weight, stride, padding, dilation) for k in (cpu, reference)), strict=True)
    for gradient, expected in pairs:
        np.testing.assert_allclose(gradient, expected, rtol=0, atol=rounding(np.float64, grad_output[:, 0].size * 9))
    _plan.Plan.cache_clear()


def test_a_gradient_that_is_copied_near():
    """Large, with more columns of weights than a tile has rows."""
    x, weight, _ = draw((64, 4, 22, 22), (24, 3, 3), np.float32)
    plan = _plan.Plan(x.shape, weight.shape, (1, 1), (0, 0), (1, 1), x.dtype)
    assert plan.around is None
    assert 0 < plan.grad_input.part_length < plan.g.row
    g = np.random.default_rng(1).uniform(-1, 1, (64, 24, 20, 20)).astype(np.float32)
    geometry = (1, 1), (0, 0), (1, 1)
    gradient, expected = (k.backward(g, x, weight, *geometry, (True, False, False))[0] for k in (cpu, reference))
    np.testing.assert_allclose(gradient, expected, rtol=0, atol=rounding(np.float32, weight[:, 0].size))


@pytest.mark.parametrize("batch", [5, 32])
def test_more_taps_than_are_added_in_one_go(batch):
    """50 x 3 x 3 taps, and with 5 images rows that no number of vectors fills."""
    x, weight, bias = draw((batch, 50, 5, 7), (3, 3, 3), np.float64)
    geometry = (1, 1), (0, 0), (1, 1)
    y, expected = (module.forward(x, weight, bias, *geometry) for module in (cpu, reference))
    np.testing.assert_allclose(y, expected, rtol=0, atol=rounding(np.float64, weight[0].size + 1))


def test_without_bias_is_bias_zero():
    x, weight, bias = map(Tensor, draw((2, 3, 5, 4), (2, 2, 3), np.float32))
    np.testing.assert_array_equal(conv2d(x, weight).data, conv2d(x, weight, Tensor(np.zeros_like(bias.data))).data)


def test_integer_and_pair_mean_the_same():
    x, weight, _ = map(Tensor, draw((2, 1, 9, 7), (2, 2, 2), np.float32))
    np.testing.assert_array_equal(
        conv2d(x, weight, stride=2, padding=1, dilation=3).data,
        conv2d(x, weight, stride=(2, 2), padding=(1, 1), dilation=(3, 3)).data,
    )


# --- tiles of the CUDA kernels ----------------------------------------------------------------------------------------

# Channels, pixels and taps that fill no tile, more than one tile of each, one part of d weight and several; a stride,
# paddings that are more than half of the filter, for which the gradient for x has a negative one.
TILED = [
    ((2, 3, 9, 11), (17, 3, 3), (1, 1), (1, 1), (1, 1)),
    ((9, 5, 8, 9), (9, 3, 4), (1, 1), (0, 2), (2, 1)),
    ((3, 2, 23, 19), (5, 2, 3), (2, 1), (3, 0), (1, 1)),
    ((1, 17, 5, 4), (66, 2, 2), (1, 1), (3, 1), (1, 2)),
    ((2, 34, 6, 7), (33, 2, 2), (1, 1), (0, 0), (1, 1)),  # larger tiles, in all three
    ((0, 9, 5, 4), (9, 2, 2), (1, 1), (0, 0), (1, 1)),
]


def in_tiles(name, arrays, geometry, tuned=True, needs_grad=(True, True, True), **options):
    """y, dx, dw, db of the CUDA kernels for x, weight, bias and a gradient of y."""
    x, weight, bias, g = arrays
    with kernels(name, **options):
        y = loops().forward(x, weight, bias, *geometry, tuned=tuned)
        return y, *loops().backward(g, x, weight, *geometry, needs_grad, tuned=tuned)


def draw_with_gradient(shape, filters, geometry, dtype):
    g_shape = shape[0], filters[0], *output_size(shape[2:], filters[1:], *geometry)
    return *draw(shape, filters, dtype), np.random.default_rng(1).uniform(-1, 1, g_shape).astype(dtype)


@pytest.mark.parametrize("name", ON_THE_GPU)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("shape", "filters", "stride", "padding", "dilation"), TILED)
def test_tiles_equal_the_plain_kernels(name, dtype, shape, filters, stride, padding, dilation):
    geometry = stride, padding, dilation
    arrays = draw_with_gradient(shape, filters, geometry, dtype)
    results, expected = in_tiles(name, arrays, geometry), in_tiles(name, arrays, geometry, tuned=False)
    pixels = arrays[-1][:, 0].size
    terms = arrays[1][0].size + 1, arrays[1][:, 0].size, pixels, pixels
    for result, other, count in zip(results, expected, terms, strict=True):
        assert result.dtype == dtype
        np.testing.assert_allclose(result, other, rtol=0, atol=rounding(dtype, count))


@pytest.mark.parametrize("name", ON_THE_GPU)
def test_gradient_for_the_bias_in_parts(name, monkeypatch):
    from ministn.kernels.conv2d import cuda

    monkeypatch.setattr(cuda, "_PIXELS_OF_PART", 40)
    g = np.random.default_rng(0).integers(-9, 10, (3, 5, 7, 8)).astype(np.float32)  # 168 pixels are 4 parts
    x, weight, geometry = (
        np.zeros((3, 2, 7, 8), np.float32),
        np.zeros((5, 2, 1, 1), np.float32),
        ((1, 1), (0, 0), (1, 1)),
    )
    with kernels(name):
        _, _, db = loops().backward(g, x, weight, *geometry, (False, False, True))
    np.testing.assert_array_equal(db, g.sum(axis=(0, 2, 3)))


@pytest.mark.parametrize("tuned", [False, True])
def test_same_bits_in_any_order_of_the_threads(tuned):
    geometry = (1, 1), (1, 1), (1, 1)
    arrays = draw_with_gradient((3, 9, 7, 8), (17, 3, 2), geometry, np.float32)
    expected = in_tiles("cuda", arrays, geometry, tuned)
    for order in (1, 20261125):
        results = in_tiles("cuda", arrays, geometry, tuned, thread_order=order)
        for result, first in zip(results, expected, strict=True):
            np.testing.assert_array_equal(result, first)


@pytest.mark.gpu
@pytest.mark.parametrize("tuned", [False, True])
def test_same_bits_in_every_run_on_a_gpu(tuned):
    geometry = (1, 1), (1, 1), (1, 1)
    arrays = draw_with_gradient((64, 10, 12, 12), (20, 5, 5), geometry, np.float32)
    expected = in_tiles("gpu", arrays, geometry, tuned)
    for _ in range(20):
        for result, first in zip(in_tiles("gpu", arrays, geometry, tuned), expected, strict=True):
            np.testing.assert_array_equal(result, first)


@pytest.mark.parametrize("name", ON_THE_GPU)
def test_nan_stays_in_its_window_and_padding_is_zero_in_tiles(name):
    """The numbers that fill up a tile reach nothing: not even as 0 times NaN or infinity."""
    x, weight = np.zeros((2, 1, 5, 6), np.float32), np.ones((9, 1, 2, 2), np.float32)
    x[0, 0, 2, 3], x[1, 0, 4, 5] = np.nan, np.inf
    with kernels(name):
        y = loops().forward(x, weight, None, (1, 1), (0, 0), (1, 1), tuned=True)
        dw = loops().backward(np.ones_like(y), x, weight, (1, 1), (0, 0), (1, 1), tuned=True)[1]
    expected = np.zeros((2, 9, 4, 5), np.float32)
    expected[0, :, 1:3, 2:4] = np.nan
    expected[1, :, 3, 4] = np.inf
    np.testing.assert_array_equal(y, expected)
    assert np.isnan(dw).all()  # all four taps saw the NaN


@pytest.mark.parametrize(
    ("shape", "filters", "stride", "expected"),
    [
        # a convolution of the network: 4096 pixels are 64 tiles
        ((64, 10, 12, 12), (20, 5, 5), 1, ["conv2d_forward_16x64", "conv2d_forward_16x64", "conv2d_grad_weight_16x64"]),
        ((64, 64, 9, 9), (48, 3, 3), 1, ["conv2d_forward_64x128", "conv2d_forward_64x128", "conv2d_grad_weight_64x64"]),
        ((64, 1, 28, 28), (8, 7, 7), 1, ["conv2d_forward_16x64", "conv2d_grad_input", "conv2d_grad_weight_16x64"]),
        ((64, 10, 23, 23), (20, 5, 5), 2, ["conv2d_forward_16x64", "conv2d_grad_input", "conv2d_grad_weight_16x64"]),
        ((4, 10, 12, 12), (20, 5, 5), 1, ["conv2d_forward", "conv2d_grad_input", "conv2d_grad_weight"]),
        ((64, 3, 32, 32), (4, 5, 5), 1, ["conv2d_forward", "conv2d_grad_input", "conv2d_grad_weight"]),
        ((0, 10, 12, 12), (20, 5, 5), 1, ["conv2d_forward", "conv2d_grad_input", "conv2d_grad_weight"]),
    ],
)
def test_which_kernel_is_chosen(monkeypatch, shape, filters, stride, expected):
    """Only the names of launches are looked at; nothing is computed."""
    from ministn.kernels.conv2d import cuda

    launched = []
    monkeypatch.setattr(cuda, "launch", lambda package, kernel, *_, **__: launched.append(kernel))
    geometry = (stride, stride), (0, 0), (1, 1)
    with stand_in() as cupy:
        x, weight, bias, g = map(cupy.asarray, draw_with_gradient(shape, filters, geometry, np.float32))
        cuda.forward(x, weight, bias, *geometry)
        cuda.backward(g, x, weight, *geometry)
    assert [kernel for kernel in launched if kernel not in ("conv2d_add_parts", "conv2d_grad_bias")] == expected
    in_parts = (expected[2] != "conv2d_grad_weight") + (g[:, 0].size >= 2 * cuda._PIXELS_OF_PART)  # d weight, d bias
    assert launched.count("conv2d_add_parts") == in_parts


# --- gradients --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize(("shape", "filters", "stride", "padding", "dilation"), CASES)
def test_gradcheck(name, shape, filters, stride, padding, dilation):
    inputs = [Tensor(a, requires_grad=True) for a in draw(shape, filters, np.float64)]
    with kernels(name):
        assert ministn.gradcheck(lambda x, w, b: conv2d(x, w, b, stride, padding, dilation), inputs)
        assert ministn.gradcheck(lambda x, w: conv2d(x, w, None, stride, padding, dilation), inputs[:2])


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize(("shape", "filters", "stride", "padding", "dilation"), CASES)
def test_adjoint_identity(name, shape, filters, stride, padding, dilation):
    """<conv(x), g> = <x, dx> = <w, dw>, as conv is linear in x and in w; and <b, db> = <b at every pixel, g>."""
    x, weight, bias = draw(shape, filters, np.float64)
    with kernels(name):
        y = loops().forward(x, weight, None, stride, padding, dilation)
        g = np.random.default_rng(1).uniform(-1, 1, y.shape)
        dx, dw, db = loops().backward(g, x, weight, stride, padding, dilation)
    expected = np.vdot(y, g)
    scale = np.abs(y * g).sum() + 1  # the inner products may cancel: 1e-12 of what is summed
    assert abs(np.vdot(x, dx) - expected) <= 1e-12 * scale
    assert abs(np.vdot(weight, dw) - expected) <= 1e-12 * scale
    assert abs(np.vdot(bias, db) - np.vdot(bias[:, None, None] + 0 * g, g)) <= 1e-12 * np.abs(g).sum()


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("which", [0, 1, 2])
def test_only_the_needed_gradient_is_computed(name, which):
    x, weight, bias = draw((2, 2, 5, 4), (3, 2, 3), np.float32)
    with kernels(name):
        everything = [Tensor(a, requires_grad=True) for a in (x, weight, bias)]
        conv2d(*everything).sum().backward()
        one = [Tensor(a, requires_grad=k == which) for k, a in enumerate((x, weight, bias))]
        y = conv2d(*one)
        gradients = y.creator.input_gradients(np.ones(y.shape, np.float32))
    assert [g is not None for g in gradients] == [k == which for k in range(3)]
    np.testing.assert_array_equal(gradients[which], everything[which].grad.data)


# --- layout, threads, special values ----------------------------------------------------------------------------------


def test_both_memory_layouts_give_the_same_bits():
    x, weight, bias = draw((6, 3, 7, 5), (4, 3, 2), np.float32)
    args = (1, 1), (1, 2), (1, 1)
    y = cpu.forward(x, weight, bias, *args)
    g = np.random.default_rng(1).uniform(-1, 1, y.shape).astype(np.float32)
    x_last, g_last = from_batch_last(batch_last(x)), from_batch_last(batch_last(g))
    assert is_batch_last(x_last)
    assert not is_batch_last(x)
    assert is_batch_last(y)
    np.testing.assert_array_equal(cpu.forward(x_last, weight, bias, *args), y)
    results = cpu.backward(g, x, weight, *args), cpu.backward(g_last, x_last, weight, *args)
    for nchw_result, batch_last_result in zip(*results, strict=True):
        np.testing.assert_array_equal(nchw_result, batch_last_result)
    assert is_batch_last(results[0][0])


def test_strided_and_read_only_inputs():
    x, weight, bias = draw((4, 2, 8, 9), (3, 3, 3), np.float64)
    expected = cpu.forward(x[::2, :, ::-1].copy(), weight[::-1].copy(), bias, (1, 1), (0, 0), (1, 1))
    for array in (x, weight, bias):
        array.flags.writeable = False
    y = cpu.forward(x[::2, :, ::-1], weight[::-1], bias, (1, 1), (0, 0), (1, 1))
    np.testing.assert_array_equal(y, expected)
    y.flags.writeable = False
    expected = cpu.backward(y.copy(), x[::2, :, ::-1].copy(), weight[::-1].copy(), (1, 1), (0, 0), (1, 1))
    gradients = cpu.backward(y, x[::2, :, ::-1], weight[::-1], (1, 1), (0, 0), (1, 1))
    for gradient, other in zip(gradients, expected, strict=True):
        np.testing.assert_array_equal(gradient, other)


@pytest.mark.usefixtures("more_threads_than_one")
def test_results_do_not_depend_on_the_number_of_threads():
    x, weight, bias = draw((9, 3, 8, 7), (5, 3, 3), np.float32)
    before = get_num_threads()
    results = []
    try:
        for threads in (1, before):
            set_num_threads(threads)
            y = cpu.forward(x, weight, bias, (1, 1), (1, 1), (1, 1))
            results.append((y, *cpu.backward(y, x, weight, (1, 1), (1, 1), (1, 1))))
    finally:
        set_num_threads(before)
    for one, many in zip(*results, strict=True):
        np.testing.assert_array_equal(one, many)


@pytest.mark.parametrize("name", KERNELS)
def test_empty_batch(name):
    x, weight, bias = (Tensor(a, requires_grad=True) for a in draw((0, 2, 5, 4), (3, 2, 3), np.float32))
    with kernels(name):
        y = conv2d(x, weight, bias, stride=2, padding=1)
        assert y.shape == (0, 3, 3, 2)
        y.sum().backward()
    assert x.grad.shape == (0, 2, 5, 4)
    np.testing.assert_array_equal(weight.grad.data, np.zeros((3, 2, 2, 3)))
    np.testing.assert_array_equal(bias.grad.data, np.zeros(3))


@pytest.mark.parametrize("name", KERNELS)
def test_nan_and_infinity_reach_exactly_the_windows_that_see_them(name):
    x = np.zeros((2, 1, 5, 6), np.float32)
    x[0, 0, 2, 3], x[1, 0, 0, 0] = np.nan, np.inf
    with kernels(name):
        y = loops().forward(x, np.ones((1, 1, 2, 2), np.float32), None, (1, 1), (0, 0), (1, 1))
    expected = np.zeros((2, 1, 4, 5), np.float32)
    expected[0, 0, 1:3, 2:4] = np.nan
    expected[1, 0, 0, 0] = np.inf
    np.testing.assert_array_equal(y, expected)


# --- bad input --------------------------------------------------------------------------------------------------------


def zeros(*shape, dtype=np.float32):
    return Tensor(np.zeros(shape, dtype))


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((np.zeros((1, 1, 4, 4)), zeros(1, 1, 3, 3)), {}, TypeError, "input to be a Tensor"),
        ((zeros(1, 4, 4), zeros(1, 1, 3, 3)), {}, ValueError, r"input of shape \(N, C, H, W\), got \(1, 4, 4\)"),
        ((zeros(1, 1, 4, 4), zeros(1, 3, 3)), {}, ValueError, r"weight of shape \(O, C, KH, KW\), got \(1, 3, 3\)"),
        ((zeros(1, 2, 4, 4), zeros(1, 3, 3, 3)), {}, ValueError, "axis C of weight to be 2 .*, got 3"),
        ((zeros(1, 2, 4, 4), zeros(1, 2, 0, 3)), {}, ValueError, "without empty axes"),
        ((zeros(1, 1, 4, 4), zeros(2, 1, 3, 3), zeros(3)), {}, ValueError, "axis O of bias to be 2 .*, got 3"),
        ((zeros(1, 1, 4, 4), zeros(2, 1, 3, 3), zeros(2, 1)), {}, ValueError, r"bias of shape \(O\), got \(2, 1\)"),
        ((zeros(1, 1, 2, 4), zeros(1, 1, 3, 3)), {}, ValueError, r"at least \(3, 3\), got \(2, 4\)"),
        ((zeros(1, 1, 4, 4), zeros(1, 1, 2, 2)), {"dilation": (1, 4)}, ValueError, r"at least \(2, 5\), got \(4, 4\)"),
        ((zeros(1, 1, 4, 4), zeros(1, 1, 3, 3)), {"stride": 0}, ValueError, "stride to be at least 1, got 0"),
        ((zeros(1, 1, 4, 4), zeros(1, 1, 3, 3)), {"padding": (0, -1)}, ValueError, "padding to be at least 0"),
        ((zeros(1, 1, 4, 4), zeros(1, 1, 3, 3)), {"dilation": 1.5}, TypeError, "dilation to be an integer or two"),
        ((zeros(1, 1, 4, 4, dtype=np.int64), zeros(1, 1, 3, 3)), {}, TypeError, "input to be float32 or float64"),
        ((zeros(1, 1, 4, 4), zeros(1, 1, 3, 3, dtype=np.float64)), {}, TypeError, "float32 and float64"),
    ],
)
def test_bad_input(arguments, options, error, message):
    with pytest.raises(error, match=message) as caught:
        conv2d(*arguments, **options)
    assert "conv2d" in str(caught.value).lower()  # Conv2d where the engine compares the dtypes


def test_pairs_may_be_lists():
    x, weight, _ = (Tensor(array) for array in draw((2, 2, 9, 8), (3, 3, 2), np.float32))
    expected = conv2d(x, weight, stride=(2, 1), padding=(1, 0)).data
    np.testing.assert_array_equal(conv2d(x, weight, stride=[2, 1], padding=[1, 0]).data, expected)
    with pytest.raises(TypeError, match="conv2d: expected stride to be an integer or two"):
        conv2d(x, weight, stride=np.array([2.0, 1.0]))


def test_floats_are_refused_after_integers_that_equal_them():
    """What was found right is remembered, but (2, 2) == (2.0, 2.0)."""
    x, weight = Tensor(np.zeros((1, 1, 5, 5))), Tensor(np.zeros((1, 1, 2, 2)))
    for _ in range(2):
        assert conv2d(x, weight, stride=(2, 2)).shape == (1, 1, 2, 2)
        with pytest.raises(TypeError, match=r"conv2d: expected stride to be an integer or two, got \(2.0, 2.0\)"):
            conv2d(x, weight, stride=(2.0, 2.0))
