"""What addresses mean: arrays of the launch, shared and local memory."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Iterator

import numpy as np

from ptx.parsing import Rows

SPACES = ("param", "global", "shared", "local", "const")
# Generic addresses, of which only the value says in which space they are, begin here.
SHARED_WINDOW, LOCAL_WINDOW = 1 << 60, 1 << 61


def merged(regions: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Regions from a start to an end, in order, and those that overlap as one."""
    found: list[tuple[int, int]] = []
    for start, end in sorted(regions):
        if found and start < found[-1][1]:
            found[-1] = found[-1][0], max(end, found[-1][1])
        else:
            found.append((start, end))
    return found


class GlobalMemory:
    """The arrays that a kernel was given, at their own addresses; nothing else can be reached."""

    def __init__(self, arrays: list[np.ndarray]) -> None:
        filled = [array for array in arrays if array.size]
        regions = merged((array.ctypes.data, array.ctypes.data + array.nbytes) for array in filled)
        self._starts, self._ends = np.array(regions, np.int64).reshape(-1, 2).T
        self._regions = [
            np.frombuffer((ctypes.c_uint8 * (end - start)).from_address(start), np.uint8) for start, end in regions
        ]
        self._arrays = arrays  # live as long as their addresses may be used

    def places(
        self, addresses: np.ndarray, dtype: np.dtype, count: int
    ) -> Iterator[tuple[np.ndarray | slice, np.ndarray, np.ndarray]]:
        """Which of the addresses lie in which array, it as `dtype`, and the indices of the first of `count` values.

        Raises
        ------
        IndexError
            With the place of an address that lies outside of all arrays, if there is one.
        """
        of = np.searchsorted(self._starts, addresses, "right") - 1
        ends = np.append(self._ends, 0)[of]  # 0: of what lies before all arrays, -1 above
        outside = addresses + count * dtype.itemsize > ends
        if outside.any():
            raise IndexError(int(np.flatnonzero(outside)[0]))
        for number in np.unique(of):
            some = slice(None) if (of == number).all() else np.flatnonzero(of == number)
            region, start = self._regions[number], int(self._starts[number])
            skipped = -start % dtype.itemsize
            usable = (region.size - skipped) // dtype.itemsize * dtype.itemsize
            elements = region[skipped : skipped + usable].view(dtype)
            yield some, elements, (addresses[some] - start - skipped) // dtype.itemsize


class PrivateMemory:
    """Memory of a block or a thread, full of NaN at the start; addresses begin at 0."""

    def __init__(self, size: int, owner_of_row: np.ndarray) -> None:
        self._size, self._owner = size, owner_of_row
        self._stride = -(-size // 16) * 16
        self._bytes = np.full((int(owner_of_row[-1]) + 1) * self._stride, 0xFF, np.uint8)

    def places(self, addresses: np.ndarray, dtype: np.dtype, count: int, rows: Rows) -> tuple[np.ndarray, np.ndarray]:
        """As `GlobalMemory.places`, of the memory of each row's owner."""
        outside = (addresses < 0) | (addresses + count * dtype.itemsize > self._size)
        if outside.any():
            raise IndexError(int(np.flatnonzero(outside)[0]))
        return self._bytes.view(dtype), (addresses + self._owner[rows] * self._stride) // dtype.itemsize
