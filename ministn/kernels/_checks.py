"""Errors of wrong arguments: each names the function, the argument, what was expected and what came."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ministn.autodiff import Tensor

LARGEST = 2**31 - 1  # for lengths and distances in pixels: their products still fit into 64 bits


def remembered(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` with its last results kept by arguments: a layer has the same questions at every step.

    What cannot be looked up, such as a list, is computed anew. Arguments that are equal but of another type, such as
    (2.0, 2.0) and (2, 2), are different ones.
    """

    @functools.lru_cache(maxsize=256, typed=True)
    def lookup(types: tuple[type, ...], *arguments: Any) -> Any:
        return function(*arguments)

    @functools.wraps(function)
    def answer(*arguments: Any) -> Any:
        # `typed` looks at the arguments alone and not into them
        types = tuple([type(value) for part in arguments if isinstance(part, tuple) for value in part])
        try:
            return lookup(types, *arguments)
        except TypeError:  # of an argument that has no hash, or by the function, which then says it again
            return function(*arguments)

    return answer


def check_is_tensor(name: str, argument: str, value: Any) -> None:
    """`value` must be a Tensor, of any kind."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name}: expected {argument} to be a Tensor, got {type(value).__name__}")


def check_tensor(name: str, argument: str, value: Any, axes: str) -> None:
    """`value` must be a floating-point Tensor with as many axes as `axes` names, such as ``"N C H W"``."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name}: expected {argument} to be a Tensor ({axes}), got {type(value).__name__}")
    if value.data.dtype.kind != "f":
        raise TypeError(f"{name}: expected {argument} to be float32 or float64, got {value.dtype}")
    if value.data.ndim != axes.count(" ") + 1:
        raise ValueError(f"{name}: expected {argument} of shape ({', '.join(axes.split())}), got {value.shape}")


def check_size(name: str, argument: str, axis: str, expected: int, got: int, why: str) -> None:
    """Axis `axis` of `argument` must have length `expected`, for the reason `why`."""
    if expected != got:
        raise ValueError(f"{name}: expected axis {axis} of {argument} to be {expected} ({why}), got {got}")


def height_and_width(name: str, size: Sequence[int], theta: Tensor) -> tuple[int, int]:
    """Those of `size`, (N, C, H, W), of which N must be that of `theta`."""
    try:
        lengths = [operator.index(length) for length in size]
    except TypeError:
        raise TypeError(f"{name}: expected size to be four integers (N, C, H, W), got {size!r}") from None
    if len(lengths) != 4:
        raise ValueError(f"{name}: expected size (N, C, H, W), got {tuple(size)}")
    count, _, height, width = lengths
    if min(height, width) < 1:
        raise ValueError(f"{name}: expected a height and a width of at least 1 in size, got {tuple(size)}")
    check_size(name, "theta", "0", count, theta.shape[0], "N of size")
    return height, width


def check_choice(name: str, argument: str, value: Any, choices: tuple[str, ...]) -> None:
    """`value` must be one of `choices`."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name}: expected {argument} to be one of {', '.join(map(repr, choices))}, got {value!r}")


def integer(function: str, argument: str, value: int, minimum: int) -> int:
    """`value` as an int; it must be an integer of at least `minimum`."""
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{function}: expected {argument} to be an integer, got {value!r}") from None
    if number < minimum:
        raise ValueError(f"{function}: expected {argument} to be at least {minimum}, got {value}")
    return number


def flag(name: str, argument: str, value: Any) -> bool:
    """`value` as a bool, which it must be: that ``"no"`` and ``[False]`` count as true would surprise."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name}: expected {argument} to be True or False, got {value!r}")
    return bool(value)


def pair(name: str, argument: str, value: Any, minimum: int) -> tuple[int, int]:
    """An integer, or two (rows, columns), each at least `minimum`; returned as two."""
    if type(value) is int and minimum <= value <= LARGEST:  # as most are: without the many questions below
        return value, value
    try:
        rows, columns = value if isinstance(value, (tuple, list)) else (value, value)
        rows, columns = operator.index(rows), operator.index(columns)
    except (TypeError, ValueError):
        raise TypeError(f"{name}: expected {argument} to be an integer or two, got {value!r}") from None
    if min(rows, columns) < minimum:
        raise ValueError(f"{name}: expected {argument} to be at least {minimum}, got {value!r}")
    if max(rows, columns) > LARGEST:
        raise ValueError(f"{name}: expected {argument} to be at most {LARGEST}, got {value!r}")
    return rows, columns
