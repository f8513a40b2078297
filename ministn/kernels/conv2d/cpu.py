"""conv2d, the loops: register tiles (see `ministn.kernels.simd`) over shifted rows.

Memory is batch-last: an output row of OW pixels and N images is one run of K = OW N numbers, and what a tap (c, u, v)
reads for it is one run of the input. A convolution adds up shifted, weighted rows. A parallel iteration makes an output
row or a part of it, a row of the gradient for x, or what a strip of rows adds to a tile of that for the weights, and
writes nothing else: no races, and the same order of sums for any number of threads."""
# ruff: noqa: E741 (O is the axis of output channels)

import numpy as np

from ministn.kernels.compiled import compiled, parallel_for
from ministn.kernels.conv2d._plan import Plan
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

_TAPS = 400  # weights of a tile, read again for each vector: with ten rows half of a first-level cache


def forward(x, weight, bias, stride, padding, dilation):
    """As `reference.forward`; the result's memory is batch-last."""
    return _convolve(Plan(x.shape, weight.shape, stride, padding, dilation, x.dtype).forward, x, weight, bias)


def backward(grad_output, x, weight, stride, padding, dilation, needs_grad=(True, True, True)):
    """As `reference.backward`; the memory of the gradient for x is batch-last."""
    plan = Plan(x.shape, weight.shape, stride, padding, dilation, x.dtype)
    g = as_rows(grad_output, plan.g)
    grad_x = grad_weight = grad_bias = None
    if needs_grad[0]:
        grad_x = _gradient_for_input(plan, g, weight)
    if any(needs_grad[1:]):
        grad_weight, grad_bias = _gradients_for_parameters(plan, g, x, needs_grad[1])
    return grad_x, grad_weight, grad_bias if any(needs_grad[2:]) else None


def _convolve(plan, x, weight, bias):
    weights, y, w = plan.weights, np.empty(plan.y, x.dtype), np.empty(plan.weights.shape, x.dtype)
    bias = weights.no_bias if bias is None else np.ascontiguousarray(bias)
    _in_tiles(weight.reshape(-1), weights.rows, weights.columns, bias, w)
    _forward(plan.rows, plan.lanes, as_rows(x, plan.x), plan.starts, plan.row_step, w, plan.channels, plan.parts, y)
    return (y if plan.y[3] == plan.batch else y[..., : plan.batch].copy()).transpose(3, 0, 1, 2)


def _gradient_for_input(plan, g, weight):
    if plan.around is not None:
        return _convolve(plan.turned, g.transpose(3, 0, 1, 2)[: plan.shape[0]], weight, None)
    shape, plan = plan.shape, plan.grad_input
    weights, dx, w = plan.weights, np.empty(plan.dx.shape, g.dtype), np.empty(plan.weights.shape, g.dtype)
    _in_tiles(weight.reshape(-1), weights.rows, weights.columns, weights.no_bias, w)
    _grad_input(plan.rows, plan.lanes, g, w, plan.targets, plan.readers, plan.part_length, dx)
    return from_rows(dx, plan.dx, shape)


def _gradients_for_parameters(plan, g, x, needs_grad_weight):
    filters, plan = plan.filters, plan.grad_weight if needs_grad_weight else plan.grad_bias
    tiles, sums = np.zeros(plan.tiles, g.dtype), np.zeros((plan.tiles[0], len(plan.channels)), g.dtype)
    dw, db = np.empty((filters[0], plan.taps), g.dtype), np.empty(filters[0], g.dtype)
    x = as_rows(x, plan.x)
    _grad_weight(*plan.tile, plan.lanes, g, plan.channels, x, plan.starts, plan.row_step, tiles, sums, dw, db)
    return dw.reshape(filters) if needs_grad_weight else None, db


# --- the loops --------------------------------------------------------------------------------------------------------


@compiled
def _in_tiles(weight, rows, columns, bias, w):
    """w[tile, 0, r] = bias[m], w[tile, 1 + t, r] = weight[rows[m] + columns[t]]: what a tile needs for one t are
    neighbours. m = tile R + r; where there are no such rows, the last one stands in."""
    tiles, _, side = w.shape
    for tile in range(tiles):
        for r in range(side):
            w[tile, 0, r] = bias[min(tile * side + r, len(bias) - 1)]
        for t in range(len(columns)):
            for r in range(side):
                w[tile, 1 + t, r] = weight[rows[tile * side + r] + columns[t]]


@compiled
def _forward(rows, lanes, x, starts, row_step, w, channels, parts, y):
    parallel_for(_output_part, y.shape[1] * parts, (rows, lanes, x, starts, row_step, w, channels, parts, y))


