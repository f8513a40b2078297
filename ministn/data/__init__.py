"""Data: real MNIST where it can be had, digits drawn by the package where it cannot, and batches of either.

>>> dataset = load("auto")  # doctest: +SKIP
>>> loader = DataLoader(dataset.train_images, dataset.train_labels, batch_size=64)  # doctest: +SKIP
"""

from __future__ import annotations

import os
import sys

from ministn.data import distortions, field_of_digits, mnist, not_so_clevr, strokes
from ministn.data.dataset import DataError, ImageDataset
from ministn.data.distortions import DISTORTIONS, distorted_test_set
from ministn.data.loader import DataLoader, random_shift


def load(name: str = "auto", data_dir: str | os.PathLike[str] | None = None, seed: int = 0) -> ImageDataset:
    """Load a data set by name.

    Parameters
    ----------
    name : str
        ``"mnist"``: real MNIST, see `ministn.data.mnist.load`. ``"strokes"``: digits that the package draws itself, see
        `ministn.data.strokes.load`. ``"auto"``: MNIST if it can be had; if not, a line on standard error says why, and
        the drawn digits take its place. A folder that was given, by `data_dir` or ``MINISTN_DATA``, but is not right
        is an error for ``"auto"`` too.
    data_dir : path, optional
        A folder with the MNIST files.
    seed : int
        What the drawn digits follow from.

    Returns
    -------
    ImageDataset
        Its `describe` says which data it is.

    Raises
    ------
    DataError
        If MNIST was asked for and cannot be had.
    """
    if name not in ("auto", "mnist", "strokes"):
        raise ValueError(f"load: expected name to be one of 'auto', 'mnist', 'strokes', got {name!r}")
    if name == "strokes":
        return strokes.load(seed=seed)
    if name == "mnist" or mnist.user_folder(data_dir) is not None:
        return mnist.load(data_dir)
    try:
        return mnist.load()
    except DataError as error:
        print(f"ministn: {error}. Using digits drawn by ministn.data.strokes instead, not MNIST.", file=sys.stderr)
        return strokes.load(seed=seed)


__all__ = [
    "DISTORTIONS",
    "DataError",
    "DataLoader",
    "ImageDataset",
    "distorted_test_set",
    "distortions",
    "field_of_digits",
    "load",
    "mnist",
    "not_so_clevr",
    "random_shift",
    "strokes",
]
