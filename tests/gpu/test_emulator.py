"""The CUDA emulator: what kernels compute on it, and which mistakes it finds."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import cuda_emulator
import numpy as np
import pytest
import step_through_a_kernel
from cuda_emulator import sanitizers, translate
from cuda_emulator.trace import trace

try:
    cuda_emulator.find_compiler()
except cuda_emulator.NoCompilerError as error:
    pytest.skip(str(error), allow_module_level=True)

EXAMPLES = str(Path(cuda_emulator.__file__).parents[1])
ORDERS = [0, 1, 2, 3]  # ascending, descending, two random ones


def build(source: str, *options: str, sanitizer: str | None = None) -> dict[str, cuda_emulator.Kernel]:
    return cuda_emulator.build(source, options, sanitizer, name="test.cu")


# ---- What kernels compute --------------------------------------------------------------------------------------------

KERNELS = r"""
typedef float number;
const int ROWS = 2;
#define COLUMNS 3

extern "C" __global__ void indices(int* runs, unsigned* seen) {
    unsigned block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
    unsigned thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
    unsigned i = block * blockDim.x * blockDim.y * blockDim.z + thread;
    runs[i] += 1;
    seen[i] = (blockIdx.z * 100 + blockIdx.y * 10 + blockIdx.x) * 1000 +
        threadIdx.z * 100 + threadIdx.y * 10 + threadIdx.x;
}

// __shared__ float in_a_comment[1];
extern "C" __global__ void untouched(float* y, double* z, int* k) {
    __shared__ float a[2][3], b; __shared__ double c[4];
    extern __shared__ int d[];
    y[0] = a[1][2]; y[1] = b; z[0] = c[3]; k[0] = d[7];
    a[1][2] = b = c[3] = d[7] = 5;
}

template <class T, int N>
struct Pair { T values[N]; };

template <class T>
__device__ T left_neighbour(T value) {  // each type has a room of its own
    __shared__ T room[64];
    room[threadIdx.x] = value;
    __syncthreads();
    T result = room[(threadIdx.x + blockDim.x - 1) % blockDim.x];
    __syncthreads();
    return result;
}

extern "C" __global__ void __launch_bounds__(64) shared_variables(float* y, int* k, const float* __restrict__ x) {
    __shared__ __align__(16) number tile[ROWS][COLUMNS + 1], row[ROWS * COLUMNS];
    __shared__ Pair<float, 2>
        pairs[4];
    __shared__ float4 vector;
    __shared__ volatile int count;
    extern __shared__ float dynamic[];
    int t = threadIdx.x;
    if (t < 8) tile[t / 4][t % 4] = x[t];
    if (t < 6) row[t] = x[8 + t];
    if (t < 4) pairs[t].values[1] = x[t];
    if (t == 0) { vector = make_float4(x[0], x[1], x[2], x[3]); count = 0; }
    dynamic[t] = left_neighbour(x[t]);
    __syncthreads();
    if (t == 0) {
        y[0] = tile[1][2]; y[1] = row[5]; y[2] = pairs[3].values[1]; y[3] = vector.z; y[4] = dynamic[5];
        k[0] = sizeof(tile); k[1] = sizeof(row); k[2] = __LINE__; k[3] = count;
    }
    k[4 + t] = left_neighbour(t) + int(left_neighbour(float(t)));
}

extern "C" __global__ void block_votes(int* y, int threshold) {
    int t = threadIdx.x;
    y[3 * t] = __syncthreads_count(t < threshold);
    y[3 * t + 1] = __syncthreads_and(t < threshold);
    y[3 * t + 2] = __syncthreads_or(t > threshold);
}

extern "C" __global__ void shuffles(int* y, int width) {
    int t = threadIdx.x, v = 10 * t + 7;
    y[5 * t] = __shfl_sync(0xffffffffu, v, t + 3, width);
    y[5 * t + 1] = __shfl_up_sync(0xffffffffu, v, 2, width);
    y[5 * t + 2] = __shfl_down_sync(0xffffffffu, v, 2, width);
    y[5 * t + 3] = __shfl_xor_sync(0xffffffffu, v, 5, width);
    y[5 * t + 4] = int(__shfl_xor_sync(0xffffffffu, v + 0.25, 1) * 4);
}

extern "C" __global__ void warp_votes(unsigned* y) {
    int t = threadIdx.x;
    y[4 * t] = __ballot_sync(0xffffffffu, t % 3 == 0);
    y[4 * t + 1] = __any_sync(0xffffffffu, t == 40);
    y[4 * t + 2] = __all_sync(0xffffffffu, t < 40);
    // The halves of a warp in different branches, each with a mask of its own.
    if (t % 32 < 16) y[4 * t + 3] = __ballot_sync(0x0000ffffu, 1);
    else { __syncwarp(0xffff0000u); y[4 * t + 3] = __ballot_sync(0xffff0000u, t % 2); }
}

