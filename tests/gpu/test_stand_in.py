"""The stand-in for CuPy: that it is as strict as it says, and offers nothing that CuPy has not."""

from __future__ import annotations

import copy
import importlib.util
import inspect
import json
import operator
import pickle
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import cuda_emulator
import implementations
import numpy as np
import pytest
from implementations import kernels, stand_in
from test_cupy import SOURCE

import ministn
import ministn.backend
from ministn import Tensor, doctor
from ministn.kernels import _cuda
from ministn.kernels.affine_grid import affine_grid


def counted(cupy):
    """The counters since the last look."""
    counts = dict(cupy._stand_in.counts)
    cupy._stand_in.counts.clear()
    return counts


@pytest.fixture
def x(cupy):
    """[[0, 1, 2], [3, 4, 5]]"""
    array = cupy.asarray(np.arange(6, dtype=np.float32).reshape(2, 3))
    counted(cupy)
    return array


# --- nothing moves between NumPy and the device unless asked ----------------------------------------------------------


@pytest.mark.parametrize(
    "use",
    [
        lambda cupy, x: np.asarray(x),
        lambda cupy, x: np.array([x, x]),
        lambda cupy, x: x + np.ones(3),
        lambda cupy, x: np.ones(3) * x,
        lambda cupy, x: x - [1, 2, 3],
        lambda cupy, x: x == np.zeros(3),
        lambda cupy, x: x @ np.eye(3),
        lambda cupy, x: x.__setitem__(0, np.zeros(3)),
        lambda cupy, x: x.__setitem__(slice(None), [[0, 0, 0]]),
        lambda cupy, x: x.__iadd__(np.ones(3)),
        lambda cupy, x: cupy.exp(np.ones(3)),
        lambda cupy, x: cupy.maximum(x, np.ones(3)),
        lambda cupy, x: cupy.where(x > 0, x, np.zeros(3)),
        lambda cupy, x: cupy.sum(np.ones(3)),
        lambda cupy, x: cupy.concatenate([x, np.ones((1, 3))]),
        lambda cupy, x: cupy.copyto(x, np.zeros(3)),
        lambda cupy, x: cupy.zeros_like(np.ones(3)),
        lambda cupy, x: np.add(x, 1, out=np.zeros((2, 3))),
        lambda cupy, x: [0, 1, 2][x[0, 1]],
        lambda cupy, x: pickle.dumps(x),
    ],
)
def test_refused(cupy, x, use):
    with pytest.raises(TypeError):
        use(cupy, x)
    assert counted(cupy) == {}


