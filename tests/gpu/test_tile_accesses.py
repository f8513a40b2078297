"""How the compiled tiles of the convolution reach memory: banks, sectors and multiplications, counted without a GPU.

Shared memory has 32 banks of 4 bytes. A warp's access takes one turn if no two of the words that it wants are in the
same bank; any number of threads may want the same word. Global memory is moved in sectors of 32 bytes. The addresses
are those of NVIDIA's compiler's code, run by the interpreter of PTX; the rules say what follows.
"""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

import numpy as np
import nvrtc
import ptx
import pytest
from ptx.machine import Wave

from ministn.kernels import _cuda
from ministn.kernels.conv2d import cuda

pytestmark = pytest.mark.skipif(nvrtc.missing() is not None, reason=str(nvrtc.missing()))

PACKAGE, ARCHITECTURE = "ministn.kernels.conv2d", "80"
N, C, H, W, O, K = 2, 8, 3, 66, 64, 3  # noqa: E741 (one row of 64 output pixels for each image)
SIZES = [np.int32(size) for size in (N, C, H, W, O, K, K, 1, 64, 1, 1, 0, 0, 1, 1)]
TAPS = C * K * K


class Access(NamedTuple):
    """Of a warp."""

    name: str  # ld or st
    space: str
    start: int  # of the array, or of all shared memory
    turns: int  # if it is shared memory
    sectors: int  # if it is global memory
    fewest: int  # turns or sectors that the same number of bytes could take


@pytest.fixture
def accesses(monkeypatch):
    """What warps have done so far."""
    done, places = [], Wave.places

    def recorded(self, space, addresses, dtype, rows, instruction, count=1):
        if space in ("shared", "global"):
            for warp in np.unique(self.warp[rows]):
                done.append(access(instruction.name, space, addresses[self.warp[rows] == warp], dtype.itemsize * count))
        return places(self, space, addresses, dtype, rows, instruction, count)

    monkeypatch.setattr(Wave, "places", recorded)
    return done


def access(name, space, addresses, size):
    words = np.unique(addresses[:, None] + np.arange(0, size, 4)) // 4
    turns = max(Counter(words % 32).values())
    sectors = len(np.unique(words // 8))
    fewest = -(-len(words) // (32 if space == "shared" else 8))
    return Access(name, space, int(addresses.min()), turns, sectors, fewest)


def compiled(kernel):
    text, _ = nvrtc.compile(_cuda.source(PACKAGE), _cuda.options(np.float32), ARCHITECTURE, "ptx")
    return ptx.parse(text)[kernel]


def multiplications_for_a_load(kernel):
    """Of shared memory."""
    count = Counter(instruction.text.split()[0] for instruction in kernel.instructions)
    loads = sum(number for name, number in count.items() if name.startswith("ld.shared"))
    return sum(number for name, number in count.items() if name.startswith("fma")) / loads


def of_array(accesses, name, array):
    start = array.ctypes.data
    return [a for a in accesses if (a.space, a.name) == ("global", name) and start <= a.start < start + array.nbytes]


def zeros(*shape):
    """At a multiple of 256 bytes, as CuPy's arrays are."""
    room = np.zeros(4 * int(np.prod(shape)) + 256, np.uint8)
    start = -room.ctypes.data % 256
    return room[start : start + 4 * int(np.prod(shape))].view(np.float32).reshape(shape)


def arrays():
    """x, w, y or its gradient, and the table of taps."""
    return zeros(N, C, H, W), zeros(O, C, K, K), zeros(N, O, 1, 64), cuda._taps(C, K, K, 1, 1)


@pytest.mark.parametrize(("tile", "multiplications"), [(cuda._FORWARD[0], 16 / 4), (cuda._FORWARD[1], 32 / 6)])
def test_forward(accesses, tile, multiplications):
    x, w, y, table = arrays()
    kernel, bias = compiled(tile.kernel), np.zeros(O, np.float32)
    blocks = N * 64 // tile.width, O // tile.channels
    ptx.launch(kernel, blocks, (tile.threads,), [y, x, w, bias, table, np.int32(TAPS), *SIZES])
    assert multiplications_for_a_load(kernel) == multiplications

    shared = [a for a in accesses if a.space == "shared"]
    assert {a.turns for a in shared if a.name == "ld"} == {1}
    assert {a.turns for a in shared if a.name == "st"} == {1, 2}  # of pixels, of weights
    assert all(a.sectors == a.fewest == 4 for a in of_array(accesses, "st", y))
    assert all(a.sectors <= 5 for a in of_array(accesses, "ld", x))  # 32 pixels beside each other, from anywhere on
    # of the weights, each once for a block
    assert sum(a.sectors for a in of_array(accesses, "ld", w)) * 8 == w.size * blocks[0]


@pytest.mark.parametrize(("tile", "multiplications"), [(cuda._GRAD_WEIGHT[0], 16 / 8), (cuda._GRAD_WEIGHT[1], 32 / 12)])
def test_gradient_for_weights(accesses, tile, multiplications):
    x, w, g, table = arrays()
    kernel, parts = compiled(tile.kernel), np.empty((2, *w.shape), np.float32)
    blocks = -(-TAPS // tile.width), O // tile.channels, 2
    ptx.launch(kernel, blocks, (tile.threads,), [parts, g, x, table, np.int32(TAPS), np.int64(64), *SIZES])
    assert multiplications_for_a_load(kernel) == multiplications

    assert {a.turns for a in accesses if a.space == "shared"} == {1}
    assert all(a.sectors == a.fewest == 4 for a in of_array(accesses, "ld", g))
    assert all(a.sectors <= 5 for a in of_array(accesses, "ld", x))
    assert sum(a.sectors for a in of_array(accesses, "ld", g)) * 8 == g.size * blocks[0]


def test_a_conflict_is_seen():
    assert access("ld", "shared", np.arange(32) * 4, 4).turns == 1
    assert access("ld", "shared", np.zeros(32, int), 4).turns == 1
    assert access("ld", "shared", np.arange(32) * 8, 4).turns == 2
    assert access("ld", "shared", np.arange(32) * 128, 4).turns == 32
    assert access("ld", "global", np.arange(32) * 4, 4)[-2:] == (4, 4)
    assert access("ld", "global", np.arange(32) * 64, 4)[-2:] == (32, 4)
