"""Optimisers and schedules against PyTorch's, step by step in float64."""

import numpy as np
import pytest

from ministn import Tensor, nn, optim

torch = pytest.importorskip("torch")

STEPS = 24
ROUNDING = 1e-12  # float64 formulas in another order, over STEPS steps

OPTIMIZERS = {
    "sgd": ("SGD", {"lr": 0.1}),
    "sgd, decay": ("SGD", {"lr": 0.1, "weight_decay": 0.2}),
    "sgd, momentum": ("SGD", {"lr": 0.1, "momentum": 0.9}),
    "sgd, nesterov, decay": ("SGD", {"lr": 0.1, "momentum": 0.8, "nesterov": True, "weight_decay": 0.05}),
    "adam": ("Adam", {"lr": 0.05}),
    "adam, all options": ("Adam", {"lr": 0.05, "betas": (0.7, 0.95), "eps": 1e-3, "weight_decay": 0.1}),
    "adamw": ("AdamW", {"lr": 0.05}),
    "adamw, all options": ("AdamW", {"lr": 0.05, "betas": (0.7, 0.95), "eps": 1e-3, "weight_decay": 0.3}),
}


def gradient(values, step):
    """Of some function without symmetries; None in some steps, as for a layer that took no part."""
    return None if values.ndim == 1 and step % 5 == 2 else np.sin(3 * values + step) + 0.1 * values


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_twenty_steps_in_two_groups(name):
    kind, options = OPTIMIZERS[name]
    random = np.random.default_rng(0)
    starts = [random.standard_normal(shape) for shape in [(3, 4), (5,), (2, 1, 3)]]
    ours = [nn.Parameter(start.copy()) for start in starts]
    theirs = [torch.tensor(start, requires_grad=True) for start in starts]
    optimizers = [
        getattr(module, kind)([{"params": p[:2]}, {"params": p[2:], "lr": 0.01, "weight_decay": 0.4}], **options)
        for module, p in ((optim, ours), (torch.optim, theirs))
    ]
    for step in range(STEPS):
        for our, their in zip(ours, theirs, strict=True):
            grad = gradient(our.data, step)
            our.grad = None if grad is None else Tensor(grad)
            their.grad = None if grad is None else torch.from_numpy(grad.copy())
        for optimizer in optimizers:
            optimizer.step()
        for our, their in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(our.data, their.detach().numpy(), rtol=ROUNDING, atol=ROUNDING)


@pytest.mark.parametrize("kind", ["SGD", "Adam", "AdamW"])
def test_defaults(kind):
    ours = getattr(optim, kind)([nn.Parameter(np.ones(2))]).defaults
    theirs = getattr(torch.optim, kind)([torch.ones(2, requires_grad=True)]).defaults
    assert ours == {name: theirs[name] for name in ours}


SCHEDULES = {
    "step": (
        lambda o: optim.StepLR(o, 5, gamma=0.3),
        lambda o: torch.optim.lr_scheduler.StepLR(o, 5, gamma=0.3),
    ),
    "step, with defaults": (
        lambda o: optim.StepLR(o, 5),
        lambda o: torch.optim.lr_scheduler.StepLR(o, 5),
    ),
    "cosine, down and up again": (
        lambda o: optim.CosineAnnealingLR(o, 9, eta_min=0.01),
        lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 9, eta_min=0.01),
    ),
    "warm-up": (
        lambda o: optim.LinearWarmup(o, 6),
        lambda o: torch.optim.lr_scheduler.LinearLR(o, 1 / 6, total_iters=5),
    ),
    "warm-up, cosine": (
        lambda o: optim.LinearWarmup(o, 6, after=optim.CosineAnnealingLR(o, 15)),
        lambda o: torch.optim.lr_scheduler.SequentialLR(
            o,
            [
                torch.optim.lr_scheduler.LinearLR(o, 1 / 6, total_iters=5),
                torch.optim.lr_scheduler.CosineAnnealingLR(o, 15),
            ],
            milestones=[5],
        ),
    ),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_twenty_rates_of_two_groups(name):
    weights = nn.Parameter(np.ones(2)), nn.Parameter(np.ones(3))
    ours = optim.SGD([{"params": [weights[0]]}, {"params": [weights[1]], "lr": 0.02}], lr=0.5)
    twins = [torch.ones(w.shape, requires_grad=True) for w in weights]
    theirs = torch.optim.SGD([{"params": [twins[0]]}, {"params": [twins[1]], "lr": 0.02}], lr=0.5)
    our_schedule, their_schedule = (make(o) for make, o in zip(SCHEDULES[name], (ours, theirs), strict=True))
    for _ in range(STEPS):
        np.testing.assert_allclose(
            our_schedule.get_last_lr(), their_schedule.get_last_lr(), rtol=ROUNDING, atol=ROUNDING
        )
        theirs.step()  # PyTorch warns about a schedule that steps before its optimiser
        our_schedule.step()
        their_schedule.step()
