"""What the emulator computes, the PTX that NVIDIA's compiler emits computes: for every kernel, on the same inputs.

One runs what g++ makes of a cuda.cu, one thread after another; the other what NVRTC makes of it, thousands at a time.
"""

from __future__ import annotations

import cases
import numpy as np
import nvrtc
import ptx
import ptx_beside
import pytest
from implementations import kernels, real_cupy
from kernel_resources import block_size
from ptx_beside import Launch

from ministn.kernels import _cuda

pytestmark = pytest.mark.skipif(nvrtc.missing() is not None, reason=str(nvrtc.missing()))

# The kernels of which not every bit is the same, and why. All others agree bit for bit.
_ORDER = "atomicAdd adds up in the order of the threads, which differs"
_FUSED = "the compilers fuse other products with other sums"
_FUNCTIONS = "exp and log are NVIDIA's here, and the C library's there"
ROUNDED = {
    "grid_sample_backward_input_bilinear": _ORDER,
    "grid_sample_backward_input_nearest": _ORDER,
    "grid_sample_backward_input_bicubic": _ORDER,
    "grid_sample_forward_bicubic": _FUSED,
    "grid_sample_backward_grid_bicubic": _FUSED,
    "grid_sample_list_taps_bicubic": _FUSED,
    "projective_grid_backward": _FUSED,
    "spatial_transform_backward_input": _ORDER,
    "standardise_backward": _FUSED,
    "log_softmax": _FUNCTIONS,
    "log_softmax_gradient": _FUNCTIONS,
}
# What they may differ by, in units of the last place of the largest number in the result. A result is a sum of a few
# terms no larger than that, each rounded a few times; 8 is the most that was seen.
ROUNDINGS = 16


def check(launch: Launch, exact: bool) -> None:
    """AssertionError unless both computed the same: every bit, or up to rounding."""
    for place, (got, wanted) in enumerate(zip(launch.results_of_ptx, launch.results, strict=True)):
        where = f"{launch.kernel}, {launch.dtype}, array {place}: the PTX computes something else"
        if exact or got.dtype.kind != "f":
            np.testing.assert_array_equal(got, wanted, err_msg=f"{where}; if that is rounding, say why in ROUNDED")
        else:
            scale = float(np.nanmax(np.abs(wanted), initial=0))
            tolerance = ROUNDINGS * np.finfo(got.dtype).eps * scale
            np.testing.assert_allclose(got, wanted, rtol=0, atol=tolerance, err_msg=where)


def run(package: str, dtype: type, arch: str, implementation: str = "cuda", **how: object) -> list[Launch]:
    if arch not in nvrtc.architectures():
        pytest.skip(f"NVRTC {nvrtc.version()} does not know sm_{arch}")
    with kernels(implementation), ptx_beside.ptx_beside(arch, **how) as launches:
        cases.results(package, dtype)
    return launches


PACKAGES = [package for package in nvrtc.packages() if package in cases.CASES]


def test_every_family_has_a_case() -> None:
    assert nvrtc.packages() == PACKAGES


# NVRTC 13 has two code generators: one for compute capabilities below 10.0, another for later ones.
@pytest.mark.parametrize(("arch", "dtype"), [("75", np.float32), ("75", np.float64), ("120", np.float32)])
@pytest.mark.parametrize("package", PACKAGES)
def test_ptx_computes_what_the_emulator_computes(package: str, dtype: type, arch: str) -> None:
    launches = run(package, dtype, arch)
    for launch in launches:
        check(launch, exact=launch.kernel not in ROUNDED)
    code, _ = nvrtc.compile(_cuda.source(package), _cuda.options(dtype), arch, "ptx")
    assert {launch.kernel for launch in launches} == set(ptx_beside.kernels(package, np.dtype(dtype), arch))
    for launch in launches:
        most = block_size(code, launch.kernel)
        assert launch.threads <= most, f"{launch.kernel}: kernel_resources.py takes {most}: give it __launch_bounds__"


