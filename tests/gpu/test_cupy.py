"""What ministn relies on in CuPy: here the stand-in does it; on a machine with a GPU ``-m gpu`` asks CuPy itself."""

from __future__ import annotations

import numpy as np
import pytest
from implementations import real_cupy, stand_in

SOURCE = r"""
extern "C" __global__ void scale(float* y, const float* x, float factor, int count) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < count) y[i] = factor * x[i];
}
extern "C" __global__ void fill(double* y, bool negative, long long count) {
    extern __shared__ double room[];
    if (threadIdx.x == 0) room[0] = negative ? -1.0 : 1.0;
    __syncthreads();
    for (long long i = threadIdx.x; i < count; i += blockDim.x) y[i] = room[0];
}
"""


@pytest.fixture(params=["stand-in", pytest.param("device", marks=pytest.mark.gpu)])
def cupy(request):
    if request.param == "device":
        yield real_cupy()
    else:
        with stand_in() as library:
            yield library


@pytest.fixture
def x(cupy):
    """[[0, 1, 2], [3, 4, 5]]"""
    return cupy.asarray(np.arange(6, dtype=np.float32).reshape(2, 3))


@pytest.fixture
def scale(cupy):
    return cupy.RawModule(code=SOURCE, options=("--std=c++17",)).get_function("scale")


@pytest.mark.parametrize(
    "use",
    [
        lambda cupy, x: x.sum(),
        lambda cupy, x: x[1, 2],
        lambda cupy, x: x[1, 2] * 2,
        lambda cupy, x: np.float32(2) * x[1, 2],
        lambda cupy, x: x.argmax(),
        lambda cupy, x: cupy.exp(x.mean()),
        lambda cupy, x: np.sqrt(x.max()),
        lambda cupy, x: -x[0, 0],
    ],
)
def test_single_numbers_stay_on_the_device(cupy, x, use):
    assert isinstance(use(cupy, x), cupy.ndarray)
    assert use(cupy, x).shape == ()


@pytest.mark.parametrize(
    "use",
    [
        lambda cupy, x: np.asarray(x),
        lambda cupy, x: x + np.ones(3),
        lambda cupy, x: np.ones(3) * x,
        lambda cupy, x: x.__iadd__(np.ones(3)),
        lambda cupy, x: cupy.exp(np.ones(3)),
        lambda cupy, x: cupy.maximum(x, np.ones(3)),
        lambda cupy, x: [0, 1, 2][x[0, 1]],
    ],
)
def test_numpy_and_device_do_not_mix(cupy, x, use):
    with pytest.raises(TypeError):
        use(cupy, x)


def test_results_are_c_contiguous_whatever_their_operands_are(cupy, x):
    transposed = x.T
    assert transposed.strides == (4, 12)
    for result in (transposed + 1, -transposed, cupy.exp(transposed), transposed.copy(), transposed[cupy.arange(2)]):
        assert result.flags.c_contiguous
        assert not result.flags.f_contiguous
    for result in (transposed.astype(np.float64), cupy.zeros_like(transposed), cupy.empty_like(transposed)):
        assert result.flags.f_contiguous
    transposed += 1
    assert transposed.strides == (4, 12)
    assert cupy.ascontiguousarray(x) is x
    assert cupy.ascontiguousarray(transposed).flags.c_contiguous


def test_arrays_of_numpy_come_c_contiguous_unless_in_fortrans_order(cupy):
    values = np.arange(24.0).reshape(2, 3, 4)
    batch_last = np.moveaxis(np.ascontiguousarray(np.moveaxis(values, 0, -1)), -1, 0)
    assert cupy.asarray(batch_last).flags.c_contiguous
    assert cupy.asarray(np.asfortranarray(values)).flags.f_contiguous
    assert cupy.asarray(np.asfortranarray(values), order="C").flags.c_contiguous
    np.testing.assert_array_equal(cupy.asarray(batch_last).get(), values)


def test_views_share_memory_and_copies_do_not(cupy, x):
    for view in (x[0], x.T, x.reshape(6), x.ravel(), x[None], cupy.moveaxis(x, 0, 1), x.view()):
        view[...] += 1
    for other in (x.T.reshape(6), x.flatten(), x[cupy.arange(1)], x.astype(np.float32)):
        other[...] = 99
    np.testing.assert_array_equal(x.get(), [[7, 8, 9], [9, 10, 11]])  # the first row was in one view more


@pytest.mark.parametrize(
    ("use", "dtype"),
    [
        (lambda x: x * 2.5, np.float32),
        (lambda x: x * np.float32(2.5), np.float32),
        (lambda x: x > 0, np.bool_),
        (lambda x: x.argmax(axis=1), np.int64),
        (lambda x: x.astype(np.int32) / 2, np.float64),
    ],
)
def test_dtypes(x, use, dtype):
    assert use(x).dtype == dtype


