"""Schedules by hand: rates, groups, state, messages. PyTorch's are compared in test_optim_torch.py."""

import json

import numpy as np
import pytest

from ministn import nn
from ministn.optim import SGD, CosineAnnealingLR, LinearWarmup, StepLR


def two_groups(first=1.0, second=0.5):
    groups = [{"params": [nn.Parameter([0.0])], "lr": lr} for lr in (first, second)]
    return SGD(groups, lr=9.0)


def rates(schedule, steps):
    result = [schedule.get_last_lr()]
    for _ in range(steps):
        schedule.step()
        result.append(schedule.get_last_lr())
    return np.array(result)


def test_step_lr_falls_by_gamma_every_step_size():
    np.testing.assert_array_equal(
        rates(StepLR(two_groups(), step_size=2, gamma=0.5), 5),
        [[1, 0.5], [1, 0.5], [0.5, 0.25], [0.5, 0.25], [0.25, 0.125], [0.25, 0.125]],
    )


def test_cosine_from_the_base_rate_to_the_least():
    got = rates(CosineAnnealingLR(two_groups(), T_max=4, eta_min=0.25), 4)
    half = np.sqrt(0.5)
    expected = 0.25 + np.array([[0.75, 0.25]]) * np.array([[2], [1 + half], [1], [1 - half], [0]]) / 2
    np.testing.assert_allclose(got, expected, rtol=1e-14)  # rounding of a cosine


def test_warm_up_rises_to_the_base_rate_and_stays():
    np.testing.assert_array_equal(
        rates(LinearWarmup(two_groups(), 4), 5),
        [[0.25, 0.125], [0.5, 0.25], [0.75, 0.375], [1, 0.5], [1, 0.5], [1, 0.5]],
    )


def test_warm_up_hands_over_to_the_next_schedule():
    optimizer = two_groups()
    schedule = LinearWarmup(optimizer, 2, after=StepLR(optimizer, step_size=2, gamma=0.5))
    # Two steps up; the last of them is the first rate of StepLR, which holds for two.
    np.testing.assert_array_equal(rates(schedule, 6)[:, 0], [0.5, 1, 1, 0.5, 0.5, 0.25, 0.25])
    optimizer = two_groups()
    schedule = LinearWarmup(optimizer, 1, after=StepLR(optimizer, step_size=2, gamma=0.5))
    np.testing.assert_array_equal(rates(schedule, 3)[:, 0], [1, 1, 0.5, 0.5])


MAKERS = {
    "step": lambda o: StepLR(o, 3, 0.5),
    "cosine": lambda o: CosineAnnealingLR(o, 7),
    "warm-up": lambda o: LinearWarmup(o, 5),
    "warm-up, cosine": lambda o: LinearWarmup(o, 3, after=CosineAnnealingLR(o, 6)),
}


@pytest.mark.parametrize("stopped_after", [1, 4])
@pytest.mark.parametrize("name", MAKERS)
def test_a_schedule_continues_from_its_state(name, stopped_after):
    schedule = MAKERS[name](two_groups())
    rates(schedule, stopped_after)
    state = json.loads(json.dumps(schedule.state_dict()))
    resumed = MAKERS[name](two_groups(7.0, 8.0))
    resumed.load_state_dict(state)
    np.testing.assert_array_equal(rates(resumed, 5), rates(schedule, 5))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda o: StepLR(o, 0), "StepLR: expected step_size to be an integer of at least 1, got 0"),
        (lambda o: StepLR(o, 1, gamma=-1), "StepLR: expected gamma to be a number, at least 0"),
        (lambda o: CosineAnnealingLR(o, 2.5), "CosineAnnealingLR: expected T_max to be an integer"),
        (lambda o: CosineAnnealingLR(o, 2, eta_min=-1), "CosineAnnealingLR: expected eta_min to be"),
        (lambda o: LinearWarmup(o, 0), "LinearWarmup: expected warmup_steps to be an integer of at least 1, got 0"),
        (lambda o: LinearWarmup(o, 2, after=StepLR(two_groups(), 1)), "a schedule of the same optimizer"),
        (lambda o: LinearWarmup(o, 2, after="cosine"), "a schedule of the same optimizer, got 'cosine'"),
        (lambda o: LinearWarmup(o, 2, after=stepped(StepLR(o, 1))), "expected after not to have stepped yet, got 1"),
    ],
)
def test_bad_options_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make(two_groups())


def stepped(schedule):
    schedule.step()
    return schedule


def test_a_state_of_other_groups_is_refused():
    optimizer = two_groups()
    schedule = StepLR(optimizer, 1)
    with pytest.raises(ValueError, match=r"StepLR.load_state_dict: expected base_lrs of 2 parameter groups, got 1"):
        schedule.load_state_dict({"last_step": 3, "base_lrs": [1.0]})
    assert schedule.get_last_lr() == [1, 0.5]
    with pytest.raises(ValueError, match="both the schedule and the state have an after, or none"):
        LinearWarmup(optimizer, 2).load_state_dict({"last_step": 3, "base_lrs": [1, 1], "after": {}})
    with pytest.raises(TypeError, match="StepLR: expected an Optimizer, got list"):
        StepLR([], 1)
