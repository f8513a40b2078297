"""How the work on a batch of images is shared out, and in which memory order the loops get the images."""

from __future__ import annotations

import numpy as np

from ministn.kernels._layout import batch_last, is_batch_last, nchw
from ministn.kernels.sampling import LANES

_GROUP = 4  # parts, or images, of one parallel iteration, if there are many: they share their working memory
_INT32, _INT64 = np.empty(0, np.int32), np.empty(0, np.int64)


def is_small(x):
    """Whether there are images for all threads, and 16 of them fit the cache: one iteration does all of an image, and
    brings it into the order that it needs."""
    return len(x) >= LANES and LANES <= x[:1].size <= 4096


def as_matrix(x):
    """(matrix, batch_last): images as its rows; or as its columns if they are small and lie so in memory."""
    N, size = len(x), x[:1].size
    if is_small(x) and not x.flags.c_contiguous and is_batch_last(x):
        return batch_last(x).reshape(size, N), True
    return nchw(x).reshape(N, size), False


def groups(count):
    """How many parallel iterations there are for `count` parts or images, and how many each one does."""
    return _shared(count, _GROUP, 16)


def _shared(count, most, iterations):
    group = max(1, min(most, count // iterations))  # at most so many, if there are enough for so many iterations
    return -(-count // group), group


def groups_of_images(count, *matrices, parts=1):
    """The same for images that belong to one iteration with all their parts: up to 16 of them, as many as it turns, if
    one of the matrices has them as columns."""
    turned = any(batch_last for _, batch_last in matrices)
    items, group = _shared(count, LANES, 4) if turned else groups(count)
    return items, group * parts


def index_type(pixels):
    """Indices of four bytes where they suffice, because vectors then hold as many of them as of float32."""
    return _INT32 if pixels < 2**29 else _INT64
