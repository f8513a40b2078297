"""How fast this processor can multiply and add: the ceiling for every kernel's GFLOP/s, in float32."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from ministn.kernels.compiled import compiled
from ministn.kernels.simd import Size, add_outer, load, register_shape, store, zeros

REPEATS, TAPS = 20_000, 64


def gflops(threads: int) -> float:
    """Billions of additions and multiplications in a second, with so many threads at once; the best of some tries."""
    register_bytes, registers = register_shape()
    rows, lanes = Size(10 if registers >= 32 else 5), Size(2 * register_bytes // 4)
    numbers = np.linspace(0, 1e-3, 128, dtype=np.float32)
    sums = [np.empty(len(rows) * len(lanes), np.float32) for _ in range(threads)]
    flop = 2 * len(rows) * len(lanes) * TAPS * REPEATS * threads
    _fill_registers(rows, lanes, numbers, sums[0], 1)  # compiles
    with ThreadPoolExecutor(threads) as pool:

        def seconds() -> float:
            start = time.perf_counter()
            list(pool.map(lambda y: _fill_registers(rows, lanes, numbers, y, REPEATS), sums))
            return time.perf_counter() - start

        return flop / min(seconds() for _ in range(40)) / 1e9


@compiled
def _fill_registers(rows, lanes, numbers, sums, repeats):
    """The inner loop of a convolution, with all its operands in the nearest cache."""
    tile = zeros(rows, lanes, numbers)
    for _ in range(repeats):
        for t in range(TAPS):
            tile = add_outer(tile, numbers, t, load(lanes, numbers, t))
    store(tile, len(rows), 0, sums, 0, len(lanes))