extern "C" __global__ void atomics(int* i, unsigned* u, unsigned long long* l, long long* s, float* f, double* d) {
    int t = threadIdx.x;
    atomicAdd(&i[0], t); atomicSub(&i[1], t); atomicMax(&i[2], t); atomicMin(&i[3], -t); atomicExch(&i[4], 5);
    atomicAdd(&u[0], t); atomicOr(&u[1], 1u << t); atomicAnd(&u[2], ~(1u << t)); atomicXor(&u[3], 1u << t);
    atomicMax(&u[4], t); atomicSub(&u[5], 1);
    atomicAdd(&l[0], 1ull << 40); atomicMin(&l[1], 100ull + t); atomicExch(&l[2], 1ull << 50);
    atomicCAS(&l[3], 3ull, 4ull);
    atomicMax(&s[0], -5ll - t); atomicMin(&s[1], -5ll - t);
    atomicAdd(&f[0], 0.5f); atomicExch(&f[1], 2);
    atomicAdd(&d[0], 0.25);
    int before = i[5];  // a maximum of floating-point numbers, by compare and swap
    do { i[6] = before; before = atomicCAS(&i[5], before, max(before, t)); } while (before != i[6]);
}

extern "C" __global__ void integers(int* y, unsigned long long* z, int a, long long b) {
    y[0] = __popc(a); y[1] = __clz(a); y[2] = __ffs(a); y[3] = __clz(0); y[4] = __ffs(0); y[5] = __popcll(b);
    y[6] = min(a, 7); y[7] = max(a, 7); y[8] = __float_as_int(1.0f); y[9] = __umulhi(1u << 31, 6u);
    z[0] = __umul64hi(1ull << 63, 6ull); z[1] = max(b, 5ll);
}

template <class T>
__device__ void real_numbers(T* y, const T* x) {
    y[0] = fma(x[0], x[1], x[2]); y[1] = floor(x[3]); y[2] = rint(x[4]); y[3] = min(x[0], x[5]); y[4] = max(x[5], x[0]);
    y[5] = isnan(x[5]) + 2 * isnan(x[0]) + 4 * isfinite(x[0]) + 8 * isfinite(x[5]);
    y[6] = rsqrt(x[6]); y[7] = sqrt(x[6]);
    y[8] = fabs(x[3]); y[9] = exp(x[0]); y[10] = __ldg(x + 1); y[11] = copysign(x[0], x[3]); y[12] = fmin(x[0], x[1]);
}
extern "C" __global__ void real32(float* y, const float* x) {
    real_numbers(y, x);
    y[13] = fmaf(x[0], x[1], x[2]) + floorf(x[3]) + rintf(x[4]) + fabsf(x[3]) + __saturatef(x[3]) + __int_as_float(0);
    float2 p = make_float2(x[0], x[1]);
    y[14] = p.y; y[15] = reinterpret_cast<const float4*>(x)->z;
}
extern "C" __global__ void real64(double* y, const double* x) { real_numbers(y, x); }

extern "C" __global__ void fused(float* y, float a, float rounded) { y[0] = a * a - rounded; }

extern "C" __global__ void tiny(float* y, const float* x) { y[0] = x[0] * 0.5f; y[1] = x[1] * 2.0f; }

extern "C" __global__ void last_one_wins(int* y) { y[0] = threadIdx.x + 100 * blockIdx.x; }

extern "C" __global__ void types(
    bool b, signed char c, unsigned short s, long long l, double d, const int* p, unsigned char* q, float2 v,
    const void* w) {}

extern "C" __global__ void count_blocks(int* y) { atomicAdd(&y[blockIdx.x], 1); }

