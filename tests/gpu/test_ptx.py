"""The interpreter of PTX: single instructions by value, threads that meet and wait, and what it refuses."""

from __future__ import annotations

import re
from fractions import Fraction

import numpy as np
import pytest
from ptx import PtxError, launch, parse
from ptx.arithmetic import TYPES, fma

F32, F64, I32, U32, I64, U64 = np.float32, np.float64, np.int32, np.uint32, np.int64, np.uint64
NAN, INF = np.nan, np.inf
REGISTERS = """
    .reg .pred %p<9>;
    .reg .b16 %h<9>;
    .reg .b32 %r<20>;
    .reg .b64 %rd<20>;
    .reg .f32 %f<9>;
    .reg .f64 %fd<9>;
"""


def kernel(body: str, *parameters: str):
    declared = ", ".join(f".param .{type_} f_{i}" for i, type_ in enumerate(parameters))
    return parse(f".version 9.5\n.target sm_75\n.visible .entry f({declared})\n{{{REGISTERS}{body}\n}}\n")["f"]


def run(body: str, *arguments, threads: int = 32, blocks: int = 1, **how) -> None:
    """The body, with pointers to the arguments in %rd0, %rd1 ... and the thread's number in %r0."""
    loads = "".join(f"ld.param.u64 %rd{i}, [f_{i}];\n" for i in range(len(arguments)))
    text = f"mov.u32 %r0, %tid.x;\n{loads}{body}\nret;"
    launch(kernel(text, *["u64"] * len(arguments)), (blocks,), (threads,), arguments, **how)


PREFIXES = {"pred": "%p", "16": "%h", "32": "%r", "64": "%rd", "f32": "%f", "f64": "%fd"}


def register(type_: str, number: int) -> str:
    kind = type_ if type_ in PREFIXES else "16" if type_[1:] in ("8", "16") else type_[1:]
    return f"{PREFIXES[kind]}{number}"


def compute(instruction: str, result: str, *operands: tuple[str, list]) -> np.ndarray:
    """What an instruction makes of operands of the given types, a thread for each of their values."""
    names = [register(type_, k) for k, (type_, _) in enumerate(operands, 1)]
    return compute_by(f"{instruction} {register(result, 8)}, {', '.join(names)};", result, *operands)


def compute_by(body: str, result: str, *operands: tuple[str, list]) -> np.ndarray:
    """What the body leaves in the register with number 8, of operands in those with numbers 1, 2 ..."""
    text = ""
    for k, (type_, _) in enumerate(operands, 1):
        text += f"mad.wide.u32 %rd10, %r0, {TYPES[type_].itemsize}, %rd{k + 10};\n"
        text += f"ld.global.{type_} {register(type_, k)}, [%rd10];\n"
    moved = "".join(f"mov.u64 %rd{k + 10}, %rd{k};\n" for k in range(len(operands) + 1))
    end = (
        f"mad.wide.u32 %rd10, %r0, {TYPES[result].itemsize}, %rd10;\nst.global.{result} [%rd10], {register(result, 8)};"
    )
    output = np.zeros(len(operands[0][1]), TYPES[result])
    arrays = [np.array(values, TYPES[type_]) for type_, values in operands]
    run(f"{moved}{text}{body}\nmov.u64 %rd10, %rd0;\n{end}", output, *arrays, threads=len(output))
    return output


BIG, TINY = 2**31 - 1, 1e-40  # the largest s32; a subnormal f32


