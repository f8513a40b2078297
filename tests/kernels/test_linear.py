"""linear: tiles, BLAS and CuPy's products against sums in float64, gradients, adjoint identities, layouts, threads."""

import numpy as np
import pytest
from implementations import KERNELS, kernels

import ministn
from ministn import Tensor, gradcheck
from ministn.backend import implementation
from ministn.kernels.linear import cpu, linear

DTYPES = [np.float32, np.float64]
# N, I, O: the first is left to BLAS; the others are large enough for tiles and multiples of nothing
SHAPES = [(5, 3, 4), (37, 101, 83), (64, 784, 7), (130, 33, 71), (33, 32, 300)]
LAYOUTS = {
    "batch-last": lambda x: np.asfortranarray(x),
    "rows": lambda x: x,
    "gaps": lambda x: np.repeat(x, 2, 1)[:, ::2],
}


def loops():
    """The implementation that serves NumPy arrays at present."""
    return implementation("ministn.kernels.linear", np.empty(0))


def draw(shape, dtype, seed=0):
    """x, weight, bias and a gradient with entries of size 1."""
    N, I, O = shape  # noqa: E741
    uniform = np.random.default_rng(seed).uniform
    return [uniform(-1, 1, size).astype(dtype) for size in ((N, I), (O, I), (O,), (N, O))]


