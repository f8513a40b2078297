"""NVIDIA's compiler takes every CUDA kernel, for every architecture, and makes of it what was meant. No GPU needed."""

from __future__ import annotations

import importlib.metadata
import io
import re
from typing import Any

import nvrtc
import pytest

from ministn.kernels import _cuda

pytestmark = pytest.mark.skipif(nvrtc.missing() is not None, reason=str(nvrtc.missing()))

DTYPES = ("float32", "float64")
# NVRTC 13 has two code generators: one for compute capabilities below 10.0, another for later ones.
PTX_ARCHITECTURES = ("75", "120")

# Kernels that need local memory or spill registers, each with the reason why that is right.
MAY_SPILL: dict[str, str] = {}
# Kernels for float32 that compute some things in float64, each with the reason.
MAY_USE_DOUBLE: dict[str, str] = {}


def known(arch: str) -> str:
    if arch not in nvrtc.architectures():
        pytest.skip(f"NVRTC {nvrtc.version()} does not know sm_{arch}")
    return arch


def compiled(package: str, dtype: str, arch: str, kind: str) -> tuple[Any, str]:
    return nvrtc.compile(_cuda.source(package), _cuda.options(dtype), known(arch), kind)


@pytest.mark.parametrize("arch", nvrtc.ARCHITECTURES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("package", nvrtc.packages())
def test_compiles_without_warnings_or_spills(package: str, dtype: str, arch: str) -> None:
    _, log = compiled(package, dtype, arch, "cubin")
    assert "warning" not in log.lower()
    found = nvrtc.resources(log)
    names = re.findall(r'extern "C" __global__ void\s+(?:__launch_bounds__\([^)]*\)\s+)?(\w+)\(', _cuda.source(package))
    assert set(names) <= set(found)
    assert found
    spilling = {name: taken for name, taken in found.items() if taken.spills or taken.stack}
    assert set(spilling) <= set(MAY_SPILL), spilling


@pytest.mark.parametrize("arch", PTX_ARCHITECTURES)
@pytest.mark.parametrize("package", nvrtc.packages())
def test_kernels_for_floats_compute_no_doubles(package: str, arch: str) -> None:
    """A literal such as 0.5 is a double, and what it is multiplied with becomes one: up to 64 times slower."""
    ptx, _ = compiled(package, "float32", arch, "ptx")
    wrong = {name: found for name, body in kernels_of(ptx).items() if (found := instructions(body, "f64"))}
    assert set(wrong) <= set(MAY_USE_DOUBLE), wrong


@pytest.mark.parametrize("arch", PTX_ARCHITECTURES)
@pytest.mark.parametrize("package", nvrtc.packages())
def test_kernels_for_doubles_compute_no_floats(package: str, arch: str) -> None:
    """Where a double passes through a float, it loses 29 of its 53 bits."""
    ptx, _ = compiled(package, "float64", arch, "ptx")
    for name, body in kernels_of(ptx).items():
        # NVIDIA's exp and log look at the upper half of a double as if it were a float, to compare it.
        wrong = [line for line in instructions(body, "f32") if not re.match(r"(abs|setp|mov)\b", line)]
        assert not wrong, (name, wrong)


@pytest.mark.parametrize("arch", PTX_ARCHITECTURES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("package", nvrtc.packages())
def test_compiles_as_cupy_calls_the_compiler(package: str, dtype: str, arch: str) -> None:
    """With the options and folders of headers that the installed CuPy adds: they change nothing."""
    _, log = compiled(package, dtype, arch, "cubin")
    options, their_log = compiled_by_cupy(_cuda.source(package), _cuda.options(dtype), arch)
    assert set(nvrtc._options_of_cupy(arch, "cubin")) <= set(options)
    assert "warning" not in their_log.lower()
    assert nvrtc.resources(their_log) == nvrtc.resources(log)


def compiled_by_cupy(source: str, options: tuple[str, ...], arch: str) -> tuple[tuple[str, ...], str]:
    """The options that CuPy's own code puts together, and the compiler's log.

    CuPy's public functions ask the device for its architecture; this does the rest of what they do.
    """
    if not any(name.startswith("cupy-cuda") for name in installed()):
        pytest.skip("CuPy is not installed: python -m pip install -e '.[gpu-cuda13]'")
    from cupy._core import core
    from cupy.cuda import compiler

    assembled = core.assemble_cupy_compiler_options(options)
    assembled += ("-ftz=true", f"-arch=sm_{arch}", "--device-as-default-execution-space")
    log = io.StringIO()
    program = compiler._NVRTCProgram(source, "cuda.cu", method="cubin")
    program.compile((*assembled, "--ptxas-options=-v"), log)
    return assembled, log.getvalue()


def installed() -> list[str]:
    return [str(distribution.metadata["Name"]) for distribution in importlib.metadata.distributions()]


def kernels_of(ptx: bytes) -> dict[str, str]:
    """The body of each kernel and function."""
    return dict(re.findall(r"\.(?:entry|func)[^\n{]*?(\w+)\s*\(.*?\n\{(.*?)\n\}", ptx.decode(), re.DOTALL))


def instructions(body: str, kind: str) -> list[str]:
    """Those that have an operand of type `kind`."""
    lines = re.findall(r"^\s*(?:@!?%p\d+\s+)?([a-z][\w.:]*\s.*;)$", body, re.MULTILINE)
    return [line for line in lines if kind in line.split()[0].split(".")]


# --- what these tests would say of kernels that are wrong -------------------------------------------------------------


def test_a_double_literal_is_seen() -> None:
    ptx, _ = nvrtc.compile('extern "C" __global__ void f(float* x) { *x = *x * 0.1; }', (), "75", "ptx")
    assert len(instructions(kernels_of(ptx)["f"], "f64")) >= 2  # to a double, and the product


def test_a_float_literal_is_seen() -> None:
    source = 'extern "C" __global__ void f(double* x) { float y = *x; *x = y * 0.1f; }'
    ptx, _ = nvrtc.compile(source, (), "75", "ptx")
    assert [line.split()[0] for line in instructions(kernels_of(ptx)["f"], "f32")] == [
        "cvt.rn.ftz.f32.f64",
        "mul.ftz.f32",
        "cvt.ftz.f64.f32",
    ]


def test_spills_and_local_memory_are_seen() -> None:
    source = """
        extern "C" __global__ void chosen(float* x, int k) {
            float of_thread[100];
            for (int i = 0; i < 100; i++) of_thread[int(x[i])] = x[i];
            x[0] = of_thread[k];
        }
        extern "C" __global__ void __launch_bounds__(1024) kept(float* x) {
            float sums[80];
            #pragma unroll
            for (int i = 0; i < 80; i++) sums[i] = x[i * 1024 + threadIdx.x];
            __syncthreads();
            #pragma unroll
            for (int i = 0; i < 80; i++) x[(79 - i) * 1024 + threadIdx.x] = sums[i];
        }
    """
    _, log = nvrtc.compile(source, (), "75")
    found = nvrtc.resources(log)
    assert found["chosen"].stack == 400
    assert found["chosen"].spills == 0
    assert found["kept"].registers == 64  # all that 1024 threads can have
    assert found["kept"].spills > 0


def test_errors_and_warnings_name_the_line() -> None:
    package = nvrtc.packages()[0]
    source = _cuda.source(package)
    line = source.splitlines()[-1]
    assert line == "}"
    broken = source.removesuffix("}\n") + "undeclared; }\n"
    family = package.rsplit(".", 1)[-1]
    with pytest.raises(nvrtc.CompileError, match=rf'{family}/cuda.cu\(\d+\): error: identifier "undeclared"'):
        nvrtc.compile(broken, _cuda.options("float32"))
    _, log = nvrtc.compile(source.removesuffix("}\n") + "int unused; }\n", _cuda.options("float32"))
    assert re.search(rf'{family}/cuda.cu\(\d+\): warning #177-D: variable "unused"', log)


def test_unknown_options_are_named() -> None:
    with pytest.raises(nvrtc.CompileError, match="--not-an-option"):
        nvrtc.compile("", ("--not-an-option",))
