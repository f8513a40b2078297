"""conv2d, the loops: register tiles (see `ministn.kernels.simd`) over shifted rows.

Memory is batch-last: an output row of OW pixels and N images is one run of K = OW N numbers, and what a tap (c, u, v)
reads for it is one run of the input. A convolution adds up shifted, weighted rows. A parallel iteration makes an output
row of a tile of channels, a row of the gradient for x, or a tile of that for the weights, and writes nothing else: no
races, and the same order of sums for any number of threads."""
# ruff: noqa: E741 (O is the axis of output channels)

import numpy as np

from ministn.kernels._layout import from_batch_last
from ministn.kernels.compiled import compiled, parallel_for
from ministn.kernels.conv2d._plan import in_tiles, plan_forward, plan_grad_input, plan_grad_weight
from ministn.kernels.conv2d._rows import as_rows, from_rows
from ministn.kernels.simd import (
    add,
    add_at,
    add_outer,
    add_products,
    add_row_sums,
    broadcast,
    keep_from,
    load,
    load_at,
    store,
    zeros,
)

# How much of the caches the loops count on, in numbers: a loop works through so much before it goes on to the next.
_NEAR = 2**16  # what is read again for each tile: a quarter of a common second-level cache
_WIDE = 2**17  # gradients that are read again for each tile of weights
_TAPS = 400  # weights of a tile, read again for each vector: with ten rows half of a first-level cache


def forward(x, weight, bias, stride, padding, dilation):
    """As `reference.forward`; the result's memory is batch-last."""
    plan = plan_forward(x.shape, weight.shape, stride, padding, dilation, x.dtype)
    O, (OH, OW), images = len(weight), plan.size, plan.images
    w = in_tiles(weight.reshape(O, -1), len(plan.rows))
    b = np.zeros(len(w) * len(plan.rows), x.dtype)
    if bias is not None:
        b[:O] = bias
    y = np.empty((O, OH, OW * images), x.dtype)
    x = as_rows(x, stride[1], padding, images)
    _forward(plan.rows, plan.lanes, x, plan.starts, stride[0], weight.shape[2], w, b, plan.channels, y)
    y = y.reshape(O, OH, OW, images)
    return from_batch_last(y if images == plan.batch else y[..., : plan.batch].copy())


def backward(grad_output, x, weight, stride, padding, dilation, needs_grad=(True, True, True)):
    """As `reference.backward`; the memory of the gradient for x is batch-last."""
    geometry = stride, padding, dilation
    grad_x = _gradient_for_input(grad_output, x.shape, weight, *geometry) if needs_grad[0] else None
    if not any(needs_grad[1:]):
        return grad_x, None, None
    grad_weight, grad_bias = _gradients_for_parameters(grad_output, x, weight.shape, *geometry, needs_grad[1])
    return grad_x, grad_weight, grad_bias if any(needs_grad[2:]) else None


def _gradient_for_input(grad_output, shape, weight, stride, padding, dilation):
    plan = plan_grad_input(shape, weight.shape, stride, padding, dilation, weight.dtype)
    if plan.around is not None:
        # The convolution of the padded gradient with the filter turned by half: faster, while there are few zeros in
        # the padding that are multiplied for nothing.
        return forward(grad_output, weight[:, :, ::-1, ::-1].swapaxes(0, 1), None, stride, plan.around, dilation)
    (O, C, KH, KW), H = weight.shape, shape[2]
    g = as_rows(grad_output, 1, (0, 0), plan.images).reshape(O, grad_output.shape[2], -1)
    w = in_tiles(weight.transpose(1, 3, 2, 0).reshape(C * KW, KH * O), len(plan.rows))
    dx = np.zeros(plan.dx_shape, weight.dtype)
    _grad_input(plan.rows, plan.lanes, g, w, plan.targets, plan.readers, dx.reshape(C, H, -1))
    return from_batch_last(from_rows(dx, shape, padding[1]))


