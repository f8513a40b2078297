"""The engine: Tensor, Function, the backward sweep, no_grad, and gradcheck, which must be able to fail."""

import gc
import threading
import weakref

import numpy as np
import pytest

import ministn
from ministn import Function, GradcheckError, Tensor


def leaf(values, dtype=np.float64):
    return Tensor(np.array(values, dtype), requires_grad=True)


class Cube(Function):
    """y = x^3."""

    def forward(self, x):
        self.x = x
        return x * x * x

    def backward(self, grad_output):
        return 3 * self.x**2 * grad_output


# --- Tensor ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "dtype"),
    [
        (1.5, np.float32),
        ([1.0, 2.0], np.float32),
        ([1, 2], np.int64),
        ([True], np.bool_),
        (np.zeros(2), np.float64),
        (np.float64(1), np.float64),
        (np.zeros(2, ">f4"), np.float32),
    ],
)
def test_dtype_of_a_new_tensor(data, dtype):
    assert Tensor(data).dtype == dtype


def test_arrays_are_not_copied():
    data = np.zeros(3)
    assert Tensor(data).data is data
    assert Tensor(data).numpy() is data


@pytest.mark.parametrize("data", [np.zeros(2, np.float16), np.zeros(2, complex), ["a"]])
def test_unsupported_data(data):
    with pytest.raises(TypeError, match="expected float32, float64, integer or bool data"):
        Tensor(data)


def test_other_kinds_of_numpy_arrays_are_plain_ones():
    """A np.matrix would multiply as matrices do."""
    matrix = np.array([[1.0, 2.0], [3.0, 4.0]]).view(np.matrix)
    x = Tensor(matrix, requires_grad=True)
    assert type(x.data) is np.ndarray
    assert np.shares_memory(x.data, matrix)
    y = x * x
    np.testing.assert_array_equal(y.data, [[1, 4], [9, 16]])
    y.backward(matrix)
    np.testing.assert_array_equal(x.grad.data, [[2, 8], [18, 32]])
    assert type(x.grad.data) is np.ndarray


def test_a_mask_is_not_dropped_silently():
    with pytest.raises(TypeError, match="Tensor: expected an array without a mask, got a MaskedArray"):
        Tensor(np.ma.masked_equal([1.0, -1.0], -1.0))


def test_integers_have_no_gradient():
    with pytest.raises(TypeError, match="only floating-point data can require a gradient, got int64"):
        Tensor([1, 2], requires_grad=True)


def test_properties():
    x = leaf([[1, 2, 3], [4, 5, 6]])
    assert (x.shape, x.ndim, x.numel(), len(x), x.device) == ((2, 3), 2, 6, 2, "cpu")
    assert (x.size(), x.size(1)) == ((2, 3), 3)
    assert x.is_leaf
    assert not Cube.apply(x).is_leaf
    assert Tensor(2.5).item() == 2.5
    assert repr(Tensor([1.0, 2.0])) == "tensor([1., 2.], dtype=float32)"
    assert repr(Tensor([np.pi])) == "tensor([3.1416], dtype=float32)"
    assert repr(Cube.apply(leaf([1]))) == "tensor([1.], dtype=float64, requires_grad=True, creator=Cube)"


def test_numpy_refuses_to_lose_a_gradient():
    x = leaf([1.0])
    with pytest.raises(RuntimeError, match=r"call \.detach\(\)\.numpy\(\)"):
        x.numpy()
    assert x.detach().numpy() is x.data


def test_detach_cuts_the_graph():
    x = leaf([2.0])
    (x * (x * x).detach()).sum().backward()
    assert x.grad.item() == 4  # the derivative of 4 x, not of x^3


# --- the sweep ------------------------------------------------------------------------------------------------------


def test_chain_rule():
    x = leaf(2.0)
    y = Cube.apply(Cube.apply(x))
    y.backward()
    assert y.item() == 2**9
    assert x.grad.item() == 9 * 2**8


