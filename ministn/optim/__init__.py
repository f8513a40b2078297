"""Optimisers and learning-rate schedules, under the names that `torch.optim` uses."""

from ministn.optim.adam import Adam, AdamW
from ministn.optim.average import ExponentialMovingAverage
from ministn.optim.optimizer import Optimizer
from ministn.optim.schedule import CosineAnnealingLR, LinearWarmup, Schedule, StepLR
from ministn.optim.sgd import SGD

__all__ = [
    "SGD",
    "Adam",
    "AdamW",
    "CosineAnnealingLR",
    "ExponentialMovingAverage",
    "LinearWarmup",
    "Optimizer",
    "Schedule",
    "StepLR",
]
