"""Where an array lives, how it gets there, and which implementation of a kernel family serves it.

An array is a ``numpy.ndarray`` (device ``"cpu"``) or a ``cupy.ndarray`` (device ``"gpu"``). CuPy is imported when
something is first moved to the GPU, and by nobody else: a CuPy array can only exist once its library is loaded, so for
arrays that are there already it is looked up in ``sys.modules``.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import sys
from collections.abc import Iterator
from contextvars import ContextVar
from types import ModuleType
from typing import Any

import numpy as np

Array = Any  # numpy.ndarray or cupy.ndarray

DEVICES = ("cpu", "gpu")

_cpu_kernels = ContextVar("_cpu_kernels", default="cpu")  # each thread has its own
_deterministic = False


class DeviceError(RuntimeError):
    """The GPU was asked for and cannot be used; the message says why, and what to install."""


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


def to_device(array: Array, device: str) -> Array:
    """`array` in the memory of `device`: itself if it is there already, else a copy.

    Parameters
    ----------
    array : numpy.ndarray or cupy.ndarray
    device : {"cpu", "gpu"}

    Returns
    -------
    numpy.ndarray or cupy.ndarray
        A copy on the GPU is C-contiguous: images are NCHW there, in which its kernels work.

    Raises
    ------
    DeviceError
        If `device` is ``"gpu"`` and there is no CuPy, or no GPU that it can use.
    """
    check_device("to_device", device)
    if device_of(array) == device:
        return array
    return array.get() if device == "cpu" else cupy_with_gpu().asarray(array, order="C")


def check_device(name: str, device: str) -> None:
    """`device` must be one of `DEVICES`; `name` is the function that was called with it."""
    if not isinstance(device, str) or device not in DEVICES:
        raise ValueError(f"{name}: expected a device 'cpu' or 'gpu', got {device!r}")


def cupy_with_gpu() -> Any:
    """CuPy, imported now if it was not before.

    Raises
    ------
    DeviceError
        If it is missing, cannot be loaded, finds no GPU, or cannot compute on the one it finds.
    """
    try:
        import cupy
    except ImportError as error:
        install = 'pip install "ministn[gpu-cuda12]" (or gpu-cuda13, for a driver of CUDA 13)'
        reason = "" if isinstance(error, ModuleNotFoundError) else f", which does not load here ({_first_line(error)})"
        raise DeviceError(f"the GPU needs CuPy{reason}: {install}") from error
    _check_gpu(cupy)
    return cupy


@functools.lru_cache(maxsize=4)
def _check_gpu(cupy: Any) -> None:
    try:
        reason = "" if cupy.cuda.runtime.getDeviceCount() else "there is none"
    except Exception as error:  # CuPy's own, which are of many kinds: no driver, one too old, no library
        reason = _first_line(error)
    if reason:
        raise DeviceError(f"CuPy finds no GPU ({reason}); see python -m ministn doctor")
    try:  # to compile a kernel, and to multiply matrices: CuPy is installed and imported without what it needs for them
        ones = cupy.ones((2, 2), np.float32)
        cupy.matmul(ones, ones)
    except Exception as error:
        raise DeviceError(
            f"CuPy finds a GPU but cannot compute on it ({_first_line(error)}): it needs CUDA's libraries NVRTC and "
            'cuBLAS, which come with pip install "ministn[gpu-cuda12]" (or gpu-cuda13)'
        ) from error


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]


def gpu_name() -> str:
    """What the GPU in use is called, such as ``"NVIDIA A100-SXM4-40GB"``; DeviceError if there is none."""
    runtime = cupy_with_gpu().cuda.runtime
    return str(runtime.getDeviceProperties(runtime.getDevice())["name"].decode())


def synchronize() -> None:
    """Wait until the GPU has done all that it was given; nothing to wait for if it was never used.

    Operations on the GPU are queued and return at once; only reading a value waits. So to time them, call this before
    each look at the clock.
    """
    cupy = sys.modules.get("cupy")
    if cupy is not None:
        cupy.cuda.Device().synchronize()


def use_deterministic_kernels(mode: bool = True) -> None:
    """Choose, on the GPU, kernels that give the same bits in every run over faster ones that do not.

    It concerns the gradient with respect to the images that a sampler reads (`grid_sample`, `spatial_transform`), where
    many output pixels add to one input pixel: by default in the order in which the threads come (atomic additions),
    after ``use_deterministic_kernels(True)`` in a fixed one. The networks of `ministn.models` need no such gradient,
    since the images they warp are data. On the CPU every kernel has a fixed order.

    Parameters
    ----------
    mode : bool
    """
    global _deterministic
    _deterministic = bool(mode)


def deterministic() -> bool:
    """Whether `use_deterministic_kernels` asked for a fixed order."""
    return _deterministic


def implementation(family: str, array: Array) -> ModuleType:
    """The module of a kernel family that serves `array`: ``cpu``, ``cuda``, or ``reference`` inside `use_kernels`.

    Parameters
    ----------
    family : str
        The family's package, for instance ``"ministn.kernels.conv2d"``.
    array : numpy.ndarray or cupy.ndarray
        The array the kernel will read; its type decides.
    """
    return _load(family, _cpu_kernels.get() if type(array) is np.ndarray or device_of(array) == "cpu" else "cuda")


@functools.cache
def _load(family: str, name: str) -> ModuleType:
    return importlib.import_module(f"{family}.{name}")


@contextlib.contextmanager
def use_kernels(name: str) -> Iterator[None]:
    """Within the block, NumPy arrays are served by ``"reference"`` (NumPy equations) or ``"cpu"`` (Numba loops).

    It holds for the thread that is in the block; one that is started there begins with the Numba loops.

    >>> with use_kernels("reference"):
    ...     y = model(x)  # doctest: +SKIP
    """
    if name not in ("reference", "cpu"):
        raise ValueError(f"use_kernels: expected 'reference' or 'cpu', got {name!r}")
    token = _cpu_kernels.set(name)
    try:
        yield
    finally:
        _cpu_kernels.reset(token)


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
