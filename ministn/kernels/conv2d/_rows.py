"""How the loops of conv2d see a batch of images: as rows in which the numbers that a tap reads are neighbours."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ministn.kernels._layout import batch_last
from ministn.kernels.compiled import compiled, parallel_for


class Layout(NamedTuple):
    """Rows of padded images, (C, H, W, N), cut into `stride` parts: column q is in part q % stride."""

    shape: tuple[int, int, int, int]  # C, H with padding, W with padding and a multiple of stride, N
    stride: int
    padding: tuple[int, int]
    row: int  # numbers of a row
    plain: bool  # no padding and no parts: the memory of a batch-last array


def layout_of(shape, stride=1, padding=(0, 0)):
    """The layout for images of shape (N, C, H, W)."""
    N, C, H, W = shape
    columns = W + 2 * padding[1]
    columns += -columns % stride
    plain = stride == 1 and padding == (0, 0)
    return Layout((C, H + 2 * padding[0], columns, N), stride, padding, columns * N, plain)


def as_rows(x, layout):
    """The batch x with zeros around each image, and zero images behind the last, in the layout."""
    rows = x.transpose(1, 2, 3, 0)
    x = rows if rows.flags.c_contiguous else batch_last(x)
    if layout.plain and layout.shape[3] == x.shape[3]:
        return x
    padded = np.empty(layout.shape, x.dtype)
    _pad(x, *layout.padding, layout.stride, padded)
    return padded


@compiled
def _pad(x, top, left, stride, padded):
    parallel_for(_pad_row, padded.shape[0] * padded.shape[1], (x, top, left, stride, padded))


@compiled
def _pad_row(row, x, top, left, stride, padded):
    """padded[c, p, q] = x[c, p - top, q - left], or zero, the columns q sorted by q % stride, for one row (c, p)"""
    (_, H, W, N), (_, rows, columns, images) = x.shape, padded.shape
    c, p = row // rows, row % rows
    for q in range(columns):
        place = q % stride * (columns // stride) + q // stride
        inside = top <= p < top + H and left <= q < left + W
        if inside:
            for n in range(N):
                padded[c, p, place, n] = x[c, p - top, q - left, n]
        for n in range(N if inside else 0, images):
            padded[c, p, place, n] = 0


def from_rows(rows, layout, shape):
    """The batch of `shape` (N, C, H, W) in rows of this layout that were computed."""
    (N, _, H, W), (C, height, columns, images), (top, left) = shape, layout.shape, layout.padding
    if not (layout.plain and images == N):
        parts = rows.reshape(C, height, layout.stride, columns // layout.stride, images).swapaxes(2, 3)
        padded = parts.reshape(C, height, columns, images)
        rows = np.ascontiguousarray(padded[:, top : top + H, left : left + W, :N])
    return rows.transpose(3, 0, 1, 2)


def tap_starts(layout, taps, dilation):
    """For each tap (c, u, v) the flat index of the first number that it reads, in rows of the layout."""
    (_, H, columns, N), (c, u, v) = layout.shape, np.ogrid[: taps[0], : taps[1], : taps[2]]
    column, part = np.divmod(v * dilation[1], layout.stride)
    starts = (c * H + u * dilation[0]) * layout.row + (part * (columns // layout.stride) + column) * N
    return starts.reshape(-1)


def reading_rows(H, OH, KH, stride, padding, dilation):
    """[p, u]: the output row whose tap row u lies on input row p, or -1."""
    i, between = np.divmod(np.arange(H)[:, None] + padding - dilation * np.arange(KH), stride)
    return np.where((between == 0) & (i >= 0) & (i < OH), i, -1)
