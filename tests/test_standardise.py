"""The loops of batch normalisation against the whole-array expressions, in every order of memory."""

import numpy as np
import pytest
from implementations import KERNELS, kernels

import ministn
from ministn import backend
from ministn.ops.standardise import cpu, reference

LAYOUTS = {
    "NCHW": lambda x: x,
    "batch-last": lambda x: np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 0, -1)), -1, 0),
    "gaps": lambda x: np.repeat(x, 2, axis=1)[:, ::2],
}
# float32: means of up to a few hundred numbers around 3, subtracted from them
TOLERANCES = {np.float32: 1e-5, np.float64: 1e-13}


def arrays(shape, dtype):
    rng = np.random.default_rng(0)
    x, g = (3 + rng.standard_normal(shape)).astype(dtype), rng.standard_normal(shape).astype(dtype)
    return x, g, *((1 + rng.random(shape[1])).astype(dtype) for _ in range(2))


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("grad_layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(4, 3), (1, 2, 6), (19, 3, 5, 4), (2, 1, 3, 2, 2)])
@pytest.mark.parametrize("name", [name for name in KERNELS if name != "reference"])
def test_loops_equal_the_expressions(name, shape, grad_layout, layout, dtype):
    x, g, gamma, beta = arrays(shape, dtype)
    x, g = LAYOUTS[layout](x), LAYOUTS[grad_layout](g)
    expected = reference.forward(x, gamma, beta, 1e-3)
    _, mean, _, inverse_std = expected
    with kernels(name):
        loops = backend.implementation("ministn.ops.standardise", x)
        results = (*loops.forward(x, gamma, beta, 1e-3), *loops.backward(g, x, gamma, mean, inverse_std))
    expected += reference.backward(g, x, gamma, mean, inverse_std)
    for result, value in zip(results, expected, strict=True):
        assert result.dtype == dtype
        np.testing.assert_allclose(result, value, rtol=0, atol=TOLERANCES[dtype] * np.abs(value).max())


@pytest.mark.parametrize("layout", ["NCHW", "batch-last"])
def test_the_memory_order_is_kept(layout):
    x, g, gamma, beta = arrays((5, 3, 4, 2), np.float32)
    x = LAYOUTS[layout](x)
    y, mean, _, inverse_std = cpu.forward(x, gamma, beta, 1e-3)
    dx, _, _ = cpu.backward(g, x, gamma, mean, inverse_std)
    assert y.strides == dx.strides == x.strides


@pytest.mark.usefixtures("more_threads_than_one")
def test_same_bits_for_any_number_of_threads():
    x, g, gamma, beta = arrays((33, 7, 6, 5), np.float32)

    def results():
        y, mean, variance, inverse_std = cpu.forward(x, gamma, beta, 1e-3)
        return y, mean, variance, inverse_std, *cpu.backward(g, x, gamma, mean, inverse_std)

    before, many = ministn.get_num_threads(), results()
    ministn.set_num_threads(1)
    try:
        one = results()
    finally:
        ministn.set_num_threads(before)
    for a, b in zip(many, one, strict=True):
        np.testing.assert_array_equal(a, b)
