"""Mini-batches on the GPU: the data set is sent there once, and a kernel gathers each batch from it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ministn.backend import Array, array_module, to_device
from ministn.kernels._cuda import launch


class Uploaded:
    """Images and labels in the memory of the GPU.

    Parameters
    ----------
    images : uint8 ndarray, shape (N, H, W)
    labels : int64 ndarray, shape (N,)
    scale, offset : float32
        A pixel value v becomes scale v + offset.
    """

    def __init__(self, images: np.ndarray, labels: np.ndarray, scale: Any, offset: Any) -> None:
        self.images, self.labels = to_device(images, "gpu"), to_device(labels, "gpu")
        # All there are, computed here: a GPU would round the product and the sum at once, and differ in the last bit.
        self.normalised = to_device(scale * np.arange(256, dtype=np.float32) + offset, "gpu")

    def batches(
        self, order: np.ndarray, shifts: np.ndarray, batch_size: int, start: int, stop: int
    ) -> Iterator[tuple[Array, Array]]:
        """The batches `start` to `stop` - 1 of an epoch; what says which images those are is sent at once.

        Parameters
        ----------
        order : int64 ndarray, shape (N,)
            The numbers of the images.
        shifts : int32 ndarray, shape (N, 2)
            By how many pixels (rows, columns) the image in each place moves.
        batch_size, start, stop : int

        Yields
        ------
        images : float32 array, shape (B, 1, H, W)
        labels : int64 array, shape (B,)
        """
        order, shifts = to_device(order, "gpu"), to_device(shifts, "gpu")
        for number in range(start, stop):
            places = slice(number * batch_size, (number + 1) * batch_size)
            yield gathered(self.images, self.labels, self.normalised, order[places], shifts[places])


def gathered(images: Array, labels: Array, normalised: Array, order: Array, shifts: Array) -> tuple[Array, Array]:
    """As `reference.gathered`."""
    library, count, (_, height, width) = array_module(order), len(order), images.shape
    batch = library.empty((count, 1, height, width), normalised.dtype)
    batch_labels = library.empty(count, np.int64)
    everything = images, labels, normalised, order, shifts
    launch(__package__, "gather", batch.size, batch, batch_labels, *everything, count, height, width)
    return batch, batch_labels
