"""The register tiles: what each intrinsic computes, here and on lesser processors."""

import platform

import numpy as np
import pytest
from numba import njit

from ministn.kernels import simd
from ministn.kernels.simd import Size

DTYPES = [np.float32, np.float64]
THREE, FOUR, SIX, EIGHT, SIXTEEN = Size(3), Size(4), Size(6), Size(8), Size(16)


def numbers(size, dtype, seed=0):
    """Small integers: sums and products of them are exact, whatever the order."""
    return np.random.default_rng(seed).integers(-9, 10, size).astype(dtype)


@njit
def stored(tile, rows, lanes, a):
    y = np.zeros((len(rows), len(lanes)), a.dtype)
    simd.store(tile, len(rows), 0, y, 0, len(lanes))
    return y


@pytest.mark.parametrize("dtype", DTYPES)
def test_making_tiles(dtype):
    @njit
    def run(rows, lanes, a, offsets):
        return (
            stored(simd.zeros(rows, lanes, a), rows, lanes, a),
            stored(simd.broadcast(rows, lanes, a, 5), rows, lanes, a),
            stored(simd.load_at(rows, lanes, a, 2, offsets, 1), rows, lanes, a),
            stored(simd.keep_from(simd.load_at(rows, lanes, a, 2, offsets, 1), 5), rows, lanes, a),
            stored(simd.keep_from(simd.load_at(rows, lanes, a, 2, offsets, 1), 0), rows, lanes, a),
            stored(simd.load_rows(rows, lanes, a, 2, 11), rows, lanes, a),
        )

    a, offsets = numbers(64, dtype), np.array([-1, 7, 0, 19])
    zeros, broadcast, loaded, kept, all_kept, spaced = run(THREE, EIGHT, a, offsets)
    expected = np.array([a[9:17], a[2:10], a[21:29]])
    np.testing.assert_array_equal(zeros, np.zeros((3, 8)))
    np.testing.assert_array_equal(broadcast, np.repeat(a[5:8, None], 8, axis=1))
    np.testing.assert_array_equal(loaded, expected)
    np.testing.assert_array_equal(kept, np.where(np.arange(8) >= 5, expected, 0))
    np.testing.assert_array_equal(all_kept, expected)
    np.testing.assert_array_equal(spaced, [a[2:10], a[13:21], a[24:32]])
    assert zeros.dtype == loaded.dtype == dtype


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [FOUR, EIGHT, SIXTEEN], ids=len)
def test_transposed(dtype, size):
    @njit
    def run(size, a):
        return stored(simd.transposed(simd.load_rows(size, size, a, 0, len(size))), size, size, a)

    a = np.arange(len(size) ** 2).astype(dtype)
    np.testing.assert_array_equal(run(size, a), a.reshape(len(size), -1).T)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [Size(1), Size(2), FOUR], ids=len)
def test_runs(dtype, rows):
    """Neighbours from places in any order, some of them equal, and back to places that overlap."""

    @njit
    def run(rows, a, offsets, sums):
        tile = simd.load_runs(rows, SIXTEEN, a, 3, offsets, 1)
        simd.add_runs(tile, sums, offsets, 1)
        return (
            stored(tile, rows, SIXTEEN, a),
            stored(simd.multiply(tile, simd.load(SIXTEEN, a, 7)), rows, SIXTEEN, a),
            stored(simd.dot(tile, tile), rows, SIXTEEN, a)[0],
        )

    a, offsets = numbers(64, dtype), np.random.default_rng(1).integers(0, 57, 17).astype(np.int32)
    sums = numbers(4 * 64, dtype, seed=2)
    expected, expected_sums = np.array([a[offsets[1:] + 3 + r] for r in range(len(rows))]), sums.copy()
    for lane, place in enumerate(offsets[1:]):
        expected_sums[len(rows) * place :][: len(rows)] += expected[:, lane]
    tile, product, squares = run(rows, a, offsets, sums)
    np.testing.assert_array_equal(tile, expected)
    np.testing.assert_array_equal(product, expected * a[7:23])
    np.testing.assert_array_equal(squares, (expected**2).sum(0))
    np.testing.assert_array_equal(sums, expected_sums)


@pytest.mark.parametrize("dtype", DTYPES)
def test_register_size(dtype):
    @njit
    def run(a):
        return len(simd.register_size(a))

    assert run(numbers(1, dtype)) * np.dtype(dtype).itemsize == simd.register_shape()[0]


@pytest.mark.parametrize("dtype", DTYPES)
def test_load_pairs(dtype):
    """Neighbours from places in any order, some of them equal; the size of the vectors is a global name."""

    @njit
    def run(a, offsets):
        y = np.zeros((2, len(SIXTEEN)), a.dtype)
        simd.store(simd.load_pairs(SIXTEEN, a, 3, offsets, 1), 2, 0, y, 0, len(SIXTEEN))
        return y

    a, offsets = numbers(64, dtype), np.random.default_rng(1).integers(-3, 60, 17).astype(np.int32)
    np.testing.assert_array_equal(run(a, offsets), [a[offsets[1:] + 3], a[offsets[1:] + 4]])


