"""Every array operation: values, gradients by finite differences, PyTorch's answers, dtypes and bad input."""

import contextlib

import numpy as np
import pytest

import ministn
import ministn.functional as F
from ministn import Tensor
from ministn.kernels._cuda import recordable


def normal(*shape, seed=0, dtype=np.float64):
    return Tensor(np.random.default_rng(seed).standard_normal(shape).astype(dtype), requires_grad=True)


def positive(*shape, seed=0):
    return Tensor(np.random.default_rng(seed).uniform(0.5, 2, shape), requires_grad=True)


def apart(*shape):
    """Distinct values 0.07 apart and none within 0.03 of 0: no kink within gradcheck's step of 1e-5."""
    count = int(np.prod(shape))
    values = 0.07 * (np.random.default_rng(0).permutation(count) - count // 2) + 0.035
    return Tensor(values.reshape(shape), requires_grad=True)


LABELS = np.array([2, 0, 1, 2, 2])

GRADCHECKS = {
    "add": (lambda a, b: a + b, [normal(3, 4), normal(3, 4, seed=1)]),
    "add broadcasts both": (lambda a, b: a + b, [normal(3, 1, 5), normal(4, 1, seed=1)]),
    "add broadcasts a scalar": (lambda a, b: a + b, [normal(3, 4), normal(seed=1)]),
    "add to itself": (lambda a: a + a, [normal(3)]),
    "number plus": (lambda a: 2 + a, [normal(3, 4)]),
    "subtract": (lambda a, b: a - b, [normal(3, 4), normal(4, seed=1)]),
    "number minus": (lambda a: 2.5 - a, [normal(3, 4)]),
    "negative": (lambda a: -a, [normal(3, 4)]),
    "multiply": (lambda a, b: a * b, [normal(2, 3, 4), normal(3, 1, seed=1)]),
    "divide": (lambda a, b: a / b, [normal(3, 1), positive(2, 1, 4)]),
    "number divided by": (lambda a: 2 / a, [positive(3, 4)]),
    "power 3": (lambda a: a**3, [normal(3, 4)]),
    "power 0.5": (lambda a: a**0.5, [positive(3, 4)]),
    "power -2": (lambda a: a**-2, [positive(3, 4)]),
    "power 0": (lambda a: a**0 + a, [normal(3, 4)]),
    "matmul": (lambda a, b: a @ b, [normal(3, 4), normal(4, 5, seed=1)]),
    "matmul in batches": (lambda a, b: a @ b, [normal(2, 1, 3, 4), normal(5, 4, 2, seed=1)]),
    "matmul broadcasts a matrix": (lambda a, b: a @ b, [normal(3, 4), normal(6, 4, 2, seed=1)]),
    "linear": (F.linear, [normal(5, 3), normal(4, 3, seed=1), normal(4, seed=2)]),
    "linear without bias": (F.linear, [normal(5, 3), normal(4, 3, seed=1)]),
    "linear of batch-last features": (lambda x, w, b: F.linear(x.T, w, b), [normal(3, 5), normal(4, 3), normal(4)]),
    "sum": (lambda a: a.sum(), [normal(3, 4)]),
    "sum over axes": (lambda a: a.sum((0, -1)), [normal(3, 4, 5)]),
    "sum keeps axes": (lambda a: a.sum(1, keepdim=True) * a, [normal(3, 4, 5)]),
    "mean": (lambda a: a.mean(), [normal(3, 4)]),
    "mean over an axis": (lambda a: a.mean(-2), [normal(3, 4, 5)]),
    "max": (lambda a: a.max(), [apart(3, 4)]),
    "max over an axis": (lambda a: a.max(1), [apart(3, 4, 5)]),
    "max keeps axes": (lambda a: a.max((0, 2), keepdim=True), [apart(3, 4, 5)]),
    "relu": (lambda a: a.relu(), [apart(3, 5)]),
    "tanh": (lambda a: a.tanh(), [normal(3, 4)]),
    "sigmoid": (lambda a: a.sigmoid(), [normal(3, 4)]),
    "exp": (lambda a: a.exp(), [normal(3, 4)]),
    "log": (lambda a: a.log(), [positive(3, 4)]),
    "sin": (lambda a: a.sin(), [normal(3, 4)]),
    "cos": (lambda a: a.cos(), [normal(3, 4)]),
    "xlogx": (F.xlogx, [positive(3, 4)]),
    "xlogx of squares": (lambda a: F.xlogx(a * a), [normal(3, 4)]),
    "inverse": (lambda a: F.inverse(a + Tensor(4 * np.eye(3)).astype(a.dtype)), [normal(2, 4, 3, 3)]),
    "softmax": (lambda a: a.softmax(), [normal(3, 4)]),
    "softmax over the first axis": (lambda a: F.softmax(a, dim=0), [normal(3, 4)]),
    "log_softmax": (lambda a: F.log_softmax(a, dim=1), [normal(3, 4, 2)]),
    "reshape": (lambda a: a.reshape(2, -1) * 2, [normal(3, 4)]),
    "view": (lambda a: a.view((12,)), [normal(3, 4)]),
    "flatten": (lambda a: a.flatten(1), [normal(2, 3, 4)]),
    "permute": (lambda a: a.permute(2, 0, 1), [normal(2, 3, 4)]),
    "transpose": (lambda a: a.transpose(0, -1), [normal(2, 3, 4)]),
    "T": (lambda a: a.T, [normal(2, 3)]),
    "getitem slice": (lambda a: a[1:, ::2], [normal(3, 5)]),
    "getitem integer": (lambda a: a[-1], [normal(3, 5)]),
    "getitem to a scalar": (lambda a: a[1, 2], [normal(3, 5)]),
    "getitem new axis": (lambda a: a[:, None, ..., 0], [normal(3, 5)]),
    "getitem repeats": (lambda a: a[np.array([0, 2, 0, 0])], [normal(3, 5)]),
    "getitem tensor and mask": (lambda a: a[Tensor([True, False, True])][Tensor([1, 1])], [normal(3, 5)]),
    "concatenate": (lambda a, b, c: F.concatenate([a, b, c], dim=1), [normal(2, 3), normal(2, 1), normal(2, 2)]),
    "concatenate with itself": (lambda a: F.concatenate([a, a], dim=-2), [normal(2, 3)]),
    "cross_entropy": (lambda z: F.cross_entropy(z, LABELS), [normal(5, 3)]),
    "cross_entropy, no reduction": (lambda z: F.cross_entropy(z, LABELS, reduction="none"), [normal(5, 3)]),
    "nll_loss": (lambda z: F.nll_loss(z, LABELS, reduction="sum"), [normal(5, 3)]),
    "mse_loss": (F.mse_loss, [normal(5, 3), normal(5, 3, seed=1)]),
    "binary_cross_entropy_with_logits": (F.binary_cross_entropy_with_logits, [normal(5, 3), positive(5, 3)]),
    "smooth_l1_loss": (lambda a, b: F.smooth_l1_loss(a, b, beta=0.8), [normal(5, 3), normal(5, 3, seed=1)]),
    "multi_margin_loss": (lambda z: F.multi_margin_loss(z, LABELS), [apart(5, 3)]),
    "multi_margin_loss squared": (lambda z: F.multi_margin_loss(z, LABELS, p=2, margin=0.5), [apart(5, 3)]),
    "batch_norm": (
        lambda x, w, b: F.batch_norm(x, Tensor(np.zeros(3)), Tensor(np.ones(3)), w, b, training=True),
        [normal(4, 3, 2, 5), normal(3, seed=1), normal(3, seed=2)],
    ),
    "batch_norm of vectors": (
        lambda x, w, b: F.batch_norm(x, Tensor(np.zeros(3)), Tensor(np.ones(3)), w, b, training=True),
        [normal(4, 3), normal(3, seed=1), normal(3, seed=2)],
    ),
    "batch_norm in evaluation": (
        lambda x, w, b: F.batch_norm(x, Tensor(np.full(3, 0.2)), Tensor(np.full(3, 1.7)), w, b),
        [normal(4, 3, 2, 5), normal(3, seed=1), normal(3, seed=2)],
    ),
}


@pytest.mark.parametrize("name", GRADCHECKS)
def test_gradient(name):
    function, inputs = GRADCHECKS[name]
    assert ministn.gradcheck(function, inputs, tolerance=1e-6)


# batch_norm's running statistics are float64 above; test_batch_norm_equals_torch has it in float32.
@pytest.mark.parametrize("name", [name for name in GRADCHECKS if not name.startswith("batch_norm")])
def test_float32_stays_float32(name):
    """In float32 the same call gives a float32 result and gradients, equal to float64's up to its rounding."""
    function, inputs = GRADCHECKS[name]
    results = []
    for dtype in (np.float64, np.float32):
        leaves = [Tensor(tensor.data.astype(dtype), requires_grad=True) for tensor in inputs]
        output = function(*leaves)
        output.sum().backward()
        assert {output.dtype, *(tensor.grad.dtype for tensor in leaves)} == {np.dtype(dtype)}
        results.append([output.data, *(tensor.grad.data for tensor in leaves)])
    for double, single in zip(*results, strict=True):
        # float32 rounds at 6e-8; up to 60 terms of size up to 10 (powers, sums) are added.
        np.testing.assert_allclose(single, double, rtol=1e-5, atol=1e-4)


# --- values ---------------------------------------------------------------------------------------------------------


def test_arithmetic_values():
    a, b = Tensor([[1.0, 2.0], [3.0, 4.0]]), Tensor([10.0, 20.0])
    np.testing.assert_array_equal((a + b).data, [[11, 22], [13, 24]])
    np.testing.assert_array_equal((a - b).data, [[-9, -18], [-7, -16]])
    np.testing.assert_array_equal((b - a).data, [[9, 18], [7, 16]])
    np.testing.assert_array_equal((a * b).data, [[10, 40], [30, 80]])
    np.testing.assert_array_equal((b / a).data, np.float32([[10, 10], [10 / 3, 5]]))
    np.testing.assert_array_equal((1 - a).data, [[0, -1], [-2, -3]])
    np.testing.assert_array_equal((12 / a).data, [[12, 6], [4, 3]])
    np.testing.assert_array_equal((-a).data, [[-1, -2], [-3, -4]])
    np.testing.assert_array_equal((a**2).data, [[1, 4], [9, 16]])
    np.testing.assert_array_equal((a @ a).data, [[7, 10], [15, 22]])


def test_reduction_values():
    x = Tensor([[1.0, 5.0, 2.0], [7.0, 0.0, 3.0]])
    assert (x.sum().item(), x.mean().item(), x.max().item(), x.argmax().item()) == (18, 3, 7, 3)
    np.testing.assert_array_equal(x.sum(0).data, [8, 5, 5])
    np.testing.assert_array_equal(x.sum([0, 1]).data, 18)
    np.testing.assert_array_equal(x.mean(1, keepdim=True).data, np.float32([[8 / 3], [10 / 3]]))
    np.testing.assert_array_equal(x.max(1).data, [5, 7])
    np.testing.assert_array_equal(x.argmax(1).data, [1, 0])


def test_shape_values():
    x = Tensor(np.arange(24.0).reshape(2, 3, 4))
    assert x.reshape(4, -1).shape == (4, 6)
    assert x.flatten(1).shape == (2, 12)
    assert x.flatten(0, 1).shape == (6, 4)
    assert Tensor(1.0).flatten().shape == (1,)
    assert x.permute(2, 0, -2).shape == (4, 2, 3)
    np.testing.assert_array_equal(x.transpose(1, 2).data, np.swapaxes(x.data, 1, 2))
    np.testing.assert_array_equal(x.T.data, x.data.T)
    np.testing.assert_array_equal(x[1, ::-1, [0, 2]].data, x.data[1, ::-1, [0, 2]])
    np.testing.assert_array_equal(F.concatenate([x, x[:, :1]], dim=1).data, np.concatenate([x.data, x.data[:, :1]], 1))


def test_batch_last_images_stay_batch_last():
    x = np.moveaxis(np.ascontiguousarray(np.moveaxis(np.ones((5, 2, 3, 4)), 0, -1)), -1, 0)
    joined = F.concatenate([Tensor(x), Tensor(np.zeros((5, 1, 3, 4)))], dim=1).data
    assert np.moveaxis(joined, 0, -1).flags.c_contiguous
    assert Tensor(x).flatten(1).data.base is not None  # a view
    weight, bias = normal(7, 24), normal(7)
    flat = Tensor(x, requires_grad=True).flatten(1)
    flat.retain_grad()
    out = F.linear(flat, weight, bias)
    out.sum().backward()
    assert out.data.strides[0] < out.data.strides[1]
    assert flat.grad.data.strides[0] < flat.grad.data.strides[1]


def test_max_shares_the_gradient_among_the_largest():
    x = Tensor([[1.0, 3.0, 3.0], [2.0, 0.0, 1.0]], requires_grad=True)
    x.max(1).sum().backward()
    np.testing.assert_array_equal(x.grad.data, [[0, 0.5, 0.5], [1, 0, 0]])


def test_relu_has_slope_zero_at_zero():
    x = Tensor([-1.0, 0.0, 2.0], requires_grad=True)
    y = x.relu()
    y.sum().backward()
    np.testing.assert_array_equal(y.data, [0, 0, 2])
    np.testing.assert_array_equal(x.grad.data, [0, 0, 1])


def test_xlogx_is_zero_at_zero_with_slope_zero():
    """Also where a squared distance is 0: no NaN comes of 0 times the infinite slope."""
    x = Tensor(np.array([0.0, 1.0, np.e]), requires_grad=True)
    y = F.xlogx(x)
    np.testing.assert_allclose(y.data, [0, 0, np.e], rtol=1e-15)
    y.sum().backward()
    np.testing.assert_allclose(x.grad.data, [0, 1, 2], rtol=1e-15)


def test_inverse_by_hand_and_against_numpy():
    shift = np.array([[2.0, 0, 1], [0, 4, -2], [0, 0, 1]])
    np.testing.assert_array_equal(F.inverse(Tensor(shift)).data, [[0.5, 0, -0.5], [0, 0.25, 0.5], [0, 0, 1]])
    matrices = np.random.default_rng(0).standard_normal((7, 3, 3)) + 4 * np.eye(3)
    np.testing.assert_allclose(F.inverse(Tensor(matrices)).data, np.linalg.inv(matrices), rtol=0, atol=1e-13)  # float64


@pytest.mark.parametrize("shapes", [((2, 3, 4), (4, 5)), ((6, 2, 3), (6, 3, 3)), ((5, 2), (3, 2, 4))])
def test_matmul_in_recorded_steps_is_the_same(shapes):
    """There it is computed without a library."""
    results = []
    for record in (contextlib.nullcontext, recordable):
        a, b = (normal(*shape, seed=seed) for seed, shape in enumerate(shapes))
        with record():
            product = a @ b
            product.backward(normal(*product.shape, seed=2).detach())
        results.append([product.data, a.grad.data, b.grad.data])
    for with_library, without in zip(*results, strict=True):
        np.testing.assert_allclose(without, with_library, rtol=0, atol=1e-13)  # float64 rounding of sums of 30


def test_power_zero_at_zero_has_slope_zero():
    x = Tensor([0.0], requires_grad=True)
    (x**0).sum().backward()
    assert x.grad.item() == 0


def test_no_overflow_for_large_values():
    x = Tensor([-1e4, 0.0, 1e4], requires_grad=True)
    np.testing.assert_array_equal(x.sigmoid().data, [0, 0.5, 1])
    np.testing.assert_array_equal(x.softmax().data, [0, 0, 1])
    np.testing.assert_array_equal(x.log_softmax().data, [-2e4, -1e4, 0])
    z = Tensor([[-1e4, 1e4]], requires_grad=True)
    loss = F.cross_entropy(z, [0])
    loss.backward()
    assert loss.item() == 2e4
    np.testing.assert_array_equal(z.grad.data, [[-1, 1]])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_tails_of_the_sigmoid_keep_their_digits(dtype):
    """There y is e^-|x| and 1 - y is: (1 + tanh(x / 2)) / 2 rounds it to 0, and y (1 - y) rounds the slope to 0."""
    x = Tensor(np.array([-20, -80, 20, 80], dtype), requires_grad=True)
    y = x.sigmoid()
    y.sum().backward()
    tails = np.exp([-20.0, -80.0])
    rtol = 1e-6 if dtype == np.float32 else 1e-14  # of one exponential and a few roundings
    np.testing.assert_allclose(y.data[:2], tails / (1 + tails), rtol=rtol)
    np.testing.assert_allclose(x.grad.data, np.tile(tails / (1 + tails) ** 2, 2), rtol=rtol)
    x.grad = None
    F.binary_cross_entropy_with_logits(x, np.array([0, 0, 1, 1], dtype), reduction="sum").backward()
    np.testing.assert_allclose(x.grad.data, [*tails, *-tails] / (1 + np.tile(tails, 2)), rtol=rtol)


@pytest.mark.parametrize("size", [1e-25, 1e25])
def test_the_gradient_of_a_quotient_where_the_square_is_no_number(size):
    """b^2 is 0 or infinite in float32; the slopes 1 / b and -a / b^2 are numbers."""
    a, b = (Tensor(np.full(1, size, np.float32), requires_grad=True) for _ in range(2))
    (a / b).backward()
    np.testing.assert_allclose([a.grad.item(), b.grad.item()], [1 / size, -1 / size], rtol=1e-6)  # float32


def test_broadcasting_against_an_empty_batch():
    a = normal(1, 3)
    (a * Tensor(np.zeros((0, 3)))).sum().backward()
    np.testing.assert_array_equal(a.grad.data, [[0, 0, 0]])


def test_broadcast_gradients_by_hand():
    a, b = Tensor([[1.0], [2.0]], requires_grad=True), Tensor([10.0, 20.0, 30.0], requires_grad=True)
    (a * b).sum().backward()
    np.testing.assert_array_equal(a.grad.data, [[60], [60]])
    np.testing.assert_array_equal(b.grad.data, [3, 3, 3])


# --- dtypes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "compute",
    [
        lambda x: x * 2.0,
        lambda x: x * np.float64(2),
        lambda x: np.float64(2) * x,
        lambda x: x + np.int64(2),
        lambda x: x * Tensor([1, 2]),
        lambda x: Tensor([1, 2]) / x,
        lambda x: x * Tensor([True, False]),
        lambda x: x ** np.float64(2),
        lambda x: np.ones(2, np.float32) - x,
        lambda x: F.multi_margin_loss(x.reshape(1, 2), [0], margin=np.float64(1)),
        lambda x: F.mse_loss(x, [1, 2]),
        lambda x: F.smooth_l1_loss(x, [1, 2]),
    ],
)
def test_numbers_and_integers_do_not_promote(compute):
    x = normal(2, dtype=np.float32)
    y = compute(x)
    assert y.dtype == np.float32
    y.sum().backward()
    assert x.grad.dtype == np.float32


