"""Fixtures for all tests: real MNIST, where this machine has it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest

import ministn
from ministn.data import ImageDataset, mnist

THREADS = ministn.get_num_threads()

# The same examples in every run, however long each takes on a machine that is busy.
hypothesis.settings.register_profile(
    "ministn", deadline=None, derandomize=True, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("ministn")

ministn.manual_seed(0)  # for what is drawn before the first test


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


@pytest.fixture(autouse=True)
def same_weights_in_every_run() -> None:
    """Where a test gives no seed of its own: a bound that holds for these weights fails for no others by chance."""
    ministn.manual_seed(0)


@pytest.fixture(autouse=True)
def threads_as_before() -> Iterator[None]:
    """A program that a test calls sets the number of threads; the next test has again as many as at the beginning."""
    yield
    if ministn.get_num_threads() != THREADS:
        ministn.set_num_threads(THREADS)


@pytest.fixture
def more_threads_than_one() -> None:
    """For tests that compare numbers of threads: with one processor they would compare a thing with itself."""
    if ministn.get_num_threads() < 2:
        pytest.skip("this machine has one processor: there are no two numbers of threads to compare")


@pytest.fixture
def run_python(tmp_path: Path) -> Callable[..., str]:
    """``run_python(code, **environment)``: what the code prints, in a process and with a kernel cache of its own.

    Modules in `tmp_path` come before installed ones.
    """

    def run(code: str, **environment: str) -> str:
        result = subprocess.run(
            [sys.executable, "-c", code],
            cwd=tmp_path,
            env={**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "cache"), **environment},
            capture_output=True,
            text=True,
        )
        assert result.returncode == 0, result.stderr
        return result.stdout.strip()

    return run
