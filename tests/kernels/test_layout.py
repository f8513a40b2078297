"""Memory layouts: each conversion gives the values NumPy gives, copies where it must, and only there."""

import platform

import numpy as np
import pytest

from ministn.kernels._layout import batch_last, from_batch_last, is_batch_last, nchw

# Few numbers, many, one axis shorter than a vector, one or both longer than a block and no multiple of anything.
SHAPES = [
    (3, 2, 4, 5),
    (64, 3, 28, 28),
    (7, 3, 40, 41),
    (600, 15),
    (131, 3, 11, 13),
    (16, 1000),
    (900, 17),
    (0, 3, 2, 2),
]


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.uint8, np.int64])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_there_and_back(shape, dtype):
    x = (1000 * np.random.default_rng(0).standard_normal(shape)).astype(dtype)
    turned = batch_last(x)
    assert turned.flags.c_contiguous
    np.testing.assert_array_equal(turned, np.moveaxis(x, 0, -1))
    view = from_batch_last(turned)
    assert view.shape == shape
    assert is_batch_last(view)
    assert np.shares_memory(batch_last(view), turned) or x.size == 0
    back = nchw(view)
    assert back.flags.c_contiguous
    np.testing.assert_array_equal(back, x)
    assert nchw(x) is x


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_memory_that_is_neither(dtype):
    x = np.random.default_rng(1).standard_normal((64, 5, 30, 32)).astype(dtype)
    for other in (x[:, :, ::-1], x[::2], x.transpose(0, 2, 3, 1), x[:, ::2, 1:]):
        np.testing.assert_array_equal(nchw(other), other)
        np.testing.assert_array_equal(batch_last(other), np.moveaxis(other, 0, -1))
        assert nchw(other).flags.c_contiguous
        assert batch_last(other).flags.c_contiguous


TURN = """
import numpy as np
from ministn.kernels._layout import batch_last
for dtype in (np.float32, np.float64):
    x = np.arange(150 * 271).astype(dtype).reshape(150, 271)
    np.testing.assert_array_equal(batch_last(x), x.T)
print("turned")
"""


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="names of x86 processors")
@pytest.mark.parametrize(
    ("processor", "features"), [("x86-64-v3", "+avx,+avx2,+fma"), ("x86-64", "+sse2")], ids=["AVX2", "without AVX"]
)
def test_on_lesser_processors(processor, features, run_python):
    assert run_python(TURN, NUMBA_CPU_NAME=processor, NUMBA_CPU_FEATURES=features) == "turned"