@pytest.mark.parametrize(
    ("instruction", "types", "operands", "expected"),
    [
        ("add.s32", "s32 s32 s32", [[BIG, 5], [1, -7]], [-(2**31), -2]),
        ("sub.u64", "u64 u64 u64", [[3], [5]], [2**64 - 2]),
        ("mul.lo.s32", "s32 s32 s32", [[BIG, -3], [2, 5]], [-2, -15]),
        ("mul.hi.s32", "s32 s32 s32", [[-1, 2**30, BIG], [1, 8, -2]], [-1, 2, -1]),
        ("mul.hi.u32", "u32 u32 u32", [[2**32 - 1, 5], [2**32 - 1, 6]], [2**32 - 2, 0]),
        ("mul.hi.u64", "u64 u64 u64", [[2**64 - 1, 2**33], [2**64 - 1, 2**33]], [2**64 - 2, 4]),
        ("mul.hi.s64", "s64 s64 s64", [[-1, 2**62, -(2**63)], [1, -8, 3]], [-1, -2, -2]),
        ("mul.wide.s32", "s64 s32 s32", [[BIG, -5], [-2, 7]], [-2 * BIG, -35]),
        ("mul.wide.u32", "u64 u32 u32", [[2**32 - 1], [2**32 - 1]], [(2**32 - 1) ** 2]),
        ("mul.wide.u16", "u32 u16 u16", [[65535], [65535]], [65535**2]),
        ("mad.lo.s32", "s32 s32 s32 s32", [[3, -3], [5, 5], [7, 7]], [22, -8]),
        ("mad.hi.u32", "u32 u32 u32 u32", [[2**31], [6], [10]], [13]),
        ("mad.wide.s32", "s64 s32 s32 s64", [[-5], [7], [2**40]], [2**40 - 35]),
        ("div.s32", "s32 s32 s32", [[7, -7, 7, -7, -8], [2, 2, -2, -2, 2]], [3, -3, -3, 3, -4]),
        ("rem.s32", "s32 s32 s32", [[7, -7, 7, -7], [2, 2, -2, -2]], [1, -1, 1, -1]),
        ("div.u64", "u64 u64 u64", [[2**64 - 1], [10]], [(2**64 - 1) // 10]),
        ("rem.u32", "u32 u32 u32", [[2**32 - 1], [10]], [5]),
        ("neg.s32", "s32 s32", [[5, -5]], [-5, 5]),
        ("abs.s32", "s32 s32", [[5, -5]], [5, 5]),
        ("min.s32", "s32 s32 s32", [[-1], [1]], [-1]),
        ("min.u32", "u32 u32 u32", [[2**32 - 1], [1]], [1]),
        ("max.s64", "s64 s64 s64", [[-1], [1]], [1]),
        ("not.b32", "b32 b32", [[0, 5]], [2**32 - 1, 2**32 - 6]),
        ("and.b32", "b32 b32 b32", [[12], [10]], [8]),
        ("or.b32", "b32 b32 b32", [[12], [10]], [14]),
        ("xor.b32", "b32 b32 b32", [[12], [10]], [6]),
        ("shl.b32", "b32 b32 u32", [[3, 3, 3], [4, 31, 32]], [48, 2**31, 0]),
        ("shr.u32", "u32 u32 u32", [[2**31, 2**31], [31, 32]], [1, 0]),
        ("shr.s32", "s32 s32 u32", [[-8, -8], [1, 40]], [-4, -1]),
        ("shr.s64", "s64 s64 u32", [[-(2**40)], [38]], [-4]),
        ("shf.l.wrap.b32", "b32 b32 b32 u32", [[2**31, 1], [5, 5], [1, 32]], [11, 5]),
        ("shf.r.wrap.b32", "b32 b32 b32 u32", [[4], [3], [1]], [2**31 + 2]),
        ("shf.r.clamp.b32", "b32 b32 b32 u32", [[4], [3], [40]], [3]),
        ("lop3.b32", "b32 b32 b32 b32 u32", [[0b1100], [0b1010], [0b1111], [0x80]], [0b1000]),  # a & b & c
        ("lop3.b32", "b32 b32 b32 b32 u32", [[0b1100], [0b1010], [0b0110], [0x96]], [0b0000]),  # a ^ b ^ c
        ("bfi.b32", "b32 b32 b32 u32 u32", [[0xFF, 3], [0, 2**32 - 1], [4, 0], [4, 32]], [0xF0, 3]),
        ("bfi.b64", "b64 b64 b64 u32 u32", [[5], [7], [32], [32]], [(5 << 32) + 7]),
        ("bfe.u32", "u32 u32 u32 u32", [[0xABCD, 0xABCD], [4, 8], [8, 40]], [0xBC, 0xAB]),
        ("prmt.b32", "b32 b32 b32 u32", [[0x33221100], [0x77665544], [0x7250]], [0x77225500]),
        ("popc.b32", "u32 b32", [[0, 7, 2**32 - 1]], [0, 3, 32]),
        ("popc.b64", "u32 b64", [[2**64 - 1]], [64]),
        ("clz.b32", "u32 b32", [[0, 1, 2**31]], [32, 31, 0]),
        ("brev.b32", "b32 b32", [[1, 6]], [2**31, 3 << 29]),
        # --- floating point
        ("add.f32", "f32 f32 f32", [[TINY, 2.0**24], [TINY, 1.0]], [2 * F32(TINY), 2.0**24]),
        ("add.ftz.f32", "f32 f32 f32", [[TINY, -TINY, 2e-38], [1e-45, -1e-45, -1.5e-38]], [0.0, -0.0, 0.0]),
        ("add.rz.f32", "f32 f32 f32", [[1.0, -1.0], [2.0**-24 * 1.5, -(2.0**-24) * 1.5]], [1.0, -1.0]),
        ("add.rp.f32", "f32 f32 f32", [[1.0, -1.0], [1e-30, 1e-30]], [1 + 2.0**-23, -(1 - 2.0**-24)]),
        ("sub.rm.f32", "f32 f32 f32", [[1.0], [1e-30]], [1 - 2.0**-24]),
        ("mul.f64", "f64 f64 f64", [[0.1, INF], [3.0, 0.0]], [0.1 * 3.0, NAN]),
        ("mul.ftz.f32", "f32 f32 f32", [[1e-20, -1e-20], [1e-20, 1e-20]], [0.0, -0.0]),
        ("mul.rz.f32", "f32 f32 f32", [[F32(0.1), -1.0], [F32(0.1), 0.0]], [F32(0.01), -0.0]),
        ("mul.sat.f32", "f32 f32 f32", [[2.0, -2.0, 0.5, NAN], [2.0, 2.0, 0.5, 1.0]], [1.0, 0.0, 0.25, 0.0]),
        ("div.rn.f32", "f32 f32 f32", [[1.0, 1.0, 0.0], [3.0, 0.0, 0.0]], [F32(1) / F32(3), INF, NAN]),
        ("rcp.rn.f32", "f32 f32", [[3.0, -0.0]], [F32(1) / F32(3), -INF]),
        ("sqrt.rn.f64", "f64 f64", [[2.0, -1.0]], [2.0**0.5, NAN]),
        ("sqrt.rn.f32", "f32 f32", [[2.0]], [F32(1.41421356)]),
        ("rsqrt.approx.ftz.f32", "f32 f32", [[4.0, 0.0, TINY]], [0.5, INF, INF]),
        ("ex2.approx.ftz.f32", "f32 f32", [[3.0, -1.0, -INF, 0.5, -130.0]], [8.0, 0.5, 0.0, 2.0**0.5, 0.0]),
        ("lg2.approx.f32", "f32 f32", [[8.0, 0.0, -1.0]], [3.0, -INF, NAN]),
        ("sin.approx.f32", "f32 f32", [[0.5]], [np.sin(0.5)]),
        ("rcp.approx.ftz.f64", "f64 f64", [[4.0, 3.0]], [0.25, float.fromhex("0x1.55555p-2")]),
        ("neg.f32", "f32 f32", [[0.0, 1.0]], [-0.0, -1.0]),
        ("abs.f64", "f64 f64", [[-0.0, -1.0]], [0.0, 1.0]),
        ("copysign.f32", "f32 f32 f32", [[-0.0, 1.0], [3.0, -3.0]], [-3.0, 3.0]),  # of the first, the sign
        ("min.f32", "f32 f32 f32", [[NAN, 1.0, 0.0, -0.0, 2.0], [1.0, NAN, -0.0, 0.0, 3.0]], [1, 1, -0.0, -0.0, 2]),
        ("max.f32", "f32 f32 f32", [[NAN, 1.0, 0.0, -0.0, 2.0], [1.0, NAN, -0.0, 0.0, 3.0]], [1, 1, 0.0, 0.0, 3]),
        ("max.NaN.f32", "f32 f32 f32", [[NAN, 1.0, 2.0], [1.0, NAN, 3.0]], [NAN, NAN, 3]),
        ("fma.rn.f32", "f32 f32 f32 f32", [[1 + 2.0**-12], [1 + 2.0**-12], [-1.0]], [2.0**-11 + 2.0**-24]),
        ("fma.rm.ftz.f32", "f32 f32 f32 f32", [[1.0], [1e-30], [-1.0]], [-1.0]),
        ("fma.rp.f32", "f32 f32 f32 f32", [[1.0], [1e-30], [1.0]], [1 + 2.0**-23]),
        ("fma.rn.f64", "f64 f64 f64 f64", [[1 + 2.0**-30], [1 + 2.0**-30], [-1.0]], [2.0**-29 + 2.0**-60]),
        # --- conversions
        ("cvt.rzi.s32.f32", "s32 f32", [[1.9, -1.9, 3e9, -3e9, INF, NAN]], [1, -1, BIG, -BIG - 1, BIG, 0]),
        ("cvt.rni.s32.f32", "s32 f32", [[0.5, 1.5, 2.5, -0.5]], [0, 2, 2, 0]),
        ("cvt.rmi.s32.f64", "s32 f64", [[-0.5, NAN]], [-1, -(2**31)]),
        ("cvt.rpi.s64.f32", "s64 f32", [[0.5, 1e30, NAN]], [1, 2**63 - 1, -(2**63)]),
        ("cvt.rzi.u32.f32", "u32 f32", [[-1.0, 5e9, 7.5, NAN]], [0, 2**32 - 1, 7, 0]),
        ("cvt.rzi.u64.f64", "u64 f64", [[-1.0, 1e30, NAN]], [0, 2**64 - 1, 2**63]),
        ("cvt.rmi.f32.f32", "f32 f32", [[-0.5, 1.5, NAN]], [-1.0, 1.0, NAN]),
        ("cvt.rpi.f64.f64", "f64 f64", [[-0.5, 1.5]], [-0.0, 2.0]),
        ("cvt.rzi.f32.f32", "f32 f32", [[-1.5, 1.5]], [-1.0, 1.0]),
        ("cvt.rni.f32.f32", "f32 f32", [[0.5, 1.5]], [0.0, 2.0]),
        ("cvt.sat.f32.f32", "f32 f32", [[-0.5, 0.5, 1.5, NAN]], [0.0, 0.5, 1.0, 0.0]),
        ("cvt.ftz.f64.f32", "f64 f32", [[TINY, 0.1]], [0.0, float(F32(0.1))]),
        ("cvt.rn.f32.f64", "f32 f64", [[0.1, 1e40]], [F32(0.1), INF]),
        ("cvt.rz.f32.f64", "f32 f64", [[0.1, 1e40]], [np.nextafter(F32(0.1), F32(0)), np.finfo(F32).max]),
        ("cvt.rn.f32.s64", "f32 s64", [[2**24 + 1, 2**24 + 3, -5]], [2**24, 2**24 + 4, -5]),
        ("cvt.rn.f32.u64", "f32 u64", [[2**64 - 1]], [2.0**64]),
        ("cvt.rn.f64.s32", "f64 s32", [[-3]], [-3.0]),
        ("cvt.s64.s32", "s64 s32", [[-3]], [-3]),
        ("cvt.u64.u32", "u64 u32", [[2**32 - 3]], [2**32 - 3]),
        ("cvt.u32.u64", "u32 u64", [[2**40 + 5]], [5]),
        ("cvt.s32.s8", "s32 s8", [[-1, 127]], [-1, 127]),
        ("cvt.u32.u8", "u32 u8", [[255]], [255]),
    ],
)  # fmt: skip
def test_instructions_by_value(instruction: str, types: str, operands: list[list], expected: list) -> None:
    result, *sources = types.split()
    found = compute(instruction, result, *zip(sources, operands, strict=True))
    wanted = np.array(expected, TYPES[result])
    np.testing.assert_array_equal(found, wanted)
    np.testing.assert_array_equal(np.signbit(found[found == 0]), np.signbit(wanted[wanted == 0]))


def exact(a: float, b: float, c: float) -> Fraction:
    return Fraction(a) * Fraction(b) + Fraction(c)


def test_fma_of_float32_is_rounded_once() -> None:
    """In float64, and then rounded, some would come out wrong: these sums lie close to the middle of two float32."""
    rng = np.random.default_rng(0)
    scale, part = 2.0 ** rng.integers(-20, 20, 2000), rng.integers(0, 99, 2000) * 2.0**-18
    a, b = (scale * (1 + part)).astype(F32), (rng.choice([-1, 1], 2000) * scale * (1 - part)).astype(F32)
    c = (rng.integers(2**23, 2**24, 2000) * 2 * scale**2).astype(F32)  # half a unit in its last place is scale^2
    found, twice = fma(a, b, c), (a.astype(F64) * b + c).astype(F32)
    assert (found != twice).sum() > 100
    for x, y, z, got in zip(a.tolist(), b.tolist(), c.tolist(), found, strict=True):
        beside = [np.nextafter(got, F32(bound)) for bound in (-INF, INF)]
        error, *others = (abs(Fraction(float(value)) - exact(x, y, z)) for value in (got, *beside))
        assert error < min(others) or (error == min(others) and got.view(I32) % 2 == 0)


def test_fma_of_float32_rounded_in_a_direction() -> None:
    a, b = (np.array([2.0**-12 * value], F32) for value in (1 + 2.0**-18, 1 - 2.0**-18))
    c = np.array([1 + 2.0**-23], F32)
    below, above = 1 + 2.0**-23, 1 + 2.0**-22  # between which lies the sum, by 2^-60 below the middle
    assert F32(F64(a[0]) * b[0] + c[0]) == above
    assert [fma(a, b, c, rounding)[0] for rounding in ("rn", "rz", "rm", "rp")] == [below, below, below, above]
    assert [fma(-a, b, -c, rounding)[0] for rounding in ("rn", "rz", "rm", "rp")] == [-below, -below, -above, -below]


def test_fma_of_float64_is_rounded_once() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.standard_normal((2, 3000)) * 2.0 ** rng.integers(-30, 30, (2, 3000))
    c = -(a * b) * (1 + rng.integers(-4, 5, 3000) * 2.0 ** -rng.integers(20, 60, 3000))  # most of it cancels
    special = [
        (1e200, 1e200, -1e308, INF),
        (1e-200, 1e-200, 1e-320, None),  # the product is subnormal
        (5e-324, 0.5, 5e-324, None),
        (2.0**-1000, -(2.0**-1000), 0.0, -0.0),
        (0.0, -1.0, 0.0, 0.0),
        (INF, 0.0, 1.0, NAN),
        (1e300, 1e300, -INF, -INF),
        (2.0**1023, 2.0, -(2.0**1023), 2.0**1023),  # the product alone overflows
    ]
    for x, y, z, wanted in [*zip(a.tolist(), b.tolist(), c.tolist(), [None] * 3000, strict=True), *special]:
        with np.errstate(all="ignore"):
            got = fma(*(np.array([value], F64) for value in (x, y, z)))[0]
        np.testing.assert_equal(got, float(exact(x, y, z)) if wanted is None else wanted)


# --- comparing and choosing -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("comparison", "expected"),
    [
        # of (1, 2), (2, 2), (NaN, 2)
        ("eq.f32", [0, 1, 0]), ("ne.f32", [1, 0, 0]), ("lt.f32", [1, 0, 0]), ("le.f32", [1, 1, 0]),
        ("gt.f32", [0, 0, 0]), ("ge.f32", [0, 1, 0]), ("equ.f32", [0, 1, 1]), ("neu.f32", [1, 0, 1]),
        ("ltu.f32", [1, 0, 1]), ("leu.f32", [1, 1, 1]), ("gtu.f32", [0, 0, 1]), ("geu.f32", [0, 1, 1]),
        ("num.f32", [1, 1, 0]), ("nan.f32", [0, 0, 1]),
    ],
)  # fmt: skip
def test_comparisons_with_nan(comparison: str, expected: list[int]) -> None:
    body = f"setp.{comparison} %p0, %f1, %f2;\nselp.s32 %r8, 1, 0, %p0;"
    found = compute_by(body, "s32", ("f32", [1.0, 2.0, NAN]), ("f32", [2.0, 2.0, 2.0]))
    assert found.tolist() == expected


def test_comparisons_of_integers_with_and_without_sign() -> None:
    for comparison, expected in [
        ("lt.s32", 1),
        ("lt.u32", 0),
        ("lo.u32", 0),
        ("hs.u32", 1),
        ("hi.u32", 1),
        ("ls.u32", 0),
    ]:
        body = f"setp.{comparison} %p0, %r1, %r2;\nselp.s32 %r8, 1, 0, %p0;"
        assert compute_by(body, "s32", ("s32", [-1]), ("s32", [1])).tolist() == [expected]


def test_comparisons_flush_subnormal_numbers_and_join_predicates() -> None:
    for comparison, expected in [
        ("setp.gt.f32 %p0, %f1, 0f00000000;", 1),
        ("setp.gt.ftz.f32 %p0, %f1, 0f00000000;", 0),
        ("setp.eq.f32 %p1, %f1, %f1; setp.gt.and.ftz.f32 %p0, 0f3F800000, %f1, !%p1;", 0),
        ("setp.eq.f32 %p1, %f1, %f1; setp.gt.or.ftz.f32 %p2|%p0, 0f3F800000, %f1, !%p1;", 0),
        ("setp.eq.f32 %p1, %f1, %f1; setp.gt.xor.ftz.f32 %p0, 0f3F800000, %f1, %p1;", 0),
    ]:
        assert compute_by(f"{comparison} selp.s32 %r8, 1, 0, %p0;", "s32", ("f32", [TINY])).tolist() == [expected]


def test_packing_and_unpacking() -> None:
    body = "mov.b64 {%r1, %r2}, %fd1; mov.b64 %fd8, {%r2, %r1};"
    assert compute_by(body, "f64", ("f64", [2.0])).view(U64).tolist() == [0x40000000]  # halves of 2.0, exchanged
    body = "mov.b32 {%h1, _}, %r1; mov.b32 %r8, {%h1, %h1};"
    assert compute_by(body, "b32", ("b32", [0x12345678])).tolist() == [0x56785678]


def test_registers_of_inner_braces_hide_outer_ones() -> None:
    body = "mov.u32 %r7, 1; { .reg .b32 %r7; mov.u32 %r7, 2; { .reg .u64 %r7, %x; mov.u64 %r7, 3; } mov.u32 %r8, %r7; }"
    assert compute_by(body, "b32", ("b32", [0])).tolist() == [2]
    assert compute_by(body + "mov.u32 %r8, %r7;", "b32", ("b32", [0])).tolist() == [1]


# --- threads that part and meet ---------------------------------------------------------------------------------------

STORE = "mad.wide.u32 %rd9, %r0, 4, %rd0; st.global.u32 [%rd9], %r8;"  # output[thread] = %r8


def test_loops_of_different_length() -> None:
    """Thread t adds up 0 + 1 + ... + t; all go through the rest together."""
    output = np.zeros(40, U32)
    loop = """
        mov.u32 %r8, 0; mov.u32 %r1, 0;
        $again: add.u32 %r8, %r8, %r1; add.u32 %r1, %r1, 1;
        setp.le.u32 %p0, %r1, %r0;
        @%p0 bra $again;
        activemask.b32 %r2;
        setp.ge.u32 %p1, %r0, 32;
    """
    run(loop + STORE, output, threads=40)
    assert output.tolist() == [t * (t + 1) // 2 for t in range(40)]
    run(loop + "mov.u32 %r8, %r2;" + STORE, output, threads=40)
    assert output.tolist() == [2**32 - 1] * 32 + [255] * 8


def test_guards_and_branches_by_index() -> None:
    output = np.zeros(6, U32)
    body = """
        rem.u32 %r1, %r0, 3;
        $table: .branchtargets $zero, $one, $two;
        brx.idx %r1, $table;
        $zero: mov.u32 %r8, 100; bra.uni $end;
        $one: mov.u32 %r8, 101; bra.uni $end;
        $two: mov.u32 %r8, 102;
        $end: setp.eq.u32 %p0, %r0, 4;
        @%p0 mov.u32 %r8, 7;
        @!%p0 add.u32 %r8, %r8, 1000;
        @%p0 exit;
    """
    run(body + STORE, output, threads=6)
    assert output.tolist() == [1100, 1101, 1102, 1100, 0, 1102]


def test_blocks_of_three_axes() -> None:
    output = np.zeros((2 * 3 * 4 * 5, 4), U32)
    body = """
        ld.param.u64 %rd0, [f_0];
        mov.u32 %r1, %tid.x; mov.u32 %r2, %tid.y; mov.u32 %r3, %ctaid.x; mov.u32 %r4, %ctaid.y;
        mov.u32 %r5, %ntid.x; mov.u32 %r6, %ntid.y; mov.u32 %r7, %nctaid.x;
        mad.lo.u32 %r8, %r4, %r7, %r3;
        mul.lo.u32 %r8, %r8, %r6; add.u32 %r8, %r8, %r2;
        mul.lo.u32 %r8, %r8, %r5; add.u32 %r8, %r8, %r1;
        mad.wide.u32 %rd0, %r8, 16, %rd0;
        st.global.v4.u32 [%rd0], {%r1, %r2, %r3, %r4};
        ret;
    """
    launch(kernel(body, "u64"), (4, 5), (2, 3), [output])
    expected = [[x, y, bx, by] for by in range(5) for bx in range(4) for y in range(3) for x in range(2)]
    assert output.tolist() == expected


def test_endless_loops_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ptx.machine.MOST_STEPS", 1000)
    with pytest.raises(PtxError, match="f: still running after 1000 steps"):
        run("$here: bra.uni $here;", np.zeros(1))


# --- barriers ---------------------------------------------------------------------------------------------------------

NEIGHBOURS = """
    .shared .align 4 .b8 room[256];
    mov.u32 %r1, room; shl.b32 %r2, %r0, 2; add.u32 %r3, %r1, %r2;
    st.shared.u32 [%r3], %r0;
    {barrier}
    sub.u32 %r4, 63, %r0; shl.b32 %r4, %r4, 2; add.u32 %r4, %r4, %r1;
    ld.shared.u32 %r8, [%r4];
"""


@pytest.mark.parametrize("how", [{}, *({"warps_together": False, "order": order} for order in (0, 1, 5))])
def test_barriers(how: dict) -> None:
    output = np.zeros(64, U32)
    run(NEIGHBOURS.replace("{barrier}", "bar.sync 0;") + STORE, output, threads=64, **how)
    assert output.tolist() == list(range(63, -1, -1))


def test_a_missing_barrier_shows_where_warps_go_on_alone() -> None:
    body = NEIGHBOURS.replace("{barrier}", "") + STORE
    for order, wrong in ((0, slice(0, 32)), (1, slice(32, 64))):  # those of the warp that comes first
        output = np.zeros(64, U32)
        run(body, output, threads=64, warps_together=False, order=order)
        assert (output[wrong] == 2**32 - 1).all()  # NaN, had it been a float
        assert (output != 2**32 - 1).sum() == 32


def test_barriers_that_count() -> None:
    output = np.zeros(3 * 64, U32)
    body = """
        mov.u32 %r1, %ctaid.x;
        setp.lt.u32 %p0, %r0, %r1;
        {red}
        mad.lo.u32 %r0, %r1, 64, %r0;
    """
    for red, expected in [
        ("bar.red.popc.u32 %r8, 0, %p0;", [0, 1, 2]),
        ("bar.red.or.pred %p1, 0, %p0; selp.u32 %r8, 1, 0, %p1;", [0, 1, 1]),
        ("bar.red.and.pred %p1, 0, !%p0; selp.u32 %r8, 1, 0, %p1;", [1, 0, 0]),
    ]:
        run(body.replace("{red}", red) + STORE, output, threads=64, blocks=3)
        assert output.reshape(3, 64).tolist() == [[value] * 64 for value in expected]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            "@%p0 exit; bar.sync 0;",
            "thread 5 of block 0: bar.sync 0: waits at a barrier, and thread 0 of block 0 has ended",
        ),
        (
            "@%p0 bar.sync 0;",
            "thread 0 of block 0: @%p0 bar.sync 0: waits at a barrier, and thread 5 of block 0 has ended",
        ),
        (
            "@%p0 bra $a; bar.sync 0; bra.uni $b; $a: bar.sync 0; $b:",
            "thread 0 of block 0: bar.sync 0: waits at a barrier, and thread 5 of block 0 at another",
        ),
    ],
)
def test_barriers_that_some_never_reach(body: str, message: str) -> None:
    with pytest.raises(PtxError, match=re.escape(message)):
        run(f"setp.lt.u32 %p0, %r0, 5; {body}", np.zeros(1), threads=64, blocks=2)