@pytest.mark.parametrize("name", KERNELS)
def test_hand_worked_example(name):
    """The example of the family's README."""
    x, weight, bias = (
        Tensor(np.array(values), requires_grad=True) for values in ([[1.0, 2]], [[3.0, -1], [0, 4]], [1.0, 0])
    )
    with kernels(name):
        y = linear(x, weight, bias)
        y.backward(np.array([[1.0, 2]]))
    np.testing.assert_array_equal(y.data, [[2, 8]])
    np.testing.assert_array_equal(x.grad.data, [[3, 7]])
    np.testing.assert_array_equal(weight.grad.data, [[1, 2], [2, 4]])
    np.testing.assert_array_equal(bias.grad.data, [1, 2])


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("grad_layout", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_equals_sums_in_double_precision(dtype, shape, grad_layout, layout, name):
    x, weight, bias, g = draw(shape, dtype)
    x, g = LAYOUTS[layout](x), LAYOUTS[grad_layout](g)
    wide = [a.astype(np.longdouble) for a in (x, weight, bias, g)]
    expected = (
        np.einsum("ni,oi->no", *wide[:2]) + wide[2],
        np.einsum("no,oi->ni", wide[3], wide[1]),
        np.einsum("no,ni->oi", wide[3], wide[0]),
        wide[3].sum(axis=0),
    )
    with kernels(name):
        results = loops().forward(x, weight, bias), *loops().backward(g, x, weight)
    for result, value in zip(results, expected, strict=True):
        assert result.dtype == dtype
        # at worst eps for each term of the sum, and each is below 1
        np.testing.assert_allclose(result, value, rtol=0, atol=4 * np.finfo(dtype).eps * max(shape))


@pytest.mark.parametrize("dtype", DTYPES)
def test_which_go_through_the_tiles(dtype):
    """Else the tests would compare BLAS with BLAS; and what fills no vector must not."""
    lanes = cpu._lanes(2, np.dtype(dtype))
    for shape in SHAPES:
        x, weight, _, _ = draw(shape, dtype)
        assert cpu._worth_tiles(np.asfortranarray(x), weight, lanes) == (shape != SHAPES[0])
        assert not cpu._worth_tiles(np.ascontiguousarray(x), weight, lanes)
    for shape in ((3, 300, 400), (300, 3, 400)):
        x, weight, bias, g = draw(shape, dtype)
        results = cpu.forward(np.asfortranarray(x), weight, bias), *cpu.backward(g, np.asfortranarray(x), weight)
        for result, value in zip(results, (x @ weight.T + bias, g @ weight, g.T @ x, g.sum(0)), strict=True):
            np.testing.assert_allclose(result, value, rtol=0, atol=4 * np.finfo(dtype).eps * max(shape))


@pytest.mark.parametrize("shape", SHAPES)
def test_adjoint_identity(shape):
    """<g, x W^T> = <dx, x> = <dW, W>: each gradient is the adjoint of a linear map."""
    x, weight, _, g = draw(shape, np.float64)
    x = np.asfortranarray(x)
    dx, dw, _ = cpu.backward(g, x, weight)
    product = np.vdot(g, cpu.forward(x, weight, None))
    scale = np.linalg.norm(g) * np.linalg.norm(x) * np.linalg.norm(weight)
    assert abs(product - np.vdot(dx, x)) < 1e-12 * scale
    assert abs(product - np.vdot(dw, weight)) < 1e-12 * scale


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("shape", [(5, 3, 4), (33, 90, 101)])
def test_gradcheck(shape, name):
    x, weight, bias, _ = draw(shape, np.float64)
    inputs = [Tensor(a, requires_grad=True) for a in (np.asfortranarray(x), weight, bias)]
    with kernels(name):
        assert gradcheck(linear, inputs)
        assert gradcheck(linear, inputs[:2])


@pytest.mark.parametrize("needs_grad", [(True, False, False), (False, True, False), (False, False, True), (True, True)])
@pytest.mark.parametrize("shape", SHAPES[:2])
@pytest.mark.parametrize("name", KERNELS)
def test_only_what_is_needed(name, shape, needs_grad):
    x, weight, _, g = draw(shape, np.float32)
    x = np.asfortranarray(x)
    with kernels(name):
        found = [gradient is not None for gradient in loops().backward(g, x, weight, needs_grad)]
    assert found == [*needs_grad, False][:3]


@pytest.mark.parametrize("name", ["cpu", "reference"])  # results of the others come back as copies
def test_the_memory_order_is_that_of_the_input(name):
    x, weight, bias, g = draw(SHAPES[1], np.float32)
    with kernels(name):
        for layout in ("batch-last", "rows"):
            tensor = Tensor(LAYOUTS[layout](x), requires_grad=True)
            y = linear(tensor, Tensor(weight), Tensor(bias))
            y.backward(g)
            assert y.data.flags.f_contiguous == tensor.grad.data.flags.f_contiguous == (layout == "batch-last")


def test_nan_stays_in_its_image():
    x, weight, bias, g = draw(SHAPES[1], np.float32)
    x[7, 3] = np.nan
    y = cpu.forward(np.asfortranarray(x), weight, bias)
    assert np.isnan(y[7]).all()
    assert np.isfinite(np.delete(y, 7, axis=0)).all()
    _, dw, _ = cpu.backward(g, np.asfortranarray(x), weight)
    assert np.isnan(dw[:, 3]).all()
    assert np.isfinite(np.delete(dw, 3, axis=1)).all()


@pytest.mark.usefixtures("more_threads_than_one")
@pytest.mark.parametrize("shape", SHAPES)
def test_same_bits_for_any_number_of_threads(shape):
    x, weight, bias, g = draw(shape, np.float32)
    x = np.asfortranarray(x)

    def results():
        return cpu.forward(x, weight, bias), *cpu.backward(g, x, weight)

    before, many = ministn.get_num_threads(), results()
    ministn.set_num_threads(1)
    try:
        one = results()
    finally:
        ministn.set_num_threads(before)
    for a, b in zip(many, one, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("shape", [(0, 3, 4), (0, 784, 256)])
def test_no_images(shape, name):
    x, weight, bias, g = draw(shape, np.float32)
    with kernels(name):
        y, (dx, dw, db) = loops().forward(x, weight, bias), loops().backward(g, x, weight)
    assert y.shape == (0, shape[2])
    assert dx.shape == x.shape
    np.testing.assert_array_equal(dw, np.zeros_like(weight))
    np.testing.assert_array_equal(db, np.zeros_like(bias))
