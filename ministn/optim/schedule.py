"""Learning-rate schedules: the rate as a function of how often `step` was called, for each parameter group.

>>> schedule = CosineAnnealingLR(optimizer, T_max=10)  # doctest: +SKIP
>>> for epoch in range(10):  # doctest: +SKIP
...     train_one_epoch()
...     schedule.step()
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ministn.optim.optimizer import Optimizer, checked_number


class Schedule:
    """The base of all schedules: a subclass defines `lr_at`.

    Parameters
    ----------
    optimizer : Optimizer
        The learning rates its groups have now are the base rates; the schedule sets them from now on.

    Attributes
    ----------
    last_step : int
        How often `step` was called.
    base_lrs : list of float
        One for each parameter group.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"{type(self).__name__}: expected an Optimizer, got {type(optimizer).__name__}")
        self.optimizer = optimizer
        self.last_step = 0
        self.base_lrs: list[float] = [group["lr"] for group in optimizer.param_groups]

    def lr_at(self, step: int, base_lr: float) -> float:
        """The learning rate after `step` calls of `step`."""
        raise NotImplementedError

    def step(self) -> None:
        """Move on by one, after the optimiser's step (or an epoch of them), and set the learning rates."""
        self.last_step += 1
        self._set_rates()

    def get_last_lr(self) -> list[float]:
        """The learning rate of each parameter group."""
        return [group["lr"] for group in self.optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        """Where the schedule is, in plain numbers; its options are those it was made with."""
        return {"last_step": self.last_step, "base_lrs": list(self.base_lrs)}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Continue from what `state_dict` returned, and set the learning rates accordingly."""
        groups = len(self.optimizer.param_groups)
        if len(state_dict["base_lrs"]) != groups:
            raise ValueError(
                f"{type(self).__name__}.load_state_dict: expected base_lrs of {groups} parameter groups, "
                f"got {len(state_dict['base_lrs'])}"
            )
        self.last_step = int(state_dict["last_step"])
        self.base_lrs = list(state_dict["base_lrs"])
        self._set_rates()

    def _set_rates(self) -> None:
        for group, base_lr in zip(self.optimizer.param_groups, self.base_lrs, strict=True):
            group["lr"] = self.lr_at(self.last_step, base_lr)


class StepLR(Schedule):
    r"""Multiply the rate by gamma every `step_size` steps: :math:`\eta_t = \eta\, \gamma^{\lfloor t / s \rfloor}`.

    Parameters
    ----------
    optimizer : Optimizer
    step_size : int
        s, in calls of `step`.
    gamma : float
    """

    def __init__(self, optimizer: Optimizer, step_size: int, gamma: float = 0.1) -> None:
        self.step_size = _at_least_one("StepLR", "step_size", step_size)
        self.gamma = checked_number("StepLR", "gamma", gamma)
        super().__init__(optimizer)

    def lr_at(self, step: int, base_lr: float) -> float:
        return base_lr * self.gamma ** (step // self.step_size)


class CosineAnnealingLR(Schedule):
    r"""Half a cosine from the base rate down to `eta_min` in `T_max` steps (and up again if it goes on).

    .. math:: \eta_t = \eta_\mathrm{min} + \tfrac12 (\eta - \eta_\mathrm{min}) (1 + \cos(\pi t / T_\mathrm{max}))

    Parameters
    ----------
    optimizer : Optimizer
    T_max : int
        In calls of `step`.
    eta_min : float

    References
    ----------
    Loshchilov and Hutter (2017), "SGDR", arXiv:1608.03983, eq. (5), without the restarts.
    """

    def __init__(self, optimizer: Optimizer, T_max: int, eta_min: float = 0.0) -> None:
        self.T_max = _at_least_one("CosineAnnealingLR", "T_max", T_max)
        self.eta_min = checked_number("CosineAnnealingLR", "eta_min", eta_min)
        super().__init__(optimizer)

    def lr_at(self, step: int, base_lr: float) -> float:
        return self.eta_min + (base_lr - self.eta_min) * (1 + math.cos(math.pi * step / self.T_max)) / 2


class LinearWarmup(Schedule):
    r"""Rise in a line from :math:`\eta / W` to :math:`\eta` over the first W optimiser steps, then follow `after`.

    .. math:: \eta_t = \eta \min(1, (t + 1) / W)

    The first optimiser step is thus made with :math:`\eta / W` and the W-th with :math:`\eta`, which is also the
    first rate of `after`.

    Parameters
    ----------
    optimizer : Optimizer
    warmup_steps : int
        W, in calls of `step`.
    after : Schedule, optional
        A schedule of the same optimiser, not yet stepped; without it the rate stays at :math:`\eta`.

    References
    ----------
    Goyal et al. (2017), "Accurate, large minibatch SGD", arXiv:1706.02677, section 2.2.
    """

    def __init__(self, optimizer: Optimizer, warmup_steps: int, after: Schedule | None = None) -> None:
        self.warmup_steps = _at_least_one("LinearWarmup", "warmup_steps", warmup_steps)
        if after is not None and (not isinstance(after, Schedule) or after.optimizer is not optimizer):
            raise ValueError(f"LinearWarmup: expected after to be a schedule of the same optimizer, got {after!r}")
        if after is not None and after.last_step:
            raise ValueError(f"LinearWarmup: expected after not to have stepped yet, got {after.last_step} steps")
        self.after = after
        super().__init__(optimizer)
        self._set_rates()

    def lr_at(self, step: int, base_lr: float) -> float:
        return base_lr * min(1.0, (step + 1) / self.warmup_steps)

    def step(self) -> None:
        """Move on by one, in the warm-up or in `after`, and set the learning rates."""
        if self.after is not None and self.last_step + 1 >= self.warmup_steps:
            self.after.step()
        super().step()

    def _set_rates(self) -> None:
        if self.after is not None and self.after.last_step:
            self.after._set_rates()
        else:
            super()._set_rates()

    def state_dict(self) -> dict[str, Any]:
        """As for the other schedules, with the state of the wrapped one under ``"after"``."""
        return {**super().state_dict(), "after": self.after.state_dict() if self.after else None}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Continue from what `state_dict` returned, in the warm-up or in `after`."""
        if (self.after is None) != (state_dict["after"] is None):
            raise ValueError(
                "LinearWarmup.load_state_dict: either both the schedule and the state have an after, or none"
            )
        if self.after is not None:
            self.after.load_state_dict(state_dict["after"])
        super().load_state_dict(state_dict)


def _at_least_one(name: str, option: str, value: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name}: expected {option} to be an integer of at least 1, got {value!r}")
    return value
