"""The families' kernels against their references, on the emulator: in several orders of blocks and threads."""

import cases
import numpy as np
import pytest
from implementations import kernels

DTYPES = [np.float32, np.float64]
ORDERS = {"ascending": 0, "descending": 1, "random": 7}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("package", cases.CASES)
def test_kernels_equal_the_reference_in_every_order_of_threads(package, dtype, order):
    with kernels("reference"):
        expected = cases.results(package, dtype)
    with kernels("cuda", thread_order=ORDERS[order]):
        cases.check(cases.results(package, dtype), expected)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("package", cases.CASES)
def test_kernels_equal_the_reference_on_a_gpu(package, dtype):
    with kernels("reference"):
        expected = cases.results(package, dtype)
    with kernels("gpu"):
        cases.check(cases.results(package, dtype), expected)