# --- warps ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shuffle", "source"),
    [
        ("down.b32 %r8|%p0, %r0, 3, 31, -1", lambda lane: lane + 3 if lane + 3 < 32 else lane),
        ("down.b32 %r8|%p0, %r0, 3, 6175, -1", lambda lane: lane + 3 if lane % 8 + 3 < 8 else lane),  # of 8 lanes each
        ("up.b32 %r8|%p0, %r0, 3, 0, -1", lambda lane: lane - 3 if lane >= 3 else lane),
        ("up.b32 %r8|%p0, %r0, 3, 6144, -1", lambda lane: lane - 3 if lane % 8 >= 3 else lane),
        ("bfly.b32 %r8|%p0, %r0, 5, 31, -1", lambda lane: lane ^ 5),
        ("idx.b32 %r8|%p0, %r0, 9, 31, -1", lambda lane: 9),
        ("idx.b32 %r8|%p0, %r0, 9, 6175, -1", lambda lane: lane // 8 * 8 + 1),
    ],
)
def test_shuffles(shuffle: str, source) -> None:
    output = np.zeros(64, U32)
    run(f"shfl.sync.{shuffle};" + STORE, output, threads=64)
    assert output.tolist() == [warp * 32 + source(lane) for warp in range(2) for lane in range(32)]
    run(f"shfl.sync.{shuffle}; selp.u32 %r8, 1, 0, %p0;" + STORE, output, threads=64)
    moved = [int(source(lane) != lane or "bfly" in shuffle or "idx" in shuffle) for lane in range(32)]
    assert output.tolist() == 2 * moved