@pytest.mark.slow
@pytest.mark.parametrize(("arch", "order"), [("80", 0), ("90", 1), ("120", 7)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("package", PACKAGES)
def test_ptx_in_other_orders_of_threads(package: str, dtype: type, arch: str, order: int) -> None:
    """Each warp goes on as far as it can before the next one: what a missing barrier would show in."""
    for launch in run(package, dtype, arch, order=order, warps_together=False):
        check(launch, exact=launch.kernel not in ROUNDED)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("package", PACKAGES)
def test_ptx_computes_what_a_gpu_computes(package: str, dtype: type) -> None:
    device = int(real_cupy().cuda.Device().compute_capability)
    arch = max((arch for arch in nvrtc.architectures() if int(arch) <= device), key=int)
    for launch in run(package, dtype, arch, "gpu"):
        check(launch, exact=False)  # a GPU adds up atomically in any order, and approximates as it likes


def test_a_changed_instruction_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """What proves that the comparison compares."""
    package = "ministn.kernels.affine_grid"

    def changed(*key: object) -> dict[str, ptx.Kernel]:
        code, _ = nvrtc.compile(_cuda.source(package), _cuda.options("float32"), "75", "ptx")
        return ptx.parse(code.replace(b"fma.rn.ftz.f32", b"fma.rz.ftz.f32"))

    monkeypatch.setattr(ptx_beside, "kernels", changed)
    wrong = run(package, np.float32, "75")
    with pytest.raises(AssertionError, match=r"affine_grid_forward, .* the PTX computes something else"):
        check(wrong[0], exact=True)


# --- what the compiler may emit, beside what our kernels need ---------------------------------------------------------

ALL_SORTS = """
extern "C" __global__ void __launch_bounds__(64) all_sorts(int* output, const int* input, int count) {
    extern __shared__ int room[];
    int i = blockIdx.x * blockDim.x + threadIdx.x, value = i < count ? input[i] : -1;
    room[threadIdx.x] = value;
    int positive = __syncthreads_count(value > 0);
    unsigned even = __ballot_sync(0xffffffffu, value % 2 == 0);
    if (value > 0) output[1 + count + atomicAdd(output, 1)] = i;
    int of_thread[7];
    for (int k = 0; k < 7; k++) of_thread[(k * 3 + threadIdx.x) % 7] = k * value;
    int result = of_thread[value & 3] + room[blockDim.x - 1 - threadIdx.x] + __popc(even);
    switch (value & 7) {
        case 0: result += 11; break;
        case 1: result *= 3; break;
        case 2: result = __clz(result) + __brev(value); break;
        case 3: result ^= value << 3; break;
        case 4: result = (unsigned)result / 10u + result % 13; break;
        default: result = abs(result) + positive;
    }
    if (i < count) output[1 + i] = result;
}
"""


def all_sorts(values: list[int], threads: int) -> list[int]:
    """The results in Python, without the list of positive values behind them."""
    wrap = lambda number: (number + 2**31) % 2**32 - 2**31  # noqa: E731
    output = []
    padded = values + [-1] * (-len(values) % threads)
    for i, value in enumerate(values):
        block = padded[i // threads * threads :][:threads]
        warp = block[i % threads // 32 * 32 :][:32]
        of_thread = [0] * 7
        for k in range(7):
            of_thread[(k * 3 + i % threads) % 7] = k * value
        result = of_thread[value & 3] + block[threads - 1 - i % threads] + sum(v % 2 == 0 for v in warp)
        match value & 7:
            case 0:
                result += 11
            case 1:
                result *= 3
            case 2:
                leading = 32 - (result % 2**32).bit_length()
                result = leading + int(f"{value % 2**32:032b}"[::-1], 2)
            case 3:
                result ^= value << 3
            case 4:
                result = (result % 2**32) // 10 + (abs(result) % 13) * (1 if result >= 0 else -1)
            case _:
                result = abs(result) + sum(v > 0 for v in block)
        output.append(wrap(result))
    return output


@pytest.mark.parametrize("arch", nvrtc.ARCHITECTURES)
def test_what_else_the_compiler_emits(arch: str) -> None:
    if arch not in nvrtc.architectures():
        pytest.skip(f"NVRTC {nvrtc.version()} does not know sm_{arch}")
    code, _ = nvrtc.compile(ALL_SORTS, (), arch, "ptx")
    values = np.random.default_rng(0).integers(-1000, 1000, 150).astype(np.int32)
    output = np.zeros(301, np.int32)
    ptx.launch(ptx.parse(code)["all_sorts"], (3,), (64,), [output, values, np.int32(150)], shared=4 * 64)
    count, results, positive = output[0], output[1:151], output[151:]
    assert results.tolist() == all_sorts(values.tolist(), 64)
    assert sorted(positive[:count]) == np.flatnonzero(values > 0).tolist()
    assert not positive[count:].any()
