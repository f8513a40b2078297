"""A test of the tests: each of the faults is caught by the rung that is named for it."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import cuda_emulator
import faults
import numpy as np
import ptx
import ptx_beside
import pytest
import test_large
import test_nvrtc
import test_ptx_of_kernels
from cuda_emulator import sanitizers
from faults import FAULTS, Fault

from ministn.kernels import _cuda

try:
    cuda_emulator.find_compiler()
except cuda_emulator.NoCompilerError as error:
    pytest.skip(str(error), allow_module_level=True)


def by_emulator(fault: Fault) -> str:
    with pytest.raises((AssertionError, cuda_emulator.EmulationError)) as caught:
        faults.run(fault)
    return str(caught.value)


def by_one_block(fault: Fault) -> str:
    """With so few threads that each has several items."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_cuda, "_MOST_BLOCKS", 1)
        return by_emulator(fault)


def by_large_arrays(fault: Fault) -> str:
    with faults.planted(fault), pytest.raises((AssertionError, cuda_emulator.EmulationError)) as caught:
        test_large.CHECKS[fault.package]()
    return str(caught.value)


def by_sanitizer(sanitizer: str, fault: Fault) -> str:
    return sanitizers.run(sanitizer, [sys.executable, faults.__file__, fault.what]).reports


def by_compiler(fault: Fault) -> str:
    """What NVIDIA's compiler says, or the checks of what it makes."""
    if test_nvrtc.nvrtc.missing():
        pytest.skip(str(test_nvrtc.nvrtc.missing()))
    with faults.planted(fault), pytest.raises((AssertionError, test_nvrtc.nvrtc.CompileError)) as caught:
        _compile(fault)
    return str(caught.value)


def by_ptx(fault: Fault) -> str:
    """The emulator beside the PTX interpreter, which knows registers that nothing was written to."""
    if test_nvrtc.nvrtc.missing():
        pytest.skip(str(test_nvrtc.nvrtc.missing()))
    ptx_beside.kernels.cache_clear()
    try:
        with faults.planted(fault), pytest.raises((AssertionError, ptx.PtxError)) as caught:
            test_ptx_of_kernels.run(fault.package, np.dtype(fault.dtype).type, "75")
    finally:
        ptx_beside.kernels.cache_clear()
    return str(caught.value)


def _compile(fault: Fault) -> None:
    test_nvrtc.test_compiles_without_warnings_or_spills(fault.package, fault.dtype, "80")
    if np.dtype(fault.dtype) == np.float32:
        test_nvrtc.test_kernels_for_floats_compute_no_doubles(fault.package, "75")
    else:
        test_nvrtc.test_kernels_for_doubles_compute_no_floats(fault.package, "75")


def by_stand_in(fault: Fault) -> str:
    with pytest.raises((TypeError, ValueError, cuda_emulator.EmulationError)) as caught:
        faults.run(fault)
    return str(caught.value)


RUNGS = {
    faults.EMULATOR: by_emulator,
    faults.ONE_BLOCK: by_one_block,
    faults.LARGE: by_large_arrays,
    faults.ADDRESS: lambda fault: by_sanitizer("address", fault),
    faults.THREAD: lambda fault: by_sanitizer("thread", fault),
    faults.COMPILER: by_compiler,
    faults.PTX: by_ptx,
    faults.LAUNCH: by_stand_in,
}


SLOW = (faults.ADDRESS, faults.THREAD)  # a process and a build of the kernels for each


@pytest.mark.parametrize(
    "fault",
    [pytest.param(f, id=f.what, marks=[pytest.mark.slow] if f.rung in SLOW else []) for f in FAULTS],
)
def test_fault_is_caught_by_its_rung(fault):
    message = RUNGS[fault.rung](fault)
    assert re.search(fault.says, message), message


def test_the_documentation_lists_them():
    document = Path(faults.__file__).parents[2] / "docs" / "gpu.md"
    assert faults.table() in document.read_text()