@pytest.mark.parametrize(
    ("use", "expected", "counts"),
    [
        (lambda cupy, x: x.get(), [[0, 1, 2], [3, 4, 5]], {"d2h": 1, "synchronise": 1}),
        (lambda cupy, x: cupy.asnumpy(x[0]), [0, 1, 2], {"d2h": 1, "synchronise": 1}),
        (lambda cupy, x: x.tolist(), [[0, 1, 2], [3, 4, 5]], {"d2h": 1, "synchronise": 1}),
        (lambda cupy, x: x.sum().item(), 15, {"d2h": 1, "synchronise": 1}),
        (lambda cupy, x: float(x[1, 1]), 4, {"d2h": 1, "synchronise": 1}),
        (lambda cupy, x: int(x[1, 2]), 5, {"d2h": 1, "synchronise": 1}),
        (lambda cupy, x: bool((x >= 0).all()), True, {"d2h": 1, "synchronise": 1}),
        (lambda cupy, x: [len(x), x.shape, x.size, x.nbytes], [2, (2, 3), 6, 24], {}),
        (lambda cupy, x: cupy.cuda.Device().synchronize(), None, {"synchronise": 1}),
        (lambda cupy, x: cupy.cuda.get_current_stream().synchronize(), None, {"synchronise": 1}),
        (lambda cupy, x: cupy.cuda.get_current_stream().record().synchronize(), None, {"synchronise": 1}),
        (lambda cupy, x: x.set(np.ones((2, 3), np.float32)), None, {"h2d": 1}),
        (lambda cupy, x: cupy.array([1, 2]).dtype, np.int64, {"h2d": 1}),
        (lambda cupy, x: cupy.asarray(x) is x, True, {}),
        (lambda cupy, x: cupy.array(x) is x, False, {}),
        (lambda cupy, x: copy.deepcopy(x) is x, False, {}),
        (
            lambda cupy, x: [(2 * x + 1).ndim, cupy.zeros(3).ndim, cupy.arange(3).ndim, cupy.full(3, 2.0).ndim],
            [2, 1, 1, 1],
            {},
        ),
        (lambda cupy, x: x.__setitem__((0, slice(1)), 7), None, {}),
        (lambda cupy, x: x.__setitem__(cupy.arange(2), 7), None, {"h2d": 1}),  # CuPy makes an array of the 7
        (lambda cupy, x: x.__setitem__(cupy.arange(2), x), None, {}),
        (lambda cupy, x: x[[0, 1]].shape, (2, 3), {"h2d": 1}),
        (lambda cupy, x: x[x > 3].shape, (2,), {"synchronise": 1}),
        (lambda cupy, x: x.__setitem__(x > 3, x[0, 0]), None, {"synchronise": 1}),
    ],
)
def test_every_transfer_and_wait_is_counted(cupy, x, use, expected, counts):
    result = use(cupy, x)
    if isinstance(expected, list):
        np.testing.assert_array_equal(np.asarray(result, object), np.asarray(expected, object))
    else:
        assert result == expected
    assert counted(cupy) == counts


def test_numpys_functions_are_the_devices(cupy, x):
    assert isinstance(np.exp(x), cupy.ndarray)
    np.testing.assert_array_equal(np.multiply(np.float32(2), x).get(), 2 * x.get())
    np.testing.assert_array_equal(np.sum(x, axis=0).get(), [3, 5, 7])
    with pytest.raises(TypeError, match="reduce"):
        np.add.reduce(x)
    with pytest.raises(AttributeError, match="hypot is not in the stand-in"):
        np.hypot(x, x)


def test_an_operand_may_handle_the_operation_itself(x):
    result = x + Tensor(x)
    assert isinstance(result, Tensor)
    np.testing.assert_array_equal(result.numpy(), 2 * x.get())


def test_fresh_memory_looks_like_no_result(cupy):
    assert np.isnan(cupy.empty(3).get()).all()
    assert np.isnan(cupy.empty_like(cupy.zeros((2, 2), np.float32)).get()).all()
    assert (cupy.empty(3, np.int32).get() == 2**31 - 1).all()
    assert (cupy.empty(3, np.uint8).get() == 255).all()
    assert cupy.empty(3, bool).get().all()


def test_division_by_zero_does_not_warn(cupy, x):
    np.testing.assert_array_equal((x / 0).get()[0], [np.nan, np.inf, np.inf])


# --- what the arrays are ----------------------------------------------------------------------------------------------


def test_repeated_memory_is_not_written_to(cupy, x):
    with pytest.raises(ValueError, match="read-only"):
        cupy.broadcast_to(x[0], (4, 3))[...] = 1


def test_refused_conversions(cupy, x):
    integers = x.astype(np.int32)
    with pytest.raises(TypeError, match="only supports"):  # atomicAdd has no such sum; newer versions of CuPy do
        cupy.add.at(x.astype(np.int64), (0, cupy.asarray([0, 0])), 1)
    with pytest.raises(TypeError, match="same_kind"):
        integers += 0.5
    with pytest.raises(TypeError, match="same_kind"):
        cupy.add(x, 0.5, out=integers)
    with pytest.raises(ValueError, match="mismatched"):
        cupy.add(x, x, out=cupy.zeros((3, 2, 3), np.float32))
    with pytest.raises(TypeError, match="set to"):
        x.set(np.zeros((2, 3)))
    with pytest.raises(ValueError, match="Unsupported dtype"):
        cupy.asarray(np.array(["a"]))
    with pytest.raises(ValueError, match="Unsupported dtype"):
        cupy.zeros(2, object)


