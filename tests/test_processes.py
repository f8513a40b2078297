"""The engine in several Python threads, in forked and spawned processes, and with a kernel cache that is of no use."""

import os
import pickle
import subprocess
import sys

import pytest

# What a worker of a data loader might do: the sampler and a convolution, forward and backward.
WORK = """
import multiprocessing, sys, threading
import numpy as np
import ministn
import ministn.functional as F
from ministn import Tensor

def work(seed):
    random = np.random.default_rng(seed)
    shapes = (32, 2, 9, 8), (32, 2, 3), (4, 2, 3, 3)
    x, theta, weight = (Tensor(random.standard_normal(shape).astype(np.float32), True) for shape in shapes)
    total = 0.0
    for _ in range(5):
        y = F.conv2d(F.spatial_transform(x, theta), weight)
        y.sum().backward()
        total += float(y.data.sum()) + float(theta.grad.data.sum()) + float(weight.grad.data.sum())
    return total
"""

THREADS = """
expected = [work(seed) for seed in range(4)]
results = {}
threads = [threading.Thread(target=lambda seed=seed: results.update({seed: work(seed)})) for seed in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
assert [results.get(seed) for seed in range(4)] == expected, (results, expected)
print("same")
"""

PROCESSES = """
if __name__ == "__main__":
    expected = [work(seed) for seed in range(2)]
    with multiprocessing.get_context(sys.argv[1]).Pool(2) as pool:
        assert pool.map_async(work, range(2)).get(timeout=300) == expected  # a worker that dies would be waited for
    assert work(0) == expected[0]
    print("same")
"""

CACHED = """
import warnings
warnings.simplefilter("error")
from ministn.kernels.affine_grid import cpu
y = cpu.forward(np.ones((1, 2, 3), np.float32), 2, 2, False)
print(y.sum(), sum(cpu._forward.stats.cache_hits.values()))
"""


@pytest.fixture
def run_work(run_python, tmp_path):
    """`run_work(code, *arguments, **environment)`: a module of WORK and `code`, run as a script."""

    def run(code, *arguments, **environment):
        (tmp_path / "worker.py").write_text(WORK + code)
        start = f"import runpy, sys; sys.argv = ['worker.py', *{arguments}]; "
        return run_python(
            start + "runpy.run_path('worker.py', run_name='__main__')", **{"NUMBA_NUM_THREADS": "3", **environment}
        )

    return run


@pytest.mark.slow
@pytest.mark.parametrize("layer", ["omp", "workqueue"])
def test_several_python_threads(layer, run_work):
    """The workqueue ends the process if two of them use it at once, so only one may."""
    assert run_work(THREADS, NUMBA_THREADING_LAYER=layer) == "same"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="there is no fork")
@pytest.mark.parametrize("layer", ["omp", "workqueue"])
def test_after_fork(layer, run_work):
    """OpenMP ends a forked process that uses it after its parent did, so none does; and the parent goes on."""
    assert run_work(PROCESSES, "fork", NUMBA_THREADING_LAYER=layer) == "same"


@pytest.mark.slow
def test_after_spawn(run_python, tmp_path):
    """With one thread, as a worker beside others would have."""
    (tmp_path / "worker.py").write_text(WORK + PROCESSES)
    start = "import subprocess, sys; subprocess.run([sys.executable, 'worker.py', 'spawn'], check=True)"
    assert run_python(start, NUMBA_NUM_THREADS="1") == "same"


def test_a_damaged_kernel_cache_is_compiled_anew(run_python, tmp_path):
    code = "import numpy as np" + CACHED
    assert run_python(code) == "8.0 0"
    assert run_python(code) == "8.0 1"
    for suffix in ("nbi", "nbc"):
        files = list((tmp_path / "cache").rglob(f"*.{suffix}"))
        assert files
        for file in files:
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
        assert run_python(code) == "8.0 0"
        assert run_python(code) == "8.0 1"


def test_the_kernel_cache_of_another_numba_is_compiled_anew(run_python, tmp_path):
    code = "import numpy as np" + CACHED
    assert run_python(code) == "8.0 0"
    for index in (tmp_path / "cache").rglob("*.nbi"):
        index.write_bytes(pickle.dumps("0.1.0") + b"in some other format")
    assert run_python(code) == "8.0 0"
    assert run_python(code) == "8.0 1"


def test_code_for_other_types_in_the_kernel_cache_is_not_run(run_python, tmp_path):
    """Two processes that save at the same moment may give it the same number."""
    code = """
import numpy as np
from ministn.kernels.affine_grid import cpu
for dtype in (np.float32, np.float64):
    y = cpu.forward(np.ones((1, 2, 3), dtype), 2, 2, False)
    print(y.dtype, y.sum(), end=" ")
print(sum(cpu._forward.stats.cache_hits.values()))
"""
    assert run_python(code) == "float32 8.0 float64 8.0 0"
    assert run_python(code) == "float32 8.0 float64 8.0 2"
    firsts = list((tmp_path / "cache").rglob("*.1.nbc"))
    assert len(firsts) == 2
    for first in firsts:
        second = first.with_name(first.name.replace(".1.nbc", ".2.nbc"))
        contents = first.read_bytes(), second.read_bytes()
        second.write_bytes(contents[0])
        first.write_bytes(contents[1])
    assert run_python(code) == "float32 8.0 float64 8.0 0"
    assert run_python(code) == "float32 8.0 float64 8.0 2"


SAMPLE = """
import sys
import numpy as np
from ministn.kernels.grid_sample import cpu
mode, dtype = sys.argv[1:]
random = np.random.default_rng(0)
image, grid = random.random((1, 1, 9, 9)).astype(dtype), 2 * random.random((1, 4, 4, 2)).astype(dtype) - 1
print(round(float(cpu.forward(image, grid, mode, "zeros", False).sum()), 4))
"""


@pytest.mark.slow
def test_processes_that_share_an_empty_kernel_cache(tmp_path):
    """All compile the same functions at the same time, for different types of arguments."""
    ways = [(mode, dtype) for mode in ("bilinear", "bicubic") for dtype in ("float32", "float64")] * 2

    def outputs(cache):
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "NUMBA_CACHE_DIR": str(cache)}
        started = [
            subprocess.Popen([sys.executable, "-c", SAMPLE, *way], stdout=subprocess.PIPE, env=environment, text=True)
            for way in ways
        ]
        return [process.communicate()[0] for process in started]

    first = outputs(tmp_path / "cache")
    assert first[:4] == first[4:]
    assert first[0] == first[1] != first[2] == first[3] != ""  # the types differ by less than is printed
    assert outputs(tmp_path / "cache") == first


def test_without_a_folder_for_the_kernel_cache(run_python):
    """As in a read-only container without a home; and where a folder stops being one that can be written to."""
    no_folder = """
import numpy as np
from numba.core.caching import FunctionCache
FunctionCache._impl_class._locator_classes = []
"""
    with pytest.raises(AssertionError, match="no folder for compiled kernels can be written to"):
        run_python(no_folder + CACHED)
    assert run_python(no_folder + CACHED.replace('"error"', '"ignore"')) == "8.0 0"
    full_disk = """
import numpy as np
from numba.core.caching import FunctionCache
def save(*arguments): raise OSError(28, "No space left on device")
FunctionCache._save_overload = save
"""
    assert run_python(full_disk + CACHED) == "8.0 0"
