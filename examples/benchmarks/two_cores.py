"""What it costs a core to read what the other one has written.

    python examples/benchmarks/two_cores.py

Two threads first write a megabyte each, then each reads its own half, or the other's. Where the two cores share a cache
the times are alike; where each has a third-level cache of its own, as on processors made of chiplets, the other's half
takes several times as long. In a virtual machine this may change from minute to minute: the script asks ten times.
"""

from __future__ import annotations

import statistics
import time

import numpy as np

from ministn import set_num_threads
from ministn.kernels.compiled import compiled, parallel_for

HALF = 2**18  # numbers of float32: a megabyte
LINE = 16  # numbers of a cache line


@compiled
def _write(thread, x):
    half = x[thread]
    for k in range(half.size):
        half[k] += np.float32(1)


@compiled
def _read(thread, x, swapped, sums):
    half, total = x[1 - thread if swapped else thread], np.float32(0)
    for k in range(half.size // LINE):
        total += half[k * LINE]
    sums[thread * LINE] = total


@compiled
def _write_halves(x):
    parallel_for(_write, 2, (x,))


@compiled
def _read_halves(x, swapped, sums):
    parallel_for(_read, 2, (x, swapped, sums))


def microseconds(swapped: bool, repeats: int = 200) -> float:
    """The median time in which both threads read a megabyte each, just written."""
    x, sums, seconds = np.zeros((2, HALF), np.float32), np.zeros(2 * LINE, np.float32), []
    for _ in range(repeats):
        _write_halves(x)
        start = time.perf_counter()
        _read_halves(x, swapped, sums)
        seconds.append(time.perf_counter() - start)
    return 1e6 * statistics.median(seconds)


def main() -> None:
    set_num_threads(2)
    microseconds(True, 10)  # compiles
    for _ in range(10):
        own, other = microseconds(False), microseconds(True)
        print(f"a megabyte of its own: {own:.0f} us, of the other core's: {other:.0f} us", flush=True)
        time.sleep(1)


if __name__ == "__main__":
    main()
