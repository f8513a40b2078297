"""What CuPy does not have: the counters of the stand-in, and how work comes to its "device".

Tests read ``cupy._stand_in.counts``; everything else here is for the other files of the stand-in.
"""

from __future__ import annotations

import collections
import os
import threading
import weakref
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

# How often data went to the device ("h2d") or came back ("d2h"), the host waited ("synchronise"), and kernels of
# cuda.cu ("kernel") or whole graphs ("graph") were launched. `counts.clear()` starts over.
counts: collections.Counter[str] = collections.Counter()

_ALIGNMENT = 512  # of CuPy's memory, in bytes
_GUARD = 512  # bytes of no array before and after every array


class Memory:
    """A piece of device memory: all arrays that look at it share this, and it dies with the last of them."""

    __slots__ = ("__weakref__", "_around", "bytes", "graph", "may_be_reused", "pool")

    def __init__(self) -> None:
        self.pool = weakref.ref(pools[-1])
        self.may_be_reused = pools[-1]._has_free_memory  # what this has may have been an earlier array's
        self.graph = None if capture is None else weakref.ref(capture)  # during whose capture it was allocated

    def __del__(self) -> None:
        pool = self.pool()
        if pool is not None and pool is not no_pool:
            pool._has_free_memory = True

    def allocate(self, size: int) -> np.ndarray:
        """`size` bytes, aligned, between others that a kernel leaving its array would read as NaN, and must not write.

        The address sanitizer knows better who leaves an array, unless there is memory of ours to be found.
        """
        if os.environ.get("MINISTN_EMULATOR_SANITIZER") == "address":
            self._around: tuple[np.ndarray, ...] = ()
            self.bytes = np.empty(size, np.uint8)
            return self.bytes
        block = np.full(_ALIGNMENT + _GUARD + size + _GUARD, 0xFF, np.uint8)
        start = _GUARD + -(block.ctypes.data + _GUARD) % _ALIGNMENT
        self._around = block[:start], block[start + size :]
        self.bytes = block[start : start + size]
        return self.bytes

    def was_left(self) -> bool:
        """Whether something was written before or after it."""
        return any((part != 0xFF).any() for part in self._around)


class MemoryPool:
    """Freed memory, kept to be given out again. The stand-in reuses none; it only knows what belongs to which pool."""

    _has_free_memory = False

    def malloc(self, size: int) -> Any:
        raise NotImplementedError("stand-in: pass pool.malloc to cupy.cuda.using_allocator; it is not for calling")


default_pool = MemoryPool()
no_pool = MemoryPool()  # stands for none: each array has memory of its own, which is given back with it
pools = [default_pool]  # the last one serves new arrays


class Graph:
    """Work that was recorded on a stream, to be repeated as often as wanted."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        raise NotImplementedError("a graph cannot be made by the user, only recorded from a stream")

    @classmethod
    def _begun(cls, stream: Any) -> Graph:
        graph = cls.__new__(cls)
        graph._stream, graph._work, graph._memories = stream, [], {}
        return graph

    def _record(self, work: Callable[[], None], memories: Iterable[Memory]) -> None:
        self._work.append(work)
        for memory in memories:
            # What was allocated during the capture, from a pool of the graph's own, nobody else will get.
            is_own = memory.graph is not None and memory.graph() is self
            is_own = is_own and memory.pool() not in (default_pool, no_pool)
            self._memories[weakref.ref(memory)] = memory.pool if is_own else None

    def launch(self, stream: Any = None) -> None:
        """Repeat the work on `stream`, or the current one."""
        for memory, pool in self._memories.items():
            if memory() is None and (pool is None or pool() is None):
                raise RuntimeError(
                    "stand-in: this graph uses memory that was freed since: on a GPU it would overwrite other arrays. "
                    "Keep its arrays, or capture under cupy.cuda.using_allocator(pool.malloc) and keep the pool"
                )
            if pool is not None and memory() is not None and memory().may_be_reused:
                memory().bytes.fill(0xFF)  # by the work on the array that had the same memory earlier in the capture
        counts["graph"] += 1
        for work in list(self._work):
            submit(work, [])


class _PerThread(threading.local):
    def __init__(self) -> None:
        self.streams: list[Any] = []  # the current one is the last


per_thread = _PerThread()
capture: Graph | None = None  # what is being recorded at the moment


def submit(work: Callable[[], None], memories: Iterable[Memory]) -> None:
    """Run `work` on the device; during a capture, write it down instead."""
    if capture is None:
        with np.errstate(all="ignore"):  # a GPU does not warn of a division by zero
            work()
    elif per_thread.streams and per_thread.streams[-1] is capture._stream:
        capture._record(work, memories)
    else:
        raise RuntimeError("stand-in: work on another stream than the one that is being captured; use `with stream:`")


def wait(what: str) -> None:
    """Every place where the host waits for the device comes through here."""
    if capture is not None:
        raise RuntimeError(f"cudaErrorStreamCaptureUnsupported: {what} waits for the device during a capture")
    counts["synchronise"] += 1


def copied(direction: str, what: str) -> None:
    """Every copy between host ("h", NumPy) and device ("d") comes through here."""
    if capture is not None:
        raise RuntimeError(f"cudaErrorStreamCaptureUnsupported: {what} copies memory of the host during a capture")
    counts[direction] += 1


def poisoned(array: np.ndarray) -> np.ndarray:
    """`array` filled with what nobody can take for a result: fresh memory of a GPU holds anything."""
    kind = array.dtype.kind
    array.fill(np.nan if kind in "fc" else True if kind == "b" else np.iinfo(array.dtype).max)
    return array
