"""examples/benchmarks/gpu.py on the stand-in: the work that it times is the work it says. Times mean nothing here."""

from __future__ import annotations

import functools

import gpu
import kernels
import numpy as np
import pytest
from implementations import stand_in

from ministn import backend


@pytest.fixture(autouse=True)
def few_repeats(monkeypatch):
    monkeypatch.setattr(gpu, "REPEATS", 2)


@pytest.mark.parametrize(
    ("operation", "shapes"),
    [
        (gpu.convolve, [(2, 1, 9, 9), (3, 1, 3, 3), (3,)]),
        (functools.partial(kernels.max_pool, kernel_size=2), [(2, 3, 6, 6)]),
        (kernels.batch_norm, [(4, 3, 5, 5), (3,), (3,)]),
        (kernels.dense, [(4, 7), (5, 7), (5,)]),
    ],
)
def test_kernels_compute_the_same_on_both_devices(operation, shapes):
    arrays = functools.partial(kernels.random_arrays, *shapes)
    with stand_in():
        ours = gpu.ministn_gradients(operation, arrays)()
    expected = kernels.ministn_gradients(operation, arrays, batch_last=False)()
    for got, wanted in zip(ours, expected, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)  # float32, sums in another order


@pytest.mark.parametrize("capture", [False, True])
def test_training_makes_steps(capture):
    with stand_in() as cupy:
        work, launches = gpu.ministn_training(batch_size=4, source=32, capture=capture), []
        for _ in range(2):
            cupy._stand_in.counts.clear()
            work()
            launches.append([cupy._stand_in.counts[what] for what in ("kernel", "graph")])
    assert launches[-1][0] > 0
    assert launches[-1][1] == 2 * capture  # of `REPEATS` steps
    assert capture or launches[0] == launches[1]  # a graph is recorded in the second step


def test_without_a_gpu_it_says_so_in_one_line(monkeypatch):
    def no_gpu():
        raise backend.DeviceError("device 'gpu' needs CuPy: pip install ...")

    monkeypatch.setattr(backend, "cupy_with_gpu", no_gpu)
    with pytest.raises(SystemExit, match="needs CuPy"):
        gpu.main(["--quick"])


def test_all_cases_can_be_made(monkeypatch):
    """Names are unique, and bytes and multiplications are counted."""
    monkeypatch.setattr(gpu, "torch_has_cuda", lambda: False)
    cases = gpu.kernel_cases()
    assert len({case.name for case in cases}) == len(cases)
    assert all(case.facts["input_bytes"] > 0 for case in cases)
    assert cases[0].flop == 3 * 2 * 64 * 8 * 49 * 22 * 22  # conv 1->8 k7 on 28x28: forward and two gradients