extern "C" __global__ void fill(float* y, long long count) {
    long long first = (long long)blockIdx.x * blockDim.x + threadIdx.x, step = (long long)gridDim.x * blockDim.x;
    for (long long i = first; i < count; i += step)
        y[i] = i % 1000;
}
extern "C" __global__ void fill_wrongly(float* y, long long count) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= 0 && i < count) y[i] = i % 1000;
}
"""


@pytest.fixture(scope="module")
def kernels() -> dict[str, cuda_emulator.Kernel]:
    return build(KERNELS)


@pytest.mark.parametrize("order", ORDERS)
def test_every_thread_runs_once_and_knows_its_indices(kernels, order):
    grid, block = (2, 3, 4), (5, 2, 3)
    runs, seen = np.zeros((24, 30), np.int32), np.zeros((24, 30), np.uint32)
    kernels["indices"](grid, block, runs, seen, order=order)
    assert np.all(runs == 1)
    z, y, x = np.indices(grid[::-1])
    w, v, u = np.indices(block[::-1])
    expected = (z * 100 + y * 10 + x).reshape(-1, 1) * 1000 + (w * 100 + v * 10 + u).reshape(1, -1)
    np.testing.assert_array_equal(seen, expected)


def test_shared_memory_starts_as_nan(kernels):
    y, z, k = np.zeros(2, np.float32), np.zeros(1), np.zeros(1, np.int32)
    kernels["untouched"](2, 1, y, z, k, shared=32)  # the second block does not see what the first has left
    assert np.isnan(y).all()
    assert np.isnan(z).all()
    assert k[0] == -1


@pytest.mark.parametrize("order", ORDERS)
def test_declarations_of_shared_memory(kernels, order):
    x, y, k = np.arange(100, 164, dtype=np.float32), np.zeros(5, np.float32), np.zeros(68, np.int32)
    kernels["shared_variables"](1, 64, y, k, x, shared=256, order=order)
    np.testing.assert_array_equal(y, [106, 113, 103, 102, 104])
    line = KERNELS[: KERNELS.index("__LINE__")].count("\n") + 1
    np.testing.assert_array_equal(k[:4], [2 * 4 * 4, 6 * 4, line, 0])
    np.testing.assert_array_equal(k[4:], 2 * ((np.arange(64) - 1) % 64))


@pytest.mark.parametrize("order", ORDERS)
def test_votes_of_a_block(kernels, order):
    y = np.zeros((40, 3), np.int32)
    kernels["block_votes"](1, 40, y, 39, order=order)
    np.testing.assert_array_equal(y, [[39, 0, 0]] * 40)
    kernels["block_votes"](1, 40, y, 40, order=order)
    np.testing.assert_array_equal(y, [[40, 1, 0]] * 40)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("width", [32, 8])
def test_shuffles(kernels, width, order):
    y = np.zeros((64, 5), np.int32)
    kernels["shuffles"](1, 64, y, width, order=order)
    for t in range(64):
        start = t // width * width  # of the lanes that shuffle among themselves
        from_xor = t ^ 5
        sources = [
            start + (t + 3) % width,
            t - 2 if t - 2 >= start else t,
            t + 2 if t + 2 < start + width else t,
            from_xor,
        ]
        np.testing.assert_array_equal(y[t, :4], [10 * source + 7 for source in sources])
        assert y[t, 4] == 4 * (10 * (t ^ 1) + 7) + 1


@pytest.mark.parametrize("order", ORDERS)
def test_votes_of_a_warp(kernels, order):
    y = np.zeros((64, 4), np.uint32)
    kernels["warp_votes"](1, 64, y, order=order)
    ballots = [sum(1 << lane for lane in range(32) if (32 * warp + lane) % 3 == 0) for warp in range(2)]
    for t in range(64):
        half = 0x0000FFFF if t % 32 < 16 else 0xAAAA0000
        np.testing.assert_array_equal(y[t], [ballots[t // 32], t >= 32, t < 32, half])


@pytest.mark.parametrize("order", ORDERS)
def test_atomics(kernels, order):
    i, u = np.array([0, 0, 0, 0, 0, 0, 0], np.int32), np.array([0, 0, 2**32 - 1, 0, 0, 31], np.uint32)
    ul, s = np.array([0, 2**60, 0, 3], np.uint64), np.array([-100, 100], np.int64)
    f, d = np.zeros(2, np.float32), np.zeros(1)
    kernels["atomics"](1, 32, i, u, ul, s, f, d, order=order)
    total = 31 * 32 // 2
    np.testing.assert_array_equal(i[:6], [total, -total, 31, -31, 5, 31])
    np.testing.assert_array_equal(u, [total, 2**32 - 1, 0, 2**32 - 1, 31, 2**32 - 1])
    np.testing.assert_array_equal(ul, [32 << 40, 100, 1 << 50, 4])
    np.testing.assert_array_equal(s, [-5, -36])
    np.testing.assert_array_equal(f, [16, 2])
    assert d[0] == 8


def test_integer_functions(kernels):
    y, z = np.zeros(10, np.int32), np.zeros(2, np.uint64)
    kernels["integers"](1, 1, y, z, 0b101000, 2**40 + 1)
    np.testing.assert_array_equal(y, [2, 26, 4, 32, 0, 2, 7, 40, 0x3F800000, 3])
    np.testing.assert_array_equal(z, [3, 2**40 + 1])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_functions_of_real_numbers(kernels, dtype):
    x = np.array([1.5, 2, 0.25, -3.5, 2.5, np.nan, 4, 0], dtype)
    y = np.zeros(16, dtype)
    kernels["real32" if dtype == np.float32 else "real64"](1, 1, y, x)
    np.testing.assert_allclose(
        y[:13],
        [3.25, -4, 2, 1.5, 1.5, 1 + 4, 0.5, 2, 3.5, np.exp(1.5), 2, -1.5, 1.5],
        rtol=4 * np.finfo(dtype).eps,  # of exp
    )
    if dtype == np.float32:
        np.testing.assert_array_equal(y[13:], [3.25 - 4 + 2 + 3.5, 2, 0.25])


def test_products_are_fused_as_by_nvrtc_unless_told_not_to(kernels):
    if " fma" not in Path("/proc/cpuinfo").read_text():
        pytest.skip("this processor has no fused multiply-add")
    a = np.float32(1 + 2**-23)  # its square, 1 + 2**-22 + 2**-46, needs more than 24 bits
    y = np.zeros(1, np.float32)
    kernels["fused"](1, 1, y, a, a * a)
    assert y[0] == 2**-46
    build(KERNELS, "--fmad=false")["fused"](1, 1, y, a, a * a)
    assert y[0] == 0


@pytest.mark.parametrize(("options", "flushed"), [((), False), (("--ftz=true",), True)])
def test_denormal_numbers(options, flushed):
    x = np.array([2**-126, 2**-130], np.float32)  # the first becomes denormal, the second is
    y = np.zeros(2, np.float32)
    build(KERNELS, *options)["tiny"](1, 1, y, x)
    np.testing.assert_array_equal(y, [0, 0] if flushed else [2**-127, 2**-129])
    build(KERNELS, *options)["tiny"](1, 1, y, x, flush_denormals=not flushed)
    np.testing.assert_array_equal(y, [2**-127, 2**-129] if flushed else [0, 0])
    assert np.float32(2**-126) / np.float32(4) > 0  # the processor is left as it was


def test_signatures(kernels):
    assert kernels["types"].signature == ["b1", "i1", "u2", "i8", "f8", "*ci4", "*u1", "V8", "*cV"]
    assert kernels["types"].parameters == ("b", "c", "s", "l", "d", "p", "q", "v", "w")
    assert kernels["shared_variables"].signature == ["*f4", "*i4", "*cf4"]


def test_parameters_may_be_a_macro():
    kernel = build("""
