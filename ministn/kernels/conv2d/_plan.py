"""What the loops of conv2d need to know of a shape before they start: tiles, and where in memory taps begin.

All of it follows from shapes, so it is worked out once for each.
"""
# ruff: noqa: E741 (O is the axis of output channels)

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np

from ministn.kernels.conv2d._rows import Layout, layout_of, reading_rows, tap_starts
from ministn.kernels.conv2d._shape import output_size
from ministn.kernels.simd import Size, register_shape

# A tile of R rows of two registers needs 2 R registers for sums, two for a row that is added and one for a weight. A
# tile of products of P rows with Q rows needs P Q for sums, P for the one and one for the other.
_REGISTER_BYTES, _REGISTERS = register_shape()
_TILE_ROWS = [Size(rows) for rows in range(5, 11) if 2 * rows + 3 <= _REGISTERS]
_PRODUCT_TILES = [tuple(map(Size, (p, q, p * q))) for p, q in (((4, 6), (5, 5)) if _REGISTERS == 32 else ((3, 3),))]

# How much of the caches the loops count on, in numbers: a loop works through so much before it goes on to the next.
_NEAR = 2**16  # what is read again for each tile: a quarter of a common second-level cache
_WIDE = 2**17  # gradients that are read again for each tile of weights


class Weights(NamedTuple):
    """Where a matrix (M, T) of weights lies in the array, and how large it is as tiles: see `cpu._in_tiles`."""

    rows: Any  # start of row m; the last one is repeated until they fill tiles
    columns: Any  # from there to column t
    shape: tuple[int, int, int]  # of the tiles, with the bias before the first column
    no_bias: Any


class ForwardPlan(NamedTuple):
    batch: int  # images there are
    x: Layout
    y: tuple[int, int, int, int]  # O, OH, OW, images with those of zeros that are added to a tiny batch
    rows: Size  # of a tile
    lanes: Size  # of a tile
    starts: Any  # of taps in x
    row_step: int  # from what an output row reads to what the next one does
    weights: Weights
    channels: Any  # starts of channels in y
    parts: int  # into which a row is divided


class GradInputPlan(NamedTuple):
    dx: Layout
    rows: Size
    lanes: Size
    weights: Weights
    targets: Any  # starts in dx of what a row of g is added to
    readers: Any  # output rows that read an input row
    part_length: int  # numbers of a row of g that are copied near at a time, or 0


class GradWeightPlan(NamedTuple):
    x: Layout
    taps: int  # 0 if only the bias needs a gradient
    tile: tuple[Size, Size, Size]  # channels, taps, and both multiplied
    lanes: Size
    starts: Any  # of taps in x
    row_step: int
    channels: Any  # starts of channels in g
    tiles: tuple[int, int, int, int, int]  # strips of rows; tiles of channels, of taps; channels and taps of each


