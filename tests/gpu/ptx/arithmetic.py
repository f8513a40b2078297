"""Arithmetic as PTX defines it, on NumPy arrays: roundings, fused multiply-add, conversions, integer division.

"PTX ISA" is NVIDIA's Parallel Thread Execution ISA, docs.nvidia.com/cuda/parallel-thread-execution.
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np

TYPES = {
    **{f"b{bits}": np.dtype(f"u{bits // 8}") for bits in (8, 16, 32, 64)},
    **{f"u{bits}": np.dtype(f"u{bits // 8}") for bits in (8, 16, 32, 64)},
    **{f"s{bits}": np.dtype(f"i{bits // 8}") for bits in (8, 16, 32, 64)},
    "f32": np.dtype(np.float32),
    "f64": np.dtype(np.float64),
    "pred": np.dtype(np.bool_),
}


def bits_of(values: np.ndarray) -> np.ndarray:
    """The same bytes as unsigned integers."""
    return values if values.dtype.kind in "ub" else values.view(f"u{values.dtype.itemsize}")


def flushed(values: np.ndarray) -> np.ndarray:
    """Subnormal float32 numbers as zeros of the same sign: what ``.ftz`` does to operands and results."""
    bits = values.view(np.uint32)
    subnormal = (bits & 0x7F800000) == 0  # or zero, which stays what it is
    if not (bits[subnormal] << 1).any():
        return values
    return np.where(subnormal, bits & 0x80000000, bits).astype(np.uint32).view(np.float32)


# --- roundings --------------------------------------------------------------------------------------------------------


def to_float32(values: np.ndarray, rounding: str = "rn") -> np.ndarray:
    """float64 numbers to the nearest float32, towards zero (rz), minus (rm) or plus infinity (rp)."""
    nearest = values.astype(np.float32)
    if rounding == "rn":
        return nearest
    back = nearest.astype(np.float64)
    away = {"rz": np.abs(back) > np.abs(values), "rm": back > values, "rp": back < values}[rounding]
    towards = {"rz": 0.0, "rm": -np.inf, "rp": np.inf}[rounding]
    return np.where(away, np.nextafter(nearest, np.float32(towards)), nearest)


def _two_sum(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The rounded sum and its error: together exactly a + b (Knuth)."""
    total = a + b
    of_b = total - a
    return total, (a - (total - of_b)) + (b - of_b)


