"""Errors of the data functions: each names the function, the argument, what was expected and what came."""

from __future__ import annotations

import operator


def integer(function: str, argument: str, value: int, minimum: int) -> int:
    """`value` as an int; it must be an integer of at least `minimum`."""
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{function}: expected {argument} to be an integer, got {value!r}") from None
    if number < minimum:
        raise ValueError(f"{function}: expected {argument} to be at least {minimum}, got {value}")
    return number
