"""The contract of a kernel family, for soft thresholding: python -m pytest examples/own_kernel"""

import numpy as np
import pytest

import ministn
from ministn import gradcheck, tensor
from own_kernel.op import soft_threshold

KERNELS = ["cpu", "reference"]


def example(dtype=np.float64):
    """Odd sizes, none of them square, and no value within 0.01 of a kink."""
    random = np.random.default_rng(0)
    threshold = np.array([0.2, 0.5, 0.9], dtype)
    x = random.normal(size=(2, 3, 5, 7))
    distance = np.abs(x) - threshold[:, None, None]
    x += np.sign(x) * np.where(np.abs(distance) < 0.01, 0.02, 0)
    return x.astype(dtype), threshold, random.normal(size=x.shape).astype(dtype)


def results(name, x, threshold, g):
    x, threshold = tensor(x, requires_grad=True), tensor(threshold, requires_grad=True)
    with ministn.use_kernels(name):
        y = soft_threshold(x, threshold)
        y.backward(g)
    return y.data, x.grad.data, threshold.grad.data


@pytest.mark.parametrize("name", KERNELS)
def test_hand_worked_example(name):
    x = np.array([[[[3.0, 0.5, -2.0]]]])
    y, grad_x, grad_threshold = results(name, x, np.array([1.0]), np.array([[[[1.0, 10, 100]]]]))
    np.testing.assert_array_equal(y, [[[[2, 0, -1]]]])
    np.testing.assert_array_equal(grad_x, [[[[1, 0, 100]]]])
    np.testing.assert_array_equal(grad_threshold, [-1 + 100])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_loops_equal_the_reference(dtype):
    got, expected = (results(name, *example(dtype)) for name in KERNELS)
    np.testing.assert_array_equal(got[0], expected[0])
    np.testing.assert_array_equal(got[1], expected[1])
    # A sum of 70 numbers near 1, in another order.
    np.testing.assert_allclose(got[2], expected[2], rtol=0, atol=100 * np.finfo(dtype).eps)
    assert {array.dtype for array in got} == {np.dtype(dtype)}


@pytest.mark.parametrize("name", KERNELS)
def test_gradients_equal_finite_differences(name):
    x, threshold, _ = example()
    with ministn.use_kernels(name):
        assert gradcheck(soft_threshold, [tensor(x, requires_grad=True), tensor(threshold, requires_grad=True)])


@pytest.mark.parametrize("name", KERNELS)
def test_slopes_on_the_kinks_are_zero(name):
    x = np.array([[[[1.0, -1.0, 0.0]]]])
    _, grad_x, grad_threshold = results(name, x, np.array([1.0]), np.ones((1, 1, 1, 3)))
    np.testing.assert_array_equal(grad_x, np.zeros((1, 1, 1, 3)))
    np.testing.assert_array_equal(grad_threshold, [0])


def test_input_in_any_memory_order():
    x, threshold, g = example()
    turned = np.ascontiguousarray(x.transpose(1, 2, 3, 0)).transpose(3, 0, 1, 2)  # batch-last
    for got, expected in zip(results("cpu", turned, threshold, g), results("cpu", x, threshold, g), strict=True):
        np.testing.assert_array_equal(got, expected)


def test_bad_input_is_named():
    x = tensor(np.zeros((2, 3, 4, 5)))
    with pytest.raises(ValueError, match=r"a threshold of shape \(C,\), got \(2, 3, 4, 5\) and \(4,\)"):
        soft_threshold(x, tensor(np.zeros(4)))
    with pytest.raises(ValueError, match=r"no negative threshold, got -1"):
        soft_threshold(x, tensor(np.array([0.0, -1, 0])))
