"""Kernels as Python calls them."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import mmap
import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cuda_emulator import compiler, translate
from cuda_emulator.compiler import SANITIZERS, EmulationError

_MOST_BLOCKS = (2**31 - 1, 65535, 65535)  # of a grid, along each axis
_MOST_THREADS_ALONG = (1024, 1024, 64)
_NUMBERS = {"b": bool, "i": int, "u": int, "f": (int, float), "V": ()}  # of Python, that a parameter takes

_defaults: dict[str, Any] = {}
_one_launch_at_a_time = threading.Lock()


def build(
    source: str,
    options: Sequence[str] = (),
    sanitizer: str | None = None,
    name: str | None = None,
) -> dict[str, Kernel]:
    """The kernels of a .cu file, by their names.

    Parameters
    ----------
    source : str
        CUDA C++ whose kernels are ``extern "C" __global__`` functions. ``#line`` directives are respected.
    options : sequence of str
        As for NVRTC: ``-D...``, ``--std=...``, ``--fmad=false``, ``--ftz=true``, ``--use_fast_math``.
    sanitizer : {None, "address", "thread", "trace"}
        What watches the kernels; None means the environment variable ``MINISTN_EMULATOR_SANITIZER``, if it is set.
        "address" and "thread" need a process started by ``python -m cuda_emulator``.
    name : str, optional
        Of the file, for messages; by default what its last ``#line`` says, or ``kernels.cu``.

    Raises
    ------
    NoCompilerError, CompileError
        If there is no g++, or it refuses the source.
    """
    sanitizer = sanitizer or os.environ.get("MINISTN_EMULATOR_SANITIZER") or None
    if sanitizer is not None and sanitizer not in SANITIZERS:
        raise ValueError(f"sanitizer: expected one of {SANITIZERS}, got {sanitizer!r}")
    return _build(source, tuple(options), sanitizer, name or translate.main_file(source) or "kernels.cu")


@functools.lru_cache(maxsize=256)
def _build(source: str, options: tuple[str, ...], sanitizer: str | None, file: str) -> dict[str, Kernel]:
    _check_sanitizer_is_loaded(sanitizer)
    path = compiler.build_kernels(source, options, sanitizer, file)
    flush = compiler.flushes_denormals(options)
    library = ctypes.CDLL(str(path))
    return {signature.name: Kernel(library, path, signature, flush) for signature in translate.kernels(source)}


class Kernel:
    """A ``__global__`` function.

    Attributes
    ----------
    name : str
    parameters : tuple of str
        Their names.
    most_threads : int
        Of a block: what ``__launch_bounds__`` says, or 1024.
    signature : list of str
        The types of the parameters: ``i4``, ``u8``, ``f4``, ``b1`` ...; ``*f4`` for a pointer, ``*cf4`` for one to
        const elements; ``V8`` for a structure of 8 bytes.
    """

    def __init__(self, library: ctypes.CDLL, path: Path, signature: translate.Signature, flush: bool) -> None:
        self.name, self.parameters, self.path = signature.name, signature.parameters, path
        self.library = library
        self.most_threads = getattr(library, f"cuda_emulator_most_threads_{self.name}")()
        self._flush = flush
        self._function = ctypes.cast(getattr(library, f"cuda_emulator_call_{self.name}"), ctypes.c_void_p)
        codes = getattr(library, f"cuda_emulator_signature_{self.name}")
        codes.restype = ctypes.c_char_p
        self.signature = codes().decode().rstrip(",").split(",")
        if self.signature == [""]:
            self.signature = []

    def launch(
        self,
        grid: Sequence[int],
        block: Sequence[int],
        arguments: Sequence[Any],
        shared: int = 0,
        order: int | None = None,
        flush_denormals: bool | None = None,
        only_blocks: Sequence[int] | None = None,
    ) -> None:
        """Runs all threads of all blocks; returns when they have ended.

        Parameters
        ----------
        grid, block : sequence of one to three int
            How many blocks, and how many threads of a block.
        arguments : sequence of ctypes objects
            One for each parameter, which holds the bytes of the value: of a pointer the address.
        shared : int
            Bytes of dynamic shared memory.
        order : int
            Of blocks and threads: 0 ascending, 1 descending, any other number the seed of a random order.
        flush_denormals : bool
            Whether numbers too small for full precision are zeros; by default if the kernels were built with
            ``--ftz=true`` or ``--use_fast_math``, as on a device.
        only_blocks : sequence of int
            Run only these blocks of the grid: x + grid.x (y + grid.y z).

        Raises
        ------
        EmulationError
            If the threads wait for each other for ever, or a launch like this would fail on a device.
        TypeError
            If the number of arguments is wrong.
        """
        order = _defaults.get("order", 0) if order is None else order
        only_blocks = _defaults.get("only_blocks") if only_blocks is None else only_blocks
        flush_denormals = self._flush if flush_denormals is None else flush_denormals
        if len(arguments) != len(self.signature):
            raise TypeError(f"{self.name}: expected {len(self.signature)} arguments, got {len(arguments)}")
        grid, block = _three(grid), _three(block)
        self._check_sizes(grid, block)
        if only_blocks is not None and not all(0 <= i < grid[0] * grid[1] * grid[2] for i in only_blocks):
            raise ValueError(f"{self.name}: only_blocks: expected blocks of a grid of {grid}, got {only_blocks!r:.100}")
        only = None if only_blocks is None else (ctypes.c_uint64 * len(only_blocks))(*only_blocks)
        pointers = (ctypes.c_void_p * max(len(arguments), 1))(*map(ctypes.addressof, arguments))
        runtime = _runtime()
        with _one_launch_at_a_time:
            failed = runtime.cuda_emulator_launch(
                self._function,
                pointers,
                (ctypes.c_uint * 3)(*grid),
                (ctypes.c_uint * 3)(*block),
                ctypes.c_size_t(shared),
                ctypes.c_uint64(order),
                ctypes.c_int(flush_denormals),
                only,
                ctypes.c_size_t(0 if only is None else len(only)),
            )
            if failed:
                raise EmulationError(f"{self.name}: {runtime.cuda_emulator_error().decode()}")

    def __call__(self, grid: int | Sequence[int], block: int | Sequence[int], *arguments: Any, **options: Any) -> None:
        """`launch` with NumPy arrays, of the dtypes that the kernel declares, and with numbers.

        Raises
        ------
        TypeError
            If an argument is of another type than its parameter.
        """
        if len(arguments) != len(self.signature):
            raise TypeError(f"{self.name}: expected {len(self.signature)} arguments, got {len(arguments)}")
        packed = [self._pack(*each) for each in zip(arguments, self.signature, self.parameters, strict=True)]
        self.launch(grid, block, packed, **options)

    def _pack(self, value: Any, code: str, parameter: str) -> Any:
        """The bytes of one argument."""
        dtype = np.dtype(code.lstrip("*c"))
        if code.startswith("*"):
            is_array = isinstance(value, np.ndarray) and value.flags.c_contiguous
            if not is_array or (value.dtype != dtype and dtype.kind != "V"):
                raise TypeError(f"{self.name}: {parameter}: expected a contiguous array of {dtype}, got {value!r:.200}")
            return ctypes.c_void_p(value.ctypes.data)
        fits = value.dtype == dtype if isinstance(value, np.generic) else isinstance(value, _NUMBERS[dtype.kind])
        if not fits:
            raise TypeError(f"{self.name}: {parameter}: expected {dtype}, got {value!r:.200}")
        return ctypes.create_string_buffer(dtype.type(value).tobytes(), dtype.itemsize)

    def _check_sizes(self, grid: tuple[int, ...], block: tuple[int, ...]) -> None:
        threads = block[0] * block[1] * block[2]
        if not all(1 <= size <= most for size, most in zip(grid, _MOST_BLOCKS, strict=True)):
            raise EmulationError(f"{self.name}: a device has no grid of {grid} blocks; at most {_MOST_BLOCKS}")
        fits = all(1 <= size <= most for size, most in zip(block, _MOST_THREADS_ALONG, strict=True))
        if not fits or threads > self.most_threads:
            raise EmulationError(f"{self.name}: a device has no block of {block} threads; at most {self.most_threads}")


@contextlib.contextmanager
def launch_defaults(**options: Any) -> Iterator[None]:
    """``with launch_defaults(order=3): ...``: for all launches in it that do not say otherwise.

    Parameters
    ----------
    order, only_blocks
        As of `Kernel.launch`.
    """
    unknown = set(options) - {"order", "only_blocks"}
    if unknown:
        raise TypeError(f"launch_defaults: unknown: {sorted(unknown)}")
    before = dict(_defaults)
    _defaults.update(options)
    try:
        yield
    finally:
        _defaults.clear()
        _defaults.update(before)


def sparse_zeros(shape: int | tuple[int, ...], dtype: Any) -> np.ndarray:
    """Zeros that take up memory only where they are touched: for kernels on more than 2**31 elements."""
    dtype = np.dtype(dtype)
    size = int(np.prod(shape, dtype=object)) * dtype.itemsize
    no_reserve = getattr(mmap, "MAP_NORESERVE", 0x4000)  # Linux's; Python has a name for it since 3.13
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | no_reserve
    return np.frombuffer(mmap.mmap(-1, size, flags=flags), dtype).reshape(shape)


@functools.cache
def _runtime() -> ctypes.CDLL:
    library = ctypes.CDLL(str(compiler.build_runtime()))
    library.cuda_emulator_error.restype = ctypes.c_char_p
    return library


def _check_sanitizer_is_loaded(sanitizer: str | None) -> None:
    """Loading a library built with a sanitizer would end a process that was not started with it, without a word."""
    symbol = {"address": "__asan_init", "thread": "__tsan_init"}.get(sanitizer or "")
    if symbol and not hasattr(ctypes.CDLL(None), symbol):
        raise RuntimeError(
            f"the {sanitizer} sanitizer must be there when Python starts: "
            f"python -m cuda_emulator {sanitizer} COMMAND... (README.md)"
        )


def _three(sizes: int | Sequence[int]) -> tuple[int, int, int]:
    sizes = (sizes,) if isinstance(sizes, int) else tuple(int(size) for size in sizes)
    return (*sizes, *(1,) * (3 - len(sizes)))
