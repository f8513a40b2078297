"""conv2d, the loops: register tiles (see `ministn.kernels.simd`) over shifted rows.

Memory is batch-last: an output row of OW pixels and N images is one run of K = OW N numbers, and what a tap (c, u, v)
reads for it is one run of the input. A convolution adds up shifted, weighted rows. A parallel iteration makes an output
row of a tile of channels, a row of the gradient for x, or a tile of that for the weights, and writes nothing else: no
races, and the same order of sums for any number of threads."""
# ruff: noqa: E741 (O is the axis of output channels)

import functools

import numpy as np

from ministn.kernels._layout import from_batch_last
from ministn.kernels.compiled import compiled, parallel_for
from ministn.kernels.conv2d._rows import (
    as_rows,
    channel_starts,
    from_rows,
    in_tiles,
    reading_rows,
    rows_shape,
    tap_starts,
)
from ministn.kernels.conv2d._shape import output_size
from ministn.kernels.simd import (
    Size,
    add,
    add_at,
    add_outer,
    add_products,
    add_row_sums,
    broadcast,
    keep_from,
    load,
    load_at,
    register_shape,
    store,
    zeros,
)

# A tile of R rows of two registers needs 2 R registers for sums, two for a row that is added, one for a weight. A tile
# of Q x Q products needs Q Q for sums, Q for one factor and one for the other.
_REGISTER_BYTES, _REGISTERS = register_shape()
_TILE_ROWS = [Size(rows) for rows in (5, 6, 8, 10) if 2 * rows + 3 <= _REGISTERS]
_SIDE, _AREA = (Size(5), Size(25)) if _REGISTERS >= 5 * 5 + 5 + 1 else (Size(3), Size(9))