# --- indices ----------------------------------------------------------------------------------------------------------


def test_two_values_for_one_element(cupy, x):
    twice = cupy.asarray([0, 2, 3])  # 3 wraps to 0
    with pytest.raises(RuntimeError, match="undefined"):
        x[0, twice] = cupy.ones(3, np.float32)
    x[0, twice] = 9  # the same value: no matter which
    np.testing.assert_array_equal(x[0].get(), [9, 1, 9])
    np.testing.assert_array_equal(x[1].get(), [3, 4, 5])


# --- kernels ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def scale(cupy):
    return cupy.RawModule(code=SOURCE, options=("--std=c++17",)).get_function("scale")


X = np.zeros(4, np.float32)  # stands for an array on the device


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((X, X, np.float32(2), 4), "count: expected a NumPy scalar, got int"),
        ((X, X, 2.0, np.int32(4)), "factor: expected a NumPy scalar, got float"),
        ((X, X, np.float32(2), np.int64(4)), "count: the kernel has i4, and would read bytes of int64"),
        ((X, X, np.int32(2), np.int32(4)), "factor: the kernel has f4, and would read bytes of int32"),
        ((X, X, np.float64(2), np.int32(4)), "factor: the kernel has f4, and would read bytes of float64"),
        ((X, X, np.float32(2), np.uint32(4)), "count: the kernel has i4, and would read bytes of uint32"),
        ((X, X.astype(np.float64), np.float32(2), np.int32(4)), r"x: the kernel has \*cf4, and .* bytes of float64"),
        ((X, X.astype(np.int32), np.float32(2), np.int32(4)), r"x: the kernel has \*cf4, and .* bytes of int32"),
        ((X, X, X, np.int32(4)), "factor: the kernel has a number .f4., got an array"),
        ((X, np.float32(1), np.float32(2), np.int32(4)), r"x: the kernel has a pointer .\*cf4., got float32"),
        ((X, None, np.float32(2), np.int32(4)), "x: the kernel has a pointer .*got NoneType"),
        ((X, X, np.float32(2)), "3 arguments for 4 parameters"),
        ((X, X, np.float32(2), np.int32(4), np.int32(4)), "5 arguments for 4 parameters"),
    ],
)
def test_kernel_arguments_are_what_the_kernel_declares(cupy, scale, arguments, message):
    arguments = tuple(cupy.asarray(each) if isinstance(each, np.ndarray) else each for each in arguments)
    with pytest.raises(TypeError, match=message):
        scale((1,), (4,), arguments)
    assert cupy._stand_in.counts["kernel"] == 0


def test_kernel_arrays_lie_as_the_kernel_thinks(cupy, scale):
    x, y, number, count = cupy.zeros(8, np.float32), cupy.zeros(4, np.float32), np.float32(2), np.int32(4)
    with pytest.raises(TypeError, match="x: not C-contiguous"):
        scale((1,), (4,), (y, x[::2], number, count))
    with pytest.raises(TypeError, match="x: the kernel has a pointer"):
        scale((1,), (4,), (y, x.get(), number, count))
    with pytest.raises(TypeError, match="y: the kernel may write to it"):
        scale((1,), (4,), (cupy.broadcast_to(y, (4,)), x, number, count))
    scale((1,), (4,), (y, x[4:], number, count))


@pytest.mark.parametrize(
    ("grid", "block", "options"),
    [
        (1, (4,), {}),
        ((1,), 4, {}),
        ((0,), (4,), {}),  # CuPy makes it 1
        ((1, 65536), (4,), {}),
        ((1,), (1025,), {}),
        ((1,), (32, 33), {}),
        ((1,), (1, 1, 65), {}),
        ((1,), (4,), {"shared_mem": 49153}),
    ],
)
def test_launches_that_a_device_refuses(cupy, scale, grid, block, options):
    x = cupy.zeros(4, np.float32)
    with pytest.raises((TypeError, ValueError, cuda_emulator.EmulationError)):
        scale(grid, block, (x, x, np.float32(2), np.int32(4)), **options)


