"""All kernels on the emulator, watched by the sanitizers: no access outside of an array, no overflow, no race."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import cuda_emulator
import pytest
from cuda_emulator import sanitizers

try:
    cuda_emulator.find_compiler()
except cuda_emulator.NoCompilerError as error:
    pytest.skip(str(error), allow_module_level=True)

TESTS = Path(__file__).parents[1]


def passed_under(sanitizer: str, *arguments: str) -> int:
    """How many tests pass in a process in which the sanitizer finds nothing to report."""
    pytest_arguments = ["-q", "-p", "no:cacheprovider", "-m", "not gpu", *arguments]
    command = [sys.executable, "-m", "pytest", "--rootdir", str(TESTS.parent), *pytest_arguments]
    outcome = sanitizers.run(sanitizer, command)
    assert outcome.reports == ""
    assert outcome.returncode == 0, outcome.output
    return int(re.search(r"(\d+) passed", outcome.output)[1])


def test_a_case_of_each_family():
    """`cases` reaches every kernel (test_families.py sees to that); races are left to the slow tests."""
    cases = str(TESTS / "gpu" / "test_cases.py")
    assert passed_under("address", cases, "-k", "float32 and random") >= 10


@pytest.mark.slow
@pytest.mark.parametrize("sanitizer", ["address", "thread"])
def test_all_cases_in_all_orders(sanitizer):
    assert passed_under(sanitizer, str(TESTS / "gpu" / "test_cases.py")) >= 60


@pytest.mark.slow
@pytest.mark.parametrize("sanitizer", ["address", "thread"])
def test_the_tests_of_the_kernels(sanitizer):
    folders = str(TESTS / "kernels"), str(TESTS / "gpu" / "test_gpu_ops.py")
    assert passed_under(sanitizer, *folders, "-k", "cuda or test_gpu_ops") >= 400