def forward(x, weight, bias, stride, padding, dilation):
    """As `reference.forward`; the result's memory is batch-last."""
    N, (OH, OW) = len(x), output_size(x.shape[2:], weight.shape[2:], stride, padding, dilation)
    O, lanes = len(weight), _lanes(x.dtype, 2)
    images = max(N, -(-len(lanes) // OW))  # a row must fill a vector: images of zeros are added to a tiny batch
    x = as_rows(x, stride[1], padding, images)
    rows, starts = _tile_rows(O), tap_starts(x.shape, weight.shape[2:], dilation)
    tiles = in_tiles(weight.reshape(O, -1), len(rows))
    biases = np.zeros(len(tiles) * len(rows), x.dtype)
    if bias is not None:
        biases[:O] = bias
    y = np.empty((O, OH, OW, images), x.dtype)
    _forward(rows, lanes, x.reshape(-1), starts, _row_step(x, stride), tiles, biases, y.reshape(O, OH, OW * images))
    return from_batch_last(y if images == N else y[..., :N].copy())


def backward(grad_output, x, weight, stride, padding, dilation, needs_grad=(True, True, True)):
    """As `reference.backward`; the memory of the gradient for x is batch-last."""
    (N, O, OH, OW), (_, C, KH, KW) = grad_output.shape, weight.shape
    lanes = _lanes(x.dtype, 2)
    images = max(N, -(-len(lanes) // OW))
    g = as_rows(grad_output, 1, (0, 0), images).reshape(O, OH, OW * images)
    grad_x = grad_weight = grad_bias = None
    if needs_grad[0]:
        dx = np.zeros(rows_shape((images, *x.shape[1:]), stride[1], (0, padding[1])), x.dtype)
        rows, targets = _tile_rows(C * KW), tap_starts(dx.shape, (1, KW), dilation)
        tiles = in_tiles(weight.transpose(1, 3, 2, 0).reshape(C * KW, KH * O), len(rows))
        readers = reading_rows(x.shape[2], OH, KH, stride[0], padding[0], dilation[0])
        _grad_input(rows, lanes, g, tiles, targets, readers, dx.reshape(C, x.shape[2], -1))
        grad_x = from_batch_last(from_rows(dx, x.shape, padding[1]))
    if any(needs_grad[1:]):
        x = as_rows(x, stride[1], padding, images)
        taps = C * KH * KW if needs_grad[1] else 0
        starts = tap_starts(x.shape, (KH, KW), dilation, len(_SIDE))
        channels = channel_starts(O, OH * OW * images, len(_SIDE))
        sums = np.zeros((len(channels) // len(_SIDE), -(-taps // len(_SIDE)), len(_SIDE), len(_SIDE)), x.dtype)
        bias_sums, lanes = np.zeros(len(channels), x.dtype), _lanes(x.dtype, 1)
        _grad_weight(_SIDE, _AREA, lanes, g, channels, x.reshape(-1), starts, _row_step(x, stride), sums, bias_sums)
        if needs_grad[1]:
            grad_weight = sums.swapaxes(1, 2).reshape(len(channels), -1)[:O, :taps].reshape(weight.shape)
        if any(needs_grad[2:]):
            grad_bias = bias_sums[:O]
    return grad_x, grad_weight, grad_bias


# --- the loops --------------------------------------------------------------------------------------------------------


@compiled
def _forward(rows, lanes, x, starts, row_step, w, b, y):
    parallel_for(_output_row, len(w) * y.shape[1], (rows, lanes, x, starts, row_step, w, b, y))


@compiled
def _output_row(item, rows, lanes, x, starts, row_step, w, b, y):
    """y[o, i, k] = b[o] + sum over t of w[o, t] x[starts[t] + i row_step + k] for row i and a tile of channels o"""
    (O, OH, K), T = y.shape, len(starts)
    tile, i = item // OH, item % OH
    o = tile * len(rows)
    for block in range(0, K, len(lanes)):
        k = min(block, K - len(lanes))  # the last block may do again what the one before did
        sums = broadcast(rows, lanes, b, o)
        for t in range(T):
            sums = add_outer(sums, w, (tile * T + t) * len(rows), load(lanes, x, starts[t] + i * row_step + k))
        store(sums, O - o, y, (o * OH + i) * K + k, OH * K)


@compiled
def _grad_input(rows, lanes, g, w, targets, readers, dx):
    parallel_for(_grad_input_row, len(readers), (rows, lanes, g, w, targets, readers, dx))


@compiled
def _grad_input_row(p, rows, lanes, g, w, targets, readers, dx):
    """dx[p, targets[m] + k] += sum over u, o of w[o, u, m] g[o, i, k], m = (c, v), i the output row whose tap u is p"""
    (O, OH, K), KH, M = g.shape, readers.shape[1], len(targets)
    for m in range(0, M, len(rows)):
        for block in range(0, K, len(lanes)):
            k = min(block, K - len(lanes))
            sums = zeros(rows, lanes, g)
            for u in range(KH):
                i = readers[p, u]
                if i >= 0:
                    for o in range(O):
                        column = m * KH * O + (u * O + o) * len(rows)
                        sums = add_outer(sums, w, column, load(lanes, g, (o * OH + i) * K + k))
            add_at(keep_from(sums, block - k), M - m, dx, p * dx.shape[2] + k, targets, m)


@compiled
def _grad_weight(side, area, lanes, g, channels, x, starts, row_step, dw, db):
    tiles = dw.shape[0] * (dw.shape[1] + 1)
    parallel_for(_grad_weight_tile, tiles, (side, area, lanes, g, channels, x, starts, row_step, dw, db))


@compiled
def _grad_weight_tile(item, side, area, lanes, g, channels, x, starts, row_step, dw, db):
    """dw[o, t] = sum over i, k of g[channels[o] + i K + k] x[starts[t] + i row_step + k], db[o] the same without x"""
    (_, OH, K), tiles = g.shape, dw.shape[1]
    o, tile = item // (tiles + 1) * len(side), item % (tiles + 1)  # the tile after the last is that of db
    products, sums = zeros(area, lanes, g), zeros(side, lanes, g)
    for i in range(OH):
        for block in range(0, K, len(lanes)):
            k = min(block, K - len(lanes))
            gradients = keep_from(load_at(side, lanes, g, i * K + k, channels, o), block - k)
            if tile < tiles:
                shifted = load_at(side, lanes, x, i * row_step + k, starts, tile * len(side))
                products = add_products(products, gradients, shifted)
            else:
                sums = add(sums, gradients)
    if tile < tiles:
        add_row_sums(products, dw, (item - item // (tiles + 1)) * len(area))
    else:
        add_row_sums(sums, db, o)


# --- tiles ------------------------------------------------------------------------------------------------------------


@functools.cache
def _lanes(dtype, registers):
    return Size(registers * _REGISTER_BYTES // dtype.itemsize)


@functools.cache
def _tile_rows(count):
    """The tile height that covers `count` rows with the fewest left over; of equals the highest."""
    return min(_TILE_ROWS, key=lambda rows: (-(-count // len(rows)) * len(rows), -len(rows)))


def _row_step(rows, stride):
    """Numbers from a row of x that an output row reads to the one that the next reads."""
    _, _, parts, columns, images = rows.shape
    return stride[0] * parts * columns * images
