"""Grids that nobody would draw, and NaN, on the GPU: the CPU's values, and no access outside the arrays.

The stand-in notices what leaves an array; see also test_sanitizers.py.
"""

from __future__ import annotations

import fuzz_numbers
import numpy as np
import pytest

import ministn
import ministn.functional as F
from ministn import AnomalyError, Tensor, detect_anomaly, nn

MODES, PADDINGS = fuzz_numbers.MODES, fuzz_numbers.PADDINGS
SEEDS = [*range(3), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(3, 100))]


def on_both(function, *arrays):
    """Results and gradients on the CPU and on the GPU."""
    found = []
    for device in ("cpu", "gpu"):
        inputs = [Tensor(array.copy(), True).to(device) for array in arrays]
        for tensor in inputs:
            tensor.retain_grad()
        result = function(*inputs)
        result.backward(ministn.backend.to_device(np.ones(result.shape, result.dtype), device))
        found.append([result.detach().numpy(), *(tensor.grad.numpy() for tensor in inputs)])
    return zip(*found, strict=True)


def places(points, size, align_corners):
    """(..., 2) points of a grid in pixels, in float64."""
    size = np.array(size[::-1], float)
    points = points.astype(float)
    return (points + 1) / 2 * (size - 1) if align_corners else ((points + 1) * size - 1) / 2


def check(name, made, unsure):
    """Where it is not `unsure`, what the CPU and the GPU have made is the same."""
    cpu, gpu = (np.where(unsure, 0, array) for array in made)
    np.testing.assert_allclose(gpu, cpu, 1e-5, 1e-5, err_msg=name)  # NaN must be where NaN is


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("mode", MODES)
def test_grid_sample(library, mode, padding, seed):
    random, align = np.random.default_rng(seed), bool(seed % 2)
    images = random.uniform(-1, 1, (20, 2, 5, 7)).astype(np.float32)
    with np.errstate(all="ignore"):
        grid = fuzz_numbers.extreme(random, (20, 3, 4, 2), np.float32)
        x = places(grid, (5, 7), align)
        # One rounding more or less decides on which side of a kink a slope is, or of a jump a value, or, of what is
        # mirrored again and again, where it is.
        kink = (abs(2 * x - np.rint(2 * x)) < 1e-5 * (1 + abs(x))).any(-1)
        lost = ((abs(x) > 64) & (padding == "reflection")).any(-1) | (kink & (mode == "nearest"))
        made = on_both(lambda x, g: F.grid_sample(x, g, mode, padding, align), images, grid)
    for name, arrays, unsure in zip(
        ("output", "images", "grid"),
        made,
        (lost[:, None], lost.any((1, 2))[:, None, None, None], (lost | kink)[..., None]),
        strict=True,
    ):
        check(name, arrays, unsure)


@pytest.mark.parametrize("seed", SEEDS)
def test_spatial_transform(library, seed):
    random, align = np.random.default_rng(seed), bool(seed % 2)
    images = random.uniform(-1, 1, (20, 2, 5, 7)).astype(np.float32)
    with np.errstate(all="ignore"):
        theta = fuzz_numbers.extreme(random, (20, 2, 3), np.float32)
        x = places(F.affine_grid(Tensor(theta.astype(float)), (20, 2, 3, 4), align).numpy(), (5, 7), align)
        kink = (abs(2 * x - np.rint(2 * x)) < 1e-5 * (1 + abs(x))).any((1, 2, 3))  # as above
        made = on_both(lambda x, t: F.spatial_transform(x, t, (3, 4), align), images, theta)
    for name, arrays, unsure in zip(
        ("output", "images", "theta"), made, (False, False, kink[:, None, None]), strict=True
    ):
        check(name, arrays, unsure)


def test_detect_anomaly(library):
    layer = nn.Linear(2, 3)
    layer.bias.data[0] = np.nan
    layer.to("gpu")
    with (
        detect_anomaly(layer.named_parameters()),
        pytest.raises(AnomalyError, match=r"Linear.forward: .*input 2 \(bias, shape \(3,\), 1 NaN, 0 infinite\)"),
    ):
        layer(Tensor(np.ones((4, 2), np.float32)).to("gpu"))
