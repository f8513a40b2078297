"""Every launch of a kernel done twice: by whoever does it, and from the PTX that NVIDIA's compiler emits."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import nvrtc
import ptx
from ptx.memory import merged

from ministn.kernels import _cuda


@dataclass(frozen=True)
class Launch:
    """One launch, and the arrays it was given as they are afterwards."""

    package: str
    kernel: str
    dtype: np.dtype
    threads: int
    shared: int
    results: list[np.ndarray]
    results_of_ptx: list[np.ndarray]


@contextlib.contextmanager
def ptx_beside(arch: str, options: tuple[str, ...] = (), **how: Any) -> Iterator[list[Launch]]:
    """Within the block, what a kernel is given is copied first, and its PTX runs on the copies.

    Parameters
    ----------
    arch : str
        The compute capability that the PTX is for.
    options : tuple of str
        Of the compiler, beside those that are always there.
    **how
        Passed to `ptx.launch`.

    Yields
    ------
    list of Launch
        All launches up to now.
    """
    launches: list[Launch] = []
    function = _cuda._function

    def with_ptx(library: Any, package: str, dtype: np.dtype, name: str) -> Callable[..., None]:
        original, kernel = function(library, package, dtype, name), kernels(package, dtype, arch, options)[name]

        def call(grid: tuple[int, ...], block: tuple[int, ...], values: tuple[Any, ...], *, shared_mem: int) -> None:
            copies = _copied(values)
            original(grid, block, values, shared_mem=shared_mem)
            ptx.launch(kernel, grid, block, copies, shared_mem, **how)
            results = [value.get() for value in values if _is_array(value)]
            of_ptx = [copy for copy in copies if isinstance(copy, np.ndarray)]
            launches.append(Launch(package, name, dtype, int(np.prod(block)), shared_mem, results, of_ptx))

        return call

    _cuda._function = with_ptx
    try:
        yield launches
    finally:
        _cuda._function = function


@functools.cache
def kernels(package: str, dtype: Any, arch: str, options: tuple[str, ...] = ()) -> dict[str, ptx.Kernel]:
    """The kernels of a family, compiled and parsed."""
    code, _ = nvrtc.compile(_cuda.source(package), (*_cuda.options(dtype), *options), arch, "ptx")
    return ptx.parse(code)


def _is_array(value: Any) -> bool:
    return not isinstance(value, np.generic)


def _copied(values: tuple[Any, ...]) -> list[np.ndarray | np.generic]:
    """The values with arrays copied from the device: those that share memory there share it here too."""
    arrays = [value for value in values if _is_array(value) and value.size]
    regions = merged([(_address(array), _address(array) + array.nbytes) for array in arrays])
    memories = {start: _memory(start, end - start) for start, end in regions}

    def copied(value: Any) -> np.ndarray | np.generic:
        if not _is_array(value):
            return value
        if not value.size:
            return np.empty(value.shape, value.dtype)
        start = max(start for start in memories if start <= _address(value))
        offset = _address(value) - start
        copy = memories[start][offset : offset + value.nbytes].view(value.dtype).reshape(value.shape)
        copy[...] = value.get()
        return copy

    return [copied(value) for value in values]


def _address(array: Any) -> int:
    stand_in = getattr(array, "_values", None)  # the NumPy array that an array of the stand-in holds
    return array.data.ptr if stand_in is None else stand_in.ctypes.data


def _memory(address: int, size: int) -> np.ndarray:
    """Bytes, aligned as those at `address` are."""
    room = np.zeros(size + 256, np.uint8)
    start = (address - room.ctypes.data) % 256
    return room[start : start + size]
