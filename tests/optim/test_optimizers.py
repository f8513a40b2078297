"""Optimisers by hand: formulas, groups, dtypes, state, messages. Whole runs are compared in test_optim_torch.py."""

import json
import math

import numpy as np
import pytest

from ministn import Tensor, nn
from ministn.optim import SGD, Adam, AdamW


def parameter(*values, grad=None, dtype=np.float64):
    result = nn.Parameter(np.array(values, dtype))
    result.grad = None if grad is None else Tensor(np.array(grad, dtype))
    return result


def test_sgd_by_hand():
    w = parameter(1.0, 2.0, grad=[10, -20])
    optimizer = SGD([w], lr=0.125, momentum=0.5)
    optimizer.step()  # b = g = (10, -20)
    np.testing.assert_array_equal(w.data, [-0.25, 4.5])
    optimizer.step()  # b = 0.5 b + g = (15, -30)
    np.testing.assert_array_equal(w.data, [-2.125, 8.25])


def test_nesterov_and_weight_decay_by_hand():
    w = parameter(4.0, grad=[1])
    SGD([w], lr=0.25, momentum=0.5, weight_decay=0.5, nesterov=True).step()
    assert w.data[0] == 4 - 0.25 * (3 + 0.5 * 3)  # g = 1 + 0.5 * 4 = 3, b = g


def test_the_first_step_of_adam_has_the_length_of_the_rate():
    w = parameter(1.0, 1.0, grad=[1e-3, -1e3])
    Adam([w], lr=0.01, eps=0).step()
    np.testing.assert_allclose(w.data, [0.99, 1.01], rtol=1e-14)  # g / |g|, by rounding


def test_adamw_decays_by_the_rate_alone():
    w = parameter(2.0, grad=[0])
    AdamW([w], lr=0.5, weight_decay=0.25).step()
    assert w.data[0] == 2 * (1 - 0.5 * 0.25)


def test_sgd_by_position_and_by_default():
    w = parameter(1.0)
    assert SGD([w]).defaults == {"lr": 1e-3, "momentum": 0, "weight_decay": 0, "nesterov": False}
    assert SGD([w], 0.1, 0.9).defaults["momentum"] == 0.9
    with pytest.raises(TypeError, match="positional arguments"):
        SGD([w], 0.1, 0.9, 0.1)  # PyTorch's dampening


def test_groups_have_their_own_rates():
    slow, fast = parameter(1.0, grad=[1]), parameter(1.0, grad=[1])
    optimizer = SGD([{"params": [slow], "lr": 0.25}, {"params": fast}], lr=0.5)
    optimizer.step()
    assert (slow.data[0], fast.data[0]) == (0.75, 0.5)
    assert [group["lr"] for group in optimizer.param_groups] == [0.25, 0.5]


@pytest.mark.parametrize(
    "make",
    [
        lambda p: SGD(p, lr=np.float64(0.1), momentum=0.9, weight_decay=0.1, nesterov=True),
        lambda p: Adam(p, lr=np.float64(0.1), weight_decay=0.1),
        lambda p: AdamW(p, lr=np.float64(0.1)),
    ],
)
def test_float32_stays_float32_in_place_and_gradients_are_not_written_to(make):
    w, scalar = parameter(1.0, 2.0, dtype=np.float32), nn.Parameter(3.0)
    gradient = np.broadcast_to(np.float32(0.5), (2,))  # read-only, as the backward of a sum gives
    w.grad, scalar.grad = Tensor(gradient), Tensor(np.float32(0.5))
    memory = w.data
    optimizer = make([w, scalar])
    for _ in range(3):
        optimizer.step()
    assert w.data is memory
    assert w.data.dtype == scalar.data.dtype == np.float32
    assert (w.data < [1, 2]).all()
    assert scalar.data < 3
    np.testing.assert_array_equal(gradient, [0.5, 0.5])
    for values in optimizer.state.values():
        assert {value.dtype for value in values.values() if isinstance(value, np.ndarray)} == {np.dtype(np.float32)}


