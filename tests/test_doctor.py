"""python -m ministn doctor: what it says, on this machine and on machines that lack something."""

import subprocess
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from ministn import doctor
from ministn.data import mnist


def found(what):
    """The only finding about `what`."""
    [finding] = [finding for finding in doctor.examine() if finding.what == what]
    return finding


def test_command_reports_every_part_and_succeeds_where_tests_run():
    result = subprocess.run([sys.executable, "-m", "ministn", "doctor"], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    named = [line.split("  ")[0] for line in result.stdout.splitlines() if not line.startswith(" ")]
    for what in ("ministn", "Python", "processor", "threads", "kernel cache", "MNIST", "NVIDIA driver", "CuPy"):
        assert what in named


def test_data_that_is_there_and_that_is_not(tmp_path, monkeypatch):
    monkeypatch.setenv("MINISTN_DATA", str(tmp_path))
    finding = found("MNIST")
    assert str(tmp_path) in finding.found
    assert all(name in finding.found for name in mnist.SHA256)
    assert "unset MINISTN_DATA" in finding.advice
    for name in mnist.SHA256:
        (tmp_path / name).touch()
    assert found("MNIST") == doctor.Finding("MNIST", f"the four files, in {tmp_path} (MINISTN_DATA)")


def test_nowhere_to_keep_kernels_is_fatal(monkeypatch):
    def refuse():
        raise RuntimeError("cannot cache function: no locator available for file 'cpu.py'")

    monkeypatch.setattr(doctor, "_cache_folders", refuse)
    finding = found("kernel cache")
    assert finding.fatal
    assert "NUMBA_CACHE_DIR" in finding.advice
    assert doctor.main() == 1


def test_a_check_that_fails_is_a_finding(monkeypatch):
    def broken():
        raise ImportError("libgomp.so.1: cannot open shared object file\nmore lines")
        yield

    monkeypatch.setitem(doctor._CHECKS, "threads", broken)
    finding = found("threads")
    assert finding == doctor.Finding(
        "threads", "ImportError: libgomp.so.1: cannot open shared object file", "see this error", True
    )


@pytest.mark.parametrize(("driver", "extra"), [(13000, "gpu-cuda13"), (12040, "gpu-cuda12"), (None, "gpu-cuda13")])
def test_without_cupy_the_advice_fits_the_driver(monkeypatch, driver, extra):
    monkeypatch.setattr(doctor, "_driver_version", lambda: driver)
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: None)
    assert f"ministn[{extra}]" in found("CuPy").advice
    assert found("NVIDIA driver").found == {13000: "for CUDA 13.0 or older", 12040: "for CUDA 12.4 or older"}.get(
        driver, "none"
    )


class NoDeviceError(RuntimeError):
    pass


def cupy_with(monkeypatch, devices, built_for=13000, ones=lambda *arguments: None):
    """Let `import cupy` find a module with these devices."""

    def device_count():
        if devices:
            return len(devices)
        raise NoDeviceError("cudaErrorNoDevice: no CUDA-capable device is detected")

    runtime = SimpleNamespace(
        runtimeGetVersion=lambda: built_for,
        getDeviceCount=device_count,
        getDeviceProperties=lambda number: devices[number],
        CUDARuntimeError=NoDeviceError,
    )
    cupy = ModuleType("cupy")
    cupy.__version__, cupy.cuda, cupy.ndarray = "14.2.0", SimpleNamespace(runtime=runtime), np.ndarray
    cupy.ones, cupy.matmul = ones, lambda a, b: None
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: object())


def test_devices_are_listed(monkeypatch):
    monkeypatch.setattr(doctor, "_driver_version", lambda: 13000)
    card = {"name": b"NVIDIA H100", "totalGlobalMem": 80 * 2**30, "major": 9, "minor": 0}
    cupy_with(monkeypatch, [card])
    assert found("CuPy") == doctor.Finding("CuPy", "14.2.0, for CUDA 13.0")
    assert found("GPU") == doctor.Finding("GPU", "0: NVIDIA H100, 80 GiB, compute capability 9.0")
    assert "CUDA libraries" not in [finding.what for finding in doctor.examine()]


def test_a_device_without_the_compiler(monkeypatch):
    def ones(shape, dtype):
        raise RuntimeError("CuPy failed to load libnvrtc.so.13: OSError: cannot open shared object file")

    cupy_with(monkeypatch, [{"name": b"NVIDIA H100", "totalGlobalMem": 80 * 2**30, "major": 9, "minor": 0}], ones=ones)
    finding = found("CUDA libraries")
    assert "libnvrtc.so.13" in finding.advice
    assert "ministn[gpu-cuda12]" in finding.advice
    assert not finding.fatal


def test_cupy_without_a_device_and_newer_than_the_driver(monkeypatch):
    monkeypatch.setattr(doctor, "_driver_version", lambda: 12020)
    cupy_with(monkeypatch, [])
    assert "ministn[gpu-cuda12]" in found("CuPy").advice
    assert "no CUDA-capable device" in found("GPU").found
