"""The CUDA emulator: what a kernel computes on it, and which mistakes it finds."""

from __future__ import annotations

import cuda_emulator
import numpy as np
import pytest

try:
    cuda_emulator.find_compiler()
except cuda_emulator.NoCompilerError as error:
    pytest.skip(str(error), allow_module_level=True)

ORDERS = [0, 1, 2, 3]  # ascending, descending, two random ones


def build(source: str, *options: str, sanitizer: str | None = None) -> dict[str, cuda_emulator.Kernel]:
    return cuda_emulator.build(source, options, sanitizer, name="test.cu")


@pytest.mark.parametrize("order", ORDERS)
def test_every_thread_runs_once_and_knows_its_indices(order):
    kernel = build("""
extern "C" __global__ void indices(int* runs, unsigned* seen) {
    unsigned block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
    unsigned thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
    unsigned i = block * blockDim.x * blockDim.y * blockDim.z + thread;
    runs[i] += 1;
    seen[i] = (blockIdx.z * 100 + blockIdx.y * 10 + blockIdx.x) * 1000 + threadIdx.z * 100 + threadIdx.y * 10 + threadIdx.x;
}""")["indices"]
    grid, block = (2, 3, 4), (5, 2, 3)
    runs, seen = np.zeros((24, 30), np.int32), np.zeros((24, 30), np.uint32)
    kernel(grid, block, runs, seen, order=order)
    assert np.all(runs == 1)
    z, y, x = np.indices(grid[::-1])
    w, v, u = np.indices(block[::-1])
    expected = (z * 100 + y * 10 + x).reshape(-1, 1) * 1000 + (w * 100 + v * 10 + u).reshape(1, -1)
    np.testing.assert_array_equal(seen, expected)


def test_shared_memory_starts_as_nan():
    kernel = build("""
extern "C" __global__ void untouched(float* y, double* z, int* k) {
    __shared__ float a[2][3], b; __shared__ double c[4];
    extern __shared__ int d[];
    y[0] = a[1][2]; y[1] = b; z[0] = c[3]; k[0] = d[7];
    a[1][2] = b = c[3] = d[7] = 5;
}""")["untouched"]
    y, z, k = np.zeros(2, np.float32), np.zeros(1), np.zeros(1, np.int32)
    kernel(2, 1, y, z, k, shared=32)  # the second block does not see what the first has left
    assert np.isnan(y).all()
    assert np.isnan(z).all()
    assert k[0] == -1


def test_parameters_may_be_a_macro():
    kernel = build("""
#define SIZES int rows, \\
    int columns
extern "C" __global__ void fill(float* y, SIZES) { if (threadIdx.x < rows * columns) y[threadIdx.x] = 1; }""")["fill"]
    assert kernel.parameters == ("y", "rows", "columns")
    y = np.zeros(8, np.float32)
    kernel(1, 8, y, 2, 3)
    np.testing.assert_array_equal(y, [1] * 6 + [0] * 2)