def test_a_kernel_that_leaves_its_arrays_is_noticed(cupy):
    source = """
    extern "C" __global__ void shift(float* y, const float* x, int from, int to) { y[to] = x[from]; }
    """
    shift = cupy.RawModule(code=source).get_function("shift")
    x, y = cupy.ones(3, np.float32), cupy.empty(3, np.float32)
    for outside in (-1, 3):
        shift((1,), (1,), (y, x, np.int32(outside), np.int32(0)))
        assert np.isnan(y[0].get())
        y = cupy.empty(3, np.float32)
        with pytest.raises(RuntimeError, match="shift wrote outside of the array it was given as y"):
            shift((1,), (1,), (y, x, np.int32(0), np.int32(outside)))
        y = cupy.empty(3, np.float32)


def test_modules(cupy):
    with pytest.raises(TypeError, match="options"):
        cupy.RawModule(code=SOURCE, options=["--std=c++17"])
    with pytest.raises(RuntimeError, match="not found: missing"):
        cupy.RawModule(code=SOURCE).get_function("missing")
    cupy.RawModule(code="not C++")  # compiled when asked for a function
    with pytest.raises(cuda_emulator.CompileError):
        cupy.RawModule(code='extern "C" __global__ void f() { nonsense; }').get_function("f")


# --- graphs -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "use",
    [
        lambda cupy, x: x.get(),
        lambda cupy, x: x.sum().item(),
        lambda cupy, x: float(x.sum()),
        lambda cupy, x: bool(x.all()),
        lambda cupy, x: print(x),
        lambda cupy, x: x[x > 0],
        lambda cupy, x: cupy.asarray(np.ones(3)),
        lambda cupy, x: cupy.asarray(1.0),
        lambda cupy, x: x.set(np.ones((2, 3), np.float32)),
        lambda cupy, x: x[[0, 1]],
        lambda cupy, x: x.__setitem__(cupy.arange(2), 0),
        lambda cupy, x: cupy.cuda.get_current_stream().synchronize(),
        lambda cupy, x: cupy.cuda.Device().synchronize(),
        lambda cupy, x: cupy.cuda.Stream().begin_capture(),
        lambda cupy, x: cupy.cuda.Stream().end_capture(),
        lambda cupy, x: cupy.cuda.Stream.null.__enter__() and cupy.zeros(3),
        lambda cupy, x: cupy.RawModule(code=SOURCE).get_function("scale"),
    ],
)
def test_refused_during_a_capture(cupy, x, use):
    streams = cupy._stand_in.per_thread.streams
    with cupy.cuda.Stream(non_blocking=True) as stream:
        before = list(streams)
        stream.begin_capture()
        try:
            with pytest.raises(RuntimeError):
                use(cupy, x)
        finally:
            streams[:] = before
            stream.end_capture()


def recorded(cupy, work, *arrays):
    with cupy.cuda.Stream(non_blocking=True) as stream:
        stream.begin_capture()
        result = work(*arrays)
        return stream.end_capture(), result


def test_a_graph_whose_memory_was_given_back(cupy, x):
    """In the common pool the memory of an array that is gone serves the next array; in one of its own it stays."""
    graph, result = recorded(cupy, lambda x: x * 2, x)
    graph.launch()
    np.testing.assert_array_equal(result.get(), 2 * x.get())
    graph, result = recorded(cupy, lambda x: ((x * 2 + 1) * 3 + 1) * 4, x)  # all but the last result are gone
    with pytest.raises(RuntimeError, match="memory that was freed"):
        graph.launch()
    pool = cupy.cuda.MemoryPool()
    with cupy.cuda.using_allocator(pool.malloc):
        graph, result = recorded(cupy, lambda x: x * 2 + 1, x)
    graph.launch()
    np.testing.assert_array_equal(result.get(), 2 * x.get() + 1)
    with cupy.cuda.using_allocator(pool.malloc):
        graph, result = recorded(cupy, lambda y: y + 1, x + 0)  # an input that is gone
    with pytest.raises(RuntimeError, match="memory that was freed"):
        graph.launch()


