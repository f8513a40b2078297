"""How the loops of conv2d see a batch of images: as rows in which the numbers that a tap reads are neighbours."""

from __future__ import annotations

import numpy as np

from ministn.kernels._layout import batch_last


def rows_shape(shape, stride, padding):
    """(C, H, stride, W, N): rows of a padded image, cut into `stride` parts, column q in part q % stride."""
    N, C, H, W = shape
    return C, H + 2 * padding[0], stride, -(-(W + 2 * padding[1]) // stride), N


def as_rows(x, stride, padding, images):
    """The batch x with zeros around each image, and zero images up to `images`, in the layout of `rows_shape`; as a
    matrix with a row for each channel and image row."""
    N, C, H, W = x.shape
    if stride == 1 and padding == (0, 0) and images == N:
        return batch_last(x).reshape(C * H, W * N)
    C, rows, _, columns, _ = rows_shape((images, C, H, W), stride, padding)
    padded = np.zeros((C, rows, columns * stride, images), x.dtype)
    padded[:, padding[0] : padding[0] + H, padding[1] : padding[1] + W, :N] = np.moveaxis(x, 0, -1)
    return padded.reshape(C, rows, columns, stride, images).swapaxes(2, 3).reshape(C * rows, -1)


def from_rows(rows, shape, left):
    """The batch of `shape` in rows that have `left` columns of zeros before it, as (C, H, W, N)."""
    (C, H, stride, columns, images), (N, _, _, W) = rows.shape, shape
    if rows.shape == (C, H, 1, W, N):
        return rows.reshape(C, H, W, N)
    padded = rows.swapaxes(2, 3).reshape(C, H, columns * stride, images)
    return np.ascontiguousarray(padded[:, :, left : left + W, :N])


def tap_starts(shape, kernel, dilation, side=1):
    """For each tap (c, u, v) the flat index of the first number that it reads, in rows of `shape`.

    The last one is repeated until their number is a multiple of `side`.
    """
    (C, H, stride, W, N), (KH, KW) = shape, kernel
    c, u, v = np.ogrid[:C, :KH, :KW]
    column, part = np.divmod(v * dilation[1], stride)
    starts = ((((c * H + u * dilation[0]) * stride + part) * W + column) * N).reshape(-1)
    return np.pad(starts, (0, -len(starts) % side), mode="edge")


def channel_starts(channels, size, side):
    """For each channel of `size` numbers its first, and the last one repeated likewise."""
    return size * np.minimum(np.arange(-(-channels // side) * side), channels - 1)


def reading_rows(H, OH, KH, stride, padding, dilation):
    """[p, u]: the output row whose tap row u lies on input row p, or -1."""
    i, between = np.divmod(np.arange(H)[:, None] + padding - dilation * np.arange(KH), stride)
    return np.where((between == 0) & (i >= 0) & (i < OH), i, -1)
