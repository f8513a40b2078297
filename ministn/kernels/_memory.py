"""Keep freed memory for the next step.

A training step allocates and frees the same arrays as the one before. The C library gives large ones back to the
system each time, and gets them back as pages that must be cleared and mapped anew: hundreds of page faults a step, for
the network of the examples a third of its time.
"""

from __future__ import annotations

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of glibc's malloc.h


def keep_freed_memory() -> None:
    """Let glibc keep up to 1 GiB that is free for this process. Where the C library is another, nothing changes."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library, or Windows
        return
    mallopt(_M_TRIM_THRESHOLD, 2**30)
    mallopt(_M_MMAP_MAX, 0)  # no array, however large, gets pages of its own, which would go back with it
