"""conv_transpose2d: the matrix transpose of conv2d, PyTorch, gradients, every implementation, bad input."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from implementations import KERNELS, kernels

import ministn
from ministn import Tensor
from ministn import functional as F

# (N, C, H, W), (O, KH, KW), stride, padding, output_padding, dilation
CASES = [
    ((3, 2, 5, 7), (4, 3, 2), (1, 1), (0, 0), (0, 0), (1, 1)),
    ((2, 3, 4, 4), (5, 3, 3), (2, 2), (1, 1), (1, 1), (1, 1)),  # 4 x 4 to 8 x 8, as in the nets that paint
    ((2, 3, 5, 3), (2, 4, 3), (2, 3), (1, 0), (0, 2), (1, 1)),
    ((1, 2, 1, 1), (3, 2, 2), (2, 2), (0, 0), (0, 0), (1, 1)),  # from one pixel
    ((3, 1, 4, 5), (2, 2, 3), (3, 2), (2, 1), (2, 1), (2, 3)),
    ((2, 2, 3, 4), (3, 1, 1), (3, 2), (0, 0), (2, 0), (1, 1)),  # pixels that no tap paints
]
DTYPES = [np.float32, np.float64]


def draw(shape, filters, dtype, seed=0):
    """input, weight and bias with entries of size 1."""
    generator = np.random.default_rng(seed)
    shapes = shape, (shape[1], *filters), filters[:1]
    return [generator.uniform(-1, 1, s).astype(dtype) for s in shapes]


def rounding(dtype, terms):
    """Bound on the error of a sum of `terms` products of entries of size 1: at worst terms * eps of each of them."""
    return 4 * np.finfo(dtype).eps * terms


def value_and_gradients(arrays, *options):
    """The output, and the gradients of all inputs for a random gradient of the output."""
    tensors = [Tensor(array, requires_grad=True) for array in arrays]
    y = F.conv_transpose2d(*tensors, *options)
    y.backward(np.random.default_rng(1).uniform(-1, 1, y.shape).astype(y.dtype))
    return [y.detach().numpy(), *(tensor.grad.numpy() for tensor in tensors)]


def terms(x, weight, y):
    """How many products are summed for a number of the output and of each gradient."""
    return weight[:, 0].size + 1, weight[0].size, x[:, 0].size, y[:, 0].size


@pytest.mark.parametrize("name", KERNELS)
def test_hand_worked_example(name):
    """Each pixel paints the filter, two pixels apart: a tap of one lies between those of the others."""
    x = Tensor(np.array([[[[1.0, 2], [0, -1]]]]), requires_grad=True)
    weight = Tensor(np.array([[[[1.0, 2, 3]]]]), requires_grad=True)
    with kernels(name):
        y = F.conv_transpose2d(x, weight, Tensor(np.array([0.5])), stride=2)
        y.backward(np.arange(15.0).reshape(1, 1, 3, 5))
    np.testing.assert_array_equal(y.data[0, 0], [[1.5, 2.5, 5.5, 4.5, 6.5], [0.5] * 5, [0.5, 0.5, -0.5, -1.5, -2.5]])
    np.testing.assert_array_equal(x.grad.data[0, 0], [[0 + 2 + 6, 2 + 6 + 12], [10 + 22 + 36, 12 + 26 + 42]])
    np.testing.assert_array_equal(weight.grad.data[0, 0], [[0 + 4 - 12, 1 + 6 - 13, 2 + 8 - 14]])


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize(("shape", "filters", "stride", "padding", "extra", "dilation"), CASES)
def test_is_the_transpose_of_the_matrix_of_conv2d(name, shape, filters, stride, padding, extra, dilation):
    """The matrix of conv2d, column by column from its answers to unit images; and <conv(z), x> = <z, conv_T(x)>."""
    x, weight, _ = draw(shape, filters, np.float64)
    with kernels(name):
        y = F.conv_transpose2d(Tensor(x), Tensor(weight), None, stride, padding, extra, dilation).data
        pixels = y[0].size
        unit_images = Tensor(np.eye(pixels).reshape(pixels, *y.shape[1:]))
        columns = F.conv2d(unit_images, Tensor(weight), None, stride, padding, dilation).data
        z = np.random.default_rng(1).uniform(-1, 1, y.shape)
        convolved = F.conv2d(Tensor(z), Tensor(weight), None, stride, padding, dilation).data
    matrix = columns.reshape(pixels, -1).T
    assert matrix.shape == (x[0].size, pixels)  # so conv2d has as many outputs as x has pixels
    expected = (x.reshape(len(x), -1) @ matrix).reshape(y.shape)
    np.testing.assert_allclose(y, expected, rtol=0, atol=rounding(np.float64, weight[:, 0].size))
    scale = np.abs(convolved * x).sum() + 1  # the inner products may cancel: 1e-12 of what is summed
    assert abs(np.vdot(convolved, x) - np.vdot(z, y)) <= 1e-12 * scale


@pytest.mark.parametrize("name", [name for name in KERNELS if name != "reference"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("shape", "filters", "stride", "padding", "extra", "dilation"), CASES)
def test_equals_reference(name, dtype, shape, filters, stride, padding, extra, dilation):
    arrays = draw(shape, filters, dtype)
    options = stride, padding, extra, dilation
    with kernels(name):
        results = value_and_gradients(arrays, *options)
    with kernels("reference"):
        expected = value_and_gradients(arrays, *options)
    for result, other, count in zip(results, expected, terms(*arrays[:2], results[0]), strict=True):
        assert result.dtype == dtype
        np.testing.assert_allclose(result, other, rtol=0, atol=rounding(dtype, count))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize(
    ("shape", "filters", "stride", "padding", "extra", "dilation"),
    [*CASES, ((16, 64, 8, 8), (32, 3, 3), (2, 2), (1, 1), (1, 1), (1, 1))],
)
def test_equals_torch(dtype, with_bias, shape, filters, stride, padding, extra, dilation):
    torch = pytest.importorskip("torch")
    arrays = draw(shape, filters, dtype)[: 3 if with_bias else 2]
    tensors = [torch.tensor(array, requires_grad=True) for array in arrays]
    bias = tensors[2] if with_bias else None
    y = torch.nn.functional.conv_transpose2d(*tensors[:2], bias, stride, padding, extra, dilation=dilation)
    y.backward(torch.tensor(np.random.default_rng(1).uniform(-1, 1, y.shape).astype(dtype)))
    expected = [tensor.detach().numpy() for tensor in (y, *(tensor.grad for tensor in tensors))]
    ours = [Tensor(array, requires_grad=True) for array in arrays]
    options = {"stride": stride, "padding": padding, "output_padding": extra, "dilation": dilation}
    output = F.conv_transpose2d(*ours, **options)
    output.backward(np.random.default_rng(1).uniform(-1, 1, output.shape).astype(dtype))
    results = [output.detach().numpy(), *(tensor.grad.numpy() for tensor in ours)]
    for result, other, count in zip(results, expected, terms(*arrays[:2], results[0]), strict=False):
        np.testing.assert_allclose(result, other, rtol=0, atol=rounding(dtype, count))


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize(("shape", "filters", "stride", "padding", "extra", "dilation"), CASES)
def test_gradcheck(name, shape, filters, stride, padding, extra, dilation):
    inputs = [Tensor(array, requires_grad=True) for array in draw(shape, filters, np.float64)]
    with kernels(name):
        assert ministn.gradcheck(lambda *a: F.conv_transpose2d(*a, stride, padding, extra, dilation), inputs)
        without = lambda x, w: F.conv_transpose2d(x, w, None, stride, padding, extra, dilation)  # noqa: E731
        assert ministn.gradcheck(without, inputs[:2])


@given(
    batch=st.integers(0, 40),
    size=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    channels=st.tuples(st.integers(1, 3), st.integers(1, 4)),
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padding=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    extra=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    dilation=st.tuples(st.integers(1, 3), st.integers(1, 3)),
)
@settings(max_examples=60)
def test_loops_equal_reference_on_any_geometry(batch, size, channels, kernel, stride, padding, extra, dilation):
    extra = tuple(min(e, s - 1) for e, s in zip(extra, stride, strict=True))
    edges = zip(size, kernel, stride, padding, extra, dilation, strict=True)
    if min((n - 1) * s - 2 * p + d * (k - 1) + e + 1 for n, k, s, p, e, d in edges) < 1:
        return  # refused: test_bad_input
    arrays = draw((batch, channels[0], *size), (channels[1], *kernel), np.float64, seed=batch)
    options = stride, padding, extra, dilation
    results = value_and_gradients(arrays, *options)
    with kernels("reference"):
        expected = value_and_gradients(arrays, *options)
    for result, other, count in zip(results, expected, terms(*arrays[:2], results[0]), strict=True):
        assert result.shape == other.shape
        np.testing.assert_allclose(result, other, rtol=0, atol=rounding(np.float64, count))


@pytest.mark.parametrize("which", [0, 1, 2])
def test_only_the_needed_gradient_is_computed(which):
    arrays = draw((2, 2, 5, 4), (3, 2, 3), np.float32)
    y = F.conv_transpose2d(*[Tensor(a, requires_grad=k == which) for k, a in enumerate(arrays)])
    gradients = y.creator.input_gradients(np.ones(y.shape, np.float32))
    assert [g is not None for g in gradients] == [k == which for k in range(3)]


def zeros(*shape, dtype=np.float32):
    return Tensor(np.zeros(shape, dtype))


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((np.zeros((1, 1, 4, 4)), zeros(1, 1, 3, 3)), {}, TypeError, "input to be a Tensor"),
        ((zeros(1, 4, 4), zeros(1, 1, 3, 3)), {}, ValueError, r"input of shape \(N, C, H, W\), got \(1, 4, 4\)"),
        ((zeros(1, 1, 4, 4), zeros(1, 3, 3)), {}, ValueError, r"weight of shape \(C, O, KH, KW\), got \(1, 3, 3\)"),
        ((zeros(1, 2, 4, 4), zeros(3, 2, 3, 3)), {}, ValueError, "axis C of weight to be 2 .*, got 3"),
        ((zeros(1, 2, 4, 4), zeros(2, 1, 0, 3)), {}, ValueError, "without empty axes"),
        ((zeros(1, 2, 0, 4), zeros(2, 1, 3, 3)), {}, ValueError, r"axes H, W of input to be at least 1, got \(0, 4\)"),
        ((zeros(1, 1, 4, 4), zeros(1, 2, 3, 3), zeros(3)), {}, ValueError, "axis O of bias to be 2 .*, got 3"),
        ((zeros(1, 1, 4, 4), zeros(1, 2, 3, 3), zeros(2, 1)), {}, ValueError, r"bias of shape \(O\), got \(2, 1\)"),
        ((zeros(1, 1, 2, 4), zeros(1, 1, 1, 1)), {"padding": 1}, ValueError, "1 x 1 pixels, got 0 x 2 after"),
        ((zeros(1, 1, 4, 4), zeros(1, 1, 3, 3)), {"stride": 0}, ValueError, "stride to be at least 1, got 0"),
        ((zeros(1, 1, 4, 4), zeros(1, 1, 3, 3)), {"padding": (0, -1)}, ValueError, "padding to be at least 0"),
        ((zeros(1, 1, 4, 4), zeros(1, 1, 3, 3)), {"dilation": 1.5}, TypeError, "dilation to be an integer or two"),
        (
            (zeros(1, 1, 4, 4), zeros(1, 1, 3, 3)),
            {"stride": (2, 3), "output_padding": 2},
            ValueError,
            r"output_padding to be less than stride \(2, 3\), got \(2, 2\)",
        ),
        ((zeros(1, 1, 4, 4, dtype=np.int64), zeros(1, 1, 3, 3)), {}, TypeError, "input to be float32 or float64"),
        ((zeros(1, 1, 4, 4), zeros(1, 1, 3, 3, dtype=np.float64)), {}, TypeError, "float32 and float64"),
    ],
)
def test_bad_input(arguments, options, error, message):
    with pytest.raises(error, match=message) as caught:
        F.conv_transpose2d(*arguments, **options)
    assert "transpose2d" in str(caught.value).lower()  # ConvTranspose2d where the engine compares the dtypes