def test_memory_of_a_graph_that_another_array_had_before(cupy, x):
    """What is written there between two launches, the work on the earlier array overwrites; not so without a pool."""
    pool, kept = cupy.cuda.MemoryPool(), []

    def work(x):
        passing = x + 1
        del passing
        kept.append(cupy.empty_like(x))
        with cupy.cuda.using_allocator(None):
            kept.append(cupy.empty_like(x))
        return kept[0] * 2, kept[1] * 2

    with cupy.cuda.using_allocator(pool.malloc):
        graph, (from_pool, from_none) = recorded(cupy, work, x)
    for array in kept:
        array[...] = 3
    graph.launch()
    assert np.isnan(from_pool.get()).all()
    assert (from_none.get() == 6).all()


def test_a_graph_whose_pool_is_gone(cupy, x):
    with cupy.cuda.using_allocator(cupy.cuda.MemoryPool().malloc):
        graph, _ = recorded(cupy, lambda x: x * 2 + 1, x)
    with pytest.raises(RuntimeError, match="memory that was freed"):
        graph.launch()


# --- in the place of CuPy ---------------------------------------------------------------------------------------------


def test_the_stand_in_is_cupy_only_while_asked_for(monkeypatch):
    installed = ModuleType("cupy")
    installed.ndarray = type("ndarray", (), {})
    monkeypatch.setitem(sys.modules, "cupy", installed)
    monkeypatch.setitem(sys.modules, "cupy.cuda", ModuleType("cupy.cuda"))
    with stand_in() as library:
        assert sys.modules["cupy"] is library
        assert sys.modules["cupy.cuda"] is library.cuda
        array = ministn.backend.to_device(np.ones(3), "gpu")
        assert ministn.backend.device_of(array) == "gpu"
        with stand_in() as inner:
            assert inner is library
        assert sys.modules["cupy"] is library
    assert sys.modules["cupy"] is installed
    assert str(implementations._STAND_IN) not in sys.path
    assert not ministn.backend.is_array(array)
    with stand_in() as again:
        assert again is library
        assert ministn.backend.is_array(array)


def test_the_doctor_says_what_it_is(cupy):
    found = {finding.what: finding.found for finding in doctor._gpu()}
    assert found["CuPy"] == f"{cupy.__version__}, for CUDA 13.0"
    assert found["GPU"] == "0: NumPy, standing in for a GPU, 1 GiB, compute capability 8.0"


@pytest.mark.parametrize("name", ["einsum", "cuda.nccl", "cuda.runtime.deviceReset"])
def test_other_names_are_errors(cupy, name):
    with pytest.raises(AttributeError, match=f"cupy.{name} is not in the stand-in"):
        operator.attrgetter(name)(cupy)


# --- tests that run on every implementation ---------------------------------------------------------------------------


def test_kernels_serves_numpy_arrays_by_cuda_py():
    theta = np.random.default_rng(0).normal(size=(2, 2, 3))
    expected = affine_grid(Tensor(theta), (2, 1, 3, 4)).numpy()
    with kernels("cuda"):
        counts = sys.modules["cupy"]._stand_in.counts
        before = counts["kernel"]
        grid = affine_grid(Tensor(theta), (2, 1, 3, 4)).numpy()
        assert counts["kernel"] == before + 1
        with ministn.use_kernels("reference"):
            affine_grid(Tensor(theta), (2, 1, 3, 4))
        assert counts["kernel"] == before + 1
        on_device = affine_grid(Tensor(theta).to("gpu"), (2, 1, 3, 4))
        assert on_device.device == "gpu"
    np.testing.assert_allclose(grid, expected, rtol=1e-15, atol=1e-15)  # of numbers near 1
    assert ministn.backend._load is ministn.backend.__dict__["_load"]
    assert ministn.backend.implementation("ministn.kernels.affine_grid", theta).__name__.endswith(".cpu")
    with pytest.raises(ValueError, match="'opencl'"), kernels("opencl"):
        pass


