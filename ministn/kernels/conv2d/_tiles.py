"""Which register tiles the loops of conv2d use, and the weights in the order that these want."""

from __future__ import annotations

import functools

import numpy as np

from ministn.kernels.simd import Size, register_shape

# A tile of R rows of two registers needs 2 R registers for sums, two for a row that is added and one for a weight. A
# tile of products of P rows with Q rows needs P Q for sums, P for the one and one for the other.
_REGISTER_BYTES, _REGISTERS = register_shape()
_TILE_ROWS = [Size(rows) for rows in (5, 6, 8, 10) if 2 * rows + 3 <= _REGISTERS]
_PRODUCT_TILES = [tuple(map(Size, (p, q, p * q))) for p, q in (((4, 6), (5, 5)) if _REGISTERS == 32 else ((3, 3),))]


@functools.cache
def vector_lanes(dtype, registers):
    """How many numbers fit in so many registers."""
    return Size(registers * _REGISTER_BYTES // dtype.itemsize)


@functools.cache
def tile_rows(count):
    """The height of tiles that cover `count` rows with the fewest left over; of equals the highest."""
    return min(_TILE_ROWS, key=lambda rows: (-(-count // len(rows)) * len(rows), -len(rows)))


@functools.cache
def product_tile(channels, taps):
    """Height, width and area of the tiles that cover so many channels and taps with the fewest left over."""

    def computed(tile):
        height, width, _ = map(len, tile)
        return -(-channels // height) * height * -(-taps // width) * width

    return min(_PRODUCT_TILES, key=computed)


def in_tiles(matrix, rows):
    """(M, T) as (tiles, T, rows): a tile's numbers for one t are neighbours. Rows that are missing are 0."""
    M, T = matrix.shape
    if M % rows:
        matrix = np.concatenate([matrix, np.zeros((-M % rows, T), matrix.dtype)])
    return np.ascontiguousarray(matrix.reshape(-1, rows, T).transpose(0, 2, 1))