@pytest.mark.parametrize(
    ("compute", "expected"),
    [
        (lambda i: i + 1, np.int64([2, 3])),
        (lambda i: i * i, np.int64([1, 4])),
        (lambda i: i + 1.5, np.float32([2.5, 3.5])),
        (lambda i: i / 2, np.float32([0.5, 1])),
        (lambda i: i / i, np.float32([1, 1])),
        (lambda i: i.mean(), np.float32(1.5)),
        (lambda i: i**0.5, np.float32([1, np.sqrt(2)])),
        (lambda i: i.exp(), np.exp(np.float32([1, 2]))),
        (lambda i: i.sigmoid(), np.float32([0.7310586, 0.8807971])),
        (lambda i: i.softmax(), np.float32([0.26894143, 0.7310586])),
        (lambda i: -Tensor([True, False]), np.int64([-1, 0])),
    ],
)
def test_integers_become_float32_where_they_must(compute, expected):
    y = compute(Tensor([1, 2])).data
    assert y.dtype == expected.dtype
    np.testing.assert_allclose(y, expected, rtol=3e-7)  # two or three units in the last place of float32


def test_astype():
    x = normal(3)
    y = x.astype(np.float32)
    assert y.dtype == np.float32
    (y * 3).sum().backward()
    assert x.grad.dtype == np.float64
    np.testing.assert_array_equal(x.grad.data, [3, 3, 3])
    assert x.astype(int).dtype == np.int64
    assert not x.astype(int).requires_grad


