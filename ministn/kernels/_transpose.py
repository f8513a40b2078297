"""The transpose of a large matrix, about as fast as a copy: through square tiles that are turned in registers.

One parallel iteration turns a block of the matrix and writes nothing else.
"""

from __future__ import annotations

import numpy as np

from ministn.kernels.compiled import compiled, parallel_for
from ministn.kernels.simd import load_rows, register_size, store, transposed

_BLOCK = 128  # rows and columns of a block: pages and cache lines are used up before the next ones are fetched


def transpose(x: np.ndarray) -> np.ndarray:
    """The transpose of a C-contiguous matrix of float32 or float64, at least 16 x 16; C-contiguous itself."""
    rows, columns = x.shape
    y = np.empty((columns, rows), x.dtype)
    _transpose(max(1, rows // _BLOCK) * max(1, columns // _BLOCK), y.reshape(-1), x.reshape(-1), rows, columns)
    return y


@compiled
def _transpose(blocks, *arguments):
    parallel_for(_transpose_block, blocks, arguments)


@compiled
def _transpose_block(item, y, x, R, C):
    """y[c, r] = x[r, c] for the rows r0 ... r1 and the columns c0 ... c1."""
    size, blocks_in_row = register_size(x), max(1, C // _BLOCK)
    r0, c0 = item // blocks_in_row * _BLOCK, item % blocks_in_row * _BLOCK
    r1, c1 = _end(r0, R), _end(c0, C)
    for row in range(r0, r1, len(size)):
        r = min(row, r1 - len(size))  # the last tile reaches back to end where the block ends
        for column in range(c0, c1, len(size)):
            c = min(column, c1 - len(size))
            store(transposed(load_rows(size, size, x, r * C + c, C)), len(size), 0, y, c * R + r, R)


@compiled
def _end(start, length):
    """The last block of an axis takes what is left over, less than another one."""
    return length if length - start < 2 * _BLOCK else start + _BLOCK
