"""Gradient clipping, where gradient arrays are shared or read-only."""

import numpy as np
import pytest

from ministn import Tensor, nn
from ministn.nn.utils import clip_grad_norm_, clip_grad_value_


def with_gradient(*values):
    parameter = nn.Parameter(np.zeros(len(values), np.float32))
    parameter.grad = Tensor(np.array(values, np.float32))
    return parameter


def test_norm_over_all_parameters_together():
    first, second, without = with_gradient(3.0, 0.0), with_gradient(-4.0), nn.Parameter([1.0])
    norm = clip_grad_norm_([first, second, without], 1.0)
    assert norm == 5
    # Factor 1 / (5 + 1e-6), rounded to float32.
    np.testing.assert_allclose(first.grad.numpy(), [0.6, 0], rtol=1e-6)
    np.testing.assert_allclose(second.grad.numpy(), [-0.8], rtol=1e-6)
    assert first.grad.dtype == np.float32
    assert without.grad is None


def test_a_short_gradient_is_left_alone():
    parameter = with_gradient(3.0, 4.0)
    before = parameter.grad
    assert clip_grad_norm_(parameter, 6.0) == 5
    assert parameter.grad is before


def test_shared_and_read_only_gradients_are_not_written_to():
    shared = np.broadcast_to(np.float32(2), (4,))
    first, second = nn.Parameter(np.zeros(4, np.float32)), nn.Parameter(np.zeros(4, np.float32))
    first.grad, second.grad = Tensor(shared), Tensor(shared)
    clip_grad_norm_([first], 1.0)
    np.testing.assert_allclose(first.grad.numpy(), np.full(4, 0.5), rtol=1e-6)  # norm 4
    clip_grad_value_([first], 0.25)
    np.testing.assert_array_equal(first.grad.numpy(), np.full(4, 0.25))
    np.testing.assert_array_equal(second.grad.numpy(), np.full(4, 2))


def test_values_are_limited_on_both_sides():
    parameter = with_gradient(-3.0, 0.5, 2.0)
    clip_grad_value_([parameter], 1.0)
    np.testing.assert_array_equal(parameter.grad.numpy(), [-1, 0.5, 1])
    assert parameter.grad.dtype == np.float32


def test_large_float32_gradients_do_not_overflow():
    parameter = with_gradient(3e30, 4e30)
    assert clip_grad_norm_(parameter, 1.0) == pytest.approx(5e30, rel=1e-6)  # float32 rounding of the entries
    np.testing.assert_allclose(parameter.grad.numpy(), [0.6, 0.8], rtol=1e-6)


def test_no_gradient_at_all_and_nan():
    assert clip_grad_norm_([nn.Parameter([1.0])], 1.0) == 0
    parameter = with_gradient(np.nan, 1.0)
    assert np.isnan(clip_grad_norm_(parameter, 1.0))
    assert np.isnan(parameter.grad.numpy()).all()


def test_a_negative_limit_is_refused():
    with pytest.raises(ValueError, match="clip_grad_norm_: expected max_norm to be at least 0, got -1"):
        clip_grad_norm_([], -1)
    with pytest.raises(ValueError, match="clip_grad_value_: expected clip_value to be at least 0, got -1"):
        clip_grad_value_([], -1)


def test_norm_equals_pytorchs():
    torch = pytest.importorskip("torch")
    random = np.random.default_rng(0)
    ours = [nn.Parameter(np.zeros(shape)) for shape in [(3, 4), (5,), ()]]
    theirs = [torch.zeros(parameter.shape, dtype=torch.float64, requires_grad=True) for parameter in ours]
    for our, their in zip(ours, theirs, strict=True):
        our.grad = Tensor(np.asarray(random.standard_normal(our.shape)))
        their.grad = torch.tensor(our.grad.numpy())
    norm = torch.nn.utils.clip_grad_norm_(theirs, 0.5).item()
    assert clip_grad_norm_(ours, 0.5) == pytest.approx(norm, rel=1e-12)  # float64 sums in another order
    for our, their in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(our.grad.numpy(), their.grad.numpy(), rtol=1e-12)
