"""Faults of the kinds that are made in kernels, planted one at a time, and the rung of the ladder that catches each.

    python tests/gpu/faults.py                      # the table
    python tests/gpu/faults.py "+= for atomicAdd"  # its family's case with that fault, which may well fail

A ladder of tests proves something only if it breaks where a kernel does: `test_faults.py` climbs it with each fault.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
import types
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import ministn.backend
from ministn.kernels import _cuda

EMULATOR = "emulator"  # wrong values, or an error of the emulator
ONE_BLOCK = "one block"  # the emulator again, with a grid of one block
LARGE = "large arrays"  # the emulator again, with more than 2^31 elements
ADDRESS = "AddressSanitizer"
THREAD = "ThreadSanitizer"
COMPILER = "NVRTC"
PTX = "PTX interpreter"
LAUNCH = "stand-in for CuPy"


@dataclass(frozen=True)
class Fault:
    """A change of one place in a family's source.

    Parameters
    ----------
    what : str
        The mistake, in a few words.
    package : str
        The family.
    right, wrong : str
        The text that is there, once, and what takes its place; in cuda.cu with the headers that it includes, or, if
        `in_python`, in cuda.py.
    rung : str
        A rung that must catch it.
    says : str
        What that rung's message must match, a regular expression.
    dtype : str
        Of the numbers that are computed with.
    """

    what: str
    package: str
    right: str
    wrong: str
    rung: str
    says: str
    dtype: str = "float32"
    in_python: bool = False


@contextlib.contextmanager
def planted(fault: Fault) -> Iterator[None]:
    """Within the block the fault's family has the fault."""
    with _faulty_python(fault) if fault.in_python else _faulty_source(fault):
        _forget_compiled()
        try:
            yield
        finally:
            _forget_compiled()


def changed(text: str, fault: Fault) -> str:
    """`text` with the fault in it; an error unless there is exactly one place for it."""
    if text.count(fault.right) != 1:
        raise ValueError(
            f"{fault.what}: expected {fault.right!r} once in {fault.package}, got {text.count(fault.right)}"
        )
    return text.replace(fault.right, fault.wrong)


@contextlib.contextmanager
def _faulty_source(fault: Fault) -> Iterator[None]:
    source = _cuda.source
    _cuda.source = lambda package: changed(source(package), fault) if package == fault.package else source(package)
    try:
        yield
    finally:
        _cuda.source = source


@contextlib.contextmanager
def _faulty_python(fault: Fault) -> Iterator[None]:
    load, right = ministn.backend._load, importlib.import_module(f"{fault.package}.cuda")
    path = Path(str(right.__file__))
    wrong: Any = types.ModuleType(right.__name__)
    wrong.__package__, wrong.__file__ = right.__package__, right.__file__
    exec(compile(changed(path.read_text(), fault), str(path), "exec"), vars(wrong))
    ministn.backend._load = lambda family, name: (
        wrong if (family, name) == (fault.package, "cuda") else load(family, name)
    )
    try:
        yield
    finally:
        ministn.backend._load = load


def _forget_compiled() -> None:
    _cuda._module.cache_clear()
    _cuda._function.cache_clear()


_CONV, _MAX_POOL, _AVG_POOL = "ministn.kernels.conv2d", "ministn.kernels.max_pool2d", "ministn.kernels.avg_pool2d"
_GRID, _SAMPLE, _FUSED = (
    "ministn.kernels.affine_grid",
    "ministn.kernels.grid_sample",
    "ministn.kernels.spatial_transform",
)
_ELEMENTWISE, _SOFTMAX, _STANDARDISE = "ministn.ops.elementwise", "ministn.ops.softmax", "ministn.ops.standardise"
_VALUES = "Not equal to tolerance"

