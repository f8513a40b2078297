"""Where arrays of images are in memory.

Two processor cores may have caches of their own, with a slow way between them. So the kernels let a thread work on the
same images all through a step (`ministn.kernels._layout.image_groups`), and arrays begin with a cache line (`empty`), so
that no line belongs to two threads.

Freed memory is kept for the next step (`keep_freed_memory`). A training step allocates and frees the same arrays as the one before. The C library gives large ones back to the
system each time, and gets them back as pages that must be cleared and mapped anew: hundreds of page faults a step, for
the network of the examples a third of its time.
"""

from __future__ import annotations

import ctypes
import math
from typing import Any

import numpy as np

_LINE = 64  # bytes of a cache line

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h


def keep_freed_memory() -> None:
    """Let glibc keep up to 1 GiB that is free for this process. Where the C library is another, nothing changes."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library, or Windows
        return
    mallopt(_M_TRIM_THRESHOLD, 2**30)
    mallopt(_M_MMAP_THRESHOLD, 2**25)  # the most it accepts: arrays above 32 MiB still come from and go to the system


def empty(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """np.empty(shape, dtype), beginning at a multiple of 64 bytes in memory."""
    memory = np.empty(math.prod(shape) * dtype.itemsize + _LINE, np.uint8)
    # The address, which an array object has after what all Python objects have; `memory.ctypes` takes seven times as
    # long, and a step of training makes forty arrays.
    address = ctypes.c_size_t.from_address(id(memory) + object.__basicsize__).value
    return np.ndarray(shape, dtype, memory, -address % _LINE)
