"""What the loops of conv2d need to know of a shape before they start: tiles, and where in memory taps begin.

All of it follows from shapes, so it is worked out once for each.
"""
# ruff: noqa: E741 (O is the axis of output channels)

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np

from ministn.kernels.conv2d._rows import channel_starts, reading_rows, rows_shape, tap_starts
from ministn.kernels.conv2d._shape import output_size
from ministn.kernels.simd import Size, register_shape

# A tile of R rows of two registers needs 2 R registers for sums, two for a row that is added and one for a weight. A
# tile of products of P rows with Q rows needs P Q for sums, P for the one and one for the other.
_REGISTER_BYTES, _REGISTERS = register_shape()
_TILE_ROWS = [Size(rows) for rows in (5, 6, 8, 10) if 2 * rows + 3 <= _REGISTERS]
_PRODUCT_TILES = [tuple(map(Size, (p, q, p * q))) for p, q in (((4, 6), (5, 5)) if _REGISTERS == 32 else ((3, 3),))]


class ForwardPlan(NamedTuple):
    batch: int  # images there are
    images: int  # with those of zeros that are added to a tiny batch, so that a row fills a vector
    size: tuple[int, int]  # OH, OW
    rows: Size  # of a tile
    lanes: Size  # of a tile
    starts: Any  # of taps in x
    channels: Any  # starts of the rows of tiles in y


class GradInputPlan(NamedTuple):
    around: tuple[int, int] | None  # padding with which a forward convolution does it; then the rest is empty
    images: int = 0
    dx_shape: tuple[int, ...] = ()
    rows: Any = None
    lanes: Any = None
    targets: Any = None  # starts in dx of what a row of g is added to
    readers: Any = None  # output rows that read an input row


class GradWeightPlan(NamedTuple):
    images: int
    taps: int  # 0 if only the bias needs a gradient
    tile: tuple[Size, Size, Size]  # channels, taps, and both multiplied
    lanes: Size
    starts: Any  # of taps in x
    channels: Any  # starts of channels in g


@functools.lru_cache(maxsize=256)
def plan_forward(shape, filters, stride, padding, dilation, dtype):
    (N, _, H, W), O = shape, filters[0]
    OH, OW = output_size((H, W), filters[2:], stride, padding, dilation)
    rows, lanes = _tile_rows(O), _vector_lanes(dtype, 2)
    images = _images(N, OW, lanes)
    starts = tap_starts(rows_shape((images, *shape[1:]), stride[1], padding), filters[2:], dilation)
    return ForwardPlan(N, images, (OH, OW), rows, lanes, starts, channel_starts(O, OH * OW * images, len(rows)))


@functools.lru_cache(maxsize=256)
def plan_grad_input(shape, filters, stride, padding, dilation, dtype):
    (N, C, H, W), (_, _, KH, KW) = shape, filters
    OH, OW = output_size((H, W), (KH, KW), stride, padding, dilation)
    around = tuple(d * (k - 1) - p for d, k, p in zip(dilation, (KH, KW), padding, strict=True))
    if stride == (1, 1) and min(around) >= 0 and H * W < 1.2 * OH * OW:
        return GradInputPlan(around)
    lanes = _vector_lanes(dtype, 2)
    images = _images(N, OW, lanes)
    dx_shape = rows_shape((images, C, H, W), stride[1], (0, padding[1]))
    targets = tap_starts(dx_shape, (1, KW), dilation)
    readers = reading_rows(H, OH, KH, stride[0], padding[0], dilation[0])
    return GradInputPlan(None, images, dx_shape, _tile_rows(C * KW), lanes, targets, readers)


@functools.lru_cache(maxsize=256)
def plan_grad_weight(shape, filters, stride, padding, dilation, needs_grad_weight, dtype):
    (O, C, KH, KW), lanes = filters, _vector_lanes(dtype, 1)
    OH, OW = output_size(shape[2:], (KH, KW), stride, padding, dilation)
    images, taps = _images(shape[0], OW, lanes), C * KH * KW if needs_grad_weight else 0
    tile = _product_tile(O, taps)
    starts = tap_starts(rows_shape((images, *shape[1:]), stride[1], padding), (KH, KW), dilation, len(tile[1]))
    return GradWeightPlan(images, taps, tile, lanes, starts, channel_starts(O, OH * OW * images, len(tile[0])))


def _images(N, columns, lanes):
    """A row of so many columns must fill a vector: images of zeros are added to a tiny batch."""
    return max(N, -(-len(lanes) // columns))


@functools.cache
def _vector_lanes(dtype, registers):
    """How many numbers fit in so many registers."""
    return Size(registers * _REGISTER_BYTES // dtype.itemsize)


@functools.cache
def _tile_rows(count):
    """The height of tiles that cover `count` rows with the fewest left over; of equals the highest."""
    return min(_TILE_ROWS, key=lambda rows: (-(-count // len(rows)) * len(rows), -len(rows)))


@functools.cache
def _product_tile(channels, taps):
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
