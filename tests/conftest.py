"""Fixtures for all tests: real MNIST, where this machine has it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ministn.data import ImageDataset, mnist


@pytest.fixture(scope="session")
def mnist_folder() -> Path:
    """A folder with the four MNIST files: ``MINISTN_DATA``, ``../shared/mnist`` beside the repository, or the cache.

    A folder named by ``MINISTN_DATA`` is taken as it is, so that what is wrong with it is seen.
    """
    given = os.environ.get("MINISTN_DATA")
    if given:
        return Path(given).expanduser()
    for folder in (Path(__file__).parents[2] / "shared" / "mnist", mnist.cache_folder()):
        if any(folder.glob("train-images*")):
            return folder
    pytest.skip("no MNIST on this machine: set MINISTN_DATA to a folder with the four files")


@pytest.fixture(scope="session")
def real_mnist(mnist_folder: Path) -> ImageDataset:
    """Real MNIST, read once for all tests: do not write to it."""
    return mnist.load(mnist_folder)
