"""detect_anomaly: which operation made the first NaN, and from what."""

import numpy as np
import pytest

import ministn
import ministn.functional as F
from ministn import AnomalyError, Tensor, detect_anomaly, nn


def test_the_forward_pass_names_the_operation_and_what_went_in():
    x = Tensor([1.0, np.inf, 2.0], requires_grad=True)
    with detect_anomaly(), np.errstate(invalid="ignore"), pytest.raises(AnomalyError) as caught:
        F.relu(x - x)
    assert str(caught.value) == (
        "Subtract.forward: NaN in the output (shape (3,), 1 NaN, 0 infinite), computed from "
        "input 0 (shape (3,), 0 NaN, 1 infinite), input 1 (shape (3,), 0 NaN, 1 infinite)"
    )


def test_the_backward_pass_names_the_gradient():
    x = Tensor([0.0, 1.0], requires_grad=True)
    with detect_anomaly([("x", x)]):
        y = (x**0.5) * Tensor([0.0, 1.0])  # the slope of the root at 0 is infinite, and comes to 0 times it
        with (
            np.errstate(divide="ignore", invalid="ignore"),
            pytest.raises(AnomalyError, match=r"Power.backward: NaN in the gradient of input 0 \(shape \(2,\), 1 NaN"),
        ):
            y.backward(Tensor([1.0, 1.0]))
    with detect_anomaly([("x", x)]), pytest.raises(AnomalyError, match=r"computed from input 0 \(x, shape \(2,\)"):
        _ = x + Tensor([np.nan, 1.0])


def test_parameters_are_called_by_name():
    layer = nn.Linear(2, 1)
    layer.bias.data[0] = np.nan
    with (
        detect_anomaly(layer.named_parameters()),
        pytest.raises(AnomalyError, match=r"Linear.forward: .*input 2 \(bias, shape \(1,\), 1 NaN, 0 infinite\)"),
    ):
        layer(Tensor(np.ones((1, 2), np.float32)))


def test_infinities_and_integers_are_no_anomaly():
    with detect_anomaly(), np.errstate(divide="ignore"):
        assert F.log(Tensor([0.0])).item() == -np.inf
        assert Tensor([1, 2]).sum().item() == 3


def test_nothing_is_checked_outside_the_block():
    with pytest.raises(RuntimeError, match="leave"), detect_anomaly():
        raise RuntimeError("leave")
    assert np.isnan((Tensor([np.nan]) + 1).item())


def test_a_training_step_finds_the_layer():
    """The NaN of one weight in the middle of a network, though only the loss is looked at."""
    ministn.manual_seed(0)
    model = ministn.nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    model[2].weight.data[1, 0] = np.nan
    with detect_anomaly(model.named_parameters()), pytest.raises(AnomalyError, match=r"^Linear.forward.*2\.weight"):
        F.cross_entropy(model(Tensor(np.ones((5, 3), np.float32))), [0, 1, 0, 1, 0])