def test_shared_subexpression():
    x = leaf(3.0)
    y = x * x  # used three times
    z = y * y + y
    z.backward()
    assert x.grad.item() == 4 * 3**3 + 2 * 3


def test_diamonds_cost_one_visit_per_function():
    """2^60 paths lead through 60 diamonds, yet each Function runs once."""
    x = leaf(1.0)
    y = x
    for _ in range(60):
        y = y + y
    y.backward()
    assert x.grad.item() == 2.0**60


class Apart(Function):
    """(a, b) -> a + b, with gradients that are arrays of their own."""

    new_gradients = True

    def forward(self, a, b):
        return a + b

    def backward(self, grad_output):
        self.made.extend((grad_output.copy(), grad_output.copy()))
        return tuple(self.made[-2:])


def test_leaves_take_over_new_gradients_and_only_those():
    made = Apart.made = []
    a, b, c = leaf([1.0]), leaf([2.0]), leaf([3.0])
    inner = Apart.apply(a, b)
    inner.retain_grad()
    Apart.apply(inner, c).backward(np.ones(1))
    assert c.grad.data is made[1]  # without a copy
    assert a.grad.data is made[2]
    assert b.grad.data is made[3]
    assert inner.grad.data is not made[0]  # which went on to the next function
    Apart.apply(a, a).backward(np.ones(1))  # added to what is there
    np.testing.assert_array_equal(a.grad.data, [3])
    np.testing.assert_array_equal(made[2], [1])
    d, e = leaf([1.0]), leaf([1.0])
    seed = np.ones(1)
    (Apart.apply(d, e) + d).backward(seed)  # Add hands the seed itself to d first
    d.grad.data *= 10
    np.testing.assert_array_equal([d.grad.data[0], e.grad.data[0], seed[0]], [20, 1, 1])


def test_gradient_accumulates_until_it_is_reset():
    x = leaf([1.0, 2.0])
    (x * 3).sum().backward()
    (x * 4).sum().backward()
    np.testing.assert_array_equal(x.grad.data, [7, 7])
    x.grad = None
    (x * 5).sum().backward()
    np.testing.assert_array_equal(x.grad.data, [5, 5])


def test_leaves_own_their_gradients():
    a, b = leaf([1.0, 2.0]), leaf([3.0, 4.0])
    seed = np.ones(2)
    (a + b).backward(seed)  # Add hands the same array to both
    a.grad.data *= 10
    np.testing.assert_array_equal(a.grad.data, [10, 10])
    np.testing.assert_array_equal(b.grad.data, [1, 1])
    np.testing.assert_array_equal(seed, [1, 1])


def test_only_leaves_that_ask_get_a_gradient():
    x, constant = leaf([2.0]), Tensor(np.array([3.0]))
    y = x * constant
    kept = y * 2
    kept.retain_grad()
    (kept * 5).sum().backward()
    assert constant.grad is None
    assert y.grad is None
    assert kept.grad.item() == 5
    assert x.grad.item() == 30


def test_backward_of_a_vector():
    x = leaf([1.0, 2.0])
    Cube.apply(x).backward(Tensor(np.array([1.0, 10.0])))
    np.testing.assert_array_equal(x.grad.data, [3, 120])


def test_backward_of_a_leaf():
    x = leaf(1.0)
    x.backward()
    assert x.grad.item() == 1


def test_a_function_may_withhold_a_gradient():
    class FirstOnly(Function):
        def forward(self, a, b):
            return a + b

        def backward(self, grad_output):
            return grad_output, None

    a, b = leaf(1.0), leaf(2.0)
    FirstOnly.apply(a, Cube.apply(b)).backward()
    assert a.grad.item() == 1
    assert b.grad is None


