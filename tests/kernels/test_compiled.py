"""Compiling and threads: parallel iterations run once each, and the cache on disk sees every edit."""

import shutil
from pathlib import Path

import numpy as np
import pytest

import ministn
from ministn.kernels.compiled import compiled, parallel_for

PACKAGE = Path(ministn.__file__).parent


@compiled
def _mark(item, times, y, bounds):
    y[item] += times * item
    bounds[0] = len(bounds)


@compiled
def _mark_all(count, times, y, bounds):
    parallel_for(_mark, count, (times, y, bounds))


@compiled
def _fail(item, y):
    if item == 3:
        raise ValueError("three")
    y[item] = 1


@compiled
def _fail_all(y):
    parallel_for(_fail, len(y), (y,))


@pytest.mark.parametrize("count", [0, 1, 2, 3, 7, 1000])
def test_each_item_runs_once(count):
    y, bounds = np.zeros(count + 1), np.zeros(2, np.int64)
    _mark_all(count, 3, y, bounds)
    np.testing.assert_array_equal(y, [*(3 * np.arange(count)), 0])
    assert bounds[0] == (2 if count else 0)


def test_an_error_in_an_iteration_is_an_error():
    with pytest.raises(RuntimeError, match="parallel_for: an iteration raised an error"):
        _fail_all(np.zeros(8))
    y = np.zeros(3)
    _fail_all(y)  # the next call starts afresh
    np.testing.assert_array_equal(y, 1)


ON_THREADS = """
import os
import sys
import numba
import numpy as np
sys.path.insert(0, os.environ["HERE"])
import test_compiled

for threads in range(1, 4):
    numba.set_num_threads(threads)
    for count in (1, 2, 5, 64):
        y = np.zeros(count + 1)
        test_compiled._mark_all(count, 3, y, np.zeros(2, np.int64))
        np.testing.assert_array_equal(y, [*(3 * np.arange(count)), 0])
print(numba.threading_layer())
"""


@pytest.mark.parametrize("layer", ["omp", "workqueue"])
def test_threading_layers(layer, run_python):
    """Numba's thread pools differ in how they hand out the work; three threads, however many processors there are."""
    environment = {"NUMBA_NUM_THREADS": "3", "NUMBA_THREADING_LAYER": layer, "HERE": str(Path(__file__).parent)}
    try:
        assert run_python(ON_THREADS, **environment) == layer
    except AssertionError as error:
        if "No threading layer could be loaded" in str(error):
            pytest.skip(f"Numba has no {layer} here")
        raise


@pytest.mark.parametrize(
    ("file", "before", "after"),
    [
        # (w + 1) x in place of w x: sums over four ones double
        ("simd.py", 'builder.fmul(x, y, flags=("contract",))', "builder.fadd(builder.fmul(x, y), y)"),
        # no item of any share is run
        ("compiled.py", "for_range_slice(builder, start, stop,", "for_range_slice(builder, stop, stop,"),
    ],
)
def test_an_edit_of_a_shared_file_is_seen_by_cached_kernels(file, before, after, tmp_path, run_python):
    code = """
import numpy as np
from ministn.kernels.conv2d import cpu
np.empty = np.zeros  # so that a result which is not written is 0
x, weight = np.ones((32, 1, 2, 2), np.float32), np.ones((1, 1, 2, 2), np.float32)
print(cpu.forward(x, weight, None, (1, 1), (0, 0), (1, 1)).max())
print(sum(cpu._forward.stats.cache_hits.values()))
"""
    shutil.copytree(PACKAGE, tmp_path / "ministn", ignore=shutil.ignore_patterns("__pycache__"))
    assert run_python(code).split() == ["4.0", "0"]
    assert run_python(code).split() == ["4.0", "1"]
    edited = tmp_path / "ministn" / "kernels" / file
    source = edited.read_text()
    assert source.count(before) == 1
    edited.write_text(source.replace(before, after))
    assert run_python(code).split() == ["8.0" if file == "simd.py" else "0.0", "0"]