#define SIZES int rows, \\
    int columns
extern "C" __global__ void fill(float* y, SIZES) { if (threadIdx.x < rows * columns) y[threadIdx.x] = 1; }""")["fill"]
    assert kernel.parameters == ("y", "rows", "columns")
    y = np.zeros(8, np.float32)
    kernel(1, 8, y, 2, 3)
    np.testing.assert_array_equal(y, [1] * 6 + [0] * 2)


def test_the_order_shows_in_a_racy_kernel(kernels):
    def last(order):
        y = np.zeros(1, np.int32)
        kernels["last_one_wins"](4, 64, y, order=order)
        return int(y[0])

    assert last(0) == 363
    assert last(1) == 0
    random = [last(seed) for seed in range(2, 12)]
    assert len(set(random)) > 5
    assert random == [last(seed) for seed in range(2, 12)]  # a seed means an order
    with cuda_emulator.launch_defaults(order=1):
        assert last(None) == 0
    assert last(None) == 363


def test_only_some_blocks(kernels):
    y = np.zeros(8, np.int32)
    kernels["count_blocks"](8, 2, y, only_blocks=[1, 6])
    np.testing.assert_array_equal(y, [0, 2, 0, 0, 0, 0, 2, 0])


def test_more_elements_than_an_int_can_count(kernels):
    """16 GB of memory, of which the blocks that run touch a few pages."""
    count = 2**32 + 1000
    y = cuda_emulator.sparse_zeros(count, np.float32)
    threads = 1024
    blocks = -(-count // threads)
    some = [0, 2**31 // threads, blocks - 1]
    kernels["fill"](blocks, threads, y, count, only_blocks=some)
    for block in some:
        part = slice(block * threads, min((block + 1) * threads, count))
        np.testing.assert_array_equal(y[part], np.arange(part.start, part.stop) % 1000)
    z = cuda_emulator.sparse_zeros(count, np.float32)
    kernels["fill_wrongly"](blocks, threads, z, count, only_blocks=some)
    assert np.array_equal(z[:threads], y[:threads])
    assert not z[-900:].any()


def test_arguments_are_checked(kernels):
    with pytest.raises(TypeError, match="last_one_wins: expected 1 arguments, got 2"):
        kernels["last_one_wins"](1, 1, np.zeros(1, np.int32), 3)
    with pytest.raises(TypeError, match="last_one_wins: y: expected a contiguous array of int32"):
        kernels["last_one_wins"](1, 1, np.zeros(1, np.float32))
    with pytest.raises(TypeError, match="fill: count: expected int64"):
        kernels["fill"](1, 1, np.zeros(1, np.float32), np.int32(1))
    with pytest.raises(TypeError, match="fill: count: expected int64"):
        kernels["fill"](1, 1, np.zeros(1, np.float32), 1.5)
    with pytest.raises(TypeError, match="fill: y: expected a contiguous array"):
        kernels["fill"](1, 1, np.zeros((2, 2), np.float32).T, 1)


def test_the_code_of_the_readme(tmp_path):
    first, second = re.findall(
        r"```python\n(.*?)```", (Path(EXAMPLES) / "cuda_emulator/README.md").read_text(), re.DOTALL
    )
    exec(first, space := {})
    space["kernels"] = build(KERNELS)
    exec(second, space)
    assert space["y"][2**31 + 5] == (2**31 + 5) % 1000


def test_it_runs_on_other_processors_too(tmp_path):
    """With the C library's way to switch stacks, which x86-64 does without."""
    (tmp_path / "kernels.cu").write_text(KERNELS)
    program = """
import numpy, cuda_emulator
y = numpy.zeros((40, 3), numpy.int32)
cuda_emulator.build(open("kernels.cu").read())["block_votes"](3, 40, y, 39, order=2)
assert (y == [39, 0, 0]).all()
"""
    python(program, tmp_path, CXXFLAGS="-DCUDA_EMULATOR_UCONTEXT")


def python(program: str, folder: Path, **environment: str) -> None:
    """Runs a program that must succeed."""
    environment = {**os.environ, "PYTHONPATH": EXAMPLES, **environment}
    command = [sys.executable, "-c", program]
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