def test_needs_grad_tells_which_inputs_ask():
    seen = []

    class Sum(Function):
        def forward(self, a, b):
            seen.append(self.needs_grad)
            return a + b

    x, constant = leaf(1.0), Tensor(np.array(1.0))
    Sum.apply(x, constant)
    Sum.apply(constant, x)
    with ministn.no_grad():
        Sum.apply(x, x)
    assert seen == [(True, False), (False, True), (False, False)]


@pytest.mark.parametrize("run_backward", [True, False])
def test_deep_graph(run_backward):
    """Ten thousand operations in a chain: neither the sweep nor the freeing of the graph recurses."""
    x = leaf(1.0)
    y = x
    for _ in range(10_000):
        y = y + 1
    assert y.item() == 10_001
    if run_backward:
        y.backward()
        assert x.grad.item() == 1
    del y


@pytest.mark.parametrize("run_backward", [True, False])
def test_graph_is_freed_without_the_garbage_collector(run_backward):
    gc.collect()
    gc.disable()
    try:
        x = leaf([1.0, 2.0])
        middle = Cube.apply(x)
        loss = (middle * middle).sum()
        references = [weakref.ref(middle), weakref.ref(loss), weakref.ref(loss.creator)]
        if run_backward:
            loss.backward()
        del middle, loss
        assert [reference() for reference in references] == [None, None, None]
    finally:
        gc.enable()


def test_backward_frees_what_forward_saved():
    x = leaf([1.0, 2.0])
    y = Cube.apply(x)
    saved = weakref.ref(y.creator.inputs[0])
    assert saved() is x
    y.sum().backward()
    del x
    assert saved() is None  # y is alive, but its Function let go


def test_second_backward_is_an_error():
    x = leaf(2.0)
    y = Cube.apply(x)
    y.backward()
    with pytest.raises(RuntimeError, match=r"Cube: the graph was freed by an earlier backward.*retain_graph=True"):
        y.backward()
    assert x.grad.item() == 12


def test_retain_graph_allows_a_second_backward():
    x = leaf(2.0)
    y = Cube.apply(x)
    y.backward(retain_graph=True)
    y.backward()
    assert x.grad.item() == 24


def test_backward_of_a_non_scalar_is_an_error():
    with pytest.raises(RuntimeError, match=r"expected a scalar or a gradient argument, got shape \(2,\)"):
        (leaf([1.0, 2.0]) * 2).backward()


def test_backward_without_a_gradient_to_compute_is_an_error():
    with pytest.raises(RuntimeError, match="no tensor that this one was computed from requires a gradient"):
        (Tensor(1.0) * 2).backward()


@pytest.mark.parametrize(
    ("gradient", "error", "message"),
    [
        (np.ones(3), ValueError, r"shape \(2,\) and dtype float64, got \(3,\) and float64"),
        (np.ones(2, np.float32), ValueError, "dtype float64, got .* float32"),
        ([1.0, 1.0], TypeError, "expected the gradient to be a Tensor or an array, got list"),
    ],
)
def test_wrong_gradient_argument(gradient, error, message):
    with pytest.raises(error, match=message):
        (leaf([1.0, 2.0]) * 2).backward(gradient)


@pytest.mark.parametrize("spoil", [lambda g: g[:1], lambda g: g.astype(np.float32)])
def test_wrong_shape_or_dtype_from_a_function_is_caught(spoil):
    class Spoilt(Function):
        def forward(self, x):
            return 2 * x

        def backward(self, grad_output):
            return spoil(2 * grad_output)

    with pytest.raises(ValueError, match=r"Spoilt: expected a gradient of shape \(2,\) and dtype float64"):
        Spoilt.apply(leaf([1.0, 2.0])).sum().backward()


# --- recording ------------------------------------------------------------------------------------------------------


def test_no_grad_records_nothing():
    x = leaf(2.0)
    with ministn.no_grad():
        y = Cube.apply(x)
    assert (y.item(), y.requires_grad, y.creator) == (8, False, None)
    assert Cube.apply(x).requires_grad