def test_votes() -> None:
    output = np.zeros(64, U32)
    for vote, expected in [
        ("vote.sync.ballot.b32 %r8, %p0, -1;", [2**32 - 32, 2**32 - 1]),
        ("vote.sync.any.pred %p1, !%p0, -1; selp.u32 %r8, 1, 0, %p1;", [1, 0]),
        ("vote.sync.all.pred %p1, %p0, -1; selp.u32 %r8, 1, 0, %p1;", [0, 1]),
        ("vote.sync.uni.pred %p1, !%p0, -1; selp.u32 %r8, 1, 0, %p1;", [0, 1]),
    ]:
        run(f"setp.ge.u32 %p0, %r0, 5; {vote}" + STORE, output, threads=64)
        assert output.reshape(2, 32).tolist() == [[value] * 32 for value in expected]


def test_lanes_wait_for_those_that_come_later() -> None:
    """Some lanes take a way that lies behind the shuffle, and come back to it."""
    output = np.zeros(32, U32)
    body = """
        mov.u32 %r1, %r0;
        setp.ge.u32 %p0, %r0, 16;
        @%p0 bra $late;
        $meet: shfl.sync.down.b32 %r8, %r1, 1, 31, -1;
        bra.uni $end;
        $late: add.u32 %r1, %r0, 100; bra.uni $meet;
        $end:
    """
    run(body + STORE, output)
    assert output.tolist() == [*range(1, 16), *range(116, 132), 131]


