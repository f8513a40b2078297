"""Loads, stores, atomic operations, and changes of address."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from ptx.arithmetic import TYPES, flushed, larger, smaller
from ptx.memory import LOCAL_WINDOW, SHARED_WINDOW, SPACES
from ptx.parsing import Instruction, Rows

if TYPE_CHECKING:
    from ptx.machine import Wave

Action = Callable[["Wave", Rows], None]
_HINTS = {"nc", "weak", "relaxed", "volatile", "cta", "gpu", "sys", "ca", "cg", "cs", "cv", "lu", "wb", "wt"}  # caches


def _space(instruction: Instruction, *known: str) -> tuple[str, int]:
    """The space of an access, and how many values it moves."""
    rest = set(instruction.modifiers[:-1]) - _HINTS - {"v2", "v4", *SPACES, *known}
    rest = {name for name in rest if not name.startswith(("L1__", "L2__"))}
    space = next((name for name in SPACES if name in instruction.modifiers), "generic")
    if rest or space == "const":
        raise NotImplementedError(rest or space)
    return space, 2 if "v2" in instruction.modifiers else 4 if "v4" in instruction.modifiers else 1


def parts_of(operand: str) -> list[str]:
    return operand.strip("{}").split(",")


def load(instruction: Instruction) -> Action:
    space, count = _space(instruction)
    dtype, (target, source) = TYPES[instruction.type], instruction.operands
    if space == "param":
        name, offset = re.fullmatch(r"\[([\w$]+)(?:\+(\d+))?\]", source).groups()
        start = int(offset or 0)

        def act(wave: Wave, rows: Rows) -> None:
            values = wave.parameters[name][start : start + count * dtype.itemsize].view(dtype)
            for register, value in zip(parts_of(target), values, strict=True):
                wave.write(register, np.array([value]), rows)

        return act

    def act(wave: Wave, rows: Rows) -> None:
        addresses = wave.addresses(source, rows, instruction)
        values = np.empty((count, len(addresses)), dtype)
        for some, array, indices in wave.places(space, addresses, dtype, rows, instruction, count):
            for k in range(count):
                values[k, some] = array[indices + k]
        for register, value in zip(parts_of(target), values, strict=True):
            wave.write(register, value, rows)

    return act


def store(instruction: Instruction) -> Action:
    space, count = _space(instruction)
    dtype, (target, source) = TYPES[instruction.type], instruction.operands
    if space == "param":
        raise NotImplementedError("st.param")

    def act(wave: Wave, rows: Rows) -> None:
        addresses = wave.addresses(target, rows, instruction)
        values = [wave.read(register, instruction.type, rows, instruction) for register in parts_of(source)]
        values = [np.broadcast_to(value, len(addresses)) for value in values]
        for some, array, indices in wave.places(space, addresses, dtype, rows, instruction, count):
            for k in range(count):
                array[indices + k] = values[k][some]

    return act


_ATOMIC = {
    "add": lambda old, new: old + new,
    "min": smaller,
    "max": larger,
    "and": lambda old, new: old & new,
    "or": lambda old, new: old | new,
    "xor": lambda old, new: old ^ new,
    "exch": lambda old, new: new,
    "cas": lambda old, expected, new: np.where(old == expected, new, old),
    "inc": lambda old, limit: np.where(old >= limit, 0, old + 1).astype(old.dtype),
    "dec": lambda old, limit: np.where((old == 0) | (old > limit), limit, old - 1).astype(old.dtype),
}


def atomic(instruction: Instruction) -> Action:
    """``atom``, and ``red``, which does not give the old value."""
    name = next(name for name in instruction.modifiers if name in _ATOMIC)
    space, _ = _space(instruction, name)
    target, source, *operands = instruction.operands if instruction.name == "atom" else ("_", *instruction.operands)
    # Global memory adds float32 without subnormal numbers, shared memory with them (PTX ISA, atom).
    flush = flushed if instruction.type == "f32" and name == "add" and space == "global" else lambda value: value

    def act(wave: Wave, rows: Rows) -> None:
        addresses = wave.addresses(source, rows, instruction)
        values = [wave.read(operand, instruction.type, rows, instruction) for operand in operands]
        values = [np.broadcast_to(flush(value), len(addresses)) for value in values]
        old = np.empty(len(addresses), TYPES[instruction.type])
        for some, array, indices in wave.places(space, addresses, old.dtype, rows, instruction):
            change = lambda before, *new: flush(_ATOMIC[name](flush(before), *new))  # noqa: E731
            old[some] = _one_after_another(array, indices, change, [value[some] for value in values])
        wave.write(target, old, rows)

    return act


def _one_after_another(
    array: np.ndarray, indices: np.ndarray, change: Callable[..., np.ndarray], values: list[np.ndarray]
) -> np.ndarray:
    """``array[i] = change(array[i], *values)`` for each of the indices in turn; what was there before."""
    old = np.empty(len(indices), array.dtype)
    order = np.argsort(indices, kind="stable")
    starts = np.flatnonzero(np.diff(indices[order], prepend=-1))
    turn = np.arange(len(indices)) - np.repeat(starts, np.diff(starts, append=len(indices)))
    for k in range(int(turn.max()) + 1):  # in each round the indices differ
        now = order[turn == k]
        old[now] = array[indices[now]]
        array[indices[now]] = change(old[now], *[value[now] for value in values])
    return old


def generic_address(instruction: Instruction) -> Action:
    """``cvta.to.shared`` and its like: from an address that could be of any space, or to one."""
    target, source = instruction.operands
    space = next(name for name in SPACES if name in instruction.modifiers)
    start = {"global": 0, "shared": SHARED_WINDOW, "local": LOCAL_WINDOW}[space]
    start = -start if "to" in instruction.modifiers else start

    def act(wave: Wave, rows: Rows) -> None:
        values = wave.read(source, "s64", rows, instruction)
        wave.write(target, values + np.int64(start), rows)

    return act