# ---- What it finds ---------------------------------------------------------------------------------------------------

MISTAKES = r"""
extern "C" __global__ void two_barriers(int n) {
    if (threadIdx.x < n)
        __syncthreads();
    else
        __syncthreads();
}
extern "C" __global__ void early_exit(int n) {
    if (threadIdx.x >= n) return;
    __syncthreads();
}
extern "C" __global__ void half_a_warp(int n) {
    if (threadIdx.x < n)
        __shfl_down_sync(0xffffffffu, 1, 1);
    __syncthreads();
}
extern "C" __global__ void from_the_ended(int* y, int n) {
    if (threadIdx.x >= n) return;
    y[threadIdx.x] = __shfl_sync(0xffffffffu, 1, 9);
}
extern "C" __global__ void from_the_unnamed(int* y, int n) {
    if (threadIdx.x < n) y[threadIdx.x] = __shfl_down_sync(0x000000ffu, 1, 8);
}
extern "C" __global__ void not_in_its_mask(int n) {
    __syncwarp(threadIdx.x == 3 ? 1u : 0xfffffff7u);
}
extern "C" __global__ void two_masks(int n) {
    __ballot_sync(threadIdx.x < n ? 0x00ffffffu : 0xffffffffu, 1);
}
#define WARPS 2
extern "C" __global__ void __launch_bounds__(32 * (WARPS), 1) bounded(int n) {}
extern "C" __global__ void much_shared_memory(int n) {
    __shared__ char a[40000];
    extern __shared__ char b[];
    a[0] = b[0];
}
"""


@pytest.fixture(scope="module")
def mistakes() -> dict[str, cuda_emulator.Kernel]:
    return build(MISTAKES)


def line_of(text: str, source: str = MISTAKES) -> int:
    assert source.count(text) == 1
    return source[: source.index(text)].count("\n") + 1


@pytest.mark.parametrize("order", ORDERS)
def test_barrier_divergence(mistakes, order):
    line = line_of("two_barriers")
    block = {0: "0", 1: "1"}.get(order, "[01]")
    message = (
        rf"two_barriers: block \({block}, 0, 0\): test.cu:{line + 2}: barrier divergence: "
        rf"thread \(0, 0, 0\) waits here, thread \(5, 0, 0\) at test.cu:{line + 4}"
    )
    with pytest.raises(cuda_emulator.EmulationError, match=message):
        mistakes["two_barriers"](2, 40, 5, order=order)
    mistakes["two_barriers"](2, 40, 40, order=order)  # and the next launch is well again


def test_a_thread_that_ends_before_a_barrier(mistakes):
    line = line_of("early_exit")
    message = (
        rf"early_exit: block \(0, 0, 0\): test.cu:{line + 2}: barrier divergence: 33 threads wait here, first "
        rf"thread \(0, 0, 0\); 7 have ended without it, first thread \(33, 0, 0\)"
    )
    with pytest.raises(cuda_emulator.EmulationError, match=message):
        mistakes["early_exit"](1, 40, 33)


def test_a_warp_that_waits_for_a_thread_at_a_barrier(mistakes):
    line = line_of("half_a_warp")
    message = (
        rf"half_a_warp: block \(0, 0, 0\): test.cu:{line + 2}: thread \(0, 0, 0\) waits in a warp operation with mask "
        rf"0xffffffff for thread \(31, 0, 0\), which waits for its block at test.cu:{line + 3}; 48 threads at a "
        "barrier, 16 in warp operations, 0 ended"
    )
    with pytest.raises(cuda_emulator.EmulationError, match=message):
        mistakes["half_a_warp"](1, 64, 16)
    mistakes["half_a_warp"](1, 64, 32)


def test_shuffles_from_threads_that_take_no_part(mistakes):
    y = np.zeros(32, np.int32)
    reads = r"thread \(0, 0, 0\) reads by shuffle from lane {}, which takes no part"
    with pytest.raises(cuda_emulator.EmulationError, match=f"test.cu:{line_of('1, 9)')}: " + reads.format(9)):
        mistakes["from_the_ended"](1, 32, y, 8)
    mistakes["from_the_ended"](1, 32, y, 10)
    with pytest.raises(cuda_emulator.EmulationError, match=f"test.cu:{line_of('1, 8)')}: " + reads.format(8)):
        mistakes["from_the_unnamed"](1, 32, y, 8)


def test_masks_that_do_not_fit(mistakes):
    message = rf"test.cu:{line_of('not_in_its_mask') + 1}: thread \(3, 0, 0\) is not in its own warp mask 0x00000001"
    with pytest.raises(cuda_emulator.EmulationError, match=message):
        mistakes["not_in_its_mask"](1, 32, 0)
    with pytest.raises(cuda_emulator.EmulationError, match=r"mask 0x\w+ for thread .* in another warp operation"):
        mistakes["two_masks"](1, 32, 16)
    mistakes["two_masks"](1, 24, 24)  # the mask may name threads that the block does not have


