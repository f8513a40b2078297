"""Every family that has loops for the processor has kernels for the GPU, behind the same functions."""

import importlib
import inspect
import re
from pathlib import Path

import cases
import numpy as np
import pytest
from implementations import kernels

import ministn
from ministn.kernels import _cuda

PACKAGE = Path(ministn.__file__).parent
FAMILIES = sorted(f"{path.parent.parent.name}.{path.parent.name}" for path in PACKAGE.glob("*/*/cpu.py"))
KERNEL = re.compile(r'extern "C" __global__\s+void\s+(?:__launch_bounds__\(.*?\)\s*)?(\w+)\(')


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
def test_cases_run_every_kernel(family, monkeypatch):
    """What `cases` computes for a family launches every kernel of its cuda.cu."""
    run, function = set(), _cuda._function
    monkeypatch.setattr(_cuda, "_function", lambda *key: (run.add(key[-1]), function(*key))[1])
    with kernels("cuda"):
        cases.results(f"ministn.{family}", np.float32)
    path = PACKAGE / family.replace(".", "/") / "cuda.cu"
    there = KERNEL.findall(path.read_text())
    assert len(there) == len(set(there))
    assert run == set(there)
    assert there