def test_lanes_that_have_ended_are_not_waited_for() -> None:
    output = np.zeros(32, U32)
    body = """
        setp.ge.u32 %p0, %r0, 16;
        @%p0 bra $late;
        shfl.sync.bfly.b32 %r8, %r0, 1, 31, -1;
        bra.uni $end;
        $late: ret;
        $end:
    """
    run(body + STORE, output)
    assert output.tolist() == [lane ^ 1 for lane in range(16)] + [0] * 16


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            "@%p0 exit; shfl.sync.down.b32 %r8, %r0, 16, 31, -1;",
            "thread 0 of block 0: .* lane 16, which it reads, takes no",
        ),
        (
            "@!%p0 shfl.sync.down.b32 %r8, %r0, 1, 31, -1; bar.sync 0;",
            "thread 0 of .* waits for lanes of its warp that",
        ),
        ("shfl.sync.down.b32 %r8, %r0, 1, 31, 255;", "thread 8 of block 0: .*: its own lane is not in the mask"),
    ],
)
def test_shuffles_without_some_lanes(body: str, message: str) -> None:
    with pytest.raises(PtxError, match=message):
        run(f"setp.ge.u32 %p0, %r0, 16; {body}", np.zeros(1))


# --- memory -----------------------------------------------------------------------------------------------------------


