"""What one thread of a kernel reads and writes, step by step."""

from __future__ import annotations

import ctypes
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cuda_emulator.compiler import HERE
from cuda_emulator.kernel import Kernel

_KINDS = ("read", "write", "block barrier", "warp barrier", "vote", "shuffle")
_CALLS = 6


class Step(NamedTuple):
    """Something that a thread did.

    Attributes
    ----------
    kind : str
        "read" or "write", of memory that other threads see too; or "block barrier", "warp barrier", "vote", "shuffle".
    places : tuple of (file, line)
        The line of the source, the line that called the function that it is in, and so on.
    variable : str
        The kernel's parameter, or the shared variable; "?" if the address is in none. Empty for what is no access.
    shared : bool
        Whether the variable is in shared memory.
    index : tuple of int
        Of the first element.
    value : int, float, bool, tuple or None
        What was read, written or received, a tuple if that was more than one element.
    lane : int
        The lane from which a shuffle got its value.
    """

    kind: str
    places: tuple[tuple[str, int], ...]
    variable: str = ""
    shared: bool = False
    index: tuple[int, ...] = ()
    value: Any = None
    lane: int = 0


class _Record(ctypes.Structure):  # struct Step of runtime/trace.cpp
    _fields_ = (
        ("kind", ctypes.c_int32),
        ("size", ctypes.c_int32),
        ("type", ctypes.c_char),
        ("element_bytes", ctypes.c_int32),
        ("source", ctypes.c_int32),
        ("extents", ctypes.c_uint32 * 3),
        ("variable", ctypes.c_char_p),
        ("address", ctypes.c_uint64),
        ("value", ctypes.c_uint64 * 2),
        ("program_counters", ctypes.c_uint64 * _CALLS),
    )


def trace(
    kernel: Kernel,
    grid: int | Sequence[int],
    block: int | Sequence[int],
    *arguments: Any,
    at_block: int = 0,
    at_thread: int = 0,
    **options: Any,
) -> list[Step]:
    """Runs a kernel and returns what one of its threads did.

    Parameters
    ----------
    kernel : Kernel
        Built with ``sanitizer="trace"``.
    grid, block, *arguments, **options
        As of ``kernel(...)``.
    at_block, at_thread : int
        Which: x + size.x (y + size.y z).
    """
    library = kernel.library
    library.cuda_emulator_trace_start(ctypes.c_uint64(at_block), ctypes.c_uint64(at_thread))
    first = ctypes.POINTER(_Record)()
    try:
        kernel(grid, block, *arguments, **options)
    finally:
        library.cuda_emulator_trace_stop.restype = ctypes.c_size_t
        count = library.cuda_emulator_trace_stop(ctypes.byref(first))
    records = first[:count]
    places = _places(kernel, records)
    arrays = {name: value for name, value in zip(kernel.parameters, arguments, strict=True) if np.ndim(value)}
    steps = [_step(record, places, arrays) for record in records]
    return [step for step in steps if step.places]  # the rest is the emulator fetching arguments


def _step(record: _Record, places: dict[int, list[tuple[str, int]]], arrays: dict[str, np.ndarray]) -> Step:
    kind = _KINDS[record.kind]
    lines = tuple([place for counter in record.program_counters if counter for place in places[counter]])
    value = bytes(record.value)
    if kind in ("read", "write"):
        return Step(kind, lines, *_access(record, value, arrays))
    if record.size == 0:
        return Step(kind, lines)
    dtype = np.dtype(f"{record.type.decode()}{record.size}")
    return Step(kind, lines, value=np.frombuffer(value, dtype, 1)[0].item(), lane=record.source)


def _access(record: _Record, value: bytes, arrays: dict[str, np.ndarray]) -> tuple[str, bool, tuple[int, ...], Any]:
    """The variable, whether it is shared, the index and the value."""
    if record.variable:
        dtype = np.dtype(f"{record.type.decode()}{record.element_bytes}")
        shape = tuple([extent for extent in record.extents if extent])
        index = record.address // record.element_bytes
        indices = tuple(map(int, np.unravel_index(index, shape))) if shape else (index,) * (record.variable != b"")
        return record.variable.decode(), True, indices, _elements(value, dtype, record.size)
    for name, array in arrays.items():
        offset = record.address - array.ctypes.data
        if 0 <= offset < array.nbytes:
            indices = tuple(map(int, np.unravel_index(offset // array.itemsize, array.shape)))
            return name, False, indices, _elements(value, array.dtype, record.size)
    return "?", False, (), None


def _elements(value: bytes, dtype: np.dtype[Any], size: int) -> Any:
    elements = np.frombuffer(value, dtype, max(1, min(size, len(value)) // dtype.itemsize)).tolist()
    return elements[0] if len(elements) == 1 else tuple(elements)


def _places(kernel: Kernel, records: Sequence[_Record]) -> dict[int, list[tuple[str, int]]]:
    """The line of the source for each program counter; none for those in the emulator's own files."""
    counters = sorted({counter for record in records for counter in record.program_counters if counter})
    base = kernel.library.cuda_emulator_trace_base
    base.restype = ctypes.c_uint64
    # A counter is where a call returns to: one byte back it is still in the line of the call.
    addresses = "\n".join(hex(counter - base() - 1) for counter in counters)
    lines = subprocess.run(
        ["addr2line", "-e", str(kernel.path)], input=addresses, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    return dict(zip(counters, map(_place, lines), strict=True))


def _place(text: str) -> list[tuple[str, int]]:
    """What addr2line says, such as ``/affine_grid/cuda.cu:11 (discriminator 2)``."""
    file, number = text.split(" ")[0].rsplit(":", 1)
    if file.startswith("??") or not number.isdigit() or Path(file).is_relative_to(HERE):
        return []
    return [(file.lstrip("/"), int(number))]