@pytest.mark.parametrize("dtype", DTYPES)
def test_adding_to_tiles(dtype):
    @njit
    def run(three, four, twelve, lanes, a, w, offsets):
        outer = simd.add_outer(simd.broadcast(three, lanes, a, 0), w, 2, simd.load(lanes, a, 10))
        p, q = simd.load_at(three, lanes, a, 0, offsets, 0), simd.load_at(four, lanes, a, 1, offsets, 0)
        products = simd.add_products(simd.broadcast(twelve, lanes, w, 0), p, q)
        return (
            stored(outer, three, lanes, a),
            stored(products, twelve, lanes, a),
            stored(simd.add(p, p), three, lanes, a),
        )

    a, w, offsets = numbers(64, dtype), numbers(12, dtype, seed=1), np.array([3, 11, 0, 40])
    outer, products, doubled = run(THREE, FOUR, Size(12), EIGHT, a, w, offsets)
    np.testing.assert_array_equal(outer, a[:3, None] + np.outer(w[2:5], a[10:18]))
    p, q = (np.array([a[i + o :][:8] for o in offsets[:rows]]) for i, rows in ((0, 3), (1, 4)))
    np.testing.assert_array_equal(products, w[:, None] + (p[:, None] * q[None]).reshape(12, 8))
    np.testing.assert_array_equal(doubled, 2 * p)


@pytest.mark.parametrize("dtype", DTYPES)
def test_add_outer_at(dtype):
    @njit
    def run(lanes, a, w, offsets):
        tile = simd.add_outer_at(simd.broadcast(THREE, lanes, a, 0), w, 2, offsets, 1, simd.load(lanes, a, 10))
        return stored(tile, THREE, lanes, a)

    a, w, offsets = numbers(64, dtype), numbers(40, dtype, seed=1), np.array([9, 11, 0, 30])
    np.testing.assert_array_equal(run(EIGHT, a, w, offsets), a[:3, None] + np.outer(w[2 + offsets[1:]], a[10:18]))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("count", [-2, 0, 2, 3, 9])
@pytest.mark.parametrize("lane", [-1, 0, 1, 7, 8])
def test_tiles_to_memory(dtype, count, lane):
    a, offsets = numbers(64, dtype), np.array([3, 5, 4])  # rows of `added` that overlap
    stored, added, sums = numbers(64, dtype, seed=1), numbers(64, dtype, seed=2), numbers(5, dtype, seed=3)
    expected_stored, expected_added, expected_sums = stored.copy(), added.copy(), sums.copy()
    for r, offset in enumerate(offsets):
        row = a[offset : offset + 8]
        expected_sums[1 + r] += row.sum()
        if r < count:
            expected_stored[1 + 10 * r :][:8][max(lane, 0) :] = row[max(lane, 0) :]
            expected_added[2 + offset :][:8] += row
    to_memory(THREE, EIGHT, a, offsets, count, lane, stored, added, sums)
    np.testing.assert_array_equal(stored, expected_stored)
    np.testing.assert_array_equal(added, expected_added)
    np.testing.assert_array_equal(sums, expected_sums)


@njit
def to_memory(rows, lanes, a, offsets, count, lane, stored, added, sums):
    tile = simd.load_at(rows, lanes, a, 0, offsets, 0)
    simd.store(tile, count, lane, stored, 1, 10)
    simd.add_at(tile, count, added, 2, offsets, 0)
    simd.add_row_sums(tile, sums, 1)


@pytest.mark.parametrize("dtype", DTYPES)
def test_keep_positive(dtype):
    @njit
    def run(lanes, a, b, offsets):
        p, q = simd.load_at(THREE, lanes, a, 0, offsets, 0), simd.load_at(THREE, lanes, b, 0, offsets, 0)
        return stored(simd.keep_positive(p, q), THREE, lanes, a)

    a, b, offsets = numbers(64, dtype), numbers(64, dtype, seed=1), np.array([3, 11, 40])
    b[5] = np.nan
    p, q = (np.array([array[o : o + 8] for o in offsets]) for array in (a, b))
    np.testing.assert_array_equal(run(EIGHT, a, b, offsets), np.where(q > 0, p, 0))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("integers", [np.uint8, np.uint32])
