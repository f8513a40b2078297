"""A data set of small grey images, and the line that says which one it is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


class DataError(ValueError):
    """A data file is missing, damaged or not what it should be; the message names it, what was expected, what came."""


@dataclass(frozen=True, eq=False)
class ImageDataset:
    """Grey images with their classes, in a training part and a test part.

    Parameters
    ----------
    name : str
        What the data is, for instance ``"MNIST"``.
    source : str
        Where it came from: a folder, an address, or what drew it.
    train_images, test_images : numpy.ndarray of uint8, shape (N, H, W)
        0 is the background, 255 full ink.
    train_labels, test_labels : numpy.ndarray of int64, shape (N,)
    mean, std : float
        Mean and standard deviation of the training pixels, where 255 counts as 1.

    Raises
    ------
    DataError
        If an array has another dtype or shape, or a part's images and labels differ in number.
    """

    name: str
    source: str
    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    mean: float
    std: float

    def __post_init__(self) -> None:
        for part, images, labels in (
            ("training", self.train_images, self.train_labels),
            ("test", self.test_images, self.test_labels),
        ):
            if images.dtype != np.uint8 or images.ndim != 3:
                raise DataError(
                    f"{self.name}: expected {part} images of uint8 (N, H, W), got {images.dtype} {images.shape}"
                )
            if labels.dtype != np.int64 or labels.shape != images.shape[:1]:
                raise DataError(
                    f"{self.name}: expected {part} labels of int64 ({len(images)},), one for each image, "
                    f"got {labels.dtype} {labels.shape}"
                )

    def describe(self) -> str:
        """One line that says which data this is, how much, and where it came from."""
        height, width = self.train_images.shape[1:]
        return (
            f"{self.name}: {len(self.train_images):,} training and {len(self.test_images):,} test images "
            f"of {height} x {width} pixels, from {self.source}"
        )
