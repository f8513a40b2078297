"""Fixtures for the tests of the GPU path."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from implementations import real_cupy, stand_in


@pytest.fixture
def cupy() -> Iterator[Any]:
    """The stand-in for CuPy, in the place of CuPy during the test, with its counts at zero."""
    with stand_in() as library:
        library._stand_in.counts.clear()
        yield library


@pytest.fixture(params=["stand-in", pytest.param("gpu", marks=pytest.mark.gpu)])
def library(request: pytest.FixtureRequest) -> Iterator[Any]:
    """The stand-in in the place of CuPy, and, for the same test once more, CuPy on a GPU."""
    if request.param == "gpu":
        yield real_cupy()
        return
    with stand_in() as library:
        library._stand_in.counts.clear()
        yield library
