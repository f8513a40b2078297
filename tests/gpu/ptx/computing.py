"""Instructions that compute: of values of each thread, a value of it.

`COMPUTED` has, for most of them, the modifiers that are known and a function of these and of the type, which says the
type of the result, those of the operands, and what to compute.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from ptx.accesses import Action, parts_of
from ptx.arithmetic import (
    TYPES,
    converted,
    divided,
    flushed,
    fma,
    high_product,
    larger,
    shifted,
    smaller,
    upper_half,
    with_rounding,
)
from ptx.parsing import Instruction, Rows

if TYPE_CHECKING:
    from ptx.machine import Wave

Plan = tuple[str, tuple[str, ...], Callable[..., np.ndarray]]
Planner = Callable[[set[str], str], Plan]


def _same(count: int, compute: Callable[..., np.ndarray]) -> Planner:
    """All operands and the result have the type of the instruction."""
    return lambda modifiers, type_: (type_, (type_,) * count, compute)


def _rounding(modifiers: set[str]) -> str:
    return next((name for name in ("rz", "rm", "rp") if name in modifiers), "rn")


def _sum(name: str) -> Planner:
    def plan(modifiers: set[str], type_: str) -> Plan:
        rounding = _rounding(modifiers)
        return type_, (type_, type_), _saturated(modifiers, lambda a, b: with_rounding(name, a, b, rounding))

    return plan


def _saturated(modifiers: set[str], compute: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
    if "sat" not in modifiers:
        return compute
    return lambda *values: converted(compute(*values), TYPES["f32"], {"sat"})


def _wider(type_: str) -> str:
    return type_[0] + str(2 * int(type_[1:]))


def _product(modifiers: set[str], type_: str) -> Plan:
    if "wide" in modifiers:
        wide = _wider(type_)
        return wide, (type_, type_), lambda a, b: a.astype(TYPES[wide]) * b.astype(TYPES[wide])
    if "hi" in modifiers:
        return type_, (type_, type_), lambda a, b: high_product(a, b).astype(a.dtype)
    return _sum("mul")(modifiers, type_)


def _product_and_sum(modifiers: set[str], type_: str) -> Plan:
    result, factors, product = _product(modifiers, type_)
    return result, (*factors, result), lambda a, b, c: product(a, b) + c


def _fused(modifiers: set[str], type_: str) -> Plan:
    rounding = _rounding(modifiers)
    return type_, (type_,) * 3, _saturated(modifiers, lambda a, b, c: fma(a, b, c, rounding))


def _extreme(choose: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Planner:
    def plan(modifiers: set[str], type_: str) -> Plan:
        if "NaN" not in modifiers:
            return type_, (type_, type_), choose
        return type_, (type_, type_), lambda a, b: np.where(np.isnan(a) | np.isnan(b), a + b, choose(a, b))

    return plan


def _approximated(compute: Callable[[np.ndarray], np.ndarray]) -> Planner:
    """A function of one number, in float64 and rounded. Approximations of float64 know only the upper 32 bits of it."""

    def plan(modifiers: set[str], type_: str) -> Plan:
        if type_ == "f32":
            return type_, (type_,), lambda a: compute(a.astype(np.float64)).astype(np.float32)
        return type_, (type_,), (lambda a: upper_half(compute(upper_half(a)))) if "approx" in modifiers else compute

    return plan


def _divided(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    if a.dtype.kind == "f":
        return a / b
    if (b == 0).any():
        raise ZeroDivisionError
    return divided(a, b)


def _shift(left: bool) -> Planner:
    return lambda modifiers, type_: (type_, (type_, "u32"), lambda a, count: shifted(a, count, left))


def _funnel_shift(left: bool) -> Planner:
    def plan(modifiers: set[str], type_: str) -> Plan:
        def compute(low: np.ndarray, high: np.ndarray, count: np.ndarray) -> np.ndarray:
            by = (count & 31 if "wrap" in modifiers else np.minimum(count, 32)).astype(np.uint64)
            both = high.astype(np.uint64) << np.uint64(32) | low.astype(np.uint64)
            return ((both << by) >> np.uint64(32) if left else both >> by).astype(np.uint32)

        return type_, (type_, type_, "u32"), compute

    return plan


def _logic(modifiers: set[str], type_: str) -> Plan:
    """``lop3``: the bit that a table of eight bits has for the bits of a, b and c."""

    def compute(a: np.ndarray, b: np.ndarray, c: np.ndarray, table: np.ndarray) -> np.ndarray:
        result = np.zeros(1, np.uint32)
        for k in range(8):
            chosen = (a if k & 4 else ~a) & (b if k & 2 else ~b) & (c if k & 1 else ~c)
            result = result | np.where(int(table[0]) >> k & 1, chosen, np.uint32(0))
        return result

    return type_, (type_, type_, type_, "u32"), compute


def _inserted(modifiers: set[str], type_: str) -> Plan:
    def compute(a: np.ndarray, b: np.ndarray, start: np.ndarray, length: np.ndarray) -> np.ndarray:
        one, bits = b.dtype.type(1), np.uint32(8 * b.dtype.itemsize)
        mask = np.where(length >= bits, ~b.dtype.type(0), shifted(one, length, True) - one)
        mask = shifted(mask, start, True)
        return (shifted(a, start, True) & mask) | (b & ~mask)

    return type_, (type_, type_, "u32", "u32"), compute


def _extracted(modifiers: set[str], type_: str) -> Plan:
    if type_[0] != "u":
        raise NotImplementedError("bfe of a signed number")

    def compute(a: np.ndarray, start: np.ndarray, length: np.ndarray) -> np.ndarray:
        one = a.dtype.type(1)
        kept = np.where(length >= 8 * a.dtype.itemsize, ~a.dtype.type(0), shifted(one, length, True) - one)
        return shifted(a, start & 255, False) & kept

    return type_, (type_, "u32", "u32"), compute


def _permuted(modifiers: set[str], type_: str) -> Plan:
    """``prmt``: four of the eight bytes of b and a, as the four lowest digits of the selector say."""
    if modifiers:
        raise NotImplementedError(modifiers)

    def compute(a: np.ndarray, b: np.ndarray, selector: np.ndarray) -> np.ndarray:
        both = b.astype(np.uint64) << np.uint64(32) | a.astype(np.uint64)
        result = np.zeros(1, np.uint32)
        for k in range(4):
            digit = (selector >> np.uint32(4 * k)).astype(np.uint64)
            byte = both >> (np.uint64(8) * (digit & np.uint64(7))) & np.uint64(255)
            sign = np.where(byte >> np.uint64(7), np.uint64(255), np.uint64(0))
            byte = np.where(digit & np.uint64(8), sign, byte)
            result = result | (byte.astype(np.uint32) << np.uint32(8 * k))
        return result

    return type_, (type_, type_, "u32"), compute


def _count_bits(a: np.ndarray) -> np.ndarray:
    return np.bitwise_count(a).astype(np.uint32)


def _leading_zeros(a: np.ndarray) -> np.ndarray:
    bits = 8 * a.dtype.itemsize
    return sum(((a >> a.dtype.type(k)) == 0).astype(np.uint32) for k in range(bits))


def _reversed_bits(a: np.ndarray) -> np.ndarray:
    bits, one = 8 * a.dtype.itemsize, a.dtype.type(1)
    return sum((a >> a.dtype.type(k) & one) << a.dtype.type(bits - 1 - k) for k in range(bits)).astype(a.dtype)


COMPUTED: dict[str, tuple[str, Planner]] = {
    "abs": ("ftz", _same(1, np.abs)),
    "add": ("rn rz rm rp ftz sat", _sum("add")),
    "sub": ("rn rz rm rp ftz sat", _sum("sub")),
    "mul": ("rn rz rm rp ftz sat lo hi wide", _product),
    "mad": ("lo hi wide", _product_and_sum),
    "fma": ("rn rz rm rp ftz sat", _fused),
    "div": ("rn ftz approx full", _same(2, _divided)),
    "rem": ("", _same(2, lambda a, b: a - _divided(a, b) * b)),
    "neg": ("ftz", _same(1, np.negative)),
    "not": ("", _same(1, np.invert)),
    "and": ("", _same(2, np.bitwise_and)),
    "or": ("", _same(2, np.bitwise_or)),
    "xor": ("", _same(2, np.bitwise_xor)),
    "min": ("ftz NaN", _extreme(smaller)),
    "max": ("ftz NaN", _extreme(larger)),
    "copysign": ("", _same(2, lambda a, b: np.copysign(b, a))),
    "rcp": ("rn ftz approx", _approximated(np.reciprocal)),
    "sqrt": ("rn ftz approx", _approximated(np.sqrt)),
    "rsqrt": ("ftz approx", _approximated(lambda a: 1 / np.sqrt(a))),
    "ex2": ("ftz approx", _approximated(np.exp2)),
    "lg2": ("ftz approx", _approximated(np.log2)),
    "sin": ("ftz approx", _approximated(np.sin)),
    "cos": ("ftz approx", _approximated(np.cos)),
    "tanh": ("approx", _approximated(np.tanh)),
    "selp": ("", lambda modifiers, type_: (type_, (type_, type_, "pred"), lambda a, b, p: np.where(p, a, b))),
    "shl": ("", _shift(left=True)),
    "shr": ("", _shift(left=False)),
    "shf": ("l r wrap clamp", lambda modifiers, type_: _funnel_shift("l" in modifiers)(modifiers, type_)),
    "lop3": ("", _logic),
    "bfi": ("", _inserted),
    "bfe": ("", _extracted),
    "prmt": ("", _permuted),
    "popc": ("", lambda modifiers, type_: ("u32", (type_,), _count_bits)),
    "clz": ("", lambda modifiers, type_: ("u32", (type_,), _leading_zeros)),
    "brev": ("", _same(1, _reversed_bits)),
}


def compute(instruction: Instruction) -> Action:
    known, plan = COMPUTED[instruction.name]
    modifiers = set(instruction.modifiers[:-1])
    if modifiers - set(known.split()):
        raise NotImplementedError(modifiers - set(known.split()))
    result, types, compute = plan(modifiers, instruction.type)
    flush = "ftz" in modifiers
    target, *sources = instruction.operands
    if len(sources) != len(types):
        raise NotImplementedError(f"{len(sources)} operands")

    def act(wave: Wave, rows: Rows) -> None:
        values = [wave.read(operand, type_, rows, instruction) for operand, type_ in zip(sources, types, strict=True)]
        if flush:
            values = [flushed(value) if value.dtype == np.float32 else value for value in values]
        computed = compute(*values)
        wave.write(target, flushed(computed) if flush and result == "f32" else computed, rows)

    return act


def convert(instruction: Instruction) -> Action:
    *modifiers, to, of = instruction.modifiers
    unknown = set(modifiers) - {"rn", "rz", "rm", "rp", "rni", "rzi", "rmi", "rpi", "ftz", "sat"}
    if unknown:
        raise NotImplementedError(unknown)
    target, source = instruction.operands

    def act(wave: Wave, rows: Rows) -> None:
        values = wave.read(source, of, rows, instruction)
        flush = flushed if "ftz" in modifiers else lambda value: value
        values = converted(flush(values) if of == "f32" else values, TYPES[to], set(modifiers))
        wave.write(target, flush(values) if to == "f32" else values, rows)

    return act


_COMPARISONS = {
    "eq": np.equal,
    "ne": np.not_equal,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
    **{"lo": np.less, "ls": np.less_equal, "hi": np.greater, "hs": np.greater_equal},  # of unsigned numbers
}


def _compared(name: str, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    if a.dtype.kind != "f":
        return _COMPARISONS[name](a, b)
    unordered = np.isnan(a) | np.isnan(b)
    if name in ("nan", "num"):
        return unordered if name == "nan" else ~unordered
    if len(name) == 3:  # such as ltu: less, or unordered
        return _COMPARISONS[name[:2]](a, b) | unordered
    return _COMPARISONS[name](a, b) & ~unordered


def compare(instruction: Instruction) -> Action:
    comparison, *modifiers, type_ = instruction.modifiers
    combine = {"and": np.logical_and, "or": np.logical_or, "xor": np.logical_xor}
    if set(modifiers) - {"ftz", *combine}:
        raise NotImplementedError(modifiers)
    target, *sources = instruction.operands

    def act(wave: Wave, rows: Rows) -> None:
        a, b = (wave.read(operand, type_, rows, instruction) for operand in sources[:2])
        if "ftz" in modifiers:
            a, b = flushed(a), flushed(b)
        holds = _compared(comparison, a, b)
        opposite = ~holds
        for operand in sources[2:]:
            other = wave.read(operand, "pred", rows, instruction)
            join = next(combine[name] for name in modifiers if name in combine)
            holds, opposite = join(holds, other), join(opposite, other)
        for register, value in zip(target.split("|"), (holds, opposite), strict=False):
            wave.write(register, value, rows)

    return act


def move(instruction: Instruction) -> Action:
    """A copy; with braces, the parts of a register, the lowest first."""
    target, source = instruction.operands
    bits = 8 * TYPES[instruction.type].itemsize if instruction.type != "pred" else 1
    part = f"b{bits // len(parts_of(target if target[0] == '{' else source))}"

    def act(wave: Wave, rows: Rows) -> None:
        if target[0] == "{":
            values = wave.read(source, instruction.type, rows, instruction)
            parts = np.ascontiguousarray(values).view(TYPES[part]).reshape(len(values), -1)
            for k, register in enumerate(parts_of(target)):
                wave.write(register, parts[:, k], rows)
        elif source[0] == "{":
            values = [wave.read(register, part, rows, instruction) for register in parts_of(source)]
            joined = np.stack(np.broadcast_arrays(*values), axis=1)
            wave.write(target, joined.view(TYPES[f"b{bits}"])[:, 0], rows)
        else:
            wave.write(target, wave.read(source, instruction.type, rows, instruction), rows)

    return act