@functools.lru_cache(maxsize=256)
class Plan:
    """For each of the three passes, made when it is first asked for."""

    def __init__(self, shape, filters, stride, padding, dilation, dtype):
        self.shape, self.filters, self.dtype = shape, filters, dtype
        self.stride, self.padding, self.dilation = stride, padding, dilation
        self.OH, self.OW = output_size(shape[2:], filters[2:], stride, padding, dilation)
        self.lanes = _vector_lanes(dtype, 2)
        # A row must fill a vector: images of zeros are added to a tiny batch.
        self.images = max(shape[0], -(-len(self.lanes) // self.OW))
        self.x = layout_of((self.images, *shape[1:]), stride[1], padding)
        self.g = layout_of((self.images, filters[0], self.OH, self.OW))
        self.row_step = stride[0] * self.x.row

    @functools.cached_property
    def forward(self):
        O, C, KH, KW = self.filters
        rows = _tile_rows(O)
        blocks = -(-self.OW * self.images // len(self.lanes))
        # A part of a row is near while the tiles read it; there are enough of them, and evenly many, for all threads.
        parts = max(blocks * len(self.lanes) * C * KW // _NEAR, 16 // self.OH) + 1
        parts += -parts % (4 // np.gcd(4, self.OH))
        weights = _weights(np.arange(O) * (C * KH * KW), np.arange(C * KH * KW), rows, self.dtype)
        channels = _filled(np.arange(O) * (self.OH * self.g.row), len(rows))
        starts = tap_starts(self.x, self.filters[1:], self.dilation)
        return ForwardPlan(
            *(self.shape[0], self.x, (O, self.OH, self.OW, self.images), rows, self.lanes, starts, self.row_step),
            *(weights, channels, int(parts)),
        )

    @functools.cached_property
    def around(self):
        """The padding with which a forward convolution makes the gradient for x, if that is a good way, or None.

        It convolves the padded gradient with the filter turned by half: faster, while there are few zeros in the
        padding that are multiplied for nothing.
        """
        around = tuple(d * (k - 1) - p for d, k, p in zip(self.dilation, self.filters[2:], self.padding, strict=True))
        few_zeros = self.shape[2] * self.shape[3] < 1.2 * self.OH * self.OW
        return around if self.stride == (1, 1) and min(around) >= 0 and few_zeros else None

    @functools.cached_property
    def turned(self):
        """The forward plan of `around`; the rows of its weights are the channels of x, the taps count backwards."""
        (O, C, KH, KW), T = self.filters, self.filters[2] * self.filters[3]
        shape = (self.shape[0], O, self.OH, self.OW)
        plan = Plan(shape, (C, O, KH, KW), (1, 1), self.around, self.dilation, self.dtype).forward
        columns = (np.arange(O)[:, None] * C * T + np.arange(T)[::-1]).reshape(-1)
        return plan._replace(weights=_weights(np.arange(C) * T, columns, plan.rows, self.dtype))

    @functools.cached_property
    def grad_input(self):
        (O, C, KH, KW), H = self.filters, self.shape[2]
        dx = layout_of((self.images, *self.shape[1:]), self.stride[1], (0, self.padding[1]))
        rows = _tile_rows(C * KW)
        taps = np.arange(O * C * KH * KW).reshape(O, C, KH, KW)
        weights = _weights(taps[0, :, 0].reshape(-1), taps[:, 0, :, 0].T.reshape(-1), rows, self.dtype)
        readers = reading_rows(H, self.OH, KH, self.stride[0], self.padding[0], self.dilation[0])
        # If g is large and read for several tiles, parts of its rows are copied first.
        copied = O * self.OH * self.g.row > 2 * _NEAR and len(rows) < C * KW
        part_length = max(1, _NEAR // (O * KH * len(self.lanes))) * len(self.lanes) if copied else 0
        targets = tap_starts(dx, (C, 1, KW), self.dilation)
        return GradInputPlan(dx, rows, self.lanes, weights, targets, readers, part_length)

    @functools.cached_property
    def grad_weight(self):
        return self._grad_weight(self.filters[1] * self.filters[2] * self.filters[3])

    @functools.cached_property
    def grad_bias(self):
        return self._grad_weight(0)

    def _grad_weight(self, taps):
        O, (height, width, area) = self.filters[0], _product_tile(self.filters[0], taps)
        channels = _filled(np.arange(O) * (self.OH * self.g.row), len(height))
        starts = _filled(tap_starts(self.x, self.filters[1:], self.dilation), len(width))
        # The gradients of a strip stay near while tiles read them, and strips are as many as let each thread keep to
        # the rows that it wrote; their number must not follow from that of threads, since sums would.
        strips = min(self.OH, max(4 if self.OH >= 16 else 2, -(-len(height) * self.OH * self.g.row // _WIDE)))
        tiles = strips, len(channels) // len(height), -(-taps // len(width)), len(height), len(width)
        lanes = _vector_lanes(self.dtype, 1)
        return GradWeightPlan(self.x, taps, (height, width, area), lanes, starts, self.row_step, channels, tiles)


def _weights(rows, columns, tile, dtype):
    filled = _filled(rows, len(tile))
    shape = len(filled) // len(tile), 1 + len(columns), len(tile)
    return Weights(filled, np.ascontiguousarray(columns), shape, np.zeros(len(rows), dtype))


def _filled(starts, side):
    """The last one repeated until their number is a multiple of `side`."""
    return np.pad(starts, (0, -len(starts) % side), mode="edge")


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