# --- against PyTorch ------------------------------------------------------------------------------------------------


def compare_with_torch(ours, theirs, *arrays, dtype):
    """Values and gradients for the same random output weights; a few units of rounding apart."""
    torch = pytest.importorskip("torch")
    inputs = [Tensor(array.astype(dtype), requires_grad=True) for array in arrays]
    torch_inputs = [torch.tensor(array.astype(dtype), requires_grad=True) for array in arrays]
    y, expected = ours(*inputs), theirs(torch.nn.functional, *torch_inputs)
    weights = np.random.default_rng(9).standard_normal(y.shape).astype(dtype)
    y.backward(weights)
    expected.backward(torch.tensor(weights))
    # Sums of up to 60 terms of size 1, rounded at 6e-8 or 1e-16.
    tolerance = {"rtol": 2e-5, "atol": 2e-6} if dtype == np.float32 else {"rtol": 1e-12, "atol": 1e-13}
    np.testing.assert_allclose(y.data, expected.detach().numpy(), **tolerance)
    for x, torch_x in zip(inputs, torch_inputs, strict=True):
        np.testing.assert_allclose(x.grad.data, torch_x.grad.numpy(), **tolerance)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_smoothed_losses_agree(reduction):
    """The cross-entropy is compared with PyTorch's, whose nll_loss does not smooth labels."""
    scores = Tensor(np.random.default_rng(0).standard_normal((5, 7)))
    options = {"labels": np.arange(5), "reduction": reduction, "label_smoothing": 0.3}
    losses = F.nll_loss(F.log_softmax(scores, dim=1), **options), F.cross_entropy(scores, **options)
    np.testing.assert_array_equal(losses[0].data, losses[1].data)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("cross_entropy", {}),
        ("nll_loss", {}),
        ("cross_entropy", {"label_smoothing": 0.2}),
        ("cross_entropy", {"label_smoothing": 1.0}),
        ("multi_margin_loss", {}),
        ("multi_margin_loss", {"p": 2, "margin": 0.3}),
    ],
)
def test_label_losses_equal_torch(name, options, reduction, dtype):
    torch = pytest.importorskip("torch")
    random = np.random.default_rng(0)
    labels = random.integers(0, 7, 5)
    compare_with_torch(
        lambda z: getattr(F, name)(z, labels, reduction=reduction, **options),
        lambda f, z: getattr(f, name)(z, torch.tensor(labels), reduction=reduction, **options),
        random.standard_normal((5, 7)),
        dtype=dtype,
    )


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("mse_loss", {}),
        ("binary_cross_entropy_with_logits", {}),
        ("smooth_l1_loss", {}),
        ("smooth_l1_loss", {"beta": 0.3}),
    ],
)
def test_losses_of_two_arrays_equal_torch(name, options, reduction, dtype):
    compare_with_torch(
        lambda a, b: getattr(F, name)(a, b, reduction=reduction, **options),
        lambda f, a, b: getattr(f, name)(a, b, reduction=reduction, **options),
        normal(3, 5).data,
        normal(3, 5, seed=1).data,
        dtype=dtype,
    )