def test_atomic_operations_give_what_was_there_before() -> None:
    """In the order of the threads: 0, 1, 2 ... for each of two places."""
    body = "and.b32 %r1, %r0, 1; mad.wide.u32 %rd8, %r1, 4, %rd1; add.u32 %r2, %r0, 1; {atom}" + STORE
    for atom, start, before, after in [
        ("atom.global.add.u32 %r8, [%rd8], %r2;", 0, [0, 0, 1, 2, 4, 6], [9, 12]),
        ("atom.global.max.u32 %r8, [%rd8], %r2;", 4, [4, 4, 4, 4, 4, 4], [5, 6]),
        ("atom.global.min.s32 %r8, [%rd8], %r2;", 4, [4, 4, 1, 2, 1, 2], [1, 2]),
        ("atom.global.exch.b32 %r8, [%rd8], %r2;", 0, [0, 0, 1, 2, 3, 4], [5, 6]),
        ("atom.global.cas.b32 %r8, [%rd8], 3, %r2;", 3, [3, 3, 1, 2, 1, 2], [1, 2]),
        ("atom.global.inc.u32 %r8, [%rd8], 1;", 0, [0, 0, 1, 1, 0, 0], [1, 1]),
        ("atom.global.dec.u32 %r8, [%rd8], 5;", 1, [1, 1, 0, 0, 5, 5], [4, 4]),
        ("atom.global.or.b32 %r8, [%rd8], %r2;", 0, [0, 0, 1, 2, 3, 6], [7, 6]),
        ("atom.global.and.b32 %r8, [%rd8], %r2;", 7, [7, 7, 1, 2, 1, 0], [1, 0]),
        ("atom.relaxed.gpu.global.xor.b32 %r8, [%rd8], 1;", 0, [0, 0, 1, 1, 0, 0], [1, 1]),
    ]:
        output, places = np.zeros(6, U32), np.full(2, start, U32)
        run(body.replace("{atom}", atom), output, places, threads=6)
        assert (output.tolist(), places.tolist()) == (before, after), atom


