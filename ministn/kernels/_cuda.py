"""Compiling and launching the CUDA kernels of a family, for whichever library holds the arrays.

>>> launch(__package__, "affine_grid_forward", N * H * W, grid, theta, x, y, N, H, W)  # doctest: +SKIP

`cuda.cu` is compiled once for each dtype, at the first launch; CuPy keeps the result on the disk. Launches go to CuPy's
current stream, and nothing here waits for the device.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.resources
import math
import re
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

import numpy as np

from ministn.backend import Array, array_module, is_array

THREADS = 256  # of a block, unless a kernel asks for something else
_MOST_BLOCKS = 2**15  # in a grid-stride launch; more would only queue up
_NUMBERS = {np.dtype(np.float32): "float", np.dtype(np.float64): "double"}


def launch(
    package: str,
    kernel: str,
    count: int,
    *arguments: Array | int | bool | float | np.generic,
    blocks: int | tuple[int, ...] | None = None,
    threads: int | tuple[int, ...] = THREADS,
    shared: int = 0,
) -> None:
    """Run a kernel of ``<package>/cuda.cu`` on the device.

    Parameters
    ----------
    package : str
        The family, as ``__package__`` of its `cuda.py`.
    kernel : str
        The name of an ``extern "C" __global__`` function.
    count : int
        Items that the threads share out by grid stride; nothing is launched if it is 0, with `blocks` or without.
    *arguments
        As the kernel declares them. Arrays must be C-contiguous; the floating-point ones have the dtype that `number`
        is compiled as. Python integers and bools become ``int``, floats a ``number``; anything else is wrapped in a
        NumPy scalar by the caller, such as ``np.int64(stride)``.
    blocks : int or tuple of int, optional
        The grid; by default enough blocks for `count` items, one for each thread.
    threads : int or tuple of int
        Of a block.
    shared : int
        Bytes of dynamic shared memory of a block.

    Raises
    ------
    ValueError
        If an array is not C-contiguous, or floating-point arrays differ in dtype.
    OverflowError
        If an integer does not fit in 32 bits.
    """
    if count == 0:
        return
    dtype = _common_dtype(kernel, arguments)
    library = next(array_module(value) for value in arguments if is_array(value))
    if blocks is None:
        blocks = min(-(-count // math.prod(_as_tuple(threads))), _MOST_BLOCKS)
    function = _function(library, package, dtype, kernel)
    values = tuple([_argument(kernel, value, dtype) for value in arguments])
    function(_as_tuple(blocks), _as_tuple(threads), values, shared_mem=shared)


def on_device(library: Any, make: Callable[..., np.ndarray], *arguments: Any) -> Array:
    """``make(*arguments)``, a NumPy array, as an array of `library`: sent once, then kept. Do not write to it."""
    return _sent(library, make, arguments)


@functools.cache  # without a limit: a recorded graph reads from it for ever
def _sent(library: Any, make: Callable[..., np.ndarray], arguments: tuple[Any, ...]) -> Array:
    return library.asarray(make(*arguments))


# --- steps that are recorded ------------------------------------------------------------------------------------------

# Each thread has its own.
_recordable = ContextVar("_recordable", default=False)
_anew: ContextVar[list[Callable[[], None]] | None] = ContextVar("_anew", default=None)


@contextlib.contextmanager
def recordable() -> Iterator[None]:
    """Within the block, kernels are chosen that a CUDA graph can hold: CuPy refuses to record the calls of cuBLAS."""
    token = _recordable.set(True)
    try:
        yield
    finally:
        _recordable.reset(token)


def must_be_recordable() -> bool:
    """Whether `recordable` asked for kernels that a CUDA graph can hold."""
    return _recordable.get()


@contextlib.contextmanager
def recording() -> Iterator[list[Callable[[], None]]]:
    """Around the recording of a graph. Yields the list of what `before_each_run` was told, to do before each run."""
    work: list[Callable[[], None]] = []
    token = _anew.set(work)
    try:
        with recordable():
            yield work
    finally:
        _anew.reset(token)


def before_each_run(work: Callable[[], None]) -> None:
    """Do `work` now; while a graph is being recorded, do it before each of its runs and not now.

    For what is another thing each time, such as a random mask: a graph repeats its kernels with the same numbers.
    """
    recorded = _anew.get()
    if recorded is None:
        work()
    else:
        recorded.append(work)


def room_for_each_run(library: Any, shape: tuple[int, ...], dtype: Any) -> Array:
    """A new array for what `before_each_run` fills.

    A recording takes its memory from a pool, which may give this array the memory of one that is gone by then. The
    graph makes that one anew in each run, over what was filled in before the run. So this comes from no pool.
    """
    if _anew.get() is None:
        return library.empty(shape, dtype)
    with library.cuda.using_allocator(None):
        return library.empty(shape, dtype)


def source(package: str) -> str:
    """``cuda.cu`` of a family as it is compiled: with the text of `cuda.cuh`, ... in place of each #include.

    Pasted, because CuPy's cache on the disk knows a kernel by its text: it would not see an edit of an included file.
    """
    kernels, name = importlib.resources.files("ministn.kernels"), f"{package.rsplit('.', 1)[-1]}/cuda.cu"
    lines = (importlib.resources.files(package) / "cuda.cu").read_text().splitlines()
    assert '#include "cuda.cuh"' in lines, f'{package}/cuda.cu: expected a line #include "cuda.cuh"'
    for k, line in enumerate(lines):
        if header := re.fullmatch(r'#include "(\w+\.cuh)"', line):
            text = (kernels / header[1]).read_text()
            lines[k] = f'#line 1 "{header[1]}"\n{text}\n#line {k + 2} "{name}"'
    return "\n".join(lines) + "\n"


def options(dtype: Any) -> tuple[str, ...]:
    """What the compiler is called with."""
    return ("--std=c++17", f"-DNUMBER={_NUMBERS[np.dtype(dtype)]}")


@functools.cache
def _module(library: Any, package: str, dtype: np.dtype[Any]) -> Any:
    return library.RawModule(code=source(package), options=options(dtype))


@functools.cache
def _function(library: Any, package: str, dtype: np.dtype[Any], kernel: str) -> Any:
    return _module(library, package, dtype).get_function(kernel)


def _common_dtype(kernel: str, arguments: tuple[Any, ...]) -> np.dtype[Any]:
    dtypes = {value.dtype for value in arguments if is_array(value) and value.dtype.kind == "f"}
    if len(dtypes) != 1:
        raise ValueError(f"{kernel}: expected floating-point arrays of one dtype, got {sorted(map(str, dtypes))}")
    return dtypes.pop()


def _argument(kernel: str, value: Any, dtype: np.dtype[Any]) -> Any:
    if type(value) is int or type(value) is bool:
        if not -(2**31) <= value < 2**31:
            raise OverflowError(f"{kernel}: {value} does not fit in an int; pass np.int64 where the kernel has index_t")
        return np.int32(value)
    if isinstance(value, float):  # np.float64 is one, too: a kernel would read half of its bytes as a float
        return dtype.type(value)
    if is_array(value) and not value.flags.c_contiguous:
        raise ValueError(f"{kernel}: expected C-contiguous arrays, got strides {value.strides} of shape {value.shape}")
    return value


def _as_tuple(value: int | tuple[int, ...]) -> tuple[int, ...]:
    return value if isinstance(value, tuple) else (value,)