def test_the_order_of_the_threads_is_chosen():
    source = """
    extern "C" __global__ void last(int* y) { y[0] = threadIdx.x; }
    """
    last = []
    for order in (0, 1):
        with kernels("cuda", order):
            cupy = sys.modules["cupy"]
            y = cupy.zeros(1, np.int32)
            cupy.RawModule(code=source).get_function("last")((1,), (4,), (y,))
            last.append(y.item())
    assert last == [3, 0]


def test_launch_through_the_stand_in(cupy):
    """What `_cuda.launch` hands over is accepted: numbers, both kinds of sizes, and shared memory."""
    theta, x, y = cupy.zeros((1, 2, 3)), cupy.zeros(2), cupy.zeros(3)
    grid = cupy.empty((1, 3, 2, 2))
    _cuda.launch("ministn.kernels.affine_grid", "affine_grid_forward", 6, grid, theta, x, y, 1, 3, 2)
    assert (grid.get() == 0).all()
    _cuda.launch("ministn.kernels.affine_grid", "affine_grid_forward", 0, grid, theta, x, y, 1, 3, 2)
    assert cupy._stand_in.counts["kernel"] == 1
    for number in (0.5, np.float64(0.5)):
        assert _cuda._argument("kernel", number, np.dtype(np.float32)).dtype == np.float32


@pytest.fixture
def with_numpy_arrays(cupy):
    """A family's cuda.py, as `kernels` hands it out."""

    def serve(**functions):
        return implementations._WithNumPyArrays(SimpleNamespace(__name__="family.cuda", **functions), cupy)

    return serve


def test_arrays_of_a_call_go_there_and_back(cupy, with_numpy_arrays):
    seen = []

    def forward(x, options, pair):
        seen.append((type(x), options, type(pair[0])))
        return 2 * x, [x.sum(), None], {"state": pair[1]}

    array, other = np.ones(2), np.zeros(3)
    doubled, (total, nothing), state = with_numpy_arrays(forward=forward).forward(array, "text", (other, 5))
    assert seen == [(cupy.ndarray, "text", cupy.ndarray)]
    np.testing.assert_array_equal(doubled, [2, 2])
    assert (type(total), total, nothing, state) == (np.ndarray, 2, None, {"state": 5})


def test_the_same_array_is_the_same_on_the_device(with_numpy_arrays):
    array = np.ones(2)
    family = with_numpy_arrays(same=lambda x, y: x is y, first=lambda x: x)
    assert family.same(array, array)
    assert not family.same(array, array.copy())
    assert family.first(array) is array


def test_only_functions_with_an_underscore_write_to_their_arguments(with_numpy_arrays):
    def double(x, y):
        x *= y

    family, array = with_numpy_arrays(double_=double, double=double), np.ones((2, 3))[:, ::2]
    family.double_(array, np.full((2, 2), 2.0))
    np.testing.assert_array_equal(array, 2 * np.ones((2, 2)))
    with pytest.raises(AssertionError, match=r"double of family.cuda changed an input"):
        family.double(array, np.full((2, 2), 2.0))


