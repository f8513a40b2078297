"""Samples of the runs of examples/reliability, whose full figures are in docs/reliability.md."""

import json
import os
import subprocess
import sys
from pathlib import Path

import fuzz_numbers
import fuzz_shapes
import memory
import numpy as np
import pytest

import ministn.functional as F
from ministn import Tensor, nn
from ministn.ops import _METHODS

# --- bad shapes -------------------------------------------------------------------------------------------------------


def test_every_function_is_in_the_table():
    assert set(fuzz_shapes.FUNCTIONAL) == set(F.__all__)
    tried = {name.removeprefix("Tensor.") for name in fuzz_shapes.METHODS} | set(F.__all__)
    others = {
        "__radd__",
        "__rsub__",
        "__rmul__",
        "__rtruediv__",
        "__neg__",
        "__matmul__",
        "view",
        "T",
        "cpu",
    }  # the same
    assert set(_METHODS) - tried == others
    layers = {name.removeprefix("nn.") for name in fuzz_shapes.MODULES}
    for kind in (nn.Linear, nn.Conv2d, nn.ConvTranspose2d, nn.MaxPool2d, nn.AvgPool2d, nn.BatchNorm2d, nn.Dropout):
        assert kind.__name__ in layers


@pytest.mark.parametrize("name", fuzz_shapes.CASES)
def test_calls_match_pytorch_or_say_what_is_wrong(name):
    pytest.importorskip("torch", reason="needs PyTorch to compare with")
    assert fuzz_shapes.fuzz([name], calls=16, seed=5000)[name]["wrong"] == []


@pytest.mark.slow
@pytest.mark.parametrize("name", fuzz_shapes.CASES)
def test_many_calls(name):
    pytest.importorskip("torch", reason="needs PyTorch to compare with")
    assert fuzz_shapes.fuzz([name], calls=200, seed=10_000)[name]["wrong"] == []


def test_the_comparison_sees_a_wrong_value_and_an_unclear_error(monkeypatch):
    pytest.importorskip("torch", reason="needs PyTorch to compare with")
    calls = {"function": lambda x: x * 2}
    case = lambda d: fuzz_shapes.Call(calls["function"], {"x": d.tensor(2)}, lambda x: x + x)  # noqa: E731
    monkeypatch.setitem(fuzz_shapes.CASES, "double", case)
    assert fuzz_shapes.outcome("double", 0).kind == "same"
    calls["function"] = lambda x: x * 2.001
    assert fuzz_shapes.outcome("double", 0).kind == "differs"
    calls["function"] = lambda x: x.data.nothing
    assert fuzz_shapes.outcome("double", 0).kind == "another error"

    def refuse(x):
        raise ValueError("double: expected something else, got this")

    calls["function"] = refuse
    assert fuzz_shapes.outcome("double", 0).kind == "refused what is right"


@pytest.mark.parametrize("layout", fuzz_shapes.LAYOUTS)
def test_layouts_have_the_same_values(layout):
    for shape in ((), (5,), (2, 0, 3), (2, 3, 4)):
        values = np.random.default_rng(0).standard_normal(shape)
        laid_out = fuzz_shapes.laid_out(np.asarray(values), layout)
        assert laid_out.shape == shape
        np.testing.assert_array_equal(laid_out, values)
    assert laid_out.flags.writeable == (layout != "read-only")
    assert laid_out.flags.aligned == (layout != "unaligned")
    assert laid_out.flags.c_contiguous == (layout in ("C", "read-only", "big-endian", "unaligned"))


@pytest.mark.parametrize(("function", "dim"), [(F.softmax, -1), (F.log_softmax, 0)])
@pytest.mark.parametrize("shape", [(0, 3), (3, 0)])
def test_softmax_of_nothing(function, dim, shape):
    x = Tensor(np.zeros(shape, np.float32), requires_grad=True)
    y = function(x, dim)
    y.backward(np.zeros(shape, np.float32))
    assert y.shape == x.grad.shape == shape


# --- bad numbers ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def guard(tmp_path_factory):
    library = fuzz_numbers.compiled_guard(tmp_path_factory.mktemp("guard"))
    if library is None:
        pytest.skip("needs Linux and a C compiler")
    return library


@pytest.mark.parametrize(("side", "index", "dies"), [(1, 64, True), (-1, -1, True), (1, 63, False), (-1, 0, False)])
def test_a_read_beyond_an_array_is_seen(guard, side, index, dies):
    """The test of the test: one number behind the end, or before the beginning, with the guard on that side."""
    code = (
        "import ctypes, numpy as np\n"
        f"ctypes.CDLL(None).guard({side}); x = np.ones(64); ctypes.CDLL(None).guard(0)\n"
        f"print(ctypes.c_double.from_address(x.ctypes.data + 8 * {index}).value)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], env={"LD_PRELOAD": str(guard)}, capture_output=True, text=True
    )
    assert (result.returncode == -11) == dies
    assert result.stdout == ("" if dies else "1.0\n")


@pytest.mark.slow
def test_no_grid_reads_outside():
    found = fuzz_numbers.fuzz(20_000, seed=2)
    assert found["grids"] >= 20_000


# --- memory -----------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_does_not_grow():
    """With the garbage collector off, after the first steps no object is added, and not a megabyte.

    In a process of its own: what other tests have left, such as a thread, may add an object at any moment. A leak of
    one object an epoch (of ten steps) would add eight from the second look to the last.
    """
    code = "import json, memory; print(json.dumps(memory.growth(120, every=20)))"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(memory.__file__).parent), *sys.path])}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    found = json.loads(result.stdout)
    assert found["objects"][-1] - found["objects"][1] < 8
    assert found["megabytes"][-1] - found["megabytes"][1] < 1


@pytest.mark.slow
def test_peak_of_the_default_training(tmp_path, mnist_folder):
    """Stated in docs/reliability.md. The images of MNIST are 55 MB of it, NumPy, Numba and Matplotlib 200 MB."""
    options = "--epochs", "1", "--data-dir", str(mnist_folder)
    assert memory.peak_of_default_training(tmp_path / "run", *options) < 500
