"""One test for every implementation of a kernel family: NumPy's equations, the loops, CUDA emulated, CUDA on a GPU.

>>> @pytest.mark.parametrize("name", KERNELS)  # doctest: +SKIP
... def test_something(name):
...     with kernels(name):
...         assert affine_grid(theta, size).shape == ...

The arrays of such a test stay NumPy's. For "cuda" and "gpu" those that are handed to a family are copied to the device,
its `cuda.py` computes, and what it returns is copied back, so that a test written for the CPU runs as it is.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import cuda_emulator
import numpy as np
import pytest

import ministn.backend
from ministn import use_kernels

KERNELS = ["cpu", "reference", "cuda", pytest.param("gpu", marks=pytest.mark.gpu)]
_STAND_IN = Path(__file__).parent / "gpu" / "stand_in"
_loaded: dict[str, ModuleType] = {}  # the stand-in's modules, while they are not in sys.modules


@contextlib.contextmanager
def kernels(name: str, thread_order: int | None = None) -> Iterator[None]:
    """Within the block, NumPy arrays are served by ``"cpu"``, ``"reference"``, ``"cuda"`` (emulated) or ``"gpu"``.

    Parameters
    ----------
    name : str
        One of `KERNELS`. Without a C++ compiler "cuda" skips the test, without a GPU and CuPy "gpu" does.
    thread_order : int, optional
        Of blocks and threads on the emulator: 0 ascending, 1 descending, another number the seed of a random one.
    """
    if name in ("cpu", "reference"):
        with use_kernels(name):
            yield
    elif name == "cuda":
        order = {} if thread_order is None else {"order": thread_order}
        with stand_in() as library, cuda_emulator.launch_defaults(**order), _served_by(library):
            yield
    elif name == "gpu":
        with _served_by(real_cupy()):
            yield
    else:
        raise ValueError(f"kernels: expected one of {KERNELS}, got {name!r}")


@contextlib.contextmanager
def stand_in() -> Iterator[Any]:
    """Within the block ``import cupy`` finds the stand-in of tests/gpu/stand_in, whether or not CuPy is installed.

    Yields
    ------
    module
        The stand-in. Its ``_stand_in.counts`` count transfers, synchronisations and launches.
    """
    try:
        cuda_emulator.find_compiler()
    except cuda_emulator.NoCompilerError as error:
        pytest.skip(str(error))
    replaced = _taken_out()
    sys.modules.update(_loaded)
    sys.path.insert(0, str(_STAND_IN))
    try:
        import cupy
        import cupyx  # noqa: F401

        yield cupy
    finally:
        sys.path.remove(str(_STAND_IN))
        _loaded.update(_taken_out())
        sys.modules.update(replaced)


def real_cupy() -> Any:
    """CuPy, if it is installed and finds a GPU; otherwise the test is skipped."""
    cupy = pytest.importorskip("cupy", reason="needs CuPy and a GPU", exc_type=ImportError)
    if not cupy.cuda.is_available():
        pytest.skip("CuPy finds no GPU")
    return cupy


def _taken_out() -> dict[str, ModuleType]:
    """All modules of CuPy, or of the stand-in, removed from sys.modules."""
    names = [name for name in sys.modules if name.split(".")[0] in ("cupy", "cupyx")]
    return {name: sys.modules.pop(name) for name in names}


@contextlib.contextmanager
def _served_by(library: Any) -> Iterator[None]:
    """NumPy arrays given to a family are served by its cuda.py, with `library` to hold them."""
    load = ministn.backend._load

    def load_cuda_for_cpu(family: str, name: str) -> Any:
        return _WithNumPyArrays(load(family, "cuda"), library) if name == "cpu" else load(family, name)

    ministn.backend._load = load_cuda_for_cpu
    try:
        with use_kernels("cpu"):
            yield
    finally:
        ministn.backend._load = load


class _WithNumPyArrays:
    """A cuda.py that takes and returns NumPy arrays."""

    def __init__(self, module: ModuleType, library: Any) -> None:
        self._module, self._library = module, library

    def __getattr__(self, name: str) -> Callable[..., Any]:
        function = getattr(self._module, name)

        def call(*arguments: Any, **keywords: Any) -> Any:
            pairs: list[tuple[np.ndarray, Any]] = []  # of an array and its copy on the device
            to_device = lambda value: _mapped(value, lambda array: self._copied(array, pairs))  # noqa: E731
            result = function(*map(to_device, arguments), **{key: to_device(v) for key, v in keywords.items()})
            for array, copy in pairs:
                if not np.array_equal(copy.get(), array, equal_nan=array.dtype.kind == "f"):
                    assert name.endswith("_"), f"{name} of {self._module.__name__} changed an input"
                    array[...] = copy.get()
            return _mapped(result, lambda array: self._copied_back(array, pairs))

        return call

    def _copied(self, array: Any, pairs: list[tuple[np.ndarray, Any]]) -> Any:
        if not isinstance(array, np.ndarray):
            return array
        for known, copy in pairs:
            if known is array:
                return copy
        pairs.append((array, _with_strides_of(array, self._library)))
        return pairs[-1][1]

    def _copied_back(self, array: Any, pairs: list[tuple[np.ndarray, Any]]) -> Any:
        if not isinstance(array, self._library.ndarray):
            return array
        for known, copy in pairs:
            if copy is array:
                return known
        return array.get()


def _with_strides_of(array: np.ndarray, library: Any) -> Any:
    """`array` on the device, with its axes in the same order in memory, and repeated along the same axes.

    What a layer of the training hands to the next is not always C-contiguous; a kernel has to cope with it.
    """
    once = array[tuple([slice(1 if stride == 0 else None) for stride in array.strides])]
    axes = sorted(range(array.ndim), key=lambda axis: -abs(array.strides[axis]))
    copy = library.asarray(np.array(once.transpose(axes), order="C"))
    copy = copy.transpose(tuple(int(axis) for axis in np.argsort(axes)))
    return copy if once.shape == array.shape else library.broadcast_to(copy, array.shape)


def _mapped(value: Any, change: Callable[[Any], Any]) -> Any:
    """`change` of `value`, or of all it holds if it is a tuple, list or dict."""
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*[_mapped(part, change) for part in value])
    if isinstance(value, (tuple, list)):
        return type(value)([_mapped(part, change) for part in value])
    if isinstance(value, dict):
        return {key: _mapped(part, change) for key, part in value.items()}
    return change(value)