def test_no_grad_ends_with_an_exception():
    with pytest.raises(ZeroDivisionError), ministn.no_grad():
        raise ZeroDivisionError
    assert Cube.apply(leaf(2.0)).requires_grad


def test_no_grad_nests_and_decorates():
    @ministn.no_grad()
    def cube(x):
        return Cube.apply(x)

    x = leaf(2.0)
    with ministn.no_grad():
        assert not cube(x).requires_grad
        assert not Cube.apply(x).requires_grad
    assert not cube(x).requires_grad
    assert Cube.apply(x).requires_grad


def test_no_grad_holds_for_its_own_thread():
    recorded = []
    with ministn.no_grad():
        thread = threading.Thread(target=lambda: recorded.append(Cube.apply(leaf(2.0)).requires_grad))
        thread.start()
        thread.join()
    assert recorded == [True]


# --- inputs that do not go together ---------------------------------------------------------------------------------


def test_mixed_dtypes_are_an_error():
    with pytest.raises(TypeError, match="Add: expected inputs of one dtype, got float32 and float64"):
        leaf([1.0], np.float32) + leaf([1.0], np.float64)
    with pytest.raises(TypeError, match="MatMul: expected inputs of one dtype, got float32 and int64"):
        leaf([[1.0]], np.float32) @ Tensor([[1]])


def test_mixed_devices_are_an_error(monkeypatch):
    """With a stand-in for CuPy: a second array type is all that the check sees."""

    class DeviceArray(np.ndarray):
        pass

    monkeypatch.setattr(
        "ministn.autodiff.function.device_of", lambda array: "gpu" if isinstance(array, DeviceArray) else "cpu"
    )
    other = Tensor(np.zeros(2))
    other.data = other.data.view(DeviceArray)
    with pytest.raises(TypeError, match="Add: expected inputs on one device, got cpu and gpu"):
        Tensor(np.zeros(2)) + other


def test_inputs_must_be_tensors():
    with pytest.raises(TypeError, match=r"Cube: expected a Tensor, got ndarray; wrap it with ministn\.tensor"):
        Cube.apply(np.zeros(2))


# --- gradcheck ------------------------------------------------------------------------------------------------------


def test_gradcheck_accepts_a_right_gradient():
    random = np.random.default_rng(0)
    a, b = leaf(random.standard_normal((3, 4))), leaf(random.standard_normal((3, 4)))
    assert ministn.gradcheck(lambda a, b: Cube.apply(a) * b, [a, b])
    assert a.grad is None  # it works on copies


def test_gradcheck_catches_a_wrong_gradient():
    class Wrong(Cube):
        def backward(self, grad_output):
            return 2 * self.x**2 * grad_output

    with pytest.raises(GradcheckError, match=r"input 0 of shape \(5,\), direction 0: backward says"):
        ministn.gradcheck(Wrong.apply, [leaf([1.0, 2.0, 3.0, 4.0, 5.0])])


def test_gradcheck_catches_one_wrong_entry_of_many():
    class Wrong(Cube):
        def backward(self, grad_output):
            grad = super().backward(grad_output)
            grad[7, 11] *= 1.01
            return grad

    x = leaf(np.random.default_rng(0).standard_normal((20, 30)))
    with pytest.raises(GradcheckError):
        ministn.gradcheck(Wrong.apply, [x])


@pytest.mark.parametrize("size", [1, 10_000])
@pytest.mark.parametrize("slope", [1e-4, 1.0, 1e4])
def test_gradcheck_measures_errors_relative_to_the_gradient(slope, size):
    """Whatever its scale, and however many entries: the bound is the tolerance, or a small multiple of it where all
    directions happen to give little."""

    def wrong_by(error):
        class Linear(Function):
            def forward(self, x):
                return slope * x.sum()

            def backward(self, grad_output):
                return np.full(size, slope * (1 + error)) * grad_output

        return lambda: ministn.gradcheck(Linear.apply, [leaf(np.zeros(size))], tolerance=1e-6)

    assert wrong_by(0.9e-6)()
    with pytest.raises(GradcheckError, match="tolerance 1e-06"):
        wrong_by(4e-6)()


