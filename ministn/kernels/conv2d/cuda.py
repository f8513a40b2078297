"""Convolution on the GPU: chooses between the plain kernels and the tiles of cuda.cu, allocates and launches.

Memory is NCHW."""
# ruff: noqa: E741 (O is the axis of output channels)

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ministn.backend import Array, array_module
from ministn.kernels._cuda import THREADS, launch, on_device
from ministn.kernels.conv2d._shape import Pair, output_size


class _Tile(NamedTuple):
    kernel: str
    channels: int  # of a tile
    width: int  # of a tile, in pixels or taps
    threads: int


# The second of a pair serves more than 32 channels: it reads each number half or a quarter as often.
_FORWARD = _Tile("conv2d_forward_16x64", 16, 64, 64), _Tile("conv2d_forward_64x128", 64, 128, 256)
_GRAD_WEIGHT = _Tile("conv2d_grad_weight_16x64", 16, 64, 64), _Tile("conv2d_grad_weight_64x64", 64, 64, 128)
_BUSY = 64  # tiles; with fewer most of a GPU, of some hundred multiprocessors, would have nothing to do
_MANY = 2048  # pixels; with fewer too few parts of d weight
_PARTS = 512  # blocks that share out d weight, or d bias: enough for a GPU, and a number that does not depend on which
_PIXELS_OF_PART = 2**14  # that a block adds up for d bias: 64 for each thread
_MOST_BLOCKS = 2**20  # of a launch with a block for each tap; they stride over what is more


def forward(
    x: Array,
    weight: Array,
    bias: Array | None,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    *,
    tuned: bool | None = None,
) -> Array:
    """As `reference.forward`.

    Parameters
    ----------
    tuned : bool, by keyword
        Whether to compute in tiles, or by the plain kernel; by default where tiles pay.
    """
    library = array_module(x)
    geometry = _geometry(x.shape, weight.shape, stride, padding, dilation)
    y = library.empty((len(x), len(weight), *geometry[7:9]), x.dtype)
    if tuned is None:
        tuned = _worth_tiles(y)
    if tuned:
        _forward_in_tiles(y, x, weight, bias, geometry)
    else:
        x, weight = library.ascontiguousarray(x), library.ascontiguousarray(weight)
        launch(__package__, "conv2d_forward", y.size, y, x, weight, _bias(y, bias), *geometry)
    return y


def backward(
    grad_output: Array,
    x: Array,
    weight: Array,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    needs_grad: Sequence[bool] = (True, True, True),
    *,
    tuned: bool | None = None,
) -> tuple[Array | None, Array | None, Array | None]:
    """As `reference.backward`; `tuned` as of `forward`."""
    library = array_module(x)
    geometry = _geometry(x.shape, weight.shape, stride, padding, dilation)
    g, dx, dw, db = library.ascontiguousarray(grad_output), None, None, None
    if needs_grad[0]:
        dx = _grad_input(g, x, weight, geometry, tuned)
    if needs_grad[1]:
        dw = _grad_weight(g, x, weight, geometry, tuned)
    if any(needs_grad[2:]):
        db = _grad_bias(g)
    return dx, dw, db


def _worth_tiles(y: Array) -> bool:
    """Whether to make `y` in tiles: they are at least half full, and enough to keep the device busy."""
    return y.shape[1] >= _FORWARD[0].channels // 2 and _count(_FORWARD[0], y.shape[1], _pixels(y)) >= _BUSY


