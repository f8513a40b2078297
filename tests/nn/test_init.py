"""Initial values: bounds, moments and the seed."""

import math

import numpy as np
import pytest

import ministn
from ministn import Tensor, nn
from ministn.nn import init

SHAPE = (40, 30, 5, 3)  # fan_in 450, fan_out 600; 18000 draws
FAN_IN, FAN_OUT = 450, 600


def empty(shape=SHAPE, dtype=np.float32):
    return Tensor(np.full(shape, np.nan, dtype))


def test_fans_and_constants():
    assert init.fans(empty()) == (FAN_IN, FAN_OUT)
    assert init.fans(empty((7, 4))) == (4, 7)
    np.testing.assert_array_equal(init.zeros_(empty((2, 3))).numpy(), np.zeros((2, 3)))
    np.testing.assert_array_equal(init.ones_(empty((2, 3))).numpy(), np.ones((2, 3)))
    np.testing.assert_array_equal(init.constant_(empty((2, 3)), -1.5).numpy(), np.full((2, 3), -1.5))


@pytest.mark.parametrize(
    ("fill", "bound"),
    [
        (lambda t: init.uniform_(t, -3, 3), 3),
        (init.xavier_uniform_, math.sqrt(6 / (FAN_IN + FAN_OUT))),
        (lambda t: init.xavier_uniform_(t, gain=2), 2 * math.sqrt(6 / (FAN_IN + FAN_OUT))),
        (init.kaiming_uniform_, math.sqrt(6 / FAN_IN)),
        (lambda t: init.kaiming_uniform_(t, a=math.sqrt(5)), 1 / math.sqrt(FAN_IN)),
        (lambda t: init.kaiming_uniform_(t, mode="fan_out", nonlinearity="tanh"), 5 / 3 * math.sqrt(3 / FAN_OUT)),
    ],
)
def test_uniform_draws_fill_their_interval(fill, bound):
    ministn.manual_seed(1)
    values = fill(empty()).numpy()
    assert values.dtype == np.float32
    assert np.abs(values).max() <= bound * (1 + 1e-6)  # rounding to float32
    assert np.abs(values).max() > 0.999 * bound  # 18000 draws miss the outer 0.1 % with probability e^-18
    # The variance of n draws is off by about sqrt(0.8 / n) = 0.7 % (one standard deviation): 4 of them.
    assert values.var() == pytest.approx(bound**2 / 3, rel=0.03)


@pytest.mark.parametrize(
    ("fill", "std"),
    [
        (lambda t: init.normal_(t, 0, 0.5), 0.5),
        (init.xavier_normal_, math.sqrt(2 / (FAN_IN + FAN_OUT))),
        (lambda t: init.kaiming_normal_(t, nonlinearity="relu"), math.sqrt(2 / FAN_IN)),
        (lambda t: init.kaiming_normal_(t, mode="fan_out", nonlinearity="linear"), 1 / math.sqrt(FAN_OUT)),
    ],
)
def test_normal_draws_have_their_deviation(fill, std):
    ministn.manual_seed(2)
    values = fill(empty()).numpy()
    # Mean and deviation are off by std / sqrt(n) and std / sqrt(2 n), n = 18000: four of these.
    assert values.mean() == pytest.approx(0, abs=0.03 * std)
    assert values.std() == pytest.approx(std, rel=0.022)


def test_the_seed_gives_the_same_weights_in_both_dtypes():
    drawn = []
    for dtype in (np.float32, np.float64):
        ministn.manual_seed(3)
        drawn.append(init.uniform_(empty((5, 4), dtype)).numpy())
    np.testing.assert_array_equal(drawn[0], drawn[1].astype(np.float32))


@pytest.mark.parametrize(
    ("layer", "fan_in"), [(lambda: nn.Linear(300, 60), 300), (lambda: nn.Conv2d(12, 60, (3, 7)), 12 * 21)]
)
def test_layers_start_as_pytorchs_do(layer, fan_in):
    ministn.manual_seed(4)
    module, bound = layer(), 1 / math.sqrt(fan_in)
    weight, bias = (np.abs(parameter.detach().numpy()) for parameter in (module.weight, module.bias))
    assert 0.99 * bound < weight.max() <= bound * (1 + 1e-6)  # over 15000 draws
    assert 0.8 * bound < bias.max() <= bound * (1 + 1e-6)  # 60 draws miss the outer fifth with probability 1.5e-6


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match=r"fans: expected a weight of shape \(out, in, ...\), got \(3,\)"):
        init.kaiming_uniform_(empty((3,)))
    with pytest.raises(ValueError, match="kaiming_normal_: expected mode 'fan_in' or 'fan_out', got 'fan'"):
        init.kaiming_normal_(empty(), mode="fan")
    with pytest.raises(ValueError, match=r"nonlinearity to be one of linear, .*, leaky_relu, got 'swish'"):
        init.kaiming_uniform_(empty(), nonlinearity="swish")