def test_gradcheck_accepts_a_gradient_of_zero_and_an_empty_input():
    assert ministn.gradcheck(lambda x: x * 0, [leaf([1.0, 2.0])])
    assert ministn.gradcheck(lambda x: x.sum(), [leaf(np.zeros(0))])


def test_gradcheck_catches_a_missing_gradient_and_names_the_input():
    class Missing(Function):
        def forward(self, a, b):
            return a + b

        def backward(self, grad_output):
            return grad_output, None

    with pytest.raises(GradcheckError, match="input 1"):
        ministn.gradcheck(Missing.apply, [leaf([1.0, 2.0]), leaf([3.0, 4.0])])


def test_gradcheck_catches_nan():
    class Nan(Cube):
        def backward(self, grad_output):
            return np.full_like(grad_output, np.nan)

    with pytest.raises(GradcheckError, match="nan"):
        ministn.gradcheck(Nan.apply, [leaf([1.0, 2.0])])


def test_gradcheck_checks_only_inputs_that_ask():
    class FirstOnly(Function):
        def forward(self, a, b):
            self.b = b
            return a * b

        def backward(self, grad_output):
            return self.b * grad_output, None

    assert ministn.gradcheck(FirstOnly.apply, [leaf([1.0, 2.0]), Tensor(np.array([3.0, 4.0]))])


def test_gradcheck_refuses_float32():
    with pytest.raises(TypeError, match="gradcheck: expected float64 inputs, got float32 for input 1"):
        ministn.gradcheck(lambda a, b: a, [leaf([1.0]), leaf([1.0], np.float32)])


def test_gradcheck_needs_something_to_check():
    with pytest.raises(ValueError, match="no input requires a gradient"):
        ministn.gradcheck(Cube.apply, [Tensor(np.zeros(2))])


def test_gradcheck_keeps_the_memory_layout():
    strides = []

    class Spy(Cube):
        def forward(self, x):
            strides.append(x.strides)
            return super().forward(x)

    x = np.moveaxis(np.ascontiguousarray(np.moveaxis(np.ones((4, 2, 3)), 0, -1)), -1, 0)
    ministn.gradcheck(Spy.apply, [Tensor(x, requires_grad=True)])
    assert strides[0] == x.strides


def test_a_scalar_is_a_number():
    assert float(Tensor(2.5)) == 2.5
    assert int(Tensor(3)) == 3
    assert bool(Tensor(1.0))
    assert not bool(Tensor([0.0]))
    with pytest.raises(ValueError, match="ambiguous"):
        bool(Tensor([1.0, 2.0]))


def test_going_through_a_tensor():
    x = Tensor([[1.0, 2.0], [3.0, 4.0]])
    np.testing.assert_array_equal(sum(x).data, [4, 6])
    assert [row.shape for row in x] == [(2,), (2,)]
    for what in (len, iter, sum):
        with pytest.raises(TypeError, match="expected a tensor with an axis to count or iterate along, got one"):
            what(Tensor(3.0))


def test_numpy_reads_a_tensor():
    tensor = Tensor(np.arange(3.0))
    np.testing.assert_array_equal(np.asarray(tensor), [0, 1, 2])
    assert np.asarray(tensor, dtype=np.float32).dtype == np.float32
    with pytest.raises(RuntimeError, match="detach"):
        np.asarray(Tensor(np.arange(3.0), requires_grad=True))


def test_a_tensor_of_a_tensor_shares_its_data():
    inner = Tensor(np.arange(3.0))
    assert Tensor(inner, requires_grad=True).data is inner.data
