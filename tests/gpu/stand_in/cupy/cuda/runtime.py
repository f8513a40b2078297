"""What the CUDA runtime says about the device: that it is none."""

from __future__ import annotations

from typing import Any, NoReturn


def __getattr__(name: str) -> NoReturn:
    raise AttributeError(f"cupy.cuda.runtime.{name} is not in the stand-in for CuPy (tests/gpu/stand_in)", name=name)


class CUDARuntimeError(RuntimeError):
    """What the runtime answers instead of a result."""


def getDeviceCount() -> int:
    return 1


def getDevice() -> int:
    return 0


def getDeviceProperties(device: int) -> dict[str, Any]:
    return {
        "name": b"NumPy, standing in for a GPU",
        "major": 8,
        "minor": 0,
        "multiProcessorCount": 1,
        "totalGlobalMem": 2**30,
        "sharedMemPerBlock": 48 * 1024,
        "maxThreadsPerBlock": 1024,
        "warpSize": 32,
    }


def memGetInfo() -> tuple[int, int]:
    return 2**30, 2**30


def driverGetVersion() -> int:
    return 13000


def runtimeGetVersion() -> int:
    return 13000