def test_atomic_sums_add_up_in_the_order_of_blocks() -> None:
    """1 + 2^-24 is 1 in float32, 2^-24 + 2^-24 + 1 is more."""
    body = """
        mov.u32 %r1, %ctaid.x; setp.eq.u32 %p0, %r1, 0;
        selp.f32 %f1, 0f3F800000, 0f33800000, %p0;
        red.global.add.f32 [%rd0], %f1;
    """
    for order, expected in ((0, 1.0), (1, 1 + 2.0**-23)):
        total = np.zeros(1, F32)
        run(body, total, threads=1, blocks=3, order=order)
        assert total[0] == F32(expected)


def test_atomic_sums_in_shared_memory() -> None:
    output = np.zeros(2, F64)
    body = """
        .shared .align 8 .b8 total[8];
        mov.u32 %r1, total; setp.eq.u32 %p0, %r0, 0; mov.f64 %fd1, 0d0000000000000000;
        @%p0 st.shared.f64 [total], %fd1;
        bar.sync 0;
        cvt.rn.f64.u32 %fd2, %r0; atom.shared.add.f64 %fd3, [%r1], %fd2;
        bar.sync 0;
        ld.shared.f64 %fd4, [%r1];
        mov.u32 %r2, %ctaid.x; mad.wide.u32 %rd1, %r2, 8, %rd0;
        @%p0 st.global.f64 [%rd1], %fd4;
    """
    run(body, output, threads=64, blocks=2)
    assert output.tolist() == [63 * 32, 63 * 32]


def test_vectors_of_two_and_four() -> None:
    source, target = np.arange(16, dtype=F32), np.zeros(16, F32)
    body = """
        mad.wide.u32 %rd2, %r0, 16, %rd1; mad.wide.u32 %rd3, %r0, 16, %rd0;
        ld.global.nc.v4.f32 {%f1, %f2, %f3, %f4}, [%rd2];
        st.global.v2.f32 [%rd3], {%f4, %f3}; st.global.v2.f32 [%rd3+8], {%f2, %f1};
    """
    run(body, target, source, threads=4)
    assert target.reshape(4, 4).tolist() == source.reshape(4, 4)[:, ::-1].tolist()


def test_loads_extend_narrow_numbers_with_their_sign() -> None:
    for type_, expected in (("s8", -1), ("u8", 255), ("b8", 255)):
        assert compute_by(f"ld.global.{type_} %r8, [%rd11];", "s32", ("s32", [-1])).tolist() == [expected]
    assert compute_by("ld.global.s32 %rd8, [%rd11];", "s64", ("s32", [-5])).tolist() == [-5]


def test_local_memory_belongs_to_each_thread() -> None:
    output = np.zeros(40, U32)
    body = """
        .local .align 4 .b8 depot[8];
        mov.u64 %rd5, depot; st.local.u32 [%rd5+4], %r0; st.local.u32 [depot], 7;
        ld.local.u32 %r1, [%rd5+4]; ld.local.u32 %r2, [%rd5]; add.u32 %r8, %r1, %r2;
    """
    run(body + STORE, output, threads=40)
    assert output.tolist() == [thread + 7 for thread in range(40)]


def test_generic_addresses() -> None:
    """The same load, of shared, local or global memory."""
    output, source = np.zeros(3, U32), np.full(1, 30, U32)
    body = """
        .shared .align 4 .b8 room[4]; .local .align 4 .b8 depot[4];
        mov.u64 %rd2, room; cvta.shared.u64 %rd2, %rd2; mov.u64 %rd3, depot; cvta.local.u64 %rd3, %rd3;
        cvta.to.local.u64 %rd6, %rd3; st.local.u32 [%rd6], 20; cvta.to.shared.u64 %rd7, %rd2; st.shared.u32 [%rd7], 10;
        setp.eq.u32 %p0, %r0, 0; setp.eq.u32 %p1, %r0, 1;
        selp.b64 %rd4, %rd2, %rd1, %p0; selp.b64 %rd4, %rd3, %rd4, %p1;
        ld.u32 %r8, [%rd4]; add.u32 %r8, %r8, 1; st.u32 [%rd4], %r8;
    """
    run(body + STORE, output, source, threads=3)
    assert output.tolist() == [11, 21, 31]
    assert source.tolist() == [31]