FAULTS = [
    # --- the formula
    Fault("x and y swapped", _GRID, "= t[0] * x[j] + t[1] * y[i]", "= t[0] * y[i] + t[1] * x[j]", EMULATOR, _VALUES),
    Fault(
        "H and W swapped", _SAMPLE, "place(x, point[0], W, padding", "place(x, point[0], H, padding", EMULATOR, _VALUES
    ),
    Fault("wrong padding rule", _SAMPLE, "if (padding == REFLECTION) x", "if (padding == BORDER) x", EMULATOR, _VALUES),
    Fault(
        "rounded towards zero",
        _SAMPLE,
        "pixel_or_none(rint(x), size)",
        "pixel_or_none(trunc(x), size)",
        EMULATOR,
        _VALUES,
    ),
    Fault(
        "mean over all taps",
        _AVG_POOL,
        "sum / (number(counted(top, KH, H, border_h))",
        "sum / (number(KH)",
        EMULATOR,
        _VALUES,
    ),
    Fault(
        "filter mirrored",
        _CONV,
        "filter[(index_t(c) * KH + u) * KW + v]",
        "filter[(index_t(c) * KH + KH - 1 - u) * KW + v]",
        EMULATOR,
        _VALUES,
    ),
    Fault(
        "a rotation the wrong way",
        _ELEMENTWISE,
        "mixed >> turn | mixed << (64 - turn)",
        "mixed << turn | mixed >> (64 - turn)",
        EMULATOR,
        _VALUES,
    ),
    # --- types
    Fault(
        "float function in the double kernel",
        _SOFTMAX,
        "total += exp(x[start",
        "total += expf(x[start",
        COMPILER,
        "f32",
        "float64",
    ),
    Fault(
        "double literal in the float kernel",
        _STANDARDISE,
        "1 / sqrt(variance + eps)",
        "1.0 / sqrt(variance + eps)",
        COMPILER,
        "f64",
    ),
    Fault(
        "a function of the C++ library",
        _MAX_POOL,
        "int first_u = max(0, -top)",
        "int first_u = std::max(0, -top)",
        COMPILER,
        "std",
    ),
    Fault(
        "index of 32 bits",
        _ELEMENTWISE,
        "for (index_t i = index_t(blockIdx.x) * blockDim.x",
        "for (index_t i = blockIdx.x * blockDim.x",
        LARGE,
        "not equal",
    ),
    # --- memory
    Fault("off by one at the border", _FUSED, "m < number(size) ?", "m <= number(size) ?", EMULATOR, _VALUES),
    Fault(
        "window beyond the bottom edge",
        _MAX_POOL,
        "end_u = min(KH, H - top)",
        "end_u = KH",
        ADDRESS,
        "heap-buffer-overflow",
    ),
    Fault(
        "uninitialised shared memory",
        _STANDARDISE,
        "lane < warps ? of_warp[lane] : number(0)",
        "of_warp[lane]",
        EMULATOR,
        _VALUES,
    ),
    Fault(
        "uninitialised sum",
        _CONV,
        "number sum = 0;\n        for (int part",
        "number sum;\n        for (int part",
        PTX,
        "before",
    ),
    Fault("too much shared memory", _CONV, "x_tile[DEPTH][PIXELS];", "x_tile[DEPTH][16 * PIXELS];", COMPILER, "shared"),
    # --- threads
    Fault(
        "no barrier before sums of warps are read",
        _GRID,
        "of_warp[warp] = value;\n    __syncthreads();",
        "of_warp[warp] = value;",
        EMULATOR,
        _VALUES,
    ),
    Fault(
        "no barrier after the tiles are filled",
        _CONV,
        "__syncthreads();\n        for (int t = 0; t < DEPTH; t++)",
        "for (int t = 0; t < DEPTH; t++)",
        EMULATOR,
        _VALUES,
    ),
    Fault(
        "no barrier before the tiles are written again",
        _CONV,
        "        __syncthreads();  // before the tiles are written again\n    }\n    for (int s = 0",
        "    }\n    for (int s = 0",
        THREAD,
        "data race",
    ),
    Fault(
        "no barrier before the room is used again",
        _GRID,
        "__syncthreads();  // the room may still",
        "// the room may still",
        THREAD,
        "data race",
    ),
    Fault(
        "+= for atomicAdd",
        _SAMPLE,
        "atomicAdd(grad_U + index_t(y.m[v]) * W + x.m[u], g * (y.k[v] * x.k[u]))",
        "grad_U[index_t(y.m[v]) * W + x.m[u]] += g * (y.k[v] * x.k[u])",
        THREAD,
        "data race",
    ),
    Fault(
        "return before a barrier",
        _CONV,
        "bool inside = first_m + staged < M;",
        "bool inside = first_m + staged < M;\n    if (!inside) return;",
        EMULATOR,
        "barrier",
    ),
    Fault(
        "shuffle that some threads miss",
        _GRID,
        "number sum = block_sum(sums[k]);",
        "number sum = 0;\n            if (threadIdx.x < H * W) sum = block_sum(sums[k]);",
        EMULATOR,
        "thread",
    ),
    Fault(
        "one item for each thread",
        _ELEMENTWISE,
        "i += index_t(gridDim.x) * blockDim.x",
        "i = (count)",
        ONE_BLOCK,
        _VALUES,
    ),
    Fault(
        "every block writes the first image",
        _FUSED,
        "index_t n = blockIdx.x, pixels",
        "index_t n = 0, pixels",
        EMULATOR,
        _VALUES,
    ),
    # --- launches
    Fault(
        "height and width swapped in the launch",
        _GRID,
        "grid, theta, x, y, count, height, width)",
        "grid, theta, x, y, count, width, height)",
        EMULATOR,
        _VALUES,
        in_python=True,
    ),
    Fault(
        "a block of a warp and a half",
        _GRID,
        "blocks=parts.shape[:2])",
        "blocks=parts.shape[:2], threads=48)",
        EMULATOR,
        "thread",
        in_python=True,
    ),
    Fault(
        "a Python integer for a long one",
        _ELEMENTWISE,
        'launch(__package__, "relu", x.size, y, x, np.int64(x.size))',
        'launch(__package__, "relu", x.size, y, x, x.size)',
        LAUNCH,
        "int32",
        in_python=True,
    ),
    Fault(
        "an argument left out",
        _SOFTMAX,
        "values, table, labels, np.int64(N), K)",
        "values, table, labels, np.int64(N))",
        LAUNCH,
        "arguments",
        in_python=True,
    ),
    Fault(
        "strides forgotten",
        _SOFTMAX,
        "y, x = library.empty(x.shape, x.dtype), library.ascontiguousarray(x)",
        "y = library.empty(x.shape, x.dtype)",
        LAUNCH,
        "contiguous",
        in_python=True,
    ),
    Fault(
        "a block of too many threads",
        _STANDARDISE,
        "*arguments, blocks=channels)\n    return y",
        "*arguments, blocks=channels, threads=2048)\n    return y",
        LAUNCH,
        "1024",
        in_python=True,
    ),
    Fault(
        "labels of another type",
        _SOFTMAX,
        "table, labels = library.ascontiguousarray(table), library.ascontiguousarray(labels, np.int64)",
        "table, labels = library.ascontiguousarray(table), library.ascontiguousarray(labels, np.int32)",
        LAUNCH,
        "int32",
        in_python=True,
    ),
]


def run(fault: Fault) -> None:
    """The case of the fault's family, with the fault, against the reference; AssertionError if the values are wrong."""
    import cases
    from implementations import kernels

    dtype = np.dtype(fault.dtype).type
    with kernels("reference"):
        expected = cases.results(fault.package, dtype)
    with planted(fault), kernels("cuda"):
        cases.check(cases.results(fault.package, dtype), expected)


def table() -> str:
    """The faults and their rungs in Markdown."""
    rows = [f"| {fault.what} | `{fault.package.removeprefix('ministn.')}` | {fault.rung} |" for fault in FAULTS]
    return "\n".join(["| fault | in | caught by |", "|---|---|---|", *rows])


if __name__ == "__main__":
    if len(sys.argv) == 1:
        print(table())
    else:
        folder = Path(__file__).resolve().parents[1]
        sys.path[:0] = [str(folder), str(folder.parent / "examples")]
        run(next(fault for fault in FAULTS if fault.what == sys.argv[1]))
