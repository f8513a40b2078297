"""How fast this processor can multiply and add: the ceiling for every kernel's GFLOP/s, in float32."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numba import njit

NUMBERS, CHAINS, STEPS, REPEATS = 256, 8, 8, 10_000


def gflops(threads: int) -> float:
    """Billions of additions and multiplications in a second, with so many threads at once; the best of some tries."""
    numbers = [np.linspace(0, 0.5, NUMBERS, dtype=np.float32) for _ in range(threads)]
    flop = 2 * NUMBERS * CHAINS * STEPS * REPEATS * threads
    _horner(numbers[0], 1)  # compiles
    with ThreadPoolExecutor(threads) as pool:

        def seconds() -> float:
            start = time.perf_counter()
            list(pool.map(_horner, numbers, [REPEATS] * threads))
            return time.perf_counter() - start

        return flop / min(seconds() for _ in range(20)) / 1e9


@njit(cache=True, nogil=True, fastmath={"contract"})
def _horner(numbers, repeats):
    """Eight polynomials at each of the numbers by Horner's rule: hardly anything but fused multiply-adds.

    y <- x y + 1 must wait some cycles for the last y. Eight of them that do not wait for each other, begun at eight
    different values so that the compiler cannot take them for one, keep the units busy; the loop over the numbers
    becomes vectors.
    """
    one = np.float32(1)
    total = np.zeros_like(numbers)
    for _ in range(repeats):
        for k in range(numbers.size):
            x, a = numbers[k], total[k]
            b, c, d, e = a + x, a - x, a + one, a - one
            f, g, h = b + one, c - one, d + one
            for _ in range(STEPS):  # so few that the compiler writes them out
                a, b, c, d = x * a + one, x * b + one, x * c + one, x * d + one
                e, f, g, h = x * e + one, x * f + one, x * g + one, x * h + one
            total[k] = (a + b + c + d + e + f + g + h) * np.float32(0.01)
    return total