def test_launches_that_no_device_takes(mistakes):
    with pytest.raises(cuda_emulator.EmulationError, match=r"49153 bytes of shared memory with a; a block has 49152"):
        mistakes["much_shared_memory"](1, 1, 0, shared=9153)
    mistakes["much_shared_memory"](1, 1, 0, shared=9152)
    with pytest.raises(cuda_emulator.EmulationError, match=r"no block of \(32, 33, 1\) threads; at most 1024"):
        mistakes["two_barriers"](1, (32, 33), 1)
    with pytest.raises(cuda_emulator.EmulationError, match=r"no grid of \(1, 65536, 1\) blocks"):
        mistakes["two_barriers"]((1, 65536), 1, 1)
    with pytest.raises(cuda_emulator.EmulationError, match=r"no grid of \(0, 1, 1\) blocks"):
        mistakes["two_barriers"](0, 1, 1)
    with pytest.raises(cuda_emulator.EmulationError, match=r"no block of \(65, 1, 1\) threads; at most 64"):
        mistakes["bounded"](1, 65, 1)
    mistakes["bounded"](1, 64, 1)
    with pytest.raises(ValueError, match=r"only_blocks: expected blocks of a grid of \(2, 1, 1\), got \[1, 2\]"):
        mistakes["bounded"](2, 64, 1, only_blocks=[1, 2])


def test_lines_of_messages_are_those_of_the_files(mistakes):
    source = '#line 10 "cuda.cuh"\n#define WAIT __syncthreads()\n#line 20 "family/cuda.cu"\n\n' + (
        'extern "C" __global__ void wait(int n) {\n    if (threadIdx.x < n) WAIT;\n}'
    )
    with pytest.raises(cuda_emulator.EmulationError, match=r"wait: .* family/cuda.cu:22: barrier divergence"):
        cuda_emulator.build(source)["wait"](1, 2, 1)
    with pytest.raises(cuda_emulator.CompileError, match=r"family/cuda.cu:22:\d+: error: .*SYNCTHREADS"):
        cuda_emulator.build(source.replace("WAIT;", "__SYNCTHREADS();"))
    for declaration in ("float (*a)[3]", "float a[2], *b"):
        with pytest.raises(ValueError, match=rf"line 22: not understood: __shared__ {declaration[:5]}"):
            translate.translate(source.replace("WAIT;", f"{{ __shared__ {declaration}; }}"))
    with pytest.raises(ValueError, match="line 10: __shared__ outside of a function"):
        translate.translate(source.replace("#define WAIT __syncthreads()", "__shared__ int a;"))
    with pytest.raises(ValueError, match="option '--gpu' is not known"):
        cuda_emulator.build(source, ("--gpu",))