def test_the_momentum_is_not_the_gradients_memory():
    first, second = parameter(1.0), parameter(1.0)
    first.grad = second.grad = Tensor(np.array([1.0]))
    optimizer = SGD([first, second], lr=0.5, momentum=0.5)
    optimizer.step()
    optimizer.step()
    assert first.grad.data[0] == 1
    np.testing.assert_array_equal([first.data[0], second.data[0]], [1 - 0.5 - 0.75, 1 - 0.5 - 0.75])


def test_parameters_without_a_gradient_stay():
    moved, still = parameter(1.0, grad=[1]), parameter(1.0)
    optimizer = Adam([moved, still], lr=0.1, weight_decay=0.1)
    optimizer.step()
    assert still.data[0] == 1
    assert list(optimizer.state_dict()["state"]) == [0]
    optimizer.zero_grad()
    assert moved.grad is None


MAKERS = {
    "sgd": lambda p, **o: SGD(p, **{"lr": 0.05, "momentum": 0.9, **o}),
    "plain sgd": lambda p, **o: SGD(p, **{"lr": 0.05, **o}),
    "adam": lambda p, **o: Adam(p, **{"lr": 0.05, "weight_decay": 0.01, **o}),
    "adamw": lambda p, **o: AdamW(p, **{"lr": 0.05, **o}),
}


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize(
    ("gradient", "got"),
    [
        (np.full(1, 5, np.float32), r"\(1,\) and float32"),
        (np.ones((64, 1), np.float32), r"\(64, 1\) and float32"),
        (np.ones(64), r"\(64,\) and float64"),
    ],
    ids=["length", "axes", "dtype"],
)
def test_a_gradient_that_does_not_fit_moves_nothing(name, gradient, got):
    """Loops over the numbers of the parameter would read behind the end of a shorter gradient."""
    first, second = parameter(1.0, grad=[1]), parameter(*range(64), dtype=np.float32)
    second.grad = Tensor(gradient)
    message = r"gradient of parameter 1 to have shape \(64,\) and dtype float32 on the cpu, got " + got + " on the cpu"
    with pytest.raises(ValueError, match=message):
        MAKERS[name]([first, second]).step()
    assert first.data[0] == 1
    np.testing.assert_array_equal(second.data, np.arange(64))


@pytest.mark.parametrize("name", MAKERS)
def test_a_run_continues_from_its_state_bit_for_bit(name):
    def step(optimizer, weights, count):
        for _ in range(count):
            for w in weights:
                w.grad = Tensor(np.cos(w.data))
            optimizer.step()

    weights = [parameter(1.0, 2.0), parameter(3.0)]
    optimizer = MAKERS[name]([{"params": weights[:1]}, {"params": weights[1:], "lr": 0.5}])
    step(optimizer, weights, 3)
    state, copies = optimizer.state_dict(), [nn.Parameter(w.data.copy()) for w in weights]
    resumed = MAKERS[name]([{"params": copies[:1]}, {"params": copies[1:], "lr": 0.1}], lr=0.9)
    resumed.load_state_dict(state)
    step(optimizer, weights, 3)
    before = json.dumps(state, default=lambda array: array.tolist())  # the state is a copy: steps leave it alone
    step(resumed, copies, 3)
    assert json.dumps(state, default=lambda array: array.tolist()) == before
    for w, copy in zip(weights, copies, strict=True):
        np.testing.assert_array_equal(copy.data, w.data)
    assert [group["lr"] for group in resumed.param_groups] == [0.05, 0.5]


def test_state_dict_is_made_of_plain_things():
    w = parameter(1.0, grad=[2])
    optimizer = Adam([w], lr=0.1)
    optimizer.step()
    state = optimizer.state_dict()
    assert state["param_groups"] == [
        {"params": [0], "lr": 0.1, "eps": 1e-8, "weight_decay": 0.0, "betas": (0.9, 0.999)}
    ]
    assert state["state"][0]["step"] == 1
    assert type(state["state"][0]["exp_avg"]) is np.ndarray
    np.testing.assert_allclose(state["state"][0]["exp_avg"], [0.2], rtol=1e-14)  # (1 - 0.9) * 2, by rounding


