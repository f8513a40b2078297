"""Moving arrays between devices, and what is said where there is no GPU. What runs on one is in tests/gpu."""

from __future__ import annotations

import sys
import threading
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

import ministn
from ministn import backend, nn, optim
from ministn.autodiff import Tensor
from ministn.kernels import _cuda


@pytest.fixture(autouse=True)
def no_cupy(monkeypatch):
    """Whatever is installed: ``import cupy`` says that there is none."""
    monkeypatch.setitem(sys.modules, "cupy", None)


def cupy_that_finds(count_devices):
    """As much of CuPy as is asked for GPUs."""
    cupy = ModuleType("cupy")
    cupy.cuda = SimpleNamespace(runtime=SimpleNamespace(getDeviceCount=count_devices))
    return cupy


def raising(error: Exception):
    def function(*arguments):
        raise error

    return function


def test_an_array_stays_where_it_is():
    array = np.zeros((2, 3))
    assert backend.to_device(array, "cpu") is array
    tensor = Tensor(array, requires_grad=True)
    assert tensor.to("cpu") is tensor
    assert tensor.cpu() is tensor


def test_without_cupy_the_error_says_what_to_install():
    model = nn.Linear(2, 3)
    for move in (
        lambda: backend.to_device(np.zeros(2), "gpu"),
        lambda: Tensor([1.0]).to("gpu"),
        lambda: model.to("gpu"),
    ):
        with pytest.raises(ministn.DeviceError, match=r'the GPU needs CuPy: pip install "ministn\[gpu-cuda12\]"'):
            move()
    assert {parameter.device for parameter in model.parameters()} == {"cpu"}


def test_a_cupy_that_does_not_load_is_told_from_none(monkeypatch):
    class Broken:
        """Python's finder of modules, for a CuPy whose libraries are missing."""

        @staticmethod
        def find_spec(name, path=None, target=None):
            if name == "cupy":
                raise ImportError("libcudart.so.13: cannot open shared object file\nand much advice")

    monkeypatch.delitem(sys.modules, "cupy")
    monkeypatch.setattr(sys, "meta_path", [Broken, *sys.meta_path])
    with pytest.raises(
        ministn.DeviceError, match=r"which does not load here \(libcudart.so.13: cannot open[^\n]*\): pip"
    ):
        backend.to_device(np.zeros(2), "gpu")


@pytest.mark.parametrize(
    ("count_devices", "reason"),
    [
        (lambda: 0, "there is none"),
        (raising(RuntimeError("cudaErrorNoDevice: no CUDA-capable device is detected")), "cudaErrorNoDevice: no CUDA"),
    ],
    ids=["none", "error"],
)
def test_without_a_gpu_the_error_gives_the_reason(monkeypatch, count_devices, reason):
    monkeypatch.setitem(sys.modules, "cupy", cupy_that_finds(count_devices))
    for _ in range(2):  # a failure is not remembered as a success
        with pytest.raises(
            ministn.DeviceError, match=rf"CuPy finds no GPU \({reason}.*\); see python -m ministn doctor"
        ):
            backend.to_device(np.zeros(2), "gpu")
    with pytest.raises(ministn.DeviceError, match="CuPy finds no GPU"):
        backend.gpu_name()


def test_a_gpu_without_cudas_libraries_is_none(monkeypatch):
    """CuPy's own packages hold neither the compiler nor cuBLAS, and it says so only when it needs them."""
    cupy = cupy_that_finds(lambda: 1)
    cupy.ones = raising(RuntimeError("CuPy failed to load libnvrtc.so.12: OSError: cannot open\n\nand much advice"))
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    with pytest.raises(
        ministn.DeviceError, match=r"cannot compute on it \(CuPy failed to load libnvrtc[^\n]*pip install"
    ):
        backend.to_device(np.zeros(2), "gpu")


@pytest.mark.parametrize("device", ["cuda", "GPU", None, 0])
def test_other_names_of_devices_are_refused(device):
    for move in (lambda: backend.to_device(np.zeros(2), device), lambda: Tensor([1.0]).to(device)):
        with pytest.raises(ValueError, match=f"expected a device 'cpu' or 'gpu', got {device!r}"):
            move()


def test_there_is_nothing_to_wait_for_without_a_gpu():
    ministn.synchronize()


def test_kernels_are_deterministic_on_request():
    assert backend.deterministic() is False
    ministn.use_deterministic_kernels()
    assert backend.deterministic() is True
    ministn.use_deterministic_kernels(False)
    assert backend.deterministic() is False


def choices() -> tuple[str, bool, bool]:
    """Which kernels are chosen here, whether they must be recordable, and whether work is done at once."""
    done = []
    _cuda.before_each_run(lambda: done.append(True))
    module = backend.implementation("ministn.ops.elementwise", np.zeros(1))
    return module.__name__.rpartition(".")[-1], _cuda.must_be_recordable(), done == [True]


def test_blocks_of_threads_that_overlap():
    """This thread enters first and leaves first: neither may find, or leave behind, what the other one chose."""
    usual, chosen = ("cpu", False, True), ("reference", True, False)
    entered, left, seen = threading.Event(), threading.Event(), []

    def other():
        seen.append(choices())
        with ministn.use_kernels("reference"), _cuda.recording():
            entered.set()
            left.wait(20)
            seen.append(choices())
        seen.append(choices())

    thread = threading.Thread(target=other)
    with ministn.use_kernels("reference"), _cuda.recording():
        thread.start()
        entered.wait(20)
        assert choices() == chosen
    assert choices() == usual
    left.set()
    thread.join()
    assert seen == [usual, chosen, usual]
    assert choices() == usual


def test_a_module_on_the_cpu_keeps_its_arrays():
    model = nn.Linear(2, 3)
    arrays = [parameter.data for parameter in model.parameters()]
    assert model.to("cpu") is model
    assert all(parameter.data is array for parameter, array in zip(model.parameters(), arrays, strict=True))


def test_an_optimiser_with_an_empty_first_group_steps():
    weight = Tensor([1.0, 2.0], requires_grad=True)
    optimizer = optim.SGD([{"params": []}, {"params": [weight]}], lr=0.5, momentum=0.9)
    for _ in range(2):
        weight.grad = Tensor([1.0, 0.0])
        optimizer.step()
    np.testing.assert_allclose(weight.data, [1 - 0.5 - 0.5 * 1.9, 2], rtol=1e-6)  # b = 1, then 0.9 + 1
