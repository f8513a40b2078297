"""What ministn finds on this machine, and what to install or set for what is missing: ``python -m ministn doctor``."""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import importlib
import importlib.util
import os
import platform
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple


class Finding(NamedTuple):
    """One line of the report.

    Parameters
    ----------
    what : str
        What was looked at.
    found : str
    advice : str
        What to do about it; empty if there is nothing to do.
    fatal : bool
        Whether ministn cannot train here, on the CPU, until that is done.
    """

    what: str
    found: str
    advice: str = ""
    fatal: bool = False


def examine() -> list[Finding]:
    """Look at everything. A check that itself goes wrong is a finding, too."""
    findings: list[Finding] = []
    for what, check in _CHECKS.items():
        try:
            findings.extend(check())
        except Exception as error:  # whatever a broken installation may raise: say it, and go on to the next check
            first_line = str(error).partition("\n")[0]
            findings.append(Finding(what, f"{type(error).__name__}: {first_line}", "see this error", fatal=True))
    return findings


def report(findings: list[Finding]) -> str:
    """The findings as lines of text, advice below what it is about."""
    width = max(len(finding.what) for finding in findings)
    lines = []
    for finding in findings:
        lines.append(f"{finding.what:{width}}  {finding.found}")
        if finding.advice:
            lines.append(f"{'':{width}}  -> {finding.advice}")
    return "\n".join(lines)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command takes none."""


def main(options: argparse.Namespace | None = None) -> int:
    """Print the report; 0 if ministn can train on this machine's CPU, 1 if something has to be done first."""
    findings = examine()
    print(report(findings))
    return int(any(finding.fatal for finding in findings))


# --- the checks -------------------------------------------------------------------------------------------------------


def _versions() -> Iterator[Finding]:
    import numpy

    import ministn

    numba = importlib.import_module("numba")
    yield Finding("ministn", f"{ministn.__version__}, in {Path(ministn.__file__).parent}")
    yield Finding("Python", f"{platform.python_version()}, NumPy {numpy.__version__}, Numba {numba.__version__}")


def _processor() -> Iterator[Finding]:
    from ministn.kernels.simd import register_shape
    from ministn.records import environment

    size, count = register_shape()
    yield Finding("processor", f"{environment()['processor']}; {count} vector registers of {size // 4} floats")


def _threads() -> Iterator[Finding]:
    from ministn.backend import get_num_threads

    importlib.import_module("ministn.kernels.compiled")  # starts the threads
    layer = importlib.import_module("numba").threading_layer()
    slow = layer == "workqueue"
    advice = "OpenMP (libgomp) or TBB starts parallel loops several times faster: install one of them" if slow else ""
    yield Finding("threads", f"{get_num_threads()} of {os.cpu_count()} processors, threading layer {layer}", advice)


def _kernel_cache() -> Iterator[Finding]:
    try:
        folders = {Path(path) for path in _cache_folders()}
    except RuntimeError as error:
        if "no locator available" not in str(error):
            raise
        advice = "name a folder in the environment variable NUMBA_CACHE_DIR"
        yield Finding("kernel cache", "no folder to write to: Numba would refuse to compile", advice, fatal=True)
        return
    files = [file for folder in folders if folder.is_dir() for file in folder.glob("*.nbc")]
    where = os.path.commonpath([str(folder) for folder in folders])
    if files:
        megabytes = sum(file.stat().st_size for file in files) / 1e6
        yield Finding("kernel cache", f"{len(files)} compiled functions, {megabytes:.1f} MB, below {where}")
    else:
        yield Finding("kernel cache", f"empty, below {where}: the first training compiles for some seconds")


def _cache_folders() -> Iterator[str]:
    """Where Numba keeps the compiled functions of each family."""
    for path in sorted(Path(__file__).parent.glob("*/*/cpu.py")):
        module = importlib.import_module(f"ministn.{path.parent.parent.name}.{path.parent.name}.cpu")
        for value in vars(module).values():
            if hasattr(value, "py_func"):
                yield value._cache.cache_path


def _data() -> Iterator[Finding]:
    from ministn.data import mnist

    given = mnist.user_folder()
    folder = mnist.cache_folder() if given is None else given
    missing = [name for name in mnist.SHA256 if not _there(folder, name)]
    if not missing:
        yield Finding("MNIST", f"the four files, in {folder}{'' if given is None else ' (MINISTN_DATA)'}")
    elif given is None:
        yield Finding("MNIST", f"not in {folder}: fetched (11 MB) by the first training")
    else:
        advice = "put the four files there, or unset MINISTN_DATA to have them fetched"
        yield Finding("MNIST", f"MINISTN_DATA is {folder}, which lacks {', '.join(missing)}", advice)


def _there(folder: Path, name: str) -> bool:
    from ministn.data import DataError, mnist

    try:
        mnist._find(folder, name)
    except (DataError, OSError):
        return False
    return True


def _gpu() -> Iterator[Finding]:
    from ministn.backend import DeviceError, cupy_with_gpu

    driver = _driver_version()
    if driver is None:
        yield Finding("NVIDIA driver", "none", "for --device gpu only: needs an NVIDIA GPU and its driver")
    else:
        yield Finding("NVIDIA driver", f"for CUDA {_cuda(driver)} or older")
    extra = "gpu-cuda13" if (driver or 13000) >= 13000 else "gpu-cuda12"
    if importlib.util.find_spec("cupy") is None:
        yield Finding("CuPy", "not installed", f'for --device gpu only: python -m pip install "ministn[{extra}]"')
        return
    cupy = importlib.import_module("cupy")
    runtime = cupy.cuda.runtime
    built_for = runtime.runtimeGetVersion()
    too_new = driver is not None and built_for // 1000 > driver // 1000
    advice = f'newer than the driver: python -m pip install "ministn[{extra}]" in its place' if too_new else ""
    yield Finding("CuPy", f"{cupy.__version__}, for CUDA {_cuda(built_for)}", advice)
    try:
        count = runtime.getDeviceCount()
    except runtime.CUDARuntimeError as error:
        yield Finding("GPU", f"none that CuPy can use ({error})")
        return
    for number in range(count):
        properties = runtime.getDeviceProperties(number)
        name, memory = properties["name"].decode(), properties["totalGlobalMem"] / 2**30
        capability = f"{properties['major']}.{properties['minor']}"
        yield Finding("GPU", f"{number}: {name}, {memory:.0f} GiB, compute capability {capability}")
    try:
        cupy_with_gpu()
    except DeviceError as error:
        yield Finding("CUDA libraries", "not all that CuPy needs", str(error))


def _driver_version() -> int | None:
    """The newest CUDA that the driver can run, as 1000 major + 10 minor; None without a driver."""
    for name in ("libcuda.so.1", "nvcuda.dll"):
        with contextlib.suppress(OSError):
            library, version = ctypes.CDLL(name), ctypes.c_int()
            if library.cuDriverGetVersion(ctypes.byref(version)) == 0:
                return version.value
    return None


def _cuda(version: int) -> str:
    return f"{version // 1000}.{version % 1000 // 10}"


_CHECKS: dict[str, Callable[[], Iterator[Finding]]] = {
    "versions": _versions,
    "processor": _processor,
    "threads": _threads,
    "kernel cache": _kernel_cache,
    "MNIST": _data,
    "GPU": _gpu,
}