def test_binary_cross_entropy_of_certain_answers():
    """log(1 + e^0) = log 2 where nothing is known; no overflow where the logit is large, and a loss that is linear."""
    logits = Tensor(np.array([0, 200, 200, -200, -200], np.float32), requires_grad=True)
    losses = F.binary_cross_entropy_with_logits(logits, np.array([1, 1, 0, 1, 0], np.float32), reduction="none")
    np.testing.assert_allclose(losses.data, [np.log(2), 0, 200, 200, 0], rtol=1e-7)  # float32 rounds at 6e-8
    losses.sum().backward()
    np.testing.assert_array_equal(logits.grad.data, [-0.5, 0, 1, -1, 0])


def test_smooth_l1_loss_by_hand():
    """Powers of 2, which are exact: quadratic up to beta = 1/2, then a line whose slope is 1."""
    x = Tensor(np.array([0, 0.25, -0.5, 2, -4]), requires_grad=True)
    losses = F.smooth_l1_loss(x, np.zeros(5), reduction="none", beta=0.5)
    np.testing.assert_array_equal(losses.data, [0, 0.0625, 0.25, 1.75, 3.75])
    losses.sum().backward()
    np.testing.assert_array_equal(x.grad.data, [0, 0.5, -1, 1, -1])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("dim", [0, 1, -1])