def _gradients_for_parameters(grad_output, x, shape, stride, padding, dilation, needs_grad_weight):
    plan = plan_grad_weight(x.shape, shape, stride, padding, dilation, needs_grad_weight, x.dtype)
    O, (height, width, area), channels = shape[0], plan.tile, plan.channels
    g = as_rows(grad_output, 1, (0, 0), plan.images).reshape(O, grad_output.shape[2], -1)
    x = as_rows(x, stride[1], padding, plan.images)
    dw = np.zeros((len(channels) // len(height), -(-plan.taps // len(width)), len(height), len(width)), x.dtype)
    db = np.zeros(len(channels), x.dtype)
    _grad_weight(height, width, area, plan.lanes, g, channels, x, plan.starts, stride[0], dw, db)
    if not needs_grad_weight:
        return None, db[:O]
    return dw.transpose(0, 2, 1, 3).reshape(len(channels), -1)[:O, : plan.taps].reshape(shape), db[:O]


# --- the loops --------------------------------------------------------------------------------------------------------


@compiled
def _forward(rows, lanes, x, starts, stride, KH, w, b, channels, y):
    (_, OH, K), row_step = y.shape, stride * x.shape[1]
    blocks, rows_read = (K + len(lanes) - 1) // len(lanes), len(starts) // KH
    parts = max(blocks * len(lanes) * rows_read // _NEAR, 16 // OH) + 1  # of a row; enough of them for all threads
    parallel_for(_output_part, OH * parts, (rows, lanes, x, starts, row_step, w, b, channels, y, blocks, parts))


@compiled
def _output_part(item, rows, lanes, x, starts, row_step, w, b, channels, y, blocks, parts):
    """y[o, i, k] = b[o] + sum over t of w[o, t] x[starts[t] + i row_step + k] for one i, all o and a part of the k"""
    (O, OH, K), (tiles, T, _) = y.shape, w.shape
    i, part = item // parts, item % parts
    begin, end = blocks * part // parts * len(lanes), blocks * (part + 1) // parts * len(lanes)
    for first in range(0, T, _TAPS):
        last = min(first + _TAPS, T)
        for tile in range(tiles):
            o = tile * len(rows)
            for block in range(begin, end, len(lanes)):
                k = min(block, K - len(lanes))  # the last block reaches back; what lies before it is not stored again
                if first == 0:
                    sums = broadcast(rows, lanes, b, o)
                else:
                    sums = load_at(rows, lanes, y, i * K + k, channels, o)
                for t in range(first, last):
                    column = (tile * T + t) * len(rows)
                    sums = add_outer(sums, w, column, load(lanes, x, starts[t] + i * row_step + k))
                store(sums, O - o, block - k, y, (o * OH + i) * K + k, OH * K)


@compiled
def _grad_input(rows, lanes, g, w, targets, readers, dx):
    parallel_for(_grad_input_row, len(readers), (rows, lanes, g, w, targets, readers, dx))


@compiled
def _grad_input_row(p, rows, lanes, g, w, targets, readers, dx):
    """dx[p, targets[m] + k] += sum over u, o of w[o, u, m] g[o, i, k], m = (c, v), i the output row whose tap u is p"""
    (O, OH, K), KH, M = g.shape, readers.shape[1], len(targets)
    part_length = max(1, _NEAR // (O * KH * len(lanes))) * len(lanes)
    for part in range(0, K, part_length):
        for m in range(0, M, len(rows)):
            for block in range(part, min(part + part_length, K), len(lanes)):
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
def _grad_weight(height, width, area, lanes, g, channels, x, starts, stride, dw, db):
    OH, row_step, tiles = g.shape[1], stride * x.shape[1], dw.shape[0] * (dw.shape[1] + 1)
    strips = (len(height) * g[0].size + _WIDE - 1) // _WIDE
    for strip in range(strips):
        begin, end = OH * strip // strips, OH * (strip + 1) // strips
        arguments = (height, width, area, lanes, g, channels, x, starts, row_step, begin, end, dw, db)
        parallel_for(_grad_weight_tile, tiles, arguments)


@compiled
def _grad_weight_tile(item, height, width, area, lanes, g, channels, x, starts, row_step, begin, end, dw, db):
    """dw[o, t] += sum over i, k of g[channels[o] + i K + k] x[starts[t] + i row_step + k], db[o] the same without x"""
    K, tiles = g.shape[2], dw.shape[1]
    o, tile = item // (tiles + 1) * len(height), item % (tiles + 1)  # the tile after the last is that of db
    products, sums = zeros(area, lanes, g), zeros(height, lanes, g)
    for i in range(begin, end):
        for block in range(0, K, len(lanes)):
            k = min(block, K - len(lanes))
            gradients = keep_from(load_at(height, lanes, g, i * K + k, channels, o), block - k)
            if tile < tiles:
                shifted = load_at(width, lanes, x, i * row_step + k, starts, tile * len(width))
                products = add_products(products, gradients, shifted)
            else:
                sums = add(sums, gradients)
    if tile < tiles:
        add_row_sums(products, dw, (item - item // (tiles + 1)) * len(area))
    else:
        add_row_sums(sums, db, o)