def test_the_larger_and_who_it_was(dtype, integers):
    """NaN wins against all, an equal number against none; who has won is kept as a whole number."""

    @njit
    def run(lanes, a, b, value, winner, chosen, who):
        largest, number = simd.load(lanes, a, 1), simd.filled(lanes, a, 7)
        largest, number = simd.keep_larger(largest, number, simd.load(lanes, b, 2), 200)
        simd.store(largest, 1, 0, value, 0, 0)
        simd.store_integers(number, winner, 3)
        simd.store(simd.keep_where(simd.load(lanes, a, 1), winner, 3, who), 1, 0, chosen, 0, 0)

    a, b = numbers(9, dtype), numbers(10, dtype, seed=1)
    a[3], b[2], b[5] = np.nan, np.nan, a[4]
    value, winner, chosen = np.zeros(8, dtype), np.zeros(12, integers), np.zeros(8, dtype)
    run(EIGHT, a, b, value, winner, chosen, 200)
    wins = (b[2:] > a[1:]) | np.isnan(b[2:])
    assert wins.any()
    assert not wins.all()
    np.testing.assert_array_equal(value, np.where(wins, b[2:], a[1:]))
    np.testing.assert_array_equal(winner, [0, 0, 0, *np.where(wins, 200, 7), 0])
    np.testing.assert_array_equal(chosen, np.where(wins, a[1:], 0))


def test_nan_and_infinity_stay_in_their_lane():
    @njit
    def run(rows, lanes, a, w):
        return stored(simd.add_outer(simd.zeros(rows, lanes, a), w, 0, simd.load(lanes, a, 0)), rows, lanes, a)

    a, w = np.arange(8, dtype=np.float32), np.array([1, 0, -2], np.float32)
    a[[2, 5]] = np.nan, np.inf
    with np.errstate(invalid="ignore"):
        np.testing.assert_array_equal(run(THREE, EIGHT, a, w), np.outer(w, a))


def test_a_size_is_a_constant():
    @njit
    def run(size):
        return np.empty((len(size), 2)).shape

    assert run(SIX) == (6, 2)
    assert len(SIX) == 6
    assert [signature[0].value for signature in run.signatures] == [6]  # compiled for this value


# --- other processors, each in a process of its own -------------------------------------------------------------------

AGREE = """
import numpy as np
from ministn.kernels.conv2d import cpu, reference
from ministn.kernels.linear import cpu as dense, reference as products
from ministn.kernels.simd import register_shape

draw = np.random.default_rng(0).standard_normal
for dtype in (np.float32, np.float64):
    x, weight, bias = draw((5, 3, 9, 8)).astype(dtype), draw((7, 3, 3, 2)).astype(dtype), draw(7).astype(dtype)
    geometry = (2, 1), (1, 2), (1, 2)
    y, expected = (kernels.forward(x, weight, bias, *geometry) for kernels in (cpu, reference))
    bound = 4 * np.finfo(dtype).eps * max(y[:, 0].size, weight.size)  # eps of each term
    np.testing.assert_allclose(y, expected, rtol=0, atol=bound)
    g = draw(y.shape).astype(dtype)
    pairs = [*zip(*(kernels.backward(g, x, weight, *geometry) for kernels in (cpu, reference)))]
    x, weight, bias, g = (draw(s).astype(dtype) for s in ((101, 37), (83, 101), (83,), (37, 83)))
    both = [(kernels.forward(x.T, weight, bias), *kernels.backward(g, x.T, weight)) for kernels in (dense, products)]
    pairs += zip(*both)
    bound = max(bound, 4 * np.finfo(dtype).eps * 101 * 9)  # normally distributed numbers are below 3, products below 9
    for ours, theirs in pairs:
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=bound)
print(register_shape())
"""


SAMPLES_AGREE = """
import numpy as np
from ministn.kernels.grid_sample import cpu, reference
from ministn.kernels.simd import register_shape

random = np.random.default_rng(0)
for dtype in (np.float32, np.float64):
    x, g = random.standard_normal((3, 2, 9, 8)).astype(dtype), random.standard_normal((3, 2, 7, 6)).astype(dtype)
    grid = random.uniform(-1.3, 1.3, (3, 7, 6, 2)).astype(dtype)
    for options in (("nearest", "zeros"), ("bilinear", "zeros"), ("bicubic", "border"), ("bicubic", "reflection")):
        ours, theirs = (
            (kernels.forward(x, grid, *options, False), *kernels.backward(g, x, grid, *options, False))
            for kernels in (cpu, reference)
        )
        for got, expected in zip(ours, theirs):
            np.testing.assert_allclose(got, expected, rtol=0, atol=400 * np.finfo(dtype).eps)
print(register_shape())
"""


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="names of x86 processors")
@pytest.mark.parametrize(
    ("processor", "features", "registers"),
    [
        ("x86-64-v3", "+avx,+avx2,+fma", "(32, 16)"),
        pytest.param("x86-64", "+sse2", "(16, 16)", marks=pytest.mark.slow),
    ],
    ids=["AVX2", "without AVX"],
)
@pytest.mark.parametrize("code", [AGREE, SAMPLES_AGREE], ids=["convolution", "sampling"])
def test_lesser_processors(code, processor, features, registers, run_python):
    """The compiler is told that the processor can do no more; the tiles follow."""
    target = {"NUMBA_CPU_NAME": processor, "NUMBA_CPU_FEATURES": features}
    assert run_python(code, **target) == registers