@compiled
def _output_part(item, rows, lanes, x, starts, row_step, w, channels, parts, y):
    """y[o, i, k] = b[o] + sum over t of w[o, t] x[starts[t] + i row_step + k] for one i, all o and a part of the k"""
    (O, OH, OW, N), (tiles, columns, _) = y.shape, w.shape
    K, T, i, part = OW * N, columns - 1, item // parts, item % parts
    blocks = (K + len(lanes) - 1) // len(lanes)
    begin, end = blocks * part // parts * len(lanes), blocks * (part + 1) // parts * len(lanes)
    for first in range(0, T, _TAPS):
        last = min(first + _TAPS, T)
        for tile in range(tiles):
            o = tile * len(rows)
            for block in range(begin, end, len(lanes)):
                k = min(block, K - len(lanes))  # the last block reaches back; what lies before it is not stored again
                if first == 0:
                    sums = broadcast(rows, lanes, w, tile * columns * len(rows))
                else:
                    sums = load_at(rows, lanes, y, i * K + k, channels, o)
                for t in range(first, last):
                    column = (tile * columns + 1 + t) * len(rows)
                    sums = add_outer(sums, w, column, load(lanes, x, starts[t] + i * row_step + k))
                store(sums, O - o, block - k, y, (o * OH + i) * K + k, OH * K)


@compiled
def _grad_input(rows, lanes, g, w, targets, readers, part_length, dx):
    parallel_for(_grad_input_row, len(readers), (rows, lanes, g, w, targets, readers, part_length, dx))


@compiled
def _grad_input_row(p, rows, lanes, g, w, targets, readers, part_length, dx):
    """dx[p, targets[m] + k] += sum over u, o of w[o, u, m] g[o, i, k], m = (c, v), i the output row whose tap u is p"""
    (O, OH, OW, N), KH, M, columns = g.shape, readers.shape[1], len(targets), w.shape[1]
    K, row = OW * N, dx.shape[2] * dx.shape[3]
    for c in range(len(dx)):
        for q in range(dx.shape[2]):
            for n in range(N):
                dx[c, p, q, n] = 0
    copied = part_length > 0  # then the rows of g that row p needs lie near, in the order in which they are read
    near = np.empty((KH, O, 1, part_length), g.dtype)
    source, o_step, length = (near, part_length, part_length) if copied else (g, OH * K, K)
    for part in range(0, K, length):
        begin, end = min(part, K - len(lanes)) if copied else 0, min(part + length, K)
        for u in range(KH if copied else 0):
            if readers[p, u] >= 0:
                for o in range(O):
                    for block in range(begin, end, len(lanes)):
                        k = min(block, end - len(lanes))
                        row_of_g = load(lanes, g, (o * OH + readers[p, u]) * K + k)
                        store(row_of_g, 1, 0, near, (u * O + o) * length + k - begin, 0)
        for m in range(0, M, len(rows)):
            for block in range(part, end, len(lanes)):
                k = min(block, K - len(lanes))
                sums = zeros(rows, lanes, g)
                for u in range(KH):
                    if readers[p, u] >= 0:
                        first = (u * O if copied else readers[p, u]) * length + k - begin
                        for o in range(O):
                            column = m * columns + (1 + u * O + o) * len(rows)
                            sums = add_outer(sums, w, column, load(lanes, source, first + o * o_step))
                add_at(keep_from(sums, block - k), M - m, dx, p * row + k, targets, m)


@compiled
def _grad_weight(height, width, area, lanes, g, channels, x, starts, row_step, tiles, sums, dw, db):
    strips, high, wide = tiles.shape[:3]
    items, arguments = strips * high * (wide + 1), (height, width, area, lanes, g, channels, x, starts, row_step)
    parallel_for(_grad_weight_tile, items, (*arguments, tiles, sums))
    dw[:], db[:] = 0, 0
    for strip in range(strips):
        for o in range(len(db)):
            tile, r = o // len(height), o % len(height)
            db[o] += sums[strip, o]
            for t in range(dw.shape[1]):
                dw[o, t] += tiles[strip, tile, t // len(width), r, t % len(width)]


@compiled
def _grad_weight_tile(item, height, width, area, lanes, g, channels, x, starts, row_step, tiles, sums):
    """dw[o, t] = sum over i, k of g[channels[o] + i K + k] x[starts[t] + i row_step + k], db[o] the same without x; the
    parts of the sums from a strip of rows i"""
    (strips, high, wide), (_, OH, OW, N) = tiles.shape[:3], g.shape
    K, strip, tile = OW * N, item // (high * (wide + 1)), item % (wide + 1)  # the tile after the last is that of db
    o = item // (wide + 1) % high * len(height)
    products, totals = zeros(area, lanes, g), zeros(height, lanes, g)
    for i in range(OH * strip // strips, OH * (strip + 1) // strips):
        for block in range(0, K, len(lanes)):
            k = min(block, K - len(lanes))
            gradients = keep_from(load_at(height, lanes, g, i * K + k, channels, o), block - k)
            if tile < wide:
                shifted = load_at(width, lanes, x, i * row_step + k, starts, tile * len(width))
                products = add_products(products, gradients, shifted)
            else:
                totals = add(totals, gradients)
    if tile < wide:
        add_row_sums(products, tiles, (item - item // (wide + 1)) * len(area))
    else:
        add_row_sums(totals, sums, strip * len(channels) + o)