def test_without_a_compiler(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    cuda_emulator.find_compiler.cache_clear()
    try:
        with pytest.raises(cuda_emulator.NoCompilerError, match=r"no C\+\+ compiler: install g\+\+"):
            cuda_emulator.find_compiler()
    finally:
        cuda_emulator.find_compiler.cache_clear()


# ---- What sanitizers find --------------------------------------------------------------------------------------------

WATCHED = r"""
extern "C" __global__ void one_too_many(float* y, const float* x, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i <= n) y[i] = x[i];
}
extern "C" __global__ void beyond_shared(float* y, const float* x, int n) {
    __shared__ float a[32];
    float* p = a + n;
    p[threadIdx.x] = 1;
}
extern "C" __global__ void beyond_dynamic(float* y, const float* x, int n) {
    extern __shared__ float a[];
    a[n] = 1;
}
extern "C" __global__ void too_large_for_int(float* y, const float* x, int n) {
    int offset = n * 70000;
    y[0] = offset;
}
extern "C" __global__ void too_large_to_convert(float* y, const float* x, int n) {
    int rounded = int(n * 1e6f);
    y[0] = rounded;
}
extern "C" __global__ void misaligned(float* y, const float* x, int n) {
    *reinterpret_cast<float4*>(y + n) = make_float4(1, 2, 3, 4);
}
extern "C" __global__ void all_well(float* y, const float* x, int n) {
    __shared__ float a[32];
    a[threadIdx.x] = x[threadIdx.x % n];
    __syncthreads();
    y[threadIdx.x % n] = a[31 - threadIdx.x];
}
"""


def watched(sanitizer: str, source: str, calls: str, folder: Path) -> sanitizers.Outcome:
    """Runs `calls` of kernels `k` on 1 block of 32 threads, in a process of its own."""
    program = f"import cuda_emulator, numpy\nk = cuda_emulator.build({source!r}, name='test.cu')\n{calls}\nprint('end')"
    return sanitizers.run(sanitizer, [sys.executable, "-c", program], PYTHONPATH=EXAMPLES)


@pytest.mark.parametrize(
    ("kernel", "n", "report", "line"),
    [
        ("one_too_many", 10, "heap-buffer-overflow", "y[i] = x[i]"),
        ("beyond_shared", 1, "heap-buffer-overflow", "p[threadIdx.x] = 1"),
        ("beyond_dynamic", 16, "heap-buffer-overflow", "a[n] = 1"),
        ("too_large_for_int", 70000, "signed integer overflow: 70000 * 70000", "n * 70000"),
        ("too_large_to_convert", 70000, "7e+10 is outside the range of representable values of type 'int'", "n * 1e6f"),
        ("misaligned", 1, "misaligned address", "make_float4"),
        ("all_well", 10, "", ""),
    ],
)
def test_address_sanitizer(kernel, n, report, line, tmp_path):
    calls = f"x = numpy.zeros(10, 'f4'); y = numpy.zeros(10, 'f4'); k['{kernel}'](1, 32, y, x, {n}, shared=64)"
    outcome = watched("address", WATCHED, calls, tmp_path)
    if not report:
        assert outcome == (0, "end\n", "")
        return
    assert outcome.returncode != 0
    assert report in outcome.reports
    assert f"test.cu:{line_of(line, WATCHED)}" in outcome.reports


RACES = r"""
extern "C" __global__ void no_barrier(int* y) {
    __shared__ int a[64];
    a[threadIdx.x] = threadIdx.x;
    y[threadIdx.x] = a[63 - threadIdx.x];  // no_barrier
}
extern "C" __global__ void barrier(int* y) {
    __shared__ int a[64];
    a[threadIdx.x] = threadIdx.x;
    __syncthreads();
    y[blockIdx.x * 64 + threadIdx.x] = a[63 - threadIdx.x];  // barrier
}
extern "C" __global__ void barrier_too_early(int* y) {
    __shared__ int a[64];
    for (int round = 0; round < 2; round++) {
        a[threadIdx.x] = threadIdx.x;  // barrier_too_early
        __syncthreads();
        y[threadIdx.x] = a[63 - threadIdx.x];
    }
}
extern "C" __global__ void plain_sum(int* y) {
    if (threadIdx.x == 7) y[0] += 1;  // plain_sum
}
extern "C" __global__ void sum_of_the_last(int* y) {  // two blocks of many, after barriers that order each block
    __syncthreads();
    if (blockIdx.x >= gridDim.x - 2 && threadIdx.x == 7) y[0] += 1;  // sum_of_the_last
    __syncthreads();
}
extern "C" __global__ void atomic_sum(int* y) {
    atomicAdd(&y[0], 1);  // atomic_sum
}
extern "C" __global__ void shuffle_is_no_barrier(int* y) {
    extern __shared__ int a[];
    a[threadIdx.x] = threadIdx.x;
    int other = __shfl_xor_sync(0xffffffffu, threadIdx.x, 1);
    y[threadIdx.x] = a[other];  // shuffle_is_no_barrier
}
extern "C" __global__ void warp_barrier(int* y) {
    extern __shared__ int a[];
    a[threadIdx.x] = threadIdx.x;
    __syncwarp();
    y[threadIdx.x % 32] = a[threadIdx.x ^ 1];  // warp_barrier
}
extern "C" __global__ void warp_barrier_for_another_warp(int* y) {
    extern __shared__ int a[];
    a[threadIdx.x] = threadIdx.x;
    __syncwarp();
    y[threadIdx.x] = a[threadIdx.x ^ 32];  // warp_barrier_for_another_warp
}
"""


@pytest.mark.parametrize(
    ("kernel", "grid", "threads", "races"),
    [
        ("no_barrier", 1, 64, True),
        ("barrier", 4, 64, False),
        ("barrier_too_early", 1, 64, True),
        ("plain_sum", 1, 64, False),
        ("plain_sum", 2, 64, True),
        ("sum_of_the_last", 50, 256, True),
        ("atomic_sum", 4, 64, False),
        ("shuffle_is_no_barrier", 1, 32, True),
        ("warp_barrier", 1, 32, False),
        ("warp_barrier_for_another_warp", 1, 64, True),
    ],
)
def test_thread_sanitizer(kernel, grid, threads, races, tmp_path):
    calls = f"y = numpy.zeros(256, 'i4'); k['{kernel}']({grid}, {threads}, y, shared=256)"
    outcome = watched("thread", RACES, calls, tmp_path)
    assert outcome.output == "end\n"
    if not races:
        assert outcome == (0, "end\n", "")
        return
    assert outcome.returncode == 66
    assert "data race" in outcome.reports
    assert f"{kernel} //test.cu:{line_of('// ' + kernel + chr(10), RACES)}" in outcome.reports
    assert re.search(r"'block \(\d+, 0, 0\) thread \(\d+, 0, 0\)'", outcome.reports)


def test_sanitizers_need_a_process_of_their_own(kernels):
    with pytest.raises(RuntimeError, match="python -m cuda_emulator address"):
        build(KERNELS, sanitizer="address")
    with pytest.raises(ValueError, match=r"sanitizer: expected one of \('address', 'thread', 'trace'\), got 'memory'"):
        build(KERNELS, sanitizer="memory")


def test_the_command_line(tmp_path):
    (tmp_path / "program.py").write_text(
        f"import cuda_emulator, numpy\nk = cuda_emulator.build({RACES!r})\n"
        "import sys; k[sys.argv[1]](2, 64, numpy.zeros(256, 'i4'))"
    )

    def run(kernel):
        command = [sys.executable, "-m", "cuda_emulator", "thread", sys.executable, "program.py", kernel]
        environment = {**os.environ, "PYTHONPATH": EXAMPLES}
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    well = run("barrier")
    assert (well.returncode, well.stderr) == (0, "nothing to report\n")
    racy = run("plain_sum")
    assert racy.returncode == 66
    assert "data race" in racy.stderr


# ---- Traces ----------------------------------------------------------------------------------------------------------

TRACED = r"""
__device__ float twice(const float* p) {
    return 2 * *p;  // twice
}
extern "C" __global__ void steps(float* y, const float* x, int* count, const float4* v) {
    __shared__ float tile[2][4];
    int t = threadIdx.x;
    tile[t / 4][t % 4] = twice(x + 8 * blockIdx.x + t);  // write tile
    __syncthreads();
    float sum = tile[1][3 - t % 4] + __shfl_xor_sync(0xffu, float(t), 1);  // sum
    y[8 * blockIdx.x + t] = sum;
    if (t % 2) y[8 * blockIdx.x + t] = -y[8 * blockIdx.x + t];
    atomicAdd(count, 1);
    float4 four = *v;
    if (__ballot_sync(0xffu, four.y > 0)) __syncwarp(0xffu);
}
"""


@pytest.mark.parametrize("order", ORDERS)
def test_a_trace_says_what_a_thread_reads_and_writes(order):
    kernel = build(TRACED, sanitizer="trace")["steps"]
    x, y = np.arange(24, dtype=np.float32).reshape(3, 2, 4), np.zeros((3, 8), np.float32)
    count, v = np.zeros(1, np.int32), np.arange(4, dtype=np.float32)
    steps = trace(kernel, 3, 8, y, x, count, v, at_block=1, at_thread=5, order=order)
    kinds = ["read", "write", "block barrier", "read", "shuffle", "write", "read", "write", "read", "write", "read"]
    assert [step.kind for step in steps] == [*kinds, "vote", "warp barrier"]
    first, second, third, fourth = steps[0], steps[1], steps[3], steps[4]
    line = {text: line_of(text, TRACED) for text in ("// twice", "// write tile", "// sum")}
    assert first.places == (("test.cu", line["// twice"]), ("test.cu", line["// write tile"]))
    assert first[2:6] == ("x", False, (1, 1, 1), 13.0)
    assert second.places == (("test.cu", line["// write tile"]),)
    assert second[2:6] == ("tile", True, (1, 1), 26.0)
    assert third.places == (("test.cu", line["// sum"]),)
    assert third[2:6] == ("tile", True, (1, 2), 28.0)
    assert (fourth.kind, fourth.value, fourth.lane) == ("shuffle", 4.0, 4)
    assert steps[5][2:6] == ("y", False, (1, 5), 32.0)
    assert steps[7][2:6] == ("y", False, (1, 5), -32.0)
    before, after = steps[8], steps[9]
    assert before.variable == after.variable == "count"
    assert after.value == before.value + 1
    assert before.places == (("test.cu", line_of("atomicAdd", TRACED)),)  # not a line of the emulator's
    assert steps[10][2:6] == ("v", False, (0,), (0.0, 1.0, 2.0, 3.0))
    assert steps[11].value == 255


# ---- examples/step_through_a_kernel.py -------------------------------------------------------------------------------


def test_stepping_through_the_spatial_transformer(capsys):
    assert step_through_a_kernel.main([]) == 0
    output = capsys.readouterr().out
    assert output.startswith("spatial_transform_forward: block 0 of 1, thread 1 of 256\n")
    for line in (
        "      reads  x_t[1] = -0.4\n",  # the second of five pixels; the first of three rows
        "      reads  y_t[0] = -0.6666667\n",
        "      reads  U[0, 0, 0, 1] = 0.01\n      reads  U[0, 0, 1, 0] = 0.1\n",
    ):
        assert line in output
    # x = 0.8 x_t + 0.6 y_t = -0.72 is pixel column 0.2, y = -0.6 x_t + 0.8 y_t = -0.2933 row 0.9133
    assert "      writes V[0, 0, 0, 1] = 0.09333333\n" in output


@pytest.mark.parametrize("family", step_through_a_kernel.FAMILIES)
def test_stepping_through_every_family(family, capsys):
    assert step_through_a_kernel.main(["--family", family, "--thread", "0", "--order", "1"]) == 0
    *_, last = capsys.readouterr().out.strip().splitlines()
    for kernel in last.split(": ")[1].split(", ")[1:]:
        assert step_through_a_kernel.main(["--family", family, "--kernel", kernel, "--thread", "0"]) == 0
        output = capsys.readouterr().out
        assert output.startswith(f"{kernel}: block 0")
        assert "      reads " in output
        assert "      writes " in output
    assert step_through_a_kernel.main(["--family", family, "--kernel", "no_such"]) == 1
    assert "there is no no_such among them" in capsys.readouterr().err


def test_stepping_without_a_compiler(monkeypatch, capsys):
    def no_compiler(*arguments):
        raise cuda_emulator.NoCompilerError("no C++ compiler: install g++")

    monkeypatch.setattr(step_through_a_kernel, "build", no_compiler)
    assert step_through_a_kernel.main([]) == 1
    assert capsys.readouterr().err == "no C++ compiler: install g++\n"