def _forward_in_tiles(y: Array, x: Array, weight: Array, bias: Array | None, geometry: tuple[int, ...]) -> None:
    library, (O, C, KH, KW) = array_module(x), weight.shape
    tile, taps = _FORWARD[O > 32], on_device(library, _taps, C, KH, KW, *geometry[-2:])
    arrays = y, library.ascontiguousarray(x), library.ascontiguousarray(weight), _bias(y, bias), taps
    blocks = -(-_pixels(y) // tile.width), -(-O // tile.channels)
    launch(__package__, tile.kernel, y.size, *arrays, len(taps), *geometry, blocks=blocks, threads=tile.threads)


def _grad_input(g: Array, x: Array, weight: Array, geometry: tuple[int, ...], tuned: bool | None) -> Array:
    library, (*stride, top, left, down, right) = array_module(x), geometry[9:]
    dx, (O, C, KH, KW) = library.empty(x.shape, x.dtype), weight.shape
    # At a stride of 1 the gradient for x is a convolution of g, with the filters turned by half, from O to C channels.
    # At a larger one most taps would fall between the numbers of g: the plain kernel skips them.
    if stride == [1, 1] and (tuned if tuned is not None else _worth_tiles(dx)):
        turned, padding = weight[:, :, ::-1, ::-1].swapaxes(0, 1), (down * (KH - 1) - top, right * (KW - 1) - left)
        sizes = len(x), O, *g.shape[2:], C, KH, KW, *x.shape[2:], *stride, *padding, down, right
        _forward_in_tiles(dx, g, turned, None, sizes)
    else:
        weight = library.ascontiguousarray(weight)
        launch(__package__, "conv2d_grad_input", dx.size, dx, g, weight, *geometry)
    return dx


def _grad_weight(g: Array, x: Array, weight: Array, geometry: tuple[int, ...], tuned: bool | None) -> Array:
    library, dw, pixels = array_module(x), array_module(x).empty(weight.shape, x.dtype), _pixels(g)
    (O, C, KH, KW), x = weight.shape, library.ascontiguousarray(x)
    taps = C * KH * KW
    if tuned is None:  # where tiles are full enough, and there are pixels enough to share out
        tuned = O >= 8 and taps >= 16 and pixels >= _MANY
    if not tuned:
        blocks = min(dw.size, _MOST_BLOCKS)
        launch(__package__, "conv2d_grad_weight", dw.size, dw, g, x, *geometry, blocks=blocks, threads=_threads(g))
        return dw
    tile = _GRAD_WEIGHT[O > 32]
    most = max(1, _PARTS // _count(tile, O, taps))
    length = max(
        256, -(-pixels // (32 * most)) * 32
    )  # pixels of a part: a multiple of the 32 that a tile takes at once
    count = -(-pixels // length)
    parts, table = library.empty((count, *weight.shape), x.dtype), on_device(library, _taps, C, KH, KW, *geometry[-2:])
    arguments = parts, g, x, table, taps, np.int64(length), *geometry
    blocks = -(-taps // tile.width), -(-O // tile.channels), count
    launch(__package__, tile.kernel, parts.size, *arguments, blocks=blocks, threads=tile.threads)
    launch(__package__, "conv2d_add_parts", dw.size, dw, parts, count, np.int64(dw.size))
    return dw


def _grad_bias(g: Array) -> Array:
    library, channels = array_module(g), g.shape[1]
    # How many parts depends on the sizes alone, so that the sums have one order.
    count = max(1, min(_pixels(g) // _PIXELS_OF_PART, _PARTS // channels))
    parts, blocks = library.empty((count, channels), g.dtype), (channels, count)
    launch(__package__, "conv2d_grad_bias", channels, parts, g, *g.shape, blocks=blocks, threads=_threads(g))
    if count == 1:
        return parts[0]
    db = library.empty(channels, g.dtype)
    launch(__package__, "conv2d_add_parts", channels, db, parts, count, np.int64(channels))
    return db


def _count(tile: _Tile, channels: int, width: int) -> int:
    """Of tiles."""
    return -(-channels // tile.channels) * -(-width // tile.width)


def _pixels(y: Array) -> int:
    """Of one channel, in all images."""
    return len(y) * y.shape[2] * y.shape[3]


def _threads(g: Array) -> int:
    """Of a block that sums over the pixels of a channel: whole warps, and no more than there is work for."""
    return max(32, min(THREADS, _pixels(g) // 32 * 32))


def _bias(y: Array, bias: Array | None) -> Array:
    library = array_module(y)
    return on_device(library, np.zeros, y.shape[1], y.dtype) if bias is None else library.ascontiguousarray(bias)


def _taps(C: int, KH: int, KW: int, down: int, right: int) -> np.ndarray:
    """(c, u dilation_h, v dilation_w) of each tap."""
    taps = np.indices((C, KH, KW)).reshape(3, -1).T * (1, down, right)
    return np.ascontiguousarray(taps, np.int32)


def _geometry(
    shape: Sequence[int], filters: Sequence[int], stride: Pair, padding: Pair, dilation: Pair
) -> tuple[int, ...]:
    """N, C, H, W, O, KH, KW, OH, OW, stride, padding, dilation: GEOMETRY of the kernels."""
    size = output_size(shape[2:], filters[2:], stride, padding, dilation)
    return (*shape, filters[0], *filters[2:], *size, *stride, *padding, *dilation)
