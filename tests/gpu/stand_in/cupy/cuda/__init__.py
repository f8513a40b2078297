"""Streams, graphs, the device and its memory."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

from cupy import _stand_in
from cupy._stand_in import Graph, MemoryPool
from cupy.cuda import runtime

__all__ = [
    "Device",
    "Event",
    "Graph",
    "MemoryPool",
    "Stream",
    "get_current_stream",
    "is_available",
    "runtime",
    "using_allocator",
]


def __getattr__(name: str) -> NoReturn:
    raise AttributeError(f"cupy.cuda.{name} is not in the stand-in for CuPy (tests/gpu/stand_in)", name=name)


class Stream:
    """Work in the order it was sent. Whatever comes to the stand-in's device is done at once, unless it is recorded."""

    null: Stream

    def __init__(self, null: bool = False, non_blocking: bool = False) -> None:
        self._is_null = null

    def __enter__(self) -> Stream:
        _stand_in.per_thread.streams.append(self)
        return self

    def __exit__(self, *args: Any) -> None:
        _stand_in.per_thread.streams.pop()

    def use(self) -> Stream:
        _stand_in.per_thread.streams[-1:] = [self]
        return self

    def synchronize(self) -> None:
        _stand_in.wait("Stream.synchronize")

    def begin_capture(self, mode: Any = None) -> None:
        if self._is_null:
            raise RuntimeError("cannot capture on the default (legacy) stream")
        if _stand_in.capture is not None:
            raise RuntimeError("cudaErrorIllegalState: a capture is going on already")
        _stand_in.capture = Graph._begun(self)

    def end_capture(self) -> Graph:
        graph = _stand_in.capture
        if graph is None or graph._stream is not self:
            raise RuntimeError("cudaErrorIllegalState: this stream is not capturing")
        _stand_in.capture = None
        return graph

    def is_capturing(self) -> bool:
        return _stand_in.capture is not None and _stand_in.capture._stream is self

    def record(self, event: Event | None = None) -> Event:
        return Event() if event is None else event

    def wait_event(self, event: Event) -> None:
        """Nothing to wait for."""


Stream.null = Stream(null=True)


class Event:
    """A place in a stream."""

    def __init__(self, block: bool = False, disable_timing: bool = False, interprocess: bool = False) -> None:
        pass

    def record(self, stream: Stream | None = None) -> None:
        """Nothing is pending."""

    def synchronize(self) -> None:
        _stand_in.wait("Event.synchronize")


def get_current_stream(device_id: int = -1) -> Stream:
    return _stand_in.per_thread.streams[-1] if _stand_in.per_thread.streams else Stream.null


class Device:
    """The one device there is."""

    def __init__(self, device: int | None = None) -> None:
        self.id = 0 if device is None else device
        if self.id != 0:
            raise runtime.CUDARuntimeError("cudaErrorInvalidDevice: invalid device ordinal")

    compute_capability = property(lambda self: "80")

    def __enter__(self) -> Device:
        return self

    def __exit__(self, *args: Any) -> None:
        pass

    def synchronize(self) -> None:
        _stand_in.wait("Device.synchronize")


def is_available() -> bool:
    return True


@contextlib.contextmanager
def using_allocator(allocator: Callable[[int], Any] | None = None) -> Iterator[None]:
    """New arrays come from the pool whose `malloc` is given, or from none."""
    pool = _stand_in.no_pool if allocator is None else getattr(allocator, "__self__", None)
    if not isinstance(pool, MemoryPool):
        raise NotImplementedError("stand-in: using_allocator takes the malloc of a MemoryPool")
    _stand_in.pools.append(pool)
    try:
        yield
    finally:
        _stand_in.pools.pop()
