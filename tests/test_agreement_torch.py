"""The tutorial's training, step by step, in ministn and in PyTorch: the same weights, batches and losses."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import agreement  # noqa: E402 (it needs torch)

from ministn import Tensor  # noqa: E402

LOCALISATION = ("fc_loc.2.weight", "fc_loc.2.bias")


def noise_images(dtype):
    return Tensor(np.random.default_rng(0).normal(size=(64, 1, 28, 28)).astype(dtype))


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 1e-4), (np.float64, 1e-12)])
def test_first_gradients_on_noise(dtype, tolerance):
    """Noise has no ties in max pooling, so both take the same way at every kink; the rest is rounding."""
    errors = agreement.compare_gradients(*agreement.twins(0, dtype), noise_images(dtype), np.arange(64) % 10)
    assert len(errors) == 16
    assert max(errors.values()) < tolerance, errors


def test_first_gradients_on_digits(real_mnist):
    """On digits, equal background makes ties in max pooling. Which of them wins changes where in the image a gradient
    arrives, not how large it is: only what depends on the place, the transformation, may differ by more."""
    images, labels = next(agreement.noisy_batches(real_mnist, 1, 0, noise=0.0))
    errors = agreement.compare_gradients(*agreement.twins(0), images, labels)
    assert max(error for name, error in errors.items() if name not in LOCALISATION) < 1e-4, errors
    assert max(errors[name] for name in LOCALISATION) < 0.1, errors
    images, labels = next(agreement.noisy_batches(real_mnist, 1, 0, noise=0.01))  # no ties any more
    errors = agreement.compare_gradients(*agreement.twins(0), images, labels)
    assert max(errors.values()) < 1e-4, errors


@pytest.mark.parametrize("steps", [50, pytest.param(500, marks=pytest.mark.slow)])
def test_losses_are_those_of_pytorch(real_mnist, steps):
    """In float64 and without ties, rounding never reaches a kink: the two stay together to the last digits."""
    with agreement.tqdm(disable=True) as progress:
        losses = agreement.compare_steps(real_mnist, steps, 0, noise=0.01, dtype=np.float64, progress=progress)
    assert losses[-1, 0] < losses[0, 0] - 0.05  # they did learn
    np.testing.assert_allclose(losses[:, 0], losses[:, 1], rtol=0, atol=1e-12)


def test_losses_on_digits_in_float32(real_mnist):
    """As they come, digits in float32 part by what rounding does at the kinks: as far as PyTorch from itself in another
    memory layout, about 5e-4 in 50 steps. Ten times that would be a fault."""
    with agreement.tqdm(disable=True) as progress:
        losses = agreement.compare_steps(real_mnist, 50, 0, noise=0.0, dtype=np.float32, progress=progress)
    assert losses[0, 0] == pytest.approx(losses[0, 1], abs=1e-6)
    np.testing.assert_allclose(losses[:, 0], losses[:, 1], rtol=0, atol=5e-3)
