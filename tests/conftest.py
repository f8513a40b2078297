"""Fixtures for all tests: real MNIST, where this machine has it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import ministn
from ministn.data import ImageDataset, mnist


@pytest.fixture(scope="session")
def mnist_folder() -> Path:
    """A folder with the four MNIST files: ``MINISTN_DATA``, or the cache that a training has filled.

    A folder named by ``MINISTN_DATA`` is taken as it is, so that what is wrong with it is seen.
    """
    given = os.environ.get("MINISTN_DATA")
    if given:
        return Path(given).expanduser()
    if any(mnist.cache_folder().glob("train-images*")):
        return mnist.cache_folder()
    pytest.skip("no MNIST on this machine: set MINISTN_DATA to a folder with the four files")


@pytest.fixture(scope="session")
def real_mnist(mnist_folder: Path) -> ImageDataset:
    """Real MNIST, read once for all tests: do not write to it."""
    return mnist.load(mnist_folder)


@pytest.fixture
def more_threads_than_one() -> None:
    """For tests that compare numbers of threads: with one processor they would compare a thing with itself."""
    if ministn.get_num_threads() < 2:
        pytest.skip("this machine has one processor: there are no two numbers of threads to compare")
