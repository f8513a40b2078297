"""Kernels in CUDA C++, run by the emulator."""

from __future__ import annotations

import ctypes
from typing import Any

import cuda_emulator
import numpy as np

from cupy import _stand_in
from cupy._array import ndarray

_MOST_THREADS, _LARGEST_BLOCK = 1024, (1024, 1024, 64)
_LARGEST_GRID = (2**31 - 1, 2**16 - 1, 2**16 - 1)
_MOST_SHARED_MEMORY = 48 * 1024  # bytes, without asking the driver for more


class RawModule:
    """A CUDA source; compiled when the first function is asked for."""

    def __init__(self, *, code: str, options: tuple[str, ...] = ()) -> None:
        if not isinstance(code, str):
            raise TypeError(f"Argument 'code' has incorrect type (expected str, got {type(code).__name__})")
        if not isinstance(options, tuple):
            raise TypeError(f"Argument 'options' has incorrect type (expected tuple, got {type(options).__name__})")
        self._code, self._options = code, options
        self._kernels: dict[str, Any] | None = None

    def get_function(self, name: str) -> RawKernel:
        if self._kernels is None:
            if _stand_in.capture is not None:
                raise RuntimeError("stand-in: compiling and loading kernels during a capture; launch them once before")
            self._kernels = cuda_emulator.build(self._code, self._options)
        if name not in self._kernels:
            raise RuntimeError(f"CUDA_ERROR_NOT_FOUND: named symbol not found: {name}")
        return RawKernel._of(self._kernels[name])


class RawKernel:
    """A kernel, with every argument held against its declaration: CuPy passes on the bytes of whatever it is given."""

    def __init__(self, code: str, name: str) -> None:
        raise NotImplementedError("stand-in: use RawModule(code=...).get_function(name)")

    @classmethod
    def _of(cls, kernel: Any) -> RawKernel:
        self = cls.__new__(cls)
        self._kernel, self.name = kernel, kernel.name
        return self

    def __call__(self, grid: tuple[int, ...], block: tuple[int, ...], args: Any, *, shared_mem: int = 0) -> None:
        if not isinstance(grid, tuple) or not isinstance(block, tuple) or not isinstance(args, (tuple, list)):
            raise TypeError(f"{self.name}: expected grid, block and args to be tuples")
        sizes = [(*size, 1, 1)[:3] for size in (grid, block)]
        self._check_sizes(*sizes, shared_mem)
        signature = self._kernel.signature
        if len(args) != len(signature):
            raise TypeError(f"{self.name}: {len(args)} arguments for {len(signature)} parameters")
        buffers = [self._buffer(i, *both) for i, both in enumerate(zip(args, signature, strict=True))]
        arrays = [value for value in args if isinstance(value, ndarray)]
        kept = [array._values for array in arrays]
        _stand_in.counts["kernel"] += 1

        def work() -> None:
            self._kernel.launch(*sizes, buffers, shared=shared_mem, order=_stand_in.thread_order)
            kept.__len__()  # the memory that the buffers point to lives as long as the work may be repeated

        _stand_in.submit(work, [array._memory for array in arrays])

    def _check_sizes(self, grid: tuple[int, ...], block: tuple[int, ...], shared: int) -> None:
        threads = block[0] * block[1] * block[2]
        for name, size, largest in (("grid", grid, _LARGEST_GRID), ("block", block, _LARGEST_BLOCK)):
            if not all(1 <= n <= most for n, most in zip(size, largest, strict=True)):
                raise ValueError(
                    f"{self.name}: CUDA_ERROR_INVALID_VALUE: expected a {name} of 1 to {largest}, got {size}"
                )
        if threads > _MOST_THREADS:
            raise ValueError(f"{self.name}: CUDA_ERROR_INVALID_VALUE: {threads} threads in a block of at most 1024")
        if not 0 <= shared <= _MOST_SHARED_MEMORY:
            raise ValueError(
                f"{self.name}: CUDA_ERROR_INVALID_VALUE: {shared} bytes of shared memory, of 49152 at most"
            )

    def _buffer(self, position: int, value: Any, parameter: str) -> Any:
        """The bytes of one argument."""
        where = f"{self.name}: argument {position}"
        wanted = parameter.replace("c", "")
        if isinstance(value, ndarray):
            if not parameter.startswith("*"):
                raise TypeError(f"{where}: the kernel has a number ({parameter}), got an array")
            if wanted != f"*{_code(value.dtype)}":
                raise TypeError(
                    f"{where}: the kernel has {parameter}, got an array of {value.dtype}, read as such bytes"
                )
            if not value.flags.c_contiguous:
                raise TypeError(
                    f"{where}: not C-contiguous: strides {value.strides} of shape {value.shape} are ignored"
                )
            return ctypes.c_uint64(value._values.ctypes.data)
        if parameter.startswith("*"):
            raise TypeError(f"{where}: the kernel has a pointer ({parameter}), got {type(value).__name__}")
        if not isinstance(value, np.generic):
            raise TypeError(
                f"{where}: expected a NumPy scalar, got {type(value).__name__}, which CuPy takes as 64 bits"
            )
        if wanted != _code(value.dtype):
            raise TypeError(f"{where}: the kernel has {parameter}, got {value.dtype}, whose bytes mean something else")
        return ctypes.create_string_buffer(value.tobytes(), value.itemsize)


def _code(dtype: np.dtype) -> str:
    """A type as the emulator names it: f4, i8, u1, b1."""
    return f"{dtype.kind}{dtype.itemsize}"