def test_integer_arrays_wrap_as_indices(cupy, x):
    np.testing.assert_array_equal(x[0, cupy.asarray([3, -1, 5])].get(), [0, 2, 2])
    np.testing.assert_array_equal(x.take(cupy.asarray([7]), axis=1).get(), [[1], [4]])
    with pytest.raises(IndexError):
        x[2]  # a plain number is checked


@pytest.mark.parametrize(
    "index",
    [
        lambda cupy: cupy.asarray([1, 0, 1]),
        lambda cupy: (slice(None), cupy.asarray([2, 0])),
        lambda cupy: (cupy.asarray([0, 1]), cupy.asarray([2, 1])),
        lambda cupy: (Ellipsis, None, cupy.asarray([[1], [2]])),
        lambda cupy: (cupy.asarray([True, False]), slice(0, 2)),
        lambda cupy: cupy.asarray([[True, False, True], [False, True, False]]),
        lambda cupy: cupy.asarray([], dtype=np.int64),
        lambda cupy: [1],
    ],
)
def test_picks_what_numpy_picks(cupy, x, index):
    index = index(cupy)
    parts = index if isinstance(index, tuple) else (index,)
    of_numpy = tuple(part.get() if isinstance(part, cupy.ndarray) else part for part in parts)
    np.testing.assert_array_equal(x[index].get(), x.get()[of_numpy])


def test_an_element_named_twice_receives_two_values(cupy, x):
    twice = cupy.asarray([0, 2, 3])  # 3 wraps to 0
    cupy.add.at(x, (1, twice), cupy.asarray([1.0, 2.0, 4.0]))
    np.testing.assert_array_equal(x[1].get(), [8, 4, 7])
    cupy.add.at(x, 1, cupy.ones(3))
    np.testing.assert_array_equal(x[1].get(), [9, 5, 8])


def test_kernels_run(cupy, scale):
    x, y = cupy.arange(5, dtype=np.float32), cupy.empty(5, np.float32)
    scale((2,), (4,), (y, x, np.float32(3), np.int32(5)))
    np.testing.assert_array_equal(y.get(), [0, 3, 6, 9, 12])
    fill = cupy.RawModule(code=SOURCE, options=("--std=c++17",)).get_function("fill")
    y = cupy.empty(3)
    fill((1,), (2,), (y, np.bool_(True), np.int64(3)), shared_mem=8)
    np.testing.assert_array_equal(y.get(), [-1, -1, -1])


def test_kernels_flush_denormals_as_cupy_has_them_compiled(cupy, scale):
    x, y = cupy.full(1, 1e-38, np.float32), cupy.empty(1, np.float32)
    scale((1,), (1,), (y, x, np.float32(0.125), np.int32(1)))
    assert y.item() == 0
    assert np.float32(1e-38) * np.float32(0.125) > 0


def test_a_graph_repeats_what_was_recorded(cupy, x, scale):
    rows, y = cupy.asarray([0]), cupy.zeros((2, 3), np.float32)
    stream, pool = cupy.cuda.Stream(non_blocking=True), cupy.cuda.MemoryPool()

    def work():
        scale((1,), (6,), (y, x, np.float32(2), np.int32(6)))
        total = y.sum()
        x[...] += 1
        picked = x[rows]
        y[0, 0] = total
        x[rows] = picked + 10
        return picked

    work()  # whatever is compiled and loaded at its first use
    x.set(np.arange(6, dtype=np.float32).reshape(2, 3))
    y[...] = 0
    cupy.cuda.Device().synchronize()
    with stream, cupy.cuda.using_allocator(pool.malloc):
        stream.begin_capture()
        assert stream.is_capturing()
        picked = work()
        graph = stream.end_capture()
    assert not stream.is_capturing()
    cupy.cuda.Device().synchronize()
    np.testing.assert_array_equal(x.get(), [[0, 1, 2], [3, 4, 5]])  # nothing has run
    np.testing.assert_array_equal(y.get(), np.zeros((2, 3)))
    graph.launch(stream)
    stream.synchronize()
    np.testing.assert_array_equal(y.get(), [[30, 2, 4], [6, 8, 10]])
    np.testing.assert_array_equal(x.get(), [[11, 12, 13], [4, 5, 6]])
    rows[...] = 1
    cupy.cuda.Device().synchronize()
    graph.launch(stream)
    stream.synchronize()
    np.testing.assert_array_equal(y.get(), [[102, 24, 26], [8, 10, 12]])
    np.testing.assert_array_equal(x.get(), [[12, 13, 14], [15, 16, 17]])
    np.testing.assert_array_equal(picked.get(), [[5, 6, 7]])


def test_the_default_stream_is_not_captured(cupy):
    with pytest.raises(RuntimeError, match="default"):
        cupy.cuda.get_current_stream().begin_capture()
    with pytest.raises(RuntimeError, match="IllegalState"):
        cupy.cuda.Stream().end_capture()
    with pytest.raises(NotImplementedError):
        cupy.cuda.Graph()
