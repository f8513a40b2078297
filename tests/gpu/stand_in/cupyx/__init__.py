"""The part of CuPy that NumPy has no counterpart of: ministn needs none of it."""

from typing import NoReturn


def __getattr__(name: str) -> NoReturn:
    raise AttributeError(f"cupyx.{name} is not in the stand-in for CuPy (tests/gpu/stand_in)", name=name)
