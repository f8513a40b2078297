"""Kernels in CUDA C++, run by the emulator of examples/cuda_emulator."""

from __future__ import annotations

import ctypes
from typing import Any

import cuda_emulator
import numpy as np

from cupy import _stand_in
from cupy._array import ndarray

_CUPY_ADDS = ("-ftz=true",)  # whatever options it is given: floats too small for full precision are zeros
_MOST_SHARED_MEMORY = 48 * 1024  # bytes, without asking the driver for more


class RawModule:
    """A CUDA source; compiled when the first function is asked for."""

    def __init__(self, *, code: str, options: tuple[str, ...] = ()) -> None:
        if not isinstance(code, str):
            raise TypeError(f"Argument 'code' has incorrect type (expected str, got {type(code).__name__})")
        if not isinstance(options, tuple):
            raise TypeError(f"Argument 'options' has incorrect type (expected tuple, got {type(options).__name__})")
        self._code, self._options = code, options
        self._kernels: dict[str, cuda_emulator.Kernel] | None = None

    def get_function(self, name: str) -> RawKernel:
        if self._kernels is None:
            if _stand_in.capture is not None:
                raise RuntimeError("stand-in: kernels compiled and loaded during a capture; launch them once before")
            self._kernels = cuda_emulator.build(self._code, (*self._options, *_CUPY_ADDS))
        if name not in self._kernels:
            raise RuntimeError(f"CUDA_ERROR_NOT_FOUND: named symbol not found: {name}")
        kernel = RawKernel.__new__(RawKernel)
        kernel._kernel, kernel.name = self._kernels[name], name
        return kernel


class RawKernel:
    """A kernel, with every argument held against its declaration: CuPy passes on the bytes of whatever it is given."""

    def __init__(self, code: str, name: str) -> None:
        raise NotImplementedError("stand-in: use RawModule(code=...).get_function(name)")

    def __call__(self, grid: tuple[int, ...], block: tuple[int, ...], args: Any, *, shared_mem: int = 0) -> None:
        if not isinstance(grid, tuple) or not isinstance(block, tuple) or not isinstance(args, (tuple, list)):
            raise TypeError(f"{self.name}: expected grid, block and args to be tuples")
        if not 0 <= shared_mem <= _MOST_SHARED_MEMORY:
            raise ValueError(
                f"{self.name}: CUDA_ERROR_INVALID_VALUE: {shared_mem} bytes of shared memory, "
                f"of at most {_MOST_SHARED_MEMORY}"
            )
        signature = self._kernel.signature
        if len(args) != len(signature):
            raise TypeError(f"{self.name}: {len(args)} arguments for {len(signature)} parameters")
        named = dict(zip(self._kernel.parameters, args, strict=True))
        buffers = [self._buffer(*each) for each in zip(args, signature, named, strict=True)]
        memories = {parameter: value._memory for parameter, value in named.items() if isinstance(value, ndarray)}

        def work() -> None:
            self._kernel.launch(grid, block, buffers, shared=shared_mem)
            for parameter, memory in memories.items():
                if memory.was_left():
                    raise RuntimeError(f"stand-in: {self.name} wrote outside of the array it was given as {parameter}")

        _stand_in.counts["kernel"] += 1
        _stand_in.submit(work, memories.values())

    def _buffer(self, value: Any, declared: str, parameter: str) -> Any:
        """The bytes of one argument; `declared` is its type as the emulator names it: ``i4``, ``*f4``, ``*cf4``."""
        where = f"{self.name}: {parameter}"
        wanted = declared.replace("c", "")
        if isinstance(value, ndarray):
            if not declared.startswith("*"):
                raise TypeError(f"{where}: the kernel has a number ({declared}), got an array")
            if wanted != f"*{_code(value.dtype)}":
                raise TypeError(f"{where}: the kernel has {declared}, and would read bytes of {value.dtype} as that")
            if not value.flags.c_contiguous:
                raise TypeError(f"{where}: not C-contiguous, and strides, {value.strides}, are not passed on")
            if not (declared.startswith("*c") or value._values.flags.writeable):
                raise TypeError(f"{where}: the kernel may write to it, but it repeats the same memory (broadcast_to)")
            address = ctypes.c_uint64(value._values.ctypes.data if value.size else 0)
            address.memory = value._values  # lives as long as its address may be used
            return address
        if declared.startswith("*"):
            raise TypeError(f"{where}: the kernel has a pointer ({declared}), got {type(value).__name__}")
        if not isinstance(value, np.generic):
            raise TypeError(f"{where}: expected a NumPy scalar, got {type(value).__name__}; CuPy makes it 64 bits")
        if wanted != _code(value.dtype):
            raise TypeError(f"{where}: the kernel has {declared}, and would read bytes of {value.dtype} as that")
        return ctypes.create_string_buffer(value.tobytes(), value.itemsize)


def _code(dtype: np.dtype) -> str:
    return f"{dtype.kind}{dtype.itemsize}"
