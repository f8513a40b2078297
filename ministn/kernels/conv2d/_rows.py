"""How the loops of conv2d see a batch of images: as rows in which the numbers that a tap reads are neighbours."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Layout(NamedTuple):
    """Rows of padded images (C, H, W, N), cut into `stride` parts: column q is column q // stride of part q % stride."""

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
    (N, C, H, W), (_, rows, columns, images), (top, left) = x.shape, layout.shape, layout.padding
    if layout.plain and images == N:
        return np.ascontiguousarray(x.transpose(1, 2, 3, 0))
    padded = np.zeros(layout.shape, x.dtype)
    padded[:, top : top + H, left : left + W, :N] = x.transpose(1, 2, 3, 0)
    if layout.stride == 1:
        return padded
    parts = padded.reshape(C, rows, columns // layout.stride, layout.stride, images).swapaxes(2, 3)
    return np.ascontiguousarray(parts).reshape(layout.shape)


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