def test_shared_memory_starts_as_nan() -> None:
    body = ".shared .align 8 .b8 room[8]; ld.shared.f64 %fd8, [room];"
    assert np.isnan(compute_by(body, "f64", ("f64", [0.0]))).all()


def test_dynamic_shared_memory_lies_behind_the_static() -> None:
    text = f"""
.extern .shared .align 16 .b8 more[];
.shared .align 4 .b8 of_module[4];
.visible .entry f(.param .u64 .ptr .align 1 f_0) {{{REGISTERS}
        .shared .align 4 .b8 room[4];
        ld.param.u64 %rd0, [f_0]; mov.u32 %r0, 0;
        st.shared.u32 [room], 1; st.shared.u32 [of_module], 2; st.shared.u32 [more], 3; st.shared.u32 [more+4], 4;
        ld.shared.u32 %r1, [room]; ld.shared.u32 %r2, [of_module];
        ld.shared.u32 %r3, [more]; ld.shared.u32 %r4, [more+4];
        st.global.v4.u32 [%rd0], {{%r1, %r2, %r3, %r4}};
        ret; }}
    """
    output = np.zeros(4, U32)
    launch(parse(text)["f"], (1,), (1,), [output], shared=8)
    assert output.tolist() == [1, 2, 3, 4]
    with pytest.raises(
        PtxError, match=r"st.shared.u32 \[more\+4\], 4: shared address 0x14 is outside of all shared memory"
    ):
        launch(parse(text)["f"], (1,), (1,), [output], shared=4)


def test_arrays_that_share_memory() -> None:
    both = np.zeros(8, U32)
    body = "mad.wide.u32 %rd9, %r0, 4, %rd0; st.global.u32 [%rd9], 1; st.global.u32 [%rd1+8], 2; mov.u32 %r8, 1;"
    run(body, both[:6], both[4:], threads=6)
    assert both.tolist() == [1, 1, 1, 1, 1, 1, 2, 0]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            "mad.wide.u32 %rd9, %r0, 4, %rd0; ld.global.u32 %r1, [%rd9];",
            r"thread 4 of block 0: ld.global.u32 .* outside",
        ),
        ("ld.global.u32 %r1, [%rd0+-4];", "thread 0 of block 0: .* is outside of all global memory"),
        (
            "ld.global.v2.u32 {%r1, %r2}, [%rd0+8]; ld.global.v2.u32 {%r1, %r2}, [%rd0+16];",
            r"\[%rd0\+16\]: global address",
        ),
        ("mov.u64 %rd1, 0; st.global.u8 [%rd1], 1;", "global address 0x0 is outside"),
        ("ld.global.u32 %r1, [%rd0+2];", "misaligned access to 4 bytes"),
        ("ld.global.v2.u32 {%r1, %r2}, [%rd0+4];", "misaligned access to 8 bytes"),
        ("atom.global.add.u32 %r1, [%rd0+16], 1;", "outside of all global memory"),
        ("ld.shared.u32 %r1, [0];", "shared address 0x0 is outside of all shared memory"),
        (".local .align 4 .b8 depot[4]; st.local.u8 [depot+4], 1;", "local address 0x4 is outside"),
    ],
)
def test_accesses_outside(body: str, message: str) -> None:
    with pytest.raises(PtxError, match=f"^f: .*{message}"):
        run(body, np.zeros(4, U32), threads=8)


# --- what else is refused ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            "add.u32 %r1, %r0, %r5;",
            "f: thread 0 of block 0: add.u32 %r1, %r0, %r5: %r5 is read, and never written before",
        ),
        (
            "setp.lt.u32 %p0, %r0, 3; @%p0 mov.u32 %r5, 1; mov.u32 %r1, %r5;",
            "thread 3 of block 0: mov.u32 %r1, %r5: %r5 is read, and written only by other threads before",
        ),
        ("div.u32 %r1, 5, %r0;", "f: div.u32 %r1, 5, %r0: division by zero"),
        ("trap;", "f: thread 0 of block 0: trap: the kernel gives up"),
        ("mma.sync.whatever.f32 %f1, %f2;", "f: mma.sync.whatever.f32 %f1, %f2: mma is not known"),
        ("call.uni elsewhere;", "f: call.uni elsewhere: call is not known"),  # NVRTC inlines all that our kernels call
        ("add.cc.u32 %r1, %r0, %r0;", "f: add.cc.u32 %r1, %r0, %r0: not known: {'cc'}"),
        ("ld.const.u32 %r1, [table];", "not known: const"),
        ("mov.u32 %r1, %clock;", "%clock is read, and never written"),
        ("mov.u64 %rd1, table;", "not known: table"),
        ("bar.sync 0, 8;", "not known: barriers for some threads of a block"),
        ("fma.rz.f64 %fd1, 0d0000000000000000, 0d0000000000000000, 0d0000000000000000;", "not known: fma.rz.f64"),
    ],
)
def test_what_is_refused(body: str, message: str) -> None:
    with pytest.raises(PtxError, match=re.escape(message)):
        run(body, np.zeros(1, U32))


def test_arguments_are_counted_and_measured() -> None:
    some = kernel("ret;", "u64", "u32")
    launch(some, (1,), (1,), [np.zeros(1), I32(5)])
    with pytest.raises(PtxError, match="f: 1 arguments for 2 parameters"):
        launch(some, (1,), (1,), [np.zeros(1)])
    with pytest.raises(PtxError, match=r"f: f_1 has 4 bytes, got 8 \(int64\)"):
        launch(some, (1,), (1,), [np.zeros(1), I64(5)])
    with pytest.raises(PtxError, match="f: f_0: expected a C-contiguous array"):
        launch(some, (1,), (1,), [np.zeros(9)[::2], I32(5)])