@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_softmax_equals_torch(name, dim, dtype):
    x = normal(4, 3, 5).data
    compare_with_torch(
        lambda a: getattr(F, name)(a, dim=dim), lambda f, a: getattr(f, name)(a, dim=dim), x, dtype=dtype
    )


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_linear_equals_torch(dtype):
    arrays = [normal(6, 5).data, normal(4, 5, seed=1).data, normal(4, seed=2).data]
    compare_with_torch(F.linear, lambda f, *a: f.linear(*a), *arrays, dtype=dtype)
    compare_with_torch(F.linear, lambda f, *a: f.linear(*a), *arrays[:2], dtype=dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_max_with_ties_equals_torch_amax(dtype):
    x = np.random.default_rng(0).integers(0, 3, (4, 6)).astype(dtype)
    compare_with_torch(lambda a: a.max(1), lambda f, a: a.amax(1), x, dtype=dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shape", [(6, 3), (4, 3, 5), (2, 3, 4, 5)])
def test_batch_norm_equals_torch(shape, training, dtype):
    torch = pytest.importorskip("torch")
    mean, variance = np.array([0.1, -0.2, 0.3], dtype), np.array([0.5, 1.0, 2.0], dtype)
    running = [Tensor(mean.copy()), Tensor(variance.copy())]
    torch_running = [torch.tensor(mean), torch.tensor(variance)]
    options = {"training": training, "momentum": 0.2, "eps": 1e-3}
    compare_with_torch(
        lambda x, w, b: F.batch_norm(x, *running, w, b, **options),
        lambda f, x, w, b: f.batch_norm(x, *torch_running, w, b, **options),
        normal(*shape).data,
        positive(3).data,
        normal(3, seed=2).data,
        dtype=dtype,
    )
    for ours, theirs in zip(running, torch_running, strict=True):
        assert ours.dtype == dtype
        np.testing.assert_allclose(ours.data, theirs.numpy(), rtol=1e-6 if dtype == np.float32 else 1e-14)


def test_batch_norm_moves_the_running_statistics_only_in_training():
    mean, variance = Tensor(np.zeros(1)), Tensor(np.ones(1))
    x, weight, bias = Tensor(np.array([[1.0], [3.0]])), Tensor(np.ones(1)), Tensor(np.zeros(1))
    F.batch_norm(x, mean, variance, weight, bias, training=False)
    assert (mean.item(), variance.item()) == (0, 1)
    F.batch_norm(x, mean, variance, weight, bias, training=True, momentum=0.5)
    assert (mean.item(), variance.item()) == (1, 1.5)  # half way to 2, and to the unbiased variance 2


# --- dropout --------------------------------------------------------------------------------------------------------


def test_dropout():
    ministn.manual_seed(0)
    x = Tensor(np.ones((100, 100), np.float32), requires_grad=True)
    y = F.dropout(x, p=0.2)
    y.sum().backward()
    assert set(np.unique(y.data)) == {np.float32(0), np.float32(1.25)}
    np.testing.assert_array_equal(x.grad.data, y.data)  # the same mask
    # 10,000 draws: the standard deviation of the mean of y is 0.5 / 100; four of them.
    assert y.data.mean() == pytest.approx(1, abs=0.02)
    assert F.dropout(x, p=0.2, training=False) is x
    assert F.dropout(x, p=0) is x


@pytest.mark.parametrize("dropout", [F.dropout, F.dropout2d])
def test_dropout_of_integers(dropout):
    """An integer mask would be of other numbers: 1 / (1 - p) = 1.25 is none."""
    ministn.manual_seed(0)
    assert set(np.unique(dropout(Tensor(np.ones((10, 20, 1, 1), np.int64)), p=0.2).data)) == {0, np.float32(1.25)}
    integers = Tensor(np.arange(3).reshape(3, 1, 1, 1))
    assert dropout(integers, p=0.2, training=False) is integers


def test_dropout2d_drops_whole_channels():
    ministn.manual_seed(0)
    y = F.dropout2d(Tensor(np.ones((20, 30, 3, 5))), p=0.5).data
    np.testing.assert_array_equal(y, np.broadcast_to(y[:, :, :1, :1], y.shape))
    assert set(np.unique(y)) == {0, 2}


def test_dropout_follows_the_seed():
    x = Tensor(np.ones(50, np.float32))
    ministn.manual_seed(3)
    first, second = F.dropout(x).data, F.dropout(x).data
    ministn.manual_seed(3)
    np.testing.assert_array_equal(F.dropout(x).data, first)
    assert (first != second).any()


# --- bad input ------------------------------------------------------------------------------------------------------

X, Z = Tensor(np.zeros((2, 3))), Tensor(np.zeros((2, 4, 3)))
BAD_CALLS = [
    (lambda: F.cross_entropy(X, [0, 3]), ValueError, "cross_entropy: expected labels 0 to 2, got 0 to 3"),
    (lambda: F.cross_entropy(X, [-1, 0]), ValueError, "cross_entropy: expected labels 0 to 2, got -1 to 0"),
    (lambda: F.nll_loss(X, [0, 3]), ValueError, "nll_loss: expected labels 0 to 2"),
    (lambda: F.nll_loss(X, [0, 1], label_smoothing=1.5), ValueError, "nll_loss: expected label_smoothing to be from 0"),
    (lambda: F.cross_entropy(X, [0, 1], label_smoothing=-1), ValueError, "cross_entropy: expected label_smoothing to"),
    (lambda: F.cross_entropy(X, [0, 3], label_smoothing=0.1), ValueError, "cross_entropy: expected labels 0 to 2"),
    (lambda: F.cross_entropy(X[0], [0], label_smoothing=0.1), ValueError, r"cross_entropy: expected scores \(N, K\)"),
    (lambda: F.multi_margin_loss(X, [5, 0]), ValueError, "multi_margin_loss: expected labels 0 to 2"),
    (
        lambda: F.cross_entropy(X[:, :0], [0, 0]),
        ValueError,
        r"cross_entropy: expected scores \(N, K\) of at least one class, got shape \(2, 0\)",
    ),
    (lambda: F.cross_entropy(X, [0.0, 1.0]), TypeError, "cross_entropy: expected integer labels, got float64"),
    (lambda: F.cross_entropy(X, [0, 1, 2]), ValueError, r"scores \(N, K\) and labels \(N,\), got \(2, 3\) and \(3,\)"),
    (lambda: F.cross_entropy(Z, [0, 1]), ValueError, r"got \(2, 4, 3\) and \(2,\)"),
    (lambda: F.cross_entropy(Tensor([[1, 2]]), [0]), TypeError, "expected floating-point scores, got int64"),
    (lambda: F.cross_entropy(X, [0, 1], reduction="avg"), ValueError, "cross_entropy: expected reduction 'mean'"),
    (lambda: F.multi_margin_loss(X, [0, 1], p=3), ValueError, "expected p to be 1 or 2, got 3"),
    (lambda: F.mse_loss(X, Z), ValueError, r"mse_loss: expected target of the input's shape \(2, 3\)"),
    (lambda: F.binary_cross_entropy_with_logits(X, Z), ValueError, "with_logits: expected target of the inp"),
    (lambda: F.smooth_l1_loss(X, Z), ValueError, "smooth_l1_loss: expected target of the input's shape"),
    (lambda: F.smooth_l1_loss(X, X, beta=0), ValueError, "smooth_l1_loss: expected a finite beta above 0, got 0"),
    (
        lambda: F.smooth_l1_loss(Tensor([1.0]), Tensor([1.0]), beta=1e-50),
        ValueError,
        "smooth_l1_loss: expected a finite beta above 0 in float32, got 1e-50",
    ),
    (lambda: F.linear(Z, X), ValueError, "linear: expected input"),
    (lambda: F.linear(X, Tensor(np.zeros((4, 2)))), ValueError, r"equal in_features, got \(2, 3\) and \(4, 2\)"),
    (lambda: F.linear(X, X, Tensor(np.zeros(3))), ValueError, r"linear: expected a bias of shape \(2,\)"),
    (lambda: X @ X, ValueError, r"matmul: expected shapes \(..., n, k\) and \(..., k, m\), got \(2, 3\) and \(2, 3\)"),
    (lambda: X @ X[0], ValueError, "matmul: expected shapes"),
    (lambda: F.inverse(X), ValueError, r"inverse: expected a shape \(..., 3, 3\), got \(2, 3\)"),
    (lambda: X**X, TypeError, "power: expected a number as exponent, got Tensor"),
    (lambda: X + "a", TypeError, "expected float32, float64, integer or bool data"),
    (lambda: X.reshape(4, 2), ValueError, r"a tensor of shape \(2, 3\) does not fit shape \(4, 2\)"),
    (lambda: X.permute(0, 0), ValueError, "permute: expected each of the 2 axes once"),
    (lambda: X.permute(2, 3), ValueError, "permute: expected an axis between -2 and 1"),
    (lambda: X.transpose(0, 2), ValueError, "transpose: expected an axis between -2 and 1"),
    (lambda: X.flatten(2), ValueError, "flatten: expected an axis between -2 and 1"),
    (lambda: Z.flatten(2, 1), ValueError, "flatten: expected start_dim before end_dim, got 2 and 1"),
    (lambda: X.sum(2), ValueError, "sum: expected an axis between -2 and 1"),
    (lambda: X.max(-3), ValueError, "max: expected an axis between -2 and 1"),
    (lambda: F.concatenate([]), ValueError, "expected at least one tensor"),
    (lambda: F.concatenate([X, X], dim=2), ValueError, "concatenate: expected an axis between -2 and 1"),
    (lambda: F.concatenate([X, Z]), ValueError, "expected shapes that agree outside axis 0"),
    (lambda: F.concatenate([X, X.T], dim=1), ValueError, "expected shapes that agree outside axis 1"),
    (lambda: F.dropout(X, p=1.5), ValueError, "dropout: expected a probability 0 <= p <= 1, got 1.5"),
    (lambda: F.dropout2d(X), ValueError, r"dropout2d: expected an input \(N, C, H, W\), got shape \(2, 3\)"),
    (lambda: F.batch_norm(X, *[Tensor(np.zeros(2))] * 4), ValueError, "batch_norm: expected input"),
    (
        lambda: F.batch_norm(X[:1], *[Tensor(np.zeros(3))] * 4, training=True),
        ValueError,
        "batch_norm: expected more than one value per channel in training",
    ),
]


@pytest.mark.parametrize(("call", "error", "message"), BAD_CALLS)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_comparisons_are_elementwise():
    x, y = Tensor([1.0, 2.0, 3.0]), Tensor([3.0, 2.0, 1.0])
    for got, expected in (
        (x == y, [False, True, False]),
        (x != y, [True, False, True]),
        (x < y, [True, False, False]),
        (x <= 2, [True, True, False]),
        (x > np.array([0, 2, 2]), [True, False, True]),
        (x >= y, [False, True, True]),
    ):
        assert got.dtype == bool
        np.testing.assert_array_equal(got.numpy(), expected)
    assert len({x, y, x}) == 2  # as a key a Tensor stands for itself


def test_accuracy_as_one_writes_it():
    scores, labels = Tensor([[0.1, 0.9], [0.8, 0.2], [0.3, 0.7]]), Tensor([1, 1, 1])
    assert float((scores.argmax(1) == labels).astype(np.float32).mean()) == pytest.approx(2 / 3)