def _two_product(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The rounded product and its error (Dekker, with the halves of Veltkamp)."""

    def halves(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        high = x * 134217729.0 - (x * 134217729.0 - x)  # 2^27 + 1
        return high, x - high

    product = a * b
    (a1, a0), (b1, b0) = halves(a), halves(b)
    return product, a0 * b0 - (((product - a1 * b1) - a0 * b1) - a1 * b0)


def sum_to_odd(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a + b, rounded to the neighbour whose last bit is 1 where it is not exact.

    A second rounding, to a type with at least two bits less, then gives what one rounding of the exact sum would.
    """
    total, error = _two_sum(a, b)
    bits = total.view(np.int64)
    change = np.isfinite(total) & (error != 0) & (bits % 2 == 0)
    return (bits + np.where(change, np.where((error > 0) == (total > 0), 1, -1), 0)).view(np.float64)


def fma(a: np.ndarray, b: np.ndarray, c: np.ndarray, rounding: str = "rn") -> np.ndarray:
    """a b + c, rounded once."""
    if a.dtype == np.float32:  # the product of two float32 fits in a float64
        product = a.astype(np.float64) * b
        return to_float32(sum_to_odd(*np.broadcast_arrays(product, c.astype(np.float64))), rounding)
    if rounding != "rn":
        raise NotImplementedError(f"fma.{rounding}.f64")
    a, b, c = np.broadcast_arrays(a, b, c)
    # Boldo and Melquiond 2008, "Emulation of FMA and correctly rounded sums: proved algorithms using rounding to odd"
    product, error = _two_product(a, b)
    high, low = _two_sum(c, error)
    top, middle = _two_sum(product, high)
    result = top + sum_to_odd(middle, low)
    # It holds where no step over- or underflows. Zeros, infinities, NaNs are simple, the rest gets exact fractions.
    plain = (a == 0) | (b == 0) | ~np.isfinite(a) | ~np.isfinite(b)
    result = np.where(plain, a * b + c, np.where(np.isfinite(c), result, c))
    large = np.maximum(np.maximum(np.abs(a), np.abs(b)), np.maximum(np.abs(product), np.abs(c)))
    for i in np.flatnonzero(~plain & np.isfinite(c) & ((large > 2.0**990) | (np.abs(product) < 2.0**-900))):
        result[i] = _exact_fma(float(a[i]), float(b[i]), float(c[i]))
    return result


def _exact_fma(a: float, b: float, c: float) -> float:
    exact = Fraction(a) * Fraction(b) + Fraction(c)
    if exact == 0:
        return a * b + c  # which zero: as in any sum
    sign = 1 if exact > 0 else -1
    try:
        return math.copysign(float(exact), sign)  # a tiny negative number becomes -0
    except OverflowError:
        return sign * math.inf


def with_rounding(name: str, a: np.ndarray, b: np.ndarray, rounding: str = "rn") -> np.ndarray:
    """Sum, difference or product, rounded once."""
    if rounding == "rn":
        return {"add": np.add, "sub": np.subtract, "mul": np.multiply}[name](a, b)
    if a.dtype != np.float32:
        raise NotImplementedError(f"{name}.{rounding}.f64")
    one, nothing = np.ones(1, np.float32), np.full(1, -0.0, np.float32)  # x + -0 is x, also where x is a zero
    return {
        "add": lambda: fma(a, one, b, rounding),
        "sub": lambda: fma(a, one, -b, rounding),
        "mul": lambda: fma(a, b, nothing, rounding),
    }[name]()


# --- smallest, largest, approximations --------------------------------------------------------------------------------


def smaller(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """``min``: the one that is a number if the other is NaN; -0 is less than 0."""
    if a.dtype.kind != "f":
        return np.minimum(a, b)
    return np.where(a == b, (bits_of(a) | bits_of(b)).view(a.dtype), np.fmin(a, b))


def larger(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """``max``, as `smaller`."""
    if a.dtype.kind != "f":
        return np.maximum(a, b)
    return np.where(a == b, (bits_of(a) & bits_of(b)).view(a.dtype), np.fmax(a, b))


def upper_half(values: np.ndarray) -> np.ndarray:
    """float64 numbers without their lower 32 bits, which ``rcp.approx.ftz.f64`` and its like neither read nor give."""
    return (values.view(np.uint64) & np.uint64(0xFFFFFFFF00000000)).view(np.float64)


# --- integers ---------------------------------------------------------------------------------------------------------


def divided(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The quotient, rounded towards zero as in C."""
    quotient = a // b
    if a.dtype.kind == "i":
        quotient += (quotient * b != a) & ((a < 0) != (b < 0))
    return quotient


def high_product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The upper half of the product, which is twice as wide as a and b."""
    bits = 8 * a.dtype.itemsize
    if bits == 32:
        return ((a.astype(np.int64) * b) if a.dtype.kind == "i" else (a.astype(np.uint64) * b)) >> 32
    low, half = np.uint64(0xFFFFFFFF), np.uint64(32)
    x, y = a.view(np.uint64), b.view(np.uint64)
    middle = (x >> half) * (y & low) + ((x & low) * (y & low) >> half)
    other = (x & low) * (y >> half) + (middle & low)
    high = (x >> half) * (y >> half) + (middle >> half) + (other >> half)
    if a.dtype.kind == "u":
        return high
    # as unsigned numbers, negative ones are larger by 2^64
    return (high - np.where(a < 0, y, np.uint64(0)) - np.where(b < 0, x, np.uint64(0))).view(np.int64)


def shifted(a: np.ndarray, count: np.ndarray, left: bool) -> np.ndarray:
    """Shifts of more than the width of a type shift everything out."""
    bits = 8 * a.dtype.itemsize
    inside = np.minimum(count, bits - 1).astype(a.dtype)
    if left:
        return np.where(count < bits, a << inside, a.dtype.type(0))
    return a >> inside if a.dtype.kind == "i" else np.where(count < bits, a >> inside, a.dtype.type(0))


# --- conversions ------------------------------------------------------------------------------------------------------

_TO_WHOLE = {"rni": np.rint, "rzi": np.trunc, "rmi": np.floor, "rpi": np.ceil}


def converted(values: np.ndarray, to: np.dtype, modifiers: set[str]) -> np.ndarray:
    """``cvt`` of `values` to the type `to`; ``.ftz`` is the caller's."""
    whole = next((_TO_WHOLE[name] for name in _TO_WHOLE if name in modifiers), None)
    if whole is not None:
        values = whole(values)
    if values.dtype.kind == "f" and to.kind in "iu":
        return _to_integer(values, to)
    rounding = next((name for name in ("rz", "rm", "rp") if name in modifiers), "rn")
    if values.dtype.kind in "iu" and rounding != "rn":
        raise NotImplementedError(f"cvt.{rounding} of an integer")
    if values.dtype == np.float64 and to == np.float32:
        values = to_float32(values, rounding)
    if "sat" in modifiers:
        if to.kind != "f":
            raise NotImplementedError("cvt.sat to an integer")
        values = np.where(np.isnan(values), 0, np.clip(values, 0, 1)).astype(values.dtype)
    return values.astype(to)


def _to_integer(values: np.ndarray, to: np.dtype) -> np.ndarray:
    """What is too large becomes the largest, and NaN what the PTX ISA says under cvt."""
    limits = np.iinfo(to)
    low, high = values < limits.min, values >= 2.0 ** (limits.bits - (to.kind == "i"))
    nan = np.isnan(values)
    result = np.where(low | high | nan, 0, values).astype(to)
    result[low], result[high] = limits.min, limits.max
    wide = values.dtype == np.float64 or limits.bits == 64
    result[nan] = (limits.min if to.kind == "i" else 1 << (limits.bits - 1)) if wide else 0
    return result
