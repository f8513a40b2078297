"""The running mean of the weights."""

import numpy as np
import pytest

from ministn import Tensor, nn, optim


def normalised(size=3):
    return nn.Sequential(nn.Linear(2, size), nn.BatchNorm1d(size))


def values(state):
    return {name: np.array(value.data if isinstance(value, Tensor) else value) for name, value in state.items()}


@pytest.mark.parametrize("decay", [0.0, 0.15, 0.9])
def test_the_formula(decay):
    """Three steps by hand: the decay is at most 2/11, 3/12 and 4/13."""
    layer = nn.Linear(1, 1, bias=False).double()
    layer.weight.data[...] = 8.0
    average = optim.ExponentialMovingAverage(layer, decay)
    expected = 8.0
    for limit, weight in ((2 / 11, 1.0), (3 / 12, -2.0), (4 / 13, 5.0)):
        layer.weight.data[...] = weight
        average.update()
        expected += (1 - min(decay, limit)) * (weight - expected)
    assert average.state_dict()["weights"]["weight"].item() == pytest.approx(expected, rel=1e-14)  # float64


def test_many_equal_weights_are_their_own_average_and_float32_stays():
    model = normalised()
    average = optim.ExponentialMovingAverage(model, 0.99)
    for tensor in model.state_dict().values():
        tensor.data[...] = 3
    for _ in range(2000):
        average.update()
    for array in average.state_dict()["weights"].values():
        np.testing.assert_allclose(array, 3, rtol=1e-4)  # each float32 step may round by 6e-8, and 100 of them count
    kinds = {name: array.dtype for name, array in average.state_dict()["weights"].items()}
    assert kinds == {name: tensor.dtype for name, tensor in model.state_dict().items()}


def test_integers_are_taken_as_they_are():
    model = normalised()
    average = optim.ExponentialMovingAverage(model)
    model(Tensor(np.ones((4, 2), np.float32)))
    average.update()
    assert average.state_dict()["weights"]["1.num_batches_tracked"] == 1


def test_it_is_applied_within_the_block_only():
    model = normalised()
    average = optim.ExponentialMovingAverage(model)
    arrays = {name: tensor.data for name, tensor in model.state_dict().items()}
    at_first = values(model.state_dict())
    for tensor in model.state_dict().values():
        tensor.data[...] = 7
    later = values(model.state_dict())

    def look_and_fail():
        with average.applied():
            for name, value in values(model.state_dict()).items():
                np.testing.assert_array_equal(value, at_first[name])
            raise KeyError

    with pytest.raises(KeyError):  # which does not keep the weights from coming back
        look_and_fail()
    for name, tensor in model.state_dict().items():
        np.testing.assert_array_equal(tensor.data, later[name])
        assert np.shares_memory(tensor.data, arrays[name])  # an optimiser still moves the same arrays


def test_it_goes_on_from_its_state():
    model, other = normalised(), normalised()
    average, continued = (optim.ExponentialMovingAverage(m, 0.9) for m in (model, other))
    average.update()
    state = average.state_dict()
    for tensor in model.state_dict().values():
        tensor.data[...] = 2
    continued.load_state_dict(state)
    other.load_state_dict(model.state_dict())
    average.update()
    continued.update()
    assert continued.updates == 2
    for name, array in average.state_dict()["weights"].items():
        np.testing.assert_array_equal(continued.state_dict()["weights"][name], array)
        assert not np.array_equal(array, state["weights"][name])  # what was returned is a copy


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"updates": -1}, "expected a non-negative number of updates, got -1"),
        ({"updates": None}, "expected a non-negative number of updates, got None"),
        ({"weights": {}}, "expected the weights"),
        (
            {"weights": values(normalised(4).state_dict())},
            r"expected 0.weight as float32 \(3, 2\), got float32 \(4, 2\)",
        ),
        (
            {"weights": values(normalised().double().state_dict())},
            r"expected 0.weight as float32 \(3, 2\), got float64",
        ),
    ],
)
def test_a_state_that_does_not_fit_changes_nothing(change, message):
    average = optim.ExponentialMovingAverage(normalised())
    before = average.state_dict()
    with pytest.raises(ValueError, match=message):
        average.load_state_dict(before | change)
    assert average.updates == 0
    for name, array in average.state_dict()["weights"].items():
        np.testing.assert_array_equal(array, before["weights"][name])


def test_the_state_from_before_the_first_update():
    average = optim.ExponentialMovingAverage(normalised())
    state = average.state_dict()
    average.update()
    average.load_state_dict(state)
    assert average.updates == 0


@pytest.mark.parametrize("decay", [1, -0.1, np.nan, "a"])
def test_a_decay_out_of_range(decay):
    with pytest.raises(ValueError, match="expected decay to be a number, at least 0 and below 1"):
        optim.ExponentialMovingAverage(normalised(), decay)
