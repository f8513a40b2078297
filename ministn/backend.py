"""Where an array lives, and which implementation of a kernel family serves it.

An array is a ``numpy.ndarray`` (device ``"cpu"``) or a ``cupy.ndarray`` (device ``"gpu"``). Nothing here imports
CuPy: a CuPy array can only exist once its library is loaded, so it is looked up in ``sys.modules``.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import numpy as np

Array = Any  # numpy.ndarray or cupy.ndarray

_cpu_kernels = "cpu"


def is_array(value: object) -> bool:
    """Whether `value` is a NumPy or a CuPy array."""
    if isinstance(value, np.ndarray):
        return True
    cupy = sys.modules.get("cupy")
    return cupy is not None and isinstance(value, cupy.ndarray)


def device_of(array: Array) -> str:
    """``"cpu"`` for a NumPy array, ``"gpu"`` for a CuPy array; TypeError for anything else."""
    if isinstance(array, np.ndarray):
        return "cpu"
    if is_array(array):
        return "gpu"
    raise TypeError(f"expected a NumPy or CuPy array, got {type(array).__name__}")


def array_module(array: Array) -> Any:
    """The library an array belongs to (NumPy or CuPy): code written as ``xp = array_module(x)`` runs on both."""
    return np if device_of(array) == "cpu" else sys.modules["cupy"]


def implementation(family: str, array: Array) -> ModuleType:
    """The module of a kernel family that serves `array`: ``cpu``, ``cuda``, or ``reference`` inside `use_kernels`.

    Parameters
    ----------
    family : str
        The family's package, for instance ``"ministn.kernels.conv2d"``.
    array : numpy.ndarray or cupy.ndarray
        The array the kernel will read; its type decides.
    """
    return _load(family, _cpu_kernels if type(array) is np.ndarray or device_of(array) == "cpu" else "cuda")


@functools.cache
def _load(family: str, name: str) -> ModuleType:
    return importlib.import_module(f"{family}.{name}")


@contextlib.contextmanager
def use_kernels(name: str) -> Iterator[None]:
    """Within the block, NumPy arrays are served by ``"reference"`` (NumPy equations) or ``"cpu"`` (Numba loops).

    >>> with use_kernels("reference"):
    ...     y = model(x)  # doctest: +SKIP
    """
    global _cpu_kernels
    if name not in ("reference", "cpu"):
        raise ValueError(f"use_kernels: expected 'reference' or 'cpu', got {name!r}")
    before, _cpu_kernels = _cpu_kernels, name
    try:
        yield
    finally:
        _cpu_kernels = before


def set_num_threads(count: int) -> None:
    """Let the Numba kernels use `count` threads (1 to the number of processors that Numba found)."""
    import numba

    most = int(numba.config.NUMBA_NUM_THREADS)  # type: ignore[attr-defined]
    if not isinstance(count, int) or not 1 <= count <= most:
        raise ValueError(f"set_num_threads: expected 1 to {most}, got {count!r}")
    numba.set_num_threads(count)


def get_num_threads() -> int:
    """The number of threads the Numba kernels use."""
    import numba

    return int(numba.get_num_threads())
