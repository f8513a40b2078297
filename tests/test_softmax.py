"""log_softmax and the look-up by labels: every implementation against SciPy, at extremes, and bad labels."""

import numpy as np
import pytest
from implementations import KERNELS, kernels

import ministn.functional as F
from ministn import Tensor, backend

TOLERANCES = {np.float32: 1e-6, np.float64: 1e-14}  # a few roundings of numbers up to about 10


def loops():
    return backend.implementation("ministn.ops.softmax", np.empty(0))


def draw(*shape, dtype=np.float64, seed=0):
    return (3 * np.random.default_rng(seed).standard_normal(shape)).astype(dtype)


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize(("shape", "axis"), [((5, 10), 1), ((3, 4, 2), 1), ((7, 3), 0), ((4,), 0), ((2, 1), -1)])
@pytest.mark.parametrize("name", KERNELS)
def test_equals_scipy(name, shape, axis, dtype):
    special = pytest.importorskip("scipy.special")
    x, g = draw(*shape, dtype=dtype), draw(*shape, dtype=dtype, seed=1)
    with kernels(name):
        y = loops().log_softmax(x, axis)
        dx = loops().log_softmax_gradient(g, y, axis)
    expected = special.log_softmax(x.astype(np.float64), axis)
    slope = g - np.exp(expected) * g.sum(axis=axis, keepdims=True, dtype=np.float64)
    assert y.dtype == dx.dtype == dtype
    np.testing.assert_allclose(y, expected, rtol=0, atol=20 * TOLERANCES[dtype])
    np.testing.assert_allclose(dx, slope, rtol=0, atol=40 * TOLERANCES[dtype])


@pytest.mark.parametrize("name", KERNELS)
def test_nothing_overflows_and_a_nan_stays_in_its_row(name):
    x = np.array([[1e30, 0, -1e30], [np.nan, 1, 2], [-1e4, 0, 1e4]], np.float32)
    with kernels(name):
        y = loops().log_softmax(x, 1)
    np.testing.assert_array_equal(y[0], [0, -np.float32(1e30), -np.float32(2e30)])
    assert np.isnan(y[1]).all()
    np.testing.assert_array_equal(y[2], [-2e4, -1e4, 0])


@pytest.mark.parametrize("name", KERNELS)
def test_no_numbers_along_the_axis(name):
    """Nothing comes of nothing, as in PyTorch; the operation asks no loop, and no NumPy for a largest of none."""
    with kernels(name):
        for function in (F.softmax, F.log_softmax):
            x = Tensor(np.empty((3, 0)), requires_grad=True)
            y = function(x, dim=1)
            y.sum().backward()
            assert y.shape == x.grad.shape == (3, 0)


@pytest.mark.parametrize("label_dtype", [np.int64, np.int32, np.uint8])
@pytest.mark.parametrize("name", KERNELS)
def test_look_up_and_its_adjoint(name, label_dtype):
    table, labels, values = draw(6, 4), np.array([3, 0, 0, 2, 1, 3], label_dtype), draw(6, seed=2)
    with kernels(name):
        picked = loops().picked(table, labels)
        placed = loops().placed(values, labels, (6, 4))
        ones = loops().placed(np.array(1.0), labels, (6, 4))
    np.testing.assert_array_equal(ones, np.eye(4)[labels])
    np.testing.assert_array_equal(picked, [table[n, label] for n, label in enumerate(labels)])
    expected = np.zeros((6, 4))
    for n, label in enumerate(labels):
        expected[n, label] = values[n]
    np.testing.assert_array_equal(placed, expected)


@pytest.mark.parametrize("name", [name for name in KERNELS if name not in ("cpu", "reference")])
def test_on_the_gpu_a_label_that_is_no_class_gives_nan(name):
    with kernels(name):
        picked = loops().picked(draw(3, 4), np.array([1, 4, -1]))
        placed = loops().placed(draw(3), np.array([1, 4, -1]), (3, 4))
    np.testing.assert_array_equal(np.isnan(picked), [False, True, True])
    assert np.count_nonzero(placed) == 1
