"""More than 2^32 elements: indices of 32 bits would wrap around. Arrays of gigabytes of which a few pages exist, and a
grid of which the last blocks run, show what kernels do at the far end, in little memory and time."""

from __future__ import annotations

import cuda_emulator
import numpy as np
import pytest

from ministn.kernels import _cuda

try:
    cuda_emulator.find_compiler()
except cuda_emulator.NoCompilerError as error:
    pytest.skip(str(error), allow_module_level=True)

COUNT = 2**32 + 1000  # where unsigned integers of 32 bits end, too
THREADS = 256


def elementwise() -> None:
    """The last numbers of three arrays."""
    kernels = cuda_emulator.build(_cuda.source("ministn.ops.elementwise"), _cuda.options(np.float32))
    x, y, scale = (cuda_emulator.sparse_zeros(size, np.float32) for size in (COUNT, COUNT, COUNT // 4))
    blocks = -(-COUNT // THREADS)
    last = slice((blocks - 1) * THREADS, None)
    values = np.arange(1, 1 + COUNT - last.start, dtype=np.float32)
    x[last], scale[last.start // 4 :] = values, 2
    kernels["relu"](blocks, THREADS, y, x, np.int64(COUNT), only_blocks=[blocks - 1])
    np.testing.assert_array_equal(y[last], values)
    kernels["scaled"](blocks, THREADS, y, x, scale, np.int64(COUNT), np.int64(4), only_blocks=[blocks - 1])
    np.testing.assert_array_equal(y[last], 2 * values)
    kernels["add_scaled"](blocks, THREADS, y, np.float32(3), x, np.int64(COUNT), only_blocks=[blocks - 1])
    np.testing.assert_array_equal(y[last], 5 * values)


CHECKS = {"ministn.ops.elementwise": elementwise}


@pytest.mark.parametrize("package", CHECKS)
def test_the_far_end_of_large_arrays(package):
    CHECKS[package]()
