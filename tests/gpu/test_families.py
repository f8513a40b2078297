"""Every family that has loops for the processor has kernels for the GPU, behind the same functions."""

import importlib
import inspect
import re
from pathlib import Path

import pytest

import ministn

PACKAGE = Path(ministn.__file__).parent
FAMILIES = sorted(f"{path.parent.parent.name}.{path.parent.name}" for path in PACKAGE.glob("*/*/cpu.py"))
FROM_THE_LIBRARY = {"kernels.linear"}  # matrix products: CuPy's, as NumPy's in the reference


def functions(family, name):
    """The public functions of a family's module, with their parameters."""
    module = importlib.import_module(f"ministn.{family}.{name}")
    own = {
        function.__name__: inspect.signature(function).parameters
        for function in vars(module).values()
        if inspect.isfunction(function) and function.__module__.startswith(f"ministn.{family}.")
    }
    return {name: list(parameters.values()) for name, parameters in own.items() if not name.startswith("_")}


@pytest.mark.parametrize("family", FAMILIES)
def test_cuda_offers_what_the_reference_offers(family):
    reference, cuda = functions(family, "reference"), functions(family, "cuda")
    assert set(reference) <= set(cuda)
    for name, parameters in reference.items():
        shared, own = cuda[name][: len(parameters)], cuda[name][len(parameters) :]
        assert [(p.name, p.default) for p in shared] == [(p.name, p.default) for p in parameters], name
        assert all(p.default is not p.empty for p in own), f"{name}: an argument that the reference does not need"


@pytest.mark.parametrize("family", FAMILIES)
def test_every_kernel_is_launched_and_every_launch_has_a_kernel(family):
    folder = PACKAGE / family.replace(".", "/")
    if family in FROM_THE_LIBRARY:
        assert not (folder / "cuda.cu").exists()
        return
    kernels = re.findall(
        r'extern "C" __global__\s+void\s+(?:__launch_bounds__\(.*?\)\s*)?(\w+)\(', (folder / "cuda.cu").read_text()
    )
    quoted = set(re.findall(r"\"(\w+)\"", (folder / "cuda.py").read_text()))
    assert kernels
    assert len(kernels) == len(set(kernels))
    assert set(kernels) <= quoted, "a kernel that nothing launches"