def test_representation():
    groups = [{"params": [parameter(1.0), parameter(2.0)]}, {"params": [parameter(3.0)], "lr": 0.5}]
    assert repr(SGD(groups, lr=0.1)) == (
        "SGD((2 parameters: lr=0.1, momentum=0.0, weight_decay=0.0, nesterov=False), "
        "(1 parameters: lr=0.5, momentum=0.0, weight_decay=0.0, nesterov=False))"
    )


def test_a_state_that_does_not_fit_changes_nothing():
    w = parameter(1.0, 2.0, grad=[1, 1])
    optimizer = Adam([w], lr=0.1)
    optimizer.step()
    good, kept = optimizer.state_dict(), optimizer.state_dict()

    def refused(message, **changes):
        with pytest.raises(ValueError, match=message):
            optimizer.load_state_dict({**good, **changes})

    other = {"step": 1, "exp_avg": np.zeros(3), "exp_avg_sq": np.zeros(2)}
    group = good["param_groups"][0]
    refused(r"exp_avg of parameter 0: expected shape \(2,\) and dtype float64, got \(3,\)", state={0: other})
    refused("expected parameter 0 to have .*'step'.*, got .*'momentum_buffer'", state={0: {"momentum_buffer": 1}})
    refused("expected parameters 0 to 0, got state of 5", state={5: other})
    refused("expected parameters 0 to 0, got state of -1", state={-1: good["state"][0]})
    refused("step of parameter 0: expected a non-negative integer", state={0: {**other, "step": -1}})
    refused(r"expected groups of \[1\] parameters in this order, got \[2\]", param_groups=[{**group, "params": [0, 1]}])
    refused("expected the options", param_groups=SGD([w], lr=0.1).state_dict()["param_groups"])
    refused("expected lr to be a number", param_groups=[{**group, "lr": -1}])
    for name, value in optimizer.state_dict()["state"][0].items():
        np.testing.assert_array_equal(value, kept["state"][0][name])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: SGD(p, lr=-0.1), "SGD: expected lr to be a number, at least 0 and finite, got -0.1"),
        (lambda p: SGD(p, lr=math.nan), "expected lr to be a number, at least 0 and finite, got nan"),
        (lambda p: SGD(p, lr="fast"), "expected lr to be a number, at least 0 and finite, got 'fast'"),
        (lambda p: SGD(p, lr=0.1, momentum=-1), "SGD: expected momentum to be"),
        (lambda p: SGD(p, lr=0.1, nesterov=True), "SGD: nesterov=True needs a momentum above 0"),
        (lambda p: Adam(p, betas=(0.9, 1)), r"Adam: expected betas\[1\] to be a number, at least 0 and below 1, got 1"),
        (lambda p: Adam(p, betas=0.9), "Adam: expected betas to be two numbers, got 0.9"),
        (lambda p: AdamW(p, eps=-1), "AdamW: expected eps to be"),
        (lambda p: Adam(p, weight_decay=math.inf), "Adam: expected weight_decay to be"),
        (lambda p: SGD([], lr=0.1), "SGD: expected at least one parameter, got an empty list"),
        (lambda p: SGD([*p, *p], lr=0.1), r"SGD: a parameter of shape \(1,\) is given twice"),
        (lambda p: SGD([{"params": p}, {"params": p}], lr=0.1), "given twice"),
        (lambda p: SGD([{"params": p, "rate": 1}], lr=0.1), "unknown option rate in a group; the options are lr, mom"),
        (lambda p: SGD([p[0] * 2], lr=0.1), "expected floating-point leaves of the graph"),
    ],
)
def test_bad_values_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make([parameter(1.0)])


@pytest.mark.parametrize(
    ("params", "message"),
    [
        (parameter(1.0), "expected a list of parameters or of groups, got one Parameter"),
        ([np.zeros(3)], "expected parameters to be Tensors, got ndarray"),
        ([{"lr": 0.1}], "expected a group to be a dict with the key 'params'"),
    ],
)
def test_bad_types_are_named(params, message):
    with pytest.raises(TypeError, match=message):
        SGD(params, lr=0.1)