def test_arrays_lie_on_the_device_as_they_did(with_numpy_arrays):
    base = np.arange(24.0).reshape(2, 3, 4)
    family = with_numpy_arrays(strides=lambda x: x.strides, values=lambda x: 1 * x)
    for array in (
        base,
        np.moveaxis(base, 0, -1),
        base.T,
        np.broadcast_to(base[:, :1], (2, 5, 4)),
        base[:, 0],
        base[0, 0, 0],
    ):
        array = np.asarray(array)
        dense = tuple(n * 8 for n in np.cumprod([1, *sorted(array.shape)]))  # what strides of no gaps can be
        strides = family.strides(array)
        assert np.argsort(strides).tolist() == np.argsort(array.strides).tolist()
        assert [s == 0 for s in strides] == [s == 0 for s in array.strides]
        assert not strides or max(strides) <= dense[-1]
        np.testing.assert_array_equal(family.values(array), array)
    assert family.strides(np.moveaxis(base, 0, -1)) == (32, 8, 96)
    assert family.strides(base[:, 0]) == (32, 8)


# --- against CuPy itself ----------------------------------------------------------------------------------------------


def offered(cupy):
    """All public names of the stand-in, with their parameters, or None for what is not called."""
    names = {}
    for prefix, module in (("", cupy), ("cuda.", cupy.cuda), ("cuda.runtime.", cupy.cuda.runtime)):
        for name, value in vars(module).items():
            home = getattr(value, "__module__", "cupy").split(".")[0]
            if name.startswith("_") or isinstance(value, ModuleType) or home not in ("cupy", "numpy"):
                continue
            names[prefix + name] = parameters(value)
            if isinstance(value, type) and home == "cupy":
                names.update({f"{prefix}{name}.{member}": of for member, of in members(value)})
    return names


def members(cls):
    for name, value in vars(cls).items():
        if not name.startswith("_") or name == "__call__":
            yield name, parameters(getattr(cls, name))
        elif name.startswith("__") and inspect.isfunction(value):
            yield name, None  # Python defines how they are called


def parameters(value):
    """(name, kind, repr of the default or None) of each; None if nobody knows."""
    if not callable(value) or (isinstance(value, type) and "__init__" not in vars(value)):
        return None
    try:
        found = inspect.signature(value.__call__ if type(value).__name__ == "ufunc" else value)
    except ValueError:  # some of NumPy's compiled functions, before 2.4
        return None
    return [
        (name, parameter.kind.name, None if parameter.default is parameter.empty else repr(parameter.default))
        for name, parameter in found.parameters.items()
        if name != "self"
    ]


def problems_with_real_cupy(names):
    if importlib.util.find_spec("cupy") is None:
        pytest.skip("CuPy is not installed: what the stand-in offers is not compared with it")
    script = Path(__file__).parent / "real_cupy.py"
    result = subprocess.run([sys.executable, str(script)], input=json.dumps(names), capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()


def test_cupy_has_all_that_the_stand_in_offers():
    """And since every other name is an AttributeError, what ministn uses in tests on the stand-in, CuPy has."""
    with stand_in() as library:
        names = offered(library)
    assert {"ndarray.sum", "add", "RawKernel.__call__", "cuda.Stream.begin_capture", "zeros_like"} <= set(names)
    assert problems_with_real_cupy(names) == []


def test_the_comparison_with_cupy_finds_differences():
    either, keyword = "POSITIONAL_OR_KEYWORD", "KEYWORD_ONLY"
    names = {
        "sum_of_squares": None,
        "ndarray.norm": [],
        "zeros": [("shape", either, None), ("dtype", either, "<class 'int'>")],
        "ndarray.sum": [("dtype", either, "None"), ("axis", either, "None")],
        "where": [("condition", either, None), ("scalar", keyword, None)],
        "full": [("shape", either, None)],
        "exp": [("where", keyword, "True")],
        "cuda.Stream.synchronize": [("timeout", either, "None")],
        "ndarray.get": [("stream", either, "None"), ("order", either, "'C'")],  # as it is
    }
    problems = problems_with_real_cupy(names)
    assert {line.split(":")[0] for line in problems} == set(names) - {"ndarray.get"}
    assert "zeros: 'dtype' is <class 'float'> by default, not <class 'int'>" in problems
    assert "ndarray.sum: 'dtype' is not parameter 0" in problems
    assert "full: needs 'fill_value'" in problems
    assert "exp: has no parameter 'where'" in problems
