"""The elementwise loops against the whole-array expressions, in every order of memory."""

import numpy as np
import pytest

from ministn import Tensor, optim
from ministn.backend import use_kernels
from ministn.ops.elementwise import cpu, cuda, reference

DTYPES = [np.float32, np.float64]
LAYOUTS = {
    "C": lambda x: x,
    "batch-last": lambda x: np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 0, -1)), -1, 0),
    "gaps": lambda x: np.repeat(x, 2, axis=1)[:, ::2],
    "one number": lambda x: np.broadcast_to(x[:1, :1, :1], x.shape),
}


def numbers(seed, dtype, shape=(5, 4, 7)):
    x = np.random.default_rng(seed).standard_normal(shape).astype(dtype)
    x.flat[3:9] = [0.0, -0.0, np.inf, -np.inf, np.nan, -np.nan]
    return x


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_relu(layout, dtype):
    x = LAYOUTS[layout](numbers(0, dtype))
    y = cpu.relu(x)
    assert y.dtype == dtype
    np.testing.assert_array_equal(y, reference.relu(x))
    np.testing.assert_array_equal(y[np.isfinite(x)], np.where(x > 0, x, 0)[np.isfinite(x)])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("grad_layout", LAYOUTS)
def test_relu_gradient(layout, grad_layout, dtype):
    y, g = reference.relu(LAYOUTS[layout](numbers(0, dtype))), LAYOUTS[grad_layout](numbers(1, dtype))
    dx = cpu.relu_gradient(g, y)
    assert dx.dtype == dtype
    np.testing.assert_array_equal(dx, reference.relu_gradient(g, y))
    np.testing.assert_array_equal(dx, np.where(y > 0, g, 0))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", ["C", "batch-last"])
@pytest.mark.parametrize("shape", [(33, 3, 5, 4), (64, 2, 3, 5), (2, 3, 1, 1), (0, 2, 3, 3)])
def test_formulas_of_images(shape, layout, dtype):
    """Four axes: rows of images are shared out."""
    draw = np.random.default_rng(0).standard_normal
    x, g = (LAYOUTS[layout](draw(shape).astype(dtype)) for _ in range(2))
    scale = draw((*shape[:2], 1, 1)).astype(dtype)
    results = cpu.relu(x), cpu.relu_gradient(g, x), cpu.scaled(x, scale)
    for result, expected in zip(results, (np.where(x > 0, x, 0), np.where(x > 0, g, 0), x * scale), strict=True):
        assert result.dtype == dtype
        np.testing.assert_array_equal(result, expected)


def test_relu_of_integers_and_of_a_single_number():
    np.testing.assert_array_equal(cpu.relu(np.array([-2, 0, 3])), [0, 0, 3])
    assert cpu.relu(np.array(-2.0)).shape == ()


def optimisers(params):
    return {
        "SGD": lambda: optim.SGD(params, lr=0.1),
        "momentum": lambda: optim.SGD(params, lr=0.1, momentum=0.9, weight_decay=0.01),
        "nesterov": lambda: optim.SGD(params, lr=0.1, momentum=0.9, nesterov=True),
        "Adam": lambda: optim.Adam(params, lr=0.1, weight_decay=0.01),
        "AdamW": lambda: optim.AdamW(params, lr=0.1),
    }


def trained(name, layout, grad_layout, dtype, kernels):
    """A parameter after two steps, a reload of the optimiser's state (which loses its memory order), and a third."""
    rng = np.random.default_rng(0)
    param = Tensor(LAYOUTS[layout](rng.standard_normal((5, 4, 7)).astype(dtype)), requires_grad=True)
    optimiser = optimisers([param])[name]()
    with use_kernels(kernels):
        for step in range(3):
            param.grad = Tensor(LAYOUTS[grad_layout](rng.standard_normal((5, 4, 7)).astype(dtype)))
            if step == 2:
                optimiser.load_state_dict(optimiser.state_dict())
            optimiser.step()
    return param.data


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", ["C", "batch-last", "gaps"])
@pytest.mark.parametrize("grad_layout", LAYOUTS)
@pytest.mark.parametrize("name", optimisers([]))
def test_optimiser_steps(name, layout, grad_layout, dtype):
    moved = trained(name, layout, grad_layout, dtype, "cpu")
    assert moved.dtype == dtype
    np.testing.assert_array_equal(
        moved, trained(name, "C", "C", dtype, "cpu") if grad_layout != "one number" else moved
    )
    expected = trained(name, layout, grad_layout, dtype, "reference")
    np.testing.assert_allclose(moved, expected, rtol=1e-5 if dtype == np.float32 else 1e-12)


def test_cupy_arrays_run_the_same_expressions():
    assert all(getattr(cuda, name) is getattr(reference, name) for name in cuda.__all__)
    assert set(cuda.__all__) == {name for name in dir(cpu) if callable(getattr(cpu, name)) and name in dir(reference)}
